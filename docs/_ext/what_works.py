"""The directive ``what-works``: which result answers which question, made from what the classes declare."""

from docutils import nodes
from docutils.parsers.rst import Directive

from mvmise_sm.results.generalized import GeneralizedLinearMixedModelResults
from mvmise_sm.results.inferential import InferentialResults
from mvmise_sm.results.linear import LinearMixedModelResults
from mvmise_sm.results.questions import answers
from mvmise_sm.results.selection import SelectionResults

CLASSES = {
    "linear": LinearMixedModelResults,
    "generalized": GeneralizedLinearMixedModelResults,
    "selection": SelectionResults,
}
# what users ask by attribute or inherit from statsmodels
ALSO = ("summary", "tidy", "glance", "varcorr", "predict", "get_prediction", "simulate", "refit")
# what the machinery of results asks of a result
MACHINERY = {"memo", "wald_law", "fixed_design", "reference_grid", "estimable", "denominator"}
MACHINERY |= {"mean_offset", "mean_scale", "random_sd", "priors"}


def questions():
    """Names of the questions, those about all results first in the order of their definition."""
    names = list(ALSO)
    for cls in reversed(InferentialResults.__mro__):
        if cls.__module__.startswith("mvmise_sm"):
            names += [name for name in vars(cls) if not name.startswith("_")]
    known = set(MACHINERY) | {"refused", "linear", "restricted"}
    return [name for name in dict.fromkeys(names) if name not in known]


def rows():
    """Question -> one cell per class: "yes" or the sentence with which it is refused."""
    out = {}
    for name in questions():
        cells = []
        for cls in CLASSES.values():
            cells.append("yes" if answers(cls, name) else cls.refused.get(name, "no"))
        out[name] = cells
    return out


class WhatWorks(Directive):
    """A table of questions by kinds of results."""

    def run(self):
        group = nodes.tgroup(cols=1 + len(CLASSES))
        table = nodes.table("", group, classes=["what-works"])
        for width in (2, *[3] * len(CLASSES)):
            group += nodes.colspec(colwidth=width)
        group += nodes.thead("", _row(["question", *CLASSES]))
        body = nodes.tbody()
        for name, cells in rows().items():
            body += _row([f"{name}", *cells], code=True)
        group += body
        return [table]


def _row(cells, code=False):
    row = nodes.row()
    for i, cell in enumerate(cells):
        text = nodes.literal(text=cell) if code and i == 0 else nodes.Text(cell)
        row += nodes.entry("", nodes.paragraph("", "", text))
    return row


def setup(app):
    app.add_directive("what-works", WhatWorks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
