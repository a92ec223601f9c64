"""Curves over many features: batched against single evaluations, recovery, use in fits and scans, storage."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import ndtr

import mvmise_sm as ms
from mvmise_sm.core.covariance.random_effects import GroupingFactor, RandomEffects, RandomTerm
from mvmise_sm.core.covariance.structures import Unstructured
from mvmise_sm.exceptions import DataError, OptionError
from mvmise_sm.selection.batch import FeatureBatch
from mvmise_sm.selection.curve import BatchObjective, CurveObjective, FeatureProfile
from mvmise_sm.selection.units import Slot
from mvmise_sm.selection.value import ValueProblem

FORMULA = "~ condition + (1 | subject)"
TRUTH = np.array([12.6, -0.72])


def experiment(features=120, pairs=6, seed=4, spread=0.0):
    rng = np.random.default_rng(seed)
    g, x = np.repeat(np.arange(pairs), 2), np.tile([0.0, 1.0], pairs)
    offset = rng.normal(scale=spread, size=2 * pairs) if spread else np.zeros(2 * pairs)
    offset -= offset.mean()
    columns = {}
    for f in range(features):
        y = rng.uniform(17.4, 19.4) + 0.5 * rng.normal(size=pairs)[g] + 0.4 * rng.normal(size=2 * pairs)
        y[rng.random(2 * pairs) < ndtr(TRUTH[0] + TRUTH[1] * y + offset)] = np.nan
        columns[f"f{f:03d}"] = y
    runs = pd.DataFrame(
        {"subject": [f"s{i}" for i in g], "condition": x, **columns}, index=[f"r{i}" for i in range(len(g))]
    )
    return runs, list(columns), offset


@pytest.fixture(scope="module")
def runs():
    return experiment()[0]


@pytest.fixture(scope="module")
def curve(runs):
    return ms.detection_curve(FORMULA, runs, [c for c in runs if c[0] == "f"], mechanism="probit")


@pytest.mark.parametrize("mechanism", ["probit", "logit"])
def test_features_together_are_the_single_ones(runs, mechanism):
    names = [c for c in runs if c[0] == "f"][:12]
    Y, X = runs[names].to_numpy(), np.column_stack([np.ones(12), runs["condition"]])
    codes, levels = pd.factorize(runs["subject"])
    F = ms.mechanisms.Probit() if mechanism == "probit" else ms.mechanisms.Logit()
    rng = np.random.default_rng(0)
    beta = np.column_stack([rng.normal(18, 0.5, 12), rng.normal(0, 0.3, 12)])
    tau, s2, z = rng.uniform(0.2, 0.8, 12), rng.uniform(0.1, 0.3, 12), rng.uniform(0.5, 1.5, 12)
    offset = rng.normal(scale=0.3, size=12)
    point = FeatureBatch(Y, X, codes, F, z=z, offset=offset).evaluate(beta, tau, s2, TRUTH)
    random = RandomEffects([RandomTerm(GroupingFactor("s", codes, levels), (z,), ("z",), Unstructured(1))])
    for j in range(12):
        problem = ValueProblem(Y[:, j], X, random, Slot(F, True, always=True), mechanism_offset=offset)
        theta = np.r_[beta[j], tau[j], np.log(s2[j]), TRUTH]
        value, score = problem.likelihood.value_and_score(theta)
        assert point.value[j] == pytest.approx(value, abs=1e-10)
        found = np.r_[point.in_beta[j], point.in_tau[j], point.in_log_s2[j], point.in_phi[j]]
        np.testing.assert_allclose(found, score, atol=1e-9)
        np.testing.assert_allclose(point.information[j], problem.likelihood.beta_information(theta), atol=1e-9)


def test_the_gradient_of_the_adjusted_profile(runs):
    names = [c for c in runs if c[0] == "f"][:25]
    codes, _ = pd.factorize(runs["subject"])
    batch = FeatureBatch(
        runs[names].to_numpy(), np.column_stack([np.ones(12), runs["condition"]]), codes, ms.mechanisms.Probit()
    )
    objective = BatchObjective(batch, adjusted=True)
    common = np.array([12.0, -0.7, 0.1])
    _, gradient = objective(common)
    for k, width in enumerate((1e-3, 1e-4, 1e-3)):
        step = np.zeros(3)
        step[k] = width
        numeric = (objective(common + step)[0] - objective(common - step)[0]) / (2 * width)
        assert gradient[k] == pytest.approx(numeric, rel=2e-3, abs=2e-3)


def test_the_curve_is_found(curve):
    assert curve.converged
    slope, position = curve.params["y"], -curve.params["Intercept"] / curve.params["y"]
    # within three standard errors of the truth
    assert abs(slope - TRUTH[1]) < 3 * curve.bse["y"]
    assert abs(position - 17.5) < 0.3
    assert 0.8 < curve.theta < 1.7
    assert list(curve.table.columns) == ["feature", "n", "n_missing", "llf", "used"]
    assert curve.llf == pytest.approx(curve.table["llf"].sum())
    half = curve.probability(position)
    assert half == pytest.approx(0.5)
    again = type(curve).from_dict(curve.to_dict())
    assert again.params.equals(curve.params)
    assert again.theta == curve.theta
    assert "DetectionCurve" in repr(curve)


def test_the_plain_profile_is_flatter(runs, curve):
    names = [c for c in runs if c[0] == "f"]
    profile = ms.detection_curve(FORMULA, runs, names, mechanism="probit", method="profile")
    assert abs(profile.params["y"]) < abs(curve.params["y"])


def test_features_with_a_theta_of_their_own_fit_no_worse():
    runs, names, _ = experiment(features=10, pairs=5)
    own, common = (
        ms.detection_curve(FORMULA, runs, names, mechanism="probit", method="profile", theta=theta)
        for theta in (None, "common")
    )
    assert own.converged
    assert own.theta is None
    assert own.llf == pytest.approx(own.table["llf"].sum())
    # the common theta is one of those that the features may have
    assert own.llf > common.llf
    assert own.params["y"] < 0.0


def test_the_gradient_of_a_feature_with_its_own_theta(runs):
    codes, levels = pd.factorize(runs["subject"])
    random = RandomEffects([RandomTerm(GroupingFactor("s", codes, levels), (np.ones(12),), ("z",), Unstructured(1))])
    X, F = np.column_stack([np.ones(12), runs["condition"]]), ms.mechanisms.Probit()
    problem = ValueProblem(runs["f003"].to_numpy(), X, random, Slot(F, True, always=True))
    for adjusted in (False, True):
        profile = FeatureProfile(problem, adjusted)
        objective = CurveObjective([profile], map)
        at = np.array([12.0, -0.7])
        value, gradient = objective(at)
        assert objective.values(at)[0] == pytest.approx(value, abs=1e-8)
        for k, width in enumerate((1e-3, 1e-4)):
            step = np.eye(2)[k] * width
            numeric = (objective(at + step)[0] - objective(at - step)[0]) / (2.0 * width)
            assert gradient[k] == pytest.approx(numeric, rel=2e-3, abs=2e-3)
        assert objective(np.array([np.nan, 0.0]))[0] == -np.inf


@pytest.mark.parametrize(
    ("change", "options", "error", "sentence"),
    [
        (None, {"method": "ml"}, OptionError, "method must be one of"),
        (None, {"offsets": "sample"}, OptionError, "offsets must be None or 'run', got 'sample'"),
        (None, {"theta": "own"}, OptionError, "theta must be 'common' or None, got 'own'"),
        (None, {"theta": None, "offsets": "run"}, OptionError, "offsets='run' goes with theta='common'"),
        (lambda r: r.assign(f001=np.inf), {}, DataError, "infinite values; write missing values as NaN"),
        (lambda r: r.fillna(18.0), {}, DataError, "no value is missing; there is no curve to estimate"),
        (None, {"features": ["f000", "f9"]}, OptionError, "feature 'f9' is not a column of the data"),
        (None, {"features": pd.DataFrame({"a": [1.0]})}, DataError, "features has 1 rows and data has 12"),
    ],
)
def test_curves_that_cannot_be_had(runs, change, options, error, sentence):
    data = runs if change is None else change(runs)
    features = options.pop("features", [c for c in runs if c[0] == "f"])
    with pytest.raises(error, match=sentence):
        ms.detection_curve(FORMULA, data, features, mechanism="probit", **options)


def test_offsets_of_runs_are_found():
    runs, names, truth = experiment(features=70, spread=0.6)
    curve = ms.detection_curve(FORMULA, runs, names, mechanism="probit", offsets="run")
    assert curve.offsets.sum() == pytest.approx(0.0, abs=1e-9)
    assert np.corrcoef(curve.offsets, truth)[0, 1] > 0.8
    model = ms.lmer_mnar(f"f003 {FORMULA}", runs, mechanism=curve)
    np.testing.assert_allclose(model.mechanism.offset, curve.offsets)
    with pytest.raises(OptionError, match="offset for each run"):
        ms.lmer_mnar(f"f003 {FORMULA}", runs.reset_index(drop=True), mechanism=curve)


def test_a_curve_is_held_with_its_theta_or_is_a_prior(runs, curve):
    held = ms.lmer_mnar(f"f003 {FORMULA}", runs, mechanism=curve).fit()
    assert held.phi.to_numpy() == pytest.approx(curve.params.to_numpy())
    assert held.theta == pytest.approx([curve.theta])
    assert np.isfinite(held.tidy(ddf="satterthwaite")["df"]).all()
    free = ms.lmer_mnar(f"f004 {FORMULA}", runs, mechanism=curve, theta=None).fit()
    assert free.k_params == held.k_params + 1
    prior = ms.lmer_mnar(f"f003 {FORMULA}", runs, mechanism="probit", mechanism_prior=curve).fit(reml=False)
    assert abs(prior.phi["y"] - curve.params["y"]) < 3 * curve.bse["y"]


def test_a_curve_in_a_scan(runs, curve):
    names = ["f003", "f004", "f005"]
    table = ms.scan(FORMULA, runs, names, model="lmer_mnar", mechanism=curve, terms="condition")
    single = ms.lmer_mnar(f"f004 {FORMULA}", runs, mechanism=curve).fit().tidy(ddf="satterthwaite").set_index("term")
    row = table.set_index("feature").loc["f004"]
    assert row["estimate"] == pytest.approx(single.loc["condition", "estimate"])
    assert row["p"] == pytest.approx(single.loc["condition", "p_value"], rel=1e-6)
    assert table["converged"].all()


def test_what_a_curve_refuses(runs):
    names = [c for c in runs if c[0] == "f"]
    with pytest.raises(OptionError, match="one scalar random term"):
        ms.detection_curve("~ 1 + (1 | subject) + (1 | condition)", runs, names)
    with pytest.raises(DataError, match="at least 10"):
        ms.detection_curve(FORMULA, runs, names[:5])
    with pytest.raises(DataError, match="no value is missing"):
        ms.detection_curve(FORMULA, runs.fillna(18.0).copy(), names)
    with pytest.raises(OptionError, match="method must be"):
        ms.detection_curve(FORMULA, runs, names, method="ml")
    with pytest.raises(OptionError, match="closed form for the logit"):
        ms.detection_curve(FORMULA, runs, names, mechanism="probit", method="observed-normal")


def test_the_closed_form_and_the_plot(runs):
    import matplotlib

    matplotlib.use("Agg")
    names = [c for c in runs if c[0] == "f"]
    closed = ms.detection_curve(FORMULA, runs, names, method="observed-normal")
    assert closed.params["y"] < 0
    assert np.isnan(closed.bse["y"])
    assert closed.plot().get_ylabel() == "probability of being missing"
