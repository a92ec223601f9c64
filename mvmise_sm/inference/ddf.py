"""Denominator degrees of freedom: Satterthwaite, Kenward-Roger, residual or none."""

from __future__ import annotations

import numpy as np

from mvmise_sm.core.threads import blas_threads
from mvmise_sm.exceptions import OptionError
from mvmise_sm.inference.fits import with_statistic

__all__ = ["METHODS", "denominator", "full_rank", "identified", "second_order_of"]

METHODS = (None, "satterthwaite", "kenward-roger")


class PlainDf:
    """Wald tests: the covariance of the fixed effects as it is, one number of degrees of freedom for all.

    Parameters
    ----------
    cov : ndarray
        Covariance of the fixed effects (p, p).
    df : float
        Infinity for the normal and chi-squared distributions.
    """

    def __init__(self, cov, df):
        self.cov = cov
        self._df = float(df)
        self.label = "infinite (normal distribution)" if np.isinf(df) else f"{df:g}, residual"

    def df(self, contrasts):
        """Degrees of freedom of each row of `contrasts` (q, p), taken by itself."""
        return np.full(len(contrasts), self._df)

    def f_test(self, contrasts, values):
        """F statistic and degrees of freedom of L beta, `values` being its distance from the hypothesis (q,)."""
        contrasts, values = full_rank(contrasts, values)
        inner = contrasts @ self.cov @ contrasts.T
        return float(values @ np.linalg.solve(inner, values)) / len(values), len(values), self._df


class SatterthwaiteDf:
    """Satterthwaite's degrees of freedom; F tests combine independent contrasts as Fai and Cornelius do.

    Parameters
    ----------
    cov : ndarray
        Covariance of the fixed effects (p, p).
    shape : SecondOrder
        Uncertainty of the variance parameters and the slopes of `cov` in them.

    References
    ----------
    Satterthwaite (1946), Biometrics Bulletin 2; Fai and Cornelius (1996), Journal of Statistical Computation and
    Simulation 54.
    """

    def __init__(self, cov, shape):
        self.cov = cov
        self.label = "Satterthwaite"
        self._shape = shape

    def df(self, contrasts):
        """Degrees of freedom 2 v^2 / var(v) of each row of `contrasts` (q, p), with v its variance."""
        variance = np.einsum("qi,ij,qj->q", contrasts, self.cov, contrasts)
        slopes = np.einsum("qi,sij,qj->qs", contrasts, self._shape.slopes, contrasts)
        uncertainty = np.einsum("qs,st,qt->q", slopes, self._shape.cov, slopes)
        return np.divide(2.0 * variance**2, uncertainty, out=np.full_like(variance, np.inf), where=uncertainty > 0.0)

    def f_test(self, contrasts, values):
        """As in `PlainDf`."""
        contrasts, values = full_rank(contrasts, values)
        q = len(values)
        inner = contrasts @ self.cov @ contrasts.T
        eigenvalues, vectors = np.linalg.eigh(inner)
        f = float(np.square(vectors.T @ values) @ (1.0 / eigenvalues)) / q
        nu = self.df(vectors.T @ contrasts)
        if np.ptp(nu) <= 1e-8 * nu.max():
            return f, q, float(nu.mean())
        if nu.min() <= 2.0:
            return f, q, 2.0
        mean = float((nu / (nu - 2.0)).sum())
        return f, q, 2.0 * mean / (mean - q)


class KenwardRogerDf:
    """Kenward and Roger's adjusted covariance and degrees of freedom.

    Parameters
    ----------
    parts : KenwardRoger
    """

    def __init__(self, parts):
        self.cov = parts.phi_adjusted
        self.label = "Kenward-Roger"
        self._parts = parts

    def df(self, contrasts):
        """Degrees of freedom of each row of `contrasts` (q, p), taken by itself."""
        return np.array([self._parts.f_test(row[None], np.zeros(1))[1] for row in contrasts])

    def f_test(self, contrasts, values):
        """As in `PlainDf`; the statistic includes the scaling."""
        contrasts, values = full_rank(contrasts, values)
        statistic, df, _ = self._parts.f_test(contrasts, values)
        return statistic, len(values), df


def full_rank(contrasts, values):
    """Drop what is redundant in a hypothesis L beta: an orthonormal basis of its rows, and `values` in that basis.

    Raises
    ------
    OptionError
        If no row is left.
    """
    u, s, vt = np.linalg.svd(contrasts, full_matrices=False)
    if not s.size or s[0] == 0.0:
        raise OptionError("the hypothesis has no non-zero coefficient")
    keep = s > 1e-10 * s[0]
    if keep.all() and len(contrasts) == keep.sum():
        return contrasts, values
    return vt[keep], (u[:, keep].T @ values) / s[keep]


def second_order_of(result):
    """`SecondOrder` of a linear mixed model, kept with the result."""
    return result.memo("second order", lambda: _at_optimum(result, lambda c, theta: c.second_order(theta)))


def _kenward_roger_of(result):
    return result.memo("Kenward-Roger", lambda: _at_optimum(result, lambda c, theta: c.kenward_roger(theta)))


def _at_optimum(result, ask):
    criterion = with_statistic(result).deviance_function()
    with blas_threads(criterion.layout.n_random):
        return ask(criterion, criterion.working_theta(result.theta))


class IdentifiedTests:
    """Tests of what the data determine; anything else has neither standard error nor p-value.

    Parameters
    ----------
    method : PlainDf, SatterthwaiteDf or KenwardRogerDf
    effects : ndarray
        Fixed effects whose variance the data leave open (p,), booleans.
    """

    def __init__(self, method, effects):
        self.label = method.label
        self._method = method
        self._effects = effects
        self.cov = np.where(np.logical_or.outer(effects, effects), np.nan, method.cov)

    def df(self, contrasts):
        """As in `PlainDf`, NaN for contrasts of effects that are left open."""
        return np.where(self._touches(contrasts), np.nan, self._method.df(contrasts))

    def _touches(self, contrasts):
        """Rows (q,) that involve an effect that is left open, rounding aside."""
        size = np.abs(np.asarray(contrasts))
        return (size > 1e-9 * size.max(axis=1, keepdims=True, initial=0.0)) @ self._effects

    def f_test(self, contrasts, values):
        """As in `PlainDf`, NaN for hypotheses on effects that are left open."""
        if self._touches(contrasts).any():
            return np.nan, len(full_rank(contrasts, values)[1]), np.nan
        return self._method.f_test(contrasts, values)


def denominator(result, ddf):
    """Degrees of freedom and covariance by method.

    Parameters
    ----------
    result : MixedModelResults
    ddf : {None, "satterthwaite", "kenward-roger"}
        None takes the distribution that the result itself uses.

    Returns
    -------
    PlainDf, SatterthwaiteDf, KenwardRogerDf or IdentifiedTests

    Raises
    ------
    OptionError
        If the method is unknown or not defined for the model.
    """
    return identified(result, _by_name(result, ddf))


def identified(result, method):
    """The method, or `IdentifiedTests` of it where some fixed effects of the result have no standard error."""
    felt = result.effects_without_error()[: len(method.cov)]
    return IdentifiedTests(method, felt) if felt.any() else method


def _by_name(result, ddf):
    if ddf is None:
        return result.wald_law()
    if ddf not in METHODS:
        raise OptionError(f"ddf must be None, 'satterthwaite' or 'kenward-roger', got {ddf!r}")
    name = "Satterthwaite" if ddf == "satterthwaite" else "Kenward-Roger"
    if not result.linear:
        raise OptionError(
            f"{name} degrees of freedom are defined for linear mixed models; tests of a generalized one use the normal "
            "distribution, so leave ddf out"
        )
    if result.priors is not None and result.priors.fixef:
        raise OptionError(f"{name} degrees of freedom are not defined with a prior on the fixed effects; leave ddf out")
    if ddf == "satterthwaite":
        return result.satterthwaite_law()
    if result.priors is not None:
        raise OptionError(
            "Kenward-Roger adjusts REML estimates without priors; use ddf='satterthwaite', or fit without priors"
        )
    if not result.restricted:
        raise OptionError("Kenward-Roger adjusts REML estimates; this fit is by maximum likelihood, use fit(reml=True)")
    return KenwardRogerDf(_kenward_roger_of(result))
