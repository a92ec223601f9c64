"""Families by object, class or name."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from mvmise_sm.core.families.base import Family
from mvmise_sm.core.families.exponential import NegativeBinomial
from mvmise_sm.core.families.links import LINKS, as_link
from mvmise_sm.core.families.registry import ALIASES, FAMILIES
from mvmise_sm.exceptions import OptionError

__all__ = ["needs_parts", "resolve_family"]

# classes of statsmodels by name; its negative binomial has a known alpha
_STATSMODELS = {
    "Binomial": "binomial",
    "Poisson": "poisson",
    "Gaussian": "gaussian",
    "Gamma": "gamma",
    "InverseGaussian": "inversegaussian",
    "NegativeBinomial": "nb2",
}


def resolve_family(family: Any) -> Family:
    """The family object for one of ours, one of statsmodels', a class or a name.

    Parameters
    ----------
    family : Family, statsmodels family, class or str
        For example ``sm.families.Poisson()``, ``ms.families.StudentT(df=4)``, ``"poisson"``, ``"binomial(probit)"`` or
        ``"nb2"``.

    Returns
    -------
    Family

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
    if type(family) is str:
        return _by_name(family)
    is_class = issubclass(type(family), type)
    bases = family.__mro__ if is_class else type(family).__mro__
    if Family in bases:
        return family() if is_class else family
    known = [cls.__name__ for cls in bases if cls.__name__ in _STATSMODELS]
    if not any(cls.__name__ == "Family" for cls in bases):
        raise OptionError(f"family must be a family object or one of {', '.join(FAMILIES)}, got {family!r}")
    if not known:
        raise OptionError(f"family {bases[0].__name__} is not one of {', '.join(FAMILIES)}")
    if is_class:
        family = family()
    link = as_link(family.link)
    if known[0] == "NegativeBinomial":
        return NegativeBinomial(link, alpha=float(family.alpha))
    return FAMILIES[_STATSMODELS[known[0]]](link)


def needs_parts(family: Any) -> bool:
    """Whether a family has only the engine of several linear predictors."""
    one = np.ones(1)
    return resolve_family(family).response(one, None) is None


def _by_name(text: str) -> Family:
    matched = re.fullmatch(r"\s*([\w.\s-]+?)\s*(?:\(\s*(?:link\s*=\s*)?['\"]?([\w^/]*)['\"]?\s*\))?\s*", text)
    name = "" if matched is None else re.sub(r"[\s.-]+", "_", matched[1].strip().lower())
    bare = name.replace("_", "")
    name = ALIASES.get(bare, name if name in FAMILIES else bare)
    if matched is None or name not in FAMILIES:
        raise OptionError(f"family must be a family object or one of {', '.join(FAMILIES)}, got {text!r}")
    link = matched[2]
    if link and link not in LINKS:
        raise OptionError(f"link must be one of {', '.join(LINKS)}, got {link!r}")
    cls = FAMILIES[name]
    if link and cls.strict_links and link not in cls.links:
        raise OptionError(f"family {name!r} has the links {', '.join(cls.links)}, got {link!r}")
    return cls(link or None)
