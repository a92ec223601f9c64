"""Simulated proteins of 1 to 30 peptides from one long table: one ragged scan against one scan per peptide count.

python benchmarks/scan_ragged.py [--proteins 2000]
"""

import argparse
import time
import warnings

import numpy as np
import pandas as pd

import mvmise_sm as ms


def simulate(count, seed=3, mixtures=6, channels=9):
    """Long table of proteins whose mixtures may be absent, and the complete sample table."""
    rng = np.random.default_rng(seed)
    samples = pd.DataFrame(
        {
            "Mixture": np.repeat([f"M{m}" for m in range(mixtures)], channels),
            "Channel": np.tile([f"C{c}" for c in range(channels)], mixtures),
        }
    )
    samples["Condition"] = np.tile(list("ABC") * (channels // 3), mixtures)
    parts = []
    for i in range(count):
        K = min(int(rng.geometric(0.18)), 30)
        mixture = rng.normal(0.0, 0.5, mixtures)
        effect = dict(zip("ABC", [0.0, *rng.normal(0.0, 0.3, 2)], strict=True))
        for k in range(K):
            level = rng.normal(16.0, 1.5)
            base = level + rng.uniform(0.5, 1.5) * np.repeat(mixture, channels) + samples["Condition"].map(effect)
            y = base.to_numpy() + rng.normal(0.0, 0.3, len(samples))
            blocks = np.repeat(rng.random(mixtures) < np.exp(min(0.0, 4.0 - 0.35 * level)), channels)
            seen = ~(blocks | (rng.random(len(samples)) < 0.02))
            parts.append(samples[seen].assign(Protein=f"P{i:05d}", Peptide=f"p{i}_{k}", Abundance=y[seen]))
    return pd.concat(parts, ignore_index=True), samples


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--proteins", type=int, default=2000)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    long, samples = simulate(given.proteins)
    call = {
        "model": "mvmise_b", "by": "Protein", "outcome": "Abundance", "column": "Peptide",
        "sample": ["Mixture", "Channel"], "samples": samples, "terms": "Condition",
    }  # fmt: skip
    begin = time.process_time()
    table = ms.scan("~ Condition + (1 | Mixture)", long, **call)
    together = time.process_time() - begin
    failed = table["se"].isna().groupby(table["feature"]).any()
    print(f"{table['feature'].nunique()} proteins, {int(failed.sum())} without numbers, {together:.1f} s CPU")
    print(table.failures()[["message", "n"]].to_string())
    size = long.groupby("Protein")["Peptide"].nunique()
    begin = time.process_time()
    for K in sorted(size.unique()):
        ms.scan("~ Condition + (1 | Mixture)", long[long["Protein"].isin(size.index[size == K])], **call)
    print(f"one scan for each of {size.nunique()} peptide counts: {time.process_time() - begin:.1f} s CPU")


if __name__ == "__main__":
    main()
