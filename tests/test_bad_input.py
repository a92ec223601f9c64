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
