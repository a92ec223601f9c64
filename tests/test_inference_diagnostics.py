"""Predictions, influence, marginal means, shares of variance and checks."""

import numpy as np
import pandas as pd
import pytest
from conftest import reference_cases
from inference_models import fitted, fitted_case, frame_of, sleepstudy, unbalanced
from scipy import stats

import mvmise_sm as ms
from mvmise_sm.exceptions import OptionError, SingularFitWarning


def cases(kind, **wanted):
    found = [c for c in reference_cases("inference") if c["kind"] == kind]
    return [pytest.param(c, id=c["id"]) for c in found if all(c["model"][k] == v for k, v in wanted.items())]


def cbpp(nagq=1):
    return fitted("cbpp", "prop ~ period + (1 | herd)", family="binomial", weights="size", nagq=nagq)


# influence


@pytest.mark.parametrize("case", cases("hatvalues", family=None))
def test_leverage_and_cooks_distance(case):
    influence = fitted_case(case["model"]).get_influence()
    expected = case["expected"]
    np.testing.assert_allclose(influence.hat_matrix_diag[:10], expected["head"], rtol=1e-6)
    np.testing.assert_allclose(influence.hat_matrix_diag.sum(), expected["sum"], rtol=1e-6)
    shortcut = influence.cooks_distance_lme4.to_numpy()[:10]
    np.testing.assert_allclose(shortcut, expected["cooks_distance_head"], rtol=1e-5)


def test_leverage_of_generalized_models_is_that_of_the_working_model():
    """R reports leverages that add up to more than there are parameters, and warns that they make no sense."""
    result = cbpp()
    mu, w = np.asarray(result.fittedvalues), np.asarray(result.model.weights)
    weight = w * mu * (1.0 - mu)
    a = np.hstack([result.model.random_effects.z.toarray() * result.theta[0], result.model.exog])
    penalty = np.diag([1.0] * 15 + [0.0] * 4)
    h = weight * np.einsum("ij,jk,ik->i", a, np.linalg.inv(a.T @ (weight[:, None] * a) + penalty), a)
    np.testing.assert_allclose(result.get_influence().hat_matrix_diag, h, rtol=1e-5)
    assert h.sum() < 19.0


@pytest.mark.parametrize("weights", [None, "w"])
def test_dfbetas_are_deletions_at_held_variances(weights):
    data = unbalanced(8, 14)
    data["w"] = np.linspace(0.5, 2.0, len(data))
    result = ms.lmer("y ~ x + (1 | g)", data, weights=weights).fit()
    dfbetas = result.get_influence().dfbetas
    for row in (0, 17, 40):
        rest = ms.lmer("y ~ x + (1 | g)", data.drop(index=row), weights=weights)
        left = rest.criterion(True).solve(result.theta)
        errors = np.sqrt(result.scale * np.diag(left.cov_beta))
        np.testing.assert_allclose(dfbetas.iloc[row], (result.params - left.beta) / errors, rtol=1e-6, atol=1e-9)


def test_groups_are_deleted_by_refitting():
    data = unbalanced(8, 14)
    result = ms.lmer("y ~ x + (1 | g)", data).fit()
    influence = result.get_influence(level="g")
    rest = ms.lmer("y ~ x + (1 | g)", data[data["g"] != 3]).fit()
    np.testing.assert_allclose(influence.params.loc[3, ["Intercept", "x"]], rest.params, rtol=1e-6)
    np.testing.assert_allclose(influence.dfbetas.loc[3], (result.params - rest.params) / rest.bse, rtol=1e-4, atol=1e-8)
    change = np.asarray(result.params - rest.params)
    cooks = change @ np.linalg.solve(np.asarray(result.cov_params()), change) / 2.0
    np.testing.assert_allclose(influence.cooks_distance[3], cooks, rtol=1e-4)
    leverage = pd.Series(result.get_influence().hat_matrix_diag).groupby(data["g"].to_numpy()).sum()
    np.testing.assert_allclose(influence.hat_matrix_diag, leverage, rtol=1e-8)
    with pytest.raises(OptionError, match="unknown grouping factor"):
        result.get_influence(level="h")


def test_summary_frames():
    columns = ["hat_diag", "cooks_d", "dfb_Intercept", "dfb_Days"]
    assert list(sleepstudy().get_influence().summary_frame().columns) == columns
    assert list(sleepstudy().get_influence("Subject").summary_frame().columns) == columns


# predictions


def test_intervals_for_an_observation_add_the_residual_variance():
    new = frame_of("sleepstudy").iloc[:3]
    mean, single = sleepstudy().get_prediction(new), sleepstudy().get_prediction(new, kind="prediction")
    np.testing.assert_allclose(single.se**2, mean.se**2 + sleepstudy().scale)
    np.testing.assert_allclose(single.conf_int(), mean.conf_int(obs=True))
    pd.testing.assert_frame_equal(single.summary_frame(), mean.summary_frame())


def test_prediction_intervals_of_counts():
    result = fitted("grouseticks", "TICKS ~ YEAR + cHEIGHT + (1 | BROOD) + (1 | LOCATION)", family="poisson")
    frame = result.get_prediction(kind="prediction").summary_frame()
    y = np.asarray(result.model.endog)
    inside = ((frame["obs_ci_lower"] <= y) & (y <= frame["obs_ci_upper"])).mean()
    assert inside > 0.9
    assert (frame["obs_ci_lower"] == frame["obs_ci_lower"].round()).all()
    again = result.get_prediction(kind="prediction").summary_frame()
    pd.testing.assert_frame_equal(frame, again)
    with pytest.raises(OptionError, match="response scale"):
        result.get_prediction(kind="prediction", which="linear")
    with pytest.raises(OptionError, match="kind must be"):
        result.get_prediction(kind="tolerance")


@pytest.mark.parametrize(
    ("family", "law"),
    [
        ("gamma(log)", lambda m, r: stats.gamma(1.0 / r.scale, scale=m * r.scale)),
        ("gaussian", lambda m, r: stats.norm(m, np.sqrt(r.scale))),
    ],
)
def test_prediction_intervals_with_dispersion(family, law):
    rng = np.random.default_rng(0)
    g = np.repeat(np.arange(30), 10)
    data = pd.DataFrame({"g": g, "y": rng.gamma(5.0, np.exp(1.0 + 0.3 * rng.normal(size=30)[g]) / 5.0)})
    result = ms.glmer("y ~ 1 + (1 | g)", data, family=family).fit()
    prediction = result.get_prediction(data.iloc[:1], kind="prediction")
    # the parameters are known so well that the family's own quantiles are near
    exact = law(prediction.predicted[0], result).ppf([0.025, 0.975])
    np.testing.assert_allclose(prediction.conf_int()[0], exact, rtol=0.12)


# marginal means


@pytest.mark.parametrize("case", cases("emmeans"))
def test_marginal_means(case):
    result = fitted_case(case["model"])
    spec = case["spec"].strip("~ ")
    ddf = None if case["ddf"] == "asymptotic" else case["ddf"]
    expected = case["expected"]
    for key, which in (("means", "linear"), ("means_link", "linear"), ("means_response", "mean")):
        if key not in expected:
            continue
        ours, theirs = result.marginal_means(spec, ddf=ddf, which=which), pd.DataFrame(expected[key])
        assert list(ours.columns) == [spec, "estimate", "std_error", "df", "conf_low", "conf_high"]
        assert list(ours[spec].astype(str)) == list(theirs[spec])
        names = [c for c in theirs.columns if c in ("emmean", "prob")]
        ends = [c for c in theirs.columns if c.endswith(("CL", "LCL", "UCL"))]
        for mine, other in zip(("estimate", "std_error", "conf_low", "conf_high"), [*names, "SE", *ends], strict=True):
            np.testing.assert_allclose(ours[mine], theirs[other], rtol=1e-4)
        if ddf is None:
            assert np.isinf(ours["df"]).all()
        else:
            np.testing.assert_allclose(ours["df"], theirs["df"], rtol=1e-3 if ddf == "satterthwaite" else 1e-4)


@pytest.mark.parametrize("case", cases("emmeans"))
def test_pairs(case):
    result = fitted_case(case["model"])
    spec = case["spec"].strip("~ ")
    ddf = None if case["ddf"] == "asymptotic" else case["ddf"]
    for key, adjust in (("pairs", None), ("pairs_link", None), ("pairs_tukey", "tukey")):
        if key not in case["expected"]:
            continue
        ours = result.marginal_means(spec, ddf=ddf, pairs=True, adjust=adjust)
        theirs = pd.DataFrame(case["expected"][key])
        np.testing.assert_allclose(ours["estimate"], theirs["estimate"], rtol=1e-4)
        np.testing.assert_allclose(ours["std_error"], theirs["SE"], rtol=1e-4)
        np.testing.assert_allclose(ours["p_value"], theirs["p.value"], rtol=2e-3, atol=1e-10)


def test_adjustments_agree_with_their_definitions():
    result = fitted("Machines", "score ~ Machine + (1 | Worker/Machine)")
    raw = result.marginal_means("Machine", pairs=True, adjust=None)["p_value"].to_numpy()
    sidak = result.marginal_means("Machine", pairs=True, adjust="sidak")["p_value"]
    np.testing.assert_allclose(sidak, 1.0 - (1.0 - raw) ** 3, rtol=1e-10)
    bonferroni = result.marginal_means("Machine", pairs=True, adjust="bonferroni")["p_value"]
    np.testing.assert_allclose(bonferroni, np.minimum(1.0, 3.0 * raw))
    holm = result.marginal_means("Machine", pairs=True, adjust="holm")["p_value"]
    order = np.argsort(raw)
    np.testing.assert_allclose(holm.to_numpy()[order], np.maximum.accumulate(raw[order] * [3.0, 2.0, 1.0]))


def test_means_by_group_and_at_values():
    result = fitted("Orthodont", "distance ~ age * Sex + (age | Subject)")
    table = result.marginal_means("Sex", by="age", at={"age": [8.0, 14.0]})
    assert list(table.columns[:2]) == ["age", "Sex"]
    young = frame_of("Orthodont").drop_duplicates("Sex").assign(age=8.0).sort_values("Sex")
    expected = result.predict(young, random="none").to_numpy()
    np.testing.assert_allclose(table["estimate"][:2], expected, rtol=1e-10)
    pairs = result.marginal_means("Sex", by="age", at={"age": [8.0, 14.0]}, pairs=True)
    np.testing.assert_allclose(pairs["estimate"], -np.diff(table["estimate"])[[0, 2]], rtol=1e-10)


def test_ratios_on_the_response_scale():
    link = cbpp().marginal_means("period", pairs=True, adjust=None)
    ratio = cbpp().marginal_means("period", pairs=True, adjust=None, which="mean")
    np.testing.assert_allclose(ratio["estimate"], np.exp(link["estimate"]))
    np.testing.assert_allclose(ratio["conf_high"], np.exp(link["conf_high"]))
    assert ratio["contrast"][0] == "1 / 2"


def test_numeric_variables_are_held_at_their_means():
    data = unbalanced(8, 14)
    result = ms.lmer("y ~ f + np.exp(x) + (1 | g)", data).fit()
    table = result.marginal_means("f")
    at = pd.DataFrame({"f": ["a", "b", "c"], "x": data["x"].mean(), "g": 0})
    np.testing.assert_allclose(table["estimate"], result.predict(at, random="none"), rtol=1e-10)
    assert "x = " in table.heading


def test_a_number_with_two_values_counts_as_a_factor():
    """As in emmeans: a dummy variable is averaged with equal weights, not at its mean."""
    data = unbalanced(8, 14)
    data["dummy"] = (data["x"] > 0.7).astype(int)
    result = ms.lmer("y ~ f + dummy + (1 | g)", data).fit()
    at = pd.DataFrame({"f": ["a"] * 2, "dummy": [0, 1], "g": 0})
    np.testing.assert_allclose(result.marginal_means("f")["estimate"][0], result.predict(at, random="none").mean())
    pair = result.marginal_means("dummy", pairs=True)
    np.testing.assert_allclose(pair["estimate"][0], -result.params["dummy"])


def test_combinations_without_data_are_not_estimated():
    data = unbalanced(8, 14)
    data["h"] = np.where(data["x"] > 0, "u", "v")
    data = data[~((data["f"] == "c") & (data["h"] == "v"))]
    with pytest.warns(ms.exceptions.RankWarning):
        model = ms.lmer("y ~ f * h + (1 | g)", data)
    table = model.fit().marginal_means(["f", "h"])
    empty = (table["f"] == "c") & (table["h"] == "v")
    assert table.loc[empty, "estimate"].isna().all()
    assert table.loc[~empty, "estimate"].notna().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"specs": "Days2"}, "'Days2' is not a variable"),
        ({"specs": "Days", "by": "Days"}, "by and specs must differ"),
        ({"specs": "Days", "adjust": "tuckey"}, "adjust must be"),
        ({"specs": "Days", "which": "log"}, "which must be"),
        ({"specs": "Days", "at": {"z": 1}}, "'z' is not a variable"),
        ({"specs": "Days", "pairs": True}, "at least two levels"),
    ],
)
def test_bad_options_of_marginal_means(options, message):
    with pytest.raises(OptionError, match=message):
        sleepstudy().marginal_means(**options)


# shares of variance


def test_r2_and_icc_of_a_random_intercept():
    result = fitted("sleepstudy", "Reaction ~ Days + (1 | Subject)")
    tau, sigma2 = result.varcorr["vcov"]
    fixed = np.var(result.params["Days"] * frame_of("sleepstudy")["Days"], ddof=1)
    np.testing.assert_allclose(result.icc()["Subject"], tau / (tau + sigma2))
    np.testing.assert_allclose(result.icc(adjusted=False)["Subject"], tau / (tau + sigma2 + fixed))
    r2 = result.r2()
    np.testing.assert_allclose(r2["marginal"], fixed / (fixed + tau + sigma2))
    np.testing.assert_allclose(r2["conditional"], (fixed + tau) / (fixed + tau + sigma2))


def test_r2_of_random_slopes_is_the_published_one():
    # sleepstudy with random slopes: 0.279 and 0.799 in the literature on Johnson's extension
    np.testing.assert_allclose(sleepstudy().r2(), [0.279, 0.799], atol=5e-4)


def test_icc_of_a_logit_model():
    tau = cbpp().varcorr["vcov"].iloc[0]
    np.testing.assert_allclose(cbpp().icc()["herd"], tau / (tau + np.pi**2 / 3.0))


def test_observation_level_effects_are_dispersion():
    result = fitted("grouseticks", "TICKS ~ YEAR + cHEIGHT + (1 | BROOD) + (1 | INDEX)", family="poisson")
    assert list(result.icc().index) == ["BROOD"]


# checks


def test_vif_of_single_columns_is_the_textbook_one():
    rng = np.random.default_rng(0)
    x = rng.normal(size=200)
    data = pd.DataFrame({"x": x, "z": 0.8 * x + 0.6 * rng.normal(size=200), "g": np.arange(200) % 20})
    data["y"] = data["x"] + rng.normal(size=20)[data["g"]] + rng.normal(size=200)
    table = ms.lmer("y ~ x + z + (1 | g)", data).fit().vif()
    r = np.corrcoef(data["x"], data["z"])[0, 1]
    np.testing.assert_allclose(table["gvif"], 1.0 / (1.0 - r**2), rtol=0.05)
    arrays = ms.LinearMixedModel(data["y"], np.column_stack([np.ones(200), data[["x", "z"]]]), data["g"]).fit()
    np.testing.assert_allclose(arrays.vif()["gvif"], table["gvif"], rtol=1e-6)


def test_simulated_residuals_are_uniform_under_the_model():
    residuals = sleepstudy().resid_simulated(n=400, rng=0)
    assert stats.kstest(residuals, "uniform").pvalue > 1e-3
    counts = cbpp().resid_simulated(rng=0)
    assert ((counts > 0.0) & (counts < 1.0)).all()
    np.testing.assert_array_equal(counts, cbpp().resid_simulated(rng=0))


def test_simulated_residuals_show_a_wrong_model():
    rng = np.random.default_rng(0)
    g = np.repeat(np.arange(20), 20)
    data = pd.DataFrame({"g": g, "y": rng.poisson(rng.gamma(0.5, 8.0, 400))})
    result = ms.glmer("y ~ 1 + (1 | g)", data, family="poisson").fit()
    residuals = result.resid_simulated(rng=0)
    assert stats.kstest(residuals, "uniform").pvalue < 1e-6
    zeros = result.zero_inflation(rng=0)
    assert zeros["ratio"] > 2.0
    assert zeros["p_value"] < 0.02
    assert any("larger than the family allows" in sentence for sentence in result.check())


def test_checks_that_make_no_sense_say_so():
    with pytest.raises(OptionError, match="residual variance"):
        sleepstudy().overdispersion()
    with pytest.raises(OptionError, match="continuous"):
        sleepstudy().zero_inflation()


def test_check_of_a_regular_fit():
    result = fitted("Machines", "score ~ Machine + (Machine | Worker)")
    assert len(result.check()) == 1
    assert str(result.check()).startswith("- Nothing found")


def test_check_names_what_is_singular():
    (zero,) = (s for s in fitted("Dyestuff2", "Yield ~ 1 + (1 | Batch)").check() if "estimated as zero" in s)
    assert "Intercept" in zero
    rng = np.random.default_rng(0)
    g = np.repeat(np.arange(6), 10)
    x = rng.normal(size=60)
    y = x + 0.8 * (x + 1.0) * rng.normal(size=6)[g] + rng.normal(size=60)
    with pytest.warns(SingularFitWarning):
        result = ms.lmer("y ~ x + (x | g)", pd.DataFrame({"y": y, "x": x, "g": g})).fit()
    assert any("correlation of Intercept and x" in s and "'||'" in s for s in result.check())


def test_check_sees_a_small_slope_in_large_units():
    data = frame_of("sleepstudy").assign(Days=lambda d: 1e7 * d["Days"])
    result = ms.lmer("Reaction ~ Days + (Days | Subject)", data).fit()
    assert not any("estimated as zero" in s for s in result.check())


def test_check_of_few_levels_and_collinearity():
    rng = np.random.default_rng(0)
    data = pd.DataFrame({"g": np.arange(80) % 4, "x": rng.normal(size=80)})
    data["z"] = data["x"] + 0.01 * rng.normal(size=80)
    data["y"] = data["x"] + np.array([-2.0, 0.0, 1.0, 3.0])[data["g"]] + rng.normal(size=80)
    text = str(ms.lmer("y ~ x + z + (1 | g)", data).fit().check())
    assert "only 4 levels" in text
    assert "nearly a combination" in text


def test_all_fit():
    table = sleepstudy().all_fit(["newton", "lbfgs", "nm"])
    assert list(table.index) == ["newton", "lbfgs", "nm"]
    assert table["above_best"].max() < 1e-5
    assert table["converged"].all()
    np.testing.assert_allclose(table["sigma"], np.sqrt(sleepstudy().scale), rtol=1e-4)
    with pytest.raises(OptionError, match="unknown optimiser 'adam'"):
        sleepstudy().all_fit(["adam"])
