"""Adaptive Gauss-Hermite quadrature where the likelihood has several linear predictors."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product as grid
from typing import Any

import numpy as np
from numpy.polynomial.hermite_e import hermegauss

from mvmise_sm.core.criteria.parts import Block, PartsDeviance
from mvmise_sm.core.criteria.quadrature import Spread, both_sides, check_quadrature, left_times, rows_times
from mvmise_sm.core.elimination.levels import product

__all__ = ["PartsQuadrature"]


class PartsQuadrature(PartsDeviance):
    """Adaptive quadrature as a function of theta and all coefficients; one grouping factor over all parts.

    Parameters
    ----------
    response, blocks, visible, random, parts, priors
        As in `PartsDeviance`.
    nodes : int
        Nodes per column.

    Raises
    ------
    ValueError
        If the random effects have several grouping factors or too many columns, or the nodes are too many.
    """

    def __init__(
        self,
        response: Any,
        blocks: Sequence[Block],
        visible: int,
        random: Any,
        parts: Sequence[int],
        *,
        priors: Any = None,
        nodes: int = 9,
    ) -> None:
        super().__init__(response, blocks, visible, random, parts, priors=priors)
        q = check_quadrature(random, nodes)
        z, w = hermegauss(nodes)
        log_w = np.log(w) - 0.5 * np.log(2.0 * np.pi) + 0.5 * z * z
        self._nodes = np.array(list(grid(z, repeat=q)))
        self._log_weights = np.array([sum(part) for part in grid(log_w, repeat=q)])

    def _node_rows(self, mode: Any, lam: Any, away: Any) -> Any:
        eta = mode.terms.eta + self.incidence.times([lam @ away])
        return self.response.row_values(eta)

    def _integral(self, mode: Any, merged: Any) -> Any:
        lam = merged[0]
        spread = Spread(self.incidence.own(mode.terms.observed)[0], lam)
        levels, codes = self.incidence.levels[0], self.incidence.codes[0]
        root = lam.T @ mode.g[0]
        logs = np.empty((len(self._nodes), levels))
        scores = []
        for k, z in enumerate(self._nodes):
            away = rows_times(spread.t, z)
            rows, score = self._node_rows(mode, lam, away)
            u = root + away
            logs[k] = np.bincount(codes, rows, minlength=levels) - 0.5 * np.square(u).sum(axis=0) + self._log_weights[k]
            scores.append((u, score))
        top = logs.max(axis=0)
        if not np.isfinite(top).all():
            raise np.linalg.LinAlgError("the likelihood vanishes at every node")
        weights = np.exp(logs - top)
        total = weights.sum(axis=0)
        self._quadrature = spread, scores, weights / total
        return float(spread.logdet.sum()) - 2.0 * float((top + np.log(total)).sum())

    def evaluate(self, x: Any, *, information: bool = True) -> Any:
        parts = self.at(x)
        mode, merged = parts[:2]
        slopes = self.space.by_term(self._gradients(mode, merged)[0])
        d_lambda, beta, shape = self._node_gradients(mode, merged[0])
        d_lambdas = [d_lambda[place, place] for _, place, _ in self.space.where]
        return self._evaluation(x, parts, (slopes, d_lambdas, beta, shape), information)

    def _node_gradients(self, mode: Any, lam: Any) -> Any:
        """Exact derivative in Lambda (q, q) and in all coefficients of the quadrature sum."""
        spread, scores, weights = self._quadrature
        inc, codes, q = self.incidence, self.incidence.codes[0], lam.shape[0]
        g = mode.g[0]
        root = lam.T @ g
        force, twist = np.zeros_like(g), np.zeros((q, *g.shape))
        d_lambda = np.zeros((q, q))
        mean_score = np.zeros((self.response.n_parts, self.nobs))
        for z, (u, score), weight in zip(self._nodes, scores, weights, strict=True):
            zs = inc.transposed(self._random_rows(score))[0]
            slope = lam.T @ zs - u
            force += weight * slope
            twist += z[:, None, None] * (weight * rows_times(spread.t.transpose(1, 0, 2), slope))
            d_lambda -= 2.0 * (weight * zs) @ u.T
            mean_score += weight[codes] * score
        n = spread.coefficient(twist)
        rows = self.response.expand(self._full_eta(mode))
        t = rows.contracted(inc.level_quadratic(0, both_sides(lam, 2.0 * n)), self._random_parts)
        zt = inc.transposed(self._random_rows(t))[0]
        y = spread.solve(lam.T @ zt - 2.0 * force)
        v = lam @ y
        zv = np.atleast_2d(inc.times([v]))
        d_lambda += 4.0 * product(left_times(spread.c, lam), n).sum(axis=2)
        d_lambda += (zt - rows_times(spread.c, v)) @ root.T + g @ y.T
        e = t - 2.0 * mean_score
        for c in range(len(e)):
            for i, d in enumerate(self._random_parts):
                e[c] += rows.get(c, d) * zv[i]
        coef = self.design.adjoint(e)
        return d_lambda, coef[: self.k_fe], coef[self.k_fe :]

    def descent_points(self, evaluation: Any, only_check: bool = False) -> Any:
        found = super().descent_points(evaluation, only_check)
        return [x for x in found if self._falls(x, evaluation.value)] if only_check else found

    def _falls(self, x: Any, value: Any) -> Any:
        try:
            return self.value(x) < value - 1e-7
        except np.linalg.LinAlgError:
            return False
