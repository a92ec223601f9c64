"""Bootstrap: seeds, kinds of intervals, refits."""

import pickle
import warnings

import joblib
import numpy as np
import pandas as pd
import pytest
from inference_models import fitted, sleepstudy, unbalanced
from scipy import stats

import mvmise_sm as ms
from mvmise_sm.core.optimise.newton import minimize
from mvmise_sm.exceptions import OptionError, SingularFitWarning
from mvmise_sm.inference.bootstrap import _bca
from mvmise_sm.inference.resampling import ParametricRefit, generators, parameters_of


def test_resamples_do_not_depend_on_the_number_of_processes():
    result = sleepstudy()
    one = result.bootstrap(12, rng=1).samples
    with joblib.parallel_config(backend="threading"):
        two = result.bootstrap(12, rng=1, n_jobs=2).samples
    pd.testing.assert_frame_equal(one, two)
    assert not one.equals(result.bootstrap(12, rng=2).samples)


def test_refits_travel_to_other_processes():
    task = ParametricRefit(sleepstudy()._results)
    there = pickle.loads(pickle.dumps(task))
    (stream,), (again,) = generators(1, 1), generators(1, 1)
    np.testing.assert_allclose(there(stream), task(again), rtol=1e-8)


def test_longer_runs_begin_with_the_shorter_ones():
    short, long = (sleepstudy().bootstrap(n, rng=1).samples for n in (5, 8))
    pd.testing.assert_frame_equal(short, long.iloc[:5])


def test_legacy_random_state():
    assert sleepstudy().bootstrap(3, rng=np.random.RandomState(0)).samples.shape == (3, 6)


def test_quick_refits_are_refits():
    """The short way to the parameters gives what a whole new fit gives."""
    result = sleepstudy()._results
    task = ParametricRefit(result)
    for stream, again in zip(generators(3, 5), generators(3, 5), strict=True):
        quick = task(stream)
        whole = parameters_of(result.refit(task._response(again)))
        np.testing.assert_allclose(quick, whole, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("formula", ["y ~ x + f + (x | g)", "y ~ x + (x || g)", "y ~ f + (1 | g)", "y ~ 0 + (x | g)"])
@pytest.mark.parametrize("reml", [True, False])
def test_batches_of_refits_are_single_refits(formula, reml):
    data = unbalanced(8, 14)
    data["w"], data["o"] = np.linspace(0.5, 2.0, len(data)), data["x"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SingularFitWarning)
        result = ms.lmer(formula, data, weights="w", offset="o").fit(reml=reml)._results
    task = ParametricRefit(result)
    rows = task.batch(generators(0, 40))
    criterion = result.deviance_function()
    checked = 0
    for stream, row in zip(generators(0, 40), rows, strict=True):
        y = task._response(stream)
        best = minimize(criterion.refitted(y))
        # near the boundary the criterion is flat, and the parameters may differ while it does not
        if (best.theta[criterion.lower == 0.0] > 0.1).all():
            checked += 1
            np.testing.assert_allclose(row, parameters_of(result.refit(y)), rtol=2e-3, atol=1e-4)
    assert checked > 5


def test_what_cannot_be_batched_is_refitted_one_by_one():
    crossed = fitted("Penicillin", "diameter ~ 1 + (1 | plate) + (1 | sample)")
    assert ParametricRefit(crossed).batch(generators(0, 20)) is None
    assert crossed.bootstrap(20, rng=0).samples.notna().all(axis=None)
    prior = ms.blmer("Reaction ~ Days + (1 | Subject)", sleepstudy().model.data.frame).fit()
    assert ParametricRefit(prior).batch(generators(0, 20)) is None


def test_simulated_responses_have_the_moments_of_the_fit():
    result = sleepstudy()._results
    task = ParametricRefit(result)
    draws = np.array([task._response(s) for s in generators(0, 4000)])
    z = result.model.random_effects.z.toarray()
    sigma = np.asarray(result.cov_re["Subject"])
    cov = z @ np.kron(np.eye(18), sigma) @ z.T + result.scale * np.eye(180)
    error = (draws.mean(axis=0) - result.model.exog @ result.params) / np.sqrt(np.diag(cov) / 4000)
    assert np.abs(error).max() < 4.5
    np.testing.assert_allclose(draws.var(axis=0), np.diag(cov), rtol=0.15)


def test_standard_errors_are_near_those_of_the_theory():
    boot = sleepstudy().bootstrap(400, rng=0)
    ratio = boot.std_error[["Intercept", "Days"]] / sleepstudy().bse
    assert ((ratio > 0.85) & (ratio < 1.15)).all()
    assert boot.n_failed == 0
    np.testing.assert_allclose(boot.bias, boot.samples.mean() - boot.estimate)


def test_kinds_of_intervals():
    boot = sleepstudy().bootstrap(200, rng=0)
    percentile, basic, bca = (boot.conf_int(0.1, kind) for kind in ("percentile", "basic", "bca"))
    np.testing.assert_allclose(percentile, boot.samples.quantile([0.05, 0.95]).T)
    np.testing.assert_allclose(basic[0], 2.0 * boot.estimate - percentile[1])
    assert (bca[0] < bca[1]).all()
    with pytest.raises(OptionError, match="kind must be"):
        boot.conf_int(kind="normal")


def test_bca_without_bias_and_acceleration_is_percentile():
    draws = stats.norm.ppf((np.arange(4001) + 0.5) / 4001)
    np.testing.assert_allclose(_bca(draws, 0.0, 0.0, [0.025, 0.975]), np.quantile(draws, [0.025, 0.975]), atol=1e-3)
    shifted = _bca(draws, 0.2, 0.0, [0.025, 0.975])
    # the estimate above the middle of the draws moves the interval up: twice the bias on the normal scale
    np.testing.assert_allclose(shifted, np.quantile(draws, stats.norm.cdf([-1.96 + 0.4, 1.96 + 0.4])), atol=2e-3)


def test_conf_int_of_the_result():
    intervals = sleepstudy().conf_int(method="bootstrap", n=40, rng=1)
    pd.testing.assert_frame_equal(intervals, sleepstudy().bootstrap(40, rng=1).conf_int())
    with pytest.raises(OptionError, match="unknown option 'seed'"):
        sleepstudy().conf_int(method="bootstrap", seed=1)


def test_any_statistic():
    boot = sleepstudy().bootstrap(6, rng=0, statistic=lambda r: pd.Series({"ratio": r.theta[0], "llf": r.llf}))
    assert list(boot.samples.columns) == ["ratio", "llf"]
    number = sleepstudy().bootstrap(4, rng=0, statistic=lambda r: r.scale)
    assert list(number.estimate.index) == ["statistic"]


def test_by_group_resamples_whole_groups():
    data = unbalanced(8, 14)
    result = ms.lmer("y ~ x + (1 | g)", data).fit()
    boot = result.bootstrap(60, rng=0, by="g")
    ratio = boot.std_error["x"] / result.bse["x"]
    assert 0.4 < ratio < 2.5
    assert boot.conf_int(kind="bca").shape == (4, 2)
    with pytest.raises(OptionError, match="unknown grouping factor 'h'"):
        result.bootstrap(2, by="h")


def test_a_group_drawn_twice_is_two_groups():
    from mvmise_sm.inference.resampling import resampled_fit

    result = fitted("Pastes", "strength ~ 1 + (1 | batch/cask)")._results
    batch, inner = sorted(result.model.random_effects.factors, key=lambda f: f.n_levels)
    rows = [np.flatnonzero(batch.codes == j) for j in range(batch.n_levels)]
    drawn = np.array([0, 0, 1, 2, 3, 4, 5, 6, 7, 8])
    fit = resampled_fit(result, batch, rows, drawn)
    assert fit.n_groups == {batch.name: 10, inner.name: 30}


def test_generalized_models():
    result = fitted("cbpp", "prop ~ period + (1 | herd)", family="binomial", weights="size")
    boot = result.bootstrap(25, rng=0)
    assert list(boot.samples.columns)[-1] == "sd_Intercept|herd"
    assert boot.samples.notna().all(axis=None)
    assert result.bootstrap(4, rng=0, by="herd").samples.shape == (4, 5)


def test_bootstrap_comparison():
    small = fitted("Pastes", "strength ~ 1 + (1 | batch:cask)")
    large = fitted("Pastes", "strength ~ 1 + (1 | batch/cask)")
    table = ms.anova(large, small, test="bootstrap", n=60, rng=0)
    row = table.iloc[0]
    # the variance that is tested is on the boundary, where chi-squared is conservative
    assert row["p_bootstrap"] < row["p_value"]
    assert row["n"] == 60


def test_number_of_resamples_must_be_positive():
    with pytest.raises(OptionError, match="positive"):
        sleepstudy().bootstrap(0)
