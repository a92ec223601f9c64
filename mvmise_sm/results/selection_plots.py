"""Plots of a selection model; matplotlib is imported when one is drawn."""

from __future__ import annotations

import numpy as np

__all__ = ["history", "sensitivity"]


def _axes(ax):
    if ax is None:
        from matplotlib import pyplot as plt

        _, ax = plt.subplots()
    return ax


def history(result, ax=None):
    """Draw the objective by iteration."""
    ax = _axes(ax)
    ax.plot(np.arange(len(result.history)), result.history, marker=".")
    ax.set_xlabel("iteration")
    ax.set_ylabel("stopping value" if result.method == "mvmise" else "log-likelihood minus penalty")
    return ax


def sensitivity(result, phi_y=None, terms=None, alpha=0.05, ax=None):
    """Draw estimates and intervals of fixed effects over the mechanism's slope."""
    frame = result.sensitivity(phi_y, alpha)
    names = list(result.model.exog_names)
    if terms is None:
        terms = [name for name in names if name not in ("Intercept", "const")] or names
    ax = _axes(ax)
    for term in [terms] if isinstance(terms, str) else terms:
        curve = frame[frame["term"] == term].sort_values("phi_y")
        (line,) = ax.plot(curve["phi_y"], curve["estimate"], marker=".", label=term)
        ax.fill_between(curve["phi_y"], curve["conf_low"], curve["conf_high"], color=line.get_color(), alpha=0.2)
    ax.axvline(float(result.phi["y"]), color="grey", linestyle="--", linewidth=1)
    ax.set_xlabel("slope of the log-probability of missingness on the outcome")
    ax.set_ylabel("fixed effect")
    ax.legend()
    return ax
