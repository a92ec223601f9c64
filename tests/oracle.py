"""The slow obvious linear mixed model: V is built densely, the optimiser is scipy's.

The oracle of the fast engine in `mvmise_sm.core`; same names, same meaning, no structure used anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import linalg, optimize


@dataclass(frozen=True)
class DenseSolution:
    """Everything at one theta; the fields of `mvmise_sm.core.criteria.linear.PLSSolution`."""

    theta: np.ndarray
    beta: np.ndarray
    b: tuple
    sigma2: float
    cov_beta: np.ndarray
    logdet_m: float
    logdet_x: float
    r2: float
    nu: int
    criterion: float
    penalty: float = 0.0

    @property
    def objective(self):
        return self.criterion + self.penalty


class DenseDeviance:
    """Profiled ML or REML criterion with V = I + sum_t Z_t (I (x) Sigma_t) Z_t' formed explicitly."""

    def __init__(self, y, X, random, *, priors=None, reml=True, weights=None, offset=None):
        if priors is not None:
            raise NotImplementedError("the oracle has no priors")
        n = len(y)
        self.nobs, self.k_fe = X.shape
        self.random, self.reml, self.k_theta, self.lower = random, reml, random.k_theta, random.lower
        self.weights = np.ones(n) if weights is None else np.asarray(weights, float)
        self.offset = np.zeros(n) if offset is None else np.asarray(offset, float)
        root = np.sqrt(self.weights)
        self.y, self.X = root * (np.asarray(y, float) - self.offset), root[:, None] * X
        self.z = []
        for term in random.terms:
            columns = np.column_stack([np.ones(n) if c is None else c for c in term.columns]) * root[:, None]
            dense = np.zeros((n, term.factor.n_levels, term.q))
            dense[np.arange(n), term.factor.codes] = columns
            self.z.append(dense.reshape(n, -1))

    def covariance(self, theta):
        """Return V (nobs, nobs)."""
        v = np.eye(self.nobs)
        for term, z, lam in zip(self.random.terms, self.z, self.random.lambdas(np.asarray(theta)), strict=True):
            zl = z @ np.kron(np.eye(term.factor.n_levels), lam)
            v += zl @ zl.T
        return v

    def solve(self, theta):
        theta = np.asarray(theta, float)
        chol = linalg.cholesky(self.covariance(theta), lower=True)
        wx, wy = (linalg.solve_triangular(chol, a, lower=True) for a in (self.X, self.y))
        q, r = np.linalg.qr(wx)
        beta = linalg.solve_triangular(r, q.T @ wy)
        residual = linalg.solve_triangular(chol, wy - wx @ beta, lower=True, trans=1)
        r2 = float((wy - wx @ beta) @ (wy - wx @ beta))
        logdet_m = 2.0 * np.log(np.diag(chol)).sum()
        logdet_x = 2.0 * np.log(np.abs(np.diag(r))).sum()
        nu = self.nobs - self.k_fe if self.reml else self.nobs
        criterion = logdet_m + nu * (1.0 + np.log(2.0 * np.pi * r2 / nu)) - np.log(self.weights).sum()
        if self.reml:
            criterion += logdet_x
        b = tuple(
            (z.T @ residual).reshape(-1, t.q) @ lam @ lam.T
            for t, z, lam in zip(self.random.terms, self.z, self.random.lambdas(theta), strict=True)
        )
        r_inv = linalg.solve_triangular(r, np.eye(self.k_fe))
        return DenseSolution(theta, beta, b, r2 / nu, r_inv @ r_inv.T, logdet_m, logdet_x, r2, nu, float(criterion))

    def __call__(self, theta):
        return self.solve(theta).objective

    def gradient(self, theta, step=1e-5):
        """Central differences, one-sided on the boundary."""
        theta = np.asarray(theta, float)
        out = np.empty(self.k_theta)
        for i in range(self.k_theta):
            e = np.zeros(self.k_theta)
            e[i] = step * max(1.0, abs(theta[i]))
            if theta[i] - e[i] < self.lower[i]:
                out[i] = (-3 * self(theta) + 4 * self(theta + e) - self(theta + 2 * e)) / (2 * e[i])
            else:
                out[i] = (self(theta + e) - self(theta - e)) / (2 * e[i])
        return out

    def start(self):
        return np.where(self.lower == 0.0, 1.0, 0.0)

    def joint_covariance(self, theta):
        """Var(b_hat - b, beta_hat - beta) / sigma2 from Henderson's equations, and the blocks' layout (b first)."""
        lam = linalg.block_diag(
            *[
                np.kron(np.eye(t.factor.n_levels), m)
                for t, m in zip(self.random.terms, self.random.lambdas(np.asarray(theta)), strict=True)
            ]
        )
        zl = np.column_stack(self.z) @ lam
        design = np.column_stack([zl, self.X])
        lhs = design.T @ design
        lhs[: lam.shape[0], : lam.shape[0]] += np.eye(lam.shape[0])
        scale = linalg.block_diag(lam, np.eye(self.k_fe))
        return scale @ np.linalg.inv(lhs) @ scale.T

    def conditional_cov(self, theta):
        """Var(b | y, beta) / sigma2 per factor (n_levels, q_k, q_k)."""
        lam = linalg.block_diag(
            *[
                np.kron(np.eye(t.factor.n_levels), m)
                for t, m in zip(self.random.terms, self.random.lambdas(np.asarray(theta)), strict=True)
            ]
        )
        zl = np.column_stack(self.z) @ lam
        full = lam @ np.linalg.inv(zl.T @ zl + np.eye(lam.shape[0])) @ lam.T
        starts = np.cumsum([0] + [z.shape[1] for z in self.z])
        out = []
        for factor in self.random.factors:
            index = np.column_stack(
                [
                    starts[i]
                    + np.arange(factor.n_levels)[:, None] * self.random.terms[i].q
                    + np.arange(self.random.terms[i].q)
                    for i in self.random.terms_of(factor)
                ]
            )
            out.append(np.array([full[np.ix_(k, k)] for k in index]))
        return tuple(out)

    def prediction_variance(self, theta, exog, rows):
        """Relative variance of x'(beta_hat - beta) + z'(b_hat - b) per row."""
        theta = np.asarray(theta, float)
        joint = self.joint_covariance(theta)
        m = len(exog)
        contrasts, extra = [], np.zeros(m)
        for term, lam, row in zip(self.random.terms, self.random.lambdas(theta), rows, strict=True):
            codes, columns = row
            dense = np.zeros((m, term.factor.n_levels, term.q))
            known = codes >= 0
            dense[np.flatnonzero(known), codes[known]] = columns[known]
            contrasts.append(dense.reshape(m, -1))
            new = columns[~known] @ lam
            extra[~known] += (new**2).sum(axis=1)
        c = np.column_stack([*contrasts, exog])
        return np.einsum("ij,jk,ik->i", c, joint, c) + extra


@dataclass(frozen=True)
class DenseOptimum:
    theta: np.ndarray
    value: float
    converged: bool
    singular: bool
    message: str
    retvals: dict
    settings: dict


def minimize(criterion, start=None, *, method="newton", maxiter=100, **options):
    """Best of L-BFGS-B and Nelder-Mead from two starts, polished; slow and safe."""
    bounds = [(low if np.isfinite(low) else None, None) for low in criterion.lower]
    best = None
    stages = [
        ("L-BFGS-B", {"ftol": 1e-15, "gtol": 1e-9}),
        ("Nelder-Mead", {"xatol": 1e-9, "fatol": 1e-12, "maxiter": 4000}),
    ]
    for scale in (1.0, 0.3):
        x = scale * criterion.start() if start is None else np.asarray(start, float)
        for name, opts in stages:
            found = optimize.minimize(criterion, x, method=name, bounds=bounds, options=opts)
            x = found.x
            if best is None or found.fun < best.fun:
                best = found
    theta = best.x.copy()
    for i in np.flatnonzero(np.isfinite(criterion.lower)):
        trial = theta.copy()
        trial[i] = 0.0
        if criterion(trial) <= criterion(theta) + 1e-10:
            theta = trial
    singular = bool((theta[np.isfinite(criterion.lower)] == 0.0).any())
    retvals = {"n_evaluations": best.nfev, "n_iterations": best.nit, "converged": True}
    return DenseOptimum(theta, float(criterion(theta)), True, singular, "", retvals, {"optimizer": method})
