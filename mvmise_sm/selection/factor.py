"""Model b: correlated outcome-specific random intercepts, ``y = X beta + (tau (x) 1) b + e`` with ``b ~ N(0, 1)``.

Given b the entries of a cluster are independent, so the likelihood needs one integral per cluster: the normal posterior
of b given the observed outcomes times the probability of the missing units given b. It is in closed form for one
missing unit, otherwise evaluated by the trapezoidal rule around the integrand's mode, which converges geometrically.

With one outcome this is the linear mixed model with one scalar random term, whose multiplier may differ by row.
"""

from __future__ import annotations

import numpy as np

from mvmise_sm.selection.data import SelectionData
from mvmise_sm.selection.integrals import FactorPosterior, UnitIntegrals
from mvmise_sm.selection.likelihood import (
    MAX_LOG_VARIANCE,
    FactorParams,
    NaturalLikelihood,
    least_squares,
    variance_groups,
)
from mvmise_sm.selection.mechanism import LOG_2PI
from mvmise_sm.selection.status import Status
from mvmise_sm.selection.units import MechanismPart, RowExtras, Slot, Units, mechanism_part

# shifts of the mean of b, in standard deviations between the outcomes' means, that further starts try
MEAN_SHIFTS = (-4.0, -2.5, -1.5, -0.75, 0.75, 1.5, 2.5, 4.0)
# outcomes whose means differ by less than this share of the residuals' spread are explained by the design
MEANS_DIFFER = 0.1


# loadings of fewer standard errors than the first may have either sign; no more than so many are turned
WEAK_LOADING, MOST_TURNED = 3.0, 5


# parameters, residuals (N, K), the same over variances, sums of the latter and weights by cluster and outcome (C, K),
# mean and variance of b given the observed outcomes (C,)
Gaussian = tuple[FactorParams, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


class FactorLikelihood(NaturalLikelihood[FactorParams]):
    """Log-likelihood of model b over ``theta = (beta, tau, log sigma2, phi)``.

    Parameters
    ----------
    data : SelectionData
    slots : tuple of Slot
        Mechanisms of blocks and of single values.
    first_sample_variance : bool
        Whether the first sample of a cluster has its own error variance.
    extras : RowExtras, optional
        Multipliers of the shared effect and offsets by row.
    """

    part: MechanismPart
    units: Units

    def __init__(
        self,
        data: SelectionData,
        slots: tuple[Slot, ...],
        first_sample_variance: bool = False,
        extras: RowExtras | None = None,
    ) -> None:
        self.data = data
        self.group, indicator = variance_groups(data, first_sample_variance)
        self.part, self.units = mechanism_part(data, slots, indicator, extras)
        self._z = None if extras is None else extras.z
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
        # observed entries by variance group: per cluster and outcome, and in total; weighted by squared multipliers
        weight = self._seen if self._z is None else self._seen * self._z**2
        self.counts = np.stack([data.cluster_sum(weight * column[:, None]) for column in indicator.T])
        self._counts_flat = self.counts.reshape(len(self.counts), -1)
        self.n_seen = self._seen.sum(axis=1) @ indicator
        self.indicator = indicator
        self.integrals = UnitIntegrals(self.part, self.units, data.n_clusters)

    def _times_z(self, rows: np.ndarray) -> np.ndarray:
        """Values (N, K, ...) times the multipliers of the shared effect."""
        if self._z is None:
            return rows
        return rows * self._z.reshape(self._z.shape + (1,) * (rows.ndim - 2))

    def loading(self, params: FactorParams) -> np.ndarray:
        """Coefficients of the shared effect by row and outcome, (N, K) or (1, K)."""
        return params.tau[None, :] if self._z is None else self._z * params.tau

    def params(self, theta: np.ndarray) -> FactorParams:
        """Natural parameters of a point."""
        cut = self.slices
        return FactorParams(
            beta=theta[cut["beta"]],
            sigma2=np.exp(theta[cut["log_sigma2"]]),
            phi=self.part.expand(theta[cut["phi"]]),
            tau=theta[cut["tau"]],
        )

    def theta(self, params: FactorParams) -> np.ndarray:
        """The point of natural parameters."""
        return np.concatenate([params.beta, params.tau, np.log(params.sigma2), params.phi[self.part.free]])

    def chain(self, theta: np.ndarray, gradient: FactorParams) -> np.ndarray:
        """Gradient over theta from a gradient over natural parameters."""
        sigma2 = np.exp(theta[self.slices["log_sigma2"]])
        return np.concatenate([gradient.beta, gradient.tau, gradient.sigma2 * sigma2, gradient.phi[self.part.free]])

    def start(self) -> np.ndarray:
        """Moment start: least squares, loadings from the spread of block means, a constant missingness rate."""
        data = self.data
        beta, resid = least_squares(data)
        count = data.cluster_sum(self._seen)
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
        return np.concatenate([beta, tau, np.full(g, np.log(sigma2)), self.part.start()])

    def starts(self) -> list[np.ndarray]:
        """Further starts: where outcomes share an intercept, the effect b can also stand for their means.

        The mean of b then moves along the constant; at every shift the loadings are the leading direction of the block
        means, not centred. Empty where the design explains the outcomes' means.
        """
        data, start, cut = self.data, self.start(), self.slices
        if data.n_outcomes < 2:
            return []
        beta, resid = least_squares(data)
        count = self._seen.sum(axis=0)
        own = resid.sum(axis=0) / count
        spread, total = float(np.std(own)), float(np.sqrt((resid**2).sum() / count.sum()))
        constant = np.linalg.lstsq(self._x_flat[self._seen.ravel() > 0], np.ones(int(count.sum())), rcond=None)[0]
        if spread < MEANS_DIFFER * total or np.abs(self._x_flat @ constant - self._seen.ravel()).max() > 1e-8:
            return []
        out = []
        for shift in MEAN_SHIFTS:
            theta = start.copy()
            theta[cut["beta"]] = beta - shift * spread * constant
            moved = (resid + shift * spread) * self._seen
            cells = data.cluster_sum(self._seen)
            mean = data.cluster_sum(moved) / np.maximum(cells, 1.0)
            values, vectors = np.linalg.eigh(mean.T @ mean / np.maximum((cells > 0).sum(axis=0), 1))
            lead = vectors[:, -1] * (1.0 if vectors[:, -1].sum() >= 0 else -1.0)
            theta[cut["tau"]] = lead * np.sqrt(values[-1])
            out.append(theta)
        return out

    def reflections(self, theta: np.ndarray) -> list[np.ndarray]:
        """Starts with other signs of the loadings that a point hardly tells from zero.

        Every pattern of signs can have a maximum. Turned are single loadings, and all that have not the sign of the
        best known one.
        """
        at = np.arange(self.size)[self.slices["tau"]]
        tau = theta[at]
        size = np.abs(tau) * np.sqrt(np.diag(self.metric(theta))[at])
        lead = int(np.argmax(size))
        weak = [k for k in np.argsort(size) if k != lead and size[k] < WEAK_LOADING]
        against = [k for k in weak if tau[k] * tau[lead] < 0.0]
        turned = [[k] for k in weak[:MOST_TURNED]] + ([against] if len(against) > 1 else [])
        out = []
        for which in turned:
            start = theta.copy()
            start[at[which]] *= -1.0
            out.append(start)
        return out

    def gaussian(self, theta: np.ndarray) -> Gaussian:
        """Observed-outcome part: parameters, weighted residuals and the normal posterior of b."""
        params = self.params(theta)
        resid = self._y - (self._x_flat @ params.beta).reshape(self._y.shape)
        weight = 1.0 / params.sigma2
        weighted = resid * weight[self.group][:, None]
        resid_sum = self.data.cluster_sum(self._times_z(weighted))
        weight_sum = weight @ self._counts_flat
        weight_sum = weight_sum.reshape(self.counts.shape[1:])
        precision = 1.0 + weight_sum @ params.tau**2
        return params, resid, weighted, resid_sum, weight_sum, resid_sum @ params.tau / precision, 1.0 / precision

    def predictors(self, params: FactorParams) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Given b, eta of a missing unit is ``N(base + slope b, var)``; each (m,)."""
        units = self.units
        phi = params.phi.reshape(-1, 3)[units.slot]
        mean = units.x @ params.beta + units.known
        base = phi[:, 0] + phi[:, 1] * mean + phi[:, 2] * units.covariate + units.offset
        slope = phi[:, 1] * params.tau[units.outcome] * units.z
        return base, slope, phi[:, 1] ** 2 * (units.share @ params.sigma2)

    def posterior(self, params: FactorParams, bh: np.ndarray, P: np.ndarray) -> FactorPosterior:
        """Integrate the missing units over b."""
        return self.integrals.posterior(bh, P, *self.predictors(params))

    def with_beta_information(self) -> FactorLikelihood:
        """The likelihood as the restricted one asks for it: itself."""
        return self

    def beta_information(self, theta: np.ndarray) -> np.ndarray:
        """Observed information of the fixed effects with everything else fixed, in closed form, (p, p).

        Louis' identity in the coordinate ``b - E(b | y)``, in which the missing units' predictors are linear in beta.
        """
        params, *_, bh, P = self.gaussian(theta)
        weight = (1.0 / params.sigma2)[self.group]
        weighted_x = self._x * weight[:, None, None]
        loaded = self.data.cluster_sum(np.tensordot(self._times_z(weighted_x), params.tau, axes=(1, 0)))
        out = weighted_x.reshape(-1, params.beta.size).T @ self._x_flat - (loaded * P[:, None]).T @ loaded
        units = self.units
        if not len(units):
            return out
        base, slope, var = self.predictors(params)
        phi1 = params.phi.reshape(-1, 3)[units.slot, 1]
        direction = phi1[:, None] * units.x - slope[:, None] * (P[:, None] * loaded)[units.cluster]
        return out - self.integrals.information(bh, P, base, slope, var, direction)

    def evaluate(self, theta: np.ndarray) -> tuple[float, FactorParams | None]:
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
        tau, units = params.tau, self.units
        b, b2, unit = posterior.b, posterior.b2, posterior.unit
        shift = ((1.0 / params.sigma2)[self.group] * b[self.data.cluster])[:, None] * self._times_z(self._seen) * tau
        square = self._squares(params, resid, b, b2)
        sigma2 = 0.5 * (square - self.n_seen) / params.sigma2
        beta = (weighted - shift).ravel() @ self._x_flat
        in_tau = b @ resid_sum - tau * (b2 @ weight_sum)
        phi = seen_score
        if len(units):
            phi1 = params.phi.reshape(-1, 3)[units.slot, 1]
            beta = beta + (phi1 * unit[:, 0]) @ units.x
            in_tau = in_tau + np.bincount(units.outcome, phi1 * unit[:, 1] * units.z, minlength=tau.size)
            sigma2 = sigma2 + (phi1**2 * unit[:, 2]) @ units.share
            var = units.share @ params.sigma2
            linear = unit[:, 0] * (units.x @ params.beta + units.known) + tau[units.outcome] * units.z * unit[:, 1]
            columns = [unit[:, 0], linear + 2.0 * phi1 * var * unit[:, 2], unit[:, 0] * units.covariate]
            for j, column in enumerate(columns):
                np.add.at(phi, 3 * units.slot + j, column)
        gradient = FactorParams(beta=beta, sigma2=sigma2, phi=phi, tau=in_tau)
        return float(value + posterior.log_missing + seen_value), gradient

    def diverged(self, theta: np.ndarray) -> Status | None:
        """Why the likelihood has no maximum where this point is heading; None when nothing speaks for that."""
        if self.part.is_threshold(theta[self.slices["phi"]]):
            return Status.THRESHOLD
        if self.part.bounded or not len(self.units):
            return None
        params, *_, bh, P = self.gaussian(theta)
        return Status.UNCAPPED_DIVERGES if self.posterior(params, bh, P).log_missing > 0.0 else None

    def _squares(self, params: FactorParams, resid: np.ndarray, b: np.ndarray, b2: np.ndarray) -> np.ndarray:
        """Expected squared standardised errors of the observed entries by variance group, (g,)."""
        tau = params.tau
        raw = np.array([(column @ resid**2).sum() for column in self.indicator.T])
        cross = np.array(
            [b @ (self.data.cluster_sum(self._times_z(resid * c[:, None])) @ tau) for c in self.indicator.T]
        )
        squared = np.array([b2 @ (counts @ tau**2) for counts in self.counts])
        return (raw - 2.0 * cross + squared) / params.sigma2

    def metric(self, theta: np.ndarray) -> np.ndarray:
        """Block-diagonal approximation of the information, the maximiser's first Hessian."""
        params, _, _, _, weight_sum, bh, P = self.gaussian(theta)
        cut, weight = self.slices, (1.0 / params.sigma2)[self.group]
        out = np.zeros((self.size, self.size))
        p = params.beta.size
        weighted_x = self._x * weight[:, None, None]
        loaded = self.data.cluster_sum(np.tensordot(self._times_z(weighted_x), params.tau, axes=(1, 0)))
        out[cut["beta"], cut["beta"]] = weighted_x.reshape(-1, p).T @ self._x_flat - (loaded * P[:, None]).T @ loaded
        own = weight_sum - P[:, None] * (weight_sum * params.tau) ** 2
        diagonal = np.arange(self.size)[cut["tau"]]
        out[diagonal, diagonal] = (bh**2 + P) @ np.maximum(own, 0.2 * weight_sum) + 1e-8
        diagonal = np.arange(self.size)[cut["log_sigma2"]]
        out[diagonal, diagonal] = 0.5 * self.n_seen
        if self.part.free.size:
            units = self.units
            expected = units.x @ params.beta + units.known
            expected = expected + params.tau[units.outcome] * units.z * bh[units.cluster]
            out[cut["phi"], cut["phi"]] = self.part.information(params.phi, units, expected)
        return out
