"""Plots of an experiment: the profile of a protein, and what is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mvmise_sm.exceptions import OptionError
from mvmise_sm.plots.panels import COLOR, FAINT, MARK, one_axes, trim
from mvmise_sm.proteomics.layout import plain_run

if TYPE_CHECKING:
    from mvmise_sm.proteomics.experiment import Experiment

__all__ = ["missing", "profile"]

_CONDITIONS = ("#1f5a96", "#c0392b", "#2e8b57", "#8e5ea2", "#d98e04", "#16a2b8", "#7f6a52", "#444444")


def profile(experiment: Experiment, protein: str, ax: Any = None) -> Any:
    """Draw a protein's features over the samples, ordered by block and condition.

    Parameters
    ----------
    experiment : Experiment
    protein : str
    ax : Axes, optional

    Returns
    -------
    Axes

    Raises
    ------
    OptionError
        If there is no such protein.
    """
    features = experiment.features
    if protein not in features:
        raise OptionError(f"protein {protein!r} is not in the experiment; {_near(protein, list(features))}")
    samples = experiment.samples
    block = experiment.data.layout.block_name
    samples = samples if "Condition" in samples else samples.assign(Condition="not told")
    keys = [k for k in (block, "Condition") if k is not None]
    order = samples[keys].astype(str).sort_values(keys, kind="stable").index.to_numpy()
    samples = samples.iloc[order].reset_index(drop=True)
    values = experiment.matrix()[features[protein]].to_numpy()[order]
    ax = one_axes(ax, (min(4.0 + 0.09 * len(samples), 12.0), 3.8))
    blocks = samples[block].astype(str).to_numpy() if block else np.array(["all"] * len(samples))
    starts = np.flatnonzero(np.r_[True, blocks[1:] != blocks[:-1]])
    ends = np.r_[starts[1:], len(samples)]
    at = np.arange(len(samples), dtype=float)
    conditions = list(pd.unique(samples["Condition"].astype(str).sort_values()))
    colors = {c: _CONDITIONS[k % len(_CONDITIONS)] for k, c in enumerate(conditions)}
    for start, end in zip(starts, ends, strict=True):
        if not np.isfinite(values[start:end]).any():
            ax.axvspan(start - 0.5, end - 0.5, color="0.93", zorder=0)
        for k in range(values.shape[1]):
            ax.plot(at[start:end], values[start:end, k], color=FAINT, lw=0.7, zorder=1)
    alpha = float(np.clip(8.0 / values.shape[1], 0.35, 1.0))
    for condition in conditions:
        rows = (samples["Condition"].astype(str) == condition).to_numpy()
        x = np.repeat(at[rows], values.shape[1])
        ax.plot(x, values[rows].ravel(), "o", ms=3.5, alpha=alpha, color=colors[condition], mec="none", zorder=2)
        ax.plot([], [], "o", ms=4, color=colors[condition], label=condition)
    for start in starts[1:]:
        ax.axvline(start - 0.5, color="0.8", lw=0.6, zorder=0)
    ax.set_xlim(-0.5, len(samples) - 0.5)
    _label_blocks(ax, blocks, starts, ends, block)
    ax.set_ylabel("log2 intensity")
    ax.set_title(protein if len(protein) <= 60 else protein[:57] + "...", fontsize="medium", loc="left")
    ax.legend(title="Condition", fontsize="small", title_fontsize="small", frameon=False, loc="center left",
              bbox_to_anchor=(1.0, 0.5))  # fmt: skip
    return trim(ax)


def _label_blocks(ax: Any, blocks: np.ndarray, starts: np.ndarray, ends: np.ndarray, name: str | None) -> None:
    if name is None:
        ax.set_xticks([])
        ax.set_xlabel("runs, by condition")
        return
    shown = _short([str(blocks[s]) for s in starts])
    crowded = sum(map(len, shown)) > 70
    ax.set_xticks((starts + ends - 1) / 2.0, shown, rotation=90 if crowded else 0, fontsize="small")
    ax.tick_params(axis="x", length=0)
    ax.set_xlabel(f"samples by {name}, within it by condition; grey: not seen")


def _short(names: list[str], most: int = 18) -> list[str]:
    """Names without extension, and without what they begin with in common if they are long."""
    names = [plain_run(name) for name in names]
    if max(map(len, names)) > most and len(names) > 1:
        same = [len(set(letters)) == 1 for letters in zip(*names, strict=False)]
        head = names[0][: same.index(False) if False in same else 0]
        names = [name[max(head.rfind(c) for c in "_- .") + 1 :] for name in names]
    return [name if len(name) <= most else "..." + name[3 - most :] for name in names]


def _near(name: str, names: list[str]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(str(name), names, 3)
    return f"did you mean {', '.join(map(repr, close))}?" if close else f"it has {len(names)} proteins"


def missing(experiment: Experiment, ax: Any = None) -> Any:
    """Draw the share of missing blocks, or of missing values in label-free data, over the mean of what was seen.

    Parameters
    ----------
    experiment : Experiment
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    values = experiment.matrix().to_numpy()
    seen = np.isfinite(values)
    name = experiment.data.layout.block_name
    what = "values"
    if name is not None:
        codes = pd.factorize(experiment.samples[name])[0]
        seen_blocks = np.zeros((codes.max() + 1, values.shape[1]), bool)
        np.logical_or.at(seen_blocks, codes, seen)
        what = f"{name}s"
    else:
        seen_blocks = seen
    share = 1.0 - seen_blocks.mean(axis=0)
    level = np.nansum(values, axis=0) / np.maximum(seen.sum(axis=0), 1)
    ax = one_axes(ax)
    # shares are few; a fixed jitter tells features of one share apart
    jitter = (np.random.default_rng(0).random(len(share)) - 0.5) * 0.5 / max(len(seen_blocks), 4)
    alpha = float(np.clip(30.0 / np.sqrt(len(share)), 0.12, 0.6))
    ax.plot(level, share + jitter, "o", ms=3, color=COLOR, mec="none", alpha=alpha)
    n_bins = int(np.clip(len(share) // 25, 3, 10))
    order = np.argsort(level)
    if len(share) >= 3 * n_bins:
        parts = np.array_split(order, n_bins)
        ax.plot([level[p].mean() for p in parts], [share[p].mean() for p in parts], "-o", ms=4, color=MARK, lw=1.3,
                label="mean of equal parts")  # fmt: skip
        ax.legend(frameon=False, fontsize="small")
    ax.set_ylim(-0.09, 1.09)
    ax.set_xlabel("mean of what was seen, log2")
    ax.set_ylabel(f"share of {what} missing")
    kind = "proteins" if experiment.level == "protein" else "peptides"
    ax.set_title(f"{len(share)} {kind}, {1.0 - seen.mean():.0%} of the values missing", fontsize="medium", loc="left")
    return trim(ax)
