"""What the Newton iterations of the package share: steps downhill, the line search, and derivatives by differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np

__all__ = ["backtrack", "differences", "first_taken", "positive_matrix", "positive_solve", "scalar_step", "symmetric"]

# eigenvalues below this share of the largest are noise: steps along them would be as long as rounding pleases
_FLOOR = 1e-8

T = TypeVar("T")


def symmetric(h: np.ndarray) -> np.ndarray:
    """Symmetric part of a square matrix (k, k)."""
    return 0.5 * (h + h.T)


def _lifted(values: np.ndarray, floor: float) -> np.ndarray:
    """Absolute eigenvalues (k,), none below `floor` times the largest."""
    size = np.abs(values)
    return np.maximum(size, floor * max(float(size.max(initial=0.0)), _FLOOR))


def positive_matrix(h: np.ndarray, floor: float = _FLOOR) -> np.ndarray:
    """The symmetric matrix `h` (k, k) with the absolute values of its eigenvalues, which is positive definite."""
    values, vectors = np.linalg.eigh(h)
    return (vectors * _lifted(values, floor)) @ vectors.T


def positive_solve(h: np.ndarray, g: np.ndarray, floor: float = _FLOOR) -> np.ndarray:
    """Solve ``positive_matrix(h) x = g`` for g (k,) or (k, c): -x descends along a gradient g whatever h is.

    Raises
    ------
    numpy.linalg.LinAlgError
        If `h` is not finite.
    """
    if not np.isfinite(h).all():
        raise np.linalg.LinAlgError("the second derivatives are not finite")
    values, vectors = np.linalg.eigh(h)
    lifted = _lifted(values, floor)
    return vectors @ ((vectors.T @ g) / (lifted if g.ndim == 1 else lifted[:, None]))


def first_taken(attempt: Callable[[float], T | None], length: float = 1.0, shortest: float = 1e-8) -> T | None:
    """What the longest of the steps `length`, half of it, ... above `shortest` gives; None where none is taken.

    Parameters
    ----------
    attempt : callable
        Length -> the outcome, None where the step is refused.
    length, shortest : float, optional
    """
    while length > shortest:
        found = attempt(length)
        if found is not None:
            return found
        length *= 0.5
    return None


def backtrack(
    evaluate: Callable[[np.ndarray], T],
    x: np.ndarray,
    step: np.ndarray,
    accepted: Callable[[float, T], bool],
    *,
    length: float = 1.0,
    shorter: Callable[[float, T], float] = lambda length, outcome: 0.5 * length,
    tries: int = 30,
) -> tuple[np.ndarray, T] | None:
    """The first accepted point on a segment.

    Parameters
    ----------
    evaluate : callable
        Point (k,) -> anything that `accepted` and `shorter` understand.
    x, step : ndarray
        Points are ``x + length * step`` (k,).
    accepted : callable
        (length, outcome) -> whether the point will do.
    length : float, optional
        The first length.
    shorter : callable, optional
        (length, outcome) -> the next length; half by default.
    tries : int, optional
        Thirty halvings reach a billionth of the step.

    Returns
    -------
    (ndarray, outcome) or None
        None where no point is accepted.
    """
    for _ in range(tries):
        point = x + length * step
        outcome = evaluate(point)
        if accepted(length, outcome):
            return point, outcome
        length = shorter(length, outcome)
    return None


def differences(
    f: Callable[[np.ndarray], np.ndarray], x: np.ndarray, steps: np.ndarray, at: np.ndarray | None = None
) -> np.ndarray:
    """Derivatives of a vector by differences.

    Parameters
    ----------
    f : callable
        x (k,) -> values (m,).
    x : ndarray
        (k,).
    steps : ndarray
        Widths (k,); zero leaves out a parameter.
    at : ndarray, optional
        f(x) (m,): forward differences from it in place of central ones.

    Returns
    -------
    ndarray
        d f / d x_i in row i (k, m), zeros where the width is zero. For a gradient f this is the Hessian, symmetric up
        to rounding.
    """
    rows: dict[int, np.ndarray] = {}
    for i in np.flatnonzero(steps).tolist():
        up = x.copy()
        up[i] += steps[i]
        if at is not None:
            # the step that was taken, not the one that was asked for
            rows[i] = (f(up) - at) / (up[i] - x[i])
            continue
        down = x.copy()
        down[i] -= steps[i]
        rows[i] = (f(up) - f(down)) / (up[i] - down[i])
    width = next(iter(rows.values())).size if rows else x.size
    return np.array([rows.get(i, np.zeros(width)) for i in range(x.size)]).reshape(x.size, width)


def scalar_step(gradient: np.ndarray, information: np.ndarray, damping: float, flat: float) -> tuple[np.ndarray, float]:
    """Damped Newton step (1,) and its decrement for the one parameter that most small models have, or for none.

    Parameters
    ----------
    gradient, information : ndarray
        (1,) and (1, 1), or empty.
    damping, flat : float
        Shares of the curvature that are added.
    """
    if not gradient.size:
        return np.zeros(0), 0.0
    g, h = float(gradient[0]), float(information[0, 0])
    floor = max(h, 1.0) * flat
    h += damping * max(h, floor) + floor
    step = g / h if h > 0.0 else float(positive_solve(np.array([[h]]), gradient)[0])
    return np.array([step]), g * step
