"""A fit that has not reached its maximum, or whose variances the data leave open, gives no number that looks like one.

Whatever door it is asked through: no standard error, no interval, no p-value, and a sentence that says why.
"""

import warnings

import numpy as np
import pandas as pd
import pytest

import mvmise_sm as ms
from mvmise_sm.exceptions import ConvergenceWarning, IdentificationWarning, OptionError

WIDE = "P1_a + P1_b + P1_c ~ condition + (1 | batch)"


def _data():
    rng = np.random.default_rng(0)
    g = np.repeat(np.arange(12), 10)
    data = pd.DataFrame({"x": rng.normal(size=120), "f": np.array(list("abc"))[rng.integers(0, 3, 120)], "g": g})
    eta = 0.5 * data["x"] + rng.normal(size=12)[g]
    data["y"] = eta + rng.normal(size=120)
    data["count"] = rng.poisson(np.exp(0.3 * eta)) * rng.binomial(1, 0.8, 120)
    data["bin"] = rng.binomial(1, 1.0 / (1.0 + np.exp(-eta)))
    data["grade"] = pd.cut(data["y"], [-np.inf, -1.0, 0.0, 1.0, np.inf], labels=list("pqrs"))
    data["seen"] = data["y"].mask((data["y"] < -0.8) & (rng.random(120) < 0.8))
    return data


DATA = _data()
UNFINISHED = {
    "lmer": lambda **k: ms.lmer("y ~ x + f + (x | g)", DATA).fit(**k),
    "blmer": lambda **k: ms.blmer("y ~ x + f + (x | g)", DATA).fit(**k),
    "lbfgs": lambda **k: ms.lmer("y ~ x + f + (x | g)", DATA).fit(method="lbfgs", **k),
    "robust": lambda **k: ms.lmer("y ~ x + f + (x | g)", DATA).fit(cov_type="CR2", cov_kwds={"groups": "g"}, **k),
    "glmer": lambda **k: ms.glmer("bin ~ x + f + (x | g)", DATA, family="binomial").fit(**k),
    "nagq=0": lambda **k: ms.glmer("bin ~ x + f + (x | g)", DATA, family="binomial").fit(nagq=0, **k),
    "nagq=5": lambda **k: ms.glmer("bin ~ x + f + (1 | g)", DATA, family="binomial").fit(nagq=5, **k),
    "glmer_nb": lambda **k: ms.glmer_nb("count ~ x + f + (1 | g)", DATA).fit(**k),
    "zeros": lambda **k: ms.glmer("count ~ x + f + (1 | g)", DATA, family="poisson", zero_inflation="~ 1").fit(**k),
    "dispersion": lambda **k: ms.lmer("y ~ x + f + (1 | g)", DATA, dispersion="~ x").fit(**k),
    "clmm": lambda **k: ms.clmm("grade ~ x + f + (1 | g)", DATA).fit(**k),
    "mnar": lambda **k: ms.lmer_mnar("seen ~ x + f + (1 | g)", DATA).fit(**k),
    "mnar, ML": lambda **k: ms.lmer_mnar("seen ~ x + f + (1 | g)", DATA).fit(reml=False, **k),
    "mvmise_b": lambda **k: ms.mvmise_b(WIDE, ms.datasets.load_tmt("wide")).fit(**k),
    "mvmise_e": lambda **k: ms.mvmise_e(WIDE, ms.datasets.load_tmt("wide")).fit(**k),
    "EM": lambda **k: ms.mvmise_b(WIDE, ms.datasets.load_tmt("wide")).fit(method="em", **k),
}
# every way to a number that only a maximum has
DOORS = {
    "bse": lambda r: r.bse,
    "pvalues": lambda r: r.pvalues,
    "cov_params": lambda r: r.cov_params(),
    "conf_int": lambda r: r.conf_int(),
    "tidy": lambda r: _uncertain(r.tidy(conf_int=True)),
    "t_test": lambda r: r.t_test(np.eye(len(r.params))[:1]).pvalue,
    "wald_test": lambda r: r.wald_test(np.eye(len(r.params))[:2]).pvalue,
    "wald_test_terms": lambda r: r.wald_test_terms().table["pvalue"],
    "anova": lambda r: r.anova()[["F", "p_value"]],
    "drop1": lambda r: r.drop1()[["chisq", "p_value"]],
    "marginal_means": lambda r: _uncertain(r.marginal_means(_factor(r))),
    "pairs": lambda r: _uncertain(r.marginal_means(_factor(r)).pairs()),
    "get_prediction": lambda r: r.get_prediction(_rows(r)).summary_frame().iloc[:, 1:],
    "bse_thresholds": lambda r: r.bse_thresholds,
    "profile": lambda r: r.conf_int(method="profile"),
    "bootstrap": lambda r: r.bootstrap(2, rng=1).std_error,
    "profile_interval": lambda r: r.profile_interval(),
    "permutation_test": lambda r: r.permutation_test(n=3, rng=1)["p_value"],
    "bse_phi": lambda r: r.bse_phi,
}
# what a class of results has not
OWN = {"profile_interval": ("mvmise_b", "mvmise_e", "EM"), "permutation_test": ("mvmise_b", "mvmise_e", "EM")}
OWN["bse_thresholds"] = ("clmm",)
OWN["bse_phi"] = (*OWN["profile_interval"], "mnar", "mnar, ML")


def _uncertain(frame):
    return frame[frame.columns.intersection(["std_error", "statistic", "p_value", "conf_low", "conf_high"])]


def _factor(result):
    return "condition" if "P1_a" in result.model.formula else "f"


def _rows(result):
    return (ms.datasets.load_tmt("wide") if "P1_a" in result.model.formula else DATA).head(3)


@pytest.fixture(scope="module")
def unfinished():
    fits = {}

    def of(name):
        if name not in fits:
            with pytest.warns(ConvergenceWarning, match="the fit has not converged"):
                fits[name] = UNFINISHED[name](maxiter=1)
        return fits[name]

    return of


@pytest.mark.parametrize("name", UNFINISHED)
def test_unfinished_fits_answer_no_door(unfinished, name):
    result = unfinished(name)
    assert not result.converged
    assert "Not converged" in str(result.summary())
    for door, ask in DOORS.items():
        if name not in OWN.get(door, UNFINISHED):
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                value = ask(result)
        except OptionError:  # a sentence
            continue
        assert not np.isfinite(np.asarray(value, dtype=float)).any(), door


@pytest.mark.filterwarnings("ignore::mvmise_sm.exceptions.SingularFitWarning")
def test_unfinished_fits_in_comparisons_are_named(unfinished):
    small, large = ms.lmer("y ~ x + (x | g)", DATA).fit(reml=False), unfinished("lbfgs")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        table = ms.anova(small, large)
    assert np.isnan(table["chisq"]).all()
    assert "have not converged: y ~ x + f + (x | g)" in table.heading
    assert "have not converged: <none>" in large.drop1().heading
    with pytest.raises(OptionError, match="profiles start from the maximum, and this fit has not converged: not st"):
        large.profile()


@pytest.mark.parametrize("options", [{}, {"method": "em"}, {"reml": True}, {"error_penalty": 0.1}], ids=str)
@pytest.mark.parametrize("entry", [ms.mvmise_b, ms.mvmise_e])
def test_maxiter_counts_every_step_of_a_selection_model(entry, options):
    model = entry(WIDE, ms.datasets.load_tmt("wide"))
    if "error_penalty" in options and entry == ms.mvmise_b:
        pytest.skip("the lasso is that of model e")
    if "reml" in options:
        with pytest.raises(OptionError, match="none is found: no convergence in 1 iterations"):
            model.fit(maxiter=1, **options)
        return
    with pytest.warns(ConvergenceWarning, match="no convergence in"):
        result = model.fit(maxiter=1, **options)
    assert result.n_iter <= 1 + ("error_penalty" in options)
    assert np.isnan(result.bse).all()


UNDETERMINED = {
    "lmer": lambda: ms.lmer("y ~ x + f + (1 | f)", DATA).fit(),
    "robust": lambda: ms.lmer("y ~ x + f + (1 | f)", DATA).fit(cov_type="CR2", cov_kwds={"groups": "f"}),
    "glmer": lambda: ms.glmer("bin ~ x + f + (1 | f)", DATA, family="binomial").fit(),
    "zeros": lambda: ms.glmer("count ~ x + f + (1 | f)", DATA, family="poisson", zero_inflation="~ 1").fit(),
    "dispersion": lambda: ms.lmer("y ~ x + f + (1 | f)", DATA, dispersion="~ x").fit(),
    "clmm": lambda: ms.clmm("grade ~ x + f + (1 | f)", DATA).fit(),
}


@pytest.mark.filterwarnings("ignore::mvmise_sm.exceptions.SingularFitWarning")
@pytest.mark.parametrize("name", UNDETERMINED)
def test_undetermined_effects_have_no_error_behind_any_door(name):
    with pytest.warns(IdentificationWarning, match="the data say nothing about var f"):
        result = UNDETERMINED[name]()
    index = list(result.params.index)
    felt = np.array([n.startswith("f[") for n in index])
    assert np.isnan(result.bse[felt]).all()
    assert np.isfinite(result.bse["x"])
    contrast = np.eye(len(index))[index.index("f[T.b]")]
    assert np.isnan(result.t_test(contrast).pvalue).all()
    assert np.isnan(result.wald_test(contrast[None]).pvalue).all()
    assert np.isnan(result.anova().loc["f", "p_value"])
    assert np.isfinite(result.anova().loc["x", "p_value"])
    assert np.isnan(_uncertain(result.marginal_means("f").pairs()).to_numpy(dtype=float)).all()
    if name != "clmm":
        assert np.isnan(result.get_prediction(DATA.head(3)).summary_frame().iloc[:, 1:].to_numpy(dtype=float)).all()


def test_marginal_means_of_ordered_categories_are_locations_between_the_thresholds():
    result = UNFINISHED["clmm"]()
    means, mean_x = result.marginal_means("f"), DATA["x"].mean()
    effects = np.array([0.0, result.params["f[T.b]"], result.params["f[T.c]"]])
    np.testing.assert_allclose(means["estimate"], effects + mean_x * result.params["x"], rtol=1e-10)
    pairs = result.marginal_means("f").pairs()
    np.testing.assert_allclose(pairs["std_error"][:2], result.bse[["f[T.b]", "f[T.c]"]], rtol=1e-10)
