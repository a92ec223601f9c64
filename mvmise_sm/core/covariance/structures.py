"""The covariance structures under one import."""

from __future__ import annotations

from mvmise_sm.core.covariance.base import CovarianceStructure, Parameter, semidefinite_cholesky
from mvmise_sm.core.covariance.diagonal import Diagonal, HomogeneousDiagonal
from mvmise_sm.core.covariance.unstructured import Unstructured

__all__ = [
    "CovarianceStructure",
    "Diagonal",
    "HomogeneousDiagonal",
    "Parameter",
    "Unstructured",
    "semidefinite_cholesky",
]
