"""What resampling asks of the results of a mixed model: all parameters, one simulated response, levels and rows."""

from __future__ import annotations

import numpy as np
import pandas as pd

from mvmise_sm.exceptions import OptionError
from mvmise_sm.results.inferential import InferentialResults

__all__ = ["ResampledResults"]


class ResampledResults(InferentialResults):
    """Parameters, groups and rows of a mixed model as the functions of inference ask for them."""

    def term_columns(self):
        """Columns of the fixed effects by term, without the intercept; by column for models without a formula."""
        names = list(self.model.exog_names)
        design = getattr(self.model.data, "design", None)
        if design is None:
            return {name: [j] for j, name in enumerate(names) if j != self.model.data.const_idx}
        spec = design.model_spec
        return {t.name(): list(np.arange(len(names))[spec.term_slices[t]]) for t in spec.terms if t.factors}

    # --- what resampling needs

    def parameter_values(self):
        """All parameters, a Series named as in ``conf_int(method="profile")``."""
        from mvmise_sm.inference.resampling import parameter_names, parameters_of

        return pd.Series(parameters_of(self), index=parameter_names(self))

    def refit(self, endog):
        """Fit the same model to another response, starting at this result.

        Parameters
        ----------
        endog : array_like
            Response (nobs,), rows as in the model; proportions for the binomial family.

        Returns
        -------
        MixedModelResults
            A new result with a model of its own; this one is left as it was.

        Raises
        ------
        DataError
            If the length differs or a value is not finite.
        """
        self.require_rows()
        return self.model.refit(endog, self)

    def variance_intervals(self, alpha):
        """Wald intervals of the standard deviations and correlations, a frame by name."""
        ends = self.tidy("random", conf_int=True, alpha=alpha)[["conf_low", "conf_high"]].to_numpy()
        k = len(self.params)
        return pd.DataFrame(ends, index=self.parameter_values().index[k : k + len(ends)])

    def row_influence(self):
        """Influence of single rows, None where it is not defined."""
        return self.get_influence()

    def response_draw(self, rng):
        """One response simulated from the fit (nobs,), as `refit` takes it."""
        return self.simulate(1, rng=rng).to_numpy()[:, 0]

    def grouping_factors(self):
        """Factors whose levels hold rows that are dependent."""
        return [f for f in self.model.random_effects.factors if not f.loaded]

    def grouping(self, name=None):
        """Return a grouping factor by name, the one with the fewest levels by default.

        Raises
        ------
        OptionError
            If the fit has none of this name.
        """
        factors = self.grouping_factors()
        if not factors:
            raise OptionError("this fit has no groups of rows: neither random effects nor subjects of its residuals")
        if name is None:
            return min(factors, key=lambda f: f.n_levels)
        for factor in factors:
            if factor.name == name:
                return factor
        raise OptionError(f"unknown grouping factor {name!r}; this fit has {[f.name for f in factors]}")

    def fit_to_rows(self, factor, taken, copies):
        """Refit to some rows; levels of `factor` that are taken several times count as different ones.

        Parameters
        ----------
        factor : GroupingFactor
        taken : ndarray
            Positions of rows, with repetition (m,).
        copies : ndarray
            Which copy of a level a row belongs to (m,).
        """
        from mvmise_sm.inference.resampling import fit_to_rows

        return fit_to_rows(self, factor, taken, copies)
