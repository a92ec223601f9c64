"""The second derivatives in theta that covariance priors bring, for the Newton step."""

from __future__ import annotations

import numpy as np

__all__ = ["positive_definite_part", "prior_shape"]


def prior_shape(structures, slices, bases, theta, lambdas, slopes, sizes, solution):
    """Second derivatives along the tangents of Sigma = Lambda Lambda' that the average information does not have.

    They are the priors' own, and the amount by which the average information is off where a prior holds the estimate
    away from the data's optimum. That amount is minus tr(D E G F), with D the data's part of the derivative in Sigma and
    G = (Sigma + C^-1)^-1: exact for one factor with the same C at every level, and a model elsewhere. Of the part 2 D
    that comes from the curvature of Sigma in theta, the caller has the positive part; with a prior the negative part
    makes longer and safe steps.

    Parameters
    ----------
    structures, slices : sequence
        Working structure and place in theta of every term.
    bases : sequence
        Per term the map `a` (q, q) from working to the user's coordinates.
    theta : ndarray
        Working theta (k_theta,).
    lambdas, slopes : sequence of ndarray
        Working Lambda and derivative of the objective in the working Sigma (q, q) per term.
    sizes : sequence of ndarray
        Mean diagonal of a level's cross-product C (q,) per term.
    solution : StageSolution

    Returns
    -------
    hessian : ndarray
        (k_theta, k_theta), block diagonal by term.
    cross : ndarray
        Mixed derivative in theta and log sigma2 (k_theta,).
    """
    hessian, cross = np.zeros((theta.size, theta.size)), np.zeros(theta.size)
    for t, (structure, at) in enumerate(zip(structures, slices, strict=True)):
        tensor, mixed = solution.sigma_curvatures[t], solution.sigma_crosses[t]
        if tensor is None:
            continue
        a, lam = bases[t].a, lambdas[t]
        data = slopes[t] - a.T @ solution.sigma_gradients[t] @ a
        if structure.q == 1:
            scale, root, total = float(a[0, 0]), float(lam[0, 0]), float(slopes[t][0, 0])
            off = float(data[0, 0]) / (root * root + 1.0 / float(sizes[t][0]))
            hessian[at, at] = 4.0 * root * root * (scale**4 * tensor[0, 0, 0, 0] - off) + 2.0 * min(total, 0.0)
            if mixed is not None:
                cross[at] = 2.0 * scale * scale * root * float(mixed[0, 0])
            continue
        tangents = structure.tangents(theta[at])
        moved = tangents @ lam.T
        moved = moved + moved.transpose(0, 2, 1)
        k, size = len(moved), structure.q**2
        flat = (a @ moved @ a.T).reshape(k, size)
        g = np.linalg.inv(lam @ lam.T + np.diag(1.0 / sizes[t]))
        off = (data @ moved @ g).reshape(k, size) @ moved.reshape(k, size).T
        values, vectors = np.linalg.eigh(slopes[t])
        negative = (vectors * np.minimum(values, 0.0)) @ vectors.T
        bend = (negative @ tangents).reshape(k, size) @ tangents.reshape(k, size).T
        hessian[at, at] = flat @ tensor.reshape(size, size) @ flat.T - 0.5 * (off + off.T) + 2.0 * bend
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
