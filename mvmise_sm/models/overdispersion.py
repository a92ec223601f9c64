"""A negative binomial fit whose dispersion has gone to its limit, where counts are not overdispersed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from mvmise_sm.core.optimise.newton import Optimum
from mvmise_sm.exceptions import OptionError
from mvmise_sm.models.link_edges import minimum

__all__ = ["dispersion_prior_of", "without_dispersion"]

# an alpha below this is compared with one of zero, whose objective may be this much higher by rounding
_NO_OVERDISPERSION = 1e-5
_SAME_OBJECTIVE = 1e-5
# log of a small alpha at which the objective still has a slope
_INSIDE = -5.0


def without_dispersion(criterion: Any, optimum: Optimum, settings: dict[str, Any]) -> tuple[Any, Optimum]:
    """The criterion and the optimum, without the dispersion where that has gone to its limit.

    Parameters
    ----------
    criterion : LaplaceDeviance
    optimum : Optimum
        Of `criterion`.
    settings : dict
        As ``mle_settings``.
    """
    if (
        criterion.penalty.dispersion is not None
        or not criterion.k_shape
        or optimum.working[-1] > np.log(_NO_OVERDISPERSION)
    ):
        return criterion, optimum
    inside = np.append(optimum.working[:-1], _INSIDE)
    criterion.value(inside)
    if criterion.evaluate(inside, information=False).gradient[-1] < 0.0:
        # a long step has jumped over the optimum to where the objective is flat
        found = minimum(criterion, inside, settings)
        if found.value < optimum.value and found.working[-1] > np.log(_NO_OVERDISPERSION):
            return criterion, found
    limit, start = criterion.at_limit(optimum.working)
    found = minimum(limit, start, settings)
    if found.value > optimum.value + _SAME_OBJECTIVE:
        return criterion, optimum
    return limit, replace(found, singular=True)


def dispersion_prior_of(family: Any, prior: Any) -> Any:
    """The prior of log d, where the family has a d that is estimated.

    Raises
    ------
    OptionError
        For a family without.
    """
    if prior is not None and not family.has_dispersion:
        raise OptionError(
            f"dispersion_prior does not apply: family {family.name!r} has no dispersion that is estimated"
        )
    return prior
