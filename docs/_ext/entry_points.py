"""Let autodoc treat ``mvmise_sm.lmer`` and its kin as the functions that users take them for."""

import inspect

import mvmise_sm as ms
from mvmise_sm.api import PUBLIC


def _is_entry_point(value):
    return inspect.ismethod(value) or hasattr(value, "func")


def setup(app):
    for name in PUBLIC:
        try:
            value = getattr(ms, name)
        except ModuleNotFoundError:
            continue
        if _is_entry_point(value):
            setattr(ms, name, _as_function(name, value))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _as_function(name, entry):
    def function(*args, **kwargs):
        return entry(*args, **kwargs)

    function.__name__ = function.__qualname__ = name
    function.__module__ = "mvmise_sm"
    function.__doc__ = entry.__doc__
    signature = inspect.signature(entry)
    function.__signature__ = signature
    return function
