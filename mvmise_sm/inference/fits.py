"""Fits as the functions of inference see them: unwrapped, refitted, compared, named."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
from scipy import stats
from statsmodels.base.wrapper import ResultsWrapper

from mvmise_sm.exceptions import (
    ConvergenceWarning,
    DataError,
    DataWarning,
    OptionError,
    RankWarning,
    SingularFitWarning,
)
from mvmise_sm.results.memo import ML_FIT

__all__ = [
    "check_same_response",
    "deviance_ratio",
    "fit_options",
    "labels_of",
    "ml_fit",
    "unwrap",
    "quietly",
    "ratio_error",
    "ratio_p_value",
    "refitted",
    "require_maximum",
    "unreached",
    "with_rows",
    "with_statistic",
]

# relative change of a p-value that an estimated statistic may bring
_SHARE = 0.1


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


def ratio_error(*fits: Any) -> float:
    """Largest error of the likelihood-ratio statistic of fits whose log-determinants are estimated; 0 for exact ones.

    Both may have been estimated along the same probes, so that their errors add up at most.
    """
    return float(sum(unwrap(fit).mle_retvals.get("criterion_error", 0.0) for fit in fits))


def ratio_p_value(chisq: Any, df: Any, error: Any = 0.0) -> Any:
    """Upper tail of chi-squared; NaN where `error` of the statistic changes it by more than a tenth.

    Parameters
    ----------
    chisq, df : float or ndarray
    error : float or ndarray
        From `ratio_error`.
    """
    chisq = np.maximum(chisq, 0.0)
    p = stats.chi2.sf(chisq, df)
    changed = stats.chi2.sf(np.maximum(chisq - error, 0.0), df) > (1.0 + _SHARE) * stats.chi2.sf(chisq + error, df)
    return np.where(changed & (np.asarray(error) > 0.0), np.nan, p)[()]


def unreached(fits: Iterable[tuple[str, Any]]) -> str:
    """Sentences for a heading: the fits without a maximum, and how well statistics are known; empty if all is well."""
    known = list(fits)
    names = [name for name, fit in known if not fit.converged]
    text = f" No test, as these fits have not converged: {', '.join(names)}." if names else ""
    errors = sorted((ratio_error(fit) for _, fit in known), reverse=True)
    if errors and errors[0] > 0.0:
        text += (
            f" The log-determinants are estimated: chisq is known to +-{sum(errors[:2]):.2g}; no p-value where that "
            f"changes it by more than a tenth (more probes help)."
        )
    return text


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
        # of the maxima that a refit knows the highest is taken
        warnings.filterwarnings("ignore", message="the likelihood has several maxima", category=DataWarning)
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
