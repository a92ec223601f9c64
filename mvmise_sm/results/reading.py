"""Hypotheses and terms as statsmodels and patsy read them; what they cannot read becomes one sentence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from mvmise_sm.exceptions import DataError, FormulaError, OptionError
from mvmise_sm.option_values import short

__all__ = ["patsy_language", "readable", "understood"]

_OURS = (DataError, FormulaError, OptionError)
# what statsmodels and numpy raise where an array has another shape or kind than they need
_UNREADABLE = (ValueError, TypeError, IndexError, KeyError, np.linalg.LinAlgError)


@contextmanager
def patsy_language() -> Iterator[None]:
    """Let statsmodels read hypotheses and terms with patsy, the language of the formulas, whatever its option says."""
    from statsmodels.formula import options

    engine = options.formula_engine
    if engine == "patsy":
        yield
        return
    options.formula_engine = "patsy"
    try:
        yield
    finally:
        options.formula_engine = engine


@contextmanager
def readable(hypothesis: Any, names: Sequence[str]) -> Iterator[None]:
    """Read a hypothesis with patsy; what it or statsmodels cannot read becomes one sentence."""
    from patsy import PatsyError

    try:
        with patsy_language():
            yield
    except PatsyError as error:
        raise FormulaError(
            f"hypothesis {short(hypothesis)}: {error.message}; write equations in the fixed effects {list(names)}"
        ) from None
    except _UNREADABLE as error:
        if isinstance(error, _OURS):
            raise
        raise OptionError(
            f"r_matrix must hold finite numbers, {len(names)} in each row, or equations in the fixed effects "
            f"{list(names)}, got {short(hypothesis)}: {error}"
        ) from None


@contextmanager
def understood(what: str) -> Iterator[None]:
    """Let statsmodels read `what` (options as a text); what it cannot read becomes one sentence."""
    try:
        with patsy_language():
            yield
    except _UNREADABLE as error:
        if isinstance(error, _OURS):
            raise
        raise OptionError(f"{what}: {' '.join(str(error).split()) or type(error).__name__}") from None
