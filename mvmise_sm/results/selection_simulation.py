"""Simulated data of a selection model, its variances as a frame, and all its parameters under one index."""

from __future__ import annotations

import numpy as np
import pandas as pd
from statsmodels.tools.rng_qrng import check_random_state

from mvmise_sm.core.covariance.random_effects import GroupingFactor
from mvmise_sm.exceptions import DataError, OptionError
from mvmise_sm.selection.simulate import simulate

__all__ = [
    "cluster_factor",
    "model_of_rows",
    "parameter_values",
    "require_rows",
    "simulated",
    "variance_frame",
]


def require_rows(result) -> None:
    """Fail with a sentence once `remove_data` has removed what a method needs."""
    if not result.has_rows:
        raise result.model.rows_gone()


def simulated(result, n, rng, random, missing) -> pd.DataFrame:
    """Simulated data sets side by side; see `SelectionResults.simulate`."""
    if random not in ("new", "conditional"):
        raise OptionError(f"random must be 'new' or 'conditional', got {random!r}")
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1:
        raise OptionError(f"n must be a positive integer, got {n!r}")
    if not isinstance(missing, (bool, np.bool_)):
        raise OptionError(f"missing must be True or False, got {missing!r}")
    require_rows(result)
    model, likelihood = result.model, result._outcome.objective.likelihood
    rng = check_random_state(rng)
    draws, redrawn = [], 0
    for _ in range(n):
        try:
            Y, again = simulate(likelihood, result.theta, rng, random == "conditional", bool(missing))
        except ValueError as error:
            raise DataError(str(error)) from None
        draws.append(model.design.data.unsort(Y))
        redrawn += again
    columns = pd.MultiIndex.from_product(
        [[f"sim_{i + 1}" for i in range(n)], list(model.outcome_names)], names=["simulation", "outcome"]
    )
    out = pd.DataFrame(np.concatenate(draws, axis=1), index=model.design.endog.index, columns=columns)
    out.attrs["redrawn"] = redrawn
    return out


def variance_frame(result) -> pd.DataFrame:
    """Rows of ``varcorr``; see `SelectionResults.varcorr`."""
    group, rows = result.model.group_name, []
    cov = result.cov_re[group]
    rows += _block(group, cov)
    for name, value in ((f"{group}:outcome", result.omega), ("sample", result.delta)):
        if value is not None:
            rows.append((name, "Intercept", None, value**2, value))
    if result.error_cov is not None:
        rows += _block("Residual", result.error_cov)
        if np.ndim(result.sigma2):
            # Sigma is the first samples' covariance, and the others' is Sigma times this factor
            factor = float(result.sigma2.iloc[1])
            rows.append(("Residual", "others", None, factor, float(np.sqrt(factor))))
    elif np.ndim(result.sigma2):
        rows += [("Residual", str(name), None, float(v), float(np.sqrt(v))) for name, v in result.sigma2.items()]
    else:
        rows.append(("Residual", None, None, float(result.sigma2), float(np.sqrt(result.sigma2))))
    return pd.DataFrame(rows, columns=["grp", "var1", "var2", "vcov", "sdcor"])


def _block(group: str, cov: pd.DataFrame) -> list[tuple]:
    """Variances, then covariances off zero, with standard deviations and correlations."""
    names, values = list(cov.index), cov.to_numpy()
    sd = np.sqrt(np.diag(values))
    rows: list[tuple] = [(group, name, None, values[i, i], sd[i]) for i, name in enumerate(names)]
    for i in range(len(names)):
        for j in range(i + 1, len(names)):
            scale = sd[i] * sd[j]
            if values[i, j] or group == "Residual":
                rows.append((group, names[i], names[j], values[i, j], values[i, j] / scale if scale > 0 else np.nan))
    return rows


def parameter_values(result) -> pd.Series:
    """All parameters of a fit under one index."""
    parts = [pd.Series(np.asarray(result.params), list(result.model.exog_names))]
    group = result.model.group_name
    if result.tau is not None:
        parts.append(result.tau.rename(index=lambda name: f"tau[{name}]"))
    else:
        cov = result.cov_re[group]
        parts.append(pd.Series(np.sqrt(np.diag(cov)), [f"sd_{name}|{group}" for name in cov.index]))
    for name, value in (("omega", result.omega), ("delta", result.delta)):
        if value is not None:
            parts.append(pd.Series([value], [name]))
    if result.error_cov is not None:
        sd = np.sqrt(np.diag(result.error_cov))
        names = list(result.error_cov.index)
        parts.append(pd.Series(sd, [f"sigma[{name}]" for name in names]))
        corr = result.error_cov.to_numpy() / np.outer(sd, sd)
        pairs = [(i, j) for i in range(len(names)) for j in range(i + 1, len(names))]
        labels = [f"cor_{names[i]}.{names[j]}|Residual" for i, j in pairs]
        parts.append(pd.Series([corr[i, j] for i, j in pairs], labels, dtype=float))
    if np.ndim(result.sigma2):
        parts.append(np.sqrt(result.sigma2).rename(index=lambda name: f"sigma[{name}]"))
    elif result.error_cov is None:
        parts.append(pd.Series([float(np.sqrt(result.sigma2))], ["sigma"]))
    if result.phi is not None:
        parts.append(result.phi.rename(index=lambda name: f"phi[{name}]"))
    return pd.concat(parts)


def cluster_factor(result, name) -> GroupingFactor:
    """The clusters as a grouping factor over the samples in the user's order."""
    if name not in (None, result.model.group_name):
        raise OptionError(f"unknown grouping factor {name!r}; this fit has {[result.model.group_name]}")
    data = result.model.design.data
    return GroupingFactor(result.model.group_name, data.unsort(data.cluster), np.array(data.labels, dtype=object))


def model_of_rows(result, taken, copies):
    """The model on some samples (positions in the user's order), every copy of a cluster a cluster of its own."""
    model = result.model
    keywords = model._get_init_kwds()
    keywords["exog_re"] = keywords["exog_re"].iloc[taken].reset_index(drop=True)
    if keywords.get("missing_cov") is not None:
        keywords["missing_cov"] = np.asarray(keywords["missing_cov"])[taken]
    keywords["groups"] = pd.Series(copies, name=model.group_name)
    endog = model.design.endog.iloc[taken].reset_index(drop=True)
    nobs, exog = model.nobs, np.asarray(model.exog)
    if len(exog) != nobs:
        # stacked by outcome
        exog = exog.reshape(-1, nobs, exog.shape[1])[:, taken].reshape(-1, exog.shape[1])
    else:
        exog = exog[taken]
    return type(model)(endog, pd.DataFrame(exog, columns=list(model.exog_names)), **keywords)
