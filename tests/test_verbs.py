"""R's verbs and functions in formulas against R, and by what they mean."""

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from inference_models import frame_of as shared_frame
from inference_models import sleepstudy, unbalanced
from posthoc_cases import cases, fit_of, frame_of, number, same
from statsmodels.genmod import families
from test_robust import own_order

import mvmise_sm as ms
from mvmise_sm.exceptions import FormulaError, OptionError, SingularFitWarning
from mvmise_sm.formula.update import updated_formula

BY_KIND = {kind: [c for c in cases("verbs") if c["kind"] == kind] for kind in {c["kind"] for c in cases("verbs")}}


def ids(case):
    return case["id"]


# formulas


@pytest.mark.parametrize("case", BY_KIND["formula"], ids=ids)
def test_functions_of_r(case):
    result, expected = fit_of(case), case["expected"]
    same(result.criterion, expected["criterion"], 1e-7)
    same(np.sort(result.params), np.sort(expected["fixef"]), 1e-5, 1e-6)
    new = pd.DataFrame(case["options"]["newdata"])
    same(result.predict(new, random="none"), expected["predict"], 1e-5, 1e-6)


@pytest.mark.parametrize("case", BY_KIND["contrasts"], ids=ids)
def test_contrasts_of_r(case):
    data, contrasts = frame_of(case["dataset"]), case["options"]["contrasts"]
    result = ms.lmer(case["formula"], data, contrasts=contrasts).fit()
    same(result.criterion, case["expected"]["criterion"], 1e-7)
    same(np.sort(result.params), np.sort(case["expected"]["fixef"]), 1e-5, 1e-6)
    plain = ms.lmer(case["formula"], data).fit()
    np.testing.assert_allclose(result.predict(data.iloc[:5]), plain.predict(data.iloc[:5]), rtol=1e-6)


def test_codings_by_matrix_and_what_is_refused():
    data = frame_of("vb1")
    given = ms.lmer("y ~ a + (1 | g)", data, contrasts={"a": np.array([[1.0, 0], [0, 1], [-1, -1]])}).fit()
    named = ms.lmer("y ~ a + (1 | g)", data, contrasts={"a": "sum"}).fit()
    np.testing.assert_allclose(given.params.to_numpy(), named.params.to_numpy(), rtol=1e-7)
    for contrasts, message in (
        ({"b9": "contr.sum"}, "'b9' is not a factor of the formula; its factors are"),
        ({"a": "contr.some"}, "'contr.some' is not known"),
        ({"a": np.eye(2)}, "2 rows, the factor 3 levels: a1, a2, a3"),
        (["contr.sum"], "must be a dict"),
    ):
        with pytest.raises(OptionError, match=message):
            ms.lmer("y ~ a + (1 | g)", data, contrasts=contrasts)


@pytest.fixture(scope="module")
def data():
    out = unbalanced(4, 12)
    return out.assign(c=np.arange(len(out)) % 3, cut=out["x"] + 1.0, h=np.where(out["x"] > 0, "u", "v"))


@pytest.mark.parametrize(
    ("formula", "same_as"),
    [
        ("y ~ cut(x, c(-9, 0, 9)) + c + cut + (1 | g)", "y ~ I(x > 0) + c + cut + (1 | g)"),
        ("y ~ ifelse(f %in% c('a', 'b'), 1, 0) + (1 | g)", "y ~ I(f != 'c') + (1 | g)"),
        ("y ~ as.numeric(h) + (1 | g)", None),
        ("y ~ pmax(x, cut, na.rm = TRUE) + (1 | g)", "y ~ cut + (1 | g)"),
        ("y ~ scale(x, center = FALSE) + (1 | g)", "y ~ x + (1 | g)"),
        ("y ~ x + cos(pi * x) + (dummy(f, 'b') || g)", "y ~ x + np.cos(np.pi * x) + (I((f == 'b') * 1.0) || g)"),
        ("y ~ relevel(f, ref = 'c') + (1 | g)", "y ~ C(f, Treatment('c')) + (1 | g)"),
        ("y ~ f %in% h + h + (1 | g)", "y ~ f:h + h + (1 | g)"),
        ("y ~ cut(x, 3) + (1 | g)", "y ~ C(pd.cut(x, 3, labels=False)) + (1 | g)"),
    ],
)
@pytest.mark.filterwarnings("ignore::mvmise_sm.exceptions.SingularFitWarning")
def test_what_functions_mean(data, formula, same_as):
    if same_as is None:
        with pytest.raises(FormulaError, match=r"as\.numeric"):
            ms.lmer(formula, data)
        return
    ours, other = ms.lmer(formula, data).fit(), ms.lmer(same_as, data, eval_env={"pd": pd, "np": np}).fit()
    np.testing.assert_allclose(
        ours.criterion + 0.0, other.criterion + np.log(1.0), rtol=1e-3 if "scale" in formula else 1e-8
    )
    np.testing.assert_allclose(ours.fittedvalues, other.fittedvalues, rtol=1e-4, atol=1e-6)


def test_functions_remember_the_data_of_the_fit(data):
    for rhs in ("ns(x, 3)", "cut(x, 4)", "scale(x)", "relevel(f, 'b')", "dummy(f)", "poly(x, 2, raw=TRUE)"):
        result = ms.lmer(f"y ~ {rhs} + (1 | g)", data).fit()
        rows = data.iloc[[3]]
        np.testing.assert_allclose(result.predict(rows), result.fittedvalues.iloc[[3]], rtol=1e-9, err_msg=rhs)


def test_values_outside_all_intervals_are_missing(data):
    inside = data["x"].abs() < 1.0
    result = ms.lmer("y ~ cut(x, c(-1, 0, 1)) + (1 | g)", data).fit()
    assert result.nobs == inside.sum()
    assert result.params.index[1] == "cut(x, c(-1, 0, 1))[T.(0,1]]"


@pytest.mark.parametrize(
    ("rhs", "message"),
    [
        ("relevel(f, 'z')", "'z' is not a level; they are 'a', 'b', 'c'"),
        ("cut(x, c(1, 1))", "breaks must be different"),
        ("ns(x, df=0)", "df must be at least 1"),
        ("dummy(f, 'z')", "'z' is not a level"),
    ],
)
def test_wrong_arguments_are_named(data, rhs, message):
    with pytest.raises(FormulaError, match=message):
        ms.lmer(f"y ~ {rhs} + (1 | g)", data)


# update


# what R 4's update() writes for the same two formulas
SIMPLIFIED = {
    "y ~ x + f": {
        ". ~ . - f": "y ~ x",
        ". ~ . - x - f": "y ~ 1",
        ". ~ . - 1": "y ~ x + f - 1",
        ". ~ . + I(x^2)": "y ~ x + f + I(x ** 2)",
        "log(.) ~ .": "log(y) ~ x + f",
        ". ~ . * z": "y ~ x + f + z + x:z + f:z",
        ". ~ .:z": "y ~ x:z + f:z",
        ". ~ (.)^2": "y ~ x + f + x:f",
        ". ~ . + f": "y ~ x + f",
        ". ~ z + .": "y ~ z + x + f",
        "z ~ . - x + log(x)": "z ~ f + log(x)",
        ". ~ 1": "y ~ 1",
    },
    "y ~ a*b": {". ~ . - a:b": "y ~ a + b", ". ~ . - a": "y ~ b + a:b", ". ~ . + c": "y ~ a + b + c + a:b"},
    "y ~ a/b": {". ~ . + c": "y ~ a + c + a:b", ". ~ . - a:b": "y ~ a"},
    "y ~ (a+b+c)^2": {". ~ . - a:b - c": "y ~ a + b + a:c + b:c"},
    "y ~ b:a + c": {". ~ . + d": "y ~ c + d + b:a", ". ~ . - a:b": "y ~ c"},
    "y ~ a + a:b + offset(w)": {". ~ . + c": "y ~ a + c + a:b + offset(w)"},
    "y ~ 0 + x": {". ~ . + z": "y ~ x + z - 1", ". ~ . + 1": "y ~ x", ". ~ . - x": "y ~ 1 - 1"},
    "y ~ a*b + x + (x | g) + (1 | h)": {
        ". ~ . - x": "y ~ a + b + (x | g) + (1 | h) + a:b",
        ". ~ . - (1 | h)": "y ~ a + b + x + (x | g) + a:b",
        ". ~ . - (x|g) + (1|g)": "y ~ a + b + x + (1 | h) + (1 | g) + a:b",
        ". ~ . - 1": "y ~ a + b + x + (x | g) + (1 | h) + a:b - 1",
        ". ~ z + (1 | g)": "y ~ z + (1 | g)",
    },
    "cbind(s, n - s) ~ x + (1 | g)": {". ~ . - x": "cbind(s, n - s) ~ (1 | g)"},
}


@pytest.mark.parametrize(
    ("old", "new", "expected"), [(old, new, text) for old, news in SIMPLIFIED.items() for new, text in news.items()]
)
def test_updated_formulas(old, new, expected):
    assert updated_formula(old, new) == expected


def test_what_is_taken_away_by_another_spelling_and_offsets():
    old = "y ~ x + offset(w) + (1 + x | g) + cs(0 + f | h)"
    assert updated_formula(old, ". ~ . - (x|g) - offset(w)") == "y ~ x + cs(0 + f | h)"
    assert updated_formula(old, ". ~ . - cs(0+f|h)") == "y ~ x + (1 + x | g) + offset(w)"
    # inside a call or a product the dot is the fixed effects
    assert updated_formula("y ~ x + (1 | g)", ". ~ log(.) + (. | g)") == "y ~ log(x) + (x | g)"
    with pytest.raises(FormulaError, match="q is not a term of the model; its terms are x"):
        updated_formula("y ~ x + (1 | g)", ". ~ . - q")
    with pytest.raises(FormulaError, match="expand to about"):
        updated_formula(f"y ~ {' + '.join(f'x{i}' for i in range(40))} + (1 | g)", ". ~ (.)^30")


def test_a_random_term_that_is_not_there():
    with pytest.raises(FormulaError, match=r"\(1 \| k\) is not a term of the model"):
        updated_formula("y ~ x + (1 | g)", ". ~ . - (1 | k)")


@pytest.mark.parametrize("case", BY_KIND["update"], ids=ids)
def test_update_against_r(case):
    result = fit_of(case).update(case["options"]["update"])
    same(result.criterion, case["expected"]["criterion"], 1e-7)
    assert len(result.params) == case["expected"]["n_params"]


def test_update_keeps_options_and_takes_new_ones():
    data = shared_frame("cbpp")
    result = ms.glmer("prop ~ period + (1 | herd)", data, family="binomial", weights="size").fit(nagq=3)
    again = result.update()
    np.testing.assert_allclose(again.params, result.params, rtol=1e-8)
    assert again.nagq == 3
    other = result.update(". ~ . - period", nagq=1, family=families.Binomial(families.links.Probit()))
    assert (other.nagq, type(other.family.link).__name__, len(other.params)) == (1, "Probit", 1)
    ml = sleepstudy().update(reml=False)
    np.testing.assert_allclose(ml.llf, sleepstudy().model.fit(reml=False).llf, rtol=1e-10)


# augment, padding, coef


def test_augment_and_influence_against_r():
    case = BY_KIND["augment"][0]
    result, rows = fit_of(case), case["options"]["rows"]
    frame = result.augment()
    for name in ("fitted", "resid", "hat", "fixed", "cooksd"):
        same(frame[f".{name}"].to_numpy()[:rows], case["expected"][name], 1e-4, 1e-6)
    case = BY_KIND["dfbetas"][0]
    table = result.get_influence().dfbetas
    order = own_order(result, case["expected"]["names"])
    same(table.to_numpy()[:rows][:, order], case["expected"]["dfbetas"], 1e-4, 1e-6)


def test_dropped_rows_come_back_as_missing():
    data = unbalanced(2, 10)
    data.loc[[3, 7], "x"] = np.nan
    result = ms.lmer("y ~ x + (1 | g)", data).fit()
    resid = result.padded()
    assert list(resid.index) == list(data.index)
    assert list(resid.index[resid.isna()]) == [3, 7]
    np.testing.assert_array_equal(resid.dropna(), result.resid)
    assert len(result.augment(pad=True)) == len(data)
    assert len(result.augment()) == len(data) - 2


def test_coefficients_by_level():
    result = sleepstudy()
    table = result.coef()["Subject"]
    np.testing.assert_allclose(table, result.random_effects["Subject"] + result.params.to_numpy())
    assert list(table.columns) == ["Intercept", "Days"]
    corr = result.cor_params()
    np.testing.assert_allclose(np.diag(corr), 1.0)


def test_predictions_with_some_terms_of_a_factor():
    data = unbalanced(6, 12)
    result = ms.lmer("y ~ x + (x || g)", data).fit()
    parts = [result.predict(random=[term]) for term in ("(1 | g)", "(0 + x | g)")]
    none, both = result.predict(random="none"), result.predict(random=["g"])
    np.testing.assert_allclose(parts[0] + parts[1] - none, both)
    with pytest.raises(OptionError, match="or of terms among"):
        result.predict(random=["(z | g)"])


# tidy


@pytest.mark.parametrize("case", BY_KIND["varci"], ids=ids)
def test_intervals_of_variances(case):
    table, expected = fit_of(case).tidy("random", conf_int=True), case["expected"]
    for name, low, estimate, high in zip(*(expected[k] for k in ("names", "lower", "estimate", "upper")), strict=True):
        term = (
            name.replace("(Intercept)", "Intercept")
            .replace("sd(", "sd_")
            .replace("cor(", "cor_")
            .replace(",", ".")
            .strip(")")
        )
        row = table[table["term"] == term].iloc[0]
        same(row[["estimate", "conf_low", "conf_high"]], [estimate, low, high], case["tol"]["rel"], 1e-3)


def test_variances_at_the_boundary_have_no_standard_error():
    with pytest.warns(SingularFitWarning):
        result = ms.lmer("Yield ~ 1 + (1 | Batch)", shared_frame("Dyestuff2")).fit()
    row = result.tidy("random", conf_int=True).iloc[0]
    assert np.isnan(row["std_error"])
    assert row["conf_low"] == 0.0
    profile = result.conf_int(method="profile", reml=True).loc[["sd_Intercept|Batch"]]
    assert row["conf_high"] == pytest.approx(profile.iloc[0, 1], rel=1e-3)


def test_generalized_models_have_intervals_of_variances_too():
    result = ms.glmer("prop ~ period + (1 | herd)", shared_frame("cbpp"), family="binomial", weights="size").fit()
    row = result.tidy("random", conf_int=True).iloc[0]
    assert row["conf_low"] < row["estimate"] < row["conf_high"]
    np.testing.assert_allclose(row["conf_low"] * row["conf_high"], row["estimate"] ** 2)


def test_modes_against_r():
    case = BY_KIND["ranvals"][0]
    table = fit_of(case).tidy("ran_vals", conf_int=True)
    rows = {(str(r["level"]), r["term"]): r for _, r in table.iterrows()}
    for i, (level, term) in enumerate(zip(case["expected"]["level"], case["expected"]["term"], strict=True)):
        row = rows[level, term.replace("(Intercept)", "Intercept")]
        for name in ("estimate", "std_error", "conf_low", "conf_high"):
            same(row[name], number(case["expected"][name][i]), 1e-4, 1e-6)


def test_exponentiated_estimates():
    result = ms.glmer("prop ~ period + (1 | herd)", shared_frame("cbpp"), family="binomial", weights="size").fit()
    plain, ratio = result.tidy(conf_int=True), result.tidy(conf_int=True, exponentiate=True)
    np.testing.assert_allclose(ratio["estimate"], np.exp(plain["estimate"]))
    np.testing.assert_allclose(ratio["std_error"], ratio["estimate"] * plain["std_error"])
    np.testing.assert_allclose(ratio["conf_high"], np.exp(plain["conf_high"]))
    np.testing.assert_array_equal(ratio["p_value"], plain["p_value"])


def test_chosen_intervals():
    result = sleepstudy()
    both = result.conf_int(parm=["Days", "sigma"])
    np.testing.assert_allclose(both.loc["Days"], result.conf_int().loc["Days"])
    tidy = result.tidy("random", conf_int=True).set_index("term")
    np.testing.assert_allclose(both.loc["sigma"], tidy.loc["sigma", ["conf_low", "conf_high"]].astype(float))
    assert len(result.conf_int(parm="beta_")) == 2
    profile = result.conf_int(method="profile", parm="sigma")
    assert list(profile.index) == ["sigma"]
    with pytest.raises(OptionError, match="parm: 'days' is not a parameter"):
        result.conf_int(parm="days")


# terms


def test_drop1_f_against_lmertest():
    case = BY_KIND["drop1"][0]
    table = fit_of(case).drop1(test="F", ddf=case["options"]["ddf"])
    for want in case["expected"]:
        row = table.loc[want["term"]]
        for name in ("F", "df_num", "df_denom", "p_value"):
            same(row[name], want[name], 1e-4, 1e-8)
    with pytest.raises(OptionError, match="ddf goes with test='F'"):
        fit_of(case).drop1(ddf="satterthwaite")


@pytest.mark.parametrize("case", BY_KIND["joint"], ids=ids)
def test_joint_tests_against_pbkrtest(case):
    options = case["options"]
    means = fit_of(case).marginal_means(options["specs"], by=options["by"], ddf=options["ddf"])
    table = means.contrast("consec").test(joint=True).set_index(options["by"])
    for want in case["expected"]:
        for name in ("df_num", "df_denom", "F", "p_value"):
            same(table.loc[want["by"], name], want[name], 1e-5, 1e-8)


def test_add1_and_step_agree_with_single_fits(data):
    small = ms.lmer("y ~ 1 + (1 | g)", data).fit()
    table = small.add1(["x", "f"])
    large = ms.lmer("y ~ x + (1 | g)", data).fit(reml=False)
    np.testing.assert_allclose(table.loc["x", "aic"], large.aic)
    chosen = small.step("both", scope=["x", "f"])
    assert chosen.reml
    names = set(chosen.model.data.model_spec.term_names)
    assert "x" in names
    best = chosen.model.fit(reml=False).aic
    assert best <= min(large.aic, small.model.fit(reml=False).aic) + 1e-9
    with pytest.raises(OptionError, match="scope names the terms"):
        small.step("forward")


def test_fits_by_group():
    data = shared_frame("sleepstudy")
    fits = ms.lm_list("Reaction ~ Days | Subject", data)
    one = data[data["Subject"] == data["Subject"].iloc[0]]
    np.testing.assert_allclose(fits.params.iloc[0], smf.ols("Reaction ~ Days", one).fit().params, rtol=1e-9)
    everything = smf.ols("Reaction ~ C(Subject) * Days", data.assign(Subject=data["Subject"].astype(str))).fit()
    np.testing.assert_allclose(fits.sigma**2, everything.scale, rtol=1e-9)
    assert len(fits.conf_int()) == 36
    with pytest.raises(FormulaError, match="needs a group after a bar"):
        ms.lm_list("Reaction ~ Days", data)
