"""Prediction intervals for new observations."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import special, stats
from statsmodels.regression._prediction import PredictionResults

from mvmise_sm.exceptions import OptionError
from mvmise_sm.options import answering, strict_options

__all__ = ["LinearPrediction", "observation_prediction"]

_DRAWS = 1024


@strict_options
class LinearPrediction(PredictionResults):
    """Predictions of means on the linear scale."""


@strict_options
class LinearObservation(PredictionResults):
    """Predictions of single observations of a linear mixed model, with the residual variance in the standard error."""

    @property
    def se_mean(self):
        """Standard error of the mean (m,)."""
        return np.sqrt(self.var_pred_mean)

    @property
    def se(self):
        """Standard deviation of an observation about its prediction (m,)."""
        return self.se_obs

    def conf_int(self, obs=True, alpha=0.05):
        """Intervals for an observation, or for its mean with ``obs=False``."""
        return super().conf_int(obs=obs, alpha=alpha)


@answering
class FamilyObservation:
    """Predictions of single observations of a generalized linear mixed model.

    The predictive distribution is that of the family mixed over the normal distribution of the linear predictor.

    Attributes
    ----------
    predicted : ndarray
        Mean at the predicted linear predictor (m,).
    se : ndarray
        Standard deviation of the predictive distribution (m,).
    """

    def __init__(self, predicted, draws, row_labels):
        self.predicted = self.predicted_mean = predicted
        self.se = draws.std(axis=1)
        self.row_labels = row_labels
        self._draws = draws

    def conf_int(self, alpha=0.05):
        """Intervals for an observation (m, 2)."""
        return np.quantile(self._draws, [0.5 * alpha, 1.0 - 0.5 * alpha], axis=1, method="inverted_cdf").T

    def summary_frame(self, alpha=0.05):
        """Frame with columns ``mean, obs_se, obs_ci_lower, obs_ci_upper``."""
        low, high = self.conf_int(alpha).T
        columns = {"mean": self.predicted, "obs_se": self.se, "obs_ci_lower": low, "obs_ci_upper": high}
        return pd.DataFrame(columns, index=self.row_labels)


def observation_prediction(result, linear, variance, which, labels, residual=1.0):
    """Predictions of single observations of weight 1.

    Parameters
    ----------
    result : MixedModelResults
    linear, variance : ndarray
        Linear predictor and its variance (m,).
    which : {"mean", "linear"}
        Generalized models observe on the response scale only.
    labels : Index or None
    residual : float or ndarray
        Residual variance over the scale, of linear models (m,).

    Returns
    -------
    LinearObservation or FamilyObservation
    """
    if result.linear:
        law = ("t", result.df_resid) if result.use_t else ("norm", None)
        scale = result.scale * residual
        return LinearObservation(linear, variance, scale, df=law[1], dist=law[0], row_labels=labels)
    if which != "mean":
        raise OptionError("kind='prediction' of a generalized model is on the response scale; use which='mean'")
    # a fixed low-discrepancy set: the same intervals in every call
    u = stats.qmc.Sobol(2, scramble=True, rng=np.random.default_rng(0)).random(_DRAWS)
    eta = linear[:, None] + np.sqrt(variance)[:, None] * special.ndtri(u[:, 0])
    family, d = result.model.family, result.dispersion
    if np.ndim(d):
        raise OptionError("new rows have dispersions of their own: use prediction_interval()")
    centre = family.centre(eta, d, result.shapes)
    draws = _observations(result, np.where(np.isfinite(centre), centre, 1.0), u[:, 1])
    mean = family.mean(linear, d, result.shapes)
    return FamilyObservation(mean, np.where(np.isfinite(eta), draws, np.nan), labels)


def _observations(result, centre, u):
    """Responses of weight one about `centre` (m, draws): quantiles at `u`, or simulated where the family has none."""
    family, d = result.model.family, result.dispersion
    draws = family.quantile(u, centre, None, d, result.shapes)
    return family.simulate(np.random.default_rng(0), centre, None, d, result.shapes) if draws is None else draws
