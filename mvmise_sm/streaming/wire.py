"""Plans and sums as bytes: a version, a JSON header and raw arrays, compressed; never a pickle.

Layout: the four bytes ``MVXP``, one byte of the format's version, then a zlib stream of: the length of the header
(8 bytes, little-endian), the header (JSON, UTF-8), and the arrays one after the other, little-endian, C order. The
header is a tree in which an array is ``{"array": [place, dtype, shape]}``, an index ``{"index": ...}``, a tuple
``{"tuple": [...]}`` and a mapping with other keys than text ``{"items": [...]}``.
"""

from __future__ import annotations

import json
import zlib
from typing import Any

import numpy as np
import pandas as pd

from mvmise_sm.exceptions import DataError

__all__ = ["pack", "unpack"]

_MAGIC, _VERSION = b"MVXP", 1
_KINDS = "fiub"
# what a header may hold besides numbers and text: nothing that would run code
_TAGS = frozenset(("array", "index", "tuple", "items", "frame", "categories"))


def pack(tree: Any) -> bytes:
    """Bytes of a tree of None, booleans, numbers, texts, lists, tuples, dicts, arrays, indexes and frames.

    Raises
    ------
    DataError
        If the tree holds anything else.
    """
    arrays: list[bytes] = []
    place = 0

    def node(value: Any) -> Any:
        nonlocal place
        if value is None or isinstance(value, (bool, str)):
            return value
        if isinstance(value, (int, np.integer)):
            return int(value)
        if isinstance(value, (float, np.floating)):
            return {"array": array(np.array([float(value)])), "scalar": True}
        if isinstance(value, np.bool_):
            return bool(value)
        if isinstance(value, np.ndarray) and value.dtype.kind in _KINDS:
            return {"array": array(value)}
        if isinstance(value, pd.DataFrame):
            return {"frame": [[str(name), node(pd.Index(value[name]))] for name in value.columns]}
        if isinstance(value, pd.Series):
            return node(pd.Index(value))
        if isinstance(value, pd.Index):
            return index(value)
        if isinstance(value, np.ndarray):
            return node(pd.Index(value.ravel()))
        if isinstance(value, tuple):
            return {"tuple": [node(item) for item in value]}
        if isinstance(value, list):
            return [node(item) for item in value]
        if isinstance(value, dict):
            if all(isinstance(key, str) for key in value) and not set(value) & _TAGS:
                return {key: node(item) for key, item in value.items()}
            return {"items": [[node(key), node(item)] for key, item in value.items()]}
        raise DataError(f"a plan holds a {type(value).__name__}, which cannot travel between sites")

    def array(value: np.ndarray) -> list[Any]:
        nonlocal place
        value = np.ascontiguousarray(value)
        plain = value.astype(value.dtype.newbyteorder("<"), copy=False)
        arrays.append(plain.tobytes())
        out = [place, plain.dtype.str, list(value.shape)]
        place += len(arrays[-1])
        return out

    def index(value: pd.Index) -> dict[str, Any]:
        if isinstance(value, pd.CategoricalIndex):
            codes = np.asarray(value.codes, dtype=np.int64)
            return {"categories": [index(value.categories), array(codes), bool(value.ordered)]}
        if value.dtype.kind in "mM":
            return {"index": ["time", str(value.dtype), array(value.asi8)]}
        if value.dtype.kind in _KINDS:
            return {"index": ["numbers", array(np.asarray(value))]}
        return {"index": ["labels", [node(item) for item in value.tolist()]]}

    header = json.dumps(node(tree), ensure_ascii=False, separators=(",", ":")).encode()
    body = len(header).to_bytes(8, "little") + header + b"".join(arrays)
    return _MAGIC + bytes([_VERSION]) + zlib.compress(body, 3)


def unpack(data: bytes) -> Any:
    """The tree of `pack`.

    Raises
    ------
    DataError
        If the bytes are damaged, of another format or of a newer version.
    """
    if not isinstance(data, (bytes, bytearray, memoryview)) or bytes(data[:4]) != _MAGIC:
        raise DataError("these bytes hold no cross-products")
    if data[4] != _VERSION:
        raise DataError(f"these cross-products have format {data[4]}; this version reads format {_VERSION}")
    try:
        body = zlib.decompress(bytes(data[5:]))
        size = int.from_bytes(body[:8], "little")
        header = json.loads(body[8 : 8 + size].decode())
        return _node(header, body[8 + size :])
    except (zlib.error, ValueError, KeyError, IndexError, TypeError) as error:
        raise DataError(f"these cross-products are damaged: {error}") from None


def _node(value: Any, raw: bytes) -> Any:
    if isinstance(value, list):
        return [_node(item, raw) for item in value]
    if not isinstance(value, dict):
        return value
    if "array" in value:
        out = _array(value["array"], raw)
        return float(out[0]) if value.get("scalar") else out
    if "tuple" in value:
        return tuple(_node(item, raw) for item in value["tuple"])
    if "items" in value:
        return {_node(key, raw): _node(item, raw) for key, item in value["items"]}
    if "frame" in value:
        return pd.DataFrame({name: _node(item, raw) for name, item in value["frame"]})
    if "categories" in value:
        categories, codes, ordered = value["categories"]
        made = pd.Categorical.from_codes(_array(codes, raw), _node(categories, raw), ordered=ordered)
        return pd.CategoricalIndex(made)
    if "index" in value:
        return _index(value["index"], raw)
    return {key: _node(item, raw) for key, item in value.items()}


def _array(where: list[Any], raw: bytes) -> np.ndarray:
    place, kind, shape = where
    dtype = np.dtype(kind)
    if dtype.kind not in _KINDS:
        raise ValueError(f"an array of type {kind}")
    count = int(np.prod(shape, dtype=np.int64))
    return np.frombuffer(raw, dtype=dtype, count=count, offset=place).reshape(shape).astype(dtype.newbyteorder("="))


def _index(value: list[Any], raw: bytes) -> pd.Index:
    if value[0] == "numbers":
        return pd.Index(_array(value[1], raw))
    if value[0] == "time":
        kind = pd.api.types.pandas_dtype(value[1])
        # zoned times are counted in UTC
        zone = getattr(kind, "tz", None)
        plain = np.dtype(f"M8[{kind.unit}]") if zone is not None else kind
        out = pd.Index(_array(value[2], raw).astype("int64").view(plain))
        return out if zone is None else out.tz_localize("UTC").tz_convert(zone)
    return pd.Index([_node(item, raw) for item in value[1]])
