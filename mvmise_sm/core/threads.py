"""One BLAS thread inside a fit, unless its dense block is large."""

from __future__ import annotations

from contextlib import nullcontext
from functools import lru_cache

__all__ = ["blas_threads"]

# OpenBLAS runs products below this many random effects on one thread anyway
_SINGLE_ANYWAY = 48
_WORTH_THREADS = 2_000


@lru_cache(maxsize=1)
def _controller():
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def blas_threads(n_dense):
    """Context that holds BLAS at one thread while a model with a dense block of `n_dense` columns is fitted.

    With more threads than free cores OpenBLAS spins: on a busy two-core machine fits took 10 to 100 times longer.
    """
    if n_dense <= _SINGLE_ANYWAY or n_dense >= _WORTH_THREADS:
        return nullcontext()
    return _controller().limit(limits=1, user_api="blas")
