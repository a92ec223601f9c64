"""Whatever is given to a public function, class or method is taken, or answered in one sentence."""

import inspect
import warnings
from functools import cache

import numpy as np
import pandas as pd
import pytest

import mvmise_sm as ms
from mvmise_sm import exceptions as ex
from mvmise_sm.blame import blamed, refuse_unreal
from mvmise_sm.options import strict

OURS = (ex.FormulaError, ex.DataError, ex.OptionError)
ODD = (
    np.eye(2),
    pd.NA,
    pd.DataFrame(),
    object(),
    b"x",
    -1,
    [],
    {},
    "",
    float("nan"),
    1j,
    np.array([1j]),
    10**400,
    [[1, [2]]],
)
FEW = (pd.NA, object(), -1, np.array([1j]), 10**400, [[1, [2]]])


@cache
def frame():
    rng = np.random.default_rng(0)
    data = pd.DataFrame({"g": np.repeat(np.arange(8), 5), "f": np.array(list("abcab"))[np.arange(40) % 5]})
    data["x"] = rng.normal(size=40)
    data["y"] = rng.normal(size=8)[data["g"]] + rng.normal(size=40)
    data["z"] = data["y"].where(data.index > 4)
    return data


def leaks_of(name, function, given, options=None, odd=ODD, without=()):
    """What comes out of a function bare, for every option and odd value."""
    out = []
    parameters = inspect.signature(function).parameters.values()
    named = [p.name for p in parameters if p.kind < p.VAR_KEYWORD and p.kind is not p.VAR_POSITIONAL]
    for option in options or named:
        for value in () if option in without else odd:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    warnings.simplefilter("error", np.exceptions.ComplexWarning)
                    function(**{**given, option: value})
            except Exception as error:
                # that a file is not there is for the system to say
                if not isinstance(error, (*OURS, OSError)) or not 0 < len(str(error)) <= 1000:
                    out.append(f"{name}({option}={value!r}): {type(error).__name__}: {error}")
    return out


def methods_of(found, without=()):
    """Methods of our own of an object, by name."""
    for name in sorted(dir(type(found))):
        member = inspect.getattr_static(type(found), name)
        function = getattr(member, "__func__", member)
        if name.startswith("_") or name in without or not inspect.isfunction(function):
            continue
        if inspect.unwrap(function).__module__.startswith(("mvmise_sm", "statsmodels")):
            yield name, getattr(found, name)


def needed(method):
    """None for every argument that has no default."""
    parameters = inspect.signature(method).parameters.values()
    return {p.name: None for p in parameters if p.default is p.empty and p.kind < p.VAR_KEYWORD}


PRIORS = ("Exponential", "Gamma", "HalfCauchy", "HalfNormal", "HalfT", "InverseGamma", "InverseWishart", "LKJ", "PC")
CLASSES = [getattr(ms.priors, name) for name in (*PRIORS, "Laplace", "Normal", "Point", "StudentT", "Wishart")]
CLASSES += [getattr(ms.mechanisms, name) for name in ("Capped", "Logit", "Probit")]
CLASSES += [ms.families.Poisson, ms.families.NegativeBinomial, ms.families.StudentT, ms.Chunks]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_constructors(cls):
    given = dict.fromkeys(needed(cls), 1.0)
    assert not leaks_of(cls.__name__, cls, given)


def test_functions_of_the_package():
    data, out = frame(), []
    out += leaks_of("load_tmt", ms.datasets.load_tmt, {})
    out += leaks_of("load_psms", ms.datasets.load_psms, {})
    out += leaks_of("simulate", ms.datasets.simulate_mvmise, {"n_clusters": 4})
    out += leaks_of("load", ms.load, {"fname": "no/file"})
    out += leaks_of("lm_list", ms.lm_list, {"formula": "y ~ x | g", "data": data})
    out += leaks_of("squeeze_variances", ms.squeeze_variances, {"var": [1.0, 2.0, 3.0, 2.5], "df": 4})
    parents = pd.DataFrame({"id": ["a", "b", "c"], "sire": [None, None, "a"], "dam": [None, None, "b"]})
    out += leaks_of("pedigree", ms.pedigree, {"frame": parents})
    assert not out, "\n".join(out)


@pytest.mark.parametrize("name", [name for name in ms.proteomics.__all__ if name.startswith("read_")])
def test_readers(name):
    reader = getattr(ms.proteomics, name)
    psms, annotation = ms.datasets.load_psms().head(60), ms.datasets.load_psms("annotation")
    given = {**needed(reader), **({"annotation": annotation} if "annotation" in needed(reader) else {})}
    if name == "read_proteome_discoverer":
        given["psms"] = psms
    out = leaks_of(name, reader, given, odd=FEW)
    assert not out, "\n".join(out)


def test_streams_and_sums(tmp_path):
    data, sums = frame(), ms.CrossProducts
    plan = sums.plan("y ~ x + (1 | g)", data)
    out = leaks_of("plan", sums.plan, {"formula": "y ~ x + (1 | g)", "source": data})
    out += leaks_of("collect", plan.collect, {"source": data})
    whole = plan.collect(data)
    out += (
        leaks_of("from_bytes", sums.from_bytes, {}) + leaks_of("load", sums.load, {}) + leaks_of("save", whole.save, {})
    )
    options = ("contrasts", "cov", "drop_cols", "missing", "offset", "residual", "subset", "weights")
    out += leaks_of("lmer", ms.lmer, {"formula": "y ~ x + (1 | g)", "data": whole}, options, FEW)
    assert not out, "\n".join(out)
    pytest.importorskip("pyarrow")
    empty = tmp_path / "empty.parquet"
    empty.write_bytes(b"")
    with pytest.raises(ex.DataError, match="cannot be read as a table"):
        ms.lmer("y ~ x + (1 | g)", str(empty))


def test_a_source_says_which_options_it_does_not_take():
    data = frame()
    source = ms.Chunks(lambda: iter([data.iloc[:20], data.iloc[20:]]))
    with pytest.raises(ex.OptionError, match="contrasts= needs all levels"):
        ms.lmer("y ~ f + (1 | g)", source, contrasts={"f": "Sum"})
    with pytest.raises(ex.OptionError, match="drop_cols is not available"):
        ms.lmer("y ~ f + (1 | g)", source, drop_cols=["x"])
    counts = data.assign(n=np.random.default_rng(1).poisson(np.exp(1.0 + np.arange(8) / 4.0)[data["g"]]))
    cells = ms.Chunks(lambda: iter([counts]))
    by_cells, by_rows = (
        ms.glmer("n ~ f + (1 | g)", given, family="poisson", contrasts={"f": "Sum"}).fit() for given in (cells, counts)
    )
    np.testing.assert_allclose(by_cells.params, by_rows.params, atol=1e-6)


@cache
def scanned():
    wide = ms.datasets.load_tmt("wide")
    return wide, {"formula": "~ condition", "data": wide, "features": ["P1_a", "P1_b", "P2_a"], "model": "ols"}


def test_scans():
    _, given = scanned()
    out = leaks_of("scan", ms.scan, given, odd=FEW, without=("output", "n_jobs"))
    table = ms.scan(**given)
    pytest.importorskip("matplotlib").use("Agg")
    from matplotlib import pyplot

    for name, method in methods_of(table):
        out += leaks_of(f"table.{name}", method, needed(method), odd=FEW)
        pyplot.close("all")
    assert not out, "\n".join(out)


def test_detection_curves():
    wide, _ = scanned()
    rng = np.random.default_rng(2)
    values = pd.DataFrame({f"p{i}": rng.normal(20.0, 1.0, len(wide)) for i in range(12)})
    given = {"formula": "~ condition + (1 | batch)", "data": wide, "features": values.where(values > 19.2)}
    out = leaks_of(
        "curve", ms.detection_curve, given, ("formula", "features", "mechanism", "offsets", "method", "n_features"), FEW
    )
    written = {"mechanism": "logit", "params": {"Intercept": 20.0, "y": -1.0}, "cov": [[1.0, 0.0], [0.0, 1.0]]}
    curve = ms.DetectionCurve.from_dict(written)
    out += leaks_of("probability", curve.probability, {"y": 20.0}) + leaks_of("from_dict", curve.from_dict, {})
    for key in written:
        out += leaks_of(key, lambda key=key, **new: curve.from_dict({**written, key: new["v"]}), {}, ("v",))
    assert not out, "\n".join(out)


def test_objects_that_results_give():
    pytest.importorskip("matplotlib").use("Agg")
    from matplotlib import pyplot

    from mvmise_sm import plots

    result = ms.lmer("y ~ x + f + (1 | g)", frame()).fit()
    means, pooled = result.marginal_means("f"), ms.pool([result, result])
    objects = [means, means.pairs(), pooled, result.get_prediction(frame().head(3)), ms.lm_list("y ~ x | g", frame())]
    out = []
    for found in objects:
        for name, method in methods_of(found, ("of", "load", "save", "summary")):
            out += leaks_of(f"{type(found).__name__}.{name}", method, needed(method), odd=FEW)
    for name in ("qq", "random_effects", "diagnostics"):
        out += leaks_of(name, getattr(plots, name), {"result": result}, odd=FEW)
    out += leaks_of("means", plots.means, {"emm": means}, odd=FEW)
    pyplot.close("all")
    assert not out, "\n".join(out)


def test_tables_of_several_fits_refuse_what_is_for_one():
    small, large = (ms.lmer(f"y ~ {rhs} + (1 | g)", frame()).fit(reml=False) for rhs in ("1", "x"))
    with pytest.raises(ex.OptionError, match="ddf='satterthwaite' is for the terms of one fit"):
        ms.anova(small, large, ddf="satterthwaite")
    with pytest.raises(ex.OptionError, match="compares two fits"):
        ms.anova(small, test="bootstrap")
    pooled = ms.pool([large, large])
    # equal fits pool to themselves, and one coefficient has its own test
    assert pooled.joint_tests().loc["x", "F"] == pytest.approx(float(large.tvalues["x"]) ** 2, rel=1e-10)


COMPLEX = {
    "endog": lambda z: ms.LinearMixedModel(z, np.ones((40, 1)), groups=frame()["g"]),
    "exog": lambda z: ms.LinearMixedModel(frame()["y"], pd.DataFrame({"a": z}), groups=frame()["g"]),
    "exog_re": lambda z: ms.LinearMixedModel(frame()["y"], np.ones((40, 1)), groups=frame()["g"], exog_re=z),
    "column": lambda z: ms.lmer("y ~ z + (1 | g)", frame().assign(z=z)),
    "variable": lambda z: ms.lmer("y ~ z + (1 | g)", frame().drop(columns="z"), eval_env={"z": z}),
    "weights": lambda z: ms.lmer("y ~ x + (1 | g)", frame(), weights=z),
    "cov": lambda z: ms.lmer("y ~ x + (1 | g)", frame(), cov={"g": pd.DataFrame(np.eye(8) + 0j, range(8), range(8))}),
    "prior": lambda z: ms.lmer("y ~ x + (1 | g)", frame(), fixef_prior=ms.priors.Normal(sd=z[:2])),
    "prior's function": lambda z: ms.lmer("y ~ x + (1 | g)", frame(), cov_prior=ms.priors.Gamma(shape=lambda d: z[:1])),
    "start": lambda z: ms.lmer("y ~ x + (1 | g)", frame()).fit(start_params=z[:2]),
    "missing_cov": lambda z: ms.mvmise_b("y + z ~ x + (1 | g)", frame(), missing_cov=z),
    "column of missing_cov": lambda z: ms.mvmise_b("y + z ~ x + (1 | g)", frame().assign(c=z), missing_cov="c"),
    "outcomes": lambda z: ms.FactorSelectionModel(np.c_[z, z], np.ones((40, 1)), frame()["g"]),
    "lmer_mnar": lambda z: ms.lmer_mnar("z ~ x + (1 | g)", frame().assign(c=z), missing_cov="c"),
}


@pytest.mark.parametrize("where", COMPLEX)
def test_complex_numbers_are_refused(where):
    with pytest.raises(OURS, match=r"real|numeric|complex"):
        COMPLEX[where](frame()["x"].to_numpy() + 1j)


def test_an_unused_complex_column_is_no_matter():
    data = frame()
    model = ms.lmer("y ~ x + (1 | g)", data.assign(c=1j), eval_env={"unused": np.array([1j])})
    assert model.fit().llf == ms.lmer("y ~ x + (1 | g)", data).fit().llf


def test_a_complex_feature_is_a_row_with_its_message():
    wide, given = scanned()
    table = ms.scan(**{**given, "data": wide.assign(P1_a=wide["P1_a"] + 1j)})
    assert "numeric" in table.loc[table["feature"] == "P1_a", "message"].iloc[0]
    assert table.loc[table["feature"] == "P1_b", "converged"].all()


def test_only_the_value_that_breaks_is_blamed():
    @strict
    def function(a=None, b=None):
        if b == "ours":
            raise TypeError("a mistake of ours")
        return [0 for _ in b]

    with pytest.raises(ex.OptionError, match=r"function: b must be a list, got 2\.5"):
        function(a="x", b=2.5)
    with pytest.raises(TypeError, match="a mistake of ours"):
        function(a=2.5, b="ours")
    assert blamed(ValueError("other"), "f", [("a", object())]) is None
    with pytest.raises(ex.OptionError, match=r"a must be real, not complex, got \[?1j"):
        refuse_unreal("a", [1.0, [1j]])
    with pytest.raises(ex.OptionError, match="below 1e308"):
        refuse_unreal("a", {"b": 10**400})
