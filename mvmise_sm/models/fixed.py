"""What the fixed-effects design contains: finite values, a constant, names; names that options give."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np

from mvmise_sm.exceptions import OptionError

__all__ = ["all_finite", "check_names", "constant_column", "default_names", "names_given", "spans_constant"]

_SAMPLE = 2048


def all_finite(a: np.ndarray) -> bool:
    """Whether every element is finite: one sum, elementwise only when that overflows or is not a number."""
    return bool(np.isfinite(np.add.reduce(a, axis=None)) or np.isfinite(a).all())


def constant_column(X: np.ndarray) -> int | None:
    """Position of the first column that is constant and not zero."""
    if not len(X):
        return None
    for j, (first, last) in enumerate(zip(X[0].tolist(), X[-1].tolist(), strict=True)):
        if first == last != 0.0 and (X[:, j] == first).all():
            return j
    return None


def spans_constant(X: np.ndarray) -> bool:
    """Whether a combination of the columns is constant, as with ``0 + C(f)``."""
    sample = X[:: max(1, len(X) // _SAMPLE)]
    coef = np.linalg.lstsq(sample, np.ones(len(sample)), rcond=None)[0]
    return bool(np.allclose(sample @ coef, 1.0, atol=1e-8) and np.allclose(X @ coef, 1.0, atol=1e-8))


def default_names(p: int, const: int | None) -> list[str]:
    """Names as statsmodels gives to array columns: ``const`` and ``x1, x2, ...``."""
    if const is None:
        return [f"x{i + 1}" for i in range(p)]
    names = [f"x{i}" for i in range(1, p)]
    names.insert(const, "const")
    return names


def check_names(**options: Any) -> None:
    """Refuse options that cannot be the name of a column."""
    for option, name in options.items():
        if not isinstance(name, Hashable):
            raise OptionError(f"{option} must be the name of a column, got {type(name).__name__}")


def names_given(option: str, given: Any) -> list[Any]:
    """Names that an option gives: none, one or several."""
    if given is None or isinstance(given, str):
        return [] if given is None else [given]
    if not isinstance(given, (list, tuple, set, frozenset)):
        raise OptionError(f"{option} must be names of fixed effects, one or a list of them, got {type(given).__name__}")
    return list(given)
