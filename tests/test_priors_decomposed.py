"""Priors of standard deviations and correlations: densities, dense oracles, boundaries and refusals."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import integrate, optimize, stats

import mvmise_sm as ms
from mvmise_sm.exceptions import OptionError, SingularFitWarning
from mvmise_sm.priors.decomposed import Decomposed

P = ms.priors
SLOPES = "Reaction ~ Days + (Days | Subject)"
DENSITIES = {
    "half-t": (P.HalfT(3, 2.0), lambda s: 2.0 * stats.t.pdf(s, 3, scale=2.0)),
    "half-Cauchy": (P.HalfCauchy(0.7), lambda s: stats.halfcauchy.pdf(s, scale=0.7)),
    "half-normal": (P.HalfNormal(1.3), lambda s: stats.halfnorm.pdf(s, scale=1.3)),
    "exponential": (P.Exponential(2.5), lambda s: stats.expon.pdf(s, scale=1.0 / 2.5)),
    "pc": (P.PC(1.5, 0.05), lambda s: stats.expon.pdf(s, scale=-1.5 / np.log(0.05))),
}


@pytest.mark.parametrize("name", DENSITIES)
def test_densities_are_those_of_scipy(name):
    prior, density = DENSITIES[name]
    for sd in (0.0, 0.3, 2.0, 7.0):
        assert prior.in_variance(sd**2)[0] == pytest.approx(-2.0 * np.log(density(sd)), abs=1e-12)


def test_the_pc_prior_has_its_tail():
    assert np.exp(-P.PC(1.5, 0.05).rate * 1.5) == pytest.approx(0.05, rel=1e-14)


def test_lkj_is_normalised():
    def density(*r):
        matrix = np.eye(3)
        matrix[np.triu_indices(3, 1)] = r
        matrix = matrix + matrix.T - np.eye(3)
        det = np.linalg.det(matrix)
        return det ** (2.5 - 1.0) if det > 0.0 and (np.abs(r) < 1.0).all() else 0.0

    def inner(a, b):
        middle, half = a * b, np.sqrt((1.0 - a * a) * (1.0 - b * b))
        return integrate.fixed_quad(lambda c: [density(a, b, x) for x in c], middle - half, middle + half, n=20)[0]

    nodes, weights = np.polynomial.legendre.leggauss(20)
    total = sum(
        u * v * inner(a, b) for a, u in zip(nodes, weights, strict=True) for b, v in zip(nodes, weights, strict=True)
    )
    assert P.LKJ(2.5).constant(3) == pytest.approx(2.0 * np.log(total), abs=1e-3)
    plain = integrate.quad(lambda r: (1.0 - r * r) ** 1.5, -1.0, 1.0)[0]
    assert P.LKJ(2.5).constant(2) == pytest.approx(2.0 * np.log(plain), abs=1e-8)


@pytest.mark.parametrize(
    "prior",
    [
        Decomposed([P.HalfT(3, 2.0), P.HalfNormal(1.0), P.HalfCauchy(2.0)], P.LKJ(2), 3),
        Decomposed([P.Exponential(2.0), P.HalfT(4, 1.0), P.PC(2.0, 0.1)], None, 3),
        Decomposed(None, P.LKJ(3), 3),
    ],
    ids=["both", "deviations", "correlations"],
)
def test_derivatives_are_those_of_differences(prior):
    rng = np.random.default_rng(4)
    root = rng.normal(size=(3, 3)) + 2.0 * np.eye(3)
    s, h = root @ root.T, 1e-5
    for _ in range(3):
        e = rng.normal(size=(3, 3))
        e = e + e.T
        slope = (prior.value(s + h * e) - prior.value(s - h * e)) / (2.0 * h)
        assert float((prior.gradient(s) * e).sum()) == pytest.approx(slope, rel=1e-7, abs=1e-8)
        turned = (prior.gradient(s + h * e) - prior.gradient(s - h * e)) / (2.0 * h)
        np.testing.assert_allclose((prior.hessian(s) @ e.ravel()).reshape(3, 3), turned, rtol=1e-6, atol=1e-8)
    up, down = np.exp(h), np.exp(-h)
    radial = (up * prior.gradient(up * s) - down * prior.gradient(down * s)) / (2.0 * h)
    np.testing.assert_allclose(prior.radial(s), radial, rtol=1e-6, atol=1e-8)


def test_a_linear_mixed_model_ends_at_the_dense_mode():
    data = ms.datasets.load_sleepstudy()
    y, days = data["Reaction"].to_numpy(), data["Days"].to_numpy(float)
    X = np.column_stack([np.ones_like(days), days])
    same = data["Subject"].to_numpy()[:, None] == data["Subject"].to_numpy()[None, :]

    def objective(x):
        sd, rho, s2 = np.exp(x[:2]), np.tanh(x[2]), np.exp(x[3])
        sigma = np.outer(sd, sd) * np.array([[1.0, rho], [rho, 1.0]])
        v = (X @ sigma @ X.T) * same + s2 * np.eye(len(y))
        solved = np.linalg.solve(v, np.column_stack([X, y]))
        beta = np.linalg.solve(X.T @ solved[:, :2], X.T @ solved[:, 2])
        r = y - X @ beta
        like = len(y) * np.log(2 * np.pi) + np.linalg.slogdet(v)[1] + r @ np.linalg.solve(v, r)
        prior = np.log(2.0 * stats.t.pdf(sd, 3, scale=[10.0, 2.5])).sum() + np.log1p(-rho * rho) + np.log(0.75)
        return like - 2.0 * prior

    wanted = optimize.minimize(objective, [3.0, 1.5, 0.1, 6.5], method="BFGS", options={"gtol": 1e-5})
    given = {"Subject": (P.HalfT(3, 10.0), P.HalfT(3, 2.5))}
    result = ms.lmer(SLOPES, data, sd_prior=given, cor_prior={"Subject": P.LKJ(2)}).fit(reml=False)
    assert result.converged
    assert result.criterion + result.penalty == pytest.approx(wanted.fun, abs=1e-6)
    sd, rho, s2 = np.exp(wanted.x[:2]), np.tanh(wanted.x[2]), np.exp(wanted.x[3])
    np.testing.assert_allclose(result.varcorr["sdcor"], [*sd, rho, np.sqrt(s2)], rtol=1e-3, atol=1e-3)
    assert [line for line in str(result.summary()).splitlines() if "half.t" in line and "lkj(eta = 2)" in line]


def test_a_generalised_model_ends_at_the_dense_mode():
    data, family = ms.datasets.load_cbpp(), sm.families.Binomial()
    formula = "incidence / size ~ period + (1 | herd)"
    plain = ms.glmer(formula, data, family=family, weights="size").criterion()
    prior = P.HalfNormal(0.3)

    def objective(x):
        return plain(np.append(np.exp(x[0]), x[1:])) - 2.0 * stats.halfnorm.logpdf(np.exp(x[0]), scale=0.3)

    result = ms.glmer(formula, data, family=family, weights="size", sd_prior=prior).fit()
    at = np.append(np.log(result.theta), result.params)
    assert result.criterion + result.penalty == pytest.approx(objective(at), abs=1e-7)
    wanted = optimize.minimize(objective, [-0.5, *result.params * 0.9], method="BFGS", options={"gtol": 1e-4})
    assert result.criterion + result.penalty <= wanted.fun + 1e-6
    np.testing.assert_allclose(at, wanted.x, atol=2e-3)
    unguarded = ms.glmer(formula, data, family=family, weights="size").fit()
    assert result.theta[0] < unguarded.theta[0]


@pytest.mark.parametrize("prior", [P.HalfT(3, 1e7), P.HalfNormal(1e7), P.HalfCauchy(1e7), P.Exponential(1e-9)])
def test_a_wide_prior_changes_nothing(prior):
    data = ms.datasets.load_sleepstudy()
    flat = ms.lmer(SLOPES, data).fit()
    wide = ms.lmer(SLOPES, data, sd_prior=prior, cor_prior=P.LKJ(1)).fit()
    np.testing.assert_allclose(wide.theta, flat.theta, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(wide.bse, flat.bse, rtol=1e-4)
    assert wide.llf == pytest.approx(flat.llf, abs=1e-6)


def small(effect):
    rng = np.random.default_rng(8)
    g = np.repeat(np.arange(8), 6)
    means = rng.normal(size=8)
    noise = rng.normal(size=48).reshape(8, 6)
    noise -= noise.mean(axis=1, keepdims=True)
    return pd.DataFrame({"g": g, "y": (effect * means)[g] + noise.ravel()})


def test_at_zero_a_half_t_is_singular_and_an_exponential_has_its_mode():
    data = small(0.0)
    with pytest.warns(SingularFitWarning):
        assert ms.lmer("y ~ 1 + (1 | g)", data, sd_prior=P.HalfT(3, 1)).fit().theta[0] == 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = ms.lmer("y ~ 1 + (1 | g)", data, sd_prior=P.Exponential(2)).fit()
    assert result.theta[0] == 0.0
    assert result.converged
    assert not result.singular


@pytest.mark.parametrize("rate", [0.5, 2.0, 4.0, 6.0, 8.0, 12.0, 20.0])
def test_an_exponential_prior_takes_the_lower_of_its_two_modes(rate):
    data = small(0.35)
    plain = ms.lmer("y ~ 1 + (1 | g)", data, resid_prior=P.Point(1.0)).criterion(False)
    grid = np.append(0.0, np.geomspace(1e-4, 3.0, 400))
    values = [plain([s]) + 2.0 * (rate * s - np.log(rate)) for s in grid]
    result = ms.lmer("y ~ 1 + (1 | g)", data, resid_prior=P.Point(1.0), sd_prior=P.Exponential(rate)).fit(reml=False)
    assert result.converged
    assert result.criterion + result.penalty <= min(values) + 1e-8
    assert result.theta[0] == pytest.approx(grid[int(np.argmin(values))], rel=0.03)


@pytest.mark.parametrize("rate", [1.0, 3.0, 10.0])
def test_generalised_models_compare_both_modes_too(rate):
    data, family = ms.datasets.load_cbpp(), sm.families.Binomial()
    formula = "incidence / size ~ period + (1 | herd)"
    options = {"family": family, "weights": "size"}
    result = ms.glmer(formula, data, sd_prior=P.Exponential(rate), **options).fit()
    assert result.converged
    flat = ms.glmer(formula, data, **options).criterion()
    at_zero = optimize.minimize(lambda beta: flat(np.append(0.0, beta)), result.params).fun - 2.0 * np.log(rate)
    assert result.criterion + result.penalty <= at_zero + 1e-7


def test_three_columns_with_half_cauchy_and_lkj_converge():
    rng = np.random.default_rng(1)
    g, x, z = np.repeat(np.arange(20), 8), rng.normal(size=160), rng.normal(size=160)
    y = 1 + x + rng.normal(size=20)[g] + rng.normal(size=160)
    data = pd.DataFrame({"g": g, "x": x, "z": z, "y": y})
    result = ms.lmer("y ~ x + z + (x + z | g)", data, sd_prior=P.HalfCauchy(1), cor_prior=P.LKJ(2)).fit()
    assert result.converged
    assert not result.singular


def test_independent_columns_have_one_prior_each():
    data = ms.datasets.load_sleepstudy()
    given = (P.HalfNormal(20), P.HalfNormal(5))
    one = ms.lmer("Reaction ~ Days + (Days || Subject)", data, sd_prior=given).fit()
    penalty = -2.0 * sum(
        stats.halfnorm.logpdf(s, scale=p.scale) for s, p in zip(one.varcorr["sdcor"], given, strict=False)
    )
    assert one.penalty == pytest.approx(penalty, rel=1e-9)
    assert one.theta[1] < ms.lmer("Reaction ~ Days + (Days || Subject)", data).fit().theta[1]


def test_questions_pickles_and_refits():
    data = ms.datasets.load_sleepstudy()
    result = ms.lmer(SLOPES, data, sd_prior=P.HalfT(3, 5.0), cor_prior=P.LKJ(2)).fit(reml=False)
    loaded = pickle.loads(pickle.dumps(result))
    pd.testing.assert_series_equal(loaded.params, result.params)
    y = np.asarray(result.simulate(1, rng=3))[:, 0]
    again = loaded.refit(y)
    fresh = ms.lmer(SLOPES, data.assign(Reaction=y), sd_prior=P.HalfT(3, 5.0), cor_prior=P.LKJ(2)).fit(reml=False)
    np.testing.assert_allclose(again.params, fresh.params, rtol=1e-6)
    assert again.llf == pytest.approx(fresh.llf, abs=1e-6)
    interval = result.conf_int(method="profile")
    assert np.isfinite(np.asarray(interval, dtype=float)).all()
    assert len(result.bootstrap(2, rng=2).samples) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sd_prior": P.HalfT(), "cov_prior": "wishart"}, "cov_prior and sd_prior both give a prior"),
        ({"cor_prior": P.LKJ(), "cov_prior": P.Wishart()}, "cov_prior and cor_prior both give a prior"),
        (
            {"sd_prior": {"Subjekt": P.HalfT()}},
            "sd_prior names 'Subjekt', the grouping factors of the model are Subject",
        ),
        ({"cor_prior": {"x": P.LKJ()}}, "cor_prior names 'x'"),
        ({"sd_prior": 3}, "sd_prior for 'Subject' must be HalfNormal, HalfT"),
        ({"sd_prior": P.LKJ()}, "sd_prior for 'Subject' must be HalfNormal, HalfT"),
        ({"cor_prior": P.HalfT()}, "cor_prior for 'Subject' must be LKJ"),
        ({"sd_prior": [P.HalfT()] * 3}, "has 3 priors, a term of it 2 columns"),
        ({"sd_prior": [P.HalfT(), 1]}, "one of them for each column"),
        ({"cov_prior": P.HalfT()}, "give it as sd_prior="),
        ({"cov_prior": P.LKJ()}, "give it as cor_prior="),
    ],
)
def test_refusals(options, message):
    with pytest.raises(OptionError, match=message):
        ms.lmer(SLOPES, ms.datasets.load_sleepstudy(), **options)


def test_correlations_that_are_not_there():
    data = ms.datasets.load_sleepstudy()
    with pytest.raises(OptionError, match="have no correlations"):
        ms.lmer("Reaction ~ Days + (1 | Subject)", data, cor_prior={"Subject": P.LKJ()})
    with pytest.raises(OptionError, match="no term of the model has correlations"):
        ms.lmer("Reaction ~ Days + (Days || Subject)", data, cor_prior=P.LKJ())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: P.HalfT(0, 1), "df must be positive"),
        (lambda: P.HalfT(3, np.inf), "scale must be positive and finite"),
        (lambda: P.HalfCauchy("a"), "HalfCauchy: scale must be a number"),
        (lambda: P.HalfNormal(-1), "scale must be positive"),
        (lambda: P.Exponential(np.nan), "Exponential: rate must be positive"),
        (lambda: P.PC(1, 1.0), "between 0 and 1"),
        (lambda: P.LKJ(0.5), "at least 1"),
    ],
)
def test_arguments_are_checked(make, message):
    with pytest.raises(OptionError, match=message):
        make()


def gamma_rows():
    rng = np.random.default_rng(0)
    g, x = np.repeat(np.arange(20), 8), rng.normal(size=160)
    mean = np.exp(1 + 0.3 * x + 0.5 * rng.normal(size=20)[g])
    counts = rng.poisson(mean) * (rng.uniform(size=160) > 0.3)
    z = x + rng.normal(size=20)[g] + rng.normal(size=160)
    return pd.DataFrame(
        {"g": g, "x": x, "t": np.tile(np.arange(8), 20), "y": rng.gamma(2, mean / 2), "n": counts, "z": z}
    )


@pytest.mark.parametrize(
    ("call", "formula", "options"),
    [
        ("glmer", "y ~ x + (1 | g)", {"family": "gamma(log)"}),
        ("glmer", "n ~ x + (1 | g)", {"family": "nb2"}),
        ("glmer", "n ~ x + (1 | g)", {"family": "poisson", "zero_inflation": "~ 1"}),
        ("lmer", "y ~ x + (1 | g)", {"dispersion": "~ x"}),
        ("lmer", "z ~ x + (1 | g)", {"residual": "ar1(t | g)"}),
    ],
)
def test_the_density_is_of_the_absolute_deviation_in_every_model(call, formula, options):
    result = getattr(ms, call)(formula, gamma_rows(), sd_prior=P.HalfNormal(0.2), **options).fit()
    assert result.converged
    wanted = -2.0 * stats.halfnorm.logpdf(result.varcorr["sdcor"].iloc[0], scale=0.2)
    assert result.penalty == pytest.approx(wanted, rel=1e-7)


def test_relative_deviations_are_refused():
    model = ms.glmer("y ~ x + (1 | g)", gamma_rows(), family="gamma(log)", sd_prior=P.HalfNormal(0.2))
    with pytest.raises(OptionError, match="relative standard deviations"):
        model.fit(dispersion="lme4")


def test_streamed_models_take_them(tmp_path):
    data = ms.datasets.load_sleepstudy()
    options = {"sd_prior": P.HalfT(3, 5.0), "cor_prior": P.LKJ(2)}
    whole = ms.lmer(SLOPES, data, **options).fit()
    path = tmp_path / "rows.parquet"
    pytest.importorskip("pyarrow")
    data.to_parquet(path)
    streamed = ms.lmer(SLOPES, path, **options).fit()
    np.testing.assert_allclose(streamed.theta, whole.theta, rtol=1e-6)
    again = pickle.loads(pickle.dumps(streamed))
    assert repr(again.model.priors) == repr(streamed.model.priors)


def missing_values(effect):
    data = small(effect)
    data["x"] = np.tile([0.0, 1.0], 24)
    complete = data.copy()
    data.loc[data["y"] < np.quantile(data["y"], 0.2), "y"] = np.nan
    return complete, data


@pytest.mark.parametrize("rate", [0.2, 3.0, 12.0])
@pytest.mark.parametrize("reml", [True, False])
def test_models_of_missing_values_compare_both_modes_as_lmer_does(rate, reml):
    complete, _ = missing_values(0.5)
    prior = P.PC(upper=-np.log(0.05) / rate)
    expected = ms.lmer("y ~ x + (1 | g)", complete, sd_prior=prior).fit(reml=reml)
    found = ms.lmer_mnar("y ~ x + (1 | g)", complete, sd_prior=prior, mechanism="logit").fit(reml=reml)
    assert -2.0 * found.fit_.value == pytest.approx(expected.criterion + expected.penalty, abs=1e-8)
    # the criterion is flat: 1e-11 of it are 1e-6 of the estimate
    np.testing.assert_allclose(found.theta, expected.theta, atol=1e-4)
    np.testing.assert_allclose(found.params, expected.params, atol=1e-8)
    assert found.converged
    assert not found.singular


@pytest.mark.parametrize("rate", [0.5, 5.0, 30.0])
def test_with_missing_values_an_exponential_prior_takes_the_higher_mode(rate):
    _, data = missing_values(0.6)
    mechanism = ms.mechanisms.Logit(Intercept=-2.0, y=-1.5)
    model = ms.lmer_mnar("y ~ x + (1 | g)", data, sd_prior=P.Exponential(rate), mechanism=mechanism)
    result = model.fit()
    problem = model.problem()
    held = [problem.with_slot(problem.slots[0], ratio).fit() for ratio in (0.0, 0.05, 0.2, 0.4, 0.6, 0.9)]
    assert result.fit_.value >= max(fit.value for fit in held) - 1e-8
    assert result.converged
    assert not result.singular
    if result.theta[0] == 0.0:
        # what a fit with a standard deviation of 0 held says
        np.testing.assert_allclose(result.params, held[0].params.beta)
        assert np.isfinite(result.tidy(ddf="satterthwaite")["df"]).all()
    low, high = result.conf_int(method="profile").loc["sd_Intercept|g"]
    assert low <= result.varcorr["sdcor"].iloc[0] <= high
