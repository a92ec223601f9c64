"""What an experiment shows of itself: its samples, values and history, in frames and files."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mvmise_sm.exceptions import OptionError
from mvmise_sm.proteomics.measurements import Measurements, View
from mvmise_sm.proteomics.spectra import Step

__all__ = ["ExperimentTables"]


@dataclass(frozen=True, eq=False, repr=False)
class ExperimentTables:
    """Quantified spectra, peptides or proteins, and the tables made of them.

    Attributes
    ----------
    level : {"psm", "peptide", "protein"}
        What the rows are.
    source : str
        Which reader it comes from.
    normalized : tuple of str
        Normalisations made, in order.
    """

    data: Measurements
    level: str
    source: str
    steps: tuple[Step, ...]
    normalized: tuple[str, ...] = ()
    min_mixtures: int = 2

    def __repr__(self) -> str:
        if self.level == "psm":
            return (
                f"<Experiment from {self.source}: {len(self.data.rows)} PSMs in {len(self.data.layout.labels)} blocks>"
            )
        view = self._view
        missing = np.isnan(view.matrix).mean() if view.matrix.size else 0.0
        what = "" if self.level == "protein" else f"{len(view.columns)} peptides of "
        return (
            f"<Experiment from {self.source}: {what}{len(self.features)} proteins, {len(view.samples)} samples, "
            f"{missing:.1%} of the values missing>"
        )

    @property
    def samples(self) -> pd.DataFrame:
        """One row per sample, without Norm and Empty: ``sample, Mixture, Channel, Run, Condition, BioReplicate``, and
        the covariates of the annotation; label-free experiments lack Mixture and Channel.
        """
        return self.data.layout.samples()[0].copy()

    @property
    def channels(self) -> pd.DataFrame:
        """As `samples`, with the Norm and Empty channels."""
        return self.data.layout.channels.copy()

    def matrix(self) -> pd.DataFrame:
        """The values on the complete grid (samples x features), NaN where nothing was measured.

        Raises
        ------
        OptionError
            If the rows are spectra.
        """
        return self._view.frame

    @property
    def features(self) -> dict[str, list[str]]:
        """The columns of `matrix` by protein."""
        return self._view.features

    @property
    def table(self) -> pd.DataFrame:
        """The measured values, one row each: ``protein, peptide``, the columns of `samples`, and ``y`` (log2).

        Spectra have their raw ``intensity`` instead of ``y``, and what the export says of them.
        """
        return self.data.spectra() if self.level == "psm" else self._view.table

    @property
    def history(self) -> pd.DataFrame:
        """What was dropped: columns ``step, rule, n_dropped, n_left``.

        ``filter`` counts spectra (precursors in runs), as ``peptides`` does; ``not_positive`` and ``empty`` count
        values; ``no_reference`` peptides in runs; ``few_mixtures`` (label-free: ``few_runs``) peptides, and
        ``norm_and_empty`` channels.
        """
        steps, layout = list(self.steps), self.data.layout
        if self.level != "psm":
            if self.level == "peptide":
                steps.append(self._mixture_step())
            analysed = int(layout.analysed.sum())
            steps.append(Step("complete", "norm_and_empty", int((layout.position >= 0).sum()) - analysed, analysed))
        return pd.DataFrame([vars(s) for s in steps], columns=["step", "rule", "n_dropped", "n_left"])

    def to_csv(self, path: str | Path) -> None:
        """Write `table` as comma-separated text; `read_long` reads it with ``scale="log2"``."""
        self.table.to_csv(path, index=False)

    def to_parquet(self, path: str | Path) -> None:
        """Write `table` as Parquet.

        Raises
        ------
        OptionError
            If pyarrow is not installed.
        """
        try:
            self.table.to_parquet(path, index=False)
        except ImportError:
            raise OptionError("to_parquet needs pyarrow; install it or use to_csv") from None

    def to_anndata(self, results: pd.DataFrame | None = None) -> Any:
        """Return an AnnData: samples are ``obs``, features ``var`` with their ``protein``, ``X`` is y.

        Parameters
        ----------
        results : DataFrame, optional
            The table of a scan, kept in ``uns["mvmise"]``.

        Raises
        ------
        OptionError
            If anndata is not installed, or the rows are spectra.
        """
        from mvmise_sm.proteomics.exchange import as_anndata

        return as_anndata(self, results)

    def _mixture_step(self) -> Step:
        seen = self.data.features_seen(self.min_mixtures)
        rule = "few_mixtures" if self.data.layout.labelled else "few_runs"
        return Step("complete", rule, int((~seen).sum()), int(seen.sum()))

    @cached_property
    def _view(self) -> View:
        if self.level == "psm":
            raise OptionError("spectra are no features of samples; call peptides() first")
        return self.data.view(self.min_mixtures)
