"""The data frames of ``cases.json`` and of small simulated models, and what a process used."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

__all__ = ["HERE", "TOYS", "load", "peak_mb", "reset_peak"]

HERE = Path(__file__).parent
REFERENCE = HERE.parent / "tests" / "reference" / "data"
SIZES = ((20, 5), (50, 10), (100, 10), (200, 20))
# name: kind, rows, groups, which of two draws
TOYS = {
    f"toy-{kind}-{n}-{draw}": (kind, n, j, draw) for kind in ("intercept", "slope") for n, j in SIZES for draw in (1, 2)
}


def toy(n: int, levels: int, seed: Any) -> pd.DataFrame:
    """A small grouped data frame."""
    rng = np.random.default_rng(seed)
    g = np.unique(rng.integers(0, levels, n), return_inverse=True)[1]
    x1, x2 = rng.normal(size=n), rng.normal(size=n)
    u = rng.normal(size=(levels, 2)) * [0.7, 0.3]
    y = 1 + 0.5 * x1 - 0.2 * x2 + u[g, 0] + u[g, 1] * x1 + rng.normal(size=n)
    return pd.DataFrame({"y": y, "x1": x1, "x2": x2, "g": g})


def load(name: str, folder: Path, seed: int) -> tuple[dict[str, Any], pd.DataFrame]:
    """The case and its data frame, factors as categoricals; simulated data are drawn anew for every seed."""
    if name in TOYS:
        kind, n, levels, draw = TOYS[name]
        formula = "y ~ x1 + (1 | g)" if kind == "intercept" else "y ~ x1 + (x1 | g)"
        return {"formula": formula}, toy(n, levels, (seed, draw, n))
    case = json.loads((HERE / "cases.json").read_text())[name]
    kind, stem = case["data"].split("/")
    if kind == "simulated":
        path = Path(folder) / str(seed) / f"{stem}.csv"
        if not path.exists():
            command = [sys.executable, str(HERE / "make_data.py"), str(path.parent), stem, "--seed", str(seed)]
            subprocess.run(command, check=True)
        frame = pd.read_csv(path)
        for column in case.get("factors", ()):
            frame[column] = frame[column].astype("category")
        return case, frame
    with gzip.open(REFERENCE / "levels.json.gz", "rt") as stream:
        levels = json.load(stream).get(stem, {})
    path = next(p for p in REFERENCE.glob(f"{stem}.csv*"))
    frame = pd.read_csv(path, dtype=dict.fromkeys(levels, str), keep_default_na=False, na_values=[""])
    for column, order in levels.items():
        frame[column] = pd.Categorical(frame[column], categories=order["levels"], ordered=order["ordered"])
    return case, frame


def reset_peak() -> None:
    """Forget the largest memory so far, so that reading the data does not count."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_mb(key: str = "VmHWM") -> float:
    """Largest resident memory of this process in MB; with "VmRSS" the present one."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / 1024
