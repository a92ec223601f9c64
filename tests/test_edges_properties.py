"""Whatever is typed is right or answered: formulas, frames, labels, options and priors drawn at random.

The default run draws a few examples of each, always the same; ``MVMISE_SM_PROPERTIES=90`` draws so many for continuous
integration, and from 100 on they are other ones every time.
"""

import os
import time
import warnings
from functools import partial

import numpy as np
import pandas as pd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mvmise_sm as ms
from mvmise_sm import exceptions as ex

OURS = (ex.FormulaError, ex.DataError, ex.OptionError)
_LONGEST_SENTENCE = 1000
LONGEST = 20.0  # seconds that any call may take
EXAMPLES = int(os.environ.get("MVMISE_SM_PROPERTIES", "8"))
bounded = partial(
    settings,
    deadline=None,
    derandomize=EXAMPLES < 100,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def frame_of(seed, n=48):
    rng = np.random.default_rng(seed)
    g = rng.integers(0, 6, n)
    data = pd.DataFrame({"x": rng.normal(size=n), "z": rng.uniform(1, 3, n), "g": g, "h": rng.integers(0, 4, n)})
    data["f"] = np.array(list("abc"))[rng.integers(0, 3, n)]
    data["y"] = rng.normal(size=6)[g] + 0.5 * data["x"] + rng.normal(size=n)
    data["c"] = rng.poisson(2.0, n)
    return data


FRAME = frame_of(0)


def answered(call):
    """The value of a call, or None where it failed with one of our errors; anything else fails the test."""
    begin = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # a leak of arithmetic from inside is a defect, whatever the user's filters say
            warnings.simplefilter("error", RuntimeWarning)
            value = call()
    except OURS as error:
        value, said = None, str(error)
        if not 0 < len(said) <= _LONGEST_SENTENCE:
            raise AssertionError(f"a message of {len(said)} characters") from error
    assert time.perf_counter() - begin < LONGEST
    return value


# --- formulas

names = st.sampled_from(["x", "z", "f", "g", "h", "y", "nope", "1", "0", "`x`", "x.1"])
calls = st.sampled_from(
    ["log({})", "I({}**2)", "C({})", "np.exp({})", "poly({}, 2)", "scale({})", "bs({}, df=4)", "({})"]
)
atoms = st.one_of(names, st.builds(lambda c, n: c.format(n), calls, names))
fixed = st.recursive(
    atoms, lambda inner: st.builds("{} {} {}".format, inner, st.sampled_from("+-*:/"), inner), max_leaves=4
)
bars = st.builds(
    "({} {} {})".format, fixed, st.sampled_from(["|", "||"]), st.sampled_from(["g", "h", "g:h", "g/h", "f"])
)
formulas = st.builds(
    lambda y, f, b: f"{y} ~ {f} + {' + '.join(b)}", atoms, fixed, st.lists(bars, min_size=1, max_size=2)
)


@bounded(max_examples=4 * EXAMPLES)
@given(formulas)
def test_property_formulas_are_read_or_answered(text):
    model = answered(lambda: ms.lmer(text, FRAME))
    if model is not None:
        assert np.isfinite(model.exog).all()
        assert np.linalg.matrix_rank(model.exog) == model.exog.shape[1]
        assert len(set(model.exog_names)) == len(model.exog_names)


@bounded(max_examples=8 * EXAMPLES)
@given(st.text(alphabet=st.sampled_from(list("xyzgf01 ~+-*/:|()[]{}`'\"\\,.^%!=<>\n\0é#;@")), max_size=40))
def test_property_any_text_is_read_or_answered(text):
    answered(lambda: ms.lmer(text, FRAME))
    answered(lambda: ms.lmer(f"y ~ x + {text} + (1 | g)", FRAME))
    answered(lambda: ms.lmer("y ~ x + (1 | g)", FRAME, cov_prior=text))
    answered(lambda: ms.lmer("y ~ x + (1 | g)", FRAME, weights=text))


# --- frames and labels

label_types = st.sampled_from(
    [
        "int8",
        "uint8",
        "int16",
        ">i4",
        "int64",
        "uint64",
        "float16",
        ">f8",
        "float32",
        "bool",
        "str",
        "category",
        "object",
        "Int16",
        "Float32",
        "string",
        "boolean",
        "datetime64[ns]",
        "timedelta64[s]",
    ]
)


@bounded(max_examples=2 * EXAMPLES)
@given(st.integers(0, 2**32 - 1), label_types, st.integers(2, 9))
def test_property_labels_of_any_type_give_the_same_groups(seed, dtype, levels):
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 2 if dtype in ("bool", "boolean") else levels, 48)
    labels = pd.Series(codes).astype("int64" if dtype.startswith(("date", "time", ">")) else dtype)
    if dtype.startswith(("date", "time")):
        labels = labels.astype(dtype)
    values = codes.astype(dtype) if dtype.startswith(">") else labels
    data = FRAME.assign(k=values)
    expected = answered(lambda: ms.lmer("y ~ x + (1 | k)", FRAME.assign(k=codes)))
    model = answered(lambda: ms.lmer("y ~ x + (1 | k)", data))
    assert (model is None) == (expected is None)
    if model is not None:
        same = [m.random_effects.factors[0].codes for m in (model, expected)]
        assert len({(int(a), int(b)) for a, b in zip(*same, strict=True)}) == len(set(same[0].tolist()))


cells = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True),
    st.integers(-(2**70), 2**70),
    st.none(),
    st.text(max_size=3),
    st.booleans(),
)


@bounded(max_examples=2 * EXAMPLES)
@given(st.lists(cells, min_size=12, max_size=12), st.sampled_from(["y", "x", "g"]))
def test_property_columns_of_anything_are_used_or_answered(values, column):
    data = FRAME.iloc[:12].assign(**{column: pd.Series(values, dtype=object, index=FRAME.index[:12])})
    model = answered(lambda: ms.lmer("y ~ x + (1 | g)", data))
    if model is not None:
        answered(model.fit)


# --- options

options = st.dictionaries(
    st.sampled_from(
        ["reml", "REML", "method", "maxiter", "tol", "use_t", "start_theta", "start_params", "cov_type", "nagq"]
    ),
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-2, 200),
        st.floats(),
        st.text(max_size=6),
        st.lists(st.floats(), max_size=3),
    ),
    max_size=2,
)


@bounded(max_examples=4 * EXAMPLES)
@given(options)
def test_property_options_are_obeyed_or_answered(given_options):
    for model in (ms.lmer("y ~ x + (1 | g)", FRAME), ms.glmer("c ~ x + (1 | g)", FRAME, family="poisson")):
        result = answered(lambda model=model: model.fit(**given_options))
        if result is not None and result.converged:
            assert np.isfinite(result.llf)


@bounded(max_examples=4 * EXAMPLES)
@given(
    st.sampled_from(
        ["anova", "conf_int", "summary", "tidy", "predict", "simulate", "marginal_means", "wald_test", "t_test"]
    ),
    st.dictionaries(
        st.sampled_from(
            ["ddf", "type", "alpha", "method", "effects", "which", "random", "n", "exog", "r_matrix", "specs"]
        ),
        st.one_of(
            st.none(),
            st.integers(-2, 5),
            st.floats(),
            st.sampled_from(["III", "kr", "Wald", "link", "x", "all", "x = 0"]),
        ),
        max_size=3,
    ),
)
def test_property_results_answer_any_question(name, arguments):
    result = _fit()
    method = getattr(result, name)
    try:
        answered(lambda: method(**arguments))
    except (TypeError, ValueError, AttributeError, IndexError) as error:
        # statsmodels reads hypotheses and new rows itself; a missing argument is Python's own error
        allowed = {"wald_test", "t_test", "predict", "marginal_means"}
        if name not in allowed:
            raise AssertionError(f"{name}({arguments}): {error!r}") from error


_FITS = {}


def _fit():
    if "lmer" not in _FITS:
        _FITS["lmer"] = ms.lmer("y ~ x + f + (1 | g)", FRAME).fit()
    return _FITS["lmer"]


# --- priors

numbers = st.one_of(st.floats(), st.integers(-3, 10), st.text(max_size=3), st.none(), st.lists(st.floats(), max_size=2))


@bounded(max_examples=3 * EXAMPLES)
@given(
    st.sampled_from(["Gamma", "InverseGamma", "Wishart", "InverseWishart", "Normal", "StudentT", "Horseshoe", "Point"]),
    st.dictionaries(
        st.sampled_from(["shape", "rate", "scale", "df", "sd", "cov", "value", "common_scale"]), numbers, max_size=2
    ),
    st.sampled_from(["cov_prior", "fixef_prior", "resid_prior"]),
)
def test_property_priors_are_used_or_answered(name, arguments, role):
    prior = answered(lambda: _made(name, arguments))
    if prior is not None:
        answered(lambda: ms.lmer("y ~ x + (1 | g)", FRAME, **{role: prior}).fit(reml=False))


def _made(name, arguments):
    try:
        return getattr(ms.priors, name)(**arguments)
    except TypeError:  # Python's own, for an argument that the prior has not
        return None


# --- no silent difference from a dense likelihood


@bounded(max_examples=2 * EXAMPLES)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(
        ["(1 | g)", "(x | g)", "(x || g)", "(1 | g) + (1 | h)", "(1 | g/h)", "(0 + f | h)", "(x | g) + (1 | h)"]
    ),
    st.booleans(),
    st.booleans(),
)
def test_property_criterion_is_the_dense_one(seed, random, reml, weighted):
    data = frame_of(seed)
    data["w"] = np.random.default_rng(seed).uniform(0.3, 3.0, len(data)) if weighted else 1.0
    result = answered(lambda: ms.lmer(f"y ~ x + f + {random}", data, weights="w" if weighted else None).fit(reml=reml))
    if result is None:
        return
    model = result.model
    z = model.random_effects.z.toarray()
    blocks = [
        np.kron(np.eye(t.factor.n_levels), lam @ lam.T)
        for t, lam in zip(model.random_effects.terms, model.random_effects.lambdas(result.theta), strict=True)
    ]
    sigma = np.zeros((z.shape[1],) * 2)
    at = 0
    for block in blocks:
        sigma[at : at + len(block), at : at + len(block)] = block
        at += len(block)
    v = np.diag(1.0 / data["w"]) + z @ sigma @ z.T
    X, y = np.asarray(model.exog), np.asarray(model.endog)
    inverse = np.linalg.inv(v)
    gram = X.T @ inverse @ X
    beta = np.linalg.solve(gram, X.T @ inverse @ y)
    nu = len(y) - reml * X.shape[1]
    r2 = (y - X @ beta) @ inverse @ (y - X @ beta)
    dense = np.linalg.slogdet(v)[1] + nu * (1.0 + np.log(2 * np.pi * r2 / nu)) + reml * np.linalg.slogdet(gram)[1]
    np.testing.assert_allclose(result.criterion, dense, rtol=1e-8, atol=1e-6)
    np.testing.assert_allclose(result.params, beta, rtol=1e-5, atol=1e-6)
