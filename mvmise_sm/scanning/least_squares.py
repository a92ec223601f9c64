"""Least squares without random effects: the same table, and limma's tests once variances are moderated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from mvmise_sm.core.criteria.batched import BatchDesign
from mvmise_sm.core.optimise.batched import fit_batch
from mvmise_sm.core.uncertainty.batched import BatchPlain, units
from mvmise_sm.design.build import Design, build_design
from mvmise_sm.design.rank import independent_columns
from mvmise_sm.exceptions import DataError, OptionError
from mvmise_sm.formula.parts import parse_formula
from mvmise_sm.scanning.estimable import OwnColumns, absent_levels
from mvmise_sm.scanning.fits import Feature, Numbers, OneResponseFits

__all__ = ["LeastSquares", "LeastSquaresFits"]


@dataclass(frozen=True, eq=False)
class LeastSquares:
    """A design without random effects, with the members of a model that a scan reads.

    Attributes
    ----------
    design : Design
    weights : ndarray or None
        (n,).
    """

    design: Design
    weights: np.ndarray | None = None

    @classmethod
    def from_formula(
        cls, formula: str, data: pd.DataFrame, *, eval_env: Any, weights: Any = None, **options: Any
    ) -> Any:
        """Evaluate a formula; options are those of `build_design`."""
        design = build_design(parse_formula(formula), data, namespace=eval_env, weights=weights, **options)
        if design.random is not None:
            raise OptionError("model='ols' takes a formula without random effects; use model='lmer'")
        return cls(design, design.weights)

    @property
    def data(self) -> LeastSquares:
        """Itself: where a model keeps its design."""
        return self

    @cached_property
    def exog(self) -> np.ndarray:
        """Fixed effects (n, p)."""
        return self.design.exog.to_numpy()

    @property
    def exog_names(self) -> list[str]:
        """Names of the fixed effects (p)."""
        return list(self.design.exog_names)

    @property
    def offset(self) -> np.ndarray | None:
        """(n,)."""
        return self.design.offset


class LeastSquaresFits(OneResponseFits):
    """Least squares, one feature at a time; attributes as in `FeatureFits`."""

    def prepared(self, feature: Feature) -> tuple[np.ndarray, np.ndarray | None, np.ndarray, OwnColumns]:
        """Response and weights of the feature's rows (m,), its design (m, r), and what that determines."""
        values, weights, kept = self.observed(feature)
        y = values[kept] if self.template.offset is None else (values - self.template.offset)[kept]
        exog = self.template.exog[kept]
        columns = np.asarray(independent_columns(exog))
        if len(columns) >= len(y):
            raise DataError(f"the fixed effects have {len(columns)} independent columns for {len(y)} rows")
        if np.ptp(y) == 0.0:
            raise DataError(f"the response {feature.name!r} is constant ({y[0]:g} in all {len(y)} rows)")
        own = OwnColumns.among(exog, columns, absent_levels(self.template.data.design, kept))
        if weights is None:
            weights = self.template.weights
        return y, None if weights is None else weights[kept], exog[:, columns], own

    def fitted(self, feature: Feature) -> Numbers:
        y, weights, exog, own = self.prepared(feature)
        design = BatchDesign(exog, None, weights=weights)
        tests = BatchPlain(fit_batch(design, y[:, None]), residual=self.ddf is not None)
        terms, rows = self.report.rows()
        known = own.estimable(rows)
        estimate, se, df = (np.full(len(terms), np.nan) for _ in range(3))
        reduced = own.reduced(rows[known])
        estimate[known] = tests.estimates(reduced)[0]
        se[known] = np.sqrt(tests.variances(reduced)[0])
        df[known] = tests.df(reduced)[0]
        found = {}
        for name, matrix in self.report.tests.items():
            if own.estimable(matrix).all():
                f, df_denom, size = tests.f_tests(own.reduced(matrix))
                found[name] = (float(f[0]), float(len(matrix)), float(df_denom[0]), float(np.sqrt(size[0])))
        sigma2 = float(tests.fit.at.sigma2[0])
        return Numbers(
            terms,
            estimate,
            se,
            df,
            nobs=len(y),
            converged=bool(tests.fit.converged[0]),
            tests=found,
            sigma2=sigma2,
            sigma2_df=float(len(y) - exog.shape[1]),
            notes=own.notes(terms, known),
        )

    def units(self, chunk: Sequence[Feature], theta: np.ndarray) -> pd.DataFrame:
        """As in `LinearFits`; there is no `theta`."""
        terms, rows = self.report.rows()
        out: list[tuple[str, str, str, float]] = []
        for feature in chunk:
            y, weights, exog, own = self.prepared(feature)
            design = BatchDesign(exog, None, weights=weights)
            known = own.estimable(rows)
            tests = {name: own.reduced(m) for name, m in self.report.tests.items() if own.estimable(m).all()}
            found = units(design, y[:, None], None, theta, own.reduced(rows[known]), list(tests.values()))
            names = [t for t, k in zip(terms, known, strict=True) if k]
            out += [(feature.name, "term", t, float(u)) for t, u in zip(names, found.contrasts[0], strict=True)]
            out += [(feature.name, "test", t, float(u[0])) for t, u in zip(tests, found.tests, strict=True)]
        return pd.DataFrame(out, columns=["feature", "kind", "term", "unit"])
