"""One fit of a selection likelihood by either algorithm, and what is done when the error covariance degenerates."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Generic

import numpy as np

from mvmise_sm.selection.em import run_em
from mvmise_sm.selection.likelihood import P
from mvmise_sm.selection.maximise import MAXITER, NEWTON_STEPS, Maximum, maximise
from mvmise_sm.selection.objective import MechanismPrior, PenalisedObjective
from mvmise_sm.selection.sparse import error_spread
from mvmise_sm.selection.status import Status

# with one or two outcomes the likelihood can have a maximum for either sign of the mechanism's slope
FEW_OUTCOMES = 2
# further starts need only tell which maximum they lead to
OTHER_ITERATIONS, OTHER_TOL = 60, 1e-4
# a slope within so many standard errors of zero may have a maximum on the other side of it; there it is held at half of
# one over the spread of the seen units while all else is fitted, so roughly that a run need not end
WEAK_SLOPE, OTHER_SIDE, HELD_ITERATIONS, HELD_TOL = 4.0, 0.5, 25, 1e-3
# ends of runs that found nothing to climb and no maximum either
NO_CURVATURE = (Status.NOT_DEFINITE, Status.LINE_SEARCH)
# values closer than this need no second look, those of loosely converged runs are one maximum below the second bound,
# and a maximum lower by less than the third is worth a warning
SAME_VALUE, OTHER_MODE, SIMILAR_HEIGHT = 1e-4, 0.05, 2.0


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

    def __call__(self, params: P) -> tuple[float, P]:
        if params.error_cov is None:
            raise ValueError("Pseudo-samples of errors belong to model e; model b has no error covariance.")
        precision = np.linalg.inv(params.error_cov)
        value = np.linalg.slogdet(params.error_cov)[1] + np.diag(precision) @ self.variance
        slope = precision - (precision * self.variance) @ precision
        half = 0.5 * self.weight
        return half * float(value), replace(params.zeros(), error_cov=half * slope)


@dataclass(frozen=True)
class Solution(Generic[P]):
    """A fit and the objective it maximises.

    Attributes
    ----------
    objective : PenalisedObjective
    maximum : Maximum
    reasons : tuple of Status
        Why the likelihood has no maximum, one for every weak penalty that was added: a pseudo-sample when the
        error covariance degenerates, the weak prior on the mechanism when its slope runs to infinity.
    modes : tuple of float
        Values of other maxima that are nearly as high.
    """

    objective: PenalisedObjective[P]
    maximum: Maximum
    reasons: tuple[Status, ...] = ()
    modes: tuple[float, ...] = ()


def solve(
    objective: PenalisedObjective[P],
    *,
    method: str = "ml",
    start: np.ndarray | None = None,
    metric: np.ndarray | None = None,
    free: np.ndarray | None = None,
    maxiter: int | None = None,
    tol: float | None = None,
    information: bool = True,
) -> Solution[P]:
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
    modes: tuple[float, ...] = ()
    if method == "em" and start is None and free is None:
        start, modes = _start_of_em(objective)
    maximum = _once(objective, method, start, metric, free, maxiter, tol, information)
    if cold:
        maximum, modes = _best(objective, maximum, maxiter, tol, information)
    if maximum.status in NO_CURVATURE and objective.likelihood.part.slopes_at.size and cold:
        # a free slope is what the data determine least
        maximum = replace(maximum, status=Status.UNDETERMINED)
    reasons: tuple[Status, ...] = ()
    while maximum.status.penalised and maximum.status not in reasons:
        reasons = (*reasons, maximum.status)
        objective = regularised(objective, maximum.status)
        maximum = _once(objective, method, start, metric, free, maxiter, tol, information)
        if cold and not maximum.converged:
            # without dependence the likelihood of few blocks can be a saddle between slopes of either sign
            maximum, modes = _best(objective, maximum, maxiter, tol, information)
    return Solution(objective, maximum, reasons, modes)


def _best(
    objective: PenalisedObjective, maximum: Maximum, maxiter: int | None, tol: float | None, information: bool
) -> tuple[Maximum, tuple[float, ...]]:
    """The highest interior maximum that further starts lead to, and the values of others nearly as high."""
    found = [maximum] if maximum.converged else []
    for start in _other_starts(objective, maximum):
        if not np.isfinite(objective(start)[0]):
            continue
        other = _once(
            objective, "ml", start, None, None, min(OTHER_ITERATIONS, maxiter or OTHER_ITERATIONS), OTHER_TOL, False
        )
        if other.converged and all(abs(other.value - known.value) > SAME_VALUE for known in found):
            found.append(other)
    found.sort(key=lambda one: -one.value)
    for candidate in found:
        if candidate is maximum:
            break
        polished = _once(objective, "ml", candidate.theta, None, None, maxiter, tol, information)
        if polished.converged:
            maximum = polished
            break
    near: list[float] = []
    for one in found:
        apart = min(abs(one.value - other) for other in [maximum.value, *near])
        if apart > OTHER_MODE and maximum.value - one.value < SIMILAR_HEIGHT:
            near.append(one.value)
    return maximum, tuple(near)


def _start_of_em(objective: PenalisedObjective) -> tuple[np.ndarray | None, tuple[float, ...]]:
    """Where EM should begin, None for its usual start: it climbs to the maximum next to it.

    The direct method, which takes milliseconds, tells whether another start leads higher.
    """
    if not objective.likelihood.starts():
        return None, ()
    near = _once(objective, "ml", None, None, None, None, None, False)
    best, modes = _best(objective, near, None, None, False)
    higher = best.converged and best.value > near.value + SAME_VALUE
    return (best.theta if higher else None), modes


def _other_starts(objective: PenalisedObjective, maximum: Maximum) -> list[np.ndarray]:
    """Starts of the model, the maximum with turned loadings or slopes, and with few outcomes either sign of those."""
    likelihood = objective.likelihood
    out = likelihood.starts()
    if maximum.converged:
        out = out + likelihood.reflections(maximum.theta) + _other_sides(objective, maximum)
    if likelihood.data.n_outcomes > FEW_OUTCOMES:
        return out
    cut = likelihood.slices["phi"]
    # from the maximum a run may come back to it where one from the usual start does not
    bases = ([maximum.theta] if maximum.converged else []) + [likelihood.start()]
    for base in bases:
        for index, slope in likelihood.part.slopes():
            start = base.copy()
            start[cut] = likelihood.part.feasible(start[cut], slope, index)
            out.append(start)
    return out


def _other_sides(objective: PenalisedObjective, maximum: Maximum) -> list[np.ndarray]:
    """Points with a weakly determined slope on the other side of zero and all else fitted to it.

    A run from the maximum with the sign of the slope turned comes back: means and loadings have to follow first.
    """
    likelihood, theta = objective.likelihood, maximum.theta
    part, cut = likelihood.part, likelihood.slices["phi"]
    error = np.full(theta.size, np.inf)
    if maximum.information is not None:
        # without standard errors every slope is weak
        with suppress(np.linalg.LinAlgError):
            error = np.sqrt(np.maximum(np.diag(np.linalg.inv(maximum.information)), 0.0))
    out = []
    for index, slope in part.slopes():
        at = cut.start + int(np.flatnonzero(part.free == index)[0])
        if slope * theta[at] > 0.0 or abs(theta[at]) > WEAK_SLOPE * error[at]:
            continue
        start, moving = theta.copy(), np.arange(theta.size) != at
        start[cut] = part.feasible(start[cut], OTHER_SIDE * slope, index)
        if np.isfinite(objective(start)[0]):
            held = _once(objective, "ml", start, None, moving, HELD_ITERATIONS, HELD_TOL, False)
            out.append(held.theta)
    return out


def regularised(objective: PenalisedObjective[P], reason: Status) -> PenalisedObjective[P]:
    """The objective with the weak penalty that goes with a reason."""
    data = objective.likelihood.data
    extra: PseudoSamples | MechanismPrior = (
        PseudoSamples(error_spread(data) ** 2) if reason is Status.SINGULAR_ERRORS else MechanismPrior.for_data(data)
    )
    # a second one of the same kind would count twice
    others = tuple(penalty for penalty in objective.penalties if not isinstance(penalty, type(extra)))
    return replace(objective, penalties=(*others, extra))


def _once(
    objective: PenalisedObjective,
    method: str,
    start: np.ndarray | None,
    metric: np.ndarray | None,
    free: np.ndarray | None,
    maxiter: int | None,
    tol: float | None,
    information: bool,
) -> Maximum:
    likelihood = objective.likelihood
    start = likelihood.start() if start is None else start
    if method == "em":
        return run_em(objective, start, information=information, **_given(maxiter=maxiter, tol=tol))
    if method != "ml":
        raise ValueError(f"method is {method!r}; allowed are 'ml' and 'em'.")
    metric = likelihood.metric(start) if metric is None else metric
    # quasi-Newton steps learn one direction each
    newton = NEWTON_STEPS if maxiter is None else None
    maxiter = max(MAXITER, likelihood.size) if maxiter is None else maxiter
    return maximise(
        objective,
        start,
        metric,
        free=free,
        information=information,
        diverged=likelihood.diverged,
        **_given(maxiter=maxiter, tol=tol, newton=newton),
    )


def _given(**options: Any) -> dict[str, Any]:
    """The options that were given; the algorithms have defaults of their own for the others."""
    return {name: value for name, value in options.items() if value is not None}
