"""A frame that carries a heading: what was tested, and what was done to the fits."""

from __future__ import annotations

import pandas as pd

__all__ = ["Table"]


class Table(pd.DataFrame):
    """A DataFrame that prints a heading above itself.

    Attributes
    ----------
    heading : str
        One or more sentences.
    """

    _metadata = ["heading"]  # noqa: RUF012 (pandas' own protocol)

    @property
    def _constructor(self):
        return Table

    def __repr__(self):
        heading = getattr(self, "heading", "")
        return f"{heading}\n{super().__repr__()}" if heading else super().__repr__()

    def _repr_html_(self):
        from html import escape

        heading = getattr(self, "heading", "")
        return (f"<p>{escape(heading)}</p>" if heading else "") + (super()._repr_html_() or "")


def table(data, heading, **kwargs):
    """Build a `Table` from what a DataFrame takes."""
    out = Table(data, **kwargs)
    out.heading = heading
    return out
