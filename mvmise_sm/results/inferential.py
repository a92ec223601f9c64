"""What a fitted mixed model can be asked: the methods that call `mvmise_sm.inference`."""

from __future__ import annotations

import numpy as np

from mvmise_sm.exceptions import OptionError
from mvmise_sm.options import refuse_unknown
from mvmise_sm.results.diagnosed import DiagnosedResults
from mvmise_sm.results.marginal import MarginalResults
from mvmise_sm.results.plotted import PlottedResults
from mvmise_sm.results.questions import AnsweringResults
from mvmise_sm.results.reading import readable, understood

__all__ = ["InferentialResults"]


class InferentialResults(DiagnosedResults, PlottedResults, MarginalResults, AnsweringResults):
    """Tests, intervals and resampling of a mixed model; see `MixedModelResults`."""

    # --- tests and intervals

    def t_test(self, r_matrix, cov_p=None, use_t=None, *, ddf=None):
        """Test linear combinations of the fixed effects one by one.

        Parameters
        ----------
        r_matrix : array_like, str, or tuple
            As in statsmodels: contrasts (q, k_fe), a text such as ``"x = 0, f[T.b] = f[T.c]"``, or a pair (R, q).
        cov_p : array_like, optional
            Covariance of the fixed effects to use instead of the model's.
        use_t : bool, optional
            Student's t with ``df_resid`` degrees of freedom, or the normal distribution.
        ddf : {None, "satterthwaite", "kenward-roger"}, optional
            Degrees of freedom of each combination; ``"kenward-roger"`` adjusts the standard errors too.

        Returns
        -------
        statsmodels.stats.contrast.ContrastResults
        """
        if ddf is None:
            with readable(r_matrix, self.model.exog_names):
                return super().t_test(r_matrix, cov_p=cov_p, use_t=use_t)
        from mvmise_sm.inference.wald import t_test

        refuse_both(ddf, cov_p=cov_p, use_t=use_t)
        with readable(r_matrix, self.model.exog_names):
            return t_test(self, r_matrix, ddf)

    def wald_test(self, r_matrix, cov_p=None, invcov=None, use_f=None, df_constraints=None, scalar=True, *, ddf=None):
        """Test linear combinations of the fixed effects jointly.

        Parameters
        ----------
        r_matrix : array_like, str, or tuple
            As in `t_test`.
        cov_p, invcov, use_f, df_constraints, scalar : optional
            As in statsmodels.
        ddf : {None, "satterthwaite", "kenward-roger"}, optional
            Denominator degrees of freedom of an F test; ``"kenward-roger"`` uses the adjusted covariance and scales F.

        Returns
        -------
        statsmodels.stats.contrast.ContrastResults
        """
        if ddf is None:
            with readable(r_matrix, self.model.exog_names):
                return super().wald_test(
                    r_matrix, cov_p=cov_p, invcov=invcov, use_f=use_f, df_constraints=df_constraints, scalar=scalar
                )
        from mvmise_sm.inference.wald import wald_test

        refuse_both(ddf, cov_p=cov_p, invcov=invcov, use_f=use_f, df_constraints=df_constraints)
        with readable(r_matrix, self.model.exog_names):
            return wald_test(self, r_matrix, ddf)

    def wald_test_terms(self, skip_single=False, extra_constraints=None, combine_terms=None, scalar=True):
        """Test every term of the formula jointly; parameters as in statsmodels.

        Returns
        -------
        statsmodels.stats.contrast.WaldTestResults
            With a ``table``; `anova` has degrees of freedom.
        """
        with understood("wald_test_terms cannot read its options"):
            return super().wald_test_terms(skip_single, extra_constraints, combine_terms, scalar)

    def t_test_pairwise(self, term_name, method="hs", alpha=0.05, factor_labels=None):
        """Compare the levels of a categorical term pairwise; parameters as in statsmodels.

        Returns
        -------
        MultiCompResult
            With a ``result_frame``; `marginal_means` compares levels where the factor has interactions.
        """
        with understood(f"t_test_pairwise of {term_name!r}"):
            return super().t_test_pairwise(term_name, method, alpha, factor_labels)

    def conf_int(self, alpha=0.05, method="wald", *, parm=None, **options):
        """Confidence intervals.

        Parameters
        ----------
        alpha : float, optional
            One minus the coverage.
        method : {"wald", "profile", "bootstrap"}, optional
            Estimate and standard error; profile likelihood (of the maximum-likelihood criterion, also after REML); or
            parametric bootstrap.
        parm : str or list of str, optional
            Parameters to show, R's word: names, ``"beta_"`` for the fixed effects or ``"theta_"`` for standard
            deviations, correlations and sigma, which ``"wald"`` has by the delta method then.
        **options
            For ``"wald"``: ``ddf``. For ``"profile"``: ``reml=True`` takes standard deviations, correlations and
            sigma from the REML criterion. For ``"bootstrap"``: ``n``, ``rng``, ``n_jobs``, ``kind``
            (``"percentile"``, ``"basic"``, ``"bca"``), ``by`` and ``progress``.

        Returns
        -------
        ndarray or DataFrame
            Wald: the fixed effects (k_fe, 2). Profile and bootstrap: a DataFrame with columns ``lower, upper`` that
            has further rows ``sd_Intercept|Subject``, ``cor_Intercept.Days|Subject`` and ``sigma``.
        """
        if not 0.0 < alpha < 1.0:
            raise OptionError(f"alpha must lie between 0 and 1, got {alpha!r}")
        if parm is not None:
            from mvmise_sm.inference.verbs import chosen_intervals

            return chosen_intervals(self, parm, alpha, method, options)
        if method == "wald":
            from mvmise_sm.inference.wald import wald_intervals

            refuse_unknown("conf_int(method='wald')", options, ("alpha", "method", "parm", "ddf"))
            return wald_intervals(self, alpha, **options) if options else super().conf_int(alpha)
        if method == "profile":
            if "profile" in self.refused:
                raise OptionError(self.refused["profile"])
            from mvmise_sm.inference.profile import profile_intervals

            refuse_unknown("conf_int(method='profile')", options, ("alpha", "method", "parm", "reml", "params"))
            return profile_intervals(self, alpha, **options)
        if method == "bootstrap":
            from mvmise_sm.inference.bootstrap import bootstrap_intervals

            own = ("n", "rng", "n_jobs", "kind", "by", "progress")
            refuse_unknown("conf_int(method='bootstrap')", options, ("alpha", "method", "parm", *own))
            return bootstrap_intervals(self, alpha, **options)
        raise OptionError(f"method must be 'wald', 'profile' or 'bootstrap', got {method!r}")

    def anova(self, ddf="default", type=3):
        """Test every term of the fixed effects.

        Parameters
        ----------
        ddf : {"satterthwaite", "kenward-roger"} or None, optional
            Denominator degrees of freedom; None gives Wald tests with infinitely many. Satterthwaite where it is
            defined, by default.
        type : {3, 2, 1}, optional
            Each term after all others; after those that do not contain it; or sequentially.

        Returns
        -------
        DataFrame
            ``df_num, df_denom, F, p_value`` by term.
        """
        from mvmise_sm.inference.anova import anova_terms

        return anova_terms(self, type, ddf)

    def drop1(self, test="lrt", ddf="default"):
        """Leave out every term that no other term contains, one at a time.

        Parameters
        ----------
        test : {"lrt", "F"}, optional
            Likelihood ratio, or the F test of the term's coefficients.
        ddf : {"satterthwaite", "kenward-roger"} or None, optional
            Denominator degrees of freedom of the F test.

        Returns
        -------
        DataFrame
            ``df, aic, chisq, p_value``, a REML fit is refitted by maximum likelihood; with F tests ``df_num, df_denom,
            F, p_value``.
        """
        if test in ("F", "f"):
            from mvmise_sm.inference.verbs import drop1_f

            return drop1_f(self, ddf)
        if test not in ("lrt", "LRT", "Chisq"):
            raise OptionError(f"test must be 'lrt' or 'F', got {test!r}")
        if ddf != "default":
            raise OptionError("ddf goes with test='F'; likelihood-ratio tests have no denominator degrees of freedom")
        from mvmise_sm.inference.comparison import drop1

        return drop1(self)

    def anova_random(self):
        """Test the random-effects terms by likelihood ratio (restricted likelihood after REML).

        Returns
        -------
        DataFrame
            One row per term or slope that can go: ``n_params, llf, aic, chisq, df, p_value, p_boundary``. The naive
            p-value is conservative because a variance of zero is on the boundary; `p_boundary` is that of the
            mixture.
        """
        from mvmise_sm.inference.comparison import random_terms

        return random_terms(self)

    def get_robustcov_results(self, cov_type="CR2", groups=None, use_correction=True):
        """Replace the covariance of the fixed effects by one that is robust to the model of the covariance.

        Parameters
        ----------
        cov_type : {"CR0", "CR1", "CR1p", "CR1S", "CR2", "CR3", "cluster"}, optional
            CR2 is unbiased where the model holds, and has the best small-sample tests; CR0 has no correction, CR1, CR1p
            and CR1S common factors, CR3 is near the jackknife. statsmodels' ``"cluster"`` is CR1S.
        groups : str or array_like
            Clusters: a grouping factor, a column of the data, or labels (nobs,). Random effects must be nested in them.
        use_correction : bool, optional
            For ``"cluster"``: without it, CR0.

        Returns
        -------
        RobustResults
            A copy of this result with other standard errors and degrees of freedom.

        Raises
        ------
        OptionError
            If the clusters are not given or cut through levels of the random effects, or the model has priors.
        NotAvailableError
            If `cov_type` is unknown.

        References
        ----------
        Bell and McCaffrey (2002), Survey Methodology 28; Pustejovsky and Tipton (2018), Journal of Business and
        Economic Statistics 36.
        """
        from mvmise_sm.inference.robust import checked_cov_type
        from mvmise_sm.results.linear import LinearMixedModelResultsWrapper
        from mvmise_sm.results.robust import RobustResults

        adjustment = checked_cov_type(cov_type, use_correction)
        return LinearMixedModelResultsWrapper(RobustResults(self, adjustment, groups))

    # --- profile and resampling

    def profile(self, params=None, alpha=0.01, *, reml=False):
        """Profile the likelihood of fixed effects, standard deviations, correlations and sigma.

        Parameters
        ----------
        params : list of str, optional
            Names as in ``conf_int(method="profile")``; all by default.
        alpha : float, optional
            Profiles reach to the end points of intervals with coverage ``1 - alpha``.
        reml : bool, optional
            Take the standard deviations, correlations and sigma from the REML criterion, which allows for the
            estimation of the fixed effects; the fixed effects themselves always come from the maximum likelihood.

        Returns
        -------
        Profile
            With ``frame``, ``conf_int(alpha)`` and ``plot()``.
        """
        from mvmise_sm.inference.profile import profile

        return profile(self, params, alpha, reml)

    def bootstrap(self, n=1000, rng=None, n_jobs=1, *, statistic=None, by=None, progress=False):
        """Resample and refit.

        Parameters
        ----------
        n : int, optional
            Number of resamples.
        rng : int, array_like of int, numpy.random.Generator, or numpy.random.RandomState, optional
            Source of randomness; the resamples do not depend on `n_jobs`.
        n_jobs : int, optional
            Processes.
        statistic : callable, optional
            Function of a result that returns numbers or a Series; all parameters by default.
        by : str, optional
            A grouping factor whose levels are resampled with all their rows; responses are simulated from the fit by
            default.
        progress : bool, optional
            Whether to show a progress bar.

        Returns
        -------
        Bootstrap
            With ``samples`` (DataFrame), ``estimate``, ``std_error``, ``bias`` and ``conf_int(alpha, kind)``.
        """
        from mvmise_sm.inference.bootstrap import bootstrap

        return bootstrap(self, n, rng, n_jobs, statistic=statistic, by=by, progress=progress)


def refuse_both(ddf, **given):
    """Fail where an option is given that `ddf` decides already."""
    extra = [name for name, value in given.items() if value is not None]
    if extra:
        raise OptionError(f"ddf={ddf!r} and {', '.join(extra)} exclude each other")


def labelled(result, values):
    """Intervals of the fixed effects (k_fe, 2) as a frame."""
    import pandas as pd

    return pd.DataFrame(np.asarray(values), index=result.model.data.cov_names)
