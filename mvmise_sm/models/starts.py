"""Where the fit of a generalized model begins: the user's start, and other modes of priors that have several."""

from __future__ import annotations

from typing import Any

import numpy as np

from mvmise_sm.exceptions import OptionError

__all__ = ["beginning", "checked_params", "other_modes"]

# starts that are minimised from, those with the lowest objective
_MOST = 4


def checked_params(start_params: Any, k: int) -> np.ndarray | None:
    """Starting values of the fixed effects (k,), None without any.

    Raises
    ------
    OptionError
    """
    if start_params is None:
        return None
    try:
        values = np.asarray(start_params, dtype=float)
    except (TypeError, ValueError):
        raise OptionError(f"start_params must be {k} numbers, one per fixed effect, got {start_params!r}") from None
    if values.shape != (k,) or not np.isfinite(values).all():
        raise OptionError(
            f"start_params must be {k} finite numbers, one for each fixed effect, found shape {values.shape}"
        )
    return values


def beginning(criterion: Any, theta: np.ndarray | None, params: np.ndarray | None) -> np.ndarray | None:
    """Working start for the user's theta and fixed effects; None where neither is given.

    Raises
    ------
    OptionError
        If fixed effects are given to a criterion that profiles them out.
    """
    if theta is None and params is None:
        return None
    start = np.array(criterion.start() if theta is None else criterion.start_at(theta), dtype=float)
    if params is None:
        return start
    if criterion.profiles_beta:
        raise OptionError("start_params has no effect with nagq=0, whose fixed effects are profiled out; leave it out")
    return _with_params(criterion, start, params)


def _with_params(criterion: Any, start: np.ndarray, params: np.ndarray) -> np.ndarray:
    out, k = np.array(start), criterion.k_theta
    working = np.linalg.solve(criterion.fixed_map[: len(params), : len(params)], params)
    out[k : k + len(params)] = working
    return out


def other_modes(criterion: Any, plain: Any, best: Any) -> list[np.ndarray]:
    """Starts at which a prior with several modes may have a lower one, the most promising first.

    A prior with a spike and heavy tails has a mode where a coefficient is nothing and one where the data have it. The
    starts are the fit without the prior, that fit with each coefficient at zero, and the best point with each
    coefficient at zero or at its value without the prior.

    Parameters
    ----------
    criterion : LaplaceDeviance
    plain : ndarray
        Fixed effects without the prior (p,).
    best : Optimum
        Of `criterion`.
    """
    k, p = criterion.k_theta, len(plain)
    here = criterion.fixed_map[:p, :p] @ best.working[k : k + p]
    proposals = [plain, np.zeros(p)]
    for j in range(p):
        for base, value in ((plain, 0.0), (here, 0.0), (here, plain[j])):
            moved = np.array(base)
            moved[j] = value
            proposals.append(moved)
    starts = [_with_params(criterion, best.working, beta) for beta in proposals]
    values = np.array([_value(criterion, start) for start in starts])
    order = [int(i) for i in np.argsort(values) if np.isfinite(values[i])]
    return [starts[i] for i in order[:_MOST]]


def _value(criterion: Any, x: np.ndarray) -> float:
    try:
        value = float(criterion.value(x))
    except np.linalg.LinAlgError:
        return np.inf
    return value if np.isfinite(value) else np.inf
