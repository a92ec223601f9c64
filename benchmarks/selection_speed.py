"""Speed of the selection models: fits, R's algorithm, scans and permutations; seconds on two processes.

python benchmarks/selection_speed.py [share of the full scans, default 1]

R's times are those stated for mvMISE 1.0: b 0.4 s and e 0.75 s on its demonstration data, e with 20 outcomes 14 s.
"""

from __future__ import annotations

import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

import mvmise_sm as ms

DATA = Path(__file__).parents[1] / "tests" / "reference" / "mvmise_data"


def seconds(call, repeat=5, clock=time.process_time):
    """The fastest of several runs after a warm-up."""
    call()
    best = np.inf
    for _ in range(repeat):
        begin = clock()
        call()
        best = min(best, clock() - begin)
    return best


def features(n, K, rng):
    """Features of the demonstration design, blocks missing depending on their values."""
    demo = pd.read_csv(DATA / "sim_dat.csv")
    cluster = pd.factorize(demo["id"])[0]
    columns = {}
    for f in range(n):
        shared = rng.normal(size=cluster.max() + 1)[cluster]
        Y = 10 + 0.4 * (f % 5 == 0) * demo[["x2"]].to_numpy() + 1.2 * shared[:, None] + rng.normal(size=(len(demo), K))
        mean = pd.DataFrame(Y).groupby(cluster).mean().to_numpy()
        Y[(rng.random(mean.shape) < np.minimum(1, np.exp(0.3 - 0.15 * mean)))[cluster]] = np.nan
        columns |= {f"f{f}_{k}": Y[:, k] for k in range(K)}
    names = {f"f{f}": [f"f{f}_{k}" for k in range(K)] for f in range(n)}
    return pd.concat([demo[["id", "x2"]], pd.DataFrame(columns)], axis=1), names


def main():
    """Print the table."""
    share = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
    demo, wide = pd.read_csv(DATA / "sim_dat.csv"), pd.read_csv(DATA / "k20_mnar.csv")
    text = "y1 + y2 + y3 + y4 + y5 ~ x2 + (1 | id)"
    b, e = ms.mvmise_b(text, demo), ms.mvmise_e(text, demo)
    e20 = ms.mvmise_e(" + ".join(f"y{k}" for k in range(1, 21)) + " ~ x2 + (1 | id)", wide)
    # statsmodels sets filters of its own when it is imported
    warnings.simplefilter("ignore")
    rows = [
        ("ML fit with standard errors, b, demonstration data", seconds(b.fit), 0.15),
        ("ML fit with standard errors, e, demonstration data", seconds(e.fit), 0.60),
        ("R's algorithm, b, demonstration data", seconds(lambda: b.fit(method="mvmise")), 0.4 / 20),
        ("R's algorithm with lasso, e", seconds(lambda: e.fit(method="mvmise", error_penalty="auto")), 0.75 / 20),
        ("R's algorithm with lasso, e, K = 20", seconds(lambda: e20.fit(method="mvmise", error_penalty="auto")), 0.7),
    ]
    fit = e.fit()
    begin = time.perf_counter()
    fit.permutation_test(n=int(1000 * share), rng=0, n_jobs=2)
    rows.append((f"{int(1000 * share)} permutations of e", time.perf_counter() - begin, 180 * share))
    rng = np.random.default_rng(0)
    for n, K, limit in ((10_000, 1, 120), (2_000, 5, 180)):
        frame, names = features(int(n * share), K, rng)
        begin = time.perf_counter()
        table = ms.scan("~ x2 + (1 | id)", frame, names, "mvmise_b", n_jobs=2)
        rows.append((f"scan of {len(names)} features, b, K = {K}", time.perf_counter() - begin, limit * share))
        print(f"K = {K}: {table['converged'].mean():.4f} of the rows converged")
    print(pd.DataFrame(rows, columns=["task", "seconds", "target"]).to_string(index=False, float_format="%.3f"))


if __name__ == "__main__":
    main()
