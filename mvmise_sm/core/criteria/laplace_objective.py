"""The Laplace approximation as an optimiser sees it: value, exact gradient and information at one point, and starts."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.linalg.lapack import dposv

from mvmise_sm.core.covariance.coordinates import fixed_basis
from mvmise_sm.core.covariance.theta import ThetaSpace
from mvmise_sm.core.criteria.penalty import Penalty
from mvmise_sm.core.criteria.pirls import (
    Beginning,
    conditional_mode,
    fixed_system,
    inner,
    joint_mode,
    newton_elimination,
)
from mvmise_sm.core.criteria.solution import Evaluation
from mvmise_sm.core.criteria.working import WorkingParameters
from mvmise_sm.core.elimination.incidence import Incidence
from mvmise_sm.core.elimination.layout import Layout
from mvmise_sm.core.elimination.loaded import LoadedEliminator, LoadedIncidence
from mvmise_sm.core.elimination.reweighted import Eliminator

if TYPE_CHECKING:
    from mvmise_sm.core.covariance.random_effects import RandomEffects
    from mvmise_sm.core.criteria.pirls import FixedSystem, Mode
    from mvmise_sm.core.families.response import (
        RowTerms,
    )
    from mvmise_sm.core.interfaces import WeightedElimination

__all__ = ["AtPoint", "LaplaceObjective"]


# decrement at which the joint mode is near enough to start from: a tenth of a standard error
_START = 1e-2

# mode, factors by grouping factor and by term, the user's covariances where a prior needs them, objective
AtPoint = tuple[Any, list, list, Any, float]
# derivatives in the covariance and in Lambda of every term, in beta and in the shape
Derivatives = tuple[list, list, Any, Any]


class LaplaceObjective(WorkingParameters):
    """-2 log L by the Laplace approximation, its derivatives, and where to start.

    Parameters as in `LaplaceDeviance`.
    """

    profiles_beta = False
    sharp_theta = False
    incidence: Incidence
    eliminate: Eliminator

    def __init__(
        self,
        response: Any,
        X: np.ndarray,
        random: RandomEffects,
        *,
        priors: Any | None = None,
        offset: np.ndarray | None = None,
    ) -> None:
        self.random, self.response, self.offset = random, response, offset
        self.nobs, self.k_fe = X.shape
        self.k_theta = random.k_theta
        self.k_shape = int(response.estimates_shape)
        self.layout = Layout(random)
        self.basis = fixed_basis(X)
        # column by column, as it is multiplied by weights and summed over levels
        self.X: np.ndarray = np.empty(X.shape, order="F")
        self.basis.rows(X, 0, self.nobs, self.X)
        self.X *= self.basis.scale
        if self.layout.loaded:
            loaded = LoadedIncidence(self.layout)
            self.incidence, self.eliminate = loaded, LoadedEliminator(self.layout, loaded)
        else:
            self.incidence = Incidence(self.layout)
            self.eliminate = Eliminator(self.layout, self.incidence)
        self.penalty = Penalty(priors, self.basis.a, self.layout.term_bases)
        self._use_space(ThetaSpace(random, self.layout, self.penalty.repels, attracts=self.penalty.attracts))
        self._eta = self._last = None

    def restart_points(self, evaluation: Evaluation) -> list[np.ndarray]:
        """Another start for a fit that ended on the boundary."""
        x = evaluation.theta.copy()
        wide = 0.5 * self._unit(self.mode(x).terms.eta)
        x[: self.k_theta] = self.space.at_least(x[: self.k_theta], wide)
        return [x]

    def search_directions(self, evaluation: Evaluation) -> list[Any]:
        """Rays along which another mode may lie: none, the fixed effects' priors have their own descent points."""
        return []

    def other_starts(self, x: np.ndarray) -> list[Any]:
        """Further starts for structures whose likelihood has several optima, and for priors with a mode at 0."""
        out = []
        wide = 0.5 * self._unit(self.mode(x).terms.eta) if any(self.space.attracts) else 1.0
        for theta in self.space.other_starts(x[: self.k_theta], wide):
            out.append(x.copy())
            out[-1][: self.k_theta] = theta
        return out

    def start(self, theta: np.ndarray | None = None) -> np.ndarray:
        """A working theta with beta and the random effects at their joint mode there.

        By default theta is the unit of the linear predictor, one step of the EM algorithm on.
        """
        if self.k_shape:
            self.response.set_shape(self.response.distribution.start_shape())
        eta = self.response.start_eta()
        given = theta is not None
        if theta is None:
            theta = self.space.wide_start(self._unit(eta))
        merged, _ = self.space.factors(theta)
        mode = joint_mode(self, merged, eta, _START)
        self._eta = mode.terms.eta
        if not given:
            theta = self._improved(mode, merged)
        shape = [self.response.shape] if self.k_shape else []
        return np.concatenate([theta, [] if self.profiles_beta else mode.beta, shape])

    def _unit(self, eta: np.ndarray) -> float:
        """Standard deviation of a random effect as informative as a row, in families with a dispersion; one in
        others.
        """
        if not self.response.dispersed:
            return 1.0
        rows = self.response.rows(eta)
        return float(1.0 / np.sqrt(np.median(rows.weight))) if rows.inside else 1.0

    def _improved(self, mode: Mode, merged: list[np.ndarray]) -> np.ndarray:
        """Theta after an EM step: the mean over levels of b b' plus the conditional covariance."""
        blocks = newton_elimination(self, mode.terms, merged)[0].posterior_cov()
        theta = np.empty(self.k_theta)
        for t, (k, place, _) in enumerate(self.space.where):
            b = mode.b[k][place]
            sigma = (b @ b.T + blocks[k][place, place].sum(axis=2)) / b.shape[1]
            theta[self.random.theta_slices[t]] = self.space.structures[t].theta_from(sigma)
        return theta

    def fixed_part(self, beta: np.ndarray) -> np.ndarray:
        """offset + X beta (nobs,)."""
        linear = self.X @ beta
        return linear if self.offset is None else linear + self.offset

    def mode(self, x: np.ndarray) -> Mode:
        """The `Mode` at a working vector."""
        return self.at(x)[0]

    def fixed_system(self, mode: Mode) -> FixedSystem:
        """The fixed effects next to the eliminated random effects, see `FixedSystem`."""
        return fixed_system(self, mode.weighted, mode.terms.weight)

    def refitted(self, y: Any) -> Any:
        """The same model for another response (nobs,)."""
        out = copy.copy(self)
        out.response = self.response.refitted(y)
        out._eta = out._last = None
        return out

    # objective

    def value(self, x: np.ndarray) -> float:
        """Objective at a working vector."""
        return self.at(x)[-1]

    def at(self, x: np.ndarray, again: bool = False) -> AtPoint:
        """Mode, factors by term, covariances and objective at a working vector; the last one is kept.

        With `again` the mode is searched for from the one that is kept, which sharpens it.
        """
        point = x.tobytes()
        if not again and self._last is not None and self._last[0] == point:
            return self._last[1:]
        theta, beta, shape = self.split(x)
        if shape.size:
            if abs(shape[0]) > 40.0:
                raise np.linalg.LinAlgError("the shape parameter has run away")
            self.response.set_shape(float(shape[0]))
        merged, terms = self.space.factors(theta)
        mode = self._mode(merged, beta, x)
        if mode.weighted is None:
            mode.weighted = self.eliminate(mode.terms.weight, merged)
        return self._kept(x, point, mode, merged, terms)

    def _kept(self, x: np.ndarray, point: Any, mode: Any, merged: list[np.ndarray], terms: list[np.ndarray]) -> tuple:
        """The objective at a mode with what its gradient needs, kept for a second call at the same point."""
        sigmas = self.space.user_sigmas(terms) if self.penalty.any_cov else None
        value = self._integral(mode, merged) + self.penalty.fixed(mode.beta) + self._of_dispersion(x)
        if sigmas is not None:
            value += self.penalty.covariances(sigmas)
        self._eta = mode.terms.eta
        self._last = (point, mode, merged, terms, sigmas, value)
        return self._last[1:]

    def _log_dispersion(self) -> tuple[int, float]:
        """Place in x of the parameter that log d is a multiple of, and the multiple."""
        return -1, self.response.family.log_dispersion_rate()

    def _of_dispersion(self, x: np.ndarray) -> float:
        """The penalty of the family's dispersion."""
        if self.penalty.dispersion is None:
            return 0.0
        place, rate = self._log_dispersion()
        return self.penalty.of_dispersion(rate * float(x[place]))

    def _mode(self, merged: list[np.ndarray], beta: np.ndarray | None, x: np.ndarray) -> Mode:
        assert beta is not None
        return conditional_mode(self, merged, beta, self._beginning(x))

    def _beginning(self, x: np.ndarray) -> Beginning | None:
        """The last predictor, with what its rows and their elimination still are at `x`."""
        if self._eta is None or self._last is None or self._last[1].terms.eta is not self._eta:
            return None if self._eta is None else Beginning(self._eta)
        point, mode = np.frombuffer(self._last[0]), self._last[1]
        k, shape = self.k_theta, x.size - self.k_shape
        if not np.array_equal(point[shape:], x[shape:]):
            return Beginning(self._eta)
        same = mode.terms.observed is mode.terms.weight and np.array_equal(point[:k], x[:k])
        return Beginning(self._eta, mode.terms, mode.weighted if same else None)

    def _integral(self, mode: Mode, merged: list[np.ndarray]) -> float:
        """-2 log of the integral over the random effects."""
        return -2.0 * (mode.terms.loglik + self.response.constant) + mode.square + mode.weighted.logdet

    def _pull(self, rows: RowTerms) -> np.ndarray | float:
        """Derivative in eta (nobs,) of what the integral has beyond the penalised deviance and log|M|."""
        return 0.0

    def evaluate(self, x: np.ndarray, *, information: bool = True) -> Evaluation:
        """Value, gradient, information (empty if not wanted) and slopes at a working vector.

        Returns
        -------
        Evaluation
        """
        parts = self.at(x)
        mode, merged, terms, _, _ = parts
        slopes, beta, shape = self._gradients(mode, merged)
        slopes = self.space.by_term(slopes)
        d_lambdas = [2.0 * (d @ lam) for d, lam in zip(slopes, terms, strict=True)]
        return self._evaluation(x, parts, (slopes, d_lambdas, beta, shape), information)

    def _implicit(self, mode: Mode, merged: list, zt: list) -> tuple[WeightedElimination, list, list]:
        """(Sigma^-1 + C)^-1 zt and its scores at the observed weights, for `zt` (q, J) per factor."""
        rows = mode.terms
        weighted = mode.weighted
        if rows.observed is not rows.weight:
            weighted = self.eliminate(rows.observed, merged)
        coef, score = weighted.solve_blocks([z[:, :, None] for z in zt])
        return weighted, [c[:, :, 0] for c in coef], [s[:, :, 0] for s in score]

    def _gradients(
        self, mode: Mode, merged: list[np.ndarray]
    ) -> tuple[list[np.ndarray], np.ndarray | None, np.ndarray | float | None]:
        """Derivative in the covariance of every factor, in beta and in the shape, without priors."""
        rows, weighted = mode.terms, mode.weighted
        leverage = weighted.leverage()
        t = self.response.slope(rows) * leverage + self._pull(rows)
        _, v, rho = self._implicit(mode, merged, self.incidence.transposed(t))
        zv = self.incidence.times(v)
        slopes = []
        for trace, g, r in zip(weighted.traces(), mode.g, rho, strict=True):
            mixed = r @ g.T
            slopes.append(trace - g @ g.T + 0.5 * (mixed + mixed.T))
        beta = self.X.T @ (t - 2.0 * rows.score - rows.observed * zv)
        shape = None
        if self.k_shape:
            total, score, weight, _ = self.response.shape_terms(rows)
            shape = -2.0 * total + float(leverage @ weight) + float(zv @ score)
        return slopes, beta, shape

    def _evaluation(self, x: np.ndarray, parts: AtPoint, derivatives: Derivatives, information: bool) -> Evaluation:
        """Add the priors and the average information of the working linear model.

        `derivatives` are those in the covariance and in Lambda of every term (q, q), in beta and in the shape, without
        priors.
        """
        mode, _, terms, sigmas, value = parts
        slopes, d_lambdas, beta, shape = derivatives
        theta, k = x[: self.k_theta], self.k_theta
        if sigmas is not None:
            for t, extra in enumerate(self.penalty.slopes(sigmas)):
                if extra is not None:
                    slopes[t] = slopes[t] + extra
                    d_lambdas[t] = d_lambdas[t] + 2.0 * (extra @ terms[t])
        gradient = np.empty(x.size)
        gradient[:k] = self.space.pullback(theta, d_lambdas)
        if not self.profiles_beta:
            _, slope, _, safe = self.penalty.fixed_derivatives(mode.beta)
            gradient[k : k + self.k_fe] = beta + slope
        if self.k_shape:
            gradient[x.size - self.k_shape :] = shape
        bend = 0.0
        if self.penalty.dispersion is not None:
            place, rate = self._log_dispersion()
            _, first, second = self.penalty.dispersion.evaluate(rate * float(x[place]))
            gradient[place] += rate * first
            bend = rate * rate * max(second, 0.0)
        if not information:
            return Evaluation(np.array(x), value, gradient, np.zeros((0, 0)), tuple(slopes))
        _, directions, tangents, curvature = self.space.chain_rule(theta, terms, slopes, [False] * len(terms))
        h = self._information(mode, directions)
        h[:k, :k] += curvature
        if sigmas is not None:
            h[:k, :k] += self.penalty.curvature(sigmas, tangents, self.random.theta_slices)
        if not self.profiles_beta:
            h[k : k + self.k_fe, k : k + self.k_fe] += safe
        if bend:
            h[place, place] += bend
        return Evaluation(np.array(x), value, gradient, h, tuple(slopes))

    def _information(self, mode: Mode, directions: list[tuple[int, np.ndarray]]) -> np.ndarray:
        """Average information of the working linear model in (theta, beta, shape), positive semidefinite.

        With a = Z E g for the direction E of a parameter, the blocks are a'V^-1a + a'V^-1X B^-1 X'V^-1a, 2 X'V^-1a and
        2 B for B = X'V^-1X, whose Schur complement in theta is a'P a.
        """
        inc, weighted, k, p = self.incidence, mode.weighted, self.k_theta, self.k_fe
        h = [np.zeros((*g.shape, k)) for g in mode.g]
        for t, (factor, d) in enumerate(directions):
            h[factor][:, :, t] = d @ mode.g[factor]
        fixed = self.fixed_system(mode)
        a = inner(h, weighted.solve_blocks(weighted.multiply(h))[1])
        c = inner(fixed.score, h)
        bc = _solve(fixed.information, c)
        size = k + (0 if self.profiles_beta else p) + self.k_shape
        out = np.zeros((size, size))
        out[:k, :k] = a - c.T @ bc if self.profiles_beta else a + c.T @ bc
        if not self.profiles_beta:
            out[k : k + p, :k] = 2.0 * c
            out[:k, k : k + p] = 2.0 * c.T
            out[k : k + p, k : k + p] = 2.0 * fixed.information
        if self.k_shape:
            _, score, _, information = self.response.shape_terms(mode.terms)
            out[-1, -1] = 2.0 * information
            if self.response.dispersed:
                zs = [z[:, :, None] for z in inc.transposed(-score)]
                solved = weighted.solve_blocks(zs)[1]
                out[-1, :k] = out[:k, -1] = inner(solved, h)[0]
        return out


def _solve(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Solve a symmetric system, by least squares where it is singular."""
    if not a.size:
        return b
    solution, info = dposv(a, b)[1:]
    return np.linalg.lstsq(a, b, rcond=None)[0] if info else solution
