"""Data of any size for the benchmarks of scale, from a seed; levels are numbered without gaps."""

from __future__ import annotations

import numpy as np

__all__ = ["simulate"]


def _zipf(rng, n, levels, power):
    p = 1.0 / np.arange(1, levels + 1) ** power
    return rng.choice(levels, size=n, p=p / p.sum())


def _packed(codes):
    return np.unique(codes, return_inverse=True)[1]


def slope(n, seed, levels=400):
    """y ~ x1 + x2 + (x1 | g)."""
    rng = np.random.default_rng(seed)
    g = _packed(rng.integers(0, levels, n))
    x1, x2 = rng.normal(size=n), rng.normal(size=n)
    u = rng.normal(size=(levels, 2)) * [0.7, 0.3]
    y = 1 + 0.5 * x1 - 0.2 * x2 + u[g, 0] + u[g, 1] * x1 + rng.normal(size=n)
    return {"y": y, "x1": x1, "x2": x2, "g": g}


def crossed(n, seed, levels=(400, 90)):
    """y ~ x + (x | g) + (1 | h)."""
    rng = np.random.default_rng(seed)
    g, h = _packed(rng.integers(0, levels[0], n)), _packed(rng.integers(0, levels[1], n))
    x = rng.normal(size=n)
    u = rng.normal(size=(levels[0], 2)) * [0.8, 0.5]
    y = 1 + 0.5 * x + u[g, 0] + u[g, 1] * x + rng.normal(0, 0.4, levels[1])[h] + rng.normal(size=n)
    return {"y": y, "x": x, "g": g, "h": h}


def ratings(n, seed, levels=(3000, 3000), powers=(0.5, 0.9)):
    """y ~ x + (1 | user) + (1 | item), Zipf on both sides."""
    rng = np.random.default_rng(seed)
    u, i = _packed(_zipf(rng, n, levels[0], powers[0])), _packed(_zipf(rng, n, levels[1], powers[1]))
    x = rng.normal(size=n)
    y = 3.5 + 0.1 * x + rng.normal(0, 0.5, levels[0])[u] + rng.normal(0, 0.6, levels[1])[i] + rng.normal(0, 0.9, n)
    return {"y": y, "x": x, "user": u, "item": i}


def mobility(n, seed, firms=2000, years=4, movers=0.3):
    """y ~ x + (1 | worker) + (1 | firm): n / years workers, a share `movers` changes firm once."""
    rng = np.random.default_rng(seed)
    workers = n // years
    w = np.repeat(np.arange(workers), years)
    first = rng.integers(0, firms, workers)
    second = np.where(rng.random(workers) < movers, rng.integers(0, firms, workers), first)
    f = _packed(np.where(np.tile(np.arange(years), workers) < years // 2, first[w], second[w]))
    x = rng.normal(size=w.size)
    y = 1 + 0.3 * x + rng.normal(0, 0.7, workers)[w] + rng.normal(0, 0.4, firms)[f] + rng.normal(0, 0.6, w.size)
    return {"y": y, "x": x, "worker": w, "firm": f}


def binary(n, seed, levels=(200, 60)):
    """z ~ x + (1 | a) + (1 | b), Bernoulli."""
    rng = np.random.default_rng(seed)
    a, b = _packed(rng.integers(0, levels[0], n)), _packed(rng.integers(0, levels[1], n))
    x = rng.normal(size=n)
    eta = -0.3 + 0.4 * x + rng.normal(0, 0.8, levels[0])[a] + rng.normal(0, 0.6, levels[1])[b]
    return {"z": (rng.random(n) < 1 / (1 + np.exp(-eta))).astype(float), "x": x, "a": a, "b": b}


GENERATORS = {f.__name__: f for f in (slope, crossed, ratings, mobility, binary)}


def simulate(name, n, seed, **sizes):
    """Columns of one of the generators by name, float64 or int64."""
    return GENERATORS[name](n, seed, **sizes)
