"""Diagnostics: collinearity, dispersion, zeros, simulated residuals, weak identification, agreement of optimisers."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.tools.rng_qrng import check_random_state

from mvmise_sm.core.newton import METHODS
from mvmise_sm.exceptions import OptionError
from mvmise_sm.inference.anova import fit_options, plain, quietly
from mvmise_sm.inference.resampling import parameter_names, parameters_of
from mvmise_sm.inference.tables import table

__all__ = ["Findings", "all_fit", "check", "overdispersion", "simulated_residuals", "vif", "zero_inflation"]

_FEW_LEVELS = 5
_WEAK = 0.5
_COLLINEAR = 10.0
_OUTLYING = 4.5
_PERFECT = 1.0 - 1e-4


def vif(result):
    """Generalized variance inflation factors (Fox and Monette 1992) of the terms.

    Returns
    -------
    DataFrame
        ``gvif, df, per_df`` by term, ``per_df = gvif ** (1 / (2 df))``; by column for models without a formula.
    """
    result = plain(result)
    names = list(result.model.exog_names)
    cov = np.asarray(result.cov_params())
    design = getattr(result.model.data, "design", None)
    if design is None:
        constant = result.model.data.const_idx
        blocks = {name: [j] for j, name in enumerate(names) if j != constant}
    else:
        spec = design.model_spec
        blocks = {t.name(): list(np.arange(len(names))[spec.term_slices[t]]) for t in spec.terms if t.factors}
    chosen = [j for block in blocks.values() for j in block]
    sd = np.sqrt(np.diag(cov)[chosen])
    corr = pd.DataFrame(cov[np.ix_(chosen, chosen)] / np.outer(sd, sd), index=chosen, columns=chosen)
    whole = np.linalg.slogdet(corr.to_numpy())[1]
    rows = {}
    for name, block in blocks.items():
        rest = [j for j in chosen if j not in block]
        inside = np.linalg.slogdet(corr.loc[block, block].to_numpy())[1]
        outside = np.linalg.slogdet(corr.loc[rest, rest].to_numpy())[1] if rest else 0.0
        gvif = float(np.exp(inside + outside - whole))
        rows[name] = (gvif, len(block), gvif ** (0.5 / len(block)))
    return pd.DataFrame.from_dict(rows, orient="index", columns=["gvif", "df", "per_df"])


def overdispersion(result):
    """Refuse: a residual variance that is estimated cannot be too large; generalized models have their own method."""
    raise OptionError("a linear mixed model estimates its residual variance; overdispersion concerns counts and proportions")


def zero_inflation(result, n=250, rng=None):
    """Compare the number of zeros with that in simulated responses.

    Returns
    -------
    Series
        ``observed``, ``expected`` (mean of the simulations), ``ratio`` and a two-sided Monte-Carlo ``p_value``.

    Raises
    ------
    OptionError
        If the response is continuous.
    """
    result = plain(result)
    y = np.asarray(result.model.endog)
    if getattr(result, "reml", None) is not None or result._k_scale:
        raise OptionError("zeros have probability nought in a continuous response; zero_inflation concerns counts")
    zeros = (result.simulate(n, rng=rng).to_numpy() == 0.0).sum(axis=0)
    observed = int((y == 0.0).sum())
    tail = min((zeros >= observed).sum(), (zeros <= observed).sum())
    return pd.Series(
        {
            "observed": observed,
            "expected": float(zeros.mean()),
            "ratio": observed / zeros.mean() if zeros.any() else np.nan,
            "p_value": min(1.0, 2.0 * (tail + 1.0) / (n + 1.0)),
        }
    )


def simulated_residuals(result, n=250, rng=None, random="new"):
    """Quantile of every response in its simulated distribution, ties broken at random.

    Parameters
    ----------
    result : MixedModelResults
    n : int, optional
        Simulations.
    rng : int, array_like of int, numpy.random.Generator, or numpy.random.RandomState, optional
    random : {"new", "conditional"}, optional
        New random effects in every simulation, or those of the fit.

    Returns
    -------
    ndarray or Series
        (nobs,), uniform on (0, 1) if the model holds.

    References
    ----------
    Dunn and Smyth (1996). Randomized quantile residuals. Journal of Computational and Graphical Statistics 5.
    """
    result = plain(result)
    rng = check_random_state(rng)
    draws = result.simulate(n, rng=rng, random=random).to_numpy()
    y = np.asarray(result.model.endog)[:, None]
    below, equal = (draws < y).sum(axis=1), (draws == y).sum(axis=1)
    values = (below + rng.uniform(size=result.nobs) * (equal + 1.0)) / (n + 1.0)
    labels = result.model.data.row_labels
    return values if labels is None else pd.Series(values, index=labels)


class Findings(tuple):
    """Sentences about a fit; prints one per line."""

    __slots__ = ()

    def __repr__(self):
        return "\n".join(f"- {sentence}" for sentence in self)

    __str__ = __repr__


def check(result):
    """What is singular, weakly identified or doubtful, and what to try.

    Returns
    -------
    Findings
        A tuple of sentences.
    """
    result = plain(result)
    found = [*_convergence(result), *_singular(result), *_weak(result), *_columns(result), *_rows(result)]
    if not found:
        found = ["Nothing found: the fit is a regular optimum, its variances are identified, and no row stands out."]
    return Findings(found)


def _convergence(result):
    if not result.converged:
        yield (
            f"The optimiser did not converge ({result.message}): compare optimisers with all_fit(), centre or rescale numeric "
            "variables, or simplify the random effects."
        )


def _singular(result):
    layout = result.model.random_layout
    for term, lam in zip(layout.terms, layout.lambdas(result.theta), strict=True):
        text = term.text or f"({', '.join(term.names)} | {term.factor.name})"
        cov = lam @ lam.T
        sd = np.sqrt(cov.diagonal())
        floor = 1e-4 * max(1.0, float(sd.max()))
        for name, value in zip(term.names, sd, strict=True):
            if value < floor:
                yield (
                    f"The variance of {name} in {text} is estimated as zero: the data do not call for it; leave it out, or keep "
                    "it away from zero with a prior (cov_prior='wishart')."
                )
        kept = np.flatnonzero(sd >= floor)
        if len(kept) < 2 or term.structure.invariance != "linear":
            continue
        corr = cov[np.ix_(kept, kept)] / np.outer(sd[kept], sd[kept])
        pairs = [(i, j) for i in range(len(kept)) for j in range(i + 1, len(kept)) if abs(corr[i, j]) > _PERFECT]
        for i, j in pairs:
            yield (
                f"The correlation of {term.names[kept[i]]} and {term.names[kept[j]]} in {text} is estimated as "
                f"{'1' if corr[i, j] > 0 else '-1'}: the term is richer than the data; try independent effects with '||', or a "
                "prior (cov_prior='wishart')."
            )
        if not pairs and np.linalg.eigvalsh(corr)[0] < 1e-6:
            yield (
                f"The covariance matrix of {text} has not full rank: fewer dimensions vary than it has columns; leave a column "
                "out, or use a prior (cov_prior='wishart')."
            )


def _weak(result):
    layout = result.model.random_layout
    for factor in layout.factors:
        if factor.n_levels < _FEW_LEVELS:
            yield (
                f"{factor.name} has only {factor.n_levels} levels, which say little about a variance: consider it as a fixed "
                "effect, or give its variance a prior."
            )
    if getattr(result, "reml", None) is None:
        return
    for name, share in _relative_errors(result).items():
        if share > _WEAK:
            yield (
                f"{name} is weakly identified: its standard error is {100.0 * share:.0f}% of the estimate; look at "
                "profile() before interpreting it."
            )


def _relative_errors(result):
    """Standard error over estimate of every standard deviation that is not zero."""
    from mvmise_sm.core.constrained import StandardDeviation
    from mvmise_sm.inference.ddf import second_order_of

    criterion = result._deviance_function()
    cov = second_order_of(result).cov
    x = np.append(criterion.working_theta(result.theta), np.log(result.scale))
    space, layout = criterion._space, result.model.random_layout
    out = {}
    bases = criterion._layout.term_bases
    for term, structure, basis, at in zip(layout.terms, space.structures, bases, layout.theta_slices, strict=True):
        tangents = basis.a @ structure.tangents(x[at])
        for a, name in enumerate(term.names):
            value, gradient, _ = StandardDeviation(tangents[:, a].T, at, len(x) - 1)(x)
            if value > 1e-4 * np.sqrt(result.scale):
                out[f"sd_{name}|{term.factor.name}"] = float(np.sqrt(max(gradient @ cov @ gradient, 0.0)) / value)
    return out


def _columns(result):
    if result.dropped:
        yield f"The columns {', '.join(result.dropped)} are combinations of others and were dropped."
    if result.k_fe > 1:
        inflated = vif(result)
        for name, value in inflated["per_df"].items():
            if value**2 > _COLLINEAR and ":" not in str(name):
                yield (
                    f"{name} is nearly a combination of the other fixed effects (variance inflation {value**2:.1f}): its "
                    "coefficient is imprecise; centre variables that interact, or drop one."
                )


def _rows(result):
    if result.model.endog is None:
        return
    if getattr(result, "reml", None) is not None:
        scaled = np.abs(np.asarray(result.resid_pearson)) / np.sqrt(result.scale)
        count = int((scaled > _OUTLYING).sum())
        if count:
            rows = "row has a residual" if count == 1 else "rows have residuals"
            yield f"{count} {rows} beyond {_OUTLYING} standard deviations: see plot_diagnostics() and get_influence()."
    elif not result._k_scale and not result._estimates_alpha:
        found = result.overdispersion()
        if found["p_value"] < 0.01 and found["ratio"] > 1.2:
            yield (
                f"The residuals are larger than the family allows (dispersion {found['ratio']:.2f}): try a negative binomial "
                "model, or a random effect with one level per row."
            )


def all_fit(result, methods=None):
    """Refit with every optimiser.

    Parameters
    ----------
    result : MixedModelResults
    methods : list of str, optional
        Names of optimisers; one of each kind by default.

    Returns
    -------
    DataFrame
        One row per optimiser: ``objective``, ``above_best``, ``converged``, ``singular``, ``n_evaluations``, ``seconds`` and all
        parameters.
    """
    result = plain(result)
    methods = ["newton", "lbfgs", "tnc", "slsqp", "nm", "powell", "bobyqa"] if methods is None else list(methods)
    unknown = [m for m in methods if m not in METHODS]
    if unknown:
        raise OptionError(f"unknown optimiser {unknown[0]!r}; allowed are {', '.join(sorted(METHODS))}")
    options = {k: v for k, v in fit_options(result).items() if k not in ("method", "maxiter", "tol")}
    if "reml" in result.mle_settings:
        options["reml"] = result.mle_settings["reml"]
    rows = {}
    for method in methods:
        begin = time.perf_counter()
        fit = plain(quietly(result.model.fit, method=method, maxiter=1000, **options))
        rows[method] = {
            "objective": fit.criterion + fit.penalty,
            "above_best": np.nan,
            "converged": fit.converged,
            "singular": fit.singular,
            "n_evaluations": fit.mle_retvals["n_evaluations"],
            "seconds": time.perf_counter() - begin,
            **dict(zip(parameter_names(fit), parameters_of(fit), strict=True)),
        }
    frame = pd.DataFrame.from_dict(rows, orient="index")
    frame["above_best"] = frame["objective"] - frame["objective"].min()
    spread = float(frame["above_best"].max())
    return table(frame, f"The optimisers' objectives differ by at most {spread:.2g}.")
