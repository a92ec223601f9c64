"""Hypotheses of an analysis of variance: one contrast matrix per term, of type 1, 2 or 3."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace

import numpy as np
from patsy import ContrastMatrix, DesignInfo
from patsy.design_info import SubtermInfo

from mvmise_sm.design.new_data import new_exog
from mvmise_sm.exceptions import OptionError
from mvmise_sm.formula.parts import expand_terms

__all__ = ["design_contrasts", "model_spec_of", "term_contrasts"]

_RANK = 1e-11
_ZERO = 1e-7
_POOR = 1e6


def model_spec_of(result):
    """Specification of the fixed effects.

    Raises
    ------
    OptionError
        If the model was not made from a formula, so that columns do not belong to terms.
    """
    design = getattr(result.model.data, "design", None)
    if design is None:
        raise OptionError("tests by term need a model from a formula; use wald_test with a matrix")
    return design.model_spec


def term_contrasts(result, type=3):
    """Contrast matrices of every term but the intercept.

    Parameters
    ----------
    result : MixedModelResults
        Of a formula model.
    type : {1, 2, 3}
        Sequential, marginal to terms that do not contain the tested one, or each term adjusted for all others with
        equal weight to the levels of the factors. No type depends on the coding of the factors.

    Returns
    -------
    dict
        Term name -> (q, p).
    """
    model_spec_of(result)
    design, exog, gram_rows = result.model.term_design()
    return design_contrasts(design, exog, type, gram_rows)


def design_contrasts(design, exog, type=3, gram_rows=None):
    """`term_contrasts` of a design that need not be fitted.

    Parameters
    ----------
    design : Design
    exog : ndarray
        Its fixed-effects columns (n, p).
    type : {1, 2, 3}
    gram_rows : ndarray, optional
        Rows (m, p) with the cross-products of all data, where `exog` shows only which cells there are.
    """
    if type not in (1, 2, 3):
        raise OptionError(f"type must be 1, 2 or 3, got {type!r}")
    spec = design.model_spec
    places = {term: spec.term_slices[term] for term in spec.terms if term.factors}
    if not places:
        return {}
    if type == 3:
        return _type3(design, exog, spec, places)
    if type == 1:
        rows = _type1(design, exog if gram_rows is None else gram_rows, spec, places)
    else:
        rows = {t.name(): _type2(exog if gram_rows is None else gram_rows, spec, t) for t in places}
    return _canonical(rows, design, exog, spec, places)


def _canonical(rows, design, exog, spec, places):
    """Write hypotheses that say no more than "this term is zero" as type 3 does: one hypothesis has one basis."""
    plain = {}
    for term, place in places.items():
        others = np.delete(rows[term.name()], np.arange(exog.shape[1])[place], axis=1)
        if np.abs(others).max(initial=0.0) < _ZERO:
            plain[term] = place
    if not plain:
        return rows
    try:
        basis = _type3(design, exog, spec, plain)
    except OptionError:  # a numeric term without some of its columns has no dummies to be written in
        basis = {term.name(): np.eye(exog.shape[1])[place] for term, place in plain.items()}
    return {**rows, **basis}


def _type1(design, exog, spec, places):
    """Rows of each term after those written before it; main effects come before interactions, as in R."""
    written = [term.name() for term in expand_terms(design.parts.rhs, frozenset(map(str, design.frame.columns)))]
    rank = {name: i for i, name in enumerate(written)}
    terms = sorted(spec.terms, key=lambda t: (len(t.factors), rank.get(t.name(), len(rank))))
    order = np.concatenate([np.arange(exog.shape[1])[spec.term_slices[t]] for t in terms])
    upper = np.empty(exog.shape[1:] * 2)
    upper[np.ix_(order, order)] = _unit_triangle(exog[:, order])
    return {term.name(): upper[places[term]] for term in terms if term in places}


def _unit_triangle(columns):
    """Each row the coefficient of one column once those before it are taken out (p, p), ones on the diagonal."""
    r = np.linalg.qr(columns, mode="r")
    return r / np.diag(r)[:, None]


def _type2(exog, spec, term):
    """Rows of the term after all terms that do not contain it; containing terms come last."""
    containing = [t for t in spec.terms if t is not term and _contains(spec, t, term)]
    own = np.arange(exog.shape[1])[spec.term_slices[term]]
    last = np.concatenate([np.arange(exog.shape[1])[spec.term_slices[t]] for t in containing] or [np.zeros(0, int)])
    first = np.setdiff1d(np.arange(exog.shape[1]), np.concatenate([own, last]))
    order = np.concatenate([first, own, last]).astype(int)
    upper = _unit_triangle(exog[:, order])[len(first) : len(first) + len(own)]
    out = np.empty_like(upper)
    out[:, order] = upper
    return out


def _contains(spec, outer, inner):
    """Whether `inner` is contained in `outer`: the same covariates, and its factors among those of the other."""

    def split(term):
        kinds = [(getattr(f, "whole", f), spec.factor_infos[f].type) for f in term.factors]
        numeric = {f for f, kind in kinds if kind == "numerical"}
        return numeric, {f for f, kind in kinds if kind == "categorical"}

    (numeric_out, factors_out), (numeric_in, factors_in) = split(outer), split(inner)
    return numeric_out == numeric_in and factors_in < factors_out


def _type3(design, exog, spec, places):
    """Rows of each term that no other coefficient enters but those of terms that contain it, balanced over these.

    In the design with all dummy columns, the hypotheses of a term are the estimable functions that involve only the
    term and those that contain it, orthogonal to the estimable functions of the containing terms alone. With complete
    cells these are the tests of sum-to-zero coding; with empty cells they are what SAS calls type III.
    """
    whole, blocks, firsts = _all_dummies(design, spec)
    gram = whole.T @ whole
    values, vectors = np.linalg.eigh(gram)
    keep = values > _RANK * values[-1]
    basis = vectors[:, keep].T
    back = (vectors[:, keep] / values[keep]) @ (basis @ (whole.T @ exog))
    out, empty = {}, ~whole.any(axis=0)
    for term in places:
        containing = [blocks[t] for t in spec.terms if t is not term and _contains(spec, t, term)]
        inside = np.concatenate([blocks[term], *containing])
        other = np.setdiff1d(np.arange(whole.shape[1]), inside)
        hypotheses = _zero_on(basis, other)
        above = _zero_on(basis, np.concatenate([other, blocks[term]]))
        rest = hypotheses - (hypotheses @ above.T) @ above
        _, sizes, rows = np.linalg.svd(rest, full_matrices=False)
        out[term.name()] = _differences(rows[sizes > _ZERO], blocks[term], firsts[term] | empty[blocks[term]]) @ back
    return out


def _differences(rows, block, first):
    """The same hypotheses (q, m) as differences from the first levels, where the cells allow it.

    `first` marks the columns of the block (m,) that stand for a first level, and those of empty cells.

    Satterthwaite's degrees of freedom of several contrasts depend a little on how their hypothesis is written.
    """
    others = block[~first] if (~first).sum() == len(rows) else block
    square = rows[:, others]
    if len(others) != len(rows) or np.linalg.cond(square) > _POOR:
        return rows
    return np.linalg.solve(square, rows)


def _zero_on(basis, columns):
    """Orthonormal rows of the span of `basis` (r, p) that are zero on some columns."""
    _, sizes, rows = np.linalg.svd(basis[:, columns].T)
    rank = int((sizes > _ZERO).sum())
    return rows[rank:] @ basis


def _all_dummies(design, spec):
    """The fixed effects with a column for every combination of levels (n, m), and the columns of each term.

    The third value marks, per term, the columns that stand for a first level of any factor.

    Raises
    ------
    OptionError
        If part of a numeric term was dropped.
    """
    codings, blocks, firsts, at = OrderedDict(), {}, {}, 0
    for term in spec.terms:
        factors = list(dict.fromkeys(getattr(f, "whole", f) for f in term.factors))
        if any(hasattr(f, "whole") for f in term.factors):
            raise OptionError(f"type 3 is not defined: {term.name()} lost columns to rank deficiency; use type=2")
        contrasts, first = {}, np.zeros(1, dtype=bool)
        for factor in factors:
            info = spec.factor_infos[factor]
            if info.type == "categorical":
                levels = len(info.categories)
                contrasts[factor] = ContrastMatrix(np.eye(levels), [f"[{i}]" for i in range(levels)])
                own = np.arange(levels) == 0
            else:
                own = np.zeros(info.num_columns, dtype=bool)
            # the columns of the first factor run fastest
            first = (own[:, None] | first[None, :]).ravel()
        codings[term] = [SubtermInfo(factors, contrasts, first.size)]
        blocks[term] = np.arange(at, at + first.size)
        firsts[term] = first
        at += first.size
    infos = {f: info for f, info in spec.factor_infos.items() if not hasattr(f, "whole")}
    dummies = DesignInfo([f"c{i}" for i in range(at)], infos, codings)
    columns = new_exog(replace(design, model_spec=dummies), design.frame).to_numpy(copy=True)
    for block in blocks.values():
        # one factor per term keeps what balances its columns, and makes the rank a matter of structure only
        columns[:, block] /= max(float(np.abs(columns[:, block]).max(initial=0.0)), 1e-300)
    return columns, blocks, firsts
