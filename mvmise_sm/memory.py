"""Memory that runs out: recognised in whatever form it comes, and told with the size that was wanted in all."""

from __future__ import annotations

import errno
import inspect
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, wraps
from typing import Any, TypeVar

from mvmise_sm.exceptions import ProblemTooLargeError

__all__ = ["explained", "guarded", "guarded_class", "out_of_memory", "require_room", "too_large"]

_Function = TypeVar("_Function", bound=Callable[..., Any])
_Class = TypeVar("_Class", bound=type)

# what libraries say where they do not raise MemoryError: loaders, SuperLU, threads, LAPACK's wrappers, DuckDB
_WORDS = re.compile(
    r"cannot allocate|can't allocate|failed to map segment|malloc|out of memory|out-of-memory|bad_alloc|"
    r"memory allocation|unable to allocate|can't start new thread|not enough memory|insufficient memory|"
    r"excessive memory usage",
    re.IGNORECASE,
)
_SIZE = re.compile(r"(?:allocate|size|of)\s+([\d.]+)\s*([KMGTP]i?)?B?(?:ytes)?\b", re.IGNORECASE)
_UNITS = {"": 1.0, "K": 2.0**10, "M": 2.0**20, "G": 2.0**30, "T": 2.0**40, "P": 2.0**50}
# OpenBLAS ends the process when it gets no buffer of 32 MB; numpy and scipy have one each
_BUFFERS = 66 * 2**20
# a smaller product needs no buffer
_BUFFERED = 200
_GB = 1e9


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out; never one of ours, which has its sentence."""
    if isinstance(error, ProblemTooLargeError):
        return False
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    if type(error).__name__ == "OutOfMemoryException":
        return True
    return isinstance(error, (RuntimeError, ImportError)) and bool(_WORDS.search(str(error)))


def too_large(what: str, error: BaseException) -> ProblemTooLargeError:
    """The error for memory that ran out in `what`, with what was wanted in all: what is in use and what was asked for.

    Parameters
    ----------
    what : str
        Name of the method.
    error : Exception
        For which `out_of_memory` holds.
    """
    asked, used, limit = _asked(str(error)), _in_use(), _limit()
    text = f"{what} needs more memory than there is"
    if used is not None:
        held = f"{_shown(used)} are in use"
        if asked is None:
            text += f": {held}, and a request for more failed, so that it needs more than {_shown(used)} in all"
        else:
            text += f": at least {_shown(used + asked)} in all, of which {held} and {_shown(asked)} were asked for"
    elif asked is not None:
        text += f": {_shown(asked)} were asked for on top of what is in use"
    if limit is not None:
        text += f"; the limit of this process is {_shown(limit)}"
    return ProblemTooLargeError(text)


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn memory that runs out inside into a `ProblemTooLargeError`."""
    try:
        yield
    except Exception as error:
        if not out_of_memory(error):
            raise
        raise too_large(what, error) from error


def guarded(function: _Function, what: str | None = None) -> _Function:
    """A function whose failed allocations come out as `ProblemTooLargeError`."""
    name = what or function.__name__

    @wraps(function)
    def checked(*args: Any, **options: Any) -> Any:
        try:
            return function(*args, **options)
        except Exception as error:
            if not out_of_memory(error):
                raise
            raise too_large(name, error) from error

    return checked  # type: ignore[return-value]


def guarded_class(cls: _Class) -> _Class:
    """Guard the public methods and properties that a class has of its own."""
    for name, member in list(vars(cls).items()):
        if name.startswith("_"):
            continue
        if inspect.isfunction(member) and not hasattr(member, "__wrapped__"):
            setattr(cls, name, guarded(member))
        elif isinstance(member, property) and member.fget:
            setattr(cls, name, member.getter(guarded(member.fget, name)))
    return cls


def require_room(what: str) -> None:
    """Refuse to begin where a limit leaves no room for the buffers of BLAS, without which it ends the process.

    Raises
    ------
    ProblemTooLargeError
    """
    if _ROOM:
        return
    limit, used = _limit(), _in_use()
    if limit is not None and used is not None:
        if limit - used < _BUFFERS:
            raise ProblemTooLargeError(
                f"{what} needs more memory than there is: {_shown(used)} are in use and the linear algebra library "
                f"takes {_shown(_BUFFERS)}, at least {_shown(used + _BUFFERS)} in all; the limit of this process is "
                f"{_shown(limit)}"
            )
        _take_buffers()
    _ROOM.append(True)


# filled once it is known that there is room
_ROOM: list[bool] = []


def _take_buffers() -> None:
    """Let both libraries allocate now what they keep."""
    import numpy as np
    from scipy.linalg.blas import dgemm

    square = np.ones((_BUFFERED, _BUFFERED))
    np.matmul(square, square)
    dgemm(1.0, square, square)


@lru_cache(maxsize=1)
def _page() -> int:
    return os.sysconf("SC_PAGE_SIZE")


def _in_use() -> int | None:
    """Bytes that the process holds: of addresses where these are limited, of memory otherwise; None if unknown."""
    try:
        with open("/proc/self/statm") as stream:
            pages = stream.read().split()
        return int(pages[1 if _limit() is None else 0]) * _page()
    except (OSError, ValueError, IndexError, AttributeError):
        return None


def _limit() -> int | None:
    """Bytes of addresses that the process may have, None where there is no limit."""
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        return None if limit in (resource.RLIM_INFINITY, -1) else int(limit)
    except (ImportError, AttributeError, OSError):
        return None


def _asked(text: str) -> float | None:
    """Bytes that a message says were asked for."""
    found = _SIZE.search(text)
    if found is None:
        return None
    unit = (found.group(2) or "").upper().removesuffix("I")
    return float(found.group(1).rstrip(".")) * _UNITS.get(unit, 1.0)


def _shown(size: float) -> str:
    return f"{size / _GB:.2f} GB" if size >= 0.1 * _GB else f"{size / 1e6:.3g} MB"
