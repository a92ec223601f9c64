"""The design of a scan, evaluated once: a model without a response that features are put into."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from mvmise_sm.api import find
from mvmise_sm.exceptions import OptionError
from mvmise_sm.models.generalized import GeneralizedLinearMixedModel
from mvmise_sm.models.linear import LinearMixedModel
from mvmise_sm.models.selection import SelectionModel
from mvmise_sm.models.value_selection import ValueSelectionModel
from mvmise_sm.options import refuse_unknown
from mvmise_sm.scanning.contrasts import Report, read_report
from mvmise_sm.scanning.fits import (
    PLACEHOLDER,
    FeatureFits,
    GeneralizedFits,
    LinearFits,
    MissingValueFits,
    SelectionFits,
)
from mvmise_sm.scanning.least_squares import LeastSquares, LeastSquaresFits

__all__ = ["GENERALIZED", "LEAST_SQUARES", "LINEAR", "MISSING", "SELECTION", "Blueprint", "kind_of", "names_in_text"]

LINEAR, GENERALIZED, SELECTION, LEAST_SQUARES = "linear", "generalized", "selection", "least squares"
MISSING = "missing values"
_ENTRIES = {
    "lmer": LINEAR,
    "blmer": LINEAR,
    "glmer": GENERALIZED,
    "bglmer": GENERALIZED,
    "glmer_nb": GENERALIZED,
    "lmer_mnar": MISSING,
    "mvmise_b": SELECTION,
    "mvmise_e": SELECTION,
    "ols": LEAST_SQUARES,
}
_CLASSES = {
    LinearMixedModel: LINEAR,
    GeneralizedLinearMixedModel: GENERALIZED,
    SelectionModel: SELECTION,
    ValueSelectionModel: MISSING,
}
_FITS: dict[str, type[FeatureFits]] = {
    LINEAR: LinearFits,
    GENERALIZED: GeneralizedFits,
    SELECTION: SelectionFits,
    LEAST_SQUARES: LeastSquaresFits,
    MISSING: MissingValueFits,
}
_LEAST_SQUARES_OPTIONS = ("subset", "missing", "offset")


def kind_of(model: Any) -> str:
    """Which kind of fits an entry point or class makes.

    Raises
    ------
    OptionError
        If it is neither.
    """
    if isinstance(model, str) and model in _ENTRIES:
        return _ENTRIES[model]
    if isinstance(model, type):
        for base, kind in _CLASSES.items():
            if issubclass(model, base):
                return kind
    raise OptionError(f"model must be one of {sorted(_ENTRIES)} or a class, got {model!r}")


def names_in_text(text: str, columns: Iterable) -> list:
    """Columns of a frame that a formula may mention."""
    words = set(re.findall(r"[^\W\d][\w.]*", text)) | set(re.findall(r"Q\(\s*['\"](.*?)['\"]\s*\)", text))
    return [c for c in columns if str(c) in words]


@dataclass(frozen=True, eq=False)
class Blueprint:
    """How the fits of a scan are made from a sample table; pickles.

    Attributes
    ----------
    rhs : str
        Right-hand side of the formula.
    model : str or class
    kind : str
    namespace : dict or EvalEnvironment
        Variables of the caller that the formula uses.
    model_options, fit_options : dict
    reported : dict
        What to report, the arguments of `read_report`.
    ddf : str or None
        As given by the caller.
    reml : bool
    shared_weights : ndarray or None
        (N,).
    parent : int
    """

    rhs: str
    model: Any
    kind: str
    namespace: Any = field(repr=False)
    model_options: dict
    fit_options: dict
    reported: Mapping[str, Any]
    ddf: str | None
    reml: bool
    shared_weights: np.ndarray | None = field(default=None, repr=False)
    parent: int = 0

    def template(self, samples: pd.DataFrame, K: int) -> tuple[Any, np.ndarray]:
        """A model on outcomes that no fit will see, and the samples of its rows (n,)."""
        entry = self._entry()
        names = [f"{PLACEHOLDER}{k}" for k in range(K)]
        # alternating values pass for counts and for binary responses too
        pattern = (np.arange(len(samples)) % 2).astype(float)
        labelled = samples if samples.index.is_unique else samples.reset_index(drop=True)
        frame = labelled.assign(**dict.fromkeys(names, pattern))
        options = dict(self.model_options)
        if self._weighted():
            options["weights"] = self.shared_weights
        if self.kind == SELECTION and K > 1 and _has_intercept(self.rhs):
            options.setdefault("outcome_effects", ["Intercept"])
        with warnings.catch_warnings():
            # features have their own numbers of clusters and values, and their own warnings
            warnings.simplefilter("ignore")
            model = entry(f"{' + '.join(names)} ~ {self.rhs}", frame, eval_env=self.namespace, **options)
        exog = model.design.endog if self.kind == SELECTION else model.data.design.exog
        return model, labelled.index.get_indexer(exog.index)

    def _entry(self) -> Callable:
        if self.kind == LEAST_SQUARES:
            refuse_unknown("scan(model='ols')", self.model_options, _LEAST_SQUARES_OPTIONS)
            refuse_unknown("scan(model='ols')", self.fit_options, ())
            return LeastSquares.from_formula
        return find(self.model) if isinstance(self.model, str) else self.model.from_formula

    def fits(self, samples: pd.DataFrame, K: int = 1) -> FeatureFits:
        """What fits features with these samples."""
        template, positions = self.template(samples, K)
        weights = None
        if self.shared_weights is not None and not self._weighted():
            weights = self.shared_weights[positions]
        return _FITS[self.kind](
            template,
            positions,
            self.report(template),
            self._ddf(template),
            self._fit_options(),
            weights,
            self.parent,
        )

    def _weighted(self) -> bool:
        """Whether the sample weights can be the template's own: a weight of zero leaves the row out of each fit."""
        return self.shared_weights is not None and bool((self.shared_weights > 0.0).all())

    def report(self, template: Any) -> Report:
        """What is reported of fits like the template."""
        if self.kind == SELECTION:
            # contrasts and tests are about the effects that all outcomes share
            design, common = template.design.design, template.design.common_exog
            names = list(template.exog_names)
            asked = dict(self.reported)
            if asked["terms"] is None:
                names = list(template.exog_names if common is None else common.columns)
            out = read_report(design, names, **asked)
            return out if asked["terms"] is None else Report(tuple(common.columns), out.terms, None, out.tests)
        return read_report(template.data.design, list(template.exog_names), **self.reported)

    def _ddf(self, template: Any) -> str | None:
        if self.kind == LEAST_SQUARES:
            # all methods give the residual degrees of freedom
            return None if self.ddf is None else "residual"
        if self.kind == MISSING and self.ddf == "auto":
            return "satterthwaite"
        if self.kind != LINEAR or self.ddf != "auto":
            return None if self.ddf == "auto" else self.ddf
        priors = template.priors
        if priors is not None and priors.fixef:
            return None
        return "kenward-roger" if priors is None and self.reml else "satterthwaite"

    def _fit_options(self) -> dict:
        return {**self.fit_options, "reml": self.reml} if self.kind in (LINEAR, MISSING) else dict(self.fit_options)


def _has_intercept(rhs: str) -> bool:
    """Whether a right-hand side leaves the intercept in."""
    from mvmise_sm.formula.parts import parse_formula

    text = re.sub(r"\s", "", parse_formula(f"y ~ {rhs}").rhs)
    return not (text.startswith(("0+", "-1")) or text == "0" or "-1" in text or "+0" in text)


Builder = Callable[[pd.DataFrame], FeatureFits]
