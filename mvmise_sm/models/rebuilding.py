"""Models made from a model: of another formula or response, on some of its rows, with some columns held at zero."""

from __future__ import annotations

import copy

import numpy as np
import pandas as pd

from mvmise_sm.core.covariance.random_effects import RandomEffects
from mvmise_sm.formula.update import named_in
from mvmise_sm.models.formula_data import FormulaData
from mvmise_sm.models.predicting import PredictsRows

__all__ = ["Rebuilt", "fit_zeros"]


class Rebuilt(PredictsRows):
    """A model from which others are made that share its data and options; see `MixedModelBase`."""

    def with_formula(self, formula, data=None, **changes):
        """Build the model of another formula with the same options.

        Parameters
        ----------
        formula : str
            The whole formula.
        data : DataFrame, optional
            The rows of this model by default.
        **changes
            Options of ``from_formula`` that differ.

        Returns
        -------
        model
            Not fitted.
        """
        design = self.data.design
        kept = self._kept_options()
        others = [kept[part] for part in ("zero_inflation", "dispersion") if isinstance(kept.get(part), str)]
        contrasts = named_in(design.options["contrasts"], formula, *others)
        options = {"contrasts": contrasts, "cov": design.options["cov"]}
        residual = design.options["residual"]
        kept.pop("residual", None)
        if residual is not None:
            options["residual"] = residual.text
        if data is None:
            options |= {"weights": design.weights, "offset": design.offset_argument}
        chosen = {**kept, **options, **changes}
        frame = design.frame if data is None else data
        return type(self).from_formula(formula, frame, **{"eval_env": design.namespace, **chosen})

    def reduced_random(self, terms):
        """Options of the constructor for the model with these random-effects terms, None for those left out."""
        return {"random_effects": RandomEffects([t for t in terms if t is not None], len(self.endog))}

    def _kept_options(self):
        """Options of the constructor that a model of another formula takes over."""
        return {
            key: getattr(self, key) for key in self._init_keys if key not in ("random_effects", "weights", "offset")
        }

    def with_endog(self, endog):
        """Return the same model for another response (nobs,); design, random effects and data are shared."""
        out = copy.copy(self)
        out.data = copy.copy(self.data)
        out.data._cache = dict(self.data._cache)
        out.endog = out.data.endog = endog
        return out

    def on_rows(self, endog, rows, weights=None):
        """Return the same model on some of its rows, built from arrays: the formula is not evaluated again.

        Parameters
        ----------
        endog : ndarray
            Response of these rows (m,).
        rows : ndarray
            Positions of the rows (m,), or booleans (nobs,).
        weights : ndarray, optional
            Weights of these rows (m,); by default those of the model.
        """
        return self._on_rows(endog, rows, weights)

    def _on_rows(self, endog, rows, weights, **changes):
        keywords = {**self._get_init_kwds(), **changes}
        keywords["random_effects"] = self.random_effects.on_rows(rows)
        own = {"weights": self.weights, "offset": self.offset}
        keywords.update({name: None if values is None else values[rows] for name, values in own.items()})
        if weights is not None:
            keywords["weights"] = weights
        exog = pd.DataFrame(np.asarray(self.exog)[rows], columns=self.exog_names)
        return type(self)(endog, exog, missing="none", **keywords)

    def remove_rows(self):
        """Let go of the rows that a formula's design still holds; part of ``remove_data`` of a result."""
        if isinstance(self.data, FormulaData):
            self.data.remove_rows(self.random_layout)

    def _fit_zeros(self, keep_index=None, start_params=None, return_auxiliary=False, k_params=None, **fit_kwds):
        """Fit with the fixed effects outside `keep_index` held at zero; the result is that of the smaller model."""
        return fit_zeros(self, keep_index, start_params, fit_kwds)


def fit_zeros(model, keep_index, start_params, fit_kwds):
    """Fit a model with the fixed effects outside `keep_index` held at zero, see statsmodels' ``fit_constrained``."""
    small = type(model)(model.endog, model.exog[:, keep_index], **model._get_init_kwds())
    if start_params is not None:
        fit_kwds["start_params"] = np.asarray(start_params)[keep_index]
    constrained = small.fit(**fit_kwds)
    return constrained._results.widened(model, np.arange(model.exog.shape[1])[keep_index], constrained)
