"""Formula text to its parts: responses, fixed effects, random-effects terms and offsets; no data are seen here.

Everything left of a bar and every fixed term is patsy's language. On top of it stand R's spellings: dotted names,
``^``, ``log(x)``, ``offset(x)``, ``cbind(a, b)``, and lme4's random terms.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, reduce
from tokenize import TokenError
from typing import Any

from mvmise_sm.core.covariance import registry
from mvmise_sm.exceptions import FormulaError
from mvmise_sm.formula.size import LONGEST_TEXT, TOO_DEEP, refuse_explosion, short
from mvmise_sm.formula.tree import (
    Atom,
    Binary,
    Node,
    Token,
    Unary,
    call_parts,
    is_name,
    parse,
    spell,
    split_arguments,
    tokenize,
    translate,
    unparse,
)

__all__ = ["FormulaParts", "RandomSpec", "expand_terms", "literal_options", "parse_formula"]


@dataclass(frozen=True, slots=True)
class RandomSpec:
    """One random-effects term ``(effects | factors)``.

    Attributes
    ----------
    effects : str
        Right-hand side for patsy, for example ``"1 + x"`` or ``"0 + x"``.
    factors : tuple of str
        Grouping expressions whose interaction is the grouping factor: ``("batch", "cask")`` for ``batch:cask``.
    structure : str
        Registered name of the covariance structure of the term's columns, ``"us"`` for plain parentheses.
    text : str
        The term as the user wrote it, for messages.
    options : tuple of (str, value)
        Keywords inside the structure's wrapper.
    members : tuple of str
        Columns of a multi-membership factor ``mm(a, b)``; empty for an ordinary one.
    member_weights : tuple of str
        Weight of each member, empty for equal ones.
    """

    effects: str
    factors: tuple[str, ...]
    structure: str
    text: str
    options: tuple[tuple[str, Any], ...] = ()
    members: tuple[str, ...] = ()
    member_weights: tuple[str, ...] = ()

    @property
    def group(self) -> str:
        """Name of the grouping factor, ``"batch:cask"``."""
        return ":".join(self.factors)


@dataclass(frozen=True, slots=True)
class FormulaParts:
    """A formula taken apart.

    Attributes
    ----------
    text : str
        The whole formula as the user wrote it.
    responses : tuple of str
        Response expressions: one, or several for ``a + b ~`` and ``cbind(a, b) ~``.
    response : str
        Left-hand side as one text.
    rhs : str
        Fixed effects, right-hand side only: the random terms and offsets are gone.
    random : tuple of RandomSpec
        Terms in formula order, with ``/``, ``*`` and ``||`` expanded; empty if the formula has none.
    offsets : tuple of str
        Expressions inside ``offset(...)``.
    """

    text: str
    responses: tuple[str, ...]
    response: str
    rhs: str
    random: tuple[RandomSpec, ...]
    offsets: tuple[str, ...]

    @property
    def fixed(self) -> str:
        """The two-sided formula without random terms and offsets."""
        return f"{self.response} ~ {self.rhs}"


def parse_formula(text: str) -> FormulaParts:
    """Take a mixed-model formula apart.

    Parameters
    ----------
    text : str
        For example ``"y ~ x + (1 + x | g) + (1 | a/b)"``.

    Returns
    -------
    FormulaParts

    Raises
    ------
    FormulaError
        If the text is not in the grammar; the sentence says where and what is allowed.
    """
    if not isinstance(text, str):
        raise FormulaError(f"a formula is a text such as 'y ~ x + (1 | g)', not {type(text).__name__}")
    if len(text) > LONGEST_TEXT:
        raise FormulaError(f"a formula has at most {LONGEST_TEXT:,} characters, found {len(text):,}")
    try:
        return _parts(text)
    except RecursionError:
        raise FormulaError(f"formula {short(text)}: {TOO_DEEP}") from None


@lru_cache(maxsize=512)
def _parts(text: str) -> FormulaParts:
    tokens = tokenize(text)
    tildes = [i for i, token in enumerate(tokens) if token.text == "~"]
    if len(tildes) != 1 or tildes[0] in (0, len(tokens) - 1):
        raise FormulaError(f"formula {text!r}: write a response, one '~' and the terms, as in 'y ~ x + (1 | g)'")
    response = tokens[: tildes[0]]
    tree = parse(tokens[tildes[0] + 1 :], text)
    _refuse_loose_bar(tree, text)
    collector = _Collector(text)
    rest = collector.prune(tree)
    random = tuple(dict.fromkeys(collector.random))
    return FormulaParts(
        text=text,
        responses=_responses(response, text),
        response=spell(response),
        rhs="1" if rest is None else unparse(rest),
        random=random,
        offsets=tuple(collector.offsets),
    )


@lru_cache(maxsize=512)
def expand_terms(rhs: str, columns: frozenset[str] = frozenset()) -> tuple:
    """Expand the right-hand side of a formula into patsy terms.

    Parameters
    ----------
    rhs : str
        Formula text without ``~``.
    columns : frozenset of str, optional
        Dotted names that are columns of the data.

    Returns
    -------
    tuple of patsy.Term
        Their factors keep the user's spelling as name.
    """
    from patsy import ModelDesc, PatsyError, Term

    code, quoted = translate(rhs, columns)
    refuse_explosion(rhs)
    try:
        terms = ModelDesc.from_formula("~ " + code).rhs_termlist
    except PatsyError as error:
        raise FormulaError(f"formula terms {rhs!r}: {error.message}") from None
    except SyntaxError as error:
        raise FormulaError(f"formula terms {rhs!r}: {error.msg}") from None
    except RecursionError:
        raise FormulaError(f"formula terms {short(rhs)}: {TOO_DEEP}") from None
    except (AssertionError, ValueError, TokenError) as error:
        raise FormulaError(f"formula terms {short(rhs)}: {str(error) or 'they cannot be read'}") from None
    if not quoted:
        return tuple(terms)
    return tuple(Term([named_factor(f.code, quoted) for f in term.factors]) for term in terms)


def named_factor(code: str, quoted: dict[str, str]) -> Any:
    """Return a patsy factor for `code` whose name shows columns as the user wrote them."""
    factor_class = _named_factor_class()
    try:
        factor = factor_class(code)
    except (TokenError, SyntaxError, ValueError, AssertionError) as error:
        raise FormulaError(f"{short(code)} is not a valid expression: {error}") from None
    for spelled, name in quoted.items():
        factor.shown = factor.shown.replace(spelled, name)
    return factor


@lru_cache(maxsize=1)
def _named_factor_class() -> Any:
    from patsy import EvalFactor

    class NamedFactor(EvalFactor):
        """A patsy factor that is shown under another name than its code, equal to others by its code."""

        def __init__(self, code: str) -> None:
            super().__init__(code)
            self.shown = self.code

        def name(self) -> str:
            return self.shown

    return NamedFactor


def _responses(tokens: tuple[Token, ...], text: str) -> tuple[str, ...]:
    call = call_parts(Atom(tokens))
    pieces = tuple(split_arguments(call[1])) if call and call[0] == "cbind" else tuple(split_arguments(tokens, "+"))
    if any(not piece for piece in pieces):
        raise FormulaError(f"formula {text!r}: an outcome is missing left of the '~'")
    return tuple(spell(piece) for piece in pieces)


def _refuse_loose_bar(tree: Node, text: str) -> None:
    if isinstance(tree, Binary) and tree.op in ("|", "||") and not tree.grouped:
        left, right = unparse(tree.left), unparse(tree.right)
        raise FormulaError(
            f"formula {text!r}: put random terms in parentheses, for example '... + ({left} {tree.op} {right})'; "
            f"without them everything right of the '~' would be a random effect"
        )


class _Collector:
    """Takes random terms and offsets out of a tree."""

    def __init__(self, text: str):
        self.text = text
        self.random: list[RandomSpec] = []
        self.offsets: list[str] = []

    def prune(self, node: Node) -> Node | None:
        """Return `node` without random terms and offsets, None if nothing is left."""
        if self._take(node):
            return None
        if isinstance(node, Binary) and node.op in "+-":
            left = self.prune(node.left)
            right = node.right
            if node.op == "-":
                self._refuse(right)
                return Unary("-", right) if left is None else replace(node, left=left)
            pruned = self.prune(right)
            if left is None or pruned is None:
                return pruned if left is None else left
            return replace(node, left=left, right=pruned)
        if isinstance(node, Unary) and node.op == "+":
            return self.prune(node.operand)
        self._refuse(node)
        return node

    def _take(self, node: Node) -> bool:
        """Store `node` if it is a random term or an offset."""
        if isinstance(node, Binary) and node.op in ("|", "||"):
            self.random += _random_specs(node, "us", self.text)
            return True
        call = call_parts(node)
        if call is None:
            return False
        name, inner = call
        if name == "offset":
            if not inner:
                raise FormulaError(f"formula {self.text!r}: offset() needs an expression")
            self.offsets.append(spell(inner))
            return True
        bar = _bar_inside(inner) if name in registry.names() else False
        if bar:
            self._take_structured(name, inner, node)
        return bar

    def _take_structured(self, name: str, inner: tuple[Token, ...], node: Node) -> None:
        first, *arguments = split_arguments(inner)
        options = literal_options(arguments, unparse(node))
        bar = parse(first, self.text)
        if not isinstance(bar, Binary) or bar.op != "|":
            raise FormulaError(f"{unparse(node)}: write {name}(terms | group)")
        self.random += _random_specs(bar, name, self.text, options)

    def _refuse(self, node: Node) -> None:
        """Fail if a random term or an offset hides where it has no meaning."""
        if self._holds_special(node):
            raise FormulaError(
                f"formula {self.text!r}: random terms and offset() can only be added, as in 'y ~ x + (1 | g)', "
                f"not used inside {unparse(node)}"
            )

    def _holds_special(self, node: Node) -> bool:
        if isinstance(node, Binary):
            return node.op in ("|", "||") or self._holds_special(node.left) or self._holds_special(node.right)
        if isinstance(node, Unary):
            return self._holds_special(node.operand)
        call = call_parts(node)
        return call is not None and (call[0] == "offset" or (call[0] in registry.names() and _bar_inside(call[1])))


_LITERALS: dict[str, Any] = {"True": True, "False": False, "TRUE": True, "FALSE": False, "None": None}


def literal_options(arguments: Sequence[tuple[Token, ...]], shown: str) -> tuple[tuple[str, Any], ...]:
    """Keywords ``name=value`` of a wrapper, with a truth value, number or text as value.

    Raises
    ------
    FormulaError
        If an argument has another form.
    """
    out: list[tuple[str, Any]] = []
    for tokens in arguments:
        if len(tokens) != 3 or tokens[0].kind != "name" or tokens[1].text != "=":
            raise FormulaError(
                f"{shown}: after the term only options such as hom=True are allowed, not {spell(tokens)!r}"
            )
        name, value = tokens[0].text, tokens[2]
        if value.kind == "number":
            out.append((name, float(value.text)))
        elif value.kind == "string":
            out.append((name, value.text[1:-1]))
        elif value.text in _LITERALS:
            out.append((name, _LITERALS[value.text]))
        else:
            raise FormulaError(
                f"{shown}: the option {name} must be True, False, a number or a text, not {value.text!r}"
            )
    return tuple(out)


def _bar_inside(tokens: tuple[Token, ...]) -> bool:
    """Whether a bar stands outside all brackets of `tokens`."""
    return any(len(list(split_arguments(tokens, bar))) > 1 for bar in ("|", "||"))


def _random_specs(
    node: Binary, structure: str, text: str, options: tuple[tuple[str, Any], ...] = ()
) -> list[RandomSpec]:
    """Expand one ``(effects | group)`` node; ``||`` gives one term per formula term, as lme4 documents."""
    effects = unparse(replace(node.left, grouped=False))
    group = unparse(replace(node.right, grouped=False))
    shown = f"({effects} {node.op} {group})"
    for side in (node.left, node.right):
        if isinstance(side, Binary) and side.op in ("|", "||"):
            raise FormulaError(f"formula {text!r}: a random term has one bar, found {shown}")
    if structure != "us":
        extra = "".join(f", {name}={value!r}" for name, value in options)
        shown = f"{structure}({effects} {node.op} {group}{extra})"
    members, weights = _membership(node.right, shown)
    grouping = [(_membership_name(members),)] if members else _group_factors(group, shown)
    if structure != "us" and registry.needs_coordinates(structure):
        effects = f"0 + {effects}"
    terms = expand_terms(effects)
    if not terms:
        raise FormulaError(f"random term {shown} has no effects left of the bar; write (1 | {group}) for an intercept")
    split = [f"0 + {':'.join(map(_factor_text, term.factors))}" if term.factors else "1" for term in terms]
    pieces = split if node.op == "||" else [effects]
    return [
        RandomSpec(piece, factors, structure, _shown(piece, factors, structure, options), options, members, weights)
        for factors in grouping
        for piece in pieces
    ]


def _shown(piece: str, factors: tuple[str, ...], structure: str, options: tuple[tuple[str, Any], ...]) -> str:
    """A random term as text; plain parentheses for the two structures that have a spelling of their own."""
    group = ":".join(factors)
    if structure in ("us", "diag") and not options:
        return f"({piece} | {group})"
    extra = "".join(f", {name}={value!r}" for name, value in options)
    return f"{structure}({piece} | {group}{extra})"


def _membership_name(members: tuple[str, ...]) -> str:
    return f"mm({', '.join(members)})"


def _membership(node: Node, shown: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Members and weights of ``mm(a, b, weights=(u, v))`` right of a bar, empty for anything else."""
    call = call_parts(replace(node, grouped=False))
    if call is None or call[0] != "mm":
        return (), ()
    members: list[str] = []
    weights: tuple[str, ...] = ()
    for tokens in split_arguments(call[1]):
        if len(tokens) > 2 and tokens[0].text == "weights" and tokens[1].text == "=":
            inner = tokens[2:]
            if inner[0].text not in ("(", "["):
                raise FormulaError(f"{shown}: write weights=(w1, w2), one for each member")
            weights = tuple(spell(part) for part in split_arguments(inner[1:-1]) if part)
        elif any(token.text == "=" for token in tokens):
            raise FormulaError(f"{shown}: mm() takes columns and weights=(w1, w2), not {spell(tokens)!r}")
        else:
            members.append(spell(tokens))
    if not members or not all(members):
        raise FormulaError(f"{shown}: mm() needs the columns that hold the members, as in mm(s1, s2)")
    if weights and len(weights) != len(members):
        raise FormulaError(f"{_membership_name(tuple(members))} has {len(members)} members and {len(weights)} weights.")
    return tuple(members), weights


def _factor_text(factor: Any) -> str:
    """Formula text of a factor: as it is shown, with backticks around column names that need them."""
    odd = [name for name in re.findall(r"Q\('([^']*)'\)", factor.code) if not is_name(name)]
    return reduce(
        lambda text, name: text.replace(f"Q({name!r})", f"`{name}`"), odd, factor.code if odd else factor.name()
    )


def _group_factors(group: str, shown: str) -> list[tuple[str, ...]]:
    """Expand ``a/b``, ``a*b`` and ``a:b`` right of the bar as patsy expands terms."""
    terms = expand_terms("0 + " + group)
    if not terms or any(not term.factors for term in terms):
        raise FormulaError(f"random term {shown}: the right side of the bar must name a grouping factor")
    return [tuple(factor.name() for factor in term.factors) for term in terms]
