"""The linear mixed model whose missing responses are part of the likelihood."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np
import pandas as pd

from mvmise_sm.caller import warn
from mvmise_sm.core.threads import blas_threads
from mvmise_sm.exceptions import ConvergenceWarning, DataError, IdentificationWarning, OptionError, SingularFitWarning
from mvmise_sm.models.base import PRIORS, MixedModelBase
from mvmise_sm.models.mechanism_options import Mechanisms, read_mechanism
from mvmise_sm.models.value_checks import (
    check_response_columns,
    check_scale,
    check_values,
    identified,
    with_absent_samples,
)
from mvmise_sm.options import strict_options
from mvmise_sm.results.value_selection import ValueSelectionResults, ValueSelectionResultsWrapper
from mvmise_sm.selection.objective import Penalty
from mvmise_sm.selection.priors import PriorPenalty
from mvmise_sm.selection.status import Status
from mvmise_sm.selection.value import ValueFit, ValueProblem

__all__ = ["ValueSelectionModel"]

COV_TYPES = ("nonrobust", "information", "conditional")
NOT_IDENTIFIED = (
    "this feature alone does not identify the mechanism; estimate it over all features with ms.detection_curve"
)


@strict_options
class ValueSelectionModel(MixedModelBase):
    """Linear mixed model whose missing responses are part of the likelihood, with a mechanism of single values.

    ``y = X beta + Z b + e`` as in `LinearMixedModel`, and ``Pr(value j is missing | y) = F(eta_j)``,
    ``eta_j = phi0 + phi1 y_j + phi2 c_j + o_j``. phi describes being MISSING: ``phi1 < 0`` where low values go.

    Parameters
    ----------
    endog : array_like
        Response (nobs,), NaN where missing.
    exog : array_like
        Fixed-effects design (nobs, k_fe); a constant is not added.
    random_effects, groups, exog_re, offset, missing, hasconst, cov_prior, fixef_prior, resid_prior
        As in `LinearMixedModel`; rows with a missing response stay.
    mechanism : {"logit", "probit"}, Mechanism or DetectionCurve, optional
        F. Numbers of an instance are held, ``mechanisms.Logit(Intercept=21.0, y=-1.2)``; a curve is held as a whole.
    missing_y : bool, optional
        Whether missingness depends on the value; without it this is `LinearMixedModel` plus a constant missing rate.
    missing_cov : str or array_like, optional
        Covariate of the mechanism.
    mechanism_offset : str or array_like, optional
        Known part of eta, for example the depth of a run.
    mechanism_prior : {None, "weak"}, float, prior, dict or DetectionCurve, optional
        Prior of the mechanism: of the slope in units of one over the spread of the values (see
        `FactorSelectionModel`), by name ``{"Intercept": Normal(...), "y": StudentT(...)}``, or a curve's
        ``N(params, cov)``.
    theta : "curve", float or None, optional
        lme4's relative standard deviation of one scalar random term: that of the curve, where a curve has one, a number
        to be held, or None to estimate it.

    Attributes
    ----------
    slot : Slot
        The mechanism with what is held.
    n_missing : int
        Missing responses.

    Raises
    ------
    DataError
        If y has infinite values or there are not more seen values than fixed effects.
    OptionError
        If the mechanism is unknown or `weights` are given.
    """

    title = "Linear Mixed Model with Missing Values"
    models_missing = True
    residual_structure = None
    _design_options: ClassVar[dict] = {"keep_missing_endog": True}

    def __init__(
        self,
        endog,
        exog,
        random_effects=None,
        *,
        mechanism="logit",
        missing_y=True,
        missing_cov=None,
        mechanism_offset=None,
        mechanism_prior=None,
        theta="curve",
        weights=None,
        **kwargs,
    ):
        if weights is not None:
            raise OptionError("lmer_mnar takes no weights")
        _check_flag("missing_y", missing_y)
        self._given = Mechanisms(mechanism, bool(missing_y), missing_cov, mechanism_offset, mechanism_prior, theta)
        values = _responses(endog)
        # everything else checks complete responses; the missing ones come back below
        filled = values.where(values.notna(), 0.0) if isinstance(values, pd.Series) else np.nan_to_num(values)
        design = kwargs.get("design")
        if design is not None:
            design = kwargs["design"] = replace(design, endog=filled)
            random_effects = design.random
        else:
            kwargs["missing"] = "raise"
        super().__init__(filled, exog, random_effects, **kwargs)
        self._set_response(np.asarray(values, dtype=float))
        frame = None if design is None else design.frame
        self.mechanism = read_mechanism(self._given, frame, self.nobs, self.random_effects)
        self._init_keys += ["mechanism", "missing_y", "missing_cov", "mechanism_offset", "mechanism_prior", "theta"]

    def _kept_options(self):
        given = vars(self._given)
        own = {key: getattr(self, key) for key in self._init_keys if key not in given}
        return {key: own[key] for key in own if key not in ("random_effects", "weights", "offset")} | given

    @property
    def attracted(self):
        """Whether a standard deviation of 0 is a mode whatever the data, as under an exponential prior."""
        return self.priors is not None and any(prior is not None and prior.attracts for prior in self.priors.cov)

    @classmethod
    def from_formula(
        cls, formula, data, subset=None, drop_cols=None, *, weights=None, samples=None, sample=None, **kwargs
    ):
        """Create a model from a formula and a frame.

        Parameters
        ----------
        formula : str
            For example ``"y ~ x + (1 | g)"``.
        data : DataFrame
            One row per value, NaN where it is missing.
        subset, drop_cols
            As in `LinearMixedModel`.
        weights : None
            Not available.
        samples : DataFrame, optional
            One row per sample with the covariates; samples without a row in `data` are missing values.
        sample : str, optional
            Column of both frames that tells the sample of a row.
        **kwargs
            As in the class and in `LinearMixedModel.from_formula`.

        Returns
        -------
        model
            Not fitted; ``.fit()`` fits it.
        """
        if weights is not None:
            raise OptionError("lmer_mnar takes no weights")
        if samples is not None or sample is not None:
            data = with_absent_samples(data, samples, sample)
        check_response_columns(formula, data)
        return super().from_formula(formula, data, subset, drop_cols, **kwargs)

    def _set_response(self, y):
        self.endog = self.data.endog = y
        if isinstance(self.data.orig_endog, pd.Series):
            self.data.orig_endog = pd.Series(y, self.data.orig_endog.index, name=self.data.orig_endog.name)

    def _get_init_kwds(self):
        keys = ("random_effects", "offset", *PRIORS)
        return {**{key: getattr(self, key) for key in keys}, **self._given.held_arrays(self.mechanism)}

    @property
    def slot(self):
        """The mechanism with what is held."""
        return self.mechanism.slot

    @property
    def n_missing(self):
        """Number of missing responses."""
        return int(np.isnan(self.endog).sum())

    def inverse_link(self, linear):
        """Mean at a linear predictor (m,): the same."""
        return linear

    def with_endog(self, endog):
        """Return the same model for another response (nobs,), NaN where missing; the design is shared."""
        out = super().with_endog(np.asarray(endog, dtype=float))
        if out.endog.shape != (self.nobs,):
            raise DataError(f"the new response must have {self.nobs} values, found shape {out.endog.shape}")
        return out

    def refit(self, endog, result):
        """Fit the model to another response with the options of a result."""
        settings = {key: result.mle_settings[key] for key in ("reml", "nagq", "maxiter", "tol")}
        return self.with_endog(endog).fit(**settings, cov_type=result.cov_type, use_t=result.use_t)

    def problem(self, nagq="auto"):
        """The likelihood of the model's data.

        Parameters
        ----------
        nagq : {"auto", 1} or int, optional
            Exact integration with one scalar random term unless 1, which is Laplace's approximation.

        Returns
        -------
        ValueProblem
        """
        exact = _is_exact(nagq, self.random_effects)
        own = [] if self.priors is None else [PriorPenalty(self.priors)]
        penalties: tuple[Penalty, ...] = (*own, *self.mechanism.penalties(self.endog))
        if penalties and not exact:
            raise OptionError("priors of lmer_mnar need one scalar random term and exact integration")
        return ValueProblem(
            self.endog,
            np.asarray(self.exog, dtype=float),
            self.random_effects,
            self.mechanism.slot,
            offset=self.offset,
            mechanism_offset=self.mechanism.offset,
            covariate=self.mechanism.covariate,
            penalties=penalties,
            exact=exact,
            ratio=self.mechanism.ratio if exact else None,
            attracted=self.attracted,
        )

    def loglike_at(self, point, nagq="auto"):
        """Log-likelihood at a point, every constant included.

        Parameters
        ----------
        point : dict
            ``params`` (by name), ``sigma2``, ``phi`` (by name), and ``theta`` (lme4's), or ``sd`` or ``tau`` by name.
        nagq : {"auto", 1} or int, optional
            As in `fit`.

        Returns
        -------
        float
        """
        beta = np.array([float(point["params"][name]) for name in self.exog_names])
        sigma2 = float(point["sigma2"])
        if "theta" in point:
            theta = np.atleast_1d(np.asarray(point["theta"], dtype=float))
        else:
            theta = np.array([float(v) for v in point.get("sd", point.get("tau")).values()]) / np.sqrt(sigma2)
        phi = np.zeros(3)
        for name, value in point.get("phi", {}).items():
            phi[self.mechanism.names.index(name)] = float(value)
        return self.problem(nagq).loglike(beta, theta, sigma2, phi)

    def fit(
        self,
        start_params=None,
        reml=True,
        method="newton",
        maxiter=None,
        disp=False,
        cov_type="nonrobust",
        use_t=False,
        *,
        nagq="auto",
        tol=None,
    ):
        """Fit by restricted or by maximum likelihood; the model is left as it was.

        Parameters
        ----------
        start_params : array_like, optional
            Accepted for compatibility: the fixed effects are profiled out and need no start.
        reml : bool, optional
            The restricted likelihood ``l(beta^, t) - 1/2 log|I_bb| + p/2 log 2 pi``, or the likelihood.
        method : {"newton"}, optional
            Quasi-Newton steps, finished by Newton's.
        maxiter : int, optional
            Largest number of iterations (200).
        disp : bool, optional
            Whether to print how the maximisation ended.
        cov_type : {"nonrobust", "information", "conditional"}, optional
            Covariance of the fixed effects: ``I_bb^-1 + B A^-1 B'`` after REML and the inverse observed information
            after ML; the latter; or ``I_bb^-1``, which takes variances and mechanism as known.
        use_t : bool, optional
            Whether Wald tests use Student's t with the seen values less k_fe degrees of freedom.
        nagq : {"auto", 1} or int, optional
            ``"auto"`` integrates exactly over one scalar random term and by Laplace's method over others, 1 always by
            the latter.
        tol : float, optional
            Expected gain at which Newton steps take over.

        Returns
        -------
        ValueSelectionResults

        Warns
        -----
        IdentificationWarning
            If the mechanism is not identified, or a mean has no finite estimate.
        ConvergenceWarning, SingularFitWarning
        """
        _check_options(cov_type, method, reml, maxiter)
        check_values(self)
        check_scale(self)
        problem = self.problem(nagq)
        settings = {"optimizer": method, "start_params": start_params, "maxiter": maxiter, "tol": tol}
        settings |= {"reml": bool(reml), "nagq": nagq, "cov_type": cov_type}
        infinite = identified(self, problem)
        with blas_threads(0):
            if infinite is None:
                fit = problem.fit(reml=bool(reml), maxiter=maxiter, tol=tol)
            else:
                fit = infinite.fit(problem, reml=bool(reml), maxiter=maxiter, tol=tol)
                problem = infinite.reduced(problem)
        result = ValueSelectionResults(self, problem, fit, infinite, settings, cov_type=cov_type, use_t=use_t)
        for category, text in self._warnings(fit, infinite, result):
            warn(text, category)
        if disp:
            print(result.message)
        return ValueSelectionResultsWrapper(result)

    def _warnings(self, fit: ValueFit, infinite, result):
        if infinite is not None:
            yield IdentificationWarning, infinite.sentence
        if fit.status in (Status.THRESHOLD, Status.NOT_DEFINITE, Status.LINE_SEARCH) and fit.free.size:
            yield IdentificationWarning, NOT_IDENTIFIED
        elif not fit.converged:
            yield ConvergenceWarning, f"the fit has not converged: {result.message}"
        if result.singular:
            yield SingularFitWarning, "singular fit: the estimated covariance of some random effects is on the boundary"


def _responses(endog):
    """The response as floats with NaN for missing values; a Series keeps its labels."""
    if isinstance(endog, pd.DataFrame) and endog.shape[1] == 1:
        endog = endog.iloc[:, 0]
    name = getattr(endog, "name", None) or "y"
    try:
        values = (
            pd.Series(endog.to_numpy(dtype=float, na_value=np.nan), endog.index, name=endog.name)
            if isinstance(endog, pd.Series)
            else np.asarray(endog, dtype=float)
        )
    except (TypeError, ValueError):
        raise DataError(f"the response {name!r} must be numeric") from None
    flat = np.asarray(values)
    if flat.ndim == 2 and flat.shape[1] == 1:
        values = flat = flat[:, 0]
    if flat.ndim != 1:
        raise DataError(f"the response must be one column, found shape {flat.shape}")
    if np.isneginf(flat).any():
        raise DataError(f"{name} has -inf; write missing values as NaN")
    if np.isinf(flat).any():
        raise DataError(f"{name} has infinite values; write missing values as NaN")
    return values


def _check_flag(name, value):
    """Refuse what is neither True nor False."""
    if not isinstance(value, (bool, np.bool_)):
        raise OptionError(f"{name} must be True or False, got {value!r}")


def _check_options(cov_type, method, reml, maxiter):
    """Refuse values that the options of `ValueSelectionModel.fit` do not have."""
    if cov_type not in COV_TYPES:
        raise OptionError(f"cov_type must be one of {COV_TYPES}, got {cov_type!r}")
    if method != "newton":
        raise OptionError(f"method must be 'newton', got {method!r}")
    if not isinstance(reml, (bool, np.bool_, int)):
        raise OptionError(f"reml must be True or False, got {reml!r}")
    if maxiter is not None and (isinstance(maxiter, bool) or maxiter != int(maxiter) or maxiter < 1):
        raise OptionError(f"maxiter must be a positive integer, got {maxiter!r}")


def _is_exact(nagq, random):
    """Whether the integral is exact, as one scalar random term allows; values that `nagq` does not have are refused."""
    scalar = random.k_theta == 1 and len(random.terms) == 1 and random.terms[0].q == 1
    if nagq != "auto" and (isinstance(nagq, bool) or not isinstance(nagq, (int, np.integer)) or nagq < 1):
        raise OptionError(f"nagq must be 'auto' or a positive integer, got {nagq!r}")
    if nagq != "auto" and nagq > 1 and not scalar:
        raise OptionError("nagq above 1 needs one scalar random term; use nagq='auto' or 1 (Laplace)")
    return scalar and nagq != 1
