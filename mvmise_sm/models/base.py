"""What linear and generalized linear mixed models share before they are fitted."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pandas as pd
from statsmodels.base.data import handle_data

from mvmise_sm.caller import warn
from mvmise_sm.design.build import build_design, caller_environment
from mvmise_sm.design.grouping import check_random_effects
from mvmise_sm.design.rank import independent_columns
from mvmise_sm.design.relationships import with_relationships
from mvmise_sm.exceptions import FormulaError, NotAvailableError, OptionError, RandomEffectsError, RankWarning
from mvmise_sm.formula.parts import parse_formula
from mvmise_sm.models import fixed
from mvmise_sm.models.formula_data import FormulaData
from mvmise_sm.models.prior_text import readable
from mvmise_sm.models.rebuilding import Rebuilt
from mvmise_sm.models.rows import design_rows, read_rows
from mvmise_sm.option_values import short
from mvmise_sm.options import refuse_unknown_model_options
from mvmise_sm.priors import resolve_priors, term_shapes
from mvmise_sm.results.variance import layout_of

__all__ = ["PRIORS", "MixedModelBase"]


class MixedModelBase(Rebuilt):
    """A model with fixed and random effects; subclasses say what is minimised.

    Parameters
    ----------
    endog : array_like
        Response (nobs,).
    exog : array_like
        Fixed-effects design (nobs, k_fe); a constant is not added.
    random_effects : array_like, dict or RandomEffects
        Group labels (nobs,) for a random intercept, a dict from the name of a grouping factor to labels or to a pair
        (labels, exog_re), or a `RandomEffects`.
    groups, exog_re : array_like, optional
        The same for one factor in the words of ``MixedLM``: labels and random-effects design (nobs, q).
    weights : array_like, optional
        Prior weights (nobs,), positive.
    offset : array_like, optional
        Known part of the linear predictor (nobs,).
    missing : {"drop", "raise", "none"}, optional
        Whether rows with a missing value in any of the above are dropped; otherwise they are an error.
    hasconst : bool, optional
        Whether the design spans a constant; found from the data by default.
    cov_prior, fixef_prior, resid_prior : optional
        Priors of the random-effects covariances, the fixed effects and the residual variance, see `mvmise_sm.priors`.
    sd_prior, cor_prior : optional
        In place of `cov_prior`, priors of the standard deviations (``HalfT(3, 2.5)``) and of the correlation matrix
        (``LKJ(2)``) of the random effects: one, or a dict by grouping factor; for `sd_prior` also one per column.
    dispersion_prior : optional
        Prior of the logarithm of the family's dispersion d or, in place of `resid_prior`, of that of the residual
        standard deviation: ``Normal(sd=1)``.
    cov : dict, optional
        Known covariances between the levels of grouping factors: name -> DataFrame with the labels on both axes, or a
        pedigree (`mvmise_sm.pedigree`). Labels without rows get predicted effects.

    Attributes
    ----------
    endog, exog : ndarray
        Response (nobs,) and design (nobs, k_fe) without dropped columns.
    random_effects : RandomEffects
        Terms with their rows.
    random_layout : RandomEffects
        The same without rows; it survives ``remove_data``.
    dropped : tuple of str
        Columns of the design that earlier columns determine.
    priors : Priors or None
        The priors bound to this model.

    Raises
    ------
    DataError
        If lengths differ, a value is infinite, or weights are not positive.
    MissingDataError
        If values are missing and may not be, or no row is complete.
    RandomEffectsError
        If the random effects cannot be identified.
    """

    title = "Mixed Model"
    _has_residual = True
    # a structure of the residuals, which linear models may have
    residual = None
    # whether the likelihood is that of the values and of which are missing
    models_missing = False
    _design_options: ClassVar[dict] = {}

    def __init__(
        self,
        endog,
        exog,
        random_effects=None,
        *,
        groups=None,
        exog_re=None,
        weights=None,
        offset=None,
        missing="drop",
        hasconst=None,
        cov_prior=None,
        fixef_prior=None,
        resid_prior=None,
        sd_prior=None,
        cor_prior=None,
        dispersion_prior=None,
        cov=None,
        **kwargs,
    ):
        refuse_unknown_model_options(type(self), kwargs, formula=False)
        design = kwargs.get("design")
        if design is None:
            rows = read_rows(endog, exog, random_effects, groups, exog_re, weights, offset, missing)
            if cov is not None:
                rows = replace(rows, random=with_relationships(rows.random, cov))
            kept = independent_columns(rows.X)
            drop = () if len(kept) == rows.X.shape[1] else tuple(np.setdiff1d(np.arange(rows.X.shape[1]), kept))
        else:
            rows, drop = design_rows(design), ()
        const = fixed.constant_column(rows.X)
        super().__init__(rows.endog, _without(rows.exog, drop), **kwargs)
        self._name_columns(rows, const, drop, hasconst)
        self.nobs = len(rows.X)
        self.random_effects = rows.random
        self.random_layout = layout_of(rows.random)
        self.weights, self.offset = rows.weights, rows.offset
        given = (cov_prior, fixef_prior, resid_prior, dispersion_prior)
        self.cov_prior, self.fixef_prior, self.resid_prior, self.dispersion_prior = readable(given)
        self.sd_prior, self.cor_prior = sd_prior, cor_prior
        self.priors = self._bind_priors()
        self._check_data()
        self._init_keys = list(_INIT_KEYS)
        self._data_attr.extend(["random_effects", "weights", "offset"])
        if design is not None:
            self.formula = design.parts.text
        if self.dropped:
            warn(_rank_message(self.dropped), RankWarning)

    @classmethod
    def from_formula(
        cls,
        formula,
        data,
        subset=None,
        drop_cols=None,
        *,
        weights=None,
        offset=None,
        missing="drop",
        groups=None,
        re_formula=None,
        contrasts=None,
        eval_env=None,
        **kwargs,
    ):
        """Create a model from a formula and a frame.

        Parameters
        ----------
        formula : str
            For example ``"y ~ x + (1 + x | g)"``.
        data : DataFrame
            One row per observation.
        subset : array_like or str, optional
            Rows to use: booleans, index labels, or an expression that gives booleans.
        drop_cols : None
            Not available; leave the columns out of the formula.
        weights, offset : str or array_like, optional
            A column, an expression in columns, or values for the rows of `data`.
        missing : {"drop", "raise"}, optional
            What to do with rows that have a missing value in anything the model uses.
        groups, re_formula : str, optional
            One random-effects term in the words of ``MixedLM``: the grouping column and the formula of its columns,
            ``"~x"`` for an intercept and a slope.
        contrasts : dict, optional
            Coding of factors by column: ``"contr.sum"``, ``"contr.helmert"``, ``"contr.poly"``, ``"contr.SAS"``,
            ``"contr.treatment"``, a matrix with a row for each level, or a contrast of patsy.
        eval_env : int, mapping or EvalEnvironment, optional
            Where expressions look for variables that are not columns; the caller by default.
        **kwargs
            Passed to the class: priors ``cov_prior``, ``fixef_prior`` and ``resid_prior``, see `mvmise_sm.priors`;
            ``residual`` and ``cov``, structures of residuals and known covariances of levels; ``family``.

        Returns
        -------
        model
            Not fitted; ``.fit()`` fits it.

        Raises
        ------
        FormulaError, UnknownColumnError, DataError, MissingDataError, RandomEffectsError

        Examples
        --------
        >>> import mvmise_sm as ms
        >>> model = ms.lmer("Reaction ~ Days + (Days | Subject)", ms.datasets.load_sleepstudy())
        >>> model
        <LinearMixedModel: Reaction ~ Days + (Days | Subject); 180 rows; not fitted, .fit() fits it>
        >>> model.fit(reml=False).params.round(2)
        Intercept    251.41
        Days          10.47
        dtype: float64
        """
        formula = with_bar_terms(formula, groups, re_formula)
        refuse_dropped_columns(drop_cols)
        if not isinstance(data, pd.DataFrame):
            from mvmise_sm.streaming.model import is_streamed, streamed_model

            if is_streamed(data):
                given = {"weights": weights, "offset": offset, "subset": subset, "missing": missing}
                given["eval_env"] = eval_env
                kwargs |= {} if contrasts is None else {"contrasts": contrasts}
                return streamed_model(cls, formula, data, given, kwargs)
        structures = cls._structure_options(kwargs)
        refuse_unknown_model_options(cls, kwargs)
        design = build_design(
            parse_formula(formula),
            data,
            missing=missing,
            weights=weights,
            offset=offset,
            subset=subset,
            contrasts=contrasts,
            namespace=caller_environment(eval_env),
            **structures,
            **cls._design_options,
        )
        if design.random is None:
            raise RandomEffectsError(
                f"formula {formula!r} has no random-effects term such as '(1 | g)'; statsmodels' OLS and GLM need none"
            )
        return cls(design.endog, design.exog, design.random, design=design, **kwargs)

    @classmethod
    def _structure_options(cls, options):
        """What `build_design` needs of the options about covariances; they are taken out of `options`.

        Raises
        ------
        FormulaError
            For a residual structure where there are no normal residuals.
        """
        if options.pop("residual", None) not in (None, "hom"):
            raise FormulaError(
                "residual= needs a normal response; put the structure among the random effects: ar1(0 + t | g)."
            )
        return {"cov": options.pop("cov", None)}

    def _handle_data(self, endog, exog, missing, hasconst, design=None, **kwargs):
        if design is not None:
            return FormulaData(endog, exog, design)
        return handle_data(endog, exog, "none", False, **kwargs)

    def _name_columns(self, rows, const, drop, hasconst):
        """Set names, constant and dropped columns; statsmodels' own search costs passes over the data."""
        p = rows.X.shape[1]
        design = getattr(self.data, "design", None)
        if design is not None:
            names = list(design.exog_names)
        elif isinstance(rows.exog, pd.DataFrame):
            names = [str(c) for c in rows.exog.columns]
        else:
            names = fixed.default_names(p, const)
        self.dropped = tuple(names[j] for j in drop) if design is None else design.dropped_columns
        self.data.xnames = [name for j, name in enumerate(names) if j not in drop]
        self.data.const_idx = None if const is None else const - sum(j < const for j in drop)
        if not isinstance(hasconst, (bool, np.bool_, type(None))):
            raise OptionError(f"hasconst must be True or False, got {short(hasconst)}")
        if hasconst is None:
            hasconst = const is not None or fixed.spans_constant(self.exog)
        self.k_constant = self.data.k_constant = int(hasconst)

    def _bind_priors(self):
        """The priors at the dimensions of the model, None for a flat one."""
        return bound_priors(
            (self.cov_prior, self.fixef_prior, self.resid_prior),
            (self.sd_prior, self.cor_prior, self._checked_dispersion_prior()),
            terms=term_shapes(self.random_layout),
            nobs=self.nobs,
            fixef_names=list(self.data.param_names),
            has_scale=self._has_residual,
        )

    @property
    def has_fixef_prior(self):
        """Whether the fixed effects have a prior, which keeps them finite."""
        return self.priors is not None and bool(self.priors.fixef)

    def _checked_dispersion_prior(self):
        """The prior of log d, where there is one d for it to be of."""
        return self.dispersion_prior

    def _check_data(self):
        """Refuse data from which the model cannot be estimated."""
        residual = "estimated" if self._residual_is_free() else "known"
        check_random_effects(self.random_effects, self.nobs, residual=residual)

    def term_design(self):
        """What tests by term look at: the `Design`, its fixed-effects columns (n, p), and rows with their products."""
        return self.data.design, np.asarray(self.exog), None

    def _residual_is_free(self):
        """Whether the residual variance is estimated, so that one random effect per row cannot be told from it."""
        return self._has_residual and (
            self.priors is None or self.priors.resid is None or self.priors.resid.fixed is None
        )

    def location_columns(self) -> np.ndarray:
        """Columns (nobs, m) along which the location of the responses moves, fixed effects first."""
        return np.asarray(self.exog, dtype=float)

    def moved_params(self, columns: np.ndarray) -> np.ndarray:
        """Which parameters (k,) move with some of `location_columns` (m,), booleans."""
        return columns

    def estimates_residual_variance(self):
        """Whether the data also have to tell a residual variance from those of the random effects."""
        return self._residual_is_free()

    def __repr__(self):
        terms = " + ".join(term.text for term in self.random_layout.terms)
        what = getattr(self, "formula", None) or f"{self.endog_names} ~ {' + '.join(self.exog_names)} + {terms}"
        return f"<{type(self).__name__}: {what}; {self.nobs} rows; not fitted, .fit() fits it>"


def bound_priors(given, apart, **dimensions):
    """Priors (cov, fixef, resid) and (sd, cor, dispersion) of a model at its dimensions, None for flat ones."""
    if all(prior is None or (isinstance(prior, str) and prior == "flat") for prior in (*given, *apart)):
        return None
    priors = resolve_priors(*given, sd=apart[0], cor=apart[1], dispersion=apart[2], **dimensions)
    return None if priors.flat else priors


PRIORS = ("cov_prior", "fixef_prior", "resid_prior", "sd_prior", "cor_prior", "dispersion_prior")
_INIT_KEYS = ("random_effects", "weights", "offset", *PRIORS)


def _without(exog, drop):
    """Return `exog` without the columns at the positions `drop`."""
    if not drop:
        return exog
    keep = np.delete(np.arange(exog.shape[1]), drop)
    return exog.iloc[:, keep] if isinstance(exog, pd.DataFrame) else exog[:, keep]


def with_bar_terms(formula, groups, re_formula):
    """The formula with the random-effects term that ``MixedLM``'s words describe, if they are given."""
    if groups is None and re_formula is None:
        return formula
    return f"{formula} + ({_bar_text(groups, re_formula)})"


def _bar_text(groups, re_formula):
    """Random-effects term from the words of ``MixedLM``."""
    if not isinstance(groups, str):
        raise OptionError("groups must name a column of the data; in a formula write '(1 | g)'")
    return f"{'1' if re_formula is None else str(re_formula).lstrip().removeprefix('~')} | {groups}"


def _rank_message(dropped):
    columns = ", ".join(repr(name) for name in dropped)
    return f"the fixed effects are rank deficient; dropped {columns}, which earlier columns determine"


def refuse_dropped_columns(drop_cols):
    """Refuse statsmodels' ``drop_cols``, which a formula has no need of."""
    if drop_cols is not None and (not isinstance(drop_cols, Collection) or len(drop_cols)):
        raise OptionError("drop_cols is not available; leave the columns out of the formula")


def refuse_covariance(cov_type):
    """Refuse robust covariances of the fixed effects, which are not available.

    Raises
    ------
    NotAvailableError
        Naming the option.
    """
    if cov_type != "nonrobust":
        raise NotAvailableError(f"cov_type={cov_type!r} is not available for mixed models; use cov_type='nonrobust'")
