"""Means as weighted averages of the rows of a reference grid."""

from __future__ import annotations

import numpy as np
import pandas as pd

from mvmise_sm.exceptions import OptionError
from mvmise_sm.inference.means.grid import ReferenceGrid

__all__ = ["WEIGHTS", "averages", "split_specs"]

WEIGHTS = ("equal", "proportional", "outer", "cells", "flat")


def split_specs(specs: object, by: object) -> tuple[list[str], list[str]]:
    """Names in `specs` and `by`; a text may be R's ``"~ a * b | c"``."""
    groups = [by] if isinstance(by, str) else list(by or [])  # type: ignore[call-overload]
    if not isinstance(specs, str):
        return [str(name) for name in specs], [str(name) for name in groups]  # type: ignore[attr-defined]
    text = specs.strip()
    if "~" in text:
        left, text = (part.strip() for part in text.split("~", 1))
        if left:
            raise OptionError(f"specs: write specs={text!r} and .contrast({left!r}) for {specs!r}")
    if "|" in text:
        text, bars = text.split("|", 1)
        groups += [name.strip() for name in bars.replace("*", "+").replace(":", "+").split("+")]
    names = [text] if "`" in text else [name.strip() for name in text.replace("*", "+").replace(":", "+").split("+")]
    return [name for name in names if name not in ("", "1")], groups


def averages(grid: ReferenceGrid, names: list[str], weights: str) -> tuple[pd.DataFrame, np.ndarray, list[str]]:
    """Average the grid over all variables but `names`.

    Parameters
    ----------
    grid : ReferenceGrid
    names : list of str
        Variables whose combinations are estimated, the first varying slowest.
    weights : {"equal", "proportional", "outer", "cells", "flat"}
        Weights of the combinations that are averaged: the same; rows of the data at the levels averaged over; the
        product of the rows at each of these levels; rows in the combination; or the same for combinations with data.

    Returns
    -------
    levels : DataFrame
        Combinations of `names` (k).
    weight : ndarray
        Weights of the grid (k, m), rows sum to one; NaN where all weights are zero.
    over : list of str
        The variables averaged over.

    Raises
    ------
    OptionError
    """
    if weights not in WEIGHTS:
        raise OptionError(f"weights must be 'equal', 'proportional', 'outer', 'cells' or 'flat', got {weights!r}")
    over = [name for name in grid.varying if name not in names]
    if weights == "equal" or not over:
        size = np.ones(len(grid.frame))
    elif weights == "proportional":
        size = grid.counts(over)
    elif weights == "outer":
        ways = [grid.counts([name]) for name in over if name in grid.counted]
        size = np.prod([np.ones(len(grid.frame)), *ways], axis=0)
    else:
        size = grid.counts([*names, *over])
        size = (size > 0.0).astype(float) if weights == "flat" else size
    if not names:
        keys, levels = np.zeros(len(grid.frame), dtype=np.intp), pd.DataFrame(index=range(1))
    else:
        codes = np.column_stack([pd.factorize(grid.frame[name])[0] for name in names])
        distinct, keys = np.unique(codes, axis=0, return_inverse=True)
        keys = keys.ravel()
        first = [int(np.argmax(keys == i)) for i in range(len(distinct))]
        levels = grid.frame.loc[first, names].reset_index(drop=True)
    weight = np.where(keys[None, :] == np.arange(len(levels))[:, None], size, 0.0)
    total = weight.sum(axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):
        weight = np.where(total > 0.0, weight / np.where(total > 0.0, total, 1.0), np.nan)
    return levels, weight, over
