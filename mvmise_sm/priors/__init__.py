"""Priors for mixed models, Bayesian in the sense of blme: penalties whose posterior mode costs one likelihood fit.

Covariance priors are `Gamma`, `InverseGamma` (terms with one column), `Wishart`, `InverseWishart` and `Custom`;
priors of standard deviations `HalfNormal`, `HalfT`, `HalfCauchy`, `Exponential` and `PC`, of correlations `LKJ`;
fixed-effect priors `Normal`, `StudentT`, `Laplace` and `Horseshoe`; residual priors `Gamma`, `InverseGamma` and
`Point`. Any subclass of `CovariancePrior`, or of `Prior` for one number, with a method `value` is a prior of your own.
"""

from mvmise_sm.priors.base import CovariancePrior, Dimensions, Prior
from mvmise_sm.priors.coefficient import CoefficientPrior
from mvmise_sm.priors.covariance import Gamma, InverseGamma, InverseWishart, Wishart
from mvmise_sm.priors.custom import Custom
from mvmise_sm.priors.deviations import LKJ, PC, DeviationPrior, Exponential, HalfCauchy, HalfNormal, HalfT
from mvmise_sm.priors.fixed import Horseshoe, Laplace, Normal, StudentT
from mvmise_sm.priors.parse import PriorSyntaxError
from mvmise_sm.priors.quadratic import Mixing, QuadraticPenalty
from mvmise_sm.priors.residual import Point
from mvmise_sm.priors.resolve import PriorSet, TermShape, resolve_priors, term_shapes

__all__ = [
    "LKJ",
    "PC",
    "CoefficientPrior",
    "CovariancePrior",
    "Custom",
    "DeviationPrior",
    "Dimensions",
    "Exponential",
    "Gamma",
    "HalfCauchy",
    "HalfNormal",
    "HalfT",
    "Horseshoe",
    "InverseGamma",
    "InverseWishart",
    "Laplace",
    "Mixing",
    "Normal",
    "Point",
    "Prior",
    "PriorSet",
    "PriorSyntaxError",
    "QuadraticPenalty",
    "StudentT",
    "TermShape",
    "Wishart",
    "resolve_priors",
    "term_shapes",
]
