"""Array input of a mixed model: checked, aligned and free of missing values, without copying what is complete."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from statsmodels.tools.data import _to_pandas

from mvmise_sm.blame import refuse_complex
from mvmise_sm.core.covariance.random_effects import RandomEffects
from mvmise_sm.design.grouping import random_effects_from_arrays
from mvmise_sm.exceptions import DataError, MissingDataError, OptionError
from mvmise_sm.models import fixed

__all__ = ["ModelRows", "complete_response", "design_rows", "level_codes", "read_rows", "row_vector"]


@dataclass(frozen=True)
class ModelRows:
    """The rows of a model.

    Attributes
    ----------
    endog, exog : ndarray or pandas object
        Response (nobs,) and design (nobs, p); pandas objects keep their labels.
    X : ndarray
        `exog` as a float array, a view where possible.
    random : RandomEffects
    weights, offset : ndarray or None
        (nobs,).
    """

    endog: object
    exog: object
    X: np.ndarray
    random: RandomEffects
    weights: np.ndarray | None
    offset: np.ndarray | None


def row_vector(values, name, nobs):
    """One number per row as a float array (nobs,), or None."""
    if values is None:
        return None
    try:
        out = np.asarray(values, dtype=float)
    except (TypeError, ValueError):
        raise DataError(f"{name} must be numeric") from None
    if out.ndim == 2 and out.shape[1] == 1:
        out = out[:, 0]
    if out.shape != (nobs,):
        raise DataError(f"{name} must have one value for each of the {nobs} rows, found shape {out.shape}")
    return out


def _numeric_response(endog):
    endog = _to_pandas(endog)
    if isinstance(endog, pd.DataFrame):
        if endog.shape[1] != 1:
            raise DataError(f"endog must be one column, found {endog.shape[1]}")
        endog = endog.iloc[:, 0]
    if not isinstance(endog, pd.Series):
        endog = np.asarray(endog)
        if endog.ndim == 2 and endog.shape[1] == 1:
            endog = endog[:, 0]
    if endog.ndim != 1:
        raise DataError(f"endog must be one-dimensional, found shape {endog.shape}")
    try:
        refuse_complex("endog", endog)
        return endog if endog.dtype == np.float64 else endog.astype(float)
    except (TypeError, ValueError):
        raise DataError(f"endog must be numeric, found values of type {endog.dtype}") from None


def _numeric_design(exog):
    exog = _to_pandas(exog)
    if isinstance(exog, pd.Series):
        exog = exog.to_frame()
    if isinstance(exog, pd.DataFrame):
        wrong = [str(c) for c, t in exog.dtypes.items() if not pd.api.types.is_numeric_dtype(t)]
        if wrong:
            raise DataError(f"exog must be numeric, but column {wrong[0]!r} is not")
        refuse_complex("exog", exog)
        plain = all(isinstance(t, np.dtype) for t in exog.dtypes)
        return exog, np.asarray(exog, dtype=float) if plain else exog.to_numpy(dtype=float, na_value=np.nan)
    try:
        refuse_complex("exog", exog)
        X = np.asarray(exog, dtype=float)
    except (TypeError, ValueError):
        raise DataError("exog must be numeric") from None
    X = X[:, None] if X.ndim == 1 else X
    if X.ndim != 2:
        raise DataError(f"exog must have one or two dimensions, found {X.ndim}")
    return X, X


def _groups_and_columns(random_effects, groups, exog_re):
    """Group labels and random-effects columns as two dicts by the name of the grouping factor."""
    if (random_effects is None) == (groups is None):
        raise DataError("give the group labels either as random_effects or as groups=, and not both")
    labels = groups if random_effects is None else random_effects
    if not isinstance(labels, dict):
        name = getattr(labels, "name", None)
        labels = {"group" if name is None else str(name): labels}
    columns = dict(exog_re) if isinstance(exog_re, dict) else {}
    if exog_re is not None and not isinstance(exog_re, dict):
        if len(labels) != 1:
            raise DataError(f"with several grouping factors {list(labels)} exog_re must be a dict with these names")
        columns = {next(iter(labels)): exog_re}
    plain = {}
    for name, value in labels.items():
        if isinstance(value, tuple) and len(value) == 2:
            value, columns[name] = value
        plain[name] = value if hasattr(value, "dtype") else np.asarray(value)
    return plain, columns


def _take(values, mask):
    """Rows of an array or pandas object where `mask` holds."""
    if isinstance(values, (pd.Series, pd.DataFrame)):
        return values.loc[np.asarray(mask)]
    return np.asarray(values)[mask] if not hasattr(values, "dtype") else values[mask]


def _missing_rows(y, X, weights, offset, labels, columns):
    """Rows (nobs,) with a missing value anywhere."""
    missing = np.isnan(y)
    if not fixed.all_finite(X):
        missing |= np.isnan(X).any(axis=1)
    for values in (weights, offset):
        if values is not None:
            missing |= np.isnan(values)
    for values in labels.values():
        if not (isinstance(values, np.ndarray) and values.dtype.kind in "iub"):
            missing |= np.asarray(pd.isna(values))
    for values in columns.values():
        if not (isinstance(values, np.ndarray) and values.dtype == float and fixed.all_finite(values)):
            absent = np.asarray(pd.isna(values))
            missing |= absent if absent.ndim == 1 else absent.any(axis=1)
    return missing


def level_codes(levels, labels):
    """Codes (m,) of `labels` among `levels`, -1 for an unknown level, and which labels are missing (m,)."""
    labels = np.asarray(labels)
    codes = np.asarray(pd.Index(levels).get_indexer(pd.Index(labels)), dtype=np.intp)
    return codes, np.asarray(pd.isna(labels))


def design_rows(design) -> ModelRows:
    """The rows of a design, which has checked them.

    Raises
    ------
    DataError
        If there are several responses, or a weight is zero.
    """
    if design.endog.ndim != 1:
        raise DataError(f"one response is needed, found {list(design.endog.columns)}")
    _refuse_zero_weights(design.weights)
    return ModelRows(design.endog, design.exog, design.exog.to_numpy(), design.random, design.weights, design.offset)


def _refuse_zero_weights(weights):
    if weights is not None and not (weights > 0).all():
        raise DataError(f"weights must be positive, the smallest is {weights.min():g}; leave such rows out")


def _refuse_infinite(**arrays):
    for name, values in arrays.items():
        if values is not None and not fixed.all_finite(values):
            kind = "missing" if np.isnan(values).any() else "infinite"
            raise (MissingDataError if kind == "missing" else DataError)(f"{name} has {kind} values")


def read_rows(endog, exog, random_effects, groups, exog_re, weights, offset, missing) -> ModelRows:
    """Check the input of a model and drop incomplete rows; parameters as in `MixedModelBase`.

    Raises
    ------
    DataError, MissingDataError, OptionError
    """
    if missing not in ("drop", "raise", "none"):
        raise OptionError(f"missing must be 'drop', 'raise' or 'none', got {missing!r}")
    if exog is None:
        raise DataError("exog is needed; use a column of ones for an intercept alone")
    endog = _numeric_response(endog)
    exog, X = _numeric_design(exog)
    n = len(endog)
    if len(X) != n:
        raise DataError(f"endog has {n} rows and exog has {len(X)}")
    weights, offset = row_vector(weights, "weights", n), row_vector(offset, "offset", n)
    if isinstance(random_effects, RandomEffects):
        if random_effects.nobs != n:
            raise DataError(f"the random effects have {random_effects.nobs} rows and endog has {n}")
        random = random_effects
    else:
        labels, columns = _groups_and_columns(random_effects, groups, exog_re)
        for name, values in [*labels.items(), *columns.items()]:
            if len(values) != n:
                raise DataError(f"grouping factor {name!r} has {len(values)} rows and endog has {n}")
        absent = _missing_rows(np.asarray(endog), X, weights, offset, labels, columns)
        if absent.any():
            keep = _complete_rows(absent, missing)
            endog, weights, offset = (None if v is None else _take(v, keep) for v in (endog, weights, offset))
            exog, X = (X[keep],) * 2 if exog is X else (_take(exog, keep), X[keep])
            labels, columns = ({k: _take(v, keep) for k, v in d.items()} for d in (labels, columns))
        random = random_effects_from_arrays(labels, columns)
    if n == 0:
        raise MissingDataError("the data have no rows")
    _refuse_infinite(endog=np.asarray(endog), exog=X, weights=weights, offset=offset)
    _refuse_zero_weights(weights)
    return ModelRows(endog, exog, X, random, weights, offset)


def _complete_rows(absent, missing):
    """Rows to keep, or an error where rows may not be dropped or none is left."""
    n = len(absent)
    if missing != "drop":
        raise MissingDataError(f"{int(absent.sum())} of {n} rows have missing values; missing='drop' leaves them out")
    if absent.all():
        raise MissingDataError(f"all {n} rows have missing values")
    return ~absent


def complete_response(endog, nobs):
    """A new response as a float array (nobs,), finite."""
    try:
        y = np.asarray(endog, dtype=float)
    except (TypeError, ValueError):
        raise DataError("the new response must be numeric") from None
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.shape != (nobs,):
        raise DataError(f"the new response must have one value for each of the {nobs} rows, found shape {y.shape}")
    if not np.isfinite(y).all():
        raise DataError("the new response has missing or infinite values")
    return y
