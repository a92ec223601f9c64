"""Known relationships between the levels of grouping factors, and rows that belong to several levels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, overload

import numpy as np
import pandas as pd
from scipy import sparse

from mvmise_sm.blame import refuse_complex
from mvmise_sm.core.covariance.base import semidefinite_cholesky
from mvmise_sm.core.covariance.random_effects import GroupingFactor, RandomEffects
from mvmise_sm.exceptions import DataError, NewLevelError, OptionError

__all__ = ["membership_factor", "membership_rows", "new_members", "with_relationships"]

_ASYMMETRY = 1e-8
_NEGATIVE = 1e-8
# labels that a message names
_SHOWN = 3


@overload
def with_relationships(random: RandomEffects, cov: Any) -> RandomEffects: ...
@overload
def with_relationships(random: None, cov: Any) -> None: ...
def with_relationships(random: RandomEffects | None, cov: Any) -> RandomEffects | None:
    """Give the levels of some grouping factors known covariances.

    Parameters
    ----------
    random : RandomEffects or None
    cov : mapping or None
        Name of a grouping factor -> DataFrame with the labels on both axes, or a `Pedigree`.

    Returns
    -------
    RandomEffects or None
        The levels of such a factor are all labels of its matrix, also those without rows.

    Raises
    ------
    OptionError, DataError
    """
    if cov is None:
        return random
    if not isinstance(cov, Mapping):
        raise OptionError("cov must be a dict from the name of a grouping factor to a DataFrame or a pedigree")
    names = [] if random is None else [f.name for f in random.factors]
    for name in cov:
        if name not in names:
            raise OptionError(f"cov names {name!r}, but the grouping factors are {names}")
    if random is None:
        return None
    factors = {id(f): _related(f, _matrix(cov[f.name], f.name)) if f.name in cov else f for f in random.factors}
    return RandomEffects([replace(t, factor=factors[id(t.factor)]) for t in random.terms], random.nobs)


def _matrix(given: Any, name: str) -> pd.DataFrame:
    """A covariance with labels on both axes in one order, symmetric, without missing values."""
    if callable(getattr(type(given), "relationship", None)):
        return given.relationship()
    if not isinstance(given, pd.DataFrame):
        raise OptionError(
            f"cov[{name!r}] must be a DataFrame with the labels on both axes, or a pedigree; found "
            f"{type(given).__name__}"
        )
    if not given.index.is_unique or not given.columns.is_unique:
        raise DataError(f"cov[{name!r}] has a label twice")
    rows = given.index.map(str)
    order = rows.get_indexer(given.columns.map(str))
    if len(rows) != given.shape[1] or (order < 0).any():
        raise DataError(f"cov[{name!r}] must have the same labels on both axes")
    refuse_complex(f"cov[{name!r}]", given)
    values = np.asarray(given, dtype=float)[order]
    if not np.isfinite(values).all():
        raise DataError(f"cov[{name!r}] has missing or infinite values")
    gap = float(np.abs(values - values.T).max(initial=0.0))
    if gap > _ASYMMETRY * max(float(np.abs(values).max(initial=0.0)), 1e-300):
        raise DataError(f"cov[{name!r}] is not symmetric (largest difference {gap:g}).")
    labels = given.index[order]
    return pd.DataFrame(0.5 * (values + values.T), index=labels, columns=labels)


def _related(factor: GroupingFactor, matrix: pd.DataFrame) -> GroupingFactor:
    name = factor.name
    place = matrix.index.map(str).get_indexer([str(level) for level in factor.levels])
    if (place < 0).any():
        missing = [factor.levels[j] for j in np.flatnonzero(place < 0)]
        shown = ", ".join(repr(str(label)) for label in missing[:_SHOWN])
        count = f"{len(missing)} level{'s' if len(missing) > 1 else ''}"
        more = ", ..." if len(missing) > _SHOWN else ""
        raise DataError(f"{name!r} has {count} without a row in cov[{name!r}] ({shown}{more}).")
    values = matrix.to_numpy()
    root = semidefinite_cholesky(values)
    size = float(np.abs(np.diag(values)).max(initial=0.0))
    if float(np.abs(root @ root.T - values).max(initial=0.0)) > _NEGATIVE * size:
        lowest, vectors = np.linalg.eigh(values)
        if lowest[0] < -_NEGATIVE * size:
            raise DataError(f"cov[{name!r}] has a negative eigenvalue ({lowest[0]:.3g}).")
        root = vectors * np.sqrt(np.maximum(lowest, 0.0))
    # a singular matrix, as of clones, has columns of zeros
    root = np.ascontiguousarray(root[:, np.abs(root).max(axis=0) > 0.0])
    loadings = None
    if factor.loadings is not None:
        wide = np.zeros((factor.n_levels, len(matrix)))
        wide[np.arange(factor.n_levels), place] = 1.0
        loadings = sparse.csr_matrix(factor.loadings @ wide)
    return GroupingFactor(name, place[factor.codes].astype(np.intp), matrix.index, loadings, root)


def membership_factor(
    name: str, members: list[tuple[np.ndarray, pd.Index]], weights: list[np.ndarray] | None
) -> GroupingFactor:
    """A factor of which a row has several levels.

    Parameters
    ----------
    name : str
    members : list of (codes, labels)
        One per column; -1 is a missing membership.
    weights : list of ndarray or None
        Weight of each membership (nobs,); by default one over the number of memberships of the row.

    Raises
    ------
    DataError
        If a row has no membership.
    """
    levels = members[0][1]
    for _, labels in members[1:]:
        levels = levels.union(labels, sort=None) if len(labels) else levels
    levels = levels.sort_values()
    codes = np.column_stack([np.append(levels.get_indexer(labels), -1)[found] for found, labels in members])
    absent = (codes < 0).all(axis=1)
    if absent.any():
        raise DataError(f"{name} has no member in {int(absent.sum())} rows; leave these rows out")
    first = codes[np.arange(len(codes)), (codes >= 0).argmax(axis=1)]
    return GroupingFactor(name, first, levels, membership_rows(codes, len(levels), weights))


def membership_rows(codes: np.ndarray, n_levels: int, weights: list[np.ndarray] | None) -> Any:
    """How much of each level a row has (nobs, n_levels), sparse, for the levels of its members (nobs, k)."""
    seen = codes >= 0
    if weights is None:
        values = np.broadcast_to(1.0 / np.maximum(seen.sum(axis=1, keepdims=True), 1), codes.shape)
    else:
        values = np.column_stack(weights)
    rows = np.broadcast_to(np.arange(len(codes))[:, None], codes.shape)
    return sparse.csr_matrix((values[seen], (rows[seen], codes[seen])), shape=(len(codes), n_levels))


def new_members(
    codes: np.ndarray, name: str, n_levels: int, weights: list[np.ndarray] | None, allow: bool
) -> tuple[Any, np.ndarray]:
    """Memberships of new rows, -2 for an unknown level, and the rows without any (m,)."""
    if (codes == -2).any() and not allow:
        raise NewLevelError(
            f"grouping factor {name!r}: a member of row {int((codes == -2).any(axis=1).argmax())} was not in the data "
            "of the fit; allow_new_levels=True gives new levels an effect of 0"
        )
    missing = (codes == -1).all(axis=1)
    if weights is None:
        count = np.maximum((codes != -1).sum(axis=1), 1)
        weights = [1.0 / count] * codes.shape[1]
    return membership_rows(codes, n_levels, weights), missing
