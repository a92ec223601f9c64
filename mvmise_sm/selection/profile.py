"""The mechanism's dependence on the outcome: likelihood-ratio test, profile interval, sensitivity curve.

phi1 is identified by normality alone, so its Wald interval is a rough one; here the likelihood itself is looked at.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats
from scipy.optimize import brentq

from mvmise_sm.core.optimise.constrained import ConstrainedPoint
from mvmise_sm.core.uncertainty.profile_search import ProfiledParameter, interval
from mvmise_sm.selection.marginal import marginal_units
from mvmise_sm.selection.maximise import Maximum, maximise
from mvmise_sm.selection.objective import PenalisedObjective
from mvmise_sm.selection.status import Status

# fits in turn with the level that keeps the missing rate, and the change of the level that ends them
MAX_TURNS, LEVEL_TOL = 50, 1e-8


@dataclass(frozen=True)
class RatioTest:
    """Likelihood-ratio test of ``phi1 = value``.

    Attributes
    ----------
    statistic, pvalue : float
    restricted : Maximum
        The fit with phi1 fixed.
    """

    statistic: float
    pvalue: float
    restricted: Maximum


class MechanismProfile:
    """Profile of an objective over one element of its vector, by default the first slope of a mechanism, phi1.

    Parameters
    ----------
    objective : PenalisedObjective
    maximum : Maximum
        The unrestricted fit.
    index : int, optional
        Position of the element.

    Raises
    ------
    ValueError
        If no index is given and no mechanism depends on the outcome.
    """

    def __init__(self, objective: PenalisedObjective, maximum: Maximum, index: int | None = None) -> None:
        part = objective.likelihood.part
        phi = objective.likelihood.slices["phi"]
        if index is None:
            if not part.slopes_at.size:
                raise ValueError("The mechanism does not depend on the outcome, so there is no phi1 to look at.")
            index = phi.start + int(np.flatnonzero(part.free == part.slopes_at[0])[0])
        self.objective = objective
        self.maximum = maximum
        self.part = part
        self._phi = phi
        self._index = index
        self._fits: dict[float, Maximum] = {}

    @property
    def estimate(self) -> float:
        """phi1 at the maximum."""
        return float(self.maximum.theta[self._index])

    def restricted(self, value: float, *, information: bool = False) -> Maximum:
        """Maximise with phi1 fixed, starting from the nearest fit that is known."""
        if value == 0.0 and value not in self._fits:
            starts = [self._near(value), self.objective.likelihood.start()]
        else:
            starts = [self._near(value)]
        free = np.ones(self.maximum.theta.size, bool)
        free[self._index] = False
        fits = []
        for start in starts:
            point = self._feasible(start, value)
            fit = maximise(
                self.objective,
                point,
                self._metric(point),
                free=free,
                tol=1e-9,
                information=information,
                diverged=self.objective.likelihood.diverged,
            )
            fits.append(fit)
        best = max(fits, key=lambda fit: fit.value)
        self._fits[value] = best
        return best

    def _metric(self, point: np.ndarray) -> np.ndarray:
        """The information at the maximum where it is known: neighbours differ little."""
        info = self.maximum.information
        if info is None or np.diag(info).min() <= 0 or np.linalg.eigvalsh(info)[0] <= 0:
            return self.objective.likelihood.metric(point)
        return info

    def _near(self, value: float) -> np.ndarray:
        known = {self.estimate: self.maximum, **self._fits}
        return known[min(known, key=lambda at: abs(at - value))].theta

    def _feasible(self, start: np.ndarray, value: float) -> np.ndarray:
        """The start with the element at a value; a slope moves around the level of the seen units."""
        theta = start.copy()
        if self._phi.start <= self._index < self._phi.stop:
            element = int(self.part.free[self._index - self._phi.start])
            theta[self._phi] = self.part.feasible(start[self._phi], value, element)
        else:
            theta[self._index] = value
        return theta

    def test(self, value: float = 0.0) -> RatioTest:
        """Likelihood-ratio test; without priors the statistic is chi-squared with one degree of freedom."""
        restricted = self.restricted(value)
        statistic = max(2.0 * (self.maximum.value - restricted.value), 0.0)
        return RatioTest(statistic, float(stats.chi2.sf(statistic, 1)), restricted)

    def interval(self, alpha: float = 0.05, *, se: float) -> tuple[float, float]:
        """Values of phi1 that the likelihood-ratio test at level alpha accepts; infinite where none is rejected.

        Parameters
        ----------
        alpha : float, optional
        se : float
            Standard error that sets the first step.
        """
        parameter = ProfiledParameter(
            "phi1",
            "own",
            self._held,
            self.estimate,
            se,
            origin=self.maximum.theta,
            minimum=-2.0 * self.maximum.value,
            unit=se,
            has_edge=True,
            several_optima=True,
        )
        return interval(parameter, float(stats.norm.isf(0.5 * alpha)))

    def _held(self, value: float, _: np.ndarray) -> ConstrainedPoint:
        """The restricted fit as a point of a profile; it starts from the nearest one that is known."""
        fit = self.restricted(value)
        settled = fit.status in (Status.CONVERGED, Status.LINE_SEARCH)
        along = -2.0 * float(fit.score[self._index])
        return ConstrainedPoint(value, fit.theta, -2.0 * fit.value, along, np.zeros_like(fit.theta), settled)

    @property
    def has_level(self) -> bool:
        """Whether the intercept of the slope's mechanism is free."""
        return bool((self.part.free == self._level_element).any())

    @property
    def _level_element(self) -> int:
        """Element of phi that is the intercept beside the slope."""
        return 3 * (int(self.part.free[self._index - self._phi.start]) // 3)

    def at_rate(self, value: float) -> Maximum | None:
        """Maximise with the slope fixed and its mechanism's intercept where the marginal missing rate is the fit's.

        The rate is the mean over all units of their marginal probability at the fixed effects and variances of the
        same fit, which is therefore repeated until the intercept stays. None where a unit that was seen would be
        missing for certain, or no fit is found.
        """
        likelihood, k = self.objective.likelihood, self._level_element // 3
        level = self._phi.start + int(np.flatnonzero(self.part.free == self._level_element)[0])
        free = np.ones(self.maximum.theta.size, bool)
        free[[self._index, level]] = False
        target = marginal_units(likelihood, likelihood.params(self.maximum.theta), k).expected.mean()

        def excess(at: float, theta: np.ndarray) -> float:
            moved = theta.copy()
            moved[level] = at
            return float(marginal_units(likelihood, likelihood.params(moved), k).expected.mean() - target)

        theta = self._feasible(self.maximum.theta, value)
        last = np.inf
        for _ in range(MAX_TURNS):
            width = 1.0
            while excess(theta[level] - width, theta) > 0.0 or excess(theta[level] + width, theta) < 0.0:
                width *= 2.0
            theta[level] = brentq(excess, theta[level] - width, theta[level] + width, args=(theta,), xtol=1e-11)
            if not np.isfinite(self.objective(theta)[0]):
                return None
            settled = abs(theta[level] - last) < LEVEL_TOL
            last = theta[level]
            fit = maximise(
                self.objective, theta, self._metric(theta), free=free, information=settled, diverged=likelihood.diverged
            )
            if settled or not fit.converged:
                return fit
            theta = fit.theta.copy()
        return None

    def path(self, values: np.ndarray, *, information: bool = True) -> list[Maximum]:
        """Restricted fits over a grid, each started from its neighbour nearer to the maximum."""
        order = np.argsort(np.abs(np.asarray(values, dtype=float) - self.estimate), kind="stable")
        out: dict[int, Maximum] = {}
        for index in order:
            out[int(index)] = self.restricted(float(values[index]), information=information)
        return [out[index] for index in range(len(values))]
