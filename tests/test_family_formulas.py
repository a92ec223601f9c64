"""Formulas of families, links and jets against each other, against differences, and against scipy's laws."""

import numpy as np
import pytest
from scipy import stats
from scipy.special import gammaln, ndtr
from statsmodels.genmod.families import links as sm_links

from mvmise_sm.core.families.exponential import Binomial, InverseGaussian, NegativeBinomial, Poisson
from mvmise_sm.core.families.jets import FUNCTIONS, variables
from mvmise_sm.core.families.links import LINKS, ForeignLink, as_link

X = np.linspace(0.2, 0.9, 8)
STEP = 1e-5


def differences(f, x, step=STEP):
    return (f(x + step) - f(x - step)) / (2.0 * step)


@pytest.mark.parametrize("ufunc", FUNCTIONS, ids=lambda f: f.__name__)
def test_derivatives_of_functions_are_differences_of_the_last(ufunc):
    x = -X if ufunc.__name__ == "log1mexp" else X
    for k in range(4):
        wanted = differences(lambda at, k=k: np.asarray(FUNCTIONS[ufunc](at, 4)[k]) * np.ones_like(at), x)
        found = FUNCTIONS[ufunc](x, 4)[k + 1] * np.ones_like(x)
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-7)


def jets():
    return variables([X, X[::-1]], 3)


def test_powers_of_jets():
    a, b = jets()
    x, y = X, X[::-1]
    cube, root, power, base = (f.derivatives() for f in (a**3, a**2.5, a**b, 2.0**a))
    np.testing.assert_allclose(cube[0, 0], 6.0 * x)
    np.testing.assert_allclose(cube[0, 0, 0], 6.0)
    np.testing.assert_allclose(root[0, 0, 0], 2.5 * 1.5 * 0.5 * x**-0.5)
    np.testing.assert_allclose(power[()], x**y)
    np.testing.assert_allclose(power[0, 1], x ** (y - 1.0) * (1.0 + y * np.log(x)))
    np.testing.assert_allclose(power[1, 1], x**y * np.log(x) ** 2)
    np.testing.assert_allclose(base[0, 0, 0], np.log(2.0) ** 3 * 2.0**x)


def test_jets_go_through_functions_and_say_what_does_not():
    a, b = jets()
    found = np.sqrt(a * b).derivatives()
    np.testing.assert_allclose(found[0,], 0.5 * np.sqrt(X[::-1] / X))
    np.testing.assert_allclose(found[0, 1], 0.25 / np.sqrt(X * X[::-1]))
    np.testing.assert_allclose((1.0 - a / b).derivatives()[1, 1], -2.0 * X / X[::-1] ** 3)
    kept = np.where(X > 0.5, a, b).derivatives()
    np.testing.assert_allclose(kept[0,], X > 0.5)
    assert repr(a) == "<jet of order 3 in 2 variables>"
    with pytest.raises(TypeError, match="may not use sinh of a linear predictor; allowed are"):
        np.sinh(a)
    with pytest.raises(TypeError):
        np.add.reduce(a)
    with pytest.raises(TypeError):
        np.linalg.norm(a)


@pytest.mark.parametrize("name", LINKS)
def test_links_undo_their_inverses(name):
    link = LINKS[name]()
    np.testing.assert_allclose(link(link.inverse(X)), X, rtol=1e-12)
    np.testing.assert_allclose(link.inverse_deriv(X), differences(link.inverse, X), rtol=1e-8)
    np.testing.assert_allclose(link.inverse_deriv2(X), differences(link.inverse_deriv, X), rtol=1e-6, atol=1e-9)
    third = link.third(X, link.inverse_deriv(X), link.inverse_deriv2(X))
    np.testing.assert_allclose(third * np.ones_like(X), differences(link.inverse_deriv2, X), rtol=1e-6, atol=1e-8)
    mean = link.inverse(X)
    np.testing.assert_allclose(link.deriv(mean), 1.0 / link.inverse_deriv(X), rtol=1e-10)
    assert repr(link) == f"<link {name}>"


def test_links_of_statsmodels_that_are_not_ours():
    link = as_link(sm_links.CDFLink(stats.t(5)))
    assert isinstance(link, ForeignLink)
    assert link.name == "CDFLink"
    np.testing.assert_allclose(link.inverse(X), stats.t(5).cdf(X), rtol=1e-12)
    np.testing.assert_allclose(link(link.inverse(X)), X, rtol=1e-10)
    third = link.third(X, link.inverse_deriv(X), link.inverse_deriv2(X))
    np.testing.assert_allclose(third, differences(link.inverse_deriv2, X, 1e-4), rtol=1e-3, atol=1e-4)
    # statsmodels' power link with another exponent than the named ones
    assert isinstance(as_link(sm_links.Power(0.7)), ForeignLink)
    with pytest.raises(ValueError, match="link must be one of logit, probit"):
        as_link("logot")


U, MEAN = np.array([0.1, 0.5, 0.93]), np.array([0.3, 0.6, 0.8])


def test_quantiles_undo_distribution_functions():
    trials = np.array([5.0, 9.0, 20.0])
    family = Binomial()
    at = family.quantile(U, MEAN, trials)
    # the smallest proportion whose distribution function reaches u
    assert (family.cdf(at, MEAN, trials) >= U).all()
    assert (family.cdf(at - 1.0 / trials, MEAN, trials) < U).all()
    np.testing.assert_allclose(family.start(np.array([0.0, 1.0]), np.array([4.0, 4.0])), [-np.log(9), np.log(9)])
    gaussian = InverseGaussian()
    y = gaussian.quantile(U, MEAN, 2.0, 0.5)
    np.testing.assert_allclose(gaussian.cdf(y, MEAN, 2.0, 0.5), U, rtol=1e-10)
    np.testing.assert_allclose(y, stats.invgauss(MEAN / 4.0, scale=4.0).ppf(U))
    # the variance is d mean^3
    np.testing.assert_allclose(gaussian.variance(MEAN, 0.5), stats.invgauss(MEAN / 2.0, scale=2.0).var(), rtol=1e-12)
    sample = np.array([1.0, 2.0, 4.0, 5.0])
    assert gaussian.start_dispersion(sample) == pytest.approx(np.log(2.5 / 27.0))
    np.testing.assert_allclose(gaussian.link.inverse(gaussian.start(sample)), sample)


def test_a_negative_binomial_of_infinite_size_is_poisson():
    family, mean, d = NegativeBinomial(), np.array([0.5, 3.0, 11.0]), np.full(3, np.inf)
    np.testing.assert_array_equal(family.quantile(U, mean, None, d), stats.poisson(mean).ppf(U))
    np.testing.assert_allclose(family.cdf(np.array([-1.0, 2.0, 9.0]), mean, None, d), Poisson().cdf([-1, 2, 9], mean))
    draws = family.simulate(np.random.default_rng(0), np.full(4000, 3.0), None, np.array([np.inf]))
    assert draws.var() == pytest.approx(draws.mean(), rel=0.1)
    np.testing.assert_array_equal(family.quantile(U, mean, None, 2.0), stats.nbinom(2.0, 2.0 / (2.0 + mean)).ppf(U))


def test_a_negative_binomial_of_known_alpha_has_no_dispersion_to_estimate():
    family = NegativeBinomial(alpha=0.5)
    assert not family.has_dispersion
    y, eta = np.array([0.0, 2.0, 7.0]), np.array([0.1, 0.4, 1.2])
    found = family.expand(y, None, (eta,), True)
    law = stats.nbinom(2.0, 2.0 / (2.0 + np.exp(eta)))
    np.testing.assert_allclose(found[()], law.logpmf(y), rtol=1e-12)
    np.testing.assert_allclose(
        found[0,], differences(lambda e: stats.nbinom(2.0, 2.0 / (2.0 + np.exp(e))).logpmf(y), eta), rtol=1e-7
    )
    assert all(set(key) <= {0} for key in found)


def test_functions_of_jets_are_numpys_and_scipys():
    (a,) = variables([X], 1)
    np.testing.assert_allclose(ndtr(a).derivatives()[0,], stats.norm.pdf(X))
    np.testing.assert_allclose(gammaln(a).value, gammaln(X))
    np.testing.assert_allclose(np.expm1(a).derivatives()[0,], np.exp(X))
    np.testing.assert_allclose(np.square(a).derivatives()[0,], 2.0 * X)
