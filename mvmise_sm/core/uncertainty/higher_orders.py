"""The logarithm of the integral beyond its Laplace approximation, to all orders where that can be afforded.

With P the covariance of the approximating normal density and h(b) the rows' log-likelihood less its expansion to
second order, what is missing is log E exp h(b) for b ~ N(0, P). The levels of the largest grouping factor are
independent given the other factors: a few nodes integrate each of them, and the other factors are averaged over points
of a quasi-random sequence. With one factor there is nothing to average over.
"""

from __future__ import annotations

from itertools import product as grid
from typing import Any

import numpy as np
from numpy.polynomial.hermite_e import hermegauss
from scipy.special import ndtri
from scipy.stats import qmc

from mvmise_sm.core.elimination.levels import LevelFactor, factor_levels

__all__ = ["averaged_part", "can_average", "cubic_sum", "higher_orders"]

# nodes per column of a level's block; larger blocks are left to the expansion
_NODES = {1: 15, 2: 9, 3: 7}
# rows times nodes times points that are evaluated, and the powers of two that the number of points may be
_AFFORDED, _LEAST_POINTS, _MOST_POINTS = 1_000_000, 6, 7
# effects of the factors that are averaged over, and the least share of points that the average may rest on
_MOST_EFFECTS, _LEAST_SHARE = 60, 0.1
_SEED = 20
# share of the largest eigenvalue of a covariance that counts as zero
_FLAT = 1e-12


def higher_orders(criterion: Any, mode: Any, third: np.ndarray, fourth: np.ndarray) -> float:
    """What the levels of the largest factor bring beyond their second-order term, the other factors at the mode.

    Parameters
    ----------
    criterion : LaplaceDeviance
        Where the mode was found.
    mode : Mode
    third, fourth : ndarray
        Derivatives of the rows in the random predictors (R, R, R, nobs) and (R, R, R, R, nobs).
    """
    if criterion.layout.loaded:
        return 0.0
    inc, k = criterion.incidence, _largest(criterion)
    if len(inc.columns[k]) not in _NODES:
        return 0.0
    level = factor_levels(inc.own(mode.terms.observed)[k], criterion.merged_lambdas[k])
    s = inc.level_quadratic(k, level.w)
    s = s[None, None] if s.ndim == 1 else s
    t = np.einsum("abcn,abn->cn", third, s)
    zt = inc.transposed(t[0] if len(t) == 1 else t)[k]
    second = float(np.einsum("abcdn,abn,cdn->", fourth, s, s)) / 8.0
    second += float(np.einsum("aj,abj,bj->", zt, level.w, zt)) / 8.0
    second += cubic_sum(inc, third, level.w, k) / 12.0
    return _Rows(criterion, mode, k, level).levels(None) - second


def can_average(criterion: Any) -> bool:
    """Whether several factors are small enough for `averaged_part`."""
    if criterion.layout.loaded or len(criterion.incidence.levels) == 1:
        return False
    inc, k = criterion.incidence, _largest(criterion)
    if len(inc.columns[k]) not in _NODES:
        return False
    effects = sum(len(c) * j for i, (c, j) in enumerate(zip(inc.columns, inc.levels, strict=True)) if i != k)
    return effects <= _MOST_EFFECTS and _points(criterion, k) >= _LEAST_POINTS


def averaged_part(criterion: Any, mode: Any) -> float:
    """log E exp h with several factors; NaN where the average would rest on few of its points."""
    inc, k = criterion.incidence, _largest(criterion)
    level = factor_levels(inc.own(mode.terms.observed)[k], criterion.merged_lambdas[k])
    rows = _Rows(criterion, mode, k, level)
    cov, root = _other_factors(criterion, mode, k)
    # with each point its opposite, which cancels the odd orders of h
    half = ndtri(qmc.Sobol(root.shape[1], rng=_SEED).random_base2(_points(criterion, k) - 1))
    draws = np.concatenate([half, -half])
    logs = np.array([rows.levels(inc.times([np.ascontiguousarray(c @ (root @ z)) for c in cov])) for z in draws])
    weights = np.exp(logs - logs.max())
    if weights.sum() ** 2 < _LEAST_SHARE * logs.size * np.square(weights).sum():
        return float("nan")
    return float(logs.max() + np.log(weights.mean()))


def cubic_sum(inc: Any, third: np.ndarray, p: np.ndarray, k: int) -> float:
    """Sum over the levels of factor k of T_abc T_def P_ad P_be P_cf with T_abc = sum_i l_i z_a z_b z_c, P (q, q, J)."""
    codes, columns, levels = inc.codes[k], inc.columns[k], inc.levels[k]
    part = inc.part[k] if len(third) > 1 else np.zeros(len(columns), dtype=int)
    q = len(columns)
    z = [np.ones(codes.size) if c is None else c for c in columns]
    total = np.empty((q, q, q, levels))
    for a in range(q):
        for b in range(q):
            for c in range(q):
                row = third[part[a], part[b], part[c]] * z[a] * z[b] * z[c]
                total[a, b, c] = np.bincount(codes, row, minlength=levels)
    moved = np.einsum("abcj,adj->dbcj", total, p)
    moved = np.einsum("dbcj,bej->decj", moved, p)
    moved = np.einsum("decj,cfj->defj", moved, p)
    return float((moved * total).sum())


class _Rows:
    """The rows at shifted predictors without their expansion to second order, and their integral over factor k.

    Parameters
    ----------
    criterion : LaplaceDeviance
    mode : Mode
    k : int
        The factor.
    level : LevelFactor
        Its levels given the other factors.
    """

    def __init__(self, criterion: Any, mode: Any, k: int, level: LevelFactor) -> None:
        self.response, self.terms = criterion.response, mode.terms
        self.base = self.response.row_values(mode.terms.eta)[0]
        inc, q = criterion.incidence, len(level.h)
        self.codes, self.count = inc.codes[k], inc.levels[k]
        z, w = hermegauss(_NODES[q])
        log_w = np.log(w) - 0.5 * np.log(2.0 * np.pi)
        self.shifts, self.log_weights = [], []
        for places in grid(range(len(z)), repeat=q):
            b = [np.zeros_like(x) for x in mode.b]
            b[k] = np.einsum("abj,a->bj", level.h, z[list(places)])
            self.shifts.append(inc.times(b))
            self.log_weights.append(log_w[list(places)].sum())

    def rest(self, shift: np.ndarray) -> np.ndarray:
        """h by row (nobs,), the random predictors moved by `shift` from the mode."""
        rows = self.response.row_values(self.terms.eta + shift)[0] - self.base
        if shift.ndim == 1:
            return rows - self.terms.score * shift + 0.5 * self.terms.observed * shift * shift
        linear = (self.terms.score * shift).sum(axis=0)
        return rows - linear + 0.5 * np.einsum("an,abn,bn->n", shift, self.terms.observed, shift)

    def levels(self, beside: np.ndarray | None) -> float:
        """Sum over the levels of log E exp h, with the predictors moved by `beside` by the other factors."""
        logs = np.empty((len(self.shifts), self.count))
        for i, shift in enumerate(self.shifts):
            rows = self.rest(shift if beside is None else shift + beside)
            logs[i] = np.bincount(self.codes, rows, minlength=self.count) + self.log_weights[i]
        top = logs.max(axis=0)
        return float((top + np.log(np.exp(logs - top).sum(axis=0))).sum())


def _largest(criterion: Any) -> int:
    """The factor with the most random effects."""
    inc = criterion.incidence
    return int(np.argmax([len(columns) * levels for columns, levels in zip(inc.columns, inc.levels, strict=True)]))


def _points(criterion: Any, k: int) -> int:
    """Logarithm to base 2 of the number of points that can be afforded."""
    inc = criterion.incidence
    q = len(inc.columns[k])
    return min(int(np.log2(max(_AFFORDED / (_NODES[q] ** q * inc.nobs), 1.0))), _MOST_POINTS)


def _other_factors(criterion: Any, mode: Any, main: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Columns of P of the factors but `main`, (q, J, m) per factor, and what makes a root of P of them: their symmetric
    inverse root (m, r).
    """
    inc = criterion.incidence
    others = [k for k in range(len(inc.levels)) if k != main]
    size = sum(len(inc.columns[k]) * inc.levels[k] for k in others)
    unit = [np.zeros((len(c), j, size)) for c, j in zip(inc.columns, inc.levels, strict=True)]
    at = 0
    for k in others:
        n = unit[k].shape[0] * unit[k].shape[1]
        unit[k].reshape(n, size)[np.arange(n), at + np.arange(n)] = 1.0
        at += n
    cov = mode.weighted.solve_blocks(unit)[0]
    own = np.concatenate([cov[k].reshape(-1, size) for k in others])
    values, vectors = np.linalg.eigh(0.5 * (own + own.T))
    inverse = np.where(values > _FLAT * max(float(values[-1]), 1e-300), 1.0 / np.sqrt(np.maximum(values, 1e-300)), 0.0)
    return cov, (vectors * inverse) @ vectors.T
