"""CPU seconds of inference, beside R's lme4, lmerTest and pbkrtest run by inference_speed.R.

python benchmarks/inference_speed.py
Rscript benchmarks/inference_speed.R
"""

import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd

import mvmise_sm as ms

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from conftest import reference_frame


def cpu(task, repeat=3):
    """Least CPU time of a few runs, each on a result without anything kept."""
    times = []
    for _ in range(repeat):
        begin = time.process_time()
        task()
        times.append(time.process_time() - begin)
    return min(times)


def fresh(result):
    """The same result without the parts that inference keeps."""
    result._results._cache = {}
    return result


def main():
    sleepstudy = ms.lmer("Reaction ~ Days + (Days | Subject)", reference_frame("sleepstudy"))
    reml, ml = sleepstudy.fit(), sleepstudy.fit(reml=False)
    print(f"profile of sleepstudy         {cpu(lambda: fresh(ml).conf_int(method='profile')):8.3f}")
    print(f"1,000 refits of sleepstudy    {cpu(lambda: reml.bootstrap(1000, rng=1)):8.3f}")
    evaluation = ms.lmer("y ~ service + (1 | s) + (1 | d)", reference_frame("InstEval")).fit()
    print(f"Satterthwaite, InstEval       {cpu(lambda: fresh(evaluation).tidy(ddf='satterthwaite')):8.3f}")
    print(f"Kenward-Roger, InstEval       {cpu(lambda: fresh(evaluation).tidy(ddf='kenward-roger'), 1):8.3f}")
    rng = np.random.default_rng(1)
    g, h, x = np.tile(np.arange(200), 10), np.repeat(np.arange(40), 50), rng.normal(size=2000)
    data = pd.DataFrame({"x": x, "g": g, "h": h, "tr": rng.choice(list("abcd"), 2000)})
    data["y"] = x + rng.normal(size=200)[g] + 0.5 * x * rng.normal(size=200)[g] + rng.normal(size=2000)
    slope = ms.lmer("y ~ x + tr + (x | g)", data).fit()
    print(f"Kenward-Roger, 2,000, slope   {cpu(lambda: fresh(slope).tidy(ddf='kenward-roger')):8.3f}")
    data["y"] = x + rng.normal(size=200)[g] + 0.5 * rng.normal(size=40)[h] + rng.normal(size=2000)
    crossed = ms.lmer("y ~ x + tr + (1 | g) + (1 | h)", data).fit()
    print(f"Kenward-Roger, 2,000, crossed {cpu(lambda: fresh(crossed).tidy(ddf='kenward-roger')):8.3f}")


if __name__ == "__main__":
    main()
