"""The house keeps its shape: imports point inward, files stay short, public names are documented."""

import ast
import contextlib
import functools
import gc
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mvmise_sm as ms

PACKAGE = Path(ms.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
NUMERICS = ("core", "priors", "selection")
DATA = ("formula", "design")
STATSMODELS_RING = ("models", "results", "inference", "plots", "scanning", "proteomics")


def name_of(path):
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def imports(path):
    """Absolute names that a file imports, at any depth."""
    package = name_of(path) if path.name == "__init__.py" else name_of(path).rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.rsplit(".", node.level - 1)[0] + "." if node.level else ""
            module = f"{base}{node.module or ''}".rstrip(".")
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def ring(name):
    return name.split(".")[1] if name.startswith("mvmise_sm.") else name.split(".")[0]


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_point_inward(path):
    own = ring(name_of(path))
    used = {ring(name) for name in imports(path)} - {own}
    outside = {name.split(".")[0] for name in imports(path)}
    if own in NUMERICS:
        assert not outside & {"pandas", "patsy", "statsmodels", "matplotlib", "joblib"}
        assert not used & {*DATA, *STATSMODELS_RING, "api"}
    if own == "core":
        assert not used & {"priors", "selection"}
    if own in DATA:
        assert not used & {*STATSMODELS_RING, "priors", "selection", "api"}
    if own == "formula":
        assert "design" not in used
    if name_of(path) in ("mvmise_sm.formula.parts", "mvmise_sm.formula.tree"):
        assert not outside & {"pandas", "numpy"}
    if own == "results":
        assert "models" not in used
    if own in ("models", "results"):
        assert not used & {"scanning", "proteomics"}
    if own == "scanning":
        assert "proteomics" not in used


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_are_short_and_documented(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 500
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "module docstring"
    for node in tree.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and not node.name.startswith("_"):
            if any(ast.unparse(decorator) == "overload" for decorator in node.decorator_list):
                continue  # the function itself, which follows, has the docstring
            assert ast.get_docstring(node), f"docstring of {node.name}"
        if isinstance(node, ast.ClassDef):
            assert node.end_lineno - node.lineno < 300, f"class {node.name}"


# what statsmodels and Python have no public name for
THIRD_PARTY = {"_results", "_get_init_kwds", "_getframe", "_exit"}
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}


@functools.cache
def own_names(folder):
    """Names that the modules of one folder define: functions, classes, class and instance attributes."""
    return frozenset(_own_names(folder))


def _own_names(folder):
    for path in (p for p in FILES if p.parent == folder):
        for node in ast.walk(TREES[path]):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                yield node.name
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            for target in targets:
                if isinstance(target, ast.Name):
                    yield target.id
                elif isinstance(target, (ast.Tuple, ast.Attribute)):
                    attributes = (n for n in ast.walk(target) if isinstance(n, ast.Attribute))
                    yield from (n.attr for n in attributes if ast.unparse(n.value) in ("self", "cls", "out"))


def foreign_names(path):
    """Underscore names that a module reads from another package."""
    own = own_names(path.parent)
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            owner = ast.unparse(node.value)
            if owner not in ("self", "cls", "super()") and node.attr not in own | THIRD_PARTY:
                yield f"{owner}.{node.attr}"
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mvmise_sm"):
            room = ".".join(name_of(path).split(".")[:-1])
            yield from (
                f"{node.module}.{alias.name}"
                for alias in node.names
                if alias.name.startswith("_") and not alias.name.startswith("__") and not node.module.startswith(room)
            )


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_module_reads_an_underscore_name_of_another_package(path):
    assert list(foreign_names(path)) == []


def descendants(base):
    for child in base.__subclasses__():
        yield child.__name__
        yield from descendants(child)


def kinds():
    """Names of the classes behind the five seams: structures, families, mechanisms, priors and numerics."""
    from mvmise_sm.core.covariance import registry  # noqa: F401 (registers)
    from mvmise_sm.core.covariance.base import CovarianceStructure
    from mvmise_sm.core.families.base import Family
    from mvmise_sm.priors import Prior

    for name in ("core", "priors", "selection"):
        for path in (PACKAGE / name).rglob("*.py"):
            importlib.import_module(name_of(path))
    out = {name for base in (CovarianceStructure, Family, Prior) for name in descendants(base)}
    mechanisms = importlib.import_module("mvmise_sm.selection.mechanism")
    out |= set(descendants(mechanisms.Held))
    numerics = re.compile(r"(Deviance|System|Factorization|Elimination|Remainder|Kernel|InnerProblem)$")
    for path in FILES:
        out |= {n.name for n in TREES[path].body if isinstance(n, ast.ClassDef) and numerics.search(n.name)}
    return {name for name in out if not name.startswith("_")}


KINDS = kinds()


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_nothing_asks_for_the_class_behind_a_seam(path):
    """What a structure, family, mechanism, prior or criterion does is its own business."""
    found = []
    equality = {id(n) for f in ast.walk(TREES[path]) if getattr(f, "name", "") == "__eq__" for n in ast.walk(f)}
    for node in ast.walk(TREES[path]):
        if id(node) in equality:
            continue
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("isinstance", "issubclass"):
            names = {n.id for n in ast.walk(node.args[1]) if isinstance(n, ast.Name)}
            names |= {n.attr for n in ast.walk(node.args[1]) if isinstance(n, ast.Attribute)}
            found += [ast.unparse(node)] * bool(names & KINDS)
    assert found == []


def interface_members():
    """What the interfaces answer; `name` is pandas' too, and `random` numpy's."""
    from mvmise_sm.core import interfaces
    from mvmise_sm.core.covariance.base import CovarianceStructure
    from mvmise_sm.core.families.base import Family
    from mvmise_sm.priors import CoefficientPrior, CovariancePrior, Mixing
    from mvmise_sm.selection.mechanism import Held, Mechanism

    classes = [CovarianceStructure, Family, CovariancePrior, CoefficientPrior, Mixing, Mechanism, Held]
    classes += [interfaces.Criterion, interfaces.System, interfaces.Factorization, interfaces.WeightedElimination]
    out = {name for cls in classes for base in cls.__mro__[:-1] for name in (*vars(base), *base.__annotations__)}
    return {name for name in out if not name.startswith("_")} - {"name", "random"}


MEMBERS = interface_members()
# says which members a class that a user registers lacks
CHECKS_MEMBERS = "mvmise_sm.selection.mechanism_check"


@pytest.mark.parametrize("path", [p for p in FILES if name_of(p) != CHECKS_MEMBERS], ids=name_of)
def test_interfaces_are_asked_not_probed(path):
    calls = [n for n in ast.walk(TREES[path]) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]
    probes = [c for c in calls if c.func.id == "hasattr" or (c.func.id == "getattr" and len(c.args) == 3)]
    assert [ast.unparse(c) for c in probes if isinstance(c.args[1], ast.Constant) and c.args[1].value in MEMBERS] == []


# in these every function says what it takes and returns
ANNOTATED_ROOMS = ("core", "design", "formula", "priors", "selection")


def test_types_are_checked():
    """Bodies are checked everywhere with every error code, and no module is exempt."""
    tomllib = pytest.importorskip("tomllib")  # since Python 3.11
    settings = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["mypy"]
    assert settings["check_untyped_defs"]
    stricter = [override for override in settings["overrides"] if override.get("disallow_untyped_defs")]
    annotated = {module for override in stricter for module in override["module"]}
    assert {f"mvmise_sm.{room}.*" for room in ANNOTATED_ROOMS} <= annotated
    assert all({*override} == {"module", "disallow_untyped_defs"} for override in stricter)
    assert settings["overrides"] == stricter
    assert not {"disable_error_code", "ignore_errors", "exclude"} & {*settings}


@pytest.mark.parametrize("name", ms.__all__)
def test_public_names_exist(name):
    value = getattr(ms, name)
    assert name == "__version__" or value.__doc__


@pytest.mark.parametrize(
    ("entry", "owner"),
    [
        ("lmer", "LinearMixedModel"),
        ("glmer", "GeneralizedLinearMixedModel"),
        ("mvmise_b", "FactorSelectionModel"),
        ("mvmise_e", "ErrorSelectionModel"),
    ],
)
def test_entry_points_are_bound_to_their_classes(entry, owner):
    assert getattr(ms, entry).__self__ is getattr(ms, owner)


def test_blmer_is_lmer_with_another_default():
    assert ms.blmer.func == ms.lmer
    assert ms.blmer.keywords == {"cov_prior": "wishart"}
    assert "wishart" in ms.blmer.__doc__


def test_unknown_names_fail_as_usual():
    with pytest.raises(AttributeError, match="has no attribute 'nope'"):
        _ = ms.nope
    assert "lmer" in dir(ms)


def test_import_is_light():
    code = "import sys, mvmise_sm; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"numpy", "scipy", "pandas", "patsy", "statsmodels", "matplotlib"} & set(out.stdout.split())


def test_fitting_imports_neither_matplotlib_nor_the_api_modules():
    code = "import sys, mvmise_sm; mvmise_sm.lmer; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"matplotlib", "statsmodels.api", "statsmodels.formula.api"} & set(out.stdout.split())


@pytest.mark.parametrize("name", ["lmer", "nope"])
@pytest.mark.parametrize("collecting", [True, False])
def test_loading_leaves_the_collection_of_garbage_as_it_was(name, collecting):
    before = gc.isenabled()
    (gc.enable if collecting else gc.disable)()
    try:
        with contextlib.suppress(AttributeError):
            ms.__getattr__(name)
        assert gc.isenabled() == collecting
    finally:
        (gc.enable if before else gc.disable)()


def test_checks_of_options_are_made_when_a_method_is_called():
    """Signatures of all public methods took half of the time that the package adds to the import of statsmodels."""
    code = """
import inspect
import statsmodels.base.model
plain, read = inspect.signature, []
inspect.signature = lambda *args, **options: (read.append(args), plain(*args, **options))[1]
import mvmise_sm
mvmise_sm.lmer, mvmise_sm.glmer
print(len(read))
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(out.stdout) < 40
