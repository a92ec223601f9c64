"""Generalized models of sources: distinct rows counted, beside the fit of all rows in memory."""

import pickle

import numpy as np
import pandas as pd
import pytest

import mvmise_sm as ms
from mvmise_sm.exceptions import DataError, NoRowsError, OptionError, UnknownColumnError


@pytest.fixture(scope="module")
def frame():
    rng = np.random.default_rng(1)
    n = 3000
    d = pd.DataFrame(
        {"g": rng.integers(0, 20, n), "h": rng.integers(0, 9, n), "x": rng.integers(0, 4, n).astype(float)}
    )
    eta = 0.2 * d["x"] + rng.normal(0, 0.6, 20)[d["g"]] + rng.normal(0, 0.5, 9)[d["h"]]
    p = 1.0 / (1.0 + np.exp(-eta))
    d["f"], d["e"] = rng.choice(["a", "b"], n), rng.choice([1.0, 2.0], n)
    d["y"], d["b"] = rng.poisson(np.exp(eta) * d["e"]), (rng.random(n) < p).astype(float)
    d["n"] = rng.integers(1, 4, n)
    d["s"] = rng.binomial(d["n"], p)
    d["no"], d["share"], d["label"] = d["n"] - d["s"], d["s"] / d["n"], np.where(d["b"] > 0, "yes", "no")
    d.loc[::97, "x"] = np.nan
    return d


def source(frame, pieces):
    parts = [frame.iloc[i] for i in np.array_split(np.arange(len(frame)), pieces)]
    return ms.Chunks(lambda: iter(parts))


@pytest.mark.parametrize("pieces", [1, 7])
@pytest.mark.parametrize(
    ("formula", "options"),
    [
        ("b ~ x + f + (1 | g) + (1 | h)", {"family": "binomial"}),
        ("y ~ x + f + (1 | g) + (1 | h)", {"family": "poisson", "offset": "np.log(e)"}),
        ("cbind(s, no) ~ x + (1 | g)", {"family": "binomial"}),
        ("share ~ x + (1 | g) + (1 | h)", {"family": "binomial", "weights": "n"}),
        ("label ~ x + (1 | g)", {"family": "binomial(probit)", "subset": "h < 5"}),
        ("y ~ x + (1 | g)", {"family": "poisson", "weights": "e", "cov_prior": "wishart"}),
    ],
    ids=["labels", "rates", "trials", "weights", "probit", "prior"],
)
def test_fits_are_those_of_all_rows(frame, formula, options, pieces):
    whole = ms.glmer(formula, frame, **options).fit()
    model = ms.glmer(formula, source(frame, pieces), **options)
    cells = model.fit()
    assert model.n_cells < whole.nobs == cells.nobs
    np.testing.assert_allclose(cells.criterion, whole.criterion, rtol=1e-10)
    np.testing.assert_allclose(cells.theta, whole.theta, rtol=1e-6)
    np.testing.assert_allclose(cells.params, whole.params, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(cells.bse, whole.bse, rtol=1e-5)
    np.testing.assert_allclose(cells.bic, whole.bic, rtol=1e-10)
    np.testing.assert_allclose(cells.deviance, whole.deviance, rtol=1e-7)


def test_results_answer_what_needs_no_rows(frame):
    formula = "b ~ x + f + (1 | g)"
    whole = ms.glmer(formula, frame, family="binomial").fit()
    cells = ms.glmer(formula, source(frame, 3), family="binomial").fit()
    rows = frame.iloc[1:4]
    np.testing.assert_allclose(cells.predict(rows), whole.predict(rows), rtol=1e-6)
    np.testing.assert_allclose(cells.get_prediction(rows).se_mean, whole.get_prediction(rows).se_mean, rtol=1e-5)
    np.testing.assert_allclose(cells.random_effects["g"], whole.random_effects["g"], rtol=0, atol=1e-6)
    sd = {"method": "profile", "params": ["sd_Intercept|g"]}
    np.testing.assert_allclose(cells.conf_int(**sd), whole.conf_int(**sd), rtol=1e-5)
    np.testing.assert_allclose(cells.marginal_means("f")["estimate"], whole.marginal_means("f")["estimate"], rtol=1e-6)
    np.testing.assert_allclose(cells.anova()["p_value"], whole.anova()["p_value"], rtol=1e-4)
    assert cells.summary().as_text().count("2969") == 1
    again = pickle.loads(pickle.dumps(cells))
    assert again.criterion == cells.criterion
    np.testing.assert_allclose(again.predict(rows), cells.predict(rows))
    for question in (lambda: cells.fittedvalues, lambda: cells.simulate(), lambda: cells.bootstrap(n=2)):
        with pytest.raises(NoRowsError, match="counted cells and no rows"):
            question()


@pytest.mark.parametrize(
    ("formula", "options", "error", "sentence"),
    [
        ("e ~ x + (1 | g)", {"family": "gamma"}, DataError, "a gamma GLMM needs its rows at every step and cannot"),
        ("b ~ x + (1 | g)", {"max_cells": 10}, DataError, "distinct cells, more than max_cells=10"),
        ("b ~ x + (1 | g)", {"max_cells": 0}, OptionError, "max_cells must be a positive integer"),
        ("b ~ x + (1 | g)", {"weights": [1.0]}, OptionError, "weights must be a column name or an expression"),
        ("b ~ center(x) + (1 | g)", {}, DataError, r"center\(x\) depends on all rows together"),
        ("share ~ x + (1 | g)", {"family": "poisson"}, DataError, "values that are no counts, such as 0.* be streamed"),
        ("b ~ nope + (1 | g)", {}, UnknownColumnError, "'nope' is not a column"),
        ("y ~ x + (1 | g)", {"family": "poisson", "zero_inflation": "~ 1"}, DataError, "with zero_inflation= needs"),
        ("b ~ x + (1 | g)", {"cov": {}}, OptionError, "cov= needs the rows themselves"),
    ],
)
def test_what_cannot_be_counted_has_a_sentence(frame, formula, options, error, sentence):
    with pytest.raises(error, match=sentence):
        ms.glmer(formula, source(frame, 2), **{"family": "binomial", **options})


def test_a_source_without_rows_is_refused(frame):
    with pytest.raises(DataError, match="the source has no rows"):
        ms.glmer("b ~ x + (1 | g)", source(frame.iloc[:0], 1), family="binomial")
