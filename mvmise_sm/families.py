"""Response families of generalised linear mixed models, and what a family of one's own derives from.

In the table m is the mean and d the dispersion; ``dispersion="~ x"`` models log d, ``res.dispersion`` is d.

=====================  =========================  =================  ====================================
text                   links                      d                  variance
=====================  =========================  =================  ====================================
gaussian               identity, log, inverse     standard dev.      d^2
t                      identity, log              scale              d^2 v / (v - 2), v = df
lognormal              identity (E log y)         sd of log y        m^2 (exp(d^2) - 1)
gamma, hurdle_gamma    inverse / log              shape = 1 / scale  m^2 / d
inversegaussian        1/mu^2, inverse, log       phi                d m^3
tweedie                log                        phi                d m^power
poisson                log, sqrt, identity        none               m
nb2                    log, sqrt, identity        size = 1 / alpha   m + m^2 / d
nb1                    log                        d                  m (1 + d)
genpois                log                        d                  m d
truncated_poisson      log                        none               of the counts given y > 0
truncated_nb1, _nb2    log                        as untruncated     of the counts given y > 0
binomial               logit, probit, cloglog...  none               m (1 - m) / n
betabinomial           logit, probit, cloglog...  precision          m (1 - m) / n (1 + (n - 1) / (d + 1))
beta                   logit, probit, cloglog...  precision          m (1 - m) / (1 + d)
=====================  =========================  =================  ====================================
"""

from mvmise_sm.core.families.base import Family
from mvmise_sm.core.families.continuous import HurdleGamma, LogNormal, StudentT, Tweedie
from mvmise_sm.core.families.counts import (
    GeneralizedPoisson,
    NegativeBinomial1,
    TruncatedNegativeBinomial,
    TruncatedNegativeBinomial1,
    TruncatedPoisson,
)
from mvmise_sm.core.families.exponential import (
    Binomial,
    Gamma,
    Gaussian,
    InverseGaussian,
    NegativeBinomial,
    Poisson,
)
from mvmise_sm.core.families.jets import log1mexp
from mvmise_sm.core.families.links import Link
from mvmise_sm.core.families.proportions import Beta, BetaBinomial

__all__ = [
    "Beta",
    "BetaBinomial",
    "Binomial",
    "Family",
    "Gamma",
    "Gaussian",
    "GeneralizedPoisson",
    "HurdleGamma",
    "InverseGaussian",
    "Link",
    "LogNormal",
    "NegativeBinomial",
    "NegativeBinomial1",
    "Poisson",
    "StudentT",
    "TruncatedNegativeBinomial",
    "TruncatedNegativeBinomial1",
    "TruncatedPoisson",
    "Tweedie",
    "log1mexp",
]
