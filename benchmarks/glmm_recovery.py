"""Simulated recovery of a Bernoulli model with 30 groups: coverage of 95 % intervals here and in lme4 on the same data.

    python benchmarks/glmm_recovery.py [--sets 200] [--nagq 1] [--seed 1]

Prints the share of intervals that hold the true coefficient and its Monte-Carlo error, the means of the estimates, and
in how many sets both packages agree. lme4 runs where ``Rscript`` finds it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

import mvmise_sm as ms
from mvmise_sm.exceptions import SingularFitWarning

GROUPS, ROWS = 30, 10
BETA, SD = np.array([-0.3, 0.6, 0.5]), 0.9
NAMES = ["Intercept", "x", "trt"]
LME4 = """
suppressMessages({library(lme4); library(jsonlite)})
d <- read.csv(commandArgs(TRUE)[1]); nagq <- as.integer(commandArgs(TRUE)[2])
out <- lapply(split(d, d$set), function(s) {
  f <- suppressMessages(suppressWarnings(glmer(y ~ x + trt + (1 | g), s, family = binomial, nAGQ = nagq)))
  list(beta = fixef(f), se = sqrt(diag(as.matrix(vcov(f)))), theta = getME(f, "theta"))
})
cat(toJSON(unname(out), digits = NA))
"""


def simulated(sets, seed):
    """All data sets in one frame, numbered by `set`."""
    rng = np.random.default_rng(seed)
    n = GROUPS * ROWS
    frames = []
    for i in range(sets):
        g = np.repeat(np.arange(GROUPS), ROWS)
        x, trt = rng.normal(size=n), (g % 2).astype(float)
        eta = np.column_stack([np.ones(n), x, trt]) @ BETA + SD * rng.normal(size=GROUPS)[g]
        y = (rng.random(n) < 1.0 / (1.0 + np.exp(-eta))).astype(int)
        frames.append(pd.DataFrame({"set": i, "g": g, "x": x, "trt": trt, "y": y}))
    return pd.concat(frames, ignore_index=True)


def fitted_here(frame, nagq):
    """Estimates, standard errors (sets, 3) and standard deviations of the groups (sets,)."""
    beta, se, sd = [], [], []
    for _, data in frame.groupby("set"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SingularFitWarning)
            result = ms.glmer("y ~ x + trt + (1 | g)", data, family="binomial").fit(nagq=nagq)
        beta.append(result.params.to_numpy())
        se.append(result.bse.to_numpy())
        sd.append(float(result.theta[0]))
    return np.array(beta), np.array(se), np.array(sd)


def fitted_in_lme4(frame, nagq):
    """As `fitted_here`, by lme4."""
    with tempfile.TemporaryDirectory() as folder:
        data, script = Path(folder) / "data.csv", Path(folder) / "fit.R"
        frame.to_csv(data, index=False)
        script.write_text(LME4)
        command = ["Rscript", str(script), str(data), str(nagq)]
        out = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return tuple(np.array([np.squeeze(o[key]) for o in out]) for key in ("beta", "se", "theta"))


def covered(beta, se):
    return np.abs(beta - BETA) <= 1.959963985 * se


def report(name, beta, se, sd):
    share = covered(beta, se).mean(axis=0)
    error = np.sqrt(share * (1.0 - share) / len(beta))
    for j, label in enumerate(NAMES):
        print(
            f"{name:10s} {label:9s} true {BETA[j]:6.3f}  mean {beta[:, j].mean():6.3f}  "
            f"coverage {share[j]:.3f} +- {error[j]:.3f}"
        )
    print(f"{name:10s} {'sd':9s} true {SD:6.3f}  mean {sd.mean():6.3f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=200)
    parser.add_argument("--nagq", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    frame = simulated(options.sets, options.seed)
    here = fitted_here(frame, options.nagq)
    report("mvmise_sm", *here)
    if shutil.which("Rscript") is None:
        print("lme4 is not installed")
        return
    there = fitted_in_lme4(frame, options.nagq)
    report("lme4", *there)
    same = (covered(*here[:2]) == covered(*there[:2])).all(axis=1)
    print(f"the same intervals hold the truth in {same.sum()} of {options.sets} sets")
    print(f"largest difference of an estimate in standard errors: {(np.abs(here[0] - there[0]) / there[1]).max():.2g}")


if __name__ == "__main__":
    main()
