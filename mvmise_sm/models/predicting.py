"""What a mixed model does with rows, its own and new ones: it reads them and predicts without random effects."""

from __future__ import annotations

import numpy as np

from mvmise_sm.exceptions import DataError
from mvmise_sm.models.held_rows import HoldsRows
from mvmise_sm.models.new_rows import new_rows, own_rows
from mvmise_sm.models.partial_likelihood import NoPartialLikelihood

__all__ = ["PredictsRows"]


class PredictsRows(HoldsRows, NoPartialLikelihood):
    """A model that reads new data and predicts their means; see `MixedModelBase`."""

    def inverse_link(self, linear):
        """Mean at a linear predictor (m,)."""
        raise NotImplementedError

    def predict(self, params, exog=None, which="mean", offset=None):
        """Predict without random effects.

        Parameters
        ----------
        params : array_like
            Fixed effects (k_fe,).
        exog : array_like, optional
            Design (m, k_fe); the model's own by default, then with its offset.
        which : {"mean", "linear"}, optional
            Scale of the prediction.
        offset : array_like, optional
            (m,).

        Returns
        -------
        ndarray
            (m,).
        """
        if exog is None:
            exog, offset = self.exog, self.offset if offset is None else offset
        try:
            linear = np.asarray(exog, dtype=float) @ np.asarray(params, dtype=float)
        except (TypeError, ValueError):
            raise DataError(
                f"params must hold {len(self.exog_names)} numbers, one for each fixed effect, and exog as many columns"
            ) from None
        if offset is not None:
            linear = linear + offset
        return linear if which == "linear" else self.inverse_link(linear)

    def column_sizes(self) -> np.ndarray:
        """Largest absolute value of every column of the fixed effects (k_fe,)."""
        return np.abs(np.asarray(self.exog, dtype=float)).max(axis=0)

    def residual_levels(self):
        """Level and group of the residual structure of every row; None without one."""
        return None

    def own_rows(self):
        """The rows of the model as `NewRows`."""
        return own_rows(self)

    def new_rows(self, exog, terms, **given):
        """New data as `NewRows`, see `mvmise_sm.models.new_rows.new_rows`."""
        return new_rows(self, exog, terms, **given)
