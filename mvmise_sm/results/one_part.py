"""What a result answers about the parts of its model; most models have one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

__all__ = ["OnePart"]


class OnePart:
    """Answers of a model with one linear predictor."""

    model: Any
    params: Any

    @property
    def coef_names(self):
        """Names of `params`."""
        return list(self.model.data.param_names)

    def family_parameters(self):
        """Parameters beside coefficients, variances and sigma: a dict from name to value."""
        return {}

    def fixed_part(self, group):
        """Fixed effects that the random effects of a grouping factor vary about, a Series."""
        return pd.Series(np.asarray(self.params), index=list(self.model.exog_names))

    def mean_terms(self):
        """Positions of the random-effects terms in the linear predictor of the mean."""
        return range(len(self.model.random_effects.terms))

    def without_columns(self, keep, term):
        """The fit with the columns `keep` only, all but those of `term`; the result has its rows."""
        from mvmise_sm.inference.comparison import refit_with

        return refit_with(self, exog=np.asarray(self.model.exog)[:, keep])

    def with_components(self, table):
        """A tidy table with the part of the model that each row belongs to, where there are several."""
        return table

    def coefficient_tables(self):
        """Titles and positions of the coefficients of each part of the model."""
        return [(None, slice(None))]
