"""Which sample stands in which channel of which run: the annotation, checked and indexed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mvmise_sm.blame import legible
from mvmise_sm.caller import warn
from mvmise_sm.exceptions import DataError, DataWarning
from mvmise_sm.proteomics.tables import open_table, plain_name, text_of

__all__ = ["Annotation", "Layout", "constant_within", "plain_channel", "plain_run", "read_annotation"]

NORM, EMPTY = "norm", "empty"
# reporter ions of isobaric labels in the order in which files number them
PLEX = (
    "113", "114", "115", "116", "117", "118", "119", "121",
    "126", "127N", "127C", "128N", "128C", "129N", "129C", "130N", "130C", "131N", "131C",
    "132N", "132C", "133N", "133C", "134N", "134C", "135N",
)  # fmt: skip
_KNOWN = ("Run", "Channel", "Mixture", "TechRepMixture", "Fraction", "Condition", "BioReplicate")
_EXTENSIONS = re.compile(r"\.?(raw|mzml|mzxml|d|wiff|dia|htrms|pepxml)(\.gz)?$", re.IGNORECASE)


def plain_run(name: Any) -> str:
    """A run's name without folder and extension, as different programs write it."""
    return _EXTENSIONS.sub("", re.split(r"[\\/]", str(name))[-1])


def plain_channel(name: Any) -> str:
    """A channel's name without case and punctuation; 131 is 131N."""
    text = plain_name(name)
    return {"131": "131n", "126c": "126", "126n": "126"}.get(text, text)


@dataclass(frozen=True, eq=False)
class Layout:
    """Blocks of channels that were measured together.

    A block is a Mixture and TechRepMixture of a labelled experiment, whose fractions belong together; a label-free
    experiment is one block whose channels are its runs.

    Attributes
    ----------
    channels : DataFrame
        One row per annotated channel of a block: ``sample, Mixture, Channel, Run, Condition, BioReplicate`` and
        covariates; label-free ones lack Mixture and Channel.
    position : ndarray of int (n_blocks, n_channels)
        Row of `channels`, -1 where nothing is annotated.
    mixture : ndarray of int (n_blocks,)
        Which mixture a block belongs to.
    labels : tuple of str
        Names of the blocks, for messages.
    labelled : bool
    """

    channels: pd.DataFrame
    position: np.ndarray
    mixture: np.ndarray
    labels: tuple[str, ...]
    labelled: bool

    def role(self, name: str) -> np.ndarray:
        """Cells whose Condition is `name` without case (n_blocks, n_channels)."""
        if "Condition" not in self.channels:
            return np.zeros(self.position.shape, bool)
        is_role = (self.channels["Condition"].astype(str).str.lower() == name).to_numpy()
        return np.where(self.position >= 0, is_role[self.position], False)

    @property
    def analysed(self) -> np.ndarray:
        """Cells that hold a sample, not Norm and not Empty (n_blocks, n_channels)."""
        return (self.position >= 0) & ~self.role(NORM) & ~self.role(EMPTY)

    @property
    def block_name(self) -> str | None:
        """The column of the samples that tells blocks apart; None for label-free experiments."""
        if not self.labelled:
            return None
        return "Mixture" if len(np.unique(self.mixture)) == len(self.mixture) else "Run"

    def samples(self) -> tuple[pd.DataFrame, np.ndarray]:
        """The samples (n_samples, ...) and the row of each cell (n_blocks, n_channels), -1 for the others."""
        rows = self.position[self.analysed]
        order = np.sort(rows)
        index = np.full(len(self.channels) + 1, -1)
        index[order] = np.arange(len(order))
        cells = np.where(self.analysed, index[self.position], -1)
        return self.channels.iloc[order].reset_index(drop=True), cells

    def only(self, keep: np.ndarray) -> Layout:
        """The layout of some blocks, a boolean for each."""
        return Layout(
            self.channels,
            self.position[keep],
            np.unique(self.mixture[keep], return_inverse=True)[1],
            tuple(name for name, kept in zip(self.labels, keep, strict=True) if kept),
            self.labelled,
        )


@dataclass(frozen=True, eq=False)
class Annotation:
    """An annotation table as a layout with an index of its runs.

    Attributes
    ----------
    layout : Layout
    block_of_run : dict
        Block of every run, by its name without folder and extension.
    channel_names : tuple of str
        Columns of the layout, as the annotation spells them; runs of a label-free experiment.
    """

    layout: Layout
    block_of_run: dict[str, int]
    channel_names: tuple[str, ...]

    def blocks(self, runs: pd.Series, label: str) -> np.ndarray:
        """Block of every row of a table.

        Raises
        ------
        DataError
            If a run is not in the annotation.
        """
        codes, names = pd.factorize(runs)
        found = np.array([self.block_of_run.get(plain_run(name), -1) for name in names], dtype=int)
        if (found < 0).any():
            name = names[int(np.argmin(found))]
            raise DataError(f"run {name!r} is not in the annotation ({label}); it has {_some(self.block_of_run)}")
        seen = {plain_run(name) for name in names}
        absent = [run for run in self.block_of_run if run not in seen]
        if absent:
            warn(
                f"{len(absent)} annotated runs have no data in {label} and are left out: {_some(absent)}",
                DataWarning,
            )
        return found[codes]


def _some(names: Any, most: int = 4) -> str:
    names = list(names)
    return ", ".join(map(repr, names[:most])) + (", ..." if len(names) > most else "")


def constant_within(frame: pd.DataFrame, keys: list[str], columns: list[str]) -> None:
    """Check that columns do not vary within a sample.

    Raises
    ------
    DataError
        If one does.
    """
    for column in columns:
        pairs = frame[[*keys, column]].drop_duplicates()
        double = pairs.duplicated(keys, keep=False)
        if double.any():
            first = pairs[double].iloc[0]
            same = (pairs[keys] == first[keys]).all(axis=1)
            found = ", ".join(repr(v) for v in pairs.loc[same, column].head(4))
            where = tuple(first[k] for k in keys)
            raise DataError(f"{column} differs within sample {where if len(where) > 1 else where[0]!r}: {found}")


def annotation_frame(source: str | Path | pd.DataFrame) -> pd.DataFrame:
    """An annotation table with its known columns as text under their usual names."""
    table = open_table(source, "the annotation" if isinstance(source, pd.DataFrame) else None)
    spelled = {name: found for name in _KNOWN if (found := table.find([name])) is not None}
    if isinstance(table.source, pd.DataFrame):
        frame = table.source.reset_index(drop=True)
    elif table.source.suffix == ".parquet":
        with legible(table.label):
            frame = pd.read_parquet(table.source)
    else:
        with legible(table.label):
            frame = pd.read_csv(table.source, dtype=dict.fromkeys(spelled.values(), str), **table.options)
    frame = frame.rename(columns={found: name for name, found in spelled.items()})
    return frame.assign(**{name: text_of(frame[name]) for name in spelled})


def read_annotation(source: str | Path | pd.DataFrame, labelled: bool = True) -> Annotation:
    """Read and index an annotation.

    Parameters
    ----------
    source : path or DataFrame
        Columns Run, Channel, Mixture, Condition, BioReplicate; Fraction, TechRepMixture and covariates if there.
        Label-free: Run and Condition, and covariates.
    labelled : bool, optional
        Whether runs hold channels.

    Returns
    -------
    Annotation

    Raises
    ------
    DataError
        If a column is absent, or a value differs within a sample.
    """
    frame = annotation_frame(source)
    label = "the annotation" if isinstance(source, pd.DataFrame) else Path(source).name
    wanted = ["Run", "Channel", "Mixture", "Condition"] if labelled else ["Run", "Condition"]
    absent = [name for name in wanted if name not in frame]
    if absent:
        raise DataError(f"{label} lacks {absent[0]!r}; found {list(frame.columns)}")
    if frame.empty:
        raise DataError(f"{label} has no rows")
    for name in wanted:
        if (frame[name].str.strip() == "").any():
            row = int((frame[name].str.strip() == "").to_numpy().argmax()) + 1
            raise DataError(f"{label}: {name} is missing in row {row}")
    if "BioReplicate" not in frame:
        frame["BioReplicate"] = frame["Run"] if not labelled else frame["Mixture"] + "_" + frame["Channel"]
    frame["Run"] = frame["Run"].str.strip()
    return _labelled(frame) if labelled else _label_free(frame)


def _label_free(frame: pd.DataFrame) -> Annotation:
    constant_within(frame, ["Run"], [c for c in frame.columns if c != "Run"])
    channels = frame.drop_duplicates("Run").reset_index(drop=True)
    channels.insert(0, "sample", channels["Run"])
    channels = channels.drop(columns=[c for c in ("Channel", "Fraction") if c in channels])
    position = np.arange(len(channels))[None, :]
    layout = Layout(channels, position, np.zeros(1, dtype=int), ("all runs",), False)
    runs = {plain_run(run): k for k, run in enumerate(channels["Run"])}
    return Annotation(layout, runs, tuple(channels["Run"]))


def _labelled(frame: pd.DataFrame) -> Annotation:
    replicate = frame["TechRepMixture"] if "TechRepMixture" in frame else pd.Series("1", index=frame.index)
    frame = frame.assign(TechRepMixture=replicate)
    keys = ["Mixture", "TechRepMixture"]
    constant_within(frame, ["Run"], keys)
    block, labels = pd.factorize(pd.MultiIndex.from_frame(frame[keys]))
    frame["_block"] = block
    facts = [c for c in frame.columns if c not in ("Run", "Fraction", "_block", *keys, "Channel")]
    # with technical replicates a channel of a mixture is a sample in each of them
    within = keys if (replicate != replicate.iloc[0]).any() else ["Mixture"]
    constant_within(frame, [*within, "Channel"], facts)
    runs = {plain_run(run): int(b) for run, b in zip(frame["Run"], block, strict=True)}
    fractions = frame.groupby("_block", observed=True)["Run"].nunique()
    channels = frame.drop_duplicates(["_block", "Channel"]).reset_index(drop=True)
    pooled = channels["_block"].map(fractions).to_numpy() > 1
    channels["Run"] = channels["Run"].where(~pooled, channels["Mixture"] + "_" + channels["TechRepMixture"])
    repeated = channels.groupby("Mixture", observed=True)["TechRepMixture"].transform("nunique").to_numpy() > 1
    sample = channels["Mixture"] + "_" + channels["Channel"]
    channels["sample"] = sample.where(
        ~repeated, channels["Mixture"] + "_" + channels["TechRepMixture"] + "_" + channels["Channel"]
    )
    if channels["sample"].duplicated().any():
        # underscores inside the names can make two samples look alike
        channels["sample"] = channels["Mixture"] + "|" + channels["TechRepMixture"] + "|" + channels["Channel"]
    names = list(dict.fromkeys(channels["Channel"]))
    position = np.full((len(labels), len(names)), -1)
    column = channels["Channel"].map({name: k for k, name in enumerate(names)}).to_numpy()
    position[channels["_block"].to_numpy(), column] = np.arange(len(channels))
    first = ["sample", "Mixture", *(["TechRepMixture"] if repeated.any() else []), "Channel", "Run"]
    first += ["Condition", "BioReplicate"]
    others = [c for c in channels.columns if c not in (*first, "Fraction", "TechRepMixture", "_block")]
    mixture = pd.factorize(np.array([m for m, _ in labels], dtype=object))[0]
    names_of = tuple(m if not repeated.any() else f"{m}, TechRepMixture {t}" for m, t in labels)
    layout = Layout(channels[[*first, *others]], position, mixture, names_of, True)
    return Annotation(layout, runs, tuple(names))
