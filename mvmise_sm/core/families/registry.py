"""Families by name."""

from __future__ import annotations

from mvmise_sm.core.families import continuous, counts, exponential, proportions
from mvmise_sm.core.families.base import Family

__all__ = ["ALIASES", "FAMILIES"]

FAMILIES: dict[str, type[Family]] = {
    cls.name: cls
    for cls in (
        exponential.Binomial,
        exponential.Poisson,
        exponential.Gamma,
        exponential.InverseGaussian,
        exponential.Gaussian,
        exponential.NegativeBinomial,
        counts.NegativeBinomial1,
        counts.GeneralizedPoisson,
        counts.TruncatedPoisson,
        counts.TruncatedNegativeBinomial,
        counts.TruncatedNegativeBinomial1,
        proportions.Beta,
        proportions.BetaBinomial,
        continuous.StudentT,
        continuous.LogNormal,
        continuous.HurdleGamma,
        continuous.Tweedie,
    )
}

# other spellings, without underscores
ALIASES = {
    "negativebinomial": "nb2",
    "nbinom2": "nb2",
    "nbinom": "nb2",
    "nbinom1": "nb1",
    "truncatednbinom1": "truncated_nb1",
    "truncatednbinom2": "truncated_nb2",
    "truncatednb1": "truncated_nb1",
    "truncatednb2": "truncated_nb2",
    "truncatedpoisson": "truncated_poisson",
    "studentt": "t",
    "tfamily": "t",
    "betafamily": "beta",
    "hurdlegamma": "hurdle_gamma",
    "zigamma": "hurdle_gamma",
    "generalizedpoisson": "genpois",
    "normal": "gaussian",
}
