"""Posterior covariances of random effects and of predictions, from a factorisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mvmise_sm.exceptions import NotAvailableError

if TYPE_CHECKING:
    from mvmise_sm.core.criteria.one_factor import EliminatedPoint
    from mvmise_sm.core.elimination.layout import Layout
    from mvmise_sm.core.interfaces import Factorization, System

__all__ = ["NewRows", "conditional_modes", "level_covariances", "new_row_variance", "subject_covariances"]

_PANEL_CELLS = 20_000_000
# elements of the largest panel of posterior covariances between two factors
_CROSS_CELLS = 8_000_000
# each costs some ten products with the design
_MOST_SOLVES = 5_000


def conditional_modes(
    layout: Layout, factorization: Factorization | EliminatedPoint, terms: list[np.ndarray], beta: np.ndarray
) -> tuple[np.ndarray, ...]:
    """E(b | y) at working fixed effects `beta` (p,) in the user's coordinates, one (n_levels, q) per term; `terms` are
    the working Lambdas.
    """
    out = [np.zeros(0)] * len(terms)
    for f, score in zip(layout.factors, factorization.scores(np.append(-beta, 1.0)), strict=True):
        for t, place in zip(f.terms, f.places, strict=True):
            left = layout.term_bases[t].a @ (terms[t] @ terms[t].T)
            out[t] = layout.random.factors[f.index].labelled((left @ score[place]).T)
    return tuple(out)


def new_row_variance(
    layout: Layout,
    system: System,
    factorization: Factorization,
    terms: list[np.ndarray],
    cov_beta: np.ndarray,
    x: np.ndarray,
    rows: list[tuple[np.ndarray, np.ndarray]],
    by_solves: bool = False,
) -> np.ndarray:
    """Var(x'(beta_hat - beta) + z'(b_hat - b)) / sigma2 (m,) of new rows with working columns `x` (m, p).

    The working Lambdas `terms` and the unscaled `cov_beta` (p, p) belong to the factorisation; `rows` as in
    `ProfiledDeviance.prediction_variance`.
    """
    p = x.shape[1]
    rhs = [b[:, :, :p] for _, b in system.level_products()]
    zx = np.concatenate([b.reshape(b.shape[0] * b.shape[1], p) for b in rhs])
    return NewRows.build(layout, terms, x, rows).variance(factorization, zx, cov_beta, by_solves)


def level_covariances(layout: Layout, factorization: Factorization) -> tuple[np.ndarray, ...]:
    """Var(b | y, beta) / sigma2 by level in the user's coordinates, (n_levels, q_k, q_k) per grouping factor as the
    model lists them.
    """
    out: list[Any] = [None] * len(layout.factors)
    if layout.loaded:
        blocks = _label_covariances(layout, factorization)
    else:
        blocks = factorization.posterior_cov()
    for f, block in zip(layout.factors, blocks, strict=True):
        a = np.zeros((f.q, f.q))
        for t, place in zip(f.terms, f.places, strict=True):
            a[place, place] = layout.term_bases[t].a
        out[f.index] = a @ block.transpose(2, 0, 1) @ a.T
    return tuple(out)


def _label_covariances(layout: Layout, factorization: Factorization) -> list[np.ndarray]:
    """The same in working coordinates (q, q, J), where the levels of a factor mix independent effects."""
    full = factorization.solve(np.eye(layout.n_random))
    out = []
    for f, (o, q, j) in zip(layout.factors, layout.places, strict=True):
        block = full[o : o + q * j, o : o + q * j].reshape(q, j, q, j)
        root = layout.random.factors[f.index].root
        if root is None:
            out.append(block.diagonal(axis1=1, axis2=3))
        else:
            half = np.tensordot(root, block, axes=([1], [1]))
            out.append(np.einsum("labs,ls->abl", half, root))
    return out


def subject_covariances(layout: Layout, factorization: Factorization, first: np.ndarray) -> np.ndarray:
    """Var(b | y, beta) / sigma2 of the effects that touch each subject, working coordinates (subjects, Q, Q).

    Parameters
    ----------
    layout : Layout
    factorization : Factorization
    first : ndarray
        First row of every subject (subjects,); all its rows belong to the same levels.
    """
    factors = layout.factors
    stops = np.cumsum([0] + [f.q for f in factors])
    out = np.zeros((len(first), stops[-1], stops[-1]))
    if layout.loaded:
        full = factorization.solve(np.eye(layout.n_random))
        shares = [f.shares(first) for f in factors]
    else:
        blocks = factorization.posterior_cov()
    for k, f in enumerate(factors):
        a = slice(stops[k], stops[k + 1])
        if not layout.loaded:
            out[:, a, a] = blocks[k][:, :, f.codes[first]].transpose(2, 0, 1)
        for n in range(k if layout.loaded else k + 1, len(factors)):
            b = slice(stops[n], stops[n + 1])
            if layout.loaded:
                cross = _shared_cov(full, layout.places[k], layout.places[n], shares[k], shares[n])
            elif f.n_levels >= factors[n].n_levels:
                cross = _cross_cov(layout, factorization, k, n, first)
            else:
                cross = _cross_cov(layout, factorization, n, k, first).transpose(0, 2, 1)
            out[:, a, b] = cross
            out[:, b, a] = cross.transpose(0, 2, 1)
    return out


def _shared_cov(
    full: np.ndarray, first: tuple[int, int, int], second: tuple[int, int, int], a: np.ndarray, b: np.ndarray
) -> np.ndarray:
    """Covariances (m, q, r) of what rows with shares `a` (m, J) and `b` (m, K) have of two factors."""
    (o, q, j), (u, r, k) = first, second
    out = np.empty((len(a), q, r))
    for c in range(q):
        for d in range(r):
            block = full[o + c * j : o + (c + 1) * j, u + d * k : u + (d + 1) * k]
            out[:, c, d] = ((a @ block) * b).sum(axis=1)
    return out


def _cross_cov(layout: Layout, factorization: Factorization, k: int, n: int, rows: np.ndarray) -> np.ndarray:
    """Posterior covariances (m, q_k, q_n) of the levels of two factors at some rows, by panels of the second's."""
    f, g = layout.factors[k], layout.factors[n]
    codes_k, codes_n = f.codes[rows], g.codes[rows]
    (o, _, _), (u, _, _) = layout.places[k], layout.places[n]
    out = np.empty((len(rows), f.q, g.q))
    found = np.unique(codes_n)
    panel = max(1, _CROSS_CELLS // (layout.n_random * g.q))
    for lo in range(0, found.size, panel):
        part = found[lo : lo + panel]
        unit = np.zeros((layout.n_random, g.q, part.size))
        for b in range(g.q):
            unit[u + b * g.n_levels + part, b, np.arange(part.size)] = 1.0
        solved = factorization.solve(unit.reshape(layout.n_random, -1)).reshape(unit.shape)
        at = np.flatnonzero((codes_n >= part[0]) & (codes_n <= part[-1]))
        column = np.searchsorted(part, codes_n[at])
        for a in range(f.q):
            places = o + a * f.n_levels + codes_k[at]
            out[at, a] = solved[places[:, None], np.arange(g.q), column[:, None]]
    return out


def _loaded_rows(layout: Layout, f: Any, terms: list[np.ndarray], rows: Any, fresh: np.ndarray) -> np.ndarray:
    """Z of new rows for one factor (m, q * n_levels); levels without data add to `fresh`."""
    factor = layout.random.factors[f.index]
    out = np.zeros((len(fresh), f.q * f.n_levels))
    for t, place in zip(f.terms, f.places, strict=True):
        member, columns = rows[t]
        z = np.asarray(columns, dtype=float) @ layout.term_bases[t].a
        if not z.any():
            continue
        if isinstance(member, np.ndarray):
            new = member < 0
            fresh[new] += np.square(z[new] @ terms[t]).sum(axis=1)
            z[new] = 0.0
            member = np.maximum(member, 0)
        inside = factor.incidence(member)
        for b, values in enumerate(z.T):
            at = (place.start + b) * f.n_levels
            out[:, at : at + f.n_levels] = inside * values[:, None]
    return out


@dataclass(frozen=True, slots=True, eq=False)
class NewRows:
    """Rows to predict, in working coordinates.

    Attributes
    ----------
    x : ndarray
        Fixed effects (m, p).
    codes : tuple of ndarray
        Level of every row (m,) per factor of the layout; 0 for a level without data.
    loads : tuple of ndarray
        Columns (q, m) per factor; 0 for a level without data.
    fresh : ndarray
        Variance of levels without data over sigma2 (m,).
    starts : tuple of int
        First random effect of every factor; random effects are ordered by factor, column, level.
    levels : tuple of int
        Number of levels of every factor.
    dense : ndarray or None
        Z of the rows (m, n), where they have more or other effects than one of one level's.
    """

    x: np.ndarray
    codes: tuple
    loads: tuple
    fresh: np.ndarray
    starts: tuple
    levels: tuple
    dense: np.ndarray | None = None

    @classmethod
    def build(
        cls, layout: Layout, terms: list[np.ndarray], x: np.ndarray, rows: list[tuple[np.ndarray, np.ndarray]]
    ) -> NewRows:
        """From levels and columns per term, see `ProfiledDeviance.prediction_variance`; `terms` are the working
        Lambdas.
        """
        m = x.shape[0]
        fresh = np.zeros(m)
        all_codes, loads = [], []
        dense = []
        for f in layout.factors:
            if layout.loaded:
                dense.append(_loaded_rows(layout, f, terms, rows, fresh))
                continue
            load, level = np.zeros((f.q, m)), np.zeros(m, dtype=np.intp)
            for t, place in zip(f.terms, f.places, strict=True):
                codes, columns = rows[t]
                z = np.asarray(columns, dtype=float) @ layout.term_bases[t].a
                new = codes < 0
                fresh[new] += np.square(z[new] @ terms[t]).sum(axis=1)
                z[new] = 0.0
                load[place] = z.T
                np.maximum(level, codes, out=level)
            all_codes.append(level)
            loads.append(load)
        starts = np.cumsum([0] + [f.size for f in layout.factors])[:-1]
        levels = tuple(f.n_levels for f in layout.factors)
        wide = np.concatenate(dense, axis=1) if dense else None
        return cls(x, tuple(all_codes), tuple(loads), fresh, tuple(starts), levels, wide)

    def variance(
        self, factorization: Factorization, zx: np.ndarray, cov_beta: np.ndarray, by_solves: bool = False
    ) -> np.ndarray:
        """Var(x'(beta_hat - beta) + z'(b_hat - b)) / sigma2 (m,), for Z'X (n, p) and the unscaled covariance of
        beta; with `by_solves` one row at a time, where elements of the posterior covariance cannot be read.
        """
        out = self.fresh.copy()
        explained = factorization.solve(np.ascontiguousarray(zx)) if zx.shape[1] else zx
        rest = self.x.copy()
        if self.dense is not None:
            rest -= self.dense @ explained
            out += (self.dense * factorization.solve(np.ascontiguousarray(self.dense.T)).T).sum(axis=1)
            return out + ((rest @ cov_beta) * rest).sum(axis=1)
        for k, load in enumerate(self.loads):
            for a, values in enumerate(load):
                rest -= values[:, None] * explained[self._places(k, a)]
        out += ((rest @ cov_beta) * rest).sum(axis=1)
        if by_solves:
            return out + self._row_variances(factorization)
        for load, codes, block in zip(self.loads, self.codes, factorization.posterior_cov(), strict=True):
            for a, b in np.ndindex(block.shape[:2]):
                out += load[a] * load[b] * block[a, b, codes]
        active = [k for k, load in enumerate(self.loads) if load.any()]
        active.sort(key=lambda k: -self._size(k))
        for i, k in enumerate(active[1:], 1):
            self._add_pairs(out, factorization, k, active[:i])
        return out

    def _row_variances(self, factorization: Factorization) -> np.ndarray:
        """z'(Sigma^-1 + C)^-1 z of every row (m,), a panel of distinct rows at a time."""
        m, n = len(self.x), sum(self._size(k) for k in range(len(self.loads)))
        columns = [np.column_stack([codes, *load]) for codes, load in zip(self.codes, self.loads, strict=True)]
        first, place = np.unique(np.column_stack(columns), axis=0, return_index=True, return_inverse=True)[1:]
        if len(first) > _MOST_SOLVES:
            raise NotAvailableError(
                f"a fit with a stochastic log-determinant solves for every row of its own: at most {_MOST_SOLVES:,} "
                f"different rows at a time have a standard error of prediction, these are {len(first):,}"
            )
        found = np.empty(len(first))
        step = max(1, _PANEL_CELLS // (8 * n))
        for lo in range(0, len(first), step):
            rows = first[lo : lo + step]
            z = np.zeros((n, len(rows)))
            for k, load in enumerate(self.loads):
                for a, values in enumerate(load):
                    z[self._places(k, a, rows), np.arange(len(rows))] += values[rows]
            found[lo : lo + step] = np.einsum("ij,ij->j", z, factorization.solve(z))
        return found[place.reshape(m)]

    def _size(self, k: int) -> int:
        return self.loads[k].shape[0] * self.levels[k]

    def _places(self, k: int, a: int, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Random effect that column `a` of factor `k` refers to, by row."""
        return self.starts[k] + a * self.levels[k] + self.codes[k][rows]

    def _add_pairs(self, out: np.ndarray, factorization: Factorization, k: int, others: list[int]) -> None:
        """Add twice the covariances of factor `k` with larger ones: columns of the posterior covariance, one for each
        column and level of `k` that the rows hold, a panel of levels at a time.
        """
        q = self.loads[k].shape[0]
        n_random = sum(self._size(j) for j in range(len(self.loads)))
        order = np.argsort(self.codes[k], kind="stable")
        found, first = np.unique(self.codes[k][order], return_index=True)
        bounds = np.append(first, order.size)
        panel = max(1, _PANEL_CELLS // (n_random * q))
        for lo in range(0, found.size, panel):
            part = found[lo : lo + panel]
            unit = np.zeros((n_random, q, part.size))
            for b in range(q):
                unit[self.starts[k] + b * self.levels[k] + part, b, np.arange(part.size)] = 1.0
            columns = factorization.solve(unit.reshape(n_random, -1)).reshape(unit.shape)
            rows = order[bounds[lo] : bounds[lo + part.size]]
            at = np.searchsorted(part, self.codes[k][rows])
            for j in others:
                for a, b in np.ndindex(self.loads[j].shape[0], q):
                    cov = columns[self._places(j, a, rows), b, at]
                    out[rows] += 2.0 * self.loads[j][a][rows] * self.loads[k][b][rows] * cov
