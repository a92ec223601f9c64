"""What defines a selection model apart from its data: enough to build the objective on any data set, in any process."""

from __future__ import annotations

from dataclasses import dataclass

from mvmise_sm.selection.covariance import CovarianceCoordinates
from mvmise_sm.selection.data import SelectionData
from mvmise_sm.selection.error import ErrorLikelihood
from mvmise_sm.selection.factor import FactorLikelihood
from mvmise_sm.selection.objective import PenalisedObjective, Penalty


@dataclass(frozen=True)
class ModelSpec:
    """A selection model without data.

    Attributes
    ----------
    kind : {"b", "e"}
    mechanism : {"capped", "log"}
    missing_y : bool
        Whether missingness depends on the outcome.
    first_sample_variance : bool
    penalties : tuple of Penalty
    """

    kind: str
    mechanism: str = "capped"
    missing_y: bool = True
    first_sample_variance: bool = False
    penalties: tuple[Penalty, ...] = ()

    def likelihood(
        self, data: SelectionData, coordinates: CovarianceCoordinates | None = None
    ) -> FactorLikelihood | ErrorLikelihood:
        """The log-likelihood on a data set; `coordinates` of the error covariance are for model e."""
        options = (self.mechanism, self.missing_y, self.first_sample_variance)
        if self.kind == "b":
            return FactorLikelihood(data, *options)
        return ErrorLikelihood(data, *options, coordinates=coordinates)

    def objective(self, data: SelectionData, coordinates: CovarianceCoordinates | None = None) -> PenalisedObjective:
        """Log-likelihood minus the penalties on a data set."""
        return PenalisedObjective(self.likelihood(data, coordinates), self.penalties)
