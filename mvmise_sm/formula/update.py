"""R's ``update``: a formula in which ``.`` stands for the parts of an old one."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from mvmise_sm.exceptions import FormulaError
from mvmise_sm.formula.parts import expand_terms, parse_formula
from mvmise_sm.formula.size import refuse_explosion
from mvmise_sm.formula.tree import Atom, Binary, Node, Unary, parse, tokenize, unparse

__all__ = ["named_in", "updated_formula"]

_DOT = re.compile(r"(?<![\w.`])\.(?![\w.`])")
_MARK = "dot__"


def named_in(options: Mapping[str, Any] | None, *formulas: str) -> dict[str, Any] | None:
    """Those of options by variable whose variable a term of some formulas has; None where nothing is left."""
    if not options:
        return None
    texts = []
    for formula in formulas:
        parts = parse_formula(formula if formula.partition("~")[0].strip() else f"y {formula}")
        texts += [factor.name() for term in expand_terms(parts.rhs) for factor in term.factors]
        texts += [spec.effects for spec in parts.random]
    used = " ".join(texts)
    return {key: value for key, value in options.items() if re.search(rf"\b{re.escape(str(key))}\b", used)} or None


def updated_formula(old: str, new: str) -> str:
    """The whole formula that `new` makes of `old`, simplified as R's ``update`` does.

    Main effects and random terms come first, then interactions by their order, then offsets.

    Parameters
    ----------
    old : str
        A mixed-model formula.
    new : str
        Such as ``". ~ . - x"`` or ``"log(y) ~ . + (1 | h)"``; the dot on the right holds the random terms too.

    Raises
    ------
    FormulaError
        If a term that is taken away is not there, or the text is no formula.
    """
    if not isinstance(new, str):
        raise FormulaError(f"formula must be a text such as '. ~ . - x', not {type(new).__name__}")
    parts = parse_formula(old)
    left, tilde, right = new.partition("~")
    if not tilde:
        left, right = ".", new
    response = _DOT.sub(lambda match: parts.response, left.strip()) or parts.response
    whole = _expanded(parse(tokenize(old.partition("~")[2]), old))
    refuse_explosion(_with_dot(_DOT.sub(f"({_MARK})", right), whole))
    return f"{response} ~ {_expanded(parse(tokenize(_DOT.sub(_MARK, right)), new), whole).text()}"


@dataclass(frozen=True)
class _Term:
    """One term: its factors as texts; a random term or an offset is one text with a meaning of its own."""

    factors: tuple[str, ...]
    meaning: frozenset[Hashable] | None = None
    offset: bool = False

    @property
    def key(self) -> Hashable:
        return frozenset(self.factors) if self.meaning is None else self.meaning

    @property
    def order(self) -> float:
        """Place among the terms: offsets come last."""
        return float("inf") if self.offset else len(self.factors)


@dataclass
class _Terms:
    """Terms by what they are, in the order of the formula, and whether an intercept was asked for."""

    terms: dict[Hashable, _Term] = field(default_factory=dict)
    intercept: bool | None = None

    def fixed(self) -> Iterator[_Term]:
        return (term for term in self.terms.values() if term.meaning is None)

    def plus(self, other: _Terms) -> _Terms:
        intercept = self.intercept if other.intercept is None else other.intercept
        new = {key: term for key, term in other.terms.items() if key not in self.terms}
        return _Terms({**self.terms, **new}, intercept)

    def minus(self, other: _Terms, must_be_there: bool) -> _Terms:
        """Without the terms of another sum.

        Raises
        ------
        FormulaError
            If there is none of them.
        """
        intercept = self.intercept if other.intercept is None else not other.intercept
        gone = {key for key in self.terms if key in other.terms or any(_covers(o, key) for o in other.terms.values())}
        if must_be_there and other.terms and not gone:
            absent = next(iter(other.terms.values()))
            what = "terms" if absent.meaning is None else "random terms and offsets"
            alike = (t for t in self.terms.values() if (t.meaning is None) == (absent.meaning is None))
            known = ", ".join(":".join(t.factors) for t in alike) or ("1" if absent.meaning is None else "none")
            raise FormulaError(f"update: {':'.join(absent.factors)} is not a term of the model; its {what} are {known}")
        return _Terms({key: term for key, term in self.terms.items() if key not in gone}, intercept)

    def times(self, other: _Terms) -> _Terms:
        """Interactions of all fixed terms, an intercept among them standing for none."""
        own, others = ([*([()] if s.intercept else []), *(t.factors for t in s.fixed())] for s in (self, other))
        return _of_factors(tuple(dict.fromkeys((*a, *b))) for a in own for b in others)

    def text(self) -> str:
        out = [":".join(term.factors) for term in sorted(self.terms.values(), key=lambda term: term.order)]
        return (" + ".join(out) or "1") + (" - 1" if self.intercept is False else "")


def _covers(term: _Term, key: Hashable) -> bool:
    """Whether a random term or an offset holds everything of another one."""
    return term.meaning is not None and isinstance(key, frozenset) and bool(key) and key <= term.meaning


def _of_factors(factors: Iterable[tuple[str, ...]]) -> _Terms:
    out = _Terms()
    for own in factors:
        if own:
            out.terms.setdefault(frozenset(own), _Term(own))
    return out


def _expanded(node: Node, given: _Terms | None = None) -> _Terms:
    """The terms of a right-hand side, in which the mark stands for those given."""
    dot = _Terms() if given is None else given
    special = _special(node, dot)
    if special is not None:
        return _Terms({special.key: special})
    if isinstance(node, Atom):
        text = unparse(node)
        if text.strip("()") == _MARK:
            return _Terms(dict(dot.terms), dot.intercept)
        if text.strip("()") in ("0", "1"):
            return _Terms({}, text.strip("()") == "1")
        return _of_factors([(_with_dot(text, dot),)])
    if isinstance(node, Unary):
        operand = _expanded(node.operand, given)
        return operand if node.op == "+" else _Terms().minus(operand, given is not None)
    left = _expanded(node.left, given)
    if node.op in ("**", "^"):
        return _power(left, unparse(node.right))
    right = _expanded(node.right, given)
    if node.op == "+":
        return left.plus(right)
    if node.op == "-":
        return left.minus(right, given is not None)
    if node.op == ":":
        return left.times(right)
    if node.op == "*":
        return left.plus(right).plus(_fixed(left).times(_fixed(right)))
    if node.op == "/":
        all_left = _of_factors([tuple(dict.fromkeys(f for term in left.fixed() for f in term.factors))])
        return left.plus(all_left.times(_fixed(right)))
    raise FormulaError(f"{unparse(node)!r} has {node.op!r}, which joins no terms")


def _fixed(terms: _Terms) -> _Terms:
    return _Terms({term.key: term for term in terms.fixed()})


def _power(terms: _Terms, exponent: str) -> _Terms:
    if not exponent.strip("()").isdigit() or int(exponent.strip("()")) < 1:
        raise FormulaError(f"the power of a sum of terms must be a positive integer, got {exponent!r}")
    out, own = _fixed(terms), _fixed(terms)
    for _ in range(min(int(exponent.strip("()")), len(own.terms)) - 1):
        out = out.plus(out.times(own))
    return _Terms(out.terms, terms.intercept)


def _with_dot(text: str, dot: _Terms) -> str:
    """A text in which the mark inside a call or a random term is the fixed effects."""
    return text.replace(_MARK, _Terms({t.key: t for t in dot.fixed()}, dot.intercept).text())


def _special(node: Node, dot: _Terms) -> _Term | None:
    """A random term or an offset; None for any other node."""
    if isinstance(node, Unary) or (isinstance(node, Binary) and node.op not in ("|", "||")):
        return None
    text = _with_dot(unparse(node), dot)
    if "|" not in text and "offset" not in text:
        return None
    parts = parse_formula(f"y ~ 1 + {text}")
    if parts.rhs != "1" or not (parts.random or parts.offsets):
        return None
    specs = {
        (s.effects.removeprefix("1 + "), s.factors, s.structure, s.options, s.members, s.member_weights)
        for s in parts.random
    }
    return _Term((text,), frozenset({*specs, *(("offset", text) for text in parts.offsets)}), bool(parts.offsets))
