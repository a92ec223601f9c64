"""Predictions of a fitted mixed model: the methods that call `mvmise_sm.results.prediction`."""

from __future__ import annotations

from mvmise_sm.results.prediction import predicted, prediction_results

__all__ = ["PredictingResults"]


class PredictingResults:
    """Predictions on the model's rows and on new ones; see `MixedModelResults`."""

    def predict(
        self,
        exog=None,
        transform=True,
        *,
        random="all",
        allow_new_levels=False,
        which="mean",
        groups=None,
        exog_re=None,
        offset=None,
    ):
        """Predict, by default conditional on the random effects.

        Parameters
        ----------
        exog : DataFrame or array_like, optional
            Formula models take a frame with the columns of the formula, grouping factors included. Array models take
            the fixed-effects design (m, k_fe). The default is the data of the model.
        transform : bool, optional
            Whether `exog` is passed through the formula.
        random : {"all", "none"} or list of str, optional
            Random effects to include, by name of the grouping factor; ``"none"`` gives the marginal linear predictor.
        allow_new_levels : bool, optional
            Whether a level that was not in the data is predicted with effect 0; otherwise it is an error.
        which : {"mean", "linear"}, optional
            Scale of the prediction.
        groups : array_like or dict, optional
            Array models: group labels of the new rows, or a dict from grouping factor to labels. Without them a row
            that is, by its values, a row of the model's data keeps its own random effects, and every other row
            has a random effect of 0.
        exog_re : array_like or dict, optional
            Array models with more than random intercepts: random-effects design of the new rows.
        offset : array_like, optional
            Offset of the new rows; formula models evaluate an ``offset()`` of the formula themselves.

        Returns
        -------
        ndarray or Series
            A Series with the row labels of a frame. Rows with missing values are NaN.

        Raises
        ------
        NewLevelError
            If a level was not in the data and `allow_new_levels` is false.
        """
        return predicted(
            self, exog, transform, random, allow_new_levels, which, groups=groups, exog_re=exog_re, offset=offset
        )

    def get_prediction(
        self,
        exog=None,
        which="mean",
        transform=True,
        row_labels=None,
        *,
        random="all",
        allow_new_levels=False,
        groups=None,
        exog_re=None,
        offset=None,
        kind="confidence",
    ):
        """Predict with standard errors that include the uncertainty of the random effects.

        Parameters
        ----------
        exog, which, transform, random, allow_new_levels, groups, exog_re, offset
            As in `predict`.
        row_labels : sequence, optional
            Labels of the rows of the summary frame.
        kind : {"confidence", "prediction"}, optional
            Intervals for the mean, or for a new observation of weight 1.

        Returns
        -------
        PredictionResults
            With ``summary_frame(alpha)``. The variance is that of x'(beta_hat - beta) + z'(b_hat - b) at the estimated
            theta; a new level contributes the variance of its random effect.
        """
        return prediction_results(
            self,
            exog,
            transform,
            random,
            allow_new_levels,
            which,
            row_labels=row_labels,
            groups=groups,
            exog_re=exog_re,
            offset=offset,
            kind=kind,
        )
