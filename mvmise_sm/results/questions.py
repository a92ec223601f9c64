"""What a fitted model can be asked, and the sentence for a question that it cannot answer."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar

import numpy as np
import pandas as pd
from statsmodels.base.data import PandasData
from statsmodels.base.model import LikelihoodModelResults, LikelihoodResultsWrapper
from statsmodels.tools._decorators import cache_readonly

from mvmise_sm.exceptions import OptionError
from mvmise_sm.memory import guarded
from mvmise_sm.option_values import short
from mvmise_sm.results.reading import understood
from mvmise_sm.spellings import of_result

__all__ = ["AnsweringResults", "AnsweringWrapper", "answers"]

T = TypeVar("T")


class AnsweringResults(LikelihoodModelResults):
    """Base of all results: every question has a method on every class; what a class cannot answer, it refuses by name.

    A class declares the questions it refuses, each with the sentence that says what to use instead::

        class CountResults(MixedModelResults, refuses={"icc": "..."}):
            ...

    The documentation's table of what works on what is made from these declarations.

    Attributes
    ----------
    refused : dict
        Name of a method -> sentence.
    linear : bool
        Whether the response is normal given the random effects, with beta and sigma2 profiled out of the criterion.
    undetermined : FlatDirections or None
        Directions of the variances that the data do not determine.
    without_error : ndarray or None
        Fixed effects whose estimates have no standard error (k_fe,), infinite ones for example.
    """

    refused: ClassVar[Mapping[str, str]] = {}
    linear: ClassVar[bool] = False
    undetermined: Any = None
    without_error: Any = None

    def __init_subclass__(cls, refuses: Mapping[str, str] | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        refuses = {} if refuses is None else refuses
        inherited = {name: text for name, text in cls.refused.items() if name not in vars(cls)}
        cls.refused = {**inherited, **refuses}
        for base in cls.__mro__:
            if base.__module__.startswith("mvmise_sm."):
                _guard_attributes(base)
        for name, sentence in refuses.items():
            setattr(cls, name, _refusal(getattr(cls, name), name, sentence))

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_") and hasattr(type(self), name):
            # the attribute is there and failed with an AttributeError of its own
            return object.__getattribute__(self, name)
        raise AttributeError(of_result(repr(type(self).__name__), name))

    def cov_params(
        self, r_matrix: Any = None, column: Any = None, scale: Any = None, cov_p: Any = None, other: Any = None
    ) -> Any:
        """Covariance of the fixed effects or of combinations of them; parameters as in statsmodels.

        Raises
        ------
        OptionError
            If a matrix or a position does not fit the fixed effects.
        """
        k = len(self.params)
        if column is not None and np.asarray(column).dtype.kind not in "iu":
            raise OptionError(f"column must be a position or a list of positions among the {k}, got {short(column)}")
        if cov_p is not None and np.shape(cov_p) != (k, k):
            raise OptionError(f"cov_p must be a {k} x {k} matrix, found shape {np.shape(cov_p)}")
        with understood(f"cov_params needs contrasts or columns of the {k} fixed effects"):
            return super().cov_params(r_matrix, column, scale, cov_p, other)

    @property
    def priors(self) -> Any:
        """The priors of the model, None without any."""
        return self.model.priors

    def wald_law(self) -> Any:
        """Covariance and degrees of freedom of Wald tests, see `mvmise_sm.inference.ddf.PlainDf`."""
        from mvmise_sm.inference.ddf import PlainDf

        return PlainDf(self.plain_cov(), self.df_resid if self.use_t else np.inf)

    @property
    def has_rows(self) -> bool:
        """Whether the rows of the data are still there, see `remove_data`."""
        raise NotImplementedError

    @property
    def restricted(self) -> bool:
        """Whether the likelihood is the restricted one (REML)."""
        return False

    @property
    def streamed(self) -> bool:
        """Whether the fit was made from sums over blocks and never held rows."""
        return self.model.streamed

    @property
    def has_statistic(self) -> bool:
        """Whether the model can be fitted again: from its rows, or from sums over them."""
        return self.has_rows or self.streamed

    def effects_without_error(self) -> np.ndarray:
        """Which fixed effects have no standard error (k_fe,); selection models say it in their covariance."""
        return np.zeros(len(self.params), dtype=bool)

    def wald_test(
        self,
        r_matrix: Any,
        cov_p: Any = None,
        invcov: Any = None,
        use_f: bool | None = None,
        df_constraints: Any = None,
        scalar: bool = True,
    ) -> Any:
        """Test linear combinations jointly, as statsmodels does; NaN where one of them has no standard error."""
        if cov_p is None and invcov is None:
            from mvmise_sm.inference.wald import untestable

            use_f = bool(self.use_t) if use_f is None else use_f
            missing = untestable(self, r_matrix, use_f)
            if missing is not None:
                return missing
        return super().wald_test(r_matrix, cov_p, invcov, use_f, df_constraints, scalar)

    @property
    def profiled(self) -> bool:
        """Whether beta and sigma2 are profiled out of the criterion, so that refits need no result."""
        return self.linear

    def nesting(self) -> dict[str, Any] | None:
        """What tells whether this fit is a special case of another one, None where nothing is known of that."""
        return None

    def plain_cov(self) -> np.ndarray:
        """Covariance of the fixed effects (k_fe, k_fe) as tests take it."""
        return np.asarray(self.cov_params())

    def satterthwaite_law(self) -> Any:
        """Covariance and Satterthwaite's degrees of freedom, see `mvmise_sm.inference.ddf.SatterthwaiteDf`."""
        from mvmise_sm.inference.ddf import SatterthwaiteDf, second_order_of

        return SatterthwaiteDf(self.plain_cov(), second_order_of(self))

    def memo(self, key: str, make: Callable[[], T]) -> T:
        """Return what ``make()`` gave the first time that `key` was asked for; kept with the result."""
        if key not in self._cache:
            self._cache[key] = make()
        return self._cache[key]


def _refusal(method: Any, name: str, sentence: str) -> Callable[..., Any]:
    def refused(self: AnsweringResults, *args: Any, **kwargs: Any) -> Any:
        raise OptionError(sentence)

    refused.__name__ = refused.__qualname__ = name
    refused.__doc__ = f"Not available: {sentence}"
    if callable(method):
        refused.__signature__ = inspect.signature(method)  # type: ignore[attr-defined]
    return refused


def answers(cls: type[AnsweringResults], name: str) -> bool:
    """Whether results of a class answer the question `name`."""
    return hasattr(cls, name) and name not in cls.refused


def _guard_attributes(cls: type) -> None:
    """Let properties of a class, cached or not, answer memory that runs out with a sentence, as methods do."""
    for name, member in list(vars(cls).items()):
        if isinstance(member, cache_readonly) and not hasattr(member.fget, "__wrapped__"):
            setattr(cls, name, cache_readonly(guarded(member.fget, name)))
        elif isinstance(member, property) and member.fget and not hasattr(member.fget, "__wrapped__"):
            setattr(cls, name, member.getter(guarded(member.fget, name)))


class AnsweringWrapper(LikelihoodResultsWrapper):
    """Attach pandas labels to the arrays of a result."""

    # intervals label themselves: profiles and bootstraps have rows that the fixed effects do not; of covariances
    # statsmodels labels the whole matrix only
    _wrap_methods: ClassVar[dict[str, str]] = {
        name: how
        for name, how in LikelihoodResultsWrapper._wrap_methods.items()
        if name not in ("conf_int", "cov_params")
    }

    def cov_params(
        self, r_matrix: Any = None, column: Any = None, scale: Any = None, cov_p: Any = None, other: Any = None
    ) -> Any:
        """See `AnsweringResults.cov_params`; one column gives a number, combinations an array without labels."""
        cov = self._results.cov_params(r_matrix, column, scale, cov_p, other)
        if r_matrix is None and column is None:
            return self.model.data.wrap_output(cov, "cov")
        names = self.model.data.cov_names
        if r_matrix is not None or np.ndim(cov) != 2 or not isinstance(self.model.data, PandasData):
            return cov
        chosen = np.asarray(names, dtype=object)[column]
        return pd.DataFrame(cov, index=chosen, columns=chosen)

    def conf_int(self, alpha: float = 0.05, method: str = "wald", *, parm: Any = None, **options: Any) -> Any:
        """See `AnsweringResults.conf_int`."""
        intervals = self._results.conf_int(alpha, method, parm=parm, **options)
        return intervals if isinstance(intervals, pd.DataFrame) else self.model.data.wrap_output(intervals, "columns")
