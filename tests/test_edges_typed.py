"""Whatever is given to any option of any method of a result is taken, or answered with a sentence of ours."""

import inspect
import warnings
from functools import cache

import numpy as np
import pandas as pd
import pytest

import mvmise_sm as ms
from mvmise_sm import exceptions as ex

OURS = (ex.FormulaError, ex.DataError, ex.OptionError)
ODD = (np.array([]), np.eye(2), pd.NA, pd.DataFrame(), object(), b"x", -1, [], {}, "foo", float("nan"))
# parts of the package call these with objects that no user types; or they write files, or fit hundreds of models
NOT_TYPED = (
    frozenset(
        (
            "cumulative",
            "drawn",
            "effects_draw",
            "fit_to_rows",
            "grouping",
            "initialize",
            "keep",
            "load",
            "memo",
            "on_scale",
        )
    )
    | frozenset(
        ("own_predictors", "parameters_at", "predictor_law", "remove_data", "residual_noise", "response_cov", "save")
    )
    | frozenset(("response_draw", "satterthwaite_law", "widened", "with_components", "without_columns", "all_fit"))
)


def frame():
    rng = np.random.default_rng(0)
    g = np.repeat(np.arange(8), 5)
    data = pd.DataFrame({"g": g, "x": rng.normal(size=40), "f": np.array(list("abcab"))[np.arange(40) % 5]})
    data["y"] = rng.normal(size=8)[g] + 0.5 * data["x"] + rng.normal(size=40)
    # two counts in five are zero whatever their mean
    data["n"] = rng.poisson(np.exp(1.2 + 0.3 * data["x"] + 0.3 * rng.normal(size=8)[g])) * (rng.random(40) < 0.6)
    data["o"] = pd.cut(data["y"], [-np.inf, -0.5, 1.0, np.inf], labels=["low", "mid", "high"])
    return data


@cache
def fitted(kind):
    data = frame()
    if kind == "mvmise_b":
        return ms.mvmise_b("P1_a + P1_b + P1_c ~ condition + (1 | batch)", ms.datasets.load_tmt("wide")).fit()
    if kind == "clmm":
        return ms.clmm("o ~ x + (1 | g)", data).fit()
    if kind == "lmer":
        return ms.lmer("y ~ x + f + (1 | g)", data).fit()
    return ms.glmer("n ~ x + (1 | g)", data, family="poisson", zero_inflation="~ 1").fit()


def typed_methods(result):
    """Name, method and parameters of what users call on a result."""
    for name in sorted(dir(result)):
        if name.startswith("_") or name in NOT_TYPED:
            continue
        member = inspect.getattr_static(type(result._results), name, None)
        if inspect.isfunction(member):
            method = getattr(result, name)
            if not callable(method):
                continue
            yield name, method, [p for p in inspect.signature(method).parameters.values() if p.kind < p.VAR_KEYWORD]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["lmer", "zip", "clmm", "mvmise_b"])
def test_every_option_of_every_method_takes_or_answers_odd_values(kind):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    result, leaks = fitted(kind), []
    for name, method, parameters in typed_methods(result):
        needed = {p.name: None for p in parameters if p.default is p.empty and p.kind is not p.VAR_POSITIONAL}
        if any(p.name == "n" for p in parameters):
            needed["n"] = 2
        for parameter in parameters:
            if parameter.kind is parameter.VAR_POSITIONAL:
                continue
            for value in ODD:
                try:
                    with warnings.catch_warnings():
                        warnings.simplefilter("error", RuntimeWarning)
                        method(**{**needed, parameter.name: value})
                except Exception as error:
                    if not isinstance(error, OURS) or not 0 < len(str(error)) <= 1000:
                        leaks.append(f"{name}({parameter.name}={value!r}): {type(error).__name__}: {error}")
                finally:
                    pyplot.close("all")
    assert not leaks, "\n".join(leaks)


def test_covariances_of_chosen_coefficients_are_labelled():
    result = fitted("lmer")
    whole = result.cov_params()
    assert result.cov_params(column=1) == whole.iloc[1, 1]
    pd.testing.assert_frame_equal(result.cov_params(column=[2, 0]), whole.iloc[[2, 0], [2, 0]])
    contrast = np.array([[0.0, 1.0, -1.0, 0.0]])
    np.testing.assert_allclose(result.cov_params(r_matrix=contrast), contrast @ whole.to_numpy() @ contrast.T)
    with pytest.raises(ex.OptionError, match="4 x 4 matrix"):
        result.cov_params(cov_p=np.eye(3))


@pytest.mark.parametrize("kind", ["zip", "clmm"])
def test_fixed_effects_of_the_conditional_part_have_their_names(kind):
    result = fitted(kind)
    names = list(result.model.exog_names)
    assert list(result.fe_params.index) == list(result.bse_fe.index) == names
    np.testing.assert_array_equal(result.fe_params, result.params[: len(names)])


@pytest.mark.parametrize("name", ["score", "hessian", "information"])
def test_functions_of_the_fixed_effects_alone_are_refused_by_selection_models(name):
    result = fitted("mvmise_b")
    with pytest.raises(ex.NotAvailableError, match="depends on the variances too"):
        getattr(result.model, name)(result.params)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"missing": np.array([])}, "missing must be a word"),
        ({"hasconst": "foo"}, "hasconst must be True or False"),
        ({"subset": True}, "subset has 1 values"),
        ({"subset": {}}, "subset does not fit"),
        ({"drop_cols": -1}, "drop_cols is not available"),
        ({"eval_env": "foo"}, "eval_env must be"),
        ({"eval_env": 10**9}, "further up than there are callers"),
        ({"residual": np.array([])}, "residual must be a"),
    ],
)
def test_options_of_models_take_or_answer_odd_values(options, said):
    with pytest.raises(OURS, match=said):
        ms.lmer("y ~ x + (1 | g)", frame(), **options)
