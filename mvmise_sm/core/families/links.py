"""Inverse links with three derivatives, stable in the tails where statsmodels clips."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import expit, log_ndtr, logit, ndtr, ndtri

__all__ = ["LINKS", "Link", "as_link"]

# beyond these linear predictors the square of a tail probability underflows
_PROBIT_LIMIT = 26.0
_CLOGLOG_LIMITS = (-340.0, 5.8)
# step of the third derivative of links that know only two
_THIRD_STEP = 1e-4


class Link:
    """A link: the linear predictor as a function of the mean, and back.

    Attributes
    ----------
    name : str
        As in ``family="binomial(probit)"``.
    label : str
        As shown in tables.
    separable : bool
        Whether responses at the edge of their range can send estimates to infinity (logit, log, ...).
    whole_line : bool
        Whether every linear predictor is a mean that the family allows.
    """

    name = ""
    label = ""
    separable = True
    whole_line = True

    def __call__(self, mu: np.ndarray) -> np.ndarray:
        """Linear predictor at a mean."""
        raise NotImplementedError

    def rows(self, eta: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Mean, one minus the mean, and the first two derivatives of the mean (nobs,)."""
        raise NotImplementedError

    def third(self, eta: np.ndarray, d1: np.ndarray, d2: np.ndarray) -> np.ndarray:
        """Third derivative of the mean, given the first two."""
        raise NotImplementedError

    def log_mean(self, eta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Logarithms of the mean and of one minus the mean, for probabilities."""
        mu, nu, _, _ = self.rows(eta)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.log(mu), np.log(nu)

    def inverse(self, eta: Any) -> np.ndarray:
        """Mean at a linear predictor."""
        return self.rows(np.asarray(eta, dtype=float))[0]

    def inverse_deriv(self, eta: Any) -> np.ndarray:
        """Derivative of the mean."""
        return self.rows(np.asarray(eta, dtype=float))[2]

    def inverse_deriv2(self, eta: Any) -> np.ndarray:
        """Second derivative of the mean."""
        return self.rows(np.asarray(eta, dtype=float))[3]

    def deriv(self, mu: Any) -> np.ndarray:
        """Derivative of the link in the mean."""
        return 1.0 / self.inverse_deriv(self(np.asarray(mu, dtype=float)))

    def __repr__(self) -> str:
        return f"<link {self.name}>"


class Logit(Link):
    """log(mu / (1 - mu))."""

    name, label = "logit", "Logit"

    def __call__(self, mu: np.ndarray) -> np.ndarray:
        return logit(mu)

    def rows(self, eta: Any) -> Any:
        mu, nu = expit(eta), expit(-eta)
        d1 = mu * nu
        return mu, nu, d1, d1 * (nu - mu)

    def third(self, eta: Any, d1: Any, d2: Any) -> Any:
        return d1 * (1.0 - 6.0 * d1)

    def log_mean(self, eta: Any) -> Any:
        return -np.logaddexp(0.0, -eta), -np.logaddexp(0.0, eta)


class Probit(Link):
    """Normal quantile."""

    name, label = "probit", "Probit"

    def __call__(self, mu: Any) -> Any:
        return ndtri(mu)

    def rows(self, eta: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        eta = np.clip(eta, -_PROBIT_LIMIT, _PROBIT_LIMIT)
        d1 = np.exp(-0.5 * eta * eta) / np.sqrt(2.0 * np.pi)
        return ndtr(eta), ndtr(-eta), d1, -eta * d1

    def third(self, eta: Any, d1: Any, d2: Any) -> Any:
        eta = np.clip(eta, -_PROBIT_LIMIT, _PROBIT_LIMIT)
        return (eta * eta - 1.0) * d1

    def log_mean(self, eta: Any) -> Any:
        return log_ndtr(eta), log_ndtr(-eta)


class CLogLog(Link):
    """log(-log(1 - mu))."""

    name, label = "cloglog", "CLogLog"

    def __call__(self, mu: np.ndarray) -> np.ndarray:
        return np.log(-np.log1p(-mu))

    def rows(self, eta: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        e = np.exp(np.clip(eta, *_CLOGLOG_LIMITS))
        nu = np.exp(-e)
        d1 = e * nu
        return -np.expm1(-e), nu, d1, d1 * (1.0 - e)

    def third(self, eta: np.ndarray, d1: np.ndarray, d2: np.ndarray) -> np.ndarray:
        e = np.exp(np.clip(eta, *_CLOGLOG_LIMITS))
        return d1 * (1.0 - 3.0 * e + e * e)


class LogLog(Link):
    """-log(-log(mu))."""

    name, label = "loglog", "LogLog"

    def __call__(self, mu: Any) -> Any:
        return -np.log(-np.log(mu))

    def rows(self, eta: Any) -> Any:
        e = np.exp(np.clip(-eta, *_CLOGLOG_LIMITS))
        mu = np.exp(-e)
        d1 = e * mu
        return mu, -np.expm1(-e), d1, d1 * (e - 1.0)

    def third(self, eta: Any, d1: Any, d2: Any) -> Any:
        e = np.exp(np.clip(-eta, *_CLOGLOG_LIMITS))
        return d1 * (1.0 - 3.0 * e + e * e)


class Cauchit(Link):
    """Cauchy quantile."""

    name, label = "cauchit", "Cauchy"

    def __call__(self, mu: Any) -> Any:
        return np.tan(np.pi * (mu - 0.5))

    def rows(self, eta: Any) -> Any:
        d1 = 1.0 / (np.pi * (1.0 + eta * eta))
        # arctan2 keeps the small tail exact
        return np.arctan2(1.0, -eta) / np.pi, np.arctan2(1.0, eta) / np.pi, d1, -2.0 * np.pi * eta * d1 * d1

    def third(self, eta: Any, d1: Any, d2: Any) -> Any:
        return -2.0 * np.pi * d1 * (d1 + 2.0 * eta * d2)


class Log(Link):
    """log(mu)."""

    name, label = "log", "Log"

    def __call__(self, mu: np.ndarray) -> np.ndarray:
        return np.log(mu)

    def rows(self, eta: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        with np.errstate(over="ignore"):
            mu = np.exp(eta)
        return mu, 1.0 - mu, mu, mu

    def third(self, eta: Any, d1: Any, d2: Any) -> Any:
        return d1


class Identity(Link):
    """mu."""

    name, label, separable = "identity", "Identity", False

    def __call__(self, mu: np.ndarray) -> np.ndarray:
        return np.array(mu, dtype=float)

    def rows(self, eta: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        return eta, 1.0 - eta, np.ones_like(eta), np.zeros_like(eta)

    def third(self, eta: Any, d1: Any, d2: Any) -> Any:
        return np.zeros_like(eta)


class _Power(Link):
    """mu ** power."""

    power = 1.0
    separable = whole_line = False

    def __call__(self, mu: Any) -> Any:
        return np.power(mu, self.power)

    def rows(self, eta: Any) -> Any:
        k = 1.0 / self.power
        with np.errstate(all="ignore"):
            mu = np.power(eta, k)
            return mu, 1.0 - mu, k * np.power(eta, k - 1.0), k * (k - 1.0) * np.power(eta, k - 2.0)

    def third(self, eta: Any, d1: Any, d2: Any) -> Any:
        k = 1.0 / self.power
        with np.errstate(all="ignore"):
            return k * (k - 1.0) * (k - 2.0) * np.power(eta, k - 3.0)


class Inverse(_Power):
    """1 / mu."""

    name, label, power = "inverse", "InversePower", -1.0


class InverseSquared(_Power):
    """1 / mu^2."""

    name, label, power = "1/mu^2", "InverseSquared", -2.0


class Sqrt(_Power):
    """Square root."""

    name, label, power = "sqrt", "Sqrt", 0.5


class ForeignLink(Link):
    """A link by its own methods, statsmodels' for example.

    Parameters
    ----------
    link : object
        Callable on means, with ``inverse``, ``inverse_deriv`` and ``inverse_deriv2``.
    """

    separable = whole_line = False

    def __init__(self, link: Any) -> None:
        self.link = link
        self.name = self.label = type(link).__name__

    def __call__(self, mu: Any) -> Any:
        return self.link(mu)

    def rows(self, eta: Any) -> Any:
        with np.errstate(all="ignore"):
            mu = self.link.inverse(eta)
            return mu, 1.0 - mu, self.link.inverse_deriv(eta), self.link.inverse_deriv2(eta)

    def third(self, eta: Any, d1: Any, d2: Any) -> Any:
        step = _THIRD_STEP * np.maximum(np.abs(eta), 0.1)
        with np.errstate(all="ignore"):
            return (self.link.inverse_deriv2(eta + step) - self.link.inverse_deriv2(eta - step)) / (2.0 * step)


LINKS: dict[str, type[Link]] = {
    cls.name: cls for cls in (Logit, Probit, CLogLog, LogLog, Cauchit, Log, Identity, Inverse, InverseSquared, Sqrt)
}
_LINK_MEMBERS = ("inverse", "inverse_deriv", "inverse_deriv2")
_BY_LABEL = {cls.label: cls for cls in LINKS.values()}


def as_link(link: Any) -> Link:
    """The `Link` for a name, one of ours, or a statsmodels link.

    Raises
    ------
    OptionError
        If the name is unknown, or it is no link.
    """
    if isinstance(link, Link):
        return link
    if isinstance(link, str) and link in LINKS:
        return LINKS[link]()
    # families load without statsmodels, whose classes the errors derive from
    from mvmise_sm.exceptions import OptionError
    from mvmise_sm.option_values import short

    if isinstance(link, str):
        raise OptionError(f"link must be one of {', '.join(LINKS)}, got {short(link)}")
    if not callable(link) or not all(callable(getattr(link, name, None)) for name in _LINK_MEMBERS):
        names = ", ".join(LINKS)
        raise OptionError(f"link must be a name, one of {names}, or a link of statsmodels, got {short(link)}")
    stable = _BY_LABEL.get(type(link).__name__)
    if stable is None:
        return ForeignLink(link)
    # a subclass of statsmodels' power link may carry an exponent of its own
    power = getattr(stable, "power", None)
    return stable() if power is None or getattr(link, "power", power) == power else ForeignLink(link)
