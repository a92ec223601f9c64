"""The selection models as statsmodels models: formulas, frames, results, tables, storage."""

import pickle
import subprocess
import sys
import warnings
from functools import partial

import numpy as np
import pandas as pd
import pytest
from conftest import _json, masked
from scipy import stats
from selection_oracle import frame_of
from statsmodels.base.tests.test_generic_methods import CheckGenericMixin
from statsmodels.base.tests.test_shrink_pickle import RemoveDataPickle

import mvmise_sm as ms
from mvmise_sm.exceptions import ConvergenceWarning, DataError, MissingDataError, OptionError, RandomEffectsError

FIVE = "y1 + y2 + y3 + y4 + y5 ~ x2 + (1 | id)"
# the one intercept of mvMISE and of the reference fits, which the outcomes share
MODELS = {kind: partial(entry, outcome_effects=[]) for kind, entry in (("b", ms.mvmise_b), ("e", ms.mvmise_e))}


@pytest.fixture(scope="module")
def demo():
    return frame_of("sim_dat")


@pytest.fixture(scope="module")
def results(demo):
    return {kind: entry(FIVE, demo).fit() for kind, entry in MODELS.items()}


def long_of(frame, outcomes):
    """The frame with a row per sample and outcome, missing values left out, rows shuffled."""
    wide = frame.assign(run=[f"r{i}" for i in range(len(frame))])
    long = wide.melt(["run", "id", "x2"], outcomes, var_name="peptide", value_name="y")
    return long.dropna().sample(frac=1.0, random_state=1)


# --- ways to give the data


@pytest.mark.parametrize("kind", MODELS)
def test_wide_long_and_arrays_are_one_model(kind, demo, results):
    outcomes = [f"y{k}" for k in range(1, 6)]
    long = long_of(demo, outcomes)
    # a sample without any value is in no row of the long frame
    seen = demo[outcomes].notna().any(axis=1)
    wide = MODELS[kind](FIVE, demo[seen]).fit()
    model = MODELS[kind]("y ~ x2 + (1 | id)", long, outcome="peptide", sample="run")
    assert sorted(model.outcome_names) == outcomes
    assert model.fit().llf == pytest.approx(wide.llf, abs=1e-6)
    cls = type(results[kind].model)
    arrays = cls(demo[outcomes].to_numpy(), np.column_stack([np.ones(92), demo["x2"]]), demo["id"].to_numpy()).fit()
    assert isinstance(arrays.params, np.ndarray)
    assert arrays.params == pytest.approx(results[kind].params.to_numpy(), rel=1e-6)
    assert arrays.llf == pytest.approx(results[kind].llf, abs=1e-7)


@pytest.mark.parametrize("kind", MODELS)
def test_cluster_labels_of_any_type_and_rows_in_any_order(kind, demo, results):
    other = demo.assign(id=[f"batch {i:02d}" for i in 99 - demo["id"]]).sample(frac=1.0, random_state=3)
    res = MODELS[kind](FIVE, other.assign(id=other["id"].astype("category"))).fit()
    assert res.llf == pytest.approx(results[kind].llf, abs=1e-7)
    assert res.params.to_numpy() == pytest.approx(results[kind].params.to_numpy(), rel=1e-5)
    own = results[kind].random_effects["id"]
    mine = res.random_effects["id"].loc[[f"batch {99 - i:02d}" for i in own.index]]
    assert mine.to_numpy() == pytest.approx(own.to_numpy(), abs=1e-4)
    assert list(res.predict_missing()["row"]) != list(results[kind].predict_missing()["row"])
    both = [r.predict_missing().set_index(["row", "outcome"])["mean"].sort_index() for r in (res, results[kind])]
    assert both[0].to_numpy() == pytest.approx(both[1].to_numpy(), abs=1e-4)


@pytest.mark.parametrize("kind", MODELS)
def test_outcome_effects_equal_a_stacked_design(kind, demo):
    res = MODELS[kind](FIVE, demo, outcome_effects=["x2"]).fit()
    assert list(res.params.index) == ["Intercept", *(f"x2[y{k}]" for k in range(1, 6))]
    stacked = np.column_stack([np.ones(460), np.kron(np.eye(5), demo[["x2"]])])
    cls = type(res.model)
    arrays = cls(demo[[f"y{k}" for k in range(1, 6)]], stacked, demo["id"]).fit()
    assert arrays.params.to_numpy() == pytest.approx(res.params.to_numpy(), rel=1e-6)
    table = res.wald_test_terms().table
    assert list(table["df_constraint"]) == [1, 5]
    joint = res.wald_test(np.eye(6)[1:], scalar=True)
    assert table.loc["x2", "statistic"] == pytest.approx(joint.statistic)
    assert res.t_test("x2[y1] = x2[y2]").effect[0] == pytest.approx(res.params["x2[y1]"] - res.params["x2[y2]"])


def test_independent_random_effects_of_model_e():
    frame = frame_of("zidx2")
    res = ms.mvmise_e("y1 + y2 + y3 ~ x2 + (1 + x2 || id)", frame, outcome_effects=[]).fit()
    assert list(res.cov_re["id"].index) == ["Intercept", "x2"]
    assert res.cov_re["id"].loc["Intercept", "x2"] == 0.0
    one = ms.mvmise_e("y1 + y2 + y3 ~ x2 + (1 | id)", frame, outcome_effects=[]).fit()
    assert res.llf > one.llf + 5
    assert res.random_effects["id"].shape == (frame["id"].nunique(), 2)
    with pytest.raises(RandomEffectsError, match=r"write \(1 \+ x2 \|\| id\)"):
        ms.mvmise_e("y1 + y2 + y3 ~ x2 + (1 + x2 | id)", frame, outcome_effects=[])
    with pytest.raises(OptionError, match="one random intercept"):
        ms.mvmise_b("y1 + y2 + y3 ~ x2 + (1 + x2 || id)", frame, outcome_effects=[])


@pytest.mark.parametrize("kind", MODELS)
def test_covariate_of_the_mechanism_common_and_outcome_specific(kind):
    frame = frame_of("covout")
    formula = "y1 + y2 + y3 ~ x2 + (1 | id)"
    own = MODELS[kind](formula, frame, missing_cov=["c1", "c2", "c3"]).fit()
    assert list(own.phi.index) == ["Intercept", "y", "covariate"]
    common = MODELS[kind](formula, frame, missing_cov="c1").fit()
    assert list(common.phi.index) == ["Intercept", "y", "c1"]
    same = MODELS[kind](formula, frame, missing_cov=["c1", "c1", "c1"]).fit()
    assert same.llf == pytest.approx(common.llf, abs=1e-7)
    array = MODELS[kind](formula, frame, missing_cov=frame["c1"].to_numpy()).fit()
    assert array.llf == pytest.approx(common.llf, abs=1e-7)
    plain = MODELS[kind](formula, frame, missing_y=False, missing_cov=["c1", "c2", "c3"]).fit()
    assert list(plain.phi.index) == ["Intercept", "covariate"]
    assert plain.llf < own.llf


@pytest.mark.parametrize("kind", MODELS)
def test_one_complete_outcome_is_the_linear_mixed_model(kind):
    frame = frame_of("k3_complete")
    lmm = ms.lmer("y1 ~ x2 + (1 | id)", frame).fit(reml=False)
    res = MODELS[kind]("y1 ~ x2 + (1 | id)", frame).fit()
    assert res.phi is None
    assert res.cov_phi is None
    assert res.llf == pytest.approx(lmm.llf, abs=1e-8)
    assert res.params.to_numpy() == pytest.approx(lmm.params.to_numpy(), rel=1e-6)
    variance = res.tau.iloc[0] ** 2 if kind == "b" else res.cov_re["id"].iloc[0, 0]
    assert variance == pytest.approx(lmm.varcorr["vcov"].iloc[0], rel=1e-5)
    error = res.sigma2 if kind == "b" else res.error_cov.iloc[0, 0]
    assert error == pytest.approx(lmm.scale, rel=1e-5)


PRIORS = [
    {"cov_prior": "wishart"},
    {"cov_prior": ms.priors.Gamma(shape=2.5, rate=0.1), "fixef_prior": ms.priors.Normal(sd=(10, 0.3))},
    {"fixef_prior": ms.priors.StudentT(df=3, scale=0.2), "resid_prior": ms.priors.InverseGamma(shape=5, scale=9)},
]


@pytest.mark.parametrize("priors", PRIORS, ids=["wishart", "gamma and normal", "t and residual"])
@pytest.mark.parametrize("kind", MODELS)
def test_priors_are_those_of_the_linear_mixed_model(kind, priors):
    frame = frame_of("k3_complete")
    lmm = ms.lmer("y1 ~ x2 + (1 | id)", frame, **priors).fit(reml=False)
    res = MODELS[kind]("y1 ~ x2 + (1 | id)", frame, **priors).fit()
    # blme's t prior is not profiled at the same point in every digit
    assert res.llf == pytest.approx(lmm.llf, abs=1e-5)
    assert res.penalty == pytest.approx(lmm.penalty, abs=1e-4)
    assert res.params.to_numpy() == pytest.approx(lmm.params.to_numpy(), rel=1e-4)
    assert "prior" in res.summary().as_text()


@pytest.mark.parametrize("prior", ["weak", 0.3, ms.priors.Normal(sd=0.3), ms.priors.StudentT(df=4, scale=0.3)])
def test_a_prior_on_the_mechanism_shrinks_its_slope(prior, demo, results):
    res = ms.mvmise_e(FIVE, demo, mechanism_prior=prior, outcome_effects=[]).fit()
    assert 0 > res.phi["y"] > results["e"].phi["y"]
    em = ms.mvmise_e(FIVE, demo, mechanism_prior=prior, outcome_effects=[]).fit(method="em")
    assert em.phi["y"] == pytest.approx(res.phi["y"], abs=1e-4)
    with pytest.raises(OptionError, match="mechanism_prior"):
        ms.mvmise_e(FIVE, demo, mechanism_prior="strong", outcome_effects=[])


# --- fits


@pytest.mark.parametrize("kind", MODELS)
def test_algorithms(kind, demo, results):
    model = results[kind].model
    em = model.fit(method="em")
    assert em.llf == pytest.approx(results[kind].llf, abs=1e-6)
    assert em.bse.to_numpy() == pytest.approx(results[kind].bse.to_numpy(), rel=1e-3)
    if kind == "b":
        with pytest.warns(ConvergenceWarning, match="no fixed point"):
            r = model.fit(method="mvmise")
    else:
        r = model.fit(method="mvmise")
        assert r.n_iter == 6
    assert r.exact_llf < results[kind].llf - 1
    assert r.llf == pytest.approx(r.history[-1])
    assert "stopping value" in r.summary().as_text()
    # the model was left as it was
    assert model.fit().llf == results[kind].llf


SIM = {
    fit["call"]["model"] + "-" + fit["call"]["tag"]: fit
    for fit in _json("mvmise")["sets"]["sim_dat"]["fits"]
    if fit["result"].get("iter", 999) <= 50
}


@pytest.mark.parametrize("tag", SIM)
def test_reproduction_through_formulas(tag, demo):
    call, reference = SIM[tag]["call"], SIM[tag]["result"]
    arguments = dict(call["args"]) if call["args"] else {}
    options = {
        "first_sample_variance": arguments.get("sigma_diff", False),
        "missing_y": arguments.get("miss_y", "auto"),
    }
    if call.get("cov", "none") != "none":
        options["missing_cov"] = call["cov"]
    if call.get("xmode") == "outcome":
        options["outcome_effects"] = ["x2"]
    elif call.get("xmode") == "outcome1":
        pytest.skip("a covariate of one outcome needs a long frame or arrays")
    fit_options = {"maxiter": arguments.get("maxIter"), "tol": arguments.get("tol")}
    if call["model"] == "e" and arguments.get("ADMM", True):
        fit_options["error_penalty"] = arguments.get("lambda", "auto")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        res = MODELS[call["model"]](FIVE, demo, **options).fit(method="mvmise", **fit_options)
    ours = {"beta": res.params, "phi": res.phi, "sigma2": res.sigma2, "loglikelihood": res.llf, "iter": res.n_iter}
    if call["model"] == "b":
        ours |= {"tau": res.tau, "var": res.cov_params()}
    else:
        ours |= {"Sigma": res.error_cov, "D": res.cov_re["id"], "AIC": res.aic, "stat": res.tvalues}
    for key, value in ours.items():
        expected = np.ravel(np.asarray(reference[key], dtype=float))
        error = np.abs(np.ravel(np.asarray(value, dtype=float)) - expected) / (0.01 + np.abs(expected))
        assert error.max() < 1e-6, key
    assert np.isfinite(res.exact_llf)


def test_permutation_test_takes_selection_results(results):
    assert ms.permutation_test(results["b"], n=3, rng=0).equals(results["b"].permutation_test(n=3, rng=0))
    with pytest.raises(OptionError, match="selection model"):
        ms.permutation_test(3.0)


def test_lasso_through_the_model(demo, results):
    model = results["e"].model
    choice = model.select_penalty("bic", n_penalties=6)
    assert list(choice.path["bic"]) == sorted(choice.path["bic"]) or choice.path["bic"].idxmin() >= 0
    assert choice.path["bic"].min() == choice.path["bic"][choice.path["error_penalty"] == choice].item()
    res = model.fit(error_penalty=float(choice.path["error_penalty"].iloc[3]))
    precision = res.error_precision.to_numpy()
    assert res.error_cov.to_numpy() @ precision == pytest.approx(np.eye(5), abs=1e-8)
    assert res.k_params < results["e"].k_params or (precision != 0).all()
    assert res.llf < results["e"].llf
    assert res.penalty > 0
    assert np.isfinite(res.bse).all()
    curve = res.sensitivity([res.phi["y"]])
    assert curve["estimate"].to_numpy() == pytest.approx(res.params.to_numpy(), rel=1e-6)
    assert res.mechanism_test is None
    auto = model.fit(error_penalty="auto")
    assert auto.error_penalty == pytest.approx(float(model.select_penalty("ebic")))
    with pytest.raises(OptionError, match="belongs to model e"):
        results["b"].model.fit(error_penalty=0.1)


def test_more_outcomes_than_samples_need_a_penalty():
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(4), 3)
    Y = rng.normal(size=(12, 14)) + rng.normal(size=(4, 1))[group]
    model = ms.ErrorSelectionModel(Y, np.ones(12), group)
    with pytest.raises(DataError, match="14 outcomes and 12 samples"):
        model.fit()
    assert model.fit(error_penalty=0.4).converged


def test_uncapped_mechanism_warns_when_it_diverges():
    frame = frame_of("uni_mnar")
    with pytest.warns(ConvergenceWarning, match="diverges"):
        res = ms.mvmise_b("y1 ~ x2 + (1 | id)", frame, mechanism="log", outcome_effects=[]).fit()
    assert not res.converged
    assert np.isnan(res.bse).all()


# --- results


@pytest.mark.parametrize("kind", MODELS)
def test_results(kind, results, demo):
    res = results[kind]
    assert res.conf_int().shape == (2, 2)
    assert res.tvalues.to_numpy() == pytest.approx((res.params / res.bse).to_numpy())
    assert res.aic == pytest.approx(-2 * res.llf + 2 * res.k_params)
    assert res.history[-1] == pytest.approx(res.llf)
    assert list(res.phi.index) == list(res.cov_phi.index) == ["Intercept", "y"]
    assert res.bse_phi["y"] == pytest.approx(np.sqrt(res.cov_phi.loc["y", "y"]))
    assert res.mechanism_test.statistic == pytest.approx(2 * (res.llf - res.mechanism_test.llf_null))
    missing = res.predict_missing()
    assert len(missing) == demo.filter(like="y").isna().sum().sum()
    assert (missing["kind"] == "block").all()
    assert (missing["sd"] > 0).all()
    assert res.fittedvalues.shape == (92, 5)
    assert res.predict().equals(res.fittedvalues)
    new = res.predict(demo.head(4))
    assert new.to_numpy() == pytest.approx(res.fittedvalues.head(4).to_numpy())
    marginal = res.predict(demo.head(4).drop(columns="id"), random="none")
    assert marginal["y1"].to_numpy() == pytest.approx(res.params["Intercept"] + res.params["x2"] * demo["x2"].head(4))
    assert res.resid["y1"].isna().equals(demo["y1"].isna())
    covariances = res.random_effects_cov["id"]
    assert covariances.shape == (36, 1, 1)
    assert (covariances > 0).all()
    low, high = res.profile_interval()
    assert low < res.phi["y"] < high
    if kind == "b":
        assert list(res.tau.index) == [f"y{k}" for k in range(1, 6)]
        assert res.tau.sum() > 0
        assert res.cov_re["id"].to_numpy() == pytest.approx(np.outer(res.tau, res.tau))
        assert isinstance(res.sigma2, float)
    else:
        assert res.error_precision.to_numpy() == pytest.approx(np.linalg.inv(res.error_cov))
        assert res.sigma2 == 1.0
    assert res.bse_phi["y"] > 0
    assert res.conf_int_phi().loc["y", "conf_low"] < res.phi["y"]


@pytest.mark.parametrize("kind", MODELS)
def test_standard_errors_are_corrected_for_small_samples(kind, results):
    res = results[kind]
    plain = res.model.fit(cov_type="information")
    likelihood = res._results._outcome.objective.likelihood
    inverse = np.linalg.inv(res._results._outcome.maximum.information)
    cut = likelihood.slices["beta"]
    assert plain.cov_params().to_numpy() == pytest.approx(inverse[cut, cut], rel=1e-4)
    added = res.cov_params().to_numpy() - inverse[cut, cut]
    assert np.linalg.eigvalsh(added)[0] > 0
    assert (added.diagonal() < 0.5 * inverse[cut, cut].diagonal()).all()
    assert res.bse.to_numpy() == pytest.approx(np.sqrt(res.cov_params().to_numpy().diagonal()))
    with pytest.raises(OptionError, match="cov_type='information'"):
        res.model.fit(method="mvmise", cov_type="information")


def test_balanced_data_need_no_correction():
    # generalised least squares are ordinary ones, whatever the variances
    rng = np.random.default_rng(5)
    frame = pd.DataFrame({"id": np.repeat(np.arange(12), 3), "x": np.tile([0.0, 1.0, 2.0], 12)})
    frame["y1"] = rng.normal(size=12)[frame["id"]] + rng.normal(size=36)
    model = ms.mvmise_e("y1 ~ x + (1 | id)", frame, outcome_effects=[])
    assert model.fit().bse.to_numpy() == pytest.approx(model.fit(cov_type="information").bse.to_numpy(), rel=1e-6)


def test_degrees_of_freedom_count_clusters_or_samples():
    rng = np.random.default_rng(6)
    frame = pd.DataFrame({"id": np.repeat(np.arange(12), 3), "x": np.tile([0.0, 1.0, 2.0], 12)})
    frame["z"] = (frame["id"] % 2).astype(float)
    for name in ("y1", "y2"):
        frame[name] = rng.normal(size=12)[frame["id"]] + rng.normal(size=36)
    frame.loc[frame["id"] < 2, "y2"] = np.nan
    res = ms.mvmise_b("y1 + y2 ~ x + z + (1 | id)", frame, missing_y=False, outcome_effects=[]).fit()
    # 12 clusters less intercept and z; 36 samples less 12 clusters and x
    assert list(res.df_resid_inference) == [10.0, 23.0, 10.0]
    assert list(res.tidy()["df"]) == [10.0, 23.0, 10.0]
    assert res.pvalues["x"] == pytest.approx(2 * stats.t.sf(abs(res.tvalues["x"]), 23))
    assert res.t_test("x = 0").pvalue == pytest.approx(res.pvalues["x"])
    assert res.t_test("x - z = 0").df_denom == 10.0
    joint = res.wald_test(np.eye(3)[1:])
    assert (joint.df_num, joint.df_denom) == (2, 10.0)
    low, high = res.conf_int().loc["x"]
    width = stats.t.isf(0.025, 23) * res.bse["x"]
    assert (low, high) == pytest.approx((res.params["x"] - width, res.params["x"] + width))
    effects = ms.mvmise_b("y1 + y2 ~ x + (1 | id)", frame, missing_y=False, outcome_effects=["x"]).fit()
    # y2 was observed in 10 clusters and 30 samples
    assert list(effects.df_resid_inference) == [11.0, 23.0, 19.0]


def test_intervals_of_variances_and_loadings(results):
    table = results["e"].tidy("random", conf_int=True)
    at = table[table["estimate"] > 0]
    middle = np.sqrt(at["conf_low"] * at["conf_high"])
    assert middle.to_numpy() == pytest.approx(at["estimate"].to_numpy())
    width = np.log(at["conf_high"] / at["estimate"]) * at["estimate"] / at["std_error"]
    assert width.to_numpy() == pytest.approx(np.full(len(at), stats.norm.isf(0.025)))
    table = results["b"].tidy("random", conf_int=True).query("term == 'tau[y1]'").iloc[0]
    assert table["conf_high"] - table["estimate"] == pytest.approx(stats.t.isf(0.025, 35) * table["std_error"])


@pytest.mark.parametrize("kind", MODELS)
def test_sensitivity_curve(kind, results):
    res = results[kind]
    curve = res.sensitivity(phi_y=[res.phi["y"], 0.0])
    at = curve[curve["phi_y"] == res.phi["y"]].set_index("term")
    assert at["estimate"].to_numpy() == pytest.approx(res.params.to_numpy(), rel=1e-5)
    assert at["llf"].iloc[0] == pytest.approx(res.llf, abs=1e-7)
    assert at["std_error"].to_numpy() == pytest.approx(res.bse.to_numpy(), rel=0.05)
    assert curve["converged"].all()
    # with the slope known, the inverse information cannot be larger than with it estimated
    plain = res.model.fit(cov_type="information")
    at = plain.sensitivity(phi_y=[plain.phi["y"]]).set_index("term")
    assert (at["std_error"] <= plain.bse * (1 + 1e-6)).all()
    assert len(res.sensitivity()) == 2 * 14


@pytest.mark.parametrize("kind", MODELS)
def test_tables(kind, results):
    res = results[kind]
    text = res.summary().as_text()
    for word in ("Missing-data mechanism (capped)", "Likelihood-ratio test", "Missing blocks", "Groups: id: 36"):
        assert word in text
    assert ("tau[y1]" in text) == (kind == "b")
    assert ("Error correlations" in text) == (kind == "e")
    assert "<table" in res._repr_html_()
    assert res.summary().as_latex()
    assert "phi[y]" in str(res.summary2())
    tidy = res.tidy("all", conf_int=True)
    assert list(tidy.columns[:8]) == ["effect", "group", "term", "estimate", "std_error", "statistic", "df", "p_value"]
    assert set(tidy["effect"]) == {"fixed", "random", "mechanism"}
    assert res.tidy()["p_value"].to_numpy() == pytest.approx(res.pvalues.to_numpy())
    assert res.glance()["phi_y"].item() == res.phi["y"]
    assert "92 samples in 36 clusters" in repr(res.model)


def test_variances_of_first_samples():
    frame = frame_of("refdiff")
    names = " + ".join(c for c in frame if c[0] == "y")
    for kind, entry in MODELS.items():
        res = entry(f"{names} ~ x2 + (1 | id)", frame, first_sample_variance=True).fit()
        assert list(res.sigma2.index) == ["first", "others"]
        assert res.sigma2["first"] < res.sigma2["others"]
        assert (res.sigma2["first"] == 1.0) == (kind == "e")
        assert "sigma2[others]" in res.summary().as_text()


def test_permutation_test_is_seeded_and_independent_of_processes(results):
    res = results["b"]
    first = res.permutation_test(n=20, rng=5)
    assert list(first.index) == ["x2"]
    assert first["p_value"].item() == pytest.approx(round(first["p_value"].item() * 21) / 21)
    assert first.equals(res.permutation_test("x2", n=20, rng=5, n_jobs=2))
    compat = res.permutation_test(n=20, rng=5, mvmise_compat=True)
    assert compat["p_value"].item() == pytest.approx((first["p_value"].item() * 21 - 1) / 20)
    assert res.permutation_test(n=5, rng=1, within="group")["n_failed"].item() == 0
    with pytest.raises(OptionError, match="not a fixed effect"):
        res.permutation_test("age", n=5)


def test_permutation_test_of_other_fits(results, demo):
    model = results["e"].model
    for res in (model.fit(error_penalty=0.03), model.fit(method="mvmise")):
        table = res.permutation_test(n=5, rng=0)
        assert table["n_failed"].item() == 0
        assert 1 / 6 <= table["p_value"].item() <= 1
    assert results["e"].permutation_test(n=4, rng=0, within=demo["id"].to_numpy()).shape == (1, 5)


def test_plots(results):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    ax = results["b"].plot_history()
    assert len(ax.lines[0].get_xdata()) == len(results["b"].history)
    ax = results["b"].plot_sensitivity([-0.2, 0.0])
    assert ax.get_title() == "x2"
    plt.close("all")


# --- input that is refused


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        ({"y2": np.nan}, DataError, "'y2' is missing in every sample"),
        ({"id": 1}, DataError, "one level only"),
        ({"x2": 3.0}, DataError, "'x2' is constant"),
        ({"y1": "low"}, DataError, "'y1' must be numeric"),
        ({"y1": np.inf}, DataError, "infinite"),
    ],
)
def test_bad_columns(demo, change, error, sentence):
    with pytest.raises(error, match=sentence):
        ms.mvmise_b(FIVE, demo.assign(**change), outcome_effects=[])


def test_missing_clusters_and_covariates_are_refused_or_dropped(demo):
    for column in ("id", "x2"):
        frame = demo.astype({column: float})
        frame.loc[3, column] = np.nan
        with pytest.raises(MissingDataError, match=column):
            ms.mvmise_b(FIVE, frame, outcome_effects=[])
        assert ms.mvmise_b(FIVE, frame, missing="drop", outcome_effects=[]).nobs == 91


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"mechanism": "cauchit"}, "mechanism must be"),
        ({"missing_y": "maybe"}, "missing_y must be"),
        ({"missing_cov": "age"}, "'age' is not a column"),
        ({"outcome_effects": ["age"]}, "not a fixed effect"),
        ({"weights": "x2"}, "no weights"),
        ({"outcome": "y1"}, "both outcome="),
    ],
)
def test_bad_options(demo, options, sentence):
    with pytest.raises((OptionError, DataError), match=sentence):
        ms.mvmise_b(FIVE, demo, **{"outcome_effects": [], **options})


def test_bad_fit_options(results):
    model = results["e"].model
    with pytest.raises(OptionError, match="method must be"):
        model.fit(method="newton")
    with pytest.raises(OptionError, match="error_penalty must"):
        model.fit(error_penalty=-1.0)
    with pytest.raises(NotImplementedError, match="cov_type"):
        model.fit(cov_type="HC0")
    with pytest.raises(OptionError, match="criterion"):
        model.select_penalty("cv")


def test_a_long_frame_with_a_double_row_is_refused(demo):
    long = long_of(demo, ["y1", "y2"])
    with pytest.raises(DataError, match="twice"):
        ms.mvmise_b("y ~ x2 + (1 | id)", pd.concat([long, long.head(1)]), outcome="peptide", sample="run")


def test_covariates_of_a_long_frame_may_differ_between_outcomes(demo):
    long = long_of(demo, ["y1", "y2"])
    res = ms.mvmise_e(
        "y ~ 0 + C(peptide) + x2 + (1 | id)", long, outcome="peptide", sample="run", outcome_effects=[]
    ).fit()
    assert list(res.params.index) == ["C(peptide)[y1]", "C(peptide)[y2]", "x2"]
    assert res.wald_test_terms().table.loc["C(peptide)", "df_constraint"] == 2


# --- storage


def test_pickles_load_in_a_fresh_process(results, demo, tmp_path):
    path = tmp_path / "result.pickle"
    results["e"].save(path)
    frame = tmp_path / "frame.pickle"
    demo.head(3).to_pickle(frame)
    code = (
        "import pickle, pandas as pd, sys\n"
        f"r = pickle.load(open({str(path)!r}, 'rb'))\n"
        f"p = float(r.predict(pd.read_pickle({str(frame)!r})).iloc[0, 0])\n"
        "print(repr(r.llf), repr(p), r.profile_interval()[0] < 0)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert float(out[0]) == results["e"].llf
    assert float(out[1]) == pytest.approx(results["e"].predict(demo.head(3)).iloc[0, 0])
    assert out[2] == "True"


def test_tables_work_without_data(demo):
    res = ms.mvmise_e(FIVE, demo, outcome_effects=[]).fit()
    before = res.summary().as_text()
    size = len(pickle.dumps(res))
    res.remove_data()
    assert len(pickle.dumps(res)) < size
    assert masked(res.summary().as_text()) == masked(before)
    with pytest.raises(OptionError, match="removed"):
        res.sensitivity([0.0])


def simulated(x, K):
    rng = np.random.default_rng(1)
    group = rng.integers(0, 25, len(x))
    Y = x.sum(axis=1)[:, None] + rng.normal(size=(25, 1))[group] + rng.normal(size=(len(x), K))
    Y[group < 4, K - 1] = np.nan
    return Y, group


class _Generic(CheckGenericMixin):
    def test_zero_collinear(self):
        pytest.skip("selection models refuse collinear designs")

    def test_predict_types(self):
        pytest.skip("asks for one prediction per row; here there is one per outcome, and fitted values are conditional")


class TestFactorModel(_Generic):
    def setup_method(self):
        super().setup_method()
        self.results = ms.FactorSelectionModel(*self._arguments(2)).fit()

    def _arguments(self, K):
        Y, group = simulated(self.exog, K)
        return Y, self.exog, group


class TestErrorModel(TestFactorModel):
    def setup_method(self):
        CheckGenericMixin.setup_method(self)
        self.results = ms.ErrorSelectionModel(*self._arguments(2)).fit(use_t=True)


class TestRemoveData(RemoveDataPickle):
    def setup_method(self):
        super().setup_method()
        Y, group = simulated(self.exog, 2)
        self.model_class, self.model_args = ms.ErrorSelectionModel, (Y, self.exog, group)
        self.results = self.estimate_model()


def test_no_warning_on_a_fine_fit(demo):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ms.mvmise_b(FIVE, demo, outcome_effects=[]).fit()
