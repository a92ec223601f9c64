"""The seams of the numerics: what an optimiser, inference and the other rooms may ask of each part.

A `CovarianceStructure` and a `Family` are base classes with defaults, a `Criterion` and an elimination are protocols: a
class that answers every member is one. Nothing outside a class's own package asks for more than stands here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from mvmise_sm.core.covariance.base import BoundMove, CovarianceStructure, Parameter

if TYPE_CHECKING:
    from mvmise_sm.core.covariance.coordinates import FixedBasis
    from mvmise_sm.core.covariance.random_effects import RandomEffects
    from mvmise_sm.core.covariance.theta import ThetaSpace
    from mvmise_sm.core.criteria.solution import Evaluation
    from mvmise_sm.core.elimination.krylov import Probes
    from mvmise_sm.core.elimination.layout import Layout

__all__ = [
    "BoundMove",
    "Constraint",
    "CovarianceStructure",
    "Criterion",
    "Elimination",
    "Evaluate",
    "Factorization",
    "Parameter",
    "System",
    "WeightedElimination",
]

# x (k,) -> value, gradient (k,), positive semidefinite approximation of the Hessian (k, k)
Evaluate = Callable[[np.ndarray], tuple[float, np.ndarray, np.ndarray]]
# x (k,) -> value, gradient (k,), Hessian (k, k) of a function that is held at a value
Constraint = Callable[[np.ndarray], tuple[float, np.ndarray, np.ndarray]]


class Criterion(Protocol):
    """An objective -2 log L + penalty (or the REML criterion + penalty) that `minimize` minimises.

    Its argument is a vector x of working parameters: theta, followed in generalised models by the fixed effects and the
    shape parameters. The user's parameters are the same in the coordinates of the data.

    Attributes
    ----------
    nobs, k_fe, k_theta : int
        Rows, fixed effects and covariance parameters.
    lower : ndarray
        Lower bounds of x (k,), -inf where there is none.
    guarded : ndarray
        Elements of x that a prior keeps off their lower bound (k,), boolean.
    sharp_theta : bool
        Whether a fit goes on until theta is sharp, not only the objective: with priors criterion and penalty, which
        results report one by one, change in proportion to theta.
    learns_curvature : bool
        Whether the information is so far from the Hessian that steps near the minimum should correct it.
    random : RandomEffects
    layout : Layout
        Grouping factors in elimination order.
    space : ThetaSpace
        Conversion of theta between the user's and the working coordinates.
    basis : FixedBasis
        Working coordinates of the fixed effects.
    """

    random: RandomEffects
    layout: Layout
    basis: FixedBasis
    space: ThetaSpace
    nobs: int
    k_fe: int
    k_theta: int

    @property
    def lower(self) -> np.ndarray: ...

    @property
    def guarded(self) -> np.ndarray: ...

    @property
    def sharp_theta(self) -> bool: ...

    @property
    def learns_curvature(self) -> bool: ...

    def __call__(self, theta: np.ndarray) -> float:
        """Objective at the user's parameters (k,)."""

    def gradient(self, theta: np.ndarray) -> np.ndarray:
        """Gradient (k,) in the user's parameters."""

    def value(self, theta: np.ndarray) -> float:
        """Objective at x; the intermediate results of the last x are kept for `evaluate`.

        Raises
        ------
        numpy.linalg.LinAlgError
            Where the objective has no value; the optimiser counts it as infinite.
        """

    def evaluate(self, theta: np.ndarray) -> Evaluation:
        """Value, gradient (k,), positive semidefinite information (k, k) and slopes in the covariances at x."""

    def hessian(self, evaluation: Evaluation) -> np.ndarray | None:
        """Second derivatives (k, k) at an evaluated x where they are cheap, or None."""

    def working_gradient(self, theta: np.ndarray) -> np.ndarray:
        """The gradient (k,) of `evaluate` alone."""

    def start(self) -> np.ndarray:
        """A start x (k,)."""

    def other_starts(self, theta: np.ndarray) -> list[np.ndarray]:
        """Further starts x (k,), for structures whose likelihood has several optima; `theta` is the first start."""

    def descent_points(self, evaluation: Evaluation, only_check: bool = False) -> list[np.ndarray]:
        """Points x (k,) off the boundary at which the objective may be lower, the steepest direction first.

        With `only_check` only those that clearly refute that the point of the evaluation is a minimum.
        """

    def restart_points(self, evaluation: Evaluation) -> list[np.ndarray]:
        """Other starts x (k,) for a fit that ended on the boundary."""

    def search_directions(self, evaluation: Evaluation) -> list[np.ndarray]:
        """Rays x (k,) along which another mode may lie; empty where there is one mode only."""

    def reordered(self, theta: np.ndarray) -> Any:
        """The same criterion in the parametrisation that suits x best, or None where that is this one."""

    def converted_from(self, other: Any, theta: np.ndarray) -> np.ndarray:
        """x (k,) of this criterion for an x of `other`, the same criterion reordered."""

    def working_theta(self, theta: np.ndarray) -> np.ndarray:
        """x (k,) for the user's parameters (k,)."""

    def user_theta(self, theta: np.ndarray) -> np.ndarray:
        """The user's parameters (k,) for x."""

    def is_singular(self, theta: np.ndarray) -> bool:
        """Whether a covariance is on its boundary at x."""

    def solve(self, theta: np.ndarray) -> Any:
        """Everything that results report at one point: `PLSSolution` or `GeneralizedSolution`."""

    def refitted(self, y: np.ndarray) -> Any:
        """The same model for another response (nobs,)."""


class System(Protocol):
    """The cross-products of a linear mixed model, with all that does not depend on theta.

    Attributes
    ----------
    layout : Layout
    gram : ndarray
        [X y]'[X y] (m, m).
    probes : Probes or None
        Along which log|M| is estimated; None where it is exact.
    factors_densely : bool
        Whether every evaluation factors a large dense block.
    """

    layout: Layout
    gram: np.ndarray
    probes: Probes | None

    @property
    def factors_densely(self) -> bool: ...

    def factorize(self, lambdas: list[np.ndarray]) -> Factorization:
        """Eliminate the random effects at relative factors, one (q, q) per grouping factor in elimination order."""

    def with_probes(self, probes: Probes) -> Any:
        """The same system with log|M| estimated along these probes; itself where nothing needs an estimate."""

    def level_products(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Diagonals of Z_k'Z_k (q, J) and Z_k'[X y] (q, J, m) of every factor."""

    def with_response(
        self, basis: FixedBasis, X: np.ndarray, y: np.ndarray, origin: np.ndarray, weights: np.ndarray | None
    ) -> Any:
        """The same design with another response (nobs,)."""


class Elimination(Protocol):
    """The random effects eliminated at one theta: (Sigma^-1 + C)^-1 with C = Z'Z or Z'WZ, and what follows from it.

    Blocks are arrays (q, J, c) for q columns, J levels and c right-hand sides, one per grouping factor in elimination
    order. Nothing divides by Lambda, so that a singular Sigma is an ordinary value.

    Attributes
    ----------
    logdet : float
        log|Lambda'C Lambda + I|.
    """

    @property
    def logdet(self) -> float: ...

    def solve(self, rhs: np.ndarray) -> np.ndarray:
        """(Sigma^-1 + C)^-1 rhs for `rhs` (n, c), random effects by factor, column, level."""

    def solve_blocks(self, rhs: list[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """(Sigma^-1 + C)^-1 R and R - C (Sigma^-1 + C)^-1 R for blocks R."""

    def multiply(self, h: list[np.ndarray]) -> list[np.ndarray]:
        """C h for blocks h."""

    def traces(self) -> list[np.ndarray]:
        """Sums over levels of the diagonal blocks of C - C (Sigma^-1 + C)^-1 C, (q, q) per factor."""

    def posterior_cov(self) -> list[np.ndarray]:
        """Diagonal blocks of (Sigma^-1 + C)^-1 by level, (q, q, J) per factor."""


class Factorization(Elimination, Protocol):
    """A linear mixed model eliminated at one theta; C = Z'Z, V = Z Sigma Z' + I.

    Attributes
    ----------
    gram : ndarray
        K = [X y]'V^-1[X y] (m, m).
    """

    gram: np.ndarray

    def derivatives(self, weights: np.ndarray) -> list[np.ndarray]:
        """D (q, q) of log|M| + f(K) in every factor's Sigma, given `weights` = df / dK (m, m)."""

    def scores(self, xi: np.ndarray) -> list[np.ndarray]:
        """Z_k'V^-1[X y] xi (q, J) of every factor for `xi` (m,)."""

    def information(
        self, directions: list[tuple[int, np.ndarray]], xi: np.ndarray, cov_beta: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """A (k, k) and b (k,) of the average information.

        Parameters
        ----------
        directions : list of (int, ndarray)
            Factor and dSigma / dtheta (q, q) of each of k parameters.
        xi : ndarray
            (-beta, 1) (m,).
        cov_beta : ndarray
            (X'V^-1X)^-1 (p, p).
        """

    def expected(self, directions: list[tuple[int, np.ndarray]], cov_beta: np.ndarray | None) -> np.ndarray | None:
        """tr P V_i P V_j (k, k), P = V^-1 without `cov_beta`; None where it costs more than the steps it saves."""

    def pair_sums(self, g: list[np.ndarray]) -> PairSums:
        """Sums over pairs of levels of T = Z'V^-1Z and G = Z'V^-1X, `g` (q, J, p) per factor."""


class EstimatedFactorization(Factorization, Protocol):
    """A `Factorization` whose log|M| is estimated along probes.

    Attributes
    ----------
    rest : KrylovRemainder
        What the estimate is of.
    estimated : tuple
        Per factor the derivative of log|M| (q, q), and its value along every probe (probes, q, q).
    """

    rest: Any

    @property
    def estimated(self) -> tuple[list[np.ndarray], list[np.ndarray]]: ...


# traces: sum_j T_jj (q, q) of every factor; pairs: (k, l) -> sum over u, v of T[a, u, c, v] T[b, u, d, v] as
# [a, b, c, d]; mixed: (k, l) -> sum of G_k[a, u]' T[b, u, c, v] G_l[d, v] as [a, b, c, d, m, n]
PairSums = tuple[list[np.ndarray], dict[tuple[int, int], np.ndarray], dict[tuple[int, int], np.ndarray]]


class WeightedElimination(Elimination, Protocol):
    """A generalised model eliminated at one theta and one set of weights; C = Z'WZ."""

    def leverage(self) -> np.ndarray:
        """z_i'(Sigma^-1 + C)^-1 z_i of every row (nobs,)."""
