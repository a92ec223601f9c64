"""Readers of DIA-NN reports, and of long and wide tables of any origin."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from mvmise_sm.caller import warn
from mvmise_sm.exceptions import DataError, DataWarning, OptionError
from mvmise_sm.options import strict
from mvmise_sm.proteomics.build import spectra_experiment
from mvmise_sm.proteomics.experiment import Experiment
from mvmise_sm.proteomics.layout import Layout, annotation_frame, constant_within, read_annotation
from mvmise_sm.proteomics.steps import group_codes
from mvmise_sm.proteomics.tables import Column, Table, open_table, text_of

__all__ = ["cells_experiment", "read_diann", "read_long", "read_wide"]

_FACTS = ("Mixture", "Channel", "Run", "TechRepMixture", "Condition", "BioReplicate")
# intensities of instruments are far above, logarithms of them far below
_LOG_LIMIT = 64.0


@strict
def read_diann(
    report: str | Path | pd.DataFrame,
    annotation: str | Path | pd.DataFrame,
    *,
    quantity: str = "Precursor.Normalised",
) -> Experiment:
    """Read the main report of DIA-NN; its precursors are the peptides.

    Parameters
    ----------
    report : path or DataFrame
        Parquet or text with Run, Protein.Group, Precursor.Id and the quantity; Decoy, Q.Value, PG.Q.Value and
        Proteotypic are used if there.
    annotation : path or DataFrame
        Columns Run, Condition and covariates, one of them a batch if a selection model is to be fitted.
    quantity : str, optional
        Column of intensities.

    Returns
    -------
    Experiment

    Raises
    ------
    DataError
        If a column is absent or a run is not annotated.
    """
    known = read_annotation(annotation, labelled=False)
    table = open_table(report)
    columns = {
        "run": Column(("Run",), required=True),
        "protein": Column(("Protein.Group",), required=True),
        "peptide": Column(("Precursor.Id",), required=True),
        "charge": Column(("Precursor.Charge",)),
        "decoy": Column(("Decoy",), "flag"),
        "q_value": Column(("Q.Value",), "number"),
        "protein_q_value": Column(("PG.Q.Value",), "number"),
        "proteotypic": Column(("Proteotypic",), "flag"),
        "intensity": Column((quantity,), "number", required=True),
    }
    frame, _ = table.read(columns)
    if "proteotypic" in frame:
        frame["shared"] = ~frame["proteotypic"].to_numpy()
    place = known.blocks(frame["run"], table.label)
    values = frame["intensity"].to_numpy()[:, None]
    return spectra_experiment("DIA-NN", frame, values, place, known.layout, table.label)


@strict
def read_long(
    source: str | Path | pd.DataFrame,
    *,
    protein: str = "protein",
    peptide: str = "peptide",
    value: str | None = None,
    sample: str | Sequence[str] = "sample",
    psm: str | None = None,
    mixture: str | None = "Mixture",
    annotation: str | Path | pd.DataFrame | None = None,
    scale: str = "raw",
) -> Experiment:
    """Read a long table: one row per peptide and sample.

    Parameters
    ----------
    source : path or DataFrame
    protein, peptide : str, optional
        Columns; they may be the same one.
    value : str, optional
        Column of values; ``"intensity"`` or, of logarithms, ``"y"`` by default.
    sample : str or list of str, optional
        Columns that tell samples apart.
    psm : str, optional
        Column of spectra, where a peptide has several in a sample.
    mixture : str or None, optional
        Column of the samples that were measured together; the data are label-free if there is no such column.
    annotation : path or DataFrame, optional
        One row per sample: the columns `sample` and what is known of the samples. By default the columns of the table
        that do not vary within a sample.
    scale : {"raw", "log2"}, optional
        Whether the values are intensities or their logarithms.

    Returns
    -------
    Experiment

    Raises
    ------
    OptionError
        If an option is not allowed or the values are on another scale.
    DataError
        If a column is absent, a covariate varies within a sample, or a peptide has two values in a sample.
    """
    value = value or {"raw": "intensity", "log2": "y"}.get(scale, "intensity")
    keys = [sample] if isinstance(sample, str) else list(sample)
    table = open_table(source)
    named = {
        name: table.need([name]) for name in dict.fromkeys([protein, peptide, value, *keys, *([psm] if psm else [])])
    }
    wanted = {name: Column((own,), "number" if name == value else "label", True) for name, own in named.items()}
    frame, _ = table.read(wanted)
    told = _told(table, named, keys) if annotation is None else annotation_frame(annotation)
    samples, at = _samples(told, frame[keys], keys, table.label)
    spectra = frame[psm] if psm else None
    return cells_experiment(
        "a long table", frame[protein], frame[peptide], at, frame[value].to_numpy(), samples,
        label=table.label, mixture=mixture, scale=scale, spectra=spectra,
    )  # fmt: skip


@strict
def read_wide(
    source: str | Path | pd.DataFrame,
    annotation: str | Path | pd.DataFrame,
    *,
    protein: str = "protein",
    peptide: str | None = None,
    sample: str = "sample",
    mixture: str | None = "Mixture",
    scale: str = "raw",
) -> Experiment:
    """Read a wide table as programs export it: one row per peptide or protein, one column per sample.

    Parameters
    ----------
    source : path or DataFrame
    annotation : path or DataFrame
        One row per sample; its column `sample` holds the names of the table's columns.
    protein, peptide : str, optional
        Columns; without `peptide` the rows are proteins.
    sample : str, optional
        Column of the annotation.
    mixture : str or None, optional
        Column of the annotation that tells which samples were measured together; the data are label-free if there is no
        such column.
    scale : {"raw", "log2"}, optional

    Returns
    -------
    Experiment

    Raises
    ------
    OptionError
        If an option is not allowed or the values are on another scale.
    DataError
        If a column is absent or a sample is annotated twice.
    """
    table = open_table(source)
    told = annotation_frame(annotation)
    if sample not in told:
        raise DataError(f"the annotation lacks {sample!r}; found {list(told.columns)}")
    names = list(text_of(told[sample]))
    own = [table.need([name]) for name in names]
    columns = {"protein": Column((protein,), required=True)}
    if peptide is not None:
        columns["peptide"] = Column((peptide,), required=True)
    frame, values = table.read(columns, own)
    row, column = np.nonzero(np.isfinite(values))
    samples, _ = _samples(told, pd.DataFrame({sample: pd.Categorical(names)}), [sample], "the annotation")
    order = samples["sample"].tolist()
    at = np.array([order.index(name) for name in names], dtype=int)[column]
    peptides = frame["peptide"] if peptide is not None else frame["protein"]
    spectra = pd.Series(pd.Categorical(row))
    return cells_experiment(
        "a wide table", frame["protein"].iloc[row], peptides.iloc[row], at, values[row, column], samples,
        label=table.label, mixture=mixture, scale=scale, spectra=spectra,
    )  # fmt: skip


def _told(table: Table, named: dict[str, str], keys: list[str]) -> pd.DataFrame:
    """What a long table says of its samples: the columns that do not vary within one."""
    others = [name for name in table.names if name not in named.values()]
    raw = table.whole([*others, *(named[k] for k in keys)]).rename(columns={named[k]: k for k in keys})
    for key in keys:
        raw[key] = text_of(raw[key])
    number = raw.groupby(keys, sort=False, observed=True).ngroup().to_numpy()
    kept = []
    for name in others:
        varies = pd.Series(pd.factorize(raw[name])[0]).groupby(number).nunique().max() > 1
        if not varies:
            kept.append(name)
        elif name in _FACTS:
            constant_within(raw, keys, [name])
    return raw.drop_duplicates(keys)[[*keys, *kept]].reset_index(drop=True)


def _samples(told: pd.DataFrame, found: pd.DataFrame, keys: list[str], label: str) -> tuple[pd.DataFrame, np.ndarray]:
    """The sample table with its ``sample`` first, and the row of each measured value."""
    absent = [k for k in keys if k not in told]
    if absent:
        raise DataError(f"the annotation lacks {absent[0]!r}; found {list(told.columns)}")
    for key in keys:
        empty = (found[key].astype(object) == "").to_numpy()
        if empty.any():
            raise DataError(f"{label}: {key!r} is missing in row {int(empty.argmax()) + 1}")
    told = told.assign(**{k: text_of(told[k]) for k in keys})
    constant_within(told, keys, [c for c in told.columns if c not in keys])
    told = told.drop_duplicates(keys).reset_index(drop=True)
    ids = told[keys].agg("_".join, axis=1) if len(keys) > 1 else told[keys[0]]
    if ids.duplicated().any():
        ids = told[keys].agg("|".join, axis=1)
    index = pd.MultiIndex.from_frame(told[keys].astype(object))
    codes, first = group_codes(*(found[k].cat.codes.to_numpy(np.int64) for k in keys))
    distinct = pd.MultiIndex.from_frame(found.iloc[first][keys].astype(object))
    at = index.get_indexer(distinct)
    if (at < 0).any():
        name = distinct[int(np.argmin(at))]
        raise DataError(f"sample {name if len(keys) > 1 else name[0]!r} of {label} is not in the annotation")
    told = told.drop(columns=[k for k in keys if k == "sample"])
    told.insert(0, "sample", ids)
    return told, at[codes]


def cells_experiment(
    source: str, protein: pd.Series, peptide: pd.Series, at: np.ndarray, value: np.ndarray, samples: pd.DataFrame,
    *, label: str, mixture: str | None, scale: str, spectra: pd.Series | None,
) -> Experiment:  # fmt: skip
    """Make an experiment of single values.

    Parameters
    ----------
    source, label : str
    protein, peptide : Series of categories (n,)
    at : ndarray of int (n,)
        Row of `samples`.
    value : ndarray (n,)
    samples : DataFrame
    mixture : str or None
        Column of `samples`.
    scale : {"raw", "log2"}
    spectra : Series of categories (n,) or None
        Which spectrum a value belongs to.

    Returns
    -------
    Experiment
    """
    values = _intensities(value, scale, label)
    frame = pd.DataFrame({"protein": protein.array, "peptide": peptide.array})
    if mixture is None or mixture not in samples:
        layout = Layout(samples, np.arange(len(samples))[None, :], np.zeros(1, dtype=int), ("all runs",), False)
        if spectra is None:
            _no_duplicates(frame, at, samples, label)
        return spectra_experiment(source, frame, values[:, None], at, layout, label)
    layout, codes, column = _labelled_layout(samples.rename(columns={mixture: "Mixture"}))
    samples, position = layout.channels, layout.position
    keys = [frame[c].cat.codes.to_numpy(np.int64) for c in frame]
    if spectra is None:
        _no_duplicates(frame, at, samples, label)
    else:
        keys.append(spectra.cat.codes.to_numpy(np.int64))
    rows, first = group_codes(*keys, codes[at])
    grid = np.full((len(first), position.shape[1]), np.nan)
    if spectra is not None and (np.bincount(rows * position.shape[1] + column[at]) > 1).any():
        raise DataError(f"{label}: a spectrum has two values in one sample; spectra need names of their own")
    grid[rows, column[at]] = values
    return spectra_experiment(source, frame.iloc[first].reset_index(drop=True), grid, codes[at][first], layout, label)


def _labelled_layout(samples: pd.DataFrame) -> tuple[Layout, np.ndarray, np.ndarray]:
    """Samples in blocks of a mixture and, if told, its technical replicates; block and channel of each sample."""
    keys = [name for name in ("Mixture", "TechRepMixture") if name in samples]
    codes, names = pd.factorize(pd.MultiIndex.from_frame(samples[keys].astype(object)))
    column = pd.Series(codes).groupby(codes).cumcount().to_numpy()
    position = np.full((len(names), int(column.max()) + 1), -1)
    position[codes, column] = np.arange(len(samples))
    mixture = pd.factorize(np.array([name[0] for name in names], dtype=object))[0]
    labels = tuple(", ".join(map(str, name)) for name in names)
    if len(labels) > mixture.max() + 1 and "Run" not in samples:
        samples = samples.assign(Run=np.array(labels, dtype=object)[codes])
    return Layout(samples, position, mixture, labels, True), codes, column


def _no_duplicates(frame: pd.DataFrame, at: np.ndarray, samples: pd.DataFrame, label: str) -> None:
    codes, first = group_codes(*(frame[c].cat.codes.to_numpy(np.int64) for c in frame), at)
    count = np.bincount(codes)
    if (count > 1).any():
        k = first[int(np.argmax(count > 1))]
        name = (frame["protein"].iloc[k], frame["peptide"].iloc[k], samples["sample"].iloc[at[k]])
        raise DataError(
            f"{label}: {int((count > 1).sum())} duplicates of (protein, peptide, sample), first {name}; "
            f"summarise them or name the column of spectra with psm="
        )


def _intensities(value: np.ndarray, scale: str, label: str) -> np.ndarray:
    """Values on the scale of intensities."""
    if scale not in ("raw", "log2"):
        raise OptionError(f"scale must be 'raw' or 'log2', got {scale!r}")
    known = value[np.isfinite(value)]
    middle = float(np.median(known)) if known.size else 0.0
    if scale == "log2":
        if middle > _LOG_LIMIT:
            raise OptionError(f"values of {label} look like raw intensities (median {middle:g}); give scale='raw'")
        return np.exp2(value)
    if 0.0 < middle < _LOG_LIMIT:
        warn(
            f"values of {label} look like logarithms (median {middle:.3g}); give scale='log2'",
            DataWarning,
        )
    return value
