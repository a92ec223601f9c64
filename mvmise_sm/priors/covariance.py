"""Priors on covariances (and, as 1 x 1 matrices, on the residual variance): the gamma and Wishart families, Custom."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import gammaln, multigammaln

from mvmise_sm.priors.base import CovariancePrior, Dimensions, Prior, ScalePart, r_text

__all__ = ["Custom", "Gamma", "Independent", "InverseGamma", "InverseWishart", "PowerPenalty", "Wishart"]

_EIGENVALUE_FLOOR = 1e-300


def inverse_and_logdet(s):
    """Inverse (q, q) and log-determinant of a covariance; (None, -inf) if it is not positive definite."""
    q = s.shape[0]
    if q == 1:
        value = float(s[0, 0])
        return (np.array([[1.0 / value]]), math.log(value)) if value > 1e-300 else (None, -math.inf)
    if q == 2:
        a, b, c = float(s[0, 0]), float(s[1, 0]), float(s[1, 1])
        det = a * c - b * b
        if a <= 0.0 or det <= 1e-15 * a * c or det < 1e-300:
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

    def __init__(self, log_power, weight, exponent, constant, common_scale, text, scalar=False):
        super().__init__()
        self.log_power = float(log_power)
        self.weight = weight
        self.exponent = exponent
        self.constant = float(constant)
        self.common_scale = common_scale
        self.scalar = scalar
        self.repels = self.log_power < 0.0 or (weight is not None and exponent < 0)
        self.text = text

    def describe(self):
        return self.text

    def __repr__(self):
        return self.text

    def value(self, s):
        return self.evaluate(s)[0]

    def gradient(self, s):
        return self.evaluate(s)[1]

    def evaluate(self, s):
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

    def _on_boundary(self, s):
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

    def _spectrum(self, s):
        """Square roots of the eigenvalues (q,), eigenvectors (q, q), and G in their basis (q, q)."""
        eigenvalues, vectors = np.linalg.eigh(s)
        return np.sqrt(np.maximum(eigenvalues, _EIGENVALUE_FLOOR)), vectors, vectors.T @ self.weight @ vectors

    def hessian(self, s):
        q = s.shape[0]
        inverse, _ = inverse_and_logdet(s)
        if inverse is None:
            return np.zeros((q, q, q, q))
        out = -self.log_power * _pair(inverse, inverse)
        if self.weight is None or self.exponent == 1:
            return out
        if self.exponent == -1:
            middle = inverse @ self.weight @ inverse
            return out + _pair(middle, inverse) + _pair(inverse, middle)
        roots, vectors, rotated = self._spectrum(s)
        second = _second_difference(roots, self.exponent)
        # d2 tr(G f(S)) = 2 sum G_ki f[i, j, k] E_ij E_jk in the basis of the eigenvectors
        core = np.zeros((q, q, q, q))
        for j in range(q):
            core[:, j, j, :] += rotated.T * second[:, j, :]
            core[j, :, :, j] += rotated * second[:, j, :].T
        return out + np.einsum("ai,bj,ck,dl,ijkl->abcd", vectors, vectors, vectors, vectors, core)

    def scale_part(self, s):
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


def _pair(a, b):
    """Tensor T with E : T : F = tr(a E b F) for symmetric E and F."""
    return np.einsum("da,bc->abcd", a, b)


def _first_difference(roots, exponent):
    """Divided differences of x**exponent, exponent +-0.5, at the squares of `roots` (q, q)."""
    out = 1.0 / (roots[:, None] + roots[None, :])
    return out if exponent > 0 else -out / (roots[:, None] * roots[None, :])


def _second_difference(roots, exponent):
    """Second divided differences of x**exponent, exponent +-0.5, at the squares of `roots` (q, q, q)."""
    a, b, c = roots[:, None, None], roots[None, :, None], roots[None, None, :]
    out = 1.0 / ((a + b) * (b + c) * (a + c))
    return -out if exponent > 0 else out * (a + b + c) / (a * b * c)


class _VariancePrior(Prior):
    """What Gamma and InverseGamma share: priors on a variance or on its square root."""

    def covariance(self, dims: Dimensions) -> CovariancePrior:
        if dims.level_dim != 1:
            raise ValueError(
                f"{self.name} is a prior for terms with one column; this term has {dims.level_dim}, use wishart or invwishart."
            )
        return self._bind("cov", self._covariance_defaults(dims), dims)

    def residual(self, dims: Dimensions) -> CovariancePrior:
        return self._bind("resid", self._residual_defaults(), dims)

    def _exponent(self, h, role):
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
    positions = {"cov": ("shape", "rate", "common_scale", "posterior_scale"), "resid": ("shape", "rate", "posterior_scale")}

    def __init__(self, shape=None, rate=None, *, common_scale=None, posterior_scale=None):
        super().__init__(shape=shape, rate=rate, common_scale=common_scale, posterior_scale=posterior_scale)

    @staticmethod
    def _covariance_defaults(dims):
        return {"shape": 2.5, "rate": 0.0, "common_scale": True, "posterior_scale": "sd"}

    @staticmethod
    def _residual_defaults():
        return {"shape": 0.0, "rate": 0.0, "common_scale": True, "posterior_scale": "var"}

    def _bind(self, role, defaults, dims):
        h = self._hyperparameters(defaults, dims)
        shape, rate = h.number("shape", minimum=0.0), h.number("rate", minimum=0.0)
        exponent, common = self._exponent(h, role)
        constant = 0.0 if shape == 0.0 or rate == 0.0 else -2.0 * (shape * math.log(rate) - gammaln(shape))
        weight = None if rate == 0.0 else np.array([[2.0 * rate]])
        text = _describe_variance(self.name, h, role, shape=shape, rate=rate)
        return PowerPenalty(-2.0 * (shape - 1.0) * exponent, weight, exponent, constant, common, text, scalar=True)


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
    positions = {"cov": ("shape", "scale", "common_scale", "posterior_scale"), "resid": ("shape", "scale", "posterior_scale")}

    def __init__(self, shape=None, scale=None, *, common_scale=None, posterior_scale=None):
        super().__init__(shape=shape, scale=scale, common_scale=common_scale, posterior_scale=posterior_scale)

    @staticmethod
    def _covariance_defaults(dims):
        if not dims.has_scale:
            return {"shape": 0.5, "scale": 100.0, "common_scale": True, "posterior_scale": "sd"}
        return {"shape": 0.001, "scale": lambda h: h.shape + 0.05, "common_scale": True, "posterior_scale": "var"}

    @staticmethod
    def _residual_defaults():
        return {"shape": 0.0, "scale": 0.0, "common_scale": True, "posterior_scale": "var"}

    def _bind(self, role, defaults, dims):
        h = self._hyperparameters(defaults, dims)
        shape, scale = h.number("shape", minimum=0.0), h.number("scale", minimum=0.0)
        exponent, common = self._exponent(h, role)
        constant = 0.0 if shape == 0.0 or scale == 0.0 else -2.0 * (shape * math.log(scale) - gammaln(shape))
        weight = None if scale == 0.0 else np.array([[2.0 * scale]])
        text = _describe_variance(self.name, h, role, shape=shape, scale=scale)
        return PowerPenalty(2.0 * (shape + 1.0) * exponent, weight, -exponent, constant, common, text, scalar=True)


def _describe_variance(name, h, role, **numbers):
    parts = [f"{k} = {r_text(v)}" for k, v in numbers.items()]
    parts.append(f"posterior.scale = {h.posterior_scale}")
    if role == "cov":
        parts.append(f"common.scale = {r_text(h.common_scale(role))}")
    return f"{name}({', '.join(parts)})"


class _MatrixPrior(Prior):
    """What Wishart and InverseWishart share: degrees of freedom and a scale matrix."""

    positions = {"cov": ("df", "scale", "common_scale", "posterior_scale")}

    def __init__(self, df=None, scale=None, *, common_scale=None, posterior_scale=None):
        super().__init__(df=df, scale=scale, common_scale=common_scale, posterior_scale=posterior_scale)

    def covariance(self, dims: Dimensions) -> CovariancePrior:
        h = self._hyperparameters(self._defaults(dims), dims)
        q = dims.level_dim
        df = h.number("df", minimum=q - 1.0)
        if df <= 0.0:
            raise ValueError(f"{self.name}: df must be above {q - 1:g} for a term with {q} column{'s' * (q > 1)}, got {df:g}.")
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
    def _defaults(dims):
        return {"df": lambda h: h.level_dim + 2.5, "scale": math.inf, "common_scale": True, "posterior_scale": "cov"}

    @staticmethod
    def _penalty(df, scale, exponent, constant, common, text, q):
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
    def _defaults(dims):
        if not dims.has_scale:
            df, scale = (lambda h: h.level_dim - 0.5), (lambda h: 100.0 / (h.df + h.level_dim + 1.0))
        else:
            df, scale = (lambda h: h.level_dim - 0.998), (lambda h: h.df + 0.1)
        return {"df": df, "scale": scale, "common_scale": True, "posterior_scale": "cov"}

    @staticmethod
    def _penalty(df, scale, exponent, constant, common, text, q):
        return PowerPenalty((df + q + 1.0) * exponent, scale, -exponent, constant, common, text)


def scale_matrix(owner, value, q, limit):
    """Scale matrix (q, q) from a number, a vector or a matrix; None at the improper limit (0 or infinity)."""
    try:
        array = np.asarray(value, dtype=float)
    except (TypeError, ValueError):
        raise ValueError(f"{owner}: scale must be a number, a vector or a matrix, got {value!r}.") from None
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
        raise ValueError(f"{owner}: scale must be a number, {q} values or a {q} x {q} matrix, got {shape}.")
    return positive_definite(f"{owner}: scale", matrix)


def positive_definite(label, matrix):
    """The symmetric positive definite `matrix`; ValueError naming `label` otherwise."""
    if not np.all(np.isfinite(matrix)):
        raise ValueError(f"{label} must have finite elements.")
    if not np.allclose(matrix, matrix.T, rtol=1e-8, atol=1e-12 * np.abs(matrix).max()):
        raise ValueError(f"{label} must be a symmetric matrix.")
    matrix = 0.5 * (matrix + matrix.T)
    smallest = float(np.linalg.eigvalsh(matrix)[0])
    if smallest <= 0.0:
        raise ValueError(f"{label} must be positive definite, its smallest eigenvalue is {smallest:.4g}.")
    return matrix


def _matrix_text(scale, limit):
    if scale is None:
        return r_text(limit)
    return r_text(float(scale[0, 0])) if scale.shape == (1, 1) else r_text(scale)


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

    def __init__(self, fn, chol=False, common_scale=None, scale="none", gradient=None):
        if not callable(fn):
            raise ValueError(f"custom: fn must be a function of a covariance matrix, got {fn!r}.")
        if scale not in _TO_DEVIANCE:
            raise ValueError(f"custom: scale must be 'none', 'log' or 'dev', got {scale!r}.")
        if gradient is not None and not callable(gradient):
            raise ValueError(f"custom: gradient must be a function, got {gradient!r}.")
        Prior.__init__(self, fn=fn, chol=bool(chol), common_scale=common_scale, scale=scale, gradient=gradient)
        self.fn, self.chol, self.scale = fn, bool(chol), scale
        self.common_scale = True if common_scale is None else bool(common_scale)
        self.user_gradient = gradient

    def __repr__(self):
        return f"Custom({', '.join(f'{k}={v!r}' for k, v in self.arguments.items())})"

    def covariance(self, dims):
        self._hyperparameters({"common_scale": True}, dims).common_scale("cov")
        return self

    def residual(self, dims):
        raise self._not_for("resid")

    def describe(self):
        name = getattr(self.fn, "__name__", type(self.fn).__name__)
        return (
            f"custom(fn = {name}, chol = {r_text(self.chol)}, scale = {self.scale}, "
            f"common.scale = {r_text(self.common_scale)})"
        )

    def value(self, s):
        return _TO_DEVIANCE[self.scale](self._call(self._argument(s)))

    def _argument(self, s):
        return _upper_factor(s) if self.chol else s

    def _call(self, argument):
        result = np.asarray(self.fn(argument), dtype=float)
        if result.size != 1:
            raise ValueError(f"custom: fn must return one number, got an array of shape {result.shape}.")
        return float(result.reshape(()) if result.ndim == 0 else result.ravel()[0])

    def gradient(self, s):
        if self.user_gradient is None:
            return difference_gradient_of(self, s)
        argument = self._argument(s)
        slope = np.asarray(self.user_gradient(argument), dtype=float).reshape(s.shape)
        slope = slope * _SLOPE[self.scale](self._call(argument))
        return _through_cholesky(argument.T, slope.T) if self.chol else 0.5 * (slope + slope.T)


def difference_gradient_of(prior, s):
    """Numerical gradient of a prior at S (q, q)."""
    return CovariancePrior.gradient(prior, s)


def _upper_factor(s):
    """Right Cholesky factor of a positive semidefinite S."""
    try:
        return np.linalg.cholesky(s).T
    except np.linalg.LinAlgError:
        roots, vectors = np.linalg.eigh(s)
        r = np.linalg.qr(np.sqrt(np.maximum(roots, 0.0))[:, None] * vectors.T, mode="r")
        return r * np.where(np.diag(r) < 0.0, -1.0, 1.0)[:, None]


def _through_cholesky(lower, slope):
    """Derivative in S = L L' of a function with derivative `slope` in L (both lower triangular)."""
    floored = lower + np.diag(np.where(np.abs(np.diag(lower)) < 1e-10, 1e-10, 0.0))
    middle = np.tril(floored.T @ np.tril(slope))
    middle[np.diag_indices_from(middle)] *= 0.5
    half = np.linalg.solve(floored.T, middle)
    out = np.linalg.solve(floored.T, half.T).T
    return 0.5 * (out + out.T)


def _minus_two_log(p):
    if p < 0.0:
        raise ValueError(f"custom: fn returned the negative density {p:g}; use scale='log' or 'dev' for logarithms.")
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

    def __init__(self, parts):
        super().__init__()
        self.parts = tuple(parts)
        self.common_scale = self.parts[0].common_scale
        self.repels = all(p.repels for p in self.parts)

    def value(self, s):
        return sum(p.value(s[j : j + 1, j : j + 1]) for j, p in enumerate(self.parts))

    def gradient(self, s):
        return np.diag([float(p.gradient(s[j : j + 1, j : j + 1])[0, 0]) for j, p in enumerate(self.parts)])

    def hessian(self, s):
        out = np.zeros((len(self.parts),) * 4)
        for j, p in enumerate(self.parts):
            out[j, j, j, j] = p.hessian(s[j : j + 1, j : j + 1])[0, 0, 0, 0]
        return out

    def scale_part(self, s):
        parts = [p.scale_part(s[j : j + 1, j : j + 1]) for j, p in enumerate(self.parts)]
        if any(part is None or part.power != parts[0].power for part in parts):
            return None
        return ScalePart(sum(p.log for p in parts), parts[0].power, sum(p.coefficient for p in parts))

    def describe(self):
        return "; ".join(dict.fromkeys(p.describe() for p in self.parts))
