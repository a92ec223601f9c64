"""The table of a scan, with what belongs to it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pandas as pd

from mvmise_sm.exceptions import OptionError
from mvmise_sm.options import answering

__all__ = ["COLUMNS", "ScanResult"]

COLUMNS = [
    "feature",
    "term",
    "estimate",
    "se",
    "z",
    "df",
    "p",
    "q",
    "nobs",
    "converged",
    "singular",
    "message",
]
_VALUES = ("estimate", "se", "p", "q")


@answering
class ScanResult(pd.DataFrame):
    """The table of a scan: a DataFrame with one row for every feature and term.

    Columns ``feature, term, estimate, se, z, df, p, q, nobs, converged, singular, message``. `se, z, df, p` belong to
    the test that was made: Student's t with `df` degrees of freedom, the normal distribution where `df` is infinite;
    `q` is the p-value adjusted over all features of a term. With ``moderate=`` two columns more, `se_own` and
    `df_own`, hold the feature's own; features with different numbers of outcomes have `n_outcomes`.

    A feature that could not be fitted is one row with its message, no term and no numbers; a fit that has not converged
    or is not identified has NaN and takes no part in `q`.

    Attributes
    ----------
    tests : DataFrame or None
        F tests by term: ``feature, term, f, df_num, df_denom, p, q``.
    prior : DataFrame or None
        Prior of the moderated variances, index ``term``: ``df_prior, var_prior, n_features``.
    variance_shares : DataFrame or None
        Index ``feature``; a column for every fixed term, grouping factor and ``Residual``; rows sum to one.
    """

    _metadata = ["tests", "prior", "variance_shares"]  # noqa: RUF012, the name and the type are pandas'
    tests: pd.DataFrame | None = None
    prior: pd.DataFrame | None = None
    variance_shares: pd.DataFrame | None = None

    @property
    def _constructor(self) -> type[ScanResult]:
        return ScanResult

    def failures(self) -> pd.DataFrame:
        """Features without numbers, by what went wrong.

        Returns
        -------
        DataFrame
            ``message, n, features``, the most frequent first; messages that differ in digits only are one, with ``#``
            in their place.
        """
        rows = self[self["se"].isna() & (self["message"] != "")]
        rows = pd.DataFrame(rows[["feature", "message"]]).drop_duplicates()
        rows["message"] = [re.sub(r"\d+", "#", str(m)) for m in rows["message"]]
        out = rows.groupby("message", sort=False)["feature"].agg(lambda f: list(dict.fromkeys(f))).reset_index()
        out = out.rename(columns={"feature": "features"})
        out.insert(1, "n", out["features"].map(len).astype(int))
        return out.sort_values("n", ascending=False, kind="stable").reset_index(drop=True)

    def wide(self, values: str | Sequence[str] = _VALUES) -> pd.DataFrame:
        """One row per feature.

        Parameters
        ----------
        values : str or sequence of str, optional
            Columns to spread over the terms.

        Returns
        -------
        DataFrame
            Index ``feature``, columns such as ``"estimate: B - A"``, term by term.
        """
        wanted = [values] if isinstance(values, str) else list(values)
        for name in wanted:
            if name not in self.columns or name in ("feature", "term"):
                raise OptionError(f"values: {name!r} is not a column; allowed are {list(self.columns[2:])}")
        terms = self._terms()
        names = pd.unique(self["feature"])
        known = pd.DataFrame(self)[self["term"].notna()]
        parts = {}
        for term in terms:
            own = known[known["term"] == term].set_index("feature")
            for name in wanted:
                parts[f"{name}: {term}"] = own[name].reindex(names)
        out = pd.DataFrame(parts, index=pd.Index(names, name="feature"))
        return out

    def top(self, term: str | None = None, n: int = 10) -> ScanResult:
        """Rows of one term, the smallest p-values first.

        Parameters
        ----------
        term : str, optional
            By default the only term besides the intercept.
        n : int, optional
            How many.
        """
        rows = self[self["term"] == self._term(term)]
        return rows[rows["p"].notna()].sort_values("p", kind="stable").head(n)

    def _terms(self) -> list[str]:
        return list(pd.unique(self["term"].dropna()))

    def _term(self, term: str | None) -> str:
        """The term that is meant."""
        found = self._terms()
        known = [t for t in found if t not in ("Intercept", "const")]
        if term is None and len(known) == 1:
            return known[0]
        if term not in found:
            raise OptionError(f"term must be one of {known}, got {term!r}")
        return term

    # --- plots

    def plot_volcano(
        self, term: str | None = None, *, alpha: float = 0.05, label: int | Sequence[str] = 10, ax: Any = None
    ) -> Any:
        """Draw -log10 p over the estimate of one term; returns the Axes.

        Parameters
        ----------
        term : str, optional
            By default the only term besides the intercept.
        alpha : float, optional
            Features with a q-value below it are highlighted.
        label : int or sequence of str, optional
            How many of the features with the smallest p-values to name, or the features to name.
        ax : matplotlib Axes, optional
        """
        from mvmise_sm.plots.scans import volcano

        return volcano(self, self._term(term), alpha, label, ax)

    def plot_ma(
        self,
        term: str | None = None,
        *,
        level: pd.Series | str | None = None,
        alpha: float = 0.05,
        label: int | Sequence[str] = 10,
        ax: Any = None,
    ) -> Any:
        """Draw the estimates of one term over the features' levels; returns the Axes.

        Parameters
        ----------
        term : str, optional
            By default the only term besides the intercept.
        level : Series or str, optional
            Level by feature, or the term whose estimate is the level; the intercept by default.
        alpha, label, ax
            As in `plot_volcano`.
        """
        from mvmise_sm.plots.scans import mean_difference

        return mean_difference(self, self._term(term), level, alpha, label, ax)

    def plot_p_values(self, term: str | None = None, *, bins: int = 20, ax: Any = None) -> Any:
        """Draw a histogram of the p-values of one term, flat where there is no effect; returns the Axes.

        Parameters
        ----------
        term : str, optional
            By default the only term besides the intercept.
        bins : int, optional
        ax : matplotlib Axes, optional
        """
        from mvmise_sm.plots.scans import p_values

        return p_values(self, self._term(term), bins, ax)

    def plot_variance_shares(self, *, ax: Any = None) -> Any:
        """Draw the distribution of the shares of variance over features; returns the Axes.

        Raises
        ------
        OptionError
            If the scan was made without ``variance_shares=True``.
        """
        from mvmise_sm.plots.scans import variance_shares

        if self.variance_shares is None:
            raise OptionError("there are no shares of variance; call scan with variance_shares=True")
        return variance_shares(self.variance_shares, ax)


def summary_of_failures(table: pd.DataFrame) -> str:
    """One sentence on the features without any number, empty if there are none."""
    known = table["se"].notna().groupby(table["feature"]).transform("any")
    found = ScanResult(table[~known]).failures()
    if not len(found):
        return ""
    failed = table.loc[~known, "feature"].nunique()
    reasons = "; ".join(f"{m} ({n})" for m, n in zip(found["message"][:3], found["n"][:3], strict=True))
    more = "" if len(found) <= 3 else "; ..."
    return f"{failed:,} of {table['feature'].nunique():,} features failed: {reasons}{more}"
