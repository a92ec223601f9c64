"""Conjugate gradients on many right-hand sides at once, and the Gauss quadrature that their coefficients give."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

__all__ = ["Run", "conjugate_gradients"]

# squared residual relative to the right-hand side at which a column is as exact as it can be
_EXACT = 1e-31


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """Conjugate gradients on A x = b for several b.

    Attributes
    ----------
    x : ndarray
        Solutions (n, c).
    alphas, betas : ndarray
        Step lengths and ratios of squared residuals by iteration (s, c).
    steps : ndarray
        Iterations of every column (c,); beyond them its coefficients mean nothing.
    squares : ndarray
        b'b (c,).
    converged : bool
        Whether every column reached the tolerance.
    """

    x: np.ndarray
    alphas: np.ndarray
    betas: np.ndarray
    steps: np.ndarray
    squares: np.ndarray
    converged: bool

    def quadrature(self, f: Callable[[np.ndarray], np.ndarray], without: int = 0) -> np.ndarray:
        """b'f(A)b of every column (c,) by the Gauss rule of Lanczos, which the coefficients hold.

        Parameters
        ----------
        f : callable
            Of eigenvalues, elementwise.
        without : int, optional
            Last iterations to leave out, for an estimate of the error.

        References
        ----------
        Golub and Meurant (2010). Matrices, Moments and Quadrature with Applications, chapters 6 and 10.
        """
        size, columns = self.alphas.shape
        steps = np.maximum(self.steps - without, np.minimum(self.steps, 1))
        used = np.arange(size)[:, None] < steps
        linked = np.arange(size)[:, None] < steps - 1
        inverse = np.where(used, 1.0 / np.where(used, self.alphas, 1.0), 0.0)
        ratio = np.where(linked, self.betas, 0.0)
        matrix = np.zeros((columns, size, size))
        at = np.arange(size)
        matrix[:, at, at] = np.where(used, inverse, 1.0).T
        matrix[:, at[1:], at[1:]] += (ratio * inverse)[:-1].T
        off = (np.sqrt(ratio) * inverse)[:-1].T
        matrix[:, at[1:], at[:-1]] = matrix[:, at[:-1], at[1:]] = off
        values, vectors = np.linalg.eigh(matrix)
        weights = np.square(vectors[:, 0])
        return self.squares * (weights * f(np.where(weights > 0.0, values, 1.0))).sum(axis=1)


def conjugate_gradients(
    apply: Callable[[np.ndarray], np.ndarray], rhs: np.ndarray, tol: float, limit: int, panel: int = 32
) -> Run:
    """Solve A x = b for a symmetric positive definite A.

    Parameters
    ----------
    apply : callable
        (n, c) -> A times it.
    rhs : ndarray
        (n, c).
    tol : float
        Norm of the residual over that of the right-hand side.
    limit : int
        Largest number of iterations.
    panel : int, optional
        Columns that are iterated together.
    """
    runs = [_panel(apply, rhs[:, lo : lo + panel], tol, limit) for lo in range(0, rhs.shape[1], panel)]
    size = max(len(run.alphas) for run in runs)
    alphas, betas = (
        np.concatenate([np.pad(part, ((0, size - len(part)), (0, 0))) for part in parts], axis=1)
        for parts in ([run.alphas for run in runs], [run.betas for run in runs])
    )
    return Run(
        np.concatenate([run.x for run in runs], axis=1),
        alphas,
        betas,
        np.concatenate([run.steps for run in runs]),
        np.concatenate([run.squares for run in runs]),
        all(run.converged for run in runs),
    )


def _panel(apply: Callable[[np.ndarray], np.ndarray], rhs: np.ndarray, tol: float, limit: int) -> Run:
    r = np.array(rhs, order="C")
    x, p = np.zeros_like(r), r.copy()
    squares = rr = np.einsum("ij,ij->j", r, r)
    least = max(tol * tol, _EXACT) * squares
    alphas: list[np.ndarray] = []
    betas: list[np.ndarray] = []
    steps = np.zeros(r.shape[1], dtype=int)
    while len(alphas) < limit:
        active = rr > least
        if not active.any():
            break
        ap = apply(p)
        along = np.einsum("ij,ij->j", p, ap)
        active &= along > 0.0
        alpha = np.where(active, rr / np.where(active, along, 1.0), 0.0)
        x += alpha * p
        ap *= alpha
        r -= ap
        new = np.einsum("ij,ij->j", r, r)
        beta = np.where(active, new / np.where(active, rr, 1.0), 0.0)
        p *= beta
        p += r
        alphas.append(alpha)
        betas.append(beta)
        steps += active
        rr = np.where(active, new, 0.0)
    empty = np.zeros((0, r.shape[1]))
    return Run(
        x,
        np.array(alphas) if alphas else empty,
        np.array(betas) if betas else empty,
        steps,
        squares,
        bool((rr <= least).all()),
    )
