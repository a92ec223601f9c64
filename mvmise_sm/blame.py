"""Bare errors that a user's value raises wherever it is read: told as a sentence that names the option.

Values of the wrong kind are refused by `mvmise_sm.option_values` where the name or the default of an option says its
kind. What gets through fails when it is read: as numbers, as a truth value, as a name or as a list. An error is put
down to an option only if its value, read in one of these ways, raises the same error with the same words; any other
error goes on as it is, because it may be ours.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from numbers import Complex, Real
from typing import Any

from mvmise_sm.exceptions import DataError, OptionError
from mvmise_sm.option_values import short

__all__ = ["blamed", "legible", "refuse_complex", "refuse_unreal"]

BARE = (TypeError, ValueError, OverflowError, ZeroDivisionError, AttributeError, IndexError, KeyError)
# a float holds no more
_BITS = 1024
# types whose values are never complex, with those that turned up: asking a frame for a dtype is slow
_PLAIN: set[type] = {str, bool, float, type(None)}


def refuse_unreal(name: str, value: Any) -> None:
    """Refuse complex numbers and integers that no float holds, alone, in arrays, and in lists and dicts of them.

    Raises
    ------
    OptionError
    """
    kind = type(value)
    if kind in _PLAIN:
        return
    if kind is int:
        if value.bit_length() > _BITS:
            raise OptionError(f"{name} must be a number below 1e308, got one of {value.bit_length()} bits")
    elif kind in (list, tuple, dict):
        for item in value.values() if kind is dict else value:
            if type(item) not in _PLAIN:
                refuse_unreal(name, item)
    elif not issubclass(kind, Complex) and not hasattr(kind, "dtype"):
        _PLAIN.add(kind)
    elif _is_complex(value):
        raise OptionError(f"{name} must be real, not complex, got {short(value)}")


def refuse_complex(name: str, value: Any) -> Any:
    """The value, once it is known to be no complex number, array or frame: a conversion leaves imaginary parts out.

    Raises
    ------
    OptionError
    """
    dtypes = getattr(value, "dtypes", None)
    columns = () if dtypes is None or not hasattr(dtypes, "items") else dtypes.items()
    found = next((column for column, dtype in columns if getattr(dtype, "kind", None) == "c"), None)
    if found is not None:
        raise OptionError(f"{name} must be real, but its column {found!r} is complex")
    refuse_unreal(name, value)
    return value


def _is_complex(value: Any) -> bool:
    if isinstance(value, Complex):
        return not isinstance(value, Real)
    return getattr(getattr(value, "dtype", None), "kind", None) == "c"


def blamed(error: Exception, what: str, given: Iterable[tuple[str, Any]]) -> OptionError | None:
    """The sentence for a bare error that the value of an option raises by itself; None where no value does.

    Parameters
    ----------
    error : Exception
        What came out of the function.
    what : str
        Name of the function.
    given : iterable of (str, object)
        Names and values of its arguments.
    """
    if type(error).__module__.startswith("mvmise_sm"):
        return None
    for name, value in given:
        for part in _parts(value):
            kind = _wanted(error, part)
            if kind is not None:
                return OptionError(f"{what}: {name} must be {kind}, got {short(value)}")
    return None


@contextmanager
def legible(what: str) -> Iterator[None]:
    """Turn what pandas and pyarrow say of a file that is no table of its kind into a `DataError`."""
    try:
        yield
    except ValueError as error:
        if type(error).__module__.startswith("mvmise_sm"):
            raise
        raise DataError(f"{what} cannot be read as a table: {' '.join(str(error).split())}") from error


def _parts(value: Any) -> Iterator[Any]:
    """The value itself, and what it holds if it is a small collection."""
    yield value
    with suppress(Exception):
        if isinstance(value, (list, tuple, dict)) and len(value) <= 100:
            yield from value.values() if isinstance(value, Mapping) else value
        elif type(value).__name__ == "ndarray" and value.dtype == object and value.size <= 100:
            yield from value.ravel()


def _numbers(value: Any) -> Any:
    import numpy as np

    return np.asarray(value, dtype=float)


def _compared(value: Any) -> Any:
    return value < 0, value > 0, value < 0.0, value > 0.0


def _added(value: Any) -> Any:
    return 0.0 + value, 0 + value


_READINGS: tuple[tuple[Callable[[Any], Any], str], ...] = (
    (_numbers, "a number or an array of numbers"),
    (float, "a number"),
    (int, "a whole number"),
    (operator.index, "a whole number"),
    (bool, "a value that is true or false"),
    (hash, "a name, not a collection"),
    (iter, "a list"),
    (len, "a list"),
    (_compared, "a number"),
    (_added, "a number"),
)


def _wanted(error: Exception, value: Any) -> str | None:
    """What a value should have been, if it is the one that raised the error."""
    if isinstance(error, AttributeError):
        foreign = not type(value).__module__.startswith("mvmise_sm")
        if foreign and error.obj is value:
            return f"an object that has {error.name!r}"
        return None
    for reading, kind in _READINGS:
        try:
            reading(value)
        except Exception as own:
            if type(own) is type(error) and str(own) == str(error):
                return kind
    return None
