"""Influence of rows and of groups: leverage, Cook's distance, DFBETAS."""

from __future__ import annotations

import numpy as np
import pandas as pd

from mvmise_sm.core.criteria.whitened import WhitenedDeviance
from mvmise_sm.core.uncertainty.deletion import RowDeletion, row_deletion
from mvmise_sm.core.uncertainty.hessian import prediction_variance
from mvmise_sm.inference.fits import with_rows
from mvmise_sm.inference.resampling import parameter_names, parameters_of, resampled_fit
from mvmise_sm.options import strict_options

__all__ = ["GroupInfluence", "RowInfluence", "influence"]


@strict_options
class RowInfluence:
    """Influence of single rows.

    Attributes
    ----------
    hat_matrix_diag : ndarray
        Leverage of every row on its own fitted value, fixed and random part together (nobs,); at the mode's working
        weights for generalized models.
    cooks_distance : Series
        Squared distance of the fixed effects without the row from those of all rows, in their covariance, over their
        number (nobs,); the variance parameters are held.
    cooks_distance_lme4 : Series
        lme4's ``cooks.distance``: the squared standardised residual times h / (1 - h), over the number of fixed effects
        (nobs,). With h from fixed and random effects together it is many times the distance that a deletion gives.
    dfbetas : DataFrame
        Change of the fixed effects when the row is deleted, in standard errors without the row (nobs, k_fe); the
        variance parameters are held.

    Notes
    -----
    With P = V^-1 - V^-1 X C X'V^-1 and x_i = X'V^-1 e_i, deleting row i moves beta by C x_i (Py)_i / P_ii and its
    covariance from C to C + C x_i x_i'C / P_ii (Christensen, Pearson and Johnson 1992, Technometrics 34); here
    (Py)_i = w_i e_i and P_ii = w_i (1 - h_i), with conditional residuals e and leverages h. With ``residual=`` they are
    taken from V itself.
    """

    def __init__(self, result):
        result = with_rows(result)
        model = result.model
        self._index = model.data.row_labels
        if self._index is None:
            self._index = pd.RangeIndex(result.nobs)
        cov, residual, deleted = _deleted(result)
        self.hat_matrix_diag = h = deleted.hat
        left = np.maximum(1.0 - h, 1e-12)
        size = result.scale * max(result.k_fe, 1)
        shortcut = residual**2 / left**2 * h / size
        self.cooks_distance_lme4 = pd.Series(shortcut, index=self._index, name="cooks_distance_lme4")
        self.cooks_distance = pd.Series(deleted.distance / size, index=self._index, name="cooks_distance")
        se = np.sqrt(np.diag(cov) + result.scale * deleted.widened)
        self.dfbetas = pd.DataFrame(deleted.change / se, index=self._index, columns=list(model.exog_names))

    def summary_frame(self):
        """Frame with ``hat_diag, cooks_d`` and one column ``dfb_<name>`` per fixed effect (nobs rows)."""
        out = pd.DataFrame(
            {"hat_diag": self.hat_matrix_diag, "cooks_d": self.cooks_distance.to_numpy()}, index=self._index
        )
        return out.join(self.dfbetas.add_prefix("dfb_"))

    def plot(self, ax=None, **options):
        """Plot Cook's distance; see `mvmise_sm.plots.influence`."""
        from mvmise_sm import plots

        return plots.influence_index(self, ax, **options)


@strict_options
class GroupInfluence:
    """Influence of the groups of one factor: the model is refitted without each.

    Attributes
    ----------
    params : DataFrame
        All parameters without each group (n_groups, k).
    hat_matrix_diag : Series
        Sum of the leverages of a group's rows (n_groups,).
    cooks_distance : Series
        Squared distance of the fixed effects from those of all data, in their covariance, over their number
        (n_groups,).
    dfbetas : DataFrame
        Change of the fixed effects over their standard errors without the group (n_groups, k_fe).
    """

    def __init__(self, result, level):
        result = with_rows(result)
        factor = result.grouping(level)
        names = parameter_names(result)
        rows = [np.flatnonzero(factor.codes == j) for j in range(factor.n_levels)]
        index = pd.Index(factor.levels, name=factor.name)
        values = np.full((factor.n_levels, len(names)), np.nan)
        fixed = list(result.coef_names)
        errors = np.full((factor.n_levels, len(fixed)), np.nan)
        for j in range(factor.n_levels):
            fit = resampled_fit(result, factor, rows, np.delete(np.arange(factor.n_levels), j))
            found = dict(zip(parameter_names(fit), parameters_of(fit), strict=True))
            values[j] = [found.get(name, np.nan) for name in names]
            se = dict(zip(fit.coef_names, np.asarray(fit.bse), strict=True))
            errors[j] = [se.get(name, np.nan) for name in fixed]
        self.params = pd.DataFrame(values, index=index, columns=names)
        change = np.asarray(result.params) - values[:, : len(fixed)]
        inverse = np.linalg.inv(result.plain_cov())
        cooks = np.einsum("ji,ik,jk->j", change, inverse, change) / len(fixed)
        self.cooks_distance = pd.Series(cooks, index=index, name="cooks_distance")
        self.dfbetas = pd.DataFrame(change / errors, index=index, columns=fixed)
        h = _deleted(result)[2].hat
        self.hat_matrix_diag = pd.Series([h[r].sum() for r in rows], index=index, name="hat_diag")

    def summary_frame(self):
        """Frame with ``hat_diag, cooks_d`` and one column ``dfb_<name>`` per fixed effect (n_groups rows)."""
        out = pd.DataFrame({"hat_diag": self.hat_matrix_diag, "cooks_d": self.cooks_distance})
        return out.join(self.dfbetas.add_prefix("dfb_"))

    def plot(self, ax=None, **options):
        """Plot Cook's distance; see `mvmise_sm.plots.influence`."""
        from mvmise_sm import plots

        return plots.influence_index(self, ax, **options)


def influence(result, level=None):
    """Influence by row or by group; see `InferentialResults.get_influence`."""
    return RowInfluence(result) if level is None else GroupInfluence(result, level)


def _deleted(result):
    """Covariance of the fixed effects, residuals at unit variance over sigma, and what leaving out each row changes."""
    model = result.model
    if result.residual_structure() is not None:
        rows = model.endog, np.asarray(model.exog, dtype=float), model.random_effects, model.residual
        options = {"priors": model.priors, "reml": result.reml, "weights": model.weights, "offset": model.offset}
        deleted = row_deletion(WhitenedDeviance(*rows, **options), result.theta)
        return result.scale * result.solution.cov_beta, np.asarray(result.resid_pearson), deleted
    h, residual, x, cov = _linearised(result)
    left = np.maximum(1.0 - h, 1e-12)
    moved = x @ (cov / result.scale)
    distance = (residual / left) ** 2 * np.einsum("ij,ij->i", moved, x)
    change = moved * (residual / left)[:, None]
    return cov, residual, RowDeletion(h, change, np.square(moved) / left[:, None], distance)


def _linearised(result):
    """Leverages, weighted residuals, weighted rows of V^-1X, and the covariance of the fixed effects."""
    model = result.model
    rows = model.own_rows()
    exog = np.asarray(model.exog, dtype=float)
    criterion = result.deviance_function()
    if result.linear:
        weights = np.ones(result.nobs) if model.weights is None else np.asarray(model.weights, dtype=float)
        relative = criterion.prediction_variance(result.theta, exog, list(rows.random))
        cov = result.scale * result.solution.cov_beta
        residual = np.sqrt(weights) * np.asarray(result.resid)
    else:
        weights = criterion.at(result.optimum)[0].terms.weight * result.scale
        cov = result.cov_rx
        relative = prediction_variance(criterion, result.optimum, cov, exog, list(rows.random)) / result.scale
        residual = np.asarray(result.resid_pearson)
    root = np.sqrt(weights)
    return weights * relative, residual, root[:, None] * _marginal_rows(result, exog, rows, weights), cov


def _marginal_rows(result, exog, rows, weights):
    """Rows of X - Z (Sigma^-1 + Z'WZ)^-1 Z'WX, which are those of V^-1X at unit weights (nobs, k_fe)."""
    z = model_z(result)
    lam = relative_factor(result)
    from scipy import sparse
    from scipy.sparse.linalg import splu

    zl = (z @ lam).tocsc()
    m = (zl.T @ zl.multiply(weights[:, None]) + sparse.identity(zl.shape[1])).tocsc()
    return exog - zl @ splu(m).solve(np.asarray(zl.T @ (weights[:, None] * exog)))


def model_z(result):
    """Sparse Z (nobs, random effects)."""
    return result.model.random_effects.z


def relative_factor(result):
    """Sparse Lambda over the scale, block diagonal by level, in the order of the columns of Z."""
    from scipy import sparse

    random = result.model.random_effects
    blocks = [
        sparse.kron(sparse.identity(t.factor.n_effects), sparse.csc_matrix(lam))
        for t, lam in zip(random.terms, random.lambdas(result.theta), strict=True)
    ]
    return sparse.block_diag(blocks, format="csc")
