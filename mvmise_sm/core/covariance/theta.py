"""Theta of a model in the user's and in working coordinates, and its boundary."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.linalg.lapack import dsyevd

from mvmise_sm.core.covariance.base import SINGULAR

if TYPE_CHECKING:
    from mvmise_sm.core.covariance.base import CovarianceStructure
    from mvmise_sm.core.covariance.random_effects import RandomEffects
    from mvmise_sm.core.elimination.layout import Layout

__all__ = ["ThetaSpace", "bent", "positive_part"]

_CERTIFICATE = 1e-3
# a one-sided derivative of this size is rounding
_DESCENDS = 1e-6
_ESCAPE_STEPS = np.array([1.0, 0.1, 1e-2, 1e-3, 1e-4])


class ThetaSpace:
    """The covariance parameters of all random-effects terms.

    Parameters
    ----------
    random : RandomEffects
    layout : Layout
    repels : sequence of bool, optional
        Terms whose prior keeps the covariance off the boundary.
    structures : tuple of CovarianceStructure, optional
        Working structures; those of the terms by default.
    attracts : sequence of bool, optional
        Terms whose prior makes a standard deviation of 0 a local mode; none by default.

    Attributes
    ----------
    lower : ndarray
        Lower bounds (k_theta,).
    guarded : ndarray
        Elements that a prior keeps off their lower bound (k_theta,).
    """

    def __init__(
        self,
        random: RandomEffects,
        layout: Layout,
        repels: tuple[bool, ...] = (),
        structures: tuple[CovarianceStructure, ...] | None = None,
        attracts: tuple[bool, ...] = (),
    ) -> None:
        self.random, self.layout = random, layout
        self.structures = tuple(t.structure for t in random.terms) if structures is None else structures
        self.lower = random.lower
        self.guarded = np.zeros(random.k_theta, dtype=bool)
        for structure, at, repel in zip(self.structures, random.theta_slices, repels, strict=False):
            self.guarded[at] = repel & (structure.lower == 0.0)
        self._repels = repels
        self.attracts = attracts or (False,) * len(self.structures)
        self._known: tuple[np.ndarray, np.ndarray] | None = None

    def _without_columns(self, t: int, theta: np.ndarray) -> list[np.ndarray]:
        """Starts (k_theta,) with the standard deviation of one column of a term, and of all, at 0."""
        structure, basis = self.structures[t], self.layout.term_bases[t]
        lam = basis.a @ structure.factor(theta)
        out = [structure.theta_from(np.zeros((structure.q, structure.q)))]
        for j in range(structure.q if structure.q > 1 else 0):
            rows = lam.copy()
            rows[j] = 0.0
            rows = basis.a_inv @ rows
            out.append(structure.theta_from(rows @ rows.T))
        return out

    def reordered(self, theta: np.ndarray) -> ThetaSpace | None:
        """The space whose factors have the largest variances at `theta` first, or None where that is this one."""
        terms = self.factors(theta)[1]
        structures = tuple(
            s.ordered_by(np.square(lam).sum(axis=1)) for s, lam in zip(self.structures, terms, strict=True)
        )
        if structures == self.structures:
            return None
        return ThetaSpace(self.random, self.layout, self._repels, structures, self.attracts)

    def working(self, theta: np.ndarray) -> np.ndarray:
        """Working theta for the user's theta; exactly the one that `user` was last asked for, where that gave
        `theta`.
        """
        if self._known is not None and np.array_equal(theta, self._known[0]):
            return self._known[1].copy()
        maps = [t.a_inv for t in self.layout.term_bases]
        return self._convert(theta, maps, [t.structure for t in self.random.terms], self.structures)

    def user(self, theta: np.ndarray) -> np.ndarray:
        """The user's theta for a working theta."""
        maps = [t.a for t in self.layout.term_bases]
        out = self._convert(theta, maps, self.structures, [t.structure for t in self.random.terms])
        self._known = out.copy(), np.array(theta)
        return out

    def converted_from(self, other: ThetaSpace, theta: np.ndarray) -> np.ndarray:
        """Working theta of this space for a working theta of the same model in another order of the columns."""
        if other is self:
            return theta
        return self._convert(theta, [None] * len(self.structures), other.structures, self.structures)

    def _convert(
        self,
        theta: np.ndarray,
        maps: Sequence[np.ndarray | None],
        given: list[CovarianceStructure] | tuple[CovarianceStructure, ...],
        wanted: list[CovarianceStructure] | tuple[CovarianceStructure, ...],
    ) -> np.ndarray:
        out = np.empty(self.random.k_theta)
        for at, a, before, after in zip(self.random.theta_slices, maps, given, wanted, strict=True):
            if before is after and a is not None:
                out[at] = after.rescaled(theta[at], a)
                continue
            lam = before.factor(theta[at]) if a is None else a @ before.factor(theta[at])
            out[at] = after.theta_from(lam @ lam.T)
        return out

    def factors(self, theta: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Relative factors of the grouping factors in elimination order, and of the terms."""
        terms = [s.factor(theta[at]) for s, at in zip(self.structures, self.random.theta_slices, strict=True)]
        merged = []
        for f in self.layout.factors:
            if len(f.terms) == 1:
                merged.append(terms[f.terms[0]])
                continue
            lam = np.zeros((f.q, f.q))
            for t, place in zip(f.terms, f.places, strict=True):
                lam[place, place] = terms[t]
            merged.append(lam)
        return merged, terms

    @cached_property
    def where(self) -> list[tuple[int, slice, int]]:
        """Per term: its factor, its columns of the factor, and the factor's q."""
        out: list[Any] = [None] * len(self.random.terms)
        for k, f in enumerate(self.layout.factors):
            for t, place in zip(f.terms, f.places, strict=True):
                out[t] = (k, place, f.q)
        return out

    def by_term(self, blocks: list[np.ndarray]) -> list[np.ndarray]:
        """Blocks (q, q) of the factors as blocks of the terms."""
        return [blocks[k][place, place] for k, place, _ in self.where]

    def chain_rule(
        self, theta: np.ndarray, terms: list[np.ndarray], slopes: list[np.ndarray], exact: list[bool]
    ) -> tuple[np.ndarray, list[tuple], list[np.ndarray], np.ndarray]:
        """Gradient and tangents of a function with derivatives `slopes` in every term's Sigma.

        Parameters
        ----------
        theta : ndarray
            Working theta (k_theta,).
        terms, slopes : sequence of ndarray
            Lambda and D (q, q) per term.
        exact : sequence of bool
            Terms for which the curvature takes all of 2 D instead of its positive part.

        Returns
        -------
        gradient : ndarray
            (k_theta,).
        directions : list of (int, ndarray)
            Factor and dSigma / dtheta_t (q, q) of the factor, per parameter.
        tangents : list of ndarray
            dSigma / dtheta_t of the term's own block (k, q, q), per term.
        curvature : ndarray
            What Sigma = Lambda Lambda' adds to the Hessian (k_theta, k_theta).
        """
        gradient = np.empty(theta.size)
        directions, tangents, curvature = [], [], np.zeros((theta.size, theta.size))
        for t, (structure, at) in enumerate(zip(self.structures, self.random.theta_slices, strict=True)):
            lam, slope = terms[t], slopes[t]
            k, place, q = self.where[t]
            if q == 1 and structure.linear:
                gradient[at] = 2.0 * slope[0, 0] * lam[0, 0]
                curvature[at, at] = 2.0 * (slope[0, 0] if exact[t] else max(slope[0, 0], 0.0))
                directions.append((k, 2.0 * lam))
                tangents.append(2.0 * lam[None])
                continue
            gradient[at] = structure.pullback(theta[at], 2.0 * (slope @ lam))
            factor_tangents = structure.tangents(theta[at])
            half = factor_tangents @ lam.T
            tangents.append(half + half.transpose(0, 2, 1))
            for direction in tangents[t]:
                if q != structure.q:
                    wide = np.zeros((q, q))
                    wide[place, place] = direction
                    direction = wide
                directions.append((k, direction))
            if structure.linear:
                curvature[at, at] = bent(factor_tangents, slope if exact[t] else positive_part(slope))
                continue
            both = bent(factor_tangents, slope)
            both += structure.curvature(theta[at], 2.0 * (slope @ lam))
            curvature[at, at] = both if exact[t] else positive_part(both)
        return gradient, directions, tangents, curvature

    def curvature(self, theta: np.ndarray, terms: list[np.ndarray], slopes: Sequence[np.ndarray]) -> np.ndarray:
        """What Sigma = Lambda Lambda' adds to the Hessian (k_theta, k_theta), all of it; arguments as `chain_rule`."""
        out = np.zeros((theta.size, theta.size))
        for structure, at, lam, slope in zip(self.structures, self.random.theta_slices, terms, slopes, strict=True):
            out[at, at] = bent(structure.tangents(theta[at]), slope)
            if not structure.linear:
                out[at, at] += structure.curvature(theta[at], 2.0 * (slope @ lam))
        return out

    def pullback(self, theta: np.ndarray, d_lambdas: list[np.ndarray]) -> np.ndarray:
        """Gradient in theta (k_theta,) for gradients (q, q) in every term's Lambda."""
        out = np.empty(self.random.k_theta)
        for structure, at, d in zip(self.structures, self.random.theta_slices, d_lambdas, strict=True):
            out[at] = structure.pullback(theta[at], d)
        return out

    def user_sigmas(self, terms: list[np.ndarray]) -> list[np.ndarray]:
        """Covariance of every term in the user's coordinates (q, q)."""
        return [(b.a @ lam) @ (b.a @ lam).T for b, lam in zip(self.layout.term_bases, terms, strict=True)]

    def is_singular(self, theta: np.ndarray) -> bool:
        """Whether a working theta is on the boundary; a standard deviation of 0 where a prior has its mode is not."""
        for t, (structure, at) in enumerate(zip(self.structures, self.random.theta_slices, strict=True)):
            if self.guarded[at].any() or not structure.on_boundary(theta[at]):
                continue
            if not self.attracts[t] or _has_extreme_correlation(self._user_rows(t, theta[at])):
                return True
        return False

    def _user_rows(self, t: int, theta: np.ndarray) -> np.ndarray:
        """Square root (q, q) of the user's covariance of a term, its rows in units of the working columns."""
        a = self.layout.term_bases[t].a
        return (a @ self.structures[t].factor(theta)) / np.sqrt(np.square(a).sum(axis=1))[:, None]

    def descent_points(
        self, theta: np.ndarray, slopes: tuple[np.ndarray, ...], only_check: bool = False
    ) -> list[np.ndarray]:
        """Working thetas off the boundary in directions in which the objective falls.

        An optimum over the positive semidefinite cone has D positive semidefinite where Sigma is singular; a negative
        eigenvalue of D with vector v makes Sigma + t v v' better for small t.

        Parameters
        ----------
        theta : ndarray
            Working theta (k_theta,).
        slopes : sequence of ndarray
            D (q, q) per term.
        only_check : bool, optional
            Report only clear failures of the certificate.

        Returns
        -------
        list of ndarray
            Candidates (k_theta,), the steepest direction first.
        """
        out = []
        for structure, at, d in zip(self.structures, self.random.theta_slices, slopes, strict=True):
            moves = structure.bound_moves(theta[at], d)
            if not moves:
                continue
            scale = max(float(np.square(structure.factor(theta[at])).sum()), 1e-2)
            for move in sorted(moves, key=lambda move: move.slope):
                if move.slope >= -_DESCENDS or (only_check and -move.slope * scale < _CERTIFICATE):
                    break
                for t in scale * _ESCAPE_STEPS:
                    candidate = theta.copy()
                    candidate[at] = move.at(t)
                    out.append(candidate)
        return out

    def wide_start(self, size: float = 1.0) -> np.ndarray:
        """Relative standard deviations of `size` and no correlation (k_theta,): another start for a fit that ended on
        the boundary.
        """
        parts = [structure.start(np.full(structure.q, size**2)) for structure in self.structures]
        return np.concatenate([np.zeros(0), *parts])

    def at_least(self, theta: np.ndarray, size: float) -> np.ndarray:
        """No correlation, and the standard deviations at `theta` but none below `size` (k_theta,)."""
        parts = [np.zeros(0)]
        for structure, at in zip(self.structures, self.random.theta_slices, strict=True):
            variances = np.square(structure.factor(theta[at])).sum(axis=1)
            parts.append(structure.start(np.maximum(variances, size**2)))
        return np.concatenate(parts)

    def other_starts(self, theta: np.ndarray, size: float = 1.0) -> list[Any]:
        """Further starts (k_theta,): for structures whose likelihood has several optima; for priors with a mode at 0,
        that one and standard deviations of `size`.
        """
        out = []
        for t, (structure, at) in enumerate(zip(self.structures, self.random.theta_slices, strict=True)):
            parts = structure.other_starts(theta[at])
            if self.attracts[t]:
                wide = structure.start(np.full(structure.q, size**2))
                parts = [*parts, *self._without_columns(t, theta[at]), wide]
            for part in parts:
                candidate = theta.copy()
                candidate[at] = part
                out.append(candidate)
        return out


def bent(tangents: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """2 <slope, T_i T_j'> (k, k) for tangents T (k, q, q) of Lambda."""
    flat = tangents.reshape(len(tangents), -1)
    return 2.0 * (slope @ tangents).reshape(flat.shape) @ flat.T


def _has_extreme_correlation(rows: np.ndarray) -> bool:
    """Whether a covariance with square root `rows` (q, q) is singular without its columns of variance 0."""
    sizes = np.sqrt(np.square(rows).sum(axis=1))
    kept = sizes > SINGULAR
    return bool(kept.any()) and float(np.linalg.svd(rows[kept] / sizes[kept, None])[1][-1]) < SINGULAR


def positive_part(d: np.ndarray) -> np.ndarray:
    """Positive semidefinite part of a symmetric matrix."""
    if d.shape[0] == 1:
        return np.maximum(d, 0.0)
    if d.shape[0] == 2:
        # an intercept and a slope: the two eigenvalues are mean and mean plus or minus half their distance
        (a, b), (_, c) = d.tolist()
        mean, half = 0.5 * (a + c), math.hypot(0.5 * (a - c), b)
        if abs(mean) >= half:
            return d if mean >= 0.0 else np.zeros_like(d)
        if half > 0.0:
            share = 0.5 * (mean + half) / half
            return np.array([[share * (a - mean + half), share * b], [share * b, share * (c - mean + half)]])
    # numpy's eigh is the same routine behind a wrapper that costs more than a small matrix
    values, vectors, info = dsyevd(d, lower=1)
    if info:
        raise np.linalg.LinAlgError("eigenvalues of a matrix that is not finite")
    return (vectors * np.maximum(values, 0.0)) @ vectors.T
