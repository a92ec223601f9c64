"""The optimum is the best one known: refits look twice, priors with several modes, starts are obeyed."""

import warnings

import numpy as np
import pandas as pd
import pytest

import mvmise_sm as ms
from mvmise_sm.exceptions import OptionError

pytestmark = pytest.mark.filterwarnings("ignore::mvmise_sm.exceptions.SingularFitWarning")


def clustered(seed, groups=10, size=8):
    rng = np.random.default_rng(seed)
    g = np.repeat(np.arange(groups), size)
    data = pd.DataFrame(rng.normal(size=(g.size, 3)), columns=list("abc")).assign(g=g)
    eta = data[list("abc")].to_numpy() @ np.array([1.2, 0.5, 0.0]) * rng.uniform(0.3, 1.5)
    eta += rng.normal(size=groups)[g]
    data["bin"] = rng.binomial(1, 1.0 / (1.0 + np.exp(-eta)))
    data["count"] = rng.poisson(np.exp(0.3 * eta))
    data["y"] = eta + rng.normal(size=g.size)
    return data


# --- refits


def test_refit_from_a_singular_start_is_as_good_as_a_fresh_fit():
    data = clustered(1, groups=8, size=4)
    rng = np.random.default_rng(0)
    start = ms.lmer("y ~ a + (a + b | g)", data.assign(y=rng.normal(size=32))).fit()
    assert start.singular
    for _ in range(25):
        y = data["a"] * rng.normal(size=8)[data["g"]] + rng.normal(size=8)[data["g"]] + 0.6 * rng.normal(size=32)
        again, fresh = start.refit(y), ms.lmer("y ~ a + (a + b | g)", data.assign(y=y)).fit()
        assert again.criterion <= fresh.criterion + 1e-6
        assert again.mle_retvals["second_start"] == (again.singular or again.mle_retvals["second_start"])


def test_resampling_reports_second_starts():
    data = clustered(1, groups=8, size=4).assign(y=np.random.default_rng(0).normal(size=32))
    for formula, options in (("y ~ a + (a | g)", {}), ("y ~ a + (1 | g) + (0 + b | g)", {"n_jobs": 1})):
        result = ms.lmer(formula, data).fit()
        draws = result.bootstrap(12, rng=1, **options)
        assert 0 < draws.n_restarted <= 12
    small, large = (ms.lmer(f"y ~ {x} + (1 | g)", data).fit(reml=False) for x in ("1", "a"))
    assert "needed a second start" in str(ms.anova(small, large, test="bootstrap", n=10, rng=1))


# --- priors with several modes


@pytest.mark.parametrize("seed", [0, 4, 8])
def test_horseshoe_ends_at_the_lowest_mode_that_any_start_finds(seed):
    model = ms.bglmer("bin ~ a + b + c + (1 | g)", clustered(seed), family="binomial", fixef_prior="horseshoe")
    best = model.fit().mle_retvals["fopt"]
    rng = np.random.default_rng(seed)
    others = [model.fit(start_params=2.0 * rng.normal(size=4)).mle_retvals["fopt"] for _ in range(5)]
    assert best <= min(others) + 1e-6
    assert max(others) > best - 1e-6


def test_heavy_tails_have_the_lower_of_two_modes():
    data = clustered(3)
    prior = ms.priors.StudentT(df=1, scale=0.05)
    model = ms.bglmer("bin ~ a + b + (1 | g)", data, family="binomial", fixef_prior=prior)
    best = model.fit().mle_retvals["fopt"]
    for start in ([0.0, 0.0, 0.0], [0.0, 2.0, 1.0], [0.5, 1.0, 0.0]):
        assert best <= model.fit(start_params=start).mle_retvals["fopt"] + 1e-6


# --- starts


def test_start_params_are_obeyed_or_refused():
    data = clustered(2)
    model = ms.glmer("bin ~ a + b + (1 | g)", data, family="binomial")
    plain = model.fit()
    again = model.fit(start_params=plain.params)
    np.testing.assert_allclose(again.llf, plain.llf, atol=1e-8)
    assert again.mle_retvals["n_iterations"] <= plain.mle_retvals["n_iterations"] + 2
    stopped = [
        _quiet(model.fit, start_params=s, maxiter=0).params.to_numpy() for s in ([0.0, 0.0, 0.0], [0.2, 0.9, -0.4])
    ]
    assert np.abs(stopped[0] - stopped[1]).max() > 0.1
    linear = ms.lmer("y ~ a + b + (1 | g)", data)
    for wrong in ([1.0], "two", [np.nan, 0.0, 0.0], 1):
        for other in (model, linear):
            with pytest.raises(OptionError, match="start_params must be 3"):
                other.fit(start_params=wrong)
    with pytest.raises(OptionError, match="profiled out"):
        model.fit(start_params=[0.0, 0.0, 0.0], nagq=0)


@pytest.mark.parametrize("family", ["poisson", "binomial"])
def test_starts_that_are_far_off(family):
    data = clustered(2)
    model = ms.glmer(("count" if family == "poisson" else "bin") + " ~ a + b + (1 | g)", data, family=family)
    for start in (1e3, 1e5, -1e6):
        assert _quiet(model.fit, start_theta=[start]).llf == pytest.approx(model.fit().llf, abs=1e-5)
    for other, start in ((model, 1e8), (model, 2.56e153), (ms.lmer("y ~ a + (1 | g)", data), 1e200)):
        with pytest.raises(OptionError, match=r"start_theta must be at most 1e\+\d+ in size, found"):
            other.fit(start_theta=[start])


def _quiet(function, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(**options)


# --- no fixed effects at all


@pytest.mark.parametrize(("response", "family"), [("count", "poisson"), ("bin", "binomial")])
def test_models_without_fixed_effects(response, family):
    data = clustered(5, groups=20, size=10)
    model = ms.glmer(f"{response} ~ 0 + (1 | g)", data, family=family)
    for nagq in (0, 1, 7):
        result = model.fit(nagq=nagq)
        assert result.converged
        assert len(result.params) == 0
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    y, g = data[response].to_numpy(), data["g"].to_numpy()

    def llf(theta):
        eta = theta * nodes
        if family == "poisson":
            rows = np.outer(y, eta) - np.exp(eta) - np.array([np.log(np.arange(1, v + 1)).sum() for v in y])[:, None]
        else:
            rows = np.outer(y, eta) - np.log1p(np.exp(eta))
        by_group = np.exp([rows[g == j].sum(axis=0) for j in range(20)]) @ weights / weights.sum()
        return float(np.log(by_group).sum())

    np.testing.assert_allclose(model.fit(nagq=25).llf, llf(model.fit(nagq=25).theta[0]), rtol=1e-6)
    result = model.fit()
    result.summary()
    assert len(result.tidy("all")) == 1
    assert result.anova().empty
    assert np.isfinite(result.predict(data)).all()


def test_linear_models_without_fixed_effects():
    result = ms.lmer("y ~ 0 + (1 | g)", clustered(5)).fit()
    assert result.anova().empty
    assert result.conf_int(method="profile").index.tolist() == ["sd_Intercept|g", "sigma"]
    result.summary()


# --- every optimiser


@pytest.mark.parametrize("method", ["lbfgs", "tnc", "slsqp", "nm"])
def test_optimisers_meet_linear_algebra_that_breaks_down(method):
    """A search that steps out of range has no value there and turns round."""
    data = clustered(7).assign(a=lambda d: 1e4 * d["a"])
    newton = _quiet(ms.lmer("y ~ a + (a | g)", data).fit)
    other = _quiet(ms.lmer("y ~ a + (a | g)", data).fit, method=method)
    assert other.criterion <= newton.criterion + 1e-3 or not other.converged


def test_em_of_model_b_leaves_the_lower_maximum():
    """Without effects of outcomes the usual start lies under a maximum at -165.66."""
    model = ms.mvmise_b(
        "P1_a + P1_b + P1_c ~ condition + (1 | batch)", ms.datasets.load_tmt("wide"), outcome_effects=[]
    )
    with pytest.warns(UserWarning, match="several maxima of similar height: -149.793"):
        result = model.fit(method="em")
    assert result.llf == pytest.approx(-149.7932, abs=1e-3)
