"""Along a profile: its points from the estimate outwards, and where it reaches a quantile, if anywhere."""

from __future__ import annotations

import numpy as np

from mvmise_sm.core.optimise.constrained import ConstrainedPoint, free_minimum

__all__ = ["end", "path", "pulled_back", "zeta"]

_STEP = 0.5
# the longest first step in units of the linear predictor, and how much farther out a next one may go
_LONGEST, _FARTHER = 5.0, 2.0
_PULL = 1e-3
# an effect this many units of the link away, and twice its estimate, without a change of zeta: the profile has ended
_FAR_OUT, _NO_CHANGE = 60.0, 1e-6
# the least first step, in the same units: standard errors of infinite estimates are nothing
_FIRST = 0.05


def pulled_back(evaluate, x, fixed, rows):
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

    def penalised(at):
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


def zeta(point, minimum):
    """Square root of what the objective is above its minimum."""
    return float(np.sqrt(max(point.value - minimum, 0.0)))


def path(parameter, side, reach):
    """Points of a profile from the estimate outwards, until zeta reaches `reach` or the range ends."""
    x, minimum = parameter.origin, parameter.minimum
    point = ConstrainedPoint(parameter.estimate, x, minimum, 0.0, np.zeros_like(x), True)
    c, step, before = parameter.estimate, _STEP * parameter.se, 0.0
    for _ in range(40):
        target = c + side * step
        if not parameter.lower < target < parameter.upper:
            target = 0.5 * (c + (parameter.lower if side < 0 else parameter.upper))
            if not np.isfinite(target) or abs(target - c) < 0.02 * parameter.se:
                return
        following = parameter.at(target, _predicted(point, target))
        if following is None:
            return
        point = following
        reached = zeta(point, minimum)
        yield point
        if reached >= reach:
            return
        gained = max(reached - before, 0.05)
        step = float(np.clip(abs(target - c) * _STEP / gained, 0.2 * abs(target - c), 3.0 * abs(target - c)))
        c, before = target, reached


def _predicted(point, c):
    return point.x + (c - point.c) * point.tangent


def end(parameter, side, z):
    """Value of c at which zeta is `z`, by Newton's method on zeta; the end of the range where zeta stays below, which
    is infinite for separated coefficients.
    """
    x, minimum = parameter.origin, parameter.minimum
    limit = parameter.lower if side < 0 else parameter.upper
    inside, outside = parameter.estimate, limit
    if abs(limit - parameter.estimate) <= 1e-9:
        return limit
    first = z * max(parameter.se, _FIRST * parameter.unit)
    far = max(_FAR_OUT * parameter.unit, 2.0 * abs(parameter.estimate))
    if parameter.unit:
        # a standard error from a flat likelihood is no guide
        first = min(first, _LONGEST * parameter.unit)
    c = parameter.estimate + side * first
    before = np.inf
    point = ConstrainedPoint(parameter.estimate, x, minimum, 0.0, np.zeros_like(x), True)
    touched = False
    for _ in range(60):
        if not min(inside, outside) < c < max(inside, outside):
            c = 0.5 * (inside + outside) if np.isfinite(outside) else inside + 2.0 * (inside - parameter.estimate)
            if np.isfinite(limit) and outside == limit and not touched:
                c, touched = limit - side * 1e-4 * abs(limit - parameter.estimate), True
        following = parameter.at(c, _predicted(point, c))
        if parameter.unit and (following is None or not following.converged):
            # once more from the optimum: the last point was too far away
            again = parameter.at(c, x)
            following = (
                again if following is None or (again is not None and again.value < following.value) else following
            )
        if following is None:
            outside = c
            if abs(outside - inside) < 1e-10 * max(abs(inside), parameter.se):
                return np.nan
            c = np.nan
            continue
        point = following
        reached = zeta(point, minimum)
        if parameter.unit and reached < z and abs(c - parameter.estimate) >= far and abs(reached - before) < _NO_CHANGE:
            return side * np.inf
        before = reached
        if abs(reached - z) < 1e-7 * z:
            return c
        if reached < z:
            inside = c
            if touched and outside == limit and abs(c - limit) <= 2e-4 * abs(limit - parameter.estimate):
                return limit
        else:
            outside = c
        if abs(outside - inside) < 1e-10 * max(abs(inside), parameter.se):
            break
        slope = side * point.slope / (2.0 * reached) if reached > 0.0 else 0.0
        ahead = (z - reached) / slope if slope > 0.0 else np.nan
        if parameter.unit and not np.isfinite(outside):
            ahead = min(ahead, _FARTHER * abs(c - parameter.estimate))
        c = c + side * ahead
        # a NaN fails the test at the head of the loop and leads to bisection
    return c
