"""Posterior covariances of random effects and of predictions, from a factorisation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["NewRows", "level_covariances"]

_PANEL_CELLS = 20_000_000


def level_covariances(layout, factorization):
    """Var(b | y, beta) / sigma2 by level in the user's coordinates, (n_levels, q_k, q_k) per grouping factor as the
    model lists them.
    """
    out = [None] * len(layout.factors)
    for f, block in zip(layout.factors, factorization.posterior_cov(), strict=True):
        a = np.zeros((f.q, f.q))
        for t, place in zip(f.terms, f.places, strict=True):
            a[place, place] = layout.term_bases[t].a
        out[f.index] = a @ block.transpose(2, 0, 1) @ a.T
    return tuple(out)


@dataclass(frozen=True, slots=True, eq=False)
class NewRows:
    """Rows to predict, in working coordinates.

    Attributes
    ----------
    x : ndarray
        Fixed effects (m, p).
    row, col, value : ndarray
        Entries of their random-effects rows, sorted by row; columns by factor, column, level.
    fresh : ndarray
        Variance of levels without data over sigma2 (m,).
    n_random : int
    """

    x: np.ndarray
    row: np.ndarray
    col: np.ndarray
    value: np.ndarray
    fresh: np.ndarray
    n_random: int

    @classmethod
    def build(cls, layout, terms, x, rows):
        """From levels and columns per term, see `ProfiledDeviance.prediction_variance`; `terms` are the working
        Lambdas.
        """
        fresh = np.zeros(x.shape[0])
        parts, start = [], 0
        for f in layout.factors:
            for t, place in zip(f.terms, f.places, strict=True):
                codes, columns = rows[t]
                z = np.asarray(columns, dtype=float) @ layout.term_bases[t].a
                known = np.flatnonzero(codes >= 0)
                new = codes < 0
                fresh[new] += np.square(z[new] @ terms[t]).sum(axis=1)
                for a in range(z.shape[1]):
                    parts.append((known, start + (place.start + a) * f.n_levels + codes[known], z[known, a]))
            start += f.size
        row, col, value = (np.concatenate(p) for p in zip(*parts, strict=True))
        order = np.argsort(row, kind="stable")
        return cls(x, row[order], col[order], value[order], fresh, layout.n_random)

    def variance(self, factorization, zx, cov_beta):
        """Var(x'(beta_hat - beta) + z'(b_hat - b)) / sigma2 (m,), for Z'X (n, p) and the unscaled covariance of
        beta.
        """
        m = self.x.shape[0]
        out = np.empty(m)
        explained = factorization.solve(np.ascontiguousarray(zx)) if zx.shape[1] else zx
        panel = max(1, min(m, _PANEL_CELLS // max(self.n_random, 1)))
        for lo in range(0, m, panel):
            hi = min(lo + panel, m)
            at = slice(*np.searchsorted(self.row, [lo, hi]))
            z = np.zeros((self.n_random, hi - lo))
            np.add.at(z, (self.col[at], self.row[at] - lo), self.value[at])
            rest = self.x[lo:hi] - z.T @ explained
            out[lo:hi] = (z * factorization.solve(z)).sum(axis=0) + ((rest @ cov_beta) * rest).sum(axis=1)
        return out + self.fresh
