"""The faster approximation with fixed and random effects at their joint mode."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mvmise_sm.core.criteria.laplace import LaplaceDeviance
from mvmise_sm.core.criteria.pirls import fixed_system, inner, joint_mode, solved

if TYPE_CHECKING:
    from mvmise_sm.core.criteria.pirls import Mode

__all__ = ["JointDeviance"]


class JointDeviance(LaplaceDeviance):
    """The faster approximation with beta and the random effects at their joint mode (``nagq=0``)."""

    profiles_beta = True

    def _mode(self, merged: list[np.ndarray], beta: np.ndarray | None, x: np.ndarray) -> Mode:
        eta = self._eta if self._eta is not None else self.response.start_eta()
        return joint_mode(self, merged, eta)

    def _gradients(self, mode: Mode, merged: list[np.ndarray]) -> tuple[list[np.ndarray], None, float | None]:
        rows, weighted = mode.terms, mode.weighted
        leverage = weighted.leverage()
        t = self.response.slope(rows) * leverage
        observed, v, rho = self._implicit(mode, merged, self.incidence.transposed(t))
        fixed = fixed_system(self, observed, rows.observed)
        hessian = fixed.information + 0.5 * self.penalty.fixed_derivatives(mode.beta)[2]
        v_columns = [x[:, :, None] for x in v]
        k = solved(hessian, self.X.T @ t - inner(fixed.zx, v_columns)[:, 0])
        rho = [r - s @ k for r, s in zip(rho, fixed.score, strict=True)]
        slopes = []
        for trace, g, r in zip(weighted.traces(), mode.g, rho, strict=True):
            mixed = r @ g.T
            slopes.append(trace - g @ g.T + 0.5 * (mixed + mixed.T))
        shape = None
        if self.k_shape:
            total, score, weight, _ = self.response.shape_terms(rows)
            moved = self.incidence.times([x - c @ k for x, c in zip(v, fixed.coef, strict=True)]) + self.X @ k
            shape = -2.0 * total + float(leverage @ weight) + float(moved @ score)
        return slopes, None, shape
