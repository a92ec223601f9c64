"""The data of a selection model as arrays, checked once and sorted by cluster."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from mvmise_sm.blame import refuse_complex


@dataclass(frozen=True)
class Blocks:
    """Outcome-by-cluster blocks of one kind, ordered by cluster.

    Attributes
    ----------
    cluster, outcome : ndarray of int, (m,)
        Position of every block.
    mean : ndarray, (m,)
        Mean of the observed values of the block; zero for missing blocks.
    x_mean : ndarray, (m, p)
        Mean of the fixed-effects rows of the block.
    z_mean : ndarray, (m, q)
        Mean of the random-effects rows of the block.
    covariate : ndarray, (m,)
        Mean of the missingness covariate; zero when there is none.
    """

    cluster: np.ndarray
    outcome: np.ndarray
    mean: np.ndarray
    x_mean: np.ndarray
    z_mean: np.ndarray
    covariate: np.ndarray

    def __len__(self) -> int:
        return self.cluster.size


@dataclass(frozen=True)
class SelectionData:
    """Outcomes, designs and clusters of a selection model, rows sorted by cluster.

    Build it with :func:`selection_data`, which checks the input.

    Attributes
    ----------
    Y : ndarray, (N, K)
        Outcomes, NaN where missing.
    X : ndarray, (N, K, p)
        Fixed-effects rows of every outcome; equal over outcomes when the design is common.
    Z : ndarray, (N, K, q)
        Random-effects rows; q = 0 is allowed (model b brings its own).
    cluster : ndarray of int, (N,)
        Cluster of every row, 0 .. n_clusters - 1, non-decreasing, numbered by first appearance.
    first : ndarray of bool, (N,)
        True for the first sample of every cluster in the original row order.
    cov_miss : ndarray, (N, K) or None
        Missingness covariate.
    order : ndarray of int, (N,)
        Original position of every sorted row.
    labels : tuple
        Original label of every cluster.
    common_design, common_cov : bool
        Whether the design and the missingness covariate were given once for all outcomes.
    """

    Y: np.ndarray
    X: np.ndarray
    Z: np.ndarray
    cluster: np.ndarray
    first: np.ndarray
    cov_miss: np.ndarray | None
    order: np.ndarray
    labels: tuple
    common_design: bool
    common_cov: bool

    @property
    def n_rows(self) -> int:
        return self.Y.shape[0]

    @property
    def n_outcomes(self) -> int:
        return self.Y.shape[1]

    @property
    def n_clusters(self) -> int:
        return len(self.labels)

    @cached_property
    def starts(self) -> np.ndarray:
        """First sorted row of every cluster, (n_clusters,)."""
        return np.flatnonzero(np.r_[True, np.diff(self.cluster) > 0])

    @cached_property
    def sizes(self) -> np.ndarray:
        """Samples per cluster, (n_clusters,)."""
        return np.diff(np.r_[self.starts, self.n_rows])

    @cached_property
    def observed(self) -> np.ndarray:
        """True where an outcome was seen, (N, K)."""
        return ~np.isnan(self.Y)

    @cached_property
    def block_missing(self) -> np.ndarray:
        """True where the whole block of an outcome in a cluster is missing, (n_clusters, K)."""
        return np.add.reduceat(self.observed.astype(int), self.starts, axis=0) == 0

    def cluster_sum(self, rows: np.ndarray) -> np.ndarray:
        """Sum the leading axis within clusters."""
        return np.add.reduceat(rows, self.starts, axis=0)

    def cluster_mean(self, rows: np.ndarray) -> np.ndarray:
        """Average the leading axis within clusters."""
        return self.cluster_sum(rows) / self.sizes.reshape((-1,) + (1,) * (rows.ndim - 1))

    def _blocks(self, mask: np.ndarray) -> Blocks:
        cluster, outcome = np.nonzero(mask)
        filled = np.where(self.observed, self.Y, 0.0)
        counts = self.cluster_sum(self.observed.astype(float))
        means = self.cluster_sum(filled) / np.maximum(counts, 1.0)
        cov = np.zeros_like(means) if self.cov_miss is None else self.cluster_mean(self.cov_miss)
        pick = (cluster, outcome)
        return Blocks(
            cluster, outcome, means[pick], self.cluster_mean(self.X)[pick], self.cluster_mean(self.Z)[pick], cov[pick]
        )

    @cached_property
    def missing_blocks(self) -> Blocks:
        """Blocks that are missing altogether."""
        return self._blocks(self.block_missing)

    @cached_property
    def observed_blocks(self) -> Blocks:
        """Blocks with at least one value; their mean is over the values seen."""
        return self._blocks(~self.block_missing)

    def unsort(self, rows: np.ndarray) -> np.ndarray:
        """Bring sorted rows back into the order the user gave."""
        out = np.empty_like(rows)
        out[self.order] = rows
        return out

    def replace_design(self, X: np.ndarray) -> SelectionData:
        """Return the same data with another (sorted) fixed-effects design, (N, K, p)."""
        return SelectionData(
            self.Y,
            X,
            self.Z,
            self.cluster,
            self.first,
            self.cov_miss,
            self.order,
            self.labels,
            self.common_design,
            self.common_cov,
        )


def selection_data(
    Y: Any,
    X: Any,
    groups: Any,
    *,
    random_columns: tuple[int, ...] = (0,),
    Z: np.ndarray | None = None,
    cov_miss: np.ndarray | None = None,
    outcome_names: list[str] | None = None,
    exog_names: list[str] | None = None,
) -> SelectionData:
    """Check the input of a selection model and sort it by cluster.

    Parameters
    ----------
    Y : array_like, (N, K) or (N,)
        Outcomes, NaN where missing.
    X : array_like, (N, p) or (N * K, p)
        Design common to all outcomes, or stacked by outcome (all rows of the first outcome first).
    groups : array_like, (N,)
        Cluster labels of any type, in any order.
    random_columns : sequence of int, optional
        Columns of `X` with an independent random effect each (model e); ignored when `Z` is given.
    Z : array_like, (N, q) or (N * K, q), optional
        Random-effects design instead of columns of `X`.
    cov_miss : array_like, (N,) or (N, K) or (N * K,), optional
        Covariate of the missing-data mechanism, common or outcome specific.
    outcome_names, exog_names : sequence of str, optional
        Names for the messages.

    Returns
    -------
    SelectionData

    Raises
    ------
    ValueError
        If the shapes disagree, values are not finite numbers, a cluster label is missing, there is one cluster only,
        an outcome is missing everywhere or the design is rank deficient.
    """
    Y = _outcomes(Y, outcome_names)
    N, K = Y.shape
    codes, labels = _clusters(groups, N)
    X3, common = _design(X, N, K, "exog", exog_names)
    Z3 = _design(Z, N, K, "the random-effects design")[0] if Z is not None else X3[:, :, list(random_columns)]
    cov, common_cov = _covariate(cov_miss, N, K)
    check_rank(X3, ~np.isnan(Y), exog_names)
    order = np.argsort(codes, kind="stable")
    cluster = codes[order]
    return SelectionData(
        Y=Y[order],
        X=np.ascontiguousarray(X3[order]),
        Z=np.ascontiguousarray(Z3[order]),
        cluster=cluster,
        first=np.r_[True, np.diff(cluster) > 0],
        cov_miss=None if cov is None else cov[order],
        order=order,
        labels=labels,
        common_design=common,
        common_cov=common_cov,
    )


def _numbers(values: Any, what: str) -> np.ndarray:
    try:
        refuse_complex(what, values)
        return np.array(values, dtype=float)
    except (TypeError, ValueError):
        raise ValueError(f"{what} must be numeric; found values of type {np.asarray(values).dtype}.") from None


def _outcomes(Y: Any, names: list[str] | None) -> np.ndarray:
    Y = _numbers(Y, "The outcomes")
    Y = Y[:, None] if Y.ndim == 1 else Y
    if Y.ndim != 2 or Y.size == 0:
        raise ValueError(f"The outcomes must be a samples x outcomes array; found shape {Y.shape}.")
    names = [str(k) for k in range(Y.shape[1])] if names is None else list(names)
    for name, bad in zip(names, np.isinf(Y).any(axis=0), strict=True):
        if bad:
            raise ValueError(
                f"Outcome {name!r} has infinite values; only finite numbers and NaN (missing) are allowed."
            )
    for name, bad in zip(names, np.isnan(Y).all(axis=0), strict=True):
        if bad:
            raise ValueError(f"Outcome {name!r} is missing in every sample; leave it out of the model.")
    return Y


def _clusters(groups: Any, n_rows: int) -> tuple[np.ndarray, tuple]:
    groups = list(groups)
    if len(groups) != n_rows:
        raise ValueError(f"The cluster column has {len(groups)} values for {n_rows} samples.")
    numbers: dict = {}
    codes = np.empty(n_rows, dtype=np.intp)
    for row, label in enumerate(groups):
        # NaN, NaT and pandas' NA are the values that differ from themselves (or refuse to say)
        if label is None or not _equals_itself(label):
            raise ValueError(f"The cluster column has a missing value in row {row}; every sample needs a cluster.")
        codes[row] = numbers.setdefault(label, len(numbers))
    if len(numbers) < 2:
        raise ValueError("The cluster column has one level only; a mixed model needs at least two clusters.")
    return codes, tuple(numbers)


def _equals_itself(label: int) -> bool:
    try:
        return bool(label == label)
    except TypeError:
        return False


def _design(X: Any, N: int, K: int, what: str, names: list[str] | None = None) -> tuple[np.ndarray, bool]:
    X = _numbers(X, f"The columns of {what}")
    X = X[:, None] if X.ndim == 1 else X
    if X.shape[0] == N * K and K > 1:
        out, common = X.reshape(K, N, -1).transpose(1, 0, 2), False
    elif X.shape[0] == N:
        out, common = np.repeat(X[:, None, :], K, axis=1), True
    else:
        raise ValueError(
            f"{what} has {X.shape[0]} rows; it needs {N} (common to all outcomes) or {N * K} (stacked by outcome)."
        )
    if not np.isfinite(X).all():
        column = int(np.flatnonzero(~np.isfinite(X).all(axis=0))[0])
        name = column if names is None else names[column]
        raise ValueError(f"Column {name!r} of {what} has missing or infinite values; only finite numbers are allowed.")
    return out, common


def _covariate(cov: np.ndarray | None, N: int, K: int) -> tuple[np.ndarray | None, bool]:
    if cov is None:
        return None, True
    cov = _numbers(cov, "The missingness covariate")
    if not np.isfinite(cov).all():
        raise ValueError("The missingness covariate has missing or infinite values; only finite numbers are allowed.")
    if cov.shape in ((N,), (N, 1)):
        return np.repeat(cov.reshape(N, 1), K, axis=1), True
    if cov.shape == (N, K):
        return cov, False
    if cov.size == N * K:
        return cov.reshape(K, N).T, False
    raise ValueError(
        f"The missingness covariate has shape {cov.shape}; it needs {N} values, or {N * K} stacked by outcome."
    )


def check_rank(X3: np.ndarray, observed: np.ndarray, names: list[str] | None = None) -> None:
    """Refuse a design (N, K, p) whose columns are dependent where outcomes are observed (N, K)."""
    rows = X3[observed]
    scale = np.sqrt((rows**2).mean(axis=0))
    triangle = np.linalg.qr(rows / np.where(scale > 0, scale, 1.0), mode="r")
    if rows.shape[0] < rows.shape[1]:
        raise ValueError(f"There are {rows.shape[1]} fixed effects but only {rows.shape[0]} observed values.")
    weak = np.flatnonzero(np.abs(np.diag(triangle)) < 1e-9 * np.sqrt(rows.shape[0]))
    if weak.size:
        name = int(weak[0]) if names is None else names[int(weak[0])]
        raise ValueError(
            f"Column {name!r} of exog is constant or a combination of the other columns where outcomes are observed; "
            "the fixed effects are not identified."
        )


# spread of units, as a share of that of the values, below which it is none
NO_SPREAD = 1e-6


def spread_of(units: np.ndarray, data: SelectionData) -> float:
    """Standard deviation of the seen units of a mechanism (m,), of the seen values where the units do not vary."""
    whole = float(np.nanstd(data.Y))
    spread = float(np.std(units)) if len(units) else 0.0
    return spread if spread > NO_SPREAD * whole else whole if whole > 0.0 else 1.0
