"""Draw the pictures of the guide page on proteomics.

python docs/guide/proteomics_figures.py
"""

import warnings
from pathlib import Path

import matplotlib as mpl

import mvmise_sm as ms

mpl.use("Agg")
mpl.rcParams.update({"svg.hashsalt": "mvmise_sm", "font.size": 9.0})
HERE = Path(__file__).parent


def save(ax, name):
    ax.figure.savefig(HERE / f"proteomics-{name}.svg", metadata={"Date": None})


def main():
    psms, annotation = ms.datasets.load_psms(), ms.datasets.load_psms("annotation")
    exp = ms.proteomics.read_proteome_discoverer(psms, annotation=annotation)
    pep = exp.filter().peptides().normalize("median").normalize("reference")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tab = pep.proteins().scan("~ Condition + (1 | Mixture)", contrasts="pairwise:Condition", moderate="contrast")
    save(tab.plot_volcano("high - control"), "volcano")
    save(pep.plot_profile("P00003"), "profile")
    save(pep.plot_missing(), "missing")


if __name__ == "__main__":
    main()
