"""The second derivatives in theta that covariance priors bring, for the Newton step."""

from __future__ import annotations

import numpy as np

__all__ = ["prior_shape", "trusted"]

_SHARE = 0.1


def prior_shape(structures, slices, bases, theta, moved, lambdas, slopes, sizes, solution):
    """Second derivatives along the tangents of Sigma = Lambda Lambda' that the average information does not have.

    They are the priors' own, and the amount by which the average information is off where a prior holds the estimate
    away from the data's optimum. That amount is minus tr(D E G F), D the data's part of the derivative in Sigma and
    G = (Sigma + C^-1)^-1: exact for one factor with the same C at every level, and a model elsewhere.

    Parameters
    ----------
    structures, slices : sequence
        Working structure and place in theta of every term.
    bases : sequence
        Per term the map `a` (q, q) from working to the user's coordinates.
    theta : ndarray
        Working theta (k_theta,).
    moved : sequence of ndarray
        Tangents of the working Sigma (k, q, q) per term.
    lambdas, slopes : sequence of ndarray
        Working Lambda and derivative of the objective in the working Sigma (q, q) per term.
    sizes : sequence of ndarray
        Mean diagonal of a level's cross-product C (q,) per term.
    solution : StageSolution

    Returns
    -------
    own : ndarray
        The priors' own curvature (k_theta, k_theta), block diagonal by term.
    rest : ndarray
        The correction of the average information and the curvature 2 D of Sigma in theta (k_theta, k_theta), for the
        terms with a prior.
    cross : ndarray
        Mixed derivative in theta and log sigma2 (k_theta,).
    """
    own, rest = np.zeros((2, theta.size, theta.size))
    cross = np.zeros(theta.size)
    for t, at in enumerate(slices):
        hessian, mixed, a = solution.sigma_hessians[t], solution.sigma_crosses[t], bases[t].a
        if hessian is None:
            continue
        k, size = len(moved[t]), a.size
        flat = moved[t].reshape(k, size)
        wide = flat @ _kron(a, a).T
        own[at, at] = wide @ hessian() @ wide.T
        data = slopes[t] - a.T @ solution.sigma_gradients[t] @ a
        inner = lambdas[t] @ lambdas[t].T
        inner.flat[:: len(a) + 1] += 1.0 / sizes[t]
        off = flat @ _kron(data, _inverse(inner)) @ flat.T
        tangents = structures[t].tangents(theta[at])
        bend = (slopes[t] @ tangents).reshape(k, size) @ tangents.reshape(k, size).T
        rest[at, at] = 2.0 * bend - 0.5 * (off + off.T)
        if mixed is not None:
            cross[at] = wide @ mixed.ravel()
    return own, rest, cross


def _kron(a, b):
    """Kronecker product of square matrices of one size; numpy's own takes ten times as long for small ones."""
    size = a.size
    return np.multiply.outer(a, b).transpose(0, 2, 1, 3).reshape(size, size)


def _inverse(s):
    if s.shape[0] == 1:
        return 1.0 / s
    if s.shape[0] == 2:
        (a, b), (_, c) = s.tolist()
        det = a * c - b * b
        return np.array([[c / det, -b / det], [-b / det, a / det]])
    return np.linalg.inv(s)


def trusted(exact, safe, own):
    """The exact model of the Hessian where it keeps a share of the safe one in every direction, else the safe one.

    The safe model is the average information `safe` with the positive part of the priors' `own` curvature.
    """
    if exact.shape[0] == 1:
        return exact if exact[0, 0] > _SHARE * safe[0, 0] else safe + np.maximum(own, 0.0)
    try:
        np.linalg.cholesky(exact - _SHARE * safe)
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(own)
        return safe + (vectors * np.maximum(values, 0.0)) @ vectors.T
    return exact
