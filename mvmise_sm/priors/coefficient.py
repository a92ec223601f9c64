"""A fixed-effect prior of one's own: the density of one coefficient is enough."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from mvmise_sm.exceptions import OptionError
from mvmise_sm.priors.base import Dimensions, Prior
from mvmise_sm.priors.quadratic import Gaussian, Mixing, QuadraticPenalty

__all__ = ["CoefficientPrior", "of_coefficients"]

# five-point rules for the first and second derivative, centred and to one side
_CENTRED = np.array([1.0, -8.0, 0.0, 8.0, -1.0]) / 12.0, np.array([-1.0, 16.0, -30.0, 16.0, -1.0]) / 12.0
_ONE_SIDED = np.array([-25.0, 48.0, -36.0, 16.0, -3.0]) / 12.0, np.array([35.0, -104.0, 114.0, -56.0, 11.0]) / 12.0
# width of the differences relative to the scale on which the density changes: truncation and rounding are below 1e-10
_STEP = 3e-3
# distances, in units of that scale, at which a density is looked at when it is bound
_LOOKED_AT = np.array([0.1, 0.3, 1.0, 3.0, 10.0, 100.0])
# rounding of a quadratic penalty at these distances
_QUADRATIC = 1e-12
# where the scale is looked for
_SMALLEST, _LARGEST = 1e-12, 1e12
# a density with a corner at its mean rises there by a share of this distance, a smooth one by much less
_NEAR, _CORNER = 1e-4, 1e-2


class CoefficientPrior(Prior):
    """Independent penalties on the fixed effects, on the deviance scale (-2 log density).

    Subclass it for a prior of your own: `value` is required. The density must be symmetric about `mean`, smooth there,
    and fall on either side; another one is refused when the model is built. It is on the absolute scale.

    Attributes
    ----------
    mean : float
        Centre of the density.

    Examples
    --------
    >>> import numpy as np
    >>> class Logistic(CoefficientPrior):
    ...     def value(self, b):
    ...         return abs(b) + 2.0 * np.log1p(np.exp(-abs(b)))
    >>> Logistic()
    Logistic()
    """

    def value(self, b: Any) -> float:
        """Return -2 log density of one coefficient, up to a constant."""
        raise NotImplementedError(f"{type(self).__name__} has no value(b)")

    def fixef(self, dims: Dimensions, coefficients: list[int] | None = None) -> tuple[QuadraticPenalty, ...]:
        """Bind to the fixed effects, or to the positions `coefficients` of them."""
        at_mean, weight, mixing = self._checked()
        out = []
        for j in range(dims.n_fixef) if coefficients is None else coefficients:
            precision, mean = np.zeros((dims.n_fixef, dims.n_fixef)), np.zeros(dims.n_fixef)
            precision[j, j] = weight
            mean[j] = self.mean
            out.append(QuadraticPenalty(precision, mean, 1, at_mean, False, mixing, self.describe()))
        return tuple(out)

    def _number(self, b: float) -> float:
        found: Any = self.value(b)
        try:
            return float(found)
        except (TypeError, ValueError):
            raise OptionError(f"{self.describe()}: value(b) must return one number, got {found!r}.") from None

    def _checked(self) -> tuple[float, float, Mixing]:
        """The penalty as value(mean) and a function of a multiple of the squared distance, once it is known to be one.

        A quadratic penalty is a normal prior, which has a closed form.
        """
        label, at_mean = self.describe(), self._number(self.mean)
        if not math.isfinite(at_mean):
            raise OptionError(f"{label}: the density must be positive and finite at its mean, got value {at_mean:g}.")
        scale = self._scale(at_mean)
        rises = []
        for t in scale * _LOOKED_AT:
            up, down = self._number(self.mean + t), self._number(self.mean - t)
            if not abs(up - down) <= 1e-8 * (1.0 + abs(up)):
                raise OptionError(
                    f"{label}: the density must be symmetric about its mean {self.mean:g}, got value {up:g} at "
                    f"{self.mean + t:g} and {down:g} at {self.mean - t:g}."
                )
            rises.append(up - at_mean)
        if not np.all(np.diff([0.0, *rises]) > 0.0):
            raise OptionError(f"{label}: the density must fall on either side of its mean {self.mean:g}.")
        if self._number(self.mean + _NEAR * scale) - at_mean > _CORNER * _NEAR:
            raise OptionError(f"{label}: the density must be smooth at its mean {self.mean:g}, it has a corner there.")
        curvatures = np.array(rises) / (scale * _LOOKED_AT) ** 2
        if np.ptp(curvatures) <= _QUADRATIC * curvatures[0]:
            return at_mean, float(curvatures[0]), Gaussian()
        return at_mean, 1.0, DensityMixing(self, at_mean, scale)

    def _scale(self, at_mean: float) -> float:
        """Distance from the mean at which the penalty has risen by about one."""
        scale = 1.0
        while scale < _LARGEST and self._number(self.mean + scale) - at_mean < 1.0:
            scale *= 2.0
        while scale > _SMALLEST and not self._number(self.mean + scale) - at_mean < 2.0:
            scale *= 0.5
        return scale


class _Adapted(CoefficientPrior):
    """A `Prior` that has only a value, as one of coefficients."""

    def __init__(self, prior: Prior) -> None:
        super().__init__()
        self.prior, self.mean = prior, float(prior.mean)

    def __repr__(self) -> str:
        return repr(self.prior)

    def value(self, b: float) -> float:
        return self.prior.value(b)

    def describe(self) -> str:
        return self.prior.describe()


def of_coefficients(prior: Prior) -> Prior:
    """The prior itself, or a user's density of one number as a prior of coefficients."""
    return _Adapted(prior) if prior.one_number else prior


@dataclass(frozen=True)
class DensityMixing(Mixing):
    """phi(x) = value(mean + sqrt(x)) - value(mean), derivatives by differences.

    Parameters
    ----------
    prior : CoefficientPrior
    at_mean : float
        value(mean).
    scale : float
        Distance at which phi is about one.
    """

    prior: CoefficientPrior
    at_mean: float
    scale: float

    def phi(self, x: float) -> tuple[float, float, float]:
        """Return phi and its derivatives."""
        width = _STEP * (x + self.scale**2)
        if x >= 2.0 * width:
            first, second = _CENTRED
            places = x + width * np.arange(-2.0, 3.0)
        else:
            first, second = _ONE_SIDED
            places = x + width * np.arange(5.0)
        values = np.array([self.prior.value(self.prior.mean + math.sqrt(p)) for p in places])
        value = float(self.prior.value(self.prior.mean + math.sqrt(x))) - self.at_mean
        return value, float(first @ values) / width, float(second @ values) / width**2
