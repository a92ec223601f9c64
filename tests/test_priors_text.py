"""blme's prior text and the prior keywords: what they mean, and one clear sentence where they mean nothing."""

from __future__ import annotations

import re

import numpy as np
import pytest
import statsmodels.api as sm
from conftest import reference_cases, reference_frame

import mvmise_sm as ms
from mvmise_sm import priors
from mvmise_sm.priors import PriorSyntaxError, TermShape, resolve_priors

TERMS = [TermShape("g.1", 1, 30), TermShape("g.2", 2, 12)]
NAMES = ["Intercept", "x.1", "x.2"]


def resolve(cov=None, fixef=None, resid=None, terms=TERMS, **kwargs):
    return resolve_priors(cov, fixef, resid, terms=terms, nobs=100, fixef_names=NAMES, **kwargs)


def test_default_applies_to_every_term_that_it_fits():
    wishart = resolve("wishart")
    assert [c.describe()[:16] for c in wishart.cov] == ["wishart(df = 3.5", "wishart(df = 4.5"]
    gamma = resolve("gamma")
    assert gamma.cov[0] is not None
    assert gamma.cov[1] is None


@pytest.mark.parametrize(
    "cov",
    [
        "list(g.2 ~ invwishart(df = 4, scale = 1), gamma(shape = 2, rate = 0.5))",
        ["g.2 ~ invwishart(df = 4, scale = 1)", "gamma(shape = 2, rate = 0.5)"],
        ["g.2 ~ invwishart(4, 1)", priors.Gamma(2, 0.5)],
        {"g.2": priors.InverseWishart(4, 1), "g.1": "gamma(2, 0.5)"},
    ],
)
def test_four_spellings_of_one_specification(cov):
    assert repr(resolve(cov)) == (
        "Cov prior  : g.1 ~ gamma(shape = 2, rate = 0.5, posterior.scale = sd, common.scale = TRUE)\n"
        "           : g.2 ~ invwishart(df = 4, scale = c(1, 0, 0, 1), posterior.scale = cov, common.scale = TRUE)"
    )


def test_flat_spellings():
    for flat in (None, "flat", "NULL", "flat()"):
        assert resolve(flat, flat, flat).flat
    mixed = resolve(["g.1 ~ NULL", "wishart"])
    assert mixed.cov[0] is None
    assert mixed.cov[1] is not None
    assert resolve({"g.1": None, "g.2": "flat"}).flat


def test_terms_with_independent_columns_take_one_prior_per_column():
    bound = resolve("gamma(rate = 0.5)", terms=[TermShape("g", 2, 10, independent=True)]).cov[0]
    s = np.diag([0.5, 2.0])
    single = priors.Gamma(rate=0.5).covariance(priors.Dimensions(100, 3, level_dim=1, n_groups=10))
    assert bound.value(s) == single.value(s[:1, :1]) + single.value(s[1:, 1:])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1 + 2 * 3 ^ 2 - -4", 23.0),
        ("2 ^ 3 ^ 2", 512.0),
        ("-2 ^ 2 + 10", 6.0),
        ("(1 + 2) * 3 / 2", 4.5),
        ("1e-2 * level.dim + .5", 0.52),
        ("n.obs / p + j.k", 100 / 3 + 12),
        ("sqrt(q.k ^ 2) + exp(0) + log(1) + abs(-1)", 4.0),
        ("max(c(1, 2), 3) + min(4, 5)", 7.0),
    ],
)
def test_arithmetic(text, value):
    bound = resolve(f"g.2 ~ wishart(df = 5, scale = {text})").cov[1]
    np.testing.assert_allclose(np.linalg.inv(bound.weight), value * np.eye(2), rtol=1e-12)


@pytest.mark.parametrize(
    ("text", "matrix"),
    [
        ("c(2, 0.7)", [[2.0, 0.0], [0.0, 0.7]]),
        ("rep(2, 2)", [[2.0, 0.0], [0.0, 2.0]]),
        ("matrix(c(2, 0.5, 0.5, 1), 2)", [[2.0, 0.5], [0.5, 1.0]]),
        ("matrix(c(2, 0.5, 0.5, 1), nrow = 2, ncol = 2, byrow = TRUE)", [[2.0, 0.5], [0.5, 1.0]]),
        ("matrix(c(2, 0, 0), 2, 2) + diag(2)", None),
        ("diag(level.dim)", [[1.0, 0.0], [0.0, 1.0]]),
        ("diag(0.5, q.k) / (df - q.k - 1)", [[0.25, 0.0], [0.0, 0.25]]),
        ("diag(c(1, 2)) + matrix(c(0, 0.5, 0.5, 0), 2)", [[1.0, 0.5], [0.5, 2.0]]),
        ("diag(matrix(c(3, 1, 1, 2), 2))", [[3.0, 0.0], [0.0, 2.0]]),
    ],
)
def test_matrices_as_in_r(text, matrix):
    spec = f"g.2 ~ wishart(df = 5, scale = {text})"
    if matrix is None:
        with pytest.raises(PriorSyntaxError, match="3 values do not fill a 2 x 2 matrix"):
            resolve(spec)
        return
    np.testing.assert_allclose(np.linalg.inv(resolve(spec).cov[1].weight), matrix, rtol=1e-12, atol=1e-15)


def test_arguments_may_refer_to_defaults_of_others():
    bound = resolve("invwishart(scale = diag(df + 0.1, level.dim))").cov[1]
    np.testing.assert_allclose(bound.weight, 1.102 * np.eye(2))
    bound = resolve("g.1 ~ invgamma(shape = 2, scale = shape / 4)").cov[0]
    assert bound.describe().startswith("invgamma(shape = 2, scale = 0.5,")


def test_what_is_printed_can_be_read_again():
    printed = resolve("list(g.1 ~ gamma(2, 0.5), wishart(scale = c(2, 3)))", "normal(c(1, 2, 3))", "gamma(1, 2, 'sd')")
    for label, role in (("g.1 ~ ", 0), ("", 0)):
        text = label + printed.cov[role].describe()
        assert resolve(text).cov[0].describe() == printed.cov[0].describe()
    assert resolve(resid=printed.resid.describe()).resid.describe() == printed.resid.describe()


def test_backquoted_and_interaction_factors():
    terms = [TermShape("a:b", 1, 9), TermShape("my group", 1, 4)]
    bound = resolve(["`my group` ~ gamma", "a:b ~ invgamma"], terms=terms).cov
    assert [c.describe()[:5] for c in bound] == ["invga", "gamma"]


@pytest.mark.parametrize(
    ("text", "position", "message"),
    [
        ("wishart(df = 3", 14, "expected ',' or ')', found the end of the text"),
        ("wishart(df = 3))", 15, "unexpected ')' after the prior"),
        ("wishart(df = 1 +* 2)", 16, "expected a number or an expression, found '*'"),
        ("wishart(df = foo)", 13, "unknown name 'foo'"),
        ("wishart(df = foo(2))", 13, "unknown function 'foo'"),
        ("wishart(nope = 1)", 8, "wishart has no argument 'nope'"),
        ("wishart(3, df = 3)", 11, "argument 'df' is given twice"),
        ("wishart(3, 1, TRUE, 'cov', 2)", 27, "too many arguments for wishart"),
        ("wishart(3 $ 2)", 10, "unexpected character '$'"),
        ("g.2 ~ cauchy", 6, "unknown covariance prior 'cauchy'"),
        ("~ wishart", 0, "expected a name before '~'"),
        ("custom(f)", 0, "custom cannot be written as text, use the class Custom"),
        ("__import__('os')", 0, "unexpected character '_'"),
        ("wishart(scale = 'two' + 1)", 22, "'two' is not a number"),
        ("", 0, "expected the name of a covariance prior"),
    ],
)
def test_text_that_does_not_parse_points_at_the_character(text, position, message):
    with pytest.raises(PriorSyntaxError, match=re.escape(message)) as caught:
        resolve(text)
    assert caught.value.position == position
    assert str(caught.value).splitlines()[-1] == " " * (position + 4) + "^"


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"cov": {"nope": priors.Gamma()}}, "names grouping factor 'nope', which is not in the model (g.1, g.2)"),
        ({"cov": "nope ~ gamma"}, "names grouping factor 'nope', which is not in the model"),
        ({"cov": ["g.1 ~ gamma", "g.1 ~ wishart"]}, "names grouping factor 'g.1' twice"),
        ({"cov": ["wishart", "invwishart"]}, "2 priors without a grouping factor"),
        ({"cov": "g.2 ~ gamma"}, "gamma is a prior for terms with one column, but g.2 has 2"),
        ({"cov": {"g.2": priors.InverseGamma()}}, "invgamma is a prior for terms with one column, but g.2 has 2"),
        ({"cov": priors.Normal()}, "normal is not a covariance prior"),
        ({"cov": 3}, "cov_prior must be a prior (Gamma, InverseGamma, Wishart, InverseWishart, Custom), text"),
        ({"cov": {"g.1": 3}}, "cov_prior must be a prior"),
        ({"cov": {"g.1": ["gamma", "wishart"]}}, "must be one prior without a name of its own"),
        ({"cov": priors.Wishart(df=0.5)}, "wishart: df must be at least 1, got 0.5"),
        ({"cov": priors.Wishart(df="many")}, "wishart: df must be a number, got 'many'"),
        ({"cov": priors.Wishart(scale=[[1, 2], [3, 4]])}, "scale must be a number, 1 values or a 1 x 1 matrix"),
        ({"cov": {"g.2": priors.Wishart(scale=[[1, 0], [0.5, 1]])}}, "wishart: scale must be a symmetric matrix"),
        ({"cov": {"g.2": priors.Wishart(scale=[[1, 2], [2, 1]])}}, "positive definite, its smallest eigenvalue is -1"),
        ({"cov": priors.Wishart(posterior_scale="sd")}, "posterior_scale must be 'cov' or 'sqrt', got 'sd'"),
        ({"cov": priors.Gamma(posterior_scale="cov")}, "posterior_scale must be 'sd' or 'var', got 'cov'"),
        ({"cov": priors.Gamma(shape=np.nan)}, "gamma: shape must be finite"),
        ({"cov": priors.Gamma(shape=-1)}, "gamma: shape must be at least 0, got -1"),
        ({"cov": priors.Gamma(common_scale="yes")}, "gamma: common_scale must be True or False, got 'yes'"),
        ({"cov": priors.Wishart(df=lambda d: d.df)}, "wishart: 'df' is defined in terms of itself"),
        ({"fixef": priors.Wishart()}, "wishart is not a fixed-effect prior"),
        ({"fixef": "normal(sd = c(1, 2, 3, 4))"}, "sd must have 1, 2 or 3 values for 3 fixed effects, got 4 values"),
        ({"fixef": "normal(sd = 0)"}, "normal: sd must be positive, got c(0, 0, 0)"),
        ({"fixef": "normal(cov = diag(2))"}, "cov must be a variance, 3 variances or a 3 x 3 matrix"),
        ({"fixef": "normal(sd = 2, cov = diag(3))"}, "give either sd or cov, not both"),
        ({"fixef": "t(df = 0)"}, "t: df must be above 0, got 0"),
        ({"fixef": "t(scale = -1)"}, "t: scale must be positive"),
        ({"fixef": "horseshoe(global.shrinkage = 0)"}, "global_shrinkage must be above 0"),
        (
            {"fixef": {"x.9": priors.Normal()}},
            "names 'x.9', which is not a fixed effect of the model (Intercept, x.1, x.2)",
        ),
        ({"fixef": ["normal", "t"]}, "fixef_prior must be one prior, or a dict"),
        ({"fixef": {"x.1": priors.Gamma()}}, "must be one of normal, t, laplace, horseshoe"),
        ({"resid": priors.Wishart()}, "wishart is not a residual prior"),
        ({"resid": priors.Gamma(common_scale=False)}, "common_scale does not apply to a residual prior"),
        ({"resid": "gamma(common.scale = TRUE)"}, "gamma has no argument 'common.scale'"),
        ({"resid": ["gamma", "point"]}, "resid_prior must be one residual prior"),
        ({"resid": priors.Point(-1)}, "point: value must be above 0, got -1"),
        ({"resid": "gamma", "has_scale": False}, "this model has no residual variance"),
        (
            {"fixef": "normal(common.scale = TRUE)", "has_scale": False},
            "does not apply to a model without a residual scale",
        ),
    ],
)
def test_bad_keywords_get_one_sentence(keywords, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        resolve(**keywords)


@pytest.mark.parametrize(
    "case",
    [c for c in reference_cases("errors") if c["id"].startswith("prior_") and c["dataset"] == "blme_lmm"],
    ids=lambda case: case["id"],
)
def test_every_invalid_or_suspicious_prior_of_the_reference_is_refused(case):
    call = case["r_call"]
    keywords = {"cov_prior": "NULL"}
    for role in ("cov", "fixef", "resid"):
        found = re.search(rf"{role}\.prior = (.*?)(?:, (?:fixef|resid)\.prior = |\)$)", call)
        if found:
            keywords[f"{role}_prior"] = found.group(1)
    formula = re.match(r"blmer\((.*?), blme_lmm", call).group(1)

    def fit():
        return ms.blmer(formula, reference_frame("blme_lmm"), **keywords).fit(reml="REML = FALSE" not in call)

    with pytest.raises(ValueError, match=r"\w+"):
        fit()


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        (
            {"fixef_prior": "normal(common.scale = TRUE)"},
            "common_scale does not apply to a model without a residual scale",
        ),
        (
            {"cov_prior": "wishart(common.scale = FALSE)"},
            "common_scale does not apply to a model without a residual scale",
        ),
        ({"resid_prior": "gamma"}, "resid_prior does not apply: this model has no residual variance"),
    ],
)
def test_generalised_models_refuse_what_needs_a_residual_scale(keywords, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        ms.bglmer("y ~ x.1 + x.2 + (1 | g)", reference_frame("blme_glmm"), family=sm.families.Binomial(), **keywords)
