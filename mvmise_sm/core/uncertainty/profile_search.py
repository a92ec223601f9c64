"""The profile of a parameter: its points from the estimate outwards, and where it reaches a quantile, if anywhere.

Every likelihood is profiled by this search. What differs is how the optimum with the parameter held is found: each
`ProfiledParameter` brings its own solver.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from mvmise_sm.core.interfaces import Evaluate
from mvmise_sm.core.optimise.constrained import ConstrainedPoint, free_minimum

__all__ = ["ProfiledParameter", "end", "freed_from_zero", "interval", "pulled_back", "trace"]

Solver = Callable[[float, np.ndarray], ConstrainedPoint]

# the first step of a path in standard errors, and what later ones add to zeta
_STEP = 0.5
# a path closes in on values without a likelihood, or on the end of its range, down to this share of a standard error
_SHORTEST = 0.02
# the longest first step in units of the parameter, and how much farther out a next one may go
_LONGEST, _FARTHER = 5.0, 2.0
_PULL = 1e-3
# this many units away, and twice the estimate, without a change of zeta: the profile has ended
_FAR_OUT, _NO_CHANGE = 60.0, 1e-6
# this many units or standard errors away nothing is left to reach
_NOWHERE = 1e3
# the same without a unit: this many standard errors and estimates away, and no rise
_VERY_FAR = 100.0
# the least first step, in units: standard errors of infinite estimates are nothing
_FIRST = 0.05
# relative distance from the quantile at which an end is found, and how far outside of it another optimum is looked for
_REACHED, _OUTSIDE = 1e-7, 0.5
# distance from the quantile up to which a search that was stopped still has an end
_NEARLY = 1e-3
# relative difference in zeta up to which two optima are one: a search that has just ended is no more exact
_SAME = 1e-4


@dataclass(frozen=True, eq=False)
class ProfiledParameter:
    """A parameter that can be profiled.

    Attributes
    ----------
    name, kind : str
        Row name; ``"fixed"``, ``"sd"``, ``"cor"``, ``"sigma"`` or another word.
    solve : callable
        (c, start) -> the optimum with the parameter at c, found from a nearby point (k,).
    estimate, se : float
        On the scale of c.
    lower, upper : float
        Range of c.
    shown : callable
        c -> the parameter as reported.
    origin : ndarray
        Parameters at the optimum (k,).
    minimum : float
        Objective there, on the scale of the deviance.
    unit : float
        A change that matters, where the profile may be flat for ever: of a coefficient what moves a linear predictor
        by one, of others a standard error. Zero where the profile rises unless the data bound nothing.
    unbounded : str
        What an infinite interval says of the data; empty where that is no matter for a warning.
    has_edge : bool
        Whether values without a likelihood are outside of the model, so that the interval ends there; elsewhere they
        are failures of the arithmetic.
    several_optima : bool
        Whether the objective may have another optimum far out, so that an end is also approached from there.
    """

    name: str
    kind: str
    solve: Solver
    estimate: float
    se: float
    lower: float = -np.inf
    upper: float = np.inf
    shown: Callable[[float], float] = float
    origin: np.ndarray | None = None
    minimum: float = np.nan
    unit: float = 0.0
    unbounded: str = ""
    has_edge: bool = False
    several_optima: bool = False

    def at(self, c: float, start: np.ndarray) -> ConstrainedPoint | None:
        """The constrained optimum; None where no point near `start` (k,) has a likelihood."""
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                point = self.solve(c, start)
        except np.linalg.LinAlgError:
            return None
        return point if np.isfinite(point.value) and np.isfinite(point.x).all() else None

    def optimum(self) -> ConstrainedPoint:
        """Where every profile begins."""
        if self.origin is None:
            raise ValueError(f"the optimum of the profile of {self.name!r} is not known")
        return ConstrainedPoint(self.estimate, self.origin, self.minimum, 0.0, np.zeros_like(self.origin), True)

    def zeta(self, point: ConstrainedPoint) -> float:
        """Square root of what the objective is above its minimum."""
        return float(np.sqrt(max(point.value - self.minimum, 0.0)))

    def is_flat(self, c: float, gained: float) -> bool:
        """Whether the profile has ended: far out, and nothing gained by a long step."""
        away = abs(c - self.estimate)
        if not self.unit:
            return gained < _NO_CHANGE and away >= _VERY_FAR * max(self.se, abs(self.estimate))
        far = away >= max(_FAR_OUT * self.unit, 2.0 * abs(self.estimate))
        return far and (abs(gained) < _NO_CHANGE or away > _NOWHERE * max(self.unit, self.se))


def freed_from_zero(solve: Solver, elements: np.ndarray, *, zero: float, away: float, gain: float = 1e-10) -> Solver:
    """A solver that also looks for an optimum away from variances of zero.

    The objective is even in roots of variances, so zero is always stationary and a warm start stays there, although
    with another parameter held the variance may well be positive.

    Parameters
    ----------
    solve : callable
        (c, start) -> ConstrainedPoint.
    elements : ndarray of int
        The roots.
    zero, away : float
        Size up to which a root counts as zero, and where the search away from zero starts.
    gain : float, optional
        How much lower the objective must be there.
    """

    def both(c: float, start: np.ndarray) -> ConstrainedPoint:
        point = solve(c, start)
        stays = elements[np.abs(point.x[elements]) < zero]
        if not stays.size:
            return point
        moved = np.array(point.x)
        moved[stays] = away
        other = solve(c, moved)
        return other if other.converged and other.value < point.value - gain else point

    return both if elements.size else solve


def pulled_back(evaluate: Evaluate, x: np.ndarray, fixed: slice, rows: np.ndarray) -> np.ndarray:
    """Where a faint quadratic penalty holds infinite estimates: a point of nearly the same objective, with curvature.

    Parameters
    ----------
    evaluate : callable
        x (k,) -> value, gradient, information.
    x : ndarray
        Optimum (k,).
    fixed : slice
        Place of the fixed effects; the search for the point begins with zeros there.
    rows : ndarray
        The infinite effects in units of the linear predictor are ``rows @ x`` (m,).
    """

    def penalised(at: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        value, gradient, information = evaluate(at)
        effects = rows @ at
        return (
            value + _PULL * float(effects @ effects),
            gradient + 2.0 * _PULL * (effects @ rows),
            information + 2.0 * _PULL * (rows.T @ rows),
        )

    start = np.array(x)
    start[fixed] = 0.0
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            return free_minimum(penalised, start)[0]
    except np.linalg.LinAlgError:
        return x


def interval(parameter: ProfiledParameter, z: float) -> tuple[float, float]:
    """Both ends as reported, where zeta is `z`; NaN for a parameter without an estimate."""
    if not np.isfinite(parameter.estimate):
        return np.nan, np.nan
    return parameter.shown(end(parameter, -1.0, z)), parameter.shown(end(parameter, 1.0, z))


def trace(parameter: ProfiledParameter, reach: float) -> list[tuple[float, float]]:
    """Pairs of reported value and signed root of the likelihood ratio, from one end to the other."""
    rows = [(parameter.shown(parameter.estimate), 0.0)]
    for side in (-1.0, 1.0):
        for point in _path(parameter, side, reach):
            rows.append((parameter.shown(point.c), side * parameter.zeta(point)))
    return sorted(rows, key=lambda row: row[0])


def _path(parameter: ProfiledParameter, side: float, reach: float) -> Iterator[ConstrainedPoint]:
    """Points of a profile from the estimate outwards, until zeta reaches `reach` or the profile ends."""
    point = parameter.optimum()
    c, step, before = parameter.estimate, _STEP * parameter.se, 0.0
    limit, shortest = parameter.lower if side < 0 else parameter.upper, _SHORTEST * parameter.se
    for _ in range(40):
        target = c + side * step
        if not parameter.lower < target < parameter.upper:
            target = 0.5 * (c + limit)
            if not np.isfinite(target) or abs(target - c) < shortest:
                return
        following = parameter.at(target, _predicted(point, target))
        if following is None:
            if not parameter.has_edge or abs(target - c) < shortest:
                return
            step = 0.5 * abs(target - c)
            continue
        point = following
        reached = parameter.zeta(point)
        if parameter.is_flat(target, reached - before):
            return
        yield point
        if reached >= reach:
            return
        gained = max(reached - before, 0.05)
        step = float(np.clip(abs(target - c) * _STEP / gained, 0.2 * abs(target - c), 3.0 * abs(target - c)))
        c, before = target, reached


def _predicted(point: ConstrainedPoint, c: float) -> np.ndarray:
    return point.x + (c - point.c) * point.tangent


def end(parameter: ProfiledParameter, side: float, z: float) -> float:
    """Value of c at which zeta is `z`, by Newton's method on zeta; the end of the range where zeta stays below, which
    is infinite where the profile goes flat; NaN where no value can be found.
    """
    limit = parameter.lower if side < 0 else parameter.upper
    inside, outside = parameter.estimate, limit
    if abs(limit - parameter.estimate) <= 1e-9:
        return limit
    first = z * max(parameter.se, _FIRST * parameter.unit)
    if parameter.unit:
        # a standard error from a flat likelihood is no guide
        first = min(first, _LONGEST * parameter.unit)
    c = parameter.estimate + side * first
    before = np.inf
    point = origin = parameter.optimum()
    reached = 0.0
    touched = fails = False
    for _ in range(60):
        if not min(inside, outside) < c < max(inside, outside):
            c = 0.5 * (inside + outside) if np.isfinite(outside) else inside + 2.0 * (inside - parameter.estimate)
            if np.isfinite(limit) and outside == limit and not touched:
                c, touched = limit - side * 1e-4 * abs(limit - parameter.estimate), True
        following = parameter.at(c, _predicted(point, c))
        if parameter.unit and (following is None or not following.converged):
            # once more from the optimum: the last point was too far away
            again = parameter.at(c, origin.x)
            following = (
                again if following is None or (again is not None and again.value < following.value) else following
            )
        if following is None:
            outside, fails = c, not parameter.has_edge
            if abs(outside - inside) < 1e-10 * max(abs(inside), parameter.se):
                break
            c = np.nan
            continue
        point = following
        reached = parameter.zeta(point)
        if reached < z and parameter.is_flat(c, reached - before):
            return side * np.inf
        before = reached
        if abs(reached - z) < _REACHED * z:
            lower = _from_outside(parameter, point, side) if parameter.several_optima else None
            if lower is None:
                return c
            point, reached, outside = lower, parameter.zeta(lower), limit
        if reached < z:
            inside = c
            if touched and outside == limit and abs(c - limit) <= 2e-4 * abs(limit - parameter.estimate):
                return limit
        else:
            outside, fails = c, False
        if abs(outside - inside) < 1e-10 * max(abs(inside), parameter.se):
            break
        slope = side * point.slope / (2.0 * reached) if reached > 0.0 else 0.0
        ahead = (z - reached) / slope if slope > 0.0 else np.nan
        if parameter.unit and not np.isfinite(outside):
            ahead = min(ahead, _FARTHER * abs(c - parameter.estimate))
        c = c + side * ahead
        # a NaN fails the test at the head of the loop and leads to bisection
    else:
        fails = fails or abs(reached - z) > _NEARLY * z
    return np.nan if fails else c


def _from_outside(parameter: ProfiledParameter, point: ConstrainedPoint, side: float) -> ConstrainedPoint | None:
    """A lower optimum at the same value, reached from farther out; None where there is none."""
    far = point.c + side * _OUTSIDE * abs(point.c - parameter.estimate)
    beyond = parameter.at(far, point.x) if parameter.lower < far < parameter.upper else None
    again = None if beyond is None else parameter.at(point.c, beyond.x)
    if again is None or parameter.zeta(again) > (1.0 - _SAME) * parameter.zeta(point):
        return None
    return again
