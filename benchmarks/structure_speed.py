"""Processor time of repeated-measures models, and how it grows with the number of subjects.

    python benchmarks/structure_speed.py [--write big.csv]

The file is what ``Rscript benchmarks/structure_speed.R big.csv`` reads.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import pandas as pd

import mvmise_sm as ms

VISITS = 8
FORMULA = "y ~ x + arm * visit"


def make(subjects: int) -> pd.DataFrame:
    """Subjects with up to eight visits, seen at one of some two dozen sets of visits."""
    rng = np.random.default_rng(0)
    size = np.linspace(1, 2, VISITS)
    root = np.linalg.cholesky(0.5 ** np.abs(np.subtract.outer(range(VISITS), range(VISITS))) * np.outer(size, size))
    noise = rng.normal(size=(subjects, VISITS)) @ root.T
    arm, x = rng.integers(0, 2, subjects), rng.normal(size=subjects)
    y = 1 + 0.3 * arm[:, None] * np.arange(VISITS) + x[:, None] + noise
    seen = np.random.default_rng(1).random((94, VISITS)) < 0.85
    seen[:, 0], seen[0] = True, True
    often = np.random.default_rng(2).dirichlet(np.full(94, 0.5))
    which = rng.choice(94, subjects, p=often)
    which[:94] = np.arange(94)
    frame = pd.DataFrame({"id": np.repeat(np.arange(subjects), VISITS), "y": y.ravel(), "x": np.repeat(x, VISITS)})
    frame["visit"] = np.tile([f"v{i}" for i in range(VISITS)], subjects)
    frame["arm"] = np.repeat(np.where(arm, "B", "A"), VISITS)
    return frame[seen[which].ravel()].reset_index(drop=True)


def seconds(what: Callable[[], object], times: int = 10) -> float:
    """The least processor time of several runs."""
    best = np.inf
    for _ in range(times):
        start = time.process_time()
        what()
        best = min(best, time.process_time() - start)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write")
    options = parser.parse_args()
    big = make(5000)
    if options.write:
        big.to_csv(options.write, index=False)
    fev = ms.datasets.load_fev()
    print("whole calls with formula and standard errors")
    formula = "FEV1 ~ RACE + SEX + ARMCD * AVISIT"
    print("FEV1 us", seconds(lambda: ms.lmer(formula, fev, residual="us(AVISIT | USUBJID)").fit().bse))
    for kind in ("ar1h", "us"):
        print(
            f"5,000 x 8 {kind}",
            seconds(lambda kind=kind: ms.lmer(FORMULA, big, residual=f"{kind}(visit | id)").fit().bse, 5),
        )
    print("fit and standard errors, without the design; with Kenward and Roger's tests")
    models = {n: ms.lmer(FORMULA, make(n), residual="us(visit | id)") for n in (2500, 5000, 10000)}
    plain, tests = dict.fromkeys(models, np.inf), dict.fromkeys(models, np.inf)
    for _ in range(25):
        for n, model in models.items():
            plain[n] = min(plain[n], seconds(lambda model=model: model.fit().bse, 1))
            tests[n] = min(tests[n], seconds(lambda model=model: model.fit().tidy(ddf="kenward-roger"), 1))
    for n in models:
        print(f"{n:6d} subjects, us", plain[n], tests[n])


if __name__ == "__main__":
    main()
