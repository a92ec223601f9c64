"""-2 log L by adaptive Gauss-Hermite quadrature around the conditional modes, one grouping factor with up to three
columns.

Level j contributes log I_j = -log|M_j| / 2 + log sum_k w_k exp(l_j(u_k) - |u_k|^2 / 2 + |z_k|^2 / 2) with u_k = u + T
z_k, T = L^-T and L L' = M_j = Lambda'C_j Lambda + I; the nodes z_k are a product grid (Pinheiro and Bates 1995).
"""

from __future__ import annotations

from itertools import product as grid
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.polynomial.hermite_e import hermegauss

from mvmise_sm.core.criteria.laplace import LaplaceDeviance
from mvmise_sm.core.elimination.levels import product, sandwich

if TYPE_CHECKING:
    from mvmise_sm.core.covariance.random_effects import RandomEffects
    from mvmise_sm.core.criteria.pirls import Mode
    from mvmise_sm.core.criteria.solution import Evaluation

__all__ = ["QuadratureDeviance", "Spread", "both_sides", "check_quadrature", "left_times", "rows_times"]

_CACHED_ROWS = 4_000_000
_MAX_COLUMNS = 3
_MAX_NODES = 20_000


def check_quadrature(random: RandomEffects, nodes: int) -> int:
    """Number of columns q of a model that `nodes` per column can integrate; ValueError otherwise."""
    q = sum(t.q for t in random.terms)
    if len(random.factors) > 1:
        names = ", ".join(f.name for f in random.factors)
        raise ValueError(f"nagq={nodes} needs a single grouping factor, the model has {names}; use nagq=1")
    if q > _MAX_COLUMNS:
        raise ValueError(
            f"nagq={nodes} needs at most {_MAX_COLUMNS} random-effects columns, the model has {q}; use nagq=1"
        )
    if nodes**q > _MAX_NODES:
        raise ValueError(f"nagq={nodes} means {nodes**q:,} nodes for {q} columns, the limit is {_MAX_NODES:,}")
    return q


class QuadratureDeviance(LaplaceDeviance):
    """Adaptive Gauss-Hermite quadrature as a function of theta, beta and shape.

    Parameters
    ----------
    response, X, random, priors, offset
        As in `LaplaceDeviance`; `random` has one grouping factor with at most three columns.
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
        X: np.ndarray,
        random: RandomEffects,
        *,
        priors: None = None,
        offset: None = None,
        nodes: int = 9,
    ) -> None:
        super().__init__(response, X, random, priors=priors, offset=offset)
        q = check_quadrature(random, nodes)
        z, w = hermegauss(nodes)
        log_w = np.log(w) - 0.5 * np.log(2.0 * np.pi) + 0.5 * z * z
        self._nodes = np.array(list(grid(z, repeat=q)))
        self._log_weights = np.array([sum(part) for part in grid(log_w, repeat=q)])
        self._keep_rows = self._nodes.shape[0] * self.nobs <= _CACHED_ROWS

    def _integral(self, mode: Mode, merged: list[np.ndarray]) -> float:
        lam = merged[0]
        spread = Spread(self.incidence.own(mode.terms.weight)[0], lam)
        levels, codes = self.incidence.levels[0], self.incidence.codes[0]
        root = np.einsum("ab,bj->aj", lam.T, mode.g[0])
        logs = np.empty((len(self._nodes), levels))
        points, scores = [], []
        for k, z in enumerate(self._nodes):
            away = rows_times(spread.t, z)
            u = root + away
            loglik, score = self.response.row_loglik(mode.terms.eta + self.incidence.times([lam @ away]))
            logs[k] = (
                np.bincount(codes, loglik, minlength=levels) - 0.5 * np.square(u).sum(axis=0) + self._log_weights[k]
            )
            points.append(u)
            scores.append(score if self._keep_rows else None)
        top = logs.max(axis=0)
        weights = np.exp(logs - top)
        total = weights.sum(axis=0)
        if not np.isfinite(top).all():
            raise np.linalg.LinAlgError("the likelihood vanishes at every node")
        self._quadrature = spread, points, scores, weights / total
        value = float(spread.logdet.sum()) - 2.0 * float((top + np.log(total)).sum())
        return value - 2.0 * self.response.constant

    def sharpen(self, x: np.ndarray) -> None:
        """Nothing: the sum over the nodes hardly depends on where they are centred."""

    def descent_points(self, evaluation: Evaluation, only_check: bool = False) -> list[np.ndarray]:
        """Points off the boundary in directions in which the objective falls; the check asks that it does fall there.

        On the boundary the directions are those of the Laplace approximation.
        """
        found = super().descent_points(evaluation, only_check)
        return [x for x in found if self._falls(x, evaluation.value)] if only_check else found

    def _falls(self, x: Any, value: Any) -> Any:
        try:
            return self.value(x) < value - 1e-7
        except np.linalg.LinAlgError:
            return False

    def evaluate(self, x: np.ndarray, *, information: bool = True) -> Evaluation:
        """Value, gradient, information (None if not wanted) and slopes at a working vector."""
        parts = self.at(x)
        mode, merged, _, _, _ = parts
        slopes = self.space.by_term(self._gradients(mode, merged)[0])
        d_lambda, beta, shape = self._quadrature_gradients(mode, merged[0])
        d_lambdas = [d_lambda[place, place] for _, place, _ in self.space.where]
        return self._evaluation(x, parts, (slopes, d_lambdas, beta, shape), information)

    def _quadrature_gradients(self, mode: Mode, lam: np.ndarray) -> tuple[np.ndarray, np.ndarray, float | None]:
        """Exact derivative in Lambda (q, q), in beta (p,) and in the shape of the quadrature sum."""
        spread, points, scores, weights = self._quadrature
        inc, rows = self.incidence, mode.terms
        codes, q = inc.codes[0], lam.shape[0]
        g = mode.g[0]
        root = lam.T @ g
        force = np.zeros_like(g)
        twist = np.zeros((q, *g.shape))
        d_lambda = np.zeros((q, q))
        mean_score, shape = np.zeros(self.nobs), 0.0
        for z, u, score, weight in zip(self._nodes, points, scores, weights, strict=True):
            eta = None
            if score is None or self.k_shape:
                eta = rows.eta + inc.times([lam @ (u - root)])
            if score is None:
                score = self.response.row_loglik(eta)[1]
            by_row = weight[codes]
            zs = inc.transposed(score)[0]
            slope = lam.T @ zs - u
            force += weight * slope
            twist += z[:, None, None] * (weight * rows_times(spread.t.transpose(1, 0, 2), slope))
            d_lambda -= 2.0 * (weight * zs) @ u.T
            mean_score += by_row * score
            if self.k_shape:
                shape -= 2.0 * float(by_row @ self.response.shape_rows(eta))
        n = spread.coefficient(twist)
        leverage = inc.level_quadratic(0, both_sides(lam, 2.0 * n))
        t = self.response.slope(rows) * leverage
        zt = inc.transposed(t)[0]
        observed = spread if rows.observed is rows.weight else Spread(inc.own(rows.observed)[0], lam)
        y = observed.solve(lam.T @ zt - 2.0 * force)
        v = lam @ y
        zv = inc.times([v])
        d_lambda += 4.0 * product(left_times(spread.c, lam), n).sum(axis=2)
        d_lambda += (zt - rows_times(observed.c, v)) @ root.T + g @ y.T
        beta = self.X.T @ (t - 2.0 * mean_score - rows.observed * zv)
        if not self.k_shape:
            return d_lambda, beta, None
        _, score, weight, _ = self.response.shape_terms(rows)
        return d_lambda, beta, shape + float(leverage @ weight) + float(zv @ score)


class Spread:
    """M_j = Lambda'C_j Lambda + I by level: L, T = L^-T (q, q, J) and log|M| (J,).

    Raises
    ------
    numpy.linalg.LinAlgError
        If a block is not positive definite.
    """

    def __init__(self, c: np.ndarray, lam: np.ndarray) -> None:
        self.c = c
        m = sandwich(lam, c)
        q = lam.shape[0]
        for a in range(q):
            m[a, a] += 1.0
        lower, inverse = np.zeros_like(m), np.zeros_like(m)
        with np.errstate(invalid="ignore"):
            for i in range(q):
                for j in range(i + 1):
                    rest = m[i, j] - (lower[i, :j] * lower[j, :j]).sum(axis=0)
                    lower[i, j] = np.sqrt(rest) if i == j else rest / lower[j, j]
        diagonal = lower.diagonal().T
        if not (diagonal > 0.0).all():
            raise np.linalg.LinAlgError("M is not positive definite")
        for i in range(q):
            inverse[i, i] = 1.0 / lower[i, i]
            for j in range(i):
                inverse[i, j] = -(lower[i, j:i] * inverse[j:i, j]).sum(axis=0) / lower[i, i]
        self.t = np.ascontiguousarray(inverse.transpose(1, 0, 2))
        self.logdet = 2.0 * np.log(diagonal).sum(axis=0)

    def solve(self, r: np.ndarray) -> np.ndarray:
        """M^-1 r for `r` (q, J)."""
        return rows_times(self.t, rows_times(self.t.transpose(1, 0, 2), r))

    def coefficient(self, twist: np.ndarray) -> np.ndarray:
        """N with d(-2 log I) = 2 <dM, N>, (q, q, J), where the nodes move with T; `twist` is the mean of z
        (T'grad)'.
        """
        q = twist.shape[0]
        middle = np.zeros_like(twist)
        for a in range(q):
            # half of the identity is the Laplace part M^-1 / 2
            middle[a, a] = 0.5 + 0.5 * twist[a, a]
            for b in range(a):
                middle[a, b] = middle[b, a] = 0.5 * twist[a, b]
        return product(product(self.t, middle), self.t.transpose(1, 0, 2))


def rows_times(blocks: np.ndarray, r: np.ndarray) -> np.ndarray:
    """B_j r_j of every level for `r` (s, J) or one vector (s,)."""
    r = r[:, None] if r.ndim == 1 else r
    return np.array([sum(blocks[a, b] * r[b] for b in range(r.shape[0])) for a in range(blocks.shape[0])])


def left_times(blocks: np.ndarray, lam: np.ndarray) -> np.ndarray:
    """B_j Lambda of every level."""
    return np.tensordot(blocks, lam, axes=(1, 0)).transpose(0, 2, 1)


def both_sides(lam: np.ndarray, blocks: np.ndarray) -> np.ndarray:
    """Lambda B_j Lambda' of every level (q, q, J)."""
    return sandwich(lam.T, blocks)
