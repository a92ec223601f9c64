"""R's verbs on every kind of result: right, or answered with a sentence."""

import warnings

import numpy as np
import pandas as pd
import pytest

import mvmise_sm as ms
from mvmise_sm.exceptions import FormulaError, OptionError, UnknownOptionError


def frame():
    rng = np.random.default_rng(3)
    g = np.repeat(np.arange(20), 10)
    x, f = rng.normal(size=g.size), rng.choice(["a", "b", "c"], g.size)
    mean = np.exp(0.5 + 0.5 * x + 0.6 * rng.normal(size=20)[g])
    y = x + rng.normal(size=20)[g] + rng.normal(size=g.size)
    n = np.where(rng.random(g.size) < 0.3, 0, rng.poisson(mean))
    return pd.DataFrame({"n": n, "y": y, "x": x, "f": f, "g": g, "r": np.digitize(y, [-1.0, 1.0])})


@pytest.fixture(scope="module")
def zero_inflated():
    contrasts = {"f": "contr.sum"}
    return ms.glmer(
        "n ~ x + f + (1 | g)", frame(), family="poisson", zero_inflation="~ x + (1 | g)", contrasts=contrasts
    ).fit()


@pytest.fixture(scope="module")
def ordinal():
    return ms.clmm("r ~ x + f + (1 | g)", frame()).fit()


@pytest.fixture(scope="module")
def selected():
    data = frame()
    data.loc[data["y"] < data["y"].quantile(0.1), "y"] = np.nan
    return ms.lmer_mnar("y ~ x + f + (1 | g)", data, mechanism=ms.mechanisms.Logit(Intercept=-4.0, y=-1.5)).fit()


@pytest.fixture(scope="module")
def outcomes():
    rng = np.random.default_rng(1)
    data = pd.DataFrame({"x": rng.normal(size=60), "id": np.repeat(np.arange(20), 3)})
    for k in range(2):
        data[f"y{k}"] = 10 + 0.3 * data["x"] + rng.normal(size=20)[data["id"]] + rng.normal(size=60)
    data.loc[rng.random(60) < 0.2, ["y0", "y1"]] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ms.mvmise_b("y0 + y1 ~ x + (1 | id)", data).fit()


def test_verbs_of_a_model_with_several_predictors(zero_inflated):
    res = zero_inflated
    assert list(res.params.index[:4]) == ["Intercept", "f[S.a]", "f[S.b]", "x"]
    smaller = res.update(". ~ . - f")
    row = res.drop1().loc["f"]
    assert row["chisq"] == pytest.approx(2.0 * (res.llf - smaller.llf), abs=1e-6)
    assert "zi_x" in smaller.params
    coef = res.coef()
    np.testing.assert_allclose(coef["g"]["Intercept"], res.params["Intercept"] + res.random_effects["g"]["Intercept"])
    np.testing.assert_allclose(
        coef["zi:g"]["Intercept"], res.params["zi_Intercept"] + res.random_effects["zi:g"]["Intercept"]
    )
    assert list(res.cor_params().index) == list(res.params.index)
    assert res.augment()[".fitted"].to_numpy() == pytest.approx(np.asarray(res.fittedvalues))
    assert float(res.marginal_slopes("x")["estimate"].iloc[0]) == pytest.approx(res.params["x"], rel=1e-9)
    assert len(res.joint_tests(by="f")) == 3
    with pytest.raises(OptionError, match="one linear predictor"):
        res.get_influence()
    with pytest.raises(OptionError, match="one linear predictor"):
        res.bootstrap(2, rng=1, by="g")


def test_coding_of_a_factor_that_only_the_zero_part_has():
    options = {"family": "poisson", "contrasts": {"f": "contr.sum"}}
    res = ms.glmer("n ~ x + (1 | g)", frame(), zero_inflation="~ f", **options).fit()
    assert list(res.params.index) == ["Intercept", "x", "zi_Intercept", "zi_f[S.a]", "zi_f[S.b]"]
    with pytest.raises(OptionError, match="'h' is not a factor of the formula"):
        ms.glmer("n ~ x + (1 | g)", frame(), zero_inflation="~ f", family="poisson", contrasts={"h": "contr.sum"})


def test_verbs_of_an_ordinal_model(ordinal):
    res = ordinal
    pairs = res.marginal_means("f").contrast("pairwise", adjust="none")
    assert float(pairs["estimate"].iloc[0]) == pytest.approx(-res.params["f[T.b]"], rel=1e-9)
    assert float(pairs["std_error"].iloc[0]) == pytest.approx(res.bse["f[T.b]"], rel=1e-9)
    assert float(res.marginal_slopes("x")["estimate"].iloc[0]) == pytest.approx(res.params["x"], rel=1e-9)
    assert list(res.coef()["g"].columns) == ["f[T.b]", "f[T.c]", "x", "Intercept"]
    assert res.cor_params().shape == (5, 5)
    table = res.augment()
    np.testing.assert_allclose(table[[".fitted[0]", ".fitted[1]", ".fitted[2]"]].sum(axis=1), 1.0)
    assert ".hat" not in table
    assert res.augment(pad=True).shape == table.shape


def test_verbs_of_a_model_of_missing_values(selected):
    res = selected
    assert res.update(". ~ . - f").model.slot.held == res.model.slot.held
    means = res.marginal_means("f", ddf=None).contrast("pairwise", adjust="none")
    assert float(means["estimate"].iloc[0]) == pytest.approx(-res.params["f[T.b]"], rel=1e-9)
    table = res.augment()
    assert len(table) == res.nobs
    assert ".hat" not in table
    for call in ("get_robustcov_results", "to_arviz"):
        with pytest.raises(OptionError, match=r"mixed models"):
            getattr(res, call)()


def test_verbs_of_a_model_of_several_outcomes(outcomes):
    for call, word in {
        "update": "made again",
        "augment": "predict_missing",
        "padded": "by sample and outcome",
        "coef": "random_effects",
        "step": "ms.anova",
        "to_arviz": "bootstrap",
        "to_marginaleffects": "marginal_means",
    }.items():
        with pytest.raises(OptionError, match=word):
            getattr(outcomes, call)()
    name = outcomes.params.index[-1]
    np.testing.assert_allclose(outcomes.conf_int(parm=name).to_numpy()[0], outcomes.conf_int().loc[name])
    assert list(outcomes.cor_params().index) == list(outcomes.params.index)
    with pytest.raises(UnknownOptionError, match=r"np\.exp"):
        outcomes.tidy(exponentiate=True)


def test_intervals_of_the_parameters_of_a_family():
    res = ms.glmer("n ~ x + (1 | g)", frame(), family="nb2").fit()
    assert list(res.conf_int(parm="theta_").index) == ["sd_Intercept|g"]
    with pytest.raises(OptionError, match="alpha has no Wald interval"):
        res.conf_int(parm="alpha")


def test_terms_that_are_not_there_cannot_be_taken_away():
    res = ms.lmer("y ~ x * f + (1 | g)", frame(), contrasts={"f": "contr.sum"}).fit()
    for change in ("nope", "z:x"):
        with pytest.raises(FormulaError, match=f"update: {change} is not a term of the model; its terms are x, f, x:f"):
            res.update(f". ~ . - {change}")
    assert list(res.update(". ~ . - f:x - f").params.index) == ["Intercept", "x"]  # nor the coding of f
