"""Axes to draw on: those given, or a new figure of panels."""

from __future__ import annotations

import numpy as np

from mvmise_sm.exceptions import OptionError

__all__ = ["COLOR", "COLORS", "FAINT", "MARK", "one_axes", "panels", "trim"]

COLOR = "#1f5a96"
MARK = "#c0392b"
FAINT = "0.6"
# for lines side by side; readable without colour vision (Okabe and Ito)
COLORS = (COLOR, "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "0.3")


def one_axes(ax, size=(6.0, 4.2)):
    """The Axes given, or those of a new figure."""
    if ax is not None:
        if not hasattr(ax, "get_xlim"):
            raise OptionError(f"ax must be one matplotlib Axes here, found {len(ax)}")
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=size, layout="constrained")[1]


def panels(count, ax=None, *, columns=3, size=(3.0, 2.5), share=(False, False)):
    """`count` Axes as an array: those given, or a grid in a new figure.

    Raises
    ------
    OptionError
        If the number of Axes given differs.
    """
    if not count:
        raise OptionError("there is nothing to plot: no name is given")
    if ax is not None:
        given = np.atleast_1d(np.asarray(ax, dtype=object)).ravel()
        if len(given) != count:
            raise OptionError(f"ax must hold {count} Axes, one for each panel, found {len(given)}")
        return given
    import matplotlib.pyplot as plt

    columns = min(columns, count)
    rows = -(-count // columns)
    _, grid = plt.subplots(
        rows,
        columns,
        figsize=(size[0] * columns, size[1] * rows + 0.3),
        squeeze=False,
        layout="constrained",
        sharex=share[0],
        sharey=share[1],
    )
    axes = grid.ravel()
    for spare in axes[count:]:
        spare.remove()
    if share[0]:
        # the last panel of every column keeps its labels where the grid is not full
        for k in range(max(count - columns, 0), count):
            axes[k].xaxis.set_tick_params(labelbottom=True)
    return axes[:count]


def trim(ax):
    """Take off the upper and right spines."""
    ax.spines[["top", "right"]].set_visible(False)
    return ax
