"""From spectra to peptides: the rules that drop spectra, and the choice among those of one peptide."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
import pandas as pd

from mvmise_sm.exceptions import OptionError
from mvmise_sm.proteomics.measurements import Measurements
from mvmise_sm.proteomics.steps import best_rows, group_codes, summarised

__all__ = ["FLAGS", "PSM", "Limits", "Step", "at_least_one", "filtered", "peptide_rows"]

# rules by flags of the export, and their columns
FLAGS = {"decoys": "decoy", "contaminants": "contaminant", "shared": "shared"}
PSM = ("best", "purest", "sum", "median")


@dataclass(frozen=True)
class Step:
    """One line of the history.

    Attributes
    ----------
    step, rule : str
    n_dropped, n_left : int
        Spectra, values, peptides or channels, as the rule says.
    """

    step: str
    rule: str
    n_dropped: int
    n_left: int


@dataclass(frozen=True)
class Limits:
    """What a spectrum must have; a rule takes part where the export has what it needs, and unknown values pass.

    Attributes
    ----------
    purity, q_value, protein_q_value, probability : float or None
    min_channels : int
    keep : frozenset of str
        Rules of `FLAGS` to leave out.
    """

    purity: float | None
    q_value: float | None
    protein_q_value: float | None
    probability: float | None
    min_channels: int
    keep: frozenset[str]

    def __post_init__(self) -> None:
        unknown = sorted(self.keep - set(FLAGS), key=str)
        if unknown:
            raise OptionError(f"keep may name {sorted(FLAGS)}, got {unknown[0]!r}")
        for name in ("purity", "q_value", "protein_q_value", "probability"):
            limit = getattr(self, name)
            if limit is not None and not (isinstance(limit, Real) and 0.0 <= float(limit) <= 1.0):
                raise OptionError(f"{name} must be between 0 and 1 or None, got {limit!r}")
        at_least_one("min_channels", self.min_channels)

    def violations(self, data: Measurements) -> dict[str, np.ndarray]:
        """Spectra (n_rows,) that break each rule, in the order in which the rules are applied."""
        rows = data.rows
        columns = {c: rows[c].to_numpy() for c in rows if c not in ("protein", "peptide")}

        def beyond(column: str, limit: float | None, sign: float) -> np.ndarray | None:
            known = columns.get(column)
            return None if known is None or limit is None else sign * known > sign * limit

        def flagged(rule: str) -> np.ndarray | None:
            return None if rule in self.keep else columns.get(FLAGS[rule])

        found = {
            "decoys": flagged("decoys"),
            "contaminants": flagged("contaminants"),
            "q_value": beyond("q_value", self.q_value, 1.0),
            "protein_q_value": beyond("protein_q_value", self.protein_q_value, 1.0),
            "shared": flagged("shared"),
            "improbable": beyond("probability", self.probability, -1.0),
            "impure": beyond("purity", self.purity, -1.0),
        }
        if data.layout.labelled:
            found["few_channels"] = np.isfinite(data.values).sum(axis=1) < self.min_channels
        return {rule: bad for rule, bad in found.items() if bad is not None}


def at_least_one(name: str, value: Any) -> None:
    """Refuse what is no positive whole number."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise OptionError(f"{name} must be a whole number of at least 1, got {value!r}")


def filtered(data: Measurements, limits: Limits) -> tuple[Measurements, list[Step]]:
    """Spectra that keep all rules, and what each rule dropped of those that the rules before it left."""
    left = np.ones(len(data.rows), bool)
    steps = []
    for rule, bad in limits.violations(data).items():
        dropped = int((left & bad).sum())
        left &= ~bad
        steps.append(Step("filter", rule, dropped, int(left.sum())))
    return data.having(data.rows[left], data.values[left]), steps


def peptide_rows(data: Measurements, psm: str, by_charge: bool) -> tuple[Measurements, Step]:
    """One row of log2 intensities for each modified peptide (or ion) and block.

    Parameters
    ----------
    data : Measurements
        Spectra.
    psm : {"best", "purest", "sum", "median"}
    by_charge : bool
        Whether charges stay apart.

    Returns
    -------
    data : Measurements
    step : Step
        How many spectra were not the chosen one, or were merged.
    """
    rows, values = data.rows, data.values
    peptide = rows["peptide"]
    if by_charge:
        peptide = pd.Series(pd.Categorical(peptide.astype(str) + "_" + rows["charge"].astype(str)))
    place = rows["block" if data.layout.labelled else "run"].to_numpy()
    codes = [c.cat.codes.to_numpy(np.int64) for c in (rows["protein"], peptide)]
    groups, first = group_codes(*codes, place)
    if psm in ("sum", "median"):
        kept, values, rule = first, summarised(values, groups, psm), f"psm_{psm}"
    else:
        kept = best_rows(groups, _criteria(data, psm))
        values, rule = values[kept], f"not_{psm}"
    out = pd.DataFrame({"protein": rows["protein"].array[kept], "peptide": peptide.array[kept], "block": place[kept]})
    for name in ("protein", "peptide"):
        out[name] = out[name].cat.remove_unused_categories()
    step = Step("peptides", rule, len(rows) - len(kept), len(kept))
    values = np.log2(values)
    if not data.layout.labelled:
        out, values = _one_block(out, values[:, 0], data.layout.position.shape[1])
    return data.having(out, values), step


def _criteria(data: Measurements, psm: str) -> list[np.ndarray]:
    """What makes a spectrum the better one; smaller is better."""
    missing = np.isnan(data.values).sum(axis=1)
    total = -np.nansum(data.values, axis=1)
    told = () if psm == "best" else ("purity", "score")
    return [missing, *(-data.rows[c].to_numpy() for c in told if c in data.rows), total]


def _one_block(rows: pd.DataFrame, values: np.ndarray, n_runs: int) -> tuple[pd.DataFrame, np.ndarray]:
    """Label-free peptides: one row each, runs as channels."""
    features, first = group_codes(*(rows[c].cat.codes.to_numpy(np.int64) for c in ("protein", "peptide")))
    table = np.full((len(first), n_runs), np.nan)
    table[features, rows["block"].to_numpy()] = values
    return rows.iloc[first].assign(block=0), table
