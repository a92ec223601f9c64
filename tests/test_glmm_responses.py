"""Ways to write a response, families by name, and the dispersion."""

import warnings

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm

import mvmise_sm as ms
from mvmise_sm.exceptions import OptionError
from mvmise_sm.models.generalized import GeneralizedLinearMixedModel


@pytest.fixture(scope="module")
def cbpp(frames):
    return frames("cbpp")


@pytest.mark.parametrize(
    ("response", "weights"),
    [
        ("prop", "size"),
        ("I(incidence / size)", "size"),
        ("cbind(incidence, size - incidence)", None),
        ("incidence + healthy", None),
    ],
)
def test_binomial_responses_agree(cbpp, response, weights):
    frame = cbpp.assign(healthy=cbpp["size"] - cbpp["incidence"])
    result = ms.glmer(f"{response} ~ period + (1 | herd)", frame, family="binomial", weights=weights).fit()
    reference = ms.glmer("prop ~ period + (1 | herd)", cbpp, family=sm.families.Binomial(), weights="size").fit()
    np.testing.assert_allclose(result.params, reference.params, rtol=1e-9)
    np.testing.assert_allclose(result.llf, reference.llf, rtol=1e-12)


def test_counts_are_sums_of_bernoulli_rows(cbpp):
    """The likelihoods differ by the binomial coefficients, the estimates not at all."""
    rows = cbpp.loc[cbpp.index.repeat(cbpp["size"])]
    order = np.concatenate([np.arange(n) for n in cbpp["size"]])
    rows = rows.assign(sick=order < rows["incidence"])
    single = ms.glmer("sick ~ period + (1 | herd)", rows, family="binomial").fit()
    counts = ms.glmer("prop ~ period + (1 | herd)", cbpp, family="binomial", weights="size").fit()
    np.testing.assert_allclose(single.params, counts.params, atol=1e-5)
    np.testing.assert_allclose(single.bse, counts.bse, rtol=1e-4)


@pytest.mark.parametrize(
    "coded", [[False, True], ["no", "yes"], pd.Categorical(["A", "B"])], ids=["bool", "text", "levels"]
)
def test_two_labels(coded):
    rng = np.random.default_rng(1)
    frame = pd.DataFrame({"g": np.repeat(np.arange(15), 8), "x": rng.normal(size=120)})
    y = (rng.random(120) < 1 / (1 + np.exp(-frame["x"] - rng.normal(size=15)[frame["g"]]))).astype(int)
    plain = ms.glmer("y ~ x + (1 | g)", frame.assign(y=y), family="binomial").fit()
    labels = pd.Series(coded).iloc[y].reset_index(drop=True)
    result = ms.glmer("y ~ x + (1 | g)", frame.assign(y=labels), family="binomial").fit()
    np.testing.assert_allclose(result.params, plain.params, rtol=1e-10)


def test_array_interface_with_two_columns(cbpp):
    counts = np.column_stack([cbpp["incidence"], cbpp["size"] - cbpp["incidence"]])
    X = np.column_stack([np.ones(len(cbpp)), pd.get_dummies(cbpp["period"]).to_numpy(float)[:, 1:]])
    result = GeneralizedLinearMixedModel(counts, X, cbpp["herd"], family="binomial").fit()
    reference = ms.glmer("prop ~ period + (1 | herd)", cbpp, family="binomial", weights="size").fit()
    np.testing.assert_allclose(result.params, reference.params, rtol=1e-9)


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("binomial", sm.families.Binomial()),
        ("Binomial(probit)", sm.families.Binomial(sm.families.links.Probit())),
        ("binomial(link='cloglog')", sm.families.Binomial(sm.families.links.CLogLog())),
        ("poisson", sm.families.Poisson()),
        ("gamma(log)", sm.families.Gamma(sm.families.links.Log())),
        ("inverse gaussian(log)", sm.families.InverseGaussian(sm.families.links.Log())),
        ("gaussian(log)", sm.families.Gaussian(sm.families.links.Log())),
    ],
)
def test_families_by_name(cbpp, name, same):
    frame = cbpp.assign(y=np.where(cbpp["incidence"] > 1, 1.0, 0.0) if "inom" in name else cbpp["incidence"] + 1.0)
    results = [ms.glmer("y ~ 1 + (1 | herd)", frame, family=f).criterion()(x_of(f)) for f in (name, same)]
    assert results[0] == results[1]


def x_of(family):
    text = family if isinstance(family, str) else type(family).__name__
    dispersed = any(word in text.lower() for word in ("gamma", "aussian"))
    return np.array([0.4, 0.3] + [-0.5] * dispersed)


@pytest.mark.parametrize(("column", "family"), [("yg", "gamma(log)"), ("yig", "inversegaussian(log)")])
def test_dispersion_by_maximum_likelihood(frames, column, family):
    """The likelihood is higher than at lme4's estimates of theta, beta and phi, which minimise something else."""
    model = ms.glmer(f"{column} ~ x + trt + (1 | g)", frames("sim_glmm"), family=family)
    result, classic = model.fit(), model.fit(dispersion="lme4")
    criterion = model.criterion()
    theta = classic.theta * np.sqrt(classic.scale)
    at_classic = criterion(np.concatenate([theta, classic.params, [np.log(classic.scale)]]))
    assert result.converged
    assert result.criterion < at_classic - 1.0
    at_own = criterion(np.concatenate([result.theta * np.sqrt(result.scale), result.params, [np.log(result.scale)]]))
    np.testing.assert_allclose(at_own, result.criterion, rtol=1e-10)
    assert result.k_params == classic.k_params


def test_gamma_recovers_its_dispersion(frames):
    """The data were drawn with shape 4, so with dispersion 0.25; glmmTMB finds 0.3192 and 0.2513 there."""
    result = ms.glmer("yg ~ x + trt + (1 | g)", frames("sim_glmm"), family="gamma(log)").fit()
    np.testing.assert_allclose(result.scale, 0.25, rtol=0.05)
    np.testing.assert_allclose(result.scale, 0.50132**2, rtol=1e-3)
    np.testing.assert_allclose(result.varcorr["sdcor"].iloc[0], 0.3192, rtol=3e-3)


def test_dispersion_is_exact_without_random_effects_of_note():
    """With a variance of zero the estimates are those of a generalised linear model with its own dispersion."""
    rng = np.random.default_rng(3)
    frame = pd.DataFrame({"g": np.tile(np.arange(10), 30), "x": rng.normal(size=300)})
    frame["y"] = rng.gamma(5.0, np.exp(0.3 + 0.2 * frame["x"]) / 5.0)
    means = frame.groupby("g")["y"].transform("mean")
    frame["y"] *= frame["y"].mean() / means
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "singular fit")
        result = ms.glmer("y ~ x + (1 | g)", frame, family="gamma(log)").fit()
    plain = sm.GLM(frame["y"], sm.add_constant(frame["x"]), family=sm.families.Gamma(sm.families.links.Log())).fit()
    assert result.singular
    np.testing.assert_allclose(result.params, plain.params, rtol=1e-7)
    from scipy import stats

    def minus_two_loglik(phi):
        return -2.0 * stats.gamma.logpdf(frame["y"], 1 / phi, scale=plain.fittedvalues * phi).sum()

    np.testing.assert_allclose(result.criterion, minus_two_loglik(result.scale), rtol=1e-9)
    for factor in (0.99, 1.01):
        assert minus_two_loglik(factor * result.scale) > result.criterion


def test_negative_binomial_alpha_and_its_standard_error(frames):
    """glmmTMB finds 1 / alpha = 2.1198 with a standard error of 0.1198 on the log scale."""
    result = ms.glmer_nb("nb ~ x + trt + (1 | g)", frames("sim_glmm")).fit()
    np.testing.assert_allclose(1.0 / result.alpha, 2.1198, rtol=2e-3)
    np.testing.assert_allclose(result.alpha_bse / result.alpha, 0.1198, rtol=5e-3)
    np.testing.assert_allclose(result.bse, [0.07516, 0.08591, 0.04336], rtol=1e-2)
    fixed = sm.families.NegativeBinomial(alpha=result.alpha)
    known = ms.glmer("nb ~ x + trt + (1 | g)", frames("sim_glmm"), family=fixed).fit()
    np.testing.assert_allclose(known.criterion, result.criterion, atol=1e-7)
    assert known.k_params == result.k_params - 1
    assert np.isnan(known.alpha_bse)
    assert "Alpha" in result.summary().as_text()


def test_overdispersion(cbpp):
    result = ms.glmer("prop ~ period + (1 | herd)", cbpp, family="binomial", weights="size").fit()
    check = result.overdispersion()
    np.testing.assert_allclose(check["chisq"], np.square(result.resid_pearson).sum())
    assert check["df"] == 51
    rich = ms.glmer("prop ~ period + (1 | herd) + (1 | obs)", cbpp, family="binomial", weights="size").fit()
    assert rich.overdispersion()["ratio"] < check["ratio"]
    gamma = ms.glmer("I(incidence + 1) ~ 1 + (1 | herd)", cbpp, family="gamma(log)").fit()
    with pytest.raises(OptionError, match="dispersion"):
        gamma.overdispersion()


def test_residuals(cbpp):
    result = ms.glmer("prop ~ period + (1 | herd)", cbpp, family="binomial", weights="size").fit()
    mu, y, n = result.fittedvalues, cbpp["prop"], cbpp["size"]
    np.testing.assert_allclose(result.resid_response, y - mu)
    np.testing.assert_allclose(result.resid_pearson, np.sqrt(n) * (y - mu) / np.sqrt(mu * (1 - mu)))
    np.testing.assert_allclose(result.resid_working, (y - mu) / (mu * (1 - mu)))
    np.testing.assert_allclose(np.square(result.resid_deviance).sum(), result.deviance)


def test_predictions(cbpp):
    result = ms.glmer("prop ~ period + (1 | herd)", cbpp, family="binomial", weights="size").fit()
    linear = result.predict(which="linear")
    np.testing.assert_allclose(result.predict(), 1 / (1 + np.exp(-linear)))
    np.testing.assert_allclose(result.predict(cbpp), result.fittedvalues)
    new = pd.DataFrame({"period": ["1", "4"], "herd": ["1", "99"]})
    both = result.predict(new, allow_new_levels=True, which="linear")
    np.testing.assert_allclose(both.iloc[1], result.params["Intercept"] + result.params["period[T.4]"])
    table = result.get_prediction(new, allow_new_levels=True).summary_frame()
    assert (table["mean_ci_lower"] < table["mean"]).all()
    assert (table["mean"] < table["mean_ci_upper"]).all()
    # a new herd brings the variance of the herds
    wide = result.get_prediction(new, which="linear", allow_new_levels=True).summary_frame()["se"].iloc[1]
    narrow = result.get_prediction(new, which="linear", random="none").summary_frame()["se"].iloc[1]
    np.testing.assert_allclose(wide**2 - narrow**2, result.varcorr["vcov"].iloc[0], rtol=1e-8)
    x = np.array([1.0, 0.0, 0.0, 1.0])
    np.testing.assert_allclose(narrow**2, x @ result.cov_params().to_numpy() @ x)


@pytest.mark.parametrize(
    "family", ["binomial", "poisson", "gamma(log)", "inversegaussian(log)", "gaussian", "negativebinomial"]
)
def test_simulated_responses_have_the_moments_of_the_model(cbpp, family):
    frame = cbpp.assign(y=cbpp["prop"] if family == "binomial" else cbpp["incidence"] + 1.0)
    weights = "size" if family == "binomial" else None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "singular fit")
        result = ms.glmer("y ~ period + (1 | herd)", frame, family=family, weights=weights).fit()
    draws = result.simulate(4000, rng=0, random="conditional").to_numpy()
    mu = result.fittedvalues.to_numpy()
    spread = mu + result.alpha * mu**2 if family == "negativebinomial" else result.family.variance(mu)
    variance = result.scale * spread / (cbpp["size"].to_numpy() if weights else 1.0)
    np.testing.assert_allclose(draws.mean(axis=1), mu, atol=5 * np.sqrt(variance.max() / 4000))
    np.testing.assert_allclose(draws.var(axis=1), variance, rtol=0.35)
    again = result.simulate(2, rng=7)
    pd.testing.assert_frame_equal(again, result.simulate(2, rng=7))
