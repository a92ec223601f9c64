"""Fits as ArviZ data: draws from the normal approximation at the optimum, which are not a posterior sample."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from mvmise_sm.exceptions import OptionError
from mvmise_sm.inference.draws import Draws, draws

__all__ = ["to_arviz"]

_NOTE = (
    "independent joint draws of variance parameters, fixed effects and random effects from normal approximations at "
    "the optimum, not from a posterior distribution"
)


def to_arviz(result: Any, count: int = 1000, chains: int = 4, rng: Any = None, log_likelihood: bool = True) -> Any:
    """The fit as ArviZ ``InferenceData``; see `VerbResults.to_arviz`."""
    try:
        import arviz
    except ImportError:
        raise OptionError('this needs the package arviz: python -m pip install "mvmise_sm[arviz]"') from None
    for name, value in (("draws", count), ("chains", chains)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
            raise OptionError(f"{name} must be a positive integer, got {value!r}")
    sample = draws(result, count * chains, rng, log_likelihood)
    posterior, coords, dims = _posterior(result, sample)
    shaped = {name: value.reshape(chains, count, *value.shape[1:]) for name, value in posterior.items()}
    given: dict[str, Any] = {"observed_data": {"y": np.asarray(result.model.endog)}}
    if sample.log_likelihood is not None:
        given["log_likelihood"] = {"y": sample.log_likelihood.reshape(chains, count, -1)}
    labels = result.model.data.row_labels
    coords["row"] = np.arange(len(given["observed_data"]["y"])) if labels is None else list(labels)
    dims["y"] = ["row"]
    data = arviz.from_dict(posterior=shaped, coords=coords, dims=dims, **given)
    data.posterior.attrs.update({"approximation": _NOTE, "created_at": str(pd.Timestamp.now())})
    return data


def _posterior(result: Any, sample: Draws) -> tuple[dict[str, np.ndarray], dict[str, Any], dict[str, list[str]]]:
    """Variables (count, ...), coordinates and dimensions."""
    out = {"beta": sample.beta}
    coords: dict[str, Any] = {"term": list(result.coef_names)}
    dims = {"beta": ["term"]}
    for group, modes in result.random_effects.items():
        out[f"b_{group}"] = sample.effects[group]
        coords |= {f"{group}_level": [str(level) for level in modes.index], f"{group}_term": list(modes.columns)}
        dims[f"b_{group}"] = [f"{group}_level", f"{group}_term"]
    rest = dict(sample.variance)
    for kind in ("sd", "cor"):
        own = {name: rest.pop(name) for name in sample.variance if name.startswith((f"{kind}_", f"{kind}|"))}
        if own:
            out[kind] = np.column_stack(list(own.values()))
            coords[f"{kind}_term"] = [name.removeprefix(kind).removeprefix("_") for name in own]
            dims[kind] = [f"{kind}_term"]
    out |= rest
    return out, coords, dims
