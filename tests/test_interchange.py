"""The package marginaleffects on our results."""

import warnings

import numpy as np
import pytest
from inference_models import frame_of, unbalanced

import mvmise_sm as ms

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    me = pytest.importorskip("marginaleffects")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture(scope="module")
def linear():
    data = unbalanced(3, 14)
    return ms.lmer("y ~ x * f + (x | g)", data).fit()


@pytest.fixture(scope="module")
def binomial():
    return ms.glmer("prop ~ period + (1 | herd)", frame_of("cbpp"), family="binomial", weights="size").fit()


def test_predictions_of_a_linear_model(linear):
    table = me.predictions(linear.to_marginaleffects())
    expected = linear.get_prediction(random="none").summary_frame()
    np.testing.assert_allclose(table["estimate"].to_numpy(), expected["mean"], rtol=1e-9)
    np.testing.assert_allclose(table["std_error"].to_numpy(), expected["mean_se"], rtol=1e-5)


def test_slopes_and_comparisons_of_a_linear_model(linear):
    slopes = me.slopes(linear.to_marginaleffects(), variables="x", by="f")
    ours = linear.marginal_slopes("x", "f", ddf=None)
    np.testing.assert_allclose(slopes.sort("f")["estimate"].to_numpy(), ours["estimate"], rtol=1e-5)
    # theirs are differences of difference quotients
    np.testing.assert_allclose(slopes.sort("f")["std_error"].to_numpy(), ours["std_error"], rtol=2e-3)
    pairs = me.avg_comparisons(linear.to_marginaleffects(), variables={"f": "pairwise"})
    means = linear.marginal_means("f", pairs=True, ddf=None, adjust="none")
    got = {name.replace(" ", ""): value for name, value in zip(pairs["contrast"], pairs["estimate"], strict=True)}
    for contrast, estimate in zip(means["contrast"], means["estimate"], strict=True):
        left, right = contrast.split(" - ")
        assert got[f"{right}-{left}"] == pytest.approx(-estimate, rel=1e-6)


def test_hypotheses(linear):
    table = me.hypotheses(linear.to_marginaleffects(), hypothesis="x = 0")
    np.testing.assert_allclose(table["p_value"].to_numpy(), linear.pvalues["x"], rtol=1e-6)


def test_predictions_of_a_binomial_model(binomial):
    table = me.avg_predictions(binomial.to_marginaleffects(), by="period").sort("period")
    means = binomial.marginal_means("period", which="mean")
    np.testing.assert_allclose(table["estimate"].to_numpy(), means["estimate"], rtol=1e-9)
    np.testing.assert_allclose(table["std_error"].to_numpy(), means["std_error"], rtol=1e-4)
    risk = me.avg_comparisons(binomial.to_marginaleffects(), variables="period")
    ours = binomial.marginal_means("period", regrid=True).contrast("trt.vs.ctrl", adjust="none")
    np.testing.assert_allclose(np.sort(risk["estimate"].to_numpy()), np.sort(ours["estimate"]), rtol=1e-6)


def test_results_themselves_after_registration(linear, binomial):
    ms.register_marginaleffects()
    direct, adapted = me.avg_slopes(linear), me.avg_slopes(linear.to_marginaleffects())
    np.testing.assert_array_equal(direct["estimate"].to_numpy(), adapted["estimate"].to_numpy())
    assert len(me.predictions(binomial)) == binomial.nobs


def test_robust_results_bring_their_covariance(linear):
    robust = linear.get_robustcov_results("CR2", groups="g")
    table = me.hypotheses(robust.to_marginaleffects(), hypothesis="x = 0")
    np.testing.assert_allclose(table["std_error"].to_numpy(), robust.bse["x"], rtol=1e-6)
