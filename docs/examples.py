"""The examples of the documentation pages: ``>>>`` lines with what they print.

    python docs/examples.py docs/guide/linear.rst ...

runs the examples and writes what they print back into the pages. That is for deliberate changes only: the tests run the
same examples and compare. An output that still holds stays as it is.
"""

import doctest
import re
import sys
import traceback
from pathlib import Path

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
DATE = re.compile(r"Date: +\w{3}, \d+ \w{3} \d{4}|Time: +\d\d:\d\d:\d\d")
# an empty label is None before pandas 3 and NaN since
MISSING = re.compile(r"\bNaN\b")
NUMBER = re.compile(r"(?<![\w.])[-+]?\d+\.\d+(?:e[-+]?\d+)?|(?<![\w.])[-+]?\d+e[-+]?\d+")
# printed digits beyond these differ between platforms and releases of the libraries
RELATIVE = 1e-4


class Checker(doctest.OutputChecker):
    """Compare outputs: texts exactly up to blanks, numbers closely, dates and times of summaries not at all."""

    def check_output(self, want, got, optionflags):
        """Whether the output is what the page says."""
        want, got = (MISSING.sub("None", DATE.sub("", text)) for text in (want, got))
        if super().check_output(want, got, optionflags):
            return True
        if "..." in want or NUMBER.sub("#", want).split() != NUMBER.sub("#", got).split():
            return False
        return all(map(_close, NUMBER.findall(want), NUMBER.findall(got)))


def _close(want, got):
    mantissa, _, exponent = want.partition("e")
    last_digit = 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))
    return abs(float(want) - float(got)) <= 1.01 * last_digit + RELATIVE * abs(float(want))


def parse(path):
    """The examples of one page as one test; they share their variables."""
    text = path.read_text(encoding="utf-8")
    return doctest.DocTestParser().get_doctest(text, {"__name__": "__main__"}, path.name, str(path), 0)


class Recorder(doctest.DocTestRunner):
    """Collect what the examples printed where it is not what the page says."""

    def __init__(self):
        super().__init__(checker=Checker(), optionflags=FLAGS, verbose=False)
        self.got = {}

    def report_failure(self, out, test, example, got):
        """Note the new output."""
        self.got[example.lineno] = got

    def report_unexpected_exception(self, out, test, example, exc_info):
        """Stop at an error."""
        print(f"{test.name}, line {example.lineno + 1}: {example.source}", file=sys.stderr)
        traceback.print_exception(*exc_info)
        raise SystemExit(1)


def update(path):
    """Rewrite one page; return how many outputs changed."""
    test, runner = parse(path), Recorder()
    runner.run(test, clear_globs=False)
    lines = path.read_text(encoding="utf-8").split("\n")
    for example in reversed(test.examples):
        if example.lineno in runner.got:
            start = example.lineno + example.source.count("\n")
            stop = start + example.want.count("\n")
            lines[start:stop] = _indented(runner.got[example.lineno], " " * example.indent)
    path.write_text("\n".join(lines), encoding="utf-8")
    return len(runner.got)


def _indented(output, pad):
    lines = output.rstrip("\n").split("\n") if output else []
    return [pad + (line.rstrip() or "<BLANKLINE>") for line in lines]


if __name__ == "__main__":
    import matplotlib

    matplotlib.use("Agg")
    for name in sys.argv[1:]:
        print(f"{name}: {update(Path(name))} outputs changed")
