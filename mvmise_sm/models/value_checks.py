"""Data that leave a model of missing values without an estimate: refused, or answered with infinite coefficients."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.optimize import linprog

from mvmise_sm.core.covariance.random_effects import GroupingFactor, RandomEffects
from mvmise_sm.design.build import as_frame
from mvmise_sm.exceptions import DataError, OptionError
from mvmise_sm.formula.parts import parse_formula
from mvmise_sm.selection.value import ValueFit, ValueProblem

__all__ = [
    "InfiniteMeans",
    "check_response_columns",
    "check_scale",
    "check_values",
    "identified",
    "with_absent_samples",
]

# a curve that expects fewer missing (or seen) values than this share of what is found has another unit
EXPECTED, FOUND = 1e-3, 0.05
ZERO = 1e-9


def check_response_columns(formula: str, data) -> None:
    """Refuse minus infinity in the response: the logarithm of a zero intensity is a missing value.

    Raises
    ------
    DataError
    """
    frame = as_frame(data)
    for name in parse_formula(formula).responses:
        if name in frame.columns and pd.api.types.is_float_dtype(frame[name].dtype):
            values = frame[name].to_numpy(dtype=float, na_value=np.nan)
            if np.isneginf(values).any():
                raise DataError(f"{name} has -inf; write missing values as NaN")


def with_absent_samples(data, samples, sample) -> pd.DataFrame:
    """The rows of all samples: values of those that have a row in the data, missing ones for the others.

    Raises
    ------
    OptionError, DataError
        If one of the arguments is absent, a sample has two rows, or the data have a sample that `samples` has not.
    """
    if samples is None or sample is None:
        raise OptionError("samples= (a row per sample) and sample= (the column that names it) go together")
    data, samples = as_frame(data), as_frame(samples)
    for frame, label in ((data, "data"), (samples, "samples")):
        if sample not in frame.columns:
            raise OptionError(f"sample {sample!r} is not a column of {label}")
        if frame[sample].duplicated().any():
            twice = frame.loc[frame[sample].duplicated(), sample].iloc[0]
            raise DataError(f"{label} has sample {twice!r} twice; there is one row for each")
    unknown = set(data[sample]) - set(samples[sample])
    if unknown:
        raise DataError(f"data has sample {next(iter(unknown))!r}, which samples has not")
    own = [sample, *(c for c in data.columns if c not in samples.columns)]
    return samples.merge(data[own], on=sample, how="left", sort=False).set_axis(samples.index)


def check_values(model) -> None:
    """Refuse a response with too few seen values, or that varies in none.

    Raises
    ------
    DataError
    """
    seen = np.isfinite(model.endog)
    p, n = model.exog.shape[1], int(seen.sum())
    name = model.endog_names
    if n < p + 1:
        were = "value is" if n == 1 else "values are"
        raise DataError(f"feature {name!r}: {n} {were} seen and {p} fixed effects asked for")
    y = model.endog[seen]
    if y.min() == y.max() and model.offset is None:
        raise DataError(f"feature {name!r}: all {n} values seen are {y.min():g}; there is nothing to fit")


def check_scale(model) -> None:
    """Refuse a curve of other units: one that expects nothing (or everything) to be missing where the data differ.

    Raises
    ------
    DataError
    """
    held = model.slot.held
    if len(held) < 2 or not model.slot.missing_y:
        return
    y = model.endog
    seen = np.isfinite(y)
    missing = 1.0 - seen.mean()
    offset = np.zeros(y.size) if model.mechanism.offset is None else model.mechanism.offset
    low = float(y[seen].min() - 2.0 * y[seen].std())
    high = float(y[seen].max() + 2.0 * y[seen].std())
    ends = [model.slot.mechanism.prob(held[0] + held[1] * at + offset) for at in (low, high)]
    most, least = np.maximum(*ends).max(), np.minimum(*ends).min()
    if missing > FOUND and most < EXPECTED:
        raise DataError(
            f"the curve expects no value to be missing and {100 * missing:.0f} % are: is it on the same scale?"
        )
    if 1.0 - missing > FOUND and least > 1.0 - EXPECTED:
        raise DataError(
            f"the curve expects all values to be missing and {100 * (1 - missing):.0f} % are seen: is it on the same "
            "scale?"
        )


@dataclass(frozen=True)
class InfiniteMeans:
    """Fixed effects without a finite estimate: the values they belong to were never seen.

    Attributes
    ----------
    names : tuple of str
    columns : ndarray of int
        Their positions.
    sign : ndarray, (m,)
        Which infinity.
    rows : ndarray of bool, (n,)
        Rows that stay: those whose mean is finite.
    """

    names: tuple[str, ...]
    columns: np.ndarray
    sign: np.ndarray
    rows: np.ndarray

    @property
    def sentence(self) -> str:
        """What users read."""
        return (
            f"no value of {', '.join(self.names)} was seen: its mean has no finite estimate; fixef_prior gives one"
            if len(self.names) == 1
            else f"no value was seen that tells {', '.join(self.names)} apart: their means have no finite estimate; "
            "fixef_prior gives one"
        )

    def reduced(self, problem: ValueProblem) -> ValueProblem:
        """The problem without the rows that are missing for certain and the columns that only they have."""
        keep = self.rows
        X = np.delete(problem.X[keep], self.columns, axis=1)
        return problem.on_rows(keep, X, _random_rows(problem.random, keep))

    def fit(self, problem: ValueProblem, **options) -> ValueFit:
        """Fit what is left and put the infinite coefficients back."""
        small = self.reduced(problem).fit(**options)
        p = problem.X.shape[1]
        kept = np.setdiff1d(np.arange(p), self.columns)
        beta = np.empty(p)
        beta[kept], beta[self.columns] = small.params.beta, self.sign * np.inf

        def widened(cov: np.ndarray) -> np.ndarray:
            out = np.full((*cov.shape[:-2], p, p), np.nan)
            out[..., kept[:, None], kept] = cov
            return out

        uncertainty = small.uncertainty
        if uncertainty is not None:
            uncertainty = replace(
                uncertainty,
                conditional=widened(uncertainty.conditional),
                cov=widened(uncertainty.cov),
                slopes=widened(uncertainty.slopes),
            )
        return replace(
            small,
            params=replace(small.params, beta=beta),
            uncertainty=uncertainty,
            information=widened(small.information),
        )


def identified(model, problem: ValueProblem) -> InfiniteMeans | None:
    """The fixed effects that have no finite estimate, by a linear programme; None if there are none.

    They have none if some direction d leaves the means of the seen values alone, ``X_seen d = 0``, and makes no missing
    value less probable, ``phi1 X_mis d >= 0``, but some more.
    """
    if model.priors is not None and model.priors.fixef:
        return None
    seen = np.isfinite(model.endog)
    X = np.asarray(model.exog, dtype=float)
    scale = np.maximum(np.abs(X).max(axis=0), 1e-300)
    null = _null_space(X[seen] / scale)
    if not null.shape[1] or seen.all():
        return None
    slot = problem.slots[0]
    if not slot.missing_y:
        unknown = ", ".join(np.asarray(model.exog_names)[np.abs(null).max(axis=1) > 1e-8])
        raise DataError(f"no seen value identifies {unknown}; without dependence on y the missing ones do not either")
    towards = -1.0 if slot.held.get(1, -1.0) <= 0 else 1.0
    moves = towards * (X[~seen] / scale) @ null
    # a bounded programme: the largest gain in the box is positive if and only if there is such a direction
    found = linprog(-moves.sum(axis=0), A_ub=-moves, b_ub=np.zeros(len(moves)), bounds=[(-1.0, 1.0)] * null.shape[1])
    if found.status != 0 or -found.fun <= ZERO * len(moves):
        return None
    direction = null @ found.x
    rows = seen.copy()
    rows[~seen] = np.abs((X[~seen] / scale) @ direction) <= 1e-8
    columns = np.flatnonzero(np.abs(direction) > 1e-8)
    # columns without which the remaining rows have full rank: those whose means are infinite, the latest first
    kept = [j for j in range(X.shape[1]) if j not in set(columns)]
    for j in columns.tolist():
        if np.linalg.matrix_rank(X[rows][:, sorted([*kept, j])] / scale[sorted([*kept, j])]) == len(kept) + 1:
            kept.append(j)
    gone = np.array(sorted(set(range(X.shape[1])) - set(kept)), dtype=int)
    names = tuple(str(model.exog_names[j]) for j in gone)
    return InfiniteMeans(names, gone, np.sign(direction[gone]), rows)


def _null_space(A: np.ndarray) -> np.ndarray:
    _, s, vt = np.linalg.svd(A, full_matrices=True)
    rank = int((s > 1e-9 * max(s[0] if s.size else 0.0, 1e-300)).sum())
    return vt[rank:].T


def _random_rows(random: RandomEffects, keep: np.ndarray) -> RandomEffects:
    """Random effects of some rows; levels without a row go."""
    factors: dict[int, GroupingFactor] = {}
    terms = []
    for factor in random.factors:
        levels, codes = np.unique(factor.codes[keep], return_inverse=True)
        factors[id(factor)] = GroupingFactor(factor.name, codes, np.asarray(factor.levels)[levels])
    for term in random.terms:
        columns = tuple(None if c is None else c[keep] for c in term.columns)
        terms.append(replace(term, factor=factors[id(term.factor)], columns=columns))
    return RandomEffects(terms)
