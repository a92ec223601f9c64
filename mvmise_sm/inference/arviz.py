"""Fits as ArviZ data: draws from the normal approximation at the optimum, which are not a posterior sample."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from statsmodels.tools.rng_qrng import check_random_state

from mvmise_sm.exceptions import OptionError
from mvmise_sm.inference.fits import with_rows

__all__ = ["draws", "to_arviz"]

_NOTE = (
    "independent draws of fixed effects, random effects and variance parameters from normal approximations at the "
    "optimum, not from a posterior distribution"
)


def draws(result: Any, count: int, rng: Any) -> dict[str, np.ndarray]:
    """Draws of fixed effects, random effects and variance parameters.

    Fixed effects are normal about their estimates, random effects of each level about the modes with their conditional
    covariance given the estimates. The two are drawn independently, so that sums of them have too much or too little
    spread; ``get_prediction`` has the right one.

    Returns
    -------
    dict
        ``beta`` (count, k_fe); one array (count, levels, terms) per grouping factor; ``variance`` (count, rows of
        ``tidy("random")``).
    """
    result = with_rows(result)
    rng = check_random_state(rng)
    params = np.asarray(result.params)
    out = {"beta": params + rng.standard_normal((count, len(params))) @ _root(np.asarray(result.cov_params())).T}
    for group, modes in result.random_effects.items():
        blocks = result.random_effects_cov[group]
        noise = rng.standard_normal((count, *modes.shape))
        roots = np.array([_root(block) for block in blocks])
        out[f"b_{group}"] = modes.to_numpy() + np.einsum("jab,njb->nja", roots, noise)
    out["variance"] = _variances(result, count, rng)
    return out


def _root(cov: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(cov)
    return vectors * np.sqrt(np.maximum(values, 0.0))


def _variances(result: Any, count: int, rng: Any) -> np.ndarray:
    """Standard deviations and correlations on their scales of log and Fisher's z."""
    table = result.tidy("random", conf_int=True, alpha=0.3173105078629141)
    estimate, high = table["estimate"].to_numpy(), table["conf_high"].to_numpy()
    is_cor = table["term"].str.startswith("cor_").to_numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        center = np.where(is_cor, np.arctanh(estimate), np.log(estimate))
        # the interval of coverage .683 ends one standard error away
        spread = np.where(is_cor, np.arctanh(high), np.log(high)) - center
    known = np.isfinite(center) & np.isfinite(spread)
    sample = np.where(known, center, 0.0) + np.where(known, spread, 0.0) * rng.standard_normal((count, len(center)))
    return np.where(known, np.where(is_cor, np.tanh(sample), np.exp(np.where(is_cor, 0.0, sample))), estimate)


def to_arviz(result: Any, count: int = 1000, chains: int = 4, rng: Any = None) -> Any:
    """The fit as ArviZ ``InferenceData``; see `InferentialResults.to_arviz`."""
    try:
        import arviz
    except ImportError:
        raise OptionError('this needs the package arviz: python -m pip install "mvmise_sm[arviz]"') from None
    for name, value in (("draws", count), ("chains", chains)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
            raise OptionError(f"{name} must be a positive integer, got {value!r}")
    sample = draws(result, count * chains, rng)
    table = result.tidy("random")
    shaped = {key: value.reshape(chains, count, *value.shape[1:]) for key, value in sample.items()}
    coords: dict[str, Any] = {"term": list(result.model.exog_names)}
    dims = {"beta": ["term"]}
    posterior = {"beta": shaped["beta"]}
    for group, modes in result.random_effects.items():
        posterior[f"b_{group}"] = shaped[f"b_{group}"]
        coords |= {f"{group}_level": [str(level) for level in modes.index], f"{group}_term": list(modes.columns)}
        dims[f"b_{group}"] = [f"{group}_level", f"{group}_term"]
    for i, (group, term) in enumerate(zip(table["group"], table["term"], strict=True)):
        posterior["sigma" if term == "sigma" else f"{term}|{group}"] = shaped["variance"][:, :, i]
    observed = {"y": np.asarray(result.model.endog)}
    data = arviz.from_dict(posterior=posterior, observed_data=observed, coords=coords, dims=dims)
    data.posterior.attrs.update({"approximation": _NOTE, "created_at": str(pd.Timestamp.now())})
    return data
