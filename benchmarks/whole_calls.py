"""Whole calls with standard errors: model, fit and standard errors, equal answers first, memory beside time.

    python benchmarks/whole_calls.py [CASE ...] [--rounds 5]

Cases: ``toy-intercept`` and ``toy-slope`` (20 to 200 rows, two seeds each), and the generalised cases of
``cases.json``. Every program has a process of its own with one BLAS thread; the smallest of the rounds counts, and the
programs take turns. A ratio is printed where the other program ends within 1e-5 of our optimum in deviance, otherwise
its distance. The floor is statsmodels' ``ols`` of the fixed effects with its standard errors on the same rows.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

HERE = Path(__file__).parent
GENERALISED = ("contraception", "verbagg", "bernoulli_100k")
SIZES = ((20, 5), (50, 10), (100, 10), (200, 20))
TOYS = {
    f"toy-{kind}-{n}-{seed}": (kind, n, j, seed) for kind in ("intercept", "slope") for n, j in SIZES for seed in (1, 2)
}
PROGRAMS = ("mvmise_sm", "mixedlm", "statsmodels", "flashmm", "ols")


def toy(n, levels, seed):
    """A small grouped data frame."""
    import numpy as np
    import pandas as pd

    rng = np.random.default_rng(seed)
    g = np.unique(rng.integers(0, levels, n), return_inverse=True)[1]
    x1, x2 = rng.normal(size=n), rng.normal(size=n)
    u = rng.normal(size=(levels, 2)) * [0.7, 0.3]
    y = 1 + 0.5 * x1 - 0.2 * x2 + u[g, 0] + u[g, 1] * x1 + rng.normal(size=n)
    return pd.DataFrame({"y": y, "x1": x1, "x2": x2, "g": g})


def call_of(program, name, folder):
    """A function that makes the whole call and returns the criterion, or None where there is none to compare."""
    sys.path.insert(0, str(HERE))
    if name in TOYS:
        kind, *sizes = TOYS[name]
        frame, family, weights = toy(*sizes), None, None
        formula = "y ~ x1 + (1 | g)" if kind == "intercept" else "y ~ x1 + (x1 | g)"
    else:
        import compare

        case, frame = compare.load(name, folder)
        formula, family, weights = case["formula"], case["family"], case.get("weights")
    if program == "mvmise_sm":
        import statsmodels.api as sm

        import mvmise_sm as ms

        if family is None:

            def call():
                fit = ms.lmer(formula, frame).fit()
                return fit.bse.sum() * 0.0 + fit.criterion

        else:

            def call():
                fit = ms.glmer(formula, frame, family=sm.families.Binomial(), weights=weights).fit()
                return fit.bse.sum() * 0.0 + fit.criterion

        return call
    if program == "mixedlm":
        from peers import PEERS

        fit, objective = PEERS["mixedlm"]({"formula": formula, "family": family, "weights": weights}, frame)

        def call():
            found = fit()
            found.vcov()
            return objective(found)

        return call
    if name not in TOYS:
        return None
    if program == "statsmodels":
        import statsmodels.formula.api as smf

        slopes = None if kind == "intercept" else "~x1"

        def call():
            fit = smf.mixedlm("y ~ x1", frame, groups="g", re_formula=slopes).fit()
            return fit.bse.sum() * 0.0 - 2.0 * float(fit.llf)

        return call
    if program == "flashmm":
        if kind != "intercept":
            return None
        import numpy as np
        from flash_mm.lmmfit import lmmfit

        X = np.column_stack([np.ones(len(frame)), frame["x1"]])
        Z = (frame["g"].to_numpy()[:, None] == np.arange(frame["g"].max() + 1)).astype(float)
        Y = frame[["y"]].to_numpy().T

        def call():
            lmmfit(Y, X, Z, d=[Z.shape[1]])

        return call
    import statsmodels.formula.api as smf

    def call():
        smf.ols("y ~ x1", frame).fit().bse  # noqa: B018

    return call


def work(program, name, folder, rounds):
    """Time one program on one case; one line of JSON."""
    warnings.simplefilter("ignore")
    warnings.showwarning = lambda *args, **options: None
    call = call_of(program, name, folder)
    if call is None:
        print(json.dumps({}))
        return
    criterion, times = call(), []
    inner = 5 if name in TOYS else 1
    for _ in range(rounds * inner):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"cpu": min(times), "criterion": criterion, "mb": peak}))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("cases", nargs="*")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--worker")
    options = parser.parse_args()
    folder = str(Path(tempfile.gettempdir()) / "mvmise_sm_benchmarks")
    os.makedirs(folder, exist_ok=True)
    if options.worker:
        work(options.worker, options.cases[0], folder, options.rounds)
        return
    env = dict(os.environ, OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    print("| case | ours, ms (MB) | " + " | ".join(PROGRAMS[1:]) + " |\n|" + "---|" * (len(PROGRAMS) + 1))
    for name in options.cases or [*TOYS, *GENERALISED]:
        best = {}
        for _ in range(1):
            for program in PROGRAMS:
                command = [sys.executable, __file__, name, "--worker", program, "--rounds", str(options.rounds)]
                run = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
                found = json.loads(run.stdout.splitlines()[-1]) if run.returncode == 0 and run.stdout else {}
                if found and found["cpu"] < best.get(program, {"cpu": float("inf")})["cpu"]:
                    best[program] = found
        ours = best["mvmise_sm"]
        cells = [f"{1e3 * ours['cpu']:.2f} ({ours['mb']:.0f})"]
        for program in PROGRAMS[1:]:
            other = best.get(program)
            if other is None:
                cells.append("-")
                continue
            gap = None if other["criterion"] is None else other["criterion"] - ours["criterion"]
            note = f"; +{gap:.1g}" if gap is not None and abs(gap) > 1e-5 else ""
            cells.append(f"{1e3 * other['cpu']:.2f} ({other['mb']:.0f}), ratio {ours['cpu'] / other['cpu']:.2f}{note}")
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
