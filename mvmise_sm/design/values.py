"""Every factor of a formula on the rows of a model: names checked, values encoded, incomplete rows dropped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from patsy import EvalEnvironment, EvalFactor, Term

from mvmise_sm.caller import warn
from mvmise_sm.design.codings import coding_of
from mvmise_sm.design.columns import Encoded, Source, column_of, encode, evaluate, learn, names_in, prepare
from mvmise_sm.design.grouping import encode_labels
from mvmise_sm.exceptions import DataError, DataWarning, FormulaError, MissingDataError, OptionError
from mvmise_sm.formula.parts import FormulaParts, expand_terms, named_factor
from mvmise_sm.formula.residual import ResidualSpec
from mvmise_sm.formula.tree import tokenize, translate

__all__ = ["Plan", "Values", "given_array", "odd_names", "plan_factors", "subset_rows", "with_variables"]


@dataclass(frozen=True)
class Plan:
    """All factors of a model, for one set of columns."""

    responses: tuple[EvalFactor, ...]
    fixed: tuple[Term, ...]
    random: tuple[tuple[Term, ...], ...]
    groups: tuple[tuple[EvalFactor, ...], ...]
    offsets: tuple[EvalFactor, ...]
    weights: EvalFactor | None
    member_weights: tuple[tuple[EvalFactor, ...], ...] = ()
    members: tuple[bool, ...] = ()
    residual: tuple[EvalFactor, ...] = ()
    residual_labels: tuple[EvalFactor, ...] = ()

    @property
    def factors(self) -> Iterable[EvalFactor]:
        """Every factor, grouping factors included."""
        for terms in (self.fixed, *self.random):
            for term in terms:
                yield from term.factors
        yield from self.responses + self.offsets + self.residual + self.residual_labels
        for group in (*self.groups, *self.member_weights):
            yield from group
        if self.weights is not None:
            yield self.weights


@lru_cache(maxsize=512)
def plan_factors(
    parts: FormulaParts,
    offset: str | None,
    weights: str | None,
    dotted: frozenset[str],
    residual: ResidualSpec | None = None,
) -> Plan:
    """Turn a formula, an offset, weights and a residual structure into factors; `dotted` are the columns with odd
    names.
    """
    offsets = parts.offsets if offset is None else (*parts.offsets, offset)
    return Plan(
        responses=tuple(_expression(text, dotted) for text in parts.responses),
        fixed=expand_terms(parts.rhs, dotted),
        random=tuple(expand_terms(spec.effects, dotted) for spec in parts.random),
        groups=tuple(
            tuple(_expression(text, dotted) for text in spec.members or spec.factors) for spec in parts.random
        ),
        member_weights=tuple(tuple(_expression(text, dotted) for text in spec.member_weights) for spec in parts.random),
        members=tuple(bool(spec.members) for spec in parts.random),
        offsets=tuple(_expression(text, dotted) for text in offsets),
        weights=None if weights is None else _expression(weights, dotted),
        residual=tuple(_expression(text, dotted) for text in (residual.levels if residual else ())),
        residual_labels=tuple(
            _expression(text, dotted) for text in ((residual.subject, residual.group) if residual else ()) if text
        ),
    )


def _expression(text: str, dotted: frozenset[str]) -> EvalFactor:
    """A text that is one Python expression, formula operators being arithmetic."""
    if text in dotted:
        text = f"`{text}`"
    if not tokenize(text):
        raise FormulaError("an expression is empty")
    return named_factor(*translate(text, dotted))


# the columns that were looked at last, and their odd names: an Index never changes
_LOOKED_AT: list[tuple[pd.Index, frozenset[str]]] = []


def odd_names(frame: pd.DataFrame) -> frozenset[str]:
    """Columns that Python cannot name by themselves."""
    columns = frame.columns
    for known, names in _LOOKED_AT:
        if known is columns:
            return names
    names = frozenset(c for c in columns if isinstance(c, str) and not c.isidentifier())
    _LOOKED_AT[:] = [(columns, names)]
    return names


def with_variables(frame: pd.DataFrame, plan: Plan, environment: EvalEnvironment) -> tuple[pd.DataFrame, dict]:
    """Check all names; add array variables of the caller as columns and return the other ones."""
    source = Source(frame, environment)
    outside: set[str] = set()
    for factor in plan.factors:
        outside |= source.outside_names(factor)
    added, used = {}, {}
    for name in outside:
        value = environment.namespace[name]
        if np.ndim(value) == 1 and len(value) == len(frame) and not isinstance(value, str):
            added[name] = given_array(value, name, frame, numeric=False)
        else:
            used[name] = value
    return (frame.assign(**added) if added else frame), used


def given_array(value: Any, name: str, frame: pd.DataFrame, numeric: bool = True) -> Any:
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


def subset_rows(subset: Any, source: Source) -> np.ndarray:
    """Positions of the rows that `subset` selects."""
    if isinstance(subset, str):
        factor = _expression(subset, odd_names(source.frame))
        source.outside_names(factor)
        subset = np.asarray(evaluate(factor, prepare(factor, source)[0], source))
        if subset.dtype != bool:
            raise DataError("subset must be an expression that is true or false in every row")
    if callable(subset):
        raise DataError("subset must be booleans, index labels or an expression as a text, not a function")
    if np.asarray(subset).dtype == bool and not isinstance(subset, pd.Series) and np.size(subset) != source.nobs:
        raise DataError(f"subset has {np.size(subset)} values, but the data have {source.nobs} rows")
    positions = pd.Series(np.arange(source.nobs), index=source.frame.index)
    try:
        rows = positions.loc[subset]
    except (KeyError, IndexError, TypeError, ValueError, pd.errors.IndexingError) as error:
        raise DataError(f"subset does not fit the rows of the data: {error}") from None
    return np.atleast_1d(np.asarray(rows))


class Values:
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
    learnt : dict
        Factor -> state that has seen all data already, for factors that depend on whole columns.
    """

    def __init__(self, source: Source, arrays: dict[str, np.ndarray], learnt: Mapping[EvalFactor, dict] | None = None):
        self.source = source
        self.arrays = arrays
        self.learnt = {} if learnt is None else learnt
        self.encoded: dict[EvalFactor, Encoded] = {}
        self.labels: dict[EvalFactor, tuple[np.ndarray, pd.Index]] = {}
        self.states: dict[EvalFactor, dict] = {}

    def complete(self, plan: Plan, missing: str, keep_missing_endog: bool) -> np.ndarray | None:
        """Evaluate everything and drop incomplete rows; return the mask of dropped rows, None if there are none."""
        found, waiting = self.incomplete(plan, keep_missing_endog)
        mask = self._drop(found, missing)
        found = {}
        for factor in waiting:
            learn(factor, self.states[factor], self.source)
            value = encode(evaluate(factor, self.states[factor], self.source), self.source.nobs, factor.name())
            self._note(found, factor.name(), value.missing())
            self.encoded[factor] = value
        # cut() leaves values outside its breaks missing
        further = self._drop(found, missing)
        if further is None or mask is None:
            return mask if further is None else further
        mask[np.flatnonzero(~mask)[further]] = True
        return mask

    def incomplete(self, plan: Plan, keep_missing_endog: bool) -> tuple[dict[str, np.ndarray], list[EvalFactor]]:
        """Evaluate what needs no other rows.

        Returns
        -------
        found : dict
            What misses values -> rows (nobs,).
        waiting : list of EvalFactor
            Factors that must see all complete rows first.
        """
        groups = [*(f for group in plan.groups for f in group), *plan.residual_labels]
        # a row may have fewer members than there are columns for them
        several = [group for group, many in zip(plan.groups, plan.members, strict=True) if many]
        alone = [f for group, many in zip(plan.groups, plan.members, strict=True) if not many for f in group]
        grouping = {*alone, *plan.residual_labels}
        regular = [f for term in (*plan.fixed, *(t for terms in plan.random for t in terms)) for f in term.factors]
        regular += [
            *plan.responses,
            *plan.offsets,
            *plan.residual,
            *([plan.weights] if plan.weights is not None else []),
        ]
        regular += [f for weights in plan.member_weights for f in weights]
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
        for group in several:
            absent = np.logical_and.reduce([self.labels[factor][0] < 0 for factor in group])
            self._note(found, f"mm({', '.join(f.name() for f in group)})", absent if absent.any() else None)
        for name, array in self.arrays.items():
            self._note(found, name, np.isnan(array) if np.isnan(array).any() else None)
        return found, waiting

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
        if factor in self.learnt:
            self.states[factor] = self.learnt[factor]
            self.encoded[factor] = encode(
                evaluate(factor, self.states[factor], self.source), self.source.nobs, factor.name()
            )
            return True
        self.states[factor], stateful = prepare(factor, self.source)
        if stateful:
            return False
        value = evaluate(factor, self.states[factor], self.source)
        self.encoded[factor] = encode(value, self.source.nobs, factor.name())
        self._mention_undefined(factor)
        return True

    def _mention_undefined(self, factor: EvalFactor) -> None:
        """Warn where an expression is not a number although its columns are, unless numpy's ``errstate`` mutes that."""
        missing = self.encoded[factor].missing()
        if missing is None or np.geterr()["invalid"] == "ignore":
            return
        for name in set().union(*names_in(factor)) & set(self.source.frame.columns):
            known = self.source.column(name).missing()
            missing = missing if known is None else missing & ~known
        if missing.any():
            warn(
                f"{factor.name()} is not a number in {int(missing.sum())} of {missing.size} rows where its columns are "
                "numbers; these rows count as missing",
                DataWarning,
            )

    def code(self, codings: dict[str, Any]) -> None:
        """Give factors the codings that the caller asks for, by column.

        Raises
        ------
        OptionError
            If a column is no factor of the formula.
        """
        if not codings:
            return
        columns = {column_of(factor): factor for factor in self.encoded}
        factors = [name for name, f in columns.items() if name is not None and self.encoded[f].categories is not None]
        for name, given in codings.items():
            if name not in factors:
                known = ", ".join(factors) or "none"
                raise OptionError(f"contrasts: {name!r} is not a factor of the formula; its factors are {known}")
            value = self.encoded[columns[name]]
            assert value.categories is not None
            self.encoded[columns[name]] = replace(value, contrast=coding_of(name, given, value.categories))

    def _label(self, factor: EvalFactor) -> None:
        name = column_of(factor)
        if name is not None and name in self.source:
            self.labels[factor] = self.source.labels(name)
            return
        self.states[factor], stateful = prepare(factor, self.source)
        if stateful:
            raise FormulaError(f"grouping factor {factor.name()} must not depend on the whole column")
        value = evaluate(factor, self.states[factor], self.source)
        self.labels[factor] = encode_labels(value, f"grouping factor {factor.name()!r}")
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
