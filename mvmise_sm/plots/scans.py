"""Plots of the table of a scan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from mvmise_sm.exceptions import OptionError
from mvmise_sm.plots.panels import COLOR, FAINT, MARK, one_axes, trim

__all__ = ["mean_difference", "p_values", "variance_shares", "volcano"]

_SMALLEST = 1e-300


def volcano(table: pd.DataFrame, term: str, alpha: float, label: int | Sequence[str], ax: Any) -> Any:
    """See `ScanResult.plot_volcano`."""
    ax = one_axes(ax)
    rows = _known(table, term)
    height = -np.log10(np.maximum(rows["p"].to_numpy(), _SMALLEST))
    _points(ax, rows, rows["estimate"].to_numpy(), height, alpha, label)
    ax.axvline(0.0, color=FAINT, lw=0.6, zorder=0)
    ax.set(xlabel=f"estimate of {term}", ylabel="-log10 p")
    return trim(ax)


def mean_difference(
    table: pd.DataFrame, term: str, level: pd.Series | str | None, alpha: float, label: int | Sequence[str], ax: Any
) -> Any:
    """See `ScanResult.plot_ma`."""
    rows = _known(table, term)
    if level is None or isinstance(level, str):
        name = "Intercept" if level is None else level
        own = table[table["term"] == name].set_index("feature")["estimate"]
        if not len(own):
            raise OptionError(f"level: {name!r} is not a term of this table; give the level of every feature")
        levels, shown = own, name
    else:
        if np.ndim(level) > 1:
            raise OptionError(f"level must have one number for each feature, found shape {np.shape(level)}")
        levels, shown = pd.Series(level), "level"
    x = levels.reindex(rows["feature"]).to_numpy(dtype=float)
    if not np.isfinite(x).any():
        raise OptionError("level: none of its index labels is a feature of this table")
    ax = one_axes(ax)
    _points(ax, rows, x, rows["estimate"].to_numpy(), alpha, label)
    ax.axhline(0.0, color=FAINT, lw=0.6, zorder=0)
    ax.set(xlabel=shown, ylabel=f"estimate of {term}")
    return trim(ax)


def p_values(table: pd.DataFrame, term: str, bins: int, ax: Any) -> Any:
    """See `ScanResult.plot_p_values`."""
    ax = one_axes(ax)
    p = _known(table, term)["p"].to_numpy()
    ax.hist(p, bins=np.linspace(0.0, 1.0, int(bins) + 1), color=COLOR, edgecolor="white", lw=0.5)
    ax.axhline(len(p) / int(bins), color=MARK, lw=1.0, ls="--", label="without effects")
    ax.set(xlabel=f"p of {term}", ylabel="features", xlim=(0.0, 1.0))
    ax.legend(frameon=False)
    return trim(ax)


def variance_shares(shares: pd.DataFrame, ax: Any) -> Any:
    """See `ScanResult.plot_variance_shares`."""
    ax = one_axes(ax)
    order = [*shares.drop(columns="Residual").median().sort_values(ascending=False).index, "Residual"]
    columns = [shares[name].dropna().to_numpy() for name in order]
    for i, values in enumerate(columns, start=1):
        if len(values) > 1 and np.ptp(values) > 0.0:
            for body in ax.violinplot(values, [i], widths=0.8, showextrema=False)["bodies"]:
                body.set(facecolor=COLOR, alpha=0.35)
    ax.boxplot(columns, widths=0.15, showfliers=False, medianprops={"color": MARK})
    ax.set_xticks(range(1, len(order) + 1), order, rotation=30, ha="right")
    ax.set(ylabel="share of variance", ylim=(min(0.0, float(shares.min().min())), 1.0))
    return trim(ax)


def _known(table: pd.DataFrame, term: str) -> pd.DataFrame:
    return pd.DataFrame(table)[(table["term"] == term) & table["p"].notna()].reset_index(drop=True)


def _points(
    ax: Any, rows: pd.DataFrame, x: np.ndarray, y: np.ndarray, alpha: float, label: int | Sequence[str]
) -> None:
    hit = (rows["q"] < alpha).to_numpy()
    ax.scatter(x[~hit], y[~hit], s=8, color=FAINT, label=f"q >= {alpha:g}")
    ax.scatter(x[hit], y[hit], s=10, color=MARK, label=f"q < {alpha:g}")
    ax.legend(frameon=False)
    _label(ax, rows, x, y, label)


def _label(ax: Any, rows: pd.DataFrame, x: np.ndarray, y: np.ndarray, label: int | Sequence[str]) -> None:
    """Names beside the points; adjustText keeps them apart where it is installed."""
    if isinstance(label, (int, np.integer)) and not isinstance(label, bool):
        if label < 0:
            raise OptionError(f"label must be a number of features that is not negative, or their names, got {label}")
        chosen = np.argsort(rows["p"].to_numpy(), kind="stable")[: int(label)]
    else:
        wanted = [label] if isinstance(label, str) else list(label)  # type: ignore[arg-type]
        unknown = [name for name in wanted if name not in set(rows["feature"])]
        if unknown:
            raise OptionError(f"label: {unknown[0]!r} is not a feature with a p-value of this term")
        chosen = np.flatnonzero(rows["feature"].isin(wanted))
    names = rows["feature"].to_numpy()
    texts = [ax.text(x[i], y[i], str(names[i]), fontsize=7) for i in chosen if np.isfinite(x[i])]
    if not texts:
        return
    try:
        from adjustText import adjust_text
    except ImportError:
        for text in texts:
            text.set(ha="left", va="bottom")
        return
    adjust_text(texts, ax=ax, arrowprops={"arrowstyle": "-", "color": FAINT, "lw": 0.5})
