"""What the selection models share before they are fitted: data, mechanism, priors, the call of a fit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from mvmise_sm.design.build import caller_environment
from mvmise_sm.exceptions import DataError, OptionError
from mvmise_sm.formula.parts import parse_formula
from mvmise_sm.models.base import refuse_dropped_columns
from mvmise_sm.models.held_rows import HoldsRows
from mvmise_sm.models.mechanism_options import selection_priors
from mvmise_sm.models.partial_likelihood import NoPartialLikelihood
from mvmise_sm.models.selection_data import SelectionFrameData
from mvmise_sm.models.selection_design import (
    OWN_INTERCEPTS,
    array_design,
    formula_design,
)
from mvmise_sm.models.selection_fit import (
    bind_priors,
    loglike_at,
)
from mvmise_sm.options import refuse_unknown_model_options
from mvmise_sm.priors import TermShape
from mvmise_sm.results.detection_curve import DetectionCurve
from mvmise_sm.selection.build import ModelSpec
from mvmise_sm.selection.priors import PriorPenalty

__all__ = ["SelectionLikelihoodModel"]


class SelectionLikelihoodModel(HoldsRows, NoPartialLikelihood):
    """Data, mechanism, priors and likelihood of the selection models; see `SelectionModel`."""

    _kind = ""
    models_missing = True
    title = ""

    def __init__(
        self,
        endog,
        exog,
        groups=None,
        *,
        exog_re=None,
        mechanism="capped",
        value_mechanism=None,
        missing_y="auto",
        missing_cov=None,
        first_sample_variance=False,
        error_structure=None,
        own_terms=None,
        outcome_effects=None,
        cov_prior=None,
        fixef_prior=None,
        resid_prior=None,
        mechanism_prior=None,
        missing="none",
        hasconst=None,
        design=None,
    ):
        if design is None:
            if groups is None:
                raise DataError("groups is needed: the cluster of every sample")
            design = array_design(
                endog, exog, groups, exog_re=exog_re, missing_cov=missing_cov, outcome_effects=outcome_effects
            )
        if missing_y not in ("auto", True, False):
            raise OptionError(f"missing_y must be 'auto', True or False, got {missing_y!r}")
        if own_terms is not None:
            if not set(own_terms) <= {"outcome", "sample"}:
                raise OptionError(f"own_terms may hold 'outcome' and 'sample', got {own_terms!r}")
            design = replace(design, own_terms=tuple(own_terms) if design.data.n_outcomes > 1 else ())
        if error_structure not in (None, "cs") or (error_structure and self._kind != "e"):
            raise OptionError(f"error_structure is None or 'cs', of model e (mvmise_e), got {error_structure!r}")
        self._check_random(design)
        self._new_data = SelectionFrameData(design)
        super().__init__(design.endog, design.exog, hasconst=hasconst)
        del self._new_data
        self.design = design
        self.nobs = len(design.endog)
        self.n_groups = design.data.n_clusters
        self.outcome_names = list(design.endog.columns)
        self.group_name = design.group_name
        self.levels = design.levels
        self.common_design = len(design.exog) == self.nobs
        self.missing_y = missing_y
        self._default_effects = isinstance(outcome_effects, str) and outcome_effects == OWN_INTERCEPTS
        self.cov_prior, self.fixef_prior, self.resid_prior = cov_prior, fixef_prior, resid_prior
        self.mechanism_prior = mechanism_prior
        self.priors = bind_priors(self, self._prior_term())
        self.spec = ModelSpec(
            self._kind,
            mechanism,
            True if missing_y == "auto" else bool(missing_y),
            bool(first_sample_variance),
            (),
            value_mechanism.held() if isinstance(value_mechanism, DetectionCurve) else value_mechanism,
            own_blocks="outcome" in design.own_terms,
            samples="sample" in design.own_terms,
            error_structure=error_structure,
        )
        self.spec = replace(self.spec, penalties=self._penalties())
        self.spec.check()
        if design.design is not None:
            self.formula = design.design.parts.text

    @classmethod
    def from_formula(
        cls,
        formula,
        data,
        subset=None,
        drop_cols=None,
        *,
        outcome=None,
        sample=None,
        missing_cov=None,
        outcome_effects=OWN_INTERCEPTS,
        missing="raise",
        eval_env=None,
        **kwargs,
    ):
        """Create a model from a formula and a wide or a long frame.

        Parameters
        ----------
        formula : str
            ``"y1 + y2 + y3 ~ x + (1 | batch)"`` on a frame with one row per sample, or
            ``"y ~ x + (1 | batch)"`` with `outcome` and `sample` on a frame with one row per sample and outcome.
        data : DataFrame
        subset : array_like or str, optional
            Rows to use.
        drop_cols : None
            Not available; leave the columns out of the formula.
        outcome, sample : str, optional
            Columns of a long frame that tell the outcome (feature) and the sample (run) of a row.
        missing_cov, outcome_effects : optional
            As in the class.
        missing : {"raise", "drop"}, optional
            What to do with samples that have missing covariates or no cluster; missing outcomes always stay.
        eval_env : int, mapping or EvalEnvironment, optional
            Where expressions look for variables that are not columns; the caller by default.
        **kwargs
            Passed to the class.

        Returns
        -------
        model
            Not fitted; ``.fit()`` fits it.
        """
        refuse_dropped_columns(drop_cols)
        if any(kwargs.pop(name, None) is not None for name in ("weights", "offset")):
            raise OptionError("selection models take no weights and no offset")
        if any(kwargs.get(name) is not None for name in ("sd_prior", "cor_prior")):
            raise OptionError(
                "selection models take priors of variances as cov_prior, of fixed effects as fixef_prior and of the "
                "residual variance as resid_prior; sd_prior and cor_prior belong to lmer and glmer"
            )
        refuse_unknown_model_options(cls, kwargs)
        design = formula_design(
            parse_formula(formula),
            data,
            outcome=outcome,
            sample=sample,
            missing_cov=missing_cov,
            outcome_effects=outcome_effects,
            subset=subset,
            missing=missing,
            namespace=caller_environment(eval_env),
        )
        return cls(None, None, design=design, outcome_effects=outcome_effects, **kwargs)

    def _handle_data(self, endog, exog, missing, hasconst, **kwargs):
        return self._new_data

    def _get_init_kwds(self):
        data = self.design.data
        labels = np.array(data.labels, dtype=object)
        cov = None if data.cov_miss is None else data.unsort(data.cov_miss)
        return {
            "outcome_effects": [],
            "groups": pd.Series(data.unsort(labels[data.cluster]), name=self.group_name),
            "exog_re": pd.DataFrame(data.unsort(data.Z[:, 0]), columns=list(self.design.effect_names)),
            "missing_cov": cov if cov is None or not data.common_cov else cov[:, 0],
            "mechanism": self.spec.mechanism,
            "value_mechanism": self.spec.value_mechanism,
            "missing_y": self.missing_y,
            "first_sample_variance": self.spec.first_sample_variance,
            "error_structure": self.spec.error_structure,
            "own_terms": self.design.own_terms or None,
            "cov_prior": self.cov_prior,
            "fixef_prior": self.fixef_prior,
            "resid_prior": self.resid_prior,
            "mechanism_prior": self.mechanism_prior,
        }

    def __repr__(self):
        K = len(self.outcome_names)
        return (
            f"<{type(self).__name__}: {K} outcome{'s' * (K > 1)}, {self.nobs} samples in {self.n_groups} clusters "
            f"of {self.group_name!r}; .fit() fits it>"
        )

    def _check_random(self, design):
        """Refuse random effects that the model does not have."""

    def _prior_term(self):
        return TermShape(self.design.group_name, 1, self.n_groups)

    def _penalties(self):
        out = [] if self.priors is None else [PriorPenalty(self.priors)]
        given = selection_priors(self.mechanism_prior, self.spec, self.design.data, self.design.covariate_name)
        return (*out, *given)

    # --- likelihood

    def objective(self):
        """Return the log-likelihood minus the priors' penalties, a callable of the unconstrained vector.

        Returns
        -------
        PenalisedObjective
            ``objective.likelihood`` has ``start``, ``params``, ``theta`` and ``value_and_score``.
        """
        return self.spec.objective(self.design.data)

    def loglike(self, params):
        """Log-likelihood of the unconstrained vector that `objective` takes, or of a `SelectionParams`."""
        likelihood = self.objective().likelihood
        theta = np.asarray(params, dtype=float) if isinstance(params, (np.ndarray, list)) else likelihood.theta(params)
        return likelihood.value_and_score(theta)[0]

    def loglike_at(self, point):
        """Log-likelihood at a point, every constant included.

        Parameters
        ----------
        point : dict
            ``params``, ``phi`` (by name), ``sigma2``; ``tau`` by outcome, ``omega`` and ``delta`` (model b); ``cov_re``
            (variances by name) and ``error_cov`` (model e).

        Returns
        -------
        float
        """
        return float(loglike_at(self, point))

    def predict(self, params, exog=None, which="mean"):
        """Return the marginal mean of the rows of `exog`, by default of the model's (nobs, K)."""
        if which not in ("mean", "linear"):
            raise OptionError(f"which must be 'mean' or 'linear', got {which!r}")
        if exog is not None:
            return np.asarray(exog) @ np.asarray(params)
        data = self.design.data
        return data.unsort(data.X @ np.asarray(params))
