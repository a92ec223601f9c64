"""Fits of data that are read block by block, or summed in several places, equal the fit in memory."""

import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

import mvmise_sm as ms
from mvmise_sm.exceptions import DataError, FormulaError, NoRowsError, OptionError, RankWarning, UnknownColumnError
from mvmise_sm.streaming import wire
from mvmise_sm.streaming.sources import blocks

pq = pytest.importorskip("pyarrow.parquet")
pa = pytest.importorskip("pyarrow")


def simulate(n=1500, seed=0):
    rng = np.random.default_rng(seed)
    g, h = rng.integers(0, 60, n), rng.integers(0, 11, n)
    frame = pd.DataFrame(
        {
            "x": rng.normal(size=n) + 5,
            "t": rng.gamma(2.0, 3.0, n),
            "f": rng.choice(list("abc"), n, p=[0.6, 0.39, 0.01]),
            "g": g,
            "h": np.char.add("h", h.astype(str)),
            "sub": g * 10 + rng.integers(0, 3, n),
            "w": rng.uniform(0.5, 2.0, n),
            "o": rng.normal(size=n),
        }
    )
    slope, level = 0.4 * rng.normal(size=60), rng.normal(size=60)
    frame["y"] = 0.4 * frame["x"] + level[g] + slope[g] * (frame["x"] - 5) + rng.normal(size=11)[h]
    frame["y"] += rng.normal(size=n) + (frame["f"] == "b") + rng.normal(size=600)[frame["sub"]]
    frame.loc[frame.index[::97], "y"] = np.nan
    frame.loc[frame.index[::131], "x"] = np.nan
    return frame


@pytest.fixture(scope="module")
def frame():
    return simulate()


def pieces(frame, k):
    return ms.Chunks(lambda: (frame.iloc[i] for i in np.array_split(np.arange(len(frame)), k)))


def assert_same(found, expected, digits=1e-9):
    # criterion to 1e-10 relative; theta, and the errors that depend on it, to the square root of its last digits
    assert found.criterion == pytest.approx(expected.criterion, rel=1e-10)
    assert found.nobs == expected.nobs
    assert found.n_groups == expected.n_groups
    assert list(found.params.index) == list(expected.params.index)
    np.testing.assert_allclose(found.params, expected.params, rtol=0, atol=digits * 100)
    np.testing.assert_allclose(found.bse, expected.bse, rtol=digits * 100)
    np.testing.assert_allclose(found.theta, expected.theta, atol=1e-6)


FORMULAS = [
    ("y ~ x + (x | g)", {}),
    ("y ~ x * f + (x | g) + (1 | h)", {}),
    ("y ~ x + (1 | g / sub)", {}),
    ("y ~ x + f + (1 | h)", {"weights": "w"}),
    ("y ~ center(x) + standardize(t) + (1 | g)", {"offset": "o"}),
    ("y ~ bs(t, knots=[3.0, 8.0], degree=3) + x:f + (1 | g)", {"subset": "t > 1"}),
    ("np.exp(y / 10) ~ C(sub % 3) + (x || g)", {}),
]


@pytest.mark.parametrize(("formula", "options"), FORMULAS, ids=[f for f, _ in FORMULAS])
@pytest.mark.parametrize("reml", [True, False], ids=["reml", "ml"])
def test_blocks_give_what_the_whole_gives(frame, formula, options, reml):
    expected = ms.lmer(formula, frame, **options).fit(reml=reml)
    for k in (1, 7, 200):
        assert_same(ms.lmer(formula, pieces(frame, k), **options).fit(reml=reml), expected)


def test_columns_far_from_zero_keep_their_digits(frame):
    far = frame.assign(x=1e4 + 1e-3 * frame["x"], y=frame["y"] + 1e6)
    expected = ms.lmer("y ~ x + (x | g)", far).fit()
    found = ms.lmer("y ~ x + (x | g)", pieces(far, 9)).fit()
    # the offset of 1e6 costs six of sixteen digits of the rows themselves
    assert found.criterion == pytest.approx(expected.criterion, rel=1e-9)
    np.testing.assert_allclose(found.fe_params["x"], expected.fe_params["x"], rtol=1e-5)


def test_parquet_datasets_and_files_are_read_in_blocks(frame, tmp_path):
    import pyarrow.dataset as ds

    expected = ms.lmer("y ~ x + f + (x | g)", frame).fit()
    for i, part in enumerate(np.array_split(np.arange(len(frame)), 3)):
        table = pa.Table.from_pandas(frame.iloc[part], preserve_index=False)
        pq.write_table(table, tmp_path / f"{i}.parquet", row_group_size=100)
    assert_same(ms.lmer("y ~ x + f + (x | g)", ds.dataset(tmp_path)).fit(), expected)
    assert_same(ms.lmer("y ~ x + f + (x | g)", tmp_path / "*.parquet").fit(), expected)
    read = list(blocks(ds.dataset(tmp_path), ["x", "g"], 50))
    assert max(map(len, read)) <= 50
    assert list(read[0].columns) == ["x", "g"]
    with pytest.raises(DataError, match="no file matches"):
        ms.lmer("y ~ x + (1 | g)", tmp_path / "none*.parquet")


def test_dask_frames_are_summed_by_partition(frame):
    dd = pytest.importorskip("dask.dataframe")
    source = dd.from_pandas(frame, npartitions=5, sort=False)
    assert_same(
        ms.lmer("y ~ x + f + (x | g) + (1 | h)", source).fit(), ms.lmer("y ~ x + f + (x | g) + (1 | h)", frame).fit()
    )


def test_sites_exchange_plans_and_sums_without_rows(frame):
    formula = "y ~ center(x) + f + (x | g) + (1 | h)"
    sites = [frame.iloc[i] for i in np.array_split(np.arange(len(frame)), 3)]
    plans = [ms.CrossProducts.plan(formula, site) for site in sites]
    plan = ms.CrossProducts.from_bytes((plans[0] | plans[1] | plans[2]).to_bytes())
    sums = [ms.CrossProducts.from_bytes(plan.collect(site).to_bytes()) for site in sites]
    total = sums[0] + sums[1] + sums[2]
    expected = ms.lmer(formula, frame).fit()
    assert_same(ms.lmer(formula, total).fit(), expected)
    other = plans[2] | plans[0] | plans[1]
    turned = other.collect(sites[1]) + other.collect(sites[2]) + other.collect(sites[0])
    assert_same(ms.lmer(formula, turned).fit(), expected)
    assert total.nobs == expected.nobs
    assert total.n_groups == expected.n_groups
    assert total.smallest_group == frame.dropna().groupby("g").size().min()
    with pytest.raises(DataError, match="belong to different plans"):
        _ = plans[0].collect(sites[0]) + plans[1].collect(sites[1])
    with pytest.raises(DataError, match=r"level .* of g has \d+ rows? at this site, fewer than min_rows=1000"):
        plan.collect(sites[0], min_rows=1000)
    with pytest.raises(DataError, match="plans are merged with"):
        _ = plan + plans[0]
    with pytest.raises(DataError, match="collect"):
        ms.lmer(formula, plan)
    with pytest.raises(FormulaError, match="are those of"):
        ms.lmer("y ~ x + (1 | g)", total)


def test_transforms_that_need_all_rows_are_not_merged(frame):
    formula = "y ~ bs(t, df=5) + (1 | g)"
    expected = ms.lmer(formula, frame).fit()
    assert_same(ms.lmer(formula, pieces(frame, 6)).fit(), expected)
    first, second = frame.iloc[:700], frame.iloc[700:]
    with pytest.raises(DataError, match="knots"):
        _ = ms.CrossProducts.plan(formula, first) | ms.CrossProducts.plan(formula, second)


def test_results_without_rows_answer_what_needs_none(frame, tmp_path):
    formula = "y ~ x * f + (x | g) + (1 | h)"
    expected, found = ms.lmer(formula, frame).fit(), ms.lmer(formula, pieces(frame, 5)).fit()
    assert found.streamed
    assert "Source:" in found.summary().as_text()
    for type in (1, 2, 3):
        pd.testing.assert_frame_equal(found.anova(type=type), expected.anova(type=type), rtol=1e-5, check_exact=False)
    kr = expected.anova(ddf="kenward-roger")
    pd.testing.assert_frame_equal(found.anova(ddf="kenward-roger"), kr, rtol=1e-5, check_exact=False)
    new = frame.dropna().head(6)
    np.testing.assert_allclose(found.predict(new), expected.predict(new), atol=1e-6)
    np.testing.assert_allclose(found.get_prediction(new).se, expected.get_prediction(new).se, rtol=1e-6)
    np.testing.assert_allclose(
        found.marginal_means("f")["estimate"], expected.marginal_means("f")["estimate"], rtol=1e-6
    )
    assert found.resid_summary["ss"] == pytest.approx(float(expected.resid @ expected.resid), rel=1e-7)
    with pytest.raises(NoRowsError, match="write_fitted"):
        _ = found.fittedvalues
    for question in (found.simulate, found.get_influence, found.bootstrap, lambda: found.refit(frame["y"])):
        with pytest.raises(NoRowsError):
            question()
    found.write_fitted(tmp_path / "out.parquet", keep="w")
    out = pq.read_table(tmp_path / "out.parquet").to_pandas()
    np.testing.assert_array_equal(out["w"], frame["w"])
    used = frame[["x", "y"]].notna().all(axis=1).to_numpy()
    np.testing.assert_allclose(out["fitted"][used], expected.fittedvalues, atol=1e-6)
    np.testing.assert_allclose(out["resid"][used], expected.resid, atol=1e-6)
    assert out["fitted"][~used].isna().all()
    assert found.resid_summary["max"] == pytest.approx(expected.resid.max(), abs=1e-6)
    with pytest.raises(OptionError, match="columns must be among"):
        found.write_fitted(tmp_path / "no.parquet", columns=["leverage"])


def test_two_streamed_fits_are_compared(frame):
    large, small = (ms.lmer(f, pieces(frame, 4)).fit() for f in ("y ~ x + (1 | g)", "y ~ 1 + (1 | g)"))
    with pytest.raises(DataError, match="only fits to the same response"):
        ms.anova(large, small)
    whole = frame.dropna()
    fits = [ms.lmer(f, pieces(whole, 4)).fit() for f in ("y ~ x + (x | g)", "y ~ 1 + (x | g)")]
    memory = [ms.lmer(f, whole).fit() for f in ("y ~ x + (x | g)", "y ~ 1 + (x | g)")]
    np.testing.assert_allclose(ms.anova(*fits)["chisq"], ms.anova(*memory)["chisq"], rtol=1e-6)


def test_streamed_fits_pickle_into_a_fresh_process(frame, tmp_path):
    fit = ms.lmer("y ~ center(x) + f + (x | g)", pieces(frame, 3)).fit()
    path = tmp_path / "fit.pickle"
    path.write_bytes(pickle.dumps(fit))
    code = f"import pickle; r = pickle.load(open({str(path)!r}, 'rb')); print(r.anova()['F'].iloc[0], r.criterion)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert float(out[0]) == pytest.approx(fit.anova()["F"].iloc[0])
    assert float(out[1]) == pytest.approx(fit.criterion)


def test_dependent_columns_are_dropped_as_in_memory(frame):
    formula = "y ~ x + I(2 * x + 1) + f + (1 | g)"
    with pytest.warns(RankWarning):
        expected = ms.lmer(formula, frame).fit()
    with pytest.warns(RankWarning):
        found = ms.lmer(formula, pieces(frame, 5)).fit()
    assert found.dropped == expected.dropped
    assert_same(found, expected)
    with pytest.raises(NoRowsError, match="use wald_test"):
        found.anova()


@pytest.mark.parametrize(
    ("make", "error", "sentence"),
    [
        (lambda d: ms.lmer("y ~ x + (1 | g)", iter([d])), DataError, "read only once"),
        (lambda d: ms.lmer("y ~ x + (1 | g)", pieces(d, 2), weights=np.ones(len(d))), OptionError, "not an array"),
        (lambda d: ms.lmer("y ~ nope + (1 | g)", pieces(d, 2)), UnknownColumnError, "'nope' is not a column"),
        (lambda d: ms.glmer("y ~ x + (1 | g)", pieces(d, 2), family="poisson"), DataError, "cannot be streamed"),
        (lambda d: ms.lmer("y ~ x + (1 | g)", pieces(d, 2), residual="us(f | g)"), OptionError, "residual="),
        (lambda d: ms.lmer("y ~ x + (1 | g)", pieces(d.assign(y=1.0), 2)).fit(), DataError, "no residual variance"),
        (lambda d: ms.lmer("f ~ x + (1 | g)", pieces(d, 2)), DataError, "must be numeric"),
        (lambda d: ms.lmer("y ~ x + (1 | g)", pieces(d.assign(x=np.inf), 2)), DataError, "infinite"),
        (lambda d: ms.lmer("y ~ x + (1 | g)", pieces(d, 2), missing="raise"), DataError, "missing"),
        (lambda d: ms.Chunks(d), DataError, "takes a function"),
    ],
    ids=["once", "array", "column", "glmer", "residual", "constant", "labels", "infinite", "missing", "no function"],
)
def test_bad_sources_are_answered(frame, make, error, sentence):
    with pytest.raises(error, match=sentence):
        make(frame)


def test_a_source_that_changes_between_passes_is_noticed(frame):
    opened = []

    def factory():
        opened.append(1)
        yield frame.assign(g=frame["g"] + (1000 if len(opened) > 3 else 0))

    with pytest.raises(DataError, match="the source has changed between two passes"):
        ms.lmer("y ~ x + (1 | g)", ms.Chunks(factory))


def test_the_format_is_refused_when_damaged(frame):
    data = ms.CrossProducts.plan("y ~ x + (1 | g)", frame).to_bytes()
    assert wire.unpack(wire.pack({"a": [1, (2.5, "t")], "b": np.arange(3)}))["a"] == [1, (2.5, "t")]
    for bad, sentence in (
        (b"nothing", "hold no cross-products"),
        (data[:4] + b"\x09" + data[5:], "format 9"),
        (data[:60], "damaged"),
    ):
        with pytest.raises(DataError, match=sentence):
            ms.CrossProducts.from_bytes(bad)
    assert b"pickle" not in data


def _once(frame):
    one = iter([frame])
    return ms.Chunks(lambda: one)


@pytest.mark.parametrize(
    ("make", "error", "sentence"),
    [
        (
            lambda d: ms.lmer("y ~ x + (1 | g)", pa.Table.from_pandas(d[["y", "x", "g"]]).to_reader()),
            DataError,
            "the source can be read only once, and the fit needs two passes; give ms.Chunks(function) that opens it "
            "anew",
        ),
        (lambda d: ms.lmer("y ~ x + (1 | g)", _once(d)), DataError, "the source can be read only once"),
        (
            lambda d: ms.lmer("y ~ x + (1 | g)", pieces(d, 2), offset=np.ones(len(d))),
            OptionError,
            "offset must be a column name or an expression for a source read in chunks, not an array",
        ),
        (
            lambda d: ms.lmer("y ~ x + (1 | g)", pieces(d, 2), subset=np.ones(len(d), dtype=bool)),
            OptionError,
            "subset must be a column name or an expression for a source read in chunks, not an array",
        ),
        (lambda d: ms.lmer("y ~ x + (1 | mm(g, sub))", pieces(d, 2)), OptionError, "mm() needs the rows themselves"),
        (lambda d: ms.lmer("y ~ x + (1 | g)", pieces(d, 2), cov={"g": np.eye(60)}), OptionError, "cov= needs the rows"),
        (
            lambda d: ms.glmer("w ~ x + (1 | g)", pieces(d, 2), family="gamma"),
            DataError,
            "a gamma GLMM needs its rows at every step and cannot be streamed",
        ),
        (
            lambda d: ms.clmm("f ~ x + (1 | g)", pieces(d, 2)),
            DataError,
            "OrdinalMixedModel needs its rows at every step and cannot be streamed; give it a DataFrame",
        ),
        (lambda d: ms.lmer_mnar("y ~ x + (1 | g)", pieces(d, 2)), DataError, "cannot be streamed; found Chunks"),
        (
            lambda d: ms.lmer("y ~ x + (1 | g)", pieces(d.assign(x=d["x"].where(d["x"] > 3, np.inf)), 2)),
            DataError,
            "infinite",
        ),
        (lambda d: ms.lmer("y ~ x + (1 | g)", pieces(d, 2), offset="o / 0"), DataError, "infinite"),
    ],
    ids=["reader", "twice", "offset", "subset", "mm", "cov", "gamma", "ordinal", "mnar", "infinite", "infinite offset"],
)
def test_bad_sources_have_their_sentences(frame, make, error, sentence):
    with pytest.raises(error) as found, np.errstate(all="ignore"):
        make(frame)
    assert sentence in str(found.value)


@pytest.mark.parametrize("label", [99999, "x"])
def test_the_level_that_came_later_is_named(frame, label):
    opened = []
    labels = frame["g"] if label == 99999 else frame["g"].astype(str)

    def factory():
        opened.append(1)
        changed = frame.assign(g=labels)
        if len(opened) > 3:
            changed.loc[changed.index[5], "g"] = label
        yield changed

    sentence = f"the source has changed between two passes: g holds '{label}', which the first pass did not see"
    with pytest.raises(DataError) as found:
        ms.lmer("y ~ x + (1 | g)", ms.Chunks(factory))
    assert str(found.value) == sentence


@pytest.mark.parametrize("spline", ["bs(x, df=5)", "bs(x, 5)", "cr(x, df=5)", "ns(x, 4)", "cc(x, df=4)"])
def test_quantiles_of_too_many_rows_are_refused(frame, monkeypatch, spline):
    monkeypatch.setattr("mvmise_sm.streaming.survey._LARGEST_COLUMN", 1000)
    complete = frame.dropna()
    with pytest.raises(DataError) as found:
        ms.lmer(f"y ~ {spline} + (1 | g)", pieces(complete, 3))
    rows = f"{len(complete):,}"
    assert str(found.value) == f"{spline} needs the quantiles of x over {rows} rows; give knots= and bounds"


def test_an_unfinished_streamed_fit_has_no_standard_errors(frame):
    with pytest.warns(UserWarning, match="has not converged"):
        found = ms.lmer("y ~ x + (x | g)", pieces(frame, 4)).fit(maxiter=1)
    assert not found.converged
    assert found.bse.isna().all()
    assert found.pvalues.isna().all()
    assert found.conf_int().isna().all(axis=None)
    for ddf in ("satterthwaite", "default"):
        assert found.tidy(ddf=ddf)["std_error"].isna().all()
    assert np.isnan(found.get_prediction(frame.dropna().iloc[:3]).summary_frame()["mean_se"]).all()


def test_integer_levels_are_found_whatever_their_range(frame):
    """Tables of levels for small ranges, sorted labels for large ones: the fit is the same."""
    complete = frame.dropna().reset_index(drop=True)
    expected = ms.lmer("y ~ x + (x | g)", complete).fit()
    for labels in (complete["g"] - 40, complete["g"] * 10**12, complete["g"].astype("int8"), -complete["g"]):
        found = ms.lmer("y ~ x + (x | g)", pieces(complete.assign(g=labels), 5)).fit()
        assert found.criterion == pytest.approx(expected.criterion, rel=1e-10)
        assert found.n_groups == expected.n_groups


def test_more_levels_than_rows_of_a_block(frame):
    """A block that sees few of the levels adds to those only."""
    complete = frame.dropna().reset_index(drop=True)
    expected = ms.lmer("y ~ x + (x | sub)", complete, missing="drop").fit(reml=False)
    found = ms.lmer("y ~ x + (x | sub)", pieces(complete, 60)).fit(reml=False)
    assert found.criterion == pytest.approx(expected.criterion, rel=1e-10)
