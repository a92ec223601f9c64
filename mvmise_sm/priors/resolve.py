"""The prior keywords of a model -> one bound prior per term, for the fixed effects and for the residual."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mvmise_sm.exceptions import OptionError
from mvmise_sm.priors.base import ROLES, CovariancePrior, Dimensions, Prior
from mvmise_sm.priors.coefficient import of_coefficients
from mvmise_sm.priors.covariance import Gamma, InverseGamma, InverseWishart, Wishart
from mvmise_sm.priors.custom import Custom, Independent
from mvmise_sm.priors.decomposed import resolve_decomposed
from mvmise_sm.priors.dispersion import DispersionPrior, LogDeviation, bind_dispersion
from mvmise_sm.priors.fixed import Coefficients, Horseshoe, Laplace, Normal, StudentT
from mvmise_sm.priors.inner_problem import PenalisedInnerProblem
from mvmise_sm.priors.parse import parse_priors
from mvmise_sm.priors.quadratic import QuadraticPenalty
from mvmise_sm.priors.residual import Point

if TYPE_CHECKING:
    from mvmise_sm.core.covariance.random_effects import RandomEffects

__all__ = ["PriorSet", "TermShape", "resolve_priors", "term_shapes"]

DISTRIBUTIONS: dict[str, tuple[type[Prior], ...]] = {
    "cov": (Gamma, InverseGamma, Wishart, InverseWishart, Custom),
    "fixef": (Normal, StudentT, Laplace, Horseshoe),
    "dispersion": (Normal, StudentT, Laplace, Horseshoe),
    "resid": (Gamma, InverseGamma, Point),
}


@dataclass(frozen=True)
class TermShape:
    """What resolution needs to know of a random-effects term.

    Attributes
    ----------
    factor : str
        Name of the grouping factor.
    q : int
        Number of columns.
    n_groups : int
        Number of levels of the factor.
    independent : bool
        Columns are independent, as in ``(x || g)``: every column gets a prior of its own.
    """

    factor: str
    q: int
    n_groups: int
    independent: bool = False


@dataclass(frozen=True, eq=False)
class PriorSet:
    """The bound priors of a model.

    Attributes
    ----------
    cov : tuple
        For every random-effects term a `CovariancePrior` or None.
    fixef : tuple of QuadraticPenalty
        Independent penalties on beta; empty if flat.
    resid : CovariancePrior or None
    factors : tuple of str
        Grouping factor of every term.
    dispersion : DispersionPrior or None
        Of the family's log d; that of a linear model's residual standard deviation is `resid`.
    """

    cov: tuple[CovariancePrior | None, ...]
    fixef: tuple[QuadraticPenalty, ...] = ()
    resid: CovariancePrior | None = None
    factors: tuple[str, ...] = ()
    dispersion: DispersionPrior | None = None

    @property
    def flat(self) -> bool:
        """True if there is no prior at all."""
        return not self.fixef and self.resid is self.dispersion is None and all(c is None for c in self.cov)

    def __call__(self, nobs: int, k_fe: int, reml: bool, a: np.ndarray, b0: np.ndarray) -> PenalisedInnerProblem:
        """Return the problem in (beta, sigma2) that the profiled deviance asks for."""
        logdet_a = float(np.linalg.slogdet(a)[1]) if k_fe else 0.0
        return PenalisedInnerProblem(self, nobs, k_fe, reml, logdet_a, a, b0)

    def at_corners(self, beta: np.ndarray, s2: float) -> np.ndarray:
        """Coefficients (p,) that a prior with a corner holds there; their curvature is the prior's, not the data's."""
        out = np.zeros(len(beta), dtype=bool)
        for block in self.fixef:
            if block.mixing.corner:
                away = beta - block.mean
                x = float(away @ block.precision @ away) / (s2 if block.common_scale else 1.0)
                out |= (block.precision.diagonal() > 0.0) & (x < block.mixing.corner)
        return out

    def lines(self) -> list[tuple[str, str]]:
        """Label and text of every prior as blme prints them, for example ("Cov prior", "Subject ~ wishart(...)")."""
        texts = [f"{f} ~ {c.describe()}" for f, c in zip(self.factors, self.cov, strict=True) if c is not None]
        out = [("Cov prior" if i == 0 else "", text) for i, text in enumerate(texts)]
        fixef = list(dict.fromkeys(b.text for b in self.fixef))
        out += [("Fixef prior" if i == 0 else "", text) for i, text in enumerate(fixef)]
        if self.resid is not None:
            out.append(("Resid prior", self.resid.describe()))
        if self.dispersion is not None:
            out.append(("Disp prior", self.dispersion.text))
        return out

    def describe(self) -> list[str]:
        """One line of text for every prior, as blme prints them."""
        return [f"{label:<11}: {text}" for label, text in self.lines()]

    def __repr__(self) -> str:
        return "PriorSet(flat)" if self.flat else "\n".join(self.describe())


def term_shapes(random: RandomEffects) -> list[TermShape]:
    """Shapes of the terms of a `RandomEffects`."""
    return [TermShape(t.factor.name, t.q, t.factor.n_levels, t.structure.independent) for t in random.terms]


def resolve_priors(
    cov: Any = None,
    fixef: Any = None,
    resid: str | list[str] | CovariancePrior | None = None,
    *,
    terms: Sequence[TermShape],
    nobs: int,
    fixef_names: Sequence[str],
    has_scale: bool = True,
    sd: Any = None,
    cor: Any = None,
    dispersion: Any = None,
) -> PriorSet:
    """Bind the prior keywords of a model to its dimensions.

    Parameters
    ----------
    cov : Prior, str, dict, sequence or None
        One prior for every term that it fits, a dict by grouping factor, blme's text or a list of texts or priors.
        None and "flat" mean no prior.
    fixef : Prior, str, dict or None
        One prior, text, or a dict by coefficient name.
    resid : Prior, str or None
        One prior or text.
    terms : sequence of TermShape
    nobs : int
    fixef_names : sequence of str
    has_scale : bool, optional
        False for models without a residual scale; they take no residual prior and no common_scale.
    sd, cor : prior, dict by grouping factor, or None
        Priors of standard deviations and of correlation matrices, in place of `cov`.
    dispersion : Prior, str or None
        Prior of the log of the family's dispersion d, or of the residual standard deviation in place of `resid`.

    Returns
    -------
    PriorSet

    Raises
    ------
    OptionError
        If a prior is invalid, names something that is not in the model, or does not fit.
    """
    dims = Dimensions(nobs, len(fixef_names), has_scale=has_scale, fixef_names=tuple(fixef_names))
    if not has_scale and _items(resid, "resid"):
        raise OptionError("resid_prior does not apply: this model has no residual variance.")
    whole = _resolve_covariances(_items(cov, "cov"), terms, dims)
    residual = _resolve_residual(_items(resid, "resid"), dims)
    of_d = bind_dispersion([p for _, p in _items(dispersion, "dispersion")], nobs, "sd" if has_scale else "d")
    if has_scale and of_d is not None:
        if residual is not None:
            raise OptionError("resid_prior and dispersion_prior both give a prior for the residual; give one of them.")
        residual, of_d = LogDeviation(of_d), None
    return PriorSet(
        resolve_decomposed(sd, cor, terms, whole),
        _resolve_fixef(_items(fixef, "fixef"), dims),
        residual,
        tuple(t.factor for t in terms),
        of_d,
    )


def _items(value: Any, role: str) -> list[tuple[str | None, Prior | None]]:
    """Flatten a prior keyword to (name or None, prior or None) pairs; nothing for an unnamed flat prior."""
    if value is None:
        return []
    if isinstance(value, str):
        classes = {cls.name: cls for cls in DISTRIBUTIONS[role]}
        found = parse_priors(value, "fixef" if role == "dispersion" else role, classes)
        return [(name, prior) for name, prior in found if name is not None or prior is not None]
    if isinstance(value, type) and issubclass(value, Prior):
        value = value()
    if isinstance(value, Prior):
        return [(None, of_coefficients(value) if role == "fixef" else value)]
    if isinstance(value, Mapping):
        return [(str(name), prior) for name, given in value.items() for prior in _one(given, role, name)]
    if isinstance(value, Sequence):
        return [item for given in value for item in _items(given, role)]
    names = ", ".join(cls.__name__ for cls in DISTRIBUTIONS[role])
    raise OptionError(f"{role}_prior must be a prior ({names}), text, a dict, or None, got {value!r}.")


def _one(given: Any, role: str, name: str) -> list[Prior | None]:
    """The single prior of a dict entry, [None] for a flat one."""
    items = _items(given, role)
    if len(items) > 1 or any(inner is not None for inner, _ in items):
        raise OptionError(f"{role}_prior for {name!r} must be one prior without a name of its own, got {given!r}.")
    return [items[0][1]] if items else [None]


def _resolve_covariances(
    items: list[tuple[str | None, Any]], terms: Sequence[TermShape], dims: Dimensions
) -> tuple[Any, ...]:
    defaults = [prior for name, prior in items if name is None]
    if len(defaults) > 1:
        raise OptionError(
            f"cov_prior has {len(defaults)} priors without a grouping factor ({', '.join(map(repr, defaults))}); "
            "give one default and name the factors of the others."
        )
    factors = list(dict.fromkeys(t.factor for t in terms))
    named: dict[str, Prior | None] = {}
    for name, prior in items:
        if name is None:
            continue
        if name not in factors:
            raise OptionError(
                f"cov_prior names grouping factor {name!r}, which is not in the model ({', '.join(factors)})."
            )
        if name in named:
            raise OptionError(f"cov_prior names grouping factor {name!r} twice.")
        named[name] = prior
    bound: list[CovariancePrior | None] = [None] * len(terms)
    for name, prior in named.items():
        mine = [i for i, t in enumerate(terms) if t.factor == name]
        _spread(prior, mine, terms, dims, bound, f"cov_prior for {name!r}")
    if defaults:
        rest = [i for i, t in enumerate(terms) if t.factor not in named]
        _spread(defaults[0], rest, terms, dims, bound, "cov_prior")
    return tuple(bound)


def _spread(
    prior: Any,
    positions: list[int],
    terms: Sequence[TermShape],
    dims: Dimensions,
    bound: list[CovariancePrior | None],
    label: str,
) -> None:
    """Bind one prior to those of the terms that it fits; OptionError if it fits none."""
    if prior is None or not positions:
        return
    if not isinstance(prior, Prior):
        raise OptionError(f"{label} must be a prior, got {prior!r}.")
    fits = [i for i in positions if not prior.scalar or terms[i].q == 1 or terms[i].independent]
    if not fits:
        sizes = ", ".join(f"{terms[i].factor} has {terms[i].q}" for i in positions)
        raise OptionError(
            f"{label}: {prior.name} is a prior for terms with one column, but {sizes}; use wishart or invwishart."
        )
    for i in fits:
        term = terms[i]
        mine = replace(dims, level_dim=1 if term.independent else term.q, n_groups=term.n_groups)
        if term.independent and term.q > 1:
            bound[i] = Independent([prior.covariance(mine) for _ in range(term.q)])
        else:
            bound[i] = prior.covariance(mine)


def _resolve_fixef(items: list[tuple[str | None, Any]], dims: Dimensions) -> tuple[QuadraticPenalty, ...]:
    named = {name: prior for name, prior in items if name is not None}
    unnamed = [prior for name, prior in items if name is None]
    if len(unnamed) > 1 or (unnamed and named) or len(named) < len(items) - len(unnamed):
        raise OptionError("fixef_prior must be one prior, or a dict with one prior for each named coefficient.")
    if named:
        return Coefficients(named).fixef(dims)
    return unnamed[0].fixef(dims) if unnamed else ()


def _resolve_residual(items: list[tuple[str | None, Any]], dims: Dimensions) -> CovariancePrior | None:
    if len(items) > 1 or any(name is not None for name, _ in items):
        raise OptionError(f"resid_prior must be one {ROLES['resid']} prior.")
    return items[0][1].residual(dims) if items else None
