"""Priors: the derivatives of every built-in one, and of one's own with `value` alone, which then do what the built-in
prior of the same mathematics does in every model and every question.
"""

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm

import mvmise_sm as ms
from mvmise_sm.exceptions import OptionError
from mvmise_sm.priors.base import Dimensions

ONE = Dimensions(100, 2, level_dim=1, n_groups=18)
TWO = Dimensions(100, 2, level_dim=2, n_groups=18)


class OwnWishart(ms.priors.CovariancePrior):
    """The Wishart density of two columns with four degrees of freedom and a flat scale, relative to sigma2."""

    repels = True

    def value(self, s):
        sign, logdet = np.linalg.slogdet(s)
        return -(4.0 - 2.0 - 1.0) * logdet if sign > 0 else np.inf


class OwnGamma(ms.priors.CovariancePrior):
    """A gamma density of the absolute standard deviation, shape 2 and rate 0.2."""

    common_scale = False
    repels = True

    def value(self, s):
        sd = np.sqrt(s[0, 0])
        return -2.0 * ((2.0 - 1.0) * np.log(sd) - 0.2 * sd) if sd > 0 else np.inf


class OwnT(ms.priors.CoefficientPrior):
    """Student's t density of one coefficient, four degrees of freedom and scale 3."""

    def value(self, b):
        return 5.0 * np.log1p((b / 3.0) ** 2 / 4.0)


class OwnNormal(ms.priors.CoefficientPrior):
    """A normal density about 5 with standard deviation 2."""

    mean = 5.0

    def value(self, b):
        return ((b - 5.0) / 2.0) ** 2 + np.log(2.0 * np.pi * 4.0)


COVARIANCE = [
    (ms.priors.Gamma(), ONE),
    (ms.priors.Gamma(3.0, 0.5, posterior_scale="var", common_scale=False), ONE),
    (ms.priors.InverseGamma(2.0, 3.0), ONE),
    (ms.priors.Wishart(), TWO),
    (ms.priors.Wishart(5.0, posterior_scale="sqrt"), TWO),
    (ms.priors.InverseWishart(5.0, 2.0), TWO),
    (ms.priors.Custom(np.trace, scale="dev"), TWO),
    (OwnWishart(), TWO),
    (OwnGamma(), ONE),
]
FIXED = [ms.priors.Normal(), ms.priors.StudentT(), ms.priors.Horseshoe(), OwnT(), OwnNormal()]


def name_of(value):
    return type(value).__name__


@pytest.mark.parametrize(("prior", "dims"), COVARIANCE, ids=name_of)
def test_covariance_priors_differentiate(prior, dims):
    bound = prior.covariance(dims)
    rng = np.random.default_rng(0)
    root = rng.normal(size=(dims.level_dim, dims.level_dim)) + 2.0 * np.eye(dims.level_dim)
    s = root @ root.T
    value, gradient = bound.evaluate(s)
    assert value == bound.value(s)
    direction = rng.normal(size=s.shape)
    direction = direction + direction.T
    h = 1e-4
    along = (bound.value(s + h * direction) - bound.value(s - h * direction)) / (2.0 * h)
    assert float((gradient * direction).sum()) == pytest.approx(along, rel=1e-5, abs=1e-7)
    turned = (bound.gradient(s + h * direction) - bound.gradient(s - h * direction)) / (2.0 * h)
    second = (bound.hessian(s) @ direction.ravel()).reshape(s.shape)
    np.testing.assert_allclose(second, turned, rtol=1e-4, atol=1e-5 * np.abs(turned).max() + 1e-6)
    whole, slope, in_s2 = bound.relative(s, 1.7)
    assert whole == pytest.approx(bound.value(s / 1.7 if bound.common_scale else s))
    sides = [bound.relative(s, 1.7 + step)[0] for step in (h, -h)]
    assert in_s2 == pytest.approx((sides[0] - sides[1]) / (2.0 * h), rel=1e-5, abs=1e-7)
    sides = [bound.relative(s + step * direction, 1.7)[0] for step in (h, -h)]
    assert float((slope * direction).sum()) == pytest.approx((sides[0] - sides[1]) / (2.0 * h), rel=1e-5, abs=1e-7)
    assert bound.describe()


@pytest.mark.parametrize("prior", FIXED, ids=name_of)
def test_fixed_effect_priors_differentiate(prior):
    beta, s2, h = np.array([0.7, -1.3]), 2.0, 1e-5
    for block in prior.fixef(TWO):
        at = block.evaluate(beta, s2)
        moved = [[block.evaluate(beta + sign * h * e, s2) for sign in (1, -1)] for e in np.eye(2)]
        np.testing.assert_allclose(at.gradient, [(u.value - d.value) / (2 * h) for u, d in moved], rtol=1e-6, atol=1e-8)
        hessian = at.d2 * np.outer(at.slope, at.slope) + at.weight * block.precision
        wanted = [(u.gradient - d.gradient) / (2 * h) for u, d in moved]
        np.testing.assert_allclose(hessian, wanted, rtol=1e-4, atol=1e-6)
        sides = [block.evaluate(beta, s2 + sign * h).value for sign in (1, -1)]
        assert at.in_s2 == pytest.approx((sides[0] - sides[1]) / (2.0 * h), rel=1e-6, abs=1e-8)


SLOPES = "Reaction ~ Days + (Days | Subject)"
PAIRS = {
    "Wishart": (SLOPES, {"cov_prior": OwnWishart()}, {"cov_prior": ms.priors.Wishart(4.0, np.inf)}),
    "gamma": (
        "Reaction ~ Days + (1 | Subject)",
        {"cov_prior": OwnGamma()},
        {"cov_prior": ms.priors.Gamma(2.0, 0.2, common_scale=False)},
    ),
    "t": (
        SLOPES,
        {"fixef_prior": {"Days": OwnT()}},
        {"fixef_prior": {"Days": ms.priors.StudentT(df=4, scale=9.0, common_scale=False)}},
    ),
    "normal": (
        SLOPES,
        {"fixef_prior": {"Days": OwnNormal()}},
        {"fixef_prior": {"Days": ms.priors.Normal(sd=2.0, mean=5.0, common_scale=False)}},
    ),
}


@pytest.fixture(scope="module", params=PAIRS)
def pair(request):
    formula, own, built = PAIRS[request.param]
    data = ms.datasets.load_sleepstudy()
    return [ms.lmer(formula, data, **priors).fit(reml=False) for priors in (own, built)]


def test_the_fit_is_that_of_the_built_in_prior(pair):
    own, built = pair
    assert own.converged
    assert built.converged
    np.testing.assert_allclose(own.params, built.params, rtol=1e-6)
    np.testing.assert_allclose(own.theta, built.theta, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(own.bse, built.bse, rtol=1e-5)
    assert own.llf == pytest.approx(built.llf, abs=1e-6)
    assert own.scale == pytest.approx(built.scale, rel=1e-6)


def test_questions_have_the_answers_of_the_built_in_prior(pair):
    own, built = pair
    data = ms.datasets.load_sleepstudy()
    new = data.iloc[::30]
    pd.testing.assert_frame_equal(
        own.get_prediction(new).summary_frame(), built.get_prediction(new).summary_frame(), rtol=1e-5
    )
    pd.testing.assert_frame_equal(own.simulate(2, rng=1), built.simulate(2, rng=1), rtol=1e-5)
    pd.testing.assert_frame_equal(
        own.conf_int(method="profile"), built.conf_int(method="profile"), rtol=1e-4, atol=1e-4
    )
    draws = [np.asarray(result.bootstrap(3, rng=2).samples) for result in pair]
    np.testing.assert_allclose(draws[0], draws[1], rtol=1e-4)
    text = [line for line in str(own.summary()).splitlines() if "prior" in line.lower()]
    assert text


def test_a_result_with_ones_own_prior_is_stored(pair):
    own = pair[0]
    for loaded in (pickle.loads(pickle.dumps(own)), copy.deepcopy(own)):
        pd.testing.assert_series_equal(loaded.params, own.params)
        y = np.asarray(own.simulate(1, rng=3))[:, 0]
        np.testing.assert_allclose(loaded.refit(y).params, own.refit(y).params, rtol=1e-6)


@pytest.mark.parametrize(
    ("own", "built"),
    [
        (
            {"fixef_prior": {"period[T.2]": OwnT()}},
            {"fixef_prior": {"period[T.2]": ms.priors.StudentT(df=4, scale=9.0)}},
        ),
        (
            {"fixef_prior": {"period[T.2]": OwnNormal()}},
            {"fixef_prior": {"period[T.2]": ms.priors.Normal(sd=2.0, mean=5.0)}},
        ),
        ({"cov_prior": OwnGamma()}, {"cov_prior": ms.priors.Gamma(2.0, 0.2)}),
    ],
    ids=["t", "normal", "gamma"],
)
def test_generalised_models(own, built):
    data, family = ms.datasets.load_cbpp(), sm.families.Binomial()
    formula = "incidence / size ~ period + (1 | herd)"
    one, two = (ms.glmer(formula, data, family=family, weights="size", **p).fit() for p in (own, built))
    np.testing.assert_allclose(one.params, two.params, rtol=1e-5)
    np.testing.assert_allclose(one.theta, two.theta, rtol=1e-5)
    np.testing.assert_allclose(one.bse, two.bse, rtol=1e-4)


def test_selection_models():
    wide = ms.datasets.load_tmt("wide")
    formula = "P2_a + P2_b + P2_c ~ condition + (1 | batch)"
    one, two = (
        ms.mvmise_b(formula, wide, fixef_prior={"condition[T.case]": prior}).fit()
        for prior in (OwnNormal(), ms.priors.Normal(sd=2.0, mean=5.0, common_scale=False))
    )
    np.testing.assert_allclose(one.params, two.params, rtol=1e-5)
    np.testing.assert_allclose(one.bse, two.bse, rtol=1e-4)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (lambda b: abs(b), "it has a corner there"),
        (lambda b: (b - 1.0) ** 2, "must be symmetric about its mean 0"),
        (lambda b: -(b**2), "must fall on either side"),
        (lambda b: np.inf, "must be positive and finite at its mean"),
        (lambda b: "a", "must return one number"),
    ],
    ids=["corner", "lopsided", "rising", "zero", "text"],
)
def test_densities_that_no_engine_can_take_are_refused(value, message):
    class Own(ms.priors.CoefficientPrior):
        pass

    Own.value = staticmethod(value)
    with pytest.raises(OptionError, match=message):
        ms.lmer(SLOPES, ms.datasets.load_sleepstudy(), fixef_prior=Own())


def test_a_prior_without_a_value_says_so():
    with pytest.raises(NotImplementedError, match="has no value"):
        ms.priors.CoefficientPrior().fixef(TWO)
    with pytest.raises(OptionError, match="is not a covariance prior"):
        OwnT().covariance(TWO)
