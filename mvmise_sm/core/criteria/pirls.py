"""Penalised iteratively reweighted least squares: the conditional mode of the random effects.

The state is (b, g) with b = Sigma g, so that u'u = g'b for u = Lambda'g and nothing divides by Lambda. A Newton step
solves (Sigma^-1 + C) db = r with r = Z's - g, which gives dg = r - C db.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.linalg.lapack import dgesv

from mvmise_sm.core.optimise.steps import first_taken

if TYPE_CHECKING:
    from mvmise_sm.core.criteria.laplace_objective import LaplaceObjective
    from mvmise_sm.core.families.response import RowTerms
    from mvmise_sm.core.interfaces import WeightedElimination

__all__ = [
    "Beginning",
    "FixedSystem",
    "Mode",
    "conditional_mode",
    "fixed_system",
    "inner",
    "joint_mode",
    "newton_elimination",
    "solved",
    "weighed",
]

# random effects, their scores, and the rows there
_State = tuple[list[np.ndarray], list[np.ndarray], "RowTerms"]
# the same with beta and the penalised deviance
_JointState = tuple[list[np.ndarray], list[np.ndarray], np.ndarray, "RowTerms", float]

_TOLERANCE = 1e-17
_CHORD = 1e-5
_MAX_STEPS = 100


@dataclass(slots=True, eq=False)
class Mode:
    """Conditional mode of the random effects, and of beta where that is an inner parameter.

    Attributes
    ----------
    b, g : list of ndarray
        Modes b and scores g with b = Sigma g, (q, J) per factor.
    beta : ndarray
        (p,).
    terms : RowTerms
        Rows at the mode.
    square : float
        u'u.
    weighted : object or None
        The elimination at the weights of the mode that enter M.
    left : float
        Newton decrement at the mode as it was last seen, or a bound for it; inf where nobody looked.
    expansion : Expansion or None
        All derivatives of the rows in all predictors, where there are several; found once.
    """

    b: list
    g: list
    beta: np.ndarray
    terms: Any
    square: float
    weighted: Any = None
    left: float = np.inf
    expansion: Any = None


@dataclass(frozen=True, slots=True, eq=False)
class Beginning:
    """Where a search for the mode begins, and what is known there.

    Attributes
    ----------
    eta : ndarray
        A linear predictor near the one at the mode (nobs,); it need not be one of the model.
    terms : RowTerms or None
        Rows there, where they are at hand.
    weighted : object or None
        The elimination at their observed weights and at the covariance asked for, where it is at hand.
    """

    eta: np.ndarray
    terms: Any = None
    weighted: Any = None


def _dot(x: list[np.ndarray], y: list[np.ndarray]) -> float:
    return sum(float(np.vdot(a, b)) for a, b in zip(x, y, strict=True))


def _stack(blocks: list[np.ndarray]) -> list[np.ndarray]:
    return [x[:, :, None] for x in blocks]


def _unstack(blocks: list[np.ndarray]) -> list[np.ndarray]:
    return [x[:, :, 0] for x in blocks]


def weighed(weight: np.ndarray, v: np.ndarray) -> np.ndarray:
    """W v by row, for one predictor (nobs,) or several (R, nobs)."""
    return weight * v if weight.ndim == 1 else np.einsum("abn,bn->an", weight, v)


def newton_elimination(
    problem: LaplaceObjective, terms: RowTerms, lambdas: list[np.ndarray]
) -> tuple[WeightedElimination, np.ndarray]:
    """Elimination and weights of a Newton step: the observed weights, or others that always ascend where those are not
    positive definite.
    """
    try:
        return problem.eliminate(terms.observed, lambdas), terms.observed
    except np.linalg.LinAlgError:
        weight = terms.convex()
        return problem.eliminate(weight, lambdas), weight


def conditional_mode(
    problem: LaplaceObjective, lambdas: list[np.ndarray], beta: np.ndarray, begin: Beginning | None = None
) -> Mode:
    """Mode of the random effects at fixed beta.

    Parameters
    ----------
    problem : object
        ``incidence``, ``response``, ``eliminate`` and ``fixed_part(beta)``.
    lambdas : list of ndarray
        Relative factors (q, q) of the grouping factors.
    beta : ndarray
        Working beta (p,).
    begin : Beginning, optional
        A linear predictor near the one at the mode.

    Returns
    -------
    Mode
        Its ``weighted`` is None where the elimination at the mode was not needed on the way.

    Raises
    ------
    numpy.linalg.LinAlgError
        If no random effects give a finite likelihood.
    """
    inc = problem.incidence
    base = problem.fixed_part(beta)
    state: _State | None = None if begin is None else _first_step(problem, lambdas, base, begin)
    if state is None:
        terms = problem.response.rows(base)
        if terms.loglik == -np.inf:
            raise np.linalg.LinAlgError("the linear predictor leaves the domain of the link")
        state = inc.zeros(), inc.zeros(), terms
    b, g, terms = state
    objective = _dot(g, b) - 2.0 * terms.loglik
    # the elimination that is at hand, the same if it is of the present rows, the last decrement, and that seen here
    chord: Any = None
    here, previous, left = None, np.inf, np.inf
    for _ in range(_MAX_STEPS):
        residual = [s - x for s, x in zip(inc.transposed(terms.score), g, strict=True)]
        fresh = chord is None or previous > _CHORD
        if fresh:
            chord, here = _eliminated_here(problem, terms, lambdas)
        db, dg = map(_unstack, chord.solve_blocks(_stack(residual)))
        decrement = _dot(residual, db)
        if not fresh and decrement > 1e-2 * previous:
            fresh = True
            chord, here = _eliminated_here(problem, terms, lambdas)
            db, dg = map(_unstack, chord.solve_blocks(_stack(residual)))
            decrement = _dot(residual, db)
        left = decrement
        # stop once the decrement stagnates at rounding level
        if decrement < _TOLERANCE or (fresh and previous < _CHORD and decrement > 0.1 * previous):
            break
        taken = _line_search(problem, base, (b, g, objective), (db, dg), decrement)
        if taken is None:
            break
        b, g, terms, objective = taken
        here, left = None, np.inf
        previous = decrement
    return Mode(b, g, beta, terms, _dot(g, b), here, left)


def _eliminated_here(
    problem: LaplaceObjective, terms: RowTerms, lambdas: list[np.ndarray]
) -> tuple[WeightedElimination, WeightedElimination | None]:
    """The elimination of a Newton step, and again where it is the one that the criterion takes at these rows."""
    chord, weight = newton_elimination(problem, terms, lambdas)
    return chord, chord if weight is terms.weight else None


def _first_step(
    problem: LaplaceObjective, lambdas: list[np.ndarray], base: np.ndarray, begin: Beginning
) -> _State | None:
    """A Newton step from any predictor, which need not be one of the model; None where it leads nowhere."""
    inc, response = problem.incidence, problem.response
    terms = response.rows(begin.eta) if begin.terms is None else begin.terms
    if terms.loglik == -np.inf:
        return None
    if begin.weighted is None:
        chord, weight = newton_elimination(problem, terms, lambdas)
    else:
        chord, weight = begin.weighted, terms.observed
    away = weighed(weight, terms.eta - base)
    away += terms.score
    b, g = map(_unstack, chord.solve_blocks(_stack(inc.transposed(away))))
    after = response.rows(base + inc.times(b))
    # a step that long is better taken from zero, under the control of the line search
    if after.loglik < terms.loglik - 50.0 - 0.5 * abs(terms.loglik):
        return None
    return b, g, after


def _line_search(
    problem: LaplaceObjective,
    base: np.ndarray,
    state: tuple[list[np.ndarray], list[np.ndarray], float],
    step: tuple[list[np.ndarray], list[np.ndarray]],
    decrement: float,
) -> tuple[list[np.ndarray], list[np.ndarray], RowTerms, float] | None:
    """The longest of the steps 1, 1/2, ... that lowers the penalised deviance; None where none does."""
    b, g, objective = state
    db, dg = step
    noise = 1e-13 * abs(objective)

    def attempt(length: float) -> tuple[list[np.ndarray], list[np.ndarray], RowTerms, float] | None:
        moved = [x + length * d for x, d in zip(b, db, strict=True)]
        score = [x + length * d for x, d in zip(g, dg, strict=True)]
        terms = problem.response.rows(base + problem.incidence.times(moved))
        if not terms.loglik > -np.inf:
            return None
        value = _dot(score, moved) - 2.0 * terms.loglik
        lower = value <= objective + noise or (length == 1.0 and decrement < 1e-8)
        return (moved, score, terms, value) if lower else None

    return first_taken(attempt)


@dataclass(slots=True, eq=False)
class FixedSystem:
    """The fixed effects next to eliminated random effects, at some weights.

    Attributes
    ----------
    zx : list of ndarray
        Z'WX, (q, J, p) per factor.
    coef, score : list of ndarray
        (Sigma^-1 + C)^-1 Z'WX and Z'V^-1X, (q, J, p) per factor.
    information : ndarray
        X'V^-1X (p, p).
    """

    zx: list
    coef: list
    score: list
    information: np.ndarray


def fixed_system(problem: LaplaceObjective, weighted: WeightedElimination, weight: np.ndarray) -> FixedSystem:
    """Eliminate the random effects from the columns of X."""
    columns = problem.X.T
    scaled = columns * weight
    zx = problem.incidence.transposed_many(scaled)
    coef, score = weighted.solve_blocks(zx)
    return FixedSystem(zx, coef, score, columns @ scaled.T - inner(zx, coef))


def inner(left: list[np.ndarray], right: list[np.ndarray]) -> np.ndarray:
    """Sum over factors and levels of L'R, (c, d), for (q, J, c) and (q, J, d) per factor."""
    return sum(_stacked_rows(x).T @ _stacked_rows(y) for x, y in zip(left, right, strict=True))


def joint_mode(
    problem: LaplaceObjective, lambdas: list[np.ndarray], eta: np.ndarray, tolerance: float = _TOLERANCE
) -> Mode:
    """Mode of random effects and beta together, with the prior of beta.

    Parameters
    ----------
    problem : object
        As in `conditional_mode`, with ``X`` and ``penalty``.
    lambdas : list of ndarray
        Relative factors (q, q) of the grouping factors.
    eta : ndarray
        A linear predictor from which to start (nobs,).
    tolerance : float, optional
        Newton decrement at which to stop.

    Returns
    -------
    Mode
    """
    inc, response = problem.incidence, problem.response
    p = problem.X.shape[1]
    state: _JointState | None = None
    previous = np.inf
    terms = response.rows(eta)
    if terms.loglik > -np.inf:
        # one step of iteratively reweighted least squares from a predictor that need not be of the model
        away = eta - problem.fixed_part(np.zeros(p))
        db, dg, dbeta, previous = _joint_step(problem, lambdas, terms, (inc.zeros(), np.zeros(p)), away)
        state = _joint_state(problem, db, dg, dbeta)
    if state is None:
        previous = np.inf
        beta = np.linalg.lstsq(problem.X, response.constant_eta() - problem.fixed_part(np.zeros(p)), rcond=None)[0]
        state = _joint_state(problem, inc.zeros(), inc.zeros(), beta)
    if state is None:
        raise np.linalg.LinAlgError("no start has a finite likelihood")
    for _ in range(_MAX_STEPS):
        g, beta, terms = state[1:4]
        db, dg, dbeta, decrement = _joint_step(problem, lambdas, terms, (g, beta))
        taken = None
        if decrement >= tolerance:
            taken = _joint_line_search(problem, state, (db, dg, dbeta), decrement)
        if taken is None:
            break
        state = taken
        # errors of Newton's method are squared at every step: where the next is as good as none, it is not looked at
        if decrement < previous < np.inf and decrement * (decrement / previous) ** 2 < 0.1 * tolerance:
            break
        previous = decrement
    b, g, beta, terms = state[:4]
    return Mode(b, g, beta, terms, _dot(g, b))


def _joint_line_search(
    problem: LaplaceObjective,
    state: _JointState,
    step: tuple[list[np.ndarray], list[np.ndarray], np.ndarray],
    decrement: float,
) -> _JointState | None:
    """The longest of the steps 1, 1/2, ... that lowers the penalised deviance; None where none does."""
    b, g, beta, _, objective = state
    db, dg, dbeta = step
    noise = 1e-13 * abs(objective)

    def attempt(length: float) -> _JointState | None:
        moved = [x + length * d for x, d in zip(b, db, strict=True)]
        score = [x + length * d for x, d in zip(g, dg, strict=True)]
        trial = _joint_state(problem, moved, score, beta + length * dbeta)
        if trial is None:
            return None
        return trial if trial[4] <= objective + noise or (length == 1.0 and decrement < 1e-8) else None

    return first_taken(attempt)


def _joint_state(
    problem: LaplaceObjective, b: list[np.ndarray], g: list[np.ndarray], beta: np.ndarray
) -> _JointState | None:
    """Point, its rows and its penalised deviance; None where that is infinite."""
    terms = problem.response.rows(problem.fixed_part(beta) + problem.incidence.times(b))
    if terms.loglik == -np.inf:
        return None
    return b, g, beta, terms, _dot(g, b) - 2.0 * terms.loglik + problem.penalty.fixed(beta)


def _joint_step(
    problem: LaplaceObjective,
    lambdas: list[np.ndarray],
    terms: RowTerms,
    point: tuple[list[np.ndarray], np.ndarray],
    shift: np.ndarray | None = None,
) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray, float]:
    """Newton step in (b, g, beta) and its decrement; from the predictor `shift` beyond the point where that is
    given.
    """
    g, beta = point
    weighted, weight = newton_elimination(problem, terms, lambdas)
    score = terms.score if shift is None else terms.score + weight * shift
    _, slope, _, safe = problem.penalty.fixed_derivatives(beta)
    residual = [s - x for s, x in zip(problem.incidence.transposed(score), g, strict=True)]
    db, dg = map(_unstack, weighted.solve_blocks(_stack(residual)))
    fixed = fixed_system(problem, weighted, weight)
    direct = problem.X.T @ score - 0.5 * slope
    reduced = direct - inner(fixed.zx, _stack(db))[:, 0]
    information = fixed.information + 0.5 * safe
    dbeta = solved(information, reduced)
    db = [d - k @ dbeta for d, k in zip(db, fixed.coef, strict=True)]
    dg = [d - k @ dbeta for d, k in zip(dg, fixed.score, strict=True)]
    return db, dg, dbeta, _dot(residual, db) + float(direct @ dbeta)


def solved(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a^-1 b, by least squares where `a` is singular."""
    if not a.size:
        return b
    _, _, solution, info = dgesv(a, b)
    return np.linalg.lstsq(a, b, rcond=None)[0] if info else solution


def _stacked_rows(x: np.ndarray) -> np.ndarray:
    """(q, J, m) as (q J, m), also for m = 0."""
    return x.reshape(x.shape[0] * x.shape[1], x.shape[2])
