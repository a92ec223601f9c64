"""-2 log L by the Laplace approximation where the likelihood has several linear predictors, with its exact gradient.

With l_c the derivatives of a row's log-likelihood in its predictors c, W_cd = -l_cd, S_cd = z_c'P z_d for P =
(Sigma^-1 + Z'WZ)^-1, t_c = -sum_ab l_abc S_ab and v = P Z't, the derivative in the coefficients of predictor c is
X_c'(t_c - 2 l_c - sum_d W_cd Z_d v). Everything that is not a covariance is such a coefficient: dispersion, degrees of
freedom, thresholds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.special import expit

from mvmise_sm.core.covariance.coordinates import FixedBasis, fixed_basis
from mvmise_sm.core.covariance.theta import ThetaSpace
from mvmise_sm.core.criteria.laplace import LaplaceDeviance
from mvmise_sm.core.criteria.penalty import Penalty
from mvmise_sm.core.criteria.pirls import FixedSystem, Mode, conditional_mode, inner
from mvmise_sm.core.criteria.solution import GeneralizedSolution
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
_START_STEPS = 30
# change of a linear predictor in one step of the start
_LONGEST_MOVE = 2.0
# probabilities of another mode of the zero part, and how much lower its log-likelihood without random effects may be
_OTHER_MODE, _NOT_MUCH_WORSE = 0.2, 3.0


@dataclass(frozen=True, eq=False)
class Block:
    """Coefficients with the predictors that they enter.

    Attributes
    ----------
    name : str
        ``"cond"``, ``"zi"``, ``"disp"``, a shape's name or ``"threshold"``.
    designs : dict
        Predictor -> columns (nobs, p).
    start : ndarray or None
        Where the coefficients start (p,); None for least squares on `target`.
    target : ndarray or None
        A first guess of the predictor (nobs,).
    offset : ndarray or None
        Known part of the conditional predictor (nobs,).
    own_offset : ndarray or None
        Known part of the block's own predictor (nobs,).
    """

    name: str
    designs: dict[int, np.ndarray]
    start: np.ndarray | None = None
    target: np.ndarray | None = None
    offset: np.ndarray | None = None
    own_offset: np.ndarray | None = None

    @property
    def size(self) -> int:
        return next(iter(self.designs.values())).shape[1]


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

    shapes: np.ndarray = None
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
        self.random, self.response, self.blocks = random, response, tuple(blocks)
        self.nobs = len(response.y)
        sizes = [b.size for b in blocks]
        self.k_fe, self.k_shape = sum(sizes[:visible]), sum(sizes[visible:])
        self.k_theta = random.k_theta
        self.layout = Layout(random)
        stops = np.cumsum([0, *sizes])
        self.places = [slice(int(a), int(b)) for a, b in pairwise(stops)]
        self._columns, bases = [], []
        for block in self.blocks:
            columns, a = _working(block)
            self._columns.append(columns)
            bases.append(a)
        full = _block_diagonal(bases)
        self._full_map = full
        a = full[: self.k_fe, : self.k_fe]
        self.basis = FixedBasis(None, None, np.ones(self.k_fe), a, float(np.linalg.slogdet(a)[1]) if a.size else 0.0)
        chosen = sorted(set(parts))
        self._random_parts = tuple(chosen)
        if len(chosen) == 1:
            loaded = self.layout.loaded
            self.incidence = LoadedIncidence(self.layout) if loaded else Incidence(self.layout)
        elif self.layout.loaded:
            raise ValueError("multiple membership in models with random effects in the zero part is not available")
        else:
            self.incidence = PartsIncidence(self.layout, [chosen.index(p) for p in parts])
        eliminator = LoadedEliminator if self.layout.loaded else Eliminator
        self.eliminate = eliminator(self.layout, self.incidence)
        self.penalty = Penalty(priors, self.basis.a, self.layout.term_bases)
        self._use_space(ThetaSpace(random, self.layout, self.penalty.repels, attracts=self.penalty.attracts))
        self._eta = self._last = None

    # LaplaceDeviance bounds the shape; here no parameter has a limit of its own
    def _use_space(self, space):
        self.space = space
        rest = self.k_fe + self.k_shape
        self.lower = np.concatenate([space.lower, np.full(rest, -np.inf)])
        self.guarded = np.concatenate([space.guarded, np.zeros(rest, dtype=bool)])

    def split(self, x):
        k, p = self.k_theta, self.k_fe
        return x[:k], x[k : k + p], x[k + p :]

    def restart_points(self, evaluation):
        x = evaluation.theta.copy()
        wide = 0.5 * self._unit_at(x[self.k_theta :])
        x[: self.k_theta] = np.where(self.space.lower == 0.0, np.maximum(x[: self.k_theta], wide), 0.0)
        return [x]

    # predictors

    def predictors(self, coef: np.ndarray) -> np.ndarray:
        """Fixed part of all predictors (K, nobs) for working coefficients."""
        out = np.zeros((self.response.n_parts, self.nobs))
        for block, columns, at in zip(self.blocks, self._columns, self.places, strict=True):
            for c, x in columns.items():
                out[c] += x @ coef[at]
            known = block.offset if block.own_offset is None else block.own_offset
            if known is not None:
                out[next(iter(columns))] += known
        return out

    def _random_rows(self, full: np.ndarray) -> np.ndarray:
        return full[self._random_parts[0]] if len(self._random_parts) == 1 else full[list(self._random_parts)]

    def fixed_part(self, beta):
        """Random predictors without random effects, at the coefficients that `at` was asked for."""
        return self._random_rows(self._base)

    # start

    def start(self, theta=None):
        """Coefficients of the model without random effects, then one step of the EM algorithm for theta."""
        coef = self._fixed_fit()
        given = theta is not None
        if not given:
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

    def _unit_at(self, coef):
        """Standard deviation of a random effect as informative as a row, for links on the scale of the data."""
        if self.response.family.link.name != "identity" or self.response.family.trials:
            return 1.0
        self.response.hold(self.predictors(coef))
        weight = self.response.rows(self._random_rows(self.predictors(coef))).observed
        weight = weight if weight is None or weight.ndim == 1 else weight[0, 0]
        middle = np.nan if weight is None else float(np.median(weight))
        return 1.0 / np.sqrt(middle) if middle > 0.0 else 1.0

    def _fixed_fit(self):
        """Working coefficients of the model without random effects, by Newton steps on convex weights."""
        coef = np.zeros(self.k_fe + self.k_shape)
        for block, columns, at in zip(self.blocks, self._columns, self.places, strict=True):
            if block.target is not None:
                target = block.target if block.offset is None else block.target - block.offset
                coef[at] = np.linalg.lstsq(next(iter(columns.values())), target, rcond=None)[0]
            elif block.start is not None:
                coef[at] = np.linalg.solve(self._full_map[at, at], block.start)
        return self._ascended(coef)[1]

    def _ascended(self, coef):
        """Log-likelihood without random effects and working coefficients after Newton steps on convex weights."""
        here = self.response.expand(self.predictors(coef))
        value = here.loglik
        for _ in range(_START_STEPS):
            if not np.isfinite(value):
                break
            score = self._adjoint(here.score())
            information = _floored(self._gram(here.weights()))
            information.flat[:: len(coef) + 1] += 1e-8 * np.maximum(information.diagonal(), 1e-8)
            step = np.linalg.solve(information, score)
            gain = float(step @ score)
            # where the likelihood is not concave a full step can leave the neighbourhood in which the weights hold
            reach = float(np.abs(self.predictors(coef + step) - here.eta).max())
            size = min(1.0, _LONGEST_MOVE / max(reach, 1e-300))
            if not np.isfinite(gain) or gain < 1e-4:
                break
            while size > 1e-4:
                trial = self.response.expand(self.predictors(coef + size * step))
                if np.isfinite(trial.loglik) and trial.loglik > value:
                    break
                size *= 0.5
            else:
                break
            coef, here, value = coef + size * step, trial, trial.loglik
        return value, coef

    def zero_starts(self, x: np.ndarray, far: float) -> list[np.ndarray]:
        """Starts with another zero part where fits without random effects say that one may be better.

        Where the zero part is nearly certain for some rows its likelihood has several modes: each of its coefficients
        is moved by `far` to either side and the model without random effects fitted from there.
        """
        k = self.k_theta
        block = next((i for i, b in enumerate(self.blocks) if b.name == "zi"), None)
        if block is None:
            return []
        at = self.places[block]
        first = self._ascended(x[k:])
        found = []
        for j in range(at.stop - at.start):
            unit = np.linalg.solve(self._full_map[at, at], np.eye(at.stop - at.start)[j])
            for side in (-far, far):
                coef = x[k:].copy()
                coef[at] += side * unit
                found.append(self._ascended(coef))
        found.sort(key=lambda pair: -pair[0])
        taken = [expit(self.predictors(first[1])[1])]
        out = []
        for value, coef in found:
            p = expit(self.predictors(coef)[1])
            if value > first[0] - _NOT_MUCH_WORSE and all(np.abs(p - q).max() > _OTHER_MODE for q in taken):
                taken.append(p)
                out.append(np.concatenate([x[:k], coef]))
        return out[:2]

    def _adjoint(self, rows: np.ndarray) -> np.ndarray:
        """Sum over predictors of X_c' rows_c, in all coefficients."""
        return (
            np.concatenate([sum(x.T @ rows[c] for c, x in columns.items()) for columns in self._columns])
            if self._columns
            else np.zeros(0)
        )

    def _gram(self, weight: np.ndarray) -> np.ndarray:
        """X'W X over all coefficients, for weights (K, K, nobs)."""
        out = np.zeros((self.places[-1].stop,) * 2)
        for left, rows in zip(self._columns, self.places, strict=True):
            for right, cols in zip(self._columns, self.places, strict=True):
                if cols.start > rows.start:
                    continue
                block = sum(x.T @ (weight[c, d][:, None] * z) for c, x in left.items() for d, z in right.items())
                out[rows, cols] = block
                out[cols, rows] = block.T
        return out

    # objective

    def at(self, x):
        if self._last is not None and np.array_equal(self._last[0], x):
            return self._last[1:]
        theta, beta, shape = self.split(x)
        if shape.size and np.abs(shape).max() > _FARTHEST:
            raise np.linalg.LinAlgError("a shape parameter has run away")
        merged, terms = self.space.factors(theta)
        with np.errstate(over="ignore", invalid="ignore"):
            self._base = self.predictors(x[self.k_theta :])
            if not np.isfinite(self._base).all():
                raise np.linalg.LinAlgError("a linear predictor is not finite")
            self.response.hold(self._base)
            mode = self._found(merged, beta)
        sigmas = self.space.user_sigmas(terms) if self.penalty.any_cov else None
        value = self._integral(mode, merged) + self.penalty.fixed(mode.beta)
        if sigmas is not None:
            value += self.penalty.covariances(sigmas)
        self._eta = mode.terms.eta
        self._last = (np.array(x), mode, merged, terms, sigmas, value)
        return self._last[1:]

    def _found(self, merged, beta) -> Mode:
        """The mode with M eliminated there; a saddle is left along a direction in which the density rises."""
        mode = conditional_mode(self, merged, beta, self._eta)
        for attempt in range(3):
            try:
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
            mode = conditional_mode(self, merged, beta, eta if attempt == 0 else None)
        raise np.linalg.LinAlgError("no mode")

    def _gradients(self, mode, merged):
        weighted = mode.weighted
        rows = self.response.expand(self._full_eta(mode))
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
        coef = self._adjoint(e)
        self._rows = rows
        return slopes, coef[: self.k_fe], coef[self.k_fe :]

    def _full_eta(self, mode):
        full = self._base.copy()
        full[self._random_parts[0] if mode.terms.eta.ndim == 1 else list(self._random_parts)] = mode.terms.eta
        return full

    def _all_fixed(self, mode) -> FixedSystem:
        """All coefficients next to the eliminated random effects, at the observed weights."""
        rows = self.response.expand(self._full_eta(mode))
        weight = rows.weights()
        n_coef = self.places[-1].stop
        zx = [np.empty((*g.shape, n_coef)) for g in mode.g]
        several = mode.terms.eta.ndim > 1
        for columns, at in zip(self._columns, self.places, strict=True):
            for j in range(at.stop - at.start):
                moved = [sum(weight[a, c] * x[:, j] for c, x in columns.items()) for a in self._random_parts]
                for block, part in zip(
                    zx, self.incidence.transposed(np.array(moved) if several else moved[0]), strict=True
                ):
                    block[:, :, at.start + j] = part
        coef, score = mode.weighted.solve_blocks(zx)
        return FixedSystem(zx, coef, score, self._gram(weight) - inner(zx, coef))

    def fixed_system(self, mode):
        system, p = self._all_fixed(mode), self.k_fe

        def cut(blocks):
            return [b[:, :, :p] for b in blocks]

        return FixedSystem(cut(system.zx), cut(system.coef), cut(system.score), system.information[:p, :p])

    def _information(self, mode, directions):
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
        information = _floored(fixed.information)
        out[:k, :k] += c.T @ np.linalg.solve(information, c) if c.size else 0.0
        out[k:, :k], out[:k, k:] = 2.0 * c, 2.0 * c.T
        out[k:, k:] = 2.0 * information
        return out

    def third_rows(self, mode, step):
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

    def solve(self, x):
        mode, _, _, sigmas, value = self.at(x)
        penalty = self.penalty.fixed(mode.beta) + (0.0 if sigmas is None else self.penalty.covariances(sigmas))
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
            shapes=self._full_map[self.k_fe :, self.k_fe :] @ x[self.k_theta + self.k_fe :],
            predictors=full,
        )


def _working(block: Block) -> tuple[dict[int, np.ndarray], np.ndarray]:
    """Well scaled columns of a block and the map from their coefficients to the user's (p, p)."""
    if len(block.designs) != 1 or block.size == 0:
        return block.designs, np.eye(block.size)
    ((c, X),) = block.designs.items()
    basis = fixed_basis(X)
    out = np.empty(X.shape)
    basis.rows(X, 0, X.shape[0], out)
    out *= basis.scale
    return {c: out}, basis.a


def _block_diagonal(blocks: list[np.ndarray]) -> np.ndarray:
    n = sum(len(b) for b in blocks)
    out, at = np.zeros((n, n)), 0
    for b in blocks:
        out[at : at + len(b), at : at + len(b)] = b
        at += len(b)
    return out


def _floored(information: np.ndarray) -> np.ndarray:
    """A symmetric matrix with its eigenvalues made positive, in the scale of its diagonal."""
    if not information.size:
        return information
    size = 1.0 / np.sqrt(np.maximum(np.abs(information.diagonal()), 1e-12))
    scaled = information * size[:, None] * size
    values, vectors = np.linalg.eigh(scaled)
    if values[0] > 1e-6:
        return information
    scaled = (vectors * np.maximum(np.abs(values), 1e-3)) @ vectors.T
    return scaled / size[:, None] / size
