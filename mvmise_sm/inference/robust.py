"""Cluster-robust tests of linear mixed models: clusters checked, covariance formed, degrees of freedom as a law."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from mvmise_sm.core.threads import blas_threads
from mvmise_sm.core.uncertainty.robust import ADJUSTMENTS, Block, ClusterRobust, cluster_robust
from mvmise_sm.design.grouping import encode_labels
from mvmise_sm.exceptions import DataError, DataWarning, NotAvailableError, OptionError
from mvmise_sm.inference.ddf import full_rank
from mvmise_sm.inference.fits import with_rows

__all__ = ["RobustDf", "checked_cov_type", "robust_covariance"]

_ZERO = 1e-12  # loadings of a relationship below this connect nothing
_CELLS = 4_000_000  # of blocks handled at a time


class RobustDf:
    """Wald tests with a robust covariance: Satterthwaite's t, and F after Hotelling's T squared (AHT, HTZ).

    Parameters
    ----------
    robust : ClusterRobust
    label : str
        For notes.

    References
    ----------
    Pustejovsky and Tipton (2018), Journal of Business and Economic Statistics 36.
    """

    def __init__(self, robust: ClusterRobust, label: str) -> None:
        self.cov = robust.cov
        self.robust = robust
        self.label = label

    def df(self, contrasts: np.ndarray) -> np.ndarray:
        """Degrees of freedom of each row of `contrasts` (q, p), taken by itself."""
        return self.robust.df(contrasts)

    def f_test(self, contrasts: np.ndarray, values: np.ndarray) -> tuple[float, int, float]:
        """As in `mvmise_sm.inference.ddf.PlainDf`; NaN, with a warning, where there are too few clusters."""
        contrasts, values = full_rank(contrasts, values)
        statistic, df, eta = self.robust.hotelling(contrasts, values)
        if np.isnan(df):
            warnings.warn(
                f"HTZ: {self.robust.n_clusters} clusters are too few for {len(values)} contrasts (eta {eta:.2g})",
                DataWarning,
                stacklevel=2,
            )
        return statistic, len(values), df


def checked_cov_type(cov_type: Any, use_correction: bool = True) -> str:
    """One of `ADJUSTMENTS`; statsmodels' ``"cluster"`` is CR1S, without correction CR0.

    Raises
    ------
    NotAvailableError
        If it is none of them.
    """
    if cov_type == "cluster":
        return "CR1S" if use_correction else "CR0"
    folded = {name.lower(): name for name in ADJUSTMENTS}
    if not isinstance(cov_type, str) or cov_type.lower() not in folded:
        raise NotAvailableError(
            f"cov_type={cov_type!r} is not available for linear mixed models; allowed are 'nonrobust', 'cluster' and "
            f"{', '.join(map(repr, ADJUSTMENTS))}"
        )
    if cov_type in ADJUSTMENTS:
        return cov_type
    return folded[cov_type.lower()]


def robust_covariance(result: Any, adjustment: str, groups: Any) -> tuple[ClusterRobust, str]:
    """Cluster-robust covariance of a linear mixed model's fixed effects, and the name of the clusters.

    Parameters
    ----------
    result : LinearMixedModelResults
    adjustment : str
        See `mvmise_sm.core.uncertainty.robust.cluster_robust`.
    groups : str or array_like
        A column of the data, a grouping factor, or labels (nobs,).

    Raises
    ------
    OptionError, DataError
        If the clusters are not given, are fewer than two, or cut through levels of the random effects.
    """
    result = with_rows(result)
    if result.priors is not None:
        raise OptionError("robust covariances are defined for linear mixed models without priors")
    codes, name = _clusters(result, adjustment, groups)
    _check_nested(result, codes, name)
    used = np.flatnonzero(np.ones(result.nobs) if result.model.weights is None else result.model.weights)
    bread = np.asarray(result.model_cov_params())
    with blas_threads(0):
        robust = cluster_robust(_blocks(result, codes, used), bread, adjustment, len(used))
    return robust, name


def _clusters(result: Any, adjustment: str, groups: Any) -> tuple[np.ndarray, str]:
    """Codes (nobs,) of the clusters and their name."""
    term = result.residual_term()
    if groups is None and term is not None and term.subject:
        # subjects, or what they lie in where its random effects make them dependent
        groups = result.grouping().name
    if groups is None:
        raise OptionError(f"cov_type {adjustment!r} needs groups=, the column or labels of the clusters")
    factors = {factor.name: factor for factor in result.grouping_factors()}
    if isinstance(groups, str):
        frame = getattr(result.model.data, "frame", None)
        if groups in factors:
            return np.asarray(factors[groups].codes), groups
        if frame is None or groups not in frame.columns:
            known = [*factors, *([] if frame is None else map(str, frame.columns))]
            shown = ", ".join(dict.fromkeys(known))
            raise OptionError(f"groups={groups!r} is not a column of the data; they are {shown}")
        values, name = frame[groups], groups
    else:
        values, name = groups, str(getattr(groups, "name", None) or "groups")
    if np.shape(values) != (result.nobs,):
        raise DataError(f"groups has shape {np.shape(values)}, but the fit has {result.nobs} rows")
    codes, levels = encode_labels(values, f"groups {name!r}")
    if (codes < 0).any():
        raise DataError(f"groups {name!r} is missing in {int((codes < 0).sum())} rows of the fit")
    if len(levels) < 2:
        raise DataError(f"groups {name!r} has one cluster; robust covariances need several")
    return codes, name


def _check_nested(result: Any, codes: np.ndarray, name: str) -> None:
    related = [factor for factor in result.model.random_effects.factors if factor.loaded]
    for factor in [*result.grouping_factors(), *related]:
        if factor.loaded:
            row, effect = np.nonzero(np.abs(factor.incidence()) > _ZERO)
            pairs = np.unique(np.column_stack([effect, codes[row]]), axis=0)
        else:
            pairs = np.unique(np.column_stack([factor.codes, codes]), axis=0)
        if len(pairs) > len(np.unique(pairs[:, 0])):
            raise OptionError(
                f"groups={name!r}: levels of {factor.name!r} occur in several clusters; robust covariances need "
                "random effects nested in the clusters"
            )


def _blocks(result: Any, codes: np.ndarray, used: np.ndarray) -> Iterator[Block]:
    """Clusters of one size together, in pieces that fit in memory."""
    model = result.model
    exog = np.asarray(model.exog, dtype=float)
    mean = exog @ np.asarray(result.params)
    resid = model.endog - (mean if model.offset is None else mean + model.offset)
    order = used[np.argsort(codes[used], kind="stable")]
    _, start, size = np.unique(codes[order], return_index=True, return_counts=True)
    for n in np.unique(size):
        rows = order[start[size == n][:, None] + np.arange(n)]
        step = max(1, _CELLS // int(n) ** 2)
        for first in range(0, len(rows), step):
            part = rows[first : first + step]
            yield Block(exog[part], result.response_cov(part), resid[part])
