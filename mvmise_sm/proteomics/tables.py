"""Exported tables to frames with known columns: names are matched as loosely as exports spell them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mvmise_sm.blame import legible
from mvmise_sm.exceptions import DataError, OptionError

__all__ = ["Column", "Table", "open_table", "plain_name", "text_of"]

_SEPARATORS = ("\t", ",", ";")
_SHOWN = 30
_MISSING = ["", "NA", "NaN", "nan", "N/A", "#N/A", "null", "NULL", "None", "-"]
_TRUE = {"true", "t", "1", "1.0", "+", "yes"}


def plain_name(name: Any) -> str:
    """A column's name without case and without anything that is neither letter nor digit.

    R puts an ``X`` before names that do not begin with a letter: ``# Proteins`` becomes ``X..Proteins``. It is dropped.
    """
    text = str(name)
    if re.match(r"X[.\d]", text):
        text = text[1:]
    return re.sub(r"[^0-9a-z]", "", text.lower())


def text_of(values: pd.Series) -> pd.Series:
    """Values as text; whole numbers without a decimal point, missing ones empty."""
    if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
        number = values.astype(float)
        whole = number.notna() & (number == np.floor(number)) & (number.abs() < 1e15)
        out = number.astype(str).where(~whole, number.where(whole, 0.0).astype("int64").astype(str))
        return out.where(number.notna(), "").astype(object)
    return values.astype(object).where(values.notna(), "").map(str)


@dataclass(frozen=True)
class Column:
    """A column that a reader asks for.

    Attributes
    ----------
    names : tuple of str
        Spellings, the usual one first.
    kind : {"label", "number", "flag"}
        Labels become categorical.
    required : bool
    """

    names: tuple[str, ...]
    kind: str = "label"
    required: bool = False


@dataclass(frozen=True, eq=False)
class Table:
    """A table whose columns are read when they are asked for.

    Attributes
    ----------
    label : str
        The file's name, for messages.
    names : tuple of str
        Columns as the table spells them.
    """

    label: str
    names: tuple[str, ...]
    source: Path | pd.DataFrame
    options: Mapping[str, Any]

    def find(self, wanted: Iterable[str]) -> str | None:
        """The table's own name of the first of these columns that it has."""
        plain: dict[str, str] = {}
        for name in self.names:
            plain.setdefault(plain_name(name), name)
        for name in wanted:
            if name in self.names:
                return name
            if plain_name(name) in plain:
                return plain[plain_name(name)]
        return None

    def need(self, wanted: Sequence[str]) -> str:
        """As `find`, for a column that must be there.

        Raises
        ------
        DataError
            If it is not.
        """
        found = self.find(wanted)
        if found is None:
            shown = list(self.names[:_SHOWN]) + ["..."] * (len(self.names) > _SHOWN)
            raise DataError(f"{self.label} lacks {wanted[0]!r}; found {shown}")
        return found

    def read(self, columns: Mapping[str, Column], numbers: Sequence[str] = ()) -> tuple[pd.DataFrame, np.ndarray]:
        """Read columns.

        Parameters
        ----------
        columns : mapping of str to Column
            By the names they get.
        numbers : sequence of str
            Further numeric columns as the table spells them: the channels.

        Returns
        -------
        frame : DataFrame
            The columns that the table has, under their new names; flags are booleans.
        values : ndarray (n_rows, n_numbers)

        Raises
        ------
        DataError
            If a required column is absent or a numeric one holds text.
        """
        own = {}
        for key, column in columns.items():
            found = self.need(column.names) if column.required else self.find(column.names)
            if found is not None:
                own[key] = found
        numeric = [own[k] for k in own if columns[k].kind == "number"] + list(numbers)
        raw = self._load(list(dict.fromkeys([*own.values(), *numbers])), numeric)
        frame = pd.DataFrame({key: self._typed(raw[name], columns[key].kind) for key, name in own.items()})
        values = np.empty((len(raw), len(numbers)))
        for k, name in enumerate(numbers):
            values[:, k] = self._typed(raw[name], "number").to_numpy()
        return frame, values

    def whole(self, columns: Sequence[str]) -> pd.DataFrame:
        """Columns by the table's own names with the types that pandas finds."""
        if isinstance(self.source, pd.DataFrame):
            return self.source[list(columns)].reset_index(drop=True)
        if self.source.suffix == ".parquet":
            with legible(self.label):
                return pd.read_parquet(self.source, columns=list(columns))
        with legible(self.label):
            return pd.read_csv(self.source, usecols=list(columns), low_memory=False, **self.options)

    def _load(self, wanted: list[str], numeric: list[str]) -> pd.DataFrame:
        if isinstance(self.source, pd.DataFrame):
            return self.source[wanted].reset_index(drop=True)
        if self.source.suffix == ".parquet":
            with legible(self.label):
                return pd.read_parquet(self.source, columns=wanted)
        text = {name: "category" for name in wanted if name not in numeric}
        # ids are opaque: a protein may be called NA
        empty = dict.fromkeys(numeric, _MISSING)
        with legible(self.label):
            return pd.read_csv(
                self.source, usecols=wanted, dtype=text, na_values=empty, keep_default_na=False, low_memory=False,
                **self.options,
            )  # fmt: skip

    def _typed(self, values: pd.Series, kind: str) -> pd.Series:
        if kind == "flag":
            if pd.api.types.is_bool_dtype(values):
                return values.astype(bool)
            labels = _labels(values)
            true = np.array([str(name).strip().lower() in _TRUE for name in labels.cat.categories], dtype=bool)
            return pd.Series(true[labels.cat.codes.to_numpy()] if len(true) else np.zeros(len(values), bool))
        if kind == "label":
            labels = _labels(values)
            # R writes NA where there is nothing; a frame has said so itself
            absent = not isinstance(self.source, pd.DataFrame) and "NA" in labels.cat.categories
            return _labels(labels.astype(object).where(labels != "NA", "")) if absent else labels
        number = pd.to_numeric(values, errors="coerce")
        wrong = number.isna() & values.notna() & ~values.isin(_MISSING)
        if wrong.any():
            at = int(np.flatnonzero(wrong)[0])
            raise DataError(f"{self.label}: {values.name!r} must be numeric, found {values.iloc[at]!r} in row {at + 1}")
        return number.astype(float)


def _labels(values: pd.Series) -> pd.Series:
    """Texts as a categorical without missing values."""
    if isinstance(values.dtype, pd.CategoricalDtype) and not values.hasnans:
        named = text_of(pd.Series(values.cat.categories))
        if named.is_unique:
            return pd.Series(pd.Categorical.from_codes(values.cat.codes, categories=named))
    return pd.Series(pd.Categorical(text_of(values.astype(object) if values.dtype == "category" else values)))


def open_table(source: str | Path | pd.DataFrame, label: str | None = None) -> Table:
    """Look at a table's columns.

    Parameters
    ----------
    source : path or DataFrame
        Text separated by tabs, commas or semicolons (then with decimal commas), compressed or not, or Parquet.
    label : str, optional
        What messages call it; the file's name by default.

    Returns
    -------
    Table

    Raises
    ------
    DataError
        If there is no such file, or it is not a table.
    OptionError
        If the source is something else.
    """
    if isinstance(source, pd.DataFrame):
        double = source.columns[source.columns.duplicated()]
        if len(double):
            raise DataError(f"{label or 'the table'} has two columns {double[0]!r}")
        return Table(label or "the table", tuple(source.columns), source, {})
    if not isinstance(source, (str, Path)):
        raise OptionError(f"a table must be a path or a DataFrame, not {type(source).__name__}")
    path = Path(source)
    label = label or path.name
    if not path.is_file():
        raise DataError(f"there is no file {str(path)!r}" + (", that is a folder" if path.is_dir() else ""))
    if path.suffix == ".parquet":
        try:
            from pyarrow import parquet
        except ImportError:
            raise OptionError("reading Parquet needs pyarrow; install it or export the table as text") from None
        with legible(label):
            return Table(label, tuple(parquet.read_schema(path).names), path, {})
    for encoding in ("utf-8-sig", "latin-1"):
        try:
            return _text_table(path, label, encoding)
        except UnicodeDecodeError:
            continue
    raise DataError(f"{label} is not a text table")


def _text_table(path: Path, label: str, encoding: str) -> Table:
    best: tuple[str, ...] = ()
    options: dict[str, Any] = {}
    for separator in _SEPARATORS:
        try:
            head = pd.read_csv(path, sep=separator, nrows=0, encoding=encoding)
        except pd.errors.EmptyDataError:
            raise DataError(f"{label} is empty") from None
        except pd.errors.ParserError:
            continue
        if len(head.columns) > len(best):
            best = tuple(map(str, head.columns))
            options = {"sep": separator, "encoding": encoding} | ({"decimal": ","} if separator == ";" else {})
    if encoding == "utf-8-sig":
        _check_encoding(path)
    return Table(label, best, path, options)


def _check_encoding(path: Path) -> None:
    """Raise UnicodeDecodeError now if the file is not UTF-8, not in the middle of reading it."""
    if path.suffix in (".gz", ".bz2", ".zip", ".xz", ".zst"):
        return
    with path.open(encoding="utf-8-sig", errors="strict") as lines:
        while lines.read(1 << 20):
            pass
