"""CPU time of fits with the default prior over fits without a prior, in one process.

    python benchmarks/priors.py

Prints one line per case: median CPU seconds of `lmer` and of `blmer`, from formula to results, their ratio, and the
number of evaluations of the objective.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import time
import warnings
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd

import mvmise_sm as ms

DATA = Path(__file__).parents[1] / "tests" / "reference" / "data"


def sleepstudy():
    """180 rows, 18 subjects with correlated intercepts and slopes."""
    return "Reaction ~ Days + (Days | Subject)", ms.datasets.load_sleepstudy(), 100


def insteval():
    """73,421 ratings by 2,972 students of 1,128 lecturers."""
    data = pd.read_csv(DATA / "InstEval.csv.gz")
    return "y ~ service + (1 | s) + (1 | d)", data.astype({"s": "category", "d": "category", "service": "category"}), 5


def slope_million():
    """A million rows, 10,000 groups with correlated intercepts and slopes."""
    rng = np.random.default_rng(1)
    group, x = rng.integers(0, 10_000, 1_000_000), rng.normal(size=1_000_000)
    effects = rng.normal(size=(10_000, 2)) * [1.0, 0.5]
    y = 1.0 + 2.0 * x + effects[group, 0] + effects[group, 1] * x + rng.normal(size=x.size)
    return "y ~ x + (x | g)", pd.DataFrame({"y": y, "x": x, "g": pd.Categorical(group)}), 15


def cpu(entry, formula, data):
    """CPU seconds of one fit and its result."""
    start = time.process_time()
    result = entry(formula, data).fit()
    return time.process_time() - start, result


def main():
    """Time the two entry points alternately."""
    warnings.simplefilter("ignore")
    for case in (sleepstudy, insteval, slope_million):
        formula, data, repeats = case()
        cpu(ms.lmer, formula, data), cpu(ms.blmer, formula, data)
        pairs = [(cpu(ms.lmer, formula, data), cpu(ms.blmer, formula, data)) for _ in range(repeats)]
        flat, held = (median(pair[i][0] for pair in pairs) for i in (0, 1))
        evaluations = [pairs[0][i][1].mle_retvals["n_evaluations"] for i in (0, 1)]
        print(f"{case.__name__:14} {flat:.4f} {held:.4f} ratio {held / flat:.2f} evaluations {evaluations}")


if __name__ == "__main__":
    main()
