"""Families of correlation matrices with a few parameters, shared by random effects and residuals.

Each one is given by a root F(x) of the matrix, F F' = C, that is smooth in x up to the boundary: an angle f stands for
a (partial) correlation sin f, so that a correlation of one is reached at a finite parameter.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np

__all__ = [
    "Antedependence",
    "Autoregressive",
    "Compound",
    "CorrelationFamily",
    "Distance",
    "Independent",
    "Toeplitz",
    "kernel",
    "range_limits",
]

# the imaginary step of a complex-step derivative has no rounding error, so it may be as small as wanted
_IMAGINARY = 1e-200
_STEP = 1e-5
_NEAR_BOUND = 1e-4
# logs of the ratio of range and distance: exp(-exp(4)) is rounding, and one over exp(14) is a millionth
_NO_CORRELATION, _FULL_CORRELATION = 4.0, 14.0
_HALF_PI = 0.5 * np.pi
# an angle this far from its bound leaves a smallest eigenvalue of about its square
_LEAST_GAP = 3e-4
# partial autocorrelations at which searches start, beside none
_PARTIAL, _LAST_PARTIAL = 0.5, 0.7


class CorrelationFamily(ABC):
    """Correlation matrices (m, m) with `size` parameters.

    Attributes
    ----------
    m, size : int
        Order of the matrix; number of parameters.
    free : ndarray
        A point (size,) without correlation, or the nearest the family has to it.
    least : float
        Smallest correlation.
    multimodal : bool
        Whether a likelihood of correlations alone may have several optima.
    """

    described = "independent"
    least = -1.0
    multimodal = False

    def __init__(self, m: int, size: int) -> None:
        self.m, self.size = m, size

    @abstractmethod
    def root(self, x: np.ndarray) -> np.ndarray:
        """F (m, m), also for complex x."""

    @abstractmethod
    def reported(self, x: np.ndarray) -> list[tuple[str, str, float, np.ndarray]]:
        """Kind, name, value and gradient in x (size,) of what results report."""

    @abstractmethod
    def nearest(self, c: np.ndarray) -> np.ndarray:
        """Parameters (size,) of the member nearest to the correlation matrix `c` (m, m), exact for a member."""

    @property
    def free(self) -> np.ndarray:
        return np.zeros(self.size)

    def tangents(self, x: np.ndarray) -> np.ndarray:
        """dF / dx_t (size, m, m), by complex steps: exact to the last digits."""
        out = np.empty((self.size, self.m, self.m))
        for i in range(self.size):
            z = np.array(x, dtype=complex)
            z[i] += _IMAGINARY * 1j
            out[i] = self.root(z).imag / _IMAGINARY
        return out

    def matrix(self, x: np.ndarray) -> np.ndarray:
        """C (m, m)."""
        f = self.root(x)
        return f @ f.T

    def matrix_tangents(self, x: np.ndarray) -> np.ndarray:
        """dC / dx_t (size, m, m)."""
        half = self.tangents(x) @ self.root(x).T
        return half + half.transpose(0, 2, 1)

    def bounds(self, x: np.ndarray) -> list[tuple[int, Callable[[float], float]]]:
        """Parameters at the boundary, each with a function of t that gives its value off it."""
        return []

    def singular_at(self, x: np.ndarray) -> np.ndarray:
        """The nearest parameters (size,) of a singular matrix, element by element; infinite where there are none."""
        return np.full(self.size, np.inf)

    def off_singular(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Parameters (size,) kept off a singular matrix, and which of them move with `x`.

        Residuals need the inverse: nearer than this its rounding is more than what the last step could gain.
        """
        bound = self.singular_at(x)
        gap = x - bound
        inside = np.abs(gap) >= _LEAST_GAP
        return np.where(inside, x, bound + np.copysign(_LEAST_GAP, gap)), inside

    def other_starts(self, x: np.ndarray) -> list[np.ndarray]:
        """Further starts (size,) where the likelihood may have several optima."""
        return []

    def _matrix_gradient(self, x: np.ndarray, i: int, j: int) -> np.ndarray:
        f, tangents = self.root(x), self.tangents(x)
        return tangents[:, i] @ f[j] + tangents[:, j] @ f[i]


class Independent(CorrelationFamily):
    """No correlation."""

    def __init__(self, m: int) -> None:
        super().__init__(m, 0)

    def root(self, x: np.ndarray) -> np.ndarray:
        return np.eye(self.m)

    def reported(self, x: np.ndarray) -> list[tuple[str, str, float, np.ndarray]]:
        return []

    def nearest(self, c: np.ndarray) -> np.ndarray:
        return np.zeros(0)


class _Angles(CorrelationFamily):
    """Families of sines of angles, whose bounds are at odd multiples of a right angle."""

    def singular_at(self, x: np.ndarray) -> np.ndarray:
        return (np.round(x / np.pi - 0.5) + 0.5) * np.pi

    def bounds(self, x: np.ndarray) -> list[tuple[int, Callable[[float], float]]]:
        out: list[tuple[int, Callable[[float], float]]] = []
        for i in range(self.size):
            if abs(np.cos(x[i])) < _NEAR_BOUND:
                sign = 1.0 if np.sin(x[i]) > 0.0 else -1.0

                def off(t: float, sign: float = sign) -> float:
                    return sign * (_HALF_PI - np.arcsin(np.sqrt(t)))

                out.append((i, off))
        return out


class Compound(CorrelationFamily):
    """One correlation for all pairs, rho = cos^2 f - sin^2 f / (m - 1)."""

    described = "compound symmetry"

    def __init__(self, m: int) -> None:
        super().__init__(m, 1 if m > 1 else 0)
        self.least = -1.0 / max(m - 1, 1)

    def root(self, x: np.ndarray) -> np.ndarray:
        m = self.m
        if m == 1:
            return np.eye(1)
        mean = np.full((m, m), 1.0 / m)
        return np.sqrt(m) * np.cos(x[0]) * mean + np.sqrt(m / (m - 1.0)) * np.sin(x[0]) * (np.eye(m) - mean)

    @property
    def free(self) -> np.ndarray:
        return np.full(self.size, np.arccos(1.0 / np.sqrt(self.m)))

    def singular_at(self, x: np.ndarray) -> np.ndarray:
        return np.round(x / _HALF_PI) * _HALF_PI

    def reported(self, x: np.ndarray) -> list[tuple[str, str, float, np.ndarray]]:
        if self.m == 1:
            return []
        rho = np.cos(x[0]) ** 2 - np.sin(x[0]) ** 2 / (self.m - 1.0)
        return [("cor", "rho", float(rho), np.array([-np.sin(2.0 * x[0]) * self.m / (self.m - 1.0)]))]

    def nearest(self, c: np.ndarray) -> np.ndarray:
        if self.m == 1:
            return np.zeros(0)
        rho = (c.sum() - np.trace(c)) / (self.m * (self.m - 1.0))
        return np.array([np.arccos(np.sqrt(np.clip((rho * (self.m - 1.0) + 1.0) / self.m, 0.0, 1.0)))])

    def bounds(self, x: np.ndarray) -> list[tuple[int, Callable[[float], float]]]:
        if self.m == 1:
            return []
        if abs(np.sin(x[0])) < _NEAR_BOUND:
            return [(0, lambda t: float(np.arcsin(np.sqrt(t))))]
        if abs(np.cos(x[0])) < _NEAR_BOUND:
            return [(0, lambda t: float(_HALF_PI - np.arcsin(np.sqrt(t))))]
        return []


class Autoregressive(_Angles):
    """First-order autoregression, rho^|i - j| with rho = sin f."""

    described = "first-order autoregression"

    def __init__(self, m: int) -> None:
        super().__init__(m, 1 if m > 1 else 0)
        steps = np.abs(np.subtract.outer(np.arange(m), np.arange(m)))
        self._steps, self._below = steps, np.tril(np.ones((m, m)))

    def root(self, x: np.ndarray) -> np.ndarray:
        if self.m == 1:
            return np.eye(1)
        rho = np.sin(x[0])
        powers = np.cumprod(np.append(np.ones(1), np.full(self.m - 1, rho)))
        out = powers[self._steps] * self._below
        out[:, 1:] = out[:, 1:] * np.cos(x[0])
        return out

    def reported(self, x: np.ndarray) -> list[tuple[str, str, float, np.ndarray]]:
        return [("cor", "rho", float(np.sin(x[0])), np.array([np.cos(x[0])]))] if self.size else []

    def nearest(self, c: np.ndarray) -> np.ndarray:
        return np.arcsin(np.clip([np.diag(c, 1).mean()], -1.0, 1.0)) if self.size else np.zeros(0)

    def other_starts(self, x: np.ndarray) -> list[np.ndarray]:
        return [np.arcsin([rho]) for rho in (0.9, -0.3)] if self.size else []

    @property
    def free(self) -> np.ndarray:
        return np.full(self.size, np.arcsin(0.3))


class Antedependence(_Angles):
    """First-order antedependence: the correlation of i and j is the product of those of neighbours in between."""

    described = "first-order antedependence"

    def __init__(self, m: int) -> None:
        super().__init__(m, m - 1)

    def root(self, x: np.ndarray) -> np.ndarray:
        out = np.zeros((self.m, self.m), dtype=np.asarray(x).dtype if self.size else float)
        out[0, 0] = 1.0
        for i in range(1, self.m):
            out[i] = np.sin(x[i - 1]) * out[i - 1]
            out[i, i] = np.cos(x[i - 1])
        return out

    def reported(self, x: np.ndarray) -> list[tuple[str, str, float, np.ndarray]]:
        unit = np.eye(self.size)
        return [("cor", f"rho[{i + 1}]", float(np.sin(f)), np.cos(f) * unit[i]) for i, f in enumerate(x)]

    def nearest(self, c: np.ndarray) -> np.ndarray:
        return np.arcsin(np.clip(np.diag(c, 1), -1.0, 1.0))


class Toeplitz(_Angles):
    """A correlation for every distance of two places; the parameters are partial autocorrelations sin f_k.

    The root is the lattice filter of a stationary process run from its start: every set of angles gives a positive
    definite matrix (Durbin and Levinson).
    """

    described = "Toeplitz"
    multimodal = True

    def __init__(self, m: int) -> None:
        super().__init__(m, m - 1)

    def other_starts(self, x: np.ndarray) -> list[np.ndarray]:
        """High correlations of all, and a last one of either sign: few pairs inform about it."""
        if self.size < 2:
            return []
        equal = _PARTIAL / (1.0 + _PARTIAL * np.arange(self.size))
        return [np.arcsin(np.append(equal[:-1], last)) for last in (equal[-1], _LAST_PARTIAL, -_LAST_PARTIAL)]

    def root(self, x: np.ndarray) -> np.ndarray:
        m = self.m
        s, c = np.sin(x), np.cos(x)
        out = np.zeros((m, m), dtype=s.dtype if self.size else float)
        # row k: backward prediction error of order k at the place before, in terms of the innovations
        backward = np.zeros((m, m), dtype=out.dtype)
        for i in range(m):
            forward = np.zeros(m, dtype=out.dtype)
            forward[i] = 1.0
            fresh = np.zeros_like(backward)
            for k in range(i, 0, -1):
                fresh[k] = c[k - 1] * backward[k - 1] - s[k - 1] * forward
                forward = c[k - 1] * forward + s[k - 1] * backward[k - 1]
            fresh[0] = forward
            out[i], backward = forward, fresh
        return out

    def reported(self, x: np.ndarray) -> list[tuple[str, str, float, np.ndarray]]:
        row, gradient = self.matrix(x)[0], self.matrix_tangents(x)[:, 0]
        return [("cor", f"rho[{k}]", float(row[k]), gradient[:, k]) for k in range(1, self.m)]

    def nearest(self, c: np.ndarray) -> np.ndarray:
        r = np.array([np.diag(c, k).mean() for k in range(self.m)])
        partial = np.zeros(self.size)
        forecast, left = np.zeros(0), 1.0
        for k in range(self.size):
            value = (r[k + 1] - forecast @ r[k:0:-1]) / left if left > 1e-12 else 0.0
            partial[k] = np.clip(value, -1.0, 1.0)
            forecast = np.append(forecast - partial[k] * forecast[::-1], partial[k])
            left *= 1.0 - partial[k] ** 2
        return np.arcsin(partial)


def _exponential(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    e = np.exp(-z)
    return e, -e


def _gaussian(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    e = np.exp(-z * z)
    return e, -2.0 * z * e


def _matern15(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    z = np.sqrt(3.0) * z
    e = np.exp(-z)
    return (1.0 + z) * e, -np.sqrt(3.0) * z * e


def _matern25(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    z = np.sqrt(5.0) * z
    e = np.exp(-z)
    return (1.0 + z + z * z / 3.0) * e, -np.sqrt(5.0) * z * (1.0 + z) / 3.0 * e


_KERNELS = {
    ("exp", None): (_exponential, 0.5),
    # from half of the median distance the Gaussian correlation is numerically singular
    ("gau", None): (_gaussian, 0.125),
    ("mat", 1.5): (_matern15, 0.5),
    ("mat", 2.5): (_matern25, 0.5),
}


def kernel(name: str, nu: float | None = None) -> tuple[Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]], float]:
    """Correlation and its derivative as a function of distance over range, and the start's share of the distance.

    Raises
    ------
    KeyError
        For a smoothness `nu` without a closed form.
    """
    return _KERNELS[name, nu]


def range_limits(distances: np.ndarray) -> tuple[float, float]:
    """Limits of the log of a range: beyond them correlations are zero or one to all digits, and nothing changes."""
    found = distances[distances > 0.0]
    if not found.size:
        return 0.0, 0.0
    return float(np.log(found.min())) - _NO_CORRELATION, float(np.log(found.max())) + _FULL_CORRELATION


class Distance(CorrelationFamily):
    """Correlation that falls with the distance of two positions; the parameter is the log of the range.

    Parameters
    ----------
    name : {"exp", "gau", "mat"}
    coordinates : ndarray
        Distinct positions (m, d).
    nu : {1.5, 2.5}, optional
        Smoothness of ``"mat"``.
    """

    def __init__(self, name: str, coordinates: np.ndarray, nu: float | None = None) -> None:
        coordinates = np.asarray(coordinates, dtype=float)
        super().__init__(len(coordinates), 1)
        gaps = coordinates[:, None] - coordinates[None]
        self.distances = np.sqrt(np.square(gaps).sum(axis=2))
        self._kernel, self._share = kernel(name, nu)
        self._limits = range_limits(self.distances)
        words = {"exp": "exponential", "gau": "Gaussian", "mat": f"Matern {nu}"}
        self.described = f"{words[name]} correlation of distance"

    def _values(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        inside = float(np.clip(x[0], *self._limits))
        z = self.distances * np.exp(-inside)
        value, slope = self._kernel(z)
        return value, -slope * z * (inside == x[0])

    def matrix(self, x: np.ndarray) -> np.ndarray:
        return self._values(x)[0]

    def matrix_tangents(self, x: np.ndarray) -> np.ndarray:
        return self._values(x)[1][None]

    def root(self, x: np.ndarray) -> np.ndarray:
        return np.linalg.cholesky(self._values(x)[0])

    def tangents(self, x: np.ndarray) -> np.ndarray:
        value, slope = self._values(x)
        root = np.linalg.cholesky(value)
        inner = np.linalg.solve(root, np.linalg.solve(root, slope).T)
        half = np.tril(inner)
        half[np.diag_indices(self.m)] *= 0.5
        return (root @ half)[None]

    @property
    def free(self) -> np.ndarray:
        between = self.distances[np.triu_indices(self.m, 1)]
        between = between[between > 0.0]
        return np.array([np.log(self._share * np.median(between)) if between.size else 0.0])

    def nearest(self, c: np.ndarray) -> np.ndarray:
        """By Newton's method on the log of the range from the start, least squares."""
        x = self.free
        off = ~np.eye(self.m, dtype=bool)
        if not np.abs(c[off]).max(initial=0.0) > 0.0:
            return x
        for _ in range(100):
            value, slope = self._values(x)
            gap = (c - value)[off]
            step = float(slope[off] @ gap) / max(float(slope[off] @ slope[off]), 1e-300)
            x = x + np.clip(step, -0.5, 0.5)
            if abs(step) < 1e-14:
                break
        return x

    def reported(self, x: np.ndarray) -> list[tuple[str, str, float, np.ndarray]]:
        size = float(np.exp(np.clip(x[0], *self._limits)))
        return [("positive", "range", size, np.array([size]))]
