"""Text of a residual structure, ``type(level | subject)``, to its parts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from mvmise_sm.core.covariance import registry
from mvmise_sm.exceptions import FormulaError
from mvmise_sm.formula.parts import literal_options
from mvmise_sm.formula.tree import Binary, Node, call_parts, parse, split_arguments, tokenize, unparse

__all__ = ["ResidualSpec", "parse_residual"]


@dataclass(frozen=True, slots=True)
class ResidualSpec:
    """A residual structure as the user wrote it.

    Attributes
    ----------
    text : str
    structure : str
        Registered name.
    levels : tuple of str
        Expression of the level, or of the coordinates for structures of distance.
    subject : str or None
        Expression of the subject; None where every row is its own.
    group : str or None
        Expression of a group of subjects with parameters of their own.
    options : tuple of (str, value)
    """

    text: str
    structure: str
    levels: tuple[str, ...]
    subject: str | None
    group: str | None
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def distances(self) -> bool:
        """Whether what stands left of the bar are coordinates."""
        return self.structure in registry.DISTANCES

    @property
    def nugget(self) -> bool:
        """Whether a share of the variance is the row's own."""
        return bool(dict(self.options).get("nugget", False))


def parse_residual(text: Any) -> ResidualSpec | None:
    """Take ``residual=`` apart; None for ``"hom"`` and None, independent residuals of one variance.

    Raises
    ------
    FormulaError
        If the text is no residual structure; the sentence says what is missing.
    """
    if text is None:
        return None
    if not isinstance(text, str):
        raise FormulaError(f"residual must be a text such as 'us(visit | id)', not {type(text).__name__}")
    if text == "hom":
        return None
    names = registry.residual_names()
    call = call_parts(parse(tokenize(text), text)) if text.strip() else None
    if call is None or call[0] not in names:
        found = repr(call[0]) if call else repr(text)
        raise FormulaError(
            f"residual={text!r}: {found} is no residual structure; write type(level | subject) with one of "
            f"{', '.join(names)}, or 'hom'"
        )
    name, inner = call
    first, *arguments = split_arguments(inner)
    options = literal_options(arguments, f"residual={text!r}")
    allowed = ("nugget",) if name in registry.DISTANCES else ()
    for option, value in options:
        if option not in allowed:
            known = f"it takes {', '.join(allowed)}" if allowed else "it takes none"
            raise FormulaError(f"residual={text!r}: unknown option {option!r}; {known}")
        if not isinstance(value, bool):
            raise FormulaError(f"residual={text!r}: {option} must be True or False, not {value!r}")
    tree = parse(first, text) if first else None
    if name == "diag" and tree is not None and not (isinstance(tree, Binary) and tree.op == "|"):
        return ResidualSpec(text, name, (unparse(tree),), None, None, options)
    if not isinstance(tree, Binary) or tree.op != "|":
        level = unparse(tree) if tree is not None else "visit"
        raise FormulaError(f"residual={text!r} needs the subject: {name}({level} | subject).")
    if isinstance(tree.left, Binary) and tree.left.op == "|":
        raise FormulaError(
            f"residual={text!r}: one bar stands between level and subject; parameters of their own by group are "
            f"{name}(level | group/subject)"
        )
    subject, group = tree.right, None
    if isinstance(subject, Binary) and subject.op == "/":
        group, subject = unparse(replace(subject.left, grouped=False)), subject.right
    return ResidualSpec(text, name, _levels(name, tree.left, text), unparse(subject), group, options)


def _levels(name: str, node: Node, text: str) -> tuple[str, ...]:
    if name not in registry.DISTANCES:
        if isinstance(node, Binary) and node.op in "+*:":
            raise FormulaError(f"residual={text!r}: one factor stands left of the bar, found {unparse(node)!r}")
        return (unparse(replace(node, grouped=False)),)
    if isinstance(node, Binary) and node.op == "+":
        return (*_levels(name, node.left, text), *_levels(name, node.right, text))
    return (unparse(replace(node, grouped=False)),)
