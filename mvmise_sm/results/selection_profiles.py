"""Profiles and intervals of all parameters of models of missing values, each parameter a function of the point."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from mvmise_sm.core.uncertainty.profile_search import ProfiledParameter, interval
from mvmise_sm.exceptions import OptionError
from mvmise_sm.options import refuse_unknown
from mvmise_sm.results.questions import AnsweringResults
from mvmise_sm.selection.parameter_profile import Parameter, ParameterProfile

__all__ = [
    "ProfiledResults",
    "log_deviation",
    "selection_parameters",
    "signed_root",
]


def _half_exp(c: float) -> float:
    return float(np.exp(0.5 * c))


def _exp(c: float) -> float:
    return float(np.exp(c))


def _tanh(c: float) -> float:
    return float(np.tanh(c))


def _log_size(c: float) -> float:
    return float(np.log(abs(c))) if c != 0.0 else -np.inf


def log_deviation(name: str, pivot: int, factor: float = 1.0) -> Parameter:
    """A standard deviation whose element is the logarithm of a variance, but for a factor."""
    return Parameter(name, pivot, shown=lambda c: factor * _half_exp(c))


def signed_root(name: str, pivot: int, value: Any = None) -> Parameter:
    """A standard deviation whose sign has no meaning."""
    return Parameter(name, pivot, value, shown=abs, wald=(_log_size, _exp), lower=0.0)


class ProfiledResults(AnsweringResults):
    """Intervals and profiles of results that say what their parameters are."""

    def profile_parameters(self) -> tuple[ParameterProfile, list[Parameter]]:
        """What is profiled: the likelihood at the maximum-likelihood fit, and all parameters in order."""
        raise NotImplementedError

    def _profiled(self, wanted: Any) -> list[ProfiledParameter]:
        """The parameters that were asked for, of the maximum-likelihood fit."""
        from mvmise_sm.inference.fits import ml_fit

        fit = ml_fit(self)
        if not fit.converged:
            raise OptionError(f"there is no profile of a fit that has not converged: {fit.message}")
        target, parameters = self.memo("parameters", fit.profile_parameters)
        return [target.profiled(one) for one in self._named(parameters, wanted)]

    def conf_int(self, alpha=0.05, method="wald", *, parm=None, **options):
        """Confidence intervals.

        Parameters
        ----------
        alpha : float, optional
            One minus the coverage.
        method : {"wald", "profile", "bootstrap"}, optional
            Estimate and standard error; profile likelihood (of the maximum-likelihood fit, also after REML), of the
            fixed effects, standard deviations or loadings, correlations and the mechanism; or parametric bootstrap.
        parm : str or list of str, optional
            Parameters to show: names, ``"beta_"`` for the fixed effects or ``"theta_"`` for all others, which
            ``"wald"`` has by the delta method then (standard deviations on the scale of their logarithm).
        **options
            For ``"bootstrap"``: ``n``, ``rng``, ``n_jobs``, ``kind``, ``by`` and ``progress``.

        Returns
        -------
        ndarray or DataFrame
            Wald: the fixed effects (k_fe, 2). Otherwise a DataFrame by parameter.
        """
        if parm is None and method != "profile":
            return super().conf_int(alpha, method, **options)
        if not 0.0 < alpha < 1.0:
            raise OptionError(f"alpha must lie between 0 and 1, got {alpha!r}")
        if method == "profile":
            refuse_unknown("conf_int(method='profile')", options, ("alpha", "method", "parm", "params"))
            from mvmise_sm.inference.profile import intervals

            return intervals(self._profiled(options.get("params") if parm is None else parm), alpha)
        if method == "bootstrap":
            rows_of = [Parameter(name, 0) for name in self.parameter_values().index]
            names = [one.name for one in self._named(rows_of, parm)]
            return super().conf_int(alpha, method, **options).loc[names]
        target, parameters = self.profile_parameters()
        effects = pd.DataFrame(np.asarray(super().conf_int(alpha, method, **options)), index=self.model.exog_names)
        rows = {}
        for one in self._named(parameters, parm):
            known = one.name in effects.index
            rows[one.name] = tuple(effects.loc[one.name]) if known else self._wald(target, one, alpha)
        return pd.DataFrame.from_dict(rows, orient="index", columns=[0, 1])

    def _wald(self, target: ParameterProfile, one: Parameter, alpha: float) -> tuple[float, float]:
        """Wald interval; from zero to the end of its profile for a standard deviation at zero."""
        if one.lower != 0.0 or one.at(target.point) != 0.0:
            return target.wald(one, alpha)
        (same,) = self._profiled(one.name)
        return 0.0, interval(same, float(stats.norm.isf(0.5 * alpha)))[1]

    def profile(self, params=None, alpha=0.01, *, reml=False):
        """Profile the likelihood over its parameters, by maximum likelihood also after REML.

        Parameters
        ----------
        params : list of str, optional
            Names as in ``conf_int(method="profile")``; all by default.
        alpha : float, optional
            Profiles reach to the end points of intervals with coverage ``1 - alpha``.
        reml : bool, optional
            Of linear mixed models; not available here.

        Returns
        -------
        Profile
            With ``frame``, ``conf_int(alpha)`` and ``plot()``.
        """
        if reml:
            raise OptionError("reml=True profiles the REML criterion of linear mixed models; leave reml out")
        from mvmise_sm.inference.profile import Profile

        return Profile(self._profiled(params), float(stats.norm.isf(0.5 * alpha)))

    def _named(self, parameters: list[Parameter], wanted: Any) -> list[Parameter]:
        """The parameters that were asked for, all by default."""
        if wanted is None:
            return parameters
        k, known = len(self.model.exog_names), {one.name: one for one in parameters}
        groups = {"beta_": list(known)[:k], "theta_": list(known)[k:]}
        names = [
            n for given in ([wanted] if isinstance(wanted, str) else list(wanted)) for n in groups.get(given, [given])
        ]
        for name in names:
            if name not in known:
                raise OptionError(f"unknown parameter {name!r}; this fit has {', '.join(known)}")
        return [known[name] for name in names]


def selection_parameters(result: Any) -> tuple[ParameterProfile, list[Parameter]]:
    """Parameters of model b or e in the order of `parameter_values`.

    Raises
    ------
    OptionError
        If the fit has no likelihood to look at: R's algorithm, the lasso, or no rows any more.
    """
    outcome, model = result._outcome, result.model
    if outcome is None:
        raise model.rows_gone()
    if outcome.maximum is None:
        raise OptionError("method='mvmise' has no likelihood to profile; fit with method='ml'")
    if result.error_penalty:
        raise OptionError("profiles are not defined with error_penalty, which has corners; fit without it")
    objective = outcome.objective
    likelihood, part = objective.likelihood, objective.likelihood.part
    theta, cut, cov = outcome.maximum.theta, likelihood.slices, outcome.cov.theta
    out = [Parameter(name, j) for j, name in enumerate(model.exog_names)]
    if result.tau is not None:
        lone = len(result.tau) == 1
        for j, name in enumerate(result.tau.index, cut["tau"].start):
            out.append(signed_root(f"tau[{name}]", j) if lone else Parameter(f"tau[{name}]", j))
    else:
        for j, name in enumerate(model.design.effect_names, cut["delta"].start):
            out.append(signed_root(f"sd_{name}|{model.group_name}", j))
    for name in ("omega", "delta"):
        if getattr(result, name) is not None:
            out.append(signed_root(name, cut[name].start))
    if result.error_cov is not None:
        out += _error_parameters(likelihood, theta, cov, list(model.outcome_names))
    scales = range(cut["log_sigma2"].start, cut["log_sigma2"].stop)
    if np.ndim(result.sigma2):
        # model e carries the scale of first samples in Sigma: theirs is held at one
        names = [f"sigma[{name}]" for name in result.sigma2.index][-len(scales) :]
        out += [log_deviation(name, j) for name, j in zip(names, scales, strict=True)]
    elif result.error_cov is None:
        out.append(log_deviation("sigma", scales[0]))
    labels = list(result.phi.index) if result.phi is not None else []
    shown = list(part.shown)
    for j, element in enumerate(part.free, cut["phi"].start):
        out.append(Parameter(f"phi[{labels[shown.index(element)]}]", j))

    def feasible(x: np.ndarray, pivot: int, value: float) -> np.ndarray:
        x = x.copy()
        if cut["phi"].start <= pivot < cut["phi"].stop:
            element = int(part.free[pivot - cut["phi"].start])
            x[cut["phi"]] = part.feasible(x[cut["phi"]], value, element)
        return x

    return ParameterProfile(objective, theta, cov, likelihood.diverged, feasible), out


def _log_sd(likelihood: Any, k: int, x: np.ndarray) -> float:
    Sigma = likelihood.params(x).error_cov
    return np.nan if Sigma is None else float(0.5 * np.log(Sigma[k, k]))


def _fisher_z(likelihood: Any, j: int, k: int, x: np.ndarray) -> float:
    Sigma = likelihood.params(x).error_cov
    if Sigma is None:
        return np.nan
    return float(np.arctanh(Sigma[j, k] / np.sqrt(Sigma[j, j] * Sigma[k, k])))


def _error_parameters(likelihood: Any, theta: np.ndarray, cov: np.ndarray, names: list[str]) -> list[Parameter]:
    """Standard deviations and correlations of the errors of model e; each is held by the element it depends on most."""
    cut = likelihood.slices["error_cov"]

    def parameter(name: str, value: Any, shown: Any) -> Parameter:
        slope = np.abs(Parameter(name, cut.start, value).gradient(theta)) * np.sqrt(np.maximum(np.diag(cov), 1e-300))
        return Parameter(name, cut.start + int(np.argmax(slope[cut])), value, shown)

    K = len(names)
    out = [
        parameter(f"sigma[{names[k]}]", partial(_log_sd, likelihood, k), lambda c: float(np.exp(c))) for k in range(K)
    ]
    for j in range(K):
        for k in range(j + 1, K):
            label = f"cor_{names[j]}.{names[k]}|Residual"
            out.append(parameter(label, partial(_fisher_z, likelihood, j, k), _tanh))
    return out
