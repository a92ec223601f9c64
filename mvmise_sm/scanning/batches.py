"""What runs: how features travel to the fits, many at once where the engine allows it, else one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from mvmise_sm.exceptions import OptionError
from mvmise_sm.scanning.content import digest
from mvmise_sm.scanning.features import FeatureTable
from mvmise_sm.scanning.fits import Feature, FeatureFits
from mvmise_sm.scanning.single import single_outcome_rhs
from mvmise_sm.scanning.stacked import Stacked
from mvmise_sm.scanning.templates import LINEAR, SELECTION, Blueprint

__all__ = ["Job", "make_job"]


@dataclass(frozen=True, eq=False)
class Job:
    """What is run for every chunk of features.

    Attributes
    ----------
    task, units : callable
        See `FeatureFits`.
    chunks : callable
        (table, names, size) -> chunks of features as `task` takes them.
    identity : dict
        Hashes of what all fits share.
    """

    task: Callable
    units: Callable
    chunks: Callable[[FeatureTable, Sequence[str], int], Iterator]
    identity: dict[str, str]


def make_job(blueprint: Blueprint, table: FeatureTable, column: str | None) -> Job:
    """Evaluate the design and choose how to run.

    Parameters
    ----------
    blueprint : Blueprint
    table : FeatureTable
    column : str or None
        What tells the outcomes of one fit apart, as given by the caller.
    """
    K = max(table.n_outcomes(name) for name in table.names)
    if blueprint.kind != SELECTION and (column is not None or K > 1):
        return _stacked_job(blueprint, table, column or "outcome")
    fits = blueprint.fits(table.samples, K)
    return Job(fits, fits.units, _one_by_one, {"design": _design_digest(fits), "weights": digest(table.shared_weights)})


def _stacked_job(blueprint: Blueprint, table: FeatureTable, column: str) -> Job:
    """Features with designs of their own."""
    if column in table.samples.columns:
        raise OptionError(f"column={column!r} is a column of the samples too; rename one")
    stacked = Stacked(StackedBuilder(blueprint, column), table.samples, column, blueprint.parent)
    # wrong names and options show at one feature, before anything is fitted
    first = max(table.names, key=table.n_outcomes)
    stacked.of(Feature(first, table.outcomes(first), table.weights(first)))
    return Job(
        stacked, stacked.units, _one_by_one, {"design": digest(table.samples), "weights": digest(table.shared_weights)}
    )


@dataclass(frozen=True, eq=False)
class StackedBuilder:
    """Makes the fits of one feature from its stacked samples; pickles.

    Attributes
    ----------
    blueprint : Blueprint
    column : str
        Variable that names the outcome in the formula.
    """

    blueprint: Blueprint
    column: str

    def __call__(self, samples: pd.DataFrame, single: bool) -> FeatureFits:
        """See `Stacked.build`."""
        blueprint = self.blueprint
        if single:
            rhs = single_outcome_rhs(blueprint.rhs, self.column, samples, residual=blueprint.kind == LINEAR)
            blueprint = replace(blueprint, rhs=rhs)
        return blueprint.fits(samples)


def _one_by_one(table: FeatureTable, names: Sequence[str], size: int) -> Iterator[list[Feature]]:
    for i in range(0, len(names), size):
        yield [Feature(name, table.outcomes(name), table.weights(name)) for name in names[i : i + size]]


def _design_digest(fits: FeatureFits) -> str:
    """Hash of the evaluated design: fixed effects, random effects, offset."""
    template: Any = fits.template
    parts: list[Any] = [list(template.exog_names), np.asarray(template.exog), fits.positions]
    if hasattr(template, "random_effects"):
        for term in template.random_effects.terms:
            parts += [term.text, term.factor.codes, list(map(str, term.factor.levels)), list(term.columns)]
        parts.append(template.offset)
    return digest(*parts)
