"""Model e: shared random effects and correlated errors, ``y = X beta + Z b + e``, ``e ~ N(0, Sigma (x) S)``.

Rows of a cluster are independent given b, so every K x K inverse belongs to one pattern of observed outcomes and
nothing larger is ever formed. With A the embedded inverse of the observed part of Sigma, ``U = I - A Sigma`` maps the
missing errors of a row to its generalised residual ``Sigma^-1 e``, which carries all derivatives.

The probability of the missing blocks is a multivariate integral over their linear predictors, eta ~ N(mu, Omega) given
the observed outcomes. It is replaced by the closed form without a cap times the product of the blocks' marginal
corrections under the tilted law; this is exact for one missing block per cluster and for the uncapped mechanism.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mvmise_sm.selection.covariance import CovarianceCoordinates, LogCholesky
from mvmise_sm.selection.data import SelectionData
from mvmise_sm.selection.likelihood import (
    MAX_LOG_VARIANCE,
    ErrorParams,
    NaturalLikelihood,
    least_squares,
    variance_groups,
)
from mvmise_sm.selection.mechanism import LOG_2PI
from mvmise_sm.selection.product import MarginalProduct, MissingLaw, Tilt
from mvmise_sm.selection.restricted import DifferencedBeta
from mvmise_sm.selection.status import Status
from mvmise_sm.selection.units import Slot, mechanism_part

# smallest eigenvalue of the error correlations that is taken for an interior point
SINGULAR = 1e-7
# a standard deviation of the random effects that is next to none, where their gradient has not vanished
SMALL_EFFECT = 0.01


@dataclass(frozen=True)
class ErrorState:
    """The normal law given the observed outcomes, before the mechanism's tilt.

    Attributes
    ----------
    params : ErrorParams
    s : ndarray, (N,)
        Error variance of every row.
    A : ndarray, (n_patterns, K, K)
        Embedded inverses of the observed parts of Sigma.
    AZ : ndarray, (N, K, q)
    residual : ndarray, (N, K)
        ``y - X beta``, zero where missing.
    H, P : ndarray, (n_clusters, q, q)
        ``(I + Z'WZ D)^-1`` and the conditional covariance ``P = D H`` of the random effects.
    score_b : ndarray, (n_clusters, q)
        ``Z'W (y - X beta)``; the conditional mean of b is ``P score_b``.
    ZWZ : ndarray, (n_clusters, q, q)
    log_density : float
        Log-density of the observed outcomes.
    """

    params: ErrorParams
    s: np.ndarray
    A: np.ndarray
    AZ: np.ndarray
    residual: np.ndarray
    H: np.ndarray
    P: np.ndarray
    score_b: np.ndarray
    ZWZ: np.ndarray
    log_density: float


class ErrorLikelihood(NaturalLikelihood[ErrorParams]):
    """Log-likelihood of model e over ``theta = (beta, sqrt(D), error covariance, log sigma2, phi)``.

    The square roots of D are signed; the sign has no meaning. The error variance of a sample is one, except that with
    ``first_sample_variance`` all but the first sample of a cluster share a free variance.

    Parameters
    ----------
    data : SelectionData
    slots : tuple of Slot
        One exponential mechanism of blocks, or none.
    first_sample_variance : bool
    coordinates : CovarianceCoordinates, optional
        Coordinates of the error covariance; log-Cholesky by default.
    """

    def __init__(
        self,
        data: SelectionData,
        slots: tuple[Slot, ...],
        first_sample_variance: bool = False,
        coordinates: CovarianceCoordinates | None = None,
    ) -> None:
        self.data = data
        self.first_sample_variance = first_sample_variance
        self.coordinates = LogCholesky(data.n_outcomes) if coordinates is None else coordinates
        self.group, self.indicator = variance_groups(data, first_sample_variance)
        self.part, self.units = mechanism_part(data, slots, self.indicator)
        p, q = data.X.shape[2], data.Z.shape[2]
        widths = [p, q, self.coordinates.size, int(first_sample_variance), self.part.free.size]
        edges = np.cumsum([0, *widths])
        names = ("beta", "delta", "error_cov", "log_sigma2", "phi")
        self.slices = {name: slice(a, b) for name, a, b in zip(names, edges[:-1], edges[1:], strict=True)}
        self.size = int(edges[-1])
        seen = data.observed
        self._y = np.where(seen, data.Y, 0.0)
        self._seen = seen.astype(float)
        self._n_seen_row = self._seen.sum(axis=1)
        self.x_flat = data.X.reshape(-1, p)
        self._patterns, self.pattern = np.unique(seen, axis=0, return_inverse=True)
        self.pattern = self.pattern.ravel()
        mask = self._patterns.astype(float)
        self._both = mask[:, :, None] * mask[:, None, :]
        self._absent = np.eye(data.n_outcomes) * (1.0 - mask)[:, :, None]
        self._pattern_rows = np.bincount(self.pattern, minlength=len(mask)).astype(float)
        self._missing = data.block_missing.astype(float)
        self._x_mean = data.cluster_mean(data.X)
        self._z_mean = data.cluster_mean(data.Z)
        self.product = MarginalProduct(data, self.part)
        self._row_share = 1.0 / data.sizes[data.cluster]
        self.has_tilt = bool(len(self.units))

    def params(self, theta: np.ndarray) -> ErrorParams:
        """Natural parameters of a point; the error covariance is NaN outside its domain."""
        cut, K = self.slices, self.data.n_outcomes
        error_cov = self.coordinates.covariance(theta[cut["error_cov"]])
        sigma2 = np.concatenate([[1.0], np.exp(theta[cut["log_sigma2"]])])
        return ErrorParams(
            beta=theta[cut["beta"]],
            sigma2=sigma2,
            phi=self.part.expand(theta[cut["phi"]]),
            D=theta[cut["delta"]] ** 2,
            error_cov=np.full((K, K), np.nan) if error_cov is None else error_cov,
        )

    def theta(self, params: ErrorParams) -> np.ndarray:
        """The point of natural parameters."""
        return np.concatenate(
            [
                params.beta,
                np.sqrt(params.D),
                self.coordinates.vector(params.error_cov),
                np.log(params.sigma2[1:]),
                params.phi[self.part.free],
            ]
        )

    def chain(self, theta: np.ndarray, gradient: ErrorParams) -> np.ndarray:
        """Gradient over theta from a gradient over natural parameters."""
        cut = self.slices
        return np.concatenate(
            [
                gradient.beta,
                2.0 * theta[cut["delta"]] * gradient.D,
                self.coordinates.gradient(theta[cut["error_cov"]], gradient.error_cov),
                gradient.sigma2[1:] * np.exp(theta[cut["log_sigma2"]]),
                gradient.phi[self.part.free],
            ]
        )

    def start(self) -> np.ndarray:
        """Moment start: least squares, variances between and within clusters, a constant missingness rate."""
        beta, delta, variance = moment_start(self.data)
        return np.concatenate(
            [
                beta,
                delta,
                self.coordinates.vector(np.diag(variance)),
                np.zeros(int(self.first_sample_variance)),
                self.part.start(),
            ]
        )

    def with_beta_information(self) -> DifferencedBeta:
        """The likelihood as the restricted one asks for it: with differences of its score."""
        return DifferencedBeta(self)

    def starts(self) -> list[np.ndarray]:
        """Further starts: none, the error covariance takes up what the outcomes share."""
        return []

    def reflections(self, theta: np.ndarray) -> list[np.ndarray]:
        """A start with hardly any random effect: the error covariance can take up what the outcomes share."""
        cut = self.slices["delta"]
        if np.abs(theta[cut]).max(initial=0.0) <= SMALL_EFFECT:
            return []
        start = theta.copy()
        start[cut] = SMALL_EFFECT
        return [start]

    def state(self, theta: np.ndarray) -> ErrorState | None:
        """Condition on the observed outcomes; None outside the parameters' domain."""
        if np.abs(theta[self.slices["log_sigma2"]]).max(initial=0.0) > MAX_LOG_VARIANCE:
            return None
        params = self.params(theta)
        if np.isnan(params.error_cov[0, 0]):
            return None
        data, Z = self.data, self.data.Z
        block = params.error_cov * self._both + self._absent
        sign, logdet = np.linalg.slogdet(block)
        if not (sign > 0).all():
            return None
        A = np.linalg.inv(block) * self._both
        s = params.sigma2[self.group]
        residual = (self._y - (self.x_flat @ params.beta).reshape(self._y.shape)) * self._seen
        rows = A[self.pattern]
        scaled = _times(rows, residual) / s[:, None]
        AZ = rows @ Z
        ZWZ = data.cluster_sum(Z.transpose(0, 2, 1) @ (AZ / s[:, None, None]))
        inner = np.eye(Z.shape[2]) + ZWZ * params.D
        H = np.linalg.inv(inner)
        P = params.D[:, None] * H
        score_b = data.cluster_sum(_times(Z.transpose(0, 2, 1), scaled))
        log_density = -0.5 * (
            self._n_seen_row.sum() * LOG_2PI
            + np.linalg.slogdet(inner)[1].sum()
            + self._pattern_rows @ logdet
            + self._n_seen_row @ np.log(s)
            + (scaled * residual).sum()
            - (score_b * _times(P, score_b)).sum()
        )
        return ErrorState(params, s, A, AZ, residual, H, P, score_b, ZWZ, float(log_density))

    def conditioned(self, theta: np.ndarray) -> ErrorState:
        """The state at a point of the parameters' domain.

        Raises
        ------
        ValueError
            Outside of it.
        """
        state = self.state(theta)
        if state is None:
            raise ValueError("The error covariance or a variance lies outside its domain.")
        return state

    def missing_law(self, state: ErrorState) -> MissingLaw:
        """Law of the missing block means given the observed outcomes."""
        data, missing, Sigma = self.data, self._missing, state.params.error_cov
        sizes = data.sizes[:, None]
        bh = _times(state.P, state.score_b)
        centred = state.residual - _times(data.Z, bh[data.cluster])
        imputed = _times(state.A[self.pattern], centred) @ Sigma
        mean = self._x_mean @ state.params.beta + _times(self._z_mean, bh) + data.cluster_sum(imputed) / sizes
        unit = np.eye(len(Sigma)) - state.A @ Sigma
        spread = (Sigma @ unit)[self.pattern] * state.s[:, None, None]
        U = unit[self.pattern] * missing[data.cluster][:, None, :]
        loading = data.cluster_sum(U.transpose(0, 2, 1) @ data.Z) / sizes[:, :, None]
        cov = data.cluster_sum(spread) / sizes[:, :, None] ** 2
        cov = cov * missing[:, :, None] * missing[:, None, :] + loading @ state.P @ loading.transpose(0, 2, 1)
        return MissingLaw(mean * missing, cov, U, loading)

    def evaluate(self, theta: np.ndarray) -> tuple[float, ErrorParams | None]:
        """Log-likelihood and its gradient over the natural parameters; (-inf, None) outside the domain."""
        seen_value, seen_gradient = self.part.observed(self.part.expand(theta[self.slices["phi"]]))
        state = self.state(theta) if np.isfinite(seen_value) else None
        if state is None:
            return -np.inf, None
        data, cluster, params, s = self.data, self.data.cluster, state.params, state.s
        b = _times(state.P, state.score_b)
        moved = state.score_b
        value = state.log_density + seen_value
        gradient_phi = seen_gradient
        extra = None
        if self.has_tilt:
            law = self.missing_law(state)
            tilt = self.product.tilt(params.phi, law)
            value += tilt.value
            pull = params.phi[1] * tilt.weight
            moved = moved + _times(law.loading.transpose(0, 2, 1), pull)
            b = _times(state.P, moved)
            gradient_phi = gradient_phi + self.product.phi_gradient(params.phi, law, tilt)
            if self.part.bounded:
                extra = self._curvature_terms(state, law, tilt)
        general = _times(state.A[self.pattern], state.residual - _times(data.Z, b[cluster])) / s[:, None]
        if self.has_tilt:
            general += self._row_share[:, None] * _times(law.U, pull[cluster])
        AZP = (state.AZ @ state.P[cluster]) / s[:, None, None]
        slope = (general * s[:, None]).T @ general + np.tensordot(AZP, state.AZ, ([0, 2], [0, 2]))
        slope -= np.tensordot(self._pattern_rows, state.A, axes=1)
        shrunk = _times(state.H, moved)
        in_D = -np.einsum("iab,iba->a", state.H, state.ZWZ) + (shrunk**2).sum(axis=0)
        if extra is not None:
            slope += extra[0]
            in_D += extra[1]
        gradient = ErrorParams(
            beta=general.ravel() @ self.x_flat,
            sigma2=self._sigma2_gradient(state, general, AZP, None if extra is None else extra[2]),
            phi=gradient_phi,
            D=0.5 * in_D,
            error_cov=0.25 * (slope + slope.T),
        )
        return float(value), gradient

    def _curvature_terms(
        self, state: ErrorState, law: MissingLaw, tilt: Tilt
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """The cap's second-order parts: of Sigma (K, K), of D (q,), and row traces with Sigma (N,) where needed."""
        cluster, s, phi1 = self.data.cluster, state.s, state.params.phi[1]
        spread, slack = 2.0 * phi1**2 * tilt.spread, phi1 * tilt.slack
        reach = (s * self._row_share)[:, None, None] * law.U
        reach -= state.AZ @ (state.P @ law.loading.transpose(0, 2, 1))[cluster]
        spread_reach = reach * (spread[cluster] / s[:, None])[:, None, :]
        slack_reach = _times(reach, slack[cluster])
        in_sigma = np.tensordot(spread_reach, reach, ([0, 2], [0, 2]))
        in_sigma -= (slack_reach / s[:, None]).T @ slack_reach
        back = state.H @ law.loading.transpose(0, 2, 1)
        in_D = np.einsum("iqk,ik->q", back**2, spread) - (_times(back, slack) ** 2).sum(axis=0)
        traces = None
        if self.first_sample_variance:
            Sigma = state.params.error_cov
            traces = ((Sigma @ reach) * spread_reach).sum(axis=(1, 2))
            traces -= ((slack_reach @ Sigma) * slack_reach).sum(axis=1) / s
        return in_sigma, in_D, traces

    def _sigma2_gradient(
        self,
        state: ErrorState,
        general: np.ndarray,
        AZP: np.ndarray,
        traces: np.ndarray | None,
    ) -> np.ndarray:
        """Gradient in the sample variances; the first is fixed at one and its entry is zero."""
        out = np.zeros_like(state.params.sigma2)
        if self.first_sample_variance:
            Sigma, s = state.params.error_cov, state.s
            rows = ((general @ Sigma) * general).sum(axis=1) * s + ((Sigma @ state.AZ) * AZP).sum(axis=(1, 2))
            rows += 0.0 if traces is None else traces
            out[1] = 0.5 * (((rows - self._n_seen_row) / s) @ self.indicator[:, 1])
        return out

    def diverged(self, theta: np.ndarray) -> Status | None:
        """Why the likelihood has no maximum where this point is heading; None when nothing speaks for that."""
        if self.part.is_threshold(theta[self.slices["phi"]]):
            return Status.THRESHOLD
        state = self.state(theta)
        if state is None:
            return None
        sd = np.sqrt(np.diag(state.params.error_cov))
        if np.linalg.eigvalsh(state.params.error_cov / np.outer(sd, sd))[0] < SINGULAR:
            return Status.SINGULAR_ERRORS
        if not self.has_tilt:
            return None
        law = self.missing_law(state)
        if self.part.bounded:
            return Status.SATURATED if self.product.exceeds_marginals(state.params.phi, law) else None
        return Status.UNCAPPED_DIVERGES if self.product.tilt(state.params.phi, law).value > 0.0 else None

    def metric(self, theta: np.ndarray) -> np.ndarray:
        """Block-diagonal approximation of the information, the maximiser's first Hessian."""
        state, cut = self.conditioned(theta), self.slices
        data, params, p = self.data, state.params, self.data.X.shape[2]
        out = np.zeros((self.size, self.size))
        AX = (state.A[self.pattern] @ data.X) / state.s[:, None, None]
        ZWX = data.cluster_sum(data.Z.transpose(0, 2, 1) @ AX)
        beta = AX.reshape(-1, p).T @ self.x_flat - np.einsum("iqa,iqr,irb->ab", ZWX, state.P, ZWX)
        out[cut["beta"], cut["beta"]] = beta
        diagonal = np.arange(self.size)
        known = np.einsum("iab,iba->a", state.H, state.ZWZ) / data.n_clusters
        out[diagonal[cut["delta"]], diagonal[cut["delta"]]] = 2.0 * data.n_clusters * known**2 * params.D + 1e-8
        share = self._seen.mean()
        out[cut["error_cov"], cut["error_cov"]] = self.coordinates.metric(theta[cut["error_cov"]], data.n_rows * share)
        if self.first_sample_variance:
            index = diagonal[cut["log_sigma2"]]
            out[index, index] = 0.5 * (self._n_seen_row @ self.indicator[:, 1])
        if self.part.free.size:
            units = self.units
            expected = self.missing_law(state).mean[units.cluster, units.outcome]
            out[cut["phi"], cut["phi"]] = self.part.information(params.phi, units, expected)
        return out


def moment_start(data: SelectionData) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fixed effects (p,), deviations of the random effects (q,) and error variances (K,) from moments of residuals."""
    seen = data.observed.astype(float)
    beta, resid = least_squares(data)
    count = data.cluster_sum(seen)
    total = (resid**2).sum() / count.sum()
    cells = np.maximum(count.sum(axis=1), 1.0)
    mean = data.cluster_sum(resid.sum(axis=1)) / cells
    own = np.where(data.observed, resid - mean[data.cluster][:, None], 0.0)
    variance = np.maximum((own**2).sum(axis=0) / count.sum(axis=0), 0.05 * total)
    between = max(float((mean**2).mean() - (variance.mean() / cells).mean()), 0.05 * total)
    scale = np.maximum((data.Z**2).mean(axis=(0, 1)), 1e-12)
    delta = np.sqrt(between / scale / data.Z.shape[2])
    return beta, delta, variance


def _times(matrices: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Matrix-vector products over the leading axis."""
    return (matrices @ vectors[:, :, None])[:, :, 0]
