"""Distributions of the largest of several correlated t statistics: multivariate t and studentized range.

Both are P(max |T_j| <= c) = int f_df(s) H(c s) ds, H being a law of normal variables that does not depend on the
degrees of freedom. H is computed on arrays, so that every degree of freedom and every step of a quantile reuses it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.polynomial import chebyshev
from scipy import special, stats

__all__ = ["MaxLaw", "max_law", "range_law"]

_ONE_FACTOR = 1e-9  # largest residual of R_ij = l_i l_j
_NEAR_ONE = 1.0 - 1e-6  # loadings above leave no own variation to integrate over
_Z = np.linspace(-8.5, 8.5, 401)
_Z_WEIGHT = np.full(401, _Z[1] - _Z[0]) * np.exp(-0.5 * _Z**2) / np.sqrt(2.0 * np.pi)
_CELLS = 2_000_000
_PRODUCT = 2  # largest dimension of a product rule
_SOBOL = 16  # log2 of the points of a separation of variables
_WIDEST = 9.0  # normal quantile beyond which tails are below double precision
_STEPS = 60


class MaxLaw:
    """Law of the largest of several t statistics with common degrees of freedom.

    Parameters
    ----------
    normal : callable
        H(w) = P(max |Z_j| <= w), or of max Z_j for one-sided tests, of normal variables; arrays to arrays.
    size : int
        Number of comparisons, which brackets the quantiles.
    two_sided : bool, optional
    """

    def __init__(self, normal: Callable[[np.ndarray], np.ndarray], size: int, two_sided: bool = True):
        self._normal = normal
        self._size = size
        self._sides = 2.0 if two_sided else 1.0

    def tail(self, bounds: np.ndarray, df: np.ndarray) -> np.ndarray:
        """P(max > bound) with degrees of freedom `df`; both (m,), `df` may be infinite."""
        bounds, df = np.asarray(bounds, dtype=float), np.asarray(df, dtype=float)
        out = np.full(bounds.shape, np.nan)
        known = np.isfinite(bounds) & (df > 0.0)
        out[np.isposinf(bounds)] = 0.0
        if known.any():
            scale, weight = np.array([_chi_nodes(float(nu)) for nu in df[known]]).transpose(1, 0, 2)
            inside = self._normal((bounds[known][:, None] * scale).ravel()).reshape(scale.shape)
            out[known] = np.clip(((1.0 - inside) * weight).sum(axis=1), 0.0, 1.0)
        return out

    def quantile(self, alpha: float, df: np.ndarray) -> np.ndarray:
        """Bounds that max exceeds with probability `alpha`, for degrees of freedom `df` (m,)."""
        df = np.asarray(df, dtype=float)
        out = np.full(df.shape, np.nan)
        distinct, back = np.unique(df[df > 0.0], return_inverse=True)
        if distinct.size:
            out[df > 0.0] = self._roots(alpha, distinct)[back]
        return out

    def _roots(self, alpha: float, df: np.ndarray) -> np.ndarray:
        """Regula falsi on log P (Illinois rule) between the single and Bonferroni's quantiles."""
        low = stats.t.isf(alpha / self._sides, df) - 1e-9
        high = stats.t.isf(alpha / self._sides / self._size, df) + 1e-9
        target = np.log(alpha)

        def excess(at: np.ndarray) -> np.ndarray:
            return np.log(np.maximum(self.tail(at, df), 1e-300)) - target

        f_low, f_high = np.maximum(excess(low), 0.0), np.minimum(excess(high), 0.0)
        side = np.zeros(df.shape, dtype=int)
        at = high
        for _ in range(_STEPS):
            gap = f_low - f_high
            at = np.where(gap > 0.0, (low * -f_high + high * f_low) / np.where(gap > 0.0, gap, 1.0), high)
            value = excess(at)
            right = value < 0.0
            f_low = np.where(right & (side == 1), 0.5 * f_low, f_low)
            f_high = np.where(~right & (side == -1), 0.5 * f_high, f_high)
            high, f_high = np.where(right, at, high), np.where(right, value, f_high)
            low, f_low = np.where(right, low, at), np.where(right, f_low, value)
            side = np.where(right, 1, -1)
            if (np.abs(value) < 1e-12).all() or (high - low < 1e-13 * np.abs(high)).all():
                break
        return at


@lru_cache(maxsize=512)
def _chi_nodes(df: float) -> tuple[np.ndarray, np.ndarray]:
    """Nodes s and weights (64,) of the law of sqrt(chi2_df / df): Gauss-Legendre in the normal score of s."""
    z, weight = np.polynomial.legendre.leggauss(64)
    z, weight = 8.0 * z, 8.0 * weight * np.exp(-32.0 * z**2) / np.sqrt(2.0 * np.pi)
    if np.isinf(df):
        return np.ones_like(z), weight
    lower = special.gammaincinv(0.5 * df, special.ndtr(np.minimum(z, 0.0)))
    upper = special.gammainccinv(0.5 * df, special.ndtr(-np.maximum(z, 0.0)))
    return np.sqrt(np.where(z < 0.0, lower, upper) / (0.5 * df)), weight


def range_law(n_means: int) -> MaxLaw:
    """Law of the largest |difference| / sqrt(2) of `n_means` independent means: Tukey's studentized range."""
    below = special.ndtr(_Z)

    def normal(w: np.ndarray) -> np.ndarray:
        inside = below - special.ndtr(_Z - np.sqrt(2.0) * w[:, None])
        return n_means * (np.maximum(inside, 0.0) ** (n_means - 1) @ _Z_WEIGHT)

    return MaxLaw(_chunked(normal), n_means * (n_means - 1) // 2)


def max_law(correlation: np.ndarray, two_sided: bool = True) -> MaxLaw:
    """Law of the largest of t statistics with a correlation matrix.

    Parameters
    ----------
    correlation : ndarray
        (k, k), ones on the diagonal; may be singular.
    two_sided : bool, optional
        Whether of the absolute values.

    Returns
    -------
    MaxLaw

    References
    ----------
    Dunnett and Sobel (1955), Biometrika 42 (one factor); Genz and Bretz (2009), Computation of multivariate normal and
    t probabilities, chapter 4.
    """
    loadings = _one_factor(correlation)
    if loadings is not None:
        return MaxLaw(_chunked(_factor_law(loadings, two_sided)), len(correlation), two_sided)
    return MaxLaw(_interpolated(_separated(correlation, two_sided), two_sided), len(correlation), two_sided)


def _chunked(law: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    """The same law, so that a chunk of bounds by nodes stays small."""
    width = _CELLS // _Z.size

    def normal(w: np.ndarray) -> np.ndarray:
        return np.concatenate([law(w[i : i + width]) for i in range(0, len(w), width)])

    return normal


def _one_factor(correlation: np.ndarray) -> np.ndarray | None:
    """Loadings l (k,) with R_ij = l_i l_j off the diagonal, None if there are none below one."""
    off = correlation - np.diag(np.diag(correlation))
    k = len(off)
    loadings = np.zeros(k)
    a, b = np.unravel_index(int(np.argmax(np.abs(off))), off.shape)
    if off[a, b] != 0.0:
        # the third variable that is best correlated with both determines the first loading
        other = int(np.argmax(np.abs(off[a] * off[b])))
        square = off[a, b] * off[a, other] / off[b, other] if off[a, other] * off[b, other] else abs(off[a, b])
        if square <= 0.0:
            return None
        loadings = off[a] / np.sqrt(square)
        loadings[a] = np.sqrt(square)
    residual = off - np.outer(loadings, loadings)
    np.fill_diagonal(residual, 0.0)
    fits = np.abs(residual).max(initial=0.0) < _ONE_FACTOR and np.abs(loadings).max() < _NEAR_ONE
    return loadings if fits else None


def _factor_law(loadings: np.ndarray, two_sided: bool) -> Callable[[np.ndarray], np.ndarray]:
    rest = np.sqrt(1.0 - loadings**2)

    def normal(w: np.ndarray) -> np.ndarray:
        product = np.ones((len(w), _Z.size))
        for loading, own in zip(loadings, rest, strict=True):
            upper = special.ndtr((w[:, None] - loading * _Z) / own)
            product *= upper - special.ndtr((-w[:, None] - loading * _Z) / own) if two_sided else upper
        return product @ _Z_WEIGHT

    return normal


def _separated(correlation: np.ndarray, two_sided: bool) -> Callable[[float], float]:
    """Genz's separation of variables at one bound, on fixed points: the same answer in every call."""
    lower = _trapezoidal(correlation)
    k, rank = lower.shape
    last = np.array([np.flatnonzero(np.abs(row) > 1e-8)[-1] for row in lower])
    points, weights = _points(rank - 1, rank == k)

    def normal(w: float) -> float:
        n = len(points)
        y, probability = np.zeros((n, rank)), np.ones(n)
        for d in range(rank):
            low, high = np.full(n, -np.inf), np.full(n, np.inf)
            for j in np.flatnonzero(last == d):
                center = y[:, :d] @ lower[j, :d]
                ends = (w - center) / lower[j, d], ((-w if two_sided else -np.inf) - center) / lower[j, d]
                high, low = np.minimum(high, np.maximum(*ends)), np.maximum(low, np.minimum(*ends))
            start, stop = special.ndtr(low), special.ndtr(high)
            width = np.maximum(stop - start, 0.0)
            probability *= width
            if d < rank - 1:
                y[:, d] = special.ndtri(np.clip(start + points[:, d] * width, 1e-300, 1.0 - 1e-16))
        return float(probability @ weights)

    return normal


def _trapezoidal(correlation: np.ndarray) -> np.ndarray:
    """L (k, r) with L L' = R up to the order of the rows, lower trapezoidal, r the rank."""
    from scipy.linalg import qr

    values, vectors = np.linalg.eigh(correlation)
    keep = values > 1e-10 * values[-1]
    root = vectors[:, keep] * np.sqrt(values[keep])
    upper, _ = qr(root.T, mode="r", pivoting=True)
    return upper.T


@lru_cache(maxsize=8)
def _points(dimension: int, smooth: bool) -> tuple[np.ndarray, np.ndarray]:
    """Points of the unit cube (n, dimension) and weights (n,): a product rule where it is smooth, else Sobol's."""
    if dimension == 0:
        return np.zeros((1, 0)), np.ones(1)
    if smooth and dimension <= _PRODUCT:
        x, weight = np.polynomial.legendre.leggauss(96)
        grid = np.meshgrid(*[0.5 * (x + 1.0)] * dimension, indexing="ij")
        weights = np.meshgrid(*[0.5 * weight] * dimension, indexing="ij")
        return np.column_stack([g.ravel() for g in grid]), np.prod([w.ravel() for w in weights], axis=0)
    points = stats.qmc.Sobol(dimension, scramble=False).random_base2(_SOBOL) + 0.5 / 2**_SOBOL
    # points crowd at the ends, where small tail probabilities come from
    weights = np.prod(6.0 * points * (1.0 - points), axis=1)
    return points**2 * (3.0 - 2.0 * points), weights / weights.sum()


def _interpolated(law: Callable[[float], float], two_sided: bool) -> Callable[[np.ndarray], np.ndarray]:
    """A law that costs much per bound, from its values at Chebyshev points, doubled until they agree."""
    left = 0.0 if two_sided else -_WIDEST
    known: dict[float, float] = {}
    for degree in (24, 48, 96):
        at = np.cos(np.pi * np.arange(degree + 1) / degree)
        for x in at:
            if x not in known:
                known[x] = law(left + 0.5 * (x + 1.0) * (_WIDEST - left))
        coefficients = chebyshev.chebfit(at, np.array([known[x] for x in at]), degree)
        if np.abs(coefficients[-4:]).max() < 1e-8:
            break

    def normal(w: np.ndarray) -> np.ndarray:
        x = 2.0 * (np.clip(w, left, _WIDEST) - left) / (_WIDEST - left) - 1.0
        return np.clip(chebyshev.chebval(x, coefficients), 0.0, 1.0)

    return normal
