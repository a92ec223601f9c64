"""Grouping factors and random-effects terms as arrays: codes, columns and the layout of theta."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from scipy import sparse

from mvmise_sm.core.covariance.structures import CovarianceStructure

__all__ = ["GroupingFactor", "RandomEffects", "RandomTerm"]


@dataclass(frozen=True, eq=False)
class GroupingFactor:
    """The levels of one grouping factor, row by row.

    Attributes
    ----------
    name : str
        Label, for example ``"Subject"`` or ``"batch:cask"``.
    codes : ndarray
        Level of every row (nobs,), integers in ``0 .. n_levels - 1``; every level occurs.
    levels : sequence
        Level labels (n_levels,); the numerics only pass them on.
    loadings : sparse matrix or None
        How much of each level a row has (nobs, n_levels), for rows that belong to several; `codes` is then the first.
    root : ndarray or None
        L (n_levels, r) of a known covariance LL' of the levels; None for independent ones.
    """

    name: str
    codes: np.ndarray
    levels: Any
    loadings: Any = None
    root: np.ndarray | None = None

    @cached_property
    def n_levels(self) -> int:
        return len(self.levels)

    @property
    def loaded(self) -> bool:
        """Whether a row has more, or other, than one independent effect."""
        return self.loadings is not None or self.root is not None

    @property
    def n_effects(self) -> int:
        """Number of independent effects per column: levels, or columns of `root`."""
        return self.n_levels if self.root is None else self.root.shape[1]

    @property
    def membership(self) -> Any:
        """Level of every row (nobs,), or how much of each level a row has, sparse (nobs, n_levels)."""
        return self.codes if self.loadings is None else self.loadings

    def incidence(self, membership: Any = None) -> np.ndarray:
        """How much of each independent effect a row has (rows, n_effects), of the own rows or of others'."""
        membership = self.membership if membership is None else membership
        if sparse.issparse(membership):
            return np.asarray(membership.todense()) if self.root is None else np.asarray(membership @ self.root)
        if self.root is not None:
            return self.root[membership]
        out = np.zeros((len(membership), self.n_levels))
        out[np.arange(len(membership)), membership] = 1.0
        return out

    def labelled(self, effects: np.ndarray) -> np.ndarray:
        """Effects of the levels (n_levels, q) for independent ones (n_effects, q)."""
        return effects if self.root is None else self.root @ effects

    def spread(self, effect: np.ndarray) -> np.ndarray:
        """Effect of every row (nobs,) for an effect of every level (n_levels,)."""
        return effect[self.codes] if self.loadings is None else self.loadings @ effect

    def draw(self, rng: Any, q: int) -> np.ndarray:
        """Standard normal effects of the levels (n_levels, q), correlated as the factor's are."""
        return self.labelled(rng.standard_normal((self.n_effects, q)))

    def on_rows(self, rows: np.ndarray) -> GroupingFactor:
        """The factor on some rows; levels that do not occur are left out where they are independent."""
        if not self.loaded:
            kept, codes = np.unique(self.codes[rows], return_inverse=True)
            return GroupingFactor(self.name, codes.ravel(), [self.levels[j] for j in kept])
        loadings = None if self.loadings is None else self.loadings[rows]
        return GroupingFactor(self.name, self.codes[rows], self.levels, loadings, self.root)


@dataclass(frozen=True, eq=False)
class RandomTerm:
    """One term ``(columns | factor)`` with its covariance structure.

    Attributes
    ----------
    factor : GroupingFactor
        Terms on the same factor share one object.
    columns : tuple of (ndarray or None)
        The q columns of the term, each (nobs,) float; None stands for a column of ones.
    names : tuple of str
        Column names (q,), the intercept is ``"Intercept"``.
    structure : CovarianceStructure
        Maps this term's theta to Lambda.
    text : str
        The term as the user wrote it, for messages.
    positions : ndarray or None
        Coordinates (q, d) of the columns, for structures of distance.
    """

    factor: GroupingFactor
    columns: tuple
    names: tuple[str, ...]
    structure: CovarianceStructure
    text: str = ""
    positions: np.ndarray | None = None

    @property
    def q(self) -> int:
        return len(self.columns)


class RandomEffects:
    """All random-effects terms of a model, in formula order.

    Parameters
    ----------
    terms : sequence of RandomTerm
        All have the same number of rows.
    nobs : int, optional
        Number of rows, needed where there are no terms.

    Attributes
    ----------
    terms : tuple of RandomTerm
    factors : tuple of GroupingFactor
        Distinct grouping factors in order of first appearance.
    k_theta : int
        Length of theta.
    theta_slices : tuple of slice
        Place of each term in theta.
    """

    def __init__(self, terms: Sequence[RandomTerm], nobs: int | None = None) -> None:
        self.terms = tuple(terms)
        self._nobs = nobs
        self.factors = tuple({id(t.factor): t.factor for t in self.terms}.values())
        stops = list(accumulate((t.structure.k_theta for t in self.terms), initial=0))
        self.theta_slices = tuple(slice(a, b) for a, b in pairwise(stops))
        self.k_theta = stops[-1]

    @property
    def nobs(self) -> int:
        return len(self.terms[0].factor.codes) if self._nobs is None else self._nobs

    @property
    def lower(self) -> np.ndarray:
        """Lower bounds of theta (k_theta,)."""
        return np.concatenate([np.zeros(0), *(t.structure.lower for t in self.terms)])

    @property
    def n_groups(self) -> dict[str, int]:
        return {f.name: f.n_levels for f in self.factors}

    def terms_of(self, factor: GroupingFactor) -> tuple[int, ...]:
        """Positions of the terms on one factor."""
        return tuple(i for i, t in enumerate(self.terms) if t.factor is factor)

    def lambdas(self, theta: np.ndarray) -> list[np.ndarray]:
        """Relative factors Lambda (q, q) of every term at `theta`."""
        return [t.structure.factor(theta[s]) for t, s in zip(self.terms, self.theta_slices, strict=True)]

    def zero(self) -> np.ndarray:
        """Theta without any random effect (k_theta,)."""
        return np.concatenate([np.zeros(0), *(t.structure.start(np.zeros(t.q)) for t in self.terms)])

    def theta_names(self) -> list[str]:
        """Names of theta's elements as ``factor.column`` and ``factor.row.column`` (lme4's style)."""
        return [f"{t.factor.name}.{name}" for t in self.terms for name in t.structure.theta_names(t.names)]

    def on_rows(self, rows: np.ndarray) -> RandomEffects:
        """The same terms on some rows (m,), positions or booleans; levels that do not occur there are left out."""
        factors: dict[int, GroupingFactor] = {}
        for f in self.factors:
            factors[id(f)] = f.on_rows(rows)
        return RandomEffects(
            [
                replace(
                    t, factor=factors[id(t.factor)], columns=tuple(None if c is None else c[rows] for c in t.columns)
                )
                for t in self.terms
            ],
            len(np.arange(self.nobs)[rows]),
        )

    def linear(self, b: Sequence[np.ndarray]) -> np.ndarray:
        """Z b (nobs,), for `b` with one array (n_levels, q) per term."""
        out = np.zeros(self.nobs)
        for term, effects in zip(self.terms, b, strict=True):
            for column, effect in zip(term.columns, effects.T, strict=True):
                part = term.factor.spread(effect)
                out += part if column is None else part * column
        return out

    @cached_property
    def z(self) -> sparse.csc_matrix:
        """Sparse Z (nobs, sum of n_effects * q), terms in order, within a term level by level."""
        n = self.nobs
        rows = np.arange(n)
        blocks = []
        for term in self.terms:
            q = term.q
            values = np.column_stack([np.ones(n) if c is None else c for c in term.columns])
            shape = (n, term.factor.n_effects * q)
            if term.factor.loaded:
                wide = term.factor.incidence()[:, :, None] * values[:, None, :]
                blocks.append(sparse.csc_matrix(wide.reshape(shape)))
                continue
            cols = term.factor.codes[:, None] * q + np.arange(q)
            blocks.append(sparse.csc_matrix((values.ravel(), (np.repeat(rows, q), cols.ravel())), shape=shape))
        return sparse.hstack(blocks, format="csc")
