"""Null proteins of a labelled experiment: how often p is below .05, with and without the terms of samples and peptides.

    python benchmarks/labelled_null.py PROTEINS [--seed 1] [--batches 5] [--channels 8] [--mechanism capped]

Proteins have 5 to 30 peptides, no effect of the condition, a level of their own in every sample (sd 0.06), peptides a
level of their own in every batch (sd 1.0), a shared batch effect (sd 0.3) and noise (sd 0.12); blocks are missing with
probability ``min(1, exp(phi0 - 0.3 mean))``, about a fifth of them. Model b is fitted with ``(1 | batch:outcome) +
(1 | sample)`` and without. The table is printed again after every hundred proteins.
"""

import argparse
import time
import warnings

import numpy as np
import pandas as pd

import mvmise_sm as ms

TERMS = {"with terms": " + (1 | batch:outcome) + (1 | sample)", "without": ""}


def protein(rng, batches, channels):
    """A wide frame without an effect, and the outcomes' names."""
    while True:
        K = int(rng.integers(5, 31))
        batch, cond = np.repeat(np.arange(batches), channels), np.tile([0.0, 1.0], batches * channels // 2)
        Y = 20.0 + rng.normal(size=K) + 0.3 * rng.normal(size=(batches, 1))[batch]
        Y = Y + 1.0 * rng.normal(size=(batches, K))[batch] + 0.06 * rng.normal(size=(len(batch), 1))
        Y = Y + 0.12 * rng.normal(size=Y.shape)
        mean = pd.DataFrame(Y).groupby(batch).mean().to_numpy()
        Y[(rng.random(mean.shape) < np.minimum(1.0, np.exp(4.4 - 0.3 * mean)))[batch]] = np.nan
        if not np.isnan(Y).all(axis=0).any():
            names = [f"y{k}" for k in range(K)]
            frame = pd.DataFrame(Y, columns=names)
            return frame.assign(batch=[f"B{b}" for b in batch], condition=cond), names


def report(found):
    """Print the table."""
    for label, rows in found.items():
        p, se, converged, seconds = np.array(rows).T
        known = converged > 0
        share = float(np.mean(p[known] < 0.05))
        mc = np.sqrt(share * (1.0 - share) / known.sum())
        print(
            f"{label:11s} {len(p):5d} proteins, {known.sum():5d} converged, share below .05: {share:.3f} ({mc:.3f}), "
            f"median standard error {np.median(se[known]):.4f}, {np.median(seconds):.3f} s a fit",
            flush=True,
        )


def main():
    """Simulate, fit, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("proteins", type=int)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--batches", type=int, default=5)
    parser.add_argument("--channels", type=int, default=8)
    parser.add_argument("--mechanism", default="capped")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    rng = np.random.default_rng([options.seed, 91])
    found = {label: [] for label in TERMS}
    for i in range(options.proteins):
        frame, names = protein(rng, options.batches, options.channels)
        for label, terms in TERMS.items():
            begin = time.process_time()
            model = ms.mvmise_b(
                f"{' + '.join(names)} ~ condition + (1 | batch){terms}", frame, mechanism=options.mechanism
            )
            result = model.fit()
            seconds = time.process_time() - begin
            found[label].append((result.pvalues["condition"], result.bse["condition"], result.converged, seconds))
        if (i + 1) % 100 == 0 or i + 1 == options.proteins:
            report(found)


if __name__ == "__main__":
    main()
