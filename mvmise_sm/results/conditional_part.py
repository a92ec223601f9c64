"""Questions that concern means, answered by the conditional part of a model with several linear predictors."""

from __future__ import annotations

import copy

import numpy as np

from mvmise_sm.results.generalized import GeneralizedLinearMixedModelResults

__all__ = ["ConditionalPart"]


class ConditionalPart(GeneralizedLinearMixedModelResults):
    """What a `MultiPartResults` answers from its conditional coefficients alone."""

    def conditional_part(self):
        """Return this result with the conditional coefficients only, for questions that concern means."""
        if len(self.params) == self.k_fe:
            return self
        out = copy.copy(self)
        out._cache = {}
        out.model = copy.copy(self.model)
        out.model.data = copy.copy(self.model.data)
        out.model.data.param_names = None
        out.params = np.asarray(self.params)[: self.k_fe]
        out.cov_type, out.cov_rx = "rx", np.asarray(self.cov_params_default)[: self.k_fe, : self.k_fe]
        return out

    def anova(self, ddf="default", type=3):
        """Test every term of the conditional part; parameters as in `InferentialResults.anova`."""
        return super(ConditionalPart, self.conditional_part()).anova(ddf, type)

    def marginal_means(self, *args, **kwargs):
        """Marginal means of the conditional part; parameters as in `InferentialResults.marginal_means`."""
        return super(ConditionalPart, self.conditional_part()).marginal_means(*args, **kwargs)

    def vif(self):
        """Variance inflation of the terms of the conditional part, a DataFrame."""
        return super(ConditionalPart, self.conditional_part()).vif()

    def r2(self):
        """Nakagawa's R^2 of the conditional part, a Series."""
        return super(ConditionalPart, self.conditional_part()).r2()

    def icc(self, adjusted=True):
        """Intraclass correlations of the conditional part, a Series."""
        return super(ConditionalPart, self.conditional_part()).icc(adjusted)

    def marginal_slopes(self, *args, **kwargs):
        """Slopes of the conditional part; parameters as in `InferentialResults.marginal_slopes`."""
        return super(ConditionalPart, self.conditional_part()).marginal_slopes(*args, **kwargs)

    def joint_tests(self, *args, **kwargs):
        """Joint tests of the conditional part; parameters as in `InferentialResults.joint_tests`."""
        return super(ConditionalPart, self.conditional_part()).joint_tests(*args, **kwargs)
