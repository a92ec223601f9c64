"""Coefficients of contrasts among k means, by name or as the user writes them."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from mvmise_sm.exceptions import OptionError
from mvmise_sm.option_values import short

__all__ = ["DEFAULT_ADJUST", "ContrastSet", "Name", "contrast_set", "written"]

# a pair names a difference, or a ratio once it is exponentiated
Name = str | tuple[str, str]
# names and coefficients (q, k)
ContrastSet = tuple[list[Name], np.ndarray]

_DEGREES = ("linear", "quadratic", "cubic", "quartic", "degree 5", "degree 6")
_ALIASES = {
    "tukey": "pairwise",
    "pairs": "pairwise",
    "dunnett": "trt.vs.ctrl",
    "trt.vs.ctrl1": "trt.vs.ctrl",
    "consecutive": "consec",
    "effects": "eff",
    "polynomial": "poly",
}
DEFAULT_ADJUST = {
    "pairwise": "tukey",
    "revpairwise": "tukey",
    "trt.vs.ctrl": "dunnett",
    "trt.vs.ctrlk": "dunnett",
    "consec": "mvt",
    "eff": "fdr",
    "del.eff": "fdr",
}


def contrast_set(method: Any, labels: Sequence[str], ref: Any = None) -> tuple[str, ContrastSet]:
    """Names and coefficients of contrasts.

    Parameters
    ----------
    method : str, mapping, array_like or callable
        A name; a mapping from names to weights (k,); a matrix (q, k); or a function of the labels that gives one of
        these.
    labels : sequence of str
        Labels of the k means.
    ref : str or int, optional
        Reference of ``"trt.vs.ctrl"``: a label, or a position from 0; the first by default.

    Returns
    -------
    kind : str
        The name without aliases, ``"custom"`` for weights.
    contrasts : tuple
        Names (q) and coefficients (q, k).

    Raises
    ------
    OptionError
    """
    if callable(method):
        method = method(list(labels))
    if isinstance(method, str):
        kind = _ALIASES.get(method, method)
        if kind not in _METHODS:
            near = difflib.get_close_matches(method, [*_METHODS, *_ALIASES], 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise OptionError(
                f"contrast {method!r} is not known; allowed are {', '.join(map(repr, _METHODS))}, a dict of weights or "
                f"a matrix{hint}"
            )
        if ref is not None and kind != "trt.vs.ctrl":
            raise OptionError(f"ref names the control of 'trt.vs.ctrl'; {method!r} has none")
        names, matrix = _METHODS[kind](list(labels), _reference(ref, labels))
        return kind, (names, matrix)
    if ref is not None:
        raise OptionError("ref names the control of 'trt.vs.ctrl'; weights have none")
    return "custom", _given(method, labels)


def written(name: Name, sign: str) -> str:
    """A contrast's name, with ``-`` or ``/`` between the two sides of a pair."""
    return name if isinstance(name, str) else f"{name[0]} {sign} {name[1]}"


def _given(method: Any, labels: Sequence[str]) -> ContrastSet:
    if isinstance(method, Mapping):
        names: list[Name] = [str(name) for name in method]
        rows = list(method.values())
    else:
        try:
            rows = list(np.atleast_2d(np.asarray(method, dtype=float)))
        except (TypeError, ValueError):
            raise OptionError(f"a contrast is a word, or weights as numbers, got {short(method)}") from None
        names = [f"c{i + 1}" for i in range(len(rows))]
    if not rows:
        raise OptionError("contrast needs at least one set of weights")
    for row in rows:
        if np.shape(row) != (len(labels),):
            raise OptionError(
                f"contrast has {np.size(row)} weights, there are {len(labels)} means: {', '.join(labels)}"
            )
    try:
        matrix = np.array(rows, dtype=float)
    except (TypeError, ValueError):
        raise OptionError("the weights of a contrast must be numbers") from None
    if not np.isfinite(matrix).all():
        raise OptionError("the weights of a contrast must be finite")
    return names, matrix


def _reference(ref: Any, labels: Sequence[str]) -> int:
    if ref is None:
        return 0
    if str(ref) in labels:
        return list(labels).index(str(ref))
    if isinstance(ref, (int, np.integer)) and not isinstance(ref, bool) and -len(labels) <= ref < len(labels):
        return int(ref) % len(labels)
    raise OptionError(f"ref: {ref!r} is not one of the means {', '.join(labels)}")


def _pairwise(labels: list[str], ref: int) -> ContrastSet:
    eye, pairs = np.eye(len(labels)), list(combinations(range(len(labels)), 2))
    matrix = np.array([eye[i] - eye[j] for i, j in pairs]).reshape(len(pairs), len(labels))
    return [(labels[i], labels[j]) for i, j in pairs], matrix


def _revpairwise(labels: list[str], ref: int) -> ContrastSet:
    eye, pairs = np.eye(len(labels)), [(j, i) for i, j in combinations(range(len(labels)), 2)]
    matrix = np.array([eye[i] - eye[j] for i, j in pairs]).reshape(len(pairs), len(labels))
    return [(labels[i], labels[j]) for i, j in pairs], matrix


def _control(labels: list[str], ref: int) -> ContrastSet:
    eye, others = np.eye(len(labels)), [i for i in range(len(labels)) if i != ref]
    matrix = np.array([eye[i] - eye[ref] for i in others]).reshape(len(others), len(labels))
    return [(labels[i], labels[ref]) for i in others], matrix


def _last_control(labels: list[str], ref: int) -> ContrastSet:
    return _control(labels, len(labels) - 1)


def _consecutive(labels: list[str], ref: int) -> ContrastSet:
    names: list[Name] = list(zip(labels[1:], labels, strict=False))
    return names, np.diff(np.eye(len(labels)), axis=0)


def _effects(labels: list[str], ref: int) -> ContrastSet:
    k = len(labels)
    return [f"{label} effect" for label in labels], np.eye(k) - 1.0 / k


def _deleted_effects(labels: list[str], ref: int) -> ContrastSet:
    k = len(labels)
    eye = np.eye(k)
    if k < 2:
        return [], np.zeros((0, k))
    return [f"{label} effect" for label in labels], eye - (1.0 - eye) / (k - 1)


def _identity(labels: list[str], ref: int) -> ContrastSet:
    return list(labels), np.eye(len(labels))


def _polynomials(labels: list[str], ref: int) -> ContrastSet:
    """Orthogonal polynomials of 1..k scaled to the smallest integers."""
    k = len(labels)
    degree = min(k - 1, len(_DEGREES))
    x = np.arange(k) - (k - 1) / 2.0
    basis: list[np.ndarray] = [np.ones(k)]
    for power in range(1, degree + 1):
        column = x**power
        for other in basis:
            column = column - (column @ other) / (other @ other) * other
        basis.append(column)
    rows = np.array([_integers(row) for row in basis[1:]]).reshape(degree, k)
    return list(_DEGREES[:degree]), rows


def _integers(row: np.ndarray) -> np.ndarray:
    """The multiple of a rational vector whose entries are the smallest integers; its last entry stays positive."""
    scaled = row / np.abs(row[np.abs(row) > 1e-9 * np.abs(row).max()]).min()
    for multiple in range(1, 5000):
        whole = np.round(scaled * multiple)
        if np.abs(scaled * multiple - whole).max() < 1e-6 * multiple:
            return whole * np.sign(whole[-1])
    return row / np.linalg.norm(row) * np.sign(row[-1])


_METHODS: dict[str, Callable[[list[str], int], ContrastSet]] = {
    "pairwise": _pairwise,
    "revpairwise": _revpairwise,
    "trt.vs.ctrl": _control,
    "trt.vs.ctrlk": _last_control,
    "consec": _consecutive,
    "eff": _effects,
    "del.eff": _deleted_effects,
    "poly": _polynomials,
    "identity": _identity,
}
