"""Null simulations of a scan: how often p < 0.05 without effects, and false discoveries beside planted ones.

    python benchmarks/scan_calibration.py [--features 4000] [--experiments 20] [--out calibration.json]

Prints the tables of docs/guide/calibration.rst.
"""

import argparse
import json
import warnings

import numpy as np
import pandas as pd

import mvmise_sm as ms

ROWS = 8
KINDS = (
    ("normal", {"ddf": None}),
    ("satterthwaite", {"ddf": "satterthwaite"}),
    ("satterthwaite + contrast", {"ddf": "satterthwaite", "moderate": "contrast"}),
    ("satterthwaite + residual", {"ddf": "satterthwaite", "moderate": "residual"}),
    ("auto", {"ddf": "auto"}),
    ("auto + contrast", {"ddf": "auto", "moderate": "contrast"}),
)
SETTINGS = (
    ("6 batches, sd 1.0", {"batches": 6, "sd": 1.0}),
    ("6 batches, sd 0.2", {"batches": 6, "sd": 0.2}),
    ("8 batches, sd 1.0", {"batches": 8, "sd": 1.0}),
    ("8 batches, sd 0.2", {"batches": 8, "sd": 0.2}),
    ("12 batches, sd 1.0", {"batches": 12, "sd": 1.0}),
    ("6 batches, sd mixed", {"batches": 6, "sd": None}),
    ("6 batches, sd mixed, 15 % of batches absent", {"batches": 6, "sd": None, "absent": 0.15}),
    ("8 batches, 4 conditions of 2, sd 1.0", {"batches": 8, "sd": 1.0, "conditions": 4}),
    ("8 batches, 4 conditions of 2, sd 0.2", {"batches": 8, "sd": 0.2, "conditions": 4}),
    ("6 batches, effect within, sd 1.0", {"batches": 6, "sd": 1.0, "within": True}),
    ("6 batches, effect within, sd 0.2", {"batches": 6, "sd": 0.2, "within": True}),
)


def simulate(rng, count, batches, sd, conditions=2, within=False, absent=0.0, df_variance=6.0):
    """Samples, and features without any effect; residual variances differ between features."""
    batch = np.repeat(np.arange(batches), ROWS)
    inside = np.tile(np.arange(ROWS), batches)
    level = (inside if within else batch) % conditions
    samples = pd.DataFrame({"batch": [f"b{b}" for b in batch], "condition": [f"c{c}" for c in level]})
    sigma = np.sqrt(df_variance / rng.chisquare(df_variance, count)) * 0.5
    spread = rng.choice([0.2, 0.5, 1.0], count) if sd is None else np.full(count, sd)
    values = sigma * rng.normal(size=(len(batch), count)) + sigma * spread * rng.normal(size=(batches, count))[batch]
    if absent:
        gone = rng.random((batches, count)) < absent
        # a comparison needs two batches of every condition
        for c in range(conditions):
            own = np.unique(batch[level == c])
            few = (~gone[own]).sum(axis=0) < 2
            gone[np.ix_(own, few)] = False
        values[gone[batch]] = np.nan
    return samples, values


def scanned(samples, values, options):
    """A scan of a matrix; the contrasts of conditions with the first."""
    features = pd.DataFrame(values, columns=[f"f{j}" for j in range(values.shape[1])])
    found = ms.scan("~ condition + (1 | batch)", samples, features, model="lmer", terms="condition", **options)
    return found


def null_table(rng, count):
    """Share of p below 0.05, and BH discoveries per 1,000, by setting and kind of test."""
    rows = []
    for setting, arguments in SETTINGS:
        samples, values = simulate(rng, count, **arguments)
        for kind, options in KINDS:
            found = scanned(samples, values, options)
            first = found[found["term"] == "condition[T.c1]"]
            share = float((first["p"] < 0.05).mean())
            hits = 1000.0 * float((first["q"] < 0.05).sum()) / count
            rows.append({"setting": setting, "test": kind, "share": round(share, 4), "hits": round(hits, 2)})
            print(rows[-1], flush=True)
    return rows


def planted_table(rng, experiments, count=2000, share=0.1, batches=8):
    """False discovery proportion at q < 0.05 over experiments with planted effects between batches."""
    rows = []
    for kind, options in KINDS:
        proportions, power = [], []
        for k in range(experiments):
            own = np.random.default_rng([17, k])
            samples, values = simulate(own, count, batches, None)
            real = own.random(count) < share
            shift = np.where(real, own.normal(0.0, 2.0, count), 0.0)
            values = values + (samples["condition"] == "c1").to_numpy()[:, None] * shift
            found = scanned(samples, values, options)
            found = found[found["term"] == "condition[T.c1]"].set_index("feature")
            hit = (found["q"] < 0.05).reindex([f"f{j}" for j in range(count)]).to_numpy()
            proportions.append(float((hit & ~real).sum() / max(hit.sum(), 1)))
            power.append(float((hit & real).sum() / real.sum()))
        row = {"test": kind, "fdp": round(float(np.mean(proportions)), 4), "power": round(float(np.mean(power)), 4)}
        rows.append(row)
        print(row, flush=True)
    return rows


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--features", type=int, default=4000)
    parser.add_argument("--experiments", type=int, default=20)
    parser.add_argument("--out", default=None)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    rng = np.random.default_rng(2024)
    out = {"null": null_table(rng, given.features), "planted": planted_table(rng, given.experiments)}
    if given.out:
        with open(given.out, "w", encoding="utf-8") as file:
            json.dump(out, file, indent=1)


if __name__ == "__main__":
    main()
