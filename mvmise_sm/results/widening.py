"""A result in a model with more columns, whose coefficients are held at zero."""

from __future__ import annotations

import copy
from typing import TypeVar

import numpy as np

from mvmise_sm.results.questions import AnsweringResults

__all__ = ["widened_copy"]

R = TypeVar("R", bound=AnsweringResults)


def widened_copy(result: R, model, positions: np.ndarray, wrapped, cov: np.ndarray) -> tuple[R, np.ndarray]:
    """Copy a result into a wider model, and a covariance of its coefficients with zeros for the others.

    Parameters
    ----------
    result : AnsweringResults
    model : LikelihoodModel
        The wider model.
    positions : ndarray
        Columns of the wider design that the result has estimated (k_fe,).
    wrapped : ResultsWrapper
        The result as the user sees it, kept as ``results_constrained``.
    cov : ndarray
        Of its coefficients (k_fe, k_fe).
    """
    k = len(model.exog_names)
    beta, wide = np.zeros(k), np.zeros((k, k))
    beta[positions] = result.params
    wide[np.ix_(positions, positions)] = cov
    out = copy.copy(result)
    out._cache = {}
    out.model, out.params = model, beta
    out.keep_index, out.results_constrained, out.k_constr = positions, wrapped, k - len(positions)
    return out, wide
