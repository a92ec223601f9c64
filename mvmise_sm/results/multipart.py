"""Results of models with several linear predictors."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.special import expit
from statsmodels.tools._decorators import cache_readonly

from mvmise_sm.core.threads import blas_threads
from mvmise_sm.core.uncertainty import hessian as uncertainty
from mvmise_sm.exceptions import OptionError
from mvmise_sm.options import strict_options
from mvmise_sm.results.conditional_part import ConditionalPart
from mvmise_sm.results.generalized import GeneralizedLinearMixedModelResultsWrapper
from mvmise_sm.results.part_predictors import PartPredictors

__all__ = ["MultiPartResults", "MultiPartResultsWrapper"]


@strict_options
class MultiPartResults(PartPredictors, ConditionalPart):
    """Results of a `MultiPartMixedModel`.

    ``params`` is one flat Series: conditional coefficients, then ``zi_<name>``, then ``disp_<name>``.

    Attributes
    ----------
    dispersion : float or ndarray
        The family's d; by row (nobs,) where it has a formula.
    family_params : Series
        Further parameters, ``df`` or ``power``.
    """

    def __init__(self, model, solution, optimum, settings, *, criterion, cov_type="nonrobust", use_t=False):
        super().__init__(model, solution, optimum, settings, criterion=criterion, cov_type=cov_type, use_t=use_t)
        self.estimates_alpha = False
        self.at_limit = False
        self.k_coef = len(solution.beta)
        self.k_fe = model.exog.shape[1]
        self.k_params = self.k_coef + criterion.k_theta + criterion.k_shape
        self.df_resid = float(self.nobs - self.k_coef)
        self._slots: dict[str, slice] = {}
        at = 0
        for name, size in [("cond", self.k_fe), *((p.name, len(p.names)) for p in model.parts)]:
            self._slots[name] = slice(at, at + size)
            at += size

    def _set_dispersion(self, solution):
        family, model = self.family, self.model
        shapes = np.asarray(solution.shapes, dtype=float)
        modelled = any(p.name == "disp" for p in model.parts)
        self.dispersion, at = 1.0, 0
        if family.has_dispersion and not modelled:
            self.dispersion, at = float(np.exp(shapes[0])), 1
        elif modelled:
            place = 2 if model.has_zero_part else 1
            self.dispersion = np.exp(solution.predictors[place])
        self.shapes = tuple(shapes[at : at + len(family.shape_names)])
        self.family_params = pd.Series(family.shape_value(self.shapes), index=list(family.shape_names), dtype=float)
        if family.name in ("nb2", "truncated_nb2") and np.ndim(self.dispersion) == 0:
            self.alpha = 1.0 / self.dispersion

    @property
    def has_zero_mass(self):
        """Whether a response can be exactly zero."""
        return self.model.has_zero_part or self.family.zero_mass

    def family_parameters(self):
        found = {}
        if self.family.has_dispersion and np.ndim(self.dispersion) == 0:
            found["dispersion"] = self.dispersion
        return found | {str(name): float(value) for name, value in self.family_params.items()}

    def shape_profiles(self):
        family, out = self.family, []
        if family.has_dispersion and np.ndim(self.dispersion) == 0:
            out.append(("dispersion", lambda c: float(np.exp(c))))
        for i, name in enumerate(family.shape_names):
            at: list[float] = list(self.shapes)

            def shown(c, i=i, at=at):
                return float(family.shape_value([*at[:i], c, *at[i + 1 :]])[i])

            out.append((name, shown))
        return out

    def with_components(self, table):
        if len(self._slots) < 2:
            return table
        fixed = {name: part for part, at in self._slots.items() for name in self.coef_names[at]}
        return table.assign(
            component=[
                fixed.get(term, "cond") if effect == "fixed" else "zi" if str(group).startswith("zi:") else "cond"
                for effect, term, group in zip(table["effect"], table["term"], table["group"], strict=True)
            ]
        )

    def coefficient_tables(self):
        titles = {"cond": "Conditional part", "zi": "Zero part (logit)", "disp": "Dispersion (log)"}
        return [(titles[name] if len(self._slots) > 1 else None, at) for name, at in self._slots.items()]

    def row_influence(self):
        return None if len(self.params) != self.k_fe else super().row_influence()

    def get_influence(self, level=None):
        """Influence of groups, or of rows with one linear predictor; see `InferentialResults.get_influence`."""
        if len(self.params) != self.k_fe:
            raise OptionError(
                "influence is defined for models with one linear predictor; update(data=) refits other rows"
            )
        return super().get_influence(level)

    def grouping(self, name=None):
        if self.model.parts:
            raise OptionError(
                "groups of rows are resampled for models with one linear predictor; bootstrap() simulates responses, "
                "update(data=) refits other rows"
            )
        return super().grouping(name)

    def fixed_part(self, group):
        zero = str(group).startswith("zi:")
        if zero:
            return self.params_zi
        return self.fe_params

    def without_columns(self, keep, term):
        from mvmise_sm.inference.verbs import changed

        return changed(self, f"- {term}")

    # --- parts of the coefficients

    def _part(self, name, values):
        if name not in self._slots:
            what = {"zi": "zero part", "disp": "dispersion formula"}[name]
            raise OptionError(f"the model has no {what}")
        part = next(p for p in self.model.parts if p.name == name)
        return pd.Series(np.asarray(values)[self._slots[name]], index=list(part.names))

    @property
    def params_zi(self):
        """Coefficients of the zero part, without prefix."""
        return self._part("zi", self.params)

    @property
    def bse_zi(self):
        """Their standard errors."""
        return self._part("zi", self.bse)

    @property
    def params_disp(self):
        """Coefficients of log d, without prefix."""
        return self._part("disp", self.params)

    @property
    def bse_disp(self):
        """Their standard errors."""
        return self._part("disp", self.bse)

    @property
    def fe_params(self):
        """Coefficients of the conditional part, a Series (k_fe,)."""
        return pd.Series(np.asarray(self.params)[: self.k_fe], index=self.coef_names[: self.k_fe])

    @property
    def bse_fe(self):
        """Their standard errors."""
        return pd.Series(np.asarray(self.bse)[: self.k_fe], index=self.coef_names[: self.k_fe])

    # --- random effects

    def _components(self):
        return ["zi" if p else "cond" for p in self.model.term_parts]

    @cache_readonly
    def varcorr(self):
        """Variance components as a DataFrame with columns ``grp, var1, var2, vcov, sdcor`` and ``component``."""
        out = super().varcorr
        if self.model.parts:
            out = out.assign(component=["zi" if str(g).startswith("zi:") else "cond" for g in out["grp"]])
        return out

    @cache_readonly
    def random_effects_cov(self):
        """Conditional covariances of the random effects given the data, dict of ndarray (n_levels, q, q)."""
        with blas_threads(0):
            blocks = uncertainty.conditional_cov(self.deviance_function(), self.optimum)
        model, out = self.model, {}
        for factor, block in zip(model.random_effects.factors, blocks, strict=True):
            terms = model.random_effects.terms_of(factor)
            stops = np.cumsum([0] + [model.random_effects.terms[t].q for t in terms])
            for shown in {id(model.random_layout.terms[t].factor): t for t in terms}.values():
                name = model.random_layout.terms[shown].factor.name
                at = [
                    j
                    for i, t in enumerate(terms)
                    if model.random_layout.terms[t].factor.name == name
                    for j in range(stops[i], stops[i + 1])
                ]
                out[name] = block[:, at][:, :, at]
        return out

    def dispersion_rows(self, predictors):
        """d by row, 1.0 without a dispersion."""
        return np.exp(predictors[-1]) if self.family.has_dispersion else 1.0

    def mean_link(self, predictors):
        """What takes conditional linear predictors to conditional means, see `Family.mean_link`."""
        return self.family.mean_link(self.dispersion_rows(predictors), self.shapes)

    def on_scale(self, predictors, which, weights=None):
        family, zero = self.family, self.model.has_zero_part
        d = self.dispersion_rows(predictors)
        ones = np.ones_like(predictors[0])
        if which == "linear":
            return predictors[0]
        if which == "dispersion":
            return d * ones
        p = expit(predictors[1]) if zero else 0.0 * ones
        if which == "zero":
            return p
        mean, variance = family.moments(predictors[0], d, self.shapes, weights)
        if which == "conditional":
            return mean
        if which == "mean":
            return (1.0 - p) * mean
        return (1.0 - p) * (variance + p * mean**2)

    @cache_readonly
    def fittedvalues(self):
        """Mean of every response given the random effects (nobs,)."""
        return self.on_scale(self.own_predictors(), "mean")

    @cache_readonly
    def resid_pearson(self):
        """Residuals over the standard deviation that the model gives the response (nobs,)."""
        variance = self.on_scale(self.own_predictors(), "variance", self.model.weights)
        return self.resid / np.sqrt(variance)

    @property
    def deviance(self):
        """Sum of squared deviance residuals; with a zero part minus twice the log-likelihood."""
        rows = self._deviance_rows()
        return -2.0 * self.llf if rows is None else float(rows.sum())

    def _deviance_rows(self):
        """Contributions to the deviance (nobs,), None with a zero part."""
        if self.model.has_zero_part:
            return None
        predictors = self.own_predictors()
        d = self.dispersion_rows(predictors)
        mean = self.family.link.inverse(predictors[0])
        return self.family.deviance_rows(self.model.endog, mean, self.model.weights, d, self.shapes)

    @cache_readonly
    def resid_deviance(self):
        """Signed roots of the contributions to the deviance (nobs,); quantile residuals with a zero part."""
        rows = self._deviance_rows()
        if rows is None:
            return np.asarray(self.resid_quantile(rng=0))
        return np.sign(self.resid) * np.sqrt(np.maximum(rows, 0.0))

    @cache_readonly
    def resid_working(self):
        """Response residuals of the conditional part on the scale of its linear predictor (nobs,)."""
        mean = self.family.link.inverse(self.own_predictors()[0])
        return (self.model.endog - mean) * self.family.link.deriv(mean)

    # --- simulation

    def drawn(self, rng, predictors, weights):
        """One response for each row."""
        family, d = self.family, self.dispersion_rows(predictors)
        y = family.draw(rng, predictors[0], weights, d, self.shapes)
        if self.model.has_zero_part:
            y = np.where(rng.random(y.shape) < expit(predictors[1]), 0.0, y)
        return y

    def cumulative(self, y, predictors, weights):
        """Probability of a response up to `y` by row, None where the family has no distribution function."""
        d = self.dispersion_rows(predictors)
        inner = self.family.distribution(y, predictors[0], weights, d, self.shapes)
        if inner is None or not self.model.has_zero_part:
            return inner
        p = expit(predictors[1])
        return np.where(y < 0.0, 0.0, p + (1.0 - p) * inner)

    def density_of_rows(self):
        """See `GeneralizedLinearMixedModelResults.density_of_rows`."""
        from mvmise_sm.inference.draws import parts_density

        return parts_density(self)

    # --- tables

    def overdispersion(self):
        """See `GeneralizedLinearMixedModelResults.overdispersion`."""
        if self.family.has_dispersion:
            raise OptionError(f"the {self.family.shown()} family estimates its dispersion: see dispersion")
        return super().overdispersion()

    def _header_rows(self):
        rows = super()._header_rows()
        if self.family.has_dispersion and np.ndim(self.dispersion) == 0:
            rows.append(("Dispersion:", [f"{self.dispersion:.4f}"]))
        rows += [(f"{name.capitalize()}:", [f"{value:.4f}"]) for name, value in self.family_params.items()]
        return rows


def _without(labelled, *names):
    """Attributes that the wrapper labels, but for those that have the labels of one part."""
    return {name: how for name, how in labelled.items() if name not in names}


class MultiPartResultsWrapper(GeneralizedLinearMixedModelResultsWrapper):
    """Attach pandas labels to the arrays of a `MultiPartResults`."""

    _wrap_attrs = _without(GeneralizedLinearMixedModelResultsWrapper._wrap_attrs, "fe_params", "bse_fe")
