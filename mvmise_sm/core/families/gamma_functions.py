"""log gamma and its derivatives at many points at once, in one pass.

Arguments below `_FAR` are carried beyond it by the recurrence Gamma(x + 1) = x Gamma(x), where Stirling's series has
all digits. One recurrence serves all orders, which makes trigamma and tetragamma as cheap as log gamma itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["log_gamma_derivatives"]

# from here on Stirling's series with the terms below is exact to the last digits, up to the fourth derivative
_FAR = 10.0
_STEPS = 10
# up to this size all arguments may be carried: the product of ten steps stays finite
_STEPS_LOSE_NOTHING = 1e25
_HIGHEST = 4
_HALF_LOG_2PI = 0.5 * float(np.log(2.0 * np.pi))
# rows at a time, so that the working arrays stay in the cache
_ROWS = 4096
_BERNOULLI = (1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6, -3617 / 510)


def _coefficients() -> list[list[float]]:
    """Coefficients of z^(1 - k - 2j), j = 0, 1, ..., in the tail of the k-th derivative of log gamma."""
    table = [[b / ((2 * j + 2) * (2 * j + 1)) for j, b in enumerate(_BERNOULLI)]]
    for k in range(_HIGHEST):
        table.append([c * -(2 * j + 1 + k) for j, c in enumerate(table[-1])])
    return table


_TAILS = _coefficients()


def log_gamma_derivatives(x: Any, lowest: int, highest: int) -> np.ndarray:
    """Derivatives of log gamma at positive arguments.

    Parameters
    ----------
    x : array_like
        Positive, any shape; an argument that is not has no finite log gamma.
    lowest, highest : int
        Orders wanted, from 0 (log gamma itself) to 4; 1 is digamma, 2 trigamma.

    Returns
    -------
    ndarray
        (highest - lowest + 1, ...), a row per order.
    """
    x = np.asarray(x, dtype=float)
    flat = x.ravel()
    out = np.empty((highest - lowest + 1, flat.size))
    with np.errstate(all="ignore"):
        for start in range(0, flat.size, _ROWS):
            part = slice(start, start + _ROWS)
            _fill(flat[part], out[:, part], lowest)
    return out.reshape(-1, *x.shape)


def _fill(x: np.ndarray, out: np.ndarray, lowest: int) -> None:
    near = x < _FAR
    if not near.any():
        _stirling(x, out, lowest)
    elif x.max() < _STEPS_LOSE_NOTHING:
        _stirling(x + _STEPS, out, lowest)
        _add_steps(x, out, lowest)
    else:
        # rare: arguments of very different sizes, of which only the near ones are carried
        for rows in (near, ~near):
            some = np.empty((len(out), int(rows.sum())))
            _fill(x[rows], some, lowest)
            out[:, rows] = some


def _add_steps(x: np.ndarray, out: np.ndarray, lowest: int) -> None:
    """Add the derivatives at x less those at x + 10, which are those of -sum_i log(x + i), i = 0, ..., 9.

    The terms i and 9 - i are taken together: with s = 2x + 9 their sum and q their product's inverse, the sums of
    their inverse powers are sq, (sq)^2 - 2q, (sq)^3 - 3sq^2 and (sq)^4 - 4s^2q^3 + 2q^2 (Newton's identities).
    """
    top = lowest + len(out) - 1
    base = x * (x + (_STEPS - 1.0))
    powers = np.zeros((max(top, 1), x.size))
    product = np.ones_like(x)
    power = np.empty_like(x)
    for i in range(_STEPS // 2):
        pair = base + float(i * (_STEPS - 1 - i))
        if lowest == 0:
            product *= pair
        if top == 0:
            continue
        q = np.divide(1.0, pair, out=pair)
        powers[0] += q
        np.multiply(q, q, out=power)
        for total in powers[1:]:
            total += power
            power *= q
    s = 2.0 * x + (_STEPS - 1.0)
    for row, k in zip(out, range(lowest, top + 1), strict=True):
        if k == 0:
            row -= np.log(product)
        elif k == 1:
            row -= s * powers[0]
        elif k == 2:
            row += s * s * powers[1] - 2.0 * powers[0]
        elif k == 3:
            row -= 2.0 * s * (s * s * powers[2] - 3.0 * powers[1])
        else:
            square = s * s
            row += 6.0 * (square * (square * powers[3] - 4.0 * powers[2]) + 2.0 * powers[1])


def _stirling(z: np.ndarray, out: np.ndarray, lowest: int) -> None:
    """Write the derivatives at arguments beyond `_FAR`."""
    r = 1.0 / z
    square = r * r
    log_z = np.log(z) if lowest < 2 else z
    for row, k in zip(out, range(lowest, lowest + len(out)), strict=True):
        coefficients = _TAILS[k]
        np.multiply(square, coefficients[-1], out=row)
        for c in coefficients[-2:0:-1]:
            row += c
            row *= square
        row += coefficients[0]
        # the leading terms: (z - 1/2) log z - z + log(2 pi) / 2, differentiated k times
        row *= r if k == 0 else square if k == 1 else square * r ** (k - 1)
        if k == 0:
            row += (z - 0.5) * log_z - z + _HALF_LOG_2PI
        elif k == 1:
            row += log_z - 0.5 * r
        elif k == 2:
            row += r + 0.5 * square
        elif k == 3:
            row -= square * (1.0 + r)
        else:
            row += square * r * (2.0 + 3.0 * r)
