"""Fits that the tests of inference share."""

import warnings
from functools import cache

import numpy as np
import pandas as pd
from conftest import reference_frame

import mvmise_sm as ms
from mvmise_sm.exceptions import SingularFitWarning


def frame_of(name):
    data = reference_frame(name)
    if name == "cbpp":
        data["prop"] = data["incidence"] / data["size"]
    return data


@cache
def fitted(dataset, formula, reml=True, family=None, weights=None, nagq=1):
    """A fit to a reference data set; shared, so tests must not change it."""
    data = frame_of(dataset)
    formula = formula.replace("yield", 'Q("yield")')
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SingularFitWarning)
        if family is None:
            return ms.lmer(formula, data, weights=weights).fit(reml=reml)
        return ms.glmer(formula, data, family=family, weights=weights).fit(nagq=nagq, curvature="expected")


def fitted_case(model):
    """The fit that a reference case describes."""
    reml = bool(model["reml"])
    return fitted(model["dataset"], model["formula"], reml, model["family"], model["weights"], model["nagq"] or 1)


def r_name(term):
    """Name of a fixed effect or covariance parameter in R as ours has it: patsy's brackets, our intercept."""
    return term.replace("(Intercept)", "Intercept")


def sleepstudy():
    return fitted("sleepstudy", "Reaction ~ Days + (Days | Subject)")


def unbalanced(seed=0, groups=10):
    """Small unbalanced data with an intercept and a slope that vary."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(3, 12, groups)
    g = np.repeat(np.arange(groups), sizes)
    x = rng.normal(size=g.size)
    b = rng.normal(size=(groups, 2)) * [1.0, 0.5]
    y = 1.0 + 0.5 * x + b[g, 0] + b[g, 1] * x + rng.normal(size=g.size)
    f = rng.choice(["a", "b", "c"], g.size)
    return pd.DataFrame({"y": y, "x": x, "g": g, "f": f})
