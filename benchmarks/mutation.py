"""Mutation testing: does the suite notice when a sign, a comparison, a term or an index of the numerics changes?

A mutant is one change of one expression. Only the tests that run the changed line are run, from a map of coverage
contexts that is made once, and they stop at the first failure. A mutant that no test covers, and one that all tests
pass, survives. Run from the root of a clone, with the tests' requirements installed::

    python benchmarks/mutation.py map                       # once: coverage contexts of the default suite
    python benchmarks/mutation.py run --mutants 300 --seed 1 --report mutants.csv
    python benchmarks/mutation.py run --only inference/ddf.py --mutants 20

Files are changed in a copy of the package in a temporary folder; the clone itself is left alone.
"""

from __future__ import annotations

import argparse
import ast
import csv
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "mvmise_sm"
ROOMS = ("core", "priors", "selection", "inference", "design")
DATABASE = ROOT / ".mutation-contexts"
SUITE = ("-m", "not slow", "-p", "no:randomly", "-p", "no:cacheprovider", "-q")
# tests of the house itself change nothing that a mutant could break
LEFT_OUT = ("test_architecture", "test_docs", "test_notebooks", "test_benchmarks")
SECONDS = 240.0
FEWEST = 25  # tests per run: a line that hundreds cover is killed by the quickest of them or by none

SIGNS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult}
COMPARISONS = {
    ast.Lt: ast.GtE,
    ast.GtE: ast.Lt,
    ast.Gt: ast.LtE,
    ast.LtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}


@dataclass(frozen=True)
class Mutant:
    """One change: where, of which kind, and both texts."""

    path: Path
    line: int
    column: int
    end_line: int
    end_column: int
    kind: str
    before: str
    after: str

    @property
    def shown(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}"


def mutants_of(path: Path) -> Iterator[Mutant]:
    """Every change of one file; annotations, docstrings and messages are left alone."""
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    skipped = {id(n) for node in ast.walk(tree) for part in _unread(node) for n in ast.walk(part)}
    for node in ast.walk(tree):
        if id(node) in skipped or not hasattr(node, "lineno"):
            continue
        for kind, changed in _changes(node):
            before = ast.get_source_segment(text, node)
            if before is not None and "\n" not in before:
                place = (node.lineno, node.col_offset, node.end_lineno, node.end_col_offset)
                yield Mutant(path, *place, kind, before, f"({ast.unparse(changed)})")


def _unread(node: ast.AST) -> list[ast.AST]:
    """Parts of a node that no number depends on."""
    parts: list[ast.AST] = []
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        parts += [a.annotation for a in ast.walk(node.args) if isinstance(a, ast.arg) and a.annotation]
        parts += [node.returns] if node.returns else []
    elif isinstance(node, ast.AnnAssign):
        parts.append(node.annotation)
    elif isinstance(node, (ast.Raise, ast.JoinedStr)) or (
        isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ):
        parts.append(node)
    return parts


def _changes(node: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """Changed copies of one expression."""
    if isinstance(node, ast.BinOp):
        other = SIGNS.get(type(node.op))
        if other is not None and not _is_text(node):
            yield "sign", ast.BinOp(node.left, other(), node.right)
            if isinstance(node.op, (ast.Add, ast.Sub)):
                yield "dropped term", node.left
    elif isinstance(node, ast.Compare) and len(node.ops) == 1:
        other_op = COMPARISONS.get(type(node.ops[0]))
        if other_op is not None:
            yield "comparison", ast.Compare(node.left, [other_op()], node.comparators)
    elif isinstance(node, ast.BoolOp):
        swapped = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield "comparison", ast.BoolOp(swapped, node.values)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.Not)):
        yield "sign", node.operand
    elif isinstance(node, ast.Constant) and type(node.value) is int and abs(node.value) < 1000:
        yield "off by one", ast.Constant(node.value + 1)
    elif isinstance(node, ast.Constant) and type(node.value) is float and node.value not in (0.0,):
        yield "off by one", ast.Constant(node.value + 1.0 if abs(node.value) >= 0.1 else node.value * 1e3)


def _is_text(node: ast.BinOp) -> bool:
    sides = (node.left, node.right)
    return any(
        isinstance(s, ast.JoinedStr) or (isinstance(s, ast.Constant) and isinstance(s.value, str)) for s in sides
    )


def changed_text(mutant: Mutant) -> str:
    """The file with the mutant in it."""
    lines = mutant.path.read_text(encoding="utf-8").splitlines(keepends=True)
    row = lines[mutant.line - 1].encode()
    lines[mutant.line - 1] = (row[: mutant.column] + mutant.after.encode() + row[mutant.end_column :]).decode()
    return "".join(lines)


def make_map(tests: list[str]) -> None:
    """Run the suite, or some tests, once under coverage, one context per test."""
    settings = "[run]\nsource = mvmise_sm\ndynamic_context = test_function\ndata_file = " + str(DATABASE) + "\n"
    with tempfile.TemporaryDirectory() as folder:
        rc = Path(folder) / "coveragerc"
        rc.write_text(settings, encoding="utf-8")
        command = [sys.executable, "-m", "coverage", "run", f"--rcfile={rc}", "-m", "pytest", *SUITE]
        command += tests or [f"--ignore=tests/{name}.py" for name in LEFT_OUT]
        subprocess.run(command, cwd=ROOT, check=False, env=_environment(ROOT))


def _environment(root: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


class Contexts:
    """Which tests run which line, from coverage's database."""

    def __init__(self, database: Path) -> None:
        # this folder has a coverage.py of its own
        sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT / "benchmarks"]
        from coverage import CoverageData

        self._data = CoverageData(str(database))
        self._data.read()
        with sqlite3.connect(database) as connection:
            connection.execute("select 1")
        self._by_line: dict[str, dict[int, list[str]]] = {}

    def tests(self, path: Path, line: int) -> list[str]:
        """Test functions (``test_file.test_name``) that run a line."""
        name = str(path)
        if name not in self._by_line:
            self._by_line[name] = self._data.contexts_by_lineno(name)
        return sorted(context for context in self._by_line[name].get(line, []) if ".test_" in f".{context}")


def selectors(contexts: list[str], chance: random.Random) -> list[str]:
    """pytest's arguments for some contexts; tests are functions, so parameters all run."""
    found = set()
    for context in contexts:
        module, _, function = context.partition(".test_")
        stem = module.rpartition(".")[2]
        file = ROOT / "tests" / f"{stem}.py"
        if file.exists():
            found.add(f"tests/{stem}.py::test_{function}")
    ordered = sorted(found)
    chance.shuffle(ordered)
    return ordered


def verdict(mutant: Mutant, tests: list[str], workspace: Path) -> str:
    """``killed``, ``survived``, ``uncovered`` or ``hung`` (a hang is noticed, so it counts as killed)."""
    if not tests:
        return "uncovered"
    target = workspace / mutant.path.relative_to(ROOT)
    original = target.read_text(encoding="utf-8")
    target.write_text(changed_text(mutant), encoding="utf-8")
    deadline = time.monotonic() + SECONDS
    try:
        for first in range(0, len(tests), FEWEST):
            command = [sys.executable, "-m", "pytest", "-x", *SUITE, *tests[first : first + FEWEST]]
            left = max(deadline - time.monotonic(), 1.0)
            done = subprocess.run(
                command, cwd=workspace, env=_environment(workspace), capture_output=True, check=False, timeout=left
            )
            if done.returncode not in (0, 5):  # 5: nothing collected
                return "killed"
    except subprocess.TimeoutExpired:
        return "hung"
    finally:
        target.write_text(original, encoding="utf-8")
    return "survived"


def run(count: int, seed: int, only: str, report: Path) -> None:
    """Test so many random mutants and write what became of each."""
    chance = random.Random(seed)
    files = [p for room in ROOMS for p in sorted((PACKAGE / room).rglob("*.py")) if only in str(p.relative_to(PACKAGE))]
    pool = [mutant for path in files for mutant in mutants_of(path)]
    chosen = chance.sample(pool, min(count, len(pool)))
    contexts = Contexts(DATABASE)
    tally: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder, report.open("w", newline="", encoding="utf-8") as handle:
        workspace = Path(folder)
        for part in ("mvmise_sm", "tests"):
            shutil.copytree(ROOT / part, workspace / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", workspace)
        table = csv.writer(handle)
        table.writerow(["verdict", "place", "kind", "before", "after", "tests", "seconds"])
        for number, mutant in enumerate(chosen, 1):
            begin = time.monotonic()
            tests = selectors(contexts.tests(mutant.path, mutant.line), chance)
            what = verdict(mutant, tests, workspace)
            spent = round(time.monotonic() - begin, 1)
            tally[what] = tally.get(what, 0) + 1
            table.writerow([what, mutant.shown, mutant.kind, mutant.before, mutant.after, len(tests), spent])
            handle.flush()
            if what in ("survived", "uncovered"):
                print(f"{number:4d} {what:9s} {mutant.shown}  {mutant.before}  ->  {mutant.after}", flush=True)
    killed = tally.get("killed", 0) + tally.get("hung", 0)
    print(f"{killed} of {len(chosen)} killed ({100.0 * killed / max(len(chosen), 1):.1f} %): {tally}; {report}")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    mapper = commands.add_parser("map", help="run the suite once and note which test runs which line")
    mapper.add_argument("tests", nargs="*", help="files of tests instead of the whole suite")
    runner = commands.add_parser("run", help="test random mutants")
    runner.add_argument("--mutants", type=int, default=300)
    runner.add_argument("--seed", type=int, default=1)
    runner.add_argument("--only", default="", help="part of a path below mvmise_sm")
    runner.add_argument("--report", type=Path, default=Path("mutants.csv"))
    given = parser.parse_args()
    if given.command == "map":
        make_map(given.tests)
    else:
        run(given.mutants, given.seed, given.only, given.report)


if __name__ == "__main__":
    main()
