"""Crossed factors whose log-determinant is estimated: every number beside that of the exact elimination."""

import pickle
import tracemalloc

import numpy as np
import pandas as pd
import pytest

import mvmise_sm as ms
from mvmise_sm.core.elimination import choose
from mvmise_sm.core.elimination.chain import ChainSystem
from mvmise_sm.core.elimination.conjugate import conjugate_gradients
from mvmise_sm.core.elimination.krylov import Probes
from mvmise_sm.core.optimise import estimated
from mvmise_sm.exceptions import ConvergenceWarning, NotAvailableError, OptionError, ProblemTooLargeError
from mvmise_sm.models import log_determinant

FORMULA = "y ~ x + (1 | user) + (1 | item)"


def ratings(n=2400, seed=1, levels=(160, 140)):
    rng = np.random.default_rng(seed)
    user, item = rng.integers(0, levels[0], n), rng.integers(0, levels[1], n)
    x = rng.normal(size=n)
    y = 3 + 0.2 * x + rng.normal(0, 0.6, levels[0])[user] + rng.normal(0, 0.5, levels[1])[item] + rng.normal(size=n)
    return pd.DataFrame({"y": y, "x": x, "user": user, "item": item, "area": user // 9, "day": rng.integers(0, 40, n)})


@pytest.fixture(scope="module")
def frame():
    return ratings()


@pytest.fixture(scope="module")
def exact(frame):
    return ms.lmer(FORMULA, frame).fit(logdet="exact")


@pytest.fixture(scope="module")
def fit(frame):
    return ms.lmer(FORMULA, frame).fit(logdet="stochastic")


def test_quadrature_of_conjugate_gradients_is_exact_once_they_have_ended():
    rng = np.random.default_rng(3)
    root = rng.normal(size=(12, 12))
    a = np.eye(12) + root @ root.T / 12
    b = rng.normal(size=(12, 5))
    run = conjugate_gradients(lambda v: a @ v, b, 1e-13, 100, panel=2)
    values, vectors = np.linalg.eigh(a)
    log_a = (vectors * np.log(values)) @ vectors.T
    assert run.converged
    np.testing.assert_allclose(run.x, np.linalg.solve(a, b), rtol=0, atol=1e-10)
    np.testing.assert_allclose(run.quadrature(np.log), np.einsum("ij,ik,kj->j", b, log_a, b), rtol=1e-9)
    assert not conjugate_gradients(lambda v: a @ v, b, 1e-13, 2).converged


@pytest.mark.parametrize(
    ("formula", "theta"),
    [
        (FORMULA, [0.6, 0.5]),
        (FORMULA, [0.6, 0.0]),
        ("y ~ x + (x | user) + (x | item)", [0.6, 0.1, 0.3, 0.5, -0.1, 0.2]),
        ("y ~ x + (x | user) + (1 | item) + (x | day)", [0.6, 0.1, 0.3, 0.5, 0.4, 0.1, 0.2]),
        ("y ~ x + (1 | user) + (1 | area) + (1 | item)", [0.6, 0.4, 0.5]),
    ],
    ids=["intercepts", "zero", "slopes", "three factors", "nested chain"],
)
def test_log_determinant_and_traces_are_those_of_the_dense_elimination(frame, formula, theta):
    criterion = ms.lmer(formula, frame).criterion()
    lambdas = criterion.space.factors(criterion.working_theta(np.array(theta)))[0]
    dense = criterion.system.factorize(lambdas)
    system = ChainSystem(criterion.layout, criterion.system.products, "krylov", probes=Probes(50, 4, second=True))
    basis = system.factorize(lambdas).rest.deflated_basis(16, 4)
    found = system.with_probes(system.probes.deflating(basis)).factorize(lambdas)
    assert criterion.system.remainder == "dense"
    # linear in the response: exact
    np.testing.assert_allclose(found.gram, dense.gram, rtol=1e-8)
    xi = np.array([0.3, -0.2, 1.0])
    for a, b in zip(found.scores(xi), dense.scores(xi), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-8 * np.abs(b).max())
    # estimated: within the error that goes with it
    assert abs(found.logdet - dense.logdet) <= found.rest.logdet_error + 1e-9
    assert found.rest.logdet_error < 0.1
    for a, b, rest in zip(found.traces(), dense.traces(), found.estimated[1], strict=True):
        error = np.sqrt(np.square(rest).sum(axis=0) / (len(rest) * (len(rest) - 3)))
        assert (np.abs(a - b) <= 5.0 * error + 1e-7 * np.abs(b).max()).all()
        assert (error <= 0.01 * np.abs(b).max()).all()


def test_estimates_lie_next_to_the_exact_ones(exact, fit):
    assert abs(fit.criterion - exact.criterion) <= fit.criterion_error < 0.01
    assert exact.criterion_error == 0.0
    information = exact.deviance_function().evaluate(exact.optimum).information
    se = np.sqrt(2.0 * np.linalg.inv(information).diagonal())
    assert (np.abs(fit.optimum - exact.optimum) < 0.02 * se).all()
    assert (np.abs(fit.theta - exact.theta) <= 6.0 * fit.mle_retvals["mc_se"]).all()
    np.testing.assert_allclose(fit.params, exact.params, rtol=1e-5)
    np.testing.assert_allclose(fit.bse, exact.bse, rtol=1e-4)
    np.testing.assert_allclose(fit.random_effects["item"], exact.random_effects["item"], atol=1e-4)
    assert (fit.mle_retvals["mc_se_params"] < 1e-3 * exact.bse).all()
    assert "stochastic, 50 probes; criterion +- " in fit.summary().as_text()
    assert "stochastic" not in exact.summary().as_text()


def test_the_error_covers_for_most_seeds(frame, exact):
    covered = 0
    criterion = ms.lmer(FORMULA, frame).criterion()
    for seed in range(25):
        sharp = criterion.certified(exact.optimum, Probes(20, seed))
        factorization = sharp.eliminated(exact.optimum)[0]
        covered += abs(sharp.value(exact.optimum) - exact.criterion) <= factorization.rest.logdet_error
    assert covered >= 24


def test_the_same_rng_gives_the_same_fit(frame, fit):
    again = ms.lmer(FORMULA, frame).fit(logdet="stochastic", rng=0)
    assert again.criterion == fit.criterion
    assert np.array_equal(again.theta, fit.theta)
    drawn = [ms.lmer(FORMULA, frame).fit(logdet="stochastic", rng=np.random.default_rng(7)) for _ in range(2)]
    assert drawn[0].criterion == drawn[1].criterion != fit.criterion
    assert ms.lmer(FORMULA, frame).fit(logdet="stochastic", rng=np.random.RandomState(1), probes=10).converged


def test_what_follows_from_a_fit(frame, exact, fit):
    rows = frame.iloc[:3].assign(user=[0, 0, 10**6])
    for given in ({"exog": frame.iloc[:4]}, {"exog": rows, "allow_new_levels": True}):
        ours, theirs = fit.get_prediction(**given), exact.get_prediction(**given)
        np.testing.assert_allclose(ours.se_mean, theirs.se_mean, rtol=1e-4)
    ours, theirs = (r.t_test("x = 0", ddf="satterthwaite").df_denom for r in (fit, exact))
    np.testing.assert_allclose(ours, theirs, rtol=1e-3)
    moved = fit.refit(frame["y"] + 1.0)
    np.testing.assert_allclose(moved.params, fit.params + np.array([1.0, 0.0]), rtol=0, atol=1e-5)
    assert moved.criterion_error > 0.0
    again = pickle.loads(pickle.dumps(fit))
    assert abs(again.deviance_function()(fit.theta) - exact.criterion) <= fit.criterion_error
    np.testing.assert_allclose(
        fit.conf_int(method="profile", params=["sd_Intercept|user"]),
        exact.conf_int(method="profile", params=["sd_Intercept|user"]),
        rtol=1e-4,
    )
    with pytest.raises(NotAvailableError, match="stochastic log-determinant does not form"):
        _ = fit.random_effects_cov
    with pytest.raises(NotAvailableError, match="take ddf='satterthwaite'"):
        fit.t_test("x = 0", ddf="kenward-roger")


def test_too_many_effects_are_estimated_unless_exact_is_asked_for(frame, exact, monkeypatch):
    monkeypatch.setattr(choose, "_DENSE_REMAINDER", 10)
    monkeypatch.setattr(choose, "_SPARSE_FACTOR", 0)
    assert ms.lmer(FORMULA, frame).fit().criterion_error > 0.0
    with pytest.raises(ProblemTooLargeError, match=r"300 in all \(user 160, item 140\)"):
        ms.lmer(FORMULA, frame).fit(logdet="exact")
    frame = frame.assign(z=(frame["y"] > 3).astype(float))
    with pytest.raises(ProblemTooLargeError, match="too many for an exact fit"):
        ms.glmer("z ~ x + (1 | user) + (1 | item)", frame, family="binomial").fit()


def test_the_dense_block_is_held_once():
    frame = ratings(12_000, levels=(1_700, 1_600))
    criterion = ms.lmer(FORMULA, frame).criterion()
    system = criterion.system
    lambdas = criterion.space.factors(np.array([0.6, 0.5]))[0]
    assert system.remainder == "dense"
    tracemalloc.start()
    try:
        system.factorize(lambdas).derivatives(np.eye(3))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.5 * 8 * system.structure.n_rest**2


def test_an_exact_fit_of_many_levels_starts_next_to_its_optimum(frame, exact, monkeypatch):
    monkeypatch.setattr(log_determinant, "_WORTH_START", 100)
    near = ms.lmer(FORMULA, frame).fit()
    assert near.mle_retvals["n_evaluations"] <= 2 < exact.mle_retvals["n_evaluations"]
    assert near.criterion_error == 0.0
    np.testing.assert_allclose(near.criterion, exact.criterion, rtol=0, atol=1e-7)
    np.testing.assert_allclose(near.theta, exact.theta, rtol=1e-6)


def test_too_little_memory_ends_in_a_sentence_with_the_size(frame, monkeypatch):
    def too_large(*args, **kwargs):
        return np.empty((2**22, 2**30))

    monkeypatch.setattr(ms.LinearMixedModel, "criterion", too_large)
    with pytest.raises(ProblemTooLargeError, match=r"fit needs more memory than there is: at least \d+\.\d+ GB in all"):
        ms.lmer(FORMULA, frame).fit()


def test_a_design_that_cannot_be_certified_says_so(frame, monkeypatch):
    monkeypatch.setattr(estimated, "SHARE", 0.0)
    monkeypatch.setattr(estimated, "_MOST_PROBES", 20)
    with pytest.warns(ConvergenceWarning, match="cannot certify this design: with 20 probes theta is known to"):
        result = ms.lmer(FORMULA, frame).fit(logdet="stochastic", probes=10)
    assert result.mle_retvals["probes"] == 20
    monkeypatch.setattr(estimated, "SHARE", 1.0)
    monkeypatch.setattr(estimated, "WIDTH", 0.0)
    with pytest.warns(ConvergenceWarning, match="with 20 probes the criterion is known to"):
        ms.lmer(FORMULA, frame).fit(logdet="stochastic", probes=20)


def test_models_without_a_remainder_are_exact(frame):
    one = ms.lmer("y ~ x + (1 | user)", frame)
    assert one.fit(logdet="stochastic").criterion == one.fit().criterion
    assert one.fit(logdet="stochastic").criterion_error == 0.0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"logdet": "slq"}, "logdet must be one of 'auto', 'exact', 'stochastic', got 'slq'"),
        ({"probes": 3}, "probes must be an integer from 10 to 10,000, got 3"),
        ({"rng": "a"}, "rng must be a seed .* or a Generator, got 'a'"),
        ({"logdet": "stochastic", "method": "lbfgs"}, "fitted by method='newton', got 'lbfgs'"),
    ],
)
def test_bad_options_have_sentences(frame, options, sentence):
    with pytest.raises(OptionError, match=sentence):
        ms.lmer(FORMULA, frame).fit(**options)


def test_priors_and_boundaries_are_those_of_the_exact_fit(frame):
    model = ms.lmer(FORMULA, frame, cov_prior="wishart")
    np.testing.assert_allclose(model.fit(logdet="stochastic").theta, model.fit().theta, rtol=1e-3)
    noise = frame.assign(y=np.random.default_rng(5).normal(size=len(frame)), item=frame["item"])
    model = ms.lmer(FORMULA, noise)
    with pytest.warns(ms.exceptions.SingularFitWarning):
        ours = model.fit(logdet="stochastic")
    with pytest.warns(ms.exceptions.SingularFitWarning):
        theirs = model.fit()
    assert ours.singular
    assert theirs.singular
    np.testing.assert_allclose(ours.theta, theirs.theta, atol=1e-3)


def test_tests_of_estimated_fits_carry_the_error(frame):
    """A p-value is given where the error of the statistic does not change it by a tenth; the heading has the error."""
    fits = [ms.lmer(f, frame).fit(reml=False, logdet="stochastic") for f in (FORMULA.replace("x", "1"), FORMULA)]
    small, large = (ms.lmer(f, frame).fit(reml=False, logdet="exact") for f in (FORMULA.replace("x", "1"), FORMULA))
    error = sum(fit.criterion_error for fit in fits)
    found, expected = ms.anova(*fits), ms.anova(small, large)
    assert abs(found["chisq"].iloc[1] - expected["chisq"].iloc[1]) < error
    assert np.isfinite(found["p_value"].iloc[1])
    for table in (found, fits[1].drop1()):
        assert f"chisq is known to +-{error:.2g}" in str(table)
    assert "estimated" not in str(expected)
    assert "the criteria are known to +-" in str(ms.compare(*fits))
    for fit in fits:
        fit._results.mle_retvals["criterion_error"] = 0.5
    assert np.isnan(ms.anova(*fits)["p_value"].iloc[1])
    assert np.isnan(fits[1].drop1()["p_value"].iloc[1])
