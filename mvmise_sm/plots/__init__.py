"""Plots of fitted mixed models; every function takes and returns matplotlib Axes."""

from mvmise_sm.plots.effects import fitted_lines, random_effects
from mvmise_sm.plots.likelihood import priors, profile
from mvmise_sm.plots.means import means
from mvmise_sm.plots.resamples import bootstrap
from mvmise_sm.plots.residuals import diagnostics, influence, influence_index, qq

__all__ = [
    "bootstrap",
    "diagnostics",
    "fitted_lines",
    "influence",
    "influence_index",
    "means",
    "priors",
    "profile",
    "qq",
    "random_effects",
]
