"""statsmodels' data holder for a model from a formula: labels from the design, and a spec that survives pickling."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
from statsmodels.base.data import PandasData

from mvmise_sm.design.coding import column_index

__all__ = ["FormulaData"]


class FormulaData(PandasData):
    """Labelled data of a formula model.

    statsmodels' own holder evaluates the formula again when it is unpickled and guesses the caller's stack frame for
    the variables in it; here the design brings its variables along.

    Parameters
    ----------
    endog : Series
        Response (nobs,).
    exog : DataFrame
        Design (nobs, k_fe).
    design : Design
        Where they come from.
    """

    def __init__(self, endog, exog, design):
        self.design = design
        self.formula = design.formula
        self.frame = design.frame
        self.orig_endog, self.orig_exog = endog, exog
        self.endog, self.exog = endog.to_numpy(), exog.to_numpy()
        self.const_idx = None
        self.k_constant = 0
        self._cache = {}

    @property
    def model_spec(self):
        """Specification of the fixed effects, patsy's."""
        return self.design.model_spec

    def attach_columns(self, result):
        """Labels for numbers by parameter: as statsmodels does, the index made once."""
        index = column_index(tuple(self.param_names))
        return pd.Series(result, index=index) if result.ndim <= 1 else pd.DataFrame(result, index=index)

    def remove_rows(self, layout):
        """Keep of the design only what predictions on new data need; `layout` replaces the random effects."""
        self.design = replace(
            self.design, endog=None, exog=None, random=layout, weights=None, offset=None, residual=None
        )

    def __getstate__(self):
        return self.__dict__.copy()

    def __setstate__(self, state):
        self.__dict__.update(state)
