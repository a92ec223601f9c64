"""Whether the data determine a model's variances: asked of fits that look as if not, answered by the design."""

from __future__ import annotations

from typing import Any

import numpy as np

from mvmise_sm.caller import warn
from mvmise_sm.core.uncertainty.identification import FlatDirections, flat_directions
from mvmise_sm.exceptions import IdentificationWarning

__all__ = ["undetermined"]

# cells of the largest array that the check forms, 800 MB
_MOST_CELLS = 1e8


def undetermined(model: Any, optimum: Any) -> FlatDirections | None:
    """Directions of the variances that the data do not determine; warns of them.

    Information that is not flat at the optimum proves that there are none, so only flat and singular optima pay for the
    check; its answer belongs to the design and is kept with the model.

    Parameters
    ----------
    model : MixedModelBase
    optimum : Optimum

    Returns
    -------
    FlatDirections or None
    """
    if not (optimum.singular or optimum.retvals.get("flat", False)) or not _plain(model):
        return None
    kept = model.__dict__.setdefault("_undetermined", {})
    if "directions" not in kept:
        X = np.asarray(model.exog, dtype=float)
        residual = model.estimates_residual_variance()
        found = flat_directions(model.random_effects, X, model.weights, residual)
        kept["directions"] = None if found is None else found.without(_guarded(model))
    found = kept["directions"]
    if found is not None:
        texts = [t.text or f"({' + '.join(t.names)} | {t.factor.name})" for t in model.random_effects.terms]
        warn(f"not identified: {found.sentence(texts)}", IdentificationWarning)
    return found


def _plain(model: Any) -> bool:
    """Whether the covariance of the rows is Z Sigma Z' with independent levels, and of a size to check."""
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
