"""Families by object, class or name."""

from __future__ import annotations

import re
import warnings

from statsmodels.genmod import families
from statsmodels.genmod.families import links

from mvmise_sm.exceptions import OptionError

__all__ = ["EstimatedNegativeBinomial", "resolve_family"]


class EstimatedNegativeBinomial(families.NegativeBinomial):
    """Negative binomial family with variance mu + alpha mu^2 whose alpha is estimated with the other parameters."""

    def __init__(self, link=None):
        super().__init__(links.Log() if link is None else link, alpha=1.0)


FAMILIES = {
    "binomial": families.Binomial,
    "poisson": families.Poisson,
    "gamma": families.Gamma,
    "inversegaussian": families.InverseGaussian,
    "gaussian": families.Gaussian,
    "negativebinomial": EstimatedNegativeBinomial,
}
LINKS = {
    "logit": links.Logit,
    "probit": links.Probit,
    "cloglog": links.CLogLog,
    "loglog": links.LogLog,
    "cauchit": links.Cauchy,
    "log": links.Log,
    "identity": links.Identity,
    "inverse": links.InversePower,
    "1/mu^2": links.InverseSquared,
    "sqrt": links.Sqrt,
}


def resolve_family(family):
    """The family instance for an instance, a class or a name.

    Parameters
    ----------
    family : statsmodels family, class or str
        For example ``sm.families.Poisson()``, ``"poisson"`` or ``"binomial(probit)"``; ``"negativebinomial"`` has its
        alpha estimated.

    Returns
    -------
    statsmodels family

    Raises
    ------
    OptionError
        If it is none of these.
    """
    if family is None:
        raise OptionError(
            "family is needed, for example family='binomial' or family=sm.families.Poisson(); "
            "lmer fits a normal response"
        )
    if isinstance(family, str):
        return _by_name(family)
    if isinstance(family, type) and issubclass(family, families.Family):
        family = family()
    if not isinstance(family, families.Family):
        raise OptionError(f"family must be a statsmodels family or one of {', '.join(FAMILIES)}, got {family!r}")
    if not isinstance(family, (*FAMILIES.values(), families.NegativeBinomial)):
        raise OptionError(f"family {type(family).__name__} is not one of {', '.join(FAMILIES)}")
    return family


def _by_name(text):
    matched = re.fullmatch(r"\s*([\w.\s-]+?)\s*(?:\(\s*(?:link\s*=\s*)?['\"]?([\w^/]*)['\"]?\s*\))?\s*", text)
    name = "" if matched is None else re.sub(r"[^a-z]", "", matched[1].lower())
    if name not in FAMILIES:
        raise OptionError(f"family must be a statsmodels family or one of {', '.join(FAMILIES)}, got {text!r}")
    link = matched[2]
    if link and link not in LINKS:
        raise OptionError(f"link must be one of {', '.join(LINKS)}, got {link!r}")
    with warnings.catch_warnings():
        # statsmodels warns of links that it has not seen with a family; the engine differentiates any of them
        warnings.simplefilter("ignore")
        return FAMILIES[name](LINKS[link]()) if link else FAMILIES[name]()
