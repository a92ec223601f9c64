"""Every example in the documentation and in docstrings prints what it says; every link between pages has a target."""

import doctest
import importlib
import importlib.util
import inspect
import pkgutil
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import mvmise_sm as ms
from mvmise_sm import priors

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(p for p in DOCS.rglob("*.rst") if "_build" not in p.parts)
WITH_EXAMPLES = [p for p in PAGES if ">>> " in p.read_text(encoding="utf-8")]
MODULES = sorted(m.name for m in pkgutil.walk_packages(ms.__path__, "mvmise_sm.") if not m.name.endswith("__main__"))

pytestmark = pytest.mark.skipif(not DOCS.exists(), reason="the documentation is not part of an installed package")


def name_of(path):
    return path.relative_to(DOCS).with_suffix("").as_posix()


@pytest.fixture(scope="module")
def examples():
    spec = importlib.util.spec_from_file_location("examples", DOCS / "examples.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def no_windows(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "Agg")
    yield
    from matplotlib import pyplot as plt

    plt.close("all")


def run(test, examples):
    lines = []
    runner = doctest.DocTestRunner(checker=examples.Checker(), optionflags=examples.FLAGS, verbose=False)
    runner.run(test, out=lines.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(lines)


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=name_of)
def test_examples_of_a_page(path, examples, monkeypatch):
    monkeypatch.chdir(ROOT)  # where some data are read from
    run(examples.parse(path), examples)


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_docstrings(name, examples):
    module = importlib.import_module(name)
    for test in doctest.DocTestFinder(exclude_empty=True).find(module, name):
        if test.examples:
            run(test, examples)


def test_readme_example():
    """The Python block of the README runs as it stands."""
    text = (ROOT / "README.rst").read_text(encoding="utf-8")
    blocks = re.findall(r"\.\. code-block:: python\n\n((?:    .*\n|\n)+)", text)
    assert blocks
    namespace = {}
    for block in blocks:
        exec(compile(inspect.cleandoc(block), "README.rst", "exec"), namespace)


@pytest.mark.parametrize("name", [n for n in ms.__all__ if not n.startswith("_")])
def test_every_public_name_has_an_example(name):
    if "Examples" in (inspect.getdoc(getattr(ms, name)) or ""):
        return
    text = "\n".join(p.read_text(encoding="utf-8") for p in (DOCS / "reference").glob("*.rst"))
    code = " ".join(re.findall(r"^ *(?:>>>|\.\.\.) (.*)$", text, flags=re.MULTILINE))
    assert re.search(rf"\bms\.{name}\b|\bimport {name}\b|\.{name}\(", code)


@pytest.mark.parametrize(
    "name", ["Custom", "Gamma", "Horseshoe", "InverseGamma", "InverseWishart", "Normal", "Point", "StudentT", "Wishart"]
)
def test_every_prior_has_an_example(name):
    assert ">>>" in inspect.getdoc(getattr(priors, name))


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_links_have_targets(path):
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r":doc:`(?:[^`<]*<)?([^`>]+)>?`", text):
        found = (DOCS / target.lstrip("/")) if target.startswith("/") else (path.parent / target)
        sources = [found.with_suffix(".rst"), ROOT / "notebooks" / f"{found.name}.ipynb"]
        assert any(s.resolve().exists() for s in sources), target
    for target in re.findall(r"\.\. (?:literalinclude|include|figure|image):: (\S+)", text):
        assert (path.parent / target).resolve().exists(), target


def test_r_outputs_belong_to_their_scripts():
    """Every R output shown begins with the script beside it."""
    for script in (DOCS / "from_r" / "scripts").glob("*.R"):
        printed = script.with_suffix(".Rout").read_text(encoding="utf-8")
        typed = "".join(line[2:] for line in printed.splitlines() if line.startswith(("> ", "+ ")))
        assert re.sub(r"\s", "", typed) == re.sub(r"\s", "", script.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("want", "got", "same"),
    [
        ("0  1.234567  a\n", "0  1.234570  a\n", True),
        ("0  1.234567  a\n", "0  1.236567  a\n", False),
        ("0  1.234567  a\n", "0  1.234567  b\n", False),
        ("1.2e-17\n", "1.2001e-17\n", True),
        ("1.2e-17\n", "2.2e-16\n", False),
        ("0.000\n", "0.001\n", True),
        ("180\n", "181\n", False),
        ("Time:   03:55:35   Scale: 654.9410\n", "Time:   04:55:35   Scale: 654.9411\n", True),
    ],
)
def test_numbers_are_compared_closely_and_texts_exactly(examples, want, got, same):
    assert examples.Checker().check_output(want, got, examples.FLAGS) is same


ENTRIES = [
    code
    for line in re.findall(
        r"^      - (.*)$", (DOCS / "from_r" / "index.rst").read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    for code in re.findall(r"``((?:res|model|ms\.lmer|ms\.blmer|ms\.anova|ms\.load)\b[^`]*)``", line)
    if "..." not in code
]


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """Variables that the dictionary's entries speak of."""
    data = ms.datasets.load_sleepstudy().assign(w=1.0, o=0.0, x=lambda d: np.cos(np.arange(len(d))))
    data["g"], data["f"] = data["Subject"], np.where(np.arange(len(data)) % 2, "a", "b")
    f = "Reaction ~ Days + f + (Days | g)"
    model = ms.lmer(f, data)
    res = model.fit()
    names = {"ms": ms, "np": np, "data": data, "f": f, "model": model, "res": res, "res1": res, "new": data.head(3)}
    names |= {"K": pd.DataFrame(np.eye(18), *[data["Subject"].astype(str).unique()] * 2)}
    arm = np.where(np.arange(180) < 90, "a", "b")
    visits = data.assign(id=data["Subject"], visit=data["Days"], arm=arm, y=data["Reaction"])
    names["d"] = visits[visits["Days"] < 3]
    names["res0"] = ms.lmer("Reaction ~ Days + (Days | g)", data).fit()
    names |= {"y": data["Reaction"].to_numpy(), "L": np.eye(3)[1:], "l": np.array([0.0, 1.0, 0.0]), "t": res.theta}
    rng = np.random.default_rng(7)
    mean = np.exp(2.0 + 0.1 * data["Days"] + 0.4 * rng.normal(size=18)[np.arange(180) // 10])
    count = rng.negative_binomial(3.0, 3.0 / (3.0 + mean))
    counts = data.assign(n=np.where(rng.random(180) < 0.3, 0, count))
    parts = {"zero_inflation": "~ f", "dispersion": "~ Days"}
    names["of_parts"] = ms.glmer("n ~ Days + (1 | g)", counts, family="nb2", **parts).fit(maxiter=200)
    ratings = data.assign(rating=pd.qcut(data["Reaction"], 4, labels=False))
    names["of_ratings"] = ms.clmm("rating ~ Days + (1 | g)", ratings).fit()
    return names | {"path": tmp_path_factory.mktemp("dictionary") / "fit.pickle"}


# entries that speak of another model than the dictionary's own
OTHER = {"residual=": {"f": "Reaction ~ Days"}, "cov=": {"f": "Reaction ~ Days + (1 | id)"}}
OF_PARTS = ("res.params_zi", "res.bse_zi", "res.params_disp", "res.dispersion")


def test_the_dictionary_is_long():
    assert len(ENTRIES) > 60


@pytest.mark.parametrize("code", ENTRIES)
def test_entry_of_the_dictionary(code, reader):
    """Every call and extractor of the table for R users exists; the ten scripts show what they give."""
    if code == "ms.load(path)":
        reader["res"].save(reader["path"])
    short = code.replace("500, rng=1, statistic=f", "8, rng=1, statistic=lambda r: r.params").replace(
        "=, ", "='flat', "
    )
    short = re.sub(r"(?<=bootstrap\", )rng=1", "n=8, rng=1", short).replace("resid_prior=)", "resid_prior='flat')")
    own = next((names for word, names in OTHER.items() if word in code), {})
    if code in OF_PARTS:
        own = {"res": reader["of_parts"]}
    if code == "res.thresholds":
        own = {"res": reader["of_ratings"]}
    eval(compile(short, "dictionary", "eval"), {**reader, **own})
