"""Responses simulated from a fitted mixed model, whatever its family and its number of linear predictors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from statsmodels.tools.rng_qrng import check_random_state

from mvmise_sm.exceptions import OptionError

__all__ = ["DrawingResults"]


class DrawingResults:
    """Simulation of responses; a class of results says what its rows are (`own_predictors`) and their law (`drawn`)."""

    # what the results that this serves have
    model: Any
    nobs: int
    theta: np.ndarray
    scale: float

    def own_predictors(self, b=None):
        """Linear predictors of the rows of the model, a list of (nobs,), at its random effects or at others."""
        raise NotImplementedError

    def drawn(self, rng, predictors, weights):
        """One response for each row of linear predictors."""
        raise NotImplementedError

    def effects_draw(self, rng):
        """New random effects, a list of (n_levels, q) by term; levels of known relationship are correlated."""
        random, size = self.model.random_effects, np.sqrt(self.scale)
        lambdas = random.lambdas(self.theta)
        return [size * t.factor.draw(rng, t.q) @ lam.T for t, lam in zip(random.terms, lambdas, strict=True)]

    def simulate(self, n=1, rng=None, random="new"):
        """Simulate responses from the fitted model.

        Parameters
        ----------
        n : int, optional
            Number of responses.
        rng : int, array_like of int, numpy.random.Generator, or numpy.random.RandomState, optional
            Source of randomness.
        random : {"new", "conditional"}, optional
            New random effects in every response, or those of the fit.

        Returns
        -------
        DataFrame
            One column per response (nobs, n), coded as the model's response (proportions for the binomial family).
        """
        if random not in ("new", "conditional"):
            raise OptionError(f"random must be 'new' or 'conditional', got {random!r}")
        if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1:
            raise OptionError(f"n must be a positive integer, got {n!r}")
        rng = check_random_state(rng)
        own = self.own_predictors()
        out = np.empty((self.nobs, n), order="F")
        for i in range(n):
            if random == "new":
                own = self.own_predictors(self.effects_draw(rng))
            out[:, i] = self.drawn(rng, own, self.model.weights)
        return pd.DataFrame(out, index=self.model.data.row_labels, columns=[f"sim_{i + 1}" for i in range(n)])
