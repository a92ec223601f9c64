"""Plots of a fitted mixed model: the methods that call `mvmise_sm.plots`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["PlottedResults"]


class PlottedResults:
    """Plots of a mixed model; see `MixedModelResults`."""

    predict: Callable[..., Any]
    resid_pearson: Any
    scale: Any

    def diagnostic_points(self):
        """Linear predictor and standardised residuals, (m,) each, as diagnostic plots take them."""
        return np.asarray(self.predict(which="linear")), np.asarray(self.resid_pearson) / np.sqrt(self.scale)

    def plot_random_effects(self, group=None, ax=None, **options):
        """Plot the conditional modes with intervals, sorted; see `mvmise_sm.plots.random_effects`."""
        from mvmise_sm import plots

        return plots.random_effects(self, group, ax, **options)

    def plot_diagnostics(self, ax=None, **options):
        """Plot residual panels; see `mvmise_sm.plots.diagnostics`."""
        from mvmise_sm import plots

        return plots.diagnostics(self, ax, **options)

    def plot_profile(self, params=None, ax=None, **options):
        """Plot profile zeta or the density it implies; see `mvmise_sm.plots.profile`."""
        from mvmise_sm import plots

        return plots.profile(self, params, ax, **options)

    def plot_qq(self, level="resid", ax=None, **options):
        """Plot quantiles of residuals or random effects against the normal; see `mvmise_sm.plots.qq`."""
        from mvmise_sm import plots

        return plots.qq(self, level, ax, **options)

    def plot_fit(self, x, group=None, ax=None, **options):
        """Plot data and fitted lines by group; see `mvmise_sm.plots.fitted_lines`."""
        from mvmise_sm import plots

        return plots.fitted_lines(self, x, group, ax, **options)

    def plot_priors(self, ax=None, **options):
        """Plot priors against estimates; see `mvmise_sm.plots.priors`."""
        from mvmise_sm import plots

        return plots.priors(self, ax, **options)

    def plot_influence(self, level=None, ax=None, **options):
        """Plot Cook's distance; see `mvmise_sm.plots.influence`."""
        from mvmise_sm import plots

        return plots.influence(self, level, ax, **options)
