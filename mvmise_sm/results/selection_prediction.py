"""Predictions of a selection model as frames: new samples, and the values that are missing."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import stats

from mvmise_sm.design.build import as_frame
from mvmise_sm.design.new_data import new_exog, new_random_rows
from mvmise_sm.exceptions import DataError, OptionError
from mvmise_sm.selection.prediction import posterior_moments

__all__ = ["SelectionPrediction", "missing_frame", "outcome_table", "predicted", "prediction"]


@dataclass(frozen=True, eq=False)
class OutcomeRows:
    """Samples to predict for.

    Attributes
    ----------
    exog : ndarray
        Fixed-effects rows by outcome (m, K, p).
    codes : ndarray or None
        Cluster of every sample in the order of the data's labels (m,), -1 for a new one; None without random effects.
    z : ndarray or None
        Random-effects rows (m, q).
    index : Index or None
        Labels of the samples.
    """

    exog: np.ndarray
    codes: np.ndarray | None
    z: np.ndarray | None
    index: pd.Index | None


@dataclass(frozen=True, eq=False)
class SelectionPrediction:
    """Predicted means of several outcomes with their uncertainty.

    Attributes
    ----------
    predicted_mean, se_mean : DataFrame
        (m, K)
    df : float
        Degrees of freedom of the intervals; infinite for the normal distribution.
    """

    predicted_mean: pd.DataFrame
    se_mean: pd.DataFrame
    df: float

    def conf_int(self, alpha: float = 0.05) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Lower and upper ends of the intervals, (m, K) each."""
        quantile = stats.norm.isf(0.5 * alpha) if np.isinf(self.df) else stats.t.isf(0.5 * alpha, self.df)
        half = quantile * self.se_mean
        return self.predicted_mean - half, self.predicted_mean + half

    def relabelled(self, labels) -> SelectionPrediction:
        """Return the same with other labels of the samples."""
        index = pd.Index(labels) if pd.api.types.is_list_like(labels) and np.ndim(labels) == 1 else None
        if index is None or len(index) != len(self.predicted_mean):
            raise OptionError(f"row_labels must be {len(self.predicted_mean)} labels, one for each sample")
        return replace(self, predicted_mean=self.predicted_mean.set_axis(index), se_mean=self.se_mean.set_axis(index))

    def summary_frame(self, alpha: float = 0.05) -> pd.DataFrame:
        """Return columns ``mean, mean_se, mean_ci_lower, mean_ci_upper``, one row for each sample and outcome."""
        lower, upper = self.conf_int(alpha)
        parts = {"mean": self.predicted_mean, "mean_se": self.se_mean, "mean_ci_lower": lower, "mean_ci_upper": upper}
        keys = pd.MultiIndex.from_product([lower.index, list(lower.columns)], names=[lower.index.name, "outcome"])
        return pd.DataFrame({name: part.to_numpy().ravel() for name, part in parts.items()}, index=keys)


def missing_frame(result, added: np.ndarray | None = None) -> pd.DataFrame:
    """Posterior moments of every missing value, with added variances (N, K) in the sorted order of the data."""
    design = result.model.design
    data, moments = design.data, result._moments()
    row, outcome = np.nonzero(~data.observed)
    position = data.order[row]
    order = np.lexsort((outcome, position))
    row, outcome, position = row[order], outcome[order], position[order]
    block = data.block_missing[data.cluster[row], outcome]
    labels = pd.Series(list(data.labels))
    variance = moments.sd**2 if added is None else moments.sd**2 + added
    return pd.DataFrame(
        {
            "row": design.endog.index[position],
            "group": labels.iloc[data.cluster[row]].to_numpy(),
            "outcome": np.asarray(result.model.outcome_names, dtype=object)[outcome],
            "kind": np.where(block, "block", "sporadic"),
            "mean": moments.mean[row, outcome],
            "sd": np.sqrt(variance[row, outcome]),
        }
    )


def predicted(result, exog, transform, random, allow_new_levels, which):
    """Means of new samples (m, K); see `SelectionResults.predict`."""
    rows = _rows(result.model, exog, transform, random, allow_new_levels, which)
    if exog is None and random == "all":
        return result.fittedvalues
    mean = rows.exog @ np.asarray(result.params)
    if rows.codes is not None:
        mean = mean + _effects(result._outcome.objective.likelihood, result.theta, rows)[0]
    return outcome_table(result.model, mean, rows.index)


def prediction(result, exog, transform, random, allow_new_levels, which) -> SelectionPrediction:
    """Means of new samples with standard errors; see `SelectionResults.get_prediction`."""
    rows = _rows(result.model, exog, transform, random, allow_new_levels, which)
    law, p = result.wald_law(), rows.exog.shape[-1]
    mean = rows.exog @ np.asarray(result.params)
    variance = np.einsum("mki,ij,mkj->mk", rows.exog, law.cov, rows.exog)
    if rows.codes is not None:
        if result._outcome.cov is None:
            raise OptionError("method='mvmise' has no covariance of its variances; use random='none' or method='ml'")
        likelihood, cov = result._outcome.objective.likelihood, result._outcome.cov.theta
        value, spread = _effects(likelihood, result.theta, rows)
        slopes = _effect_slopes(likelihood, result.theta, rows, np.diag(cov))
        whole = slopes.copy()
        whole[..., :p] += rows.exog
        # what the random effects add to the fixed effects' variance, which keeps its small-sample form
        added = np.einsum("mki,ij,mkj->mk", whole, cov, whole)
        added -= np.einsum("mki,ij,mkj->mk", rows.exog, cov[:p, :p], rows.exog)
        mean, variance = mean + value, variance + added + spread
    df = float(law.df(rows.exog.reshape(-1, p)).min()) if rows.exog.size else np.inf
    names, se = list(result.model.outcome_names), np.sqrt(np.maximum(variance, 0.0))
    return SelectionPrediction(pd.DataFrame(mean, rows.index, names), pd.DataFrame(se, rows.index, names), df)


def _rows(model, exog, transform, random, allow_new_levels, which) -> OutcomeRows:
    """Designs of new samples, those of the data by default."""
    if which not in ("mean", "linear"):
        raise OptionError(f"which must be 'mean' or 'linear', got {which!r}")
    if random not in ("all", "none"):
        raise OptionError(f"random must be 'all' or 'none', got {random!r}")
    data, formula = model.design.data, model.design.design
    if exog is None:
        codes, z = (data.unsort(data.cluster), data.unsort(data.Z[:, 0])) if random == "all" else (None, None)
        return OutcomeRows(data.unsort(data.X), codes, z, model.data.row_labels)
    if formula is None or not transform or isinstance(exog, (np.ndarray, list)):
        return _array_rows(model, exog)
    if not model.common_design and not model.design.outcome_effects:
        raise OptionError("predictions on a new frame need a design that is common to the outcomes")
    frame = as_frame(exog)
    common = new_exog(formula, frame)
    maps, K = model.design.outcome_maps(), len(model.outcome_names)
    rows = np.stack([common.to_numpy() @ each for each in (maps if len(maps) == K else maps * K)], axis=1)
    if random == "none":
        return OutcomeRows(rows, None, None, common.index)
    terms = new_random_rows(formula, frame, allow_new_levels)
    places = {label: i for i, label in enumerate(data.labels)}
    known = np.array([places.get(level, -1) for level in formula.random.terms[0].factor.levels])
    codes = np.where(terms[0][0] >= 0, known[terms[0][0]], -1)
    return OutcomeRows(rows, codes, np.column_stack([columns for _, columns in terms]), common.index)


def _array_rows(model, exog) -> OutcomeRows:
    index = exog.index if isinstance(exog, (pd.DataFrame, pd.Series)) else None
    p, K = len(model.exog_names), len(model.outcome_names)
    try:
        X = np.asarray(exog, dtype=float)
    except (TypeError, ValueError):
        raise DataError(f"exog must hold numbers, {p} in each row, or be a frame of the variables") from None
    X = X.reshape(-1, p) if X.ndim < 2 and X.size % p == 0 else X
    if X.ndim != 2 or X.shape[1] != p:
        raise DataError(f"exog must have the {p} columns {list(model.exog_names)}, found shape {X.shape}")
    if model.common_design:
        return OutcomeRows(np.repeat(X[:, None], K, axis=1), None, None, index)
    if len(X) % K:
        raise DataError(f"exog must be stacked by outcome: its {len(X)} rows are no multiple of {K}")
    return OutcomeRows(X.reshape(K, -1, p).transpose(1, 0, 2), None, None, None)


def _effects(likelihood, theta, rows) -> tuple[np.ndarray, np.ndarray]:
    """Random part of the mean and its variance at known parameters, (m, K) each; a new cluster has the prior's."""
    params, moments = likelihood.params(theta), posterior_moments(likelihood, theta)
    K = rows.exog.shape[1]
    if params.tau is not None:
        loading, prior = np.repeat(params.tau[None, :, None], len(rows.codes), axis=0), np.eye(1)
    else:
        loading, prior = np.repeat(rows.z[:, None], K, axis=1), np.diag(params.D)
    known = rows.codes >= 0
    mean = np.where(known[:, None], moments.effects[rows.codes], 0.0)
    cov = np.where(known[:, None, None], moments.effects_cov[rows.codes], prior)
    return np.einsum("mkq,mq->mk", loading, mean), np.einsum("mkq,mqr,mkr->mk", loading, cov, loading)


def _effect_slopes(likelihood, theta, rows, variances) -> np.ndarray:
    """Derivatives of the random part of the mean in all parameters (m, K, k), by central differences."""
    out = np.zeros((*rows.exog.shape[:2], theta.size))
    for i in np.flatnonzero(variances > 0.0):
        step = np.zeros(theta.size)
        step[i] = 1e-4 * np.sqrt(variances[i])
        sides = [_effects(likelihood, theta + sign * step, rows)[0] for sign in (1.0, -1.0)]
        out[..., i] = (sides[0] - sides[1]) / (2.0 * step[i])
    return out


def outcome_table(model, values, index):
    """Values (m, K) as a DataFrame with the outcomes' names; plain arrays stay plain."""
    if model.data.design_is_plain and not isinstance(index, pd.Index):
        return values
    return pd.DataFrame(values, index, model.outcome_names)
