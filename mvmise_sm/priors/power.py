"""The penalty that all gamma and Wishart priors share: a power of the determinant and a trace of a power of S."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mvmise_sm.priors.base import CovariancePrior, ScalePart

__all__ = ["PowerPenalty"]

_EIGENVALUE_FLOOR = 1e-300
_SINGULAR = 1e-20


def inverse_and_logdet(s: np.ndarray) -> tuple[Any, float]:
    """Inverse (q, q) and log-determinant of a covariance; (None, -inf) if it is not positive definite."""
    q = s.shape[0]
    if q == 1:
        value = float(s[0, 0])
        return (np.array([[1.0 / value]]), math.log(value)) if value > _SINGULAR else (None, -math.inf)
    if q == 2:
        a, b, c = float(s[0, 0]), float(s[1, 0]), float(s[1, 1])
        det = a * c - b * b
        if a <= _SINGULAR or c <= _SINGULAR or det <= 1e-15 * a * c:
            return None, -math.inf
        return np.array([[c / det, -b / det], [-b / det, a / det]]), math.log(det)
    try:
        factor = np.linalg.cholesky(s)
    except np.linalg.LinAlgError:
        return None, -math.inf
    half = np.linalg.inv(factor)
    return half.T @ half, 2.0 * float(np.log(factor.diagonal()).sum())


class PowerPenalty(CovariancePrior):
    """The penalty `constant + log_power * log|S| + tr(G S**exponent)` that all gamma and Wishart priors share.

    Parameters
    ----------
    log_power : float
    weight : ndarray or None
        G (q, q), positive semidefinite; None if the prior is an improper power of the determinant.
    exponent : {1, -1, 0.5, -0.5}
        Power of S; +-0.5 is the posterior scale "sqrt" or "sd".
    constant : float
        -2 log of the normalising constant, 0 if the prior is improper.
    common_scale : bool
    text : str
        What `describe` returns.
    """

    def __init__(
        self,
        log_power: float,
        weight: np.ndarray | None,
        exponent: float,
        constant: float,
        common_scale: bool,
        text: str,
    ) -> None:
        super().__init__()
        self.log_power = float(log_power)
        self.weight = weight
        self.exponent = exponent
        self.constant = float(constant)
        self.common_scale = common_scale
        self.repels = self.log_power < 0.0 or (weight is not None and exponent < 0)
        self.pole = self.log_power > 0.0 and not self.repels
        self.text = text

    def describe(self) -> str:
        """Return the text that results print."""
        return self.text

    def __repr__(self) -> str:
        return self.text

    def value(self, s: np.ndarray) -> float:
        """Return -2 log density at S (q, q)."""
        return self.evaluate(s)[0]

    def gradient(self, s: np.ndarray) -> np.ndarray:
        """Return the derivative of `value` in S (q, q)."""
        return self.evaluate(s)[1]

    def evaluate(self, s: np.ndarray) -> tuple[float, np.ndarray]:
        """Return value and gradient at S (q, q)."""
        log_power, weight, exponent = self.log_power, self.weight, self.exponent
        inverse, logdet = inverse_and_logdet(s)
        if inverse is None:
            return self._on_boundary(s)
        value = self.constant + log_power * logdet
        gradient = log_power * inverse
        if weight is None:
            return value, gradient
        if exponent == 1:
            return value + float((weight * s).sum()), gradient + weight
        if exponent == -1:
            return value + float((weight * inverse).sum()), gradient - inverse @ weight @ inverse
        roots, vectors, rotated = self._spectrum(s)
        first = _first_difference(roots, exponent)
        value += float(rotated.diagonal() @ roots ** (2.0 * exponent))
        return value, gradient + vectors @ (rotated * first) @ vectors.T

    def _on_boundary(self, s: np.ndarray) -> tuple[float, np.ndarray]:
        """Limit of value and gradient at a singular S; the gradient is 0 where the value is infinite."""
        if self.repels:
            return math.inf, np.zeros_like(s)
        if self.log_power > 0.0:
            return -math.inf, np.zeros_like(s)
        if self.weight is None:
            return self.constant, np.zeros_like(s)
        if self.exponent == 1:
            return self.constant + float((self.weight * s).sum()), self.weight.copy()
        roots, vectors, rotated = self._spectrum(s)
        # the slope of a square root is infinite at 0; a large finite one keeps its sign
        first = _first_difference(np.maximum(roots, 1e-6 * max(roots[-1], 1e-6)), self.exponent)
        return self.constant + float(rotated.diagonal() @ roots), vectors @ (rotated * first) @ vectors.T

    def _spectrum(self, s: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Square roots of the eigenvalues (q,), eigenvectors (q, q), and G in their basis (q, q)."""
        eigenvalues, vectors = np.linalg.eigh(s)
        return np.sqrt(np.maximum(eigenvalues, _EIGENVALUE_FLOOR)), vectors, vectors.T @ self.weight @ vectors

    def hessian(self, s: np.ndarray) -> np.ndarray:
        """Return the second derivative of `value` at S (q, q) in vec(S), (q * q, q * q)."""
        q = s.shape[0]
        inverse, _ = inverse_and_logdet(s)
        if inverse is None:
            return np.zeros((q * q, q * q))
        out = -self.log_power * _kron(inverse, inverse)
        if self.weight is None or self.exponent == 1:
            return out
        if self.exponent == -1:
            middle = inverse @ self.weight @ inverse
            return out + _kron(middle, inverse) + _kron(inverse, middle)
        roots, vectors, rotated = self._spectrum(s)
        # d2 tr(G f(S)) = 2 sum G_ki f[i, j, k] E_ij E_jk in the basis of the eigenvectors
        second = rotated.T[:, None, :] * _second_difference(roots, self.exponent)
        core = np.zeros((q, q, q, q))
        for j in range(q):
            core[:, j, j, :] += second[:, j, :]
            core[j, :, :, j] += second[:, j, :].T
        basis = _kron(vectors, vectors)
        return out + basis @ core.reshape(q * q, q * q) @ basis.T

    def radial(self, s: np.ndarray) -> np.ndarray:
        """Return the mixed derivative in S and the scale (q, q)."""
        inverse, _ = inverse_and_logdet(s)
        if inverse is None:
            return np.zeros_like(s)
        return self.exponent * (self.gradient(s) - self.log_power * inverse)

    def scale_part(self, s: np.ndarray) -> ScalePart:
        """Return how `value(s2 * S)` depends on sigma."""
        log = self.log_power * s.shape[0]
        if self.weight is None:
            return ScalePart(log, 0, 0.0)
        if self.exponent == 1:
            coefficient = float((self.weight * s).sum())
        elif self.exponent == -1:
            inverse, _ = inverse_and_logdet(s)
            coefficient = math.inf if inverse is None else float((self.weight * inverse).sum())
        else:
            roots, _, rotated = self._spectrum(s)
            coefficient = float(rotated.diagonal() @ roots ** (2.0 * self.exponent))
        return ScalePart(log, round(2 * self.exponent), coefficient)


def _kron(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Matrix K (q * q, q * q) with vec(E)' K vec(F) = tr(a E b F) for symmetric a, b, E and F."""
    q = a.shape[0]
    return np.multiply.outer(a, b).transpose(0, 2, 1, 3).reshape(q * q, q * q)


def _first_difference(roots: np.ndarray, exponent: float) -> np.ndarray:
    """Divided differences of x**exponent, exponent +-0.5, at the squares of `roots` (q, q)."""
    out = 1.0 / (roots[:, None] + roots[None, :])
    return out if exponent > 0 else -out / (roots[:, None] * roots[None, :])


def _second_difference(roots: np.ndarray, exponent: float) -> np.ndarray:
    """Second divided differences of x**exponent, exponent +-0.5, at the squares of `roots` (q, q, q)."""
    a, b, c = roots[:, None, None], roots[None, :, None], roots[None, None, :]
    out = 1.0 / ((a + b) * (b + c) * (a + c))
    return -out if exponent > 0 else out * (a + b + c) / (a * b * c)
