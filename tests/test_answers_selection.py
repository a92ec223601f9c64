"""What models b and e, their maximiser and their mechanisms say to arguments that they cannot take."""

import warnings
from functools import cache

import numpy as np
import pytest

import mvmise_sm as ms
from mvmise_sm.exceptions import DataError, OptionError, RandomEffectsError
from mvmise_sm.selection.maximise import maximise, observed_information
from mvmise_sm.selection.parameter_profile import Parameter, ParameterProfile
from mvmise_sm.selection.status import Status


@cache
def wide():
    return ms.datasets.simulate_mvmise(12, 2, beta=(10.0, 0.7), tau=0.8, phi=(1.6, -0.28), rng=3)


FORMULA = "y1 + y2 ~ x2 + (1 | id)"


@cache
def fitted(entry="mvmise_b", method="ml"):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(ms, entry)(FORMULA, wide()).fit(method=method)


def b(formula=FORMULA, data=None, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ms.mvmise_b(formula, wide() if data is None else data, **options)


def Y():
    return wide()[["y1", "y2"]].to_numpy()


@pytest.mark.parametrize(
    ("make", "error", "sentence"),
    [
        (lambda: b(weights="x2"), OptionError, "weights"),
        (lambda: b("y1 + y2 ~ x2"), RandomEffectsError, "no random-effects term such as"),
        (lambda: b(FORMULA + " + (1 | x2)"), RandomEffectsError, "one grouping factor, found"),
        (lambda: b().fit(maxiter=0), OptionError, "maxiter must be"),
        (lambda: b(missing_cov="colour"), (OptionError, DataError), "'colour' is not a column"),
        (lambda: fitted().simulate(0), OptionError, "n must be a positive integer, got 0"),
        (lambda: fitted().predict(wide(), which="sum"), OptionError, "which must be 'mean' or 'linear', got 'sum'"),
        (lambda: fitted().predict(wide(), random="some"), OptionError, "random must be 'all' or 'none', got 'some'"),
        (lambda: fitted().permutation_test(99), OptionError, "terms must be a name or a list of names .*, got 99"),
        (lambda: fitted().permutation_test(n=0), OptionError, "n must be a positive integer, got 0"),
        (
            lambda: fitted().permutation_test(n=3, within="colour"),
            OptionError,
            "within must be None",
        ),
        (lambda: fitted().permutation_test(n=3, within=[1, 2]), (OptionError, DataError), "within"),
        (
            lambda: fitted().conf_int(alpha=0.0, method="profile"),
            OptionError,
            "alpha must lie between 0 and 1, got 0.0",
        ),
        (
            lambda: fitted().profile(reml=True),
            OptionError,
            "reml=True profiles the REML criterion of linear mixed models",
        ),
        (
            lambda: (
                fitted().loglike_at({"beta": [1.0, 2.0]}) if hasattr(fitted(), "loglike_at") else b().loglike_at({})
            ),
            OptionError,
            "the point needs",
        ),
    ],
)
def test_what_model_b_does_not_take(make, error, sentence):
    with pytest.raises(error, match=sentence):
        make()


def test_intervals_of_chosen_parameters_by_bootstrap():
    found = fitted().conf_int(method="bootstrap", parm="beta_", n=3, rng=1)
    assert list(found.index) == list(fitted().model.exog_names)
    profile = fitted().profile("x2")
    assert repr(profile) == "<Profile of x2>"
    np.testing.assert_allclose(profile.conf_int(), fitted().conf_int(method="profile", parm="x2"), rtol=1e-6)


# --- the maximiser, on objectives in closed form


def test_a_start_without_a_likelihood_is_refused():
    with pytest.raises(ValueError, match="no finite log-likelihood"):
        maximise(lambda x: (-np.inf, x), np.zeros(2), np.eye(2))


def test_a_gradient_that_does_not_belong_to_its_objective_ends_in_a_sentence():
    # the gradient points down: every step that is felt is lower
    found = maximise(lambda x: (float(-x @ x), 2.0 * x), np.ones(2), np.eye(2), information=False)
    assert found.status in (Status.LINE_SEARCH, Status.MAXITER)
    assert found.message in ("the line search found no higher point", "no convergence in 200 iterations")
    assert not found.converged
    assert np.isnan(found.covariance()).all()


def edge(x):
    """A quadratic with its maximum at 2 on the half line below 1."""
    return (float(-0.5 * (x[0] - 2.0) ** 2), 2.0 - x) if x[0] <= 1.0 else (-np.inf, np.zeros(1))


def test_second_derivatives_next_to_the_edge_of_the_domain_are_one_sided():
    free = np.ones(1, bool)
    for at in (1.0, 1.0 - 1e-6):
        found = observed_information(edge, np.array([at]), np.ones(1), free)
        np.testing.assert_allclose(found, [[1.0]], rtol=1e-6)
    nowhere = observed_information(lambda x: (-np.inf, x), np.zeros(1), np.ones(1), free)
    assert nowhere[0, 0] == 0.0


# --- parameters that are functions of the point


def quadratic(x):
    d = x - np.array([1.0, 2.0])
    return float(-0.5 * d @ d), -d


PROFILE = ParameterProfile(quadratic, np.array([1.0, 2.0]), np.eye(2), lambda x: None)


def test_the_profile_of_a_sum_is_known():
    total = Parameter("sum", 0, lambda x: float(x[0] + x[1]))
    profiled = PROFILE.profiled(total)
    assert profiled.se == pytest.approx(np.sqrt(2.0), rel=1e-8)
    assert PROFILE.standard_error(total) == profiled.se
    point = profiled.at(5.0, PROFILE.point)
    np.testing.assert_allclose(point.x, [2.0, 3.0], atol=1e-4)
    assert point.value - profiled.minimum == pytest.approx(2.0, abs=1e-7)
    assert point.slope == pytest.approx(2.0, abs=1e-4)
    np.testing.assert_allclose(PROFILE.wald(total, 0.05), 3.0 + 1.959964 * np.sqrt(2.0) * np.array([-1, 1]), rtol=1e-6)


@pytest.mark.parametrize(
    "value", [lambda x: np.nan, lambda x: 3.0, lambda x: float(np.tanh(x[0]))], ids=["nowhere", "constant", "bounded"]
)
def test_a_value_that_no_pivot_reaches_has_no_point(value):
    one = Parameter("p", 0, value)
    assert one.hold(np.zeros(2), 5.0) is None
    assert PROFILE.profiled(Parameter("p", 0, value)).at(5.0, PROFILE.point) is None


def test_a_standard_deviation_at_zero_has_no_wald_interval():
    at_zero = ParameterProfile(quadratic, np.array([1.0, 2.0]), np.diag([0.0, 1.0]), lambda x: None)
    one = Parameter("sd", 0)
    assert np.isnan(at_zero.wald(one, 0.05)).all()
    # a tenth of the estimate stands in for the step of a search
    assert at_zero.profiled(one).se == pytest.approx(0.1)
