"""What must not change a generalised fit, what must change it in a known way, and recovery of known parameters."""

import warnings

import numpy as np
import pandas as pd
import pytest

import mvmise_sm as ms


@pytest.fixture(scope="module")
def frame():
    rng = np.random.default_rng(11)
    n = 400
    data = pd.DataFrame({"g": rng.integers(0, 25, n), "h": rng.integers(0, 6, n), "x": rng.normal(size=n)})
    slopes = 0.4 * rng.normal(size=25)
    eta = 0.2 + 0.5 * data["x"] + 0.7 * rng.normal(size=25)[data["g"]] + slopes[data["g"]] * data["x"]
    eta += 0.5 * rng.normal(size=6)[data["h"]]
    data["count"] = rng.poisson(np.exp(eta))
    data["binary"] = (rng.random(n) < 1 / (1 + np.exp(-eta))).astype(int)
    return data


MODELS = [
    ("count ~ x + (1 + x | g) + (1 | h)", "poisson", 1),
    ("binary ~ x + (1 + x | g)", "binomial", 5),
    ("binary ~ x + (1 | g) + (1 | h)", "binomial(cloglog)", 1),
    ("count ~ x + (x || g)", "negativebinomial", 1),
    ("binary ~ x + (1 | g)", "binomial", 0),
]


@pytest.mark.filterwarnings("ignore:singular fit")
@pytest.mark.parametrize(("formula", "family", "nagq"), MODELS)
def test_order_of_rows_and_levels_does_not_matter(frame, formula, family, nagq):
    base = ms.glmer(formula, frame, family=family).fit(nagq=nagq)
    shuffled = frame.sample(frac=1.0, random_state=1).assign(g=lambda d: -d["g"], h=lambda d: 7 - d["h"])
    other = ms.glmer(formula, shuffled, family=family).fit(nagq=nagq)
    np.testing.assert_allclose(other.criterion, base.criterion, rtol=0, atol=1e-7)
    assert np.abs((other.params - base.params) / base.bse).max() < 1e-4
    assert base.converged


@pytest.mark.filterwarnings("ignore:singular fit")
@pytest.mark.parametrize(("formula", "family", "nagq"), MODELS)
def test_units_of_a_covariate(frame, formula, family, nagq):
    base = ms.glmer(formula, frame, family=family).fit(nagq=nagq)
    scaled = ms.glmer(formula, frame.assign(x=1000.0 + 50.0 * frame["x"]), family=family).fit(nagq=nagq)
    # with independent columns the model itself depends on where x is zero
    if "||" in formula:
        return
    np.testing.assert_allclose(scaled.criterion, base.criterion, rtol=0, atol=1e-6 if nagq != 5 else 1e-2)
    np.testing.assert_allclose(scaled.params["x"] * 50.0, base.params["x"], rtol=1e-4 if nagq != 5 else 1e-2)


def test_offset_of_a_constant_moves_the_intercept(frame):
    base = ms.glmer("count ~ x + (1 | g)", frame, family="poisson").fit()
    moved = ms.glmer("count ~ x + (1 | g)", frame, family="poisson", offset=np.full(len(frame), 0.7)).fit()
    np.testing.assert_allclose(moved.criterion, base.criterion, rtol=0, atol=1e-7)
    np.testing.assert_allclose(moved.params - base.params, [-0.7, 0.0], atol=1e-5)


def test_starts_do_not_matter(frame):
    model = ms.glmer("count ~ x + (1 + x | g) + (1 | h)", frame, family="poisson")
    base = model.fit()
    for theta in ([0.05, 0.0, 0.05, 0.05], [6.0, -2.0, 4.0, 5.0]):
        np.testing.assert_allclose(model.fit(start_theta=theta).criterion, base.criterion, rtol=0, atol=1e-6)


def test_optimisers_agree(frame):
    model = ms.glmer("binary ~ x + (1 | g)", frame, family="binomial")
    newton = model.fit()
    for method in ("lbfgs", "nm"):
        other = model.fit(method=method)
        np.testing.assert_allclose(other.criterion, newton.criterion, rtol=0, atol=1e-5)
        assert newton.criterion <= other.criterion + 1e-7


def test_double_bar_is_two_terms(frame):
    bars = ms.glmer("count ~ x + (x || g)", frame, family="poisson").fit()
    terms = ms.glmer("count ~ x + (1 | g) + (0 + x | g)", frame, family="poisson").fit()
    np.testing.assert_allclose(bars.criterion, terms.criterion, rtol=0, atol=1e-7)
    np.testing.assert_allclose(bars.theta, terms.theta, rtol=1e-4)


def test_standard_errors_from_the_hessian_are_those_of_finite_differences(frame):
    result = ms.glmer("binary ~ x + (1 | g) + (1 | h)", frame, family="binomial").fit()
    criterion = result.model.criterion()
    x = np.concatenate([result.theta, result.params])
    k, h = x.size, 1e-3
    hessian = np.empty((k, k))
    for i in range(k):
        for j in range(k):
            a, b = h * np.eye(k)[i], h * np.eye(k)[j]
            corners = criterion(x + a + b) - criterion(x + a - b) - criterion(x - a + b) + criterion(x - a - b)
            hessian[i, j] = corners / (4 * h * h)
    by_hand = np.sqrt(np.diag(2.0 * np.linalg.inv(hessian)))[2:]
    np.testing.assert_allclose(result.bse, by_hand, rtol=1e-3)
    rx = result.model.fit(cov_type="rx")
    assert (rx.bse < result.bse).any()
    np.testing.assert_allclose(rx.params, result.params, rtol=1e-12)


@pytest.mark.parametrize("family", ["binomial", "poisson", "gamma(log)", "negativebinomial"])
def test_recovery(family):
    """Estimates from a large sample lie within five standard errors of the truth, the group variance within 25 %."""
    rng = np.random.default_rng(21)
    n, groups = 6000, 300
    data = pd.DataFrame({"g": rng.integers(0, groups, n), "x": rng.normal(size=n)})
    eta = 0.4 - 0.6 * data["x"] + 0.6 * rng.normal(size=groups)[data["g"]]
    mu = np.exp(eta)
    data["y"] = {
        "binomial": lambda: (rng.random(n) < 1 / (1 + np.exp(-eta))).astype(float),
        "poisson": lambda: rng.poisson(mu),
        "gamma(log)": lambda: rng.gamma(2.5, mu / 2.5),
        "negativebinomial": lambda: rng.poisson(mu * rng.gamma(1 / 0.7, 0.7, n)),
    }[family]()
    result = ms.glmer("y ~ x + (1 | g)", data, family=family).fit()
    assert (np.abs((result.params - [0.4, -0.6]) / result.bse) < 5.0).all()
    np.testing.assert_allclose(result.varcorr["sdcor"].iloc[0], 0.6, rtol=0.12)
    if family == "gamma(log)":
        np.testing.assert_allclose(result.scale, 0.4, rtol=0.1)
    if family == "negativebinomial":
        assert abs(result.alpha - 0.7) < 5.0 * result.alpha_bse


@pytest.mark.parametrize("nagq", [1, 5])
def test_singular_fits_are_found_and_stationary(nagq):
    """Data without group differences end on the boundary, with the certificate that nothing lies lower."""
    rng = np.random.default_rng(5)
    found = 0
    for seed in range(6):
        rng = np.random.default_rng(seed)
        data = pd.DataFrame({"g": np.repeat(np.arange(12), 8), "x": rng.normal(size=96)})
        data["y"] = (rng.random(96) < 0.5).astype(int)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = ms.glmer("y ~ x + (1 + x | g)", data, family="binomial").fit(nagq=nagq)
        assert result.converged
        assert result.singular == any("singular" in str(w.message) for w in caught)
        found += result.singular
        criterion = result.model.criterion(nagq)
        for theta in ([0.3, 0.0, 0.3], [0.1, 0.1, 0.1], [0.3, -0.2, 0.05]):
            assert criterion(np.concatenate([theta, result.params])) >= result.criterion - 1e-6
    assert found >= 3
