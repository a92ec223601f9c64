"""The one-dimensional problem in rho = log sigma2 that the priors leave (blme paper, section 3.3)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mvmise_sm.priors.base import ScalePart

from mvmise_sm.exceptions import OptionError

__all__ = ["ScaleProfile", "find_minimum"]

_FAR = 80.0


class ScaleProfile:
    """g(rho) = log * rho + sum_k c_k exp(k rho / 2), k in {-2, -1, 1, 2}, plus any functions of rho.

    Attributes
    ----------
    log : float
    powers : list of float
        c_k by k + 2 (5,), the middle one unused.
    functions : list of callable
        Each returns value, first and second derivative at rho.
    """

    __slots__ = ("functions", "log", "powers")

    def __init__(self, log: float = 0.0, powers: list[float] | None = None, functions: list[Any] | None = None) -> None:
        self.log = log
        self.powers = [0.0] * 5 if powers is None else powers
        self.functions = [] if functions is None else functions

    def copy(self) -> ScaleProfile:
        """Return an independent copy."""
        return ScaleProfile(self.log, list(self.powers), list(self.functions))

    def add(self, part: ScalePart) -> None:
        """Add a `ScalePart`."""
        self.log += part.log
        self.powers[part.power + 2] += part.coefficient

    def derivatives(self, rho: float) -> tuple[float, float]:
        """First and second derivative at rho."""
        first, second = self.log, 0.0
        for k in (-2, -1, 1, 2):
            c = self.powers[k + 2]
            if c:
                term = 0.5 * k * c * math.exp(0.5 * k * rho)
                first += term
                second += 0.5 * k * term
        for function in self.functions:
            _, d1, d2 = function(rho)
            first += d1
            second += d2
        return first, second

    def value(self, rho: float) -> float:
        """g(rho)."""
        out = self.log * rho
        for k in (-2, -1, 1, 2):
            if self.powers[k + 2]:
                out += self.powers[k + 2] * math.exp(0.5 * k * rho)
        return out + sum(function(rho)[0] for function in self.functions)

    def minimise(self) -> tuple[float, float]:
        """Return the minimiser and the second derivative there.

        Linear in sigma2 (powers -2), quadratic in sigma2 (-2 and 2) and quadratic in sigma (-2 and -1) are solved in
        closed form, as in the paper; anything else by a safeguarded Newton iteration.
        """
        inv_var, inv_sd, _, sd, var = self.powers
        k = self.log
        if not self.functions:
            if sd == 0.0 and var == 0.0 and k > 0.0:
                if inv_sd == 0.0:
                    return math.log(inv_var / k), k
                s = (0.5 * inv_sd + math.sqrt(0.25 * inv_sd**2 + 4.0 * k * inv_var)) / (2.0 * k)
                rho = 2.0 * math.log(s)
                return rho, self.derivatives(rho)[1]
            if inv_sd == 0.0 and sd == 0.0 and var > 0.0:
                root = math.hypot(k, 2.0 * math.sqrt(inv_var * var))
                s2 = 2.0 * inv_var / (k + root) if k > 0.0 else (root - k) / (2.0 * var)
                rho = math.log(s2)
                return rho, self.derivatives(rho)[1]
        return find_minimum(self.derivatives, self._balance())

    def _balance(self) -> float:
        """Where the largest falling and the largest rising term of the derivative are equal."""
        inv_var, inv_sd, _, sd, var = self.powers
        falling = [(inv_var, -1.0), (0.5 * inv_sd, -0.5), (max(-self.log, 0.0), 0.0)]
        rising = [(max(self.log, 0.0), 0.0), (0.5 * sd, 0.5), (var, 1.0)]
        starts = [
            min((math.log(c / d) / (q - p) for d, q in rising if d > 0.0 and q > p), default=0.0)
            for c, p in falling
            if c > 0.0
        ]
        return max(starts, default=0.0)


def find_minimum(derivatives: Callable[[float], tuple[float, float]], start: float) -> tuple[float, float]:
    """A local minimum of a function of one variable near `start`, and its second derivative there.

    Newton steps on the first derivative, kept inside a bracket of its sign change.

    Raises
    ------
    OptionError
        If the function falls all the way to one side.
    """
    low, high = -math.inf, math.inf
    x = start
    for _ in range(200):
        first, second = derivatives(x)
        if first > 0.0:
            high = x
        elif first < 0.0:
            low = x
        else:
            return x, second
        step = -first / second if second > 0.0 else -math.copysign(1.0, first)
        if second > 0.0 and (abs(step) <= 4e-16 * max(1.0, abs(x)) or first * first / second < 1e-22):
            return x + step, second
        target = x + max(-3.0, min(3.0, step))
        x = target if low < target < high else 0.5 * (low + high)
        if abs(x - start) > _FAR:
            break
    if math.isfinite(low) and math.isfinite(high):
        return x, max(derivatives(x)[1], 0.0)
    raise OptionError(
        "the priors leave the residual variance without a finite positive estimate "
        f"(the objective falls {'without bound as it grows' if x > start else 'as it goes to zero'})."
    )
