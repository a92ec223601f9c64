"""Covariance structures of residuals: matrices R_i of the rows of one subject, relative to sigma^2.

The variance at the first level (of the first group) is one, so that sigma^2 is the residual variance there. Parameters
phi are unconstrained: logs of standard deviations relative to the first, and those of the correlation family.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mvmise_sm.core.covariance.base import Parameter
from mvmise_sm.core.covariance.correlations import CorrelationFamily, kernel
from mvmise_sm.core.covariance.patterns import PatternBatch, SubjectRows

__all__ = [
    "DistanceResidual",
    "LevelResidual",
    "ResidualStructure",
    "ResidualTerm",
    "UnstructuredResidual",
]

_STEP = 1e-5
_START_NUGGET = 0.1
# a share of exp(-30) is rounding
_LARGEST_LOGIT = 30.0
# standard deviations above exp(200) times the first one's overflow in products
_LARGEST_LOG = 200.0
# elements of the largest intermediate array of a contraction
_CELLS = 4_000_000


@dataclass(frozen=True, eq=False)
class ResidualTerm:
    """The residual structure of a model with the rows that it holds for.

    Attributes
    ----------
    structure : ResidualStructure
    rows : SubjectRows
    text : str
        As the user wrote it.
    level, subject : str
        Names of the level and of the subject, for messages; empty where a row is a subject.
    subject_labels : sequence
        Labels of the subjects, for messages.
    """

    structure: ResidualStructure
    rows: SubjectRows
    text: str
    level: str = ""
    subject: str = ""
    subject_labels: Any = ()

    def on_rows(self, rows: np.ndarray, subjects: np.ndarray | None = None) -> ResidualTerm:
        """The same structure on some rows (m,), with other subjects (m,) if given."""
        kept = self.rows.on_rows(rows, subjects)
        return replace(self, rows=kept, subject_labels=np.arange(int(kept.subjects.max(initial=-1)) + 1))


class ResidualStructure(ABC):
    """What the engine asks of a residual structure.

    Attributes
    ----------
    k_phi : int
        Number of parameters.
    described : str
        The structure in words, for summaries.
    levels : tuple of str
        Labels of the levels; empty for structures of distance.
    groups : tuple of str
        Labels of groups with parameters of their own; empty without.
    needs_all_pairs : bool
        Whether only subjects with both of two levels inform about their covariance.
    multimodal : bool
        Whether the likelihood may have several optima even without random effects.
    """

    k_phi: int
    described: str
    levels: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    needs_all_pairs: bool = False
    multimodal: bool = False

    @abstractmethod
    def start(self) -> np.ndarray:
        """A start (k_phi,): equal variances, little correlation."""

    def other_starts(self) -> list[np.ndarray]:
        """Further starts where the likelihood may have several optima."""
        return []

    @abstractmethod
    def blocks(self, phi: np.ndarray, batch: PatternBatch) -> np.ndarray:
        """R of every pattern (s, m, m)."""

    @abstractmethod
    def block_tangents(self, phi: np.ndarray, batch: PatternBatch) -> np.ndarray:
        """dR / dphi_t of every pattern (k_phi, s, m, m)."""

    @abstractmethod
    def variances(self, phi: np.ndarray, codes: np.ndarray, groups: np.ndarray) -> np.ndarray:
        """Variance of rows at levels `codes` (n,) of groups `groups` (n,), relative to sigma^2."""

    @abstractmethod
    def parameters(self, phi: np.ndarray, names: Any = None, a: Any = None) -> list[Parameter]:
        """What results report, standard deviations relative to sigma first; gradients in phi.

        `names` and `a` have no meaning here; random effects take them.
        """

    def matrices(self, phi: np.ndarray) -> dict[str, np.ndarray] | np.ndarray | None:
        """Covariance of all levels (m, m), a dict by group, or None for structures of distance."""
        return None

    def curvature(self, phi: np.ndarray, batches: Sequence[PatternBatch], slopes: Sequence[np.ndarray]) -> np.ndarray:
        """Sum over patterns of <slope, d2R> (k_phi, k_phi), for `slopes` (s, m, m) of every batch."""
        out = np.zeros((self.k_phi, self.k_phi))
        for i in range(self.k_phi):
            for sign in (1.0, -1.0):
                moved = phi.copy()
                moved[i] += sign * _STEP
                out[i] += sign * self.contract(moved, batches, slopes)
        out /= 2.0 * _STEP
        return 0.5 * (out + out.T)

    def contract(self, phi: np.ndarray, batches: Sequence[PatternBatch], slopes: Sequence[np.ndarray]) -> np.ndarray:
        """Sum over patterns of <slope, dR> (k_phi, ...), for `slopes` (s, m, m, ...) of every batch."""
        out = 0.0
        for batch, slope in zip(batches, slopes, strict=True):
            flat = slope.reshape(batch.n_patterns * batch.size**2, -1)
            out = out + self.block_tangents(phi, batch).reshape(self.k_phi, len(flat)) @ flat
        return np.asarray(out).reshape(self.k_phi, *slopes[0].shape[3:])

    def contract_pairs(
        self, phi: np.ndarray, batches: Sequence[PatternBatch], inner: Sequence[np.ndarray], outer: Sequence[np.ndarray]
    ) -> np.ndarray:
        """Sum over patterns of tr(dR_i B dR_j F) (k_phi, k_phi, ...).

        Parameters
        ----------
        phi : ndarray
            (k_phi,).
        batches : sequence of PatternBatch
        inner, outer : sequence of ndarray
            B (s, m, m) and F (s, m, m, ...) of every batch.
        """
        k = self.k_phi
        out = np.zeros((k, k, int(np.prod(outer[0].shape[3:], dtype=int))))
        for batch, b, f in zip(batches, inner, outer, strict=True):
            m = batch.size
            tangents = self.block_tangents(phi, batch)
            # rows [c, a] of dR_i B, against dR_j F
            left = np.swapaxes(tangents @ b, 2, 3).reshape(k, batch.n_patterns * m * m)
            flat = f.reshape(batch.n_patterns, m, -1)
            for j in range(k):
                out[:, j] += left @ (tangents[j] @ flat).reshape(batch.n_patterns * m * m, -1)
        return out.reshape(k, k, *outer[0].shape[3:])


class _MatrixResidual(ResidualStructure):
    """Structures that pick rows and columns of one matrix C (m, m)."""

    def __init__(self, levels: Sequence[str]) -> None:
        self.levels = tuple(levels)
        self.m = len(self.levels)

    @abstractmethod
    def matrix(self, phi: np.ndarray) -> np.ndarray:
        """C (m, m) with C[0, 0] = 1."""

    @abstractmethod
    def matrix_tangents(self, phi: np.ndarray) -> np.ndarray:
        """dC / dphi_t (k_phi, m, m)."""

    def matrices(self, phi: np.ndarray) -> np.ndarray:
        return self.matrix(phi)

    def blocks(self, phi: np.ndarray, batch: PatternBatch) -> np.ndarray:
        at = batch.levels
        return self.matrix(phi)[at[:, :, None], at[:, None, :]]

    def block_tangents(self, phi: np.ndarray, batch: PatternBatch) -> np.ndarray:
        at = batch.levels
        return self.matrix_tangents(phi)[:, at[:, :, None], at[:, None, :]]

    def contract(self, phi: np.ndarray, batches: Sequence[PatternBatch], slopes: Sequence[np.ndarray]) -> np.ndarray:
        width = int(np.prod(slopes[0].shape[3:], dtype=int))
        total = np.zeros((self.m * self.m, width))
        for batch, slope in zip(batches, slopes, strict=True):
            cells = (batch.levels[:, :, None] * self.m + batch.levels[:, None, :]).ravel()
            if width == 1:
                total[:, 0] += np.bincount(cells, slope.ravel(), len(total))
            else:
                # within a pattern every cell occurs once
                flat = slope.reshape(batch.n_patterns, -1, width)
                for at, part in zip(cells.reshape(batch.n_patterns, -1), flat, strict=True):
                    total[at] += part
        tangents = self.matrix_tangents(phi).reshape(self.k_phi, len(total))
        return (tangents @ total).reshape(self.k_phi, *slopes[0].shape[3:])

    def contract_pairs(
        self, phi: np.ndarray, batches: Sequence[PatternBatch], inner: Sequence[np.ndarray], outer: Sequence[np.ndarray]
    ) -> np.ndarray:
        # sum over patterns first: one matrix product, whatever the number of parameters
        m, k = self.m, self.k_phi
        shape = outer[0].shape[3:]
        width = int(np.prod(shape, dtype=int))
        tangents = self.matrix_tangents(phi).reshape(k, m * m)
        out = np.empty((k, k, width))
        b = self._embedded(batches, inner, slice(0, 1))[:, :, 0]
        step = max(1, _CELLS // m**4)
        for lo in range(0, width, step):
            f = self._embedded(batches, outer, slice(lo, min(lo + step, width)))
            e = f.shape[2]
            # sums[(b, c), (d, a, e)] -> [(a, b), (c, d), e]
            sums = (b.T @ f.reshape(len(b), -1)).reshape(m, m, m, m, e)
            pairs = np.ascontiguousarray(sums.transpose(3, 0, 1, 2, 4)).reshape(m * m, m * m * e)
            half = (tangents @ pairs).reshape(k, m * m, e)
            out[:, :, lo : lo + e] = np.swapaxes(np.tensordot(half, tangents, axes=([1], [1])), 1, 2)
        return out.reshape(k, k, *shape)

    def _embedded(self, batches: Sequence[PatternBatch], values: Sequence[np.ndarray], columns: slice) -> np.ndarray:
        """Values (s, m_s, m_s, ...) of all patterns at the places of their levels (patterns, m * m, columns)."""
        parts = []
        for batch, value in zip(batches, values, strict=True):
            part = value.reshape(batch.n_patterns, batch.size**2, -1)[:, :, columns]
            cells = (batch.levels[:, :, None] * self.m + batch.levels[:, None, :]).reshape(batch.n_patterns, -1)
            wide = np.zeros((batch.n_patterns, self.m * self.m, part.shape[2]))
            np.put_along_axis(wide, np.broadcast_to(cells[:, :, None], part.shape), part, axis=1)
            parts.append(wide)
        return np.concatenate(parts)

    def variances(self, phi: np.ndarray, codes: np.ndarray, groups: np.ndarray) -> np.ndarray:
        return np.diag(self.matrix(phi))[codes]


class LevelResidual(_MatrixResidual):
    """Standard deviations (one, or one per level) and a family of correlations of the levels.

    Parameters
    ----------
    levels : sequence of str
        Labels in their order (m,).
    family : CorrelationFamily
    hom : bool
        One variance for all levels.
    """

    def __init__(self, levels: Sequence[str], family: CorrelationFamily, hom: bool) -> None:
        super().__init__(levels)
        self.family, self.hom, self.multimodal = family, hom, family.multimodal
        self.n_sd = 0 if hom else self.m - 1
        self.k_phi = self.n_sd + family.size
        self.described = f"{family.described}, {'one variance' if hom else 'a variance per level'}"

    def start(self) -> np.ndarray:
        return np.append(np.zeros(self.n_sd), self.family.free)

    def other_starts(self) -> list[np.ndarray]:
        return [np.append(np.zeros(self.n_sd), x) for x in self.family.other_starts(self.family.free)]

    def _scales(self, phi: np.ndarray) -> np.ndarray:
        return np.ones(self.m) if self.hom else np.exp(np.append(0.0, np.minimum(phi[: self.n_sd], _LARGEST_LOG)))

    def matrix(self, phi: np.ndarray) -> np.ndarray:
        s = self._scales(phi)
        return s[:, None] * self.family.matrix(self.family.off_singular(phi[self.n_sd :])[0]) * s

    def matrix_tangents(self, phi: np.ndarray) -> np.ndarray:
        s = self._scales(phi)
        x, moves = self.family.off_singular(phi[self.n_sd :])
        out = np.zeros((self.k_phi, self.m, self.m))
        if self.n_sd:
            c = s[:, None] * self.family.matrix(x) * s
            for i in range(self.n_sd):
                out[i, i + 1] += c[i + 1]
                out[i, :, i + 1] += c[:, i + 1]
        if self.family.size:
            out[self.n_sd :] = moves[:, None, None] * (s[:, None] * self.family.matrix_tangents(x) * s)
        return out

    def parameters(self, phi: np.ndarray, names: Any = None, a: Any = None) -> list[Parameter]:
        unit = np.eye(self.k_phi)
        s = self._scales(phi)
        if self.hom:
            out = [Parameter("sd", "sd", (), 1.0, np.zeros(self.k_phi))]
        else:
            slopes = [np.zeros(self.k_phi), *(s[i + 1] * unit[i] for i in range(self.n_sd))]
            out = [
                Parameter("sd", "sd", (level,), float(size), slope)
                for level, size, slope in zip(self.levels, s, slopes, strict=True)
            ]
        x, moves = self.family.off_singular(phi[self.n_sd :])
        for kind, name, value, gradient in self.family.reported(x):
            wide = np.append(np.zeros(self.n_sd), gradient * moves)
            out.append(Parameter(kind, name, (), value, wide, self.family.least))  # type: ignore[arg-type]
        return out


class UnstructuredResidual(_MatrixResidual):
    """Any positive definite covariance of the levels: C = LL' with L[0, 0] = 1 and the logs of the other diagonals.

    Parameters
    ----------
    levels : sequence of str
        (m,).
    """

    described = "unstructured"
    needs_all_pairs = True

    def __init__(self, levels: Sequence[str]) -> None:
        super().__init__(levels)
        rows, cols = np.tril_indices(self.m)
        self._rows, self._cols = rows[1:], cols[1:]
        self._diagonal = self._rows == self._cols
        self.k_phi = len(self._rows)

    def start(self) -> np.ndarray:
        return np.zeros(self.k_phi)

    def _root(self, phi: np.ndarray) -> np.ndarray:
        out = np.zeros((self.m, self.m))
        out[0, 0] = 1.0
        logs = np.where(self._diagonal, np.minimum(phi, _LARGEST_LOG), 0.0)
        out[self._rows, self._cols] = np.where(self._diagonal, np.exp(logs), phi)
        return out

    def matrix(self, phi: np.ndarray) -> np.ndarray:
        root = self._root(phi)
        return root @ root.T

    def matrix_tangents(self, phi: np.ndarray) -> np.ndarray:
        root = self._root(phi)
        out = np.zeros((self.k_phi, self.m, self.m))
        # dC = e_i L[:, j]' + L[:, j] e_i', times L[i, i] on the diagonal where the parameter is a log
        column = root[:, self._cols].T * np.where(self._diagonal, root[self._rows, self._cols], 1.0)[:, None]
        at = np.arange(self.k_phi)
        out[at, self._rows] += column
        out[at, :, self._rows] += column
        return out

    def parameters(self, phi: np.ndarray, names: Any = None, a: Any = None) -> list[Parameter]:
        c, tangents = self.matrix(phi), self.matrix_tangents(phi)
        sd = np.sqrt(np.diag(c))
        slopes = 0.5 * np.diagonal(tangents, axis1=1, axis2=2) / sd
        out = [
            Parameter("sd", "sd", (level,), float(sd[i]), slopes[:, i].copy()) for i, level in enumerate(self.levels)
        ]
        for i in range(self.m):
            for j in range(i + 1, self.m):
                value = c[i, j] / (sd[i] * sd[j])
                own = slopes[:, i] / sd[i] + slopes[:, j] / sd[j]
                gradient = tangents[:, i, j] / (sd[i] * sd[j]) - value * own
                out.append(Parameter("cor", "cor", (self.levels[i], self.levels[j]), float(value), gradient))
        return out


class DistanceResidual(ResidualStructure):
    """Correlation that falls with the distance of two rows, in time or space, with a nugget if wanted.

    Parameters
    ----------
    name : {"exp", "gau"}
    typical : float
        Median distance of two rows of a subject, for the start.
    limits : tuple of float
        Limits of the log of the range, see `range_limits`.
    nugget : bool, optional
        A share of the variance that is the row's own.
    """

    def __init__(
        self, name: str, typical: float, nugget: bool = False, limits: tuple[float, float] = (-np.inf, np.inf)
    ) -> None:
        self._kernel, share = kernel(name)
        self._limits = limits
        self._start = float(np.log(share * typical)) if typical > 0.0 else 0.0
        self.nugget = self.multimodal = nugget
        self.k_phi = 2 if nugget else 1
        words = {"exp": "exponential", "gau": "Gaussian"}[name]
        self.described = f"{words} correlation of distance, one variance{', nugget' if nugget else ''}"

    def start(self) -> np.ndarray:
        return np.array([self._start, np.log(_START_NUGGET / (1.0 - _START_NUGGET))])[: self.k_phi]

    def other_starts(self) -> list[np.ndarray]:
        """Ranges four times as long and as short."""
        return [self.start() + np.array([step, 0.0])[: self.k_phi] for step in (np.log(4.0), -np.log(4.0))]

    def _share(self, phi: np.ndarray) -> tuple[float, float]:
        """Share of the nugget and its derivative in the logit, zero beyond what changes anything."""
        if not self.nugget:
            return 0.0, 0.0
        inside = float(np.clip(phi[1], -_LARGEST_LOGIT, _LARGEST_LOGIT))
        share = float(1.0 / (1.0 + np.exp(-inside)))
        return share, share * (1.0 - share) * (inside == phi[1])

    def _values(self, phi: np.ndarray, batch: PatternBatch) -> tuple[np.ndarray, np.ndarray]:
        inside = float(np.clip(phi[0], *self._limits))
        z = batch.distances * np.exp(-inside)
        value, slope = self._kernel(z)
        return value, -slope * z * (inside == phi[0])

    def blocks(self, phi: np.ndarray, batch: PatternBatch) -> np.ndarray:
        share = self._share(phi)[0]
        out = (1.0 - share) * self._values(phi, batch)[0]
        index = np.arange(out.shape[1])
        out[:, index, index] = 1.0
        return out

    def block_tangents(self, phi: np.ndarray, batch: PatternBatch) -> np.ndarray:
        value, slope = self._values(phi, batch)
        share, rate = self._share(phi)
        out = np.empty((self.k_phi, *value.shape))
        out[0] = (1.0 - share) * slope
        if self.nugget:
            out[1] = -rate * value
        index = np.arange(value.shape[1])
        out[:, :, index, index] = 0.0
        return out

    def variances(self, phi: np.ndarray, codes: np.ndarray, groups: np.ndarray) -> np.ndarray:
        return np.ones(len(codes))

    def parameters(self, phi: np.ndarray, names: Any = None, a: Any = None) -> list[Parameter]:
        unit = np.eye(self.k_phi)
        size = float(np.exp(np.clip(phi[0], *self._limits)))
        out = [
            Parameter("sd", "sd", (), 1.0, np.zeros(self.k_phi)),
            Parameter("positive", "range", (), size, size * unit[0]),
        ]
        if self.nugget:
            share, rate = self._share(phi)
            out.append(Parameter("share", "nugget", (), share, rate * unit[1]))
        return out
