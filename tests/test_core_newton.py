"""The optimiser: right optimum, certificate on the boundary, equivariance of the whole fit."""

from __future__ import annotations

import numpy as np
import pytest
from core_models import KINDS, factor, simulate, term
from oracle import DenseDeviance
from oracle import minimize as slow_minimize

from mvmise_sm.core.covariance.random_effects import GroupingFactor, RandomEffects
from mvmise_sm.core.covariance.structures import Diagonal, Unstructured
from mvmise_sm.core.criteria.linear import ProfiledDeviance
from mvmise_sm.core.criteria.solution import Evaluation
from mvmise_sm.core.elimination import layout
from mvmise_sm.core.optimise import newton
from mvmise_sm.core.optimise.newton import minimize


@pytest.mark.parametrize(("kind", "reml"), [("slope", True), ("crossed", False), ("nested", True)])
def test_optimum_is_not_above_the_oracle(kind, reml):
    y, X, random = simulate(kind, n=70)
    got = minimize(ProfiledDeviance(y, X, random, reml=reml))
    want = slow_minimize(DenseDeviance(y, X, random, reml=reml))
    assert got.converged
    assert got.value <= want.value + 1e-7
    assert got.value == pytest.approx(want.value, abs=1e-5)


@pytest.mark.parametrize("method", ["lbfgs", "slsqp", "tnc", "nm", "powell", "bobyqa"])
def test_other_optimisers_reach_the_same_point(method):
    y, X, random = simulate("slope", n=200)
    criterion = ProfiledDeviance(y, X, random)
    best, other = minimize(criterion), minimize(criterion, method=method)
    assert other.value == pytest.approx(best.value, abs=1e-5)
    np.testing.assert_allclose(other.theta, best.theta, atol=5e-3)


def test_unknown_method_is_refused():
    y, X, random = simulate("intercept", n=60)
    with pytest.raises(ValueError, match=r"method must be one of .*newton.*, got 'magic'"):
        minimize(ProfiledDeviance(y, X, random), method="magic")


def _small_design(seed):
    """A small design whose covariance is often estimated on the boundary, q = 2 or 3."""
    rng = np.random.default_rng(seed)
    q, levels, size = 2 + seed % 2, int(rng.integers(5, 12)), int(rng.integers(3, 7))
    g = np.repeat(np.arange(levels), size)
    x = rng.normal(size=(g.size, q - 1))
    b = rng.normal(size=(levels, q)) * rng.choice([0.0, 0.1, 0.5, 1.0], q)
    if rng.random() < 0.3:
        b[:, 1] = 0.7 * b[:, 0]
    y = 1.0 + 0.5 * x[:, 0] + b[g, 0] + (b[g, 1:] * x).sum(axis=1) + rng.normal(size=g.size)
    structure = Unstructured if rng.random() < 0.8 else Diagonal
    columns = [None, *(np.ascontiguousarray(c) for c in x.T)]
    random = RandomEffects([term(GroupingFactor("g", g, np.arange(levels)), columns, structure)])
    return ProfiledDeviance(y, np.column_stack([np.ones(g.size), x]), random, reml=bool(rng.integers(2)))


@pytest.mark.parametrize("block", range(8))
def test_small_singular_designs_reach_the_best_of_many_starts(block):
    """80 of the 400 designs of benchmarks/singular_designs.py."""
    for seed in range(block * 10, block * 10 + 10):
        criterion = _small_design(seed)
        found = minimize(criterion)
        assert found.converged
        rng = np.random.default_rng(seed)
        for _ in range(6):
            start = np.where(
                criterion.lower == 0.0,
                np.exp(rng.normal(-0.5, 1.0, criterion.k_theta)),
                rng.normal(0.0, 0.5, criterion.k_theta),
            )
            assert found.value <= minimize(criterion, start).value + 1e-6


@pytest.mark.parametrize("seed", [251, 425, 1007])
def test_a_second_start_that_leads_elsewhere_is_followed(seed):
    """Designs with two minima by 0.08 to 0.7 apart: the default start ends in the higher one."""
    criterion = _small_design(seed)
    first = minimize(criterion, criterion.start())
    wide = minimize(criterion, criterion.space.wide_start())
    assert wide.value < first.value - 0.05
    assert minimize(criterion).value == pytest.approx(wide.value, abs=1e-6)


def test_a_point_beside_a_known_minimum_has_the_height_that_its_shape_says():
    def at(theta, value):
        return Evaluation(np.array([theta, 0.0]), value, np.zeros(2), 2.0 * np.eye(2), ())

    known = at(0.0, 7.0)
    assert newton._leads_back(known, at(0.05, 7.0 + 0.05**2))
    assert not newton._leads_back(known, at(0.05, 7.0 + 2.0 * 0.05**2))
    assert not newton._leads_back(known, at(0.05, 7.0 - 0.05**2))
    assert not newton._leads_back(known, at(0.5, 7.0 + 0.5**2))


def test_singular_is_not_unconverged():
    rng = np.random.default_rng(3)
    g = np.repeat(np.arange(8), 6)
    y = rng.normal(size=g.size)
    y -= np.bincount(g, y)[g] / 6
    found = minimize(ProfiledDeviance(y, np.ones((g.size, 1)), RandomEffects([term(factor("g", g), [None])])))
    assert found.singular
    assert found.converged
    assert found.theta[0] == 0.0


def _fit(y, X, random, reml):
    criterion = ProfiledDeviance(y, X, random, reml=reml)
    optimum = minimize(criterion)
    return optimum, criterion.solve(optimum.theta)


@pytest.mark.parametrize("kind", ["slope", "three columns", "crossed slopes", "uncorrelated"])
@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("scale", [1e6, 1e-6])
def test_rescaling_a_covariate_rescales_the_fit(kind, reml, scale):
    y, X, random = simulate(kind)
    base, before = _fit(y, X, random, reml)
    scaled = X * [1.0, scale, 1.0]
    terms = [
        term(t.factor, [None if c is None else c * scale for c in t.columns], type(t.structure)) for t in random.terms
    ]
    other, after = _fit(y, scaled, RandomEffects(terms), reml)
    shift = 2.0 * np.log(scale) if reml else 0.0
    assert other.value - base.value == pytest.approx(shift, abs=1e-8)
    np.testing.assert_allclose(scaled @ after.beta, X @ before.beta, rtol=1e-7)
    np.testing.assert_allclose(RandomEffects(terms).linear(after.b), random.linear(before.b), atol=1e-6)


@pytest.mark.parametrize("kind", ["slope", "crossed"])
def test_rescaling_the_response_rescales_the_fit(kind):
    y, X, random = simulate(kind)
    base, before = _fit(y, X, random, True)
    other, after = _fit(y * 1e5, X, random, True)
    np.testing.assert_allclose(other.theta, base.theta, rtol=1e-7)
    np.testing.assert_allclose(after.beta, before.beta * 1e5, rtol=1e-8)
    np.testing.assert_allclose(after.sigma2, before.sigma2 * 1e10, rtol=1e-8)


@pytest.mark.parametrize("kind", ["slope", "three columns", "crossed slopes"])
def test_a_large_constant_costs_no_accuracy(kind):
    y, X, random = simulate(kind)
    base, before = _fit(y, X, random, True)
    offset = 1e6
    far = X + np.array([0.0, offset, 0.0])
    terms = []
    for t in random.terms:
        columns = [None if c is None else c + offset for c in t.columns]
        terms.append(term(t.factor, columns))
    other, after = _fit(y + offset, far, RandomEffects(terms), True)
    # every row is rounded to a multiple of this spacing, and moves the criterion by about as much
    rounding = y.size * np.spacing(offset)
    assert other.value == pytest.approx(base.value, rel=1e-12, abs=rounding)
    np.testing.assert_allclose(after.beta[1:], before.beta[1:], rtol=1e-6)
    assert after.sigma2 == pytest.approx(before.sigma2, rel=1e-7)
    np.testing.assert_allclose(
        far @ after.beta + RandomEffects(terms).linear(after.b) - offset,
        X @ before.beta + random.linear(before.b),
        atol=1e-7,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_order_of_rows_and_labels_of_levels_do_not_matter(kind, monkeypatch):
    monkeypatch.setattr(layout, "DENSE_LIMIT", 30)
    y, X, random = simulate(kind)
    base, before = _fit(y, X, random, False)
    rng = np.random.default_rng(4)
    order = rng.permutation(y.size)
    relabel = {id(f): rng.permutation(f.n_levels) for f in random.factors}
    factors = {id(f): GroupingFactor(f.name, relabel[id(f)][f.codes][order], f.levels) for f in random.factors}
    terms = [
        term(factors[id(t.factor)], [None if c is None else c[order] for c in t.columns], type(t.structure))
        for t in random.terms
    ]
    other, after = _fit(y[order], X[order], RandomEffects(terms), False)
    assert other.value == pytest.approx(base.value, abs=1e-7)
    np.testing.assert_allclose(after.beta, before.beta, rtol=1e-5, atol=1e-6)
    for t, mine, theirs in zip(random.terms, before.b, after.b, strict=True):
        np.testing.assert_allclose(theirs[relabel[id(t.factor)]], mine, atol=1e-4)


def test_warm_start_needs_fewer_evaluations():
    y, X, random = simulate("slope")
    criterion = ProfiledDeviance(y, X, random)
    cold = minimize(criterion)
    warm = minimize(criterion, cold.working)
    assert warm.retvals["n_evaluations"] <= 2 < cold.retvals["n_evaluations"]
    assert warm.value == pytest.approx(cold.value, abs=1e-8)
