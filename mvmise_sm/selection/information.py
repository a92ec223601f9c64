"""Covariances of the natural parameters from the observed information."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mvmise_sm.selection.likelihood import SelectionLikelihood, SelectionParams


@dataclass(frozen=True)
class Covariance:
    """Asymptotic covariances at a maximum.

    Attributes
    ----------
    theta : ndarray, (k, k)
        Of the unconstrained vector.
    beta : ndarray, (p, p)
    phi : ndarray, (f, f)
        Of the free elements of the mechanism.
    se : SelectionParams
        Standard errors of all natural parameters in their shapes; zero for what is fixed.
    """

    theta: np.ndarray
    beta: np.ndarray
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
    return Covariance(
        cov, cov[cut["beta"], cut["beta"]], cov[cut["phi"], cut["phi"]], _standard_errors(likelihood, theta, cov)
    )


def _standard_errors(likelihood: SelectionLikelihood, theta: np.ndarray, cov: np.ndarray) -> SelectionParams:
    params = likelihood.params(theta)
    zeros = params.zeros()
    out = {}
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
    return SelectionParams(**out)
