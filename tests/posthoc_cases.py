"""Cases of R's results after the fit, their data and their fits."""

import gzip
import io
import json
import warnings
from functools import cache

import numpy as np
import pandas as pd
from conftest import REFERENCE
from statsmodels.genmod import families

import mvmise_sm as ms

_LINKS = {"logit": "Logit", "probit": "Probit", "cloglog": "CLogLog", "log": "Log"}


@cache
def _stored(name):
    with gzip.open(REFERENCE / "posthoc" / f"{name}.json.gz") as file:
        return json.load(file)


def cases(name):
    return _stored(name)["cases"]


@cache
def frame_of(name):
    stored = _stored("data")
    levels = {c: [str(v) for v in np.atleast_1d(given)] for c, given in stored["levels"].get(name, {}).items()}
    data = pd.read_csv(io.StringIO(stored["csv"][name]), dtype=dict.fromkeys(levels, str))
    for column, order in levels.items():
        data[column] = pd.Categorical(data[column], categories=order)
    return data


def fit_of(case, data=None):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if data is not None:
            return _fit(case, data)
        return _shared(json.dumps([case["dataset"], case["formula"], case["model"]]))


@cache
def _shared(key):
    dataset, formula, model = json.loads(key)
    return _fit({"formula": formula, "model": model}, frame_of(dataset))


def _fit(case, data):
    model, formula = case["model"], case["formula"]
    keywords = {"weights": model["weights"]} if model.get("weights") else {}
    if model["maker"] == "lmer":
        return ms.lmer(formula, data, **keywords).fit(reml=model.get("reml") is not False)
    if model["maker"] == "glmer_nb":
        return ms.glmer_nb(formula, data, **keywords).fit(curvature="expected")
    family = {"binomial": families.Binomial, "poisson": families.Poisson}[model["family"]]
    link = getattr(families.links, _LINKS[model["link"]])
    return ms.glmer(formula, data, family=family(link=link()), **keywords).fit(curvature="expected")  # as lme4


def number(value):
    return np.nan if value is None else float(value)


def same(got, want, rtol, atol=1e-12):
    """Compare with numbers as stored: null is NaN, and an infinite number of degrees of freedom a very large one."""
    got = np.asarray(got, dtype=float)
    want = np.array([number(v) for v in np.ravel(np.asarray(want, dtype=object))]).reshape(np.shape(want))
    got, want = (np.where(np.abs(v) > 1e6, np.inf, v) for v in (got, want))
    np.testing.assert_allclose(got, want, rtol=rtol, atol=atol)
