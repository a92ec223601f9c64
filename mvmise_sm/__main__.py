"""Command line: ``python -m mvmise_sm`` fits bundled data, ``python -m mvmise_sm fit FORMULA FILE`` a user's file."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

FAMILIES = {
    "gaussian": "Gaussian",
    "binomial": "Binomial",
    "poisson": "Poisson",
    "gamma": "Gamma",
    "inverse-gaussian": "InverseGaussian",
    "negative-binomial": "NegativeBinomial",
}
EXAMPLE = "Reaction ~ Days + (Days | Subject)"
FIT_FAILED, BAD_INPUT = 1, 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mvmise_sm",
        description="Fit mixed models. Without arguments: fit the bundled sleepstudy data and print the summary.",
    )
    commands = parser.add_subparsers(dest="command", metavar="fit")
    fit = commands.add_parser("fit", help="fit a formula to a CSV file", description="Fit a formula to a CSV file.")
    fit.add_argument("formula", help='for example "y ~ x + (1 | g)"')
    fit.add_argument("file", help="CSV file with a header line (.csv, .tsv, also compressed)")
    fit.add_argument("--ml", action="store_true", help="maximum likelihood instead of REML (linear models)")
    fit.add_argument("--family", choices=sorted(FAMILIES), default="gaussian", help="distribution of the response")
    fit.add_argument("--weights", help="column or expression with prior weights")
    fit.add_argument("--offset", help="column or expression with the offset")
    fit.add_argument(
        "--nagq", type=int, help="quadrature points for a generalized model: 0, 1 (Laplace, default) or more"
    )
    return parser


def _read(path: str):
    import pandas as pd

    tabs = any(suffix in (".tsv", ".tab") for suffix in Path(path).suffixes)
    return pd.read_csv(path, sep="\t" if tabs else ",")


def _model(options: argparse.Namespace, data):
    import mvmise_sm as ms

    columns = {name: getattr(options, name) for name in ("weights", "offset") if getattr(options, name)}
    if options.family == "gaussian":
        return ms.lmer(options.formula, data, **columns)
    if options.family == "negative-binomial":
        return ms.glmer_nb(options.formula, data, **columns)
    from statsmodels.genmod import families

    return ms.glmer(options.formula, data, family=getattr(families, FAMILIES[options.family])(), **columns)


def _fit(options: argparse.Namespace) -> int:
    linear = options.family == "gaussian"
    if options.ml and not linear:
        return _complain("--ml goes with linear models only; generalized models are always fitted by ML", BAD_INPUT)
    if options.nagq is not None and linear:
        return _complain("--nagq goes with generalized models only; choose one with --family", BAD_INPUT)
    try:
        data = _read(options.file)
    except (OSError, ValueError) as error:
        return _complain(f"cannot read {options.file}: {error}", BAD_INPUT)
    settings = {"reml": not options.ml} if linear else {}
    if options.nagq is not None:
        settings["nagq"] = options.nagq
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            print(_model(options, data).fit(**settings).summary())
    except (ValueError, NotImplementedError) as error:
        return _complain(str(error), FIT_FAILED)
    for message in dict.fromkeys(str(warning.message) for warning in caught):
        print(f"warning: {message}", file=sys.stderr)
    return 0


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
    return _fit(options) if options.command == "fit" else _example()


if __name__ == "__main__":
    sys.exit(main())
