"""Selection results answer what other results answer, or say what to use instead."""

import inspect

import numpy as np
import pandas as pd
import pytest

import mvmise_sm as ms
from mvmise_sm.exceptions import OptionError
from mvmise_sm.results.questions import AnsweringResults, answers
from mvmise_sm.results.selection import SelectionResults

FORMULA = "P1_a + P1_b + P1_c ~ condition + (1 | batch)"


@pytest.fixture(scope="module")
def wide():
    return ms.datasets.load_tmt("wide")


@pytest.fixture(scope="module", params=["b", "e"])
def entry(request):
    return getattr(ms, f"mvmise_{request.param}")


@pytest.fixture(scope="module")
def fit(entry, wide):
    return entry(FORMULA, wide, outcome_effects=["Intercept"]).fit()


# without x2 the outcomes of a sample vary together, and the fit of model b says so
@pytest.mark.filterwarnings("ignore::mvmise_sm.exceptions.DataWarning")
def test_two_fits_are_compared_by_their_likelihoods(entry, fit, wide):
    small = entry(FORMULA.replace("condition", "1"), wide, outcome_effects=["Intercept"]).fit()
    table = ms.anova(fit, small)
    chisq = 2.0 * (fit.llf - small.llf)
    assert table["chisq"].iloc[1] == pytest.approx(chisq, rel=1e-10)
    assert table["df"].iloc[1] == 1
    dropped = fit.drop1()
    # the refit starts elsewhere and stops at the tolerance of the optimiser
    assert dropped.loc["condition", "chisq"] == pytest.approx(chisq, abs=1e-5)
    assert dropped.loc["<none>", "aic"] == pytest.approx(fit.aic)


@pytest.mark.parametrize("type", [1, 2, 3])
def test_anova_of_one_effect_is_its_wald_test(fit, type):
    row = fit.anova(type=type).loc["condition"]
    test = fit.t_test("condition[T.case] = 0")
    assert row["F"] == pytest.approx(float(np.squeeze(test.tvalue)) ** 2)
    assert row["p_value"] == pytest.approx(float(np.squeeze(test.pvalue)))
    assert row["df_denom"] == fit.df_resid_inference[-1]


def test_effects_of_several_outcomes_are_tested_jointly(entry, wide):
    fit = entry(FORMULA, wide, outcome_effects=["Intercept", "condition"]).fit()
    row = fit.anova().loc["condition"]
    names = [name for name in fit.model.exog_names if name.startswith("condition")]
    test = fit.wald_test(", ".join(f"{name} = 0" for name in names), use_f=True)
    assert row["df_num"] == 3
    assert row["F"] == pytest.approx(float(test.statistic))


def test_hypotheses_do_not_depend_on_whether_the_design_is_written_out(entry, wide):
    rng = np.random.default_rng(3)
    frame = wide.assign(f=rng.choice(list("uvw"), len(wide)))
    formula = "P1_a + P1_b ~ condition * f + (1 | batch)"
    joint = entry(formula, frame).fit()
    for type in (2, 3):
        table = joint.anova(type=type)
        assert table.loc["condition:f", "df_num"] == 2
        assert (table["F"] > 0).all()
    # with sum coding type 3 rows are the term's own coefficients
    coded = entry("P1_a + P1_b ~ C(condition, Sum) * C(f, Sum) + (1 | batch)", frame).fit()
    own = coded.wald_test_terms().table
    np.testing.assert_allclose(
        joint.anova(type=3)["F"].to_numpy(dtype=float), own["statistic"].astype(float).iloc[1:], rtol=1e-5
    )


def test_marginal_predictions_have_the_error_of_their_row(fit, wide):
    rows = wide.iloc[[0, 3]]
    found = fit.get_prediction(rows, random="none")
    np.testing.assert_allclose(found.predicted_mean, fit.predict(rows, random="none"))
    frame = found.summary_frame(alpha=0.1)
    assert list(frame.index.names)[-1] == "outcome"
    for label, row in frame.iterrows():
        contrast = np.zeros(len(fit.params))
        contrast[fit.model.exog_names.index(f"Intercept[{label[1]}]")] = 1.0
        contrast[-1] = float(wide.loc[label[0], "condition"] == "case")
        test = fit.t_test(contrast)
        assert row["mean_se"] == pytest.approx(float(np.squeeze(test.sd)))


def test_conditional_predictions_add_the_random_effects(fit, wide):
    found = fit.get_prediction(wide.head(5), row_labels=list("vwxyz"))
    np.testing.assert_allclose(found.predicted_mean, fit.predict(wide.head(5)))
    assert list(found.predicted_mean.index) == list("vwxyz")
    new = wide.head(2).assign(batch="new")
    unknown = fit.get_prediction(new, allow_new_levels=True)
    np.testing.assert_allclose(unknown.predicted_mean, fit.predict(new, random="none"))
    fixed = fit.get_prediction(new, random="none")
    cov = fit.cov_re["batch"].to_numpy()
    prior = np.diag(cov) if fit.tau is not None else np.repeat(cov[0, 0], 3)
    np.testing.assert_allclose(unknown.se_mean**2, fixed.se_mean**2 + prior, rtol=1e-6)


def test_one_complete_outcome_is_predicted_as_by_a_linear_mixed_model():
    rng = np.random.default_rng(5)
    g = np.repeat(np.arange(30), 6)
    x = rng.normal(size=180)
    frame = pd.DataFrame({"g": g, "x": x, "y": 1 + x + rng.normal(size=30)[g] + rng.normal(size=180)})
    ours = ms.mvmise_e("y ~ x + (1 | g)", frame).fit().get_prediction(frame.head(12))
    theirs = ms.lmer("y ~ x + (1 | g)", frame).fit(reml=False).get_prediction(frame.head(12))
    np.testing.assert_allclose(ours.predicted_mean["y"], theirs.predicted_mean, atol=1e-5)
    # ours allows for the estimation of the variances as well
    ratio = ours.se_mean["y"].to_numpy() / theirs.se
    assert (ratio > 0.999).all()
    assert (ratio < 1.1).all()


@pytest.mark.parametrize("name", sorted(SelectionResults.refused))
def test_what_is_refused_says_what_to_use(fit, name):
    with pytest.raises(OptionError) as error:
        getattr(fit, name)()
    assert str(error.value) == SelectionResults.refused[name]
    assert not answers(SelectionResults, name)


def test_a_class_answers_what_it_defines_itself():
    class Base(AnsweringResults):
        def question(self, n=1):
            """Answer."""
            return n

    class Silent(Base, refuses={"question": "ask the base"}):
        pass

    class Loud(Silent):
        def question(self, n=1):
            return 2 * n

    assert answers(Base, "question")
    assert not answers(Silent, "question")
    assert answers(Loud, "question")
    assert str(inspect.signature(Silent.question)) == "(self, n=1)"
    with pytest.raises(OptionError, match="ask the base"):
        Silent.question(None)


def test_degrees_of_freedom_of_other_methods_are_refused(fit):
    with pytest.raises(OptionError, match="counts its clusters"):
        fit.anova(ddf="kenward-roger")


def test_simulated_outcomes_have_the_moments_of_the_model(fit):
    n = 400
    draws = fit.simulate(n, rng=7, missing=False)
    values = np.stack([draws[f"sim_{i + 1}"].to_numpy() for i in range(n)])
    assert np.isfinite(values).all()
    mean = fit.predict(random="none").to_numpy()
    batches = fit.model.design.data.unsort(fit.model.design.data.cluster)
    re = fit.cov_re["batch"].to_numpy()
    shared = re if fit.tau is not None else np.full((3, 3), re[0, 0])
    error = fit.sigma2 * np.eye(3) if fit.tau is not None else fit.error_cov.to_numpy()
    resid = values - mean
    same = np.einsum("snk,snl->kl", resid, resid) / (n * len(mean))
    # batches are the independent units of the Monte-Carlo error
    tolerance = 6.0 * np.abs(shared + error).max() * np.sqrt(2.0 / (n * fit.model.n_groups))
    np.testing.assert_allclose(same, shared + error, atol=tolerance)
    first = np.flatnonzero(batches == batches[0])[:2]
    between = np.einsum("sk,sl->kl", resid[:, first[0]], resid[:, first[1]]) / n
    np.testing.assert_allclose(between, shared, atol=6.0 * np.abs(shared + error).max() * np.sqrt(2.0 / n))


def test_simulated_blocks_go_missing_by_the_mechanism(fit):
    n = 300
    data = fit.model.design.data
    draws = fit.simulate(n, rng=8)
    gone = np.stack([np.isnan(draws[f"sim_{i + 1}"].to_numpy()[data.order]) for i in range(n)])
    blocks = np.logical_and.reduceat(gone, data.starts, axis=1)
    np.testing.assert_array_equal(blocks[:, data.cluster], gone)
    complete = fit.simulate(n, rng=9, missing=False)
    means = np.stack([data.cluster_mean(complete[f"sim_{i + 1}"].to_numpy()[data.order]) for i in range(n)])
    expected = np.exp(np.minimum(fit.phi["Intercept"] + fit.phi["y"] * means, 0.0)).mean(axis=(0, 1))
    np.testing.assert_allclose(blocks.mean(axis=(0, 1)), expected, atol=6.0 * 0.5 / np.sqrt(n * fit.model.n_groups))


def test_conditional_draws_keep_the_effects_of_the_fit(fit):
    draws = fit.simulate(200, rng=3, random="conditional", missing=False)
    mean = np.mean([draws[f"sim_{i + 1}"].to_numpy() for i in range(200)], axis=0)
    spread = np.sqrt(fit.varcorr.loc[fit.varcorr["grp"] == "Residual", "vcov"].iloc[:3].max())
    np.testing.assert_allclose(mean, fit.fittedvalues, atol=6.0 * spread / np.sqrt(200))


def test_simulation_repeats_and_refits(fit):
    one, two = fit.simulate(2, rng=4), fit.simulate(2, rng=4)
    pd.testing.assert_frame_equal(one, two)
    again = fit.refit(fit.model.design.endog)
    assert again.llf == pytest.approx(fit.llf, abs=1e-6)
    assert fit.refit(one["sim_2"]).converged


def test_bootstrap_does_not_depend_on_the_number_of_processes(fit):
    one = fit.bootstrap(6, rng=1)
    assert list(one.samples.columns) == list(fit.parameter_values().index)
    assert one.n_failed == 0
    pd.testing.assert_frame_equal(one.samples, fit.bootstrap(6, rng=1, n_jobs=2).samples)
    clusters = fit.bootstrap(6, rng=2, by="batch")
    assert clusters.n_failed == 0
    assert clusters.samples["condition[T.case]"].std() > 0
    intervals = fit.conf_int(method="bootstrap", n=6, rng=1)
    assert list(intervals.index) == list(one.samples.columns)
    with pytest.raises(OptionError, match="unknown grouping factor 'nope'; this fit has"):
        fit.bootstrap(2, by="nope")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"n": 0}, "n must be a positive integer"),
        ({"random": "x"}, "random must be 'new' or 'conditional'"),
        ({"missing": "yes"}, "missing must be True or False"),
    ],
)
def test_bad_options_of_simulate(fit, options, sentence):
    with pytest.raises(OptionError, match=sentence):
        fit.simulate(**options)


def test_varcorr_has_the_rows_of_its_model(entry, fit):
    frame = fit.varcorr
    assert list(frame.columns) == ["grp", "var1", "var2", "vcov", "sdcor"]
    variances = frame[frame["var2"].isna()]
    np.testing.assert_allclose(variances["sdcor"] ** 2, variances["vcov"])
    if fit.tau is not None:
        np.testing.assert_allclose(variances["vcov"].iloc[:3], fit.tau**2)
        assert variances["vcov"].iloc[-1] == fit.sigma2
    else:
        rows = frame[frame["grp"] == "Residual"]
        np.testing.assert_allclose(rows["vcov"].iloc[:3], np.diag(fit.error_cov))
        assert rows["vcov"].iloc[3] == fit.error_cov.iloc[0, 1]


def test_nothing_that_needs_rows_works_without_them(entry, wide):
    fit = entry(FORMULA, wide).fit()
    fit.remove_data()
    for question in (fit.simulate, lambda: fit.refit(wide[["P1_a", "P1_b", "P1_c"]]), lambda: fit.bootstrap(2)):
        with pytest.raises(OptionError, match="remove_data"):
            question()


def test_marginal_means_know_the_outcomes(entry, wide):
    fit = entry(FORMULA, wide, outcome_effects=["Intercept", "condition"]).fit()
    means = fit.marginal_means("condition", by="outcome")
    assert list(means.columns[:2]) == ["outcome", "condition"]
    names = list(fit.model.exog_names)
    row = means[(means["outcome"] == "P1_b") & (means["condition"] == "case")].iloc[0]
    contrast = np.zeros(len(names))
    contrast[[names.index("Intercept[P1_b]"), names.index("condition[T.case][P1_b]")]] = 1.0
    test = fit.t_test(contrast)
    assert row["estimate"] == pytest.approx(float(np.squeeze(test.effect)))
    assert row["std_error"] == pytest.approx(float(np.squeeze(test.sd)))
    low, high = np.squeeze(test.conf_int())
    assert (row["conf_low"], row["conf_high"]) == pytest.approx((low, high))
    pairs = fit.marginal_means("condition", by="outcome", pairs=True)
    np.testing.assert_allclose(pairs["estimate"], -fit.params.filter(like="condition"))
    averaged = fit.marginal_means("condition", pairs=True)
    np.testing.assert_allclose(averaged["estimate"], pairs["estimate"].mean())
    joint = fit.joint_tests(by="outcome").loc["condition"]
    np.testing.assert_allclose(joint["F"].astype(float), (pairs["estimate"] / pairs["std_error"]) ** 2)
    chosen = fit.marginal_means("condition", by="outcome", at={"outcome": "P1_c"})
    assert set(chosen["outcome"]) == {"P1_c"}
    with pytest.raises(OptionError, match="'outcome' has no level 'P9'; its levels are P1_a, P1_b, P1_c"):
        fit.marginal_means("condition", at={"outcome": "P9"})


@pytest.mark.filterwarnings("ignore::mvmise_sm.exceptions.DataWarning")  # a shared intercept does not fit these data
def test_shared_effects_have_one_mean_for_all_outcomes(entry, wide):
    fit = entry(FORMULA, wide, outcome_effects=[]).fit()
    assert "outcome" not in fit.marginal_means("condition").columns
    with pytest.raises(OptionError, match="which all outcomes share"):
        fit.marginal_means("condition", at={"outcome": "P1_a"})


def test_marginal_slopes_are_the_coefficient(entry, wide):
    rng = np.random.default_rng(2)
    fit = entry(FORMULA.replace("condition", "condition + x"), wide.assign(x=rng.normal(size=len(wide)))).fit()
    assert fit.marginal_slopes("x")["estimate"].iloc[0] == pytest.approx(fit.params["x"])
