"""What the steps of an experiment do to its arrays: choice of spectra, normalisation, summaries of proteins.

Rows are one spectrum, peptide or protein in one block of channels; values are (n_rows, n_channels) with NaN where
nothing was measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

__all__ = ["best_rows", "group_codes", "median_normalised", "reference_normalised", "stacked_median", "summarised"]

_POLISH_SWEEPS = 10
_POLISH_TOLERANCE = 0.01


def group_codes(*keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number the distinct combinations of integer codes, in sorted order.

    Parameters
    ----------
    *keys : ndarray of int (n,)
        Not negative.

    Returns
    -------
    codes : ndarray of int (n,)
    first : ndarray of int (n_groups,)
        A row of each group, its first.
    """
    combined = np.zeros(len(keys[0]), dtype=np.int64)
    for key in keys:
        combined = combined * (int(key.max(initial=0)) + 1) + key
        # numbering in between keeps the product of many sizes within 64 bits
        combined = np.unique(combined, return_inverse=True)[1]
    first = np.full(int(combined.max(initial=-1)) + 1, len(combined))
    np.minimum.at(first, combined, np.arange(len(combined)))
    return combined, first


def best_rows(groups: np.ndarray, criteria: Sequence[np.ndarray]) -> np.ndarray:
    """One row of each group: the smallest criteria, compared in order, then the first row.

    Parameters
    ----------
    groups : ndarray of int (n,)
    criteria : sequence of ndarray (n,)
        Missing ones count as largest.

    Returns
    -------
    ndarray of int (n_groups,)
        Rows in their order.
    """
    order = np.lexsort((np.arange(len(groups)), *reversed(list(criteria)), groups))
    changes = np.ones(len(order), bool)
    changes[1:] = groups[order][1:] != groups[order][:-1]
    return np.sort(order[changes])


def stacked_median(values: np.ndarray, axis: int) -> np.ndarray:
    """Median along an axis without NaN; NaN where nothing is left."""
    ordered = np.sort(np.moveaxis(values, axis, -1), axis=-1)
    count = np.isfinite(ordered).sum(axis=-1)[..., None]
    low = np.take_along_axis(ordered, np.maximum((count - 1) // 2, 0), axis=-1)
    high = np.take_along_axis(ordered, np.maximum(np.minimum(count // 2, ordered.shape[-1] - 1), 0), axis=-1)
    return np.where(count > 0, 0.5 * (low + high), np.nan)[..., 0]


def _by_size(groups: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Groups with the same number of rows: their codes (g,), and their rows (g, size)."""
    order = np.argsort(groups, kind="stable")
    sizes = np.bincount(groups)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    for size in np.unique(sizes[sizes > 0]):
        codes = np.flatnonzero(sizes == size)
        yield codes, order[starts[codes][:, None] + np.arange(size)]


def summarised(values: np.ndarray, groups: np.ndarray, how: str) -> np.ndarray:
    """Summarise the rows of each group, channel by channel.

    Parameters
    ----------
    values : ndarray (n_rows, n_channels)
        log2 intensities; for ``"sum"`` and ``"median"`` of raw ones see `how`.
    groups : ndarray of int (n_rows,)
    how : {"sum", "median", "log_sum", "median_polish"}
        Sum and median of the values as they are; the logarithm of the sum of ``2**values``; overall level plus channel
        effect of Tukey's median polish.

    Returns
    -------
    ndarray (n_groups, n_channels)
    """
    out = np.full((int(groups.max(initial=-1)) + 1, values.shape[1]), np.nan)
    for codes, rows in _by_size(groups):
        stack = values[rows]
        if how == "median":
            out[codes] = stacked_median(stack, axis=1)
        elif how == "median_polish":
            out[codes] = _polished(stack)
        else:
            seen = np.isfinite(stack)
            linear = np.where(seen, np.exp2(np.where(seen, stack, 0.0)) if how == "log_sum" else stack, 0.0).sum(axis=1)
            with np.errstate(divide="ignore"):
                total = np.log2(linear) if how == "log_sum" else linear
            out[codes] = np.where(seen.any(axis=1), total, np.nan)
    return out


def _polished(stack: np.ndarray) -> np.ndarray:
    """Median polish of tables (g, rows, channels): the channels' levels (g, channels).

    Rows and columns are swept by turns, rows first, until the sum of absolute residuals settles (Tukey 1977, chapter
    11), at most ten times.
    """
    residual = stack.copy()
    row = np.where(np.isfinite(stack).any(axis=2), 0.0, np.nan)
    column = np.where(np.isfinite(stack).any(axis=1), 0.0, np.nan)
    before = np.zeros(len(stack))
    active = np.arange(len(stack))
    for _ in range(_POLISH_SWEEPS):
        part = residual[active]
        delta = stacked_median(part, axis=2)
        part -= delta[:, :, None]
        row[active] += delta
        delta = stacked_median(part, axis=1)
        part -= delta[:, None, :]
        column[active] += delta
        residual[active] = part
        total = np.nansum(np.abs(part), axis=(1, 2))
        moving = np.abs(total - before[active]) >= _POLISH_TOLERANCE * total
        before[active] = total
        active = active[moving & (total > 0.0)]
        if not active.size:
            break
    return column + stacked_median(row, axis=1)[:, None]


def median_normalised(values: np.ndarray, block: np.ndarray) -> np.ndarray:
    """Shift every sample to the mean of its block's sample medians.

    Parameters
    ----------
    values : ndarray (n_rows, n_channels)
    block : ndarray of int (n_rows,)

    Returns
    -------
    ndarray (n_rows, n_channels)
    """
    out = values.copy()
    for b in np.unique(block):
        rows = np.flatnonzero(block == b)
        medians = stacked_median(values[rows], axis=0)
        known = medians[np.isfinite(medians)]
        if known.size:
            out[rows] = values[rows] - medians + known.mean()
    return out


def reference_normalised(
    values: np.ndarray, features: np.ndarray, reference: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Subtract each row's mean over its reference channels, and add the feature's mean of those over all blocks.

    Parameters
    ----------
    values : ndarray (n_rows, n_channels)
    features : ndarray of int (n_rows,)
    reference : ndarray of bool (n_rows, n_channels)

    Returns
    -------
    values : ndarray (n_rows, n_channels)
        NaN in rows whose reference was not measured.
    level : ndarray (n_rows,)
        The rows' own reference levels.
    """
    seen = reference & np.isfinite(values)
    count = seen.sum(axis=1)
    level = np.where(count > 0, np.where(seen, values, 0.0).sum(axis=1) / np.maximum(count, 1), np.nan)
    known = np.isfinite(level)
    size = int(features.max(initial=-1)) + 1
    n = np.bincount(features[known], minlength=size)
    mean = np.bincount(features[known], weights=level[known], minlength=size) / np.maximum(n, 1)
    return values - level[:, None] + mean[features][:, None], level
