"""The profiled deviance of a linear mixed model, and everything that is asked of it at one theta."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mvmise_sm.core.criteria.linear_objective import LinearObjective
from mvmise_sm.core.criteria.solution import Evaluation, PLSSolution
from mvmise_sm.core.uncertainty.kenward_roger import KenwardRoger, kenward_roger
from mvmise_sm.core.uncertainty.posterior import conditional_modes, level_covariances, new_row_variance
from mvmise_sm.core.uncertainty.profile_target import LinearTarget
from mvmise_sm.core.uncertainty.second_order import SecondOrder, gram_slopes, second_order

__all__ = ["Evaluation", "PLSSolution", "ProfiledDeviance"]


class ProfiledDeviance(LinearObjective):
    """-2 log L or the REML criterion as a function of theta, with the priors' penalty.

    Parameters
    ----------
    y : ndarray
        Response (n,).
    X : ndarray
        Fixed-effects design of full column rank (n, p).
    random : RandomEffects
    priors : callable, optional
        ``priors(nobs, k_fe, reml, a, b0) -> InnerProblem``; no priors by default.
    reml : bool, optional
    weights : ndarray, optional
        Positive prior weights (n,); the residual variance of a row is sigma2 / weight.
    offset : ndarray, optional
        (n,).
    logdet : LogDeterminant, optional
        Whether log|M| of many crossed effects may be estimated; exact by default.

    Raises
    ------
    ProblemTooLargeError
        If the random effects fit no elimination.
    """

    def solve(self, theta: np.ndarray) -> PLSSolution:
        """Solution at the user's theta.

        Returns
        -------
        PLSSolution
        """
        theta = np.asarray(theta, dtype=float)
        working = self.working_theta(theta)
        factorization, inner, terms, value = self.solution_at(working)
        self._inner.check(self.space.user_sigmas(terms) if self._inner.uses_sigmas else None)
        basis = self.basis
        return PLSSolution(
            theta=theta,
            beta=basis.a @ inner.beta + self.origin,
            b=conditional_modes(self.layout, factorization, terms, inner.beta),
            sigma2=inner.sigma2,
            cov_beta=basis.a @ inner.cov_beta @ basis.a.T,
            logdet_m=factorization.logdet,
            logdet_x=inner.logdet_x,
            r2=inner.r2,
            nu=inner.nu,
            criterion=value - inner.penalty,
            penalty=inner.penalty,
        )

    def random_effects_at(self, theta: np.ndarray, beta: np.ndarray) -> tuple[np.ndarray, ...]:
        """E(b | y, theta, beta) at the user's theta (k_theta,) and beta (p,), one (n_levels, q) per term."""
        factorization, _, terms, _ = self.eliminated(self.working_theta(np.asarray(theta, dtype=float)))
        return conditional_modes(self.layout, factorization, terms, np.linalg.solve(self.basis.a, beta - self.origin))

    def evaluate_at(
        self, theta: np.ndarray, beta: np.ndarray, sigma2: float | None = None
    ) -> tuple[float, float, float]:
        """-2 log L, penalty and sigma2 at given parameters; sigma2 is profiled if None.

        Parameters
        ----------
        theta, beta : array_like
            User's theta (k_theta,) and fixed effects (p,).
        sigma2 : float, optional

        Returns
        -------
        tuple of float

        Raises
        ------
        ValueError
            For the REML criterion, which has no beta.
        """
        if self.reml:
            raise ValueError("the REML criterion integrates over the fixed effects; take criterion(reml=False)")
        factorization, _, terms, _ = self.eliminated(self.working_theta(np.asarray(theta, dtype=float)))
        sigmas = self.space.user_sigmas(terms)
        working = np.linalg.solve(self.basis.a, np.asarray(beta, dtype=float) - self.origin)
        value, penalty, sigma2 = self._inner.evaluate(factorization.gram, sigmas, working, sigma2)
        return factorization.logdet + value + self.constant, penalty, sigma2

    def conditional_cov(self, theta: np.ndarray) -> tuple[np.ndarray, ...]:
        """Var(b | y, beta) / sigma2 by level.

        Returns
        -------
        tuple of ndarray
            One (n_levels, q_k, q_k) per grouping factor in the order of ``random.factors``; columns of all terms on
            the factor.
        """
        factorization = self.eliminated(self.working_theta(np.asarray(theta, dtype=float)))[0]
        return level_covariances(self.layout, factorization)

    def prediction_variance(
        self, theta: np.ndarray, exog: np.ndarray, rows: list[tuple[np.ndarray, np.ndarray]]
    ) -> np.ndarray:
        """Var(x'(beta_hat - beta) + z'(b_hat - b)) / sigma2 of new rows.

        Parameters
        ----------
        theta : ndarray
            User's theta (k_theta,).
        exog : ndarray
            (m, p).
        rows : sequence of (ndarray, ndarray)
            Per term: level of every row (m,), -1 for a level without data, and columns (m, q). Terms on one factor
            have the same levels. A term left out of the prediction has columns of zeros.

        Returns
        -------
        ndarray
            (m,); a level without data contributes its marginal variance z'Sigma z.
        """
        factorization, inner, terms, _ = self.eliminated(self.working_theta(np.asarray(theta, dtype=float)))
        x = np.asarray(exog, dtype=float) @ self.basis.a
        solves = self.probes is not None
        return new_row_variance(self.layout, self.system, factorization, terms, inner.cov_beta, x, rows, solves)

    def profile_target(self, priors: Callable[..., Any] | None = None) -> LinearTarget:
        """The objective whose profiles are traced, see `LinearTarget`."""
        return LinearTarget(self, priors)

    def second_order(self, theta: np.ndarray) -> SecondOrder:
        """Uncertainty of (theta, log sigma2) at a working optimum, see `second_order`."""
        k = self.k_fe
        return second_order(self, theta, gram_slopes(self, theta)[:, :k, :k])

    def kenward_roger(self, theta: np.ndarray) -> KenwardRoger:
        """Kenward and Roger's adjusted covariance at a working optimum, see `kenward_roger`."""
        return kenward_roger(self, theta)
