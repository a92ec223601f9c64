"""Covariance priors made of other things: any function, and one prior per independent column."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from mvmise_sm.exceptions import OptionError
from mvmise_sm.priors.base import CovariancePrior, Prior, ScalePart, r_text

if TYPE_CHECKING:
    from mvmise_sm.priors.base import Dimensions

__all__ = ["Custom", "Independent"]


class Custom(CovariancePrior):
    """Any function of a random-effects covariance as its prior.

    Parameters
    ----------
    fn : callable
        Called with a matrix (q, q): the covariance, or its right Cholesky factor (upper triangular) if `chol`.
        Returns a number on the scale that `scale` says.
    chol : bool, optional
        Whether `fn` takes the right Cholesky factor; for a term with one column that is the standard deviation.
    common_scale : bool, optional
        Whether the covariance is relative to the residual variance (default True).
    scale : {"none", "log", "dev"}, optional
        Whether `fn` returns the density p (default), log p or -2 log p.
    gradient : callable, optional
        Derivative of `fn` in its argument, a matrix of the same shape. Without it, numerical differences are used.

    References
    ----------
    Dorie, blme: Profiled Maximum A Posteriori Estimation, section 5.6.

    Examples
    --------
    A half-Cauchy prior with scale 10 on the standard deviation of a random intercept:

    >>> half_cauchy = Custom(lambda sd: -np.log1p((sd / 10) ** 2), chol=True, scale="log")
    >>> round(half_cauchy.value(np.array([[100.0]])), 4)
    1.3863
    """

    name = "custom"

    def __init__(
        self,
        fn: Any,
        chol: bool = False,
        common_scale: bool | None = None,
        scale: str = "none",
        gradient: Callable[..., Any] | None = None,
    ) -> None:
        if not callable(fn):
            raise OptionError(f"custom: fn must be a function of a covariance matrix, got {fn!r}.")
        if scale not in _TO_DEVIANCE:
            raise OptionError(f"custom: scale must be 'none', 'log' or 'dev', got {scale!r}.")
        if gradient is not None and not callable(gradient):
            raise OptionError(f"custom: gradient must be a function, got {gradient!r}.")
        Prior.__init__(self, fn=fn, chol=bool(chol), common_scale=common_scale, scale=scale, gradient=gradient)
        self.fn, self.chol, self.scale = fn, bool(chol), scale
        self.common_scale = True if common_scale is None else bool(common_scale)
        self.user_gradient = gradient

    def __repr__(self) -> str:
        return f"Custom({', '.join(f'{k}={v!r}' for k, v in self.arguments.items())})"

    def covariance(self, dims: Dimensions) -> Custom:
        """Return itself, once common_scale is checked."""
        self._hyperparameters({"common_scale": True}, dims).common_scale("cov")
        return self

    def residual(self, dims: Any) -> CovariancePrior:
        """Refuse: a custom prior is for covariances."""
        raise self._not_for("resid")

    def describe(self) -> Any:
        """Return the text that results print."""
        name = getattr(self.fn, "__name__", type(self.fn).__name__)
        return (
            f"custom(fn = {name}, chol = {r_text(self.chol)}, scale = {self.scale}, "
            f"common.scale = {r_text(self.common_scale)})"
        )

    def value(self, s: np.ndarray) -> float:
        """Return -2 log density at S (q, q)."""
        value = _TO_DEVIANCE[self.scale](self._call(self._argument(s)))
        return math.inf if math.isnan(value) else value

    def _argument(self, s: np.ndarray) -> np.ndarray:
        return _upper_factor(s) if self.chol else s

    def _call(self, argument: np.ndarray) -> float:
        result = np.asarray(self.fn(argument), dtype=float)
        if result.size != 1:
            raise OptionError(f"custom: fn must return one number, got an array of shape {result.shape}.")
        return float(result.reshape(()) if result.ndim == 0 else result.ravel()[0])

    def gradient(self, s: np.ndarray) -> np.ndarray:
        """Return the derivative of `value` in S (q, q)."""
        if self.user_gradient is None:
            return difference_gradient_of(self, s)
        argument = self._argument(s)
        slope = np.asarray(self.user_gradient(argument), dtype=float).reshape(s.shape)
        slope = slope * _SLOPE[self.scale](self._call(argument))
        return _through_cholesky(argument.T, slope.T) if self.chol else 0.5 * (slope + slope.T)


def difference_gradient_of(prior: Custom, s: np.ndarray) -> np.ndarray:
    """Numerical gradient of a prior at S (q, q)."""
    return CovariancePrior.gradient(prior, s)


def _upper_factor(s: np.ndarray) -> np.ndarray:
    """Right Cholesky factor of a positive semidefinite S."""
    try:
        return np.linalg.cholesky(s).T
    except np.linalg.LinAlgError:
        roots, vectors = np.linalg.eigh(s)
        r: Any = np.linalg.qr(np.sqrt(np.maximum(roots, 0.0))[:, None] * vectors.T, mode="r")
        return r * np.where(np.diag(r) < 0.0, -1.0, 1.0)[:, None]


def _through_cholesky(lower: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """Derivative in S = L L' of a function with derivative `slope` in L (both lower triangular)."""
    floored = lower + np.diag(np.where(np.abs(np.diag(lower)) < 1e-10, 1e-10, 0.0))
    middle = np.tril(floored.T @ np.tril(slope))
    middle[np.diag_indices_from(middle)] *= 0.5
    half = np.linalg.solve(floored.T, middle)
    out = np.linalg.solve(floored.T, half.T).T
    return 0.5 * (out + out.T)


def _minus_two_log(p: float) -> float:
    if p < 0.0:
        raise OptionError(f"custom: fn returned the negative density {p:g}; use scale='log' or 'dev' for logarithms.")
    return math.inf if p == 0.0 else -2.0 * math.log(p)


_TO_DEVIANCE = {"none": _minus_two_log, "log": lambda v: -2.0 * v, "dev": lambda v: v}
_SLOPE = {"none": lambda p: -2.0 / p, "log": lambda v: -2.0, "dev": lambda v: 1.0}


class Independent(CovariancePrior):
    """One prior for every column of a term whose columns are independent, such as ``(x || g)``.

    Parameters
    ----------
    parts : sequence of CovariancePrior
        Priors on the variances (q,).
    """

    def __init__(self, parts: list[CovariancePrior]) -> None:
        super().__init__()
        self.parts = tuple(parts)
        self.common_scale = self.parts[0].common_scale
        self.repels = all(p.repels for p in self.parts)
        self.pole = any(p.pole for p in self.parts)
        self.attracts = any(p.attracts for p in self.parts)

    def value(self, s: np.ndarray) -> float:
        """Return -2 log density at S (q, q)."""
        return sum(p.value(s[j : j + 1, j : j + 1]) for j, p in enumerate(self.parts))

    def gradient(self, s: np.ndarray) -> np.ndarray:
        """Return the derivative of `value` in S (q, q)."""
        return np.diag([float(p.gradient(s[j : j + 1, j : j + 1])[0, 0]) for j, p in enumerate(self.parts)])

    def hessian(self, s: np.ndarray) -> np.ndarray:
        """Return the second derivative of `value` at S (q, q) in vec(S), (q * q, q * q)."""
        q = len(self.parts)
        out = np.zeros((q * q, q * q))
        for j, p in enumerate(self.parts):
            out[j * (q + 1), j * (q + 1)] = p.hessian(s[j : j + 1, j : j + 1])[0, 0]
        return out

    def radial(self, s: np.ndarray) -> np.ndarray:
        """Return the mixed derivative in S and the scale (q, q)."""
        return np.diag([float(p.radial(s[j : j + 1, j : j + 1])[0, 0]) for j, p in enumerate(self.parts)])

    def scale_part(self, s: Any) -> Any:
        """Return how `value(s2 * S)` depends on sigma."""
        parts = [p.scale_part(s[j : j + 1, j : j + 1]) for j, p in enumerate(self.parts)]
        known = [part for part in parts if part is not None]
        if len(known) < len(parts) or any(part.power != known[0].power for part in known):
            return None
        return ScalePart(sum(p.log for p in known), known[0].power, sum(p.coefficient for p in known))

    def describe(self) -> Any:
        """Return the text that results print."""
        return "; ".join(dict.fromkeys(p.describe() for p in self.parts))
