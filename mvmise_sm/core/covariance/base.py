"""What every covariance structure answers, and what follows from its factor alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np

__all__ = ["SINGULAR", "BoundMove", "CovarianceStructure", "Parameter", "semidefinite_cholesky"]

# a standard deviation below this share of sigma counts as zero
SINGULAR = 1e-4
# step of central differences in parameters of order one: truncation and rounding are both about 1e-10
_STEP = 1e-5
# rows up to which plain numbers are faster than arrays
_SMALL = 4
# small step along which a covariance leaves its boundary, for the one-sided derivative
_OFF_BOUND = 1e-6


def semidefinite_cholesky(a: np.ndarray, tol: float = 1e-13) -> np.ndarray:
    """Lower Cholesky factor of a positive semidefinite matrix.

    Parameters
    ----------
    a : array_like
        Symmetric matrix (q, q); only the lower triangle is read.
    tol : float, optional
        A pivot at or below `tol` times its diagonal element counts as zero, and its column is set to zero.

    Returns
    -------
    ndarray
        Lower triangular factor (q, q) with a non-negative diagonal.
    """
    a = np.array(a, dtype=float)
    q = a.shape[0]
    if q <= _SMALL:
        return np.array(_small_cholesky(a.tolist(), tol))
    out = np.zeros_like(a)
    for j in range(q):
        row = out[j, :j]
        pivot = a[j, j] - row @ row
        if pivot <= tol * a[j, j] or a[j, j] <= 0.0:
            continue
        out[j, j] = np.sqrt(pivot)
        out[j + 1 :, j] = (a[j + 1 :, j] - out[j + 1 :, :j] @ row) / out[j, j]
    return out


def _small_cholesky(a: list[list[float]], tol: float) -> list[list[float]]:
    """`semidefinite_cholesky` of a few rows, for which numbers are faster than arrays."""
    q = len(a)
    out = [[0.0] * q for _ in range(q)]
    for j in range(q):
        pivot = a[j][j] - sum(out[j][k] * out[j][k] for k in range(j))
        if pivot <= tol * a[j][j] or a[j][j] <= 0.0:
            continue
        # not a number goes on as one, as it does in arrays
        out[j][j] = pivot**0.5
        for i in range(j + 1, q):
            out[i][j] = (a[i][j] - sum(out[i][k] * out[j][k] for k in range(j))) / out[j][j]
    return out


@dataclass(frozen=True, slots=True, eq=False)
class Parameter:
    """One parameter as results report it.

    Attributes
    ----------
    kind : {"sd", "cor", "positive", "share"}
        A standard deviation relative to sigma, a correlation in (-1, 1), a positive number, or a share in (0, 1).
    name : str
        ``"sd"``, ``"cor"``, or the structure's own word such as ``"rho"``, ``"rho[1]"`` or ``"range"``.
    levels : tuple of str
        Columns that it belongs to: one for a standard deviation, two for a correlation of a pair, none if all share it.
    value : float
        NaN for a correlation with a column of variance zero.
    gradient : ndarray
        Derivative in theta (k_theta,).
    least : float
        Smallest value of a correlation.
    """

    kind: Literal["sd", "cor", "positive", "share"]
    name: str
    levels: tuple[str, ...]
    value: float
    gradient: np.ndarray
    least: float = -1.0

    @property
    def label(self) -> str:
        """``sd``, ``sd[a]``, ``cor[a,b]``, ``rho`` ..."""
        return f"{self.name}[{','.join(self.levels)}]" if self.levels else self.name


@dataclass(frozen=True, slots=True, eq=False)
class BoundMove:
    """A way off the boundary.

    Attributes
    ----------
    slope : float
        One-sided derivative of the objective along it.
    at : callable
        t in (0, 1] -> theta (k_theta,), with Sigma moving at first order in t.
    """

    slope: float
    at: Callable[[float], np.ndarray]


class CovarianceStructure(ABC):
    """Family of covariance matrices Sigma = Lambda Lambda' of the columns of one random-effects term.

    A new structure needs `k_theta`, `lower`, `factor`, `theta_from` and `parameters`; everything else has a default
    that follows from them. It is made known by `mvmise_sm.core.covariance.registry.register`.

    Parameters
    ----------
    q : int
        Number of columns of the term.

    Attributes
    ----------
    q : int
        Number of columns.
    k_theta : int
        Number of parameters.
    lower : ndarray
        Lower bounds (k_theta,): 0 for elements that are scale-like, -inf otherwise.
    invariance : {"linear", "diagonal", "none"}
        Matrices A for which A Sigma A' stays inside the family: all invertible, positive diagonal ones, or only the
        identity.
    independent : bool
        Whether all covariances are zero.
    linear : bool
        Whether Lambda is linear in theta.
    placed : bool
        Whether the elements of theta are elements of Lambda.
    needs_coordinates : bool
        Whether the columns are positions, given by numeric coordinates left of the bar.
    described : str
        The structure in words, for summaries.
    """

    q: int
    invariance: ClassVar[Literal["linear", "diagonal", "none"]] = "none"
    independent: ClassVar[bool] = False
    linear: ClassVar[bool] = False
    placed: ClassVar[bool] = False
    needs_coordinates: ClassVar[bool] = False
    described: str = "structured"

    @classmethod
    def for_columns(cls, names: Sequence[str], coordinates: np.ndarray | None = None, **options: Any) -> Any:
        """The structure of columns with these names (q,), for `needs_coordinates` at these positions (q, d)."""
        return cls(len(names), **options)  # type: ignore[call-arg]

    # --- to be supplied

    @property
    @abstractmethod
    def k_theta(self) -> int:
        """Number of parameters."""

    @property
    @abstractmethod
    def lower(self) -> np.ndarray:
        """Lower bounds (k_theta,)."""

    @abstractmethod
    def factor(self, theta: np.ndarray) -> np.ndarray:
        """Return Lambda (q, q), any square root of Sigma that is smooth in theta up to the boundary."""

    @abstractmethod
    def theta_from(self, sigma: np.ndarray) -> np.ndarray:
        """Return theta (k_theta,) of the member of the family nearest to Sigma (q, q), exact for a member."""

    @abstractmethod
    def parameters(self, theta: np.ndarray, names: Sequence[str], a: np.ndarray | None = None) -> list[Parameter]:
        """What results report, standard deviations first.

        Parameters
        ----------
        theta : ndarray
            (k_theta,).
        names : sequence of str
            Column names (q,).
        a : ndarray, optional
            The covariance that is reported is ``a Sigma a'``; a matrix of the kind that `invariance` names.
        """

    # --- with defaults

    def tangents(self, theta: np.ndarray) -> np.ndarray:
        """Return dLambda / dtheta_t (k_theta, q, q)."""
        out = np.empty((self.k_theta, self.q, self.q))
        for i in range(self.k_theta):
            up, down = np.array(theta, dtype=float), np.array(theta, dtype=float)
            up[i] += _STEP
            down[i] -= _STEP
            out[i] = (self.factor(up) - self.factor(down)) / (2.0 * _STEP)
        return out

    def curvature(self, theta: np.ndarray, d_lambda: np.ndarray) -> np.ndarray:
        """Second derivatives (k_theta, k_theta) of <d_lambda, Lambda(theta)> for a fixed matrix `d_lambda` (q, q)."""
        k = self.k_theta
        out = np.zeros((k, k))
        if self.linear:
            return out
        for i in range(k):
            sides = []
            for step in (_STEP, -_STEP):
                moved = np.array(theta, dtype=float)
                moved[i] += step
                sides.append(np.tensordot(self.tangents(moved), d_lambda, axes=2))
            out[i] = (sides[0] - sides[1]) / (2.0 * _STEP)
        return 0.5 * (out + out.T)

    def pullback(self, theta: np.ndarray, d_lambda: np.ndarray) -> np.ndarray:
        """Return the gradient in theta (k_theta,) of a function with gradient `d_lambda` (q, q) in Lambda."""
        return np.tensordot(self.tangents(theta), d_lambda, axes=2)

    def sigma_tangents(self, theta: np.ndarray) -> np.ndarray:
        """Return dSigma / dtheta_t (k_theta, q, q)."""
        half = self.tangents(theta) @ self.factor(theta).T
        return half + half.transpose(0, 2, 1)

    def rescaled(self, theta: np.ndarray, a: np.ndarray) -> np.ndarray:
        """Return theta (k_theta,) of a Sigma a' for a matrix of the kind that `invariance` names."""
        lam = a @ self.factor(theta)
        return self.theta_from(lam @ lam.T)

    def start(self, variances: np.ndarray) -> np.ndarray:
        """A start (k_theta,) for columns of these relative variances (q,)."""
        return self.theta_from(np.diag(np.asarray(variances, dtype=float)))

    def other_starts(self, theta: np.ndarray) -> list[np.ndarray]:
        """Further starts (k_theta,), for structures whose likelihood has several optima."""
        return []

    def ordered_by(self, variances: np.ndarray) -> CovarianceStructure:
        """Return the same family in the parametrisation that suits columns of these variances (q,) best."""
        return self

    def on_boundary(self, theta: np.ndarray) -> bool:
        """Whether Sigma is singular, as far as the data can tell."""
        return bool((theta[self.lower == 0.0] < SINGULAR).any())

    def bound_directions(self, theta: np.ndarray) -> list[Callable[[float], np.ndarray]]:
        """Ways off the boundary: functions of t in (0, 1] that return theta, Sigma moving at first order in t.

        By default every scale-like element near zero is set to sqrt(t).
        """
        out: list[Callable[[float], np.ndarray]] = []
        for i in np.flatnonzero((self.lower == 0.0) & (theta < SINGULAR)):

            def at(t: float, i: int = int(i)) -> np.ndarray:
                moved = np.array(theta, dtype=float)
                moved[i] = np.sqrt(t)
                return moved

            out.append(at)
        return out

    def bound_moves(self, theta: np.ndarray, slope: np.ndarray) -> list[BoundMove]:
        """`bound_directions` with the derivative of an objective whose derivative in Sigma is `slope` (q, q)."""
        directions = self.bound_directions(theta)
        if not directions:
            return []
        lam = self.factor(theta)
        sigma = lam @ lam.T
        out = []
        for at in directions:
            moved = self.factor(at(_OFF_BOUND))
            out.append(BoundMove(float((slope * (moved @ moved.T - sigma)).sum()) / _OFF_BOUND, at))
        return out

    def kr_directions(self, theta: np.ndarray) -> np.ndarray:
        """Derivatives of Sigma in the parameters of Kenward and Roger's adjustment (r, q, q).

        By default those in theta; an element at its bound, or that Sigma does not feel, is left out.
        """
        free = ~((self.lower == 0.0) & (theta < SINGULAR))
        found = self.sigma_tangents(theta)[free]
        size = np.abs(found).max(axis=(1, 2), initial=0.0)
        return found[size > SINGULAR * SINGULAR * size.max(initial=0.0)]

    def without(self, column: int) -> CovarianceStructure | None:
        """The structure of the other columns, None where leaving one out has no meaning."""
        return None

    def theta_names(self, names: Sequence[str]) -> list[str]:
        """Names of theta's elements (k_theta,)."""
        return [f"theta{i + 1}" for i in range(self.k_theta)]


@dataclass(frozen=True)
class LinearStructure(CovarianceStructure):
    """A structure whose Lambda holds theta at fixed places (`rows`, `cols`)."""

    q: int
    linear: ClassVar[bool] = True
    placed: ClassVar[bool] = True

    @property
    def rows(self) -> np.ndarray:
        """Rows of Lambda that hold theta (k_theta,)."""
        raise NotImplementedError

    @property
    def cols(self) -> np.ndarray:
        """Columns of Lambda that hold theta (k_theta,)."""
        raise NotImplementedError

    def factor(self, theta: np.ndarray) -> np.ndarray:
        out = np.zeros((self.q, self.q))
        out[self.rows, self.cols] = theta
        return out

    def tangents(self, theta: np.ndarray) -> np.ndarray:
        return self._tangents

    @cached_property
    def _tangents(self) -> np.ndarray:
        out = np.zeros((self.k_theta, self.q, self.q))
        out[np.arange(self.k_theta), self.rows, self.cols] = 1.0
        return out

    def pullback(self, theta: np.ndarray, d_lambda: np.ndarray) -> np.ndarray:
        return d_lambda[self.rows, self.cols]

    @property
    def k_theta(self) -> int:
        return int(self.rows.size)

    def theta_names(self, names: Sequence[str]) -> list[str]:
        pairs = zip(self.rows, self.cols, strict=True)
        return [names[r] if r == c else f"{names[r]}.{names[c]}" for r, c in pairs]


def reported_sd(rows: np.ndarray, tangents: np.ndarray, i: int, levels: tuple[str, ...]) -> Parameter:
    """Standard deviation of column `i` for the factor `rows` (q, q) and its `tangents` (k, q, q)."""
    sd = float(np.sqrt(rows[i] @ rows[i]))
    gradient = tangents[:, i] @ rows[i] / sd if sd > 0.0 else np.zeros(len(tangents))
    return Parameter("sd", "sd", levels, sd, gradient)


def reported_correlation(
    rows: np.ndarray, tangents: np.ndarray, i: int, j: int, levels: tuple[str, ...], name: str = "cor"
) -> Parameter:
    """Correlation of columns `i` and `j`, NaN where one of them has no variance."""
    vi, vj = float(rows[i] @ rows[i]), float(rows[j] @ rows[j])
    if vi <= 0.0 or vj <= 0.0:
        return Parameter("cor", name, levels, float("nan"), np.zeros(len(tangents)))
    scale = np.sqrt(vi * vj)
    value = float(rows[i] @ rows[j] / scale)
    cross = tangents[:, i] @ rows[j] + tangents[:, j] @ rows[i]
    own = tangents[:, i] @ rows[i] / vi + tangents[:, j] @ rows[j] / vj
    return Parameter("cor", name, levels, value, cross / scale - value * own)
