"""Model b: correlated outcome-specific random intercepts, ``y = X beta + (tau (x) 1) b + e`` with ``b ~ N(0, 1)``.

Given b the entries of a cluster are independent, so the likelihood needs one integral per cluster: the normal posterior
of b given the observed outcomes times the probability of the missing blocks given b. It is in closed form for one
missing block, otherwise evaluated by the trapezoidal rule around the integrand's mode, which converges geometrically.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mvmise_sm.selection.data import SelectionData
from mvmise_sm.selection.likelihood import (
    MAX_LOG_VARIANCE,
    THRESHOLD,
    UNCAPPED_DIVERGES,
    MechanismPart,
    SelectionParams,
    least_squares,
    mechanism_part,
    start_phi,
    variance_groups,
)
from mvmise_sm.selection.mechanism import LOG_2PI

# in posterior standard deviations of b; the trapezoidal rule is exact to double precision at the coarsest step
# unless the cap bends the integrand within a shorter distance
QUADRATURE_STEPS = (0.4, 0.2, 0.1, 0.05, 0.025)
QUADRATURE_SPAN = 8.0
MODE_STEPS = 4


@dataclass(frozen=True)
class FactorPosterior:
    """Moments given the observed outcomes and which blocks are missing.

    Attributes
    ----------
    b, b2 : ndarray, (n_clusters,)
        First and second moment of the shared effect.
    log_missing : float
        Log-probability of the missing blocks.
    block : ndarray, (m, 3)
        Per missing block the expectations of dG/dm, b dG/dm and dG/ds2.
    """

    b: np.ndarray
    b2: np.ndarray
    log_missing: float
    block: np.ndarray


class FactorLikelihood:
    """Log-likelihood of model b over ``theta = (beta, tau, log sigma2, phi)``.

    Parameters
    ----------
    data : SelectionData
    mechanism : {"capped", "log"}
    missing_y : bool
        Whether the mechanism depends on the outcome.
    first_sample_variance : bool
        Whether the first sample of a cluster has its own error variance.
    """

    def __init__(
        self,
        data: SelectionData,
        mechanism: str = "capped",
        missing_y: bool = True,
        first_sample_variance: bool = False,
    ) -> None:
        self.data = data
        self.part: MechanismPart = mechanism_part(data, mechanism, missing_y)
        self.group, indicator = variance_groups(data, first_sample_variance)
        p, K, g = data.X.shape[2], data.n_outcomes, indicator.shape[1]
        edges = np.cumsum([0, p, K, g, self.part.free.size])
        names = ("beta", "tau", "log_sigma2", "phi")
        self.slices = {name: slice(a, b) for name, a, b in zip(names, edges[:-1], edges[1:], strict=True)}
        self.size = int(edges[-1])
        seen = data.observed
        self._seen = seen.astype(float)
        self._y = np.where(seen, data.Y, 0.0)
        self._x = data.X * self._seen[:, :, None]
        self._x_flat = self._x.reshape(-1, p)
        # observed entries by variance group: per cluster and outcome, and in total
        self.counts = np.stack([data.cluster_sum(self._seen * column[:, None]) for column in indicator.T])
        self._counts_flat = self.counts.reshape(len(self.counts), -1)
        self.n_seen = self.counts.sum(axis=(1, 2))
        # Var(block mean | b) = _mean_var @ sigma2
        self._mean_var = np.stack([data.cluster_sum(c) for c in indicator.T], axis=1) / data.sizes[:, None] ** 2
        self.indicator = indicator
        blocks = data.missing_blocks
        self.blocks = blocks
        # a cluster with one missing block has its integral in closed form
        alone = np.bincount(blocks.cluster, minlength=data.n_clusters)[blocks.cluster] == 1
        self._single, self._several = np.flatnonzero(alone), np.flatnonzero(~alone)
        several = blocks.cluster[self._several]
        self._touched, self._block_starts = np.unique(several, return_index=True)
        self._block_row = np.searchsorted(self._touched, several)

    def params(self, theta: np.ndarray) -> SelectionParams:
        """Natural parameters of a point."""
        cut = self.slices
        return SelectionParams(
            beta=theta[cut["beta"]],
            sigma2=np.exp(theta[cut["log_sigma2"]]),
            phi=self.part.expand(theta[cut["phi"]]),
            tau=theta[cut["tau"]],
        )

    def theta(self, params: SelectionParams) -> np.ndarray:
        """The point of natural parameters."""
        return np.concatenate([params.beta, params.tau, np.log(params.sigma2), params.phi[self.part.free]])

    def chain(self, theta: np.ndarray, gradient: SelectionParams) -> np.ndarray:
        """Gradient over theta from a gradient over natural parameters."""
        sigma2 = np.exp(theta[self.slices["log_sigma2"]])
        return np.concatenate([gradient.beta, gradient.tau, gradient.sigma2 * sigma2, gradient.phi[self.part.free]])

    def start(self) -> np.ndarray:
        """Moment start: least squares, loadings from the spread of block means, a constant missingness rate."""
        data = self.data
        beta, resid = least_squares(data)
        count = self.counts.sum(axis=0)
        mean = data.cluster_sum(resid) / np.maximum(count, 1.0)
        within = np.where(data.observed, resid - mean[data.cluster], 0.0)
        degrees = max(count.sum() - (count > 0).sum(), 1.0)
        total = (resid**2).sum() / count.sum()
        sigma2 = max((within**2).sum() / degrees, 0.1 * total)
        blocks = (count > 0).sum(axis=0)
        between = (mean**2).sum(axis=0) / np.maximum(blocks, 1) - sigma2 * (count > 0).sum(axis=0) / count.sum(axis=0)
        tau = np.sqrt(np.maximum(between, 0.1 * total))
        # loadings of opposite sign are found from the block means' leading direction
        lead = np.linalg.eigh(mean.T @ mean)[1][:, -1]
        tau *= np.where(lead * np.sign(lead.sum() or 1.0) < 0, -1.0, 1.0)
        g = self.indicator.shape[1]
        return np.concatenate([beta, tau, np.full(g, np.log(sigma2)), start_phi(self.part, data)])

    def gaussian(self, theta: np.ndarray):
        """Observed-outcome part: parameters, weighted residuals and the normal posterior of b."""
        params = self.params(theta)
        resid = self._y - (self._x_flat @ params.beta).reshape(self._y.shape)
        weight = 1.0 / params.sigma2
        weighted = resid * weight[self.group][:, None]
        resid_sum = self.data.cluster_sum(weighted)
        weight_sum = weight @ self._counts_flat
        weight_sum = weight_sum.reshape(self.counts.shape[1:])
        precision = 1.0 + weight_sum @ params.tau**2
        return params, resid, weighted, resid_sum, weight_sum, resid_sum @ params.tau / precision, 1.0 / precision

    def posterior(self, params: SelectionParams, bh: np.ndarray, P: np.ndarray) -> FactorPosterior:
        """Integrate the missing blocks over b."""
        blocks, phi = self.blocks, params.phi
        if not len(blocks) or not self.part.free.size:
            return FactorPosterior(bh, bh**2 + P, 0.0, np.zeros((len(blocks), 3)))
        base = phi[0] + phi[1] * (blocks.x_mean @ params.beta) + phi[2] * blocks.covariate
        slope = phi[1] * params.tau[blocks.outcome]
        var = (phi[1] ** 2 * (self._mean_var @ params.sigma2))[blocks.cluster]
        if not self.part.mechanism.bounded or phi[1] == 0.0:
            return self._closed_form(bh, P, base, slope, var)
        b, b2 = bh.copy(), bh**2 + P
        block = np.empty((len(blocks), 3))
        value = self._alone(bh, P, base, slope, var, b, b2, block)
        if self._several.size:
            many = self._several
            value += self._together(bh, P, base[many], slope[many], var[many], b, b2, block)
        return FactorPosterior(b, b2, value, block)

    def _alone(self, bh, P, base, slope, var, b, b2, block) -> float:
        """Clusters with one missing block: eta is normal, so the mechanism's integral applies; fills the moments."""
        one = self._single
        cluster = self.blocks.cluster[one]
        at, spread, slope = bh[cluster], P[cluster], slope[one]
        integral = self.part.mechanism.missing(base[one] + slope * at, var[one] + slope**2 * spread)
        shift = spread * slope * integral.d_mean
        b[cluster] = at + shift
        b2[cluster] = spread + 2.0 * (spread * slope) ** 2 * integral.d_var + at**2 + 2.0 * at * shift
        cross = at * integral.d_mean + 2.0 * slope * spread * integral.d_var
        block[one] = np.column_stack([integral.d_mean, cross, integral.d_var])
        return float(integral.value.sum())

    def _together(self, bh, P, base, slope, var, b, b2, block) -> float:
        """Clusters with several missing blocks: quadrature over b in one batch; fills the moments."""
        centre, spread = bh[self._touched], np.sqrt(P[self._touched])
        mode = self._mode(centre, spread**2, base, slope, var)
        step = _quadrature_step(np.sqrt(var), np.abs(slope) * spread[self._block_row])
        points = int(QUADRATURE_SPAN / step)
        nodes = mode[:, None] + spread[:, None] * (step * np.arange(-points, points + 1))
        at = nodes[self._block_row]
        integral = self.part.mechanism.missing(base[:, None] + slope[:, None] * at, var[:, None])
        log_weight = np.add.reduceat(integral.value, self._block_starts, axis=0)
        log_weight -= 0.5 * ((nodes - centre[:, None]) / spread[:, None]) ** 2
        top = log_weight.max(axis=1, keepdims=True)
        weight = np.exp(log_weight - top)
        total = weight.sum(axis=1, keepdims=True)
        weight /= total
        b[self._touched] = (weight * nodes).sum(axis=1)
        b2[self._touched] = (weight * nodes**2).sum(axis=1)
        share = weight[self._block_row]
        pull = share * integral.d_mean
        columns = [pull.sum(axis=1), (pull * at).sum(axis=1), (share * integral.d_var).sum(axis=1)]
        block[self._several] = np.column_stack(columns)
        return float((top + np.log(total)).sum()) + self._touched.size * (np.log(step) - 0.5 * LOG_2PI)

    def _closed_form(self, bh, P, base, slope, var) -> FactorPosterior:
        """The uncapped mechanism, and any mechanism that does not look at the outcomes."""
        tilt = np.zeros_like(bh)
        integral = self.part.mechanism.missing(base, var)
        weight = integral.d_mean
        np.add.at(tilt, self.blocks.cluster, slope)
        b = bh + P * tilt
        value = integral.value.sum() + bh @ tilt + 0.5 * (P @ tilt**2)
        block = np.column_stack([weight, weight * b[self.blocks.cluster], integral.d_var])
        return FactorPosterior(b, b**2 + P, float(value), block)

    def _mode(self, centre, P, base, slope, var) -> np.ndarray:
        """A few Newton steps on the log-concave integrand; they only place the nodes."""
        mode = centre.copy()
        for _ in range(MODE_STEPS):
            g = self.part.mechanism.missing(base + slope * mode[self._block_row], var)
            first = np.add.reduceat(slope * g.d_mean, self._block_starts) - (mode - centre) / P
            # G'' in the mean is 2 dG/ds2 - (dG/dm)^2
            bend = slope**2 * np.minimum(2.0 * g.d_var - g.d_mean**2, 0.0)
            mode += first / (1.0 / P - np.add.reduceat(bend, self._block_starts))
        return mode

    def evaluate(self, theta: np.ndarray) -> tuple[float, SelectionParams | None]:
        """Log-likelihood and its gradient over the natural parameters; (-inf, None) outside the domain."""
        seen_value, seen_score = self.part.observed(self.part.expand(theta[self.slices["phi"]]))
        if not np.isfinite(seen_value) or np.abs(theta[self.slices["log_sigma2"]]).max() > MAX_LOG_VARIANCE:
            return -np.inf, None
        params, resid, weighted, resid_sum, weight_sum, bh, P = self.gaussian(theta)
        posterior = self.posterior(params, bh, P)
        value = -0.5 * (
            self.n_seen.sum() * LOG_2PI
            + self.n_seen @ np.log(params.sigma2)
            - np.log(P).sum()
            + (weighted * resid).sum()
            - (bh**2 / P).sum()
        )
        tau, phi1, blocks = params.tau, params.phi[1], self.blocks
        b, b2, block = posterior.b, posterior.b2, posterior.block
        shift = ((1.0 / params.sigma2)[self.group] * b[self.data.cluster])[:, None] * tau
        pulled = np.bincount(blocks.outcome, phi1 * block[:, 1], minlength=tau.size)
        square = self._squares(params, resid, b, b2)
        phi = np.zeros(3)
        if self.part.free.size:
            var = (self._mean_var @ params.sigma2)[blocks.cluster]
            linear = block[:, 0] * (blocks.x_mean @ params.beta) + tau[blocks.outcome] * block[:, 1]
            in_y = (linear + 2.0 * phi1 * var * block[:, 2]).sum()
            phi = seen_score + np.array([block[:, 0].sum(), in_y, block[:, 0] @ blocks.covariate])
        gradient = SelectionParams(
            beta=(weighted - shift).ravel() @ self._x_flat + phi1 * (block[:, 0] @ blocks.x_mean),
            sigma2=0.5 * (square - self.n_seen) / params.sigma2
            + phi1**2 * (block[:, 2] @ self._mean_var[blocks.cluster]),
            phi=phi,
            tau=b @ resid_sum - tau * (b2 @ weight_sum) + pulled,
        )
        return float(value + posterior.log_missing + seen_value), gradient

    def value_and_score(self, theta: np.ndarray) -> tuple[float, np.ndarray]:
        """Log-likelihood and its gradient over theta."""
        value, gradient = self.evaluate(theta)
        return value, (np.zeros_like(theta) if gradient is None else self.chain(theta, gradient))

    def diverged(self, theta: np.ndarray) -> str:
        """Why the likelihood has no maximum where this point is heading; empty when nothing speaks for that."""
        if self.part.is_threshold(theta[self.slices["phi"]]):
            return THRESHOLD
        if self.part.mechanism.bounded or not len(self.blocks):
            return ""
        params, *_, bh, P = self.gaussian(theta)
        return UNCAPPED_DIVERGES if self.posterior(params, bh, P).log_missing > 0.0 else ""

    def _squares(self, params, resid, b, b2) -> np.ndarray:
        """Expected squared standardised errors of the observed entries by variance group, (g,)."""
        tau = params.tau
        raw = np.array([(column @ resid**2).sum() for column in self.indicator.T])
        cross = np.array([b @ (self.data.cluster_sum(resid * c[:, None]) @ tau) for c in self.indicator.T])
        squared = np.array([b2 @ (counts @ tau**2) for counts in self.counts])
        return (raw - 2.0 * cross + squared) / params.sigma2

    def metric(self, theta: np.ndarray) -> np.ndarray:
        """Block-diagonal approximation of the information, the maximiser's first Hessian."""
        params, _, _, _, weight_sum, bh, P = self.gaussian(theta)
        cut, weight = self.slices, (1.0 / params.sigma2)[self.group]
        out = np.zeros((self.size, self.size))
        p = params.beta.size
        weighted_x = self._x * weight[:, None, None]
        loaded = self.data.cluster_sum(np.tensordot(weighted_x, params.tau, axes=(1, 0)))
        out[cut["beta"], cut["beta"]] = weighted_x.reshape(-1, p).T @ self._x_flat - (loaded * P[:, None]).T @ loaded
        own = weight_sum - P[:, None] * (weight_sum * params.tau) ** 2
        diagonal = np.arange(self.size)[cut["tau"]]
        out[diagonal, diagonal] = (bh**2 + P) @ np.maximum(own, 0.2 * weight_sum) + 1e-8
        diagonal = np.arange(self.size)[cut["log_sigma2"]]
        out[diagonal, diagonal] = 0.5 * self.n_seen
        if self.part.free.size:
            blocks = self.blocks
            expected = blocks.x_mean @ params.beta + params.tau[blocks.outcome] * bh[blocks.cluster]
            missing = np.column_stack([np.ones(len(blocks)), expected, blocks.covariate])
            out[cut["phi"], cut["phi"]] = self.part.information(params.phi, missing)
        return out


def _quadrature_step(eta_sd: np.ndarray, eta_slope: np.ndarray) -> float:
    """Step that resolves the bend of the sharpest block: ``exp(-2 pi^2 / h^2 w^2 / (1 + w^2)) < 1e-11``.

    ``w`` is the width of the bend in posterior standard deviations; steps are powers of two so that the error does not
    vary within a line search.
    """
    width = float((eta_sd / np.maximum(eta_slope, 1e-300)).min())
    needed = 0.88 * width / np.sqrt(1.0 + width**2)
    return next((step for step in QUADRATURE_STEPS if step <= needed), QUADRATURE_STEPS[-1])
