"""Command line: ``python -m mvmise_sm`` fits bundled data, ``fit FORMULA FILE`` and ``scan FORMULA FILE`` a user's."""

from __future__ import annotations

import argparse
import io
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

EXAMPLE = "Reaction ~ Days + (Days | Subject)"
FIT_FAILED, BAD_INPUT = 1, 2
DDF = ("satterthwaite", "kenward-roger")
# columns of the random part beside those of tidy, so that one table holds the whole fit
_OUTPUTS = (".json", ".csv", ".tsv", ".parquet")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mvmise_sm",
        description="Fit mixed models. Without arguments: fit the bundled sleepstudy data and print the summary.",
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    commands = parser.add_subparsers(dest="command", metavar="{fit,scan}")
    fit = commands.add_parser("fit", help="fit a formula to a file", description="Fit a formula to a file.")
    _add_input(fit)
    fit.add_argument("--ml", action="store_true", help="maximum likelihood instead of REML (linear models)")
    fit.add_argument(
        "--family",
        default="gaussian",
        help='distribution of the response, with a link if not the usual one: "poisson", "nb2", "binomial(probit)"',
    )
    fit.add_argument("--weights", help="column or expression with prior weights")
    fit.add_argument("--offset", help="column or expression with the offset")
    fit.add_argument(
        "--nagq", type=int, help="quadrature points for a generalized model: 0, 1 (Laplace, default) or more"
    )
    fit.add_argument("--ddf", choices=DDF, help="degrees of freedom of the fixed effects (linear models)")
    fit.add_argument("--prior", help='prior of the covariances as in blme: "wishart", "g ~ gamma(rate = 0.5)"')
    fit.add_argument(
        "--output", help="also write the estimates to this file: .json (the whole fit), .csv, .tsv or .parquet"
    )
    scan = commands.add_parser(
        "scan", help="fit one formula to many responses", description="Fit one formula to many columns of a file."
    )
    _add_input(scan)
    scan.add_argument("--features", help="columns to fit, separated by commas; by default all that no term uses")
    scan.add_argument("--model", default="lmer", help="lmer, blmer, mvmise_b or mvmise_e")
    scan.add_argument("--jobs", type=int, default=1, help="processes")
    scan.add_argument("--output", help="write the table here instead of printing it: .csv, .tsv, .json or .parquet")
    return parser


def _add_input(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("formula", help='for example "y ~ x + (1 | g)"')
    parser.add_argument(
        "file", help="CSV file with a header (.csv, .tsv, also compressed), .parquet, or - for standard input"
    )


def _read(path: str) -> Any:
    import pandas as pd

    source: Any = path
    if path == "-":
        given = sys.stdin.buffer.read()
        source = io.BytesIO(given)
        path = "-.parquet" if given.startswith(b"PAR1") else "-.csv"
    suffixes = Path(path).suffixes
    if ".parquet" in suffixes:
        try:
            return pd.read_parquet(source)
        except ImportError:
            raise ValueError('Parquet needs pyarrow: python -m pip install "mvmise_sm[parquet]"') from None
    tabs = any(suffix in (".tsv", ".tab") for suffix in suffixes)
    return pd.read_csv(source, sep="\t" if tabs else ",")


def _write(table: Any, path: str) -> None:
    suffix = Path(path).suffix
    if suffix == ".json":
        Path(path).write_text(table.to_json(orient="records", indent=1), encoding="utf-8")
    elif suffix == ".parquet":
        table.to_parquet(path, index=False)
    else:
        table.to_csv(path, index=False, sep="\t" if suffix == ".tsv" else ",")


def _write_fit(result: Any, path: str, ddf: str | None) -> None:
    """Write what `tidy` says of a fit; JSON holds its one-row description too."""
    import json

    table = result.tidy(effects="all", conf_int=True, ddf=ddf)
    if Path(path).suffix != ".json":
        _write(table, path)
        return
    text = {
        "formula": result.model.formula,
        "model": type(result.model).__name__,
        "glance": json.loads(result.glance().to_json(orient="records"))[0],
        "estimates": json.loads(table.to_json(orient="records")),
    }
    Path(path).write_text(json.dumps(text, indent=1), encoding="utf-8")


def _model(options: argparse.Namespace, data: Any) -> Any:
    import mvmise_sm as ms

    keywords = {name: getattr(options, name) for name in ("weights", "offset") if getattr(options, name)}
    if options.prior:
        keywords["cov_prior"] = options.prior
    if options.family == "gaussian":
        return ms.lmer(options.formula, data, **keywords)
    return ms.glmer(options.formula, data, family=options.family, **keywords)


def _refused(options: argparse.Namespace) -> str | None:
    """What is wrong with the options of ``fit``, None if nothing is."""
    linear = options.family == "gaussian"
    if options.ml and not linear:
        return "--ml goes with linear models only; generalized models are always fitted by ML"
    if options.nagq is not None and linear:
        return "--nagq goes with generalized models only; choose one with --family"
    if options.ddf and not linear:
        return "--ddf goes with linear models only; tests of generalized models use the normal distribution"
    return _refused_output(options.output)


def _refused_output(path: str | None) -> str | None:
    if path is None or Path(path).suffix in _OUTPUTS:
        return None
    return f"--output must end in {', '.join(_OUTPUTS)}, got {path}"


def _fit(options: argparse.Namespace) -> int:
    wrong = _refused(options)
    if wrong:
        return _complain(wrong, BAD_INPUT)
    try:
        data = _read(options.file)
    except (OSError, ValueError) as error:
        return _complain(f"cannot read {options.file}: {error}", BAD_INPUT)
    settings: dict[str, Any] = {"reml": not options.ml} if options.family == "gaussian" else {}
    if options.nagq is not None:
        settings["nagq"] = options.nagq
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = _model(options, data).fit(**settings)
            print(result.summary(ddf=options.ddf))
            if options.output:
                _write_fit(result, options.output, options.ddf)
    except BrokenPipeError:
        raise
    except OSError as error:
        return _complain(f"cannot write {options.output}: {error}", BAD_INPUT)
    except (ValueError, NotImplementedError) as error:
        return _complain(str(error), FIT_FAILED)
    for message in dict.fromkeys(str(warning.message) for warning in caught):
        print(f"warning: {message}", file=sys.stderr)
    return 0


def _scan(options: argparse.Namespace) -> int:
    import mvmise_sm as ms

    wrong = _refused_output(options.output)
    if wrong:
        return _complain(wrong, BAD_INPUT)
    try:
        data = _read(options.file)
    except (OSError, ValueError) as error:
        return _complain(f"cannot read {options.file}: {error}", BAD_INPUT)
    features = [name.strip() for name in options.features.split(",")] if options.features else None
    if features is None:
        used = _words(options.formula)
        features = [name for name in data.columns if name not in used and data[name].dtype.kind in "fiu"]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            table = ms.scan(
                options.formula, data, features=features, model=options.model, n_jobs=options.jobs, progress=False
            )
    except (ValueError, NotImplementedError, KeyError) as error:
        return _complain(str(error), FIT_FAILED)
    try:
        if options.output:
            _write(table, options.output)
        else:
            print(table.to_csv(index=False, sep="\t"), end="")
    except BrokenPipeError:
        raise
    except OSError as error:
        return _complain(f"cannot write {options.output}: {error}", BAD_INPUT)
    return 0


def _words(formula: str) -> set[str]:
    """Names in a formula."""
    from mvmise_sm.formula.tree import tokenize

    return {token.text.strip("`") for token in tokenize(formula) if token.kind in ("name", "quoted")}


def _example() -> int:
    import mvmise_sm as ms

    print(f'mvmise_sm.lmer("{EXAMPLE}", mvmise_sm.datasets.load_sleepstudy()).fit().summary()\n')
    print(ms.lmer(EXAMPLE, ms.datasets.load_sleepstudy()).fit().summary())
    return 0


def _complain(message: str, code: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return code


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        Arguments after the program's name; those of the process by default.

    Returns
    -------
    int
        Exit code: 0 for a fit, 1 if the formula or the data do not fit together, 2 for a wrong command or file.
    """
    options = _parser().parse_args(arguments)
    if options.version:
        import mvmise_sm as ms

        print(f"mvmise_sm {ms.__version__}")
        return 0
    try:
        if options.command == "scan":
            return _scan(options)
        return _fit(options) if options.command == "fit" else _example()
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    sys.exit(main())
