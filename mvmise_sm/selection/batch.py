"""Many features with one design, one scalar random term and one mechanism of single values, evaluated together.

The formulas are those of `FactorLikelihood` with one outcome; clusters of all features stand side by side, so that one
call costs what its arithmetic costs. Letters as in the package; F features, n rows, C clusters, m missing values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mvmise_sm.selection.integrals import MODE_STEPS, QUADRATURE_SPAN, RESOLVED, quadrature_step
from mvmise_sm.selection.mechanism import LOG_2PI, BlockIntegral, Mechanism

__all__ = ["BatchPoint", "FeatureBatch", "solve_beta"]

# Newton steps for beta: those that gain less are rounding
BETA_GAIN, BETA_STEPS, BETA_HALVINGS = 1e-13, 30, 20


@dataclass(frozen=True)
class BatchPoint:
    """Every feature at its parameters.

    Attributes
    ----------
    beta : ndarray, (F, p)
    value : ndarray, (F,)
        Log-likelihood.
    in_beta : ndarray, (F, p)
        Score.
    in_tau, in_log_s2 : ndarray, (F,)
    in_phi : ndarray, (F, 2)
    information : ndarray, (F, p, p)
        Observed information of beta.
    """

    beta: np.ndarray
    value: np.ndarray
    in_beta: np.ndarray
    in_tau: np.ndarray
    in_log_s2: np.ndarray
    in_phi: np.ndarray
    information: np.ndarray

    @property
    def logdet(self) -> np.ndarray:
        """``log|I_bb|``, (F,); minus infinity where it is not positive definite."""
        sign, value = np.linalg.slogdet(self.information)
        return np.where(sign > 0, value, -np.inf)


class FeatureBatch:
    """The likelihoods of many features.

    Parameters
    ----------
    Y : ndarray, (n, F)
        NaN where missing.
    X : ndarray, (n, p)
    codes : ndarray of int, (n,)
        Cluster of every row; every cluster occurs.
    mechanism : Mechanism
    z : ndarray, (n,), optional
        Multipliers of the random effect.
    offset : ndarray, (n,), optional
        Known part of eta.
    """

    def __init__(
        self,
        Y: np.ndarray,
        X: np.ndarray,
        codes: np.ndarray,
        mechanism: Mechanism,
        *,
        z: np.ndarray | None = None,
        offset: np.ndarray | None = None,
    ) -> None:
        order = np.argsort(codes, kind="stable")
        self.order, codes = order, codes[order]
        self.mechanism = mechanism
        self.X, Y = np.ascontiguousarray(X[order]), Y[order]
        self.n, self.F = Y.shape
        self.p = X.shape[1]
        self.starts = np.flatnonzero(np.r_[True, np.diff(codes) > 0])
        self.z = np.ones(self.n) if z is None else z[order]
        self.offset = np.zeros(self.n) if offset is None else offset[order]
        self.observed = np.isfinite(Y)
        self.seen = self.observed.astype(float)
        self.Y = np.where(self.observed, Y, 0.0)
        self.n_seen = self.seen.sum(axis=0)
        self.zz = np.add.reduceat(self.seen * self.z[:, None] ** 2, self.starts, axis=0)
        self.xx = np.einsum("nf,np,nq->fpq", self.seen, self.X, self.X)
        self.loaded = np.add.reduceat(
            (self.seen * self.z[:, None])[:, :, None] * self.X[:, None, :], self.starts, axis=0
        )
        # missing values, feature by feature and cluster by cluster within it
        feature, row = np.nonzero(~self.observed.T)
        self.unit_feature, self.unit_row, self.unit_cluster = feature, row, codes[row]
        key = feature * len(self.starts) + self.unit_cluster
        alone = np.bincount(key)[key] == 1 if key.size else np.zeros(0, bool)
        self.single, self.several = np.flatnonzero(alone), np.flatnonzero(~alone)
        _, first = np.unique(key[self.several], return_index=True)
        self.first = first
        self.group = np.repeat(np.arange(first.size), np.diff(np.r_[first, self.several.size]))
        self.group_feature = feature[self.several][first]
        self.group_cluster = self.unit_cluster[self.several][first]

    def set_offset(self, offset: np.ndarray) -> None:
        """Replace the known part of eta, (n,) in the order of the rows given."""
        self.offset = offset[self.order]

    def sum_units(self, values: np.ndarray) -> np.ndarray:
        """Sums of values of the missing units (m,) by feature, (F,)."""
        return np.bincount(self.unit_feature, values, minlength=self.F)

    def evaluate(self, beta: np.ndarray, tau: np.ndarray, s2: np.ndarray, phi: np.ndarray) -> BatchPoint:
        """All features at ``beta`` (F, p), ``tau`` and ``s2`` (F,) and a common ``phi`` (2,)."""
        resid = self.Y - self.seen * (self.X @ beta.T)
        R = np.add.reduceat(resid * self.z[:, None], self.starts, axis=0)
        P = 1.0 / (1.0 + tau**2 * self.zz / s2)
        bh = P * tau * R / s2
        squares = (resid**2).sum(axis=0)
        value = -0.5 * (
            self.n_seen * (LOG_2PI + np.log(s2)) - np.log(P).sum(axis=0) + squares / s2 - (bh**2 / P).sum(axis=0)
        )
        scaled = tau[:, None] * self.loaded * (P / s2)[:, :, None]
        information = self.xx / s2[:, None, None]
        information = information - np.einsum("cfp,cfq,f->fpq", scaled, self.loaded, tau / s2)
        eta = phi[0] + phi[1] * self.Y + self.offset[:, None]
        term = self.mechanism.seen(np.where(self.observed, eta, -np.inf if phi[1] == 0 else -30.0))
        value = value + np.where(self.observed, term[0], 0.0).sum(axis=0)
        slope_seen = np.where(self.observed, term[1], 0.0)
        in_phi = np.stack([slope_seen.sum(axis=0), (slope_seen * self.Y).sum(axis=0)], axis=1)
        b, b2, unit = bh.copy(), bh**2 + P, np.zeros((self.unit_row.size, 3))
        if self.unit_row.size:
            value, information = self._missing(beta, tau, s2, phi, bh, P, scaled, b, b2, unit, value, information)
        f, row = self.unit_feature, self.unit_row
        x, z = self.X[row], self.z[row]
        mean = np.einsum("mp,mp->m", x, beta[f])
        in_beta = ((resid - tau * self.seen * self.z[:, None] * self._by_row(b)) / s2).T @ self.X
        for j in range(self.p):
            in_beta[:, j] += phi[1] * self.sum_units(unit[:, 0] * x[:, j])
        in_tau = ((b * R).sum(axis=0) - tau * (b2 * self.zz).sum(axis=0)) / s2
        in_tau = in_tau + phi[1] * self.sum_units(unit[:, 1] * z)
        expected = squares - 2.0 * tau * (b * R).sum(axis=0) + tau**2 * (b2 * self.zz).sum(axis=0)
        in_log_s2 = 0.5 * (expected / s2 - self.n_seen) + phi[1] ** 2 * s2 * self.sum_units(unit[:, 2])
        linear = unit[:, 0] * mean + tau[f] * z * unit[:, 1] + 2.0 * phi[1] * s2[f] * unit[:, 2]
        in_phi += np.stack([self.sum_units(unit[:, 0]), self.sum_units(linear)], axis=1)
        return BatchPoint(beta, value, in_beta, in_tau, in_log_s2, in_phi, information)

    def row_scores(
        self, beta: np.ndarray, tau: np.ndarray, s2: np.ndarray, phi: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Score and rough information of one number added to eta in each row, over all features, (n,) each."""
        probe = self._units_at(beta, tau, s2, phi)
        eta = phi[0] + phi[1] * self.Y + self.offset[:, None]
        term = self.mechanism.seen(np.where(self.observed, eta, -30.0))
        score = np.where(self.observed, term[1], 0.0).sum(axis=1)
        weight = -np.where(self.observed, term[2], 0.0).sum(axis=1)
        score += np.bincount(self.unit_row, probe[:, 0], minlength=self.n)
        curvature = np.maximum(probe[:, 0] ** 2 - 2.0 * probe[:, 2], 0.0)
        weight += np.bincount(self.unit_row, curvature, minlength=self.n)
        back = np.empty(self.n, dtype=int)
        back[self.order] = np.arange(self.n)
        return score[back], weight[back]

    def _units_at(self, beta: np.ndarray, tau: np.ndarray, s2: np.ndarray, phi: np.ndarray) -> np.ndarray:
        """Expectations of dG/dm, b dG/dm and dG/ds2 of every missing value, (m, 3)."""
        resid = self.Y - self.seen * (self.X @ beta.T)
        R = np.add.reduceat(resid * self.z[:, None], self.starts, axis=0)
        P = 1.0 / (1.0 + tau**2 * self.zz / s2)
        scaled = tau[:, None] * self.loaded * (P / s2)[:, :, None]
        unit = np.zeros((self.unit_row.size, 3))
        bh = P * tau * R / s2
        nothing = np.zeros((self.F, self.p, self.p))
        self._missing(beta, tau, s2, phi, bh, P, scaled, bh.copy(), bh.copy(), unit, np.zeros(self.F), nothing)
        return unit

    def _by_row(self, per_cluster: np.ndarray) -> np.ndarray:
        """Values by cluster (C, F) for every row, (n, F)."""
        sizes = np.diff(np.r_[self.starts, self.n])
        return np.repeat(per_cluster, sizes, axis=0)

    def _missing(
        self,
        beta: Any,
        tau: Any,
        s2: Any,
        phi: Any,
        bh: Any,
        P: Any,
        scaled: Any,
        b: Any,
        b2: Any,
        unit: Any,
        value: Any,
        information: Any,
    ) -> Any:
        """Integrate the missing values over b; fills moments, returns value and information with their part."""
        f, c, row = self.unit_feature, self.unit_cluster, self.unit_row
        x = self.X[row]
        base = phi[0] + phi[1] * np.einsum("mp,mp->m", x, beta[f]) + self.offset[row]
        slope = phi[1] * tau[f] * self.z[row]
        var = phi[1] ** 2 * s2[f]
        direction = phi[1] * x - slope[:, None] * scaled[c, f]
        bend = np.empty(row.size)
        added = np.zeros(row.size)
        one = self.single
        if one.size:
            at, spread = bh[c[one], f[one]], P[c[one], f[one]]
            own = slope[one]
            g = BlockIntegral(*self.mechanism.missing(base[one] + own * at, var[one] + own**2 * spread))
            shift = spread * own * g.d_mean
            b[c[one], f[one]] = at + shift
            b2[c[one], f[one]] = spread + 2.0 * (spread * own) ** 2 * g.d_var + at**2 + 2.0 * at * shift
            cross = at * g.d_mean + 2.0 * own * spread * g.d_var
            unit[one] = np.column_stack([g.d_mean, cross, g.d_var])
            bend[one], added[one] = 2.0 * g.d_var - g.d_mean**2, g.value
        value = value + self.sum_units(added)
        many = self.several
        if many.size:
            nodes, weight, g, total = self._nodes(bh, P, base[many], slope[many], var[many])
            value = value + np.bincount(self.group_feature, total, minlength=self.F)
            b[self.group_cluster, self.group_feature] = (weight * nodes).sum(axis=1)
            b2[self.group_cluster, self.group_feature] = (weight * nodes**2).sum(axis=1)
            share = weight[self.group]
            pull = share * g.d_mean
            unit[many] = np.column_stack(
                [pull.sum(axis=1), (pull * nodes[self.group]).sum(axis=1), (share * g.d_var).sum(axis=1)]
            )
            bend[many] = (share * (2.0 * g.d_var - g.d_mean**2)).sum(axis=1)
            drawn = np.add.reduceat(g.d_mean[:, :, None] * direction[many][:, None, :], self.first, axis=0)
            mean = (weight[:, :, None] * drawn).sum(axis=1)
            centred = drawn - mean[:, None, :]
            spread = np.einsum("gk,gkp,gkq->gpq", weight, centred, centred)
            information = information - self._by_feature(spread, self.group_feature)
        curvature = bend[:, None, None] * direction[:, :, None] * direction[:, None, :]
        return value, information - self._by_feature(curvature, f)

    def _by_feature(self, matrices: np.ndarray, feature: np.ndarray) -> np.ndarray:
        """Sums of matrices (m, p, p) by feature, (F, p, p); features come in order."""
        out = np.zeros((self.F, self.p, self.p))
        if len(matrices):
            known, first = np.unique(feature, return_index=True)
            out[known] = np.add.reduceat(matrices, first, axis=0)
        return out

    def _nodes(self, bh: Any, P: Any, base: Any, slope: Any, var: Any) -> Any:
        """Nodes (g, k), their weights, the integrals there (m, k) and the logarithm of every integral (g,)."""
        centre = bh[self.group_cluster, self.group_feature]
        spread = np.sqrt(P[self.group_cluster, self.group_feature])
        mode = centre.copy()
        for _ in range(MODE_STEPS):
            g = BlockIntegral(*self.mechanism.missing(base + slope * mode[self.group], var))
            first = np.add.reduceat(slope * g.d_mean, self.first) - (mode - centre) / spread**2
            bend = slope**2 * np.minimum(2.0 * g.d_var - g.d_mean**2, 0.0)
            mode = mode + first / (1.0 / spread**2 - np.add.reduceat(bend, self.first))
        width = np.sqrt((RESOLVED * self.mechanism.width) ** 2 + var)
        step = quadrature_step(width, slope * spread[self.group], self.first)
        points = int(QUADRATURE_SPAN / step)
        nodes = mode[:, None] + spread[:, None] * (step * np.arange(-points, points + 1))
        g = BlockIntegral(*self.mechanism.missing(base[:, None] + slope[:, None] * nodes[self.group], var[:, None]))
        log_weight = np.add.reduceat(g.value, self.first, axis=0)
        log_weight -= 0.5 * ((nodes - centre[:, None]) / spread[:, None]) ** 2
        top = log_weight.max(axis=1, keepdims=True)
        weight = np.exp(log_weight - top)
        total = weight.sum(axis=1, keepdims=True)
        logs = (top + np.log(total))[:, 0] + np.log(step) - 0.5 * LOG_2PI
        return nodes, weight / total, g, logs


def solve_beta(batch: FeatureBatch, beta: np.ndarray, tau: np.ndarray, s2: np.ndarray, phi: np.ndarray) -> BatchPoint:
    """Maximise every feature over its fixed effects by Newton steps, halved where a feature would fall."""
    here = batch.evaluate(beta, tau, s2, phi)
    for _ in range(BETA_STEPS):
        step = newton_steps(here)
        gain = 0.5 * np.einsum("fp,fp->f", step, here.in_beta)
        moving = gain > BETA_GAIN * np.maximum(1.0, np.abs(here.value))
        if not moving.any():
            break
        step[~moving] = 0.0
        there = batch.evaluate(here.beta + step, tau, s2, phi)
        for _ in range(BETA_HALVINGS):
            worse = ~(there.value >= here.value - 1e-12 * np.abs(here.value))
            if not worse.any():
                break
            step[worse] *= 0.4
            there = batch.evaluate(here.beta + step, tau, s2, phi)
        here = there
    return here


def newton_steps(point: BatchPoint) -> np.ndarray:
    """Newton's step of every feature, (F, p); none where the information is not positive definite."""
    info = point.information.copy()
    bad = ~np.isfinite(point.logdet)
    info[bad] = np.eye(info.shape[1])
    step = np.linalg.solve(info, point.in_beta[:, :, None])[:, :, 0]
    step[bad] = 0.0
    return step
