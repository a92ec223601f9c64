"""Response families: densities, derivatives, distributions; fits against glmmTMB, ordinal, lme4, nlme and integrals."""

import gzip
import json
import pickle
import re
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import special, stats

import mvmise_sm as ms
from mvmise_sm.core.families.base import Family
from mvmise_sm.core.families.gamma_functions import log_gamma_derivatives
from mvmise_sm.core.families.negative_binomial import CountTables, nb_derivatives
from mvmise_sm.core.families.predictors import PartsResponse
from mvmise_sm.core.families.registry import FAMILIES
from mvmise_sm.exceptions import ConvergenceWarning, DataError, OptionError, SeparationWarning, SingularFitWarning

FOLDER = Path(__file__).parent / "reference" / "families"
REFERENCE = json.loads(gzip.decompress((FOLDER / "families.json.gz").read_bytes()))
CASES = {c["id"]: c for c in REFERENCE["cases"]}
LINKED = [(name, link) for name, cls in FAMILIES.items() for link in cls.links]


def frame_of(name):
    levels = REFERENCE["levels"].get(name, {})
    frame = pd.read_csv(
        FOLDER / f"{name}.csv.gz", dtype=dict.fromkeys(levels, str), keep_default_na=False, na_values=["NA", ""]
    )
    for column, order in levels.items():
        ordered = bool(order.get("ordered", [False])[0]) and column in ("rating", "r", "rp")
        frame[column] = pd.Categorical(frame[column], categories=order["levels"], ordered=ordered)
    return frame


def rows_of(name, link=None, n=40, seed=0):
    """A family with predictors, a response drawn from it, trials and shapes."""
    rng = np.random.default_rng(seed)
    family = FAMILIES[name](link)
    eta = 0.6 * rng.normal(size=n)
    if family.link.name in ("inverse", "1/mu^2", "identity", "sqrt") and name not in ("gaussian", "t", "lognormal"):
        eta = np.abs(eta) + 0.4
    if name == "binomial" and link == "log":
        eta = -np.abs(eta) - 0.1
    if name == "binomial" and link == "identity":
        eta = np.clip(eta, 0.05, 0.95)
    predictors = [eta]
    if family.has_dispersion:
        predictors.append(0.4 * rng.normal(size=n) + 0.5)
    shape = list(family.shape_start())
    predictors += [np.full(n, s) for s in shape]
    d = np.exp(predictors[1]) if family.has_dispersion else 1.0
    w = rng.integers(1, 9, n).astype(float) if family.trials else None
    return family, predictors, family.draw(rng, eta, w, d, shape), w, d, shape


@pytest.mark.parametrize(("name", "link"), LINKED)
def test_hand_coded_derivatives_equal_jets(name, link):
    family, predictors, y, w, _, _ = rows_of(name, link)
    coded, jets = family.expand(y, w, predictors, True), Family.expand(family, y, w, predictors, True)
    for key, expected in jets.items():
        if len(key) == 3 and key[:2] != (0, 0):
            continue  # only third derivatives with two conditional indices are needed
        expected = expected + np.zeros_like(y)
        good = np.isfinite(expected)
        found = coded.get(key, 0.0) + np.zeros_like(y)
        np.testing.assert_allclose(found[good], expected[good], rtol=1e-10, atol=1e-10)
    constant = family.row_constant(y, w, predictors[1:])
    short = family.expand(y, w, predictors, False)
    np.testing.assert_allclose(short[()] + (0.0 if constant is None else constant), coded[()], rtol=1e-12, atol=1e-12)
    for key in ((0,), (0, 0)):
        np.testing.assert_allclose(short[key], coded[key], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("name", "link"), LINKED)
def test_simulated_responses_have_the_moments_and_the_distribution(name, link):
    family, predictors, y, w, d, shape = rows_of(name, link, n=25)
    rng = np.random.default_rng(3)
    draws = np.array([family.draw(rng, predictors[0], w, d, shape) for _ in range(3000)])
    mean, variance = family.moments(predictors[0], d, shape, w)
    assert (np.abs(draws.mean(axis=0) - mean) < 5.0 * np.sqrt(variance / len(draws))).all()
    if name != "lognormal":  # the fourth moment of a wide lognormal is too large for a simulation
        np.testing.assert_allclose(np.median(draws.var(axis=0) / variance), 1.0, atol=0.15)
    below = family.distribution(y, predictors[0], w, d, shape)
    assert np.abs((draws <= y + 1e-12).mean(axis=0) - below).max() < 5.0 * 0.5 / np.sqrt(len(draws))
    if family.integer or family.trials or name == "lognormal":
        assert family.check(draws[0], w) is None


@pytest.mark.parametrize("x", [10.0 ** np.linspace(-8, 30, 77), np.linspace(0.05, 9.95, 50), np.linspace(10, 200, 20)])
def test_log_gamma_and_its_derivatives(x):
    found = log_gamma_derivatives(x, 0, 4)
    right = [special.gammaln(x), special.digamma(x), *(special.polygamma(k, x) for k in (1, 2, 3))]
    # log gamma and digamma have roots, near which digits are absolute
    for k, tolerance in enumerate((2e-14, 4e-15, 0.0, 0.0, 0.0)):
        np.testing.assert_allclose(found[k], right[k], rtol=2e-14, atol=tolerance)
    np.testing.assert_array_equal(log_gamma_derivatives(x, 2, 3), found[2:4])
    assert np.isnan(log_gamma_derivatives(np.nan, 0, 0)).all()


class _Constantless(FAMILIES["nb1"]):
    """A family that leaves terms without eta out of the short form."""

    def expand(self, y, w, predictors, full):
        out = super().expand(y, w, predictors, full)
        if not full:
            out[()] = out[()] + special.gammaln(y + 1.0)
        return out

    def row_constant(self, y, w, others):
        return -special.gammaln(y + 1.0)


@pytest.mark.parametrize("zero", [False, True])
def test_what_a_family_leaves_out_is_added_once(zero):
    _, _, y, _, _, _ = rows_of("nb1", n=30)
    eta = np.random.default_rng(1).normal(size=(2 + zero, 30))
    found = []
    for family in (FAMILIES["nb1"](), _Constantless()):
        response = PartsResponse(family, y, None, zero=zero, random=(0,))
        response.hold(eta)
        found.append([response.rows(eta[0]).loglik, response.log_density_rows(eta).sum(), response.expand(eta).loglik])
    np.testing.assert_allclose(found[1], found[0], rtol=1e-13)
    np.testing.assert_allclose(found[1], found[1][0], rtol=1e-13)


@pytest.mark.parametrize("name", sorted(FAMILIES))
@pytest.mark.parametrize("zero", [False, True])
def test_rows_with_a_zero_part(name, zero):
    family, _, y, w, _, _ = rows_of(name, n=50)
    if zero and family.zero_part is None:
        pytest.skip("has no zero part")
    rng = np.random.default_rng(1)
    random = (0, 1) if zero else (0,)
    if zero:
        y = np.where(rng.random(y.size) < 0.4, 0.0, y)
    response = PartsResponse(family, y, w, zero=zero, random=random)
    eta = 0.5 * rng.normal(size=(response.n_parts, y.size))
    if family.link.name in ("inverse", "1/mu^2"):
        eta[0] = np.abs(eta[0]) + 0.5
    if name == "genpois":  # underdispersion bounds the counts
        eta[-1] = np.abs(eta[-1])
    here = response.expand(eta)
    response.hold(eta)
    np.testing.assert_allclose(response.rows(eta[list(random)] if zero else eta[0]).loglik, here.loglik, rtol=1e-11)
    h = 1e-5
    for c in range(response.n_parts):
        step = np.zeros_like(eta)
        step[c] = h
        up, down = response.expand(eta + step), response.expand(eta - step)
        keys = [(), *((a,) for a in range(response.n_parts)), *((a, b) for a in random for b in random if a <= b)]
        for key in keys:
            numeric = (np.asarray(up.get(*key)) - np.asarray(down.get(*key))) / (2.0 * h)
            np.testing.assert_allclose(here.get(*key, c) + np.zeros(y.size), numeric, rtol=1e-6, atol=1e-6)


# log f and its derivative in log alpha by 60 digits (mpmath), for (y, mean, alpha)
NB_EXACT = [
    (3, 2.5, 1e-14, -1.5428872736056036, -1.3749999999999667e-14),
    (0, 4.0, 1e-10, -3.9999999992, 7.999999995733333e-10),
    (40, 37.5, 1e-08, -2.8470025644527626, -1.6874994462501784e-07),
    (2000, 2100.0, 1e-06, -7.135112404294759, 0.003981392907828656),
    (20000, 15000.0, 1e-12, -759.5121230217582, 1.248999958353334e-05),
    (7, 0.5, 0.0001, -13.87542957150503, 0.001761607106611205),
]


@pytest.mark.parametrize("row", NB_EXACT)
def test_negative_binomial_near_poisson(row):
    y, m, alpha, log_f, slope = row
    one = np.array([float(y)])
    tables = CountTables(one)
    from mvmise_sm.core.families.distributions import NegativeBinomial

    rows = NegativeBinomial(one, None, alpha)
    value = tables.density(alpha)[0] + rows.loglik(np.array([m]), None)[0]
    size = max(1.0, abs(y * np.log(max(m, 1e-300))) + m)
    assert abs(value - log_f) < 1e-14 * size
    by_row = nb_derivatives(one, np.array([m]), np.array([-np.log(alpha)]), True)
    assert abs(by_row[""][0] - log_f) < 1e-14 * size
    for found in (rows.shape_terms(np.array([m]), None)[0][0], -by_row["k"][0]):
        np.testing.assert_allclose(found, slope, rtol=1e-10, atol=1e-13 * alpha * size**2)


# --- whole fits


def fitted(case):
    data, options = frame_of(case["dataset"]), dict(case["options"])
    family = options.pop("family")
    parts = {k: options.pop(k) for k in ("zero_inflation", "dispersion") if k in options}
    how = {k: options.pop(k) for k in ("nagq", "curvature") if k in options}
    with warnings.catch_warnings():
        for category in (SingularFitWarning, ConvergenceWarning):
            warnings.simplefilter("ignore", category)
        if family.startswith("cumulative"):
            return ms.clmm(case["formula"], data, link=family[11:-1], **options).fit(**how)
        if family == "gaussian":
            return ms.lmer(case["formula"], data, **parts).fit(reml=options["reml"])
        if "df" in options:
            family = ms.families.StudentT(df=options["df"])
        return ms.glmer(case["formula"], data, family=family, **parts).fit(**how)


def plain(name):
    """One spelling for R's and patsy's names."""
    name = re.sub(r"^(zi|disp)_", "", name)
    if name in ("(Intercept)", "Intercept"):
        return "intercept"
    parts = [re.sub(r"\[T\.(.*)\]", r"\1", part) for part in name.split(":")]
    return ":".join(sorted(re.sub(r"[._\[\]]", "", part).lower() for part in parts))


@pytest.mark.parametrize("name", sorted(CASES))
def test_against_other_programs(name):
    case = CASES[name]
    result, expected = fitted(case), case["expected"]
    lme4 = case["engine"] == "glmer"
    np.testing.assert_allclose(result.llf, expected["llf"], atol=1e-3 if lme4 else 1e-4)
    for values, errors in (
        ("params", "bse"),
        ("params_zi", "bse_zi"),
        ("params_disp", "bse_disp"),
        ("thresholds", "bse_thresholds"),
    ):
        if values not in expected:
            continue
        own = {plain(k): v for k, v in getattr(result, values).items() if "|" not in str(k) or values == "thresholds"}
        if values == "params":
            own = {plain(k): v for k, v in result.params.items() if not re.match("zi_|disp_", k)}
        se = {plain(k): v for k, v in expected.get(errors, {}).items()}
        for key, value in expected[values].items():
            allowed = (0.02 if lme4 else 1e-3) * (se.get(plain(key)) or 0.05 + 0.05 * abs(value)) + 1e-5
            assert abs(own[plain(key)] - value) < allowed, key
        if se:
            part = getattr(result, errors)
            found = {plain(k): v for k, v in part.items() if errors != "bse" or not re.match("zi_|disp_", str(k))}
            for key, value in se.items():
                assert abs(found[key] - value) < (0.03 if lme4 else 0.01) * value, key


def test_gradient_with_parts_and_two_factors():
    frame = frame_of("counts1")
    model = ms.glmer(
        "zinb ~ x + (1 + x | g) + (1 | h)", frame, family="nb2", zero_inflation="~ z + (1 | g)", dispersion="~ x"
    )
    criterion = model.criterion()
    x = criterion.start()
    x[: criterion.k_theta] = np.abs(x[: criterion.k_theta]) + 0.2
    gradient = criterion.evaluate(x).gradient
    for i in range(x.size):
        h = 5e-4
        at = [criterion.value(x + k * h * np.eye(x.size)[i]) for k in (1, -1, 2, -2)]
        numeric = (8.0 * (at[0] - at[1]) - (at[2] - at[3])) / (12.0 * h)
        assert abs(gradient[i] - numeric) < 1e-6 * (1.0 + abs(numeric))


# --- what the results answer


@pytest.fixture(scope="module")
def zinb():
    frame = frame_of("Salamanders")
    model = ms.glmer("count ~ mined + (1 | site)", frame, family="nb2", zero_inflation="~ mined", dispersion="~ DOY")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return frame, model.fit()


def test_names_and_parts(zinb):
    _, result = zinb
    assert list(result.params.index) == [
        "Intercept", "mined[T.no]", "zi_Intercept", "zi_mined[T.no]", "disp_Intercept", "disp_DOY",
    ]  # fmt: skip
    assert list(result.params_disp.index) == ["Intercept", "DOY"]
    assert set(result.tidy("all")["component"]) == {"cond", "zi", "disp"}
    text = str(result.summary())
    assert all(title in text for title in ("Conditional part", "Zero part (logit)", "Dispersion (log)"))
    assert np.isfinite(result.t_test("zi_mined[T.no] = 0").pvalue)
    assert result.anova().index.tolist() == ["mined"]


def test_scales_of_predictions(zinb):
    frame, result = zinb
    p, m = result.predict(which="zero"), result.predict(which="conditional")
    np.testing.assert_allclose(result.predict(), (1.0 - p) * m)
    d = result.predict(which="dispersion")
    np.testing.assert_allclose(result.predict(which="variance"), (1.0 - p) * (m + m**2 / d + p * m**2))
    for which in ("mean", "zero", "conditional", "linear", "dispersion"):
        np.testing.assert_allclose(result.predict(frame.head(7), which=which), result.predict(which=which)[:7])
    draws = result.simulate(1500, rng=1, random="conditional").to_numpy()
    assert (draws == np.floor(draws)).all()
    np.testing.assert_allclose(
        draws.mean(axis=1), result.predict(), atol=6.0 * np.sqrt(result.predict(which="variance").max() / 1500)
    )
    again = pickle.loads(pickle.dumps(result))
    np.testing.assert_allclose(again.predict(frame.head(5)), result.predict(frame.head(5)))


@pytest.mark.parametrize("name", ["sal_genpois", "s_zibeta", "s_betabin_disp", "s_tweedie_disp", "s_t", "wine_logit"])
def test_quantile_residuals_and_intervals(name):
    result = fitted(CASES[name])
    again = result.refit(result.simulate(1, rng=5).iloc[:, 0])
    assert stats.kstest(np.asarray(again.resid_quantile(rng=1)), "norm").pvalue > 1e-3
    table = again.prediction_interval(n=200, rng=2)
    y = np.asarray(again.model.endog)
    assert ((y >= table["pi_low"]) & (y <= table["pi_high"])).mean() > 0.9


BAD = {
    "beta": (("pz ~ x + (1 | g)", "beta", {}), "strictly between 0 and 1, found 3 zeros and 1 one; "),
    "truncated": (("n ~ x + (1 | g)", "truncated_poisson", {}), "has no zeros, found .*; give zero_inflation"),
    "no zeros": (("I(n + 1) ~ x + (1 | g)", "poisson", {"zero_inflation": "~ 1"}), "needs zeros in the response"),
    "gaussian": (("x ~ n + (1 | g)", "gaussian", {"zero_inflation": "~ 1"}), "family 'gaussian' has no zero part"),
    "poisson": (("n ~ x + (1 | g)", "poisson", {"dispersion": "~ x"}), "no dispersion to model; use 'nb2'"),
    "random": (("n ~ x + (1 | g)", "nb2", {"dispersion": "~ x + (1 | g)"}), "has a random term; use fixed"),
    "whole": (("I(n + 0.5) ~ x + (1 | g)", "nb1", {}), "counts must be whole numbers, row 0 has"),
    "gamma": (("n ~ x + (1 | g)", "hurdle_gamma", {}), "needs positive responses, found"),
    "two levels": (("b ~ x + (1 | g)", None, {}), "has 2 levels; use glmer"),
    "lognormal": (("n ~ x + (1 | g)", "lognormal", {}), "'lognormal' needs positive responses, found"),
    "all zeros": (("zero ~ x + (1 | g)", "nb2", {"zero_inflation": "~ 1"}), "all responses are 0, so that no"),
    "all zeros, tweedie": (("zero ~ x + (1 | g)", "tweedie", {}), "all responses are 0, so that no estimate"),
    "all ones": (("one ~ x + (1 | g)", "truncated_nb2", {}), "all responses are 1, so that no estimate"),
    "ratings of reals": (("x ~ pz + (1 | g)", None, {}), "'x' has 60 different numbers, not all .*pandas.cut"),
    "ratings with zeros": (("o ~ x + (1 | g)", None, {"zero_inflation": "~ 1"}), "categories have no zero_inflation"),
    "ratings, family": (("o ~ x + (1 | g)", None, {"family": "poisson"}), "ordered categories have no family"),
    "unused level": (("o ~ x + (1 | g)", None, {}), "level 'c' never occurs; drop it"),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(BAD))
def test_bad_input_is_answered(name):
    rng = np.random.default_rng(0)
    n = 60
    frame = pd.DataFrame({"n": rng.poisson(1.0, n), "x": rng.normal(size=n), "g": np.repeat(np.arange(6), 10)})
    frame["pz"] = np.r_[0.0, 0.0, 0.0, 1.0, rng.uniform(0.1, 0.9, n - 4)]
    frame["zero"], frame["one"] = 0, 1
    frame["b"] = pd.Categorical(np.where(frame["x"] > 0, "u", "v"), ordered=True)
    frame["o"] = pd.Categorical.from_codes([0, 1, 3] * 20, list("abcd"), ordered=True)
    (formula, family, options), message = BAD[name]
    with pytest.raises((DataError, OptionError), match=message):
        ms.clmm(formula, frame, **options) if family is None else ms.glmer(formula, frame, family=family, **options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ms.families.StudentT(df=-1.0), "df must be a positive number, got -1.0"),
        (lambda: ms.families.StudentT(df="4"), "df must be a positive number, got '4'"),
        (lambda: ms.families.StudentT(4), "link must be a name, one of logit, .*, or a link of statsmodels, got 4"),
        (lambda: ms.families.Poisson("logg"), "link must be one of .*, got 'logg'"),
    ],
)
def test_families_refuse_what_they_cannot_be(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_zero_part_that_is_not_needed_is_left_soon():
    data = frame_of("Salamanders")
    with pytest.warns(SeparationWarning, match="the zero part has gone to probability 0"):
        fit = ms.glmer("count ~ spp + mined + (1 | site)", data, family="nb2", zero_inflation="~ 1").fit()
    plain = ms.glmer("count ~ spp + mined + (1 | site)", data, family="nb2").fit()
    np.testing.assert_allclose(fit.llf, plain.llf, atol=1e-5)
    # the intercept runs to minus infinity, a unit a step; with Hessians floored by the largest curvature it took 1,044
    assert fit.mle_retvals["n_evaluations"] < 500


def test_curvature_is_refused_where_it_has_no_formula():
    case = CASES["s_beta_cross"]
    model = ms.glmer(case["formula"], frame_of(case["dataset"]), family="beta")
    with pytest.raises(OptionError, match="curvature='expected' has no formula for family 'beta'; use 'observed'"):
        model.fit(curvature="expected")


def test_counts_that_are_poisson_end_at_the_limit():
    rng = np.random.default_rng(0)
    g = np.repeat(np.arange(30), 15)
    x = rng.normal(size=450)
    frame = pd.DataFrame({"y": rng.poisson(np.exp(0.5 + 0.3 * x + 0.5 * rng.normal(size=30)[g])), "x": x, "g": g})
    with pytest.warns(SingularFitWarning, match="not overdispersed; use family='poisson'"):
        result = ms.glmer_nb("y ~ x + (1 | g)", frame).fit()
    assert result.alpha == 0.0
    np.testing.assert_allclose(result.llf, ms.glmer("y ~ x + (1 | g)", frame, family="poisson").fit().llf, atol=1e-8)


def test_a_dispersion_with_a_formula_is_not_taken_for_one_at_its_limit():
    rng = np.random.default_rng(8)
    group = np.repeat(np.arange(18), 10)
    day = np.tile(np.arange(10.0), 18)
    mean = np.exp(2.0 + 0.1 * day + 0.4 * rng.normal(size=18)[group])
    table = pd.DataFrame({"n": rng.negative_binomial(1.5, 1.5 / (1.5 + mean)), "day": day, "g": group})
    fit = ms.glmer("n ~ day + (1 | g)", table, family="nb2", dispersion="~ day").fit()
    assert fit.converged
    assert not fit.singular
