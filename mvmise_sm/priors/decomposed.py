"""A covariance prior that is a product: densities of the standard deviations times one of the correlations."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mvmise_sm.exceptions import OptionError
from mvmise_sm.priors.base import CovariancePrior
from mvmise_sm.priors.deviations import LKJ, DeviationPrior, of_deviations

if TYPE_CHECKING:
    from mvmise_sm.priors.resolve import TermShape

__all__ = ["Decomposed", "resolve_decomposed"]

# of the largest variance, which is 0
_ZERO_SHARE = 1e-16

_CLASSES: dict[str, tuple[type, str]] = {
    "sd_prior": (DeviationPrior, "HalfNormal, HalfT, HalfCauchy, Exponential, PC or a density of your own"),
    "cor_prior": (LKJ, "LKJ"),
}


class Decomposed(CovariancePrior):
    """Prior of Sigma = diag(sd) R diag(sd): densities of the absolute sd and of R, without Jacobian.

    Parameters
    ----------
    deviations : sequence of DeviationPrior or None
        One for each column (q,), None for flat ones.
    correlation : LKJ or None
        None for a flat one.
    q : int
        Number of columns.
    independent : bool, optional
        Whether the columns have no correlations.

    Notes
    -----
    The density of R is taken over the columns with a positive standard deviation: its limit at a standard deviation of
    0 depends on the way there, and the largest one belongs to an uncorrelated column.
    """

    common_scale = False

    def __init__(
        self,
        deviations: Sequence[DeviationPrior] | None,
        correlation: LKJ | None,
        q: int,
        independent: bool = False,
    ) -> None:
        super().__init__()
        self.deviations = None if deviations is None else tuple(deviations)
        self.correlation = correlation
        self.power = 0.0 if correlation is None else 2.0 * (correlation.eta - 1.0)
        self.constant = 0.0 if correlation is None else correlation.constant(q)
        self.attracts = any(d.attracts for d in self.deviations or ())
        # a mode at a standard deviation of 0 has to be reached, whatever keeps correlations off 1
        away = self.deviations is not None and all(d.at_zero == "repels" for d in self.deviations)
        self.repels = (away and (q == 1 or independent)) or (self.power > 0.0 and not self.attracts)

    def value(self, s: np.ndarray) -> float:
        """Return -2 log density at S (q, q)."""
        out = self.constant + sum(d.in_variance(v)[0] for d, v in self._by_column(s))
        if not self.power:
            return out
        kept = self._kept(s)
        spread = np.sqrt(s.diagonal()[kept])
        sign, logdet = np.linalg.slogdet(s[np.ix_(kept, kept)] / np.multiply.outer(spread, spread))
        return out - self.power * float(logdet) if sign > 0.0 else math.inf

    def gradient(self, s: np.ndarray) -> np.ndarray:
        """Return the symmetric derivative of `value` in S (q, q)."""
        out = np.zeros_like(s)
        for j, (density, v) in enumerate(self._by_column(s)):
            out[j, j] = density.in_variance(v)[1]
        if self.power:
            inverse, at, own = self._inverse(s)
            out[at] -= self.power * (inverse - np.diag(own))
        return out

    def hessian(self, s: np.ndarray) -> np.ndarray:
        """Return the second derivative of `value` at S (q, q) in vec(S), (q * q, q * q)."""
        q = s.shape[0]
        out = np.zeros((q, q, q, q))
        for j, (density, v) in enumerate(self._by_column(s)):
            out[j, j, j, j] = density.in_variance(v)[2]
        if self.power:
            inverse, at, own = self._inverse(s)
            wide, squares = np.zeros((q, q)), np.zeros((q, q))
            wide[at], squares[at] = inverse, np.diag(own**2)
            out += self.power * np.einsum("ac,bd->abcd", wide, wide)
            each = np.arange(q)
            out[each, each, each, each] -= self.power * squares.diagonal()
        return out.reshape(q * q, q * q)

    def radial(self, s: np.ndarray) -> np.ndarray:
        """Return the mixed derivative in S and the scale (q, q); correlations have no scale."""
        out = np.zeros_like(s)
        for j, (density, v) in enumerate(self._by_column(s)):
            _, slope, curvature = density.in_variance(v)
            out[j, j] = slope + v * curvature
        return out

    def along(self, s: np.ndarray) -> Callable[[float], tuple[float, float, float]]:
        """Return the penalty as a function of log sigma2, which correlations do not depend on."""
        columns = self._by_column(s)
        rest = self.value(s) - sum(d.in_variance(v)[0] for d, v in columns)

        def function(rho: float) -> tuple[float, float, float]:
            value, first, second = rest, 0.0, 0.0
            for density, v in columns:
                scaled = v * math.exp(rho)
                at, slope, bend = density.in_variance(scaled)
                value += at
                first += slope * scaled
                second += slope * scaled + bend * scaled**2
            return value, first, second

        return function

    def describe(self) -> str:
        """Return the text that results print."""
        found = list(dict.fromkeys(d.describe() for d in self.deviations or ()))
        parts = [f"sd {' x '.join(found)}"] if found else []
        if self.correlation is not None:
            parts.append(f"cor {self.correlation.describe()}")
        return ", ".join(parts)

    def _by_column(self, s: np.ndarray) -> list[tuple[DeviationPrior, float]]:
        variances = [max(float(v), 0.0) for v in s.diagonal()]
        return [] if self.deviations is None else list(zip(self.deviations, variances, strict=True))

    def _kept(self, s: np.ndarray) -> np.ndarray:
        """Columns whose variance is not 0, but for the rounding of a change of coordinates."""
        variances = s.diagonal()
        return np.flatnonzero(variances > _ZERO_SHARE * max(float(variances.max()), 0.0))

    def _inverse(self, s: np.ndarray) -> tuple[np.ndarray, Any, np.ndarray]:
        """Inverse of the block of positive variances, its place in S, and one over these variances; zeros where the
        density is zero.
        """
        kept = self._kept(s)
        at = np.ix_(kept, kept)
        variances = s.diagonal()[kept]
        spread = np.sqrt(variances)
        try:
            inverse = np.linalg.inv(s[at] / np.multiply.outer(spread, spread))
        except np.linalg.LinAlgError:
            return np.zeros((kept.size, kept.size)), at, np.zeros(kept.size)
        return inverse / np.multiply.outer(spread, spread), at, 1.0 / variances


def resolve_decomposed(
    sd: Any, cor: Any, terms: Sequence[TermShape], given: Sequence[CovariancePrior | None]
) -> tuple[CovariancePrior | None, ...]:
    """The covariance priors of the terms, those from `sd_prior` and `cor_prior` among them.

    Parameters
    ----------
    sd, cor : prior, dict by grouping factor, or None
    terms : sequence of TermShape
    given : sequence of CovariancePrior or None
        What `cov_prior` says of every term.

    Raises
    ------
    OptionError
        If a prior is none of its kind, names something that is not in the model, or competes with `cov_prior`.
    """
    deviations, correlations = _by_term("sd_prior", sd, terms), _by_term("cor_prior", cor, terms)
    out = list(given)
    for t, (term, own, joint) in enumerate(zip(terms, deviations, correlations, strict=True)):
        if own is None and joint is None:
            continue
        keyword = "sd_prior" if own is not None else "cor_prior"
        if given[t] is not None:
            raise OptionError(
                f"cov_prior and {keyword} both give a prior for the random effects of {term.factor!r}; give one of "
                "them (blmer and bglmer have a cov_prior by default, cov_prior=None takes it away)."
            )
        columns = _columns(own, term)
        out[t] = Decomposed(columns, joint, term.q, term.independent)
    return tuple(out)


def _by_term(keyword: str, given: Any, terms: Sequence[TermShape]) -> list[Any]:
    """What a keyword says of every term, None for nothing."""
    out: list[Any] = [None] * len(terms)
    if given is None:
        return out
    factors = list(dict.fromkeys(t.factor for t in terms))
    if not factors:
        raise OptionError(f"{keyword} does not apply: the model has no random effects.")
    named = given if isinstance(given, Mapping) else dict.fromkeys(factors, given)
    for name, value in named.items():
        if name not in factors:
            raise OptionError(f"{keyword} names {name!r}, the grouping factors of the model are {', '.join(factors)}.")
        if value is None:
            continue
        mine = [t for t, term in enumerate(terms) if term.factor == name]
        if keyword == "sd_prior":
            value = [of_deviations(v) for v in value] if isinstance(value, (list, tuple)) else of_deviations(value)
        _check_kind(keyword, name, value)
        width, start = sum(terms[t].q for t in mine), 0
        for t in mine:
            if isinstance(value, (list, tuple)) and len(value) == width:
                # columns of a factor may stand in several terms, as those of (x || g) do
                out[t] = value[start : start + terms[t].q]
                start += terms[t].q
                continue
            if keyword == "sd_prior" or (terms[t].q > 1 and not terms[t].independent):
                out[t] = value
        if isinstance(given, Mapping) and all(out[t] is None for t in mine):
            raise OptionError(f"cor_prior for {name!r}: its random effects have no correlations; leave it out.")
    if named and all(v is None for v in out) and any(v is not None for v in named.values()):
        raise OptionError(f"{keyword} does not apply: no term of the model has correlations; leave it out.")
    return out


def _check_kind(keyword: str, name: str, value: Any) -> None:
    kind, words = _CLASSES[keyword]
    several = keyword == "sd_prior" and isinstance(value, (list, tuple)) and len(value) > 0
    for one in value if several else (value,):
        if not isinstance(one, kind):
            more = ", one of them for each column," if several else ""
            raise OptionError(f"{keyword} for {name!r} must be {words}{more} or None, got {one!r}.")


def _columns(own: Any, term: TermShape) -> Sequence[DeviationPrior] | None:
    """The densities of a term's columns."""
    if own is None or isinstance(own, (list, tuple)):
        if own is not None and len(own) != term.q:
            raise OptionError(
                f"sd_prior for {term.factor!r} has {len(own)} priors, a term of it {term.q} "
                f"column{'s' * (term.q > 1)}; give one prior, or one for each column of all its terms."
            )
        return own
    return (own,) * term.q
