"""The formula of a stacked feature that has one outcome only: what tells outcomes apart has nothing to say there."""

from __future__ import annotations

import pandas as pd

from mvmise_sm.formula.parts import RandomSpec, expand_terms, parse_formula

__all__ = ["single_outcome_rhs"]


def single_outcome_rhs(rhs: str, column: str, samples: pd.DataFrame, *, residual: bool) -> str:
    """Leave out of a formula what needs several outcomes.

    Fixed terms with the column go; random terms lose it from their grouping factor, and go where that leaves nothing or
    another term's factor. If the model has a residual variance, a factor with a level for every sample goes too: with
    one outcome it is the residual.

    Parameters
    ----------
    rhs : str
        Right-hand side with random terms.
    column : str
        Names the outcome in the formula.
    samples : DataFrame
        One row per sample.
    residual : bool
        Whether the model has a residual variance.

    Returns
    -------
    str
    """
    parts = parse_formula(f"y__ ~ {rhs}")
    fixed = expand_terms(parts.rhs, frozenset(map(str, samples.columns)))
    kept = [t for t in fixed if all(f.name() != column for f in t.factors)]
    text = "1" if any(not t.factors for t in kept) else "0"
    text = " + ".join([text, *(t.name() for t in kept if t.factors)])
    terms = []
    groups = {term.group for term in parts.random if column not in term.factors}
    for term in parts.random:
        factors = [f for f in term.factors if f != column]
        group = ":".join(factors)
        if not factors or (column in term.factors and group in groups):
            continue
        if residual and all(f in samples for f in factors) and not samples.duplicated(factors).any():
            continue
        groups.add(group)
        terms.append(_spelled(term, group) if column in term.factors else _spelled(term, term.group))
    offsets = [f"offset({o})" for o in parts.offsets]
    return " + ".join([text, *offsets, *terms])


def _spelled(term: RandomSpec, group: str) -> str:
    """A random term with this grouping factor as text."""
    if term.members:
        return term.text
    inside = f"{term.effects} | {group}"
    options = "".join(f", {name}={value!r}" for name, value in term.options)
    return f"({inside})" if term.structure == "us" else f"{term.structure}({inside}{options})"
