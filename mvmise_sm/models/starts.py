"""Where the fit of a generalized model begins: the user's start, and other modes of priors that have several."""

from __future__ import annotations

from typing import Any

import numpy as np

from mvmise_sm.core.optimise.newton import Optimum
from mvmise_sm.exceptions import OptionError
from mvmise_sm.models.link_edges import minimum

__all__ = ["checked_params", "checked_theta", "fitted_from", "has_modes", "lowest_mode"]

# a mode must be lower by this to be taken: rounding of the objective
_SAME_OBJECTIVE = 1e-5
# starts that are minimised from, those with the lowest objective
_MOST = 4
# standard deviations on the scale of a link from which the likelihood can be too flat for a way back
_FAR = 100.0


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


def checked_theta(start_theta: Any, k: int, largest: float) -> np.ndarray | None:
    """Starting values of the relative covariance parameters (k,) of at most `largest`, None without any.

    Raises
    ------
    OptionError
    """
    if start_theta is None:
        return None
    try:
        theta = np.asarray(start_theta, dtype=float)
    except (TypeError, ValueError):
        raise OptionError(f"start_theta must be {k} numbers, got {start_theta!r}") from None
    if theta.shape != (k,):
        raise OptionError(f"start_theta must have {k} elements, found shape {theta.shape}")
    if not np.isfinite(theta).all():
        raise OptionError("start_theta must be finite")
    if np.abs(theta).max(initial=0.0) > largest:
        raise OptionError(
            f"start_theta must be at most {largest:g} in size, found {np.abs(theta).max():g}; rescale the columns of "
            "the random effects if their standard deviations are as large as that"
        )
    return theta


def fitted_from(
    criterion: Any, theta: np.ndarray | None, params: np.ndarray | None, settings: dict[str, Any]
) -> Optimum:
    """The minimum from the user's start; where its theta is far out, the lower of that and the default start's."""
    optimum = minimum(criterion, _beginning(criterion, theta, params), settings)
    stopped = optimum.retvals["n_iterations"] >= settings["maxiter"]
    if theta is None or stopped or np.abs(theta).max(initial=0.0) <= _FAR:
        return optimum
    return min(optimum, minimum(criterion, None, settings), key=lambda found: found.value)


def _beginning(criterion: Any, theta: np.ndarray | None, params: np.ndarray | None) -> np.ndarray | None:
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


def has_modes(priors: Any) -> bool:
    """Whether a prior of the fixed effects can give the posterior several modes."""
    return priors is not None and any(not block.mixing.gaussian for block in priors.fixef)


def lowest_mode(criterion: Any, flat: Any, p: int, optimum: Optimum, settings: dict[str, Any]) -> Optimum:
    """The lowest of the minima that starts with and without the fixed effects' prior lead to.

    Parameters
    ----------
    criterion, flat : LaplaceDeviance
        With the prior and without it.
    p : int
        Number of fixed effects of the conditional mean.
    optimum : Optimum
        Of `criterion`, from its own start.
    settings : dict
        As ``mle_settings``.
    """
    found = minimum(flat, None, settings)
    k = flat.k_theta
    beta = flat.fixed_map[:p, :p] @ found.working[k : k + p]
    for start in _other_modes(criterion, beta, optimum):
        other = minimum(criterion, start, settings)
        optimum = other if other.value < optimum.value - _SAME_OBJECTIVE else optimum
    return optimum


def _other_modes(criterion: Any, plain: Any, best: Any) -> list[np.ndarray]:
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
