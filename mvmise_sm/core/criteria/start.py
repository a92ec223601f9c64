"""Where a fit starts: moment estimates of variance components, and terms that need none of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.linalg.lapack import dposv

if TYPE_CHECKING:
    from mvmise_sm.core.covariance.random_effects import RandomEffects, RandomTerm
    from mvmise_sm.core.elimination.layout import Layout
    from mvmise_sm.core.interfaces import System

__all__ = ["contained_terms", "moment_variances"]

# a smaller start is stationary at zero
_FLOOR = 0.1
_LEAST_RESIDUAL = 0.2
# shares are at most about 1; larger ones come from residuals that are zero but for rounding
_LARGEST_SHARE = 4.0
_SPANNED = 1e-12


def moment_variances(layout: Layout, system: System, nobs: int, p: int) -> list[np.ndarray]:
    """Relative variances of every term's columns from the residuals of least squares.

    Each column is taken alone: with s_j = z_j'r and c_j = z_j'z_j of level j, the mean of s_j^2 / c_j over the
    residual variance is about 1 + (mean c_j - 1) times the share of the column's variance.

    Returns
    -------
    list of ndarray
        Working coordinates, (q,) per term.
    """
    gram = system.gram
    beta, info = dposv(gram[:p, :p], gram[:p, p], lower=1)[1:] if p else (np.zeros(0), 0)
    if info:
        beta = np.linalg.solve(gram[:p, :p], gram[:p, p])
    total = max(float(gram[p, p] - beta @ gram[:p, p]), 1e-300) / nobs
    xi = np.ones(p + 1)
    np.negative(beta, out=xi[:p])
    shares, floors, taken = [], [], 0.0
    for size, rhs in system.level_products():
        size = np.maximum(size, 1e-300)
        score = rhs @ xi
        levels = size.shape[1]
        n0 = np.maximum(size.sum(axis=1) / levels, 1.0 + 1e-6)
        between = (score * score / size).sum(axis=1) / (levels * total)
        share = np.minimum((between - 1.0) / (n0 - 1.0 + 1e-3), _LARGEST_SHARE)
        taken += float(share[share > 0.0].sum())
        shares.append(share)
        floors.append(_FLOOR / n0)
    left = max(1.0 - taken, _LEAST_RESIDUAL)
    out = [np.zeros(0)] * len(layout.random.terms)
    for f, share, floor in zip(layout.factors, shares, floors, strict=True):
        variances = np.maximum(share / left, floor)
        for t, place in zip(f.terms, f.places, strict=True):
            out[t] = variances[place]
    return out


def contained_terms(random: RandomEffects) -> tuple[Any, ...]:
    """Terms whose columns are linear combinations of those of an unstructured term on the same grouping factor.

    ``(1 | g)`` beside ``(0 + f | g)`` is one: whatever covariance it has, the other term can take over.

    Returns
    -------
    tuple of int
    """
    found = []
    for factor in random.factors:
        terms = random.terms_of(factor)
        for t in reversed(terms) if len(terms) > 1 else ():
            others = [u for u in terms if u != t and u not in found]
            if any(_spanned(random.terms[t], random.terms[u], random.nobs) for u in others):
                found.append(t)
    return tuple(found)


def _spanned(term: RandomTerm, other: RandomTerm, nobs: int) -> bool:
    """Whether one matrix maps the columns of `other` to those of `term` in every row."""
    if other.structure.invariance != "linear" or other.q < term.q:
        return False
    step = max(1, nobs // 1000)
    for rows in (slice(None, None, step), slice(None)):
        a, b = (
            np.column_stack([np.ones(nobs)[rows] if c is None else c[rows] for c in x.columns]) for x in (term, other)
        )
        size = np.abs(b).max(axis=0)
        coef = np.linalg.lstsq(b / np.where(size > 0.0, size, 1.0), a, rcond=None)[0]
        rest = np.abs(a - (b / np.where(size > 0.0, size, 1.0)) @ coef).max(axis=0)
        if not (rest <= _SPANNED * np.abs(a).max(axis=0)).all():
            return False
    return True
