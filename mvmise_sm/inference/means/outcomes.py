"""The reference grid of a model of several outcomes: each outcome has its own coefficients, or shares them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from mvmise_sm.exceptions import OptionError
from mvmise_sm.inference.means.grid import Estimable, ReferenceGrid, reference_grid

__all__ = ["OUTCOME", "OutcomeGrid", "outcome_estimable", "outcome_grid"]

OUTCOME = "outcome"


@dataclass(frozen=True, eq=False)
class OutcomeGrid(ReferenceGrid):
    """A grid over one more variable, the outcome.

    Attributes
    ----------
    base : ReferenceGrid
        The grid of one outcome.
    maps : tuple of ndarray
        Per outcome of the grid, the matrix that takes all coefficients to those of the common design (p_common, p).
    own_terms : frozenset of int
        Positions of the terms that have coefficients of their own in every outcome.
    """

    base: ReferenceGrid
    maps: tuple[np.ndarray, ...]
    own_terms: frozenset[int]

    def counts(self, names: list[str]) -> np.ndarray:
        """Rows of the data at the levels of `names`, the same for every outcome (m,)."""
        return np.tile(self.base.counts(names), len(self.maps))

    def moved(self, variable: str, by: float) -> np.ndarray:
        """Rows of the design with a variable moved (m, p)."""
        rows = self.base.moved(variable, by)
        return np.concatenate([rows @ each for each in self.maps])

    @cached_property
    def interactions(self) -> list[frozenset[str]]:
        """Variables of every term of the fixed effects."""
        terms = self.base.interactions
        return [names | {OUTCOME} if i in self.own_terms else names for i, names in enumerate(terms)]


def outcome_grid(design: Any, outcomes: Sequence[str], at: Mapping[str, Any] | None = None) -> ReferenceGrid:
    """All combinations of the variables of the fixed effects with the outcomes.

    Parameters
    ----------
    design : SelectionDesign
        Of a formula.
    outcomes : sequence of str
    at : mapping, optional
        Variable -> value or values to use; ``"outcome"`` chooses among the outcomes.

    Raises
    ------
    OptionError
        If `at` names another variable or a level that does not exist.
    """
    given = dict(at or {})
    chosen = given.pop(OUTCOME, None)
    base = reference_grid(design.design, given)
    maps = design.outcome_maps()
    if len(maps) == 1:
        if chosen is not None and OUTCOME not in base.frame.columns:
            raise OptionError(f"at: {OUTCOME!r} is not a variable of the fixed effects, which all outcomes share")
        return base
    names = list(outcomes)
    wanted = names if chosen is None else [chosen] if isinstance(chosen, str) else [str(name) for name in chosen]
    unknown = [name for name in wanted if name not in names]
    if unknown:
        raise OptionError(f"at: {OUTCOME!r} has no level {unknown[0]!r}; its levels are {', '.join(names)}")
    used = tuple(maps[names.index(name)] for name in wanted)
    parts = [base.frame.assign(**{OUTCOME: pd.Categorical([name] * len(base.frame), names)}) for name in wanted]
    own = set(design.outcome_effects)
    slices = list(design.design.full_spec.term_slices.values())
    return OutcomeGrid(
        frame=pd.concat(parts, ignore_index=True),
        design=base.design,
        rows=np.concatenate([base.rows @ each for each in used]),
        counted=base.counted,
        base=base,
        maps=used,
        own_terms=frozenset(i for i, s in enumerate(slices) if own & set(range(s.start, s.stop))),
    )


def outcome_estimable(n_columns: int) -> Estimable:
    """Everything: selection models refuse designs that are not of full rank."""
    return Estimable(np.arange(n_columns), np.zeros((n_columns, 0)), np.ones(n_columns))
