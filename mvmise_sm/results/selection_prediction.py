"""Predictions of a selection model as frames: new samples, and the values that are missing."""

from __future__ import annotations

import numpy as np
import pandas as pd

from mvmise_sm.design.build import as_frame
from mvmise_sm.design.new_data import new_exog, new_random_rows
from mvmise_sm.exceptions import DataError, OptionError

__all__ = ["missing_frame", "outcome_table", "predicted"]


def missing_frame(result) -> pd.DataFrame:
    """Posterior moments of every missing value; see `SelectionResults.predict_missing`."""
    design = result.model.design
    data, moments = design.data, result._moments()
    row, outcome = np.nonzero(~data.observed)
    position = data.order[row]
    order = np.lexsort((outcome, position))
    row, outcome, position = row[order], outcome[order], position[order]
    block = data.block_missing[data.cluster[row], outcome]
    labels = pd.Series(list(data.labels))
    return pd.DataFrame(
        {
            "row": design.endog.index[position],
            "group": labels.iloc[data.cluster[row]].to_numpy(),
            "outcome": np.asarray(result.model.outcome_names, dtype=object)[outcome],
            "kind": np.where(block, "block", "sporadic"),
            "mean": moments.mean[row, outcome],
            "sd": moments.sd[row, outcome],
        }
    )


def predicted(result, exog, transform, random, allow_new_levels, which):
    """Means of new samples (m, K); see `SelectionResults.predict`."""
    model = result.model
    if which not in ("mean", "linear"):
        raise OptionError(f"which must be 'mean' or 'linear', got {which!r}")
    if random not in ("all", "none"):
        raise OptionError(f"random must be 'all' or 'none', got {random!r}")
    if exog is None:
        if random == "all":
            return result.fittedvalues
        return outcome_table(model, model.predict(result.params), model.data.row_labels)
    formula = model.design.design
    if formula is None or not transform or isinstance(exog, (np.ndarray, list)):
        return _from_rows(model, result.params, exog)
    if not model.common_design and not model.design.outcome_effects:
        raise OptionError("predictions on a new frame need a design that is common to the outcomes")
    frame = as_frame(exog)
    common = new_exog(formula, frame)
    mean = np.column_stack([common.to_numpy() @ beta for beta in _by_outcome(model, result.params)])
    if random == "all":
        mean = mean + _random_part(result, formula, frame, allow_new_levels)
    return pd.DataFrame(mean, common.index, model.outcome_names)


def _by_outcome(model, params) -> list[np.ndarray]:
    """Coefficients of the common design for every outcome."""
    chosen, K = set(model.design.outcome_effects), len(model.outcome_names)
    if not chosen:
        return [params] * K
    out = [[] for _ in range(K)]
    position = 0
    p = len(params) - (K - 1) * len(chosen)
    for j in range(p):
        for k in range(K):
            out[k].append(params[position + k] if j in chosen else params[position])
        position += K if j in chosen else 1
    return [np.array(beta) for beta in out]


def _random_part(result, formula, frame, allow_new_levels) -> np.ndarray:
    rows = new_random_rows(formula, frame, allow_new_levels)
    effects = result.random_effects[result.model.group_name]
    levels = list(formula.random.terms[0].factor.levels)
    table = effects.reindex(levels).to_numpy()
    codes = rows[0][0]
    known = (codes >= 0)[:, None]
    if result.tau is not None:
        return np.where(known, table[codes, :1], 0.0) * result.tau.to_numpy()
    Z = np.column_stack([columns for _, columns in rows])
    own = np.where(known, table[codes], 0.0)
    return (Z * own).sum(axis=1)[:, None]


def _from_rows(model, params, exog):
    index = exog.index if isinstance(exog, (pd.DataFrame, pd.Series)) else None
    X = np.asarray(exog, dtype=float)
    X = X.reshape(-1, len(params)) if X.ndim < 2 else X
    if X.shape[1] != len(params):
        raise DataError(f"exog must have the {len(params)} columns {list(model.exog_names)}, found shape {X.shape}")
    mean = X @ params
    K = len(model.outcome_names)
    if model.common_design:
        return outcome_table(model, np.repeat(mean[:, None], K, axis=1), index)
    if len(mean) % K:
        raise DataError(f"exog must be stacked by outcome: its {len(mean)} rows are no multiple of {K}")
    return outcome_table(model, mean.reshape(K, -1).T, None)


def outcome_table(model, values, index):
    """Values (m, K) as a DataFrame with the outcomes' names; plain arrays stay plain."""
    if model.data.design_is_plain and not isinstance(index, pd.Index):
        return values
    return pd.DataFrame(values, index, model.outcome_names)
