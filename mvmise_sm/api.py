"""The public names, and where each one comes from."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import Any

__all__ = ["PUBLIC", "find", "module_of"]

_MODULES = {"datasets", "exceptions", "families", "mechanisms", "priors", "proteomics"}

_OBJECTS = {
    "LinearMixedModel": "mvmise_sm.models.linear",
    "GeneralizedLinearMixedModel": "mvmise_sm.models.generalized",
    "OrdinalMixedModel": "mvmise_sm.models.ordinal",
    "FactorSelectionModel": "mvmise_sm.models.selection",
    "ErrorSelectionModel": "mvmise_sm.models.selection",
    "ValueSelectionModel": "mvmise_sm.models.value_selection",
    "pedigree": "mvmise_sm.design.pedigree",
    "load": "mvmise_sm.loading",
    "anova": "mvmise_sm.inference.anova",
    "compare": "mvmise_sm.inference.anova",
    "lm_list": "mvmise_sm.inference.verbs",
    "pool": "mvmise_sm.inference.pooling",
    "permutation_test": "mvmise_sm.results.selection_permutation",
    "compare_mechanisms": "mvmise_sm.results.mechanism_checks",
    "DetectionCurve": "mvmise_sm.results.detection_curve",
    "detection_curve": "mvmise_sm.models.detection_curve",
    "register_marginaleffects": "mvmise_sm.inference.marginaleffects",
    "scan": "mvmise_sm.scanning.job",
    "squeeze_variances": "mvmise_sm.scanning.moderation",
    "Chunks": "mvmise_sm.streaming.sources",
    "CrossProducts": "mvmise_sm.streaming.products",
}

# Entry points are classmethods bound to a class, or partials of these.
_ENTRY_POINTS: dict[str, tuple[str, dict[str, Any]]] = {
    "lmer": ("LinearMixedModel", {}),
    "blmer": ("LinearMixedModel", {"cov_prior": "wishart"}),
    "glmer": ("GeneralizedLinearMixedModel", {}),
    "bglmer": ("GeneralizedLinearMixedModel", {"cov_prior": "wishart"}),
    "clmm": ("OrdinalMixedModel", {}),
    "glmer_nb": ("GeneralizedLinearMixedModel", {"family": "negativebinomial"}),
    "lmer_mnar": ("ValueSelectionModel", {}),
    "mvmise_b": ("FactorSelectionModel", {}),
    "mvmise_e": ("ErrorSelectionModel", {}),
}


PUBLIC = tuple(sorted({*_MODULES, *_OBJECTS, *_ENTRY_POINTS}))


def module_of(name: str) -> str:
    """Return the module that a public name comes from."""
    if name in _MODULES:
        return f"mvmise_sm.{name}"
    if name in _ENTRY_POINTS:
        name = _ENTRY_POINTS[name][0]
    return _OBJECTS.get(name, "mvmise_sm")


def find(name: str) -> Any:
    """Import a public name.

    Parameters
    ----------
    name : str
        One of `PUBLIC`.

    Returns
    -------
    object
        A class, function, bound classmethod or module.

    Raises
    ------
    AttributeError
        If the name is not public.
    """
    if name in _MODULES:
        return import_module(f"mvmise_sm.{name}")
    if name in _OBJECTS:
        return getattr(import_module(_OBJECTS[name]), name)
    if name in _ENTRY_POINTS:
        class_name, defaults = _ENTRY_POINTS[name]
        method = find(class_name).from_formula
        return _with_defaults(name, class_name, method, defaults) if defaults else method
    from mvmise_sm.spellings import of_package

    raise AttributeError(of_package(name))


class _WithFixed(partial):
    """An entry point whose own options are what it is: they cannot be given again."""

    __name__: str

    def __call__(self, /, *args: Any, **options: Any) -> Any:
        for name, value in self.keywords.items():
            # an array is never equal, and says so element by element
            if name in options and not (isinstance(options[name], type(value)) and options[name] == value):
                from mvmise_sm.exceptions import OptionError

                given = options[name]
                shown = given if isinstance(given, str) else type(given).__name__
                raise OptionError(
                    f"{self.__name__} is the model with {name}={value!r} and takes no other {name}, got {shown!r}; "
                    f"use glmer(..., {name}={shown!r})"
                )
        return super().__call__(*args, **options)


def _with_defaults(name: str, class_name: str, method: Any, defaults: dict[str, Any]) -> partial:
    entry = (_WithFixed if "family" in defaults else partial)(method, **defaults)
    shown = ", ".join(f"{key}={value!r}" for key, value in defaults.items())
    entry.__doc__ = f"``{class_name}.from_formula`` with the default {shown}.\n\n{method.__doc__ or ''}"
    entry.__name__ = entry.__qualname__ = name  # type: ignore[attr-defined]
    return entry
