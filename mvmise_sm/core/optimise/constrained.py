"""Optima under one constraint, the points of a likelihood profile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from mvmise_sm.core.interfaces import Constraint, Evaluate

__all__ = ["ConstrainedPoint", "Coordinate", "Correlation", "StandardDeviation", "constrained_minimum", "free_minimum"]

_TOLERANCE = 1e-8
_MAX_ITERATIONS = 60


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
        v = max(float(theta @ half), 1e-100)
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
        v1, v2 = (max(float(theta @ m @ theta), 1e-100) for m in self.own)
        w = float(theta @ self.cross @ theta)
        s = np.sqrt(v1 * v2)
        r = np.clip(w / s, -1.0 + 1e-12, 1.0 - 1e-12)
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
    at, slope, bend = constraint(x)
    scale = max(abs(c), abs(at), 1e-8)
    weight = 0.0
    for _ in range(_MAX_ITERATIONS):
        multiplier = float(slope @ g) / max(float(slope @ slope), 1e-300)
        step, multiplier, decrement, _ = _kkt_step(g, h, multiplier, slope, bend, c - at)
        if decrement < _TOLERANCE and abs(c - at) < 1e-9 * scale:
            break
        weight = max(weight, 2.0 * abs(multiplier))
        merit = value + weight * abs(at - c)
        trial = None
        for _ in range(30):
            candidate = x + step
            value_c = _value(evaluate, candidate)
            if value_c is not None:
                at_c = constraint(candidate)[0]
                noise = 1e-12 * abs(value)
                if value_c[0] + weight * abs(at_c - c) <= merit + noise:
                    trial = value_c
                    break
            step = 0.5 * step
        if trial is None:
            break
        x = x + step
        value, g, h = trial
        at, slope, bend = constraint(x)
    multiplier = float(slope @ g) / max(float(slope @ slope), 1e-300)
    _, multiplier, decrement, tangent = _kkt_step(g, h, multiplier, slope, bend, c - at)
    converged = bool(decrement < 1e-4 and abs(c - at) < 1e-6 * scale)
    return ConstrainedPoint(c, x, value, multiplier, tangent, converged)


def free_minimum(evaluate: Evaluate, start: np.ndarray) -> tuple[np.ndarray, float]:
    """Minimise without a constraint, by Newton's method from a start (k,); returns x (k,) and the value there."""
    x = np.array(start, dtype=float)
    value, g, h = evaluate(x)
    for _ in range(60):
        values, vectors = np.linalg.eigh(h)
        step = vectors @ ((vectors.T @ g) / np.maximum(values, 1e-10 * max(values[-1], 1e-8)))
        if float(g @ step) < _TOLERANCE:
            break
        for _ in range(30):
            trial = _value(evaluate, x - step)
            if trial is not None and trial[0] <= value + 1e-12 * abs(value):
                break
            step = 0.5 * step
        else:
            break
        x = x - step
        value, g, h = trial
    return x, value


def _value(evaluate: Evaluate, x: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    try:
        out = evaluate(x)
    except np.linalg.LinAlgError:
        return None
    return out if np.isfinite(out[0]) else None


def _kkt_step(
    g: np.ndarray, h: np.ndarray, multiplier: float, slope: np.ndarray, bend: np.ndarray, missing: float
) -> tuple[np.ndarray, float, float, np.ndarray]:
    """Step, multiplier, decrement inside the constraint and tangent d x / d c."""
    w = h - multiplier * bend
    k = g.size
    length = np.sqrt(float(slope @ slope))
    normal = slope / max(length, 1e-300)
    basis = np.linalg.qr(np.column_stack([normal, np.eye(k)]))[0][:, 1:k]
    inner = basis.T @ w @ basis
    if k > 1:
        values, vectors = np.linalg.eigh(0.5 * (inner + inner.T))
        floor = 1e-10 * max(float(np.abs(values).max()), 1e-8)
        inverse = (vectors / np.maximum(np.abs(values), floor)) @ vectors.T
    else:
        inverse = np.zeros((0, 0))
    along = normal / max(length, 1e-300)
    tangent = along - basis @ (inverse @ (basis.T @ (w @ along)))
    inside = basis @ (inverse @ (basis.T @ g))
    step = missing * tangent - inside
    multiplier = float(along @ (g + w @ step))
    return step, multiplier, float(g @ inside), tangent
