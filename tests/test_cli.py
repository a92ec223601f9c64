"""The command line."""

import subprocess
import sys

import pytest

from mvmise_sm.__main__ import main


@pytest.fixture
def file(tmp_path, sleepstudy):
    path = tmp_path / "sleep.csv"
    sleepstudy.to_csv(path, index=False)
    return str(path)


def test_without_arguments_fits_the_bundled_data(capsys):
    assert main([]) == 0
    out = capsys.readouterr().out
    assert "1743.6283" in out  # lme4's REML criterion
    assert "251.4051" in out
    assert "Subject" in out


@pytest.mark.parametrize(("options", "criterion"), [([], "1743.628"), (["--ml"], "1751.939")])
def test_fits_a_file(capsys, file, options, criterion):
    assert main(["fit", "Reaction ~ Days + (Days | Subject)", file, *options]) == 0
    assert criterion in capsys.readouterr().out


def test_weights_offset_and_tabs(capsys, tmp_path, sleepstudy):
    path = tmp_path / "sleep.tsv"
    sleepstudy.to_csv(path, sep="\t", index=False)
    assert main(["fit", "Reaction ~ Days + (1 | Subject)", str(path), "--weights", "w", "--offset", "off"]) == 0
    assert "Subject" in capsys.readouterr().out


def test_warnings_go_to_stderr(capsys, file):
    assert main(["fit", "Reaction ~ Days + Days2 + (1 | Subject)", file]) == 0
    assert "warning: " in (err := capsys.readouterr().err)
    assert "Days2" in err


@pytest.mark.parametrize(
    ("formula", "options", "code", "message"),
    [
        ("Reaction ~ Dayz + (1 | Subject)", [], 1, "'Dayz' is not a column of the data; did you mean 'Days'"),
        ("Reaction ~ Days | Subject", [], 1, "put random terms in parentheses"),
        ("Reaction ~ Days", [], 1, "random"),
        ("Half ~ Days + (1 | Subject)", [], 1, "must be numeric"),
        ("Reaction ~ Days + (1 | Subject)", ["--family", "binomial", "--ml"], 2, "--ml goes with linear models"),
        ("Reaction ~ Days + (1 | Subject)", ["--nagq", "5"], 2, "--nagq goes with generalized models"),
    ],
)
def test_errors_are_one_line(capsys, file, formula, options, code, message):
    assert main(["fit", formula, file, *options]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_missing_file(capsys):
    assert main(["fit", "y ~ 1 + (1 | g)", "nowhere.csv"]) == 2
    assert "cannot read nowhere.csv" in capsys.readouterr().err


def test_wrong_command():
    with pytest.raises(SystemExit) as stop:
        main(["nonsense"])
    assert stop.value.code == 2


def test_runs_as_a_module():
    out = subprocess.run([sys.executable, "-m", "mvmise_sm", "--help"], capture_output=True, text=True, check=True)
    assert "fit" in out.stdout
