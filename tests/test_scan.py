"""Scans of many features."""

import json

import joblib
import numpy as np
import pandas as pd
import pytest
from scipy import stats
from selection_oracle import frame_of

import mvmise_sm as ms
from mvmise_sm.exceptions import FormulaError, OptionError
from mvmise_sm.scanning.job import COLUMNS, PartFiles, qvalues


def features(n=12, seed=0, missing=0.25):
    """Covariates and n features of 24 clusters, some blocks missing."""
    rng = np.random.default_rng(seed)
    batch = np.repeat(np.arange(24), 3)
    x = rng.normal(size=72)
    frame = pd.DataFrame({"batch": batch, "x": x})
    for j in range(n):
        y = 8 + (0.8 if j % 4 == 0 else 0.0) * x + rng.normal(size=24)[batch] + rng.normal(size=72)
        y[(rng.random(24) < missing)[batch]] = np.nan
        frame[f"f{j}"] = y
    return frame, [f"f{j}" for j in range(n)]


FORMULA = "~ x + (1 | batch)"


@pytest.mark.parametrize("model", ["lmer", "blmer", "mvmise_b", "mvmise_e"])
def test_rows_are_those_of_single_fits(model):
    frame, names = features(4)
    options = {"mechanism_prior": "weak"} if model.startswith("mvmise") else {}
    ddf = "auto" if model.startswith("mvmise") else None
    table = ms.scan(FORMULA, frame, names, model, ddf=ddf, **options)
    assert list(table.columns) == COLUMNS
    assert len(table) == 8
    for name in names:
        single = getattr(ms, model)(f"{name} ~ x + (1 | batch)", frame, **options).fit()
        rows = table[table["feature"] == name].set_index("term")
        assert rows["estimate"].to_numpy() == pytest.approx(single.params.to_numpy(), rel=1e-6)
        assert rows["se"].to_numpy() == pytest.approx(single.bse.to_numpy(), rel=1e-5)
        assert rows["p"].to_numpy() == pytest.approx(single.pvalues.to_numpy(), rel=1e-4, abs=1e-300)
    assert table["converged"].all()


def test_scan_of_counts():
    pytest.importorskip("mvmise_sm.models.generalized")
    import statsmodels.api as sm

    frame, names = features(3, missing=0.0)
    for name in names:
        frame[name] = np.random.default_rng(1).poisson(np.exp(0.3 * (frame[name] - 8)))
    table = ms.scan(FORMULA, frame, names, "glmer", family=sm.families.Poisson(), terms="x")
    single = ms.glmer("f1 ~ x + (1 | batch)", frame, family=sm.families.Poisson()).fit()
    assert table.loc[1, "estimate"] == pytest.approx(single.params["x"], rel=1e-5)


def test_groups_of_features_of_different_size():
    frame, names = features(6)
    table = ms.scan(FORMULA, frame, {"A": names[:3], "B": names[3:5], "C": "f5"}, "mvmise_e", terms=["x"])
    assert list(table["feature"]) == ["A", "B", "C"]
    joint = ms.mvmise_e("f3 + f4 ~ x + (1 | batch)", frame, outcome_effects=["Intercept"]).fit()
    assert table.loc[1, "estimate"] == pytest.approx(joint.params["x"], rel=1e-5)


def test_outcome_specific_effects_carry_the_names_of_each_group():
    frame, names = features(4)
    table = ms.scan(FORMULA, frame, [names[:2], names[2:]], "mvmise_b", outcome_effects=["x"], terms="x")
    assert list(table["term"]) == ["x[f0]", "x[f1]", "x[f2]", "x[f3]"]
    assert list(table["feature"].unique()) == ["f0+f1", "f2+f3"]


def test_a_failing_feature_is_a_row_with_its_message():
    frame, names = features(4)
    frame["f1"] = np.nan
    frame["f2"] = "text"
    frame.loc[5, "f3"] = np.inf
    table = ms.scan(FORMULA, frame, names, "mvmise_b")
    failed = table[table["estimate"].isna()].set_index("feature")
    assert list(failed.index) == ["f1", "f2", "f3"]
    assert "missing in every sample" in failed.loc["f1", "message"]
    assert "numeric" in failed.loc["f2", "message"]
    assert "infinite" in failed.loc["f3", "message"]
    assert not failed["converged"].any()
    assert failed["term"].isna().all()
    assert table.loc[table["feature"] == "f0", "q"].notna().all()
    lmm = ms.scan(FORMULA, frame, names, "lmer")
    assert list(lmm[lmm["estimate"].isna()]["feature"]) == ["f1", "f2", "f3"]
    assert "missing in f1" in lmm.set_index("feature").loc["f1", "message"]


def test_processes_and_backends_do_not_change_the_result():
    frame, names = features(5)
    alone = ms.scan(FORMULA, frame, names, n_jobs=1)
    pd.testing.assert_frame_equal(alone, ms.scan(FORMULA, frame, names, n_jobs=2))
    with joblib.parallel_config(backend="threading", n_jobs=2):
        pd.testing.assert_frame_equal(alone, ms.scan(FORMULA, frame, names))


def test_scan_on_a_dask_cluster():
    distributed = pytest.importorskip("distributed")
    frame, names = features(3)
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0") as cluster,
        distributed.Client(cluster),
        joblib.parallel_config(backend="dask"),
    ):
        table = ms.scan(FORMULA, frame, names)
    pd.testing.assert_frame_equal(table, ms.scan(FORMULA, frame, names))


def test_features_of_their_own_frame_and_variables_of_the_caller():
    frame, names = features(3)
    shift = 2.0  # noqa: F841, the formula reads it
    formula = "~ np.log(x + shift + 5) + (1 | batch)"
    table = ms.scan(formula, frame[["batch", "x"]], frame[names], missing_y=False)
    single = ms.mvmise_b("f1" + formula, frame, missing_y=False).fit()
    assert table["estimate"][2:4].to_numpy() == pytest.approx(single.params.to_numpy(), rel=1e-6)


def test_a_stopped_scan_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr("mvmise_sm.scanning.job.CHUNK", 2)
    frame, names = features(8)
    whole = ms.scan(FORMULA, frame, names)
    path = tmp_path / "scan.parquet"
    written = []
    write = PartFiles.write

    def stop(self, part):
        write(self, part)
        written.append(set(part["feature"]))
        if len(written) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(PartFiles, "write", stop)
    with pytest.raises(KeyboardInterrupt, match="2 of 8 features; call scan again"):
        ms.scan(FORMULA, frame, names, output=path)
    # the second chunk was written before the interrupt and is found again
    assert not path.exists()
    assert len(list((tmp_path / "scan.parquet.parts").glob("part-*"))) == 2
    done = []
    monkeypatch.setattr(PartFiles, "write", lambda self, p: (done.extend(p["feature"].unique()), write(self, p)))
    again = ms.scan(FORMULA, frame, names, output=path)
    assert done == names[4:]
    pd.testing.assert_frame_equal(again, whole, check_dtype=False)
    assert not (tmp_path / "scan.parquet.parts").exists()
    stored = pd.read_parquet(path)
    assert stored["estimate"].to_numpy() == pytest.approx(whole["estimate"].to_numpy())
    # a finished scan is read, and extended by new features
    done.clear()
    frame["f8"] = frame["f0"] + 1.0
    more = ms.scan(FORMULA, frame, [*names, "f8"], output=path)
    assert done == ["f8"]
    assert len(more) == 18
    with pytest.raises(OptionError, match="another scan"):
        ms.scan("~ (1 | batch)", frame, names, output=path)


def test_stored_scans_say_what_they_are(tmp_path):
    frame, names = features(2)
    ms.scan(FORMULA, frame, names, output=tmp_path / "a.parquet")
    import pyarrow.parquet as pq

    note = json.loads(pq.read_schema(tmp_path / "a.parquet").metadata[b"mvmise_sm.scan"])
    assert note[1] == "mvmise_b"


def test_qvalues():
    rng = np.random.default_rng(0)
    p = np.r_[rng.random(80), rng.random(20) * 1e-3, np.nan]
    q = qvalues(p)
    assert q[:-1] == pytest.approx(stats.false_discovery_control(p[:-1]))
    assert np.isnan(q[-1])
    share = (1 + (p[:-1] > 0.5).sum()) / 50
    assert qvalues(p, "storey")[:-1] == pytest.approx(min(share, 1.0) * q[:-1])
    assert np.isnan(qvalues(np.array([np.nan]))).all()


def test_qvalues_are_by_term():
    frame, names = features(6)
    table = ms.scan(FORMULA, frame, names)
    rows = table[table["term"] == "x"]
    assert rows["q"].to_numpy() == pytest.approx(stats.false_discovery_control(rows["p"].to_numpy()))


def test_volcano_plot():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    frame, names = features(6)
    table = ms.scan(FORMULA, frame, names, "lmer")
    ax = table.plot_volcano()
    assert sum(len(c.get_offsets()) for c in ax.collections) == 6
    assert "x" in ax.get_xlabel()
    with pytest.raises(OptionError, match="term must be"):
        table.plot_volcano("age")
    plt.close("all")


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        ({"features": []}, OptionError, "empty"),
        ({"features": ["nope"]}, OptionError, "'nope' is not a column"),
        ({"model": "glm"}, OptionError, "model must be"),
        ({"q_method": "by"}, OptionError, "q_method"),
        ({"terms": "age"}, OptionError, "not a fixed effect"),
        ({"formula": "~ age + (1 | batch)"}, FormulaError, "age"),
        ({"formula": "x + (1 | batch)"}, FormulaError, "~"),
    ],
)
def test_bad_arguments(change, error, sentence):
    frame, names = features(2)
    arguments = {"formula": FORMULA, "data": frame, "features": names} | change
    with pytest.raises(error, match=sentence):
        ms.scan(**arguments)


def test_demonstration_data_feature_by_feature():
    frame = frame_of("sim_dat")
    table = ms.scan("protein ~ x2 + (1 | id)", frame, ["y1", "y2"], fit_options={"method": "em"}, progress=True)
    assert table["converged"].all()
