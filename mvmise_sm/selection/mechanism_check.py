"""The register of mechanisms, and the check that a new one keeps its contract."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
from scipy.integrate import quad

from mvmise_sm.exceptions import OptionError
from mvmise_sm.option_values import short
from mvmise_sm.selection.mechanism import BlockIntegral, Capped, Logit, LogLinear, Mechanism, Probit, SeenTerm

MECHANISMS: dict[str, Mechanism] = {m.name: m for m in (Capped(), LogLinear(), Logit(), Probit())}

SUM_TOL, SLOPE_TOL, INTEGRAL_TOL = 1e-10, 1e-6, 1e-8
# grid points keep away from `upper`, where 1 - F vanishes
MARGIN = 0.05
DIFFERENCE = 5e-5
PAIRS = tuple((m, v) for m in (-6.0, -3.0, -1.5, -0.5, 0.4, 1.5, 4.0) for v in (0.09, 2.25))
RATES = (0.02, 0.3, 0.6)

AnyMechanism = TypeVar("AnyMechanism", bound=type)


def register(cls: AnyMechanism) -> AnyMechanism:
    """Make a mechanism available under its name, once it has passed :func:`check_mechanism`.

    Parameters
    ----------
    cls : type
        A class with the members of :class:`Mechanism` that can be built without arguments.

    Returns
    -------
    type
        The class, so that this can be used as a decorator.

    Raises
    ------
    OptionError
        Naming the member that is absent or wrong.
    """
    if not isinstance(cls, type):
        raise OptionError(f"register takes a class, got {short(cls)}")
    mechanism = cls()
    check_mechanism(mechanism)
    MECHANISMS[mechanism.name] = mechanism
    return cls


def find_mechanism(given: Any, option: str = "mechanism") -> Mechanism:
    """The mechanism that a user's option means: a name, a class, or an instance, checked unless it is registered.

    Raises
    ------
    OptionError
        If the name is unknown or the object does not keep the contract.
    """
    if isinstance(given, str):
        if given not in MECHANISMS:
            raise OptionError(
                f"{option} must be one of {sorted(MECHANISMS)} or an object with their members, got {given!r}"
            )
        return MECHANISMS[given]
    mechanism = given() if isinstance(given, type) else given
    if type(mechanism) not in {type(known) for known in MECHANISMS.values()}:
        check_mechanism(mechanism)
    return mechanism


def check_mechanism(mechanism: Any) -> None:
    """Check that a mechanism keeps its contract; the slowest part is adaptive quadrature at 14 points (10 ms).

    Parameters
    ----------
    mechanism : Mechanism

    Raises
    ------
    OptionError
        Naming the member that is absent or wrong, and where.
    """
    label = str(getattr(mechanism, "name", type(mechanism).__name__))
    for member in ("name", "upper", "exponential", "bounded", "width", "prob", "seen", "missing", "start"):
        if not hasattr(mechanism, member):
            raise OptionError(f"mechanism {label!r} has no member {member!r}; see mvmise_sm.mechanisms.Mechanism")
    with np.errstate(all="ignore"):
        _check_seen(mechanism, label)
        _check_start(mechanism, label)
        _check_missing(mechanism, label)


def _refuse(label: str, member: str, text: str) -> None:
    raise OptionError(f"mechanism {label!r}: {member} is wrong: {text}")


def _triple(values: object, kind: type, label: str, member: str) -> list[np.ndarray]:
    """The three arrays that a member returns."""
    try:
        first, second, third = (np.asarray(v, dtype=float) for v in values)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        _refuse(label, member, f"it must return a {kind.__name__} of three arrays")
    return [first, second, third]


def _worst(error: np.ndarray, at: np.ndarray) -> tuple[float, float]:
    error = np.where(np.isfinite(error), error, np.inf)
    k = int(np.argmax(error))
    return float(error[k]), float(at[k])


def _check_seen(mechanism: Mechanism, label: str) -> None:
    eta = np.linspace(-8.0, min(float(mechanism.upper) - MARGIN, 6.0), 57)
    prob = np.asarray(mechanism.prob(eta), dtype=float)
    if prob.shape != eta.shape or not np.isfinite(prob).all() or (prob < 0.0).any() or (prob > 1.0).any():
        _refuse(label, "prob", "it must give a probability for every eta below upper")
    value, slope, curvature = _triple(mechanism.seen(eta), SeenTerm, label, "seen")
    error, at = _worst(np.abs(np.exp(value) + prob - 1.0), eta)
    if error > SUM_TOL:
        _refuse(label, "seen", f"exp(seen) + prob differs from 1 by {error:.2g} at eta = {at:.3g}")
    inner = np.linspace(-8.0, min(float(mechanism.upper) - 2 * MARGIN, 6.0), 57)
    value, slope, curvature = _triple(mechanism.seen(inner), SeenTerm, label, "seen")
    ahead = [np.asarray(v) for v in mechanism.seen(inner + DIFFERENCE)]
    behind = [np.asarray(v) for v in mechanism.seen(inner - DIFFERENCE)]
    for k, (what, exact) in enumerate([("first", slope), ("second", curvature)]):
        numeric = (ahead[k] - behind[k]) / (2.0 * DIFFERENCE)
        # the difference has an error of its own, larger where the function bends
        error, at = _worst(np.abs(numeric - exact) / np.maximum(np.abs(exact), 1e-2), inner)
        if error > SLOPE_TOL:
            _refuse(label, "seen", f"its {what} derivative is off by {error:.2g} (relative) at eta = {at:.3g}")


def _check_start(mechanism: Mechanism, label: str) -> None:
    for rate in RATES:
        back = float(mechanism.prob(np.array([float(mechanism.start(rate))]))[0])
        if not abs(back - rate) <= 1e-8:
            _refuse(label, "start", f"prob(start({rate:g})) is {back:.6g}")


def _check_missing(mechanism: Mechanism, label: str) -> None:
    mean, var = (np.array(column) for column in zip(*PAIRS, strict=True))
    value, d_mean, d_var = _triple(mechanism.missing(mean, var), BlockIntegral, label, "missing")
    if value.shape != mean.shape:
        _refuse(label, "missing", f"it must return arrays of the shape of its arguments, got {value.shape}")
    exact = np.array([_by_quadrature(mechanism, m, v) for m, v in PAIRS])
    error, at = _worst(np.abs(value - exact), mean)
    if error > INTEGRAL_TOL:
        _refuse(label, "missing", f"its value differs from quadrature of prob by {error:.2g} at mean = {at:.3g}")
    ahead, behind = (
        _triple(mechanism.missing(mean + sign * DIFFERENCE, var), BlockIntegral, label, "missing") for sign in (1, -1)
    )
    error, at = _worst(np.abs((ahead[0] - behind[0]) / (2.0 * DIFFERENCE) - d_mean), mean)
    if error > SLOPE_TOL:
        _refuse(label, "missing", f"its derivative in the mean is off by {error:.2g} at mean = {at:.3g}")
    # heat equation: 2 G_v = G_mm + G_m^2
    error, at = _worst(np.abs(2.0 * d_var - (ahead[1] - behind[1]) / (2.0 * DIFFERENCE) - d_mean**2), mean)
    if error > SLOPE_TOL:
        _refuse(label, "missing", f"its derivative in the variance breaks the heat equation by {error:.2g}")
    still = np.array([-4.0, -1.0, -0.2])
    flat = np.asarray(mechanism.missing(still, np.zeros(3))[0])
    error, at = _worst(np.abs(flat - np.log(mechanism.prob(still))), still)
    if error > INTEGRAL_TOL:
        _refuse(label, "missing", f"without variance it differs from log prob by {error:.2g} at mean = {at:.3g}")


def _by_quadrature(mechanism: Mechanism, mean: float, var: float) -> float:
    """``log E F(eta)`` by adaptive quadrature, split at `upper` where F may have a kink."""
    sd = float(np.sqrt(var))

    def integrand(z: float) -> float:
        F = float(mechanism.prob(np.array([mean + sd * z]))[0])
        return F * float(np.exp(-0.5 * z * z)) / float(np.sqrt(2.0 * np.pi))

    bend = (float(mechanism.upper) - mean) / sd
    ends = [-11.0, *([bend] if -11.0 < bend < 13.0 else []), 13.0]
    parts = (quad(integrand, a, b, epsabs=0.0, epsrel=1e-11, limit=200)[0] for a, b in pairwise(ends))
    return float(np.log(sum(parts)))
