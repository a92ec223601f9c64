"""How far the Laplace approximation is from the integral.

Where several factors are few enough to average over, `higher_orders` gives the whole of what is missing. Elsewhere it
is the next term of the expansion, for any crossing,

eps = 1/8 sum l_abcd S_ab S_cd + 1/8 t'S t + 1/12 sum_im l_abc,i l_def,m S_ad S_be S_cf with S = Z P Z' and t_c = sum_ab
l_abc S_ab (Shun and McCullagh 1995, Raudenbush, Yang and Yosef 2000), with all orders within the levels of the largest
factor: for one factor the integral itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mvmise_sm.core.uncertainty import hessian as uncertainty
from mvmise_sm.core.uncertainty.draws import laplace_effects
from mvmise_sm.core.uncertainty.higher_orders import averaged_part, can_average, cubic_sum, higher_orders

__all__ = ["missing_part", "shifts"]

# step in the linear predictor for fourth derivatives
_STEP = 1e-3
# draws of the random effects for the cubic sum of crossed factors, and how many are solved for at once
_DRAWS, _BATCH, _SEED = 400, 50, 20
# step in standard errors for the derivative of eps in the parameters
_SHIFT_STEP = 0.05


def missing_part(criterion: Any, x: np.ndarray, averaged: bool) -> float:
    """What the approximation leaves out at a working vector; log L is about -value / 2 plus it.

    `averaged` asks for `averaged_part`, NaN where that fails.
    """
    mode = criterion.mode(x)
    if averaged:
        return averaged_part(criterion, mode)
    weighted, inc = mode.weighted, criterion.incidence
    s = weighted.leverage()
    s = s[None, None] if s.ndim == 1 else s
    third = criterion.third_rows(mode, np.zeros(1 if mode.terms.eta.ndim == 1 else len(mode.terms.eta)))
    r = len(third)
    fourth = np.zeros((r, r, r, r, third.shape[-1]))
    for d in range(r):
        fourth[..., d, :] = _difference(criterion, mode, d)
    quartic = float(np.einsum("abcdn,abn,cdn->", fourth, s, s)) / 8.0
    t = np.einsum("abcn,abn->cn", third, s)
    zt = inc.transposed(t[0] if r == 1 else t)
    v = weighted.solve_blocks([z[:, :, None] for z in zt])[0]
    zv = np.atleast_2d(inc.times([c[:, :, 0] for c in v]))
    square = float((t * zv).sum()) / 8.0
    alone = len(inc.codes) == 1
    cubic = cubic_sum(inc, third, weighted.posterior_cov()[0], 0) if alone else _drawn(criterion, mode, third)
    return quartic + square + cubic / 12.0 + higher_orders(criterion, mode, third, fourth)


def _difference(criterion: Any, mode: Any, d: int) -> np.ndarray:
    """Fourth derivatives in the d-th random predictor (R, R, R, nobs)."""
    step = np.zeros(1 if mode.terms.eta.ndim == 1 else len(mode.terms.eta))
    step[d] = _STEP
    up, down = criterion.third_rows(mode, step), criterion.third_rows(mode, -step)
    return (up - down) / (2.0 * _STEP)


def _drawn(criterion: Any, mode: Any, third: np.ndarray) -> float:
    """The cubic sum as the mean of (sum_i l_abc g_a g'_b g''_c)^2 over independent g = Z b, b ~ N(0, P)."""
    rng = np.random.default_rng(_SEED)
    squares: list[float] = []
    while len(squares) < _DRAWS:
        sets = [laplace_effects(criterion, mode, rng, _BATCH) for _ in range(3)]
        for drawn in zip(*sets, strict=True):
            g = [np.atleast_2d(criterion.incidence.times(b)) for b in drawn]
            value = np.einsum("abcn,an,bn,cn->", third, *g, optimize=True)
            squares.append(float(value) ** 2)
    return float(np.mean(squares))


def shifts(criterion: Any, x: np.ndarray) -> tuple[float, np.ndarray | None, np.ndarray]:
    """The term eps, the covariance of the parameters, and the shift of their estimates that eps causes.

    Returns
    -------
    eps : float
    cov : ndarray or None
        Covariance (k, k), theta in working and beta in the user's coordinates; None where there is none.
    shift : ndarray
        Expected change of the working vector (k,) where the integral were exact.
    """
    criterion.value(x)
    averaged = can_average(criterion)
    eps = missing_part(criterion, x, averaged)
    if np.isnan(eps):
        averaged, eps = False, missing_part(criterion, x, False)
    cov = uncertainty.working_cov(criterion, x)
    if cov is None:
        return eps, None, np.full(x.size, np.nan)
    slope = np.zeros(x.size)
    for i in np.flatnonzero(cov.diagonal() > 0.0):
        step = np.zeros(x.size)
        step[i] = min(_SHIFT_STEP * np.sqrt(cov[i, i]), 0.5 * max(x[i] - criterion.lower[i], 1e-6))
        sides = []
        for moved in (x + step, x - step):
            criterion.value(moved)
            part = missing_part(criterion, moved, averaged)
            sides.append(eps if np.isnan(part) else part)
        slope[i] = (sides[0] - sides[1]) / (2.0 * step[i])
    criterion.value(x)
    return eps, cov, cov @ slope
