"""One mechanism of single values for many features: the adjusted profile of Cox and Reid over their own parameters.

Every feature has its own fixed effects and residual variance; the mechanism phi and, by default, lme4's relative
standard deviation theta of one scalar random term are common. ``sum_f l_R,f(phi, theta)`` with the restricted
likelihood l_R of each feature, maximised over its own residual variance. The plain profile suffers from incidental
parameters (Neyman and Scott 1948).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from mvmise_sm.selection.batch import BatchPoint, FeatureBatch, newton_steps, solve_beta
from mvmise_sm.selection.maximise import Maximum, maximise, maximise_smoothed
from mvmise_sm.selection.mechanism import LOG_2PI
from mvmise_sm.selection.objective import PenalisedObjective
from mvmise_sm.selection.restricted import STEP, BetaFit, Chart, RestrictedObjective, newton_step
from mvmise_sm.selection.value import ValueProblem

# the residual variance of a feature: Newton steps end where they gain less than the outer differences notice
INNER_GAIN, INNER_STEPS, INNER_WIDTH = 1e-11, 25, 1e-3
# theta is kept away from zero by its logarithm; the likelihood is flat below this
SMALLEST_RATIO = 1e-3
# run offsets and the curve take turns until the largest offset moves by less than this share of its standard error
OFFSET_ROUNDS, OFFSET_MOVE = 30, 0.02
# expected gain of the next outer step: a thousandth of a log-likelihood unit moves phi by 0.03 standard errors
OUTER_GAIN = 1e-5
# how beta moves is taken anew where it was off by more than this; its error enters the gradient at first order
FOLLOW = 2e-5

Map = Callable[[Callable, Iterable], Sequence]


@dataclass(frozen=True)
class FeatureValue:
    """A feature's part of the objective at common parameters.

    Attributes
    ----------
    value : float
    gradient : ndarray, (k,)
        In phi and, if common, log theta.
    state : ndarray
        Fixed effects and own parameters, to start the next call at.
    """

    value: float
    gradient: np.ndarray
    state: np.ndarray


class FeatureProfile:
    """One feature's adjusted profile over its own parameters: fixed effects, standard deviation, residual variance.

    Parameters
    ----------
    problem : ValueProblem
        Exact, with a slot whose phi is free and that stays where nothing is missing.
    adjusted : bool
    """

    def __init__(self, problem: ValueProblem, adjusted: bool) -> None:
        self.problem, self.adjusted = problem, adjusted
        self.likelihood = problem.likelihood
        start = self.likelihood.start()
        cut = self.likelihood.slices
        self.state = np.concatenate([start[cut[name]] for name in ("beta", "tau", "log_sigma2")])
        self._p = cut["beta"].stop

    def __call__(self, common: np.ndarray, state: np.ndarray | None = None) -> FeatureValue:
        """The profile at the phi that features have in common."""
        state = self.state if state is None else state
        chart = Chart(self.likelihood, None, common)
        restricted = RestrictedObjective(PenalisedObjective(self.likelihood), chart, state[: self._p], self.adjusted)
        fit, own = self._own(restricted, state[self._p :])
        if fit is None:
            return FeatureValue(-np.inf, np.zeros_like(common), state)
        gradient = self._common_gradient(restricted, fit, own, common)
        return FeatureValue(restricted.of(fit), gradient, np.concatenate([fit.theta[: self._p], own]))

    def _own(self, restricted: RestrictedObjective, own: np.ndarray) -> tuple[BetaFit | None, np.ndarray]:
        metric = np.diag([2.0 * len(self.problem.random.factors[0].levels), 0.5 * np.isfinite(self.problem.y).sum()])
        scale = np.exp(-0.5 * own[-1])
        metric[0, 0] *= scale**2
        best = maximise(restricted, own, metric, information=False, tol=1e-9)
        return restricted.solve(best.theta), best.theta

    def _common_gradient(
        self, restricted: RestrictedObjective, fit: BetaFit, own: np.ndarray, common: np.ndarray
    ) -> np.ndarray:
        """Envelope theorem: the score, and the determinant's differences with the fixed effects following."""
        out = np.array(fit.score[self.likelihood.slices["phi"]])
        if not self.adjusted:
            return out
        for k in range(common.size):
            width = STEP * max(1.0, 0.1 * abs(common[k]))
            sides = []
            for signed in (width, -width):
                moved = common.copy()
                moved[k] += signed
                point = Chart(self.likelihood, None, moved).point(fit.theta[: self._p], own)
                _, slope = restricted.objective(point)
                point[: self._p] += newton_step(restricted.information(point), slope[: self._p])
                sides.append(np.linalg.slogdet(restricted.information(point))[1])
            out[k] -= 0.5 * (sides[0] - sides[1]) / (2.0 * width)
        return out


class BatchObjective:
    """The sum of the features' profiles with a common theta, all features in one call.

    Parameters
    ----------
    batch : FeatureBatch
    adjusted : bool
    """

    def __init__(self, batch: FeatureBatch, adjusted: bool) -> None:
        self.batch, self.adjusted = batch, adjusted
        seen = np.maximum(batch.n_seen, 1.0)
        gram = batch.xx + 1e-9 * np.eye(batch.p)
        beta = np.linalg.solve(gram, np.einsum("nf,np->fp", batch.Y, batch.X)[:, :, None])[:, :, 0]
        resid = (batch.Y - batch.X @ beta.T) * batch.seen
        self.beta = beta
        self.log_s2 = np.log(np.maximum((resid**2).sum(axis=0) / seen, 1e-12)) - 0.3
        # how beta follows the residual variance and the common parameters, refined at every call
        self._follow = np.zeros((4, batch.F, batch.p))
        self.point: BatchPoint | None = None

    def _at(self, common: np.ndarray, log_s2: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        s2 = np.exp(log_s2)
        return np.exp(common[2]) * np.sqrt(s2), s2, common[:2]

    def _logdet_slope(self, point: BatchPoint, common: np.ndarray, which: int) -> np.ndarray:
        """Derivative of ``log|I_bb|`` in log s2 (3) or a common parameter (0-2) with beta following, (F,)."""
        width = STEP if which == 3 else STEP * max(1.0, 0.1 * abs(common[which]))
        sides, follow = [], self._follow[which]
        for signed in (width, -width):
            moved, log_s2 = common.copy(), self.log_s2
            if which == 3:
                log_s2 = log_s2 + signed
            else:
                moved[which] += signed
            sides.append(self.batch.evaluate(point.beta + signed * follow, *self._at(moved, log_s2)))
        # what is left of the score says how beta should have moved
        left = (newton_steps(sides[0]) - newton_steps(sides[1])) / (2.0 * width)
        if np.abs(left).max() > FOLLOW * (1.0 + np.abs(follow).max()):
            self._follow[which] = follow + left
            return self._logdet_slope(point, common, which)
        return (sides[0].logdet - sides[1].logdet) / (2.0 * width)

    def solve(self, common: np.ndarray) -> BatchPoint:
        """Every feature at its own maximum, by secant steps for the logarithm of its residual variance."""
        bend = 0.5 * self.batch.n_seen
        before: tuple[np.ndarray, np.ndarray] | None = None
        for _ in range(INNER_STEPS):
            point = solve_beta(self.batch, self.beta, *self._at(common, self.log_s2))
            self.beta = point.beta
            tau = self._at(common, self.log_s2)[0]
            slope = point.in_log_s2 + 0.5 * tau * point.in_tau
            if self.adjusted:
                slope = slope - 0.5 * self._logdet_slope(point, common, 3)
            if before is not None:
                moved, change = self.log_s2 - before[0], before[1] - slope
                known = np.abs(moved) > 1e-10
                secant = np.where(known, change / np.where(known, moved, 1.0), bend)
                bend = np.where(secant > 0.02 * self.batch.n_seen, secant, bend)
            step = np.clip(slope / bend, -1.0, 1.0)
            if np.abs(slope * step).max() < INNER_GAIN:
                break
            before = (self.log_s2.copy(), slope)
            self.log_s2 = self.log_s2 + step
        return solve_beta(self.batch, self.beta, *self._at(common, self.log_s2))

    def values(self, common: np.ndarray) -> np.ndarray:
        """Every feature's part at the last solution, (F,)."""
        point = self.solve(common) if self.point is None else self.point
        if not self.adjusted:
            return point.value
        return point.value - 0.5 * point.logdet + 0.5 * self.batch.p * LOG_2PI

    def __call__(self, common: np.ndarray) -> tuple[float, np.ndarray]:
        if not np.isfinite(common).all() or not np.log(SMALLEST_RATIO) < common[2] < 6.0:
            return -np.inf, np.zeros_like(common)
        kept = self.beta, self.log_s2
        point = self.solve(common)
        self.point = point
        value = float(self.values(common).sum())
        if not np.isfinite(value):
            self.beta, self.log_s2 = kept
            return -np.inf, np.zeros_like(common)
        tau = self._at(common, self.log_s2)[0]
        parts = np.column_stack([point.in_phi, tau * point.in_tau])
        if self.adjusted:
            for k in range(3):
                parts[:, k] -= 0.5 * self._logdet_slope(point, common, k)
        return value, parts.sum(axis=0)

    def offset_step(self, common: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A Newton step of one number per row added to eta, with sum zero, and standard errors, (n,) each."""
        batch, (tau, s2, phi) = self.batch, self._at(common, self.log_s2)
        score, weight = batch.row_scores(self.beta, tau, s2, phi)
        weight = np.maximum(weight, 1e-3 * weight.max())
        step = score / weight
        return step - step.mean(), 1.0 / np.sqrt(weight)


class CurveObjective:
    """The sum of the features' profiles as a function of the common parameters.

    Parameters
    ----------
    profiles : sequence of FeatureProfile
    mapped : callable
        ``map`` or one that runs in processes; keeps the order.
    """

    def __init__(self, profiles: Sequence[FeatureProfile], mapped: Map) -> None:
        self.profiles, self.mapped = profiles, mapped

    def values(self, common: np.ndarray) -> np.ndarray:
        """Every feature's part, (F,)."""
        return np.array([one.value for one in self.parts(common)])

    def parts(self, common: np.ndarray) -> list[FeatureValue]:
        """Every feature's part with its gradient; their states become the next starts."""
        found = list(self.mapped(_evaluate, [(profile, common) for profile in self.profiles]))
        for profile, one in zip(self.profiles, found, strict=True):
            if np.isfinite(one.value):
                profile.state = one.state
        return found

    def __call__(self, common: np.ndarray) -> tuple[float, np.ndarray]:
        if not np.isfinite(common).all():
            return -np.inf, np.zeros_like(common)
        found = self.parts(common)
        return float(sum(one.value for one in found)), np.sum([one.gradient for one in found], axis=0)


def _evaluate(task: tuple[FeatureProfile, np.ndarray]) -> FeatureValue:
    profile, common = task
    return profile(common)


def fit_curve(
    objective: Callable, start: np.ndarray, Y: np.ndarray, *, maxiter: int = 60, information: bool = True
) -> Maximum:
    """Maximise over the common parameters.

    Parameters
    ----------
    objective : CurveObjective or BatchObjective
    start : ndarray
        phi and, where common, log theta.
    Y : ndarray, (n, F)
        The features, which set the first curvature.
    maxiter : int, optional
    information : bool, optional
        Whether to compute the information at the end.
    """
    centre, spread, n_values = float(np.nanmean(Y)), float(np.nanvar(Y)), int(np.isfinite(Y).sum())
    # in level and slope about the centre the two elements of phi are nearly uncorrelated
    turn = np.eye(start.size)
    turn[0, 1] = -centre

    def turned(x: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = objective(turn @ x)
        return value, turn.T @ gradient

    metric = np.diag([0.05 * n_values, 0.05 * n_values * spread, 0.2 * Y.shape[1]][: start.size])
    found = maximise_smoothed(
        turned, np.linalg.solve(turn, start), metric, maxiter=maxiter, tol=OUTER_GAIN, information=information
    )
    # the differences have moved the objective away from the optimum
    turned(found.theta)
    back = np.linalg.inv(turn)
    return replace(
        found,
        theta=turn @ found.theta,
        score=back.T @ found.score,
        information=None if found.information is None else back.T @ found.information @ back,
    )


def observed_normal(mean: np.ndarray, variance: np.ndarray, n_seen: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Curve of Li and Smyth (2023, Bioinformatics 39, btad200) in closed form: logit, phi of being missing, (2,).

    ``logit Pr(seen) = a + b (m - b v / 2)`` with the mean m and variance v of a feature's seen values, and a
    zero-truncated binomial number of them. Biased where features have few values; the start of the others.

    Parameters
    ----------
    mean, variance, n_seen, n : ndarray, (features,)
    """
    centre, scale = mean.mean(), max(float(mean.std()), 1e-8)

    def minus(x: np.ndarray) -> float:
        a, b = x
        eta = a + b * ((mean - centre) / scale - 0.5 * b * variance / scale**2)
        p = np.clip(expit(eta), 1e-12, 1.0 - 1e-12)
        value = n_seen * np.log(p) + (n - n_seen) * np.log1p(-p) - np.log1p(-np.exp(n * np.log1p(-p)))
        return -float(value.sum())

    rate = n_seen.sum() / n.sum()
    first = np.array([np.log(rate / max(1.0 - rate, 1e-3)), 0.5])
    found = minimize(minus, first, method="BFGS").x
    slope = found[1] / scale
    return np.array([-(found[0] - slope * centre), -slope])
