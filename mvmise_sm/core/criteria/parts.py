"""-2 log L by the Laplace approximation where the likelihood has several linear predictors, with its exact gradient.

With l_c the derivatives of a row's log-likelihood in its predictors c, W_cd = -l_cd, S_cd = z_c'P z_d for P =
(Sigma^-1 + Z'WZ)^-1, t_c = -sum_ab l_abc S_ab and v = P Z't, the derivative in the coefficients of predictor c is
X_c'(t_c - 2 l_c - sum_d W_cd Z_d v). Everything that is not a covariance is such a coefficient: dispersion, degrees of
freedom, thresholds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mvmise_sm.core.covariance.coordinates import FixedBasis
from mvmise_sm.core.covariance.theta import ThetaSpace
from mvmise_sm.core.criteria.laplace import LaplaceDeviance
from mvmise_sm.core.criteria.laplace_objective import AtPoint
from mvmise_sm.core.criteria.penalty import Penalty
from mvmise_sm.core.criteria.pirls import Beginning, FixedSystem, Mode, conditional_mode, inner
from mvmise_sm.core.criteria.solution import Evaluation, GeneralizedSolution
from mvmise_sm.core.criteria.stacked import Block, StackedDesign, fixed_fit, floored, other_zero_parts
from mvmise_sm.core.elimination.incidence import Incidence, PartsIncidence
from mvmise_sm.core.elimination.layout import Layout
from mvmise_sm.core.elimination.loaded import LoadedEliminator, LoadedIncidence
from mvmise_sm.core.elimination.reweighted import Eliminator

__all__ = ["Block", "PartsDeviance", "PartsSolution"]

# a log dispersion or log df beyond this has left the range of the data
_FARTHEST = 40.0
# smaller pivots of M send -2 log L to minus infinity: no optimum is there
_LEAST_PIVOT = 1e-6
# standard deviation of the random effects at the start, on the scale of the link
_START_SD = 0.4


@dataclass(frozen=True, slots=True, eq=False)
class PartsSolution(GeneralizedSolution):
    """A `GeneralizedSolution` with everything beside the coefficients that the user sees as such.

    Attributes
    ----------
    shapes : ndarray
        Working values of the parameters after the coefficients.
    predictors : ndarray or None
        All predictors (K, nobs); None once the rows are let go.
    """

    shapes: np.ndarray = field(default_factory=lambda: np.zeros(0))
    predictors: np.ndarray | None = None


class PartsDeviance(LaplaceDeviance):
    """The Laplace approximation as a function of theta, the coefficients of all predictors and further parameters.

    Parameters
    ----------
    response : PartsResponse
    blocks : sequence of Block
        In the order of the coefficients; the first `visible` of them are what the user sees as coefficients.
    visible : int
    random : RandomEffects
    parts : sequence of int
        Predictor that each random-effects term enters.
    priors : object, optional
        Bound priors, see `Penalty`.
    """

    def __init__(
        self,
        response: Any,
        blocks: Sequence[Block],
        visible: int,
        random: Any,
        parts: Sequence[int],
        *,
        priors: Any = None,
    ):
        self.random, self.response = random, response
        self.nobs = len(response.y)
        sizes = [b.size for b in blocks]
        self.k_fe, self.k_shape = sum(sizes[:visible]), sum(sizes[visible:])
        self.k_theta = random.k_theta
        self.layout = Layout(random)
        self.design = StackedDesign(blocks, response.n_parts, self.nobs)
        a = self.design.user_map[: self.k_fe, : self.k_fe]
        self.basis = FixedBasis(None, None, np.ones(self.k_fe), a, float(np.linalg.slogdet(a)[1]) if a.size else 0.0)
        chosen = sorted(set(parts))
        self._random_parts = tuple(chosen)
        if len(chosen) == 1:
            plain = LoadedIncidence if self.layout.loaded else Incidence
            self.incidence = plain(self.layout)
        elif self.layout.loaded:
            raise ValueError("multiple membership in models with random effects in the zero part is not available")
        else:
            self.incidence = PartsIncidence(self.layout, [chosen.index(p) for p in parts])
        self.eliminate = (LoadedEliminator if self.layout.loaded else Eliminator)(self.layout, self.incidence)
        self.penalty = Penalty(priors, self.basis.a, self.layout.term_bases)
        self._use_space(ThetaSpace(random, self.layout, self.penalty.repels, attracts=self.penalty.attracts))
        self._eta = self._last = None

    # LaplaceDeviance bounds the shape; here no parameter has a limit of its own
    def _use_space(self, space: ThetaSpace) -> None:
        self.space = space
        rest = self.k_fe + self.k_shape
        self.lower = np.concatenate([space.lower, np.full(rest, -np.inf)])
        self.guarded = np.concatenate([space.guarded, np.zeros(rest, dtype=bool)])

    def split(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
        k, p = self.k_theta, self.k_fe
        return x[:k], x[k : k + p], x[k + p :]

    def _log_dispersion(self) -> tuple[int, float]:
        at = self.design.places[next(i for i, b in enumerate(self.design.blocks) if b.name == "disp")].start
        return self.k_theta + at, float(self.design.user_map[at, at])

    def restart_points(self, evaluation: Evaluation) -> list[np.ndarray]:
        x = evaluation.theta.copy()
        wide = 0.5 * self._unit_at(x[self.k_theta :])
        x[: self.k_theta] = np.where(self.space.lower == 0.0, np.maximum(x[: self.k_theta], wide), 0.0)
        return [x]

    def _random_rows(self, full: np.ndarray) -> np.ndarray:
        return full[self._random_parts[0]] if len(self._random_parts) == 1 else full[list(self._random_parts)]

    def fixed_part(self, beta: np.ndarray) -> np.ndarray:
        """Random predictors without random effects, at the coefficients that `at` was asked for."""
        return self._random_rows(self._base)

    # start

    def start(self, theta: np.ndarray | None = None) -> np.ndarray:
        """Coefficients of the model without random effects, then one step of the EM algorithm for theta."""
        coef = fixed_fit(self.design, self.response)
        given = theta is not None
        if theta is None:
            theta = np.where(self.space.lower == 0.0, _START_SD * self._unit_at(coef), 0.0)
        x = np.concatenate([theta, coef])
        if given:
            return x
        try:
            mode, merged = self.at(x)[:2]
            improved = self._improved(mode, merged)
            if np.isfinite(improved).all():
                x[: self.k_theta] = improved
                self.value(x)
        except np.linalg.LinAlgError:
            x[: self.k_theta] = theta
        return x

    def _unit_at(self, coef: np.ndarray) -> float:
        """Standard deviation of a random effect as informative as a row, for links on the scale of the data."""
        if self.response.family.link.name != "identity" or self.response.family.trials:
            return 1.0
        full = self.design.predictors(coef)
        self.response.hold(full)
        rows = self.response.rows(self._random_rows(full))
        if not rows.inside:
            return 1.0
        middle = float(np.median(rows.observed if rows.observed.ndim == 1 else rows.observed[0, 0]))
        return 1.0 / np.sqrt(middle) if middle > 0.0 else 1.0

    def zero_starts(self, x: np.ndarray, far: float) -> list[np.ndarray]:
        """Starts with another zero part, see `other_zero_parts`."""
        k = self.k_theta
        found = other_zero_parts(self.design, self.response, x[k:], far)
        return [np.concatenate([x[:k], coef]) for coef in found]

    # objective

    def at(self, x: np.ndarray, again: bool = False) -> AtPoint:
        point = x.tobytes()
        if not again and self._last is not None and self._last[0] == point:
            return self._last[1:]
        theta, coef, shape = x[: self.k_theta], x[self.k_theta :], x[self.k_theta + self.k_fe :]
        if shape.size and np.abs(shape).max() > _FARTHEST:
            raise np.linalg.LinAlgError("a shape parameter has run away")
        merged, terms = self.space.factors(theta)
        with np.errstate(over="ignore", invalid="ignore"):
            self._base = self.design.predictors(coef)
            if not np.isfinite(self._base).all():
                raise np.linalg.LinAlgError("a linear predictor is not finite")
            self.response.hold(self._base)
            mode = self._found(merged, coef[: self.k_fe], self._near(point))
        return self._kept(x, point, mode, merged, terms)

    def _near(self, point: bytes) -> Beginning | None:
        """The last predictor; with its rows at the same point only, as all coefficients enter them."""
        if self._last is not None and self._last[0] == point:
            mode = self._last[1]
            return Beginning(mode.terms.eta, mode.terms, mode.weighted)
        return None if self._eta is None else Beginning(self._eta)

    def _found(self, merged: list[np.ndarray], beta: np.ndarray, begin: Beginning | None) -> Mode:
        """The mode with M eliminated there; a saddle is left along a direction in which the density rises."""
        mode = conditional_mode(self, merged, beta, begin)
        for attempt in range(3):
            try:
                if mode.weighted is None:
                    mode.weighted = self.eliminate(mode.terms.observed, merged)
                if mode.weighted.least_pivot() < _LEAST_PIVOT:
                    raise np.linalg.LinAlgError("M is nearly singular at the mode")
                return mode
            except np.linalg.LinAlgError:
                if attempt == 2:
                    raise
            # a fixed direction that no symmetry of the data shares with the saddle
            rng = np.random.default_rng(attempt)
            away = [0.3 * lam @ rng.standard_normal(b.shape) for lam, b in zip(merged, mode.b, strict=True)]
            eta = mode.terms.eta + self.incidence.times(away)
            mode = conditional_mode(self, merged, beta, Beginning(eta) if attempt == 0 else None)
        raise np.linalg.LinAlgError("no mode")

    def _gradients(self, mode: Mode, merged: list[np.ndarray]) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
        weighted = mode.weighted
        rows = self._expanded(mode)
        s = weighted.leverage()
        t = rows.contracted(s, self._random_parts)
        _, v, rho = self._implicit(mode, merged, self.incidence.transposed(self._random_rows(t)))
        zv = np.atleast_2d(self.incidence.times(v))
        slopes = []
        for trace, g, r in zip(weighted.traces(), mode.g, rho, strict=True):
            mixed = r @ g.T
            slopes.append(trace - g @ g.T + 0.5 * (mixed + mixed.T))
        e = t - 2.0 * rows.score()
        for c in range(len(e)):
            for i, d in enumerate(self._random_parts):
                e[c] += rows.get(c, d) * zv[i]
        coef = self.design.adjoint(e)
        return slopes, coef[: self.k_fe], coef[self.k_fe :]

    def _full_eta(self, mode: Mode) -> np.ndarray:
        full = self._base.copy()
        full[self._random_parts[0] if mode.terms.eta.ndim == 1 else list(self._random_parts)] = mode.terms.eta
        return full

    def _expanded(self, mode: Mode) -> Any:
        """All derivatives of the rows at the mode, found once."""
        if mode.expansion is None:
            mode.expansion = self.response.expand(self._full_eta(mode))
        return mode.expansion

    def _all_fixed(self, mode: Mode) -> FixedSystem:
        """All coefficients next to the eliminated random effects, at the observed weights."""
        weight = self._expanded(mode).weights()
        zx = [np.empty((*g.shape, self.design.n_coef)) for g in mode.g]
        several = mode.terms.eta.ndim > 1
        for columns, at in zip(self.design.columns, self.design.places, strict=True):
            for j in range(at.stop - at.start):
                moved = [sum(weight[a, c] * x[:, j] for c, x in columns.items()) for a in self._random_parts]
                for block, part in zip(
                    zx, self.incidence.transposed(np.array(moved) if several else moved[0]), strict=True
                ):
                    block[:, :, at.start + j] = part
        coef, score = mode.weighted.solve_blocks(zx)
        return FixedSystem(zx, coef, score, self.design.gram(weight) - inner(zx, coef))

    def fixed_system(self, mode: Mode) -> FixedSystem:
        system, p = self._all_fixed(mode), self.k_fe

        def cut(blocks: list[np.ndarray]) -> list[np.ndarray]:
            return [b[:, :, :p] for b in blocks]

        return FixedSystem(cut(system.zx), cut(system.coef), cut(system.score), system.information[:p, :p])

    def _information(self, mode: Mode, directions: list[tuple[int, np.ndarray]]) -> np.ndarray:
        k = self.k_theta
        h = [np.zeros((*g.shape, k)) for g in mode.g]
        for t, (factor, d) in enumerate(directions):
            h[factor][:, :, t] = d @ mode.g[factor]
        fixed = self._all_fixed(mode)
        a = inner(h, mode.weighted.solve_blocks(mode.weighted.multiply(h))[1])
        c = inner(fixed.score, h)
        size = k + c.shape[0]
        out = np.zeros((size, size))
        out[:k, :k] = a
        information = floored(fixed.information)
        out[:k, :k] += c.T @ np.linalg.solve(information, c) if c.size else 0.0
        out[k:, :k], out[:k, k:] = 2.0 * c, 2.0 * c.T
        out[k:, k:] = 2.0 * information
        return out

    def third_rows(self, mode: Mode, step: np.ndarray) -> np.ndarray:
        full = self._full_eta(mode)
        full[list(self._random_parts)] += np.asarray(step, dtype=float).reshape(-1, 1)
        rows = self.response.expand(full)
        r = len(self._random_parts)
        out = np.empty((r, r, r, self.nobs))
        for i, a in enumerate(self._random_parts):
            for j, b in enumerate(self._random_parts):
                for k, c in enumerate(self._random_parts):
                    out[i, j, k] = rows.get(a, b, c)
        return out

    # solution

    def solve(self, x: np.ndarray) -> PartsSolution:
        mode, _, _, sigmas, value = self.at(x)
        penalty = self.penalty.fixed(mode.beta) + (0.0 if sigmas is None else self.penalty.covariances(sigmas))
        penalty += self._of_dispersion(x)
        a = self.basis.a
        full = self._full_eta(mode)
        return PartsSolution(
            theta=self.space.user(x[: self.k_theta]),
            beta=a @ mode.beta,
            b=self.user_effects(mode.b),
            sigma2=1.0,
            alpha=None,
            cov_beta=a @ np.linalg.pinv(self.fixed_system(mode).information, hermitian=True) @ a.T,
            eta=full[0],
            square=mode.square,
            logdet_m=mode.weighted.logdet,
            criterion=value - penalty,
            penalty=penalty,
            shapes=self.design.user_map[self.k_fe :, self.k_fe :] @ x[self.k_theta + self.k_fe :],
            predictors=full,
        )
