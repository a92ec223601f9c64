"""Bootstrap distributions."""

from __future__ import annotations

import numpy as np

from mvmise_sm.exceptions import OptionError
from mvmise_sm.options import strict
from mvmise_sm.plots.panels import COLOR, FAINT, MARK, panels, trim

__all__ = ["bootstrap"]


@strict
def bootstrap(resampled, params=None, ax=None, *, alpha=0.05):
    """Plot the resamples of every statistic as a histogram, with the estimate and the percentile interval.

    Parameters
    ----------
    resampled : Bootstrap
    params : str or list of str, optional
        Statistics to show; all by default.
    ax : Axes or sequence of Axes, optional
        One per statistic.
    alpha : float, optional
        One minus the coverage of the interval.

    Returns
    -------
    Axes or ndarray of Axes
    """
    names = list(resampled.samples.columns) if params is None else [params] if isinstance(params, str) else list(params)
    for name in names:
        if name not in resampled.samples.columns:
            known = ", ".join(map(str, resampled.samples.columns))
            raise OptionError(f"unknown parameter {name!r}; the bootstrap has {known}")
    axes = panels(len(names), ax, columns=3, size=(2.7, 2.1))
    for axis, name in zip(axes, names, strict=True):
        values = resampled.samples[name].dropna().to_numpy()
        axis.hist(values, bins=min(40, max(10, len(values) // 20)), color=COLOR, alpha=0.35, lw=0)
        axis.axvline(float(resampled.estimate[name]), color=FAINT, lw=1.0, ls=":")
        low, high = np.quantile(values, [0.5 * alpha, 1.0 - 0.5 * alpha])
        axis.hlines(0.0, low, high, color=MARK, lw=4.0, clip_on=False)
        axis.set_title(name, fontsize=8)
        axis.set_yticks([])
        axis.tick_params(labelsize=7)
        axis.locator_params(axis="x", nbins=5)
        trim(axis)
    return axes if len(axes) > 1 else axes[0]
