"""Is the default fit the highest maximum? Simulated and bundled proteins, each fitted from random starts too.

    python benchmarks/selection_maxima.py PROTEINS [--starts 10] [--seed 1]

Models b and e, with a shared intercept and with own ones, on the bundled TMT data and on simulated proteins of 2 to 6
peptides. Prints how many default fits are below the best random start by more than 1e-3 in log-likelihood, and of
these how many warn of another maximum.
"""

import argparse
import itertools
import time
import warnings

import numpy as np

import mvmise_sm as ms
from mvmise_sm.selection.solve import solve

MODELS = list(itertools.product(("mvmise_b", "mvmise_e"), ("own", "shared")))


def frames(n, rng):
    """Frames with their outcomes and cluster: the bundled proteins first."""
    tmt = ms.datasets.load_tmt("wide")
    for name in ("P1", "P2", "P3", "P4", "P5"):
        yield tmt, [c for c in tmt if c.startswith(name + "_")], "condition", "batch"
    for _ in range(n - 5):
        K = int(rng.integers(2, 7))
        frame = ms.datasets.simulate_mvmise(
            int(rng.integers(15, 40)), K, beta=(10.0, 1.0), tau=float(rng.uniform(0.3, 1.5)), rng=rng
        )
        names = [f"y{k + 1}" for k in range(K)]
        frame[names] += rng.normal(scale=rng.choice([0.0, 1.0]), size=K)
        if frame[names].notna().any().all():
            yield frame, names, "x2", "id"


def random_start(likelihood, start, rng):
    """A point away from the start by about a standard deviation of the data; None outside the domain."""
    theta, cut = start.copy(), likelihood.slices
    sd = float(np.nanstd(likelihood.data.Y))
    for name, part in cut.items():
        size = part.stop - part.start
        if name in ("beta", "tau", "sqrt_D"):
            theta[part] += sd * rng.normal(size=size)
        elif name != "phi":
            theta[part] += rng.normal(size=size)
    for index, slope in likelihood.part.slopes():
        theta[cut["phi"]] = likelihood.part.feasible(theta[cut["phi"]], slope * rng.uniform(0.0, 2.0), index)
    return theta


def main():
    """Fit and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("proteins", type=int)
    parser.add_argument("--starts", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rng = np.random.default_rng([options.seed, 17])
    counts = {}
    begin = time.process_time()
    for i, (frame, names, x, group) in enumerate(frames(options.proteins, rng)):
        for entry, intercepts in MODELS:
            key = f"{entry}, {intercepts} intercepts"
            effects = {} if intercepts == "own" else {"outcome_effects": []}
            model = getattr(ms, entry)(f"{' + '.join(names)} ~ {x} + (1 | {group})", frame, **effects)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                result = model.fit()
            warned = any("several maxima" in str(w.message) for w in caught)
            objective = result._outcome.objective
            likelihood = objective.likelihood
            default, best = result._outcome.maximum.value, -np.inf
            for _ in range(options.starts):
                theta = random_start(likelihood, likelihood.start(), rng)
                if not np.isfinite(objective(theta)[0]):
                    continue
                try:
                    found = solve(objective, start=theta, information=False, maxiter=300).maximum
                except np.linalg.LinAlgError:
                    continue
                # a run that ends where the likelihood has no maximum is none
                if found.converged and not found.status.penalised:
                    best = max(best, found.value)
            row = counts.setdefault(key, [0, 0, 0, 0, 0.0])
            row[0] += 1
            row[1] += not result.converged
            row[2] += best > default + 1e-3
            row[3] += best > default + 1e-3 and not warned
            row[4] = max(row[4], best - default)
            if best > default + 1e-3:
                print(f"protein {i}, {key}: default {default:.4f}, best {best:.4f}, warned {warned}", flush=True)
        if (i + 1) % 10 == 0 or i + 1 == options.proteins:
            for key, (n, bad, lower, silent, most) in counts.items():
                print(
                    f"{i + 1} proteins {key}: {n} fits, {bad} not converged, {lower} below the best of "
                    f"{options.starts} starts, {silent} of them silent, largest gap {most:.4f}",
                    flush=True,
                )
            print(f"{time.process_time() - begin:.0f} s", flush=True)


if __name__ == "__main__":
    main()
