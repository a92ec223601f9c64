"""Hypotheses of an analysis of variance: one contrast matrix per term, of type 1, 2 or 3."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
from patsy import ContrastMatrix, DesignInfo
from patsy.contrasts import Sum
from patsy.design_info import SubtermInfo

from mvmise_sm.exceptions import OptionError
from mvmise_sm.formula import expand_terms
from mvmise_sm.new_data import new_exog

__all__ = ["model_spec_of", "term_contrasts"]


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
    spec = model_spec_of(result)
    if type not in (1, 2, 3):
        raise OptionError(f"type must be 1, 2 or 3, got {type!r}")
    exog = np.asarray(result.model.exog)
    places = {term: spec.term_slices[term] for term in spec.terms if term.factors}
    if type == 3:
        change = _marginal_coefficients(result, spec, exog)
        return {term.name(): change[at] for term, at in places.items()}
    if type == 1:
        return _type1(result.model.data.design, exog, spec, places)
    return {term.name(): _type2(exog, spec, term) for term in places}


def _type1(design, exog, spec, places):
    """Rows of each term after those written before it; main effects come before interactions, as in R."""
    written = [term.name() for term in expand_terms(design.parts.rhs, frozenset(map(str, design.frame.columns)))]
    rank = {name: i for i, name in enumerate(written)}
    terms = sorted(spec.terms, key=lambda t: (len(t.factors), rank.get(t.name(), len(rank))))
    order = np.concatenate([np.arange(exog.shape[1])[spec.term_slices[t]] for t in terms])
    upper = np.empty(exog.shape[1:] * 2)
    upper[np.ix_(order, order)] = np.linalg.qr(exog[:, order], mode="r")
    return {term.name(): upper[places[term]] for term in terms if term in places}


def _type2(exog, spec, term):
    """Rows of the term after all terms that do not contain it; containing terms come last."""
    containing = [t for t in spec.terms if t is not term and _contains(spec, t, term)]
    own = np.arange(exog.shape[1])[spec.term_slices[term]]
    last = np.concatenate([np.arange(exog.shape[1])[spec.term_slices[t]] for t in containing] or [np.zeros(0, int)])
    first = np.setdiff1d(np.arange(exog.shape[1]), np.concatenate([own, last]))
    order = np.concatenate([first, own, last]).astype(int)
    upper = np.linalg.qr(exog[:, order], mode="r")[len(first) : len(first) + len(own)]
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


def _marginal_coefficients(result, spec, exog):
    """Coefficients under sum-to-zero coding as linear functions of the model's own (p, p)."""
    recoded = _sum_coded(spec)
    if recoded is None:
        return np.eye(exog.shape[1])
    design = result.model.data.design
    columns = new_exog(_Recoded(recoded), design.frame).to_numpy()
    change, *_ = np.linalg.lstsq(columns, exog, rcond=None)
    if np.abs(columns @ change - exog).max(initial=0.0) > 1e-8 * max(1.0, np.abs(exog).max(initial=0.0)):
        raise OptionError(
            "type 3 is not defined: the fixed effects do not hold all columns of a sum-to-zero coding; use type=2"
        )
    return change


class _Recoded:
    """A design that differs in the coding of its fixed effects only."""

    def __init__(self, model_spec):
        self.model_spec = model_spec


def _sum_coded(spec):
    """The same terms with every reduced-rank coding replaced by sum to zero, None where nothing changes."""
    changed = False
    codings = OrderedDict()
    for term, subterms in spec.term_codings.items():
        pieces = []
        for subterm in subterms:
            contrasts = {}
            for factor, contrast in subterm.contrast_matrices.items():
                levels, columns = contrast.matrix.shape
                if columns == levels - 1:
                    matrix = Sum().code_without_intercept(list(range(levels))).matrix
                    contrasts[factor] = ContrastMatrix(matrix, contrast.column_suffixes)
                    changed = True
                else:
                    contrasts[factor] = contrast
            pieces.append(SubtermInfo(subterm.factors, contrasts, subterm.num_columns))
        codings[term] = pieces
    return DesignInfo(spec.column_names, spec.factor_infos, codings) if changed else None
