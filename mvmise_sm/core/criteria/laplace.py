"""-2 log L of a generalised linear mixed model by the Laplace approximation, with its exact gradient.

d(theta, beta) = -2 log f(y | eta) + u'u + log|Lambda'Z'WZ Lambda + I| at the conditional mode u, W the observed weights
-d2 log f / d eta2, or their expectation as in lme4.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from mvmise_sm.core.criteria.laplace_objective import LaplaceObjective
from mvmise_sm.core.criteria.pirls import conditional_mode
from mvmise_sm.core.criteria.solution import GeneralizedSolution
from mvmise_sm.core.families.response import make_response

__all__ = ["LaplaceDeviance"]

# decrement of a mode whose error, the root of it, is nothing beside a step of the differences of its gradient
_SHARP = 1e-22
# a joint density higher by this share is that of another mode
_HIGHER_MODE = 1e-7


class LaplaceDeviance(LaplaceObjective):
    """The Laplace approximation as a function of theta, beta and, where the family has one, the shape.

    The parameters are one vector: theta, then beta, then the shape (log dispersion, or log alpha of the negative
    binomial). Theta is absolute: the covariance of the random effects is Sigma itself, also in families with a
    dispersion.

    Parameters
    ----------
    response : FamilyResponse
        Rows of the likelihood.
    X : ndarray
        Fixed-effects design of full column rank (n, p).
    random : RandomEffects
    priors : object, optional
        Bound priors, see `Penalty`.
    offset : ndarray, optional
        (n,).

    Raises
    ------
    ProblemTooLargeError
        If the random effects fit no elimination.
    """

    @property
    def dense_size(self) -> int:
        """Random effects that remain in a dense block once the chain is eliminated."""
        return sum(self.layout.factors[k].size for k in self.layout.remainder)

    @property
    def fixed_map(self) -> np.ndarray:
        """The matrix A with beta = A times the working beta (p, p)."""
        return self.basis.a

    def lambdas(self, x: Any) -> Any:
        """Working factors Lambda (q, q) of the terms."""
        return self.space.factors(x[: self.k_theta])[1]

    def start_at(self, theta: np.ndarray) -> np.ndarray:
        """The start for the user's theta (k_theta,)."""
        return self.start(self.space.working(np.asarray(theta, dtype=float)))

    def sharpen(self, x: np.ndarray) -> None:
        """Take one more step to the mode at a working vector: differences of gradients magnify its error."""
        if self.mode(x).left > _SHARP:
            self.at(x, again=True)

    def at_limit(self, x: Any) -> Any:
        """The criterion with the dispersion at its limit, and the working vector there: the family without it."""
        out = copy.copy(self)
        family = self.response.family
        out.response = make_response(
            type(family)(family.link, alpha=0.0), self.response.y, self.response.w, curvature=self.response.curvature
        )
        out.k_shape = 0
        out._use_space(self.space)
        out._last = None
        return out, x[:-1]

    def better_mode(self, x: np.ndarray) -> bool:
        """Whether a search from no random effects finds a higher conditional mode, which is used from then on.

        Modes need not be unique where the log density is not concave, and a warm start keeps to the one that it knows.
        """
        if self.profiles_beta or self.response.concave:
            return False
        mode, merged = self.at(x)[:2]
        joint = mode.terms.loglik - 0.5 * mode.square
        try:
            other = conditional_mode(self, merged, mode.beta, None)
        except np.linalg.LinAlgError:
            return False
        if not other.terms.loglik - 0.5 * other.square > joint + _HIGHER_MODE * max(1.0, abs(joint)):
            return False
        self._eta, self._last = other.terms.eta, None
        return True

    def third_rows(self, mode: Any, step: np.ndarray) -> np.ndarray:
        """Third derivatives of the rows (1, 1, 1, nobs) in the linear predictor moved by `step` (1,) from the mode.

        Raises
        ------
        ValueError
            With expected weights, whose approximation has another error.
        """
        response = self.response
        if response.curvature == "expected" and not response.canonical:
            raise ValueError("laplace_error() belongs to curvature='observed'")
        return -response.slope(response.rows(mode.terms.eta + step))[None, None, None]

    @property
    def merged_lambdas(self) -> list:
        """Factors Lambda of the grouping factors where the criterion was evaluated last."""
        return self._last[2]

    def evaluate_at(self, theta: Any, beta: Any, shape: Any = None) -> Any:
        """Criterion and penalty at given user's parameters; densities that a fit bounds (horseshoe) are not bounded
        here.
        """
        shapes = [] if shape is None else [shape]
        x = self.working_theta(np.concatenate([theta, [] if self.profiles_beta else beta, shapes]))
        mode, _, _, sigmas, value = self.at(x)
        others = self._of_dispersion(x) + (0.0 if sigmas is None else self.penalty.covariances(sigmas))
        return value - self.penalty.fixed(mode.beta) - others, self.penalty.fixed(mode.beta, bounded=False) + others

    def user_effects(self, blocks: list[np.ndarray]) -> tuple[np.ndarray, ...]:
        """Random effects (q, J) per factor in the user's coordinates, one (n_levels, q) per term."""
        b = [np.zeros(0)] * len(self.layout.term_bases)
        for f, effects in zip(self.layout.factors, blocks, strict=True):
            for t, place in zip(f.terms, f.places, strict=True):
                own = (self.layout.term_bases[t].a @ effects[place]).T
                b[t] = self.random.factors[f.index].labelled(own)
        return tuple(b)

    def solve(self, x: np.ndarray) -> GeneralizedSolution:
        """Everything at a working vector.

        Returns
        -------
        GeneralizedSolution
        """
        mode, _, _, sigmas, value = self.at(x)
        penalty = self.penalty.fixed(mode.beta) + (0.0 if sigmas is None else self.penalty.covariances(sigmas))
        penalty += self._of_dispersion(x)
        sigma2 = self.response.scale
        information = self.fixed_system(mode).information
        if self.profiles_beta:
            # elsewhere the Hessian has the prior's part, and blme's penalised least squares step has not
            information = information + 0.5 * self.penalty.fixed_derivatives(mode.beta)[2]
        a = self.basis.a
        cov = a @ np.linalg.pinv(information, hermitian=True) @ a.T
        return GeneralizedSolution(
            theta=self.space.user(x[: self.k_theta]) / np.sqrt(sigma2),
            beta=a @ mode.beta,
            b=self.user_effects(mode.b),
            sigma2=sigma2,
            alpha=getattr(self.response.distribution, "alpha", None),
            cov_beta=cov / sigma2,
            eta=mode.terms.eta,
            square=mode.square,
            logdet_m=mode.weighted.logdet,
            criterion=value - penalty,
            penalty=penalty,
        )
