"""Linear predictors of a model beside the conditional one: their columns, names and random effects."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from mvmise_sm.core.covariance.random_effects import GroupingFactor, RandomEffects
from mvmise_sm.design.build import build_design
from mvmise_sm.exceptions import DataError, OptionError
from mvmise_sm.formula.parts import parse_formula
from mvmise_sm.formula.update import named_in
from mvmise_sm.results.variance import NO_ROWS, layout_of

__all__ = ["PART_OPTION", "Part", "joined", "made_part", "part_designs"]

_PREFIX = {"zi": "zi_", "disp": "disp_"}
PART_OPTION = {"zi": "zero_inflation", "disp": "dispersion"}


@dataclass(frozen=True, eq=False)
class Part:
    """A linear predictor beside the conditional one.

    Attributes
    ----------
    name : str
        ``"zi"`` or ``"disp"``.
    exog : ndarray or None
        (nobs, p); None once the rows are let go.
    names : tuple of str
        Columns without prefix.
    text : str
        The formula, for display.
    design : Design or None
        Where they come from.
    random : RandomEffects or None
    offset : ndarray or None
        (nobs,).
    """

    name: str
    exog: np.ndarray | None
    names: tuple[str, ...]
    text: str
    design: Any = None
    random: RandomEffects | None = None
    offset: np.ndarray | None = None

    @property
    def labels(self) -> list[str]:
        """Names of the coefficients with the part's prefix."""
        return [_PREFIX[self.name] + name for name in self.names]


def part_designs(design, given, left, namespace, rebuild, contrasts=None):
    """Designs of the one-sided formulas `given` on the rows of `design`, and that design on their complete rows.

    Parameters
    ----------
    design : Design
        Of the conditional part.
    given : dict
        Part -> formula.
    left : str
        Left side of the conditional formula.
    namespace : EvalEnvironment
    rebuild : callable
        (frame, rows kept) -> the conditional design on fewer rows.
    contrasts : dict, optional
        As in `MixedModelBase.from_formula`; of variables that a formula does not have they are left out.
    """

    def built(frame):
        out = {}
        for name, text in given.items():
            if type(text) is not str or "~" not in text:
                raise OptionError(f"{PART_OPTION[name]} must be a one-sided formula such as '~ x', got {text!r}")
            before, _, right = text.partition("~")
            if before.strip():
                raise OptionError(f"{PART_OPTION[name]}={text!r} has a left side; write '~ {right.strip()}'")
            options = {
                "namespace": namespace,
                "categorical_response": True,
                "contrasts": named_in(contrasts, f"y ~ {right}"),
            }
            out[name] = build_design(parse_formula(f"{left} ~ {right}"), frame, **options)
        return out

    found = built(design.frame)
    masks = [d.missing_mask for d in found.values() if d.missing_mask is not None]
    if masks:
        keep = ~np.logical_or.reduce([np.asarray(m) for m in masks])
        design = rebuild(design.frame.loc[keep] if isinstance(keep, pd.Series) else design.frame[keep], keep)
        found = built(design.frame)
    return design, found


def made_part(name, given, nobs):
    """A part from a design, from an array, or from another model."""
    if isinstance(given, Part):
        return given
    if hasattr(given, "parts") and hasattr(given, "frame"):
        text = "~" + given.parts.text.partition("~")[2]
        if name == "disp" and given.random is not None:
            raise OptionError(f"dispersion={_shown(text)!r} has a random term; use fixed effects there")
        names = tuple(given.exog_names)
        exog = given.exog.to_numpy(dtype=float)
        return Part(name, exog, names, _shown(text), given, given.random, given.offset)
    if type(given) is str:
        raise OptionError(f"{PART_OPTION[name]}={given!r} is a formula, which needs a model from a formula")
    frame = given if isinstance(given, pd.DataFrame) else None
    exog = np.asarray(given, dtype=float)
    exog = exog[:, None] if exog.ndim == 1 else exog
    if exog.shape[0] != nobs:
        raise DataError(f"{PART_OPTION[name]} has {exog.shape[0]} rows and the response {nobs}")
    if frame is not None:
        return Part(name, exog, tuple(str(c) for c in frame.columns), "")
    names = tuple("const" if (column == 1.0).all() else f"x{i}" for i, column in enumerate(exog.T))
    return Part(name, exog, names, "")


def _shown(text):
    return "~ " + text.partition("~")[2].strip()


def joined(random, parts):
    """Random effects of all parts on shared grouping factors, their layout with names by part, and terms' parts."""
    extra = [p for p in parts if p.random is not None]
    layout = layout_of(random)
    if not extra:
        return random, layout, (0,) * len(random.terms)
    known = {f.name: f for f in random.factors}
    terms, where, shown = list(random.terms), [0] * len(random.terms), list(layout.terms)
    for part in extra:
        named: dict[str, GroupingFactor] = {}
        for term in part.random.terms:
            factor = known.get(term.factor.name, term.factor)
            if factor is not term.factor and not np.array_equal(factor.codes, term.factor.codes):
                factor = term.factor
            terms.append(replace(term, factor=factor))
            where.append(1)
            label = f"{part.name}:{term.factor.name}"
            named.setdefault(label, GroupingFactor(label, NO_ROWS, term.factor.levels))
            shown.append(replace(term, factor=named[label], columns=(None,) * term.q))
    return RandomEffects(terms), RandomEffects(shown), tuple(where)
