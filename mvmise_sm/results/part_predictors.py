"""Linear predictors of a model with several of them, on its own rows and on new ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pandas as pd

from mvmise_sm.core.threads import blas_threads
from mvmise_sm.core.uncertainty import hessian as uncertainty
from mvmise_sm.exceptions import OptionError
from mvmise_sm.results.prediction import NewRows, without_error

__all__ = ["PartPredictors"]


class PartPredictors:
    """Rows of every part of a `MultiPartResults`, their predictors, and the uncertainty of those."""

    # what the results that this serves have
    model: Any
    nobs: int
    k_fe: int
    k_coef: int
    params: np.ndarray
    theta: np.ndarray
    solution: Any
    optimum: Any
    family: Any
    dispersion: Any
    cov_params_default: Any
    deviance_function: Callable[[], Any]
    _slots: dict[str, Any]
    random_effects_cov: dict[str, np.ndarray]
    scales: tuple[str, ...]
    on_scale: Callable[..., np.ndarray]
    mean_link: Callable[..., Any]
    _prediction: Callable[..., Any]
    require_rows: Callable[[], None]

    def _own_rows(self):
        """The rows of the model by part: (part, design, offset, [(term, codes, columns)])."""
        self.require_rows()
        model, out = self.model, []
        given = [("cond", model.exog, model.offset), *((p.name, p.exog, p.offset) for p in model.parts)]
        for key, exog, offset in given:
            terms = []
            for i, (term, where) in enumerate(zip(model.random_effects.terms, model.term_parts, strict=True)):
                if key == ("zi" if where else "cond"):
                    columns = np.column_stack([np.ones(self.nobs) if c is None else c for c in term.columns])
                    terms.append((i, term.factor.codes, columns))
            out.append((key, exog, offset, terms))
        return out

    def _new_rows(self, frame, chosen, allow_new_levels, offset):
        """The same of new data, and their index; `chosen` are the terms to evaluate."""
        model, out, index = self.model, [], None
        designs = [("cond", getattr(model.data, "design", None)), *((p.name, p.design) for p in model.parts)]
        for key, design in designs:
            if design is None:
                raise OptionError("new data need a model from a formula; predict without exog takes the model's rows")
            where = 1 if key == "zi" else 0
            mine = [i for i, w in enumerate(model.term_parts) if w == where] if key != "disp" else []
            wanted = tuple(j for j, i in enumerate(mine) if i in chosen)
            given = offset if key == "cond" else None
            rows: NewRows = model.part_rows(design, mine, frame, wanted, allow_new_levels, given)
            exog, index = rows.exog, rows.index
            if key == "cond" and exog.shape[1] != self.k_fe:
                # a formula read again from a pickle has the intercept that an ordinal model leaves out
                names = list(design.exog_names)
                exog = exog[:, [names.index(name) for name in model.exog_names]]
            out.append((key, exog, rows.offset, [(mine[j], *rows.random[j]) for j in wanted]))
        return out, index

    def _chosen(self, random):
        """Random-effects terms that `random` names; a grouping factor's name means all its parts."""
        terms = self.model.random_layout.terms
        if isinstance(random, str) and random in ("all", "none"):
            return tuple(range(len(terms))) if random == "all" else ()
        names = [random] if isinstance(random, str) or not isinstance(random, Iterable) else list(random)
        known = {t.factor.name for t in terms} | {t.factor.name.removeprefix("zi:") for t in terms}
        for name in names:
            if not isinstance(name, str) or name not in known:
                raise OptionError(f"random must be 'all', 'none' or a list of {sorted(known)}, got {name!r}")
        return tuple(
            i for i, t in enumerate(terms) if t.factor.name in names or t.factor.name.removeprefix("zi:") in names
        )

    def _rows(self, frame, chosen, allow_new_levels=False, offset=None):
        """Rows by part with the chosen terms, and row labels."""
        if frame is None:
            rows = [(k, x, o, [t for t in terms if t[0] in chosen]) for k, x, o, terms in self._own_rows()]
            return rows, self.model.data.row_labels
        return self._new_rows(frame, chosen, allow_new_levels, offset)

    def _predictors(self, rows, b=None):
        """Linear predictors (m,), conditional, zero, dispersion, at the modes or other random effects `b`."""
        b, named = self.solution.b if b is None else b, {}
        for key, exog, offset, terms in rows:
            value = exog @ self.params[self._slots[key]]
            for i, codes, columns in terms:
                known = codes >= 0
                value[known] += (b[i][codes[known]] * columns[known]).sum(axis=1)
                value[np.isnan(columns).any(axis=1)] = np.nan
            named[key] = value if offset is None else value + offset
        return self._ordered(named)

    def _ordered(self, named):
        out = [named["cond"]]
        if self.model.has_zero_part:
            out.append(named["zi"])
        if self.family.has_dispersion:
            out.append(named["disp"] if "disp" in named else np.log(self.dispersion) * np.ones_like(out[0]))
        return out

    def own_predictors(self, b=None):
        """Linear predictors of the rows of the model, a list of (nobs,)."""
        return self._predictors(self._own_rows(), b)

    def _conditional_variance(self, rows, chosen):
        """Variance of the conditional predictor, random effects included."""
        _, exog, _, terms = rows[0]
        cov = np.asarray(self.cov_params_default)
        wide = np.zeros((len(exog), self.k_coef))
        wide[:, : self.k_fe] = exog
        wide[without_error(self, wide)] = np.nan
        if not chosen:
            return np.einsum("ij,jk,ik->i", wide, cov, wide)
        given = {i: (codes, columns) for i, codes, columns in terms}
        full = [
            given.get(i, (np.zeros(len(exog), dtype=np.intp), np.zeros((len(exog), term.q))))
            for i, term in enumerate(self.model.random_layout.terms)
        ]
        with blas_threads(0):
            return uncertainty.prediction_variance(self.deviance_function(), self.optimum, cov, wide, full)

    def predictor_law(self, frame, random, allow_new_levels):
        """Linear predictors, their standard deviations and row labels; random effects that are not chosen are new."""
        chosen = self._chosen(random)
        everything = tuple(range(len(self.model.random_layout.terms)))
        rows, index = self._rows(frame, chosen, allow_new_levels)
        predictors = self._predictors(rows)
        cov = np.asarray(self.cov_params_default)
        variances = {"cond": self._conditional_variance(rows, chosen)}
        lambdas = self.model.random_layout.lambdas(self.theta)
        for key, exog, _, terms in rows[1:]:
            at = self._slots[key]
            variances[key] = np.einsum("ij,jk,ik->i", exog, cov[at, at], exog)
            for i, codes, columns in terms:
                variances[key] = variances[key] + self._effect_variance(i, codes, columns, lambdas[i])
        left = [i for i in everything if i not in chosen]
        sloped = tuple(i for i in left if self.model.random_layout.terms[i].names != ("Intercept",))
        for i in left:
            if i not in sloped:
                # a random intercept needs no column of the data
                key = "zi" if self.model.term_parts[i] else "cond"
                variances[key] = variances[key] + float(lambdas[i][0, 0]) ** 2
        for key, _, _, terms in self._rows(frame, sloped, True)[0] if sloped else ():
            for i, _, columns in terms:
                variances[key] = variances[key] + np.square(columns @ lambdas[i]).sum(axis=1)
        sd = {key: np.sqrt(np.maximum(v, 0.0)) for key, v in variances.items()}
        zero = np.zeros_like(predictors[0])
        order = ["cond", *(["zi"] if self.model.has_zero_part else []), "disp"]
        return predictors, [sd.get(key, zero) for key in order[: len(predictors)]], index

    def _effect_variance(self, i, codes, columns, lam):
        """Variance (m,) of the random effects of term `i` given the data; of levels without data the marginal one."""
        terms = self.model.random_layout.terms
        name = terms[i].factor.name
        start = sum(term.q for term in terms[:i] if term.factor.name == name)
        at = slice(start, start + terms[i].q)
        known = codes >= 0
        blocks = self.random_effects_cov[name][:, at, at]
        given = np.einsum("ij,ijk,ik->i", columns, blocks[np.where(known, codes, 0)], columns)
        return np.where(known, given, np.square(columns @ lam).sum(axis=1))

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
        rows, index = self._rows(exog, self._chosen(random), allow_new_levels, offset)
        predictors = self._predictors(rows)
        weights = self.model.weights if exog is None else None
        values = self.on_scale(predictors, which, weights)
        return values if index is None else pd.Series(values, index=index)

    def get_prediction(
        self,
        exog=None,
        which="conditional",
        transform=True,
        row_labels=None,
        *,
        random="all",
        allow_new_levels=False,
        groups=None,
        exog_re=None,
        offset=None,
        kind="confidence",
    ):
        """Predict the conditional part with standard errors; parameters as in `MixedModelResults.get_prediction`.

        ``which`` is ``"linear"`` or ``"conditional"``, the mean beside the zero part (``"mean"`` is the same without a
        zero part); `prediction_interval` has intervals of responses with the zero part.
        """
        if which == "mean" and self.model.has_zero_part:
            raise OptionError(
                "standard errors are those of the conditional part: use which='conditional' or 'linear'; "
                "prediction_interval() has intervals of responses with the zero part"
            )
        if which not in ("mean", "conditional", "linear"):
            raise OptionError(f"which must be 'conditional' or 'linear', got {which!r}")
        chosen = self._chosen(random)
        rows, index = self._rows(exog, chosen, allow_new_levels, offset)
        predictors = self._predictors(rows)
        labels = index if row_labels is None else row_labels
        variance = self._conditional_variance(rows, chosen)
        if kind == "prediction":
            if self.model.has_zero_part:
                raise OptionError(
                    "kind='prediction' knows no zero part; prediction_interval() has intervals of responses with it"
                )
            from mvmise_sm.inference.prediction import observation_prediction

            return observation_prediction(self, predictors[0], variance, "mean", labels)
        scale = "linear" if which == "linear" else "mean"
        return self._prediction(predictors[0], variance, scale, labels, self.mean_link(predictors))
