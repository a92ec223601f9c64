"""Model e with a graphical lasso on the error precision, and the choice of its penalty.

The penalised likelihood ``l - N/2 sum_kl lambda w_k w_l |Theta_kl|`` (k != l, w the residual spread of an outcome, so
that lambda does not depend on units) is smooth once the signs of the elements are known. It is maximised over the
non-zero elements by the same maximiser as everything else; elements enter and leave by the optimality conditions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from mvmise_sm.selection.covariance import SparsePrecision
from mvmise_sm.selection.data import SelectionData
from mvmise_sm.selection.error import ErrorLikelihood
from mvmise_sm.selection.glasso import lasso_precision
from mvmise_sm.selection.likelihood import ErrorParams, least_squares
from mvmise_sm.selection.maximise import Maximum, maximise
from mvmise_sm.selection.objective import PenalisedObjective, Penalty
from mvmise_sm.selection.status import Status

MAX_ROUNDS = 40
KKT_SLACK = 1e-4

BuildLikelihood = Callable[[SparsePrecision], ErrorLikelihood]


@dataclass(frozen=True)
class SparseFit:
    """Fit of model e with the lasso.

    Attributes
    ----------
    objective : OrthantObjective
        The penalised objective with the signs of the precision elements held.
    maximum : Maximum
        ``value`` is the penalised objective; its information belongs to the smooth part.
    params : ErrorParams
    penalty : float
    llf : float
        Log-likelihood without penalty or priors.
    n_edges : int
        Non-zero off-diagonal pairs of the precision.
    """

    objective: OrthantObjective
    maximum: Maximum
    params: ErrorParams
    penalty: float
    llf: float
    n_edges: int

    @property
    def likelihood(self) -> ErrorLikelihood:
        """The likelihood in coordinates of the non-zero precision elements."""
        return self.objective.likelihood

    @property
    def n_params(self) -> int:
        """Free parameters, zero precision elements not counted."""
        return self.likelihood.size

    def criterion(self, name: str, gamma: float = 0.5) -> float:
        """AIC, BIC or extended BIC (Foygel and Drton 2010), with the number of samples as sample size."""
        n_rows, K = self.likelihood.data.Y.shape
        if name == "aic":
            return -2.0 * self.llf + 2.0 * self.n_params
        bic = -2.0 * self.llf + np.log(n_rows) * self.n_params
        if name == "bic":
            return bic
        if name == "ebic":
            return bic + 4.0 * gamma * self.n_edges * np.log(K)
        raise ValueError(f"criterion is {name!r}; allowed are 'aic', 'bic' and 'ebic'.")


def error_spread(data: SelectionData) -> np.ndarray:
    """Residual standard deviation of every outcome within its clusters, the unit of its precision, (K,)."""
    seen = data.observed
    _, resid = least_squares(data)
    count = data.cluster_sum(seen.astype(float))
    mean = data.cluster_sum(resid) / np.maximum(count, 1.0)
    own = np.where(seen, resid - mean[data.cluster], 0.0)
    degrees = count.sum(axis=0) - (count > 0).sum(axis=0)
    total = (resid**2).sum(axis=0) / count.sum(axis=0)
    # clusters of one sample say nothing about what is within them
    within = np.where(degrees > 1, (own**2).sum(axis=0) / np.maximum(degrees, 1.0), total)
    return np.sqrt(np.maximum(within, 1e-3 * total))


def fit_sparse(
    build: BuildLikelihood,
    n_outcomes: int,
    penalty: float,
    *,
    penalties: tuple[Penalty, ...] = (),
    start: ErrorParams | None = None,
    maxiter: int = 200,
    information: bool = True,
) -> SparseFit:
    """Maximise the lasso-penalised likelihood.

    Parameters
    ----------
    build : callable
        Likelihood for a pattern of precision elements.
    n_outcomes : int
    penalty : float
        lambda, in units of a standardised precision.
    penalties : tuple of Penalty, optional
        Priors.
    start : ErrorParams, optional
        Warm start, for example the fit at a larger penalty.
    maxiter : int, optional
        Quasi-Newton iterations of every round.
    information : bool, optional
        Compute the observed information of the last round.
    """
    if start is None:
        start = _diagonal_start(build, n_outcomes, penalties, maxiter)
    probe = build(SparsePrecision(np.zeros(start.error_cov.shape, dtype=bool)))
    spread = error_spread(probe.data)
    bound = penalty * probe.data.n_rows * np.outer(spread, spread)
    theta_matrix, params = _expected_lasso(build, start, bound), start
    sign = np.sign(theta_matrix) * (1.0 - np.eye(len(spread)))
    params = replace(params, error_cov=np.linalg.inv(theta_matrix))
    seen: set[bytes] = set()
    history: list[float] = []
    settled = False
    for _ in range(MAX_ROUNDS):
        pattern = SparsePrecision(sign != 0.0)
        likelihood = build(pattern)
        objective = OrthantObjective(likelihood, penalties, sign=sign, bound=bound)
        point = likelihood.theta(params)
        how: dict[str, Any] = {"maxiter": maxiter, "information": False, "diverged": likelihood.diverged, "tol": 1e-8}
        maximum = maximise(objective, point, likelihood.metric(point), **how)
        if not maximum.converged:
            maximum = maximise(replace(objective, kinked=True), point, likelihood.metric(point), **how)
        history += list(maximum.history)
        params = likelihood.params(maximum.theta)
        precision = pattern.precision(maximum.theta[likelihood.slices["error_cov"]])
        new_sign = _next_signs(likelihood, maximum.theta, precision, sign, bound)
        settled = np.array_equal(new_sign, sign)
        if settled:
            break
        key = new_sign.tobytes()
        if key in seen:
            # a cycle: only let elements leave from here on, which ends
            new_sign = np.where(new_sign == sign, sign, 0.0)
            settled = np.array_equal(new_sign, sign)
            if settled:
                break
        seen.add(key)
        params = replace(params, error_cov=_restricted(precision, new_sign))
        sign = new_sign
    if information:
        lasso = replace(objective, kinked=True)
        maximum = maximise(lasso, maximum.theta, likelihood.metric(maximum.theta), maxiter=0, newton=maxiter)
    maximum = replace(
        maximum,
        history=np.array(history),
        n_iter=len(history),
        converged=maximum.converged and settled,
        status=maximum.status if settled else Status.PATTERN,
    )
    return SparseFit(
        objective,
        maximum,
        likelihood.params(maximum.theta),
        penalty,
        likelihood.value_and_score(maximum.theta)[0],
        int(np.tril(sign != 0.0, -1).sum()),
    )


def penalty_path(
    build: BuildLikelihood, n_outcomes: int, *, n_penalties: int = 15, ratio: float = 0.02, **options: Any
) -> list[SparseFit]:
    """Fits from the smallest penalty without any edge down to `ratio` times it, each started at the one before.

    Parameters
    ----------
    build : callable
    n_outcomes : int
    n_penalties : int, optional
    ratio : float, optional
    **options
        Passed to :func:`fit_sparse`.
    """
    start = _diagonal_start(build, n_outcomes, options.get("penalties", ()), options.get("maxiter", 200))
    likelihood = build(SparsePrecision(np.zeros(start.error_cov.shape, dtype=bool)))
    slope = _precision_slope(likelihood, likelihood.theta(start))
    spread = error_spread(likelihood.data)
    top = float((np.abs(slope) / np.outer(spread, spread))[np.tril_indices(len(spread), -1)].max())
    grid = top / likelihood.data.n_rows * np.geomspace(1.0, ratio, n_penalties)
    fits: list[SparseFit] = []
    for penalty in grid:
        fits.append(fit_sparse(build, n_outcomes, float(penalty), start=start, **options))
        start = fits[-1].params
    return fits


@dataclass(frozen=True, eq=False)
class OrthantObjective(PenalisedObjective[ErrorParams]):
    """The objective with the signs of the precision elements held: the lasso is linear there.

    Attributes
    ----------
    likelihood : ErrorLikelihood
        In coordinates of the elements whose sign is not zero.
    penalties : tuple of Penalty
        Priors.
    sign, bound : ndarray, (K, K)
        Signs of the elements, and what the lasso takes from each per unit.
    kinked : bool
        Whether an element that has crossed zero pays there too. Without, the objective is smooth and its maximum soon
        found, but it can grow without bound behind zero.
    """

    likelihood: ErrorLikelihood
    sign: np.ndarray = field(kw_only=True)
    bound: np.ndarray = field(kw_only=True)
    kinked: bool = field(kw_only=True, default=False)

    @cached_property
    def _slope(self) -> np.ndarray:
        pattern = SparsePrecision(self.sign != 0.0)
        return (self.sign * self.bound)[pattern.rows, pattern.columns]

    def __call__(self, theta: np.ndarray) -> tuple[float, np.ndarray]:
        value, score = super().__call__(theta)
        cut = self.likelihood.slices["error_cov"]
        score = score.copy()
        slope = self._slope
        if self.kinked:
            slope = np.where(slope * theta[cut] < 0.0, -slope, slope)
        score[cut] -= slope
        return value - float(slope @ theta[cut]), score


def _diagonal_start(
    build: BuildLikelihood, n_outcomes: int, penalties: tuple[Penalty, ...], maxiter: int
) -> ErrorParams:
    """The fit with uncorrelated errors, where every path begins."""
    likelihood = build(SparsePrecision(np.zeros((n_outcomes, n_outcomes), dtype=bool)))
    point = likelihood.start()
    objective = PenalisedObjective(likelihood, penalties)
    maximum = maximise(objective, point, likelihood.metric(point), maxiter=maxiter, information=False)
    return likelihood.params(maximum.theta)


def _precision_slope(likelihood: ErrorLikelihood, theta: np.ndarray) -> np.ndarray:
    """Derivative of the log-likelihood in every pair of precision elements, free or not, (K, K)."""
    Sigma = likelihood.params(theta).error_cov
    return -2.0 * Sigma @ likelihood.gradient(theta).error_cov @ Sigma


def _expected_lasso(build: BuildLikelihood, params: ErrorParams, bound: np.ndarray) -> np.ndarray:
    """One penalised M-step from a point: the lasso of the expected error covariance, (K, K)."""
    likelihood = build(SparsePrecision(np.ones(bound.shape, dtype=bool)))
    gradient = likelihood.gradient(likelihood.theta(params))
    Sigma, n_rows = params.error_cov, likelihood.data.n_rows
    moment = Sigma + 2.0 * Sigma @ gradient.error_cov @ Sigma / n_rows
    return lasso_precision(0.5 * (moment + moment.T), bound / n_rows)


def _next_signs(
    likelihood: ErrorLikelihood, theta: np.ndarray, precision: np.ndarray, sign: np.ndarray, bound: np.ndarray
) -> np.ndarray:
    """Drop elements that crossed zero; let in those whose slope exceeds the penalty."""
    slope = _precision_slope(likelihood, theta)
    kept = np.where((sign != 0.0) & (np.sign(precision) == sign), sign, 0.0)
    enters = (sign == 0.0) & (np.abs(slope) > bound * (1.0 + KKT_SLACK) + 1e-7)
    np.fill_diagonal(enters, False)
    return np.where(enters, np.sign(slope), kept)


def _restricted(precision: np.ndarray, sign: np.ndarray) -> np.ndarray:
    """Covariance of the precision cut to a pattern, with a diagonal lifted until it is positive definite."""
    cut = precision * ((sign != 0.0) | np.eye(len(sign), dtype=bool))
    unit = 1.0 / np.sqrt(np.outer(np.diag(cut), np.diag(cut)))
    while np.linalg.eigvalsh(cut * unit).min() <= 1e-6:
        np.fill_diagonal(cut, 1.05 * np.diag(cut))
    return np.linalg.inv(cut)
