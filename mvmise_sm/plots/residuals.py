"""Residual panels, quantile plots and influence."""

from __future__ import annotations

import numpy as np
from scipy import stats

from mvmise_sm.exceptions import OptionError
from mvmise_sm.options import strict
from mvmise_sm.plots.panels import COLOR, FAINT, MARK, one_axes, panels, trim

__all__ = ["diagnostics", "influence", "influence_index", "qq"]

_SMOOTHED = 20_000
_NAMED = 40


def _plain(result):
    return getattr(result, "_results", result)


def _smooth(axis, x, y):
    """Add a local regression line."""
    from statsmodels.nonparametric.smoothers_lowess import lowess

    step = max(1, len(x) // _SMOOTHED)
    x, y = x[::step], y[::step]
    if np.ptp(x) > 0.0:
        line = lowess(y, x, frac=2.0 / 3.0, it=3, delta=0.01 * np.ptp(x))
        axis.plot(line[:, 0], line[:, 1], color=MARK, lw=1.3)


@strict
def diagnostics(result, ax=None):
    """Plot four panels: residuals and their spread against the fit, and quantiles of residuals and of random effects.

    Models without random effects have three.

    Parameters
    ----------
    result : MixedModelResults
    ax : Axes or sequence of four Axes, optional
        With one, only the residuals against the fit are drawn.

    Returns
    -------
    Axes or ndarray of Axes
    """
    result = _plain(result)
    single = ax is not None and np.size(np.asarray(ax, dtype=object)) == 1
    modes = next(iter(result.random_effects.items()), None)
    axes = panels(1 if single else 3 if modes is None else 4, ax, columns=2, size=(3.6, 2.9))
    fitted, residual = result.diagnostic_points()
    alpha = float(np.clip(60.0 / np.sqrt(len(fitted)) / 4.0, 0.1, 0.8))
    axes[0].axhline(0.0, color=FAINT, lw=0.8)
    axes[0].plot(fitted, residual, "o", ms=3, color=COLOR, alpha=alpha, mec="none")
    _smooth(axes[0], fitted, residual)
    axes[0].set_xlabel("Linear predictor")
    axes[0].set_ylabel("Standardised residual")
    trim(axes[0])
    if single:
        return axes[0]
    spread = np.sqrt(np.abs(residual))
    axes[1].plot(fitted, spread, "o", ms=3, color=COLOR, alpha=alpha, mec="none")
    _smooth(axes[1], fitted, spread)
    axes[1].set_xlabel("Linear predictor")
    axes[1].set_ylabel("Root of |residual|")
    trim(axes[1])
    qq(result, "resid", axes[2])
    if modes is not None:
        name, frame = modes
        qq(result, name, axes[3], column=frame.columns[0])
    return axes


@strict
def qq(result, level="resid", ax=None, *, column=None):
    """Plot quantiles against those of the normal distribution, with a pointwise 95% band.

    Parameters
    ----------
    result : MixedModelResults
    level : str, optional
        ``"resid"``, or a grouping factor for its conditional modes.
    ax : Axes, optional
    column : str, optional
        Column of the random effects; the first by default.

    Returns
    -------
    Axes
    """
    result = _plain(result)
    if level == "resid":
        if column is not None:
            raise OptionError("column is that of a grouping factor's effects; residuals have none: give level= too")
        values, label = result.diagnostic_points()[1], "Standardised residual"
    else:
        if level not in result.random_effects:
            raise OptionError(f"level must be 'resid' or one of {list(result.random_effects)}, got {level!r}")
        frame = result.random_effects[level]
        column = frame.columns[0] if column is None else column
        if column not in frame.columns:
            raise OptionError(f"column must be one of {list(frame.columns)}, got {column!r}")
        values, label = frame[column].to_numpy(), f"{column} | {level}"
    axis = one_axes(ax, (4.2, 3.8))
    values = np.sort(values)
    n = len(values)
    theory = stats.norm.ppf((np.arange(1, n + 1) - 0.5) / n)
    lower, upper = np.quantile(values, [0.25, 0.75])
    slope = (upper - lower) / (stats.norm.ppf(0.75) - stats.norm.ppf(0.25))
    centre = 0.5 * (lower + upper)
    ranks = np.arange(1, n + 1)
    band = stats.norm.ppf(stats.beta.ppf([[0.025], [0.975]], ranks, n - ranks + 1))
    axis.fill_between(theory, centre + slope * band[0], centre + slope * band[1], color=FAINT, alpha=0.25, lw=0)
    axis.plot(theory, centre + slope * theory, color=FAINT, lw=1.0)
    axis.plot(theory, values, "o", ms=3, color=COLOR, alpha=0.8, mec="none")
    axis.set_xlabel("Normal quantile")
    axis.set_ylabel(label)
    return trim(axis)


@strict
def influence(result, level=None, ax=None, **options):
    """Plot Cook's distance by row, or by group of the factor `level`; see `influence_index`."""
    return influence_index(_plain(result).get_influence(level), ax, **options)


@strict
def influence_index(measures, ax=None, *, labels=3):
    """Plot Cook's distances in order, the largest with their labels.

    Parameters
    ----------
    measures : RowInfluence or GroupInfluence
    ax : Axes, optional
    labels : int, optional
        How many to label.

    Returns
    -------
    Axes
    """
    axis = one_axes(ax, (6.0, 3.4))
    cooks = measures.cooks_distance
    values = cooks.to_numpy()
    place = np.arange(len(values))
    axis.vlines(place, 0.0, values, color=COLOR, lw=1.0, alpha=0.7)
    axis.plot(place, values, "o", ms=2.5, color=COLOR)
    top = float(np.nanmax(values, initial=0.0)) or 1.0
    axis.set_ylim(0.0, 1.12 * top)
    if cooks.index.name is not None and len(cooks) <= _NAMED:
        axis.set_xticks(place, [str(name) for name in cooks.index], rotation=90, fontsize=7)
    else:
        _label_largest(axis, cooks, values, labels)
    axis.set_xlabel(cooks.index.name or "Row")
    axis.set_ylabel("Cook's distance")
    return trim(axis)


def _label_largest(axis, cooks, values, count):
    top = axis.get_ylim()[1]
    taken: list[int] = []
    for k in np.argsort(-values, kind="stable")[:count]:
        # a label that would lie on another one is left out
        near = any(abs(k - j) < 0.06 * len(values) and abs(values[k] - values[j]) < 0.07 * top for j in taken)
        if not near and np.isfinite(values[k]):
            axis.annotate(
                str(cooks.index[k]), (k, values[k]), xytext=(0, 3), textcoords="offset points", ha="center", fontsize=8
            )
            taken.append(k)
    if cooks.index.name is not None:
        axis.set_xticks([])
