"""Predictions, simulations and refits of a linear mixed model."""

import numpy as np
import oracle
import pandas as pd
import pytest
import statsmodels.api as sm

import mvmise_sm as ms
from mvmise_sm.exceptions import DataError, NewLevelError, OptionError, SingularFitWarning, UnknownColumnError

SLOPES = "Reaction ~ Days + (Days | Subject)"


@pytest.fixture(scope="module")
def sleep(frames):
    return frames("sleepstudy")


@pytest.fixture(scope="module")
def slopes(sleep):
    return ms.lmer(SLOPES, sleep).fit()


@pytest.fixture(scope="module")
def crossed(frames):
    frame = frames("crossed3").iloc[:200]
    return ms.lmer("y ~ x + (x | a) + (1 | b)", frame, weights=np.linspace(0.5, 2, 200), offset="x").fit(), frame


def test_predict_defaults_to_fitted_values(slopes, sleep):
    pd.testing.assert_series_equal(slopes.predict(), slopes.fittedvalues)
    pd.testing.assert_series_equal(slopes.predict(sleep), slopes.fittedvalues)
    np.testing.assert_allclose(slopes.predict(random="none"), slopes.model.exog @ slopes.params)
    np.testing.assert_allclose(slopes.resid, sleep["Reaction"] - slopes.fittedvalues)


def test_predict_with_some_random_effects(crossed):
    fit, frame = crossed
    new = frame.iloc[:7]
    whole = fit.predict(new)
    np.testing.assert_allclose(whole, fit.fittedvalues[:7])
    only_b = fit.predict(new, random=["b"])
    effects = fit.random_effects["b"].loc[new["b"], "Intercept"].to_numpy()
    np.testing.assert_allclose(only_b, fit.predict(new, random="none") + effects)
    np.testing.assert_allclose(fit.predict(random=["b"])[:7], only_b)
    np.testing.assert_allclose(fit.predict(new.drop(columns=["a"]), random=["b"]), only_b)
    np.testing.assert_allclose(fit.predict(new[["x"]], random="none"), fit.predict(new, random="none"))
    with pytest.raises(OptionError, match="'c'"):
        fit.predict(new, random=["c"])


def test_predict_unknown_levels_and_missing_values(slopes):
    new = pd.DataFrame({"Days": [1.0, np.nan, 2.0, 3.0], "Subject": ["308", "308", None, "999"]}, index=list("pqrs"))
    with pytest.raises(NewLevelError, match="'999'"):
        slopes.predict(new)
    out = slopes.predict(new, allow_new_levels=True)
    assert out.index.tolist() == list("pqrs")
    assert out.isna().tolist() == [False, True, True, False]
    np.testing.assert_allclose(out["s"], slopes.params @ [1, 3])
    with pytest.raises(UnknownColumnError, match="Subject"):
        slopes.predict(new[["Days"]])


def test_predict_evaluates_transforms_and_offsets_on_new_data(sleep):
    fit = ms.lmer("np.log(Reaction) ~ center(Days) + offset(off / 100) + (1 | Subject)", sleep).fit()
    new = sleep.iloc[[5, 17, 3]]
    np.testing.assert_allclose(fit.predict(new), fit.fittedvalues.iloc[[5, 17, 3]])
    array = ms.lmer("Reaction ~ Days + (1 | Subject)", sleep, offset=sleep["off"].to_numpy()).fit()
    with pytest.raises(DataError, match="offset"):
        array.predict(new)
    np.testing.assert_allclose(array.predict(new, offset=new["off"]), array.fittedvalues.iloc[[5, 17, 3]])


def test_predict_for_arrays(sleep):
    exog = np.column_stack([np.ones(180), sleep["Days"]])
    fit = ms.LinearMixedModel(sleep["Reaction"].to_numpy(), exog, {"Subject": (sleep["Subject"], exog)}).fit()
    rows = exog[[12, 33]]
    labels = sleep["Subject"].iloc[[12, 33]]
    np.testing.assert_allclose(fit.predict(rows, groups=labels, exog_re=rows), fit.fittedvalues[[12, 33]])
    np.testing.assert_allclose(fit.predict(rows), rows @ fit.params)  # every subject has these rows: whose is unknown
    np.testing.assert_allclose(fit.predict(rows, random="none"), rows @ fit.params)
    np.testing.assert_allclose(fit.predict(exog), fit.fittedvalues)
    with pytest.raises(NewLevelError, match="new"):
        fit.predict(rows, groups=["308", "new"], exog_re=rows)
    with pytest.raises(DataError, match="exog_re"):
        fit.predict(rows, groups=labels)
    with pytest.raises(DataError, match="columns"):
        fit.predict(np.ones((2, 3)))


def test_rows_of_the_data_keep_their_random_effects():
    rng = np.random.default_rng(4)
    exog, group = sm.add_constant(rng.normal(size=(60, 2))), np.arange(60) % 6
    y = exog.sum(axis=1) + rng.normal(size=6)[group] + rng.normal(size=60)
    fit = ms.LinearMixedModel(y, exog, group).fit()
    mixed = np.vstack([exog[[7, 3]], [[1.0, 0.0, 0.0]]])
    np.testing.assert_allclose(fit.predict(mixed), [*fit.fittedvalues[[7, 3]], fit.params[0]])


def test_prediction_standard_errors_are_those_of_henderson(crossed):
    fit, frame = crossed
    new = frame.iloc[:6].assign(a=["1", "1", "2", "3", "zz", "4"], b=["1", "zz", "2", "3", "1", "2"])
    model = fit.model
    dense = oracle.DenseDeviance(
        model.endog, model.exog, model.random_effects, weights=model.weights, offset=model.offset
    )
    rows = []
    for name, columns in (("a", np.column_stack([np.ones(6), new["x"]])), ("b", np.ones((6, 1)))):
        rows.append((fit.random_effects[name].index.get_indexer(new[name]), columns))
    exog = np.column_stack([np.ones(6), new["x"]])
    expected = fit.scale * dense.prediction_variance(fit.theta, exog, rows)
    frame = fit.get_prediction(new, allow_new_levels=True).summary_frame(alpha=0.1)
    np.testing.assert_allclose(frame["mean_se"], np.sqrt(expected), rtol=1e-6)
    np.testing.assert_allclose(frame["mean"], fit.predict(new, allow_new_levels=True))
    np.testing.assert_allclose(frame["mean_ci_upper"] - frame["mean"], 1.6448536 * np.sqrt(expected), rtol=1e-6)
    np.testing.assert_allclose(
        frame["obs_ci_upper"] - frame["mean"], 1.6448536 * np.sqrt(expected + fit.scale), rtol=1e-6
    )
    marginal = fit.get_prediction(new, random="none").summary_frame()
    np.testing.assert_allclose(marginal["mean_se"], np.sqrt(np.einsum("ij,jk,ik->i", exog, fit.cov_params(), exog)))


def test_prediction_of_the_own_rows(slopes, sleep):
    own = slopes.get_prediction().summary_frame()
    pd.testing.assert_frame_equal(own, slopes.get_prediction(sleep).summary_frame())
    np.testing.assert_allclose(own["mean"], slopes.fittedvalues)


def test_simulate_is_reproducible_and_has_the_right_moments(slopes):
    assert slopes.simulate(2, rng=1).equals(slopes.simulate(2, rng=np.random.default_rng(1)))
    draws = slopes.simulate(4000, rng=7).to_numpy()
    assert draws.shape == (180, 4000)
    z = np.column_stack([np.ones(10), np.arange(10)])
    expected = z @ slopes.cov_re["Subject"].to_numpy() @ z.T + slopes.scale * np.eye(10)
    found = np.cov(draws[:10])
    se = np.sqrt((expected**2 + np.outer(np.diag(expected), np.diag(expected))) / 4000)
    assert (np.abs(found - expected) < 5 * se).all()
    marginal = slopes.predict(random="none").to_numpy()
    assert np.abs(draws.mean(axis=1) - marginal).max() < 5 * np.sqrt(expected.max() / 4000)


def test_simulate_conditional(slopes):
    draws = slopes.simulate(2000, rng=7, random="conditional").to_numpy()
    noise = draws - slopes.fittedvalues.to_numpy()[:, None]
    assert np.abs(noise.mean(axis=1)).max() < 5 * np.sqrt(slopes.scale / 2000)
    np.testing.assert_allclose(noise.var(), slopes.scale, rtol=0.02)
    with pytest.raises(OptionError, match="random"):
        slopes.simulate(random="some")


def test_refit_is_a_fit_of_the_other_response(slopes, sleep):
    y = slopes.simulate(1, rng=11)
    refit = slopes.refit(y)
    fresh = ms.lmer(SLOPES, sleep.assign(Reaction=y["sim_1"])).fit()
    np.testing.assert_allclose(refit.criterion, fresh.criterion, atol=1e-7)
    np.testing.assert_allclose(refit.params, fresh.params, rtol=1e-6)
    np.testing.assert_allclose(refit.fittedvalues, fresh.fittedvalues, rtol=1e-5)
    np.testing.assert_allclose(refit.resid, fresh.resid, atol=1e-3)
    assert slopes.model.endog[0] == sleep["Reaction"].iloc[0]
    with pytest.raises(DataError, match="180 rows"):
        slopes.refit(np.ones(3))
    with pytest.raises(DataError, match="missing"):
        slopes.refit(np.full(180, np.nan))


def test_refit_of_a_singular_response_reaches_the_optimum_of_a_fresh_fit(frames):
    frame = frames("Dyestuff")
    fit = ms.lmer("Yield ~ 1 + (1 | Batch)", frame).fit()
    with pytest.warns(SingularFitWarning):
        refit = fit.refit(frames("Dyestuff2")["Yield"])
    assert refit.singular
    assert refit.theta[0] == 0.0


@pytest.mark.parametrize("cells", [1, 20_000_000])
@pytest.mark.parametrize("repeats", [1, 12])
def test_variances_of_predictions_agree_with_dense_algebra(cells, repeats, monkeypatch):
    """Crossed slopes and a nested factor, few (one dense block) and many levels, levels in several panels or one."""
    from mvmise_sm.core.uncertainty import posterior

    monkeypatch.setattr(posterior, "_PANEL_CELLS", cells)
    rng = np.random.default_rng(4)
    n = 120 * repeats
    frame = pd.DataFrame(
        {"a": rng.integers(0, 15 * repeats, n), "b": rng.integers(0, 6 * repeats, n), "x": rng.normal(size=n)}
    )
    frame["c"] = frame["a"] // 3
    slope = 0.6 * rng.normal(size=15 * repeats)
    frame["y"] = (
        rng.normal(size=15 * repeats)[frame["a"]]
        + (1.0 + slope[frame["a"]]) * frame["x"]
        + rng.normal(size=6 * repeats)[frame["b"]]
        + rng.normal(size=5 * repeats)[frame["c"]]
        + 0.7 * rng.normal(size=n)
    )
    fit = ms.lmer("y ~ x + (x | a) + (1 | b) + (1 | c)", frame).fit()
    new = frame.sample(30, random_state=1).reset_index(drop=True)
    new["b"] = np.roll(new["b"], 1)  # pairs of levels that the data do not hold
    z = np.zeros((len(new), 0))
    data = np.zeros((n, 0))
    blocks = []
    for term, lam in zip(fit.model.random_layout.terms, fit.model.random_layout.lambdas(fit.theta), strict=True):
        name, levels = term.factor.name, term.factor.n_levels
        index = pd.Index(term.factor.levels)
        for source in ("data", "new"):
            rows = frame if source == "data" else new
            wide = np.zeros((len(rows), levels, term.q))
            columns = np.column_stack([np.ones(len(rows)), rows["x"]])[:, : term.q]
            wide[np.arange(len(rows)), index.get_indexer(rows[name])] = columns
            wide = wide.reshape(len(rows), -1)
            if source == "data":
                data = np.hstack([data, wide])
            else:
                z = np.hstack([z, wide])
        blocks.append(np.kron(np.eye(levels), lam @ lam.T))
    sigma = np.zeros((data.shape[1],) * 2)
    start = 0
    for block in blocks:
        sigma[start : start + len(block), start : start + len(block)] = block
        start += len(block)
    X, x = (np.column_stack([np.ones(len(f)), f["x"]]) for f in (frame, new))
    v_inverse = np.linalg.inv(np.eye(n) + data @ sigma @ data.T)
    gain = sigma @ data.T @ v_inverse
    rest = x - z @ gain @ X
    cov_beta = np.linalg.inv(X.T @ v_inverse @ X)
    expected = np.diag(z @ (sigma - gain @ data @ sigma) @ z.T) + np.diag(rest @ cov_beta @ rest.T)
    found = fit.get_prediction(new).summary_frame()["mean_se"]
    np.testing.assert_allclose(found, np.sqrt(fit.scale * expected), rtol=1e-6)
