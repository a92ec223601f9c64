"""Whether the data determine a model's variances: asked of fits that look as if not, answered by the design."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from mvmise_sm.caller import warn
from mvmise_sm.core.uncertainty.identification import FlatDirections, flat_directions
from mvmise_sm.core.uncertainty.redundancy import Redundancy, largest_entropy, redundancy
from mvmise_sm.exceptions import IdentificationWarning

__all__ = ["told_apart", "undetermined"]

# cells of the largest array that the check forms, 800 MB
_MOST_CELLS = 1e8


def told_apart(model: Any, criterion: Any, optimum: Any) -> tuple[Any, Redundancy | None]:
    """An optimum of a model with residual structure and random effects, and what of the two cannot be told apart.

    Of equivalent splits the one of largest entropy takes the place of where the search happened to stop.

    Parameters
    ----------
    model : MixedModelBase
    criterion : Criterion
    optimum : Optimum or None

    Returns
    -------
    optimum : Optimum or None
    redundant : Redundancy or None
    """
    if optimum is None or model.residual is None or not model.random_effects.terms:
        return optimum, None
    found = redundancy(criterion, optimum.working)
    moved = None if found is None else largest_entropy(criterion, optimum.working, found)
    if moved is None:
        return optimum, found
    return replace(optimum, theta=criterion.user_theta(moved), working=moved, value=criterion.value(moved)), found


def undetermined(model: Any, optimum: Any, redundant: Redundancy | None = None) -> FlatDirections | None:
    """Directions of the variances that the data do not determine; warns of them.

    Information that is not flat at the optimum proves that there are none, so only flat and singular optima pay for the
    check; its answer belongs to the design and is kept with the model.

    Parameters
    ----------
    model : MixedModelBase
    optimum : Optimum
    redundant : Redundancy, optional
        What random effects and a residual structure both describe.

    Returns
    -------
    FlatDirections or None
    """
    if redundant is not None:
        groups = tuple(
            ((f"the covariance of {model.random_effects.terms[t].text}", t), ("that of the residuals", None))
            for t in redundant.terms
        )
        return FlatDirections(groups, np.zeros(np.shape(model.exog)[1], dtype=bool))
    if not (optimum.singular or optimum.retvals.get("flat", False)) or not _plain(model):
        return None
    kept = model.__dict__.setdefault("_undetermined_seen", {})
    if "directions" not in kept:
        residual = model.estimates_residual_variance()
        found = flat_directions(model.random_effects, model.location_columns(), model.weights, residual)
        found = None if found is None else found.without(_guarded(model))
        kept["directions"] = None if found is None else replace(found, effects=model.moved_params(found.effects))
    found = kept["directions"]
    if found is not None:
        texts = [t.text or f"({' + '.join(t.names)} | {t.factor.name})" for t in model.random_effects.terms]
        warn(f"not identified: {found.sentence(texts)}", IdentificationWarning)
    return found


def _plain(model: Any) -> bool:
    """Whether the covariance of the rows is Z Sigma Z' with independent levels, and of a size to check."""
    if model.random_effects is None:  # the rows are gone
        return False
    terms = model.random_effects.terms
    if not terms or model.residual is not None or any(t.factor.loaded for t in terms):
        return False
    # other structures determine more of a covariance than its elements by themselves
    if any(t.factor.loaded or not t.structure.placed for t in terms):
        return False
    return sum(t.q for t in terms) ** 2 * model.nobs <= _MOST_CELLS


def _guarded(model: Any) -> set[int]:
    """Terms whose covariance has a prior, which determines what the data leave open."""
    if model.priors is None:
        return set()
    return {t for t, prior in enumerate(model.priors.cov) if prior is not None}
