"""The missing values of a selection model: their law with the uncertainty of the parameters, and draws from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.tools.rng_qrng import check_random_state

from mvmise_sm.exceptions import DataError, OptionError
from mvmise_sm.results.selection_prediction import missing_frame
from mvmise_sm.results.selection_simulation import require_rows
from mvmise_sm.selection.imputation import draw_missing
from mvmise_sm.selection.prediction import posterior_moments

__all__ = [
    "check_count",
    "check_uncertainty",
    "draws_of_parameters",
    "imputation_frame",
    "imputed",
    "missing_law",
    "normal_draw",
    "parameter_variance",
    "with_interval",
]

UNCERTAINTIES = ("known", "parameters")
# parameters whose likelihood is zero are drawn again; so many draws before the covariance is no use
MAX_REDRAWS = 100
# differences of posterior means, in standard errors
STEP = 1e-3


def check_uncertainty(uncertainty) -> None:
    """Refuse what is not in `UNCERTAINTIES`."""
    if not isinstance(uncertainty, str) or uncertainty not in UNCERTAINTIES:
        raise OptionError(f"uncertainty must be 'known' or 'parameters', got {uncertainty!r}")


def check_count(n) -> None:
    """Refuse numbers of draws that are no positive integer."""
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1:
        raise OptionError(f"n must be a positive integer, got {n!r}")


def missing_law(result, uncertainty, alpha) -> pd.DataFrame:
    """Posterior moments and intervals of every missing value; see `SelectionResults.predict_missing`."""
    check_uncertainty(uncertainty)
    require_rows(result)
    added = None
    if uncertainty == "parameters":
        likelihood = result._outcome.objective.likelihood
        added = parameter_variance(
            lambda at: posterior_moments(likelihood, at).mean, result.theta, parameter_cov(result)
        )
    out = missing_frame(result, added)
    return with_interval(out, alpha)


def with_interval(frame: pd.DataFrame, alpha) -> pd.DataFrame:
    """The frame with normal intervals from its columns ``mean`` and ``sd``."""
    half = stats.norm.isf(0.5 * alpha) * frame["sd"]
    return frame.assign(conf_low=frame["mean"] - half, conf_high=frame["mean"] + half)


def parameter_cov(result) -> np.ndarray:
    """Covariance of the unconstrained parameters (k, k), or a sentence why there is none."""
    if result._outcome.cov is None:
        raise OptionError(
            "method='mvmise' has no covariance of its parameters; use uncertainty='known' or fit(method='ml')"
        )
    cov = result._outcome.cov.theta
    if not np.isfinite(cov).all():
        raise OptionError(
            "this fit has no covariance of its parameters, so their uncertainty is unknown; use uncertainty='known'"
        )
    return cov


def parameter_variance(mean, theta: np.ndarray, cov: np.ndarray) -> np.ndarray:
    """What uncertain parameters add to the variance of ``mean(theta)``: ``J C J'``, in the shape of the means."""
    slopes = np.zeros((*np.shape(mean(theta)), theta.size))
    for k in np.flatnonzero(np.diag(cov) > 0.0):
        step = np.zeros(theta.size)
        step[k] = STEP * np.sqrt(cov[k, k])
        slopes[..., k] = (mean(theta + step) - mean(theta - step)) / (2.0 * step[k])
    return np.maximum(np.einsum("...i,ij,...j->...", slopes, cov, slopes), 0.0)


def normal_draw(theta: np.ndarray, cov: np.ndarray, rng) -> np.ndarray:
    """A point from ``N(theta, cov)``; directions without variance stay."""
    unit = np.sqrt(np.diag(cov))
    scale = np.where(unit > 0.0, unit, 1.0)
    values, vectors = np.linalg.eigh(cov / np.outer(scale, scale))
    return theta + scale * (vectors @ (np.sqrt(np.maximum(values, 0.0)) * rng.standard_normal(theta.size)))


def imputed(result, n, rng, uncertainty) -> pd.DataFrame:
    """Completed data sets side by side; see `SelectionResults.imputations`."""
    check_count(n)
    check_uncertainty(uncertainty)
    require_rows(result)
    model, objective = result.model, result._outcome.objective
    cov = parameter_cov(result) if uncertainty == "parameters" else None
    likelihood = objective.likelihood
    draws, redrawn = draws_of_parameters(
        lambda at, generator: draw_missing(likelihood, at, generator),
        lambda at: bool(np.isfinite(objective(at)[0])),
        result.theta,
        cov,
        n,
        rng,
    )
    return imputation_frame([model.design.data.unsort(Y) for Y in draws], redrawn, model)


def draws_of_parameters(
    complete: Callable[[np.ndarray, Any], np.ndarray],
    inside: Callable[[np.ndarray], bool],
    point: np.ndarray,
    cov: np.ndarray | None,
    n: int,
    rng: Any,
) -> tuple[list[np.ndarray], int]:
    """Completed outcomes, `n` of them, and how many draws of the parameters were discarded.

    Parameters
    ----------
    complete : callable
        (point, generator) -> outcomes.
    inside : callable
        Whether a point is in the domain of the likelihood.
    point : ndarray, (k,)
        The estimates.
    cov : ndarray, (k, k), or None
        Their covariance; None keeps them.
    n : int
    rng : int, Generator or RandomState

    Raises
    ------
    DataError
        If draws are outside the domain again and again.
    """
    rng = check_random_state(rng)
    draws, redrawn = [], 0
    for _ in range(n):
        at = point
        if cov is not None:
            for _ in range(MAX_REDRAWS):
                at = normal_draw(point, cov, rng)
                if inside(at):
                    break
                redrawn += 1
            else:
                raise DataError(
                    f"{MAX_REDRAWS} draws of the parameters were outside their domain: their normal law is no "
                    "approximation here; use uncertainty='known'"
                )
        try:
            draws.append(complete(at, rng))
        except ValueError as error:
            raise DataError(str(error)) from None
    return draws, redrawn


def imputation_frame(draws: list[np.ndarray], redrawn: int, model) -> pd.DataFrame:
    """Completed outcomes (nobs, K) as columns (imputation, outcome)."""
    columns = pd.MultiIndex.from_product(
        [[f"imp_{i + 1}" for i in range(len(draws))], list(model.outcome_names)], names=["imputation", "outcome"]
    )
    out = pd.DataFrame(np.concatenate(draws, axis=1), index=model.design.endog.index, columns=columns)
    out.attrs["redrawn"] = redrawn
    return out
