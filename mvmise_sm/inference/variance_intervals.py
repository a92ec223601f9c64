"""Standard errors and intervals of standard deviations and correlations by the delta method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from mvmise_sm.inference.fits import quietly
from mvmise_sm.inference.resampling import all_parameters, parameter_names

__all__ = ["TransformedLaw", "random_intervals", "transformed_law"]

_STEP = 1e-5


@dataclass(frozen=True, eq=False)
class TransformedLaw:
    """Normal law of log standard deviations and Fisher's z of correlations.

    Attributes
    ----------
    estimate, center : ndarray
        Values (k,), and on the transformed scale: infinite at a boundary, NaN for other parameters.
    cov : ndarray or None
        Covariance of the transformed values (k, k) at the curvature of the criterion; None where there is none.
    kinds : ndarray of str
        ``"sd"``, ``"cor"`` or ``""`` for others (k,).
    inside : ndarray of bool
        Which have a law: away from the boundary and determined by the data (k,).
    """

    estimate: np.ndarray
    center: np.ndarray
    cov: np.ndarray | None
    kinds: np.ndarray
    inside: np.ndarray


def transformed_law(result: Any, terms: list[str]) -> TransformedLaw:
    """The law of the rows `terms` of ``tidy(effects="random")``."""
    estimate = _values(result)
    kinds = np.array([_kind(term) for term in terms])
    center = _transformed(estimate, kinds)
    inside = np.isfinite(center)
    law = result.variance_law() if result.converged else None
    if law is None:
        return TransformedLaw(estimate, center, None, kinds, np.zeros(len(terms), dtype=bool))
    at, cov = law
    jacobian = np.zeros((len(terms), len(at)))
    for j in range(len(at)):
        step = _STEP * max(abs(at[j]), 0.1)
        ends = []
        for sign in (1.0, -1.0):
            moved = at.copy()
            moved[j] += sign * step
            ends.append(_transformed(_values(result, moved), kinds))
        with np.errstate(invalid="ignore"):
            jacobian[:, j] = (ends[0] - ends[1]) / (2.0 * step)
    with np.errstate(invalid="ignore"):
        cov = jacobian @ cov @ jacobian.T
    # along flat directions the spread is arbitrary, often out of range
    inside &= np.isfinite(cov.diagonal()) & (cov.diagonal() > 0.0) & ~_undetermined(result, len(terms))
    return TransformedLaw(estimate, center, cov, kinds, inside)


def random_intervals(result: Any, terms: list[str], alpha: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Standard errors and intervals of the rows of ``tidy(effects="random")``.

    Intervals are normal on the scales of log standard deviations and Fisher's z of correlations, at the curvature of
    the criterion. A standard deviation at zero has no standard error and an interval from zero to the end of its
    profile.

    Parameters
    ----------
    result : MixedModelResults
    terms : list of str
        Names of the rows: ``sd_...``, ``cor_...``, ``sigma``; others get NaN.
    alpha : float

    Returns
    -------
    std_error, conf_low, conf_high : ndarray
        One value per row.
    """
    law = transformed_law(result, terms)
    estimate, center, kinds, inside = law.estimate, law.center, law.kinds, law.inside
    out = np.full((3, len(terms)), np.nan)
    if law.cov is None:
        return out[0], out[1], out[2]
    spread = np.sqrt(np.maximum(law.cov.diagonal(), 0.0))
    half = stats.norm.isf(0.5 * alpha) * spread
    for i in np.flatnonzero(inside):
        if kinds[i] == "sd":
            out[:, i] = estimate[i] * spread[i], *np.exp(center[i] + np.array([-1.0, 1.0]) * half[i])
        else:
            size = (1.0 - estimate[i] ** 2) * spread[i]
            out[:, i] = size, *np.tanh(center[i] + np.array([-1.0, 1.0]) * half[i])
    for i in np.flatnonzero((kinds == "sd") & (estimate == 0.0)):
        out[1, i], out[2, i] = 0.0, _profile_end(result, int(i), alpha)
    out[:, _undetermined(result, len(terms))] = np.nan
    return out[0], out[1], out[2]


def _undetermined(result: Any, count: int) -> np.ndarray:
    """Rows (count,) of terms that take part in a direction which the data do not determine; all without a maximum."""
    found = np.full(count, not result.converged)
    if result.undetermined is None:
        return found
    open_terms = {t for group in result.undetermined.groups for _, t in group}
    at = 0
    for i, term in enumerate(result.model.random_layout.terms):
        size = len(term.structure.parameters(term.structure.start(np.ones(term.q)), term.names))
        found[at : at + size] |= i in open_terms
        at += size
    # the residual is None among the terms
    found[at:] |= None in open_terms
    return found


def _values(result: Any, at: np.ndarray | None = None) -> np.ndarray:
    """Standard deviations and correlations at the estimate, or at other parameters of its law."""
    theta, scale = (result.theta, result.scale) if at is None else result.parameters_at(at)
    structure = result.residual_structure()
    return all_parameters(result.model.random_layout, (), theta, scale, bool(result.k_scale), structure)


def _kind(term: str) -> str:
    if term == "sigma" or term == "sd" or term.startswith("sd_"):
        return "sd"
    return "cor" if term.startswith("cor_") else ""


def _transformed(values: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """Log standard deviations and Fisher's z; infinite at a boundary, NaN for other parameters."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(kinds == "sd", np.log(values), np.where(kinds == "cor", np.arctanh(values), np.nan))


def _profile_end(result: Any, row: int, alpha: float) -> float:
    """Upper end of the profile interval of a standard deviation."""
    name = parameter_names(result)[result.k_fe + row]
    options = {"reml": True} if result.restricted and result.linear else {}
    try:
        profile = quietly(result.profile, [name], alpha, **options)
        return float(profile.conf_int(alpha).iloc[0, 1])
    except (ValueError, KeyError, RuntimeError):
        return np.nan
