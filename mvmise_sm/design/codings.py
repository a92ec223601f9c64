"""Codings of factors that the caller asks for by name, as R's ``contrasts=`` does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from patsy import Helmert, Poly, Sum, Treatment

from mvmise_sm.exceptions import OptionError

__all__ = ["checked_codings", "coding_of"]

_NAMES = ("contr.treatment", "contr.sum", "contr.helmert", "contr.poly", "contr.SAS")


def checked_codings(contrasts: Any) -> dict[str, Any]:
    """Codings by column, names in the words of patsy or R, matrices as arrays.

    Raises
    ------
    OptionError
        If it is no mapping, or a coding is unknown.
    """
    if contrasts is None:
        return {}
    if not isinstance(contrasts, Mapping):
        raise OptionError(f"contrasts must be a dict from factors to codings, got {type(contrasts).__name__}")
    return {str(name): _checked(str(name), given) for name, given in contrasts.items()}


def _checked(name: str, given: Any) -> Any:
    if isinstance(given, str):
        folded = given.lower().replace("_", ".")
        folded = folded if folded.startswith("contr.") else f"contr.{folded}"
        match = [known for known in _NAMES if known.lower() == folded]
        if not match:
            raise OptionError(
                f"contrasts of {name!r}: {given!r} is not known; allowed are {', '.join(map(repr, _NAMES))} or a matrix"
            )
        return match[0]
    if isinstance(given, (np.ndarray, list, tuple, pd.DataFrame)):
        matrix = np.asarray(given, dtype=float)
        if matrix.ndim != 2 or not np.isfinite(matrix).all():
            raise OptionError(f"contrasts of {name!r}: a matrix has a row for each level and finite numbers")
        return matrix
    return given  # patsy's own objects


def coding_of(name: str, given: Any, levels: pd.Index) -> Any:
    """The coding of a factor with these levels, for patsy."""
    if isinstance(given, np.ndarray):
        if len(given) != len(levels):
            shown = ", ".join(map(str, levels))
            raise OptionError(
                f"contrasts of {name!r}: the matrix has {len(given)} rows, the factor {len(levels)} levels: {shown}"
            )
        return given
    if given == "contr.SAS":
        return Treatment(reference=levels[-1])
    if not isinstance(given, str):
        return given
    return {"contr.treatment": Treatment, "contr.sum": Sum, "contr.helmert": Helmert, "contr.poly": Poly}[given]()
