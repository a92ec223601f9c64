"""The table in which fits arrive: one row for every number that a feature has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

__all__ = ["RAW", "Rows", "empty_rows"]

# kinds of rows: "term" (a coefficient or contrast), "test" (F), "share" (of variance), "theta", "sigma2", "digest"
RAW = (
    "feature",
    "kind",
    "term",
    "estimate",
    "se",
    "df",
    "df_num",
    "nobs",
    "n_outcomes",
    "converged",
    "singular",
    "message",
)
_TEXT = ("feature", "kind", "term", "message")
_NUMBER = ("estimate", "se", "df", "df_num")


@dataclass
class Rows:
    """Rows of several features, collected column by column.

    Attributes
    ----------
    columns : dict
        Column of `RAW` -> values.
    """

    columns: dict[str, list] = field(default_factory=lambda: {name: [] for name in RAW})

    def add(
        self,
        feature: str,
        kind: str,
        terms: Sequence[str | None],
        estimate: Sequence[float] | np.ndarray,
        se: Sequence[float] | np.ndarray,
        df: Sequence[float] | np.ndarray,
        *,
        df_num: Sequence[float] | np.ndarray | None = None,
        nobs: int = 0,
        n_outcomes: int = 1,
        converged: bool = True,
        singular: bool = False,
        message: str = "",
    ) -> None:
        """Add the rows of one kind of one feature."""
        n = len(terms)
        c = self.columns
        c["feature"] += [feature] * n
        c["kind"] += [kind] * n
        c["term"] += list(terms)
        for name, values in (("estimate", estimate), ("se", se), ("df", df)):
            c[name] += np.broadcast_to(np.asarray(values, dtype=float), n).tolist()
        c["df_num"] += [np.nan] * n if df_num is None else np.asarray(df_num, dtype=float).tolist()
        for name, value in (
            ("nobs", nobs),
            ("n_outcomes", n_outcomes),
            ("converged", converged),
            ("singular", singular),
            ("message", message),
        ):
            c[name] += [value] * n

    def fail(self, feature: str, message: str, n_outcomes: int = 1, nobs: int = 0) -> None:
        """Add the one row of a feature without a fit."""
        self.add(
            feature, "term", [None], [np.nan], [np.nan], [np.nan],
            nobs=nobs, n_outcomes=n_outcomes, converged=False, message=message,
        )  # fmt: skip

    def frame(self) -> pd.DataFrame:
        """The rows as a table."""
        return typed(pd.DataFrame(self.columns, columns=list(RAW)))


def typed(frame: pd.DataFrame) -> pd.DataFrame:
    """The same rows with the types that every part has."""
    kinds = dict.fromkeys(_TEXT, object) | dict.fromkeys(_NUMBER, float)
    kinds |= {"nobs": np.int64, "n_outcomes": np.int64, "converged": bool, "singular": bool}
    return frame.astype(kinds)


def empty_rows() -> pd.DataFrame:
    """A table without rows."""
    return Rows().frame()
