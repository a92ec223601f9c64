"""Formula parts and a data frame become arrays: response, fixed-effects matrix, random effects, weights and offset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from numbers import Integral
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
from patsy import DesignInfo, EvalEnvironment, EvalFactor

from mvmise_sm.caller import caller_depth
from mvmise_sm.core.covariance.random_effects import GroupingFactor, RandomEffects
from mvmise_sm.core.covariance.residual import ResidualTerm
from mvmise_sm.design import coding as coding
from mvmise_sm.design.codings import checked_codings
from mvmise_sm.design.columns import Encoded, Source, column_of, known, names_in
from mvmise_sm.design.grouping import interact_labels
from mvmise_sm.design.rank import independent_columns
from mvmise_sm.design.relationships import membership_factor, with_relationships
from mvmise_sm.design.residual import check_nesting, residual_term
from mvmise_sm.design.structures import random_term
from mvmise_sm.design.values import Plan, Values, given_array, odd_names, plan_factors, subset_rows, with_variables
from mvmise_sm.exceptions import DataError, OptionError
from mvmise_sm.formula.parts import FormulaParts, RandomSpec, parse_formula
from mvmise_sm.formula.residual import ResidualSpec

__all__ = ["Design", "GroupSpec", "as_frame", "build_design", "caller_environment"]


# Before pandas 3 a later assignment to the user's frame would change arrays that refer to it.
_COPY_ON_WRITE = int(pd.__version__.split(".")[0]) >= 3

# types of data that lmer and glmer read in chunks, and that are no frames
_SOURCES = frozenset(("Chunks", "CrossProducts", "FileSystemDataset", "InMemoryDataset", "UnionDataset"))

# cells of a factor's columns, 32 GB
_LARGEST_DESIGN = 4e9


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
    several : bool
        Whether the expressions are the members of a row, which belongs to several levels.
    weights : tuple of (EvalFactor, dict or None)
        Weights of the members, with patsy's state.
    """

    factors: tuple[EvalFactor, ...]
    states: tuple[dict | None, ...]
    part_levels: tuple[pd.Index, ...]
    several: bool = False
    weights: tuple[tuple[EvalFactor, dict | None], ...] = ()


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
    full_spec : patsy.DesignInfo
        Specification before columns were dropped; `model_spec` itself where none were.
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
    given_index : pandas.Index or None
        Labels of the rows of the data, after `subset`, where some were dropped.
    residual : ResidualTerm or None
        Residual structure; None for independent residuals of one variance.
    residual_labels : tuple of tuple of str
        Labels of its levels and of its groups, which survive the rows.
    """

    parts: FormulaParts
    endog: pd.Series | pd.DataFrame
    endog_levels: pd.Index | None
    exog: pd.DataFrame
    random: RandomEffects | None
    model_spec: DesignInfo
    full_spec: DesignInfo
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
    given_index: pd.Index | None = None
    residual: ResidualTerm | None = None
    residual_labels: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())

    @property
    def formula(self) -> str:
        """The two-sided formula of the fixed effects."""
        return self.parts.fixed

    @property
    def exog_names(self) -> list[str]:
        """Names of the fixed-effects columns (p)."""
        return self.model_spec.column_names

    def __reduce__(self) -> Any:
        offset = self.offset_argument if isinstance(self.offset_argument, str) else None
        spec = self.options.get("residual")
        plan = plan_factors(self.parts, offset, None, odd_names(self.frame), spec)
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


def caller_environment(
    eval_env: int | Mapping | EvalEnvironment | None = None, depth: int | None = None
) -> EvalEnvironment:
    """Capture the variables that formula expressions may use.

    Parameters
    ----------
    eval_env : int, mapping, EvalEnvironment or None, optional
        0 or None is the first caller outside of the package, larger numbers go further up, -1 is empty; a mapping gives
        the variables itself.
    depth : int, optional
        Frames between the function that calls this one and the user; found by walking out of the package by default.
    """
    if isinstance(eval_env, EvalEnvironment):
        return eval_env
    if isinstance(eval_env, Mapping):
        return EvalEnvironment([dict(eval_env)])
    if eval_env is not None and not isinstance(eval_env, Integral):
        raise OptionError(
            "eval_env must be an integer, a dict of variables or patsy's EvalEnvironment, not "
            f"{type(eval_env).__name__}"
        )
    if eval_env == -1:
        return EvalEnvironment([])
    outside = caller_depth() if depth is None else depth + 1
    try:
        return EvalEnvironment.capture((eval_env or 0) + outside)
    except ValueError:
        raise OptionError(f"eval_env={eval_env} goes further up than there are callers") from None


def as_frame(data: Any) -> pd.DataFrame:
    """Return `data` as a DataFrame; dicts, record arrays and frames of other libraries are converted."""
    if isinstance(data, pd.DataFrame):
        return data
    if isinstance(data, pd.Series):
        one_row = all(isinstance(label, str) for label in data.index)
        return data.to_frame().T.infer_objects() if one_row else data.to_frame()
    if hasattr(data, "to_pandas"):
        return data.to_pandas()
    if data is None:
        raise DataError("data must be a DataFrame or a mapping of columns, not None")
    if type(data).__name__ in _SOURCES:
        raise DataError(f"this model needs its rows at every step and cannot be streamed; found {type(data).__name__}")
    try:
        if isinstance(data, Mapping) and all(np.ndim(value) == 0 for value in data.values()):
            return pd.DataFrame([dict(data)])
        return pd.DataFrame(data)
    except (ValueError, TypeError) as error:
        raise DataError(
            f"data must be a DataFrame or a mapping of columns, not {type(data).__name__}: {error}"
        ) from None


def build_design(
    parts: FormulaParts,
    data: Any,
    *,
    missing: str = "drop",
    weights: Any = None,
    offset: Any = None,
    subset: Any = None,
    keep_missing_endog: bool = False,
    categorical_response: bool | str = False,
    residual: ResidualSpec | None = None,
    cov: Mapping | None = None,
    contrasts: Mapping[str, Any] | None = None,
    namespace: Mapping | EvalEnvironment | None = None,
    learnt: Mapping[EvalFactor, dict] | None = None,
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
    residual : ResidualSpec, optional
        Structure of the residuals.
    cov : mapping, optional
        Known covariances of the levels of grouping factors, by their names.
    contrasts : mapping, optional
        Column of a factor -> its coding: R's ``"contr.treatment"``, ``"contr.sum"``, ``"contr.helmert"``,
        ``"contr.poly"``, ``"contr.SAS"``, a matrix (levels, columns) or a contrast of patsy.
    namespace : mapping or EvalEnvironment, optional
        Variables besides the columns, see `caller_environment`.
    learnt : mapping, optional
        States of factors that have seen other data than these.

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
    frame = as_frame(data) if _COPY_ON_WRITE else as_frame(data).copy()
    plan = plan_factors(
        parts, *(v if isinstance(v, str) else None for v in (offset, weights)), odd_names(frame), residual
    )
    frame, used = with_variables(frame, plan, environment)
    source = Source(frame, environment)
    arrays = {
        name: given_array(value, name, frame)
        for name, value in (("weights", weights), ("offset", offset))
        if value is not None and not isinstance(value, str)
    }
    if subset is not None:
        rows = subset_rows(subset, source)
        source = source.take(rows)
        arrays = {name: array[rows] for name, array in arrays.items()}
    values = Values(source, arrays, learnt)
    codings = checked_codings(contrasts)
    mask = values.complete(plan, missing, keep_missing_endog)
    values.code(codings)
    endog, levels = _response(plan, parts, values, categorical_response)
    exog, info, full, dropped = _fixed_effects(plan, values)
    random, random_specs, group_specs = _random_effects(plan, parts, values)
    random = with_relationships(random, cov)
    term = None if residual is None else _residual(residual, plan, values)
    if term is not None:
        random = random or RandomEffects([], values.source.nobs)
        check_nesting(term, random.factors)
    offset_specs = tuple((f, values.states.get(f)) for f in plan.offsets)
    return Design(
        parts=parts,
        endog=endog,
        endog_levels=levels,
        exog=exog,
        random=random,
        model_spec=info,
        full_spec=full,
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
        options={
            "keep_missing_endog": keep_missing_endog,
            "categorical_response": categorical_response,
            "residual": residual,
            "cov": cov,
            "contrasts": codings or None,
        },
        given_index=None if mask is None else source.frame.index,
        residual=term,
        residual_labels=((), ()) if term is None else (term.structure.levels, term.structure.groups),
    )


def _finite(values: np.ndarray, shown: str) -> None:
    """Refuse infinite values; NaN may stay where the caller allows it."""
    with np.errstate(invalid="ignore", over="ignore"):
        if np.isfinite(values.sum()):
            return
    if np.isinf(values).any():
        raise DataError(f"{shown} holds infinite values in {int(np.isinf(values).sum())} rows; only finite ones fit")


def _response(
    plan: Plan, parts: FormulaParts, values: Values, categorical: bool | str
) -> tuple[pd.Series | pd.DataFrame, pd.Index | None]:
    """Response as labelled floats, with the labels of a categorical one."""
    index, levels = values.source.frame.index, None
    outcomes = []
    for factor, text in zip(plan.responses, parts.responses, strict=True):
        value = values.encoded[factor]
        if value.categories is not None:
            boolean = value.categories.dtype == bool
            if not boolean and not (categorical and len(plan.responses) == 1):
                raise DataError(f"the response {text!r} must be numeric, found labels; {known(value.categories)}")
            if len(value.categories) != 2 and categorical != "levels":
                raise DataError(
                    f"the response {text!r} has {len(value.categories)} levels; a categorical response needs two"
                )
            levels = value.categories if categorical else None
            value = Encoded(np.where(value.values < 0, np.nan, value.values))
        _finite(value.values, f"the response {text!r}")
        outcomes.append(value)
    if len(outcomes) == 1 and outcomes[0].values.ndim == 1:
        name, column = parts.responses[0], values.source.floats(column_of(plan.responses[0]))
        if column is not None and column.name == name:
            return column, levels
        return pd.Series(outcomes[0].values, index=index, name=name, copy=False), levels
    columns, names = [], []
    for value, text in zip(outcomes, parts.responses, strict=True):
        several = value.values.ndim == 2
        columns += list(value.values.T) if several else [value.values]
        names += [f"{text}[{j}]" for j in range(value.n_columns)] if several else [text]
    return pd.DataFrame(np.column_stack(columns), index=index, columns=names), levels


def _fixed_effects(plan: Plan, values: Values) -> tuple[pd.DataFrame, DesignInfo, DesignInfo, tuple[str, ...]]:
    """Fixed-effects columns, those left out that earlier ones determine; their specification, and that of all."""
    for term in plan.fixed:
        for factor in term.factors:
            categories = values.encoded[factor].categories
            if categories is not None and len(categories) < 2:
                raise DataError(f"{factor.name()} has a single level in the rows used; {known(categories)}")
            if categories is not None and len(categories) * values.source.nobs > _LARGEST_DESIGN:
                raise DataError(
                    f"{factor.name()} has {len(categories):,} levels in {values.source.nobs:,} rows, too many for "
                    f"fixed effects; write (1 | {factor.name()}) for random ones"
                )
    full = info = coding.design_info(plan.fixed, values.encoded, values.states)
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
    exog = pd.DataFrame(
        matrix, index=values.source.frame.index, columns=coding.column_index(tuple(info.column_names)), copy=False
    )
    return exog, info, full, dropped


def _random_effects(
    plan: Plan, parts: FormulaParts, values: Values
) -> tuple[RandomEffects | None, tuple[DesignInfo, ...], tuple[GroupSpec, ...]]:
    """Random-effects terms; terms on one grouping factor share its object."""
    factors: dict[str, tuple[GroupingFactor, GroupSpec]] = {}
    terms, infos, specs = [], [], []
    for spec, effects, group, weights in zip(parts.random, plan.random, plan.groups, plan.member_weights, strict=True):
        if spec.group not in factors:
            factors[spec.group] = (
                _membership(spec, group, weights, values) if spec.members else _grouping(spec.group, group, values)
            )
        factor, group_spec = factors[spec.group]
        info = coding.design_info(effects, values.encoded, values.states)
        columns = tuple(coding.columns(info, values.encoded))
        for name, column in zip(info.column_names, columns, strict=True):
            if column is not None:
                _finite(column, f"the column {name!r} of {spec.text}")
        terms.append(random_term(spec, factor, columns, tuple(info.column_names)))
        infos.append(info)
        specs.append(group_spec)
    return (RandomEffects(terms) if terms else None), tuple(infos), tuple(specs)


def _membership(
    spec: RandomSpec, group: Sequence[EvalFactor], weights: Sequence[EvalFactor], values: Values
) -> tuple[GroupingFactor, GroupSpec]:
    given = [_number(factor, values, "weights") for factor in weights] or None
    factor = membership_factor(spec.group, [values.labels[f] for f in group], given)
    states = tuple(values.states.get(f) for f in group)
    of_weights = tuple((f, values.states.get(f)) for f in weights)
    return factor, GroupSpec(tuple(group), states, (pd.Index(factor.levels),) * len(group), True, of_weights)


def _residual(spec: ResidualSpec, plan: Plan, values: Values) -> ResidualTerm:
    labels = [values.labels[factor] for factor in plan.residual_labels]
    return residual_term(
        spec,
        [values.encoded[factor] for factor in plan.residual],
        labels[0] if labels else None,
        labels[1] if len(labels) > 1 else None,
        values.source.nobs,
        values.source.frame.index,
    )


def _grouping(name: str, group: Sequence[EvalFactor], values: Values) -> tuple[GroupingFactor, GroupSpec]:
    parts = [values.labels[factor] for factor in group]
    codes, levels = interact_labels(parts)
    states = tuple(values.states.get(factor) for factor in group)
    return GroupingFactor(name, codes, levels), GroupSpec(tuple(group), states, tuple(part[1] for part in parts))


def _number(factor: EvalFactor, values: Values, role: str) -> np.ndarray:
    value = values.encoded[factor]
    if value.categories is not None or value.values.ndim != 1:
        raise DataError(f"{role} {factor.name()!r} must be one numeric column")
    _finite(value.values, f"{role} {factor.name()!r}")
    return value.values


def _weights(plan: Plan, values: Values) -> np.ndarray | None:
    weights = values.arrays.get("weights")
    if plan.weights is not None:
        weights = _number(plan.weights, values, "weights")
    if weights is None:
        return None
    _finite(weights, "weights")
    if (weights < 0).any():
        raise DataError(f"weights must not be negative, found {weights.min():g} as the smallest")
    return weights


def _offset(plan: Plan, values: Values) -> np.ndarray | None:
    pieces = [_number(factor, values, "offset") for factor in plan.offsets]
    if "offset" in values.arrays:
        _finite(values.arrays["offset"], "offset")
        pieces.append(values.arrays["offset"])
    return np.sum(pieces, axis=0) if pieces else None
