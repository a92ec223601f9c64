"""The first pass over a source: which levels there are, a sample of rows, and the states of transforms."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import pandas as pd
from patsy import EvalEnvironment, EvalFactor

from mvmise_sm.design.columns import Source, check_sizes, column_of, names_in, prepare, see
from mvmise_sm.design.values import Plan, Values, odd_names, plan_factors, subset_rows
from mvmise_sm.exceptions import DataError, MissingDataError
from mvmise_sm.formula.parts import FormulaParts, parse_formula

__all__ = ["LEVEL", "Reader", "Survey", "learn_states", "survey", "united"]

# rows that fix the working coordinates: they serve rounding only
_SAMPLE = 20_000
# a transform that needs quantiles holds its column up to so many rows
_LARGEST_COLUMN = 50_000_000
# first column of a table of witnesses
LEVEL = "level of the factor"
# integers within such a range are looked up in a table of 128 MB
_LARGEST_RANGE = 2**27


@dataclass(frozen=True)
class Reader:
    """A formula and its options as they apply to every block.

    Attributes
    ----------
    formula : str
    weights, offset, subset : str or None
        Column names or expressions.
    missing : {"drop", "raise"}
    environment : EvalEnvironment
        Variables of the caller.
    """

    formula: str
    weights: str | None = None
    offset: str | None = None
    subset: str | None = None
    missing: str = "drop"
    environment: EvalEnvironment = field(default_factory=lambda: EvalEnvironment([]), compare=False)

    @cached_property
    def parts(self) -> FormulaParts:
        """The parsed formula."""
        return parse_formula(self.formula)

    def factors(self, columns: Sequence[str]) -> Plan:
        """Every factor of the formula for a source with these columns."""
        odd = odd_names(pd.DataFrame(columns=list(columns)))
        return plan_factors(self.parts, self.offset, self.weights, odd)

    def used(self, columns: Sequence[str]) -> list[str]:
        """Columns that the formula, its options and the subset use."""
        mentioned: set[str] = set()
        for factor in self.factors(columns).factors:
            names, quoted = names_in(factor)
            mentioned |= names | quoted
        if self.subset is not None:
            subset = plan_factors(self.parts, self.subset, None, odd_names(pd.DataFrame(columns=list(columns))))
            names, quoted = names_in(subset.offsets[-1])
            mentioned |= names | quoted
        return [name for name in columns if name in mentioned]

    def checked(self, frame: pd.DataFrame) -> None:
        """Refuse names that are found nowhere, and arrays of the caller, which have no rows here.

        Raises
        ------
        UnknownColumnError, DataError
        """
        source = Source(frame, self.environment)
        for factor in self.factors(list(frame.columns)).factors:
            for name in source.outside_names(factor):
                if np.ndim(self.environment.namespace[name]) > 0:
                    raise DataError(f"{name!r} is an array; a source read in chunks needs it as one of its columns")

    def rows(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The rows of a block that `subset` selects."""
        if self.subset is None or not len(frame):
            return frame
        return frame.iloc[subset_rows(self.subset, Source(frame, self.environment))]


def stateful_factors(reader: Reader, frame: pd.DataFrame) -> list[str]:
    """Codes of the factors that depend on whole columns, such as ``center(x)``."""
    source = Source(frame, reader.environment)
    factors = reader.factors(list(frame.columns)).factors
    return [f.code for f in factors if f.code not in source and prepare(f, source)[1]]


@dataclass(eq=False)
class Survey:
    """What one pass over complete rows finds; surveys of parts merge.

    Attributes
    ----------
    nobs : int
        Complete rows.
    witnesses : dict
        Code of a categorical factor -> frame with one row per level: the level (first column) and values of the columns
        that the factor uses there.
    groups : dict
        Name of a grouping factor -> frame of the distinct labels of its parts.
    sample : list of DataFrame
        Some complete rows, at most some twenty thousand.
    stride : int
        Every how many rows the sample holds.
    """

    nobs: int = 0
    witnesses: dict[str, pd.DataFrame] = field(default_factory=dict)
    groups: dict[str, pd.DataFrame] = field(default_factory=dict)
    sample: list[pd.DataFrame] = field(default_factory=list)
    stride: int = 1

    def keep_sample(self, frame: pd.DataFrame) -> None:
        """Add every `stride`-th row of a frame of complete rows."""
        self.sample.append(frame.iloc[:: self.stride])
        if sum(map(len, self.sample)) > _SAMPLE:
            self.sample = [pd.concat(self.sample, ignore_index=True).iloc[::2]]
            self.stride *= 2

    def merge(self, other: Survey) -> Survey:
        """The survey of both parts."""
        out = Survey(self.nobs + other.nobs, united(self.witnesses, other.witnesses), united(self.groups, other.groups))
        out.stride = max(self.stride, other.stride)
        for part, stride in ((p, s.stride) for s in (self, other) for p in s.sample):
            out.keep_sample(part.iloc[:: max(1, out.stride // stride)])
        return out


class _SeenIntegers:
    """Which integers of a small range occur, in a table of one byte each."""

    def __init__(self) -> None:
        self._low = 0
        self._seen = np.zeros(0, dtype=bool)

    def add(self, values: np.ndarray) -> bool:
        """Note values (n,), at least one; False where the range is too large, and nothing is noted."""
        low, high = int(values.min()), int(values.max())
        known = len(self._seen)
        first = min(low, self._low) if known else low
        last = max(high, self._low + known - 1) if known else high
        if last - first >= _LARGEST_RANGE:
            return False
        if last - first >= known or first < self._low:
            wider = np.zeros(last - first + 1, dtype=bool)
            wider[self._low - first : self._low - first + known] = self._seen
            self._low, self._seen = first, wider
        self._seen[values if first == 0 else values.astype(np.int64) - first] = True
        return True

    def labels(self) -> np.ndarray:
        """The integers that occur, ascending (k,) int64."""
        return np.flatnonzero(self._seen) + self._low


class _GroupTables:
    """Distinct labels of grouping factors, block by block; what waits is united when it outgrows what is known."""

    # rows of a table below which uniting costs more than holding
    _WORTH_UNITING = 1_000_000

    def __init__(self) -> None:
        self._known: dict[str, list[pd.DataFrame]] = {}
        self._integers: dict[str, _SeenIntegers] = {}

    def add(self, name: str, table: pd.DataFrame) -> None:
        """Note labels, one row each."""
        parts = self._known.setdefault(name, [])
        parts.append(table)
        if sum(map(len, parts[1:])) > max(self._WORTH_UNITING, len(parts[0])):
            self._known[name] = [self._united(name)]

    def add_columns(self, columns: Mapping[str, np.ndarray]) -> bool:
        """Note integer columns (n,) by grouping factor; False where the range of one is too large."""
        return all(self._integers.setdefault(name, _SeenIntegers()).add(values) for name, values in columns.items())

    def result(self) -> dict[str, pd.DataFrame]:
        """Tables of distinct labels by grouping factor."""
        for name, seen in self._integers.items():
            labels = seen.labels()
            if len(labels):
                self.add(name, pd.DataFrame({"0": labels}))
        return {name: self._united(name) for name in self._known}

    def _united(self, name: str) -> pd.DataFrame:
        parts = self._known[name]
        return parts[0] if len(parts) == 1 else _distinct(pd.concat(parts, ignore_index=True), name)


def united(first: Mapping[str, pd.DataFrame], second: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Tables of distinct keys by name; rows of the first table win."""
    out = dict(first)
    for name, table in second.items():
        out[name] = _distinct(pd.concat([out[name], table], ignore_index=True), name) if name in out else table
    return out


def _distinct(table: pd.DataFrame, name: str) -> pd.DataFrame:
    keys = [table.columns[0]] if table.columns[0] == LEVEL else list(table.columns)
    return table[~table.duplicated(keys)].reset_index(drop=True)


def survey(reader: Reader, frames: Iterable[pd.DataFrame], *, groups_only: bool = False) -> Survey:
    """Look at all complete rows.

    Parameters
    ----------
    reader : Reader
    frames : iterable of DataFrame
        Blocks.
    groups_only : bool, optional
        The blocks hold the columns of grouping factors only; nothing else depends on the data.

    Raises
    ------
    MissingDataError
        With ``missing="raise"``, where a value is missing.
    """
    out, groups = Survey(), _GroupTables()
    for frame in frames:
        chosen = frame if groups_only else reader.rows(frame)
        if not len(chosen):
            continue
        plan = reader.factors(list(frame.columns))
        if groups_only:
            plain = _integer_groups(reader, plan, chosen)
            if plain is not None and groups.add_columns(plain):
                out.nobs += len(chosen)
                continue
            plan = replace(plan, responses=(), fixed=(), random=(), offsets=(), weights=None)
        values = Values(Source(chosen, reader.environment), {})
        found, _ = values.incomplete(plan, False)
        if found and reader.missing != "drop":
            raise MissingDataError(f"values are missing in {', '.join(found)}; missing='drop' leaves these rows out")
        bad = np.logical_or.reduce(list(found.values())) if found else np.zeros(len(chosen), dtype=bool)
        if bad.all():
            continue
        rows = None if not bad.any() else np.flatnonzero(~bad)
        out.nobs += len(chosen) - int(bad.sum())
        _note_groups(groups, reader, plan, values, rows)
        if groups_only:
            continue
        for term in (*plan.fixed, *(t for terms in plan.random for t in terms)):
            for factor in term.factors:
                _note_levels(out, factor, values, rows)
        out.keep_sample(chosen if rows is None else chosen.iloc[rows])
    out.groups = groups.result()
    return out


def _integer_groups(reader: Reader, plan: Plan, frame: pd.DataFrame) -> dict[str, np.ndarray] | None:
    """Columns (n,) of the grouping factors where each is one column of integers, which misses no value; else None."""
    found = {}
    for spec, group in zip(reader.parts.random, plan.groups, strict=True):
        name = column_of(group[0]) if len(group) == 1 else None
        column = frame.get(name) if name is not None else None
        if not isinstance(column, pd.Series) or not isinstance(column.dtype, np.dtype) or column.dtype.kind != "i":
            return None
        found[spec.group] = column.to_numpy()
    return found


def _note_levels(out: Survey, factor: EvalFactor, values: Values, rows: np.ndarray | None) -> None:
    value = values.encoded.get(factor)
    if value is None or value.categories is None:
        return
    codes = value.values if rows is None else value.values[rows]
    present, first = np.unique(codes, return_index=True)
    known = out.witnesses.get(factor.code)
    levels = value.categories[present]
    if known is not None and levels.isin(pd.Index(known[LEVEL])).all():
        return
    at = first if rows is None else rows[first]
    names = [n for n in dict.fromkeys([*names_in(factor)[1], *sorted(names_in(factor)[0])]) if n in values.source]
    table = values.source.frame[names].iloc[at].reset_index(drop=True)
    table.insert(0, LEVEL, np.asarray(levels.astype(object)))
    if column_of(factor) is not None and isinstance(values.source.frame[names[0]].dtype, pd.CategoricalDtype):
        # the order of a categorical is part of its meaning; all its categories come along
        table[names[0]] = table[names[0]].astype(values.source.frame[names[0]].dtype)
    out.witnesses = united(out.witnesses, {factor.code: table})


def _note_groups(out: _GroupTables, reader: Reader, plan: Plan, values: Values, rows: np.ndarray | None) -> None:
    for spec, group in zip(reader.parts.random, plan.groups, strict=True):
        parts = []
        for factor in group:
            codes, levels = values.labels[factor]
            parts.append((codes if rows is None else codes[rows], levels))
        if len(parts) == 1:
            codes, levels = parts[0]
            # every level occurs in some row of the block
            used = levels if rows is None else levels[np.flatnonzero(np.bincount(codes, minlength=len(levels)))]
            table = pd.DataFrame({"0": used})
        else:
            cells = np.unique(np.column_stack([codes for codes, _ in parts]), axis=0)
            table = pd.DataFrame({str(i): levels[cells[:, i]] for i, (_, levels) in enumerate(parts)})
        out.add(spec.group, table)


def learn_states(
    reader: Reader, blocks: Callable[[], Iterable[pd.DataFrame]], columns: Sequence[str], first: pd.DataFrame, nobs: int
) -> dict[str, dict]:
    """Let the factors that depend on whole columns see all complete rows, block by block.

    Parameters
    ----------
    reader : Reader
    blocks : callable
        ``blocks()`` opens the source anew.
    columns : sequence of str
    first : DataFrame
        Some rows, to prepare the states.
    nobs : int
        Complete rows.
    """
    plan = reader.factors(columns)
    values = Values(Source(first, reader.environment), {})
    _, waiting = values.incomplete(plan, False)
    states = {factor: values.states[factor] for factor in waiting}
    for factor, state in states.items():
        check_sizes(factor, state, nobs)
        of = _quantiles_of(factor.code)
        if nobs > _LARGEST_COLUMN and of is not None:
            raise DataError(f"{factor.name()} needs the quantiles of {of} over {nobs:,} rows; give knots= and bounds")
    passes = max((len(state["pass_bins"]) for state in states.values()), default=0)
    for step in range(passes):
        for frame in blocks():
            chosen = reader.rows(frame)
            if not len(chosen):
                continue
            found, _ = Values(Source(chosen, reader.environment), {}).incomplete(plan, False)
            bad = np.logical_or.reduce(list(found.values())) if found else np.zeros(len(chosen), dtype=bool)
            if bad.all():
                continue
            source = Source(chosen if not bad.any() else chosen.iloc[np.flatnonzero(~bad)], reader.environment)
            for factor, state in states.items():
                if step < len(state["pass_bins"]):
                    see(factor, state, step, source)
        for factor, state in states.items():
            if step < len(state["pass_bins"]):
                factor.memorize_finish(state, step)
    return {factor.code: state for factor, state in states.items()}


# splines whose knots are quantiles unless they are given
_SPLINES = frozenset(("bs", "ns", "cr", "cc"))


def _quantiles_of(code: str) -> str | None:
    """What a spline in an expression takes the quantiles of; None where there is none, or its knots are given."""
    for node in ast.walk(ast.parse(code, mode="eval")):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args):
            continue
        # R's own bases have a prefix once a formula is read
        if node.func.id.removeprefix("R_") in _SPLINES:
            given = {keyword.arg for keyword in node.keywords}
            if "knots" not in given and ("df" in given or len(node.args) > 1):
                return ast.unparse(node.args[0])
    return None
