"""What a chain of nested factors leaves of every level: posterior covariances and traces, from the last factor back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mvmise_sm.core.elimination.levels import product

if TYPE_CHECKING:
    from mvmise_sm.core.elimination.chain import ChainFactorization
    from mvmise_sm.core.elimination.levels import LevelFactor

__all__ = ["ChainPosterior", "chain_posterior"]


@dataclass(frozen=True, slots=True, eq=False)
class ChainPosterior:
    """Blocks of (Sigma^-1 + Z'Z)^-1 and of Z'V^-1Z at one theta.

    Attributes
    ----------
    traces : list of ndarray
        sum_j (Z_k'V^-1Z_k)_jj (q, q) per factor; None for the remainder where it is left out.
    blocks : list of ndarray
        (Sigma^-1 + Z'Z)^-1 by level (q, q, J) per factor.
    pair : dict
        (k, m) -> its blocks between factors of the chain, by level of k.
    on_rest : dict
        k -> its entries between factor k and the remainder.
    """

    traces: list[Any]
    blocks: list[Any]
    pair: dict[tuple[int, int], np.ndarray]
    on_rest: dict[int, np.ndarray]


def chain_posterior(factors: ChainFactorization, rest: Any) -> ChainPosterior:
    """The blocks of a factorised chain with the remainder `rest`, of the chain alone if that is None."""
    return _Backward(factors, rest).run()


class _Backward:
    """The pass over the chain from its last factor to its first."""

    def __init__(self, factors: ChainFactorization, rest: Any) -> None:
        self._factors, self._rest = factors, rest

    def run(self) -> ChainPosterior:
        factors, rest = self._factors, self._rest
        structure, layout = factors.structure, factors.system.layout
        traces: list[Any] = [None] * len(layout.factors)
        blocks: list[Any] = [None] * len(layout.factors)
        pair: dict[tuple[int, int], np.ndarray] = {}
        on_rest: dict[int, np.ndarray] = {}
        if rest is not None:
            for r, t, block in zip(layout.remainder, rest.traces(), rest.posterior_blocks(), strict=True):
                traces[r], blocks[r] = t, block
        for k in reversed(structure.chain):
            later = structure.chain[k + 1 :]
            level = factors.levels[k]
            middle = np.zeros_like(level.w)
            times = {m: self._times_later(k, m, later, blocks, pair) for m in later}
            if rest is not None and not later:
                if k > 0 or factors.keep_cross:
                    row_times = rest.row_times(structure.kernels[k], factors.values[k])
                    middle += self._entry_products(k, row_times)
                    on_rest[k] = -self._by_entry(level.w, k, row_times)
                else:
                    middle += rest.quad(structure.kernels[k], factors.values[k])
            elif rest is not None:
                middle += self._mixed_middle(k, later, level, times, on_rest)
            for m in later:
                middle += product(times[m], factors.cross[k, m].transpose(1, 0, 2))
                pair[k, m] = -product(level.w, times[m])
            blocks[k] = level.w + product(product(level.w, middle), level.w)
            t = product(level.i_minus_cw, level.c) - product(
                product(level.i_minus_cw, middle), level.i_minus_cw.transpose(1, 0, 2)
            )
            traces[k] = t.sum(axis=2)
        return ChainPosterior(traces, blocks, pair, on_rest)

    def _times_later(
        self,
        k: int,
        m: int,
        later: tuple[int, ...],
        blocks: list[np.ndarray],
        pair: dict[tuple[int, int], np.ndarray],
    ) -> np.ndarray:
        """sum over n of C_kn Psi_nm by level of k."""
        parent = self._factors.system.layout.parent
        total: Any = 0.0
        for n in later:
            if n == m:
                psi = blocks[m][:, :, parent[k, m]]
            elif n < m:
                psi = pair[n, m][:, :, parent[k, n]]
            else:
                psi = pair[m, n][:, :, parent[k, m]].transpose(1, 0, 2)
            total = total + product(self._factors.cross[k, n], psi)
        return total

    def _by_entry(self, blocks: np.ndarray, k: int, values: np.ndarray) -> np.ndarray:
        """Multiply entries (q, nnz) of factor k by the block of their level."""
        row = self._factors.structure.entries[k].row
        return np.stack(
            [sum(blocks[a, i][row] * values[i] for i in range(values.shape[0])) for a in range(blocks.shape[0])]
        )

    def _mixed_middle(
        self,
        k: int,
        later: tuple[int, ...],
        level: LevelFactor,
        times: dict[int, np.ndarray],
        on_rest: dict[int, np.ndarray],
    ) -> np.ndarray:
        """Part of the middle matrix of factor k that involves the remainder; also adds to `times` and `on_rest`."""
        structure = self._factors.structure
        entries, values = structure.entries[k], self._factors.values[k]
        q = values.shape[0]
        row_times = self._rest.row_times(structure.kernels[k], values)
        for m in later:
            psi = on_rest[m][:, structure.place[k, m]]
            through = product(np.ascontiguousarray(self._factors.cross[k, m][:, :, entries.row]), psi[:, None, :])[:, 0]
            row_times = row_times + through
            extra = np.empty((q, psi.shape[0], entries.n_rows))
            for a in range(q):
                extra[a] = entries.row_sums(values[a] * psi)
            times[m] = times[m] + extra
        if k > 0 or self._factors.keep_cross:
            on_rest[k] = -self._by_entry(level.w, k, row_times)
        return self._entry_products(k, row_times)

    def _entry_products(self, k: int, row_times: np.ndarray) -> np.ndarray:
        """Sum of row_times c' over the entries of each level of factor k (q, q, J)."""
        entries, values = self._factors.structure.entries[k], self._factors.values[k]
        q = values.shape[0]
        out = np.empty((q, q, entries.n_rows))
        for a in range(q):
            for b in range(q):
                out[a, b] = entries.row_sums(row_times[a] * values[b])
        return out
