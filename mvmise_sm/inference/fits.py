"""Fits as the functions of inference see them: unwrapped, refitted, compared, named."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
from statsmodels.base.wrapper import ResultsWrapper

from mvmise_sm.exceptions import ConvergenceWarning, DataError, OptionError, RankWarning, SingularFitWarning
from mvmise_sm.results.memo import ML_FIT

__all__ = [
    "check_same_response",
    "deviance_ratio",
    "fit_options",
    "labels_of",
    "ml_fit",
    "unwrap",
    "quietly",
    "refitted",
    "require_maximum",
    "unreached",
    "with_rows",
    "with_statistic",
]


def unwrap(result):
    """The result inside its wrapper."""
    return result._results if isinstance(result, ResultsWrapper) else result


def with_rows(result):
    """The result inside its wrapper, if it still has its rows.

    Raises
    ------
    OptionError
        After ``remove_data``.
    """
    result = unwrap(result)
    if not result.has_rows:
        raise result.model.rows_gone()
    return result


def with_statistic(result):
    """The result inside its wrapper, if its model can be fitted again: from rows, or from sums over them.

    Raises
    ------
    OptionError
        After ``remove_data``.
    """
    result = unwrap(result)
    if not result.has_statistic:
        raise result.model.rows_gone()
    return result


def require_maximum(result: Any, what: str) -> None:
    """Fail where a question starts from the maximum and the fit has not reached it.

    Parameters
    ----------
    result : MixedModelResults or SelectionResults
    what : str
        The question, in the plural.

    Raises
    ------
    OptionError
    """
    result = unwrap(result)
    if not result.converged:
        raise OptionError(
            f"{what} start from the maximum, and this fit has not converged: {result.message}; fit it again, for "
            "example with a larger maxiter"
        )


def deviance_ratio(small: Any, large: Any) -> float:
    """Likelihood-ratio statistic of two fits; NaN where one of them has not reached its maximum."""
    return 2.0 * float(large.llf - small.llf) if small.converged and large.converged else np.nan


def unreached(fits: Iterable[tuple[str, Any]]) -> str:
    """The sentence for a heading that names the fits without a maximum; empty if all have converged."""
    names = [name for name, fit in fits if not fit.converged]
    return f" No test, as these fits have not converged: {', '.join(names)}." if names else ""


def ml_fit(result):
    """The maximum-likelihood fit of the same model: the result itself unless it is by REML."""
    result = with_statistic(result)
    if not result.restricted:
        return result
    return result.memo(ML_FIT, lambda: refitted(result, reml=False))


def refitted(result, **changes):
    """The same model fitted with the same options but for some `changes`, without the warnings of a fit."""
    return unwrap(quietly(result.model.fit, **{**fit_options(result), "use_t": result.use_t, **changes}))


def fit_options(result):
    """Method and options that the result was fitted with."""
    left_out = ("optimizer", "start_params", "start_theta")
    options = {key: value for key, value in result.mle_settings.items() if key not in left_out}
    return {"method": result.mle_settings["optimizer"], **options}


def quietly(function, *args, **kwargs):
    """Call without the warnings of a fit: the caller reports convergence and singularity itself."""
    with warnings.catch_warnings():
        for category in (ConvergenceWarning, RankWarning, SingularFitWarning):
            warnings.simplefilter("ignore", category)
        return function(*args, **kwargs)


def check_same_response(results):
    """Fail unless all fits have the same response, weights and family."""
    first = results[0].model
    for other in (r.model for r in results[1:]):
        if other.models_missing != first.models_missing:
            raise DataError(
                "one fit models which values are missing and the other does not; fit it with missing_y=False instead"
            )
        if first.streamed or other.streamed:
            _check_same_sums(first, other)
            continue
        if other.endog.shape != first.endog.shape:
            raise DataError(f"the fits have {len(first.endog)} and {len(other.endog)} rows; fit all to the same rows")
        if not np.array_equal(np.asarray(other.endog), np.asarray(first.endog), equal_nan=True):
            raise DataError("the fits have different responses; only fits to the same response can be compared")
        if type(other) is not type(first):
            raise DataError(f"cannot compare a {type(first).__name__} with a {type(other).__name__}")


def _check_same_sums(first, other):
    """Fail unless two models without rows have the same response, as far as its name and their rows tell."""
    if not (first.streamed and other.streamed):
        raise DataError("a streamed fit and one in memory cannot be compared; fit both to the same source")
    if (first.nobs, first.endog_names) != (other.nobs, other.endog_names):
        raise DataError(
            f"the fits have the responses {first.endog_names!r} in {first.nobs} rows and {other.endog_names!r} in "
            f"{other.nobs}; only fits to the same response can be compared"
        )


def labels_of(results):
    """Formulas as labels, numbered where they repeat."""
    texts = [getattr(r.model, "formula", None) or f"model {i + 1}" for i, r in enumerate(results)]
    return [t if texts.count(t) == 1 else f"{t} [{i + 1}]" for i, t in enumerate(texts)]
