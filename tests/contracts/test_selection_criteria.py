"""Every likelihood of the selection models, and every objective made from one, answers what maximisers ask of it."""

import inspect
import pickle
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from selection_oracle import differences, simulated

import mvmise_sm as ms
from mvmise_sm.core.covariance.random_effects import GroupingFactor, RandomEffects, RandomTerm
from mvmise_sm.core.covariance.structures import Unstructured
from mvmise_sm.priors import TermShape, resolve_priors
from mvmise_sm.selection.build import ModelSpec, mechanism_slot
from mvmise_sm.selection.covariance import SparsePrecision
from mvmise_sm.selection.laplace import LaplaceObjective
from mvmise_sm.selection.likelihood import ErrorParams, FactorParams, SelectionLikelihood
from mvmise_sm.selection.maximise import maximise
from mvmise_sm.selection.objective import MechanismPrior, PenalisedObjective
from mvmise_sm.selection.priors import PriorPenalty
from mvmise_sm.selection.restricted import Chart, RestrictedObjective
from mvmise_sm.selection.solve import PseudoSamples
from mvmise_sm.selection.sparse import OrthantObjective
from mvmise_sm.selection.units import mechanism_part

DATA = {"n_clusters": 14, "K": 3, "cov": True}


def of(kind, coordinates=None, data=(), **options):
    return lambda: ModelSpec(kind, **options).likelihood(simulated(3, **{**DATA, **dict(data)}), coordinates)


PATTERN = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], dtype=bool)
LIKELIHOODS = {
    "b": of("b"),
    "b, one outcome": of("b", data={"K": 1}),
    "b, no mechanism": of("b", mechanism=None),
    "b, first sample, at random": of("b", missing_y=False, first_sample_variance=True),
    "b, logit of blocks": of("b", mechanism="logit"),
    "b, values": of("b", mechanism=None, value_mechanism="probit", data={"sporadic": True}),
    "b, blocks and values": of("b", value_mechanism="logit", data={"sporadic": True}),
    "b, own blocks": of("b", own_blocks=True),
    "b, samples": of("b", samples=True),
    "b, both": of("b", own_blocks=True, samples=True),
    "b, both, at random": of("b", own_blocks=True, samples=True, missing_y=False),
    "e": of("e"),
    "e, no mechanism": of("e", mechanism=None),
    "e, closed form": of("e", mechanism="log"),
    "e, first sample": of("e", first_sample_variance=True),
    "e, compound symmetric": of("e", error_structure="cs"),
    "e, sparse precision": of("e", SparsePrecision(PATTERN)),
}


@pytest.fixture(params=LIKELIHOODS)
def likelihood(request):
    return LIKELIHOODS[request.param]()


def inside(likelihood):
    """A point off the start, where what was seen may be seen."""
    theta = likelihood.start() + 0.03 * np.cos(np.arange(likelihood.size))
    theta[likelihood.slices["phi"]] = likelihood.start()[likelihood.slices["phi"]]
    for index, slope in likelihood.part.slopes():
        theta[likelihood.slices["phi"]] = likelihood.part.feasible(theta[likelihood.slices["phi"]], 0.2 * slope, index)
    return theta


def test_members(likelihood):
    asked = {name for name, value in vars(SelectionLikelihood).items() if inspect.isfunction(value) and name[0] != "_"}
    assert not [name for name in {*asked, *SelectionLikelihood.__annotations__} if not hasattr(likelihood, name)]
    data = likelihood.data
    assert likelihood.start().shape == (likelihood.size,)
    assert likelihood.group.shape == (data.n_rows,)
    covered = np.concatenate([np.arange(likelihood.size)[cut] for cut in likelihood.slices.values()])
    np.testing.assert_array_equal(np.sort(covered), np.arange(likelihood.size))
    assert np.isfinite(likelihood.value_and_score(likelihood.start())[0])
    for start in likelihood.starts():
        assert start.shape == (likelihood.size,)
        assert np.isfinite(start).all()


def test_parameters_go_both_ways(likelihood):
    theta = inside(likelihood)
    params = likelihood.params(theta)
    assert isinstance(params, ErrorParams if "error_cov" in likelihood.slices else FactorParams)
    np.testing.assert_allclose(likelihood.theta(params), theta, rtol=1e-9, atol=1e-12)
    zeros = params.zeros()
    assert type(zeros) is type(params)
    np.testing.assert_array_equal(likelihood.chain(theta, zeros), np.zeros(likelihood.size))


def test_the_score_equals_differences(likelihood):
    theta = inside(likelihood)
    value, score = likelihood.value_and_score(theta)
    again, gradient = likelihood.evaluate(theta)
    assert value == again
    np.testing.assert_array_equal(score, likelihood.chain(theta, gradient))
    wanted = differences(lambda x: likelihood.value_and_score(x)[0], theta)
    np.testing.assert_allclose(score, wanted, rtol=2e-6, atol=2e-6 * max(1.0, np.abs(wanted).max()))


def test_the_metric_gives_a_way_up(likelihood):
    theta = inside(likelihood)
    metric = likelihood.metric(theta)
    np.testing.assert_allclose(metric, metric.T, rtol=1e-8, atol=1e-10 * np.abs(metric).max())
    assert np.linalg.eigvalsh(metric)[0] > 0.0
    value, score = likelihood.value_and_score(theta)
    step = np.linalg.solve(metric, score)
    assert max(likelihood.value_and_score(theta + t * step)[0] for t in (1.0, 0.3, 0.1, 0.01)) > value


def test_the_information_of_the_fixed_effects_is_their_curvature(likelihood):
    theta, cut = inside(likelihood), likelihood.slices["beta"]
    found = likelihood.with_beta_information().beta_information(theta)

    def slope(beta):
        moved = theta.copy()
        moved[cut] = beta
        return likelihood.value_and_score(moved)[1][cut]

    width = 1e-4
    wanted = np.array(
        [(slope(theta[cut] - width * e) - slope(theta[cut] + width * e)) / (2.0 * width) for e in np.eye(len(found))]
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6 * np.abs(wanted).max())


@pytest.mark.parametrize("far", [-900.0, 900.0])
def test_outside_the_domain_is_minus_infinity(likelihood, far):
    for name in ("log_sigma2", "error_cov"):
        cut = likelihood.slices.get(name, slice(0, 0))
        if cut.stop > cut.start:
            theta = inside(likelihood)
            theta[cut] = far
            value, score = likelihood.value_and_score(theta)
            assert value == -np.inf
            assert score.shape == theta.shape
            assert likelihood.evaluate(theta)[1] is None
            with pytest.raises(ValueError, match="outside"):
                likelihood.gradient(theta)


def test_a_likelihood_has_no_memory_and_survives_a_pickle(likelihood):
    theta, start = inside(likelihood), likelihood.start()
    value, score = likelihood.value_and_score(theta)
    likelihood.value_and_score(start)
    other = pickle.loads(pickle.dumps(likelihood))
    for one in (likelihood, other):
        again = one.value_and_score(theta)
        assert again[0] == value
        np.testing.assert_array_equal(again[1], score)


def test_a_pickle_gives_the_same_number_in_another_process(tmp_path):
    made = LIKELIHOODS["b, both"](), LIKELIHOODS["e, sparse precision"]()
    path = tmp_path / "likelihoods"
    path.write_bytes(pickle.dumps([(one, inside(one)) for one in made]))
    code = (
        "import pickle, sys; found = pickle.load(open(sys.argv[1], 'rb')); "
        "print(*[one.value_and_score(x)[0].hex() for one, x in found])"
    )
    out = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    found = [float.fromhex(word) for word in out.stdout.split()]
    assert found == pytest.approx([one.value_and_score(inside(one))[0] for one in made], rel=1e-12)


# --- objectives


def penalised(kind):
    """A likelihood with priors of everything that has one."""

    def build():
        likelihood = LIKELIHOODS[kind]()
        independent = {"independent": True} if kind == "e" else {}
        term = TermShape("group", 2 if kind == "e" else 1, likelihood.data.n_clusters, **independent)
        priors = resolve_priors(
            "wishart", ms.priors.Normal(2.0), ms.priors.Gamma(2.0, 1.0), terms=[term], nobs=40, fixef_names=["a", "b"]
        )
        extra = (PseudoSamples(np.ones(3)),) if kind == "e" else ()
        return PenalisedObjective(likelihood, (PriorPenalty(priors), MechanismPrior(1.0), *extra))

    return build


def restricted():
    likelihood = LIKELIHOODS["b"]()
    chart = Chart(likelihood)
    return RestrictedObjective(PenalisedObjective(likelihood), chart, likelihood.start()[likelihood.slices["beta"]])


def orthant():
    likelihood = LIKELIHOODS["e, sparse precision"]()
    sign = np.where(PATTERN, -1.0, 0.0)
    return OrthantObjective(likelihood, (MechanismPrior(1.0),), sign=sign, bound=np.full((3, 3), 0.4))


def laplace(is_restricted):
    def build():
        rng = np.random.default_rng(2)
        codes, x = np.repeat(np.arange(8), 4), rng.normal(size=32)
        y = 1.0 + x + rng.normal(size=8)[codes] + rng.normal(size=32)
        y[[1, 9, 20]] = np.nan
        terms = [RandomTerm(GroupingFactor("g", codes, list(range(8))), (None, x), ("1", "x"), Unstructured(2))]
        data = replace(simulated(3, n_clusters=2, K=1), Y=y[:, None], X=np.column_stack([np.ones(32), x])[:, None, :])
        data = replace(
            data,
            Z=np.ones((32, 1, 1)),
            cluster=np.zeros(32, int),
            first=np.arange(32) == 0,
            order=np.arange(32),
            labels=(0,),
        )
        part, units = mechanism_part(data, (mechanism_slot("logit", True, True),), np.ones((32, 1)))
        return LaplaceObjective(y, data.X[:, 0], RandomEffects(terms), part, units, is_restricted)

    return build


def point_of(objective):
    """Where an objective is looked at: for the restricted one without the fixed effects."""
    if isinstance(objective, LaplaceObjective):
        return objective.start() + 0.02 * np.cos(np.arange(objective.size))
    theta = inside(objective.likelihood)
    return theta[objective.chart.nuisance] if isinstance(objective, RestrictedObjective) else theta


OBJECTIVES = {
    "priors of b": penalised("b"),
    "priors of e": penalised("e"),
    "lasso": orthant,
    "restricted": restricted,
    "Laplace": laplace(False),
    "Laplace, restricted": laplace(True),
}


@pytest.fixture(params=OBJECTIVES)
def objective(request):
    return OBJECTIVES[request.param]()


def test_gradients_of_objectives_equal_differences(objective):
    x = point_of(objective)
    wanted = differences(lambda t: objective(t)[0], x)
    found = objective(x)[1]
    np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=2e-5 * max(1.0, np.abs(wanted).max()))


def test_objectives_survive_a_pickle(objective):
    x = point_of(objective)
    value = objective(x)[0]
    assert pickle.loads(pickle.dumps(objective))(x)[0] == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("kind", ["b", "b, both", "e", "e, compound symmetric"])
def test_optimum(kind):
    """The maximum is one, its information the curvature, and a second search stays there."""
    likelihood = LIKELIHOODS[kind]()
    objective = PenalisedObjective(likelihood, (MechanismPrior(1.0),))
    start = likelihood.start()
    found = maximise(objective, start, likelihood.metric(start), diverged=likelihood.diverged)
    assert found.converged, found.message
    np.testing.assert_allclose(found.covariance() @ found.information, np.eye(start.size), atol=1e-6)
    assert 0.5 * found.score @ found.covariance() @ found.score < 1e-8
    assert (np.diff(found.history) > -1e-9).all()
    again = maximise(objective, found.theta, found.information, diverged=likelihood.diverged)
    assert again.value == pytest.approx(found.value, abs=1e-8)
    unfinished = maximise(objective, start, likelihood.metric(start), maxiter=1)
    assert not unfinished.converged
    assert np.isnan(unfinished.covariance()).all()
