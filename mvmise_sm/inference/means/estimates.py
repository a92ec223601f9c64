"""Linear functions of the fixed effects with labels, and the tables of their estimates, tests and joint tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from mvmise_sm.exceptions import OptionError
from mvmise_sm.inference.anova import f_sf
from mvmise_sm.inference.means.adjust import SHOWN, Family
from mvmise_sm.inference.means.grid import Estimable
from mvmise_sm.inference.means.scales import IDENTITY, Scale

__all__ = ["Estimates", "level_text"]

_SIDES = ("two-sided", ">", "<")


def level_text(value: Any) -> str:
    """A level as part of a label: numbers without needless digits."""
    if isinstance(value, (float, np.floating)):
        return f"{value:.6g}"
    return str(value)


@dataclass(frozen=True, eq=False)
class Estimates:
    """Estimates of k linear (or linearised) functions of the fixed effects.

    Attributes
    ----------
    labels : DataFrame
        Columns `by`, then `specs` (k).
    by, specs : tuple of str
    rows : ndarray
        Coefficients in all columns of the design, dropped ones included (k, p_full).
    values : ndarray
        Estimates on the linear scale (k,).
    estimable : Estimable
    method : PlainDf, SatterthwaiteDf or KenwardRogerDf
        Covariance and degrees of freedom.
    scale : Scale
        Scale of the response.
    response : bool
        Whether estimates are shown on that scale.
    what : str
        What is estimated, for the heading.
    kind : str
        ``"means"``, ``"slopes"`` or the name of a set of contrasts.
    adjust : str
    alpha : float
    n_means : tuple of int
        Means compared in each group of `by`; empty for means.
    ratio : bool
        Whether the estimates are logarithms of ratios, shown as ratios.
    notes : tuple of str
        What the reader must know besides scale, degrees of freedom and adjustment.
    """

    labels: pd.DataFrame
    by: tuple[str, ...]
    specs: tuple[str, ...]
    rows: np.ndarray
    values: np.ndarray
    estimable: Estimable
    method: Any
    scale: Scale
    response: bool
    what: str
    kind: str
    adjust: str
    alpha: float
    n_means: tuple[int, ...] = ()
    ratio: bool = False
    notes: tuple[str, ...] = ()

    @property
    def is_contrast(self) -> bool:
        """Whether the rows are contrasts."""
        return self.kind not in ("means", "slopes")

    def groups(self) -> Iterator[np.ndarray]:
        """Positions of the rows of each group of `by`."""
        if not self.by:
            yield np.arange(len(self.labels))
            return
        codes = self.labels.groupby(list(self.by), sort=False, observed=True).ngroup().to_numpy()
        for code in range(codes.max() + 1 if len(codes) else 0):
            yield np.flatnonzero(codes == code)

    def wald(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Estimates, standard errors and degrees of freedom (k,) on the linear scale, NaN where not estimable."""
        known = self.estimable(self.rows) & np.isfinite(self.values)
        out = np.full((3, len(self.rows)), np.nan)
        rows = self.rows[known][:, self.estimable.kept]
        out[0, known] = self.values[known]
        if len(rows):
            out[1, known] = np.sqrt(np.maximum(np.einsum("qi,ij,qj->q", rows, self.method.cov, rows), 0.0))
            out[2, known] = self.method.df(rows)
        return out[0], out[1], out[2]

    def _family(self, at: np.ndarray, statistic: np.ndarray, df: np.ndarray, group: int) -> Family:
        rows = np.nan_to_num(self.rows[at][:, self.estimable.kept])
        cov = rows @ self.method.cov @ rows.T
        sd = np.sqrt(np.maximum(np.diag(cov), 1e-300))
        known = np.isfinite(statistic[at])
        rank = int(np.linalg.matrix_rank(rows[known])) if known.any() else 0
        n_means = self.n_means[group] if self.n_means else 0
        if self.kind in ("pairwise", "revpairwise") and not known.all():
            # pairs of m means are m (m - 1) / 2; the means of the pairs that can be estimated
            n_means = int(np.ceil(0.5 + np.sqrt(0.25 + 2.0 * known.sum())))
        return Family(statistic[at], df[at], cov / np.outer(sd, sd), n_means, rank)

    def statistics(self, null: float = 0.0) -> np.ndarray:
        """t statistics (k,) of the hypothesis that the linear functions are `null`."""
        estimate, se, _ = self.wald()
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(se > 0.0, (estimate - null) / se, np.nan)

    def intervals_and_p(self, null: float = 0.0, side: str = "two-sided", intervals: bool = True) -> tuple:
        """Statistics, adjusted p-values and, on the linear scale, the ends of the intervals (k,)."""
        estimate, se, df = self.wald()
        statistic = self.statistics(null)
        p, half = np.full(len(se), np.nan), np.full(len(se), np.nan)
        for group, at in enumerate(self.groups()):
            family = self._family(at, statistic, df, group)
            p[at] = family.p_values(self.adjust, side)
            if intervals:
                half[at] = family.quantiles(self.adjust, self.alpha) * se[at]
        return statistic, p, estimate - half, estimate + half

    def shown(self, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, ...]:
        """Estimates, standard errors and interval ends on the scale that the reader sees."""
        estimate, se, _ = self.wald()
        if self.ratio:
            base = self.scale.log_base or 1.0
            ratio = np.exp(base * estimate)
            return ratio, base * ratio * se, np.exp(base * low), np.exp(base * high)
        if not self.response or self.is_contrast:
            return estimate, se, low, high
        ends = np.sort(np.column_stack([self.scale.inverse(low), self.scale.inverse(high)]), axis=1)
        return self.scale.inverse(estimate), np.abs(self.scale.slope(estimate)) * se, ends[:, 0], ends[:, 1]

    def frame(self) -> pd.DataFrame:
        """Estimates with intervals, and tests for contrasts."""
        statistic, p, low, high = self.intervals_and_p()
        estimate, se, low, high = self.shown(low, high)
        columns = {"estimate": estimate, "std_error": se, "df": self.wald()[2]}
        if self.is_contrast:
            columns |= {"statistic": statistic, "p_value": p}
        return self.labels.assign(**columns, conf_low=low, conf_high=high)

    def tests(self, null: float, side: str) -> pd.DataFrame:
        """Estimates with tests in place of intervals."""
        if side not in _SIDES:
            raise OptionError(f"side must be 'two-sided', '>' or '<', got {side!r}")
        statistic, p, low, high = self.intervals_and_p(null, side, intervals=False)
        estimate, se, _, _ = self.shown(low, high)
        columns = {"estimate": estimate, "std_error": se, "df": self.wald()[2], "statistic": statistic, "p_value": p}
        return self.labels.assign(**columns)

    def joint(self, null: float) -> pd.DataFrame:
        """F test that all rows of each group of `by` are `null`; rows that cannot be estimated are left out."""
        out = []
        for at in self.groups():
            known = np.isfinite(self.rows[at]).all(axis=1) & np.isfinite(self.values[at])
            at = at[known]
            weights = self.estimable.combinations(self.rows[at]) if len(at) else np.zeros((0, 0))
            rows = weights @ self.rows[at][:, self.estimable.kept]
            values = weights @ (self.values[at] - null)
            if len(rows) and np.abs(rows).max() > 0.0 and np.isfinite(self.method.cov).all():
                f, df_num, df_denom = self.method.f_test(rows, values)
                out.append((df_num, df_denom, f, f_sf(f, df_num, df_denom)))
            else:
                out.append((0, np.nan, np.nan, np.nan))
        first = [at[0] for at in self.groups()]
        labels = self.labels.iloc[first][list(self.by)].reset_index(drop=True)
        return labels.join(pd.DataFrame(out, columns=["df_num", "df_denom", "F", "p_value"]).astype({"df_num": int}))

    def contrasted(self, weights: Sequence[np.ndarray], at: Sequence[np.ndarray], **changes: Any) -> Estimates:
        """Combinations of the rows of each group: weights (q, k_g) of the rows at positions `at` (k_g)."""
        rows = np.vstack([w @ np.nan_to_num(self.rows[i], nan=0.0) for w, i in zip(weights, at, strict=True)])
        values = np.concatenate([_combined(w, self.values[i]) for w, i in zip(weights, at, strict=True)])
        for start, (w, i) in zip(np.cumsum([0, *map(len, weights)]), zip(weights, at, strict=True), strict=False):
            # a mean without weights spoils every contrast that uses it
            lost = np.isnan(self.rows[i]).any(axis=1)
            rows[start : start + len(w)][(np.abs(w[:, lost]) > 0.0).any(axis=1)] = np.nan
        return replace(self, rows=rows, values=values, **changes)

    def linearised(self) -> Estimates:
        """The same estimates on the scale of the response, by the delta method."""
        slope = self.scale.slope(self.values)
        note = f"Estimates were transformed from the {self.scale.name} scale; tests are on the scale of the response."
        return replace(
            self,
            rows=slope[:, None] * self.rows,
            values=self.scale.inverse(self.values),
            scale=IDENTITY,
            notes=(*self.notes, note),
        )

    def lines(self, tests: str = "") -> list[str]:
        """Heading and notes of the table, one line each."""
        out = [self.what, *self.notes, f"Degrees of freedom: {self.method.label}."]
        if self.adjust != "none" and any(len(at) > 1 for at in self.groups()):
            out.append(self._adjustment(tests))
        out += self._scale_notes()
        lost = np.isnan(self.wald()[0])
        if lost.any():
            names = self.labels[lost].apply(lambda row: " ".join(map(level_text, row)), axis=1)
            out.append(f"Not estimable from these data: {', '.join(names)}.")
        return out

    def _adjustment(self, tests: str) -> str:
        estimate, _, _ = self.wald()
        sizes = {int(np.isfinite(estimate[at]).sum()) for at in self.groups()}
        size = f"{min(sizes)} to {max(sizes)}" if len(sizes) > 1 else str(next(iter(sizes), 0))
        what = tests or ("P-values and intervals" if self.is_contrast else "Intervals")
        text = f"{what} adjusted after {SHOWN[self.adjust]} for families of {size}"
        if self.adjust in ("holm", "fdr") and not tests:
            text += "; intervals are Bonferroni's"
        return text + "."

    def _scale_notes(self) -> list[str]:
        if self.scale.is_identity:
            return []
        name = self.scale.name
        if not self.response:
            return [f"Estimates are on the {name} scale."]
        if self.ratio:
            return [f"Estimates are {self.scale.ratio}; tests and intervals are computed on the {name} scale."]
        if self.is_contrast:
            return [
                f"Differences are on the {name} scale; regrid=True gives differences of means on the scale of the "
                "response."
            ]
        return [f"Estimates are on the scale of the response; intervals and tests are computed on the {name} scale."]


def _combined(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Weights times values, where a weight of zero leaves a missing value out."""
    lost = np.isnan(values)
    out = weights @ np.where(lost, 0.0, values)
    out[(np.abs(weights[:, lost]) > 0.0).any(axis=1)] = np.nan
    return out
