"""Results of a scan on disk: parts while it runs, one file when it has ended, nothing lost and nothing stale."""

from __future__ import annotations

import errno
import io
import json
import os
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any

import pandas as pd

from mvmise_sm.exceptions import OptionError, ScanError
from mvmise_sm.scanning.rows import RAW, empty_rows, typed
from mvmise_sm.scanning.table import own_numbers

__all__ = ["PartFiles"]

_NOTE = "scan.json"
_LOCK = "lock"
_SCAN, _EXTRA = b"mvmise_sm.scan", b"mvmise_sm.extra"


class PartFiles:
    """Results on disk: Parquet files of unique names while a scan runs, one file when it has ended.

    Use it as a context; inside, no other process can write to the same output.

    Parameters
    ----------
    path : Path
        The final file; the parts are in ``<path>.parts``.
    identity : list
        Which scan the results belong to: formula, model, and a mapping from what else matters to its hash.

    Raises
    ------
    OptionError
        If pyarrow is missing or the folder of `path` does not exist.
    """

    def __init__(self, path: Path, identity: list) -> None:
        try:
            import_module("pyarrow")
        except ImportError:
            raise OptionError("output needs pyarrow; install it or leave output out") from None
        if not path.parent.is_dir():
            raise OptionError(f"output: there is no folder {str(path.parent)!r}")
        if path.is_dir():
            raise OptionError(f"output: {str(path)!r} is a folder; name a file")
        self.path = path
        self.folder = path.with_name(path.name + ".parts")
        self.identity = identity
        self._lock: Any = None

    # --- one writer

    def __enter__(self) -> PartFiles:
        self._guarded(lambda: self.folder.mkdir(exist_ok=True))
        self._lock = _locked(self.folder / _LOCK, self.path)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        left = [f for f in self.folder.glob("*") if f.name != _LOCK]
        if not left or [f.name for f in left] == [_NOTE]:
            for file in [*left, self.folder / _LOCK]:
                file.unlink(missing_ok=True)
            self.folder.rmdir()
        self._lock.close()

    # --- reading

    def read(self) -> pd.DataFrame:
        """Rows of the features that are there already.

        Raises
        ------
        OptionError
            If they belong to another scan.
        ScanError
            If a file is damaged.
        """
        parts = []
        if self.path.exists():
            parts.append(self._read_final())
        for unfinished in self.folder.glob("writing-*"):
            unfinished.unlink()
        files = sorted(self.folder.glob("part-*.parquet"))
        if files:
            self._check(_loaded(self.folder / _NOTE, lambda: (self.folder / _NOTE).read_text("utf-8")), self.folder)
        parts += [_loaded(file, partial(pd.read_parquet, file)) for file in files]
        for file, part in zip(files, parts[len(parts) - len(files) :], strict=True):
            if list(part.columns) != list(RAW):
                raise ScanError(_damaged(file, f"columns {list(part.columns)}"))
        if not parts:
            return empty_rows()
        sources = pd.concat([part.assign(source=i) for i, part in enumerate(parts)], ignore_index=True)
        # a feature that two files hold was written twice by processes that died in between
        first = sources.groupby("feature")["source"].transform("min")
        return typed(sources[sources["source"] == first][list(RAW)].reset_index(drop=True))

    def _read_final(self) -> pd.DataFrame:
        import pyarrow.parquet as pq

        metadata = _loaded(self.path, lambda: pq.read_schema(self.path).metadata) or {}
        if _SCAN not in metadata:
            raise OptionError(f"{self.path} belongs to another scan, or is none; remove it or choose another output")
        self._check(metadata[_SCAN].decode(), self.path)
        table = _loaded(self.path, lambda: pd.read_parquet(self.path))
        extra = _loaded(self.path, lambda: pd.read_parquet(io.BytesIO(metadata[_EXTRA])))
        terms = own_numbers(table)
        return typed(pd.concat([terms.reindex(columns=list(RAW)), extra[list(RAW)]], ignore_index=True))

    def _check(self, text: str, where: Path) -> None:
        try:
            found = json.loads(text)
            stored = dict(zip(("formula", "model"), found[:2], strict=True)) | found[2]
        except (ValueError, TypeError, IndexError):
            raise OptionError(
                f"{where} belongs to another scan, or is none; remove it or choose another output"
            ) from None
        own = dict(zip(("formula", "model"), self.identity[:2], strict=True)) | self.identity[2]
        off = [name for name in own if stored.get(name) != own[name]]
        if off:
            raise OptionError(
                f"{where} belongs to another scan: {', '.join(off)} differ{'s' if len(off) == 1 else ''}; "
                "remove it or choose another output"
            )

    def check_features(self, done: pd.DataFrame, digests: Mapping[str, Callable[[], str]]) -> None:
        """Refuse results whose features have changed since.

        Raises
        ------
        OptionError
        """
        stored = done[done["kind"] == "digest"]
        where = self.path if self.path.exists() else self.folder
        for name, value in zip(stored["feature"], stored["message"], strict=True):
            if name not in digests:
                raise OptionError(
                    f"{where} belongs to another scan: it holds feature {name!r}, which this one does not have; "
                    "remove it or choose another output"
                )
            if digests[name]() != value:
                raise OptionError(
                    f"{where} belongs to another scan: values, weights or columns of feature {name!r} have changed; "
                    "remove it or choose another output"
                )

    # --- writing

    def write(self, part: pd.DataFrame) -> None:
        """Add the rows of one chunk.

        Raises
        ------
        ScanError
            If the disk is full or cannot be written to.
        """
        note = self.folder / _NOTE
        if not note.exists():
            self._save(note, lambda file: file.write_text(json.dumps(self.identity), encoding="utf-8"))
        name = f"part-{uuid.uuid4().hex}.parquet"
        self._save(self.folder / name, lambda file: part.to_parquet(file, index=False))

    def merge(self, result: pd.DataFrame, raw: pd.DataFrame) -> None:
        """Write the final file, and remove the parts.

        Parameters
        ----------
        result : DataFrame
            The finished table.
        raw : DataFrame
            Rows of all features, of which the table does not show all.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.Table.from_pandas(pd.DataFrame(result), preserve_index=False)
        extra = io.BytesIO()
        raw[raw["kind"] != "term"].to_parquet(extra, index=False, compression="zstd")
        note = {_SCAN: json.dumps(self.identity).encode(), _EXTRA: extra.getvalue()}
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), **note})
        self._save(self.path, lambda file: pq.write_table(table, file))
        for part in [*self.folder.glob("part-*.parquet"), self.folder / _NOTE]:
            part.unlink(missing_ok=True)

    def _save(self, target: Path, write: Callable[[Path], Any]) -> None:
        """Write to a temporary name, then rename, so that readers never see half a file."""
        temporary = self.folder / f"writing-{uuid.uuid4().hex}"

        def save() -> None:
            try:
                write(temporary)
                with temporary.open("rb+") as file:
                    os.fsync(file.fileno())
                temporary.replace(target)
            finally:
                temporary.unlink(missing_ok=True)

        self._guarded(save)

    def _guarded(self, action: Callable[[], None]) -> None:
        try:
            action()
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)
            why = "the disk is full" if full else f"it cannot be written to ({error})"
            raise ScanError(
                f"{self.path}: {why}; what was written before is kept, call scan again with output={str(self.path)!r} "
                "to go on"
            ) from error


def _loaded(file: Path, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except Exception as error:
        raise ScanError(_damaged(file, f"{type(error).__name__}: {error}")) from error


def _damaged(file: Path, why: str) -> str:
    return f"{file} is damaged ({why.splitlines()[0]}); remove it, and its features are fitted again"


def _locked(file: Path, path: Path) -> Any:
    """An open file that only one process can hold; the system lets go of it when the process ends."""
    while True:
        file.parent.mkdir(exist_ok=True)
        handle = file.open("a+")
        try:
            _lock(handle)
        except OSError:
            handle.seek(0)
            owner = handle.read().strip()
            handle.close()
            raise ScanError(
                f"{path} is being written by another scan{f' (process {owner})' if owner else ''}; wait for it or "
                "choose another output"
            ) from None
        try:
            current = os.path.samestat(os.fstat(handle.fileno()), os.stat(file))
        except FileNotFoundError:
            current = False
        if current:
            handle.truncate(0)
            handle.write(str(os.getpid()))
            handle.flush()
            return handle
        # its last owner has removed it in the meantime
        handle.close()


def _lock(handle: Any) -> None:
    if os.name == "nt":
        msvcrt = import_module("msvcrt")
        handle.seek(0)
        msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(handle.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
