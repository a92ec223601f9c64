"""Formula parts and a data frame become arrays: response, fixed-effects matrix, random effects, weights and offset."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
from patsy import DesignInfo, EvalEnvironment, EvalFactor

from mvmise_sm import design_info as coding
from mvmise_sm.core.random_effects import GroupingFactor, RandomEffects, RandomTerm
from mvmise_sm.core.structures import Diagonal, Unstructured
from mvmise_sm.design_columns import Encoded, Source, column_of, encode, evaluate, known, learn, names_in, prepare
from mvmise_sm.exceptions import DataError, FormulaError, MissingDataError, OptionError
from mvmise_sm.formula import FormulaParts, expand_terms, named_factor, parse_formula
from mvmise_sm.formula_tree import tokenize, translate
from mvmise_sm.grouping import encode_labels, interact_labels
from mvmise_sm.rank import independent_columns

__all__ = ["Design", "GroupSpec", "as_frame", "build_design", "caller_environment"]


@dataclass(frozen=True, eq=False)
class GroupSpec:
    """How one grouping factor is computed on new data.

    Attributes
    ----------
    factors : tuple of EvalFactor
        The interacting expressions.
    states : tuple of (dict or None)
        patsy's state of each; None for a plain column.
    part_levels : tuple of pandas.Index
        Levels of each part.
    """

    factors: tuple[EvalFactor, ...]
    states: tuple[dict | None, ...]
    part_levels: tuple[pd.Index, ...]


@dataclass(frozen=True, eq=False)
class Design:
    """A model's data as labelled arrays, and what is needed to do the same with new data.

    It pickles as the rows used and is rebuilt from them, because patsy's specifications refuse pickling.

    Attributes
    ----------
    parts : FormulaParts
        The parsed formula.
    endog : Series or DataFrame
        Response (nobs,), or (nobs, K) for several outcomes; float.
    endog_levels : pandas.Index or None
        Labels of a categorical response, whose codes `endog` holds; None for numbers.
    exog : DataFrame
        Fixed-effects columns (nobs, p), patsy's names, full column rank.
    random : RandomEffects or None
        Random-effects terms in formula order; None if the formula has none.
    model_spec : patsy.DesignInfo
        Specification of the p columns of `exog`, dropped ones left out.
    random_specs : tuple of patsy.DesignInfo
        Specification of each term's columns.
    group_specs : tuple of GroupSpec
        Specification of each term's grouping factor.
    weights, offset : ndarray or None
        (nobs,); `offset` is the sum of the formula's offsets and the argument.
    missing_mask : ndarray or None
        Rows of the data, after `subset`, that were dropped; None if none were.
    frame : DataFrame
        The rows used; array variables of the caller are added as columns.
    dropped_columns : tuple of str
        Fixed-effects columns that earlier columns determine.
    namespace : dict
        Variables of the caller that expressions use.
    offset_specs : tuple of (EvalFactor, dict or None)
        Offsets that can be computed on new data, with patsy's state (None for a plain column).
    offset_argument : str, ndarray (nobs,) or None
        The offset besides the formula's; an array is not known for new data.
    options : dict
        Further arguments of `build_design`.
    """

    parts: FormulaParts
    endog: pd.Series | pd.DataFrame
    endog_levels: pd.Index | None
    exog: pd.DataFrame
    random: RandomEffects | None
    model_spec: DesignInfo
    random_specs: tuple[DesignInfo, ...]
    group_specs: tuple[GroupSpec, ...]
    weights: np.ndarray | None
    offset: np.ndarray | None
    missing_mask: np.ndarray | None
    frame: pd.DataFrame
    dropped_columns: tuple[str, ...]
    namespace: dict[str, Any]
    offset_specs: tuple[tuple[EvalFactor, dict | None], ...]
    offset_argument: str | np.ndarray | None
    options: dict[str, Any]

    @property
    def formula(self) -> str:
        """The two-sided formula of the fixed effects."""
        return self.parts.fixed

    @property
    def exog_names(self) -> list[str]:
        """Names of the fixed-effects columns (p)."""
        return self.model_spec.column_names

    def __reduce__(self):
        plan = _plan(self.parts, self.offset_argument, None, _dotted(self.frame))
        mentioned = set().union(*(set().union(*names_in(factor)) for factor in plan.factors))
        kept = [column for column in self.frame.columns if column in mentioned]
        named = {
            name: ("module", value.__name__) if isinstance(value, ModuleType) else ("value", value)
            for name, value in self.namespace.items()
        }
        settings = {**self.options, "weights": self.weights, "offset": self.offset_argument}
        return _rebuild, (self.parts.text, self.frame[kept], named, settings)


def _rebuild(text: str, frame: pd.DataFrame, named: dict, settings: dict) -> Design:
    namespace = {name: import_module(v) if kind == "module" else v for name, (kind, v) in named.items()}
    return build_design(parse_formula(text), frame, namespace=namespace, **settings)


def caller_environment(eval_env: int | Mapping | EvalEnvironment | None = None, depth: int = 1) -> EvalEnvironment:
    """Capture the variables that formula expressions may use.

    Parameters
    ----------
    eval_env : int, mapping, EvalEnvironment or None, optional
        0 or None is the caller, larger numbers go further up, -1 is empty; a mapping gives the variables itself.
    depth : int, optional
        Frames between the function that calls this one and the user: 1 if the user calls that function.
    """
    if isinstance(eval_env, EvalEnvironment):
        return eval_env
    if isinstance(eval_env, Mapping):
        return EvalEnvironment([dict(eval_env)])
    if eval_env == -1:
        return EvalEnvironment([])
    return EvalEnvironment.capture((eval_env or 0) + depth, reference=1)


def as_frame(data: Any) -> pd.DataFrame:
    """Return `data` as a DataFrame: frames as they are; dicts, record arrays and frames of other libraries converted."""
    if isinstance(data, pd.DataFrame):
        return data
    if isinstance(data, pd.Series):
        return data.to_frame().T.infer_objects() if data.index.dtype == object else data.to_frame()
    if hasattr(data, "to_pandas"):
        return data.to_pandas()
    try:
        if isinstance(data, Mapping) and all(np.ndim(value) == 0 for value in data.values()):
            return pd.DataFrame([dict(data)])
        return pd.DataFrame(data)
    except (ValueError, TypeError) as error:
        raise DataError(f"data must be a DataFrame or a mapping of columns, not {type(data).__name__}: {error}") from None


@dataclass(frozen=True)
class _Plan:
    """All factors of a model, for one set of columns."""

    responses: tuple[EvalFactor, ...]
    fixed: tuple
    random: tuple[tuple, ...]
    groups: tuple[tuple[EvalFactor, ...], ...]
    offsets: tuple[EvalFactor, ...]
    weights: EvalFactor | None

    @property
    def factors(self) -> Iterable[EvalFactor]:
        """Every factor, grouping factors included."""
        for terms in (self.fixed, *self.random):
            for term in terms:
                yield from term.factors
        yield from self.responses + self.offsets
        for group in self.groups:
            yield from group
        if self.weights is not None:
            yield self.weights


@lru_cache(maxsize=512)
def _plan(parts: FormulaParts, offset: str | None, weights: str | None, dotted: frozenset[str]) -> _Plan:
    offsets = parts.offsets if offset is None else (*parts.offsets, offset)
    return _Plan(
        responses=tuple(_expression(text, dotted) for text in parts.responses),
        fixed=expand_terms(parts.rhs, dotted),
        random=tuple(expand_terms(spec.effects, dotted) for spec in parts.random),
        groups=tuple(tuple(_expression(text, dotted) for text in spec.factors) for spec in parts.random),
        offsets=tuple(_expression(text, dotted) for text in offsets),
        weights=None if weights is None else _expression(weights, dotted),
    )


def _expression(text: str, dotted: frozenset[str]) -> EvalFactor:
    """A text that is one Python expression, formula operators being arithmetic."""
    if not tokenize(text):
        raise FormulaError("an expression is empty")
    return named_factor(*translate(text, dotted))


def _dotted(frame: pd.DataFrame) -> frozenset[str]:
    """Columns that Python cannot name by themselves."""
    return frozenset(c for c in frame.columns if isinstance(c, str) and not c.isidentifier())


def build_design(
    parts: FormulaParts,
    data: Any,
    *,
    missing: str = "drop",
    weights: Any = None,
    offset: Any = None,
    subset: Any = None,
    keep_missing_endog: bool = False,
    categorical_response: bool = False,
    namespace: Mapping | EvalEnvironment | None = None,
) -> Design:
    """Evaluate a formula on data.

    Rows with a missing value in the response, a fixed or random column, a grouping factor, the weights or the offset
    are dropped together. Levels of categorical columns that do not occur in the remaining rows are left out, as in R.
    Ordered categoricals get treatment contrasts, as everywhere in patsy; R would use polynomials (``C(f, Poly)``).

    Parameters
    ----------
    parts : FormulaParts
        From `parse_formula`.
    data : DataFrame
        One row per observation; its index is kept.
    missing : {"drop", "raise"}, optional
        What to do with incomplete rows.
    weights, offset : str or array_like, optional
        A column, an expression in columns, or values (n,) for the rows of `data`.
    subset : array_like or str, optional
        Rows to use: booleans, index labels, or an expression that gives booleans.
    keep_missing_endog : bool, optional
        Keep rows whose response is missing; it is then NaN in `endog`.
    categorical_response : bool, optional
        Accept a categorical, text or boolean response with two levels, coded 0 and 1.
    namespace : mapping or EvalEnvironment, optional
        Variables besides the columns, see `caller_environment`.

    Returns
    -------
    Design

    Raises
    ------
    UnknownColumnError, FormulaError
        If a name is unknown or an expression cannot be evaluated.
    MissingDataError
        If values are missing and `missing` is ``"raise"``, or no complete row is left.
    DataError
        If the response is not numeric, values are infinite, weights negative, or lengths differ.
    """
    if missing not in ("drop", "raise", "none"):
        raise OptionError(f"missing must be 'drop' or 'raise', not {missing!r}")
    environment = caller_environment(-1 if namespace is None else namespace)
    frame = as_frame(data)
    plan = _plan(parts, *(v if isinstance(v, str) else None for v in (offset, weights)), _dotted(frame))
    frame, used = _with_variables(frame, plan, environment)
    source = Source(frame, environment)
    arrays = {
        name: _given_array(value, name, frame)
        for name, value in (("weights", weights), ("offset", offset))
        if value is not None and not isinstance(value, str)
    }
    if subset is not None:
        rows = _subset_rows(subset, source)
        source = source.take(rows)
        arrays = {name: array[rows] for name, array in arrays.items()}
    values = _Values(source, arrays)
    mask = values.complete(plan, missing, keep_missing_endog)
    endog, levels = _response(plan, parts, values, categorical_response)
    exog, info, dropped = _fixed_effects(plan, values)
    random, random_specs, group_specs = _random_effects(plan, parts, values)
    offset_specs = tuple((f, values.states.get(f)) for f in plan.offsets)
    return Design(
        parts=parts,
        endog=endog,
        endog_levels=levels,
        exog=exog,
        random=random,
        model_spec=info,
        random_specs=random_specs,
        group_specs=group_specs,
        weights=_weights(plan, values),
        offset=_offset(plan, values),
        missing_mask=mask,
        frame=values.source.frame.copy(deep=False),
        dropped_columns=dropped,
        namespace=used,
        offset_specs=offset_specs,
        offset_argument=offset if isinstance(offset, str) else values.arrays.get("offset"),
        options={"keep_missing_endog": keep_missing_endog, "categorical_response": categorical_response},
    )


def _with_variables(frame: pd.DataFrame, plan: _Plan, environment: EvalEnvironment) -> tuple[pd.DataFrame, dict]:
    """Check all names; add array variables of the caller as columns and return the other ones."""
    source = Source(frame, environment)
    outside: set[str] = set()
    for factor in plan.factors:
        outside |= source.outside_names(factor)
    added, used = {}, {}
    for name in outside:
        value = environment.namespace[name]
        if np.ndim(value) == 1 and len(value) == len(frame) and not isinstance(value, str):
            added[name] = _given_array(value, name, frame, numeric=False)
        else:
            used[name] = value
    return (frame.assign(**added) if added else frame), used


def _given_array(value: Any, name: str, frame: pd.DataFrame, numeric: bool = True) -> Any:
    """Check an array that stands beside the frame: its length and, for a Series, its index."""
    if isinstance(value, pd.Series) and not value.index.equals(frame.index):
        raise DataError(f"{name} is a Series whose index differs from that of the data")
    if np.ndim(value) != 1 or len(value) != len(frame):
        raise DataError(f"{name} has shape {np.shape(value)}, but the data have {len(frame)} rows")
    if not numeric:
        return value
    try:
        return np.asarray(value, dtype=float)
    except (ValueError, TypeError):
        raise DataError(f"{name} must be numeric") from None


def _subset_rows(subset: Any, source: Source) -> np.ndarray:
    """Positions of the rows that `subset` selects."""
    if isinstance(subset, str):
        factor = _expression(subset, _dotted(source.frame))
        source.outside_names(factor)
        subset = np.asarray(evaluate(factor, prepare(factor, source)[0], source))
        if subset.dtype != bool:
            raise DataError("subset must be an expression that is true or false in every row")
    positions = pd.Series(np.arange(source.nobs), index=source.frame.index)
    try:
        rows = positions.loc[subset]
    except (KeyError, IndexError, ValueError) as error:
        raise DataError(f"subset selects no rows of the data: {error}") from None
    return np.atleast_1d(np.asarray(rows))


class _Values:
    """Values of all factors on the rows of the model.

    Attributes
    ----------
    source : Source
        The rows used.
    encoded : dict
        Factor -> Encoded.
    labels : dict
        Grouping expression -> (codes, levels).
    states : dict
        Factor -> patsy's state, for expressions.
    arrays : dict
        ``"weights"`` and ``"offset"`` if they were given as arrays.
    """

    def __init__(self, source: Source, arrays: dict[str, np.ndarray]):
        self.source = source
        self.arrays = arrays
        self.encoded: dict[EvalFactor, Encoded] = {}
        self.labels: dict[EvalFactor, tuple[np.ndarray, pd.Index]] = {}
        self.states: dict[EvalFactor, dict] = {}

    def complete(self, plan: _Plan, missing: str, keep_missing_endog: bool) -> np.ndarray | None:
        """Evaluate everything and drop incomplete rows; return the mask of dropped rows, None if there are none."""
        groups = [f for group in plan.groups for f in group]
        grouping = set(groups)
        regular = [f for term in (*plan.fixed, *(t for terms in plan.random for t in terms)) for f in term.factors]
        regular += [*plan.responses, *plan.offsets, *([plan.weights] if plan.weights is not None else [])]
        waiting = [f for f in dict.fromkeys(regular) if not self._evaluate(f)]
        for factor in dict.fromkeys(groups):
            self._label(factor)
        found: dict[str, np.ndarray] = {}
        skip = set(plan.responses) if keep_missing_endog else set()
        for factor, value in self.encoded.items():
            if factor not in skip:
                self._note(found, factor.name(), value.missing())
        for factor in grouping:
            codes = self.labels[factor][0]
            self._note(found, factor.name(), codes < 0 if codes.size and codes.min() < 0 else None)
        for factor in waiting:
            for name in set().union(*names_in(factor)) & set(self.source.frame.columns):
                self._note(found, str(name), self.source.column(name).missing())
        for name, array in self.arrays.items():
            self._note(found, name, np.isnan(array) if np.isnan(array).any() else None)
        mask = self._drop(found, missing)
        for factor in waiting:
            learn(factor, self.states[factor], self.source)
            value = encode(evaluate(factor, self.states[factor], self.source), self.source.nobs, factor.name())
            if value.missing() is not None:
                raise DataError(f"{factor.name()} is missing in rows where its columns are not")
            self.encoded[factor] = value
        return mask

    @staticmethod
    def _note(found: dict[str, np.ndarray], name: str, mask: np.ndarray | None) -> None:
        if mask is not None:
            found[name] = mask

    def _evaluate(self, factor: EvalFactor) -> bool:
        """Encode a factor; False if it must see complete rows first."""
        name = column_of(factor)
        if name is not None and name in self.source:
            self.encoded[factor] = self.source.column(name)
            return True
        self.states[factor], stateful = prepare(factor, self.source)
        if stateful:
            return False
        value = evaluate(factor, self.states[factor], self.source)
        self.encoded[factor] = encode(value, self.source.nobs, factor.name())
        return True

    def _label(self, factor: EvalFactor) -> None:
        name = column_of(factor)
        if name is not None and name in self.source:
            self.labels[factor] = self.source.labels(name)
            return
        self.states[factor], stateful = prepare(factor, self.source)
        if stateful:
            raise FormulaError(f"grouping factor {factor.name()} must not depend on the whole column")
        value = evaluate(factor, self.states[factor], self.source)
        self.labels[factor] = encode_labels(value)
        if len(self.labels[factor][0]) != self.source.nobs:
            raise DataError(f"grouping factor {factor.name()} has another length than the data")

    def _drop(self, found: dict[str, np.ndarray], missing: str) -> np.ndarray | None:
        if self.source.nobs == 0:
            raise MissingDataError("the data have no rows")
        if not found:
            return None
        mask = np.logical_or.reduce(list(found.values()))
        counts = ", ".join(f"{name} ({int(m.sum())} of {m.size} rows)" for name, m in found.items())
        if missing != "drop":
            raise MissingDataError(f"values are missing in {counts}; missing='drop' leaves these rows out")
        if mask.all():
            raise MissingDataError(f"no complete rows are left; values are missing in {counts}")
        rows = np.flatnonzero(~mask)
        self.source = self.source.take(rows)
        self.encoded = {factor: value.take(rows) for factor, value in self.encoded.items()}
        for factor, (codes, levels) in self.labels.items():
            self.labels[factor] = encode_labels(pd.Categorical.from_codes(codes[rows], levels))
        self.arrays = {name: array[rows] for name, array in self.arrays.items()}
        return mask


def _finite(values: np.ndarray, shown: str) -> None:
    """Refuse infinite values; NaN may stay where the caller allows it."""
    with np.errstate(invalid="ignore", over="ignore"):
        if np.isfinite(values.sum()):
            return
    if np.isinf(values).any():
        raise DataError(f"{shown} holds infinite values in {int(np.isinf(values).sum())} rows; only finite ones fit")


def _response(
    plan: _Plan, parts: FormulaParts, values: _Values, categorical: bool
) -> tuple[pd.Series | pd.DataFrame, pd.Index | None]:
    """Response as labelled floats, with the labels of a categorical one."""
    index = values.source.frame.index
    outcomes = []
    levels = None
    for factor, text in zip(plan.responses, parts.responses, strict=True):
        value = values.encoded[factor]
        if value.categories is not None:
            boolean = value.categories.dtype == bool
            if not boolean and not (categorical and len(plan.responses) == 1):
                raise DataError(f"the response {text!r} must be numeric, found labels; {known(value.categories)}")
            if len(value.categories) != 2:
                raise DataError(
                    f"the response {text!r} has {len(value.categories)} levels; a categorical response needs two"
                )
            levels = value.categories if categorical else None
            value = Encoded(np.where(value.values < 0, np.nan, value.values))
        _finite(value.values, f"the response {text!r}")
        outcomes.append(value)
    if len(outcomes) == 1 and outcomes[0].values.ndim == 1:
        return pd.Series(outcomes[0].values, index=index, name=parts.responses[0], copy=False), levels
    columns, names = [], []
    for value, text in zip(outcomes, parts.responses, strict=True):
        several = value.values.ndim == 2
        columns += list(value.values.T) if several else [value.values]
        names += [f"{text}[{j}]" for j in range(value.n_columns)] if several else [text]
    return pd.DataFrame(np.column_stack(columns), index=index, columns=names), levels


def _fixed_effects(plan: _Plan, values: _Values) -> tuple[pd.DataFrame, DesignInfo, tuple[str, ...]]:
    """Fixed-effects columns, those left out that earlier ones determine."""
    for term in plan.fixed:
        for factor in term.factors:
            categories = values.encoded[factor].categories
            if categories is not None and len(categories) < 2:
                raise DataError(f"{factor.name()} has a single level in the rows used; {known(categories)}")
    info = coding.design_info(plan.fixed, values.encoded, values.states)
    matrix = coding.matrix(info, values.encoded, values.source.nobs)
    with np.errstate(invalid="ignore", over="ignore"):
        finite = np.isfinite(matrix.sum(axis=0))
    if not finite.all():
        for j in np.flatnonzero(~finite):
            _finite(matrix[:, j], f"the column {info.column_names[j]!r}")
    kept = independent_columns(matrix)
    dropped: tuple[str, ...] = ()
    if len(kept) < matrix.shape[1]:
        dropped = tuple(name for j, name in enumerate(info.column_names) if j not in set(kept.tolist()))
        matrix = np.asfortranarray(matrix[:, kept])
        info = coding.keep_columns(info, kept)
    exog = pd.DataFrame(matrix, index=values.source.frame.index, columns=info.column_names, copy=False)
    return exog, info, dropped


def _random_effects(
    plan: _Plan, parts: FormulaParts, values: _Values
) -> tuple[RandomEffects | None, tuple[DesignInfo, ...], tuple[GroupSpec, ...]]:
    """Random-effects terms; terms on one grouping factor share its object."""
    factors: dict[str, tuple[GroupingFactor, GroupSpec]] = {}
    terms, infos, specs = [], [], []
    for spec, effects, group in zip(parts.random, plan.random, plan.groups, strict=True):
        if spec.group not in factors:
            factors[spec.group] = _grouping(spec.group, group, values)
        factor, group_spec = factors[spec.group]
        info = coding.design_info(effects, values.encoded, values.states)
        columns = tuple(coding.columns(info, values.encoded))
        for name, column in zip(info.column_names, columns, strict=True):
            if column is not None:
                _finite(column, f"the column {name!r} of {spec.text}")
        structure = Unstructured if spec.structure == "us" else Diagonal
        terms.append(RandomTerm(factor, columns, tuple(info.column_names), structure(len(columns)), spec.text))
        infos.append(info)
        specs.append(group_spec)
    return (RandomEffects(terms) if terms else None), tuple(infos), tuple(specs)


def _grouping(name: str, group: Sequence[EvalFactor], values: _Values) -> tuple[GroupingFactor, GroupSpec]:
    parts = [values.labels[factor] for factor in group]
    codes, levels = interact_labels(parts)
    states = tuple(values.states.get(factor) for factor in group)
    return GroupingFactor(name, codes, levels), GroupSpec(tuple(group), states, tuple(part[1] for part in parts))


def _number(factor: EvalFactor, values: _Values, role: str) -> np.ndarray:
    value = values.encoded[factor]
    if value.categories is not None or value.values.ndim != 1:
        raise DataError(f"{role} {factor.name()!r} must be one numeric column")
    _finite(value.values, f"{role} {factor.name()!r}")
    return value.values


def _weights(plan: _Plan, values: _Values) -> np.ndarray | None:
    weights = values.arrays.get("weights")
    if plan.weights is not None:
        weights = _number(plan.weights, values, "weights")
    if weights is None:
        return None
    _finite(weights, "weights")
    if (weights < 0).any():
        raise DataError(f"weights must not be negative, found {weights.min():g} as the smallest")
    return weights


def _offset(plan: _Plan, values: _Values) -> np.ndarray | None:
    pieces = [_number(factor, values, "offset") for factor in plan.offsets]
    if "offset" in values.arrays:
        _finite(values.arrays["offset"], "offset")
        pieces.append(values.arrays["offset"])
    return np.sum(pieces, axis=0) if pieces else None
