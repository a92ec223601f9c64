"""patsy's coding of terms: design infos from encoded factors, their columns, and design infos with columns left out."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from patsy import (
    ContrastMatrix,
    DesignInfo,
    EvalEnvironment,
    EvalFactor,
    PatsyError,
    Term,
    design_matrix_builders,
)
from patsy.builtins import C
from patsy.design_info import FactorInfo, SubtermInfo

from mvmise_sm.design.columns import Encoded, column_of
from mvmise_sm.exceptions import FormulaError

__all__ = ["columns", "design_info", "keep_columns", "matrix", "term_columns"]

_MANY_LEVELS = 1000  # factors with more levels are not kept in the cache


class _Stub:
    """Stands for a factor whose type is known while patsy works out the coding; implements its factor protocol."""

    origin = None

    def __init__(self, name: str, sample: Any):
        self._name = name
        self._sample = sample

    def name(self) -> str:
        return self._name

    def memorize_passes_needed(self, state: dict, eval_env: EvalEnvironment) -> int:
        return 0

    def eval(self, state: dict, data: Any) -> Any:
        return self._sample


def design_info(terms: Sequence[Term], encoded: Mapping[EvalFactor, Encoded], states: Mapping) -> DesignInfo:
    """Let patsy choose the coding of terms from the types of their factors alone.

    Parameters
    ----------
    terms : sequence of patsy.Term
        Terms of one side of the formula.
    encoded : mapping
        Factor -> value, for every factor of the terms.
    states : mapping
        Factor -> patsy's evaluation state; plain columns need none.

    Returns
    -------
    patsy.DesignInfo
        A genuine one: it evaluates new data through patsy.
    """
    factors = list(dict.fromkeys(factor for term in terms for factor in term.factors))
    values = [encoded[f] for f in factors]
    plain = all(column_of(f) is not None and f not in states and encoded[f].contrast is None for f in factors)
    if plain and sum(len(v.categories) for v in values if v.categories is not None) <= _MANY_LEVELS:
        kinds = tuple(None if v.categories is None else (v.categories.dtype, tuple(v.categories)) for v in values)
        return _plain_info(tuple(terms), tuple(factors), kinds)
    return _build_info(terms, factors, values, states)


def column_index(names: tuple[str, ...]) -> pd.Index:
    """Labels of columns (p,) as pandas wants them, which takes longer to make than a small fit's likelihood."""
    return _column_index(names).view()


@lru_cache(maxsize=256)
def _column_index(names: tuple[str, ...]) -> pd.Index:
    return pd.Index(names)


@lru_cache(maxsize=256)
def _plain_info(terms: tuple[Term, ...], factors: tuple[EvalFactor, ...], kinds: tuple) -> DesignInfo:
    values = [Encoded(np.zeros(1), None if kind is None else pd.Index(kind[1], dtype=kind[0])) for kind in kinds]
    return _build_info(terms, factors, values, {})


def _build_info(terms: Sequence[Term], factors: Sequence, values: Sequence[Encoded], states: Mapping) -> DesignInfo:
    stubs = {factor: _Stub(factor.name(), _sample(value)) for factor, value in zip(factors, values, strict=True)}
    real = {stub: factor for factor, stub in stubs.items()}
    stub_terms = [Term([stubs[f] for f in term.factors]) for term in terms]
    if any(not term.factors for term in terms) and any(f.name() == "Intercept" for f in factors):
        raise FormulaError(
            "a column is called 'Intercept', as the constant is; rename it, or leave the constant out: '0 + Intercept'"
        )
    try:
        (info,) = design_matrix_builders([stub_terms], lambda: iter([{}]), EvalEnvironment([]))
    except PatsyError as error:
        raise FormulaError(f"{' + '.join(t.name() for t in terms)}: {error.message}") from None
    except Exception as error:  # two columns with one name, or contrasts of the user's that are none
        raise FormulaError(
            f"{' + '.join(t.name() for t in terms)}: {error}; rename columns of the data, or check the contrasts"
        ) from None
    infos = {}
    for stub, described in info.factor_infos.items():
        factor = real[stub]
        state = states[factor] if factor in states else _plain_state(factor)
        infos[factor] = FactorInfo(factor, described.type, state, described.num_columns, described.categories)
    codings: OrderedDict = OrderedDict()
    for term, subterms in info.term_codings.items():
        codings[Term([real[f] for f in term.factors])] = [
            SubtermInfo(
                [real[f] for f in subterm.factors],
                {real[f]: contrast for f, contrast in subterm.contrast_matrices.items()},
                subterm.num_columns,
            )
            for subterm in subterms
        ]
    return DesignInfo(info.column_names, infos, codings)


def _sample(value: Encoded) -> Any:
    """One row of the same type as `value`."""
    if value.categories is None:
        return np.zeros((1, value.n_columns))
    sample = pd.Categorical.from_codes([0] if len(value.categories) else [-1], categories=value.categories)
    return sample if value.contrast is None else C(sample, value.contrast)


def _plain_state(factor: EvalFactor) -> dict:
    state: dict = {}
    factor.memorize_passes_needed(state, EvalEnvironment([]))
    return state


def columns(info: DesignInfo, encoded: Mapping[EvalFactor, Encoded]) -> Iterator[np.ndarray | None]:
    """Yield the columns of a design one by one; None stands for a column of ones.

    A numeric column that stands alone is handed out by reference, everything else is a new array (n,).
    """
    for subterms in info.term_codings.values():
        for subterm in subterms:
            yield from term_columns(subterm, encoded)


def term_columns(subterm: SubtermInfo, encoded: Mapping[EvalFactor, Encoded]) -> Iterator[np.ndarray | None]:
    """Yield the columns of one subterm, products with the first factor running fastest, as patsy orders them."""
    if not subterm.factors:
        yield None
        return
    pieces = [_proto_columns(f, subterm.contrast_matrices.get(f), encoded[f]) for f in subterm.factors]
    for combination in product(*reversed(pieces)):
        first, *rest = reversed(combination)
        column = first()
        for piece in rest:
            column = column * piece()
        yield column


def _proto_columns(factor: EvalFactor, contrast: ContrastMatrix | None, value: Encoded) -> list:
    """Functions that make the columns of one factor, so that only the columns of the moment take memory."""
    if contrast is None:
        if value.values.ndim == 1:
            return [lambda: value.values]
        return [lambda j=j: np.ascontiguousarray(value.values[:, j]) for j in range(value.n_columns)]
    codes = value.values
    if codes.size and codes.min() < 0:  # missing or unknown labels make missing columns
        table = np.vstack([contrast.matrix, np.full((2, contrast.matrix.shape[1]), np.nan)])
    else:
        table = contrast.matrix
    return [lambda j=j: np.ascontiguousarray(table[:, j])[codes] for j in range(table.shape[1])]


def matrix(info: DesignInfo, encoded: Mapping[EvalFactor, Encoded], nobs: int) -> np.ndarray:
    """Fill the design matrix (nobs, p), columns contiguous."""
    out = np.empty((nobs, len(info.column_names)), order="F")
    for j, column in enumerate(columns(info, encoded)):
        out[:, j] = 1.0 if column is None else column
    return out


class _NamedTerm(Term):
    """A term that keeps its name although its factors were replaced."""

    def __init__(self, factors: Sequence[EvalFactor], name: str):
        super().__init__(factors)
        self._name = name

    def name(self) -> str:
        return self._name


class _SomeColumns(EvalFactor):
    """A factor with several columns of which only some are used; named as the whole factor."""

    def __init__(self, factor: EvalFactor, kept: Sequence[int]):
        super().__init__(factor.code)
        self.whole = factor
        self.kept = tuple(kept)

    def name(self) -> str:
        return self.whole.name()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _SomeColumns) and (self.code, self.kept) == (other.code, other.kept)

    def __hash__(self) -> int:
        return hash((_SomeColumns, self.code, self.kept))

    def eval(self, memorize_state: dict, data: Any) -> np.ndarray:
        return np.asarray(self.whole.eval(memorize_state, data))[:, self.kept]


def keep_columns(info: DesignInfo, kept: Iterable[int]) -> DesignInfo:
    """Restrict a design info to some columns, so that its slices, names and predictions all leave the others out.

    Every kept column of a subterm with categorical factors becomes a subterm of its own with one-column contrasts; of a
    numeric factor with several columns only the kept ones are taken. A term without any column left disappears.

    Parameters
    ----------
    info : patsy.DesignInfo
        Design with p columns.
    kept : iterable of int
        Positions to keep, ascending.

    Returns
    -------
    patsy.DesignInfo
        Design with the kept columns.
    """
    wanted = {int(k) for k in kept}
    infos: dict = {}
    codings: OrderedDict = OrderedDict()
    place = 0
    for term, subterms in info.term_codings.items():
        pieces: list[SubtermInfo] = []
        for subterm in subterms:
            inside = [k for k in range(subterm.num_columns) if place + k in wanted]
            place += subterm.num_columns
            pieces += _restrict(subterm, inside, info, infos)
        if pieces:
            used = list(dict.fromkeys(f for piece in pieces for f in piece.factors))
            covered = {getattr(f, "whole", f) for f in used}
            extra = [f for f in term.factors if f not in covered]
            infos.update({f: info.factor_infos[f] for f in extra})
            codings[_NamedTerm(used + extra, term.name())] = pieces
    names = [name for k, name in enumerate(info.column_names) if k in wanted]
    return DesignInfo(names, infos, codings)


def _restrict(subterm: SubtermInfo, inside: list[int], info: DesignInfo, infos: dict) -> list[SubtermInfo]:
    """Subterms that make only the columns `inside` of one subterm; their factors are entered into `infos`."""
    if not inside:
        return []
    if len(inside) == subterm.num_columns:
        infos.update({f: info.factor_infos[f] for f in subterm.factors})
        return [subterm]
    widths = [
        subterm.contrast_matrices[f].matrix.shape[1]
        if f in subterm.contrast_matrices
        else info.factor_infos[f].num_columns
        for f in subterm.factors
    ]
    out = []
    for column in inside:
        places = np.unravel_index(column, widths, order="F")
        factors, contrasts = [], {}
        for factor, j, width in zip(subterm.factors, places, widths, strict=True):
            described = info.factor_infos[factor]
            used = factor
            if factor in subterm.contrast_matrices:
                whole = subterm.contrast_matrices[factor]
                contrasts[factor] = ContrastMatrix(whole.matrix[:, [j]], [whole.column_suffixes[j]])
                infos[factor] = described
            elif width > 1:
                used = _SomeColumns(factor, [int(j)])
                infos[used] = FactorInfo(used, "numerical", described.state, 1)
            else:
                infos[factor] = described
            factors.append(used)
        out.append(SubtermInfo(factors, contrasts, 1))
    return out
