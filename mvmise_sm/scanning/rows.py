"""The table in which fits arrive: one row for every number that a feature has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from mvmise_sm.models.linear import SINGULAR

__all__ = ["RAW", "Columns", "Rows", "empty_rows", "object_frame", "typed"]

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
        estimate: float | Sequence[float] | np.ndarray,
        se: float | Sequence[float] | np.ndarray,
        df: float | Sequence[float] | np.ndarray,
        *,
        df_num: Sequence[float] | np.ndarray | None = None,
        nobs: int = 0,
        n_outcomes: int = 1,
        converged: bool = True,
        singular: bool = False,
        message: str | Sequence[str] = "",
    ) -> None:
        """Add the rows of one kind of one feature; `message` is one for all or one for each."""
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
        ):
            c[name] += [value] * n
        c["message"] += [message] * n if isinstance(message, str) else list(message)

    def fail(self, feature: str, message: str, n_outcomes: int = 1, nobs: int = 0) -> None:
        """Add the one row of a feature without a fit."""
        self.add(
            feature, "term", [None], [np.nan], [np.nan], [np.nan],
            nobs=nobs, n_outcomes=n_outcomes, converged=False, message=message,
        )  # fmt: skip

    def frame(self) -> pd.DataFrame:
        """The rows as a table."""
        return typed(pd.DataFrame(self.columns, columns=list(RAW)))


@dataclass
class Columns:
    """Rows of several features at once, from arrays.

    Attributes
    ----------
    names : ndarray
        Features (F,).
    nobs, singular : ndarray
        (F,).
    parts : list of dict
    """

    names: np.ndarray
    nobs: np.ndarray
    singular: np.ndarray
    parts: list[dict] = field(default_factory=list)

    def add(
        self,
        kind: str,
        terms: Sequence[str],
        estimate: np.ndarray,
        se: np.ndarray | None = None,
        df: np.ndarray | None = None,
        df_num: float = np.nan,
    ) -> None:
        """Add the rows of one kind: arrays (F, terms)."""
        count, size = len(terms), len(self.names) * len(terms)
        nothing = np.full(size, np.nan)
        singular = np.repeat(self.singular, count)
        self.parts.append(
            {
                "feature": np.repeat(self.names, count),
                "kind": np.full(size, kind, dtype=object),
                "term": np.tile(np.array(terms, dtype=object), len(self.names)),
                "estimate": np.asarray(estimate).ravel(),
                "se": nothing if se is None else se.ravel(),
                "df": nothing if df is None else df.ravel(),
                "df_num": np.full(size, df_num),
                "nobs": np.repeat(self.nobs, count),
                "n_outcomes": np.ones(size, dtype=np.int64),
                "converged": np.ones(size, dtype=bool),
                "singular": singular,
                "message": np.where(singular, SINGULAR, "").astype(object),
            }
        )

    def frame(self) -> pd.DataFrame:
        """The rows as a table."""
        return object_frame({name: np.concatenate([part[name] for part in self.parts]) for name in RAW})


def object_frame(columns: dict[str, np.ndarray]) -> pd.DataFrame:
    """A frame of arrays as they are: texts stay Python's, which costs nothing where rows only pass through."""
    return pd.DataFrame({name: pd.Series(values, dtype=values.dtype, copy=False) for name, values in columns.items()})


def typed(frame: pd.DataFrame) -> pd.DataFrame:
    """The same rows with the types that every part has."""
    kinds = dict.fromkeys(_TEXT, object) | dict.fromkeys(_NUMBER, float)
    kinds |= {"nobs": np.int64, "n_outcomes": np.int64, "converged": bool, "singular": bool}
    return frame.astype(kinds)


def empty_rows() -> pd.DataFrame:
    """A table without rows."""
    return Rows().frame()
