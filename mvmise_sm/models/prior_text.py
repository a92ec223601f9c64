"""Prior keywords as text that may name the variables of whoever makes the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mvmise_sm.design.build import caller_environment
from mvmise_sm.priors.parse import with_variables

__all__ = ["readable"]


def readable(given: Sequence[Any], eval_env: Any = None) -> list[Any]:
    """Prior keywords whose texts carry the numbers that they name.

    Parameters
    ----------
    given : sequence
        Values of keywords.
    eval_env : int, mapping, EvalEnvironment or None, optional
        Where variables are looked for, the caller by default.
    """
    if not any(_has_text(value) for value in given):
        return list(given)
    lookup = caller_environment(eval_env).namespace.__getitem__
    return [with_variables(value, lookup) for value in given]


def _has_text(value: Any) -> bool:
    """Whether a text may name something: one word alone is the name of a prior."""
    if isinstance(value, str):
        return "(" in value
    if isinstance(value, Mapping):
        return any(_has_text(v) for v in value.values())
    return isinstance(value, (list, tuple)) and any(_has_text(v) for v in value)
