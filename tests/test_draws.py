"""Joint draws from the normal approximation, and what ArviZ gets of them."""

import warnings
from importlib.util import find_spec

import numpy as np
import pandas as pd
import pytest
from inference_models import fitted, frame_of, sleepstudy, unbalanced
from scipy import stats

import mvmise_sm as ms
from mvmise_sm.exceptions import OptionError, SingularFitWarning
from mvmise_sm.inference.draws import draws
from mvmise_sm.inference.fits import unwrap


def counts(seed=3, groups=20, rows=8):
    rng = np.random.default_rng(seed)
    g = np.repeat(np.arange(groups), rows)
    x = rng.normal(size=g.size)
    mean = np.exp(0.5 + 0.5 * x + 0.6 * rng.normal(size=groups)[g])
    n = rng.negative_binomial(2, 2 / (2 + mean))
    return pd.DataFrame({"n": n, "m": rng.gamma(3, mean / 3), "x": x, "g": g})


def test_draws_of_a_linear_model_are_joint():
    result, count = sleepstudy(), 600
    sample = draws(result, count, 1)
    x = unwrap(result).model.exog
    subject = np.repeat(np.arange(18), 10)
    total = sample.beta[:, None, :] + sample.effects["Subject"]
    fitted_values = np.einsum("nij,ij->ni", total[:, subject], x)
    prediction = result.get_prediction().summary_frame()
    # sums of fixed and random effects have the spread of predictions; that of the variances adds little
    spread = fitted_values.std(axis=0) / prediction["mean_se"].to_numpy()
    assert 0.95 < spread.mean() < 1.1
    np.testing.assert_allclose(fitted_values.mean(axis=0), prediction["mean"], atol=3.0)
    # independent parts would have a larger one
    apart = np.sqrt(sample.beta[:, 0].var() + sample.effects["Subject"][:, :, 0].var(axis=0))
    assert (total[:, :, 0].std(axis=0) < 0.95 * apart).all()
    table = result.tidy("random", conf_int=True)
    for name, low, high in zip(sample.variance, table["conf_low"], table["conf_high"], strict=True):
        inside = np.mean((sample.variance[name] > low) & (sample.variance[name] < high))
        assert inside == pytest.approx(0.95, abs=0.04), name


def test_log_likelihood_of_rows_given_the_draw():
    result = sleepstudy()
    sample = draws(result, 3, 2)
    x, y = unwrap(result).model.exog, unwrap(result).model.endog
    total = sample.beta[:, None, :] + sample.effects["Subject"]
    mean = np.einsum("nij,ij->ni", total[:, np.repeat(np.arange(18), 10)], x)
    expected = stats.norm.logpdf(y, mean, sample.variance["sigma"][:, None])
    np.testing.assert_allclose(sample.log_likelihood, expected, rtol=1e-9)


@pytest.mark.parametrize("family", ["poisson", "nb2", "gamma(log)"])
def test_log_likelihood_of_rows_of_a_family(family):
    data = counts()
    response = "m" if family.startswith("gamma") else "n"
    result = ms.glmer(f"{response} ~ x + (1 | g)", data, family=family).fit()
    sample = draws(result, 3, 4)
    eta = sample.beta @ unwrap(result).model.exog.T + sample.effects["g"][:, data["g"], 0]
    mean, y = np.exp(eta), data[response].to_numpy()
    if family == "poisson":
        expected = stats.poisson.logpmf(y, mean)
    elif family == "nb2":
        size = 1.0 / sample.variance["alpha"][:, None]
        expected = stats.nbinom.logpmf(y, size, size / (size + mean))
    else:
        phi = sample.variance["sigma"][:, None] ** 2
        expected = stats.gamma.logpdf(y, 1.0 / phi, scale=mean * phi)
    np.testing.assert_allclose(sample.log_likelihood, expected, rtol=1e-8, atol=1e-8)


def test_draws_of_generalized_models_have_the_covariance_of_the_fit():
    result = ms.glmer("prop ~ period + (1 | herd)", frame_of("cbpp"), family="binomial", weights="size").fit()
    sample = draws(result, 600, 5, log_likelihood=False)
    np.testing.assert_allclose(sample.beta.mean(axis=0), result.params, atol=4 * result.bse.max() / np.sqrt(600))
    np.testing.assert_allclose(np.cov(sample.beta.T), result.cov_params(), atol=0.15 * np.max(result.bse) ** 2)
    se = float(result.tidy("random", conf_int=True)["std_error"].iloc[0])
    assert sample.variance["sd_Intercept|herd"].std() == pytest.approx(se, rel=0.12)
    assert sample.log_likelihood is None


def test_draws_with_several_predictors_and_indefinite_rows():
    data = counts()
    zip_fit = ms.glmer("n ~ x + (1 | g)", data, family="poisson", zero_inflation="~ 1").fit()
    sample = draws(zip_fit, 20, 6)
    assert sample.beta.shape == (20, 3)
    assert np.isfinite(sample.log_likelihood).all()
    heavy = ms.glmer("np.log(m) ~ x + (1 | g)", data, family=ms.families.StudentT(df=4)).fit()
    sample = draws(heavy, 150, 7)
    assert list(sample.variance) == ["sd_Intercept|g", "dispersion"]
    # random effects spread as their conditional covariance, and with the uncertainty of the coefficients
    conditional = heavy.random_effects_cov["g"][:, 0, 0]
    assert 1.0 < np.median(sample.effects["g"][:, :, 0].var(axis=0) / conditional) < 1.7


def test_a_variance_at_zero_stays_there():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SingularFitWarning)
        result = fitted("Dyestuff2", "Yield ~ 1 + (1 | Batch)")
    sample = draws(result, 10, 8)
    assert (sample.variance["sd_Intercept|Batch"] == 0.0).all()
    assert (sample.effects["Batch"] == 0.0).all()


def test_priors_and_residual_structures():
    data = unbalanced(2, 12)
    mode = ms.blmer("y ~ x + (1 | g)", data, fixef_prior=ms.priors.Normal(sd=0.05, common_scale=False)).fit()
    sample = draws(mode, 200, 9)
    np.testing.assert_allclose(sample.beta.std(axis=0), mode.bse, rtol=0.2)
    sleep = frame_of("sleepstudy")
    ar1 = ms.lmer("Reaction ~ Days + (1 | Subject)", sleep, residual="ar1(Days | Subject)").fit()
    sample = draws(ar1, 20, 10)
    assert list(sample.variance) == ["sd_Intercept|Subject", "sigma", "rho|Residual"]
    assert sample.log_likelihood is None
    assert (np.abs(sample.variance["rho|Residual"]) < 1.0).all()


def test_the_same_seed_draws_the_same():
    first, again = draws(sleepstudy(), 2, 1), draws(sleepstudy(), 2, 1)
    np.testing.assert_array_equal(first.beta, again.beta)
    assert draws(sleepstudy(), 2, np.random.RandomState(1)).beta.shape == (2, 2)


def test_fits_without_a_law_to_draw_from_say_so():
    data = counts()
    with pytest.raises(OptionError, match="covariance of all parameters"):
        draws(ms.glmer("n ~ x + (1 | g)", data, family="poisson").fit(nagq=0), 2)
    with pytest.raises(OptionError, match="fit with dispersion='ml'"):
        draws(ms.glmer("m ~ x + (1 | g)", data, family="gamma(log)").fit(dispersion="lme4"), 2)


def test_variances_of_families_with_a_dispersion_have_intervals():
    result = ms.glmer("m ~ x + (1 | g)", counts(), family="gamma(log)").fit()
    table = result.tidy("random", conf_int=True)
    profile = result.conf_int(method="profile").iloc[2:]
    np.testing.assert_allclose(table[["conf_low", "conf_high"]], profile, rtol=0.1)


@pytest.mark.skipif(find_spec("arviz") is not None, reason="ArviZ is installed")
def test_a_sentence_without_arviz():
    with pytest.raises(OptionError, match="needs the package arviz"):
        sleepstudy().to_arviz()


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
def test_arviz_data():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        az = pytest.importorskip("arviz")
    result = sleepstudy()
    data = result.to_arviz(draws=60, chains=2, rng=0)
    assert data.posterior["beta"].sel(term="Days").shape == (2, 60)
    assert data.posterior["b_Subject"].dims == ("chain", "draw", "Subject_level", "Subject_term")
    assert list(data.posterior["sd"].sd_term.values) == ["Intercept|Subject", "Days|Subject"]
    assert list(data.posterior["cor"].cor_term.values) == ["Intercept.Days|Subject"]
    assert data.posterior["sigma"].shape == (2, 60)
    assert data.log_likelihood["y"].shape == (2, 60, 180)
    np.testing.assert_array_equal(data.observed_data["y"], unwrap(result).model.endog)
    assert "not from a posterior" in data.posterior.attrs["approximation"]
    summary = az.summary(data, var_names=["beta", "sd", "cor", "sigma"])
    np.testing.assert_allclose(summary.loc[["beta[Intercept]", "beta[Days]"], "mean"], result.params, rtol=0.1)
    assert np.isfinite(az.loo(data).elpd_loo)
    with pytest.raises(OptionError, match="draws must be a positive integer"):
        result.to_arviz(draws=0)
