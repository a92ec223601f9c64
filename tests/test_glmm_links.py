"""Links that do not map the whole line into the family's means, and infinite estimates of counts."""

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import bernoulli, invgauss

import mvmise_sm as ms
from mvmise_sm.exceptions import ConvergenceWarning, DataError, OptionError, SeparationWarning

REFERENCE = Path(__file__).parent / "reference" / "constrained_links"
DATA = pd.read_csv(REFERENCE / "data.csv.gz")
# 1.96^2 / 2: what a log-likelihood loses at the end of a 95 % interval
DROP = 1.9207294103470

# singular fits are what small sets have
pytestmark = pytest.mark.filterwarnings("ignore:singular fit")


def fitted(case, **options):
    """The fit of a case, named by family, link and column of the random effects."""
    rows = DATA[DATA["case"] == case]
    return ms.glmer(f"y ~ x + ({case[-1]} | g)", rows, family=case[:-1]).fit(**options)


@pytest.mark.parametrize("row", list(pd.read_csv(REFERENCE / "glmmtmb.csv").itertuples()), ids=lambda row: row.case)
def test_fits_are_those_of_glmmtmb(row):
    result = fitted(row.case)
    assert result.converged
    # glmmTMB stops at relative changes of 1e-8 of its objective; singular fits are flat in theta
    np.testing.assert_allclose(result.llf, row.llf, atol=2e-6)
    np.testing.assert_allclose(result.params, [row.b0, row.b1], atol=2e-4)
    np.testing.assert_allclose(result.bse, [row.se0, row.se1], rtol=2e-3)


def log_density(case, y, eta, scale):
    if case.startswith("binomial"):
        return bernoulli.logpmf(y, eta if "identity" in case else np.exp(eta))
    mean = eta**-0.5
    return invgauss.logpdf(y, mean * scale, scale=1.0 / scale)


def laplace(case, result):
    """-2 log L of one random intercept per group by scalar minimisation and differences, without our code."""
    rows = DATA[DATA["case"] == case]
    variance = float(result.varcorr["vcov"].iloc[0])
    total = 0.0
    for _, group in rows.groupby("g"):
        base = result.params.iloc[0] + result.params.iloc[1] * group["x"].to_numpy()
        y = group["y"].to_numpy()

        def minus(b, base=base, y=y):
            with np.errstate(all="ignore"):
                value = -log_density(case, y, base + b, result.scale).sum() + 0.5 * b * b / variance
            return value if np.isfinite(value) else 1e10

        low = 1e-9 - base.min() if "log" not in case else -3.0
        high = (1.0 - 1e-9 - base.max()) if "identity" in case else (-1e-9 - base.max() if "log" in case else 3.0)
        b = minimize_scalar(minus, bounds=(low, high), method="bounded", options={"xatol": 1e-10}).x
        h = 1e-3
        curvature = (-minus(b + 2 * h) + 16 * minus(b + h) - 30 * minus(b) + 16 * minus(b - h) - minus(b - 2 * h)) / (
            12 * h * h
        )
        total += 2.0 * minus(b) + np.log(variance * curvature)
    return total


@pytest.mark.parametrize("case", ["binomial(identity)1", "binomial(log)1", "inversegaussian(1/mu^2)1"])
def test_criterion_is_the_laplace_approximation(case):
    result = fitted(case)
    assert result.converged
    # five-point differences with steps of 1e-3 keep eight digits
    np.testing.assert_allclose(-2.0 * result.llf, laplace(case, result), atol=1e-5)


def few(rng, mean, draw):
    """Small clusters with strong effects: the conditional means of some rows go to the edge."""
    g = np.repeat(np.arange(12), 8)
    x = rng.uniform(size=96)
    return pd.DataFrame({"y": draw(np.maximum(mean(x, rng.normal(size=12)[g]), 0.02)), "x": x, "g": g})


@pytest.mark.parametrize(("family", "term"), [("poisson(identity)", "1"), ("negativebinomial(identity)", "1")])
def test_means_at_the_edge_are_said_and_have_no_errors(family, term):
    rng = np.random.default_rng(1)
    frame = few(rng, lambda x, b: 0.5 + 0.8 * x + 0.9 * b, rng.poisson)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = ms.glmer(f"y ~ x + ({term} | g)", frame, family=family).fit(maxiter=30)
        assert np.isnan(result.bse).all()
        result.summary()
    assert not result.converged
    texts = [str(w.message) for w in caught if w.category is ConvergenceWarning]
    assert len(texts) == 1
    assert "identity link" in texts[0]
    assert "means above 0" in texts[0]
    assert "(log)" in texts[0]
    with pytest.raises(OptionError, match="not converged"):
        result.conf_int(method="profile")


def test_probabilities_at_one():
    rng = np.random.default_rng(0)
    frame = few(rng, lambda x, b: np.minimum(np.exp(-0.6 + 0.6 * x + 0.5 * b), 0.97), lambda p: rng.binomial(1, p))
    with pytest.warns(ConvergenceWarning, match=r"log link .* between 0 and 1 .*binomial\(logit\)"):
        result = ms.glmer("y ~ x + (1 | g)", frame, family="binomial(log)").fit(maxiter=30)
    assert np.isnan(result.bse).all()


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ({"start_params": [-5.0, 0.0]}, "start_params may be to blame"),
        ({"start_params": [-5.0, 0.0], "dispersion": "lme4"}, "start_params may be to blame"),
        ({"start_params": [-5.0, 0.0], "nagq": 5}, "start_params may be to blame"),
    ],
    ids=str,
)
def test_no_start_with_a_likelihood_is_a_sentence(options, advice):
    rng = np.random.default_rng(5)
    frame = few(rng, lambda x, b: 1.0 + x + 0.3 * b, rng.poisson)
    nowhere = "identity link finds no point with a likelihood and its derivatives: means above 0 are allowed"
    with pytest.raises(DataError, match=f"{nowhere}; {advice}"):
        ms.glmer("y ~ x + (1 | g)", frame, family="poisson(identity)").fit(**options)


@pytest.fixture(params=["treatment", "cells"])
def zeros(request):
    """A condition of zeros only, and the formula that codes it."""
    frame = pd.DataFrame({"g": np.repeat(np.arange(20), 10), "arm": np.tile(["a", "b", "c"], 67)[:200]})
    rng = np.random.default_rng(3)
    frame["y"] = np.where(frame["arm"] == "c", 0, rng.poisson(3.0, 200))
    return frame, "y ~ arm + (1 | g)" if request.param == "treatment" else "y ~ 0 + arm + (1 | g)"


@pytest.mark.parametrize(
    "options", [{}, {"nagq": 0}, {"nagq": 3}, {"curvature": "expected"}, {"cov_type": "rx"}], ids=str
)
def test_a_condition_of_zeros_only(zeros, options):
    frame, formula = zeros
    with pytest.warns(SeparationWarning, match=r"'arm\[(T\.)?c\]', whose estimates are infinite"):
        result = ms.glmer(formula, frame, family="poisson").fit(**options)
    assert np.isnan(result.bse.iloc[2])
    assert np.isfinite(result.bse.iloc[:2]).all()
    assert np.isnan(result.pvalues.iloc[2])
    assert "nan" in str(result.summary())
    # the other estimates and standard errors are those without the rows of zeros
    rest = ms.glmer(formula, frame[frame["arm"] != "c"], family="poisson").fit(**options)
    np.testing.assert_allclose(result.params.iloc[:2], rest.params, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(result.bse.iloc[:2], rest.bse, rtol=1e-3)


def test_profiles_of_infinite_estimates_have_one_end(zeros):
    frame, formula = zeros
    with pytest.warns(SeparationWarning):
        result = ms.glmer(formula, frame, family="poisson").fit()
    with pytest.warns(SeparationWarning, match="never reaches the quantile"):
        intervals = result.conf_int(method="profile")
    name = result.params.index[2]
    assert intervals.loc[name, 0] == -np.inf
    assert np.isfinite(intervals.drop(index=name).to_numpy()).all()
    if formula.startswith("y ~ 0"):
        # without variance of groups the zeros' log-likelihood is -n exp(beta)
        assert result.varcorr["sdcor"].iloc[0] < 1e-6
        np.testing.assert_allclose(intervals.loc[name, 1], np.log(DROP / (frame["arm"] == "c").sum()), rtol=1e-5)


def test_profiles_of_separated_probabilities():
    frame = pd.DataFrame({"g": np.repeat(np.arange(20), 10), "arm": np.tile(["a", "b"], 100)})
    frame["y"] = np.where(frame["arm"] == "a", 0, np.arange(200) % 3 > 0)
    with pytest.warns(SeparationWarning):
        result = ms.glmer("y ~ 0 + arm + (1 | g)", frame, family="binomial").fit()
    with pytest.warns(SeparationWarning, match="never reaches the quantile"):
        intervals = result.conf_int(method="profile")
    assert intervals.iloc[0, 0] == -np.inf
    # 100 zeros: 100 log(1 - p) = -DROP
    p = -np.expm1(-DROP / 100.0)
    np.testing.assert_allclose(intervals.iloc[0, 1], np.log(p / (1.0 - p)), rtol=1e-5)
