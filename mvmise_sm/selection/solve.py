"""One fit of a selection likelihood by either algorithm, and what is done when the error covariance degenerates."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mvmise_sm.selection.em import run_em
from mvmise_sm.selection.likelihood import SATURATED, SINGULAR_ERRORS, THRESHOLD, SelectionParams
from mvmise_sm.selection.maximise import Maximum, maximise
from mvmise_sm.selection.objective import MechanismPrior, PenalisedObjective
from mvmise_sm.selection.sparse import error_spread

# with one or two outcomes the likelihood can have a maximum for either sign of the mechanism's slope
FEW_OUTCOMES = 2
OTHER_ITERATIONS, OTHER_TOL = 25, 1e-4


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
    reasons : tuple of str
        Why the likelihood has no maximum, one text for every weak penalty that was added: a pseudo-sample when the
        error covariance degenerates, the weak prior on the mechanism when its slope runs to infinity.
    """

    objective: PenalisedObjective
    maximum: Maximum
    reasons: tuple[str, ...] = ()


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
    """Maximise an objective, with a weak penalty more where its likelihood has no maximum.

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
    cold = start is None and free is None and method == "ml"
    maximum = _once(objective, method, start, metric, free, maxiter, tol, information)
    if cold and objective.likelihood.data.n_outcomes <= FEW_OUTCOMES:
        maximum = _best(objective, maximum, maxiter, tol, information)
    reasons: tuple[str, ...] = ()
    while maximum.message in (SATURATED, SINGULAR_ERRORS, THRESHOLD) and maximum.message not in reasons:
        reasons = (*reasons, maximum.message)
        objective = regularised(objective, maximum.message)
        maximum = _once(objective, method, start, metric, free, maxiter, tol, information)
    return Solution(objective, maximum, reasons)


def _best(objective: PenalisedObjective, maximum: Maximum, maxiter, tol, information) -> Maximum:
    """The highest of the interior maxima that starts with either sign of the mechanism's slope lead to."""
    likelihood = objective.likelihood
    for slope in likelihood.part.slopes():
        start = maximum.theta.copy() if maximum.converged else likelihood.start()
        start[likelihood.slices["phi"]] = likelihood.part.feasible(start[likelihood.slices["phi"]], slope)
        other = _once(objective, "ml", start, None, None, OTHER_ITERATIONS, OTHER_TOL, False)
        if other.converged and (other.value > maximum.value + 1e-6 or not maximum.converged):
            other = _once(objective, "ml", other.theta, None, None, maxiter, tol, information)
            maximum = other if other.converged else maximum
    return maximum


def regularised(objective: PenalisedObjective, reason: str) -> PenalisedObjective:
    """The objective with the weak penalty that goes with a reason."""
    data = objective.likelihood.data
    extra = PseudoSamples(error_spread(data) ** 2) if reason == SINGULAR_ERRORS else MechanismPrior.for_data(data)
    # a second one of the same kind would count twice
    others = tuple(penalty for penalty in objective.penalties if not isinstance(penalty, type(extra)))
    return PenalisedObjective(objective.likelihood, (*others, extra))


def _once(objective, method, start, metric, free, maxiter, tol, information) -> Maximum:
    likelihood = objective.likelihood
    start = likelihood.start() if start is None else start
    if method == "em":
        options = {"maxiter": maxiter, "tol": tol}
        return run_em(objective, start, information=information, **{k: v for k, v in options.items() if v is not None})
    if method != "ml":
        raise ValueError(f"method is {method!r}; allowed are 'ml' and 'em'.")
    metric = likelihood.metric(start) if metric is None else metric
    # quasi-Newton steps learn one direction each
    maxiter = max(200, likelihood.size) if maxiter is None else maxiter
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
