"""Marginal means, slopes and contrasts with their intervals."""

from __future__ import annotations

import numpy as np
import pandas as pd

from mvmise_sm.exceptions import OptionError
from mvmise_sm.option_values import short
from mvmise_sm.options import strict
from mvmise_sm.plots.panels import COLORS, FAINT, one_axes, trim

__all__ = ["means"]

_SPREAD = 0.5
_CROWDED = 40  # characters of labels side by side before they are written slanted


@strict
def means(emm, ax=None, *, by=None, labels=None):
    """Plot estimates with intervals: levels along the axis, a line for each level of `by`.

    Parameters
    ----------
    emm : MarginalMeans or Contrasts
    ax : Axes, optional
    by : str or list of str, optional
        Variables drawn as lines; those of `emm` by default.
    labels : tuple of str, optional
        Labels of the two axes.

    Returns
    -------
    Axes
        Contrasts lie on their side, with a line at the value of no difference.
    """
    estimates = emm.estimates
    frame = pd.DataFrame(emm)
    groups = list(estimates.by) if by is None else [by] if isinstance(by, str) else list(by)
    for name in groups:
        if name not in (*estimates.specs, *estimates.by):
            known = ", ".join((*estimates.specs, *estimates.by))
            raise OptionError(f"by: {name!r} is not a variable of these estimates; they are {known}")
    if labels is not None and (not isinstance(labels, (list, tuple)) or len(labels) != 2):
        raise OptionError(f"labels must be two texts, one for each axis, got {short(labels)}")
    inner = [name for name in (*estimates.specs, *estimates.by) if name not in groups]
    if estimates.is_contrast:
        return _sideways(frame, estimates, ax, labels)
    axis = one_axes(ax, (5.2, 3.6))
    text = _texts(frame, inner) if inner else pd.Series([""] * len(frame))
    numeric = len(inner) == 1 and pd.api.types.is_numeric_dtype(frame[inner[0]]) and len(frame[inner[0]].unique()) > 1
    ticks = list(dict.fromkeys(text))
    lines = [(None, frame)] if not groups else list(frame.groupby(groups, sort=False, observed=True))
    for i, (name, part) in enumerate(lines):
        shift = 0.0 if len(lines) == 1 else _SPREAD * (i / (len(lines) - 1) - 0.5) / max(len(ticks), 2) * 1.2
        place = (
            part[inner[0]].to_numpy(dtype=float) if numeric else np.array([ticks.index(t) for t in text[part.index]])
        )
        place = place if numeric else place + shift
        label = None if name is None else " ".join(map(str, np.atleast_1d(np.asarray(name, dtype=object))))
        color = COLORS[i % len(COLORS)]
        middle, low, high = (part[c].to_numpy() for c in ("estimate", "conf_low", "conf_high"))
        axis.errorbar(
            place,
            middle,
            yerr=np.vstack([middle - low, high - middle]),
            fmt="o-" if len(part) > 1 and (groups or numeric) else "o",
            color=color,
            ms=4.5,
            lw=1.2,
            capsize=0,
            label=label,
        )
    if not numeric:
        slanted = sum(map(len, ticks)) > _CROWDED
        axis.set_xticks(range(len(ticks)), ticks, rotation=30 if slanted else 0, ha="right" if slanted else "center")
        axis.set_xlim(-0.5, len(ticks) - 0.5)
    axis.set_xlabel(labels[0] if labels else ", ".join(inner))
    axis.set_ylabel(labels[1] if labels else estimates.what if estimates.kind == "slopes" else "estimate")
    if groups:
        axis.legend(title=", ".join(groups), fontsize=8, title_fontsize=8, frameon=False)
    return trim(axis)


def _texts(frame, names):
    return frame[names].astype(str).agg(" ".join, axis=1)


def _sideways(frame, estimates, ax, labels):
    """Contrasts from top to bottom, with a line at no difference."""
    axis = one_axes(ax, (5.6, max(2.2, 0.28 * len(frame) + 1.0)))
    place = np.arange(len(frame))[::-1]
    axis.axvline(1.0 if estimates.ratio else 0.0, color=FAINT, lw=0.8)
    middle, low, high = (frame[c].to_numpy() for c in ("estimate", "conf_low", "conf_high"))
    axis.errorbar(
        middle, place, xerr=np.vstack([middle - low, high - middle]), fmt="o", color=COLORS[0], ms=4.5, lw=1.2
    )
    axis.set_yticks(place, _texts(frame, [*estimates.by, *estimates.specs]), fontsize=8)
    axis.set_ylim(-0.6, len(frame) - 0.4)
    if estimates.ratio:
        axis.set_xscale("log")
    axis.set_xlabel(labels[1] if labels else "ratio" if estimates.ratio else "difference")
    return trim(axis)
