"""The problem in (beta, sigma2) at one theta with priors; `FlatInnerProblem` is the one without."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.linalg.lapack import dpotrf, dpotri, dpotrs, dtrtrs

from mvmise_sm.core.criteria.inner_problem import InnerSolution
from mvmise_sm.exceptions import OptionError
from mvmise_sm.priors.mixture import MixtureProblem
from mvmise_sm.priors.scale import ScaleProfile, find_minimum

if TYPE_CHECKING:
    from mvmise_sm.priors.base import CovariancePrior
    from mvmise_sm.priors.quadratic import Gaussian, HorseshoeMixing, QuadraticPenalty, Student
    from mvmise_sm.priors.resolve import PriorSet

__all__ = ["PenalisedInnerProblem"]

_LOG_2PI = math.log(2.0 * math.pi)


@dataclass(frozen=True, slots=True, eq=False)
class _Inner:
    """Solution of the (beta, rho) problem: working beta, rho = log sigma2, (X'V^-1X + prior)^-1, its log-determinant,
    the curvature of the objective in rho with beta profiled, the data's residual quadratic form where it is known, and
    the inverse that belongs to beta as weighted least squares where it is another one.
    """

    beta: np.ndarray
    rho: float
    inverse: np.ndarray
    logdet: float
    curvature: float
    residual: float | None = None
    projection: np.ndarray | None = None


class PenalisedInnerProblem:
    """Posterior mode in (beta, sigma2), or in sigma2 with beta integrated (REML), given the gram matrix.

    Parameters
    ----------
    priors : PriorSet
        Bound priors, see `mvmise_sm.priors.resolve`.
    nobs, k_fe : int
        Rows and fixed effects.
    reml : bool
        Integrate beta.
    logdet_a : float
        log |det A| of the working coordinates.
    a, b0 : ndarray, optional
        beta_user = A beta_working + b0; default the identity and 0.

    Raises
    ------
    OptionError
        If a t or horseshoe prior is combined with REML.

    Notes
    -----
    Everything that the data say about (beta, sigma2) is the gram matrix K = [X y]'V^-1[X y], so every prior that does
    not depend on the random effects is an inner problem of dimension p + 1 given K, and the derivative of its optimum
    in K is (-beta, 1)(-beta, 1)' / sigma2 by the envelope theorem, plus (X'V^-1X + prior)^-1 with REML. Normal priors
    on the common scale are solved in closed form (paper, section 3.2), normal priors on the absolute scale by one
    search in log sigma, t and horseshoe priors by Newton's method in (beta, log sigma).
    """

    def __init__(
        self,
        priors: PriorSet,
        nobs: int,
        k_fe: int,
        reml: bool,
        logdet_a: float = 0.0,
        a: np.ndarray | None = None,
        b0: np.ndarray | None = None,
    ) -> None:
        self.p = k_fe
        self.nobs = nobs
        self.reml = reml
        self.nu = float(nobs - k_fe if reml else nobs)
        self.logdet_a = logdet_a
        self.relative = [(t, c) for t, c in enumerate(priors.cov) if c is not None and c.common_scale]
        self.absolute = [(t, c) for t, c in enumerate(priors.cov) if c is not None and not c.common_scale]
        self.factors = priors.factors
        self.resid = priors.resid
        self.fixed_rho = None if self.resid is None or self.resid.fixed is None else math.log(self.resid.fixed)
        self.blocks = [_WorkingBlock(b, a, b0, k_fe) for b in priors.fixef]
        mixtures = [b for b in self.blocks if not b.mixing.gaussian]
        if reml and mixtures:
            raise OptionError(
                "fixef_prior: t and horseshoe priors cannot be integrated over the fixed effects as REML does; "
                "use fit(reml=False)."
            )
        self.constant = sum(b.constant for b in self.blocks)
        self.uses_sigmas = bool(self.relative or self.absolute)
        self.repels = tuple(c is not None and c.repels for c in priors.cov)
        self.attracts = tuple(c is not None and c.attracts for c in priors.cov)
        self._profile = self._constant_profile()
        absolute = [b for b in self.blocks if not b.common]
        informed = self.resid is not None and self.fixed_rho is None
        self.several_modes = bool(self.absolute or absolute or mixtures or informed)
        self._inner = _mixture if mixtures else (_absolute_normal if absolute else _conjugate)

    def at_scale(self, rho: float) -> PenalisedInnerProblem:
        """The same problem in beta alone, at sigma2 = exp(rho)."""
        out = copy.copy(self)
        out.fixed_rho = float(rho)
        return out

    def _constant_profile(self) -> ScaleProfile:
        """The part of the rho problem that is the same at every theta."""
        profile = ScaleProfile(self.nu + sum(b.rank for b in self.blocks if b.common))
        if self.resid is not None and self.fixed_rho is None:
            _add_scale_part(profile, self.resid, np.ones((1, 1)))
        return profile

    def solve(self, gram: np.ndarray, sigmas: list[np.ndarray] | None = None) -> InnerSolution:
        """Minimise over (beta, sigma2), see `mvmise_sm.core.criteria.inner_problem.InnerProblem`."""
        penalty = self.constant
        gradients: Any = None
        hessians: Any = None
        crosses: Any = None
        given: Any = sigmas
        if self.uses_sigmas:
            gradients, hessians, crosses = ([None] * len(given) for _ in range(3))
            for t, prior in self.relative:
                value, gradients[t] = prior.evaluate(given[t])
                hessians[t] = partial(prior.hessian, given[t])
                penalty += value
        profile = self._profile
        if self.absolute:
            profile = profile.copy()
            for t, prior in self.absolute:
                _add_scale_part(profile, prior, given[t])
        if not math.isfinite(penalty) or not math.isfinite(sum(profile.powers)):
            return self._infinite(gram, gradients)
        inner = self._inner(self, gram, profile)
        s2 = math.exp(inner.rho)
        for t, prior in self.absolute:
            value, slope = prior.evaluate(s2 * given[t])
            penalty += value
            gradients[t] = s2 * slope
            hessians[t] = partial(_scaled_hessian, prior, s2, given[t])
            crosses[t] = s2 * prior.radial(s2 * given[t])
        return self._assemble(gram, inner, s2, penalty, (gradients, hessians, crosses))

    def _assemble(
        self,
        gram: np.ndarray,
        inner: _Inner,
        s2: float,
        penalty: float,
        shape: tuple[Any, Any, Any],
    ) -> InnerSolution:
        p, beta = self.p, inner.beta
        xi = np.empty(p + 1)
        xi[:p] = -beta
        xi[p] = 1.0
        residual = float(xi @ gram @ xi) if inner.residual is None else inner.residual
        r2 = total = residual
        for block in self.blocks:
            x = block.quadratic(xi)
            scaled = x / s2 if block.common else x
            value, slope, _ = block.mixing.phi(scaled)
            penalty += value + (block.rank * inner.rho if block.common else 0.0)
            total += s2 * slope * scaled
            if block.common and block.mixing.gaussian:
                r2 += x
        if self.resid is not None:
            penalty += self.resid.value(np.array([[s2]]))
        weights = np.multiply.outer(xi, xi / s2)
        value = self.nu * (_LOG_2PI + inner.rho) + residual / s2 + penalty
        logdet = inner.logdet - 2.0 * self.logdet_a
        if self.reml:
            value += logdet
            weights[:p, :p] += inner.inverse
        # the average information is positive semidefinite up to c = sigma2 / total; t priors can be steeper than that
        c = 0.0 if self.fixed_rho is not None else min(s2 / total, 1.0 / max(inner.curvature, 1e-300))
        nu, projection = self._profile.log, inner.projection
        return InnerSolution(value, penalty, beta, s2, r2, nu, logdet, weights, inner.inverse, c, *shape, projection)

    def _infinite(self, gram: np.ndarray, gradients: Any) -> InnerSolution:
        """A covariance outside the priors' support: the objective is infinite there."""
        p = self.p
        # +inf at a pole of an improper density too: the mode that is looked for is in the interior
        return InnerSolution(
            math.inf,
            math.inf,
            np.zeros(p),
            1.0,
            float(gram[p, p]),
            self.nu,
            0.0,
            np.zeros_like(gram),
            np.eye(p),
            0.0,
            gradients,
            None,
        )

    def check(self, sigmas: Any) -> None:
        """Refuse an estimate at the pole of a prior's density, where the objective has no minimum.

        Raises
        ------
        OptionError
            If a covariance is singular and the density of its prior infinite there.
        """
        for t, prior in self.relative + self.absolute:
            spread = np.sqrt(sigmas[t].diagonal())
            scaled = sigmas[t] / np.maximum(np.multiply.outer(spread, spread), 1e-300)
            if prior.pole and (spread.min() < 1e-6 or np.linalg.eigvalsh(scaled)[0] < 1e-9):
                raise OptionError(
                    f"cov_prior for {self.factors[t]!r}: the density of {prior.describe()} is infinite at a singular "
                    "covariance and the data have no mode away from it; take a shape above 1, a df above the number of "
                    "columns + 1 or, for an inverse prior, a positive scale."
                )

    def evaluate(
        self, gram: np.ndarray, sigmas: list[np.ndarray], beta: np.ndarray, sigma2: float | None = None
    ) -> tuple[float, float, float]:
        """Criterion (without log|M|), penalty and sigma2 at given working `beta` (p,), maximum likelihood only.

        `sigma2` is profiled if None. Bounded densities (horseshoe) are evaluated without their bound.
        """
        xi = np.append(-np.asarray(beta, dtype=float), 1.0)
        residual = float(xi @ gram @ xi)
        penalty = self.constant + sum(c.value(sigmas[t]) for t, c in self.relative)
        profile = self._profile.copy()
        for t, prior in self.absolute:
            _add_scale_part(profile, prior, sigmas[t])
        exact = [(b, b.mixing.at_finite_bound(), b.quadratic(xi)) for b in self.blocks]
        if sigma2 is None and self.fixed_rho is not None:
            sigma2 = math.exp(self.fixed_rho)
        if sigma2 is None:
            profile.powers[0] += residual
            for block, mixing, x in exact:
                if block.common:
                    profile.functions.append(lambda rho, m=mixing, x=x: _common_term(m, x, rho))
            sigma2 = math.exp(profile.minimise()[0])
        rho = math.log(sigma2)
        for block, mixing, x in exact:
            penalty += mixing.phi(x / sigma2)[0] + block.rank * rho if block.common else mixing.phi(x)[0]
        penalty += sum(c.value(sigma2 * sigmas[t]) for t, c in self.absolute)
        if self.resid is not None:
            penalty += self.resid.value(np.array([[sigma2]]))
        return self.nobs * (_LOG_2PI + rho) + residual / sigma2, penalty, sigma2


def _scaled_hessian(prior: CovariancePrior, s2: float, s: np.ndarray) -> np.ndarray:
    return s2 * s2 * prior.hessian(s2 * s)


def _common_term(mixing: Gaussian | HorseshoeMixing | Student, x: float, rho: float) -> tuple[float, float, float]:
    scaled = x * math.exp(-rho)
    value, d1, d2 = mixing.phi(scaled)
    return value, -d1 * scaled, d2 * scaled**2 + d1 * scaled


def _add_scale_part(profile: ScaleProfile, prior: CovariancePrior, s: np.ndarray) -> None:
    """Add how `prior` at s2 * S depends on rho."""
    part = prior.scale_part(s)
    if part is not None:
        profile.add(part)
        return

    profile.functions.append(prior.along(s))


class _WorkingBlock:
    """A `QuadraticPenalty` in working coordinates: x = xi' G xi with xi = (-beta, 1)."""

    __slots__ = ("common", "constant", "g", "mixing", "rank", "row")

    def __init__(self, block: QuadraticPenalty, a: np.ndarray | None, b0: np.ndarray | None, p: int) -> None:
        shift = block.mean if b0 is None else block.mean - b0
        rows = np.column_stack([np.eye(p) if a is None else a, shift])
        self.g = rows.T @ block.precision @ rows
        # beside a corner x is needed to more digits than the difference of large terms in it has: G = r r'
        j = int(np.argmax(block.precision.diagonal())) if block.mixing.corner else None
        self.row = None if j is None else np.sqrt(block.precision[j, j]) * rows[j]
        self.constant = block.constant
        self.common = block.common_scale
        self.mixing = block.mixing
        self.rank = block.rank

    def quadratic(self, xi: np.ndarray) -> float:
        """x at xi."""
        if self.row is not None:
            return float(self.row @ xi) ** 2
        return max(float(xi @ self.g @ xi), 0.0)

    def turned(self, xi: np.ndarray) -> np.ndarray:
        """G xi."""
        return self.g @ xi if self.row is None else self.row * float(self.row @ xi)


def _factor(matrix: np.ndarray) -> np.ndarray:
    factor, info = dpotrf(matrix, lower=1)
    if info:
        raise np.linalg.LinAlgError("X'V^-1X is not positive definite")
    return factor


def _least_squares(gram: np.ndarray, p: int) -> tuple[np.ndarray, float, np.ndarray, float, np.ndarray]:
    """beta, residual, inverse, log-determinant and Cholesky factor of the normal equations in a gram matrix."""
    kxy, kyy = gram[:p, p], float(gram[p, p])
    if p == 0:
        return np.zeros(0), max(kyy, 1e-300), np.zeros((0, 0)), 0.0, np.zeros((0, 0))
    factor = _factor(gram[:p, :p])
    half = dtrtrs(factor, kxy, lower=1)[0]
    beta = dpotrs(factor, kxy, lower=1)[0]
    lower = dpotri(factor, lower=1)[0]
    inverse = lower + lower.T
    inverse.flat[:: p + 1] *= 0.5
    return beta, max(kyy - float(half @ half), 1e-300), inverse, 2.0 * float(np.log(factor.diagonal()).sum()), factor


def _conjugate(problem: PenalisedInnerProblem, gram: np.ndarray, profile: ScaleProfile) -> _Inner:
    """Flat or normal priors on the common scale: pseudo rows, then the rho problem in closed form where it has one."""
    for block in problem.blocks:
        gram = gram + block.g
    beta, r2, inverse, logdet, _ = _least_squares(gram, problem.p)
    residual = None if problem.blocks else r2
    if problem.fixed_rho is not None:
        return _Inner(beta, problem.fixed_rho, inverse, logdet, math.inf, residual)
    if profile is problem._profile:
        profile = profile.copy()
    profile.powers[0] += r2
    rho, curvature = profile.minimise()
    return _Inner(beta, rho, inverse, logdet, curvature, residual)


def _absolute_normal(problem: PenalisedInnerProblem, gram: np.ndarray, profile: ScaleProfile) -> _Inner:
    """Normal priors, some on the absolute scale: diagonalise the two quadratic forms, then search in rho."""
    p = problem.p
    plus = sum(block.g for block in problem.blocks if not block.common)
    for block in problem.blocks:
        if block.common:
            gram = gram + block.g
    beta, r2, _, logdet, factor = _least_squares(gram, p)
    root = dtrtrs(factor, plus[:p, :p], lower=1)[0]
    weights, basis = np.linalg.eigh(dtrtrs(factor, root.T, lower=1)[0])
    weights = np.maximum(weights, 0.0)
    # the prior pulls gamma = basis' L' (beta - beta_hat) towards z with precision weights * s2
    slope = basis.T @ dtrtrs(factor, plus[:p, p] - plus[:p, :p] @ beta, lower=1)[0]
    z = np.divide(slope, weights, out=np.zeros(p), where=weights > 1e-14 * weights.max(initial=0.0))
    pull = weights * z * z

    def derivatives(rho: float) -> tuple[float, float]:
        s2 = math.exp(rho)
        t = weights * s2
        share = 1.0 / (1.0 + t)
        first = -r2 / s2 - float((pull * t * share**2).sum())
        second = r2 / s2 - float((pull * t * (1.0 - t) * share**3).sum())
        if problem.reml:
            first += float((t * share).sum())
            second += float((t * share**2).sum())
        more = profile.derivatives(rho)
        return first + more[0], second + more[1]

    def value(rho: float) -> float:
        s2 = math.exp(rho)
        t = weights * s2
        return r2 / s2 + float((pull / (1.0 + t)).sum()) + problem.reml * float(np.log1p(t).sum()) + profile.value(rho)

    if problem.fixed_rho is not None:
        rho, curvature = problem.fixed_rho, math.inf
    else:
        # a prior in conflict with the data gives two modes: the data's sigma, and that of beta at its prior mean
        far = r2 + float((z * z).sum())
        starts = {math.log(r2 / profile.log), math.log(far / profile.log)} if profile.log > 0.0 else {0.0}
        rho, curvature = min((find_minimum(derivatives, s) for s in sorted(starts)), key=lambda found: value(found[0]))
    t = weights * math.exp(rho)
    # L' (beta - beta_hat) = basis gamma
    half = dtrtrs(factor, basis, lower=1, trans=1)[0]
    beta = beta + half @ (t * z / (1.0 + t))
    inverse = (half / (1.0 + t)) @ half.T
    return _Inner(beta, rho, inverse, logdet + float(np.log1p(t).sum()), curvature)


def _mixture(problem: PenalisedInnerProblem, gram: np.ndarray, profile: ScaleProfile) -> _Inner:
    """T and horseshoe priors: Newton in (beta, rho), from the least-squares estimate and from the prior's centre."""
    p = problem.p
    mixture = MixtureProblem(problem.blocks, gram, profile, problem.fixed_rho)
    beta, r2, inverse, logdet, _ = _least_squares(gram, p)
    rho = problem.fixed_rho if problem.fixed_rho is not None else math.log(r2 / max(profile.log, 1.0))
    centred = mixture.shrunk([b.mixing.phi(1e-4)[1] for b in problem.blocks], rho)
    best = min((mixture.minimise(start, rho) for start in (beta, centred)), key=lambda found: found[0])
    spread = float(np.trace(gram[:p, :p])) / p
    for j, block in enumerate(problem.blocks):
        if block.mixing.spike:
            # one coefficient at a time, try the mode at its prior mean
            xi = np.append(-best[1], 1.0)
            scale = [math.exp(-best[2]) if b.common else 1.0 for b in problem.blocks]
            forces = [b.mixing.phi(b.quadratic(xi) * c)[1] for b, c in zip(problem.blocks, scale, strict=True)]
            forces[j] = 1e10 * spread / max(float(np.trace(block.g[:p, :p])), 1e-300)
            found = mixture.minimise(mixture.shrunk(forces, best[2]), best[2])
            best = found if found[0] < best[0] - 1e-12 else best
    _, beta, rho = best
    curvature = math.inf
    if problem.fixed_rho is None:
        _, hessian = mixture.derivatives(beta, rho)
        curvature = float(hessian[p, p] - hessian[p, :p] @ np.linalg.solve(hessian[:p, :p], hessian[:p, p]))
    projection = np.linalg.inv(mixture.majorant(beta, rho))
    return _Inner(beta, rho, inverse, logdet, curvature, None, projection)
