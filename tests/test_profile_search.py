"""The search along a profile, on profiles that are known in closed form."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import mvmise_sm as ms
from mvmise_sm.core.optimise.constrained import ConstrainedPoint
from mvmise_sm.core.uncertainty.profile_search import ProfiledParameter, end, freed_from_zero, interval, trace
from mvmise_sm.exceptions import SeparationWarning, SingularFitWarning

Z = 1.959964


def profiled(deviance, slope, estimate=0.0, **options):
    """A parameter whose profile deviance is a function of its value."""

    def solve(c, start):
        return ConstrainedPoint(c, start, deviance(c), slope(c), np.zeros(1), True)

    return ProfiledParameter(
        "c", "own", solve, estimate, 1.0, origin=np.zeros(1), minimum=deviance(estimate), **options
    )


def square(limit=np.inf):
    return (lambda c: c * c if c < limit else np.inf), (lambda c: 2.0 * c)


def test_a_quadratic_profile():
    parameter = profiled(*square(), shown=np.exp)
    np.testing.assert_allclose(interval(parameter, Z), [np.exp(-Z), np.exp(Z)], rtol=1e-7)
    values, zeta = np.array(trace(parameter, 2.5)).T
    np.testing.assert_allclose(np.log(values), zeta, atol=1e-12)
    assert zeta[0] <= -2.5
    assert zeta[-1] >= 2.5


@pytest.mark.parametrize("estimate", [0.0, -3.0])
def test_a_range_that_ends_below_the_quantile(estimate):
    parameter = profiled(lambda c: (c - estimate) ** 2, lambda c: 2.0 * (c - estimate), estimate, upper=estimate + 1.0)
    assert end(parameter, 1.0, Z) == estimate + 1.0
    assert end(parameter, -1.0, Z) == pytest.approx(estimate - Z)
    assert max(value for value, _ in trace(parameter, Z)) < estimate + 1.0


def test_beyond_the_edge_of_the_model_there_is_nothing_and_elsewhere_no_number():
    assert end(profiled(*square(1.0), has_edge=True), 1.0, Z) == pytest.approx(1.0, abs=1e-9)
    assert np.isnan(end(profiled(*square(1.0)), 1.0, Z))
    # a path closes in on the edge
    assert trace(profiled(*square(1.0), has_edge=True), Z)[-1][0] > 0.97
    assert trace(profiled(*square(1.0)), Z)[-1][0] <= 0.97


@pytest.mark.parametrize("height", [1.0, 3.8])
def test_a_profile_that_goes_flat_has_an_infinite_end_and_its_path_stops(height):
    def deviance(c):
        return height * -np.expm1(-c * c / 50.0)

    parameter = profiled(deviance, lambda c: height * c / 25.0 * np.exp(-c * c / 50.0), unit=1.0)
    assert interval(parameter, Z) == (-np.inf, np.inf)
    values, zeta = np.array(trace(parameter, Z)).T
    assert np.abs(values).max() < 2e3
    assert np.abs(zeta).max() == pytest.approx(np.sqrt(height), rel=1e-3)


def test_a_profile_that_rises_slowly_has_no_end_within_a_thousand_standard_errors():
    parameter = profiled(lambda c: 1e-9 * c * c, lambda c: 2e-9 * c, unit=1.0)
    assert end(parameter, 1.0, Z) == np.inf
    assert end(profiled(lambda c: 1e-9 * c * c, lambda c: 2e-9 * c), 1.0, Z) == pytest.approx(Z / np.sqrt(1e-9))


def two_ridges(c, start):
    """Deviances c^2 and 3/2 + c^2 / 4; the second is found from farther out than 2.5, and kept."""
    second = start[0] > 0.5 or abs(c) > 2.5
    value, slope = (1.5 + 0.25 * c * c, 0.5 * c) if second else (c * c, 2.0 * c)
    return ConstrainedPoint(c, np.array([float(second)]), value, slope, np.zeros(1), True)


def test_an_end_is_approached_from_outside_where_another_optimum_may_lie():
    options = {"origin": np.zeros(1), "minimum": 0.0}
    near = ProfiledParameter("c", "own", two_ridges, 0.0, 1.0, **options)
    assert end(near, 1.0, Z) == pytest.approx(Z)
    both = ProfiledParameter("c", "own", two_ridges, 0.0, 1.0, **options, several_optima=True)
    np.testing.assert_allclose(interval(both, Z), np.sqrt((Z * Z - 1.5) / 0.25) * np.array([-1.0, 1.0]), rtol=1e-7)


def test_a_root_at_zero_is_left_where_that_is_better():
    def solve(c, start):
        # minima of (x^2 - c)^2: zero is stationary, and the roots of c are lower
        x = np.sqrt(max(c, 0.0)) if start[0] != 0.0 else 0.0
        return ConstrainedPoint(c, np.array([x]), (x * x - c) ** 2, 0.0, np.zeros(1), True)

    freed = freed_from_zero(solve, np.array([0]), zero=1e-3, away=0.1)
    assert freed(4.0, np.zeros(1)).x[0] == 2.0
    assert freed(-1.0, np.zeros(1)).value == 1.0
    assert freed_from_zero(solve, np.array([], dtype=int), zero=1e-3, away=0.1) is solve


def test_without_an_estimate_there_is_no_interval():
    nowhere = ProfiledParameter("c", "cor", two_ridges, np.nan, 1.0)
    assert np.isnan(interval(nowhere, Z)).all()
    with pytest.raises(ValueError, match="the optimum of the profile of 'c' is not known"):
        nowhere.optimum()


def test_the_path_of_an_infinite_effect_stops_where_nothing_changes():
    rng = np.random.default_rng(1)
    data = pd.DataFrame({"g": np.repeat(np.arange(12), 10), "z": (np.arange(120) % 5 == 0).astype(float)})
    data["y"] = np.where(data["z"] == 1.0, 1, rng.integers(0, 2, 120))
    with pytest.warns((SeparationWarning, SingularFitWarning)):
        result = ms.glmer("y ~ z + (1 | g)", data, family="binomial").fit()
    frame = result.profile(["z"]).frame
    # beyond thirty no probability changes, but for rounding, and nothing is looked for beyond a thousand
    assert 30.0 < frame["value"].max() < 1e4
    assert frame["zeta"].max() < 0.1
    assert frame["zeta"].min() < -stats.norm.isf(0.005)
