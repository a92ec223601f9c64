"""Results of fits that were pooled over multiply imputed data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from mvmise_sm.options import strict_options
from mvmise_sm.results.marginal import MarginalResults
from mvmise_sm.results.reading import readable

__all__ = ["PooledResults"]


@strict_options
class PooledResults(MarginalResults):
    """Estimates of one model from several completed data sets, pooled by Rubin's rules; made by `mvmise_sm.pool`.

    Parameters
    ----------
    fits : list
        Results, not wrapped.
    df_complete : float
        Degrees of freedom that complete data would have.

    Attributes
    ----------
    m : int
        Number of fits.
    params, bse, tvalues, pvalues, df : Series
        Pooled fixed effects, standard errors, statistics, p-values and Barnard and Rubin's degrees of freedom.
    df_complete : float
    """

    def __init__(self, fits, df_complete):
        from mvmise_sm.inference.pooling import rubin

        self.fits = tuple(fits)
        self.model = fits[0].model
        self.m = len(fits)
        self.df_complete = df_complete
        self._names = list(self.model.exog_names)
        covs = np.array([np.asarray(fit.cov_params()) for fit in fits])
        mean, self._law = rubin(np.array([np.asarray(fit.params) for fit in fits]), covs, df_complete)
        self._shares = self._law.shares(np.eye(len(mean)))
        self.params = self._series(mean, "params")
        self.bse = self._series(np.sqrt(np.diag(self._law.cov)), "bse")
        self.tvalues = (self.params / self.bse).rename("tvalues")
        self.df = self._series(self._shares.df, "df")
        self.pvalues = self._series(2.0 * stats.t.sf(np.abs(self.tvalues), self._shares.df), "pvalues")

    def _series(self, values, name):
        return pd.Series(values, index=self._names, name=name)

    def cov_params(self):
        """Total covariance of the fixed effects, DataFrame (k_fe, k_fe)."""
        return pd.DataFrame(self._law.cov, index=self._names, columns=self._names)

    def conf_int(self, alpha=0.05):
        """Intervals of the fixed effects, DataFrame (k_fe, 2)."""
        half = stats.t.isf(0.5 * alpha, self._shares.df) * self.bse
        return pd.DataFrame({0: self.params - half, 1: self.params + half})

    def tidy(self, conf_int=False, alpha=0.05, exponentiate=False):
        """Return the pooled estimates as a frame.

        Parameters
        ----------
        conf_int : bool, optional
            Whether to add ``conf_low`` and ``conf_high``.
        alpha : float, optional
            One minus the coverage.
        exponentiate : bool, optional
            Exponentiate estimates and intervals; standard errors by the delta method.

        Returns
        -------
        DataFrame
            ``term, estimate, std_error, df, statistic, p_value`` (``conf_low, conf_high``) ``, within, between, riv,
            lambda, fmi``: variances within and between the fits, relative increase of the variance, share of the
            variance due to missing values, and fraction of missing information.
        """
        ends = self.conf_int(alpha).to_numpy().T
        estimate, se = self.params.to_numpy(), self.bse.to_numpy()
        if exponentiate:
            estimate, se, ends = np.exp(estimate), np.exp(estimate) * se, np.exp(ends)
        columns: dict[str, Any] = {
            "term": self._names,
            "estimate": estimate,
            "std_error": se,
            "df": self._shares.df,
            "statistic": self.tvalues.to_numpy(),
            "p_value": self.pvalues.to_numpy(),
        }
        if conf_int:
            columns |= {"conf_low": ends[0], "conf_high": ends[1]}
        shares = self._shares
        columns |= {"within": shares.within, "between": shares.between, "riv": shares.riv}
        return pd.DataFrame({**columns, "lambda": shares.share, "fmi": shares.fmi})

    def wald_test(self, r_matrix):
        """Test linear combinations of the fixed effects jointly (mice's D1).

        Parameters
        ----------
        r_matrix : array_like, str, or tuple
            As in statsmodels.

        Returns
        -------
        statsmodels.stats.contrast.ContrastResults
        """
        from mvmise_sm.inference.wald import wald_test

        with readable(r_matrix, self.model.exog_names):
            return wald_test(self, r_matrix, "default")

    def anova(self, ddf="default", type=3):
        """Test every term of the fixed effects; parameters as in `InferentialResults.anova`, ddf "default" or None."""
        from mvmise_sm.inference.anova import anova_table
        from mvmise_sm.inference.hypotheses import term_contrasts

        return anova_table(self, term_contrasts(self, type), self.denominator(ddf), type)

    def t_test(self, r_matrix):
        """Test linear combinations one by one; parameters and returned object as in `wald_test`."""
        from mvmise_sm.inference.wald import t_test

        with readable(r_matrix, self.model.exog_names):
            return t_test(self, r_matrix, "default")

    def summary(self, alpha=0.05):
        """Summarise the pooled fits, statsmodels' Summary."""
        from statsmodels.iolib.summary import Summary, forg
        from statsmodels.iolib.table import SimpleTable
        from statsmodels.iolib.tableformatting import fmt_params

        table = self.tidy(conf_int=True, alpha=alpha)
        names = ("std_error", "df", "statistic", "p_value", "conf_low", "conf_high", "fmi")
        cells = [
            [forg(e, prec=4), forg(se), f"{df:.2f}", forg(t), f"{p:#6.3f}", forg(low), forg(high), f"{fmi:.3f}"]
            for e, se, df, t, p, low, high, fmi in zip(table["estimate"], *(table[n] for n in names), strict=True)
        ]
        header = ["coef", "std err", "df", "t", "P>|t|", f"[{alpha / 2}", f"{1 - alpha / 2}]", "fmi"]
        out = Summary()
        title = f"{self.m} fits pooled by Rubin's rules"
        out.tables.append(SimpleTable(cells, header, self._names, title=title, txt_fmt=fmt_params))
        notes = [f"Degrees of freedom: Barnard and Rubin, {self.df_complete:g} for complete data."]
        bad = [str(i + 1) for i, fit in enumerate(self.fits) if not getattr(fit, "converged", True)]
        if bad:
            notes.append(f"Not converged: fit {', '.join(bad)}.")
        out.add_extra_txt(notes)
        return out

    def _repr_html_(self):
        return self.summary().as_html()

    def __repr__(self):
        return f"<PooledResults: {self.m} fits of {getattr(self.model, 'formula', 'a model')}; .summary() shows them>"

    # --- what marginal means ask

    def denominator(self, ddf="default"):
        """Covariance of the pooled estimates and their degrees of freedom; None is the normal distribution."""
        from mvmise_sm.exceptions import OptionError
        from mvmise_sm.inference.ddf import PlainDf

        if ddf not in ("default", None):
            raise OptionError(f"pooled estimates have Barnard and Rubin's degrees of freedom; leave ddf={ddf!r} out")
        return self._law if ddf == "default" else PlainDf(self._law.cov, np.inf)

    def mean_offset(self):
        """Mean offset over all fits."""
        return float(np.mean([fit.mean_offset() for fit in self.fits]))

    def mean_scale(self):
        """The `Scale` of the first fit."""
        return self.fits[0].mean_scale()

    def random_sd(self):
        """Root mean square of the fits' standard deviations."""
        return float(np.sqrt(np.mean([fit.random_sd() ** 2 for fit in self.fits])))
