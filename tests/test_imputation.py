"""Missing values of selection models: their law with uncertain parameters, and draws from it."""

import pickle

import numpy as np
import pandas as pd
import pytest

import mvmise_sm as ms
from mvmise_sm.exceptions import OptionError

FORMULA = "P1_a + P1_b + P1_c ~ condition + (1 | batch)"
DRAWS = 200

CASES = {
    "b": ("b", FORMULA, {}),
    "b_value": ("b", FORMULA, {"value_mechanism": ms.mechanisms.Logit(Intercept=4.0, y=-1.0)}),
    "b_probit": ("b", FORMULA, {"mechanism": "probit"}),
    "b_own": ("b", FORMULA + " + (1 | batch:outcome) + (1 | sample)", {}),
    "b_own_probit": ("b", FORMULA + " + (1 | batch:outcome) + (1 | sample)", {"mechanism": "probit"}),
    "e": ("e", FORMULA, {}),
    "e_first": ("e", FORMULA, {"first_sample_variance": True}),
}


@pytest.fixture(scope="module")
def wide():
    frame = ms.datasets.load_tmt("wide").copy()
    # single values missing beside the blocks
    frame.loc[frame.index[[3, 17, 40]], "P1_a"] = np.nan
    return frame


@pytest.fixture(scope="module", params=list(CASES))
def fit(request, wide):
    kind, formula, options = CASES[request.param]
    return getattr(ms, f"mvmise_{kind}")(formula, wide, **options).fit()


def missing_values(fit, imputations):
    """Draws of every missing value in the order of predict_missing, (draws, missing)."""
    table = fit.predict_missing()
    parts = [
        imputations.loc[:, pd.IndexSlice[:, name]].loc[row].to_numpy()
        for row, name in zip(table["row"], table["outcome"], strict=True)
    ]
    return table, np.array(parts).T


def test_draws_have_the_moments_of_the_posterior(fit):
    table, draws = missing_values(fit, fit.imputations(DRAWS, rng=1, uncertainty="known"))
    assert np.isfinite(draws).all()
    # errors of simulation: sd/sqrt(n) of a mean, about sd/sqrt(2n) of a standard deviation
    z = (draws.mean(axis=0) - table["mean"]) / (table["sd"] / np.sqrt(DRAWS))
    ratio = draws.std(axis=0, ddof=1) / table["sd"]
    assert np.abs(z).max() < 4.8
    assert np.abs(ratio - 1.0).max() < 4.8 / np.sqrt(2 * DRAWS)


def test_uncertain_parameters_add_variance(fit):
    known, whole = fit.predict_missing(), fit.predict_missing(uncertainty="parameters")
    np.testing.assert_array_equal(known["mean"], whole["mean"])
    assert (whole["sd"] >= known["sd"]).all()
    assert (whole["sd"] > 1.001 * known["sd"]).any()
    half = (whole["conf_high"] - whole["conf_low"]) / 2.0
    np.testing.assert_allclose(half, 1.959963984540054 * whole["sd"])


def test_draws_with_parameters_are_wider(fit):
    _, draws = missing_values(fit, fit.imputations(DRAWS, rng=2))
    whole = fit.predict_missing(uncertainty="parameters")
    ratio = draws.std(axis=0, ddof=1) / whole["sd"]
    # J C J' is the first order of what drawn parameters do
    assert np.median(ratio) == pytest.approx(1.0, abs=0.15)


@pytest.fixture(scope="module")
def simple(wide):
    return ms.mvmise_b(FORMULA, wide).fit()


def test_seen_values_stay_and_columns_are_named(simple, wide):
    out = simple.imputations(2, rng=3)
    assert list(out.columns.names) == ["imputation", "outcome"]
    names = ["P1_a", "P1_b", "P1_c"]
    for name in ("imp_1", "imp_2"):
        whole = out[name]
        assert list(whole.columns) == names
        assert whole.index.equals(wide.index)
        seen = wide[names].notna()
        pd.testing.assert_frame_equal(whole.where(seen), wide[names], check_names=False)
    assert not out["imp_1"].equals(out["imp_2"])
    pd.testing.assert_frame_equal(out, simple.imputations(2, rng=3))
    assert out.attrs["redrawn"] == 0


def test_imputations_are_pooled(simple, wide):
    out, names = simple.imputations(5, rng=4), ["P1_a", "P1_b", "P1_c"]
    fits = []
    for name in out.columns.levels[0]:
        whole = pd.concat([wide.drop(columns=names), out[name]], axis=1)
        long = whole.melt([c for c in wide.columns if c not in names], var_name="peptide")
        fits.append(ms.lmer("value ~ 0 + peptide + condition + (1 | batch)", long).fit())
    pooled = ms.pool(fits).tidy().set_index("term")
    effect, error = simple.params["condition[T.case]"], simple.bse["condition[T.case]"]
    # the model of the analysis is a little simpler than that of the draws
    assert pooled.loc["condition[T.case]", "estimate"] == pytest.approx(effect, abs=error)


@pytest.mark.parametrize("kind", ["b", "e"])
def test_restricted_fits_have_them_too(kind, wide):
    fit = getattr(ms, f"mvmise_{kind}")(FORMULA, wide).fit(reml=True)
    known, whole = fit.predict_missing(), fit.predict_missing("parameters")
    assert (whole["sd"] > known["sd"]).any()
    ml = getattr(ms, f"mvmise_{kind}")(FORMULA, wide).fit().predict_missing("parameters")
    np.testing.assert_allclose(whole["sd"], ml["sd"], rtol=0.2)
    assert np.isfinite(fit.imputations(3, rng=1).to_numpy()).all()


@pytest.mark.filterwarnings("ignore::mvmise_sm.exceptions.ConvergenceWarning")  # R's algorithm is slow
def test_what_is_refused(simple, wide):
    with pytest.raises(OptionError, match="'known' or 'parameters', got 'all'"):
        simple.predict_missing(uncertainty="all")
    with pytest.raises(OptionError, match="'known' or 'parameters', got None"):
        simple.imputations(uncertainty=None)
    for n in (0, 1.5, True, "5"):
        with pytest.raises(OptionError, match="n must be a positive integer"):
            simple.imputations(n)
    with pytest.raises(OptionError, match="alpha must lie between 0 and 1"):
        simple.predict_missing(alpha=1.0)
    reproduced = ms.mvmise_b(FORMULA, wide, outcome_effects=[]).fit(method="mvmise")
    for question in (lambda: reproduced.predict_missing("parameters"), reproduced.imputations):
        with pytest.raises(OptionError, match="uncertainty='known'"):
            question()
    assert np.isfinite(reproduced.imputations(1, rng=1, uncertainty="known").to_numpy()).all()


def test_pickled_results_draw_the_same(simple):
    again = pickle.loads(pickle.dumps(simple))
    pd.testing.assert_frame_equal(simple.imputations(1, rng=5), again.imputations(1, rng=5))
    pd.testing.assert_frame_equal(simple.predict_missing("parameters"), again.predict_missing("parameters"))


def test_nothing_without_rows(wide):
    fit = ms.mvmise_b(FORMULA, wide).fit()
    fit.remove_data()
    for question in (fit.predict_missing, lambda: fit.predict_missing("parameters"), fit.imputations):
        with pytest.raises(OptionError, match="remove_data"):
            question()
