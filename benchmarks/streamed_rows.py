"""A streamed fit beside a scan of the same columns: processor time and memory.

    python benchmarks/streamed_rows.py ROWS [--file rows.parquet]

Writes the rows of ``y ~ x1 + x2 + x3 + (x1 | g)`` with 100,000 groups as Parquet (34 bytes a row) unless the file is
there, and runs the scan and the fit in processes of their own with one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

FORMULA = "y ~ x1 + x2 + x3 + (x1 | g)"
COLUMNS = ["y", "x1", "x2", "x3", "g"]
LEVELS, STEP = 100_000, 1_000_000


def write(rows: int, path: str) -> None:
    """The file, in row groups of a million."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng, writer = np.random.default_rng(1), None
    u = rng.normal(size=(LEVELS, 2)) * [0.7, 0.3]
    for start in range(0, rows, STEP):
        n = min(STEP, rows - start)
        g, x = rng.integers(0, LEVELS, n), rng.normal(size=(n, 3))
        y = 1 + x @ [0.5, -0.2, 0.1] + u[g, 0] + u[g, 1] * x[:, 0] + rng.normal(size=n)
        table = pa.table({"y": y, "x1": x[:, 0], "x2": x[:, 1], "x3": x[:, 2], "g": g})
        writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
        writer.write_table(table)
    if writer is not None:
        writer.close()


def scan(path: str) -> float:
    """Seconds of a scan of the columns, each summed."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    pa.set_cpu_count(1)
    start, sums = time.process_time(), dict.fromkeys(COLUMNS, 0.0)
    with pq.ParquetFile(path, pre_buffer=False) as file:
        for batch in file.iter_batches(batch_size=262_144, columns=COLUMNS, use_threads=False):
            for name in COLUMNS:
                sums[name] += pc.sum(batch[name]).as_py()
    return time.process_time() - start


def fit(path: str) -> float:
    """Seconds of the whole call with standard errors."""
    import pyarrow.dataset
    import statsmodels.api  # noqa: F401

    import mvmise_sm as ms

    rows = pyarrow.dataset.dataset(path)
    start = time.process_time()
    result = ms.lmer(FORMULA, rows).fit()
    assert result.bse.notna().all()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("rows", type=float)
    parser.add_argument("--file", default="rows.parquet")
    parser.add_argument("--worker", choices=("scan", "fit"))
    options = parser.parse_args()
    if options.worker:
        seconds = {"scan": scan, "fit": fit}[options.worker](options.file)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"what": options.worker, "seconds": round(seconds, 2), "mb": round(peak)}))
        return
    if not Path(options.file).exists():
        write(int(options.rows), options.file)
    env = dict(os.environ, OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    for worker in ("scan", "fit"):
        command = [sys.executable, __file__, str(options.rows), "--file", options.file, "--worker", worker]
        subprocess.run(command, env=env, check=True)


if __name__ == "__main__":
    main()
