"""Permutation tests of a fitted selection model."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd

from mvmise_sm.exceptions import DataError, OptionError
from mvmise_sm.option_values import short
from mvmise_sm.options import strict
from mvmise_sm.selection.build import ModelSpec
from mvmise_sm.selection.covariance import SparsePrecision
from mvmise_sm.selection.data import SelectionData
from mvmise_sm.selection.objective import PenalisedObjective
from mvmise_sm.selection.permutation import (
    between_clusters,
    cluster_permutation,
    permutation_pvalues,
    permuted_design,
    permuted_fit,
    row_permutation,
    wald_statistics,
)
from mvmise_sm.selection.sparse import OrthantObjective, error_spread

__all__ = ["permutation_test"]

CHUNK = 8


@dataclass(frozen=True)
class Reproduction:
    """One permutation with R's algorithm: design in, Wald statistics out."""

    spec: ModelSpec
    data: SelectionData
    columns: np.ndarray
    missing_y: bool | None
    penalty: float
    options: tuple

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        permuted = permuted_design(self.data, self.columns, rows)
        fit, _ = self.spec.variant.reproduce(permuted, self.missing_y, self.penalty, **dict(self.options))
        return (fit.params.beta / np.sqrt(np.diag(fit.cov_beta)))[self.columns]


def sparse_objective(spec: ModelSpec, sign: np.ndarray, bound: np.ndarray, data: SelectionData) -> OrthantObjective:
    """The lasso objective with the sparsity pattern of the fit."""
    likelihood = spec.error_likelihood(data, SparsePrecision(sign != 0.0))
    return OrthantObjective(likelihood, spec.penalties, sign=sign, bound=bound)


@strict
def permutation_test(
    result, terms=None, n=999, rng=None, n_jobs=1, within=None, mvmise_compat=False, progress=False
) -> pd.DataFrame:
    """Test fixed effects of a selection model by permutation; also a method of its results.

    Parameters
    ----------
    result : SelectionResults
    terms, n, rng, n_jobs, within, mvmise_compat, progress : optional
        As in `SelectionResults.permutation_test`.

    Returns
    -------
    DataFrame
        Indexed by fixed effect, columns ``estimate, statistic, p_value, n_permutations, n_failed``.
    """
    if not hasattr(result, "_outcome"):
        raise OptionError(f"permutation_test takes the result of a selection model, got {type(result).__name__}")
    if result._outcome is None:
        raise OptionError("the data of this result were removed")
    if int(n) < 1:
        raise OptionError(f"n must be a positive number of permutations, got {n!r}")
    if result._outcome.reproduction is None:
        from mvmise_sm.inference.fits import require_maximum

        require_maximum(result, "permutation tests")
    data = result.model.design.data
    columns = tested_columns(result, terms)
    job, observed = _job(result, columns)
    generator = np.random.default_rng(rng)
    strata = _strata(result, within)
    permutations = [row_permutation(data, generator, strata) for _ in range(int(n))]
    if strata is None and not mvmise_compat and between_clusters(data, columns).any():
        # exchangeable under the hypothesis are the clusters, not their samples
        permutations = [np.stack([rows, cluster_permutation(data, generator)]) for rows in permutations]
    values = _run(job, permutations, n_jobs, progress)
    frame = pd.DataFrame(
        {
            "estimate": np.asarray(result.params)[columns],
            "statistic": observed,
            "p_value": permutation_pvalues(observed, values, mvmise_compat=mvmise_compat),
            "n_permutations": len(values),
            "n_failed": int(np.isnan(values).any(axis=1).sum()),
        },
        index=[result.model.exog_names[j] for j in columns],
    )
    return frame


def tested_columns(result, terms) -> np.ndarray:
    """Positions of the fixed effects to test."""
    names, known = list(result.model.exog_names), result.model.design.terms
    if terms is None:
        X = result.model.design.data.X
        # a permutation of samples does not move an effect that is the same in all of them
        varies = [j for j in range(len(names)) if np.ptp(X[:, :, j], axis=0).max() > 0]
        if not varies:
            raise OptionError("there is no fixed effect that varies between samples")
        return np.array(varies)
    if not isinstance(terms, Iterable):
        raise OptionError(f"terms must be a name or a list of names of fixed effects, got {terms!r}; the number is n=")
    columns: list[int] = []
    chosen = [terms] if isinstance(terms, str) else terms
    if not isinstance(chosen, (list, tuple, pd.Index, np.ndarray)) or np.ndim(chosen) != 1 or not len(chosen):
        raise OptionError(f"terms must be a fixed effect or a list of them, got {short(terms)}")
    for term in chosen:
        if term in known:
            columns += known[term]
        elif term in names:
            columns.append(names.index(term))
        else:
            raise OptionError(f"terms names {term!r}, which is not a fixed effect; allowed are {names}")
    return np.array(sorted(set(columns)))


def _job(result, columns):
    """The refit as a function of the permuted rows, and the observed statistics."""
    model, outcome = result.model, result._outcome
    data, spec = model.design.data, model.spec
    if outcome.reproduction is not None:
        options = {
            "first_sample_variance": spec.first_sample_variance,
            "maxiter": result.mle_settings["maxiter"] or 100,
            "tol": 1e-3 if result.mle_settings["tol"] is None else result.mle_settings["tol"],
        }
        asked = None if model.missing_y == "auto" else bool(model.missing_y)
        again = Reproduction(spec, data, columns, asked, result.error_penalty or 0.0, tuple(options.items()))
        return again, np.asarray(result.tvalues)[columns]
    if result.error_penalty:
        likelihood = outcome.objective.likelihood
        precision = result.error_precision.to_numpy()
        sign = np.sign(precision) * (1.0 - np.eye(len(precision)))
        spread = error_spread(data)
        bound = result.error_penalty * likelihood.data.n_rows * np.outer(spread, spread)
        build: Callable[[SelectionData], PenalisedObjective] = partial(sparse_objective, spec, sign, bound)
    else:
        # with the weak penalties that the fit needed, so that observed and permuted fits are of one kind
        build = replace(spec, penalties=outcome.objective.penalties).objective
    job = permuted_fit(build, data, outcome.maximum, columns)
    return job, wald_statistics(build(data), outcome.maximum.theta, columns)


def _strata(result, within):
    data = result.model.design.data
    if within is None:
        return None
    if not isinstance(within, str) and (not pd.api.types.is_list_like(within) or np.ndim(within) != 1):
        raise OptionError(f"within must be None, 'group', a column or one label per sample, got {short(within)}")
    if isinstance(within, str):
        if within in ("group", "cluster", result.model.group_name):
            return data.cluster
        frame = getattr(result.model.design.design, "frame", None)
        if frame is None or within not in frame.columns or len(frame) != data.n_rows:
            raise OptionError(f"within must be None, 'group', a column or one label per sample, got {within!r}")
        within = frame[within]
    codes = pd.factorize(np.asarray(within))[0]
    if codes.shape != (data.n_rows,):
        raise DataError(f"within needs one label for each of the {data.n_rows} samples, found {codes.shape}")
    return codes[data.order]


def _chunk(job, permutations):
    return [job(rows) for rows in permutations]


def _run(job, permutations, n_jobs, progress) -> np.ndarray:
    """Statistics of all permutations in their order; of those done so far after an interrupt."""
    from joblib import Parallel, delayed
    from tqdm import tqdm

    done: list[np.ndarray] = []
    chunks = [permutations[i : i + CHUNK] for i in range(0, len(permutations), CHUNK)]
    bar = tqdm(total=len(permutations), disable=not progress, desc="permutations")
    try:
        for values in Parallel(n_jobs=n_jobs, return_as="generator")(delayed(_chunk)(job, chunk) for chunk in chunks):
            done += values
            bar.update(len(values))
    except KeyboardInterrupt:
        if not done:
            raise
    finally:
        bar.close()
    return np.array(done)
