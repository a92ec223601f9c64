"""Variance components of a fit as frames: what theta and sigma^2 say in the user's words."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from mvmise_sm.core.covariance.random_effects import GroupingFactor, RandomEffects
from mvmise_sm.core.covariance.structures import Parameter

# codes of a factor that is known by its levels alone
NO_ROWS = np.empty(0, dtype=np.intp)

__all__ = [
    "NO_ROWS",
    "covariance_frames",
    "described_rows",
    "layout_of",
    "mode_frames",
    "parameter_rows",
    "structure_rows",
    "term_covariances",
    "variance_frame",
    "variance_rows",
]


def layout_of(random: RandomEffects) -> RandomEffects:
    """Return `random` without its rows: names, levels and structures, which summaries and predictions need."""
    factors = {id(f): GroupingFactor(f.name, NO_ROWS, f.levels, None, f.root) for f in random.factors}
    return RandomEffects([replace(t, factor=factors[id(t.factor)], columns=(None,) * t.q) for t in random.terms])


def term_covariances(random: RandomEffects, theta: np.ndarray, sigma2: float) -> list[np.ndarray]:
    """Covariance sigma^2 Lambda Lambda' (q, q) of every term."""
    return [sigma2 * (lam @ lam.T) for lam in random.lambdas(theta)]


def _term_labels(random: RandomEffects) -> list[str]:
    """Group names made unique as R does: the second term on Subject is ``Subject.1``."""
    seen: dict[str, int] = {}
    labels = []
    for term in random.terms:
        count = seen.get(term.factor.name, 0)
        seen[term.factor.name] = count + 1
        labels.append(f"{term.factor.name}.{count}" if count else term.factor.name)
    return labels


def correlation(covariance: np.ndarray, i: int, j: int) -> float:
    """Correlation of elements i and j; NaN where a variance is zero."""
    scale = np.sqrt(covariance[i, i] * covariance[j, j])
    return float(covariance[i, j] / scale) if scale > 0.0 else np.nan


def parameter_rows(group: str, parameters: list[Parameter], sigma2: float) -> list[tuple]:
    """Rows ``(group, var1, var2, vcov, sdcor)`` of what a structure reports.

    Standard deviations come first. A correlation of two columns has their covariance as `vcov`, any other parameter
    has none.
    """
    sizes: dict[str, float] = {}
    rows: list[tuple] = []
    for p in parameters:
        if p.kind == "sd":
            sd = p.value * float(np.sqrt(sigma2))
            sizes.update(dict.fromkeys(p.levels, sd))
            rows.append((group, ",".join(p.levels) if p.levels else p.name, None, sd * sd, sd))
        elif len(p.levels) == 2 and p.levels[0] in sizes:
            a, b = p.levels
            both = sizes[a] * sizes[b]
            rows.append((group, a, b, p.value * both if both > 0.0 else 0.0, p.value))
        else:
            rows.append((group, p.label, None, np.nan, p.value))
    return rows


def variance_rows(random: RandomEffects, theta: np.ndarray, sigma2: float) -> list[tuple]:
    """Rows ``(group, var1, var2, vcov, sdcor)``: per term variances first, then covariances by columns."""
    rows = []
    for label, term, at in zip(_term_labels(random), random.terms, random.theta_slices, strict=True):
        rows += parameter_rows(label, term.structure.parameters(theta[at], term.names), sigma2)
    return rows


def structure_rows(random: RandomEffects, theta: np.ndarray, sigma2: float) -> list[tuple]:
    """Rows ``(grp, structure, param, level1, level2, estimate)`` of every term."""
    rows = []
    for label, term, at in zip(_term_labels(random), random.terms, random.theta_slices, strict=True):
        found = term.structure.parameters(theta[at], term.names)
        rows += described_rows(label, term.structure.described, found, sigma2)
    return rows


def described_rows(group: str, described: str, parameters: list[Parameter], sigma2: float) -> list[tuple]:
    """Rows ``(grp, structure, param, level1, level2, estimate)`` of what one structure reports."""
    rows = []
    for p in parameters:
        first, second = (*p.levels, None, None)[:2]
        value = p.value * float(np.sqrt(sigma2)) if p.kind == "sd" else p.value
        rows.append((group, described, p.name, first, second, value))
    return rows


def variance_frame(rows: list[tuple], sigma2: float | None) -> pd.DataFrame:
    """Frame with columns ``grp, var1, var2, vcov, sdcor`` as R's ``as.data.frame(VarCorr(fit))``.

    Parameters
    ----------
    rows : list of tuple
        From `variance_rows`.
    sigma2 : float or None
        Residual variance; None where the family has none, then there is no ``Residual`` row.
    """
    if sigma2 is not None:
        rows = [*rows, ("Residual", None, None, float(sigma2), float(np.sqrt(sigma2)))]
    return pd.DataFrame(rows, columns=["grp", "var1", "var2", "vcov", "sdcor"])


def _factor_names(random: RandomEffects, factor) -> list[str]:
    return [name for i in random.terms_of(factor) for name in random.terms[i].names]


def covariance_frames(random: RandomEffects, theta: np.ndarray, sigma2: float) -> dict[str, pd.DataFrame]:
    """Covariance of all random effects of each grouping factor, names on both sides."""
    blocks = term_covariances(random, theta, sigma2)
    frames = {}
    for factor in random.factors:
        names = _factor_names(random, factor)
        full = np.zeros((len(names), len(names)))
        start = 0
        for i in random.terms_of(factor):
            stop = start + random.terms[i].q
            full[start:stop, start:stop] = blocks[i]
            start = stop
        frames[factor.name] = pd.DataFrame(full, index=names, columns=names)
    return frames


def mode_frames(random: RandomEffects, b) -> dict[str, pd.DataFrame]:
    """Conditional modes of each grouping factor: levels by columns of all its terms.

    Parameters
    ----------
    random : RandomEffects
        May be without rows.
    b : sequence of ndarray
        One array (n_levels, q) per term.
    """
    return {
        factor.name: pd.DataFrame(
            np.hstack([b[i] for i in random.terms_of(factor)]),
            index=pd.Index(factor.levels, name=factor.name),
            columns=_factor_names(random, factor),
        )
        for factor in random.factors
    }
