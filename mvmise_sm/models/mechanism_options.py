"""What users type about a mechanism of single values, read into a slot, offsets and penalties."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mvmise_sm.exceptions import DataError, OptionError
from mvmise_sm.priors.base import Prior
from mvmise_sm.results.detection_curve import DetectionCurve
from mvmise_sm.selection.build import mechanism_slot
from mvmise_sm.selection.objective import MechanismPrior, Penalty, PhiNormal, PhiPrior
from mvmise_sm.selection.units import PHI_NAMES, Slot

__all__ = ["Mechanisms", "ReadMechanism", "read_mechanism", "slope_prior"]


@dataclass(frozen=True)
class Mechanisms:
    """The options as given; see `ValueSelectionModel`."""

    mechanism: Any
    missing_y: bool
    missing_cov: Any = None
    mechanism_offset: Any = None
    mechanism_prior: Any = None
    theta: Any = "curve"

    def held_arrays(self, read: ReadMechanism) -> dict:
        """The options with columns as values, for a model without a frame."""
        return {**vars(self), "missing_cov": read.covariate, "mechanism_offset": read.offset}


@dataclass(frozen=True)
class ReadMechanism:
    """A mechanism of single values as the numerics take it.

    Attributes
    ----------
    slot : Slot
    offset, covariate : ndarray, (n,), or None
    names : tuple of str
        Names of the elements of phi.
    prior : object
        As given.
    ratio : float or None
        Relative standard deviation that is held.
    curve : DetectionCurve or None
    """

    slot: Slot
    offset: np.ndarray | None
    covariate: np.ndarray | None
    names: tuple[str, ...]
    prior: Any
    ratio: float | None
    curve: DetectionCurve | None

    def penalties(self, y: np.ndarray) -> list[Penalty]:
        """The priors of phi for a response (n,)."""
        return mechanism_priors(self.prior, self.names, float(np.nanstd(y)))


def read_mechanism(given: Mechanisms, frame, nobs: int, random) -> ReadMechanism:
    """Read the options of a model with `nobs` rows.

    Raises
    ------
    OptionError
        If an option has no meaning.
    """
    curve = given.mechanism if isinstance(given.mechanism, DetectionCurve) else None
    offset = _column(given.mechanism_offset, frame, nobs, "mechanism_offset")
    if curve is not None:
        slot = Slot(curve.mechanism, True, given.missing_y, dict(enumerate(np.asarray(curve.params, dtype=float))))
        if curve.offsets is not None and offset is None:
            offset = curve.offsets_for(frame, nobs)
    else:
        slot = mechanism_slot(given.mechanism, True, given.missing_y)
    if not given.missing_y:
        slot = replace(slot, held={k: v for k, v in slot.held.items() if k != 1} if curve is None else {})
    covariate = _column(given.missing_cov, frame, nobs, "missing_cov")
    name = given.missing_cov if isinstance(given.missing_cov, str) else "covariate"
    scalar = len(random.terms) == 1 and random.terms[0].q == 1
    ratio = None
    if isinstance(given.theta, str):
        if given.theta != "curve":
            raise OptionError(f"theta must be 'curve', a number or None, got {given.theta!r}")
        ratio = curve.theta if curve is not None and scalar and given.missing_y else None
    elif given.theta is not None:
        ratio = float(given.theta)
        if not np.isfinite(ratio) or ratio < 0.0 or not scalar:
            raise OptionError("theta holds the relative standard deviation of one scalar random term, zero or more")
    return ReadMechanism(slot, offset, covariate, (*PHI_NAMES[:2], name), given.mechanism_prior, ratio, curve)


def _column(given, frame, nobs: int, option: str) -> np.ndarray | None:
    """A column name or values as floats (nobs,)."""
    if given is None:
        return None
    if isinstance(given, str):
        if frame is None or given not in frame.columns:
            raise OptionError(f"{option} {given!r} is not a column of the data")
        given = frame[given]
    try:
        values = np.asarray(given, dtype=float)
    except (TypeError, ValueError):
        raise DataError(f"{option} must be numeric") from None
    if values.shape != (nobs,) or not np.isfinite(values).all():
        raise DataError(f"{option} must have {nobs} finite values, one for each row; found shape {values.shape}")
    return values


def mechanism_priors(prior, names: tuple[str, ...], spread: float) -> list[Penalty]:
    """The penalties that a model's `mechanism_prior` means; `spread` is that of the units seen."""
    if prior is None:
        return []
    if isinstance(prior, DetectionCurve):
        return [PhiNormal(np.asarray(prior.params, dtype=float), np.asarray(prior.cov, dtype=float))]
    if isinstance(prior, dict):
        out: list[Penalty] = []
        for name, own in prior.items():
            if name not in names or not isinstance(own, Prior) or own.name not in ("normal", "t"):
                raise OptionError(
                    f"mechanism_prior: {name!r} must be one of {list(names)} with a Normal or StudentT prior, got "
                    f"{own!r}"
                )
            scale, df = _scale_and_df(own)
            out.append(PhiPrior(names.index(name), scale, df))
        return out
    scale, df = slope_prior(prior)
    return [MechanismPrior(spread, scale, df)]


def slope_prior(prior) -> tuple[float, float]:
    """Scale and degrees of freedom of a prior on the slope in units of one over the spread."""
    if isinstance(prior, Prior) and prior.name in ("normal", "t"):
        return _scale_and_df(prior)
    if isinstance(prior, (int, float)) and not isinstance(prior, bool) and prior > 0:
        return float(prior), 7.0
    if isinstance(prior, str) and prior == "weak":
        return 1.0, 7.0
    raise OptionError(f"mechanism_prior must be 'weak', a positive scale, Normal or StudentT, got {prior!r}")


def _scale_and_df(prior: Prior) -> tuple[float, float]:
    scale = float(prior.arguments.get("sd", prior.arguments.get("scale", 1.0)))
    return scale, np.inf if prior.name == "normal" else float(prior.arguments.get("df", 3.0))
