"""Results of models with several linear predictors."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pandas as pd
from scipy.special import expit
from statsmodels.tools._decorators import cache_readonly
from statsmodels.tools.rng_qrng import check_random_state

from mvmise_sm.core.threads import blas_threads
from mvmise_sm.core.uncertainty import hessian as uncertainty
from mvmise_sm.exceptions import OptionError
from mvmise_sm.options import strict_options
from mvmise_sm.results.generalized import GeneralizedLinearMixedModelResults, GeneralizedLinearMixedModelResultsWrapper
from mvmise_sm.results.prediction import NewRows

__all__ = ["MultiPartResults", "MultiPartResultsWrapper"]


@strict_options
class MultiPartResults(GeneralizedLinearMixedModelResults):
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
        self._slots = {}
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
        """Coefficients of the conditional part (k_fe,)."""
        return self.params[: self.k_fe]

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

    # --- linear predictors

    def _own_predictors(self, terms=None, b=None):
        """Predictors of the rows of the model (K, nobs), with the random effects of `terms`."""
        self._require_rows()
        model, b = self.model, self.solution.b if b is None else b
        keep = [x if terms is None or i in terms else np.zeros_like(x) for i, x in enumerate(b)]
        out = [model.exog @ self.fe_params]
        if model.offset is not None:
            out[0] = out[0] + model.offset
        named = {0: out[0]}
        for part in model.parts:
            value = part.exog @ self.params[self._slots[part.name]]
            named[part.name] = value if part.offset is None else value + part.offset
        for i, (term, where) in enumerate(zip(model.random_effects.terms, model.term_parts, strict=True)):
            effect = keep[i][term.factor.codes]
            columns = np.column_stack([np.ones(self.nobs) if c is None else c for c in term.columns])
            key = "zi" if where else 0
            named[key] = named[key] + (effect * columns).sum(axis=1)
        return self._ordered(named)

    def _ordered(self, named):
        out = [named[0]]
        ones = np.ones_like(named[0])
        if self.model.has_zero_part:
            out.append(named["zi"])
        if self.family.has_dispersion:
            out.append(named["disp"] if "disp" in named else np.log(self.dispersion) * ones)
        return out

    def _new_predictors(self, frame, random, allow_new_levels, offset):
        """Predictors of new rows, and their index."""
        model, b = self.model, self.solution.b
        named, index = {}, None
        for key, design in [(0, getattr(model.data, "design", None)), *((p.name, p.design) for p in model.parts)]:
            if design is None:
                raise OptionError("new data need a model from a formula; predict without exog takes the model's rows")
            where = 1 if key == "zi" else 0
            mine = [i for i, w in enumerate(model.term_parts) if w == where] if key != "disp" else []
            chosen = tuple(range(len(mine))) if random == "all" else ()
            if not isinstance(random, str):
                wanted = [name.removeprefix("zi:") for name in random]
                names = [model.random_layout.terms[i].factor.name.removeprefix("zi:") for i in mine]
                chosen = tuple(j for j, name in enumerate(names) if name in wanted)
            rows: NewRows = model.part_rows(design, mine, frame, chosen, allow_new_levels, offset if key == 0 else None)
            slot = self._slots["cond" if key == 0 else key]
            exog = rows.exog
            if key == 0 and exog.shape[1] != self.k_fe:
                # a formula read again from a pickle has the intercept that an ordinal model leaves out
                names = list(design.exog_names)
                exog = exog[:, [names.index(name) for name in model.exog_names]]
            value = exog @ self.params[slot]
            for j in chosen:
                codes, columns = rows.random[j]
                known = codes >= 0
                value[known] += (b[mine[j]][codes[known]] * columns[known]).sum(axis=1)
            value = value if rows.offset is None else value + rows.offset
            named[key], index = value, rows.index
        return self._ordered(named), index

    def _predictor_rows(self, exog, random, allow_new_levels, offset=None):
        """Predictors and row labels, of the model's rows or of new ones."""
        if exog is None:
            names = [f.name for f in self.model.random_layout.factors]
            if isinstance(random, str) and random in ("all", "none"):
                terms = None if random == "all" else ()
            else:
                wanted = [random] if isinstance(random, str) else list(random)
                for name in wanted:
                    if name not in names:
                        raise OptionError(f"random must be 'all', 'none' or a list of {names}, got {name!r}")
                layout = self.model.random_layout
                terms = tuple(i for i, t in enumerate(layout.terms) if t.factor.name in wanted)
            return self._own_predictors(terms), self.model.data.row_labels
        return self._new_predictors(exog, random, allow_new_levels, offset)

    def dispersion_rows(self, predictors):
        """d by row, 1.0 without a dispersion."""
        return np.exp(predictors[-1]) if self.family.has_dispersion else 1.0

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

    def predict(
        self,
        exog=None,
        transform=True,
        *,
        random="all",
        allow_new_levels=False,
        which="mean",
        groups=None,
        exog_re=None,
        offset=None,
    ):
        """Predict, by default conditional on the random effects.

        Parameters
        ----------
        exog, transform, random, allow_new_levels, groups, exog_re, offset
            As in `MixedModelResults.predict`.
        which : str, optional
            ``"mean"`` of the response, zeros included; ``"conditional"`` of the distribution beside the zero part (of
            the truncated one in truncated families); ``"linear"``, its linear predictor; ``"zero"``, the probability of
            the zero part; ``"dispersion"``, d; ``"variance"`` of the response.

        Returns
        -------
        ndarray or Series
        """
        if which not in self.scales:
            raise OptionError(f"which must be one of {', '.join(map(repr, self.scales))}, got {which!r}")
        if groups is not None or exog_re is not None:
            raise OptionError("groups and exog_re belong to models with one linear predictor")
        predictors, index = self._predictor_rows(exog, random, allow_new_levels, offset)
        weights = self.model.weights if exog is None else None
        values = self.on_scale(predictors, which, weights)
        return values if index is None else pd.Series(values, index=index)

    @cache_readonly
    def fittedvalues(self):
        """Mean of every response given the random effects (nobs,)."""
        return self.on_scale(self._own_predictors(), "mean")

    @cache_readonly
    def resid_pearson(self):
        """Residuals over the standard deviation that the model gives the response (nobs,)."""
        variance = self.on_scale(self._own_predictors(), "variance", self.model.weights)
        return self.resid / np.sqrt(variance)

    def _deviance_rows(self):
        predictors = self._own_predictors()
        d = self.dispersion_rows(predictors)
        mean = self.family.mean(predictors[0], d, self.shapes)
        return self.family.deviance_rows(self.model.endog, mean, self.model.weights, d, self.shapes)

    @property
    def deviance(self):
        """Minus twice the log-likelihood: there is no saturated model of several parts."""
        return -2.0 * self.llf

    @cache_readonly
    def resid_deviance(self):
        """Randomised quantile residuals stand in for deviance residuals, which several parts do not have (nobs,)."""
        return np.asarray(self.resid_quantile(rng=0))

    @cache_readonly
    def resid_working(self):
        """Response residuals of the conditional part on the scale of its linear predictor (nobs,)."""
        mean = self.family.link.inverse(self._own_predictors()[0])
        return (self.model.endog - mean) * self.family.link.deriv(mean)

    # --- simulation

    def _simulated(self, rng, predictors, weights):
        """One response for each row."""
        family, d = self.family, self.dispersion_rows(predictors)
        y = family.draw(rng, predictors[0], weights, d, self.shapes)
        if self.model.has_zero_part:
            y = np.where(rng.random(y.shape) < expit(predictors[1]), 0.0, y)
        return y

    def simulate(self, n=1, rng=None, random="new"):
        """Simulate responses from the fitted model; parameters as in `GeneralizedLinearMixedModelResults`."""
        if random not in ("new", "conditional"):
            raise OptionError(f"random must be 'new' or 'conditional', got {random!r}")
        rng = check_random_state(rng)
        model, layout = self.model, self.model.random_layout
        own = self._own_predictors() if random == "conditional" else None
        out = np.empty((self.nobs, n), order="F")
        for i in range(n):
            if random == "new":
                b = [
                    rng.standard_normal((term.factor.n_levels, term.q)) @ lam.T
                    for term, lam in zip(layout.terms, layout.lambdas(self.theta), strict=True)
                ]
                own = self._own_predictors(b=b)
            out[:, i] = self._simulated(rng, own, model.weights)
        return pd.DataFrame(out, index=model.data.row_labels, columns=[f"sim_{i + 1}" for i in range(n)])

    def cumulative(self, y, predictors, weights):
        """Probability of a response up to `y` by row, None where the family has no distribution function."""
        d = self.dispersion_rows(predictors)
        inner = self.family.distribution(y, predictors[0], weights, d, self.shapes)
        if inner is None or not self.model.has_zero_part:
            return inner
        p = expit(predictors[1])
        return np.where(y < 0.0, 0.0, p + (1.0 - p) * inner)

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

    _tables: ClassVar[dict[str, str]] = {"zi": "Zero part (logit)", "disp": "Dispersion (log)"}


class MultiPartResultsWrapper(GeneralizedLinearMixedModelResultsWrapper):
    """Attach pandas labels to the arrays of a `MultiPartResults`."""
