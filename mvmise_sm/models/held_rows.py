"""What every model says about the rows of its data."""

from __future__ import annotations

from typing import Any

from mvmise_sm.exceptions import OptionError
from mvmise_sm.spellings import of_model

__all__ = ["HoldsRows"]


class HoldsRows:
    """A model that holds the rows of its data until `remove_data`; models of streams override both answers."""

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_") and hasattr(type(self), name):
            # the attribute is there and failed with an AttributeError of its own
            return object.__getattribute__(self, name)
        from mvmise_sm.results.base import MixedModelResults

        answers = name in ("params", "bse", "converged", "theta") or hasattr(MixedModelResults, name)
        raise AttributeError(of_model(repr(type(self).__name__), name, answers))

    @property
    def streamed(self) -> bool:
        """Whether the rows are read block by block and never held."""
        return False

    def rows_gone(self) -> ValueError:
        """The error of a question that needs rows which are not there."""
        return OptionError("this needs the rows of the data, which remove_data() has removed")
