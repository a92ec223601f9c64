"""What a fit reports about its residual structure."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from mvmise_sm.core.covariance.base import Parameter
from mvmise_sm.core.covariance.patterns import SubjectRows
from mvmise_sm.core.covariance.residual import ResidualStructure
from mvmise_sm.results.variance import described_rows, parameter_rows

__all__ = [
    "add_blocks",
    "draw_residuals",
    "new_variances",
    "residual_blocks",
    "residual_frames",
    "residual_parameters",
    "residual_series",
    "residual_structure_rows",
    "residual_variance_rows",
    "row_variances",
]

_GROUP = "Residual"


def residual_parameters(structure: ResidualStructure, theta: np.ndarray) -> list[Parameter]:
    """Reported parameters for the parameters of a whole model, of which those of the residuals are the last."""
    return structure.parameters(residual_phi(structure, theta))


def residual_phi(structure: ResidualStructure, theta: np.ndarray) -> np.ndarray:
    """The residuals' part of theta (k_phi,)."""
    return theta[len(theta) - structure.k_phi :]


def residual_frames(
    structure: ResidualStructure, theta: np.ndarray, sigma2: float, correlation: bool = False
) -> pd.DataFrame | dict[str, pd.DataFrame] | None:
    """Covariance or correlation of the levels of one subject at weight 1; a dict by group, None for distances."""
    found = structure.matrices(residual_phi(structure, theta))
    if found is None:
        return None

    def frame(c: np.ndarray) -> pd.DataFrame:
        scale = 1.0 / np.sqrt(np.diag(c)) if correlation else np.full(len(c), np.sqrt(sigma2))
        levels = list(structure.levels)
        return pd.DataFrame(scale[:, None] * c * scale, index=levels, columns=levels)

    return {name: frame(c) for name, c in found.items()} if isinstance(found, dict) else frame(found)


def residual_series(structure: ResidualStructure, theta: np.ndarray, sigma2: float) -> pd.Series:
    """Standard deviations, correlations and the structure's own parameters, by their labels."""
    values = {
        p.label: p.value * float(np.sqrt(sigma2)) if p.kind == "sd" else p.value
        for p in residual_parameters(structure, theta)
    }
    return pd.Series(values, dtype=float, name="residual_params")


def residual_variance_rows(structure: ResidualStructure, theta: np.ndarray, sigma2: float) -> list[tuple]:
    """Rows of the table of variance components: every distinct variance, then the other parameters."""
    rows = parameter_rows(_GROUP, residual_parameters(structure, theta), sigma2)
    return [(group, None if var1 == "sd" else var1, *rest) for group, var1, *rest in rows]


def residual_structure_rows(structure: ResidualStructure, theta: np.ndarray, sigma2: float) -> list[tuple]:
    """Rows of the table of structures."""
    return described_rows(_GROUP, structure.described, residual_parameters(structure, theta), sigma2)


def row_variances(structure: ResidualStructure, rows: SubjectRows, theta: np.ndarray) -> np.ndarray:
    """Residual variances of the rows over sigma2, at weight 1 (n,)."""
    return structure.variances(residual_phi(structure, theta), rows.codes, rows.groups)


def new_variances(structure: ResidualStructure, theta: np.ndarray, codes: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Residual variances of new rows over sigma2 (m,): their mean over the levels where the level is not known."""
    phi = residual_phi(structure, theta)
    out = structure.variances(phi, np.maximum(codes, 0), np.maximum(groups, 0))
    unknown = (codes < 0) | (groups < 0)
    if unknown.any():
        count = max(len(structure.levels), 1)
        out[unknown] = structure.variances(phi, np.arange(count), np.zeros(count, dtype=np.intp)).mean()
    return out


def residual_blocks(structure: ResidualStructure, rows: SubjectRows, theta: np.ndarray) -> Any:
    """Pairs (rows of every subject (subjects, m), covariance over sigma2 of every subject (subjects, m, m)) by size."""
    phi = residual_phi(structure, theta)
    return [(batch.rows, structure.blocks(phi, batch)[batch.member]) for batch in rows.batches]


def draw_residuals(structure: ResidualStructure, rows: SubjectRows, theta: np.ndarray, rng: Any) -> np.ndarray:
    """Residuals (n,) with the structure's covariance over sigma2, at weight 1."""
    out = np.empty(rows.nobs)
    noise = rng.standard_normal(rows.nobs)
    phi = residual_phi(structure, theta)
    for batch in rows.batches:
        root = np.linalg.cholesky(structure.blocks(phi, batch))[batch.member]
        out[batch.rows] = (root @ noise[batch.rows][:, :, None])[:, :, 0]
    return out


def add_blocks(out: np.ndarray, rows: np.ndarray, blocks: Any) -> None:
    """Put the covariances of subjects (from `residual_blocks`) at their places in blocks of rows.

    Parameters
    ----------
    out : ndarray
        (b, n, n), written to.
    rows : ndarray
        Rows of each block (b, n); a subject's rows lie in one block.
    blocks : list of (ndarray, ndarray)
    """
    size = 1 + max(int(rows.max()), *(int(found.max()) for found, _ in blocks))
    block, place = np.full(size, -1), np.zeros(size, dtype=np.intp)
    block[rows] = np.arange(len(rows))[:, None]
    place[rows] = np.arange(rows.shape[1])
    for found, values in blocks:
        inside = block[found[:, 0]] >= 0
        at, where = block[found[inside, 0]], place[found[inside]]
        out[at[:, None, None], where[:, :, None], where[:, None, :]] += values[inside]
