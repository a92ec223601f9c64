"""Errors and warnings of the package; each says in one sentence what was found and what is allowed."""

from __future__ import annotations

import warnings
from typing import Any

with warnings.catch_warnings():
    # statsmodels sets filters when it is first imported; those of the user must stay in front of them
    before = list(warnings.filters)
    from statsmodels.tools import sm_exceptions

    _LATE_FILTERS = [entry for entry in warnings.filters if entry not in before]
    del before


def _pattern(text: Any) -> str:
    return getattr(text, "pattern", text or "")


for _action, _message, _category, _module, _line in _LATE_FILTERS:
    # with their messages: what numpy ignores is one sentence, not every warning
    warnings.filterwarnings(
        _action,  # type: ignore[arg-type]
        message=_pattern(_message),
        category=_category,  # type: ignore[arg-type]
        module=_pattern(_module),
        lineno=_line,
        append=True,
    )

__all__ = [
    "ConvergenceWarning",
    "DataError",
    "DataWarning",
    "FormulaError",
    "IdentificationWarning",
    "MissingDataError",
    "NewLevelError",
    "NoRowsError",
    "NotAvailableError",
    "OptionError",
    "PriorWarning",
    "ProblemTooLargeError",
    "RandomEffectsError",
    "RankWarning",
    "ScanError",
    "SeparationWarning",
    "SingularFitWarning",
    "UnknownColumnError",
    "UnknownOptionError",
]


_LONGEST = 800  # characters of a message; what users typed may be longer


def sentence(message: str) -> str:
    """A message of bearable length: the middle is left out where it repeats very long input."""
    if len(message) <= _LONGEST:
        return message
    half = _LONGEST // 2
    return f"{message[:half]} ... {message[-half:]}"


class _Sentence(Exception):
    """An error whose message stays readable whatever the user typed."""

    def __init__(self, *args: object):
        if args and isinstance(args[0], str):
            args = (sentence(args[0]), *args[1:])
        super().__init__(*args)


class FormulaError(_Sentence, ValueError):
    """The formula text is not in the grammar, or one of its expressions cannot be evaluated."""


class UnknownColumnError(FormulaError, KeyError):
    """A name is neither a column of the data nor a variable of the caller."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class DataError(_Sentence, ValueError):
    """The data do not fit the model: wrong type, wrong length, infinite or out of range."""


class MissingDataError(DataError, sm_exceptions.MissingDataError):
    """Values are missing where they may not be, or nothing is left once incomplete rows are dropped."""


class NewLevelError(DataError):
    """New data hold a level that the model has not seen.

    Attributes
    ----------
    found : tuple of str or None
        What holds the level, and the level.
    """

    found: tuple[str, str] | None = None

    @classmethod
    def of(cls, message: str, where: str, level: str) -> NewLevelError:
        """The error for a level of a factor."""
        error = cls(message)
        error.found = where, level
        return error


class NoRowsError(DataError):
    """A fit holds no rows of its data, and the question needs them."""


class ProblemTooLargeError(DataError, MemoryError):
    """The problem does not fit in memory, or no elimination of its random effects is affordable; the message has its
    size.
    """


class RandomEffectsError(DataError):
    """The random effects cannot be identified from the data."""


class OptionError(_Sentence, ValueError):
    """An option has a value that is not allowed, or does not go with another one."""


class UnknownOptionError(OptionError, TypeError):
    """An option does not exist; the message has the nearest one that does."""


class NotAvailableError(OptionError, NotImplementedError):
    """An option exists in statsmodels, but not for these models."""


class ScanError(RuntimeError):
    """A scan could not go on, or what it has stored cannot be read; what arrived before is kept."""


class ConvergenceWarning(sm_exceptions.ConvergenceWarning):
    """The optimiser stopped before its stationarity test was met."""


class SingularFitWarning(sm_exceptions.ModelWarning):
    """The estimate lies on the boundary: some variance is zero or some correlation is one."""


class IdentificationWarning(SingularFitWarning):
    """The data do not determine some variances; along such directions there is no standard error."""


class RankWarning(sm_exceptions.CollinearityWarning):
    """Columns of the fixed-effects design were dropped because earlier columns determine them."""


class SeparationWarning(sm_exceptions.ModelWarning):
    """Estimates run to infinity: separated responses, or a variance that the data do not bound."""


class PriorWarning(sm_exceptions.SpecificationWarning):
    """A prior was ignored or overridden by another one."""


class DataWarning(sm_exceptions.SpecificationWarning):
    """The data are unusual for the model, for example non-integer binomial counts."""
