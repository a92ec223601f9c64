"""States of transforms that depend on whole columns: as numbers that travel, and merged over sites."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mvmise_sm.exceptions import DataError

__all__ = ["merged_states", "state_numbers", "with_numbers"]


def _transforms(state: dict) -> dict[str, Any]:
    return state.get("transforms", {})


def state_numbers(state: dict) -> dict[str, Any]:
    """The numbers that the transforms of one factor have learnt."""
    return {name: [type(made).__name__, dict(vars(made))] for name, made in _transforms(state).items()}


def with_numbers(state: dict, numbers: dict[str, Any]) -> dict:
    """Put learnt numbers into a prepared state.

    Raises
    ------
    DataError
        If the transforms are others.
    """
    for name, made in _transforms(state).items():
        kind, values = numbers.get(name, ("nothing", {}))
        if kind != type(made).__name__:
            raise DataError(f"the plan holds the state of {kind} where the formula has {type(made).__name__}")
        vars(made).update(values)
    return state


def _sum_and_count(a: dict, b: dict) -> dict:
    return {key: a[key] + b[key] for key in a}


def _running_moments(a: dict, b: dict) -> dict:
    n = a["current_n"] + b["current_n"]
    gap = np.asarray(b["current_mean"]) - np.asarray(a["current_mean"])
    return {
        **a,
        "current_n": n,
        "current_mean": np.asarray(a["current_mean"]) + gap * (b["current_n"] / n),
        "current_M2": np.asarray(a["current_M2"])
        + np.asarray(b["current_M2"])
        + gap**2 * (a["current_n"] * b["current_n"] / n),
    }


_MERGERS: dict[str, Callable[[dict, dict], dict]] = {"Center": _sum_and_count, "Standardize": _running_moments}


def merged_states(first: dict[str, dict], second: dict[str, dict]) -> dict[str, dict]:
    """The states after all rows of both sites.

    Raises
    ------
    DataError
        If a transform's numbers cannot be merged, such as the quantiles of a spline.
    """
    out = {}
    for code, state in first.items():
        mine, theirs = _transforms(state), _transforms(second[code])
        changed = {}
        for name, made in mine.items():
            a, b = vars(made), vars(theirs[name])
            if _same(a, b):
                continue
            kind = type(made).__name__
            if kind not in _MERGERS:
                raise DataError(f"{code} depends on the rows of all sites together; give knots= and bounds")
            fresh = object.__new__(type(made))
            vars(fresh).update(_MERGERS[kind](a, b))
            changed[name] = fresh
        out[code] = {**state, "transforms": {**mine, **changed}}
    return out


def _same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(np.asarray(a[k]), np.asarray(b[k])) for k in a)
