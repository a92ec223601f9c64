"""Whether two scans are the same one: hashes of options and arrays by content."""

from __future__ import annotations

import hashlib
import types
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from mvmise_sm.exceptions import OptionError

__all__ = ["digest"]


def digest(*values: Any) -> str:
    """Hash of values by what they hold, the same in every process.

    Functions count by their code, defaults and enclosed values, other objects by their class and attributes.

    Raises
    ------
    OptionError
        If a value cannot be compared between processes.
    """
    out = hashlib.blake2b(digest_size=12)
    for value in values:
        _feed(out, value, ())
    return out.hexdigest()


def _feed(out: Any, value: Any, above: tuple[int, ...]) -> None:
    """Add one value; `above` holds the objects that enclose it."""
    if id(value) in above:
        out.update(b"<recursive>")
        return
    above = (*above, id(value))
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
        out.update(f"{type(value).__name__}:{value!r};".encode())
    elif isinstance(value, (np.ndarray, np.generic)):
        _array(out, np.asarray(value), above)
    elif isinstance(value, (pd.DataFrame, pd.Series, pd.Index)):
        out.update(type(value).__name__.encode())
        if isinstance(value, pd.DataFrame):
            _feed(out, list(map(str, value.columns)), above)
        out.update(pd.util.hash_pandas_object(value).to_numpy().tobytes())
    elif isinstance(value, Mapping):
        out.update(f"map{len(value)};".encode())
        for key in sorted(value, key=lambda k: (type(k).__name__, str(k))):
            _feed(out, key, above)
            _feed(out, value[key], above)
    elif isinstance(value, (list, tuple)):
        out.update(f"list{len(value)};".encode())
        for item in value:
            _feed(out, item, above)
    elif isinstance(value, (set, frozenset)):
        _feed(out, sorted(digest(item) for item in value), above)
    elif isinstance(value, types.CodeType):
        for part in (value.co_code, value.co_names, value.co_varnames, value.co_consts):
            _feed(out, part, above)
    elif isinstance(value, types.FunctionType):
        cells = tuple(cell.cell_contents for cell in value.__closure__ or ())
        # values that the code reads from its module are its own business, except where they are plain data
        read = {n: value.__globals__[n] for n in value.__code__.co_names if n in value.__globals__}
        data = {n: v for n, v in read.items() if isinstance(v, (bool, int, float, str, tuple, np.ndarray))}
        _feed(out, [value.__code__, value.__defaults__, value.__kwdefaults__, cells, data], above)
    elif isinstance(value, types.MethodType):
        _feed(out, [value.__func__, value.__self__], above)
    elif isinstance(value, types.BuiltinMethodType) and not isinstance(value.__self__, (types.ModuleType, type(None))):
        _feed(out, [value.__name__, value.__self__], above)
    elif isinstance(value, (type, types.BuiltinFunctionType, types.ModuleType, np.ufunc)):
        out.update(f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', value.__name__)};".encode())
    else:
        _object(out, value, above)


def _array(out: Any, value: np.ndarray, above: tuple[int, ...]) -> None:
    out.update(f"array{value.shape};".encode())
    if value.dtype == object:
        _feed(out, value.ravel().tolist(), above)
        return
    if value.dtype.kind == "f":
        # one bit pattern for every NaN, one for both zeros
        value = np.where(np.isnan(value), np.nan, value) + 0.0
    out.update(value.dtype.str.encode())
    out.update(np.ascontiguousarray(value).tobytes())


def _object(out: Any, value: Any, above: tuple[int, ...]) -> None:
    kind = type(value)
    out.update(f"{kind.__module__}.{kind.__qualname__};".encode())
    slots = [name for base in kind.__mro__ for name in np.atleast_1d(getattr(base, "__slots__", ()))]
    state = {name: getattr(value, name) for name in slots if hasattr(value, name)}
    state |= getattr(value, "__dict__", {})
    if state:
        _feed(out, state, above)
        return
    plain = kind.__repr__ is object.__repr__
    if plain and not isinstance(value, tuple):
        return
    text = repr(value)
    if " at 0x" in text:
        raise OptionError(f"output: {text} cannot be compared between runs; use a number, a text or a function")
    out.update(text.encode())
