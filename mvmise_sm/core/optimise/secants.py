"""Curvature learnt on the way: what the last changes of the gradient show of the Hessian beyond the information."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from mvmise_sm.core.criteria.solution import Evaluation

__all__ = ["Secants"]

# steps that are remembered
_MOST = 3
# decrement of a step above which the change of the gradient tells of another place
_NEAR = 0.1
# least curvature of a parameter
_TINY = 1e-300
# share of the largest possible denominator below which an update is dominated by rounding
_LEAST = 1e-2


class Secants:
    """The difference of Hessian and information along the last steps, as a symmetric matrix of low rank.

    The information is evaluated anew at every point, and its difference to the Hessian changes slowly; so the
    difference is what is learnt, by symmetric updates of rank one (Nocedal and Wright 2006, equation 6.24), which put
    no sign on it.
    """

    def __init__(self) -> None:
        self._pairs: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, before: Evaluation, after: Evaluation, decrement: float) -> None:
        """Remember a step between two evaluations whose Newton decrement was `decrement`."""
        if not decrement < _NEAR:
            return
        step = after.theta - before.theta
        explained = 0.5 * (before.information + after.information) @ step
        pair = step, after.gradient - before.gradient - explained
        self._pairs = [*self._pairs[1 - _MOST :], pair]

    def corrected(self, information: np.ndarray) -> np.ndarray | None:
        """The information (k, k) with the difference that the steps have shown; None before the first."""
        if not self._pairs:
            return None
        units = np.sqrt(np.maximum(information.diagonal(), _TINY))
        out = information
        for step, change in self._pairs:
            rest = change - (out - information) @ step
            along = float(rest @ step)
            size = float(np.linalg.norm(rest / units) * np.linalg.norm(step * units))
            if np.isfinite(along) and abs(along) > _LEAST * size > 0.0:
                out = out + np.multiply.outer(rest, rest / along)
        return out
