"""Gradients of the generalised criteria against finite differences, for every family and link."""

import warnings

import numpy as np
import pytest
import statsmodels.api as sm

from mvmise_sm.core.covariance.random_effects import GroupingFactor, RandomEffects, RandomTerm
from mvmise_sm.core.covariance.structures import Diagonal, Unstructured
from mvmise_sm.core.criteria.joint_mode import JointDeviance
from mvmise_sm.core.criteria.laplace import LaplaceDeviance
from mvmise_sm.core.criteria.quadrature import QuadratureDeviance
from mvmise_sm.core.elimination import choose as core_system
from mvmise_sm.core.elimination import layout as core_layout
from mvmise_sm.core.families.response import make_response
from mvmise_sm.models.families import resolve_family

LINKS = sm.families.links
FAMILIES = [
    ("Binomial", "Logit"),
    ("Binomial", "Probit"),
    ("Binomial", "CLogLog"),
    ("Binomial", "LogLog"),
    ("Binomial", "Cauchy"),
    ("Binomial", "Log"),
    ("Binomial", "Identity"),
    ("Poisson", "Log"),
    ("Poisson", "Sqrt"),
    ("Poisson", "Identity"),
    ("Gamma", "Log"),
    ("Gamma", "InversePower"),
    ("Gamma", "Identity"),
    ("InverseGaussian", "Log"),
    ("InverseGaussian", "InverseSquared"),
    ("InverseGaussian", "InversePower"),
    ("Gaussian", "Identity"),
    ("Gaussian", "Log"),
    ("Gaussian", "InversePower"),
    ("NegativeBinomial", "Log"),
    ("NegativeBinomial", "Sqrt"),
    ("NegativeBinomial", "Identity"),
]
# the mean of a row where eta is near its centre, and the size of effects there, for links with a restricted domain
CENTRES = {
    "Log": (0.5, 0.4),
    "Sqrt": (1.5, 0.2),
    "Identity": (2.0, 0.2),
    "InversePower": (1.0, 0.1),
    "InverseSquared": (1.0, 0.1),
    ("Binomial", "Log"): (-1.2, 0.15),
    ("Binomial", "Identity"): (0.5, 0.06),
}


def family_of(name, link):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(sm.families, name)(getattr(LINKS, link)())


def factor(name, codes):
    return GroupingFactor(name, codes, np.arange(codes.max() + 1))


def random_effects(kind, n, x, rng):
    """Terms of one model shape."""
    wide, narrow = factor("a", rng.permutation(np.arange(n) % 12)), factor("b", np.arange(n) % 7)
    if kind == "intercept":
        return RandomEffects([RandomTerm(wide, (None,), ("Intercept",), Unstructured(1))])
    if kind == "slope":
        return RandomEffects([RandomTerm(wide, (None, x), ("Intercept", "x"), Unstructured(2))])
    if kind == "slopes":
        columns = (None, x, x**2)
        return RandomEffects([RandomTerm(wide, columns, ("Intercept", "x", "x2"), Unstructured(3))])
    if kind == "independent":
        return RandomEffects([RandomTerm(wide, (None, x), ("Intercept", "x"), Diagonal(2))])
    crossed = [
        RandomTerm(wide, (None, x), ("Intercept", "x"), Unstructured(2)),
        RandomTerm(narrow, (None,), ("Intercept",), Unstructured(1)),
    ]
    if kind == "crossed":
        return RandomEffects(crossed)
    if kind == "nested":
        fine = factor("c", wide.codes * 2 + (np.arange(n) % 2))
        return RandomEffects([crossed[0], RandomTerm(fine, (None, x), ("Intercept", "x"), Diagonal(2))])
    assert kind == "chain_crossed"
    fine = factor("c", wide.codes * 2 + (np.arange(n) % 2))
    third = RandomTerm(factor("d", rng.permutation(np.arange(n) % 5)), (None, x), ("Intercept", "x"), Unstructured(2))
    return RandomEffects([*crossed, RandomTerm(fine, (None,), ("Intercept",), Unstructured(1)), third])


def simulated(name, link, kind, n=120, seed=1, weights=False, curvature="observed"):
    """A criterion's pieces: response, design, random effects and a point at which to differentiate."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-0.8, 1.2, n)
    X = np.column_stack([np.ones(n), x])
    random = random_effects(kind, n, x, rng)
    centre, spread = CENTRES.get((name, link), CENTRES.get(link, (0.2, 0.5)))
    theta = np.where(random.lower == 0.0, spread, 0.3 * spread) * rng.uniform(0.7, 1.3, random.k_theta)
    b = [spread * 0.5 * rng.normal(size=(t.factor.n_levels, t.q)) for t in random.terms]
    beta = np.array([centre, 0.3 * spread])
    family = family_of(name, link)
    mu = family.link.inverse(np.clip(X @ beta + random.linear(b), *LIMITS.get((name, link), LIMITS.get(link, (-3, 3)))))
    w = rng.integers(1, 6, n).astype(float) if weights else None
    y = draw(name, mu, 1.0 if w is None else w, rng)
    response = make_response(resolve_family(family), y, w, curvature=curvature)
    return response, X, random, np.concatenate([theta, beta])


LIMITS = {
    "Sqrt": (0.5, 4),
    "Identity": (0.5, 5),
    "InversePower": (0.4, 5),
    "InverseSquared": (0.4, 5),
    ("Binomial", "Log"): (-4, -0.2),
    ("Binomial", "Identity"): (0.1, 0.9),
}


def draw(name, mu, w, rng):
    if name == "Binomial":
        return rng.binomial(np.broadcast_to(w, mu.shape).astype(int), mu) / w
    if name == "Poisson":
        return rng.poisson(mu).astype(float)
    if name == "Gamma":
        return rng.gamma(8 * w, mu / (8 * w))
    if name == "InverseGaussian":
        return rng.wald(mu, 20 * w)
    if name == "Gaussian":
        return mu + 0.05 * rng.normal(size=mu.size)
    return rng.negative_binomial(2, 1 / (1 + mu / 2)).astype(float)


def with_shape(criterion, x, shape):
    return np.append(x, shape) if criterion.k_shape else x


def assert_gradient(criterion, x):
    analytic = criterion.gradient(x)
    numeric = np.empty_like(x)
    for i in range(x.size):
        h = 1e-4 * max(abs(x[i]), 0.05)
        steps = [x + k * h * np.eye(x.size)[i] for k in (1, -1, 2, -2)]
        up, down, up2, down2 = map(criterion, steps)
        numeric[i] = (8 * (up - down) - (up2 - down2)) / (12 * h)
    np.testing.assert_allclose(analytic, numeric, rtol=2e-5, atol=2e-5 * max(1.0, np.abs(numeric).max()))


@pytest.mark.parametrize("curvature", ["observed", "expected"])
@pytest.mark.parametrize("kind", ["slope", "crossed"])
@pytest.mark.parametrize(("name", "link"), FAMILIES)
def test_laplace(name, link, kind, curvature):
    weights = name in ("Binomial", "Gamma")
    response, X, random, x = simulated(name, link, kind, weights=weights, curvature=curvature)
    criterion = LaplaceDeviance(response, X, random)
    assert_gradient(criterion, with_shape(criterion, x, -2.0))


@pytest.mark.parametrize("curvature", ["observed", "expected"])
@pytest.mark.parametrize("kind", ["intercept", "slope"])
@pytest.mark.parametrize(("name", "link"), FAMILIES)
def test_quadrature(name, link, kind, curvature):
    response, X, random, x = simulated(name, link, kind, curvature=curvature)
    criterion = QuadratureDeviance(response, X, random, nodes=5)
    assert_gradient(criterion, with_shape(criterion, x, -2.0))


@pytest.mark.parametrize("kind", ["slopes", "independent"])
@pytest.mark.parametrize("nodes", [2, 4])
def test_quadrature_of_vectors(kind, nodes):
    response, X, random, x = simulated("Binomial", "CLogLog", kind)
    assert_gradient(QuadratureDeviance(response, X, random, nodes=nodes), x)


@pytest.mark.parametrize(
    ("name", "link"), [("Binomial", "Logit"), ("Binomial", "Probit"), ("Gamma", "Log"), ("Poisson", "Sqrt")]
)
def test_joint(name, link):
    response, X, random, x = simulated(name, link, "crossed")
    criterion = JointDeviance(response, X, random)
    assert_gradient(criterion, with_shape(criterion, x[: random.k_theta], -2.0))


@pytest.mark.parametrize("remainder", ["dense", "sparse"])
@pytest.mark.parametrize("kind", ["crossed", "nested", "chain_crossed"])
@pytest.mark.parametrize(("name", "link"), [("Binomial", "Logit"), ("Binomial", "Probit"), ("Poisson", "Log")])
def test_structured_eliminations(name, link, kind, remainder, monkeypatch):
    dense = simulated(name, link, kind)
    reference = LaplaceDeviance(*dense[:3])
    monkeypatch.setattr(core_layout, "DENSE_LIMIT", 0)
    if remainder == "sparse":
        monkeypatch.setattr(core_system, "_DENSE_REMAINDER", 0)
    response, X, random, x = simulated(name, link, kind)
    criterion = LaplaceDeviance(response, X, random)
    np.testing.assert_allclose(criterion(x), reference(x), rtol=1e-12)
    np.testing.assert_allclose(criterion.gradient(x), reference.gradient(x), rtol=1e-7, atol=1e-7)
    assert_gradient(criterion, x)


@pytest.mark.parametrize("estimated", [True, False])
def test_negative_binomial_shape(estimated):
    response, X, random, x = simulated("NegativeBinomial", "Log", "crossed")
    response.estimates_shape = estimated
    criterion = LaplaceDeviance(response, X, random)
    assert criterion.k_shape == estimated
    assert_gradient(criterion, with_shape(criterion, x, -0.4))


@pytest.mark.parametrize("remainder", ["dense", "sparse"])
@pytest.mark.parametrize("kind", ["crossed", "nested", "chain_crossed"])
@pytest.mark.parametrize("zero", ["first", "last", "all"])
def test_structured_eliminations_on_the_boundary(kind, zero, remainder, monkeypatch):
    response, X, random, x = simulated("Binomial", "Logit", kind)
    scales = np.flatnonzero(random.lower == 0.0)
    x[slice(random.k_theta) if zero == "all" else scales[0 if zero == "first" else -1]] = 0.0
    dense = LaplaceDeviance(response, X, random)
    reference = dense.evaluate(dense.working_theta(x))
    monkeypatch.setattr(core_layout, "DENSE_LIMIT", 0)
    if remainder == "sparse":
        monkeypatch.setattr(core_system, "_DENSE_REMAINDER", 0)
    criterion = LaplaceDeviance(response, X, random)
    evaluation = criterion.evaluate(criterion.working_theta(x))
    np.testing.assert_allclose(evaluation.value, reference.value, rtol=1e-13)
    for ours, theirs in zip(evaluation.slopes, reference.slopes, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-8)


def test_weights_count_rows():
    """A weight of two is a row twice where the family has no dispersion."""
    for name in ("Poisson", "NegativeBinomial"):
        response, X, random, x = simulated(name, "Log", "slope")
        w = np.arange(len(X)) % 3 + 1
        again = np.repeat(np.arange(len(X)), w)
        term = random.terms[0]
        copied = RandomTerm(
            factor("a", term.factor.codes[again]), (None, term.columns[1][again]), term.names, term.structure
        )
        weighted = LaplaceDeviance(make_response(response.family, response.y, w.astype(float)), X, random)
        repeated = LaplaceDeviance(make_response(response.family, response.y[again]), X[again], RandomEffects([copied]))
        np.testing.assert_allclose(weighted(x), repeated(x), rtol=1e-12)
        np.testing.assert_allclose(weighted.gradient(x), repeated.gradient(x), rtol=1e-8, atol=1e-8)
