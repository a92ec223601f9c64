"""Coefficients of several linear predictors stacked into one vector, and the model that has only those.

Everything that is not a covariance is such a coefficient: dispersion, degrees of freedom, thresholds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import expit

from mvmise_sm.core.covariance.coordinates import fixed_basis
from mvmise_sm.core.optimise.steps import first_taken

if TYPE_CHECKING:
    from mvmise_sm.core.families.predictors import Expansion, PartsResponse

__all__ = ["Block", "StackedDesign", "ascended", "fixed_fit", "floored", "other_zero_parts"]

_START_STEPS = 30
# change of a linear predictor in one step of the start
_LONGEST_MOVE = 2.0
# probabilities of another mode of the zero part, and how much lower its log-likelihood without random effects may be
_OTHER_MODE, _NOT_MUCH_WORSE = 0.2, 3.0


@dataclass(frozen=True, eq=False)
class Block:
    """Coefficients with the predictors that they enter.

    Attributes
    ----------
    name : str
        ``"cond"``, ``"zi"``, ``"disp"``, a shape's name or ``"threshold"``.
    designs : dict
        Predictor -> columns (nobs, p).
    start : ndarray or None
        Where the coefficients start (p,); None for least squares on `target`.
    target : ndarray or None
        A first guess of the predictor (nobs,).
    offset : ndarray or None
        Known part of the conditional predictor (nobs,).
    own_offset : ndarray or None
        Known part of the block's own predictor (nobs,).
    """

    name: str
    designs: dict[int, np.ndarray]
    start: np.ndarray | None = None
    target: np.ndarray | None = None
    offset: np.ndarray | None = None
    own_offset: np.ndarray | None = None

    @property
    def size(self) -> int:
        return next(iter(self.designs.values())).shape[1]


class StackedDesign:
    """The designs of all blocks in working coordinates.

    Parameters
    ----------
    blocks : sequence of Block
        In the order of the coefficients.
    n_parts, nobs : int
        Predictors K, and rows.

    Attributes
    ----------
    places : list of slice
        Coefficients of every block.
    columns : list of dict
        Per block: predictor -> columns (nobs, p).
    user_map : ndarray
        The user's coefficients are this matrix times the working ones (n_coef, n_coef), block diagonal.
    n_coef : int
        Number of coefficients.
    """

    def __init__(self, blocks: Sequence[Block], n_parts: int, nobs: int) -> None:
        self.blocks, self.n_parts, self.nobs = tuple(blocks), n_parts, nobs
        stops = np.cumsum([0, *(b.size for b in blocks)])
        self.n_coef = int(stops[-1])
        self.places = [slice(int(a), int(b)) for a, b in pairwise(stops)]
        self.columns: list[dict[int, np.ndarray]] = []
        bases = []
        for block in self.blocks:
            columns, a = _working(block)
            self.columns.append(columns)
            bases.append(a)
        self.user_map = _block_diagonal(bases)

    def predictors(self, coef: np.ndarray) -> np.ndarray:
        """Fixed part of all predictors (K, nobs) for working coefficients."""
        out = np.zeros((self.n_parts, self.nobs))
        for block, columns, at in zip(self.blocks, self.columns, self.places, strict=True):
            for c, x in columns.items():
                out[c] += x @ coef[at]
            known = block.offset if block.own_offset is None else block.own_offset
            if known is not None:
                out[next(iter(columns))] += known
        return out

    def adjoint(self, rows: np.ndarray) -> np.ndarray:
        """Sum over predictors of X_c' rows_c, in all coefficients."""
        return (
            np.concatenate([sum(x.T @ rows[c] for c, x in columns.items()) for columns in self.columns])
            if self.columns
            else np.zeros(0)
        )

    def gram(self, weight: np.ndarray) -> np.ndarray:
        """X'W X over all coefficients, for weights (K, K, nobs)."""
        out = np.zeros((self.places[-1].stop,) * 2)
        for left, rows in zip(self.columns, self.places, strict=True):
            for right, cols in zip(self.columns, self.places, strict=True):
                if cols.start > rows.start:
                    continue
                block = sum(x.T @ (weight[c, d][:, None] * z) for c, x in left.items() for d, z in right.items())
                out[rows, cols] = block
                out[cols, rows] = block.T
        return out


def fixed_fit(design: StackedDesign, response: PartsResponse) -> np.ndarray:
    """Working coefficients of the model without random effects, by Newton steps on convex weights."""
    coef = np.zeros(design.n_coef)
    for block, columns, at in zip(design.blocks, design.columns, design.places, strict=True):
        if block.target is not None:
            target = block.target if block.offset is None else block.target - block.offset
            coef[at] = np.linalg.lstsq(next(iter(columns.values())), target, rcond=None)[0]
        elif block.start is not None:
            coef[at] = np.linalg.solve(design.user_map[at, at], block.start)
    return ascended(design, response, coef)[1]


def ascended(design: StackedDesign, response: PartsResponse, coef: np.ndarray) -> tuple[float, np.ndarray]:
    """Log-likelihood without random effects and working coefficients after Newton steps on convex weights."""
    here = response.expand(design.predictors(coef))
    value = here.loglik
    for _ in range(_START_STEPS):
        if not np.isfinite(value):
            break
        score = design.adjoint(here.score())
        information = floored(design.gram(here.weights()))
        information.flat[:: len(coef) + 1] += 1e-8 * np.maximum(information.diagonal(), 1e-8)
        step = np.linalg.solve(information, score)
        gain = float(step @ score)
        # where the likelihood is not concave a full step can leave the neighbourhood in which the weights hold
        reach = float(np.abs(design.predictors(coef + step) - here.eta).max())
        size = min(1.0, _LONGEST_MOVE / max(reach, 1e-300))
        if not np.isfinite(gain) or gain < 1e-4:
            break
        taken = first_taken(partial(_higher, design, response, (coef, step, value)), size, 1e-4)
        if taken is None:
            break
        coef, here = taken
        value = here.loglik
    return value, coef


def _higher(
    design: StackedDesign, response: PartsResponse, along: tuple[np.ndarray, np.ndarray, float], length: float
) -> tuple[np.ndarray, Expansion] | None:
    """Coefficients and rows a part of a step away where the log-likelihood is higher; None where it is not."""
    coef, step, value = along
    moved = coef + length * step
    trial = response.expand(design.predictors(moved))
    return (moved, trial) if np.isfinite(trial.loglik) and trial.loglik > value else None


def other_zero_parts(design: StackedDesign, response: PartsResponse, coef: np.ndarray, far: float) -> list[np.ndarray]:
    """Coefficients with another zero part where fits without random effects say that one may be better.

    Where the zero part is nearly certain for some rows its likelihood has several modes: each of its coefficients
    is moved by `far` to either side and the model without random effects fitted from there.
    """
    block = next((i for i, b in enumerate(design.blocks) if b.name == "zi"), None)
    if block is None:
        return []
    at = design.places[block]
    first = ascended(design, response, coef)
    found = []
    for j in range(at.stop - at.start):
        unit = np.linalg.solve(design.user_map[at, at], np.eye(at.stop - at.start)[j])
        for side in (-far, far):
            moved = coef.copy()
            moved[at] += side * unit
            found.append(ascended(design, response, moved))
    found.sort(key=lambda pair: -pair[0])
    taken = [expit(design.predictors(first[1])[1])]
    out = []
    for value, moved in found:
        p = expit(design.predictors(moved)[1])
        if value > first[0] - _NOT_MUCH_WORSE and all(np.abs(p - q).max() > _OTHER_MODE for q in taken):
            taken.append(p)
            out.append(moved)
    return out[:2]


def _working(block: Block) -> tuple[dict[int, np.ndarray], np.ndarray]:
    """Well scaled columns of a block and the map from their coefficients to the user's (p, p)."""
    if len(block.designs) != 1 or block.size == 0:
        return block.designs, np.eye(block.size)
    ((c, X),) = block.designs.items()
    basis = fixed_basis(X)
    out = np.empty(X.shape)
    basis.rows(X, 0, X.shape[0], out)
    out *= basis.scale
    return {c: out}, basis.a


def _block_diagonal(blocks: list[np.ndarray]) -> np.ndarray:
    n = sum(len(b) for b in blocks)
    out, at = np.zeros((n, n)), 0
    for b in blocks:
        out[at : at + len(b), at : at + len(b)] = b
        at += len(b)
    return out


def floored(information: np.ndarray) -> np.ndarray:
    """A symmetric matrix with its eigenvalues made positive, in the scale of its diagonal."""
    if not information.size:
        return information
    size = 1.0 / np.sqrt(np.maximum(np.abs(information.diagonal()), 1e-12))
    scaled = information * size[:, None] * size
    values, vectors = np.linalg.eigh(scaled)
    if values[0] > 1e-6:
        return information
    scaled = (vectors * np.maximum(np.abs(values), 1e-3)) @ vectors.T
    return scaled / size[:, None] / size
