"""blme's prior text, `"g.1 ~ wishart(df = level.dim + 2)"`: tokens, a recursive-descent parser, and its expressions.

Grammar::

    priors     := "list" "(" item ("," item)* ")" | item
    item       := [name "~"] distribution
    distribution := word ["(" [argument ("," argument)*] ")"] | "flat" | "NULL"
    argument   := [word "="] sum
    sum        := product (("+" | "-") product)*
    product    := unary (("*" | "/") unary)*
    unary      := ("+" | "-") unary | power
    power      := atom [("^" | "**") unary]
    atom       := number | string | word | word "(" arguments ")" | "(" sum ")"
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from mvmise_sm.exceptions import OptionError
from mvmise_sm.priors.base import DIMENSION_NAMES, ROLES, Prior

if TYPE_CHECKING:
    from mvmise_sm.priors.base import Hyperparameters

__all__ = ["Expression", "PriorSyntaxError", "PriorText", "parse_priors", "with_variables"]

_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?L?)"
    r"|(?P<string>\"[^\"]*\"|'[^']*')"
    r"|(?P<word>`[^`]+`|[A-Za-z.][A-Za-z0-9._]*)"
    r"|(?P<sign>\*\*|[-+*/^(),=~:]))"
)
_WORD = re.compile(r"[A-Za-z.][A-Za-z0-9._]*")
_CONSTANTS = {
    "TRUE": True,
    "True": True,
    "FALSE": False,
    "False": False,
    "Inf": math.inf,
    "inf": math.inf,
    "pi": math.pi,
}
_WORDS = ("sd", "var", "cov", "sqrt", "none", "log", "dev")


_SHOWN = 60  # characters of the text that a message shows on either side
_MOST_VALUES = 1_000_000


class PriorSyntaxError(OptionError):
    """Prior text that cannot be read; the message shows the text and points at the character.

    Attributes
    ----------
    text : str
    position : int
        Index of the character in `text`.
    """

    def __init__(self, problem: str, text: str, position: int) -> None:
        first = max(position - _SHOWN, 0)
        shown = text[first : position + _SHOWN]
        super().__init__(f"{problem}, at character {position + 1}:\n    {shown}\n    {' ' * (position - first)}^")
        self.text = text
        self.position = position


class PriorText(str):
    """Text of a prior with the values of the caller's variables that it names.

    Attributes
    ----------
    variables : dict
        Name -> number or array.
    """

    variables: Mapping[str, Any] = MappingProxyType({})


def with_variables(given: Any, lookup: Callable[[str], Any]) -> Any:
    """A prior keyword whose texts carry the numbers that their words are at the caller; other values as they are.

    Parameters
    ----------
    given : Prior, str, dict, sequence or None
    lookup : callable
        Name -> value; KeyError where there is none.
    """
    if isinstance(given, str) and not isinstance(given, PriorText):
        found = {}
        for word in dict.fromkeys(_WORD.findall(given)):
            try:
                value = np.asarray(lookup(word))
            except (KeyError, ValueError, TypeError):
                continue
            if value.dtype.kind in "iuf" and value.size:
                found[word] = float(value) if value.ndim == 0 else value.astype(float)
        if not found:
            return given
        out = PriorText(given)
        out.variables = found
        return out
    if isinstance(given, Mapping):
        return {key: with_variables(value, lookup) for key, value in given.items()}
    if isinstance(given, (list, tuple)):
        return [with_variables(value, lookup) for value in given]
    return given


@dataclass(frozen=True)
class Expression:
    """A hyperparameter written as text; called with the dimensions, it returns its value."""

    text: str
    node: tuple

    def __call__(self, names: Hyperparameters) -> Any:
        """Return the value at given dimensions."""
        return _evaluate(self.node, names, self.text)

    def __repr__(self) -> str:
        return f"<{self.text}>"


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    position: int


def _tokens(text: str) -> list[_Token]:
    out, position = [], 0
    end = len(text.rstrip())
    while position < end:
        match = _TOKEN.match(text, position)
        if match is None:
            start = position + len(text[position:]) - len(text[position:].lstrip())
            raise PriorSyntaxError(f"unexpected character {text[start]!r} in a prior", text, start)
        kind = str(match.lastgroup)
        out.append(_Token(kind, match.group(kind), match.start(kind)))
        position = match.end()
    out.append(_Token("end", "", end))
    return out


def parse_priors(text: str, role: str, classes: dict[str, type[Prior]]) -> list[tuple[str | None, Prior | None]]:
    """Read one prior or a list of priors.

    Parameters
    ----------
    text : str
        A `PriorText` may name the caller's variables.
    role : {"cov", "fixef", "resid"}
    classes : dict
        Distribution name -> prior class with this role.

    Returns
    -------
    list of (name or None, Prior or None)
        The name left of "~" (a grouping factor or a coefficient), and the prior (None for flat).

    Raises
    ------
    PriorSyntaxError
        If the text cannot be read.
    """
    try:
        return _Parser(text, role, classes).priors()
    except RecursionError:
        raise PriorSyntaxError("the text of a prior is nested too deeply", text, 0) from None


class _Parser:
    def __init__(self, text: str, role: str, classes: dict[str, type[Prior]]) -> None:
        self.text, self.role, self.classes = text, role, classes
        self.variables = text.variables if isinstance(text, PriorText) else {}
        self.target = None
        tilde = text.find("~")
        # names left of "~" may be anything a model calls a factor or a coefficient, so one item is split first
        if tilde >= 0 and text.count("~") == 1 and not re.match(r"\s*(list|c)\s*\(", text):
            self.target = text[:tilde].strip().strip("`")
            if not self.target:
                raise PriorSyntaxError("expected a name before '~'", text, tilde)
            self.tokens = _tokens(" " * (tilde + 1) + text[tilde + 1 :])
        else:
            self.tokens = _tokens(text)
        self.index = 0

    @property
    def token(self) -> _Token:
        return self.tokens[self.index]

    def fail(self, problem: str, position: int | None = None) -> NoReturn:
        raise PriorSyntaxError(problem, self.text, self.token.position if position is None else position)

    def accept(self, *signs: Any) -> _Token | None:
        if self.token.kind == "sign" and self.token.text in signs:
            self.index += 1
            return self.tokens[self.index - 1]
        return None

    def expect(self, sign: str, *others: Any) -> None:
        if not self.accept(sign):
            found = repr(self.token.text) if self.token.text else "the end of the text"
            self.fail(f"expected {' or '.join(repr(s) for s in (sign, *others))}, found {found}")

    def word(self, what: str) -> _Token:
        if self.token.kind != "word":
            found = repr(self.token.text) if self.token.text else "the end of the text"
            self.fail(f"expected {what}, found {found}")
        self.index += 1
        return self.tokens[self.index - 1]

    def priors(self) -> list[tuple[str | None, Prior | None]]:
        if self.target is None and self.token.text == "list" and self.tokens[self.index + 1].text == "(":
            self.index += 2
            out = [self.item()]
            while self.accept(","):
                out.append(self.item())
            self.expect(")")
        else:
            out = [self.item()]
        if self.token.kind != "end":
            self.fail(f"unexpected {self.token.text!r} after the prior")
        return out

    def item(self) -> tuple[str | None, Prior | None]:
        name = self.target
        ahead = self.index
        while self.tokens[ahead].kind in ("word", "number") or self.tokens[ahead].text == ":":
            ahead += 1
        if name is None and ahead > self.index and self.tokens[ahead].text == "~":
            name = "".join(t.text.strip("`") for t in self.tokens[self.index : ahead])
            self.index = ahead + 1
        return name, self.distribution()

    def distribution(self) -> Prior | None:
        token = self.word(f"the name of a {ROLES[self.role]} prior")
        if token.text in ("flat", "NULL", "None"):
            if self.accept("("):
                self.expect(")")
            return None
        if token.text not in self.classes:
            names = ", ".join([*self.classes, "flat"])
            self.fail(f"unknown {ROLES[self.role]} prior {token.text!r} (known: {names})", token.position)
        cls = self.classes[token.text]
        if self.role not in cls.positions:
            self.fail(f"{token.text} cannot be written as text, use the class {cls.__name__}", token.position)
        arguments = self.arguments(cls) if self.accept("(") else {}
        try:
            return cls(**arguments)
        except ValueError as error:
            self.fail(str(error).rstrip("."), token.position)

    def arguments(self, cls: type[Prior]) -> dict[str, Any]:
        names = [*cls.positions[self.role], *_named_only(cls, self.role)]
        allowed = {n.replace("_", "."): n for n in names} | {n: n for n in names}
        out: dict[str, Any] = {}
        free = list(cls.positions[self.role])
        if self.accept(")"):
            return out
        while True:
            position = self.token.position
            name = None
            if self.token.kind == "word" and self.tokens[self.index + 1].text == "=":
                if self.token.text not in allowed:
                    known = ", ".join(n.replace("_", ".") for n in names)
                    self.fail(f"{cls.name} has no argument {self.token.text!r} (known: {known})")
                name = allowed[self.token.text]
                self.index += 2
            else:
                name = next((n for n in free if n not in out), None)
                if name is None:
                    self.fail(f"too many arguments for {cls.name}")
            if name in out:
                self.fail(f"argument {name.replace('_', '.')!r} is given twice", position)
            start = self.token.position
            node = self.sum(set(names))
            out[name] = self.value(node, start)
            if self.accept(")"):
                return out
            self.expect(",", ")")

    def value(self, node: tuple[Any, ...], start: int) -> Any:
        """A constant where the expression is one, an `Expression` where it needs the dimensions."""
        text = self.text[start : self.token.position].strip().rstrip(",").strip()
        if not _has_names(node):
            return _evaluate(node, None, self.text)
        return Expression(text, node)

    def sum(self, names: Any) -> tuple[Any, ...]:
        node = self.product(names)
        while sign := self.accept("+", "-"):
            node = ("binary", sign.text, node, self.product(names), sign.position)
        return node

    def product(self, names: Any) -> tuple[Any, ...]:
        node = self.unary(names)
        while sign := self.accept("*", "/"):
            node = ("binary", sign.text, node, self.unary(names), sign.position)
        return node

    def unary(self, names: Any) -> tuple[Any, ...]:
        if sign := self.accept("+", "-"):
            return ("unary", sign.text, self.unary(names))
        node = self.atom(names)
        if sign := self.accept("^", "**"):
            return ("binary", "^", node, self.unary(names), sign.position)
        return node

    def atom(self, names: Any) -> tuple[Any, ...]:
        token = self.token
        if token.kind == "number":
            self.index += 1
            return ("constant", float(token.text.rstrip("L")))
        if token.kind == "string":
            self.index += 1
            return ("constant", token.text[1:-1])
        if self.accept("("):
            node = self.sum(names)
            self.expect(")")
            return node
        token = self.word("a number or an expression")
        if self.accept("("):
            if token.text not in _FUNCTIONS:
                self.fail(f"unknown function {token.text!r} (known: {', '.join(_FUNCTIONS)})", token.position)
            return ("call", token.text, *self.call_arguments(names), token.position)
        if token.text in _CONSTANTS:
            return ("constant", _CONSTANTS[token.text])
        name = token.text.replace(".", "_")
        if name in names or name in DIMENSION_NAMES:
            return ("name", name)
        if token.text in _WORDS:
            return ("constant", token.text)
        if token.text in self.variables:
            return ("constant", self.variables[token.text])
        known = [d.replace("_", ".") for d in DIMENSION_NAMES] + sorted(n.replace("_", ".") for n in names)
        self.fail(f"unknown name {token.text!r} (known: {', '.join(known)})", token.position)

    def call_arguments(self, names: Any) -> tuple[list[tuple], dict[str, tuple]]:
        positional: list[tuple] = []
        named: dict[str, tuple] = {}
        if self.accept(")"):
            return positional, named
        while True:
            if self.token.kind == "word" and self.tokens[self.index + 1].text == "=":
                key = self.token.text
                self.index += 2
                named[key] = self.sum(names)
            else:
                positional.append(self.sum(names))
            if self.accept(")"):
                return positional, named
            self.expect(",", ")")


def _named_only(cls: type[Prior], role: str) -> list[str]:
    """Arguments that text must name: those of the constructor beyond the positional ones."""
    init: Any = cls.__init__
    code = init.__code__
    every = code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount]
    hidden = {"common_scale"} if role == "resid" else set()
    return [n for n in every if n not in cls.positions[role] and n not in hidden]


def _has_names(node: tuple[Any, ...]) -> bool:
    kind = node[0]
    if kind == "name":
        return True
    if kind == "binary":
        return _has_names(node[2]) or _has_names(node[3])
    if kind == "unary":
        return _has_names(node[2])
    return kind == "call" and any(_has_names(n) for n in [*node[2], *node[3].values()])


def _evaluate(node: tuple[Any, ...], names: Hyperparameters | None, text: str) -> Any:
    kind = node[0]
    if kind == "constant":
        return node[1]
    if kind == "name":
        return getattr(names, node[1])
    if kind == "unary":
        value = _numeric(_evaluate(node[2], names, text))
        return -value if node[1] == "-" else value
    position = node[-1]
    try:
        if kind == "binary":
            left, right = (_numeric(_evaluate(n, names, text)) for n in node[2:4])
            with np.errstate(all="ignore"):
                return _plain(_OPERATORS[node[1]](left, right))
        positional = [_evaluate(n, names, text) for n in node[2]]
        named = {k: _evaluate(n, names, text) for k, n in node[3].items()}
        return _plain(_FUNCTIONS[node[1]](*positional, **named))
    except PriorSyntaxError:
        raise
    except (TypeError, ValueError, ArithmeticError, MemoryError, RecursionError) as error:
        raise PriorSyntaxError(f"cannot evaluate {node[1]!r} ({error})", text, position) from None


def _numeric(value: float | np.ndarray | str) -> np.ndarray:
    if isinstance(value, str):
        raise OptionError(f"{value!r} is not a number")
    return np.asarray(value, dtype=float)


def _plain(value: float | np.ndarray) -> float | np.ndarray:
    value = np.asarray(value, dtype=float)
    return float(value) if value.ndim == 0 else value


def _c(*values: Any) -> np.ndarray:
    return np.concatenate([np.atleast_1d(_numeric(v)).ravel(order="F") for v in values])


def _matrix(data: np.ndarray, nrow: float | None = None, ncol: float | None = None, byrow: bool = False) -> np.ndarray:
    data = np.atleast_1d(_numeric(data)).ravel(order="F")
    if nrow is None and ncol is None:
        nrow = data.size
    rows = round(float(nrow)) if nrow is not None else math.ceil(data.size / float(ncol or 1))
    cols = round(float(ncol)) if ncol is not None else math.ceil(data.size / rows)
    _bounded(rows * cols)
    if (rows * cols) % data.size:
        raise OptionError(f"{data.size} values do not fill a {rows} x {cols} matrix")
    return np.resize(data, rows * cols).reshape((rows, cols), order="C" if byrow else "F")


def _diag(x: float | np.ndarray, nrow: int | None = None, ncol: None = None) -> np.ndarray:
    x = _numeric(x)
    if x.ndim == 2:
        return x.diagonal()
    if x.size == 1 and nrow is None:
        return np.eye(_bounded(round(float(x.ravel()[0])), square=True))
    n = _bounded(x.size if nrow is None else round(float(nrow)), square=True)
    return np.diag(np.resize(x.ravel(), n))


def _rep(x: float, times: float) -> np.ndarray:
    values, count = np.atleast_1d(_numeric(x)), round(float(times))
    _bounded(values.size * count)
    return np.tile(values, count)


def _bounded(count: int, square: bool = False) -> int:
    """A number of values, refused where no prior could have so many."""
    if not 0 <= count * (count if square else 1) <= _MOST_VALUES:
        raise OptionError(f"{count:g} values, from 0 to {_MOST_VALUES:,} are allowed")
    return count


_OPERATORS: dict[str, Callable] = {"+": np.add, "-": np.subtract, "*": np.multiply, "/": np.divide, "^": np.power}
_FUNCTIONS: dict[str, Callable] = {
    "c": _c,
    "matrix": _matrix,
    "diag": _diag,
    "rep": _rep,
    "sqrt": lambda x: np.sqrt(_numeric(x)),
    "exp": lambda x: np.exp(_numeric(x)),
    "log": lambda x: np.log(_numeric(x)),
    "abs": lambda x: np.abs(_numeric(x)),
    "min": lambda *x: min(_c(*x)),
    "max": lambda *x: max(_c(*x)),
}
