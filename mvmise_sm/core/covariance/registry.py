"""Names of covariance structures in formulas, and the classes behind them.

It imports no class before one is needed, so that the formula grammar can ask for names without numpy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

__all__ = [
    "DISTANCES",
    "make_residual",
    "make_structure",
    "names",
    "needs_coordinates",
    "register",
    "register_residual",
    "residual_names",
]

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


# names of residual structures: family of correlations and whether there is one variance
_RESIDUAL: dict[str, tuple[str, bool]] = {
    "us": ("us", False),
    "un": ("us", False),
    "cs": ("Compound", True),
    "csh": ("Compound", False),
    "ar1": ("Autoregressive", True),
    "ar1h": ("Autoregressive", False),
    "toep": ("Toeplitz", True),
    "toeph": ("Toeplitz", False),
    "ante": ("Antedependence", True),
    "anteh": ("Antedependence", False),
    "ad": ("Antedependence", True),
    "adh": ("Antedependence", False),
    "diag": ("Independent", False),
    "exp": ("exp", True),
    "gau": ("gau", True),
}
_RESIDUAL_ADDED: dict[str, Any] = {}
DISTANCES = frozenset(("exp", "gau"))


def residual_names() -> tuple[str, ...]:
    """Names of all residual structures."""
    return (*_RESIDUAL, *_RESIDUAL_ADDED)


def register_residual(name: str, structure: Any) -> None:
    """Make a residual structure available as ``residual="name(level | subject)"``.

    Parameters
    ----------
    name : str
        A Python identifier.
    structure : callable
        Level labels (m,) -> `mvmise_sm.core.covariance.residual.ResidualStructure`.
    """
    if not name.isidentifier():
        raise ValueError(f"a structure's name must be an identifier, got {name!r}")
    _RESIDUAL_ADDED[name] = structure


def make_residual(
    name: str, levels: Sequence[str], typical: float = 0.0, nugget: bool = False, limits: Any = (-1e300, 1e300)
) -> Any:
    """The residual structure `name` of levels (m,), for distances with the `typical` distance of two rows and limits of
    the log of the range.
    """
    from mvmise_sm.core.covariance import correlations, residual

    if name in _RESIDUAL_ADDED:
        return _RESIDUAL_ADDED[name](levels)
    family, hom = _RESIDUAL[name]
    if family == "us":
        return residual.UnstructuredResidual(levels)
    if family in DISTANCES:
        return residual.DistanceResidual(family, typical, nugget, limits)
    return residual.LevelResidual(levels, getattr(correlations, family)(len(levels)), hom)
