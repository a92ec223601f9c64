"""One feature after the other: any model, fitted by its own `fit`, as rows of numbers."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from mvmise_sm.core.threads import blas_threads
from mvmise_sm.exceptions import DataError, MissingDataError, RankWarning, SeparationWarning
from mvmise_sm.inference.ddf import denominator
from mvmise_sm.inference.fits import unwrap
from mvmise_sm.scanning.contrasts import Report, is_term
from mvmise_sm.scanning.estimable import OwnColumns
from mvmise_sm.scanning.orphans import end_with_parent
from mvmise_sm.scanning.reduced import reduced
from mvmise_sm.scanning.rows import Rows
from mvmise_sm.scanning.shares import shares_of

__all__ = [
    "PLACEHOLDER",
    "Feature",
    "FeatureFits",
    "GeneralizedFits",
    "LinearFits",
    "Numbers",
    "OneResponseFits",
    "SelectionFits",
]

PLACEHOLDER = "feature__"


@dataclass(frozen=True, eq=False)
class Feature:
    """One feature on its way to a fit.

    Attributes
    ----------
    name : str
    outcomes : DataFrame
        (N, K), NaN where missing.
    weights : ndarray or None
        (N, K).
    """

    name: str
    outcomes: pd.DataFrame
    weights: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Numbers:
    """What a fit says.

    Attributes
    ----------
    terms : list of str
    estimate, se, df : ndarray
        (c,).
    tests : dict
        Term -> (F, numerator df, denominator df, generalised standard error).
    theta : ndarray
        Relative covariance parameters of a linear mixed model, else empty.
    sigma2, sigma2_df : float
        Residual variance and its degrees of freedom; NaN where the model has none.
    shares : dict
    nobs : int
    converged, singular : bool
    notes : list of str
        What the reader of a NaN must know, by term; empty where there is nothing to say.
    """

    terms: list[str]
    estimate: np.ndarray
    se: np.ndarray
    df: np.ndarray
    nobs: int
    converged: bool = True
    singular: bool = False
    tests: dict[str, tuple[float, float, float, float]] = field(default_factory=dict)
    theta: np.ndarray = field(default_factory=lambda: np.zeros(0))
    sigma2: float = np.nan
    sigma2_df: float = np.nan
    shares: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, eq=False)  # hashed by identity: Dask looks tasks up by their function
class FeatureFits:
    """Fits one model to one feature after the other; pickles, so that it can run in any process.

    Attributes
    ----------
    template : model
        Carries the design; features replace its outcomes.
    positions : ndarray
        Samples of the rows of the template (n,).
    report : Report
    ddf : str or None
        Degrees of freedom of linear mixed models.
    fit_options : dict
    shared_weights : ndarray or None
        Weights of the template's rows (n,).
    parent : int
        Process that runs the scan; its workers end with it.
    """

    template: Any = field(repr=False)
    positions: np.ndarray = field(repr=False)
    report: Report = field(repr=False)
    ddf: str | None
    fit_options: dict
    shared_weights: np.ndarray | None = field(default=None, repr=False)
    parent: int = 0

    def __call__(self, chunk: Sequence[Feature]) -> pd.DataFrame:
        """Rows of several features."""
        from threadpoolctl import threadpool_limits

        end_with_parent(self.parent)
        out = Rows()
        with threadpool_limits(limits=1):
            for feature in chunk:
                self.add(out, feature)
        return out.frame()

    def add(self, out: Rows, feature: Feature) -> None:
        """Fit one feature; whatever goes wrong becomes its message."""
        K = feature.outcomes.shape[1]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                found = self.fitted(feature)
            except Exception as error:
                text = _named(f"{type(error).__name__}: {error}", feature.outcomes.columns)
                out.fail(feature.name, text, K)
                return
        # that columns were dropped is said by term, and better
        noted = any(found.notes)
        sentences = [str(w.message) for w in caught if not (noted and issubclass(w.category, RankWarning))]
        message = _named("; ".join(dict.fromkeys(sentences)), feature.outcomes.columns)
        separated = any(issubclass(w.category, SeparationWarning) for w in caught)
        add_numbers(out, feature.name, found, K, message, known=found.converged and not separated)

    def fitted(self, feature: Feature) -> Numbers:
        """Fit and report one feature."""
        raise NotImplementedError

    def units(self, chunk: Sequence[Feature], theta: np.ndarray) -> pd.DataFrame:
        """Variances of the reported combinations over the residual variance at a common theta."""
        raise NotImplementedError


def add_numbers(out: Rows, name: str, found: Numbers, K: int, message: str, known: bool) -> None:
    """Add what a fit says; without numbers where it is not a maximum or not identified."""
    if any(found.notes):
        message = ["; ".join(s for s in (note, message) if s) for note in found.notes]  # type: ignore[assignment]
    common: dict[str, Any] = {
        "nobs": found.nobs, "n_outcomes": K, "converged": known, "singular": found.singular, "message": message,
    }  # fmt: skip
    if not known:
        nothing = np.full(len(found.terms), np.nan)
        out.add(name, "term", found.terms, nothing, nothing, nothing, **common)
        return
    out.add(name, "term", found.terms, found.estimate, found.se, found.df, **common)
    if found.tests:
        f, df_num, df, size = np.array(list(found.tests.values()), dtype=float).T
        out.add(name, "test", list(found.tests), f, size, df, df_num=df_num)
    if found.shares:
        out.add(name, "share", list(found.shares), list(found.shares.values()), np.nan, np.nan)
    if np.isfinite(found.sigma2):
        out.add(name, "theta", [str(i) for i in range(len(found.theta))], found.theta, np.nan, np.nan)
        out.add(name, "sigma2", ["sigma2"], [found.sigma2], np.nan, [found.sigma2_df])


class OneResponseFits(FeatureFits):
    """Models with one response: rows without a value are left out."""

    def observed(self, feature: Feature) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
        """Values and weights of one feature on the template's rows, and which rows have both (n,)."""
        values = _numbers(feature.outcomes)[self.positions]
        weights = self.shared_weights
        if feature.weights is not None:
            weights = feature.weights[:, 0][self.positions]
        kept = ~np.isnan(values)
        if weights is not None:
            kept &= weights > 0.0
        if not kept.any():
            missing = int(np.isnan(values).sum())
            raise MissingDataError(
                f"no complete rows are left; values are missing in {feature.outcomes.columns[0]} "
                f"({missing} of {len(values)} rows)"
            )
        return values, weights, kept

    def model(self, feature: Feature) -> tuple[Any, np.ndarray]:
        """The model of one feature and its rows among the template's (n,)."""
        values, weights, kept = self.observed(feature)
        if kept.all() and weights is None:
            return self.template.with_endog(values), kept
        return self.template.on_rows(values[kept], kept, None if weights is None else weights[kept]), kept


class LinearFits(OneResponseFits):
    """Linear mixed models; attributes as in `FeatureFits`."""

    def fitted(self, feature: Feature) -> Numbers:
        model, kept = self.model(feature)
        result = unwrap(model.fit(**self.fit_options))
        own = OwnColumns.of(self.report, self.template, model, kept)
        terms, rows = self.report.rows()
        method = denominator(result, self.ddf)
        params = np.asarray(result.params)
        estimate, se, df = (np.full(len(terms), np.nan) for _ in range(3))
        known = own.estimable(rows)
        reduced = own.reduced(rows[known])
        estimate[known] = reduced @ params
        se[known] = np.sqrt(np.einsum("qi,ij,qj->q", reduced, method.cov, reduced))
        df[known] = method.df(reduced) if len(reduced) else []
        tests = {}
        for name, contrasts in self.report.tests.items():
            if own.estimable(contrasts).all():
                tests[name] = _f_test(method, own.reduced(contrasts), params)
        random = model.random_effects
        return Numbers(
            terms,
            estimate,
            se,
            df,
            nobs=int(result.nobs),
            converged=bool(result.converged),
            singular=bool(result.singular),
            tests=tests,
            theta=np.asarray(result.theta),
            sigma2=float(result.scale),
            sigma2_df=float(result.nobs - len(params) - sum(f.n_levels - 1 for f in random.factors)),
            shares=shares_of(self.template, result, own) if self.report.shares else {},
            notes=own.notes(terms, known),
        )

    def units(self, chunk: Sequence[Feature], theta: np.ndarray) -> pd.DataFrame:
        """Rows ``feature, kind, term, unit``: c'(X'V0^-1X)^-1c with V0 at `theta` on the feature's rows."""
        end_with_parent(self.parent)
        terms, rows = self.report.rows()
        out: list[tuple[str, str, str, float]] = []
        for feature in chunk:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model, kept = self.model(feature)
                criterion = model.criterion(bool(self.fit_options.get("reml", True)))
            own = OwnColumns.of(self.report, self.template, model, kept)
            with blas_threads(criterion.layout.n_random):
                cov = criterion.solve(theta).cov_beta
            for term, row in zip(terms, rows, strict=True):
                if own.estimable(row[None]).all():
                    c = own.reduced(row[None])
                    out.append((feature.name, "term", term, float(c[0] @ cov @ c[0])))
            for term, matrix in self.report.tests.items():
                if own.estimable(matrix).all():
                    c = own.reduced(matrix)
                    out.append((feature.name, "test", term, float(np.linalg.det(c @ cov @ c.T)) ** (1.0 / len(c))))
        return pd.DataFrame(out, columns=["feature", "kind", "term", "unit"])


class MissingValueFits(LinearFits):
    """Linear mixed models whose missing values are part of the likelihood; attributes as in `FeatureFits`."""

    def model(self, feature: Feature) -> tuple[Any, np.ndarray]:
        """The model of one feature on all rows of the template (n,)."""
        values = _numbers(feature.outcomes)[self.positions]
        return self.template.with_endog(values), np.ones(values.size, dtype=bool)


class GeneralizedFits(OneResponseFits):
    """Generalised linear mixed models; attributes as in `FeatureFits`."""

    def fitted(self, feature: Feature) -> Numbers:
        model, kept = self.model(feature)
        result = unwrap(model.fit(**self.fit_options))
        own = OwnColumns.of(self.report, self.template, model, kept)
        terms, rows = self.report.rows()
        known = own.estimable(rows)
        return _wald_numbers(result, terms, rows, known, own, self.report.tests)


class SelectionFits(FeatureFits):
    """Selection models, with any number of outcomes; attributes as in `FeatureFits`."""

    def fitted(self, feature: Feature) -> Numbers:
        outcomes = feature.outcomes.iloc[self.positions]
        outcomes = outcomes.set_axis([str(c) for c in outcomes.columns], axis=1)
        outcomes = outcomes.set_axis(self.template.design.endog.index, axis=0)
        smaller = None
        try:
            model = self.template.with_endog(outcomes)
        except DataError:
            smaller = reduced(self.template, outcomes)
            if smaller is None:
                raise
            model = smaller.template.with_endog(outcomes)
        result = unwrap(model.fit(**self.fit_options))
        own_names = list(model.exog_names)
        names = own_names if smaller is None else smaller.names
        own = OwnColumns.whole(len(names)) if smaller is None else smaller.own
        # the kept columns in the order of the fit
        order = [own_names.index(names[j]) for j in own.kept]
        report = self.report
        if report.contrasts is None:
            terms = [n for n in names if self._wants(n)]
            rows = np.eye(len(names))[[names.index(n) for n in terms]]
        else:
            terms = list(report.contrasts)
            rows = np.array([_renamed(c, report.names, names) for c in report.contrasts.values()])
        tests = {term: np.array([_renamed(r, report.names, names) for r in m]) for term, m in report.tests.items()}
        params = np.asarray(result.params)[order]
        cov, df_all = np.asarray(result.cov_params())[np.ix_(order, order)], _wald_df(result)[order]
        known = own.estimable(rows)
        estimate, se, df = (np.full(len(terms), np.nan) for _ in range(3))
        some = own.reduced(rows[known])
        estimate[known] = some @ params
        variance = np.einsum("qi,ij,qj->q", some, cov, some)
        se[known] = np.sqrt(np.where(variance > 0.0, variance, np.nan))
        df[known] = [df_all[row != 0.0].min(initial=np.inf) for row in some]
        return Numbers(
            terms,
            estimate,
            se,
            df,
            nobs=int(result.n_observed),
            converged=bool(result.converged),
            tests={
                t: _wald_test(own.reduced(m), params, cov, df_all) for t, m in tests.items() if own.estimable(m).all()
            },
            notes=own.notes(terms, known),
        )

    def _wants(self, name: str) -> bool:
        """Own intercepts are nuisances unless they are asked for, also that of a feature with one outcome only."""
        if self.report.terms is not None:
            return self.report.wants(name)
        design = self.template.design
        own = [str(design.common_exog.columns[j]) for j in design.own_effects] if design.common_exog is not None else []
        several = len(self.template.outcome_names) > 1
        return not (several and "Intercept" in own and is_term(name, "Intercept"))


def _numbers(values: pd.DataFrame) -> np.ndarray:
    """One response (N,)."""
    if values.shape[1] != 1:
        raise DataError(f"one response is needed, found {[str(c) for c in values.columns]}")
    try:
        out = values.to_numpy(dtype=float, na_value=np.nan)[:, 0]
    except (TypeError, ValueError):
        raise DataError(f"feature {values.columns[0]!r} must be numeric") from None
    if np.isinf(out).any():
        raise DataError(f"feature {values.columns[0]!r} has infinite values")
    return out


def _named(message: str, columns: Sequence) -> str:
    """The message with the features' own names."""
    for k, column in enumerate(columns):
        message = message.replace(f"{PLACEHOLDER}{k}", str(column))
    return message


def _f_test(method: Any, contrasts: np.ndarray, params: np.ndarray) -> tuple[float, float, float, float]:
    """F, its degrees of freedom and det(L cov L')^(1/2k)."""
    f, df_num, df = method.f_test(contrasts, contrasts @ params)
    size = np.linalg.det(contrasts @ method.cov @ contrasts.T) ** (0.5 / len(contrasts))
    return float(f), float(df_num), float(df), float(size)


def _wald_test(contrasts: np.ndarray, params: np.ndarray, cov: np.ndarray, df: np.ndarray) -> tuple:
    """The same from a covariance alone, with the smallest degrees of freedom of the coefficients involved."""
    inner, values = contrasts @ cov @ contrasts.T, contrasts @ params
    k = len(contrasts)
    own = df[(contrasts != 0.0).any(axis=0)].min()
    if not np.isfinite(inner).all():
        return np.nan, float(k), float(own), np.nan
    return float(values @ np.linalg.solve(inner, values)) / k, float(k), float(own), np.nan


def _wald_df(result: Any) -> np.ndarray:
    """Degrees of freedom of the coefficients, infinite for the normal distribution."""
    if not result.use_t:
        return np.full(len(result.params), np.inf)
    return np.broadcast_to(np.asarray(result.df_resid_inference, dtype=float), len(result.params))


def _wald_numbers(result: Any, terms: list, rows: np.ndarray, known: np.ndarray, own: OwnColumns, tests: dict) -> Any:
    cov, params = np.asarray(result.cov_params()), np.asarray(result.params)
    df_all = np.full(len(params), float(result.df_resid) if result.use_t else np.inf)
    estimate, se, df = (np.full(len(terms), np.nan) for _ in range(3))
    reduced = own.reduced(rows[known])
    estimate[known] = reduced @ params
    variance = np.einsum("qi,ij,qj->q", reduced, cov, reduced)
    se[known] = np.sqrt(np.where(variance > 0.0, variance, np.nan))
    df[known] = df_all[0] if len(df_all) else np.inf
    return Numbers(
        terms,
        estimate,
        se,
        df,
        nobs=int(result.nobs),
        converged=bool(result.converged),
        singular=bool(result.singular),
        tests={t: _wald_test(own.reduced(m), params, cov, df_all) for t, m in tests.items() if own.estimable(m).all()},
        notes=own.notes(terms, known),
    )


def _renamed(row: np.ndarray, names: Sequence[str], own: Sequence[str]) -> np.ndarray:
    """A combination of the design's fixed effects (p,) in those of one feature."""
    out = np.zeros(len(own))
    for name, value in zip(names, row, strict=True):
        if value == 0.0:
            continue
        if name not in own:
            raise DataError(
                f"contrasts: {name!r} has one value per outcome here; name the fixed effects of one outcome"
            )
        out[list(own).index(name)] = value
    return out
