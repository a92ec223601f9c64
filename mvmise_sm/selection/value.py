"""A linear mixed model with a mechanism of single values: likelihood, fit and what a result needs, arrays in and out.

One scalar random term is model b with one outcome, whose integral is exact; other random effects take Laplace's method.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from mvmise_sm.core.covariance.random_effects import RandomEffects
from mvmise_sm.selection.data import SelectionData
from mvmise_sm.selection.factor import FactorLikelihood
from mvmise_sm.selection.laplace import LaplaceObjective
from mvmise_sm.selection.likelihood import FactorParams, SelectionParams
from mvmise_sm.selection.maximise import Maximum, Objective, maximise, maximise_smoothed
from mvmise_sm.selection.objective import PenalisedObjective, Penalty
from mvmise_sm.selection.restricted import BetaUncertainty, Chart, RestrictedObjective, beta_uncertainty
from mvmise_sm.selection.solve import FEW_OUTCOMES, SAME_VALUE
from mvmise_sm.selection.status import Status
from mvmise_sm.selection.units import RowExtras, Slot, mechanism_part

__all__ = ["ValueFit", "ValueProblem"]

# a standard deviation below this share of sigma is zero: the likelihood is flat to 1e-8 there
ZERO = 1e-4
# further starts need only tell which maximum they lead to
OTHER_ITERATIONS, OTHER_TOL = 40, 1e-4


@dataclass(frozen=True)
class ValueFit:
    """A fit of a linear mixed model with a mechanism of its values.

    Attributes
    ----------
    params : SelectionParams
        Fixed effects, residual variance, phi; `tau` with one scalar term.
    theta : ndarray
        lme4's relative covariance parameters.
    llf : float
        Log-likelihood, or the restricted one, without penalties.
    value : float
        What was maximised.
    uncertainty : BetaUncertainty or None
        None without a maximum.
    information : ndarray, (p, p)
        Covariance of the fixed effects from the whole information, after maximum likelihood.
    cov_phi : ndarray, (3, 3)
        Zero for what is held.
    free : ndarray of int
        Free elements of phi.
    status : Status
    n_iter : int
    history : ndarray
    point : ndarray, (k,)
        All free parameters: the fixed effects, then tau and log s2 (Laplace: lme4's theta and log s2), then free phi.
    cov : ndarray, (k, k)
        Their covariance; zero for a variance at zero, NaN without a maximum.
    """

    params: SelectionParams
    theta: np.ndarray
    llf: float
    value: float
    uncertainty: BetaUncertainty | None
    information: np.ndarray
    cov_phi: np.ndarray
    free: np.ndarray
    status: Status
    n_iter: int
    history: np.ndarray
    point: np.ndarray = field(repr=False)
    cov: np.ndarray = field(repr=False)

    @property
    def converged(self) -> bool:
        """Whether a maximum was reached."""
        return self.status is Status.CONVERGED


class ValueProblem:
    """A linear mixed model whose missing responses are part of the likelihood.

    Parameters
    ----------
    y : ndarray, (n,)
        Response, NaN where missing.
    X : ndarray, (n, p)
    random : RandomEffects
    slot : Slot or None
        The mechanism of single values.
    offset : ndarray, (n,), optional
        Known part of the mean.
    mechanism_offset, covariate : ndarray, (n,), optional
        Known part of eta, and the covariate of the mechanism.
    penalties : tuple of Penalty, optional
        Priors; those of covariances need one scalar term.
    exact : bool, optional
        Integrate exactly, which one scalar term allows.
    ratio : float, optional
        lme4's theta of one scalar term, held.
    attracted : bool, optional
        Whether a prior of one scalar term falls from a standard deviation of 0 on, which is then a local mode.
    """

    def __init__(
        self,
        y: np.ndarray,
        X: np.ndarray,
        random: RandomEffects,
        slot: Slot | None,
        *,
        offset: np.ndarray | None = None,
        mechanism_offset: np.ndarray | None = None,
        covariate: np.ndarray | None = None,
        penalties: tuple[Penalty, ...] = (),
        exact: bool = True,
        ratio: float | None = None,
        attracted: bool = False,
    ) -> None:
        self.y, self.X, self.random, self.offset = y, X, random, offset
        self.penalties, self.exact, self.ratio, self.attracted = penalties, exact, ratio, attracted
        term = random.terms[0]
        order = np.argsort(term.factor.codes, kind="stable") if exact else np.arange(y.size)
        codes = term.factor.codes[order] if exact else np.zeros(y.size, dtype=int)
        self.order = order
        shifted = y if offset is None else y - offset
        self.data = SelectionData(
            Y=shifted[order][:, None],
            X=np.ascontiguousarray(X[order][:, None, :]),
            Z=np.ones((y.size, 1, 1)),
            cluster=codes,
            first=np.r_[True, np.diff(codes) > 0],
            cov_miss=None if covariate is None else covariate[order][:, None],
            order=order,
            labels=tuple(range(term.factor.n_levels if exact else 1)),
            common_design=True,
            common_cov=True,
        )
        column = term.columns[0] if exact else None
        self.extras = RowExtras(*(None if v is None else v[order][:, None] for v in (column, mechanism_offset, offset)))
        self.slots: tuple[Slot, ...] = () if slot is None else (slot,)
        if exact:
            self.likelihood = FactorLikelihood(self.data, self.slots, extras=self.extras)
            self.part, self.units = self.likelihood.part, self.likelihood.units
        else:
            self.part, self.units = mechanism_part(self.data, self.slots, np.ones((y.size, 1)), self.extras)

    # --- points

    def loglike(self, beta: np.ndarray, theta: np.ndarray, sigma2: float, phi: np.ndarray) -> float:
        """Log-likelihood at a point, every constant included; Laplace's approximation unless exact."""
        if self.exact:
            tau = np.array([theta[0] * np.sqrt(sigma2)])
            params = FactorParams(beta, np.array([sigma2]), phi, tau=tau)
            point = self.likelihood.theta(params)
            if np.allclose(self.likelihood.params(point).phi, phi):
                return self.likelihood.value_and_score(point)[0]
            return self._held(phi).loglike(beta, theta, sigma2, phi)
        if not np.allclose(self.part.expand(phi[self.part.free]), phi):
            return self._held(phi).loglike(beta, theta, sigma2, phi)
        objective = self.laplace(restricted=False)
        return objective.value(np.concatenate([beta, theta, [np.log(sigma2)], phi[self.part.free]]))

    def _held(self, phi: np.ndarray) -> ValueProblem:
        """The same problem with the mechanism held elsewhere."""
        return self.with_slot(replace(self.slots[0], held=dict(enumerate(phi[:3]))))

    def with_slot(self, slot: Slot | None, ratio: float | None = None) -> ValueProblem:
        """The same data under another mechanism, or with another ratio held."""
        ratio = self.ratio if ratio is None else ratio
        return ValueProblem(self.y, self.X, self.random, slot, **{**self._options(), "ratio": ratio})

    def on_rows(self, keep: np.ndarray, X: np.ndarray, random: RandomEffects) -> ValueProblem:
        """The same model on some rows, with their design and random effects."""
        rows = {k: v[keep] if isinstance(v, np.ndarray) else v for k, v in self._options().items()}
        return ValueProblem(self.y[keep], X, random, self.slots[0] if self.slots else None, **rows)

    def _options(self) -> dict[str, Any]:
        """Keyword arguments of the constructor."""
        out: dict[str, Any] = {"offset": self.offset, "penalties": self.penalties}
        for name, values in (("mechanism_offset", self.extras.offset), ("covariate", self.data.cov_miss)):
            out[name] = None if values is None else self.data.unsort(values)[:, 0]
        return {**out, "exact": self.exact, "ratio": self.ratio, "attracted": self.attracted}

    def objective(self) -> Callable[[np.ndarray], tuple[float, np.ndarray]]:
        """``x -> (log-likelihood minus penalties, gradient)`` over all free parameters, those of `ValueFit.point`."""
        if not self.exact:
            return self.laplace(restricted=False)
        return ChartedObjective(PenalisedObjective(self.likelihood, self.penalties), Chart(self.likelihood, self.ratio))

    def diverged(self, x: np.ndarray) -> Status | None:
        """Why there is no maximum where a point with free phi at its end is heading; None if nothing says so."""
        count = self.part.free.size
        return Status.THRESHOLD if count and self.part.is_threshold(x[-count:]) else None

    # --- fits

    def fit(self, *, reml: bool = True, maxiter: int | None = None, tol: float | None = None) -> ValueFit:
        """Fit by restricted or by maximum likelihood.

        Parameters
        ----------
        reml : bool, optional
        maxiter : int, optional
            Quasi-Newton iterations.
        tol : float, optional
            Expected gain at which Newton steps take over.
        """
        options = {name: value for name, value in (("maxiter", maxiter), ("tol", tol)) if value is not None}
        if not self.exact:
            return self._fit_laplace(reml, options)
        objective = PenalisedObjective(self.likelihood, self.penalties)
        restricted, best = self._on(objective, Chart(self.likelihood, self.ratio), reml, options)
        if self.attracted and self.ratio is None:
            _, zero = self._on(objective, Chart(self.likelihood, 0.0), reml, options)
            best = _higher_mode(restricted.chart, best, zero)
        return self._report(objective, restricted, best, reml)

    def _on(
        self, objective: PenalisedObjective, chart: Chart, reml: bool, options: dict
    ) -> tuple[RestrictedObjective, Maximum]:
        """The restricted objective on a chart, and the maximum of it or of the likelihood."""
        start, cut, nuisance = self.likelihood.start(), self.likelihood.slices, chart.nuisance
        metric = self.likelihood.metric(chart.point(start[cut["beta"]], start[nuisance]))
        restricted = RestrictedObjective(objective, chart, start[cut["beta"]])
        if reml:
            shape = metric[np.ix_(nuisance, nuisance)]
            return restricted, self._maximise(restricted, start[nuisance], shape, options, maximise_smoothed)
        first = np.concatenate([start[cut["beta"]], start[nuisance]])
        index = np.concatenate([np.arange(self.likelihood.size)[cut["beta"]], nuisance])
        shape = metric[np.ix_(index, index)]
        return restricted, self._maximise(ChartedObjective(objective, chart), first, shape, options, maximise)

    def _maximise(self, target: Objective, start: np.ndarray, metric: np.ndarray, options: dict, run: Any) -> Maximum:
        """The best of the maxima from the moment start and from either sign of a free slope."""
        free = self.part.free
        count = free.size
        best = run(target, start, metric, diverged=self.diverged, **options)
        if not self.part.slopes_at.size or self.data.n_outcomes > FEW_OUTCOMES:
            return best
        for index, slope in self.part.slopes():
            point = (best.theta if best.converged else start).copy()
            point[-count:] = self.part.feasible(point[-count:], slope, index)
            if not np.isfinite(target(point)[0]):
                continue
            short = {**options, "maxiter": OTHER_ITERATIONS, "tol": OTHER_TOL}
            other = run(target, point, metric, information=False, diverged=self.diverged, **short)
            if other.converged and (other.value > best.value + SAME_VALUE or not best.converged):
                other = run(target, other.theta, metric, diverged=self.diverged, **options)
                best = other if other.converged else best
        return best

    def _report(
        self, objective: PenalisedObjective, restricted: RestrictedObjective, best: Maximum, reml: bool
    ) -> ValueFit:
        likelihood, chart, cut = self.likelihood, restricted.chart, self.likelihood.slices
        p = cut["beta"].stop
        t = best.theta if reml else best.theta[p:]
        point = restricted.fitted(t).theta if reml else chart.point(best.theta[:p], t)
        params = likelihood.params(point)
        tau, sigma = float(params.tau[0]), float(np.sqrt(params.sigma2[0]))
        zero = self.ratio is None and abs(tau) < ZERO * sigma
        params = replace(params, tau=np.array([0.0 if zero else abs(tau)]))
        names = chart.nuisance
        keep = np.ones(best.theta.size, bool)
        if zero:
            keep[(0 if reml else p)] = False
        inverse = best.covariance(keep)
        covered = inverse if reml else inverse[p:, p:]
        uncertainty = beta_uncertainty(restricted, t, covered) if best.converged else None
        # the sign of tau is arbitrary; the positive one is reported
        x = np.concatenate([point[:p], t])
        sign = np.where((names == cut["tau"].start) & (tau < 0.0), -1.0, 1.0)
        sign = np.concatenate([np.ones(p), sign])
        x = np.where(np.r_[np.zeros(p, bool), (names == cut["tau"].start) & zero], 0.0, sign * x)
        joint = _joint(uncertainty, inverse, reml, x.size)
        phi = np.isin(names, np.arange(likelihood.size)[cut["phi"]])
        cov_phi = np.zeros((params.phi.size, params.phi.size))
        free = self.part.free
        cov_phi[np.ix_(free, free)] = covered[np.ix_(phi, phi)]
        value, _ = objective.likelihood.value_and_score(point)
        amount = objective.penalty(point)[0] if self.penalties else 0.0
        return ValueFit(
            params=params,
            theta=np.array([0.0 if zero else abs(tau) / sigma]),
            llf=float(best.value + amount) if reml else float(value),
            value=float(best.value),
            uncertainty=uncertainty,
            information=joint[:p, :p],
            cov_phi=cov_phi,
            free=free,
            status=best.status,
            n_iter=best.n_iter,
            history=best.history,
            point=x,
            cov=joint * np.outer(sign, sign),
        )

    def laplace(self, restricted: bool) -> LaplaceObjective:
        """Laplace's approximation of the likelihood, or of the restricted one."""
        y = self.y if self.offset is None else self.y - self.offset
        return LaplaceObjective(y, self.X, self.random, self.part, self.units, restricted)

    def _fit_laplace(self, reml: bool, options: dict) -> ValueFit:
        objective = self.laplace(reml)
        start = objective.start()
        best = self._maximise(objective, start, objective.metric(start), options, maximise_smoothed)
        cut, p = objective.slices, self.X.shape[1]
        x = best.theta
        joint = self.laplace(True)
        at = x if reml else x[p:]
        beta = joint.found(at).latent[-p:] if reml else x[cut["beta"]]
        raw = objective.reflected(x[cut["theta"]])
        lambdas = self.random.lambdas(raw)
        theta = np.concatenate(
            [t.structure.theta_from(lam @ lam.T) for t, lam in zip(self.random.terms, lambdas, strict=True)]
        )
        theta = np.where((self.random.lower == 0.0) & (np.abs(theta) < ZERO), 0.0, theta)
        inverse = best.covariance()
        covered = inverse if reml else inverse[p:, p:]
        uncertainty = self._laplace_uncertainty(joint, at, covered) if best.converged else None
        # lme4's theta of the report where it is at its bound
        first = cut["theta"].start - (0 if reml else p)
        place = slice(first, first + theta.size)
        at = at.copy()
        at[place] = np.where(theta == 0.0, 0.0, at[place])
        joint_cov = _joint(uncertainty, inverse, reml, p + at.size)
        cov_phi = np.zeros((self.part.fixed.size, self.part.fixed.size))
        free = self.part.free
        if free.size:
            cov_phi[np.ix_(free, free)] = covered[-free.size :, -free.size :]
        sigma2 = np.exp(x[cut["log_sigma2"]])
        return ValueFit(
            params=SelectionParams(beta, sigma2, self.part.expand(x[cut["phi"]])),
            theta=theta,
            llf=float(best.value),
            value=float(best.value),
            uncertainty=uncertainty,
            information=joint_cov[:p, :p],
            cov_phi=cov_phi,
            free=free,
            status=best.status,
            n_iter=best.n_iter,
            history=best.history,
            point=np.concatenate([beta, at]),
            cov=joint_cov,
        )

    def _laplace_uncertainty(self, joint: LaplaceObjective, at: np.ndarray, covered: np.ndarray) -> BetaUncertainty:
        """Covariance of the fixed effects from the joint curvature, and its derivatives."""
        p = self.X.shape[1]

        def block(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            mode = joint.found(x)
            return np.linalg.inv(mode.hessian)[-p:, -p:], mode.latent[-p:]

        conditional, _ = block(at)
        slopes, moves = [], []
        for k in range(at.size):
            step = np.zeros(at.size)
            step[k] = 1e-4 * max(1.0, 0.1 * abs(at[k]))
            (ahead, up), (behind, down) = block(at + step), block(at - step)
            slopes.append((ahead - behind) / (2.0 * step[k]))
            moves.append((up - down) / (2.0 * step[k]))
        B = np.array(moves).reshape(len(moves), -1).T
        return BetaUncertainty(conditional, conditional + B @ covered @ B.T, covered, np.array(slopes), B)


def _higher_mode(chart: Chart, away: Maximum, zero: Maximum) -> Maximum:
    """The higher of a mode away from a standard deviation of 0 and the mode there, in the parameters of the first."""
    cut = chart.likelihood.slices
    before = away.theta.size - chart.nuisance.size
    tau, log_s2 = (before + int(np.flatnonzero(chart.nuisance == cut[k].start)[0]) for k in ("tau", "log_sigma2"))
    # a search that ended at the kink has no mode of its own
    is_mode = away.converged and abs(away.theta[tau]) > ZERO * np.exp(0.5 * away.theta[log_s2])
    if (is_mode and away.value > zero.value) or not zero.converged:
        return away
    theta, score = (np.insert(values, tau, 0.0) for values in (zero.theta, zero.score))
    information = zero.information
    if information is not None:
        information = np.insert(np.insert(information, tau, 0.0, axis=0), tau, 0.0, axis=1)
    return replace(zero, theta=theta, score=score, information=information, free=np.insert(zero.free, tau, False))


def _joint(uncertainty: BetaUncertainty | None, inverse: np.ndarray, reml: bool, size: int) -> np.ndarray:
    """Covariance of all parameters: the inverse information, or after REML with the fixed effects; NaN without one."""
    if uncertainty is None:
        return np.full((size, size), np.nan)
    return uncertainty.joint() if reml else inverse


class ChartedObjective:
    """``x = (beta, t) -> (objective, gradient)`` through a chart.

    Parameters
    ----------
    objective : PenalisedObjective
    chart : Chart
    """

    def __init__(self, objective: PenalisedObjective, chart: Chart) -> None:
        self.objective, self.chart = objective, chart
        self._p = objective.likelihood.slices["beta"].stop

    def __call__(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        theta = self.chart.point(x[: self._p], x[self._p :])
        value, score = self.objective(theta)
        return value, np.concatenate([score[: self._p], self.chart.pull(theta, score)])
