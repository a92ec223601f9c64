"""The short way for one grouping factor gives what the general code gives, and second derivatives are derivatives."""

from __future__ import annotations

import numpy as np
import pytest
from core_models import simulate

from mvmise_sm.core.criteria.linear import ProfiledDeviance
from mvmise_sm.core.criteria.one_factor import OneFactor

ONE_FACTOR = ("intercept", "slope", "three columns", "uncorrelated", "two terms")


def both(kind, monkeypatch, columns=3, **options):
    """The criterion as fits use it, and the same without the short way."""
    y, X, random = simulate(kind)
    short = ProfiledDeviance(y, X[:, :columns], random, **options)
    monkeypatch.setattr(OneFactor, "of", classmethod(lambda cls, *given: None))
    general = ProfiledDeviance(y, X[:, :columns], random, **options)
    assert short._one_factor is not None
    assert general._one_factor is None
    return short, general


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("kind", ONE_FACTOR)
def test_short_and_general_code_agree(kind, reml, monkeypatch):
    rng = np.random.default_rng(3)
    weights = rng.uniform(0.5, 2.0, 160)
    short, general = both(kind, monkeypatch, reml=reml, weights=weights)
    start = general.start()
    boundary, negative = start.copy(), -0.5 * start
    boundary[-1] = 0.0
    for theta in (start, boundary, negative, 30.0 * start, np.zeros_like(start)):
        ours, theirs = short.evaluate(theta), general.evaluate(theta)
        assert short.value(theta) == pytest.approx(general.value(theta), rel=1e-12)
        # sums of some hundred terms of both signs
        scale = max(1.0, np.abs(theirs.information).max())
        np.testing.assert_allclose(ours.gradient, theirs.gradient, rtol=1e-9, atol=1e-9 * scale)
        np.testing.assert_allclose(ours.information, theirs.information, rtol=1e-9, atol=1e-9 * scale)
        np.testing.assert_allclose(short.hessian(ours), general.hessian(theirs), rtol=1e-9, atol=1e-9 * scale)
        for mine, other in zip(ours.slopes, theirs.slopes, strict=True):
            np.testing.assert_allclose(mine, other, rtol=1e-9, atol=1e-9 * max(1.0, np.abs(other).max()))


@pytest.mark.parametrize("kind", ONE_FACTOR)
def test_hessian_is_the_derivative_of_the_gradient(kind, monkeypatch):
    short, _ = both(kind, monkeypatch)
    theta = 1.3 * short.start() + 0.1
    numeric = np.empty((theta.size, theta.size))
    for i in range(theta.size):
        step = np.zeros_like(theta)
        step[i] = 1e-5
        numeric[i] = (short.evaluate(theta + step).gradient - short.evaluate(theta - step).gradient) / 2e-5
    hessian = short.hessian(short.evaluate(theta))
    np.testing.assert_allclose(hessian, numeric, rtol=1e-5, atol=1e-5 * np.abs(hessian).max())


def test_a_hessian_asked_for_elsewhere_belongs_to_its_theta(monkeypatch):
    short, general = both("slope", monkeypatch)
    theta = short.start()
    first = short.evaluate(theta)
    short.evaluate(2.0 * theta)
    np.testing.assert_allclose(short.hessian(first), general.hessian(general.evaluate(theta)), rtol=1e-9)


@pytest.mark.parametrize("kind", ["intercept", "slope"])
def test_no_fixed_effects(kind, monkeypatch):
    short, general = both(kind, monkeypatch, columns=0)
    theta = short.start()
    assert short.value(theta) == pytest.approx(general.value(theta), rel=1e-12)
    np.testing.assert_allclose(short.evaluate(theta).gradient, general.evaluate(theta).gradient, rtol=1e-9, atol=1e-9)


def test_models_of_another_shape_take_the_general_way():
    y, X, random = simulate("crossed")
    assert ProfiledDeviance(y, X, random)._one_factor is None
