"""The multivariate mixed-effects selection models mvMISE_b and mvMISE_e."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pandas as pd
from statsmodels.base.model import LikelihoodModel

from mvmise_sm.caller import warn
from mvmise_sm.design.build import caller_environment
from mvmise_sm.exceptions import DataError, OptionError
from mvmise_sm.formula.parts import parse_formula
from mvmise_sm.models.base import refuse_covariance, refuse_dropped_columns
from mvmise_sm.models.selection_data import SelectionFrameData
from mvmise_sm.models.selection_design import array_design, formula_design, with_outcomes
from mvmise_sm.models.selection_fit import (
    PenaltyChoice,
    bind_priors,
    fit_direct,
    fit_reproduction,
    fit_with_lasso,
    mechanism_penalty,
)
from mvmise_sm.options import refuse_unknown_model_options, strict_options
from mvmise_sm.priors import TermShape
from mvmise_sm.results.selection import SelectionResults, SelectionResultsWrapper
from mvmise_sm.selection.build import ModelSpec
from mvmise_sm.selection.mechanism import MECHANISMS
from mvmise_sm.selection.priors import PriorPenalty
from mvmise_sm.selection.sparse import penalty_path

__all__ = ["ErrorSelectionModel", "FactorSelectionModel", "SelectionModel"]

METHODS = ("ml", "em", "mvmise")


class SelectionModel(LikelihoodModel):
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
    mechanism : {"capped", "log"}, optional
        ``Pr(missing) = min(1, exp(eta))``, or the uncapped closed form, whose likelihood can diverge.
    missing_y : {"auto", True, False}, optional
        Whether a block's missingness depends on its mean outcome; ``"auto"``: as soon as a block is missing.
    missing_cov : str, list of str or array_like, optional
        Covariate of the mechanism: a column, one column per outcome, or values (nobs,), (nobs, K) or (nobs * K,).
    first_sample_variance : bool, optional
        Whether the first sample of every cluster (a common reference) has an error variance of its own.
    outcome_effects : list of str, optional
        Fixed effects that get one coefficient per outcome.
    cov_prior, fixef_prior, resid_prior : optional
        Priors of the random-effect variances, the fixed effects and the residual variance, see `mvmise_sm.priors`.
    mechanism_prior : {None, "weak"}, float or prior, optional
        Prior of the mechanism's slope in units of one over the spread of the block means: Student's t with 7 degrees of
        freedom and this scale (``"weak"``: 1), or ``priors.Normal`` or ``priors.StudentT``.

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

    _kind = ""
    title = ""

    def __init__(
        self,
        endog,
        exog,
        groups=None,
        *,
        exog_re=None,
        mechanism="capped",
        missing_y="auto",
        missing_cov=None,
        first_sample_variance=False,
        outcome_effects=None,
        cov_prior=None,
        fixef_prior=None,
        resid_prior=None,
        mechanism_prior=None,
        missing="none",
        hasconst=None,
        design=None,
    ):
        if design is None:
            if groups is None:
                raise DataError("groups is needed: the cluster of every sample")
            design = array_design(
                endog, exog, groups, exog_re=exog_re, missing_cov=missing_cov, outcome_effects=outcome_effects
            )
        if mechanism not in MECHANISMS:
            raise OptionError(f"mechanism must be one of {sorted(MECHANISMS)}, got {mechanism!r}")
        if missing_y not in ("auto", True, False):
            raise OptionError(f"missing_y must be 'auto', True or False, got {missing_y!r}")
        self._check_random(design)
        self._new_data = SelectionFrameData(design)
        super().__init__(design.endog, design.exog, hasconst=hasconst)
        del self._new_data
        self.design, self.nobs = design, len(design.endog)
        self.n_groups = design.data.n_clusters
        self.outcome_names = list(design.endog.columns)
        self.group_name = design.group_name
        self.levels = design.levels
        self.common_design = len(design.exog) == self.nobs
        self.missing_y = missing_y
        self.cov_prior, self.fixef_prior, self.resid_prior = cov_prior, fixef_prior, resid_prior
        self.mechanism_prior = mechanism_prior
        self.priors = bind_priors(self, self._prior_term())
        self.spec = ModelSpec(
            self._kind,
            mechanism,
            bool(design.data.block_missing.any()) if missing_y == "auto" else bool(missing_y),
            bool(first_sample_variance),
            self._penalties(),
        )
        if design.design is not None:
            self.formula = design.design.parts.text

    @classmethod
    def from_formula(
        cls,
        formula,
        data,
        subset=None,
        drop_cols=None,
        *,
        outcome=None,
        sample=None,
        missing_cov=None,
        outcome_effects=None,
        missing="raise",
        eval_env=None,
        **kwargs,
    ):
        """Create a model from a formula and a wide or a long frame.

        Parameters
        ----------
        formula : str
            ``"y1 + y2 + y3 ~ x + (1 | batch)"`` on a frame with one row per sample, or
            ``"y ~ x + (1 | batch)"`` with `outcome` and `sample` on a frame with one row per sample and outcome.
        data : DataFrame
        subset : array_like or str, optional
            Rows to use.
        drop_cols : None
            Not available; leave the columns out of the formula.
        outcome, sample : str, optional
            Columns of a long frame that tell the outcome (feature) and the sample (run) of a row.
        missing_cov, outcome_effects : optional
            As in the class.
        missing : {"raise", "drop"}, optional
            What to do with samples that have missing covariates or no cluster; missing outcomes always stay.
        eval_env : int, mapping or EvalEnvironment, optional
            Where expressions look for variables that are not columns; the caller by default.
        **kwargs
            Passed to the class.

        Returns
        -------
        model
            Not fitted; ``.fit()`` fits it.
        """
        refuse_dropped_columns(drop_cols)
        if any(kwargs.pop(name, None) is not None for name in ("weights", "offset")):
            raise OptionError("selection models take no weights and no offset")
        refuse_unknown_model_options(cls, kwargs)
        design = formula_design(
            parse_formula(formula),
            data,
            outcome=outcome,
            sample=sample,
            missing_cov=missing_cov,
            outcome_effects=outcome_effects,
            subset=subset,
            missing=missing,
            namespace=caller_environment(eval_env),
        )
        return cls(None, None, design=design, **kwargs)

    def _handle_data(self, endog, exog, missing, hasconst, **kwargs):
        return self._new_data

    def _get_init_kwds(self):
        data = self.design.data
        labels = np.array(data.labels, dtype=object)
        cov = None if data.cov_miss is None else data.unsort(data.cov_miss)
        return {
            "groups": pd.Series(data.unsort(labels[data.cluster]), name=self.group_name),
            "exog_re": pd.DataFrame(data.unsort(data.Z[:, 0]), columns=list(self.design.effect_names)),
            "missing_cov": cov if cov is None or not data.common_cov else cov[:, 0],
            "mechanism": self.spec.mechanism,
            "missing_y": self.missing_y,
            "first_sample_variance": self.spec.first_sample_variance,
            "cov_prior": self.cov_prior,
            "fixef_prior": self.fixef_prior,
            "resid_prior": self.resid_prior,
            "mechanism_prior": self.mechanism_prior,
        }

    def _fit_zeros(self, keep_index=None, start_params=None, return_auxiliary=False, k_params=None, **fit_kwds):
        """Fit with the fixed effects outside `keep_index` held at zero; the result is that of the smaller model."""
        small = self.__class__(self.endog, self.exog[:, keep_index], **self._get_init_kwds())
        if start_params is not None:
            fit_kwds["start_params"] = np.asarray(start_params)[keep_index]
        constrained = small.fit(**fit_kwds)
        return constrained._results.widened(self, np.arange(self.exog.shape[1])[keep_index], constrained)

    def __repr__(self):
        K = len(self.outcome_names)
        return (
            f"<{type(self).__name__}: {K} outcome{'s' * (K > 1)}, {self.nobs} samples in {self.n_groups} clusters "
            f"of {self.group_name!r}; .fit() fits it>"
        )

    def _check_random(self, design):
        """Refuse random effects that the model does not have."""

    def _prior_term(self):
        return TermShape(self.design.group_name, 1, self.n_groups)

    def _penalties(self):
        out = [] if self.priors is None else [PriorPenalty(self.priors)]
        if self.mechanism_prior is not None:
            out.append(mechanism_penalty(self.mechanism_prior, self.design.data))
        return tuple(out)

    # --- likelihood

    def objective(self):
        """Return the log-likelihood minus the priors' penalties, a callable of the unconstrained vector.

        Returns
        -------
        PenalisedObjective
            ``objective.likelihood`` has ``start``, ``params``, ``theta`` and ``value_and_score``.
        """
        return self.spec.objective(self.design.data)

    def loglike(self, params):
        """Log-likelihood of the unconstrained vector that `objective` takes, or of a `SelectionParams`."""
        likelihood = self.objective().likelihood
        given = isinstance(params, (np.ndarray, list))
        return likelihood.value_and_score(np.asarray(params, float) if given else likelihood.theta(params))[0]

    def predict(self, params, exog=None, which="mean"):
        """Return the marginal mean of the rows of `exog`, by default of the model's (nobs, K)."""
        if which not in ("mean", "linear"):
            raise OptionError(f"which must be 'mean' or 'linear', got {which!r}")
        if exog is not None:
            return np.asarray(exog) @ np.asarray(params)
        return self.design.data.unsort(self.design.data.X @ np.asarray(params))

    def with_endog(self, endog):
        """Return the same model for other outcomes (nobs, K), of any number, without evaluating the design again."""
        frame = endog
        if not isinstance(endog, pd.DataFrame):
            frame = pd.DataFrame(np.asarray(endog).reshape(self.nobs, -1), index=self.design.endog.index)
            if frame.shape[1] == len(self.outcome_names):
                frame = frame.set_axis(self.outcome_names, axis=1)
        design = with_outcomes(self.design, frame)
        out = copy.copy(self)
        out.design = design
        out.data = self.data.with_design(design)
        out.endog, out.exog = out.data.endog, out.data.exog
        out.outcome_names = list(design.endog.columns)
        out.common_design = len(design.exog) == out.nobs
        out.priors = bind_priors(out, out._prior_term())
        out.spec = replace(
            self.spec,
            missing_y=bool(design.data.block_missing.any()) if self.missing_y == "auto" else self.spec.missing_y,
            penalties=out._penalties(),
        )
        return out

    def remove_rows(self):
        """Let go of everything with one entry per sample; part of ``remove_data`` of a result."""
        self.design = self.data.design = replace(self.design, data=None, endog=None, exog=None)

    # --- fit

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

        Returns
        -------
        SelectionResults

        Warns
        -----
        ConvergenceWarning, SingularFitWarning
            If the point reached is not a maximum, or the likelihood has none.
        """
        if cov_type != "information":
            refuse_covariance(cov_type)
        if method not in METHODS:
            raise OptionError(f"method must be one of {METHODS}, got {method!r}")
        self._check_penalty(error_penalty, method)
        start = None if start_params is None else np.asarray(start_params, dtype=float)
        if method == "mvmise":
            outcome = fit_reproduction(self, start, maxiter, tol, cov_type, error_penalty)
        elif error_penalty is not None:
            if method == "em":
                raise OptionError("method='em' has no lasso; use method='ml' with error_penalty")
            penalty = self.select_penalty("ebic") if error_penalty == "auto" else float(error_penalty)
            outcome = fit_with_lasso(self, penalty, maxiter, cov_type)
        else:
            outcome = fit_direct(self, method, start, maxiter, tol, cov_type)
        settings = {
            "optimizer": method,
            "start_params": np.zeros(self.exog.shape[1]) if start is None else start,
            "maxiter": maxiter,
            "tol": tol,
            "error_penalty": error_penalty,
        }
        use_t = method != "mvmise" if use_t is None else use_t
        result = SelectionResults(self, outcome, settings, cov_type=cov_type, use_t=use_t)
        if outcome.warning is not None:
            category, text = outcome.warning
            warn(text, category)
        if disp:
            print(result.message)
        return SelectionResultsWrapper(result)

    def _check_penalty(self, error_penalty, method):
        if error_penalty is not None:
            raise OptionError("error_penalty belongs to model e (ErrorSelectionModel); model b has no error covariance")


@strict_options
class FactorSelectionModel(SelectionModel):
    """mvMISE_b: correlated outcome-specific random intercepts with loadings tau on one shared effect.

    ``y_i = X_i beta + (tau (x) 1) b_i + e_i`` with b ~ N(0, 1) and independent errors. Parameters, attributes and
    errors are those of `SelectionModel`.

    Examples
    --------
    >>> import numpy as np
    >>> from mvmise_sm.models.selection import FactorSelectionModel
    >>> rng = np.random.default_rng(0)
    >>> batch = np.repeat(np.arange(30), 3)
    >>> x = rng.normal(size=90)
    >>> Y = 1 + x[:, None] + rng.normal(size=(30, 1))[batch] + rng.normal(size=(90, 2))
    >>> Y[batch < 5, 0] = np.nan
    >>> FactorSelectionModel(Y, np.column_stack([np.ones(90), x]), batch)
    <FactorSelectionModel: 2 outcomes, 90 samples in 30 clusters of 'group'; .fit() fits it>
    """

    _kind = "b"
    title = "Factor Selection Model (mvMISE_b)"

    def _check_random(self, design):
        if design.effect_names != ("Intercept",):
            raise OptionError(
                f"model b has one random intercept, '(1 | {design.group_name})'; found {list(design.effect_names)}"
            )


@strict_options
class ErrorSelectionModel(SelectionModel):
    """mvMISE_e: random effects common to all outcomes, and errors that are correlated between outcomes.

    ``y_i = X_i beta + Z_i b_i + e_i`` with independent b ~ N(0, D) and e ~ N(0, Sigma (x) S). Parameters, attributes
    and errors are those of `SelectionModel`.

    Examples
    --------
    >>> import numpy as np
    >>> from mvmise_sm.models.selection import ErrorSelectionModel
    >>> rng = np.random.default_rng(0)
    >>> batch = np.repeat(np.arange(30), 3)
    >>> Y = rng.normal(size=(30, 1))[batch] + rng.normal(size=(90, 2))
    >>> result = ErrorSelectionModel(Y, np.ones(90), batch).fit()
    >>> result.error_cov.shape
    (2, 2)
    """

    _kind = "e"
    title = "Error Selection Model (mvMISE_e)"

    def _prior_term(self):
        q = len(self.design.effect_names)
        return TermShape(self.design.group_name, q, self.n_groups, independent=q > 1)

    def _check_penalty(self, error_penalty, method):
        K = len(self.outcome_names)
        if error_penalty is None:
            if K > 1 and self.nobs <= K and method != "mvmise":
                raise DataError(
                    f"{K} outcomes and {self.nobs} samples: the error covariance is not identified; "
                    "use error_penalty, for example 'auto'"
                )
        elif isinstance(error_penalty, str):
            if error_penalty != "auto":
                raise OptionError(f"error_penalty must be a number, 'auto' or None, got {error_penalty!r}")
        elif not (np.isfinite(error_penalty) and error_penalty >= 0):
            raise OptionError(f"error_penalty must not be negative, got {error_penalty!r}")
        elif K == 1 and error_penalty > 0:
            raise OptionError("error_penalty needs several outcomes; with one there is nothing to shrink")

    def select_penalty(self, criterion="ebic", *, n_penalties=15, ratio=0.02):
        """Choose the lasso penalty along a path of warm-started fits.

        Parameters
        ----------
        criterion : {"aic", "bic", "ebic"}, optional
        n_penalties : int, optional
            Length of the path.
        ratio : float, optional
            Its smallest penalty relative to the largest, at which the precision is diagonal.

        Returns
        -------
        PenaltyChoice
            The penalty, a float; its attribute ``path`` is the table of all fits.
        """
        if criterion not in ("aic", "bic", "ebic"):
            raise OptionError(f"criterion must be 'aic', 'bic' or 'ebic', got {criterion!r}")
        K = len(self.outcome_names)
        if K == 1:
            raise OptionError("error_penalty needs several outcomes; with one there is nothing to shrink")
        data, spec = self.design.data, self.spec
        fits = penalty_path(
            lambda coordinates: spec.likelihood(data, coordinates),
            K,
            n_penalties=n_penalties,
            ratio=ratio,
            penalties=spec.penalties,
            information=False,
        )
        return PenaltyChoice.from_path(fits, criterion)
