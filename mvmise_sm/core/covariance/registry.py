"""Names of covariance structures in formulas, and the classes behind them.

It imports no class before one is needed, so that the formula grammar can ask for names without numpy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

__all__ = ["make_structure", "names", "needs_coordinates", "register"]

_HERE = "mvmise_sm.core.covariance"
_REGISTERED: dict[str, tuple[Any, dict[str, Any]]] = {
    "us": (f"{_HERE}.unstructured:Unstructured", {}),
    "diag": (f"{_HERE}.diagonal:Diagonal", {}),
    "homdiag": (f"{_HERE}.diagonal:HomogeneousDiagonal", {}),
    "cs": (f"{_HERE}.compound:CompoundSymmetric", {}),
    "homcs": (f"{_HERE}.compound:HomogeneousCompound", {}),
    "ar1": (f"{_HERE}.serial:AutoregressiveEffects", {"hom": True}),
    "homar1": (f"{_HERE}.serial:AutoregressiveEffects", {"hom": True}),
    "hetar1": (f"{_HERE}.serial:AutoregressiveEffects", {"hom": False}),
    "toep": (f"{_HERE}.serial:ToeplitzEffects", {"hom": False}),
    "homtoep": (f"{_HERE}.serial:ToeplitzEffects", {"hom": True}),
    "exp": (f"{_HERE}.distances:ExponentialEffects", {}),
    "gau": (f"{_HERE}.distances:GaussianEffects", {}),
    "mat": (f"{_HERE}.distances:MaternEffects", {}),
}


def names() -> tuple[str, ...]:
    """All registered names."""
    return tuple(_REGISTERED)


def register(name: str, structure: type, **options: Any) -> None:
    """Make a covariance structure available as ``name(columns | group)`` in formulas.

    Parameters
    ----------
    name : str
        A Python identifier.
    structure : type
        A subclass of `mvmise_sm.core.covariance.base.CovarianceStructure`.
    **options
        Passed to its ``for_columns``; options inside the wrapper take precedence.

    Raises
    ------
    ValueError
        If the name is no identifier.
    """
    if not name.isidentifier():
        raise ValueError(f"a structure's name must be an identifier, got {name!r}")
    _REGISTERED[name] = (structure, options)


def _find(name: str) -> tuple[Any, dict[str, Any]]:
    found, options = _REGISTERED[name]
    if isinstance(found, str):
        module, _, attribute = found.partition(":")
        found = getattr(import_module(module), attribute)
    return found, options


def needs_coordinates(name: str) -> bool:
    """Whether what stands left of the bar are numeric coordinates."""
    return bool(_find(name)[0].needs_coordinates)


def make_structure(
    name: str, columns: Sequence[str], coordinates: Any = None, options: Mapping[str, Any] | None = None
) -> Any:
    """The structure `name` of columns (q,), for distances at the positions `coordinates` (q, d)."""
    structure, defaults = _find(name)
    return structure.for_columns(columns, coordinates, **{**defaults, **(options or {})})
