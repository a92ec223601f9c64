"""Which effects the rows of one feature determine, where some of them are missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mvmise_sm.scanning.contrasts import Report

__all__ = ["OwnColumns", "absent_levels"]

_ESTIMABLE = 1e-8


@dataclass(frozen=True, eq=False)
class OwnColumns:
    """The fixed effects that a feature's rows tell apart, among those of the design.

    Attributes
    ----------
    kept : ndarray
        Their positions (r,).
    combination : ndarray
        Dropped columns as combinations of the kept ones (r, p - r).
    dropped : ndarray
        Positions of the others.
    absent : tuple of (str, str)
        Factors and levels that no row has.
    """

    kept: np.ndarray
    combination: np.ndarray
    dropped: np.ndarray
    absent: tuple[tuple[str, str], ...] = ()

    @classmethod
    def whole(cls, p: int) -> OwnColumns:
        """All of p columns."""
        return cls(np.arange(p), np.zeros((p, 0)), np.zeros(0, dtype=int))

    @classmethod
    def of(cls, report: Report, template: Any, model: Any, rows: np.ndarray) -> OwnColumns:
        """Compare a feature's model with the template."""
        names = list(report.names)
        if len(model.exog_names) == len(names):
            return cls.whole(len(names))
        kept = np.array([names.index(n) for n in model.exog_names])
        return cls.among(np.asarray(template.exog)[rows], kept, absent_levels(template.data.design, rows))

    @classmethod
    def among(cls, exog: np.ndarray, kept: np.ndarray, absent: tuple[tuple[str, str], ...]) -> OwnColumns:
        """From the design on a feature's rows (m, p) and the columns that are kept."""
        dropped = np.setdiff1d(np.arange(exog.shape[1]), kept)
        combination = np.linalg.lstsq(exog[:, kept], exog[:, dropped], rcond=None)[0]
        return cls(kept, combination, dropped, absent)

    def estimable(self, rows: np.ndarray) -> np.ndarray:
        """Which combinations (q, p) the rows determine (q,)."""
        off = rows[:, self.dropped] - rows[:, self.kept] @ self.combination
        return (np.abs(off) <= _ESTIMABLE * np.maximum(1.0, np.abs(rows).max(axis=1, initial=0.0))[:, None]).all(axis=1)

    def reduced(self, rows: np.ndarray) -> np.ndarray:
        """The same combinations of the kept columns (q, r)."""
        return rows[:, self.kept]

    def notes(self, terms: Sequence[str], known: np.ndarray) -> list[str]:
        """Why terms cannot be estimated, empty for those that are `known`."""
        why = "the samples with a value do not tell it from the others"
        if self.absent:
            levels = " or ".join(repr(level) for _, level in self.absent)
            why = f"no sample of level {levels} has a value"
        return ["" if k else f"{t} cannot be estimated: {why}" for t, k in zip(terms, known, strict=True)]


def absent_levels(design: Any, rows: np.ndarray) -> tuple[tuple[str, str], ...]:
    """Factors of the fixed effects with levels that none of the rows has."""
    out: list[tuple[str, str]] = []
    for factor, info in design.model_spec.factor_infos.items():
        name = factor.name()
        if info.type == "categorical" and name in design.frame.columns:
            seen = set(design.frame[name].to_numpy()[rows].tolist())
            out += [(name, str(level)) for level in info.categories if level not in seen]
    return tuple(out)
