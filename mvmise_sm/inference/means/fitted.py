"""Marginal means, slopes and joint tests of a fit: from its design, parameters and covariance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mvmise_sm.exceptions import OptionError
from mvmise_sm.inference.fits import unwrap
from mvmise_sm.inference.means.adjust import checked_adjust
from mvmise_sm.inference.means.averaging import averages, split_specs
from mvmise_sm.inference.means.estimates import Estimates, level_text
from mvmise_sm.inference.means.grid import ReferenceGrid, term_variables
from mvmise_sm.inference.means.object import MarginalMeans, _Estimated
from mvmise_sm.inference.means.scales import IDENTITY, Scale
from mvmise_sm.inference.tables import Table, table

__all__ = ["joint_tests", "marginal_means", "marginal_slopes"]

_STEP = 1e-3  # of the range of a variable, for slopes
_LARGE_SD = 1.0  # above it the second-order bias correction of a logit is poor


def marginal_means(
    result: Any,
    specs: Any,
    by: Any = None,
    *,
    ddf: Any = "default",
    pairs: bool = False,
    adjust: str | None = "default",
    which: str = "linear",
    at: Mapping[str, Any] | None = None,
    alpha: float = 0.05,
    weights: str = "equal",
    regrid: bool = False,
    bias_adjust: bool | str = False,
    sigma: float | None = None,
    offset: float | None = None,
) -> _Estimated:
    """Marginal means or their differences; see `MarginalResults.marginal_means`."""
    result = unwrap(result)
    _check(which, alpha, bias_adjust)
    grid = result.reference_grid(at)
    wanted, groups = _variables(grid, specs, by)
    levels, weight, over = averages(grid, [*groups, *wanted], weights)
    scale, notes = _scale(result, which == "mean" or regrid, bias_adjust, sigma)
    known = result.estimable()
    shift = result.mean_offset() if offset is None else float(offset)
    eta = grid.rows[:, known.kept] @ np.asarray(result.params) + shift
    rows, values = grid.rows, eta
    if regrid:
        rows, values = scale.slope(eta)[:, None] * grid.rows, scale.inverse(eta)
        notes = [f"The grid was transformed from the {scale.name} scale before averaging.", *notes]
        scale = IDENTITY
    means = MarginalMeans.of(
        Estimates(
            labels=levels,
            by=tuple(groups),
            specs=tuple(wanted),
            rows=weight @ rows,
            values=weight @ values,
            estimable=known,
            method=result.denominator(ddf),
            scale=scale,
            response=which == "mean" and not scale.is_identity,
            what="Marginal means" + (f" of {', '.join(wanted)}" if wanted else ""),
            kind="means",
            adjust="none" if pairs or adjust == "default" else _means_adjust(adjust),
            alpha=alpha,
            notes=(*_grid_notes(grid, wanted, groups, over, weights), *notes),
        )
    )
    return means.contrast("pairwise", adjust=adjust) if pairs else means


def marginal_slopes(
    result: Any,
    variable: str,
    specs: Any = (),
    by: Any = None,
    *,
    ddf: Any = "default",
    pairs: bool = False,
    adjust: str | None = "default",
    at: Mapping[str, Any] | None = None,
    alpha: float = 0.05,
    weights: str = "equal",
    regrid: bool = False,
    offset: float | None = None,
) -> _Estimated:
    """Marginal slopes of a numeric variable; see `MarginalResults.marginal_slopes`."""
    result = unwrap(result)
    _check("linear", alpha, False)
    design = result.fixed_design()
    _check_numeric(design, variable)
    # the variable is held at its mean even where it has two values
    own = {variable: [float(design.frame[variable].mean())]}
    grid = result.reference_grid({**own, **(at or {})})
    wanted, groups = _variables(grid, specs, by, allow_none=True)
    levels, weight, over = averages(grid, [*groups, *wanted], weights)
    width = _STEP * float(np.ptp(design.frame[variable].dropna()))
    upper, lower = (grid.moved(variable, sign * 0.5 * width) for sign in (1.0, -1.0))
    known = result.estimable()
    scale, notes = _scale(result, regrid, False, None)
    params = np.asarray(result.params)
    if regrid:
        shift = result.mean_offset() if offset is None else float(offset)
        ends = [end[:, known.kept] @ params + shift for end in (upper, lower)]
        rows = (scale.slope(ends[0])[:, None] * upper - scale.slope(ends[1])[:, None] * lower) / width
        values = (scale.inverse(ends[0]) - scale.inverse(ends[1])) / width
        notes = [f"Slopes are on the scale of the response, from the {scale.name} scale.", *notes]
    else:
        rows = (upper - lower) / width
        values = rows[:, known.kept] @ params
        notes = [] if scale.is_identity else [f"Slopes are on the {scale.name} scale."]
    slopes = MarginalMeans.of(
        Estimates(
            labels=levels,
            by=tuple(groups),
            specs=tuple(wanted),
            rows=weight @ rows,
            values=weight @ values,
            estimable=known,
            method=result.denominator(ddf),
            scale=IDENTITY,
            response=False,
            what=f"Marginal slopes of {variable}" + (f" by {', '.join(wanted)}" if wanted else ""),
            kind="slopes",
            adjust="none" if pairs or adjust == "default" else _means_adjust(adjust),
            alpha=alpha,
            notes=(*_grid_notes(grid, wanted, groups, over, weights, variable), *notes),
        )
    )
    return slopes.contrast("pairwise", adjust=adjust) if pairs else slopes


def joint_tests(
    result: Any, by: Any = None, *, ddf: Any = "default", at: Mapping[str, Any] | None = None, weights: str = "equal"
) -> Table:
    """Joint tests of the terms within levels of `by`; see `MarginalResults.joint_tests`."""
    result = unwrap(result)
    if by is None and at is None and weights == "equal":
        return result.anova(ddf=ddf, type=3)
    design = result.fixed_design()
    grid = result.reference_grid(at)
    groups = [] if by is None else _variables(grid, by, None)[0]
    terms = list(dict.fromkeys(v - set(groups) for v in grid.interactions if v - set(groups)))
    if not terms:
        raise OptionError(f"by names every variable of the fixed effects, {', '.join(groups)}, and leaves none to test")
    parts = []
    for names in sorted(terms, key=len):
        part = _term_test(result, design, grid, [n for n in grid.frame.columns if n in names], groups, ddf, at, weights)
        part.insert(len(groups), "term", ":".join(n for n in grid.frame.columns if n in names))
        parts.append(part)
    frame = pd.concat(parts, ignore_index=True)
    if groups:
        order = frame.groupby(groups, sort=False, observed=True).ngroup().to_numpy()
        frame = frame.iloc[np.argsort(order, kind="stable")]
    heading = "Joint tests of the terms" + (f" within levels of {', '.join(groups)}" if groups else "")
    return table(frame.set_index("term"), heading)


def _term_test(
    result: Any,
    design: Any,
    grid: ReferenceGrid,
    names: list[str],
    groups: list[str],
    ddf: Any,
    at: Mapping[str, Any] | None,
    weights: str,
) -> pd.DataFrame:
    """Joint test of all contrasts of the factors among `names` and differences of the numbers, within `groups`."""
    spread = {}
    for name in names:
        values = list(grid.frame[name].unique())
        if len(values) == 1:
            # one step about the value at which a number is held
            spread[name] = [float(values[0]) - 0.5, float(values[0]) + 0.5]
    means = marginal_means(
        result, names, groups, ddf=ddf, at={**(at or {}), **spread} if spread or at else None, weights=weights
    )
    return pd.DataFrame(means.contrast(interaction="consec").test(joint=True))


def _check(which: str, alpha: float, bias_adjust: bool | str) -> None:
    if which not in ("linear", "mean"):
        raise OptionError(f"which must be 'linear' or 'mean', got {which!r}")
    if not 0.0 < alpha < 1.0:
        raise OptionError(f"alpha must lie between 0 and 1, got {alpha!r}")
    if bias_adjust not in (False, True, "exact"):
        raise OptionError(f"bias_adjust must be False, True or 'exact', got {bias_adjust!r}")


def _means_adjust(adjust: str | None) -> str:
    name = checked_adjust(adjust)
    if name == "tukey":
        raise OptionError("adjust='tukey' is for pairwise differences; use 'mvt'")
    return name


def _variables(grid: ReferenceGrid, specs: Any, by: Any, allow_none: bool = False) -> tuple[list[str], list[str]]:
    """Checked names of `specs` and `by`."""
    wanted, groups = split_specs(specs, by)
    for option, names in (("specs", wanted), ("by", groups)):
        for name in names:
            if name not in grid.frame.columns:
                known = ", ".join(grid.frame.columns)
                raise OptionError(f"{option}: {name!r} is not a variable of the fixed effects; these are {known}")
    if set(groups) & set(wanted):
        raise OptionError(f"by and specs must differ, both have {sorted(set(groups) & set(wanted))}")
    return list(dict.fromkeys(wanted)), list(dict.fromkeys(groups))


def _check_numeric(design: Any, variable: str) -> None:
    frame = design.frame
    used = sorted({v for term in term_variables(design) for v in term})
    if variable not in used:
        raise OptionError(
            f"marginal_slopes: {variable!r} is not a variable of the fixed effects; these are {', '.join(used)}"
        )
    column = frame[variable]
    if column.dtype == bool or not pd.api.types.is_numeric_dtype(column):
        raise OptionError(f"marginal_slopes: {variable!r} is a factor; slopes need a numeric variable")


def _scale(result: Any, needed: bool, bias_adjust: bool | str, sigma: float | None) -> tuple[Scale, list[str]]:
    """The scale of the response, corrected for bias, and notes about it."""
    try:
        scale = result.mean_scale()
    except OptionError:
        if needed:
            raise
        return IDENTITY, []
    if not bias_adjust:
        if sigma is not None:
            raise OptionError("sigma goes with bias_adjust=True or 'exact'")
        return scale, []
    if scale.is_identity:
        return scale, ["The response is not transformed; there is no bias to adjust for."]
    sd = result.random_sd() if sigma is None else float(sigma)
    if not (np.isfinite(sd) and sd >= 0.0):
        raise OptionError(f"sigma must be a finite number that is not negative, got {sigma!r}")
    notes = [f"Means are adjusted for the variation of the random effects about them, with sigma = {sd:.4g}."]
    if bias_adjust is True and scale.name == "logit" and sd > _LARGE_SD:
        notes.append("The adjustment is of second order and poor for sigma above 1; bias_adjust='exact' integrates.")
    return scale.bias_adjusted(sd, bias_adjust == "exact"), notes


def _grid_notes(
    grid: ReferenceGrid, wanted: Sequence[str], groups: Sequence[str], over: Sequence[str], weights: str, own: str = ""
) -> list[str]:
    """What was averaged over, what was held, and which averages hide an interaction."""
    notes = []
    if over:
        notes.append(f"Averaged over: {', '.join(over)} ({weights} weights).")
    held = {k: v for k, v in grid.held.items() if k not in (*wanted, *groups)}
    if held:
        notes.append("Held at: " + ", ".join(f"{k} = {_short(v)}" for k, v in held.items()) + ".")
    chosen = set(wanted) | ({own} if own else set())
    for names in grid.interactions:
        if names & set(over) and names & chosen:
            inside = [n for n in grid.frame.columns if n in names]
            first = next(n for n in inside if n in chosen)
            notes.append(f"Results may mislead: {first} is part of the interaction {':'.join(inside)}.")
    return list(dict.fromkeys(notes))


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, (float, np.floating)) else level_text(value)
