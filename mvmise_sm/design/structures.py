"""Random-effects terms with their covariance structure, from the formula's name for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mvmise_sm.core.covariance.random_effects import GroupingFactor, RandomTerm
from mvmise_sm.core.covariance.registry import make_structure, needs_coordinates
from mvmise_sm.exceptions import FormulaError
from mvmise_sm.formula.parts import RandomSpec

__all__ = ["distinct_positions", "position_columns", "random_term"]


def random_term(spec: RandomSpec, factor: GroupingFactor, columns: Sequence[Any], names: tuple[str, ...]) -> RandomTerm:
    """Build a term with the structure that the formula names.

    Parameters
    ----------
    spec : RandomSpec
    factor : GroupingFactor
    columns : sequence of (ndarray or None)
        The columns left of the bar (nobs,), None for ones; coordinates for structures of distance.
    names : tuple of str
        Their names.

    Returns
    -------
    RandomTerm

    Raises
    ------
    FormulaError
        If the structure refuses its options.
    """
    positions = None
    if needs_coordinates(spec.structure):
        positions, codes = distinct_positions(columns, spec.text)
        columns = list((codes[:, None] == np.arange(len(positions))).astype(float).T)
        names = tuple(_position_name(p) for p in positions)
    try:
        structure = make_structure(spec.structure, names, positions, dict(spec.options))
    except (TypeError, ValueError) as error:
        raise FormulaError(f"{spec.text}: {_about_options(error)}") from None
    return RandomTerm(factor, tuple(columns), names, structure, spec.text, positions)


def _about_options(error: Exception) -> str:
    """A constructor's complaint in the user's words."""
    text = str(error)
    if "unexpected keyword argument" in text:
        return f"there is no option {text.rsplit(' ', 1)[-1]}"
    return text


def _position_name(position: np.ndarray) -> str:
    return ",".join(f"{value:g}" for value in position)


def distinct_positions(columns: Sequence[Any], shown: str) -> tuple[np.ndarray, np.ndarray]:
    """Distinct positions (q, d) in sorted order, and the position of every row (nobs,).

    Raises
    ------
    FormulaError
        If there is no numeric coordinate.
    """
    if not columns or any(column is None for column in columns):
        raise FormulaError(f"{shown}: left of the bar must stand numeric coordinates")
    found, codes = np.unique(np.column_stack(columns), axis=0, return_inverse=True)
    return found, codes.ravel()


def position_columns(coordinates: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Indicator columns (m, q) of known positions for new rows; a row at another position has zeros."""
    return (coordinates[:, None] == positions[None]).all(axis=2).astype(float)
