"""Coverage and accuracy of the selection models against R's algorithm, by simulation.

    python benchmarks/selection_simulation.py [replicates] > table
    python benchmarks/selection_simulation.py 1200 --models e --clusters 36 --seed 7 --without-r

Every replicate has N clusters of 1 to 4 samples, K = 5 outcomes, a covariate, and whole blocks missing with probability
min(1, exp(phi0 + phi1 mean(y))); phi0 is set so that the stated share is missing. Both models are fitted to data of
their own by maximum likelihood, with the 95 % intervals of `tidy`, and by the algorithm of the R package mvMISE with
its default stopping rule.
"""

from __future__ import annotations

import argparse
import time
import warnings

import numpy as np
import pandas as pd

import mvmise_sm as ms
from mvmise_sm.exceptions import ConvergenceWarning, DataWarning, SingularFitWarning
from mvmise_sm.selection.data import selection_data
from mvmise_sm.selection.mvmise.error import fit_mvmise_e
from mvmise_sm.selection.mvmise.factor import fit_mvmise_b

K, BETA, PHI1 = 5, np.array([4.0, 0.6]), -0.3
TAU = np.array([0.9, 1.1, 0.8, 1.2, 1.0])
D = 0.8
SIGMA = 0.3 ** np.abs(np.subtract.outer(np.arange(K), np.arange(K)))
Z95 = 1.959964
MODELS = {"b": ms.FactorSelectionModel, "e": ms.ErrorSelectionModel}


def outcomes(kind, n_clusters, rng):
    """Complete outcomes, covariate and clusters."""
    cluster = np.repeat(np.arange(n_clusters), rng.integers(1, 5, n_clusters))
    x = rng.integers(0, 2, cluster.size).astype(float)
    b = rng.normal(size=n_clusters)[cluster]
    if kind == "b":
        noise = b[:, None] * TAU + rng.normal(size=(cluster.size, K))
    else:
        noise = np.sqrt(D) * b[:, None] + rng.multivariate_normal(np.zeros(K), SIGMA, cluster.size)
    return BETA[0] + BETA[1] * x[:, None] + noise, x, cluster


def intercept_for(kind, rate):
    """phi0 that makes the expected share of missing blocks equal to `rate`."""
    Y, _, cluster = outcomes(kind, 20_000, np.random.default_rng(0))
    means = pd.DataFrame(Y).groupby(cluster).mean().to_numpy()
    low, high = -12.0, 6.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        share = np.minimum(1.0, np.exp(middle + PHI1 * means)).mean()
        low, high = (middle, high) if share < rate else (low, middle)
    return middle


def replicate(kind, n_clusters, phi0, rng):
    """One data set without an outcome that is missing everywhere."""
    while True:
        Y, x, cluster = outcomes(kind, n_clusters, rng)
        means = pd.DataFrame(Y).groupby(cluster).mean().to_numpy()
        gone = rng.random(means.shape) < np.minimum(1.0, np.exp(phi0 + PHI1 * means))
        Y[gone[cluster]] = np.nan
        if gone.any() and not np.isnan(Y).all(axis=0).any():
            return Y, np.column_stack([np.ones(x.size), x]), cluster


def run(kind, n_clusters, rate, replicates, seed, with_r=True):
    """One row of the table."""
    rng = np.random.default_rng(seed)
    phi0 = intercept_for(kind, rate)
    truth = np.r_[BETA, TAU] if kind == "b" else np.r_[BETA, D]
    covered, phi, phi_r, beta_r, failed, helped, seconds = [], [], [], [], 0, 0, 0.0
    for _ in range(replicates):
        arrays = replicate(kind, n_clusters, phi0, rng)
        model = MODELS[kind](*arrays)
        begin = time.process_time()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", SingularFitWarning)
            warnings.simplefilter("always", ConvergenceWarning)
            result = model.fit()
        seconds += time.process_time() - begin
        helped += any(issubclass(w.category, SingularFitWarning) for w in caught)
        if not result.converged or not np.isfinite(result.bse).all():
            failed += 1
            continue
        table = result.tidy("all", conf_int=True)
        rows = table[(table["effect"] == "fixed") | (table["group"] == model.group_name)]
        low, high = rows["conf_low"].to_numpy(), rows["conf_high"].to_numpy()
        covered.append((low < truth) & (truth < high))
        phi.append(result.phi["y"])
        if not with_r:
            continue
        data = selection_data(*arrays)
        fit = fit_mvmise_b(data) if kind == "b" else fit_mvmise_e(data, penalty=0.0)
        phi_r.append(fit.params.phi[1])
        r_se = np.sqrt(np.diag(fit.cov_beta))
        beta_r.append(np.abs(fit.params.beta - BETA) < Z95 * r_se)
    cover = np.mean(covered, axis=0)
    R = {}
    if with_r:
        R = {
            "R_cover_beta0": np.mean(beta_r, axis=0)[0],
            "R_cover_beta1": np.mean(beta_r, axis=0)[1],
            "R_rmse_phi1": np.sqrt(np.mean((np.array(phi_r) - PHI1) ** 2)),
        }
    return {
        "model": kind,
        "clusters": n_clusters,
        "missing": rate,
        "cover_beta0": cover[0],
        "cover_beta1": cover[1],
        "cover_tau_or_D": cover[2:].mean(),
        "mc_error": np.sqrt(0.95 * 0.05 / len(covered)),
        "rmse_phi1": np.sqrt(np.mean((np.array(phi) - PHI1) ** 2)),
        **R,
        "failed": failed,
        "weak_penalty": helped,
        "ms_per_fit": 1e3 * seconds / replicates,
    }


def main():
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("replicates", type=int, nargs="?", default=200)
    parser.add_argument("--models", default="be")
    parser.add_argument("--clusters", type=int, nargs="+", default=[36, 100])
    parser.add_argument("--rates", type=float, nargs="+", default=[0.10, 0.25, 0.45])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--without-r", action="store_true")
    options = parser.parse_args()
    rows = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # one set in a thousand has outcomes whose intercepts differ by chance at p < .001
        warnings.simplefilter("ignore", DataWarning)
        for kind in options.models:
            for n in options.clusters:
                for k, rate in enumerate(options.rates):
                    seed = options.seed + k
                    rows.append(run(kind, n, rate, options.replicates, seed, not options.without_r))
                    print(pd.DataFrame(rows[-1:]).to_string(index=False, float_format="%.3f"), flush=True)
    print(pd.DataFrame(rows).to_string(index=False, float_format="%.3f"))


if __name__ == "__main__":
    main()
