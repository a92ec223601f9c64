"""Random effects with intervals, and fitted lines by group."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from mvmise_sm.exceptions import OptionError
from mvmise_sm.option_values import short
from mvmise_sm.options import strict
from mvmise_sm.plots.panels import COLOR, FAINT, MARK, one_axes, panels, trim

__all__ = ["fitted_lines", "random_effects"]

_LABELLED = 60


def _plain(result):
    return getattr(result, "_results", result)


def _group_name(result, group):
    names = list(result.random_effects)
    if not names:
        raise OptionError("the model has no random effects to plot")
    if group is None:
        return names[0]
    if group not in names:
        raise OptionError(f"group must be one of {names}, got {group!r}")
    return group


@strict
def random_effects(result, group=None, ax=None, *, columns=None, alpha=0.05, sort=True):
    """Plot conditional modes with intervals from their conditional variances, one panel per column.

    Parameters
    ----------
    result : MixedModelResults
    group : str, optional
        Grouping factor; the first by default.
    ax : Axes or sequence of Axes, optional
        One per column.
    columns : str or list of str, optional
        Columns of the random effects, such as ``"Intercept"``; all by default.
    alpha : float, optional
        One minus the coverage of the intervals.
    sort : bool, optional
        Order the levels by the first column shown.

    Returns
    -------
    Axes or ndarray of Axes
    """
    result = _plain(result)
    group = _group_name(result, group)
    frame = result.random_effects[group]
    names = list(frame.columns) if columns is None else [columns] if isinstance(columns, str) else list(columns)
    unknown = [name for name in names if name not in frame.columns]
    if unknown or not names:
        raise OptionError(f"columns must be among {list(frame.columns)}, got {short(unknown[0] if names else columns)}")
    variances = np.diagonal(result.random_effects_cov[group], axis1=1, axis2=2)
    order = np.argsort(frame[names[0]].to_numpy(), kind="stable") if sort else np.arange(len(frame))[::-1]
    height = max(2.4, 0.19 * len(frame) + 0.7) if len(frame) <= _LABELLED else 5.0
    axes = panels(len(names), ax, columns=len(names), size=(3.4, height))
    z = stats.norm.isf(0.5 * alpha)
    for i, (axis, name) in enumerate(zip(axes, names, strict=True)):
        j = frame.columns.get_loc(name)
        modes = frame[name].to_numpy()[order]
        half = z * np.sqrt(variances[order, j])
        place = np.arange(len(frame))
        clear = np.abs(modes) > half
        axis.axvline(0.0, color=FAINT, lw=0.8)
        axis.hlines(place, modes - half, modes + half, color=np.where(clear, COLOR, FAINT), lw=1.2)
        axis.scatter(modes, place, s=12, color=np.where(clear, COLOR, "0.4"), zorder=3)
        axis.set_ylim(-0.8, len(frame) - 0.2)
        if i == 0 and len(frame) <= _LABELLED:
            axis.set_yticks(place, [str(frame.index[k]) for k in order], fontsize=7)
            axis.set_ylabel(group)
        else:
            axis.set_yticks([])
        if i == 0 and len(frame) > _LABELLED:
            axis.set_ylabel(f"{group} ({len(frame)} levels)")
        axis.set_xlabel(name)
        trim(axis)
    return axes if len(axes) > 1 else axes[0]


def _axis_of(column, points):
    """Places of the rows along the axis, values at which lines are drawn, and labels of a factor's levels."""
    if pd.api.types.is_numeric_dtype(column) and column.dtype != bool:
        values = column.to_numpy(dtype=float)
        return values, np.linspace(values.min(), values.max(), points), []
    kept = pd.Categorical(column).remove_unused_categories()
    if isinstance(column.dtype, pd.CategoricalDtype):
        span = pd.Categorical(kept.categories, categories=column.cat.categories)
    else:
        span = kept.categories.to_numpy()
    return kept.codes.astype(float), span, [str(level) for level in kept.categories]


def _lines_of(result, group):
    """The factor whose levels have lines; subjects of a residual structure where there are no random effects."""
    factors = list(result.model.random_effects.factors) or result.grouping_factors()
    if not factors:
        raise OptionError("the model has neither random effects nor subjects to draw lines for")
    names = [f.name for f in factors]
    if group is not None and group not in names:
        raise OptionError(f"group must be one of {names}, got {group!r}")
    return factors[0] if group is None else factors[names.index(group)]


@strict
def fitted_lines(result, x, group=None, ax=None, *, max_groups=20, points=40):
    """Plot the response against `x` by group, with fitted lines: solid for the group, dashed for the population.

    Parameters
    ----------
    result : MixedModelResults
        Of a formula model.
    x : str
        A variable of the formula: a number, or a factor, whose levels stand side by side.
    group : str, optional
        Grouping factor; the first by default. Without random effects the subjects of the residual structure.
    ax : Axes or sequence of Axes, optional
        One Axes for all groups; otherwise one panel per group.
    max_groups : int, optional
        Groups shown as panels, in order of their level; the figure says where there are more.
    points : int, optional
        Points per line.

    Returns
    -------
    Axes or ndarray of Axes
    """
    result = _plain(result)
    design = getattr(result.model.data, "design", None)
    if design is None:
        raise OptionError("fitted lines need a model from a formula")
    if x not in design.frame.columns:
        raise OptionError(f"x must be a variable of the data, got {x!r}")
    factor = _lines_of(result, group)
    group = factor.name
    values, span, ticks = _axis_of(design.frame[x], points)
    y = np.asarray(result.model.endog)
    places = np.arange(len(ticks)) if ticks else span
    overlay = ax is not None and np.size(np.asarray(ax, dtype=object)) == 1
    shown = range(factor.n_levels if overlay else min(max_groups, factor.n_levels))
    one = one_axes(np.atleast_1d(np.asarray(ax, dtype=object)).ravel()[0]) if overlay else None
    columns = int(np.clip(np.ceil(np.sqrt(1.6 * len(shown))), 1, 7))
    if one is None:
        axes = panels(len(shown), ax, columns=columns, size=(1.7, 1.7), share=(True, True))
    else:
        axes = [one] * len(shown)
    for axis, level in zip(axes, shown, strict=True):
        rows = np.flatnonzero(factor.codes == level)
        grid = design.frame.iloc[[rows[0]] * len(span)].copy()
        grid[x] = span
        line = np.asarray(result.predict(grid))
        axis.plot(places, line, color=COLOR, lw=0.9 if overlay else 1.4, alpha=0.5 if overlay else 1.0)
        if not overlay:
            axis.plot(values[rows], y[rows], "o", ms=2.8, color="0.25", alpha=0.8)
            axis.plot(places, np.asarray(result.predict(grid, random="none")), "--", color=MARK, lw=1.0)
            if ticks:
                axis.set_xticks(places, ticks)
            axis.set_title(f"{factor.levels[level]}", fontsize=8, pad=2)
            axis.tick_params(labelsize=7)
            trim(axis)
    if one is not None:
        grid = design.frame.iloc[[0] * len(span)].copy()
        grid[x] = span
        if ticks:
            one.set_xticks(places, ticks)
        one.plot(values, y, "o", ms=2.0, color="0.5", alpha=0.4, zorder=0)
        one.plot(places, np.asarray(result.predict(grid, random="none")), "--", color=MARK, lw=2.0)
        one.set_xlabel(x)
        one.set_ylabel(result.model.endog_names)
        return trim(one)
    if len(shown) < factor.n_levels:
        axes[0].figure.suptitle(f"{len(shown)} of {factor.n_levels} levels of {group}", fontsize=9)
    axes[0].figure.supxlabel(x, fontsize=9)
    axes[0].figure.supylabel(str(result.model.endog_names), fontsize=9)
    return axes
