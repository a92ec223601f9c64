"""Refits of one design to many responses at once: models with a single grouping factor, arrays over responses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from mvmise_sm.core.elimination.crossprod import cross_products, scaled
from mvmise_sm.core.elimination.single_factor import SingleSystem

__all__ = ["BatchedRefits"]

_DECREMENT = 1e-8
_BOUNDARY = 1e-3
_ITERATIONS = 40
_CELLS = 4_000_000


@dataclass(frozen=True, slots=True, eq=False)
class _Shape:
    """Objective and its local shape at one theta per response.

    Attributes
    ----------
    value : ndarray
        Up to a constant (R,).
    gradient : ndarray
        (R, k).
    information : ndarray
        (R, k, k).
    beta : ndarray
        Least-squares solution (R, p).
    sigma2 : ndarray
        (R,).
    """

    value: np.ndarray
    gradient: np.ndarray
    information: np.ndarray
    beta: np.ndarray
    sigma2: np.ndarray

    def take(self, rows):
        """The responses `rows`."""
        return _Shape(*(getattr(self, name)[rows] for name in self.__slots__))


class BatchedRefits:
    """Fit one design to many responses.

    Parameters
    ----------
    criterion : ProfiledDeviance
        For which `supports` holds.
    start : ndarray
        Working theta (k_theta,) to start from.
    """

    def __init__(self, criterion, start):
        self.criterion, self.start = criterion, start
        self.reml, self.p = criterion.reml, criterion.k_fe
        self.nu = float(criterion.nobs - (self.p if self.reml else 0))
        layout, basis = criterion.layout, criterion.basis
        (factor,) = layout.factors
        n = criterion.nobs
        self.root = np.ones(n) if criterion._weights is None else np.sqrt(criterion._weights)
        self.X = np.empty((n, self.p))
        basis.rows(criterion._X, 0, n, self.X)
        self.X *= basis.scale * self.root[:, None]
        origin = np.zeros(self.p)
        raw = cross_products(layout, basis, criterion._X, np.zeros(n), origin, criterion._weights)
        system = SingleSystem(layout, scaled(raw, layout, basis))
        self.xx, self.bx = system.gram[: self.p, : self.p], system.rhs[:, :, : self.p]
        if system.classes is None:
            self.groups, self.c = [slice(j, j + 1) for j in range(factor.n_levels)], system.own.transpose(2, 0, 1)
            self.order = np.arange(factor.n_levels)
        else:
            first, _, self.order, starts = system.classes
            stops = np.append(starts[1:], factor.n_levels)
            self.groups = [slice(int(a), int(b)) for a, b in zip(starts, stops, strict=True)]
            self.c = system.own[:, :, first].transpose(2, 0, 1)
        self.count = np.array([g.stop - g.start for g in self.groups], dtype=float)
        self.z = [
            sparse.csr_matrix((self._column(factor, a), (factor.codes, np.arange(n))), shape=(factor.n_levels, n))
            for a in range(factor.q)
        ]
        self.basis = np.zeros((criterion.k_theta, factor.q, factor.q))
        self.mask = np.zeros((factor.q, factor.q))
        tangents = [
            structure.tangents(start[at])
            for structure, at in zip(criterion.space.structures, criterion.random.theta_slices, strict=True)
        ]
        for t, place, at in zip(tangents, factor.places, criterion.random.theta_slices, strict=True):
            self.basis[at, place, place] = t
            self.mask[place, place] = 1.0

    def _column(self, factor, a):
        values = factor.values(a)
        return self.root * factor.scale[a] * (1.0 if values is None else values)

    def __call__(self, responses):
        """Fit to every column of `responses` (nobs, R), offset already taken off.

        Returns
        -------
        theta : ndarray
            Working theta (R, k_theta).
        beta : ndarray
            User's coordinates (R, p).
        sigma2 : ndarray
            (R,).
        regular : ndarray
            Whether the fit is a stationary point off the boundary (R,); others need a fit of their own.
        """
        q, m = len(self.z), self.p + 1
        width = max(1, _CELLS // (len(self.groups) * q * q * m * m))
        parts = [self._fit(responses[:, lo : lo + width]) for lo in range(0, responses.shape[1], width)]
        return tuple(np.concatenate(column) for column in zip(*parts, strict=True))

    def _moments(self, y):
        """Gram matrices (R, m, m) and class moments (R, classes * q * q, m * m) of [X y]."""
        p, q, r = self.p, len(self.z), y.shape[1]
        gram = np.empty((r, p + 1, p + 1))
        gram[:, :p, :p] = self.xx
        gram[:, :p, p] = gram[:, p, :p] = (self.X.T @ y).T
        gram[:, p, p] = np.square(y).sum(axis=0)
        by = np.stack([z @ y for z in self.z])[:, self.order]
        bx = self.bx[:, self.order]
        out = np.empty((r, len(self.groups), q, q, p + 1, p + 1))
        for u, group in enumerate(self.groups):
            x, v = bx[:, group], by[:, group]
            out[:, u, :, :, :p, :p] = np.einsum("ajm,bjn->abmn", x, x)
            mixed = np.tensordot(x, v, axes=([1], [1]))
            out[:, u, :, :, :p, p] = mixed.transpose(3, 0, 2, 1)
            out[:, u, :, :, p, :p] = mixed.transpose(3, 2, 0, 1)
            out[:, u, :, :, p, p] = np.einsum("ajr,bjr->rab", v, v)
        return gram, out.reshape(r, -1, (p + 1) ** 2)

    def _fit(self, responses):
        criterion = self.criterion
        basis = criterion.basis
        centre = np.linalg.lstsq(criterion._X, responses.mean(axis=1), rcond=None)[0] if self.p else np.zeros(0)
        y = (responses - (criterion._X @ centre)[:, None]) * self.root[:, None]
        gram, moments = self._moments(y)
        r = y.shape[1]
        theta = np.tile(self.start, (r, 1))
        lower = criterion.lower
        here = self._shape(theta, gram, moments)
        done, scale = np.zeros(r, dtype=bool), np.ones(r)
        step, decrement = _steps(theta, here, lower)
        for _ in range(_ITERATIONS):
            done |= decrement < _DECREMENT
            active = np.flatnonzero(~done & (scale > 1e-4))
            if not active.size:
                break
            trial = np.maximum(theta[active] - scale[active, None] * step[active], lower)
            there = self._shape(trial, gram[active], moments[active])
            better = there.value <= here.value[active] + 1e-10 * np.abs(here.value[active])
            scale[active[~better]] *= 0.25
            moved = active[better]
            theta[moved], scale[moved] = trial[better], 1.0
            for name in _Shape.__slots__:
                getattr(here, name)[moved] = getattr(there, name)[better]
            step[moved], decrement[moved] = _steps(theta[moved], here.take(moved), lower)
        # the last step is at hand and takes theta from half the digits to nearly all
        theta = np.maximum(theta - step * done[:, None], lower)
        last = self._shape(theta, gram, moments)
        regular = done & (theta[:, lower == 0.0] > _BOUNDARY).all(axis=1)
        return theta, last.beta @ basis.a.T + centre, last.sigma2, regular

    def _shape(self, theta, gram, moments):
        q, p = len(self.z), self.p
        r, m = len(theta), p + 1
        eye = np.eye(q)
        lam = np.tensordot(theta, self.basis, axes=1)
        cl = self.c @ lam[:, None]
        inner = np.swapaxes(lam, 1, 2)[:, None] @ cl + eye
        inverse = np.linalg.inv(inner)
        w = lam[:, None] @ inverse @ np.swapaxes(lam, 1, 2)[:, None]
        cw = self.c @ w
        i_minus_cw = eye - cw
        t = i_minus_cw @ self.c
        k = gram - (w.reshape(r, 1, -1) @ moments).reshape(r, m, m)
        cov = np.linalg.inv(k[:, :p, :p])
        beta = (cov @ k[:, :p, p:])[:, :, 0]
        r2 = k[:, p, p] - (beta * k[:, :p, p]).sum(axis=1)
        sigma2 = r2 / self.nu
        value = np.linalg.slogdet(inner)[1] @ self.count + self.nu * np.log(r2)
        xi = np.concatenate([-beta, np.ones((r, 1))], axis=1)
        weights = xi[:, :, None] * xi[:, None] / sigma2[:, None, None]
        if self.reml:
            value = value - np.linalg.slogdet(cov)[1]
            weights[:, :p, :p] += cov
        g = (moments @ weights.reshape(r, -1, 1)).reshape(r, -1, q, q)
        icwt = np.swapaxes(i_minus_cw, 2, 3)
        d = np.tensordot(t, self.count, axes=([1], [0])) - (i_minus_cw @ g @ icwt).sum(axis=1)
        gradient = 2.0 * np.einsum("rab,kab->rk", d @ lam, self.basis)
        along = np.einsum("rcmn,rn->rcm", moments.reshape(r, -1, m, m), xi)
        information = self._information(lam, t, i_minus_cw, along, xi, cov, sigma2, d)
        return _Shape(value, gradient, information, beta, sigma2)

    def _information(self, lam, t, i_minus_cw, along, xi, cov, sigma2, d):
        q, p = len(self.z), self.p
        r, m = xi.shape
        # per class the sum over its levels of (Z'V^-1[X y])_c (Z'V^-1[X y] xi)_d
        cross = np.einsum(
            "ruca,ruabm,rudb->rucdm", i_minus_cw, along.reshape(r, -1, q, q, m), i_minus_cw, optimize=True
        )
        ee = np.einsum("rucdm,rm->rucd", cross, xi)
        directions = np.einsum("kab,rcb->rkac", self.basis, lam)
        directions = directions + np.swapaxes(directions, 2, 3)
        b = np.einsum("rkcd,rcd->rk", directions, ee.sum(axis=1))
        ax = np.einsum("rkcd,rcdm->rkm", directions, cross.sum(axis=1)[..., :p])
        a = np.einsum("rsab,rubc,rtcd,ruad->rst", directions, t, directions, ee, optimize=True)
        a = a - ax @ cov @ np.swapaxes(ax, 1, 2)
        values, vectors = np.linalg.eigh(d * self.mask)
        positive = (vectors * np.maximum(values, 0.0)[:, None]) @ np.swapaxes(vectors, 1, 2)
        bend = 2.0 * np.einsum("rab,sbc,tac->rst", positive, self.basis, self.basis, optimize=True)
        s2 = sigma2[:, None, None]
        return a / s2 - b[:, :, None] * b[:, None] / (self.nu * s2**2) + bend


def _steps(theta, shape, lower):
    """Newton steps (R, k) on the parameters off their bound, and their decrements (R,)."""
    held = (theta <= lower) & (shape.gradient >= 0.0)
    g = np.where(held, 0.0, shape.gradient)
    h = np.where(held[:, :, None] | held[:, None], 0.0, shape.information)
    k = theta.shape[1]
    diagonal = np.einsum("rkk->rk", h)
    floor = np.maximum(1e-12 * diagonal.max(axis=1), 1e-12)
    h[:, np.arange(k), np.arange(k)] += np.where(held, 1.0, floor[:, None])
    step = np.linalg.solve(h, g[:, :, None])[:, :, 0]
    return step, (g * step).sum(axis=1)
