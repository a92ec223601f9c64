"""R's ``update``: a formula in which ``.`` stands for the parts of an old one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mvmise_sm.exceptions import FormulaError
from mvmise_sm.formula.parts import expand_terms, parse_formula
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
    """The whole formula that `new` makes of `old`.

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
    own = [(sign, unparse(node)) for sign, node in _items(parse(tokenize(old.partition("~")[2]), old))]
    fixed = [(sign, text) for sign, text in own if not _is_special(text)]
    whole = _joined(fixed) or "1"
    marked = _DOT.sub(_MARK, right)
    items: list[tuple[str, str]] = []
    for sign, node in _items(parse(tokenize(marked), new)):
        if isinstance(node, Atom) and unparse(node) == _MARK and sign == "+":
            items += own
            continue
        text = unparse(node).replace(_MARK, f"({whole})")
        if sign == "-" and _is_special(text):
            items = _without(items, text)
        else:
            if sign == "-":
                _check_present(items, text)
            items.append((sign, text))
    return f"{response} ~ {_joined([i for i in items if not _is_special(i[1])], items)}"


def _joined(items: list[tuple[str, str]], everything: list[tuple[str, str]] | None = None) -> str:
    """Text of signed items; fixed ones first, so that what is taken away is taken from all of them."""
    rest = [] if everything is None else [item for item in everything if item not in items]
    out = ""
    for sign, text in [*items, *rest]:
        out += f" {sign} {text}" if out else text if sign == "+" else f"1 - {text}"
    return out


def _items(node: Node) -> list[tuple[str, Node]]:
    """Terms of a sum with their signs."""
    if isinstance(node, Binary) and node.op in "+-" and not node.grouped:
        turned = _items(node.right)
        if node.op == "-":
            turned = [("-" if sign == "+" else "+", inner) for sign, inner in turned]
        return [*_items(node.left), *turned]
    if isinstance(node, Unary) and node.op in "+-" and not node.grouped:
        inner = _items(node.operand)
        return inner if node.op == "+" else [("-" if sign == "+" else "+", item) for sign, item in inner]
    return [("+", node)]


def _is_special(text: str) -> bool:
    """Whether a term is a random term or an offset."""
    parts = parse_formula(f"y ~ 1 + {text}") if "|" in text or "offset" in text else None
    return parts is not None and bool(parts.random or parts.offsets) and parts.rhs == "1"


def _check_present(items: list[tuple[str, str]], text: str) -> None:
    """Fail where none of the fixed terms that `text` takes away is among the items."""

    def terms(texts: list[str]) -> dict[frozenset[str], str]:
        found = expand_terms(parse_formula(f"y ~ 1 + {' + '.join(texts)}").rhs) if texts else []
        return {frozenset(term.name().split(":")): term.name() for term in found if term.factors}

    wanted = terms([text])
    known = terms([inner for sign, inner in items if sign == "+" and not _is_special(inner)])
    if wanted and not wanted.keys() & known.keys():
        raise FormulaError(
            f"update: {text} is not a term of the model; its terms are {', '.join(known.values()) or '1'}"
        )


def _without(items: list[tuple[str, str]], text: str) -> list[tuple[str, str]]:
    """The items without a random term or an offset."""

    def meaning(term: str) -> set:
        parts = parse_formula(f"y ~ 1 + {term}")
        specs = {(s.effects.removeprefix("1 + "), s.factors, s.structure, s.options) for s in parts.random}
        return specs | set(parts.offsets)

    wanted = meaning(text)
    special = [item for item in items if _is_special(item[1])]
    gone = [item for item in special if meaning(item[1]) <= wanted]
    if not gone:
        known = ", ".join(item[1] for item in special) or "none"
        raise FormulaError(f"update: {text} is not a term of the model; its random terms and offsets are {known}")
    return [item for item in items if item not in gone]
