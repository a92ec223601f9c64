"""Mutation testing: does the suite notice when a sign, a comparison, a term or an index of the numerics changes?

A mutant is one change of one expression. Only the tests that run the changed line are run, the quickest first, from a
map that is made once, and they stop at the first failure. A mutant that no test covers, and one that all its tests pass
or that they pass within the limit of seconds, survives. Run from the root of a clone, with the tests' requirements::

    python benchmarks/mutation.py map                       # once: which test runs which line, and how long it takes
    python benchmarks/mutation.py run --mutants 300 --seed 1 --report mutants.csv
    python benchmarks/mutation.py run --only inference/ddf.py --mutants 20
    python benchmarks/mutation.py again --report mutants.csv # only the survivors of a report, with the suite of today

The clone itself is left alone: the package and its tests are copied to a temporary folder and collected there once.
Each mutant runs in a fork of that process, with the code of the changed function in place of the old one. A change that
matters when its module is imported (a constant, a default) is written to the copy instead and runs in a fork of a
process that has the libraries, but not this package, loaded.
"""

from __future__ import annotations

import argparse
import ast
import compileall
import csv
import gc
import importlib
import json
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "mvmise_sm"
ROOMS = ("core", "priors", "selection", "inference", "design")
MAP = ROOT / ".mutation-map"
SUITE = ("-m", "not slow", "-p", "no:randomly", "-p", "no:cacheprovider", "-q")
# tests of the house itself change nothing that a mutant could break
LEFT_OUT = ("test_architecture", "test_docs", "test_notebooks", "test_benchmarks")
SECONDS = 60.0  # of tests per mutant, as they took for the map
CASES = 4  # of each test's parameters enter the map, evenly spread
PER_FILE = 3.0  # the quickest tests of every file come first, up to so many seconds together
LIBRARIES = ("numpy", "scipy.stats", "scipy.optimize", "scipy.sparse.linalg", "pandas", "statsmodels.api")

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


def in_fork(work: Callable[[], int], limit: float) -> int | None:
    """What ``work`` returns in a fork of this process; None if it takes over ``limit`` seconds or hangs."""
    pid = os.fork()
    if pid == 0:
        code = 3
        try:
            resource.setrlimit(resource.RLIMIT_CPU, (int(limit) + 1, int(limit) + 3))
            with open(os.devnull, "w") as nowhere:
                for stream in (1, 2):
                    os.dup2(nowhere.fileno(), stream)
                code = work()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    begin = time.monotonic()
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else None
        if time.monotonic() - begin > 20.0 * limit:
            os.kill(pid, 9)
        time.sleep(0.02)


def pytest_run(root: Path, arguments: Iterable[str], plugins: list[Any]) -> int:
    """pytest in this process on the package and tests of ``root``."""
    import pytest

    os.chdir(root)
    sys.path.insert(0, str(root))
    os.environ["PYTHONPATH"] = str(root)
    return int(pytest.main([*SUITE, *arguments], plugins=plugins))


class Cartographer:
    """A plugin of pytest that runs some cases of each test and notes the lines and the seconds of each that passes."""

    def __init__(self, root: Path, out: Path) -> None:
        from coverage import Coverage

        self._out = out
        self._coverage = Coverage(data_file=None, source=[str(root / "mvmise_sm")], config_file=False)
        self._coverage.start()
        self._seconds: dict[str, float] = {}
        self._failed: set[str] = set()
        self._begin = 0.0

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        functions: dict[str, list[Any]] = defaultdict(list)
        for item in items:
            functions[item.nodeid.partition("[")[0]].append(item)
        items[:] = [item for same in functions.values() for item in same[:: -(-len(same) // CASES)]]

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._coverage.switch_context(nodeid)
        self._begin = time.process_time()

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.outcome != "passed":
            self._failed.add(report.nodeid)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self._seconds[nodeid] = time.process_time() - self._begin

    def pytest_sessionfinish(self) -> None:
        self._coverage.stop()
        data = self._coverage.get_data()
        passed = [test for test in self._seconds if test not in self._failed]
        number = {test: n for n, test in enumerate(passed)}
        lines: dict[str, dict[int, list[int]]] = {}
        for name in data.measured_files():
            path = str(Path(name)).rpartition("mvmise_sm" + os.sep)[2]
            found = {
                line: [number[t] for t in tests if t in number] for line, tests in data.contexts_by_lineno(name).items()
            }
            lines[path] = {line: tests for line, tests in found.items() if tests}
        seconds = {test: round(self._seconds[test], 3) for test in passed}
        self._out.write_text(json.dumps({"seconds": seconds, "lines": lines}), encoding="utf-8")


def make_map(tests: list[str]) -> None:
    """Run the suite, or some files of tests, once, and note which test runs which line."""
    MAP.mkdir(exist_ok=True)
    files = [Path(t) for t in tests] or sorted((ROOT / "tests").glob("test_*.py"))
    for file in files:
        out = MAP / f"{file.stem}.json"
        if file.stem in LEFT_OUT or (not tests and out.exists()):
            continue
        begin = time.monotonic()
        in_fork(lambda f=file, o=out: pytest_run(ROOT, [f"tests/{f.name}"], [Cartographer(ROOT, o)]), 3600.0)  # type: ignore[misc]
        print(f"{time.monotonic() - begin:7.1f} s  {file.stem}{'' if out.exists() else ': NO MAP'}", flush=True)


class Map:
    """Which tests run which line, the quickest first."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._lines: dict[str, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
        for file in sorted(MAP.glob("*.json")):
            part = json.loads(file.read_text(encoding="utf-8"))
            names = list(part["seconds"])
            self.seconds |= part["seconds"]
            for path, lines in part["lines"].items():
                for line, tests in lines.items():
                    self._lines[path][int(line)] += [names[n] for n in tests]

    def tests(self, mutant: Mutant) -> list[str]:
        """Ids of the tests that run the line of a mutant; for a line that runs at import, all that run its file."""
        lines = self._lines[str(mutant.path.relative_to(PACKAGE))]
        found = lines.get(mutant.line) or {test for tests in lines.values() for test in tests}
        ordered = sorted(found, key=lambda test: (self.seconds[test], test))
        quickest: dict[str, float] = {}
        spent: dict[str, float] = defaultdict(float)
        late = {}
        for test in ordered:
            file = test.partition("::")[0]
            quickest.setdefault(file, self.seconds[test])
            spent[file] += self.seconds[test]
            late[test] = spent[file] > PER_FILE
        # file by file: a change of file tears down what its tests share
        return sorted(ordered, key=lambda t: (late[t], quickest[t.partition("::")[0]], t.partition("::")[0]))

    def within(self, tests: list[str], limit: float) -> tuple[list[str], float]:
        """As many of the first tests as take ``limit`` seconds together, and their seconds."""
        kept, spent = [], 0.0
        for test in tests:
            if kept and spent + self.seconds[test] > limit:
                continue
            kept.append(test)
            spent += self.seconds[test]
        return kept, spent


def within_function(mutant: Mutant) -> bool:
    """Whether the change lies in the body of a function, and not in what runs when its module is imported."""
    tree = ast.parse(mutant.path.read_text(encoding="utf-8"))
    bodies = (node.body for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))
    return any(body[0].lineno <= mutant.line <= (body[-1].end_lineno or 0) for body in bodies)


def codes_in(code: CodeType) -> Iterator[CodeType]:
    """The code of every function of a module, nested ones included."""
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from codes_in(constant)


class Bench:
    """A plugin of pytest that runs mutants of functions on the collected tests instead of the tests themselves."""

    def __init__(self, workspace: Path, job: Callable[[Bench], None]) -> None:
        self._workspace, self._job = workspace, job
        self._items: dict[str, Any] = {}
        self._functions: dict[str, list[FunctionType]] = defaultdict(list)

    def pytest_runtestloop(self, session: Any) -> bool:
        self._items = {item.nodeid: item for item in session.items}
        for function in gc.get_objects():
            if isinstance(function, FunctionType):
                self._functions[function.__code__.co_filename].append(function)
        self._job(self)
        return True

    def _run(self, mutant: Mutant, tests: list[str]) -> int:
        from _pytest.runner import runtestprotocol

        path = str(self._workspace / mutant.path.relative_to(ROOT))
        changed = {(c.co_qualname, c.co_firstlineno): c for c in codes_in(compile(changed_text(mutant), path, "exec"))}
        for function in self._functions[path]:
            code = function.__code__
            function.__code__ = changed.get((code.co_qualname, code.co_firstlineno), code)
        items = [self._items[test] for test in tests]
        for item, following in zip(items, [*items[1:], None], strict=True):
            if any(report.failed for report in runtestprotocol(item, log=False, nextitem=following)):
                return 1
        return 0

    def code(self, mutant: Mutant, tests: list[str], limit: float) -> int | None:
        """0 if all tests pass, None for a hang."""
        known = [test for test in tests if test in self._items]
        return in_fork(lambda: self._run(mutant, known), limit)


def rewritten(workspace: Path, mutant: Mutant, tests: list[str], limit: float) -> int | None:
    """The same with the change written to the copy."""
    target = workspace / mutant.path.relative_to(ROOT)
    original, stamp = target.read_text(encoding="utf-8"), target.stat().st_mtime
    target.write_text(changed_text(mutant), encoding="utf-8")
    try:
        return in_fork(lambda: pytest_run(workspace, ["-x", *tests], []), limit)
    finally:
        target.write_text(original, encoding="utf-8")
        os.utime(target, (stamp, stamp))


HEADER = ["verdict", "place", "column", "kind", "before", "after", "tests", "seconds"]


def run(chosen: list[Mutant], report: Path, limit: float) -> None:
    """Test some mutants and write what became of each: killed, survived, uncovered or hung (noticed, so killed).

    A report that is there already is continued.
    """
    sys.dont_write_bytecode = True
    tests_of = Map()
    if not report.exists():
        report.write_text(",".join(HEADER) + "\n", encoding="utf-8")
    done = {(row["place"], row["column"], row["after"]) for row in rows_of(report)}
    chosen = [mutant for mutant in chosen if (mutant.shown, str(mutant.column), mutant.after) not in done]
    with tempfile.TemporaryDirectory() as folder, report.open("a", newline="", encoding="utf-8") as handle:
        workspace = Path(folder)
        for part in ("mvmise_sm", "tests"):
            shutil.copytree(ROOT / part, workspace / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", workspace)
        compileall.compile_dir(workspace, quiet=2)
        table = csv.writer(handle)

        def test(mutants: list[Mutant], how: Callable[[Mutant, list[str], float], int | None]) -> None:
            for mutant in mutants:
                begin = time.monotonic()
                tests, seconds = tests_of.within(tests_of.tests(mutant), limit)
                code = how(mutant, tests, 10.0 + 3.0 * seconds) if tests else 0
                what = "uncovered" if not tests else "hung" if code is None else "killed" if code else "survived"
                spent = round(time.monotonic() - begin, 1)
                row = [what, mutant.shown, mutant.column, mutant.kind, mutant.before, mutant.after, len(tests), spent]
                table.writerow(row)
                handle.flush()

        inside = [mutant for mutant in chosen if within_function(mutant)]
        bench = Bench(workspace, lambda bench: test(inside, bench.code))
        files = [f"tests/{file.stem}.py" for file in sorted(MAP.glob("*.json"))]
        in_fork(lambda: pytest_run(workspace, ["-s", *files], [bench]), 1e6)
        test([mutant for mutant in chosen if mutant not in inside], partial(rewritten, workspace))
    rows = rows_of(report)
    killed = sum(row["verdict"] in ("killed", "hung") for row in rows)
    for row in rows:
        if row["verdict"] in ("survived", "uncovered"):
            print(f"{row['verdict']:9s} {row['place']}  {row['before']}  ->  {row['after']}")
    print(f"{killed} of {len(rows)} killed ({100.0 * killed / max(len(rows), 1):.1f} %); {report}")


def rows_of(report: Path) -> list[dict[str, str]]:
    """The rows of a report."""
    with report.open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def pool(only: str) -> list[Mutant]:
    """Every mutant of the numerics, or of the files whose path holds ``only``."""
    files = [p for room in ROOMS for p in sorted((PACKAGE / room).rglob("*.py")) if only in str(p.relative_to(PACKAGE))]
    return [mutant for path in files for mutant in mutants_of(path)]


def survivors(report: Path) -> list[Mutant]:
    """The mutants that a report calls survivors, found again by their text near their line."""
    known: dict[tuple[str, str, str], list[Mutant]] = defaultdict(list)
    for mutant in pool(""):
        known[str(mutant.path.relative_to(ROOT)), mutant.before, mutant.after].append(mutant)
    found = []
    for row in rows_of(report):
        place, _, line = row["place"].rpartition(":")
        same = known.get((place, row["before"], row["after"]))
        if row["verdict"] in ("survived", "uncovered") and same:
            near = (int(line), int(row["column"]))
            found.append(min(same, key=lambda m: (abs(m.line - near[0]), abs(m.column - near[1]))))
    return found


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    mapper = commands.add_parser("map", help="run the suite once and note which test runs which line")
    mapper.add_argument("tests", nargs="*", help="files of tests whose map is made anew")
    runner = commands.add_parser("run", help="test random mutants")
    runner.add_argument("--mutants", type=int, default=300)
    runner.add_argument("--seed", type=int, default=1)
    runner.add_argument("--part", default="1/1", help="which part of them, as 2/3, for several processes")
    runner.add_argument("--only", default="", help="part of a path below mvmise_sm")
    repeater = commands.add_parser("again", help="test the survivors of a report")
    for command in (runner, repeater):
        command.add_argument("--report", type=Path, default=Path("mutants.csv"))
        command.add_argument("--seconds", type=float, default=SECONDS, help="of tests per mutant")
    given = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    # this folder has a coverage.py of its own
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT / "benchmarks"]
    for name in LIBRARIES:
        importlib.import_module(name)
    if given.command == "map":
        make_map(given.tests)
    elif given.command == "run":
        mutants = pool(given.only)
        chosen = random.Random(given.seed).sample(mutants, min(given.mutants, len(mutants)))
        part, parts = map(int, given.part.split("/"))
        run(chosen[part - 1 :: parts], given.report, given.seconds)
    else:
        run(survivors(given.report), given.report.with_suffix(".again.csv"), given.seconds)


if __name__ == "__main__":
    main()
