"""Draw the pictures of the guide page on priors.

python docs/guide/priors_figures.py
"""

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd

import mvmise_sm as ms
from mvmise_sm.priors import (
    Custom,
    Dimensions,
    Gamma,
    Horseshoe,
    InverseGamma,
    InverseWishart,
    Normal,
    StudentT,
    Wishart,
)

mpl.use("Agg")
mpl.rcParams.update(
    {
        "svg.hashsalt": "mvmise_sm",
        "font.size": 9.0,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
        "figure.constrained_layout.use": True,
    }
)
import matplotlib.pyplot as plt  # noqa: E402

HERE = Path(__file__).parent
COLOURS = ["#4c4c4c", "#0b6e8f", "#d1495b", "#edae49", "#66a182", "#8d6a9f"]


def half_cauchy(sd):
    """Log density of a half-Cauchy with scale 1, without its constant."""
    return -np.log1p(sd**2)


def standard_deviation(axes):
    """Penalty on the standard deviation of a random intercept."""
    dims = Dimensions(100, 2, level_dim=1, n_groups=10)
    drawn = [
        ("wishart, gamma (defaults)", Wishart()),
        ("gamma(shape = 2, rate = 1)", Gamma(2, 1)),
        ("wishart(df = 3, scale = 1)", Wishart(3, 1)),
        ("invgamma(shape = 1, scale = 0.1)", InverseGamma(1, 0.1)),
        ("half-Cauchy (custom)", Custom(half_cauchy, chol=True, scale="log")),
    ]
    sd = np.linspace(0.005, 3.0, 600)
    for (label, prior), colour in zip(drawn, COLOURS, strict=False):
        bound = prior.covariance(dims)
        value = np.array([bound.value(np.array([[s * s]])) for s in sd])
        axes.plot(sd, value - bound.value(np.ones((1, 1))), color=colour, label=label)
    axes.set(xlabel="standard deviation / sigma", ylabel="penalty, 0 at 1", ylim=(-5, 11), xlim=(0, 3))
    axes.legend(fontsize=8, loc="upper center", ncols=2)


def correlation(axes):
    """Penalty on the correlation of two random effects with unit variances."""
    dims = Dimensions(100, 2, level_dim=2, n_groups=10)
    drawn = [
        ("wishart (default)", Wishart()),
        ("wishart(df = 6, scale = 0.5)", Wishart(6, 0.5)),
        ("wishart(df = 9, scale = 0.5, posterior.scale = sqrt)", Wishart(9, 0.5, posterior_scale="sqrt")),
        ("invwishart(df = 4, scale = 1)", InverseWishart(4, 1)),
    ]
    rho = np.linspace(-0.9995, 0.9995, 801)
    for (label, prior), colour in zip(drawn, COLOURS, strict=False):
        bound = prior.covariance(dims)
        value = np.array([bound.value(np.array([[1.0, r], [r, 1.0]])) for r in rho])
        axes.plot(rho, value - bound.value(np.eye(2)), color=colour, label=label)
    axes.set(xlabel="correlation", ylabel="penalty, 0 at 0", ylim=(-6, 15), xlim=(-1, 1))
    axes.legend(fontsize=8, loc="upper center")


def coefficient(axes):
    """Penalty on one fixed effect."""
    dims = Dimensions(100, 1)
    drawn = [
        ("normal(sd = 2.5)", Normal(sd=2.5)),
        ("t(df = 3, scale = 2.5^2)", StudentT(3, 6.25)),
        ("t(df = 1, scale = 2.5^2), Cauchy", StudentT(1, 6.25)),
        ("horseshoe(global.shrinkage = 2.5)", Horseshoe(global_shrinkage=2.5)),
    ]
    beta = np.linspace(-12.0, 12.0, 1201)
    for (label, prior), colour in zip(drawn, COLOURS, strict=False):
        (block,) = prior.fixef(dims)
        value = [block.constant + block.mixing.phi(b * b * block.precision[0, 0])[0] for b in beta]
        axes.plot(beta, value, color=colour, label=label)
    axes.set(xlabel="coefficient / sigma", ylabel="-2 log density", xlim=(-12, 12), ylim=(-2, 22))
    axes.legend(fontsize=8, loc="upper center")


def zero_variance(axes):
    """Dyestuff2: criterion, penalty and their sum."""
    data = pd.read_csv(HERE.parents[1] / "tests" / "reference" / "data" / "Dyestuff2.csv")
    model = ms.blmer("Yield ~ 1 + (1 | Batch)", data)
    flat, held = ms.lmer("Yield ~ 1 + (1 | Batch)", data).criterion(), model.criterion()
    theta = np.linspace(0.01, 1.5, 300)
    base = flat([0.0])
    axes.plot(theta, [flat([t]) - base for t in theta], color=COLOURS[0], label="REML criterion")
    axes.plot(theta, [held([t]) - base for t in theta], color=COLOURS[1], label="with the default prior")
    best = model.fit()
    axes.plot(best.theta, best.criterion + best.penalty - base, "o", color=COLOURS[1])
    axes.plot(0.0, 0.0, "o", color=COLOURS[0], clip_on=False)
    axes.set(xlabel="standard deviation / sigma", ylabel="objective, 0 at 0", ylim=(-0.5, 10), xlim=(0, 1.5))
    axes.legend(fontsize=8, loc="upper center")


def main():
    """Write the pictures next to this script."""
    for draw in (standard_deviation, correlation, coefficient, zero_variance):
        figure, axes = plt.subplots(figsize=(5.6, 3.4))
        draw(axes)
        name = draw.__name__.replace("_", "-")
        figure.savefig(HERE / f"priors-{name}.svg", metadata={"Date": None})
        plt.close(figure)


if __name__ == "__main__":
    main()
