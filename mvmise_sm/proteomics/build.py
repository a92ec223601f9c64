"""Spectra of any export as an experiment: flags by name, missing values, blocks without data."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

from mvmise_sm.caller import warn
from mvmise_sm.exceptions import DataError, DataWarning
from mvmise_sm.proteomics.experiment import Experiment
from mvmise_sm.proteomics.layout import EMPTY, Layout
from mvmise_sm.proteomics.measurements import Measurements
from mvmise_sm.proteomics.spectra import Step

__all__ = ["joined", "spectra_experiment"]

_DECOY = re.compile(r"rev_|REV__|DECOY_|XXX_")
_CONTAMINANT = re.compile(r"contam_|CON__|Cont_")
_KEPT = ("charge", "purity", "score", "probability", "q_value", "protein_q_value", "decoy", "contaminant", "shared")


def joined(frames: list[pd.DataFrame]) -> pd.DataFrame:
    """Frames with categorical columns below each other."""
    if not frames:
        raise DataError("there is no table to read")
    if len(frames) == 1:
        return frames[0]
    out = {}
    for name in frames[0]:
        parts = [f[name] for f in frames]
        if isinstance(parts[0].dtype, pd.CategoricalDtype):
            out[name] = pd.api.types.union_categoricals(parts)
        else:
            out[name] = np.concatenate([p.to_numpy() for p in parts])
    return pd.DataFrame(out)


def spectra_experiment(
    source: str, frame: pd.DataFrame, values: np.ndarray, place: np.ndarray, layout: Layout, label: str
) -> Experiment:
    """Make an experiment of spectra.

    Parameters
    ----------
    source : str
        The reader's name.
    frame : DataFrame (n_rows, ...)
        ``protein, peptide`` (categorical) and what else the export says: `charge`, `purity`, `decoy` and others.
    values : ndarray (n_rows, n_channels)
        Intensities as exported.
    place : ndarray of int (n_rows,)
        Block of each row, or its run if the layout is label-free.
    layout : Layout
    label : str
        The table's name for messages.

    Returns
    -------
    Experiment

    Raises
    ------
    DataError
        If no value is left.
    """
    values = np.array(values, dtype=float)
    steps = []
    named = frame["protein"] != ""
    if not named.all():
        frame, values, place = frame[named], values[named], place[named]
        steps.append(Step("read", "no_protein", int((~named).sum()), int(named.sum())))
    if not len(frame):
        raise DataError(f"{label} has no rows with a protein")
    if np.isinf(values).any():
        raise DataError(f"{label} has infinite intensities")
    cells = layout.position[place] if layout.labelled else layout.position[0][place][:, None]
    there = np.isfinite(values)
    positive = there & (values > 0.0)
    steps.append(Step("read", "not_positive", int((there & ~positive).sum()), int(positive.sum())))
    stray = positive & (cells < 0)
    if stray.any():
        warn(
            f"{label} has {int(stray.sum())} values in channels that the annotation does not have; they are left out",
            DataWarning,
        )
    usable = positive & (cells >= 0)
    if layout.labelled:
        empty = layout.role(EMPTY)[place]
        steps.append(Step("read", "empty", int((usable & empty).sum()), int((usable & ~empty).sum())))
        usable &= ~empty
    if not usable.any():
        raise DataError(f"{label} has no positive intensity in an annotated channel")
    values = np.where(usable, values, np.nan)
    rows = frame[["protein", "peptide", *(c for c in _KEPT if c in frame)]].reset_index(drop=True)
    for name in ("protein", "peptide"):
        # sorted, so that the order of an export's rows has no say
        rows[name] = rows[name].cat.remove_unused_categories()
        rows[name] = rows[name].cat.reorder_categories(sorted(rows[name].cat.categories))
    for column, pattern in (("decoy", _DECOY), ("contaminant", _CONTAMINANT)):
        by_name = np.array([pattern.match(str(p)) is not None for p in rows["protein"].cat.categories])
        found = by_name[rows["protein"].cat.codes.to_numpy()]
        rows[column] = (found | rows[column].to_numpy()) if column in rows else found
    if layout.labelled:
        layout, place = _measured_blocks(layout, place)
        rows["block"] = place
    else:
        rows["block"], rows["run"] = 0, place
    return Experiment(Measurements(rows, values, _measured_runs(layout, place)), "psm", source, tuple(steps))


def _measured_blocks(layout: Layout, place: np.ndarray) -> tuple[Layout, np.ndarray]:
    """The layout without blocks that the export does not have, and the rows' new blocks."""
    measured = np.bincount(place, minlength=len(layout.labels)) > 0
    return layout.only(measured), (np.cumsum(measured) - 1)[place]


def _measured_runs(layout: Layout, place: np.ndarray) -> Layout:
    """The layout with the runs taken off that a label-free export does not have."""
    if layout.labelled:
        return layout
    position = layout.position.copy()
    position[0, np.bincount(place, minlength=position.shape[1]) == 0] = -1
    return Layout(layout.channels, position, layout.mixture, layout.labels, False)
