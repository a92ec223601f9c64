"""What a scan fits: the sample table, and the outcomes of every feature from a wide or a long table."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pandas as pd

from mvmise_sm.blame import refuse_complex
from mvmise_sm.exceptions import DataError, OptionError
from mvmise_sm.option_values import short
from mvmise_sm.scanning.content import digest

__all__ = ["FeatureTable", "LongFeatures", "WideFeatures", "feature_digest", "looks_raw", "read_long", "read_wide"]

# cells that are looked at, and the median above which values are taken for raw intensities
_MANY, _RAW = 100_000, 1000.0


class FeatureTable(Protocol):
    """Samples, and the outcomes of every feature on all of them.

    Attributes
    ----------
    samples : DataFrame
        One row per sample, the columns that formulas use (N, .).
    names : list of str
        Features in the order they are reported in.
    ragged : bool
        Whether features may differ in their number of outcomes.
    shared_weights : ndarray or None
        Weights of the samples (N,) that hold for all features.
    """

    @property
    def samples(self) -> pd.DataFrame: ...

    @property
    def names(self) -> list[str]: ...

    @property
    def ragged(self) -> bool: ...

    @property
    def shared_weights(self) -> np.ndarray | None: ...

    def n_outcomes(self, name: str) -> int:
        """Number of outcomes of one feature."""

    def outcomes(self, name: str) -> pd.DataFrame:
        """Outcomes of one feature (N, K), NaN where missing; columns are what they are called in messages."""

    def weights(self, name: str) -> np.ndarray | None:
        """Weights of its cells (N, K) where they differ between features, else None."""

    def matrix(self, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
        """First outcomes of several features (N, F), their weights (N, F) or None, and which are numbers (F,)."""


def feature_digest(table: FeatureTable, name: str) -> str:
    """Hash of everything that is the feature's own: names of its outcomes, values and weights."""
    outcomes = table.outcomes(name)
    try:
        values = outcomes.to_numpy(dtype=float, na_value=np.nan)
    except (TypeError, ValueError):
        values = outcomes.to_numpy(dtype=object).astype(str)
    return digest(list(map(str, outcomes.columns)), values, table.weights(name))


def _checked_names(names: Iterable[Hashable], what: str) -> list[str]:
    """Names as text; two that look the same are an error."""
    seen: dict[str, Hashable] = {}
    out = []
    for name in names:
        text = str(name)
        if text in seen:
            other = seen[text]
            if type(other) is type(name):
                raise OptionError(f"{what}: {text!r} is there twice; every feature needs a name of its own")
            raise OptionError(f"{what}: {other!r} and {name!r} are the same name as text; rename one")
        seen[text] = name
        out.append(text)
    return out


def _single_columns(frame: pd.DataFrame, what: str) -> None:
    """Refuse a frame with a column name that is there twice."""
    double = frame.columns[frame.columns.duplicated()]
    if len(double):
        raise DataError(f"{what} has the column {double[0]!r} more than once; rename or drop one")


@dataclass(frozen=True, eq=False)
class WideFeatures:
    """Features as columns of a table with one row per sample.

    Attributes
    ----------
    samples : DataFrame
        The columns that are no features (N, .).
    table : DataFrame
        Holds the features (N, .).
    columns : dict
        Feature -> its columns.
    shared_weights : ndarray or None
        (N,).
    cell_weights : DataFrame or None
        Weights by column of `table` (N, .).
    """

    samples: pd.DataFrame
    table: pd.DataFrame = field(repr=False)
    columns: dict[str, list]
    shared_weights: np.ndarray | None = None
    cell_weights: pd.DataFrame | None = None

    @property
    def names(self) -> list[str]:
        return list(self.columns)

    @property
    def ragged(self) -> bool:
        return len({len(own) for own in self.columns.values()}) > 1

    def n_outcomes(self, name: str) -> int:
        return len(self.columns[name])

    def outcomes(self, name: str) -> pd.DataFrame:
        return self.table[self.columns[name]]

    def weights(self, name: str) -> np.ndarray | None:
        return None if self.cell_weights is None else self.cell_weights[self.columns[name]].to_numpy()

    def matrix(self, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
        columns = [self.columns[name][0] for name in names]
        weights = None if self.cell_weights is None else self.cell_weights[columns].to_numpy()
        chosen = self.table[columns]
        numeric = np.ones(len(columns), dtype=bool)
        try:
            refuse_complex("features", chosen)
            return chosen.to_numpy(dtype=float, na_value=np.nan), weights, numeric
        except (TypeError, ValueError):
            values = np.full((len(chosen), len(columns)), np.nan)
        for j, column in enumerate(columns):
            try:
                refuse_complex(str(column), chosen[column])
                values[:, j] = chosen[column].to_numpy(dtype=float, na_value=np.nan)
            except (TypeError, ValueError):
                numeric[j] = False
        return values, weights, numeric


def read_wide(frame: pd.DataFrame, features: Any, weights: Any) -> WideFeatures:
    """Features from columns; parameters as in `scan`.

    Raises
    ------
    DataError, OptionError
        If names repeat, rows differ in number, a column is absent or a weight is negative.
    """
    _single_columns(frame, "data")
    table = frame
    if isinstance(features, pd.DataFrame):
        _single_columns(features, "features")
        if len(features) != len(frame):
            raise DataError(f"features has {len(features)} rows and data has {len(frame)}")
        if not features.index.equals(frame.index):
            raise DataError("features is a frame whose index differs from that of the data")
        table = features
        columns = dict(zip(_checked_names(features.columns, "features"), ([c] for c in features.columns), strict=True))
        samples = frame.drop(columns=frame.columns.intersection(features.columns))
    else:
        columns = _listed(features)
        known = set(frame.columns)
        unknown = [c for own in columns.values() for c in own if c not in known]
        if unknown:
            raise OptionError(f"feature {unknown[0]!r} is not a column of the data")
        used = set().union(*columns.values())
        samples = frame[[c for c in frame.columns if c not in used]]
    if not columns:
        raise OptionError("features is empty")
    shared, cells = _read_weights(weights, frame, samples, table, columns)
    return WideFeatures(samples, table, columns, shared, cells)


def _listed(features: Any) -> dict[str, list]:
    """Feature -> columns from a list, a mapping or one name."""
    if isinstance(features, str):
        features = [features]
    if isinstance(features, Mapping):
        names = _checked_names(features, "features")
        groups = [[c] if isinstance(c, str) else list(c) for c in features.values()]
    elif isinstance(features, (Sequence, pd.Index, np.ndarray)):
        groups = [list(c) if isinstance(c, (list, tuple)) else [c] for c in features]
        names = _checked_names((g[0] if len(g) == 1 else "+".join(map(str, g)) for g in groups), "features")
    else:
        raise OptionError(f"features must be a list, a mapping or a frame, got {type(features).__name__}")
    if not groups or not all(groups):
        raise OptionError("features is empty")
    for name, own in zip(names, groups, strict=True):
        if len(set(own)) < len(own):
            double = next(c for c in own if own.count(c) > 1)
            raise OptionError(f"features: {name!r} has the column {double!r} twice")
    return dict(zip(names, groups, strict=True))


def _read_weights(
    weights: Any, frame: pd.DataFrame, samples: pd.DataFrame, table: pd.DataFrame, columns: dict[str, list]
) -> tuple[np.ndarray | None, pd.DataFrame | None]:
    """Weights of the samples (N,), or of the cells by column."""
    if weights is None:
        return None, None
    if isinstance(weights, str):
        if weights not in frame.columns:
            raise OptionError(f"weights: {weights!r} is not a column of the data")
        return _sample_weights(frame[weights], f"column {weights!r}"), None
    n = len(frame)
    if not isinstance(weights, pd.DataFrame):
        weights = np.asarray(weights)
        if not weights.ndim:
            raise OptionError(
                f"weights must be a column, or a number for each row or cell, got {short(weights.item())}"
            )
        if len(weights) != n:
            raise DataError(f"weights has {len(weights)} rows and features has {n}")
        if weights.ndim == 1:
            return _sample_weights(weights, "weights"), None
    used = [c for own in columns.values() for c in own]
    if len(weights) != n:
        raise DataError(f"weights has {len(weights)} rows and features has {n}")
    if isinstance(weights, pd.DataFrame):
        _single_columns(weights, "weights")
        absent = [c for c in used if c not in weights.columns]
        if absent:
            raise DataError(f"weights has no column for feature {absent[0]!r}")
        if not (weights.index.equals(frame.index) or weights.index.equals(pd.RangeIndex(n))):
            raise DataError("weights is a frame whose index differs from that of the data")
        weights = weights[used].set_axis(frame.index)
    else:
        if weights.ndim != 2 or weights.shape[1] != len(used):
            raise DataError(f"weights has shape {weights.shape} and the features have {(n, len(used))}")
        weights = pd.DataFrame(weights, index=frame.index, columns=used)
    try:
        cells = weights.to_numpy(dtype=float, na_value=np.nan)
    except (TypeError, ValueError):
        raise DataError("weights must be numeric") from None
    bad = (cells < 0.0) | np.isinf(cells)
    if bad.any():
        i, j = np.argwhere(bad)[0]
        _refuse_weight(cells[i, j], f"feature {used[j]!r}")
    _refuse_weightless(cells, table, used)
    return None, pd.DataFrame(np.where(np.isnan(cells), 0.0, cells), index=frame.index, columns=used)


def _sample_weights(values: Any, what: str) -> np.ndarray:
    try:
        out = np.asarray(values, dtype=float)
    except (TypeError, ValueError):
        raise DataError("weights must be numeric") from None
    bad = (out < 0.0) | ~np.isfinite(out)
    if bad.any():
        _refuse_weight(out[np.argmax(bad)], what)
    return out


def _refuse_weight(value: float, what: str) -> None:
    kind = "negative" if value < 0.0 else "missing or infinite"
    raise DataError(f"weights must not be {kind}; {what} has {value}")


def _refuse_weightless(cells: np.ndarray, table: pd.DataFrame, used: list) -> None:
    """A value whose weight is missing is neither in nor out."""
    absent = np.isnan(cells)
    for j in np.flatnonzero(absent.any(axis=0)):
        if table[used[j]].notna().to_numpy()[absent[:, j]].any():
            raise DataError(f"weights are missing where feature {used[j]!r} has values; 0 leaves a value out")


@dataclass(frozen=True, eq=False)
class LongFeatures:
    """Features from a table with one row per sample, feature and outcome, on the complete sample table.

    Attributes
    ----------
    samples : DataFrame
        (N, .).
    names : list of str
    ragged : bool
    rows : ndarray
        Sample of every value (m,), sorted by feature.
    labels : ndarray
        Position of its outcome in `outcome_labels` (m,).
    values, value_weights : ndarray
        (m,); weights may be None.
    starts : ndarray
        First value of every feature, and the end (len(names) + 1,).
    outcome_labels : list of str
        All outcomes, sorted.
    """

    samples: pd.DataFrame
    names: list[str]
    ragged: bool
    rows: np.ndarray = field(repr=False)
    labels: np.ndarray = field(repr=False)
    values: np.ndarray = field(repr=False)
    value_weights: np.ndarray | None = field(repr=False)
    starts: np.ndarray = field(repr=False)
    outcome_labels: list[str] = field(repr=False)
    shared_weights: np.ndarray | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "_at", {name: i for i, name in enumerate(self.names)})

    def _place(self, name: str) -> slice:
        i = self._at[name]  # type: ignore[attr-defined]
        return slice(int(self.starts[i]), int(self.starts[i + 1]))

    def n_outcomes(self, name: str) -> int:
        return len(np.unique(self.labels[self._place(name)]))

    def outcomes(self, name: str) -> pd.DataFrame:
        return self._grid(name, self.values, np.nan)[0]

    def weights(self, name: str) -> np.ndarray | None:
        return None if self.value_weights is None else self._grid(name, self.value_weights, 0.0)[0].to_numpy()

    def _grid(self, name: str, values: np.ndarray, empty: float) -> tuple[pd.DataFrame, np.ndarray]:
        at = self._place(name)
        own, column = np.unique(self.labels[at], return_inverse=True)
        out = np.full((len(self.samples), len(own)), empty)
        out[self.rows[at], column] = values[at]
        names = [self.outcome_labels[k] for k in own]
        return pd.DataFrame(out, index=self.samples.index, columns=names), own

    def matrix(self, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
        out = np.full((len(self.samples), len(names)), np.nan)
        weights = None if self.value_weights is None else np.zeros_like(out)
        for j, name in enumerate(names):
            at = self._place(name)
            out[self.rows[at], j] = self.values[at]
            if weights is not None:
                weights[self.rows[at], j] = self.value_weights[at]  # type: ignore[index]
        return out, weights, np.ones(len(names), dtype=bool)


def read_long(
    frame: pd.DataFrame,
    by: str,
    outcome: str | None,
    column: str | None,
    sample: str | Sequence[str] | None,
    samples: pd.DataFrame | None,
    weights: Any,
    used: Iterable[str],
) -> LongFeatures:
    """Features from a long table; parameters as in `scan`, `used` the columns that the design needs.

    Raises
    ------
    DataError, OptionError
        If a column is absent, a key has a missing value, a cell is there twice, a value is infinite, a sample is
        unknown, or a column that the design needs differs within a sample.
    """
    _single_columns(frame, "data")
    keys = [sample] if isinstance(sample, str) else list(sample or [])
    if outcome is None or not keys:
        raise OptionError("a long table needs by=, outcome= (the column of values) and sample= (what makes a sample)")
    for name in [by, outcome, *keys, *([column] if column is not None else [])]:
        if isinstance(name, (list, dict, set)) or np.ndim(name):
            raise OptionError(f"by, outcome, column and sample are names of columns, got {short(name)}")
        if name not in frame.columns:
            raise OptionError(f"{name!r} is not a column of the data; it has {list(map(str, frame.columns))}")
    for name in [by, *keys, *([column] if column is not None else [])]:
        if frame[name].isna().any():
            raise DataError(f"column {name!r} has missing values; every row needs one")
    grid = _sample_grid(frame, keys, samples, used)
    rows = _sample_of(frame, keys, grid, samples is not None)
    feature, feature_names = pd.factorize(frame[by])
    names = _checked_names(feature_names, f"by={by!r}")
    if column is None:
        labels, outcome_labels = np.zeros(len(frame), dtype=np.intp), [str(outcome)]
    else:
        labels, found = pd.factorize(frame[column])
        texts = _checked_names(found, f"column={column!r}")
        order = np.argsort(np.array(texts, dtype=object), kind="stable")
        rank = np.empty(len(order), dtype=np.intp)
        rank[order] = np.arange(len(order))
        labels, outcome_labels = rank[labels], [texts[i] for i in order]
    _refuse_duplicates(frame, feature, rows, labels, [*keys, *([column] if column is not None else [])])
    values = _numeric(frame[outcome], f"outcome {outcome!r}")
    own_weights = _long_weights(frame, weights)
    order = np.lexsort((labels, rows, feature))
    starts = np.searchsorted(feature[order], np.arange(len(names) + 1))
    return LongFeatures(
        grid,
        names,
        column is not None,
        rows[order],
        labels[order],
        values[order],
        None if own_weights is None else own_weights[order],
        starts,
        outcome_labels,
    )


def _sample_grid(
    frame: pd.DataFrame, keys: list[str], samples: pd.DataFrame | None, used: Iterable[str]
) -> pd.DataFrame:
    """One row per sample; the columns that the design uses must not vary within one."""
    if samples is not None:
        for name in keys:
            if name not in samples.columns:
                raise OptionError(f"samples has no column {name!r}; it has {list(map(str, samples.columns))}")
        double = samples.duplicated(keys)
        if double.any():
            raise DataError(f"samples has {_shown(samples.loc[double, keys].iloc[0])} more than once")
        return samples.reset_index(drop=True)
    wanted = [c for c in frame.columns if c in set(used) and c not in keys]
    distinct = frame[[*keys, *wanted]].drop_duplicates()
    double = distinct.duplicated(keys, keep=False)
    if double.any():
        first = distinct.loc[double].iloc[0]
        same = distinct.loc[(distinct[keys] == first[keys]).all(axis=1)]
        name = next(c for c in wanted if len(same[c].unique()) > 1)
        found = ", ".join(repr(v) for v in same[name].unique()[:2].tolist())
        raise DataError(f"{name} differs within sample {_shown(first[keys])}: {found}")
    return distinct.sort_values(keys, kind="stable", key=lambda column: column.astype(str)).reset_index(drop=True)


def _sample_of(frame: pd.DataFrame, keys: list[str], grid: pd.DataFrame, given: bool) -> np.ndarray:
    """Row of the sample table for every row (m,)."""
    if len(keys) == 1:
        rows = pd.Index(grid[keys[0]]).get_indexer(pd.Index(frame[keys[0]]))
    else:
        rows = pd.MultiIndex.from_frame(grid[keys]).get_indexer(pd.MultiIndex.from_frame(frame[keys]))
    unknown = rows < 0
    if unknown.any():
        where = "samples" if given else "the sample table"
        types = [f"{k}: {frame[k].dtype} and {grid[k].dtype}" for k in keys if frame[k].dtype != grid[k].dtype]
        hint = f" (the types differ, {'; '.join(types)})" if types else ""
        first = _shown(frame.loc[unknown, keys].iloc[0])
        raise DataError(f"{int(unknown.sum())} rows of data belong to no sample of {where}, first {first}{hint}")
    return np.asarray(rows, dtype=np.intp)


def _shown(key: pd.Series) -> str:
    values = key.tolist()
    return repr(tuple(values)) if len(values) > 1 else repr(values[0])


def _refuse_duplicates(
    frame: pd.DataFrame, feature: np.ndarray, rows: np.ndarray, labels: np.ndarray, keys: list[str]
) -> None:
    double = pd.DataFrame({"f": feature, "r": rows, "l": labels}).duplicated().to_numpy()
    if double.any():
        first = _shown(frame.loc[double, keys].iloc[0])
        raise DataError(
            f"{int(double.sum())} duplicates of ({', '.join(keys)}), first {first}; summarise them or use ms.proteomics"
        )


def _numeric(values: pd.Series, what: str) -> np.ndarray:
    try:
        refuse_complex(what, values)
        out = values.to_numpy(dtype=float, na_value=np.nan)
    except (TypeError, ValueError):
        raise DataError(f"{what} must be numeric") from None
    if np.isinf(out).any():
        raise DataError(f"{what} has infinite values; only finite numbers and NaN (missing) are allowed")
    return out


def _long_weights(frame: pd.DataFrame, weights: Any) -> np.ndarray | None:
    """Weights of the rows (m,)."""
    if weights is None:
        return None
    if isinstance(weights, str):
        if weights not in frame.columns:
            raise OptionError(f"weights: {weights!r} is not a column of the data")
        return _sample_weights(frame[weights], f"column {weights!r}")
    if np.ndim(weights) != 1:
        raise OptionError("weights of a long table are a column of it, or one number per row")
    if len(weights) != len(frame):
        raise DataError(f"weights has {len(weights)} rows and data has {len(frame)}")
    return _sample_weights(weights, "weights")


def looks_raw(table: FeatureTable) -> bool:
    """Whether values are too large for logarithms: the median of (many of) them is above 1000."""
    count = max(1, _MANY // max(len(table.samples), 1))
    values = table.matrix(table.names[:count])[0]
    values = values[np.isfinite(values)]
    return bool(values.size) and float(np.median(values)) > _RAW
