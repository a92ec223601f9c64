"""One grouping factor in one dense block, which most small models have: the profiled deviance in few steps.

The equations are those of `LinearObjective`, which asks every factor and every term by itself. With one factor whose
relative factor Lambda is linear in theta they are some thirty products of small arrays, half of the work or less.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from mvmise_sm.core.covariance.theta import bent, positive_part
from mvmise_sm.core.criteria.solution import Evaluation

if TYPE_CHECKING:
    from mvmise_sm.core.covariance.theta import ThetaSpace
    from mvmise_sm.core.criteria.inner_problem import FlatInnerProblem, InnerSolution
    from mvmise_sm.core.elimination.dense import DenseSystem
    from mvmise_sm.core.interfaces import System

__all__ = ["EliminatedPoint", "OneFactor"]


@dataclass(frozen=True, slots=True, eq=False)
class EliminatedPoint:
    """The random effects eliminated at one theta.

    Attributes
    ----------
    theta : bytes
        Working theta.
    lam : ndarray
        Lambda (q, q).
    value : float
        Objective.
    logdet : float
        log|M|.
    solution : InnerSolution
    inner : ndarray
        Z'V^-1Z (n, n), its diagonal (n,) for a single column.
    outer : ndarray
        Z'V^-1[X y] (n, m).
    """

    theta: bytes
    lam: np.ndarray
    value: float
    logdet: float
    solution: InnerSolution
    inner: np.ndarray
    outer: np.ndarray

    def scores(self, xi: np.ndarray) -> list[np.ndarray]:
        """Z'V^-1[X y] xi (q, J), a list of one."""
        return [(self.outer @ xi).reshape(len(self.lam), -1)]


# gradient (k,), average information and second derivatives (k, k), derivative in Sigma (q, q)
_Shape = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


class OneFactor:
    """Value and derivatives of the profiled deviance without priors.

    Parameters
    ----------
    system : DenseSystem
        With independent levels.
    space : ThetaSpace
        Of one factor, theta at fixed places of its Lambda.
    inner : FlatInnerProblem
    constant : float
        What is added to the deviance.
    """

    def __init__(self, system: DenseSystem, space: ThetaSpace, inner: FlatInnerProblem, constant: float) -> None:
        self.system, self.inner, self.constant = system, inner, constant
        factor = space.layout.factors[0]
        self.q, self.n_levels = factor.q, factor.n_levels
        self.places = [place for _, place, _ in space.where]
        # Lambda is the sum of theta_i times tangent i, whatever theta is
        self.tangents = np.zeros((space.lower.size, self.q, self.q))
        for structure, at, place in zip(space.structures, space.random.theta_slices, self.places, strict=True):
            self.tangents[at, place, place] = structure.tangents(np.zeros(structure.k_theta))
        self._flat = self.tangents.reshape(len(self.tangents), -1)
        if self.q == 1:
            self._own, self._rhs = system.s.diagonal(), system.s[:, system.n :]
        self._last: EliminatedPoint | None = None
        self._hessian = b"", np.zeros((0, 0))

    @classmethod
    def of(cls, system: System, space: ThetaSpace, inner: FlatInnerProblem, constant: float) -> OneFactor | None:
        """For the cross-products of a model, None where it has another shape."""
        layout = space.layout
        if not layout.dense or layout.loaded or len(layout.factors) != 1:
            return None
        if not all(structure.placed for structure in space.structures):
            return None
        return cls(cast("DenseSystem", system), space, inner, constant)

    def value(self, theta: np.ndarray) -> float:
        """Objective at a working theta (k_theta,)."""
        return self.eliminated(theta).value

    def evaluate(self, theta: np.ndarray) -> Evaluation:
        """Value, gradient, average information and slopes at a working theta."""
        point = self.eliminated(theta)
        found = self._of_one_column(point) if self.q == 1 else self._of_columns(point)
        gradient, information, hessian, slope = found
        self._hessian = point.theta, hessian
        slopes = (slope,) if len(self.places) == 1 else tuple(slope[place, place] for place in self.places)
        return Evaluation(np.array(theta), point.value, gradient, information, slopes)

    def hessian(self, theta: np.ndarray) -> np.ndarray:
        """Second derivatives at a working theta (k_theta, k_theta)."""
        if self._hessian[0] != theta.tobytes():
            self.evaluate(theta)
        return self._hessian[1]

    def eliminated(self, theta: np.ndarray) -> EliminatedPoint:
        """Elimination and solution at a working theta; the last ones are kept, as Newton asks for the value first."""
        last, key = self._last, theta.tobytes()
        if last is not None and last.theta == key:
            return last
        lam = (theta @ self._flat).reshape(self.q, self.q)
        if self.q == 1:
            # a power of a large number would raise an error where a product is infinite
            square = float(lam[0, 0]) * float(lam[0, 0])
            m = square * self._own + 1.0
            shrunk = 1.0 / m
            inner, outer = shrunk * self._own, shrunk[:, None] * self._rhs
            logdet = float(np.add.reduce(np.log(m)))
            gram = self.system.gram - square * (self._rhs.T @ outer)
        else:
            factorization, n = self.system.factorize([lam]), self.system.n
            inner, outer = factorization.t[:, :n], factorization.t[:, n:]
            logdet, gram = factorization.logdet, factorization.gram
        solution = self.inner.solve(gram)
        value = logdet + solution.value + self.constant
        self._last = EliminatedPoint(key, lam, value, logdet, solution, inner, outer)
        return self._last

    def _of_one_column(self, point: EliminatedPoint) -> _Shape:
        """Derivatives by the one standard deviation that most small models have."""
        t, g, p, solution = point.inner, point.outer, self.inner.p, point.solution
        gx = g[:, :p]
        e = g[:, p] - gx @ solution.beta
        projected = (gx @ -solution.cov_beta) @ gx.T
        projected.reshape(-1)[:: self.n_levels + 1] += t
        slope = float(np.add.reduce(t)) - float(np.vdot(g @ solution.gram_weights, g))
        averaged, score = float(e @ projected @ e) / solution.sigma2, float(e @ e) / solution.sigma2
        expected = float(np.vdot(projected, projected)) if self.inner.reml else float(t @ t)
        step = 2.0 * float(point.lam[0, 0])
        average = step * step * (averaged - solution.curvature_c * score * score)
        return (
            np.array([step * slope]),
            np.array([[average + 2.0 * max(slope, 0.0)]]),
            np.array([[average + step * step * (averaged - expected) + 2.0 * slope]]),
            np.array([[slope]]),
        )

    def _of_columns(self, point: EliminatedPoint) -> _Shape:
        """Derivatives by all of theta."""
        t, g, solution, lam = point.inner, point.outer, point.solution, point.lam
        p, q, levels, k = self.inner.p, self.q, self.n_levels, len(self.tangents)
        gx = g[:, :p]
        e = g[:, p] - gx @ solution.beta
        projected = t - gx @ solution.cov_beta @ gx.T
        own = np.add.reduce(t.reshape(q, levels, q, levels).diagonal(axis1=1, axis2=3), axis=2)
        slope = own - (g @ solution.gram_weights).reshape(q, -1) @ g.reshape(q, -1).T
        half = self.tangents @ lam.T
        directions = half + half.transpose(0, 2, 1)
        along = (directions @ e.reshape(q, levels)).reshape(k, -1)
        averaged = along @ projected @ along.T / solution.sigma2
        score = along @ e / solution.sigma2
        average = averaged - solution.curvature_c * np.multiply.outer(score, score)
        # sums over pairs of levels, [(a, b), (c, d)], of P[a, u, b, v] P[c, u, d, v]
        p_or_t = projected if self.inner.reml else t
        part = p_or_t.reshape(q, levels, q, levels).transpose(0, 2, 1, 3).reshape(q * q, -1)
        pairs = (part @ part.T).reshape(q, q, q, q).transpose(2, 0, 3, 1).reshape(q * q, q * q)
        flat = directions.reshape(k, -1)
        hessian = average + averaged - flat @ pairs @ flat.T + bent(self.tangents, slope)
        if len(self.places) == 1:
            positive = positive_part(slope)
        else:
            positive = np.zeros_like(slope)
            for place in self.places:
                positive[place, place] = positive_part(slope[place, place])
        information = average + bent(self.tangents, positive)
        return 2.0 * (self._flat @ (slope @ lam).ravel()), information, hessian, slope
