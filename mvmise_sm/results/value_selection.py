"""Results of the linear mixed model whose missing responses are part of the likelihood."""

from __future__ import annotations

import numpy as np
import pandas as pd
import statsmodels.base.wrapper as wrap
from statsmodels.iolib.table import SimpleTable
from statsmodels.iolib.tableformatting import fmt_params
from statsmodels.tools._decorators import cache_readonly
from statsmodels.tools.rng_qrng import check_random_state

from mvmise_sm.core.criteria.solution import PLSSolution
from mvmise_sm.core.optimise.newton import Optimum
from mvmise_sm.exceptions import OptionError
from mvmise_sm.options import strict_options
from mvmise_sm.results.base import MixedModelResults, MixedModelResultsWrapper
from mvmise_sm.results.value_questions import ValueQuestions, marginal_sd
from mvmise_sm.selection.value_points import effect_slopes, value_moments

__all__ = ["ValueSelectionResults", "ValueSelectionResultsWrapper"]

REFUSED = {
    "get_robustcov_results": "robust covariances are defined for linear mixed models without missing values in the "
    "likelihood",
    "anova_random": "tests of random effects are not defined with missing values in the likelihood; compare two fits "
    "with ms.anova",
    "get_influence": "influence is not defined with missing values in the likelihood; leave rows out with subset=",
    "plot_influence": "influence is not defined with missing values in the likelihood; leave rows out with subset=",
    "r2": "r2 is defined for linear and generalized mixed models; varcorr has the variances",
    "icc": "icc is defined for linear and generalized mixed models; varcorr has the variances",
    "overdispersion": "the residual variance is estimated; overdispersion is for counts and proportions",
    "zero_inflation": "zeros have probability nought in a continuous response; zero_inflation concerns counts",
    "resid_simulated": "resid_simulated leaves out which values are missing; use resid_quantile",
    "all_fit": "there is one algorithm; fit(tol=) and fit(maxiter=) tighten it",
    "check": "check() knows linear and generalized mixed models; summary() says what is doubtful here",
    "to_arviz": "to_arviz draws from linear and generalized mixed models; bootstrap() has draws of the parameters here",
    "plot_fit": "plot_fit draws complete responses; use predict() and predict_missing()",
    "plot_priors": "plot_priors knows linear and generalized mixed models; summary() prints the priors",
}


@strict_options
class ValueSelectionResults(ValueQuestions, MixedModelResults, refuses=REFUSED):
    """Results of a `ValueSelectionModel`; `params` holds the fixed effects only.

    The log-likelihood is that of values and missingness, after REML the restricted one.

    Parameters
    ----------
    model : ValueSelectionModel
    problem : ValueProblem
        The likelihood of the data.
    fit : ValueFit
    infinite : InfiniteMeans or None
        Fixed effects without a finite estimate.
    settings : dict
    cov_type : str
    use_t : bool

    Attributes
    ----------
    phi, bse_phi : Series or None
        The mechanism, of the probability of being missing, and its standard errors, zero where held; None if nothing is
        missing.
    cov_phi : DataFrame or None
    sigma2 : float
        Residual variance, the same as `scale`.
    n_missing, n_observed : int
    detection_curve : Series or None
        The curve of the probability of being SEEN where the mechanism is symmetric (logit, probit): ``-phi``.
    """

    linear = True

    def __init__(self, model, problem, fit, infinite, settings, *, cov_type="nonrobust", use_t=False):
        self.fit_ = fit
        self.problem = problem
        self.reml = settings["reml"]
        p, s2 = len(fit.params.beta), float(fit.params.sigma2[0])
        self.cov_type = cov_type
        cov = self.covariance_of(fit)
        moments = value_moments(problem, fit.point)
        b = _all_levels(model.random_effects, problem.random, moments.effects)
        solution = PLSSolution(
            theta=fit.theta,
            beta=fit.params.beta,
            b=b,
            sigma2=s2,
            cov_beta=cov / s2,
            logdet_m=np.nan,
            logdet_x=np.nan,
            r2=np.nan,
            nu=np.nan,
            criterion=-2.0 * fit.llf,
            penalty=2.0 * (fit.llf - fit.value),
        )
        # a standard deviation of 0 that is held, or a mode of its prior, is no accident of the data
        at_zero = bool((fit.theta[model.random_layout.lower == 0.0] == 0.0).any())
        singular = at_zero and model.mechanism.ratio is None and not model.attracted
        message = fit.status.sentence(fit.n_iter)
        retvals = {"converged": fit.converged, "iterations": fit.n_iter, "message": message}
        optimum = Optimum(
            fit.theta, fit.point, -2.0 * fit.value, fit.converged, singular, message, retvals, {"optimizer": "newton"}
        )
        super().__init__(model, solution, optimum, settings, use_t=use_t)
        self.cov_type = cov_type
        self._estimator = "REML" if self.reml else "ML"
        self._criterion_name = "REML criterion" if self.reml else "-2 Log-Likelihood"
        self.n_missing, self.n_observed = model.n_missing, model.nobs - model.n_missing
        self.df_resid = float(self.n_observed - p)
        self.k_params = p + self.k_scale + fit.free.size + (0 if model.mechanism.ratio is not None else len(fit.theta))
        self.sigma2 = self.scale
        self._moments, self._infinite = moments, infinite
        self._set_phi()

    def _set_phi(self):
        part = self.problem.part
        self.phi = self.bse_phi = self.cov_phi = self.detection_curve = None
        if not part.slots:
            return
        shown = part.shown
        labels = [self.model.mechanism.names[k] for k in shown]
        self.phi = pd.Series(self.fit_.params.phi[shown], labels, name="phi")
        cov = self.fit_.cov_phi[np.ix_(shown, shown)]
        self.cov_phi = pd.DataFrame(cov, labels, labels)
        with np.errstate(invalid="ignore"):
            self.bse_phi = pd.Series(np.sqrt(np.diag(cov)), labels, name="phi")
        if part.slots[0].mechanism.name in ("logit", "probit"):
            self.detection_curve = (-self.phi).rename("detection_curve")

    def covariance_of(self, fit):
        """Covariance of the fixed effects of a fit of this problem (p, p), of the type of this result."""
        # without dependence on y the estimates are lmer's, and so is their covariance
        depends = any(slot.missing_y for slot in self.problem.part.slots) and fit.params.phi[1] != 0.0
        return _covariance(fit, self.cov_type if depends or not self.reml else "conditional", self.reml)

    @property
    def profiled(self):
        """Whether beta and sigma2 are profiled out of the criterion: not with missing values in it."""
        return False

    @property
    def restricted(self) -> bool:
        """Whether the likelihood is the restricted one (REML)."""
        return self.reml

    def row_influence(self):
        """None: influence is not defined with missing values in the likelihood."""
        return None

    @property
    def deviance(self):
        """-2 times the log-likelihood."""
        return self.criterion

    @property
    def bic(self):
        """Schwarz's criterion with the number of seen values."""
        return -2.0 * self.llf + float(np.log(self.n_observed)) * self.k_params

    def satterthwaite_law(self):
        """Covariance and Satterthwaite's degrees of freedom, those of ``I_bb^-1``."""
        from mvmise_sm.inference.selection import RestrictedDf

        cov = np.asarray(self.cov_params())
        uncertainty = self.fit_.uncertainty
        if uncertainty is None:
            p = len(self.params)
            return RestrictedDf(cov, np.full((p, p), np.nan), np.zeros((0, 0)), np.zeros((0, p, p)))
        return RestrictedDf(cov, uncertainty.conditional, uncertainty.nuisance, uncertainty.slopes)

    # --- fit

    @cache_readonly
    def fittedvalues(self):
        """Fitted mean of every row, conditional on the random effects (nobs,)."""
        return self._linear_predictor()

    @cache_readonly
    def resid(self):
        """Seen values minus `fittedvalues` (nobs,), NaN where missing; off centre, see `resid_quantile`."""
        return self.model.endog - self.fittedvalues

    @cache_readonly
    def resid_pearson(self):
        """The residuals (nobs,)."""
        return self.resid

    @cache_readonly
    def resid_quantile(self):
        """Normal quantiles of the seen values under their law given that they were seen (nobs,), NaN where missing.

        Standard normal if the model holds; plain residuals of seen values are off centre.
        """
        from mvmise_sm.selection.quantiles import seen_quantiles

        model, part = self.model, self.problem.part
        self.require_rows()
        mean = np.asarray(model.exog) @ np.asarray(self.params)
        mean = mean if model.offset is None else mean + model.offset
        sd = marginal_sd(model.random_effects, self.theta, self.scale)
        offset = np.zeros(len(mean)) if model.mechanism.offset is None else model.mechanism.offset.copy()
        phi = self.fit_.params.phi
        if model.mechanism.covariate is not None:
            offset = offset + phi[2] * model.mechanism.covariate
        mechanism = part.slots[0].mechanism if part.slots else None
        return seen_quantiles(model.endog, mean, sd, mechanism, phi[0] + offset, phi[1])

    def diagnostic_points(self):
        """Fitted values and quantile residuals of the seen values, as diagnostic plots take them."""
        residual = self.resid_quantile
        seen = np.isfinite(residual)
        return self.fittedvalues[seen], residual[seen]

    @cache_readonly
    def random_effects_cov(self):
        """Posterior covariances of the random effects, dict of ndarray (n_levels, q, q)."""
        layout = self.model.random_layout
        blocks: dict[str, list[np.ndarray]] = {}
        for term, own in zip(layout.terms, self._moments.effects_cov, strict=True):
            blocks.setdefault(term.factor.name, []).append(own)
        return {name: _block_diagonal(parts) for name, parts in blocks.items()}

    def _prediction_variance(self, exog, rows):
        """Variance of predictions over the scale: posterior of the random effects, uncertainty of the fixed ones."""
        self.require_rows()
        moments, cov = self._moments, np.asarray(self.cov_params())
        jacobian = np.array(exog, dtype=float)
        total = np.zeros(len(exog))
        shifts = effect_slopes(self.problem, self.fit_.point)
        for (codes, columns), own, slope in zip(rows, moments.effects_cov, shifts, strict=True):
            known = codes >= 0
            total[known] += np.einsum("ij,ijk,ik->i", columns[known], own[codes[known]], columns[known])
            jacobian[known] += np.einsum("ij,ijp->ip", columns[known], slope[codes[known]])
        for (codes, columns), lam in zip(rows, self.model.random_layout.lambdas(self.theta), strict=True):
            new = codes < 0
            total[new] += self.scale * ((columns[new] @ lam) ** 2).sum(axis=1)
        total += np.einsum("ij,jk,ik->i", jacobian, cov, jacobian)
        return total / self.scale

    def _prediction(self, linear, variance, which, labels):
        """Predictions with confidence intervals and prediction intervals."""
        from mvmise_sm.inference.prediction import LinearPrediction

        dist = ("t", self.df_resid) if self.use_t else ("norm", None)
        return LinearPrediction(linear, variance, self.scale, df=dist[1], dist=dist[0], row_labels=labels)

    def mean_scale(self):
        """What undoes the transformation of the response, see `MarginalResults.mean_scale`."""
        from mvmise_sm.inference.means.scales import response_scale

        return response_scale(self.fixed_design().parts.response)

    def random_sd(self):
        """Standard deviation of an observation about the fixed effects."""
        from mvmise_sm.inference.variance_shares import random_variance

        return float(np.sqrt(random_variance(self) + self.scale))

    def simulate(self, n=1, rng=None, random="new", missing=True):
        """Simulate responses from the fitted model.

        Parameters
        ----------
        n : int, optional
            Number of responses.
        rng : int, array_like of int, numpy.random.Generator, or numpy.random.RandomState, optional
        random : {"new", "conditional"}, optional
            New random effects in every response, or those of the fit.
        missing : bool, optional
            Whether values go missing by the mechanism; complete responses otherwise.

        Returns
        -------
        DataFrame
            One column per response (nobs, n), NaN where missing.
        """
        if random not in ("new", "conditional"):
            raise OptionError(f"random must be 'new' or 'conditional', got {random!r}")
        if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1:
            raise OptionError(f"n must be a positive integer, got {n!r}")
        self.require_rows()
        rng = check_random_state(rng)
        model, sigma = self.model, np.sqrt(self.scale)
        uniform = rng.random if hasattr(rng, "random") else rng.random_sample
        phi, slots = self.fit_.params.phi, self.problem.part.slots
        out = np.empty((self.nobs, n), order="F")
        for i in range(n):
            linear = self.fittedvalues
            if random == "new":
                linear = self._linear_predictor(self.effects_draw(rng))
            y = linear + sigma * rng.standard_normal(self.nobs)
            if missing and slots:
                eta = phi[0] + phi[1] * y
                if model.mechanism.offset is not None:
                    eta = eta + model.mechanism.offset
                if model.mechanism.covariate is not None:
                    eta = eta + phi[2] * model.mechanism.covariate
                y[uniform(self.nobs) < slots[0].mechanism.prob(eta)] = np.nan
            out[:, i] = y
        return pd.DataFrame(out, index=model.data.row_labels, columns=[f"sim_{i + 1}" for i in range(n)])

    # --- tables

    def _header_rows(self):
        slots = self.problem.part.slots
        name = slots[0].mechanism.name if slots else "none"
        share = f"{self.n_missing} ({100 * self.n_missing / self.nobs:.0f} %)"
        return [("Missing values:", [share]), ("Mechanism:", [name])]

    def summary(self, yname=None, xname=None, title=None, alpha=0.05, *, ddf=None):
        """Summarise the fit: fixed effects, variances, mechanism; parameters as in `LinearMixedModelResults`."""
        out = super().summary(yname, xname, title, alpha, ddf=ddf)
        rows = self.mechanism_rows()
        if rows is not None:
            cells = [["" if not np.isfinite(v) else f"{v:.4f}" for v in row] for row in rows.to_numpy()]
            held = " (held)" if not self.fit_.free.size else ""
            table = SimpleTable(
                cells,
                ["coef", "std err", "z", "P>|z|"],
                list(rows.index),
                title=f"Probability of being missing ({self.problem.part.slots[0].mechanism.name}){held}",
                txt_fmt=fmt_params,
            )
            out.tables.append(table)
        return out

    def glance(self):
        """Return a one-row frame that describes the whole fit."""
        out = super().glance()
        out["n_missing"] = self.n_missing
        out["phi_y"] = np.nan if self.phi is None else self.phi.get("y", np.nan)
        return out

    @property
    def has_rows(self):
        """Whether the rows of the data are still there, see `remove_data`."""
        return self.model.random_effects is not None


def _covariance(fit, cov_type, reml):
    """Covariance of the fixed effects by type; NaN without a maximum."""
    p = len(fit.params.beta)
    if fit.uncertainty is None:
        return np.full((p, p), np.nan)
    if cov_type == "conditional":
        return fit.uncertainty.conditional
    return fit.uncertainty.cov if reml else fit.information


def _all_levels(random, fitted, effects):
    """Effects by all levels of the model, zero for levels without a finite row."""
    out = []
    for term, own, values in zip(random.terms, fitted.terms, effects, strict=True):
        full = np.zeros((term.factor.n_levels, term.q))
        positions = {level: i for i, level in enumerate(term.factor.levels)}
        full[[positions[level] for level in own.factor.levels]] = values
        out.append(full)
    return tuple(out)


def _block_diagonal(parts):
    """Terms of one factor side by side, (n_levels, q, q)."""
    q = sum(part.shape[1] for part in parts)
    out = np.zeros((len(parts[0]), q, q))
    at = 0
    for part in parts:
        out[:, at : at + part.shape[1], at : at + part.shape[1]] = part
        at += part.shape[1]
    return out


class ValueSelectionResultsWrapper(MixedModelResultsWrapper):
    """Attach pandas labels to the arrays of a `ValueSelectionResults`."""


wrap.populate_wrapper(ValueSelectionResultsWrapper, ValueSelectionResults)
