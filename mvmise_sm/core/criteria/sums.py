"""All that the likelihood of a linear mixed model needs of its rows, made from sums over blocks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mvmise_sm.core.covariance.coordinates import FixedBasis, TermBasis
from mvmise_sm.core.covariance.random_effects import RandomEffects
from mvmise_sm.core.elimination.crossprod import CrossProducts, scaled
from mvmise_sm.core.elimination.layout import Layout
from mvmise_sm.core.elimination.sums import RunningSums

__all__ = ["LinearSums", "independent_of_gram", "linear_sums"]

# what earlier columns leave of a column is shorter than this share of its length: the tolerance of designs in memory
_DEPENDENT = 1e-7
# squares of columns of unit length carry rounding of this size
_ROUNDING = 64.0 * np.finfo(float).eps
# as in `contained_terms`, on squares
_SPANNED = 1e-12


@dataclass(frozen=True, eq=False)
class LinearSums:
    """The statistic of a linear mixed model.

    Attributes
    ----------
    random : RandomEffects
        Terms and levels without rows.
    layout : Layout
    basis : FixedBasis
        Working coordinates of the fixed effects kept.
    origin : ndarray
        b0 of beta = A beta_working + b0 in the user's coordinates (p,).
    products : CrossProducts
        In working coordinates.
    nobs : int
    log_weights : float
        Sum of the logarithms of the weights.
    contained : tuple of int
        Terms whose columns are combinations of those of another term on the same factor.
    """

    random: RandomEffects
    layout: Layout
    basis: FixedBasis
    origin: np.ndarray
    products: CrossProducts
    nobs: int
    log_weights: float
    contained: tuple[int, ...]


def independent_of_gram(gram: np.ndarray) -> np.ndarray:
    """Columns that earlier ones do not determine, from their cross-products (p, p) in shifted coordinates.

    Returns
    -------
    ndarray
        Positions (r,), ascending.
    """
    size = np.sqrt(np.maximum(gram.diagonal(), 0.0))
    unit = gram / np.where(size > 0.0, size, 1.0)[:, None] / np.where(size > 0.0, size, 1.0)
    kept: list[int] = []
    for j in range(len(size)):
        if size[j] == 0.0:
            continue
        rest = unit[j, j]
        if kept:
            rest -= unit[j, kept] @ np.linalg.solve(unit[np.ix_(kept, kept)], unit[kept, j])
        if rest > max(_DEPENDENT**2, _ROUNDING * (len(kept) + 1)):
            kept.append(j)
    return np.array(kept, dtype=int)


def linear_sums(
    sums: RunningSums, random: RandomEffects, term_bases: tuple[TermBasis, ...], kept: np.ndarray | None = None
) -> LinearSums:
    """Make the statistic of sums.

    Parameters
    ----------
    sums : RunningSums
        Factors in the order of ``random.factors``; every level has rows.
    random : RandomEffects
        Without rows.
    term_bases : tuple of TermBasis
    kept : ndarray, optional
        Columns of X that are used; all by default.
    """
    full = sums.plan.basis
    p = full.a.shape[0]
    kept = np.arange(p) if kept is None else kept
    basis = full if len(kept) == p else _basis_of(full, kept)
    tables = {pair: table.result() for pair, table in sums.pairs.items()}
    layout = Layout.of_pairs(random, term_bases, {pair: keys for pair, (keys, _) in tables.items()})
    columns = np.append(kept, p)
    own, rhs = [], []
    for f in layout.factors:
        total = sums.levels[f.index]
        own.append(np.ascontiguousarray(total[:, :, : f.q].transpose(0, 2, 1)))
        rhs.append(np.ascontiguousarray(total[:, :, f.q :][:, :, columns]))
    cross = {}
    for k, first in enumerate(layout.factors):
        for m, second in enumerate(layout.factors[k + 1 :], k + 1):
            i, j = sorted((first.index, second.index))
            keys, values = tables[i, j]
            shape = (sums.plan.factors[i].q, sums.plan.factors[j].q)
            cells = values.reshape(*shape, -1)
            if first.index > second.index:
                level_i, level_j = np.divmod(keys, sums.plan.factors[j].n_levels)
                order = np.argsort(level_j * sums.plan.factors[i].n_levels + level_i, kind="stable")
                cells = cells.transpose(1, 0, 2)[:, :, order]
            cross[k, m] = np.ascontiguousarray(cells)
    products = CrossProducts(sums.gram[np.ix_(columns, columns)], tuple(own), tuple(rhs), cross)
    return LinearSums(
        random=random,
        layout=layout,
        basis=basis,
        origin=(basis.a / basis.scale) @ sums.plan.origin[kept],
        products=scaled(products, layout, basis),
        nobs=sums.nobs,
        log_weights=sums.log_weights,
        contained=_contained(sums, random),
    )


def _basis_of(basis: FixedBasis, kept: np.ndarray) -> FixedBasis:
    """The working coordinates of some columns; columns that depend on others are never rotated."""
    shift = None if basis.shift is None else basis.shift[kept]
    scale = basis.scale[kept]
    return FixedBasis(shift, None, scale, basis.a[np.ix_(kept, kept)], float(np.log(np.abs(scale)).sum()))


def _contained(sums: RunningSums, random: RandomEffects) -> tuple[int, ...]:
    """Terms that another one on the same factor contains, see `contained_terms`; from the sums over all levels."""
    found: list[int] = []
    for i, factor in enumerate(random.factors):
        terms = random.terms_of(factor)
        stops = np.cumsum([0, *(random.terms[t].q for t in terms)])
        q = int(stops[-1])
        gram = sums.levels[i][:, :, :q].sum(axis=1)
        places = {t: np.arange(stops[n], stops[n + 1]) for n, t in enumerate(terms)}
        for t in reversed(terms) if len(terms) > 1 else ():
            others = [u for u in terms if u != t and u not in found]
            if any(_spanned(gram, places[t], places[u], random, u) for u in others):
                found.append(t)
    return tuple(found)


def _spanned(gram: np.ndarray, own: np.ndarray, other: np.ndarray, random: RandomEffects, u: int) -> bool:
    """Whether one matrix maps the columns `other` to the columns `own` in every row."""
    if random.terms[u].structure.invariance != "linear" or len(other) < len(own):
        return False
    inner, cross = gram[np.ix_(other, other)], gram[np.ix_(other, own)]
    size = np.sqrt(np.maximum(inner.diagonal(), 1e-300))
    coefficients = np.linalg.lstsq(inner / size[:, None] / size, cross / size[:, None], rcond=None)[0]
    rest = gram[own, own] - np.einsum("ab,ab->b", cross / size[:, None], coefficients)
    return bool((rest <= _SPANNED * gram[own, own]).all())
