"""The house keeps its shape: imports point inward, files stay short, public names are documented."""

import ast
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
            assert ast.get_docstring(node), f"docstring of {node.name}"
        if isinstance(node, ast.ClassDef):
            assert node.end_lineno - node.lineno < 450, f"class {node.name}"


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
