"""Functions that belong to the formula language: R's elementary functions, factors, polynomials and splines.

R's functions whose names are also common column names (``c``, ``cut``, ``scale``) are found under ``R_`` and their
name: the translation of a formula writes that where the name is called, so that a column of that name stays one.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from patsy.builtins import C

from mvmise_sm.formula.splines import Ns

__all__ = ["LANGUAGE", "Poly"]


class Poly:
    """Orthogonal polynomials as a patsy stateful transform: ``poly(x, degree)``; powers with ``raw=True``.

    The columns are orthonormal on the data of the fit; new data are mapped by the same three-term recurrence
    (Kennedy and Gentle, Statistical Computing, 1980, section 8.1.2).
    """

    def __init__(self) -> None:
        self._chunks: list[np.ndarray] = []
        self._degree = 1

    def memorize_chunk(self, x: Any, degree: int = 1, raw: bool = False) -> None:
        """Collect data of the first pass; `x` (n,), `degree` at least 1."""
        self._chunks.append(np.asarray(x, dtype=float).ravel())
        self._degree = int(degree)

    def memorize_finish(self) -> None:
        """Compute the recurrence coefficients."""
        x = np.concatenate(self._chunks)
        self._chunks = []
        if self._degree < 1 or self._degree >= np.unique(x).size:
            raise ValueError(
                f"poly: degree must be between 1 and one less than the {np.unique(x).size} distinct values, "
                f"not {self._degree}"
            )
        previous, current = np.zeros_like(x), np.ones_like(x)
        self._alpha, self._norm2 = [], [1.0, float(x.size)]
        for _ in range(self._degree):
            alpha = float(x @ current**2) / self._norm2[-1]
            previous, current = current, (x - alpha) * current - self._norm2[-1] / self._norm2[-2] * previous
            self._alpha.append(alpha)
            self._norm2.append(float(current @ current))

    def transform(self, x: Any, degree: int = 1, raw: bool = False) -> np.ndarray:
        """Return the columns (n, degree) for `x` (n,)."""
        x = np.asarray(x, dtype=float).ravel()
        if raw:
            return np.asfortranarray(x[:, None] ** np.arange(1, self._degree + 1))
        previous, current = np.zeros_like(x), np.ones_like(x)
        out = np.empty((x.size, self._degree), order="F")
        for j, alpha in enumerate(self._alpha):
            ratio = self._norm2[j + 1] / self._norm2[j]
            previous, current = current, (x - alpha) * current - ratio * previous
            out[:, j] = current / np.sqrt(self._norm2[j + 2])
        return out


class Scale:
    """R's ``scale(x, center, scale)`` for one column: the standard deviation has the divisor n - 1.

    Each of `center` and `scale` may also be a number; without centring R divides by the root mean square. patsy's
    ``rescale`` and ``ddof`` are understood.
    """

    def __init__(self) -> None:
        self._chunks: list[np.ndarray] = []

    def memorize_chunk(self, x: Any, center: Any = True, scale: Any = True, rescale: Any = None, ddof: int = 1) -> None:
        """Collect data of the first pass; `x` (n,) or (n, k)."""
        self._chunks.append(np.asarray(x, dtype=float))
        self._options = center, scale if rescale is None else rescale, ddof

    def memorize_finish(self) -> None:
        """Compute centre and divisor."""
        x = np.concatenate(self._chunks)
        self._chunks = []
        center, scale, ddof = self._options
        self._center = x.mean(axis=0) if center is True else np.float64(0.0 if center is False else center)
        moved = x - self._center
        divisor = np.sqrt(np.square(moved).sum(axis=0) / (len(x) - ddof)) if scale is True else 1.0
        self._scale = divisor if scale is True or scale is False else np.float64(scale)
        if np.any(np.equal(self._scale, 0.0)):
            raise ValueError("scale: the column is constant and cannot be divided by its standard deviation")

    def transform(self, x: Any, *arguments: Any, **options: Any) -> np.ndarray:
        """Return the scaled column."""
        return (np.asarray(x, dtype=float) - self._center) / self._scale


class _Levels:
    """Base of transforms that remember the levels of a factor, in their order."""

    def __init__(self) -> None:
        self._levels: list[Any] = []

    def memorize_chunk(self, x: Any, *arguments: Any, **options: Any) -> None:
        self._numeric = not isinstance(getattr(x, "dtype", None), pd.CategoricalDtype)
        if self._numeric:
            found = pd.unique(pd.Series(np.asarray(x)).dropna())
            found = sorted(found)
        else:
            found = list(pd.Categorical(x).remove_unused_categories().categories)
        self._levels += [level for level in found if level not in self._levels]

    def memorize_finish(self) -> None:
        pass

    def _known(self, level: Any, function: str) -> Any:
        match = [own for own in self._levels if own == level or str(own) == str(level)]
        if not match:
            raise ValueError(f"{function}: {level!r} is not a level; they are {', '.join(map(repr, self._levels))}")
        return match[0]


class Relevel(_Levels):
    """R's ``relevel(a, ref)``: the level `ref` comes first."""

    def transform(self, x: Any, ref: Any) -> pd.Categorical:
        """Return the factor with its levels in the new order."""
        first = self._known(ref, "relevel")
        order = [first, *(level for level in self._levels if level != first)]
        values = pd.Series(np.asarray(x, dtype=object))
        odd = set(values.dropna()) - set(order)
        return pd.Categorical(values, categories=[*order, *sorted(odd, key=str)])


class Dummy(_Levels):
    """lme4's ``dummy(a, level)``: indicators of one or several levels; of all but the first by default."""

    def transform(self, x: Any, level: Any = None) -> np.ndarray:
        """Return columns of zeros and ones."""
        wanted = self._levels[1:] if level is None else [level] if np.ndim(level) == 0 else list(level)
        wanted = [self._known(name, "dummy") for name in wanted]
        values = pd.Series(np.asarray(x, dtype=object))
        columns = np.column_stack([(values == name).to_numpy(dtype=float) for name in wanted])
        columns[values.isna().to_numpy()] = np.nan
        return columns[:, 0] if len(wanted) == 1 else columns


class AsNumeric(_Levels):
    """R's ``as.numeric``: truth values as 0 and 1, the codes 1, 2, ... of a factor, text that holds numbers."""

    def transform(self, x: Any) -> np.ndarray:
        """Return numbers (n,)."""
        if isinstance(getattr(x, "dtype", None), pd.CategoricalDtype):
            codes = pd.Categorical(x, categories=self._levels).codes
            return np.where(codes < 0, np.nan, codes + 1.0)
        return pd.to_numeric(pd.Series(np.asarray(x))).to_numpy(dtype=float)


class Cut:
    """R's ``cut(x, breaks)``: intervals closed on the right, ``(0,1]``; a number of breaks divides the range."""

    def __init__(self) -> None:
        self._range = [np.inf, -np.inf]

    def memorize_chunk(self, x: Any, *arguments: Any, **options: Any) -> None:
        """Collect the range of `x`."""
        x = np.asarray(x, dtype=float)
        self._range = [min(self._range[0], float(np.nanmin(x))), max(self._range[1], float(np.nanmax(x)))]

    def memorize_finish(self) -> None:
        """Nothing is left to compute."""

    def transform(
        self, x: Any, breaks: Any, labels: Any = None, include_lowest: bool = False, right: bool = True
    ) -> pd.Categorical:
        """Return the intervals; values outside all of them are missing."""
        x = np.asarray(x, dtype=float)
        if np.ndim(breaks) == 0:
            if int(breaks) < 2:
                raise ValueError(f"cut: the number of intervals must be at least 2, got {breaks}")
            low, high = self._range
            breaks = np.linspace(low, high, int(breaks) + 1)
            breaks[[0, -1]] += np.array([-1.0, 1.0]) * (high - low) / 1000.0
        breaks = np.sort(np.asarray(breaks, dtype=float))
        if len(breaks) < 2 or (np.diff(breaks) <= 0.0).any():
            raise ValueError("cut: breaks must be different numbers, at least two")
        names = _interval_labels(breaks, right) if labels is None else [str(label) for label in labels]
        if len(names) != len(breaks) - 1:
            raise ValueError(f"cut: {len(names)} labels for {len(breaks) - 1} intervals")
        codes = np.searchsorted(breaks, x, side="left" if right else "right") - 1
        if include_lowest:
            edge, code = (breaks[0], 0) if right else (breaks[-1], len(names) - 1)
            codes = np.where(x == edge, code, codes)
        codes = np.where(np.isfinite(x) & (codes >= 0) & (codes < len(names)), codes, -1)
        return pd.Categorical.from_codes(codes, names, ordered=False)


def _interval_labels(breaks: np.ndarray, right: bool) -> list[str]:
    """R's labels, with as many digits as tell the breaks apart."""
    for digits in range(3, 17):
        text = [f"{b:.{digits}g}" for b in breaks]
        if len(set(text)) == len(text):
            break
    left, end = ("(", "]") if right else ("[", ")")
    return [f"{left}{a},{b}{end}" for a, b in pairwise(text)]


def _stateful(transform: type, name: str) -> Any:
    """A function that patsy knows as a stateful transform and that can be called by itself."""

    def function(*arguments: Any, **options: Any) -> Any:
        state = transform()
        state.memorize_chunk(*arguments, **options)
        state.memorize_finish()
        return state.transform(*arguments, **options)

    function.__name__, function.__doc__ = name, transform.__doc__
    function.__patsy_stateful_transform__ = transform  # type: ignore[attr-defined]
    return function


def _combine(*values: Any) -> list:
    """R's ``c(...)``: one list of all values."""
    return [v for value in values for v in (list(value) if np.ndim(value) else [value])]


def _ifelse(test: Any, yes: Any, no: Any) -> np.ndarray:
    """R's ``ifelse``: `yes` where `test` is true, else `no`; missing where `test` is."""
    test = np.asarray(test)
    out = np.where(test.astype(bool), yes, no)
    lost = pd.isna(test)
    if lost.any():
        out = out.astype(object if out.dtype.kind in "US" else float)
        out[lost] = np.nan
    return out


def _parallel(function: Any, values: tuple, na_rm: bool) -> np.ndarray:
    arrays = [np.asarray(v, dtype=float) for v in values]
    out = arrays[0]
    for other in arrays[1:]:
        out = function(out, other)
    return out


def _pmax(*values: Any, na_rm: bool = False) -> np.ndarray:
    """R's ``pmax``: the largest value of every row."""
    return _parallel(np.fmax if na_rm else np.maximum, values, na_rm)


def _pmin(*values: Any, na_rm: bool = False) -> np.ndarray:
    """R's ``pmin``: the smallest value of every row."""
    return _parallel(np.fmin if na_rm else np.minimum, values, na_rm)


class _Membership:
    """R's ``%in%`` between two expressions, written ``x << R_in << values`` for Python."""

    __array_ufunc__ = None

    def __init__(self, left: Any = None):
        self._left = left

    def __rlshift__(self, left: Any) -> _Membership:
        return _Membership(left)

    def __lshift__(self, right: Any) -> np.ndarray:
        return np.asarray(pd.Series(np.asarray(self._left)).isin(list(np.atleast_1d(np.asarray(right, dtype=object)))))


def _logit(p: Any) -> np.ndarray:
    """Log odds of a proportion."""
    p = np.asarray(p, dtype=float)
    return np.log(p) - np.log1p(-p)


LANGUAGE: dict[str, Any] = {
    "log": np.log,
    "log2": np.log2,
    "log10": np.log10,
    "log1p": np.log1p,
    "exp": np.exp,
    "expm1": np.expm1,
    "sqrt": np.sqrt,
    "abs": np.abs,
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "logit": _logit,
    "pi": np.pi,
    "factor": C,
    "poly": _stateful(Poly, "poly"),
    "R_c": _combine,
    "R_ns": _stateful(Ns, "ns"),
    "R_scale": _stateful(Scale, "scale"),
    "R_relevel": _stateful(Relevel, "relevel"),
    "R_dummy": _stateful(Dummy, "dummy"),
    "R_cut": _stateful(Cut, "cut"),
    "R_ifelse": _ifelse,
    "R_pmax": _pmax,
    "R_pmin": _pmin,
    "R_as_numeric": _stateful(AsNumeric, "as.numeric"),
    "R_in": _Membership(),
    "np": np,
}
