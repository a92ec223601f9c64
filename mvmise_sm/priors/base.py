"""What a prior is: a specification that model dimensions turn into a penalty on the deviance scale."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import numpy as np

from mvmise_sm.blame import refuse_unreal
from mvmise_sm.exceptions import OptionError

__all__ = ["CovariancePrior", "Dimensions", "Prior", "ScalePart"]

ROLES = {"cov": "covariance", "fixef": "fixed-effect", "resid": "residual", "dispersion": "dispersion"}


@dataclass(frozen=True)
class Dimensions:
    """Sizes that a hyperparameter may depend on.

    Attributes
    ----------
    n_obs, n_fixef : int
        Number of observations and of fixed effects.
    level_dim, n_groups : int or None
        Columns of the random-effects term and levels of its grouping factor; None outside covariance priors.
    has_scale : bool
        False where the model has no residual scale (generalised models).
    fixef_names : tuple of str
        Names of the fixed effects (n_fixef,).
    """

    n_obs: int
    n_fixef: int
    level_dim: int | None = None
    n_groups: int | None = None
    has_scale: bool = True
    fixef_names: tuple[str, ...] = ()


DIMENSION_NAMES = {
    "level_dim": "level_dim",
    "q_k": "level_dim",
    "n_groups": "n_groups",
    "n_grps": "n_groups",
    "j_k": "n_groups",
    "n_obs": "n_obs",
    "n": "n_obs",
    "n_fixef": "n_fixef",
    "p": "n_fixef",
}


@dataclass
class Hyperparameters:
    """Values of one prior's arguments at given dimensions, worked out on demand.

    Functions receive this object: they may read the dimensions and the prior's other arguments as attributes.
    """

    owner: str
    given: Mapping[str, Any]
    defaults: Mapping[str, Any]
    dims: Dimensions
    _open: list = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if name in DIMENSION_NAMES:
            value = getattr(self.dims, DIMENSION_NAMES[name])
            if value is None:
                raise OptionError(f"{self.owner}: '{name}' is only known to covariance priors.")
            return value
        if name not in self.defaults:
            known = ", ".join([*DIMENSION_NAMES, *self.defaults])
            raise OptionError(f"{self.owner}: '{name}' is not a dimension or an argument; known names are {known}.")
        if name in self._open:
            raise OptionError(f"{self.owner}: '{name}' is defined in terms of itself.")
        self._open.append(name)
        try:
            value = self.given.get(name)
            if value is None:
                value = self.defaults[name]
            return self._called(name, value) if callable(value) else value
        finally:
            self._open.pop()

    def _called(self, name: str, function: Callable[..., Any]) -> Any:
        try:
            value = function(self)
            refuse_unreal(f"{self.owner}: {name}", value)
            return value
        except OptionError:
            raise
        except Exception as error:  # whatever a user's function raises
            text = f"{type(error).__name__}: {error}"
            raise OptionError(f"{self.owner}: the function for {name} failed with {text}") from error

    def given_by_user(self, name: str) -> bool:
        return self.given.get(name) is not None

    def number(self, name: str, *, minimum: float | None = None, strict: bool = False, infinite: bool = False) -> float:
        """Argument `name` as a float, at least (or, if `strict`, above) `minimum`."""
        value = getattr(self, name)
        try:
            array = np.asarray(value, dtype=float)
        except (TypeError, ValueError):
            raise OptionError(f"{self.owner}: {name} must be a number, got {value!r}.") from None
        if array.size != 1:
            raise OptionError(f"{self.owner}: {name} must be a single number, got {array.size} values.")
        number = float(array.reshape(()) if array.ndim == 0 else array.ravel()[0])
        if math.isnan(number) or (math.isinf(number) and not infinite):
            raise OptionError(f"{self.owner}: {name} must be finite, got {number}.")
        if minimum is not None and (number < minimum or (strict and number == minimum)):
            raise OptionError(
                f"{self.owner}: {name} must be {'above' if strict else 'at least'} {minimum:g}, got {number:g}."
            )
        return number

    def choice(self, name: str, allowed: tuple[str, str]) -> str:
        """Argument `name`, one of the words `allowed`."""
        value = getattr(self, name)
        if value not in allowed:
            words = " or ".join(repr(w) for w in allowed)
            raise OptionError(f"{self.owner}: {name} must be {words}, got {value!r}.")
        return value

    def common_scale(self, role: str) -> bool:
        """The common_scale argument, refused where it has no meaning."""
        if self.given_by_user("common_scale") and (role == "resid" or not self.dims.has_scale):
            reason = "a residual prior" if role == "resid" else "a model without a residual scale"
            raise OptionError(f"{self.owner}: common_scale does not apply to {reason}.")
        value = self.defaults["common_scale"] if not self.dims.has_scale else self.__getattr__("common_scale")
        if not isinstance(value, (bool, np.bool_)):
            raise OptionError(f"{self.owner}: common_scale must be True or False, got {value!r}.")
        return bool(value)


class RoleError(OptionError):
    """A prior in a role that it cannot play."""


class Prior:
    """Specification of a prior; `covariance`, `fixef` and `residual` bind it to a model's dimensions.

    A subclass implements the roles that it can play. The bound object of a covariance or residual prior is a
    `CovariancePrior`, that of a fixed-effect prior a tuple of `mvmise_sm.priors.quadratic.QuadraticPenalty`.

    A density of one number is a subclass with `value`, which is enough: it can be the `sd_prior` of a standard
    deviation, the `fixef_prior` of a coefficient where it is symmetric, and the `dispersion_prior` of log d.
    `gradient` and `curvature` have defaults by differences.

    Attributes
    ----------
    name : str
        Name of the distribution in text and printouts (blme's).
    at_zero : {"flat", "repels", "attracts"}
        What a density of a standard deviation does at 0: has no slope there (or rises from it), is zero there, or falls
        from it, which makes 0 a local mode whatever the data. A fit relies on it, so it is checked.
    scalar : bool
        True if a covariance prior is for terms with one column only.
    mean : float
        Centre of a density of one coefficient.
    positions : dict
        For every role that text may use, the argument names in the order of positional arguments.
    """

    name = ""
    scalar = False
    at_zero: str = "flat"
    mean: Any = 0.0
    positions: ClassVar[dict[str, tuple[str, ...]]] = {}
    arguments: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, **arguments: Any) -> None:
        self.arguments = {k: v for k, v in arguments.items() if v is not None}
        for name, value in self.arguments.items():
            refuse_unreal(f"{self.name or type(self).__name__}: {name}", value)

    def __repr__(self) -> str:
        inside = ", ".join(f"{k}={v!r}" for k, v in self.arguments.items())
        return f"{type(self).__name__}({inside})"

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(repr(self))

    def value(self, x: Any) -> float:
        """Return -2 log density of one number; inf where the density is zero."""
        raise OptionError(f"{self!r} has no value(x).")

    def gradient(self, x: Any) -> Any:
        """Return the derivative of `value`."""
        return scalar_differences(self.value, float(x))[0]

    def curvature(self, x: Any) -> Any:
        """Return the second derivative of `value`."""
        return scalar_differences(self.value, float(x))[1]

    def describe(self) -> str:
        """Return the text that results print."""
        return f"{self.name or type(self).__name__.lower()}({', '.join(f'{k} = {v}' for k, v in self.shown().items())})"

    @property
    def one_number(self) -> bool:
        """Whether it is a density of one number and nothing else, by its value."""
        cls = type(self)
        other_roles = cls.fixef is not Prior.fixef or cls.covariance is not Prior.covariance
        return not other_roles and cls.value is not Prior.value

    def deviation(self) -> Any:
        """Return it as a density of standard deviations; what is none is returned as it is."""
        return self

    def shown(self) -> dict[str, Any]:
        """Hyperparameters by name, as they are printed: what the constructor was given, or the public attributes."""
        given = self.arguments or {k: v for k, v in vars(self).items() if not k.startswith("_") and k != "arguments"}
        numbers = (bool, int, float, np.ndarray, np.number)
        return {k: r_text(np.asarray(v)) if isinstance(v, numbers) else v for k, v in given.items()}

    def covariance(self, dims: Dimensions) -> CovariancePrior:
        """Bind as the prior of a random-effects covariance; OptionError if it is none."""
        raise self._not_for("cov")

    def fixef(self, dims: Dimensions, coefficients: list[int] | None = None) -> tuple:
        """Bind as the prior of the fixed effects, or of the positions `coefficients` of them; OptionError if it is
        none.
        """
        raise self._not_for("fixef")

    def residual(self, dims: Dimensions) -> CovariancePrior:
        """Bind as the prior of the residual variance; OptionError if it is none."""
        raise self._not_for("resid")

    def _not_for(self, role: str) -> RoleError:
        return RoleError(f"{self.name or type(self).__name__} is not a {ROLES[role]} prior.")

    def _hyperparameters(self, defaults: dict[str, Any], dims: Dimensions) -> Hyperparameters:
        return Hyperparameters(self.name, self.arguments, defaults, dims)


class ScalePart(NamedTuple):
    """Dependence of a prior on sigma: `value(s2 * S) = value(S-part) + log * log(s2) + coefficient * sigma**power`.

    Attributes
    ----------
    log : float
    power : {-2, -1, 0, 1, 2}
    coefficient : float
        Non-negative; 0 with power 0.
    """

    log: float
    power: int
    coefficient: float


class CovariancePrior(Prior):
    """Penalty on one covariance matrix S, on the deviance scale (-2 log density).

    Subclass it for a prior of your own: `value` is required, the rest has defaults by differences.

    Attributes
    ----------
    common_scale : bool
        True: S is the covariance relative to the residual variance; False: S is the covariance itself.
    fixed : float or None
        Residual role only: the residual variance, if the prior is a point mass.
    repels : bool
        True if the density is zero at every singular S, so that an estimate cannot be singular.
    pole : bool
        True if the density is infinite at every singular S, so that only a mode inside the cone is an estimate.
    attracts : bool
        True if a standard deviation of 0 is a local mode whatever the data: fits compare it with the other one.
    """

    common_scale = True
    fixed: float | None = None
    repels = False
    pole = False
    attracts = False

    def value(self, s: np.ndarray) -> float:
        """Return -2 log density at S (q, q); inf where the density is zero."""
        raise NotImplementedError

    def gradient(self, s: np.ndarray) -> np.ndarray:
        """Return the symmetric derivative of `value` in S (q, q)."""
        return difference_gradient(self.value, s)

    def evaluate(self, s: np.ndarray) -> tuple[float, np.ndarray]:
        """Return value and gradient at S (q, q)."""
        return self.value(s), self.gradient(s)

    def hessian(self, s: np.ndarray) -> np.ndarray:
        """Return the second derivative of `value` at S (q, q) in vec(S), (q * q, q * q)."""
        return difference_hessian(self.gradient, s)

    def radial(self, s: np.ndarray) -> np.ndarray:
        """Return d/drho exp(rho) gradient(exp(rho) S) at rho = 0, the mixed derivative in S and the scale (q, q)."""
        h = 1e-4
        up, down = math.exp(h), math.exp(-h)
        return (up * self.gradient(up * s) - down * self.gradient(down * s)) / (2.0 * h)

    def scale_part(self, s: np.ndarray) -> ScalePart | None:
        """Return how `value(s2 * S)` depends on sigma, or None if only evaluation can tell."""
        return None

    def along(self, s: np.ndarray) -> Callable[[float], tuple[float, float, float]]:
        """Return the function of rho = log sigma2 that `value(exp(rho) S)` is, with its first and second derivative."""

        def function(rho: float) -> tuple[float, float, float]:
            s2 = math.exp(rho)
            value, slope = self.evaluate(s2 * s)
            step = 1e-4
            ahead, behind = (
                float((self.gradient(math.exp(r) * s) * s).sum()) * math.exp(r) for r in (rho + step, rho - step)
            )
            return value, float((slope * s).sum()) * s2, (ahead - behind) / (2.0 * step)

        return function

    def relative(self, s: np.ndarray, s2: float) -> tuple[float, np.ndarray, float]:
        """Return value, gradient in the absolute covariance S (q, q) and derivative in the residual variance `s2`."""
        if not self.common_scale:
            value, slope = self.evaluate(s)
            return float(value), slope, 0.0
        value, slope = self.evaluate(s / s2)
        return float(value), slope / s2, -float((slope * s).sum()) / s2**2

    def covariance(self, dims: Dimensions) -> CovariancePrior:
        """Return itself: it is bound to no dimensions."""
        return self

    def residual(self, dims: Dimensions) -> CovariancePrior:
        """Return itself: it is bound to no dimensions."""
        return self

    def describe(self) -> str:
        """Return the text that results print."""
        return f"{self.name or type(self).__name__.lower()}(common.scale = {r_text(self.common_scale)})"


# five-point rules, centred
_FIRST = np.array([1.0, -8.0, 0.0, 8.0, -1.0]) / 12.0
_SECOND = np.array([-1.0, 16.0, -30.0, 16.0, -1.0]) / 12.0


def scalar_differences(f: Callable[[float], float], x: float) -> tuple[float, float]:
    """First and second derivative of a function of one number, from points on the side of 0 where x is."""
    h = 1e-3 * max(abs(x), 0.03)
    # five points; beyond 0 a density of standard deviations says nothing
    first = x - 2.0 * h if x < 0.0 or x >= 2.0 * h else 0.0
    places = first + h * np.arange(5.0)
    values = np.array([float(f(float(p))) for p in places])
    if first < x - 1.5 * h:
        return float(_FIRST @ values) / h, float(_SECOND @ values) / h**2
    # weights of the polynomial through the five points
    powers = np.vander((places - x) / h, 5, increasing=True).T
    weights = np.linalg.solve(powers, np.diag([1.0, 1.0, 2.0, 6.0, 24.0]))
    return float(weights[:, 1] @ values) / h, float(weights[:, 2] @ values) / h**2


def difference_gradient(f: Callable[[np.ndarray], float], s: np.ndarray) -> np.ndarray:
    """Derivative of `f` in a symmetric matrix S (q, q), from points S + h v v' that never leave the cone.

    Central differences with one Richardson step inside the cone, forward differences on its boundary.
    """
    q = s.shape[0]
    scale = max(float(np.trace(s)) / q, 1e-8)
    margin = float(np.linalg.eigvalsh(s)[0])
    h = 1e-3 * margin if margin > 1e-7 * scale else 0.0
    base = 0.0 if h else f(s)
    along = np.empty((q, q))
    for i in range(q):
        for j in range(i, q):
            v = np.zeros(q)
            v[i] = v[j] = 1.0
            e = np.outer(v, v) * (1.0 if i == j else 0.5)
            if h:
                wide, narrow = (f(s + 2 * h * e) - f(s - 2 * h * e)) / 4, (f(s + h * e) - f(s - h * e)) / 2
                along[i, j] = (4 * narrow - wide) / (3 * h)
            else:
                along[i, j] = (f(s + 1e-6 * scale * e) - base) / (1e-6 * scale)
            along[j, i] = along[i, j]
    # v = e_i + e_j mixes D_ii and D_jj into D_ij
    diagonal = np.diag(along)
    out = along - 0.5 * (diagonal[:, None] + diagonal[None, :])
    np.fill_diagonal(out, diagonal)
    return out


def difference_hessian(gradient: Callable[[np.ndarray], np.ndarray], s: np.ndarray) -> np.ndarray:
    """Second derivative in vec(S) from central differences of `gradient`, (q * q, q * q); zero at a singular S."""
    q = s.shape[0]
    out = np.zeros((q, q, q, q))
    margin = float(np.linalg.eigvalsh(s)[0])
    for i in range(q):
        for j in range(i + 1):
            if margin > 0.0:
                h = 1e-4 * margin
                e = np.zeros((q, q))
                e[i, j] += 0.5
                e[j, i] += 0.5
                out[i, j] = out[j, i] = (gradient(s + h * e) - gradient(s - h * e)) / (2.0 * h)
    flat = out.reshape(q * q, q * q)
    return 0.5 * (flat + flat.T)


def r_text(value: bool | float | np.ndarray) -> str:
    """Format a hyperparameter as R prints it, to four significant digits."""
    if isinstance(value, (bool, np.bool_)):
        return "TRUE" if value else "FALSE"
    if isinstance(value, str):
        return value
    array = np.asarray(value, dtype=float)
    if array.ndim:
        return "c(" + ", ".join(r_text(v) for v in array.ravel(order="F")) + ")"
    number = float(array)
    if math.isinf(number):
        return "Inf" if number > 0 else "-Inf"
    return f"{float(f'{number:.4g}'):.12g}"
