"""The call of a fit of a selection model, and models of other outcomes and effects made from it."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pandas as pd

from mvmise_sm.caller import warn
from mvmise_sm.exceptions import DataError, DataWarning, OptionError
from mvmise_sm.models.rebuilding import fit_zeros
from mvmise_sm.models.selection_base import SelectionLikelihoodModel
from mvmise_sm.models.selection_design import with_effects, with_outcomes
from mvmise_sm.models.selection_fit import (
    bind_priors,
    check_fit_options,
    check_seen,
    checked_start,
    fit_direct,
    fit_reproduction,
    fit_restricted,
    fit_with_lasso,
)
from mvmise_sm.results.selection import SelectionResults, SelectionResultsWrapper

__all__ = ["SelectionModel"]


class SelectionModel(SelectionLikelihoodModel):
    """Several outcomes of clustered samples whose blocks may be missing depending on their values.

    Parameters
    ----------
    endog : array_like
        Outcomes (nobs, K), NaN where missing; a sample is a row.
    exog : array_like
        Fixed-effects design common to all outcomes (nobs, p), or stacked by outcome (nobs * K, p); a constant is not
        added.
    groups : array_like
        Cluster labels (nobs,), of any type and in any order.
    exog_re : array_like, optional
        Random-effects design (nobs, q) of model e, independent effects; an intercept by default.
    mechanism : {"capped", "log", "logit", "probit", None} or Mechanism, optional
        Of whole blocks: ``Pr(missing) = min(1, exp(eta))``, the uncapped closed form, whose likelihood can diverge, or
        any other of `mvmise_sm.mechanisms`, whose numbers are held: ``mechanisms.Logit(Intercept=4.0, y=-0.9)``. None:
        blocks have no mechanism of their own. Model e takes the first two.
    value_mechanism : {None, "logit", "probit", "capped", "log"}, Mechanism or DetectionCurve, optional
        Of single values, those of seen blocks where blocks have a mechanism (model b). By default they are missing at
        random.
    missing_y : {"auto", True, False}, optional
        Whether missingness depends on the outcome, a block's on its mean; ``"auto"`` is True.
    missing_cov : str, list of str or array_like, optional
        Covariate of the mechanism: a column, one column per outcome, or values (nobs,), (nobs, K) or (nobs * K,).
    first_sample_variance : bool, optional
        Whether the first sample of every cluster (a common reference) has an error variance of its own.
    error_structure : {None, "cs"}, optional
        Error covariance of model e: free, or one variance and one correlation for all outcomes, which many outcomes
        need.
    own_terms : sequence of str, optional
        For arrays what formulas write as ``(1 | batch:outcome)`` and ``(1 | sample)``: ``"outcome"`` and ``"sample"``,
        of model b.
    outcome_effects : list of str, optional
        Fixed effects that get one coefficient per outcome. Arrays are taken as they are; formulas give every outcome
        its own intercept by default, and an empty list is the shared one of mvMISE.
    cov_prior, fixef_prior, resid_prior : optional
        Priors of the random-effect variances, the fixed effects and the residual variance, see `mvmise_sm.priors`.
    mechanism_prior : {None, "weak"}, float, prior, dict or DetectionCurve, optional
        Prior of the mechanism's slope in units of one over the spread of the block means: Student's t with 7 degrees of
        freedom and this scale (``"weak"``: 1), or ``priors.Normal`` or ``priors.StudentT``. A dict gives elements of
        phi such priors in their own units (``{"y": priors.Normal(0.5)}``); a curve is the normal prior of its numbers
        for `value_mechanism`, which must be of the curve's kind.

    Attributes
    ----------
    endog : ndarray
        (nobs, K)
    exog : ndarray
        (nobs, p) or (nobs * K, p)
    outcome_names : list of str
    group_name : str
    nobs, n_groups : int
    spec : ModelSpec
        The model without data.
    design : SelectionDesign

    Raises
    ------
    DataError
        If an outcome is missing everywhere, is not numeric or infinite, a cluster label is missing, there is one
        cluster only, or the fixed effects are not identified.

    References
    ----------
    Wang, Wang, Hedeker and Chen (2018). Using multivariate mixed-effects selection models for analyzing batch-processed
    proteomics data with non-ignorable missingness. Biostatistics, doi:10.1093/biostatistics/kxy022.
    """

    def _fit_zeros(self, keep_index=None, start_params=None, return_auxiliary=False, k_params=None, **fit_kwds):
        """Fit with the fixed effects outside `keep_index` held at zero; the result is that of the smaller model."""
        return fit_zeros(self, keep_index, start_params, fit_kwds)

    def with_endog(self, endog):
        """Return the same model for other outcomes (nobs, K) without evaluating the design again."""
        frame = endog
        if not isinstance(endog, pd.DataFrame):
            values = np.asarray(endog)
            if not values.size or values.size % self.nobs:
                raise DataError(f"the new outcomes must have {self.nobs} rows, found shape {values.shape}")
            frame = pd.DataFrame(values.reshape(self.nobs, -1), index=self.design.endog.index)
            if frame.shape[1] == len(self.outcome_names):
                frame = frame.set_axis(self.outcome_names, axis=1)
        if not frame.size or len(frame) != self.nobs:
            raise DataError(f"the new outcomes must have {self.nobs} rows and a column, found shape {frame.shape}")
        return self._with_design(with_outcomes(self.design, frame))

    def with_outcome_effects(self, columns):
        """Return the same model with one coefficient per outcome for other columns of the common design.

        Parameters
        ----------
        columns : sequence of int
            Positions in the design before any column was given to single outcomes; empty shares them all.
        """
        out = self._with_design(with_effects(self.design, columns))
        out._default_effects = False
        return out

    def _with_design(self, design):
        out = copy.copy(self)
        out.design = design
        out.data = self.data.with_design(design)
        out.endog, out.exog = out.data.endog, out.data.exog
        out.outcome_names = list(design.endog.columns)
        out.common_design = len(design.exog) == out.nobs
        out.priors = bind_priors(out, out._prior_term())
        # with one outcome these terms are the batch's effect and the residual
        own = design.own_terms if len(out.outcome_names) > 1 else ()
        out.spec = replace(self.spec, penalties=out._penalties(), own_blocks="outcome" in own, samples="sample" in own)
        return out

    def remove_rows(self):
        """Let go of everything with one entry per sample; part of ``remove_data`` of a result."""
        self.design = self.data.design = replace(self.design, data=None, endog=None, exog=None)

    def fit(
        self,
        start_params=None,
        method="ml",
        maxiter=None,
        tol=None,
        disp=False,
        cov_type="nonrobust",
        use_t=None,
        *,
        error_penalty=None,
        reml=False,
    ):
        """Fit the model; it is left as it was.

        Parameters
        ----------
        start_params : array_like, optional
            Start of the fixed effects (p,).
        method : {"ml", "em", "mvmise"}, optional
            Direct maximum likelihood, exact EM, or the algorithm of the R package mvMISE, which is not maximum
            likelihood; its ``llf`` and ``history`` are R's stopping values.
        maxiter : int, optional
            Largest number of iterations (200, 5000, and R's 100).
        tol : float, optional
            Expected gain at which the direct method turns to Newton steps, gain still to come for EM, R's relative
            change (1e-3) for ``"mvmise"``.
        disp : bool, optional
            Whether to print how the algorithm ended.
        cov_type : {"nonrobust", "information"}, optional
            The observed information with Kenward and Roger's correction for small samples, or without it.
        use_t : bool, optional
            Whether Wald tests of the fixed effects use Student's t, with degrees of freedom that count clusters for
            columns that are constant within them, else samples within clusters. True by default except with
            ``method="mvmise"``.
        error_penalty : float or "auto", optional
            Graphical lasso on the error precision of model e, per unit of standardised errors; ``"auto"`` chooses it by
            the extended BIC (R's default, ``sqrt(log(K) / nobs)``, with ``method="mvmise"``, where None is
            ``ADMM = FALSE``).

        reml : bool, optional
            Restricted likelihood: the fixed effects are integrated, and variances are larger in small data. Of
            ``method="ml"`` alone; tests of the mechanism and profiles belong to the likelihood.

        Returns
        -------
        SelectionResults

        Warns
        -----
        ConvergenceWarning, SingularFitWarning
            If the point reached is not a maximum, or the likelihood has none.
        """
        check_fit_options(self.spec, method, maxiter, cov_type)
        self._check_penalty(error_penalty, method)
        if method == "mvmise" and self._default_effects and self.design.outcome_effects:
            warn(
                "method='mvmise' fits the one intercept that R shares between the outcomes; outcome_effects=[] says "
                "so, and outcome_effects=['Intercept'] keeps the outcomes' own",
                DataWarning,
            )
            shared = self.with_outcome_effects(())
            return shared.fit(start_params, method, maxiter, tol, disp, cov_type, use_t, error_penalty=error_penalty)
        if method != "mvmise":
            check_seen(self)
        start = checked_start(self, start_params)
        if reml and (method != "ml" or error_penalty is not None or start is not None):
            raise OptionError("reml=True goes with method='ml', without error_penalty and start_params")
        if method == "mvmise":
            outcome = fit_reproduction(self, start, maxiter, tol, cov_type, error_penalty)
        elif error_penalty is not None:
            if method == "em":
                raise OptionError("method='em' has no lasso; use method='ml' with error_penalty")
            penalty = self.select_penalty("ebic") if error_penalty == "auto" else float(error_penalty)
            outcome = fit_with_lasso(self, penalty, maxiter, cov_type)
        elif reml:
            outcome = fit_restricted(self, maxiter, tol, cov_type)
        else:
            outcome = fit_direct(self, method, start, maxiter, tol, cov_type)
        settings = {
            "optimizer": method,
            "start_params": np.zeros(self.exog.shape[1]) if start is None else start,
            "maxiter": maxiter,
            "tol": tol,
            "error_penalty": error_penalty,
            "reml": bool(reml),
        }
        use_t = method != "mvmise" if use_t is None else use_t
        result = SelectionResults(self, outcome, settings, cov_type=cov_type, use_t=use_t)
        if outcome.warning is not None:
            category, text = outcome.warning
            warn(text, category)
        for text in outcome.notes:
            warn(text, DataWarning)
        if disp:
            print(result.message)
        return SelectionResultsWrapper(result)

    def _check_penalty(self, error_penalty, method):
        if error_penalty is not None:
            raise OptionError("error_penalty belongs to model e (ErrorSelectionModel); model b has no error covariance")
