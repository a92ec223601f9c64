"""Two-way tables of residuals, outcomes by samples within clusters: moments and tests of what varies in them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import fdtrc

from mvmise_sm.selection.data import SelectionData
from mvmise_sm.selection.likelihood import least_squares

__all__ = ["MeanSquares", "mean_squares", "spread_moments", "spread_tests"]


@dataclass(frozen=True)
class MeanSquares:
    """Two-way tables of residuals by cluster, after the means of outcomes and samples.

    Attributes
    ----------
    blocks, samples, rest : float
        Mean squares between outcomes, between samples and of what is left; NaN without degrees of freedom.
    degrees : tuple of int
        Their degrees of freedom.
    size, width : float
        Samples of a cluster and seen outcomes of a sample, on average.
    total : float
        Mean square of all residuals.
    """

    blocks: float
    samples: float
    rest: float
    degrees: tuple[int, int, int]
    size: float
    width: float
    total: float


def mean_squares(data: SelectionData) -> MeanSquares:
    """The tables of the outcomes that are complete in a cluster; batch effects are those that outcomes do not share."""
    _, resid = least_squares(data)
    seen = data.observed
    # an outcome's own level is no batch effect
    count = np.maximum(seen.sum(axis=0), 1)
    resid = np.where(seen, resid - resid.sum(axis=0) / count, 0.0)
    sums, degrees = np.zeros(3), np.zeros(3, dtype=int)
    for start, size in zip(data.starts, data.sizes, strict=True):
        own = slice(start, start + size)
        full = seen[own].all(axis=0)
        if full.sum() < 2 or size < 2:
            continue
        table = resid[own][:, full]
        k = table.shape[1]
        by_row, by_column, all_ = table.mean(axis=1), table.mean(axis=0), table.mean()
        inner = table - by_row[:, None] - by_column + all_
        squares = (size * ((by_column - all_) ** 2).sum(), k * ((by_row - all_) ** 2).sum(), (inner**2).sum())
        sums += squares
        degrees += (k - 1, size - 1, (size - 1) * (k - 1))
    means = np.where(degrees > 0, sums / np.maximum(degrees, 1), np.nan)
    total = float((resid**2).sum() / max(seen.sum(), 1))
    wide = max(float(seen.sum() / data.n_rows), 1.0)
    known = (int(degrees[0]), int(degrees[1]), int(degrees[2]))
    blocks, samples, rest = (float(v) for v in means)
    return MeanSquares(blocks, samples, rest, known, float(np.mean(data.sizes)), wide, total)


def spread_moments(data: SelectionData) -> tuple[float, float, float]:
    """Moment estimates of the variances of own batch effects, of samples, and of what is left."""
    found = mean_squares(data)
    if not found.degrees[2] or data.n_outcomes < 2:
        return 0.1 * found.total, 0.1 * found.total, 0.8 * found.total
    blocks, samples = max(found.blocks - found.rest, 0.0), max(found.samples - found.rest, 0.0)
    return blocks / found.size, samples / found.width, found.rest


def spread_tests(data: SelectionData) -> tuple[float, float]:
    """P-values of the F tests of own batch effects and of samples; one where there is nothing to test."""
    found = mean_squares(data)
    out = []
    for square, degrees in zip((found.blocks, found.samples), found.degrees, strict=False):
        known = degrees > 0 and found.degrees[2] > 0 and found.rest > 0.0
        out.append(float(fdtrc(degrees, found.degrees[2], square / found.rest)) if known else 1.0)
    return out[0], out[1]
