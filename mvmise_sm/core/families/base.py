"""What a response family answers, and the derivatives of its log density."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from mvmise_sm.core.families.jets import variables
from mvmise_sm.core.families.links import Link, as_link
from mvmise_sm.core.families.mean import MeanFunction

__all__ = ["Family", "compose", "through_link"]

Derivatives = dict[tuple[int, ...], Any]


class Family:
    """A distribution of the response given the linear predictor.

    A family of one's own derives from this class and gives `log_density`, `variance`, `simulate` and `check`;
    everything else has a default. With m the mean and d the dispersion, ``log d`` is a linear predictor of its own.

    Parameters
    ----------
    link : str or Link, optional
        The first of `links` by default.

    Attributes
    ----------
    name : str
        As typed in ``family=``.
    links : tuple of str
        Allowed links, the default first.
    has_dispersion : bool
        Whether the density has a dispersion d, estimated and open to ``dispersion="~ x"``.
    integer : bool
        Whether responses are whole numbers.
    trials : bool
        Whether the weights are numbers of trials, which the density needs; other weights multiply the log density.
    zero_part : str or None
        ``"inflated"`` where ``zero_inflation`` adds zeros, ``"hurdle"`` where it takes them all, None where there can
        be none.
    shape_names : tuple of str
        Further parameters, see `shape_start` and `shape_value`.
    edges : tuple of float
        Responses at which estimates can run to infinity (0 for counts, 0 and 1 for proportions).

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.special import gammaln
    >>> from mvmise_sm.families import Family
    >>> class Counts(Family):
    ...     name, integer = "counts", True
    ...     def log_density(self, y, w, parts, shape):
    ...         eta = parts[0]
    ...         return y * eta - np.exp(eta) - gammaln(y + 1.0)
    ...     def variance(self, mean, d=1.0, shape=()):
    ...         return mean
    ...     def simulate(self, rng, mean, w=None, d=1.0, shape=()):
    ...         return rng.poisson(mean).astype(float)
    ...     def check(self, y, w=None):
    ...         if (y < 0).any() or (y != np.floor(y)).any():
    ...             return "counts must be whole numbers that are not negative"
    >>> Counts()
    <family counts(log)>
    """

    name: str = ""
    label: str = ""
    # what users call it, if not `name`
    alias: str = ""
    links: tuple[str, ...] = ("log",)
    has_dispersion: bool = False
    integer: bool = False
    trials: bool = False
    zero_part: str | None = None
    shape_names: tuple[str, ...] = ()
    edges: tuple[float, ...] = ()
    # whether the response is a threshold of a continuous one, with the variance that the link stands for
    latent: bool = False
    # links with which the log density is concave in the linear predictor, so that conditional modes are unique
    concave_links: tuple[str, ...] = ()
    # open range of the mean where a link may leave it, None where every predictor is allowed
    mean_range: tuple[float, float] | None = None
    # whether a continuous response can be exactly zero
    zero_mass: bool = False
    # weights divide the dispersion instead of multiplying the log density
    weights_scale: bool = False
    # whether only `links` may be typed
    strict_links: bool = True
    # whether the mean is a multiple of the exponential of the linear predictor whatever the link
    log_mean: bool = False
    # where d goes when the data do not call for it, and what to fit then
    limit: ClassVar[tuple[str, str] | None] = None

    def __init__(self, link: Any = None):
        self.link: Link = as_link(self.links[0] if link is None else link)

    # --- what a family of one's own gives

    def log_density(self, y: np.ndarray, w: np.ndarray | None, parts: tuple, shape: Sequence) -> Any:
        """Log density by row.

        Parameters
        ----------
        y : ndarray
            Response (n,).
        w : ndarray or None
            Numbers of trials (n,) where `trials`, None otherwise.
        parts : tuple
            Linear predictors (conditional, zero, dispersion); the zero part is always None here because it is mixed in
            outside, the dispersion is log d, or None without `has_dispersion`. Arrays, or jets that numpy's functions
            take like arrays.
        shape : sequence
            Working values of the parameters `shape_names`.
        """
        raise NotImplementedError(f"family {type(self).__name__} has no log_density(y, w, parts, shape)")

    def variance(self, mean: np.ndarray, d: Any = 1.0, shape: Sequence = ()) -> np.ndarray:
        """Variance of a response of weight one with this mean and dispersion d (n,)."""
        raise NotImplementedError(f"family {type(self).__name__} has no variance(mean, d, shape)")

    def simulate(
        self, rng: np.random.Generator, mean: np.ndarray, w: Any = None, d: Any = 1.0, shape: Sequence = ()
    ) -> np.ndarray:
        """Draw one response for each mean (n,)."""
        raise NotImplementedError(f"family {type(self).__name__} has no simulate(rng, mean, w, d, shape)")

    def check(self, y: np.ndarray, w: np.ndarray | None = None) -> str | None:
        """What is wrong with a response in one sentence, or None; a ValueError with the sentence does the same."""
        return None

    # --- what has a default

    def mean(self, eta: np.ndarray, d: Any = 1.0, shape: Sequence = ()) -> np.ndarray:
        """Mean at a linear predictor (n,)."""
        return self.link.inverse(eta)

    @property
    def own_mean(self) -> bool:
        """Whether the mean is something else than the link's inverse."""
        return type(self).mean is not Family.mean

    def mean_link(self, d: Any = 1.0, shape: Sequence = ()) -> Any:
        """What takes linear predictors to means: an object with ``inverse`` and ``inverse_deriv``."""
        return MeanFunction(self, d, shape) if self.own_mean else self.link

    def centre(self, eta: np.ndarray, d: Any = 1.0, shape: Sequence = ()) -> np.ndarray:
        """What `simulate`, `cdf` and `quantile` take as their mean (n,)."""
        return self.mean(eta, d, shape)

    def link_variance(self, mean: Any, d: Any = 1.0, shape: Sequence = ()) -> float:
        """Variance of a response about this mean on the scale of the link (Nakagawa, Johnson and Schielzeth 2017)."""
        variance = float(np.mean(self.variance(mean, d, shape)))
        if self.link.name == "log":
            # variance of the logarithm of a lognormal variable with this squared coefficient of variation
            return float(np.log1p(variance / mean**2))
        return float(variance * self.link.deriv(mean) ** 2)

    def moments(self, eta: np.ndarray, d: Any = 1.0, shape: Sequence = (), w: Any = None) -> tuple[Any, Any]:
        """Mean and variance of the response at a linear predictor, each (n,)."""
        mean = self.mean(eta, d, shape)
        return mean, self.variance(mean, d, shape) / (1.0 if w is None else w)

    def draw(
        self, rng: np.random.Generator, eta: np.ndarray, w: Any = None, d: Any = 1.0, shape: Sequence = ()
    ) -> np.ndarray:
        """Draw one response for each linear predictor (n,)."""
        return self.simulate(rng, self.centre(eta, d, shape), w, d, shape)

    def cdf(self, y: Any, mean: np.ndarray, w: Any = None, d: Any = 1.0, shape: Sequence = ()) -> Any:
        """Probability of a response up to `y` (n,), or None where it is found from simulated responses."""
        return None

    def distribution(self, y: Any, eta: np.ndarray, w: Any = None, d: Any = 1.0, shape: Sequence = ()) -> Any:
        """The same at a linear predictor."""
        return self.cdf(y, self.centre(eta, d, shape), w, d, shape)

    def quantile(self, u: Any, mean: np.ndarray, w: Any = None, d: Any = 1.0, shape: Sequence = ()) -> Any:
        """Response below which a share u lies, or None where it is found from simulated responses."""
        return None

    def start(self, y: np.ndarray, w: np.ndarray | None = None) -> np.ndarray:
        """A linear predictor not far from the response (n,): responses drawn half-way to their mean."""
        middle = float(np.average(y, weights=w))
        with np.errstate(all="ignore"):
            eta = self.link(0.5 * (y + middle))
        flat = self.link(np.full(y.shape, middle))
        return np.where(np.isfinite(eta), eta, flat)

    def start_dispersion(self, y: np.ndarray, w: np.ndarray | None = None) -> float:
        """Where log d starts."""
        return 0.3

    def shape_start(self) -> tuple[float, ...]:
        """Working values at which the parameters `shape_names` start."""
        return ()

    def shape_value(self, shape: Sequence) -> tuple[float, ...]:
        """Parameters `shape_names` for their working values."""
        return tuple(float(s) for s in shape)

    def deviance_rows(self, y: Any, mu: Any, w: Any = None, d: Any = 1.0, shape: Sequence = ()) -> np.ndarray:
        """Contributions to the deviance (n,): twice the log density at mean y less that at mean mu."""
        parts = np.log(d) * np.ones_like(mu) if self.has_dispersion else None
        with np.errstate(all="ignore"):
            best = self.log_density(y, w if self.trials else None, (self._near(y), None, parts), shape)
            here = self.log_density(y, w if self.trials else None, (self.link(mu), None, parts), shape)
        rows = 2.0 * (best - here)
        return rows if w is None or self.trials else w * rows

    def _near(self, y: np.ndarray) -> np.ndarray:
        """Linear predictor whose mean is y, or nearly where no finite one is."""
        with np.errstate(all="ignore"):
            eta = self.link(y)
        limit = 30.0 * np.ones_like(y)
        return np.where(np.isfinite(eta), eta, np.where(y > 0.5, limit, -limit))

    # --- derivatives

    def expand(self, y: np.ndarray, w: Any, predictors: Sequence, full: bool) -> Derivatives:
        """Log density and derivatives by row.

        Parameters
        ----------
        y : ndarray
            (n,).
        w : ndarray or None
            Numbers of trials where the family has them.
        predictors : sequence
            eta (n,), then log d (n,) with `has_dispersion`, then the working shapes (n,).
        full : bool
            Derivatives in all of them up to the third order, otherwise in eta up to the second.

        Returns
        -------
        dict
            Arrays by sorted tuple of positions in `predictors`; missing ones are zero.
        """
        moving = list(predictors) if full else [predictors[0]]
        jets = variables(moving, 3 if full else 2) + list(predictors[len(moving) :])
        disp = jets[1] if self.has_dispersion else None
        shape = jets[2:] if self.has_dispersion else jets[1:]
        with np.errstate(all="ignore"):
            out = self.log_density(y, w, (jets[0], None, disp), shape)
        return out.derivatives()

    def row_constant(self, y: np.ndarray, w: Any, others: Sequence) -> Any:
        """What `expand` leaves out of the log density unless `full`: terms without eta, costly to repeat (n,)."""
        return None

    def inverse(self, eta: Any) -> Any:
        """Mean at a linear predictor that may be a jet."""
        if not hasattr(eta, "compose"):
            return self.link.inverse(eta)
        mu, _, d1, d2 = self.link.rows(eta.value)
        return eta.compose(mu, d1, d2, self.link.third(eta.value, d1, d2))

    def response(self, y: np.ndarray, w: np.ndarray | None, curvature: str = "observed") -> Any:
        """Rows for the engine of one linear predictor, None where the family needs that of several."""
        return None

    @property
    def spoken(self) -> str:
        """The family's name in messages."""
        return self.alias or self.name

    def shown(self) -> str:
        """The family's name in tables."""
        return self.label or self.name

    def __repr__(self) -> str:
        return f"<family {self.name}({self.link.name})>"

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and repr(self) == repr(other) and _plain(self) == _plain(other)

    def __hash__(self) -> int:
        return hash((type(self), repr(self)))


def _plain(family: Family) -> dict:
    return {k: v for k, v in vars(family).items() if k != "link"}


def through_link(link: Link, eta: np.ndarray, slopes: Derivatives, full: bool) -> Derivatives:
    """Derivatives in eta for derivatives in the mean; other variables stay as they are."""
    _, _, m1, m2 = link.rows(eta)
    out: Derivatives = {(): slopes[()], (0,): slopes[(0,)] * m1}
    out[(0, 0)] = slopes[(0, 0)] * m1 * m1 + slopes[(0,)] * m2
    if not full:
        return out
    m3 = link.third(eta, m1, m2)
    out[(0, 0, 0)] = slopes[(0, 0, 0)] * m1**3 + 3.0 * slopes[(0, 0)] * m1 * m2 + slopes[(0,)] * m3
    for key, value in slopes.items():
        if len(key) == 2 and key[0] == 0 and key[1] > 0:
            out[key] = value * m1
        elif len(key) == 3 and key[:2] == (0, 0) and key[2] > 0:
            out[key] = value * m1 * m1 + slopes[(0, key[2])] * m2
        elif key and key[0] > 0:
            out[key] = value
    return out


def compose(outer: Sequence, inner: Derivatives) -> Derivatives:
    """Derivatives of F(g) for F and its derivatives at g, and those of g: first, second, and third in (0, 0, v)."""
    f0, f1, f2, f3 = outer
    out: Derivatives = {(): f0}
    singles = {k[0]: v for k, v in inner.items() if len(k) == 1}
    for a, first in singles.items():
        out[(a,)] = f1 * first
    for a in singles:
        for b in singles:
            if a <= b:
                out[(a, b)] = f2 * singles[a] * singles[b] + f1 * inner.get((a, b), 0.0)
    if f3 is None:
        return out
    g0, g00 = singles[0], inner.get((0, 0), 0.0)
    for v, gv in singles.items():
        cross = g00 * gv + 2.0 * g0 * inner.get((0, v), 0.0)
        out[(0, 0, v)] = f3 * g0 * g0 * gv + f2 * cross + f1 * inner.get((0, 0, v), 0.0)
    return out
