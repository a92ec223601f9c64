"""Marginal means of factor combinations, slopes, their contrasts and joint tests."""

from mvmise_sm.inference.means.fitted import joint_tests, marginal_means, marginal_slopes
from mvmise_sm.inference.means.object import Contrasts, MarginalMeans

__all__ = ["Contrasts", "MarginalMeans", "joint_tests", "marginal_means", "marginal_slopes"]
