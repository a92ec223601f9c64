"""What both selection models share: parameters, the observed-block term and the interface of a likelihood."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Generic, Protocol, TypeVar

import numpy as np

from mvmise_sm.selection.data import SelectionData
from mvmise_sm.selection.status import Status
from mvmise_sm.selection.units import MechanismPart, Units

# steps beyond exp(+-60) leave the range where squares and products are safe
MAX_LOG_VARIANCE = 60.0


P = TypeVar("P", bound="SelectionParams")


@dataclass(frozen=True)
class SelectionParams:
    """Parameters on their natural scale; also the gradient of a function of them.

    A model has one of the classes below; what it lacks is None.

    Attributes
    ----------
    beta : ndarray, (p,)
    sigma2 : ndarray, (1,) or (2,)
        Error variance of a sample; of the first samples and of the others when they differ. Fixed at one (the first
        entry) in model e.
    phi : ndarray, (3,) or (6,)
        Mechanism, three elements for each slot; elements that are not in the model are zero.
    tau : ndarray, (K,), or None
        Loadings of model b.
    D : ndarray, (q,), or None
        Random-effect variances of model e.
    error_cov : ndarray, (K, K), or None
        Error covariance of model e.
    spread : ndarray, (2,), or None
        Standard deviations of own batch effects of the outcomes and of samples, model b; their sign has no meaning.
    """

    beta: np.ndarray
    sigma2: np.ndarray
    phi: np.ndarray
    tau: np.ndarray | None = None
    D: np.ndarray | None = None
    error_cov: np.ndarray | None = None
    spread: np.ndarray | None = None

    def zeros(self: P) -> P:
        """A gradient of zeros with the shapes of these parameters."""
        arrays = {name: value for name, value in vars(self).items() if value is not None}
        return replace(self, **{name: np.zeros_like(value) for name, value in arrays.items()})


@dataclass(frozen=True)
class FactorParams(SelectionParams):
    """Parameters of model b, which has loadings `tau`, (K,)."""

    tau: np.ndarray = field(kw_only=True)


@dataclass(frozen=True)
class CrossedParams(FactorParams):
    """Parameters of model b with effects of outcomes in batches and of samples, whose deviations are `spread`, (2,)."""

    spread: np.ndarray = field(kw_only=True)


@dataclass(frozen=True)
class ErrorParams(SelectionParams):
    """Parameters of model e, which has `D`, (q,), and `error_cov`, (K, K): NaN where a point has none."""

    D: np.ndarray = field(kw_only=True)
    error_cov: np.ndarray = field(kw_only=True)


class BetaLikelihood(Protocol):
    """A likelihood that gives the information of its fixed effects, as the restricted likelihood asks for it."""

    slices: dict[str, slice]
    part: MechanismPart
    size: int

    def beta_information(self, theta: np.ndarray) -> np.ndarray: ...


class SelectionLikelihood(Protocol[P]):
    """One selection model on one data set, as the maximisers see it.

    ``theta`` is the unconstrained vector: fixed effects, covariance part, logarithms of variances, mechanism.
    `group` is the variance group of every row (N,).
    """

    data: SelectionData
    group: np.ndarray
    slices: dict[str, slice]
    part: MechanismPart
    size: int

    units: Units

    def start(self) -> np.ndarray: ...
    def starts(self) -> list[np.ndarray]: ...
    def reflections(self, theta: np.ndarray) -> list[np.ndarray]: ...
    def with_beta_information(self) -> BetaLikelihood: ...
    def evaluate(self, theta: np.ndarray) -> tuple[float, P | None]: ...
    def value_and_score(self, theta: np.ndarray) -> tuple[float, np.ndarray]: ...
    def metric(self, theta: np.ndarray) -> np.ndarray: ...
    def diverged(self, theta: np.ndarray) -> Status | None: ...
    def params(self, theta: np.ndarray) -> P: ...
    def theta(self, params: P) -> np.ndarray: ...
    def chain(self, theta: np.ndarray, gradient: P) -> np.ndarray: ...


class NaturalLikelihood(Generic[P]):
    """What follows from `evaluate`, which works in natural parameters, and from `chain`."""

    def evaluate(self, theta: np.ndarray) -> tuple[float, P | None]:
        """Log-likelihood and its gradient over the natural parameters; (-inf, None) outside the domain."""
        raise NotImplementedError

    def chain(self, theta: np.ndarray, gradient: P) -> np.ndarray:
        """Gradient over theta from a gradient over natural parameters."""
        raise NotImplementedError

    def reflections(self, theta: np.ndarray) -> list[np.ndarray]:
        """Starts that a maximum suggests: other signs of weak loadings, hardly any random effect; none here."""
        return []

    def value_and_score(self, theta: np.ndarray) -> tuple[float, np.ndarray]:
        """Log-likelihood and its gradient over theta."""
        value, gradient = self.evaluate(theta)
        return value, (np.zeros_like(theta) if gradient is None else self.chain(theta, gradient))

    def gradient(self, theta: np.ndarray) -> P:
        """Gradient over the natural parameters at a point of their domain.

        Raises
        ------
        ValueError
            Outside of it.
        """
        gradient = self.evaluate(theta)[1]
        if gradient is None:
            raise ValueError("The point lies outside the domain of the likelihood.")
        return gradient


def variance_groups(data: SelectionData, first_sample_variance: bool) -> tuple[np.ndarray, np.ndarray]:
    """Variance group of every row (N,) and indicator columns of the groups (N, g)."""
    group = np.where(data.first, 0, 1) if first_sample_variance else np.zeros(data.n_rows, dtype=int)
    return group, (group[:, None] == np.arange(1 + first_sample_variance)).astype(float)


def least_squares(data: SelectionData) -> tuple[np.ndarray, np.ndarray]:
    """Ordinary least squares on the observed entries: coefficients (p,), residuals (N, K), zero where missing."""
    seen = data.observed
    beta = np.linalg.lstsq(data.X[seen], data.Y[seen], rcond=None)[0]
    return beta, np.where(seen, data.Y - data.X @ beta, 0.0)
