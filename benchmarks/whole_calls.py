"""Whole calls with standard errors, beside other packages: equal answers first, fresh data, memory beside time.

    python benchmarks/whole_calls.py [CASE ...] [--seed 7] [--rounds 2] [--repeats 3] [--output benchmarks/results.md]

Cases are small models of 20 to 200 rows (``toy-intercept-50-1``) and those of ``cases.json``. A call is the model with
its formula, the fit and the standard errors. Every program runs in a process of its own with one BLAS thread, warm, and
the programs take turns; the least processor time counts, and the largest memory of the process once the data are read.
Short calls are repeated, one of more than 20 s is made once; small cases are timed in turns, call by call, in a process
of all Python programs.

A ratio, ours over theirs, counts only for equal answers: our criterion at the other program's parameters lies within
1e-6 of the value that it reports (relative), and our optimum is not above that point by more than 1e-6. ``+0.003`` says
how far the other program ends above our optimum. Ratios that do not count stand in brackets with the distance between
the value reported and ours at the same parameters. gpboost has maximum likelihood only, so our fit by maximum
likelihood stands beside it. ``--seed`` draws the simulated data; without it the clock does. Ends with an error where
another program ends below ours.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

from cases import HERE, TOYS, load, peak_mb, reset_peak

R_PACKAGES = ("lme4", "glmmTMB")
OTHERS = ("lme4", "mixedlm", "gpboost", "glmmTMB", "statsmodels", "flashmm")
COLUMNS = ("mvmise_sm", *OTHERS, "floor")
TOLERANCE = 1e-6
SHOWN = 1e-5
# seconds: calls that are not repeated, and what short ones are repeated for
LONG, ENOUGH = 20.0, 0.4
# cases whose calls take a few milliseconds, and the seconds that Python programs take turns in
SMALL, TURNS = (*TOYS, "sleepstudy", "pastes", "crossed3", "cbpp"), 4.0
LIMIT = 900


def work(program: str, name: str, options: argparse.Namespace) -> None:
    """Time one Python program; prints one line of JSON."""
    from peers import PEERS, NotApplicable

    warnings.simplefilter("ignore")
    warnings.showwarning = lambda *args, **more: None
    case, frame = load(name, options.folder, options.seed)
    try:
        call, report = PEERS[program](case, frame)
    except (NotApplicable, ImportError) as reason:
        print(json.dumps({"skipped": str(reason)}))
        return
    reset_peak()
    start = time.process_time()
    found = call()
    times = [time.process_time() - start]
    while times[0] < LONG and (len(times) <= options.repeats or sum(times) < ENOUGH):
        start = time.process_time()
        found = call()
        times.append(time.process_time() - start)
    print(json.dumps({"cpu": min(times), "mb": peak_mb(), **report(found)}))


def turns(name: str, options: argparse.Namespace) -> None:
    """Time Python programs call by call in turns in one process: what small calls are compared by on a busy machine."""
    from peers import PEERS, NotApplicable

    warnings.simplefilter("ignore")
    warnings.showwarning = lambda *args, **more: None
    case, frame = load(name, options.folder, options.seed)
    calls = {}
    for program in ("mvmise_sm", "mvmise_sm_ml", *options.packages.split(","), "floor"):
        with contextlib.suppress(NotApplicable, ImportError, KeyError):
            calls[program] = PEERS[program](case, frame)[0]
            calls[program]()
    times: dict[str, list[float]] = {program: [] for program in calls}
    while sum(map(sum, times.values())) < TURNS:
        for program, call in calls.items():
            start = time.process_time()
            call()
            times[program].append(time.process_time() - start)
    print(json.dumps({program: min(each) for program, each in times.items()}))


def judge(name: str, options: argparse.Namespace) -> None:
    """Our criterion at the parameters that others found, which come as JSON; prints one line of JSON."""
    import numpy as np

    import mvmise_sm as ms

    warnings.simplefilter("ignore")
    case, frame = load(name, options.folder, options.seed)
    out = {}
    if case.get("family"):
        model = ms.glmer(case["formula"], frame, family=case["family"], weights=case.get("weights"))
    else:
        model = ms.lmer(case["formula"], frame)
    terms = [(frozenset(t.factor.name.split(":")), len(t.names)) for t in model.random_layout.terms]
    for program, found in json.loads(sys.stdin.read()).items():
        given = {frozenset(group.split(":")): np.array(cov) for group, cov in found["groups"]}
        theta = np.concatenate([packed(given[group].reshape(q, q) / found["sigma2"]) for group, q in terms])
        if case.get("family"):
            criterion = model.criterion()
            beta = in_our_order(found["beta"], case["formula"], model.exog_names)
            value, best = criterion.evaluate_at(theta, beta)[0], model.fit().criterion
        else:
            reml = not found.get("ml", False)
            value, best = model.criterion(reml=reml)(theta), model.fit(reml=reml).criterion
        out[program] = {"ours_there": float(value), "best": float(best)}
    print(json.dumps(out))


def packed(cov):
    """Lower Cholesky factor of a covariance that may be singular, by columns."""
    import numpy as np

    left, q = np.array(cov, dtype=float), len(cov)
    factor, scale = np.zeros((q, q)), np.diag(cov).max()
    for j in range(q):
        if left[j, j] > 1e-14 * scale:
            factor[j:, j] = left[j:, j] / np.sqrt(left[j, j])
            left -= np.outer(factor[:, j], factor[:, j])
    return np.concatenate([factor[j:, j] for j in range(q)])


def in_our_order(beta, formula, names):
    """Fixed effects of others in the order of our columns; packages order terms and name levels in their own ways."""
    from peers import bars_and_fixed

    def plain(text):
        return text.replace("^", "**").replace(" ", "").strip("()")

    terms = ["Intercept", *map(plain, bars_and_fixed(formula)[1].split("+"))]

    def term_of(column):
        return max((t for t in terms if plain(column).startswith(t)), key=len)

    values = {t: [v for column, v in beta.items() if term_of(column) == t] for t in terms}
    return [values[term_of(column)].pop(0) for column in names]


def run(program: str, name: str, options: argparse.Namespace) -> dict:
    """One program on one case in a process of its own."""
    env = dict(os.environ, OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")
    if program in R_PACKAGES:
        case, frame = load(name, options.folder, options.seed)
        with tempfile.TemporaryDirectory() as scratch:
            csv, path = Path(scratch) / "data.csv", Path(scratch) / "spec.json"
            frame.to_csv(csv, index=False)
            kinds = {c: [str(v) for v in frame[c].cat.categories] for c in frame if str(frame[c].dtype) == "category"}
            given = {"csv": str(csv), "factors": kinds, "repeats": options.repeats, "enough": ENOUGH}
            path.write_text(json.dumps({**case, **given}))
            return _answer(["Rscript", str(HERE / "whole_calls.R"), program, str(path)], env)
    return _answer([sys.executable, __file__, name, "--worker", program, *_passed(options)], env)


def _passed(options: argparse.Namespace) -> list[str]:
    return ["--seed", str(options.seed), "--repeats", str(options.repeats), "--folder", str(options.folder)]


def _answer(command: list[str], env: dict[str, str], given: str | None = None) -> dict:
    try:
        out = subprocess.run(command, env=env, input=given, capture_output=True, text=True, timeout=LIMIT, check=False)
    except FileNotFoundError:
        return {"skipped": "not installed"}
    except subprocess.TimeoutExpired:
        return {"skipped": f"more than {LIMIT} s"}
    lines = out.stdout.strip().splitlines()
    if out.returncode or not lines:
        return {"skipped": (out.stderr.strip().splitlines() or ["no output"])[-1][:80]}
    return json.loads(lines[-1])


def measured(name: str, options: argparse.Namespace) -> dict[str, dict]:
    """The least time and memory of every program on a case, and our criterion where each ended."""
    best: dict[str, dict] = {}
    others = options.packages.split(",")
    # our fits that stand beside gpboost's, and beside mixedlm's standard errors of generalised models
    beside = [("mvmise_sm_ml", "gpboost"), *([] if name in TOYS else [("mvmise_sm_rx", "mixedlm")])]
    programs = ("mvmise_sm", *(ours for ours, other in beside if other in others), *others, "floor")
    for turn in range(options.rounds):
        for program in programs:
            known = best.get(program)
            if known and ("cpu" not in known or (turn and known["cpu"] > LONG)):
                continue
            found = run(program, name, options)
            if known is None or found.get("cpu", LIMIT) < known["cpu"]:
                best[program] = found
            best[program]["mb"] = max(f.get("mb", 0.0) for f in (known, found) if f)
    if name in SMALL:
        command = [sys.executable, __file__, name, "--worker", "turns", "--packages", options.packages]
        alike = _answer([*command, *_passed(options)], dict(os.environ, OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1"))
        for program, cpu in alike.items():
            if "cpu" in best.get(program, {}):
                best[program]["cpu"] = cpu
    given = {program: found for program, found in best.items() if "groups" in found}
    command = [sys.executable, __file__, name, "--worker", "judge", *_passed(options)]
    verdict = _answer(command, dict(os.environ, OPENBLAS_NUM_THREADS="1"), json.dumps(given)) if given else {}
    if "skipped" in verdict:
        raise RuntimeError(f"{name}: {verdict['skipped']}")
    for program, at in verdict.items():
        best[program].update(at)
    return best


def row(name: str, best: dict[str, dict], wrong: list[str]) -> list[str]:
    """Cells of one case; the least time and the least memory of those with equal answers are bold."""
    ours, cells, counted = best["mvmise_sm"], {}, {"mvmise_sm"}
    for program in OTHERS:
        found = best.get(program, {})
        if "cpu" not in found:
            continue
        beside = best["mvmise_sm_ml"] if found.get("ml") and "cpu" in best["mvmise_sm_ml"] else ours
        gap, reported = found["ours_there"] - found["best"], found.get("criterion", found["ours_there"])
        note = f", +{gap:.2g}" if gap > SHOWN else ""
        # glmmTMB has no likelihood on the boundary
        apart = float(reported) - found["ours_there"] if reported != "NA" else float("nan")
        if gap < -TOLERANCE:
            wrong.append(f"{name}: {program} ends {-gap:.2g} below ours")
        ratio = f"{beside['cpu'] / found['cpu']:.2g}{note}"
        if not abs(apart) <= TOLERANCE * max(1.0, abs(found["ours_there"])):
            cells[program] = f"[{ratio}; says {'nothing' if apart != apart else f'{apart:+.1g}'}]"
        else:
            counted.add(program)
            cells[program] = ratio
    least = {key: min(best[program][key] for program in counted) for key in ("cpu", "mb")}

    def numbers(program: str) -> str:
        found = best[program]
        time_, mb = milliseconds(found["cpu"]), f"{found['mb']:,.0f}"
        if program in counted:
            time_ = f"**{time_}**" if found["cpu"] == least["cpu"] else time_
            mb = f"**{mb}**" if found["mb"] == least["mb"] else mb
        return f"{time_} ({mb})"

    out = [name, numbers("mvmise_sm")]
    out += [f"{numbers(p)}: {cells[p]}" if p in cells else "" for p in OTHERS]
    floor = best.get("floor", {})
    return [*out, f"{milliseconds(floor['cpu'])}: {ours['cpu'] / floor['cpu']:.2g}" if "cpu" in floor else ""]


def milliseconds(seconds: float) -> str:
    """Three digits."""
    return f"{1e3 * seconds:,.0f}" if seconds >= 0.1 else f"{1e3 * seconds:.3g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--packages", default=",".join(OTHERS))
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "mvmise_sm_benchmarks")
    parser.add_argument("--keep", type=Path, help="JSON file of all numbers; programs and cases left out keep theirs")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--worker", metavar="PROGRAM")
    options = parser.parse_args()
    if options.worker:
        roles = {"judge": judge, "turns": turns}
        role = roles.get(options.worker, lambda name, given: work(options.worker, name, given))
        role(options.cases[0], options)
        return
    every = [*TOYS, *json.loads((HERE / "cases.json").read_text())]
    kept = json.loads(options.keep.read_text()) if options.keep and options.keep.exists() else {}
    print(f"seed {options.seed}", flush=True)
    for name in options.cases or every:
        before = kept.get(name, {})
        kept[name] = {**(before if before.get("seed") == options.seed else {}), "seed": options.seed}
        kept[name].update(measured(name, options))
        print(name, json.dumps(kept[name]), file=sys.stderr, flush=True)
        if options.keep:
            options.keep.write_text(json.dumps(kept, indent=1))
    wrong: list[str] = []
    head = [{"flashmm": "FLASH-MM"}.get(column, column) for column in COLUMNS]
    lines = ["| case | " + " | ".join(head) + " |", "|" + "---|" * (len(COLUMNS) + 1)]
    lines += ["| " + " | ".join(row(name, kept[name], wrong)) + " |" for name in every if name in kept]
    text = "\n".join(lines) + "\n"
    print(text)
    if options.output:
        options.output.write_text(text)
    if wrong:
        sys.exit("answers disagree:\n" + "\n".join(wrong))


if __name__ == "__main__":
    main()
