"""Tests and intervals of the fixed effects against R: lmerTest, pbkrtest and lme4."""

import numpy as np
import pandas as pd
import pytest
from conftest import reference_cases
from inference_models import fitted, fitted_case, sleepstudy, unbalanced

import mvmise_sm as ms
from mvmise_sm.exceptions import DataError, OptionError, RankWarning

# df of lmerTest come from numerical derivatives; F depends on R's optimum, which is good to 1e-7 only
DDF_RTOL, F_RTOL = 1e-3, 1e-5
KR_RTOL = 1e-4


def cases(*kinds):
    return [pytest.param(c, id=c["id"]) for c in reference_cases("inference") if c["kind"] in kinds]


def treatment_coded(*kinds):
    """Cases whose coefficients R codes as we do; of the others (ordered factors) the terms are compared."""
    return [p for p in cases(*kinds) if p.values[0]["model"]["dataset"] in ("sleepstudy", "Machines")]


def by_type(*kinds):
    """Cases with the types of test that the reference has."""
    return [
        pytest.param(p.values[0], type, id=f"{p.id}-{type}")
        for p in cases(*kinds)
        for type in (1, 2, 3)
        if f"anova{type}" in p.values[0]["expected"]
    ]


@pytest.mark.parametrize("case", treatment_coded("satterthwaite", "kenward_roger"))
def test_coefficients(case):
    method = case["kind"].replace("_", "-")
    rtol = KR_RTOL if method == "kenward-roger" else DDF_RTOL
    table = fitted_case(case["model"]).tidy(ddf=method)
    expected = pd.DataFrame(case["expected"]["coef"])
    np.testing.assert_allclose(table["df"], expected["df"], rtol=rtol)
    np.testing.assert_allclose(table["std_error"], expected["Std. Error"], rtol=1e-6)
    np.testing.assert_allclose(table["statistic"], expected["t value"], rtol=1e-6)
    np.testing.assert_allclose(table["p_value"], expected["Pr(>|t|)"], rtol=20 * rtol)


@pytest.mark.parametrize(("case", "type"), by_type("satterthwaite", "kenward_roger"))
def test_terms(case, type):
    table = fitted_case(case["model"]).anova(ddf=case["kind"].replace("_", "-"), type=type)
    assert list(table.columns) == ["df_num", "df_denom", "F", "p_value"]
    by_factors = {frozenset(name.split(":")): row for name, row in table.iterrows()}
    for row in case["expected"][f"anova{type}"]:
        ours = by_factors[frozenset(row["term"].split(":"))]
        assert ours["df_num"] == row["NumDF"]
        np.testing.assert_allclose(ours["F"], row["F value"], rtol=F_RTOL)
        np.testing.assert_allclose(
            ours["df_denom"], row["DenDF"], rtol=KR_RTOL if "kenward" in case["kind"] else DDF_RTOL
        )
        np.testing.assert_allclose(ours["p_value"], row["Pr(>F)"], rtol=2e-2, atol=1e-12)


@pytest.mark.parametrize("case", treatment_coded("kenward_roger"))
def test_adjusted_covariance(case):
    from mvmise_sm.inference.ddf import denominator

    cov = denominator(fitted_case(case["model"])._results, "kenward-roger").cov
    np.testing.assert_allclose(cov, case["expected"]["vcov_adj"], rtol=KR_RTOL)


@pytest.mark.parametrize("case", cases("contrast_t"))
def test_contrasts_one_by_one(case):
    test = fitted_case(case["model"]).t_test(np.array(case["L"]), ddf=case["ddf"])
    expected = pd.DataFrame(case["expected"])
    np.testing.assert_allclose(test.effect, expected["Estimate"], rtol=1e-7)
    np.testing.assert_allclose(test.sd, expected["Std. Error"], rtol=1e-6)
    np.testing.assert_allclose(test.df_denom, expected["df"], rtol=DDF_RTOL)
    np.testing.assert_allclose(test.conf_int(), expected[["lower", "upper"]], rtol=1e-5)
    assert "c0" in str(test)


@pytest.mark.parametrize("case", cases("contrast_F"))
def test_contrasts_jointly(case):
    test = fitted_case(case["model"]).wald_test(np.array(case["L"]), ddf=case["ddf"])
    (expected,) = case["expected"]
    np.testing.assert_allclose(test.fvalue, expected["F value"], rtol=F_RTOL)
    np.testing.assert_allclose(test.df_denom, expected["DenDF"], rtol=DDF_RTOL)
    assert test.df_num == expected["NumDF"]


@pytest.mark.parametrize("case", cases("wald_ci"))
def test_wald_intervals(case):
    result = fitted_case(case["model"])
    ours = result.conf_int(1.0 - case["level"])
    expected = pd.DataFrame(case["expected"])
    # patsy puts numeric terms after categorical ones
    order = np.argsort(ours[0].to_numpy()), np.argsort(expected["lower"].to_numpy())
    width = (expected["upper"] - expected["lower"]).to_numpy()[order[1]]
    for column, name in ((0, "lower"), (1, "upper")):
        gap = ours[column].to_numpy()[order[0]] - expected[name].to_numpy()[order[1]]
        assert np.abs(gap / width).max() < 1e-4


@pytest.mark.parametrize("case", cases("lrt"))
def test_likelihood_ratio(case):
    table = ms.anova(fitted_case(case["model"]), fitted_case(case["smaller"]))
    expected = case["expected"]
    np.testing.assert_allclose(table["chisq"].iloc[1], expected["chisq"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(table["p_value"].iloc[1], expected["p"], rtol=1e-4)
    np.testing.assert_allclose(table["llf"], expected["logLik"], rtol=1e-8)
    np.testing.assert_allclose(table["aic"], expected["AIC"], rtol=1e-8)
    np.testing.assert_allclose(table["bic"], expected["BIC"], rtol=1e-8)
    assert list(table["n_params"]) == expected["npar"]
    assert table["df"].iloc[1] == expected["df"]
    assert ("refitted by maximum likelihood" in table.heading) == bool(case["model"]["reml"])


@pytest.mark.parametrize("case", cases("ranova"))
def test_random_terms(case):
    table = fitted_case(case["model"]).anova_random()
    for name, row in zip(table.index, case["expected"], strict=True):
        ours = table.loc[name]
        assert ours["n_params"] == row["npar"]
        np.testing.assert_allclose(ours["llf"], row["logLik"], rtol=1e-8)
        if row["LRT"] is not None:
            assert name == row["term"]
            np.testing.assert_allclose(ours["chisq"], row["LRT"], rtol=1e-6)
            np.testing.assert_allclose(ours["p_value"], row["Pr(>Chisq)"], rtol=1e-4)
            assert 0.0 < ours["p_boundary"] < ours["p_value"]


@pytest.mark.parametrize("case", cases("drop1"))
def test_drop1(case):
    table = fitted_case(case["model"]).drop1()
    for row in case["expected"]:
        ours = table.loc[row["term"]]
        np.testing.assert_allclose(ours["aic"], row["AIC"], rtol=1e-8)
        if row["LRT"] is not None:
            np.testing.assert_allclose([ours["chisq"], ours["p_value"]], [row["LRT"], row["Pr(Chi)"]], rtol=1e-4)


@pytest.mark.parametrize("case", cases("kr_modcomp"))
def test_kenward_roger_comparison(case):
    table = ms.anova(fitted_case(case["smaller"]), fitted_case(case["model"]), test="kenward-roger")
    expected = case["expected"]
    ours = table.iloc[0]
    np.testing.assert_allclose(ours["F"], expected["stat"], rtol=KR_RTOL)
    np.testing.assert_allclose(ours["df_denom"], expected["ddf"], rtol=KR_RTOL)
    np.testing.assert_allclose(ours["scaling"], expected["F.scaling"], rtol=KR_RTOL)
    assert ours["df_num"] == expected["ndf"]


# what mixedlm gets wrong


def test_kenward_roger_is_not_satterthwaite():
    result = ms.lmer("y ~ x + (x | g)", unbalanced()).fit()
    kr, satt = result.tidy(ddf="kenward-roger"), result.tidy(ddf="satterthwaite")
    assert (kr["std_error"] > satt["std_error"] * 1.001).all()
    assert (np.abs(kr["df"] / satt["df"] - 1.0) > 1e-3).all()


def test_type_3_is_by_term_and_does_not_depend_on_the_coding():
    data = unbalanced()
    treatment = ms.lmer("y ~ f * x + (1 | g)", data).fit().anova(type=3)
    summed = ms.lmer("y ~ C(f, Sum) * x + (1 | g)", data).fit().anova(type=3)
    assert list(treatment.index) == ["f", "x", "f:x"]
    assert list(treatment["df_num"]) == [2, 1, 2]
    np.testing.assert_allclose(treatment.to_numpy(), summed.to_numpy(), rtol=1e-6)


def test_type_3_of_a_sum_coded_factor_is_the_test_of_its_coefficients():
    data = unbalanced()
    result = ms.lmer("y ~ C(f, Sum) * x + (1 | g)", data).fit()
    names = [n for n in result.params.index if n.startswith("C(f, Sum)") and ":" not in n]
    joint = result.wald_test(", ".join(f"{n} = 0" for n in names), ddf="satterthwaite")
    row = result.anova().loc["C(f, Sum)"]
    np.testing.assert_allclose(joint.fvalue, row["F"], rtol=1e-8)
    # the degrees of freedom of several contrasts depend on how they are written: there differences from the first level
    np.testing.assert_allclose(joint.df_denom, row["df_denom"], rtol=1e-2)


def test_empty_cells():
    """Types 1 to 3 with a combination of levels that does not occur, against lmerTest 3.1-3."""
    data = unbalanced(8, 14)
    data["h"] = np.where(data["x"] > 0, "u", "v")
    data = data[~((data["f"] == "c") & (data["h"] == "v"))]
    with pytest.warns(RankWarning):
        model = ms.lmer("y ~ f * h + (1 | g)", data)
    result = model.fit()
    expected = {
        1: [(2, 67.589, 0.5602), (1, 67.506, 5.1571), (1, 67.333, 0.2664)],
        2: [(2, 67.715, 0.0102), (1, 67.506, 5.1571), (1, 67.333, 0.2664)],
        3: [(2, 67.607, 0.0276), (1, 67.307, 5.4458), (1, 67.333, 0.2664)],
    }
    for type, rows in expected.items():
        table = result.anova(type=type)
        assert list(table.index) == ["f", "h", "f:h"]
        for ours, (df_num, df_denom, f) in zip(table.to_numpy(), rows, strict=True):
            assert ours[0] == df_num
            np.testing.assert_allclose(ours[1], df_denom, rtol=1e-3)
            np.testing.assert_allclose(ours[2], f, atol=6e-5)


def test_marginal_means_do_not_use_the_residual_df():
    result = fitted("Machines", "score ~ Machine + (1 | Worker/Machine)")
    assert result.marginal_means("Machine")["df"].max() < 9.0 < result.df_resid


# properties


def oracle(data, result):
    """V, X, and the derivatives of V, for small data."""
    x = np.column_stack([np.ones(len(data)), data["x"]])
    z = np.eye(data["g"].nunique())[data["g"]]
    return x, z


def test_kenward_roger_against_dense_matrices():
    """The paper's formulas with explicit n by n matrices."""
    data = unbalanced(3)
    result = ms.lmer("y ~ x + (1 | g)", data).fit()
    x, z = oracle(data, result)
    tau, sigma2 = result.varcorr["vcov"].iloc[0], result.scale
    g = [z @ z.T, np.eye(len(data))]
    vi = np.linalg.inv(tau * g[0] + sigma2 * g[1])
    phi = np.linalg.inv(x.T @ vi @ x)
    p = [-x.T @ vi @ m @ vi @ x for m in g]
    q = [[x.T @ vi @ m @ vi @ n @ vi @ x for n in g] for m in g]
    info = [
        [
            np.trace(vi @ g[i] @ vi @ g[j]) - 2.0 * np.trace(phi @ q[i][j]) + np.trace(phi @ p[i] @ phi @ p[j])
            for j in range(2)
        ]
        for i in range(2)
    ]
    w = 2.0 * np.linalg.inv(info)
    u = sum(w[i, j] * (q[i][j] - p[i] @ phi @ p[j]) for i in range(2) for j in range(2))
    adjusted = phi + 2.0 * phi @ u @ phi
    table = result.tidy(ddf="kenward-roger")
    np.testing.assert_allclose(table["std_error"], np.sqrt(np.diag(adjusted)), rtol=1e-7)


@pytest.mark.parametrize("formula", ["y ~ x + (x | g)", "y ~ x + (1 | g) + (1 | f)", "y ~ x + (x || g)"])
def test_df_do_not_depend_on_units(formula):
    data = unbalanced(8, 14)
    if "f)" in formula:
        data["y"] += data["f"].map({"a": -1.0, "b": 0.0, "c": 1.5})
    # independent slopes depend on where x is zero
    shift = 0.0 if "||" in formula else 5e3
    other = data.assign(x=1e3 * data["x"] + shift, y=1e-2 * data["y"])
    first, second = ms.lmer(formula, data).fit(), ms.lmer(formula, other).fit()
    for ddf in ("satterthwaite", "kenward-roger"):
        a, b = (r.t_test([[0.0, 1.0]], ddf=ddf) for r in (first, second))
        np.testing.assert_allclose(a.df_denom, b.df_denom, rtol=1e-4)
        np.testing.assert_allclose(a.tvalue, b.tvalue, rtol=1e-6)


def test_kenward_roger_of_the_chain_and_of_the_dense_tier_agree(monkeypatch):
    from mvmise_sm.core.elimination import layout

    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 12, 150), rng.integers(0, 9, 150)
    x = rng.normal(size=150)
    y = (
        rng.normal(size=12)[a]
        + rng.normal(size=12)[a] * x
        + rng.normal(size=(12, 9))[a, b]
        + 0.5 * rng.normal(size=150)
    )
    data = pd.DataFrame({"y": y, "x": x, "a": a, "b": b})
    for formula in ("y ~ x + (x | a) + (1 | b)", "y ~ x + (x | a)", "y ~ x + (1 | a/b)"):
        dense = ms.lmer(formula, data).fit().tidy(ddf="kenward-roger")
        with monkeypatch.context() as patch:
            patch.setattr(layout, "DENSE_LIMIT", 0)
            other = ms.lmer(formula, data).fit().tidy(ddf="kenward-roger")
        np.testing.assert_allclose(dense["df"], other["df"], rtol=1e-5)
        np.testing.assert_allclose(dense["std_error"], other["std_error"], rtol=1e-6)


def test_one_way_layout_has_its_exact_df():
    rng = np.random.default_rng(1)
    g = np.repeat(np.arange(7), 4)
    data = pd.DataFrame({"g": g, "y": rng.normal(size=7)[g] + rng.normal(size=28)})
    result = ms.lmer("y ~ 1 + (1 | g)", data).fit()
    for ddf in ("satterthwaite", "kenward-roger"):
        np.testing.assert_allclose(result.tidy(ddf=ddf)["df"], 6.0, rtol=1e-6)


def test_satterthwaite_of_a_singular_fit_is_finite():
    result = fitted("Dyestuff2", "Yield ~ 1 + (1 | Batch)")
    table = result.tidy(ddf="satterthwaite")
    assert result.singular
    # without variance between batches the residual has all degrees of freedom
    np.testing.assert_allclose(table["df"], 29.0, rtol=1e-6)


def test_satterthwaite_with_a_covariance_prior():
    result = ms.blmer("Reaction ~ Days + (Days | Subject)", sleepstudy().model.data.frame).fit()
    df = result.tidy(ddf="satterthwaite")["df"]
    assert ((df > 10.0) & (df < 40.0)).all()


def test_summary_shows_df():
    text = sleepstudy().summary(ddf="kenward-roger").as_text()
    assert "17.00" in text
    assert "P>|t|" in text
    assert "df" in sleepstudy().summary(ddf="satterthwaite").as_html()


def test_tidy_intervals_use_df():
    table = sleepstudy().tidy(conf_int=True, ddf="satterthwaite")
    np.testing.assert_allclose(sleepstudy().conf_int(ddf="satterthwaite"), table[["conf_low", "conf_high"]])
    plain = sleepstudy().tidy(conf_int=True)
    assert (table["conf_low"] < plain["conf_low"]).all()


def test_restrictions_with_values():
    result = sleepstudy()
    test = result.t_test("Days = 10", ddf="satterthwaite")
    np.testing.assert_allclose(test.tvalue, (result.params["Days"] - 10.0) / result.bse["Days"], rtol=1e-10)
    joint = result.wald_test("Days = 10", ddf="satterthwaite")
    np.testing.assert_allclose(joint.fvalue, test.tvalue**2, rtol=1e-10)
    np.testing.assert_allclose(joint.df_denom, test.df_denom, rtol=1e-8)


def test_redundant_rows_do_not_count():
    result = sleepstudy()
    once = result.wald_test([[0.0, 1.0]], ddf="satterthwaite")
    twice = result.wald_test([[0.0, 1.0], [0.0, 2.0]], ddf="satterthwaite")
    assert twice.df_num == 1
    np.testing.assert_allclose(twice.fvalue, once.fvalue, rtol=1e-10)


def test_compare():
    small = fitted("sleepstudy", "Reaction ~ Days + (1 | Subject)")
    table = ms.compare(small, sleepstudy())
    assert list(table.columns) == ["n_params", "llf", "aic", "aicc", "bic", "delta", "weight"]
    assert table["aicc"].is_monotonic_increasing
    np.testing.assert_allclose(table["weight"].sum(), 1.0)
    k, n = table["n_params"], 180
    np.testing.assert_allclose(table["aicc"], -2.0 * table["llf"] + 2.0 * k * n / (n - k - 1.0))


def test_anova_of_one_result_is_by_term():
    pd.testing.assert_frame_equal(ms.anova(sleepstudy()), sleepstudy().anova())


def test_table_prints_its_heading():
    table = ms.anova(fitted("sleepstudy", "Reaction ~ Days + (1 | Subject)"), sleepstudy())
    assert repr(table).startswith("Likelihood-ratio tests.")
    assert "Likelihood-ratio" in table._repr_html_()
    assert table.loc[:, ["chisq"]].heading == table.heading


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda r: r.tidy(ddf="residual"), "ddf must be"),
        (lambda r: r.anova(type=4), "type must be"),
        (lambda r: r.t_test([[0.0, 1.0]], ddf="satterthwaite", use_t=True), "exclude each other"),
        (lambda r: r.wald_test([[0.0, 0.0]], ddf="satterthwaite"), "no non-zero coefficient"),
        (lambda r: r.conf_int(method="score"), "method must be"),
        (lambda r: r.conf_int(alpha=0.0), "alpha must lie"),
        (lambda r: r.conf_int(n=5), "unknown option 'n'"),
        (lambda r: ms.anova(r, r, test="bayes"), "test must be"),
        (lambda r: ms.anova(), "at least one"),
    ],
)
def test_bad_options_are_named(act, message):
    with pytest.raises(OptionError, match=message):
        act(sleepstudy())


def test_what_is_not_defined_says_so():
    ml = fitted("sleepstudy", "Reaction ~ Days + (Days | Subject)", False)
    with pytest.raises(OptionError, match=r"reml=True"):
        ml.tidy(ddf="kenward-roger")
    glmm = fitted("cbpp", "prop ~ period + (1 | herd)", family="binomial", weights="size")
    with pytest.raises(OptionError, match="linear mixed models"):
        glmm.tidy(ddf="satterthwaite")
    data = ml.model.data.frame
    prior = ms.lmer("Reaction ~ Days + (1 | Subject)", data, fixef_prior=ms.priors.Normal(sd=10.0)).fit()
    with pytest.raises(OptionError, match="prior on the fixed effects"):
        prior.tidy(ddf="satterthwaite")
    assert np.isinf(prior.anova()["df_denom"]).all()
    with pytest.raises(OptionError, match="without priors"):
        ms.blmer("Reaction ~ Days + (1 | Subject)", data).fit().tidy(ddf="kenward-roger")


def test_fits_to_other_responses_cannot_be_compared():
    data = sleepstudy().model.data.frame
    other = ms.lmer("Reaction ~ Days + (1 | Subject)", data.iloc[:100]).fit()
    with pytest.raises(DataError, match="180 and 100 rows"):
        ms.anova(sleepstudy(), other)
    changed = ms.lmer("Reaction ~ Days + (1 | Subject)", data.assign(Reaction=data["Reaction"] + 1.0)).fit()
    with pytest.raises(DataError, match="different responses"):
        ms.anova(sleepstudy(), changed)


def test_results_still_pickle_after_tests():
    import pickle

    result = ms.lmer("Reaction ~ Days + (Days | Subject)", sleepstudy().model.data.frame).fit()
    before = result.tidy(ddf="kenward-roger")
    result.anova()
    result.conf_int(method="profile")
    assert "_ml_fit" not in result._results.__getstate__()["_cache"]
    pd.testing.assert_frame_equal(pickle.loads(pickle.dumps(result)).tidy(ddf="kenward-roger"), before)
