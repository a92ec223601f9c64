"""Where the user's own line is: warnings point at it, and formulas see its variables."""

from __future__ import annotations

import sys
import warnings

from mvmise_sm.exceptions import sentence

__all__ = ["caller_depth", "warn"]

_OWN = ("mvmise_sm", "statsmodels", "contextlib", "functools", "patsy")


def caller_depth() -> int:
    """Frames between the function that calls this one and the first frame outside of the package."""
    frame = sys._getframe(1)
    depth = 0
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _OWN:
        frame = frame.f_back
        depth += 1
    return depth


def warn(message: str, category: type[Warning]) -> None:
    """Warn at the line of the user's that led here."""
    warnings.warn(sentence(message), category, stacklevel=caller_depth() + 1)
