"""Refits from a warm start that also look where the data themselves would start."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mvmise_sm.core.optimise.newton import Optimum

__all__ = ["with_second_start"]

# standard deviations that differ by this factor from the moment estimate
_FAR = 5.0
_AT_ZERO = 1e-4


def with_second_start(
    criterion: Any, start: np.ndarray, minimum: Callable[[np.ndarray | None], Optimum], *, moments: bool = True
) -> Optimum:
    """The minimum from a warm start, or from the criterion's own start where that is lower.

    A warm start on the boundary stays there although the new response may have its optimum elsewhere. The second start
    is taken where the first ended on the boundary, far from the moment estimate, or nowhere, and where a prior has a
    mode of its own at a standard deviation of 0.

    Parameters
    ----------
    criterion : Criterion
    start : ndarray
        Working start.
    minimum : callable
        Working start, None for the criterion's own -> Optimum.
    moments : bool, optional
        Whether the criterion's start is a moment estimate that costs next to nothing.

    Returns
    -------
    Optimum
        With ``retvals["second_start"]``, whether there was another start, and ``retvals["second_start_won"]``.
    """
    found = minimum(start)
    again = found.singular or not found.converged or any(criterion.space.attracts)
    again = again or (moments and _is_far(criterion, found.working))
    found.retvals["second_start"] = again
    found.retvals["second_start_won"] = False
    if not again:
        return found
    other = minimum(None)
    if not other.value < found.value - _GAIN:
        return found
    other.retvals["second_start"] = other.retvals["second_start_won"] = True
    return other


_GAIN = 1e-9


def _is_far(criterion: Any, working: np.ndarray) -> bool:
    """Whether a bounded element of theta is a multiple or a fraction of its moment estimate."""
    bounded = np.flatnonzero(np.asarray(criterion.lower) == 0.0)
    if not bounded.size:
        return False
    moment = np.maximum(np.abs(criterion.start()[bounded]), _AT_ZERO)
    ratio = np.maximum(np.abs(working[bounded]), _AT_ZERO) / moment
    return bool((ratio > _FAR).any() or (ratio < 1.0 / _FAR).any())
