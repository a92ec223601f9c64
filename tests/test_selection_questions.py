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
    joint = entry(formula, frame, outcome_effects=[]).fit()
    for type in (2, 3):
        table = joint.anova(type=type)
        assert table.loc["condition:f", "df_num"] == 2
        assert (table["F"] > 0).all()
    # with sum coding type 3 rows are the term's own coefficients
    coded = entry("P1_a + P1_b ~ C(condition, Sum) * C(f, Sum) + (1 | batch)", frame, outcome_effects=[]).fit()
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
