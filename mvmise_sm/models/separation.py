"""Estimates of generalized models that run to infinity: which ones, and the sentence about them."""

from __future__ import annotations

from typing import Any

import numpy as np

from mvmise_sm.core.covariance.random_effects import RandomTerm
from mvmise_sm.core.uncertainty.hessian import below_saddle
from mvmise_sm.models.response_checks import separated_columns

__all__ = ["infinite_effects", "runaway", "with_saddle"]

# on the scale of a link for probabilities or of a log link, effects of this size mean probabilities or ratios of
# nothing
_WIDE_EFFECT = 8.0
_WIDE_PREDICTOR = 12.0
# standard deviation of random effects relative to the dispersion
_DEGENERATE = 1e3


def infinite_effects(model: Any, solution: Any) -> np.ndarray:
    """Fixed effects (k_fe,) of a `GeneralizedLinearMixedModel` whose estimates separation makes infinite."""
    p = model.exog.shape[1]
    out = np.zeros(p, dtype=bool)
    if not model.family.link.separable or model.has_fixef_prior:
        return out
    fixed = model.exog @ solution.beta[:p]
    if np.ptp(fixed) > _WIDE_PREDICTOR or np.abs(solution.eta).max() > 2.0 * _WIDE_PREDICTOR:
        out[separated_columns(model.endog, np.asarray(model.exog), model.family)] = True
    return out


def runaway(model: Any, solution: Any) -> str | None:
    """A sentence on estimates of a `GeneralizedLinearMixedModel` that run to infinity, or None."""
    if solution.theta.max(initial=0.0) > _DEGENERATE and solution.sigma2 < 1.0 / _DEGENERATE:
        return (
            f"the dispersion goes to zero ({solution.sigma2:.2g}): the random effects fit every response exactly; "
            "leave out a random-effects term or give a prior, for example cov_prior='wishart'"
        )
    if not model.family.link.separable:
        return None
    infinite = infinite_effects(model, solution)
    if infinite.any():
        names = ", ".join(repr(model.exog_names[j]) for j in np.flatnonzero(infinite))
        return (
            f"separation: the responses at the edge of their range are told apart by {names}, whose estimates "
            "are infinite; give a prior, for example fixef_prior=ms.priors.StudentT(), or leave the column out"
        )
    sigmas = [solution.sigma2 * lam @ lam.T for lam in model.random_layout.lambdas(solution.theta)]
    for t, (term, sigma) in enumerate(zip(model.random_effects.terms, sigmas, strict=True)):
        sd = np.sqrt(float((sigma * _mean_square(term.columns)).sum()))
        guarded = model.priors is not None and model.priors.cov[t] is not None
        if sd > _WIDE_EFFECT and not guarded:
            extreme = _extreme_groups(model.endog, term, model.family.edges)
            return (
                f"the random effects {term.text or term.factor.name} have a standard deviation of {sd:.3g} on the "
                f"link scale{extreme}: the responses are (nearly) separated, and estimates run to infinity; give a "
                "prior, for example cov_prior='wishart' or fixef_prior=ms.priors.StudentT()"
            )
    return None


def with_saddle(trouble: str | None, criterion: Any, optimum: Any) -> str | None:
    """The sentence, if any, with another where the search ended at a saddle point, as symmetric data can make it."""
    beside = None if trouble is None or criterion.profiles_beta else below_saddle(criterion, optimum.working)
    if beside is None:
        return trouble
    return (
        f"{trouble}; the search ended at a saddle point: the objective is {optimum.value:.6g} there and "
        f"{criterion.value(beside):.6g} beside it"
    )


def _extreme_groups(y: np.ndarray, term: RandomTerm, edges: tuple[float, ...]) -> str:
    """How many groups have all responses at one edge, in words."""
    codes, n = term.factor.codes, term.factor.n_levels
    rows = np.bincount(codes, minlength=n)
    same = np.zeros(n, dtype=bool)
    for edge in edges:
        same |= np.bincount(codes, y == edge, minlength=n) == rows
    return f" ({int(same.sum())} of {n} groups have all responses at the edge of their range)" if same.any() else ""


def _mean_square(columns: tuple) -> np.ndarray:
    """Mean over rows of z z' (q, q) for columns that are None where they are ones."""
    if all(column is None for column in columns):
        return np.ones((1, 1))
    n = next(len(column) for column in columns if column is not None)
    z = np.column_stack([np.ones(n) if column is None else column for column in columns])
    return z.T @ z / n
