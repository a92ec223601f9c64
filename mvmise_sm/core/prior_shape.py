"""The second derivatives in theta that covariance priors bring, for the Newton step."""

from __future__ import annotations

import numpy as np

__all__ = ["prior_shape", "trusted"]

_SHARE = 0.1


def prior_shape(slices, bases, moved, lambdas, slopes, sizes, solution):
    """Second derivatives along the tangents of Sigma = Lambda Lambda' that the average information does not have.

    They are the priors' own, and the amount by which the average information is off where a prior holds the estimate
    away from the data's optimum. That amount is minus tr(D E G F), D the data's part of the derivative in Sigma and
    G = (Sigma + C^-1)^-1: exact for one factor with the same C at every level, and a model elsewhere.

    Parameters
    ----------
    slices : sequence of slice
        Place in theta of every term.
    bases : sequence
        Per term the map `a` (q, q) from working to the user's coordinates.
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
        The correction of the average information (k_theta, k_theta).
    cross : ndarray
        Mixed derivative in theta and log sigma2 (k_theta,).
    """
    k_theta = slices[-1].stop
    own, rest = np.zeros((2, k_theta, k_theta))
    cross = np.zeros(k_theta)
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
        rest[at, at] = -0.5 * (off + off.T)
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


def trusted(exact, average, own, curvature):
    """The exact model of the Hessian where it keeps a share of the average information in every direction.

    Elsewhere the average information with the positive parts of the priors' `own` curvature and of that of Sigma in
    theta, which is a safe model.
    """
    if exact.shape[0] == 1:
        positive = exact[0, 0] > _SHARE * average[0, 0]
        return exact if positive else average + np.maximum(own, 0.0) + np.maximum(curvature, 0.0)
    try:
        np.linalg.cholesky(exact - _SHARE * average)
    except np.linalg.LinAlgError:
        return average + _positive_part(own) + _positive_part(curvature)
    return exact


def _positive_part(block):
    values, vectors = np.linalg.eigh(block)
    return (vectors * np.maximum(values, 0.0)) @ vectors.T
