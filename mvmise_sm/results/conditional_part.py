"""Questions that concern means, answered by the conditional part of a model with several linear predictors."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from mvmise_sm.exceptions import OptionError
from mvmise_sm.results.generalized import GeneralizedLinearMixedModelResults

__all__ = ["ConditionalPart"]


class ConditionalPart(GeneralizedLinearMixedModelResults):
    """What a `MultiPartResults` answers from its conditional coefficients alone."""

    # the result with all coefficients, of a copy that has the conditional ones only
    _whole: Any = None

    def conditional_part(self):
        """Return this result with the conditional coefficients only, for questions that concern means."""
        if len(self.params) == self.k_fe:
            return self
        out = copy.copy(self)
        out._cache, out._whole = {}, self
        out.model = copy.copy(self.model)
        out.model.data = copy.copy(self.model.data)
        out.model.data.param_names = None
        out.params = np.asarray(self.params)[: self.k_fe]
        out.cov_type, out.cov_rx = "rx", np.asarray(self.cov_params_default)[: self.k_fe, : self.k_fe]
        return out

    def mean_terms(self):
        """Positions of the random-effects terms in the conditional part."""
        return [i for i, part in enumerate(self.model.term_parts) if part == 0]

    def mean_scale(self):
        """The scale of the conditional mean, which some families have beside their link."""
        from mvmise_sm.inference.means.scales import Scale, link_scale

        family = self.family
        if not family.own_mean:
            return super().mean_scale()
        if family.has_dispersion and np.ndim(self.dispersion):
            raise OptionError(
                f"the mean of family {family.spoken!r} depends on the dispersion, which has a formula: leave out "
                "which='mean', or average predict(which='conditional')"
            )
        own = family.mean_link(self.dispersion, self.shapes)
        if family.log_mean:
            return Scale("log", own.inverse, own.inverse_deriv, 1.0)
        return Scale(link_scale(family.link).name, own.inverse, own.inverse_deriv)

    def typical_mean(self):
        """Mean of the conditional part over the rows; of truncated counts before the truncation."""
        if not (self.family.own_mean or self.model.has_zero_part):
            return super().typical_mean()
        whole = self if self._whole is None else self._whole
        predictors = whole.own_predictors()
        centre = self.family.centre(predictors[0], whole.dispersion_rows(predictors), self.shapes)
        return np.array(float(np.average(centre, weights=self.model.weights)))

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
