"""The public protocol of priors: densities of one number and of log d, the Laplace prior, texts with variables."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import optimize

import mvmise_sm as ms
from mvmise_sm.exceptions import OptionError
from mvmise_sm.priors.decomposed import Decomposed

P = ms.priors
SLOPES = "Reaction ~ Days + (Days | Subject)"


class Bell(P.Prior):
    """A normal density by its value alone."""

    name = "bell"

    def __init__(self, sd, mean=0.0):
        self.sd, self.mean = sd, mean

    def value(self, x):
        return ((x - self.mean) / self.sd) ** 2 + 2.0 * np.log(self.sd * np.sqrt(2.0 * np.pi))


class Falling(P.Prior):
    """The exponential density, with its behaviour at 0 in its own words."""

    def __init__(self, rate, at_zero):
        self.rate, self.at_zero = rate, at_zero

    def value(self, x):
        return 2.0 * (self.rate * x - np.log(self.rate))


class Away(P.DeviationPrior):
    """Density proportional to the standard deviation squared, zero at 0."""

    at_zero = "repels"

    def __init__(self, scale=1.0):
        super().__init__(scale=scale)
        self.scale = scale

    def value(self, x):
        return -4.0 * np.log(x) + (x / self.scale) ** 2 if x > 0.0 else np.inf


def counts():
    rng = np.random.default_rng(3)
    g, x = np.repeat(np.arange(15), 8), rng.normal(size=120)
    mean = np.exp(0.8 + 0.3 * x + 0.5 * rng.normal(size=15)[g])
    n = rng.negative_binomial(1.5, 1.5 / (1.5 + mean)).astype(float)
    share = mean / (2.0 + mean)
    b = rng.beta(5.0 * share, 5.0 * (1.0 - share))
    return pd.DataFrame({"g": g, "x": x, "n": n, "p": mean * rng.gamma(3.0, 1.0 / 3.0, 120), "b": b})


@pytest.mark.parametrize("x", [0.0, 0.02, 0.7, 3.0])
def test_derivatives_by_differences(x):
    prior = Bell(0.8, 0.3)
    assert prior.gradient(x) == pytest.approx(2.0 * (x - 0.3) / 0.64, abs=1e-7)
    assert prior.curvature(x) == pytest.approx(2.0 / 0.64, rel=1e-4)


@pytest.mark.parametrize("prior", [P.HalfT(3, 2.0), P.HalfNormal(0.7), P.Exponential(2.0), Away()])
def test_a_density_of_deviations_in_its_own_scale_and_in_the_variance(prior):
    for sd in (0.3, 1.7):
        h = 1e-5
        slope = (prior.value(sd + h) - prior.value(sd - h)) / (2.0 * h)
        assert prior.gradient(sd) == pytest.approx(slope, rel=1e-6, abs=1e-8)
        value, in_variance, bend = prior.in_variance(sd**2)
        assert value == pytest.approx(prior.value(sd))
        assert in_variance == pytest.approx(slope / (2.0 * sd), rel=1e-5)
        ahead, behind = (prior.in_variance(sd**2 + d)[1] for d in (1e-4, -1e-4))
        assert bend == pytest.approx((ahead - behind) / 2e-4, rel=1e-4, abs=1e-6)


def test_one_density_in_every_role_equals_the_built_in_one():
    sleep = ms.datasets.load_sleepstudy()
    pairs = [
        ({"sd_prior": Bell(10.0)}, {"sd_prior": P.HalfNormal(10.0)}, True),
        ({"fixef_prior": {"Days": Bell(1.0)}}, {"fixef_prior": {"Days": P.Normal(1.0, common_scale=False)}}, False),
        ({"dispersion_prior": Bell(0.1, 3.0)}, {"dispersion_prior": P.Normal(0.1, mean=3.0)}, True),
    ]
    for own, built_in, reml in pairs:
        one, other = (ms.lmer(SLOPES, sleep, **options).fit(reml=reml) for options in (own, built_in))
        np.testing.assert_allclose(one.params, other.params, rtol=1e-5)
        np.testing.assert_allclose(one.theta, other.theta, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(one.bse, other.bse, rtol=1e-3)
        assert "bell(sd = " in str(one.priors)


def test_a_density_of_ones_own_answers_every_question():
    result = ms.lmer("Reaction ~ Days + (1 | Subject)", ms.datasets.load_sleepstudy(), sd_prior=Away(30.0)).fit(
        reml=False
    )
    assert result.converged
    assert np.isfinite(result.bse).all()
    assert np.isfinite(np.asarray(result.conf_int(method="profile"), dtype=float)).all()
    assert len(result.bootstrap(2, rng=1).samples) == 2
    loaded = pickle.loads(pickle.dumps(result))
    assert str(loaded.priors) == str(result.priors)
    criterion = result.deviance_function()
    x = np.asarray(result.optimum, dtype=float) * 1.1
    slope = (criterion.value(x + 1e-5) - criterion.value(x - 1e-5)) / 2e-5
    criterion.value(x)
    assert criterion.evaluate(x).gradient[0] == pytest.approx(slope, rel=1e-5)


def test_at_zero_is_checked_and_used():
    data = ms.datasets.load_sleepstudy()
    with pytest.raises(OptionError, match="so at_zero must be 'attracts', got 'flat'"):
        ms.lmer(SLOPES, data, sd_prior=Falling(1.0, "flat"))
    with pytest.raises(OptionError, match="at_zero='repels' needs a density that is zero"):
        ms.lmer(SLOPES, data, sd_prior=Falling(1.0, "repels"))
    with pytest.raises(OptionError, match="at_zero must be 'flat', 'repels' or 'attracts'"):
        ms.lmer(SLOPES, data, sd_prior=Falling(1.0, "up"))
    flat = data.assign(Reaction=data["Reaction"] - data.groupby("Subject", observed=True)["Reaction"].transform("mean"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        own = ms.lmer("Reaction ~ Days + (1 | Subject)", flat, sd_prior=Falling(0.2, "attracts")).fit()
        away = ms.lmer("Reaction ~ Days + (1 | Subject)", flat, sd_prior=Away()).fit()
    assert own.theta[0] == 0.0
    assert not own.singular
    assert away.theta[0] > 1e-3


def test_exponential_and_lkj_compare_the_mode_at_zero():
    data = ms.datasets.load_sleepstudy()
    strong = ms.lmer(SLOPES, data, sd_prior=P.Exponential(1.5), cor_prior=P.LKJ(2)).fit()
    without = ms.lmer("Reaction ~ Days + (0 + Days | Subject)", data, sd_prior=P.Exponential(1.5)).fit()
    assert strong.converged
    assert not strong.singular
    # the prior of an absent column is that of a standard deviation of 0 and no correlation
    rest = P.Exponential(1.5).value(0.0) + P.LKJ(2).constant(2)
    assert strong.criterion + strong.penalty == pytest.approx(without.criterion + without.penalty + rest, abs=1e-6)
    weak = ms.lmer(SLOPES, data, sd_prior=P.Exponential(0.1), cor_prior=P.LKJ(2)).fit()
    assert weak.converged
    assert (weak.varcorr["sdcor"].to_numpy()[:2] > 1.0).all()
    prior = Decomposed([P.Exponential(0.1)] * 2, P.LKJ(2), 2)
    assert weak.penalty == pytest.approx(prior.value(weak.cov_re["Subject"].to_numpy()), rel=1e-8)


def test_the_laplace_prior_is_the_lasso():
    data = ms.datasets.load_sleepstudy()
    plain = ms.lmer("Reaction ~ Days + (1 | Subject)", data).criterion(reml=False)
    for scale in (0.05, 1.0):
        given = {"Days": P.Laplace(scale, common_scale=False)}
        result = ms.lmer("Reaction ~ Days + (1 | Subject)", data, fixef_prior=given).fit(reml=False)

        def objective(x, s=scale):
            criterion = plain.evaluate_at(np.exp(x[:1]), np.array([x[1], x[2]]), np.exp(x[3]))[0]
            return criterion + 2.0 * abs(x[2]) / s + 2.0 * np.log(2.0 * s)

        at = np.array([np.log(result.theta[0]), *result.params, np.log(result.scale)])
        assert result.converged
        assert result.criterion + result.penalty == pytest.approx(objective(at), abs=1e-3)
        for j in range(4):
            for side in (-0.02, 0.02):
                moved = at.copy()
                moved[j] += side * max(1.0, abs(at[j]))
                assert objective(moved) > objective(at) - 1e-4
    assert np.isfinite(result.bse["Days"])


def test_a_coefficient_at_the_corner_has_no_standard_error():
    data = counts()
    data["noise"] = np.sin(np.arange(120.0))
    result = ms.glmer("n ~ x + noise + (1 | g)", data, family="poisson", fixef_prior={"noise": P.Laplace(0.01)}).fit()
    assert result.converged
    assert abs(result.params["noise"]) < 1e-6
    assert np.isnan(result.bse["noise"])
    without = ms.glmer("n ~ x + (1 | g)", data, family="poisson").fit()
    np.testing.assert_allclose(result.params[["Intercept", "x"]], without.params, atol=1e-5)
    np.testing.assert_allclose(result.bse[["Intercept", "x"]], without.bse, rtol=1e-3)


@pytest.mark.parametrize(("family", "y"), [("gamma(log)", "p"), ("nb2", "n"), ("nb1", "n"), ("beta", "b")])
def test_a_prior_of_the_dispersion_is_of_log_d(family, y):
    data = counts()
    formula = f"{y} ~ x + (1 | g)"
    result = ms.glmer(formula, data, family=family, dispersion_prior=P.Normal(sd=0.3, mean=0.2)).fit()
    assert result.converged
    log_d = np.log(result.dispersion)
    density = ((log_d - 0.2) / 0.3) ** 2 + np.log(2.0 * np.pi * 0.09)
    assert result.penalty == pytest.approx(density, rel=1e-6)
    assert "log d ~ normal(sd = 0.3, mean = 0.2" in str(result.summary())
    free = ms.glmer(formula, data, family=family).fit()
    assert abs(log_d - 0.2) < abs(np.log(free.dispersion) - 0.2)
    criterion = result.deviance_function()
    x = np.asarray(result.optimum, dtype=float) + 0.02
    numerical = optimize.approx_fprime(x, criterion.value, 1e-6)
    criterion.value(x)
    np.testing.assert_allclose(criterion.evaluate(x).gradient, numerical, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"family": "poisson", "dispersion_prior": P.Normal()}, "has no dispersion that is estimated"),
        ({"family": "nb2", "dispersion_prior": P.HalfT()}, "must be a prior of log d"),
        ({"family": "nb2", "dispersion_prior": 3}, "dispersion_prior must be a prior"),
        ({"family": "nb2", "dispersion": "~ x", "dispersion_prior": P.Normal()}, "fixef_prior={'disp_Intercept'"),
    ],
)
def test_priors_of_a_dispersion_that_is_not_there(options, message):
    with pytest.raises(OptionError, match=message):
        ms.glmer("n ~ x + (1 | g)", counts(), **options)


def test_one_prior_for_the_residual():
    with pytest.raises(OptionError, match="both give a prior for the residual"):
        ms.lmer(SLOPES, ms.datasets.load_sleepstudy(), resid_prior=P.Point(1), dispersion_prior=P.Normal())


def test_text_names_variables_of_the_caller():
    wide, scale_of_mine = 25.0, np.diag([1.0, 2.0])  # noqa: F841
    data = ms.datasets.load_sleepstudy()
    named = ms.lmer(
        SLOPES, data, fixef_prior="normal(sd = c(wide, wide / 10))", cov_prior="wishart(scale = scale_of_mine)"
    )
    typed = ms.lmer(
        SLOPES, data, fixef_prior="normal(sd = c(25, 2.5))", cov_prior="wishart(scale = matrix(c(1, 0, 0, 2), 2))"
    )
    assert repr(named.priors) == repr(typed.priors)
    loaded = pickle.loads(pickle.dumps(named.fit(reml=False)))
    assert repr(loaded.refit(data["Reaction"].to_numpy() + 1.0).priors) == repr(typed.priors)
    with pytest.raises(P.PriorSyntaxError, match="unknown name 'elsewhere'"):
        ms.lmer(SLOPES, data, cov_prior="wishart(df = elsewhere)")
    # a dimension of the model goes before a variable of its name
    n_groups = 1000.0
    assert n_groups == 1000.0
    assert "df = 18" in repr(ms.lmer(SLOPES, data, cov_prior="wishart(df = n.groups)").priors)


def test_fits_with_priors_are_lined_up_with_their_hyperparameters():
    data = ms.datasets.load_sleepstudy()
    one, other = (ms.lmer(SLOPES, data, sd_prior=P.HalfNormal(s)).fit(reml=False) for s in (10, 20))
    assert "The priors differ" in ms.compare(one, other).attrs.get("heading", str(ms.compare(one, other)))
    with pytest.raises(OptionError, match=r"half.normal\(scale = 10\)"):
        ms.anova(one, ms.lmer("Reaction ~ 1 + (Days | Subject)", data).fit(reml=False))
