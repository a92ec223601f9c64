"""Ordered categories by thresholds: Pr(y <= k) = F(threshold_k - eta)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import log_expit, log_ndtr

from mvmise_sm.core.families.base import Derivatives, Family
from mvmise_sm.core.families.jets import log1mexp, variables

__all__ = ["Cumulative", "threshold_map"]


def threshold_map(kind: str, m: int) -> tuple[np.ndarray, list[str]]:
    """Matrix from the threshold parameters to the m thresholds, and names of the parameters; None names for flexible.

    Raises
    ------
    ValueError
        If the kind is unknown.
    """
    if kind == "flexible":
        return np.eye(m), []
    if kind == "equidistant":
        return np.column_stack([np.ones(m), np.arange(m, dtype=float)]), ["threshold.1", "spacing"]
    if kind != "symmetric":
        raise ValueError(f"threshold must be 'flexible', 'symmetric' or 'equidistant', got {kind!r}")
    half = m // 2
    odd = m % 2
    out = np.zeros((m, (m + 1) // 2 + (0 if odd else 1)))
    if odd:
        # the middle threshold, and distances from it outwards
        out[:, 0] = 1.0
        for i in range(half):
            out[half + 1 + i, 1 + i], out[half - 1 - i, 1 + i] = 1.0, -1.0
        return out, ["central", *[f"spacing.{i + 1}" for i in range(half)]]
    # the two middle ones, and distances from them outwards
    for i in range(half):
        out[half + i, 1], out[half - 1 - i, 0] = 1.0, 1.0
        if i:
            out[half + i, 1 + i], out[half - 1 - i, 1 + i] = 1.0, -1.0
    return out, ["central.1", "central.2", *[f"spacing.{i}" for i in range(1, half)]]


class Cumulative(Family):
    """Ordered categories 0, 1, ..., with the predictors (eta, upper threshold, lower threshold).

    Parameters
    ----------
    link : str
        ``"logit"``, ``"probit"``, ``"cloglog"`` (F = 1 - exp(-exp x)) or ``"loglog"`` (F = exp(-exp(-x))).
    n_levels : int
    """

    name, label, links = "cumulative", "Cumulative", ("logit", "probit", "cloglog", "loglog")
    concave_links = ("logit", "probit", "cloglog", "loglog")
    integer = latent = True
    shape_names = ("upper", "lower")

    def __init__(self, link: Any = None, n_levels: int = 3):
        super().__init__(link)
        self.n_levels = n_levels

    def log_density(self, y: np.ndarray, w: np.ndarray | None, parts: tuple, shape: Sequence) -> Any:
        eta, (upper, lower) = parts[0], shape
        return self._log_interval(y, upper - eta, lower - eta)

    def _log_interval(self, y: np.ndarray, a: Any, b: Any) -> Any:
        """log(F(a) - F(b)) by row, F(b) = 0 in the first and F(a) = 1 in the last category; arrays or jets."""
        first, last = y == 0.0, y == self.n_levels - 1.0
        middle = ~(first | last)
        # stand-ins keep the functions of the other rows finite
        gap_a, gap_b = np.where(middle, a, 1.0), np.where(middle, b, 0.0)
        if self.link.name == "logit":
            up, down = log_expit(a), log_expit(-b)
            inside = log_expit(gap_a) + log_expit(-gap_b) + log1mexp(gap_b - gap_a)
        elif self.link.name == "probit":
            up, down = log_ndtr(a), log_ndtr(-b)
            flip = _plain(gap_a) + _plain(gap_b) > 0.0
            c, e = np.where(flip, -gap_b, gap_a), np.where(flip, -gap_a, gap_b)
            inside = log_ndtr(c) + log1mexp(log_ndtr(e) - log_ndtr(c))
        elif self.link.name == "cloglog":
            up, down = log1mexp(-np.exp(a)), -np.exp(b)
            inside = -np.exp(gap_b) + log1mexp(np.exp(gap_b) - np.exp(gap_a))
        else:
            up, down = -np.exp(-a), log1mexp(-np.exp(-b))
            inside = -np.exp(-gap_a) + log1mexp(np.exp(-gap_a) - np.exp(-gap_b))
        return np.where(first, up, np.where(last, down, inside))

    def expand(self, y: np.ndarray, w: Any, predictors: Sequence, full: bool) -> Derivatives:
        eta, upper, lower = predictors
        # the ends have no second threshold: any finite value serves, its derivatives are taken out
        a, b = upper - eta, lower - eta
        d = self._log_interval(y, *variables([a, b], 3 if full else 2)).derivatives()
        out: Derivatives = {(): d[()], (0,): -(d[(0,)] + d[(1,)])}
        aa, ab, bb = (d.get(k, 0.0) for k in ((0, 0), (0, 1), (1, 1)))
        out[(0, 0)] = aa + 2.0 * ab + bb
        if not full:
            return out
        aaa, aab, abb, bbb = (d.get(k, 0.0) for k in ((0, 0, 0), (0, 0, 1), (0, 1, 1), (1, 1, 1)))
        out[(1,)], out[(2,)] = d[(0,)], d[(1,)]
        out[(1, 1)], out[(1, 2)], out[(2, 2)] = aa, ab, bb
        out[(0, 1)], out[(0, 2)] = -(aa + ab), -(ab + bb)
        out[(0, 0, 0)] = -(aaa + 3.0 * (aab + abb) + bbb)
        out[(0, 0, 1)], out[(0, 0, 2)] = aaa + 2.0 * aab + abb, aab + 2.0 * abb + bbb
        return out

    def probabilities(self, eta: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
        """Probability of every category (n, n_levels)."""
        below = self.link.inverse(np.asarray(thresholds)[None, :] - np.asarray(eta, dtype=float)[:, None])
        below = np.column_stack([np.zeros(len(eta)), below, np.ones(len(eta))])
        return np.diff(below, axis=1)

    def start(self, y: np.ndarray, w: np.ndarray | None = None) -> np.ndarray:
        return np.zeros_like(y)

    def variance(self, mean: np.ndarray, d: Any = 1.0, shape: Sequence = ()) -> np.ndarray:
        raise NotImplementedError("categories have no variance; see the probabilities")


def _plain(x: Any) -> np.ndarray:
    return x.value if hasattr(x, "coef") else x
