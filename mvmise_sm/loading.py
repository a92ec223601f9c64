"""Results and models that were saved."""

from __future__ import annotations

import pickle
from typing import Any

from mvmise_sm.exceptions import DataError
from mvmise_sm.options import strict

__all__ = ["load"]

_BROKEN = (pickle.UnpicklingError, EOFError, AttributeError, ImportError, IndexError, KeyError, ValueError)


@strict
def load(fname: Any) -> Any:
    """Read a model or a result that its ``save`` wrote.

    Pickles run code when they are read: load only files that you trust.

    Parameters
    ----------
    fname : path or binary file

    Returns
    -------
    object

    Raises
    ------
    DataError
        If the file holds no pickle, or one of something that is not installed here.
    """
    from statsmodels.iolib.smpickle import load_pickle

    try:
        return load_pickle(fname)
    except _BROKEN as error:
        raise DataError(f"{fname} holds no saved model or result: {type(error).__name__}: {error}") from error
