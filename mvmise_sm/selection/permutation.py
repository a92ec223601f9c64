"""Permutation tests of fixed effects: which rows are exchanged, one warm-started refit, and the p-value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mvmise_sm.selection.data import SelectionData
from mvmise_sm.selection.likelihood import SelectionLikelihood
from mvmise_sm.selection.maximise import Maximum, observed_information
from mvmise_sm.selection.objective import PenalisedObjective
from mvmise_sm.selection.solve import solve


def row_permutation(data: SelectionData, rng: np.random.Generator, within: np.ndarray | None) -> np.ndarray:
    """A random permutation of the sorted rows, inside strata when `within` (N,) gives their codes."""
    if within is None:
        return rng.permutation(data.n_rows)
    out = np.arange(data.n_rows)
    for stratum in np.unique(within):
        rows = np.flatnonzero(within == stratum)
        out[rows] = rng.permutation(rows)
    return out


def cluster_permutation(data: SelectionData, rng: np.random.Generator) -> np.ndarray:
    """Rows whose clusters are exchanged as a whole: every row of a cluster gets the first row of another one, (N,)."""
    return data.starts[rng.permutation(data.n_clusters)][data.cluster]


def between_clusters(data: SelectionData, columns: np.ndarray) -> np.ndarray:
    """Which columns of the design are constant within every cluster, bool (m,)."""
    own = data.X[:, :, columns]
    return (own[data.starts][data.cluster] == own).all(axis=(0, 1))


def permuted_design(data: SelectionData, columns: np.ndarray, rows: np.ndarray) -> SelectionData:
    """Move the tested columns of the design to other samples; everything else stays in place.

    Parameters
    ----------
    data : SelectionData
    columns : ndarray of int, (m,)
    rows : ndarray of int, (N,) or (2, N)
        Where every row's values come from; with a second line, that of columns that are constant within clusters.
    """
    X = data.X.copy()
    if rows.ndim == 1:
        X[:, :, columns] = data.X[rows][:, :, columns]
        return data.replace_design(X)
    outer = between_clusters(data, columns)
    for line, chosen in zip(rows, (columns[~outer], columns[outer]), strict=True):
        X[:, :, chosen] = data.X[line][:, :, chosen]
    return data.replace_design(X)


def permutation_pvalues(observed: np.ndarray, permuted: np.ndarray, *, mvmise_compat: bool = False) -> np.ndarray:
    """Two-sided p-values from absolute statistics.

    Parameters
    ----------
    observed : ndarray, (m,)
    permuted : ndarray, (n, m)
        Rows with NaN (failed refits) count as at least as extreme.
    mvmise_compat : bool, optional
        R's ``b / n`` instead of ``(b + 1) / (n + 1)``, which is never zero.
    """
    extreme = ~(np.abs(permuted) < np.abs(observed)[None, :] * (1.0 - 1e-12))
    count, n = extreme.sum(axis=0), len(permuted)
    return count / n if mvmise_compat else (count + 1.0) / (n + 1.0)


@dataclass(frozen=True)
class PermutedFit:
    """One refit of a maximum-likelihood fit: design in, Wald statistics of the tested columns out.

    Attributes
    ----------
    build : callable
        ``data -> objective``.
    data : SelectionData
    columns : ndarray of int, (m,)
        Tested columns.
    start : ndarray, (k,)
        The fit without the tested columns, which no permutation changes.
    metric : ndarray, (k, k)
        Information there.
    """

    build: Callable[[SelectionData], PenalisedObjective]
    data: SelectionData
    columns: np.ndarray
    start: np.ndarray
    metric: np.ndarray

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Statistics (m,) under one permutation of the rows; NaN when the fit fails."""
        objective = self.build(permuted_design(self.data, self.columns, rows))
        fit = solve(objective, start=self.start, metric=self.metric, information=False)
        if not fit.maximum.converged:
            return np.full(self.columns.size, np.nan)
        return wald_statistics(fit.objective, fit.maximum.theta, self.columns)


def wald_statistics(objective: PenalisedObjective, theta: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Fixed effects over standard errors that take all other parameters as known, (m,).

    A permutation test is valid with any statistic; this one needs 2p gradients instead of the whole information.
    """
    likelihood: SelectionLikelihood = objective.likelihood
    cut = likelihood.slices["beta"]
    free = np.zeros(theta.size, bool)
    free[cut] = True
    scale = 1.0 / np.sqrt(np.maximum(np.diag(likelihood.metric(theta))[cut], 1e-12))
    info = observed_information(objective, theta, scale, free)
    try:
        variance = np.diag(np.linalg.inv(info))[columns]
    except np.linalg.LinAlgError:
        return np.full(columns.size, np.nan)
    with np.errstate(invalid="ignore"):
        return theta[cut][columns] / np.sqrt(variance)


def permuted_fit(
    build: Callable[[SelectionData], PenalisedObjective], data: SelectionData, maximum: Maximum, columns: np.ndarray
) -> PermutedFit:
    """Prepare the refits: fit the model without the tested columns and keep its information as metric.

    Parameters
    ----------
    build : callable
    data : SelectionData
    maximum : Maximum
        The fit with the tested columns.
    columns : ndarray of int
    """
    objective = build(data)
    cut = objective.likelihood.slices["beta"]
    start = maximum.theta.copy()
    start[cut][columns] = 0.0
    free = np.ones(start.size, bool)
    free[np.arange(start.size)[cut][columns]] = False
    metric = objective.likelihood.metric(start)
    if maximum.information is not None and np.diag(maximum.information).min() > 0:
        metric = maximum.information
    null = solve(objective, start=start, metric=metric, free=free, information=False).maximum
    return PermutedFit(build, data, columns, null.theta, metric)
