"""The second derivatives in theta that covariance priors bring, for the Newton step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.linalg.lapack import dpotrf

from mvmise_sm.core.covariance.theta import positive_part

if TYPE_CHECKING:
    from mvmise_sm.core.criteria.inner_problem import InnerSolution
    from mvmise_sm.core.elimination.layout import Layout
    from mvmise_sm.core.interfaces import System

__all__ = ["PriorCurvature", "descending", "kronecker", "own_curvature", "prior_curvature", "trusted"]

_SHARE = 0.1


class PriorCurvature:
    """What priors add to the average information of a linear mixed model.

    Parameters
    ----------
    layout : Layout
    system : System
    slices : tuple of slice
        Place in theta of every term.
    """

    def __init__(self, layout: Layout, system: System, slices: tuple[slice, ...]) -> None:
        self._slices = slices
        self._vec_maps = [kronecker(basis.a, basis.a) for basis in layout.term_bases]
        # mean over the levels of the squared columns of every term
        self._sizes = [np.zeros(0)] * len(slices)
        for f, (size, _) in zip(layout.factors, system.level_products(), strict=True):
            for t, place in zip(f.terms, f.places, strict=True):
                self._sizes[t] = np.maximum(size[place].mean(axis=1), 1e-300)

    def information(
        self,
        average: np.ndarray,
        curvature: np.ndarray,
        b: np.ndarray,
        at: tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]],
        solution: InnerSolution,
    ) -> np.ndarray:
        """A model of the Hessian along which a Newton step descends (k_theta, k_theta).

        Parameters
        ----------
        average, curvature : ndarray
            Average information, and what Sigma = Lambda Lambda' adds to it (k_theta, k_theta).
        b : ndarray
            b / sigma2 of the average information (k_theta,).
        at : tuple of list of ndarray
            Per term the tangents of Sigma (k, q, q), Lambda and the data's part of the derivative in Sigma (q, q).
        solution : InnerSolution
        """
        tangents, lambdas, slopes = at
        places = self._slices, self._vec_maps, tangents
        extra, cross = prior_curvature(*places, lambdas, slopes, self._sizes, solution)
        information = average + curvature + extra
        if cross is not None:
            # the profile over sigma2 couples data and priors: c (b + x)(b + x)' in place of c b b'
            mixed = np.multiply.outer(b, cross)
            information -= solution.curvature_c * (mixed + mixed.T + np.multiply.outer(cross, cross))
        return information if trusted(information, average) else descending(average + own_curvature(*places, solution))


def prior_curvature(
    slices: tuple[slice, ...],
    vec_maps: list[np.ndarray],
    tangents: list[np.ndarray],
    lambdas: list[np.ndarray],
    slopes: list[np.ndarray],
    sizes: list[np.ndarray],
    solution: Any,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Second derivatives along the tangents of Sigma = Lambda Lambda' that the average information does not have.

    They are the priors' own, and the amount by which the average information is off where a prior holds the estimate
    away from the data's optimum. That amount is minus tr(D E G F), D the data's part of the derivative in Sigma and
    G = (Sigma + C^-1)^-1: exact for one factor with the same C at every level, and a model elsewhere.

    Parameters
    ----------
    slices : sequence of slice
        Place in theta of every term.
    vec_maps : sequence of ndarray
        Per term the map of vec(Sigma) from working to the user's coordinates (q * q, q * q).
    tangents : sequence of ndarray
        Tangents of the working Sigma (k, q, q) per term.
    lambdas, slopes : sequence of ndarray
        Working Lambda and the data's part of the derivative in the working Sigma (q, q) per term.
    sizes : sequence of ndarray
        Mean diagonal of a level's cross-product C (q,) per term.
    solution : InnerSolution

    Returns
    -------
    hessian : ndarray
        (k_theta, k_theta), block diagonal by term.
    cross : ndarray or None
        Mixed derivative in theta and log sigma2 (k_theta,), None without absolute priors.
    """
    k_theta = slices[-1].stop
    out, cross = np.zeros((k_theta, k_theta)), None
    for t, at in enumerate(slices):
        hessian, mixed = solution.sigma_hessians[t], solution.sigma_crosses[t]
        if hessian is None:
            continue
        vec_map, lam = vec_maps[t], lambdas[t]
        flat = tangents[t].reshape(len(tangents[t]), lam.size)
        inner = lam @ lam.T
        inner.flat[:: len(lam) + 1] += 1.0 / sizes[t]
        block = flat @ (vec_map.T @ hessian() @ vec_map - kronecker(slopes[t], _inverse(inner))) @ flat.T
        out[at, at] = 0.5 * (block + block.T)
        if mixed is not None:
            cross = np.zeros(k_theta) if cross is None else cross
            cross[at] = flat @ (vec_map.T @ mixed.ravel())
    return out, cross


def own_curvature(
    slices: tuple[slice, ...], vec_maps: list[np.ndarray], tangents: list[np.ndarray], solution: Any
) -> np.ndarray:
    """The priors' own curvature, its positive part if it is indefinite (k_theta, k_theta), block diagonal by term."""
    k_theta = slices[-1].stop
    out = np.zeros((k_theta, k_theta))
    for at, vec_map, sigma_tangents, hessian in zip(slices, vec_maps, tangents, solution.sigma_hessians, strict=True):
        if hessian is not None:
            flat = sigma_tangents.reshape(len(sigma_tangents), -1) @ vec_map.T
            block = flat @ hessian() @ flat.T
            out[at, at] = block if dpotrf(block, lower=1)[1] == 0 else positive_part(block)
    return out


def trusted(exact: np.ndarray, average: np.ndarray) -> bool:
    """Whether an exact model of the Hessian keeps a share of the average information in every direction."""
    return dpotrf(exact - _SHARE * average, lower=1)[1] == 0


def descending(matrix: np.ndarray) -> np.ndarray:
    """The matrix with negative eigenvalues reflected, so that a Newton step descends."""
    if dpotrf(matrix, lower=1)[1] == 0:
        return matrix
    values, vectors = np.linalg.eigh(matrix)
    floor = 1e-10 * max(float(np.abs(values).max()), 1e-300)
    return (vectors * np.maximum(np.abs(values), floor)) @ vectors.T


def kronecker(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Kronecker product of square matrices of one size; numpy's own takes ten times as long for small ones."""
    size = a.size
    return np.multiply.outer(a, b).transpose(0, 2, 1, 3).reshape(size, size)


def _inverse(s: np.ndarray) -> np.ndarray:
    if s.shape[0] == 1:
        return 1.0 / s
    if s.shape[0] == 2:
        (a, b), (_, c) = s.tolist()
        det = a * c - b * b
        return np.array([[c / det, -b / det], [-b / det, a / det]])
    return np.linalg.inv(s)
