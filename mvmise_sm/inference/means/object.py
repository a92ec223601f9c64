"""Marginal means and contrasts as the user holds them: frames that can be contrasted, tested and drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import reduce
from typing import Any

import numpy as np
import pandas as pd

from mvmise_sm.exceptions import OptionError
from mvmise_sm.inference.means.adjust import checked_adjust
from mvmise_sm.inference.means.contrasts import DEFAULT_ADJUST, contrast_set, written
from mvmise_sm.inference.means.estimates import Estimates, level_text
from mvmise_sm.inference.tables import Table, table
from mvmise_sm.options import answering
from mvmise_sm.spellings import of_estimates

__all__ = ["Contrasts", "MarginalMeans"]

_UNSET: Any = object()


@answering
class _Estimated(Table):
    """A frame of estimates that remembers what was estimated; parts of it are plain tables."""

    _metadata = ["heading", "estimates", "notes"]  # noqa: RUF012 (pandas' own protocol)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            raise AttributeError(of_estimates(repr(type(self).__name__), name)) from None

    @classmethod
    def of(cls, estimates: Estimates):
        """Build the frame of estimates."""
        out = cls(estimates.frame())
        lines = estimates.lines()
        out.estimates = estimates
        out.heading, out.notes = "\n".join(lines), tuple(lines[1:])
        return out

    def test(
        self, null: float = 0.0, side: str = "two-sided", joint: bool = False, adjust: str | None = "default"
    ) -> Table:
        """Test the estimates against a value, on the linear scale.

        Parameters
        ----------
        null : float, optional
            Hypothetical value, on the scale of the linear predictor unless the grid was transformed.
        side : {"two-sided", ">", "<"}, optional
            The alternative.
        joint : bool, optional
            One F test of all rows of each group of `by` instead.
        adjust : str or None, optional
            As in `contrast`; that of the table by default.

        Returns
        -------
        Table
            ``estimate, std_error, df, statistic, p_value``; or ``df_num, df_denom, F, p_value``.
        """
        estimates = self._kept()
        if joint:
            if side != "two-sided":
                raise OptionError("a joint test is two-sided; leave side out")
            return table(estimates.joint(null), "\n".join([f"Joint tests: {estimates.what}", *estimates.notes]))
        if adjust != "default":
            estimates = replace(estimates, adjust=_adjust_for(estimates.kind, adjust))
        lines = estimates.lines("P-values")
        if null or side != "two-sided":
            lines.append(
                f"Tests of the value {null:g}" + ("." if side == "two-sided" else f" against values {side} it.")
            )
        return table(estimates.tests(null, side), "\n".join(lines))

    def contrast(
        self,
        method: str | Mapping[str, Any] | Sequence[Any] | None = None,
        *,
        by: Any = _UNSET,
        simple: Any = None,
        adjust: str | None = "default",
        ref: Any = None,
        interaction: Any = None,
    ) -> Contrasts:
        """Contrast the estimates within the groups of `by`.

        Parameters
        ----------
        method : str, dict, array_like or callable, optional
            ``"pairwise"`` (the default), ``"revpairwise"``, ``"trt.vs.ctrl"`` (``"dunnett"``), ``"trt.vs.ctrlk"``,
            ``"consec"``, ``"eff"``, ``"del.eff"``, ``"poly"``, ``"identity"``; a dict from names to weights, one per
            estimate in the order of the frame; or a matrix of weights.
        by : str, list of str or None, optional
            Variables within whose levels estimates are contrasted; None contrasts all of them.
        simple : str or list of str, optional
            The variables whose levels are contrasted, within the levels of all others.
        adjust : {"tukey", "dunnett", "mvt", "holm", "sidak", "bonferroni", "fdr", "scheffe", "none"}, optional
            Adjustment within each group. By default that which goes with `method`: Tukey for pairs, Dunnett for
            comparisons with a control, the multivariate t distribution for ``"consec"``, ``"fdr"`` for ``"eff"`` and
            ``"del.eff"``, none for others and interactions.
        ref : str or int, optional
            Control of ``"trt.vs.ctrl"``: a label, or a position from 0.
        interaction : str, list of str or dict, optional
            Contrasts of contrasts: one method for each variable, in their order or by name.

        Returns
        -------
        Contrasts

        Raises
        ------
        OptionError
            If a name is unknown, or the weights do not fit the estimates.
        """
        estimates = self._kept()
        names = [*estimates.by, *estimates.specs]
        groups = _groups(names, list(estimates.by), by, simple)
        inner = [n for n in (*estimates.specs, *estimates.by) if n not in groups]
        if not inner:
            raise OptionError(f"nothing is left to contrast within {', '.join(groups)}")
        estimates = replace(estimates, by=tuple(groups), specs=tuple(inner))
        if interaction is not None:
            if method is not None:
                raise OptionError("method and interaction exclude each other")
            return Contrasts.of(_interaction(estimates, interaction, adjust))
        return Contrasts.of(_contrast(estimates, "pairwise" if method is None else method, ref, adjust))

    def plot(self, ax=None, **options):
        """Plot estimates with intervals, a line for each level of `by`; see `mvmise_sm.plots.means`."""
        from mvmise_sm import plots

        return plots.means(self, ax, **options)

    def _kept(self) -> Estimates:
        estimates = getattr(self, "estimates", None)
        if estimates is None or len(self) != len(estimates.labels):
            raise OptionError("this frame is a part of the estimates; contrast and test the whole table")
        return estimates


@answering
class MarginalMeans(_Estimated):
    """Marginal means or slopes: a frame with `contrast`, `test`, `regrid` and `plot`.

    Attributes
    ----------
    heading : str
        What was estimated and the notes, one line each.
    notes : tuple of str
        Averaging, values held, degrees of freedom, scale, adjustment, and what cannot be estimated.
    estimates : Estimates
        The linear functions behind the frame.
    """

    @classmethod
    def of(cls, estimates: Estimates) -> MarginalMeans:
        """Build the frame of estimates."""
        return super().of(estimates)

    def regrid(self) -> MarginalMeans:
        """The means on the scale of the response as the quantities to contrast: differences are then of means."""
        return MarginalMeans.of(self._kept().linearised())

    def pairs(self, **options: Any) -> Contrasts:
        """Pairwise differences, ``contrast("pairwise")``."""
        return self.contrast("pairwise", **options)


class Contrasts(_Estimated):
    """Contrasts of marginal means or slopes: a frame with `test`, `contrast` and `plot`; see `MarginalMeans`."""


def _adjust_for(kind: str, adjust: str | None) -> str:
    """A checked adjustment of a kind of contrasts, ``"default"`` resolved."""
    if adjust == "default":
        return DEFAULT_ADJUST.get(kind, "none")
    name = checked_adjust(adjust)
    if name == "tukey" and kind not in ("pairwise", "revpairwise"):
        raise OptionError("adjust='tukey' is for pairwise differences; use 'mvt'")
    return name


def _groups(names: list[str], usual: list[str], by: Any, simple: Any) -> list[str]:
    """Variables within whose levels to contrast."""

    def checked(given: Any, option: str) -> list[str]:
        wanted = [given] if isinstance(given, str) else [str(name) for name in given]
        for name in wanted:
            if name not in names:
                raise OptionError(
                    f"{option}: {name!r} is not a variable of these estimates; they are {', '.join(names)}"
                )
        return wanted

    if simple is not None:
        if by is not _UNSET:
            raise OptionError("simple and by exclude each other")
        chosen = checked(simple, "simple")
        return [name for name in names if name not in chosen]
    if by is _UNSET:
        return usual
    return [] if by is None else checked(by, "by")


def _contrast(estimates: Estimates, method: Any, ref: Any, adjust: str | None) -> Estimates:
    kind, parts, at, weights = "custom", [], [], []
    sizes = []
    # contrasts of contrasts within a contrast need a second column
    column = "contrast" if "contrast" not in estimates.by else "contrast1"
    for group in estimates.groups():
        labels = _row_labels(estimates, group)
        kind, (names, matrix) = contrast_set(method, labels, ref)
        if not len(names):
            raise OptionError(f"{kind} contrasts need at least two levels, there is only {', '.join(labels)}")
        ratio = _is_ratio(estimates, matrix)
        own = estimates.labels.iloc[group[:1]][list(estimates.by)]
        part = own.loc[own.index.repeat(len(names))].reset_index(drop=True)
        part[column] = [written(name, "/" if ratio else "-") for name in names]
        parts.append(part)
        at.append(group)
        weights.append(matrix)
        sizes.append(len(labels))
    shown = "custom" if kind == "custom" else kind
    return estimates.contrasted(
        weights,
        at,
        labels=_stacked(parts),
        specs=(column,),
        what=f"{_CAPITAL.get(shown, shown)} contrasts of {estimates.what[0].lower() + estimates.what[1:]}",
        kind=kind,
        adjust=_adjust_for(kind, adjust),
        n_means=tuple(sizes),
        ratio=all(_is_ratio(estimates, w) for w in weights),
    )


_CAPITAL = {
    "pairwise": "Pairwise",
    "revpairwise": "Pairwise",
    "trt.vs.ctrl": "Treatment against control",
    "trt.vs.ctrlk": "Treatment against control",
    "consec": "Consecutive",
    "eff": "Effect",
    "del.eff": "Deleted effect",
    "poly": "Polynomial",
    "identity": "Identity",
    "custom": "Custom",
    "interaction": "Interaction",
}


def _stacked(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    out = pd.concat(parts, ignore_index=True)
    for name in out.columns:
        if isinstance(parts[0][name].dtype, pd.CategoricalDtype):
            out[name] = pd.Categorical(out[name], categories=parts[0][name].cat.categories)
    return out


def _row_labels(estimates: Estimates, group: np.ndarray) -> list[str]:
    frame = estimates.labels.iloc[group][list(estimates.specs)]
    return [" ".join(map(level_text, row)) for row in frame.itertuples(index=False)]


def _is_ratio(estimates: Estimates, weights: np.ndarray) -> bool:
    """Whether contrasts are shown as ratios: logarithmic scale, and weights that sum to zero."""
    sums = np.abs(weights.sum(axis=1)) < 1e-9 * np.maximum(np.abs(weights).sum(axis=1), 1.0)
    return estimates.response and estimates.scale.log_base is not None and not estimates.ratio and bool(sums.all())


def _interaction(estimates: Estimates, interaction: Any, adjust: str | None) -> Estimates:
    names = list(estimates.specs)
    if isinstance(interaction, str):
        methods = dict.fromkeys(names, interaction)
    elif isinstance(interaction, Mapping):
        methods = dict(interaction)
    else:
        methods = dict(zip(names, interaction, strict=False))
        if len(interaction) != len(names):
            raise OptionError(f"interaction has {len(interaction)} methods for the variables {', '.join(names)}")
    if set(methods) != set(names):
        raise OptionError(f"interaction must name a method for each of {', '.join(names)}, found {', '.join(methods)}")
    parts, at, weights = [], [], []
    for group in estimates.groups():
        frame = estimates.labels.iloc[group]
        sets = []
        for name in names:
            labels = list(dict.fromkeys(level_text(v) for v in frame[name]))
            kind, chosen = contrast_set(methods[name], labels)
            sets.append((f"{name}_{kind}", *chosen))
        matrix = reduce(np.kron, [s[2] for s in sets])
        order = _lexicographic(frame, names)
        if matrix.shape[1] != len(group):
            raise OptionError("interaction contrasts need all combinations of the variables")
        full = np.zeros_like(matrix)
        full[:, order] = matrix
        ratio = _is_ratio(estimates, full)
        columns = pd.MultiIndex.from_product(
            [[written(n, "/" if ratio else "-") for n in s[1]] for s in sets], names=[s[0] for s in sets]
        ).to_frame(index=False)
        own = frame.iloc[:1][list(estimates.by)]
        parts.append(own.loc[own.index.repeat(len(columns))].reset_index(drop=True).join(columns))
        at.append(group)
        weights.append(full)
    return estimates.contrasted(
        weights,
        at,
        labels=_stacked(parts),
        specs=tuple(parts[0].columns[len(estimates.by) :]),
        what=f"Interaction contrasts of {estimates.what[0].lower() + estimates.what[1:]}",
        kind="interaction",
        adjust=_adjust_for("interaction", adjust),
        n_means=(),
        ratio=all(_is_ratio(estimates, w) for w in weights),
    )


def _lexicographic(frame: pd.DataFrame, names: list[str]) -> np.ndarray:
    """Positions of the rows in the order in which the first of `names` varies slowest."""
    codes = [pd.factorize(frame[name])[0] for name in names]
    return np.lexsort(codes[::-1])
