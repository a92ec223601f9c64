"""What a fitted selection model can be asked like any other mixed model, and what it refuses."""

from __future__ import annotations

import copy

import numpy as np
import pandas as pd
from patsy import DesignInfo
from statsmodels.stats.contrast import WaldTestResults
from statsmodels.tools._decorators import cache_readonly

from mvmise_sm.exceptions import OptionError
from mvmise_sm.option_values import short
from mvmise_sm.results.inferential import InferentialResults
from mvmise_sm.results.reading import readable
from mvmise_sm.results.selection_draws import SelectionDraws
from mvmise_sm.results.selection_prediction import predicted, prediction
from mvmise_sm.results.selection_profiles import ProfiledResults, selection_parameters
from mvmise_sm.results.selection_simulation import (
    cluster_factor,
    model_of_rows,
    parameter_values,
    require_rows,
    variance_frame,
)
from mvmise_sm.results.verbs import VerbResults

__all__ = ["SelectionQuestions"]

REFUSED = {
    "update": "a selection model is made again with the other formula, by mvmise_b or mvmise_e",
    "augment": "a selection model has several outcomes by sample: fittedvalues, resid and predict_missing() have what "
    "it says of each",
    "padded": "results of a selection model are by sample and outcome already; missing values have a place there",
    "coef": "a selection model has several outcomes: params has their coefficients, random_effects the clusters'",
    "add1": "terms of a selection model are compared by ms.anova of two fits",
    "step": "terms of a selection model are compared by ms.anova of two fits",
    "to_marginaleffects": "marginaleffects knows one response; marginal_means and marginal_slopes know the outcomes",
    "to_arviz": "to_arviz draws from linear and generalized mixed models; imputations() and bootstrap() draw here",
    "get_robustcov_results": "robust covariances are defined for linear mixed models without priors",
    "anova_random": "tests of random effects are not defined for a selection model; compare two fits with ms.anova",
    "get_influence": "influence is not defined for a selection model; leave a cluster out with subset= and fit again",
    "plot_influence": "influence is not defined for a selection model; leave a cluster out with subset= and fit again",
    "r2": "r2 is defined for linear and generalized mixed models; varcorr has the variances of a selection model",
    "icc": "icc is defined for linear and generalized mixed models; varcorr has the variances of a selection model",
    "overdispersion": "a selection model estimates its residual variance; this is for counts and proportions",
    "zero_inflation": "zeros have probability nought in a continuous response; zero_inflation concerns counts",
    "resid_simulated": "resid_simulated leaves out which values are missing; use resid_quantile",
    "t_test_pairwise": "t_test_pairwise does not know outcomes; use marginal_means('f', pairs=True)",
    "all_fit": "a selection model has two algorithms: compare fit(method='ml') with fit(method='em')",
    "check": "check() knows linear and generalized mixed models; summary() says what is doubtful in a selection model",
    "plot_fit": "plot_fit draws one response; use predict() on a frame for each outcome of a selection model",
    "plot_priors": "plot_priors knows linear and generalized mixed models; summary() prints a selection model's priors",
}


class SelectionQuestions(SelectionDraws, ProfiledResults, VerbResults, InferentialResults, refuses=REFUSED):
    """Tests and predictions of a selection model; see `SelectionResults`."""

    @property
    def coef_names(self):
        """Names of `params`."""
        return list(self.model.exog_names)

    # --- Wald tests

    def t_test(self, r_matrix, cov_p=None, use_t=None, *, ddf=None):
        """Test linear hypotheses one by one; parameters and returned object are statsmodels'."""
        tested = self._for_contrasts(r_matrix, joint=False)
        return super(SelectionQuestions, tested).t_test(r_matrix, cov_p, use_t, ddf=ddf)

    def wald_test(self, r_matrix, cov_p=None, invcov=None, use_f=None, df_constraints=None, scalar=True, *, ddf=None):
        """Test linear hypotheses jointly; parameters and returned object are statsmodels'."""
        tested = self._for_contrasts(r_matrix, joint=True)
        return super(SelectionQuestions, tested).wald_test(
            r_matrix, cov_p, invcov, use_f, df_constraints, scalar, ddf=ddf
        )

    def _for_contrasts(self, r_matrix, joint):
        """A copy of this result with the degrees of freedom of the contrasts in place of the coefficients'."""
        names = self.model.data.cov_names
        with readable(r_matrix, names):
            rows = DesignInfo(names).linear_constraint(r_matrix).coefs
        df = np.array([self.df_resid_inference[row != 0].min(initial=np.inf) for row in np.atleast_2d(rows)])
        df = np.where(np.isfinite(df), df, self.df_resid_inference.min())
        out = copy.copy(self)
        out.df_resid_inference = float(df.min()) if joint else df
        return out

    @property
    def has_rows(self):
        """Whether the rows of the data are still there, see `remove_data`."""
        return self.model.design.data is not None

    def wald_law(self):
        """Covariance of the fixed effects and the degrees of freedom of their combinations."""
        from mvmise_sm.inference.selection import ClusterDf

        df = self.df_resid_inference if self.use_t else np.full(len(self.params), np.inf)
        return ClusterDf(np.asarray(self.cov_params()), df)

    def anova(self, ddf=None, type=3):
        """Test every term of the fixed effects; effects that outcomes have of their own are tested jointly.

        Parameters
        ----------
        ddf : None
            Degrees of freedom are those of the coefficients, `df_resid_inference`.
        type : {3, 2, 1}, optional
            Each term after all others; after those that do not contain it; or sequentially.

        Returns
        -------
        DataFrame
            ``df_num, df_denom, F, p_value`` by term.
        """
        from mvmise_sm.inference.selection import anova

        return anova(self, type, ddf)

    def drop1(self, test="lrt", ddf="default"):
        """Leave out every term that no other term contains, one at a time.

        Parameters
        ----------
        test : {"lrt"}, optional
            Likelihood ratio; F tests of terms are those of `anova`.
        ddf : {"default"}, optional
            Likelihood-ratio tests have no denominator degrees of freedom.

        Returns
        -------
        DataFrame
            ``df, aic, chisq, p_value``.
        """
        from mvmise_sm.inference.selection import drop1

        if test not in ("lrt", "LRT", "Chisq"):
            raise OptionError(f"drop1 of selection models takes test='lrt', got {test!r}; anova() has the F tests")
        if ddf != "default":
            raise OptionError("likelihood-ratio tests have no denominator degrees of freedom; anova() has the F tests")
        return drop1(self)

    def wald_test_terms(self, skip_single=False, extra_constraints=None, combine_terms=None, scalar=True):
        """Wald tests of all coefficients of a term; outcome-specific effects are tested jointly over outcomes.

        Parameters and returned object are statsmodels'.
        """
        rows, names = [], []
        chosen = {name: cols for name, cols in self.model.design.terms.items() if not (skip_single and len(cols) == 1)}
        for name, columns in chosen.items():
            test = self.wald_test(np.eye(len(self.params))[columns], scalar=scalar)
            df = [int(test.df_num), test.df_denom] if self.use_t else [int(test.df_denom)]
            rows.append([test.statistic, test.pvalue, *df])
            names.append(name)
        if not isinstance(extra_constraints, (list, tuple, type(None))):
            raise OptionError(f"extra_constraints must be a list of hypotheses, got {short(extra_constraints)}")
        for matrix in extra_constraints or []:
            test = self.wald_test(matrix, scalar=scalar)
            df = [int(test.df_num), test.df_denom] if self.use_t else [int(test.df_denom)]
            rows.append([test.statistic, test.pvalue, *df])
            names.append(str(matrix))
        if combine_terms is not None:
            raise OptionError("combine_terms is not available; give a joint hypothesis to wald_test")
        columns = ["statistic", "pvalue", "df_constraint", *(["df_denom"] if self.use_t else [])]
        table = pd.DataFrame(rows, index=names, columns=columns)
        return WaldTestResults(None, "F" if self.use_t else "chi2", None, table=table)

    def term_columns(self):
        """Columns of the fixed effects by term, without intercepts."""
        return {name: list(columns) for name, columns in self.model.design.terms.items() if name != "Intercept"}

    # --- what marginal means ask

    def fixed_design(self):
        """Return the `Design` of one outcome's fixed effects."""
        design = self.model.design.design
        if design is None:
            raise OptionError("marginal means need a model from a formula, which says what the variables are")
        return design

    def reference_grid(self, at=None):
        """Return the grid of the fixed effects; ``outcome`` is one of its variables where outcomes differ."""
        from mvmise_sm.inference.means.outcomes import outcome_grid

        self.fixed_design()
        return outcome_grid(self.model.design, self.model.outcome_names, at)

    def estimable(self):
        """Return that everything is estimable: designs of lower rank are refused."""
        from mvmise_sm.inference.means.outcomes import outcome_estimable

        return outcome_estimable(len(self.params))

    def denominator(self, ddf="default"):
        """Covariance of the fixed effects and degrees of freedom of their tests; `ddf` is None or left out."""
        from mvmise_sm.inference.selection import no_ddf

        no_ddf(ddf)
        return self.wald_law()

    def mean_offset(self):
        """Return 0: selection models take no offset."""
        return 0.0

    def mean_scale(self):
        """Return the identity: outcomes are modelled as they are."""
        from mvmise_sm.inference.means.scales import IDENTITY

        return IDENTITY

    def random_sd(self):
        """Return 0: there is no transformation to adjust for."""
        return 0.0

    # --- variances, simulation and resampling

    @cache_readonly
    def varcorr(self):
        """Variance components as a DataFrame with columns ``grp, var1, var2, vcov, sdcor``.

        Model b: variances ``tau_k^2`` of the outcomes and their covariances ``tau_j tau_k``. Model e: the random
        effects, then a ``Residual`` row for every variance and covariance of the errors.
        """
        return variance_frame(self)

    def parameter_values(self):
        """All parameters, a Series: fixed effects, variances (loadings in model b), mechanism."""
        return parameter_values(self)

    def profile_parameters(self):
        """What is profiled: the likelihood, and all parameters in the order of `parameter_values`."""
        return selection_parameters(self)

    def response_draw(self, rng):
        """Outcomes simulated from the fit (nobs, K), as `refit` takes them."""
        return self.simulate(1, rng=rng)["sim_1"]

    def grouping(self, name=None):
        """The clusters of the model, by the name of their factor."""
        return cluster_factor(self, name)

    def fit_to_rows(self, factor, taken, copies):
        """Refit to some samples; clusters that are taken several times count as different ones."""
        from mvmise_sm.inference.fits import fit_options, quietly

        smaller = model_of_rows(self, taken, copies)
        return quietly(smaller.fit, cov_type=self.cov_type, use_t=self.use_t, **fit_options(self))

    def refit(self, endog):
        """Fit the same model to other outcomes.

        Parameters
        ----------
        endog : DataFrame or array_like
            Outcomes (nobs, K), NaN where missing, rows as in the model.

        Returns
        -------
        SelectionResults
            A new result with a model of its own; this one is left as it was.
        """
        from mvmise_sm.inference.fits import fit_options

        require_rows(self)
        return self.model.with_endog(endog).fit(cov_type=self.cov_type, use_t=self.use_t, **fit_options(self))

    # --- predictions

    def predict(self, exog=None, transform=True, *, random="all", allow_new_levels=False, which="mean"):
        """Predict the outcomes of new samples.

        Parameters
        ----------
        exog : DataFrame or array_like, optional
            A frame with the columns of the formula, or design rows of an array model (m, p) that are common to the
            outcomes or stacked (m * K, p); `fittedvalues` by default.
        transform : bool, optional
            Whether `exog` is passed through the formula.
        random : {"all", "none"}, optional
            Whether the clusters' random effects are included; array models have none for new rows.
        allow_new_levels : bool, optional
            Whether a cluster that was not in the data gets the effect 0; otherwise it is an error.
        which : {"mean", "linear"}, optional
            Both are the mean of the outcomes.

        Returns
        -------
        DataFrame or ndarray
            (m, K)
        """
        return predicted(self, exog, transform, random, allow_new_levels, which)

    def get_prediction(
        self, exog=None, which="mean", transform=True, row_labels=None, *, random="all", allow_new_levels=False
    ):
        """Predict the outcomes of new samples with standard errors.

        Parameters
        ----------
        exog, which, transform, random, allow_new_levels
            As in `predict`.
        row_labels : sequence, optional
            Labels of the samples in the tables.

        Returns
        -------
        SelectionPrediction
            With ``predicted_mean``, ``se_mean`` and ``conf_int(alpha)``, (m, K) each, and ``summary_frame(alpha)``, one
            row for each sample and outcome. The variance is that of the fixed effects; with random effects also their
            posterior variance, the prior's for a new cluster, and what the uncertainty of all other parameters adds
            (delta method).
        """
        out = prediction(self, exog, transform, random, allow_new_levels, which)
        return out if row_labels is None else out.relabelled(row_labels)
