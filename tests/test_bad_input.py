"""R's list of invalid linear mixed models: each gives one clear sentence of our own classes."""

import numpy as np
import pandas as pd
import pytest
from conftest import reference_cases

import mvmise_sm as ms
from mvmise_sm import exceptions as ex

INVALID = {
    "nlev_ge_nobs": ("Reaction ~ Days + (1 | id)", {}, ex.RandomEffectsError, "'id' has 180 levels for 180 rows"),
    "nre_ge_nobs": ("Reaction ~ Days + (Days | two)", {}, ex.RandomEffectsError, r"\(Days \| two\) has 180 effects"),
    "no_random": ("Reaction ~ Days", {}, ex.RandomEffectsError, "no random-effects term"),
    "one_level": ("Reaction ~ Days + (1 | one)", {}, ex.RandomEffectsError, "'one' must have at least 2 levels"),
    "na_fail": ("Reaction ~ Days + (1 | Subject)", {"missing": "raise"}, ex.MissingDataError, r"Reaction \(3 of 180"),
    "all_na": ("allna ~ Days + (1 | Subject)", {}, ex.MissingDataError, r"allna \(180 of 180 rows\)"),
    "factor_response": ("Subject ~ Days + (1 | Half)", {}, ex.DataError, "'Subject' must be numeric"),
    "char_response": ("text ~ Days + (1 | Half)", {}, ex.DataError, "'text' must be numeric"),
    "unknown_column": ("Reaction ~ Nope + (1 | Subject)", {}, ex.UnknownColumnError, "'Nope' is not a column"),
    "unknown_group": ("Reaction ~ Days + (1 | Nope)", {}, ex.UnknownColumnError, "'Nope' is not a column"),
    "neg_weights": ("Reaction ~ Days + (1 | Subject)", {"weights": "negw"}, ex.DataError, "must not be negative"),
    "inf_response": ("inf ~ Days + (1 | Subject)", {}, ex.DataError, "'inf' holds infinite values in 1 rows"),
    "no_bars_paren": ("Reaction ~ Days + 1 | Subject", {}, ex.FormulaError, "put random terms in parentheses"),
    "empty_group": ("Reaction ~ Days + (1 | Subject:Nope)", {}, ex.UnknownColumnError, "'Nope' is not a column"),
}
SUSPICIOUS = {
    "rank_deficient_message": ("Reaction ~ Days + Days2 + (1 | Subject)", ex.RankWarning, "Days2"),
    "singular_message": ("Yield ~ 1 + (1 | Batch)", ex.SingularFitWarning, "."),
}


def frame_of(case, frames):
    """The data of a case with the columns that its note describes."""
    data = frames(case["dataset"])
    if case["dataset"] == "sleepstudy":
        n = len(data)
        data = data.assign(
            id=pd.Categorical(np.arange(n)),
            one=pd.Categorical(["a"] * n),
            allna=np.nan,
            negw=-1.0,
            inf=data["Reaction"].where(np.arange(n) > 0, np.inf),
            two=np.tile(np.arange(n // 2), 2),
            text=data["Subject"].astype(str),
        )
    return data


def test_every_linear_case_of_r_is_covered():
    linear = {c["id"] for c in reference_cases("errors") if c["r_call"].startswith("lmer(")}
    assert linear == {*INVALID, *SUSPICIOUS}


@pytest.mark.parametrize("name", INVALID)
def test_invalid_input_is_refused(frames, name):
    (case,) = (c for c in reference_cases("errors") if c["id"] == name)
    formula, options, error, message = INVALID[name]
    with pytest.raises(error, match=message) as caught:
        ms.lmer(formula, frame_of(case, frames), **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", SUSPICIOUS)
def test_suspicious_input_warns(frames, name):
    (case,) = (c for c in reference_cases("errors") if c["id"] == name)
    formula, warning, message = SUSPICIOUS[name]
    with pytest.warns(warning, match=message) as caught:
        ms.lmer(formula, frame_of(case, frames)).fit()
    assert len(caught) == 1
    assert caught[0].filename == __file__


def test_formulas_see_the_callers_variables(sleepstudy):
    shift = 3.0  # noqa: F841 - the formula uses it

    def half(values):
        return values / 2

    for entry in (ms.lmer, ms.LinearMixedModel.from_formula):
        model = entry("Reaction ~ half(Days) + np.abs(Days - shift) + (half(Days) | Subject)", sleepstudy)
        assert model.exog_names == ["Intercept", "half(Days)", "np.abs(Days - shift)"]
        np.testing.assert_array_equal(model.exog[:, 1], sleepstudy["Days"] / 2)


# --- data that leave nothing to estimate, or that arithmetic cannot hold


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize(
    ("response", "message"),
    [
        (lambda f, u: np.full(len(f), 3.0), "'y' is constant"),
        (lambda f, u: 2.0 + 3.0 * f["Days"], "'y' exactly"),
        (lambda f, u: 2.0 + 3.0 * f["Days"] + u, "'y' exactly or nearly so"),
        (lambda f, u: 2.0 + 3.0 * f["Days"] + u + 1e-15 * f["Reaction"], "exactly or nearly so"),
        (lambda f, u: 1e300 * f["Reaction"], "'y' has .*e.302 as its largest"),
        (lambda f, u: 1e-300 * f["Reaction"], "'y' has .*e-298 as its largest"),
    ],
)
def test_a_response_without_residual_variation_gives_no_number(sleepstudy, response, message, reml):
    effects = np.random.default_rng(0).normal(size=18)[np.asarray(sleepstudy["Subject"].astype(str).factorize()[0])]
    frame = sleepstudy.assign(y=response(sleepstudy, effects))
    with pytest.raises(ex.DataError, match=message):
        ms.lmer("y ~ Days + (1 | Subject)", frame).fit(reml=reml)


def test_a_small_residual_variance_is_still_found(sleepstudy):
    effects = np.random.default_rng(0).normal(size=18)[np.asarray(sleepstudy["Subject"].astype(str).factorize()[0])]
    noise = np.random.default_rng(1).normal(size=180)
    fits = [
        ms.lmer("y ~ Days + (1 | Subject)", sleepstudy.assign(y=1e4 * effects + s * noise)).fit() for s in (1.0, 0.5)
    ]
    np.testing.assert_allclose(fits[1].scale, 0.25 * fits[0].scale, rtol=1e-3)
    assert 0.8 < fits[0].scale < 1.2


def test_as_many_columns_as_rows_are_refused(sleepstudy):
    frame = sleepstudy.assign(row=np.arange(180), y=sleepstudy["Reaction"])
    with pytest.raises(ex.DataError, match=r"180 independent columns for 180 rows.*'C\(row\)' alone has 179"):
        ms.lmer("y ~ C(row) + (1 | Subject)", frame)
    ridge = ms.lmer("y ~ C(row) + (1 | Subject)", frame, fixef_prior=ms.priors.Normal(sd=1.0)).fit()
    assert ridge.converged
    assert ridge.scale > 0


def test_a_refit_refuses_a_constant_response(sleepstudy):
    fit = ms.lmer("Reaction ~ Days + (1 | Subject)", sleepstudy).fit()
    with pytest.raises(ex.DataError, match="constant"):
        fit.refit(np.zeros(180))


def test_objects_that_are_numbers_are_numbers(sleepstudy):
    plain = ms.lmer("Reaction ~ np.sqrt(Days) + (Days | Subject)", sleepstudy).fit()
    objects = sleepstudy.assign(Days=sleepstudy["Days"].astype(object), Reaction=sleepstudy["Reaction"].astype(object))
    fit = ms.lmer("Reaction ~ np.sqrt(Days) + (Days | Subject)", objects).fit()
    pd.testing.assert_series_equal(fit.params, plain.params)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"Subject": [[i // 10] for i in range(180)]}, {}, "'Subject' must hold numbers, texts"),
        ({"Days": [[i] for i in range(180)]}, {}, "Days must hold numbers, texts"),
        ({}, {"subset": lambda frame: frame["Days"] > 2}, "subset .* not a function"),
        ({}, {"subset": [True, False]}, "subset has 2 values, but the data have 180 rows"),
        ({}, {"subset": pd.Series([True, False])}, "subset does not fit"),
        ({}, {"subset": [0, 1, 999]}, "subset does not fit"),
    ],
)
def test_odd_columns_and_subsets_are_refused(sleepstudy, change, options, message):
    with pytest.raises(ex.DataError, match=message):
        ms.lmer("Reaction ~ Days + (1 | Subject)", sleepstudy.assign(**change), **options)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda r: r.t_test("Nope = 0"), ex.FormulaError, r"'Nope = 0': .*\['Intercept', 'Days'\]"),
        (lambda r: r.wald_test("Nope = 0"), ex.FormulaError, "'Nope = 0'"),
        (lambda r: r.t_test("Nope = 0", ddf="satterthwaite"), ex.FormulaError, "'Nope = 0'"),
        (lambda r: r.model.fit(reml="ML"), ex.OptionError, "reml must be True or False"),
        (lambda r: r.model.fit(maxiter="many"), ex.OptionError, "maxiter must be an integer"),
        (lambda r: r.model.fit(start_theta=[np.nan]), ex.OptionError, "start_theta must be finite"),
        (lambda r: r.simulate(0), ex.OptionError, "n must be a positive integer"),
        (lambda r: r.predict({"Days": np.inf, "Subject": "308"}), ex.DataError, "Days holds infinite values"),
        (lambda r: ms.lmer(["y ~ x"], {}), ex.FormulaError, "not list"),
        (lambda r: ms.lmer("y ~ x + (1 | g)", None), ex.DataError, "not None"),
        (
            lambda r: ms.LinearMixedModel(np.arange(4.0), np.ones(4), groups=[0, 0, 1, 1], exog_re=list("abcd")),
            ex.DataError,
            "exog_re for 'group' must be numeric",
        ),
    ],
)
def test_bad_arguments_give_one_sentence(sleepstudy, call, error, message):
    result = ms.lmer("Reaction ~ Days + (1 | Subject)", sleepstudy).fit()
    with pytest.raises(error, match=message) as caught:
        call(result)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "call",
    [
        lambda r, f: r.fittedvalues,
        lambda r, f: r.random_effects_cov,
        lambda r, f: r.simulate(),
        lambda r, f: r.refit(f["Reaction"]),
        lambda r, f: r.get_prediction(f.head(2)),
    ],
)
def test_what_needs_removed_rows_says_so(sleepstudy, call):
    result = ms.lmer("Reaction ~ Days + (1 | Subject)", sleepstudy).fit()
    result.remove_data()
    with pytest.raises(ex.OptionError, match=r"remove_data\(\) has removed"):
        call(result, sleepstudy)


def test_repr_of_a_result_says_what_was_fitted(sleepstudy):
    result = ms.lmer("Reaction ~ Days + (1 | Subject)", sleepstudy).fit()
    assert repr(result) == (
        "<LinearMixedModelResults: Reaction ~ Days + (1 | Subject); 180 rows; REML, .summary() shows it>"
    )


def test_a_prior_without_density_is_named_and_errors_of_its_function_are_kept(sleepstudy):
    def fit(fn):
        prior = ms.priors.Custom(fn, scale="none")
        return ms.lmer("Reaction ~ Days + (1 | Subject)", sleepstudy, cov_prior=prior).fit()

    with pytest.raises(ex.DataError, match="prior's density is zero"), np.errstate(all="ignore"):
        fit(lambda s: 0.0)
    with pytest.raises(ZeroDivisionError):
        fit(lambda s: 1.0 / 0)


def test_a_fixed_factor_with_too_many_levels_is_refused():
    n = 70_000
    frame = pd.DataFrame({"y": np.arange(n) % 7.0, "f": np.arange(n), "g": np.arange(n) % 10})
    with pytest.raises(ex.DataError, match=r"C\(f\) has 70,000 levels in 70,000 rows"):
        ms.lmer("y ~ C(f) + (1 | g)", frame)
