"""Tables of a fitted mixed model: the methods that call `mvmise_sm.results.tables`."""

from __future__ import annotations

from mvmise_sm.results import tables

__all__ = ["TabledResults"]


class TabledResults:
    """Summary, tidy tables and the line that describes a whole fit; see `MixedModelResults`."""

    def summary(self, yname=None, xname=None, title=None, alpha=0.05, *, ddf=None):
        """Summarise the fit.

        Parameters
        ----------
        yname : str, optional
            Name of the response.
        xname : list of str, optional
            Names of the fixed effects.
        title : str, optional
            Title of the first table.
        alpha : float, optional
            One minus the coverage of the intervals.
        ddf : {None, "satterthwaite", "kenward-roger"}, optional
            Degrees of freedom of the tests of the fixed effects; ``"kenward-roger"`` adjusts their standard errors too.

        Returns
        -------
        statsmodels.iolib.summary.Summary
            With ``as_text``, ``as_html``, ``as_latex`` and ``as_csv``.
        """
        return tables.summary(self, yname=yname, xname=xname, title=title, alpha=alpha, ddf=ddf)

    def summary2(self, yname=None, xname=None, title=None, alpha=0.05, float_format="%.4f"):
        """Summarise the fit in statsmodels' second layout; parameters as in `summary`."""
        return tables.summary2(self, yname, xname, title, alpha, float_format)

    def tidy(self, effects="fixed", conf_int=False, alpha=0.05, ddf=None, *, exponentiate=False):
        """Return the estimates as a frame, one row each.

        Parameters
        ----------
        effects : {"fixed", "random", "ran_vals", "all"}, optional
            Fixed effects; standard deviations and correlations; conditional modes of the random effects with their
            conditional standard deviations; or fixed effects and standard deviations.
        conf_int : bool, optional
            Whether to add ``conf_low`` and ``conf_high``: Wald; for standard deviations and correlations on the log and
            Fisher's z scale, by the delta method.
        alpha : float, optional
            One minus the coverage of the intervals.
        ddf : {None, "satterthwaite", "kenward-roger"}, optional
            Degrees of freedom of the fixed effects; ``"kenward-roger"`` adjusts their standard errors too.
        exponentiate : bool, optional
            Exponentiate fixed effects and their intervals; standard errors by the delta method, tests stay.

        Returns
        -------
        DataFrame
            Columns ``effect, group, term, estimate, std_error, statistic, df, p_value``; ``"ran_vals"`` has ``level``
            after ``group``.
        """
        return tables.tidy(self, effects, conf_int, alpha, ddf, exponentiate)

    def glance(self):
        """Return a one-row frame that describes the whole fit."""
        return tables.glance(self)

    def _repr_html_(self):
        return self.summary().as_html()
