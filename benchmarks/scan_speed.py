"""Processor time of scans: cases of FLASH-MM beside it, 10,000 features, and memory above the data.

    python benchmarks/scan_speed.py [--peer PYTHON] [--before PATH]

``--peer`` is an interpreter that can import ``flash_mm`` (pip install flash-mm scipy), ``--before`` a checkout of
another version of this package, whose scan of 500 features is scaled up. Standard errors and degrees of freedom are
included.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time

PEER_CASES = ((60, 500, 12), (2000, 300, 20), (20000, 200, 20))
PEER = """
import sys, time, json, numpy as np
sys.path.insert(0, {here!r})
from scan_speed import peer_data
from flash_mm import lmmfit, lmmtest
X, g, Y = peer_data(*{case!r})
Z = (g[:, None] == np.arange(g.max() + 1)).astype(float)
begin = time.process_time()
fit = lmmfit(Y.T.copy(), X, Z, d=[Z.shape[1]])
lmmtest(fit)
print(json.dumps(time.process_time() - begin))
"""
BEFORE = """
import sys, time, json, warnings
sys.path[:0] = [{path!r}, {here!r}]
warnings.simplefilter("ignore")
from scan_speed import large_data
import mvmise_sm as ms
samples, features = large_data(500)
ms.scan("~ cond + age + (1 | g)", samples, features.iloc[:, :5], model="lmer")
begin = time.process_time()
ms.scan("~ cond + age + (1 | g)", samples, features, model="lmer")
print(json.dumps((time.process_time() - begin) * 20.0))
"""


def peer_data(n, count, levels):
    """Design (n, 3), groups (n,) and features (n, count)."""
    import numpy as np

    rng = np.random.default_rng(n)
    g = np.sort(rng.integers(0, levels, n))
    X = np.column_stack([np.ones(n), rng.normal(size=n), np.arange(n) % 2])
    return X, g, rng.normal(size=(n, count)) + 0.5 * rng.normal(size=(levels, count))[g]


def large_data(count=10_000):
    """Samples and features of 60 rows in 12 groups."""
    import numpy as np
    import pandas as pd

    rng = np.random.default_rng(1)
    g = np.repeat(np.arange(12), 5)
    samples = pd.DataFrame({"g": g.astype(str), "cond": np.tile(list("ABC"), 20), "age": rng.normal(size=60)})
    values = rng.normal(size=(60, count)) + 0.5 * rng.normal(size=(12, count))[g]
    return samples, pd.DataFrame(values, columns=[f"f{j}" for j in range(count)])


def timed(function, *args, **kwargs):
    begin = time.process_time()
    function(*args, **kwargs)
    return time.process_time() - begin


def outside(python, code):
    env = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    env.pop("PYTHONPATH", None)
    out = subprocess.run([python, "-c", code], capture_output=True, text=True, env=env)
    return json.loads(out.stdout.splitlines()[-1]) if out.returncode == 0 else out.stderr[-300:]


def main():
    import numpy as np
    import pandas as pd

    import mvmise_sm as ms

    parser = argparse.ArgumentParser()
    parser.add_argument("--peer")
    parser.add_argument("--before")
    given = parser.parse_args()
    here = os.path.dirname(os.path.abspath(__file__))
    samples, features = large_data()
    rng = np.random.default_rng(2)
    call = {"model": "lmer", "moderate": "contrast"}
    ms.scan("~ cond + age + (1 | g)", samples, features.iloc[:, :20], **call)
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"10,000 x 60, (1 | g): {timed(ms.scan, '~ cond + age + (1 | g)', samples, features, **call):.2f} s")
    absent = features.mask(rng.random(features.shape) < 0.1)
    print(f"  10 % missing: {timed(ms.scan, '~ cond + age + (1 | g)', samples, absent, **call):.2f} s")
    weights = rng.uniform(0.5, 2.0, features.shape)
    print(f"  weights: {timed(ms.scan, '~ cond + age + (1 | g)', samples, features, weights=weights, **call):.2f} s")
    print(f"  (age | g): {timed(ms.scan, '~ cond + age + (age | g)', samples, features, **call):.2f} s")
    extra = (absent.size + weights.size) * 8 / 1e6
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) / 1e3
    print(f"  memory above the first scan {peak:.0f} MB, of which further tables {extra:.0f} MB")
    if given.before:
        code = BEFORE.format(path=given.before, here=here)
        print(f"  {given.before}: {outside(sys.executable, code)} s")
    for case in PEER_CASES:
        X, g, Y = peer_data(*case)
        table = pd.DataFrame({"x": X[:, 1], "z": X[:, 2], "g": g.astype(str)})
        columns = pd.DataFrame(Y, columns=[f"f{j}" for j in range(Y.shape[1])])
        own = min(timed(ms.scan, "~ x + z + (1 | g)", table, columns, model="lmer") for _ in range(3))
        line = f"{case[0]} rows x {case[1]} features: {own:.2f} s"
        if given.peer:
            other = outside(given.peer, PEER.format(here=here, case=case))
            line += f", FLASH-MM {other if isinstance(other, str) else f'{other:.2f} s, ratio {other / own:.1f}'}"
        print(line, flush=True)


if __name__ == "__main__":
    main()
