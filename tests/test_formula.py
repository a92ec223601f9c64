"""Formula text to parts."""

import pytest

from mvmise_sm.exceptions import FormulaError
from mvmise_sm.formula.parts import expand_terms, parse_formula

RANDOM_TERMS = {
    "(1 | g)": [("1", "g")],
    "(x | g)": [("x", "g")],
    "(1 + x | g)": [("1 + x", "g")],
    "(0 + x|g)": [("0 + x", "g")],
    "(-1 + x | g)": [("-1 + x", "g")],
    "(x || g)": [("1", "g"), ("0 + x", "g")],
    "(0 + x || g)": [("0 + x", "g")],
    "(x * f || g)": [("1", "g"), ("0 + x", "g"), ("0 + f", "g"), ("0 + x:f", "g")],
    "(1 | a/b)": [("1", "a"), ("1", "a:b")],
    "(1 | a/b/c)": [("1", "a"), ("1", "a:b"), ("1", "a:b:c")],
    "(x || a/b)": [("1", "a"), ("0 + x", "a"), ("1", "a:b"), ("0 + x", "a:b")],
    "(1 | a:b)": [("1", "a:b")],
    "(1 | a*b)": [("1", "a"), ("1", "b"), ("1", "a:b")],
    "(C(f) | g)": [("C(f)", "g")],
    "(0 + C(f, Sum) | g)": [("0 + C(f, Sum)", "g")],
    "(np.log(x) | g)": [("np.log(x)", "g")],
    "(I(x^2) | g)": [("I(x ** 2)", "g")],
    "(1 | a) + (1 | b)": [("1", "a"), ("1", "b")],
    "(1 | g) + (0 + x | g)": [("1", "g"), ("0 + x", "g")],
    "(1 + x.1 | g.1)": [("1 + x.1", "g.1")],
    "(1 | g.1:g.2)": [("1", "g.1:g.2")],
    "(1 | factor(g))": [("1", "factor(g)")],
    "us(1 + x | g)": [("1 + x", "g")],
    "(1 | a/b) + (1 | a)": [("1", "a"), ("1", "a:b")],
}


@pytest.mark.parametrize("term", RANDOM_TERMS)
def test_random_terms(term):
    parts = parse_formula(f"y ~ z + {term}")
    assert [(spec.effects, spec.group) for spec in parts.random] == RANDOM_TERMS[term]
    assert parts.fixed == "y ~ z"
    assert {spec.structure for spec in parts.random} == {"us"}


def test_diagonal_wrapper_is_one_term():
    (spec,) = parse_formula("y ~ 1 + diag(1 + x | g)").random
    assert (spec.effects, spec.structure) == ("1 + x", "diag")


@pytest.mark.parametrize(
    ("text", "rhs"),
    [
        ("y ~ (1 | g)", "1"),
        ("y ~ (1 | g) + x", "x"),
        ("y ~ 0 + x + (1 | g)", "0 + x"),
        ("y ~ x + (1 | g) - 1", "x - 1"),
        ("y ~ (1 | g) - 1", "-1"),
        ("y ~ a*b + a:c + d/e + (1 | g)", "a * b + a:c + d/e"),
        ("y ~ (a + b)^2 + (1 | g)", "(a + b)**2"),
        ("y ~ x + (z + (1 | g))", "x + z"),
        ("y ~ I(x^2) + np.log( x ) + (1|g)", "I(x ** 2) + np.log(x)"),
        ("y ~ I(a | b) + (1 | g)", "I(a | b)"),
        ("y ~ offset(o) + x + (1 | g)", "x"),
        ("y ~ C(f, Treatment('b')) + bs(x, df=4) + (1 | g)", "C(f, Treatment('b')) + bs(x, df = 4)"),
        ("y ~ x.1 + total.fruits + (1 | g)", "x.1 + total.fruits"),
        ("y ~\n  x +\n  (1 | g)", "x"),
    ],
)
def test_fixed_part(text, rhs):
    assert parse_formula(text).rhs == rhs


@pytest.mark.parametrize(
    ("left", "responses"),
    [
        ("y", ("y",)),
        ("log(y + 1)", ("log(y + 1)",)),
        ("incidence / size", ("incidence / size",)),
        ("cbind(s, n - s)", ("s", "n - s")),
        ("s + f", ("s", "f")),
        ("y1 + y2 + y3", ("y1", "y2", "y3")),
        ("(a + b)", ("(a + b)",)),
        ("y^2", ("y ** 2",)),
        ("total.fruits", ("total.fruits",)),
        ("max(a, b)", ("max(a, b)",)),
    ],
)
def test_responses(left, responses):
    assert parse_formula(f"{left} ~ x + (1 | g)").responses == responses


def test_offsets_are_taken_out():
    parts = parse_formula("y ~ offset(log(n)) + x + offset(o) + (1 | g)")
    assert parts.offsets == ("log(n)", "o")


def test_no_random_term_is_left_to_the_model():
    assert parse_formula("y ~ x").random == ()


def test_parsing_is_cached():
    assert parse_formula("y ~ x + (1 | g)") is parse_formula("y ~ x + (1 | g)")


def test_dotted_names_keep_their_spelling():
    (term,) = (t for t in expand_terms("total.fruits", frozenset({"total.fruits"})) if t.factors)
    assert term.name() == "total.fruits"
    assert term.factors[0].code == "Q('total.fruits')"
    (term,) = (t for t in expand_terms("np.log(x)", frozenset({"x"})) if t.factors)
    assert term.factors[0].code == "np.log(x)"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "Reaction ~ Days + 1 | Subject",
            r"put random terms in parentheses, for example '... \+ \(Days \+ 1 \| Subject",
        ),
        ("y ~ 1|g", r"\(1 \| g\)"),
        ("y ~ x || g", r"\(x \|\| g\)"),
        ("y ~ x - (1 | g)", "can only be added"),
        ("y ~ x:(1 | g)", "can only be added"),
        ("y ~ x*offset(o) + (1 | g)", "can only be added"),
        ("y ~ (1 | g | h)", "has one bar"),
        ("y ~ (0 | g)", "no effects left of the bar"),
        ("y ~ (1 | 1)", "must name a grouping factor"),
        ("y ~ (1 | )", "a term should stand"),
        ("y ~ (1 | g", "not closed"),
        ("y ~ f(x + (1 | g)", "not closed"),
        ("y ~ x + (1 | g))", "unexpected"),
        ("y ~ x + $", "unexpected character"),
        ("y ~ x +", "ends where a term should follow"),
        ("y", "one '~'"),
        ("~ x + (1 | g)", "one '~'"),
        ("y ~ x ~ (1 | g)", "one '~'"),
        ("y + ~ x + (1 | g)", "an outcome is missing"),
        ("y ~ cs(1 + x | g, hom=x)", "option hom must be True, False, a number or a text, not 'x'"),
        ("y ~ x + (1 | mm(a, b, weights=(u, v, w)))", r"mm\(a, b\) has 2 members and 3 weights."),
        ("y ~ diag(1 + x || g)", r"write diag\(terms \| group\)"),
        ("y ~ us(1 + x | g, k)", "only options such as hom=True"),
        ("y ~ offset() + (1 | g)", "needs an expression"),
        (3, "a formula is a text"),
    ],
)
def test_errors_say_what_is_wrong(text, message):
    with pytest.raises(FormulaError, match=message):
        parse_formula(text)


@pytest.mark.parametrize("rhs", ["3", "a^b"])
def test_terms_that_patsy_refuses(rhs):
    with pytest.raises(FormulaError):
        expand_terms(rhs)
