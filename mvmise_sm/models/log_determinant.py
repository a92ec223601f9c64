"""How a fit of many crossed effects finds log|M|: options of ``fit``, the search, and what it must tell the user."""

from __future__ import annotations

from typing import Any

import numpy as np

from mvmise_sm.core.elimination.choose import LogDeterminant
from mvmise_sm.core.elimination.krylov import Probes
from mvmise_sm.core.optimise import estimated
from mvmise_sm.exceptions import OptionError

__all__ = ["OPTIONS", "estimated_minimum", "log_determinant", "start_near", "uncertain"]

OPTIONS = ("logdet", "rng", "probes")
METHODS = ("auto", "exact", "stochastic")
# fewer leave no degrees of freedom for their error, more are slower than they are worth
_LEAST, _MOST = 10, 10_000
# the cube of the effects outside of the chain, for dense factorisations, to the rows, for a start from probes: above
# this the start is cheaper than the evaluations that it saves
_WORTH_START = 150_000


def log_determinant(logdet: Any, probes: Any, rng: Any) -> LogDeterminant:
    """The options of ``fit`` checked.

    Raises
    ------
    OptionError
        If one has a value that is not allowed.
    """
    if not (isinstance(logdet, str) and logdet in METHODS):
        raise OptionError(f"logdet must be one of {', '.join(map(repr, METHODS))}, got {logdet!r}")
    if isinstance(probes, bool) or not isinstance(probes, (int, np.integer)) or not _LEAST <= probes <= _MOST:
        raise OptionError(f"probes must be an integer from {_LEAST} to {_MOST:,}, got {probes!r}")
    return LogDeterminant(logdet, int(probes), _seed(rng))


def _seed(rng: Any) -> int:
    """A seed that settings can hold; a generator is asked for one."""
    if isinstance(rng, (int, np.integer)) and not isinstance(rng, bool) and rng >= 0:
        return int(rng)
    if isinstance(rng, np.random.Generator):
        return int(rng.integers(2**31))
    if isinstance(rng, np.random.RandomState):
        return int(rng.randint(2**31 - 1))
    raise OptionError(f"rng must be an integer that is not negative or a numpy generator, got {rng!r}")


def estimated_minimum(criterion: Any, start: Any, settings: dict[str, Any]) -> tuple[Any, Any]:
    """The criterion with its last probes, and the optimum, of a criterion whose log|M| is estimated.

    Raises
    ------
    OptionError
        For another optimiser than Newton, which follows the score.
    """
    if settings["optimizer"] != "newton":
        raise OptionError(
            f"a stochastic log-determinant is fitted by method='newton', got {settings['optimizer']!r}: other "
            "optimisers compare values of the criterion, which are estimates"
        )
    fit = estimated.minimize_estimated(
        criterion, start, criterion.probes, maxiter=settings["maxiter"], tol=settings.get("tol")
    )
    return fit.criterion, fit.optimum


def start_near(criterion: Any, settings: dict[str, Any]) -> np.ndarray | None:
    """A working start next to the optimum, found with probes, for an exact fit whose evaluations are dear."""
    layout = criterion.layout
    size = sum(layout.factors[k].size for k in layout.remainder)
    plain = settings["optimizer"] == "newton" and settings["logdet"] == "auto"
    if size**3 < _WORTH_START * criterion.nobs or not plain or not criterion.one_mode or not criterion.factors_densely:
        return None
    return estimated.near_optimum(criterion, Probes(settings["probes"], settings["rng"]), settings["maxiter"])


def uncertain(optimum: Any) -> str | None:
    """What a user must know of a fit whose Monte-Carlo errors stayed large; None where they are small."""
    retvals = optimum.retvals
    if "mc_share" not in retvals:
        return None
    probes, share, width = retvals["probes"], retvals["mc_share"], retvals["criterion_error"]
    if share > estimated.SHARE:
        what = f"theta is known to {share:.2g} of its standard error only"
    elif width > estimated.WIDTH:
        what = f"the criterion is known to +-{width:.2g} only"
    else:
        return None
    return f"the stochastic log-determinant cannot certify this design: with {probes} probes {what}"
