"""Which fits may be compared: the same criterion, and for likelihood-ratio tests one model inside the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mvmise_sm.core.uncertainty.identification import outside_span
from mvmise_sm.exceptions import DataError, OptionError
from mvmise_sm.inference.fits import labels_of

__all__ = ["check_nested", "check_same_criterion", "refuse_priors"]

# options of a fit that choose what is minimised
_CRITERION = ("nagq", "dispersion", "curvature")
_INSIDE = 1e-7  # relative residual of a column that another design spans


def refuse_priors(results: Sequence[Any], what: str) -> None:
    """Fail where a fit carries priors: its likelihood is not a maximum.

    Raises
    ------
    OptionError
    """
    for result, label in zip(results, labels_of(results), strict=True):
        if result.priors is not None:
            shown = "; ".join(text for _, text in result.priors.lines())
            raise OptionError(
                f"{what} compares maximised likelihoods, and {label!r} has priors ({shown}); fit without them"
            )


def check_same_criterion(results: Sequence[Any]) -> None:
    """Fail unless the log-likelihoods of all fits are of one kind.

    Raises
    ------
    DataError
        Naming the option that differs.
    """
    first, *others = results
    for other in others:
        for key in _CRITERION:
            one, two = first.mle_settings.get(key), other.mle_settings.get(key)
            if one != two:
                raise DataError(
                    f"the fits have {key}={one!r} and {key}={two!r}, which approximate the likelihood differently; fit "
                    "all with the same"
                )
        one, two = first.nesting(), other.nesting()
        if one is not None and two is not None and one["trials"] != two["trials"]:
            raise DataError("one response counts successes in trials and the other does not; they are not comparable")
        if one is not None and two is not None and one["trials"] and not _same(one["weights"], two["weights"]):
            raise DataError("the fits have different numbers of trials; only fits to the same data can be compared")


def check_nested(results: Sequence[Any]) -> None:
    """Fail unless each fit is a special case of the next, smallest first.

    Raises
    ------
    DataError
        Naming the two fits and what the larger one lacks.
    """
    labels = labels_of(results)
    for i in range(len(results) - 1):
        why = _not_inside(results[i], results[i + 1])
        if why:
            raise DataError(
                f"{labels[i]!r} is not nested in {labels[i + 1]!r}: {why}; ms.compare lines them up by information "
                "criteria"
            )


def _not_inside(small: Any, large: Any) -> str:
    """What the larger fit lacks of the smaller one, empty where nothing is missing."""
    one, two = small.nesting(), large.nesting()
    if one is None or two is None:
        return "" if large.k_params > small.k_params else "neither has more parameters than the other"
    if one["family"] not in (two["family"], *two["limits"]):
        return f"the families are {one['family']} and {two['family']}"
    for name in ("weights", "offset"):
        if not _same(one[name], two[name]):
            return f"their {name} differ" if name == "weights" else "their offsets differ"
    missing = _columns_outside(one["exog"], two["exog"])
    if missing.size:
        return f"the larger fit lacks {', '.join(repr(one['names'][j]) for j in missing)}"
    if one["residual"] == two["residual"] and one["random"] is not None and two["random"] is not None:
        outside = outside_span(one["random"], two["random"], one["weights"])
        if outside:
            return f"the larger fit lacks the random effects {', '.join(outside)}"
    if large.k_params <= small.k_params:
        return f"both have {small.k_params} parameters"
    return ""


def _columns_outside(small: np.ndarray, large: np.ndarray) -> np.ndarray:
    """Positions of columns (n, p) that others (n, q) do not span."""
    inside, *_ = np.linalg.lstsq(large, small, rcond=None)
    rest = np.abs(large @ inside - small).max(axis=0, initial=0.0)
    return np.flatnonzero(rest > _INSIDE * np.maximum(np.abs(small).max(axis=0, initial=0.0), 1e-300))


def _same(one: np.ndarray | None, two: np.ndarray | None) -> bool:
    if one is None or two is None:
        given = two if one is None else one
        # ones and zeros are what no weights and no offset stand for
        return given is None or bool(np.ptp(given) == 0.0)
    return bool(np.array_equal(one, two))
