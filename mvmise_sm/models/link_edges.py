"""Links that allow some linear predictors only: fits that end, or cannot begin, at the edge of the family's means."""

from __future__ import annotations

from typing import Any

import numpy as np

from mvmise_sm.core.optimise.newton import Optimum, minimize
from mvmise_sm.exceptions import DataError

__all__ = ["at_highest_mode", "at_the_edge", "minimum"]

# changes of the conditional mode at the optimum
_MOST_MODES = 3
# means this close to the edge, in units of the typical mean, are on it: regular modes keep a hundredth and more
_EDGE = 1e-6
# links by which some linear predictors are no probability, and no positive mean
_EDGED = {1.0: ("log", "identity"), np.inf: ("identity", "inverse", "1/mu^2")}

_NOT_OPTIONS = frozenset(
    ("optimizer", "start_params", "start_theta", "maxiter", "nagq", "curvature", "dispersion", "reml")
)


def minimum(criterion: Any, start: np.ndarray | None, settings: dict[str, Any]) -> Optimum:
    """Minimise from a working start, None for the default; `settings` as ``mle_settings``.

    Raises
    ------
    DataError
        If the criterion has no value or no derivatives where the search begins.
    """
    options = {key: value for key, value in settings.items() if key not in _NOT_OPTIONS}
    try:
        return minimize(criterion, start, method=settings["optimizer"], maxiter=settings["maxiter"], **options)
    except np.linalg.LinAlgError:
        family = criterion.response.family
        raise DataError(
            f"the {family.spoken} family with the {family.link.name} link finds no point with a likelihood and its "
            f"derivatives: {_allowed(family)}; {_advice(family, settings)}"
        ) from None


def _advice(family: Any, settings: dict[str, Any]) -> str:
    """What to change where the search cannot begin: the user's own start and nodes come first."""
    starts = [name for name in ("start_params", "start_theta") if np.any(settings.get(name))]
    if starts:
        return f"{' and '.join(starts)} may be to blame, leave them out, or use {_other_link(family)}"
    if settings.get("nagq", 1) > 1:
        return f"the nodes of nagq={settings['nagq']} lie far out, use nagq=1 or {_other_link(family)}"
    return f"use {_other_link(family)}, or fewer random effects"


def at_highest_mode(criterion: Any, optimum: Optimum, settings: dict[str, Any]) -> Optimum:
    """The optimum once no search from other random effects finds a higher conditional mode there."""
    for _ in range(_MOST_MODES):
        if not criterion.better_mode(optimum.working):
            break
        optimum = minimum(criterion, optimum.working, settings)
    return optimum


def at_the_edge(family: Any, eta: np.ndarray) -> str | None:
    """A sentence on conditional means at the edge of the family's range, None where there are none.

    There the conditional mode of the random effects is no stationary point, and the Laplace approximation, which
    expands the integrand around one, has no meaning.

    Parameters
    ----------
    family : Family
    eta : ndarray
        Linear predictor at the conditional mode (nobs,); of several, the first counts.
    """
    eta = np.atleast_2d(eta)[0]
    if family.mean_range is None or family.link.name not in _EDGED[family.mean_range[1]]:
        return None
    mean = np.asarray(family.link.inverse(eta))
    if family.mean_range[1] == 1.0:
        edge = np.minimum(mean, 1.0 - mean) < _EDGE
    else:
        typical = max(float(np.median(mean)), _EDGE)
        # a mean without end is the edge of the inverse links
        edge = (mean < _EDGE * typical) | (mean * _EDGE > typical)
    if family.link.name == "log":
        edge = mean > 1.0 - _EDGE
    if not edge.any():
        return None
    return (
        f"the {family.link.name} link does not keep the means of the {family.spoken} family in their range: "
        f"{_allowed(family)}, and with the estimated random effects {int(edge.sum())} of {len(edge)} rows are at the "
        f"edge, where the approximation of the integral fails and estimates have no standard errors; use "
        f"{_other_link(family)}, or fewer random effects"
    )


def _allowed(family: Any) -> str:
    if family.mean_range is None:
        return "not every linear predictor is allowed"
    return "means between 0 and 1 are allowed" if family.mean_range[1] == 1.0 else "means above 0 are allowed"


def _other_link(family: Any) -> str:
    return f"family='{family.spoken}({'logit' if family.trials else 'log'})'"
