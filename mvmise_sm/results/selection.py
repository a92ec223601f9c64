"""Results of the selection models."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import statsmodels.base.wrapper as wrap
from statsmodels.tools._decorators import cache_readonly

from mvmise_sm.options import strict_options
from mvmise_sm.results import selection_mechanism as mechanism
from mvmise_sm.results import selection_tables as tables
from mvmise_sm.results.mechanism_questions import MechanismQuestions
from mvmise_sm.results.questions import AnsweringWrapper
from mvmise_sm.results.selection_prediction import outcome_table
from mvmise_sm.results.selection_questions import SelectionQuestions
from mvmise_sm.results.widening import widened_copy
from mvmise_sm.selection.degrees import wald_df
from mvmise_sm.selection.prediction import posterior_moments
from mvmise_sm.selection.quantiles import outcome_quantiles
from mvmise_sm.selection.units import phi_labels

__all__ = ["SelectionResults", "SelectionResultsWrapper"]

_TEST = "mechanism test"


@strict_options
class SelectionResults(MechanismQuestions, SelectionQuestions):
    """Results of a `FactorSelectionModel` or `ErrorSelectionModel`; `params` holds the fixed effects only.

    Parameters
    ----------
    model : SelectionModel
    outcome : SelectionOutcome
        The fit.
    settings : dict
        How the model was fitted; kept as `mle_settings`.
    cov_type : str
    use_t : bool
        Whether Wald tests use Student's t with `df_resid_inference` degrees of freedom.

    Attributes
    ----------
    sigma2 : float or Series
        Error variance of a sample (1 in model e, where Sigma carries the scale); of ``first`` and ``others`` with
        `first_sample_variance`.
    tau : Series or None
        Loadings of model b by outcome.
    omega, delta : float or None
        Standard deviations of the outcomes' own batch effects, ``(1 | batch:outcome)``, and of samples,
        ``(1 | sample)``.
    error_cov, error_precision : DataFrame or None
        Error covariance of model e and its inverse.
    cov_re : dict
        Grouping factor -> covariance of the random effects: D in model e, ``tau tau'`` in model b.
    phi, bse_phi : Series or None
        Mechanism: ``Intercept``, ``y`` and the covariate, as far as they are in the model; None without missing blocks.
        All three, zero where not used, with ``method="mvmise"``.
    cov_phi : DataFrame or None
    llf : float
        Log-likelihood. With ``method="mvmise"`` R's stopping value instead, which is none; see `exact_llf`.
    exact_llf : float
        Log-likelihood at the estimates for every method.
    df_resid_inference : ndarray, (p,)
        Degrees of freedom of the fixed effects' t statistics; a contrast has the smallest of its coefficients.
    penalty : float
        Contribution of priors and lasso on the deviance scale.
    history : ndarray
        Objective by iteration (R's stopping values with ``method="mvmise"``).
    n_iter, k_params : int
    converged : bool
    message : str
    saturated : float
        Share of the missing blocks whose fitted ``eta`` is above zero, where the cap is at work.
    """

    def __init__(self, model, outcome, settings, *, cov_type="nonrobust", use_t=False):
        super().__init__(model, outcome.params.beta, normalized_cov_params=outcome.cov_beta, scale=1.0, use_t=use_t)
        self._cache = {}
        self.cov_type = cov_type
        self.cov_params_default = outcome.cov_beta
        self._outcome = outcome
        self.method = settings["optimizer"]
        self.mle_settings = settings
        self.mle_retvals = {"converged": outcome.converged, "iterations": outcome.n_iter, "message": outcome.message}
        self.converged, self.message = bool(outcome.converged), outcome.message
        self.n_iter, self.history = outcome.n_iter, outcome.history
        self._llf, self.penalty = float(outcome.llf), float(outcome.penalty)
        self.k_params = outcome.k_params
        self.error_penalty = outcome.error_penalty
        self.nobs = model.nobs
        self.n_observed = int(model.design.data.observed.sum())
        self.n_missing = model.design.data.observed.size - self.n_observed
        self.n_missing_blocks = len(model.design.data.missing_blocks)
        self.n_groups = {model.group_name: model.n_groups}
        self.df_model = float(len(self.params) - model.k_constant)
        self.df_resid = float(self.n_observed - len(self.params))
        self.df_resid_inference = wald_df(model.design.data)
        self._set_parameters()
        self.exact_llf = self._exact_llf()
        self.aic = -2.0 * self.llf + 2.0 * self.k_params if outcome.aic is None else float(outcome.aic)
        self.bic = -2.0 * self.llf + np.log(self.nobs) * self.k_params
        self.saturated = self._saturation()

    def _set_parameters(self):
        p, model, outcome = self._outcome.params, self.model, self._outcome
        names = model.outcome_names
        se = None if outcome.cov is None else outcome.cov.se
        labels = ["first", "others"]
        self.sigma2 = float(p.sigma2[0]) if p.sigma2.size == 1 else pd.Series(p.sigma2, labels, name="sigma2")
        self.bse_sigma2 = None
        if se is not None:
            self.bse_sigma2 = float(se.sigma2[0]) if p.sigma2.size == 1 else pd.Series(se.sigma2, labels, name="sigma2")
        self.tau = self.bse_tau = self.error_cov = self.error_precision = self.bse_error_cov = None
        self.omega = self.delta = self.bse_omega = self.bse_delta = None
        if p.spread is not None:
            terms = model.design.own_terms
            own = [np.nan, np.nan] if se is None else se.spread
            if "outcome" in terms:
                self.omega, self.bse_omega = float(abs(p.spread[0])), float(own[0])
            if "sample" in terms:
                self.delta, self.bse_delta = float(abs(p.spread[1])), float(own[1])
        if p.tau is not None:
            self.tau = pd.Series(p.tau, names, name="tau")
            self.bse_tau = None if se is None else pd.Series(se.tau, names, name="tau")
            cov_re = pd.DataFrame(np.outer(p.tau, p.tau), names, names)
        else:
            effects = list(model.design.effect_names)
            cov_re = pd.DataFrame(np.diag(p.D), effects, effects)
            self.error_cov = pd.DataFrame(p.error_cov, names, names)
            precision = np.linalg.inv(p.error_cov)
            if outcome.error_penalty and outcome.reproduction is None:
                coordinates = outcome.objective.likelihood.coordinates
                cut = outcome.objective.likelihood.slices["error_cov"]
                precision = coordinates.precision(outcome.maximum.theta[cut])
            self.error_precision = pd.DataFrame(precision, names, names)
            self.bse_error_cov = None if se is None else pd.DataFrame(se.error_cov, names, names)
            self.bse_re = None if se is None else pd.Series(se.D, effects, name="variance")
        self.cov_re = {model.group_name: cov_re}
        self.phi = self.bse_phi = self.cov_phi = None
        part = outcome.objective.likelihood.part
        self.slots = part.slots
        # R reports three elements, zero for what it does not use
        shown = part.shown if outcome.reproduction is None else np.arange(3)
        if shown.size:
            labels = phi_labels(part, model.design.covariate_name)
            names = [labels[i] for i in shown]
            self.phi = pd.Series(p.phi[shown], names, name="phi")
            if outcome.cov is not None:
                full = np.zeros((p.phi.size, p.phi.size))
                full[np.ix_(part.free, part.free)] = outcome.cov.phi
                cov_phi = full[np.ix_(shown, shown)]
                self.cov_phi = pd.DataFrame(cov_phi, names, names)
                with np.errstate(invalid="ignore"):
                    self.bse_phi = pd.Series(np.sqrt(np.diag(cov_phi)), names, name="phi")

    @property
    def llf(self):
        """Log-likelihood without priors and penalties; R's stopping value with ``method="mvmise"``."""
        return self._llf

    @property
    def restricted(self) -> bool:
        """Whether the likelihood is the restricted one (REML)."""
        return self.mle_settings["reml"]

    @property
    def mechanism_test(self):
        """Likelihood-ratio test that missingness does not depend on the outcome, None where it does not apply.

        An object with ``statistic``, ``pvalue``, ``df`` and ``llf_null``.
        """
        return self.memo(_TEST, lambda: mechanism.ratio_test(self))

    @property
    def theta(self):
        """The unconstrained parameter vector at the estimates, as `model.objective()` takes it."""
        return _theta(self._outcome)

    def _exact_llf(self):
        if self._outcome.reproduction is None:
            return self.llf
        return float(self._outcome.objective.likelihood.value_and_score(self.theta)[0])

    def _saturation(self):
        data, phi = self.model.design.data, self._outcome.params.phi
        likelihood = self._outcome.objective.likelihood
        slots, units = likelihood.part.slots, likelihood.units
        if not len(units) or slots[0].single or not np.isfinite(slots[0].mechanism.upper):
            return 0.0
        blocks = units.take(units.slot == 0)
        mean = data.cluster_mean(self._moments().mean)[blocks.cluster, blocks.outcome]
        return float((phi[0] + phi[1] * mean + phi[2] * blocks.covariate > slots[0].mechanism.upper).mean())

    def _moments(self):
        return self.memo("moments", lambda: posterior_moments(self._outcome.objective.likelihood, self.theta))

    # --- random effects and prediction

    @cache_readonly
    def random_effects(self):
        """Posterior means of the random effects, dict of DataFrame (clusters by effects); ``b`` in model b."""
        model = self.model
        names = ["b"] if self.tau is not None else list(model.design.effect_names)
        frame = pd.DataFrame(self._moments().effects, list(model.design.data.labels), names)
        frame.index.name = model.group_name
        return {model.group_name: frame.loc[list(model.levels)]}

    @cache_readonly
    def random_effects_cov(self):
        """Posterior covariances of the random effects, dict of ndarray (clusters, q, q)."""
        labels = {label: i for i, label in enumerate(self.model.design.data.labels)}
        order = [labels[level] for level in self.model.levels]
        return {self.model.group_name: self._moments().effects_cov[order]}

    @cache_readonly
    def fittedvalues(self):
        """Fixed plus random effects of every outcome (nobs, K), a DataFrame unless the input was plain arrays."""
        values = self.model.design.data.unsort(self._moments().fitted)
        return outcome_table(self.model, values, self.model.data.row_labels)

    @cache_readonly
    def resid(self):
        """Outcomes minus `fittedvalues` (nobs, K), NaN where missing."""
        values = self.model.design.data.unsort(self._moments().fitted)
        return outcome_table(self.model, self.model.endog - values, self.model.data.row_labels)

    @cache_readonly
    def resid_quantile(self):
        """Normal quantiles of the seen outcomes under their law given that they were seen (nobs, K), NaN where missing.

        Standard normal if the model holds; plain residuals of seen outcomes are off centre.
        """
        values = outcome_quantiles(self._outcome.objective.likelihood, self._outcome.params)
        return outcome_table(self.model, self.model.design.data.unsort(values), self.model.data.row_labels)

    def diagnostic_points(self):
        """Fitted values and quantile residuals of the seen outcomes, as diagnostic plots take them."""
        residual = np.asarray(self.resid_quantile)
        seen = np.isfinite(residual)
        return np.asarray(self.fittedvalues)[seen], residual[seen]

    # --- the mechanism

    # --- tables

    def summary(self, yname=None, xname=None, title=None, alpha=0.05):
        """Summarise the fit: fixed effects, variances, mechanism with its likelihood-ratio test, error correlations.

        Parameters
        ----------
        yname, title : str, optional
        xname : list of str, optional
        alpha : float, optional

        Returns
        -------
        statsmodels.iolib.summary.Summary
        """
        return tables.summary(self, yname=yname, xname=xname, title=title, alpha=alpha)

    def tidy(self, effects="fixed", conf_int=False, alpha=0.05):
        """Return the estimates as a frame, one row each.

        Parameters
        ----------
        effects : {"fixed", "random", "mechanism", "all"}, optional
        conf_int : bool, optional
            Whether to add ``conf_low`` and ``conf_high`` (Wald; of variances on the scale of their logarithm, of
            loadings with Student's t on the number of clusters less one where `use_t`).
        alpha : float, optional

        Returns
        -------
        DataFrame
            Columns ``effect, group, term, estimate, std_error, statistic, df, p_value``.
        """
        return tables.tidy(self, effects, conf_int, alpha)

    def glance(self):
        """Return a one-row frame that describes the whole fit."""
        return tables.glance(self)

    def _repr_html_(self):
        return self.summary().as_html()

    # --- plots

    def summary2(self, yname=None, xname=None, title=None, alpha=0.05, float_format="%.4f"):
        """Summarise the fit in statsmodels' second layout; parameters as in `summary`."""
        return tables.summary2(self, yname, xname, title, alpha, float_format)

    # --- storage

    def widened(self, model, positions, wrapped):
        """Show this result in a model with more columns, whose coefficients are held at zero.

        Parameters
        ----------
        model : SelectionModel
            The wider model.
        positions : ndarray
            Columns of the wider design that this result has estimated.
        wrapped : SelectionResultsWrapper
            This result as the user sees it, kept as ``results_constrained``.
        """
        out, cov = widened_copy(self, model, positions, wrapped, self.cov_params_default)
        out.normalized_cov_params = out.cov_params_default = cov
        out.df_resid_inference = wald_df(model.design.data)
        return SelectionResultsWrapper(out)

    def remove_data(self):
        """Remove the arrays with one entry per sample; tables still work."""
        # the test needs the rows, which go
        kept = {_TEST: self.mechanism_test}
        self._outcome = None
        self._cache = kept
        self.model.remove_rows()
        super().remove_data()


def _theta(outcome):
    """Unconstrained vector; R's algorithm splits the scale between Sigma and sigma2, which is put into Sigma."""
    if outcome.maximum is not None:
        return outcome.maximum.theta
    p, likelihood = outcome.params, outcome.objective.likelihood
    if likelihood.part.free.size and not p.phi.any():
        # R leaves phi at zero when missingness is ignored, which is no probability
        rate = likelihood.data.block_missing.mean()
        p = replace(p, phi=np.array([np.log(rate), 0.0, 0.0]))
    if p.error_cov is not None:
        p = replace(p, sigma2=p.sigma2 / p.sigma2[0], error_cov=p.error_cov * p.sigma2[0])
    return likelihood.theta(p)


class SelectionResultsWrapper(AnsweringWrapper):
    """Attach pandas labels to the arrays of a result."""


wrap.populate_wrapper(SelectionResultsWrapper, SelectionResults)
