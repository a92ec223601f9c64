"""Priors of a model without a residual scale: penalty, gradient and curvature in beta and in the covariances."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mvmise_sm.core.covariance.theta import positive_part

if TYPE_CHECKING:
    from mvmise_sm.core.covariance.coordinates import TermBasis

__all__ = ["Penalty"]


class Penalty:
    """-2 log prior in working coordinates.

    Parameters
    ----------
    priors : object or None
        ``cov``: per term None or an object with ``evaluate``, ``hessian``, ``repels`` and ``attracts``; ``fixef``:
        quadratic penalties with ``precision``, ``mean``, ``constant``, ``mixing`` and ``evaluate``;
        ``dispersion``: None or an object with ``evaluate(log d)``.
    a : ndarray
        beta = a @ working beta (p, p).
    bases : sequence of TermBasis
        Working coordinates of the terms.

    Attributes
    ----------
    repels : tuple of bool
        Terms whose prior is infinite where the covariance is singular.
    attracts : tuple of bool
        Terms whose prior makes a standard deviation of 0 a local mode.
    """

    def __init__(self, priors: Any | None, a: np.ndarray, bases: tuple[TermBasis, ...]) -> None:
        self.a, self.bases = a, bases
        self.cov = (None,) * len(bases) if priors is None else priors.cov
        self.fixef = () if priors is None else priors.fixef
        self.dispersion = None if priors is None else priors.dispersion
        self.repels = tuple(c is not None and c.repels for c in self.cov)
        self.attracts = tuple(c is not None and c.attracts for c in self.cov)
        self.any_cov = any(c is not None for c in self.cov)
        self._forms = [self.a.T @ block.precision @ self.a for block in self.fixef]

    def fixed(self, beta: np.ndarray, bounded: bool = True) -> float:
        """Value at a working `beta` (p,)."""
        user = self.a @ beta
        mixings = [b.mixing if bounded else b.mixing.at_finite_bound() for b in self.fixef]
        return sum(b.constant + m.phi(_quadratic(b, user))[0] for b, m in zip(self.fixef, mixings, strict=True))

    def spikes(self, beta: np.ndarray) -> list[Any]:
        """Working betas with one coefficient at its prior mean, for priors that have a mode of their own there."""
        user, out = self.a @ beta, []
        for block in self.fixef:
            if block.mixing.spike:
                touched = block.precision.diagonal() > 0.0
                out.append(np.linalg.solve(self.a, np.where(touched, block.mean, user)))
        return out

    def fixed_derivatives(self, beta: np.ndarray) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
        """Value, gradient (p,), Hessian (p, p) and a positive semidefinite majorant of it at a working `beta`."""
        p = beta.size
        value, gradient, exact, safe = 0.0, np.zeros(p), np.zeros((p, p)), np.zeros((p, p))
        user = self.a @ beta
        for block, form in zip(self.fixef, self._forms, strict=True):
            at = block.evaluate(user)
            slope = self.a.T @ at.slope
            value += at.value
            gradient += self.a.T @ at.gradient
            safe += at.weight * form
            exact += at.d2 * np.multiply.outer(slope, slope)
        return value, gradient, safe + exact, safe

    def of_dispersion(self, log_d: float) -> float:
        """Value at the log of the family's dispersion, 0 without a prior of it."""
        return 0.0 if self.dispersion is None else self.dispersion.evaluate(log_d)[0]

    def covariances(self, sigmas: list[np.ndarray]) -> float:
        """Value at the terms' covariances in the user's coordinates."""
        return sum(c.value(s) for c, s in zip(self.cov, sigmas, strict=True) if c is not None)

    def slopes(self, sigmas: list[np.ndarray]) -> list[np.ndarray | None]:
        """Per term the derivative in the working covariance (q, q), None without a prior."""
        out = []
        for prior, sigma, basis in zip(self.cov, sigmas, self.bases, strict=True):
            out.append(None if prior is None else basis.a.T @ prior.gradient(sigma) @ basis.a)
        return out

    def curvature(self, sigmas: list[np.ndarray], tangents: list[np.ndarray], slices: tuple[slice]) -> np.ndarray:
        """Positive part of the priors' curvature along the `tangents` of the working covariances, (k, q, q) per
        term; (k_theta, k_theta).
        """
        out = np.zeros((slices[-1].stop,) * 2)
        for prior, sigma, basis, own, at in zip(self.cov, sigmas, self.bases, tangents, slices, strict=True):
            if prior is None:
                continue
            flat = (basis.a @ own @ basis.a.T).reshape(len(own), -1)
            size = flat.shape[1]
            block = flat @ prior.hessian(sigma).reshape(size, size) @ flat.T
            out[at, at] = positive_part(0.5 * (block + block.T))
        return out


def _quadratic(block: Any, beta: np.ndarray) -> float:
    away = beta - block.mean
    return max(float(away @ block.precision @ away), 0.0)
