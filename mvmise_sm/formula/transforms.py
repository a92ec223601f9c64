"""Functions that belong to the formula language: R's elementary functions, ``factor`` and ``poly``."""

from __future__ import annotations

from typing import Any

import numpy as np
from patsy.builtins import C

__all__ = ["LANGUAGE", "Poly"]


class Poly:
    """Orthogonal polynomials as a patsy stateful transform: ``poly(x, degree)``.

    The columns are orthonormal on the data of the fit; new data are mapped by the same three-term recurrence
    (Kennedy and Gentle, Statistical Computing, 1980, section 8.1.2).
    """

    def __init__(self) -> None:
        self._chunks: list[np.ndarray] = []
        self._degree = 1

    def memorize_chunk(self, x: Any, degree: int = 1) -> None:
        """Collect data of the first pass; `x` (n,), `degree` at least 1."""
        self._chunks.append(np.asarray(x, dtype=float).ravel())
        self._degree = int(degree)

    def memorize_finish(self) -> None:
        """Compute the recurrence coefficients."""
        x = np.concatenate(self._chunks)
        self._chunks = []
        if self._degree < 1 or self._degree >= np.unique(x).size:
            raise ValueError(
                f"poly: degree must be between 1 and one less than the {np.unique(x).size} distinct values, "
                f"not {self._degree}"
            )
        previous, current = np.zeros_like(x), np.ones_like(x)
        self._alpha, self._norm2 = [], [1.0, float(x.size)]
        for _ in range(self._degree):
            alpha = float(x @ current**2) / self._norm2[-1]
            previous, current = current, (x - alpha) * current - self._norm2[-1] / self._norm2[-2] * previous
            self._alpha.append(alpha)
            self._norm2.append(float(current @ current))

    def transform(self, x: Any, degree: int = 1) -> np.ndarray:
        """Return the columns (n, degree) for `x` (n,)."""
        x = np.asarray(x, dtype=float).ravel()
        previous, current = np.zeros_like(x), np.ones_like(x)
        out = np.empty((x.size, self._degree), order="F")
        for j, alpha in enumerate(self._alpha):
            ratio = self._norm2[j + 1] / self._norm2[j]
            previous, current = current, (x - alpha) * current - ratio * previous
            out[:, j] = current / np.sqrt(self._norm2[j + 2])
        return out


def poly(x: Any, degree: int = 1) -> np.ndarray:
    """Orthogonal polynomial columns (n, degree) of `x` (n,), computed from these data."""
    transform = Poly()
    transform.memorize_chunk(x, degree)
    transform.memorize_finish()
    return transform.transform(x)


poly.__patsy_stateful_transform__ = Poly  # type: ignore[attr-defined]


LANGUAGE: dict[str, Any] = {
    "log": np.log,
    "log2": np.log2,
    "log10": np.log10,
    "log1p": np.log1p,
    "exp": np.exp,
    "expm1": np.expm1,
    "sqrt": np.sqrt,
    "abs": np.abs,
    "factor": C,
    "poly": poly,
    "np": np,
}
