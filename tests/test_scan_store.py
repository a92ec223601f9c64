"""What a scan leaves on disk: nothing lost, nothing stale, nothing twice, whatever ends it."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import mvmise_sm as ms
from mvmise_sm.exceptions import OptionError, ScanError
from mvmise_sm.scanning.content import digest
from mvmise_sm.scanning.store import PartFiles

FORMULA = "~ x + (1 | batch)"


def table(n=24, seed=0):
    rng = np.random.default_rng(seed)
    batch = np.repeat(np.arange(12), 3)
    frame = pd.DataFrame({"batch": batch, "x": rng.normal(size=36)})
    for j in range(n):
        frame[f"f{j}"] = 5.0 + rng.normal(size=12)[batch] + rng.normal(size=36)
    return frame, [f"f{j}" for j in range(n)]


def run(frame, names, path=None, **options):
    return ms.scan(FORMULA, frame, names, "lmer", output=path, **options)


def parts_of(path):
    return sorted(path.with_name(path.name + ".parts").glob("part-*.parquet"))


def stop_after(monkeypatch, n, error):
    """Let the store fail after some parts."""
    write, written = PartFiles.write, []

    def failing(self, part):
        write(self, part)
        written.append(1)
        if len(written) == n:
            raise error

    monkeypatch.setattr(PartFiles, "write", failing)


@pytest.fixture
def begun(tmp_path, monkeypatch):
    """A scan that was interrupted after two of three parts."""
    monkeypatch.setattr("mvmise_sm.scanning.job.CHUNK", 8)
    monkeypatch.setattr("mvmise_sm.scanning.batches._PER_CHUNK", 1)
    frame, names = table()
    path = tmp_path / "scan.parquet"
    with monkeypatch.context() as patch:
        stop_after(patch, 2, KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt, match=r"stopped after 8 of 24 features; call scan again with output="):
            run(frame, names, path)
    assert len(parts_of(path)) == 2
    return frame, names, path


def same(found, wanted):
    pd.testing.assert_frame_equal(found, wanted, check_dtype=False)


def test_an_interrupted_scan_goes_on_where_it_was(begun):
    frame, names, path = begun
    found = run(frame, names, path)
    same(found, run(frame, names))
    assert not parts_of(path)
    assert list(path.parent.iterdir()) == [path]
    same(run(frame, names, path), found)


def test_a_finished_scan_comes_back_whole_and_grows(tmp_path):
    frame, names = table(30)
    path = tmp_path / "scan.parquet"
    options = {"moderate": True, "tests": True, "variance_shares": True}
    first = run(frame, names[:20], path, **options)
    again = run(frame, names[:20], path, **options)
    same(again, first)
    pd.testing.assert_frame_equal(again.prior, first.prior)
    pd.testing.assert_frame_equal(again.tests, first.tests, check_dtype=False)
    pd.testing.assert_frame_equal(again.variance_shares, first.variance_shares, check_index_type=False)
    whole = run(frame, names, path, **options)
    # moderation and q-values are over all features, also those of the first call
    same(whole, run(frame, names, **options))
    stored = pd.read_parquet(path)
    assert list(stored["feature"].unique()) == names


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda f: f.__setitem__("f3", f["f3"] + 0.1), "feature 'f3' have changed"),
        (lambda f: f.__setitem__("x", f["x"] + 0.1), "another scan: design differs"),
        (lambda f: f.__setitem__("batch", f["batch"] % 11), "another scan: design differs"),
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_changed_data_are_refused(begun, change, sentence, finished):
    frame, names, path = begun
    if finished:
        run(frame, names, path)
    change(frame)
    with pytest.raises(OptionError, match=sentence):
        run(frame, names, path)


def test_changed_options_weights_and_maps_are_refused(tmp_path):
    frame, names = table(4)
    path = tmp_path / "scan.parquet"
    w = np.ones(len(frame))
    run(frame, names, path, weights=w)
    run(frame, names, path, weights=w.copy())
    for options in ({"weights": 2.0 * w}, {}, {"weights": w, "contrasts": {"a": "x"}}, {"weights": w, "ddf": None}):
        with pytest.raises(OptionError, match="another scan"):
            run(frame, names, path, **options)
    with pytest.raises(OptionError, match="holds feature 'f3'"):
        run(frame, names[:3], path, weights=w)
    cells = pd.DataFrame(np.ones((len(frame), 4)), columns=names)
    other = tmp_path / "cells.parquet"
    run(frame, names, other, weights=cells)
    cells.loc[0, "f2"] = 0.0
    with pytest.raises(OptionError, match="feature 'f2' have changed"):
        run(frame, names, other, weights=cells)


def test_a_changed_peptide_map_is_refused(tmp_path):
    frame, names = table(6)
    path = tmp_path / "scan.parquet"
    groups = {"A": names[:2], "B": names[2:5]}
    ms.scan(FORMULA, frame, groups, "mvmise_b", output=path, missing_y=False)
    groups["B"] = names[3:6]
    with pytest.raises(OptionError, match="columns of feature 'B' have changed"):
        ms.scan(FORMULA, frame, groups, "mvmise_b", output=path, missing_y=False)


def test_functions_among_the_options_count_by_what_they_do(tmp_path):
    frame, names = table(3)

    def options(df):
        return {"cov_prior": ms.priors.Gamma(shape=lambda d: d.level_dim + df)}

    path = tmp_path / "scan.parquet"
    run(frame, names, path, **options(1.5))
    run(frame, names, path, **options(1.5))
    with pytest.raises(OptionError, match="options differ"):
        run(frame, names, path, **options(2.5))


def test_hashes_are_of_contents():
    one, other = (lambda x: x + 1), (lambda x: x + 1)
    assert digest(one) == digest(other) != digest(lambda x: x + 2)
    assert digest({"a": 1, "b": np.array([1.0, np.nan])}) == digest({"b": np.array([1.0, -np.nan]), "a": 1})
    assert digest(1) != digest(1.0) != digest("1.0")
    assert digest(pd.DataFrame({"a": [1]})) != digest(pd.DataFrame({"b": [1]}))
    loop = []
    loop.append(loop)
    assert digest(loop) == digest(loop)


def test_a_truncated_part_is_reported_with_its_path(begun):
    frame, names, path = begun
    part = parts_of(path)[0]
    part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(ScanError, match=f"{part.name} is damaged"):
        run(frame, names, path)
    part.unlink()
    same(run(frame, names, path), run(frame, names))


def test_a_damaged_file_is_reported_with_its_path(tmp_path):
    frame, names = table(3)
    path = tmp_path / "scan.parquet"
    path.write_bytes(b"PAR1 nothing")
    with pytest.raises(ScanError, match=r"scan.parquet is damaged"):
        run(frame, names, path)
    frame.to_parquet(path)
    with pytest.raises(OptionError, match="belongs to another scan"):
        run(frame, names, path)


def test_a_part_written_twice_counts_once(begun):
    frame, names, path = begun
    part = parts_of(path)[0]
    part.with_name("part-zz.parquet").write_bytes(part.read_bytes())
    same(run(frame, names, path), run(frame, names))


def test_a_full_disk_keeps_what_was_written(begun, monkeypatch):
    frame, names, path = begun
    fsync = os.fsync

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ScanError, match="the disk is full; what was written before is kept"):
        run(frame, names, path)
    monkeypatch.setattr(os, "fsync", fsync)
    folder = path.with_name(path.name + ".parts")
    assert len(parts_of(path)) == 2
    assert not list(folder.glob("writing-*"))
    same(run(frame, names, path), run(frame, names))


def test_one_writer_at_a_time(begun):
    frame, names, path = begun
    with PartFiles(path, []), pytest.raises(ScanError, match=rf"written by another scan \(process {os.getpid()}\)"):
        run(frame, names, path)
    same(run(frame, names, path), run(frame, names))


def test_where_the_output_cannot_be(tmp_path):
    frame, names = table(2)
    with pytest.raises(OptionError, match="no folder"):
        run(frame, names, tmp_path / "nowhere" / "scan.parquet")
    with pytest.raises(OptionError, match="is a folder"):
        run(frame, names, tmp_path)


SCRIPT = """
import signal, sys, time
# a shell that starts a job in the background lets it ignore interrupts
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path[:0] = [{tests!r}]
import mvmise_sm as ms, mvmise_sm.scanning.job as job
from mvmise_sm.scanning.store import PartFiles
from test_scan_store import table, FORMULA
job.CHUNK = 2
write = PartFiles.write
def slow(self, part):
    write(self, part)
    print("part", flush=True)
    time.sleep({pause})
PartFiles.write = slow
frame, names = table(16)
ms.scan(FORMULA, frame, names, "blmer", output={path!r}, n_jobs={n_jobs})
"""


def started(path, n_jobs=1, pause=0.4):
    """A scan in a process of its own, once it has written a part."""
    code = SCRIPT.format(tests=str(Path(__file__).parent), path=str(path), n_jobs=n_jobs, pause=pause)
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout.readline() == "part\n"
    return process


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize(
    ("how", "written"), [(signal.SIGKILL, 1), (signal.SIGKILL, 4), (signal.SIGKILL, 7), (signal.SIGINT, 1)]
)
def test_a_process_that_is_ended_loses_nothing(tmp_path, how, written):
    path = tmp_path / "scan.parquet"
    process = started(path, pause=0.2)
    for _ in range(written - 1):
        assert process.stdout.readline() == "part\n"
    process.send_signal(how)
    _, err = process.communicate(timeout=60)
    assert process.returncode != 0
    if how == signal.SIGINT:
        assert "call scan again with output=" in err
    assert len(parts_of(path)) >= written
    frame, names = table(16)
    found = ms.scan(FORMULA, frame, names, "blmer", output=path)
    same(found, ms.scan(FORMULA, frame, names, "blmer"))
    assert found.groupby(["feature", "term"]).size().max() == 1


@pytest.mark.skipif(not Path("/proc").exists(), reason="reads /proc")
def test_workers_end_with_the_process_that_started_them(tmp_path):
    process = started(tmp_path / "scan.parquet", n_jobs=2, pause=1.0)
    # by now both workers have had a task
    assert process.stdout.readline() == process.stdout.readline() == "part\n"
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert children
    process.kill()
    process.wait(timeout=30)
    process.stdout.close()
    process.stderr.close()
    end = time.monotonic() + 20.0
    while time.monotonic() < end and any(_lives(child) for child in children):
        time.sleep(0.2)
    assert not [child for child in children if _lives(child)]


def _lives(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_a_killed_worker_is_a_sentence(tmp_path):
    code = textwrap.dedent(
        """
        import os, signal, sys
        sys.path[:0] = [{tests!r}]
        import mvmise_sm as ms
        from test_scan_store import table, FORMULA
        def deadly(d, pid=os.getpid()):
            import os, signal
            if os.getpid() != pid:
                os.kill(os.getpid(), signal.SIGKILL)
            return 2.5
        frame, names = table(6)
        # with missing values priors are bound again, in the worker
        frame.iloc[0, 2:] = float("nan")
        try:
            ms.scan(FORMULA, frame, names, "blmer", output={path!r}, n_jobs=2, cov_prior=ms.priors.Gamma(shape=deadly))
        except ms.exceptions.ScanError as error:
            print(error)
        """
    ).format(tests=str(Path(__file__).parent), path=str(tmp_path / "scan.parquet"))
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "a worker process has died after 0 of 6 features" in out.stdout, out.stderr[-2000:]
    assert "call scan again with output=" in out.stdout
