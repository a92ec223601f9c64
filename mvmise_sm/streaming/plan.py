"""What fixes the sums over a source: every level, states of transforms, typical values and coordinates; no rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from mvmise_sm.core.covariance.coordinates import TermBasis, fixed_basis_of, term_basis_of
from mvmise_sm.core.covariance.random_effects import GroupingFactor, RandomEffects
from mvmise_sm.core.criteria.sums import independent_of_gram
from mvmise_sm.core.elimination.sums import Block, FactorShape, RunningSums, SumPlan
from mvmise_sm.design.build import Design, GroupSpec, build_design
from mvmise_sm.design.columns import column_of
from mvmise_sm.design.grouping import encode_labels, interact_labels
from mvmise_sm.design.new_data import new_columns, new_factor, new_offset
from mvmise_sm.exceptions import DataError, MissingDataError, NewLevelError
from mvmise_sm.streaming.survey import LEVEL, Reader, Survey

__all__ = ["Moments", "StreamPlan", "finished_plan"]


@dataclass(frozen=True, eq=False)
class Moments:
    """Means and scatter of the columns of a sample.

    Attributes
    ----------
    names : tuple of str
        Fixed effects, random-effects columns by term, response.
    n : int
    mean, scatter : ndarray
        (k,) and sums of squares and products about the mean (k, k).
    """

    names: tuple[str, ...]
    n: int
    mean: np.ndarray
    scatter: np.ndarray

    @staticmethod
    def of(names: Sequence[str], rows: np.ndarray) -> Moments:
        """The moments of rows (n, k)."""
        # squares that are no numbers are answered where the moments are used
        with np.errstate(over="ignore", invalid="ignore"):
            mean = rows.mean(axis=0)
            centred = rows - mean
            return Moments(tuple(names), len(rows), mean, centred.T @ centred)

    def on(self, names: Sequence[str]) -> Moments:
        """The same for other columns; those that were not there were zero."""
        place = {name: i for i, name in enumerate(self.names)}
        index = np.array([place.get(name, -1) for name in names])
        known = index >= 0
        mean, scatter = np.zeros(len(names)), np.zeros((len(names), len(names)))
        mean[known] = self.mean[index[known]]
        scatter[np.ix_(known, known)] = self.scatter[np.ix_(index[known], index[known])]
        return Moments(tuple(names), self.n, mean, scatter)

    def pooled(self, other: Moments) -> Moments:
        """The moments of both samples together."""
        names = tuple(dict.fromkeys([*self.names, *other.names]))
        a, b = self.on(names), other.on(names)
        n, gap = a.n + b.n, b.mean - a.mean
        return Moments(
            names, n, a.mean + gap * (b.n / n), a.scatter + b.scatter + np.multiply.outer(gap, gap) * (a.n * b.n / n)
        )


@dataclass(frozen=True, eq=False)
class StreamPlan:
    """All that fixes the sums: levels, states and coordinates, no rows.

    Attributes
    ----------
    reader : Reader
    nobs : int
        Complete rows that the first pass saw.
    witnesses, groups : dict
        As in `Survey`.
    states : dict
        Code of a factor that depends on whole columns -> patsy's state.
    defaults : dict
        Column -> a typical value of every column used.
    moments : Moments
    """

    reader: Reader
    nobs: int
    witnesses: dict[str, pd.DataFrame]
    groups: dict[str, pd.DataFrame]
    states: dict[str, dict]
    defaults: dict[str, Any]
    moments: Moments

    @cached_property
    def template(self) -> Design:
        """The design without rows: every level and state, for the evaluation of blocks."""
        return _template(self)

    @property
    def random(self) -> RandomEffects:
        """Terms and levels without rows."""
        random = self.template.random
        assert random is not None  # a formula without random effects gets no plan
        return random

    @cached_property
    def term_bases(self) -> tuple[TermBasis, ...]:
        """Working coordinates of the random-effects columns."""
        own = self.moments.on(self.column_names)
        spread = np.sqrt(np.maximum(own.scatter.diagonal(), 0.0) / own.n)
        at, out = len(self.template.full_spec.column_names), []
        for term, info in zip(self.random.terms, self.template.random_specs, strict=True):
            known: list[tuple[float, float] | None] = []
            for j in range(term.q):
                ones = info.column_names[j] == "Intercept"
                known.append(None if ones else (float(own.mean[at + j]), float(spread[at + j])))
            out.append(term_basis_of(term.structure.invariance, known))
            at += term.q
        return tuple(out)

    @cached_property
    def column_names(self) -> tuple[str, ...]:
        """Names of the columns of the moments."""
        random = [f"{t.text}: {name}" for t in self.random.terms for name in t.names]
        return (*self.template.full_spec.column_names, *random, "the response")

    @cached_property
    def sum_plan(self) -> SumPlan:
        """Coordinates of the sums."""
        own = self.moments.on(self.column_names)
        names = self.template.full_spec.column_names
        p = len(names)
        intercept = names.index("Intercept") if "Intercept" in names else None
        with np.errstate(over="ignore"):
            raw = own.scatter + own.n * np.multiply.outer(own.mean, own.mean)
        if not np.isfinite(raw).all():
            raise DataError("the sample of the source has values whose squares cannot be represented")
        basis = fixed_basis_of(own.n, own.mean[:p], own.scatter[:p, :p], intercept)
        shift = np.zeros(p) if basis.shift is None else basis.shift
        # second moments of the shifted columns with each other and with the response
        gap = own.mean[:p] - shift
        gram = own.scatter[:p, :p] + own.n * np.multiply.outer(gap, gap)
        cross = own.scatter[:p, -1] + own.n * gap * own.mean[-1]
        if basis.rotation is not None:
            gram, cross = basis.rotation.T @ gram @ basis.rotation, basis.rotation.T @ cross
        size = np.sqrt(np.maximum(gram.diagonal(), 1e-300))
        # a column that others determine may be dropped, and then nothing of the response may rest on it
        alone = independent_of_gram(gram)
        origin = np.zeros(p)
        unit = gram[np.ix_(alone, alone)] / size[alone, None] / size[alone]
        origin[alone] = np.linalg.lstsq(unit, cross[alone] / size[alone], rcond=1e-12)[0] / size[alone]
        shapes = []
        for factor in self.random.factors:
            terms = self.random.terms_of(factor)
            moved = np.concatenate([self.term_bases[t].shift for t in terms])
            shapes.append(FactorShape(factor.n_levels, len(moved), moved))
        return SumPlan(basis, origin, tuple(shapes))

    def block(self, frame: pd.DataFrame) -> tuple[Block, np.ndarray]:
        """The complete rows of a block as arrays, and which rows of the block (after `subset`) they are.

        Raises
        ------
        DataError
            If a level is unknown, a value infinite, or a weight not positive.
        """
        chosen = self.reader.rows(frame)
        y, X, random, offset, weights = self._evaluated(chosen)
        bad = _missing_rows([y, *X, *(c for _, columns in random for c in columns), offset, weights])
        for codes, _ in random:
            if len(codes) and codes.min() < 0:
                bad = codes < 0 if bad is None else bad | (codes < 0)
        kept = np.arange(len(y)) if bad is None else np.flatnonzero(~bad)
        if len(kept) < len(y) and self.reader.missing != "drop":
            raise MissingDataError(f"values are missing in {len(y) - len(kept)} rows; missing='drop' leaves them out")
        if len(kept) < len(y):
            y, X = y[kept], [None if c is None else c[kept] for c in X]
            random = [(codes[kept], [None if c is None else c[kept] for c in columns]) for codes, columns in random]
            offset, weights = (None if v is None else v[kept] for v in (offset, weights))
        if bad is not None:
            self._check(y, X, offset)
        if weights is not None and len(weights) and not (weights > 0).all():
            raise DataError(f"weights must be positive, the smallest is {weights.min():g}; leave such rows out")
        y = y if offset is None else y - offset
        terms = self.random
        codes, columns = [], []
        for factor in terms.factors:
            own = terms.terms_of(factor)
            codes.append(random[own[0]][0])
            columns.append([column for t in own for column in random[t][1]])
        return Block(y, X, codes, columns, weights), kept

    def _evaluated(self, frame: pd.DataFrame) -> tuple[Any, Any, Any, Any, Any]:
        plan, design = self.reader.factors(list(frame.columns)), self.template
        try:
            X, random = new_columns(design, frame)
            offset = new_offset(design, frame)
        except NewLevelError as error:
            found = error.found
            said = f"{found[0]} holds {found[1]!r}, which the first pass did not see" if found else str(error)
            raise DataError(f"the source has changed between two passes: {said}") from None
        y = new_factor(plan.responses[0], self.states.get(plan.responses[0].code), frame)
        weights = None
        if plan.weights is not None:
            weights = new_factor(plan.weights, self.states.get(plan.weights.code), frame)
        return y, X, random, offset, weights

    def _check(self, y: np.ndarray, X: Sequence[np.ndarray | None], offset: np.ndarray | None) -> None:
        """Refuse infinite values among complete rows."""
        if not _all_finite(y):
            raise DataError(f"the response {self.reader.parts.responses[0]!r} holds infinite values")
        for name, column in zip(self.template.full_spec.column_names, X, strict=True):
            if column is not None and not _all_finite(column):
                raise DataError(f"the column {name!r} holds infinite values")
        if offset is not None and not _all_finite(offset):
            raise DataError("the offset holds infinite values")

    def collected(self, frames: Iterable[pd.DataFrame]) -> RunningSums:
        """The sums over the complete rows of blocks."""
        sums = RunningSums(self.sum_plan)
        for frame in frames:
            if len(frame):
                sums.add(self.block(frame)[0])
        return sums


def _all_finite(values: np.ndarray) -> bool:
    """Whether numbers are finite: their sum says so in one pass, but for sums that overflow."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(values.sum())) or bool(np.isfinite(values).all())


def _missing_rows(columns: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """Rows (n,) with a missing value in some column (n,); None where all values of all columns are finite."""
    bad: np.ndarray | None = None
    # a column may be a response, a fixed and a random effect
    for values in {id(column): column for column in columns}.values():
        if values is not None and not _all_finite(values):
            bad = np.isnan(values) if bad is None else bad | np.isnan(values)
    return bad


def finished_plan(reader: Reader, found: Survey, states: dict[str, dict]) -> StreamPlan:
    """A plan from the survey of all rows and the states of the transforms.

    Raises
    ------
    MissingDataError
        If there is no complete row.
    """
    if not found.nobs or not found.sample:
        raise MissingDataError("the source has no complete rows")
    sample = pd.concat(found.sample, ignore_index=True)
    defaults = {str(name): _typical(sample[name]) for name in sample.columns}
    empty = Moments((), 0, np.zeros(0), np.zeros((0, 0)))
    draft = StreamPlan(reader, found.nobs, found.witnesses, found.groups, states, defaults, empty)
    everything = replace(reader, subset=None)
    block, _ = replace(draft, reader=everything).block(sample)
    columns = list(block.X)
    for t, term in enumerate(draft.random.terms):
        k = draft.random.factors.index(term.factor)
        own = draft.random.terms_of(term.factor)
        start = sum(draft.random.terms[u].q for u in own if u < t)
        columns += block.columns[k][start : start + term.q]
    rows = np.column_stack([*(np.ones(len(block.y)) if c is None else c for c in columns), block.y])
    return replace(draft, moments=Moments.of(draft.column_names, rows))


def _typical(column: pd.Series) -> Any:
    """A value that expressions can be evaluated at: the mean of numbers, the first label of others."""
    if pd.api.types.is_bool_dtype(column.dtype) or not pd.api.types.is_numeric_dtype(column.dtype):
        return column.iloc[0]
    return float(np.mean(np.asarray(column, dtype=float)))


def _template(plan: StreamPlan) -> Design:
    """Build the design on made-up rows that show every level, then put in the true levels of the grouping factors."""
    reader = plan.reader
    defaults = dict(plan.defaults)
    factors = reader.factors(list(defaults))
    for spec, group in zip(reader.parts.random, factors.groups, strict=True):
        for i, factor in enumerate(group):
            name = column_of(factor)
            if name in defaults:
                defaults[name] = plan.groups[spec.group][str(i)].iloc[0]
    rows: dict[str, list[Any]] = {name: [value] for name, value in defaults.items()}
    orders: dict[str, pd.CategoricalDtype] = {}
    for table in plan.witnesses.values():
        used = [name for name in table.columns if name != LEVEL]
        for name in rows:
            rows[name] += list(table[name]) if name in used else [defaults[name]] * len(table)
        orders.update({n: table[n].dtype for n in used if isinstance(table[n].dtype, pd.CategoricalDtype)})
    frame = pd.DataFrame({name: pd.Series(values).infer_objects() for name, values in rows.items()})
    for name, dtype in orders.items():
        frame[name] = frame[name].astype(dtype)
    if plan.witnesses:
        # the first row stands for no level of its own
        labelled = frame.iloc[1:].reset_index(drop=True)
    else:
        labelled = frame
    learnt = {factor: plan.states[factor.code] for factor in factors.factors if factor.code in plan.states}
    design = build_design(
        reader.parts,
        labelled,
        weights=reader.weights,
        offset=reader.offset,
        namespace=reader.environment,
        learnt=learnt,
    )
    if design.random is None:
        return design
    made: dict[str, tuple[GroupingFactor, GroupSpec]] = {}
    terms, specs = [], []
    for spec, term, known in zip(reader.parts.random, design.random.terms, design.group_specs, strict=True):
        if term.positions is not None:
            raise DataError(f"{term.text} needs the positions of all rows; sources read in chunks do not take it")
        if spec.group not in made:
            table = plan.groups[spec.group]
            parts = [encode_labels(table[name]) for name in table.columns]
            _, levels = interact_labels(parts)
            factor = GroupingFactor(term.factor.name, np.zeros(0, dtype=np.intp), levels)
            made[spec.group] = factor, replace(known, part_levels=tuple(part[1] for part in parts))
        factor, group_spec = made[spec.group]
        terms.append(replace(term, factor=factor, columns=(None,) * term.q))
        specs.append(group_spec)
    return replace(
        design,
        endog=None,
        exog=None,
        random=RandomEffects(terms, plan.nobs),
        model_spec=design.full_spec,
        group_specs=tuple(specs),
        weights=None,
        offset=None,
        dropped_columns=(),
    )
