"""The generalised linear mixed model."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import ClassVar

import numpy as np

from mvmise_sm.caller import warn
from mvmise_sm.core.criteria.joint_mode import JointDeviance
from mvmise_sm.core.criteria.laplace import LaplaceDeviance
from mvmise_sm.core.criteria.lme4_dispersion import ClassicDispersion
from mvmise_sm.core.criteria.quadrature import QuadratureDeviance
from mvmise_sm.core.families.response import make_response
from mvmise_sm.core.optimise.second_start import with_second_start
from mvmise_sm.core.threads import blas_threads
from mvmise_sm.design.build import caller_environment
from mvmise_sm.exceptions import (
    ConvergenceWarning,
    NotAvailableError,
    OptionError,
    SeparationWarning,
    SingularFitWarning,
)
from mvmise_sm.models.base import MixedModelBase
from mvmise_sm.models.families import needs_parts, resolve_family
from mvmise_sm.models.identification import undetermined
from mvmise_sm.models.link_edges import at_highest_mode, at_the_edge, minimum
from mvmise_sm.models.overdispersion import dispersion_prior_of, without_dispersion
from mvmise_sm.models.response_checks import as_proportions, check_response, proportion_design
from mvmise_sm.models.rows import complete_response
from mvmise_sm.models.separation import infinite_effects, runaway, with_saddle
from mvmise_sm.models.starts import checked_params, checked_theta, fitted_from, has_modes, lowest_mode
from mvmise_sm.options import optimiser_options, shown_options, strict_options
from mvmise_sm.results.generalized import GeneralizedLinearMixedModelResults, GeneralizedLinearMixedModelResultsWrapper

__all__ = ["GeneralizedLinearMixedModel", "check_integration", "fit_arguments"]

_MAX_NODES = 100

# of Newton steps per start
_ITERATIONS = 100
# far above any standard deviation of a linear predictor; from larger ones the likelihood is flat and has no way back
_LARGEST_START = 1e6


@shown_options
@strict_options
class GeneralizedLinearMixedModel(MixedModelBase):
    """Generalised linear mixed model: g(E y) = X beta + Z b with b ~ N(0, scale Sigma) and y of an exponential family.

    Parameters
    ----------
    endog : array_like
        Response (nobs,): counts, proportions with the numbers of trials as `weights`, zeros and ones; or (nobs, 2)
        successes and failures for the binomial family.
    exog : array_like
        Fixed-effects design (nobs, k_fe); a constant is not added.
    random_effects : array_like, dict or RandomEffects
        Group labels (nobs,) for a random intercept, a dict from the name of a grouping factor to labels or to a pair
        (labels, exog_re), or a `RandomEffects`.
    family : statsmodels family, class or str
        ``sm.families.Binomial()``, ``Poisson``, ``Gamma``, ``InverseGaussian``, ``Gaussian``, ``NegativeBinomial``
        (with its own alpha), or a name such as ``"poisson"`` or ``"binomial(probit)"``; the name ``"negativebinomial"``
        has alpha estimated.
    **kwargs
        ``groups``, ``exog_re``, ``weights``, ``offset``, ``missing``, ``hasconst``, ``cov_prior``, ``sd_prior``,
        ``cor_prior``, ``fixef_prior`` and ``dispersion_prior`` as in `MixedModelBase`.

    Attributes
    ----------
    family : statsmodels family

    Raises
    ------
    DataError
        If a response is outside the family's range.

    References
    ----------
    Bates, Maechler, Bolker and Walker (2015). Fitting linear mixed-effects models using lme4. Journal of Statistical
    Software 67(1). Pinheiro and Chao (2006). Efficient Laplacian and adaptive Gaussian quadrature algorithms for
    multilevel generalized linear mixed models. Journal of Computational and Graphical Statistics 15(1).

    Examples
    --------
    >>> import numpy as np
    >>> from mvmise_sm.models.generalized import GeneralizedLinearMixedModel
    >>> rng = np.random.default_rng(0)
    >>> group = np.repeat(np.arange(20), 10)
    >>> x = rng.normal(size=200)
    >>> y = rng.poisson(np.exp(0.5 + 0.3 * x + 0.4 * rng.normal(size=20)[group]))
    >>> X = np.column_stack([np.ones(200), x])
    >>> result = GeneralizedLinearMixedModel(y, X, group, family="poisson").fit()
    >>> result.n_groups
    {'group': 20}
    """

    title = "Generalized Linear Mixed Model"
    _has_residual = False
    _design_options: ClassVar[dict] = {"categorical_response": True}

    def __init__(self, endog, exog, random_effects=None, *, family=None, weights=None, design=None, **kwargs):
        self.family = resolve_family(family)
        if design is not None:
            kwargs["design"] = design = proportion_design(design, self.family)
            endog = design.endog
        elif self.family.trials:
            endog, weights = as_proportions(endog, weights)
        super().__init__(endog, exog, random_effects, weights=weights, **kwargs)
        self._init_keys.append("family")
        self._check_family_response()

    def __new__(cls, *args, family=None, zero_inflation=None, dispersion=None, part_designs=None, **kwargs):
        """The class for several linear predictors where the family or the options ask for it."""
        several = any(part is not None for part in (zero_inflation, dispersion, part_designs))
        if cls is GeneralizedLinearMixedModel and (several or (family is not None and needs_parts(family))):
            from mvmise_sm.models.multipart import MultiPartMixedModel

            cls = MultiPartMixedModel
        return super().__new__(cls)

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
        zero_inflation=None,
        dispersion=None,
        **kwargs,
    ):
        """Create a model from a formula and a frame; parameters as in `MixedModelBase.from_formula`, and

        Parameters
        ----------
        zero_inflation : str, optional
            One-sided formula of the logit of the probability of a zero that the family does not make (for truncated
            families: of any zero), for example ``"~ x + (1 | g)"``.
        dispersion : str, optional
            One-sided formula of log d without random terms, d the family's dispersion, see `mvmise_sm.families`.
        """
        given = {name: text for name, text in (("zi", zero_inflation), ("disp", dispersion)) if text is not None}
        environment = caller_environment(eval_env)
        options = {"weights": weights, "offset": offset, "missing": missing, "groups": groups, "re_formula": re_formula}
        if not given:
            return super().from_formula(formula, data, subset, drop_cols, eval_env=environment, **options, **kwargs)
        from mvmise_sm.models.multipart import from_formulas

        return from_formulas(cls, formula, data, subset, drop_cols, given, environment, options, kwargs)

    def inverse_link(self, linear):
        """Mean at a linear predictor (m,)."""
        return self.family.link.inverse(linear)

    @property
    def link(self):
        """The family's link."""
        return self.family.link

    def criterion(self, nagq=1, dispersion="ml", curvature="observed"):
        """Return what `fit` minimises.

        Parameters
        ----------
        nagq : int, optional
            0 for beta and the random effects at their joint mode, 1 for the Laplace approximation, more for adaptive
            Gauss-Hermite quadrature with that many nodes per random-effects column.
        dispersion : {"ml", "lme4"}, optional
            As in `fit`.
        curvature : {"observed", "expected"}, optional
            As in `fit`.

        Returns
        -------
        LaplaceDeviance
            A callable of (theta, beta, shape), -2 log L plus the priors' penalty, with ``gradient``; theta is absolute
            there.
        """
        check_integration(nagq, dispersion, curvature)
        curvature = "expected" if dispersion == "lme4" else curvature
        response = make_response(self.family, self.endog, self.weights, curvature=curvature)
        given = response, np.asarray(self.exog, dtype=float), self.random_effects
        options = {"priors": self.priors, "offset": self.offset}
        if dispersion == "lme4" and response.distribution.dispersed:
            _check_classic(nagq, self.weights, self.sd_prior, self.dispersion_prior)
            return ClassicDispersion(*given, **options)
        return _integrated(nagq, given, options)

    def fit(
        self,
        start_params=None,
        method="newton",
        maxiter=100,
        disp=False,
        cov_type="nonrobust",
        use_t=False,
        *,
        nagq=1,
        curvature="observed",
        dispersion="ml",
        start_theta=None,
        **options,
    ):
        """Fit by maximum likelihood, or at the posterior mode with priors.

        Parameters
        ----------
        start_params : array_like, optional
            Start of the fixed effects (k_fe,); by default the joint mode of fixed and random effects and, with a prior
            of several modes, further starts.
        method : str, optional
            ``"newton"``, or an optimiser of statsmodels or scipy.
        maxiter : int, optional
            Largest number of iterations.
        disp : bool, optional
            Whether to print how the optimiser ended.
        cov_type : {"nonrobust", "rx"}, optional
            Covariance of the fixed effects: from the Hessian of the objective in all parameters, or of the penalised
            least squares step at the optimum, as if theta were known.
        use_t : bool, optional
            Whether Wald tests use Student's t with nobs - k_fe degrees of freedom.
        nagq : int, optional
            Integration over the random effects, see `criterion`. More than one needs a single grouping factor with at
            most three columns. The log-likelihood has its constant for every choice, so that fits compare.
        curvature : {"observed", "expected"}, optional
            Second derivatives of the log density in the Laplace approximation: their own, or lme4's expectation, which
            is the same for canonical links.
        dispersion : {"ml", "lme4"}, optional
            Gamma, inverse Gaussian and normal families: estimate the dispersion by maximum likelihood with the other
            parameters, the random effects having covariance scale times the relative one; or minimise lme4's criterion,
            which weighs the random effects as if the dispersion were 1, takes deviance / n for the density, and is not
            a likelihood.
        start_theta : array_like, optional
            Start of the relative theta (k_theta,); one by default.
        **options
            Passed to the optimiser.

        Returns
        -------
        GeneralizedLinearMixedModelResults
            The model is left as it was.

        Raises
        ------
        NotAvailableError
            For a robust `cov_type`.
        """
        if cov_type not in ("nonrobust", "rx"):
            raise NotAvailableError(f"cov_type={cov_type!r} is not available for mixed models; use 'nonrobust' or 'rx'")
        options = optimiser_options(type(self), method, options)
        params = checked_params(start_params, self.exog.shape[1])
        settings = {
            "optimizer": method,
            "start_params": np.zeros(self.exog.shape[1]) if params is None else params,
            "start_theta": start_theta,
            "maxiter": _ITERATIONS if maxiter is None else maxiter,
            "nagq": nagq,
            "curvature": curvature,
            "dispersion": dispersion,
            **options,
        }
        with blas_threads(0):
            criterion = self.criterion(nagq, dispersion, curvature)
        theta = checked_theta(start_theta, self.random_layout.k_theta, _LARGEST_START)
        with blas_threads(criterion.dense_size):
            optimum = fitted_from(criterion, theta, params, settings)
            if theta is None and params is None and has_modes(self.priors) and not criterion.profiles_beta:
                flat = copy.copy(self)
                flat.priors = replace(self.priors, fixef=())
                without = flat.criterion(nagq, dispersion, curvature)
                optimum = lowest_mode(criterion, without, self.exog.shape[1], optimum, settings)
            optimum = at_highest_mode(criterion, optimum, settings)
            criterion, optimum = self._at_limit(criterion, optimum, settings)
            result = self._report(criterion, optimum, settings, cov_type, use_t)
        if disp:
            print(result.message)
        return result

    def with_endog(self, endog):
        """Return the same model for another response (nobs,), which must be in the family's range."""
        out = super().with_endog(endog)
        out._check_family_response()
        return out

    def refit(self, endog, result):
        """Fit a result's model to another response; see `GeneralizedLinearMixedModelResults.refit`."""
        model = self.with_endog(complete_response(endog, self.nobs))
        settings = result.mle_settings
        if result.at_limit:
            return model.fit(**fit_arguments(settings), cov_type=result.cov_type, use_t=result.use_t)
        criterion = result.deviance_function().refitted(model.endog)
        optimum = with_second_start(
            criterion, result.optimum, lambda start: minimum(criterion, start, settings), moments=False
        )
        criterion, optimum = model._at_limit(criterion, optimum, settings)
        return model._report(criterion, optimum, settings, result.cov_type, result.use_t)

    def _at_limit(self, criterion, optimum, settings):
        """The criterion and the optimum, without the dispersion where that has gone to its limit."""
        return (criterion, optimum) if self.family.limit is None else without_dispersion(criterion, optimum, settings)

    def _limit_reached(self, criterion) -> tuple[str, str] | None:
        """The family that a fit has ended at without its dispersion, and why; None for all others."""
        return self.family.limit if self.family.has_dispersion and not criterion.k_shape else None

    def _report(self, criterion, optimum, settings, cov_type, use_t):
        """Solve at the optimum, warn where the user must know, and wrap; called by what the user called."""
        solution = criterion.solve(optimum.working)
        trouble, edge = with_saddle(self._trouble(solution), criterion, optimum), at_the_edge(self.family, solution.eta)
        if edge and not trouble:
            optimum = replace(optimum, converged=False, message=edge)
        _say(trouble, edge, optimum, self._limit_reached(criterion))
        result = self._result(solution, optimum, settings, criterion=criterion, cov_type=cov_type, use_t=use_t)
        result._results.undetermined = self._undetermined(optimum)
        result._results.without_error = np.full(len(result._results.params), bool(edge))
        result._results.without_error[np.flatnonzero(self._infinite(solution))] = True
        return result

    def _infinite(self, solution):
        """Fixed effects (k_fe,) whose estimates run to infinity because of separation."""
        return infinite_effects(self, solution)

    def _undetermined(self, optimum):
        """Directions of the variances that the data do not determine, see `undetermined`."""
        return undetermined(self, optimum)

    def _result(self, *args, **kwargs):
        result = GeneralizedLinearMixedModelResults(self, *args, **kwargs)
        return GeneralizedLinearMixedModelResultsWrapper(result)

    def _check_family_response(self):
        check_response(self.endog, self.weights, self.family, bounded=self.has_fixef_prior)

    def _trouble(self, solution):
        """A sentence on estimates that run to infinity, or None."""
        return runaway(self, solution)

    def _checked_dispersion_prior(self):
        return dispersion_prior_of(self.family, self.dispersion_prior)


def _integrated(nagq, given, options):
    """The criterion with an integration over the random effects."""
    try:
        if nagq > 1:
            return QuadratureDeviance(*given, nodes=int(nagq), **options)
    except ValueError as error:
        raise OptionError(str(error)) from None
    return (LaplaceDeviance if nagq else JointDeviance)(*given, **options)


def _check_classic(nagq, weights, sd_prior, dispersion_prior):
    """Refuse what lme4's criterion of families with a dispersion does not have."""
    if dispersion_prior is not None:
        raise OptionError("dispersion='lme4' does not estimate the dispersion with a prior of it; use 'ml'")
    if nagq != 1 or weights is not None:
        raise OptionError("dispersion='lme4' goes with nagq=1 and without weights")
    if sd_prior is not None:
        raise OptionError("dispersion='lme4' has relative standard deviations, sd_prior is of absolute ones; use 'ml'")


def _say(trouble, edge, optimum, limit):
    """Warn of what the user of a fit must know."""
    if trouble:
        warn(trouble, SeparationWarning)
    elif edge:
        warn(edge, ConvergenceWarning)
    elif not optimum.converged:
        warn(f"the fit has not converged: {optimum.message}", ConvergenceWarning)
    if limit is not None:
        other, why = limit
        warn(f"the negative binomial alpha goes to zero: {why}; use family={other!r}", SingularFitWarning)
    elif optimum.singular:
        warn(_SINGULAR, SingularFitWarning)


def check_integration(nagq, dispersion, curvature):
    """Refuse values that the options of `GeneralizedLinearMixedModel.criterion` do not have.

    Raises
    ------
    OptionError
    """
    if isinstance(nagq, bool) or not isinstance(nagq, (int, np.integer)) or not 0 <= nagq <= _MAX_NODES:
        raise OptionError(f"nagq must be a whole number from 0 to {_MAX_NODES}, got {nagq!r}")
    if curvature not in ("observed", "expected"):
        raise OptionError(f"curvature must be 'observed' or 'expected', got {curvature!r}")
    if dispersion not in ("ml", "lme4"):
        raise OptionError(
            f"dispersion must be 'ml' or 'lme4', got {dispersion!r}; a formula for it belongs to the model: "
            "glmer(..., dispersion='~ x')"
        )


_SINGULAR = "singular fit: the estimated covariance matrix of some random effects is on the boundary"


def fit_arguments(settings):
    """Arguments of ``fit`` for the settings of a result."""
    kept = {key: value for key, value in settings.items() if key not in ("optimizer", "start_params", "start_theta")}
    return {"method": settings["optimizer"], **kept}
