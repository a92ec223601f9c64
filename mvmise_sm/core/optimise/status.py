"""How a minimisation ended: one member per outcome, each with its sentence."""

from __future__ import annotations

from enum import Enum

__all__ = ["Status"]


class Status(Enum):
    """The end of a minimisation; the value is the sentence that users read."""

    STATIONARY = "stationary point"
    NOT_STATIONARY = "not stationary: Newton decrement {decrement:.2g} after {iterations} iterations"
    OFF_BOUNDARY = (
        "not a minimum: after {iterations} iterations the objective still falls where a covariance leaves its boundary"
    )

    @property
    def converged(self) -> bool:
        """Whether the point is a minimum, as far as derivatives can tell."""
        return self is Status.STATIONARY

    def sentence(self, decrement: float, iterations: int) -> str:
        """The sentence for users."""
        return self.value.format(decrement=decrement, iterations=iterations)
