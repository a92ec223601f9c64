"""Covariances of the natural parameters from the observed information."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mvmise_sm.selection.likelihood import P, SelectionLikelihood, SelectionParams


@dataclass(frozen=True)
class Covariance:
    """Asymptotic covariances at a maximum.

    Attributes
    ----------
    theta : ndarray, (k, k)
        Of the unconstrained vector.
    beta : ndarray, (p, p)
        Block of the inverse information.
    beta_small_sample : ndarray, (p, p)
        With the bias correction of :func:`small_sample`.
    phi : ndarray, (f, f)
        Of the free elements of the mechanism.
    se : SelectionParams
        Standard errors of all natural parameters in their shapes; zero for what is fixed.
    """

    theta: np.ndarray
    beta: np.ndarray
    beta_small_sample: np.ndarray
    phi: np.ndarray
    se: SelectionParams


def covariance(likelihood: SelectionLikelihood, theta: np.ndarray, information: np.ndarray) -> Covariance:
    """Invert the observed information and carry it to the natural parameters by the delta method.

    Directions without positive information get NaN.
    """
    # signed square roots at zero and fixed elements have no information
    free = ~(np.diag(information) <= 0)
    cov = np.zeros_like(information)
    inner = information[np.ix_(free, free)]
    positive = bool(np.isfinite(inner).all())
    if positive and inner.size:
        # parameters have very different units
        unit = 1.0 / np.sqrt(np.diag(inner))
        values = np.linalg.eigvalsh(inner * np.outer(unit, unit))
        positive = values[0] > 1e-12 * values[-1]
    cov[np.ix_(free, free)] = np.linalg.inv(inner) if positive else np.nan
    cut = likelihood.slices
    beta = cov[cut["beta"], cut["beta"]]
    return Covariance(
        theta=cov,
        beta=beta,
        beta_small_sample=small_sample(likelihood, information, beta) if positive else beta,
        phi=cov[cut["phi"], cut["phi"]],
        se=_standard_errors(likelihood, theta, cov),
    )


def from_covariance(likelihood: SelectionLikelihood, theta: np.ndarray, cov: np.ndarray) -> Covariance:
    """The same from a covariance of the unconstrained vector, (k, k), which needs no correction for small samples."""
    cut = likelihood.slices
    beta = cov[cut["beta"], cut["beta"]]
    return Covariance(cov, beta, beta, cov[cut["phi"], cut["phi"]], _standard_errors(likelihood, theta, cov))


def small_sample(likelihood: SelectionLikelihood, information: np.ndarray, beta: np.ndarray) -> np.ndarray:
    """Covariance of the fixed effects with the bias correction of Kenward and Roger (1997, Biometrics 53, 983-997).

    With Phi the covariance for known variance parameters theta and W the covariance of their estimates, the paper's
    covariance is ``Phi + 2 Lambda``. One Lambda is what estimating theta adds to the variance, the other the bias
    ``-1/2 sum_ij W_ij d2Phi / dtheta_i dtheta_j`` of Phi at the estimate, equal to it where the covariance is linear
    in theta. The inverse information has the first, ``Phi I_bt W I_tb Phi``, and not the second.

    Parameters
    ----------
    likelihood : SelectionLikelihood
    information : ndarray, (k, k)
    beta : ndarray, (p, p)
        The fixed effects' block of its inverse.

    Returns
    -------
    ndarray, (p, p)
    """
    cut, position = likelihood.slices, np.arange(likelihood.size)
    # the mechanism is no variance parameter: its uncertainty is in `beta` and is not counted twice
    known = np.r_[position[cut["beta"]], position[cut["phi"]]]
    known = known[np.diag(information)[known] > 0]
    effects = int((known < cut["beta"].stop).sum())
    if effects < len(beta):
        return beta
    phi = np.linalg.inv(information[np.ix_(known, known)])[:effects, :effects]
    return 2.0 * beta - phi


def _standard_errors(likelihood: SelectionLikelihood[P], theta: np.ndarray, cov: np.ndarray) -> P:
    params = likelihood.params(theta)
    zeros = params.zeros()
    out: dict[str, np.ndarray] = {}
    for name, value in vars(zeros).items():
        if value is None:
            continue
        se = np.zeros_like(value)
        for index in np.ndindex(value.shape):
            if value.ndim == 2 and index[0] < index[1]:
                continue
            unit = np.zeros_like(value)
            # half on each side: the gradient of one element of a symmetric matrix
            unit[index] += 0.5
            unit[index[::-1]] += 0.5
            jacobian = likelihood.chain(theta, replace(zeros, **{name: unit}))
            se[index] = se[index[::-1]] = np.sqrt(max(jacobian @ cov @ jacobian, 0.0))
        out[name] = se
    return replace(zeros, **out)
