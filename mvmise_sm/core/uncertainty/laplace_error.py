"""How far the Laplace approximation is from the integral: the next term of its expansion, for any crossing.

eps = 1/8 sum l_abcd S_ab S_cd + 1/8 t'S t + 1/12 sum_im l_abc,i l_def,m S_ad S_be S_cf with S = Z P Z' and t_c = sum_ab
l_abc S_ab; log L is about Laplace's plus eps (Shun and McCullagh 1995, Raudenbush, Yang and Yosef 2000).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mvmise_sm.core.uncertainty import hessian as uncertainty
from mvmise_sm.core.uncertainty.draws import laplace_effects

__all__ = ["second_order_term", "shifts"]

# step in the linear predictor for fourth derivatives
_STEP = 1e-3
# draws of the random effects for the cubic sum of crossed factors, and how many are solved for at once
_DRAWS, _BATCH, _SEED = 400, 50, 20
# step in standard errors for the derivative of eps in the parameters
_SHIFT_STEP = 0.05


def second_order_term(criterion: Any, x: np.ndarray) -> float:
    """The term eps at a working vector; log L is about -value / 2 + eps."""
    mode = criterion.mode(x)
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
    cubic = _one_factor(criterion, weighted, third) if len(inc.codes) == 1 else _drawn(criterion, mode, third)
    return quartic + square + cubic / 12.0


def _difference(criterion: Any, mode: Any, d: int) -> np.ndarray:
    """Fourth derivatives in the d-th random predictor (R, R, R, nobs)."""
    step = np.zeros(1 if mode.terms.eta.ndim == 1 else len(mode.terms.eta))
    step[d] = _STEP
    up, down = criterion.third_rows(mode, step), criterion.third_rows(mode, -step)
    return (up - down) / (2.0 * _STEP)


def _one_factor(criterion: Any, weighted: Any, third: np.ndarray) -> float:
    """The cubic sum by level: sum T_abc T_def P_ad P_be P_cf with T_abc = sum_i l_i z_a z_b z_c."""
    inc = criterion.incidence
    codes, columns, levels = inc.codes[0], inc.columns[0], inc.levels[0]
    part = inc.part[0] if len(third) > 1 else np.zeros(len(columns), dtype=int)
    q = len(columns)
    z = [np.ones(codes.size) if c is None else c for c in columns]
    total = np.empty((q, q, q, levels))
    for a in range(q):
        for b in range(q):
            for c in range(q):
                row = third[part[a], part[b], part[c]] * z[a] * z[b] * z[c]
                total[a, b, c] = np.bincount(codes, row, minlength=levels)
    p = weighted.posterior_cov()[0]
    moved = np.einsum("abcj,adj->dbcj", total, p)
    moved = np.einsum("dbcj,bej->decj", moved, p)
    moved = np.einsum("decj,cfj->defj", moved, p)
    return float((moved * total).sum())


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
    eps = second_order_term(criterion, x)
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
            sides.append(second_order_term(criterion, moved))
        slope[i] = (sides[0] - sides[1]) / (2.0 * step[i])
    criterion.value(x)
    return eps, cov, cov @ slope
