"""Gamma and Wishart priors on covariances and, the gamma ones, on the residual variance as a 1 x 1 matrix."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from scipy.special import gammaln, multigammaln

from mvmise_sm.exceptions import OptionError
from mvmise_sm.priors.base import CovariancePrior, Dimensions, Prior, r_text
from mvmise_sm.priors.power import PowerPenalty

if TYPE_CHECKING:
    from mvmise_sm.priors.base import Hyperparameters
    from mvmise_sm.priors.parse import Expression

__all__ = ["Gamma", "InverseGamma", "InverseWishart", "Wishart"]


class _VariancePrior(Prior):
    """What Gamma and InverseGamma share: priors on a variance or on its square root."""

    scalar = True

    def covariance(self, dims: Dimensions) -> CovariancePrior:
        if dims.level_dim != 1:
            raise OptionError(
                f"{self.name} is a prior for terms with one column; this term has {dims.level_dim}, "
                "use wishart or invwishart."
            )
        return self._bind("cov", self._covariance_defaults(dims), dims)

    def residual(self, dims: Dimensions) -> CovariancePrior:
        return self._bind("resid", self._residual_defaults(), dims)

    @staticmethod
    def _covariance_defaults(dims: Dimensions) -> dict[str, Any]:
        """Arguments that are not given, for a covariance."""
        raise NotImplementedError

    @staticmethod
    def _residual_defaults() -> dict[str, Any]:
        """Arguments that are not given, for the residual variance."""
        raise NotImplementedError

    def _bind(self, role: str, defaults: dict[str, Any], dims: Dimensions) -> CovariancePrior:
        """The penalty in a role."""
        raise NotImplementedError

    def _exponent(self, h: Hyperparameters, role: str) -> tuple[float, bool]:
        exponent = 0.5 if h.choice("posterior_scale", ("sd", "var")) == "sd" else 1
        common = h.common_scale(role)
        return exponent, common and role == "cov"


class Gamma(_VariancePrior):
    r"""Gamma prior on a random-effects or residual standard deviation or variance.

    Density :math:`v^{a - 1} e^{-b v}` of the standard deviation or variance v; improper, without its constant, if
    shape or rate is 0.

    Parameters
    ----------
    shape, rate : float or callable, optional
        Non-negative. Defaults: 2.5 and 0 for a random-effects term, 0 and 0 for the residual.
    common_scale : bool, optional
        For a random-effects term: whether v is relative to the residual scale (default True).
    posterior_scale : {"sd", "var"}, optional
        What v is; default "sd" for a random-effects term, "var" for the residual.

    References
    ----------
    Dorie, blme: Profiled Maximum A Posteriori Estimation, sections 3.3, 3.4, 5.4 and 5.6.

    Examples
    --------
    >>> Gamma(shape=3, rate=1.5, posterior_scale="var")
    Gamma(shape=3, rate=1.5, posterior_scale='var')
    """

    name = "gamma"
    positions: ClassVar = {
        "cov": ("shape", "rate", "common_scale", "posterior_scale"),
        "resid": ("shape", "rate", "posterior_scale"),
    }

    def __init__(
        self,
        shape: float | None = None,
        rate: float | None = None,
        *,
        common_scale: bool | str | None = None,
        posterior_scale: str | None = None,
    ) -> None:
        super().__init__(shape=shape, rate=rate, common_scale=common_scale, posterior_scale=posterior_scale)

    @staticmethod
    def _covariance_defaults(dims: Dimensions) -> dict[str, bool | float | str]:
        return {"shape": 2.5, "rate": 0.0, "common_scale": True, "posterior_scale": "sd"}

    @staticmethod
    def _residual_defaults() -> dict[str, bool | float | str]:
        return {"shape": 0.0, "rate": 0.0, "common_scale": True, "posterior_scale": "var"}

    def _bind(self, role: str, defaults: dict[str, bool | float | str], dims: Dimensions) -> PowerPenalty:
        h = self._hyperparameters(defaults, dims)
        shape, rate = h.number("shape", minimum=0.0), h.number("rate", minimum=0.0)
        exponent, common = self._exponent(h, role)
        constant = 0.0 if shape == 0.0 or rate == 0.0 else -2.0 * (shape * math.log(rate) - gammaln(shape))
        weight = None if rate == 0.0 else np.array([[2.0 * rate]])
        text = _describe_variance(self.name, h, role, shape=shape, rate=rate)
        return PowerPenalty(-2.0 * (shape - 1.0) * exponent, weight, exponent, constant, common, text)


class InverseGamma(_VariancePrior):
    r"""Inverse gamma prior on a random-effects or residual standard deviation or variance.

    Density :math:`v^{-a - 1} e^{-b / v}` of the standard deviation or variance v; improper, without its constant, if
    shape or scale is 0.

    Parameters
    ----------
    shape, scale : float or callable, optional
        Non-negative. Defaults: 0.001 and shape + 0.05 for a random-effects term (0.5 and 100 in generalised models),
        0 and 0 for the residual.
    common_scale : bool, optional
        For a random-effects term: whether v is relative to the residual scale (default True).
    posterior_scale : {"sd", "var"}, optional
        What v is; default "var" ("sd" in generalised models).

    References
    ----------
    Dorie, blme: Profiled Maximum A Posteriori Estimation, sections 3.3, 3.4, 5.4 and 5.6.

    Examples
    --------
    >>> InverseGamma(shape=1, scale=0.1)
    InverseGamma(shape=1, scale=0.1)
    """

    name = "invgamma"
    positions: ClassVar = {
        "cov": ("shape", "scale", "common_scale", "posterior_scale"),
        "resid": ("shape", "scale", "posterior_scale"),
    }

    def __init__(
        self,
        shape: float | None = None,
        scale: Expression | float | None = None,
        *,
        common_scale: bool | None = None,
        posterior_scale: str | None = None,
    ) -> None:
        super().__init__(shape=shape, scale=scale, common_scale=common_scale, posterior_scale=posterior_scale)

    @staticmethod
    def _covariance_defaults(dims: Dimensions) -> dict[str, Any]:
        if not dims.has_scale:
            return {"shape": 0.5, "scale": 100.0, "common_scale": True, "posterior_scale": "sd"}
        return {"shape": 0.001, "scale": lambda h: h.shape + 0.05, "common_scale": True, "posterior_scale": "var"}

    @staticmethod
    def _residual_defaults() -> dict[str, bool | float | str]:
        return {"shape": 0.0, "scale": 0.0, "common_scale": True, "posterior_scale": "var"}

    def _bind(self, role: str, defaults: dict[str, Any], dims: Dimensions) -> PowerPenalty:
        h = self._hyperparameters(defaults, dims)
        shape, scale = h.number("shape", minimum=0.0), h.number("scale", minimum=0.0)
        exponent, common = self._exponent(h, role)
        constant = 0.0 if shape == 0.0 or scale == 0.0 else -2.0 * (shape * math.log(scale) - gammaln(shape))
        weight = None if scale == 0.0 else np.array([[2.0 * scale]])
        text = _describe_variance(self.name, h, role, shape=shape, scale=scale)
        return PowerPenalty(2.0 * (shape + 1.0) * exponent, weight, -exponent, constant, common, text)


def _describe_variance(name: str, h: Hyperparameters, role: str, **numbers: Any) -> str:
    parts = [f"{k} = {r_text(v)}" for k, v in numbers.items()]
    parts.append(f"posterior.scale = {h.posterior_scale}")
    if role == "cov":
        parts.append(f"common.scale = {r_text(h.common_scale(role))}")
    return f"{name}({', '.join(parts)})"


class _MatrixPrior(Prior):
    """What Wishart and InverseWishart share: degrees of freedom and a scale matrix."""

    positions: ClassVar = {"cov": ("df", "scale", "common_scale", "posterior_scale")}
    # the scale matrix that makes the prior flat
    _limit: ClassVar[float]

    @staticmethod
    def _defaults(dims: Dimensions) -> dict[str, Any]:
        """Arguments that are not given."""
        raise NotImplementedError

    @staticmethod
    def _penalty(
        df: float, scale: np.ndarray | None, exponent: float, constant: float, common: bool, text: str, q: int
    ) -> PowerPenalty:
        """The penalty of these arguments."""
        raise NotImplementedError

    def __init__(
        self,
        df: Callable[..., Any] | float | str | None = None,
        scale: Any = None,
        *,
        common_scale: bool | None = None,
        posterior_scale: str | None = None,
    ) -> None:
        super().__init__(df=df, scale=scale, common_scale=common_scale, posterior_scale=posterior_scale)

    def covariance(self, dims: Dimensions) -> CovariancePrior:
        h = self._hyperparameters(self._defaults(dims), dims)
        q = int(dims.level_dim or 0)
        df = h.number("df", minimum=q - 1.0)
        if df <= 0.0:
            raise OptionError(
                f"{self.name}: df must be above {q - 1:g} for a term with {q} column{'s' * (q > 1)}, got {df:g}."
            )
        scale = scale_matrix(self.name, h.scale, q, self._limit)
        exponent = 0.5 if h.choice("posterior_scale", ("cov", "sqrt")) == "sqrt" else 1
        common = h.common_scale("cov")
        limit = math.inf if self._limit > 1.0 else 0.0
        text = (
            f"{self.name}(df = {r_text(df)}, scale = {_matrix_text(scale, limit)}, "
            f"posterior.scale = {h.posterior_scale}, common.scale = {r_text(common)})"
        )
        constant = 0.0
        if scale is not None and df > q - 1.0:
            sign = 1.0 if self._limit > 1.0 else -1.0
            logdet = np.linalg.slogdet(scale)[1]
            constant = df * q * math.log(2.0) + sign * df * logdet + 2.0 * float(multigammaln(df / 2.0, q))
        return self._penalty(df, scale, exponent, constant, common, text, q)


class Wishart(_MatrixPrior):
    r"""Wishart prior on the covariance of a random-effects term, or on its matrix square root.

    Density :math:`|S|^{(\nu - q - 1)/2} e^{-tr(\Psi^{-1} S)/2}`; with an infinite scale the improper limit
    :math:`|S|^{(\nu - q - 1)/2}`, the default, which keeps the estimate away from singular covariances.

    Parameters
    ----------
    df : float or callable, optional
        At least q - 1 for a term with q columns (and positive); improper at q - 1. Default q + 2.5.
    scale : float, array_like or callable, optional
        A number (times the identity), a vector (diagonal) or a positive definite matrix (q, q). Default infinite.
    common_scale : bool, optional
        Whether S is relative to the residual variance (default True).
    posterior_scale : {"cov", "sqrt"}, optional
        Whether S is the covariance (default) or its symmetric square root.

    References
    ----------
    Dorie, blme: Profiled Maximum A Posteriori Estimation, sections 3.4 and 5.6.

    Examples
    --------
    >>> Wishart(df=lambda d: d.level_dim + 2).covariance(Dimensions(180, 2, level_dim=2, n_groups=18))
    wishart(df = 4, scale = Inf, posterior.scale = cov, common.scale = TRUE)
    """

    name = "wishart"
    _limit = math.inf

    @staticmethod
    def _defaults(dims: Dimensions) -> dict[str, Any]:
        return {"df": lambda h: h.level_dim + 2.5, "scale": math.inf, "common_scale": True, "posterior_scale": "cov"}

    @staticmethod
    def _penalty(
        df: float, scale: np.ndarray | None, exponent: float, constant: float, common: bool, text: str, q: int
    ) -> PowerPenalty:
        weight = None if scale is None else np.linalg.inv(scale)
        return PowerPenalty(-(df - q - 1.0) * exponent, weight, exponent, constant, common, text)


class InverseWishart(_MatrixPrior):
    r"""Inverse Wishart prior on the covariance of a random-effects term, or on its matrix square root.

    Density :math:`|S|^{-(\nu + q + 1)/2} e^{-tr(\Psi S^{-1})/2}`; with scale 0 the improper power of the determinant.

    Parameters
    ----------
    df : float or callable, optional
        At least q - 1 for a term with q columns (and positive); improper at q - 1.
        Default q - 0.998 (q - 0.5 in generalised models).
    scale : float, array_like or callable, optional
        A number (times the identity), a vector (diagonal) or a positive definite matrix (q, q).
        Default (df + 0.1) I; 100 / (df + q + 1) I in generalised models.
    common_scale : bool, optional
        Whether S is relative to the residual variance (default True).
    posterior_scale : {"cov", "sqrt"}, optional
        Whether S is the covariance (default) or its symmetric square root.

    References
    ----------
    Dorie, blme: Profiled Maximum A Posteriori Estimation, sections 3.4 and 5.6.

    Examples
    --------
    >>> InverseWishart().covariance(Dimensions(180, 2, level_dim=2, n_groups=18))
    invwishart(df = 1.002, scale = c(1.102, 0, 0, 1.102), posterior.scale = cov, common.scale = TRUE)
    """

    name = "invwishart"
    _limit = 0.0

    @staticmethod
    def _defaults(dims: Dimensions) -> dict[str, Callable[..., Any] | bool | str]:
        if not dims.has_scale:
            df, scale = (lambda h: h.level_dim - 0.5), (lambda h: 100.0 / (h.df + h.level_dim + 1.0))
        else:
            df, scale = (lambda h: h.level_dim - 0.998), (lambda h: h.df + 0.1)
        return {"df": df, "scale": scale, "common_scale": True, "posterior_scale": "cov"}

    @staticmethod
    def _penalty(
        df: float, scale: np.ndarray | None, exponent: float, constant: float, common: bool, text: str, q: int
    ) -> PowerPenalty:
        return PowerPenalty((df + q + 1.0) * exponent, scale, -exponent, constant, common, text)


def scale_matrix(owner: str, value: Any, q: int, limit: float) -> np.ndarray | None:
    """Scale matrix (q, q) from a number, a vector or a matrix; None at the improper limit (0 or infinity)."""
    try:
        array = np.asarray(value, dtype=float)
    except (TypeError, ValueError):
        raise OptionError(f"{owner}: scale must be a number, a vector or a matrix, got {value!r}.") from None
    if array.size == 1:
        if float(array.ravel()[0]) == limit:
            return None
        matrix = float(array.ravel()[0]) * np.eye(q)
    elif array.ndim == 1 and array.size == q:
        matrix = np.diag(array)
    elif array.shape == (q, q):
        matrix = array
    else:
        shape = " x ".join(str(n) for n in array.shape) if array.ndim > 1 else f"{array.size} values"
        raise OptionError(f"{owner}: scale must be a number, {q} values or a {q} x {q} matrix, got {shape}.")
    return positive_definite(f"{owner}: scale", matrix)


def positive_definite(label: str, matrix: np.ndarray) -> np.ndarray:
    """The symmetric positive definite `matrix`; OptionError naming `label` otherwise."""
    if not np.all(np.isfinite(matrix)):
        raise OptionError(f"{label} must have finite elements.")
    if not np.allclose(matrix, matrix.T, rtol=1e-8, atol=1e-12 * np.abs(matrix).max()):
        raise OptionError(f"{label} must be a symmetric matrix.")
    matrix = 0.5 * (matrix + matrix.T)
    smallest = float(np.linalg.eigvalsh(matrix)[0])
    if smallest <= 0.0:
        raise OptionError(f"{label} must be positive definite, its smallest eigenvalue is {smallest:.4g}.")
    return matrix


def _matrix_text(scale: np.ndarray | None, limit: float) -> str:
    if scale is None:
        return r_text(limit)
    return r_text(float(scale[0, 0])) if scale.shape == (1, 1) else r_text(scale)
