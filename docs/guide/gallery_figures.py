"""Draw the pictures of the gallery, the start page and the README.

python docs/guide/gallery_figures.py
"""

import warnings
from pathlib import Path

import matplotlib as mpl
import numpy as np

import mvmise_sm as ms

mpl.use("Agg")
mpl.rcParams.update({"svg.hashsalt": "mvmise_sm", "font.size": 9.0})
HERE = Path(__file__).parent
STATIC = HERE.parent / "_static"


def save(axes, name, folder=HERE):
    figure = np.atleast_1d(np.asarray(axes, dtype=object)).ravel()[0].figure
    figure.savefig(folder / f"{name}.svg", metadata={"Date": None})


def start_page(fit):
    """Nine subjects with their lines, the population's dashed."""
    from matplotlib import pyplot as plt

    _, axes = plt.subplots(2, 5, figsize=(8.6, 3.5), sharex=True, sharey=True, layout="constrained")
    fit.plot_fit("Days", ax=axes.ravel(), max_groups=10)
    save(axes, "start", STATIC)


def main():
    warnings.simplefilter("ignore")
    data = ms.datasets.load_sleepstudy()
    fit = ms.lmer("Reaction ~ Days + (Days | Subject)", data).fit()
    start_page(fit)
    pastes = ms.datasets.load_pastes()
    means = ms.lmer("strength ~ cask + (1 | batch)", pastes).fit().marginal_means("cask")
    save(means.plot(), "gallery-means")
    save(means.contrast("pairwise").plot(), "gallery-contrasts")
    cbpp = ms.datasets.load_cbpp()
    risk = ms.glmer("incidence / size ~ period + (1 | herd)", cbpp, family="binomial", weights="size").fit()
    save(risk.marginal_means("period", which="mean").contrast("pairwise").plot(), "gallery-ratios")
    save(fit.bootstrap(200, rng=1).plot(), "gallery-bootstrap")
    tmt = ms.datasets.load_tmt("wide")
    selection = ms.mvmise_b("P1_a + P1_b + P1_c ~ condition + (1 | batch)", tmt).fit()
    save(selection.plot_sensitivity(), "gallery-sensitivity")
    save(selection.plot_history(), "gallery-history")


if __name__ == "__main__":
    main()
