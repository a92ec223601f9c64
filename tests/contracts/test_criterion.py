"""Every criterion answers what optimisers and inference ask of it, for built-in and for one's own priors."""

import inspect

import numpy as np
import pytest
import statsmodels.api as sm
from core_models import simulate

import mvmise_sm as ms
from mvmise_sm.core.criteria.linear import ProfiledDeviance
from mvmise_sm.core.elimination import layout
from mvmise_sm.core.interfaces import Criterion
from mvmise_sm.core.optimise.newton import minimize

F = sm.families


def linear(formula="Reaction ~ Days + (Days | Subject)", reml=True, **options):
    return lambda: ms.lmer(formula, ms.datasets.load_sleepstudy(), **options).criterion(reml)


def generalised(formula, family, load=ms.datasets.load_cbpp, nagq=1, curvature="observed", **options):
    return lambda: ms.glmer(formula, load(), family=family, **options).criterion(nagq, curvature=curvature)


def arrays(kind):
    return lambda: ProfiledDeviance(*simulate(kind), reml=False)


HERDS = "incidence / size ~ period + (1 | herd)"
COUNTS = "incidence ~ period + (1 | herd)"
CRITERIA = {
    "REML": linear(),
    "ML": linear(reml=False),
    "independent": linear("Reaction ~ Days + (Days || Subject)"),
    "compound symmetric": linear("Reaction ~ Days + cs(1 + Days | Subject)"),
    "covariance prior": linear(cov_prior="wishart"),
    "three priors": linear(
        reml=False, cov_prior="invwishart", fixef_prior=ms.priors.StudentT(), resid_prior=ms.priors.Gamma(1.0, 0.001)
    ),
    "residual structure": linear("Reaction ~ Days", residual="ar1(Days | Subject)"),
    "residual structure, ML": linear("Reaction ~ Days", False, residual="ar1h(Days | Subject)"),
    "residual structure beside random effects": linear(
        "Reaction ~ Days + (1 | Subject)", residual="ar1(Days | Subject)"
    ),
    "residual structure, priors": linear(
        "Reaction ~ Days + (1 | Subject)", residual="ar1(Days | Subject)", cov_prior="wishart"
    ),
    "crossed": arrays("crossed slopes"),
    "nested and crossed": arrays("chain crossed slopes"),
    "binomial": generalised(HERDS, F.Binomial(), weights="size"),
    "expected curvature": generalised(HERDS, F.Binomial(F.links.CLogLog()), weights="size", curvature="expected"),
    "Poisson, priors": generalised(COUNTS, F.Poisson(), cov_prior="wishart", fixef_prior=ms.priors.StudentT()),
    "negative binomial": lambda: ms.glmer_nb(COUNTS, ms.datasets.load_cbpp()).criterion(),
    "gamma": generalised("strength ~ 1 + (1 | batch)", F.Gamma(F.links.Log()), ms.datasets.load_pastes),
    "joint mode": generalised(HERDS, F.Binomial(), weights="size", nagq=0),
    "quadrature": generalised(HERDS, F.Binomial(), weights="size", nagq=7),
}


@pytest.fixture(params=CRITERIA)
def criterion(request, monkeypatch):
    if "crossed" in request.param:
        monkeypatch.setattr(layout, "DENSE_LIMIT", 0)
    return CRITERIA[request.param]()


@pytest.fixture
def inside(criterion):
    """A working vector off every bound and off the start."""
    x = criterion.start()
    shift = 0.05 * np.cos(np.arange(x.size))
    return np.where(criterion.lower == 0.0, np.maximum(x, 0.2) + np.abs(shift), x + shift)


def difference(f, x):
    """Fourth-order differences; the mode that a criterion finds leaves noise near 1e-10 in its value."""
    out = []
    for i in range(x.size):
        step = np.zeros(x.size)
        step[i] = 1e-3 * max(abs(x[i]), 0.1)
        near, far = f(x + step) - f(x - step), f(x + 2.0 * step) - f(x - 2.0 * step)
        out.append((8.0 * near - far) / (12.0 * step[i]))
    return np.array(out)


def test_members(criterion):
    methods = {name for name, value in vars(Criterion).items() if inspect.isfunction(value) and name[0] != "_"}
    members = {*methods, *Criterion.__annotations__, "lower", "guarded", "sharp_theta", "learns_curvature"}
    assert not [name for name in members if not hasattr(criterion, name)]
    assert criterion.lower.shape == criterion.guarded.shape == criterion.start().shape
    assert criterion.guarded.dtype == bool
    assert (criterion.start() >= criterion.lower).all()


def test_value_is_that_of_the_evaluation_and_of_the_users_parameters(criterion, inside):
    value = criterion.value(inside)
    assert np.isfinite(value)
    assert criterion.evaluate(inside).value == pytest.approx(value, rel=1e-12)
    user = criterion.user_theta(inside)
    np.testing.assert_allclose(criterion.working_theta(user), inside, rtol=1e-10, atol=1e-12)
    assert criterion(user) == pytest.approx(value, rel=1e-10)


def test_gradients_equal_differences(criterion, inside):
    evaluation = criterion.evaluate(inside)
    wanted = difference(criterion.value, inside)
    size = max(1.0, np.abs(wanted).max())
    np.testing.assert_allclose(evaluation.gradient, wanted, rtol=1e-5, atol=1e-6 * size)
    user = criterion.user_theta(inside)
    wanted = difference(criterion, user)
    np.testing.assert_allclose(criterion.gradient(user), wanted, rtol=1e-5, atol=1e-6 * max(1.0, np.abs(wanted).max()))


def test_information_is_symmetric_and_describes_a_descent(criterion, inside):
    evaluation = criterion.evaluate(inside)
    h = evaluation.information
    np.testing.assert_allclose(h, h.T, rtol=1e-8, atol=1e-10 * np.abs(h).max())
    assert np.linalg.eigvalsh(0.5 * (h + h.T))[0] > -1e-8 * np.abs(h).max()
    assert [s.shape for s in evaluation.slopes] == [(t.q, t.q) for t in criterion.random.terms]
    step = np.linalg.lstsq(h, evaluation.gradient, rcond=1e-10)[0]
    values = [criterion.value(np.maximum(inside - t * step, criterion.lower)) for t in (1.0, 0.3, 0.1, 0.01)]
    assert min(values) < evaluation.value


def test_points_to_try_are_inside_the_domain(criterion, inside):
    evaluation = criterion.evaluate(inside)
    points = [
        *criterion.descent_points(evaluation),
        *criterion.restart_points(evaluation),
        *criterion.search_directions(evaluation),
        *criterion.other_starts(inside),
    ]
    for point in points:
        assert point.shape == inside.shape
        assert (point >= criterion.lower).all()
    assert not criterion.is_singular(inside)
    assert not criterion.descent_points(evaluation, only_check=True)


def test_on_the_boundary_a_descent_point_lowers_the_objective(criterion, inside):
    if not (criterion.lower == 0.0).any():
        return  # there is none
    x = np.where(criterion.lower == 0.0, 0.0, inside)
    if np.isinf(criterion.value(x)):
        assert criterion.guarded[criterion.lower == 0.0].any()  # a prior forbids it
        return
    if not criterion.guarded.any():
        assert criterion.is_singular(x)
    evaluation = criterion.evaluate(x)
    points = criterion.descent_points(evaluation)
    if points:
        assert min(criterion.value(point) for point in points) < evaluation.value
    else:
        nearby = np.where(criterion.lower == 0.0, 1e-3, x)
        assert criterion.value(nearby) > evaluation.value - 1e-8


def test_reordering_keeps_the_objective(criterion, inside):
    other = criterion.reordered(inside)
    if other is None:
        return
    x = other.converted_from(criterion, inside)
    assert other.value(x) == pytest.approx(criterion.value(inside), rel=1e-10)
    np.testing.assert_allclose(other.user_theta(x), criterion.user_theta(inside), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(criterion.converted_from(other, x), inside, rtol=1e-6, atol=1e-9)


def test_optimum(criterion):
    """The minimum is one, and what is solved there is what was minimised."""
    optimum = minimize(criterion)
    assert optimum.converged, optimum.message
    assert optimum.status.sentence(0.0, 1) == optimum.message == "stationary point"
    evaluation = criterion.evaluate(optimum.working)
    assert evaluation.value == pytest.approx(optimum.value, rel=1e-10)
    free = optimum.working > criterion.lower
    decrement = (
        evaluation.gradient[free]
        @ np.linalg.lstsq(evaluation.information[np.ix_(free, free)], evaluation.gradient[free], rcond=None)[0]
    )
    assert decrement < 1e-8
    again = minimize(criterion, optimum.working)
    assert again.value == pytest.approx(optimum.value, abs=1e-8 * max(1.0, abs(optimum.value)))
