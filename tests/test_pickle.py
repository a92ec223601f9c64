"""Results and models survive pickling, copying and the removal of data, in another process too."""

import copy
import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from conftest import masked

import mvmise_sm as ms

FORMULAS = {
    "plain": "Reaction ~ Days + (Days | Subject)",
    "function": "np.log(Reaction) ~ np.log(Days + 1) + (np.log(Days + 1) | Subject)",
    "stateful": "Reaction ~ center(off) + bs(Days, df=4) + Half + (1 | Subject)",
    "nested": "Reaction ~ Days + offset(off) + (1 | Subject) + (1 | Subject:Half)",
}


@pytest.fixture(scope="module")
def frame(frames):
    return frames("sleepstudy")


@pytest.fixture(params=FORMULAS)
def result(request, frame):
    return ms.lmer(FORMULAS[request.param], frame, weights="w").fit()


def same(a, b, frame):
    pd.testing.assert_series_equal(a.params, b.params)
    np.testing.assert_allclose(a.theta, b.theta)
    pd.testing.assert_series_equal(a.predict(frame), b.predict(frame))
    pd.testing.assert_series_equal(a.fittedvalues, b.fittedvalues)
    pd.testing.assert_frame_equal(a.wald_test_terms().table, b.wald_test_terms().table)
    pd.testing.assert_frame_equal(a.varcorr, b.varcorr)
    for name, modes in a.random_effects.items():
        pd.testing.assert_frame_equal(modes, b.random_effects[name])


def test_pickle_keeps_everything(result, frame):
    same(result, pickle.loads(pickle.dumps(result)), frame)


def test_deepcopy(result, frame):
    same(result, copy.deepcopy(result), frame)


def test_model_pickles_before_and_after_fitting(frame):
    model = ms.lmer(FORMULAS["function"], frame, weights="w")
    loaded = pickle.loads(pickle.dumps(model))
    np.testing.assert_allclose(loaded.fit(reml=False).params, model.fit(reml=False).params, rtol=1e-12)
    assert repr(loaded) == repr(model)


def test_refit_and_conditional_variances_after_loading(result):
    loaded = pickle.loads(pickle.dumps(result))
    y = np.asarray(result.simulate(1, rng=3))[:, 0]
    np.testing.assert_allclose(loaded.refit(y).params, result.refit(y).params, rtol=1e-6)
    for name, block in result.random_effects_cov.items():
        np.testing.assert_allclose(loaded.random_effects_cov[name], block)


def test_save_and_load(result, frame, tmp_path):
    result.save(tmp_path / "fit.pickle")
    same(result, ms.load(tmp_path / "fit.pickle"), frame)


def test_array_model(frame):
    exog = np.column_stack([np.ones(180), frame["Days"]])
    result = ms.LinearMixedModel(frame["Reaction"].to_numpy(), exog, {"s": (frame["Subject"], exog)}).fit()
    loaded = pickle.loads(pickle.dumps(result))
    np.testing.assert_allclose(loaded.predict(exog[:3], groups=["308"] * 3, exog_re=exog[:3]), result.predict()[:3])


LOADING = """
import sys, pickle
import mvmise_sm as ms
result = ms.load(sys.argv[1])
frame = pickle.load(open(sys.argv[2], "rb"))
print(repr(float(result.predict(frame).sum())))
print(repr(float(result.get_prediction(frame).summary_frame()["mean_se"].sum())))
print(len(result.wald_test_terms().table), len(str(result.summary())) > 500)
"""


@pytest.mark.parametrize("removed", [False, True], ids=["whole", "data removed"])
def test_fresh_process_without_the_names_of_the_formula(frame, tmp_path, removed):
    result = ms.lmer(FORMULAS["function"], frame).fit()
    new = frame.iloc[::20][["Days", "Subject"]]
    expected = float(result.predict(new).sum())
    se = float(result.get_prediction(new).summary_frame()["mean_se"].sum())
    result.save(tmp_path / "fit.pickle", remove_data=removed)
    new.to_pickle(tmp_path / "new.pickle")
    code = [line for line in LOADING.splitlines() if not (removed and "get_prediction" in line)]
    script = tmp_path / "load.py"
    script.write_text("\n".join(code))
    command = [sys.executable, "-W", "error", str(script), str(tmp_path / "fit.pickle"), str(tmp_path / "new.pickle")]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    np.testing.assert_allclose(float(lines[0]), expected, rtol=1e-12)
    if not removed:
        np.testing.assert_allclose(float(lines[1]), se, rtol=1e-9)
    assert lines[-1] == "2 True"


def test_summary_and_conditional_prediction_after_remove_data(result, frame):
    text, predicted = str(result.summary()), result.predict(frame.iloc[:5])
    result.remove_data()
    assert masked(str(result.summary())) == masked(text)
    pd.testing.assert_series_equal(result.predict(frame.iloc[:5]), predicted)
    assert result.model.endog is None
    assert result.model.random_effects is None


def test_remove_data_shrinks_the_pickle(result):
    whole = len(pickle.dumps(result))
    result.remove_data()
    assert len(pickle.dumps(result)) < 0.666 * whole
