"""Every family against its own density: distribution, quantiles, gradients, residuals and intervals of fits."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from test_families import LINKED, rows_of

import mvmise_sm as ms
from mvmise_sm.core.families.registry import FAMILIES


def log_density(family, y, w, predictors):
    """All terms of the log density by row (n,)."""
    with np.errstate(all="ignore"):
        return family.expand(y, w, predictors, True)[()] + np.zeros(len(y))


@pytest.mark.parametrize(("name", "link"), LINKED)
def test_the_distribution_function_is_the_sum_of_the_density(name, link):
    family, predictors, y, w, d, shape = rows_of(name, link, n=30)
    eta = predictors[0]

    def below(at):
        return family.distribution(at, eta, w, d, shape)

    if family.integer or family.trials:
        step = 1.0 / (1.0 if w is None else w)
        mass = below(y) - below(y - step)
        np.testing.assert_allclose(mass, np.exp(log_density(family, y, w, predictors)), rtol=1e-6, atol=1e-12)
        top = 1.0 if family.trials else 10_000.0
        # what is underdispersed is cut off where its probabilities end
        np.testing.assert_allclose(below(np.full(eta.shape, top)), 1.0, atol=1e-8 if name != "genpois" else 1e-3)
        np.testing.assert_array_equal(below(-step * np.ones_like(eta)), 0.0)
        return
    # at the ends the density of proportions is no polynomial over a step
    y = np.clip(np.where(y == 0.0, 0.7, y), 0.01, 0.99) if name == "beta" else np.where(y == 0.0, 0.7, y)
    h = 1e-4 * np.minimum(np.abs(y), np.abs(1.0 - y) if name == "beta" else np.inf)
    slope = (8.0 * (below(y + h) - below(y - h)) - (below(y + 2 * h) - below(y - 2 * h))) / (12.0 * h)
    np.testing.assert_allclose(slope, np.exp(log_density(family, y, w, predictors)), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(below(np.full(eta.shape, 1e9)), 1.0, atol=1e-12 if name != "t" else 1e-9)
    lowest = 0.0 if name not in ("gaussian", "t") else -1e9
    at_zero = np.exp(log_density(family, np.zeros_like(y), w, predictors)) if family.zero_mass else 0.0
    if name != "hurdle_gamma":
        np.testing.assert_allclose(below(np.full(eta.shape, lowest)), at_zero, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("name", "link"), LINKED)
def test_quantiles_undo_the_distribution_function(name, link):
    family, predictors, _, w, d, shape = rows_of(name, link, n=30)
    centre = family.centre(predictors[0], d, shape)
    u = np.linspace(0.01, 0.99, 30)
    found = family.quantile(u, centre, w, d, shape)
    if found is None:
        assert name == "tweedie"  # its responses are simulated
        return
    after = family.distribution(found, predictors[0], w, d, shape)
    if not (family.integer or family.trials):
        np.testing.assert_allclose(after, u, atol=1e-8)
        return
    before = family.distribution(found - 1.0 / (1.0 if w is None else w), predictors[0], w, d, shape)
    assert (after >= u - 1e-9).all()
    assert (before < u + 1e-9).all()


def drawn_frame(name, n=96, zeros=False):
    """Rows of two crossed factors with a response of the family, some of them zero where that is wanted."""
    rng = np.random.default_rng(11)
    family = FAMILIES[name]()
    frame = pd.DataFrame({"x": rng.normal(size=n), "g": rng.integers(0, 8, n), "h": rng.integers(0, 5, n)})
    eta = 0.3 + 0.3 * frame["x"].to_numpy() + 0.3 * rng.normal(size=8)[frame["g"]]
    if family.link.name in ("inverse", "1/mu^2"):
        eta = np.abs(eta) + 0.5
    d = np.exp(0.6 + 0.2 * frame["x"].to_numpy()) if family.has_dispersion else 1.0
    w = rng.integers(3, 9, n).astype(float) if family.trials else None
    frame["y"] = family.draw(rng, eta, w, d, family.shape_start())
    if zeros:
        frame["y"] = np.where(rng.random(n) < 0.3, 0.0, frame["y"])
    options = {"family": name, "weights": w}
    return frame, options


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_gradients_with_all_parts_and_two_factors(name):
    family = FAMILIES[name]()
    frame, options = drawn_frame(name, zeros=family.zero_part is not None)
    if family.zero_part is not None:
        options["zero_inflation"] = "~ x + (1 | g)" if name in ("poisson", "nb1") else "~ x"
    if family.has_dispersion:
        options["dispersion"] = "~ x"
    criterion = ms.glmer("y ~ x + (1 | g) + (1 | h)", frame, **options).criterion()
    x = np.array(criterion.start(), dtype=float)
    x[: criterion.k_theta] = np.abs(x[: criterion.k_theta]) + 0.1
    criterion.value(x)
    gradient = criterion.evaluate(x).gradient
    for i in range(x.size):
        h = 5e-4 * np.eye(x.size)[i]
        at = [criterion.value(x + k * h) for k in (1, -1, 2, -2)]
        numeric = (8.0 * (at[0] - at[1]) - (at[2] - at[3])) / (12.0 * 5e-4)
        assert abs(gradient[i] - numeric) < 1e-6 * (1.0 + abs(numeric)), i


@pytest.mark.filterwarnings("ignore::mvmise_sm.exceptions.SingularFitWarning")
@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_residuals_and_intervals_of_a_fit(name):
    frame, options = drawn_frame(name)
    if name == "hurdle_gamma":
        frame, options = drawn_frame(name, zeros=True)
        options["zero_inflation"] = "~ 1"
    fit = ms.glmer("y ~ x + (1 | g)", frame, **options).fit()
    assert stats.kstest(np.asarray(fit.resid_quantile(rng=1)), "norm").pvalue > 1e-3
    # intervals of responses of weight one have the probability that the family's distribution gives them
    predictors = fit.own_predictors()
    n = 150 if name.startswith("truncated") else 400  # their quantiles are dear
    found = fit.prediction_interval(n=n, rng=2)
    low, high = found["pi_low"].to_numpy(), found["pi_high"].to_numpy()
    step = 1.0 if fit.family.integer or fit.family.trials else 0.0
    if name in ("tweedie", "hurdle_gamma"):
        step = 1e-12
    inside = fit.cumulative(high, predictors, None) - fit.cumulative(low - step, predictors, None)
    assert 0.93 < np.mean(inside) <= 1.0
    if step == 0.0:
        assert np.mean(inside) < 0.975
    draws = np.asarray(fit.simulate(n, rng=3, random="conditional"))
    mean, variance = fit.predict(which="mean"), fit.predict(which="variance")
    away = (draws.mean(axis=1) - mean) / np.sqrt(variance / n)
    assert np.abs(away).max() < 6.0
    assert abs(np.mean(away)) < 6.0 / np.sqrt(len(frame))
