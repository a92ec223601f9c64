"""The fast eliminations against the dense oracle, tier by tier."""

from __future__ import annotations

import numpy as np
import pytest
from core_models import KINDS, factor, simulate, term
from oracle import DenseDeviance

from mvmise_sm.core.covariance.coordinates import ResponseOrigin, fixed_basis
from mvmise_sm.core.covariance.random_effects import RandomEffects
from mvmise_sm.core.covariance.structures import Unstructured
from mvmise_sm.core.criteria.linear import ProfiledDeviance
from mvmise_sm.core.elimination import chain_structure, choose, layout, single_factor
from mvmise_sm.core.elimination.crossprod import cross_products
from mvmise_sm.core.elimination.kernels import PairKernel, PanelKernel, SparseKernel
from mvmise_sm.core.elimination.layout import Layout
from mvmise_sm.core.elimination.levels import relative_times

TIERS = ("dense", "structured", "pairs", "panels", "sparse rows", "sparse remainder")


@pytest.fixture(params=TIERS)
def tier(request, monkeypatch):
    """Force one elimination on models of any size."""
    if request.param != "dense":
        monkeypatch.setattr(layout, "DENSE_LIMIT", 0)
    if request.param == "sparse remainder":
        monkeypatch.setattr(choose, "_DENSE_REMAINDER", 0)
    kernels = {
        "pairs": lambda e, v, constant: PairKernel(e, v) if constant else SparseKernel(e),
        "panels": lambda e, v, constant: PanelKernel(e),
        "sparse rows": lambda e, v, constant: SparseKernel(e),
    }
    if request.param in kernels:
        monkeypatch.setattr(chain_structure, "choose_kernel", kernels[request.param])
    return request.param


@pytest.mark.parametrize("kind", KINDS)
def test_solution_and_gradient_equal_the_oracle(kind, tier):
    if tier in TIERS[2:] and "cross" not in kind:
        pytest.skip("no remainder in this model")
    rng = np.random.default_rng(5)
    y, X, random = simulate(kind)
    # where derivatives of log|M| come from differences of the factorisation
    rtol = 1e-5 if tier == "sparse remainder" else 1e-6
    for reml, weighted, boundary in [
        (True, False, False),
        (False, True, False),
        (True, True, True),
        (False, False, True),
    ]:
        weights = rng.uniform(0.5, 2.0, y.size) if weighted else None
        offset = rng.normal(size=y.size) if weighted else None
        theta = rng.uniform(0.3, 1.0, random.k_theta)
        if boundary:
            theta[-1] = 0.0
        fast = ProfiledDeviance(y, X, random, reml=reml, weights=weights, offset=offset)
        slow = DenseDeviance(y, X, random, reml=reml, weights=weights, offset=offset)
        want, got = slow.solve(theta), fast.solve(theta)
        np.testing.assert_allclose(fast(theta), want.criterion, rtol=1e-11)
        np.testing.assert_allclose(got.criterion, want.criterion, rtol=1e-11)
        np.testing.assert_allclose(got.beta, want.beta, rtol=1e-8)
        np.testing.assert_allclose(got.cov_beta, want.cov_beta, rtol=1e-8, atol=1e-12)
        np.testing.assert_allclose(
            [got.sigma2, got.r2, got.logdet_m], [want.sigma2, want.r2, want.logdet_m - np.log(1.0)], rtol=1e-9
        )
        np.testing.assert_allclose(got.logdet_x, want.logdet_x, rtol=1e-9)
        for b, expected in zip(got.b, want.b, strict=True):
            np.testing.assert_allclose(b, expected, atol=1e-9)
        slope = slow.gradient(theta)
        np.testing.assert_allclose(fast.gradient(theta), slope, rtol=rtol, atol=rtol * max(10.0, np.abs(slope).max()))


@pytest.mark.parametrize("kind", KINDS)
def test_conditional_and_prediction_variances_equal_the_oracle(kind, tier):
    rng = np.random.default_rng(6)
    y, X, random = simulate(kind)
    theta = rng.uniform(0.3, 1.0, random.k_theta)
    fast, slow = ProfiledDeviance(y, X, random), DenseDeviance(y, X, random)
    for got, want in zip(fast.conditional_cov(theta), slow.conditional_cov(theta), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-10)
    exog = rng.normal(size=(7, X.shape[1]))
    codes = {f.name: rng.integers(-1, f.n_levels, 7) for f in random.factors}
    rows = [(codes[t.factor.name], rng.normal(size=(7, t.q))) for t in random.terms]
    np.testing.assert_allclose(
        fast.prediction_variance(theta, exog, rows), slow.prediction_variance(theta, exog, rows), rtol=1e-8
    )


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "two terms"])
def test_average_information_equals_its_definition(kind, tier):
    """A_st = y'P V_s P V_t P y and b_t = y'P V_t P y, with V_t by differences (V is quadratic in theta, so these are
    exact)."""
    if tier == "sparse remainder":
        pytest.skip("same code as the dense remainder")
    y, X, random = simulate(kind)
    criterion, slow = ProfiledDeviance(y, X, random), DenseDeviance(y, X, random)
    theta = criterion.start()
    inverse = np.linalg.inv(slow.covariance(criterion.user_theta(theta)))
    p = inverse - inverse @ X @ np.linalg.solve(X.T @ inverse @ X, X.T @ inverse)
    py = p @ y
    changes = []
    for i in range(theta.size):
        step = np.zeros(theta.size)
        step[i] = 0.01
        up, down = (slow.covariance(criterion.user_theta(theta + s)) for s in (step, -step))
        changes.append((up - down) / 0.02 @ py)
    want_a, want_b = np.array(changes) @ p @ np.array(changes).T, np.array(changes) @ py
    factorization, stage, _, _ = criterion.eliminated(theta)
    directions = []
    for t, structure in enumerate(criterion.space.structures):
        place = next(k for k, f in enumerate(criterion.layout.factors) if t in f.terms)
        lam = structure.factor(theta[random.theta_slices[t]])
        directions += [(place, d @ lam.T + lam @ d.T) for d in structure.tangents(theta[random.theta_slices[t]])]
    a, b = factorization.information(directions, np.append(-stage.beta, 1.0), stage.cov_beta)
    np.testing.assert_allclose(a, want_a, rtol=1e-6, atol=1e-6 * np.abs(want_a).max())
    np.testing.assert_allclose(b, want_b, rtol=1e-6, atol=1e-6 * np.abs(want_b).max())


def test_pieces_of_the_data_add_up():
    y, X, random = simulate("chain crossed slopes")
    basis, plan = fixed_basis(X), Layout(random)
    origin = ResponseOrigin(X, basis)(y)
    whole = cross_products(plan, basis, X, y, origin)
    parts = [cross_products(plan, basis, X, y, origin, rows=r) for r in ((0, 100), (100, 101), (101, y.size))]
    total = parts[0] + parts[1] + parts[2]
    np.testing.assert_allclose(total.gram, whole.gram, rtol=1e-12, atol=1e-10)
    for mine, theirs in zip(total.own + total.rhs, whole.own + whole.rhs, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-10)
    for key, value in whole.cross.items():
        np.testing.assert_allclose(total.cross[key], value, atol=1e-10)


@pytest.mark.parametrize("columns", ["intercept", "balanced slope"])
def test_merged_levels_change_nothing(monkeypatch, columns):
    monkeypatch.setattr(layout, "DENSE_LIMIT", 0)
    rng = np.random.default_rng(2)
    g = np.repeat(np.arange(60), 5)
    x = np.tile(np.arange(5.0), 60)
    random = RandomEffects([term(factor("g", g), [None] if columns == "intercept" else [None, x])])
    X = np.column_stack([np.ones(g.size), x])
    y = rng.normal(size=60)[g] + rng.normal(size=g.size)
    theta = np.array([0.8, 0.1, 0.4])[: random.k_theta]
    with_classes = ProfiledDeviance(y, X, random)
    assert with_classes.system.moments is not None
    monkeypatch.setattr(single_factor, "_classes", lambda own, width: None)
    without = ProfiledDeviance(y, X, random)
    one, two = with_classes.evaluate(theta), without.evaluate(theta)
    assert one.value == pytest.approx(two.value, rel=1e-12)
    np.testing.assert_allclose(one.gradient, two.gradient, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(one.information, two.information, rtol=1e-9)
    np.testing.assert_allclose(with_classes.solve(theta).b[0], without.solve(theta).b[0], atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_refit_equals_a_new_criterion(kind, tier):
    y, X, random = simulate(kind)
    other = simulate(kind, seed=8)[0]
    weights = np.random.default_rng(0).uniform(0.5, 2.0, y.size)
    theta = np.full(random.k_theta, 0.5)
    fresh = ProfiledDeviance(other, X, random, weights=weights, offset=y)
    again = ProfiledDeviance(y, X, random, weights=weights, offset=y).refitted(other)
    assert again(theta) == pytest.approx(fresh(theta), rel=1e-12)
    np.testing.assert_allclose(again.solve(theta).beta, fresh.solve(theta).beta, rtol=1e-8, atol=1e-10)
    assert again.with_reml(False)(theta) == pytest.approx(
        ProfiledDeviance(other, X, random, weights=weights, offset=y, reml=False)(theta), rel=1e-12
    )


def test_small_model_with_many_rows_uses_sums(monkeypatch):
    from mvmise_sm.core.elimination import dense

    y, X, random = simulate("crossed slopes")
    theta = np.full(random.k_theta, 0.4)
    rows = ProfiledDeviance(y, X, random)
    monkeypatch.setattr(dense, "_DIRECT_CELLS", 0)
    sums = ProfiledDeviance(y, X, random)
    assert sums.system.design is None
    assert sums(theta) == pytest.approx(rows(theta), rel=1e-12)
    assert sums.refitted(y + 1.0)(theta) == pytest.approx(rows.refitted(y + 1.0)(theta), rel=1e-12)


def test_order_of_the_columns_is_a_parametrisation_only():
    sigma = np.array([[1.0, 0.3, 0.1], [0.3, 2.0, -0.4], [0.1, -0.4, 0.5]])
    plain = Unstructured(3)
    pivoted = plain.ordered_by([0.1, 2.0, 0.5])
    assert pivoted.order == (1, 2, 0)
    for structure in (plain, pivoted):
        lam = structure.factor(structure.theta_from(sigma))
        np.testing.assert_allclose(lam @ lam.T, sigma, rtol=1e-12)


def test_elimination_follows_the_fill(monkeypatch):
    """Neighbours that meet locally are solved sparsely, the same number that meet at random densely."""
    rng = np.random.default_rng(1)
    first = np.repeat(np.arange(3000), 2)
    local = np.clip(first // 2 + rng.integers(-4, 5, first.size), 0, 1499)
    kinds = []
    for second in (local, rng.permutation(local)):
        random = RandomEffects([term(factor("a", first), [None]), term(factor("b", second), [None])])
        kinds.append(choose.remainder_kind(Layout(random)))
    assert kinds == ["sparse", "dense"]


def test_no_fixed_effects():
    y, _, random = simulate("crossed")
    none = np.zeros((y.size, 0))
    theta = np.array([0.4, 0.7])
    for reml in (True, False):
        fast, slow = ProfiledDeviance(y, none, random, reml=reml), DenseDeviance(y, none, random, reml=reml)
        assert fast(theta) == pytest.approx(slow(theta), rel=1e-10)
        np.testing.assert_allclose(fast.gradient(theta), slow.gradient(theta), rtol=1e-5, atol=1e-5)


def test_a_problem_that_fits_no_tier_is_refused_with_its_size(monkeypatch):
    monkeypatch.setattr(layout, "DENSE_LIMIT", 0)
    monkeypatch.setattr(choose, "_DENSE_REMAINDER", 5)
    monkeypatch.setattr(choose, "_SPARSE_FACTOR", 10)
    y, X, random = simulate("crossed")
    with pytest.raises(choose.ProblemTooLargeError, match=r"21 in all \(a 12, b 9\), of which 9 remain"):
        ProfiledDeviance(y, X, random)


@pytest.mark.parametrize("transpose", [False, True])
def test_relative_factors_multiply_in_any_memory_order(transpose):
    rng = np.random.default_rng(4)
    places, lambdas = [(0, 2, 3), (6, 1, 4)], [np.tril(rng.normal(size=(2, 2))), rng.normal(size=(1, 1))]
    dense = np.zeros((10, 10))
    dense[:6, :6], dense[6:, 6:] = np.kron(lambdas[0], np.eye(3)), lambdas[1] * np.eye(4)
    rows = rng.normal(size=(10, 5))
    expected = (dense.T if transpose else dense) @ rows
    for ordered in (rows, np.asfortranarray(rows)):
        found = relative_times(places, lambdas, ordered, transpose=transpose)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)
