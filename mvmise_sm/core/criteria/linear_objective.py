"""What is minimised for a linear mixed model: value, gradient and average information at one theta, and starts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from mvmise_sm.core.covariance.coordinates import ResponseOrigin, fixed_basis
from mvmise_sm.core.covariance.theta import ThetaSpace
from mvmise_sm.core.criteria.inner_problem import FlatInnerProblem
from mvmise_sm.core.criteria.linear_rows import LinearRows
from mvmise_sm.core.criteria.one_factor import EliminatedPoint, OneFactor
from mvmise_sm.core.criteria.prior_curvature import PriorCurvature
from mvmise_sm.core.criteria.solution import Evaluation
from mvmise_sm.core.criteria.start import contained_terms, moment_variances
from mvmise_sm.core.criteria.theta_parameters import ThetaParameters
from mvmise_sm.core.elimination.choose import EXACT, LogDeterminant, system_of_products
from mvmise_sm.core.elimination.layout import Layout

if TYPE_CHECKING:
    from typing import Self

    from mvmise_sm.core.covariance.random_effects import RandomEffects
    from mvmise_sm.core.criteria.inner_problem import InnerProblem, InnerSolution
    from mvmise_sm.core.criteria.sums import LinearSums
    from mvmise_sm.core.elimination.krylov import Probes
    from mvmise_sm.core.interfaces import EstimatedFactorization, Factorization

__all__ = ["LinearObjective"]

# what is kept of one response
_AT_A_RESPONSE = ("_last", "_moments", "_averaged")
# deflated directions where log|M| is estimated
_DEFLATED = 16


class LinearObjective(ThetaParameters):
    """The profiled deviance as an optimiser sees it: its value and derivatives, and where to start.

    Parameters as in `ProfiledDeviance`.
    """

    def __init__(
        self,
        y: np.ndarray,
        X: np.ndarray,
        random: RandomEffects,
        *,
        priors: Callable[..., Any] | None = None,
        reml: bool = True,
        weights: np.ndarray | None = None,
        offset: np.ndarray | None = None,
        logdet: LogDeterminant = EXACT,
    ) -> None:
        self.random = random
        self.reml = reml
        self.nobs, self.k_fe = X.shape
        self.k_theta = random.k_theta
        self._priors = priors
        self.layout = Layout(random)
        self.basis = fixed_basis(X)
        self._rows: LinearRows | None = LinearRows(X, weights, offset, self.basis, ResponseOrigin(X, self.basis))
        self.origin, self.system = self._rows.system(self.layout, y, logdet)
        self.constant = self._rows.constant
        self._set_space()

    @classmethod
    def of_sums(
        cls,
        sums: LinearSums,
        *,
        priors: Callable[..., Any] | None = None,
        reml: bool = True,
        logdet: LogDeterminant = EXACT,
    ) -> Self:
        """The deviance of data whose rows are gone.

        Parameters
        ----------
        sums : LinearSums
            All that the likelihood needs of them.
        priors, reml, logdet : optional
            As in the class.
        """
        out = object.__new__(cls)
        out.random, out.reml, out.nobs = sums.random, reml, sums.nobs
        out.k_fe, out.k_theta = sums.basis.a.shape[0], sums.random.k_theta
        out._rows, out._priors = None, priors
        out.layout, out.basis, out.origin = sums.layout, sums.basis, sums.origin
        out.system = system_of_products(sums.layout, sums.products, logdet)
        out.constant = -sums.log_weights
        out._contained = sums.contained if priors is None else ()
        out._set_space()
        return out

    def _set_space(self) -> None:
        space = ThetaSpace(self.random, self.layout)
        if any(t.q > 1 for t in self.random.terms):
            structures = zip(space.structures, self._moments, strict=True)
            space = ThetaSpace(self.random, self.layout, (), tuple(s.ordered_by(v) for s, v in structures))
        self.space = space
        self._set_inner()

    def _set_inner(self) -> None:
        basis = self.basis
        self._inner: InnerProblem
        self._one_factor: OneFactor | None = None
        if self._priors is None:
            self._inner = FlatInnerProblem(self.nobs, self.k_fe, self.reml, basis.logdet)
            self._one_factor = OneFactor.of(self.system, self.space, self._inner, self.constant)
        else:
            self._inner = self._priors(self.nobs, self.k_fe, self.reml, basis.a, self.origin)
            marks = self._inner.repels, self.space.structures, self._inner.attracts
            self.space = ThetaSpace(self.random, self.layout, *marks)

    def _copy(self, **changes: Any) -> Self:
        out = object.__new__(type(self))
        out.__dict__.update({k: v for k, v in self.__dict__.items() if k not in _AT_A_RESPONSE}, **changes)
        out._set_inner()
        return out

    # where log|M| is estimated

    @property
    def probes(self) -> Probes | None:
        """The probes that estimate log|M|; None where it is exact."""
        return self.system.probes

    @property
    def one_mode(self) -> bool:
        """Whether a start next to an optimum needs no other one beside it."""
        return self._priors is None and not self.space.other_starts(self.start())

    @property
    def factors_densely(self) -> bool:
        """Whether what remains of the random effects is one dense block."""
        return self.system.factors_densely

    def with_probes(self, probes: Probes) -> Self:
        """The same criterion with log|M| estimated along other probes."""
        return self._copy(system=self.system.with_probes(probes))

    def deflated(self, theta: np.ndarray, probes: Probes) -> Probes:
        """These probes off the directions that are best deflated at a working theta."""
        found = self.with_probes(probes).system.factorize(self.space.factors(theta)[0])
        rest = cast("EstimatedFactorization", found).rest
        return replace(probes, basis=rest.deflated_basis(_DEFLATED, probes.seed))

    def certified(self, theta: np.ndarray, probes: Probes) -> Self:
        """The criterion with these probes, deflated at a working theta, and the control variate that makes its value
        sharp.
        """
        return self.with_probes(replace(self.deflated(theta, probes), second=True))

    def inner_solution(self, theta: np.ndarray) -> InnerSolution:
        """(beta, sigma2) and their covariance at a working theta; log|M| is not formed."""
        merged, terms = self.space.factors(theta)
        sigmas = self.space.user_sigmas(terms) if self._inner.uses_sigmas else None
        return self._inner.solve(self.system.factorize(merged).gram, sigmas)

    @property
    def batches_refits(self) -> bool:
        """Whether refits to many responses can be stacked, see `core.criteria.batched`."""
        placed = all(s.placed for s in self.space.structures)
        return len(self.layout.factors) == 1 and self._priors is None and placed

    def with_reml(self, reml: bool) -> Self:
        """The other criterion on the same cross-products."""
        return self if reml == self.reml else self._copy(reml=reml)

    def refitted(self, y: np.ndarray) -> Self:
        """The same model for another response (n,); only the cross-products with y are formed anew."""
        if self._rows is None:
            raise ValueError("the rows of these data are gone: another response needs their design")
        origin, system = self._rows.another(self.system, y)
        return self._copy(origin=origin, system=system)

    def reordered(self, theta: np.ndarray) -> Self | None:
        """The same criterion in the parametrisation that suits the working `theta`, or None where that is this one."""
        space = self.space.reordered(theta)
        return None if space is None else self._copy(space=space)

    @property
    def sharp_theta(self) -> bool:
        """Whether a fit goes on until theta is sharp: with priors, whose part results report on its own."""
        return self._priors is not None

    def search_directions(self, evaluation: Evaluation) -> list[np.ndarray]:
        """Directions (k_theta,) along which another mode may lie; empty unless priors may bring one."""
        if not self._inner.several_modes:
            return []
        return [evaluation.theta, self.space.wide_start()]

    def restart_points(self, evaluation: Evaluation) -> list[np.ndarray]:
        """Other starts for a fit that ended on the boundary."""
        return [self._without_contained(self.space.wide_start())]

    def solution_at(
        self, theta: np.ndarray
    ) -> tuple[Factorization | EliminatedPoint, InnerSolution, list[np.ndarray], float]:
        """`eliminated`, or as much of it as scores take, at a working theta."""
        if self._one_factor is None:
            return self.eliminated(theta)
        point = self._one_factor.eliminated(theta)
        return point, point.solution, self.space.factors(theta)[1], point.value

    def eliminated(self, theta: np.ndarray) -> tuple[Factorization, InnerSolution, list[np.ndarray], float]:
        """Factorisation and inner at a working theta; the last one is kept."""
        last = self.__dict__.get("_last")
        point = theta.tobytes()
        if last is not None and last[0] == point:
            return last[1:]
        # let go first: a dense block is most of what a fit holds
        last = self._last = None
        merged, terms = self.space.factors(theta)
        factorization = self.system.factorize(merged)
        sigmas = None
        if self._inner.uses_sigmas:
            sigmas = self.space.user_sigmas(terms)
        solution = self._inner.solve(factorization.gram, sigmas)
        value = factorization.logdet + solution.value + self.constant
        self._last = (point, factorization, solution, terms, value)
        return self._last[1:]

    def value(self, theta: np.ndarray) -> float:
        """Objective at a working theta."""
        return self.eliminated(theta)[3] if self._one_factor is None else self._one_factor.value(theta)

    def evaluate(self, theta: np.ndarray) -> Evaluation:
        """Value, gradient, information and slopes at a working theta."""
        if self._one_factor is not None:
            return self._one_factor.evaluate(theta)
        factorization, solution, terms, value = self.eliminated(theta)
        by_factor = factorization.derivatives(solution.gram_weights)
        slopes = self.space.by_term(by_factor)
        data_slopes = list(slopes)
        if solution.sigma_gradients is not None:
            for t, (basis, extra) in enumerate(zip(self.layout.term_bases, solution.sigma_gradients, strict=True)):
                if extra is not None:
                    slopes[t] = slopes[t] + basis.a.T @ extra @ basis.a
        hessians = solution.sigma_hessians or (None,) * len(terms)
        gradient, directions, tangents, curvature = self.space.chain_rule(
            theta, terms, slopes, [h is not None for h in hessians]
        )
        xi = np.append(-solution.beta, 1.0)
        projection = solution.cov_beta if solution.projection is None else solution.projection
        a, b = factorization.information(directions, xi, projection)
        s2 = solution.sigma2
        b /= s2
        self._averaged = theta.tobytes(), directions, a, b
        average = a / s2 - solution.curvature_c * np.multiply.outer(b, b)
        if solution.sigma_hessians is None:
            return Evaluation(np.array(theta), value, gradient, average + curvature, tuple(slopes))
        information = self._prior_curvature.information(average, curvature, b, (tangents, terms, data_slopes), solution)
        return Evaluation(np.array(theta), value, gradient, information, tuple(slopes))

    def hessian(self, evaluation: Evaluation) -> np.ndarray | None:
        """Second derivatives at an evaluated theta (k_theta, k_theta) where they are cheap: small models, no priors."""
        if self._one_factor is not None:
            return self._one_factor.hessian(evaluation.theta)
        if self._priors is not None:
            return None
        if self.__dict__.get("_averaged", (b"",))[0] != evaluation.theta.tobytes():
            self.evaluate(evaluation.theta)
        factorization, solution, terms, _ = self.eliminated(evaluation.theta)
        _, directions, a, b = self._averaged
        expected = factorization.expected(directions, solution.cov_beta if self.reml else None)
        if expected is None:
            return None
        curvature = self.space.curvature(evaluation.theta, terms, evaluation.slopes)
        return 2.0 / solution.sigma2 * a - solution.curvature_c * np.multiply.outer(b, b) - expected + curvature

    @cached_property
    def _prior_curvature(self) -> PriorCurvature:
        return PriorCurvature(self.layout, self.system, self.random.theta_slices)

    @cached_property
    def _moments(self) -> list[np.ndarray]:
        """Moment estimates of the relative variances of every term's columns, working coordinates (q,) each."""
        return moment_variances(self.layout, self.system, self.nobs, self.k_fe)

    def start(self) -> np.ndarray:
        """A moment estimate of the working theta (k_theta,), at the boundary only for terms that another one contains.

        Between such terms variance can move without change of the likelihood, and the way along that ridge is long.
        """
        theta = np.empty(self.k_theta)
        for structure, at, variances in zip(
            self.space.structures, self.random.theta_slices, self._moments, strict=True
        ):
            theta[at] = structure.start(variances)
        return self._without_contained(theta)

    @cached_property
    def _contained(self) -> tuple[int, ...]:
        return contained_terms(self.random) if self._priors is None else ()

    def _without_contained(self, theta: np.ndarray) -> np.ndarray:
        for t in self._contained:
            theta[self.random.theta_slices[t]] = 0.0
        return theta
