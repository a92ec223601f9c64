"""lmer_mnar against quadrature and lme4, its identities with lmer, and what it refuses."""

import io
import json
import pickle
from functools import cache

import numpy as np
import pandas as pd
import pytest
from conftest import REFERENCE, _json
from scipy.special import ndtr

import mvmise_sm as ms
from mvmise_sm.exceptions import DataError, IdentificationWarning, OptionError, SingularFitWarning, UnknownOptionError

CASES = {case["id"]: case for case in _json("mnar/mnar")["cases"]}
HELD = {"Intercept": 21.85, "y": -1.24}


@cache
def _data():
    import gzip

    with gzip.open(REFERENCE / "mnar" / "data.json.gz", "rt", encoding="utf-8") as stream:
        return json.load(stream)


def frame_of(name):
    return pd.read_csv(io.StringIO(_data()[name]))


def model_of(case, formula=None):
    options, frame = case["options"], frame_of(case["dataset"])
    formula = case["formula"] if formula is None else formula
    if "value_mechanism" in options:
        chosen = {key: options[key] for key in ("mechanism", "value_mechanism", "outcome_effects")}
        return ms.mvmise_b(formula, frame, **chosen)
    mechanism = options["mechanism"]
    if "phi" in options:
        mechanism = getattr(ms.mechanisms, mechanism.title())(**options["phi"])
    return ms.lmer_mnar(
        formula,
        frame,
        mechanism=mechanism,
        **{k: options[k] for k in ("missing_y", "mechanism_offset") if k in options},
    )


def ids(*ends, every=1):
    return [name for name in CASES if name.endswith(ends)][::every]


def close(found, expected, tol):
    for name, value in expected.items():
        assert abs(float(found[name]) - value) <= tol * max(1.0, abs(value)), name


@pytest.mark.parametrize("name", ids("_at", "_laplace"))
def test_loglikelihood_equals_nested_quadrature(name):
    case = CASES[name]
    tol = 1e-9 if name.endswith("_at") and "value" not in name and "both" not in name else 1e-6
    assert model_of(case).loglike_at(case["point"]) == pytest.approx(case["expected"]["llf"], abs=tol * 50)


@pytest.mark.parametrize(
    "name", ids("_fixed_ml", every=5) + ids("_free_ml", "_block_ml", "_value_ml", "_both_ml", every=3)
)
@pytest.mark.filterwarnings(
    "ignore::mvmise_sm.exceptions.SingularFitWarning", "ignore::mvmise_sm.exceptions.DataWarning"
)
def test_the_maximum(name):
    case, tol = CASES[name], CASES[name]["tol"]
    expected = case["expected"]
    options = {} if "value_mechanism" in case["options"] else {"reml": False}
    result = model_of(case).fit(cov_type="information", **options)
    assert result.converged
    assert result.llf == pytest.approx(expected["llf"], abs=1e-6)
    close(result.params, expected["params"], tol["params"])
    close(result.bse, expected["bse"], tol["bse"])
    close(result.phi, expected["phi"], tol["phi"])
    if "bse_phi" in expected:
        close(result.bse_phi, expected["bse_phi"], tol["bse_phi"])
    if "predict_missing" in expected and "tau" not in expected:
        found = result.predict_missing()[["mean", "sd"]].to_numpy()
        np.testing.assert_allclose(found, expected["predict_missing"], atol=1e-3)


@pytest.mark.parametrize("name", ids("_fixed_reml", every=4) + ids("_mar_reml", every=2))
@pytest.mark.filterwarnings("ignore::mvmise_sm.exceptions.SingularFitWarning")
def test_the_restricted_maximum(name):
    case, tol = CASES[name], CASES[name]["tol"]
    expected = case["expected"]
    result = model_of(case).fit(cov_type="conditional")
    assert result.llf == pytest.approx(expected["restricted_llf"], abs=1e-5)
    close(result.params, expected["params"], tol["params"])
    close(result.bse, expected["bse"], tol["bse"])
    table = result.tidy(ddf="satterthwaite").set_index("term")
    close(table["df"], expected["df"], tol["df"])


@pytest.mark.parametrize("name", ids("_laplace_ml", every=3))
def test_laplace_maximum(name):
    case = CASES[name]
    result = model_of(case).fit(reml=False)
    assert result.llf == pytest.approx(case["expected"]["llf"], abs=1e-4)
    np.testing.assert_allclose(result.theta, case["expected"]["theta"], atol=3e-3)


def test_laplace_is_close_to_the_exact_integral():
    frame = frame_of("vv00")
    model = ms.lmer_mnar("y ~ x + (1 | subject)", frame, mechanism=ms.mechanisms.Logit(**HELD))
    for reml in (True, False):
        exact, laplace = model.fit(reml=reml), model.fit(reml=reml, nagq=1)
        # the design's bound: 0.004 for each missing value
        assert abs(exact.llf - laplace.llf) < 0.004 * exact.n_missing + 0.03 * reml
        np.testing.assert_allclose(laplace.params, exact.params, atol=0.02)
        assert laplace.predict_missing()["mean"].to_numpy() == pytest.approx(
            exact.predict_missing()["mean"].to_numpy(), abs=0.05
        )


@pytest.mark.parametrize("reml", [True, False])
def test_without_dependence_on_y_it_is_lmer(reml):
    frame = frame_of("vm00")
    ours = ms.lmer_mnar("y ~ x + (1 | subject)", frame, missing_y=False).fit(reml=reml)
    theirs = ms.lmer("y ~ x + (1 | subject)", frame).fit(reml=reml)
    q = frame["y"].isna().mean()
    constant = frame["y"].isna().sum() * np.log(q) + frame["y"].notna().sum() * np.log1p(-q)
    assert ours.llf == pytest.approx(theirs.llf + constant, abs=1e-9)
    assert ours.params.to_numpy() == pytest.approx(theirs.params.to_numpy(), abs=1e-6)
    if reml:
        assert ours.bse.to_numpy() == pytest.approx(theirs.bse.to_numpy(), rel=1e-6)
    new = frame.head(4)
    mine, other = (r.get_prediction(new).summary_frame() for r in (ours, theirs))
    assert mine["mean_se"].to_numpy() == pytest.approx(other["mean_se"].to_numpy(), rel=1e-5 if reml else 0.1)
    assert list(ours.varcorr["sdcor"]) == pytest.approx(list(theirs.varcorr["sdcor"]), rel=1e-5)


def test_no_missing_value_is_lmer_without_a_mechanism():
    frame = frame_of("vm00").dropna()
    ours = ms.lmer_mnar("y ~ x + (1 | subject)", frame).fit()
    theirs = ms.lmer("y ~ x + (1 | subject)", frame).fit()
    assert ours.phi is None
    assert ours.llf == pytest.approx(theirs.llf, abs=1e-9)
    assert ours.aic == pytest.approx(theirs.aic, abs=1e-8)


@pytest.fixture(scope="module")
def fitted():
    return ms.lmer_mnar("y ~ x + (1 | subject)", frame_of("vv00"), mechanism=ms.mechanisms.Logit(**HELD)).fit()


def test_row_order_does_not_matter(fitted):
    frame = frame_of("vv00").sample(frac=1.0, random_state=2)
    again = ms.lmer_mnar("y ~ x + (1 | subject)", frame, mechanism=ms.mechanisms.Logit(**HELD)).fit()
    assert again.llf == pytest.approx(fitted.llf, abs=1e-9)
    table = again.predict_missing().set_index("row")["mean"].sort_index()
    assert table.to_numpy() == pytest.approx(fitted.predict_missing()["mean"].to_numpy(), abs=1e-5)


def test_it_is_asked_like_any_mixed_model(fitted):
    assert {"subject", "Residual"} == set(fitted.varcorr["grp"])
    assert fitted.anova().loc["x", "df_denom"] == pytest.approx(4.0157, abs=2e-3)
    with pytest.warns(SingularFitWarning):
        small = ms.lmer_mnar("y ~ 1 + (1 | subject)", frame_of("vv00"), mechanism=ms.mechanisms.Logit(**HELD)).fit()
    table = ms.anova(small, fitted)
    assert table["chisq"].iloc[-1] == pytest.approx(CASES["vv00_fixed_lrt"]["expected"]["chisq"], abs=1e-4)
    assert "Probability of being missing (logit) (held)" in str(fitted.summary(ddf="satterthwaite"))
    draws = fitted.simulate(400, rng=1)
    assert 0.1 < draws.isna().to_numpy().mean() < 0.5
    assert not fitted.simulate(2, rng=1, missing=False).isna().to_numpy().any()
    assert fitted.bootstrap(3, rng=0).samples.shape == (3, 4)
    assert fitted.refit(frame_of("vv00")["y"]).llf == pytest.approx(fitted.llf, abs=1e-9)
    again = pickle.loads(pickle.dumps(fitted))
    assert again.params.equals(fitted.params)


def test_quantile_residuals_are_normal_and_plain_ones_are_off_centre():
    rng = np.random.default_rng(5)
    g = np.repeat(np.arange(300), 2)
    y = 18 + 0.5 * rng.normal(size=300)[g] + 0.4 * rng.normal(size=600)
    y[rng.random(600) < ndtr(21.6 - 1.2 * y)] = np.nan
    frame = pd.DataFrame({"y": y, "g": g})
    result = ms.lmer_mnar("y ~ 1 + (1 | g)", frame, mechanism=ms.mechanisms.Probit(Intercept=21.6, y=-1.2)).fit()
    quantile = np.asarray(result.resid_quantile)
    quantile = quantile[np.isfinite(quantile)]
    assert abs(quantile.mean()) < 0.15
    assert abs(quantile.std() - 1) < 0.1
    plain = (frame["y"] - result.params.iloc[0]) / np.sqrt(result.varcorr["vcov"].sum())
    assert plain.mean() > 0.3


def test_a_condition_that_was_never_seen_has_no_finite_mean():
    frame = pd.concat([frame_of("vv00"), frame_of("vv00").assign(y=lambda d: d["y"] + [0.3, -0.2] * 7)])
    frame = frame.reset_index(drop=True)
    frame["condition"] = np.where(frame["x"] > 0, "b", "a")
    frame.loc[frame["condition"] == "b", "y"] = np.nan
    model = ms.lmer_mnar("y ~ condition + (1 | subject)", frame, mechanism=ms.mechanisms.Logit(**HELD))
    with pytest.warns(IdentificationWarning, match=r"no value of condition\[T.b\] was seen"):
        result = model.fit()
    assert np.isneginf(result.params["condition[T.b]"])
    assert np.isnan(result.bse["condition[T.b]"])
    assert np.isfinite(result.bse["Intercept"])
    prior = ms.priors.Normal(sd=[100.0, 2.0])
    options = {"mechanism": ms.mechanisms.Logit(**HELD), "fixef_prior": prior}
    with_prior = ms.lmer_mnar("y ~ condition + (1 | subject)", frame, **options).fit()
    assert -6 < with_prior.params["condition[T.b]"] < 0


def test_a_mechanism_that_one_feature_cannot_tell_says_so():
    y = [3.05, np.nan, 3.02, np.nan, 5, 5.1, 6, 6.1, 7, 7.2, np.nan, np.nan]
    frame = pd.DataFrame({"g": np.repeat(range(6), 2), "y": y})
    with pytest.warns(IdentificationWarning, match="ms.detection_curve"):
        result = ms.lmer_mnar("y ~ 1 + (1 | g)", frame).fit(reml=False)
    assert result.bse.isna().all()


def test_bad_input_gets_a_sentence():
    frame, formula = frame_of("vv00"), "y ~ x + (1 | subject)"
    curve = ms.mechanisms.Logit(**HELD)
    with pytest.raises(OptionError, match="lmer_mnar takes no weights"):
        ms.lmer_mnar(formula, frame, weights="x")
    with pytest.raises(DataError, match="y has -inf; write missing values as NaN"):
        ms.lmer_mnar(formula, frame.assign(y=frame["y"].fillna(-np.inf)))
    with pytest.raises(DataError, match="feature 'y': 2 values are seen and 2 fixed effects asked for"):
        ms.lmer_mnar(formula, frame.assign(y=[1.0, 2.0] + [np.nan] * 12)).fit()
    with pytest.raises(DataError, match="is it on the same scale"):
        ms.lmer_mnar(formula, frame.assign(y=frame["y"] + 60), mechanism=curve).fit()
    with pytest.raises(DataError, match="fit it with missing_y=False instead"):
        ms.anova(ms.lmer(formula, frame).fit(), ms.lmer_mnar(formula, frame, mechanism=curve).fit())
    with pytest.raises(UnknownOptionError):
        ms.lmer_mnar(formula, frame, mechansm="logit")
    with pytest.raises(OptionError, match="mechanism must be one of"):
        ms.lmer_mnar(formula, frame, mechanism="cauchit")


def test_samples_without_a_row_are_missing_values():
    frame = frame_of("vv00").assign(run=range(14))
    shown = frame.dropna()[["run", "y"]]
    options = {"samples": frame.drop(columns="y"), "sample": "run", "mechanism": ms.mechanisms.Logit(**HELD)}
    model = ms.lmer_mnar("y ~ x + (1 | subject)", shown, **options)
    assert model.n_missing == frame["y"].isna().sum()
    whole = ms.lmer_mnar("y ~ x + (1 | subject)", frame, mechanism=ms.mechanisms.Logit(**HELD))
    assert model.fit().llf == pytest.approx(whole.fit().llf, abs=1e-9)
    with pytest.raises(OptionError, match="go together"):
        ms.lmer_mnar("y ~ x + (1 | subject)", shown, sample="run")
