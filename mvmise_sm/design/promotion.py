"""Whole numbers and truth values in expressions: wide enough that arithmetic neither wraps nor saturates.

A column of small integers overflows in numpy's arithmetic without a word, and the sum of two truth values is a truth
value. Expressions of a formula therefore see floats, as R's do. Integers stay where their being whole matters: as
labels in ``C(x)``, as positions in brackets, where a method of the column is called, and in functions of the caller.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import numpy as np

__all__ = ["NumericView"]

_LABELLED = frozenset(("C", "factor", "Q"))
_ARITHMETIC = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow)


class NumericView(Mapping):
    """Columns as one expression sees them.

    Parameters
    ----------
    source : Mapping
        Name -> column.
    code : str
        The expression.
    known : callable
        Whether a function's name belongs to the formula language, whose functions take floats.
    """

    def __init__(self, source: Mapping, code: str, known: Any):
        self._source = source
        self._whole, self._summed = _roles(code, known)

    def __getitem__(self, name: str) -> Any:
        column = self._source[name]
        dtype = getattr(column, "dtype", None)
        if not isinstance(dtype, np.dtype):
            return column
        if dtype.kind in "iu":
            return column.astype(np.int64 if name in self._whole and dtype != np.uint64 else float)
        return column.astype(float) if dtype.kind == "b" and name in self._summed else column

    def __contains__(self, name: object) -> bool:
        return name in self._source

    def __iter__(self) -> Iterator:
        return iter(self._source)

    def __len__(self) -> int:
        return len(self._source)


@lru_cache(maxsize=1024)
def _roles(code: str, known: Any) -> tuple[frozenset[str], frozenset[str]]:
    """Names whose integers stay whole, and names that are terms of a sum or product."""
    whole: set[str] = set()
    summed: set[str] = set()
    for node in ast.walk(ast.parse(code, mode="eval")):
        if isinstance(node, ast.Call):
            simple = node.func.id if isinstance(node.func, ast.Name) else None
            if simple in _LABELLED or (simple is not None and not known(simple)):
                for argument in [*node.args, *(keyword.value for keyword in node.keywords)]:
                    whole |= _plain_names(argument)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            whole.add(node.value.id)
        elif isinstance(node, ast.Subscript):
            whole |= _plain_names(node.slice) | _plain_names(node.value)
        elif isinstance(node, ast.BinOp) and isinstance(node.op, _ARITHMETIC):
            summed |= _plain_names(node.left) | _plain_names(node.right)
    return frozenset(whole), frozenset(summed)


def _plain_names(node: ast.AST) -> set[str]:
    """The name that a node is, or that ``Q('...')`` quotes."""
    if isinstance(node, ast.Name):
        return {node.id}
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Q":
        return {a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)}
    return set()
