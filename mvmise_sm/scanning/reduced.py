"""A selection model's design where the values of one feature do not determine all fixed effects."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from mvmise_sm.design.rank import independent_columns
from mvmise_sm.models.selection_design import SelectionDesign, with_effects
from mvmise_sm.scanning.estimable import OwnColumns, absent_levels

__all__ = ["Reduced", "reduced"]


@dataclass(frozen=True, eq=False)
class Reduced:
    """A template without the columns that the values do not determine.

    Attributes
    ----------
    template : SelectionModel
    names : list of str
        All fixed effects of the feature, as if they could be estimated.
    own : OwnColumns
        Which of `names` the template still has.
    """

    template: Any
    names: list[str]
    own: OwnColumns


def reduced(template: Any, outcomes: pd.DataFrame) -> Reduced | None:
    """Leave out columns of the common design that are dependent where outcomes (N, K) are observed.

    Returns
    -------
    Reduced or None
        None where nothing can be left out.
    """
    design: SelectionDesign = template.design
    common, K = design.common_exog, outcomes.shape[1]
    if common is None:
        return None
    own = set(design.own_effects) if K > 1 else set()
    values = common.to_numpy(dtype=float)
    sample, outcome = np.nonzero(outcomes.notna().to_numpy())
    columns, names, source = [], [], []
    # what every outcome has for itself comes first, so that the common columns are the ones left out
    for j in sorted(range(values.shape[1]), key=lambda j: j not in own):
        for k, label in enumerate(outcomes.columns) if j in own else [(-1, "")]:
            columns.append(values[sample, j] * (outcome == k if j in own else 1.0))
            names.append(f"{common.columns[j]}[{label}]" if j in own else str(common.columns[j]))
            source.append(j)
    matrix = np.column_stack(columns)
    kept = np.asarray(independent_columns(matrix))
    dropped = {source[i] for i in np.setdiff1d(np.arange(len(names)), kept)}
    if not dropped or dropped & own or len(kept) >= len(matrix):
        return None
    seen = np.zeros(len(values), dtype=bool)
    seen[sample] = True
    absent = absent_levels(design.design, seen) if design.design is not None else ()
    small = copy.copy(template)
    small.design = _without(design, dropped)
    return Reduced(small, names, OwnColumns.among(matrix, kept, absent))


def _without(design: SelectionDesign, dropped: set[int]) -> SelectionDesign:
    """The design without some columns of the common one."""
    assert design.common_exog is not None
    assert design.common_terms is not None
    kept = [j for j in range(design.common_exog.shape[1]) if j not in dropped]
    place = {j: i for i, j in enumerate(kept)}
    terms = {name: [place[j] for j in own if j in place] for name, own in design.common_terms.items()}
    small = replace(
        design,
        common_exog=design.common_exog.iloc[:, kept],
        common_terms={name: own for name, own in terms.items() if own},
    )
    return with_effects(small, [place[j] for j in design.own_effects])
