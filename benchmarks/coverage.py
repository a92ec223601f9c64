"""Coverage of 95% intervals by simulation; writes the table of docs/guide/coverage.rst.

python benchmarks/coverage.py [--datasets 500] [--resamples 400] [--jobs 1] [--write docs/guide/coverage.rst]
"""

import argparse
import time
import warnings

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from scipy import stats

import mvmise_sm as ms

GROUPS = 10
BEGIN, END = ".. begin tables", ".. end tables"
SCENARIOS = {
    "random intercept": (
        "y ~ x + w + (1 | g)",
        {"Intercept": 1.0, "x": 0.5, "w": 1.0, "sd_Intercept|g": 0.8, "sigma": 1.0},
    ),
    "random intercept and slope": (
        "y ~ x + w + (x | g)",
        {"Intercept": 1.0, "x": 0.5, "w": 1.0, "sd_Intercept|g": 0.8, "sd_x|g": 0.6, "sigma": 1.0},
    ),
}
METHODS = ("Wald", "Satterthwaite", "Kenward-Roger", "profile", "profile, REML", "bootstrap")


def design(rng):
    """Ten groups of 2 to 16 rows; x varies within groups, w between them."""
    sizes = np.array([2, 3, 3, 4, 5, 6, 8, 10, 13, 16])
    g = np.repeat(np.arange(GROUPS), sizes)
    return pd.DataFrame({"g": g, "x": rng.normal(size=g.size), "w": (g % 2).astype(float)})


def simulate(truth, rng):
    data = design(rng)
    b = truth["sd_Intercept|g"] * rng.normal(size=GROUPS)[data["g"]]
    if "sd_x|g" in truth:
        b = b + truth["sd_x|g"] * rng.normal(size=GROUPS)[data["g"]] * data["x"]
    fixed = truth["Intercept"] + truth["x"] * data["x"] + truth["w"] * data["w"]
    return data.assign(y=fixed + b + truth["sigma"] * rng.normal(size=len(data)))


def intervals(formula, data, resamples, rng):
    """Frames of lower and upper ends by method."""
    fit = ms.lmer(formula, data).fit()
    profile = fit.conf_int(method="profile")
    restricted = fit.conf_int(method="profile", reml=True).filter(regex="^(sd|cor|sigma)", axis=0)
    out = {"Wald": fit.conf_int(), "profile": profile, "profile, REML": restricted}
    for name in ("Satterthwaite", "Kenward-Roger"):
        out[name] = fit.conf_int(ddf=name.lower())
    out["bootstrap"] = fit.bootstrap(resamples, rng=rng).conf_int()
    return out


def one(seed, formula, truth, resamples):
    rng = np.random.default_rng(seed)
    found = intervals(formula, simulate(truth, rng), resamples, rng)
    rows = []
    for method, frame in found.items():
        for name, value in truth.items():
            if name in frame.index:
                low, high = frame.loc[name]
                rows.append((method, name, low <= value <= high, high - low))
    return rows


def coverage(formula, truth, datasets, resamples, jobs):
    warnings.simplefilter("ignore")
    seeds = np.random.SeedSequence(20).spawn(datasets)
    work = (delayed(one)(seed, formula, truth, resamples) for seed in seeds)
    rows = [row for part in Parallel(n_jobs=jobs)(work) for row in part]
    frame = pd.DataFrame(rows, columns=["method", "parameter", "covered", "width"])
    table = frame.groupby(["parameter", "method"])["covered"].mean().unstack()
    widths = frame.groupby(["parameter", "method"])["width"].median().unstack()
    order = [name for name in truth if name in table.index]
    return table.loc[order, list(METHODS)], widths.loc[order, list(METHODS)]


def list_table(table, digits, title):
    lines = [f".. list-table:: {title}", "   :header-rows: 1", "", "   * - Parameter"]
    lines += [f"     - {name}" for name in table.columns]
    for name, row in zip(table.index, table.to_numpy(), strict=True):
        lines.append(f"   * - ``{name}``")
        lines += [f"     - {'' if np.isnan(v) else format(v, f'.{digits}f')}" for v in row]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--datasets", type=int, default=500)
    parser.add_argument("--resamples", type=int, default=400)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--write")
    options = parser.parse_args()
    parts = []
    for title, (formula, truth) in SCENARIOS.items():
        begin = time.perf_counter()
        table, widths = coverage(formula, truth, options.datasets, options.resamples, options.jobs)
        name = f"{title.capitalize()}, ``{formula}``"
        text = f"{list_table(table, 3, f'{name}: coverage')}\n{list_table(widths, 2, f'{name}: median widths')}"
        print(text, f"{time.perf_counter() - begin:.0f} s\n", flush=True)
        parts.append(text)
    error = float(stats.binom(options.datasets, 0.95).std() / options.datasets)
    if options.write:
        with open(options.write, encoding="utf-8") as stream:
            before, _, rest = stream.read().partition(BEGIN)
        after = rest.partition(END)[2]
        note = (
            f"{options.datasets} data sets, {options.resamples} resamples each; the Monte-Carlo standard error of a "
            f"coverage of 0.95 is {error:.3f}.\n"
        )
        body = "\n".join([note, *parts])
        with open(options.write, "w", encoding="utf-8") as stream:
            stream.write(f"{before}{BEGIN}\n\n{body}\n{END}{after}")


if __name__ == "__main__":
    main()
