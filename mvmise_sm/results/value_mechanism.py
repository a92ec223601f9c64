"""What a linear mixed model with missing values is asked about its mechanism: tests, sensitivity, observed rates."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
from scipy import stats

from mvmise_sm.core.covariance.random_effects import RandomEffects
from mvmise_sm.exceptions import OptionError
from mvmise_sm.results.mechanism_checks import rate_table, rates_plot
from mvmise_sm.results.selection_imputation import (
    check_count,
)
from mvmise_sm.results.selection_mechanism import MechanismTest, checked_slopes, sensitivity_rows
from mvmise_sm.results.selection_profiles import ProfiledResults
from mvmise_sm.selection.units import Slot
from mvmise_sm.selection.value import ValueFit, ValueProblem

__all__ = ["ValueMechanism", "marginal_sd"]

# how far from its first guess the intercept is sought that keeps the missing rate, and how exactly
WIDTHS, LEVEL_TOL = (0.25, 0.5, 1.0, 2.0, 4.0), 1e-6


class ValueMechanism(ProfiledResults):
    """The mechanism of a `ValueSelectionModel`; see `ValueSelectionResults`."""

    fit_: ValueFit
    problem: ValueProblem

    def _require_finite(self, what: str) -> None:
        if self._infinite is not None:
            raise OptionError(
                f"{what}: a mean has no finite estimate ({', '.join(self._infinite.names)}); fixef_prior gives one"
            )

    def _require_slope(self) -> None:
        if self.phi is None or "y" not in self.phi.index:
            raise OptionError("the mechanism does not depend on the outcome (missing_y is False or nothing is missing)")

    def _slot(self) -> Slot:
        """The mechanism of the values."""
        slots: tuple[Slot, ...] = self.problem.slots
        return slots[0]

    def _with_phi(self, held: dict[int, float], *free: int) -> ValueFit:
        """The same fit with elements of phi held, and others let free that were held."""
        slot = self._slot()
        kept = {k: v for k, v in slot.held.items() if k not in free}
        problem = self.problem.with_slot(replace(slot, held={**kept, **held}))
        settings = self.mle_settings
        return problem.fit(reml=self.reml, maxiter=settings["maxiter"], tol=settings["tol"])

    @property
    def mechanism_test(self):
        """Likelihood-ratio test that missingness does not depend on the response, restricted after REML.

        None where it does not apply: the slope is held, or the fit has not converged. An object with ``statistic``,
        ``pvalue``, ``df`` and ``llf_null``.
        """
        free = self.phi is not None and bool(self.problem.part.slopes_at.size)
        if not free or not self.converged or self._infinite is not None:
            return None

        def test() -> MechanismTest | None:
            null = self._with_phi({1: 0.0})
            if not null.converged:
                return None
            statistic = max(2.0 * (self.fit_.value - null.value), 0.0)
            return MechanismTest(statistic, float(stats.chi2.sf(statistic, 1)), null.value, 1, null.params.beta)

        return self.memo("mechanism_test", test)

    def sensitivity(self, phi_y=None, alpha=0.05, hold="refit"):
        """Fixed effects as the missingness assumption varies.

        Parameters
        ----------
        phi_y : array_like, optional
            Slopes of the mechanism; by default 0, the one of the fit and three standard errors (a curve's where the
            mechanism is one, half the slope where it is held) on both sides.
        alpha : float, optional
        hold : {"refit", "rate"}, optional
            The mechanism's intercept at every slope: estimated from this response, also where the fit holds it; or
            moved so that the marginal missing rate stays that of the fit.

        Returns
        -------
        DataFrame
            Columns ``phi_y, llf, term, estimate, std_error, conf_low, conf_high, converged``; NaN where no fit is
            found, as with ``hold="rate"`` at slopes that no intercept reconciles with the rate.

        Raises
        ------
        OptionError
            If the mechanism does not depend on the response, a mean has no finite estimate, or `remove_data` has
            removed the rows.
        """
        self.require_rows()
        self._require_slope()
        self._require_finite("sensitivity")
        if phi_y is None:
            phi_y = self._slopes()
        values = checked_slopes(phi_y, hold)
        rows = []
        for value in values:
            fit = self._with_phi({1: float(value)}, 0) if hold == "refit" else self._at_rate(float(value))
            fit = fit if fit is not None and fit.converged else None
            beta = np.full(len(self.params), np.nan) if fit is None else fit.params.beta
            cov = np.outer(beta, beta) if fit is None else self.covariance_of(fit)
            llf = np.nan if fit is None else fit.llf
            rows.append((float(value), llf, beta, np.sqrt(np.diag(cov)), fit is not None))
        quantile = stats.t.isf(alpha / 2.0, self.df_resid) if self.use_t else stats.norm.isf(alpha / 2.0)
        return sensitivity_rows(rows, list(self.model.exog_names), quantile)

    def _slopes(self) -> np.ndarray:
        """The grid of slopes by default."""
        at, se = float(self.phi["y"]), float(self.bse_phi["y"])
        curve = self.model.mechanism.curve
        if curve is not None:
            se = float(curve.bse["y"])
        width = 3.0 * se if np.isfinite(se) and se > 0.0 else 0.5 * abs(at)
        return np.unique(np.r_[0.0, np.linspace(at - width, at + width, 13)])

    def _at_rate(self, value: float) -> ValueFit | None:
        """The fit with a slope, and the intercept where the marginal missing rate is this fit's; None if not found."""
        from scipy.optimize import brentq

        target = self._unit_rates(self.fit_).mean()
        phi = self.fit_.params.phi
        centre = float(phi[0] + (phi[1] - value) * np.nanmean(self.model.endog))
        fits: dict[float, ValueFit] = {}

        def excess(level: float) -> float:
            fit = fits[level] = self._with_phi({0: level, 1: value})
            return float(self._unit_rates(fit).mean() - target) if fit.converged else np.nan

        inner = excess(centre)
        for width in WIDTHS:
            for outer in (centre - width, centre + width):
                if excess(outer) * inner <= 0.0:
                    level = brentq(excess, min(centre, outer), max(centre, outer), xtol=LEVEL_TOL)
                    return fits.get(level) or self._with_phi({0: level, 1: value})
        return None

    def _unit_rates(self, fit: ValueFit, phi: np.ndarray | None = None) -> np.ndarray:
        """Marginal probability of being missing of every row (n,) at a fit, or with another phi."""
        phi = fit.params.phi if phi is None else phi
        eta = self._predictor(phi, self._fixed_part(fit.params.beta))
        variance = marginal_sd(self.model.random_effects, fit.theta, float(fit.params.sigma2[0])) ** 2
        return np.minimum(np.exp(self._slot().mechanism.missing(eta, phi[1] ** 2 * variance)[0]), 1.0)

    def _fixed_part(self, beta: np.ndarray) -> np.ndarray:
        mean = np.asarray(self.model.exog) @ beta
        return mean if self.model.offset is None else mean + self.model.offset

    def _predictor(self, phi: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Linear predictor of being missing at values (n,)."""
        eta, given = phi[0] + phi[1] * y, self.model.mechanism
        if given.covariate is not None:
            eta = eta + phi[2] * given.covariate
        return eta if given.offset is None else eta + given.offset

    def plot_sensitivity(self, phi_y=None, terms=None, alpha=0.05, ax=None):
        """Draw fixed effects and their intervals over the mechanism's slope; returns the Axes."""
        from mvmise_sm.results.selection_plots import sensitivity

        return sensitivity(self, phi_y, terms, alpha, ax)

    def conf_int_phi(self, alpha=0.05):
        """Wald intervals of the mechanism, DataFrame; NaN where it is held. `profile_interval` is more reliable."""
        self._require_slope()
        se = self.bse_phi.where(self.bse_phi > 0)
        half = stats.norm.isf(alpha / 2.0) * se
        return pd.DataFrame({"conf_low": self.phi - half, "conf_high": self.phi + half})

    def mechanism_rows(self):
        """The mechanism as a table: coefficient, standard error, z, p; a held coefficient has none."""
        if self.phi is None or self.bse_phi is None:
            return None
        se = self.bse_phi.where(self.bse_phi > 0)
        z = self.phi / se
        frame = pd.DataFrame({"estimate": self.phi, "std_error": se, "statistic": z})
        frame["p_value"] = 2.0 * stats.norm.sf(np.abs(z))
        return frame

    def mechanism_table(self, by="fitted", bins=10):
        """Compare observed missing rates with those that the fit expects under the marginal law of the values.

        Parameters
        ----------
        by : str, optional
            ``"fitted"`` (bins of the fitted marginal mean), a grouping factor, or a column of the data.
        bins : int, optional

        Returns
        -------
        DataFrame
            ``n, fitted_mean, observed_rate, expected_rate, z``; z takes the values as independent.
        """
        self.require_rows()
        self._require_finite("mechanism_table")
        if self.phi is None:
            raise OptionError("nothing is missing, so there is no mechanism to look at")
        mean = self._fixed_part(self.fit_.params.beta)
        frame = pd.DataFrame(
            {"mean": mean, "expected": self._unit_rates(self.fit_), "missing": np.isnan(self.model.endog)}
        )
        return rate_table(frame, self._units_by(by, mean), by, bins)

    def _units_by(self, by: str, mean: np.ndarray) -> pd.Series:
        """What the rows are sorted by in `mechanism_table`."""
        factors = {factor.name: factor for factor in self.model.random_effects.factors}
        data = getattr(self.model.data, "frame", None)
        if by == "fitted":
            return pd.Series(mean)
        if by in factors:
            return pd.Series(np.asarray(factors[by].levels)[factors[by].codes])
        if isinstance(data, pd.DataFrame) and by in data.columns and len(data) == len(mean):
            return pd.Series(data[by].to_numpy())
        raise OptionError(f"by must be 'fitted', one of {sorted(factors)} or a column of the data, got {by!r}")

    def plot_mechanism(self, bins=10, ax=None):
        """Draw `mechanism_table` over the fitted mean; returns the Axes."""
        return rates_plot({"value": self.mechanism_table("fitted", bins)}, ax)

    def mechanism_fit(self, n=200, rng=None):
        """Compare the numbers of empty and of partly seen groups with those of simulated responses.

        Parameters
        ----------
        n : int, optional
            Simulated responses.
        rng : int or Generator, optional

        Returns
        -------
        DataFrame
            ``observed, expected, z, p_value`` for empty and partly seen levels of the first grouping factor. More empty
            ones than expected speak for a mechanism of whole blocks, ``mvmise_b(mechanism="capped")``.
        """
        from mvmise_sm.results.mechanism_checks import pattern_table

        check_count(n)
        self.require_rows()
        self._require_finite("mechanism_fit")
        codes = self.model.random_effects.factors[0].codes
        size = np.bincount(codes)

        def counts(y: np.ndarray) -> tuple[int, int]:
            gone = np.bincount(codes, np.isnan(y), minlength=size.size)
            return int((gone == size).sum()), int(((gone > 0) & (gone < size)).sum())

        draws = [counts(y) for y in self.simulate(n, rng).to_numpy().T]
        return pattern_table(counts(self.model.endog), draws, "groups")


def marginal_sd(random: RandomEffects, theta: np.ndarray, s2: float) -> np.ndarray:
    """Standard deviation of every row (n,) with the random effects."""
    out = np.full(random.nobs, s2)
    for term, lam in zip(random.terms, random.lambdas(theta), strict=True):
        columns = np.column_stack([np.ones(random.nobs) if c is None else c for c in term.columns])
        out += s2 * ((columns @ lam) ** 2).sum(axis=1)
    return np.sqrt(out)
