"""New rows of a mixed model for predictions: from a frame through the formula, or from arrays."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from mvmise_sm.core.covariance.random_effects import RandomEffects
from mvmise_sm.design.build import as_frame
from mvmise_sm.design.new_data import new_exog, new_levels, new_offset, new_random_rows
from mvmise_sm.exceptions import DataError, NewLevelError
from mvmise_sm.models.rows import level_codes, row_vector
from mvmise_sm.results.prediction import NewRows

__all__ = ["frame_rows", "new_rows", "own_rows"]


def own_rows(model) -> NewRows:
    """The rows of the model as `NewRows`."""
    random = tuple(
        (t.factor.membership, np.column_stack([np.ones(model.nobs) if c is None else c for c in t.columns]))
        for t in model.random_effects.terms
    )
    levels = model.residual_levels()
    return NewRows(model.exog, random, model.offset, model.data.row_labels, levels)


def new_rows(model, exog, terms, *, transform=True, allow_new_levels=False, groups=None, exog_re=None, offset=None):
    """Evaluate new data for a prediction.

    Parameters
    ----------
    model : MixedModelBase
    exog : DataFrame or array_like
        A frame for formula models, otherwise the design (m, k_fe).
    terms : tuple of int
        Positions of the random-effects terms that are needed.
    transform, allow_new_levels, groups, exog_re, offset
        As in `MixedModelResults.predict`.

    Returns
    -------
    NewRows

    Raises
    ------
    NewLevelError, DataError
    """
    design = getattr(model.data, "design", None)
    if design is not None and transform and not isinstance(exog, (np.ndarray, list)):
        return frame_rows(model, design, exog, terms, allow_new_levels, offset)
    X, index = _exog_rows(exog, model.exog_names)
    if groups is not None:
        random = [_no_effect(model, i, len(X)) for i in range(len(model.random_layout.terms))]
        for i in terms:
            random[i] = _labelled(model, i, groups, exog_re, len(X), allow_new_levels)
    elif terms and model.exog is not None and model.random_effects is not None:
        random = _recognised(model, X)
    else:
        random = [_no_effect(model, i, len(X)) for i in range(len(model.random_layout.terms))]
    return NewRows(X, tuple(random), row_vector(offset, "offset", len(X)), index)


def frame_rows(model, design, frame, terms, allow_new_levels, offset):
    """New data of one design as `NewRows`; `model` has the layout of its random effects."""
    frame = as_frame(frame)
    exog = new_exog(design, frame)
    random = [_no_effect(model, i, len(exog)) for i in range(len(model.random_layout.terms))]
    if terms:
        needed = replace(
            design,
            random=RandomEffects([model.random_layout.terms[i] for i in terms]),
            random_specs=tuple(design.random_specs[i] for i in terms),
            group_specs=tuple(design.group_specs[i] for i in terms),
        )
        for i, row in zip(terms, new_random_rows(needed, frame, allow_new_levels), strict=True):
            random[i] = row
    given = new_offset(design, frame) if offset is None else row_vector(offset, "offset", len(exog))
    levels = None if design.options["residual"] is None else new_levels(design, frame)
    return NewRows(exog.to_numpy(), tuple(random), given, exog.index, levels)


def _no_effect(model, i, m):
    return np.zeros(m, dtype=np.intp), np.zeros((m, model.random_layout.terms[i].q))


def _labelled(model, i, groups, exog_re, m, allow_new_levels):
    """Codes and columns of term `i` from labels and random-effects columns by grouping factor."""
    term = model.random_layout.terms[i]
    name = term.factor.name
    if isinstance(groups, dict):
        if name not in groups:
            raise DataError(f"groups must have labels of {name!r}, found {list(groups)}")
        groups = groups[name]
    codes, missing = level_codes(term.factor.levels, groups)
    if len(codes) != m:
        raise DataError(f"groups has {len(codes)} labels of {name!r} for {m} rows")
    unknown = (codes < 0) & ~missing
    if unknown.any() and not allow_new_levels:
        raise NewLevelError(
            f"grouping factor {name!r}: level {np.asarray(groups)[np.argmax(unknown)]!r} was not in the data of "
            "the fit; allow_new_levels=True gives new levels an effect of 0"
        )
    columns = exog_re.get(name) if isinstance(exog_re, dict) else exog_re
    if columns is None:
        if term.names != ("Intercept",):
            raise DataError(f"term {term.text} has the columns {list(term.names)}; give them as exog_re")
        return codes, np.where(missing, np.nan, 1.0)[:, None]
    columns = np.where(missing[:, None], np.nan, np.asarray(columns, dtype=float).reshape(m, -1))
    if columns.shape[1] != term.q:
        raise DataError(f"exog_re for {name!r} has {columns.shape[1]} columns, expected {list(term.names)}")
    return codes, columns


def _recognised(model, X):
    """Random effects of the rows that are rows of the model's data by value; no effect for all others."""
    own = own_rows(model)
    if X.shape == model.exog.shape and np.array_equal(X, model.exog):
        return own.random
    first, position = _matching_rows(model.exog, X)
    random = []
    ambiguous = np.zeros(len(model.exog), dtype=bool)
    for codes, columns in own.random:
        ambiguous |= (codes != codes[first]) | (columns != columns[first]).any(axis=1)
    unclear = np.zeros(len(model.exog), dtype=bool)
    unclear[first[ambiguous]] = True
    found = (position >= 0) & ~unclear[position]
    for codes, columns in own.random:
        random.append((np.where(found, codes[position], 0), columns[position] * found[:, None]))
    return tuple(random)


def _exog_rows(exog, names):
    """Design rows (m, k_fe) and their labels from an array, a frame or one row."""
    index = exog.index if isinstance(exog, (pd.DataFrame, pd.Series)) else None
    try:
        X = np.asarray(exog, dtype=float)
    except (TypeError, ValueError):
        raise DataError(f"exog must hold numbers, {len(names)} in each row, or be a frame of the variables") from None
    if X.ndim < 2:
        if len(names) == 1:
            X = X.reshape(-1, 1)
        else:
            X = X.reshape(1, -1)
            index = None if index is None else pd.Index([exog.name])
    if X.ndim != 2 or X.shape[1] != len(names):
        raise DataError(f"exog must have the {len(names)} columns {list(names)}, found shape {X.shape}")
    return X, index


def _matching_rows(own, new):
    """First row of `own` equal to each row of `own` (nobs,) and to each row of `new` (m,), -1 for none."""
    both = np.ascontiguousarray(np.vstack([own, new])) + 0.0
    keys = both.view(np.dtype((np.void, both.dtype.itemsize * both.shape[1]))).ravel()
    _, where, inverse = np.unique(keys, return_index=True, return_inverse=True)
    first = where[inverse.ravel()]
    n = len(own)
    return first[:n], np.where(first[n:] < n, first[n:], -1)
