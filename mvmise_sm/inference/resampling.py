"""Simulated and resampled data, refits to them, and seeds that do not depend on the number of processes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from statsmodels.tools.rng_qrng import check_random_state

from mvmise_sm.core.covariance.random_effects import GroupingFactor, RandomEffects
from mvmise_sm.core.covariance.reported import parameter_label
from mvmise_sm.core.criteria.batched import BatchDesign, supports
from mvmise_sm.core.optimise.batched import fit_batch
from mvmise_sm.core.optimise.newton import minimize
from mvmise_sm.core.optimise.second_start import with_second_start
from mvmise_sm.core.threads import blas_threads
from mvmise_sm.exceptions import OptionError
from mvmise_sm.inference.fits import fit_options, quietly, unwrap

__all__ = ["all_parameters", "generators", "likelihood_ratios", "parameter_names", "refits", "resampled_fit"]

# the Monte-Carlo error of any statistic is larger by orders of magnitude than what this leaves open
_TOLERANCE = 1e-5
_WORTH_BATCH = 16
_BATCH_ROWS, _BATCH_EFFECTS = 100_000, 4_000


def generators(rng, n):
    """Independent generators, one per resample: the i-th does not depend on how the work is split."""
    rng = check_random_state(rng)
    draw = rng.integers if hasattr(rng, "integers") else rng.randint
    entropy = [int(draw(0, 2**31 - 1)) for _ in range(4)]
    return [np.random.default_rng(seed) for seed in np.random.SeedSequence(entropy).spawn(n)]


def parameter_names(result):
    """Names of all parameters, as `InferentialResults.conf_int` has them."""
    names = list(result.coef_names)
    for term in result.model.random_layout.terms:
        found = term.structure.parameters(term.structure.start(np.ones(term.q)), term.names)
        names += [parameter_label(p, term.factor.name) for p in found]
    structure = result.residual_structure()
    if structure is not None:
        names += [_residual_label(p) for p in structure.parameters(structure.start())]
    elif result.k_scale:
        names.append("sigma")
    return [*names, *result.family_parameters()]


def _residual_label(parameter):
    """Row name of a parameter of the residual structure; one variance for all is sigma's, as in other models."""
    return "sigma" if parameter.kind == "sd" and not parameter.levels else parameter_label(parameter, "Residual")


def all_parameters(random, beta, theta, sigma2, has_sigma, residual=None):
    """The values that go with `parameter_names`; correlations are NaN where a standard deviation is 0."""
    out = list(beta)
    for term, at in zip(random.terms, random.theta_slices, strict=True):
        for p in term.structure.parameters(theta[at], term.names):
            out.append(p.value * float(np.sqrt(sigma2)) if p.kind == "sd" else p.value)
    if residual is not None:
        for p in residual.parameters(theta[random.k_theta :]):
            out.append(p.value * float(np.sqrt(sigma2)) if p.kind == "sd" else p.value)
    elif has_sigma:
        out.append(float(np.sqrt(sigma2)))
    return np.array(out)


def parameters_of(result):
    """`all_parameters` of a result."""
    result = unwrap(result)
    layout = result.model.random_layout
    structure = result.residual_structure()
    values = all_parameters(layout, result.params, result.theta, result.scale, bool(result.k_scale), structure)
    return np.append(values, list(result.family_parameters().values()))


# objectives of two minima differ by more than rounding
_OTHER_MINIMUM = 1e-9


class ParametricRefit:
    """Simulate a response from a fit and refit: callable with a generator.

    Parameters
    ----------
    result : MixedModelResults
    statistic : callable or None
        Of a result; all parameters where None, without making a result where that is possible.
    """

    def __init__(self, result, statistic=None):
        self.result = unwrap(result)
        self.statistic = statistic
        self.quick = statistic is None and self.result.profiled
        self.restarted, self.n_restarted = False, 0

    def __call__(self, rng):
        result = self.result
        if not self.quick:
            fit = quietly(result.refit, result.response_draw(rng))
            self.restarted = bool(fit.mle_retvals.get("second_start", False))
            return as_vector(unwrap(fit).parameter_values() if self.statistic is None else self.statistic(fit))
        return self._refit(self._response(rng))

    def _refit(self, y):
        """All parameters at a response (nobs,)."""
        result = self.result
        criterion = result.deviance_function().refitted(y)
        with blas_threads(criterion.layout.n_random):
            optimum = with_second_start(
                criterion,
                self._start,
                lambda start: minimize(criterion) if start is None else minimize(criterion, start, tol=_TOLERANCE),
            )
            self.restarted = optimum.retvals["second_start"]
            inner = criterion.eliminated(optimum.working)[1]
        beta = criterion.basis.a @ inner.beta + criterion.origin
        structure = result.residual_structure()
        return all_parameters(result.model.random_layout, beta, optimum.theta, inner.sigma2, True, structure)

    def batch(self, streams):
        """All refits at once, a list of vectors; None where the model does not allow it."""
        if not self.quick:
            return None
        criterion = self.result.deviance_function()
        small = self.result.nobs <= _BATCH_ROWS and criterion.layout.n_random <= _BATCH_EFFECTS
        if not supports(criterion) or not small or len(streams) < _WORTH_BATCH:
            return None
        model = self.result.model
        width = BatchDesign(np.asarray(model.exog), model.random_effects, self.result.reml).width()
        return [
            row
            for lo in range(0, len(streams), width)
            for row in self._batch([self._response(stream) for stream in streams[lo : lo + width]])
        ]

    def _batch(self, responses):
        """Parameters at each of some responses."""
        criterion = self.result.deviance_function()
        responses = np.column_stack(responses)
        if self.result.model.offset is not None:
            fixed = responses - self.result.model.offset[:, None]
        else:
            fixed = responses
        model = self.result.model
        design = BatchDesign(np.asarray(model.exog), model.random_effects, self.result.reml, model.weights)
        with blas_threads(criterion.layout.n_random):
            fit = fit_batch(design, fixed, start=design.working_theta(np.asarray(self.result.theta)))
            theta, beta, sigma2 = fit.user_theta, fit.beta, fit.at.sigma2
            again = np.flatnonzero(fit.converged & fit.singular)
            if again.size:
                # a warm start on the boundary stays there: these also start where their own moments are
                other = fit_batch(design, fixed[:, again])
                lower = other.converged & (other.at.value < fit.at.value[again] - _OTHER_MINIMUM)
                taken = again[lower]
                theta[taken], beta[taken] = other.user_theta[lower], other.beta[lower]
                sigma2[taken] = other.at.sigma2[lower]
                self.n_restarted += int(again.size)
        random = model.random_layout
        rows = []
        for i, found in enumerate(fit.converged):
            if found:
                rows.append(all_parameters(random, beta[i], theta[i], sigma2[i], True))
            else:
                rows.append(self._refit_or_none(responses[:, i]))
        return rows

    def _refit_or_none(self, y):
        try:
            return self._refit(y)
        except (np.linalg.LinAlgError, ValueError, FloatingPointError):
            return None

    @property
    def _start(self):
        if not hasattr(self, "_working"):
            self._working = self.result.deviance_function().working_theta(self.result.theta)
        return self._working

    def _response(self, rng):
        """A response of a linear mixed model (nobs,)."""
        result = self.result
        model = result.model
        sigma = np.sqrt(result.scale)
        if not hasattr(self, "_mean"):
            mean = model.exog @ result.params
            self._lambdas = model.random_layout.lambdas(result.theta)
            # last, because other threads take it for a sign that all is there
            self._mean = mean if model.offset is None else mean + model.offset
        terms = model.random_effects.terms
        b = [sigma * t.factor.draw(rng, t.q) @ lam.T for t, lam in zip(terms, self._lambdas, strict=True)]
        return self._mean + model.random_effects.linear(b) + result.residual_noise(rng)


class GroupRefit:
    """Resample the levels of a grouping factor with all their rows and refit: callable with a generator.

    Parameters
    ----------
    result : MixedModelResults
    by : str
        Grouping factor.
    statistic : callable or None
    """

    def __init__(self, result, by, statistic=None):
        self.result = unwrap(result)
        self.restarted, self.n_restarted = False, 0
        self.statistic = statistic
        self.factor = self.result.grouping(by)
        order = np.argsort(self.factor.codes, kind="stable")
        stops = np.searchsorted(self.factor.codes[order], np.arange(self.factor.n_levels + 1))
        self.rows = np.split(order, stops[1:-1])

    def __call__(self, rng):
        drawn = rng.integers(0, self.factor.n_levels, self.factor.n_levels)
        fit = resampled_fit(self.result, self.factor, self.rows, drawn)
        return as_vector(_padded(self.result, fit) if self.statistic is None else self.statistic(fit))


def resampled_fit(result, factor, rows, drawn):
    """Refit to the rows of the drawn levels; every draw counts as a level of its own.

    Parameters
    ----------
    result : MixedModelResults
    factor : GroupingFactor
    rows : list of ndarray
        Rows of every level.
    drawn : ndarray
        Levels, with repetition.
    """
    taken = np.concatenate([rows[j] for j in drawn])
    copies = np.repeat(np.arange(len(drawn)), [len(rows[j]) for j in drawn])
    return result.fit_to_rows(factor, taken, copies)


def fit_to_rows(result, factor, taken, copies):
    """Refit a mixed model to some rows; see `MixedModelResults.fit_to_rows`."""
    model = result.model
    keywords = model._get_init_kwds()
    keywords["random_effects"] = _taken_effects(model.random_effects, factor, taken, copies)
    term = result.residual_term()
    if term is not None:
        # copies of a level are different levels, and so are the subjects inside them
        subjects = copies * (int(term.rows.subjects.max()) + 1) + term.rows.subjects[taken]
        keywords["residual"] = term.on_rows(taken, np.unique(subjects, return_inverse=True)[1].ravel())
    for name in ("weights", "offset"):
        if keywords.get(name) is not None:
            keywords[name] = np.asarray(keywords[name])[taken]
    options = fit_options(result)
    import pandas as pd

    exog = pd.DataFrame(np.asarray(model.exog)[taken], columns=model.exog_names)
    endog = np.asarray(model.endog)[taken]
    return quietly(quietly(type(model), endog, exog, missing="none", **keywords).fit, **options)


def _taken_effects(random, factor, taken, copies):
    factors = {}
    for f in random.factors:
        codes = f.codes[taken]
        if _nested(f.codes, factor.codes):
            # copies of a level are different levels, and so is all that lies inside them
            codes = copies * f.n_levels + codes
        levels, codes = np.unique(codes, return_inverse=True)
        factors[id(f)] = GroupingFactor(f.name, codes.ravel(), np.arange(len(levels)))
    terms = [
        replace(t, factor=factors[id(t.factor)], columns=tuple(None if c is None else c[taken] for c in t.columns))
        for t in random.terms
    ]
    return RandomEffects(terms, len(taken))


def _nested(inner, outer):
    pairs = len(np.unique(inner.astype(np.int64) * (int(outer.max()) + 1) + outer))
    return pairs == len(np.unique(inner))


def _padded(result, fit):
    """All parameters of `fit`, NaN for fixed effects that the resample could not estimate."""
    values = unwrap(fit).parameter_values()
    return values.reindex(result.parameter_values().index).to_numpy()


def as_vector(value):
    """What a statistic returned as a float vector."""
    return np.atleast_1d(np.asarray(value, dtype=float)).ravel()


class RatioRefit:
    """Likelihood ratio of two models at a response simulated from the smaller."""

    def __init__(self, small, large):
        self.small, self.large = small, large
        self.restarted, self.n_restarted = False, 0

    def __call__(self, rng):
        y = self.small.response_draw(rng)
        large, small = quietly(self.large.refit, y), quietly(self.small.refit, y)
        self.restarted = any(fit.mle_retvals.get("second_start", False) for fit in (large, small))
        return as_vector(2.0 * (large.llf - small.llf))


def likelihood_ratios(small, large, n, rng, n_jobs, progress):
    """Likelihood ratios under the smaller model (n,), failed refits left out, and how many needed a second start."""
    task = RatioRefit(small, large)
    values = refits(task, n, rng, n_jobs, progress)[:, 0]
    return values[np.isfinite(values)], task.n_restarted


def refits(task, n, rng, n_jobs=1, progress=False):
    """Run a task with `n` generators.

    Parameters
    ----------
    task : callable
        Generator -> vector.
    n : int
    rng : int, array_like of int, numpy.random.Generator, or numpy.random.RandomState, optional
    n_jobs : int, optional
    progress : bool, optional

    Returns
    -------
    ndarray
        (n, k); rows of failed refits are NaN.
    """
    if n < 1:
        raise OptionError(f"the number of resamples must be positive, got {n}")
    from tqdm import tqdm

    streams = generators(rng, n)
    rows = task.batch(streams) if hasattr(task, "batch") else None
    if rows is not None:
        return _stacked(rows)
    if n_jobs == 1:
        rows = [_attempt(task, stream) for stream in tqdm(streams, disable=not progress)]
    else:
        from joblib import Parallel, delayed

        pieces = np.array_split(np.arange(n), min(n, 8 * max(abs(n_jobs), 1)))
        work = (delayed(_attempts)(task, [streams[i] for i in piece]) for piece in pieces)
        done = Parallel(n_jobs=n_jobs, return_as="generator")(work)
        rows = [row for piece in tqdm(done, total=len(pieces), disable=not progress) for row in piece]
    task.n_restarted = sum(restarted for _, restarted in rows)
    return _stacked([row for row, _ in rows])


def _stacked(rows):
    """Rows as an array; failed ones are NaN."""
    width = max((len(row) for row in rows if row is not None), default=1)
    out = np.full((len(rows), width), np.nan)
    for i, row in enumerate(rows):
        if row is not None:
            out[i] = row
    return out


def _attempts(task, streams):
    return [_attempt(task, stream) for stream in streams]


def _attempt(task, stream):
    """What the task gave, None where it failed, and whether it needed a second start."""
    task.restarted = False
    try:
        return task(stream), task.restarted
    except (np.linalg.LinAlgError, ValueError, FloatingPointError):
        return None, False
