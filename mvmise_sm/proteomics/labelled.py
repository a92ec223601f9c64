"""Readers of isobaric labelling experiments: MSstatsTMT, FragPipe, MaxQuant and Proteome Discoverer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from mvmise_sm.caller import warn
from mvmise_sm.exceptions import DataError, DataWarning
from mvmise_sm.options import strict
from mvmise_sm.proteomics.build import joined, spectra_experiment
from mvmise_sm.proteomics.experiment import Experiment
from mvmise_sm.proteomics.layout import EMPTY, PLEX, Annotation, plain_channel, plain_run, read_annotation
from mvmise_sm.proteomics.steps import group_codes
from mvmise_sm.proteomics.tables import Column, Table, open_table, plain_name

__all__ = ["read_fragpipe", "read_maxquant", "read_msstats", "read_proteome_discoverer"]

_REPORTER = re.compile(r"reporterintensitycorrected(\d+)$")
# what Proteome Discoverer says of spectra that it does not quantify itself
_NOT_QUANTIFIED = {
    "redundant", "noquanvalues", "noquanlabels", "excludedbymethod", "rejectedbymethod", "inconsistentlylabeled",
    "indistinguishablechannels",
}  # fmt: skip


@strict
def read_msstats(source: str | Path | pd.DataFrame) -> Experiment:
    """Read a table in MSstatsTMT's input format: one row per spectrum and channel.

    Parameters
    ----------
    source : path or DataFrame
        Columns ProteinName, PeptideSequence, Charge, PSM, Mixture, TechRepMixture, Run, Channel, Condition,
        BioReplicate, Intensity; Fraction if there. Names are compared without case and punctuation.

    Returns
    -------
    Experiment

    Raises
    ------
    DataError
        If a column is absent, a spectrum has two values in a channel, or a sample two conditions.
    """
    table = open_table(source)
    text = ["ProteinName", "PeptideSequence", "Charge", "PSM", "Mixture", "TechRepMixture", "Run", "Channel"]
    columns = {name: Column((name,), required=True) for name in [*text, "Condition", "BioReplicate"]}
    columns["Fraction"] = Column(("Fraction",))
    columns["Intensity"] = Column(("Intensity",), "number", required=True)
    long, _ = table.read(columns)
    codes = {name: long[name].cat.codes.to_numpy(np.int64) for name in long if name != "Intensity"}
    facts = [name for name in codes if name not in text[:4]]
    _, distinct = group_codes(*(codes[name] for name in facts))
    annotation = read_annotation(long.iloc[distinct][facts].astype(object))
    rows, first = group_codes(*(codes[name] for name in ("ProteinName", "PeptideSequence", "Charge", "PSM", "Run")))
    # numbered in the order in which the spectra come
    order = np.argsort(first, kind="stable")
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    rows, first = rank[rows], first[order]
    names = list(annotation.channel_names)
    channel = np.array([names.index(c) for c in long["Channel"].cat.categories])[codes["Channel"]]
    cell = rows * len(names) + channel
    double = np.bincount(cell, minlength=len(first) * len(names)) > 1
    if double.any():
        at = long.iloc[int(np.flatnonzero(double[cell])[0])]
        raise DataError(
            f"{table.label}: {int(double.sum())} duplicates of (PSM, Run, Channel), "
            f"first ({at['PSM']!r}, {at['Run']!r}, {at['Channel']!r}); give every spectrum its own PSM"
        )
    values = np.full(len(first) * len(names), np.nan)
    values[cell] = long["Intensity"].to_numpy()
    frame = long.iloc[first].rename(
        columns={"ProteinName": "protein", "PeptideSequence": "peptide", "Charge": "charge"}
    )
    place = annotation.blocks(long["Run"], table.label)[first]
    return spectra_experiment(
        "MSstatsTMT",
        frame.reset_index(drop=True),
        values.reshape(-1, len(names)),
        place,
        annotation.layout,
        table.label,
    )


@strict
def read_proteome_discoverer(
    psms: str | Path | pd.DataFrame | Sequence[str | Path | pd.DataFrame],
    annotation: str | Path | pd.DataFrame,
    *,
    modifications: bool = True,
) -> Experiment:
    """Read the PSM table of Proteome Discoverer.

    Parameters
    ----------
    psms : path or DataFrame, or a list of them
        Columns Annotated Sequence, Modifications, Master Protein Accessions, Charge, Spectrum File, and ``Abundance:
        <channel>`` or ``<channel>``; # Proteins (more than one is shared), Isolation Interference [%], Contaminant,
        Quan Info and a score are used if there. Names may have been through R.
    annotation : path or DataFrame
        Columns Run, Channel, Mixture, Condition, BioReplicate; Fraction, TechRepMixture and covariates if there.
    modifications : bool, optional
        Whether a peptide is its sequence with its modifications, or its annotated sequence alone.

    Returns
    -------
    Experiment

    Raises
    ------
    DataError
        If a column is absent, a run is not annotated, or a sample has two conditions.
    """
    known = read_annotation(annotation)
    columns = {
        "sequence": Column(("Annotated Sequence", "Sequence"), required=True),
        "modifications": Column(("Modifications",), required=modifications),
        "protein": Column(("Master Protein Accessions",), required=True),
        "charge": Column(("Charge",), required=True),
        "run": Column(("Spectrum File",), required=True),
        "proteins": Column(("# Proteins",), "number"),
        "interference": Column(("Isolation Interference [%]", "Isolation Interference in Percent"), "number"),
        "contaminant": Column(("Contaminant",), "flag"),
        "quantified": Column(("Quan Info",)),
        "score": Column(("Ions Score", "XCorr", "Percolator Score"), "number"),
    }
    parts = []
    tables = [open_table(s) for s in (psms if isinstance(psms, (list, tuple)) else [psms])]
    for table in tables:
        channels = _channel_columns(table, known, ("Abundance: ", "Abundance ", ""))
        frame, found = table.read(columns, list(channels.values()))
        parts.append((frame, _spread(found, channels, known.channel_names)))
    frame = joined([f for f, _ in parts])
    values = np.concatenate([v for _, v in parts])
    peptide = frame["sequence"]
    if modifications:
        pair, first = group_codes(*(frame[c].cat.codes.to_numpy(np.int64) for c in ("sequence", "modifications")))
        names = [f"{a}|{b}" for a, b in frame.iloc[first][["sequence", "modifications"]].itertuples(index=False)]
        peptide = pd.Series(pd.Categorical.from_codes(pair, categories=names))
    frame["peptide"] = peptide
    if "proteins" in frame:
        frame["shared"] = frame["proteins"].to_numpy() > 1
    if "interference" in frame:
        frame["purity"] = 1.0 - frame["interference"] / 100.0
    label = tables[0].label
    place = known.blocks(frame["run"], label)
    if "quantified" in frame:
        out = [plain_name(name) in _NOT_QUANTIFIED for name in frame["quantified"].cat.categories]
        values = np.where(np.array(out)[frame["quantified"].cat.codes.to_numpy()][:, None], np.nan, values)
    return spectra_experiment("Proteome Discoverer", frame, values, place, known.layout, label)


@strict
def read_maxquant(
    evidence: str | Path | pd.DataFrame,
    annotation: str | Path | pd.DataFrame,
    groups: str | Path | pd.DataFrame | None = None,
) -> Experiment:
    """Read evidence.txt of MaxQuant.

    Parameters
    ----------
    evidence : path or DataFrame
        Columns Modified sequence, Charge, Raw file, Proteins, Reporter intensity corrected <k>; Protein group IDs (more
        than one is shared), PIF, Reverse, Potential contaminant and Score are used if there.
    annotation : path or DataFrame
        Columns Run, Channel (``channel.1`` or the reporter's name, ``126``), Mixture, Condition, BioReplicate;
        Fraction, TechRepMixture and covariates if there.
    groups : path or DataFrame, optional
        proteinGroups.txt, which names the groups (id, Majority protein IDs); without it proteins are the texts of
        Proteins.

    Returns
    -------
    Experiment

    Raises
    ------
    DataError
        If a column is absent, a run is not annotated, a channel cannot be found, or a sample has two conditions.
    """
    known = read_annotation(annotation)
    table = open_table(evidence)
    columns = {
        "peptide": Column(("Modified sequence",), required=True),
        "charge": Column(("Charge",), required=True),
        "run": Column(("Raw file",), required=True),
        "protein": Column(("Proteins",), required=True),
        "group": Column(("Protein group IDs",), required=groups is not None),
        "purity": Column(("PIF",), "number"),
        "decoy": Column(("Reverse",), "flag"),
        "contaminant": Column(("Potential contaminant", "Contaminant"), "flag"),
        "score": Column(("Score",), "number"),
    }
    channels = _reporters(table, known)
    frame, found = table.read(columns, list(channels.values()))
    if "group" in frame:
        several = np.array([";" in str(name) for name in frame["group"].cat.categories], dtype=bool)
        frame["shared"] = several[frame["group"].cat.codes.to_numpy()]
    if groups is not None:
        frame["protein"] = _group_names(frame, open_table(groups), table.label)
    place = known.blocks(frame["run"], table.label)
    values = _spread(found, channels, known.channel_names)
    return spectra_experiment("MaxQuant", frame, values, place, known.layout, table.label)


def _group_names(frame: pd.DataFrame, table: Table, label: str) -> pd.Categorical:
    """Name of each row's protein group; of shared rows the first group that has one."""
    columns = {"id": Column(("id",), required=True), "name": Column(("Majority protein IDs",), required=True)}
    names, _ = table.read(columns)
    by_id = dict(zip(names["id"].astype(object), names["name"].astype(object), strict=True))
    groups = [[part.strip() for part in str(name).split(";")] for name in frame["group"].cat.categories]
    found = np.array([next((by_id[g] for g in ids if g in by_id), "") for ids in groups], dtype=object)
    codes = frame["group"].cat.codes.to_numpy()
    named = found[codes]
    unknown = named == ""
    if unknown.all():
        raise DataError(f"{label} has no protein group of {table.label}; its first is {groups[codes[0]][0]!r}")
    several = np.array([len(ids) > 1 for ids in groups])[codes]
    lost = unknown & ~several & (frame["group"] != "").to_numpy()
    if lost.any():
        first = groups[codes[int(np.argmax(lost))]][0]
        warn(
            f"{int(lost.sum())} rows of {label} belong to protein groups that {table.label} does not have and are left "
            f"out, the first to {first!r}",
            DataWarning,
        )
    return pd.Categorical(np.where(unknown & several, frame["protein"].astype(object), named))


def _reporters(table: Table, known: Annotation) -> dict[str, str]:
    """MaxQuant's column of each annotated channel: numbered from 0 or 1, or in the order of the label's reporters."""
    numbered = {int(m.group(1)): name for name in table.names if (m := _REPORTER.match(plain_name(name)))}
    if not numbered:
        table.need(["Reporter intensity corrected 1"])
    asked = {name: re.fullmatch(r"channel(\d+)", plain_name(name)) for name in known.channel_names}
    if all(asked.values()):
        wanted = {name: int(m.group(1)) for name, m in asked.items() if m}
        for shift in (0, min(numbered) - min(wanted.values())):
            if all(k + shift in numbered for k in wanted.values()):
                return {name: numbered[k + shift] for name, k in wanted.items()}
    else:
        order = {plain_channel(name): k for k, name in enumerate(PLEX)}
        if all(plain_channel(name) in order for name in known.channel_names) and len(numbered) == len(asked):
            ranked = sorted(known.channel_names, key=lambda name: order[plain_channel(name)])
            return {name: numbered[k] for name, k in zip(ranked, sorted(numbered), strict=True)}
    raise DataError(
        f"channels {list(known.channel_names)} cannot be matched to Reporter intensity corrected {min(numbered)} to "
        f"{max(numbered)} of {table.label}; name them channel.{min(numbered)} to channel.{max(numbered)}"
    )


@strict
def read_fragpipe(folder: str | Path, annotation: str | Path | pd.DataFrame) -> Experiment:
    """Read FragPipe's psm.tsv of every mixture.

    Parameters
    ----------
    folder : path
        Holds ``<mixture>/psm.tsv`` beside ``annotation.txt`` (lines "channel sample"), or these two files; or the file.
        Columns Spectrum, Modified Peptide (where empty, Peptide), Charge, Protein and ``Intensity <sample>`` or
        ``<sample>``; Purity, Is Unique, Is Contaminant, Is Decoy, Probability and Hyperscore are used if there.
    annotation : path or DataFrame
        Columns Run, Channel, Mixture, Condition, BioReplicate; Fraction, TechRepMixture and covariates if there. Runs
        are those of Spectrum; a folder called like a mixture stands for its only run.

    Returns
    -------
    Experiment

    Raises
    ------
    DataError
        If a file or column is absent, a run is not annotated, or a sample has two conditions.
    """
    known = read_annotation(annotation)
    folder = Path(folder)
    if folder.is_file():
        paths = [folder]
    else:
        paths = [folder / "psm.tsv"] if (folder / "psm.tsv").is_file() else sorted(folder.glob("*/psm.tsv"))
    if not paths:
        raise DataError(f"there is no psm.tsv in {str(folder)!r} or in its folders")
    columns = {
        "spectrum": Column(("Spectrum",), required=True),
        "modified": Column(("Modified Peptide",)),
        "plain": Column(("Peptide",)),
        "charge": Column(("Charge",), required=True),
        "protein": Column(("Protein",), required=True),
        "purity": Column(("Purity",), "number"),
        "unique": Column(("Is Unique",), "flag"),
        "contaminant": Column(("Is Contaminant",), "flag"),
        "decoy": Column(("Is Decoy",), "flag"),
        "probability": Column(("Probability", "PeptideProphet Probability"), "number"),
        "score": Column(("Hyperscore",), "number"),
    }
    parts = []
    for path in paths:
        table = open_table(path, f"{path.parent.name}/psm.tsv")
        channels = _channel_columns(table, known, ("Intensity ", "", "Channel "), _sample_names(path.parent))
        frame, found = table.read(columns, list(channels.values()))
        frame["run"] = _runs(frame.pop("spectrum"), path.parent.name, known)
        frame["peptide"] = _modified(frame, table)
        parts.append((frame.drop(columns=["modified", "plain"], errors="ignore"),
                      _spread(found, channels, known.channel_names)))  # fmt: skip
    shared_columns = [c for c in parts[0][0] if all(c in f for f, _ in parts)]
    frame = joined([f[shared_columns] for f, _ in parts])
    if "unique" in frame:
        frame["shared"] = ~frame["unique"].to_numpy()
    place = known.blocks(frame["run"], "psm.tsv")
    return spectra_experiment("FragPipe", frame, np.concatenate([v for _, v in parts]), place, known.layout, "psm.tsv")


def _sample_names(folder: Path) -> dict[str, str]:
    """Channel to sample, from a folder's annotation; empty without one."""
    found = sorted(folder.glob("*annotation.txt"))
    if not found:
        return {}
    lines = found[0].read_text(encoding="utf-8-sig").splitlines()
    pairs = [line.split(None, 1) for line in lines if line.strip()]
    return {plain_channel(pair[0]): pair[1].strip() for pair in pairs if len(pair) == 2}


def _runs(spectrum: pd.Series, folder: str, known: Annotation) -> pd.Categorical:
    """Run of each spectrum, ``run.scan.scan.charge``; a run of the mixture called like the folder if there is none."""
    codes, names = pd.factorize(np.array([str(s).rsplit(".", 3)[0] for s in spectrum.astype(object)], dtype=object))
    if any(plain_run(name) not in known.block_of_run for name in names):
        called = [run for run, block in known.block_of_run.items() if known.layout.labels[block] == folder]
        if len(called) == 1:
            names = np.array([called[0]], dtype=object)
            codes = np.zeros_like(codes)
    return pd.Categorical.from_codes(codes, categories=names)


def _modified(frame: pd.DataFrame, table: Table) -> pd.Categorical:
    if "modified" not in frame and "plain" not in frame:
        table.need(["Modified Peptide"])
    if "modified" not in frame:
        return frame["plain"].array
    if "plain" not in frame or not (frame["modified"] == "").any():
        return frame["modified"].array
    text = frame["modified"].astype(object)
    return pd.Categorical(text.where(text != "", frame["plain"].astype(object)))


def _channel_columns(
    table: Table, known: Annotation, prefixes: Sequence[str], samples: dict[str, str] | None = None
) -> dict[str, str]:
    """The table's column of each annotated channel."""
    plain: dict[str, str] = {}
    for name in table.names:
        plain.setdefault(plain_channel(name), name)
    out = {}
    filled = known.layout.role(EMPTY) | (known.layout.position < 0)
    for k, channel in enumerate(known.channel_names):
        names = [channel] if not samples else [s] if (s := samples.get(plain_channel(channel))) else []
        asked = [prefix + name for name in names for prefix in prefixes]
        exact = [a for a in asked if a in table.names]
        loose = [found for p in prefixes for n in names if (found := _loose(plain, p, n)) is not None]
        if exact or loose:
            out[channel] = (exact or loose)[0]
        elif not samples and not filled[:, k].all():
            table.need([asked[0]])
    if not out:
        table.need([prefixes[0] + (next(iter(samples.values())) if samples else known.channel_names[0])])
    return out


def _loose(plain: dict[str, str], prefix: str, name: str) -> str | None:
    """A column by prefix and channel, both without punctuation; 131 is 131N."""
    head = plain_name(prefix)
    spelled = plain_name(name)
    twins = {"131": ("131", "131n"), "131n": ("131n", "131")}.get(spelled, (spelled,))
    for twin in twins:
        for key in (head + twin, plain_channel(head + twin)):
            if key in plain:
                return plain[key]
    return None


def _spread(found: np.ndarray, channels: dict[str, str], names: Sequence[str]) -> np.ndarray:
    """Values in the layout's order of channels."""
    out = np.full((len(found), len(names)), np.nan)
    for k, name in enumerate(channels):
        out[:, list(names).index(name)] = found[:, k]
    return out
