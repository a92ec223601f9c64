"""What linear and generalized linear mixed models report in common."""

from __future__ import annotations

import numpy as np
import pandas as pd
import statsmodels.base.wrapper as wrap
from statsmodels.tools._decorators import cache_readonly

from mvmise_sm.results import tables, variance
from mvmise_sm.results.memo import ML_FIT
from mvmise_sm.results.one_part import OnePart
from mvmise_sm.results.prediction import predicted, prediction_results
from mvmise_sm.results.questions import AnsweringWrapper
from mvmise_sm.results.resampled import ResampledResults
from mvmise_sm.results.verbs import VerbResults

__all__ = ["MixedModelResults", "MixedModelResultsWrapper"]

# structures that the table of variance components shows without a word
_USUAL = ("unstructured", "independent, a variance per column")


class MixedModelResults(OnePart, VerbResults, ResampledResults):
    """Results of a mixed model; `params` holds the fixed effects only.

    Parameters
    ----------
    model : MixedModelBase
        The model that was fitted.
    solution : PLSSolution
        Everything at the optimum: theta, beta, b, sigma2, cov_beta, criterion, penalty.
    optimum : Optimum
        What the optimiser reports.
    settings : dict
        How the model was fitted; kept as `mle_settings`.
    cov_type : {"nonrobust"}
        Covariance of `params`.
    use_t : bool
        Whether Wald tests use Student's t and F with `df_resid` degrees of freedom.

    Attributes
    ----------
    theta : ndarray
        Relative covariance parameters, terms in formula order (k_theta,).
    criterion : float
        The minimised criterion without the priors.
    penalty : float
        Contribution of the priors, -2 log prior.
    llf : float
        Log-likelihood (REML fits: of the REML criterion).
    converged, singular : bool
        Stationarity of the optimum; whether a covariance matrix is on the boundary.
    n_groups : dict
        Number of levels of each grouping factor.
    k_params : int
        Number of estimated parameters: fixed effects, theta and, where the family has one, the scale.
    dropped : tuple of str
        Columns of the fixed-effects design that were dropped as linear combinations of earlier ones.
    """

    k_scale = 1
    # what `predict` gives
    scales: tuple[str, ...] = ("mean", "linear")

    def __init__(self, model, solution, optimum, settings, *, cov_type="nonrobust", use_t=False):
        super().__init__(
            model,
            solution.beta,
            normalized_cov_params=solution.cov_beta,
            scale=float(solution.sigma2),
            cov_type=cov_type,
            use_t=use_t,
        )
        self._cache = {}
        self._criterion = None
        self.solution = solution
        self.cov_params_default = self.scale * solution.cov_beta
        self.theta = solution.theta
        self.criterion = float(solution.criterion)
        self.penalty = float(solution.penalty)
        self.method = settings["optimizer"]
        self.mle_settings = settings
        self.mle_retvals = optimum.retvals
        self.converged = bool(optimum.converged)
        self.singular = bool(optimum.singular)
        self.message = optimum.message
        self.nobs = model.nobs
        self.k_fe = len(solution.beta)
        self.k_params = self.k_fe + len(solution.theta) + self.k_scale
        self.df_model = float(self.k_fe - model.k_constant)
        self.df_resid = float(self.nobs - self.k_fe)
        self.n_groups = model.random_layout.n_groups
        self.dropped = model.dropped

    # --- covariance of the fixed effects

    def cov_params(self, r_matrix=None, column=None, scale=None, cov_p=None, other=None):
        """Covariance of the fixed effects or of combinations of them; parameters as in statsmodels.

        Entries that change along directions of the variances that the data do not determine are NaN, and so are those
        of estimates that are infinite; after a fit that has not converged all are.
        """
        cov = super().cov_params(r_matrix, column, scale, cov_p, other)
        felt = self.effects_without_error()
        if cov_p is not None or not felt.any():
            return cov
        if r_matrix is not None:
            rows = np.atleast_2d(np.asarray(r_matrix, dtype=float))
            if other is not None or len(rows) != np.size(cov) ** 0.5:
                return np.full_like(cov, np.nan)
            felt = (rows != 0.0) @ felt
        elif column is not None:
            felt = felt[column]
        return np.where(np.logical_or.outer(felt, felt).reshape(np.shape(cov)), np.nan, cov)

    def effects_without_error(self):
        """Which fixed effects have no standard error (k_fe,)."""
        if not self.converged:
            return np.ones(len(self.params), dtype=bool)
        felt = np.zeros(len(self.params), dtype=bool)
        known = [] if self.without_error is None else [self.without_error]
        for found in known if self.undetermined is None else [*known, self.undetermined.effects]:
            # further parts of a model come after the fixed effects, and one part may be asked by itself
            felt[: len(found)] |= found[: len(felt)]
        return felt

    def nesting(self):
        """Design, random effects and law of the fit, see `mvmise_sm.inference.nesting`."""
        model = self.model
        return {
            "exog": np.asarray(model.exog, dtype=float),
            "names": list(model.exog_names),
            "random": model.random_effects,
            "residual": self.residual_structure(),
            "weights": model.weights,
            "offset": model.offset,
            **self._law_of_rows(),
        }

    def _law_of_rows(self):
        """Family and link as texts, those that are its limits, and whether weights are numbers of trials."""
        return {"family": "normal", "limits": (), "trials": False}

    def plain_cov(self):
        """Covariance of the fixed effects (k_fe, k_fe), finite also where the data do not determine it."""
        return np.asarray(super().cov_params())

    # --- likelihood

    @property
    def llf(self):
        """Log-likelihood, R's ``logLik``."""
        return -0.5 * self.criterion

    @property
    def aic(self):
        """Akaike's criterion, ``-2 llf + 2 k_params``; from the REML criterion after REML."""
        return -2.0 * self.llf + 2.0 * self.k_params

    @property
    def bic(self):
        """Schwarz's criterion, ``-2 llf + log(nobs) k_params``."""
        return -2.0 * self.llf + float(np.log(self.nobs)) * self.k_params

    @property
    def fe_params(self):
        """The fixed effects, ``MixedLM``'s name of `params`."""
        return self.params

    @property
    def bse_fe(self):
        """Standard errors of the fixed effects, ``MixedLM``'s name of `bse`."""
        return self.bse

    # --- variance components and random effects

    @cache_readonly
    def varcorr(self):
        """Variance components as a DataFrame with columns ``grp, var1, var2, vcov, sdcor``."""
        return variance.variance_frame(self._variance_rows(), self.scale if self.k_scale else None)

    @cache_readonly
    def structures(self):
        """Parameters of all covariance structures: ``grp, structure, param, level1, level2, estimate``, a DataFrame."""
        return pd.DataFrame(
            self._structure_rows(), columns=["grp", "structure", "param", "level1", "level2", "estimate"]
        )

    def _structure_rows(self):
        return variance.structure_rows(self.model.random_layout, self.theta, self.scale)

    def residual_structure(self):
        """The structure of the residuals without its rows; None for independent ones of one variance."""
        return None

    def residual_term(self):
        """The structure of the residuals with its rows; None for independent ones of one variance."""
        return None

    def structure_notes(self):
        """Lines of the summary that spell out covariance structures other than lme4's own."""
        layout = self.model.random_layout
        return [f"{t.text}: {t.structure.described}" for t in layout.terms if t.structure.described not in _USUAL]

    def _header_rows(self):
        """Rows of the summary's header that only some models have."""
        return []

    def _variance_rows(self):
        return variance.variance_rows(self.model.random_layout, self.theta, self.scale)

    @cache_readonly
    def cov_re(self):
        """Covariance matrix of the random effects of each grouping factor, dict of DataFrame."""
        return variance.covariance_frames(self.model.random_layout, self.theta, self.scale)

    @cache_readonly
    def random_effects(self):
        """Conditional modes of each grouping factor, dict of DataFrame (levels by terms)."""
        return variance.mode_frames(self.model.random_layout, self.solution.b)

    # --- fit and prediction

    @cache_readonly
    def fittedvalues(self):
        """Fitted mean of every row, conditional on the random effects (nobs,)."""
        return self.model.inverse_link(self._linear_predictor())

    @cache_readonly
    def resid(self):
        """Response residuals, conditional on the random effects (nobs,)."""
        return self.model.endog - self.fittedvalues

    @property
    def has_rows(self):
        """Whether the rows of the data are still there, see `remove_data`."""
        return self.model.random_effects is not None

    def _require_rows(self):
        """Fail with a sentence once `remove_data` has removed what a method needs."""
        if not self.has_rows:
            raise self.model.rows_gone()

    def _linear_predictor(self, b=None):
        self._require_rows()
        model = self.model
        linear = model.exog @ self.params + model.random_effects.linear(self.solution.b if b is None else b)
        return linear if model.offset is None else linear + model.offset

    def predict(
        self,
        exog=None,
        transform=True,
        *,
        random="all",
        allow_new_levels=False,
        which="mean",
        groups=None,
        exog_re=None,
        offset=None,
    ):
        """Predict, by default conditional on the random effects.

        Parameters
        ----------
        exog : DataFrame or array_like, optional
            Formula models take a frame with the columns of the formula, grouping factors included. Array models take
            the fixed-effects design (m, k_fe). The default is the data of the model.
        transform : bool, optional
            Whether `exog` is passed through the formula.
        random : {"all", "none"} or list of str, optional
            Random effects to include, by name of the grouping factor; ``"none"`` gives the marginal linear predictor.
        allow_new_levels : bool, optional
            Whether a level that was not in the data is predicted with effect 0; otherwise it is an error.
        which : {"mean", "linear"}, optional
            Scale of the prediction.
        groups : array_like or dict, optional
            Array models: group labels of the new rows, or a dict from grouping factor to labels. Without them a row
            that is, by its values, a row of the model's data keeps its own random effects, and every other row
            has a random effect of 0.
        exog_re : array_like or dict, optional
            Array models with more than random intercepts: random-effects design of the new rows.
        offset : array_like, optional
            Offset of the new rows; formula models evaluate an ``offset()`` of the formula themselves.

        Returns
        -------
        ndarray or Series
            A Series with the row labels of a frame. Rows with missing values are NaN.

        Raises
        ------
        NewLevelError
            If a level was not in the data and `allow_new_levels` is false.
        """
        return predicted(
            self, exog, transform, random, allow_new_levels, which, groups=groups, exog_re=exog_re, offset=offset
        )

    def get_prediction(
        self,
        exog=None,
        which="mean",
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
        """Predict with standard errors that include the uncertainty of the random effects.

        Parameters
        ----------
        exog, which, transform, random, allow_new_levels, groups, exog_re, offset
            As in `predict`.
        row_labels : sequence, optional
            Labels of the rows of the summary frame.
        kind : {"confidence", "prediction"}, optional
            Intervals for the mean, or for a new observation of weight 1.

        Returns
        -------
        PredictionResults
            With ``summary_frame(alpha)``. The variance is that of x'(beta_hat - beta) + z'(b_hat - b) at the estimated
            theta; a new level contributes the variance of its random effect.
        """
        return prediction_results(
            self,
            exog,
            transform,
            random,
            allow_new_levels,
            which,
            row_labels=row_labels,
            groups=groups,
            exog_re=exog_re,
            offset=offset,
            kind=kind,
        )

    # --- tables

    def summary(self, yname=None, xname=None, title=None, alpha=0.05, *, ddf=None):
        """Summarise the fit.

        Parameters
        ----------
        yname : str, optional
            Name of the response.
        xname : list of str, optional
            Names of the fixed effects.
        title : str, optional
            Title of the first table.
        alpha : float, optional
            One minus the coverage of the intervals.
        ddf : {None, "satterthwaite", "kenward-roger"}, optional
            Degrees of freedom of the tests of the fixed effects; ``"kenward-roger"`` adjusts their standard errors too.

        Returns
        -------
        statsmodels.iolib.summary.Summary
            With ``as_text``, ``as_html``, ``as_latex`` and ``as_csv``.
        """
        return tables.summary(self, yname=yname, xname=xname, title=title, alpha=alpha, ddf=ddf)

    def summary2(self, yname=None, xname=None, title=None, alpha=0.05, float_format="%.4f"):
        """Summarise the fit in statsmodels' second layout; parameters as in `summary`."""
        return tables.summary2(self, yname, xname, title, alpha, float_format)

    def tidy(self, effects="fixed", conf_int=False, alpha=0.05, ddf=None, *, exponentiate=False):
        """Return the estimates as a frame, one row each.

        Parameters
        ----------
        effects : {"fixed", "random", "ran_vals", "all"}, optional
            Fixed effects; standard deviations and correlations; conditional modes of the random effects with their
            conditional standard deviations; or fixed effects and standard deviations.
        conf_int : bool, optional
            Whether to add ``conf_low`` and ``conf_high``: Wald; for standard deviations and correlations on the log and
            Fisher's z scale, by the delta method.
        alpha : float, optional
            One minus the coverage of the intervals.
        ddf : {None, "satterthwaite", "kenward-roger"}, optional
            Degrees of freedom of the fixed effects; ``"kenward-roger"`` adjusts their standard errors too.
        exponentiate : bool, optional
            Exponentiate fixed effects and their intervals; standard errors by the delta method, tests stay.

        Returns
        -------
        DataFrame
            Columns ``effect, group, term, estimate, std_error, statistic, df, p_value``; ``"ran_vals"`` has ``level``
            after ``group``.
        """
        return tables.tidy(self, effects, conf_int, alpha, ddf, exponentiate)

    def glance(self):
        """Return a one-row frame that describes the whole fit."""
        return tables.glance(self)

    def _repr_html_(self):
        return self.summary().as_html()

    def __repr__(self):
        what = getattr(self.model, "formula", None) or f"{self.model.endog_names} ~ {' + '.join(self.model.exog_names)}"
        return f"<{self.__class__.__name__}: {what}; {self.nobs} rows; {self._estimator}, .summary() shows it>"

    # --- storage

    def __getstate__(self):
        # the maximum-likelihood fit that inference keeps holds the rows
        cache = {key: value for key, value in self._cache.items() if key != ML_FIT}
        return {**self.__dict__, "_criterion": None, "_cache": cache}

    def remove_data(self):
        """Remove the arrays with one entry per row; `summary` and population predictions still work."""
        self._criterion = None
        self._cache.pop(ML_FIT, None)
        super().remove_data()
        self.model.remove_rows()


class MixedModelResultsWrapper(AnsweringWrapper):
    """Attach pandas labels to the arrays of a result."""

    _wrap_attrs = wrap.union_dicts(
        AnsweringWrapper._wrap_attrs, {"resid_pearson": "rows", "fe_params": "columns", "bse_fe": "columns"}
    )

    def __repr__(self):
        return repr(self._results)


wrap.populate_wrapper(MixedModelResultsWrapper, MixedModelResults)
