"""Everyday calls of lme4, lmerTest, pbkrtest, emmeans, broom.mixed and performance give the same numbers here.

The numbers are made by ``reference/everyday.R`` with R 4.2.2.
"""

import inspect
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import mvmise_sm as ms

R = json.loads((Path(__file__).parent / "reference" / "everyday.json").read_text(encoding="utf-8"))
PAGE = Path(__file__).parents[1] / "docs" / "from_r" / "everyday.rst"

# the page's rows: R's call -> what is typed here
TEXT = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
CALLS = dict(re.findall(r"^    \* - ``(.*)``\n      - ``(.*)``$", TEXT, re.MULTILINE))

pytestmark = pytest.mark.skipif(not TEXT, reason="the documentation is not part of an installed package")


def tolerance(code):
    """R's profiles are interpolated, its joint tests rounded to three digits, its Hessians of glmer differences."""
    if code.startswith("gm."):
        return 1e-4 if "predict" in code or "params" in code else 5e-3
    return 1e-4 if "profile" in code else 3e-3 if "joint_tests" in code else 1e-5


@pytest.fixture(scope="module")
def fits():
    sleepstudy = ms.datasets.load_sleepstudy()
    sleepstudy["half"] = np.where(sleepstudy["Subject"].astype(int) < 340, "early", "late")
    fm = ms.lmer("Reaction ~ Days + (Days | Subject)", sleepstudy).fit()
    cbpp = ms.datasets.load_cbpp()
    return {
        "ms": ms,
        "np": np,
        "fm": fm,
        "fl": fm.update(reml=False),
        "fm0": ms.lmer("Reaction ~ 1 + (Days | Subject)", sleepstudy).fit(),
        "fh": ms.lmer("Reaction ~ half * Days + (Days | Subject)", sleepstudy).fit(),
        "pm": ms.lmer("strength ~ cask + (1 | batch)", ms.datasets.load_pastes()).fit(),
        "gm": ms.glmer("cbind(incidence, size - incidence) ~ period + (1 | herd)", cbpp, family="binomial").fit(),
        "new": pd.DataFrame({"Days": [2, 12], "Subject": ["308", "999"]}),
        "L": np.eye(3)[1:],
    }


@pytest.mark.parametrize("call", CALLS)
def test_both_languages_print_the_same_numbers(fits, call):
    code = CALLS[call]
    ours = np.asarray(eval(code, dict(fits)), dtype=float)
    ours = ours.T.ravel() if ours.ndim == 2 else np.ravel(ours)  # R's numbers are by column
    np.testing.assert_allclose(ours, np.asarray(R[call], dtype=float), rtol=tolerance(code), atol=1e-10)


def test_the_page_has_a_row_for_every_number():
    assert set(CALLS) == set(R)


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        ("fm.fixef()", "here it is params"),
        ("fm.ranef()", "here it is random_effects"),
        ("fm.VarCorr()", "here it is varcorr"),
        ("fm.logLik", "here it is llf"),
        ("fm.confint()", "here it is conf_int()"),
        ("fm.emtrends('half')", "marginal_slopes"),
        ("gm.check_overdispersion()", "here it is overdispersion()"),
        ("pm.marginal_means('cask').summary()", "the table itself"),
        ("ms.emmeans(pm, 'cask')", "res.marginal_means()"),
        ("ms.lme", "residual="),
        ("fm.model.summary()", "a model is fitted first: .fit().summary"),
        ("fm.model.fixef()", "a model is fitted first, and then it is params"),
        ("fm.nonsense", "has no attribute 'nonsense'$"),
        ("fm._nonsense", "has no attribute '_nonsense'$"),
    ],
)
def test_words_of_r_are_answered_with_ours(fits, typed, answer):
    with pytest.raises(AttributeError, match=answer.replace("(", r"\(").replace(")", r"\)")):
        eval(typed, dict(fits))


def test_an_attribute_error_inside_a_property_keeps_its_sentence(fits):
    class Broken(type(fits["fm"].model)):
        @property
        def weather(self):
            return self.sunshine

    broken = Broken.__new__(Broken)
    with pytest.raises(AttributeError, match="sunshine"):
        _ = broken.weather


def test_adjustments_have_the_names_of_r(fits):
    means = fits["pm"].marginal_means("cask")
    np.testing.assert_array_equal(
        means.contrast("pairwise", adjust="BH")["p_value"], means.contrast("pairwise", adjust="fdr")["p_value"]
    )


@pytest.mark.parametrize("name", ["lmer", "blmer", "glmer"])
def test_help_shows_every_option(name):
    parameters = inspect.signature(getattr(ms, name)).parameters
    assert {"cov_prior", "fixef_prior", "resid_prior", "sd_prior", "cor_prior", "contrasts", "cov"} <= set(parameters)
    assert not any(p.kind is p.VAR_KEYWORD for p in parameters.values())
