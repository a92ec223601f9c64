"""What a linear mixed model with missing values can be asked about its missing values, mechanism and parameters."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from mvmise_sm.core.covariance.random_effects import RandomEffects
from mvmise_sm.exceptions import OptionError
from mvmise_sm.results.mechanism_checks import rate_table, rates_plot
from mvmise_sm.results.selection_imputation import (
    check_count,
    check_uncertainty,
    draws_of_parameters,
    parameter_variance,
    with_interval,
)
from mvmise_sm.results.selection_mechanism import MechanismTest, checked_slopes, sensitivity_rows
from mvmise_sm.results.selection_profiles import ProfiledResults, log_deviation, signed_root
from mvmise_sm.selection.parameter_profile import Parameter, ParameterProfile
from mvmise_sm.selection.units import Slot
from mvmise_sm.selection.value import ValueFit, ValueProblem
from mvmise_sm.selection.value_points import complete, params_at, theta_at, value_moments

__all__ = ["ValueQuestions", "marginal_sd"]

# how far from its first guess the intercept is sought that keeps the missing rate, and how exactly
WIDTHS, LEVEL_TOL = (0.25, 0.5, 1.0, 2.0, 4.0), 1e-6


class ValueQuestions(ProfiledResults):
    """Missing values, mechanism and intervals of a `ValueSelectionModel`; see `ValueSelectionResults`."""

    fit_: ValueFit
    problem: ValueProblem

    # --- the missing values

    def predict_missing(self, uncertainty="known", alpha=0.05):
        """Posterior mean and standard deviation of every missing value, given all data and what is missing.

        Parameters
        ----------
        uncertainty : {"known", "parameters"}, optional
            Take the parameters as known, or add what their uncertainty adds to the variance: ``J C J'`` with J the
            derivatives of the posterior mean and C the covariance of all parameters.
        alpha : float, optional
            Of the normal intervals.

        Returns
        -------
        DataFrame
            Columns ``row, mean, sd, conf_low, conf_high`` in row order; NaN where the mean has no finite estimate.

        Raises
        ------
        OptionError
            If the fit has no covariance of all parameters, or `remove_data` has removed the rows.
        """
        check_uncertainty(uncertainty)
        self.require_rows()
        mean, variance = self._moments.mean, self._moments.sd**2
        if uncertainty == "parameters":
            variance = variance + parameter_variance(
                lambda at: value_moments(self.problem, at).mean, self.fit_.point, self._parameter_cov()
            )
        endog = self.model.endog
        if self._infinite is not None:
            full = np.full((2, len(endog)), np.nan)
            full[:, self._infinite.rows] = mean, variance
            mean, variance = full
        missing = np.flatnonzero(np.isnan(endog))
        labels = self.model.data.row_labels
        index = pd.RangeIndex(len(endog)) if labels is None else pd.Index(labels)
        frame = pd.DataFrame({"row": index[missing], "mean": mean[missing], "sd": np.sqrt(variance[missing])})
        return with_interval(frame, alpha)

    def _parameter_cov(self) -> np.ndarray:
        """Covariance of all free parameters (k, k), or a sentence why there is none."""
        if not np.isfinite(self.fit_.cov).all():
            raise OptionError(
                "this fit has no covariance of its parameters, so their uncertainty is unknown; use uncertainty='known'"
            )
        return self.fit_.cov

    def imputations(self, n=10, rng=None, *, uncertainty="parameters"):
        """Complete the response by draws of the missing values, for analyses to be pooled with `mvmise_sm.pool`.

        Every imputation draws the parameters from their normal law, then the random effects and the missing values
        from their law given the parameters, all that was seen, and which values are missing.

        Parameters
        ----------
        n : int, optional
            Number of completed responses.
        rng : int, array_like of int, numpy.random.Generator, or numpy.random.RandomState, optional
        uncertainty : {"parameters", "known"}, optional
            Whether the parameters are drawn, as proper imputations ask, or stay at the estimates.

        Returns
        -------
        DataFrame
            Responses (nobs, n), columns ``imp_1`` and so on; seen values are as they are. ``attrs["redrawn"]`` counts
            draws of parameters outside their domain.

        Raises
        ------
        OptionError
            As `predict_missing`, and where a mean has no finite estimate.
        DataError
            If draws of the parameters are outside their domain again and again.
        """
        check_count(n)
        check_uncertainty(uncertainty)
        self.require_rows()
        self._require_finite("imputations")
        cov = self._parameter_cov() if uncertainty == "parameters" else None
        objective = self.problem.objective()
        draws, redrawn = draws_of_parameters(
            lambda at, generator: complete(self.problem, at, generator),
            lambda at: bool(np.isfinite(objective(at)[0])),
            self.fit_.point,
            cov,
            n,
            rng,
        )
        names = [f"imp_{i + 1}" for i in range(n)]
        out = pd.DataFrame(np.column_stack(draws), index=self.model.data.row_labels, columns=names)
        out.attrs["redrawn"] = redrawn
        return out

    def _require_finite(self, what: str) -> None:
        if self._infinite is not None:
            raise OptionError(
                f"{what}: a mean has no finite estimate ({', '.join(self._infinite.names)}); fixef_prior gives one"
            )

    # --- the mechanism

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

    def profile_interval(self, alpha=0.05):
        """Likelihood-ratio interval of the mechanism's slope on the response, by maximum likelihood.

        Raises
        ------
        OptionError
            If the slope is held or there is none.
        """
        self._require_slope()
        if not self.problem.part.slopes_at.size:
            raise OptionError("the mechanism's slope is held; a profile needs a free one")
        return tuple(float(v) for v in self.conf_int(alpha, "profile", parm="phi[y]").loc["phi[y]"])

    def conf_int_phi(self, alpha=0.05):
        """Wald intervals of the mechanism, DataFrame; NaN where it is held. `profile_interval` is more reliable."""
        self._require_slope()
        se = self.bse_phi.where(self.bse_phi > 0)
        half = stats.norm.isf(alpha / 2.0) * se
        return pd.DataFrame({"conf_low": self.phi - half, "conf_high": self.phi + half})

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

    # --- parameters

    def profile_parameters(self):
        """What is profiled: the likelihood, and fixed effects, standard deviations, correlations, sigma, free phi."""
        from mvmise_sm.inference.resampling import parameter_names

        self.require_rows()
        self._require_finite("profile")
        problem, fit = self.problem, self.fit_
        p, count = len(self.params), problem.part.free.size
        names = parameter_names(self)
        out = [Parameter(name, j) for j, name in enumerate(names[:p])]
        scale = fit.point.size - count - 1
        deviations = names[p : len(names) - 1 - count]
        if problem.exact and problem.ratio is not None:
            out.append(log_deviation(deviations[0], scale, problem.ratio))
        elif problem.exact:
            out.append(signed_root(deviations[0], scale - 1))
        else:
            out += self._laplace_deviations(deviations, scale)
        out.append(log_deviation("sigma", scale))
        out += [Parameter(name, scale + 1 + j) for j, name in enumerate(self._phi_names())]

        def feasible(x: np.ndarray, pivot: int, value: float) -> np.ndarray:
            x = x.copy()
            if pivot > scale:
                x[scale + 1 :] = problem.part.feasible(x[scale + 1 :], value, int(problem.part.free[pivot - scale - 1]))
            return x

        return ParameterProfile(problem.objective(), fit.point, fit.cov, problem.diverged, feasible), out

    def _phi_names(self) -> list[str]:
        """Rows of the free elements of phi."""
        return [f"phi[{self.model.mechanism.names[k]}]" for k in self.problem.part.free]

    def _laplace_deviations(self, names: list[str], scale: int) -> list[Parameter]:
        """Standard deviations and correlations as functions of lme4's theta and sigma."""
        from mvmise_sm.inference.resampling import all_parameters

        layout, point, cov = self.model.random_layout, self.fit_.point, self.fit_.cov
        first = len(self.params)

        def reported(x: np.ndarray, i: int) -> float:
            sigma2 = float(np.exp(x[scale]))
            return float(all_parameters(layout, (), theta_at(self.problem, x), sigma2, True, None)[i])

        def single(x: np.ndarray, j: int) -> float:
            return float(x[j] * np.exp(0.5 * x[scale]))

        scales = {"sd": (np.log, np.exp), "cor": (np.arctanh, np.tanh)}
        out: list[Parameter] = []
        for term, where in zip(layout.terms, layout.theta_slices, strict=True):
            for found in term.structure.parameters(term.structure.start(np.ones(term.q)), term.names):
                i = len(out)
                inside = slice(first + where.start, first + where.stop)
                if term.q == 1:
                    out.append(signed_root(names[i], inside.start, partial(single, j=inside.start)))
                    continue
                there, back = scales.get(found.kind, (float, float))

                def value(x: np.ndarray, i: int = i, there: Any = there) -> float:
                    with np.errstate(divide="ignore", invalid="ignore"):
                        return float(there(reported(x, i)))

                slope = np.abs(Parameter("", first, value).gradient(point))
                slope = slope * np.sqrt(np.maximum(np.diag(cov), 1e-300))
                pivot = inside.start + int(np.argmax(slope[inside]))
                out.append(Parameter(names[i], pivot, value, partial(_plain, back)))
        return out

    def family_parameters(self):
        """What is free in phi: a dict from name to value."""
        return dict(zip(self._phi_names(), self.fit_.params.phi[self.problem.part.free].tolist(), strict=True))

    def variance_law(self):
        """lme4's theta and log sigma2 as the fit has them, and their covariance."""
        p, count = len(self.fit_.params.beta), self.problem.part.free.size
        first = self.problem.X.shape[1]
        own = slice(first, self.fit_.point.size - count)
        if not np.isfinite(self.fit_.cov).all() or p != first:
            return None
        return self.fit_.point[own], self.fit_.cov[own, own]

    def parameters_at(self, at):
        """Theta and sigma2 at parameters of `variance_law`."""
        x = self.fit_.point.copy()
        first = self.problem.X.shape[1]
        x[first : first + len(at)] = at
        return theta_at(self.problem, x), float(params_at(self.problem, x).sigma2[0])

    def mean_scale(self):
        """What undoes the transformation of the response, see `MarginalResults.mean_scale`."""
        from mvmise_sm.inference.means.scales import response_scale

        return response_scale(self.fixed_design().parts.response)

    def random_sd(self):
        """Standard deviation of an observation about the fixed effects."""
        self.require_rows()
        variance = marginal_sd(self.model.random_effects, self.theta, self.scale) ** 2
        return float(np.sqrt(variance.mean()))


def _plain(function: Any, c: float) -> float:
    return float(function(c))


def marginal_sd(random: RandomEffects, theta: np.ndarray, s2: float) -> np.ndarray:
    """Standard deviation of every row (n,) with the random effects."""
    out = np.full(random.nobs, s2)
    for term, lam in zip(random.terms, random.lambdas(theta), strict=True):
        columns = np.column_stack([np.ones(random.nobs) if c is None else c for c in term.columns])
        out += s2 * ((columns @ lam) ** 2).sum(axis=1)
    return np.sqrt(out)
