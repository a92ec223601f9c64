"""Scipy's optimisers on a criterion, as a cross-check of Newton's method."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from scipy import optimize

__all__ = ["scipy_minimum"]


class Counted(Protocol):
    """A criterion in working coordinates that counts what it is asked.

    Attributes
    ----------
    lower : ndarray
        Lower bounds (k,).
    iterations : int
    """

    lower: np.ndarray
    iterations: int

    def value(self, theta: np.ndarray) -> float:
        """Objective, infinite where there is none."""

    def gradient(self, theta: np.ndarray) -> np.ndarray:
        """Gradient (k,)."""


def scipy_minimum(
    objective: Counted, start: np.ndarray, method: str, maxiter: int, options: dict[Any, Any]
) -> np.ndarray:
    """Where one of scipy's optimisers ends on the working parameters (k,).

    Parameters
    ----------
    objective : Counted
    start : ndarray
        (k,).
    method : str
        Scipy's name.
    maxiter : int
        Largest number of iterations.
    options : dict
        Of the optimiser.
    """
    lower = objective.lower
    bounds = [(None if np.isneginf(b) else b, None) for b in lower]
    best, lowest = np.array(start, dtype=float), np.inf

    def value(theta: np.ndarray) -> float:
        nonlocal best, lowest
        found = objective.value(theta)
        if found < lowest:
            best, lowest = np.array(theta), found
        return found

    def score(theta: np.ndarray) -> np.ndarray:
        try:
            gradient = objective.gradient(theta)
        except np.linalg.LinAlgError:  # where the value is infinite, so that a line search turns back
            return np.zeros(len(theta))
        return np.where(np.isfinite(gradient), gradient, 0.0)

    uses_gradient = method in {"L-BFGS-B", "TNC", "SLSQP"}
    # iterations of derivative-free methods are cheap, and their own limits are per dimension; tolerances are those that
    # bring the decrement below _STATIONARY, which the optimisers' own do not
    settings = {"maxiter": maxiter if uses_gradient else max(maxiter, 500 * start.size), **options}
    if method == "TNC":
        settings = {"maxfun": 20 * settings.pop("maxiter"), "ftol": 1e-14, **settings}
    elif method == "Powell":
        settings = {"ftol": 1e-12, "xtol": 1e-8, **settings}
    elif method == "L-BFGS-B":
        settings = {"ftol": 1e-14, "gtol": 1e-8, **settings}
    elif method == "Nelder-Mead":
        settings = {"xatol": 1e-8, "fatol": 1e-10, **settings}
    elif method == "COBYQA":
        settings = {"final_tr_radius": 1e-8, **settings}
    out = optimize.minimize(
        value, start, method=method, jac=score if uses_gradient else None, bounds=bounds, options=settings
    )
    objective.iterations += int(out.get("nit", 0))
    last = out.x if np.isfinite(objective.value(np.maximum(out.x, lower))) else best
    return np.maximum(last, lower)
