"""P-values and intervals of a family of tests, adjusted for their number."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from mvmise_sm.exceptions import OptionError
from mvmise_sm.inference.means.simultaneous import MaxLaw, max_law, range_law

__all__ = ["ADJUSTMENTS", "SHOWN", "Family", "checked_adjust"]

SHOWN = {
    "tukey": "Tukey",
    "dunnett": "Dunnett",
    "mvt": "the multivariate t distribution",
    "holm": "Holm",
    "sidak": "Sidak",
    "bonferroni": "Bonferroni",
    "fdr": "Benjamini and Hochberg",
    "scheffe": "Scheffe",
}
ADJUSTMENTS = (*SHOWN, "none")


def checked_adjust(adjust: str | None) -> str:
    """The name of an adjustment; None means none.

    Raises
    ------
    OptionError
    """
    if adjust is None:
        return "none"
    name = {"bh": "fdr", "bonf": "bonferroni"}.get(str(adjust).lower(), adjust)
    if name not in ADJUSTMENTS:
        raise OptionError(f"adjust must be one of {', '.join(map(repr, ADJUSTMENTS))}, got {adjust!r}")
    return name


@dataclass(frozen=True, eq=False)
class Family:
    """Tests that are adjusted together; those that cannot be estimated do not count.

    Attributes
    ----------
    statistic, df : ndarray
        (n,); NaN where a row is not estimable.
    correlation : ndarray
        Of the estimates (n, n).
    n_means : int
        Means that pairwise differences compare; 0 for other tests.
    rank : int
        Rank of the contrasts.
    """

    statistic: np.ndarray
    df: np.ndarray
    correlation: np.ndarray
    n_means: int
    rank: int

    @property
    def known(self) -> np.ndarray:
        """Which rows have a test (n,)."""
        return np.isfinite(self.statistic) & (self.df > 0.0)

    @property
    def size(self) -> int:
        """Number of tests."""
        return int(self.known.sum())

    def p_values(self, adjust: str, side: str = "two-sided") -> np.ndarray:
        """Adjusted p-values (n,), NaN for rows without a test."""
        out = np.full(len(self.statistic), np.nan)
        known = self.known
        if not known.any():
            return out
        t, df = self.statistic[known], self.df[known]
        upper = -t if side == "<" else t
        raw = 2.0 * stats.t.sf(np.abs(t), df) if side == "two-sided" else stats.t.sf(upper, df)
        if adjust == "none" or self.size == 1:
            out[known] = raw
        elif adjust == "scheffe":
            if side != "two-sided":
                raise OptionError("Scheffe's adjustment is two-sided; use adjust='mvt' with side")
            out[known] = stats.f.sf(t**2 / self.rank, self.rank, df)
        elif adjust in ("tukey", "dunnett", "mvt"):
            two_sided = side == "two-sided"
            out[known] = self._law(adjust, two_sided).tail(np.abs(t) if two_sided else upper, df)
        elif adjust == "sidak":
            out[known] = -np.expm1(self.size * np.log1p(-raw))
        else:
            from statsmodels.stats.multitest import multipletests

            out[known] = multipletests(raw, method={"fdr": "fdr_bh"}.get(adjust, adjust))[1]
        return out

    def quantiles(self, adjust: str, alpha: float) -> np.ndarray:
        """Standard errors on either side of simultaneous intervals (n,); those of Holm and fdr are Bonferroni's."""
        out = np.full(len(self.statistic), np.nan)
        known = self.known
        if not known.any():
            return out
        df, n = self.df[known], self.size
        if adjust == "none" or n == 1:
            out[known] = stats.t.isf(0.5 * alpha, df)
        elif adjust == "scheffe":
            out[known] = np.sqrt(self.rank * stats.f.isf(alpha, self.rank, df))
        elif adjust in ("tukey", "dunnett", "mvt"):
            out[known] = self._law(adjust, True).quantile(alpha, df)
        else:
            level = -np.expm1(np.log1p(-alpha) / n) if adjust == "sidak" else alpha / n
            out[known] = stats.t.isf(0.5 * level, df)
        return out

    def _law(self, adjust: str, two_sided: bool) -> MaxLaw:
        if adjust == "tukey":
            if two_sided:
                return range_law(self.n_means)
            raise OptionError("Tukey's adjustment is two-sided; use adjust='mvt' with side")
        known = np.flatnonzero(self.known)
        return max_law(self.correlation[np.ix_(known, known)], two_sided)
