"""Memory that runs out ends in one sentence that says how much was wanted in all, whatever asked for it."""

from __future__ import annotations

import errno
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import mvmise_sm as ms
from mvmise_sm import memory
from mvmise_sm.exceptions import DataError, ProblemTooLargeError

# what the libraries raise; the last three are no MemoryErrors
FAILURES = {
    "numpy": lambda: np.empty((2**40, 2**10)),
    "bare": lambda: (_ for _ in ()).throw(MemoryError()),
    "fork": lambda: (_ for _ in ()).throw(OSError(errno.ENOMEM, "Cannot allocate memory")),
    "superlu": lambda: (_ for _ in ()).throw(RuntimeError("SUPERLU_MALLOC fails for buf in intMalloc()")),
    "loader": lambda: (_ for _ in ()).throw(ImportError("lib.so: failed to map segment from shared object")),
}


@pytest.fixture(scope="module")
def fits():
    rng = np.random.default_rng(0)
    g = np.repeat(np.arange(12), 5)
    frame = pd.DataFrame({"x": rng.normal(size=60), "g": g, "h": np.tile(np.arange(5), 12)})
    frame["y"] = frame["x"] + rng.normal(size=12)[g] + rng.normal(size=60)
    frame["z"] = (frame["y"] > 0).astype(float)
    linear = ms.lmer("y ~ x + (1 | g)", frame).fit()
    binary = ms.glmer("z ~ x + (1 | g)", frame, family="binomial").fit()
    return frame, linear, binary


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize(
    ("where", "call"),
    [
        ("mvmise_sm.core.criteria.linear_objective.Layout", lambda d, fit, glm: fit.model.fit()),
        ("mvmise_sm.design.build.independent_columns", lambda d, fit, glm: ms.lmer("y ~ x + (1 | g)", d)),
        ("mvmise_sm.design.build.independent_columns", lambda d, fit, glm: ms.glmer("z ~ x + (1 | g)", d)),
        (
            "mvmise_sm.streaming.plan.new_columns",
            lambda d, fit, glm: ms.lmer("y ~ x + (1 | g)", ms.Chunks(lambda: [d])),
        ),
        ("mvmise_sm.streaming.survey.Values", lambda d, fit, glm: ms.CrossProducts.plan("y ~ x + (1 | g)", d)),
        ("mvmise_sm.results.variance.mode_frames", lambda d, fit, glm: fit.random_effects),
        ("mvmise_sm.results.variance.mode_frames", lambda d, fit, glm: glm.random_effects),
        ("mvmise_sm.results.variance.variance_frame", lambda d, fit, glm: fit.varcorr),
        ("mvmise_sm.results.base.MixedModelResults._linear_predictor", lambda d, fit, glm: fit.fittedvalues),
        ("mvmise_sm.results.base.MixedModelResults._linear_predictor", lambda d, fit, glm: glm.fittedvalues),
        ("mvmise_sm.inference.profile._prepare", lambda d, fit, glm: fit.profile()),
    ],
)
def test_every_door_has_the_sentence(fits, monkeypatch, failure, where, call):
    frame, linear, binary = fits
    linear, binary = pickle.loads(pickle.dumps((linear, binary)))
    module, _, name = where.rpartition(".")
    owner = _resolved(module)
    assert hasattr(owner, name)

    def fails(*args, **options):
        return FAILURES[failure]()

    monkeypatch.setattr(owner, name, fails)
    with pytest.raises(ProblemTooLargeError, match="needs more memory than there is"):
        call(frame, linear, binary)


def _resolved(path):
    parts = path.split(".")
    for n in range(len(parts), 0, -1):
        try:
            found = __import__(".".join(parts[:n]), fromlist=["_"])
        except ImportError:
            continue
        for part in parts[n:]:
            found = getattr(found, part)
        return found
    raise AssertionError(path)


def test_other_errors_stay_what_they_are():
    for error in (OSError(errno.ENOENT, "no such file"), RuntimeError("a bug"), DataError("out of memory of things")):
        assert not memory.out_of_memory(error)
    assert not memory.out_of_memory(ProblemTooLargeError("too large"))

    def broken():
        raise RuntimeError("a bug of the user's function")

    with pytest.raises(RuntimeError, match="a bug of the user"):
        ms.lmer("y ~ x + (1 | g)", ms.Chunks(broken))


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("Unable to allocate 477. MiB for an array with shape (8000, 8000) and data type float64", 477 * 2**20),
        ("Unable to allocate 4.47 GiB for an array with shape (600, 1000000)", 4.47 * 2**30),
        ("Unable to allocate 512. bytes for an array", 512),
        ("malloc of size 1048576 failed", 2**20),
        ("", None),
    ],
)
def test_what_was_asked_for_is_read_from_the_message(text, size):
    found = memory._asked(text)
    assert found is None if size is None else found == pytest.approx(size)


def test_the_sentence_adds_what_is_in_use(monkeypatch):
    monkeypatch.setattr(memory, "_in_use", lambda: 800_000_000)
    monkeypatch.setattr(memory, "_limit", lambda: 1_000_000_000)
    found = str(memory.too_large("fit", MemoryError("Unable to allocate 476.837 MiB for an array")))
    assert found == (
        "fit needs more memory than there is: at least 1.30 GB in all, of which 0.80 GB are in use and 0.50 GB were "
        "asked for; the limit of this process is 1.00 GB"
    )
    assert "more than 0.80 GB in all" in str(memory.too_large("fit", MemoryError()))


def test_no_room_for_blas_is_said_before_it_ends_the_process(monkeypatch):
    monkeypatch.setattr(memory, "_ROOM", [])
    monkeypatch.setattr(memory, "_in_use", lambda: 980_000_000)
    monkeypatch.setattr(memory, "_limit", lambda: 1_000_000_000)
    with pytest.raises(ProblemTooLargeError, match=r"at least 1\.05 GB in all; the limit of this process is 1\.00 GB"):
        memory.require_room("fit")
    assert memory._ROOM == []


SCRIPT = """
import resource
import numpy as np, pandas as pd
import mvmise_sm as ms
from mvmise_sm.exceptions import ProblemTooLargeError

def frame(levels, n):
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, levels, n), rng.integers(0, levels, n)
    return pd.DataFrame({"y": rng.normal(size=n), "x": rng.normal(size=n), "a": a, "b": b})

small = ms.lmer("y ~ x + (1 | a) + (1 | b)", frame(40, 600)).fit()
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
large = frame(7000, 60000)
resource.setrlimit(resource.RLIMIT_AS, (used + 250_000_000,) * 2)
doors = {
    "dense": lambda: ms.lmer("y ~ x + (1 | a) + (1 | b)", large).fit(logdet="exact"),
    "simulate": lambda: small.simulate(200_000),
}
try:
    doors["@"]()
except ProblemTooLargeError as error:
    print("ours:", error)
except MemoryError as error:
    print("theirs:", error)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="limits of addresses are those of Linux")
@pytest.mark.parametrize("door", ["dense", "simulate"])
def test_under_a_limit_of_addresses(door):
    env = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT.replace("@", door)],
        capture_output=True,
        text=True,
        env=env,
        cwd=Path(__file__).parents[1],
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("ours:"), run.stdout
    assert "GB in all" in run.stdout
    assert "the limit of this process is" in run.stdout
