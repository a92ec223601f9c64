"""Draw the pictures of the guide page on inference.

python docs/guide/inference_figures.py
"""

from pathlib import Path

import matplotlib as mpl
import numpy as np

import mvmise_sm as ms

mpl.use("Agg")
mpl.rcParams.update({"svg.hashsalt": "mvmise_sm", "font.size": 9.0})
HERE = Path(__file__).parent


def save(axes, name):
    figure = np.atleast_1d(np.asarray(axes, dtype=object)).ravel()[0].figure
    figure.savefig(HERE / f"inference-{name}.svg", metadata={"Date": None})


def main():
    data = ms.datasets.load_sleepstudy()
    fit = ms.lmer("Reaction ~ Days + (Days | Subject)", data).fit()
    save(fit.plot_random_effects(), "random-effects")
    save(fit.plot_diagnostics(), "diagnostics")
    save(fit.plot_profile(), "profile")
    save(fit.plot_profile(kind="density"), "density")
    save(fit.plot_fit("Days"), "fitted-lines")
    save(fit.plot_influence("Subject"), "influence")
    save(fit.plot_qq("Subject", column="Days"), "qq")
    prior = ms.priors.Normal(sd=[300.0, 20.0], common_scale=False)
    penalised = ms.blmer("Reaction ~ Days + (Days | Subject)", data, fixef_prior=prior).fit(reml=False)
    save(penalised.plot_priors(), "priors")


if __name__ == "__main__":
    main()
