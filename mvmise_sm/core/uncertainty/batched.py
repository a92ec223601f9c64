"""Degrees of freedom, adjusted standard errors and F tests of many fits at once, in closed form from their moments."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mvmise_sm.core.criteria.batched import BatchDesign
from mvmise_sm.core.optimise.batched import BatchFit
from mvmise_sm.core.uncertainty.kenward_roger import f_approximation

__all__ = ["BatchKenwardRoger", "BatchPlain", "BatchSatterthwaite", "BatchTests", "units"]

# share of the largest scaled eigenvalue of a Hessian below which a direction is flat
_FLAT = 1e-6
_EQUAL = 1e-8
_NO_MEAN = 2.0


class BatchTests:
    """Tests of combinations of the fixed effects of R fits.

    Parameters
    ----------
    fit : BatchFit
    """

    def __init__(self, fit: BatchFit) -> None:
        self.design, self.fit = fit.design, fit
        design = fit.design
        self.cov = fit.at.sigma2[:, None, None] * fit.at.cov
        self.nu = fit.moments.n - (design.p if design.reml else 0)

    def estimates(self, contrasts: np.ndarray) -> np.ndarray:
        """Combinations (c, p) of the fixed effects, user's coordinates (R, c)."""
        return self.fit.beta @ contrasts.T

    def variances(self, contrasts: np.ndarray) -> np.ndarray:
        """Their squared standard errors (R, c)."""
        c = contrasts @ self.design.basis
        return np.einsum("ci,rij,cj->rc", c, self.cov, c)

    def df(self, contrasts: np.ndarray) -> np.ndarray:
        """Degrees of freedom of each by itself (R, c)."""
        c = contrasts @ self.design.basis
        return self._df(np.broadcast_to(c, (len(self.cov), *c.shape)))

    def f_tests(self, contrasts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """F and denominator degrees of freedom of L beta = 0 (R,), and det(L cov L')^(1/k) (R,)."""
        rows = contrasts @ self.design.basis
        inner = rows @ self.cov @ rows.T
        values = self.estimates(contrasts)
        size = np.linalg.det(inner) ** (1.0 / len(rows))
        f, df = self._f(rows, inner, values)
        return f, df, size

    def _df(self, rows: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def _f(self, rows: np.ndarray, inner: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        solved = np.linalg.solve(inner, values[:, :, None])[:, :, 0]
        return (values * solved).sum(axis=1) / len(rows), self._df(np.zeros((len(values), 1, rows.shape[1])))[:, 0]


class BatchPlain(BatchTests):
    """One number of degrees of freedom per fit; see `BatchTests`.

    Parameters
    ----------
    fit : BatchFit
        As in `BatchTests`.
    residual : bool
        Rows less fixed effects, as in least squares; else infinite.
    """

    def __init__(self, fit: BatchFit, residual: bool) -> None:
        super().__init__(fit)
        design = fit.design
        self._own = fit.moments.n - design.p if residual else np.full(len(self.cov), np.inf)

    def _df(self, rows: np.ndarray) -> np.ndarray:
        return np.repeat(self._own[:, None], rows.shape[1], axis=1)


class BatchSatterthwaite(BatchTests):
    """Satterthwaite's degrees of freedom, F tests after Fai and Cornelius; see `BatchTests`.

    With u the slopes of log(c'Cov c) in theta and h the Hessian of the objective, df = 1 / (1/nu + u'h^-1u).
    """

    def __init__(self, fit: BatchFit) -> None:
        super().__init__(fit)
        design = fit.design
        p = design.p
        self._inverse = _flat_inverse(fit.at.hessian)
        cov = fit.at.cov[:, None]
        self._moved = cov @ fit.at.h[:, :, :p, :p] @ cov
        self._scale = fit.at.b / (fit.at.sigma2 * self.nu)[:, None]

    def _df(self, rows: np.ndarray) -> np.ndarray:
        at = self.fit.at
        plain = np.einsum("rci,rij,rcj->rc", rows, at.cov, rows)
        moved = np.einsum("rci,rsij,rcj->rcs", rows, self._moved, rows)
        u = moved / plain[:, :, None] - self._scale[:, None]
        return 1.0 / (1.0 / self.nu[:, None] + np.einsum("rcs,rst,rct->rc", u, self._inverse, u))

    def _f(self, rows: np.ndarray, inner: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        k = len(rows)
        eigenvalues, vectors = np.linalg.eigh(inner)
        turned = np.swapaxes(vectors, 1, 2)
        f = (np.square((turned @ values[:, :, None])[:, :, 0]) / eigenvalues).sum(axis=1) / k
        nu = self._df(turned @ rows)
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = (nu / (nu - 2.0)).sum(axis=1)
            df = 2.0 * mean / (mean - k)
        df = np.where(nu.min(axis=1) <= _NO_MEAN, _NO_MEAN, df)
        same = np.ptp(nu, axis=1) <= _EQUAL * nu.max(axis=1)
        return f, np.where(same, nu.mean(axis=1), df)


class BatchKenwardRoger(BatchTests):
    """Kenward and Roger's adjusted covariance and degrees of freedom; see `BatchTests`.

    The parameters are a multiple of V and the elements of Sigma, in which V is linear; their expected information stays
    regular at a variance of zero.
    """

    def __init__(self, fit: BatchFit) -> None:
        super().__init__(fit)
        design = fit.design
        p, q, m = design.p, design.q, fit.moments
        r, cov = len(self.cov), fit.at.cov
        lam = design.lam(fit.theta)
        lam_t = np.swapaxes(lam, 1, 2)
        inner = lam_t[:, None] @ m.c @ lam[:, None] + np.eye(q)
        i_minus_cw = np.eye(q) - m.c @ (lam[:, None] @ np.linalg.inv(inner) @ lam_t[:, None])
        left, t = np.swapaxes(i_minus_cw, 2, 3), i_minus_cw @ m.c
        units = _units(design.mask)
        pairs = [(e, f) for e in range(len(units)) for f in range(e, len(units))]
        weights = [left @ e @ i_minus_cw for e in units]
        weights += [left @ units[e] @ t @ units[f] @ i_minus_cw for e, f in pairs]
        stacked = np.stack([w.reshape(r, -1) for w in weights], axis=1)
        sums = (stacked @ m.cross).reshape(r, len(weights), p + 1, p + 1)[:, :, :p, :p]
        h, double = sums[:, : len(units)], sums[:, len(units) :]
        hx = cov[:, None] @ h
        size = len(units) + 1
        information = np.empty((r, size, size))
        information[:, 0, 0] = m.n - p
        for e, unit in enumerate(units):
            own = np.einsum("ruab,ba,u->r", t, unit, m.count) - np.einsum("rii->r", hx[:, e])
            information[:, 0, e + 1] = information[:, e + 1, 0] = own
        for (e, f), q_ef in zip(pairs, np.moveaxis(double, 1, 0), strict=True):
            own = np.einsum("ruab,ruba,u->r", t @ units[e], t @ units[f], m.count)
            own -= 2.0 * (cov * np.swapaxes(q_ef, 1, 2)).sum(axis=(1, 2))
            own += (hx[:, e] * np.swapaxes(hx[:, f], 1, 2)).sum(axis=(1, 2))
            information[:, e + 1, f + 1] = information[:, f + 1, e + 1] = own
        usable = np.where(np.isfinite(information), information, 0.0)
        self._weights = np.linalg.pinv(usable, rcond=1e-12, hermitian=True)
        total = np.zeros((r, p, p))
        for (e, f), q_ef in zip(pairs, np.moveaxis(double, 1, 0), strict=True):
            part = q_ef - h[:, e] @ hx[:, f]
            part = part + np.swapaxes(part, 1, 2)
            total += (0.5 if e == f else 1.0) * self._weights[:, e + 1, f + 1, None, None] * part
        s2 = fit.at.sigma2[:, None, None]
        self.plain = self.cov
        self.cov = self.cov + 4.0 * s2 * cov @ total @ cov
        self._moved = np.concatenate([cov[:, None], hx @ cov[:, None]], axis=1)

    def _df(self, rows: np.ndarray) -> np.ndarray:
        parts = np.einsum("rci,reij,rcj->rce", rows, self._moved, rows)
        w = parts / parts[:, :, :1]
        return 1.0 / np.einsum("rce,ref,rcf->rc", w, self._weights, w)

    def _f(self, rows: np.ndarray, inner: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        k = len(rows)
        moved = rows @ self._moved @ rows.T
        parts = np.linalg.solve(np.broadcast_to(moved[:, :1], moved.shape), moved)
        traces = np.einsum("reaa->re", parts)
        double = 2.0 * self._weights
        a1 = np.einsum("re,ref,rf->r", traces, double, traces)
        a2 = np.einsum("ref,reab,rfba->r", double, parts, parts)
        df, scaling = f_approximation(k, a1, a2)
        solved = np.linalg.solve(inner, values[:, :, None])[:, :, 0]
        return scaling * (values * solved).sum(axis=1) / k, np.asarray(df)


@dataclass(frozen=True, slots=True, eq=False)
class Units:
    """Variances over the residual variance at a common theta.

    Attributes
    ----------
    contrasts : ndarray
        c'(X'V0^-1X)^-1c (R, c).
    tests : list of ndarray
        det(L(X'V0^-1X)^-1L')^(1/k) (R,) of every test.
    full : ndarray
        Whether the rows determine all fixed effects (R,).
    """

    contrasts: np.ndarray
    tests: list[np.ndarray]
    full: np.ndarray


def units(
    design: BatchDesign,
    Y: np.ndarray,
    W: np.ndarray | None,
    theta: np.ndarray,
    contrasts: np.ndarray,
    tests: list[np.ndarray],
) -> Units:
    """What the variances of combinations are at a common theta (k,) of the user's, on each response's own rows."""
    # on shared rows and weights all responses have the same units
    m = design.moments(Y if W is not None else Y[:, :1], W)
    with np.errstate(all="ignore"):
        cov = design.evaluate(np.tile(design.working_theta(theta), (len(m.gram), 1)), m).cov
    cov = np.broadcast_to(cov, (Y.shape[1], *cov.shape[1:]))
    c = contrasts @ design.basis
    sizes = []
    for test in tests:
        rows = test @ design.basis
        sizes.append(np.linalg.det(rows @ cov @ rows.T) ** (1.0 / len(rows)))
    return Units(np.einsum("ci,rij,cj->rc", c, cov, c), sizes, np.broadcast_to(m.full, Y.shape[1]))


def _units(mask: np.ndarray) -> list[np.ndarray]:
    """Unit symmetric matrices (q, q) of the elements that the template fills."""
    out = []
    for a in range(len(mask)):
        for b in range(a + 1):
            if mask[a, b]:
                unit = np.zeros_like(mask)
                unit[a, b] = unit[b, a] = 1.0
                out.append(unit)
    return out


def _flat_inverse(h: np.ndarray) -> np.ndarray:
    """Inverses (R, k, k) on the directions in which matrices are clearly positive."""
    if not h.shape[-1]:
        return h
    h = np.where(np.isfinite(h), h, 0.0)
    size = np.sqrt(np.maximum(np.abs(np.einsum("rkk->rk", h)), 1e-300))
    values, vectors = np.linalg.eigh(h / size[:, :, None] / size[:, None])
    keep = values > _FLAT
    inverse = np.where(keep, 1.0 / np.where(keep, values, 1.0), 0.0)
    vectors = vectors / size[:, :, None]
    return (vectors * inverse[:, None]) @ np.swapaxes(vectors, 1, 2)
