"""Parameters of a generalised criterion in the user's and in working coordinates."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from mvmise_sm.core.covariance.theta import ThetaSpace
from mvmise_sm.core.criteria.solution import Evaluation

__all__ = ["WorkingParameters"]


class WorkingParameters:
    """What a criterion knows of its own parameter vector: theta, then beta, then the shape."""

    profiles_beta = False
    # the average information knows nothing of how the weights change with the mode
    learns_curvature = True
    # what the criterion sets
    space: ThetaSpace
    basis: Any
    penalty: Any
    response: Any
    k_theta: int
    k_fe: int
    k_shape: int
    _last: Any

    def _use_space(self, space: ThetaSpace) -> None:
        self.space = space
        rest = self.k_shape if self.profiles_beta else self.k_fe + self.k_shape
        self.lower = np.concatenate([space.lower, np.full(rest, -np.inf)])
        if self.k_shape:
            self.lower[-1] = self.response.distribution.least_shape
        self.guarded = np.concatenate([space.guarded, np.zeros(rest, dtype=bool)])

    def reordered(self, x: np.ndarray) -> WorkingParameters | None:
        """The same criterion in the parametrisation that suits `x`, or None where that is this one."""
        space = self.space.reordered(x[: self.k_theta])
        if space is None:
            return None
        out = copy.copy(self)
        out._use_space(space)
        out._last = None
        return out

    def converted_from(self, other: WorkingParameters, x: np.ndarray) -> np.ndarray:
        """Working vector of this criterion for one of `other`, the same criterion reordered."""
        out = x.copy()
        out[: self.k_theta] = self.space.converted_from(other.space, x[: self.k_theta])
        return out

    def value(self, x: np.ndarray) -> float:
        """Objective at a working vector."""
        raise NotImplementedError

    def evaluate(self, x: np.ndarray, *, information: bool = True) -> Evaluation:
        """Value, gradient, information (empty if not wanted) and slopes at a working vector."""
        raise NotImplementedError

    def working_gradient(self, x: np.ndarray) -> np.ndarray:
        """Gradient at a working vector."""
        return self.evaluate(x, information=False).gradient

    def __call__(self, x: np.ndarray) -> float:
        """Objective at the user's parameters: criterion + penalty."""
        return self.value(self.working_theta(x))

    def gradient(self, x: np.ndarray) -> np.ndarray:
        """Gradient in the user's parameters."""
        x = np.asarray(x, dtype=float)
        out = self.working_gradient(self.working_theta(x)).copy()
        k = self.k_theta
        jacobian = np.empty((k, k))
        for i in range(k):
            step = np.zeros(k)
            step[i] = 1e-5 * max(abs(x[i]), 1e-2)
            jacobian[:, i] = (self.space.working(x[:k] + step) - self.space.working(x[:k] - step)) / (2.0 * step[i])
        out[:k] = jacobian.T @ out[:k]
        if not self.profiles_beta:
            out[k : k + self.k_fe] = np.linalg.solve(self.basis.a.T, out[k : k + self.k_fe])
        return out

    # parameters

    def split(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
        """Theta, beta and shape (k_shape,) of a parameter vector; beta is None where it is profiled."""
        k, p = self.k_theta, 0 if self.profiles_beta else self.k_fe
        return x[:k], None if self.profiles_beta else x[k : k + p], x[k + p :]

    def user_theta(self, x: np.ndarray) -> np.ndarray:
        """Parameters in the user's coordinates for a working vector."""
        theta, beta, _ = self.split(x)
        out = np.array(x, dtype=float)
        out[: self.k_theta] = self.space.user(theta)
        if beta is not None:
            out[self.k_theta : self.k_theta + self.k_fe] = self.basis.a @ beta
        return out

    def working_theta(self, x: np.ndarray) -> np.ndarray:
        """Working vector for parameters in the user's coordinates."""
        x = np.asarray(x, dtype=float)
        theta, beta, _ = self.split(x)
        out = x.copy()
        out[: self.k_theta] = self.space.working(theta)
        if beta is not None:
            out[self.k_theta : self.k_theta + self.k_fe] = np.linalg.solve(self.basis.a, beta)
        return out

    def is_singular(self, x: np.ndarray) -> bool:
        """Whether a covariance is on the boundary."""
        return self.space.is_singular(x[: self.k_theta])

    def hessian(self, evaluation: Evaluation) -> np.ndarray | None:
        """Second derivatives at an evaluated point where they are cheap; None: they are not."""
        return None

    def descent_points(self, evaluation: Evaluation, only_check: bool = False) -> list[np.ndarray]:
        """Points off the boundary in directions in which the objective falls."""
        out = []
        for theta in self.space.descent_points(evaluation.theta[: self.k_theta], evaluation.slopes, only_check):
            x = evaluation.theta.copy()
            x[: self.k_theta] = theta
            out.append(x)
        if not (only_check or self.profiles_beta):
            at = slice(self.k_theta, self.k_theta + self.k_fe)
            for beta in self.penalty.spikes(evaluation.theta[at]):
                x = evaluation.theta.copy()
                x[at] = beta
                out.append(x)
        return out
