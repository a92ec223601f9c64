"""Observed against expected missingness, comparison of mechanisms, sentences, and permutation of whole clusters."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

import mvmise_sm as ms
from mvmise_sm.exceptions import OptionError


def frame(truth, seed=0, n_b=40, n=4, K=3):
    rng = np.random.default_rng(seed)
    batch, x = np.repeat(np.arange(n_b), n), rng.normal(size=n_b * n)
    group = rng.normal(size=n_b)[batch]
    Y = 6 + 0.5 * x[:, None] + 0.8 * rng.normal(size=(n_b, 1))[batch] + 0.5 * rng.normal(size=(n_b * n, K))
    if truth in ("block", "both"):
        for b in range(n_b):
            for k in range(K):
                if rng.random() < expit(8.0 - 1.7 * Y[batch == b, k].mean()):
                    Y[batch == b, k] = np.nan
    if truth in ("value", "both"):
        Y[rng.random(Y.shape) < expit(8.0 - 1.7 * Y)] = np.nan
    return pd.DataFrame({"batch": batch, "x": x, "group": group, **{f"y{k}": Y[:, k] for k in range(K)}})


FORMULA = "y0 + y1 + y2 ~ x + (1 | batch)"


@pytest.mark.parametrize("truth", ["block", "value", "both"])
def test_the_true_mechanism_has_the_best_aic(truth):
    table = ms.compare_mechanisms(ms.mvmise_b(FORMULA, frame(truth), mechanism="logit"))
    assert set(table.index) == {"block", "value", "both"}
    if truth != "both":
        assert table["aic"][truth] < table["aic"][{"block": "value", "value": "block"}[truth]] - 10
    assert table["aic"][truth] < table["aic"].min() + 5
    assert {"llf", "n_params", "bic", "converged", "x"} <= set(table.columns)


@pytest.fixture(scope="module")
def fitted():
    return ms.mvmise_b(FORMULA, frame("both"), mechanism="logit", value_mechanism="logit").fit()


def test_expected_rates_are_the_observed_ones(fitted):
    assert list(fitted.phi.index) == ["Intercept", "y", "value:Intercept", "value:y"]
    for unit in ("block", "value"):
        table = fitted.mechanism_table(unit=unit, bins=5)
        assert list(table.columns) == ["n", "fitted_mean", "observed_rate", "expected_rate", "z"]
        assert table["n"].sum() > 100
        overall = fitted.mechanism_table("outcome", unit=unit)
        assert (overall["z"].abs() < 4.5).all()
    assert len(fitted.mechanism_table("batch")) == 40
    assert len(fitted.mechanism_table("x", unit="value", bins=4)) == 4
    with pytest.raises(OptionError, match="unit must be"):
        fitted.mechanism_table(unit="row")
    with pytest.raises(OptionError, match="by must be"):
        fitted.mechanism_table("nope")


def test_simulated_patterns_look_like_the_observed_ones(fitted):
    table = fitted.mechanism_fit(60, rng=1)
    assert list(table.index) == ["empty blocks", "partly seen blocks"]
    assert (table["z"].abs() < 3.5).all()
    wrong = ms.mvmise_b(FORMULA, frame("block"), mechanism=None, value_mechanism="logit").fit()
    assert wrong.mechanism_fit(60, rng=1).loc["empty blocks", "z"] > 4


def test_the_summary_says_which_mechanism_the_data_show():
    text = str(ms.mvmise_b(FORMULA, frame("both"), mechanism="logit").fit().summary())
    assert "are taken as missing at random; value_mechanism='logit' models them" in " ".join(text.split())
    assert "Missing at random (phi_y = 0): x" in text
    text = str(ms.mvmise_b(FORMULA, frame("block"), mechanism=None, value_mechanism="logit").fit().summary())
    assert "whole blocks are empty where" in text


def test_the_plot(fitted):
    import matplotlib

    matplotlib.use("Agg")
    assert fitted.plot_mechanism(bins=5).get_ylabel() == "share missing"


def test_columns_that_are_constant_within_clusters_are_permuted_by_clusters():
    data = frame("block", n_b=16)
    result = ms.mvmise_b("y0 + y1 + y2 ~ x + group + (1 | batch)", data).fit()
    table = result.permutation_test(["group"], n=60, rng=1)
    by_sample = result.permutation_test(["group"], n=60, rng=1, mvmise_compat=True)
    # between 16 clusters a null effect is not significant, and samples are not exchangeable
    assert table.loc["group", "p_value"] > 0.02
    assert table.loc["group", "p_value"] != by_sample.loc["group", "p_value"]
    assert result.permutation_test(["x"], n=19, rng=1).loc["x", "p_value"] == pytest.approx(0.05)
