"""Which mechanism the data show: observed and expected missingness, simulated patterns, and fits side by side."""

from __future__ import annotations

from dataclasses import replace
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from mvmise_sm.exceptions import OptionError
from mvmise_sm.option_values import short
from mvmise_sm.options import strict
from mvmise_sm.plots.panels import one_axes
from mvmise_sm.selection.marginal import marginal_units
from mvmise_sm.selection.objective import PenalisedObjective
from mvmise_sm.selection.simulate import missing_pattern, simulate
from mvmise_sm.selection.solve import SAME_VALUE, Solution, solve

__all__ = [
    "compare_mechanisms",
    "mechanism_fit",
    "mechanism_table",
    "pattern_table",
    "plot_mechanism",
    "rate_table",
    "rates_plot",
    "unit_frame",
]

# the mechanism of single values that a comparison tries where the model has none
VALUE = "logit"


def unit_frame(result, unit=None) -> pd.DataFrame:
    """Every unit of a mechanism with its marginal mean, expected probability of being missing, and whether it is.

    Parameters
    ----------
    result : SelectionResults
    unit : {"block", "value"}, optional
        The first mechanism's by default.

    Returns
    -------
    DataFrame
        ``batch, outcome, mean, expected, missing`` and ``row``, the sample of a value.
    """
    slots = result.slots
    kinds = ["value" if slot.single else "block" for slot in slots]
    if not kinds:
        raise OptionError("nothing is missing, so there is no mechanism to look at")
    if unit is None:
        unit = kinds[0]
    if unit not in kinds:
        raise OptionError(f"unit must be one of {kinds}, got {unit!r}")
    data, k = result.model.design.data, kinds.index(unit)
    units = marginal_units(result._outcome.objective.likelihood, result._outcome.params, k)
    return pd.DataFrame(
        {
            "batch": pd.Series(list(data.labels)).iloc[units.cluster].to_numpy(),
            "outcome": np.asarray(result.model.outcome_names, dtype=object)[units.outcome],
            "row": np.where(units.row >= 0, data.order[units.row], -1),
            "mean": units.mean,
            "expected": units.expected,
            "missing": units.missing,
        }
    )


def mechanism_table(result, by="fitted", unit=None, bins=10) -> pd.DataFrame:
    """Observed against expected missing rates; see `SelectionResults.mechanism_table`."""
    frame = unit_frame(result, unit)
    names = {"fitted": "mean", "batch": "batch", result.model.group_name: "batch", "outcome": "outcome"}
    if not isinstance(by, str):
        raise OptionError(f"by must be one of {sorted(names)} or a column, got {short(by)}")
    if by in names:
        key = frame[names[by]]
    else:
        design = result.model.design.design
        if design is None or by not in design.frame.columns or (frame["row"] < 0).any():
            raise OptionError(f"by must be one of {sorted(names)}, or a column where the units are values, got {by!r}")
        key = pd.Series(design.frame[by].to_numpy()[frame["row"]])
    return rate_table(frame, key, by, bins)


def rate_table(frame: pd.DataFrame, key: pd.Series, by: str, bins: int) -> pd.DataFrame:
    """Observed and expected rates of units (columns ``mean, expected, missing``) by a key, binned if continuous."""
    if not isinstance(bins, Integral) or isinstance(bins, bool) or bins < 1:
        raise OptionError(f"bins must be a positive integer, got {short(bins)}")
    if pd.api.types.is_float_dtype(key.dtype) and key.nunique() > bins:
        key = pd.qcut(key, bins, duplicates="drop")
    variance = frame["expected"] * (1.0 - frame["expected"])
    groups = frame.assign(variance=variance).groupby(key.to_numpy(), sort=True, observed=True)
    out = groups.agg(
        n=("missing", "size"),
        fitted_mean=("mean", "mean"),
        observed_rate=("missing", "mean"),
        expected_rate=("expected", "mean"),
        spread=("variance", "sum"),
    )
    excess = (out["observed_rate"] - out["expected_rate"]) * out["n"]
    out["z"] = excess / np.sqrt(out.pop("spread").clip(lower=1e-300))
    out.index.name = by
    return out


def plot_mechanism(result, unit=None, bins=10, ax=None):
    """Draw observed and expected missing rates over the fitted mean, one pair for each kind of unit; the Axes."""
    kinds = [unit] if unit is not None else ["value" if slot.single else "block" for slot in result.slots]
    return rates_plot({kind: mechanism_table(result, "fitted", kind, bins) for kind in kinds}, ax)


def rates_plot(tables: dict[str, pd.DataFrame], ax=None):
    """Draw tables of observed and expected rates by kind of unit; the Axes."""
    ax = one_axes(ax)
    for kind, table in tables.items():
        (line,) = ax.plot(table["fitted_mean"], table["expected_rate"], label=f"expected, {kind}s")
        ax.plot(table["fitted_mean"], table["observed_rate"], "o", color=line.get_color(), label=f"observed, {kind}s")
    ax.set_xlabel("fitted marginal mean")
    ax.set_ylabel("share missing")
    ax.legend()
    return ax


def mechanism_fit(result, n=200, rng=None) -> pd.DataFrame:
    """Numbers of empty and of partly seen blocks against simulated data sets; see `SelectionResults.mechanism_fit`."""
    outcome = result._outcome
    likelihood, theta = outcome.objective.likelihood, result.theta
    data, generator = likelihood.data, np.random.default_rng(rng)
    if n < 2:
        raise OptionError(f"n must be at least 2 for a spread of the simulated numbers, got {n}")
    draws = []
    for _ in range(n):
        Y, _ = simulate(likelihood, theta, generator, False, False)
        gone = missing_pattern(data, likelihood.part.slots, likelihood.params(theta).phi, Y, generator)
        draws.append(_patterns(data, gone))
    return pattern_table(_patterns(data, ~data.observed), draws, "blocks")


def pattern_table(seen: tuple[int, int], simulated: list[tuple[int, int]], what: str) -> pd.DataFrame:
    """Numbers of empty and partly seen blocks or groups against those of simulated data."""
    observed, draws = np.array(seen, dtype=float), np.array(simulated, dtype=float)
    sd = draws.std(axis=0, ddof=1)
    z = (observed - draws.mean(axis=0)) / np.where(sd > 0.0, sd, np.nan)
    frame = {"observed": observed, "expected": draws.mean(axis=0), "z": z, "p_value": 2.0 * stats.norm.sf(np.abs(z))}
    return pd.DataFrame(frame, index=[f"empty {what}", f"partly seen {what}"])


def _patterns(data, missing: np.ndarray) -> tuple[int, int]:
    """Empty blocks, and blocks with some but not all values."""
    count = data.cluster_sum(missing.astype(int))
    size = data.sizes[:, None]
    return int((count == size).sum()), int(((count > 0) & (count < size)).sum())


@strict
def compare_mechanisms(model, *, method="ml", maxiter=None, tol=None) -> pd.DataFrame:
    """Fit a model under a mechanism of blocks, of single values, and both; all are likelihoods of values and pattern.

    Under the mechanism of blocks single values of seen blocks are missing at a constant rate.

    Parameters
    ----------
    model : FactorSelectionModel
        Model b; its mechanisms are used, capped and logit where it has none.
    method : {"ml", "em"}, optional
    maxiter, tol : optional
        As in ``fit``.

    Returns
    -------
    DataFrame
        ``block, value, both`` by ``llf, n_params, aic, bic, converged`` and the fixed effects, best AIC first.
    """
    spec = getattr(model, "spec", None)
    if spec is None:
        raise OptionError(f"compare_mechanisms takes a model b (mvmise_b), got {short(model)}")
    data = model.design.data
    if not spec.variant.takes_own_terms or spec.own_blocks or spec.samples:
        raise OptionError("compare_mechanisms takes a model b (mvmise_b) with (1 | batch) alone")
    if method not in ("ml", "em"):
        raise OptionError(f"method must be 'ml' or 'em', got {method!r}")
    blocks = spec.mechanism if spec.mechanism is not None else "capped"
    values = spec.value_mechanism if spec.value_mechanism is not None else VALUE
    single = int((~data.observed & ~data.block_missing[data.cluster]).sum())
    seen = int(data.observed.sum())
    rows: dict[str, dict[str, Any]] = {}
    fits: dict[str, Solution] = {}
    for name, chosen in {"block": (blocks, None), "value": (None, values), "both": (blocks, values)}.items():
        objective = replace(spec, mechanism=chosen[0], value_mechanism=chosen[1]).objective(data)
        options = {"method": method, "maxiter": maxiter, "tol": tol, "information": False}
        start = _with_constant_rate(fits["block"], objective) if name == "both" else None
        fit = solve(objective, start=start, **options)
        if start is not None and not fit.maximum.value >= fits["value"].maximum.value - SAME_VALUE:
            # the values' mechanism alone is a limit of both
            cold = solve(objective, **options)
            fit = cold if cold.maximum.value > fit.maximum.value else fit
        fits[name], likelihood = fit, fit.objective.likelihood
        llf, k = float(likelihood.value_and_score(fit.maximum.theta)[0]), int(likelihood.size)
        if chosen[1] is None and single:
            rate = single / (single + seen)
            llf, k = llf + single * np.log(rate) + seen * np.log1p(-rate), k + 1
        rows[name] = {
            "llf": llf,
            "n_params": k,
            "aic": -2.0 * llf + 2.0 * k,
            "bic": -2.0 * llf + np.log(model.nobs) * k,
            "converged": bool(fit.maximum.converged),
            **dict(zip(model.exog_names, fit.maximum.theta[likelihood.slices["beta"]], strict=True)),
        }
    return pd.DataFrame.from_dict(rows, orient="index").sort_values("aic", kind="stable")


def _with_constant_rate(fit: Solution, objective: PenalisedObjective) -> np.ndarray | None:
    """The fit with a mechanism of blocks as a point of the model with both: single values at a constant rate."""
    small, large = fit.objective.likelihood, objective.likelihood
    if not fit.maximum.converged or not small.part.slots:
        return None
    theta = large.start()
    for name, cut in small.slices.items():
        if name != "phi":
            theta[large.slices[name]] = fit.maximum.theta[cut]
    theta[large.slices["phi"]][: small.part.free.size] = fit.maximum.theta[small.slices["phi"]]
    return theta if np.isfinite(objective(theta)[0]) else None


def mechanism_sentences(result) -> list[str]:
    """What a summary says about values whose mechanism the model leaves out."""
    data, slots = result.model.design.data, result.slots
    single = ~data.observed & ~data.block_missing[data.cluster]
    out = []
    share = single.sum() / max((~data.block_missing[data.cluster]).sum(), 1)
    if share >= 0.05 and result.tau is not None and not any(slot.single for slot in slots):
        out.append(
            f"{int(single.sum())} single values are missing inside observed blocks and are taken as missing at random; "
            "value_mechanism='logit' models them."
        )
    if slots and all(slot.single for slot in slots) and data.block_missing.any():
        # a seed of its own: a summary does not change from call to call
        empty = mechanism_fit(result, 50, 0).loc["empty blocks"]
        observed, expected = int(empty["observed"]), float(empty["expected"])
        if (observed - expected) / np.sqrt(max(expected, 1.0)) > 4.0:
            out.append(
                f"{observed} whole blocks are empty where {expected:.0f} are expected from single values; use mvmise_b "
                "with mechanism='capped'."
            )
    return out
