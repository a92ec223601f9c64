"""Every elimination answers its contract as dense matrices do, with and without weights."""

import numpy as np
import pytest
from core_models import KINDS, simulate
from scipy import sparse

from mvmise_sm.core.covariance.random_effects import GroupingFactor, RandomEffects, RandomTerm
from mvmise_sm.core.covariance.registry import make_structure
from mvmise_sm.core.covariance.theta import ThetaSpace
from mvmise_sm.core.criteria.linear import ProfiledDeviance
from mvmise_sm.core.elimination import chain_structure, choose, layout
from mvmise_sm.core.elimination.eigen import EigenSystem
from mvmise_sm.core.elimination.incidence import Incidence
from mvmise_sm.core.elimination.kernels import PairKernel, PanelKernel, SparseKernel
from mvmise_sm.core.elimination.layout import Layout
from mvmise_sm.core.elimination.reweighted import Eliminator

TIERS = ("dense", "structured", "pairs", "panels", "sparse rows", "sparse remainder")
CASES = [(kind, tier) for kind in KINDS for tier in TIERS if tier in TIERS[:2] or "cross" in kind]
# the sparse remainder finds traces by differences of a factorisation where Lambda is nearly singular
BOUNDARY = [(kind, tier) for kind, tier in CASES if tier in TIERS[:2]]


def force(tier, monkeypatch):
    if tier != "dense":
        monkeypatch.setattr(layout, "DENSE_LIMIT", 0)
    if tier == "sparse remainder":
        monkeypatch.setattr(choose, "_DENSE_REMAINDER", 0)
    kernels = {
        "pairs": lambda e, v, constant: PairKernel(e, v) if constant else SparseKernel(e),
        "panels": lambda e, v, constant: PanelKernel(e),
        "sparse rows": lambda e, v, constant: SparseKernel(e),
    }
    if tier in kernels:
        monkeypatch.setattr(chain_structure, "choose_kernel", kernels[tier])


def dense_z(own):
    """Z (nobs, n) in working coordinates, random effects by factor, column, level, from a layout."""
    blocks = []
    for f in own.factors:
        rows = np.arange(f.codes.size)
        for a in range(f.q):
            values = f.values(a)
            block = np.zeros((f.codes.size, f.n_levels))
            block[rows, f.codes] = f.scale[a] * (1.0 if values is None else values)
            blocks.append(block)
    return np.column_stack(blocks)


class Dense:
    """(Sigma^-1 + C)^-1 and what follows from it, written down."""

    def __init__(self, own, c, lambdas):
        self.layout, self.c = own, c
        lam = np.zeros(c.shape)
        for (o, q, j), part in zip(own.places, lambdas, strict=True):
            lam[o : o + q * j, o : o + q * j] = np.kron(part, np.eye(j))
        m = lam.T @ c @ lam + np.eye(len(c))
        self.logdet = np.linalg.slogdet(m)[1]
        self.posterior = lam @ np.linalg.inv(m) @ lam.T
        self.t = c - c @ self.posterior @ c

    def diagonal(self, matrix):
        """Diagonal blocks by level (q, q, J) per factor."""
        return [
            matrix[o : o + q * j, o : o + q * j].reshape(q, j, q, j).diagonal(axis1=1, axis2=3)
            for o, q, j in self.layout.places
        ]


def check_elimination(got, want, rng):
    """Every member of `Elimination`."""
    own, n = want.layout, len(want.c)
    size = np.abs(want.t).max()
    assert got.logdet == pytest.approx(want.logdet, rel=1e-10)
    rhs = rng.normal(size=(n, 3))
    np.testing.assert_allclose(got.solve(rhs), want.posterior @ rhs, atol=1e-9)
    solved, rest = got.solve_blocks(own.split(rhs))
    np.testing.assert_allclose(own.join(solved), want.posterior @ rhs, atol=1e-9)
    np.testing.assert_allclose(own.join(rest), rhs - want.c @ want.posterior @ rhs, atol=1e-9 * size)
    np.testing.assert_allclose(own.join(got.multiply(own.split(rhs))), want.c @ rhs, atol=1e-10 * size)
    for block, expected in zip(got.posterior_cov(), want.diagonal(want.posterior), strict=True):
        np.testing.assert_allclose(block, expected, atol=1e-10)
    for trace, expected in zip(got.traces(), want.diagonal(want.t), strict=True):
        total = expected.sum(axis=2)
        np.testing.assert_allclose(trace, total, rtol=1e-5, atol=1e-5 * max(1.0, np.abs(total).max()))


@pytest.mark.parametrize(("kind", "tier"), CASES)
def test_weighted_elimination(kind, tier, monkeypatch):
    force(tier, monkeypatch)
    rng = np.random.default_rng(1)
    y, _, random = simulate(kind)
    own = Layout(random)
    weights = rng.uniform(0.2, 2.0, y.size)
    z = dense_z(own)
    lambdas = ThetaSpace(random, own).factors(rng.uniform(0.3, 1.0, random.k_theta))[0]
    got = Eliminator(own, Incidence(own))(weights, lambdas)
    want = Dense(own, z.T @ (z * weights[:, None]), lambdas)
    check_elimination(got, want, rng)
    np.testing.assert_allclose(got.leverage(), np.einsum("ij,jk,ik->i", z, want.posterior, z), atol=1e-9)


def linear(kind, theta_of, monkeypatch, tier):
    force(tier, monkeypatch)
    rng = np.random.default_rng(2)
    y, X, random = simulate(kind)
    criterion = ProfiledDeviance(y, X, random)
    theta = theta_of(rng, criterion)
    lambdas = criterion.space.factors(theta)[0]
    own, z = criterion.layout, dense_z(criterion.layout)
    want = Dense(own, z.T @ z, lambdas)
    v = np.eye(y.size)
    for (o, q, j), lam in zip(own.places, lambdas, strict=True):
        part = z[:, o : o + q * j]
        v += part @ np.kron(lam @ lam.T, np.eye(j)) @ part.T
    inverse = np.linalg.inv(v)
    working = X @ criterion.basis.a
    data = np.column_stack([working, y - X @ criterion.origin])
    return criterion.system.factorize(lambdas), want, z, inverse, data, rng


@pytest.mark.parametrize(("kind", "tier"), CASES)
def test_factorization(kind, tier, monkeypatch):
    got, want, z, inverse, data, rng = linear(kind, lambda rng, c: rng.uniform(0.3, 1.0, c.k_theta), monkeypatch, tier)
    check_elimination(got, want, rng)
    m = data.shape[1]
    gram = data.T @ inverse @ data
    np.testing.assert_allclose(got.gram, gram, atol=1e-9 * np.abs(gram).max())
    xi = rng.normal(size=m)
    scores = z.T @ inverse @ data
    for block, expected in zip(got.scores(xi), want.layout.split(scores @ xi[:, None]), strict=True):
        np.testing.assert_allclose(block, expected[:, :, 0], atol=1e-8 * np.abs(scores).max())
    weights = rng.normal(size=(m, m))
    weights = weights @ weights.T
    t = z.T @ inverse @ z
    slopes = want.diagonal(t - scores @ weights @ scores.T)
    for block, expected in zip(got.derivatives(weights), slopes, strict=True):
        total = expected.sum(axis=2)
        np.testing.assert_allclose(block, total, rtol=1e-5, atol=1e-5 * max(1.0, np.abs(total).max()))
    p = m - 1
    traces, pairs, mixed = got.pair_sums(want.layout.split(scores[:, :p]))
    places = want.layout.places
    for k, (o, q, j) in enumerate(places):
        np.testing.assert_allclose(traces[k], want.diagonal(t)[k].sum(axis=2), rtol=1e-5, atol=1e-6)
        for n, (s, r, i) in enumerate(places):
            part = t[o : o + q * j, s : s + r * i].reshape(q, j, r, i)
            expected = np.einsum("aucv,budv->abcd", part, part)
            np.testing.assert_allclose(pairs[k, n], expected, rtol=1e-7, atol=1e-8 * np.abs(expected).max())
            left, right = (scores[a : a + b * c, :p].reshape(b, c, p) for a, b, c in ((o, q, j), (s, r, i)))
            expected = np.einsum("aum,bucv,dvn->abcdmn", left, part, right, optimize=True)
            np.testing.assert_allclose(mixed[k, n], expected, rtol=1e-6, atol=1e-8 * np.abs(expected).max())


@pytest.mark.parametrize(("kind", "tier"), BOUNDARY)
def test_a_singular_covariance_is_an_ordinary_value(kind, tier, monkeypatch):
    def theta_of(rng, criterion):
        theta = rng.uniform(0.3, 1.0, criterion.k_theta)
        return np.where(criterion.lower == 0.0, 0.0, theta)

    got, want, _, inverse, data, rng = linear(kind, theta_of, monkeypatch, tier)
    check_elimination(got, want, rng)
    gram = data.T @ inverse @ data
    np.testing.assert_allclose(got.gram, gram, atol=1e-9 * np.abs(gram).max())


@pytest.mark.parametrize("theta", [0.7, 0.0])
@pytest.mark.parametrize("members", [False, True])
def test_one_term_of_related_levels_is_rotated(theta, members):
    rng = np.random.default_rng(3)
    nobs, levels = 90, 25
    root = np.tril(rng.uniform(0.2, 1.0, (levels, levels)))[:, :20]
    codes = rng.integers(0, levels - 5, nobs)
    loadings = None
    if members:
        both = np.concatenate([codes, rng.integers(0, levels, nobs)])
        loadings = sparse.csr_matrix((np.full(2 * nobs, 0.5), (np.tile(np.arange(nobs), 2), both)), (nobs, levels))
    factor = GroupingFactor("id", codes, np.arange(levels), loadings, None if members else root)
    x = rng.normal(size=nobs)
    random = RandomEffects([RandomTerm(factor, (x,), ("x",), make_structure("us", ["x"]))])
    X, y, weights = np.column_stack([np.ones(nobs), x]), rng.normal(size=nobs), rng.uniform(0.5, 2.0, nobs)
    criterion = ProfiledDeviance(y, X, random, weights=weights)
    own, p = criterion.layout, X.shape[1]
    assert EigenSystem.fits(own)
    lambdas = [np.array([[theta]])]
    got = criterion.system.factorize(lambdas)
    z = own.factors[0].rows() * np.sqrt(weights)[:, None]
    want = Dense(own, z.T @ z, lambdas)
    check_elimination(got, want, rng)
    data = np.column_stack([X @ criterion.basis.a, y - X @ criterion.origin]) * np.sqrt(weights)[:, None]
    inverse = np.linalg.inv(np.eye(nobs) + theta**2 * z @ z.T)
    gram, scores, t = data.T @ inverse @ data, z.T @ inverse @ data, z.T @ inverse @ z
    np.testing.assert_allclose(got.gram, gram, atol=1e-10 * np.abs(gram).max())
    np.testing.assert_allclose(got.scores(gram[0])[0][0], scores @ gram[0], atol=1e-9 * np.abs(scores).max() ** 2)
    np.testing.assert_allclose(got.derivatives(gram)[0], np.trace(t - scores @ gram @ scores.T), rtol=1e-8)
    traces, pairs, mixed = got.pair_sums([scores[None, :, :p]])
    np.testing.assert_allclose(pairs[0, 0].ravel(), np.sum(t * t), rtol=1e-9)
    np.testing.assert_allclose(mixed[0, 0][0, 0, 0, 0], scores[:, :p].T @ t @ scores[:, :p], rtol=1e-8)
    np.testing.assert_allclose(traces[0], np.trace(t), rtol=1e-9)
    other = rng.normal(size=nobs)
    again = criterion.refitted(other)
    assert again.system.vectors is criterion.system.vectors
    fresh = ProfiledDeviance(other, X, random, weights=weights)
    at = np.array([0.8])
    assert again(at) == pytest.approx(fresh(at), rel=1e-12)
