"""Columns in the order of time: first-order autoregression and Toeplitz correlations."""

from __future__ import annotations

from mvmise_sm.core.covariance.correlations import Autoregressive, Toeplitz
from mvmise_sm.core.covariance.scaled import ScaledStructure, checked_hom

__all__ = ["AutoregressiveEffects", "ToeplitzEffects"]


class AutoregressiveEffects(ScaledStructure):
    """First-order autoregression over the columns in their order, with one variance or a variance per column.

    Parameters
    ----------
    q : int
    hom : bool, optional
        One variance.
    """

    def __init__(self, q: int, hom: bool = True) -> None:
        super().__init__(Autoregressive(q), checked_hom("ar1", hom))


class ToeplitzEffects(ScaledStructure):
    """A correlation for every distance between columns, with a variance per column or one.

    Parameters
    ----------
    q : int
    hom : bool, optional
        One variance.
    """

    def __init__(self, q: int, hom: bool = False) -> None:
        super().__init__(Toeplitz(q), checked_hom("toep", hom))
