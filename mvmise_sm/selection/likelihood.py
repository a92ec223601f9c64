"""What both selection models share: parameters, the observed-block term and the interface of a likelihood."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np

from mvmise_sm.selection.data import SelectionData
from mvmise_sm.selection.mechanism import MECHANISMS, Mechanism, log_seen

# steps beyond exp(+-60) leave the range where squares and products are safe
MAX_LOG_VARIANCE = 60.0
UNCAPPED_DIVERGES = (
    "the likelihood of the uncapped mechanism diverges: it gives missing blocks a probability above one and has no "
    "maximum near the start"
)
SINGULAR_ERRORS = (
    "the error covariance becomes singular: too few samples have all outcomes, so the likelihood has no maximum; use "
    "error_penalty or fewer outcomes"
)
THRESHOLD = (
    "the mechanism's slope runs to infinity: a block is missing exactly when its mean is beyond a threshold, as far as "
    "the data can tell; mechanism_prior='weak' gives a finite estimate"
)
SATURATED = (
    "the mechanism is saturated: most of the missing blocks are missing with probability one, where the "
    "marginal-product likelihood does not hold; mechanism_prior='weak' keeps the fit away from there"
)
# slope in units of one over the spread of the block means beyond which the mechanism is a step
MAX_SLOPE = 30.0
PHI_NAMES = ("Intercept", "y", "covariate")


@dataclass(frozen=True)
class SelectionParams:
    """Parameters on their natural scale; also the gradient of a function of them.

    Attributes
    ----------
    beta : ndarray, (p,)
    sigma2 : ndarray, (1,) or (2,)
        Error variance of a sample; of the first samples and of the others when they differ. Fixed at one (the first
        entry) in model e.
    phi : ndarray, (3,)
        Mechanism; elements that are not in the model are zero.
    tau : ndarray, (K,), or None
        Loadings of model b.
    D : ndarray, (q,), or None
        Random-effect variances of model e.
    error_cov : ndarray, (K, K), or None
        Error covariance of model e.
    """

    beta: np.ndarray
    sigma2: np.ndarray
    phi: np.ndarray
    tau: np.ndarray | None = None
    D: np.ndarray | None = None
    error_cov: np.ndarray | None = None

    def zeros(self) -> SelectionParams:
        """A gradient of zeros with the shapes of these parameters."""
        arrays = {name: value for name, value in vars(self).items() if value is not None}
        return replace(self, **{name: np.zeros_like(value) for name, value in arrays.items()})


class SelectionLikelihood(Protocol):
    """One selection model on one data set, as the maximisers see it.

    ``theta`` is the unconstrained vector: fixed effects, covariance part, logarithms of variances, mechanism.
    """

    data: SelectionData
    slices: dict[str, slice]
    part: MechanismPart
    size: int

    def start(self) -> np.ndarray: ...
    def evaluate(self, theta: np.ndarray) -> tuple[float, SelectionParams | None]: ...
    def value_and_score(self, theta: np.ndarray) -> tuple[float, np.ndarray]: ...
    def metric(self, theta: np.ndarray) -> np.ndarray: ...
    def diverged(self, theta: np.ndarray) -> str: ...
    def params(self, theta: np.ndarray) -> SelectionParams: ...
    def chain(self, theta: np.ndarray, gradient: SelectionParams) -> np.ndarray: ...


@dataclass(frozen=True)
class MechanismPart:
    """The mechanism's terms of one data set: which elements of phi are free, and the blocks that were seen.

    Attributes
    ----------
    mechanism : Mechanism
    free : ndarray of int
        Free elements of phi (0 intercept, 1 outcome, 2 covariate); empty when no block is missing.
    seen : ndarray, (m, 3)
        Intercept, outcome mean and covariate mean of every observed block.
    """

    mechanism: Mechanism
    free: np.ndarray
    seen: np.ndarray

    def expand(self, free_phi: np.ndarray) -> np.ndarray:
        """Fill the free elements into a vector of three."""
        phi = np.zeros(3)
        phi[self.free] = free_phi
        return phi

    def is_threshold(self, free_phi: np.ndarray) -> bool:
        """Whether the mechanism has become a step function of the block mean."""
        return bool(self.free.size) and abs(self.expand(free_phi)[1]) * self.spread > MAX_SLOPE

    @cached_property
    def spread(self) -> float:
        """Standard deviation of the observed block means."""
        return float(np.std(self.seen[:, 1]))

    def slopes(self) -> tuple[float, ...]:
        """Slopes of either sign to start from, one over the spread of the block means; none without a slope."""
        spread = self.spread if 1 in self.free else 0.0
        return (-1.0 / spread, 1.0 / spread) if spread > 0 else ()

    def feasible(self, free_phi: np.ndarray, slope: float) -> np.ndarray:
        """Move the slope around the mean block and keep the probabilities of the observed blocks below one."""
        out = free_phi.copy()
        position = int(np.flatnonzero(self.free == 1)[0])
        out[0] += (out[position] - slope) * self.seen[:, 1].mean()
        out[position] = slope
        out[0] -= max(float((self.seen @ self.expand(out)).max()) + 0.05, 0.0)
        return out

    def observed(self, phi: np.ndarray) -> tuple[float, np.ndarray]:
        """Log-probability that the observed blocks were seen, and its gradient in phi, (3,)."""
        if not self.free.size:
            return 0.0, np.zeros(3)
        value, slope = log_seen(self.seen @ phi)
        return float(value.sum()), slope @ self.seen

    def information(self, phi: np.ndarray, missing: np.ndarray) -> np.ndarray:
        """Approximate information of the free elements, from working values of the missing blocks, (f, f)."""
        rows = np.vstack([self.seen, missing])[:, self.free]
        odds = np.exp(np.minimum(rows @ phi[self.free], -0.2))
        return (rows * (odds / (1.0 - odds))[:, None]).T @ rows


def mechanism_part(data: SelectionData, mechanism: str, missing_y: bool) -> MechanismPart:
    """Collect the mechanism's side of a likelihood.

    Without a missing block the mechanism has no finite estimate and is left out.
    """
    if mechanism not in MECHANISMS:
        raise ValueError(f"mechanism is {mechanism!r}; allowed are {sorted(MECHANISMS)}.")
    blocks = data.observed_blocks
    free = (
        np.flatnonzero([True, missing_y, data.cov_miss is not None]) if len(data.missing_blocks) else np.array([], int)
    )
    seen = np.column_stack([np.ones(len(blocks)), blocks.mean, blocks.covariate])
    return MechanismPart(MECHANISMS[mechanism], free, seen)


def start_phi(part: MechanismPart, data: SelectionData) -> np.ndarray:
    """The mechanism's start: a constant rate, feasible for every data set, (free,)."""
    rate = len(data.missing_blocks) / data.block_missing.size
    start = np.zeros(part.free.size)
    if start.size:
        start[0] = np.log(rate)
    return start


def variance_groups(data: SelectionData, first_sample_variance: bool) -> tuple[np.ndarray, np.ndarray]:
    """Variance group of every row (N,) and indicator columns of the groups (N, g)."""
    group = np.where(data.first, 0, 1) if first_sample_variance else np.zeros(data.n_rows, dtype=int)
    return group, (group[:, None] == np.arange(1 + first_sample_variance)).astype(float)


def least_squares(data: SelectionData) -> tuple[np.ndarray, np.ndarray]:
    """Ordinary least squares on the observed entries: coefficients (p,), residuals (N, K), zero where missing."""
    seen = data.observed
    beta = np.linalg.lstsq(data.X[seen], data.Y[seen], rcond=None)[0]
    return beta, np.where(seen, data.Y - data.X @ beta, 0.0)
