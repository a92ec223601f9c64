"""Which kind of value an option takes, by its name: another kind is answered before it reaches arithmetic."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral, Real
from os import PathLike
from typing import Any

from mvmise_sm.exceptions import FormulaError, OptionError

__all__ = ["checked_kinds", "is_number", "not_negative", "positive", "real", "short"]

Check = Callable[[str, Any], Any]

_LONGEST = 60  # characters of a user's value that a message repeats

_WHOLE = {"n": 1, "maxiter": 0, "points": 2, "max_groups": 1, "labels": 0, "bins": 1, "n_features": 1, "nobs": 0}
_WHOLE |= {"min_rows": 0, "n_clusters": 1, "n_outcomes": 1}
_LEAST = {0: "an integer that is not negative", 1: "a positive integer", 2: "an integer above 1"}
# counts above this are no counts, and numbers of processes are C's integers
_MOST, _MOST_PROCESSES = 2**53, 2**31 - 1
_LARGEST = sys.float_info.max
# options that are words, numbers or objects of the package, besides those whose default is a word
_WORDS = frozenset(
    (
        "cov_type",
        "ddf",
        "family",
        "group",
        "kind",
        "level",
        "method",
        "name",
        "residual",
        "title",
        "type",
        "unit",
        "variable",
    )
) | frozenset(("which", "x", "yname"))
# options whose default is a word or a number and whose value may be an array
_ARRAYS_TOO = frozenset(("values", "offset", "value"))
_NAMES = frozenset(("methods", "parm", "scope", "specs"))
# options whose default is a truth value and that take words too
_WORDS_TOO = frozenset(("missing_y", "pairs", "interaction"))
_MAPPINGS = frozenset(("at", "cov_kwds"))
_FLAGS = frozenset(
    (
        "reml",
        "use_t",
        "conf_int",
        "disp",
        "progress",
        "allow_new_levels",
        "transform",
        "pairs",
        "hasconst",
        "adjusted",
        "pad",
    )
) | frozenset(("scalar", "mvmise_compat", "first_sample_variance", "skip_single", "regrid", "exponentiate"))


def checked_kinds(parameters: Iterable[inspect.Parameter]) -> dict[str, Check]:
    """The check of each parameter whose name or default says what kind of value it takes.

    A check is called with the option's name and its value, gives the value that the function gets, and raises
    `OptionError`. None passes wherever it is the default.
    """
    kinds = {}
    for parameter in parameters:
        check = _check_of(parameter)
        if check is not None:
            kinds[parameter.name] = check
    return kinds


def _check_of(parameter: inspect.Parameter) -> Check | None:
    name, default = parameter.name, parameter.default
    if name == "alpha":
        return _unless_none(_fraction, default)
    if name in _WHOLE:
        return _unless_none(_whole, default)
    if name == "n_jobs":
        return _unless_none(_processes, default)
    if name == "params" and default is None:
        return _unless_none(_some_names, default)
    if name == "by" and not isinstance(default, str):
        return _unless_none(_names, None)
    if name in _NAMES:
        return _unless_none(_names, default)
    if name in _FLAGS:
        return _unless_none(_flag, None)
    if name in _MAPPINGS and default is None:
        return _unless_none(_mapping, None)
    own = {
        "tol": not_negative,
        "rng": _randomness,
        "ax": _axes,
        "statistic": _function,
        "path": _path,
        "fname": _path,
        "null": _number,
    }
    own |= {"folder": _path, "df_complete": _above_zero, "sort": _flag, "variance_shares": _flag, "formula": _formula}
    own["null"] = _number
    if name in own:
        return _unless_none(own[name], default)
    wide = "|" in str(parameter.annotation).removesuffix("| None").strip()
    if name in _WORDS and not wide:
        return _unless_none(_word, None)
    return _by_annotation(parameter) or _by_default(parameter)


def _by_annotation(parameter: inspect.Parameter) -> Check | None:
    """The check that the annotation of a parameter asks for, None where it allows for more than one kind."""
    words = {kind.strip() for kind in str(parameter.annotation).split("|")}
    kinds = words - {"None"}
    default = None if "None" in words else parameter.default
    if len(kinds) == 1:
        kind = next(iter(kinds))
        check = _ANNOTATED.get(kind.partition("[")[0])
        return None if check is None else _unless_none(check, default)
    if kinds == {"str", "Sequence[str]"}:
        return _unless_none(_names, default)
    return _unless_none(_path, default) if kinds == {"str", "Path"} else None


def _by_default(parameter: inspect.Parameter) -> Check | None:
    """The check of an option without an annotation, whose default is a word, a number or a truth value."""
    name, default = parameter.name, parameter.default
    if parameter.annotation is not parameter.empty and not isinstance(default, str):
        return None
    if name in _ARRAYS_TOO or name in _WORDS_TOO:
        return None
    if isinstance(default, bool):
        return _unless_none(_flag, None)
    if isinstance(default, (int, float)):
        return _unless_none(_number, None)
    return _unless_none(_no_array, None) if isinstance(default, str) else None


def _unless_none(check: Check, default: Any) -> Check:
    """The check, or one that lets None pass where that is the default."""
    if default is not None:
        return check

    def checked(name: str, value: Any) -> Any:
        return value if value is None else check(name, value)

    return checked


def is_number(value: Any) -> bool:
    """Whether a value is a real number, truth values left out."""
    return isinstance(value, Real) and not isinstance(value, bool)


def short(value: Any) -> str:
    """A user's value as messages repeat it, in one line."""
    text = " ".join(repr(value).split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def not_negative(name: str, value: Any) -> Any:
    """A finite number that is not negative, or `OptionError`."""
    if not is_number(value) or not 0.0 <= value <= _LARGEST:
        raise OptionError(f"{name} must be a number that is not negative, got {short(value)}")
    return value


def positive(name: str, value: Any) -> Any:
    """A finite number above zero, or `OptionError`."""
    if not is_number(value) or not 0.0 < value <= _LARGEST:
        raise OptionError(f"{name} must be a positive number, got {short(value)}")
    return value


def _flag(name: str, value: Any) -> Any:
    if type(value).__name__ not in ("bool_", "bool") and not (isinstance(value, Integral) and value in (0, 1)):
        raise OptionError(f"{name} must be True or False, got {short(value)}")
    return value


def _is_whole(value: Any) -> bool:
    return is_number(value) and abs(value) <= _MOST and value == int(value)


def real(name: str, value: Any) -> float:
    """A finite number, or `OptionError`."""
    if not is_number(value) or not abs(value) <= _LARGEST:
        raise OptionError(f"{name} must be a finite number, got {short(value)}")
    return float(value)


def _above_zero(name: str, value: Any) -> Any:
    if not is_number(value) or not value > 0.0:
        raise OptionError(f"{name} must be positive, got {short(value)}")
    return value


def _number(name: str, value: Any) -> Any:
    if not is_number(value) or value != value:
        raise OptionError(f"{name} must be a number, got {short(value)}")
    return value


def _formula(name: str, value: Any) -> Any:
    if not isinstance(value, str):
        raise FormulaError(f"{name} must be a text such as 'y ~ x + (1 | g)', not {type(value).__name__}")
    return value


def _path(name: str, value: Any) -> Any:
    if not (isinstance(value, (str, PathLike)) and str(value)) and not hasattr(value, "read"):
        raise OptionError(f"{name} must be a path, got {short(value)}")
    return value


def _whole(name: str, value: Any) -> int:
    if not _is_whole(value) or value < _WHOLE[name]:
        raise OptionError(f"{name} must be {_LEAST[_WHOLE[name]]}, got {short(value)}")
    return int(value)


def _processes(name: str, value: Any) -> int:
    if not _is_whole(value) or value == 0 or abs(value) > _MOST_PROCESSES:
        raise OptionError(
            f"{name} is the number of processes: 1 for this one alone, -1 for one per core; got {short(value)}"
        )
    return int(value)


def _fraction(name: str, value: Any) -> Any:
    if not is_number(value) or not 0.0 < value < 1.0:
        raise OptionError(f"{name} must lie between 0 and 1, got {short(value)}")
    return value


def _is_array(value: Any) -> bool:
    """Whether a value has no truth value of its own: arrays, columns and frames of any library, and pandas' NA."""
    return type(value).__name__ == "NAType" or (hasattr(type(value), "__array__") and getattr(value, "ndim", 1) != 0)


def _no_array(name: str, value: Any) -> Any:
    if _is_array(value):
        raise OptionError(f"{name} must be a word, a number or a list of words, not a {type(value).__name__}")
    return value


def _word(name: str, value: Any) -> Any:
    if _is_array(value) or isinstance(value, (list, tuple, set, dict, slice)):
        raise OptionError(f"{name} must be a word or a number, not a {type(value).__name__}")
    return value


def _names(name: str, value: Any) -> Any:
    if isinstance(value, str):
        return value
    if not isinstance(value, Iterable) or isinstance(value, bytes) or getattr(value, "ndim", 1) != 1:
        raise OptionError(f"{name} must be a name or a list of names, got {short(value)}")
    value = list(value) if _is_array(value) else value
    if isinstance(value, (list, tuple)) and any(isinstance(item, (list, dict, set)) for item in value):
        raise OptionError(f"{name} must be a name or a list of names, not of lists, got {short(value)}")
    return value


def _some_names(name: str, value: Any) -> Any:
    names = _names(name, value)
    if not len(names):
        raise OptionError(f"{name} must hold a name at least, got {short(value)}")
    return names


def _mapping(name: str, value: Any) -> Any:
    if not isinstance(value, Mapping):
        raise OptionError(f"{name} must be a dict from names to values, got {short(value)}")
    return value


def _function(name: str, value: Any) -> Any:
    if not callable(value):
        raise OptionError(f"{name} must be a function, got {short(value)}")
    return value


def _randomness(name: str, value: Any) -> Any:
    """A generator of numpy or what starts one."""
    if any(hasattr(value, method) for method in ("standard_normal", "random_raw", "generate_state")):
        return value
    seeds = list(value) if isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping)) else [value]
    if not seeds or not all(isinstance(seed, Integral) and int(seed) >= 0 for seed in seeds):
        raise OptionError(f"{name} must be a seed (an integer that is not negative) or a Generator, got {short(value)}")
    return value


def _axes(name: str, value: Any) -> Any:
    given = value if isinstance(value, (list, tuple)) else getattr(value, "flat", (value,))
    if not all(hasattr(each, "get_xlim") for each in given):
        raise OptionError(f"{name} must be matplotlib Axes, got {short(value)}")
    return value


# kinds that annotations name; functions say more of the numbers that they take
_ANNOTATED: dict[str, Check] = {
    "bool": _flag,
    "str": _word,
    "Mapping": _mapping,
    "dict": _mapping,
}
