"""Plans and sums as users hold them: made from a source, merged, added, sent from site to site."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from patsy import EvalEnvironment

from mvmise_sm.core.elimination.sums import FactorShape, RunningSums, SumPlan
from mvmise_sm.design.build import as_frame, caller_environment
from mvmise_sm.design.columns import Source, names_in, prepare
from mvmise_sm.design.grouping import encode_labels, interact_labels
from mvmise_sm.exceptions import DataError, OptionError, RandomEffectsError
from mvmise_sm.options import strict_options
from mvmise_sm.streaming import wire
from mvmise_sm.streaming.plan import Moments, StreamPlan, finished_plan
from mvmise_sm.streaming.sources import blocks, column_names, is_source, opened_chunks, partitions, shown
from mvmise_sm.streaming.states import merged_states, state_numbers, with_numbers
from mvmise_sm.streaming.survey import Reader, Survey, learn_states, stateful_factors, survey, united

__all__ = ["CrossProducts"]


@strict_options
class CrossProducts:
    """The statistic of a linear mixed model: a plan, which fixes levels and coordinates, and sums, without any row.

    ``CrossProducts.plan(formula, source)`` looks at a source, ``plan | plan`` unites what several sites have seen,
    ``plan.collect(source)`` sums a source, ``sums + sums`` adds, and ``ms.lmer(formula, sums)`` fits. Plans and sums
    hold labels of groups, means and scales of columns, and sums by group; they are not anonymous.

    Attributes
    ----------
    formula : str
    nobs : int
        Complete rows summed (of a plan: seen).
    n_groups : dict
        Levels of each grouping factor.
    blocks : int
        Blocks read.
    """

    def __init__(self, plan: StreamPlan, sums: RunningSums | None = None, source: str = "sums", n_blocks: int = 0):
        self._plan, self._sums = plan, sums
        self.source, self.blocks = source, n_blocks

    # --- making

    @classmethod
    def plan(cls, formula, source, *, weights=None, offset=None, subset=None, missing="drop", eval_env=None):
        """Look at a source and fix what is summed.

        Parameters
        ----------
        formula : str
        source : DataFrame or source
            See the guide on large data for what is read block by block.
        weights, offset, subset : str, optional
            Columns or expressions; arrays have no place in a source.
        missing : {"drop", "raise"}, optional
        eval_env : int, mapping or EvalEnvironment, optional
            Where expressions look for variables that are not columns; the caller by default.

        Returns
        -------
        CrossProducts
            A plan.
        """
        for name, value in (("weights", weights), ("offset", offset), ("subset", subset)):
            if value is not None and not isinstance(value, str):
                raise OptionError(
                    f"{name} must be a column name or an expression for a source read in chunks, not an array"
                )
        if missing not in ("drop", "raise"):
            raise OptionError(f"missing must be 'drop' or 'raise', not {missing!r}")
        reader = Reader(formula, weights, offset, subset, missing, caller_environment(eval_env))
        if len(reader.parts.responses) != 1:
            raise DataError(f"one response is needed, found {list(reader.parts.responses)}")
        if not reader.parts.random:
            raise RandomEffectsError(f"formula {formula!r} has no random-effects term such as '(1 | g)'")
        return _planned(reader, _Input(source))

    def collect(self, source, *, min_rows=None):
        """Sum a source under this plan.

        Parameters
        ----------
        source : DataFrame or source
        min_rows : int, optional
            Refuse where a level of a grouping factor has fewer rows here: its sums would show them.

        Returns
        -------
        CrossProducts
            Sums.

        Raises
        ------
        DataError
            If the source holds a level that the plan does not know, or `min_rows` is not met.
        """
        given = _Input(source)
        columns = self._plan.reader.used(given.columns)
        parts = given.parts(columns)
        if parts is not None:
            from dask import compute, delayed

            pieces = [delayed(_collected)(self._plan, part) for part in parts]
            sums = compute(_tree(pieces, delayed(_added)))[0]
            counted = len(parts)
        else:
            sums, counted = RunningSums(self._plan.sum_plan), 0
            for frame in given.blocks(columns):
                counted += 1
                if len(frame):
                    sums.add(self._plan.block(frame)[0])
        out = CrossProducts(self._plan, sums, given.name, counted)
        if min_rows is not None:
            out._check_levels(min_rows)
        return out

    def _check_levels(self, min_rows):
        assert self._sums is not None
        for factor, count in zip(self._plan.random.factors, self._sums.counts, strict=True):
            few = (count > 0) & (count < min_rows)
            if few.any():
                level = int(np.argmax(few))
                rows = int(count[level])
                raise DataError(
                    f"level {factor.levels[level]!r} of {factor.name} has {rows} row{'s' * (rows != 1)} at this site, "
                    f"fewer than min_rows={min_rows}"
                )

    # --- merging

    def __or__(self, other):
        if not isinstance(other, CrossProducts):
            return NotImplemented
        if self._sums is not None or other._sums is not None:
            raise DataError("plans are merged with |, sums are added with +")
        a, b = self._plan, other._plan
        if a.reader != b.reader:
            raise DataError(f"the plans have different formulas or options: {a.reader.formula!r}, {b.reader.formula!r}")
        # what is the same from either side comes out the same
        a, b = sorted((a, b), key=lambda p: (p.nobs, _digest(_plan_tree(p))))
        merged = StreamPlan(
            a.reader,
            a.nobs + b.nobs,
            united(a.witnesses, b.witnesses),
            united(a.groups, b.groups),
            merged_states(a.states, b.states),
            {**b.defaults, **a.defaults},
            a.moments.pooled(b.moments),
        )
        return CrossProducts(_ordered(merged))

    def __add__(self, other):
        if not isinstance(other, CrossProducts):
            return NotImplemented
        if self._sums is None or other._sums is None:
            raise DataError("sums are added with +, plans are merged with |")
        different = _difference(self._plan, other._plan)
        if different:
            raise DataError(
                f"these cross-products belong to different plans ({different}); merge the plans first and collect again"
            )
        sums = RunningSums(self._plan.sum_plan)
        sums.merge(self._sums)
        sums.merge(other._sums)
        return CrossProducts(self._plan, sums, "sums", self.blocks + other.blocks)

    # --- what they hold

    @property
    def formula(self):
        """The formula."""
        return self._plan.reader.formula

    @property
    def missing(self):
        """What the plan does with missing values, ``"drop"`` or ``"raise"``."""
        return self._plan.reader.missing

    @property
    def nobs(self):
        """Complete rows summed (of a plan: seen)."""
        return self._plan.nobs if self._sums is None else self._sums.nobs

    @property
    def n_groups(self):
        """Levels of each grouping factor, a dict."""
        return {f.name: f.n_levels for f in self._plan.random.factors}

    @property
    def is_plan(self):
        """Whether these are a plan only."""
        return self._sums is None

    @property
    def smallest_group(self):
        """Fewest rows of a level that has any, over all grouping factors."""
        if self._sums is None:
            raise DataError("a plan has no counts; collect() makes sums")
        return int(min(count[count > 0].min() for count in self._sums.counts))

    @property
    def nbytes(self):
        """Size in bytes of what travels."""
        return len(self.to_bytes())

    def __repr__(self):
        groups = ", ".join(f"{name}: {n:,}" for name, n in self.n_groups.items())
        kind = "plan" if self._sums is None else "sums"
        return f"<CrossProducts ({kind}): {self.formula}; {self.nobs:,} rows; {groups}>"

    # --- travelling

    def to_bytes(self):
        """Plan and sums as bytes, in the documented format (never a pickle)."""
        tree = {"plan": _plan_tree(self._plan), "sums": None, "source": self.source, "blocks": self.blocks}
        if self._sums is not None:
            tree["sums"] = _sums_tree(self._sums)
        return wire.pack(tree)

    @classmethod
    def from_bytes(cls, data):
        """Read what `to_bytes` wrote.

        Raises
        ------
        DataError
            If the bytes are damaged or of another format.
        """
        tree = wire.unpack(data)
        plan = _plan_of(tree["plan"])
        sums = None if tree["sums"] is None else _sums_of(plan, tree["sums"])
        return cls(plan, sums, tree["source"], tree["blocks"])

    def save(self, path):
        """Write `to_bytes` to a file."""
        Path(path).write_bytes(self.to_bytes())

    @classmethod
    def load(cls, path):
        """Read a file that `save` wrote."""
        return cls.from_bytes(Path(path).read_bytes())

    def statistic(self):
        """The plan and the sums with every level that has rows, for the model.

        Returns
        -------
        tuple
            (StreamPlan, RunningSums)
        """
        if self._sums is None:
            raise DataError("this is a plan without sums; call plan.collect(source) first")
        return _occupied(self._plan, self._sums)


class _Input:
    """A source, or a frame in memory, as blocks."""

    def __init__(self, data: Any) -> None:
        self.streamed = is_source(data)
        self.data = data if self.streamed else as_frame(data)
        self.name = shown(data) if self.streamed else "DataFrame"
        known = column_names(data) if self.streamed else [str(c) for c in self.data.columns]
        self.columns: list[str] = self._peeked() if known is None else known

    def _peeked(self) -> list[str]:
        for block in opened_chunks(self.data):
            frame = block if isinstance(block, pd.DataFrame) else as_frame(block)
            return [str(c) for c in frame.columns]
        raise DataError("the source has no blocks")

    def blocks(self, columns: list[str]) -> Iterator[pd.DataFrame]:
        if self.streamed:
            yield from blocks(self.data, columns)
        else:
            yield self.data[columns]

    def parts(self, columns: list[str]) -> list[Any] | None:
        return partitions(self.data[columns]) if self.streamed and partitions(self.data) is not None else None


def _planned(reader: Reader, given: _Input) -> CrossProducts:
    columns = reader.used(given.columns)
    first = next((frame for frame in given.blocks(columns) if len(frame)), None)
    if first is None:
        raise DataError("the source has no rows")
    reader.checked(first)
    look = survey(reader, [first])
    grouping = _grouping_columns(reader, columns)
    stateful = bool(stateful_factors(reader, first))
    parts = given.parts(columns)
    if parts is not None:
        from dask import compute, delayed

        found = compute(_tree([delayed(_surveyed)(reader, part) for part in parts], delayed(_merged)))[0]
    elif not look.witnesses and not stateful and reader.subset is None and look.nobs and reader.missing == "drop":
        # nothing but the levels of the groups depends on further rows
        found = survey(reader, given.blocks(grouping), groups_only=True)
        found.sample, found.stride, found.witnesses = look.sample, look.stride, look.witnesses
    else:
        found = survey(reader, given.blocks(columns))
    states = {}
    if stateful:
        states = learn_states(reader, lambda: given.blocks(columns), columns, first, found.nobs)
    return CrossProducts(_ordered(finished_plan(reader, found, states)), None, given.name)


def _grouping_columns(reader: Reader, columns: list[str]) -> list[str]:
    plan = reader.factors(columns)
    alone = replace(plan, responses=(), fixed=(), random=(), offsets=(), weights=None)
    mentioned = set().union(*(set().union(*names_in(factor)) for factor in alone.factors), set())
    return [name for name in columns if name in mentioned]


def _surveyed(reader: Reader, frame: Any) -> Survey:
    return survey(reader, [as_frame(frame)])


def _merged(a: Survey, b: Survey) -> Survey:
    return a.merge(b)


def _collected(plan: StreamPlan, frame: Any) -> RunningSums:
    return plan.collected([as_frame(frame)])


def _added(a: RunningSums, b: RunningSums) -> RunningSums:
    a.merge(b)
    return a


def _tree(pieces: list[Any], join: Any) -> Any:
    """Join pieces pairwise, so that no step waits for all others."""
    while len(pieces) > 1:
        pieces = [join(*pieces[i : i + 2]) if i + 1 < len(pieces) else pieces[i] for i in range(0, len(pieces), 2)]
    return pieces[0]


def _ordered(plan: StreamPlan) -> StreamPlan:
    """Tables sorted by their keys, so that a plan does not depend on the order of blocks or sites."""
    groups = {name: _sorted(table, list(table.columns)) for name, table in plan.groups.items()}
    witnesses = {name: _sorted(table, [table.columns[0]]) for name, table in plan.witnesses.items()}
    return replace(plan, groups=groups, witnesses=dict(sorted(witnesses.items())))


def _sorted(table: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    try:
        return table.sort_values(keys, ignore_index=True)
    except TypeError:  # labels of several types
        return table.iloc[np.lexsort([table[k].astype(str) for k in reversed(keys)])].reset_index(drop=True)


def _plan_tree(plan: StreamPlan) -> dict[str, Any]:
    reader = plan.reader
    return {
        "formula": reader.formula,
        "weights": reader.weights,
        "offset": reader.offset,
        "subset": reader.subset,
        "missing": reader.missing,
        "variables": _variables(plan),
        "nobs": plan.nobs,
        "witnesses": [[name, table] for name, table in plan.witnesses.items()],
        "groups": [[name, table] for name, table in plan.groups.items()],
        "states": [[name, state_numbers(state)] for name, state in plan.states.items()],
        "defaults": [[name, value] for name, value in plan.defaults.items()],
        "moments": {
            "names": list(plan.moments.names),
            "n": plan.moments.n,
            "mean": plan.moments.mean,
            "scatter": plan.moments.scatter,
        },
    }


def _variables(plan: StreamPlan) -> dict[str, Any]:
    """Numbers and texts of the caller that expressions use; functions cannot travel."""
    frame = pd.DataFrame({name: [value] for name, value in plan.defaults.items()})
    source = Source(frame, plan.reader.environment)
    names = set().union(*(source.outside_names(f) for f in plan.reader.factors(list(frame.columns)).factors), set())
    out = {}
    for name in sorted(names):
        value = plan.reader.environment.namespace[name]
        if not isinstance(value, (bool, int, float, str, np.number)):
            raise DataError(f"{name!r} is a {type(value).__name__} of the caller; a plan that travels takes numbers")
        out[name] = value
    return out


def _plan_of(tree: dict[str, Any]) -> StreamPlan:
    environment = EvalEnvironment([tree["variables"]])
    reader = Reader(tree["formula"], tree["weights"], tree["offset"], tree["subset"], tree["missing"], environment)
    defaults = dict(tree["defaults"])
    moments = tree["moments"]
    plan = StreamPlan(
        reader,
        tree["nobs"],
        dict(tree["witnesses"]),
        dict(tree["groups"]),
        {},
        defaults,
        Moments(tuple(moments["names"]), moments["n"], moments["mean"], moments["scatter"]),
    )
    frame = pd.DataFrame({name: [value] for name, value in defaults.items()})
    numbers = dict(tree["states"])
    states = {}
    for factor in reader.factors(list(frame.columns)).factors:
        if factor.code in numbers:
            states[factor.code] = with_numbers(prepare(factor, Source(frame, environment))[0], numbers[factor.code])
    return replace(plan, states=states)


def _sums_tree(sums: RunningSums) -> dict[str, Any]:
    return {
        "nobs": sums.nobs,
        "log_weights": sums.log_weights,
        "gram": sums.gram,
        "levels": list(sums.levels),
        "counts": list(sums.counts),
        "pairs": [[k, n, *table.result()] for (k, n), table in sums.pairs.items()],
    }


def _sums_of(plan: StreamPlan, tree: dict[str, Any]) -> RunningSums:
    sums = RunningSums(plan.sum_plan, tree["nobs"], tree["log_weights"])
    sums.gram = tree["gram"]
    sums.levels = [np.array(part) for part in tree["levels"]]
    sums.counts = [np.array(part) for part in tree["counts"]]
    for k, n, keys, values in tree["pairs"]:
        sums.pairs[k, n].add_sums(keys, values)
    return sums


def _digest(tree: dict[str, Any]) -> str:
    return hashlib.sha256(wire.pack(tree)).hexdigest()


def _difference(a: StreamPlan, b: StreamPlan) -> str:
    """What differs between two plans, "" where they are the same."""
    if a is b:
        return ""
    if a.reader != b.reader:
        return "formula or options differ"
    for name in a.groups:
        if not a.groups[name].equals(b.groups.get(name)):
            return f"levels of {name} differ"
    if _digest(_plan_tree(a)) != _digest(_plan_tree(b)):
        return "levels or centres differ"
    return ""


def _occupied(plan: StreamPlan, sums: RunningSums) -> tuple[StreamPlan, RunningSums]:
    """The plan and the sums without levels of grouping factors that have no complete row."""
    if all((count > 0).all() for count in sums.counts):
        return plan, sums
    places = [np.cumsum(count > 0) - 1 for count in sums.counts]
    kept = [np.flatnonzero(count > 0) for count in sums.counts]
    shapes = tuple(FactorShape(len(k), f.q, f.shift) for k, f in zip(kept, plan.sum_plan.factors, strict=True))
    out = RunningSums(SumPlan(plan.sum_plan.basis, plan.sum_plan.origin, shapes), sums.nobs, sums.log_weights)
    out.gram = sums.gram
    out.levels = [part[:, k] for part, k in zip(sums.levels, kept, strict=True)]
    out.counts = [count[k] for count, k in zip(sums.counts, kept, strict=True)]
    for (k, n), table in sums.pairs.items():
        keys, values = table.result()
        first, second = np.divmod(keys, len(sums.counts[n]))
        out.pairs[k, n].add_sums(places[k][first] * len(kept[n]) + places[n][second], values)
    groups = dict(plan.groups)
    factors = {id(f): i for i, f in enumerate(plan.random.factors)}
    for spec, term in zip(plan.reader.parts.random, plan.random.terms, strict=True):
        # the order of the levels is that of the sorted labels, which leaving some out does not change
        groups[spec.group] = _only(plan, spec.group, term, kept[factors[id(term.factor)]])
    smaller = StreamPlan(plan.reader, sums.nobs, plan.witnesses, groups, plan.states, plan.defaults, plan.moments)
    return smaller, out


def _only(plan: StreamPlan, name: str, term: Any, kept: np.ndarray) -> pd.DataFrame:
    table = plan.groups[name]
    codes, _ = interact_labels([encode_labels(table[column]) for column in table.columns])
    return table[np.isin(codes, kept)].reset_index(drop=True)
