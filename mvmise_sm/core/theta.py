"""Theta of a model in the user's and in working coordinates, and its boundary."""

from __future__ import annotations

from functools import cached_property

import numpy as np

__all__ = ["ThetaSpace"]

_SINGULAR = 1e-4
_CERTIFICATE = 1e-3
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

    Attributes
    ----------
    lower : ndarray
        Lower bounds (k_theta,).
    guarded : ndarray
        Elements that a prior keeps off their lower bound (k_theta,).
    """

    def __init__(self, random, layout, repels=(), structures=None):
        self.random, self.layout = random, layout
        self.structures = tuple(t.structure for t in random.terms) if structures is None else structures
        self.lower = random.lower
        self.guarded = np.zeros(random.k_theta, dtype=bool)
        for structure, at, repel in zip(self.structures, random.theta_slices, repels, strict=False):
            self.guarded[at] = repel & (structure.lower == 0.0)
        self._repels = repels

    def reordered(self, theta):
        """The space whose factors have the largest variances at `theta` first, or None where that is this one."""
        terms = self.factors(theta)[1]
        structures = tuple(
            s.ordered_by(np.square(lam).sum(axis=1)) for s, lam in zip(self.structures, terms, strict=True)
        )
        if structures == self.structures:
            return None
        return ThetaSpace(self.random, self.layout, self._repels, structures)

    def working(self, theta):
        """Working theta for the user's theta."""
        maps = [t.a_inv for t in self.layout.term_bases]
        return self._convert(theta, maps, [t.structure for t in self.random.terms], self.structures)

    def user(self, theta):
        """The user's theta for a working theta."""
        maps = [t.a for t in self.layout.term_bases]
        return self._convert(theta, maps, self.structures, [t.structure for t in self.random.terms])

    def _convert(self, theta, maps, given, wanted):
        out = np.empty(self.random.k_theta)
        for at, a, before, after in zip(self.random.theta_slices, maps, given, wanted, strict=True):
            lam = a @ before.factor(theta[at])
            out[at] = after.theta_from(lam @ lam.T)
        return out

    def factors(self, theta):
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
    def where(self):
        """Per term: its factor, its columns of the factor, and the factor's q."""
        out = [None] * len(self.random.terms)
        for k, f in enumerate(self.layout.factors):
            for t, place in zip(f.terms, f.places, strict=True):
                out[t] = (k, place, f.q)
        return out

    def directions(self, theta, terms):
        """Per parameter the factor and dSigma / dtheta_t (q, q) of the factor."""
        out = []
        for t, (structure, at) in enumerate(zip(self.structures, self.random.theta_slices, strict=True)):
            k, place, q = self.where[t]
            for tangent in structure.tangents(theta[at]):
                small = tangent @ terms[t].T
                wide = np.zeros((q, q))
                wide[place, place] = small + small.T
                out.append((k, wide))
        return out

    def by_term(self, blocks):
        """Blocks (q, q) of the factors as blocks of the terms."""
        return [blocks[k][place, place] for k, place, _ in self.where]

    def pullback(self, theta, d_lambdas):
        """Gradient in theta (k_theta,) for gradients (q, q) in every term's Lambda."""
        out = np.empty(self.random.k_theta)
        for structure, at, d in zip(self.structures, self.random.theta_slices, d_lambdas, strict=True):
            out[at] = structure.pullback(theta[at], d)
        return out

    def bend(self, theta, slopes):
        """Curvature 2 D^+ that Sigma = Lambda Lambda' brings where the derivatives D in Sigma are positive."""
        out = np.zeros((self.random.k_theta,) * 2)
        for structure, at, d in zip(self.structures, self.random.theta_slices, slopes, strict=True):
            values, vectors = np.linalg.eigh(d)
            positive = (vectors * np.maximum(values, 0.0)) @ vectors.T
            tangents = structure.tangents(theta[at])
            flat = tangents.reshape(len(tangents), -1)
            out[at, at] = 2.0 * (positive @ tangents).reshape(len(tangents), -1) @ flat.T
        return out

    def user_sigmas(self, terms):
        """Covariance of every term in the user's coordinates (q, q)."""
        return [(b.a @ lam) @ (b.a @ lam).T for b, lam in zip(self.layout.term_bases, terms, strict=True)]

    def is_singular(self, theta):
        """Whether a working theta is on the boundary."""
        return bool((theta[(self.lower == 0.0) & ~self.guarded] < _SINGULAR).any())

    def escapes(self, theta, slopes, only_check=False):
        """Working thetas off the boundary in directions in which the objective falls, see `ProfiledDeviance.escapes`."""
        out = []
        for structure, at, d in zip(self.structures, self.random.theta_slices, slopes, strict=True):
            part = theta[at]
            if (part[structure.lower == 0.0] > _SINGULAR).all():
                continue
            lam = structure.factor(part)
            sigma = lam @ lam.T
            if structure.invariance == "linear":
                values, vectors = np.linalg.eigh(d)
            else:
                order = np.argsort(d.diagonal())
                values, vectors = d.diagonal()[order], np.eye(structure.q)[:, order]
            scale = max(float(np.trace(sigma)), 1e-2)
            for w, v in zip(values, vectors.T, strict=True):
                if w >= -1e-6 or (only_check and -w * scale < _CERTIFICATE):
                    break
                for t in scale * _ESCAPE_STEPS:
                    candidate = theta.copy()
                    candidate[at] = structure.theta_from(sigma + t * np.outer(v, v))
                    out.append(candidate)
        return out
