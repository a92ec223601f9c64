"""Verbs that users of R know: update, augment, coef, add1, step, and residuals at the rows of the data."""

from __future__ import annotations

__all__ = ["VerbResults"]


class VerbResults:
    """Methods of a fitted mixed model that take the fit further or give it another shape."""

    def update(self, formula=". ~ .", data=None, **changes):
        """Refit with another formula or other options.

        Parameters
        ----------
        formula : str, optional
            ``.`` stands for the old response on the left and the old terms, random ones included, on the right:
            ``". ~ . - x"``, ``"log(y) ~ . + (1 | h)"``, ``". ~ . - (1 | g)"``.
        data : DataFrame, optional
            Other data; the rows of this fit by default.
        **changes
            Options of the model or of ``fit`` that differ, such as ``reml=False``.

        Returns
        -------
        MixedModelResults
            A new result; this one is left as it was.

        Raises
        ------
        OptionError
            If the model was not made from a formula.
        FormulaError
            If a term that is taken away is not there.
        """
        from mvmise_sm.inference.verbs import update

        return update(self, formula, data, **changes)

    def augment(self, pad=False):
        """Return the data of the fit with what the fit says about each row.

        Parameters
        ----------
        pad : bool, optional
            Keep the rows that were dropped because of missing values, with missing results, as R's ``na.exclude``.

        Returns
        -------
        DataFrame
            The data and ``.fitted, .resid`` (conditional on the random effects), ``.fixed`` (without them), ``.hat``,
            ``.cooksd`` where influence by row is defined. Ordered responses have ``.fitted[level]`` and
            ``.fixed[level]``, the probabilities.
        """
        from mvmise_sm.inference.verbs import augment

        return augment(self, pad)

    def padded(self, values="resid"):
        """Values by row with NaN where a row of the data was dropped, as R's ``na.exclude`` pads residuals.

        Parameters
        ----------
        values : str or array_like, optional
            An attribute with one value per row, such as ``"resid"`` or ``"fittedvalues"``; or such values (nobs,).

        Returns
        -------
        Series
            Index of the data that were given.
        """
        from mvmise_sm.inference.verbs import padded

        return padded(self, values)

    def coef(self):
        """Coefficients of every level: fixed plus random effects, as R's ``coef``.

        Returns
        -------
        dict of DataFrame
            Grouping factor -> levels by coefficients.
        """
        from mvmise_sm.inference.verbs import coef

        return coef(self)

    def cor_params(self):
        """Correlations of the estimates of the fixed effects, DataFrame (k_fe, k_fe)."""
        from mvmise_sm.inference.verbs import correlations

        return correlations(self)

    def to_marginaleffects(self):
        """The fit as a model of the package marginaleffects, random effects at zero.

        Returns
        -------
        marginaleffects.classes.ModelAbstract
            For ``marginaleffects.predictions``, ``comparisons``, ``slopes`` and ``hypotheses``. After
            ``mvmise_sm.register_marginaleffects()`` these take the result itself.
        """
        from mvmise_sm.inference.marginaleffects import adapter

        return adapter(self)

    def to_arviz(self, draws=1000, chains=4, rng=None, log_likelihood=True):
        """Draws from the normal approximation at the optimum as ArviZ data; they are no posterior sample.

        Variance parameters, coefficients and random effects are drawn jointly: of linear models log standard
        deviations and Fisher's z of correlations are normal and the rest is normal given these, exactly; of generalized
        models covariance parameters and coefficients are normal and the random effects have Laplace's law given these.
        A draw costs an evaluation of the criterion.

        Parameters
        ----------
        draws, chains : int, optional
        rng : int, numpy.random.Generator, or numpy.random.RandomState, optional
        log_likelihood : bool, optional
            Whether to keep the log density of every row in every draw, for ``arviz.loo`` and ``arviz.waic``.

        Returns
        -------
        arviz.InferenceData
            ``posterior`` with ``beta`` (term), one ``b_<group>`` (level, term) per grouping factor, ``sd`` and ``cor``
            of the random effects, ``sigma`` and the family's own parameters; ``observed_data``; ``log_likelihood``
            given the random effects, but for models with correlated residuals.

        Raises
        ------
        OptionError
            If ArviZ is not installed, or the fit has no covariance of its parameters.
        """
        from mvmise_sm.inference.arviz import to_arviz

        return to_arviz(self, draws, chains, rng, log_likelihood)

    def add1(self, scope):
        """Add every term of a scope, one at a time.

        Parameters
        ----------
        scope : str or list of str
            Terms, or a formula such as ``". ~ . + z + a:b"``.

        Returns
        -------
        Table
            ``df, aic, chisq, p_value``; a REML fit is refitted by maximum likelihood.
        """
        from mvmise_sm.inference.verbs import add1

        return add1(self, scope)

    def step(self, direction="backward", scope=None, criterion="aic"):
        """Drop or add terms of the fixed effects as long as a criterion falls, by maximum likelihood.

        Parameters
        ----------
        direction : {"backward", "forward", "both"}, optional
            Whether terms are dropped, added or both.
        scope : str or list of str, optional
            Terms that may be added.
        criterion : {"aic", "bic"}, optional

        Returns
        -------
        MixedModelResults
            The fit with the last formula, by REML if this one is. Its p-values do not know of the selection.
        """
        from mvmise_sm.inference.verbs import step

        return step(self, direction, scope, criterion)
