"""How far 400 fits of small designs, many of them singular, end above the best point of many starts.

python benchmarks/singular_designs.py [--designs 400] [--starts 15]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))


def main():
    from test_core_newton import _small_design

    from mvmise_sm.core.optimise.newton import minimize

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--designs", type=int, default=400)
    parser.add_argument("--starts", type=int, default=15)
    options = parser.parse_args()
    gaps, evaluations, singular, unconverged = [], [], 0, 0
    for seed in range(options.designs):
        criterion = _small_design(seed)
        found = minimize(criterion)
        best = found.value
        rng = np.random.default_rng(seed)
        for _ in range(options.starts):
            scales = np.exp(rng.normal(-0.5, 1.0, criterion.k_theta))
            start = np.where(criterion.lower == 0.0, scales, rng.normal(0.0, 0.5, criterion.k_theta))
            best = min(best, minimize(criterion, start).value)
        gaps.append(found.value - best)
        evaluations.append(found.retvals["n_evaluations"])
        singular += found.singular
        unconverged += not found.converged
    gaps = np.array(gaps)
    print(f"{options.designs} designs, {singular} singular, {unconverged} not converged")
    counts = ", ".join(f"{bound:g}: {(gaps > bound).sum()}" for bound in (1e-6, 1e-4))
    print(f"above the best point by more than {counts}; largest {gaps.max():.2g}")
    print(f"evaluations: median {np.median(evaluations):.0f}, mean {np.mean(evaluations):.1f}, most {max(evaluations)}")


if __name__ == "__main__":
    main()
