"""Priors of the mechanism's elements by name, and a detection curve as the prior of single values."""

import numpy as np
import pytest

import mvmise_sm as ms
from mvmise_sm import priors
from mvmise_sm.exceptions import OptionError

FORMULA = "P1_a + P1_b + P1_c ~ condition + (1 | batch)"


@pytest.fixture(scope="module")
def wide():
    frame = ms.datasets.load_tmt("wide").copy()
    frame.loc[frame.index[[3, 17, 40]], "P1_a"] = np.nan
    return frame


@pytest.fixture(scope="module")
def curve():
    return ms.DetectionCurve.from_dict(
        {"mechanism": "logit", "params": {"Intercept": 4.0, "y": -1.0}, "cov": [[4.0, -0.5], [-0.5, 0.1]]}
    )


@pytest.mark.parametrize("kind", ["b", "e"])
def test_a_prior_of_the_slope_is_a_penalty_in_its_own_unit(kind, wide):
    entry = getattr(ms, f"mvmise_{kind}")
    flat, wide_prior = entry(FORMULA, wide).fit(), entry(FORMULA, wide, mechanism_prior={"y": priors.Normal(1e6)}).fit()
    np.testing.assert_allclose(wide_prior.phi, flat.phi, rtol=1e-5)
    fit = entry(FORMULA, wide, mechanism_prior={"y": priors.Normal(0.1)}).fit()
    assert abs(fit.phi["y"]) < abs(flat.phi["y"])
    # -2 log density without its constant
    assert fit.penalty == pytest.approx((fit.phi["y"] / 0.1) ** 2, rel=1e-8)
    em = entry(FORMULA, wide, mechanism_prior={"y": priors.Normal(0.1)}).fit(method="em")
    np.testing.assert_allclose(em.phi, fit.phi, rtol=1e-3)


@pytest.mark.filterwarnings("ignore::mvmise_sm.exceptions.SingularFitWarning")
def test_a_curve_is_the_prior_of_single_values(wide, curve):
    fit = ms.mvmise_b(FORMULA, wide, value_mechanism="logit", mechanism_prior=curve).fit()
    away = fit.phi[["value:Intercept", "value:y"]].to_numpy() - curve.params.to_numpy()
    assert fit.penalty == pytest.approx(float(away @ np.linalg.solve(curve.cov.to_numpy(), away)), rel=1e-8)
    alone = ms.mvmise_b(FORMULA, wide, mechanism=None, value_mechanism="logit", mechanism_prior=curve).fit()
    away = alone.phi.to_numpy() - curve.params.to_numpy()
    assert alone.penalty == pytest.approx(float(away @ np.linalg.solve(curve.cov.to_numpy(), away)), rel=1e-8)
    # a curve that is almost certain holds its numbers
    sure = ms.DetectionCurve.from_dict({**curve.to_dict(), "cov": [[1e-4, 0.0], [0.0, 1e-4]]})
    held = ms.mvmise_b(FORMULA, wide, value_mechanism=curve).fit()
    found = ms.mvmise_b(FORMULA, wide, value_mechanism="logit", mechanism_prior=sure).fit()
    np.testing.assert_allclose(found.phi[["value:Intercept", "value:y"]], [4.0, -1.0], atol=0.02)
    np.testing.assert_allclose(found.params, held.params, atol=1e-3)


def test_elements_of_both_mechanisms_have_names(wide):
    prior = {"value:y": priors.Normal(0.1), "Intercept": priors.StudentT(df=3.0, scale=2.0)}
    model = ms.mvmise_b(FORMULA, wide, value_mechanism="logit", mechanism_prior=prior)
    params = model.objective().likelihood.params(model.objective().likelihood.start())
    found = [penalty(params)[1].phi for penalty in model.spec.penalties]
    assert [list(np.flatnonzero(slope)) for slope in found] in ([[4], [0]], [[], [0]])


def test_a_mechanism_without_missing_units_has_no_prior(curve):
    whole = ms.datasets.load_tmt("wide")
    # blocks only are missing here
    with_prior = ms.mvmise_b(FORMULA, whole, value_mechanism="logit", mechanism_prior=curve).fit()
    assert with_prior.penalty == 0.0
    assert "value:y" not in with_prior.phi


def test_what_is_refused(wide, curve):
    cases = [
        ({"mechanism_prior": curve}, "a detection curve is about single values"),
        ({"mechanism_prior": curve, "value_mechanism": "probit"}, "the curve is of mechanism 'logit'"),
        ({"mechanism_prior": curve, "value_mechanism": curve}, "must be free; free are"),
        ({"mechanism_prior": {"z": priors.Normal(1.0)}}, "'z' must be one of \\['Intercept', 'y'\\]"),
        ({"mechanism_prior": {"y": 3.0}}, "with a Normal or StudentT prior, got 3.0"),
        ({"mechanism_prior": {"y": priors.Normal(1.0)}, "missing_y": False}, "must be one of \\['Intercept'\\]"),
    ]
    for options, sentence in cases:
        with pytest.raises(OptionError, match=sentence):
            ms.mvmise_b(FORMULA, wide, **options)
    with pytest.raises(OptionError, match="a detection curve is about single values"):
        ms.mvmise_e(FORMULA, wide, mechanism_prior=curve)


def test_priors_of_elements_have_a_centre():
    wide = ms.datasets.load_tmt("wide")
    formula = "P1_a + P1_b + P1_c ~ condition + (1 | batch)"
    near = ms.mvmise_b(formula, wide, mechanism_prior={"y": ms.priors.Normal(0.01, mean=-1.0)}).fit()
    assert near.phi["y"] == pytest.approx(-1.0, abs=0.02)
    spread = float(np.std(near.model.design.data.observed_blocks.mean))
    units = ms.mvmise_b(formula, wide, mechanism_prior=ms.priors.Normal(0.01, mean=-1.0)).fit()
    assert units.phi["y"] * spread == pytest.approx(-1.0, abs=0.02)
    with pytest.raises(OptionError, match="must have one number for each argument"):
        ms.mvmise_b(formula, wide, mechanism_prior={"y": ms.priors.Normal([0.1, 0.2])})
