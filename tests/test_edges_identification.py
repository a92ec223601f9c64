"""Variances that the data cannot tell apart are named, have no standard errors, and check() says so."""

import warnings

import numpy as np
import pandas as pd
import pytest

import mvmise_sm as ms
from mvmise_sm.core.uncertainty.identification import flat_directions
from mvmise_sm.exceptions import ConvergenceWarning, IdentificationWarning, SingularFitWarning


@pytest.fixture(scope="module")
def frame():
    rng = np.random.default_rng(5)
    g = np.repeat(np.arange(12), 8)
    n = g.size
    data = pd.DataFrame({"g": g, "g2": 7 * (11 - g), "f": np.array(list("abc"))[g % 3], "x": rng.normal(size=n)})
    data["constant"], data["zero"] = 3.0, 0.0
    data["h"] = rng.integers(0, 5, n)
    data["between"] = rng.normal(size=12)[g]
    data["w"] = rng.uniform(0.5, 2.0, n)
    effects = rng.normal(size=12)[g] + 0.7 * data["x"] * rng.normal(size=12)[g] + rng.normal(size=5)[data["h"]]
    data["y"] = 1.0 + 0.5 * data["x"] + effects + rng.normal(size=n)
    data["count"] = rng.poisson(np.exp(0.3 + 0.4 * rng.normal(size=12)[g]))
    return data


# formula, what the sentence names, fixed effects without standard errors
OPEN = [
    ("y ~ C(g) + (1 | g)", "say nothing about var g: (1 | g)", "all"),
    ("y ~ f + (1 | f)", "say nothing about var f", "all"),
    ("y ~ x + f + (1 | f) + (1 | g)", "say nothing about var f: (1 | f)", "but x"),
    ("y ~ x + (constant | g)", "cannot tell var g from cov Intercept.constant|g and var constant|g", ""),
    ("y ~ x + (zero | g)", "say nothing about var zero|g", ""),
    ("y ~ x + (0 + zero | g) + (1 | g)", "say nothing about var zero|g", ""),
    ("y ~ x + (x + I(2 * x) | g)", "cannot tell var x|g from", ""),
    ("y ~ x + (1 | g) + (1 | g2)", "cannot tell var g from var g2: (1 | g), (1 | g2)", ""),
    ("y ~ x + (1 | g) + (x | g)", "(1 | g), (x | g)", ""),
    ("y ~ C(g) * x + (x | g)", "say nothing about var x|g", "all"),
    ("y ~ x + (0 + f | g) + (1 | g)", "var f[a]|g", ""),
]
CLOSED = [
    "y ~ x + (1 | g)",
    "y ~ x + (x | g)",
    "y ~ x + (x || g)",
    "y ~ x + f + (1 | g)",
    "y ~ x + (1 | f/g)",
    "y ~ x + (1 | g) + (1 | h)",
    "y ~ x + (between | g)",
    "y ~ x + (1 | g) + (0 + I(1 + 1e-3 * x) | g)",
    "y ~ x + (1 | h) + (1 | g:h)",
]


def fitted(formula, frame, entry=ms.lmer, fit=None, **options):
    """The fit, and what it warns of identification."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = entry(formula, frame, **options).fit(**(fit or {}))
    return result, [str(w.message) for w in caught if w.category is IdentificationWarning]


@pytest.mark.parametrize("weights", [None, "w"])
@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize(("formula", "named", "without"), OPEN)
def test_identification_warns_and_gives_no_standard_error(frame, formula, named, without, reml, weights):
    result, said = fitted(formula, frame, fit={"reml": reml}, weights=weights)
    assert len(said) == 1
    assert named in said[0]
    open_ = result.bse.isna()
    expected = [n for n in open_.index if without == "all" or (without == "but x" and n != "x")]
    assert set(open_.index[open_]) == set(expected)
    assert set(result.pvalues.index[result.pvalues.isna()]) == set(expected)
    assert result.check()[0].startswith("Not identified: ")
    assert "its variances are identified" not in " ".join(result.check())
    result.summary()
    rows = result.tidy("random", conf_int=True)
    for label, term in (pair for group in result.undetermined.groups for pair in group):
        text = "sigma" if term is None else result.model.random_effects.terms[term].factor.name
        mine = rows[rows["term"] == "sigma"] if term is None else rows[rows["group"] == text]
        assert mine["std_error"].isna().any(), label


@pytest.mark.parametrize("formula", CLOSED)
def test_identification_is_not_doubted_where_there_is_some(frame, formula):
    result, said = fitted(formula, frame)
    assert said == []
    assert np.isfinite(result.bse).all()
    # the check itself, which fits far from flat do not even pay for
    model = result.model
    assert flat_directions(model.random_effects, np.asarray(model.exog), None, True) is None


@pytest.mark.parametrize("ddf", [None, "satterthwaite", "kenward-roger"])
def test_identification_reaches_every_test(frame, ddf):
    result, _ = fitted("y ~ x + f + (1 | f) + (1 | g)", frame)
    table = result.anova(ddf=ddf)
    assert np.isnan(table.loc["f", ["F", "p_value"]].astype(float)).all()
    assert np.isfinite(table.loc["x", ["F", "p_value"]].astype(float)).all()
    tidy = result.tidy(ddf=ddf, conf_int=True).set_index("term")
    assert tidy["p_value"].isna().tolist() == [True, True, True, False]
    assert np.isnan(result.conf_int().loc["f[T.b]"]).all()
    single = result.t_test(np.eye(4)[[1, 3]])
    assert np.isnan(single.pvalue).tolist() == [True, False]


def test_identification_of_generalized_models(frame):
    for formula, named in (
        ("count ~ x + (1 | g) + (1 | g2)", "cannot tell var g from var g2"),
        ("count ~ x + (constant | g)", "cannot tell var g from"),
        ("count ~ x + (zero | g)", "say nothing about var zero|g"),
        ("count ~ C(g) + (1 | g)", "say nothing about var g"),
    ):
        result, said = fitted(formula, frame, ms.glmer, family="poisson")
        assert len(said) == 1
        assert named in said[0]
        assert result.bse.isna().all() == ("C(g)" in formula)
    assert fitted("count ~ x + (1 | g)", frame, ms.glmer, family="poisson")[1] == []


def test_identification_by_a_prior(frame):
    for formula, prior in (
        ("y ~ x + (1 | g) + (1 | g2)", "wishart"),
        ("y ~ f + (1 | f)", ms.priors.Gamma(shape=2.0, rate=0.5)),
    ):
        result, said = fitted(formula, frame, ms.blmer, cov_prior=prior)
        assert said == []
        assert result.converged
        assert np.isfinite(result.bse).all()


def test_an_improper_prior_on_a_flat_likelihood_has_no_mode(frame):
    with pytest.warns(ConvergenceWarning, match="has not converged"):
        result = ms.blmer("y ~ f + (1 | f)", frame).fit()
    assert result.bse.isna().all()


def test_identification_is_null_space_of_a_dense_information(frame):
    """tr(Q V_i Q V_j) by dense matrices has the same null directions."""
    for formula, expected in (("y ~ x + (x + I(2 * x) | g)", 3), ("y ~ f + (1 | f) + (1 | g)", 1), (CLOSED[1], 0)):
        model = ms.lmer(formula, frame)
        X = np.asarray(model.exog)
        Q = np.eye(len(X)) - X @ np.linalg.pinv(X)
        parts = [np.eye(len(X))]
        for term in model.random_effects.terms:
            z = [np.ones(len(X)) if c is None else c for c in term.columns]
            same = term.factor.codes[:, None] == term.factor.codes[None, :]
            for a in range(len(z)):
                for b in range(a, len(z)):
                    parts.append(same * (np.outer(z[a], z[b]) + np.outer(z[b], z[a])))
        seen = np.array([(Q @ p @ Q).ravel() / np.linalg.norm(p) for p in parts])
        values = np.linalg.eigvalsh(seen @ seen.T)
        assert (values < 1e-8).sum() == expected
        found = flat_directions(model.random_effects, X, None, True)
        assert (found is None) == (expected == 0)


def test_identification_is_said_again_for_another_response(frame):
    result, _ = fitted("y ~ x + (1 | g) + (1 | g2)", frame)
    with pytest.warns(IdentificationWarning):
        again = result.refit(np.asarray(frame["y"])[::-1].copy())
    assert again.undetermined is not None


def test_identification_is_a_kind_of_singularity():
    assert issubclass(IdentificationWarning, SingularFitWarning)


@pytest.mark.parametrize("kind", ["lmer", "glmer"])
def test_an_unconverged_fit_has_no_standard_errors(kind):
    if kind == "lmer":
        model = ms.lmer("Reaction ~ Days + (Days | Subject)", ms.datasets.load_sleepstudy())
    else:
        frame = ms.datasets.load_cbpp()
        model = ms.glmer("incidence / size ~ period + (1 | herd)", frame, family="binomial", weights="size")
    with pytest.warns(ConvergenceWarning, match="has not converged"):
        result = model.fit(maxiter=1)
    assert not result.converged
    assert np.isfinite(result.params).all()
    for table in (result.bse, result.pvalues, result.cov_params(), result.conf_int()):
        assert np.isnan(np.asarray(table)).all()
    assert result.tidy(effects="all")["std_error"].isna().all()
    assert result.anova()["p_value"].isna().all()
    assert "has not converged" in result.summary().as_text() or "not converge" in " ".join(map(str, result.check()))


@pytest.mark.parametrize("family", [None, "binomial"])
def test_singular_fits_without_rows_say_so_and_are_checked(family):
    rng = np.random.default_rng(0)
    data = pd.DataFrame({"g": rng.integers(0, 8, 400), "x": rng.integers(0, 3, 400), "y": rng.integers(0, 2, 400)})
    source = ms.Chunks(lambda: iter([data.iloc[:200], data.iloc[200:]]))
    entry, options = (ms.lmer, {}) if family is None else (ms.glmer, {"family": family})
    model = entry("y ~ x + (1 | g)", source, **options)
    with pytest.warns(SingularFitWarning):
        result = model.fit()
    said = str(result.check())
    assert "The variance of Intercept in (1 | g) is estimated as zero" in said
    assert "holds no rows" in said
