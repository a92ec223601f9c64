"""Processor time of whole calls with standard errors, beside glmmTMB in the same run and at the same optimum.

    python benchmarks/family_speed.py [--rounds 3]

Rounds alternate between the two, each with one BLAS thread; the least time of each counts. Ends with an error where
glmmTMB finds a higher likelihood. The Owls need a clone of the repository, whose tests hold them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit

import mvmise_sm as ms

HERE = Path(__file__).parent
OWLS = HERE.parent / "tests" / "reference" / "families" / "Owls.csv.gz"
FORMULAS = {
    "salamanders_nb2": ("salamanders", "count ~ spp + mined + (1 | site)", {"family": "nb2"}),
    "salamanders_zinb2": (
        "salamanders",
        "count ~ spp + mined + (1 | site)",
        {"family": "nb2", "zero_inflation": "~ mined"},
    ),
    "owls_zinb1": (
        "owls",
        "SiblingNegotiation ~ FoodTreatment * SexParent + (1 | Nest) + offset(logBroodSize)",
        {"family": "nb1", "zero_inflation": "~ 1"},
    ),
    "crossed_poisson": ("crossed", "count ~ x + (1 | a) + (1 | b)", {"family": "poisson"}),
    "crossed_nb2": ("crossed", "nb ~ x + (1 | a) + (1 | b)", {"family": "nb2"}),
    "crossed_beta": ("crossed", "share ~ x + (1 | a) + (1 | b)", {"family": "beta"}),
    "crossed_zip": ("crossed", "zeros ~ x + (1 | a) + (1 | b)", {"family": "poisson", "zero_inflation": "~ x"}),
}
TOLERANCE = 2e-3


def crossed() -> pd.DataFrame:
    """20,000 rows of 400 by 100 crossed groups with a response of each family."""
    rng = np.random.default_rng(5)
    n = 20_000
    a, b, x = rng.integers(0, 400, n), rng.integers(0, 100, n), rng.normal(size=n)
    eta = 0.5 + 0.3 * x + 0.5 * rng.normal(size=400)[a] + 0.3 * rng.normal(size=100)[b]
    mean, p = np.exp(eta), expit(eta)
    frame = pd.DataFrame({"x": x, "a": [f"a{i}" for i in a], "b": [f"b{i}" for i in b]})
    frame["nb"] = rng.negative_binomial(1.5, 1.5 / (1.5 + mean))
    frame["count"] = rng.poisson(mean)
    frame["share"] = np.clip(rng.beta(8 * p, 8 * (1 - p)), 1e-6, 1 - 1e-6)
    frame["zeros"] = np.where(rng.random(n) < expit(-1 + 0.5 * x), 0, rng.poisson(mean))
    return frame


def spent(what: Callable[[], Any]) -> tuple[float, float]:
    """Processor seconds of a fit with its standard errors, and the log-likelihood."""
    start = time.process_time()
    fit = what()
    assert np.isfinite(fit.bse).all()
    return time.process_time() - start, fit.llf


def theirs(folder: str) -> dict[str, tuple[float, float]]:
    """The same of every case by glmmTMB."""
    environment = dict(os.environ, OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    command = ["Rscript", str(HERE / "family_speed.R"), folder]
    lines = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split("\n")
    return {name: (float(cpu), float(llf)) for name, cpu, llf in (line.split() for line in lines if line.strip())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    frames = {"salamanders": ms.datasets.load_salamanders(), "owls": pd.read_csv(OWLS), "crossed": crossed()}
    found: dict[str, list[list[tuple[float, float]]]] = {name: [[], []] for name in FORMULAS}
    with tempfile.TemporaryDirectory() as folder:
        for name, frame in frames.items():
            frame.to_csv(Path(folder) / f"{name}.csv", index=False)
        for _ in range(options.rounds):
            for name, (data, formula, given) in FORMULAS.items():
                for _ in range(3):
                    fit = spent(lambda f=formula, d=frames[data], g=given: ms.glmer(f, d, **g).fit())
                    found[name][0].append(fit)
            for name, fit in theirs(folder).items():
                found[name][1].append(fit)
    for name, (ours, other) in found.items():
        here, there = min(cpu for cpu, _ in ours), min(cpu for cpu, _ in other)
        gap = other[0][1] - ours[0][1]
        print(f"{name:20s} {here:7.3f} {there:7.3f}  1/{there / here:.1f}  log-likelihood {ours[0][1]:.4f}, {gap:+.1e}")
        assert gap < TOLERANCE, f"glmmTMB finds a higher likelihood in {name}"


if __name__ == "__main__":
    main()
