"""What one evaluation of a generalised criterion hands to the next saves work and changes no answer."""

from itertools import pairwise

import numpy as np
import pytest
import statsmodels.api as sm
from core_models import simulate

from mvmise_sm.core.criteria.laplace import LaplaceDeviance
from mvmise_sm.core.criteria.pirls import Beginning, conditional_mode
from mvmise_sm.core.criteria.solution import Evaluation
from mvmise_sm.core.elimination import layout as core_layout
from mvmise_sm.core.elimination.kernels import Entries
from mvmise_sm.core.families.response import make_response
from mvmise_sm.core.optimise.newton import minimize
from mvmise_sm.core.optimise.secants import Secants
from mvmise_sm.core.uncertainty.hessian import hessian
from mvmise_sm.models.families import resolve_family


def criterion_of(kind, family="poisson", n=160):
    y, X, random = simulate(kind, n=n)
    eta = 0.3 * (y - y.mean()) / y.std()
    rng = np.random.default_rng(1)
    if family == "poisson":
        y, given = rng.poisson(np.exp(eta)).astype(float), sm.families.Poisson()
    elif family == "binomial":
        y, given = (rng.random(n) < 1.0 / (1.0 + np.exp(-eta))).astype(float), sm.families.Binomial()
    else:
        y, given = rng.negative_binomial(2.0, 2.0 / (2.0 + np.exp(eta))).astype(float), "negativebinomial"
    return LaplaceDeviance(make_response(resolve_family(given), y), X, random)


def counted(criterion, monkeypatch):
    """Numbers of evaluations of all rows and of eliminations from now on."""
    counts = {"rows": 0, "eliminations": 0}
    rows, eliminate = criterion.response.rows, criterion.eliminate

    def counting_rows(eta):
        counts["rows"] += 1
        return rows(eta)

    def counting_elimination(w, lambdas):
        counts["eliminations"] += 1
        return eliminate(w, lambdas)

    monkeypatch.setattr(criterion.response, "rows", counting_rows)
    monkeypatch.setattr(criterion, "eliminate", counting_elimination)
    return counts


@pytest.mark.parametrize(("place", "eliminations"), [(-1, 1), (0, 2)])
def test_a_neighbouring_point_takes_one_evaluation_of_the_rows(monkeypatch, place, eliminations):
    criterion = criterion_of("intercept", "binomial")
    x = criterion.start()
    criterion.value(x)
    counts = counted(criterion, monkeypatch)
    x[place] += 1e-8
    criterion.value(x)
    assert counts == {"rows": 1, "eliminations": eliminations}


@pytest.mark.parametrize("family", ["poisson", "binomial", "nb2"])
@pytest.mark.parametrize("kind", ["slope", "crossed", "chain crossed"])
def test_the_way_to_a_point_does_not_matter(kind, family):
    criterion, other = criterion_of(kind, family), criterion_of(kind, family)
    x = criterion.start()
    shape = np.arange(x.size) == x.size - 1
    for move in (0.3, -0.2, 1e-3, 0.1 * shape, 1e-6, 0.0):
        value = criterion.value(np.maximum(x + move, criterion.lower))
    gradient = criterion.working_gradient(x)
    # a mode with decrement 1e-17 moves log|M| by a few 1e-9
    assert value == pytest.approx(other.value(x), abs=1e-8)
    np.testing.assert_allclose(gradient, other.working_gradient(x), rtol=1e-6, atol=1e-6 * np.abs(gradient).max())


def test_a_search_that_knows_the_rows_ends_where_one_that_does_not():
    criterion = criterion_of("slope", "binomial")
    x = criterion.start()
    mode, merged = criterion.at(x)[:2]
    far = mode.terms.eta + 0.5
    terms = criterion.response.rows(far)
    plain = conditional_mode(criterion, merged, mode.beta, Beginning(far))
    given = conditional_mode(
        criterion, merged, mode.beta, Beginning(far, terms, criterion.eliminate(terms.weight, merged))
    )
    for found in (plain, given):
        np.testing.assert_allclose(found.b[0], mode.b[0], rtol=1e-7, atol=1e-9)
        if found.weighted is not None:
            assert found.weighted.logdet == pytest.approx(mode.weighted.logdet, rel=1e-12)


@pytest.mark.parametrize("kind", ["slope", "crossed slopes"])
def test_standard_errors_do_not_depend_on_the_last_steps(kind):
    """A mode that is known to 1e-9 would be an error of 1e-4 in differences of steps of 1e-5."""
    criterion = criterion_of(kind)
    x = minimize(criterion).working
    first = hessian(criterion, x)[0]
    size = np.sqrt(np.outer(first.diagonal(), first.diagonal()).clip(min=1e-300))
    for move in (1e-4, -1e-3, 1e-2):
        criterion.value(np.maximum(x + move, criterion.lower))
        again = hessian(criterion, x)[0]
        assert (np.abs(again - first) / size).max() < 1e-5


def test_fits_take_few_iterations_where_the_information_is_far_from_the_hessian(frames):
    """The average information alone takes ten."""
    import mvmise_sm as ms

    formula = "TICKS ~ YEAR + cHEIGHT + (1 | BROOD) + (1 | INDEX) + (1 | LOCATION)"
    fit = ms.glmer(formula, frames("grouseticks"), family=sm.families.Poisson()).fit()
    assert fit.converged
    assert fit.mle_retvals["n_iterations"] <= 8


# --- curvature from the path


def test_secants_find_the_hessian_of_a_quadratic():
    rng = np.random.default_rng(3)
    root = rng.normal(size=(3, 3))
    truth, information = root @ root.T + np.eye(3), np.diag([2.0, 3.0, 4.0])
    path = Secants()
    assert path.corrected(information) is None
    points = rng.normal(size=(4, 3))
    evaluations = [Evaluation(x, 0.0, truth @ x, information, ()) for x in points]
    path.add(evaluations[0], evaluations[1], 5.0)
    assert path.corrected(information) is None
    for before, after in pairwise(evaluations):
        path.add(before, after, 1e-3)
    np.testing.assert_allclose(path.corrected(information), truth, rtol=1e-8, atol=1e-8)


def test_secants_leave_a_right_information_alone():
    information = np.diag([2.0, 3.0])
    points = [np.array([0.3, 0.1]), np.array([0.1, -0.2])]
    before, after = (Evaluation(x, 0.0, information @ x, information, ()) for x in points)
    path = Secants()
    path.add(before, after, 1e-3)
    np.testing.assert_allclose(path.corrected(information), information, rtol=1e-12)


# --- rows and entries


@pytest.mark.parametrize("n", [1, 63, 64, 65, 1000])
@pytest.mark.parametrize("trials", [None, 7.0])
def test_logistic_rows_at_any_predictor(n, trials):
    rng = np.random.default_rng(n)
    eta = rng.normal(size=n) * 3.0
    eta[: min(n, 8)] = [0.0, -0.0, 800.0, -800.0, 37.0, -37.0, 1e-9, -40.0][: min(n, 8)]
    y = (rng.random(n) < 0.5).astype(float)
    w = None if trials is None else np.full(n, trials)
    response = make_response(resolve_family(sm.families.Binomial()), y, w)
    rows = response.rows(eta)
    n_trials = 1.0 if w is None else w
    low, high = np.exp(-np.logaddexp(0.0, eta)), np.exp(-np.logaddexp(0.0, -eta))
    want = float((n_trials * (y * eta - np.logaddexp(0.0, eta))).sum())
    assert rows.loglik == pytest.approx(want, rel=1e-13, abs=1e-13)
    assert response.loglik(eta) == rows.loglik
    np.testing.assert_allclose(rows.mean, high, rtol=1e-13)
    np.testing.assert_allclose(rows.weight, n_trials * high * low, rtol=1e-13)
    np.testing.assert_allclose(rows.score, n_trials * (y - high), rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("missing", [False, True])
def test_entries_multiply_as_matrices_do(missing):
    rng = np.random.default_rng(0)
    full = rng.normal(size=(6, 4))
    if missing:
        full[rng.random((6, 4)) < 0.4] = 0.0
        full[2] = 0.0
    row, col = np.nonzero(full)
    entries = Entries(np.searchsorted(row, np.arange(7)), row, col, 4)
    assert entries.complete is not missing
    v, u = rng.normal(size=(4, 3)), rng.normal(size=(6, 3))
    for scale in (1.0, 2.0):
        values = scale * full[row, col]
        np.testing.assert_allclose(entries.times(values, v), scale * full @ v, atol=1e-14)
        np.testing.assert_allclose(entries.transposed_times(values, u), scale * full.T @ u, atol=1e-14)
        np.testing.assert_array_equal(entries.matrix(values).toarray(), scale * full)
        at = slice(entries.indptr[2], entries.indptr[5])
        panel = entries.dense(values[at], 2, 5)
        np.testing.assert_array_equal(panel, scale * full[2:5])


@pytest.mark.parametrize("keep", [1.0, 0.7])
def test_balanced_crossed_designs_equal_the_dense_tier(monkeypatch, keep):
    import pandas as pd

    import mvmise_sm as ms

    rng = np.random.default_rng(4)
    a, b = np.divmod(np.arange(30 * 8), 8)
    kept = rng.random(a.size) < keep
    x = rng.normal(size=a.size)
    effects = rng.normal(size=(30, 2))[a]
    eta = 1.0 + 0.5 * x + 0.6 * effects[:, 0] + 0.5 * x * effects[:, 1] + 0.5 * rng.normal(size=8)[b]
    frame = pd.DataFrame({"a": a, "b": b, "x": x, "y": rng.poisson(np.exp(eta))})[kept]

    def fitted(dense):
        monkeypatch.setattr(core_layout, "DENSE_LIMIT", 10_000 if dense else 0)
        return ms.glmer("y ~ x + (x | a) + (1 | b)", frame, family="poisson").fit()

    dense, chain = fitted(True), fitted(False)
    assert chain.criterion == pytest.approx(dense.criterion, rel=1e-10)
    # theta is known to 2e-5 standard errors
    np.testing.assert_allclose(chain.bse, dense.bse, rtol=2e-5)
