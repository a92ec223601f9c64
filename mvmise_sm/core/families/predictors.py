"""Rows of a model with several linear predictors: conditional part, zero part, dispersion and further parameters.

Predictors are numbered: 0 the conditional one, then the zero part where there is one, then what the family has. Random
effects enter some of them, the *random* predictors; third derivatives are needed with two random indices only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.special import expit, log_expit

from mvmise_sm.core.families.base import Derivatives, Family, compose

__all__ = ["Expansion", "PartTerms", "PartsResponse"]


def _no_rows() -> np.ndarray:
    return np.zeros(0)


@dataclass(slots=True, eq=False)
class PartTerms:
    """Rows at one value of the random predictors.

    Attributes
    ----------
    eta : ndarray
        Random predictors, (nobs,) for one and (R, nobs) for several; likewise `score`.
    loglik : float
        Log-likelihood; -inf outside of its domain.
    score : ndarray
    observed : ndarray
        -d2 log f, (nobs,) or (R, R, nobs); `weight` is the same object. Both are empty where `loglik` is -inf.
    """

    eta: np.ndarray
    loglik: float
    score: np.ndarray = field(default_factory=_no_rows)
    observed: np.ndarray = field(default_factory=_no_rows)

    @property
    def inside(self) -> bool:
        """Whether the predictors lie in the domain of the links; elsewhere there are no derivatives."""
        return self.loglik > -np.inf

    @property
    def weight(self) -> np.ndarray:
        """The observed weights, which enter M."""
        return self.observed

    def convex(self) -> np.ndarray:
        """The rows' weights without their negative directions."""
        return positive_rows(self.observed)


def positive_rows(w: np.ndarray) -> np.ndarray:
    """Positive semidefinite part of every row's weight, (nobs,) or (2, 2, nobs)."""
    if w.ndim == 1:
        return np.maximum(w, 0.0)
    values, vectors = np.linalg.eigh(w.transpose(2, 0, 1))
    return np.einsum("nik,nk,njk->ijn", vectors, np.maximum(values, 0.0), vectors)


@dataclass(slots=True, eq=False)
class Expansion:
    """Derivatives of the log-likelihood by row in all predictors.

    Attributes
    ----------
    eta : ndarray
        (K, nobs).
    loglik : float
    derivatives : dict
        Rows (nobs,) by sorted tuple of predictors.
    """

    eta: np.ndarray
    loglik: float
    derivatives: Derivatives

    def get(self, *index: int) -> Any:
        """One derivative, 0.0 where it vanishes."""
        return self.derivatives.get(tuple(sorted(index)), 0.0)

    def score(self) -> np.ndarray:
        """First derivatives (K, nobs)."""
        return np.array([self.get(c) + np.zeros(self.eta.shape[1]) for c in range(len(self.eta))])

    def weights(self) -> np.ndarray:
        """Minus the second derivatives (K, K, nobs)."""
        k, n = self.eta.shape
        out = np.zeros((k, k, n))
        for a in range(k):
            for b in range(a + 1):
                out[a, b] = out[b, a] = -np.asarray(self.get(a, b))
        return out

    def contracted(self, s: np.ndarray, random: tuple[int, ...]) -> np.ndarray:
        """t_c = -sum_ab l_abc S_ab over random a, b (K, nobs), for `s` (nobs,) or (R, R, nobs)."""
        out = np.zeros(self.eta.shape)
        for c in range(len(out)):
            if s.ndim == 1:
                out[c] = -self.get(random[0], random[0], c) * s
                continue
            for i, a in enumerate(random):
                for j, b in enumerate(random):
                    out[c] -= self.get(a, b, c) * s[i, j]
        return out


class PartsResponse:
    """A response whose log-likelihood depends on several linear predictors.

    Parameters
    ----------
    family : Family
    y : ndarray
        Response (nobs,).
    weights : ndarray or None
        Prior weights or numbers of trials (nobs,).
    zero : bool
        Whether there is a zero part.
    random : tuple of int
        Predictors that random effects enter.

    Attributes
    ----------
    n_parts : int
        Number of predictors K.
    """

    constant = 0.0
    dispersed = False

    def __init__(
        self, family: Family, y: np.ndarray, weights: Any = None, *, zero: bool, random: tuple[int, ...]
    ) -> None:
        self.family, self.y, self.w = family, y, weights
        self.random = random
        self.zero = zero
        self.n_parts = 1 + int(zero) + int(family.has_dispersion) + len(family.shape_names)
        inside = family.trials or family.weights_scale
        self._inner = weights if inside else None
        self._outer = None if inside else weights
        self._zeros = np.flatnonzero(y == 0.0) if zero else np.zeros(0, dtype=np.intp)
        self._safe = y
        if zero and family.zero_part == "hurdle" and self._zeros.size:
            # the density of the rows without a zero does not know zeros: they get a stand-in, and are overwritten
            rest = np.delete(y, self._zeros)
            self._safe = y.copy()
            self._safe[self._zeros] = rest[0] if rest.size else 1.0
        # the predictors that are held (K, nobs), none before `hold`
        self._base = np.zeros((0, y.size))

    def refitted(self, y: np.ndarray) -> PartsResponse:
        """The same family and weights for another response (nobs,)."""
        return PartsResponse(self.family, y, self.w, zero=self.zero, random=self.random)

    @property
    def concave(self) -> bool:
        """Whether the log density is concave in the random predictors: a mixture with zeros is not."""
        return not self._mixes and self.random == (0,) and self.family.link.name in self.family.concave_links

    @property
    def scale(self) -> float:
        """Random effects are absolute: 1.0."""
        return 1.0

    def _places(self) -> list[int]:
        """Predictors that the family's own density has, in its order."""
        return [0, *range(2 if self.zero else 1, self.n_parts)]

    def hold(self, base: np.ndarray) -> None:
        """Use these predictors (K, nobs) where `rows` is not given others; only the fixed ones matter."""
        self._base = base
        extra = self._constant(base)
        self._extra = 0.0 if extra is None else float(np.sum(extra))

    def _constant(self, base: np.ndarray) -> np.ndarray | None:
        """What the family leaves out of the log density of the rows (nobs,), see `Family.row_constant`."""
        if self._mixes:
            return None
        extra = self._own_constant(base)
        if extra is None:
            return None
        if self._zeros.size:
            # the zeros of a hurdle are not the family's
            extra = np.array(extra)
            extra[self._zeros] = 0.0
        return extra if self._outer is None else self._outer * extra

    def _own_constant(self, base: np.ndarray) -> Any:
        return self.family.row_constant(self._safe, self._inner, [base[c] for c in self._places()[1:]])

    @property
    def _mixes(self) -> bool:
        """Whether zeros are of two kinds, so that the density of the rest is wanted with all its terms."""
        return self.zero and self.family.zero_part == "inflated"

    def rows(self, eta: np.ndarray) -> PartTerms:
        """Rows at the random predictors `eta`, the others as held."""
        full = self._predictors(eta)
        with np.errstate(all="ignore"):
            d = self._derivatives(full, False)
            rows = d[()]
            total = float(np.sum(rows)) + self._extra
            if not np.isfinite(total):
                return PartTerms(eta, -np.inf)
            if eta.ndim == 1:
                a = self.random[0]
                score, observed = d[(a,)], -d[(a, a)]
            else:
                score = np.array([d[(a,)] for a in self.random])
                observed = np.zeros((len(self.random), *score.shape))
                for i, a in enumerate(self.random):
                    for j, b in enumerate(self.random):
                        observed[i, j] = -np.asarray(d.get((min(a, b), max(a, b)), 0.0))
        if not (np.isfinite(score).all() and np.isfinite(observed).all()):
            return PartTerms(eta, -np.inf)
        return PartTerms(eta, total, score, observed)

    def row_values(self, eta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Log-likelihood by row (nobs,) and score in every predictor (K, nobs) at random predictors `eta`."""
        found = self._derivatives(self._predictors(eta), True)
        rows = found[()] + np.zeros(self.y.shape)
        score = np.array([found.get((c,), 0.0) + np.zeros(self.y.shape) for c in range(self.n_parts)])
        bad = ~np.isfinite(rows)
        if bad.any():
            rows, score = np.where(bad, -np.inf, rows), np.where(bad, 0.0, score)
        return rows, score

    def log_density_rows(self, predictors: np.ndarray) -> np.ndarray:
        """Log density by row (nobs,), constants included, at all predictors (K, nobs); -inf outside its domain."""
        with np.errstate(all="ignore"):
            rows = self._derivatives(predictors, False)[()] + np.zeros(self.y.shape)
            extra = self._constant(predictors)
        if extra is not None:
            rows = rows + extra
        return np.where(np.isfinite(rows), rows, -np.inf)

    def _predictors(self, eta: np.ndarray) -> np.ndarray:
        full = self._base.copy()
        full[self.random[0] if eta.ndim == 1 else list(self.random)] = eta
        return full

    def expand(self, eta: np.ndarray) -> Expansion:
        """All derivatives at the predictors (K, nobs)."""
        with np.errstate(all="ignore"):
            found = self._derivatives(eta, True)
        return Expansion(eta, float(np.sum(found[()])), found)

    def _derivatives(self, eta: np.ndarray, full: bool) -> Derivatives:
        places = self._places()
        own = self.family.expand(self._safe, self._inner, [eta[c] for c in places], full)
        if self._mixes and not full:
            extra = self._own_constant(eta)
            if extra is not None:
                own[()] = own[()] + extra
        if not self.zero:
            out = own
        else:
            shift = {tuple(places[k] for k in key): value for key, value in own.items()}
            out = self._with_zeros(shift, eta[1], full)
        if self._outer is not None:
            out = {key: self._outer * value for key, value in out.items()}
        return out

    def _with_zeros(self, own: Derivatives, z: np.ndarray, full: bool) -> Derivatives:
        """The density of the rest, own keys in predictors' numbers, mixed with a zero of probability expit(z)."""
        at, n = self._zeros, z.size
        p, q = expit(z), expit(-z)
        pq = p * q
        out: Derivatives = {key: np.array(value + np.zeros(n)) for key, value in own.items()}
        inner = {key: value[at] for key, value in out.items()}
        out[()] = out[()] + log_expit(-z)
        out[(1,)], out[(1, 1)] = -p, -pq
        if full:
            out[(1, 1, 1)] = -pq * (q - p)
        if not at.size:
            return out
        if self.family.zero_part == "hurdle":
            for key in own:
                out[key][at] = 0.0
            out[()][at] = log_expit(z[at])
            out[(1,)][at] = q[at]
            return out
        g = inner[()]
        r, s = expit(z[at] - g), expit(g - z[at])
        k = r * s
        third = k * (s - r)
        mixed = compose((np.logaddexp(z[at], g) + log_expit(-z[at]), s, k, -third if full else None), inner)
        for key, value in mixed.items():
            if key not in out:
                out[key] = np.zeros(n)
            out[key][at] = value
        out[(1,)][at] = r - p[at]
        out[(1, 1)][at] = k - pq[at]
        singles = [key[0] for key in inner if len(key) == 1]
        for v in singles:
            cross = out.setdefault(tuple(sorted((1, v))), np.zeros(n))
            cross[at] = -k * inner[(v,)]
        if full:
            out[(1, 1, 1)][at] = third - (pq * (q - p))[at]
            for v in singles:
                squared = out.setdefault(tuple(sorted((1, 1, v))), np.zeros(n))
                squared[at] = -third * inner[(v,)]
                both = out.setdefault(tuple(sorted((0, 1, v))), np.zeros(n))
                both[at] = third * inner[(0,)] * inner[(v,)] - k * inner.get(tuple(sorted((0, v))), 0.0)
        return out
