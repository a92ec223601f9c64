"""What leaving out one row does to the fixed effects, the covariance parameters held."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["InverseBlocks", "RowDeletion", "row_deletion"]


@dataclass(frozen=True, slots=True, eq=False)
class InverseBlocks:
    """V^-1 within subjects of one size.

    Attributes
    ----------
    rows : ndarray
        Rows of the data (subjects, m).
    inverse : ndarray
        Blocks of V^-1 (subjects, m, m), V relative to sigma^2.
    residual : ndarray
        Blocks of R (subjects, m, m).
    """

    rows: np.ndarray
    inverse: np.ndarray
    residual: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class RowDeletion:
    """Every row left out in turn.

    Attributes
    ----------
    hat : ndarray
        Derivative of the fitted value, fixed and random part, in the own response (n,).
    change : ndarray
        Fixed effects less those without the row (n, p).
    widened : ndarray
        What the variances of the fixed effects gain without the row, over sigma^2 (n, p).
    distance : ndarray
        change' X'V^-1X change (n,).
    """

    hat: np.ndarray
    change: np.ndarray
    widened: np.ndarray
    distance: np.ndarray


def row_deletion(criterion: Any, theta: np.ndarray) -> RowDeletion:
    """Delete rows of a model whose residuals are correlated.

    With P = V^-1 - V^-1 X C X'V^-1 and x_i = X'V^-1 e_i, deleting row i moves beta by C x_i (Py)_i / P_ii and its
    covariance from C to C + C x_i x_i'C / P_ii; fitted values are y - R P y.

    Parameters
    ----------
    criterion : WhitenedDeviance
    theta : ndarray
        The user's parameters (k_theta,).

    References
    ----------
    Christensen, Pearson and Johnson (1992), Technometrics 34.
    """
    working = criterion.working_theta(theta)
    columns, blocks = criterion.inverse_rows(working)
    inner, p = criterion.eliminated(working)[1], criterion.k_fe
    x = columns[:, :p]
    score = columns @ np.append(-inner.beta, 1.0)
    moved = x @ inner.cov_beta
    own, hat = np.empty(len(x)), np.empty(len(x))
    for block in blocks:
        projected = block.inverse - moved[block.rows] @ x[block.rows].transpose(0, 2, 1)
        own[block.rows] = np.diagonal(projected, axis1=1, axis2=2)
        hat[block.rows] = 1.0 - (block.residual * projected).sum(axis=2)
    own = np.maximum(own, 1e-12)
    deleted = score / own
    change = moved @ criterion.basis.a.T
    return RowDeletion(
        hat=hat,
        change=change * deleted[:, None],
        widened=np.square(change) / own[:, None],
        distance=np.square(deleted) * (moved * x).sum(axis=1),
    )
