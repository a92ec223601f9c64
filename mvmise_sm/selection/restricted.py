"""Restricted likelihood of a selection model, and charts that hold a relation between its parameters.

``l_R(t) = max_beta l(beta, t) - 1/2 log|I_bb| + p/2 log 2 pi``, I_bb the observed information of the fixed effects at
their maximum and t everything else: a flat prior on beta, integrated by Laplace's method. Without a mechanism that
depends on the outcome this is the REML likelihood itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import linalg

from mvmise_sm.core.optimise.steps import backtrack, positive_solve
from mvmise_sm.selection.likelihood import BetaLikelihood, SelectionLikelihood
from mvmise_sm.selection.maximise import observed_information, risen
from mvmise_sm.selection.mechanism import LOG_2PI
from mvmise_sm.selection.objective import PenalisedObjective

# Newton steps for beta end here: what is left changes l by less than its rounding
BETA_DECREMENT = 1e-14
BETA_STEPS, BETA_HALVINGS = 60, 30
# relative size of the differences of log|I_bb|: the truncation error is 1e-7 of the derivative, rounding 1e-10
STEP = 3e-4


class DifferencedBeta:
    """A likelihood with the information of its fixed effects by differences of their score.

    Parameters
    ----------
    likelihood : SelectionLikelihood
    """

    def __init__(self, likelihood: SelectionLikelihood) -> None:
        self.likelihood = likelihood
        self.slices, self.size, self.part = likelihood.slices, likelihood.size, likelihood.part

    def beta_information(self, theta: np.ndarray) -> np.ndarray:
        """Observed information of the fixed effects, (p, p)."""
        free = np.zeros(theta.size, bool)
        free[self.slices["beta"]] = True
        diagonal = np.diag(self.likelihood.metric(theta))[free]
        scale = 1.0 / np.sqrt(np.maximum(diagonal, 1e-300))
        return observed_information(self.likelihood.value_and_score, theta, scale, free)


@dataclass(frozen=True)
class Chart:
    """Free elements of theta; the loadings may be tied to the residual standard deviation, ``tau = ratio sigma``.

    Attributes
    ----------
    likelihood : BetaLikelihood
    ratio : float or None
        lme4's relative standard deviation, held; None frees the loadings.
    phi : ndarray or None
        Elements of phi that the likelihood leaves free, held here; None frees them.
    """

    likelihood: BetaLikelihood
    ratio: float | None = None
    phi: np.ndarray | None = None

    @cached_property
    def nuisance(self) -> np.ndarray:
        """Positions in theta of everything free but the fixed effects."""
        cut, everything = self.likelihood.slices, np.arange(self.likelihood.size)
        held = {"beta", *(["tau"] if self.ratio is not None else []), *(["phi"] if self.phi is not None else [])}
        names = [name for name in cut if name not in held]
        return np.concatenate([everything[cut[name]] for name in names])

    def point(self, beta: np.ndarray, t: np.ndarray) -> np.ndarray:
        """theta of fixed effects and nuisance parameters."""
        cut, theta = self.likelihood.slices, np.empty(self.likelihood.size)
        theta[cut["beta"]] = beta
        theta[self.nuisance] = t
        if self.phi is not None:
            theta[cut["phi"]] = self.phi
        if self.ratio is not None:
            theta[cut["tau"]] = self.ratio * np.exp(0.5 * theta[cut["log_sigma2"]][-1])
        return theta

    def pull(self, theta: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        """Gradient over the nuisance parameters from one over theta."""
        cut = self.likelihood.slices
        if self.ratio is not None:
            gradient = gradient.copy()
            gradient[cut["log_sigma2"].stop - 1] += 0.5 * float(gradient[cut["tau"]] @ theta[cut["tau"]])
        return gradient[self.nuisance]


@dataclass(frozen=True)
class BetaPoint:
    """Fixed effects that go with nuisance parameters.

    Attributes
    ----------
    theta : ndarray, (k,)
    information : ndarray, (p, p)
        Of the fixed effects.
    """

    theta: np.ndarray
    information: np.ndarray

    @property
    def logdet(self) -> float:
        """``log|I_bb|``; minus infinity where it is not positive definite."""
        sign, value = np.linalg.slogdet(self.information)
        return float(value) if sign > 0 else -np.inf


@dataclass(frozen=True)
class BetaFit(BetaPoint):
    """The maximum over the fixed effects at given nuisance parameters.

    Attributes
    ----------
    value : float
        Objective, not restricted.
    score : ndarray, (k,)
    """

    value: float
    score: np.ndarray


class RestrictedObjective:
    """``t -> (l_R, gradient)``, warm-started at the fixed effects of the last call.

    Parameters
    ----------
    objective : PenalisedObjective
        Of a likelihood with `beta_information`.
    chart : Chart
    start : ndarray, (p,)
        Fixed effects to begin with.
    adjusted : bool, optional
        With the determinant; without it this is the profile likelihood.
    """

    def __init__(self, objective: PenalisedObjective, chart: Chart, start: np.ndarray, adjusted: bool = True) -> None:
        self.objective, self.chart, self.adjusted = objective, chart, adjusted
        self.likelihood: BetaLikelihood = chart.likelihood
        self._beta = np.array(start, dtype=float)
        self._cut = self.likelihood.slices["beta"]
        self.constant = 0.5 * self._beta.size * LOG_2PI

    def information(self, theta: np.ndarray) -> np.ndarray:
        """Information of the fixed effects, priors included, (p, p)."""
        out = self.likelihood.beta_information(theta)
        if not self.objective.penalties:
            return out
        base = self.objective.penalty(theta)[1][self._cut]
        scale = 1.0 / np.sqrt(np.maximum(np.diag(out), 1e-12))
        for j in range(len(out)):
            point = theta.copy()
            point[j] += 1e-4 * scale[j]
            out[j] += (self.objective.penalty(point)[1][self._cut] - base) / (1e-4 * scale[j])
        return 0.5 * (out + out.T)

    def solve(self, t: np.ndarray, start: np.ndarray | None = None) -> BetaFit | None:
        """Maximise over the fixed effects by damped Newton steps; None where nothing finite is found."""
        theta = self.chart.point(self._beta if start is None else start, t)
        value, score = self.objective(theta)
        if not np.isfinite(value):
            return None
        for _ in range(BETA_STEPS):
            info = self.information(theta)
            step = newton_step(info, score[self._cut])
            gain = 0.5 * float(step @ score[self._cut])
            if gain <= BETA_DECREMENT * max(1.0, abs(value)):
                return BetaFit(theta, info, value, score)
            full = np.zeros_like(theta)
            full[self._cut] = step
            found = backtrack(self.objective, theta, full, risen(value, gain), tries=BETA_HALVINGS)
            if found is None:
                return BetaFit(theta, info, value, score)
            theta, (value, score) = found
        return BetaFit(theta, self.information(theta), value, score)

    def fitted(self, t: np.ndarray) -> BetaFit:
        """`solve` where there is something finite.

        Raises
        ------
        ValueError
            Elsewhere.
        """
        fit = self.solve(t)
        if fit is None:
            raise ValueError("The restricted likelihood is not finite at these nuisance parameters.")
        return fit

    def value(self, t: np.ndarray) -> float:
        """l_R at nuisance parameters."""
        fit = self.solve(t)
        return -np.inf if fit is None else self.of(fit)

    def of(self, fit: BetaFit) -> float:
        """l_R at fitted fixed effects."""
        return fit.value - 0.5 * fit.logdet + self.constant if self.adjusted else fit.value

    def along(self, fit: BetaFit, t: np.ndarray) -> list[tuple[float, BetaPoint, BetaPoint]]:
        """Points beside `fit` in every nuisance direction: half the distance, and those ahead and behind.

        One Newton step for beta with the information of `fit` is enough: its error is of second order in the distance,
        and even.
        """
        out = []
        beta = fit.theta[self._cut]
        for k in range(t.size):
            width = STEP * max(1.0, abs(t[k]) * 0.1)
            sides = []
            for signed in (width, -width):
                moved = t.copy()
                moved[k] += signed
                point = self.chart.point(beta, moved)
                value, score = self.objective(point)
                if np.isfinite(value):
                    point[self._cut] += newton_step(fit.information, score[self._cut])
                sides.append(BetaPoint(point, self.information(point)))
            out.append((width, sides[0], sides[1]))
        return out

    def __call__(self, t: np.ndarray) -> tuple[float, np.ndarray]:
        fit = self.solve(t)
        if fit is None or not np.isfinite(fit.logdet):
            return -np.inf, np.zeros_like(t)
        self._beta = fit.theta[self._cut].copy()
        gradient = self.chart.pull(fit.theta, fit.score)
        if not self.adjusted:
            return fit.value, gradient
        # the envelope theorem gives the first part; the determinant follows beta's own movement
        for k, (width, ahead, behind) in enumerate(self.along(fit, t)):
            change = (ahead.logdet - behind.logdet) / (2.0 * width)
            gradient[k] -= 0.5 * change if np.isfinite(change) else 0.0
        return fit.value - 0.5 * fit.logdet + self.constant, gradient


@dataclass(frozen=True)
class BetaUncertainty:
    """Covariance of the fixed effects after a restricted (or profiled) maximisation.

    Attributes
    ----------
    conditional : ndarray, (p, p)
        ``I_bb^-1``.
    cov : ndarray, (p, p)
        ``I_bb^-1 + B A^-1 B'``, with what the estimation of the nuisance parameters adds.
    nuisance : ndarray, (k, k)
        ``A^-1``, covariance of the nuisance parameters; zero for variances at zero.
    slopes : ndarray, (k, p, p)
        Derivatives of ``I_bb^-1`` in the nuisance parameters, beta following.
    moves : ndarray, (p, k)
        ``B``, derivatives of the fixed effects' estimates in the nuisance parameters.
    """

    conditional: np.ndarray
    cov: np.ndarray
    nuisance: np.ndarray
    slopes: np.ndarray
    moves: np.ndarray

    def joint(self) -> np.ndarray:
        """Covariance of the fixed effects and the nuisance parameters together, (p + k, p + k)."""
        across = self.moves @ self.nuisance
        return np.block([[self.cov, across], [across.T, self.nuisance]])


def beta_uncertainty(restricted: RestrictedObjective, t: np.ndarray, nuisance: np.ndarray) -> BetaUncertainty:
    """The covariance of the fixed effects at a maximum, from the covariance (k, k) of the nuisance parameters."""
    fit = restricted.fitted(t)
    cut = restricted.likelihood.slices["beta"]
    conditional = np.linalg.inv(fit.information)
    slopes, moves = [], []
    for width, ahead, behind in restricted.along(fit, t):
        slopes.append((np.linalg.inv(ahead.information) - np.linalg.inv(behind.information)) / (2.0 * width))
        moves.append((ahead.theta[cut] - behind.theta[cut]) / (2.0 * width))
    B = np.array(moves).reshape(len(moves), -1).T
    return BetaUncertainty(conditional, conditional + B @ nuisance @ B.T, nuisance, np.array(slopes), B)


def newton_step(information: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Newton's step, lifted where the information is not positive definite."""
    if not np.isfinite(information).all():
        return np.zeros_like(score)
    try:
        return linalg.cho_solve(linalg.cho_factor(information), score)
    except linalg.LinAlgError:
        return positive_solve(information, score)
