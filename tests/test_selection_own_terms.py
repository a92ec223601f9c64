"""Own batch effects of outcomes and effects of samples in model b, and compound symmetry in model e."""

from functools import cache

import numpy as np
import pandas as pd
import pytest
from scipy.stats import multivariate_normal
from selection_oracle import differences, simulated

import mvmise_sm as ms
from mvmise_sm.exceptions import DataWarning, OptionError, RandomEffectsError
from mvmise_sm.selection.build import ModelSpec
from mvmise_sm.selection.covariance import CompoundSymmetry, LogCholesky

BOTH = "(1 | batch) + (1 | batch:outcome) + (1 | sample)"


def point(likelihood, phi=(-1.2, -0.15)):
    theta = likelihood.start() + 0.1 * np.random.default_rng(1).normal(size=likelihood.size)
    theta[likelihood.slices["phi"]] = phi
    return theta


@pytest.mark.parametrize("mechanism", ["capped", "probit"])
@pytest.mark.parametrize("terms", [(True, True), (True, False), (False, True)])
def test_score_and_the_seen_outcomes_density(terms, mechanism):
    data = simulated(0, n_clusters=8, K=3, sporadic=True)
    spec = ModelSpec("b", mechanism, own_blocks=terms[0], samples=terms[1])
    likelihood = spec.likelihood(data)
    theta = point(likelihood)
    numeric = differences(lambda t: likelihood.value_and_score(t)[0], theta)
    np.testing.assert_allclose(likelihood.value_and_score(theta)[1], numeric, atol=1e-7)
    params, total = likelihood.params(theta), 0.0
    for c in range(data.n_clusters):
        rows = slice(data.starts[c], data.starts[c] + data.sizes[c])
        Y, n, K = data.Y[rows], data.sizes[c], 3
        V = np.kron(np.outer(params.tau, params.tau) + params.spread[0] ** 2 * np.eye(K), np.ones((n, n)))
        V += np.kron(np.ones((K, K)), params.spread[1] ** 2 * np.eye(n)) + params.sigma2[0] * np.eye(n * K)
        mean, seen = (data.X[rows] @ params.beta).T.ravel(), ~np.isnan(Y).T.ravel()
        if seen.any():
            total += multivariate_normal(mean[seen], V[np.ix_(seen, seen)]).logpdf(Y.T.ravel()[seen])
    assert likelihood.law(theta).log_density == pytest.approx(total, rel=1e-12)


def test_without_the_effects_it_is_model_b():
    data = simulated(3, n_clusters=8, K=3)
    wide = ModelSpec("b", own_blocks=True, samples=True).likelihood(data)
    theta = point(wide)
    for name in ("omega", "delta"):
        theta[wide.slices[name]] = 0.0
    kept = np.ones(wide.size, bool)
    kept[wide.slices["omega"]] = kept[wide.slices["delta"]] = False
    value, score = ModelSpec("b").likelihood(data).value_and_score(theta[kept])
    found = wide.value_and_score(theta)
    assert found[0] == pytest.approx(value, abs=1e-9)
    np.testing.assert_allclose(found[1][kept], score, atol=1e-8)


def test_two_dimensional_integral_by_sampling():
    data = simulated(5, n_clusters=4, K=3)
    likelihood = ModelSpec("b", "probit", own_blocks=True, samples=True).likelihood(data)
    theta = point(likelihood)
    law = likelihood.law(theta)
    found = likelihood.moments(law).log_missing
    rng, total = np.random.default_rng(0), 0.0
    params, units = law.params, likelihood.units
    for c in np.unique(units.cluster):
        u = rng.multivariate_normal(law.mean[c], law.cov[c], size=200_000)
        own, n, K = np.flatnonzero(units.cluster == c), data.sizes[c], 3
        probability = np.ones(len(u))
        for m in own:
            k = units.outcome[m]
            dbar = u[:, 1 + K : 1 + K + n].mean(axis=1)
            mean = units.x[m] @ params.beta + params.tau[k] * u[:, 0] + params.spread[1] * dbar
            sd = np.sqrt(params.spread[0] ** 2 + params.sigma2[0] / n)
            eta = params.phi[0] + params.phi[1] * (mean + sd * rng.normal(size=len(u)))
            probability *= likelihood.part.slots[0].mechanism.prob(eta)
        total += np.log(probability.mean())
    # simulation error of the logarithm of a mean over 200,000 draws, some clusters
    assert found == pytest.approx(total, abs=0.02)


@cache
def frame(missing=True, seed=3, n_b=12, n=6, K=5, omega=0.8, delta=0.3):
    rng = np.random.default_rng(seed)
    batch, cond = np.repeat(np.arange(n_b), n), np.tile([0.0, 1.0], n_b * n // 2)
    Y = 20 + rng.normal(size=K) + 0.4 * rng.normal(size=(n_b, 1))[batch] + omega * rng.normal(size=(n_b, K))[batch]
    Y = Y + delta * rng.normal(size=(n_b * n, 1)) + 0.2 * rng.normal(size=(n_b * n, K)) + 0.5 * cond[:, None]
    if missing:
        for b in range(n_b):
            for k in range(K):
                if rng.random() < np.exp(min(0.0, 8 - 0.5 * Y[batch == b, k].mean())):
                    Y[batch == b, k] = np.nan
    return pd.DataFrame({"batch": batch, "cond": cond, **{f"y{k}": Y[:, k] for k in range(K)}})


LEFT = " + ".join(f"y{k}" for k in range(5))


@pytest.fixture(scope="module")
def both():
    return ms.mvmise_b(f"{LEFT} ~ cond + {BOTH}", frame()).fit()


def test_the_effects_are_found_and_missing_terms_are_named(both):
    assert both.converged
    assert both.omega == pytest.approx(0.8, abs=0.2)
    assert both.delta == pytest.approx(0.3, abs=0.06)
    with pytest.warns(DataWarning) as caught:
        plain = ms.mvmise_b(f"{LEFT} ~ cond + (1 | batch)", frame()).fit()
    said = " ".join(str(w.message) for w in caught)
    assert "outcomes vary between batches on their own" in said
    assert "add (1 | batch:outcome) or normalise to a reference" in said
    assert "add (1 | sample), or standard errors are too small" in said
    assert both.llf > plain.llf + 50
    rows = both.varcorr.set_index("grp")["sdcor"]
    assert rows["batch:outcome"] == pytest.approx(both.omega)
    assert rows["sample"] == pytest.approx(both.delta)
    assert "omega" in str(both.summary())
    assert both.bse_omega > 0
    assert ms.anova(plain, both)["df"].iloc[-1] == 2
    assert both.predict_missing()["sd"].min() > both.omega * 0.5
    assert both.k_params == plain.k_params + 2


def test_it_equals_lmer_where_the_shared_effect_is_one_intercept():
    data = frame(missing=False)
    long = data.reset_index(names="sample").melt(["sample", "batch", "cond"], value_name="y", var_name="pep")
    theirs = ms.lmer("y ~ 0 + pep + cond + (1 | batch) + (1 | batch:pep) + (1 | sample)", long).fit(reml=False)
    model = ms.mvmise_b(f"{LEFT} ~ cond + {BOTH}", data, missing_y=False)
    sd = theirs.varcorr.set_index("grp")["sdcor"]
    likelihood = model.objective().likelihood
    start = likelihood.params(likelihood.start())
    from dataclasses import replace

    params = replace(
        start,
        beta=theirs.params.to_numpy(),
        tau=np.full(5, sd["batch"]),
        spread=np.array([sd["batch:pep"], sd["sample"]]),
        sigma2=np.array([theirs.scale]),
    )
    assert model.loglike(params) == pytest.approx(theirs.llf, abs=1e-7)
    assert model.fit().llf >= theirs.llf - 1e-6


def test_long_frames_and_arrays_have_the_same_terms(both):
    data = frame()
    long = data.assign(run=[f"r{i}" for i in range(len(data))]).melt(
        ["run", "batch", "cond"], value_name="y", var_name="pep"
    )
    for terms in (BOTH, "(1 | batch) + (1 | batch:pep) + (1 | run)"):
        res = ms.mvmise_b(f"y ~ cond + {terms}", long, outcome="pep", sample="run").fit()
        assert res.llf == pytest.approx(both.llf, abs=1e-6)
    again = both.refit(data[[f"y{k}" for k in range(5)]])
    assert again.llf == pytest.approx(both.llf, abs=1e-6)
    table = both.drop1()
    assert table.loc["cond", "chisq"] > 0


def test_what_does_not_go_together():
    with pytest.raises(OptionError, match="model e has the effects of samples"):
        ms.mvmise_e(f"{LEFT} ~ cond + {BOTH}", frame())
    with pytest.raises(OptionError, match="lmer_mnar"):
        ms.mvmise_b(f"{LEFT} ~ cond + {BOTH}", frame(), value_mechanism="logit")
    with pytest.raises(RandomEffectsError, match="intercepts only"):
        ms.mvmise_b(f"{LEFT} ~ cond + (1 | batch) + (cond | sample)", frame())
    with pytest.raises(OptionError, match="error_structure"):
        ms.mvmise_b(f"{LEFT} ~ cond + (1 | batch)", frame(), error_structure="cs")
    with pytest.raises(OptionError, match="knows no"):
        ms.mvmise_b(f"{LEFT} ~ cond + {BOTH}", frame()).fit(method="em")


def test_compound_symmetry_is_a_special_case_of_the_free_covariance():
    coordinates, free = CompoundSymmetry(4), LogCholesky(4)
    vector = np.array([-0.4, 0.9])
    covariance = coordinates.covariance(vector)
    np.testing.assert_allclose(coordinates.vector(covariance), vector)
    assert np.ptp(covariance[np.tril_indices(4, -1)]) < 1e-12
    slope = np.diag([1.0, 2.0, 0.5, 1.0]) + 0.3
    numeric = differences(lambda v: float((slope * coordinates.covariance(v)).sum()), vector)
    np.testing.assert_allclose(coordinates.gradient(vector, slope), numeric, rtol=1e-8)
    assert free.covariance(free.vector(covariance)) == pytest.approx(covariance)
    data = frame()
    cs = ms.mvmise_e(f"{LEFT} ~ cond + (1 | batch)", data, error_structure="cs").fit()
    whole = ms.mvmise_e(f"{LEFT} ~ cond + (1 | batch)", data).fit()
    assert cs.converged
    assert cs.llf <= whole.llf + 1e-6
    assert whole.k_params - cs.k_params == 5 * 6 / 2 - 2
    assert np.ptp(np.diag(cs.error_cov)) < 1e-12


@pytest.mark.parametrize("slope", [0.0, -0.4])
def test_gradient_with_missing_blocks_and_values_is_that_of_the_likelihood(slope):
    rng = np.random.default_rng(3)
    cluster, x = np.repeat(np.arange(6), 4), np.tile([0.0, 1.0], 12)
    Y = 6.0 + rng.normal(size=(6, 3))[cluster] + 0.4 * rng.normal(size=(24, 1)) + 0.3 * rng.normal(size=(24, 3))
    Y[cluster == 1, 0] = Y[cluster == 3, 2] = Y[cluster == 3, 1] = np.nan
    Y[rng.random(Y.shape) < 0.1] = np.nan
    data = pd.DataFrame(Y, columns=["y1", "y2", "y3"]).assign(x=x, g=cluster)
    model = ms.mvmise_b(f"y1 + y2 + y3 ~ x + {BOTH.replace('batch', 'g')}", data, missing_y=slope != 0.0)
    objective = model.objective()
    likelihood = objective.likelihood
    theta = likelihood.start()
    theta[likelihood.slices["delta"]] = 0.35
    if slope:
        theta[likelihood.slices["phi"]] = likelihood.part.feasible(theta[likelihood.slices["phi"]], slope, 1)
    step = 1e-5 * np.eye(theta.size)
    differences = [(objective(theta + e)[0] - objective(theta - e)[0]) / 2e-5 for e in step]
    np.testing.assert_allclose(objective(theta)[1], differences, rtol=1e-6, atol=1e-6)
