"""The size of the Laplace error against exact integrals, and conditional modes that are not unique."""

import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import mvmise_sm as ms
from mvmise_sm.core.uncertainty import laplace_error as expansion
from mvmise_sm.core.uncertainty.higher_orders import can_average

FOLDER = Path(__file__).parent / "reference" / "families"
EXACT = {c["id"]: c for c in json.loads(gzip.decompress((FOLDER / "families.json.gz").read_bytes()))["cases"]}
EXACT = {name: case for name, case in EXACT.items() if case["engine"] == "exact"}


def fitted(case):
    options = {k: v for k, v in case["options"].items() if k != "nagq"}
    if options["family"] == "t":
        options["family"] = ms.families.StudentT(df=options.pop("df"))
    return ms.glmer(case["formula"], pd.read_csv(FOLDER / "small1.csv.gz"), **options).fit()


@pytest.mark.parametrize("name", EXACT)
def test_one_factor_against_the_exact_integral(name):
    case = EXACT[name]
    result, exact = fitted(case), case["expected"]
    found = result.laplace_error()
    at = {"Intercept": exact["params"]["Intercept"], "x": exact["params"]["x"]}
    at["sd_Intercept|g"] = exact["varcorr"][0]["sd"]
    if "params_zi" in exact:
        at["zi_Intercept"] = next(iter(exact["params_zi"].values()))
    if "sigma" in exact:
        at["dispersion"] = at["sigma"] = exact["sigma"]
        at["alpha"] = 1.0 / exact["sigma"]
    at = {name: value for name, value in at.items() if name in found.index}
    true = pd.Series(at) - found["estimate"]
    size = (found["shift"] / found["shift_se"]).abs()
    true_se = (true / size).dropna()
    largest = true_se.abs().idxmax()
    assert found.loc[largest, "shift_se"] == pytest.approx(true_se[largest], rel=0.2)
    if set(at) >= set(found.index):
        assert found["shift_se"].abs().max() == pytest.approx(abs(true_se[largest]), rel=0.2)
    assert found.llf == pytest.approx(exact["llf"], abs=0.02)


# largest shift in standard errors, and log-likelihood, where both factors are integrated over on a grid and the sum is
# maximised
CROSSED = {"zip": 0.0426, "nb2": 0.0547}


@pytest.mark.parametrize("name", CROSSED)
def test_crossed_factors_against_the_exact_integral(name):
    data = pd.read_csv(FOLDER / "crossed_small.csv.gz").query("case == @name")
    family = {"family": "poisson", "zero_inflation": "~ 1"} if name == "zip" else {"family": "nb2"}
    result = ms.glmer("y ~ x + (1 | g) + (1 | h)", data, **family).fit()
    found = result.laplace_error()
    assert found.loc["sd_Intercept|g", "shift_se"] == pytest.approx(CROSSED[name], rel=0.2)


def test_the_expansion_of_crossed_factors_is_near_the_average():
    data = pd.read_csv(FOLDER / "crossed_small.csv.gz").query("case == 'nb2'")
    result = ms.glmer("y ~ x + (1 | g) + (1 | h)", data, family="nb2").fit()
    criterion, x = result.deviance_function(), np.asarray(result.optimum, dtype=float)
    criterion.value(x)
    assert can_average(criterion)
    whole = expansion.missing_part(criterion, x, True)
    assert expansion.missing_part(criterion, x, False) == pytest.approx(whole, rel=0.35)


def test_a_second_mode_of_the_random_effects_is_left_for_the_higher_one():
    y = np.concatenate([[0.0, 0.1, 9.0], np.repeat(np.linspace(-6.0, 6.0, 7), 3) + np.tile([-0.1, 0.0, 0.1], 7)])
    data = pd.DataFrame({"y": y, "g": np.repeat(np.arange(8), 3)})
    model = ms.glmer("y ~ 1 + (1 | g)", data, family=ms.families.StudentT(df=2))
    result = model.fit()
    criterion, x = model.criterion(), np.asarray(result.optimum, dtype=float)
    best = criterion.value(x)
    lower = criterion.mode(x).terms.eta.copy()
    lower[:3] = 9.0
    criterion._eta, criterion._last = lower, None
    other = criterion.value(x)
    assert criterion.mode(x).terms.eta[0] > 8.0
    assert criterion.better_mode(x)
    assert criterion.value(x) == pytest.approx(best, abs=1e-8)
    assert other != pytest.approx(best, abs=1e-3)
    assert not criterion.better_mode(x)
