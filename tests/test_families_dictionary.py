"""The dictionary's rows for glmmTMB and ordinal: what is written there gives R's numbers.

``reference/dictionary_families.R`` made those of glmmTMB; those of ordinal are a case of ``reference/families``.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_families import CASES, fitted, frame_of

import mvmise_sm as ms

REFERENCE = Path(__file__).parent / "reference"
R = json.loads((REFERENCE / "dictionary_families.json").read_text(encoding="utf-8"))
DICTIONARY = Path(__file__).parents[1] / "docs" / "from_r" / "index.rst"

# R's number -> what the dictionary says instead; glmmTMB stops up to 1e-5 beside the optimum
ENTRIES = {
    "cond": "zip.fe_params",
    "zi": "zip.params_zi",
    "se_zi": "zip.bse_zi",
    "logLik": "zip.llf",
    "AIC": "zip.aic",
    "BIC": "zip.bic",
    "sd": 'zip.varcorr["sdcor"]',
    "ranef": 'zip.random_effects["site"].iloc[:, 0]',
    "response": "zip.predict()",
    "conditional": 'zip.predict(which="conditional")',
    "zprob": 'zip.predict(which="zero")',
    "link": 'zip.predict(which="linear")',
    "pearson": "zip.resid_pearson",
    "disp": "modelled.params_disp",
    "se_disp": "modelled.bse_disp",
    "disp_rows": 'modelled.predict(which="dispersion")',
    "sigma": "plain.dispersion",
    "fitted": "plain.fittedvalues",
    "hurdle_logLik": "hurdle.llf",
    "hurdle_conditional": 'hurdle.predict(which="conditional")',
    "hurdle_response": "hurdle.predict()",
    "hurdle_mu": 'hurdle.predict(which="linear")',
    "gamma_sigma": "gamma.dispersion ** -0.5",
    "gauss_disp": "2.0 * normal.params_disp",
    "gauss_logLik": "normal.llf",
}


@pytest.fixture(scope="module")
def fits():
    data = frame_of("Salamanders")
    data["mined"] = pd.Categorical(data["mined"].astype(str), categories=["yes", "no"])
    data["site"] = data["site"].astype(str)
    formula = "count ~ mined + (1 | site)"
    models = {
        "zip": ms.glmer(formula, data, family="poisson", zero_inflation="~ mined"),
        "modelled": ms.glmer(formula, data, family="nb2", dispersion="~ DOY"),
        "plain": ms.glmer(formula, data, family="nb2"),
        "hurdle": ms.glmer(formula, data, family="truncated_nb2", zero_inflation="~ mined"),
        "gamma": ms.glmer("I(count + 0.5) ~ mined + (1 | site)", data, family="gamma(log)"),
    }
    normal = ms.lmer("log(count + 1) ~ mined + (1 | site)", data, dispersion="~ DOY").fit(reml=False)
    return {"normal": normal, **{name: model.fit() for name, model in models.items()}}


@pytest.mark.parametrize("entry", ENTRIES)
def test_entries_for_glmmtmb_have_equal_numbers(fits, entry):
    found = np.atleast_1d(eval(ENTRIES[entry], dict(fits)))  # the text is the test
    right = np.array(R[entry])
    np.testing.assert_allclose(found[: right.size], right, rtol=2e-5, atol=2e-5 * np.abs(right).max())


def test_every_number_of_glmmtmb_has_an_entry():
    assert set(R) == set(ENTRIES)


def test_entries_for_ordinal_have_equal_numbers():
    case = CASES["wine_agq10"]
    fit, right = fitted(case), case["expected"]
    np.testing.assert_allclose(fit.llf, right["llf"], atol=1e-6)
    np.testing.assert_allclose(fit.fe_params, list(right["params"].values()), rtol=1e-4)
    np.testing.assert_allclose(fit.thresholds, list(right["thresholds"].values()), rtol=1e-4)
    np.testing.assert_allclose(fit.bse_thresholds, list(right["bse_thresholds"].values()), rtol=1e-3)


@pytest.mark.parametrize(
    "words",
    [
        "res.fe_params",
        "res.params_zi",
        "res.bse_zi",
        "res.params_disp",
        "res.dispersion",
        'predict(which="conditional")',
        '"zero"',
        '"dispersion"',
        "log sd, glmmTMB 1.1.5 has the log variance",
        "glmmTMB has its inverse root",
        "res.thresholds",
    ],
)
def test_the_page_says_what_is_tested(words):
    assert words in " ".join(DICTIONARY.read_text(encoding="utf-8").split())
