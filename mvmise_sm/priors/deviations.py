"""Densities of standard deviations and of correlation matrices, for `sd_prior` and `cor_prior`."""

from __future__ import annotations

import math
from typing import Any, NoReturn

import numpy as np
from scipy.special import betaln, gammaln

from mvmise_sm.exceptions import OptionError
from mvmise_sm.priors.base import Dimensions, Prior, r_text

__all__ = ["LKJ", "PC", "Exponential", "HalfCauchy", "HalfNormal", "HalfT"]

# in units of its density a standard deviation below this is 0: the slope of an exponential density in the variance is
# infinite there, a large finite one keeps its sign
_LEAST = 1e-10


def _positive(owner: str, name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
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

    Attributes
    ----------
    attracts : bool
        True if the density falls linearly at 0, which makes 0 a local mode of every posterior.
    """

    keyword = "sd_prior"
    attracts = False

    def in_variance(self, v: float) -> tuple[float, float, float]:
        """Return -2 log density of sqrt(v), and its first and second derivative in the variance v >= 0."""
        raise NotImplementedError


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
    attracts = True

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
