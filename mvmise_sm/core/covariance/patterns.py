"""Rows of subjects sorted by pattern: subjects observed at the same levels share one covariance matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mvmise_sm.core.covariance.correlations import range_limits

__all__ = ["PatternBatch", "SubjectRows", "limits_of_range", "median_distance", "subject_rows"]

# positions are told apart to this many digits of their spread
_DIGITS = 10


@dataclass(frozen=True, slots=True, eq=False)
class PatternBatch:
    """All patterns of one size m, s of them, and the subjects that have them.

    Attributes
    ----------
    size : int
        Rows per subject m.
    rows : ndarray
        Rows of the data (subjects, m), subjects sorted by pattern.
    member : ndarray
        Pattern of each subject (subjects,), ascending.
    counts : ndarray
        Subjects of each pattern (s,), float.
    levels : ndarray
        Levels of each pattern (s, m).
    groups : ndarray
        Group of each pattern (s,).
    distances : ndarray or None
        Distances of the positions of each pattern (s, m, m).
    """

    size: int
    rows: np.ndarray
    member: np.ndarray
    counts: np.ndarray
    levels: np.ndarray
    groups: np.ndarray
    distances: np.ndarray | None

    @property
    def n_patterns(self) -> int:
        return len(self.counts)

    @property
    def starts(self) -> np.ndarray:
        """First subject of every pattern (s,)."""
        return np.concatenate([[0], np.cumsum(self.counts[:-1])]).astype(np.intp)

    def take(self, at: np.ndarray) -> PatternBatch:
        """Some patterns, for what a structure asks of them; the subjects stay as they are."""
        distances = None if self.distances is None else self.distances[at]
        return replace(
            self, counts=self.counts[at], levels=self.levels[at], groups=self.groups[at], distances=distances
        )

    def sum_by_pattern(self, values: np.ndarray) -> np.ndarray:
        """Sums (s, ...) of values (subjects, ...)."""
        if self.n_patterns == len(values):
            return values
        return np.add.reduceat(values, self.starts, axis=0)


@dataclass(frozen=True, eq=False)
class SubjectRows:
    """The rows of a model by subject, level and group of subjects.

    Attributes
    ----------
    subjects : ndarray
        Subject of each row (n,).
    codes : ndarray
        Level of each row (n,).
    groups : ndarray
        Group of each row (n,).
    batches : tuple of PatternBatch
    positions : ndarray or None
        Coordinates (n, d), for structures of distance.
    """

    subjects: np.ndarray
    codes: np.ndarray
    groups: np.ndarray
    batches: tuple[PatternBatch, ...]
    positions: np.ndarray | None = None

    @property
    def nobs(self) -> int:
        return len(self.subjects)

    def on_rows(self, rows: np.ndarray, subjects: np.ndarray | None = None) -> SubjectRows:
        """Some rows (m,), with other subjects (m,) if given: copies of a subject are different subjects."""
        if subjects is None:
            subjects = np.unique(self.subjects[rows], return_inverse=True)[1].ravel()
        positions = None if self.positions is None else self.positions[rows]
        return subject_rows(subjects, self.codes[rows], self.groups[rows], positions)

    @property
    def n_patterns(self) -> int:
        return sum(batch.n_patterns for batch in self.batches)


def subject_rows(
    subjects: np.ndarray, codes: np.ndarray, groups: np.ndarray | None = None, positions: np.ndarray | None = None
) -> SubjectRows:
    """Find the patterns.

    Parameters
    ----------
    subjects, codes : ndarray
        Subject and level of every row (n,), integers from 0.
    groups : ndarray, optional
        Group of every row (n,), the same for all rows of a subject.
    positions : ndarray, optional
        Coordinates (n, d), for structures of distance; subjects at the same relative positions share a pattern.

    Returns
    -------
    SubjectRows
    """
    n = len(subjects)
    subjects, codes = np.asarray(subjects, dtype=np.int64), np.asarray(codes, dtype=np.int64)
    groups = np.zeros(n, dtype=np.int64) if groups is None else np.asarray(groups, dtype=np.int64)
    order = np.lexsort((codes, subjects))
    count = np.bincount(subjects)
    first = np.concatenate([[0], np.cumsum(count)[:-1]])
    batches = []
    for size in np.unique(count[count > 0]):
        at = np.flatnonzero(count == size)
        rows = order[first[at][:, None] + np.arange(size)]
        batches.append(_batch(int(size), rows, codes, groups, positions))
    return SubjectRows(subjects, codes, groups, tuple(batches), positions)


def _batch(
    size: int, rows: np.ndarray, codes: np.ndarray, groups: np.ndarray, positions: np.ndarray | None
) -> PatternBatch:
    group = groups[rows[:, 0]]
    if positions is None:
        keys = np.column_stack([group, codes[rows]])
    else:
        relative = positions[rows] - positions[rows[:, :1]]
        spread = np.abs(relative).max(initial=0.0) or 1.0
        keys = np.column_stack([group, np.round(relative.reshape(len(rows), -1) / spread, _DIGITS)])
    _, first, member = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    member = member.ravel()
    order = np.argsort(member, kind="stable")
    distances = None
    if positions is not None:
        at = positions[rows[first]]
        distances = np.sqrt(np.square(at[:, :, None] - at[:, None]).sum(axis=3))
    return PatternBatch(
        size,
        rows[order],
        member[order],
        np.bincount(member, minlength=len(first)).astype(float),
        codes[rows[first]],
        group[first],
        distances,
    )


def limits_of_range(batches: Sequence[PatternBatch]) -> tuple[float, float]:
    """Limits of the log of a range for these positions, see `range_limits`."""
    found = [batch.distances.ravel() for batch in batches if batch.distances is not None]
    return range_limits(np.concatenate(found) if found else np.zeros(0))


def median_distance(batches: Sequence[PatternBatch]) -> float:
    """Median distance of two rows of one subject, over the patterns; 0 where no subject has two."""
    found = []
    for batch in batches:
        if batch.distances is not None and batch.size > 1:
            upper = np.triu_indices(batch.size, 1)
            found.append(batch.distances[:, upper[0], upper[1]].ravel())
    values = np.concatenate(found) if found else np.zeros(0)
    values = values[values > 0.0]
    return float(np.median(values)) if values.size else 0.0
