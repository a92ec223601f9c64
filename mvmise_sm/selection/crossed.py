"""Model b with own batch effects of each outcome and effects of the samples.

``y_ijk = X beta + tau_k b_i + omega c_ik + delta d_ij + e_ijk`` with standard normal b, c and d. Per cluster the
latent vector ``u = (b, c_1..c_K, d_1..d_n)`` is normal given the seen outcomes. Missing blocks depend on b and on the
mean of d over the samples alone; given these two they are independent, so the mechanism takes an integral over two
dimensions (one without effects of samples), by the product of trapezoidal rules about its mode.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mvmise_sm.selection.data import SelectionData
from mvmise_sm.selection.factor import FactorLikelihood
from mvmise_sm.selection.integrals import FLAT, MODE_STEPS, RESOLVED, quadrature_step
from mvmise_sm.selection.likelihood import MAX_LOG_VARIANCE, CrossedParams, NaturalLikelihood
from mvmise_sm.selection.mechanism import LOG_2PI, BlockIntegral
from mvmise_sm.selection.restricted import DifferencedBeta
from mvmise_sm.selection.status import Status
from mvmise_sm.selection.two_way import spread_moments
from mvmise_sm.selection.units import MechanismPart, Slot, Units, mechanism_part

# the product rule has the square of the nodes; eight digits of the log-likelihood are enough for its differences
SPAN = 7.0
# variance of the effects over that of the residuals, beyond which the inverse of 1 + ratio has no correct digit
MAX_RATIO = 1e12


@dataclass(frozen=True)
class LatentLaw:
    """The normal law of u given the seen outcomes, and what follows from it, by cluster.

    Attributes
    ----------
    params : CrossedParams
    resid : ndarray, (N, K)
    load : ndarray, (C, q, q)
        ``A'A``, A the coefficients of u in the seen outcomes.
    right : ndarray, (C, q)
        ``A' resid``.
    cov : ndarray, (C, q, q)
    mean : ndarray, (C, q)
    log_density : float
    """

    params: CrossedParams
    resid: np.ndarray
    load: np.ndarray
    right: np.ndarray
    cov: np.ndarray
    mean: np.ndarray
    log_density: float


@dataclass(frozen=True)
class LatentMoments:
    """Moments of u given everything, and the missing units' expectations.

    Attributes
    ----------
    mean, second : ndarray, (C, q), (C, q, q)
    unit : ndarray, (m, 4)
        Expectations of dG/dm, ``b dG/dm``, ``dbar dG/dm`` and dG/ds2.
    log_missing : float
    """

    mean: np.ndarray
    second: np.ndarray
    unit: np.ndarray
    log_missing: float


class CrossedFactorLikelihood(NaturalLikelihood[CrossedParams]):
    """Log-likelihood over ``theta = (beta, tau, omega, delta, log sigma2, phi)``; omega and delta are signed.

    Parameters
    ----------
    data : SelectionData
    slots : tuple of Slot
        A mechanism of blocks, or none.
    own_blocks : bool
        Whether omega is in the model: outcomes have batch effects of their own.
    samples : bool
        Whether delta is in the model: samples have effects on all outcomes.
    """

    part: MechanismPart
    units: Units

    def __init__(self, data: SelectionData, slots: tuple[Slot, ...], own_blocks: bool, samples: bool) -> None:
        self.data = data
        self.own_blocks, self.samples = own_blocks, samples
        self.group, self.indicator = np.zeros(data.n_rows, dtype=int), np.ones((data.n_rows, 1))
        self.part, self.units = mechanism_part(data, slots, self.indicator)
        p, K = data.X.shape[2], data.n_outcomes
        widths = [p, K, int(own_blocks), int(samples), 1, self.part.free.size]
        edges = np.cumsum([0, *widths])
        names = ("beta", "tau", "omega", "delta", "log_sigma2", "phi")
        self.slices = {name: slice(a, b) for name, a, b in zip(names, edges[:-1], edges[1:], strict=True)}
        self.size = int(edges[-1])
        self._seen = data.observed.astype(float)
        self._y = np.where(data.observed, data.Y, 0.0)
        self._x_flat = (data.X * self._seen[:, :, None]).reshape(-1, p)
        self.n_seen = self._seen.sum()
        # position of a sample in its cluster, and seen values as (C, n, K)
        self.place = np.arange(data.n_rows) - data.starts[data.cluster]
        self.widest = int(data.sizes.max())
        self._cells = self._by_cluster(self._seen)
        self._counts = self._cells.sum(axis=1)
        # mean of d over the samples of a cluster, as coefficients of u
        self._average = np.zeros((data.n_clusters, 1 + K + self.widest))
        self._average[data.cluster, 1 + K + self.place] = 1.0 / data.sizes[data.cluster]

    def _by_cluster(self, rows: np.ndarray) -> np.ndarray:
        """Rows (N, K) as (C, n, K), zero beyond a cluster's size."""
        out = np.zeros((self.data.n_clusters, self.widest, rows.shape[1]))
        out[self.data.cluster, self.place] = rows
        return out

    def params(self, theta: np.ndarray) -> CrossedParams:
        """Natural parameters of a point."""
        cut = self.slices
        spread = np.zeros(2)
        if self.own_blocks:
            spread[0] = theta[cut["omega"]][0]
        if self.samples:
            spread[1] = theta[cut["delta"]][0]
        return CrossedParams(
            beta=theta[cut["beta"]],
            sigma2=np.exp(theta[cut["log_sigma2"]]),
            phi=self.part.expand(theta[cut["phi"]]),
            tau=theta[cut["tau"]],
            spread=spread,
        )

    def _spread(self, values: np.ndarray) -> np.ndarray:
        return values[np.array([self.own_blocks, self.samples])]

    def theta(self, params: CrossedParams) -> np.ndarray:
        """The point of natural parameters."""
        free = params.phi[self.part.free]
        return np.concatenate([params.beta, params.tau, self._spread(params.spread), np.log(params.sigma2), free])

    def chain(self, theta: np.ndarray, gradient: CrossedParams) -> np.ndarray:
        """Gradient over theta from a gradient over natural parameters."""
        sigma2 = np.exp(theta[self.slices["log_sigma2"]])
        spread = self._spread(gradient.spread)
        return np.concatenate(
            [gradient.beta, gradient.tau, spread, gradient.sigma2 * sigma2, gradient.phi[self.part.free]]
        )

    def simple(self) -> FactorLikelihood:
        """The model without omega and delta on the same data."""
        return FactorLikelihood(self.data, self.part.slots)

    def start(self) -> np.ndarray:
        """The simple model's start; omega and delta from the residuals' block and sample means."""
        data, simple = self.data, self.simple()
        start = simple.start()
        cut = simple.slices
        s2 = float(np.exp(start[cut["log_sigma2"]][0]))
        omega, delta, rest = spread_moments(data)
        out = np.empty(self.size)
        out[self.slices["beta"]] = start[cut["beta"]]
        out[self.slices["tau"]] = start[cut["tau"]]
        out[self.slices["omega"]] = np.sqrt(max(omega, 0.05 * s2))
        out[self.slices["delta"]] = np.sqrt(max(delta, 0.05 * s2))
        out[self.slices["log_sigma2"]] = np.log(max(rest, 0.02 * s2))
        out[self.slices["phi"]] = start[cut["phi"]]
        return out

    def with_beta_information(self) -> DifferencedBeta:
        """The likelihood as the restricted one asks for it: with differences of its score."""
        return DifferencedBeta(self)

    def starts(self) -> list[np.ndarray]:
        """Further starts: without the new effects, where the simple model's loadings belong."""
        other = self.start()
        for name in ("omega", "delta"):
            other[self.slices[name]] *= 0.2
        return [other]

    def law(self, theta: np.ndarray) -> LatentLaw:
        """Condition the latent vector on the seen outcomes."""
        params = self.params(theta)
        (omega, delta), tau, s2 = params.spread, params.tau, float(params.sigma2[0])
        data, K = self.data, params.tau.size
        resid = self._y - (self._x_flat @ params.beta).reshape(self._y.shape)
        cells, counts = self._cells, self._counts
        q = 1 + K + self.widest
        load = np.zeros((data.n_clusters, q, q))
        load[:, 0, 0] = counts @ tau**2
        load[:, 0, 1 : 1 + K] = omega * tau * counts
        load[:, 0, 1 + K :] = delta * cells @ tau
        load[:, np.arange(1, 1 + K), np.arange(1, 1 + K)] = omega**2 * counts
        load[:, 1 : 1 + K, 1 + K :] = omega * delta * cells.transpose(0, 2, 1)
        load[:, np.arange(1 + K, q), np.arange(1 + K, q)] = delta**2 * cells.sum(axis=2)
        upper = np.triu(np.ones((q, q)), 1)
        load = load * (upper + np.eye(q)) + (load * upper).transpose(0, 2, 1)
        table = self._by_cluster(resid)
        sums = table.sum(axis=1)
        right = np.concatenate([(sums @ tau)[:, None], omega * sums, delta * table.sum(axis=2)], axis=1)
        precision = np.eye(q) + load / s2
        cov = np.linalg.inv(precision)
        mean = np.einsum("cij,cj->ci", cov, right) / s2
        value = -0.5 * (
            self.n_seen * (LOG_2PI + np.log(s2))
            + np.linalg.slogdet(precision)[1].sum()
            + (resid**2).sum() / s2
            - (mean * right).sum() / s2
        )
        return LatentLaw(params, resid, load, right, cov, mean, float(value))

    def moments(self, law: LatentLaw) -> LatentMoments:
        """Integrate the missing blocks over b and the mean of d."""
        units, params = self.units, law.params
        second = law.cov + law.mean[:, :, None] * law.mean[:, None, :]
        unit = np.zeros((len(units), 4))
        if not len(units):
            return LatentMoments(law.mean, second, unit, 0.0)
        (omega, delta), s2 = params.spread, float(params.sigma2[0])
        phi = params.phi.reshape(-1, 3)[units.slot]
        base = phi[:, 0] + phi[:, 1] * (units.x @ params.beta) + phi[:, 2] * units.covariate + units.offset
        slope = np.stack([phi[:, 1] * params.tau[units.outcome], np.full(len(units), 1.0) * phi[:, 1] * delta], axis=1)
        var = phi[:, 1] ** 2 * (omega**2 + s2 * units.share[:, 0])
        touched, first = np.unique(units.cluster, return_index=True)
        row = np.repeat(np.arange(touched.size), np.diff(np.r_[first, units.cluster.size]))
        select = np.zeros((touched.size, 2, law.mean.shape[1]))
        select[:, 0, 0] = 1.0
        select[:, 1] = self._average[touched]
        reach = np.einsum("cij,ckj->cik", law.cov[touched], select)
        W = np.einsum("ckj,cjl->ckl", select, reach)
        centre = np.einsum("ckj,cj->ck", select, law.mean[touched])
        root = np.linalg.cholesky(W + 1e-14 * np.eye(2))
        nodes, weight, integral, logs = self._nodes(centre, root, base, slope, var, row, first)
        mean = np.einsum("cn,cnk->ck", weight, nodes)
        spread = np.einsum("cn,cnk,cnl->ckl", weight, nodes, nodes) - mean[:, :, None] * mean[:, None, :]
        share = weight[row]
        pull = share * integral.d_mean
        unit[:, 0] = pull.sum(axis=1)
        unit[:, 1:3] = np.einsum("mn,mnk->mk", pull, nodes[row])
        unit[:, 3] = (share * integral.d_var).sum(axis=1)
        # u follows its two combinations by regression
        gain = np.linalg.solve(W, reach.transpose(0, 2, 1)).transpose(0, 2, 1)
        new_mean = law.mean.copy()
        new_mean[touched] += np.einsum("cik,ck->ci", gain, mean - centre)
        new_cov = law.cov.copy()
        new_cov[touched] += np.einsum("cik,ckl,cjl->cij", gain, spread - W, gain)
        second = new_cov + new_mean[:, :, None] * new_mean[:, None, :]
        return LatentMoments(new_mean, second, unit, float(logs.sum()))

    def _nodes(
        self,
        centre: np.ndarray,
        root: np.ndarray,
        base: np.ndarray,
        slope: np.ndarray,
        var: np.ndarray,
        row: np.ndarray,
        first: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray, BlockIntegral, np.ndarray]:
        """Product rule about the mode in standardised coordinates: nodes (C, n, 2), weights, integrals, logarithms."""
        slot = self.units.slot
        own = np.einsum("mk,mkl->ml", slope, root[row])
        at = base + np.einsum("mk,mk->m", slope, centre[row])
        z = np.zeros_like(centre)
        for _ in range(MODE_STEPS):
            g = self.part.integral(slot, at + np.einsum("ml,ml->m", own, z[row]), var)
            score = np.add.reduceat(own * g.d_mean[:, None], first, axis=0) - z
            bend = np.minimum(2.0 * g.d_var - g.d_mean**2, 0.0)
            curve = np.eye(2) - np.add.reduceat(bend[:, None, None] * own[:, :, None] * own[:, None, :], first, axis=0)
            z = z + np.linalg.solve(curve, score[:, :, None])[:, :, 0]
        width = np.sqrt((RESOLVED * self.part.width) ** 2 + var)
        line = _trapezoidal(width, own[:, 0], first)
        across = _across(width, own[:, 1], first) if self.samples else (np.zeros(1), np.zeros(1))
        grid = np.stack(np.meshgrid(line[0], across[0], indexing="ij"), axis=-1).reshape(-1, 2)
        log_rule = np.add.outer(line[1], across[1]).ravel()
        standard = z[:, None, :] + grid
        eta = at[:, None] + np.einsum("ml,mnl->mn", own, standard[row])
        integral = self.part.integral(slot, eta, var[:, None])
        log_weight = np.add.reduceat(integral.value, first, axis=0) - 0.5 * (standard**2).sum(axis=2) + log_rule
        top = log_weight.max(axis=1, keepdims=True)
        weight = np.exp(log_weight - top)
        total = weight.sum(axis=1, keepdims=True)
        logs = (top + np.log(total))[:, 0]
        nodes = centre[:, None, :] + np.einsum("ckl,cnl->cnk", root, standard)
        return nodes, weight / total, integral, logs

    def evaluate(self, theta: np.ndarray) -> tuple[float, CrossedParams | None]:
        """Log-likelihood and its gradient over the natural parameters; (-inf, None) outside the domain."""
        seen_value, seen_score = self.part.observed(self.part.expand(theta[self.slices["phi"]]))
        if not np.isfinite(seen_value) or np.abs(theta[self.slices["log_sigma2"]]).max() > MAX_LOG_VARIANCE:
            return -np.inf, None
        if self._is_perfect(theta):
            return -np.inf, None
        law = self.law(theta)
        found = self.moments(law)
        params, units, data = law.params, self.units, self.data
        tau, (omega, delta), s2, K = params.tau, params.spread, float(params.sigma2[0]), params.tau.size
        cells, table = self._cells, self._by_cluster(law.resid)
        b, c, d = found.mean[:, 0], found.mean[:, 1 : 1 + K], found.mean[:, 1 + K :]
        bb, bc, bd = found.second[:, 0, 0], found.second[:, 0, 1 : 1 + K], found.second[:, 0, 1 + K :]
        cc = found.second[:, np.arange(1, 1 + K), np.arange(1, 1 + K)]
        dd = found.second[:, np.arange(1 + K, found.mean.shape[1]), np.arange(1 + K, found.mean.shape[1])]
        cd = found.second[:, 1 : 1 + K, 1 + K :].transpose(0, 2, 1)
        sums, counts = table.sum(axis=1), self._counts
        fitted = b[:, None, None] * tau + omega * c[:, None, :] + delta * d[:, :, None]
        error = law.resid - fitted[data.cluster, self.place] * self._seen
        in_tau = b @ sums - tau * (bb @ counts) - omega * (bc * counts).sum(axis=0)
        in_tau -= delta * np.einsum("cj,cjk->k", bd, cells)
        in_omega = (c * sums).sum() - (bc * counts).sum(axis=0) @ tau - omega * (cc * counts).sum()
        in_omega -= delta * (cd * cells).sum()
        in_delta = (d * table.sum(axis=2)).sum() - np.einsum("cj,cjk,k->", bd, cells, tau)
        in_delta -= omega * (cd * cells).sum() + delta * (dd * cells.sum(axis=2)).sum()
        square = (law.resid**2).sum() - 2.0 * (found.mean * law.right).sum() + (found.second * law.load).sum()
        in_s2 = 0.5 * (square / s2 - self.n_seen) / s2
        beta = (error / s2).ravel() @ self._x_flat
        in_tau, spread = in_tau / s2, np.array([in_omega, in_delta]) / s2
        phi = seen_score
        if len(units):
            slope = params.phi.reshape(-1, 3)[units.slot, 1]
            dm, db, dd_bar, dv = found.unit.T
            beta = beta + (slope * dm) @ units.x
            in_tau = in_tau + np.bincount(units.outcome, slope * db, minlength=K)
            spread = spread + np.array([2.0 * omega * (slope**2 * dv).sum(), (slope * dd_bar).sum()])
            in_s2 += float((slope**2 * dv) @ units.share[:, 0])
            linear = dm * (units.x @ params.beta) + tau[units.outcome] * db + delta * dd_bar
            linear = linear + 2.0 * slope * (omega**2 + s2 * units.share[:, 0]) * dv
            for j, column in enumerate([dm, linear, dm * units.covariate]):
                np.add.at(phi, 3 * units.slot + j, column)
        gradient = CrossedParams(beta=beta, sigma2=np.array([in_s2]), phi=phi, tau=in_tau, spread=spread)
        return float(law.log_density + found.log_missing + seen_value), gradient

    def _is_perfect(self, theta: np.ndarray) -> bool:
        """Whether so little is left to the residuals that the precision of the effects has lost its digits."""
        params = self.params(theta)
        omega, delta = params.spread
        largest = max(float(np.sum(params.tau**2)), omega**2, delta**2)
        return not largest * float(self._counts.sum(axis=1).max()) < MAX_RATIO * float(params.sigma2[0])

    def diverged(self, theta: np.ndarray) -> Status | None:
        """Why the likelihood has no maximum where this point is heading; None when nothing speaks for that."""
        if self.part.is_threshold(theta[self.slices["phi"]]):
            return Status.THRESHOLD
        if self.part.bounded or not len(self.units):
            return None
        return Status.UNCAPPED_DIVERGES if self.moments(self.law(theta)).log_missing > 0.0 else None

    def metric(self, theta: np.ndarray) -> np.ndarray:
        """Block-diagonal approximation of the information, the maximiser's first Hessian."""
        law = self.law(theta)
        params, cut, s2 = law.params, self.slices, float(law.params.sigma2[0])
        out = np.zeros((self.size, self.size))
        p, data, K = params.beta.size, self.data, params.tau.size
        x = self._x_flat.reshape(*self._y.shape, p)
        coefficients = np.zeros((data.n_rows, K, law.mean.shape[1]))
        coefficients[:, :, 0] = params.tau
        coefficients[:, np.arange(K), 1 + np.arange(K)] = params.spread[0]
        coefficients[np.arange(data.n_rows), :, 1 + K + self.place] = params.spread[1]
        loaded = data.cluster_sum(np.einsum("nkq,nkp->nqp", coefficients, x))
        out[cut["beta"], cut["beta"]] = self._x_flat.T @ self._x_flat / s2
        out[cut["beta"], cut["beta"]] -= np.einsum("cqp,cqr,crs->ps", loaded, law.cov, loaded) / s2**2
        middle = slice(cut["tau"].start, cut["log_sigma2"].stop)
        out[middle, middle] = variance_information(self.data, params, self.own_blocks, self.samples)
        if self.part.free.size:
            units = self.units
            expected = units.x @ params.beta + params.tau[units.outcome] * law.mean[units.cluster, 0]
            out[cut["phi"], cut["phi"]] = self.part.information(params.phi, units, expected)
        return out


def variance_information(data: SelectionData, params: CrossedParams, own_blocks: bool, samples: bool) -> np.ndarray:
    """Expected information of loadings, standard deviations and log variance from the seen outcomes."""
    (omega, delta), tau, s2, K = params.spread, params.tau, float(params.sigma2[0]), params.tau.size
    # at zero a standard deviation has no information; there the variance's own serves as a scale
    floor = 0.1 * np.sqrt(s2)
    scales = np.array([2.0 * max(abs(omega), floor), 2.0 * max(abs(delta), floor)])
    kept = np.r_[np.full(K, True), own_blocks, samples, True]
    out = np.zeros((K + 3, K + 3))
    for start, size in zip(data.starts, data.sizes, strict=True):
        row, outcome = np.nonzero(data.observed[start : start + size])
        if row.size:
            out += _cluster_information(row, outcome, int(size), tau, (omega, delta), s2, scales)
    out = out[np.ix_(kept, kept)]
    # loadings near zero have none either
    return out + 1e-3 * np.diag(np.maximum(np.diag(out), data.observed.sum() / (K * s2) * 1e-2))


def _cluster_information(
    row: np.ndarray,
    outcome: np.ndarray,
    size: int,
    tau: np.ndarray,
    spread: tuple[float, float],
    s2: float,
    scales: np.ndarray,
) -> np.ndarray:
    """``1/2 tr(V^-1 V_a V^-1 V_b)`` of one cluster over loadings, omega, delta and log sigma2, (K + 3, K + 3).

    All derivatives are sums of products of the indicators of outcomes and of samples and the loadings, so that the
    traces are those of small tables of their quadratic forms.
    """
    omega, delta = spread
    load, K = tau[outcome], tau.size
    same, level = outcome[:, None] == outcome, row[:, None] == row
    V = np.outer(load, load) + omega**2 * same + delta**2 * level
    V[np.diag_indices(row.size)] += s2
    inverse = np.linalg.inv(V)
    basis = np.zeros((row.size, K + size + 1))
    basis[np.arange(row.size), outcome] = 1.0
    basis[np.arange(row.size), K + row] = 1.0
    basis[:, -1] = load
    turned = inverse @ basis
    once, twice = basis.T @ turned, turned.T @ turned
    by, at, end = slice(0, K), slice(K, K + size), K + size
    own, along = once[by, by], once[by, end]
    out = np.empty((K + 3, K + 3))
    out[:K, :K] = 2.0 * (np.outer(along, along) + own * once[end, end])
    out[:K, K] = 2.0 * scales[0] * (own @ along)
    out[:K, K + 1] = 2.0 * scales[1] * (once[by, at] @ once[at, end])
    out[:K, K + 2] = 2.0 * s2 * twice[by, end]
    out[K, K] = scales[0] ** 2 * (own**2).sum()
    out[K, K + 1] = scales[0] * scales[1] * (once[by, at] ** 2).sum()
    out[K, K + 2] = scales[0] * s2 * np.trace(twice[by, by])
    out[K + 1, K + 1] = scales[1] ** 2 * (once[at, at] ** 2).sum()
    out[K + 1, K + 2] = scales[1] * s2 * np.trace(twice[at, at])
    out[K + 2, K + 2] = s2**2 * (inverse**2).sum()
    upper = np.triu(out)
    return 0.5 * (upper + np.triu(upper, 1).T)


def _across(width: np.ndarray, slope: np.ndarray, first: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rule for the mean effect of the samples: few nodes where the missing units hardly feel it."""
    # also without a slope: the moments of the samples' effects have the variance across
    if np.abs(slope).max() < FLAT or np.add.reduceat((slope / width) ** 2, first).max() < NEARLY_NORMAL:
        return HERMITE
    return _trapezoidal(width, slope, first)


def _trapezoidal(width: np.ndarray, slope: np.ndarray, first: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points about the mode and logarithms of weights over the normal density's ``exp(-z^2/2)``."""
    step = quadrature_step(width, slope, first)
    points = step * np.arange(-int(SPAN / step), int(SPAN / step) + 1)
    return points, np.full(points.size, np.log(step) - 0.5 * LOG_2PI)


def _gauss_hermite(n: int) -> tuple[np.ndarray, np.ndarray]:
    points, weights = np.polynomial.hermite_e.hermegauss(n)
    return points, np.log(weights) + 0.5 * points**2 - 0.5 * LOG_2PI


# where the missing units add less than this to the curvature, the integrand is nearly normal: nine nodes err by 1e-13
NEARLY_NORMAL = 0.05
HERMITE = _gauss_hermite(9)
