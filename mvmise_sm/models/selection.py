"""The multivariate mixed-effects selection models mvMISE_b and mvMISE_e."""

from __future__ import annotations

import numpy as np

from mvmise_sm.exceptions import DataError, OptionError
from mvmise_sm.models.selection_fit import PenaltyChoice
from mvmise_sm.models.selection_model import SelectionModel
from mvmise_sm.options import strict_options
from mvmise_sm.priors import TermShape
from mvmise_sm.selection.sparse import penalty_path

__all__ = ["ErrorSelectionModel", "FactorSelectionModel", "SelectionModel"]


@strict_options
class FactorSelectionModel(SelectionModel):
    """mvMISE_b: correlated outcome-specific random intercepts with loadings tau on one shared effect.

    ``y_i = X_i beta + (tau (x) 1) b_i + e_i`` with b ~ N(0, 1) and independent errors. Parameters, attributes and
    errors are those of `SelectionModel`.

    Examples
    --------
    >>> import numpy as np
    >>> from mvmise_sm.models.selection import FactorSelectionModel
    >>> rng = np.random.default_rng(0)
    >>> batch = np.repeat(np.arange(30), 3)
    >>> x = rng.normal(size=90)
    >>> Y = 1 + x[:, None] + rng.normal(size=(30, 1))[batch] + rng.normal(size=(90, 2))
    >>> Y[batch < 5, 0] = np.nan
    >>> FactorSelectionModel(Y, np.column_stack([np.ones(90), x]), batch)
    <FactorSelectionModel: 2 outcomes, 90 samples in 30 clusters of 'group'; .fit() fits it>
    """

    _kind = "b"
    title = "Factor Selection Model (mvMISE_b)"

    def _check_random(self, design):
        if design.effect_names != ("Intercept",):
            raise OptionError(
                f"model b has one random intercept, '(1 | {design.group_name})'; found {list(design.effect_names)}"
            )


@strict_options
class ErrorSelectionModel(SelectionModel):
    """mvMISE_e: random effects common to all outcomes, and errors that are correlated between outcomes.

    ``y_i = X_i beta + Z_i b_i + e_i`` with independent b ~ N(0, D) and e ~ N(0, Sigma (x) S). Parameters, attributes
    and errors are those of `SelectionModel`.

    Examples
    --------
    >>> import numpy as np
    >>> from mvmise_sm.models.selection import ErrorSelectionModel
    >>> rng = np.random.default_rng(0)
    >>> batch = np.repeat(np.arange(30), 3)
    >>> Y = rng.normal(size=(30, 1))[batch] + rng.normal(size=(90, 2))
    >>> result = ErrorSelectionModel(Y, np.ones(90), batch).fit()
    >>> result.error_cov.shape
    (2, 2)
    """

    _kind = "e"
    title = "Error Selection Model (mvMISE_e)"

    def _prior_term(self):
        q = len(self.design.effect_names)
        return TermShape(self.design.group_name, q, self.n_groups, independent=q > 1)

    def _check_penalty(self, error_penalty, method):
        K = len(self.outcome_names)
        if error_penalty is None:
            if K > 1 and self.nobs <= K and method != "mvmise":
                raise DataError(
                    f"{K} outcomes and {self.nobs} samples: the error covariance is not identified; "
                    "use error_penalty, for example 'auto'"
                )
        elif isinstance(error_penalty, str):
            if error_penalty != "auto":
                raise OptionError(f"error_penalty must be a number, 'auto' or None, got {error_penalty!r}")
        elif not (np.isfinite(error_penalty) and error_penalty >= 0):
            raise OptionError(f"error_penalty must not be negative, got {error_penalty!r}")
        elif K == 1 and error_penalty > 0:
            raise OptionError("error_penalty needs several outcomes; with one there is nothing to shrink")

    def select_penalty(self, criterion="ebic", *, n_penalties=15, ratio=0.02):
        """Choose the lasso penalty along a path of warm-started fits.

        Parameters
        ----------
        criterion : {"aic", "bic", "ebic"}, optional
        n_penalties : int, optional
            Length of the path.
        ratio : float, optional
            Its smallest penalty relative to the largest, at which the precision is diagonal.

        Returns
        -------
        PenaltyChoice
            The penalty, a float; its attribute ``path`` is the table of all fits.
        """
        if criterion not in ("aic", "bic", "ebic"):
            raise OptionError(f"criterion must be 'aic', 'bic' or 'ebic', got {criterion!r}")
        K = len(self.outcome_names)
        if K == 1:
            raise OptionError("error_penalty needs several outcomes; with one there is nothing to shrink")
        data, spec = self.design.data, self.spec
        fits = penalty_path(
            lambda coordinates: spec.error_likelihood(data, coordinates),
            K,
            n_penalties=n_penalties,
            ratio=ratio,
            penalties=spec.penalties,
            information=False,
        )
        return PenaltyChoice.from_path(fits, criterion)
