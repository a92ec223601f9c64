"""What a result answers about the parts of its model; most models have one."""

from __future__ import annotations

from typing import Any

__all__ = ["OnePart"]


class OnePart:
    """Answers of a model with one linear predictor."""

    model: Any

    @property
    def coef_names(self):
        """Names of `params`."""
        return list(self.model.data.param_names)

    def family_parameters(self):
        """Parameters beside coefficients, variances and sigma: a dict from name to value."""
        return {}

    def with_components(self, table):
        """A tidy table with the part of the model that each row belongs to, where there are several."""
        return table

    def coefficient_tables(self):
        """Titles and positions of the coefficients of each part of the model."""
        return [(None, slice(None))]
