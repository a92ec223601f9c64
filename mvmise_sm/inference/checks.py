"""Diagnostics: collinearity, dispersion, zeros, simulated residuals, agreement of optimisers."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
from statsmodels.tools.rng_qrng import check_random_state

from mvmise_sm.core.optimise.newton import METHODS
from mvmise_sm.exceptions import OptionError
from mvmise_sm.inference.fits import fit_options, quietly, unwrap, with_rows
from mvmise_sm.inference.resampling import parameter_names, parameters_of
from mvmise_sm.inference.tables import table

__all__ = ["all_fit", "simulated_residuals", "vif", "zero_inflation"]


def vif(result):
    """Generalized variance inflation factors (Fox and Monette 1992) of the terms.

    Returns
    -------
    DataFrame
        ``gvif, df, per_df`` by term, ``per_df = gvif ** (1 / (2 df))``; by column for models without a formula.
    """
    result = unwrap(result)
    cov = result.plain_cov()
    blocks = result.term_columns()
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
    result = with_rows(result)
    y = np.asarray(result.model.endog)
    if result.linear or result.k_scale:
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
    result = with_rows(result)
    rng = check_random_state(rng)
    draws = result.simulate(n, rng=rng, random=random).to_numpy()
    y = np.asarray(result.model.endog)[:, None]
    below, equal = (draws < y).sum(axis=1), (draws == y).sum(axis=1)
    values = (below + rng.uniform(size=result.nobs) * (equal + 1.0)) / (n + 1.0)
    labels = result.model.data.row_labels
    return values if labels is None else pd.Series(values, index=labels)


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
        One row per optimiser: ``objective``, ``above_best``, ``converged``, ``singular``, ``n_evaluations``,
        ``seconds`` and all parameters.
    """
    result = with_rows(result)
    methods = ["newton", "lbfgs", "tnc", "slsqp", "nm", "powell", "bobyqa"] if methods is None else list(methods)
    unknown = [m for m in methods if m not in METHODS]
    if unknown:
        raise OptionError(f"unknown optimiser {unknown[0]!r}; allowed are {', '.join(sorted(METHODS))}")
    options = {k: v for k, v in fit_options(result).items() if k not in ("method", "maxiter", "tol")}
    rows = {}
    for method in methods:
        begin = time.perf_counter()
        fit = unwrap(quietly(result.model.fit, method=method, maxiter=1000, **options))
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
