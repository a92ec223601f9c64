"""The algorithm of the R package mvMISE 1.0, reproduced step by step.

It is not maximum likelihood: its stopping value is not the log-likelihood, the mechanism is refitted by a Poisson
regression, and model b (and model e with the lasso) has no fixed point. Use it to reproduce published numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np

from mvmise_sm.core.covariance.random_effects import GroupingFactor, RandomEffects, RandomTerm
from mvmise_sm.core.covariance.structures import Unstructured
from mvmise_sm.core.criteria.linear import ProfiledDeviance
from mvmise_sm.core.optimise.newton import minimize
from mvmise_sm.selection.data import SelectionData
from mvmise_sm.selection.likelihood import P

EPS = float(np.finfo(float).eps)

# what a model's M-step needs beside the expectations
Law = TypeVar("Law")


@dataclass(frozen=True)
class Expectation(Generic[Law]):
    """One E-step.

    Attributes
    ----------
    y : ndarray, (N, K)
        Outcomes with the missing blocks replaced by their expectations.
    missing_cov_sum : ndarray, (n_clusters,)
        Sum of all elements of the conditional covariance of the missing values.
    density : float
        ``-1/2 sum(log|V| + r'V^-1 r)`` over the observed values, without the constant.
    information : ndarray, (p, p)
        ``sum X'V^-1 X`` over the observed values.
    law : Law
        Whatever the model's M-step needs beyond that.
    """

    y: np.ndarray
    missing_cov_sum: np.ndarray
    density: float
    information: np.ndarray
    law: Law


@dataclass(frozen=True)
class MvmiseFit(Generic[P]):
    """What R's algorithm returns.

    Attributes
    ----------
    params : FactorParams or ErrorParams
        After the last M-step.
    previous : FactorParams or ErrorParams
        At the last E-step: where the stopping value, the covariance and the AIC belong.
    cov_beta : ndarray, (p, p)
        Inverse information of the last E-step, one M-step older than the parameters.
    loglikelihood : float
        R's stopping value at the last E-step; not a log-likelihood. In model e it contains a lasso penalty, even
        when the covariance is not penalised.
    history : ndarray
        Stopping value of every iteration.
    n_iter : int
    converged : bool
    aic : float
        R's AIC for the choice of the lasso penalty; NaN for model b.
    penalty : float
        Lasso penalty used; zero without.
    """

    params: P
    previous: P
    cov_beta: np.ndarray
    loglikelihood: float
    history: np.ndarray
    n_iter: int
    converged: bool
    aic: float = float("nan")
    penalty: float = 0.0


def run_mvmise(
    data: SelectionData,
    start: P,
    e_step: Callable[[P], Expectation[Law]],
    m_step: Callable[[P, Expectation[Law]], P],
    *,
    missing_y: bool,
    maxiter: int = 100,
    tol: float = 1e-3,
    penalty: Callable[[P], float] | None = None,
) -> MvmiseFit[P]:
    """Iterate R's E- and M-step until its stopping value changes by less than `tol`, relatively.

    Parameters
    ----------
    data : SelectionData
    start : FactorParams or ErrorParams
    e_step, m_step : callable
        The model's steps; the mechanism is updated here.
    missing_y : bool
        Whether the mechanism depends on the outcome.
    maxiter : int, optional
    tol : float, optional
    penalty : callable, optional
        Amount subtracted from the stopping value.
    """
    working = WorkingMechanism.build(data, missing_y)
    params, history, converged = start, [], False
    for _ in range(maxiter):
        previous = params
        expectation = e_step(params)
        value = expectation.density + working.stopping_terms(params.phi, expectation)
        history.append(value - (penalty(params) if penalty else 0.0))
        phi = working.update(params.phi, expectation.y)
        params = replace(m_step(params, expectation), phi=phi)
        if len(history) > 1 and abs(history[-1] - history[-2]) <= tol * abs(history[-2]):
            converged = True
            break
    return MvmiseFit(
        params=params,
        previous=previous,
        cov_beta=np.linalg.inv(expectation.information),
        loglikelihood=float(history[-1]),
        history=np.array(history),
        n_iter=len(history),
        converged=converged,
    )


@dataclass(frozen=True)
class WorkingMechanism:
    """The mechanism as R treats it.

    Attributes
    ----------
    data : SelectionData
    free : list of int
        Elements of phi that the Poisson regression estimates; empty when neither outcome nor covariate is used.
    regressor : ndarray, (n_clusters, K)
        Covariate means as the regression sees them: a common covariate's means arrive sorted by cluster name.
    cluster_mean : ndarray, (n_clusters,)
        Covariate mean of a cluster over everything, as the stopping value sees it.
    seen_cluster, seen_mean : ndarray, (m,)
        Cluster and mean of what the stopping value takes for the observed blocks.
    """

    data: SelectionData
    free: list[int]
    regressor: np.ndarray
    cluster_mean: np.ndarray
    seen_cluster: np.ndarray
    seen_mean: np.ndarray

    @classmethod
    def build(cls, data: SelectionData, missing_y: bool) -> WorkingMechanism:
        has_cov = data.cov_miss is not None
        free = [0] * (missing_y or has_cov) + [1] * missing_y + [2] * has_cov
        covariate = np.zeros(data.Y.shape) if data.cov_miss is None else data.cov_miss
        means = data.cluster_mean(covariate)
        overall = means.mean(axis=1)
        # with one outcome R takes the covariate for an outcome-specific one, which is not misaligned
        if has_cov and data.common_cov and data.n_outcomes > 1:
            means = means[name_order(data.labels)]
        return cls(data, free, means, overall, *reshaped_blocks(data))

    def stopping_terms(self, phi: np.ndarray, expectation: Expectation) -> float:
        """The mechanism's part of R's stopping value; clusters with exactly one missing outcome add nothing."""
        data = self.data
        absent = ~data.observed
        count = data.cluster_sum(absent.sum(axis=1).astype(float)) / data.sizes
        eta = phi[0] + phi[1] * self.seen_mean + phi[2] * self.cluster_mean[self.seen_cluster]
        with np.errstate(over="ignore"):
            seen = np.log1p(-np.minimum(np.exp(eta), 1.0 - EPS))
        tilt = data.cluster_sum((expectation.y * absent).sum(axis=1))
        tilt = phi[1] * (tilt + phi[1] * expectation.missing_cov_sum / (2.0 * data.sizes)) / data.sizes
        terms = np.bincount(self.seen_cluster, seen, minlength=data.n_clusters)
        terms += count * (phi[0] + phi[2] * self.cluster_mean) + tilt
        return float(terms[count != 1].sum())

    def update(self, phi: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Poisson regression of the missing-block indicator; the old phi when it does not converge."""
        if not self.free:
            return phi
        block_mean = self.data.cluster_mean(y)
        columns = [np.ones(block_mean.size), block_mean.ravel(), self.regressor.ravel()]
        fitted = poisson_regression(
            self.data.block_missing.astype(float).ravel(), np.column_stack([columns[i] for i in self.free])
        )
        if fitted is None:
            return phi
        out = np.zeros(3)
        out[self.free] = fitted
        return out


def reshaped_blocks(data: SelectionData) -> tuple[np.ndarray, np.ndarray]:
    """Observed block means as R forms them: the observed values of a cluster refilled into columns of its size.

    With whole missing blocks only, these are the block means; sporadic missing values shift and recycle values.
    """
    clusters, means = [], []
    for cluster, (start, size) in enumerate(zip(data.starts, data.sizes, strict=True)):
        block = data.Y[start : start + size].T
        values = block[~np.isnan(block)]
        columns = -(-values.size // size)
        if columns:
            clusters += [cluster] * columns
            means.append(np.resize(values, (columns, size)).mean(axis=1))
    return np.array(clusters, dtype=int), np.concatenate(means)


def name_order(labels: tuple) -> np.ndarray:
    """Order of cluster names as text, whole numbers written without a decimal point as R does."""
    names = [str(int(x)) if isinstance(x, (float, np.floating)) and float(x).is_integer() else str(x) for x in labels]
    return np.argsort(np.array(names), kind="stable")


def poisson_regression(y: np.ndarray, X: np.ndarray, *, maxiter: int = 25, tol: float = 1e-8) -> np.ndarray | None:
    """Log-link Poisson regression by Fisher scoring with R's start and stopping rule; None without convergence."""
    mu = y + 0.1
    eta = np.log(mu)
    beta = None
    old = _poisson_deviance(y, mu)
    for _ in range(maxiter):
        root = np.sqrt(mu)
        beta = np.linalg.lstsq(X * root[:, None], (eta + (y - mu) / mu) * root, rcond=1e-11)[0]
        eta = X @ beta
        with np.errstate(over="ignore"):
            mu = np.maximum(np.exp(eta), EPS)
        deviance = _poisson_deviance(y, mu)
        if not np.isfinite(deviance):
            return None
        if abs(deviance - old) / (abs(deviance) + 0.1) < tol:
            return beta
        old = deviance
    return None


def _poisson_deviance(y: np.ndarray, mu: np.ndarray) -> float:
    # y log y is zero for the indicator's two values
    return float(2.0 * (-y * np.log(mu) - (y - mu)).sum())


@dataclass(frozen=True)
class InterceptFit:
    """The random-intercept model of stacked outcomes, ``y = X beta + b[cluster] + e``.

    Attributes
    ----------
    beta : ndarray, (p,)
    D, sigma2 : float
        Variance of the intercepts and of the errors.
    """

    beta: np.ndarray
    D: float
    sigma2: float

    @property
    def icc(self) -> float:
        """Intraclass correlation."""
        return self.D / (self.D + self.sigma2)


def random_intercept(data: SelectionData, seen: np.ndarray, *, reml: bool) -> InterceptFit:
    """Fit the random-intercept model to some of the values, R's start; dependent columns have a coefficient of zero.

    Parameters
    ----------
    data : SelectionData
    seen : ndarray of bool, (N, K)
        Values to use.
    reml : bool
    """
    X = data.X[seen]
    # a column that earlier ones determine has nothing left on the diagonal of the triangle
    diagonal = np.abs(np.diag(np.linalg.qr(X, mode="r")))
    columns = np.flatnonzero(diagonal > 1e-7 * np.linalg.norm(X, axis=0)[: diagonal.size])
    labels, codes = np.unique(np.broadcast_to(data.cluster[:, None], seen.shape)[seen], return_inverse=True)
    term = RandomTerm(GroupingFactor("cluster", codes, labels), (None,), ("Intercept",), Unstructured(1))
    criterion = ProfiledDeviance(data.Y[seen], np.ascontiguousarray(X[:, columns]), RandomEffects([term]), reml=reml)
    solution = criterion.solve(minimize(criterion).theta)
    beta = np.zeros(X.shape[1])
    beta[columns] = solution.beta
    return InterceptFit(beta, float(solution.theta[0] ** 2 * solution.sigma2), float(solution.sigma2))
