"""Measured values with their rows and places, and what the analysis sees of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from mvmise_sm.proteomics.layout import Layout
from mvmise_sm.proteomics.steps import group_codes

__all__ = ["Measurements", "View"]


@dataclass(frozen=True, eq=False)
class View:
    """What the analysis sees: Norm and Empty are gone, the grid is complete.

    Attributes
    ----------
    samples : DataFrame
    matrix : ndarray (n_samples, n_features)
    proteins, columns : ndarray of object (n_features,)
    """

    samples: pd.DataFrame
    matrix: np.ndarray
    proteins: np.ndarray
    columns: np.ndarray

    @property
    def frame(self) -> pd.DataFrame:
        """The matrix with its labels."""
        index = pd.Index(self.samples["sample"], name="sample")
        return pd.DataFrame(self.matrix.copy(), index, pd.Index(self.columns, dtype=object))

    @property
    def features(self) -> dict[str, list[str]]:
        """Columns by protein."""
        out: dict[str, list[str]] = {}
        for protein, column in zip(self.proteins, self.columns, strict=True):
            out.setdefault(protein, []).append(column)
        return out

    @property
    def table(self) -> pd.DataFrame:
        """The measured values, one row each."""
        column, row = np.nonzero(np.isfinite(self.matrix).T)
        proteins, peptides = pd.Categorical(self.proteins), pd.Categorical(self.columns)
        out = {"protein": proteins[column], "peptide": peptides[column]}
        for name in self.samples:
            values = self.samples[name]
            text = pd.api.types.is_object_dtype(values) or pd.api.types.is_string_dtype(values)
            out[name] = pd.Categorical(values)[row] if text else values.iloc[row].array
        return pd.DataFrame({**out, "y": self.matrix[row, column]})


@dataclass(frozen=True, eq=False)
class Measurements:
    """Rows of one spectrum, peptide or protein in one block, and their values.

    Attributes
    ----------
    rows : DataFrame (n_rows, ...)
        ``protein`` and ``peptide`` (categorical), ``block`` (number in the layout); of spectra also what the export
        says of them. Label-free spectra have the number of their ``run``.
    values : ndarray (n_rows, n_channels)
        Intensities of spectra, log2 intensities otherwise; NaN where nothing was measured.
    layout : Layout
    """

    rows: pd.DataFrame
    values: np.ndarray
    layout: Layout

    def __post_init__(self) -> None:
        self.values.flags.writeable = False

    def having(self, rows: pd.DataFrame, values: np.ndarray) -> Measurements:
        """Other rows in the same layout."""
        return replace(self, rows=rows.reset_index(drop=True), values=values)

    @property
    def block(self) -> np.ndarray:
        """Block of each row (n_rows,)."""
        return self.rows["block"].to_numpy()

    def feature_codes(self) -> tuple[np.ndarray, np.ndarray]:
        """Number of each row's feature (n_rows,), and a row of each feature (n_features,)."""
        return group_codes(*(self.rows[c].cat.codes.to_numpy(np.int64) for c in ("protein", "peptide")))

    def features_seen(self, min_mixtures: int) -> np.ndarray:
        """Features that enough mixtures, or runs, have seen in samples of the analysis (n_features,)."""
        features, first = self.feature_codes()
        block = self.rows["block"].to_numpy()
        seen = np.isfinite(self.values) & self.layout.analysed[block]
        if not self.layout.labelled:
            return np.bincount(features, weights=seen.sum(axis=1), minlength=len(first)) >= min_mixtures
        mixture = self.layout.mixture[block]
        table = np.zeros((len(first), int(self.layout.mixture.max(initial=0)) + 1), bool)
        table[features[seen.any(axis=1)], mixture[seen.any(axis=1)]] = True
        return table.sum(axis=1) >= (min_mixtures if table.shape[1] > 1 else 1)

    def view(self, min_mixtures: int) -> View:
        """The complete grid of the features that enough mixtures have seen."""
        samples, cells = self.layout.samples()
        features, first = self.feature_codes()
        seen = self.features_seen(min_mixtures)
        number = np.cumsum(seen) - 1
        kept = seen[features]
        matrix = np.full((len(samples), int(seen.sum())), np.nan)
        place = cells[self.rows["block"].to_numpy()[kept]]
        column = np.broadcast_to(number[features[kept]][:, None], place.shape)
        there = place >= 0
        matrix[place[there], column[there]] = self.values[kept][there]
        named = self.rows.iloc[first[seen]]
        proteins = named["protein"].to_numpy(dtype=object)
        columns = named["peptide"].to_numpy(dtype=object)
        double = pd.Series(columns).duplicated(keep=False).to_numpy()
        # the same peptide in two proteins is two columns
        columns = np.where(double, proteins + "|" + columns, columns) if double.any() else columns
        return View(samples, matrix, proteins, columns)

    def spectra(self) -> pd.DataFrame:
        """The measured intensities of spectra, one row each."""
        place = self.rows["block"].to_numpy()
        if self.layout.labelled:
            channel = self.layout.position[place]
        else:
            channel = self.layout.position[0][self.rows["run"].to_numpy()][:, None]
        row, column = np.nonzero(np.isfinite(self.values))
        told = self.rows.drop(columns=[c for c in ("block", "run") if c in self.rows])
        of = self.layout.channels.iloc[channel[row, column]].reset_index(drop=True)
        out = pd.concat([told.iloc[row].reset_index(drop=True), of], axis=1)
        return out.assign(intensity=self.values[row, column])
