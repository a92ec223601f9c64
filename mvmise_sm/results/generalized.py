"""Results of the generalised linear mixed model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import statsmodels.base.wrapper as wrap
from statsmodels.base._prediction_inference import PredictionResultsBase, PredictionResultsMean
from statsmodels.tools._decorators import cache_readonly

from mvmise_sm.caller import warn
from mvmise_sm.core.families.base import Family
from mvmise_sm.core.families.response import make_response
from mvmise_sm.core.threads import blas_threads
from mvmise_sm.core.uncertainty import hessian as uncertainty
from mvmise_sm.exceptions import ConvergenceWarning, OptionError
from mvmise_sm.options import strict_options
from mvmise_sm.results.base import MixedModelResults, MixedModelResultsWrapper
from mvmise_sm.results.generalized_questions import GeneralizedQuestions
from mvmise_sm.results.prediction import checked_test, predictor_law
from mvmise_sm.results.widening import widened_copy

__all__ = ["GeneralizedLinearMixedModelResults", "GeneralizedLinearMixedModelResultsWrapper"]


_ROBUST = "robust covariances are defined for linear mixed models without priors"


@strict_options
class GeneralizedLinearMixedModelResults(
    GeneralizedQuestions, MixedModelResults, refuses={"get_robustcov_results": _ROBUST}
):
    """Results of a `GeneralizedLinearMixedModel`.

    Attributes
    ----------
    scale : float
        Dispersion phi of the gamma, inverse Gaussian and normal families, 1.0 for the others. The covariance of the
        random effects is scale times the relative one.
    alpha : float or None
        Parameter of the negative binomial variance mu + alpha mu^2.
    at_limit : bool
        Whether the negative binomial alpha is estimated as zero.
    dispersion : float
        The family's d: standard deviation, size, shape or precision, see `mvmise_sm.families`.
    nagq : int
        Integration over the random effects.
    """

    scales: tuple[str, ...] = ("mean", "conditional", "linear", "zero", "dispersion", "variance")
    family: Family
    optimum: np.ndarray
    dispersion: float | np.ndarray

    def __init__(self, model, solution, optimum, settings, *, criterion, cov_type="nonrobust", use_t=False):
        self.k_scale = int(criterion.response.dispersed)
        super().__init__(model, solution, optimum, settings, use_t=use_t)
        self.estimates_alpha = bool(model.family.has_dispersion and not self.k_scale)
        self.at_limit = self.estimates_alpha and not criterion.k_shape
        self.k_params = self.k_fe + criterion.k_theta + max(int(self.estimates_alpha), self.k_scale)
        self.cov_type = cov_type
        self.cov_kwds = {"description": _COV_TYPES[cov_type]}
        self.nagq = settings["nagq"]
        self.alpha = solution.alpha
        self.family = model.family
        self._set_dispersion(solution)
        self._criterion = criterion
        self.optimum = optimum.working
        self._estimator = ("MAP" if model.priors is not None else "ML") + _integration(self.nagq)
        self._criterion_name = "-2 Log-Likelihood"

    def _set_dispersion(self, solution):
        self.dispersion = self.model.family.dispersion_of(self.scale, self.alpha)
        self.shapes = ()

    def family_parameters(self):
        return {"alpha": self.alpha} if self.estimates_alpha else {}

    def shape_profiles(self):
        """Names of the parameters after the coefficients, and how each is shown: functions of its working value."""
        if self.k_scale:
            return [("sigma", lambda c: float(np.exp(0.5 * c)))]
        return [("alpha", lambda c: float(np.exp(c)))]

    # --- covariance of the estimates

    @property
    def cov_params_default(self):
        """Covariance of the fixed effects (k_fe, k_fe); from the Hessian it is formed when it is first asked for."""
        if self.cov_type == "rx" or self._criterion_profiles():
            return self.cov_rx
        cov = self._cov_all
        if cov is None:
            return self.cov_rx
        at = slice(len(self.theta), len(self.theta) + len(self.params))
        return cov[at, at]

    @cov_params_default.setter
    def cov_params_default(self, value):
        self.cov_rx = value

    @property
    def normalized_cov_params(self):
        """Covariance of the fixed effects over the scale."""
        return self.cov_params_default / self.scale

    @normalized_cov_params.setter
    def normalized_cov_params(self, value):
        pass

    def _criterion_profiles(self):
        return self.nagq == 0

    @property
    def _cov_all(self):
        """Covariance of (theta, beta, shape) from the Hessian, theta in working coordinates; None where that is
        indefinite.
        """
        if "_cov_hessian" not in self.__dict__:
            with blas_threads(0):
                self._cov_hessian = uncertainty.parameter_cov(self.deviance_function(), self.optimum)
            said = self.undetermined is not None or (self.without_error is not None and self.without_error.any())
            if self._cov_hessian is None and not said:
                warn(
                    "the Hessian at the optimum is not positive definite; "
                    "standard errors take theta as known (cov_type='rx')",
                    ConvergenceWarning,
                )
        return self._cov_hessian

    @property
    def alpha_bse(self):
        """Standard error of `alpha` from the Hessian, NaN where alpha is not estimated."""
        if not self.estimates_alpha or self.at_limit or self._cov_all is None:
            return np.nan
        variance = float(self._cov_all[-1, -1])
        return self.alpha * np.sqrt(variance) if variance > 0.0 else np.nan

    def _law_of_rows(self):
        family = self.model.family
        link = type(family.link).__name__
        limits = () if family.limit is None else (f"{family.limit[0]} ({link})",)
        return {"family": f"{family.name} ({link})", "limits": limits, "trials": family.trials}

    # --- likelihood

    @property
    def deviance(self):
        """Sum of the deviance residuals' squares, conditional on the random effects, as R's ``deviance``."""
        if self.streamed:
            return self.model.deviance_of(self.solution)
        return float(np.sum(self._response().deviance_rows(self.fittedvalues)))

    def _response(self):
        response = make_response(self.model.family, self.model.endog, self.model.weights)
        if self.estimates_alpha:
            response.set_shape(np.log(max(self.alpha, 1e-300)))
        return response

    # --- residuals

    @property
    def resid_response(self):
        """Response minus fitted mean (nobs,)."""
        return self.resid

    @cache_readonly
    def resid_pearson(self):
        """Residuals over the standard deviation of the family at scale 1, weights included (nobs,), as in lme4."""
        variance = self._response().distribution.variance(self.fittedvalues)
        root = 1.0 if self.model.weights is None else np.sqrt(self.model.weights)
        return root * self.resid / np.sqrt(variance)

    @cache_readonly
    def resid_deviance(self):
        """Signed square roots of the contributions to the deviance (nobs,)."""
        rows = self._response().deviance_rows(self.fittedvalues)
        return np.sign(self.resid) * np.sqrt(np.maximum(rows, 0.0))

    @cache_readonly
    def resid_working(self):
        """Residuals on the scale of the linear predictor (nobs,)."""
        return self.resid * self.model.family.link.deriv(self.fittedvalues)

    # --- random effects and prediction

    @cache_readonly
    def random_effects_cov(self):
        """Conditional covariances of the random effects given the data, dict of ndarray (n_levels, q, q)."""
        with blas_threads(0):
            blocks = uncertainty.conditional_cov(self.deviance_function(), self.optimum)
        names = [factor.name for factor in self.model.random_layout.factors]
        return dict(zip(names, blocks, strict=True))

    def variance_law(self):
        """Working theta, then log phi of a dispersion phi, and their asymptotic covariance; None without."""
        if self.nagq == 0 or self._cov_all is None or self.k_scale > self.deviance_function().k_shape:
            return None
        places = np.arange(len(self.theta))
        if self.k_scale:
            places = np.append(places, len(self.optimum) - 1)
        return np.array(self.optimum)[places], self._cov_all[np.ix_(places, places)]

    def parameters_at(self, at):
        """Theta and scale at parameters of `variance_law`; theta is relative to the dispersion."""
        k, working = len(self.theta), np.array(self.optimum, dtype=float)
        working[:k] = at[:k]
        theta = self.deviance_function().user_theta(working)[:k]
        return (theta, self.scale) if len(at) == k else (theta / np.exp(0.5 * at[k]), float(np.exp(at[k])))

    def mean_scale(self):
        """The scale of the link, see `MarginalResults.mean_scale`."""
        from mvmise_sm.inference.means.scales import link_scale

        return link_scale(self.model.link)

    def typical_mean(self):
        """Mean of the responses, at which `icc` and `r2` take the family's variance."""
        return np.array(float(np.average(self.model.endog, weights=self.model.weights)))

    def random_sd(self):
        """Standard deviation of the random effects' part of the linear predictor."""
        from mvmise_sm.inference.variance_shares import random_variance

        return float(np.sqrt(random_variance(self)))

    def deviance_function(self):
        """The criterion as a function; rebuilt once after unpickling."""
        if self._criterion is None:
            settings = self.mle_settings
            self._criterion = self.model.criterion(self.nagq, settings["dispersion"], settings["curvature"])
            if self.at_limit:
                self._criterion = self._criterion.at_limit(self.optimum)[0]
            self._criterion.value(self.optimum)
        return self._criterion

    def _prediction_variance(self, exog, rows):
        """Variance of predictions over the scale, random effects included."""
        cov = self.cov_params_default
        with blas_threads(0):
            variance = uncertainty.prediction_variance(self.deviance_function(), self.optimum, cov, exog, rows)
        return variance / self.scale

    def _prediction(self, linear, variance, which, labels, link=None):
        dist = ("t", self.df_resid) if self.use_t else ("norm", None)
        on_link = _LinkPrediction(linear, variance, df=dist[1], dist=dist[0], row_labels=labels)
        if which == "linear":
            return on_link
        link = self.model.family.link if link is None else link
        return _MeanPrediction(link, on_link, variance, self.model.family.link)

    def on_scale(self, predictors, which, weights=None):
        """Conditional linear predictors (m,) on the scale `which`, see `predict`."""
        family = self.family
        mean, variance = family.moments(predictors[0], self.dispersion, self.shapes, weights)
        ones = np.ones_like(predictors[0])
        return {"linear": predictors[0], "dispersion": self.dispersion * ones, "zero": 0.0 * ones}.get(
            which, variance if which == "variance" else mean
        )

    @property
    def has_zero_mass(self):
        """Whether a response can be exactly zero though the family is continuous."""
        return self.family.zero_mass

    def predictor_law(self, frame, random, allow_new_levels):
        """Linear predictors, their standard deviations and row labels; random effects that are not chosen are new."""
        linear, variance, index = predictor_law(self, frame, random, allow_new_levels)
        return [linear], [np.sqrt(np.maximum(variance, 0.0))], index

    def drawn(self, rng, predictors, weights):
        """One response for each row of linear predictors."""
        return self.family.draw(rng, predictors[0], weights, self.dispersion, self.shapes)

    def cumulative(self, y, predictors, weights):
        """Probability of a response up to `y` by row, None where the family has no distribution function."""
        return self.family.distribution(y, predictors[0], weights, self.dispersion, self.shapes)

    def density_of_rows(self):
        """Log density by row as a function of a solution and a step of the linear predictor, see `inference.draws`."""
        from mvmise_sm.inference.draws import one_part_density

        return one_part_density(self)

    # --- refitting and simulation

    def widened(self, model, positions, wrapped):
        """Widen to a model with more columns, whose coefficients are held at zero, see
        `LinearMixedModelResults.widened`.
        """
        out, cov = widened_copy(self, model, positions, wrapped, self.cov_params_default)
        out.cov_type, out.cov_rx = "rx", cov
        return GeneralizedLinearMixedModelResultsWrapper(out)

    # --- tables and storage

    def _header_rows(self):
        """Rows of the summary's header that only this model has."""
        rows = [("Family:", [self.family.shown()]), ("Link:", [self.family.link.label])]
        if self.estimates_alpha:
            rows.append(("Alpha:", [f"{self.alpha:.4f} ({self.alpha_bse:.4f})"]))
        return rows

    def __getstate__(self):
        if self.cov_type != "rx" and self._criterion is not None and self.nagq:
            # the Hessian needs the rows, which a result without data no longer has
            self._cov_all  # noqa: B018
        return super().__getstate__()

    def remove_data(self):
        """Remove the arrays with one entry per row; `summary` and population predictions still work."""
        if self.cov_type != "rx" and self.nagq:
            self._cov_all  # noqa: B018
        self.solution = replace(self.solution, eta=None)
        super().remove_data()


@strict_options
class _LinkPrediction(PredictionResultsBase):
    """Predictions on the scale of the linear predictor."""

    def t_test(self, value=0, alternative="two-sided"):
        """Test that every prediction has a value; see statsmodels."""
        return super().t_test(*checked_test(self, value, alternative))


@strict_options
class _MeanPrediction(PredictionResultsMean):
    """Predictions of means whose intervals are those of the linear predictor, in order for a decreasing link too.

    `mean_link` takes linear predictors to means, which for some families is not the link's inverse.
    """

    def __init__(self, mean_link, linpred, variance, link):
        linear = linpred.predicted
        mean = mean_link.inverse(linear)
        super().__init__(
            mean,
            mean_link.inverse_deriv(linear) ** 2 * variance,
            df=linpred.df,
            dist="t" if linpred.dist_args else "norm",
            row_labels=linpred.row_labels,
            linpred=linpred,
            link=link,
        )
        self.mean_link = mean_link

    def t_test(self, value=0, alternative="two-sided"):
        """Test that every mean has a value; see statsmodels."""
        return super().t_test(*checked_test(self, value, alternative))

    def conf_int(self, method="endpoint", alpha=0.05, **kwds):
        if method == "endpoint":
            ends = [self.mean_link.inverse(end) for end in self.linpred.conf_int(alpha=alpha).T]
            return np.sort(np.column_stack(ends), axis=1)
        if method != "delta":
            raise OptionError(f"method must be 'endpoint' or 'delta', got {method!r}")
        return super().conf_int(method=method, alpha=alpha, **kwds)


class GeneralizedLinearMixedModelResultsWrapper(MixedModelResultsWrapper):
    """Attach pandas labels to the arrays of a `GeneralizedLinearMixedModelResults`."""

    _wrap_attrs = wrap.union_dicts(
        MixedModelResultsWrapper._wrap_attrs,
        {"resid_deviance": "rows", "resid_working": "rows", "resid_response": "rows"},
    )


wrap.populate_wrapper(GeneralizedLinearMixedModelResultsWrapper, GeneralizedLinearMixedModelResults)

_COV_TYPES = {
    "nonrobust": "Covariance from the Hessian of the objective in all parameters.",
    "rx": "Covariance of the penalised least squares step at the optimum.",
}


def _integration(nagq):
    if nagq > 1:
        return f" (AGQ, {nagq} nodes)"
    return " (Laplace)" if nagq else " (joint mode)"
