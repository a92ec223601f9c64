"""Joint draws of all parameters and random effects from normal approximations at the optimum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from statsmodels.tools.rng_qrng import check_random_state

from mvmise_sm.core.families.predictors import PartsResponse
from mvmise_sm.core.threads import blas_threads
from mvmise_sm.core.uncertainty import hessian
from mvmise_sm.core.uncertainty.draws import laplace_effects, linear_effects, root
from mvmise_sm.exceptions import OptionError
from mvmise_sm.inference.fits import with_rows
from mvmise_sm.inference.resampling import all_parameters, parameter_names
from mvmise_sm.inference.variance_intervals import TransformedLaw, transformed_law

__all__ = ["Draws", "draws", "one_part_density", "parts_density"]

_TRIES = 1000


@dataclass(frozen=True, eq=False)
class Draws:
    """Draws of a fit, `count` of each.

    Attributes
    ----------
    beta : ndarray
        Coefficients (count, k).
    effects : dict of str to ndarray
        Grouping factor -> random effects (count, n_levels, q), as `random_effects` has them.
    variance : dict of str to ndarray
        ``sd_x|g``, ``cor_x.y|g``, ``sigma`` and the family's own parameters -> (count,).
    log_likelihood : ndarray or None
        Log density of every response given the random effects (count, nobs).
    """

    beta: np.ndarray
    effects: dict[str, np.ndarray]
    variance: dict[str, np.ndarray]
    log_likelihood: np.ndarray | None


@dataclass(frozen=True, eq=False)
class _Draw:
    """One draw: coefficients (k,), random effects by term, variance parameters, log density by row (nobs,) or None."""

    beta: np.ndarray
    b: Any
    variance: np.ndarray
    rows: np.ndarray | None


def draws(result: Any, count: int, rng: Any = None, log_likelihood: bool = True) -> Draws:
    """Draw variance parameters, coefficients and random effects jointly.

    Linear models: log standard deviations and Fisher's z of correlations are normal about the optimum with the inverse
    curvature of the criterion, other parameters of a covariance on their working scale; coefficients and random effects
    are jointly normal given these, exactly. A parameter on its boundary stays there. Generalized models: covariance
    parameters, coefficients and the family's parameters are normal with the inverse Hessian, random effects have
    Laplace's normal law about their mode given these.

    Parameters
    ----------
    result : MixedModelResults
        Linear or generalized.
    count : int
    rng : int, Generator or RandomState, optional
    log_likelihood : bool, optional
        Whether to keep the log density of every row; there is none by row where residuals are correlated.

    Returns
    -------
    Draws

    Raises
    ------
    OptionError
        If the fit has no covariance of its parameters to draw from.
    """
    result = with_rows(result)
    rng = check_random_state(rng)
    if not isinstance(rng, np.random.Generator):
        rng = np.random.default_rng(rng.randint(0, 2**31 - 1, size=4))
    make = (_linear if result.profiled else _generalized)(result, log_likelihood)
    with blas_threads(0):
        sample = [make(rng) for _ in range(count)]
    layout = result.model.random_layout
    effects = {}
    for factor in layout.factors:
        terms = layout.terms_of(factor)
        effects[factor.name] = np.array([np.concatenate([one.b[i] for i in terms], axis=1) for one in sample])
    names = parameter_names(result)[len(result.coef_names) :]
    variance = np.array([one.variance for one in sample]).reshape(count, len(names))
    rows = None if sample[0].rows is None else np.array([one.rows for one in sample])
    beta = np.array([one.beta for one in sample])
    return Draws(beta, effects, dict(zip(names, variance.T, strict=True)), rows)


def _linear(result: Any, log_likelihood: bool) -> Any:
    """A function from a generator to one draw from a linear model."""
    model, criterion, layout = result.model, result.deviance_function(), result.model.random_layout
    y = np.asarray(model.endog, dtype=float)
    variances = _variance_draws(result)
    base = np.zeros(model.nobs) if model.offset is None else np.asarray(model.offset)
    weights = np.ones(model.nobs) if model.weights is None else np.asarray(model.weights)
    structure = result.residual_structure()

    def make(rng: np.random.Generator) -> _Draw:
        theta, scale = variances(rng)
        size = np.sqrt(scale)
        lambdas = layout.lambdas(theta)
        effects = [size * t.factor.draw(rng, t.q) @ lam.T for t, lam in zip(layout.terms, lambdas, strict=True)]
        simulated = model.random_effects.linear(effects) + result.residual_noise(rng, theta, scale)
        beta, b = linear_effects(criterion, theta, scale, y, (effects, simulated), rng)
        rows = None
        if log_likelihood and structure is None:
            residual = y - base - model.exog @ beta - model.random_effects.linear(b)
            rows = -0.5 * (np.log(2.0 * np.pi * scale / weights) + weights * residual**2 / scale)
        return _Draw(beta, b, all_parameters(layout, (), theta, scale, True, structure), rows)

    return make


def _variance_draws(result: Any) -> Any:
    """A function from a generator to theta and the residual variance."""
    names = parameter_names(result)[result.k_fe :]
    law = transformed_law(result, names)
    if law.cov is None:
        raise OptionError("there is no covariance of the variance parameters to draw from: the fit has not converged")
    free = np.flatnonzero(law.inside)
    if result.residual_structure() is None and _rebuilt(result, law.estimate) is not None:
        half = root(law.cov[np.ix_(free, free)])

        def reported(rng: np.random.Generator) -> tuple[np.ndarray, float]:
            for _ in range(_TRIES):
                found = _rebuilt(result, _moved(law, free, half @ rng.standard_normal(len(free))))
                if found is not None:
                    return found
            raise OptionError("the correlations are too uncertain: hardly any draw of them makes a covariance")

        return reported
    at, cov = result.variance_law()
    half = root(cov)
    return lambda rng: result.parameters_at(at + half @ rng.standard_normal(len(at)))


def _moved(law: TransformedLaw, free: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Standard deviations and correlations a step from the estimate on the transformed scale."""
    out = law.estimate.copy()
    moved = law.center[free] + step
    out[free] = np.where(law.kinds[free] == "sd", np.exp(moved), np.tanh(moved))
    return out


def _rebuilt(result: Any, values: np.ndarray) -> tuple[np.ndarray, float] | None:
    """Theta and residual variance for the reported parameters; None where no covariance has them."""
    layout, scale, at = result.model.random_layout, float(values[-1]) ** 2, 0
    theta = np.array(result.theta, dtype=float)
    for term, place in zip(layout.terms, layout.theta_slices, strict=True):
        found = term.structure.parameters(theta[place], term.names)
        own = dict(zip([p.levels for p in found], values[at : at + len(found)], strict=True))
        at += len(found)
        sd = [own.get((name,), np.nan) for name in term.names]
        cor = np.array([[own.get((a, b), own.get((b, a), 0.0)) for b in term.names] for a in term.names])
        np.fill_diagonal(cor, 1.0)
        # at a standard deviation of zero a correlation has no value
        sigma = np.nan_to_num(cor) * np.outer(sd, sd) / scale
        if not np.isfinite(sigma).all() or np.linalg.eigvalsh(np.nan_to_num(cor))[0] < 0.0:
            return None
        theta[place] = term.structure.theta_from(sigma)
        again = term.structure.parameters(theta[place], term.names)
        reported = [p.value * float(np.sqrt(scale)) if p.kind == "sd" else p.value for p in again]
        if not np.allclose(reported, values[at - len(found) : at], rtol=1e-6, atol=1e-9, equal_nan=True):
            return None
    return theta, scale


def _generalized(result: Any, log_likelihood: bool) -> Any:
    """A function from a generator to one draw from a generalized model."""
    criterion, layout = result.deviance_function(), result.model.random_layout
    optimum = np.asarray(result.optimum, dtype=float)
    cov = None if result.nagq == 0 or not result.converged else hessian.working_cov(criterion, optimum)
    if result.k_scale > criterion.k_shape:
        raise OptionError("dispersion='lme4' has no likelihood to draw from; fit with dispersion='ml'")
    if cov is None:
        raise OptionError(
            "draws need the covariance of all parameters: a converged fit with nagq of at least 1 and a positive "
            "definite Hessian"
        )
    half = root(cov)
    shapes = result.shape_profiles() if criterion.k_shape else []
    density = result.density_of_rows() if log_likelihood else None

    def make(rng: np.random.Generator) -> _Draw:
        for _ in range(_TRIES):
            x = optimum + half @ rng.standard_normal(len(optimum))
            try:
                solution = criterion.solve(x)
            except np.linalg.LinAlgError:  # outside the domain of the link
                continue
            break
        else:
            raise OptionError("hardly any draw of the parameters gives a finite likelihood")
        mode = criterion.mode(x)
        deviation = laplace_effects(criterion, mode, rng, 1)[0]
        steps = criterion.user_effects(deviation)
        b = [mean + step for mean, step in zip(solution.b, steps, strict=True)]
        tail = x[len(x) - len(shapes) :]
        own = [shown(value) for (_, shown), value in zip(shapes, tail, strict=True)]
        variance = all_parameters(layout, (), solution.theta, solution.sigma2, False)
        rows = None if density is None else density(solution, criterion.incidence.times(deviation))
        return _Draw(solution.beta, b, np.append(variance, own), rows)

    return make


def one_part_density(result: Any) -> Any:
    """A function (solution, step) -> log density by row (nobs,), the linear predictor moved by a step (nobs,)."""
    model, family = result.model, result.family
    response = PartsResponse(family, np.asarray(model.endog), model.weights, zero=False, random=(0,))

    def density(solution: Any, step: np.ndarray) -> np.ndarray:
        eta = solution.eta + step
        if not family.has_dispersion:
            return response.log_density_rows(eta[None])
        d = family.dispersion_of(solution.sigma2, solution.alpha)
        return response.log_density_rows(np.array([eta, np.full(eta.shape, np.log(d))]))

    return density


def parts_density(result: Any) -> Any:
    """The same for several predictors, of which those with random effects are moved by a step."""
    response = result.deviance_function().response

    def density(solution: Any, step: np.ndarray) -> np.ndarray:
        full = np.array(solution.predictors)
        full[list(response.random)] += step
        return response.log_density_rows(full)

    return density
