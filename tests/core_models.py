"""Small simulated models of every structure, as arrays."""

from __future__ import annotations

import numpy as np

from mvmise_sm.core.covariance.random_effects import GroupingFactor, RandomEffects, RandomTerm
from mvmise_sm.core.covariance.structures import Diagonal, Unstructured

KINDS = (
    "intercept",
    "slope",
    "three columns",
    "uncorrelated",
    "two terms",
    "crossed",
    "crossed slopes",
    "nested",
    "nested slopes",
    "chain crossed",
    "chain crossed slopes",
)


def factor(name, labels):
    levels, codes = np.unique(labels, return_inverse=True)
    return GroupingFactor(name, codes, levels)


def term(group, columns, structure=Unstructured):
    names = tuple("Intercept" if c is None else f"x{i}" for i, c in enumerate(columns))
    return RandomTerm(group, tuple(columns), names, structure(len(columns)), f"(... | {group.name})")


def simulate(kind, seed=0, n=160):
    """Return y (n,), X (n, 3) and RandomEffects of one kind."""
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 12, n), rng.integers(0, 9, n)
    x, x2 = rng.normal(size=n) + 3.0, rng.normal(size=n)
    fa, fb, cell, big = factor("a", a), factor("b", b), factor("a:b", a * 9 + b), factor("big", a // 4)
    terms = {
        "intercept": lambda: [term(fa, [None])],
        "slope": lambda: [term(fa, [None, x])],
        "three columns": lambda: [term(fa, [None, x, x2])],
        "uncorrelated": lambda: [term(fa, [None, x], Diagonal)],
        "two terms": lambda: [term(fa, [None]), term(fa, [x])],
        "crossed": lambda: [term(fa, [None]), term(fb, [None])],
        "crossed slopes": lambda: [term(fa, [None, x]), term(fb, [None, x2])],
        "nested": lambda: [term(cell, [None]), term(fa, [None]), term(big, [None])],
        "nested slopes": lambda: [term(big, [None, x2]), term(cell, [None]), term(fa, [None, x])],
        "chain crossed": lambda: [term(cell, [None]), term(fa, [None, x]), term(big, [None]), term(fb, [None])],
        "chain crossed slopes": lambda: [term(cell, [None, x2]), term(fa, [None, x]), term(fb, [None, x])],
    }[kind]()
    X = np.column_stack([np.ones(n), x, np.square(x2) + 100.0])
    y = X @ [1.0, 2.0, 0.5] + rng.normal(size=12)[a] + 0.5 * rng.normal(size=9)[b] * x2
    y += 0.3 * rng.normal(size=108)[a * 9 + b] + rng.normal(size=n)
    return y, X, RandomEffects(terms)
