"""Two crossed factors of many levels: CPU, memory and the optimum, beside gpboost where that is installed.

    python benchmarks/crossed_levels.py LEVELS [mvmise_sm | gpboost]

Whole calls by maximum likelihood on 20 rows per level (Zipf powers 0.5 and 0.9), formula and standard errors included
for ours. Run each in a process of its own with one BLAS thread. gpboost's criterion is itself an estimate: ours is
evaluated at its variances too, if they are given as three further numbers (residual, user, item).
"""

from __future__ import annotations

import resource
import sys
import time

import numpy as np
import pandas as pd

FORMULA = "y ~ x + (1 | user) + (1 | item)"


def ratings(levels: int, seed: int = 1) -> pd.DataFrame:
    """Ratings of items by users."""
    n, rng = 20 * levels, np.random.default_rng((seed, levels))

    def packed(power: float) -> np.ndarray:
        p = 1.0 / np.arange(1, levels + 1) ** power
        return np.unique(rng.choice(levels, size=n, p=p / p.sum()), return_inverse=True)[1]

    user, item, x = packed(0.5), packed(0.9), rng.normal(size=n)
    u, i = rng.normal(0, 0.5, levels)[user], rng.normal(0, 0.6, levels)[item]
    return pd.DataFrame({"y": 3.5 + 0.1 * x + u + i + rng.normal(0, 0.9, n), "x": x, "user": user, "item": item})


def report(name: str, levels: int, seconds: float, *rest: object) -> None:
    """One line."""
    print(name, levels, f"{seconds:.2f} s, {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MB", *rest)


def ours(frame: pd.DataFrame, levels: int, variances: list[float]) -> None:
    """The fit, and its criterion at other variances."""
    import mvmise_sm as ms

    ms.lmer("y ~ x + (1 | user)", frame.iloc[:2000]).fit()
    start = time.process_time()
    result = ms.lmer(FORMULA, frame).fit(reml=False, logdet="stochastic")
    result.bse.sum()
    report("mvmise_sm", levels, time.process_time() - start, result.criterion / 2, "+-", result.criterion_error / 2)
    if variances:
        theta = np.sqrt(np.array(variances[1:]) / variances[0])
        print("ours at these variances", result.deviance_function()(theta) / 2 - result.criterion / 2, "above")


def gpboosts(frame: pd.DataFrame, levels: int) -> None:
    """gpboost's fit of the same model."""
    import gpboost

    fixed = np.column_stack([np.ones(len(frame)), frame["x"]])
    start = time.process_time()
    model = gpboost.GPModel(group_data=frame[["user", "item"]].to_numpy(), likelihood="gaussian")
    model.fit(y=frame["y"].to_numpy(), X=fixed)
    seconds = time.process_time() - start
    report("gpboost", levels, seconds, model.get_current_neg_log_likelihood(), model.get_cov_pars(format_pandas=False))


if __name__ == "__main__":
    size = int(sys.argv[1])
    if "gpboost" in sys.argv:
        gpboosts(ratings(size), size)
    else:
        ours(ratings(size), size, [float(v) for v in sys.argv[3:]])
