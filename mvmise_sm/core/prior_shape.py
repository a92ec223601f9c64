"""The second derivatives in theta that covariance priors bring, for the Newton step."""

from __future__ import annotations

import numpy as np

__all__ = ["prior_shape", "trusted"]

_SHARE = 0.1


def prior_shape(structures, slices, bases, theta, lambdas, slopes, sizes, solution):
    """Second derivatives along the tangents of Sigma = Lambda Lambda' that the average information does not have.

    They are the priors' own, and the amount by which the average information is off where a prior holds the estimate
    away from the data's optimum. That amount is minus tr(D E G F), D the data's part of the derivative in Sigma and
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
    own : ndarray
        The priors' own curvature, positive semidefinite (k_theta, k_theta), block diagonal by term.
    rest : ndarray
        What makes the model exact and may be negative (k_theta, k_theta).
    cross : ndarray
        Mixed derivative in theta and log sigma2 (k_theta,).
    """
    own, rest = np.zeros((2, theta.size, theta.size))
    cross = np.zeros(theta.size)
    for t, (structure, at) in enumerate(zip(structures, slices, strict=True)):
        tensor, mixed = solution.sigma_curvatures[t], solution.sigma_crosses[t]
        if tensor is None:
            continue
        a, lam = bases[t].a, lambdas[t]
        data = slopes[t] - a.T @ solution.sigma_gradients[t] @ a
        if structure.q == 1:
            scale, root, total = float(a[0, 0]), float(lam[0, 0]), float(slopes[t][0, 0])
            off = float(data[0, 0]) / (root * root + 1.0 / float(sizes[t][0]))
            curvature = scale**4 * float(tensor[0, 0, 0, 0])
            own[at, at] = 4.0 * root * root * max(curvature, 0.0)
            rest[at, at] = 4.0 * root * root * (min(curvature, 0.0) - off) + 2.0 * min(total, 0.0)
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
        block = flat @ tensor.reshape(size, size) @ flat.T
        own[at, at] = _positive_part(block)
        rest[at, at] = block - own[at, at] - 0.5 * (off + off.T) + 2.0 * bend
        if mixed is not None:
            cross[at] = flat @ mixed.ravel()
    return own, rest, cross


def trusted(exact, safe):
    """The exact model of the Hessian where it keeps a share of the safe one in every direction, else the safe one."""
    if exact.shape[0] == 1:
        return exact if exact[0, 0] > _SHARE * safe[0, 0] else safe
    try:
        np.linalg.cholesky(exact - _SHARE * safe)
    except np.linalg.LinAlgError:
        return safe
    return exact


def _positive_part(block):
    values, vectors = np.linalg.eigh(block)
    if values[0] >= 0.0:
        return block
    return (vectors * np.maximum(values, 0.0)) @ vectors.T
