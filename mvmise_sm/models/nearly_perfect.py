"""Responses that fixed and random effects reproduce nearly: fitted from the residuals themselves."""

from __future__ import annotations

from typing import Any

import numpy as np

from mvmise_sm.core.criteria.augmented import fits_in_memory, residual_based_fit
from mvmise_sm.core.criteria.solution import PLSSolution
from mvmise_sm.core.optimise.newton import Optimum

__all__ = ["can_keep_residuals", "is_nearly_perfect", "keep_residuals"]

# residual sum of squares over its bound from the range of y, below which cross-products have lost digits
_CLOSE = 1e-7
# residuals must stand out of the rounding of the response by this factor
_ABOVE_ROUNDING = 100.0 * float(np.finfo(float).eps)


def is_nearly_perfect(model: Any, solution: PLSSolution) -> bool:
    """Whether cross-products hold too few digits of the residuals of a solution."""
    if not np.isfinite(solution.criterion):
        return True
    largest = 1.0 if model.weights is None else float(model.weights.max())
    y = model.endog
    return not solution.r2 > _CLOSE * largest * len(y) * (0.5 * float(np.ptp(y))) ** 2


def can_keep_residuals(model: Any) -> bool:
    """Whether the fit from residuals is defined and affordable for a model."""
    if model.streamed:
        return False
    terms = model.random_effects.terms
    plain = model.priors is None and model.residual is None and bool(terms)
    return plain and fits_in_memory(model.random_effects, model.nobs, model.exog.shape[1])


def keep_residuals(model: Any, settings: dict[str, Any]) -> tuple[PLSSolution, Optimum] | None:
    """The fit from residuals, or None where these are rounding."""
    y = model.endog if model.offset is None else model.endog - model.offset
    X = np.asarray(model.exog, dtype=float)
    with np.errstate(all="ignore"):
        solution, steps, converged = residual_based_fit(model.random_effects, X, y, model.weights, settings["reml"])
    sd = np.sqrt(solution.r2 / len(y))
    least = 1.0 if model.weights is None else float(np.sqrt(model.weights.min()))
    if not sd > _ABOVE_ROUNDING * least * float(np.abs(y).max()) or not np.isfinite(solution.criterion):
        return None
    message = "stationary point" if converged else f"not stationary after {steps} EM steps"
    retvals = {
        "fopt": solution.criterion,
        "n_iterations": steps,
        "iterations": steps,
        "n_evaluations": steps,
        "n_starts": 1,
        "converged": converged,
        "warnflag": 0 if converged else 1,
    }
    theta = solution.theta
    return solution, Optimum(theta, theta, solution.criterion, converged, False, message, retvals, settings)
