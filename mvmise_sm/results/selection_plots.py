"""Plots of a selection model; matplotlib is imported when one is drawn."""

from __future__ import annotations

import numpy as np

from mvmise_sm.exceptions import OptionError
from mvmise_sm.option_values import short
from mvmise_sm.plots.panels import COLOR, MARK, one_axes, panels, trim

__all__ = ["history", "sensitivity"]


def history(result, ax=None):
    """Draw the objective by iteration."""
    ax = one_axes(ax)
    ax.plot(np.arange(len(result.history)), result.history, marker=".", color=COLOR)
    ax.set_xlabel("iteration")
    ax.set_ylabel("stopping value" if result.method == "mvmise" else "log-likelihood minus penalty")
    return trim(ax)


def sensitivity(result, phi_y=None, terms=None, alpha=0.05, ax=None):
    """Draw estimates and intervals of fixed effects over the mechanism's slope, one panel each."""
    frame = result.sensitivity(phi_y, alpha)
    names = list(result.model.exog_names)
    if terms is None:
        terms = [name for name in names if not name.startswith("Intercept") and name != "const"] or names
    terms = [terms] if isinstance(terms, str) else terms
    if not isinstance(terms, (list, tuple)) or not terms or not all(term in names for term in terms):
        raise OptionError(f"terms must be names among {', '.join(names)}, got {short(terms)}")
    axes = panels(len(terms), ax, columns=3, size=(3.0, 2.5), share=(True, False))
    for axis, term in zip(axes, terms, strict=True):
        curve = frame[frame["term"] == term].sort_values("phi_y")
        axis.plot(curve["phi_y"], curve["estimate"], marker=".", color=COLOR)
        axis.fill_between(curve["phi_y"], curve["conf_low"], curve["conf_high"], color=COLOR, alpha=0.15, lw=0)
        axis.axhline(0.0, color="0.8", lw=0.8, zorder=0)
        axis.axvline(float(result.phi["y"]), color=MARK, ls="--", lw=1)
        axis.set_title(term, fontsize=9)
        axis.tick_params(labelsize=8)
        trim(axis)
    label = "slope of the log-probability of missingness on the outcome"
    if len(axes) == 1:
        axes[0].set_xlabel(label)
        axes[0].set_ylabel("fixed effect")
        return axes[0]
    axes[0].figure.supxlabel(label, fontsize=9)
    axes[0].figure.supylabel("fixed effect", fontsize=9)
    return axes
