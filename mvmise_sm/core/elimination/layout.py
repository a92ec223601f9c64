"""How a model's grouping factors relate: nested, crossed, order of elimination."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from mvmise_sm.core.covariance.coordinates import term_basis
from mvmise_sm.exceptions import ProblemTooLargeError

if TYPE_CHECKING:
    from mvmise_sm.core.covariance.coordinates import TermBasis
    from mvmise_sm.core.covariance.random_effects import GroupingFactor, RandomEffects

__all__ = ["CrossPattern", "FactorLayout", "Layout"]

_TABLE_CELLS = 20_000_000
# below this many random effects one dense block beats every structured elimination (interpreter overhead)
DENSE_LIMIT = 160
# a dense factorisation of this many takes ten seconds and 0.5 GB
LOADED_LIMIT = 8000


@dataclass(frozen=True, eq=False)
class FactorLayout:
    """One grouping factor with all its terms merged.

    Attributes
    ----------
    index : int
        Position in ``RandomEffects.factors``.
    codes : ndarray
        (nobs,) integers.
    n_levels, q : int
        Levels and columns.
    columns : tuple of (ndarray or None)
        q columns, None for ones.
    terms : tuple of int
        Terms on this factor, in formula order.
    places : tuple of slice
        Columns of each of these terms.
    shift, scale : ndarray
        Working coordinates (q,), see `TermBasis`.
    incidence : ndarray or None
        How much of each effect a row has (nobs, n_levels), where that is not one of one level's.
    """

    index: int
    codes: np.ndarray
    n_levels: int
    q: int
    columns: tuple
    terms: tuple[int, ...]
    places: tuple[slice, ...]
    shift: np.ndarray
    scale: np.ndarray
    incidence: np.ndarray | None = None

    @property
    def size(self) -> int:
        return self.n_levels * self.q

    def values(self, a: int, lo: int = 0, hi: int | None = None) -> np.ndarray | None:
        """Column `a` of the rows ``lo:hi`` in shifted (not scaled) coordinates, or None for ones."""
        column = self.columns[a]
        if column is None:
            return None
        part = column[lo:hi]
        return part - self.shift[a] if self.shift[a] != 0.0 else part

    def at_rows(self, effects: np.ndarray) -> np.ndarray:
        """Effect of every row (nobs, c) for effects of one column (n_levels, c)."""
        return effects[self.codes] if self.incidence is None else self.incidence @ effects

    def shares(self, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """How much of each effect of one column some rows have (rows, n_levels)."""
        if self.incidence is not None:
            return self.incidence[rows]
        codes = self.codes[rows]
        out = np.zeros((codes.size, self.n_levels))
        out[np.arange(codes.size), codes] = 1.0
        return out

    def rows(self, lo: int = 0, hi: int | None = None) -> np.ndarray:
        """Rows ``lo:hi`` of Z in working coordinates (rows, q * n_levels), by column, then level."""
        inside = self.shares(slice(lo, hi))
        out = np.empty((len(inside), self.q * self.n_levels))
        for a in range(self.q):
            values = self.values(a, lo, hi)
            size: Any = self.scale[a] if values is None else (values * self.scale[a])[:, None]
            out[:, a * self.n_levels : (a + 1) * self.n_levels] = inside * size
        return out

    @cached_property
    def sorted(self) -> bool:
        return bool((self.codes[1:] >= self.codes[:-1]).all())


@dataclass(frozen=True, slots=True, eq=False)
class CrossPattern:
    """Which levels of two factors meet, compressed by rows of the first.

    Attributes
    ----------
    shape : tuple of int
        (J_k, J_l).
    indptr, indices : ndarray
        Compressed sparse rows.
    cell : ndarray
        Position in the pattern of every data row (nobs,).
    """

    shape: tuple[int, int]
    indptr: np.ndarray
    indices: np.ndarray
    cell: np.ndarray

    @property
    def nnz(self) -> int:
        return self.indices.size

    @property
    def rows(self) -> np.ndarray:
        return np.repeat(np.arange(self.shape[0]), np.diff(self.indptr))


def cross_pattern(first: FactorLayout, second: FactorLayout) -> CrossPattern:
    """Observed pairs of levels of two factors."""
    shape = (first.n_levels, second.n_levels)
    key = first.codes.astype(np.int64) * shape[1] + second.codes
    cells = shape[0] * shape[1]
    if cells <= max(_TABLE_CELLS, 8 * key.size):
        seen = np.zeros(cells, dtype=bool)
        seen[key] = True
        keys = np.flatnonzero(seen)
        place = np.empty(cells, dtype=np.int32)
        place[keys] = np.arange(keys.size, dtype=np.int32)
        cell = place[key]
    else:
        keys, cell = np.unique(key, return_inverse=True)
    rows = keys // shape[1]
    indptr = np.zeros(shape[0] + 1, dtype=np.int64)
    np.cumsum(np.bincount(rows, minlength=shape[0]), out=indptr[1:])
    return CrossPattern(shape, indptr, keys - rows * shape[1], cell)


def parents(first: FactorLayout, second: FactorLayout) -> np.ndarray | None:
    """Level of `second` that holds each level of `first` (J,), or None where `first` is not nested in `second`."""
    if second.n_levels > first.n_levels:
        return None
    step = slice(None, None, max(1, first.codes.size // 2000))
    for rows in (step, slice(None)):
        par = np.zeros(first.n_levels, dtype=np.intp)
        par[first.codes[rows]] = second.codes[rows]
        if not np.array_equal(par[first.codes[rows]], second.codes[rows]):
            return None
    return par


def pattern_of_keys(shape: tuple[int, int], keys: np.ndarray) -> CrossPattern:
    """The pattern of sorted keys ``first * shape[1] + second`` of the pairs that occur; the rows are unknown."""
    rows = keys // shape[1]
    indptr = np.zeros(shape[0] + 1, dtype=np.int64)
    np.cumsum(np.bincount(rows, minlength=shape[0]), out=indptr[1:])
    # as long as the list of pairs, which sets the memory of such a fit
    kind = np.int32 if shape[1] <= np.iinfo(np.int32).max else np.int64
    return CrossPattern(shape, indptr, (keys - rows * shape[1]).astype(kind), np.zeros(0, dtype=np.intp))


def _nested_chain(
    factors: list[FactorLayout], parents_of: Callable[[FactorLayout, FactorLayout], np.ndarray | None]
) -> tuple[list[int], dict[tuple[int, int], Any]]:
    """The first factor and all in which the chain so far is nested, with maps keyed by place in the chain."""
    chain: list[int] = [0]
    parent: dict[tuple[int, int], Any] = {}
    for k in range(1, len(factors)):
        maps = [parents_of(factors[j], factors[k]) for j in chain]
        if all(m is not None for m in maps):
            parent.update({(i, len(chain)): m for i, m in enumerate(maps)})
            chain.append(k)
    return chain, parent


class Layout:
    """Grouping factors in elimination order.

    The chain is the largest factor and every factor in which the one before it is nested; what does not nest is the
    remainder.

    Parameters
    ----------
    random : RandomEffects

    Attributes
    ----------
    random : RandomEffects
    term_bases : tuple of TermBasis
        Working coordinates of each term.
    factors : tuple of FactorLayout
        Elimination order: chain first, then the remainder.
    n_random : int
        Number of random effects.
    chain, remainder : tuple of int
        Positions in `factors`; a model small enough for one dense block has no chain.
    parent : dict
        (k, m) -> level of m that holds each level of k, for chain members k before m.
    """

    def __init__(self, random: RandomEffects) -> None:
        self.random = random
        self.term_bases = tuple(term_basis(t) for t in random.terms)
        self._order(parents)

    @classmethod
    def of_pairs(
        cls, random: RandomEffects, term_bases: tuple[TermBasis, ...], keys: Mapping[tuple[int, int], np.ndarray]
    ) -> Layout:
        """The layout of data whose rows are gone, from the pairs of levels that occur.

        Parameters
        ----------
        random : RandomEffects
            Without rows.
        term_bases : tuple of TermBasis
            Working coordinates of each term.
        keys : dict
            (i, j), i < j in the order of ``random.factors`` -> sorted keys ``level_i * n_j + level_j`` (int64).
        """

        def pairs(first: FactorLayout, second: FactorLayout) -> np.ndarray:
            if first.index < second.index:
                return keys[first.index, second.index]
            second_level, first_level = np.divmod(keys[second.index, first.index], first.n_levels)
            return np.sort(first_level * second.n_levels + second_level)

        def parents_of(first: FactorLayout, second: FactorLayout) -> np.ndarray | None:
            found = pairs(first, second)
            return found % second.n_levels if len(found) == first.n_levels else None

        out = object.__new__(cls)
        out.random, out.term_bases = random, term_bases
        out._order(parents_of)
        patterns = {}
        for k, first in enumerate(out.factors):
            for m, second in enumerate(out.factors[k + 1 :], k + 1):
                if (k, m) not in out.parent:
                    patterns[k, m] = pattern_of_keys((first.n_levels, second.n_levels), pairs(first, second))
        out.__dict__["patterns"] = patterns
        return out

    def _order(self, parents_of: Callable[[FactorLayout, FactorLayout], np.ndarray | None]) -> None:
        """Merge the terms of each factor and put the factors into elimination order."""
        factors = sorted((self._merge(i, f) for i, f in enumerate(self.random.factors)), key=lambda f: -f.size)
        self.n_random = sum(f.size for f in factors)
        self.loaded = any(f.incidence is not None for f in factors)
        self.dense = self.loaded or self.n_random <= DENSE_LIMIT
        if self.loaded and self.n_random > LOADED_LIMIT:
            raise ProblemTooLargeError(
                f"random effects with a known covariance or several memberships are solved densely, at most "
                f"{LOADED_LIMIT:,} of them; this model has {self.n_random:,}"
            )
        chain, self.parent = ([], {}) if self.dense else _nested_chain(factors, parents_of)
        rest = [k for k in range(len(factors)) if k not in chain]
        self.factors = tuple(factors[k] for k in [*chain, *rest])
        self.chain = tuple(range(len(chain)))
        self.remainder = tuple(range(len(chain), len(factors)))

    def _merge(self, index: int, factor: GroupingFactor) -> FactorLayout:
        terms = self.random.terms_of(factor)
        columns = tuple(c for t in terms for c in self.random.terms[t].columns)
        stops = list(accumulate((self.random.terms[t].q for t in terms), initial=0))
        places = tuple(slice(a, b) for a, b in pairwise(stops))
        shift = np.concatenate([self.term_bases[t].shift for t in terms])
        scale = np.concatenate([self.term_bases[t].scale for t in terms])
        incidence = factor.incidence() if factor.loaded else None
        return FactorLayout(
            index, factor.codes, factor.n_effects, stops[-1], columns, terms, places, shift, scale, incidence
        )

    @cached_property
    def places(self) -> list[tuple[int, int, int]]:
        """(first place, q, levels) of every factor in a vector of all random effects by factor, column, level."""
        starts = accumulate((f.size for f in self.factors[:-1]), initial=0)
        return [(o, f.q, f.n_levels) for o, f in zip(starts, self.factors, strict=True)]

    def split(self, flat: np.ndarray) -> list[np.ndarray]:
        """Rows (n, c) of all random effects as blocks (q, J, c), one per factor."""
        return [flat[o : o + q * j].reshape(q, j, -1) for o, q, j in self.places]

    @staticmethod
    def join(blocks: list[np.ndarray]) -> np.ndarray:
        """Blocks (q, J, c) of every factor as rows (n, c) of all random effects."""
        return np.concatenate([b.reshape(-1, b.shape[2]) for b in blocks])

    @cached_property
    def patterns(self) -> dict:
        """(k, l), k < l -> CrossPattern for every pair that the chain does not cover."""
        pairs = {}
        for k in range(len(self.factors)):
            for m in range(k + 1, len(self.factors)):
                if (k, m) not in self.parent:
                    pairs[k, m] = cross_pattern(self.factors[k], self.factors[m])
        return pairs
