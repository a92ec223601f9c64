"""Linear mixed models with a formula for the residual standard deviation."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from mvmise_sm.core.criteria.dispersion import DispersionDeviance
from mvmise_sm.core.families.exponential import Gaussian
from mvmise_sm.core.families.predictors import PartsResponse
from mvmise_sm.exceptions import OptionError
from mvmise_sm.models.multipart import MultiPartMixedModel
from mvmise_sm.options import strict_options
from mvmise_sm.results.dispersion import LinearDispersionResults, LinearDispersionResultsWrapper

__all__ = ["LinearDispersionModel"]


@strict_options
class LinearDispersionModel(MultiPartMixedModel):
    """Linear mixed model y = X beta + Z b + e with e_i ~ N(0, sd_i^2 / weight_i) and log sd = D delta.

    ``ms.lmer(..., dispersion="~ x")`` makes one. The covariance of the random effects is absolute.

    Parameters
    ----------
    endog, exog, random_effects
        As in `LinearMixedModel`.
    dispersion : array_like
        D (nobs, p); a one-sided formula in `from_formula`.

    References
    ----------
    Pinheiro and Bates (2000). Mixed-Effects Models in S and S-PLUS. Springer, section 5.2.
    """

    title = "Linear Mixed Model"
    _design_options: ClassVar[dict] = {}

    def __init__(self, endog, exog, random_effects=None, *, dispersion=None, part_designs=None, **kwargs):
        if dispersion is None and not (part_designs or {}).get("disp"):
            raise OptionError("dispersion is needed, for example dispersion='~ x'")
        super().__init__(
            endog, exog, random_effects, family=Gaussian(), dispersion=dispersion, part_designs=part_designs, **kwargs
        )
        self._init_keys = [key for key in self._init_keys if key not in ("family", "zero_inflation")]
        self._reml = True

    def criterion(self, nagq=1, dispersion="ml", curvature="observed", *, reml=None):
        """Return what `fit` minimises, see `DispersionDeviance`."""
        response = PartsResponse(self.family, self.endog, self.weights, zero=False, random=(0,))
        blocks, visible = self._blocks()
        given: tuple[Any, ...] = (response, blocks, visible, self.random_effects, self.term_parts)
        return DispersionDeviance(*given, priors=self.priors, reml=self._reml if reml is None else bool(reml))

    def _with_reml(self, reml):
        import copy

        out = copy.copy(self)
        out._reml = bool(reml)
        return out

    def fit(  # type: ignore[override]
        self,
        start_params=None,
        reml=True,
        method="newton",
        maxiter=100,
        disp=False,
        cov_type="nonrobust",
        use_t=False,
        *,
        start_theta=None,
        **options,
    ):
        """Fit by REML or maximum likelihood; parameters as in `LinearMixedModel.fit`."""
        if not isinstance(reml, (bool, np.bool_)):
            raise OptionError(f"reml must be True or False, got {reml!r}")
        return super(LinearDispersionModel, self._with_reml(reml)).fit(
            start_params, method, maxiter, disp, cov_type, use_t, start_theta=start_theta, **options
        )

    def refit(self, endog, result):
        return super(LinearDispersionModel, self._with_reml(result.reml)).refit(endog, result)

    def _check_family_response(self):
        pass

    def _trouble(self, solution):
        return None

    def _result(self, solution, optimum, settings, **kwargs):
        # a result is fitted again as it was
        settings = {**settings, "reml": self._reml}
        return LinearDispersionResultsWrapper(
            LinearDispersionResults(self, solution, optimum, settings, reml=self._reml, **kwargs)
        )
