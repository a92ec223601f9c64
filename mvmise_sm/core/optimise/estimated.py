"""Minimisation where the log-determinant is estimated: Newton on the estimated score, then an account of its error."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mvmise_sm.core.elimination.krylov import Probes
from mvmise_sm.core.optimise.newton import minimize
from mvmise_sm.core.uncertainty.sampling_error import sampling_error

if TYPE_CHECKING:
    from mvmise_sm.core.criteria.linear import ProfiledDeviance
    from mvmise_sm.core.optimise.newton import Optimum
    from mvmise_sm.core.uncertainty.sampling_error import SamplingError

__all__ = ["SHARE", "WIDTH", "EstimatedFit", "minimize_estimated", "near_optimum"]

# a first search with few probes ends this far from the optimum
_COARSE_PROBES, _COARSE = 10, 0.1
# steps follow the score; a value may rise by this, far above the error of differences between neighbouring points
_NOISE = 0.5
# more probes where the Monte-Carlo error is a larger share of the error over data, or the criterion's is larger
SHARE, WIDTH = 0.05, 0.5
_MOST_PROBES = 400


@dataclass(frozen=True, slots=True, eq=False)
class EstimatedFit:
    """Where the estimated score is zero.

    Attributes
    ----------
    criterion : ProfiledDeviance
        With the probes that were used last.
    optimum : Optimum
    error : SamplingError
    """

    criterion: ProfiledDeviance
    optimum: Optimum
    error: SamplingError

    @property
    def certified(self) -> bool:
        """Whether the errors are small."""
        return self.error.share <= SHARE and self.error.criterion <= WIDTH


def minimize_estimated(
    criterion: ProfiledDeviance, start: np.ndarray | None, probes: Probes, *, maxiter: int, tol: float | None = None
) -> EstimatedFit:
    """Minimise with probes; twice as many, at most 400, while the errors are not small.

    Parameters
    ----------
    criterion : ProfiledDeviance
    start : ndarray, optional
        Working start.
    probes : Probes
    maxiter : int
        Newton iterations of each search.
    tol : float, optional
        Newton decrement at which to stop.
    """
    options: dict[str, Any] = {} if tol is None else {"tol": tol}
    few = replace(probes, count=min(_COARSE_PROBES, probes.count), second=False, basis=None)
    found = minimize(criterion.with_probes(few), start, maxiter=maxiter, tol=_COARSE, noise=_NOISE)
    while True:
        deflated = criterion.deflated(found.working, probes)
        # the second control variate sharpens the value, which the search does not need
        plain = criterion.with_probes(replace(deflated, second=False))
        sharp = criterion.with_probes(replace(deflated, second=True))
        found = minimize(plain, found.working, maxiter=maxiter, noise=_NOISE, **options)
        error = sampling_error(sharp, found.working)
        fit = EstimatedFit(sharp, found, error)
        if fit.certified or 2 * probes.count > _MOST_PROBES:
            break
        probes = replace(probes, count=2 * probes.count)
    value = sharp.value(found.working)
    retvals = {
        **found.retvals,
        "fopt": value,
        "criterion_error": error.criterion,
        "probes": probes.count,
        "mc_se": error.theta,
        "mc_se_params": error.beta,
        "mc_se_scale": error.scale,
        "mc_share": error.share,
    }
    return replace(fit, optimum=replace(found, value=value, retvals=retvals))


def near_optimum(criterion: ProfiledDeviance, probes: Probes, maxiter: int) -> np.ndarray | None:
    """A working start next to the optimum of an exact criterion; None where the estimated one has none inside."""
    few = replace(probes, count=min(_COARSE_PROBES, probes.count), second=False, basis=None)
    found = minimize(criterion.with_probes(few), None, maxiter=maxiter, tol=_COARSE, noise=_NOISE)
    if found.singular or not np.isfinite(found.value):
        return None
    sharp = criterion.certified(found.working, probes)
    found = minimize(sharp, found.working, maxiter=maxiter, noise=_NOISE)
    return found.working if found.converged and not found.singular else None
