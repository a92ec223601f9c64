"""The reference grid: all combinations of factors, numbers at their means, and their rows of the design."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from mvmise_sm.design.build import Design
from mvmise_sm.design.columns import column_of, names_in
from mvmise_sm.design.new_data import new_exog
from mvmise_sm.exceptions import OptionError

__all__ = ["Estimable", "ReferenceGrid", "estimable", "reference_grid", "term_variables"]

_TWO = 2
_TOLERANCE = 1e-6


@dataclass(frozen=True, eq=False)
class Estimable:
    """Which linear functions of all columns the data determine, and their coefficients in the columns kept.

    Attributes
    ----------
    kept : ndarray
        Positions of the columns that were not dropped (p,).
    null : ndarray
        Orthonormal basis of the null space of the scaled columns (p_full, r); no columns where none were dropped.
    size : ndarray
        Root mean squares of the columns (p_full,).
    """

    kept: np.ndarray
    null: np.ndarray
    size: np.ndarray

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Whether each of the `rows` (q, p_full) is estimable (q,); rows with NaN are not."""
        known = np.isfinite(rows).all(axis=1)
        if self.null.shape[1] == 0:
            return known
        scaled = np.nan_to_num(rows) / self.size
        length = np.linalg.norm(scaled, axis=1)
        return known & (np.linalg.norm(scaled @ self.null, axis=1) <= _TOLERANCE * length)

    def combinations(self, rows: np.ndarray) -> np.ndarray:
        """Combinations (q', q) of rows whose results are all estimable, as many as there are."""
        if self(rows).all():
            return np.eye(len(rows))
        left = (rows / self.size) @ self.null
        u, s, _ = np.linalg.svd(left)
        rank = int((s > _TOLERANCE * max(float(np.linalg.norm(rows / self.size)), 1e-300)).sum())
        return u[:, rank:].T


@dataclass(frozen=True, eq=False)
class ReferenceGrid:
    """Combinations of the variables of the fixed effects.

    Attributes
    ----------
    frame : DataFrame
        One row per combination (m).
    design : Design
        Design of the fit.
    rows : ndarray
        Rows of the design before columns were dropped (m, p_full).
    counted : tuple of str
        Variables at levels of the data, for which rows can be counted.
    """

    frame: pd.DataFrame
    design: Design
    rows: np.ndarray
    counted: tuple[str, ...]

    @property
    def varying(self) -> list[str]:
        """Variables with more than one value."""
        return [name for name in self.frame.columns if len(self.frame[name].unique()) > 1]

    @property
    def held(self) -> dict[str, Any]:
        """Variables with one value, and the value."""
        return {name: self.frame[name].iloc[0] for name in self.frame.columns if len(self.frame[name].unique()) == 1}

    def counts(self, names: list[str]) -> np.ndarray:
        """Rows of the data at the levels that every combination has of `names` (m,); all rows without names."""
        names = [name for name in names if name in self.counted]
        data = self.design.frame
        if not names:
            return np.full(len(self.frame), float(len(data)))
        codes = np.zeros(len(self.frame), dtype=np.intp), np.zeros(len(data), dtype=np.intp)
        inside = np.ones(len(data), dtype=bool)
        for name in names:
            levels = pd.Index(self.frame[name].astype(object).unique())
            place = levels.get_indexer(pd.Index(data[name].astype(object)))
            if (place < 0).all():
                place = levels.astype(str).get_indexer(pd.Index(data[name].astype(str)))
            inside &= place >= 0
            own = levels.get_indexer(pd.Index(self.frame[name].astype(object)))
            codes = codes[0] * len(levels) + own, codes[1] * len(levels) + np.maximum(place, 0)
        found = np.bincount(codes[1][inside], minlength=int(codes[0].max()) + 1)
        return found[codes[0]].astype(float)

    def moved(self, variable: str, by: float) -> np.ndarray:
        """Rows of the design with a variable moved (m, p_full)."""
        frame = self.frame.assign(**{variable: self.frame[variable].astype(float) + by})
        return new_exog(self.design, frame, dropped=True).to_numpy()

    @cached_property
    def interactions(self) -> list[frozenset[str]]:
        """Variables of every term of the fixed effects."""
        return term_variables(self.design)


def variables_of(factor: Any, frame: pd.DataFrame) -> list[str]:
    """Columns that a factor of the formula uses."""
    names, quoted = names_in(factor)
    return [name for name in [*quoted, *sorted(names)] if name in frame.columns]


def term_variables(design: Design) -> list[frozenset[str]]:
    """Variables of every term of the fixed effects."""
    terms = design.full_spec.terms
    return [frozenset(v for f in term.factors for v in variables_of(f, design.frame)) for term in terms]


def reference_grid(design: Design, at: Mapping[str, Any] | None = None) -> ReferenceGrid:
    """All combinations of the factors of the fixed effects, numeric variables at their means (two values: at both).

    Parameters
    ----------
    design : Design
    at : mapping, optional
        Variable -> value or values to use instead.

    Returns
    -------
    ReferenceGrid

    Raises
    ------
    OptionError
        If `at` names another variable or a level that a factor does not have.
    """
    frame = design.frame
    values: dict[str, list] = {}
    counted = set()
    infos = design.full_spec.factor_infos
    # a factor's levels come before the mean that the same number has elsewhere in the formula
    for factor, info in sorted(infos.items(), key=lambda item: item[1].type != "categorical"):
        for name in variables_of(factor, frame):
            if name not in values:
                values[name], levels = _grid_values(name, factor, info, frame)
                counted |= {name} if levels else set()
    order = [name for factor in infos for name in variables_of(factor, frame)]
    values = {name: values[name] for name in dict.fromkeys(order)}
    for name, given in (at or {}).items():
        if name not in values:
            raise OptionError(f"at: {name!r} is not a variable of the fixed effects; these are {', '.join(values)}")
        values[name] = _given(name, given, values[name], name in counted, frame)
        if not set(values[name]) <= set(pd.unique(frame[name].astype(object))):
            counted.discard(name)
    grid = pd.DataFrame(list(product(*values.values())), columns=list(values))
    for name in grid.columns:
        if isinstance(frame[name].dtype, pd.CategoricalDtype):
            grid[name] = pd.Categorical(grid[name], categories=frame[name].dtype.categories)
    rows = new_exog(design, grid if len(grid.columns) else pd.DataFrame(index=range(1)), dropped=True)
    return ReferenceGrid(grid, design, rows.to_numpy(), tuple(name for name in grid.columns if name in counted))


def _given(name: str, given: Any, usual: list, is_factor: bool, frame: pd.DataFrame) -> list:
    """Values of `at`, those of a factor checked against its levels."""
    wanted = [given] if isinstance(given, str) else list(np.atleast_1d(np.asarray(given, dtype=object)))
    column = frame[name]
    numeric = pd.api.types.is_numeric_dtype(column) and column.dtype != bool
    if not is_factor or numeric:
        return [float(v) if isinstance(v, (int, np.integer)) and not is_factor else v for v in wanted]
    out = []
    for value in wanted:
        match = [level for level in usual if level == value or str(level) == str(value)]
        if not match:
            raise OptionError(f"at: {name!r} has no level {value!r}; its levels are {', '.join(map(str, usual))}")
        out.append(match[0])
    return out


def _grid_values(name: str, factor: Any, info: Any, frame: pd.DataFrame) -> tuple[list, bool]:
    """Values of a variable, and whether they are levels: those of a factor, the mean of a number.

    A number with two values counts as a factor, as in emmeans.
    """
    column = frame[name]
    if isinstance(column.dtype, pd.CategoricalDtype):
        return list(column.cat.remove_unused_categories().cat.categories), True
    if info.type == "categorical":
        levels = list(info.categories)
        # a numeric column inside C() has its numbers as levels; cut(x, ...) has intervals, which x does not hold
        if column_of(factor) == name or set(pd.unique(column.dropna())) <= set(levels):
            return levels, True
    if column.dtype == bool or not pd.api.types.is_numeric_dtype(column):
        return sorted(pd.unique(column.dropna())), True
    distinct = np.unique(column.dropna())
    return (distinct.tolist(), True) if len(distinct) <= _TWO else ([float(column.mean())], False)


def estimable(design: Design) -> Estimable:
    """What the data determine of the coefficients of all columns."""
    names = design.full_spec.column_names
    dropped = [i for i, name in enumerate(names) if name in set(design.dropped_columns)]
    kept = np.setdiff1d(np.arange(len(names)), dropped)
    if not dropped:
        return Estimable(kept, np.zeros((len(names), 0)), np.ones(len(names)))
    whole = new_exog(design, design.frame, dropped=True).to_numpy()
    size = np.sqrt(np.square(whole).mean(axis=0))
    size[size == 0.0] = 1.0
    whole = whole / size
    null = np.zeros((len(names), len(dropped)))
    null[kept] = np.linalg.lstsq(whole[:, kept], whole[:, dropped], rcond=None)[0]
    null[dropped, np.arange(len(dropped))] = -1.0
    return Estimable(kept, np.linalg.qr(null)[0], size)
