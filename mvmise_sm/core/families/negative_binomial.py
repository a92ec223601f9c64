"""The negative binomial density and its derivatives, without loss of digits where it is nearly Poisson.

For whole y and x = alpha m: log f = sum_{j<y} log1p(alpha j) - lgamma(y + 1) + y log m - y log1p(x) - m log1p(x) / x. A
size that differs by row takes Stirling's series for differences of log-gammas, whose leading terms cancel exactly.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import digamma, gammaln, polygamma, xlogy

from mvmise_sm.core.families.gamma_functions import log_gamma_derivatives

__all__ = ["CountTables", "log_gamma_ratio", "nb_derivatives", "psi1"]

# Stirling's series has all digits beyond this size with the terms below
_LARGE = 100.0
_SMALL_X = 0.03
_SERIES = 14
_LONGEST_TABLE = 200_000
_TABLE_ALPHA = 1e-2
_SHORT_TABLE = 1e4


def psi1(x: np.ndarray) -> np.ndarray:
    """(log1p(x) - x / (1 + x)) / x^2, by its series for small x."""
    x = np.asarray(x, dtype=float)
    with np.errstate(all="ignore"):
        out = (np.log1p(x) - x / (1.0 + x)) / (x * x)
    small = x < _SMALL_X
    if small.any():
        near = x[small]
        total = np.zeros_like(near)
        for k in range(_SERIES - 1, -1, -1):
            total = total * -near + (k + 1.0) / (k + 2.0)
        out[small] = total
    return out


class CountTables:
    """Sums over j < y of functions of alpha j, for counts y (nobs,).

    Parameters
    ----------
    y : ndarray
        Counts; others are interpolated by log-gammas.
    """

    def __init__(self, y: np.ndarray):
        self._y = y
        self._fixed = -gammaln(y + 1.0)
        top = float(y.max(initial=0.0))
        whole = bool((y == np.floor(y)).all()) and top < _LONGEST_TABLE
        self._whole = whole
        self._index = y.astype(np.intp) if whole else np.zeros(0, dtype=np.intp)
        self._short = top < _SHORT_TABLE
        self._j = np.arange(max(top, 1.0) if whole else 0.0)

    def _by_table(self, alpha: float) -> bool:
        return self._whole and (self._short or alpha <= _TABLE_ALPHA)

    def _sums(self, values: np.ndarray) -> np.ndarray:
        return np.concatenate([[0.0], np.cumsum(values)])[self._index]

    def density(self, alpha: float) -> np.ndarray:
        """sum_{j<y} log1p(alpha j) - lgamma(y + 1) of every row (nobs,)."""
        if self._by_table(alpha):
            return self._sums(np.log1p(alpha * self._j)) + self._fixed
        if alpha == 0.0:
            return self._fixed
        r = 1.0 / alpha
        return log_gamma_ratio(self._y, np.full(self._y.shape, r)) - self._y * np.log(r) + self._fixed

    def shape_slopes(self, alpha: float) -> tuple[np.ndarray, np.ndarray]:
        """First and second derivative of `density` in log alpha (nobs,)."""
        if self._by_table(alpha):
            x = alpha * self._j
            share = x / (1.0 + x)
            return self._sums(share), self._sums(share / (1.0 + x))
        if alpha == 0.0:
            return np.zeros_like(self._y), np.zeros_like(self._y)
        y, r = self._y, 1.0 / alpha
        first = digamma(y + r) - digamma(r)
        second = polygamma(1, y + r) - polygamma(1, r)
        return y - r * first, r * first + r * r * second


def log_gamma_ratio(y: np.ndarray, k: np.ndarray) -> np.ndarray:
    """lgamma(y + k) - lgamma(k) without cancellation for large k."""
    with np.errstate(all="ignore"):
        near = gammaln(y + k) - gammaln(k)
    large = k > _LARGE
    if large.any():
        a, b = y[large], k[large]
        near = np.array(near)
        near[large] = (b - 0.5) * np.log1p(a / b) + a * np.log(a + b) - a + _stirling(a + b) - _stirling(b)
    return near


def _stirling(x: np.ndarray) -> np.ndarray:
    r = 1.0 / (x * x)
    return (1.0 / 12.0 - r * (1.0 / 360.0 - r * (1.0 / 1260.0 - r / 1680.0))) / x


def _log1p_minus(u: np.ndarray) -> np.ndarray:
    """log1p(u) - u, by its series for small u."""
    with np.errstate(all="ignore"):
        out = np.log1p(u) - u
    small = np.abs(u) < _SMALL_X
    if small.any():
        v = u[small]
        total = np.zeros_like(v)
        for k in range(_SERIES + 1, 1, -1):
            total = (total + (-1.0) ** (k + 1) / k) * v
        out[small] = total * v
    return out


def nb_derivatives(y: np.ndarray, m: np.ndarray, log_k: np.ndarray, full: bool, cubic: bool = False) -> dict:
    """log f of the negative binomial with mean m = exp(eta) and size k = exp(kappa), and its derivatives.

    Parameters
    ----------
    y, m, log_k : ndarray
        (nobs,).
    full : bool
        Whether to differentiate in kappa too, and to third order.
    cubic : bool, optional
        Whether the third derivatives with two or three kappas are wanted.

    Returns
    -------
    dict
        Keys ``"", "e", "ee"``; with `full` also ``"eee", "k", "ek", "eek", "kk"``; with `cubic` ``"ekk", "kkk"``.
    """
    with np.errstate(all="ignore"):
        k = np.exp(log_k)
        total = k + m
        away = y - m
        share = k / total
        x = m / k
        out: dict[str, Any] = {
            "": _log_density(y, m, k, total, away, x),
            "e": share * away,
            # m (1 + y / k) / (1 + x)^2 with 1 + x = total / k
            "ee": -m * share * share * (1.0 + y / k),
        }
        if not full:
            return out
        out["eee"] = out["ee"] * (k - m) / total
        out["ek"] = m * share * away / total
        first, second, third = _size_slopes(y, m, k, total, away, cubic)
        out["k"] = k * first
        out["kk"] = out["k"] + k * k * second
        if cubic:
            out["ekk"] = m * share * away * (m - k) / (total * total)
            out["kkk"] = out["k"] + 3.0 * k * k * second + k**3 * third
        # d2/deta2 of a function of m is m f' + m^2 f''
        out["eek"] = out["ek"] + m * m * share * (m - k - 2.0 * y) / (total * total)
        return out


def _log_density(
    y: np.ndarray, m: np.ndarray, k: np.ndarray, total: np.ndarray, away: np.ndarray, x: np.ndarray
) -> np.ndarray:
    large = k > _LARGE
    out = np.empty_like(m)
    if large.any():
        a, b = y[large], k[large]
        u = away[large] / total[large]
        out[large] = (b + a) * np.log1p(u) - a - 0.5 * np.log1p(a / b) + _stirling(a + b) - _stirling(b)
        out[large] += xlogy(a, m[large]) - gammaln(a + 1.0)
    if not large.all():
        here = ~large
        a, b, c = y[here], k[here], x[here]
        out[here] = gammaln(a + b) - gammaln(b) - gammaln(a + 1.0)
        out[here] += xlogy(a, c) - (a + b) * np.log1p(c)
    return out


def _size_slopes(
    y: np.ndarray, m: np.ndarray, k: np.ndarray, total: np.ndarray, away: np.ndarray, cubic: bool
) -> np.ndarray:
    """First three derivatives of log f in k over one; the third is zero where it is not wanted."""
    large = k > _LARGE
    out = np.zeros((3, y.size))
    if not large.all():
        at = ~large
        a, b, s, d = y[at], k[at], total[at], away[at]
        # polygammas of y + k and of k in one pass
        psi = log_gamma_derivatives(np.concatenate([a + b, b]), 1, 3 if cubic else 2)
        n = a.size
        out[0, at] = psi[0, :n] - psi[0, n:] - np.log1p(m[at] / b) - d / s
        out[1, at] = psi[1, :n] - psi[1, n:] + 1.0 / b - 1.0 / s + d / s**2
        if cubic:
            out[2, at] = psi[2, :n] - psi[2, n:] - 1.0 / b**2 + 1.0 / s**2 - 2.0 * d / s**3
    if large.any():
        a, b, s, d = y[large], k[large], total[large], away[large]
        top = a + b
        tail0 = _bernoulli0(top) - _bernoulli0(b)
        out[0, large] = _log1p_minus(d / s) + 0.5 * a / (b * top) + a * (2.0 * b + a) / (12.0 * b**2 * top**2) + tail0
        tail1 = _bernoulli1(top) - _bernoulli1(b)
        out[1, large] = d**2 / (s**2 * top) - a * (2.0 * b + a) / (2.0 * b**2 * top**2) + tail1
        if cubic:
            cube = a * (3.0 * b**2 + 3.0 * a * b + a * a) / (b**3 * top**3)
            out[2, large] = -(d**2) * (3.0 * s + 2.0 * d) / (s**3 * top**2) + cube + _bernoulli2(top) - _bernoulli2(b)
    return out


def _bernoulli0(x: np.ndarray) -> np.ndarray:
    """digamma(x) - log x + 1 / (2 x) + 1 / (12 x^2) for large x."""
    r = 1.0 / (x * x)
    return r * r * (1.0 / 120.0 - r * (1.0 / 252.0 - r / 240.0))


def _bernoulli1(x: np.ndarray) -> np.ndarray:
    r = 1.0 / (x * x)
    return r / x * (1.0 / 6.0 - r * (1.0 / 30.0 - r * (1.0 / 42.0 - r / 30.0)))


def _bernoulli2(x: np.ndarray) -> np.ndarray:
    r = 1.0 / (x * x)
    return -r * r * (0.5 - r * (1.0 / 6.0 - r * (1.0 / 6.0 - 3.0 / 10.0 * r)))
