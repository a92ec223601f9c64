"""The linear mixed model."""

from __future__ import annotations

import numpy as np

from mvmise_sm.caller import warn
from mvmise_sm.core.covariance.random_effects import RandomEffects
from mvmise_sm.core.covariance.residual import ResidualTerm
from mvmise_sm.core.criteria.linear import ProfiledDeviance
from mvmise_sm.core.criteria.marginal import MarginalDeviance, moment_cells
from mvmise_sm.core.criteria.whitened import WhitenedDeviance
from mvmise_sm.core.elimination.choose import LogDeterminant
from mvmise_sm.core.optimise.newton import minimize
from mvmise_sm.core.optimise.second_start import with_second_start
from mvmise_sm.core.threads import blas_threads
from mvmise_sm.design.build import caller_environment
from mvmise_sm.design.residual import check_nesting, warn_unseen
from mvmise_sm.exceptions import ConvergenceWarning, DataError, IdentificationWarning, OptionError, SingularFitWarning
from mvmise_sm.formula.residual import parse_residual
from mvmise_sm.models.base import MixedModelBase
from mvmise_sm.models.identification import told_apart, undetermined
from mvmise_sm.models.linear_checks import check_design, check_response, check_solution, computing
from mvmise_sm.models.log_determinant import OPTIONS, estimated_minimum, log_determinant, start_near, uncertain
from mvmise_sm.models.nearly_perfect import can_keep_residuals, is_nearly_perfect, keep_residuals
from mvmise_sm.models.rows import complete_response
from mvmise_sm.models.starts import checked_params, checked_theta
from mvmise_sm.options import optimiser_options, refuse_unknown, shown_options, strict_options
from mvmise_sm.results.linear import (
    LinearMixedModelResults,
    LinearMixedModelResultsWrapper,
)

__all__ = ["SINGULAR", "LinearMixedModel"]

# standard deviations are told apart from the residuals' up to ratios of 1e8
_LARGEST_START = 1e10


@shown_options
@strict_options
class LinearMixedModel(MixedModelBase):
    """Linear mixed model: y = X beta + Z b + e with b ~ N(0, sigma^2 Sigma), e ~ N(0, sigma^2 / weights).

    Parameters
    ----------
    endog : array_like
        Response (nobs,).
    exog : array_like
        Fixed-effects design (nobs, k_fe); a constant is not added.
    random_effects : array_like, dict or RandomEffects
        Group labels (nobs,) for a random intercept, a dict from the name of a grouping factor to labels or to a pair
        (labels, exog_re), or a `RandomEffects`.
    residual : str or ResidualTerm, optional
        Structure of the residuals of a subject: with a formula a text such as ``"us(visit | id)"`` or
        ``"ar1h(visit | arm/id)"``, see the guide on repeated measures.
    **kwargs
        ``groups``, ``exog_re``, ``weights``, ``offset``, ``missing``, ``hasconst``, ``cov_prior``, ``sd_prior``,
        ``cor_prior``, ``fixef_prior`` and
        ``resid_prior`` as in `MixedModelBase`.

    References
    ----------
    Bates, Maechler, Bolker and Walker (2015). Fitting linear mixed-effects models using lme4. Journal of Statistical
    Software 67(1).

    Examples
    --------
    >>> import numpy as np
    >>> from mvmise_sm.models.linear import LinearMixedModel
    >>> rng = np.random.default_rng(0)
    >>> group = np.repeat(np.arange(20), 5)
    >>> x = rng.normal(size=100)
    >>> y = 1 + 2 * x + rng.normal(size=20)[group] + rng.normal(size=100)
    >>> result = LinearMixedModel(y, np.column_stack([np.ones(100), x]), group).fit()
    >>> result.n_groups
    {'group': 20}
    """

    title = "Linear Mixed Model"

    def __init__(self, endog, exog, random_effects=None, *, residual=None, design=None, **kwargs):
        if design is not None:
            kwargs["design"], residual = design, design.residual
        self.residual = _checked_residual(residual)
        if self.residual is not None and random_effects is None and kwargs.get("groups") is None:
            random_effects = RandomEffects([], self.residual.rows.nobs)
        super().__init__(endog, exog, random_effects, **kwargs)
        if self.residual is not None and self.residual.rows.nobs != self.nobs:
            raise DataError(f"the residual structure has {self.residual.rows.nobs} rows and the model {self.nobs}")
        self._init_keys.append("residual")
        self._data_attr.append("residual")
        # the structure without rows, which results report from
        self.residual_structure = None if self.residual is None else self.residual.structure
        self.residual_text = "" if self.residual is None else self.residual.text
        if self.residual is not None:
            check_nesting(self.residual, self.random_effects.factors)
            warn_unseen(self.residual)

    @classmethod
    def from_formula(
        cls,
        formula,
        data,
        subset=None,
        drop_cols=None,
        *,
        weights=None,
        offset=None,
        missing="drop",
        groups=None,
        re_formula=None,
        eval_env=None,
        dispersion=None,
        **kwargs,
    ):
        """Create a model from a formula and a frame; parameters as in `MixedModelBase.from_formula`, and

        Parameters
        ----------
        dispersion : str, optional
            One-sided formula of the logarithm of the residual standard deviation, for example ``"~ sex"``; it gives a
            `LinearDispersionModel`.
        """
        environment = caller_environment(eval_env)
        options = {"weights": weights, "offset": offset, "missing": missing, "groups": groups, "re_formula": re_formula}
        if dispersion is None:
            return super().from_formula(formula, data, subset, drop_cols, eval_env=environment, **options, **kwargs)
        from mvmise_sm.models.dispersion import LinearDispersionModel

        if kwargs.pop("residual", None) is not None:
            raise OptionError(
                "residual and dispersion exclude each other: a residual structure has variances of its own"
            )
        return LinearDispersionModel.from_formula(
            formula, data, subset, drop_cols, dispersion=dispersion, eval_env=environment, **options, **kwargs
        )

    @classmethod
    def _structure_options(cls, options):
        return {"residual": parse_residual(options.pop("residual", None)), "cov": options.pop("cov", None)}

    def _check_data(self):
        super()._check_data()
        if self._residual_is_free():
            check_design(self)

    def _check_response(self):
        """Refuse a response from which nothing can be estimated."""
        if self._residual_is_free():
            check_response(self.endog, self.offset, self.endog_names)

    def _check_solution(self, solution):
        """Refuse a fit without residual variation."""
        check_solution(self, solution)

    def residual_levels(self):
        """As in `MixedModelBase`."""
        return None if self.residual is None else (self.residual.rows.codes, self.residual.rows.groups)

    def inverse_link(self, linear):
        """Mean at a linear predictor (m,): the same."""
        return linear

    def criterion(self, reml=True, logdet=None):
        """Return what `fit` minimises.

        Parameters
        ----------
        reml : bool, optional
            The REML criterion, or -2 log L.
        logdet : LogDeterminant, optional
            How the log-determinant of many crossed effects is found; as ``fit`` does by default.

        Returns
        -------
        ProfiledDeviance, MarginalDeviance or WhitenedDeviance
            A callable of theta with ``gradient`` and ``solve``; with ``residual=`` the parameters of the residuals
            follow those of the random effects.
        """
        rows = self.endog, np.asarray(self.exog, dtype=float), self.random_effects
        options = {"priors": self.priors, "reml": reml, "weights": self.weights, "offset": self.offset}
        if self.residual is None:
            return ProfiledDeviance(*rows, **options, logdet=logdet or LogDeterminant())
        if logdet is not None and logdet.method == "stochastic":
            raise OptionError("logdet='stochastic' is for independent residuals; leave it out with residual=")
        moments = not self.random_effects.terms and moment_cells(self.residual, rows[1].shape[1]) <= _MOMENT_CELLS
        return (MarginalDeviance if moments else WhitenedDeviance)(*rows, self.residual, **options)

    def on_rows(self, endog, rows, weights=None):
        """As in `MixedModelBase`, the residual structure on the same rows."""
        kept = None if self.residual is None else self.residual.on_rows(np.arange(self.nobs)[rows])
        return self._on_rows(endog, rows, weights, residual=kept)

    def fit(
        self,
        start_params=None,
        reml=True,
        method="newton",
        maxiter=100,
        disp=False,
        cov_type="nonrobust",
        use_t=False,
        *,
        cov_kwds=None,
        start_theta=None,
        logdet="auto",
        rng=0,
        probes=50,
        **options,
    ):
        """Fit by REML or maximum likelihood.

        Parameters
        ----------
        start_params : array_like, optional
            Accepted for compatibility: the fixed effects are profiled out and need no start.
        reml : bool, optional
            REML, or maximum likelihood.
        method : str, optional
            ``"newton"``, or an optimiser of statsmodels or scipy.
        maxiter : int, optional
            Largest number of iterations.
        disp : bool, optional
            Whether to print how the optimiser ended.
        cov_type : {"nonrobust", "CR0", "CR1", "CR1p", "CR1S", "CR2", "CR3", "cluster"}, optional
            Covariance of the fixed effects: the model's, or robust by cluster, see
            `LinearMixedModelResults.get_robustcov_results`.
        use_t : bool, optional
            Whether Wald tests use Student's t with nobs - k_fe degrees of freedom.
        cov_kwds : dict, optional
            With a robust `cov_type`: ``groups`` (by default the subjects of ``residual=``, or the coarsest factor that
            they lie in), ``use_correction`` for ``"cluster"``, and ``type`` (``"CR0"`` ... ``"CR3"``), which takes the
            place of `cov_type`.
        start_theta : array_like, optional
            Start of theta (k_theta,), with ``residual=`` followed by the parameters of its structure as in a result's
            ``theta``; a moment estimate by default.
        logdet : {"auto", "exact", "stochastic"}, optional
            How the log-determinant of crossed factors is found: by a factorisation; by conjugate gradients along random
            probes, with an error bar (`LinearMixedModelResults.criterion_error`); or by probes where no factorisation
            is affordable.
        rng : int, numpy.random.Generator or numpy.random.RandomState, optional
            Source of the probes; equal integers give equal fits.
        probes : int, optional
            Number of probes to begin with; they are doubled, to 400 at most, while errors are not small.
        **options
            Passed to the optimiser.

        Returns
        -------
        LinearMixedModelResults
            The model is left as it was.

        Raises
        ------
        NotAvailableError
            For an unknown `cov_type`.
        UnknownOptionError
            For an option that neither ``fit`` nor the optimiser has.
        DataError
            If the response is constant, out of range, or reproduced exactly, so that there is no residual variance.
        ProblemTooLargeError
            If crossed factors are too many for `logdet`.
        """
        found = log_determinant(logdet, probes, rng)
        robust = _robust_options(cov_type, cov_kwds, self.residual is not None and bool(self.residual.subject))
        if not isinstance(reml, (bool, np.bool_, int)):
            raise OptionError(f"reml must be True or False, got {reml!r}")
        if isinstance(maxiter, bool) or not isinstance(maxiter, (int, np.integer)) or maxiter < 0:
            raise OptionError(f"maxiter must be an integer that is not negative, got {maxiter!r}")
        options = optimiser_options(type(self), method, options)
        params = checked_params(start_params, self.exog.shape[1])
        settings = {
            "optimizer": method,
            "start_params": np.zeros(self.exog.shape[1]) if params is None else params,
            "start_theta": start_theta,
            "maxiter": maxiter,
            "reml": bool(reml),
            "logdet": found.method,
            "probes": found.probes,
            "rng": found.seed,
            **options,
        }
        self._check_response()
        with blas_threads(0):
            criterion = self.criterion(bool(reml), found)
        count = self.random_layout.k_theta + (0 if self.residual is None else self.residual.structure.k_phi)
        theta = checked_theta(start_theta, count, _LARGEST_START)
        start = None if theta is None else criterion.working_theta(theta)
        with blas_threads(_dense_size(criterion)), computing(self):
            try:
                criterion, optimum = _found(criterion, start, settings)
                solution = criterion.solve(optimum.theta)
            except (np.linalg.LinAlgError, ZeroDivisionError):
                if not can_keep_residuals(self):
                    raise
                optimum = solution = None
            result = self._report(criterion, optimum, settings, use_t, solution)
        if disp:
            print(result.message)
        return result if robust is None else result.get_robustcov_results(**robust)

    def refit(self, endog, result):
        """Fit a result's model to another response, starting at that result; see `LinearMixedModelResults.refit`."""
        y = complete_response(endog, self.nobs)
        criterion, settings = result.deviance_function(), result.mle_settings
        if self._residual_is_free():
            check_response(y, self.offset, self.endog_names)
        with blas_threads(_dense_size(criterion)), computing(self):
            criterion = criterion.refitted(y)
            if criterion.probes is not None:
                criterion, optimum = estimated_minimum(criterion, result.optimum, settings)
                return self.with_endog(y)._report(criterion, optimum, settings, result.use_t)
            optimum = with_second_start(criterion, result.optimum, lambda start: _minimum(criterion, start, settings))
            return self.with_endog(y)._report(criterion, optimum, settings, result.use_t)

    def _report(self, criterion, optimum, settings, use_t, solution=None):
        """Solve at the optimum, warn where the user must know, and wrap; called by what the user called."""
        optimum, redundant = told_apart(self, criterion, optimum)
        if redundant is not None:
            solution = None
        if solution is None and optimum is not None:
            solution = criterion.solve(optimum.theta)
        close = can_keep_residuals(self) and (solution is None or is_nearly_perfect(self, solution))
        kept = keep_residuals(self, settings) if close else None
        solution, optimum = (solution, optimum) if kept is None else kept
        if solution is None:
            raise np.linalg.LinAlgError("no solution")
        if kept is None:
            self._check_solution(solution)
            if close:
                raise np.linalg.LinAlgError("the residuals are rounding")
        _say(optimum, [] if redundant is None else [self.random_effects.terms[t].text for t in redundant.terms])
        result = LinearMixedModelResults(self, solution, optimum, settings, use_t=use_t)
        result.keep(criterion)
        result.nearly_perfect = kept is not None
        result.undetermined = undetermined(self, optimum, redundant)
        return LinearMixedModelResultsWrapper(result)


def _say(optimum, redundant):
    """Warn of what the user of a fit must know; `redundant` are random effects that the residuals repeat, as texts."""
    if not optimum.converged:
        warn(f"the fit has not converged: {optimum.message}", ConvergenceWarning)
    doubt = uncertain(optimum)
    if doubt is not None:
        warn(doubt, ConvergenceWarning)
    if optimum.singular:
        warn(SINGULAR, SingularFitWarning)
    for text in redundant:
        both = f"The residual structure and {text} describe the same covariance"
        warn(f"{both}; only their sum is estimated.", IdentificationWarning)


def _checked_residual(residual):
    """A residual structure with its rows, or None."""
    if residual is None or isinstance(residual, ResidualTerm):
        return residual
    raise OptionError(
        "residual= as a text needs a formula, as in lmer(formula, data, residual='us(visit | id)'); arrays take a "
        "ResidualTerm"
    )


_NOT_OPTIONS = frozenset(("optimizer", "start_params", "start_theta", "maxiter", "reml", *OPTIONS))
# elements of the second moments by pattern, 200 MB
_MOMENT_CELLS = 25_000_000
SINGULAR = "singular fit: the estimated covariance matrix of some random effects is on the boundary"


def _robust_options(cov_type, cov_kwds, subjects):
    """Arguments of ``get_robustcov_results``, None for the model's own covariance; `subjects` of a residual structure
    are clusters by default.
    """
    if cov_type == "nonrobust":
        if cov_kwds:
            raise OptionError(f"cov_kwds goes with a robust cov_type such as 'CR2'; found {sorted(cov_kwds)}")
        return None
    from mvmise_sm.inference.robust import checked_cov_type

    refuse_unknown("cov_kwds", cov_kwds or (), ("groups", "use_correction", "type"))
    options = dict(cov_kwds or {})
    kind = options.pop("type", None)
    cov_type = cov_type if kind is None else kind
    checked_cov_type(cov_type)
    if options.get("groups") is None and not subjects:
        example = f"fit(cov_type={cov_type!r}, cov_kwds={{'groups': ...}})"
        raise OptionError(f"cov_type {cov_type!r} needs groups=, the column or labels of the clusters: {example}")
    return {"cov_type": cov_type, **options}


def _dense_size(criterion):
    """Random effects that remain in a dense block once the largest factor and what it nests in are eliminated."""
    layout = criterion.layout
    return sum(layout.factors[k].size for k in layout.remainder)


def _found(criterion, start, settings):
    """The criterion that is reported, and its minimum from a working start, None for one of its own."""
    if criterion.probes is not None:
        return estimated_minimum(criterion, start, settings)
    start = start_near(criterion, settings) if start is None else start
    return criterion, _minimum(criterion, start, settings)


def _minimum(criterion, start, settings):
    """Minimise from a working start, None for the moment estimate; `settings` as ``mle_settings``."""
    options = {key: value for key, value in settings.items() if key not in _NOT_OPTIONS}
    return minimize(criterion, start, method=settings["optimizer"], maxiter=settings["maxiter"], **options)
