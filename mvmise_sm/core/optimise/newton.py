"""Minimisation of a criterion over theta: average-information Newton with a certificate on the boundary."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.linalg.lapack import dposv, dpotrf

from mvmise_sm.core.optimise.scipy_methods import scipy_minimum
from mvmise_sm.core.optimise.secants import Secants
from mvmise_sm.core.optimise.status import Status
from mvmise_sm.core.optimise.steps import differences, positive_matrix, positive_solve, scalar_step, symmetric
from mvmise_sm.exceptions import OptionError

if TYPE_CHECKING:
    from mvmise_sm.core.criteria.solution import Evaluation
    from mvmise_sm.core.interfaces import Criterion

__all__ = ["METHODS", "Optimum", "minimize"]

_EPS = float(np.finfo(float).eps)
# Decrements are in units of the deviance: with decrement d theta is sqrt(d / 2) standard errors from the minimum.
# Newton stops here; the step that is then at hand takes theta from 2e-5 standard errors to rounding.
_DECREMENT = 1e-9
# a point with a larger decrement, 0.2 % of a standard error away, is reported as not converged
_STATIONARY = 1e-5
# a step of this decrement moves theta by a millionth of its standard error: not worth a factorisation
_NEGLIGIBLE = 1e-12
# the step from a point with this decrement may be the last if the decrement after it, in units of that at which the
# search stops, is to be this: a millionth of a standard error from the minimum
_LAST, _UNSEEN = 1e-6, 1e-3
# with priors theta is sharp once the decrement after the next step would be this: rounding of a sum of order 100
_SHARP = 1e-14
# rounding of an objective that sums many terms of both signs: within one search, and over a whole fit
_NOISE, _ALL_NOISE = 8.0 * _EPS, 64.0 * _EPS
# a minimum from another start is another minimum if it is lower by this; two ways to one minimum differ by less
_OTHER_MINIMUM = 1e-7
# a point is beside a known minimum if it is higher by less than this, and than this share off what its shape says
_BESIDE, _ALIKE = 1e-2, 0.2
# a point off the boundary is worth a search if it is lower by this, ten decrements
_LOWER = 1e-8
# a relative standard deviation below this is tried at zero, which Newton's steps only creep up to
_SNAP = 1e-3
# zero is taken where the objective does not rise by more than the decrement at which the search stopped
_SNAP_RISE = 1e-9
# steps damped by more than this no longer move theta
_MAX_DAMPING = 1e10
# against cycling between boundaries: every way off lowers the objective, and fits take none or one
_MAX_DESCENTS = 6
# decrement, in units of the deviance, below which the Hessian is a better model than the average information
_NEAR = 1.0
# average information converges in fewer iterations unless it is a poor model of the Hessian
_SLOW = 12
# a Hessian is kept for the next step while every step leaves at most this share of the decrement
_KEPT = 1e-2
# a step is accepted if it gains this share of what the model predicts (Armijo's rule)
_ARMIJO = 1e-4
# a standard deviation that a prior keeps off zero shrinks at most tenfold in one step
_GUARDED_SHRINKAGE = 0.1
# halvings of a start with an infinite objective until it counts as zero
_START_HALVINGS = 60
# share of the largest curvature below which a direction counts as flat
_FLAT = 1e-12
# width of the forward differences of the gradient, relative; below _SMALL_THETA absolute
_DIFFERENCE, _SMALL_THETA = 1e-5, 0.1
# a share of one degree of freedom that no estimate could be based on, and above the rounding of none
_NO_INFORMATION = 1e-2
# relative standard deviations at which priors in conflict with the data have their modes: the data's, the prior's
_MAGNITUDES = np.array([1e-3, 1e-2, 0.1, 1.0, 10.0, 1e2, 1e3])

METHODS = {
    "newton": "",
    "lbfgs": "L-BFGS-B",
    "bfgs": "L-BFGS-B",
    "l-bfgs-b": "L-BFGS-B",
    "tnc": "TNC",
    "slsqp": "SLSQP",
    "nm": "Nelder-Mead",
    "powell": "Powell",
    "bobyqa": "COBYQA",
    "cobyqa": "COBYQA",
}


@dataclass(frozen=True, slots=True, eq=False)
class Optimum:
    """Outcome of a minimisation.

    Attributes
    ----------
    theta : ndarray
        User's theta (k_theta,).
    working : ndarray
        Parameters in working coordinates, a warm start for a neighbouring problem.
    value : float
        Objective at the optimum.
    converged : bool
        Whether the point is stationary (Newton decrement of the free parameters, derivative in Sigma positive
        semidefinite on the boundary); unrelated to `singular`.
    singular : bool
        Whether a covariance matrix is on the boundary.
    message : str
    retvals : dict
        ``n_evaluations``, ``n_iterations``, ``n_starts``, ``decrement``, ``gradient_norm``, ``warnflag``,
        ``converged``, ``fopt``.
    settings : dict
        ``optimizer``, ``maxiter`` and options.
    status : Status
    """

    theta: np.ndarray
    working: np.ndarray
    value: float
    converged: bool
    singular: bool
    message: str
    retvals: dict
    settings: dict
    status: Status = Status.STATIONARY


class _Counter:
    """A criterion that counts its evaluations; values that differ by `noise` may belong to one point."""

    def __init__(self, criterion: Criterion, noise: float = 0.0) -> None:
        self.criterion = criterion
        self.noise = noise
        self.lower = criterion.lower
        self.count = 0
        self.iterations = 0

    def value(self, theta: np.ndarray) -> float:
        self.count += 1
        try:
            value = self.criterion.value(theta)
        except np.linalg.LinAlgError:
            return np.inf
        return value if np.isfinite(value) else np.inf

    def evaluate(self, theta: np.ndarray) -> Evaluation:
        return self.criterion.evaluate(theta)

    def gradient(self, theta: np.ndarray) -> np.ndarray:
        return self.criterion.working_gradient(theta)


# a response that the model reproduces drives theta out of range; an overflow is refused where it is used, and a step
# from curvature that overflows is found too long or no number, and is not taken
@np.errstate(over="ignore", invalid="ignore")
def minimize(
    criterion: Criterion,
    start: np.ndarray | None = None,
    *,
    method: str = "newton",
    maxiter: int = 100,
    tol: float = _DECREMENT,
    noise: float = 0.0,
    **options: Any,
) -> Optimum:
    """Minimise a criterion.

    Parameters
    ----------
    criterion : ProfiledDeviance or alike
        Answers ``lower``, ``start()``, ``value``, ``evaluate``, ``descent_points``, ``restart_points``, ``guarded``,
        ``user_theta`` and ``is_singular`` in working coordinates.
    start : ndarray, optional
        Working start; a moment estimate by default.
    method : str, optional
        ``"newton"``, or a scipy optimiser as a cross-check: ``"lbfgs"``, ``"tnc"``, ``"slsqp"``, ``"nm"``,
        ``"powell"``, ``"bobyqa"``.
    maxiter : int, optional
        Newton iterations per start, or the optimiser's own limit.
    tol : float, optional
        Newton decrement, in units of the deviance, at which to stop.
    noise : float, optional
        Error of the objective where it is estimated: steps are then led by the gradient, and a value may rise by this.
    **options
        Passed to the scipy optimiser.

    Returns
    -------
    Optimum

    Raises
    ------
    OptionError
        If the method is unknown.
    """
    if method not in METHODS:
        raise OptionError(f"method must be one of {', '.join(sorted(METHODS))}, got {method!r}")
    counter = _Counter(criterion, noise)
    begin = np.asarray(criterion.start() if start is None else start, dtype=float)
    starts = 1
    if method == "newton":
        best = _with_descents(counter, begin, maxiter, tol)
        if start is None:
            # user priors may overflow far from the optimum; silence the warnings of this search
            with np.errstate(all="ignore"):
                for other in _along_directions(counter, best):
                    starts += 1
                    best = _lower(_with_descents(counter, other, maxiter, tol), best)
        if start is None:
            for other in criterion.other_starts(begin):
                starts += 1
                best = _lower(_with_descents(counter, other, maxiter, tol), best)
        if start is None and criterion.is_singular(best.theta):
            counter, best = _reordered(counter, best, maxiter, tol)
            for other in counter.criterion.restart_points(best):
                starts += 1
                best = _lower(_with_descents(counter, other, maxiter, tol, best), best)
    else:
        last = scipy_minimum(counter, begin, METHODS[method], maxiter, options)
        best = _snap(counter, counter.evaluate(last))
    step, decrement = _newton_step(counter, best, 0.0)
    rounding = _ALL_NOISE * abs(best.value)
    status = _status(counter, best, decrement, rounding)
    # apply the Newton step already computed: the error of theta is the square root of the objective's, and what the
    # objective gains is half of the decrement
    worth = _NEGLIGIBLE < decrement <= max(tol, rounding, _LAST)
    value = best.value - 0.5 * decrement if worth else best.value
    retvals = {
        "fopt": value,
        "n_evaluations": counter.count,
        "n_iterations": counter.iterations,
        "iterations": counter.iterations,
        "n_starts": starts,
        "decrement": decrement,
        "gradient_norm": float(np.abs(best.gradient[~_held(counter, best)]).max(initial=0.0)),
        "converged": status.converged,
        "warnflag": 0 if status.converged else 1,
        "flat": _is_flat(best, counter.criterion),
    }
    singular = counter.criterion.is_singular(best.theta)
    last = np.maximum(best.theta - step, counter.lower) if worth else best.theta
    theta = counter.criterion.user_theta(last)
    settings = {"optimizer": method, "maxiter": maxiter, "tol": tol, **options}
    working = last if counter.criterion is criterion else criterion.converted_from(counter.criterion, last)
    message = status.sentence(decrement, counter.iterations)
    return Optimum(theta, working, value, status.converged, singular, message, retvals, settings, status)


def _status(counter: _Counter, best: Evaluation, decrement: float, noise: float) -> Status:
    """Whether the best point is a minimum."""
    if not decrement <= max(_STATIONARY, noise):
        return Status.NOT_STATIONARY
    if not counter.criterion.descent_points(best, only_check=True):
        return Status.STATIONARY
    # a slope off the boundary counts where it leads lower, as it does for the search itself
    found = [counter.value(theta) for theta in counter.criterion.descent_points(best)]
    return Status.OFF_BOUNDARY if min(found, default=np.inf) < best.value - _LOWER else Status.STATIONARY


def _is_flat(best: Evaluation, criterion: Criterion) -> bool:
    """Whether theta, in units of its largest element, has a direction without information."""
    k = min(len(criterion.lower), criterion.k_theta)
    if k == 0:
        return False
    size = float(np.abs(best.theta[:k]).max(initial=0.0))
    scaled = best.information[:k, :k] * (size * size)
    scaled.flat[:: k + 1] -= _NO_INFORMATION
    # positive definite only where the smallest eigenvalue of the information exceeds the threshold
    return bool(dpotrf(scaled, lower=1)[1])


def _lower(trial: Evaluation, best: Evaluation) -> Evaluation:
    """The trial where it is another and lower minimum."""
    return trial if trial.value < best.value - _OTHER_MINIMUM else best


def _along_directions(counter: _Counter, best: Evaluation) -> list[np.ndarray]:
    """Starts along the search directions: minima over seven magnitudes, without the one where the best point lies."""
    out = []
    for direction in counter.criterion.search_directions(best):
        values = np.array([counter.value(size * direction) for size in _MAGNITUDES])
        values = np.append(np.insert(values, 0, np.inf), np.inf)
        inner = np.flatnonzero((values[1:-1] < values[:-2]) & (values[1:-1] <= values[2:]))
        for i in inner:
            nearest = direction is best.theta and abs(np.log(_MAGNITUDES[i])) < 1.0
            out.extend([] if nearest else [_MAGNITUDES[i] * direction])
    return out


def _reordered(counter: _Counter, best: Evaluation, maxiter: int, tol: float) -> tuple[_Counter, Evaluation]:
    """Go on from `best` in the parametrisation that suits it, where that is another one."""
    criterion = counter.criterion.reordered(best.theta)
    if criterion is None:
        return counter, best
    theta = criterion.converted_from(counter.criterion, best.theta)
    other = _Counter(criterion, counter.noise)
    other.count, other.iterations = counter.count, counter.iterations
    trial = _with_descents(other, theta, maxiter, tol)
    return other, trial


def _with_descents(
    counter: _Counter, start: np.ndarray, maxiter: int, tol: float, known: Evaluation | None = None
) -> Evaluation:
    """Newton from one start; where the derivative in Sigma shows a descent direction off the boundary, follow it and
    go on. A way that leads back to a `known` minimum ends there.
    """
    criterion = counter.criterion
    best = _newton(counter, start, maxiter, tol, known)
    if best is known:
        return best
    for _ in range(_MAX_DESCENTS):
        best = _snap(counter, best)
        found = [(counter.value(theta), i, theta) for i, theta in enumerate(criterion.descent_points(best))]
        if not found or min(found)[0] >= best.value - _LOWER:
            break
        best = _newton(counter, min(found)[2], maxiter, tol)
    return best


def _held(counter: _Counter, evaluation: Evaluation) -> np.ndarray:
    """Parameters that stay at their bound."""
    return (evaluation.theta <= counter.lower) & (evaluation.gradient >= 0.0)


def _newton_step(
    counter: _Counter, evaluation: Evaluation, damping: float, curvature: np.ndarray | None = None
) -> tuple[np.ndarray, float]:
    """Step on the free parameters and its decrement g'H^-1 g, H the evaluation's information or `curvature`."""
    information = evaluation.information if curvature is None else curvature
    held = _held(counter, evaluation)
    if not held.any():
        if held.size < 2:
            return scalar_step(evaluation.gradient, information, damping, _FLAT)
        g, h = evaluation.gradient, information.copy()
    elif held.all():
        return np.zeros_like(evaluation.theta), 0.0
    else:
        free = ~held
        g, h = evaluation.gradient[free], information[np.ix_(free, free)]
    diagonal = h.diagonal()
    floor = max(float(diagonal.max()), 1.0) * _FLAT
    h.flat[:: g.size + 1] += damping * np.maximum(diagonal, floor) + floor
    part, info = dposv(h, g)[1:]
    if info:
        part = positive_solve(h, g)
    if g.size == evaluation.theta.size:
        return part, float(g @ part)
    step = np.zeros_like(evaluation.theta)
    step[free] = part
    return step, float(g @ part)


def _leads_back(known: Evaluation, current: Evaluation) -> bool:
    """Whether a point is so little above a known minimum, and by as much as the shape of that minimum says, that there
    is no other one to be found.
    """
    excess = current.value - known.value
    if not 0.0 <= excess < _BESIDE:
        return False
    away = current.theta - known.theta
    predicted = float(known.gradient @ away + 0.5 * away @ known.information @ away)
    return abs(predicted - excess) < _ALIKE * excess


def _newton(
    counter: _Counter, start: np.ndarray, maxiter: int, tol: float, known: Evaluation | None = None
) -> Evaluation:
    """Damped Newton from a working start; the result is an Evaluation."""
    value = counter.value(start)
    for _ in range(_START_HALVINGS):
        if np.isfinite(value):
            break
        start = 0.5 * start
        value = counter.value(start)
    current = counter.evaluate(start)
    damping = 0.0
    guarded, lower = counter.criterion.guarded, counter.lower
    some_guarded, path, learns = bool(guarded.any()), Secants(), counter.criterion.learns_curvature
    sharp, previous = counter.criterion.sharp_theta, np.inf
    exact: Evaluation | None = None
    for iteration in range(maxiter):
        if iteration >= _SLOW:
            if exact is None or not _still_serves(counter, exact, current, previous):
                exact = replace(current, information=_exact_information(counter, current))
            current = replace(current, information=exact.information)
        curvature = _observed(counter, current, path if exact is None else None) if previous < _NEAR else None
        step, decrement = _newton_step(counter, current, damping, curvature)
        rounding = _NOISE * abs(current.value)
        noise = max(rounding, counter.noise)
        # criterion and penalty change in proportion to theta, so with priors theta has to be sharper than their sum
        after = decrement * min(1.0, decrement / previous)
        if decrement < max(tol, rounding) and damping == 0.0 and (not sharp or after < _SHARP):
            break
        if decrement < _LAST and curvature is not None and not learns and damping == 0.0:
            # errors of Newton's method are squared at every step: one that is as good as none is not looked at
            unseen = decrement * (decrement / previous) ** 2
            if unseen < _UNSEEN * tol and not ((current.theta < _SNAP) & (lower == 0.0)).any():
                return replace(current, information=curvature)
        previous = decrement
        if decrement <= 0.0 or damping > _MAX_DAMPING:
            break
        counter.iterations += 1
        theta = current.theta - step
        bound = np.where(guarded, _GUARDED_SHRINKAGE * current.theta, lower) if some_guarded else lower
        theta = np.maximum(theta, bound)
        value = counter.value(theta)
        taken = current.theta - theta
        information = current.information if curvature is None else curvature
        predicted = float(current.gradient @ taken - 0.5 * taken @ information @ taken)
        gain = current.value - value
        if gain >= -noise and (gain > _ARMIJO * predicted or predicted <= 4.0 * noise):
            following = _differentiated(counter, theta)
            if following is None:
                damping = max(4.0 * damping, 0.1)
                continue
            damping = _less(damping, gain, predicted)
            if learns:
                path.add(current, following, decrement)
            current = following
            if known is not None and _leads_back(known, current):
                return known
        elif decrement <= 4.0 * noise:
            break
        else:
            # from a tenth of the curvature upwards: less would hardly shorten the step
            damping = max(4.0 * damping, 0.1)
    return current


def _observed(counter: _Counter, evaluation: Evaluation, path: Secants | None) -> np.ndarray | None:
    """The Hessian, where the criterion knows it or the path shows it, if positive definite; it makes last steps few."""
    hessian = counter.criterion.hessian(evaluation)
    if hessian is None and path is not None and counter.criterion.learns_curvature:
        hessian = path.corrected(evaluation.information)
    if hessian is None or not np.isfinite(hessian).all() or dpotrf(hessian, lower=1)[1]:
        return None
    return hessian


def _differentiated(counter: _Counter, theta: np.ndarray) -> Evaluation | None:
    """Derivatives at a point with a finite objective; None where there are none, at the edge of a link's domain."""
    try:
        return counter.evaluate(theta)
    except np.linalg.LinAlgError:
        return None


def _still_serves(counter: _Counter, exact: Evaluation, current: Evaluation, previous: float) -> bool:
    """Whether the Hessian of an earlier point leads on from the current one: at that point itself, or where steps with
    it converge fast.
    """
    if current.theta is exact.theta:
        return True
    return _newton_step(counter, replace(current, information=exact.information), 0.0)[1] < _KEPT * previous


def _exact_information(counter: _Counter, evaluation: Evaluation) -> np.ndarray:
    """The Hessian by differences of the gradient, made positive definite; where the average information is a poor
    model.
    """
    theta = evaluation.theta

    def gradient(x: np.ndarray) -> np.ndarray:
        counter.value(x)
        return counter.gradient(x)

    widths = _DIFFERENCE * np.maximum(np.abs(theta), _SMALL_THETA)
    hessian = symmetric(differences(gradient, theta, widths, evaluation.gradient))
    # in units of the parameters' own curvatures: estimates that run to infinity have little, and go on all the same
    size = np.maximum(np.abs(hessian.diagonal()), evaluation.information.diagonal())
    unit = np.sqrt(np.maximum(size, _FLAT * max(float(size.max(initial=0.0)), _FLAT)))
    return positive_matrix(hessian / np.outer(unit, unit)) * np.outer(unit, unit)


def _less(damping: float, gain: float, predicted: float) -> float:
    """Damping after an accepted step: a tenth where the model predicted well, otherwise half; none once it is small
    beside the curvature.
    """
    if damping < 1e-3:
        return 0.0
    return damping * (0.1 if gain > 0.5 * predicted else 0.5)


def _snap(counter: _Counter, evaluation: Evaluation) -> Evaluation:
    """Set small scale-like parameters to zero where the objective does not rise."""
    small = evaluation.theta < _SNAP
    if not small.any():
        return evaluation
    small &= (counter.lower == 0.0) & (evaluation.theta > 0.0) & ~counter.criterion.guarded
    for i in np.flatnonzero(small):
        theta = evaluation.theta.copy()
        theta[i] = 0.0
        if counter.value(theta) <= evaluation.value + _SNAP_RISE:
            evaluation = counter.evaluate(theta)
    return evaluation
