"""Grouping factors from columns or arrays: labels become integer codes, as cheaply as the labels allow."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mvmise_sm.blame import refuse_complex
from mvmise_sm.core.covariance.random_effects import GroupingFactor, RandomEffects, RandomTerm
from mvmise_sm.core.covariance.structures import Diagonal, Unstructured
from mvmise_sm.exceptions import DataError, MissingDataError, RandomEffectsError

__all__ = ["check_random_effects", "encode_labels", "grouping_factor", "interact_labels", "random_effects_from_arrays"]


_LARGEST_LABEL = np.iinfo(np.intp).max


def encode_labels(values: Any, shown: str = "a grouping factor") -> tuple[np.ndarray, pd.Index]:
    """Turn labels into codes.

    Integers in a small range go through a table, categoricals use their own codes, everything else is hashed once and
    the levels sorted. Levels that do not occur are left out. The input array itself is returned as codes when it
    already holds 0 .. J-1 as platform integers.

    Parameters
    ----------
    values : array_like
        Labels (n,): Series, Categorical or array of any type.
    shown : str, optional
        What they are, for messages.

    Returns
    -------
    codes : ndarray
        Level of each row (n,), intp; -1 marks a missing label.
    levels : pandas.Index
        Labels (J,), in category order or sorted.
    """
    plain = isinstance(values, (pd.Series, np.ndarray))
    if not plain and hasattr(values, "contrast") and hasattr(values, "levels"):  # patsy's box around C(...)
        values = values.data if values.levels is None else pd.Categorical(values.data, categories=values.levels)
    array = values if isinstance(values, np.ndarray) else getattr(values, "array", values)
    if isinstance(array, pd.Categorical):
        return _drop_unused(np.asarray(array.codes, dtype=np.intp), array.categories)
    if isinstance(array, pd.api.extensions.ExtensionArray) and not isinstance(array, pd.arrays.NumpyExtensionArray):
        return _factorize(array, shown)
    labels = np.asarray(array)
    if labels.ndim != 1:
        raise DataError(f"{shown} must be one column, found an array of shape {labels.shape}")
    if labels.dtype.kind in "iu" and labels.size:
        low, high = int(labels.min()), int(labels.max())
        if high - low < 4 * labels.size + 1024 and high < _LARGEST_LABEL:
            # widened before the subtraction, which small integer types cannot hold
            codes = labels.astype(np.intp, copy=False)
            return _drop_unused(codes if low == 0 else codes - low, pd.RangeIndex(low, high + 1))
    return _factorize(_known_to_pandas(labels, shown), shown)


def _known_to_pandas(labels: np.ndarray, shown: str) -> np.ndarray:
    """Labels (n,) in a type that pandas can sort: this machine's byte order, no half or extended precision."""
    if labels.dtype.kind in "Vc":
        raise DataError(f"{shown} must hold numbers, texts or other hashable labels, found {labels.dtype}")
    if not labels.dtype.isnative:
        labels = labels.astype(labels.dtype.newbyteorder("="))
    return labels.astype(float) if labels.dtype.kind == "f" and labels.dtype.itemsize not in (4, 8) else labels


def _factorize(values: Any, shown: str = "a grouping factor") -> tuple[np.ndarray, pd.Index]:
    try:
        codes, levels = pd.factorize(values, sort=True)
    except TypeError:  # labels of mixed types have no order
        try:
            codes, levels = pd.factorize(values)
        except TypeError as error:
            raise DataError(f"{shown} must hold numbers, texts or other hashable labels: {error}") from None
    return codes, pd.Index(levels)


def _drop_unused(codes: np.ndarray, levels: pd.Index) -> tuple[np.ndarray, pd.Index]:
    """Renumber codes (n,) so that every level occurs; -1 stays."""
    missing = bool(codes.size) and codes.min() < 0
    counts = np.bincount(codes + 1, minlength=len(levels) + 1)[1:] if missing else np.bincount(codes, None, len(levels))
    used = counts > 0
    if used.all():
        return codes, levels
    table = np.append(np.cumsum(used) - 1, -1)
    return table[codes], levels[np.flatnonzero(used)]


def interact_labels(parts: Sequence[tuple[np.ndarray, pd.Index]]) -> tuple[np.ndarray, pd.Index]:
    """Codes of the interaction of several factors; only combinations that occur become levels, labelled ``"A:a"``.

    Parameters
    ----------
    parts : sequence of (codes, levels)
        As returned by `encode_labels`, at least one.

    Returns
    -------
    codes : ndarray
        (n,), -1 where any part is missing.
    levels : pandas.Index
        Labels in the order of the parts' levels, the last part running fastest.
    """
    codes, levels = parts[0]
    for other, other_levels in parts[1:]:
        cells = codes * len(other_levels) + other
        if cells.size and (codes.min() < 0 or other.min() < 0):
            cells[(codes < 0) | (other < 0)] = -1
        size = len(levels) * len(other_levels)
        if size <= 4 * cells.size + 1024:
            codes, kept = _drop_unused(cells, pd.RangeIndex(size))
        else:
            present = cells >= 0
            codes = np.full(cells.size, -1, dtype=np.intp)
            codes[present], kept = _factorize(cells[present])
        cell = kept.to_numpy().astype(np.intp)
        first, second = np.divmod(cell, len(other_levels))
        levels = pd.Index(_texts(levels, first) + ":" + _texts(other_levels, second))
    return codes, levels


def _texts(levels: pd.Index, chosen: np.ndarray) -> np.ndarray:
    """Labels at the positions `chosen` (J,) as an object array of text."""
    if len(levels) <= len(chosen):
        return np.asarray(levels.astype(str), dtype=object)[chosen]
    return np.asarray(levels[chosen].astype(str), dtype=object)


def grouping_factor(values: Any, name: str = "group") -> GroupingFactor:
    """Build a grouping factor from labels.

    Parameters
    ----------
    values : array_like
        Labels (nobs,) without missing values.
    name : str, optional
        Name of the factor.

    Returns
    -------
    GroupingFactor

    Raises
    ------
    MissingDataError
        If a label is missing.
    """
    codes, levels = encode_labels(values, f"grouping factor {name!r}")
    if codes.size and codes.min() < 0:
        raise MissingDataError(f"grouping factor {name!r} has missing labels; drop those rows first")
    return GroupingFactor(name, codes, levels)


def random_effects_from_arrays(
    groups: Any,
    exog_re: Any = None,
    *,
    structure: str = "us",
) -> RandomEffects:
    """Build random effects without a formula.

    Parameters
    ----------
    groups : array_like or dict
        Labels (nobs,) of one grouping factor, called ``"group"`` unless it is a named Series; or a dict
        name -> labels for several.
    exog_re : array_like or dict, optional
        Columns (nobs, q) with random coefficients, an intercept included if one is wanted; a dict gives them by
        grouping factor. Factors without columns get a random intercept.
    structure : {"us", "diag"}, optional
        Covariance of the columns of each term.

    Returns
    -------
    RandomEffects

    Raises
    ------
    DataError
        If lengths differ, a column is not finite, or a name in `exog_re` is not in `groups`.
    """
    if structure not in ("us", "diag"):
        raise DataError(f"structure must be 'us' or 'diag', not {structure!r}")
    if not isinstance(groups, Mapping):
        groups = {getattr(groups, "name", None) or "group": groups}
    if not groups:
        raise RandomEffectsError("groups is empty; give at least one grouping factor")
    if not isinstance(exog_re, Mapping):
        if exog_re is not None and len(groups) > 1:
            raise DataError(f"with several groups {list(groups)} exog_re must be a dict with these names")
        exog_re = {} if exog_re is None else {next(iter(groups)): exog_re}
    unknown = [name for name in exog_re if name not in groups]
    if unknown:
        raise DataError(f"exog_re names {unknown}, but groups has {list(groups)}")
    terms = []
    nobs = None
    for name, labels in groups.items():
        factor = grouping_factor(labels, str(name))
        nobs = len(factor.codes) if nobs is None else nobs
        if len(factor.codes) != nobs:
            raise DataError(f"grouping factor {name!r} has {len(factor.codes)} rows, the first one has {nobs}")
        columns, names = _effect_columns(exog_re.get(name), nobs, name)
        make: Any = Unstructured if structure == "us" else Diagonal
        shown = f"({' + '.join(names)} | {name})"
        terms.append(RandomTerm(factor, columns, names, make(len(columns)), shown))
    return RandomEffects(terms)


def _effect_columns(exog: Any, nobs: int, name: Hashable) -> tuple[tuple, tuple[str, ...]]:
    """Columns and names of one term; a column of ones becomes None."""
    if exog is None:
        return (None,), ("Intercept",)
    labels = getattr(exog, "columns", None)
    if labels is None and getattr(exog, "name", None) is not None:
        labels = [exog.name]
    try:
        refuse_complex("exog_re", exog)
        array = np.asarray(exog, dtype=float)
    except (TypeError, ValueError):
        raise DataError(f"exog_re for {name!r} must be numeric") from None
    array = array[:, None] if array.ndim == 1 else array
    if array.ndim != 2 or array.shape[0] != nobs or array.shape[1] == 0:
        raise DataError(f"exog_re for {name!r} has shape {np.shape(exog)}, expected ({nobs}, q) with q at least 1")
    columns: list[np.ndarray | None] = []
    names = []
    for j in range(array.shape[1]):
        column = np.ascontiguousarray(array[:, j])
        if not np.isfinite(column).all():
            raise DataError(f"exog_re for {name!r}: column {j} holds missing or infinite values")
        constant = column[0] == 1.0 and column[-1] == 1.0 and bool((column == 1.0).all())
        columns.append(None if constant else column)
        default = "Intercept" if constant else f"z{j + 1}"
        names.append(str(labels[j]) if labels is not None else default)
    return tuple(columns), tuple(names)


def check_random_effects(random: RandomEffects, nobs: int, *, residual: str = "estimated") -> None:
    """Refuse random effects that the data cannot identify.

    Parameters
    ----------
    random : RandomEffects
        Terms of the model.
    nobs : int
        Number of rows.
    residual : {"estimated", "known"}, optional
        ``"known"`` for GLMMs without a free scale and for a fixed residual variance: then one level per row is fine.

    Raises
    ------
    RandomEffectsError
        If a factor has one level, as many levels as rows, or a term as many effects as rows.
    """
    for factor in random.factors:
        if factor.n_levels < 2:
            raise RandomEffectsError(
                f"grouping factor {factor.name!r} must have at least 2 levels in the data, found {factor.n_levels}"
            )
    if residual == "known":
        return
    for factor in random.factors:
        # with a known covariance, or several memberships, levels are told apart from residuals without repetition
        if factor.n_levels >= nobs and not factor.loaded:
            raise RandomEffectsError(
                f"grouping factor {factor.name!r} has {factor.n_levels} levels for {nobs} rows; it must have fewer "
                f"levels than rows, otherwise its variance cannot be told from the residual variance"
            )
    for term in random.terms:
        effects = term.factor.n_levels * term.q
        # a common correlation or range tells effects from residuals even with one row for each
        if effects >= nobs and term.structure.invariance != "none" and not term.factor.loaded:
            raise RandomEffectsError(
                f"random term {term.text} has {effects} effects for {nobs} rows; there must be fewer effects than "
                f"rows, otherwise their variances cannot be told from the residual variance"
            )
