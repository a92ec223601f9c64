"""Which variances and covariances the data determine: the null space of their information, from the design alone."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
from scipy import sparse
from scipy.linalg.lapack import dpotrf

from mvmise_sm.core.covariance.random_effects import RandomEffects, RandomTerm

__all__ = ["FlatDirections", "flat_directions", "outside_span"]

# share of the information that a direction keeps once fixed effects and other directions are taken out
_FLAT = 1e-8
# share of a covariance that another model cannot give
_OUTSIDE = 1e-6
# elements of a null vector below this share take no part
_PART = 1e-3
# relative change of a coefficient's variance along a flat direction that counts
_FELT = 1e-6
# fixed effects up to which sums by level are taken column by column
_FEW_COLUMNS = 8


@dataclass(frozen=True, eq=False)
class FlatDirections:
    """Directions in which the covariance parameters move without the data noticing.

    Attributes
    ----------
    groups : tuple of tuple of (str, int or None)
        Elements that the data cannot tell apart: their labels and the term each belongs to, None for the residual. A
        group of one is an element that the data say nothing about.
    effects : ndarray
        Fixed effects whose variance changes along a flat direction (p,), booleans.
    """

    groups: tuple[tuple[tuple[str, int | None], ...], ...]
    effects: np.ndarray

    def without(self, terms: set[int]) -> FlatDirections | None:
        """The directions in which none of some terms takes part, None if there are none left."""
        kept = tuple(group for group in self.groups if not terms & {t for _, t in group if t is not None})
        return FlatDirections(kept, self.effects) if kept else None

    def sentence(self, texts: list[str]) -> str:
        """What is not determined, with the terms as the user wrote them."""
        parts = []
        for group in self.groups:
            labels = [label for label, _ in group]
            terms = dict.fromkeys(texts[t] for _, t in group if t is not None)
            shown = ", ".join(terms)
            if len(group) == 1:
                parts.append(f"the data say nothing about {labels[0]}: {shown}")
            else:
                parts.append(f"the data cannot tell {labels[0]} from {' and '.join(labels[1:])}: {shown}")
        return "; ".join(parts)


def flat_directions(
    random: RandomEffects, X: np.ndarray, weights: np.ndarray | None, residual: bool
) -> FlatDirections | None:
    """Null space of the information on the covariance parameters, at random effects of variance zero.

    With V_i the derivatives of V in the elements of every Sigma and in the residual variance, and Q the projection on
    the complement of the fixed effects, the information is I_ij = tr(Q V_i Q V_j). A direction with Q V Q = 0 leaves
    the restricted likelihood as it is, whatever the variances.

    Parameters
    ----------
    random : RandomEffects
    X : ndarray
        Fixed-effects design (n, p), full rank.
    weights : ndarray or None
        Prior weights (n,).
    residual : bool
        Whether a residual variance is estimated.

    Returns
    -------
    FlatDirections or None
        None if the data determine every element.
    """
    root = np.ones(len(X)) if weights is None else np.sqrt(weights)
    basis, r = np.linalg.qr(root[:, None] * X)
    columns = [np.array([root if c is None else root * c for c in term.columns]) for term in random.terms]
    projected = [_by_level(term, z, basis) for term, z in zip(random.terms, columns, strict=True)]
    directions = [_directions(term) for term in random.terms]
    starts = np.cumsum([0] + [len(d) for d in directions])
    count = int(starts[-1]) + residual
    whole, gram = np.zeros((count, count)), np.zeros((count, count))
    inside = [_quadratic(d, x) for ds, x in zip(directions, projected, strict=True) for d in ds]
    for t, u in combinations_with_replacement(range(len(directions)), 2):
        full, mixed = _pair_sums(random.terms[t], random.terms[u], columns[t], columns[u], projected[t], projected[u])
        rows, cols = slice(starts[t], starts[t + 1]), slice(starts[u], starts[u + 1])
        for target, sums in ((whole, full), (gram, full - 2.0 * mixed)):
            block = _along(directions[t], directions[u], sums)
            target[rows, cols], target[cols, rows] = block, block.T
    m = int(starts[-1])
    flat = np.array(inside).reshape(m, -1)
    gram[:m, :m] += flat @ flat.T
    if residual:
        traces = np.concatenate([np.zeros(0), *(_sums(ds, z @ z.T) for ds, z in zip(directions, columns, strict=True))])
        whole[:m, m] = whole[m, :m] = traces
        gram[:m, m] = gram[m, :m] = traces - [float(x.trace()) for x in inside]
        inside.append(np.eye(basis.shape[1]))
        whole[m, m], gram[m, m] = len(X), len(X) - basis.shape[1]
    if _has_full_rank(whole, gram):
        return None
    labels: list[tuple[str, int | None]] = [
        (_label(term, d), t) for t, term in enumerate(random.terms) for d in directions[t]
    ]
    return _null_space(whole, gram, inside, r, [*labels, ("var residual", None)])


def _has_full_rank(whole: np.ndarray, gram: np.ndarray) -> bool:
    """Whether a Cholesky factor proves what `_null_space` would find: no direction is flat."""
    size = np.sqrt(whole.diagonal())
    if not size.all():
        return False
    scaled = gram / np.multiply.outer(size, size)
    # no eigenvalue is larger than the trace
    scaled.flat[:: len(size) + 1] -= _FLAT * max(float(scaled.trace()), 1.0)
    return bool(np.isfinite(scaled).all()) and not dpotrf(scaled, lower=1)[1]


def outside_span(small: RandomEffects, large: RandomEffects, weights: np.ndarray | None) -> list[str]:
    """Terms of one model whose covariance of the rows is not in the span of another one's.

    Parameters
    ----------
    small, large : RandomEffects
        On the same rows.
    weights : ndarray or None
        Prior weights (n,).

    Returns
    -------
    list of str
        Texts of the terms, empty where every covariance of `small` is one of `large`.
    """
    root = np.ones(small.nobs) if weights is None else np.sqrt(weights)
    terms = [*large.terms, *small.terms]
    if any(term.factor.loaded for term in terms):
        return []
    columns = [np.array([root if c is None else root * c for c in term.columns]) for term in terms]
    directions = [_directions(term) for term in terms]
    nothing = [np.zeros((term.q, term.factor.n_levels, 0)) for term in terms]
    starts = np.cumsum([0] + [len(d) for d in directions])
    gram = np.zeros((starts[-1], starts[-1]))
    for t, u in combinations_with_replacement(range(len(terms)), 2):
        full, _ = _pair_sums(terms[t], terms[u], columns[t], columns[u], nothing[t], nothing[u])
        block = _along(directions[t], directions[u], full)
        rows, cols = slice(starts[t], starts[t + 1]), slice(starts[u], starts[u + 1])
        gram[rows, cols], gram[cols, rows] = block, block.T
    m = int(starts[len(large.terms)])
    size = np.sqrt(np.maximum(gram.diagonal(), 1e-300))
    gram = gram / size / size[:, None]
    inverse = np.linalg.pinv(gram[:m, :m], rcond=_FLAT, hermitian=True)
    rest = np.diag(gram[m:, m:] - gram[m:, :m] @ inverse @ gram[:m, m:])
    outside = []
    for t in range(len(large.terms), len(terms)):
        if (rest[starts[t] - m : starts[t + 1] - m] > _OUTSIDE).any():
            outside.append(terms[t].text or f"({' + '.join(terms[t].names)} | {terms[t].factor.name})")
    return outside


def _null_space(
    whole: np.ndarray,
    gram: np.ndarray,
    inside: list[np.ndarray],
    r: np.ndarray,
    labels: list[tuple[str, int | None]],
) -> FlatDirections | None:
    """Flat directions from the information with (`gram`) and without (`whole`) the fixed effects taken out."""
    size = np.sqrt(np.diag(whole))
    empty = size <= 0.0
    size = np.where(empty, 1.0, size)
    scaled = gram / size / size[:, None]
    scaled[empty] = scaled[:, empty] = 0.0
    values, vectors = np.linalg.eigh(scaled)
    null = vectors[:, values < _FLAT * max(values[-1], 1.0)]
    if not null.shape[1]:
        return None
    together = np.abs(null @ null.T) > _PART
    part = together.diagonal()
    groups: list[tuple[tuple[str, int | None], ...]] = []
    seen: set[int] = set()
    for i in np.flatnonzero(part):
        if int(i) not in seen:
            members = [int(j) for j in np.flatnonzero(together[i] & part)]
            seen.update(members)
            groups.append(tuple(labels[j] for j in members))
    unscaled = null / size[:, None]
    back = np.linalg.inv(r)
    plain = np.einsum("ij,ij->i", back, back)
    effects = np.zeros(len(back), dtype=bool)
    for vector in unscaled.T:
        moved = sum(c * b for c, b in zip(vector, inside, strict=True))
        effects |= np.abs(np.einsum("ij,jk,ik->i", back, moved, back)) > _FELT * plain
    return FlatDirections(tuple(groups), effects)


# Products of arrays this small are written out: an einsum that looks for the best order costs more than they do.


def _by_level(term: RandomTerm, z: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Z_a' Q of every column (q, levels, p), for columns z (q, n) and the fixed effects' basis Q (n, p)."""
    codes, levels = term.factor.codes, term.factor.n_levels
    if basis.shape[1] <= _FEW_COLUMNS:
        sums = [[np.bincount(codes, column * q, levels) for q in basis.T] for column in z]
        return np.array(sums).transpose(0, 2, 1)
    n = len(basis)
    rows, shape = np.arange(n), (n, levels)
    return np.array([sparse.csc_matrix((column, (rows, codes)), shape=shape).T @ basis for column in z])


def _quadratic(d: np.ndarray, x: np.ndarray) -> np.ndarray:
    """sum_ab d_ab x_a' x_b (p, p) for d (q, q) and x (q, levels, p)."""
    q, _, p = x.shape
    return x.reshape(-1, p).T @ (d @ x.reshape(q, -1)).reshape(-1, p)


def _sums(directions: np.ndarray, products: np.ndarray) -> np.ndarray:
    """sum_ab d_ab S_ab (r,) of every direction (r, q, q), for S (q, q)."""
    return directions.reshape(len(directions), -1) @ products.ravel()


def _along(first: np.ndarray, second: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """Sums (q, q, m, m) of pairs of elements, along directions (r, q, q) and (s, m, m), as (r, s)."""
    q, m = first.shape[1] ** 2, second.shape[1] ** 2
    return first.reshape(-1, q) @ sums.reshape(q, m) @ second.reshape(-1, m).T


def _directions(term: RandomTerm) -> np.ndarray:
    """Derivatives of Sigma in the parameters of a term's structure (r, q, q), at a covariance inside its range."""
    structure = term.structure
    return structure.kr_directions(structure.start(np.ones(term.q)))


def _pair_sums(
    first: RandomTerm, second: RandomTerm, y: np.ndarray, z: np.ndarray, left: np.ndarray, right: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """tr(Y_a Y_b' Z_c Z_f'), and the same with the fixed effects' projection in front (q, q, m, m)."""
    if first.factor is second.factor:
        place, j = first.factor.codes, np.arange(first.factor.n_levels)
        k, cells = j, len(j)
    else:
        pairs = first.factor.codes.astype(np.int64) * second.factor.n_levels + second.factor.codes
        kept, place = np.unique(pairs, return_inverse=True)
        j, k = np.divmod(kept, second.factor.n_levels)
        cells = len(kept)
    crossed = np.array([[np.bincount(place, one * other, minlength=cells) for other in z] for one in y])
    above = np.einsum("ajp,bjp->abj", left[:, j], right[:, k])
    q, m = crossed.shape[:2]
    flat = crossed.reshape(q * m, cells)
    full, mixed = ((flat @ x.reshape(q * m, cells).T).reshape(q, m, q, m) for x in (crossed, above))
    return full.transpose(2, 0, 1, 3), mixed.transpose(2, 0, 1, 3)


def _label(term: RandomTerm, direction: np.ndarray) -> str:
    """Name of the element of Sigma that a direction moves."""
    places = np.argwhere(np.triu(np.abs(direction) > 1e-9))
    factor = term.factor.name
    if len(places) != 1:
        return f"the covariance of {', '.join(term.names)} by {factor}"
    i, j = places[0]
    if i == j:
        return f"var {factor}" if term.names[i] == "Intercept" else f"var {term.names[i]}|{factor}"
    return f"cov {term.names[i]}.{term.names[j]}|{factor}"
