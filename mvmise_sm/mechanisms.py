"""Missing-data mechanisms of the selection models, and how to add one.

A mechanism is one class with the members of :class:`Mechanism`; :func:`register` checks it against numerical
quadrature and makes it available under its name. ``Logit(Intercept=21.0, y=-1.2)`` holds the numbers given.
"""

from mvmise_sm.selection.mechanism import (
    BlockIntegral,
    Capped,
    Held,
    Logit,
    LogLinear,
    Mechanism,
    Probit,
    SeenTerm,
)
from mvmise_sm.selection.mechanism_check import check_mechanism, register

__all__ = [
    "BlockIntegral",
    "Capped",
    "Held",
    "LogLinear",
    "Logit",
    "Mechanism",
    "Probit",
    "SeenTerm",
    "check_mechanism",
    "register",
]
