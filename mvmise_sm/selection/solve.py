"""One fit of a selection likelihood by either algorithm, and what is done when the error covariance degenerates."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mvmise_sm.selection.em import run_em
from mvmise_sm.selection.errors import ErrorLikelihood
from mvmise_sm.selection.likelihood import SINGULAR_ERRORS, SelectionParams
from mvmise_sm.selection.maximise import Maximum, maximise
from mvmise_sm.selection.objective import PenalisedObjective
from mvmise_sm.selection.sparse import error_spread


@dataclass(frozen=True)
class PseudoSamples:
    """Inverse-Wishart kernel on the error covariance, worth `weight` samples with uncorrelated errors.

    Attributes
    ----------
    variance : ndarray, (K,)
        Error variances of the pseudo-samples.
    weight : float
    """

    variance: np.ndarray
    weight: float = 1.0

    def __call__(self, params: SelectionParams) -> tuple[float, SelectionParams]:
        precision = np.linalg.inv(params.error_cov)
        value = np.linalg.slogdet(params.error_cov)[1] + np.diag(precision) @ self.variance
        slope = precision - (precision * self.variance) @ precision
        half = 0.5 * self.weight
        return half * float(value), replace(params.zeros(), error_cov=half * slope)


@dataclass(frozen=True)
class Solution:
    """A fit and the objective it maximises.

    Attributes
    ----------
    objective : PenalisedObjective
    maximum : Maximum
    regularised : bool
        Whether one pseudo-sample was added because the likelihood has no maximum: with few samples that have all
        outcomes it grows without bound towards a singular error covariance.
    """

    objective: PenalisedObjective
    maximum: Maximum
    regularised: bool = False


def solve(
    objective: PenalisedObjective,
    *,
    method: str = "ml",
    start: np.ndarray | None = None,
    metric: np.ndarray | None = None,
    free: np.ndarray | None = None,
    maxiter: int | None = None,
    tol: float | None = None,
    information: bool = True,
) -> Solution:
    """Maximise an objective, with one pseudo-sample more if its error covariance degenerates.

    Parameters
    ----------
    objective : PenalisedObjective
    method : {"ml", "em"}, optional
    start : ndarray, (k,), optional
    metric : ndarray, (k, k), optional
        First Hessian of the direct method.
    free : ndarray of bool, (k,), optional
        Elements that may move; direct method only.
    maxiter, tol : optional
        Of the algorithm.
    information : bool, optional
        Compute the observed information.
    """
    maximum = _once(objective, method, start, metric, free, maxiter, tol, information)
    if maximum.message != SINGULAR_ERRORS or not isinstance(objective.likelihood, ErrorLikelihood):
        return Solution(objective, maximum)
    helped = regularised(objective)
    return Solution(helped, _once(helped, method, None, None, free, maxiter, tol, information), True)


def regularised(objective: PenalisedObjective) -> PenalisedObjective:
    """The objective with one pseudo-sample on the error covariance."""
    spread = error_spread(objective.likelihood.data)
    return PenalisedObjective(objective.likelihood, (*objective.penalties, PseudoSamples(spread**2)))


def _once(objective, method, start, metric, free, maxiter, tol, information) -> Maximum:
    likelihood = objective.likelihood
    start = likelihood.start() if start is None else start
    if method == "em":
        options = {"maxiter": maxiter, "tol": tol}
        return run_em(objective, start, information=information, **{k: v for k, v in options.items() if v is not None})
    if method != "ml":
        raise ValueError(f"method is {method!r}; allowed are 'ml' and 'em'.")
    metric = likelihood.metric(start) if metric is None else metric
    options = {"maxiter": maxiter, "tol": tol}
    return maximise(
        objective,
        start,
        metric,
        free=free,
        information=information,
        diverged=likelihood.diverged,
        **{k: v for k, v in options.items() if v is not None},
    )
