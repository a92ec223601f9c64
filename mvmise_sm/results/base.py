"""What linear and generalized linear mixed models report in common."""

from __future__ import annotations

import numpy as np
import pandas as pd
import statsmodels.base.wrapper as wrap
from statsmodels.tools._decorators import cache_readonly

from mvmise_sm.results import variance
from mvmise_sm.results.drawing import DrawingResults
from mvmise_sm.results.memo import ML_FIT
from mvmise_sm.results.one_part import OnePart
from mvmise_sm.results.predicting import PredictingResults
from mvmise_sm.results.questions import AnsweringWrapper
from mvmise_sm.results.resampled import ResampledResults
from mvmise_sm.results.tabled import TabledResults
from mvmise_sm.results.verbs import VerbResults

__all__ = ["MixedModelResults", "MixedModelResultsWrapper"]

# structures that the table of variance components shows without a word
_USUAL = ("unstructured", "independent, a variance per column")


class MixedModelResults(OnePart, TabledResults, PredictingResults, DrawingResults, VerbResults, ResampledResults):
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
        if self.priors is not None:
            known.append(self.priors.at_corners(self.solution.beta, self.scale))
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

    def require_rows(self):
        """Fail with a sentence once `remove_data` has removed what a method needs."""
        if not self.has_rows:
            raise self.model.rows_gone()

    def own_predictors(self, b=None):
        return [self._linear_predictor(b)]

    def _linear_predictor(self, b=None):
        self.require_rows()
        model = self.model
        linear = model.exog @ self.params + model.random_effects.linear(self.solution.b if b is None else b)
        return linear if model.offset is None else linear + model.offset

    # --- storage

    def __repr__(self):
        what = getattr(self.model, "formula", None) or f"{self.model.endog_names} ~ {' + '.join(self.model.exog_names)}"
        return f"<{self.__class__.__name__}: {what}; {self.nobs} rows; {self._estimator}, .summary() shows it>"

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
