"""Sums over pairs of levels of T = Z'V^-1Z, from panels of its columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from mvmise_sm.core.elimination.layout import Layout
    from mvmise_sm.core.interfaces import PairSums

__all__ = ["panel_pair_sums"]

# numbers in one panel: 64 MB
_PANEL_CELLS = 8_000_000


def panel_pair_sums(layout: Layout, columns_of: Callable[[np.ndarray], np.ndarray], g: list[np.ndarray]) -> PairSums:
    """Sums over pairs of levels, with time square and memory linear in the number of random effects.

    Parameters
    ----------
    layout : Layout
    columns_of : callable
        Places (c,) among the n random effects -> these columns of T (n, c).
    g : list of ndarray
        Z_k'V^-1X (q, J, p) of every factor.

    Returns
    -------
    traces : list of ndarray
        sum_j T_jj (q, q) of every factor.
    pairs : dict
        (k, l) -> sum over u, v of T[a, u, c, v] T[b, u, d, v], indexed [a, b, c, d].
    mixed : dict
        (k, l) -> sum of G_k[a, u]' T[b, u, c, v] G_l[d, v], indexed [a, b, c, d, m, n].
    """
    factors = layout.factors
    p = g[0].shape[2]
    traces = [np.zeros((f.q, f.q)) for f in factors]
    pairs = {(k, n): np.zeros((f.q, f.q, h.q, h.q)) for k, f in enumerate(factors) for n, h in enumerate(factors)}
    mixed = {key: np.zeros((*value.shape, p, p)) for key, value in pairs.items()}
    for n, columns, blocks in _panels(layout, columns_of):
        h = factors[n]
        right = g[n][:, columns]
        for k, (f, t) in enumerate(zip(factors, blocks, strict=True)):
            if k == n:
                own = t[:, columns].diagonal(axis1=1, axis2=3)
                traces[n] += own.sum(axis=2)
            flat = np.ascontiguousarray(t.transpose(0, 2, 1, 3)).reshape(f.q * h.q, -1)
            pairs[k, n] += (flat @ flat.T).reshape(f.q, h.q, f.q, h.q).transpose(0, 2, 1, 3)
            for b in range(f.q):
                for c in range(h.q):
                    for d in range(h.q):
                        through = t[b, :, c] @ right[d]
                        for a in range(f.q):
                            mixed[k, n][a, b, c, d] += g[k][a].T @ through
    return traces, pairs, mixed


def _panels(
    layout: Layout, columns_of: Callable[[np.ndarray], np.ndarray]
) -> Iterator[tuple[int, slice, list[np.ndarray]]]:
    """Columns of T by slices of levels: (factor, levels, one (q, J, q of the factor, levels) per factor)."""
    for n, (start, q, n_levels) in enumerate(layout.places):
        width = max(1, min(n_levels, _PANEL_CELLS // (layout.n_random * q)))
        for lo in range(0, n_levels, width):
            hi = min(lo + width, n_levels)
            at = (start + np.arange(q)[:, None] * n_levels + np.arange(lo, hi)).ravel()
            columns = columns_of(at)
            yield n, slice(lo, hi), [columns[o : o + r * j].reshape(r, j, q, hi - lo) for o, r, j in layout.places]
