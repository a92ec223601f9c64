"""Plans and sums that travel, levels that lose their rows, sources of all kinds; and what is said where it fails."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import mvmise_sm as ms
from mvmise_sm.exceptions import DataError, MissingDataError, OptionError, RandomEffectsError, UnknownColumnError
from mvmise_sm.streaming import wire

FORMULA = "y ~ x + (1 | g)"


@pytest.fixture(scope="module")
def frame():
    rng = np.random.default_rng(3)
    out = pd.DataFrame({"g": np.repeat([f"g{i}" for i in range(12)], 10), "x": rng.normal(size=120)})
    return out.assign(y=out["x"] + rng.normal(size=12).repeat(10) + rng.normal(size=120), w=1.0)


def halves(frame):
    return ms.Chunks(lambda: (frame.iloc[:60], frame.iloc[60:]))


def plan(frame, formula=FORMULA, **options):
    return ms.CrossProducts.plan(formula, frame, **options)


# --- what travels


@pytest.mark.parametrize(
    "index",
    [
        pd.CategoricalIndex(["b", "a", "b"], categories=["c", "b", "a"], ordered=True),
        pd.to_datetime(["2024-03-01", "2025-01-01"]),
        pd.to_datetime(["2024-03-30 03:00", "2024-07-01 00:30"]).tz_localize("Europe/Vienna"),
        pd.to_timedelta([1, 5, 9], unit="h"),
        pd.Index(["a", "b", 3], dtype=object),
        pd.Index([1.5, 2.5]),
        pd.Index([True, False]),
    ],
    ids=["categories", "dates", "zoned", "durations", "texts", "floats", "flags"],
)
def test_labels_of_all_kinds_travel(index):
    found = wire.unpack(wire.pack({"labels": index}))["labels"]
    pd.testing.assert_index_equal(found, index, check_names=False, exact="equiv")


def test_trees_travel():
    tree = {
        "flag": np.bool_(True),
        "numbers": (1, 2.5, np.int32(4)),
        "by number": {3: "a", ("b", 1): [None]},
        "series": pd.Series([1.0, 2.0]),
        "texts": np.array([["a"], ["b"]], dtype=object),
        "frame": pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}),
    }
    found = wire.unpack(wire.pack(tree))
    assert found["flag"] is True
    assert found["numbers"] == (1, 2.5, 4)
    assert found["by number"] == {3: "a", ("b", 1): [None]}
    assert found["series"].tolist() == [1.0, 2.0]
    assert found["texts"].tolist() == ["a", "b"]
    pd.testing.assert_frame_equal(found["frame"], tree["frame"], check_dtype=False, check_column_type=False)
    with pytest.raises(DataError, match="a plan holds a set, which cannot travel"):
        wire.pack({"a": {1, 2}})


def test_sums_are_saved_and_described(frame, tmp_path):
    planned = plan(frame)
    assert planned.is_plan
    assert repr(planned) == "<CrossProducts (plan): y ~ x + (1 | g); 120 rows; g: 12>"
    with pytest.raises(DataError, match=r"a plan has no counts; collect\(\) makes sums"):
        _ = planned.smallest_group
    sums = planned.collect(frame.iloc[:115])
    assert not sums.is_plan
    assert sums.smallest_group == 5
    assert "(sums)" in repr(sums)
    sums.save(tmp_path / "sums")
    assert sums.nbytes == (tmp_path / "sums").stat().st_size
    again = ms.CrossProducts.load(tmp_path / "sums")
    assert ms.lmer(FORMULA, again).fit().llf == ms.lmer(FORMULA, sums).fit().llf


@pytest.mark.parametrize("formula", [FORMULA, "y ~ x + (1 | g) + (1 | h)"])
def test_levels_that_lost_their_rows_are_left_out(frame, formula):
    data = frame.assign(h=np.tile(list("abcdef"), 20))
    data["y"] += data["h"].map({"a": 1.0, "b": 0.0, "c": -1.0, "d": 2.0, "e": 0.5, "f": -2.0})
    kept = data[~data["g"].isin(["g3", "g11"]) & (data["h"] != "b")]
    found = ms.lmer(formula, plan(data, formula).collect(kept)).fit()
    expected = ms.lmer(formula, kept).fit()
    assert found.llf == pytest.approx(expected.llf, rel=1e-9)
    np.testing.assert_allclose(found.params, expected.params, rtol=1e-7)
    assert list(found.random_effects["g"].index) == list(expected.random_effects["g"].index)
    np.testing.assert_allclose(found.random_effects["g"], expected.random_effects["g"], atol=1e-6)


def test_what_cannot_be_merged(frame):
    planned, sums = plan(frame), plan(frame).collect(frame)
    with pytest.raises(DataError, match=r"plans are merged with \|, sums are added with \+"):
        planned | sums
    with pytest.raises(DataError, match=r"sums are added with \+, plans are merged with \|"):
        planned + sums
    with pytest.raises(DataError, match="the plans have different formulas or options: 'y ~ x"):
        planned | plan(frame, "y ~ 1 + (1 | g)")
    with pytest.raises(DataError, match=r"different plans \(formula or options differ\)"):
        sums + plan(frame, "y ~ 1 + (1 | g)").collect(frame)
    with pytest.raises(DataError, match=r"different plans \(levels of g differ\)"):
        sums + plan(frame.iloc[:50]).collect(frame.iloc[:50])
    with pytest.raises(DataError, match=r"different plans \(levels or centres differ\)"):
        sums + plan(frame.assign(x=frame["x"] + 9.0)).collect(frame)
    for operation in (lambda: planned | 1, lambda: sums + 1):
        with pytest.raises(TypeError, match="unsupported operand"):
            operation()


def test_functions_of_the_caller_do_not_travel(frame):
    def twice(x):
        return 2.0 * x

    planned = ms.CrossProducts.plan("y ~ twice(x) + (1 | g)", frame)
    with pytest.raises(DataError, match="'twice' is a function of the caller; a plan that travels takes numbers"):
        planned.to_bytes()
    times = 3.0
    again = ms.CrossProducts.from_bytes(ms.CrossProducts.plan("y ~ I(times * x) + (1 | g)", frame).to_bytes())
    fit = ms.lmer("y ~ I(times * x) + (1 | g)", again.collect(frame)).fit()
    assert fit.params.iloc[1] * times == pytest.approx(ms.lmer(FORMULA, frame).fit().params["x"], rel=1e-6)


# --- sources


def test_a_source_is_read_from_frames_of_dictionaries(frame):
    dictionaries = ms.Chunks(lambda: ({c: half[c].to_numpy() for c in half} for half in (frame[:70], frame[70:])))
    assert repr(ms.Chunks(halves)) == "Chunks('halves')"
    assert ms.lmer(FORMULA, dictionaries).fit().llf == pytest.approx(ms.lmer(FORMULA, frame).fit().llf, rel=1e-10)


def broken(value):
    return ms.Chunks(lambda: value)


@pytest.mark.parametrize(
    ("make", "error", "sentence"),
    [
        (lambda d: plan(d, missing="none"), OptionError, "missing must be 'drop' or 'raise', not 'none'"),
        (lambda d: plan(d, "x + y ~ 1 + (1 | g)"), DataError, "one response is needed"),
        (lambda d: plan(d, "y ~ x"), RandomEffectsError, r"has no random-effects term such as '\(1 \| g\)'"),
        (lambda d: plan(broken(3)), DataError, "must return an iterator over frames, not int"),
        (lambda d: plan(broken(iter([]))), DataError, "the source has no blocks"),
        (lambda d: plan(broken([d.iloc[:0]])), DataError, "the source has no rows"),
        (lambda d: plan(broken([d, 3])), DataError, "a block of the source is no frame: int"),
        (
            lambda d: plan(d).collect(broken([d, d.drop(columns="x")])),
            UnknownColumnError,
            "a block of the source lacks .* 'x'",
        ),
        (lambda d: plan(halves(d.assign(x=np.nan))), MissingDataError, "no complete rows"),
        (
            lambda d: ms.lmer(FORMULA, halves(d.assign(x=1e200 * d["x"]))),
            DataError,
            "whose squares cannot be represented",
        ),
        (lambda d: plan(d).collect(d.assign(y=np.inf)), DataError, "the response 'y' holds infinite values"),
        (lambda d: plan(d).collect(d.assign(x=np.inf)), DataError, "x holds infinite values in the new data"),
        (lambda d: plan(d, weights="w").collect(d.assign(w=-1.0)), DataError, "the smallest is -1"),
        (lambda d: plan(d, missing="raise").collect(d.assign(x=np.nan)), MissingDataError, "missing in 120 rows"),
        (lambda d: plan(d).collect(d.iloc[:11], min_rows=3), DataError, "level 'g1' of g has 1 row at this site"),
        (lambda d: ms.lmer(FORMULA, plan(d).collect(d), weights="w"), OptionError, "weights belongs to the plan"),
        (lambda d: ms.lmer("y ~ x + (1 | g)", halves(d.assign(y=2.0 * d["x"]))).fit(), DataError, "residual variance"),
        (
            lambda d: ms.lmer(FORMULA, plan(d).collect(d)).fit().write_fitted("fitted.parquet"),
            DataError,
            r"knows no source; give write_fitted\(path, source=\)",
        ),
        (
            lambda d: ms.lmer(FORMULA, halves(d)).fit().write_fitted("fitted.parquet", source=3),
            DataError,
            "source must be one that is read in chunks, found int",
        ),
    ],
)
def test_what_is_wrong_with_a_source_is_said(frame, make, error, sentence):
    with pytest.raises(error, match=sentence):
        make(frame)


def test_columns_that_an_arrow_table_lacks_are_named(frame, tmp_path):
    import pyarrow.dataset as dataset
    from pyarrow import parquet

    parquet.write_table(pa.table(frame), tmp_path / "rows.parquet")
    with pytest.raises(UnknownColumnError, match="'nope' is not a column"):
        ms.lmer("y ~ nope + (1 | g)", dataset.dataset(tmp_path / "rows.parquet"))
    reader = pa.table(frame).to_reader()
    with pytest.raises(DataError, match="read only once"):
        ms.lmer(FORMULA, reader)


def test_a_lazy_polars_frame_is_a_source(frame):
    polars = pytest.importorskip("polars", minversion="1.0")
    found = ms.lmer(FORMULA, polars.from_arrow(pa.table(frame)).lazy()).fit()
    assert found.llf == pytest.approx(ms.lmer(FORMULA, frame).fit().llf, rel=1e-10)
