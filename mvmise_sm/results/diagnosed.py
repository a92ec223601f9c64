"""Diagnostics of a fitted mixed model: the methods that call `mvmise_sm.inference`."""

from __future__ import annotations

__all__ = ["DiagnosedResults"]


class DiagnosedResults:
    """Influence, shares of variance and checks of a mixed model; see `MixedModelResults`."""

    def get_influence(self, level=None):
        """Leverage, Cook's distance and DFBETAS.

        Parameters
        ----------
        level : str, optional
            A grouping factor: delete its groups one at a time. Rows by default.

        Returns
        -------
        Influence
            With ``hat_matrix_diag``, ``cooks_distance``, ``dfbetas`` and ``summary_frame()``.
        """
        from mvmise_sm.inference.influence import influence

        return influence(self, level)

    def r2(self):
        """Nakagawa's marginal and conditional R^2, a Series."""
        from mvmise_sm.inference.variance_shares import r2

        return r2(self)

    def icc(self, adjusted=True):
        """Intraclass correlations by grouping factor; `adjusted` leaves the fixed effects out of the total."""
        from mvmise_sm.inference.variance_shares import icc

        return icc(self, adjusted)

    def vif(self):
        """Generalized variance inflation factors of the terms of the fixed effects, a DataFrame."""
        from mvmise_sm.inference.checks import vif

        return vif(self)

    def overdispersion(self):
        """Test whether the Pearson residuals are larger than the family says, a Series."""
        raise NotImplementedError

    def zero_inflation(self, n=250, rng=None):
        """Compare the number of zeros with that of simulated responses, a Series."""
        from mvmise_sm.inference.checks import zero_inflation

        return zero_inflation(self, n, rng)

    def resid_simulated(self, n=250, rng=None, random="new"):
        """Residuals as quantiles of simulated responses: uniform on (0, 1) if the model holds (nobs,)."""
        from mvmise_sm.inference.checks import simulated_residuals

        return simulated_residuals(self, n, rng, random)

    def check(self):
        """Say in sentences what is singular, weakly identified or doubtful, and what to try."""
        from mvmise_sm.inference.findings import check

        return check(self)

    def all_fit(self, methods=None):
        """Refit with every optimiser and line the answers up, a DataFrame."""
        from mvmise_sm.inference.checks import all_fit

        return all_fit(self, methods)
