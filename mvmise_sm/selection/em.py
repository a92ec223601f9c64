"""Expectation-maximisation for both models over one driver.

By Fisher's identity an M-step is a scaled score step, so every update below is written with the observed-data score
and the complete-data information. Blocks of parameters take turns with a fresh E-step in between (multi-cycle ECM), and
the mechanism maximises the observed-data likelihood itself (ECME, Liu and Rubin 1994, Biometrika 81, 633-648). A cycle
that does not raise the objective is shortened, which happens only with priors and with the marginal-product likelihood
of model e.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, singledispatch

import numpy as np
from scipy import linalg

from mvmise_sm.core.optimise.steps import backtrack
from mvmise_sm.selection.covariance import LogCholesky
from mvmise_sm.selection.error import ErrorLikelihood
from mvmise_sm.selection.factor import FactorLikelihood
from mvmise_sm.selection.likelihood import SelectionLikelihood
from mvmise_sm.selection.maximise import Maximum, maximise, observed_information
from mvmise_sm.selection.objective import PenalisedObjective
from mvmise_sm.selection.status import Status

Update = Callable[[np.ndarray], np.ndarray]
MAX_HALVINGS = 30


def run_em(
    objective: PenalisedObjective,
    start: np.ndarray,
    *,
    maxiter: int = 5000,
    tol: float = 1e-9,
    information: bool = True,
) -> Maximum:
    """Maximise by EM; the objective never decreases.

    Parameters
    ----------
    objective : PenalisedObjective
    start : ndarray, (k,)
    maxiter : int, optional
        Full iterations, each a round of all blocks.
    tol : float, optional
        Stop when the gain still to come, extrapolated geometrically (Aitken), is below it.
    information : bool, optional
        Compute the observed information at the end.

    Returns
    -------
    Maximum
    """
    likelihood = objective.likelihood
    free = np.ones(start.size, bool)
    theta = np.array(start, dtype=float)
    value = objective(theta)[0]
    history = [value]
    converged, status, gain = False, Status.MAXITER, np.inf
    cycles = em_cycles(objective)
    for _ in range(maxiter):
        for cycle in cycles:
            theta, value = _guarded(objective, theta, value, cycle(theta))
        history.append(value)
        before, gain = gain, history[-1] - history[-2]
        rate = min(max(gain / before if before > 0 else 0.0, 0.0), 0.9999)
        if gain / (1.0 - rate) <= tol:
            converged, status = True, Status.CONVERGED
            break
        reason = likelihood.diverged(theta)
        if reason is not None:
            status = reason
            break
    value, score = objective(theta)
    info = None
    if information and converged:
        scale = 1.0 / np.sqrt(np.maximum(np.diag(likelihood.metric(theta)), 1e-12))
        info = observed_information(objective, theta, scale, free)
        converged = bool(np.linalg.eigvalsh(info).min() > 0)
        status = status if converged else Status.NOT_DEFINITE
    return Maximum(theta, value, score, info, converged, len(history) - 1, np.array(history), status, free)


@dataclass(frozen=True)
class Block:
    """Parameters that one M-step updates together.

    Attributes
    ----------
    index : ndarray of int
        Their positions in theta.
    propose : callable
        ``theta -> theta``: the exact M-step without a prior.
    information : callable
        ``theta -> ndarray (m, m)``: complete-data information of these parameters.
    """

    index: np.ndarray
    propose: Update
    information: Callable[[np.ndarray], np.ndarray]


def em_cycles(objective: PenalisedObjective) -> tuple[Update, ...]:
    """The blocks of one EM iteration, each a map from a point to its proposal."""
    likelihood = objective.likelihood
    blocks = em_blocks(likelihood)
    cycles = [partial(_penalised_step, objective, block) if objective.penalties else block.propose for block in blocks]
    if likelihood.slices["phi"].stop > likelihood.slices["phi"].start:
        cycles.append(partial(_mechanism, objective))
    return tuple(cycles)


def _guarded(
    objective: PenalisedObjective, theta: np.ndarray, value: float, proposal: np.ndarray
) -> tuple[np.ndarray, float]:
    found = backtrack(
        lambda point: objective(point)[0], theta, proposal - theta, lambda _, new: new >= value, tries=MAX_HALVINGS
    )
    return (theta, value) if found is None else found


def _penalised_step(objective: PenalisedObjective, block: Block, theta: np.ndarray) -> np.ndarray:
    """One Newton step on the complete-data objective plus log prior (EM gradient, Lange 1995, JRSS B 57, 425-437)."""
    index = block.index
    score = objective(theta)[1][index]
    curvature = block.information(theta)
    slope = objective.penalty(theta)[1][index]
    prior = np.empty_like(curvature)
    for row, position in enumerate(index):
        width = 1e-3 / np.sqrt(curvature[row, row])
        point = theta.copy()
        point[position] += width
        prior[row] = (objective.penalty(point)[1][index] - slope) / width
    values, vectors = np.linalg.eigh(0.5 * (prior + prior.T))
    out = theta.copy()
    out[index] += np.linalg.solve(curvature + (vectors * np.maximum(values, 0.0)) @ vectors.T, score)
    return out


def _mechanism(objective: PenalisedObjective, theta: np.ndarray) -> np.ndarray:
    """Maximise over phi with everything else fixed."""
    free = np.zeros(theta.size, bool)
    free[objective.likelihood.slices["phi"]] = True
    metric = objective.likelihood.metric(theta)
    return maximise(objective, theta, metric, free=free, maxiter=6, tol=1e-12, information=False).theta


def _positions(likelihood: SelectionLikelihood, *names: str) -> np.ndarray:
    everything = np.arange(likelihood.slices["phi"].stop)
    return np.concatenate([everything[likelihood.slices[name]] for name in names])


@singledispatch
def em_blocks(likelihood: SelectionLikelihood) -> tuple[Block, ...]:
    """The blocks of a kind of likelihood; kinds without any cannot be fitted by EM."""
    raise ValueError(f"EM is not available for {type(likelihood).__name__}.")


@em_blocks.register
def _factor_blocks(likelihood: FactorLikelihood) -> tuple[Block, ...]:
    mean = _positions(likelihood, "beta", "tau")
    variance = _positions(likelihood, "log_sigma2")

    def move_mean(theta: np.ndarray) -> np.ndarray:
        # weighted least squares with E[b], E[b^2] and the covariance of b with the missing outcomes
        return _scaled_step(likelihood, theta, mean, factor_information(likelihood, theta))

    def counts() -> np.ndarray:
        absent = likelihood.data.block_missing.sum(axis=1)[likelihood.data.cluster]
        return likelihood.n_seen + absent @ likelihood.indicator

    return (
        Block(mean, move_mean, partial(factor_information, likelihood)),
        Block(
            variance,
            partial(_variance_step, likelihood, variance, counts()),
            lambda theta: np.diag(0.5 * counts()),
        ),
    )


@em_blocks.register
def _error_blocks(likelihood: ErrorLikelihood) -> tuple[Block, ...]:
    if not isinstance(likelihood.coordinates, LogCholesky):
        raise ValueError("EM needs the unstructured error covariance; the lasso has its own algorithm.")
    data = likelihood.data
    mean = _positions(likelihood, "beta")
    covariance = _positions(likelihood, "delta", "error_cov")
    variance = _positions(likelihood, "log_sigma2")

    def mean_information(theta: np.ndarray) -> np.ndarray:
        params = likelihood.params(theta)
        weighted = np.linalg.inv(params.error_cov) @ data.X / params.sigma2[likelihood.group][:, None, None]
        return weighted.reshape(-1, mean.size).T @ likelihood.x_flat

    def covariance_information(theta: np.ndarray) -> np.ndarray:
        D = likelihood.params(theta).D
        own = likelihood.coordinates.metric(theta[likelihood.slices["error_cov"]], data.n_rows)
        return linalg.block_diag(np.diag(2.0 * data.n_clusters / np.maximum(D, 1e-12)), own)

    blocks = [
        Block(
            mean,
            lambda theta: _scaled_step(likelihood, theta, mean, mean_information(theta)),
            mean_information,
        ),
        Block(covariance, partial(_error_covariance_step, likelihood), covariance_information),
    ]
    if variance.size:
        count = likelihood.indicator[:, 1:].sum(axis=0) * data.n_outcomes
        step = partial(_variance_step, likelihood, variance, count)
        blocks.append(Block(variance, step, lambda theta: np.diag(0.5 * count)))
    return tuple(blocks)


def factor_information(likelihood: FactorLikelihood, theta: np.ndarray) -> np.ndarray:
    """Complete-data information of fixed effects and loadings of model b, (p + K, p + K)."""
    data = likelihood.data
    params, _, _, _, _, bh, P = likelihood.gaussian(theta)
    posterior = likelihood.posterior(params, bh, P)
    p, K = params.beta.size, params.tau.size
    complete = data.observed | data.block_missing[data.cluster]
    weight = complete / params.sigma2[likelihood.group][:, None]
    weighted = data.X * weight[:, :, None]
    out = np.zeros((p + K, p + K))
    out[:p, :p] = weighted.reshape(-1, p).T @ data.X.reshape(-1, p)
    out[:p, p:] = np.tensordot(posterior.b, data.cluster_sum(weighted), axes=1).T
    out[p:, :p] = out[:p, p:].T
    out[p:, p:] = np.diag(posterior.b2 @ data.cluster_sum(weight))
    return out


def _scaled_step(
    likelihood: ErrorLikelihood | FactorLikelihood, theta: np.ndarray, index: np.ndarray, information: np.ndarray
) -> np.ndarray:
    score = likelihood.value_and_score(theta)[1][index]
    out = theta.copy()
    out[index] += np.linalg.solve(information, score)
    return out


def _variance_step(
    likelihood: ErrorLikelihood | FactorLikelihood, index: np.ndarray, count: np.ndarray, theta: np.ndarray
) -> np.ndarray:
    """Average of the expected squared errors, written with the score of the log variance."""
    score = likelihood.value_and_score(theta)[1][index]
    out = theta.copy()
    out[index] += np.log1p(2.0 * score / count)
    return out


def _error_covariance_step(likelihood: ErrorLikelihood, theta: np.ndarray) -> np.ndarray:
    """Error covariance and random-effect variances: averages of posterior second moments."""
    cut = likelihood.slices
    gradient = likelihood.gradient(theta)
    params = likelihood.params(theta)
    D = params.D + 2.0 * params.D**2 * gradient.D / likelihood.data.n_clusters
    Sigma = params.error_cov
    Sigma = Sigma + 2.0 * Sigma @ gradient.error_cov @ Sigma / likelihood.data.n_rows
    out = theta.copy()
    out[cut["delta"]] = np.sqrt(np.maximum(D, 0.0)) * np.where(theta[cut["delta"]] < 0, -1.0, 1.0)
    out[cut["error_cov"]] = likelihood.coordinates.vector(0.5 * (Sigma + Sigma.T))
    return out
