"""Profiles of single parameters of a selection likelihood, and their Wald intervals.

A parameter is a function of the point at which the likelihood is evaluated, often one of its elements. With the
parameter held, one element (the pivot) follows from the others, so that the search over these has no constraint.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import stats

from mvmise_sm.selection.maximise import Objective, maximise
from mvmise_sm.selection.status import Status

__all__ = ["Parameter", "ParameterProfile"]

# differences of a parameter in an element
STEP = 1e-6
# steps to the pivot's value, and how exact it is
PIVOT_STEPS, PIVOT_TOL = 60, 1e-12
# how far a profile is followed: steps outwards, then steps to the quantile and its relative tolerance
MAX_OUTWARDS, MAX_INWARDS, QUANTILE_TOL = 14, 40, 1e-6
# signed roots of variances at zero: the start of a second search, in units of the residual standard deviation
AWAY = 0.2
GAIN = 1e-6


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
    _known: dict[str, dict[float, np.ndarray]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.maximum = self.objective(self.point)[0]
        self._known = {}

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

    def interval(self, parameter: Parameter, alpha: float) -> tuple[float, float]:
        """Values that the likelihood-ratio test accepts, as reported; infinite where none is rejected."""
        z = float(stats.norm.isf(0.5 * alpha))
        return parameter.shown(self._end(parameter, -1.0, z)), parameter.shown(self._end(parameter, 1.0, z))

    def trace(self, parameter: Parameter, reach: float) -> list[tuple[float, float]]:
        """Pairs of reported value and signed root of the likelihood ratio, from one end to the other."""
        c, se = parameter.at(self.point), self._first_step(parameter)
        rows = [(parameter.shown(c), 0.0)]
        for side in (-1.0, 1.0):
            end = self._end(parameter, side, reach)
            far = c + side * reach * se * 4.0
            end = end if np.isfinite(end) else (max(far, parameter.lower) if side < 0 else min(far, parameter.upper))
            for share in (0.25, 0.5, 0.75, 1.0):
                at = c + share * (end - c)
                zeta, _ = self._zeta(parameter, at)
                if np.isfinite(zeta):
                    rows.append((parameter.shown(at), side * zeta))
        return sorted(rows)

    def _first_step(self, parameter: Parameter) -> float:
        se = self.standard_error(parameter)
        if se > 0.0 and np.isfinite(se):
            return se
        return 0.1 * max(abs(parameter.at(self.point)), 0.1)

    def _zeta(self, parameter: Parameter, c: float) -> tuple[float, float]:
        """Root of twice the loss of log-likelihood with the parameter at c, and its derivative in c; infinite outside.

        Fits start at the nearest one that is known, moved along the quadratic approximation.
        """
        known = self._known.setdefault(parameter.name, {parameter.at(self.point): self.point})
        near = min(known, key=lambda at: abs(at - c))
        x = known[near]
        slope = parameter.gradient(x)
        spread = float(slope @ self.cov @ slope)
        starts = [x + (c - near) / spread * (self.cov @ slope)] if spread > 0.0 else []
        starts.append(x)
        if self.feasible is not None and parameter.value is None:
            starts.append(self.feasible(x, parameter.pivot, c))
        best = None
        for start in starts:
            held = parameter.hold(start, c)
            if held is not None and np.isfinite(self.objective(held)[0]):
                best = self._restricted(parameter, held, c)
                break
        if best is None:
            return np.inf, np.nan
        flat = np.flatnonzero((np.diag(self.cov) <= 0.0) & (np.abs(self.point) < 1e-8))
        flat = flat[flat != parameter.pivot]
        if flat.size:
            # the objective is even in signed roots: a warm start at zero stays there
            moved = best[0].copy()
            moved[flat] = AWAY
            held = parameter.hold(moved, c)
            if held is not None and np.isfinite(self.objective(held)[0]):
                other = self._restricted(parameter, held, c)
                best = other if other[1] > best[1] + GAIN else best
        x, value, score = best
        known[c] = x
        own = parameter.gradient(x)[parameter.pivot]
        zeta = float(np.sqrt(max(2.0 * (self.maximum - value), 0.0)))
        return zeta, (-float(score[parameter.pivot]) / own / zeta if zeta > 0.0 and own != 0.0 else np.nan)

    def _restricted(self, parameter: Parameter, start: np.ndarray, c: float) -> tuple[np.ndarray, float, np.ndarray]:
        """Maximise with the parameter held at c: point, value and gradient there."""
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
        return x, value, score

    def _metric(self) -> np.ndarray:
        """The information; signed roots at zero get that of a tenth of a unit."""
        kept = np.diag(self.cov) > 0.0
        out = np.diag(np.where(kept, 0.0, 100.0))
        out[np.ix_(kept, kept)] = np.linalg.inv(self.cov[np.ix_(kept, kept)])
        return out

    def _end(self, parameter: Parameter, side: float, z: float) -> float:
        """Where zeta is z: Newton's steps on zeta inside a bracket; infinite where it stays below."""
        estimate, limit = parameter.at(self.point), parameter.lower if side < 0 else parameter.upper
        if abs(limit - estimate) < 1e-9:
            return limit
        inside, width = estimate, z * self._first_step(parameter)
        outside = np.nan
        for _ in range(MAX_OUTWARDS):
            c = inside + side * width
            at_limit = (c - limit) * side >= 0.0
            c = limit if at_limit else c
            reached, slope = self._zeta(parameter, c)
            if reached >= z:
                outside = c
                break
            if at_limit:
                return limit
            inside, width = c, 1.5 * width
        if np.isnan(outside):
            return side * np.inf
        for _ in range(MAX_INWARDS):
            ahead = (
                c + (z - reached) / slope if np.isfinite(reached) and np.isfinite(slope) and slope != 0.0 else np.nan
            )
            low, high = min(inside, outside), max(inside, outside)
            c = ahead if low < ahead < high else 0.5 * (inside + outside)
            reached, slope = self._zeta(parameter, c)
            if abs(reached - z) < QUANTILE_TOL * z:
                break
            inside, outside = (c, outside) if reached < z else (inside, c)
            if abs(outside - inside) < 1e-9 * max(abs(inside), 1e-9):
                break
        return c

    def intervals(self, parameters: Sequence[Parameter], alpha: float) -> dict[str, tuple[float, float]]:
        """Profile intervals by name."""
        return {one.name: self.interval(one, alpha) for one in parameters}
