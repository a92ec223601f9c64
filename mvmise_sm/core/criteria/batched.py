"""One design fitted to many responses at once: linear mixed models with one grouping factor, arrays over responses.

A response has its own weights; a weight of zero is a missing value, so that complete data, missing values and weights
are one thing. All sums over rows are taken once, per level of the factor; what an evaluation needs are products of
these moments with small matrices.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from scipy import sparse

from mvmise_sm.core.covariance.random_effects import RandomEffects

__all__ = ["BatchDesign", "Evaluation", "Moments", "supports", "unit_places"]

# share of the largest eigenvalue of X'WX below which the observed rows do not determine all fixed effects
_RANK = 1e-9
# a pivot below this share of its diagonal element counts as zero
_PIVOT = 1e-13
# largest matrices that are multiplied element by element
_SMALL = 3
_CELLS = 4_000_000


def unit_places(random: RandomEffects) -> tuple[np.ndarray, np.ndarray] | None:
    """Rows and columns (k_theta,) of Lambda that the elements of theta are, all terms side by side.

    None where Lambda is not such a template, or there are several grouping factors.
    """
    if len(random.factors) != 1:
        return None
    rows, columns, start = [], [], 0
    for term in random.terms:
        if not term.structure.linear:
            return None
        tangents = term.structure.tangents(np.ones(term.structure.k_theta))
        places = np.argwhere(tangents != 0.0)
        if len(places) != len(tangents) or (tangents[tuple(places.T)] != 1.0).any():
            return None
        rows.append(places[:, 1] + start)
        columns.append(places[:, 2] + start)
        start += term.q
    return np.concatenate(rows), np.concatenate(columns)


def supports(criterion: Any) -> bool:
    """Whether a criterion can be fitted in batches: one grouping factor, no priors, Lambda a template of theta."""
    return criterion.batches_refits and unit_places(criterion.random) is not None


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Sums over the rows of every response; the leading axis has length R, or 1 where all responses share it.

    Attributes
    ----------
    gram : ndarray
        [X y]'W[X y] (R, m, m), m = p + 1, y the residuals of weighted least squares.
    cross : ndarray
        Z_j'W[X y] times itself, summed over the levels of a class (R, U * q * q, m * m).
    c : ndarray
        Z_j'WZ_j of a level of each class (R or 1, U, q, q).
    count : ndarray
        Levels in each class (U,).
    n : ndarray
        Rows with positive weight (R,).
    origin : ndarray
        Weighted least squares (R, p), which is taken off.
    full : ndarray
        Whether the rows determine all fixed effects (R,).
    """

    gram: np.ndarray
    cross: np.ndarray
    c: np.ndarray
    count: np.ndarray
    n: np.ndarray
    origin: np.ndarray
    full: np.ndarray

    def take(self, rows: np.ndarray) -> Moments:
        """The responses `rows`."""
        if len(rows) == len(self.gram):
            return self
        c = self.c if len(self.c) == 1 else self.c[rows]
        own = (self.n[rows], self.origin[rows], self.full[rows])
        return Moments(self.gram[rows], self.cross[rows], c, self.count, *own)


@dataclass(slots=True, eq=False)
class Evaluation:
    """Objective and its shape at one theta per response; arrays (R, ...).

    Attributes
    ----------
    value : ndarray
        Up to a constant.
    gradient, hessian, average : ndarray
        In theta (R, k), (R, k, k); `average` is the average information, positive semidefinite.
    beta, sigma2 : ndarray
        (R, p), (R,).
    cov : ndarray
        (X'V^-1X)^-1 (R, p, p).
    d : ndarray
        Derivative of the objective in Sigma, zero outside the template (R, q, q).
    h : ndarray
        sum_j [X y]'V^-1 Z E_s Z'V^-1 [X y], E_s the derivative of Sigma (R, k, m, m).
    b : ndarray
        The same for the residuals (R, k).
    """

    value: np.ndarray
    gradient: np.ndarray
    hessian: np.ndarray
    average: np.ndarray
    beta: np.ndarray
    sigma2: np.ndarray
    cov: np.ndarray
    d: np.ndarray
    h: np.ndarray
    b: np.ndarray

    def take(self, rows: np.ndarray) -> Evaluation:
        """The responses `rows`."""
        return Evaluation(*(getattr(self, item.name)[rows] for item in fields(self)))

    def put(self, rows: np.ndarray, other: Evaluation, chosen: np.ndarray) -> None:
        """Overwrite the responses `rows` by those of `other` that are `chosen`."""
        for item in fields(self):
            getattr(self, item.name)[rows] = getattr(other, item.name)[chosen]


class BatchDesign:
    """A design that many responses share.

    Columns are rescaled inside: fixed effects to an orthonormal basis, random-effects columns to unit mean square.

    Parameters
    ----------
    X : ndarray
        Fixed effects of full column rank (n, p).
    random : RandomEffects or None
        For which `unit_places` holds; None for least squares.
    reml : bool
    weights : ndarray, optional
        Weights of the rows that hold for all responses (n,).

    Attributes
    ----------
    basis : ndarray
        Columns of X are the working ones times its inverse (p, p).
    scale : ndarray
        Working theta over the user's (k,).
    """

    def __init__(
        self, X: np.ndarray, random: RandomEffects | None, reml: bool = True, weights: np.ndarray | None = None
    ) -> None:
        n, self.p = X.shape
        self.n, self.reml, self.weights = n, reml, weights
        triangle = np.linalg.qr(X, mode="r") / np.sqrt(n)
        self.basis = np.linalg.inv(triangle) if self.p else np.zeros((0, 0))
        self.X = X @ self.basis
        if random is None:
            self.codes, self.n_levels, columns = np.zeros(n, dtype=np.intp), 0, []
            self.rows = self.columns = np.zeros(0, dtype=np.intp)
            self.lower = np.zeros(0)
        else:
            (factor,) = random.factors
            self.codes, self.n_levels = np.asarray(factor.codes), factor.n_levels
            columns = [np.ones(n) if c is None else c for term in random.terms for c in term.columns]
            places = unit_places(random)
            assert places is not None
            self.rows, self.columns = places
            self.lower = random.lower
        self.q, self.k = len(columns), len(self.rows)
        size = np.array([np.sqrt(np.square(c).mean()) for c in columns])
        size = np.where(size > 0.0, size, 1.0)
        self.Z = np.column_stack(columns) / size if columns else np.zeros((n, 0))
        self.scale = size[self.rows] if columns else np.zeros(0)
        self.tangents = np.zeros((self.k, self.q, self.q))
        self.tangents[np.arange(self.k), self.rows, self.columns] = 1.0
        self.mask = self._mask()
        every = np.arange(n if self.q else 0)
        self.levels = sparse.csr_matrix((np.ones(every.size), (self.codes[every], every)), shape=(self.n_levels, n))

    def _mask(self) -> np.ndarray:
        """Elements of Sigma that the template can fill (q, q)."""
        filled = np.zeros((self.q, self.q))
        filled[self.rows, self.columns] = 1.0
        return (filled @ filled.T > 0.0).astype(float)

    def width(self) -> int:
        """Responses at a time, so that arrays stay in tens of megabytes."""
        cells = max(self.n_levels * self.q**2 * (self.p + 1) ** 2, self.n)
        return max(1, _CELLS // cells)

    def lam(self, theta: np.ndarray) -> np.ndarray:
        """Lambda (R, q, q) of working theta (R, k)."""
        out = np.zeros((len(theta), self.q, self.q))
        out[:, self.rows, self.columns] = theta
        return out

    # --- moments

    def moments(self, Y: np.ndarray, W: np.ndarray | None = None) -> Moments:
        """Sums over the rows.

        Parameters
        ----------
        Y : ndarray
            Responses (n, R); what has weight 0 may be anything finite.
        W : ndarray, optional
            Weights (n, R); those of the design by default.
        """
        shared = W is None
        if W is None:
            W = (np.ones(self.n) if self.weights is None else self.weights)[:, None]
        X, p, q = self.X, self.p, self.q
        pairs = (X[:, :, None] * X[:, None, :]).reshape(self.n, p * p)
        xx = (W.T @ pairs).reshape(W.shape[1], p, p)
        values = np.linalg.eigvalsh(xx) if p else np.ones((len(xx), 1))
        count = (W > 0.0).sum(axis=0).astype(float)
        full = (values[:, 0] > _RANK * values[:, -1]) & (count > p)
        safe = np.where(full[:, None, None], xx, np.eye(p))
        plain = shared and self.weights is None
        xy = (X.T @ (Y if plain else W * Y)).T
        origin = (np.linalg.inv(safe) @ xy[:, :, None])[:, :, 0]
        # residuals in place of responses: sums of squares keep their digits
        residual = X @ -origin.T
        residual += Y
        weighted = residual if plain else W * residual
        r = Y.shape[1]
        gram = np.empty((r, p + 1, p + 1))
        gram[:, :p, :p] = safe
        gram[:, :p, p] = gram[:, p, :p] = (X.T @ weighted).T
        gram[:, p, p] = np.einsum("ij,ij->j", weighted, residual)
        d = np.empty((r, self.n_levels, q))
        b = np.empty((W.shape[1], self.n_levels, q, p))
        c = np.empty((W.shape[1], self.n_levels, q, q))
        for a in range(q):
            z = self.Z[:, [a]]
            d[:, :, a] = (self.levels @ (weighted if (z == 1.0).all() else z * weighted)).T
            for k in range(p):
                b[:, :, a, k] = (self.levels @ (z * X[:, [k]] * W)).T
            for k in range(a + 1):
                c[:, :, a, k] = c[:, :, k, a] = (self.levels @ (z * self.Z[:, [k]] * W)).T
        if shared and q:
            cross, c, levels = _shared_cross(b[0], d, c[0])
        else:
            g = np.concatenate([np.broadcast_to(b, (r, *b.shape[1:])), d[..., None]], axis=3)
            cross, levels = g[:, :, :, None, :, None] * g[:, :, None, :, None, :], np.ones(self.n_levels)
        full, count = np.broadcast_to(full, r), np.broadcast_to(count, r)
        return Moments(gram, cross.reshape(r, cross.shape[1] * q * q, (p + 1) ** 2), c, levels, count, origin, full)

    # --- objective

    def evaluate(self, theta: np.ndarray, m: Moments) -> Evaluation:
        """Objective and shape at working theta (R, k)."""
        p, q, k, r = self.p, self.q, self.k, len(theta)
        lam = self.lam(theta)
        lam_t = np.swapaxes(lam, 1, 2)
        inner = _mm(lam_t[:, None], _mm(m.c, lam[:, None])) + np.eye(q)
        inverse, logdet = _inverse(inner)
        w = _mm(lam[:, None], _mm(inverse, lam_t[:, None]))
        i_minus_cw = np.eye(q) - _mm(m.c, w)
        left = np.swapaxes(i_minus_cw, 2, 3)
        t = _mm(i_minus_cw, m.c)
        moved = _mm(self.tangents, lam_t[:, None])
        e = moved + np.swapaxes(moved, 2, 3)
        te = [_mm(t, e[:, s, None]) for s in range(k)]
        weights = [w]
        weights += [_mm(left, _mm(e[:, s, None], i_minus_cw)) for s in range(k)]
        upper = [(s, u) for s in range(k) for u in range(s, k)]
        weights += [_mm(left, _mm(e[:, s, None], _mm(te[u], i_minus_cw))) for s, u in upper]
        stacked = np.stack(
            [np.broadcast_to(x, (r, *x.shape[1:])).reshape(r, m.cross.shape[1]) for x in weights], axis=1
        )
        sums = (stacked @ m.cross).reshape(r, len(weights), p + 1, p + 1)
        gram = m.gram - sums[:, 0]
        h = sums[:, 1 : k + 1]
        cov = np.linalg.inv(gram[:, :p, :p])
        beta = (cov @ gram[:, :p, p:])[:, :, 0]
        r2 = gram[:, p, p] - (beta * gram[:, :p, p]).sum(axis=1)
        nu = m.n - (p if self.reml else 0)
        sigma2 = r2 / nu
        value = logdet @ m.count + nu * np.log(r2)
        xi = np.concatenate([-beta, np.ones((r, 1))], axis=1)
        own = xi[:, :, None] * xi[:, None] / sigma2[:, None, None]
        if self.reml:
            value = value + np.linalg.slogdet(gram[:, :p, :p])[1]
            own[:, :p, :p] += cov
        scores = (m.cross @ own.reshape(r, own[0].size, 1)).reshape(r, m.c.shape[1], q, q)
        total = np.einsum("ruab,u->rab", t, m.count) - _mm(i_minus_cw, _mm(scores, left)).sum(axis=1)
        d = total * self.mask
        gradient = 2.0 * np.einsum("rab,kab->rk", d @ lam, self.tangents)
        along = np.einsum("rkmn,rn->rkm", h, xi)
        b = np.einsum("rkm,rm->rk", along, xi)
        hessian, average = self._second(m, te, sums[:, k + 1 :], upper, h, along[..., :p], b, xi, cov, sigma2, nu, d)
        return Evaluation(value, gradient, hessian, average, beta, sigma2, cov, d, h, b)

    def _second(self, m, te, q_sums, upper, h, c, b, xi, cov, sigma2, nu, d):  # type: ignore[no-untyped-def]
        """Exact Hessian and average information (R, k, k)."""
        p, k, r = self.p, self.k, len(xi)
        exact, average = np.empty((r, k, k)), np.empty((r, k, k))
        hx = cov[:, None] @ h[:, :, :p, :p]
        for (s, u), sums in zip(upper, np.moveaxis(q_sums, 1, 0), strict=True):
            fit = np.einsum("rm,rmn,rn->r", xi, sums, xi) - np.einsum("rm,rmn,rn->r", c[:, s], cov, c[:, u])
            a = fit / sigma2 - b[:, s] * b[:, u] / (nu * sigma2**2)
            full = -np.einsum("ruab,ruba,u->r", te[s], te[u], m.count, optimize=False) + 2.0 * fit / sigma2
            full -= b[:, s] * b[:, u] / (nu * sigma2**2)
            if self.reml:
                full += 2.0 * (cov * np.swapaxes(sums[:, :p, :p], 1, 2)).sum(axis=(1, 2))
                full -= (hx[:, s] * np.swapaxes(hx[:, u], 1, 2)).sum(axis=(1, 2))
            average[:, s, u] = average[:, u, s] = a
            exact[:, s, u] = exact[:, u, s] = full
        bend = np.einsum("sab,tcb->stac", self.tangents, self.tangents)
        exact += 2.0 * np.einsum("rac,stac->rst", d, bend)
        average += 2.0 * np.einsum("rac,stac->rst", _positive_part(d), bend)
        return exact, average

    def beta(self, m: Moments, at: Evaluation) -> np.ndarray:
        """Fixed effects in the user's coordinates (R, p)."""
        return (m.origin + at.beta) @ self.basis.T

    def user_theta(self, theta: np.ndarray) -> np.ndarray:
        """The user's theta (..., k) for working theta."""
        return theta / self.scale

    def working_theta(self, theta: np.ndarray) -> np.ndarray:
        """Working theta (..., k) for the user's."""
        return theta * self.scale

    def theta_of(self, sigma: np.ndarray) -> np.ndarray:
        """Working theta (R, k) of Sigma (R, q, q) cut to the template."""
        a = sigma * self.mask
        out = np.zeros_like(a)
        for j in range(self.q):
            pivot = a[:, j, j] - np.square(out[:, j, :j]).sum(axis=1)
            good = pivot > _PIVOT * a[:, j, j]
            root = np.sqrt(np.where(good, pivot, 1.0))
            out[:, j, j] = np.where(good, root, 0.0)
            for i in range(j + 1, self.q):
                rest = a[:, i, j] - (out[:, i, :j] * out[:, j, :j]).sum(axis=1)
                out[:, i, j] = np.where(good, rest / root, 0.0)
        return out[:, self.rows, self.columns]


def _shared_cross(b: np.ndarray, d: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cross moments where responses share rows and weights, summed over levels with equal blocks.

    Parameters
    ----------
    b : ndarray
        Z_j'WX (J, q, p).
    d : ndarray
        Z_j'Wy (R, J, q).
    c : ndarray
        Z_j'WZ_j (J, q, q).

    Returns
    -------
    cross : ndarray
        (R, U, q, q, p + 1, p + 1).
    c : ndarray
        Of each class (1, U, q, q).
    count : ndarray
        Levels in each class (U,).
    """
    (n_levels, q, p), r = b.shape, len(d)
    _, first, place = np.unique(c.reshape(n_levels, -1), axis=0, return_index=True, return_inverse=True)
    member = (np.arange(len(first))[:, None] == place.ravel()).astype(float)
    cross = np.empty((r, len(first), q, q, p + 1, p + 1))
    cross[..., :p, :p] = np.einsum("uj,jam,jbn->uabmn", member, b, b)
    for a in range(q):
        # sums over the levels of a class as one product with a matrix (J, U * q * p)
        mixed = d[:, :, a] @ np.einsum("uj,jbm->jubm", member, b).reshape(n_levels, -1)
        mixed = mixed.reshape(r, len(first), q, p)
        cross[:, :, a, :, p, :p] = mixed
        cross[:, :, :, a, :p, p] = mixed
        for k in range(q):
            cross[:, :, a, k, p, p] = (d[:, :, a] * d[:, :, k]) @ member.T
    return cross, c[None, first], member.sum(axis=1)


def _mm(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Products of square matrices over leading axes; small ones element by element, where a call of BLAS costs more."""
    q = a.shape[-1]
    if q == 1:
        return a * b
    if not 1 < q <= _SMALL:
        return a @ b
    out = np.empty((*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), q, q))
    for i in range(q):
        for k in range(q):
            total = a[..., i, 0] * b[..., 0, k]
            for j in range(1, q):
                total = total + a[..., i, j] * b[..., j, k]
            out[..., i, k] = total
    return out


def _inverse(a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Inverses and log-determinants of positive definite matrices (..., q, q)."""
    q = a.shape[-1]
    if q == 0:
        return a, np.zeros(a.shape[:-2])
    if q == 1:
        return 1.0 / a, np.log(a[..., 0, 0])
    if q == 2:
        det = a[..., 0, 0] * a[..., 1, 1] - a[..., 0, 1] * a[..., 1, 0]
        out = np.empty_like(a)
        out[..., 0, 0], out[..., 1, 1] = a[..., 1, 1] / det, a[..., 0, 0] / det
        out[..., 0, 1], out[..., 1, 0] = -a[..., 0, 1] / det, -a[..., 1, 0] / det
        return out, np.log(det)
    return np.linalg.inv(a), np.linalg.slogdet(a)[1]


def _positive_part(d: np.ndarray) -> np.ndarray:
    """Positive semidefinite part of symmetric matrices (R, q, q)."""
    if d.shape[-1] == 0:
        return d
    if d.shape[-1] == 1:
        return np.maximum(d, 0.0)
    values, vectors = np.linalg.eigh(np.where(np.isfinite(d), d, 0.0))
    return (vectors * np.maximum(values, 0.0)[:, None]) @ np.swapaxes(vectors, 1, 2)
