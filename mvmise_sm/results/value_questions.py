"""What a linear mixed model with missing values can be asked about its missing values, mechanism and parameters."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from mvmise_sm.exceptions import OptionError
from mvmise_sm.results.selection_imputation import (
    check_count,
    check_uncertainty,
    draws_of_parameters,
    parameter_variance,
    with_interval,
)
from mvmise_sm.results.selection_profiles import log_deviation, signed_root
from mvmise_sm.results.value_mechanism import ValueMechanism, marginal_sd
from mvmise_sm.selection.parameter_profile import Parameter, ParameterProfile
from mvmise_sm.selection.value import ValueFit, ValueProblem
from mvmise_sm.selection.value_points import complete, params_at, theta_at, value_moments

__all__ = ["ValueQuestions", "marginal_sd"]


class ValueQuestions(ValueMechanism):
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

    # --- the mechanism

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
