"""Processor time of whole fits, formula included, here and in other packages, at the same optimum.

    python benchmarks/compare.py [CASE ...] [--repeats 5] [--output benchmarks/results.md]

Every package runs in a process of its own with one BLAS thread: lme4 and glmmTMB when ``Rscript`` finds them, mixedlm,
gpboost and statsmodels when they import. The smallest of the repeats counts. A case fails when a package that minimises
the same criterion ends lower than here by more than its tolerance; a package above the optimum is reported with its
gap.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

HERE = Path(__file__).parent
REFERENCE = HERE.parent / "tests" / "reference"
R_PACKAGES = ("lme4", "glmmTMB")
# criteria that differ by a constant or by ML against REML are not compared
SAME_CRITERION = {"lme4", "mixedlm", "glmmTMB", "statsmodels"}
TOLERANCE = 2e-3
LIMIT = 900


def load(name, folder):
    """The data frame of a case, factors as categoricals."""
    import pandas as pd

    case = json.loads((HERE / "cases.json").read_text())[name]
    kind, stem = case["data"].split("/")
    if kind == "simulated":
        path = Path(folder) / f"{stem}.csv"
        if not path.exists():
            subprocess.run(
                [sys.executable, str(HERE / "make_data.py"), str(folder), stem], check=True, stdout=subprocess.DEVNULL
            )
        frame = pd.read_csv(path)
        for column in case.get("factors", ()):
            frame[column] = frame[column].astype("category")
        return case, frame
    with gzip.open(REFERENCE / "data" / "levels.json.gz", "rt") as stream:
        levels = json.load(stream).get(stem, {})
    path = next(p for p in (REFERENCE / "data").glob(f"{stem}.csv*"))
    frame = pd.read_csv(path, dtype=dict.fromkeys(levels, str), keep_default_na=False, na_values=[""])
    for column, order in levels.items():
        frame[column] = pd.Categorical(frame[column], categories=order["levels"], ordered=order["ordered"])
    return case, frame


def work(package, name, repeats, folder):
    """Time one Python package; prints one line of JSON."""
    sys.path.insert(0, str(HERE))
    from peers import PEERS, NotApplicable

    warnings.simplefilter("ignore")
    case, frame = load(name, folder)
    try:
        fit, objective = PEERS[package](case, frame)
        result = fit()
        times = []
        while len(times) < repeats and sum(times) < 60:
            start = time.process_time()
            result = fit()
            times.append(time.process_time() - start)
        print(json.dumps({"cpu": min(times), "objective": float(objective(result))}))
    except NotApplicable as reason:
        print(json.dumps({"skipped": str(reason)}))
    except ImportError as error:
        print(json.dumps({"skipped": f"not installed: {error}"}))


def measure(package, name, repeats, folder):
    """Run one package on one case in its own process."""
    env = dict(os.environ, OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")
    if package in R_PACKAGES:
        case, frame = load(name, folder)
        with tempfile.TemporaryDirectory() as scratch:
            csv = Path(scratch) / "data.csv"
            frame.to_csv(csv, index=False)
            factors = {c: [str(v) for v in frame[c].cat.categories] for c in frame if str(frame[c].dtype) == "category"}
            ordered = [c for c in factors if frame[c].cat.ordered]
            spec = {**case, "csv": str(csv), "factors": factors, "ordered": ordered, "repeats": repeats}
            path = Path(scratch) / "spec.json"
            path.write_text(json.dumps(spec))
            command = ["Rscript", str(HERE / "time_lme4.R"), package, str(path)]
            return _run(command, env)
    return _run(
        [sys.executable, __file__, "--worker", package, name, "--repeats", str(repeats), "--folder", folder], env
    )


def _run(command, env):
    try:
        out = subprocess.run(command, env=env, capture_output=True, text=True, timeout=LIMIT, check=False)
    except FileNotFoundError:
        return {"skipped": "not installed"}
    except subprocess.TimeoutExpired:
        return {"skipped": f"more than {LIMIT} s"}
    lines = out.stdout.strip().splitlines()
    if out.returncode or not lines:
        message = (out.stderr.strip().splitlines() or ["no output"])[-1]
        return {"skipped": message[:80]}
    return json.loads(lines[-1])


def table(results, packages):
    """Markdown table of seconds and ratios, ours over theirs."""
    head = ["case", "ours, s", *(f"{p}, s (ratio)" for p in packages)]
    rows = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, found in results.items():
        ours = found["mvmise_sm"]
        cells = [name, f"{ours['cpu']:.4g}" if "cpu" in ours else ours["skipped"]]
        for package in packages:
            peer = found[package]
            if "cpu" not in peer or "cpu" not in ours:
                cells.append("-")
                continue
            gap = peer["objective"] - ours["objective"]
            note = f", +{gap:.2g}" if package in SAME_CRITERION and gap > 1e-4 else ""
            cells.append(f"{peer['cpu']:.4g} ({ours['cpu'] / peer['cpu']:.3g}{note})")
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--packages", default="lme4,mixedlm,gpboost,glmmTMB,statsmodels")
    parser.add_argument("--folder", default=str(Path(tempfile.gettempdir()) / "mvmise_sm_benchmarks"))
    parser.add_argument("--output", type=Path)
    parser.add_argument("--worker", metavar="PACKAGE")
    options = parser.parse_args()
    os.makedirs(options.folder, exist_ok=True)
    if options.worker:
        return work(options.worker, options.cases[0], options.repeats, options.folder)
    names = options.cases or list(json.loads((HERE / "cases.json").read_text()))
    packages = options.packages.split(",")
    results, wrong = {}, []
    for name in names:
        results[name] = {p: measure(p, name, options.repeats, options.folder) for p in ["mvmise_sm", *packages]}
        ours = results[name]["mvmise_sm"]
        print(name, json.dumps(results[name]), file=sys.stderr, flush=True)
        if "objective" not in ours:
            wrong.append(f"{name}: no fit here: {ours['skipped']}")
            continue
        for package in SAME_CRITERION & set(packages):
            peer = results[name][package].get("objective")
            if peer is not None and ours["objective"] > peer + TOLERANCE:
                wrong.append(f"{name}: {package} ends {ours['objective'] - peer:.3g} lower")
    text = table(results, packages)
    print(text)
    if options.output:
        options.output.write_text(text)
    if wrong:
        sys.exit("answers disagree:\n" + "\n".join(wrong))


if __name__ == "__main__":
    main()
