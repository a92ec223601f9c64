"""Integrals of model b over the shared effect of a cluster: what the missing units add to its normal posterior.

In closed form for one missing unit, otherwise by the trapezoidal rule around the integrand's mode, which converges
geometrically.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mvmise_sm.selection.mechanism import LOG_2PI, BlockIntegral
from mvmise_sm.selection.units import MechanismPart, Units

__all__ = ["MODE_STEPS", "QUADRATURE_SPAN", "RESOLVED", "FactorPosterior", "UnitIntegrals", "quadrature_step"]

# in posterior standard deviations of b; the trapezoidal rule is exact to double precision at the coarsest step unless
# the mechanism bends the integrand within a shorter distance
QUADRATURE_STEPS = tuple(0.8 * 0.5 ** (k / 4) for k in range(21))
# of a mechanism's width, what has to be resolved: the logit's nearest pole asks for more than its bend
RESOLVED = 0.8
QUADRATURE_SPAN = 8.0
MODE_STEPS = 4
# after a Newton step shorter than this many standard deviations of b the mode is well within the nodes
NEAR_MODE = 0.75
# slopes below it are none
FLAT = 1e-12


@dataclass(frozen=True)
class FactorPosterior:
    """Moments given the observed outcomes and which units are missing.

    Attributes
    ----------
    b, b2 : ndarray, (n_clusters,)
        First and second moment of the shared effect.
    log_missing : float
        Log-probability of the missing units.
    unit : ndarray, (m, 3)
        Per missing unit the expectations of dG/dm, b dG/dm and dG/ds2.
    """

    b: np.ndarray
    b2: np.ndarray
    log_missing: float
    unit: np.ndarray


@dataclass(frozen=True)
class Nodes:
    """The quadrature over b in the clusters with several missing units.

    Attributes
    ----------
    at, weight : ndarray, (n, nodes)
        Values of b and their normalised posterior weights.
    integral : BlockIntegral
        Of every missing unit there, (m, nodes).
    log_total : float
        Logarithm of all integrals.
    """

    at: np.ndarray
    weight: np.ndarray
    integral: BlockIntegral
    log_total: float


class UnitIntegrals:
    """The missing units of a data set, integrated over b cluster by cluster.

    Given b, eta of a unit is ``N(base + slope b, var)``; b given the observed outcomes is ``N(bh, P)`` by cluster.

    Parameters
    ----------
    part : MechanismPart
    units : Units
        The missing units, (m,).
    n_clusters : int
    """

    def __init__(self, part: MechanismPart, units: Units, n_clusters: int) -> None:
        self.part, self.units = part, units
        # a cluster with one missing unit has its integral in closed form
        alone = np.bincount(units.cluster, minlength=n_clusters)[units.cluster] == 1
        self.single, self.several = np.flatnonzero(alone), np.flatnonzero(~alone)
        several = units.cluster[self.several]
        self.touched, self.unit_starts = np.unique(several, return_index=True)
        self.unit_row = np.searchsorted(self.touched, several)

    def posterior(
        self, bh: np.ndarray, P: np.ndarray, base: np.ndarray, slope: np.ndarray, var: np.ndarray
    ) -> FactorPosterior:
        """Moments of b and the log-probability of the missing units."""
        b, b2 = bh.copy(), bh**2 + P
        unit = np.zeros((len(self.units), 3))
        if not len(self.units):
            return FactorPosterior(b, b2, 0.0, unit)
        value = self._alone(bh, P, base, slope, var, b, b2, unit) if self.single.size else 0.0
        if self.several.size:
            many = self.several
            nodes = self._nodes(bh, P, base[many], slope[many], var[many])
            b[self.touched] = (nodes.weight * nodes.at).sum(axis=1)
            b2[self.touched] = (nodes.weight * nodes.at**2).sum(axis=1)
            share = nodes.weight[self.unit_row]
            pull = share * nodes.integral.d_mean
            spread = (share * nodes.integral.d_var).sum(axis=1)
            unit[many] = np.column_stack([pull.sum(axis=1), (pull * nodes.at[self.unit_row]).sum(axis=1), spread])
            value += nodes.log_total
        return FactorPosterior(b, b2, value, unit)

    def _alone(
        self,
        bh: np.ndarray,
        P: np.ndarray,
        base: np.ndarray,
        slope: np.ndarray,
        var: np.ndarray,
        b: np.ndarray,
        b2: np.ndarray,
        unit: np.ndarray,
    ) -> float:
        """Clusters with one missing unit: eta is normal, so the mechanism's integral applies; fills the moments."""
        one = self.single
        cluster = self.units.cluster[one]
        at, spread, slope = bh[cluster], P[cluster], slope[one]
        mean, total = base[one] + slope * at, var[one] + slope**2 * spread
        integral = self.part.integral(self.units.slot[one], mean, total)
        shift = spread * slope * integral.d_mean
        b[cluster] = at + shift
        b2[cluster] = spread + 2.0 * (spread * slope) ** 2 * integral.d_var + at**2 + 2.0 * at * shift
        cross = at * integral.d_mean + 2.0 * slope * spread * integral.d_var
        unit[one] = np.column_stack([integral.d_mean, cross, integral.d_var])
        return float(integral.value.sum())

    def _nodes(self, bh: np.ndarray, P: np.ndarray, base: np.ndarray, slope: np.ndarray, var: np.ndarray) -> Nodes:
        """Clusters with several missing units: the trapezoidal rule over b in one batch."""
        centre, spread = bh[self.touched], np.sqrt(P[self.touched])
        slot, row, starts = self.units.slot[self.several], self.unit_row, self.unit_starts
        mode = centre.copy()
        for _ in range(MODE_STEPS):
            # a few Newton steps on the log-concave integrand; they only place the nodes
            g = self.part.integral(slot, base + slope * mode[row], var)
            first = np.add.reduceat(slope * g.d_mean, starts) - (mode - centre) / spread**2
            # G'' in the mean is 2 dG/ds2 - (dG/dm)^2
            bend = slope**2 * np.minimum(2.0 * g.d_var - g.d_mean**2, 0.0)
            move = first / (1.0 / spread**2 - np.add.reduceat(bend, starts))
            mode += move
            if np.abs(move / spread).max() < NEAR_MODE:
                break
        width = np.sqrt((RESOLVED * self.part.width) ** 2 + var)
        step = quadrature_step(width, slope * spread[row], starts)
        points = int(QUADRATURE_SPAN / step)
        at = mode[:, None] + spread[:, None] * (step * np.arange(-points, points + 1))
        integral = self.part.integral(slot, base[:, None] + slope[:, None] * at[row], var[:, None])
        log_weight = np.add.reduceat(integral.value, starts, axis=0)
        log_weight -= 0.5 * ((at - centre[:, None]) / spread[:, None]) ** 2
        top = log_weight.max(axis=1, keepdims=True)
        weight = np.exp(log_weight - top)
        total = weight.sum(axis=1, keepdims=True)
        value = float((top + np.log(total)).sum()) + self.touched.size * (np.log(step) - 0.5 * LOG_2PI)
        return Nodes(at, weight / total, integral, value)

    def information(
        self,
        bh: np.ndarray,
        P: np.ndarray,
        base: np.ndarray,
        slope: np.ndarray,
        var: np.ndarray,
        direction: np.ndarray,
    ) -> np.ndarray:
        """Second derivative of the log-probability of the missing units along `direction` (m, p) of eta, (p, p)."""
        units = self.units
        out = np.zeros((direction.shape[1],) * 2)
        one = self.single
        if one.size:
            cluster = units.cluster[one]
            mean, total = base[one] + slope[one] * bh[cluster], var[one] + slope[one] ** 2 * P[cluster]
            g = self.part.integral(units.slot[one], mean, total)
            own = direction[one]
            out += (own * (2.0 * g.d_var - g.d_mean**2)[:, None]).T @ own
        many = self.several
        if many.size:
            nodes = self._nodes(bh, P, base[many], slope[many], var[many])
            own, share, g = direction[many], nodes.weight[self.unit_row], nodes.integral
            bend = (share * (2.0 * g.d_var - g.d_mean**2)).sum(axis=1)
            out += (own * bend[:, None]).T @ own
            pull = np.add.reduceat(g.d_mean[:, :, None] * own[:, None, :], self.unit_starts, axis=0)
            mean = (nodes.weight[:, :, None] * pull).sum(axis=1)
            rows = (np.sqrt(nodes.weight)[:, :, None] * (pull - mean[:, None, :])).reshape(-1, direction.shape[1])
            out += rows.T @ rows
        return out


def quadrature_step(bend: np.ndarray, eta_slope: np.ndarray, starts: np.ndarray) -> float:
    """Step that resolves the bends of the units of every cluster together, of width `bend` in eta, (m,).

    The factors of one integrand, whose units begin at `starts`, bend it as one whose curvature is the sum of theirs.
    The error is below 1e-10 of it; steps are few, so that it does not vary within a line search.
    """
    # a unit whose predictor does not move with b has no bend to resolve
    moves = np.abs(eta_slope) > FLAT
    sharp = np.divide(eta_slope, bend, out=np.zeros(moves.shape), where=moves) ** 2
    total = float(np.add.reduceat(sharp, starts).max())
    needed = 0.88 / np.sqrt(1.0 + total)
    return next((step for step in QUADRATURE_STEPS if step <= needed), QUADRATURE_STEPS[-1])
