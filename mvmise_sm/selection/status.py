"""How a maximisation ended: one member per outcome, each with its sentence."""

from __future__ import annotations

from enum import Enum


class Status(Enum):
    """The end of a maximisation; the value is the sentence that users read.

    `regular` members name a likelihood without a maximum that a weak penalty gives one.
    """

    CONVERGED = "converged"
    MAXITER = "no convergence in {n} iterations"
    LINE_SEARCH = "the line search found no higher point"
    NOT_DEFINITE = "the information at the point reached is not positive definite"
    PATTERN = "the sparsity pattern did not settle"
    UNCAPPED_DIVERGES = (
        "the likelihood of the uncapped mechanism diverges: it gives missing blocks a probability above one and has no "
        "maximum near the start"
    )
    SINGULAR_ERRORS = (
        "the error covariance becomes singular: too few samples have all outcomes, so the likelihood has no maximum; "
        "use error_penalty or fewer outcomes"
    )
    THRESHOLD = (
        "the mechanism's slope runs to infinity: a block is missing exactly when its mean is beyond a threshold, as "
        "far as the data can tell; mechanism_prior='weak' gives a finite estimate"
    )
    UNDETERMINED = (
        "the data do not determine how missingness depends on the outcome: the information at the point reached is not "
        "positive definite; mechanism_prior='weak' gives an estimate"
    )
    SATURATED = (
        "the mechanism is saturated: most of the missing blocks are missing with probability one, where the "
        "marginal-product likelihood does not hold; mechanism_prior='weak' keeps the fit away from there"
    )

    def sentence(self, n: int = 0) -> str:
        """The sentence for users; `n` is the number of iterations."""
        return self.value.format(n=n)

    @property
    def penalised(self) -> bool:
        """Whether a fit that ends so is repeated with a weak penalty."""
        return self in (Status.SATURATED, Status.SINGULAR_ERRORS, Status.THRESHOLD, Status.UNDETERMINED)
