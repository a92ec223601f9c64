"""Optima under one constraint, the points of a likelihood profile."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from mvmise_sm.core.optimise.steps import backtrack, positive_solve, symmetric

if TYPE_CHECKING:
    from mvmise_sm.core.interfaces import Constraint, Evaluate

__all__ = ["ConstrainedPoint", "Coordinate", "Correlation", "StandardDeviation", "constrained_minimum", "free_minimum"]

# decrement, in units of the deviance, at which a search stops: theta is within 1e-4 standard errors
_TOLERANCE = 1e-8
# a point of a profile counts as converged with a decrement up to this: the profile is off by as much
_ACCEPTED = 1e-4
# relative distance from the constraint at which a search stops, and up to which a point counts as on it
_ON_CONSTRAINT, _NEAR_CONSTRAINT = 1e-9, 1e-6
# Newton's method takes about six; curved constraints up to twenty
_MAX_ITERATIONS = 60
# rounding of an objective that sums many terms
_NOISE = 1e-12
# share of the largest curvature below which a direction counts as flat
_FLAT = 1e-10
# no variance, and a correlation is as near to one as its inverse hyperbolic tangent can tell
_NO_VARIANCE, _NEAR_ONE = 1e-100, 1e-12
# keeps divisions by a gradient of zero finite
_TINY = 1e-300


@dataclass(frozen=True, slots=True, eq=False)
class ConstrainedPoint:
    """A minimum of the objective where a function of the parameters has a given value.

    Attributes
    ----------
    c : float
        Value of the function.
    x : ndarray
        Parameters (k,).
    value : float
        Objective.
    slope : float
        d value / d c.
    tangent : ndarray
        d x / d c along the profile (k,).
    converged : bool
    """

    c: float
    x: np.ndarray
    value: float
    slope: float
    tangent: np.ndarray
    converged: bool


class Coordinate:
    """A linear function of the parameters.

    Parameters
    ----------
    weights : ndarray
        (k,).
    """

    def __init__(self, weights: np.ndarray) -> None:
        self.weights = weights

    def __call__(self, x: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """Value, gradient (k,) and Hessian (k, k)."""
        return float(self.weights @ x), self.weights, np.zeros((x.size, x.size))


class StandardDeviation:
    """sqrt(exp(rho) theta'M theta): the standard deviation of one column of a random-effects term.

    Parameters
    ----------
    rows : ndarray
        The column's row of Lambda as a linear function of theta (q, k_term); M = rows'rows.
    at : slice
        Place of the term in the parameters.
    rho : int or None
        Place of log sigma2 in the parameters; None where theta is absolute.
    """

    def __init__(self, rows: np.ndarray, at: slice, rho: int | None) -> None:
        self.form = rows.T @ rows
        self.at, self.rho = at, rho

    def __call__(self, x: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """Value, gradient (k,) and Hessian (k, k)."""
        theta = x[self.at]
        half = self.form @ theta
        v = max(float(theta @ half), _NO_VARIANCE)
        sd = np.sqrt(v) if self.rho is None else np.sqrt(v * np.exp(x[self.rho]))
        # derivatives of log sd first
        gradient = np.zeros(x.size)
        gradient[self.at] = half / v
        hessian = np.zeros((x.size, x.size))
        hessian[self.at, self.at] = self.form / v - 2.0 * np.outer(half, half) / v**2
        if self.rho is not None:
            gradient[self.rho] = 0.5
        return float(sd), sd * gradient, sd * (hessian + np.outer(gradient, gradient))


class Correlation:
    """The inverse hyperbolic tangent of the correlation of two columns of a random-effects term.

    Parameters
    ----------
    first, second : ndarray
        Rows of Lambda as linear functions of theta (q, k_term).
    at : slice
        Place of the term in the parameters.
    """

    def __init__(self, first: np.ndarray, second: np.ndarray, at: slice) -> None:
        self.own = (first.T @ first, second.T @ second)
        cross = first.T @ second
        self.cross = 0.5 * (cross + cross.T)
        self.at = at

    def __call__(self, x: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """Value, gradient (k,) and Hessian (k, k)."""
        theta = x[self.at]
        v1, v2 = (max(float(theta @ m @ theta), _NO_VARIANCE) for m in self.own)
        w = float(theta @ self.cross @ theta)
        s = np.sqrt(v1 * v2)
        r = np.clip(w / s, -1.0 + _NEAR_ONE, 1.0 - _NEAR_ONE)
        g1, g2, gw = 2.0 * self.own[0] @ theta, 2.0 * self.own[1] @ theta, 2.0 * self.cross @ theta
        log_s = 0.5 * (g1 / v1 + g2 / v2)
        dr = gw / s - r * log_s
        curved = self.own[0] / v1 + self.own[1] / v2
        curved = curved - 0.5 * (np.outer(g1, g1) / v1**2 + np.outer(g2, g2) / v2**2)
        d2 = 2.0 * self.cross / s - np.outer(gw, log_s) / s - np.outer(log_s, dr) - r * curved
        scale = 1.0 / (1.0 - r * r)
        gradient, hessian = np.zeros(x.size), np.zeros((x.size, x.size))
        gradient[self.at] = scale * dr
        hessian[self.at, self.at] = scale * 0.5 * (d2 + d2.T) + 2.0 * r * scale**2 * np.outer(dr, dr)
        return float(np.arctanh(r)), gradient, hessian


def constrained_minimum(evaluate: Evaluate, constraint: Constraint, c: float, start: np.ndarray) -> ConstrainedPoint:
    """Minimise where the constraint has the value `c`, by Newton's method on the Lagrangian.

    Parameters
    ----------
    evaluate : callable
        x -> value, gradient (k,), positive semidefinite approximation of the Hessian (k, k).
    constraint : callable
        x -> value, gradient, Hessian.
    c : float
    start : ndarray
        (k,).

    Returns
    -------
    ConstrainedPoint
    """
    x = np.array(start, dtype=float)
    value, g, h = evaluate(x)
    at, slope, curvature = constraint(x)
    scale = max(abs(c), abs(at), 1e-8)
    weight = 0.0
    for _ in range(_MAX_ITERATIONS):
        multiplier = float(slope @ g) / max(float(slope @ slope), _TINY)
        step, multiplier, decrement, _ = _kkt_step(g, h, multiplier, slope, curvature, c - at)
        if decrement < _TOLERANCE and abs(c - at) < _ON_CONSTRAINT * scale:
            break
        weight = max(weight, 2.0 * abs(multiplier))
        merit = value + weight * abs(at - c) + _NOISE * abs(value)
        found = backtrack(partial(_trial, evaluate, constraint), x, step, partial(_falls, merit, weight, c))
        if found is None:
            break
        x, (value, g, h, _) = found
        at, slope, curvature = constraint(x)
    multiplier = float(slope @ g) / max(float(slope @ slope), _TINY)
    _, multiplier, decrement, tangent = _kkt_step(g, h, multiplier, slope, curvature, c - at)
    converged = bool(decrement < _ACCEPTED and abs(c - at) < _NEAR_CONSTRAINT * scale)
    return ConstrainedPoint(c, x, value, multiplier, tangent, converged)


def free_minimum(evaluate: Evaluate, start: np.ndarray) -> tuple[np.ndarray, float]:
    """Minimise without a constraint, by Newton's method from a start (k,); returns x (k,) and the value there."""
    x = np.array(start, dtype=float)
    value, g, h = evaluate(x)
    for _ in range(_MAX_ITERATIONS):
        step = positive_solve(h, g, _FLAT)
        if float(g @ step) < _TOLERANCE:
            break
        found = backtrack(
            partial(_trial, evaluate, None), x, -step, partial(_falls, value + _NOISE * abs(value), 0.0, 0.0)
        )
        if found is None:
            break
        x, (value, g, h, _) = found
    return x, value


# value, gradient and information of the objective, and the value of the constraint; the value is infinite where there
# is none
Trial = tuple[float, np.ndarray, np.ndarray, float]


def _trial(evaluate: Evaluate, constraint: Constraint | None, x: np.ndarray) -> Trial:
    try:
        value, gradient, information = evaluate(x)
    except np.linalg.LinAlgError:
        return np.inf, x, x, 0.0
    if not np.isfinite(value):
        return np.inf, gradient, information, 0.0
    return value, gradient, information, 0.0 if constraint is None else constraint(x)[0]


def _falls(merit: float, weight: float, c: float, length: float, trial: Trial) -> bool:
    return bool(trial[0] + weight * abs(trial[3] - c) <= merit)


def _kkt_step(
    g: np.ndarray, h: np.ndarray, multiplier: float, slope: np.ndarray, curvature: np.ndarray, missing: float
) -> tuple[np.ndarray, float, float, np.ndarray]:
    """Step, multiplier, decrement inside the constraint and tangent d x / d c."""
    w = h - multiplier * curvature
    k = g.size
    length = np.sqrt(float(slope @ slope))
    normal = slope / max(length, _TINY)
    basis = np.linalg.qr(np.column_stack([normal, np.eye(k)]))[0][:, 1:k]
    inverse = positive_solve(symmetric(basis.T @ w @ basis), np.eye(k - 1), _FLAT)
    along = normal / max(length, _TINY)
    tangent = along - basis @ (inverse @ (basis.T @ (w @ along)))
    inside = basis @ (inverse @ (basis.T @ g))
    step = missing * tangent - inside
    multiplier = float(along @ (g + w @ step))
    return step, multiplier, float(g @ inside), tangent
