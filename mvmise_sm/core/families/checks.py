"""Sentences on responses that a family does not allow."""

from __future__ import annotations

import numpy as np

__all__ = ["bad_counts", "bad_positive", "bad_proportions", "broken_counts", "fraction", "plural"]

_INTEGER = 1e-6


def plural(n: int, one: str, many: str) -> str:
    """``3 zeros``, ``1 one``."""
    return f"{n} {one if n == 1 else many}"


def fraction(counts: np.ndarray) -> np.ndarray:
    """Rows whose count is not whole."""
    return np.abs(counts - np.round(counts)) > _INTEGER * np.maximum(np.abs(counts), 1.0)


def bad_counts(name: str, y: np.ndarray) -> str | None:
    """Negative or broken counts."""
    low = float(y.min(initial=0.0))
    if low < 0.0:
        return f"family {name!r} needs a response that is not negative, found {low:g}"
    return None


def bad_positive(name: str, y: np.ndarray, hint: str = "") -> str | None:
    """Responses that are not positive."""
    low = float(y.min(initial=1.0))
    if low < 0.0:
        return f"family {name!r} needs positive responses, found {low:g}"
    if low == 0.0:
        zeros = plural(int((y == 0.0).sum()), "zero", "zeros")
        return f"family {name!r} needs positive responses, found {zeros}{hint}"
    return None


def bad_proportions(name: str, y: np.ndarray) -> str | None:
    """Responses outside of [0, 1]."""
    low, high = float(y.min(initial=0.0)), float(y.max(initial=0.0))
    if low < 0.0 or high > 1.0:
        return (
            f"the {name} family needs a response between 0 and 1, found values from {low:g} to {high:g}; "
            "write counts as cbind(successes, failures), or a proportion with the trials as weights"
        )
    return None


def broken_counts(y: np.ndarray) -> str | None:
    """The first count that is not whole."""
    off = np.flatnonzero(fraction(y))
    return f"counts must be whole numbers, row {off[0]} has {y[off[0]]:g}" if off.size else None
