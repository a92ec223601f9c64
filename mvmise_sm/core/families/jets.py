"""Truncated Taylor arithmetic by rows: derivatives of a log density that is written with ordinary functions.

A jet holds the Taylor coefficients of a quantity in a few variables, one row of coefficients per multi-index, at many
points at once. numpy's and scipy.special's functions named in `FUNCTIONS` take jets as they take arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import combinations_with_replacement
from math import factorial
from typing import Any

import numpy as np
from scipy import special

from mvmise_sm.core.families.gamma_functions import log_gamma_derivatives

__all__ = ["FUNCTIONS", "Jet", "log1mexp", "segment_logsumexp", "value", "variables"]

_LN2 = float(np.log(2.0))
_SQRT_2PI = float(np.sqrt(2.0 * np.pi))


@lru_cache(maxsize=64)
def _indices(n_vars: int, order: int) -> tuple[tuple[int, ...], ...]:
    """Sorted index tuples up to `order`: (), (0,), ..., (0, 0), (0, 1), ..."""
    return tuple(t for k in range(order + 1) for t in combinations_with_replacement(range(n_vars), k))


@lru_cache(maxsize=64)
def _products(n_vars: int, order: int) -> tuple[tuple[int, int, int], ...]:
    """Triples (i, j, k): coefficient i times coefficient j adds to coefficient k."""
    index = _indices(n_vars, order)
    place = {t: i for i, t in enumerate(index)}
    return tuple(
        (i, j, place[tuple(sorted(a + b))])
        for i, a in enumerate(index)
        for j, b in enumerate(index)
        if len(a) + len(b) <= order
    )


@lru_cache(maxsize=64)
def _factorials(n_vars: int, order: int) -> tuple[float, ...]:
    return tuple(float(np.prod([factorial(t.count(v)) for v in set(t)] or [1])) for t in _indices(n_vars, order))


class Jet:
    """A quantity with its derivatives in `n_vars` variables up to `order`.

    Parameters
    ----------
    coef : list of (ndarray, float or None)
        Taylor coefficients, one entry per multi-index; None for zero.
    n_vars, order : int
    """

    __slots__ = ("coef", "n_vars", "order")
    __array_priority__ = 1000.0

    def __init__(self, coef: list, n_vars: int, order: int) -> None:
        self.coef, self.n_vars, self.order = coef, n_vars, order

    def derivatives(self) -> dict[tuple[int, ...], Any]:
        """Partial derivatives by sorted index tuple; zero ones are left out."""
        scale = _factorials(self.n_vars, self.order)
        out = {}
        for t, c, f in zip(_indices(self.n_vars, self.order), self.coef, scale, strict=True):
            if c is not None:
                out[t] = c if f == 1.0 else f * c
        return out

    @property
    def value(self) -> Any:
        """The quantity itself."""
        return 0.0 if self.coef[0] is None else self.coef[0]

    def compose(self, *f: Any) -> Jet:
        """g of this jet, given g and its derivatives at the value, as many as the order asks for."""
        h = Jet([None, *self.coef[1:]], self.n_vars, self.order)
        out: Any = f[self.order] / factorial(self.order)
        for k in range(self.order - 1, -1, -1):
            out = h * out + f[k] / factorial(k)
        return out if isinstance(out, Jet) else Jet([out, *[None] * (len(self.coef) - 1)], self.n_vars, self.order)

    def _plain(self, other: Any, sign: float = 1.0) -> Jet:
        first = self.value + sign * other
        return Jet([first, *self.coef[1:]], self.n_vars, self.order)

    def __add__(self, other: Any) -> Jet:
        if not isinstance(other, Jet):
            return self._plain(other)
        return Jet(
            [b if a is None else a if b is None else a + b for a, b in zip(self.coef, other.coef, strict=True)],
            self.n_vars,
            self.order,
        )

    __radd__ = __add__

    def __neg__(self) -> Jet:
        return Jet([None if a is None else -a for a in self.coef], self.n_vars, self.order)

    def __sub__(self, other: Any) -> Jet:
        return self + (-other)

    def __rsub__(self, other: Any) -> Jet:
        return (-self) + other

    def __mul__(self, other: Any) -> Jet:
        if not isinstance(other, Jet):
            return Jet([None if a is None else a * other for a in self.coef], self.n_vars, self.order)
        out: list = [None] * len(self.coef)
        a, b = self.coef, other.coef
        for i, j, k in _products(self.n_vars, self.order):
            if a[i] is not None and b[j] is not None:
                out[k] = a[i] * b[j] if out[k] is None else out[k] + a[i] * b[j]
        return Jet(out, self.n_vars, self.order)

    __rmul__ = __mul__

    def reciprocal(self) -> Jet:
        """1 / x."""
        r = 1.0 / self.value
        return self.compose(r, -r * r, 2.0 * r**3, -6.0 * r**4, 24.0 * r**5)

    def __truediv__(self, other: Any) -> Jet:
        return self * (other.reciprocal() if isinstance(other, Jet) else 1.0 / other)

    def __rtruediv__(self, other: Any) -> Jet:
        return self.reciprocal() * other

    def __pow__(self, power: Any) -> Jet:
        if isinstance(power, Jet):
            return np.exp(power * np.log(self))
        if isinstance(power, int) and 0 < power <= 4:
            out = self
            for _ in range(power - 1):
                out = out * self
            return out
        x, p = self.value, power
        f, c = [], 1.0
        for k in range(self.order + 1):
            f.append(c * x ** (p - k))
            c = c * (p - k)
        return self.compose(*f)

    def __rpow__(self, base: Any) -> Jet:
        return np.exp(self * np.log(base))

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if method != "__call__" or kwargs:
            return NotImplemented
        if ufunc in _BINARY:
            left, right = inputs
            return _BINARY[ufunc](left, right)
        if ufunc in FUNCTIONS and len(inputs) == 1:
            return self.compose(*FUNCTIONS[ufunc](self.value, self.order))
        raise TypeError(
            f"a log density may not use {ufunc.__name__} of a linear predictor; allowed are + - * / ** and "
            f"{', '.join(sorted(u.__name__ for u in FUNCTIONS))}"
        )

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if func is np.where and len(args) == 3:
            return _where(*args)
        return NotImplemented

    def __repr__(self) -> str:
        return f"<jet of order {self.order} in {self.n_vars} variables>"


def _where(condition: Any, left: Any, right: Any) -> Jet:
    like = left if isinstance(left, Jet) else right
    parts = []
    for side in (left, right):
        parts.append(side.coef if isinstance(side, Jet) else [side, *[None] * (len(like.coef) - 1)])
    out = [
        None if a is None and b is None else np.where(condition, 0.0 if a is None else a, 0.0 if b is None else b)
        for a, b in zip(*parts, strict=True)
    ]
    return Jet(out, like.n_vars, like.order)


_BINARY: dict[Any, Callable[[Any, Any], Any]] = {
    np.add: lambda a, b: b + a if isinstance(b, Jet) else a + b,
    np.subtract: lambda a, b: (-b) + a if isinstance(b, Jet) else a + (-b),
    np.multiply: lambda a, b: b * a if isinstance(b, Jet) else a * b,
    np.true_divide: lambda a, b: b.reciprocal() * a if isinstance(b, Jet) else a * (1.0 / b),
    np.power: lambda a, b: a**b if isinstance(a, Jet) else b.__rpow__(a),
}


# every function returns itself and its derivatives up to `order`, which is at most 4


def _exp(x: Any, order: int) -> Sequence:
    with np.errstate(over="ignore"):
        e = np.exp(x)
    return [e] * (order + 1)


def _log(x: Any, order: int) -> Sequence:
    with np.errstate(all="ignore"):
        r = 1.0 / x
        return [np.log(x), r, -r * r, 2.0 * r**3, -6.0 * r**4]


def _log1p(x: Any, order: int) -> Sequence:
    return [np.log1p(x), *_log(1.0 + x, order)[1:]]


def _expm1(x: Any, order: int) -> Sequence:
    return [np.expm1(x), *[np.exp(x)] * order]


def _sqrt(x: Any, order: int) -> Sequence:
    s = np.sqrt(x)
    with np.errstate(all="ignore"):
        return [s, 0.5 / s, -0.25 / s**3, 0.375 / s**5, -0.9375 / s**7]


def _square(x: Any, order: int) -> Sequence:
    return [x * x, 2.0 * x, 2.0 + 0.0 * x, 0.0 * x, 0.0 * x]


def _gammaln(x: Any, order: int) -> Sequence:
    return list(log_gamma_derivatives(x, 0, order))


def _expit(x: Any, order: int) -> Sequence:
    s, t = special.expit(x), special.expit(-x)
    d = s * t
    return [s, d, d * (t - s), d * (1.0 - 6.0 * d), d * (t - s) * (1.0 - 12.0 * d)]


def _log_expit(x: Any, order: int) -> Sequence:
    s, t = special.expit(x), special.expit(-x)
    d = s * t
    return [special.log_expit(x), t, -d, -d * (t - s), -d * (1.0 - 6.0 * d)]


def _log_ndtr(x: Any, order: int) -> Sequence:
    f = special.log_ndtr(x)
    r = np.exp(-0.5 * x * x - f) / _SQRT_2PI
    d2 = -r * (x + r)
    d3 = -d2 * x - r - 2.0 * r * d2
    return [f, r, d2, d3, -d3 * x - 2.0 * d2 - 2.0 * (d2 * d2 + r * d3)]


def _ndtr(x: Any, order: int) -> Sequence:
    d = np.exp(-0.5 * x * x) / _SQRT_2PI
    return [special.ndtr(x), d, -x * d, (x * x - 1.0) * d, (3.0 * x - x**3) * d]


def _log1mexp(x: Any, order: int) -> Sequence:
    with np.errstate(all="ignore"):
        o = 1.0 / np.expm1(-x)
        d2 = -o * (1.0 + o)
        return [_plain_log1mexp(x), -o, d2, d2 * (1.0 + 2.0 * o), d2 * (1.0 + 6.0 * o * (1.0 + o))]


FUNCTIONS: dict[Any, Callable[[Any, int], Sequence]] = {
    np.exp: _exp,
    np.log: _log,
    np.log1p: _log1p,
    np.expm1: _expm1,
    np.sqrt: _sqrt,
    np.square: _square,
    special.gammaln: _gammaln,
    special.expit: _expit,
    special.log_expit: _log_expit,
    special.log_ndtr: _log_ndtr,
    special.ndtr: _ndtr,
    np.negative: lambda x, order: [-x, -1.0 + 0.0 * x, *[0.0 * x] * 3],
}


def _plain_log1mexp(x: Any) -> Any:
    with np.errstate(all="ignore"):
        return np.where(x > -_LN2, np.log(-np.expm1(x)), np.log1p(-np.exp(x)))


def log1mexp(x: Any) -> Any:
    """log(1 - exp(x)) for x < 0, an array or a jet, without cancellation."""
    return x.compose(*_log1mexp(x.value, x.order)) if isinstance(x, Jet) else _plain_log1mexp(np.asarray(x, float))


def value(x: Any) -> Any:
    """The value of a jet, or an array as it is."""
    return x.value if isinstance(x, Jet) else x


def variables(values: Sequence[np.ndarray], order: int) -> list[Jet]:
    """One jet per variable, each with derivative one in itself."""
    k = len(values)
    out = []
    for i, x in enumerate(values):
        coef: list = [None] * len(_indices(k, order))
        coef[0], coef[1 + i] = x, 1.0
        out.append(Jet(coef, k, order))
    return out


def segment_logsumexp(terms: Jet, segment: np.ndarray, n: int) -> Jet:
    """log of the sum of exp(terms) over the elements of every segment (n,)."""
    x = np.asarray(terms.value, dtype=float)
    top = np.full(n, -np.inf)
    np.maximum.at(top, segment, x)
    e = np.exp(terms - top[segment])
    sums = [None if c is None else np.bincount(segment, np.broadcast_to(c, x.shape), minlength=n) for c in e.coef]
    return np.log(Jet(sums, terms.n_vars, terms.order)) + top
