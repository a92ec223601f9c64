"""Reference data and results for all tests."""

import gzip
import json
import re
from functools import cache, wraps
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

REFERENCE = Path(__file__).parent / "reference"


def _filled(make):
    """`make` (numpy.empty or empty_like) whose memory holds NaN, so that a number read before it is written shows."""

    @wraps(make)
    def filled(*args, **kwargs):
        new = make(*args, **kwargs)
        if new.dtype.kind in "fc":
            new.fill(np.nan)
        return new

    return filled


np.empty, np.empty_like = _filled(np.empty), _filled(np.empty_like)


def pytest_collection_modifyitems(items):
    """Refuse tests whose ids hold an address: the workers of a parallel run would collect different tests."""
    named = [item.nodeid for item in items if " at 0x" in item.nodeid]
    if named:
        raise pytest.UsageError(f"give these tests ids without addresses: {named}")


@cache
def _json(name):
    with gzip.open(REFERENCE / f"{name}.json.gz", "rt", encoding="utf-8") as stream:
        return json.load(stream)


@cache
def _frame(name):
    path = next(p for p in (REFERENCE / "data" / f"{name}.csv", REFERENCE / "data" / f"{name}.csv.gz") if p.exists())
    levels = _json("data/levels").get(name, {})
    frame = pd.read_csv(path, dtype=dict.fromkeys(levels, "str"), keep_default_na=False, na_values=[""])
    for column, order in levels.items():
        frame[column] = pd.Categorical(frame[column], categories=order["levels"], ordered=order["ordered"])
    return frame


def reference_cases(name):
    """Cases of one reference file, for parametrization."""
    return _json(name)["cases"]


def reference_frame(name):
    """A fresh copy of a reference data set, factors as categoricals with R's level order."""
    return _frame(name).copy()


def masked(text):
    """A printed summary without what a clock and a calendar change."""
    text = re.sub(r"(Date:\s+)(\S+, \d\d \S+ \d{4})", lambda m: m[1] + "*" * len(m[2]), text)
    text = re.sub(r"\d\d:\d\d:\d\d", "********", text)
    return "\n".join(line.rstrip() for line in text.splitlines())


@pytest.fixture(scope="session")
def frames():
    """Return a function that gives a fresh copy of a reference data set."""
    return reference_frame


@pytest.fixture(scope="session")
def cases():
    """Return a function that gives the cases of a reference file."""
    return reference_cases


@pytest.fixture
def sleepstudy():
    return reference_frame("sleepstudy")
