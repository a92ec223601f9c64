"""Probability of the missing blocks of model e: the closed form without a cap, corrected block by block."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mvmise_sm.selection.data import SelectionData
from mvmise_sm.selection.units import MechanismPart

__all__ = ["MarginalProduct", "MissingLaw", "Tilt"]

# log-probability by which the marginal product may exceed its bound before it is distrusted
PRODUCT_SLACK = 0.5


@dataclass(frozen=True)
class MissingLaw:
    """Normal law of the missing block means given the observed outcomes; zero outside missing blocks.

    Attributes
    ----------
    mean : ndarray, (n_clusters, K)
    cov : ndarray, (n_clusters, K, K)
    U : ndarray, (N, K, K)
        Generalised residual of a row (first index) caused by a unit error of a missing outcome (second index).
    loading : ndarray, (n_clusters, K, q)
        Coefficient of b in the conditional block mean.
    """

    mean: np.ndarray
    cov: np.ndarray
    U: np.ndarray
    loading: np.ndarray


@dataclass(frozen=True)
class Tilt:
    """What the mechanism adds: the log-probability of the missing blocks and its derivatives in eta's law.

    ``weight`` is the derivative in the mean; ``2 d/dOmega = weight weight' + 2 diag(spread) - slack slack'``.

    Attributes
    ----------
    value : float
    weight, slack, spread : ndarray, (n_clusters, K)
    """

    value: float
    weight: np.ndarray
    slack: np.ndarray
    spread: np.ndarray


class MarginalProduct:
    """The mechanism's integral: closed form without a cap times the blocks' corrections under the tilted law.

    Parameters
    ----------
    data : SelectionData
    part : MechanismPart
        One exponential mechanism of blocks, or none.

    Attributes
    ----------
    missing : ndarray of bool, (n_clusters, K)
    cov_mean : ndarray, (n_clusters, K)
        Means of the mechanism's covariate.
    """

    def __init__(self, data: SelectionData, part: MechanismPart) -> None:
        self.part = part
        self.missing = data.block_missing
        self.cov_mean = np.zeros(self.missing.shape) if data.cov_miss is None else data.cluster_mean(data.cov_miss)

    def tilt(self, phi: np.ndarray, law: MissingLaw) -> Tilt:
        """Log-probability of the missing blocks: closed form plus the marginal corrections of the cap."""
        missing = self.missing
        mean = (phi[0] + phi[1] * law.mean + phi[2] * self.cov_mean)[missing]
        cov = phi[1] ** 2 * law.cov
        var = np.diagonal(cov, axis1=1, axis2=2)[missing]
        others = cov.sum(axis=2)[missing] - var
        integral = self.part.slots[0].mechanism.missing(mean + others, np.maximum(var, 0.0))
        value = (integral.value - 0.5 * others).sum()
        weight, slack, spread = (np.zeros(missing.shape) for _ in range(3))
        weight[missing] = integral.d_mean
        slack[missing] = integral.d_mean - 1.0
        spread[missing] = integral.d_var - integral.d_mean + 0.5
        return Tilt(float(value), weight, slack, spread)

    def phi_gradient(self, phi: np.ndarray, law: MissingLaw, tilt: Tilt) -> np.ndarray:
        """Gradient of the log-probability in phi, (3,)."""
        weight, slack = tilt.weight, tilt.slack
        quad = (weight * _times(law.cov, weight)).sum() - (slack * _times(law.cov, slack)).sum()
        quad += 2.0 * (tilt.spread * np.diagonal(law.cov, axis1=1, axis2=2)).sum()
        in_y = (weight * law.mean).sum() + phi[1] * quad
        return np.array([weight.sum(), in_y, (weight * self.cov_mean).sum()])

    def exceeds_marginals(self, phi: np.ndarray, law: MissingLaw) -> bool:
        """Whether the marginal product makes some cluster's blocks jointly more probable than the rarest of them."""
        missing = self.missing
        mean = (phi[0] + phi[1] * law.mean + phi[2] * self.cov_mean)[missing]
        cov = phi[1] ** 2 * law.cov
        var = np.maximum(np.diagonal(cov, axis1=1, axis2=2)[missing], 0.0)
        others = cov.sum(axis=2)[missing] - var
        joint, rarest = np.zeros(missing.shape), np.zeros(missing.shape)
        joint[missing] = self.part.slots[0].mechanism.missing(mean + others, var).value - 0.5 * others
        rarest[missing] = self.part.slots[0].mechanism.missing(mean, var).value
        return bool((joint.sum(axis=1) > rarest.min(axis=1) + PRODUCT_SLACK).any())


def _times(matrices: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Matrix-vector products over the leading axis."""
    return (matrices @ vectors[:, :, None])[:, :, 0]
