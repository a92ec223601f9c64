"""Predictions from a fit: new rows, new levels, chosen random effects, and their standard errors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mvmise_sm.exceptions import OptionError
from mvmise_sm.option_values import short
from mvmise_sm.results.residual import new_variances

__all__ = [
    "NewRows",
    "checked_test",
    "predicted",
    "prediction_results",
    "predictor_law",
    "selected_terms",
    "without_error",
]


@dataclass(frozen=True)
class NewRows:
    """Rows to predict for, as arrays.

    Attributes
    ----------
    exog : ndarray
        Fixed-effects design (m, k_fe); NaN where a variable is missing.
    random : tuple
        One pair per term: codes (m,), -1 for an unknown level, and columns (m, q), NaN where something is missing.
    offset : ndarray or None
        Offset (m,).
    index : Index or None
        Row labels.
    levels : tuple of ndarray or None
        Level and group of the residual structure (m,), -1 where they are not known; None without one.
    """

    exog: np.ndarray
    random: tuple
    offset: np.ndarray | None = None
    index: object = None
    levels: tuple[np.ndarray, np.ndarray] | None = None


_SIDES = ("two-sided", "larger", "smaller")


def checked_test(prediction, value, alternative):
    """Hypothetical values (one, or one for each row) and alternative of a test of predictions.

    Raises
    ------
    OptionError
    """
    values = np.asarray(value, dtype=float)
    rows = np.shape(prediction.predicted)[0]
    if values.shape not in ((), (1,), (rows,)) or not np.isfinite(values).all():
        raise OptionError(f"value must be one finite number, or one for each of the {rows} rows, got {short(value)}")
    if not isinstance(alternative, str) or alternative not in _SIDES:
        raise OptionError(f"alternative must be 'two-sided', 'larger' or 'smaller', got {short(alternative)}")
    return values, alternative


def selected_terms(layout, random) -> tuple[int, ...]:
    """Positions of the terms that `random` ("all", "none" or a list of names) selects."""
    if isinstance(random, str) and random in ("all", "none"):
        return tuple(range(len(layout.terms))) if random == "all" else ()
    known = [factor.name for factor in layout.factors]
    names = [random] if isinstance(random, str) or not isinstance(random, Iterable) else list(random)
    texts = ["".join(term.text.split()) for term in layout.terms]
    chosen: set[int] = set()
    for name in names:
        # a factor's name stands for all of its terms, a text such as "(0 + x | g)" for one of them
        own = [i for i, term in enumerate(layout.terms) if term.factor.name == name]
        if not own and isinstance(name, str):
            wanted = "".join(name.split()).strip("()")
            own = [i for i, text in enumerate(texts) if text.strip("()") in (wanted, wanted.removeprefix("1+"))]
        if not own:
            raise OptionError(
                f"random must be 'all', 'none' or a list of grouping factors among {known} or of terms among "
                f"{[term.text for term in layout.terms]}, got {name!r}"
            )
        chosen |= set(own)
    return tuple(sorted(chosen))


def _missing(rows, terms) -> np.ndarray:
    """Rows (m,) with a missing value in what the prediction needs; a missing label makes its columns missing."""
    missing = np.isnan(rows.exog).any(axis=1)
    for i in terms:
        missing |= np.isnan(rows.random[i][1]).any(axis=1)
    return missing if rows.offset is None else missing | np.isnan(rows.offset)


def _random_part(rows, b, terms) -> np.ndarray:
    out = np.zeros(len(rows.exog))
    for i in terms:
        codes, columns = rows.random[i]
        if not isinstance(codes, np.ndarray):
            out += ((codes @ b[i]) * columns).sum(axis=1)
            continue
        known = np.flatnonzero(codes >= 0)
        out[known] += np.einsum("ij,ij->i", b[i][codes[known]], columns[known])
    return out


def _linear(result, rows, terms):
    linear = rows.exog @ result.params + _random_part(rows, result.solution.b, terms)
    if rows.offset is not None:
        linear = linear + rows.offset
    linear[_missing(rows, terms)] = np.nan
    return linear


def _training_linear(result, terms):
    b = [effects if i in terms else np.zeros_like(effects) for i, effects in enumerate(result.solution.b)]
    return result._linear_predictor(b)


def _on_scale(result, linear, which):
    if which in ("mean", "linear"):
        return linear if which == "linear" else result.model.inverse_link(linear)
    if which not in result.scales:
        raise OptionError(f"which must be one of {', '.join(map(repr, result.scales))}, got {which!r}")
    return result.on_scale([linear], which)


def predicted(result, exog, transform, random, allow_new_levels, which, **given):
    """Predicted values; parameters as in `MixedModelResults.predict`."""
    model = result.model
    terms = selected_terms(model.random_layout, random)
    if exog is None:
        if len(terms) == len(model.random_layout.terms) and which == "mean":
            values = result.fittedvalues
        else:
            values = _on_scale(result, _training_linear(result, terms), which)
        index = model.data.row_labels
    else:
        rows = model.new_rows(exog, terms, transform=transform, allow_new_levels=allow_new_levels, **given)
        values, index = _on_scale(result, _linear(result, rows, terms), which), rows.index
    return values if index is None else pd.Series(values, index=index)


def prediction_results(
    result, exog, transform, random, allow_new_levels, which, *, row_labels=None, kind="confidence", **given
):
    """Predictions with standard errors; parameters as in `MixedModelResults.get_prediction`."""
    if kind not in ("confidence", "prediction"):
        raise OptionError(f"kind must be 'confidence' or 'prediction', got {kind!r}")
    model = result.model
    terms = selected_terms(model.random_layout, random)
    if exog is None:
        rows = model.own_rows()
    else:
        rows = model.new_rows(exog, terms, transform=transform, allow_new_levels=allow_new_levels, **given)
    missing = _missing(rows, terms)
    linear = _linear(result, rows, terms)
    variance = np.full(len(linear), np.nan)
    used = np.flatnonzero(~missing)
    variance[used] = result.scale * _relative_variance(result, rows, terms, used)
    variance[without_error(result, rows.exog)] = np.nan
    labels = rows.index if row_labels is None else row_labels
    if kind == "prediction":
        from mvmise_sm.inference.prediction import observation_prediction

        return observation_prediction(result, linear, variance, which, labels, *_residual_part(result, rows))
    return result._prediction(linear, variance, which, labels, *_residual_part(result, rows))


def without_error(result: Any, exog: np.ndarray) -> np.ndarray:
    """Rows (m,) of a design whose predictions have no standard error: all of them without a maximum."""
    felt = result.effects_without_error()[: exog.shape[1]]
    return ((exog != 0.0) @ felt).astype(bool) | (not result.converged)


def _residual_part(result, rows):
    """Residual variance of the rows over the scale, where the model has a residual structure."""
    if not result.linear or result.model.residual_structure is None:
        return ()
    codes, groups = rows.levels if rows.levels is not None else (np.full(len(rows.exog), -1),) * 2
    return (new_variances(result.model.residual_structure, result.theta, codes, groups),)


def _relative_variance(result, rows, terms, used):
    exog = rows.exog[used]
    if not terms:
        return np.einsum("ij,jk,ik->i", exog, result.cov_params_default / result.scale, exog)
    random = []
    for i, term in enumerate(result.model.random_layout.terms):
        if i in terms:
            codes, columns = rows.random[i]
            random.append((codes[used], columns[used]))
        else:
            random.append((np.zeros(len(used), dtype=np.intp), np.zeros((len(used), term.q))))
    return result._prediction_variance(exog, random)


def predictor_law(result, frame, random, allow_new_levels):
    """Linear predictor and its variance (m,), and row labels; random effects that `random` leaves out are new ones."""
    model = result.model
    terms = selected_terms(model.random_layout, random)
    layout = model.random_layout
    everything = tuple(range(len(layout.terms)))
    if frame is None:
        rows = full = model.own_rows()
    else:
        rows = model.new_rows(frame, terms, allow_new_levels=allow_new_levels)
        # a random intercept needs no column of the data
        sloped = tuple(i for i in everything if i not in terms and layout.terms[i].names != ("Intercept",))
        full = model.new_rows(frame, sloped, allow_new_levels=True) if sloped else rows
    used = np.arange(len(rows.exog))
    variance = result.scale * _relative_variance(result, rows, terms, used)
    variance[without_error(result, rows.exog)] = np.nan
    lambdas = model.random_layout.lambdas(result.theta)
    for i in everything:
        if i not in terms and layout.terms[i].names == ("Intercept",):
            variance = variance + result.scale * float(lambdas[i][0, 0]) ** 2
        elif i not in terms:
            variance = variance + result.scale * np.square(full.random[i][1] @ lambdas[i]).sum(axis=1)
    return _linear(result, rows, terms), variance, rows.index
