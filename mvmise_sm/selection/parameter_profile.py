"""Single parameters of a selection likelihood as the search for profiles takes them, and their Wald intervals.

A parameter is a function of the point at which the likelihood is evaluated, often one of its elements. With the
parameter held, one element (the pivot) follows from the others, so that the maximisation over these has no constraint.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from scipy import stats

from mvmise_sm.core.optimise.constrained import ConstrainedPoint
from mvmise_sm.core.uncertainty.profile_search import ProfiledParameter, freed_from_zero
from mvmise_sm.selection.maximise import Objective, maximise
from mvmise_sm.selection.status import Status

__all__ = ["Parameter", "ParameterProfile"]

# differences of a parameter in an element
STEP = 1e-6
# steps to the pivot's value, and how exact it is
PIVOT_STEPS, PIVOT_TOL = 60, 1e-12
# roots of variances up to this size are zero; the second search starts here, in residual standard deviations
AT_ZERO, AWAY = 1e-8, 0.2
# a first step where there is no standard error: a share of the parameter, whose size counts as at least this
SHARE, LEAST = 0.1, 0.1


@dataclass(frozen=True)
class Parameter:
    """A reported parameter as a function of the point.

    Attributes
    ----------
    name : str
    pivot : int
        Element that is moved to hold the parameter.
    value : callable or None
        The function, on the scale of the profile; None for the element itself.
    shown : callable
        From that scale to the reported one, increasing.
    wald : callable, callable
        The scale of Wald intervals and its inverse, functions of the scale of the profile.
    lower, upper : float
        Range on the scale of the profile.
    """

    name: str
    pivot: int
    value: Callable[[np.ndarray], float] | None = None
    shown: Callable[[float], float] = float
    wald: tuple[Callable[[float], float], Callable[[float], float]] = (float, float)
    lower: float = -np.inf
    upper: float = np.inf

    def at(self, x: np.ndarray) -> float:
        """The parameter at a point, on the scale of its profile."""
        return float(x[self.pivot]) if self.value is None else self.value(x)

    def gradient(self, x: np.ndarray) -> np.ndarray:
        """Derivatives at a point (k,)."""
        out = np.zeros_like(x)
        if self.value is None:
            out[self.pivot] = 1.0
            return out
        for k in range(x.size):
            step = STEP * max(1.0, abs(x[k]))
            ahead, behind = x.copy(), x.copy()
            ahead[k] += step
            behind[k] -= step
            out[k] = (self.value(ahead) - self.value(behind)) / (2.0 * step)
        return out

    def hold(self, x: np.ndarray, c: float) -> np.ndarray | None:
        """The point with the pivot moved so that the parameter is c; None where nothing does that."""
        x = x.copy()
        if self.value is None:
            x[self.pivot] = c
            return x
        for _ in range(PIVOT_STEPS):
            miss = c - self.value(x)
            if not np.isfinite(miss):
                return None
            if abs(miss) < PIVOT_TOL * max(1.0, abs(c)):
                return x
            step = STEP * max(1.0, abs(x[self.pivot]))
            ahead = x.copy()
            ahead[self.pivot] += step
            slope = (self.value(ahead) - self.value(x)) / step
            if slope == 0.0 or not np.isfinite(slope):
                return None
            x[self.pivot] += float(np.clip(miss / slope, -1.0 - abs(x[self.pivot]), 1.0 + abs(x[self.pivot])))
        return x if abs(c - self.value(x)) < 1e-8 * max(1.0, abs(c)) else None


@dataclass
class ParameterProfile:
    """Profiles over the parameters of a fit.

    Attributes
    ----------
    objective : callable
        ``x -> (log-likelihood minus penalties, gradient)``.
    point : ndarray, (k,)
        Its maximum.
    cov : ndarray, (k, k)
        Covariance there; zero for signed roots of variances at zero.
    diverged : callable
        As `maximise` takes it.
    feasible : callable, optional
        (x, element, value) -> a point of the domain with the element at a value, for elements that bound it.
    """

    objective: Objective
    point: np.ndarray
    cov: np.ndarray
    diverged: Callable[[np.ndarray], Status | None]
    feasible: Callable[[np.ndarray, int, float], np.ndarray] | None = None
    maximum: float = field(init=False)

    def __post_init__(self) -> None:
        self.maximum = self.objective(self.point)[0]

    def standard_error(self, parameter: Parameter) -> float:
        """On the scale of the profile, by the delta method."""
        slope = parameter.gradient(self.point)
        return float(np.sqrt(max(slope @ self.cov @ slope, 0.0)))

    def wald(self, parameter: Parameter, alpha: float) -> tuple[float, float]:
        """Wald interval on the parameter's own scale, shown; NaN for a variance at zero."""
        c, se = parameter.at(self.point), self.standard_error(parameter)
        there, back = parameter.wald
        if not se > 0.0 or not np.isfinite(there(c)):
            return np.nan, np.nan
        width = 1e-5 * se
        se *= abs((there(c + width) - there(c - width)) / (2.0 * width))
        half = stats.norm.isf(0.5 * alpha) * se
        ends = sorted(parameter.shown(back(there(c) + sign * half)) for sign in (-1.0, 1.0))
        return ends[0], ends[1]

    def profiled(self, parameter: Parameter) -> ProfiledParameter:
        """The parameter with what a search along its profile needs."""
        estimate, se = parameter.at(self.point), self.standard_error(parameter)
        if not (se > 0.0 and np.isfinite(se)):
            se = SHARE * max(abs(estimate), LEAST)
        flat = np.flatnonzero((np.diag(self.cov) <= 0.0) & (np.abs(self.point) < AT_ZERO))
        return ProfiledParameter(
            parameter.name,
            "own",
            freed_from_zero(partial(self._held, parameter), flat[flat != parameter.pivot], zero=AT_ZERO, away=AWAY),
            estimate,
            se,
            parameter.lower,
            parameter.upper,
            parameter.shown,
            self.point,
            -2.0 * self.maximum,
            unit=se,
            has_edge=True,
            several_optima=True,
        )

    def _held(self, parameter: Parameter, c: float, near: np.ndarray) -> ConstrainedPoint:
        """The optimum with the parameter at c; infinite where no start has a likelihood.

        Starts are `near`, moved along the quadratic approximation if that has a likelihood.
        """
        slope = parameter.gradient(near)
        spread = float(slope @ self.cov @ slope)
        starts = [near + (c - parameter.at(near)) / spread * (self.cov @ slope)] if spread > 0.0 else []
        starts.append(near)
        if self.feasible is not None and parameter.value is None:
            starts.append(self.feasible(near, parameter.pivot, c))
        for start in starts:
            held = parameter.hold(start, c)
            if held is not None and np.isfinite(self.objective(held)[0]):
                return self._restricted(parameter, held, c)
        return ConstrainedPoint(c, near, np.inf, 0.0, np.zeros_like(near), False)

    def _restricted(self, parameter: Parameter, start: np.ndarray, c: float) -> ConstrainedPoint:
        """Maximise with the parameter held at c, from a point where it is."""
        free = np.ones(start.size, bool)
        free[parameter.pivot] = False

        def whole(inner: np.ndarray) -> np.ndarray | None:
            x = start.copy()
            x[free] = inner
            return parameter.hold(x, c)

        def reduced(inner: np.ndarray) -> tuple[float, np.ndarray]:
            x = whole(inner)
            if x is None:
                return -np.inf, np.zeros_like(inner)
            value, score = self.objective(x)
            if not np.isfinite(value):
                return -np.inf, np.zeros_like(inner)
            if parameter.value is None:
                return value, score[free]
            slope = parameter.gradient(x)
            return value, score[free] - score[parameter.pivot] / slope[parameter.pivot] * slope[free]

        def diverged(inner: np.ndarray) -> Status | None:
            x = whole(inner)
            return None if x is None else self.diverged(x)

        slope = parameter.gradient(start)
        turn = np.eye(start.size)[:, free]
        turn[parameter.pivot] = -slope[free] / slope[parameter.pivot]
        metric = turn.T @ self._metric() @ turn
        found = maximise(reduced, start[free], metric, information=False, diverged=diverged)
        x = whole(found.theta)
        x = start if x is None else x
        value, score = self.objective(x)
        own = parameter.gradient(x)[parameter.pivot]
        along = -2.0 * float(score[parameter.pivot]) / own if own != 0.0 else 0.0
        # a line search that finds nothing higher has met rounding; every start finds its own way to the next value
        settled = found.status in (Status.CONVERGED, Status.LINE_SEARCH)
        return ConstrainedPoint(c, x, -2.0 * value, along, np.zeros_like(x), settled)

    def _metric(self) -> np.ndarray:
        """The information; signed roots at zero get that of a tenth of a unit."""
        kept = np.diag(self.cov) > 0.0
        out = np.diag(np.where(kept, 0.0, 100.0))
        out[np.ix_(kept, kept)] = np.linalg.inv(self.cov[np.ix_(kept, kept)])
        return out
