"""Densities of standard deviations and of correlation matrices, for `sd_prior` and `cor_prior`."""

from __future__ import annotations

import math
from typing import Any, NoReturn

import numpy as np
from scipy.special import betaln, gammaln

from mvmise_sm.exceptions import OptionError
from mvmise_sm.priors.base import Dimensions, Prior, r_text, scalar_differences

__all__ = ["LKJ", "PC", "DeviationPrior", "Exponential", "HalfCauchy", "HalfNormal", "HalfT", "of_deviations"]

AT_ZERO = ("flat", "repels", "attracts")

# in units of its density a standard deviation below this is 0: the slope of an exponential density in the variance is
# infinite there, a large finite one keeps its sign
_LEAST = 1e-10
# a user's density: what counts as a standard deviation of 0 and as no slope there, and where it is looked at
_SMALL, _NO_SLOPE = 1e-6, 1e-4
_LOOKED_AT = (0.01, 0.1, 1.0, 10.0, 100.0)


def _positive(owner: str, name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise OptionError(f"{owner}: {name} must be a number, got {value!r}.") from None
    if isinstance(value, (bool, np.bool_)) or not (0.0 < number < math.inf):
        raise OptionError(f"{owner}: {name} must be positive and finite, got {value!r}.")
    return number


class _Named(Prior):
    """A density that is no prior of a whole covariance matrix; `keyword` is where it belongs."""

    keyword = ""

    def covariance(self, dims: Dimensions) -> NoReturn:
        raise OptionError(f"{self!r} is not a prior of a covariance matrix; give it as {self.keyword}=.")

    def describe(self) -> str:
        """Return the text that results print."""
        return f"{self.name}({', '.join(f'{k} = {r_text(v)}' for k, v in self.arguments.items())})"


class DeviationPrior(_Named):
    """Density of one standard deviation on the scale of the data.

    For one of your own subclass it, or `Prior`, with `value`; `gradient` and `curvature` have defaults by differences,
    and `at_zero` says what the density does at 0.

    Examples
    --------
    >>> import mvmise_sm as ms
    >>> class HalfLogistic(DeviationPrior):
    ...     def value(self, sd):
    ...         return sd + 2.0 * math.log1p(math.exp(-sd))
    >>> model = ms.lmer(
    ...     "Reaction ~ Days + (1 | Subject)", ms.datasets.load_sleepstudy(), sd_prior={"Subject": HalfLogistic()}
    ... )
    >>> model.fit().varcorr["sdcor"].round(2).tolist()
    [26.21, 31.17]
    """

    keyword = "sd_prior"

    @property
    def attracts(self) -> bool:
        """Whether 0 is a local mode whatever the data."""
        return self.at_zero == "attracts"

    def deviation(self) -> DeviationPrior:
        """Return itself, once what it says of itself at 0 is known to be right."""
        if type(self).in_variance is DeviationPrior.in_variance:
            _checked(self)
        return self

    def value(self, x: Any) -> float:
        """Return -2 log density of a standard deviation x >= 0; inf where the density is zero."""
        if type(self).in_variance is DeviationPrior.in_variance:
            raise OptionError(f"{self!r} has no value(sd).")
        return self.in_variance(float(x) ** 2)[0]

    def gradient(self, x: Any) -> float:
        """Return the derivative of `value`."""
        if type(self).in_variance is DeviationPrior.in_variance:
            return float(super().gradient(x))
        return 2.0 * float(x) * self.in_variance(float(x) ** 2)[1]

    def curvature(self, x: Any) -> float:
        """Return the second derivative of `value`."""
        if type(self).in_variance is DeviationPrior.in_variance:
            return float(super().curvature(x))
        _, slope, bend = self.in_variance(float(x) ** 2)
        return 2.0 * slope + 4.0 * float(x) ** 2 * bend

    def in_variance(self, v: float) -> tuple[float, float, float]:
        """Return -2 log density of sqrt(v), and its first and second derivative in the variance v >= 0."""
        sd = math.sqrt(v)
        value = float(self.value(sd))
        if not math.isfinite(value):
            return math.inf, 0.0, 0.0
        if sd < _SMALL:
            # the slope in the variance has the limit curvature / 2 where that in sd vanishes
            start = float(self.gradient(0.0)) if self.at_zero != "repels" else float(self.gradient(_SMALL))
            flat = self.at_zero == "flat" and abs(start) < _NO_SLOPE
            return value, 0.5 * float(self.curvature(0.0)) if flat else 0.5 * start / max(sd, _LEAST), 0.0
        first, second = self._derivatives(sd)
        slope = 0.5 * first / sd
        return value, slope, (0.25 * second - 0.5 * slope) / v

    def _derivatives(self, sd: float) -> tuple[float, float]:
        """Gradient and curvature, at once where both are differences of the value."""
        cls = type(self)
        if cls.gradient is DeviationPrior.gradient and cls.curvature is DeviationPrior.curvature:
            return scalar_differences(self.value, sd)
        return float(self.gradient(sd)), float(self.curvature(sd))


class _Adapted(DeviationPrior):
    """A `Prior` that has only a value, as one of standard deviations."""

    def __init__(self, prior: Prior) -> None:
        super().__init__()
        self.prior, self.at_zero = prior, prior.at_zero

    def __repr__(self) -> str:
        return repr(self.prior)

    def value(self, x: Any) -> float:
        return self.prior.value(x)

    def _derivatives(self, sd: float) -> tuple[float, float]:
        cls = type(self.prior)
        if cls.gradient is Prior.gradient and cls.curvature is Prior.curvature:
            return scalar_differences(self.prior.value, sd)
        return float(self.prior.gradient(sd)), float(self.prior.curvature(sd))

    def gradient(self, x: Any) -> float:
        return float(self.prior.gradient(x))

    def curvature(self, x: Any) -> float:
        return float(self.prior.curvature(x))

    def describe(self) -> str:
        return self.prior.describe()


def of_deviations(prior: Any) -> Any:
    """A density of one number as one of standard deviations; what is none is returned as it is.

    Raises
    ------
    OptionError
        If what a user's density says of itself at 0 is not what it does there.
    """
    if not isinstance(prior, Prior):
        return prior
    if not prior.one_number:
        return prior.deviation()
    found = _Adapted(prior)
    _checked(found)
    return found


def _checked(prior: DeviationPrior) -> None:
    """Look at a user's density where fits will."""
    label = prior.describe()
    if prior.at_zero not in AT_ZERO:
        raise OptionError(f"{label}: at_zero must be 'flat', 'repels' or 'attracts', got {prior.at_zero!r}.")
    for sd in _LOOKED_AT:
        found = _number(label, prior, sd)
        if math.isnan(found) or found == -math.inf:
            raise OptionError(f"{label}: value(sd) must be a number, got {found:g} at {sd:g}.")
    at_zero = _number(label, prior, 0.0)
    needed = "zero" if prior.at_zero == "repels" else "finite"
    if (at_zero == math.inf) != (prior.at_zero == "repels") or at_zero == -math.inf or math.isnan(at_zero):
        raise OptionError(
            f"{label}: at_zero={prior.at_zero!r} needs a density that is {needed} at a standard deviation of 0, but "
            f"value(0) is {at_zero:g}."
        )
    if prior.at_zero == "repels":
        return
    slope = float(prior.gradient(0.0))
    if (slope > _NO_SLOPE) != prior.attracts:
        word = "attracts" if slope > _NO_SLOPE else "flat"
        raise OptionError(
            f"{label}: its -2 log density has the slope {slope:.3g} at a standard deviation of 0, so at_zero must be "
            f"{word!r}, got {prior.at_zero!r}."
        )


def _number(label: str, prior: DeviationPrior, sd: float) -> float:
    found: Any = prior.value(sd)
    try:
        return float(found)
    except (TypeError, ValueError):
        raise OptionError(f"{label}: value(sd) must return one number, got {found!r}.") from None


class HalfT(DeviationPrior):
    r"""Half-t prior of the standard deviations of random effects.

    Density proportional to :math:`(1 + s^2 / (\nu \tau^2))^{-(\nu + 1)/2}` of the standard deviation
    :math:`s \ge 0` on the scale of the linear predictor, with :math:`\nu` degrees of freedom and scale :math:`\tau`.

    Parameters
    ----------
    df : float
        Degrees of freedom, positive.
    scale : float
        In units of the standard deviation, positive.

    Raises
    ------
    OptionError
        If an argument is not a positive number.

    References
    ----------
    Gelman (2006). Prior distributions for variance parameters in hierarchical models. Bayesian Analysis 1(3).

    Examples
    --------
    >>> HalfT(df=3, scale=2.5)
    HalfT(df=3.0, scale=2.5)
    """

    name = "half.t"

    def __init__(self, df: float = 3.0, scale: float = 2.5) -> None:
        self.df, self.scale = _positive("HalfT", "df", df), _positive("HalfT", "scale", scale)
        super().__init__(df=self.df, scale=self.scale)
        half = 0.5 * (self.df + 1.0)
        log = gammaln(half) - gammaln(0.5 * self.df) - 0.5 * math.log(self.df * math.pi) - math.log(0.5 * self.scale)
        self._constant = -2.0 * float(log)

    def in_variance(self, v: float) -> tuple[float, float, float]:
        wide = self.df * self.scale**2
        slope = (self.df + 1.0) / (wide + v)
        return self._constant + (self.df + 1.0) * math.log1p(v / wide), slope, -slope / (wide + v)


class HalfCauchy(HalfT):
    """Half-Cauchy prior of the standard deviations of random effects, `HalfT` with one degree of freedom.

    Parameters
    ----------
    scale : float
        Median of the standard deviation, positive.

    Raises
    ------
    OptionError
        If the scale is not a positive number.

    References
    ----------
    Gelman (2006). Prior distributions for variance parameters in hierarchical models. Bayesian Analysis 1(3).

    Examples
    --------
    >>> HalfCauchy(2.5)
    HalfCauchy(scale=2.5)
    """

    name = "half.cauchy"

    def __init__(self, scale: float = 2.5) -> None:
        super().__init__(1.0, _positive("HalfCauchy", "scale", scale))
        self.arguments = {"scale": self.scale}


class HalfNormal(DeviationPrior):
    """Half-normal prior of the standard deviations of random effects.

    Parameters
    ----------
    scale : float
        Standard deviation of the normal density before it is folded at 0, positive.

    Raises
    ------
    OptionError
        If the scale is not a positive number.

    References
    ----------
    Gelman (2006). Prior distributions for variance parameters in hierarchical models. Bayesian Analysis 1(3).

    Examples
    --------
    >>> HalfNormal(1)
    HalfNormal(scale=1.0)
    """

    name = "half.normal"

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = _positive("HalfNormal", "scale", scale)
        super().__init__(scale=self.scale)

    def in_variance(self, v: float) -> tuple[float, float, float]:
        slope = self.scale**-2
        return math.log(0.5 * math.pi * self.scale**2) + slope * v, slope, 0.0


class Exponential(DeviationPrior):
    """Exponential prior of the standard deviations of random effects.

    Its density falls linearly from 0, so that a standard deviation of 0 is a local mode whatever the data: a fit
    compares the mode at 0 with the one away from it, and an estimate of 0 is no singular fit.

    Parameters
    ----------
    rate : float
        One over the mean of the standard deviation, positive.

    Raises
    ------
    OptionError
        If the rate is not a positive number.

    References
    ----------
    Simpson et al. (2017). Penalising model component complexity. Statistical Science 32(1).

    Examples
    --------
    >>> Exponential(rate=2)
    Exponential(rate=2.0)
    """

    name = "exponential"
    at_zero = "attracts"

    def __init__(self, rate: float = 1.0) -> None:
        self.rate = _positive(type(self).__name__, "rate", rate)
        super().__init__(rate=self.rate)

    def in_variance(self, v: float) -> tuple[float, float, float]:
        sd = math.sqrt(v)
        kept = max(sd, _LEAST / self.rate)
        curvature = -0.5 * self.rate / kept**3 if sd == kept else 0.0
        return 2.0 * (self.rate * sd - math.log(self.rate)), self.rate / kept, curvature


class PC(Exponential):
    """Penalised complexity prior of the standard deviations: `Exponential`, given by a tail probability.

    Parameters
    ----------
    upper : float
        A large standard deviation, positive.
    p : float
        Probability, between 0 and 1, that the standard deviation exceeds `upper`.

    Raises
    ------
    OptionError
        If `upper` is not positive or `p` not between 0 and 1.

    References
    ----------
    Simpson et al. (2017). Penalising model component complexity. Statistical Science 32(1), section 3.3.

    Examples
    --------
    >>> PC(upper=1, p=0.05)
    PC(upper=1.0, p=0.05)
    >>> round(PC(upper=1, p=0.05).rate, 3)
    2.996
    """

    name = "pc"

    def __init__(self, upper: float, p: float = 0.05) -> None:
        upper, p = _positive("PC", "upper", upper), _positive("PC", "p", p)
        if p >= 1.0:
            raise OptionError(f"PC: p must be a probability between 0 and 1, got {p:g}.")
        super().__init__(-math.log(p) / upper)
        self.arguments = {"upper": upper, "p": p}


class LKJ(_Named):
    r"""Prior :math:`|R|^{\eta - 1}` of the correlation matrix R of a random-effects term.

    With `eta` above 1 a correlation of 1 or -1 is impossible. A column whose standard deviation is 0 counts as
    uncorrelated.

    Parameters
    ----------
    eta : float
        At least 1, where all correlation matrices are equally likely; a density that is infinite at singular matrices
        has no mode.

    Raises
    ------
    OptionError
        If `eta` is not a finite number of at least 1.

    References
    ----------
    Lewandowski, Kurowicka and Joe (2009). Generating random correlation matrices based on vines and extended onion
    method. Journal of Multivariate Analysis 100, equation 16.

    Examples
    --------
    >>> LKJ(2)
    LKJ(eta=2.0)
    """

    name = "lkj"
    keyword = "cor_prior"

    def __init__(self, eta: float = 2.0) -> None:
        self.eta = _positive("LKJ", "eta", eta)
        if self.eta < 1.0:
            raise OptionError(
                f"LKJ: eta must be at least 1, got {self.eta:g}; below, the density is infinite at a correlation of 1."
            )
        super().__init__(eta=self.eta)

    def constant(self, q: int) -> float:
        """Return -2 log of the normalising constant for q columns."""
        m = np.arange(1, q)
        b = self.eta + 0.5 * (m - 1.0)
        return 2.0 * float(((2.0 * self.eta - 2.0 + m) * m * math.log(2.0) + m * betaln(b, b)).sum())
