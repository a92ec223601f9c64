"""statsmodels' data holder for several outcomes."""

from __future__ import annotations

import numpy as np
from statsmodels.base.data import PandasData

from mvmise_sm.models.fixed import constant_column

__all__ = ["SelectionFrameData"]


class SelectionFrameData(PandasData):
    """Labelled outcomes (nobs, K) and a design that is common to them or stacked by outcome.

    statsmodels' own holder needs as many design rows as outcome rows and evaluates the formula again on unpickling.

    Parameters
    ----------
    design : SelectionDesign
    """

    def __init__(self, design):
        self._cache = {}
        self.const_idx = None
        self._set(design)
        if design.design is not None:
            self.formula = design.design.formula
            self.frame = design.design.frame

    def _set(self, design):
        self.design = design
        self.design_is_plain = design.plain
        self.orig_endog, self.orig_exog = design.endog, design.exog
        self.endog, self.exog = design.endog.to_numpy(dtype=float, na_value=np.nan), design.exog.to_numpy(dtype=float)
        self.xnames = list(design.exog.columns)
        self.ynames = list(design.endog.columns)
        const = constant_column(self.exog)
        self.const_idx = const
        self.k_constant = int(const is not None)

    def with_design(self, design):
        """A copy for another design."""
        out = object.__new__(type(self))
        out.__dict__.update(self.__dict__)
        out._cache = {}
        out._set(design)
        return out

    @property
    def model_spec(self):
        """patsy's specification where every coefficient is one of its columns."""
        design = self.design
        if design is None or design.design is None or design.outcome_effects:
            raise AttributeError("this design has no patsy specification")
        return design.design.model_spec

    @property
    def row_labels(self):
        """Labels of the samples; None for plain arrays."""
        return None if self.design_is_plain or self.orig_endog is None else self.orig_endog.index

    def wrap_output(self, obj, how="columns", names=None):
        """Attach labels, unless the input had none."""
        return obj if self.design_is_plain else super().wrap_output(obj, how, names)

    def _handle_constant(self, hasconst):
        self.k_constant = int(np.isfinite(self.const_idx)) if self.const_idx is not None else 0

    def __getstate__(self):
        return self.__dict__.copy()

    def __setstate__(self, state):
        self.__dict__.update(state)
