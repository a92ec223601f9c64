"""Choice of the elimination that fits a model's size and structure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import reverse_cuthill_mckee

from mvmise_sm.core.elimination.chain import ChainSystem
from mvmise_sm.core.elimination.crossprod import cross_products, scaled
from mvmise_sm.core.elimination.dense import DenseSystem
from mvmise_sm.core.elimination.eigen import EigenSystem
from mvmise_sm.core.elimination.krylov import Probes
from mvmise_sm.core.elimination.single_factor import SingleSystem
from mvmise_sm.exceptions import ProblemTooLargeError

if TYPE_CHECKING:
    from mvmise_sm.core.covariance.coordinates import FixedBasis
    from mvmise_sm.core.elimination.crossprod import CrossProducts
    from mvmise_sm.core.elimination.layout import Layout
    from mvmise_sm.core.interfaces import System

__all__ = ["EXACT", "LogDeterminant", "ProblemTooLargeError", "build_system", "remainder_kind", "system_of_products"]

# a dense Schur complement of this many columns takes 0.5 GB and its factorisation some ten seconds
_DENSE_REMAINDER = 8_000
_SPARSE_REMAINDER_CELLS = 60_000_000
_WORTH_SPARSE = 500
# stored elements of the sparse factor, by its envelope
_SPARSE_FACTOR = 300_000_000
# seconds per multiplication: BLAS on a dense block, and the five or more sparse factorisations that a gradient takes
_DENSE_COST, _SPARSE_COST = 5e-11, 5e-9


@dataclass(frozen=True, slots=True)
class LogDeterminant:
    """How log|M| of crossed factors is found.

    Attributes
    ----------
    method : {"auto", "exact", "stochastic"}
        By a factorisation, by probes, or by probes where no factorisation is affordable.
    probes : int
        Random directions.
    seed : int
        Of the directions.
    """

    method: str = "auto"
    probes: int = 50
    seed: int = 0


EXACT = LogDeterminant("exact")


def build_system(
    layout: Layout,
    basis: FixedBasis,
    X: np.ndarray,
    y: np.ndarray,
    origin: np.ndarray,
    weights: np.ndarray | None,
    logdet: LogDeterminant = EXACT,
    once: bool = False,
) -> System:
    """Run the data pass and choose dense, rotated, single factor, chain, or chain with dense, sparse, Krylov remainder.

    With `once` the design is that of one evaluation, for which no decomposition pays.
    """
    if EigenSystem.fits(layout) and not once:
        return EigenSystem.build(layout, basis, X, y, origin, weights)
    if layout.dense:
        return DenseSystem.build(layout, basis, X, y, origin, weights)
    products = scaled(cross_products(layout, basis, X, y, origin, weights), layout, basis)
    return system_of_products(layout, products, logdet)


def system_of_products(layout: Layout, products: CrossProducts, logdet: LogDeterminant = EXACT) -> System:
    """Choose the elimination for scaled cross-products whose rows may be gone."""
    if layout.dense:
        return DenseSystem.of_products(layout, products)
    if len(layout.factors) == 1:
        return SingleSystem(layout, products)
    kind = _with_krylov(layout, logdet.method)
    probes = Probes(logdet.probes, logdet.seed) if kind == "krylov" else None
    return ChainSystem(layout, products, kind, probes=probes)


def _with_krylov(layout: Layout, method: str) -> str:
    """`remainder_kind`, or "krylov"."""
    if method == "stochastic" and layout.remainder:
        return "krylov"
    try:
        return remainder_kind(layout)
    except ProblemTooLargeError:
        if method == "exact":
            raise
        return "krylov"


def remainder_kind(layout: Layout) -> str:
    """How the factors outside the chain are eliminated: "none", "dense" or "sparse"."""
    n_rest = sum(layout.factors[r].size for r in layout.remainder)
    if n_rest == 0:
        return "none"
    cells = _schur_cells(layout)
    few = cells <= _SPARSE_REMAINDER_CELLS
    if n_rest <= _DENSE_REMAINDER and not (few and cells < 0.2 * n_rest**2 and n_rest > _WORTH_SPARSE):
        return "dense"
    stored, flops = _envelope(layout, n_rest) if few else (np.inf, np.inf)
    if n_rest <= _DENSE_REMAINDER:
        return "sparse" if flops * _SPARSE_COST < float(n_rest) ** 3 * _DENSE_COST else "dense"
    if stored <= _SPARSE_FACTOR:
        return "sparse"
    sizes = ", ".join(f"{layout.random.factors[f.index].name} {f.size:,}" for f in layout.factors)
    raise ProblemTooLargeError(
        f"the crossed random effects are too many for an exact fit: {layout.n_random:,} in all ({sizes}), of which "
        f"{n_rest:,} remain after the largest factor is eliminated and share about {cells:,} non-zero pairs; at most "
        f"{_DENSE_REMAINDER:,} are solved densely, and more only where few of them meet"
    )


def _schur_cells(layout: Layout) -> int:
    """An upper bound of the non-zero pairs of the Schur complement, before fill."""
    factors = layout.factors
    per_level = np.zeros(factors[0].n_levels)
    for r in layout.remainder:
        per_level += np.diff(layout.patterns[0, r].indptr) * factors[r].q
    return int(np.square(per_level).sum())


def _envelope(layout: Layout, n_rest: int) -> tuple[float, float]:
    """Elements and multiplications of a factor of the Schur complement in its reverse Cuthill-McKee envelope, a bound
    for its fill.
    """
    factors = layout.factors
    blocks = []
    for r in layout.remainder:
        pattern = layout.patterns[0, r]
        block = sparse.csr_matrix(
            (np.ones(pattern.nnz, dtype=np.int32), pattern.indices, pattern.indptr), shape=pattern.shape
        )
        blocks += [block] * factors[r].q
    rows = sparse.hstack(blocks, format="csr")
    graph = (rows.T @ rows).tocsr()
    place = np.empty(n_rest, dtype=np.int64)
    place[reverse_cuthill_mckee(graph, symmetric_mode=True)] = np.arange(n_rest)
    first = np.minimum.reduceat(place[graph.indices], graph.indptr[:-1])
    width = np.maximum(place - first, 0).astype(float) + 1.0
    return float(width.sum()), float(np.square(width).sum())
