"""What lmer_mnar, mvmise_b and mvmise_e answer alike: profiles, intervals, missing values, residuals, mechanism."""

import warnings
from functools import cache

import matplotlib
import numpy as np
import pandas as pd
import pytest
from scipy.special import ndtr

import mvmise_sm as ms
from mvmise_sm.core.uncertainty.profile_search import end
from mvmise_sm.exceptions import DataError, IdentificationWarning, OptionError

matplotlib.use("Agg")
HELD = {"Intercept": 12.6, "y": -0.72}


@cache
def frame():
    rng = np.random.default_rng(8)
    subject, condition = np.repeat(np.arange(12), 4), np.tile([0.0, 1.0, 0.0, 1.0], 12)
    y = 18.0 + 0.5 * condition + 0.6 * rng.normal(size=12)[subject] + 0.4 * rng.normal(size=48)
    y[rng.random(48) < ndtr(HELD["Intercept"] + HELD["y"] * y)] = np.nan
    return pd.DataFrame({"y": y, "condition": condition, "subject": subject, "other": np.tile(np.arange(8), 6)})


@cache
def value_fit(kind="held", reml=False):
    options = {"mechanism": "probit", "mechanism_prior": {"y": ms.priors.Normal(1.0)}}
    if kind != "free":
        options = {"mechanism": ms.mechanisms.Probit(**HELD)}
    if kind == "ratio":
        options["theta"] = 1.4
    formula = "y ~ condition + (1 | subject)" + (" + (1 | other)" if kind == "laplace" else "")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ms.lmer_mnar(formula, frame(), **options).fit(reml=reml)


@cache
def wide():
    return ms.datasets.simulate_mvmise(25, 2, beta=(10.0, 0.7), tau=0.8, phi=(1.6, -0.28), rng=3)


@cache
def block_fit(entry):
    return getattr(ms, entry)("y1 + y2 ~ x2 + (1 | id)", wide()).fit()


def held_out(result, name, c):
    """The maximised log-likelihood with one element of the profile's point held, by the plain maximiser."""
    from mvmise_sm.selection.maximise import maximise

    target, parameters = result._results.profile_parameters()
    pivot = {one.name: one.pivot for one in parameters}[name]
    free = np.arange(target.point.size) != pivot
    start = target.point.copy()
    start[pivot] = c
    kept = np.diag(target.cov) > 0
    metric = np.diag(np.where(kept, 0.0, 1.0))
    metric[np.ix_(kept, kept)] = np.linalg.inv(target.cov[np.ix_(kept, kept)])
    return target.maximum, maximise(target.objective, start, metric, free=free, information=False).value


@pytest.mark.parametrize("kind", ["held", "free", "ratio"])
def test_ends_of_value_profiles_lose_what_the_quantile_says(kind):
    result = value_fit(kind)
    ends = result.conf_int(method="profile")
    assert list(ends.index) == list(result.parameter_values().index)
    estimates = result.parameter_values()
    assert ((ends[0] <= estimates) & (estimates <= ends[1])).all()
    for name in ["condition", *(["phi[y]"] if kind == "free" else [])]:
        top, value = held_out(result, name, ends.loc[name, 1])
        assert 2.0 * (top - value) == pytest.approx(3.841459, abs=1e-3)


@pytest.mark.parametrize("entry", ["mvmise_b", "mvmise_e"])
def test_ends_of_block_profiles(entry):
    result = block_fit(entry)
    ends = result.conf_int(method="profile")
    estimates = result.parameter_values()
    assert list(ends.index) == list(estimates.index)
    assert ((ends[0] <= estimates) & (estimates <= ends[1])).all()
    low, high = result.profile_interval()
    np.testing.assert_allclose(ends.loc["phi[y]"], [low, high], rtol=1e-3)
    wald = result.conf_int(parm="theta_")
    assert list(wald.index) == list(estimates.index[len(result.params) :])
    # both are intervals of the same thing: half their lengths apart at most
    close = (ends.loc[wald.index] - wald).abs().max(axis=1) < 0.75 * (wald[1] - wald[0])
    assert close.all()


def test_profile_of_a_correlation_of_errors():
    result = block_fit("mvmise_e")
    target, parameters = result._results.profile_parameters()
    (one,) = [p for p in parameters if p.name.startswith("cor_")]
    upper = end(target.profiled(one), 1.0, 1.959964)
    x = target.profiled(one).at(upper, target.point).x
    assert one.at(x) == pytest.approx(upper, abs=1e-8)
    value, score = target.objective(x)
    assert 2.0 * (target.maximum - value) == pytest.approx(3.841459, abs=1e-3)
    # at a constrained maximum the gradients of likelihood and parameter are parallel
    slope = one.gradient(x)
    across = score - slope * (score @ slope) / (slope @ slope)
    assert np.abs(across).max() < 1e-3 * max(1.0, np.abs(score).max())


def test_profile_after_reml_is_that_of_maximum_likelihood():
    ends = [value_fit("held", reml).conf_int(method="profile", parm="condition") for reml in (False, True)]
    np.testing.assert_allclose(ends[0], ends[1], rtol=1e-6)


def test_laplace_profiles_and_wald_intervals_are_near_the_exact_ones():
    laplace, exact = value_fit("laplace"), value_fit("held")
    names = ["condition", "sd_Intercept|subject"]
    found = laplace.conf_int(method="profile", parm=names)
    np.testing.assert_allclose(found, exact.conf_int(method="profile", parm=names), atol=0.08)
    assert list(laplace.conf_int(parm="theta_").index) == ["sd_Intercept|subject", "sd_Intercept|other", "sigma"]


def test_profiles_are_drawn_and_unknown_parameters_refused():
    profile = value_fit().profile(["condition", "sigma"])
    assert profile.frame["parameter"].unique().tolist() == ["condition", "sigma"]
    assert (profile.frame.groupby("parameter")["zeta"].apply(lambda z: z.is_monotonic_increasing)).all()
    profile.plot()
    with pytest.raises(OptionError, match="unknown parameter 'nobody'; this fit has Intercept, condition"):
        value_fit().profile("nobody")


@pytest.mark.parametrize("kind", ["held", "laplace"])
def test_imputations_have_the_law_of_the_missing_values(kind):
    result = value_fit(kind)
    n = 600 if kind == "held" else 150
    draws = result.imputations(n, rng=1, uncertainty="known")
    expected = result.predict_missing()
    missing = frame()["y"].isna()
    found = draws[missing.to_numpy()]
    z = (found.mean(axis=1).to_numpy() - expected["mean"]) / (expected["sd"] / np.sqrt(n))
    assert np.abs(z).max() < 5.0
    # the standard error of a standard deviation, and Laplace's error
    ratio = found.std(axis=1).to_numpy() / expected["sd"]
    assert np.abs(ratio - 1.0).max() < 5.0 / np.sqrt(2.0 * n) + 0.05 * (kind == "laplace")
    np.testing.assert_array_equal(draws[~missing.to_numpy()].iloc[:, 0], frame()["y"].dropna())


@pytest.mark.parametrize("reml", [False, True])
def test_uncertain_parameters_widen_the_law_of_missing_values(reml):
    result = value_fit("free", reml)
    known, both = result.predict_missing(), result.predict_missing(uncertainty="parameters")
    np.testing.assert_allclose(known["mean"], both["mean"])
    assert (both["sd"] > known["sd"]).all()
    draws = result.imputations(3, rng=2)
    assert draws.notna().all().all()
    assert draws.attrs["redrawn"] >= 0


def test_covariance_of_all_parameters_has_that_of_the_fixed_effects():
    for kind in ("held", "free"):
        for reml in (False, True):
            result = value_fit(kind, reml)
            np.testing.assert_allclose(result.fit_.cov[:2, :2], result.cov_params(), rtol=1e-8)


def test_sensitivity_is_a_fit_with_the_slope_held():
    result = value_fit("free", True)
    table = result.sensitivity([0.0, -0.5])
    again = ms.lmer_mnar("y ~ condition + (1 | subject)", frame(), mechanism=ms.mechanisms.Probit(y=-0.5)).fit()
    rows = table[table["phi_y"] == -0.5].set_index("term")
    np.testing.assert_allclose(rows["estimate"], again.params, rtol=1e-5)
    np.testing.assert_allclose(rows["std_error"], again.bse, rtol=1e-4)
    at_random = ms.lmer("y ~ condition + (1 | subject)", frame().dropna()).fit()
    rows = table[table["phi_y"] == 0.0].set_index("term")
    np.testing.assert_allclose(rows["estimate"], at_random.params, rtol=1e-4)
    np.testing.assert_allclose(rows["std_error"], at_random.bse, rtol=1e-3)


def test_sensitivity_at_one_rate():
    result = value_fit("held", True)
    inner = result._results
    fit = inner._at_rate(-0.5)
    assert inner._unit_rates(fit).mean() == pytest.approx(inner._unit_rates(inner.fit_).mean(), abs=1e-5)
    table = result.sensitivity([-0.72, -0.5], hold="rate").set_index(["phi_y", "term"])
    # at the slope of the fit its own intercept keeps the rate
    assert table.loc[(-0.72, "condition"), "estimate"] == pytest.approx(result.params["condition"], abs=1e-4)
    with pytest.raises(OptionError, match="hold must be 'refit' or 'rate'"):
        result.sensitivity(hold="both")


def test_mechanism_of_values_against_what_is_observed():
    result = value_fit("free")
    table = result.mechanism_table(bins=4)
    assert table["n"].sum() == 48
    observed = (table["n"] * table["observed_rate"]).sum()
    assert observed == pytest.approx(frame()["y"].isna().sum())
    # a free intercept makes expected and observed numbers agree, but for the random effects' share
    assert (table["n"] * table["expected_rate"]).sum() == pytest.approx(observed, abs=3.0)
    assert set(result.mechanism_table("condition").index) == {0.0, 1.0}
    assert len(result.mechanism_table("subject")) == 12
    assert list(result.mechanism_fit(20, rng=1).index) == ["empty groups", "partly seen groups"]
    test = result.mechanism_test
    assert test.statistic >= 0.0
    assert value_fit("held").mechanism_test is None
    assert len(result.conf_int_phi()) == 2
    result.plot_mechanism()
    result.plot_sensitivity([0.0, -0.5])
    with pytest.raises(OptionError, match="the mechanism's slope is held"):
        value_fit("held").profile_interval()


def test_marginal_means_and_intervals_of_variances():
    result = value_fit("held", True)
    means = result.marginal_means("condition", at={"condition": [0.0, 1.0]})
    assert np.diff(means["estimate"])[0] == pytest.approx(result.params["condition"])
    random = result.tidy("random", conf_int=True)
    assert (random["conf_low"] < random["estimate"]).all()
    assert (random["estimate"] < random["conf_high"]).all()
    assert np.isfinite(random["std_error"]).all()


@pytest.mark.parametrize("entry", ["mvmise_b", "mvmise_e"])
def test_quantile_residuals_of_blocks(entry):
    result = block_fit(entry)
    residual = np.asarray(result.resid_quantile)
    np.testing.assert_array_equal(np.isnan(residual), np.isnan(wide()[["y1", "y2"]].to_numpy()))
    assert abs(np.nanmean(residual)) < 0.3
    assert abs(np.nanstd(residual) - 1.0) < 0.2
    assert len(result.plot_diagnostics()) == 4


def test_quantile_residuals_are_standard_normal_under_the_model():
    rng = np.random.default_rng(5)
    cluster, x = np.repeat(np.arange(1500), 2), np.tile([0.0, 1.0], 1500)
    Y = 10.0 + 0.5 * x[:, None] + rng.normal(size=(1500, 1))[cluster] + 0.7 * rng.normal(size=(3000, 2))
    mean = pd.DataFrame(Y).groupby(cluster).mean().to_numpy()
    Y[(rng.random(mean.shape) < np.minimum(1.0, np.exp(5.0 - 0.62 * mean)))[cluster]] = np.nan
    model = ms.mvmise_b("y1 + y2 ~ x + (1 | g)", pd.DataFrame(Y, columns=["y1", "y2"]).assign(x=x, g=cluster))
    likelihood = model.objective().likelihood
    from mvmise_sm.selection.likelihood import SelectionParams
    from mvmise_sm.selection.quantiles import outcome_quantiles

    params = SelectionParams(
        beta=np.array([10.0, 10.0, 0.5]), sigma2=np.array([0.49]), phi=np.array([5.0, -0.62, 0.0]), tau=np.ones(2)
    )
    found = outcome_quantiles(likelihood, params)
    seen = np.isfinite(found)
    plain = ((likelihood.data.Y - likelihood.data.X @ params.beta) / np.sqrt(1.49))[seen]
    # values of a cluster are dependent: its means have a standard error of about 0.02
    assert abs(found[seen].mean()) < 0.08 < plain.mean()
    assert found[seen].std() == pytest.approx(1.0, abs=0.05)


def test_a_mean_without_estimate_is_refused_by_name():
    data = frame().copy()
    data.loc[data["condition"] == 1.0, "y"] = np.nan
    with pytest.warns(IdentificationWarning, match="no value of condition was seen"):
        result = ms.lmer_mnar("y ~ condition + (1 | subject)", data, mechanism=ms.mechanisms.Probit(**HELD)).fit()
    for question in (result.imputations, result.sensitivity, result.profile, result.mechanism_table):
        with pytest.raises(OptionError, match="fixef_prior gives one"):
            question()
    assert result.predict_missing(uncertainty="parameters")["mean"].isna().any()


def one_peptide(seen, channels=3, seed=1, single=()):
    """A single outcome in blocks, of which some are empty."""
    rng = np.random.default_rng(seed)
    batch, x = np.repeat(np.arange(len(seen)), channels), np.tile([0.0, 1.0], len(seen) * channels)
    y = 20.0 + 0.2 * rng.normal(size=len(seen))[batch] + 0.1 * rng.normal(size=batch.size)
    y[~np.asarray(seen, dtype=bool)[batch]] = np.nan
    y[list(single)] = np.nan
    return pd.DataFrame({"y": y, "x": x[: batch.size], "b": batch})


@pytest.mark.filterwarnings(
    "ignore::mvmise_sm.exceptions.SingularFitWarning", "ignore::mvmise_sm.exceptions.DataWarning"
)
@pytest.mark.parametrize("entry", ["mvmise_b", "mvmise_e"])
@pytest.mark.parametrize("prior", [None, "weak"])
def test_one_outcome_in_few_blocks_ends_in_numbers(entry, prior):
    for seen in ([1, 1, 0, 0], [1, 0, 1, 0, 1], [0, 0, 1, 0, 0], [1, 0, 1, 1, 1, 0]):
        for seed in (1, 2):
            frame = one_peptide(seen, 6, seed)
            result = getattr(ms, entry)("y ~ x + (1 | b)", frame, mechanism_prior=prior).fit()
            assert result.converged
            assert np.isfinite(result.bse).all()


@pytest.mark.parametrize("entry", ["mvmise_b", "mvmise_e"])
def test_outcomes_without_residuals_are_refused(entry):
    model = getattr(ms, entry)
    with pytest.raises(DataError, match="y: 2 values are seen and 2 fixed effects asked for"):
        model("y ~ x + (1 | b)", one_peptide([1, 0, 0], 2)).fit()
    with pytest.raises(DataError, match="the 4 values seen are fitted exactly by the fixed effects and the clusters"):
        model("y ~ x + (1 | b)", one_peptide([1, 1, 1, 0], 2, single=(2, 4))).fit()


def test_held_numbers_without_a_feasible_start_are_refused():
    columns = ["P1_a", "P1_b"]
    tmt = ms.datasets.load_tmt("wide")
    formula = "P1_a + P1_b ~ condition + (1 | batch)"
    fit = ms.mvmise_b(formula, tmt, mechanism=ms.mechanisms.Capped(Intercept=2.7)).fit()
    assert fit.converged
    assert fit.phi["y"] < -2.7 / np.nanmax(tmt[columns])
    with pytest.raises(
        OptionError, match=r"with Intercept=2\.7, y=0\.1 held, what was seen would be missing for certain"
    ):
        ms.mvmise_b(formula, tmt, mechanism=ms.mechanisms.Capped(Intercept=2.7, y=0.1)).fit()
    moved = tmt.assign(**{name: tmt[name] - 6.5 for name in columns})
    with pytest.raises(OptionError, match=r"with Intercept=2\.7 held"):
        ms.mvmise_b(formula, moved, mechanism=ms.mechanisms.Capped(Intercept=2.7)).fit()
    with pytest.raises(OptionError, match="selection models take priors of variances as cov_prior"):
        ms.mvmise_b(formula, tmt, sd_prior=ms.priors.HalfT())


def test_mechanisms_are_finite_far_outside():
    for mechanism in (ms.mechanisms.Logit(), ms.mechanisms.Probit(), ms.mechanisms.Capped()):
        for mean in (-1e6, -40.0, 0.0, 40.0, 1e6):
            for var in (0.0, 1.0, 1e4, 1e12):
                value, first, second = mechanism.missing(np.array([mean]), np.array([var]))
                assert np.isfinite(value).all()
                assert np.isfinite(first).all()
                assert np.isfinite(second).all()
                assert value[0] < 1e-6
