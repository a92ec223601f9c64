"""Penalties that are functions of a quadratic form of the fixed effects, and how they depend on it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import exp1

__all__ = [
    "Corner",
    "Gaussian",
    "HorseshoeMixing",
    "Mixing",
    "PenaltyShape",
    "QuadraticPenalty",
    "Student",
    "scaled_exp1",
]


class Mixing:
    """How a fixed-effect prior depends on its quadratic form x: the interface, and what most have in common.

    Attributes
    ----------
    gaussian : bool
        True if phi(x) = x, so that beta is a least-squares problem.
    spike : bool
        True if the density peaks so sharply at the mean that a fit must try it for every penalty.
    corner : float
        Squared distance from the mean within which the density stands for one with a corner there, where an estimate
        has no standard error; 0 for smooth densities.
    """

    gaussian = False
    spike = False
    corner: float = 0.0

    def phi(self, x: float) -> tuple[float, float, float]:
        """Return phi, its first and its second derivative at x >= 0; phi is increasing and concave."""
        raise NotImplementedError

    def at_finite_bound(self) -> Mixing:
        """Return the unbounded form for evaluation at given parameters."""
        return self


class Gaussian(Mixing):
    """phi(x) = x: the normal distribution."""

    gaussian = True

    def phi(self, x: float) -> tuple[float, float, float]:
        """Return phi and its derivatives."""
        return x, 1.0, 0.0


@dataclass(frozen=True)
class Student(Mixing):
    """phi(x) = (df + rank) log(1 + x / df): the multivariate t distribution."""

    df: float
    rank: int

    def phi(self, x: float) -> tuple[float, float, float]:
        """Return phi and its derivatives."""
        total, inside = self.df + self.rank, self.df + x
        return total * math.log1p(x / self.df), total / inside, -total / inside**2


@dataclass(frozen=True)
class HorseshoeMixing(Mixing):
    """phi(x) = -2 log(exp(u) E1(u)), u = (x + width**2) / 2: the horseshoe of one coefficient, bounded if width > 0."""

    width: float
    spike = True

    def phi(self, x: float) -> tuple[float, float, float]:
        """Return phi and its derivatives."""
        u = 0.5 * (x + self.width**2)
        if u <= 0.0:
            return -math.inf, math.inf, -math.inf
        scaled = scaled_exp1(u)
        slope = 1.0 - 1.0 / (u * scaled)  # d log(exp(u) E1(u)) / du
        bend = 1.0 / (u**2 * scaled) + slope / (u * scaled)
        return -2.0 * math.log(scaled), -slope, -0.5 * bend

    def at_finite_bound(self) -> HorseshoeMixing:
        """Return the density with its pole."""
        return HorseshoeMixing(0.0)


@dataclass(frozen=True)
class Corner(Mixing):
    """phi(x) = 2 (sqrt(x + width**2) - width): the double exponential of one coefficient, smooth if width > 0."""

    width: float
    spike = True

    @property
    def corner(self) -> float:  # type: ignore[override]
        """Squared distance from the mean at which the rounded density has 99 % of the slope beyond."""
        return 50.0 * self.width**2

    def phi(self, x: float) -> tuple[float, float, float]:
        """Return phi and its derivatives."""
        root = math.sqrt(x + self.width**2)
        if root == 0.0:
            return 0.0, math.inf, -math.inf
        return 2.0 * (root - self.width), 1.0 / root, -0.5 / root**3

    def at_finite_bound(self) -> Corner:
        """Return the density with its corner."""
        return Corner(0.0)


def scaled_exp1(u: float) -> float:
    """exp(u) E1(u) without overflow."""
    if u < 50.0:
        return float(math.exp(u) * exp1(u))
    # continued fraction (Abramowitz and Stegun 5.1.22), 20 terms reach machine precision from u = 50 on
    tail = 0.0
    for k in range(20, 0, -1):
        tail = k / (1.0 + k / (u + tail))
    return 1.0 / (u + tail)


@dataclass(frozen=True, slots=True, eq=False)
class PenaltyShape:
    """A quadratic penalty at one beta.

    Attributes
    ----------
    value : float
    gradient : ndarray
        In beta (p,).
    d2 : float
        phi''; the Hessian is ``d2 slope slope' + weight precision``.
    slope : ndarray
        Gradient of the quadratic form (p,).
    weight : float
        Of the precision in the Hessian, and alone in a majorant of it where phi is concave.
    in_s2 : float
        Derivative in the residual variance.
    """

    value: float
    gradient: np.ndarray
    d2: float
    slope: np.ndarray
    weight: float
    in_s2: float


@dataclass(frozen=True, eq=False)
class QuadraticPenalty:
    """-2 log prior = constant + phi(x / s2**c) + c rank log(s2), x = (beta - mean)' precision (beta - mean).

    Here c is 1 on the common scale and 0 otherwise. phi must be concave and increasing (a scale mixture of normals).

    Attributes
    ----------
    precision : ndarray
        (p, p), positive semidefinite, in the user's coordinates.
    mean : ndarray
        (p,)
    rank : int
        Number of coefficients that the penalty touches.
    constant : float
    common_scale : bool
    mixing : Mixing
        phi.
    text : str
        What results print.
    """

    precision: np.ndarray
    mean: np.ndarray
    rank: int
    constant: float
    common_scale: bool
    mixing: Mixing
    text: str

    def evaluate(self, beta: np.ndarray, s2: float = 1.0) -> PenaltyShape:
        """Value and derivatives at `beta` (p,) and the residual variance `s2`, in the user's coordinates."""
        turned = self.precision @ (beta - self.mean)
        power = s2 if self.common_scale else 1.0
        x = max(float((beta - self.mean) @ turned), 0.0) / power
        value, d1, d2 = self.mixing.phi(x)
        value += self.constant
        along = 0.0
        if self.common_scale:
            value += self.rank * math.log(s2)
            along = (self.rank - d1 * x) / s2
        slope = 2.0 * turned / power
        return PenaltyShape(float(value), d1 * slope, d2, slope, 2.0 * d1 / power, along)
