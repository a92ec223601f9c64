"""Formula text to a parse tree: a small lexer that knows R's dotted names and an operator-precedence parser."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from keyword import iskeyword

from mvmise_sm.exceptions import FormulaError

__all__ = ["Atom", "Binary", "Node", "Token", "Unary", "call_parts", "parse", "tokenize", "translate", "unparse"]

_TOKEN = re.compile(
    r"""(?P<space>\s+)
      | (?P<quoted>`[^`]+`)
      | (?P<string>[rRbBuU]?(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'))
      | (?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)
      | (?P<name>(?:[^\W\d]|\.(?=[^\W\d]))[\w.]*)
      | (?P<operator>\*\*|\|\||//|<=|>=|==|!=|%\w*%|[-+*/:~|^()\[\]{},=<>%@&!])""",
    re.VERBOSE,
)
_NAME = re.compile(r"(?:[^\W\d]|\.(?=[^\W\d]))[\w.]*")
_PRECEDENCE = {"~": 0, "|": 1, "||": 1, "+": 2, "-": 2, "*": 3, "/": 3, "%in%": 4, ":": 5, "**": 7, "^": 7}
_UNARY = 3
_OPENING = {"(": ")", "[": "]", "{": "}"}
_CONSTANTS = {"TRUE": "True", "FALSE": "False", "True": "True", "False": "False", "NULL": "None", "None": "None"}
# R's functions that a column may be called like, and those with a dot: written so where they are called
_CALLS = {name: f"R_{name}" for name in ("c", "cut", "dummy", "ifelse", "ns", "pmax", "pmin", "relevel", "scale")}
_CALLS |= {"as.numeric": "R_as_numeric", "as.integer": "R_as_numeric", "as.character": "factor"}
_MEMBER = "<< R_in <<"


@dataclass(frozen=True, slots=True)
class Token:
    """One lexical unit: its kind (quoted, string, number, name, operator), text and place in the formula."""

    kind: str
    text: str
    start: int


@dataclass(frozen=True, slots=True)
class Atom:
    """A Python expression that the formula language leaves alone; `tokens` has at least one element."""

    tokens: tuple[Token, ...]
    grouped: bool = False


@dataclass(frozen=True, slots=True)
class Unary:
    """A sign in front of an operand."""

    op: str
    operand: Node
    grouped: bool = False


@dataclass(frozen=True, slots=True)
class Binary:
    """An operator between two operands; `grouped` tells that the user put parentheses around it."""

    op: str
    left: Node
    right: Node
    grouped: bool = False


Node = Atom | Unary | Binary


def tokenize(text: str) -> tuple[Token, ...]:
    """Split formula text into tokens, white space left out.

    Raises
    ------
    FormulaError
        If a character belongs to no token.
    """
    tokens = []
    place = 0
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            raise FormulaError(f"formula {text!r}: unexpected character {text[place]!r} at position {place + 1}")
        if match.lastgroup != "space":
            tokens.append(Token(str(match.lastgroup), match.group(), place))
        place = match.end()
    return tuple(tokens)


class _Parser:
    """Operator-precedence parser over a token list."""

    def __init__(self, tokens: tuple[Token, ...], text: str):
        self.tokens = tokens
        self.text = text
        self.place = 0

    def peek(self) -> Token | None:
        return self.tokens[self.place] if self.place < len(self.tokens) else None

    def fail(self, message: str) -> FormulaError:
        return FormulaError(f"formula {self.text!r}: {message}")

    def expression(self, lowest: int) -> Node:
        left = self.operand()
        while (token := self.peek()) is not None and token.kind == "operator" and token.text in _PRECEDENCE:
            precedence = _PRECEDENCE[token.text]
            if precedence < lowest:
                break
            self.place += 1
            # between terms R's %in% nests: a within b is a:b with the coding that b leaves to it
            operator = ":" if token.text == "%in%" else token.text
            left = Binary(operator, left, self.expression(precedence + 1))
        return left

    def operand(self) -> Node:
        token = self.peek()
        if token is None:
            raise self.fail("it ends where a term should follow")
        if token.kind == "operator" and token.text in "+-":
            self.place += 1
            return Unary(token.text, self.expression(_UNARY))
        if token.kind == "operator" and token.text == "(":
            self.place += 1
            inner = self.expression(1)
            closing = self.peek()
            if closing is None or closing.text != ")":
                raise self.fail(f"the parenthesis at position {token.start + 1} is not closed")
            self.place += 1
            return replace(inner, grouped=True)
        return self.atom()

    def atom(self) -> Atom:
        first = self.place
        open_brackets: list[str] = []
        while (token := self.peek()) is not None:
            if token.kind == "operator":
                if not open_brackets and (token.text in _PRECEDENCE or token.text == ")"):
                    break
                if token.text in _OPENING:
                    open_brackets.append(_OPENING[token.text])
                elif token.text in (")", "]", "}") and (not open_brackets or open_brackets.pop() != token.text):
                    raise self.fail(f"unmatched {token.text!r} at position {token.start + 1}")
            self.place += 1
        if open_brackets:
            raise self.fail(f"a bracket opened after position {self.tokens[first].start + 1} is not closed")
        if self.place == first:
            found = self.tokens[first]
            raise self.fail(f"found {found.text!r} at position {found.start + 1} where a term should stand")
        return Atom(self.tokens[first : self.place])


def parse(tokens: tuple[Token, ...], text: str) -> Node:
    """Parse tokens into a tree.

    Raises
    ------
    FormulaError
        If brackets do not match, an operand is missing, or something is left over.
    """
    parser = _Parser(tokens, text)
    tree = parser.expression(0)
    left_over = parser.peek()
    if left_over is not None:
        raise parser.fail(f"unexpected {left_over.text!r} at position {left_over.start + 1}")
    return tree


def call_parts(atom: Node) -> tuple[str, tuple[Token, ...]] | None:
    """Return the function name and the tokens between the parentheses if `atom` is one call, else None."""
    if not isinstance(atom, Atom) or len(atom.tokens) < 3:
        return None
    head, opening, *_, closing = atom.tokens
    if head.kind != "name" or opening.text != "(" or closing.text != ")":
        return None
    depth = 0
    for token in atom.tokens[1:-1]:
        depth += (token.text in _OPENING) - (token.text in (")", "]", "}"))
        if depth == 0:
            return None
    return head.text, atom.tokens[2:-1]


def split_arguments(tokens: tuple[Token, ...], separator: str = ",") -> Iterator[tuple[Token, ...]]:
    """Yield the runs of tokens between separators outside all brackets."""
    depth, first = 0, 0
    for i, token in enumerate(tokens):
        if token.kind == "operator":
            depth += (token.text in _OPENING) - (token.text in (")", "]", "}"))
            if depth == 0 and token.text == separator:
                yield tokens[first:i]
                first = i + 1
    yield tokens[first:]


def _spell(tokens: tuple[Token, ...], column: Callable[[str], str], called: Callable[[str], str] | None = None) -> str:
    """Spelling of tokens, column names that are no identifiers written by `column`.

    With `called`, which writes the names of functions, it is Python's.
    """
    out: list[str] = []
    for i, token in enumerate(tokens):
        text = token.text
        if token.kind == "quoted":
            text = column(text[1:-1])
        elif token.kind == "name":
            follows = tokens[i + 1].text if i + 1 < len(tokens) else ""
            if follows == "(" and text == "as.factor":
                text = "factor"
            elif follows == "(" and called is not None and text in _CALLS:
                text = called(text)
            elif follows == "=" and called is not None:
                text = text.replace(".", "_")
            else:
                text = column(text)
            text = _CONSTANTS.get(text, text)
        elif text == "%in%" and called is not None:
            text = _MEMBER
        elif text == "^":
            text = "**"
        tight = i == 0 or text in (")", "]", "}", ",") or tokens[i - 1].text in ("(", "[", "{")
        tight = tight or (text in ("(", "[") and tokens[i - 1].kind == "name") or text.startswith(".")
        out.append(text if tight else " " + text)
    return "".join(out)


def is_python(name: str) -> bool:
    """Whether a (possibly dotted) name can stand in Python code as it is."""
    return all(part.isidentifier() and not iskeyword(part) for part in name.lstrip(".").split("."))


def translate(text: str, columns: frozenset[str] = frozenset()) -> tuple[str, dict[str, str]]:
    """Rewrite formula text so that patsy can parse it.

    A name that Python cannot hold, or a dotted name in `columns`, becomes ``Q('name')``; ``^`` becomes ``**``.

    Returns
    -------
    text : str
        The text for patsy.
    quoted : dict
        ``Q('name')`` -> name for every name rewritten.
    """
    quoted: dict[str, str] = {}

    def column(name: str) -> str:
        if name in _CONSTANTS and name not in columns:
            return name
        if is_python(name) and not ("." in name and name in columns):
            return name
        spelled = f"Q({name!r})"
        quoted[spelled] = name
        return spelled

    def called(name: str) -> str:
        quoted[f"{_CALLS[name]}("] = f"{name}("
        return _CALLS[name]

    code = _spell(tokenize(text), column, called)
    if _MEMBER in code:
        quoted[_MEMBER] = "%in%"
    return code, quoted


def is_name(text: str) -> bool:
    """Whether a text is one (possibly dotted) name of the formula language, not a number or several tokens."""
    return _NAME.fullmatch(text) is not None


def _plain(name: str) -> str:
    return name if is_name(name) else f"`{name}`"


def spell(tokens: tuple[Token, ...]) -> str:
    """Formula text of tokens with canonical spacing; dotted names stay as the user wrote them."""
    return _spell(tokens, _plain)


def unparse(node: Node) -> str:
    """Formula text of a tree, with the parentheses that the user wrote."""
    if isinstance(node, Atom):
        text = spell(node.tokens)
    elif isinstance(node, Unary):
        text = node.op + unparse(node.operand)
    else:
        op = "**" if node.op == "^" else node.op
        space = "" if op in (":", "/", "**") else " "
        text = f"{unparse(node.left)}{space}{op}{space}{unparse(node.right)}"
    return f"({text})" if node.grouped else text
