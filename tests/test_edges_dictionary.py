"""The dictionary for users of R: every entry that is a number gives R's number.

The numbers are those of lme4 1.1-31, lmerTest 3.1-3 and pbkrtest 0.5.2 on sleepstudy and cbpp.
"""

import json
from pathlib import Path

import numpy as np
import pytest

import mvmise_sm as ms

R = json.loads((Path(__file__).parent / "reference" / "dictionary.json").read_text(encoding="utf-8"))
DICTIONARY = Path(__file__).parents[1] / "docs" / "from_r" / "index.rst"

# R's entry -> what the dictionary says instead, and the tolerance; glmer stops 3e-4 below its maximum
ENTRIES = {
    "fixef": ("res.params", 1e-6),
    "se": ("res.bse", 1e-5),
    "vcov": ("res.cov_params()", 1e-5),
    "ranef_first": ('res.random_effects["Subject"].iloc[0]', 1e-5),
    "postvar_first": ('res.random_effects_cov["Subject"][0]', 1e-5),
    "coef_first": ('(res.random_effects["Subject"] + res.params).iloc[0]', 1e-5),
    "varcorr_sd": ('res.varcorr["sdcor"]', 1e-5),
    "VarCorr_g": ('res.cov_re["Subject"]', 1e-5),
    "sigma": ("res.scale ** 0.5", 1e-6),
    "theta": ("res.theta", 1e-5),
    "logLik": ("res.llf", 1e-9),
    "AIC": ("res.aic", 1e-9),
    "BIC": ("res.bic", 1e-9),
    "REMLcrit": ("res.criterion", 1e-9),
    "logLik_ml": ("ml.llf", 1e-9),
    "deviance_ml": ("ml.deviance", 1e-9),
    "AIC_ml": ("ml.aic", 1e-9),
    "BIC_ml": ("ml.bic", 1e-9),
    "fitted5": ("res.fittedvalues[:5]", 1e-6),
    "resid5": ("res.resid[:5]", 1e-5),
    "pearson5": ("res.resid_pearson[:5]", 1e-5),
    "predict_NA5": ('res.predict(random="none")[:5]', 1e-6),
    "ngrps": ('res.n_groups["Subject"]', 0.0),
    "nobs": ("res.nobs", 0.0),
    "df_residual": ("res.nobs - res.k_params", 0.0),
    "isSingular": ("res.singular", 0.0),
    "satt_df": ('res.tidy(ddf="satterthwaite")["df"]', 1e-4),
    "kr_df": ('res.tidy(ddf="kenward-roger")["df"]', 1e-6),
    "anova_F": ('res.anova()["F"]', 1e-5),
    "anova_df": ('res.anova()["df_denom"]', 1e-4),
    "lrt_chisq": ('ms.anova(small, ml)["chisq"].iloc[1]', 1e-6),
    "lrt_p": ('ms.anova(small, ml)["p_value"].iloc[1]', 1e-5),
    "drop1_chisq": ('ml.drop1()["chisq"].iloc[1]', 1e-6),
    "wald": ("np.asarray(res.conf_int()).T", 1e-6),
    "profile_days": ('ml.conf_int(method="profile").loc["Days"]', 1e-4),
    "profile_sigma": ('ml.conf_int(method="profile").loc["sigma"]', 1e-4),
    "hat5": ("res.get_influence().hat_matrix_diag[:5]", 1e-5),
    "cooks5": ("res.get_influence().cooks_distance_lme4.iloc[:5]", 1e-4),
    "gl_fixef": ("gres.params", 1e-3),
    "gl_se": ("gres.bse", 2e-2),
    "gl_llf": ("gres.llf", 1e-5),
    "gl_dfres": ("gres.nobs - gres.k_params", 0.0),
    "gl_dev": ("gres.deviance", 1e-4),
    "gl_fit5": ("gres.predict()[:5]", 1e-3),
    "gl_link5": ('gres.predict(which="linear")[:5]', 1e-3),
    "gl_resp_NA5": ('gres.predict(random="none")[:5]', 1e-3),
    "g9_fixef": ("g9.params", 1e-3),
}


@pytest.fixture(scope="module")
def fits():
    sleepstudy, cbpp = ms.datasets.load_sleepstudy(), ms.datasets.load_cbpp()
    model = ms.lmer("Reaction ~ Days + (Days | Subject)", sleepstudy)
    generalized = ms.glmer("incidence / size ~ period + (1 | herd)", cbpp, family="binomial", weights="size")
    return {
        "ms": ms,
        "np": np,
        "res": model.fit(),
        "ml": model.fit(reml=False),
        "small": ms.lmer("Reaction ~ 1 + (Days | Subject)", sleepstudy).fit(reml=False),
        "gres": generalized.fit(),
        "g9": generalized.fit(nagq=9),
    }


@pytest.mark.parametrize("entry", ENTRIES)
def test_dictionary_entries_have_equal_numbers(fits, entry):
    code, rtol = ENTRIES[entry]
    ours = np.ravel(np.asarray(eval(code, dict(fits)), dtype=float))
    np.testing.assert_allclose(ours, np.ravel(np.asarray(R[entry], dtype=float)), rtol=rtol, atol=1e-9)


def test_every_number_of_r_has_an_entry():
    assert {*ENTRIES, "g9_llf"} == set(R)


def test_the_constant_that_r_leaves_out_is_that_of_the_saturated_model(fits):
    """With nAGQ > 1 lme4's log-likelihood leaves out what the responses alone determine, and so does not compare."""
    gres, g9 = fits["gres"], fits["g9"]
    y, n = np.asarray(gres.model.endog), np.asarray(gres.model.weights)
    from scipy.special import gammaln, xlogy

    counts = y * n
    choose = gammaln(n + 1) - gammaln(counts + 1) - gammaln(n - counts + 1)
    saturated = (choose + xlogy(counts, y) + xlogy(n - counts, 1 - y)).sum()
    np.testing.assert_allclose(g9.llf, R["g9_llf"][0] + saturated, rtol=1e-6)
    assert abs(g9.llf - gres.llf) < 0.1


@pytest.mark.parametrize(
    "words",
    ["res.nobs - res.k_params", "cooks_distance_lme4", "res.tidy()", "res.varcorr", 'res.predict(new, random="none")'],
)
def test_the_page_says_what_is_tested(words):
    assert words in DICTIONARY.read_text(encoding="utf-8")
