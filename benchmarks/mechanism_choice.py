"""Does AIC find the mechanism? Experiments of many features, blocks, single values or both going missing by size.

    python benchmarks/mechanism_choice.py EXPERIMENTS [--features 200] [--seed 1] [--clusters 30]

Every feature has three outcomes in clusters of two samples, its own level, loadings, noise and effect. All features of
an experiment share one mechanism, in turn of whole blocks (capped; 3 % of the single values go at random), of single
values (logit), or both. Model b is
fitted to every feature under each of the three; the AIC of an experiment is the sum over its features, each with
parameters of its own. Prints how often the smallest sum is that of the truth, for single features and for sums.
"""

import argparse
import time
import warnings

import numpy as np
import pandas as pd
from scipy.special import expit

import mvmise_sm as ms

K = 3
NAMES = ["y0", "y1", "y2"]
TRUTHS = ("block", "value", "both")
BLOCK, VALUE = (6.9, -0.45), (21.0, -1.2)


def feature(rng, truth, clusters):
    """A wide frame of one feature with its missing values."""
    while True:
        cluster, x = np.repeat(np.arange(clusters), 2), np.tile([0.0, 1.0], clusters)
        level = rng.uniform(17.8, 19.2) + 0.3 * rng.normal(size=K)
        loading = rng.uniform(0.5, 0.9, K)
        Y = level + rng.choice([0.0, 0.5]) * x[:, None] + loading * rng.normal(size=(clusters, 1))[cluster]
        Y = Y + rng.uniform(0.4, 0.7) * rng.normal(size=Y.shape)
        gone = np.zeros(Y.shape, bool)
        if truth == "block":
            gone |= rng.random(Y.shape) < 0.03
        else:
            gone |= rng.random(Y.shape) < expit(VALUE[0] + VALUE[1] * Y)
        if truth != "value":
            mean = pd.DataFrame(Y).groupby(cluster).mean().to_numpy()
            gone |= (rng.random(mean.shape) < np.minimum(1.0, np.exp(BLOCK[0] + BLOCK[1] * mean)))[cluster]
        Y[gone] = np.nan
        if np.all((~gone).sum(axis=0) >= 6):
            return pd.DataFrame(Y, columns=NAMES).assign(batch=cluster, x=x)


def main():
    """Simulate, compare, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("experiments", type=int)
    parser.add_argument("--features", type=int, default=200)
    parser.add_argument("--clusters", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    rng = np.random.default_rng([options.seed, 64])
    alone, summed, failed = [], [], 0
    begin = time.process_time()
    for i in range(options.experiments):
        truth = TRUTHS[i % 3]
        total = pd.Series(0.0, index=list(TRUTHS))
        for _ in range(options.features):
            model = ms.mvmise_b(f"{' + '.join(NAMES)} ~ x + (1 | batch)", feature(rng, truth, options.clusters))
            table = ms.compare_mechanisms(model)
            if not np.isfinite(table["aic"]).all():
                failed += 1
                continue
            total += table["aic"]
            alone.append((truth, table["aic"].idxmin()))
        summed.append((truth, total.idxmin()))
        seconds = (time.process_time() - begin) / (i + 1)
        right = np.mean([a == b for a, b in summed])
        found = pd.DataFrame(alone, columns=["truth", "chosen"])
        single = (found["truth"] == found["chosen"]).groupby(found["truth"]).mean().round(2).to_dict()
        difference = (total - total[truth]).round(0).to_dict()
        print(
            f"{i + 1} experiments of {options.features}: right {right:.3f}; last {truth}: {difference}; "
            f"single features right {single}; failed {failed}; {seconds:.1f} s an experiment",
            flush=True,
        )


if __name__ == "__main__":
    main()
