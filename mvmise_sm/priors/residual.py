"""Point prior on the residual standard deviation or variance; the gamma families are in `covariance`."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np

from mvmise_sm.priors.base import CovariancePrior, Dimensions, Prior, r_text

__all__ = ["Point"]


class Point(Prior):
    """Fix the residual standard deviation or variance at a known value, for example in a meta-analysis.

    Parameters
    ----------
    value : float or callable, optional
        Positive; default 1.
    posterior_scale : {"sd", "var"}, optional
        Whether `value` is the standard deviation (default) or the variance.

    References
    ----------
    Dorie, blme: Profiled Maximum A Posteriori Estimation, sections 3.3 and 5.4.

    Examples
    --------
    >>> Point(value=25)
    Point(value=25)
    """

    name = "point"
    positions: ClassVar = {"resid": ("value", "posterior_scale")}

    def __init__(self, value: float | None = None, posterior_scale: str | None = None) -> None:
        super().__init__(value=value, posterior_scale=posterior_scale)

    def residual(self, dims: Dimensions) -> CovariancePrior:
        """Bind as a point mass."""
        h = self._hyperparameters({"value": 1.0, "posterior_scale": "sd"}, dims)
        value = h.number("value", minimum=0.0, strict=True)
        return PointMass(value**2 if h.choice("posterior_scale", ("sd", "var")) == "sd" else value)


class PointMass(CovariancePrior):
    """A residual variance known to be `fixed`; it contributes no penalty."""

    def __init__(self, fixed: float) -> None:
        super().__init__()
        self.fixed: float = float(fixed)

    def value(self, s: np.ndarray) -> float:
        return 0.0

    def gradient(self, s: Any) -> Any:
        return np.zeros_like(s)

    def describe(self) -> Any:
        return f"point(value = {r_text(math.sqrt(self.fixed))})"
