"""What comes in: labels and numbers of any type, names that collide, text that cannot be read, filters of the user."""

import subprocess
import sys
import textwrap
import warnings
from datetime import timedelta

import numpy as np
import pandas as pd
import pytest

import mvmise_sm as ms
from mvmise_sm import exceptions as ex

OURS = (ex.FormulaError, ex.DataError, ex.OptionError)


@pytest.fixture(scope="module")
def frame():
    rng = np.random.default_rng(11)
    g = np.repeat(np.arange(10), 8)
    x = rng.normal(size=80)
    y = 1.0 + 0.5 * x + 1.5 * rng.normal(size=10)[g] + rng.normal(size=80)
    return pd.DataFrame({"y": y, "x": x, "g": g, "f": np.tile(list("abcd"), 20), "k": np.arange(80) % 7 + 1})


@pytest.fixture(scope="module")
def plain(frame):
    return ms.lmer("y ~ x + (1 | g)", frame).fit()


# --- labels


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"])
@pytest.mark.parametrize("spread", [False, True])
def test_group_labels_of_any_integer_type(frame, dtype, spread):
    limits = np.iinfo(dtype)
    ends = [limits.min, limits.min + 8, limits.max - 10, limits.max]
    labels = np.array(ends, dtype=dtype) if spread else np.array([limits.max - 3 + j for j in range(4)], dtype=dtype)
    frame = frame.assign(h=labels[frame["k"] % 4])
    expected = ms.lmer("y ~ x + (1 | h)", frame.assign(h=frame["k"] % 4))
    for given in (ms.lmer("y ~ x + (1 | h)", frame), ms.LinearMixedModel(frame["y"], frame[["x"]], frame["h"])):
        (factor,) = given.random_effects.factors
        assert factor.n_levels == 4
        assert sorted(map(int, factor.levels)) == sorted(map(int, labels))
    assert given.nobs == 80
    codes = ms.lmer("y ~ x + (1 | h)", frame).random_effects.factors[0].codes
    np.testing.assert_array_equal(codes, expected.random_effects.factors[0].codes)


@pytest.mark.parametrize("dtype", [">i2", ">i4", ">u8", ">f4", ">f8", "float16", "longdouble", ">M8[s]", "S3", ">U4"])
def test_group_labels_of_any_byte_order_and_precision(frame, plain, dtype):
    scale = 3 if dtype in ("S3", ">U4") else 30 if dtype == "float16" else 1000
    frame = frame.assign(h=(frame["g"].to_numpy() * scale).astype(dtype))
    for random in ("(1 | h)", "(1 | h:k)"):
        result = ms.lmer(f"y ~ x + {random}", frame)
        assert result.nobs == 80
    np.testing.assert_allclose(ms.lmer("y ~ x + (1 | h)", frame).fit().llf, plain.llf, rtol=1e-12)


def test_group_labels_of_a_selection_model_do_not_wrap():
    wide = ms.datasets.load_tmt("wide")
    codes = wide["batch"].factorize()[0]
    small = np.linspace(-128, 127, codes.max() + 1).astype("int8")
    formula = "P1_a + P1_b ~ condition + (1 | batch)"
    assert ms.mvmise_b(formula, wide.assign(batch=small[codes])).n_groups == codes.max() + 1


# --- numbers in expressions


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32", "uint32", "int64"])
@pytest.mark.parametrize(
    "expression", ["I(a**3)", "I(a - b)", "np.square(a)", "I(a * b * a)", "I(-a)", "poly(a, 2)", "np.power(a, 5)"]
)
def test_integers_in_expressions_do_not_overflow(frame, dtype, expression):
    top = np.iinfo(dtype).max
    a, b = (frame["k"] * (top // 8)).astype(dtype), (frame["g"] * (top // 16)).astype(dtype)
    small = ms.lmer(f"y ~ {expression} + (1 | g)", frame.assign(a=a, b=b))
    wide = ms.lmer(f"y ~ {expression} + (1 | g)", frame.assign(a=a.astype(float), b=b.astype(float)))
    np.testing.assert_array_equal(small.exog, wide.exog)


def test_integers_do_not_overflow_in_random_terms_offsets_weights_and_responses(frame):
    frame = frame.assign(a=(frame["k"] * 9000).astype("int16"))
    for formula, options in [
        ("I(a**2) ~ x + (1 | g)", {}),
        ("y ~ x + offset(a * a) + (1 | g)", {}),
        ("y ~ x + (0 + I(a * 100) | g)", {}),
        ("y ~ x + (1 | g)", {"weights": "a * a"}),
    ]:
        small, wide = (ms.lmer(formula, f, **options) for f in (frame, frame.assign(a=frame["a"].astype(float))))
        for name in ("endog", "weights", "offset"):
            np.testing.assert_array_equal(np.asarray(getattr(small, name)), np.asarray(getattr(wide, name)))
        for one, other in zip(small.random_effects.terms[0].columns, wide.random_effects.terms[0].columns, strict=True):
            np.testing.assert_array_equal(one, other)


def test_truth_values_add_as_in_r(frame):
    frame = frame.assign(p=frame["x"] > 0, q=frame["k"] > 3)
    model = ms.lmer("y ~ I(p + q) + (1 | g)", frame)
    assert set(model.exog[:, 1]) == {0.0, 1.0, 2.0}
    assert ms.lmer("y ~ I(p & q) + (1 | g)", frame).exog_names[1] == "I(p & q)[T.True]"


def test_integers_stay_labels_and_positions(frame):
    table = np.sqrt(np.arange(10.0))  # noqa: F841 - the formula uses it

    def doubled(values):
        assert values.dtype == np.int64
        return values * 2

    model = ms.lmer("y ~ C(k) + (table[k] + doubled(k) | g)", frame.assign(k=frame["k"].astype("int8")))
    assert model.exog_names[1] == "C(k)[T.2]"


def test_integers_overflow_neither_in_new_data(frame):
    frame = frame.assign(a=(frame["k"] * 9000).astype("int16"))
    result = ms.lmer("y ~ I(a**2) + (1 | g)", frame).fit()
    np.testing.assert_allclose(result.predict(frame), result.fittedvalues, rtol=1e-9)


# --- names


def test_a_column_called_intercept(frame):
    frame = frame.assign(Intercept=frame["x"])
    for formula in ("y ~ Intercept + (1 | g)", "y ~ x + (Intercept | g)", "y ~ C(f) * Intercept + (1 | g)"):
        with pytest.raises(ex.FormulaError, match="a column is called 'Intercept'"):
            ms.lmer(formula, frame)
    result = ms.lmer("y ~ 0 + Intercept + (1 | g)", frame).fit()
    np.testing.assert_allclose(result.params, ms.lmer("y ~ 0 + x + (1 | g)", frame).fit().params.to_numpy())


@pytest.mark.parametrize("name", ["1", "0", "2x", "-1", "a b", "x + k", "1e3", "for", "True", "a:b", "é", "x|g", "~"])
def test_columns_whose_names_are_not_names(frame, name):
    named = frame.assign(**{name: frame["x"], "h " + name: frame["g"]})
    for pattern in ("y ~ {} + (1 | g)", "y ~ {} + (0 + {} | g)", "y ~ {0} + ({0} || g)", "y ~ 0 + {} + (1 | g)"):
        odd = ms.lmer(pattern.replace("{}", "{0}").format(f"`{name}`"), named)
        same = ms.lmer(pattern.replace("{}", "{0}").format("x"), frame)
        np.testing.assert_array_equal(odd.exog, same.exog)
        assert odd.exog_names == [name if n == "x" else n for n in same.exog_names]
        for one, other in zip(odd.random_effects.terms, same.random_effects.terms, strict=True):
            assert one.names == tuple(name if n == "x" else n for n in other.names)
    grouped = ms.lmer(f"y ~ x + (1 | `h {name}`)", named)
    assert grouped.random_effects.factors[0].n_levels == 10


def test_names_that_collide_are_answered(frame):
    frame = frame.assign(**{"f[T.b]": frame["x"]})
    with pytest.raises(ex.FormulaError, match="rename"):
        ms.lmer("y ~ f + `f[T.b]` + (1 | g)", frame)


# --- dates and times are numbers


def test_dates_times_and_durations_are_numbers(frame):
    days = frame["k"] + 20.0
    start = pd.Timestamp("1970-01-01")
    stamp = start + pd.to_timedelta(days, unit="D")
    columns = {
        "datetime": stamp,
        "zoned": stamp.dt.tz_localize("UTC").dt.tz_convert("Asia/Tokyo"),
        "coarse": stamp.astype("datetime64[s]"),
        "date": stamp.dt.date,
        "period": stamp.dt.to_period("D"),
        "duration": pd.to_timedelta(days, unit="D"),
        "timedelta": pd.Series([timedelta(days=float(d)) for d in days], dtype=object),
    }
    expected = ms.lmer("y ~ t + (0 + t | g)", frame.assign(t=days))
    for kind, values in columns.items():
        model = ms.lmer("y ~ t + (0 + t | g)", frame.assign(t=values))
        assert model.exog_names == ["Intercept", "t"], kind
        np.testing.assert_allclose(model.exog, expected.exog, err_msg=kind)
        np.testing.assert_allclose(model.random_effects.terms[0].columns[0], days, err_msg=kind)
    result = ms.lmer("y ~ t + (1 | g)", frame.assign(t=stamp)).fit()
    np.testing.assert_allclose(result.predict(frame.assign(t=stamp)), result.fittedvalues)
    assert ms.lmer("y ~ x + (1 | t)", frame.assign(t=stamp)).random_effects.factors[0].n_levels == 7
    assert len(ms.lmer("y ~ C(t) + (1 | g)", frame.assign(t=stamp)).exog_names) == 7


def test_missing_dates_are_missing(frame):
    stamp = pd.Timestamp("2020-01-01") + pd.to_timedelta(frame["k"], unit="D")
    stamp.iloc[:3] = pd.NaT
    assert ms.lmer("y ~ t + (1 | g)", frame.assign(t=stamp)).nobs == 77


# --- responses


@pytest.mark.parametrize("family", ["poisson", "gamma", "gaussian", "negativebinomial", "inversegaussian"])
def test_labels_are_no_response_of_other_families(frame, family):
    frame = frame.assign(z=np.where(frame["x"] > 0, "yes", "no"))
    for column in (frame["z"], frame["z"].astype("category")):
        with pytest.raises(ex.DataError, match=r"'z' must be numeric .* found labels"):
            ms.glmer("z ~ x + (1 | g)", frame.assign(z=column), family=family)
    assert ms.glmer("z ~ k + (1 | g)", frame, family="binomial").endog.mean() == (frame["x"] > 0).mean()


# --- every error is one of ours


TEXTS = [
    "y ~ x + (1 | g) + 'abc",
    "y ~ " + "(" * 1000 + "x" + ")" * 1000 + " + (1 | g)",
    "y ~ " + " + ".join(["x"] * 3000) + " + (1 | g)",
    "y ~ x + (" + " + ".join(["x"] * 3000) + " | g)",
    "y ~ x + (1 | " + ":".join(["g"] * 3000) + ")",
    "y ~ " + "-" * 3000 + "x + (1 | g)",
    "y ~ (" + " + ".join(f"I(x**{j})" for j in range(2, 40)) + ")**20 + (1 | g)",
    "y ~ x**1.5 + (1 | g)",
    "y ~ x**-1 + (1 | g)",
    "y ~ x\0 + (1 | g)",
    "y ~ %in% + (1 | g)",
    "y ~ x := 3 + (1 | g)",
    "y ~ lambda: 3 + (1 | g)",
    "y ~ {x} + (1 | g)",
    "y ~ np.ones(10**14) + (1 | g)",
    "y ~ bs(x, df=10**8) + (1 | g)",
    "y ~ bs(x, df=1000) + (1 | g)",
    "y ~ cr(x, df=10**9) + (1 | g)",
    "y ~ bs(x, degree=10**8, df=10**8 + 5) + (1 | g)",
    "y ~ bs(x, df='many') + (1 | g)",
    "y ~ poly(x, 10**9) + (1 | g)",
    "y ~ poly(x, 'two') + (1 | g)",
    "y ~ I(1 / 0) + (1 | g)",
    "y ~ f.foo() + (1 | g)",
    "y ~ center(f) + (1 | g)",
    "y ~ log(f) + (1 | g)",
    "y ~ I(x)(x) + (1 | g)",
    "y ~ x[5000] + (1 | g)",
    "y ~ C(f, 3) + (1 | g)",
    "y ~ C(f, Treatment('zz')) + (1 | g)",
    "y ~ x + (1 | I(g)(g))",
    "y ~ x + (1 | np.linalg.inv(g))",
    "y ~ " + "q" * 5000 + " + (1 | g)",
    "y ~ x + (1 | " + "q" * 5000 + ")",
    "y" * 5000,
    "y ~ x + (1 | g)" + " " * 2_000_000,
    "",
    "y ~ x ~ g",
    "~",
    "y ~ x + (1 || )",
]


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text[:24].replace("\0", "0"))
def test_every_formula_error_is_ours_and_short(frame, text):
    with pytest.raises(OURS) as caught:
        ms.lmer(text, frame)
    assert len(str(caught.value)) <= 1000


def test_a_formula_of_two_hundred_terms_is_read(frame):
    rng = np.random.default_rng(0)
    wide = frame.assign(**{f"v{j}": rng.normal(size=80) for j in range(60)})
    text = "y ~ " + " + ".join(f"v{j % 60}" for j in range(200)) + " + (1 | g)"
    assert len(ms.lmer(text, wide).exog_names) == 61


PRIORS = [
    "gamma(shape = rep(1, 1e12))",
    "gamma(shape = -1)",
    "gamma(shape = 'a')",
    "wishart(scale = diag(1e6))",
    "wishart(scale = matrix(1, 1e9, 1e9))",
    "wishart(df = " + "(" * 3000 + "1" + ")" * 3000 + ")",
    "wishart(df = " + "x" * 5000 + ")",
    "wishart(df = 1e400 ^ 2)",
    "wishart(df = rep(1, Inf))",
    "unknown",
    "gamma(",
    "\0",
    "~",
    "zz ~ gamma",
]


@pytest.mark.parametrize("text", PRIORS, ids=lambda text: text[:24].replace("\0", "0"))
def test_every_prior_error_is_ours_and_short(frame, text):
    with pytest.raises(ex.OptionError) as caught:
        ms.lmer("y ~ x + (1 | g)", frame, cov_prior=text).fit()
    assert len(str(caught.value)) <= 1000


@pytest.mark.parametrize(
    "options",
    [
        {"cov_prior": ms.priors.Gamma(shape="a")},
        {"cov_prior": ms.priors.Gamma(shape=[1, 2])},
        {"cov_prior": ms.priors.Gamma(shape=lambda d: d.nothing)},
        {"cov_prior": ms.priors.Gamma(shape=lambda d: 1 / 0)},
        {"cov_prior": ms.priors.Wishart(scale="wide")},
        {"cov_prior": 3},
        {"cov_prior": {"nope": ms.priors.Gamma()}},
        {"fixef_prior": ms.priors.Normal(sd=-1)},
        {"fixef_prior": ms.priors.StudentT(df="many")},
        {"fixef_prior": ms.priors.Gamma()},
        {"resid_prior": ms.priors.Point(0)},
        {"resid_prior": ms.priors.Wishart()},
    ],
    ids=lambda options: repr(options)[:48].partition(" at 0x")[0],
)
def test_every_prior_object_error_is_ours(frame, options):
    with pytest.raises(ex.OptionError):
        ms.lmer("y ~ x + (1 | g)", frame, **options).fit()


@pytest.mark.parametrize(
    "call",
    [
        lambda m, r: m.fit(maxiter="many"),
        lambda m, r: m.fit(maxiter=-1),
        lambda m, r: m.fit(maxiter=2.5),
        lambda m, r: m.fit(tol="tight"),
        lambda m, r: m.fit(tol=-1e-3),
        lambda m, r: m.fit(reml="no"),
        lambda m, r: m.fit(use_t="yes"),
        lambda m, r: m.fit(method=3),
        lambda m, r: m.fit(start_theta="one"),
        lambda m, r: m.fit(start_theta=[np.nan]),
        lambda m, r: r.conf_int("5%"),
        lambda m, r: r.conf_int(alpha=np.nan),
        lambda m, r: r.summary(alpha=5),
        lambda m, r: r.tidy(alpha="0.05"),
        lambda m, r: r.bootstrap(n="all"),
        lambda m, r: r.bootstrap(n=0),
        lambda m, r: r.simulate(n=1.5),
        lambda m, r: r.simulate(n="10"),
        lambda m, r: r.marginal_means("x", pairs="trt.vs.ctrl"),
        lambda m, r: r.tidy(conf_int="profile"),
        lambda m, r: r.predict(allow_new_levels="yes"),
        lambda m, r: r.profile(alpha=0),
    ],
)
def test_text_and_odd_numbers_in_options_are_answered(plain, call):
    with pytest.raises(ex.OptionError, match=r"must|one of"):
        call(plain.model, plain)


# --- warnings


def run(code):
    out = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    return out


@pytest.mark.parametrize("late", ["", "res.conf_int(method='profile')", "res.anova()", "res.summary()"])
def test_filters_of_the_user_stay_in_front(late):
    code = f"""
        import mvmise_sm as ms
        import warnings
        warnings.simplefilter("ignore")
        frame = ms.datasets.load_pastes() if hasattr(ms.datasets, "load_pastes") else None
        frame["z"] = (frame.index * 7919 % 13).astype(float)
        res = ms.lmer("z ~ 1 + (1 | batch)", frame).fit()
        assert res.singular
        {late}
        warnings.warn("hidden")
    """
    assert run(code).stderr == ""


def test_model_warnings_repeat_for_users_without_filters():
    code = """
        import mvmise_sm as ms
        frame = ms.datasets.load_pastes()
        frame["z"] = (frame.index * 7919 % 13).astype(float)
        for _ in range(3):
            ms.lmer("z ~ 1 + (1 | batch)", frame).fit()
    """
    assert run(code).stderr.count("SingularFitWarning") == 3


def test_not_a_number_in_an_expression_is_said_in_our_words(frame):
    with pytest.warns(ex.DataWarning, match=r"log\(x\) is not a number in \d+ of 80 rows"):
        model = ms.lmer("y ~ log(x) + (1 | g)", frame)
    assert model.nobs == (frame["x"] > 0).sum()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ex.DataError, match="infinite"):
            ms.lmer("y ~ log(z) + (1 | g)", frame.assign(z=np.where(frame["k"] == 1, 0.0, 1.5)))
        with np.errstate(invalid="ignore"):
            assert ms.lmer("y ~ log(x) + (1 | g)", frame).nobs == model.nobs
