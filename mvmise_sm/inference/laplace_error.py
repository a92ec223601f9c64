"""How far the estimates are from those of the exact integral over the random effects."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from mvmise_sm.core.threads import blas_threads
from mvmise_sm.core.uncertainty.laplace_error import shifts
from mvmise_sm.exceptions import OptionError
from mvmise_sm.inference.fits import with_rows
from mvmise_sm.inference.resampling import all_parameters, parameter_names

__all__ = ["LaplaceError", "laplace_error"]

_STEP = 1e-5


class LaplaceError(pd.DataFrame):
    """Columns ``estimate, shift, shift_se`` by parameter.

    Attributes
    ----------
    llf : float
        Log-likelihood with the next term of the expansion.
    """

    _metadata = ["llf"]  # noqa: RUF012

    @property
    def _constructor(self):
        return LaplaceError


def laplace_error(result: Any) -> LaplaceError:
    """The expected shift of every parameter if the integral were exact; see `laplace_error` of the results."""
    result = with_rows(result)
    if result.nagq != 1:
        raise OptionError("laplace_error() belongs to the Laplace approximation, nagq=1")
    criterion, x = result.deviance_function(), np.asarray(result.optimum, dtype=float)
    layout, k, p = result.model.random_layout, criterion.k_theta, criterion.k_fe
    profiles = result.shape_profiles() if criterion.k_shape else []

    def values(at: np.ndarray) -> np.ndarray:
        user = criterion.user_theta(at)
        own = all_parameters(layout, user[k : k + p], user[:k], 1.0, False)
        return np.append(own, [shown(c) for (_, shown), c in zip(profiles, at[k + p :], strict=True)])

    with blas_threads(criterion.dense_size):
        try:
            eps, cov, shift = shifts(criterion, x)
        except ValueError as error:
            raise OptionError(str(error)) from None
    estimate = values(x)
    jacobian = np.zeros((estimate.size, x.size))
    for i in range(x.size):
        step = np.zeros(x.size)
        step[i] = _STEP * max(abs(x[i]), 0.1)
        jacobian[:, i] = (values(x + step) - values(x - step)) / (2.0 * step[i])
    moved = jacobian @ shift
    if cov is None:
        se = np.full(estimate.size, np.nan)
    else:
        se = np.sqrt(np.maximum(np.einsum("ij,jk,ik->i", jacobian, cov, jacobian), 0.0))
    with np.errstate(all="ignore"):
        share = np.where(se > 0.0, moved / se, np.nan)
    n_plain = estimate.size - len(profiles)
    names = [*parameter_names(result)[:n_plain], *(name for name, _ in profiles)]
    out = LaplaceError({"estimate": estimate, "shift": moved, "shift_se": share}, index=names)
    out.llf = float(result.llf + eps)
    return out
