"""Selected inverse: the elements of a sparse matrix's inverse on the pattern of its factor (Takahashi's equations)."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse

__all__ = ["selected_inverse"]


def selected_inverse(lu: Any) -> sparse.csr_matrix:
    """Elements of A^-1 on the pattern of the factor of a symmetric positive definite A.

    Parameters
    ----------
    lu : SuperLU
        From ``splu`` in symmetric mode with the pivots on the diagonal.

    Returns
    -------
    scipy.sparse.csr_matrix
        Symmetric (n, n), in the order of A, columns sorted.

    Raises
    ------
    numpy.linalg.LinAlgError
        If the factor has pivoted off the diagonal.

    Notes
    -----
    With A = L D L', columns J of one supernode, I their rows below and Y = L_IJ L_JJ^-1: Z_IJ = -Z_II Y and
    Z_JJ = (L_JJ D_J L_JJ')^-1 + Y'Z_II Y. Z_II lies in the front of the supernode's parent, so that fronts are dense
    blocks and each is let go when its last child has been served.
    """
    if not np.array_equal(lu.perm_r, lu.perm_c):
        raise np.linalg.LinAlgError("the sparse factor has pivoted off the diagonal")
    lower = sparse.csc_matrix(lu.L)
    lower.sort_indices()
    n = lower.shape[0]
    pivots = lu.U.diagonal()
    fronts = _supernodes(
        lower, [lower.indices[a + 1 : b] for a, b in zip(lower.indptr[:-1], lower.indptr[1:], strict=True)]
    )
    if not fronts.closed():
        fronts = _supernodes(lower, _completed(lower))
    rows, cols, values = [], [], []
    waiting: list[tuple[int, np.ndarray | None]] = [(s, None) for s in range(len(fronts.first)) if fronts.parent[s] < 0]
    while waiting:
        s, block = waiting.pop()
        own, below = fronts.columns(s), fronts.below[s]
        z = _front(lower, pivots, own, below, block)
        k = own.size
        index = np.concatenate([own, below])
        rows.append(index if k == 1 else np.repeat(index, k))
        cols.append(np.full(index.size, own[0]) if k == 1 else np.tile(own, index.size))
        values.append(z[:, :k].ravel())
        for child in fronts.children[s]:
            at = np.searchsorted(index, fronts.below[child])
            waiting.append((child, z[at[:, None], at]))
    row, col, value = np.concatenate(rows), np.concatenate(cols), np.concatenate(values)
    keep = row >= col
    row, col, value = row[keep], col[keep], value[keep]
    order = np.argsort(lu.perm_c)
    off = row != col
    first, second = order[row], order[col]
    places = np.concatenate([first, second[off]]), np.concatenate([second, first[off]])
    out = sparse.csr_matrix((np.concatenate([value, value[off]]), places), shape=(n, n))
    out.sort_indices()
    return out


def _front(
    lower: sparse.csc_matrix, pivots: np.ndarray, own: np.ndarray, below: np.ndarray, block: np.ndarray | None
) -> np.ndarray:
    """Z over the columns of a supernode and their rows below, given Z_II (dense, symmetric)."""
    k, m = own.size, below.size
    lo, hi = lower.indptr[own[0]], lower.indptr[own[0] + 1]
    z = np.empty((k + m, k + m))
    if k == 1 and hi - lo == m + 1:
        z[0, 0] = 1.0 / pivots[own[0]]
        if m:
            y = lower.data[lo + 1 : hi]
            zy = block @ y
            z[1:, 1:] = block
            z[1:, 0] = z[0, 1:] = -zy
            z[0, 0] += y @ zy
        return z
    index = np.concatenate([own, below])
    part = np.zeros((k + m, k))
    for i, j in enumerate(own):
        lo, hi = lower.indptr[j], lower.indptr[j + 1]
        part[np.searchsorted(index, lower.indices[lo:hi]), i] = lower.data[lo:hi]
    inverse = np.linalg.inv(part[:k])
    z[:k, :k] = (inverse.T / pivots[own]) @ inverse
    if m:
        y = part[k:] @ inverse
        zy = block @ y
        z[k:, k:] = block
        z[k:, :k] = -zy
        z[:k, k:] = -zy.T
        z[:k, :k] += y.T @ zy
    return z


class _Fronts:
    """Supernodes of a factor: consecutive columns with the same rows below.

    Attributes
    ----------
    first : ndarray
        First column of each supernode, then n.
    below : list of ndarray
        Rows below each supernode, ascending.
    parent : ndarray
        Supernode that holds the first row below, -1 for none.
    children : list of list
    """

    def __init__(self, first: np.ndarray, below: list[np.ndarray], n: int) -> None:
        self._stops = np.append(first, n)
        self.first, self.below = first, below
        self.parent = np.full(len(first), -1)
        self.children: list[list[int]] = [[] for _ in first]
        for s, rows in enumerate(below):
            if rows.size:
                p = int(np.searchsorted(first, rows[0], side="right")) - 1
                self.parent[s] = p
                self.children[p].append(s)

    def columns(self, s: int) -> np.ndarray:
        """Columns of a supernode."""
        return np.arange(self._stops[s], self._stops[s + 1])

    def closed(self) -> bool:
        """Whether the rows of every supernode lie in the front of its parent."""
        for s, p in enumerate(self.parent):
            if p >= 0:
                index = np.concatenate([self.columns(p), self.below[p]])
                at = np.searchsorted(index, self.below[s])
                if at[-1] >= index.size or not np.array_equal(index[at], self.below[s]):
                    return False
        return True


def _completed(lower: sparse.csc_matrix) -> sparse.csc_matrix:
    """Rows below the diagonal of every column, with those that elimination fills and rounding has dropped."""
    n = lower.shape[0]
    passed: list[list[np.ndarray]] = [[] for _ in range(n)]
    out: list[Any] = [None] * n
    for j in range(n):
        own = lower.indices[lower.indptr[j] : lower.indptr[j + 1]]
        out[j] = rows = np.unique(np.concatenate([own[own > j], *passed[j]]))
        passed[j] = []
        if rows.size > 1:
            passed[rows[0]].append(rows[1:])
    return out


def _supernodes(lower: sparse.csc_matrix, structure: list[np.ndarray]) -> _Fronts:
    """The fronts of a unit lower triangular factor, for the rows below the diagonal of every column."""
    n = lower.shape[0]
    count = np.array([rows.size for rows in structure])
    head = np.array([rows[0] if rows.size else -1 for rows in structure])
    joined = np.zeros(n, dtype=bool)
    joined[1:] = (head[:-1] == np.arange(1, n)) & (count[:-1] == count[1:] + 1)
    first = np.flatnonzero(~joined)
    last = np.append(first[1:], n) - 1
    return _Fronts(first, [structure[j] for j in last], n)
