"""Natural cubic splines in R's basis, as a patsy stateful transform."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.interpolate import BSpline

__all__ = ["Ns"]


class Ns:
    """R's ``ns(x, df, knots, intercept, Boundary.knots)``: cubic splines that are linear outside the boundary knots.

    The basis is that of cubic B-splines, projected by the complete QR decomposition of the two conditions that second
    derivatives vanish at the boundary, so that coefficients are R's.

    References
    ----------
    de Boor (1978), A Practical Guide to Splines; Hastie, Tibshirani and Friedman (2009), section 5.2.1.
    """

    def __init__(self) -> None:
        self._chunks: list[np.ndarray] = []

    def memorize_chunk(
        self, x: Any, df: Any = None, knots: Any = None, intercept: bool = False, Boundary_knots: Any = None
    ) -> None:
        """Collect data of the first pass; `x` (n,)."""
        self._chunks.append(np.asarray(x, dtype=float).ravel())
        self._given = df, knots, bool(intercept), Boundary_knots

    def memorize_finish(self) -> None:
        """Place the knots and project the basis."""
        x = np.concatenate(self._chunks)
        self._chunks = []
        df, knots, intercept, boundary = self._given
        ends = np.sort(np.asarray([x.min(), x.max()] if boundary is None else boundary, dtype=float))
        if not ends[0] < ends[1]:
            raise ValueError("ns: the column is constant, or the boundary knots are the same")
        if knots is None:
            count = (1 + intercept if df is None else int(df)) - 1 - intercept
            if count < 0:
                raise ValueError(f"ns: df must be at least {1 + intercept}, got {df}")
            inside = x[(x >= ends[0]) & (x <= ends[1])]
            knots = np.quantile(inside, np.linspace(0.0, 1.0, count + 2)[1:-1])
        knots = np.sort(np.atleast_1d(np.asarray(knots, dtype=float)))
        if ((knots <= ends[0]) | (knots >= ends[1])).any():
            raise ValueError("ns: knots must lie between the boundary knots")
        self._ends = ends
        self._knots = np.concatenate([np.repeat(ends[0], 4), knots, np.repeat(ends[1], 4)])
        self._first = 0 if intercept else 1
        bends = self._columns(ends, 2)[:, self._first :]
        self._q = np.linalg.qr(bends.T, mode="complete")[0][:, 2:]

    def _columns(self, x: np.ndarray, order: int = 0) -> np.ndarray:
        """Derivatives of all B-splines at `x` between the ends (n, k)."""
        k = len(self._knots) - 4
        return np.column_stack([BSpline(self._knots, unit, 3)(x, nu=order) for unit in np.eye(k)])

    def transform(self, x: Any, *arguments: Any, **options: Any) -> np.ndarray:
        """Return the columns (n, df) for `x` (n,)."""
        x = np.asarray(x, dtype=float).ravel()
        near = np.clip(x, *self._ends)
        basis = self._columns(near)
        outside = near != x
        if outside.any():
            slope = self._columns(near[outside], 1)
            basis[outside] += slope * (x - near)[outside, None]
        return np.asfortranarray(basis[:, self._first :] @ self._q)
