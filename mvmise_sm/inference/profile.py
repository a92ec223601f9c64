"""Profile likelihood of fixed effects, standard deviations, correlations and sigma."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
from scipy import stats

from mvmise_sm.caller import warn
from mvmise_sm.core.covariance.reported import LogDeviation, ReportedParameter, from_line, parameter_label
from mvmise_sm.core.optimise.constrained import (
    ConstrainedPoint,
    Coordinate,
    Correlation,
    StandardDeviation,
    constrained_minimum,
    free_minimum,
)
from mvmise_sm.core.threads import blas_threads
from mvmise_sm.core.uncertainty.hessian import below_saddle
from mvmise_sm.core.uncertainty.profile_search import (
    ProfiledParameter,
    freed_from_zero,
    interval,
    pulled_back,
    trace,
)
from mvmise_sm.exceptions import OptionError, SeparationWarning
from mvmise_sm.inference.fits import ml_fit, refitted, require_maximum, with_statistic
from mvmise_sm.options import strict_options

__all__ = ["Profile", "intervals", "profile", "profile_intervals"]

_AT_ZERO = 1e-3  # relative standard deviations below this count as zero
_AWAY = 0.1  # where the search away from zero starts: small, but on the slope of every minimum of interest
_SEPARATES = 8.0  # standard deviations on the link scale that only separated responses have
_OFF_SADDLE = 0.1  # share of the way to a lower point beside a saddle at which profiles begin
_SEPARATED = "the responses are (nearly) separated; give a prior, for example fixef_prior=ms.priors.StudentT()"


@strict_options
class Profile:
    """Profiles of the parameters of a fit.

    Attributes
    ----------
    frame : DataFrame
        Columns ``parameter, value, zeta``: zeta is the signed square root of twice the difference in log-likelihood.
    estimates : Series
        Maximum-likelihood estimates, by row name.
    """

    def __init__(self, parameters, reach):
        self._parameters = {p.name: p for p in parameters}
        rows = [(p.name, *point) for p in parameters for point in trace(p, reach)]
        self.frame = pd.DataFrame(rows, columns=["parameter", "value", "zeta"])
        self.estimates = pd.Series({p.name: p.shown(p.estimate) for p in parameters})

    def conf_int(self, alpha=0.05):
        """Profile-likelihood intervals with coverage ``1 - alpha``, a DataFrame with columns 0 and 1."""
        return intervals(self._parameters.values(), alpha)

    def plot(self, params=None, ax=None, **options):
        """Plot the profiles; see `mvmise_sm.plots.profile`."""
        from mvmise_sm import plots

        return plots.profile(self, params, ax, **options)

    def __repr__(self):
        return f"<Profile of {', '.join(self._parameters)}>"


def intervals(parameters, alpha):
    """Profile-likelihood intervals of `ProfiledParameter` with coverage ``1 - alpha``, columns 0 and 1."""
    z = float(stats.norm.isf(0.5 * alpha))
    rows = {p.name: interval(p, z) for p in parameters}
    for p in parameters:
        if p.unbounded and np.isinf(rows[p.name]).any():
            warn(
                f"the profile of {p.name!r} never reaches the quantile, so that its interval is infinite: "
                f"{p.unbounded}",
                SeparationWarning,
            )
    return pd.DataFrame.from_dict(rows, orient="index", columns=[0, 1])


def profile(result, params=None, alpha=0.01, reml=False):
    """Trace the profiles; see `InferentialResults.profile`."""
    parameters, threads = _prepare(result, reml)
    with threads:
        return Profile(_chosen(parameters, params), float(stats.norm.isf(0.5 * alpha)))


def profile_intervals(result, alpha=0.05, reml=False, params=None):
    """Profile-likelihood intervals of all or the chosen parameters, a DataFrame with columns 0 and 1."""
    parameters, threads = _prepare(result, reml)
    with threads:
        return intervals(_chosen(parameters, params), alpha)


def _chosen(parameters, params):
    if params is None:
        return parameters
    names = [params] if isinstance(params, str) else list(params)
    known = {p.name: p for p in parameters}
    for name in names:
        if name not in known:
            raise OptionError(f"unknown parameter {name!r}; this fit has {', '.join(known)}")
    return [known[name] for name in names]


def _prepare(result, reml):
    """Parameters of the likelihood (variances: of the REML criterion if wanted), and the threads to use."""
    result = with_statistic(result)
    require_maximum(result, "profiles")
    fit = ml_fit(result)
    layout = fit.deviance_function().layout
    if reml and not fit.linear:
        raise OptionError("reml=True profiles the REML criterion, which only linear mixed models have")
    with blas_threads(layout.n_random):
        parameters = _linear_parameters(fit) if fit.linear else _general_parameters(fit)
        if reml:
            restricted = result if result.restricted else refitted(result, reml=True)
            fixed = [p for p in parameters if p.kind == "fixed"]
            parameters = fixed + [p for p in _linear_parameters(restricted) if p.kind != "fixed"]
    return parameters, blas_threads(layout.n_random)


def _linear_parameters(fit):
    criterion = fit.deviance_function()
    target = criterion.profile_target(_inner_maker(fit.priors, fit.restricted))
    x = target.start(fit.theta, fit.scale)
    minimum, _, information = target.evaluate(x)
    inverse = np.linalg.pinv(information, rcond=1e-10, hermitian=True)
    k = criterion.k_theta
    out = []
    for j, name in enumerate(fit.model.exog_names):
        unit = np.zeros(criterion.k_fe)
        unit[j] = 1.0
        se = float(np.sqrt(fit.scale * fit.solution.cov_beta[j, j]))
        solve = _held_solver(target, unit)
        out.append(ProfiledParameter(name, "fixed", solve, float(fit.params[j]), se, -np.inf, np.inf, float))
    out += _covariance_parameters(
        fit.model.random_layout,
        criterion.space.structures,
        criterion.layout.term_bases,
        target.evaluate,
        x,
        inverse,
        rho=k,
    )
    structure = fit.residual_structure()
    if structure is not None:
        out += _residual_parameters(structure, criterion.k_g, target.evaluate, x, inverse)
        return [replace(p, origin=x, minimum=minimum) for p in out]
    sigma = Coordinate(np.eye(k + 1)[k])
    if not _sigma_is_known(fit):
        se = float(np.sqrt(2.0 * inverse[k, k]))
        out.append(
            ProfiledParameter(
                "sigma",
                "sigma",
                _solver(target.evaluate, sigma),
                float(x[k]),
                se,
                -np.inf,
                np.inf,
                lambda rho: float(np.exp(0.5 * rho)),
            )
        )
    return _leaving_the_boundary(out, x, minimum, criterion.lower)


def _residual_parameters(structure, first, evaluate, x, inverse):
    """Reported parameters of the residual structure; its parameters are x[first:-1] and log sigma2 the last of x."""
    out, rho = [], len(x) - 1
    at = slice(first, rho)
    for i, p in enumerate(structure.parameters(x[at])):
        if p.kind != "sd":
            constraint = ReportedParameter(structure, i, (), None, at, rho)
            out.append(_line_parameter(parameter_label(p, "Residual"), p, constraint, evaluate, x, inverse))
            continue
        # the log of a standard deviation is linear or nearly so in the parameters, its value is not bounded by zero
        constraint = LogDeviation(structure, i, at, rho)
        value, gradient, _ = constraint(x)
        se = float(np.sqrt(2.0 * gradient @ inverse @ gradient))
        name = "sigma" if not p.levels else parameter_label(p, "Residual")
        solve = _solver(evaluate, constraint)
        out.append(ProfiledParameter(name, "sigma", solve, value, se, -np.inf, np.inf, lambda c: float(np.exp(c))))
    return out


def _general_parameters(fit):
    """The same for a generalized model, whose objective has theta (absolute), beta and the shape as parameters."""
    if fit.nagq == 0:
        raise OptionError("profiles need the likelihood in the fixed effects; fit with nagq=1 or more")
    criterion = fit.deviance_function()
    x = np.array(fit.optimum, dtype=float)

    def evaluate(at):
        here = criterion.evaluate(at)
        return here.value, here.gradient, here.information

    minimum = evaluate(x)[0]
    k, p = criterion.k_theta, criterion.k_fe
    # the largest change of the linear predictor per unit of a coefficient; about that in further parts
    sizes, exog = np.ones(p), fit.model.column_sizes()
    sizes[: exog.size] = np.where(exog > 0.0, exog, 1.0)
    infinite = np.zeros(p, dtype=bool) if fit.without_error is None else fit.without_error[:p]
    if infinite.any():
        rows = np.zeros((p, x.size))
        rows[:, k : k + p] = criterion.basis.a * sizes[:, None]
        x = pulled_back(evaluate, x, slice(k, k + p), rows[infinite])
    # the likelihood of separated data may have a saddle where the search ended, and one that begins there stays on it
    beside = below_saddle(criterion, x) if np.abs(x[:k]).max(initial=0.0) > _SEPARATES else None
    x = x if beside is None else x + _OFF_SADDLE * (beside - x)
    information = evaluate(x)[2]
    inverse = np.linalg.pinv(information, rcond=1e-12, hermitian=True)
    out = []
    for j, name in enumerate(fit.coef_names):
        weights = np.zeros(x.size)
        weights[k : k + p] = criterion.basis.a[j]
        se = float(np.sqrt(2.0 * weights @ inverse @ weights))
        solve, unit = _solver(evaluate, Coordinate(weights)), 1.0 / sizes[j]
        out.append(ProfiledParameter(name, "fixed", solve, float(weights @ x), se, unit=unit, unbounded=_SEPARATED))
    structures, bases = criterion.space.structures, criterion.layout.term_bases
    out += _covariance_parameters(fit.model.random_layout, structures, bases, evaluate, x, inverse, rho=None)
    first = x.size - criterion.k_shape
    for i, (name, value) in enumerate(fit.shape_profiles() if criterion.k_shape else (), first):
        weights = np.eye(x.size)[i]
        se = float(np.sqrt(2.0 * inverse[i, i]))
        least = float(criterion.lower[i])

        def shown(c, least=least, value=value):
            # the limit of the family stands for a parameter of zero
            return 0.0 if c <= least else value(c)

        solve = _solver(evaluate, Coordinate(weights))
        out.append(ProfiledParameter(name, name, solve, float(x[i]), se, least, np.inf, shown))
    return _leaving_the_boundary(out, x, minimum, criterion.lower[:k])


def _leaving_the_boundary(parameters, x, minimum, lower):
    """Parameters whose profiles also look for a minimum away from variances of zero."""
    bounded = np.flatnonzero(lower == 0.0)
    return [
        replace(p, solve=freed_from_zero(p.solve, bounded, zero=_AT_ZERO, away=_AWAY), origin=x, minimum=minimum)
        for p in parameters
    ]


def _sigma_is_known(fit):
    return fit.priors is not None and fit.priors.resid is not None and fit.priors.resid.fixed is not None


def _inner_maker(priors, reml):
    if priors is None:
        return None
    from mvmise_sm.priors.inner_problem import PenalisedInnerProblem

    return lambda nobs, k_fe, a, b0: PenalisedInnerProblem(priors, nobs, k_fe, reml, 0.0, a, b0)


def _solver(evaluate, constraint):
    return lambda c, start: constrained_minimum(evaluate, constraint, c, start)


def _held_solver(target, contrast):
    """Minimum with a fixed effect held, where the parameters that are left are free."""

    def solve(c, start):
        held = target.hold(contrast, c)
        x, value = free_minimum(held.evaluate, start)
        return ConstrainedPoint(c, x, value, held.held_slope(x), np.zeros_like(x), True)

    return solve


def _covariance_parameters(layout, structures, bases, evaluate, x, inverse, rho):
    """Standard deviations and correlations of all terms, in the order of the variance table."""
    out = []
    for term, structure, basis, at in zip(layout.terms, structures, bases, layout.theta_slices, strict=True):
        rows = None
        if structure.linear:
            tangents = basis.a @ structure.tangents(x[at])
            rows = [tangents[:, a].T for a in range(term.q)]
        for i, p in enumerate(structure.parameters(x[at], term.names, basis.a)):
            name = parameter_label(p, term.factor.name)
            constraint = _constraint(structure, i, p, term.names, basis.a, at, rho, rows)
            if p.kind == "sd":
                value, gradient, _ = constraint(x)
                form = _sd_form(structure, x[at], i, basis.a) if rows is None else constraint.form
                out.append(_sd_parameter(name, constraint, form, evaluate, x, value, gradient, inverse))
            else:
                out.append(_line_parameter(name, p, constraint, evaluate, x, inverse))
    return out


def _constraint(structure, i, p, names, a, at, rho, rows):
    """A reported parameter as a function of x, with exact second derivatives where Lambda is linear."""
    if rows is None or (p.kind != "sd" and len(p.levels) == 1):
        return ReportedParameter(structure, i, names, a, at, rho)
    if p.kind == "sd":
        return StandardDeviation(rows[i], at, rho)
    first, second = (list(names).index(level) for level in p.levels) if p.levels else (0, 1)
    return Correlation(rows[first], rows[second], at)


def _sd_form(structure, theta, i, a):
    """Diagonal quadratic form whose entries say which elements of theta scale standard deviation `i`."""
    scale = np.zeros(theta.size)
    scale[i] = a[i, i] ** 2
    return np.diag(scale)


def _sd_parameter(name, constraint, form, evaluate, x, value, gradient, inverse):
    se = float(np.sqrt(2.0 * gradient @ inverse @ gradient))
    at, diagonal = constraint.at, np.diag(form)
    size = float(np.sqrt(max(diagonal.max(), 1e-300)))
    if constraint.rho is not None:
        size *= float(np.exp(0.5 * x[constraint.rho]))
    if value < 1e-4 * size:
        value, se = 0.0, 0.2 * size

    def solve(c, start):
        start = np.array(start)
        now = constraint(start)[0]
        # near zero the constraint has no slope: put the start where it holds
        if now < 0.2 * c or now > 5.0 * c:
            part = start[at]
            if now < 1e-6 * size:
                part = part + (diagonal > 0.0) * np.sqrt(1.0 / max(diagonal.max(), 1e-300)) * 1e-3
                start[at] = part
                now = constraint(start)[0]
            start[at] = part * (c / now)
        return constrained_minimum(evaluate, constraint, c, start)

    return ProfiledParameter(name, "sd", solve, value, se, 0.0, np.inf, float)


# a correlation whose inverse hyperbolic tangent is beyond this is one
_LIMIT = 7.0


def _line_parameter(name, parameter, constraint, evaluate, x, inverse):
    """A correlation, range or share, profiled on the real line."""
    value, gradient, _ = constraint(x)
    se = float(np.sqrt(2.0 * gradient @ inverse @ gradient))
    if np.isnan(parameter.value):
        value = np.nan
    if parameter.kind != "cor":
        kind = parameter.kind
        se = se if se > 0.0 else 1.0
        return ProfiledParameter(
            name, "own", _solver(evaluate, constraint), value, se, -np.inf, np.inf, lambda c: from_line(kind, c)
        )
    lower = -_LIMIT if parameter.least <= -1.0 else float(np.arctanh(parameter.least))
    if not np.isnan(value):
        value = float(np.clip(value, max(lower, -_LIMIT), _LIMIT))
        se = 1.0 if abs(value) >= _LIMIT else se
    se = min(max(se, 1e-3), 2.0)

    def shown(c):
        return float(np.sign(c)) if abs(c) >= _LIMIT else float(np.tanh(c))

    return ProfiledParameter(name, "cor", _solver(evaluate, constraint), value, se, lower, _LIMIT, shown)
