"""A detection curve: the mechanism of single values, estimated over many features."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from mvmise_sm.exceptions import OptionError
from mvmise_sm.option_values import short
from mvmise_sm.options import answering
from mvmise_sm.selection.mechanism import Held, Mechanism
from mvmise_sm.selection.mechanism_check import find_mechanism

__all__ = ["METHODS", "DetectionCurve"]

METHODS = ("adjusted", "profile", "observed-normal")


@answering
@dataclass(frozen=True, eq=False)
class DetectionCurve:
    """The probability that a value is missing, as a function of the value; `detection_curve` makes it.

    Attributes
    ----------
    mechanism : Mechanism
        F.
    params, bse : Series
        ``Intercept`` and ``y`` of the probability of being MISSING, and their standard errors.
    cov : DataFrame
        Covariance of `params`.
    theta : float or None
        The relative standard deviation of the random term that all features share; None if each has its own.
    offsets : Series or None
        One number per run that is added to eta, with sum zero; by the labels of the runs.
    table : DataFrame
        ``feature, n, n_missing, llf, used``.
    method : str
    llf : float
        What was maximised, summed over the features.
    converged : bool
    """

    mechanism: Mechanism
    params: pd.Series
    bse: pd.Series
    cov: pd.DataFrame
    theta: float | None
    offsets: pd.Series | None
    table: pd.DataFrame = field(repr=False)
    method: str
    llf: float
    converged: bool

    def __repr__(self) -> str:
        slope, at = self.params["y"], -self.params["Intercept"] / self.params["y"]
        theta = "" if self.theta is None else f", theta {self.theta:.3g}"
        return (
            f"<DetectionCurve: {self.mechanism.name}, half of the values are missing at {at:.4g}, slope {slope:.4g}"
            f"{theta}, {int(self.table['used'].sum())} features>"
        )

    def held(self) -> Mechanism:
        """The mechanism with the curve's numbers held, as model b takes it.

        Raises
        ------
        OptionError
            If the curve has offsets, or its mechanism does not hold numbers.
        """
        if self.offsets is not None:
            raise OptionError("model b has no offsets of runs; use lmer_mnar, or a curve without offsets")
        if not isinstance(self.mechanism, Held):
            raise OptionError(f"the mechanism {self.mechanism.name!r} does not hold numbers; derive it from Held")
        return type(self.mechanism)(Intercept=float(self.params["Intercept"]), y=float(self.params["y"]))

    def probability(self, y, offset=0.0):
        """Probability that a value `y` is missing, of the shape of `y`."""
        values, moved = np.asarray(y, dtype=float), np.asarray(offset, dtype=float)
        if moved.ndim and moved.shape != values.shape:
            raise OptionError(f"offset has shape {moved.shape} and y has {values.shape}")
        return self.mechanism.prob(self.params["Intercept"] + self.params["y"] * values + moved)

    def offsets_for(self, frame: pd.DataFrame | None, nobs: int) -> np.ndarray:
        """The offsets of the rows of a frame, by their labels.

        Raises
        ------
        OptionError
            If a row is no run of the curve.
        """
        if self.offsets is None:
            return np.zeros(nobs)
        labels = pd.RangeIndex(nobs) if frame is None else frame.index
        if len(labels) != nobs or not labels.isin(self.offsets.index).all():
            raise OptionError(
                "the curve has an offset for each run, and these rows are not its runs; give mechanism_offset= or keep "
                "the runs' labels"
            )
        return self.offsets.reindex(labels).to_numpy()

    def plot(self, ax=None, y=None):
        """Draw the probability of being missing over the value, with a pointwise 95 % band; returns the Axes.

        Parameters
        ----------
        ax : matplotlib Axes, optional
        y : array_like, optional
            Values to draw at; by default where the probability is between 0.001 and 0.999.
        """
        if ax is None:
            from matplotlib import pyplot as plt

            _, ax = plt.subplots()
        elif not hasattr(ax, "get_xlim"):
            raise OptionError(f"ax must be one matplotlib Axes, got {short(ax)}")
        b0, b1 = self.params["Intercept"], self.params["y"]
        if y is None:
            low, high = sorted((self.mechanism.start(rate) - b0) / b1 for rate in (0.001, 0.999))
            y = np.linspace(low, high, 200)
        y = np.atleast_1d(np.asarray(y, dtype=float))
        if y.ndim != 1 or not y.size:
            raise OptionError(f"y must be values to draw at, found shape {y.shape}")
        rows = np.column_stack([np.ones(y.size), y])
        eta = b0 + b1 * y
        se = np.sqrt(np.einsum("ij,jk,ik->i", rows, self.cov.to_numpy(), rows))
        (line,) = ax.plot(y, self.mechanism.prob(eta))
        ax.fill_between(
            y,
            self.mechanism.prob(eta - 1.96 * se),
            self.mechanism.prob(eta + 1.96 * se),
            color=line.get_color(),
            alpha=0.2,
        )
        ax.set_xlabel("value")
        ax.set_ylabel("probability of being missing")
        return ax

    def to_dict(self) -> dict:
        """Everything but the table, in plain numbers; `from_dict` reads it."""
        return {
            "mechanism": self.mechanism.name,
            "params": {k: float(v) for k, v in self.params.items()},
            "cov": self.cov.to_numpy().tolist(),
            "theta": None if self.theta is None else float(self.theta),
            "offsets": None if self.offsets is None else {str(k): float(v) for k, v in self.offsets.items()},
            "method": self.method,
            "llf": float(self.llf),
            "converged": bool(self.converged),
        }

    @classmethod
    def from_dict(cls, values: dict) -> DetectionCurve:
        """The curve that `to_dict` wrote, without its table.

        Raises
        ------
        OptionError
            If something is absent or of another kind.
        """
        try:
            mechanism = find_mechanism(values["mechanism"])
            names = list(values["params"])
            params = pd.Series(values["params"], dtype=float)
            cov = pd.DataFrame(np.array(values["cov"], dtype=float), names, names)
            offsets = values.get("offsets")
            offsets = None if offsets is None else pd.Series(offsets, dtype=float)
            theta, llf = (values.get(name) for name in ("theta", "llf"))
            theta, llf = (None if number is None else float(number) for number in (theta, llf))
            method, converged = values.get("method", "adjusted"), bool(values.get("converged", True))
        except (KeyError, IndexError, TypeError, ValueError, OverflowError, AttributeError) as error:
            raise OptionError(f"from_dict takes what to_dict wrote, and this is not: {error}") from None
        if names != ["Intercept", "y"] or not (np.isfinite(params).all() and np.isfinite(cov.to_numpy()).all()):
            raise OptionError("from_dict takes what to_dict wrote: finite numbers for Intercept and y, and for cov")
        if method not in METHODS:
            raise OptionError(f"method must be one of {', '.join(METHODS)}, got {short(method)}")
        return cls(
            mechanism,
            params,
            pd.Series(np.sqrt(np.diag(cov)), names),
            cov,
            theta,
            offsets,
            pd.DataFrame(columns=["feature", "n", "n_missing", "llf", "used"]),
            method,
            np.nan if llf is None else llf,
            converged,
        )
