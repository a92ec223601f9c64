"""What a scan reports of every fit: coefficients, contrasts and tests of terms, as rows over the fixed effects."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

import numpy as np
import pandas as pd
from patsy import DesignInfo, PatsyError

from mvmise_sm.design.build import Design
from mvmise_sm.design.columns import names_in
from mvmise_sm.design.new_data import new_exog
from mvmise_sm.exceptions import OptionError
from mvmise_sm.inference.hypotheses import design_contrasts

__all__ = ["Report", "is_term", "read_report"]

_PAIRWISE = "pairwise:"
_TWO = 2


@dataclass(frozen=True, eq=False)
class Report:
    """What is reported of every feature.

    Attributes
    ----------
    names : tuple of str
        Fixed effects of the design (p,).
    terms : tuple of str or None
        Fixed effects or formula terms that the caller asked for.
    contrasts : dict or None
        Name -> combination of the fixed effects (p,); None for the fixed effects themselves.
    tests : dict
        Term -> contrast matrix (k, p).
    shares : bool
        Whether shares of variance are reported.
    """

    names: tuple[str, ...]
    terms: tuple[str, ...] | None
    contrasts: dict[str, np.ndarray] | None
    tests: dict[str, np.ndarray]
    shares: bool = False

    def rows(self) -> tuple[list[str], np.ndarray]:
        """Names and combinations (c, p) that are reported."""
        if self.contrasts is not None:
            return list(self.contrasts), np.array(list(self.contrasts.values()), dtype=float)
        chosen = [j for j, name in enumerate(self.names) if self.wants(name)]
        return [self.names[j] for j in chosen], np.eye(len(self.names))[chosen]

    def wants(self, name: str) -> bool:
        """Whether a fixed effect is among the terms that the caller asked for."""
        return self.terms is None or any(is_term(name, term) for term in self.terms)


def is_term(name: str, term: str) -> bool:
    """Whether a fixed effect is a formula term or one of its columns."""
    return name == term or name.startswith(f"{term}[")


def read_report(
    design: Design,
    names: Sequence[str],
    *,
    terms: str | Sequence[str] | None,
    contrasts: Mapping[str, Any] | str | None,
    tests: bool | str | Sequence[str] | None,
    shares: bool,
) -> Report:
    """Check what the caller wants reported; parameters as in `scan`, `names` the fixed effects (p,).

    Raises
    ------
    OptionError
        If a name is not a fixed effect or a term, or `terms` and `contrasts` are both given.
    """
    if terms is not None and contrasts is not None:
        raise OptionError("terms and contrasts exclude each other: a contrast names what is reported")
    wanted = None if terms is None else (terms,) if isinstance(terms, str) else tuple(terms)
    for term in wanted or ():
        if not any(is_term(name, term) for name in names):
            raise OptionError(f"terms: {term!r} is not a fixed effect; allowed are {list(names)}")
    return Report(
        tuple(names),
        wanted,
        None if contrasts is None else _contrasts(contrasts, list(names), design),
        _tests(tests, design) if tests is not None and tests is not False else {},
        bool(shares),
    )


def _contrasts(given: Mapping[str, Any] | str, names: list[str], design: Design) -> dict[str, np.ndarray]:
    if isinstance(given, str):
        if not given.startswith(_PAIRWISE):
            raise OptionError(f"contrasts must be a dict of names and combinations, or 'pairwise:f', got {given!r}")
        return pairwise(design, given.removeprefix(_PAIRWISE).strip())
    if not isinstance(given, Mapping) or not given:
        raise OptionError(f"contrasts must be a dict of names and combinations, or 'pairwise:f', got {given!r}")
    out: dict[str, np.ndarray] = {}
    for name, value in given.items():
        if str(name) in out:
            raise OptionError(f"contrasts: two are called {str(name)!r}")
        out[str(name)] = _combination(value, str(name), names)
    return out


def _combination(value: Any, name: str, names: list[str]) -> np.ndarray:
    """One combination of the fixed effects (p,) from text or numbers."""
    if isinstance(value, str):
        return _from_text(value, names)
    try:
        out = np.asarray(value, dtype=float).ravel()
    except (TypeError, ValueError):
        raise OptionError(f"contrasts: {name!r} must be a text or numbers, got {value!r}") from None
    if len(out) != len(names):
        raise OptionError(f"contrasts: {name!r} has {len(out)} numbers for {len(names)} fixed effects {names}")
    if not np.isfinite(out).all() or not out.any():
        raise OptionError(f"contrasts: {name!r} must hold finite numbers that are not all zero")
    return out


def _from_text(text: str, names: list[str]) -> np.ndarray:
    if not text.strip():
        raise OptionError("contrasts: an empty text is no combination of the fixed effects")
    for token in _tokens(text, names):
        near = difflib.get_close_matches(token, names, n=1)
        hint = f", did you mean {near[0]!r}?" if near else ""
        raise OptionError(f"contrasts: {token!r} is not a fixed effect; allowed are {names}{hint}")
    try:
        constraint = DesignInfo(names).linear_constraint(text)
    except PatsyError as error:
        raise OptionError(
            f"contrasts: {text!r} cannot be read ({error.message}); write a combination of {names}"
        ) from None
    if len(constraint.coefs) != 1 or constraint.constants.any():
        raise OptionError(f"contrasts: {text!r} must be one combination of the fixed effects without a constant")
    return np.asarray(constraint.coefs[0], dtype=float)


def _tokens(text: str, names: list[str]) -> list[str]:
    """What is left in a text once the fixed effects, numbers and operators are taken out."""
    rest = text
    for name in sorted(names, key=len, reverse=True):
        rest = rest.replace(name, " ")
    out, depth, word = [], 0, ""
    for letter in rest + " ":
        depth += (letter == "[") - (letter == "]")
        if (letter.isspace() or letter in "+-*/=,") and depth <= 0:
            word = word.strip("()")
            if word and not _is_number(word):
                out.append(word)
            word = ""
        else:
            word += letter
    return out


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _tests(tests: bool | str | Sequence[str], design: Design) -> dict[str, np.ndarray]:
    found = design_contrasts(design, design.exog.to_numpy(), 3)
    if tests is True:
        return found
    wanted = [tests] if isinstance(tests, str) else list(tests)  # type: ignore[arg-type]
    for term in wanted:
        if term not in found:
            raise OptionError(f"tests: {term!r} is not a term; allowed are {list(found)}")
    return {term: found[term] for term in wanted}


def pairwise(design: Design, factor: str) -> dict[str, np.ndarray]:
    """All differences of marginal means of one factor, the later level minus the earlier one.

    The other factors are averaged over with equal weights, numeric variables are at their means.

    Parameters
    ----------
    design : Design
    factor : str
        A categorical variable of the fixed effects.

    Returns
    -------
    dict
        ``"B - A"`` -> combination of the fixed effects (p,).
    """
    frame = design.frame
    values: dict[str, list] = {}
    for expression, info in design.model_spec.factor_infos.items():
        quoted, plain = names_in(expression)
        for name in sorted({*quoted, *plain} & set(frame.columns)):
            values.setdefault(name, _grid_values(frame[name], info))
    if factor not in values:
        raise OptionError(f"contrasts: {factor!r} is not a variable of the fixed effects; these are {list(values)}")
    levels = values[factor]
    if len(levels) < _TWO:
        raise OptionError(f"contrasts: 'pairwise:{factor}' needs a factor with two levels at least, {factor!r} is none")
    grid = pd.DataFrame(list(product(*values.values())), columns=list(values))
    for name in grid.columns:
        if isinstance(frame[name].dtype, pd.CategoricalDtype):
            grid[name] = pd.Categorical(grid[name], dtype=frame[name].dtype)
    rows = new_exog(design, grid).to_numpy()
    means = [rows[(grid[factor] == level).to_numpy()].mean(axis=0) for level in levels]
    return {f"{levels[j]} - {levels[i]}": means[j] - means[i] for i, j in combinations(range(len(levels)), _TWO)}


def _grid_values(column: pd.Series, info: Any) -> list:
    """Levels of a factor; the mean of a number, both values where it has two."""
    if info.type == "categorical":
        return list(info.categories)
    if column.dtype == bool or not pd.api.types.is_numeric_dtype(column):
        return list(pd.unique(column.dropna()))
    distinct = np.unique(column.dropna())
    return distinct.tolist() if len(distinct) <= _TWO else [float(column.mean())]
