"""Linear models with structured residuals and no random effects, from second moments by pattern.

Subjects that are observed at the same levels share one covariance matrix, and only the sum over them of products of
their rows enters the likelihood: an evaluation costs as much as there are patterns, whatever the number of subjects.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mvmise_sm.core.covariance.random_effects import RandomEffects
from mvmise_sm.core.covariance.residual import ResidualTerm
from mvmise_sm.core.criteria.residual_base import ResidualCriterion
from mvmise_sm.core.criteria.solution import Evaluation
from mvmise_sm.core.uncertainty.residual_inference import InformationParts, residual_second_order
from mvmise_sm.core.uncertainty.second_order import SecondOrder, second_order

__all__ = ["MarginalDeviance", "moment_cells"]


def moment_cells(term: ResidualTerm, k_fe: int) -> int:
    """Elements of the second moments that `MarginalDeviance` keeps."""
    return sum(batch.n_patterns * (batch.size * (k_fe + 1)) ** 2 for batch in term.rows.batches)


@dataclass(frozen=True, slots=True, eq=False)
class _State:
    """The patterns' covariance at one phi: inverses (s, m, m) of every batch."""

    inverses: tuple[np.ndarray, ...]
    logdet: float
    gram: np.ndarray


class MarginalDeviance(ResidualCriterion):
    """-2 log L or the REML criterion of a model without random effects as a function of phi.

    Parameters
    ----------
    y, X, random, residual, priors, reml, weights, offset
        As in `ResidualCriterion`; `random` has no terms.
    """

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
        super().__init__(y, X, random, residual, priors=priors, reml=reml, weights=weights, offset=offset)

    def _use_rows(self) -> None:
        """Sums over the subjects of a pattern of products of rows [X y]: (s m m, c c) for every batch."""
        c = self.k_fe + 1
        scale = np.multiply.outer(self._scale, self._scale).ravel()
        self._moments = []
        for batch in self.residual.rows.batches:
            m = batch.size
            stops = np.append(batch.starts, len(batch.rows))
            products = np.empty((batch.n_patterns, m * c, m * c))
            for s in range(batch.n_patterns):
                # a pattern at a time stays in the cache
                part = self._rows(batch.rows[stops[s] : stops[s + 1]].ravel()).reshape(-1, m * c)
                np.matmul(part.T, part, out=products[s])
            blocks = products.reshape(-1, m, c, m, c).transpose(0, 1, 3, 2, 4)
            moments = np.ascontiguousarray(blocks).reshape(-1, c * c)
            moments *= scale
            self._moments.append(moments)

    def _state(self, theta: np.ndarray) -> _State:
        logdet, inverses = 0.0, []
        m = self.k_fe + 1
        gram = np.zeros(m * m)
        for batch, moments in zip(self.residual.rows.batches, self._moments, strict=True):
            blocks = self.residual.structure.blocks(theta, batch)
            root = np.linalg.cholesky(blocks)
            logdet += 2.0 * float(batch.counts @ np.log(np.diagonal(root, axis1=1, axis2=2)).sum(axis=1))
            inverse = np.linalg.inv(blocks)
            inverses.append(inverse)
            gram += inverse.ravel() @ moments
        return _State(tuple(inverses), logdet, gram.reshape(m, m))

    def _eliminate(self, theta: np.ndarray) -> tuple[Any, Any, list[np.ndarray], float]:
        state = self._state(theta)
        solution = self._inner.solve(state.gram, [])
        return state, solution, [], state.logdet + solution.value + self.constant

    def _slopes(self, state: _State, weights: np.ndarray) -> list[np.ndarray]:
        """Derivative of log|R| + value(K) in R of every pattern (s, m, m)."""
        out = []
        flat = weights.ravel()
        for batch, moments, inverse in zip(self.residual.rows.batches, self._moments, state.inverses, strict=True):
            explained = (moments @ flat).reshape(inverse.shape)
            out.append(batch.counts[:, None, None] * inverse - inverse @ explained @ inverse)
        return out

    def derivatives(
        self, theta: np.ndarray, weights: np.ndarray, xi: np.ndarray, projection: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        structure, batches = self.residual.structure, self.residual.rows.batches
        state = self.eliminated(theta)[0]
        gradient = structure.contract(theta, batches, self._slopes(state, weights))
        p, m = self.k_fe, self.k_fe + 1
        outer, scores = [], []
        square = np.multiply.outer(xi, xi).ravel()
        for moments, inverse in zip(self._moments, state.inverses, strict=True):
            both = (moments @ square).reshape(inverse.shape)
            outer.append(inverse @ both @ inverse)
            along = (moments.reshape(-1, m, m)[:, :p] @ xi).reshape(*inverse.shape, p)
            scores.append(_between(inverse, along))
        a = structure.contract_pairs(theta, batches, state.inverses, outer)
        b = structure.contract(theta, batches, outer)
        ax = structure.contract(theta, batches, scores) if p else np.zeros((len(theta), 0))
        return gradient, np.zeros((theta.size, theta.size)), a - ax @ projection @ ax.T, b

    def evaluate(self, theta: np.ndarray) -> Evaluation:
        """Value, gradient and average information at phi."""
        _, solution, _, value = self.eliminated(theta)
        xi = np.append(-solution.beta, 1.0)
        projection = solution.cov_beta if solution.projection is None else solution.projection
        gradient, _, a, b = self.derivatives(theta, solution.gram_weights, xi, projection)
        b = b / solution.sigma2
        average = a / solution.sigma2 - solution.curvature_c * np.multiply.outer(b, b)
        return Evaluation(np.array(theta), value, gradient, average, ())

    def second_order(self, theta: np.ndarray) -> SecondOrder:
        """From the exact Hessian; with priors by differences of the gradient."""
        if self.penalised:
            return second_order(self, theta, -self.products(theta)[0])
        return residual_second_order(self, theta)

    def products(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        parts = self.information_parts(theta)
        return parts.single, parts.double

    def information_parts(self, theta: np.ndarray) -> InformationParts:
        """What Satterthwaite's and Kenward and Roger's methods need, from sums over patterns."""
        structure, batches = self.residual.structure, self.residual.rows.batches
        state, solution, _, _ = self.eliminated(theta)
        p, m, k = self.k_fe, self.k_fe + 1, theta.size
        crosses, own = [], []
        for batch, moments, inverse in zip(batches, self._moments, state.inverses, strict=True):
            part = moments.reshape(-1, m, m)[:, :p, :p].reshape(*inverse.shape, p * p)
            crosses.append(_between(inverse, part))
            own.append(batch.counts[:, None, None] * inverse)
        single = structure.contract(theta, batches, crosses).reshape(k, p, p)
        # the contraction's outer matrix belongs to the second row of the product
        double = structure.contract_pairs(theta, batches, state.inverses, crosses).reshape(k, k, p, p)
        xi = np.append(-solution.beta, 1.0)
        gradient, _, a, b = self.derivatives(theta, solution.gram_weights, xi, solution.cov_beta)
        curvature = structure.curvature(theta, batches, self._slopes(state, solution.gram_weights))
        return InformationParts(
            single=single,
            double=double.transpose(0, 1, 3, 2),
            traces=structure.contract(theta, batches, own),
            pairs=structure.contract_pairs(theta, batches, state.inverses, own),
            average=a,
            score=b,
            gradient=gradient,
            curvature=curvature,
        )


def _between(inverse: np.ndarray, values: np.ndarray) -> np.ndarray:
    """V^-1 T V^-1 on the first two axes of T (s, m, m, e), for V^-1 (s, m, m)."""
    s, m, _, e = values.shape
    half = (inverse @ values.reshape(s, m, m * e)).reshape(s, m, m, e)
    turned = np.ascontiguousarray(half.transpose(0, 2, 1, 3)).reshape(s, m, m * e)
    return np.ascontiguousarray((inverse @ turned).reshape(s, m, m, e).transpose(0, 2, 1, 3))
