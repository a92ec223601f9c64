"""What users type about a mechanism of single values, read into a slot, offsets and penalties."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mvmise_sm.blame import refuse_complex
from mvmise_sm.exceptions import DataError, OptionError
from mvmise_sm.priors.base import Prior
from mvmise_sm.results.detection_curve import DetectionCurve
from mvmise_sm.selection.build import ModelSpec, mechanism_slot
from mvmise_sm.selection.data import SelectionData
from mvmise_sm.selection.objective import MechanismPrior, Penalty, PhiNormal, PhiPrior
from mvmise_sm.selection.units import PHI_NAMES, Slot, mechanism_part

__all__ = ["Mechanisms", "ReadMechanism", "read_mechanism", "selection_priors", "slope_prior"]


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
        refuse_complex(option, given)
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
            out.append(PhiPrior(names.index(name), *_law(own)))
        return out
    return [MechanismPrior(spread, *slope_prior(prior))]


def selection_priors(prior, spec: ModelSpec, data: SelectionData, covariate: str) -> list[Penalty]:
    """The penalties that the `mechanism_prior` of model b or e means.

    Raises
    ------
    OptionError
        If a name is no free element of phi, or a curve has no mechanism of single values to inform.
    """
    if prior is None:
        return []
    if not isinstance(prior, (dict, DetectionCurve)):
        return [MechanismPrior.for_data(data, *slope_prior(prior))]
    part, _ = mechanism_part(data, spec.slots, np.ones((data.n_rows, 1)))
    places: dict[str, int | None] = {}
    for slot in spec.slots:
        prefix = "value:" if slot.single and len(spec.slots) > 1 else ""
        # where nothing is missing a mechanism has no parameters
        kept = [k for k, own in enumerate(part.slots) if own.single == slot.single]
        free = [True, slot.missing_y, data.cov_miss is not None]
        for j, name in enumerate((*PHI_NAMES[:2], covariate)):
            if free[j] and j not in slot.held:
                places[prefix + name] = 3 * kept[0] + j if kept else None
    if isinstance(prior, DetectionCurve):
        return _curve_prior(prior, spec, places)
    out: list[Penalty] = []
    for name, own in prior.items():
        if name not in places or not isinstance(own, Prior) or own.name not in ("normal", "t"):
            raise OptionError(
                f"mechanism_prior: {name!r} must be one of {list(places)} with a Normal or StudentT prior, got {own!r}"
            )
        place = places[name]
        if place is not None:
            out.append(PhiPrior(place, *_law(own)))
    return out


def _curve_prior(curve: DetectionCurve, spec: ModelSpec, places: dict[str, int | None]) -> list[Penalty]:
    """The normal law of a curve's numbers as the prior of the mechanism of single values."""
    single = [slot for slot in spec.slots if slot.single]
    if not single:
        raise OptionError(
            "mechanism_prior: a detection curve is about single values, and this model has no mechanism of single "
            "values; give value_mechanism= (model b), or a dict of priors for the mechanism of blocks"
        )
    if curve.offsets is not None:
        raise OptionError("model b has no offsets of runs; use lmer_mnar, or a curve without offsets")
    if single[0].mechanism.name != curve.mechanism.name:
        raise OptionError(
            f"mechanism_prior: the curve is of mechanism {curve.mechanism.name!r} and value_mechanism is "
            f"{single[0].mechanism.name!r}"
        )
    prefix = "value:" if len(spec.slots) > 1 else ""
    names = [prefix + name for name in PHI_NAMES[:2]]
    if not set(names) <= set(places):
        raise OptionError(
            f"mechanism_prior: a curve is a prior of {names}, which must be free; free are {list(places)}"
        )
    place = places[names[0]]
    if place is None:
        return []
    return [PhiNormal(np.asarray(curve.params, dtype=float), np.asarray(curve.cov, dtype=float), place)]


def slope_prior(prior) -> tuple[float, float, float]:
    """Scale, degrees of freedom and centre of a prior on the slope in units of one over the spread."""
    if isinstance(prior, Prior) and prior.name in ("normal", "t"):
        return _law(prior)
    if isinstance(prior, (int, float)) and not isinstance(prior, bool) and prior > 0:
        return float(prior), 7.0, 0.0
    if isinstance(prior, str) and prior == "weak":
        return 1.0, 7.0, 0.0
    raise OptionError(f"mechanism_prior must be 'weak', a positive scale, Normal or StudentT, got {prior!r}")


def _law(prior: Prior) -> tuple[float, float, float]:
    """Scale, degrees of freedom (infinite for the normal distribution) and centre."""
    given = prior.arguments
    values = [given.get("sd", given.get("scale", 1.0)), given.get("df", 3.0), given.get("mean", 0.0)]
    if any(np.size(value) != 1 for value in values):
        raise OptionError(f"mechanism_prior: {prior!r} must have one number for each argument, for one element of phi")
    scale, df, centre = (float(np.asarray(value, dtype=float).reshape(())) for value in values)
    return scale, np.inf if prior.name == "normal" else df, centre
