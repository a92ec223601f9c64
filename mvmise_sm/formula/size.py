"""How large a formula may be: bounds that fail with a sentence before time, memory or the stack run out."""

from __future__ import annotations

from math import comb

from mvmise_sm.exceptions import FormulaError
from mvmise_sm.formula.tree import Atom, Node, Unary, parse, tokenize, unparse

__all__ = ["LONGEST_TEXT", "TOO_DEEP", "refuse_explosion", "short"]

LONGEST_TEXT = 1_000_000
TOO_DEEP = "it is too long or nested too deeply to be read; sum columns in the data, or leave parentheses out"
_MOST_TERMS = 10_000
_MOST_DIGITS = 10
_SHOWN = 120


def short(text: str) -> str:
    """A text as messages repeat it."""
    return repr(text) if len(text) <= _SHOWN else f"{text[:_SHOWN]!r}..."


def refuse_explosion(rhs: str) -> None:
    """Fail before ``*`` and ``**`` make more terms than a machine can hold.

    Parameters
    ----------
    rhs : str
        Right-hand side of a formula.

    Raises
    ------
    FormulaError
    """
    try:
        count = _expanded_count(parse(tokenize(rhs), rhs))
    except RecursionError:
        raise FormulaError(f"formula terms {short(rhs)}: {TOO_DEEP}") from None
    if count > _MOST_TERMS:
        raise FormulaError(
            f"formula terms {short(rhs)}: they expand to about {count:.3g} terms, at most {_MOST_TERMS:,} are allowed"
        )


def _expanded_count(node: Node) -> float:
    """Number of terms that a tree expands to, an upper bound."""
    if isinstance(node, Atom):
        return 1.0
    if isinstance(node, Unary):
        return _expanded_count(node.operand)
    left, right = _expanded_count(node.left), _expanded_count(node.right)
    if node.op in ("**", "^"):
        power = unparse(node.right)
        return _choices(left, int(power)) if power.isdecimal() and len(power) < _MOST_DIGITS else left
    if node.op in ("*", "/"):
        return left * right + left + right
    return left * right if node.op == ":" else left + right


def _choices(terms: float, power: int) -> float:
    """Number of products of at most `power` of so many terms."""
    if terms > _MOST_TERMS:
        return terms
    total = 0.0
    for k in range(1, min(power, int(terms)) + 1):
        total += comb(int(terms), k)
        if total > _MOST_TERMS:
            break
    return total
