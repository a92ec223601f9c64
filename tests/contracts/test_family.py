"""A count family of one's own, one class in this file, is what Poisson is wherever a fit can be asked something."""

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import gammaln

import mvmise_sm as ms
from mvmise_sm.exceptions import DataError

PACKAGE = Path(ms.__file__).parent


class Counts(ms.families.Family):
    """Poisson, written as a user would write a family."""

    name, integer, zero_part = "counts", True, "inflated"

    def log_density(self, y, w, parts, shape):
        return y * parts[0] - np.exp(parts[0]) - gammaln(y + 1.0)

    def variance(self, mean, d=1.0, shape=()):
        return mean

    def simulate(self, rng, mean, w=None, d=1.0, shape=()):
        return rng.poisson(mean).astype(float)

    def check(self, y, w=None):
        return "counts must not be negative" if (y < 0.0).any() else None


@pytest.fixture(scope="module")
def frame():
    rng = np.random.default_rng(1)
    g = np.repeat(np.arange(15), 12)
    x = rng.normal(size=180)
    y = rng.poisson(np.exp(0.4 + 0.3 * x + 0.5 * rng.normal(size=15)[g]))
    return pd.DataFrame({"y": y, "x": x, "g": g, "f": np.tile(list("ab"), 90)})


@pytest.fixture(scope="module")
def fits(frame):
    formula = "y ~ x + f + (1 | g)"
    return [ms.glmer(formula, frame, family=family).fit() for family in (Counts(), "poisson")]


def test_fit_and_standard_errors(fits):
    toy, poisson = fits
    assert toy.converged
    np.testing.assert_allclose(toy.llf, poisson.llf, rtol=1e-10)
    np.testing.assert_allclose(toy.params, poisson.params, atol=1e-6)
    np.testing.assert_allclose(toy.bse, poisson.bse, rtol=1e-5)
    np.testing.assert_allclose(toy.varcorr["sdcor"], poisson.varcorr["sdcor"], rtol=1e-5)


def test_gradient(fits):
    criterion = fits[0].deviance_function()
    x = criterion.start()
    for i in range(x.size):
        step = 1e-4 * np.eye(x.size)[i]
        numeric = (criterion.value(x + step) - criterion.value(x - step)) / 2e-4
        criterion.value(x)
        np.testing.assert_allclose(criterion.evaluate(x).gradient[i], numeric, rtol=1e-5, atol=1e-5)


def test_quadrature_and_zero_part(frame):
    for how, options in (({"nagq": 9}, {}), ({}, {"zero_inflation": "~ 1"})):
        toy, poisson = (
            ms.glmer("y ~ x + (1 | g)", frame, family=family, **options).fit(**how) for family in (Counts(), "poisson")
        )
        np.testing.assert_allclose(toy.llf, poisson.llf, rtol=1e-9)
        np.testing.assert_allclose(toy.params, poisson.params, atol=1e-4)


def test_profile_and_tests(fits):
    toy, poisson = fits
    own, expected = (fit.conf_int(method="profile") for fit in fits)
    np.testing.assert_allclose(own, expected, atol=1e-5)
    np.testing.assert_allclose(toy.anova()["p_value"], poisson.anova()["p_value"], rtol=1e-4)
    np.testing.assert_allclose(toy.anova_random()["chisq"], poisson.anova_random()["chisq"], rtol=1e-6)
    np.testing.assert_allclose(toy.drop1()["chisq"], poisson.drop1()["chisq"], rtol=1e-5)
    np.testing.assert_allclose(toy.marginal_means("f")["estimate"], poisson.marginal_means("f")["estimate"], atol=1e-6)


def test_bootstrap_refits_whole_numbers(fits):
    samples = fits[0].bootstrap(4, rng=1).samples
    assert np.isfinite(samples.to_numpy()).all()
    draws = fits[0].simulate(50, rng=1, random="conditional").to_numpy()
    assert (draws == np.floor(draws)).all()
    np.testing.assert_allclose(draws.mean(), np.mean(fits[1].fittedvalues), rtol=0.05)


def test_predictions_and_intervals(fits, frame):
    toy, poisson = fits
    np.testing.assert_allclose(toy.predict(frame), poisson.predict(frame), rtol=1e-6)
    own, expected = (fit.get_prediction(frame.head(5)).summary_frame() for fit in fits)
    np.testing.assert_allclose(own, expected, rtol=1e-4)
    wide = toy.get_prediction(frame.head(20), kind="prediction").summary_frame()
    assert (wide["obs_ci_lower"] >= 0.0).all()
    assert (wide["obs_ci_upper"] == np.floor(wide["obs_ci_upper"])).all()
    table = toy.prediction_interval(frame.head(20), n=300, rng=1)
    assert (table["pi_low"] >= 0.0).all()
    assert (table["pi_high"] == np.floor(table["pi_high"])).all()


def test_residuals_and_shares(fits):
    toy, poisson = fits
    np.testing.assert_allclose(toy.resid_pearson, poisson.resid_pearson, atol=1e-5)
    np.testing.assert_allclose(toy.resid_deviance, poisson.resid_deviance, atol=1e-5)
    np.testing.assert_allclose(toy.r2(), poisson.r2(), rtol=1e-5)
    assert np.isfinite(toy.resid_quantile(rng=1)).all()
    np.testing.assert_allclose(toy.laplace_error()["shift"], poisson.laplace_error()["shift"], atol=1e-4)


def test_range_check(frame):
    with pytest.raises(DataError, match="counts must not be negative"):
        ms.glmer("I(y - 50) ~ x + (1 | g)", frame, family=Counts())


def test_pickles(fits, frame):
    again = pickle.loads(pickle.dumps(fits[0]))
    np.testing.assert_allclose(again.predict(frame.head(3)), fits[0].predict(frame.head(3)))
    np.testing.assert_allclose(again.bse, fits[0].bse)
    assert again.family == Counts()


def test_nobody_asks_for_the_class_of_a_family():
    found = [
        f"{path.name}:{i}"
        for path in PACKAGE.rglob("*.py")
        for i, line in enumerate(path.read_text().splitlines(), 1)
        if "isinstance(" in line and "amil" in line.split("isinstance(", 1)[1].split(")")[0]
    ]
    assert not found


def test_families_load_neither_pandas_nor_statsmodels():
    code = "import sys, mvmise_sm.families; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"pandas", "statsmodels"} & set(out.stdout.split())
