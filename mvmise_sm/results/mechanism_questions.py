"""What a selection model is asked about its mechanism: intervals, sensitivity, fit, permutations and their plots."""

from __future__ import annotations

from typing import Any

import pandas as pd
from scipy import stats

from mvmise_sm.exceptions import OptionError
from mvmise_sm.results import mechanism_checks as checks
from mvmise_sm.results import selection_mechanism as mechanism
from mvmise_sm.results import selection_plots as plots
from mvmise_sm.results.selection_permutation import permutation_test

__all__ = ["MechanismQuestions"]


class MechanismQuestions:
    """Intervals of the mechanism, sensitivity to it, its fit, and permutation tests; see `SelectionResults`."""

    # the mechanism as the results that this serves report it
    phi: Any
    bse_phi: Any

    def profile_interval(self, alpha=0.05):
        """Likelihood-ratio interval of the mechanism's slope on the outcome.

        Parameters
        ----------
        alpha : float, optional

        Returns
        -------
        tuple of float
            Infinite where no value is rejected.
        """
        return mechanism.profile_interval(self, alpha)

    def sensitivity(self, phi_y=None, alpha=0.05, hold="refit"):
        """Fixed effects as the missingness assumption varies.

        Parameters
        ----------
        phi_y : array_like, optional
            Values at which the mechanism's slope on the outcome is held; by default 0, the estimate and three standard
            errors on both sides.
        alpha : float, optional
        hold : {"refit", "rate"}, optional
            The mechanism's intercept at every slope: fitted again as everything else, or held where the marginal
            missing rate is that of the fit, so that slopes are compared at one rate.

        Returns
        -------
        DataFrame
            Columns ``phi_y, llf, term, estimate, std_error, conf_low, conf_high, converged``; NaN at slopes where
            ``hold="rate"`` would make a unit that was seen missing for certain.

        Raises
        ------
        OptionError
            If the mechanism does not depend on the outcome, ``hold="rate"`` and its intercept is held, or
            `remove_data` has removed the rows.
        """
        return mechanism.sensitivity(self, phi_y, alpha, hold)

    def mechanism_table(self, by="fitted", unit=None, bins=10):
        """Compare observed missing rates with those that the fit expects under the marginal law of the units.

        Parameters
        ----------
        by : str, optional
            ``"fitted"`` (bins of the fitted marginal mean), ``"batch"``, ``"outcome"``, or a column (of values).
        unit : {"block", "value"}, optional
            The first mechanism's units by default.
        bins : int, optional

        Returns
        -------
        DataFrame
            ``n, fitted_mean, observed_rate, expected_rate, z``; z takes the units of a row as independent.
        """
        return checks.mechanism_table(self, by, unit, bins)

    def plot_mechanism(self, unit=None, bins=10, ax=None):
        """Draw `mechanism_table` over the fitted mean, for blocks and values; returns the Axes."""
        return checks.plot_mechanism(self, unit, bins, ax)

    def mechanism_fit(self, n=200, rng=None):
        """Compare the numbers of empty and of partly seen blocks with those of simulated data sets.

        Parameters
        ----------
        n : int, optional
            Simulated data sets.
        rng : int or Generator, optional

        Returns
        -------
        DataFrame
            ``observed, expected, z, p_value`` for empty and partly seen blocks.
        """
        return checks.mechanism_fit(self, n, rng)

    def permutation_test(self, terms=None, n=999, rng=None, n_jobs=1, within=None, mvmise_compat=False, progress=False):
        """Permutation test of fixed effects: their columns are exchanged between samples and the model is refitted.

        Parameters
        ----------
        terms : list of str, optional
            Fixed effects or formula terms; all but constant ones by default. Columns that are tested together are
            permuted together; those that are constant within clusters by exchanging whole clusters (samples, as in R,
            with `mvmise_compat`).
        n : int, optional
            Number of permutations.
        rng : int, Generator, optional
            All permutations are drawn first, so results do not depend on `n_jobs`.
        n_jobs : int, optional
            Processes, for `joblib`.
        within : None, "group" or array_like, optional
            Permute inside clusters, or inside the strata of an array (nobs,).
        mvmise_compat : bool, optional
            R's ``p = b / n`` instead of ``(b + 1) / (n + 1)``.
        progress : bool, optional
            Whether to show a progress bar. An interrupt ends the test with the permutations done so far.

        Returns
        -------
        DataFrame
            Indexed by fixed effect, columns ``estimate, statistic, p_value, n_permutations, n_failed``.
        """
        return permutation_test(self, terms, n, rng, n_jobs, within, mvmise_compat, progress)

    def conf_int_phi(self, alpha=0.05):
        """Wald intervals of the mechanism, DataFrame; `profile_interval` is more reliable for its slope."""
        if self.bse_phi is None:
            raise OptionError("there are no standard errors of the mechanism for this fit")
        z = stats.norm.isf(alpha / 2.0)
        return pd.DataFrame({"conf_low": self.phi - z * self.bse_phi, "conf_high": self.phi + z * self.bse_phi})

    def plot_history(self, ax=None):
        """Draw the objective by iteration; returns the Axes."""
        return plots.history(self, ax)

    def plot_sensitivity(self, phi_y=None, terms=None, alpha=0.05, ax=None):
        """Draw fixed effects and their intervals over the mechanism's slope; returns the Axes."""
        return plots.sensitivity(self, phi_y, terms, alpha, ax)
