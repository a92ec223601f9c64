"""Columns of a data frame, and expressions in them, as plain arrays: numbers, or codes with categories."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import pandas as pd
from patsy import EvalEnvironment, EvalFactor, PatsyError
from patsy import builtins as patsy_builtins

from mvmise_sm.design.grouping import encode_labels
from mvmise_sm.design.promotion import NumericView
from mvmise_sm.exceptions import DataError, FormulaError, UnknownColumnError
from mvmise_sm.formula.transforms import LANGUAGE

__all__ = ["Encoded", "Source", "codes_for", "column_of", "encode", "names_in"]


@dataclass(frozen=True, eq=False)
class Encoded:
    """The value of one factor on all rows.

    Attributes
    ----------
    values : ndarray
        Numbers (n,) or (n, k), or codes (n,) with -1 for missing.
    categories : pandas.Index or None
        Labels of the codes; None for numbers.
    contrast : object
        Contrast that the user asked for with ``C(...)``, or None.
    """

    values: np.ndarray
    categories: pd.Index | None = None
    contrast: Any = None

    @property
    def n_columns(self) -> int:
        """Number of columns k, 1 for codes."""
        return 1 if self.values.ndim == 1 else self.values.shape[1]

    def missing(self) -> np.ndarray | None:
        """Rows (n,) with a missing value, None if there are none."""
        if self.categories is not None:
            return self.values < 0 if self.values.size and self.values.min() < 0 else None
        # A sum is NaN whenever a term is; infinities of both signs also give NaN and are sorted out by isnan.
        with np.errstate(invalid="ignore", over="ignore"):
            if not np.isnan(self.values.sum()):
                return None
        found = np.isnan(self.values)
        found = found if found.ndim == 1 else found.any(axis=1)
        return found if found.any() else None

    def take(self, rows: np.ndarray) -> Encoded:
        """Restrict to some rows; categories that no longer occur are left out."""
        if self.categories is None:
            return Encoded(self.values[rows])
        return Encoded(*encode_labels(pd.Categorical.from_codes(self.values[rows], self.categories)), self.contrast)


def encode(value: Any, nobs: int, shown: str) -> Encoded:
    """Turn the value of an expression into numbers or codes.

    Parameters
    ----------
    value : array_like
        Result of evaluating a factor, `nobs` rows.
    nobs : int
        Expected number of rows.
    shown : str
        The expression, for messages.

    Returns
    -------
    Encoded
    """
    plain = isinstance(value, (pd.Series, np.ndarray))
    if plain and isinstance(value.dtype, np.dtype) and value.dtype.kind in "fiu" and value.shape == (nobs,):
        # most columns; asking a Series for what it lacks is slow
        numbers = value.to_numpy() if isinstance(value, pd.Series) else value
        return Encoded(np.ascontiguousarray(numbers, dtype=float))
    boxed = not plain and hasattr(value, "contrast")
    contrast = value.contrast if boxed else None
    data = value.data if boxed else value
    if np.ndim(data) == 0 or len(data) != nobs:
        found = "a single value" if np.ndim(data) == 0 else f"{len(data)} values"
        raise DataError(f"{shown} gives {found} where {nobs} rows are expected")
    if boxed:
        if value.levels is not None:
            levels = pd.Index(list(value.levels))
            return Encoded(codes_for(data, levels, shown), levels, contrast)
        return Encoded(*encode_labels(data, shown), contrast)
    if isinstance(data, pd.DataFrame) or not hasattr(data, "dtype"):
        data = np.asarray(data)
    dtype = data.dtype
    if isinstance(dtype, pd.api.extensions.ExtensionDtype):
        return _encode_extension(data)
    if dtype.kind in "fiu":
        values = np.asarray(data, dtype=float)
        return Encoded(np.ascontiguousarray(values) if values.ndim == 1 else values)
    if dtype.kind == "b":
        return Encoded(np.asarray(data, dtype=np.intp), pd.Index([False, True]))
    if dtype.kind == "c":
        raise DataError(f"{shown} is complex; only real numbers are allowed")
    if dtype.kind in "mM":
        return Encoded(_days(data))
    if _holds_numbers(data):
        return Encoded(np.asarray(pd.to_numeric(pd.Series(data)), dtype=float))
    if dtype.kind == "O" and (kind := pd.api.types.infer_dtype(data, skipna=True)) in _TIMES:
        convert = pd.to_timedelta if kind.startswith("timedelta") else pd.to_datetime
        return Encoded(_days(convert(pd.Series(np.asarray(data)))))
    return Encoded(*encode_labels(data, shown))


def _days(data: Any) -> np.ndarray:
    """Dates and times as days since 1970 in UTC, durations as days (n,); a missing one is NaN."""
    values = pd.Series(np.asarray(data) if not hasattr(data, "dt") else data)
    if isinstance(values.dtype, pd.PeriodDtype):
        values = values.dt.to_timestamp()
    if getattr(values.dt, "tz", None) is not None:
        values = values.dt.tz_convert("UTC").dt.tz_localize(None)
    origin = pd.Timestamp(0) if values.dtype.kind == "M" else pd.Timedelta(0)
    return np.asarray((values - origin) / pd.Timedelta(days=1), dtype=float)


_TIMES = frozenset(("datetime", "datetime64", "date", "timedelta", "timedelta64"))
_NUMBERS = frozenset(("integer", "floating", "mixed-integer-float", "decimal"))


def _holds_numbers(data: Any) -> bool:
    """Whether objects are all numbers or missing; they are numbers here, where patsy would make a factor of them."""
    return data.dtype == object and pd.api.types.infer_dtype(data, skipna=True) in _NUMBERS


def _encode_extension(data: Any) -> Encoded:
    """Encode categorical, text, nullable and arrow-backed data."""
    dtype = data.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        return Encoded(*encode_labels(data))
    if pd.api.types.is_bool_dtype(dtype):
        missing = np.asarray(pd.isna(data))
        codes = np.where(missing, -1, np.asarray(data.to_numpy(dtype=object, na_value=False), dtype=np.intp))
        return Encoded(codes, pd.Index([False, True]))
    if pd.api.types.is_numeric_dtype(dtype):
        return Encoded(data.to_numpy(dtype=float, na_value=np.nan))
    if isinstance(dtype, (pd.DatetimeTZDtype, pd.PeriodDtype)) or getattr(dtype, "kind", "O") in "mM":
        return Encoded(_days(data))
    return Encoded(*encode_labels(data))


def codes_for(data: Any, levels: pd.Index, shown: str, unknown: str = "raise") -> np.ndarray:
    """Codes (n,) of labels among given levels; -1 marks missing labels, -2 unknown ones if they are allowed.

    Raises
    ------
    DataError
        If a label is not among the levels and `unknown` is ``"raise"``.
    """
    tabled = _codes_by_table(data, levels)
    if tabled is not None:
        return tabled
    codes, found = encode_labels(getattr(data, "data", data) if hasattr(data, "contrast") else data)
    if found.equals(levels) or len(found) == 0:
        return codes
    table = levels.get_indexer(found)
    if (table < 0).any() and found.dtype != levels.dtype:  # "308" in a text column against 308 in a number column
        table = levels.astype(str).get_indexer(found.astype(str))
    if (table < 0).any():
        if unknown == "raise":
            odd = list(found[table < 0][:3])
            raise DataError(f"{shown} holds the level {odd[0]!r}, which the model does not know; {known(levels)}")
        table = np.where(table < 0, -2, table)
    return np.append(table, -1)[codes]


def _codes_by_table(data: Any, levels: pd.Index) -> np.ndarray | None:
    """Codes (n,) of integers among integer levels in a small range; None for others and where one is unknown."""
    values = getattr(data, "array", data)
    values = values.to_numpy() if isinstance(values, pd.arrays.NumpyExtensionArray) else values
    if not isinstance(values, np.ndarray) or values.dtype.kind != "i" or not values.size or levels.dtype.kind != "i":
        return None
    labels = levels.to_numpy()
    low, high = (int(labels.min()), int(labels.max())) if len(labels) else (0, -1)
    if high - low >= 4 * values.size + 1024 or values.min() < low or values.max() > high:
        return None
    table = np.full(high - low + 1, -1, dtype=np.intp)
    table[labels - low] = np.arange(len(labels))
    codes = table[values if low == 0 else values.astype(np.intp, copy=False) - low]
    return None if codes.min() < 0 else codes


def known(levels: Any) -> str:
    """Sentence part that lists the known levels."""
    shown = ", ".join(repr(level) for level in list(levels[:6]))
    return f"known levels: {shown}" + (f" and {len(levels) - 6} more" if len(levels) > 6 else "")


def column_of(factor: Any) -> str | None:
    """Return the column name if a factor is nothing but one, else None."""
    code = factor.code
    if code.isidentifier():
        return code
    names, quoted = _names(code)
    return next(iter(quoted)) if not names and len(quoted) == 1 and code == f"Q({next(iter(quoted))!r})" else None


def names_in(factor: Any) -> tuple[frozenset[str], frozenset[str]]:
    """Python names, and column names inside ``Q('...')``, that a factor mentions."""
    return _names(factor.code)


@lru_cache(maxsize=1024)
def _names(code: str) -> tuple[frozenset[str], frozenset[str]]:
    try:
        tree = ast.parse(code, mode="eval")
    except SyntaxError:
        raise FormulaError(f"{code!r} is not a valid expression") from None
    names, quoted, skip = set(), set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Q" and node.args:
            argument = node.args[0]
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                quoted.add(argument.value)
                skip.add(id(node.func))
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and id(node) not in skip:
            names.add(node.id)
    return frozenset(names), frozenset(quoted)


@lru_cache(maxsize=1)
def _language_names() -> frozenset[str]:
    import builtins

    return frozenset(dir(builtins)) | frozenset(dir(patsy_builtins)) | frozenset(LANGUAGE)


class Source(Mapping):
    """Where names are looked up: the columns of a frame, then the formula language, then the caller's variables.

    Parameters
    ----------
    frame : DataFrame
        Rows of the model.
    environment : EvalEnvironment
        The caller's variables.
    """

    def __init__(self, frame: pd.DataFrame, environment: EvalEnvironment):
        self.frame = frame
        self.environment = environment
        self._encoded: dict[str, Encoded] = {}
        self._columns: dict[str, pd.Series] = {}
        self._labels: dict[str, tuple[np.ndarray, pd.Index]] = {}

    @cached_property
    def nobs(self) -> int:
        """Number of rows."""
        return len(self.frame)

    def __getitem__(self, name: str) -> Any:
        """Column as patsy's expressions see it: text as objects, nullable numbers as floats."""
        column = self.frame[name]
        if isinstance(column, pd.DataFrame):
            raise DataError(f"the data have several columns called {name!r}")
        dtype = column.dtype
        if isinstance(dtype, pd.StringDtype):
            return column.astype(object)
        if _holds_numbers(column):
            return pd.to_numeric(column)
        if isinstance(dtype, pd.CategoricalDtype):
            return column.cat.remove_unused_categories()
        if isinstance(dtype, pd.api.extensions.ExtensionDtype) and pd.api.types.is_numeric_dtype(dtype):
            return pd.Series(column.to_numpy(dtype=float, na_value=np.nan), index=column.index, name=name)
        return column

    def __iter__(self) -> Iterator[Any]:
        return iter(self.frame.columns)

    def __len__(self) -> int:
        return len(self.frame.columns)

    def __contains__(self, name: object) -> bool:
        return name in self.frame.columns

    def column(self, name: str) -> Encoded:
        """Encoded column, computed once."""
        if name not in self._encoded:
            column = self.frame[name]
            if isinstance(column, pd.DataFrame):
                raise DataError(f"the data have several columns called {name!r}")
            self._encoded[name] = encode(column, self.nobs, name)
            self._columns[name] = column
        return self._encoded[name]

    def floats(self, name: str | None) -> pd.Series | None:
        """A column as it stands in the frame, where its encoding is the same floats; None otherwise."""
        column = None if name is None else self._columns.get(name)
        if column is None or column.dtype != np.float64 or not column.to_numpy().flags.c_contiguous:
            return None
        return column

    def labels(self, name: str) -> tuple[np.ndarray, pd.Index]:
        """Codes and levels of a column as a grouping factor, computed once."""
        if name not in self._labels:
            encoded = self._encoded.get(name)
            if encoded is not None and encoded.categories is not None and self.frame[name].dtype != bool:
                self._labels[name] = encoded.values, encoded.categories
            else:
                self._labels[name] = encode_labels(self.frame[name], f"grouping factor {name!r}")
        return self._labels[name]

    def take(self, rows: np.ndarray) -> Source:
        """Restrict to some rows."""
        return Source(self.frame.iloc[rows], self.environment)

    @staticmethod
    def is_language(name: str) -> bool:
        """Whether a name belongs to Python, patsy or the formula language."""
        return name in _language_names()

    def outside_names(self, factor: Any) -> frozenset[str]:
        """Return the caller's variables that a factor uses.

        Raises
        ------
        UnknownColumnError
            If a name is found nowhere; it names similar columns.
        """
        names, quoted = names_in(factor)
        columns = self.frame.columns
        outside = frozenset(n for n in names if n not in columns and n not in _language_names())
        unknown = [name for name in quoted if name not in columns]
        if outside:
            namespace = self.environment.namespace
            unknown += [name for name in outside if name not in namespace]
        if unknown:
            raise UnknownColumnError(unknown_column(sorted(unknown)[0], columns))
        return outside


def unknown_column(name: str, columns: Any) -> str:
    """Sentence about a name that is not a column, with similar ones."""
    shown = [str(column) for column in columns]
    near = difflib.get_close_matches(name, shown, 3, 0.6)
    near += [column for column in shown if column.lower() == name.lower() and column not in near]
    if near:
        return f"{name!r} is not a column of the data; did you mean {' or '.join(map(repr, near))}?"
    return f"{name!r} is not a column of the data; they are {', '.join(shown[:12])}{' ...' if len(shown) > 12 else ''}"


def evaluation_environment(environment: EvalEnvironment, factor: Any) -> EvalEnvironment:
    """Environment for a factor: functions of the formula language that it calls shadow the caller's names."""
    names, _ = names_in(factor)
    used = {name: LANGUAGE[name] for name in names if name in LANGUAGE and name != "np"}
    if "np" in names:
        environment = environment.with_outer_namespace({"np": np})
    if not used:
        return environment
    return EvalEnvironment([used], environment.flags).with_outer_namespace(environment.namespace)


@contextmanager
def _one_sentence(factor: EvalFactor) -> Iterator[None]:
    """Turn whatever the user's expression raises into one sentence; numpy's warnings say nothing that checks do not."""
    try:
        with np.errstate(all="ignore"):
            yield
    except (DataError, FormulaError):
        raise
    except Exception as error:  # patsy, Python and every library that an expression may call
        cause = error.__cause__ or error
        text = error.message if cause is error and isinstance(error, PatsyError) else str(cause)
        kind = "" if isinstance(cause, PatsyError) else f"{type(cause).__name__}: "
        raise FormulaError(f"{factor.name()} cannot be evaluated: {kind}{text}") from cause


def _view(factor: EvalFactor, source: Source) -> NumericView:
    return NumericView(source, factor.code, Source.is_language)


def evaluate(factor: EvalFactor, state: dict, source: Source) -> Any:
    """Evaluate a factor whose state is complete; every error becomes one sentence."""
    with _one_sentence(factor):
        return factor.eval(state, _view(factor, source))


def prepare(factor: EvalFactor, source: Source) -> tuple[dict, bool]:
    """Prepare a factor's state.

    Returns
    -------
    state : dict
        What patsy needs to evaluate the factor.
    stateful : bool
        Whether the factor still has to see the data (`learn`).
    """
    state: dict = {}
    with _one_sentence(factor):
        passes = factor.memorize_passes_needed(state, evaluation_environment(source.environment, factor))
    return state, passes > 0


def learn(factor: EvalFactor, state: dict, source: Source) -> None:
    """Let a stateful factor see the data of the fit."""
    check_sizes(factor, state, source.nobs)
    for step in range(len(state["pass_bins"])):
        see(factor, state, step, source)
        with _one_sentence(factor):
            factor.memorize_finish(state, step)


def see(factor: EvalFactor, state: dict, step: int, source: Source) -> None:
    """Let a stateful factor see some of the data of the fit, in its pass `step` over them."""
    view = _view(factor, source)
    with _one_sentence(factor):
        factor.memorize_chunk(state, step, view)


def check_sizes(factor: EvalFactor, state: dict, nobs: int) -> None:
    """Refuse a spline or polynomial with more columns than rows."""
    with _one_sentence(factor):
        for name, value in _sizes(factor.code, state["eval_env"]):
            if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or value != int(value):
                raise FormulaError(f"{factor.name()}: {name} must be a whole number, got {value!r}")
            if value > nobs:
                raise FormulaError(f"{factor.name()}: {name}={value:g} is more than the {nobs} rows allow")


def _sizes(code: str, environment: EvalEnvironment) -> Iterator[tuple[str, Any]]:
    """Keyword arguments that say how many columns a spline or polynomial has, with their values."""
    for node in ast.walk(ast.parse(code, mode="eval")):
        for keyword in node.keywords if isinstance(node, ast.Call) else ():
            if keyword.arg in ("df", "degree"):
                value = environment.eval(ast.unparse(keyword.value))
                if value is not None:
                    yield keyword.arg, value
