"""Uncertainty of a generalised linear mixed model at its optimum: Hessian, conditional covariances, variances of predictions."""

from __future__ import annotations

import numpy as np

__all__ = ["conditional_cov", "hessian", "parameter_cov", "prediction_variance"]

# step in standard errors of the working model
_STEP = 2e-3
_PANEL_CELLS = 20_000_000


def hessian(criterion, x):
    """Second derivatives of the objective at a working vector, by central differences of the exact gradient.

    Parameters
    ----------
    criterion : LaplaceDeviance
    x : ndarray
        Working vector (k,).

    Returns
    -------
    hessian : ndarray
        (k, k) over the free parameters, zero elsewhere.
    free : ndarray
        Parameters off their lower bound (k,).
    """
    here = criterion.evaluate(x)
    free = x > criterion.lower + 1e-8
    sizes = _STEP / np.sqrt(np.maximum(0.5 * here.information.diagonal(), 1e-12))
    out = np.zeros((x.size, x.size))
    for i in np.flatnonzero(free):
        step = np.zeros(x.size)
        step[i] = min(sizes[i], 0.1 * (x[i] - criterion.lower[i]))
        slopes = []
        for moved in (x + step, x - step):
            criterion.value(moved)
            slopes.append(criterion.evaluate(moved, information=False).gradient)
        out[i] = (slopes[0] - slopes[1]) / (2.0 * step[i])
    criterion.value(x)
    out[:, ~free] = 0.0
    return 0.5 * (out + out.T), free


def parameter_cov(criterion, x):
    """Covariance of the parameters from the Hessian, beta in the user's coordinates.

    Parameters
    ----------
    criterion : LaplaceDeviance
    x : ndarray
        Working vector (k,).

    Returns
    -------
    ndarray or None
        (k, k), zero for parameters on their bound; None where the Hessian is not positive definite.
    """
    h, free = hessian(criterion, x)
    scale = 1.0 / np.sqrt(np.maximum(h.diagonal()[free], 1e-300))
    scaled = h[np.ix_(free, free)] * scale[:, None] * scale
    if not np.isfinite(scaled).all() or np.linalg.eigvalsh(scaled)[0] <= 1e-10:
        return None
    out = np.zeros_like(h)
    out[np.ix_(free, free)] = 2.0 * np.linalg.inv(scaled) * scale[:, None] * scale
    if not criterion.profiles_beta:
        at = slice(criterion.k_theta, criterion.k_theta + criterion.k_fe)
        out[at] = criterion.fixed_map @ out[at]
        out[:, at] = out[:, at] @ criterion.fixed_map.T
    return out


def conditional_cov(criterion, x):
    """Var(b | y) at the mode, by level.

    Returns
    -------
    tuple of ndarray
        One (n_levels, q_k, q_k) per grouping factor in the order of ``random.factors``.
    """
    mode = criterion.mode(x)
    layout = criterion.layout
    out = [None] * len(layout.factors)
    for f, block in zip(layout.factors, mode.weighted.posterior_cov(), strict=True):
        a = np.zeros((f.q, f.q))
        for t, place in zip(f.terms, f.places, strict=True):
            a[place, place] = layout.term_bases[t].a
        out[f.index] = a @ block.transpose(2, 0, 1) @ a.T
    return tuple(out)


def prediction_variance(criterion, x, cov_beta, exog, rows):
    """Var(x'(beta_hat - beta) + z'(b_hat - b)) of new rows.

    Parameters
    ----------
    criterion : LaplaceDeviance
    x : ndarray
        Working vector (k,).
    cov_beta : ndarray
        Covariance of beta in the user's coordinates (p, p).
    exog : ndarray
        (m, p).
    rows : sequence of (ndarray, ndarray)
        Per term: level of every row (m,), -1 for a level without data, and columns (m, q).

    Returns
    -------
    ndarray
        (m,); a level without data contributes its marginal variance.
    """
    layout, mode = criterion.layout, criterion.mode(x)
    terms = criterion.lambdas(x)
    m = exog.shape[0]
    out, fresh = np.empty(m), np.zeros(m)
    loadings = []
    for f in layout.factors:
        for t, place in zip(f.terms, f.places, strict=True):
            codes, columns = rows[t]
            z = np.asarray(columns, dtype=float) @ layout.term_bases[t].a
            known = codes >= 0
            fresh[~known] += np.square(z[~known] @ terms[t]).sum(axis=1)
            loadings.append((f, place, codes, z * known[:, None]))
    explained = criterion.fixed_system(mode).coef
    back = np.linalg.inv(criterion.fixed_map)
    position = {id(f): k for k, f in enumerate(layout.factors)}
    panel = max(1, _PANEL_CELLS // max(layout.n_random, 1))
    for lo in range(0, m, panel):
        hi = min(lo + panel, m)
        unit = [np.zeros((f.q, f.n_levels, hi - lo)) for f in layout.factors]
        for f, place, codes, z in loadings:
            for a in range(z.shape[1]):
                unit[position[id(f)]][place.start + a, np.maximum(codes[lo:hi], 0), np.arange(hi - lo)] += z[lo:hi, a]
        solved = mode.weighted.solve(unit)[0]
        own = sum((u * s).sum(axis=(0, 1)) for u, s in zip(unit, solved, strict=True))
        shift = sum(np.tensordot(u, e, axes=([0, 1], [0, 1])) for u, e in zip(unit, explained, strict=True))
        rest = exog[lo:hi] - shift @ back
        out[lo:hi] = own + ((rest @ cov_beta) * rest).sum(axis=1)
    return out + fresh
