"""How often ``criterion_error`` covers the error of an estimated criterion, over seeds of the probes.

    python benchmarks/probe_coverage.py 20000 [--seeds 25] [--exact]

The data are two crossed factors of so many levels with 20 rows per level. The error is known in one of two ways: with
``--exact`` from one dense Cholesky factor of the random effects that remain (n**2 doubles: 3.2 GB at 20,000 levels),
otherwise from the mean of the other seeds, whose own error is a fifth of one seed's with 25 of them. Everything else
of the criterion is exact, so the error is that of the log-determinant.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
import pandas as pd
from crossed_levels import ratings
from scipy import sparse
from scipy.linalg.lapack import dpotrf

import mvmise_sm as ms

FORMULA = "y ~ x + (1 | user) + (1 | item)"


def exact_logdet(frame: pd.DataFrame, theta: np.ndarray) -> float:
    """log|M| from a dense factor of the Schur complement of the second factor."""
    users, items = frame["user"].to_numpy(), frame["item"].to_numpy()
    table = sparse.csr_matrix((np.ones(len(frame)), (users, items)))
    first = 1.0 + theta[0] ** 2 * np.asarray(table.sum(axis=1)).ravel()
    second = 1.0 + theta[1] ** 2 * np.asarray(table.sum(axis=0)).ravel()
    scaled = sparse.diags(theta[0] * theta[1] / np.sqrt(first)) @ table
    n = len(second)
    dense = np.zeros((n, n), order="F")
    for lo in range(0, n, 1000):
        dense[:, lo : lo + 1000] = -(scaled.T @ scaled[:, lo : lo + 1000]).toarray()
    dense.flat[:: n + 1] += second
    factor, info = dpotrf(dense, lower=1, overwrite_a=1, clean=0)
    assert not info
    return float(np.log(first).sum() + 2.0 * np.log(factor.diagonal()).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("levels", type=int)
    parser.add_argument("--seeds", type=int, default=25)
    parser.add_argument("--exact", action="store_true")
    options = parser.parse_args()
    frame = ratings(options.levels)
    fits = []
    for seed in range(options.seeds):
        start = time.process_time()
        model = ms.lmer(FORMULA, frame)
        result = model.fit(reml=False, logdet="stochastic", rng=seed)
        fits.append((result.criterion, result.criterion_error, result.solution.logdet_m, *result.theta))
        print(seed, *fits[-1], round(time.process_time() - start, 2), flush=True)
    found = np.array(fits)
    if options.exact:
        truth = exact_logdet(frame, found[0, 3:]) - found[0, 2] + found[0, 0]
    else:
        # the other seeds are independent estimates of the same number
        truth = (found[:, 0].sum() - found[:, 0]) / (len(found) - 1)
    error = found[:, 0] - truth
    print(
        json.dumps(
            {
                "levels": options.levels,
                "seeds": options.seeds,
                "covered": int((np.abs(error) <= found[:, 1]).sum()),
                "largest_bar": found[:, 1].max(),
                "smallest_bar": found[:, 1].min(),
                "largest_error": np.abs(error).max(),
                "mean_error": error.mean(),
                "spread_of_theta": found[:, 3:].std(axis=0).tolist(),
            }
        )
    )


if __name__ == "__main__":
    main()
