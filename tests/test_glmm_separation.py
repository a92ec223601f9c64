"""Section 6.1 of the blme paper, and what the user hears of separation and other trouble."""

import warnings

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy.optimize import minimize

import mvmise_sm as ms
from mvmise_sm import priors
from mvmise_sm.exceptions import (
    DataError,
    DataWarning,
    OptionError,
    RandomEffectsError,
    SeparationWarning,
    SingularFitWarning,
)

FORMULA = "predation ~ tttcrabs + tttshrimp + tttboth + (1 | block)"
# coefficients, standard errors of the penalised least squares step, standard deviation of the blocks, deviance
PRINTED = {
    "m1": ([1.60, -3.75, -4.36, -5.55], [1.21, 1.38, 1.45, 1.52], 3.50, 60.3),
    "m2": ([5.19, -15.47, -17.46, -20.50], [4.22, 12.63, 12.60, 12.56], 11.75, 39.1),
    "m3": ([1.88, -4.07, -4.81, -6.32], [1.51, 1.53, 1.64, 1.78], 4.40, 43.9),
}


def model(name, frames):
    data = frames("culcita" if name == "m1" else "culcita_sep")
    if name == "m3":
        cauchy = priors.StudentT(df=1, scale=0.75)
        return ms.bglmer(FORMULA, data, family="binomial", cov_prior=None, fixef_prior=cauchy)
    return ms.glmer(FORMULA, data, family="binomial")


def fitted(name, frames):
    with warnings.catch_warnings():
        if name == "m2":
            warnings.simplefilter("ignore", SeparationWarning)
        return model(name, frames).fit(nagq=10, cov_type="rx")


@pytest.mark.parametrize("name", PRINTED)
def test_numbers_printed_in_the_paper(frames, name):
    beta, se, sd, deviance = PRINTED[name]
    result = fitted(name, frames)
    assert result.converged
    # the flat optimum of m2 is printed as far as R's optimiser came
    atol = 0.05 if name == "m2" else 0.0051
    np.testing.assert_allclose(result.params, beta, rtol=0, atol=atol)
    np.testing.assert_allclose(result.bse, se, rtol=0, atol=atol)
    np.testing.assert_allclose(result.varcorr["sdcor"], [sd], rtol=0, atol=atol)
    # Bernoulli responses have a saturated likelihood of 1
    np.testing.assert_allclose(result.criterion, deviance, rtol=0, atol=0.051)


def test_figure_2_objectives(frames):
    """Profiled over the fixed effects, m1 and m3 have a clear optimum in the standard deviation and m2 is flat."""

    def profile(name, sd):
        result = fitted(name, frames)
        criterion = result.model.criterion(nagq=10)

        def objective(beta):
            x = np.append(sd, beta)
            return criterion(x), criterion.gradient(x)[1:]

        found = minimize(objective, result.params, jac=True, method="BFGS", options={"gtol": 1e-6})
        return found.fun - result.criterion - result.penalty

    assert profile("m1", 10.0) > 2.0
    assert profile("m3", 12.0) > 2.0
    assert 0.0 < profile("m2", 6.0) < 1.5


def heard(build, category):
    """The one message of a category that a fit gives."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        build()
    messages = [str(w.message) for w in caught if w.category is category]
    assert len(messages) == 1, [str(w.message) for w in caught]
    assert next(w for w in caught if w.category is category).filename == __file__
    return messages[0]


@pytest.fixture
def grouped():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"g": np.repeat(np.arange(20), 10), "x": rng.normal(size=200)})
    return frame.assign(arm=np.where(frame["g"] < 10, "a", "b"), coin=rng.integers(0, 2, 200), n=rng.poisson(3.0, 200))


def test_infinite_variance_names_the_term_and_the_remedy(frames):
    text = heard(lambda: model("m2", frames).fit(nagq=10), SeparationWarning)
    assert "(1 | block)" in text
    assert "11.7" in text
    assert "cov_prior" in text


def test_complete_separation_names_the_coefficient(grouped):
    frame = grouped.assign(y=(grouped["x"] > 0.2).astype(int))
    text = heard(lambda: ms.glmer("y ~ x + (1 | g)", frame, family="binomial").fit(), SeparationWarning)
    assert "'x'" in text
    assert "fixef_prior" in text


@pytest.mark.parametrize("family", ["binomial", "poisson"])
def test_quasi_complete_separation_names_the_category(grouped, family):
    y = np.where(grouped["arm"] == "a", 0, grouped["coin"] if family == "binomial" else grouped["n"])
    frame = grouped.assign(y=y)
    text = heard(lambda: ms.glmer("y ~ x + arm + (1 | g)", frame, family=family).fit(), SeparationWarning)
    assert "'arm[T.b]'" in text
    assert "'x'" not in text


def test_a_prior_answers_separation(grouped):
    frame = grouped.assign(y=np.where(grouped["arm"] == "a", 0, grouped["coin"]))
    cauchy = priors.StudentT(df=1, scale=6.25)
    result = ms.bglmer("y ~ x + arm + (1 | g)", frame, family="binomial", fixef_prior=cauchy).fit()
    assert result.converged
    assert np.isfinite(result.bse).all()
    assert abs(result.params["arm[T.b]"]) < 15.0


def test_groups_all_at_one_edge(grouped):
    frame = grouped.assign(y=grouped["g"] % 2)
    text = heard(lambda: ms.glmer("y ~ x + (1 | g)", frame, family="binomial").fit(), SeparationWarning)
    assert "20 of 20 groups" in text


def test_counts_without_overdispersion(grouped):
    frame = grouped.assign(y=np.tile([2, 3], 100))
    fits = []
    text = heard(lambda: fits.append(ms.glmer_nb("y ~ x + (1 | g)", frame).fit()), SingularFitWarning)
    assert "poisson" in text
    assert fits[0].alpha == 0.0
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "singular fit")
        poisson = ms.glmer("y ~ x + (1 | g)", frame, family="poisson").fit()
    np.testing.assert_allclose(fits[0].llf, poisson.llf, atol=1e-8)
    np.testing.assert_allclose(fits[0].bse, poisson.bse, rtol=1e-3)
    assert not fits[0].alpha_bse > 1e-3


@pytest.mark.parametrize(
    ("response", "family", "message"),
    [
        ("n", "binomial", "between 0 and 1"),
        ("n - 3", "poisson", "not negative"),
        ("n - 3", "negativebinomial", "not negative"),
        ("n + 0.5", "poisson", "counts must be whole numbers, row 0 has"),
        ("n + 0.5", "negativebinomial", "counts must be whole numbers, row 0 has"),
        ("n", "gamma(log)", "positive"),
        ("n", "inverse_gaussian(log)", "positive"),
        ("0 * n", "binomial", "all responses are 0"),
        ("0 * n + 1", "binomial", "all responses are 1"),
        ("0 * n", "poisson", "all responses are 0"),
        ("cbind(0 * n, 0 * n)", "binomial", "neither successes nor failures"),
        ("cbind(n, -1 - n)", "binomial", "negative"),
    ],
)
def test_responses_out_of_range(grouped, response, family, message):
    left = response if response.startswith("cbind") or response == "n" else f"I({response})"
    with pytest.raises(DataError, match=message):
        ms.glmer(f"{left} ~ x + (1 | g)", grouped, family=family)


def test_counts_that_are_not_whole(grouped):
    text = heard(lambda: ms.glmer("I(coin / 2) ~ x + (1 | g)", grouped, family="binomial"), DataWarning)
    assert "not whole" in text


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("nonsense", "nonsense"),
        (None, "family is needed"),
        ("binomial(cube)", "cube"),
        (sm.families.Tweedie, "Tweedie"),
    ],
)
def test_unknown_families(grouped, family, message):
    with pytest.raises(OptionError, match=message):
        ms.glmer("coin ~ x + (1 | g)", grouped, family=family)


def test_options_that_are_not_available(grouped):
    fit = ms.glmer("coin ~ x + (1 | g)", grouped, family="binomial").fit
    with pytest.raises(OptionError, match="nagq"):
        fit(nagq=-1)
    with pytest.raises(OptionError, match="nagq"):
        fit(nagq=1.5)
    with pytest.raises(NotImplementedError, match="HC0"):
        fit(cov_type="HC0")
    with pytest.raises(OptionError, match="dispersion"):
        fit(dispersion="pearson")
    with pytest.raises(OptionError, match="start_theta"):
        fit(start_theta=[1.0, 2.0])
    with pytest.raises(RandomEffectsError, match="no random-effects term"):
        ms.glmer("coin ~ x", grouped, family="binomial")


@pytest.mark.filterwarnings("ignore::mvmise_sm.exceptions.ConvergenceWarning")
def test_a_saddle_of_separated_data_is_named_and_left_by_profiles():
    """Groups that are all 0 or all 1, as many of each: by symmetry the search ends where there is no minimum."""
    g = np.repeat(np.arange(12), 5)
    frame = pd.DataFrame({"y": g % 2, "g": g})
    fits = []
    text = heard(lambda: fits.append(ms.glmer("y ~ 1 + (1 | g)", frame, family="binomial").fit()), SeparationWarning)
    assert "saddle point: the objective is 24.2104 there and 23." in text
    assert fits[0].conf_int(method="profile").loc["sd_Intercept|g", 1] == np.inf
    # fewer of one kind than of the other: a minimum
    frame = frame.assign(y=(g % 3 == 0).astype(int))
    assert "saddle" not in heard(lambda: ms.glmer("y ~ 1 + (1 | g)", frame, family="binomial").fit(), SeparationWarning)
