"""Simulated recovery with 30 groups of 10 where the link is not canonical: the Laplace fit against 15-node quadrature.

    python benchmarks/laplace_recovery.py [--sets 1000] [--seed 1] [--family nb2]

For nb2 (log link), gamma (log link) and binomial (cloglog link) every set is fitted by the Laplace approximation with
observed curvature, with lme4's expected curvature, and by quadrature with 15 nodes. Printed per parameter: the mean
shift from quadrature in standard errors of the quadrature fit, and the share of 95 % Wald intervals of the Laplace fit
that hold the truth, both with their simulation errors.
"""

from __future__ import annotations

import argparse
import warnings

import numpy as np
import pandas as pd

import mvmise_sm as ms
from mvmise_sm.exceptions import SingularFitWarning

GROUPS, ROWS, NODES = 30, 10, 15
NAMES = ["Intercept", "x"]
# coefficients, standard deviation of the groups, shape
CASES = {
    "nb2": ("nb2", np.array([0.5, 0.3]), 0.8, 1.0),
    "gamma": ("gamma(log)", np.array([0.5, 0.3]), 0.6, 1.5),
    "cloglog": ("binomial(cloglog)", np.array([-0.4, 0.5]), 0.9, None),
}


def simulated(case, sets, seed):
    """Data sets one after the other."""
    _, beta, sd, shape = CASES[case]
    rng = np.random.default_rng(seed)
    g = np.repeat(np.arange(GROUPS), ROWS)
    for _ in range(sets):
        x = rng.normal(size=g.size)
        eta = beta[0] + beta[1] * x + sd * rng.normal(size=GROUPS)[g]
        if case == "nb2":
            y = rng.poisson(np.exp(eta) * rng.gamma(shape, 1.0 / shape, size=g.size)).astype(float)
        elif case == "gamma":
            y = rng.gamma(shape, np.exp(eta) / shape)
        else:
            y = (rng.random(g.size) < -np.expm1(-np.exp(eta))).astype(float)
        yield pd.DataFrame({"y": y, "x": x, "g": g})


def estimates(result):
    """Coefficients and the standard deviation of the groups (3,); standard errors of the coefficients (2,)."""
    sd = float(result.varcorr["sdcor"].iloc[0])
    return np.append(result.params[NAMES].to_numpy(), sd), result.bse[NAMES].to_numpy()


def fitted(case, sets, seed):
    """Estimates (sets, 3 fits, 3) and standard errors of the coefficients (sets, 3 fits, 2)."""
    family = CASES[case][0]
    values, errors = [], []
    for data in simulated(case, sets, seed):
        model = ms.glmer("y ~ x + (1 | g)", data, family=family)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SingularFitWarning)
            fits = [model.fit(), model.fit(curvature="expected"), model.fit(nagq=NODES)]
        found = [estimates(fit) for fit in fits]
        values.append([v for v, _ in found])
        errors.append([e for _, e in found])
    return np.array(values), np.array(errors)


def report(case, values, errors):
    """Print a row per parameter."""
    _, beta, sd, _ = CASES[case]
    truth = np.append(beta, sd)
    n = len(values)
    se = np.column_stack([errors[:, 2], np.full(n, values[:, 2, 2].std(ddof=1))])
    for j, name in enumerate([*NAMES, "sd"]):
        cells = []
        for k, label in enumerate(["observed", "expected"]):
            shift = (values[:, k, j] - values[:, 2, j]) / se[:, j]
            cells.append(f"{label} {shift.mean():+.3f} ({shift.std(ddof=1) / np.sqrt(n):.3f})")
        if j < 2:
            for k, label in ((0, "Laplace"), (2, "quadrature")):
                share = np.mean(np.abs(values[:, k, j] - truth[j]) <= 1.959963985 * errors[:, k, j])
                cells.append(f"{label} {share:.3f} ({np.sqrt(share * (1.0 - share) / n):.3f})")
        print(f"{case:8s} {name:9s} true {truth[j]:+.2f}  mean {values[:, 0, j].mean():+.3f}  " + "  ".join(cells))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--family", choices=list(CASES), action="append")
    options = parser.parse_args()
    for case in options.family or CASES:
        report(case, *fitted(case, options.sets, options.seed))


if __name__ == "__main__":
    main()
