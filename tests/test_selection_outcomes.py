"""A selection model's design serves features with any number of outcomes."""

import numpy as np
import pandas as pd
import pytest

import mvmise_sm as ms
from mvmise_sm.exceptions import DataError


def frame(seed=0, K=4):
    rng = np.random.default_rng(seed)
    batch = np.repeat(np.arange(10), 4)
    x = rng.normal(size=40)
    data = pd.DataFrame({"batch": batch, "x": x, "z": rng.normal(size=40)})
    for k in range(K):
        y = 5.0 + k + 0.5 * x + rng.normal(size=10)[batch] + rng.normal(size=40)
        y[np.isin(batch, rng.integers(0, 10, 2))] = np.nan
        data[f"y{k}"] = y
    return data


@pytest.mark.parametrize("effects", [[], ["Intercept"], ["x"]])
@pytest.mark.parametrize("K", [1, 2, 4])
def test_other_numbers_of_outcomes(effects, K):
    data = frame()
    template = ms.mvmise_b("y0 + y1 + y2 ~ x + (1 | batch)", data, outcome_effects=effects)
    names = [f"y{k}" for k in range(K)]
    found = template.with_endog(data[names])
    options = {"outcome_effects": effects if K > 1 else []}
    direct = ms.mvmise_b(f"{' + '.join(names)} ~ x + (1 | batch)", data, **options)
    assert found.exog_names == direct.exog_names
    assert found.common_design == direct.common_design
    np.testing.assert_allclose(found.exog, direct.exog)
    theta = direct.objective().likelihood.start()
    assert found.loglike(theta) == pytest.approx(direct.loglike(theta), rel=1e-12)
    assert found.design.terms == direct.design.terms


def test_priors_and_covariates_follow_the_number_of_outcomes():
    data = frame()
    options = {"outcome_effects": ["Intercept"], "fixef_prior": ms.priors.Normal(sd=3.0), "missing_cov": "z"}
    template = ms.mvmise_b("y0 + y1 ~ x + (1 | batch)", data, **options)
    names = ["y0", "y1", "y2"]
    found = template.with_endog(data[names])
    direct = ms.mvmise_b("y0 + y1 + y2 ~ x + (1 | batch)", data, **options)
    theta = direct.objective().likelihood.start()
    assert found.objective()(theta)[0] == pytest.approx(direct.objective()(theta)[0])


def test_what_is_given_by_outcome_keeps_its_number():
    data = frame()
    model = ms.mvmise_b("y0 + y1 ~ x + (1 | batch)", data, missing_cov=["x", "z"])
    with pytest.raises(DataError, match="2 outcomes and cannot be used for 3"):
        model.with_endog(data[["y0", "y1", "y2"]])
