"""Slow, dense likelihoods of the selection models: every integral by brute force, every matrix written out."""

import itertools

import numpy as np
import pandas as pd
from conftest import REFERENCE
from scipy.integrate import dblquad, quad
from scipy.stats import multivariate_normal

from mvmise_sm.selection.data import selection_data


def frame_of(name):
    """A data set of the mvMISE reference."""
    return pd.read_csv(REFERENCE / "mvmise_data" / f"{name}.csv")


def data_of(name, **options):
    """The same as `SelectionData`, with all covariates common."""
    frame = frame_of(name)
    outcomes = [c for c in frame if c[0] == "y"]
    columns = [c for c in frame if c[0] == "x"]
    return selection_data(frame[outcomes], frame[columns], frame["id"], **options)


def simulated(seed=0, n_clusters=8, K=3, sporadic=False, max_missing=None, all_missing=False, cov=False, mean=2.0):
    """A small data set with clusters of 1 to 4 samples and whole blocks missing."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 5, n_clusters)
    groups = np.repeat(np.arange(n_clusters), sizes)
    N = groups.size
    X = np.column_stack([np.ones(N), rng.normal(size=N)])
    Y = mean + 0.5 * X[:, 1:] + rng.normal(size=(n_clusters, 1))[groups] + rng.normal(size=(N, K))
    for cluster in range(n_clusters):
        gone = rng.random(K) < 0.35
        if max_missing is not None:
            gone[np.flatnonzero(gone)[max_missing:]] = False
        gone |= all_missing and cluster == 2
        Y[np.ix_(groups == cluster, gone)] = np.nan
    if sporadic:
        Y[rng.integers(N, size=3), rng.integers(K, size=3)] = np.nan
    covariate = rng.normal(size=N) if cov else None
    return selection_data(Y, X, groups, random_columns=(0, 1), cov_miss=covariate)


def dense_parts(data, params, cluster):
    """Mean and covariance of vec(Y_i), the observed mask and which blocks are missing, of one cluster."""
    rows = np.arange(data.starts[cluster], data.starts[cluster] + data.sizes[cluster])
    n, K = rows.size, data.n_outcomes
    first = data.first[rows] & (params.sigma2.size == 2)
    S = np.diag(np.where(first, params.sigma2[0], params.sigma2[-1]))
    mean = (data.X[rows] @ params.beta).T.ravel()
    if params.tau is not None:
        V = np.kron(np.outer(params.tau, params.tau), np.ones((n, n))) + np.kron(np.eye(K), S)
    else:
        Z = data.Z[rows].transpose(1, 0, 2).reshape(n * K, -1)
        V = Z @ np.diag(params.D) @ Z.T + np.kron(params.error_cov, S)
    Y = data.Y[rows]
    return mean, V, ~np.isnan(Y).T.ravel(), np.isnan(Y).all(axis=0), Y


def dense_llf(data, params, mechanism):
    """Log-likelihood; the capped mechanism by quadrature for at most two missing blocks in a cluster."""
    total = 0.0
    for cluster in range(data.n_clusters):
        mean, V, seen, missing, Y = dense_parts(data, params, cluster)
        n, K = Y.shape
        y = Y.T.ravel()[seen]
        cov_mean = np.zeros(K)
        if data.cov_miss is not None:
            rows = slice(data.starts[cluster], data.starts[cluster] + n)
            cov_mean = data.cov_miss[rows].mean(axis=0)
        centre, spread = mean, V
        if seen.any():
            total += multivariate_normal(mean[seen], V[np.ix_(seen, seen)]).logpdf(y)
            gain = V[:, seen] @ np.linalg.inv(V[np.ix_(seen, seen)])
            centre = mean + gain @ (y - mean[seen])
            spread = V - gain @ V[seen]
        for k in np.flatnonzero(~missing):
            eta = params.phi[0] + params.phi[1] * np.nanmean(Y[:, k]) + params.phi[2] * cov_mean[k]
            total += np.log1p(-np.exp(eta))
        if missing.any():
            average = np.kron(np.eye(K), np.full((1, n), 1.0 / n))[missing]
            m = params.phi[0] + params.phi[1] * average @ centre + params.phi[2] * cov_mean[missing]
            total += log_missing(m, params.phi[1] ** 2 * average @ spread @ average.T, mechanism)
    return total


def log_missing(mean, cov, mechanism):
    """``log E prod Pr(r = 1)`` for eta ~ N(mean, cov)."""
    if mechanism == "log":
        return mean.sum() + 0.5 * cov.sum()
    if mean.size == 1:
        return np.log(_capped_one(mean[0], cov[0, 0]))
    if mean.size > 2:
        raise ValueError("brute force is for at most two missing blocks")
    # the first block by the outer integral, the second given it; both split at the bend
    sd = np.sqrt(cov[0, 0])
    slope, rest = cov[0, 1] / cov[0, 0], cov[1, 1] - cov[0, 1] ** 2 / cov[0, 0]

    def outer(eta):
        inner = _capped_one(mean[1] + slope * (eta - mean[0]), rest)
        return inner * min(1.0, np.exp(eta)) * np.exp(-0.5 * ((eta - mean[0]) / sd) ** 2) / (sd * np.sqrt(2 * np.pi))

    low, high = mean[0] - 14 * sd - sd**2, mean[0] + 14 * sd
    points = sorted({low, high, *([0.0] if low < 0 < high else [])})
    pieces = itertools.pairwise(points)
    return np.log(sum(quad(outer, a, b, epsabs=1e-15, epsrel=1e-12, limit=300)[0] for a, b in pieces))


def _capped_one(mean, var):
    sd = np.sqrt(var)

    def density(eta):
        return min(1.0, np.exp(eta)) * np.exp(-0.5 * ((eta - mean) / sd) ** 2) / (sd * np.sqrt(2 * np.pi))

    low, high = mean - 14 * sd - sd**2, mean + 14 * sd
    points = sorted({low, high, *([0.0] if low < 0 < high else []), *([mean] if low < mean < high else [])})
    pieces = itertools.pairwise(points)
    return sum(quad(density, a, b, epsabs=1e-16, epsrel=1e-13, limit=200)[0] for a, b in pieces)


def two_missing_by_dblquad(mean, cov):
    """The same integral as one plain double integral, to check the oracle itself."""
    law = multivariate_normal(mean, cov)
    sd = np.sqrt(np.diag(cov))
    value = dblquad(
        lambda y, x: np.exp(min(0.0, x) + min(0.0, y)) * law.pdf([x, y]),
        *(mean[0] + 8 * sd[0] * np.array([-1, 1])),
        *(mean[1] + 8 * sd[1] * np.array([-1, 1])),
        epsabs=1e-7,
    )
    return np.log(value[0])


def differences(value, theta, width=1e-5):
    """Central differences of a function, five-point."""
    out = np.empty_like(theta)
    for i in range(theta.size):
        step = np.zeros_like(theta)
        step[i] = width
        near = value(theta + step) - value(theta - step)
        far = value(theta + 2 * step) - value(theta - 2 * step)
        out[i] = (8 * near - far) / (12 * width)
    return out
