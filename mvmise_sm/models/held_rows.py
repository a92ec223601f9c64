"""What every model says about the rows of its data."""

from __future__ import annotations

from mvmise_sm.exceptions import OptionError

__all__ = ["HoldsRows"]


class HoldsRows:
    """A model that holds the rows of its data until `remove_data`; models of streams override both answers."""

    @property
    def streamed(self) -> bool:
        """Whether the rows are read block by block and never held."""
        return False

    def rows_gone(self) -> OptionError:
        """The error of a question that needs rows which are not there."""
        return OptionError("this needs the rows of the data, which remove_data() has removed")
