"""How far theta of a stochastic fit lies from the exact optimum, in standard errors.

    python benchmarks/theta_distance.py 20000 [--seed 1]

The data are two crossed factors of so many levels with 20 rows per level, fitted by maximum likelihood along random
probes. At that theta one dense factor of the second factor's Schur complement and its inverse give the exact score
(n**2 doubles: 3.2 GB and some minutes at 20,000 levels) without any code of the package; a Newton step with the
fit's own Hessian is the distance. Up to 8,000 levels the package's exact fit says it a second time.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
import pandas as pd
from crossed_levels import FORMULA, ratings
from scipy import sparse
from scipy.linalg.lapack import dpotrf, dpotri, dpotrs

import mvmise_sm as ms

_PANEL = 1_000
_LARGEST_EXACT = 8_000


def exact_score(frame: pd.DataFrame, theta: np.ndarray) -> tuple[float, np.ndarray]:
    """Exact -2 log L, beta and sigma profiled out, and its gradient in theta (2,) by dense linear algebra."""
    users, items, y = frame["user"].to_numpy(), frame["item"].to_numpy(), frame["y"].to_numpy()
    w = np.column_stack([np.ones(len(frame)), frame["x"], y])
    table = sparse.csr_matrix((np.ones(len(frame)), (users, items)))
    first = 1.0 + theta[0] ** 2 * np.asarray(table.sum(axis=1)).ravel()
    second = 1.0 + theta[1] ** 2 * np.asarray(table.sum(axis=0)).ravel()
    coupling = (theta[0] * theta[1] * table).tocsr()
    halves = (sparse.diags(1.0 / np.sqrt(first)) @ coupling).tocsc()
    n = len(second)
    dense = np.zeros((n, n), order="F")
    for lo in range(0, n, _PANEL):
        dense[:, lo : lo + _PANEL] = -(halves.T @ halves[:, lo : lo + _PANEL]).toarray()
    dense.flat[:: n + 1] += second
    factor, info = dpotrf(dense, lower=1, overwrite_a=1, clean=0)
    assert not info
    logdet = float(np.log(first).sum() + 2.0 * np.log(factor.diagonal()).sum())
    # modes of the random effects for each column of [X y]
    right = [
        theta[k] * np.column_stack([np.bincount(codes, weights=column) for column in w.T])
        for k, codes in enumerate((users, items))
    ]
    x2 = dpotrs(factor, right[1] - coupling.T @ (right[0] / first[:, None]), lower=1)[0]
    x1 = (right[0] - coupling @ x2) / first[:, None]
    gram = w.T @ w - right[0].T @ x1 - right[1].T @ x2
    beta = np.linalg.solve(gram[:-1, :-1], gram[:-1, -1])
    contrast = np.append(-beta, 1.0)
    r2 = float(contrast @ gram @ contrast)
    squares = np.array([np.sum((x1 @ contrast) ** 2), np.sum((x2 @ contrast) ** 2)])
    inverse, info = dpotri(factor, lower=1, overwrite_c=1)
    assert not info
    # tr M^-1 of the second factor, and of the first by the pairs that its rows join
    traces = np.array([np.sum(1.0 / first), inverse.diagonal().sum()])
    squared = (sparse.diags(1.0 / first) @ coupling).tocsc()
    for lo in range(0, n, _PANEL):
        panel = (squared[:, lo:].T @ squared[:, lo : lo + _PANEL]).toarray()
        below = np.tril(panel) * inverse[lo:, lo : lo + _PANEL]
        traces[0] += 2.0 * np.tril(below, -1).sum() + below.diagonal().sum()
    rows = len(frame)
    counts = np.array([len(first), n])
    value = logdet + rows * (1.0 + np.log(2.0 * np.pi * r2 / rows))
    return value, 2.0 / theta * (counts - traces - rows / r2 * squares)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("levels", type=int)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    frame = ratings(options.levels, options.seed)
    model = ms.lmer(FORMULA, frame)
    fit = model.fit(reml=False, logdet="stochastic")
    criterion, step = fit.deviance_function(), 1e-3
    columns = [(criterion.gradient(fit.theta + s) - criterion.gradient(fit.theta - s)) / (2 * step)
               for s in step * np.eye(2)]  # fmt: skip
    hessian = np.array(columns)
    hessian = (hessian + hessian.T) / 2.0
    errors = np.sqrt(np.diag(2.0 * np.linalg.inv(hessian)))
    start = time.process_time()
    value, score = exact_score(frame, fit.theta)
    distance = np.linalg.solve(hessian, score) / errors
    found = {
        "levels": options.levels,
        "seed": options.seed,
        "theta": fit.theta.tolist(),
        "standard_errors": errors.tolist(),
        "distance_in_standard_errors": distance.tolist(),
        "criterion_off_by": fit.criterion - value,
        "criterion_error": fit.criterion_error,
        "seconds_of_the_exact_score": round(time.process_time() - start, 1),
    }
    if options.levels <= _LARGEST_EXACT:
        exact = model.fit(reml=False, logdet="exact")
        found["by_the_exact_fit"] = ((fit.theta - exact.theta) / errors).tolist()
        found["optimum_off_by"] = fit.criterion - exact.criterion
    print(json.dumps(found, indent=1), flush=True)


if __name__ == "__main__":
    main()
