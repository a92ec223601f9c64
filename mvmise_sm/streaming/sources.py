"""Sources that are read block by block: recognised by the name of their type, so that no library is imported for it."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mvmise_sm.blame import legible
from mvmise_sm.exceptions import DataError, UnknownColumnError

__all__ = ["CHUNK_ROWS", "Chunks", "blocks", "column_names", "is_source", "partitions", "shown"]

CHUNK_ROWS = 262_144
_ONCE = "the source can be read only once, and the fit needs two passes; give ms.Chunks(function) that opens it anew"


class Chunks:
    """Data that come in pieces: a function that opens them anew for every pass.

    Parameters
    ----------
    factory : callable
        Without arguments; returns an iterator over frames (pandas, Arrow, polars or anything that converts to pandas).

    Raises
    ------
    DataError
        If `factory` is not callable.

    Examples
    --------
    >>> import mvmise_sm as ms
    >>> data = ms.datasets.load_sleepstudy()
    >>> parts = ms.Chunks(lambda: (part for _, part in data.groupby("Subject", observed=True)))
    >>> ms.lmer("Reaction ~ Days + (Days | Subject)", parts).fit().params.round(3)
    Intercept    251.405
    Days          10.467
    dtype: float64
    """

    def __init__(self, factory: Callable[[], Iterable[Any]]) -> None:
        if not callable(factory):
            raise DataError(
                f"ms.Chunks takes a function that returns an iterator over frames, found {type(factory).__name__}"
            )
        self.factory = factory
        # the last iterator: one that comes twice has been read
        self.opened: Iterator[Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"factory": self.factory, "opened": None}

    def __repr__(self) -> str:
        return f"Chunks({getattr(self.factory, '__name__', self.factory)!r})"


def _kind(data: Any) -> str:
    """Kind of a source: "chunks", "dataset", "files", "duckdb", "polars", "dask", "once", or "" for anything else."""
    if isinstance(data, Chunks):
        return "chunks"
    name, module = type(data).__name__, type(data).__module__.split(".")[0]
    if isinstance(data, (str, Path)) and str(data).endswith(".parquet"):
        return "files"
    if module == "pyarrow" and name.endswith("Dataset"):
        return "dataset"
    if module == "pyarrow" and name == "RecordBatchReader":
        return "once"
    if module in ("duckdb", "_duckdb") and name == "DuckDBPyRelation":
        return "duckdb"
    if module == "polars" and name == "LazyFrame":
        return "polars"
    if module in ("dask", "dask_expr") and name == "DataFrame":
        return "dask"
    if isinstance(data, Iterator):
        return "once"
    return ""


def is_source(data: Any) -> bool:
    """Whether data are read block by block.

    Raises
    ------
    DataError
        If they can be read only once.
    """
    kind = _kind(data)
    if kind == "once":
        raise DataError(_ONCE)
    return bool(kind)


def shown(data: Any) -> str:
    """What a summary calls the source."""
    return {
        "chunks": "chunks",
        "dataset": "pyarrow dataset",
        "files": "Parquet files",
        "duckdb": "DuckDB relation",
        "polars": "polars LazyFrame",
        "dask": "Dask DataFrame",
    }[_kind(data)]


def _files(data: Any) -> list[str]:
    found = sorted(glob.glob(str(data), recursive=True))
    if not found:
        raise DataError(f"no file matches {str(data)!r}")
    return found


def column_names(data: Any) -> list[str] | None:
    """Columns of a source, None where only its blocks know them."""
    kind = _kind(data)
    if kind == "dataset":
        return list(data.schema.names)
    if kind == "files":
        import pyarrow.parquet as pq

        first = _files(data)[0]
        with legible(repr(first)):
            return list(pq.read_schema(first).names)
    if kind == "duckdb":
        return list(data.columns)
    if kind == "polars":
        return list(data.collect_schema().names())
    if kind == "dask":
        return [str(c) for c in data.columns]
    return None


def partitions(data: Any) -> list[Any] | None:
    """Delayed partitions of a distributed source, each a frame; None for others."""
    return list(data.to_delayed()) if _kind(data) == "dask" else None


def blocks(data: Any, columns: Sequence[str], rows: int = CHUNK_ROWS) -> Iterator[pd.DataFrame]:
    """Read some columns of a source, block by block.

    Parameters
    ----------
    data : source
    columns : sequence of str
    rows : int, optional
        Rows of a block, for sources that can be asked for them.

    Yields
    ------
    DataFrame

    Raises
    ------
    UnknownColumnError
        If a block lacks a column.
    DataError
        If a block is no frame.
    """
    wanted = list(columns)
    for block in _READERS[_kind(data)](data, wanted, rows):
        frame = _as_pandas(block)
        absent = [name for name in wanted if name not in frame.columns]
        if absent:
            raise UnknownColumnError(f"a block of the source lacks the column {absent[0]!r}")
        for first in range(0, max(len(frame), 1), rows):
            yield frame[wanted].iloc[first : first + rows]


def _as_pandas(block: Any) -> pd.DataFrame:
    if isinstance(block, pd.DataFrame):
        return block
    if type(block).__module__.split(".")[0] == "pyarrow":
        # a column each, by reference where none of its values is missing
        return block.to_pandas(split_blocks=True)
    if hasattr(block, "to_pandas"):
        return block.to_pandas()
    try:
        return pd.DataFrame(block)
    except (ValueError, TypeError) as error:
        raise DataError(f"a block of the source is no frame: {type(block).__name__}: {error}") from None


def opened_chunks(data: Chunks) -> Iterable[Any]:
    """The blocks of a pass.

    Raises
    ------
    DataError
        If the function returns anything else.
    """
    opened = data.factory()
    if isinstance(opened, Iterator):
        if opened is data.opened:
            raise DataError(_ONCE)
        data.opened = opened
    if not isinstance(opened, Iterable):
        raise DataError(f"the function of ms.Chunks must return an iterator over frames, not {type(opened).__name__}")
    return opened


def _chunks(data: Chunks, columns: list[str], rows: int) -> Iterator[Any]:
    yield from opened_chunks(data)


def _parquet(paths: Iterable[str], columns: list[str], rows: int) -> Iterator[Any]:
    import pyarrow.parquet as pq

    for path in paths:
        # without buffering ahead, the memory used is that of one block
        with pq.ParquetFile(path, pre_buffer=False) as file:
            yield from file.iter_batches(batch_size=rows, columns=columns, use_threads=False)


def _dataset(data: Any, columns: list[str], rows: int) -> Iterator[Any]:
    missing = [name for name in columns if name not in data.schema.names]
    if missing:
        raise UnknownColumnError(f"the dataset lacks the column {missing[0]!r}; it has {', '.join(data.schema.names)}")
    local = type(getattr(data, "filesystem", None)).__name__ == "LocalFileSystem"
    partitioned = getattr(getattr(data, "partitioning", None), "schema", None)
    if local and not partitioned and getattr(getattr(data, "format", None), "default_extname", "") == "parquet":
        yield from _parquet(data.files, columns, rows)
        return
    yield from data.to_batches(columns=columns, batch_size=rows, use_threads=False)


def _duckdb(data: Any, columns: list[str], rows: int) -> Iterator[Any]:
    chosen = data.project(", ".join('"' + name.replace('"', '""') + '"' for name in columns))
    reader = chosen.to_arrow_reader(rows) if hasattr(chosen, "to_arrow_reader") else chosen.fetch_arrow_reader(rows)
    yield from reader


def _polars(data: Any, columns: list[str], rows: int) -> Iterator[Any]:
    chosen = data.select(columns)
    if hasattr(chosen, "collect_batches"):
        yield from chosen.collect_batches(chunk_size=rows)
    else:
        yield from chosen.collect(engine="streaming").iter_slices(rows)


def _dask(data: Any, columns: list[str], rows: int) -> Iterator[Any]:
    for part in data[columns].to_delayed():
        yield part.compute()


_READERS: dict[str, Callable[[Any, list[str], int], Iterator[Any]]] = {
    "chunks": _chunks,
    "dataset": _dataset,
    "files": lambda data, columns, rows: _parquet(_files(data), columns, rows),
    "duckdb": _duckdb,
    "polars": _polars,
    "dask": _dask,
}
