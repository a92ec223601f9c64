"""The command line."""

import json
import subprocess
import sys

import pandas as pd
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


def test_version(capsys):
    assert main(["--version"]) == 0
    import mvmise_sm as ms

    assert capsys.readouterr().out.strip() == f"mvmise_sm {ms.__version__}"


def test_degrees_of_freedom_and_priors(capsys, file):
    assert main(["fit", "Reaction ~ Days + (Days | Subject)", file, "--ddf", "kenward-roger"]) == 0
    assert "17.00" in capsys.readouterr().out
    assert main(["fit", "Reaction ~ Days + (Days | Subject)", file, "--prior", "wishart"]) == 0
    assert "Cov prior  : Subject ~ wishart(df = 4.5" in capsys.readouterr().out


def test_standard_input(capsys, file, monkeypatch):
    with open(file, encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        assert main(["fit", "Reaction ~ Days + (Days | Subject)", "-"]) == 0
    assert "1743.628" in capsys.readouterr().out


def test_parquet_from_standard_input(capsys, tmp_path, sleepstudy, monkeypatch):
    path = tmp_path / "sleep.parquet"
    sleepstudy.to_parquet(path)
    with open(path, encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        assert main(["fit", "Reaction ~ Days + (Days | Subject)", "-"]) == 0
    assert "1743.628" in capsys.readouterr().out


def test_families_are_typed_as_in_the_package(capsys, tmp_path):
    import mvmise_sm as ms

    path = tmp_path / "cbpp.csv"
    ms.datasets.load_cbpp().to_csv(path, index=False)
    command = ["fit", "incidence / size ~ period + (1 | herd)", str(path), "--weights", "size", "--family"]
    assert main([*command, "binomial(probit)"]) == 0
    assert "probit" in capsys.readouterr().out.lower()
    assert main([*command, "binom"]) == 1
    assert "got 'binom'" in capsys.readouterr().err


def test_a_reader_that_stops_early_is_no_error(file):
    command = (
        f"{sys.executable} -m mvmise_sm fit 'Reaction ~ Days + (1 | Subject)' {file} | true; echo ${{PIPESTATUS[0]}}"
    )
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0"
    assert done.stderr == ""


@pytest.mark.parametrize("suffix", [".json", ".csv", ".tsv", ".parquet"])
def test_estimates_are_written(capsys, tmp_path, file, suffix):
    path = tmp_path / f"out{suffix}"
    assert (
        main(["fit", "Reaction ~ Days + (Days | Subject)", file, "--output", str(path), "--ddf", "satterthwaite"]) == 0
    )
    if suffix == ".json":
        stored = json.loads(path.read_text())
        assert stored["glance"]["converged"] is True
        table = pd.DataFrame(stored["estimates"])
    elif suffix == ".parquet":
        table = pd.read_parquet(path)
    else:
        table = pd.read_csv(path, sep="\t" if suffix == ".tsv" else ",")
    row = table[table["term"] == "Days"].iloc[0]
    assert row["estimate"] == pytest.approx(10.4673, abs=1e-4)
    assert row["df"] == pytest.approx(17.0, abs=1e-3)
    assert table.loc[table["term"] == "sigma", "conf_low"].notna().all()


def test_parquet_in(capsys, tmp_path, sleepstudy):
    path = tmp_path / "sleep.parquet"
    sleepstudy.to_parquet(path)
    assert main(["fit", "Reaction ~ Days + (Days | Subject)", str(path)]) == 0
    assert "1743.628" in capsys.readouterr().out


def test_scan_of_columns(capsys, tmp_path, sleepstudy):
    sleepstudy = sleepstudy[["Reaction", "Days", "Subject"]].assign(Other=lambda d: d["Reaction"] ** 0.5)
    path, out = tmp_path / "sleep.csv", tmp_path / "out.csv"
    sleepstudy.to_csv(path, index=False)
    assert main(["scan", "~ Days + (1 | Subject)", str(path)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split("\t")[0] == "feature"
    assert main(["scan", "~ Days + (1 | Subject)", str(path), "--features", "Other", "--output", str(out)]) == 0
    table = pd.read_csv(out)
    assert set(table["feature"]) == {"Other"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ddf", "satterthwaite", "--family", "poisson"], "--ddf goes with linear models"),
        (["--output", "x.xlsx"], "--output must end in .json, .csv, .tsv, .parquet"),
    ],
)
def test_wrong_options_of_a_fit(capsys, file, arguments, message):
    assert main(["fit", "Reaction ~ Days + (1 | Subject)", file, *arguments]) == 2
    assert message in capsys.readouterr().err
