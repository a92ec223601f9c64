"""Scales of estimates: links and transformed responses, their derivatives, and averages over normal variation."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from scipy import special

from mvmise_sm.exceptions import OptionError
from mvmise_sm.formula.tree import translate

__all__ = ["IDENTITY", "Scale", "link_scale", "response_scale"]

_NODES = 60


@dataclass(frozen=True)
class Scale:
    """The function that takes linear estimates to the scale of the response.

    Attributes
    ----------
    name : str
        For notes: ``"log"``, ``"logit"``.
    inverse, slope : callable
        h and h', arrays to arrays.
    log_base : float or None
        Logarithm a of the base where differences are logarithms of ratios, exp(a e); None elsewhere.
    ratio : str
        What the exponential of a difference is called.
    """

    name: str
    inverse: Callable[[np.ndarray], np.ndarray]
    slope: Callable[[np.ndarray], np.ndarray]
    log_base: float | None = None
    ratio: str = "ratios"

    @property
    def is_identity(self) -> bool:
        """Whether the scale changes nothing."""
        return self.name == "identity"

    def bend(self, eta: np.ndarray) -> np.ndarray:
        """Return h'' by a difference of h' of fourth order."""
        d = 1e-3
        s = self.slope
        return (s(eta - 2 * d) - 8 * s(eta - d) + 8 * s(eta + d) - s(eta + 2 * d)) / (12 * d)

    def twist(self, eta: np.ndarray) -> np.ndarray:
        """Return h''' by a second difference of h' of fourth order."""
        d = 5e-3
        s = self.slope
        return (-s(eta - 2 * d) + 16 * s(eta - d) - 30 * s(eta) + 16 * s(eta + d) - s(eta + 2 * d)) / (12 * d**2)

    def bias_adjusted(self, sigma: float, exact: bool) -> Scale:
        """The scale of E h(eta + sigma Z): to second order in sigma, or by quadrature."""
        how = _smeared if exact else _second_order
        # a normal random effect multiplies an exponential by a constant, so that ratios stay ratios
        keep = self.log_base if self.name.startswith("log") and self.name != "logit" else None
        name = f"{self.name}, bias adjusted"
        return Scale(name, partial(how, self, False, sigma), partial(how, self, True, sigma), keep, self.ratio)


def _second_order(scale: Scale, slope: bool, sigma: float, eta: np.ndarray) -> np.ndarray:
    if slope:
        return scale.slope(eta) + 0.5 * sigma**2 * scale.twist(eta)
    return scale.inverse(eta) + 0.5 * sigma**2 * scale.bend(eta)


def _smeared(scale: Scale, slope: bool, sigma: float, eta: np.ndarray) -> np.ndarray:
    nodes, weights = np.polynomial.hermite_e.hermegauss(_NODES)
    function = scale.slope if slope else scale.inverse
    eta = np.asarray(eta, dtype=float)
    return function(eta[..., None] + sigma * nodes) @ (weights / weights.sum())


def _same(eta: np.ndarray) -> np.ndarray:
    return np.asarray(eta, dtype=float)


def _ones(eta: np.ndarray) -> np.ndarray:
    return np.ones_like(np.asarray(eta, dtype=float))


IDENTITY = Scale("identity", _same, _ones)

_LINK_NAMES = {"Logit": "logit", "Log": "log", "Probit": "probit", "CLogLog": "cloglog"}


def link_scale(link: Any) -> Scale:
    """The scale of a statsmodels link."""
    kind = type(link).__name__
    if kind == "Identity":
        return IDENTITY
    name = _LINK_NAMES.get(kind, kind)
    ratio = "odds ratios" if kind == "Logit" else "ratios"
    return Scale(name, link.inverse, link.inverse_deriv, 1.0 if kind in ("Log", "Logit") else None, ratio)


def _power(base: float, shift: float, eta: np.ndarray) -> np.ndarray:
    return np.exp(base * np.asarray(eta)) - shift


def _power_slope(base: float, eta: np.ndarray) -> np.ndarray:
    return base * np.exp(base * np.asarray(eta))


def _square_slope(eta: np.ndarray) -> np.ndarray:
    return 2.0 * np.asarray(eta)


def _reciprocal(eta: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return 1.0 / np.asarray(eta)


def _reciprocal_slope(eta: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return -1.0 / np.square(eta)


def _logistic_slope(eta: np.ndarray) -> np.ndarray:
    return special.expit(eta) * special.expit(-np.asarray(eta))


_BASES = {"log": 1.0, "log2": float(np.log(2.0)), "log10": float(np.log(10.0)), "log1p": 1.0}
_KNOWN = "log, log2, log10, log1p, sqrt, logit, log(y + c) and I(1/y)"


def response_scale(response: str) -> Scale:
    """The scale that undoes the transformation of a response, found in the formula's text.

    Raises
    ------
    OptionError
        If the response is transformed in a way that is not known.
    """
    tree = ast.parse(translate(response)[0].strip(), mode="eval").body
    if not isinstance(tree, ast.Call) or _called(tree) == "Q":
        if isinstance(tree, (ast.Name, ast.Attribute)) or _called(tree) == "Q":
            return IDENTITY
        raise _unknown(response)
    name = _called(tree)
    inner = tree.args[0] if len(tree.args) == 1 and not tree.keywords else None
    if name in _BASES and inner is not None:
        shift = _constant_term(inner)
        if shift is None or (name == "log1p" and shift != 0.0):
            raise _unknown(response)
        base, shift = _BASES[name], 1.0 if name == "log1p" else shift
        return Scale(name, partial(_power, base, shift), partial(_power_slope, base), base)
    if name == "sqrt" and inner is not None and _is_column(inner):
        return Scale("sqrt", np.square, _square_slope)
    if name == "logit" and inner is not None and _is_column(inner):
        return Scale("logit", special.expit, _logistic_slope, 1.0, "odds ratios")
    if name == "I" and inner is not None and _is_reciprocal(inner):
        return Scale("reciprocal", _reciprocal, _reciprocal_slope)
    if name in ("as.numeric", "as_numeric"):
        return IDENTITY
    raise _unknown(response)


def _unknown(response: str) -> OptionError:
    return OptionError(
        f"estimates of {response} cannot be taken back to the scale of the data: the transformations known are "
        f"{_KNOWN}; leave out which='mean' and regrid"
    )


def _called(node: ast.AST) -> str | None:
    """Name of the function that a call calls, without ``np.``."""
    if not isinstance(node, ast.Call):
        return None
    function = node.func
    if isinstance(function, ast.Name):
        return function.id
    return function.attr if isinstance(function, ast.Attribute) else None


def _is_column(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) or _called(node) == "Q"


def _constant_term(node: ast.AST) -> float | None:
    """Constant c of ``y + c``; zero for columns alone, as in a ratio of two; None where numbers enter otherwise."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Sub)):
        sign = 1.0 if isinstance(node.op, ast.Add) else -1.0
        places = ((node.right, node.left),) if sign < 0.0 else ((node.right, node.left), (node.left, node.right))
        for part, other in places:
            if isinstance(part, ast.Constant) and isinstance(part.value, (int, float)) and _is_column(other):
                return sign * float(part.value)
    numbers = (n for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, (int, float)))
    return 0.0 if next(numbers, None) is None else None


def _is_reciprocal(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.BinOp)
        and isinstance(node.op, ast.Div)
        and isinstance(node.left, ast.Constant)
        and node.left.value == 1
        and _is_column(node.right)
    )
