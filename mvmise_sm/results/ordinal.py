"""Results of cumulative link mixed models."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
from statsmodels.tools._decorators import cache_readonly
from statsmodels.tools.rng_qrng import check_random_state

from mvmise_sm.exceptions import OptionError
from mvmise_sm.options import strict_options
from mvmise_sm.results.multipart import MultiPartResults, MultiPartResultsWrapper

__all__ = ["OrdinalResults", "OrdinalResultsWrapper"]


@strict_options
class OrdinalResults(MultiPartResults):
    """Results of an `OrdinalMixedModel`.

    ``params`` holds the coefficients, then the threshold parameters (``1|2``, ... where they are free).
    """

    scales = ("prob", "class", "linear", "mean")

    def _set_dispersion(self, solution):
        self.dispersion, self.shapes = 1.0, ()
        self.family_params = pd.Series(dtype=float)

    @property
    def thresholds(self):
        """All thresholds, a Series ``1|2, 2|3, ...``."""
        values = self.model.thresholds_of(self.params[self.k_fe :])
        return pd.Series(values, index=self.model.threshold_labels)

    @property
    def bse_thresholds(self):
        """Standard errors of the thresholds."""
        j = self.model.threshold_matrix
        cov = np.asarray(self.cov_params())[self.k_fe :, self.k_fe :]
        return pd.Series(np.sqrt(np.einsum("ij,jk,ik->i", j, cov, j)), index=self.model.threshold_labels)

    def estimable(self):
        """As in `MarginalResults`; the intercept is none of the coefficients, because the thresholds absorb it."""
        found = super().estimable()
        own = set(self.model.exog_names[: self.k_fe])
        kept = [i for i, name in enumerate(self.fixed_design().full_spec.column_names) if name in own]
        return replace(found, kept=np.array(kept, dtype=int))

    def mean_scale(self):
        """The latent scale itself: marginal means are locations relative to the thresholds."""
        from mvmise_sm.inference.means.scales import IDENTITY

        return IDENTITY

    def _ordered(self, named):
        return [named["cond"]]

    def on_scale(self, predictors, which, weights=None):
        if which == "linear":
            return predictors[0]
        prob = self.family.probabilities(predictors[0], self.thresholds)
        if which == "prob":
            return prob
        return prob @ np.arange(prob.shape[1]) if which == "mean" else np.argmax(prob, axis=1)

    def predict(
        self,
        exog=None,
        transform=True,
        *,
        random="all",
        allow_new_levels=False,
        which="prob",
        groups=None,
        exog_re=None,
        offset=None,
    ):
        """Predict, by default conditional on the random effects.

        Parameters
        ----------
        exog, transform, random, allow_new_levels, groups, exog_re, offset
            As in `MixedModelResults.predict`.
        which : {"prob", "class", "linear", "mean"}, optional
            Probabilities (a column per level), the most probable level, the linear predictor without thresholds, or the
            mean of the codes 0, 1, ....

        Returns
        -------
        DataFrame, Series or ndarray
        """
        if which not in self.scales:
            raise OptionError(f"which must be one of {', '.join(map(repr, self.scales))}, got {which!r}")
        if groups is not None or exog_re is not None:
            raise OptionError("groups and exog_re belong to models with one linear predictor")
        rows, index = self._rows(exog, self._chosen(random), allow_new_levels, offset)
        predictors = self._predictors(rows)
        values = self.on_scale(predictors, which)
        if which == "prob":
            return pd.DataFrame(values, index=index, columns=list(self.model.levels))
        if which == "class":
            levels = pd.Categorical.from_codes(values, categories=list(self.model.levels), ordered=True)
            return pd.Series(levels, index=index)
        return values if index is None else pd.Series(values, index=index)

    def get_prediction(
        self,
        exog=None,
        which="linear",
        transform=True,
        row_labels=None,
        *,
        random="all",
        allow_new_levels=False,
        groups=None,
        exog_re=None,
        offset=None,
        kind="confidence",
    ):
        """Predict the linear predictor with standard errors; parameters as in `MultiPartResults.get_prediction`."""
        if which != "linear":
            raise OptionError(
                f"standard errors are those of the linear predictor, which='linear', got {which!r}; "
                "predict(which='prob') has the probabilities of the levels"
            )
        if kind == "prediction":
            raise OptionError(
                "kind='prediction' is for numbers; predict(which='prob') has the probabilities of the levels"
            )
        given = {"random": random, "allow_new_levels": allow_new_levels, "groups": groups, "exog_re": exog_re}
        return super().get_prediction(exog, which, transform, row_labels, offset=offset, kind=kind, **given)

    def _deviance_rows(self):
        return None

    @cache_readonly
    def fittedvalues(self):
        """Mean code 0, 1, ... of every response given the random effects (nobs,)."""
        return self.on_scale(self.own_predictors(), "mean")

    @cache_readonly
    def resid_pearson(self):
        """Residuals of the codes over their standard deviation (nobs,)."""
        prob = self.on_scale(self.own_predictors(), "prob")
        codes = np.arange(prob.shape[1])
        mean = prob @ codes
        return (self.model.endog - mean) / np.sqrt(prob @ codes**2 - mean**2)

    @cache_readonly
    def resid_working(self):
        """Not defined for categories."""
        raise OptionError("categories have no working residuals; use resid_quantile()")

    def drawn(self, rng, predictors, weights):
        prob = self.on_scale(predictors, "prob")
        cuts = np.cumsum(prob[:, :-1], axis=1)
        return (rng.random(len(prob))[:, None] > cuts).sum(axis=1).astype(float)

    def simulate(self, n=1, rng=None, random="new"):
        """Simulate codes 0, 1, ... of the levels; parameters as in `MultiPartResults.simulate`."""
        return super().simulate(n, check_random_state(rng), random)

    def cumulative(self, y, predictors, weights):
        prob = np.cumsum(self.on_scale(predictors, "prob"), axis=1)
        at = np.floor(y).astype(int)
        return np.where(at < 0, 0.0, prob[np.arange(len(prob)), np.maximum(at, 0)])

    def overdispersion(self):
        """Refuse: categories have no variance of their own."""
        raise OptionError("ordered categories have no overdispersion")

    def _header_rows(self):
        return [("Link:", [self.family.link.label]), ("Threshold:", [self.model.threshold])]


class OrdinalResultsWrapper(MultiPartResultsWrapper):
    """Attach pandas labels to the arrays of an `OrdinalResults`."""
