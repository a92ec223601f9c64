"""Design columns, random-effects rows and offsets of a fitted design on new data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from patsy import DesignInfo, EvalEnvironment, EvalFactor

from mvmise_sm.design import coding as coding
from mvmise_sm.design.build import Design, GroupSpec, as_frame
from mvmise_sm.design.columns import (
    Encoded,
    Source,
    codes_for,
    column_of,
    encode,
    evaluate,
    names_in,
    prepare,
    unknown_column,
)
from mvmise_sm.design.grouping import interact_labels
from mvmise_sm.design.relationships import new_members
from mvmise_sm.design.residual import level_codes
from mvmise_sm.design.structures import position_columns
from mvmise_sm.exceptions import DataError, NewLevelError, UnknownColumnError

__all__ = ["new_columns", "new_exog", "new_factor", "new_levels", "new_offset", "new_random_rows"]


def new_exog(design: Design, frame: Any, dropped: bool = False) -> pd.DataFrame:
    """Evaluate the fixed effects on new data.

    Parameters
    ----------
    design : Design
        Design of the fit.
    frame : DataFrame
        New rows (m), with the columns that the fixed effects use.
    dropped : bool, optional
        Whether to return the columns too that the fit dropped because earlier ones determine them.

    Returns
    -------
    DataFrame
        (m, p), index of `frame`; a row with a missing value is NaN throughout the columns concerned.

    Raises
    ------
    UnknownColumnError
        If a column is missing.
    NewLevelError
        If a categorical column has a level that the fit did not see.
    """
    frame = as_frame(frame)
    source = Source(frame, EvalEnvironment([]))
    spec = design.full_spec if dropped else design.model_spec
    encoded = _encode_new(spec, source)
    matrix = coding.matrix(spec, encoded, source.nobs)
    return pd.DataFrame(matrix, index=frame.index, columns=spec.column_names)


def new_offset(design: Design, frame: Any) -> np.ndarray | None:
    """Evaluate the offset on new data.

    Returns
    -------
    ndarray or None
        (m,), None if the design has no offset.

    Raises
    ------
    DataError
        If the fit had an offset given as an array, which is not known for new rows.
    """
    if isinstance(design.offset_argument, np.ndarray):
        raise DataError("the model's offset was an array, so it is not known for new data; pass offset=")
    if not design.offset_specs:
        return None
    source = Source(as_frame(frame), EvalEnvironment([]))
    return np.sum([_encode_factor(factor, state, source).values for factor, state in design.offset_specs], axis=0)


def new_random_rows(design: Design, frame: Any, allow_new_levels: bool = False) -> list[tuple[np.ndarray, np.ndarray]]:
    """Evaluate the random effects on new data.

    Parameters
    ----------
    design : Design
        Design of the fit, with random effects.
    frame : DataFrame
        New rows (m).
    allow_new_levels : bool, optional
        Give unknown levels of grouping factors the code -1 instead of failing.

    Returns
    -------
    list of (codes, columns)
        One pair per term: codes (m,), intp, -1 for a new level; columns (m, q). A row whose label or column is missing
        has NaN columns.

    Raises
    ------
    NewLevelError
        If a level is unknown and not allowed.
    """
    source = Source(as_frame(frame), EvalEnvironment([]))
    if design.random is None:
        return []
    rows = []
    coded: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for term, info, spec in zip(design.random.terms, design.random_specs, design.group_specs, strict=True):
        if id(term.factor) not in coded:
            coded[id(term.factor)] = _new_codes(spec, term.factor, source, allow_new_levels)
        codes, missing = coded[id(term.factor)]
        columns = coding.matrix(info, _encode_new(info, source), source.nobs)
        if term.positions is not None:
            absent = np.isnan(columns).any(axis=1)
            columns = position_columns(columns, term.positions)
            columns[absent] = np.nan
        if missing.any():
            columns[missing] = np.nan
        rows.append((codes, columns))
    return rows


def new_columns(design: Design, frame: Any) -> tuple[list[Any], list[tuple[np.ndarray, list[Any]]]]:
    """Evaluate fixed and random effects on new data, column by column and by reference where they are columns.

    Parameters
    ----------
    design : Design
        Design with random effects whose terms have neither positions nor several members.
    frame : DataFrame
        New rows (m).

    Returns
    -------
    fixed : list of (ndarray or None)
        Columns (m,) with those that the fit dropped, None for ones.
    random : list of (codes, columns)
        One pair per term: codes (m,), -1 where the label is missing; columns as in `fixed`.

    Raises
    ------
    NewLevelError
        If a level is unknown.
    """
    source = Source(as_frame(frame), EvalEnvironment([]))
    fixed = list(coding.columns(design.full_spec, _encode_new(design.full_spec, source)))
    random = []
    coded: dict[int, np.ndarray] = {}
    assert design.random is not None
    for term, info, spec in zip(design.random.terms, design.random_specs, design.group_specs, strict=True):
        if id(term.factor) not in coded:
            coded[id(term.factor)] = _new_codes(spec, term.factor, source, False)[0]
        random.append((coded[id(term.factor)], list(coding.columns(info, _encode_new(info, source)))))
    return fixed, random


def new_levels(design: Design, frame: Any) -> tuple[np.ndarray, np.ndarray]:
    """Level and group of the residual structure on new data (m,), -1 where a column is missing or a value unknown."""
    source = Source(as_frame(frame), EvalEnvironment([]))
    spec = design.options["residual"]
    structure = design.residual_labels
    columns = [spec.levels[0] if structure[0] else None, spec.group]
    out = []
    for name, known_labels in zip(columns, structure, strict=True):
        if name is None:
            out.append(np.zeros(source.nobs, dtype=np.intp))
            continue
        if name not in source:
            out.append(np.full(source.nobs, -1, dtype=np.intp))
            continue
        codes, labels = level_codes(source.column(name), name)
        table = np.append(pd.Index(known_labels).get_indexer([str(label) for label in labels]), -1)
        out.append(table[codes])
    return out[0], out[1]


def new_factor(factor: EvalFactor, state: dict | None, frame: Any) -> np.ndarray:
    """Evaluate one numeric factor, such as a response or weights, on rows that the fit did not see.

    Parameters
    ----------
    factor : EvalFactor
    state : dict or None
        patsy's state, None where the factor depends on single rows only.
    frame : DataFrame

    Returns
    -------
    ndarray
        (m,)

    Raises
    ------
    DataError
        If the values are labels or several columns.
    """
    source = Source(as_frame(frame), EvalEnvironment([]))
    if state is None and column_of(factor) not in source:
        state = prepare(factor, source)[0]
    value = _encode_factor(factor, state, source)
    if value.categories is not None or value.values.ndim != 1:
        raise DataError(f"{factor.name()} must be one numeric column")
    return value.values


def _new_codes(spec: GroupSpec, factor: Any, source: Source, allow: bool) -> tuple[Any, np.ndarray]:
    """Codes (m,) with -1 for unknown levels, and the rows (m,) whose label is missing; memberships are sparse."""
    if spec.several:
        levels = pd.Index(factor.levels)
        members = [
            codes_for(_value(expression, state, source), levels, expression.name(), unknown="mark")
            for expression, state in zip(spec.factors, spec.states, strict=True)
        ]
        weights = [_encode_factor(f, state, source).values for f, state in spec.weights] or None
        return new_members(np.column_stack(members), factor.name, len(levels), weights, allow)
    parts = []
    missing = np.zeros(source.nobs, dtype=bool)
    # a known covariance has labels without data, whose effects are predicted too
    own_levels = spec.part_levels if factor.root is None else (pd.Index(factor.levels),)
    for expression, state, levels in zip(spec.factors, spec.states, own_levels, strict=True):
        codes = codes_for(_value(expression, state, source), levels, expression.name(), unknown="mark")
        missing |= codes == -1
        parts.append((np.maximum(codes, -1), levels))
    codes, levels = interact_labels(parts)
    if not levels.equals(factor.levels):
        table = factor.levels.get_indexer(levels)
        if factor.root is not None and len(levels):  # the labels of a known covariance may be of another type
            table = pd.Index(factor.levels).map(str).get_indexer(levels.map(str))
        codes = np.append(table, -1)[codes]
    new = (codes < 0) & ~missing
    if new.any() and not allow:
        row = int(np.argmax(new))
        labels = [str(np.asarray(_value(e, s, source))[row]) for e, s in zip(spec.factors, spec.states, strict=True)]
        raise NewLevelError.of(
            f"grouping factor {factor.name!r}: level {':'.join(labels)!r} was not in the data of the fit; "
            f"allow_new_levels=True gives new levels an effect of 0",
            factor.name,
            ":".join(labels),
        )
    return codes, missing


def _value(factor: EvalFactor, state: dict | None, source: Source) -> Any:
    name = column_of(factor)
    if state is None or (name is not None and name in source):
        _require(factor, state, source)
        return source.frame[name]
    _require(factor, state, source)
    value = evaluate(factor, state, source)
    return value.data if hasattr(value, "contrast") else value


def _require(factor: EvalFactor, state: dict | None, source: Source) -> None:
    """Fail if a name that the factor uses is neither a new column nor stored with the fit."""
    names, quoted = names_in(factor)
    stored = state["eval_env"].namespace if state else {}
    plain = column_of(factor)
    for name in [*quoted, *sorted(names)]:
        known_elsewhere = name != plain and (name in stored or Source.is_language(name))
        if name not in source and not known_elsewhere:
            raise UnknownColumnError(unknown_column(name, source.frame.columns))


def _encode_factor(factor: EvalFactor, state: dict | None, source: Source) -> Encoded:
    name = column_of(factor)
    _require(factor, state, source)
    if name is not None and name in source:
        return source.column(name)
    return encode(evaluate(factor, state or {}, source), source.nobs, factor.name())


def _encode_new(info: DesignInfo, source: Source) -> dict[EvalFactor, Encoded]:
    """Encode new rows as the fit's factors were: same type, same levels, same number of columns."""
    encoded = {}
    for factor, described in info.factor_infos.items():
        if described.type == "categorical":
            levels = pd.Index(list(described.categories))
            value = _value(factor, described.state, source)
            try:
                codes = codes_for(value, levels, factor.name())
            except DataError as error:
                raise NewLevelError(str(error)) from None
            encoded[factor] = Encoded(codes, levels)
            continue
        value = _encode_factor(factor, described.state, source)
        if value.categories is not None and len(value.categories) and value.values.max() >= 0:
            raise DataError(f"{factor.name()} was numeric in the fit, but holds labels in the new data")
        if value.categories is not None:  # nothing but missing values
            value = Encoded(np.full(source.nobs, np.nan))
        with np.errstate(invalid="ignore", over="ignore"):
            # one pass says that all is finite; only where it does not, infinite and missing values are told apart
            if not np.isfinite(value.values.sum()) and np.isinf(value.values).any():
                raise DataError(f"{factor.name()} holds infinite values in the new data; only finite ones fit")
        if value.n_columns != described.num_columns:
            raise DataError(f"{factor.name()} has {value.n_columns} columns, {described.num_columns} in the fit")
        encoded[factor] = value
    return encoded
