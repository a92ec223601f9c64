"""Responses of generalised linear models: counts to proportions, range, separation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
from scipy.optimize import linprog

from mvmise_sm.caller import warn
from mvmise_sm.design.columns import known
from mvmise_sm.exceptions import DataError, DataWarning

__all__ = ["as_proportions", "check_response", "proportion_design", "separated_columns"]

_INTEGER = 1e-6


def as_proportions(endog, weights):
    """Proportions of successes and numbers of trials for a response with two columns (successes, failures).

    Parameters
    ----------
    endog : array_like
        (nobs,), returned as it is, or (nobs, 2).
    weights : array_like or None
        Prior weights (nobs,); they multiply the trials.
    """
    values = endog if hasattr(endog, "shape") else np.asarray(endog)
    if values.ndim != 2 or values.shape[1] != 2:
        return endog, weights
    counts = np.asarray(values, dtype=float)
    if (counts < 0.0).any():
        raise DataError("successes and failures must not be negative")
    trials = counts.sum(axis=1)
    if (trials == 0.0).any():
        raise DataError(
            f"{int((trials == 0.0).sum())} of {len(trials)} rows have neither successes nor failures; "
            "leave them out with subset"
        )
    proportion = counts[:, 0] / trials
    if isinstance(values, pd.DataFrame):
        proportion = pd.Series(proportion, index=values.index, name=str(values.columns[0]))
    return proportion, trials if weights is None else trials * np.asarray(weights, dtype=float)


def proportion_design(design, family):
    """A design whose response of two columns is a proportion with weights; labels are for the binomial family only."""
    levels = design.endog_levels
    if levels is not None and levels.dtype != bool and not family.trials:
        raise DataError(
            f"the response {design.endog.name!r} must be numeric for the {family.spoken} family, found labels; "
            f"{known(levels)}"
        )
    if design.endog.ndim == 1 or design.endog.shape[1] != 2 or not family.trials:
        return design
    endog, weights = as_proportions(design.endog, design.weights)
    return replace(design, endog=endog, weights=weights)


def check_response(y, weights, family, bounded=False):
    """Refuse responses outside the family's range; warn of counts that are not whole.

    Parameters
    ----------
    y : ndarray
        (nobs,).
    weights : ndarray or None
        (nobs,).
    family : Family
    bounded : bool, optional
        Whether a prior keeps the fixed effects finite.

    Raises
    ------
    DataError
        If a response is out of range, or without such a prior all responses are at the edge of it.
    """
    low, high = float(y.min()), float(y.max())
    try:
        sentence = family.check(y, weights)
    except ValueError as error:
        sentence = str(error)
    if sentence:
        raise DataError(sentence)
    if not bounded:
        _edges(low, high, family)
    if family.trials:
        what = "binomial responses times weights" if weights is not None else "binomial responses without weights"
        _whole(y if weights is None else y * weights, what)
    elif family.integer:
        _whole(y, "counts")


def _edges(low, high, family):
    for edge in family.edges:
        if low == high == edge:
            raise DataError(f"all responses are {edge:g}, so that no estimate is finite")


def _whole(counts, what):
    off = np.abs(counts - np.round(counts)) > _INTEGER * np.maximum(counts, 1.0)
    if off.any():
        warn(f"{int(off.sum())} of {len(counts)} {what} are not whole numbers", DataWarning)


def separated_columns(y, X, family):
    """Columns of X whose coefficients have no finite maximum-likelihood estimate (complete or quasi-complete
    separation).

    Some direction d raises the likelihood without end when x'd >= 0 for rows at the upper edge of the response, x'd <=
    0 at the lower edge and x'd = 0 elsewhere, not always with equality (Albert and Anderson 1984); a linear program
    finds it (Konis 2007).

    Returns
    -------
    ndarray
        Positions of the columns that such a direction uses.
    """
    lower = (y == 0.0) if 0.0 in family.edges else np.zeros(len(y), dtype=bool)
    upper = (y == 1.0) if 1.0 in family.edges else np.zeros(len(y), dtype=bool)
    inner = ~(lower | upper)
    sign = np.where(upper, 1.0, -1.0)[~inner]
    size = np.abs(X).max(axis=0)
    scaled = X / np.where(size > 0.0, size, 1.0)
    edge = np.unique(scaled[~inner] * sign[:, None], axis=0)
    equal = np.unique(scaled[inner], axis=0) if inner.any() else None
    found = linprog(
        -edge.sum(axis=0),
        A_ub=-edge,
        b_ub=np.zeros(len(edge)),
        A_eq=equal,
        b_eq=None if equal is None else np.zeros(len(equal)),
        bounds=[(-1.0, 1.0)] * X.shape[1],
        method="highs",
    )
    if not found.success or -found.fun < 1e-7:
        return np.zeros(0, dtype=int)
    return np.flatnonzero(np.abs(found.x) > 1e-7)
