"""Results of the linear mixed model."""

from __future__ import annotations

import numpy as np
import pandas as pd
import statsmodels.base.wrapper as wrap
from statsmodels.tools._decorators import cache_readonly

from mvmise_sm.core.covariance.random_effects import GroupingFactor
from mvmise_sm.core.elimination.choose import LogDeterminant
from mvmise_sm.core.threads import blas_threads
from mvmise_sm.exceptions import OptionError
from mvmise_sm.options import strict_options
from mvmise_sm.results import residual, variance
from mvmise_sm.results.base import MixedModelResults, MixedModelResultsWrapper
from mvmise_sm.results.residual_questions import ResidualQuestions
from mvmise_sm.results.widening import widened_copy

__all__ = ["LinearMixedModelResults", "LinearMixedModelResultsWrapper"]


_RESIDUALS = "summary of the residuals"
_REFUSED = {
    "overdispersion": "a linear mixed model estimates its residual variance; this is for counts and proportions",
    "zero_inflation": "zeros have probability nought in a continuous response; zero_inflation concerns counts",
}


@strict_options
class LinearMixedModelResults(ResidualQuestions, MixedModelResults, refuses=_REFUSED):
    """Results of a `LinearMixedModel`.

    Attributes
    ----------
    scale : float
        Residual variance sigma^2 of a row with weight 1.
    reml : bool
        Whether the criterion is that of REML.
    """

    # fitted from the residuals themselves, see core.criteria.augmented
    nearly_perfect = False
    linear = True

    def __init__(self, model, solution, optimum, settings, *, cov_type="nonrobust", use_t=False):
        super().__init__(model, solution, optimum, settings, cov_type=cov_type, use_t=use_t)
        self.optimum = optimum.working
        self.reml = settings["reml"]
        self._estimator = "REML" if self.reml else "ML"
        self._criterion_name = "REML criterion" if self.reml else "-2 Log-Likelihood"

    @property
    def deviance(self):
        """The criterion, as R's ``deviance`` (REML fits: ``REMLcrit``)."""
        return self.criterion

    @cache_readonly
    def resid_pearson(self):
        """Residuals times the square root of the weights (nobs,), as in lme4; not divided by sigma.

        With a residual structure they are also divided by the standard deviation of their level, relative to sigma.
        """
        weights = self.model.weights
        scaled = self.resid if weights is None else np.sqrt(weights) * self.resid
        return scaled if self.model.residual is None else scaled / np.sqrt(self.residual_variances())

    # --- residual structure

    def residual_structure(self):
        return self.model.residual_structure

    def residual_term(self):
        return self.model.residual

    def grouping_factors(self):
        """Grouping factors, and the subjects of a residual structure where they are none of them."""
        factors, term = super().grouping_factors(), self.model.residual
        if term is not None and term.subject and all(f.name != term.subject for f in factors):
            factors.append(GroupingFactor(term.subject, term.rows.subjects, term.subject_labels))
        return factors

    def structure_notes(self):
        lines = super().structure_notes()
        structure = self.model.residual_structure
        return lines if structure is None else [*lines, f"Residuals {self.model.residual_text}: {structure.described}"]

    def drawn(self, rng, predictors, weights):
        return predictors[0] + self.residual_noise(rng)

    def _variance_rows(self):
        structure = self.model.residual_structure
        rows = super()._variance_rows()
        return rows if structure is None else rows + residual.residual_variance_rows(structure, self.theta, self.scale)

    def _structure_rows(self):
        structure = self.model.residual_structure
        rows = super()._structure_rows()
        if structure is None:
            return [*rows, ("Residual", "independent, one variance", "sd", None, None, float(np.sqrt(self.scale)))]
        return rows + residual.residual_structure_rows(structure, self.theta, self.scale)

    @cache_readonly
    def varcorr(self):
        """Variance components as a DataFrame with columns ``grp, var1, var2, vcov, sdcor``."""
        known = self.model.residual_structure is not None
        return variance.variance_frame(self._variance_rows(), None if known else self.scale)

    @cache_readonly
    def random_effects_cov(self):
        """Conditional covariances of the random effects given the data, dict of ndarray (n_levels, q, q)."""
        criterion = self.deviance_function()
        with blas_threads(0):
            blocks = criterion.conditional_cov(self.theta)
        names = [factor.name for factor in self.model.random_layout.factors]
        return {name: self.scale * block for name, block in zip(names, blocks, strict=True)}

    def variance_law(self):
        """Parameters (working theta, log sigma2) and their asymptotic covariance."""
        from mvmise_sm.inference.ddf import second_order_of

        at = np.append(self.deviance_function().working_theta(self.theta), np.log(self.scale))
        return at, second_order_of(self).cov

    def parameters_at(self, at):
        """Theta and sigma2 at parameters of `variance_law`."""
        return self.deviance_function().user_theta(at[:-1]), float(np.exp(at[-1]))

    def mean_scale(self):
        """What undoes the transformation of the response, see `MarginalResults.mean_scale`."""
        from mvmise_sm.inference.means.scales import response_scale

        return response_scale(self.fixed_design().parts.response)

    def random_sd(self):
        """Standard deviation of an observation about the fixed effects."""
        from mvmise_sm.inference.variance_shares import random_variance

        return float(np.sqrt(random_variance(self) + self.scale * self.residual_variances().mean()))

    def model_cov_params(self):
        """Covariance of the fixed effects that the model implies (k_fe, k_fe)."""
        return self.cov_params_default

    @property
    def criterion_error(self):
        """Half width of an interval around `criterion` where its log-determinant is estimated, otherwise 0.

        Four standard errors of the mean over the probes: an interval from sampling, not a bound. The errors that the
        probes leave in the estimates are ``mle_retvals["mc_se"]`` (theta), ``["mc_se_params"]`` and
        ``["mc_se_scale"]``.
        """
        return float(self.mle_retvals.get("criterion_error", 0.0))

    def _header_rows(self):
        rows = [("Source:", [self.model.source_text])] if self.streamed else super()._header_rows()
        if "criterion_error" not in self.mle_retvals:
            return rows
        probes = self.mle_retvals["probes"]
        return [*rows, ("Log-determinant:", [f"stochastic, {probes} probes; criterion +- {self.criterion_error:.1g}"])]

    @property
    def resid_summary(self):
        """Minimum, quartiles, maximum and sum of squares ``ss`` of the residuals, a Series.

        Without rows only the sum of squares, until `write_fitted` has read them again.
        """
        return self.memo(_RESIDUALS, self._resid_summary)

    def _resid_summary(self):
        names = ["min", "q25", "median", "q75", "max", "ss"]
        if self.has_rows:
            quartiles = np.quantile(self.resid, [0.0, 0.25, 0.5, 0.75, 1.0])
            return pd.Series([*quartiles, float(self.resid @ self.resid)], names)
        u = [np.linalg.lstsq(lam, b.T, rcond=None)[0] for lam, b in self._factors_and_modes()]
        # the penalised residual sum of squares is e'e + u'u
        squares = self.solution.r2 - sum(float(np.sum(part**2)) for part in u)
        return pd.Series([*[np.nan] * 5, squares], names)

    def _factors_and_modes(self):
        layout = self.model.random_layout
        return zip(layout.lambdas(self.theta), self.solution.b, strict=True)

    def write_fitted(self, path, columns=("fitted", "resid"), keep=(), source=None):
        """Read the source of a streamed fit again and write fitted values and residuals to a Parquet file.

        Parameters
        ----------
        path : path
        columns : sequence of {"fitted", "resid"}, optional
        keep : sequence of str, optional
            Columns of the source to write beside them.
        source : source, optional
            Where the rows are; by default where the fit read them.

        Raises
        ------
        OptionError
            If a column is unknown, or the fit is not a streamed one.
        """
        if not self.streamed:
            raise OptionError("this fit holds its rows: fittedvalues and resid have them")
        from mvmise_sm.streaming.model import write_fitted

        self._cache[_RESIDUALS] = write_fitted(self, path, columns, keep, source)

    @property
    def restricted(self) -> bool:
        """Whether the likelihood is the restricted one (REML)."""
        return self.reml

    def keep(self, criterion):
        """Keep the criterion that the fit minimised, which would be rebuilt otherwise."""
        self._criterion = criterion

    def deviance_function(self):
        """The criterion as a function; rebuilt once after unpickling.

        Raises
        ------
        OptionError
            If the residuals are so small that the criterion cannot be formed again from cross-products.
        """
        if self.nearly_perfect:
            raise OptionError(
                "the residual standard deviation is too small beside the response for degrees of freedom, profiles and "
                "refits, which evaluate the criterion again; estimates and standard errors of this fit hold"
            )
        if self._criterion is None:
            if not self.has_statistic:
                raise self.model.rows_gone()
            self._criterion = self._rebuilt_criterion()
        return self._criterion

    def _rebuilt_criterion(self):
        settings, retvals = self.mle_settings, self.mle_retvals
        logdet = LogDeterminant(settings["logdet"], retvals.get("probes", settings["probes"]), settings["rng"])
        criterion = self.model.criterion(self.reml, logdet)
        return criterion if criterion.probes is None else criterion.certified(self.optimum, criterion.probes)

    def _prediction_variance(self, exog, rows):
        """Variance of predictions over the scale, random effects included."""
        criterion = self.deviance_function()
        with blas_threads(0):
            return criterion.prediction_variance(self.theta, exog, rows)

    def _prediction(self, linear, variance, which, labels, residual=1.0):
        """Predictions with confidence intervals and, for an observation of weight 1, prediction intervals."""
        from mvmise_sm.inference.prediction import LinearPrediction

        dist = ("t", self.df_resid) if self.use_t else ("norm", None)
        law = {"df": dist[1], "dist": dist[0]}
        return LinearPrediction(linear, variance, self.scale * residual, **law, row_labels=labels)

    def widened(self, model, positions, wrapped):
        """Show this result in a model with more columns, whose coefficients are held at zero.

        Parameters
        ----------
        model : LinearMixedModel
            The wider model.
        positions : ndarray
            Columns of the wider design that this result has estimated (k_fe,).
        wrapped : LinearMixedModelResultsWrapper
            This result as the user sees it, kept as ``results_constrained``.

        Returns
        -------
        LinearMixedModelResultsWrapper
        """
        out, cov = widened_copy(self, model, positions, wrapped, self.normalized_cov_params)
        out.normalized_cov_params, out.cov_params_default = cov, self.scale * cov
        return LinearMixedModelResultsWrapper(out)


class LinearMixedModelResultsWrapper(MixedModelResultsWrapper):
    """Attach pandas labels to the arrays of a `LinearMixedModelResults`."""


wrap.populate_wrapper(LinearMixedModelResultsWrapper, LinearMixedModelResults)
