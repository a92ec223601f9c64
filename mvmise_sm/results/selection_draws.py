"""The missing values of a selection model, imputations and simulated data."""

from __future__ import annotations

from mvmise_sm.results.selection_imputation import imputed, missing_law
from mvmise_sm.results.selection_simulation import simulated

__all__ = ["SelectionDraws"]


class SelectionDraws:
    """Missing values given what was seen, imputations, and data drawn from the fit; see `SelectionResults`."""

    def predict_missing(self, uncertainty="known", alpha=0.05):
        """Posterior mean and standard deviation of every missing value, given all data and which blocks are missing.

        Parameters
        ----------
        uncertainty : {"known", "parameters"}, optional
            Take the parameters as known, or add what their uncertainty adds to the variance: ``J C J'`` with J the
            derivatives of the posterior mean and C the inverse information of all parameters.
        alpha : float, optional
            Of the normal intervals.

        Returns
        -------
        DataFrame
            Columns ``row, group, outcome, kind, mean, sd, conf_low, conf_high``; `kind` is ``"block"`` where the whole
            block of an outcome in a cluster is missing, else ``"sporadic"``.

        Raises
        ------
        OptionError
            If the fit has no covariance of all parameters (not converged, or ``method="mvmise"``), or `remove_data` has
            removed the rows.
        """
        return missing_law(self, uncertainty, alpha)

    def imputations(self, n=10, rng=None, *, uncertainty="parameters"):
        """Complete the data by draws of the missing values, for analyses to be pooled with `mvmise_sm.pool`.

        Every imputation draws the parameters from their normal law, then the random effects and the missing values
        from their law given the parameters, all that was seen, and which values are missing.

        Parameters
        ----------
        n : int, optional
            Number of completed data sets.
        rng : int, array_like of int, numpy.random.Generator, or numpy.random.RandomState, optional
        uncertainty : {"parameters", "known"}, optional
            Whether the parameters are drawn, as proper imputations ask, or stay at the estimates.

        Returns
        -------
        DataFrame
            Outcomes (nobs, n K) with columns (imputation, outcome): ``imp["imp_1"]`` is the first. Seen values are as
            they are. ``attrs["redrawn"]`` counts draws of parameters outside their domain.

        Raises
        ------
        OptionError
            As `predict_missing`.
        DataError
            If draws of the parameters are outside their domain again and again.
        """
        return imputed(self, n, rng, uncertainty)

    def simulate(self, n=1, rng=None, random="new", missing=True):
        """Simulate outcomes from the fitted model, and which of them go missing.

        Parameters
        ----------
        n : int, optional
            Number of data sets.
        rng : int, array_like of int, numpy.random.Generator, or numpy.random.RandomState, optional
            Source of randomness.
        random : {"new", "conditional"}, optional
            New random effects in every data set, or those of the fit.
        missing : bool, optional
            Whether values go missing by the fitted mechanism; single values without one stay missing where they are in
            the data. A data set in which an outcome is never seen is drawn again; ``attrs["redrawn"]`` counts these.

        Returns
        -------
        DataFrame
            Columns ``(sim_1, outcome)``, ..., rows as in the model: ``out["sim_1"]`` (nobs, K) goes into `refit`.
        """
        return simulated(self, n, rng, random, missing)
