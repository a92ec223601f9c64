"""Linear mixed models with structured residuals: rows are whitened by subject, then the random effects are eliminated.

Every subject lies in one level of every grouping factor, so that what the random effects add to the covariance of its
rows follows from the posterior covariance of the few effects that touch it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mvmise_sm.core.covariance.coordinates import FixedBasis
from mvmise_sm.core.covariance.patterns import PatternBatch
from mvmise_sm.core.criteria.residual_base import ResidualCriterion
from mvmise_sm.core.criteria.solution import Evaluation
from mvmise_sm.core.criteria.start import contained_terms, moment_variances
from mvmise_sm.core.elimination.choose import build_system
from mvmise_sm.core.uncertainty.deletion import InverseBlocks
from mvmise_sm.core.uncertainty.posterior import (
    conditional_modes,
    level_covariances,
    new_row_variance,
    subject_covariances,
)
from mvmise_sm.core.uncertainty.second_order import SecondOrder, second_order

__all__ = ["WhitenedDeviance"]


@dataclass(frozen=True, slots=True, eq=False)
class _NoEffects:
    """The elimination of a model without random effects."""

    gram: np.ndarray
    logdet: float = 0.0

    def scores(self, xi: np.ndarray) -> list[np.ndarray]:
        return []


@dataclass(frozen=True, slots=True, eq=False)
class _Whitened:
    """The rows at one phi.

    Attributes
    ----------
    roots : tuple of ndarray
        L^-1 of every pattern (s, m, m), R = LL', per batch.
    logdet : float
        log|R|.
    xy : ndarray
        L^-1 [X y] (n, c).
    z : list of ndarray
        L^-1 Z columns of every factor (n, q).
    layout : Layout
        With the whitened columns.
    system : object
        Their cross-products, None without random effects.
    """

    roots: tuple[np.ndarray, ...]
    logdet: float
    xy: np.ndarray
    z: list[np.ndarray]
    layout: Any
    system: Any


class WhitenedDeviance(ResidualCriterion):
    """-2 log L or the REML criterion of (theta, phi) for any random effects in whose levels the subjects lie.

    Levels may be related: what counts is that all rows of a subject have the same share of the same effects.

    Parameters are those of `ResidualCriterion`.
    """

    def _use_rows(self) -> None:
        self._xy = self._rows(slice(None)) * self._scale
        root = None if self._weights is None else np.sqrt(self._weights)
        self._z = []
        for f in self.layout.factors:
            z = np.empty((self.nobs, f.q))
            for a in range(f.q):
                values = f.values(a)
                z[:, a] = f.scale[a] if values is None else values * f.scale[a]
            self._z.append(z if root is None else z * root[:, None])
        if self.layout.factors and not self.layout.dense:
            _ = self.layout.patterns  # found once, and shared by all copies

    @property
    def _batches(self) -> tuple[PatternBatch, ...]:
        return self.residual.rows.batches

    # --- whitening

    def _whiten(self, phi: np.ndarray) -> _Whitened:
        last = self.__dict__.get("_whitened")
        if last is not None and np.array_equal(last[0], phi):
            return last[1]
        logdet, roots = 0.0, []
        wide = np.concatenate([self._xy, *self._z], axis=1)
        out = np.empty_like(wide)
        for batch in self._batches:
            root = np.linalg.cholesky(self.residual.structure.blocks(phi, batch))
            logdet += 2.0 * float(batch.counts @ np.log(np.diagonal(root, axis1=1, axis2=2)).sum(axis=1))
            inverse = np.linalg.solve(root, np.broadcast_to(np.eye(batch.size), root.shape))
            roots.append(inverse)
            out[batch.rows] = inverse[batch.member] @ wide[batch.rows]
        c = self._xy.shape[1]
        xy, z, at = np.ascontiguousarray(out[:, :c]), [], c
        for f in self.layout.factors:
            z.append(np.ascontiguousarray(out[:, at : at + f.q]))
            at += f.q
        layout = self._layout_of(z)
        system = self._system(layout, xy[:, :-1], xy[:, -1]) if z else None
        found = _Whitened(tuple(roots), logdet, xy, z, layout, system)
        self._whitened = (np.array(phi), found)
        return found

    def _layout_of(self, z: list[np.ndarray]) -> Any:
        layout = copy.copy(self.layout)
        layout.factors = tuple(
            replace(f, columns=tuple(np.ascontiguousarray(c) for c in part.T), shift=np.zeros(f.q), scale=np.ones(f.q))
            for f, part in zip(self.layout.factors, z, strict=True)
        )
        return layout

    @staticmethod
    def _system(layout: Any, x: np.ndarray, y: np.ndarray) -> Any:
        p = x.shape[1]
        basis = FixedBasis(None, None, np.ones(p), np.eye(p), 0.0)
        return build_system(layout, basis, x, y, np.zeros(p), None, once=True)

    def _gram_with(self, whitened: _Whitened, merged: list[np.ndarray], extra: np.ndarray) -> np.ndarray:
        """[X extra y]'V^-1[X extra y] for whitened columns `extra` (n, e)."""
        x = np.concatenate([whitened.xy[:, :-1], extra], axis=1)
        y = whitened.xy[:, -1]
        if whitened.system is None:
            rows = np.column_stack([x, y])
            return rows.T @ rows
        return self._system(whitened.layout, x, y).factorize(merged).gram

    def _eliminate(self, theta: np.ndarray) -> tuple[Any, Any, list[np.ndarray], float]:
        whitened = self._whiten(theta[self.k_g :])
        merged, terms = self.space.factors(theta[: self.k_g])
        if whitened.system is None:
            factorization: Any = _NoEffects(whitened.xy.T @ whitened.xy)
        else:
            factorization = whitened.system.factorize(merged)
        sigmas = self.space.user_sigmas(terms) if self._inner.uses_sigmas else None
        solution = self._inner.solve(factorization.gram, sigmas)
        value = whitened.logdet + factorization.logdet + solution.value + self.constant
        return factorization, solution, terms, value

    # --- rows times V^-1

    def _residual_columns(self, theta: np.ndarray) -> np.ndarray:
        """L'V^-1 [X y] = (I - ZWZ') of the whitened rows (n, c)."""
        factorization = self.eliminated(theta)[0]
        whitened = self._whiten(theta[self.k_g :])
        if whitened.system is None:
            return whitened.xy
        c = whitened.xy.shape[1]
        zx = np.concatenate([b.reshape(-1, c) for _, b in whitened.system.level_products()])
        solved = factorization.solve(np.ascontiguousarray(zx))
        return whitened.xy - self._spread(whitened, self._split(solved))

    def _split(self, flat: np.ndarray) -> list[np.ndarray]:
        out, at = [], 0
        for f in self.layout.factors:
            out.append(flat[at : at + f.size].reshape(f.q, f.n_levels, -1))
            at += f.size
        return out

    @staticmethod
    def _spread(whitened: _Whitened, effects: Sequence[np.ndarray]) -> np.ndarray:
        """Z b (n, c) for `effects` (q, J, c) of every factor."""
        out = 0.0
        for f, z, b in zip(whitened.layout.factors, whitened.z, effects, strict=True):
            for a in range(f.q):
                out = out + z[:, a, None] * f.at_rows(b[a])
        return np.asarray(out)

    def _moved(self, theta: np.ndarray, whitened: _Whitened, columns: np.ndarray, scores: Sequence[np.ndarray]) -> list:
        """L^-1 dV_t V^-1 of whitened columns (n, c) for every parameter, given Z'V^-1 of them (q, J, c)."""
        terms = self.eliminated(theta)[2]
        out = []
        if self.k_g:
            zero = [np.zeros_like(lam) for lam in terms]
            directions = self.space.chain_rule(theta[: self.k_g], terms, zero, [False] * len(terms))[1]
            for k, e in directions:
                f, z = whitened.layout.factors[k], whitened.z[k]
                effects = np.tensordot(e, scores[k], axes=1)
                out.append(sum(z[:, a, None] * f.at_rows(effects[a]) for a in range(f.q)))
        k_phi = self.k_theta - self.k_g
        moved = np.empty((k_phi, *columns.shape))
        for batch, root in zip(self._batches, whitened.roots, strict=True):
            tangents = self.residual.structure.block_tangents(theta[self.k_g :], batch)
            for t in range(k_phi):
                inner = root @ tangents[t] @ root.transpose(0, 2, 1)
                moved[t, batch.rows] = inner[batch.member] @ columns[batch.rows]
        return [*out, *moved]

    def _scores(self, factorization: Any, count: int, c: int) -> list[np.ndarray]:
        """Z'V^-1 of the first `count` of c columns [X y] (q, J, count), per factor."""
        columns = [factorization.scores(unit) for unit in np.eye(c)[:count]]
        return [np.stack([column[k] for column in columns], axis=2) for k in range(len(self.layout.factors))]

    def inverse_rows(self, theta: np.ndarray) -> tuple[np.ndarray, list[InverseBlocks]]:
        """V^-1 [X y] (n, c) at working parameters, and V^-1 and R within every subject; rows times the roots of the
        weights.
        """
        factorization = self.eliminated(theta)[0]
        whitened = self._whiten(theta[self.k_g :])
        columns = self._residual_columns(theta)
        z = np.concatenate(whitened.z, axis=1) if whitened.z else None
        out, blocks = np.empty_like(columns), []
        for batch, root in zip(self._batches, whitened.roots, strict=True):
            own = root[batch.member]
            out[batch.rows] = own.transpose(0, 2, 1) @ columns[batch.rows]
            inner = np.broadcast_to(np.eye(batch.size), own.shape)
            if z is not None:
                cov = subject_covariances(self.layout, factorization, batch.rows[:, 0])
                inner = inner - z[batch.rows] @ cov @ z[batch.rows].transpose(0, 2, 1)
            residual = self.residual.structure.blocks(theta[self.k_g :], batch)[batch.member]
            blocks.append(InverseBlocks(batch.rows, own.transpose(0, 2, 1) @ inner @ own, residual))
        return out, blocks

    # --- derivatives

    def _slopes(self, theta: np.ndarray, weights: np.ndarray, columns: np.ndarray) -> list[np.ndarray]:
        """Derivative of log|V| + value(K) in R of every pattern (s, m, m)."""
        factorization = self.eliminated(theta)[0]
        whitened = self._whiten(theta[self.k_g :])
        weighted = columns @ weights
        z = np.concatenate(whitened.z, axis=1) if whitened.z else None
        out = []
        for batch, root in zip(self._batches, whitened.roots, strict=True):
            explained = weighted[batch.rows] @ columns[batch.rows].transpose(0, 2, 1)
            if z is not None:
                cov = subject_covariances(self.layout, factorization, batch.rows[:, 0])
                rows = z[batch.rows]
                explained += rows @ cov @ rows.transpose(0, 2, 1)
            total = -batch.sum_by_pattern(explained)
            index = np.arange(batch.size)
            total[:, index, index] += batch.counts[:, None]
            out.append(root.transpose(0, 2, 1) @ total @ root)
        return out

    def derivatives(
        self, theta: np.ndarray, weights: np.ndarray, xi: np.ndarray, projection: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        gradient, curvature, _, columns = self._gradient(theta, weights, None)
        a, b = self._information(theta, xi, projection, columns)
        return gradient, curvature, a, b

    def _gradient(
        self, theta: np.ndarray, weights: np.ndarray, extra: Any
    ) -> tuple[np.ndarray, np.ndarray, tuple, np.ndarray]:
        """Gradient, curvature of the factors, slopes of the terms, and `_residual_columns`."""
        factorization, _, terms, _ = self.eliminated(theta)
        columns = self._residual_columns(theta)
        gradient = np.empty(self.k_theta)
        curvature = np.zeros((self.k_theta, self.k_theta))
        slopes: list[np.ndarray] = []
        if self.k_g:
            slopes = self.space.by_term(factorization.derivatives(weights))
            for t, part in enumerate(extra or ()):
                if part is not None:
                    a = self.layout.term_bases[t].a
                    slopes[t] = slopes[t] + a.T @ part @ a
            at = slice(0, self.k_g)
            gradient[at], _, _, curvature[at, at] = self.space.chain_rule(
                theta[at], terms, slopes, [False] * len(terms)
            )
        parts = self._slopes(theta, weights, columns)
        gradient[self.k_g :] = self.residual.structure.contract(theta[self.k_g :], self._batches, parts)
        return gradient, curvature, tuple(slopes), columns

    def _information(
        self, theta: np.ndarray, xi: np.ndarray, projection: np.ndarray, columns: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        factorization = self.eliminated(theta)[0]
        whitened = self._whiten(theta[self.k_g :])
        scores = [score[:, :, None] for score in factorization.scores(xi)]
        moved = np.concatenate(self._moved(theta, whitened, (columns @ xi)[:, None], scores), axis=1)
        gram = self._gram_with(whitened, self.space.factors(theta[: self.k_g])[0], moved)
        p, k = self.k_fe, self.k_theta
        ax = gram[p : p + k, :p]
        a = gram[p : p + k, p : p + k] - ax @ projection @ ax.T
        return a, ax @ xi[:p] + gram[p : p + k, -1] * xi[p]

    def evaluate(self, theta: np.ndarray) -> Evaluation:
        """Value, gradient and average information at working parameters."""
        _, solution, _, value = self.eliminated(theta)
        gradient, curvature, slopes, columns = self._gradient(theta, solution.gram_weights, solution.sigma_gradients)
        xi = np.append(-solution.beta, 1.0)
        projection = solution.cov_beta if solution.projection is None else solution.projection
        a, b = self._information(theta, xi, projection, columns)
        b = b / solution.sigma2
        average = a / solution.sigma2 - solution.curvature_c * np.multiply.outer(b, b)
        return Evaluation(np.array(theta), value, gradient, average + curvature, slopes)

    # --- start

    def _start_g(self) -> np.ndarray:
        if not self.k_g:
            return np.zeros(0)
        whitened = self._whiten(self.residual.structure.start())
        variances = moment_variances(whitened.layout, whitened.system, self.nobs, self.k_fe)
        theta = np.concatenate([s.start(v) for s, v in zip(self.space.structures, variances, strict=True)])
        for t in contained_terms(self.random) if self._priors is None else ():
            theta[self.random.theta_slices[t]] = 0.0
        return theta

    # --- inference

    def products(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        factorization = self.eliminated(theta)[0]
        whitened = self._whiten(theta[self.k_g :])
        p, k = self.k_fe, self.k_theta
        columns = np.ascontiguousarray(self._residual_columns(theta)[:, :p])
        scores = self._scores(factorization, p, p + 1)
        moved = np.concatenate(self._moved(theta, whitened, columns, scores), axis=1)
        gram = self._gram_with(whitened, self.space.factors(theta[: self.k_g])[0], moved)
        at = slice(p, p + k * p)
        single = gram[:p, at].reshape(p, k, p).transpose(1, 0, 2)
        double = gram[at, at].reshape(k, p, k, p).transpose(0, 2, 1, 3)
        return np.ascontiguousarray(single), np.ascontiguousarray(double)

    def second_order(self, theta: np.ndarray) -> SecondOrder:
        """By central differences of the gradient; the slopes of the covariance of beta are exact."""
        return second_order(self, theta, -self.products(theta)[0])

    def _modes(self, factorization: Any, beta: np.ndarray, terms: list[np.ndarray]) -> tuple[np.ndarray, ...]:
        return conditional_modes(self.layout, factorization, terms, beta)

    def conditional_cov(self, theta: np.ndarray) -> tuple[np.ndarray, ...]:
        if not self.k_g:
            return ()
        return level_covariances(self.layout, self.eliminated(self.working_theta(theta))[0])

    def prediction_variance(
        self, theta: np.ndarray, exog: np.ndarray, rows: list[tuple[np.ndarray, np.ndarray]]
    ) -> np.ndarray:
        if not self.k_g:
            return super().prediction_variance(theta, exog, rows)
        working = self.working_theta(theta)
        factorization, inner, terms, _ = self.eliminated(working)
        system = self._whiten(working[self.k_g :]).system
        x = np.asarray(exog, dtype=float) @ self.basis.a
        return new_row_variance(self.layout, system, factorization, terms, inner.cov_beta, x, rows)
