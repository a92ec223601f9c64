"""Newton's method in (beta, log sigma2) for scale mixtures of normals (t, horseshoe), given the gram matrix."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from mvmise_sm.core.optimise.steps import first_taken

if TYPE_CHECKING:
    from mvmise_sm.priors.inner_problem import _WorkingBlock
    from mvmise_sm.priors.scale import ScaleProfile

__all__ = ["MixtureProblem"]


class MixtureProblem:
    """n rho + xi'K xi exp(-rho) + sum_j phi_j(xi'G_j xi exp(-c_j rho)) + g(rho), with xi = (-beta, 1).

    Parameters
    ----------
    blocks : sequence
        Fixed-effect penalties in working coordinates: `g` (p + 1, p + 1), `mixing`, `common`.
    gram : ndarray
        K (p + 1, p + 1).
    profile : ScaleProfile
        g, which includes n rho and the ranks of the blocks on the common scale.
    fixed_rho : float or None
        log sigma2 if it is known.
    """

    def __init__(
        self, blocks: list[_WorkingBlock], gram: np.ndarray, profile: ScaleProfile, fixed_rho: float | None
    ) -> None:
        self.blocks = blocks
        self.gram = gram
        self.profile = profile
        self.fixed_rho = fixed_rho
        self.p = gram.shape[0] - 1

    def value(self, beta: np.ndarray, rho: float) -> float:
        """Return the objective at (beta, rho)."""
        xi = np.append(-beta, 1.0)
        out = float(xi @ self.gram @ xi) * math.exp(-rho) + self.profile.value(rho)
        return out + sum(b.mixing.phi(b.quadratic(xi) * self._scaling(b, rho))[0] for b in self.blocks)

    def derivatives(self, beta: np.ndarray, rho: float, convex: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Gradient (p + 1,) and Hessian (p + 1, p + 1) in (beta, rho).

        With `convex`, the concave curvature of phi is left out of the Hessian's beta block: the step then minimises a
        quadratic upper bound in beta.
        """
        p = self.p
        xi = np.append(-beta, 1.0)
        inverse = math.exp(-rho)
        kxi = self.gram @ xi
        residual = float(xi @ kxi) * inverse
        gradient, hessian = np.zeros(p + 1), np.zeros((p + 1, p + 1))
        gradient[:p] = -2.0 * inverse * kxi[:p]
        hessian[:p, :p] = 2.0 * inverse * self.gram[:p, :p]
        cross = 2.0 * inverse * kxi[:p]
        first, second = self.profile.derivatives(rho)
        first -= residual
        second += residual
        for block in self.blocks:
            scaling = self._scaling(block, rho)
            x = block.quadratic(xi) * scaling
            _, d1, d2 = block.mixing.phi(x)
            slope = -2.0 * scaling * block.turned(xi)[:p]
            gradient[:p] += d1 * slope
            hessian[:p, :p] += 2.0 * d1 * scaling * block.g[:p, :p]
            if not convex:
                hessian[:p, :p] += d2 * np.multiply.outer(slope, slope)
            if block.common:
                first -= d1 * x
                second += d1 * x + (0.0 if convex else d2 * x * x)
                cross -= (d1 + (0.0 if convex else d2 * x)) * slope
        gradient[p] = first
        hessian[p, p] = second
        hessian[p, :p] = hessian[:p, p] = cross
        return gradient, hessian

    @staticmethod
    def _scaling(block: _WorkingBlock, rho: float) -> float:
        return math.exp(-rho) if block.common else 1.0

    def shrunk(self, forces: list[float], rho: float) -> np.ndarray:
        """Minimiser beta (p,) of the residual plus `forces[j]` times the j-th quadratic form, at rho."""
        p, s2 = self.p, math.exp(rho)
        total = self.gram.copy()
        for force, block in zip(forces, self.blocks, strict=True):
            total += force * s2 * self._scaling(block, rho) * block.g
        return np.linalg.solve(total[:p, :p], total[:p, p])

    def majorant(self, beta: np.ndarray, rho: float) -> np.ndarray:
        """Matrix (p, p) of the weighted least-squares problem whose solution is beta at a stationary point."""
        p, s2 = self.p, math.exp(rho)
        xi = np.append(-beta, 1.0)
        out = self.gram[:p, :p].copy()
        for block in self.blocks:
            scaling = self._scaling(block, rho)
            out += s2 * scaling * block.mixing.phi(block.quadratic(xi) * scaling)[1] * block.g[:p, :p]
        return out

    def minimise(self, beta: np.ndarray, rho: float) -> tuple[float, np.ndarray, float]:
        """Local minimum from (beta, rho): value, beta, rho."""
        value = self.value(beta, rho)
        for _ in range(200):
            gradient, step = self._step(beta, rho)
            decrement = -float(gradient @ step)
            if decrement <= 1e-15 * max(1.0, abs(value)):
                return value, beta + step[:-1], rho + step[-1]
            longest = 1.0 if abs(step[-1]) < 2.0 else 2.0 / abs(step[-1])
            lower = partial(self._lower, (value, beta, rho), step, decrement)
            ends = [longest, *self._corners(beta, step, longest)]
            taken = next((found for found in map(lower, ends) if found is not None), None)
            if taken is None:
                taken = first_taken(lower, 0.5 * longest, 1e-10)
            if taken is None:
                return value, beta, rho
            value, beta, rho = taken
        return value, beta, rho

    def _lower(
        self, here: tuple[float, np.ndarray, float], step: np.ndarray, decrement: float, length: float
    ) -> tuple[float, np.ndarray, float] | None:
        """Value and point a part of a step away where it is lower by a share of what the gradient promises."""
        value, beta, rho = here
        tried_beta, tried_rho = beta + length * step[:-1], rho + length * step[-1]
        tried = self.value(tried_beta, tried_rho)
        return (tried, tried_beta, tried_rho) if tried <= value - 1e-4 * length * decrement else None

    def _corners(self, beta: np.ndarray, step: np.ndarray, longest: float) -> list[float]:
        """Lengths of a step at which a penalty has its corner, the longest first."""
        xi, found = np.append(-beta, 1.0), []
        for block in self.blocks:
            if block.row is not None:
                along = float(block.row[:-1] @ step[:-1])
                at = float(block.row @ xi) / along if along else 0.0
                found += [at] if 0.0 < at < longest else []
        return sorted(found, reverse=True)

    def _step(self, beta: np.ndarray, rho: float) -> tuple[np.ndarray, np.ndarray]:
        """Gradient and a descent step; the Newton step where the Hessian is positive definite."""
        free = self.p + (self.fixed_rho is None)
        for convex in (False, True):
            gradient, hessian = self.derivatives(beta, rho, convex)
            try:
                factor = np.linalg.cholesky(hessian[:free, :free])
            except np.linalg.LinAlgError:
                continue
            step = np.zeros(self.p + 1)
            step[:free] = -np.linalg.solve(factor.T, np.linalg.solve(factor, gradient[:free]))
            gradient[free:] = 0.0
            return gradient, step
        diagonal = np.maximum(np.abs(hessian.diagonal()), 1e-8)
        gradient[free:] = 0.0
        return gradient, -gradient / diagonal
