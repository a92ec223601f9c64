"""Marginal means, slopes and joint tests of anything that has fixed effects, a covariance and a formula."""

from __future__ import annotations

from typing import Any

import numpy as np

from mvmise_sm.exceptions import OptionError

__all__ = ["MarginalResults"]


class MarginalResults:
    """What follows from fixed effects alone: `params`, `cov_params()`, the design and the scale of the response.

    A class of results takes part by answering the questions below the methods.
    """

    # the fitted model, which the results that this serves have
    model: Any

    def marginal_means(
        self,
        specs,
        by=None,
        ddf="default",
        pairs=False,
        adjust="default",
        which="linear",
        at=None,
        alpha=0.05,
        *,
        weights="equal",
        regrid=False,
        bias_adjust=False,
        sigma=None,
        offset=None,
    ):
        """Estimate means of factor combinations, averaged over all other factors.

        Parameters
        ----------
        specs : str or list of str
            Variables whose combinations are estimated; R's ``"a * b | c"`` too. ``"1"`` is the mean of everything.
        by : str or list of str, optional
            Variables within whose levels means are contrasted.
        ddf : {"satterthwaite", "kenward-roger"} or None, optional
            Degrees of freedom; by default Satterthwaite where it is defined. None is the normal distribution.
        pairs : bool, optional
            Return the pairwise differences, as ``.contrast("pairwise", adjust=adjust)`` does.
        adjust : str or None, optional
            Adjustment of the intervals, or of `pairs`: ``"sidak"``, ``"bonferroni"``, ``"mvt"``, ``"scheffe"``,
            ``"holm"``, ``"fdr"``, for pairs ``"tukey"``; ``"none"`` and None leave them. The default is none for means
            and Tukey's for pairs.
        which : {"linear", "mean"}, optional
            Scale of the estimates: linear predictor, or response. Contrasts of means on a log or logit scale are then
            ratios or odds ratios. A response such as ``log(y)`` is taken back too.
        at : dict, optional
            Values to use: of numeric variables (default: their means, or both values where there are only two), or
            some levels of factors.
        alpha : float, optional
            One minus the coverage.
        weights : {"equal", "proportional", "outer", "cells", "flat"}, optional
            Weights of the combinations averaged over, from the numbers of rows.
        regrid : bool, optional
            Transform the grid to the scale of the response before averaging: estimates and differences are those of
            means.
        bias_adjust : bool or "exact", optional
            On the response scale, average over the random effects: to second order, or by quadrature.
        sigma : float, optional
            Standard deviation for `bias_adjust`; that of the fit by default.
        offset : float, optional
            Offset of the means; the mean offset of the data by default.

        Returns
        -------
        MarginalMeans or Contrasts
            A DataFrame with ``by`` and ``specs`` columns, ``estimate, std_error, df, conf_low, conf_high``, and methods
            ``contrast``, ``test``, ``regrid`` and ``plot``. Pairs: ``contrast, estimate, std_error, df, statistic,
            p_value, conf_low, conf_high``.

        Raises
        ------
        OptionError
            If a name or an option is unknown.

        References
        ----------
        Searle, Speed and Milliken (1980). Population marginal means in the linear model. The American Statistician 34.
        """
        from mvmise_sm.inference.means import marginal_means

        return marginal_means(
            self,
            specs,
            by,
            ddf=ddf,
            pairs=pairs,
            adjust=adjust,
            which=which,
            at=at,
            alpha=alpha,
            weights=weights,
            regrid=regrid,
            bias_adjust=bias_adjust,
            sigma=sigma,
            offset=offset,
        )

    def marginal_slopes(
        self,
        variable,
        specs=(),
        by=None,
        *,
        ddf="default",
        pairs=False,
        adjust="default",
        at=None,
        alpha=0.05,
        weights="equal",
        regrid=False,
        offset=None,
    ):
        """Estimate slopes of a numeric variable, averaged over all factors but `specs` and `by`.

        Parameters
        ----------
        variable : str
            A numeric variable of the fixed effects; the slope is a central difference at its mean, or at `at`.
        specs, by, ddf, pairs, adjust, at, alpha, weights, offset : optional
            As in `marginal_means`.
        regrid : bool, optional
            Slopes of the mean on the scale of the response.

        Returns
        -------
        MarginalMeans or Contrasts

        Raises
        ------
        OptionError
        """
        from mvmise_sm.inference.means import marginal_slopes

        return marginal_slopes(
            self,
            variable,
            specs,
            by,
            ddf=ddf,
            pairs=pairs,
            adjust=adjust,
            at=at,
            alpha=alpha,
            weights=weights,
            regrid=regrid,
            offset=offset,
        )

    def joint_tests(self, by=None, *, ddf="default", at=None, weights="equal"):
        """Test every term of the fixed effects jointly, within levels of `by`.

        Parameters
        ----------
        by : str or list of str, optional
            Variables within whose levels the terms are tested; without them the table is ``anova(type=3)``.
        ddf, at, weights : optional
            As in `marginal_means`.

        Returns
        -------
        Table
            Index ``term``; the `by` columns, ``df_num, df_denom, F, p_value``. Numeric variables are tested by the
            difference over one unit about the value they are held at.
        """
        from mvmise_sm.inference.means import joint_tests

        return joint_tests(self, by, ddf=ddf, at=at, weights=weights)

    # --- what marginal means ask of a result

    def fixed_design(self):
        """The `Design` of the fixed effects.

        Raises
        ------
        OptionError
            If the model was not made from a formula.
        """
        design = getattr(self.model.data, "design", None)
        if design is None:
            raise OptionError("marginal means need a model from a formula, which says what the variables are")
        return design

    def reference_grid(self, at=None):
        """Return the `ReferenceGrid` of the fixed effects; `at` as in `marginal_means`."""
        from mvmise_sm.inference.means.grid import reference_grid

        return reference_grid(self.fixed_design(), at)

    def estimable(self):
        """Return which functions of the coefficients of all columns the data determine, an `Estimable`."""
        from mvmise_sm.inference.means.grid import estimable

        return estimable(self.fixed_design())

    def denominator(self, ddf="default"):
        """Covariance of the fixed effects and degrees of freedom of their tests, see `mvmise_sm.inference.ddf`."""
        from mvmise_sm.inference.anova import default_ddf
        from mvmise_sm.inference.ddf import denominator

        return denominator(self, default_ddf(self) if ddf == "default" else ddf)

    def mean_offset(self):
        """Mean offset of the rows of the fit."""
        return 0.0 if self.model.offset is None else float(np.mean(self.model.offset))

    def mean_scale(self):
        """The `Scale` that takes linear estimates to the scale of the response."""
        raise NotImplementedError

    def random_sd(self) -> Any:
        """Standard deviation of the random part of the linear predictor (and of the residual, where it is normal)."""
        raise NotImplementedError
