"""A linear mixed model with a mechanism of single values at a point: posterior moments and draws of what is missing.

A point has all free parameters of a `ValueProblem`, as `ValueFit.point`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import linalg

from mvmise_sm.selection.imputation import draw_missing, unit_errors
from mvmise_sm.selection.laplace import LaplaceObjective, Mode
from mvmise_sm.selection.likelihood import SelectionParams
from mvmise_sm.selection.prediction import posterior_moments
from mvmise_sm.selection.restricted import Chart
from mvmise_sm.selection.value import ValueProblem

__all__ = ["ValueMoments", "complete", "effect_slopes", "params_at", "theta_at", "value_moments"]

# steps of an independence sampler that starts from Laplace's normal law, whose proposals are nearly all accepted
SAMPLER_STEPS = 20


@dataclass(frozen=True)
class ValueMoments:
    """Posterior moments given everything seen and what is missing.

    Attributes
    ----------
    mean, sd : ndarray, (n,)
        Of every response; those seen are themselves.
    fitted : ndarray, (n,)
    effects : tuple of ndarray
        Random effects, (levels, q) for every term.
    effects_cov : tuple of ndarray
        (levels, q, q) for every term.
    """

    mean: np.ndarray
    sd: np.ndarray
    fitted: np.ndarray
    effects: tuple[np.ndarray, ...]
    effects_cov: tuple[np.ndarray, ...]


def _vector(problem: ValueProblem, point: np.ndarray) -> np.ndarray:
    """The exact likelihood's theta at a point."""
    p = problem.X.shape[1]
    return Chart(problem.likelihood, problem.ratio).point(point[:p], point[p:])


def params_at(problem: ValueProblem, point: np.ndarray) -> SelectionParams:
    """Natural parameters at a point; without tau under Laplace."""
    if problem.exact:
        return problem.likelihood.params(_vector(problem, point))
    p = problem.X.shape[1]
    cut = problem.laplace(restricted=False).slices
    phi = problem.part.expand(point[cut["phi"]])
    return SelectionParams(point[:p], np.exp(point[cut["log_sigma2"]]), phi)


def theta_at(problem: ValueProblem, point: np.ndarray) -> np.ndarray:
    """lme4's theta at a point, of positive scales."""
    if problem.exact:
        params = params_at(problem, point)
        return np.abs(np.asarray(params.tau)) / np.sqrt(params.sigma2)
    joint = problem.laplace(restricted=False)
    return joint.reflected(point[joint.slices["theta"]])


def value_moments(problem: ValueProblem, point: np.ndarray) -> ValueMoments:
    """Posterior moments at a point."""
    if not problem.exact:
        return _laplace_moments(problem, point)
    vector = _vector(problem, point)
    found = posterior_moments(problem.likelihood, vector)
    back, tau = problem.data.unsort, float(np.asarray(problem.likelihood.params(vector).tau)[0])
    offset = 0.0 if problem.offset is None else problem.offset
    return ValueMoments(
        np.where(np.isfinite(problem.y), problem.y, back(found.mean)[:, 0] + offset),
        back(found.sd)[:, 0],
        back(found.fitted)[:, 0] + offset,
        (tau * found.effects,),
        (tau**2 * found.effects_cov,),
    )


def effect_slopes(problem: ValueProblem, point: np.ndarray) -> tuple[np.ndarray, ...]:
    """Derivatives of the random effects' posterior means in the fixed effects, (levels, q, p) for every term."""
    out = []
    width = 1e-4 * float(np.sqrt(params_at(problem, point).sigma2[0]))
    for j in range(problem.X.shape[1]):
        sides = []
        for signed in (width, -width):
            moved = point.copy()
            moved[j] += signed
            sides.append(value_moments(problem, moved).effects)
        out.append([(a - b) / (2.0 * width) for a, b in zip(*sides, strict=True)])
    return tuple(np.stack(parts, axis=2) for parts in zip(*out, strict=True))


def complete(problem: ValueProblem, point: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The response (n,) with every missing value drawn from its law given all that was seen and what is missing.

    Raises
    ------
    ValueError
        If the point is outside the domain.
    """
    offset = 0.0 if problem.offset is None else problem.offset
    if problem.exact:
        drawn = problem.data.unsort(draw_missing(problem.likelihood, _vector(problem, point), rng))[:, 0]
    else:
        drawn = _laplace_draw(problem, point, rng)
    return np.where(np.isfinite(problem.y), problem.y, drawn + offset)


def _laplace_state(problem: ValueProblem, point: np.ndarray) -> tuple[LaplaceObjective, Mode, np.ndarray]:
    """The objective, its mode at a point, and the coefficients of the standardised effects."""
    joint = problem.laplace(restricted=False)
    mode = joint.found(point)
    s2 = float(np.exp(point[joint.slices["log_sigma2"]][0]))
    return joint, mode, np.sqrt(s2) * joint.relative(point[joint.slices["theta"]])


def _centres(problem: ValueProblem, params: SelectionParams, mean: np.ndarray) -> np.ndarray:
    """Predictors of the missing values (m,) at means of all rows (n,)."""
    units = problem.units
    own = params.phi.reshape(-1, 3)[units.slot]
    return own[:, 0] + own[:, 1] * (mean[units.row] + units.known) + own[:, 2] * units.covariate + units.offset


def _laplace_moments(problem: ValueProblem, point: np.ndarray) -> ValueMoments:
    """At the mode: normal random effects, and missing errors tilted by the mechanism given their row's mean."""
    _, mode, M = _laplace_state(problem, point)
    params, theta = params_at(problem, point), theta_at(problem, point)
    s2 = float(params.sigma2[0])
    inverse = np.linalg.inv(mode.hessian)
    spread = np.einsum("ij,jk,ik->i", M, inverse, M)
    mean, sd = mode.mean.copy(), np.sqrt(spread + s2)
    units = problem.units
    if len(units):
        slope = params.phi.reshape(-1, 3)[units.slot, 1]
        g = problem.part.integral(units.slot, _centres(problem, params, mode.mean), slope**2 * s2)
        mean[units.row] += slope * s2 * g.d_mean
        # the tilted error has variance s2 + s2^2 G_mm phi1^2, and its mean moves with the row's
        follow = 1.0 + s2 * slope**2 * (2.0 * g.d_var - g.d_mean**2)
        sd[units.row] = np.sqrt(np.maximum(s2 * follow + follow**2 * spread[units.row], 0.0))
    offset = 0.0 if problem.offset is None else problem.offset
    seen = np.isfinite(problem.y)
    effects, covariances, column = [], [], 0
    for term, lam in zip(problem.random.terms, problem.random.lambdas(theta), strict=True):
        J, q = term.factor.n_levels, term.q
        scale = np.sqrt(s2) * lam
        block = slice(column, column + J * q)
        effects.append(mode.latent[block].reshape(J, q) @ scale.T)
        own = inverse[block, block].reshape(J, q, J, q)[np.arange(J), :, np.arange(J), :]
        covariances.append(scale @ own @ scale.T)
        column += J * q
    return ValueMoments(
        np.where(seen, problem.y, mean + offset),
        np.where(seen, 0.0, sd),
        mode.mean + offset,
        tuple(effects),
        tuple(covariances),
    )


def _laplace_draw(problem: ValueProblem, point: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Random effects by independence steps from Laplace's law, then the values given their rows' means."""
    joint, mode, M = _laplace_state(problem, point)
    params = params_at(problem, point)
    s2 = float(params.sigma2[0])
    fixed = mode.mean - M @ mode.latent
    root = linalg.cholesky(mode.hessian, lower=False)

    def excess(z: np.ndarray) -> tuple[float, np.ndarray]:
        latent = mode.latent + linalg.solve_triangular(root, z, lower=False)
        density, _, _ = joint.terms(fixed + M @ latent, params.phi, s2)
        return density - 0.5 * float(latent @ latent) + 0.5 * float(z @ z), latent

    value, latent = excess(rng.standard_normal(mode.latent.size))
    for _ in range(SAMPLER_STEPS):
        new, proposed = excess(rng.standard_normal(mode.latent.size))
        if np.log(rng.uniform()) < new - value:
            value, latent = new, proposed
    mean = fixed + M @ latent
    y = mean + np.sqrt(s2) * rng.standard_normal(mean.size)
    units = problem.units
    if len(units):
        shift = unit_errors(problem.part, units, params, _centres(problem, params, mean), rng)
        y[units.row] = mean[units.row] + shift
    return y
