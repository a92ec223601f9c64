"""Moment estimates of variance components, the start of a fit."""

from __future__ import annotations

import numpy as np

__all__ = ["moment_variances"]

# a smaller start is stationary at zero
_FLOOR = 0.1
_LEAST_RESIDUAL = 0.2
# shares are at most about 1; larger ones come from residuals that are zero but for rounding
_LARGEST_SHARE = 4.0


def moment_variances(layout, system, nobs, p):
    """Relative variances of every term's columns from the residuals of least squares.

    Each column is taken alone: with s_j = z_j'r and c_j = z_j'z_j of level j, the mean of s_j^2 / c_j over the
    residual variance is about 1 + (mean c_j - 1) times the share of the column's variance.

    Returns
    -------
    list of ndarray
        Working coordinates, (q,) per term.
    """
    gram = system.gram
    beta = np.linalg.solve(gram[:p, :p], gram[:p, p])
    total = max(float(gram[p, p] - beta @ gram[:p, p]), 1e-300) / nobs
    xi = np.append(-beta, 1.0)
    shares, floors, taken = [], [], 0.0
    for size, rhs in system.level_products():
        size = np.maximum(size, 1e-300)
        score = rhs @ xi
        levels = size.shape[1]
        n0 = np.maximum(size.sum(axis=1) / levels, 1.0 + 1e-6)
        between = (score * score / size).sum(axis=1) / (levels * total)
        share = np.minimum((between - 1.0) / (n0 - 1.0 + 1e-3), _LARGEST_SHARE)
        taken += float(share[share > 0.0].sum())
        shares.append(share)
        floors.append(_FLOOR / n0)
    left = max(1.0 - taken, _LEAST_RESIDUAL)
    out = [None] * len(layout.random.terms)
    for f, share, floor in zip(layout.factors, shares, floors, strict=True):
        variances = np.maximum(share / left, floor)
        for t, place in zip(f.terms, f.places, strict=True):
            out[t] = variances[place]
    return out
