"""Generalised linear mixed models with several linear predictors: zero part, dispersion, further parameters."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pandas as pd

from mvmise_sm.core.covariance.random_effects import RandomEffects
from mvmise_sm.core.criteria.parts import Block, PartsDeviance
from mvmise_sm.core.criteria.parts_quadrature import PartsQuadrature
from mvmise_sm.core.families.predictors import PartsResponse
from mvmise_sm.design.build import build_design
from mvmise_sm.exceptions import DataError, MissingDataError, OptionError, RandomEffectsError
from mvmise_sm.formula.parts import parse_formula
from mvmise_sm.formula.update import named_in
from mvmise_sm.models.base import refuse_dropped_columns, with_bar_terms
from mvmise_sm.models.generalized import GeneralizedLinearMixedModel, check_integration
from mvmise_sm.models.link_edges import minimum
from mvmise_sm.models.model_parts import PART_OPTION, Part, joined, made_part, part_designs
from mvmise_sm.models.new_rows import frame_rows
from mvmise_sm.models.response_checks import check_response
from mvmise_sm.options import refuse_unknown_model_options
from mvmise_sm.results.multipart import MultiPartResults, MultiPartResultsWrapper
from mvmise_sm.results.variance import layout_of
from mvmise_sm.streaming.sources import is_source

__all__ = ["MultiPartMixedModel", "Part", "from_formulas"]

# a zero part this far out (logit) is nearly certain: other modes of its likelihood are tried, so far away
_NEARLY_CERTAIN, _FAR = 4.0, 8.0
_MODE_STEPS = 30
# beyond these the data no longer determine a logit, a log dispersion, or the degrees of freedom
_GONE, _FLAT, _NORMAL_DF = 12.0, 11.0, 200.0


class MultiPartMixedModel(GeneralizedLinearMixedModel):
    """A generalised linear mixed model whose likelihood has several linear predictors.

    ``GeneralizedLinearMixedModel`` makes one where the family or the options ask for it; parameters as there.

    Parameters
    ----------
    zero_inflation, dispersion : array_like or DataFrame, optional
        Designs (nobs, p) of the zero part (logit of the probability) and of log d; formulas in `from_formula`.

    Attributes
    ----------
    parts : tuple of Part
        Predictors beside the conditional one that have coefficients.
    term_parts : tuple of int
        Predictor of every random-effects term, 0 for the conditional part.

    References
    ----------
    Brooks et al. (2017). glmmTMB balances speed and flexibility among packages for zero-inflated generalized linear
    mixed modeling. R Journal 9(2).
    """

    title = "Generalized Linear Mixed Model"
    _part_order: ClassVar[tuple[str, ...]] = ("zi", "disp")

    def __init__(
        self, endog, exog, random_effects=None, *, zero_inflation=None, dispersion=None, part_designs=None, **kwargs
    ):
        self._given_parts = {
            name: value
            for name, value in (("zi", zero_inflation), ("disp", dispersion), *(part_designs or {}).items())
            if value is not None
        }
        super().__init__(endog, exog, random_effects, **kwargs)
        del self._given_parts
        self._init_keys.extend(["zero_inflation", "dispersion"])

    # --- construction

    def _bind_priors(self):
        self._join_parts()
        return super()._bind_priors()

    def _join_parts(self):
        """Bring all parts together: coefficients, random effects with shared grouping factors, names."""
        family, made = self.family, []
        if "zi" in self._given_parts and family.zero_part is None:
            raise OptionError(f"family {family.spoken!r} has no zero part")
        if "disp" in self._given_parts and not family.has_dispersion:
            raise OptionError(f"family {family.spoken!r} has no dispersion to model; use {_with_dispersion(family)}")
        for name in self._part_order:
            if name in self._given_parts:
                made.append(made_part(name, self._given_parts[name], len(self.endog)))
        self.parts = tuple(made)
        self.zero_inflation = next((p.text or p.exog for p in made if p.name == "zi"), None)
        self.dispersion = next((p.text or p.exog for p in made if p.name == "disp"), None)
        self.random_effects, self.random_layout, self.term_parts = joined(self.random_effects, made)
        names = list(self.data.xnames)
        for part in made:
            names += part.labels
        names += self._more_names()
        twice = {n for n in names if names.count(n) > 1}
        if twice:
            raise OptionError(f"two coefficients are called {min(twice)!r}; rename a column")
        self.data.param_names = names

    def _get_init_kwds(self):
        given = super()._get_init_kwds() | self.reduced_random(self.random_effects.terms)
        return given

    def reduced_random(self, terms):
        given = list(zip(terms, self.term_parts, strict=True))
        cond, zero = ([t for t, where in given if where == part and t is not None] for part in (0, 1))
        out = {"random_effects": RandomEffects(cond, len(self.endog))}
        for part in self.parts:
            random = RandomEffects(zero, len(self.endog)) if part.name == "zi" and zero else None
            out[PART_OPTION[part.name]] = replace(part, random=random)
        return out

    def _checked_dispersion_prior(self):
        if self.dispersion_prior is not None and any(p.name == "disp" for p in self.parts):
            raise OptionError(
                "dispersion_prior is for a dispersion without formula; with dispersion='~ x' give "
                "fixef_prior={'disp_Intercept': ms.priors.Normal(sd=1)}"
            )
        return super()._checked_dispersion_prior()

    def _more_names(self):
        """Names of coefficients beyond those of the parts."""
        return []

    def _check_family_response(self):
        y = self.endog
        zeros = y == 0.0
        if self.has_zero_part and not zeros.any():
            raise DataError("zero_inflation needs zeros in the response, found none; leave it out")
        if self.has_zero_part and zeros.all():
            raise DataError("all responses are 0, so that no estimate is finite")
        weights = self.weights
        if self.has_zero_part and self.family.zero_part == "hurdle":
            y, weights = y[~zeros], None if weights is None else weights[~zeros]
        check_response(y, weights, self.family, bounded=self.has_fixef_prior or self.has_zero_part)

    @property
    def has_zero_part(self):
        """Whether there is a zero part."""
        return any(p.name == "zi" for p in self.parts)

    @property
    def param_names(self):
        """Names of all coefficients, those of the zero part and the dispersion with their prefix."""
        return list(self.data.param_names)

    # --- the criterion

    def _blocks(self):
        """Coefficient blocks, and how many of them are coefficients that the user sees."""
        y, w, family = self.endog, self.weights, self.family
        n, one = self.nobs, np.ones((self.nobs, 1))
        inner = y
        hurdle = self.has_zero_part and family.zero_part == "hurdle"
        used = y[y != 0.0] if hurdle else y
        if hurdle:
            inner = np.where(y == 0.0, used.mean(), y)
        trials = w if family.trials else None
        target = family.start(inner, trials)
        blocks = [Block("cond", {0: np.asarray(self.exog, dtype=float)}, target=target, offset=self.offset)]
        at = 1
        for part in self.parts:
            if part.name == "zi":
                share = float(np.mean(y == 0.0))
                share = share if hurdle else 0.5 * share
                start = np.full(n, float(np.log(share / (1.0 - share))))
                blocks.append(Block("zi", {1: part.exog}, target=start, own_offset=part.offset))
                at = 2
        start_d = family.start_dispersion(used, None) if family.has_dispersion else None
        hidden = []
        if family.has_dispersion:
            part = next((p for p in self.parts if p.name == "disp"), None)
            if part is not None:
                blocks.append(Block("disp", {at: part.exog}, target=np.full(n, start_d), own_offset=part.offset))
            else:
                hidden.append(Block("disp", {at: one}, start=np.array([start_d])))
            at += 1
        for name, value in zip(family.shape_names, family.shape_start(), strict=True):
            hidden.append(Block(name, {at: one}, start=np.array([value])))
            at += 1
        return [*blocks, *hidden], len(blocks)

    def criterion(self, nagq=1, dispersion="ml", curvature="observed"):
        check_integration(nagq, dispersion, curvature)
        if dispersion == "lme4":
            raise OptionError(f"dispersion='lme4' has no meaning for family {self.family.spoken!r}; leave it out")
        if curvature == "expected":
            raise OptionError(f"curvature='expected' has no formula for {self._named_parts()}; use 'observed'")
        if nagq == 0:
            raise OptionError(
                f"nagq=0 is not available for family {self.family.spoken!r} with its predictors; use nagq=1"
            )
        random = tuple(sorted(set(self.term_parts)))
        response = PartsResponse(self.family, self.endog, self.weights, zero=self.has_zero_part, random=random)
        blocks, visible = self._blocks()
        given = response, blocks, visible, self.random_effects, self.term_parts
        try:
            if nagq > 1:
                return PartsQuadrature(*given, priors=self.priors, nodes=int(nagq))
        except ValueError as error:
            raise OptionError(str(error)) from None
        return PartsDeviance(*given, priors=self.priors)

    def _named_parts(self):
        """The family and what the model has beside its conditional part, in words."""
        beside = {"zi": "a zero part", "disp": "a dispersion formula"}
        parts = " and ".join(beside[part.name] for part in self.parts)
        return f"family {self.family.spoken!r}" + (f" with {parts}" if parts else "")

    def _at_limit(self, criterion, optimum, settings):
        if self.has_zero_part and self.family.zero_part == "inflated":
            zero = criterion.solve(optimum.working).predictors[1]
            starts = criterion.zero_starts(optimum.working, _FAR) if zero.min() < -_NEARLY_CERTAIN else []
            for start in starts:
                # a separated part creeps on for ever: the first steps tell whether its mode is better
                found = minimum(criterion, start, {**settings, "maxiter": min(settings["maxiter"], _MODE_STEPS)})
                if found.value < optimum.value - 1e-6:
                    optimum = found
        return criterion, optimum

    def _limit_reached(self, criterion) -> tuple[str, str] | None:
        # a dispersion with a formula is no shape; `_trouble` looks at its values
        return None

    def _trouble(self, solution):
        """A sentence on estimates that run to infinity, or None."""
        if self.has_zero_part:
            zero = solution.predictors[1]
            if self._all_gone(solution):
                return "the zero part has gone to probability 0; leave zero_inflation out"
            if np.abs(zero).max() > _GONE:
                part = next(p for p in self.parts if p.name == "zi")
                names = [part.labels[j] for j in self._separated_zeros(part, solution)] or ["its columns"]
                return (
                    f"separation in the zero part: its probability is 0 or 1 for some rows, told apart by "
                    f"{', '.join(names)}, whose estimates are infinite; leave columns out of zero_inflation or give a "
                    "prior, for example fixef_prior={'zi_Intercept': ms.priors.Normal(sd=3)}"
                )
        if self.family.has_dispersion:
            log_d = solution.predictors[2 if self.has_zero_part else 1]
            limit = self.family.limit
            low, high = float(log_d.min()), float(log_d.max())
            if limit is not None and (low < -_FLAT if self.family.name.endswith("nb1") else high > _FLAT):
                return (
                    f"the dispersion of family {self.family.spoken!r} has gone to its limit: {limit[1]}; use "
                    f"family={limit[0]!r}"
                )
        if "df" in self.family.shape_names and np.exp(solution.shapes[-1]) > _NORMAL_DF:
            return f"the t family's df are {np.exp(solution.shapes[-1]):.3g}; use 'gaussian'"
        return super()._trouble(solution)

    def _infinite(self, solution):
        """Coefficients whose estimates run to infinity: of the conditional part, or of a zero part that is certain."""
        out = super()._infinite(solution)
        if self.has_zero_part and np.abs(solution.predictors[1]).max() > _GONE:
            part = next(p for p in self.parts if p.name == "zi")
            felt = np.zeros(len(self.param_names), dtype=bool)
            felt[: len(out)] = out
            infinite = [part.labels[j] for j in self._separated_zeros(part, solution)]
            return felt | np.isin(self.param_names, infinite)
        return out

    @staticmethod
    def _all_gone(solution):
        """Whether the zero part has probability 0 in every row."""
        return solution.predictors[1].max() < -_GONE

    @staticmethod
    def _separated_zeros(part, solution):
        """Positions of the zero part's coefficients that run to infinity: rows whose probability is not 0 or 1 do not
        determine them.
        """
        inside = part.exog[np.abs(solution.predictors[1]) <= _GONE]
        size = np.maximum(np.abs(part.exog).max(axis=0), 1e-300)
        _, values, directions = np.linalg.svd(
            np.vstack([inside / size, np.zeros((part.exog.shape[1],) * 2)]), full_matrices=False
        )
        loose = directions[values <= 1e-8 * max(float(values[0]), 1e-300)]
        return np.flatnonzero(np.abs(loose).max(axis=0, initial=0.0) > 1e-6)

    def _result(self, *args, **kwargs):
        return MultiPartResultsWrapper(MultiPartResults(self, *args, **kwargs))

    def inverse_link(self, linear):
        """Conditional mean at a linear predictor (m,), where it depends on nothing else."""
        family = self.family
        if not family.own_mean:
            return super().inverse_link(linear)
        if family.has_dispersion or family.shape_names:
            raise OptionError(
                f"the mean of family {family.spoken!r} depends on its dispersion; ask the result: "
                "predict(which='conditional')"
            )
        return family.mean(linear)

    def predict(self, params, exog=None, which="mean", offset=None):
        """Predict the conditional part without random effects; `params` may hold all coefficients."""
        k = self.exog.shape[1] if exog is None else np.asarray(exog).shape[1]
        return super().predict(np.asarray(params)[:k], exog, which, offset)

    def part_rows(self, design, mine, frame, chosen, allow_new_levels, offset):
        """New rows of one part as `NewRows`: `mine` are its random-effects terms, `chosen` positions among them."""
        view = SimpleNamespace(random_layout=SimpleNamespace(terms=[self.random_layout.terms[i] for i in mine]))
        return frame_rows(view, design, frame, chosen, allow_new_levels, offset)

    def remove_rows(self):
        """Let go of the rows of all parts."""
        super().remove_rows()
        self.parts = tuple(
            replace(
                p,
                exog=None,
                offset=None,
                random=None if p.random is None else layout_of(p.random),
                design=None
                if p.design is None
                else replace(
                    p.design,
                    endog=None,
                    exog=None,
                    random=None if p.design.random is None else layout_of(p.design.random),
                    weights=None,
                    offset=None,
                ),
            )
            for p in self.parts
        )

    def __repr__(self):
        extra = "".join(f", {PART_OPTION[p.name]}={p.text!r}" for p in self.parts if p.text)
        return super().__repr__().replace("; not fitted", f"{extra}; not fitted")


def _with_dispersion(family):
    return "'betabinomial'" if family.trials else "'nb2', 'nb1' or 'genpois'"


def from_formulas(cls, formula, data, subset, drop_cols, given, environment, options, kwargs):
    """`MultiPartMixedModel.from_formula` for formulas `given` of parts beside the conditional one."""
    model_text = with_bar_terms(formula, options["groups"], options["re_formula"])
    left = parse_formula(model_text).response
    missing = options["missing"]
    kwargs = dict(kwargs)
    contrasts = kwargs.pop("contrasts", None)
    structures = cls._structure_options(kwargs)
    refuse_unknown_model_options(cls, kwargs)
    if not isinstance(data, pd.DataFrame) and is_source(data):
        options_given = " and ".join(f"{PART_OPTION[name]}=" for name in given)
        raise DataError(f"a GLMM with {options_given} needs its rows at every step and cannot be streamed")
    for name, text in given.items():
        if type(text) is str and name == "disp" and "|" in text:
            raise OptionError(f"dispersion={text!r} has a random term; use fixed effects there")
    elsewhere = named_in(contrasts, *(text for text in given.values() if type(text) is str and "~" in text)) or {}
    # what only another part has is coded there; what no part has is an error of the conditional one
    here = named_in(contrasts, model_text) or {}
    coded = {key: value for key, value in (contrasts or {}).items() if key in here or key not in elsewhere} or None

    def conditional(frame, **rows):
        options = {"missing": missing, "namespace": environment, "categorical_response": True, "contrasts": coded}
        return build_design(parse_formula(model_text), frame, **options, **structures, **rows)

    refuse_dropped_columns(drop_cols)
    design = conditional(data, weights=options["weights"], offset=options["offset"], subset=subset)
    if design.random is None:
        raise RandomEffectsError(
            f"formula {formula!r} has no random-effects term such as '(1 | g)'; statsmodels' ZeroInflatedPoisson and "
            "alike need none"
        )

    def rebuild(frame, keep):
        if missing == "raise":
            raise MissingDataError(f"{int((~keep).sum())} rows have missing values in {', '.join(given.values())}")
        weights = None if design.weights is None else np.asarray(design.weights)[keep]
        argument = design.offset_argument
        argument = argument[keep] if type(argument) is np.ndarray else argument
        return conditional(frame, weights=weights, offset=argument)

    design, found = part_designs(design, given, left, environment, rebuild, contrasts)
    return cls(design.endog, design.exog, design.random, design=design, part_designs=found, **kwargs)
