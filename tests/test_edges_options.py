"""Options are strict everywhere: an unknown one is an error with a hint, R's spellings are understood or answered."""

import inspect
import warnings

import numpy as np
import pandas as pd
import pytest

import mvmise_sm as ms
from mvmise_sm.exceptions import ConvergenceWarning, DataError, NotAvailableError, OptionError, UnknownOptionError
from mvmise_sm.options import constructor_options, hint, parameter_names

SLEEP = "Reaction ~ Days + (Days | Subject)"
CBPP = "incidence / size ~ period + (1 | herd)"
WIDE = "P1_a + P1_b + P1_c ~ condition + (1 | batch)"


@pytest.fixture(scope="module")
def models():
    cbpp = ms.datasets.load_cbpp()
    return {
        "lmer": lambda **k: ms.lmer(SLEEP, ms.datasets.load_sleepstudy(), **k),
        "blmer": lambda **k: ms.blmer(SLEEP, ms.datasets.load_sleepstudy(), **k),
        "glmer": lambda **k: ms.glmer(CBPP, cbpp, **{"family": "binomial", "weights": "size", **k}),
        "bglmer": lambda **k: ms.bglmer(CBPP, cbpp, **{"family": "binomial", "weights": "size", **k}),
        "glmer_nb": lambda **k: ms.glmer_nb("incidence ~ period + (1 | herd)", cbpp, **k),
        "mvmise_b": lambda **k: ms.mvmise_b(WIDE, ms.datasets.load_tmt("wide"), **k),
        "mvmise_e": lambda **k: ms.mvmise_e(WIDE, ms.datasets.load_tmt("wide"), **k),
    }


@pytest.fixture(scope="module")
def results(models):
    return {name: models[name]().fit() for name in ("lmer", "glmer")}


INTERNAL = {"initialize", "normalized_cov_params"}  # of statsmodels, not for users
ENTRIES = ("lmer", "blmer", "glmer", "bglmer", "glmer_nb", "mvmise_b", "mvmise_e")


@pytest.mark.parametrize("name", ENTRIES)
def test_strict_options_of_every_entry_point(models, name):
    for options in ({"foo": 1}, {"wieghts": None}, {"REML": False}, {"control": None}, {"nAGQ": 9}):
        with pytest.raises(UnknownOptionError, match=f"unknown option '{next(iter(options))}'"):
            models[name](**options)


@pytest.mark.parametrize("name", ENTRIES)
def test_strict_options_of_every_fit(models, name):
    model = models[name]()
    for options in ({"foo": 1}, {"REML": False}, {"nAGQ": 9}, {"weights": "size"}, {"methd": "newton"}):
        with pytest.raises(UnknownOptionError, match=f"unknown option '{next(iter(options))}'"):
            model.fit(**options)


@pytest.mark.parametrize(
    ("entry", "option", "answer"),
    [
        ("lmer", "REML", r"REML is spelled reml: fit\(reml=False\)"),
        ("lmer", "reml", r"reml is an option of fit: fit\(reml=False\)"),
        ("lmer", "nAGQ", r"glmer\(...\).fit\(nagq=9\)"),
        ("lmer", "family", r"use glmer\(..., family=\)"),
        ("lmer", "control", r"fit\(method=, maxiter=, tol=\)"),
        ("lmer", "wieghts", "did you mean 'weights'"),
        ("glmer", "nAGQ", r"nAGQ is spelled nagq: fit\(nagq=9\)"),
        ("glmer", "familly", "did you mean 'family'"),
        ("mvmise_e", "sigma_diff", "first_sample_variance=True"),
    ],
)
def test_strict_options_answer_with_the_right_spelling(models, entry, option, answer):
    with pytest.raises(UnknownOptionError, match=answer):
        models[entry](**{option: 1})


def test_strict_options_know_where_an_option_belongs(models):
    with pytest.raises(UnknownOptionError, match="option of the model, not of its fit"):
        models["lmer"]().fit(weights="Days")
    with pytest.raises(UnknownOptionError, match=r"nAGQ is spelled nagq: fit\(nagq=9\)"):
        models["glmer"]().fit(nAGQ=9)
    with pytest.raises(UnknownOptionError, match="fitted by maximum likelihood"):
        models["glmer"]().fit(reml=True)
    with pytest.raises(OptionError, match="method must be one of"):
        models["glmer"]().fit(method="Nelder_Mead")
    with pytest.raises(NotAvailableError, match="cov_type='HC0'"):
        models["glmer"]().fit(cov_type="HC0")
    with pytest.raises(UnknownOptionError, match="unknown option 'foo'"):
        ms.LinearMixedModel(np.arange(6.0), np.ones(6), [0, 0, 1, 1, 2, 2], foo=1)


def test_strict_options_reach_the_optimiser(models):
    model = models["lmer"]()
    with pytest.raises(UnknownOptionError, match="unknown option 'gtoll'; did you mean 'gtol'"):
        model.fit(method="lbfgs", gtoll=1e-9)
    with pytest.raises(UnknownOptionError, match="unknown option 'ftol'; did you mean 'tol'"):
        model.fit(ftol=1e-9)
    assert model.fit(method="lbfgs", gtol=1e-9).converged


def test_glmer_nb_takes_no_other_family(models):
    with pytest.raises(OptionError, match=r"glmer\(..., family='poisson'\)"):
        models["glmer_nb"](family="poisson")
    assert models["glmer_nb"](family="negativebinomial").family is not None


def public_methods(result):
    cls = type(result._results)
    return [name for name in dir(cls) if not name.startswith("_") and inspect.isfunction(getattr(cls, name, None))]


@pytest.mark.parametrize("kind", ["lmer", "glmer"])
def test_strict_options_of_every_results_method(results, kind):
    result = results[kind]
    needed = {"predict": (), "refit": (result.model.endog,)}
    for name in sorted({*public_methods(result)} - INTERNAL):
        method = getattr(result._results, name)
        required = [
            p
            for p in inspect.signature(method).parameters.values()
            if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD
        ]
        arguments = needed.get(name, ("Days" if kind == "lmer" else "period",) * len(required))
        with pytest.raises(UnknownOptionError, match="unknown option 'no_such_option'"):
            method(*arguments, no_such_option=1)


def test_strict_options_of_functions_and_of_what_methods_return(results):
    result = results["lmer"]
    calls = [
        lambda: ms.anova(result, result, foo=1),
        lambda: ms.anova(result, foo=1),
        lambda: ms.compare(result, foo=1),
        lambda: result.get_influence().plot(foo=1),
        lambda: result.profile(["Days"]).conf_int(foo=1),
    ]
    for call in calls:
        with pytest.raises(UnknownOptionError, match="unknown option 'foo'"):
            call()


def test_r_spellings_of_values_are_accepted(results):
    result, g = results["lmer"], results["glmer"]
    equal = [
        (result.anova(type="III", ddf="Kenward-Roger"), result.anova(type=3, ddf="kenward-roger")),
        (result.anova("Satterthwaite", "II"), result.anova("satterthwaite", 2)),
        (ms.anova(result, type="I"), ms.anova(result, type=1)),
        (result.tidy(ddf="Kenward-Roger"), result.tidy(ddf="kenward-roger")),
        (result.conf_int(method="Wald"), result.conf_int()),
        (result.conf_int(method="boot", n=4, rng=1), result.conf_int(method="bootstrap", n=4, rng=1)),
        (g.predict(which="link"), g.predict(which="linear")),
        (g.predict(which="response"), g.predict()),
    ]
    for r, ours in equal:
        # two fits of the same data can differ in the last digits: sums depend on how memory is aligned
        pd.testing.assert_frame_equal(pd.DataFrame(r), pd.DataFrame(ours), rtol=1e-9)


@pytest.mark.parametrize(
    "call",
    [
        lambda r: r.predict(random=None),
        lambda r: r.anova(type="IV"),
        lambda r: r.anova(ddf="Kenward"),
        lambda r: r.tidy(effects="ranpars"),
        lambda r: r.conf_int(method="bayes"),
        lambda r: r.predict(which="probability"),
        lambda r: r.simulate(random="old"),
        lambda r: r.conf_int(alpha=5),
    ],
)
def test_values_that_do_not_exist_are_answered(results, call):
    with pytest.raises(OptionError, match="must"):
        call(results["lmer"])


def test_hints_are_deterministic_and_short():
    assert hint("x" * 5000, ("alpha",)) == "it takes alpha"
    with pytest.raises(UnknownOptionError) as caught:
        ms.lmer(SLEEP, None, **{"x" * 5000: 1})
    assert len(str(caught.value)) < 500
    assert "cov_prior" in constructor_options(ms.GeneralizedLinearMixedModel)
    assert "nagq" in parameter_names(ms.GeneralizedLinearMixedModel.fit)


def test_warnings_point_at_the_users_line(models):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ms.lmer("Reaction ~ Days + I(2 * Days) + (1 | Subject)", ms.datasets.load_sleepstudy()).fit()
    assert [w.filename for w in caught] == [__file__]


def test_whole_numbers_written_as_floats_are_integers_and_levels_are_never_none(results):
    result = results["lmer"]
    with pytest.warns(ConvergenceWarning, match="has not converged"):
        assert not result.model.fit(maxiter=0.0).converged
    assert result.model.fit(maxiter=50.0).mle_settings["maxiter"] == 50
    for call in (lambda: result.conf_int(alpha=None), lambda: result.conf_int(None)):
        with pytest.raises(OptionError, match="alpha must lie between 0 and 1, got None"):
            call()


@pytest.mark.parametrize(
    "start", ["abc", {"a": 1.0}, ["a", "b"], [np.nan], object(), np.ones((2, 2))], ids=lambda s: type(s).__name__
)
@pytest.mark.parametrize("name", ENTRIES)
def test_starts_of_every_model_are_numbers(models, name, start):
    with pytest.raises(OptionError, match="start_params must be"):
        models[name]().fit(start_params=start)


def test_messages_call_the_negative_binomial_as_users_do(models):
    data = ms.datasets.load_cbpp().assign(incidence=-1)
    with pytest.raises(DataError, match="family 'negativebinomial' needs a response that is not negative"):
        ms.glmer_nb("incidence ~ period + (1 | herd)", data)
    with pytest.raises(OptionError, match=r"family 'negativebinomial'.* use 'observed'"):
        models["glmer_nb"](dispersion="~ period").fit(curvature="expected")


def test_no_processes_are_answered_in_our_words(results):
    with pytest.raises(OptionError, match="n_jobs is the number of processes"):
        results["lmer"].bootstrap(5, n_jobs=0)
    with pytest.raises(OptionError, match="n_jobs is the number of processes"):
        ms.scan("~ x + (1 | g)", pd.DataFrame({"x": [1.0], "g": [0], "f": [1.0]}), ["f"], model="lmer", n_jobs=0)


@pytest.mark.parametrize(
    ("entry", "options"),
    [
        ("glmer_nb", {"family": np.zeros((2, 2))}),
        ("mvmise_b", {"outcome_effects": 1.5}),
        ("mvmise_e", {"outcome_effects": np.zeros(3)}),
        ("mvmise_b", {"outcome": ["a"], "sample": "g"}),
        ("mvmise_e", {"outcome": "a", "sample": {}}),
    ],
)
def test_options_of_foreign_types_are_answered(entry, options):
    data = pd.DataFrame({"a": [1.0, 2.0, 4.0, 3.0], "b": [2.0, 1.0, 3.0, 5.0], "g": [0, 0, 1, 1]})
    formula = "a ~ 1 + (1 | g)" if entry == "glmer_nb" else "a + b ~ 1 + (1 | g)"
    with pytest.raises(OptionError, match=r"outcome|sample|family"):
        getattr(ms, entry)(formula, data, **options)
