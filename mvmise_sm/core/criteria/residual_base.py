"""What the criteria of models with structured residuals have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np

from mvmise_sm.core.covariance.coordinates import ResponseOrigin, fixed_basis
from mvmise_sm.core.covariance.random_effects import RandomEffects
from mvmise_sm.core.covariance.residual import ResidualTerm
from mvmise_sm.core.covariance.theta import ThetaSpace
from mvmise_sm.core.criteria.inner_problem import FlatInnerProblem
from mvmise_sm.core.criteria.solution import Evaluation, PLSSolution
from mvmise_sm.core.elimination.layout import Layout
from mvmise_sm.core.uncertainty.kenward_roger import KenwardRoger
from mvmise_sm.core.uncertainty.profile_target import ResidualTarget
from mvmise_sm.core.uncertainty.residual_inference import residual_kenward_roger
from mvmise_sm.core.uncertainty.second_order import SecondOrder

__all__ = ["ResidualCriterion"]

# evaluations cost as much as there are patterns, so that passes over the rows are what a fit of many subjects pays
_SAMPLE = 3_000


class ResidualCriterion(ABC):
    """-2 log L or the REML criterion as a function of (theta of the random effects, phi of the residuals).

    Parameters
    ----------
    y : ndarray
        Response (n,).
    X : ndarray
        Fixed-effects design of full column rank (n, p).
    random : RandomEffects
        May have no terms.
    residual : ResidualTerm
    priors : callable, optional
        ``priors(nobs, k_fe, reml, a, b0) -> InnerProblem``; no priors by default.
    reml : bool, optional
    weights : ndarray, optional
        Positive prior weights (n,): the covariance of two rows is divided by the roots of their weights.
    offset : ndarray, optional
        (n,).
    """

    # log|M| is exact, and a start from probes has no meaning
    probes = None
    one_mode = learns_curvature = False
    factors_densely = False

    def __init__(
        self,
        y: np.ndarray,
        X: np.ndarray,
        random: RandomEffects,
        residual: ResidualTerm,
        *,
        priors: Callable[..., Any] | None = None,
        reml: bool = True,
        weights: np.ndarray | None = None,
        offset: np.ndarray | None = None,
    ) -> None:
        self.random, self.residual, self.reml = random, residual, reml
        self.nobs, self.k_fe = X.shape
        self.k_g = random.k_theta
        self.k_theta = self.k_g + residual.structure.k_phi
        self._X, self._weights, self._offset, self._priors = X, weights, offset, priors
        self.layout = Layout(random)
        self.space = ThetaSpace(random, self.layout)
        self.basis = fixed_basis(X, _SAMPLE)
        self._origin_of = ResponseOrigin(X, self.basis, _SAMPLE)
        self._take_response(y)
        self._set_inner()

    def _take_response(self, y: np.ndarray) -> None:
        """Keep what the likelihood needs of a response (nobs,)."""
        self._target = y if self._offset is None else y - self._offset
        self._working_origin = self._origin_of(self._target)
        self.origin = self._origin_of.user(self._working_origin)
        self._use_rows()
        del self._target

    def _rows(self, at: np.ndarray | slice) -> np.ndarray:
        """Rows [X y] (m, c) in working coordinates but for the scale of X, times the roots of the weights."""
        p = self.k_fe
        x, target = self._X[at], self._target[at]
        rows = np.empty((len(target), p + 1))
        self.basis.rows(x, 0, len(target), rows[:, :p])
        np.subtract(target, rows[:, :p] @ self._working_origin, out=rows[:, p])
        if self._weights is not None:
            rows *= np.sqrt(self._weights[at])[:, None]
        return rows

    @property
    def _scale(self) -> np.ndarray:
        """What the columns of `_rows` still lack (c,)."""
        return np.append(self.basis.scale, 1.0)

    batches_refits = False

    @abstractmethod
    def _use_rows(self) -> None:
        """Keep what the likelihood needs of `_rows`."""

    def _set_inner(self) -> None:
        self.constant = 0.0 if self._weights is None else -float(np.log(self._weights).sum())
        if self._priors is None:
            self._inner: Any = FlatInnerProblem(self.nobs, self.k_fe, self.reml, self.basis.logdet)
        else:
            self._inner = self._priors(self.nobs, self.k_fe, self.reml, self.basis.a, self.origin)
            marks = self._inner.repels, self.space.structures, self._inner.attracts
            self.space = ThetaSpace(self.random, self.layout, *marks)

    def _copy(self, **changes: Any) -> Any:
        out = object.__new__(type(self))
        out.__dict__.update({k: v for k, v in self.__dict__.items() if k not in ("_last", "_whitened")}, **changes)
        out._set_inner()
        return out

    def with_reml(self, reml: bool) -> Any:
        """The other criterion on the same rows."""
        return self if reml == self.reml else self._copy(reml=reml)

    def refitted(self, y: np.ndarray) -> Any:
        """The same model for another response (n,)."""
        out = object.__new__(type(self))
        out.__dict__.update({k: v for k, v in self.__dict__.items() if k not in ("_last", "_whitened")})
        out._take_response(y)
        out._set_inner()
        return out

    def reordered(self, theta: np.ndarray) -> Any:
        """The same criterion in the parametrisation that suits the working `theta`, or None where that is this one."""
        space = self.space.reordered(theta[: self.k_g]) if self.k_g else None
        return None if space is None else self._copy(space=space)

    def converted_from(self, other: Any, theta: np.ndarray) -> np.ndarray:
        """Working theta of this criterion for one of `other`, the same criterion reordered."""
        return self._joined(self.space.converted_from(other.space, theta[: self.k_g]), theta)

    def _joined(self, g: np.ndarray, theta: np.ndarray) -> np.ndarray:
        return np.concatenate([g, theta[self.k_g :]])

    # --- parameters

    @property
    def lower(self) -> np.ndarray:
        """Lower bounds (k_theta,)."""
        return np.append(self.space.lower, np.full(self.k_theta - self.k_g, -np.inf))

    @property
    def guarded(self) -> np.ndarray:
        """Elements that a prior keeps off their lower bound (k_theta,)."""
        return np.append(self.space.guarded, np.zeros(self.k_theta - self.k_g, dtype=bool))

    @property
    def penalised(self) -> bool:
        """Whether there are priors."""
        return self._priors is not None

    @property
    def sharp_theta(self) -> bool:
        """Whether a fit goes on until theta is sharp."""
        return self.penalised

    def working_theta(self, theta: np.ndarray) -> np.ndarray:
        """Parameters of the working coordinates for the user's."""
        theta = np.asarray(theta, dtype=float)
        return self._joined(self.space.working(theta[: self.k_g]), theta)

    def user_theta(self, theta: np.ndarray) -> np.ndarray:
        """The user's parameters for working ones."""
        return self._joined(self.space.user(theta[: self.k_g]), theta)

    def is_singular(self, theta: np.ndarray) -> bool:
        """Whether a covariance of random effects is on the boundary."""
        return self.space.is_singular(theta[: self.k_g])

    def hessian(self, evaluation: Evaluation) -> np.ndarray | None:
        """Second derivatives at an evaluated point where they are cheap; None: they are not."""
        return None

    def descent_points(self, evaluation: Evaluation, only_check: bool = False) -> list[np.ndarray]:
        """Working parameters off the boundary at which the objective may be lower."""
        if not self.k_g:
            return []
        found = self.space.descent_points(evaluation.theta[: self.k_g], evaluation.slopes, only_check)
        return [self._joined(g, evaluation.theta) for g in found]

    def search_directions(self, evaluation: Evaluation) -> list[np.ndarray]:
        """Directions along which another mode may lie: none."""
        return []

    def restart_points(self, evaluation: Evaluation) -> list[np.ndarray]:
        """Other starts for a fit that ended on the boundary."""
        return [self._joined(self.space.wide_start(), evaluation.theta)]

    def start(self) -> np.ndarray:
        """Moment estimates of the random effects, and residuals of equal variance."""
        return np.append(self._start_g(), self.residual.structure.start())

    def _start_g(self) -> np.ndarray:
        return np.zeros(0)

    def other_starts(self, theta: np.ndarray) -> list[np.ndarray]:
        """Further starts for structures whose likelihood has several optima."""
        out = [self._joined(g, theta) for g in self.space.other_starts(theta[: self.k_g])]
        structure = self.residual.structure
        if not self.k_g and not structure.multimodal:
            return out
        return out + [np.append(theta[: self.k_g], phi) for phi in structure.other_starts()]

    # --- values

    def __call__(self, theta: np.ndarray) -> float:
        """Objective at the user's parameters: criterion + penalty."""
        return self.value(self.working_theta(theta))

    def gradient(self, theta: np.ndarray) -> np.ndarray:
        """Gradient in the user's parameters (k_theta,)."""
        evaluation = self.evaluate(self.working_theta(theta))
        out = np.array(evaluation.gradient)
        for term, at, basis, slope in zip(
            self.random.terms, self.random.theta_slices, self.layout.term_bases, evaluation.slopes, strict=True
        ):
            d = basis.a_inv.T @ slope @ basis.a_inv
            out[at] = term.structure.pullback(theta[at], 2.0 * d @ term.structure.factor(theta[at]))
        return out

    @abstractmethod
    def _eliminate(self, theta: np.ndarray) -> tuple[Any, Any, list[np.ndarray], float]:
        """Factorisation, inner solution, relative factors of the terms, value."""

    def eliminated(self, theta: np.ndarray) -> tuple[Any, Any, list[np.ndarray], float]:
        """Factorisation and inner solution at working parameters; the last one is kept."""
        last = self.__dict__.get("_last")
        if last is None or not np.array_equal(last[0], theta):
            last = self._last = (np.array(theta), *self._eliminate(theta))
        return last[1:]

    def value(self, theta: np.ndarray) -> float:
        """Objective at working parameters."""
        return self.eliminated(theta)[3]

    @abstractmethod
    def derivatives(
        self, theta: np.ndarray, weights: np.ndarray, xi: np.ndarray, projection: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Gradient of log|V| + value(K), curvature of the factors, and A and b of the average information.

        Parameters
        ----------
        theta : ndarray
            Working parameters (k_theta,).
        weights : ndarray
            d value / dK (c, c).
        xi : ndarray
            (-beta, 1) (c,).
        projection : ndarray
            (X'V^-1X)^-1 (p, p).
        """

    @abstractmethod
    def evaluate(self, theta: np.ndarray) -> Evaluation:
        """Value, gradient and average information at working parameters."""

    def working_gradient(self, theta: np.ndarray) -> np.ndarray:
        """Gradient at working parameters."""
        return self.evaluate(theta).gradient

    @abstractmethod
    def products(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """X'V^-1 dV_i V^-1 X (k, p, p) and X'V^-1 dV_i V^-1 dV_j V^-1 X (k, k, p, p)."""

    @abstractmethod
    def second_order(self, theta: np.ndarray) -> SecondOrder:
        """Uncertainty of (theta, log sigma2) and the slopes of the covariance of beta at the optimum."""

    def kenward_roger(self, theta: np.ndarray) -> KenwardRoger:
        """Kenward and Roger's adjusted covariance at the REML estimate, with the observed information."""
        return residual_kenward_roger(self, theta)

    def profile_target(self, priors: Callable[..., Any] | None = None) -> ResidualTarget:
        """The objective whose profiles are traced."""
        return ResidualTarget(self, priors)  # type: ignore[arg-type]

    def solve(self, theta: np.ndarray) -> PLSSolution:
        """Solution at the user's parameters."""
        theta = np.asarray(theta, dtype=float)
        factorization, inner, terms, value = self.eliminated(self.working_theta(theta))
        basis = self.basis
        return PLSSolution(
            theta=theta,
            beta=basis.a @ inner.beta + self.origin,
            b=self._modes(factorization, inner.beta, terms),
            sigma2=inner.sigma2,
            cov_beta=basis.a @ inner.cov_beta @ basis.a.T,
            logdet_m=factorization.logdet,
            logdet_x=inner.logdet_x,
            r2=inner.r2,
            nu=inner.nu,
            criterion=value - inner.penalty,
            penalty=inner.penalty,
        )

    def _modes(self, factorization: Any, beta: np.ndarray, terms: list[np.ndarray]) -> tuple[np.ndarray, ...]:
        return ()

    def random_effects_at(self, theta: np.ndarray, beta: np.ndarray) -> tuple[np.ndarray, ...]:
        """E(b | y, theta, beta) at the user's theta (k_theta,) and beta (p,), one (n_levels, q) per term."""
        factorization, _, terms, _ = self.eliminated(self.working_theta(theta))
        return self._modes(factorization, np.linalg.solve(self.basis.a, beta - self.origin), terms)

    def conditional_cov(self, theta: np.ndarray) -> tuple[np.ndarray, ...]:
        """Var(b | y, beta) / sigma2 by level, one (n_levels, q, q) per grouping factor."""
        return ()

    def prediction_variance(
        self, theta: np.ndarray, exog: np.ndarray, rows: list[tuple[np.ndarray, np.ndarray]]
    ) -> np.ndarray:
        """Var(x'(beta_hat - beta) + z'(b_hat - b)) / sigma2 of new rows (m,)."""
        inner = self.eliminated(self.working_theta(theta))[1]
        x = np.asarray(exog, dtype=float) @ self.basis.a
        return ((x @ inner.cov_beta) * x).sum(axis=1)
