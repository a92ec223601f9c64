"""Parameters of a criterion of theta alone, in the user's and in working coordinates."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from mvmise_sm.core.covariance.theta import ThetaSpace
    from mvmise_sm.core.criteria.solution import Evaluation

__all__ = ["ThetaParameters"]


class ThetaParameters(ABC):
    """What a criterion whose other parameters are profiled out answers from its `ThetaSpace`.

    Attributes
    ----------
    space : ThetaSpace
        Set by the criterion.
    """

    space: ThetaSpace
    learns_curvature = False

    @abstractmethod
    def value(self, theta: np.ndarray) -> float:
        """Objective at a working theta."""

    @abstractmethod
    def evaluate(self, theta: np.ndarray) -> Evaluation:
        """Value, gradient, information and slopes at a working theta."""

    def working_gradient(self, theta: np.ndarray) -> np.ndarray:
        """Gradient at a working theta (k_theta,)."""
        return self.evaluate(theta).gradient

    def __call__(self, theta: np.ndarray) -> float:
        """Objective at the user's theta: criterion + penalty."""
        return self.value(self.working_theta(np.asarray(theta, dtype=float)))

    def gradient(self, theta: np.ndarray) -> np.ndarray:
        """Gradient in the user's theta (k_theta,)."""
        theta = np.asarray(theta, dtype=float)
        slopes = self.evaluate(self.working_theta(theta)).slopes
        random, bases = self.space.random, self.space.layout.term_bases
        out = np.empty(random.k_theta)
        for term, at, basis, slope in zip(random.terms, random.theta_slices, bases, slopes, strict=True):
            d = basis.a_inv.T @ slope @ basis.a_inv
            out[at] = term.structure.pullback(theta[at], 2.0 * d @ term.structure.factor(theta[at]))
        return out

    @property
    def lower(self) -> np.ndarray:
        """Lower bounds of theta (k_theta,), the same for the user's and the working theta."""
        return self.space.lower

    @property
    def guarded(self) -> np.ndarray:
        """Elements of theta that a prior keeps off their lower bound (k_theta,)."""
        return self.space.guarded

    def working_theta(self, theta: np.ndarray) -> np.ndarray:
        """Theta of the working coordinates for the user's theta."""
        return self.space.working(theta)

    def user_theta(self, theta: np.ndarray) -> np.ndarray:
        """The user's theta for a working theta."""
        return self.space.user(theta)

    def converted_from(self, other: ThetaParameters, theta: np.ndarray) -> np.ndarray:
        """Working theta of this criterion for one of `other`, the same criterion reordered."""
        return self.space.converted_from(other.space, theta)

    def is_singular(self, theta: np.ndarray) -> bool:
        """Whether a working theta is on the boundary."""
        return self.space.is_singular(theta)

    def hessian(self, evaluation: Evaluation) -> np.ndarray | None:
        """Second derivatives at an evaluated point where they are cheap; None: they are not."""
        return None

    def descent_points(self, evaluation: Evaluation, only_check: bool = False) -> list[np.ndarray]:
        """Working thetas off the boundary at which the objective may be lower, see `ThetaSpace.descent_points`."""
        return self.space.descent_points(evaluation.theta, evaluation.slopes, only_check)

    def other_starts(self, theta: np.ndarray) -> list[np.ndarray]:
        """Further working starts for structures whose likelihood has several optima."""
        return self.space.other_starts(theta)
