"""The residual structure of a model on its rows: levels, subjects, groups, and the sentences for what does not fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from mvmise_sm.caller import warn
from mvmise_sm.core.covariance.patterns import SubjectRows, limits_of_range, median_distance, subject_rows
from mvmise_sm.core.covariance.random_effects import GroupingFactor
from mvmise_sm.core.covariance.registry import make_residual
from mvmise_sm.core.covariance.residual import ResidualTerm
from mvmise_sm.core.covariance.residual_groups import GroupedResidual
from mvmise_sm.design.columns import Encoded
from mvmise_sm.design.grouping import encode_labels
from mvmise_sm.exceptions import DataError, FormulaError, IdentificationWarning
from mvmise_sm.formula.residual import ResidualSpec

__all__ = ["check_nesting", "level_codes", "residual_term", "unseen_pairs", "warn_unseen"]


def level_codes(value: Encoded, shown: str) -> tuple[np.ndarray, pd.Index]:
    """Codes (n,) and labels of the levels: categories in their order, numbers as numbers."""
    if value.categories is not None:
        return encode_labels(pd.Categorical.from_codes(value.values, value.categories))
    if value.values.ndim != 1:
        raise FormulaError(f"{shown} has {value.n_columns} columns; the level of a residual structure is one")
    return encode_labels(value.values)


def residual_term(
    spec: ResidualSpec,
    values: list[Encoded],
    subject: tuple[np.ndarray, pd.Index] | None,
    group: tuple[np.ndarray, pd.Index] | None,
    nobs: int,
    index: pd.Index,
) -> ResidualTerm:
    """Build the term.

    Parameters
    ----------
    spec : ResidualSpec
    values : list of Encoded
        Level, or coordinates, on the rows.
    subject, group : (codes, labels) or None
    nobs : int
    index : Index
        Labels of the rows, for messages.

    Raises
    ------
    DataError, FormulaError
    """
    subjects, labels = (np.arange(nobs), index) if subject is None else subject
    codes_of_groups = None
    if group is not None:
        codes_of_groups = group[0]
        _one_level(subjects, labels, group[0], str(spec.subject), str(spec.group))
    if spec.distances:
        positions = _positions(spec, values)
        codes = np.zeros(nobs, dtype=np.intp)
        rows = subject_rows(subjects, codes, codes_of_groups, positions)
        if not spec.nugget:
            _refuse_coincident(rows, spec, labels, index)
        structure = make_residual(
            spec.structure, (), median_distance(rows.batches), spec.nugget, limits_of_range(rows.batches)
        )
    else:
        codes, levels = level_codes(values[0], spec.levels[0])
        if spec.subject is not None:
            _refuse_repeated(subjects, codes, labels, levels, spec)
        rows = subject_rows(subjects, codes, codes_of_groups)
        structure = make_residual(spec.structure, [str(level) for level in levels])
    if group is not None:
        structure = GroupedResidual(structure, [str(label) for label in group[1]])
    return ResidualTerm(structure, rows, spec.text, ", ".join(spec.levels), spec.subject or "", labels)


def _positions(spec: ResidualSpec, values: list[Encoded]) -> np.ndarray:
    for name, value in zip(spec.levels, values, strict=True):
        if value.categories is not None or value.values.ndim != 1:
            raise FormulaError(f"residual={spec.text!r}: {name!r} must be a numeric coordinate")
        if not np.isfinite(value.values).all():
            raise DataError(f"residual={spec.text!r}: {name!r} holds infinite values")
    return np.column_stack([value.values for value in values])


def _refuse_repeated(subjects: np.ndarray, codes: np.ndarray, labels: Any, levels: Any, spec: ResidualSpec) -> None:
    cells = subjects.astype(np.int64) * len(levels) + codes
    found, count = np.unique(cells, return_counts=True)
    if (count > 1).any():
        cell = int(found[np.argmax(count > 1)])
        subject, level = divmod(cell, len(levels))
        rows = int(count[count > 1][0])
        raise DataError(
            f"Subject {str(labels[subject])!r} has {rows} rows at {spec.levels[0]} = {str(levels[level])!r}; "
            "a residual structure needs one."
        )


def _refuse_coincident(rows: SubjectRows, spec: ResidualSpec, labels: Any, index: pd.Index) -> None:
    for batch in rows.batches:
        if batch.size == 1 or batch.distances is None:
            continue
        same = (batch.distances == 0.0) & np.triu(np.ones((batch.size, batch.size), dtype=bool), 1)
        if same.any():
            pattern, a, b = (int(i[0]) for i in np.nonzero(same))
            found = batch.rows[int(np.argmax(batch.member == pattern))]
            first, second = sorted((int(found[a]), int(found[b])))
            whose = f"{spec.subject!r} = {str(labels[rows.subjects[first]])!r}"
            raise DataError(
                f"Rows {index[first]} and {index[second]} of {whose} have the same position; add nugget=True."
            )


def _one_level(subjects: np.ndarray, labels: Any, codes: np.ndarray, subject: str, factor: str) -> None:
    """Refuse a subject with rows in several levels of a factor."""
    pairs = np.unique(np.column_stack([subjects, codes]), axis=0)
    found, count = np.unique(pairs[:, 0], return_counts=True)
    if (count > 1).any():
        at = int(np.argmax(count > 1))
        raise DataError(
            f"Subjects of the residual structure ({subject!r}) must lie within one level of {factor!r}; "
            f"{str(labels[found[at]])!r} has {int(count[at])}."
        )


def check_nesting(term: ResidualTerm, factors: tuple[GroupingFactor, ...]) -> None:
    """Refuse subjects that lie in several levels of a grouping factor.

    Raises
    ------
    DataError
    """
    if all(batch.size == 1 for batch in term.rows.batches):
        return
    labels = term.subject_labels if len(term.subject_labels) else np.arange(term.rows.nobs)
    for factor in factors:
        codes = factor.codes if factor.loadings is None else _kinds_of(factor.loadings)
        _one_level(term.rows.subjects, labels, codes, term.subject, factor.name)


def _kinds_of(loadings: Any) -> np.ndarray:
    """Codes (nobs,) that are equal where two rows have the same memberships in the same shares."""
    loadings = loadings.tocsr()
    loadings.sum_duplicates()
    bounds = zip(loadings.indptr[:-1], loadings.indptr[1:], strict=True)
    rows = [(loadings.indices[a:b].tobytes(), loadings.data[a:b].tobytes()) for a, b in bounds]
    return pd.factorize(pd.Series(rows, dtype=object))[0]


def unseen_pairs(term: ResidualTerm) -> list[tuple[str, str]]:
    """Pairs of levels that no subject has both of."""
    levels = term.structure.levels
    seen = np.zeros((len(levels), len(levels)), dtype=bool)
    for batch in term.rows.batches:
        seen[batch.levels[:, :, None], batch.levels[:, None, :]] = True
    return [(levels[i], levels[j]) for i in range(len(levels)) for j in range(i + 1, len(levels)) if not seen[i, j]]


def warn_unseen(term: ResidualTerm) -> None:
    """Warn where a covariance has elements that no subject informs about."""
    if term.subject and all(batch.size == 1 for batch in term.rows.batches):
        if any(p.kind != "sd" for p in term.structure.parameters(term.structure.start())):
            warn(
                f"no subject ({term.subject!r}) has two rows: the data do not determine correlations of residuals.",
                IdentificationWarning,
            )
        return
    if not term.structure.needs_all_pairs:
        return
    pairs = unseen_pairs(term)
    if pairs:
        first, second = pairs[0]
        others = f" (and {len(pairs) - 1} other pairs)" if len(pairs) > 1 else ""
        warn(
            f"{first} and {second}{others} are never observed in one subject: the data do not determine their "
            "covariance.",
            IdentificationWarning,
        )
