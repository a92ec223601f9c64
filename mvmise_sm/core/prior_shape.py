"""The covariance priors' part of the second derivatives in theta, for the Newton step."""

from __future__ import annotations

import numpy as np

__all__ = ["positive_definite_part", "prior_shape"]


def prior_shape(random, bases, theta, lambdas, solution):
    """Second derivatives of the covariance priors along the tangents of Sigma = Lambda Lambda'.

    The part that comes from the curvature of Sigma in theta is left to the caller: it belongs to the sum of data and prior.

    Parameters
    ----------
    random : RandomEffects
    bases : sequence
        Per term the map `a` (q, q) from working to the user's coordinates.
    theta : ndarray
        Working theta (k_theta,).
    lambdas : sequence of ndarray
        Working Lambda (q, q) per term.
    solution : StageSolution

    Returns
    -------
    hessian : ndarray
        (k_theta, k_theta), block diagonal by term.
    cross : ndarray
        Mixed derivative in theta and log sigma2 (k_theta,).
    """
    hessian, cross = np.zeros((theta.size, theta.size)), np.zeros(theta.size)
    for t, (term, at) in enumerate(zip(random.terms, random.theta_slices, strict=True)):
        tensor, mixed = solution.sigma_curvatures[t], solution.sigma_crosses[t]
        if tensor is None:
            continue
        if term.q == 1:
            a2 = float(bases[t].a[0, 0]) ** 2
            along = 2.0 * a2 * float(lambdas[t][0, 0])
            hessian[at, at] = tensor[0, 0, 0, 0] * along * along
            if mixed is not None:
                cross[at] = float(mixed[0, 0]) * along
            continue
        moved = bases[t].a @ (term.structure.tangents(theta[at]) @ lambdas[t].T) @ bases[t].a.T
        flat = (moved + moved.transpose(0, 2, 1)).reshape(len(moved), -1)
        hessian[at, at] = flat @ tensor.reshape(term.q**2, term.q**2) @ flat.T
        if mixed is not None:
            cross[at] = flat @ mixed.ravel()
    return hessian, cross


def positive_definite_part(matrix):
    """The matrix with its negative eigenvalues reflected, so that a Newton step descends."""
    if matrix.shape[0] == 1:
        return np.abs(matrix)
    values, vectors = np.linalg.eigh(matrix)
    if values[0] > 0.0:
        return matrix
    floor = 1e-10 * max(float(values[-1]), 1e-10)
    return (vectors * np.maximum(np.abs(values), floor)) @ vectors.T
