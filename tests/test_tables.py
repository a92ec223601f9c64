"""Tables of a linear mixed model: the whole text of summaries, and the frames."""

import re

import numpy as np
import pandas as pd
import pytest
from conftest import masked
from statsmodels.iolib.summary2 import summary_col

import mvmise_sm as ms
from mvmise_sm.exceptions import OptionError, RankWarning, SingularFitWarning

SLEEPSTUDY = """\
                          Linear Mixed Model Results
==============================================================================
Dep. Variable:               Reaction   REML criterion:              1743.6283
Model:               LinearMixedModel   Log-Likelihood:              -871.8141
Method:                          REML   AIC:                         1755.6283
Date:                ****************   BIC:                         1774.7860
Time:                        ********   Scale:                        654.9410
No. Observations:                 180   Converged:                         yes
Df Residuals:                     178   Singular:                           no
==============================================================================
                 coef    std err          z      P>|z|      [0.025      0.975]
------------------------------------------------------------------------------
Intercept    251.4051      6.825     36.838      0.000     238.029     264.781
Days          10.4673      1.546      6.771      0.000       7.438      13.497
                    Random effects
======================================================
                 Name   Variance   Std.Dev.       Corr
------------------------------------------------------
Subject     Intercept   612.0899    24.7405
                 Days    35.0717     5.9221       0.07
Residual                654.9410    25.5918
======================================================

Groups: Subject: 18"""

SINGULAR_RANK_DEFICIENT = """\
                          Linear Mixed Model Results
==============================================================================
Dep. Variable:                  Yield   -2 Log-Likelihood:            162.8730
Model:               LinearMixedModel   Log-Likelihood:               -81.4365
Method:                            ML   AIC:                          168.8730
Date:                ****************   BIC:                          173.0766
Time:                        ********   Scale:                         13.3461
No. Observations:                  30   Converged:                         yes
Df Residuals:                      29   Singular:                          yes
==============================================================================
                 coef    std err          z      P>|z|      [0.025      0.975]
------------------------------------------------------------------------------
Intercept      5.6656      0.667      8.494      0.000       4.358       6.973
               Random effects
===========================================
                 Name   Variance   Std.Dev.
-------------------------------------------
Batch       Intercept     0.0000     0.0000
Residual                 13.3461     3.6532
===========================================

Groups: Batch: 6
Batch has only 6 levels, and z tests are optimistic; use ddf='satterthwaite'.
Rank deficient fixed effects; dropped: two
Singular fit: a covariance matrix of the random effects is on the boundary."""


@pytest.fixture(scope="module")
def result(frames):
    return ms.lmer("Reaction ~ Days + (Days | Subject)", frames("sleepstudy")).fit()


@pytest.fixture(scope="module")
def crossed(frames):
    return ms.lmer("diameter ~ 1 + (1 | plate) + (1 | sample)", frames("Penicillin")).fit()


def test_summary_text(result):
    assert masked(str(result.summary())) == SLEEPSTUDY


def test_summary_says_singular_and_rank_deficient(frames):
    model_frame = frames("Dyestuff2").assign(two=2.0)
    with pytest.warns(RankWarning, match="'two'"):
        model = ms.lmer("Yield ~ two + (1 | Batch)", model_frame)
    with pytest.warns(SingularFitWarning):
        fit = model.fit(reml=False)
    assert masked(str(fit.summary())) == SINGULAR_RANK_DEFICIENT
    assert fit.singular
    assert fit.converged


def test_summary_prints_priors_and_their_penalty(frames):
    fit = ms.blmer("Reaction ~ Days + (Days | Subject)", frames("sleepstudy")).fit()
    text = str(fit.summary())
    assert "Cov prior  : Subject ~ wishart(df = 4.5" in text
    assert f"Prior dev  : {fit.penalty:.4f}" in text
    assert fit.penalty > 0


@pytest.mark.parametrize("export", ["as_html", "as_latex", "as_csv"])
def test_summary_exports(result, export):
    text = getattr(result.summary(), export)()
    for piece in ("Std.Dev.", "Subject", "24.7405", "251.4051", "Groups: Subject: 18"):
        assert piece in text


def test_summary_takes_names_title_and_level(result):
    text = str(result.summary(yname="ms", xname=["a", "b"], title="Sleep", alpha=0.1))
    assert "Sleep" in text.splitlines()[0]
    assert "ms" in text.splitlines()[2]
    assert "[0.05" in text
    assert re.search(r"^b ", text, re.MULTILINE)


def test_summary_uses_t(frames):
    fit = ms.lmer("Reaction ~ Days + (Days | Subject)", frames("sleepstudy")).fit(use_t=True)
    assert "P>|t|" in str(fit.summary())
    assert (fit.pvalues > ms.lmer("Reaction ~ Days + (Days | Subject)", frames("sleepstudy")).fit().pvalues).all()


def test_summary2_and_summary_col(result, crossed):
    text = str(result.summary2())
    for piece in ("Intercept", "10.4673", "24.7405", "Groups: Subject: 18"):
        assert piece in text
    text = str(summary_col([result, crossed], stars=True))
    assert "251.4051***" in text
    assert "22.9722***" in text


def test_html_in_a_notebook(result):
    assert result._repr_html_().count("<table") == 3


def test_varcorr(result):
    table = result.varcorr
    assert list(table["grp"]) == ["Subject", "Subject", "Subject", "Residual"]
    assert table["var1"].isna().tolist() == [False, False, False, True]
    assert list(table["var1"][:3]) == ["Intercept", "Days", "Intercept"]
    assert table["var2"].isna().tolist() == [True, True, False, True]
    cov = result.cov_re["Subject"]
    np.testing.assert_allclose(table["vcov"][:3], [cov.iloc[0, 0], cov.iloc[1, 1], cov.iloc[0, 1]])
    np.testing.assert_allclose(table["sdcor"][2], cov.iloc[0, 1] / np.sqrt(cov.iloc[0, 0] * cov.iloc[1, 1]))
    assert table["vcov"].iloc[-1] == result.scale


def test_varcorr_names_further_terms_on_a_factor_as_r(frames):
    fit = ms.lmer("Reaction ~ Days + (Days || Subject)", frames("sleepstudy")).fit()
    assert list(fit.varcorr["grp"]) == ["Subject", "Subject.1", "Residual"]
    assert list(fit.cov_re["Subject"].index) == ["Intercept", "Days"]
    assert fit.cov_re["Subject"].iloc[0, 1] == 0.0


def test_tidy(result):
    columns = ["effect", "group", "term", "estimate", "std_error", "statistic", "df", "p_value"]
    fixed = result.tidy()
    assert list(fixed.columns) == columns
    assert list(fixed["term"]) == ["Intercept", "Days"]
    np.testing.assert_array_equal(fixed["estimate"], result.params)
    np.testing.assert_array_equal(fixed["p_value"], result.pvalues)
    random = result.tidy("random")
    assert list(random["term"]) == ["sd_Intercept", "sd_Days", "cor_Intercept.Days", "sigma"]
    assert list(random["group"]) == ["Subject"] * 3 + ["Residual"]
    np.testing.assert_allclose(random["estimate"], result.varcorr["sdcor"])
    both = result.tidy("all", conf_int=True, alpha=0.1)
    assert list(both.columns) == [*columns, "conf_low", "conf_high"]
    assert len(both) == 6
    np.testing.assert_allclose(both.loc[:1, ["conf_low", "conf_high"]], result.conf_int(0.1))
    with pytest.raises(OptionError, match="effects"):
        result.tidy("some")


def test_glance(result):
    row = result.glance()
    assert len(row) == 1
    assert row.loc[0, "nobs"] == 180
    np.testing.assert_allclose(row.loc[0, ["llf", "aic", "bic"]].astype(float), [result.llf, result.aic, result.bic])
    assert row.loc[0, "method"] == "REML"


def test_random_effects_table_lists_correlations_of_wide_terms(frames):
    fit = ms.lmer("score ~ Machine + (0 + Machine | Worker)", frames("Machines")).fit()
    lines = str(fit.summary()).splitlines()
    start = next(i for i, line in enumerate(lines) if "Std.Dev." in line)
    numbers = [re.findall(r"-?\d+\.\d+", line) for line in lines[start + 2 : start + 6]]
    assert [len(n) for n in numbers] == [2, 3, 4, 2]
    corr = fit.varcorr["sdcor"][3:6].to_numpy()
    np.testing.assert_allclose([float(numbers[1][2]), *map(float, numbers[2][2:])], corr, atol=0.00501)


def test_results_read_as_frames(result):
    assert isinstance(result.params, pd.Series)
    assert list(result.conf_int().index) == ["Intercept", "Days"]
    assert list(result.cov_params().columns) == ["Intercept", "Days"]
    assert result.random_effects["Subject"].index.name == "Subject"


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_maketables_reads_results_as_they_are():
    maketables = pytest.importorskip("maketables")
    sleep = ms.datasets.load_sleepstudy()
    result = ms.lmer("Reaction ~ Days + (1 | Subject)", sleep).fit()
    robust = result.get_robustcov_results("CR2", groups="Subject")
    for fit in (result, robust):
        extractor = maketables.get_extractor(fit)
        table = extractor.coef_table(fit)
        np.testing.assert_allclose(table["b"], fit.params, rtol=1e-12)
        np.testing.assert_allclose(table["se"], fit.bse, rtol=1e-12)
        assert extractor.stat(fit, "N") == 180
    text = maketables.ETable([result, robust]).make(type="tex")
    assert "10.467" in text
    assert "0.804" in text
    assert "1.546" in text
