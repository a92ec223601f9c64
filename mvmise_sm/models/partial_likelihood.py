"""What statsmodels' likelihood models answer as functions of the fixed effects, and a mixed model cannot."""

from __future__ import annotations

from typing import Any, NoReturn

from statsmodels.base.model import LikelihoodModel

from mvmise_sm.exceptions import NotAvailableError

__all__ = ["NoPartialLikelihood"]


class NoPartialLikelihood(LikelihoodModel):
    """A model whose `params`, the fixed effects, do not determine its likelihood: the variances are missing there."""

    def loglike(self, params: Any) -> NoReturn:
        """Not available; the sentence names what is."""
        self._refuse("loglike")

    def score(self, params: Any) -> NoReturn:
        """Not available; the sentence names what is."""
        self._refuse("score")

    def hessian(self, params: Any) -> NoReturn:
        """Not available; the sentence names what is."""
        self._refuse("hessian")

    def information(self, params: Any) -> NoReturn:
        """Not available; the sentence names what is."""
        self._refuse("information")

    def _refuse(self, name: str) -> NoReturn:
        raise NotAvailableError(
            f"{name} is no function of the fixed effects alone, the likelihood depends on the variances too: of a fit, "
            "llf is its maximum and cov_params() comes from its curvature there"
        )
