"""Priors on fixed effects: functions of quadratic forms of beta, hence scale mixtures of normals."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from scipy.special import gammaln

from mvmise_sm.exceptions import OptionError
from mvmise_sm.priors.base import Dimensions, Prior, RoleError, r_text
from mvmise_sm.priors.covariance import positive_definite
from mvmise_sm.priors.quadratic import Corner, Gaussian, HorseshoeMixing, Mixing, QuadraticPenalty, Student

if TYPE_CHECKING:
    from mvmise_sm.priors.base import Hyperparameters

__all__ = ["Coefficients", "Horseshoe", "Laplace", "Mixing", "Normal", "QuadraticPenalty", "StudentT"]


def numeric(value: Any, name: str) -> np.ndarray:
    """A hyperparameter as an array of numbers.

    Raises
    ------
    OptionError
    """
    try:
        return np.asarray(value, dtype=float)
    except (TypeError, ValueError):
        raise OptionError(f"{name} must be a number or numbers, got {value!r}.") from None


class _FixedEffectPrior(Prior):
    """What the fixed-effect priors share: vectors and matrices over the coefficients they apply to."""

    def fixef(self, dims: Dimensions, coefficients: list[int] | None = None) -> tuple[QuadraticPenalty, ...]:
        """Bind to the fixed effects, or to the positions `coefficients` of them."""
        index = np.arange(dims.n_fixef) if coefficients is None else np.asarray(coefficients)
        if index.size == 0:
            return ()
        return self._bind(self._hyperparameters(self._defaults(), dims), index)

    @staticmethod
    def _defaults() -> dict[str, Any]:
        """Arguments that are not given."""
        raise NotImplementedError

    def _bind(self, h: Hyperparameters, index: np.ndarray) -> tuple[QuadraticPenalty, ...]:
        """The penalty on the coefficients at `index`."""
        raise NotImplementedError

    def _vector(
        self, name: str, value: Any, dims: Dimensions, index: np.ndarray, missing: float = math.inf
    ) -> np.ndarray:
        """Values (len(index),) from one number, two (first coefficient, others), a full vector or a dict by name."""
        if isinstance(value, Mapping):
            return self._by_name(name, value, dims, index, missing)
        try:
            array = np.asarray(value, dtype=float)
        except (TypeError, ValueError):
            raise OptionError(f"{self.name}: {name} must be numeric, got {value!r}.") from None
        if array.ndim > 1 and 1 in array.shape:
            array = array.ravel()
        if array.size == 1:
            return np.full(index.size, float(array.ravel()[0]))
        if array.ndim == 1 and array.size == index.size:
            return array
        if array.ndim == 1 and array.size == 2:
            return np.where(index == 0, array[0], array[1])
        shape = f"{array.size} values" if array.ndim == 1 else f"a matrix of shape {array.shape}"
        raise OptionError(
            f"{self.name}: {name} must have 1, 2 or {index.size} values for {index.size} fixed effects, got {shape}."
        )

    def _by_name(
        self, name: str, value: Mapping[str, float], dims: Dimensions, index: np.ndarray, missing: float
    ) -> np.ndarray:
        names = [dims.fixef_names[i] for i in index] if dims.fixef_names else []
        for key in value:
            if key not in names:
                raise OptionError(
                    f"{self.name}: {name} names {key!r}, which is not a fixed effect ({', '.join(names)})."
                )
        return np.array([float(value.get(n, missing)) for n in names])

    def _mean(self, h: Hyperparameters, index: np.ndarray) -> np.ndarray:
        """Prior means (len(index),), by the rule of `_vector`."""
        mean = self._vector("mean", h.mean, h.dims, index, missing=0.0)
        if not np.all(np.isfinite(mean)):
            raise OptionError(f"{self.name}: mean must be finite, got {h.mean!r}.")
        return mean

    def _precision(self, label: str, cov_or_variances: np.ndarray) -> tuple[np.ndarray, int, float]:
        """Precision (k, k), rank and log-determinant of the covariance over the coefficients with finite variance."""
        array = np.asarray(cov_or_variances, dtype=float)
        if array.ndim == 2:
            matrix = positive_definite(label, array)
            return np.linalg.inv(matrix), array.shape[0], float(np.linalg.slogdet(matrix)[1])
        if np.any(np.isnan(array)) or np.any(array <= 0.0):
            raise OptionError(f"{label} must be positive, got {r_text(array)}.")
        finite = np.isfinite(array)
        return np.diag(np.where(finite, 1.0 / array, 0.0)), int(finite.sum()), float(np.log(array[finite]).sum())


def _embed(precision: np.ndarray, mean: np.ndarray, index: np.ndarray, p: int) -> tuple[np.ndarray, np.ndarray]:
    full, center = np.zeros((p, p)), np.zeros(p)
    full[np.ix_(index, index)] = precision
    center[index] = mean
    return full, center


class Normal(_FixedEffectPrior):
    r"""Normal prior on the fixed effects.

    :math:`\beta \mid \sigma \sim N(m, \sigma^2 \Sigma_\beta)` on the common scale (the default for linear models), else
    :math:`\beta \sim N(m, \Sigma_\beta)`.

    Parameters
    ----------
    sd : float, array_like, dict or callable, optional
        Standard deviations: one for all, two (the first fixed effect, all others), one each, or a dict by coefficient
        name; infinite ones leave their coefficient without a prior. Default (10, 2.5).
    cov : float, array_like or callable, optional
        Instead of `sd`: a variance, variances (p,) or a covariance matrix (p, p).
    common_scale : bool, optional
        Whether the covariance is relative to the residual variance (default True in linear models).
    mean : float, array_like, dict or callable, optional
        Prior mean: one for all, two (the first fixed effect, all others), one each, or a dict by name; default 0.

    References
    ----------
    Dorie, blme: Profiled Maximum A Posteriori Estimation, sections 3.2 and 5.2.

    Examples
    --------
    >>> Normal(sd=(10, 2.5), common_scale=False)
    Normal(sd=(10, 2.5), common_scale=False)
    """

    name = "normal"
    positions: ClassVar = {"fixef": ("sd", "cov", "common_scale")}

    def __init__(
        self,
        sd: Any = None,
        cov: np.ndarray | tuple[int, int, int] | None = None,
        common_scale: bool | None = None,
        *,
        mean: float | list[float] | None = None,
    ) -> None:
        if sd is not None and cov is not None:
            raise OptionError("normal: give either sd or cov, not both.")
        super().__init__(sd=sd, cov=cov, common_scale=common_scale, mean=mean)

    @staticmethod
    def _defaults() -> dict[str, bool | float | tuple[float, float] | None]:
        return {"sd": (10.0, 2.5), "cov": None, "common_scale": True, "mean": 0.0}

    def _bind(self, h: Hyperparameters, index: np.ndarray) -> tuple[QuadraticPenalty]:
        dims = h.dims
        common = h.common_scale("fixef") and dims.has_scale
        if h.given_by_user("cov"):
            array = numeric(h.cov, "cov")
            k = index.size
            if array.size == 1:
                array = np.full(k, float(array.ravel()[0]))
            if array.shape not in ((k,), (k, k)):
                raise OptionError(
                    f"normal: cov must be a variance, {k} variances or a {k} x {k} matrix, got shape {array.shape}."
                )
            precision, rank, logdet = self._precision("normal: cov", array)
            sd = np.sqrt(array if array.ndim == 1 else array.diagonal())
        else:
            sd = self._vector("sd", h.sd, dims, index)
            if np.any(np.isnan(sd)) or np.any(sd <= 0.0):
                raise OptionError(f"normal: sd must be positive, got {r_text(sd)}.")
            array = sd**2
            precision, rank, logdet = self._precision("normal: sd", array)
        full, mean = _embed(precision, self._mean(h, index), index, dims.n_fixef)
        constant = rank * math.log(2.0 * math.pi) + logdet
        shown = f"sd = {_first(sd, 2)}{_correlations(array)}{_mean_text(mean[index])}"
        text = f"normal({shown}, common.scale = {r_text(common)})"
        return (QuadraticPenalty(full, mean, rank, constant, common, Gaussian(), text),)


def _first(values: np.ndarray, n: int) -> str:
    """The first n values as blme abbreviates them."""
    values = np.asarray(values, dtype=float)
    if values.size <= n:
        return r_text(values if values.size > 1 else float(values[0]))
    return "c(" + ", ".join(r_text(v) for v in values[:n]) + ", ...)"


def _correlations(cov: np.ndarray) -> str:
    k = cov.shape[0]
    if k == 1:
        return ""
    corr = np.zeros((k, k)) if cov.ndim == 1 else cov / np.sqrt(np.outer(cov.diagonal(), cov.diagonal()))
    first = r_text(float(corr[1, 0]))
    return f", corr = {first}" if k == 2 else f", corr = c({first} ...)"


def _mean_text(mean: np.ndarray) -> str:
    return f", mean = {r_text(mean if mean.size > 1 else float(mean[0]))}" if np.any(mean) else ""


class StudentT(_FixedEffectPrior):
    r"""Multivariate t prior on the fixed effects (linear models: maximum likelihood only).

    :math:`p(\beta) \propto [1 + (\beta - m)' \Sigma_\beta^{-1} (\beta - m) / \nu]^{-(\nu + p)/2}`, with
    :math:`\sigma^2 \Sigma_\beta` for :math:`\Sigma_\beta` on the common scale.

    Parameters
    ----------
    df : float or callable, optional
        Positive; default 3.
    scale : float, array_like, dict or callable, optional
        Diagonal of the scale matrix (squared scales): one value, two (the first fixed effect, all others), one each or
        a dict by coefficient name, or a positive definite matrix (p, p). Default (100, 6.25).
    common_scale : bool, optional
        Whether the scale is relative to the residual variance (default True in linear models).
    mean : float, array_like, dict or callable, optional
        Location, in the forms of `scale` without a matrix; default 0.

    References
    ----------
    Dorie, blme: Profiled Maximum A Posteriori Estimation, sections 3.2 and 5.2.

    Examples
    --------
    >>> StudentT(df=1, scale=2.5**2)
    StudentT(df=1, scale=6.25)
    """

    name = "t"
    positions: ClassVar = {"fixef": ("df", "scale", "common_scale")}

    def __init__(
        self,
        df: float | None = None,
        scale: float | np.ndarray | None = None,
        common_scale: bool | None = None,
        *,
        mean: np.ndarray | None = None,
    ) -> None:
        super().__init__(df=df, scale=scale, common_scale=common_scale, mean=mean)

    @staticmethod
    def _defaults() -> dict[str, bool | float | tuple[float, float]]:
        return {"df": 3.0, "scale": (100.0, 6.25), "common_scale": True, "mean": 0.0}

    def _bind(self, h: Hyperparameters, index: np.ndarray) -> tuple[QuadraticPenalty]:
        dims, k = h.dims, index.size
        df = h.number("df", minimum=0.0, strict=True)
        common = h.common_scale("fixef") and dims.has_scale
        array = h.scale if isinstance(h.scale, Mapping) else numeric(h.scale, "scale")
        if isinstance(array, Mapping) or array.ndim < 2 or array.size == 1 or array.shape != (k, k):
            array = self._vector("scale", array, dims, index)
        precision, rank, logdet = self._precision("t: scale", array)
        full, mean = _embed(precision, self._mean(h, index), index, dims.n_fixef)
        constant = logdet - 2.0 * (gammaln(0.5 * (df + rank)) - gammaln(0.5 * df) - 0.5 * rank * math.log(df * math.pi))
        shown = (
            f"diag(scale) = {r_text(array)}"
            if array.ndim == 1 and k > 1
            else f"scale = {r_text(array if k > 1 else float(array.ravel()[0]))}"
        )
        center = r_text(mean[index] if k > 1 else float(mean[index][0]))
        text = f"t(df = {r_text(df)}, mean = {center}, {shown}, common.scale = {r_text(common)})"
        return (QuadraticPenalty(full, mean, rank, constant, common, Student(df, rank), text),)


class Horseshoe(_FixedEffectPrior):
    r"""Horseshoe prior on every fixed effect (linear models: maximum likelihood only).

    :math:`p(\beta_j) = (2 \pi^3 \tau^2)^{-1/2} e^u E_1(u)`, :math:`u = (\beta_j - m_j)^2 / (2 \tau^2)`, with
    :math:`\tau` the global shrinkage, times sigma on the common scale. The density is infinite at the mean, so it has
    no proper mode: the prior can be evaluated anywhere else, and fits use the bounded density in which
    :math:`(\beta_j - m_j)^2 / \tau^2` is replaced by :math:`(\beta_j - m_j)^2 / \tau^2 + w^2`.

    Parameters
    ----------
    mean : float, array_like, dict or callable, optional
        Locations: one for all, two (the first fixed effect, all others), one each, or a dict by name; default 0.
    global_shrinkage : float or callable, optional
        tau, positive; default 2.5.
    common_scale : bool, optional
        Whether tau is relative to the residual standard deviation (default True in linear models).
    width : float or callable, optional
        w of the bounded density that fits use, positive; default 0.01. A coefficient within about w tau of its mean is
        shrunk onto it.

    References
    ----------
    Carvalho, Polson and Scott (2010), The horseshoe estimator for sparse signals, Biometrika 97, 465-480.

    Examples
    --------
    >>> Horseshoe(global_shrinkage=1.5)
    Horseshoe(global_shrinkage=1.5)
    """

    name = "horseshoe"
    positions: ClassVar = {"fixef": ("mean", "global_shrinkage", "common_scale")}

    def __init__(
        self,
        mean: None = None,
        global_shrinkage: float | None = None,
        common_scale: bool | None = None,
        *,
        width: None = None,
    ) -> None:
        super().__init__(mean=mean, global_shrinkage=global_shrinkage, common_scale=common_scale, width=width)

    @staticmethod
    def _defaults() -> dict[str, bool | float]:
        return {"mean": 0.0, "global_shrinkage": 2.5, "common_scale": True, "width": 0.01}

    def _bind(self, h: Hyperparameters, index: np.ndarray) -> tuple[QuadraticPenalty, ...]:
        tau = h.number("global_shrinkage", minimum=0.0, strict=True)
        width = h.number("width", minimum=0.0, strict=True)
        common = h.common_scale("fixef") and h.dims.has_scale
        means = self._mean(h, index)
        center = r_text(means if index.size > 1 else float(means[0]))
        text = f"horseshoe(mean = {center}, global.shrinkage = {r_text(tau)}, common.scale = {r_text(common)})"
        constant = math.log(2.0 * math.pi**3 * tau**2)
        blocks = []
        for position, value in zip(index, means, strict=True):
            full, mean = _embed(np.array([[tau**-2]]), np.array([value]), np.array([position]), h.dims.n_fixef)
            blocks.append(QuadraticPenalty(full, mean, 1, constant, common, HorseshoeMixing(width), text))
        return tuple(blocks)


class Laplace(_FixedEffectPrior):
    r"""Laplace prior on every fixed effect, the lasso (linear models: maximum likelihood only).

    :math:`p(\beta_j) = e^{-|\beta_j - m_j| / s} / (2 s)`. The density has a corner at the mean: a coefficient about
    which the data say less than the slope of the penalty is estimated there, up to `width` times the scale, and has no
    standard error.

    Parameters
    ----------
    scale : float, array_like, dict or callable, optional
        s: one for all, two (the first fixed effect, all others), one each, or a dict by coefficient name; infinite ones
        leave their coefficient without a prior. Default 1.
    mean : float, array_like, dict or callable, optional
        Locations, in the same forms; default 0.
    common_scale : bool, optional
        Whether s is relative to the residual standard deviation (default False).
    width : float, optional
        The corner is rounded over this share of the scale; default 1e-5.

    References
    ----------
    Park and Casella (2008). The Bayesian lasso. Journal of the American Statistical Association 103.

    Examples
    --------
    >>> Laplace(1)
    Laplace(scale=1)
    """

    name = "laplace"
    positions: ClassVar = {"fixef": ("scale", "mean", "common_scale")}

    def __init__(
        self,
        scale: Any = None,
        mean: Any = None,
        common_scale: bool | None = None,
        *,
        width: float | None = None,
    ) -> None:
        super().__init__(scale=scale, mean=mean, common_scale=common_scale, width=width)

    @staticmethod
    def _defaults() -> dict[str, bool | float]:
        return {"scale": 1.0, "mean": 0.0, "common_scale": False, "width": 1e-5}

    def _bind(self, h: Hyperparameters, index: np.ndarray) -> tuple[QuadraticPenalty, ...]:
        width = h.number("width", minimum=0.0, strict=True)
        common = h.common_scale("fixef") and h.dims.has_scale
        scales, means = self._vector("scale", h.scale, h.dims, index), self._mean(h, index)
        if np.any(np.isnan(scales)) or np.any(scales <= 0.0):
            raise OptionError(f"laplace: scale must be positive, got {r_text(scales)}.")
        shown = r_text(scales if index.size > 1 and np.ptp(scales) else float(scales[0]))
        text = f"laplace(scale = {shown}{_mean_text(means)}, common.scale = {r_text(common)})"
        blocks = []
        for position, scale, value in zip(index, scales, means, strict=True):
            if not np.isfinite(scale):
                continue
            full, mean = _embed(np.array([[scale**-2]]), np.array([value]), np.array([position]), h.dims.n_fixef)
            constant = 2.0 * math.log(2.0 * scale)
            blocks.append(QuadraticPenalty(full, mean, 1, constant, common, Corner(width), text))
        return tuple(blocks)


class Coefficients(Prior):
    """A prior of its own for some of the fixed effects; the others stay flat.

    Parameters
    ----------
    by_name : dict
        Coefficient name -> fixed-effect prior. A prior with several values takes them by position of the coefficient.
    """

    name = "coefficients"

    def __init__(self, by_name: dict[str, Prior]) -> None:
        super().__init__(**{str(k): v for k, v in by_name.items()})
        self.by_name = dict(by_name)

    def fixef(self, dims: Dimensions, coefficients: list[int] | None = None) -> tuple[QuadraticPenalty, ...]:
        """Bind every prior to its coefficient."""
        names = list(dims.fixef_names)
        blocks: list[QuadraticPenalty] = []
        for name, prior in self.by_name.items():
            if name not in names:
                raise OptionError(
                    f"fixef_prior names {name!r}, which is not a fixed effect of the model ({', '.join(names)})."
                )
            if prior is None:
                continue
            try:
                bound = prior.fixef(dims, coefficients=[names.index(name)])
            except RoleError:
                raise OptionError(
                    f"fixef_prior for {name!r} must be one of normal, t, laplace, horseshoe or your own, got {prior!r}."
                ) from None
            blocks.extend(replace(b, text=f"{name} ~ {b.text}") for b in bound)
        return tuple(blocks)
