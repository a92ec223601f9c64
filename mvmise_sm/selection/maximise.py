"""Direct maximisation of a selection likelihood: BFGS from an information-like metric, finished by Newton steps.

The observed information that the last Newton step needs is the one the standard errors come from. `core.optimise` has
Newton steps from expected second derivatives in closed form, which these likelihoods lack.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from scipy import linalg

from mvmise_sm.core.optimise.steps import backtrack, positive_matrix, positive_solve, symmetric
from mvmise_sm.selection.status import Status

Objective = Callable[[np.ndarray], tuple[float, np.ndarray]]

ARMIJO = 1e-4
MAXITER, NEWTON_STEPS = 200, 12
MAX_HALVINGS = 40
# expected gain of the next quasi-Newton step: so small that the information found there is that of the maximum
DECREMENT_TOL = 1e-9
POLISHED_TOL = 1e-11
# the same where the gradient has noise, and what may be left to gain there in the end
ROUGH_DECREMENT, SETTLED = 1e-7, 1e-5
# finite-difference step in standard errors: truncation and rounding errors are both below 1e-7 relative
DIFFERENCE_STEP = 3e-4


@dataclass(frozen=True)
class Maximum:
    """Outcome of a maximisation.

    Attributes
    ----------
    theta : ndarray, (k,)
        The point reached.
    value : float
        Objective there (log-likelihood minus penalty).
    score : ndarray, (k,)
        Gradient of the objective there.
    information : ndarray, (k, k), or None
        Negative second derivatives of the objective over the free elements; rows and columns of fixed ones are zero.
    converged : bool
    n_iter : int
    history : ndarray
        Objective after every iteration, the start included.
    status : Status
        How it ended.
    free : ndarray of bool, (k,)
    """

    theta: np.ndarray
    value: float
    score: np.ndarray
    information: np.ndarray | None
    converged: bool
    n_iter: int
    history: np.ndarray
    status: Status
    free: np.ndarray = field(repr=False)

    @property
    def message(self) -> str:
        """How it ended, as a sentence."""
        return self.status.sentence(self.n_iter)

    def covariance(self, keep: np.ndarray | None = None) -> np.ndarray:
        """Inverse of the information, (k, k): zero at elements without information, NaN without a maximum.

        Parameters
        ----------
        keep : ndarray of bool, (k,), optional
            Elements that have information; by default those whose diagonal is positive.
        """
        if not self.converged or self.information is None:
            return np.full((self.theta.size,) * 2, np.nan)
        keep = np.diag(self.information) > 0 if keep is None else keep
        out = np.zeros_like(self.information)
        out[np.ix_(keep, keep)] = np.linalg.inv(self.information[np.ix_(keep, keep)])
        return out


def maximise(
    objective: Objective,
    start: np.ndarray,
    metric: np.ndarray,
    *,
    free: np.ndarray | None = None,
    maxiter: int | None = None,
    tol: float = DECREMENT_TOL,
    information: bool = True,
    diverged: Callable[[np.ndarray], Status | None] | None = None,
    newton: int | None = None,
) -> Maximum:
    """Maximise a smooth objective.

    Parameters
    ----------
    objective : callable
        ``theta -> (value, gradient)``; ``-inf`` outside its domain.
    start : ndarray, (k,)
        A point inside the domain.
    metric : ndarray, (k, k)
        Positive definite approximation of the negative Hessian at the start.
    free : ndarray of bool, (k,), optional
        Elements that may move.
    maxiter : int, optional
        Steps, quasi-Newton and Newton together; 200 of the first kind and 12 of the second by default.
    tol : float, optional
        Quasi-Newton stage: stop when the expected gain of the next step is below it.
    information : bool, optional
        Compute the information and polish the point by Newton steps.
    diverged : callable, optional
        Says why the objective has no maximum where a point is heading, or returns None; the maximisation
        stops there.
    newton : int, optional
        Newton steps, instead of what `maxiter` leaves.

    Returns
    -------
    Maximum
    """
    free = np.ones(start.size, bool) if free is None else free
    newton = NEWTON_STEPS if maxiter is None and newton is None else newton
    maxiter = MAXITER if maxiter is None else maxiter
    theta = np.array(start, dtype=float)
    value, score = objective(theta)
    if not np.isfinite(value):
        raise ValueError("The start of the maximisation has no finite log-likelihood.")
    inverse = _inverse(metric[np.ix_(free, free)])
    history = [value]
    status, done = Status.MAXITER, False
    for _ in range(maxiter):
        step = inverse @ score[free]
        gain = 0.5 * float(step @ score[free])
        if gain <= tol:
            status, done = Status.CONVERGED, True
            break
        moved = _line_search(objective, theta, value, score, step, free)
        if moved is None:
            status = Status.LINE_SEARCH
            break
        new_theta, new_value, new_score = moved
        inverse = _bfgs_update(inverse, (new_theta - theta)[free], (score - new_score)[free])
        theta, value, score = new_theta, new_value, new_score
        history.append(value)
        reason = diverged(theta) if diverged is not None else None
        if reason is not None:
            status, information = reason, False
            break
    info = None
    if information:
        left = maxiter - (len(history) - 1) if newton is None else newton
        theta, value, score, info, polished = _polish(objective, theta, value, score, inverse, free, history, left)
        if polished:
            status = Status.CONVERGED
        elif done:
            status = Status.NOT_DEFINITE if left else Status.MAXITER
        done = polished
    return Maximum(theta, value, score, info, done, len(history) - 1, np.array(history), status, free)


def maximise_smoothed(
    objective: Objective,
    start: np.ndarray,
    metric: np.ndarray,
    *,
    maxiter: int = MAXITER,
    tol: float = ROUGH_DECREMENT,
    information: bool = True,
    diverged: Callable[[np.ndarray], Status | None] | None = None,
) -> Maximum:
    """Maximise an objective whose gradient has noise of its own, such as differences of a determinant.

    Quasi-Newton steps, then one Newton step with differences of the gradient; more of them would chase the noise.
    Parameters and result are those of :func:`maximise`.
    """
    found = maximise(objective, start, metric, maxiter=maxiter, tol=tol, information=False, diverged=diverged)
    if not information or found.status not in (Status.CONVERGED, Status.LINE_SEARCH):
        return found
    theta, value, score = found.theta, found.value, found.score
    scale = 1.0 / np.sqrt(np.maximum(np.diag(metric), 1e-300))
    info = observed_information(objective, theta, scale, found.free)
    definite = bool(np.isfinite(info).all()) and _factor(info)[1]
    gain = np.inf
    if definite:
        step = np.linalg.solve(info, score)
        gain = 0.5 * float(step @ score)
        moved, new_score = objective(theta + step)
        if np.isfinite(moved) and moved >= value - ROUGH_DECREMENT:
            theta, value, score = theta + step, moved, new_score
            gain = 0.5 * float(np.linalg.solve(info, score) @ score)
    done = definite and gain < SETTLED
    status = Status.CONVERGED if done else Status.NOT_DEFINITE if not definite else found.status
    history = np.append(found.history, value)
    return Maximum(theta, value, score, info if done else None, done, found.n_iter + 1, history, status, found.free)


def _inverse(metric: np.ndarray) -> np.ndarray:
    try:
        factor = linalg.cho_factor(metric)
    except linalg.LinAlgError:
        return positive_solve(metric, np.eye(len(metric)))
    return linalg.cho_solve(factor, np.eye(len(metric)))


def risen(value: float, slope: float) -> Callable[[float, tuple[float, np.ndarray]], bool]:
    """Armijo's condition for a step length and the objective there, which is -inf outside its domain."""

    def accepted(length: float, outcome: tuple[float, np.ndarray]) -> bool:
        return bool(np.isfinite(outcome[0]) and outcome[0] >= value + ARMIJO * length * slope)

    return accepted


def _line_search(
    objective: Objective,
    theta: np.ndarray,
    value: float,
    score: np.ndarray,
    step: np.ndarray,
    free: np.ndarray,
) -> tuple[np.ndarray, float, np.ndarray] | None:
    """Backtrack to the Armijo condition; the objective is -inf outside its domain."""
    full = np.zeros_like(theta)
    full[free] = step
    slope = float(step @ score[free])

    def shorter(length: float, outcome: tuple[float, np.ndarray]) -> float:
        if not np.isfinite(outcome[0]):
            return 0.4 * length
        # minimiser of the parabola through value, slope and new value, kept inside [0.1, 0.6]
        drop = value + length * slope - outcome[0]
        return length * min(max(0.5 * length * slope / drop, 0.1), 0.6)

    found = backtrack(objective, theta, full, risen(value, slope), shorter=shorter, tries=MAX_HALVINGS)
    return None if found is None else (found[0], *found[1])


def _bfgs_update(inverse: np.ndarray, step: np.ndarray, change: np.ndarray) -> np.ndarray:
    curvature = float(step @ change)
    if curvature <= 1e-10 * np.sqrt((step @ step) * (change @ change)):
        return inverse
    left = inverse @ change
    inverse = inverse + np.outer(step, step) * (1.0 + (change @ left) / curvature) / curvature
    inverse -= (np.outer(left, step) + np.outer(step, left)) / curvature
    return inverse


def observed_information(objective: Objective, theta: np.ndarray, scale: np.ndarray, free: np.ndarray) -> np.ndarray:
    """Negative Hessian of the objective by central differences of its gradient.

    Parameters
    ----------
    scale : ndarray, (k_free,)
        Rough standard errors of the free elements.

    Returns
    -------
    ndarray, (k_free, k_free)
    """
    where = np.flatnonzero(free)
    out = np.empty((where.size, where.size))
    for row, (index, se) in enumerate(zip(where, scale, strict=True)):
        out[row] = -_difference(objective, theta, int(index), DIFFERENCE_STEP * se)[free]
    return symmetric(out)


def _difference(objective: Objective, theta: np.ndarray, index: int, width: float) -> np.ndarray:
    """Derivative of the gradient in one direction.

    Not `core.optimise.steps.differences`: next to the edge of the domain it is one-sided, and its width shrinks.
    """
    for _ in range(20):
        sides = []
        for signed in (width, -width):
            point = theta.copy()
            point[index] += signed
            value, gradient = objective(point)
            if np.isfinite(value):
                sides.append((signed, gradient))
        if len(sides) == 1:
            sides.append((0.0, objective(theta)[1]))
        if sides:
            (at, up), (base, down) = sides
            return (up - down) / (at - base)
        width *= 0.25
    return np.zeros_like(theta)


def _polish(
    objective: Objective,
    theta: np.ndarray,
    value: float,
    score: np.ndarray,
    inverse: np.ndarray,
    free: np.ndarray,
    history: list[float],
    steps: int,
) -> tuple[np.ndarray, float, np.ndarray, np.ndarray, bool]:
    """Newton steps with the observed information until nothing is left to gain, no more than ``steps``."""
    scale = np.sqrt(np.maximum(np.diag(inverse), 1e-16))
    info, exact = None, False
    for _ in range(NEWTON_STEPS):
        if info is None:
            info = observed_information(objective, theta, scale, free)
            factor, definite = _factor(info)
            exact = True
        step = linalg.cho_solve(factor, score[free])
        gain = 0.5 * float(step @ score[free])
        if (gain <= POLISHED_TOL and definite) or steps == 0:
            break
        steps -= 1
        moved = _line_search(objective, theta, value, score, step, free)
        if moved is None:
            # rounding decides below this gain
            definite = definite and gain <= 1e-8
            break
        theta, value, score = moved
        history.append(value)
        if gain > 1e-5 or not definite:
            scale = np.minimum(1.0 / np.sqrt(np.maximum(np.diag(info), 1e-16)), 10.0 * scale)
            info = None
            continue
        exact = False
    if not exact and gain > 1e-9:
        info = observed_information(objective, theta, scale, free)
        definite = _factor(info)[1]
    full = np.zeros((theta.size, theta.size))
    if info is not None:
        full[np.ix_(free, free)] = info
    remaining = (
        0.5 * float(score[free] @ linalg.cho_solve(_factor(info)[0], score[free])) if info is not None else np.inf
    )
    return theta, value, score, full, bool(definite and remaining < 1e-7)


def _factor(info: np.ndarray) -> tuple[tuple[np.ndarray, bool], bool]:
    """Cholesky factor of the information, lifted to positive definite where it is not; whether it was."""
    try:
        return linalg.cho_factor(info), True
    except linalg.LinAlgError:
        return linalg.cho_factor(positive_matrix(info, 1e-6)), False
