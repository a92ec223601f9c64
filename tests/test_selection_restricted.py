"""Restricted likelihood of the selection models."""

import numpy as np
import pandas as pd
import pytest

import mvmise_sm as ms
from mvmise_sm.exceptions import OptionError


def frame(K=2, missing=True, seed=1):
    rng = np.random.default_rng(seed)
    batch = np.repeat(np.arange(12), 4)
    x = rng.normal(size=48)
    Y = 5 + 0.5 * x[:, None] + 0.8 * rng.normal(size=(12, 1))[batch] + 0.5 * rng.normal(size=(48, K))
    if missing:
        for b in range(12):
            for k in range(K):
                if rng.random() < np.exp(min(0.0, 2.0 - 0.7 * Y[batch == b, k].mean())):
                    Y[batch == b, k] = np.nan
    return pd.DataFrame({"batch": batch, "x": x, **{f"y{k}": Y[:, k] for k in range(K)}})


@pytest.mark.parametrize("entry", [ms.mvmise_b, ms.mvmise_e])
def test_one_complete_outcome_is_lmer(entry):
    data = frame(1, missing=False)
    ours = entry("y0 ~ x + (1 | batch)", data).fit(reml=True)
    theirs = ms.lmer("y0 ~ x + (1 | batch)", data).fit()
    assert ours.converged
    assert ours.llf == pytest.approx(theirs.llf, abs=1e-6)
    assert ours.params.to_numpy() == pytest.approx(theirs.params.to_numpy(), abs=1e-5)
    sd = float(np.sqrt(np.asarray(ours.cov_re["batch"])[0, 0]))
    assert sd == pytest.approx(theirs.varcorr["sdcor"].iloc[0], rel=1e-3)


@pytest.mark.parametrize("entry", [ms.mvmise_b, ms.mvmise_e])
def test_variances_are_larger_than_by_maximum_likelihood(entry):
    model = entry("y0 + y1 ~ x + (1 | batch)", frame())
    restricted, ml = model.fit(reml=True), model.fit()
    assert restricted.converged
    assert restricted.restricted
    assert restricted.cov_re["batch"].to_numpy()[0, 0] > ml.cov_re["batch"].to_numpy()[0, 0]
    assert restricted.mechanism_test is None
    assert np.isfinite(restricted.bse).all()
    assert np.isfinite(restricted.bse_phi).all()
    assert "Factor" in str(restricted.summary()) or "Error" in str(restricted.summary())


def test_what_does_not_go_together():
    model = ms.mvmise_b("y0 + y1 ~ x + (1 | batch)", frame())
    with pytest.raises(OptionError, match="reml=True goes with"):
        model.fit(method="em", reml=True)
    with pytest.raises(OptionError, match="reml=False"):
        model.fit(reml=True).profile_interval()
