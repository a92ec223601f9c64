"""What defines a selection model apart from its data: enough to build the objective on any data set, in any process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from mvmise_sm.exceptions import OptionError
from mvmise_sm.selection.covariance import CompoundSymmetry, CovarianceCoordinates
from mvmise_sm.selection.crossed import CrossedFactorLikelihood
from mvmise_sm.selection.data import SelectionData
from mvmise_sm.selection.error import ErrorLikelihood
from mvmise_sm.selection.factor import FactorLikelihood
from mvmise_sm.selection.likelihood import SelectionLikelihood
from mvmise_sm.selection.mechanism import Held, Mechanism
from mvmise_sm.selection.mechanism_check import find_mechanism
from mvmise_sm.selection.mvmise.algorithm import MvmiseFit
from mvmise_sm.selection.mvmise.error import fit_mvmise_e
from mvmise_sm.selection.mvmise.factor import fit_mvmise_b
from mvmise_sm.selection.objective import PenalisedObjective, Penalty
from mvmise_sm.selection.priors import PriorPenalty
from mvmise_sm.selection.units import PHI_NAMES, Slot


class Variant(Protocol):
    """What differs between the selection models: one implementation each, looked up by :attr:`ModelSpec.kind`.

    Attributes
    ----------
    takes_own_terms : bool
        Whether outcomes may have batch effects of their own and samples effects.
    """

    takes_own_terms: bool

    def likelihood(
        self, data: SelectionData, spec: ModelSpec, coordinates: CovarianceCoordinates | None
    ) -> SelectionLikelihood:
        """The log-likelihood on a data set."""
        ...

    def check(self, spec: ModelSpec) -> None:
        """Refuse mechanisms that the model does not take."""
        ...

    def reproduce(
        self, data: SelectionData, missing_y: bool | None, penalty: float | None, **options: Any
    ) -> tuple[MvmiseFit, list[str]]:
        """R's algorithm, and what has to be said about its result; `missing_y` None and `penalty` None are R's own."""
        ...


class FactorVariant:
    """Model b."""

    takes_own_terms = True

    def likelihood(
        self, data: SelectionData, spec: ModelSpec, coordinates: CovarianceCoordinates | None
    ) -> SelectionLikelihood:
        """The log-likelihood on a data set; there are no coordinates of an error covariance."""
        if spec.own_blocks or spec.samples:
            return CrossedFactorLikelihood(data, spec.slots, spec.own_blocks, spec.samples)
        return FactorLikelihood(data, spec.slots, spec.first_sample_variance)

    def check(self, spec: ModelSpec) -> None:
        """Every mechanism is allowed, of blocks only where outcomes or samples have effects of their own.

        Raises
        ------
        OptionError
        """
        if not (spec.own_blocks or spec.samples):
            return
        if any(slot.single for slot in spec.slots):
            raise OptionError(
                "value_mechanism goes with (1 | batch) alone; fit the long table with lmer_mnar, which has all terms"
            )
        if spec.first_sample_variance:
            raise OptionError("first_sample_variance does not go with effects of outcomes in batches or of samples")
        if spec.penalties_of_variances:
            raise OptionError("cov_prior does not go with effects of outcomes in batches or of samples")

    def reproduce(
        self, data: SelectionData, missing_y: bool | None, penalty: float | None, **options: Any
    ) -> tuple[MvmiseFit, list[str]]:
        """``mvMISE_b``."""
        fit = fit_mvmise_b(data, missing_y=True if missing_y is None else missing_y, **options)
        return fit, ["mvMISE_b has no fixed point: its loadings grow with each iteration, so the result depends on tol"]


class ErrorVariant:
    """Model e."""

    takes_own_terms = False

    def likelihood(
        self, data: SelectionData, spec: ModelSpec, coordinates: CovarianceCoordinates | None
    ) -> ErrorLikelihood:
        """The log-likelihood on a data set in coordinates of the error covariance."""
        if coordinates is None and spec.error_structure == "cs" and data.n_outcomes > 1:
            coordinates = CompoundSymmetry(data.n_outcomes)
        return ErrorLikelihood(data, spec.slots, spec.first_sample_variance, coordinates=coordinates)

    def check(self, spec: ModelSpec) -> None:
        """Only exponential mechanisms of blocks have the product form.

        Raises
        ------
        OptionError
        """
        slots = spec.slots
        if not all(slot.mechanism.exponential for slot in slots) or any(slot.single for slot in slots):
            raise OptionError("model e needs an exponential mechanism ('capped' or 'log'); use mvmise_b")
        if spec.own_blocks or spec.samples:
            raise OptionError(
                "model e has the effects of samples in its error covariance; leave out (1 | sample) and "
                "(1 | batch:outcome)"
            )

    def reproduce(
        self, data: SelectionData, missing_y: bool | None, penalty: float | None, **options: Any
    ) -> tuple[MvmiseFit, list[str]]:
        """``mvMISE_e``."""
        fit = fit_mvmise_e(data, missing_y=missing_y, penalty=penalty, **options)
        says = ["mvMISE_e with the lasso has no fixed point: the result depends on tol"] if fit.penalty > 0 else []
        return fit, says


ERROR_VARIANT = ErrorVariant()
VARIANTS: dict[str, Variant] = {"b": FactorVariant(), "e": ERROR_VARIANT}


@dataclass(frozen=True)
class ModelSpec:
    """A selection model without data.

    Attributes
    ----------
    kind : {"b", "e"}
    mechanism : str, Mechanism or None
        Of whole blocks.
    missing_y : bool
        Whether missingness depends on the outcome.
    first_sample_variance : bool
    penalties : tuple of Penalty
    value_mechanism : str, Mechanism or None
        Of single values.
    own_blocks, samples : bool
        Whether model b has own batch effects of each outcome, and effects of the samples.
    error_structure : {None, "cs"}
        Structure of model e's error covariance: free, or one variance and one correlation.
    """

    kind: str
    mechanism: str | Mechanism | None = "capped"
    missing_y: bool = True
    first_sample_variance: bool = False
    penalties: tuple[Penalty, ...] = ()
    value_mechanism: str | Mechanism | None = None
    own_blocks: bool = False
    samples: bool = False
    error_structure: str | None = None

    @property
    def penalties_of_variances(self) -> bool:
        """Whether a prior concerns the random-effect variances."""
        return any(isinstance(penalty, PriorPenalty) and penalty.priors.cov for penalty in self.penalties)

    @property
    def variant(self) -> Variant:
        """What is particular to this kind of model."""
        return VARIANTS[self.kind]

    def check(self) -> None:
        """Refuse mechanisms that are unknown or that this kind of model does not take.

        Raises
        ------
        OptionError
        """
        for given, option in ((self.mechanism, "mechanism"), (self.value_mechanism, "value_mechanism")):
            if given is not None:
                find_mechanism(given, option)
        self.variant.check(self)

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The mechanisms: of blocks first, then of single values."""
        return tuple(
            mechanism_slot(given, single, self.missing_y, option)
            for given, single, option in (
                (self.mechanism, False, "mechanism"),
                (self.value_mechanism, True, "value_mechanism"),
            )
            if given is not None
        )

    def likelihood(self, data: SelectionData, coordinates: CovarianceCoordinates | None = None) -> SelectionLikelihood:
        """The log-likelihood on a data set; `coordinates` of the error covariance are for model e."""
        return self.variant.likelihood(data, self, coordinates)

    def error_likelihood(self, data: SelectionData, coordinates: CovarianceCoordinates) -> ErrorLikelihood:
        """The log-likelihood of model e on a data set in given coordinates of the error covariance."""
        return ERROR_VARIANT.likelihood(data, self, coordinates)

    def objective(self, data: SelectionData, coordinates: CovarianceCoordinates | None = None) -> PenalisedObjective:
        """Log-likelihood minus the penalties on a data set."""
        return PenalisedObjective(self.likelihood(data, coordinates), self.penalties)


def mechanism_slot(given: str | Mechanism, single: bool, missing_y: bool, option: str = "mechanism") -> Slot:
    """A mechanism as a slot, with the elements of phi that it holds."""
    mechanism = find_mechanism(given, option)
    known = mechanism.held if isinstance(mechanism, Held) else {}
    return Slot(mechanism, single, missing_y, {PHI_NAMES.index(name): value for name, value in known.items()})
