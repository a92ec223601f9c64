"""Every plot renders, returns its Axes, and no label lies on another."""

import matplotlib
import numpy as np
import pytest
from inference_models import fitted, frame_of, sleepstudy, unbalanced

import mvmise_sm as ms
from mvmise_sm.exceptions import OptionError

matplotlib.use("Agg")
from matplotlib import pyplot as plt


def grouse():
    return fitted("grouseticks", "TICKS ~ YEAR + cHEIGHT + (1 | BROOD) + (1 | LOCATION)", family="poisson")


def with_priors():
    priors = {
        "cov_prior": "wishart",
        "fixef_prior": ms.priors.Normal(sd=[300.0, 20.0], common_scale=False),
        "resid_prior": ms.priors.InverseGamma(shape=3.0, scale=50.0),
    }
    return ms.lmer("Reaction ~ Days + (Days | Subject)", frame_of("sleepstudy"), **priors).fit(reml=False)


PLOTS = {
    "random_effects": (lambda: sleepstudy().plot_random_effects(), 2),
    "random_effects_many": (lambda: grouse().plot_random_effects("LOCATION"), 1),
    "diagnostics": (lambda: sleepstudy().plot_diagnostics(), 4),
    "diagnostics_counts": (lambda: grouse().plot_diagnostics(), 4),
    "profile_zeta": (lambda: sleepstudy().plot_profile(), 6),
    "profile_density": (lambda: sleepstudy().plot_profile(kind="density"), 6),
    "profile_object": (lambda: sleepstudy().profile(["Days"]).plot(), 1),
    "qq": (lambda: sleepstudy().plot_qq(), 1),
    "qq_random": (lambda: sleepstudy().plot_qq("Subject", column="Days"), 1),
    "fitted_lines": (lambda: sleepstudy().plot_fit("Days"), 18),
    "fitted_lines_overlay": (lambda: sleepstudy().plot_fit("Days", ax=plt.subplots()[1]), 1),
    "priors": (lambda: with_priors().plot_priors(), 5),
    "influence_rows": (lambda: sleepstudy().plot_influence(), 1),
    "influence_groups": (lambda: sleepstudy().plot_influence("Subject"), 1),
}


def hidden_tick_labels(figure):
    """Labels of ticks outside the view, which are not drawn; by identity."""
    hidden = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            margin = 1e-9 * (high - low)
            for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
                if not low - margin <= tick.get_loc() <= high + margin:
                    hidden |= {id(tick.label1), id(tick.label2)}
    return hidden


def overlapping(figure):
    """Pairs of visible texts whose boxes overlap by more than a rounding."""
    renderer = figure.canvas.get_renderer()
    hidden = hidden_tick_labels(figure)
    boxes = [
        (text.get_text(), text.get_window_extent(renderer))
        for text in figure.findobj(matplotlib.text.Text)
        if text.get_visible() and text.get_text().strip() and id(text) not in hidden
    ]
    found = []
    for i, (first, a) in enumerate(boxes):
        for second, b in boxes[i + 1 :]:
            width = min(a.x1, b.x1) - max(a.x0, b.x0)
            height = min(a.y1, b.y1) - max(a.y0, b.y0)
            if width > 1.0 and height > 1.0:
                found.append((first, second))
    return found


@pytest.mark.parametrize("name", PLOTS)
def test_renders_without_collisions(name, tmp_path):
    draw, count = PLOTS[name]
    axes = np.atleast_1d(np.asarray(draw(), dtype=object)).ravel()
    assert len(axes) == count
    assert all(isinstance(ax, matplotlib.axes.Axes) for ax in axes)
    figure = axes[0].figure
    path = tmp_path / f"{name}.png"
    figure.savefig(path, dpi=100)
    assert path.stat().st_size > 5000
    assert overlapping(figure) == []
    plt.close(figure)


def test_given_axes_are_used():
    _, axes = plt.subplots(1, 2)
    out = sleepstudy().plot_random_effects(ax=axes)
    assert list(out) == list(axes)
    single = plt.subplots()[1]
    assert sleepstudy().plot_diagnostics(ax=single) is single
    assert sleepstudy().plot_profile("Days", ax=plt.subplots()[1]).get_title() == "Days"
    plt.close("all")


def test_caterpillar_shows_the_modes_and_their_intervals():
    ax = sleepstudy().plot_random_effects(columns="Days")
    (points,) = ax.collections[1:]
    np.testing.assert_allclose(points.get_offsets()[:, 0], np.sort(sleepstudy().random_effects["Subject"]["Days"]))
    lines = np.array(ax.collections[0].get_segments())
    sd = np.sqrt(sleepstudy().random_effects_cov["Subject"][0, 1, 1])
    np.testing.assert_allclose(lines[:, 1, 0] - lines[:, 0, 0], 2.0 * 1.959964 * sd, rtol=1e-5)
    assert ax.get_yticklabels()[0].get_text() == "335"
    plt.close("all")


def test_zeta_lines_stand_at_the_interval_ends():
    ax = sleepstudy().plot_profile("sigma")
    ends = sorted(float(np.array(c.get_segments())[0, 0, 0]) for c in ax.collections if len(c.get_segments()) == 1)
    low, high = sleepstudy().conf_int(method="profile").loc["sigma"]
    assert min(abs(e - low) for e in ends) < 0.01 * (high - low)
    assert min(abs(e - high) for e in ends) < 0.01 * (high - low)
    plt.close("all")


def test_prior_curve_is_the_prior_density():
    data = unbalanced(8, 14)
    result = ms.lmer("y ~ x + (1 | g)", data, fixef_prior=ms.priors.Normal(sd=0.5, common_scale=False)).fit(reml=False)
    axes = result.plot_priors()
    posterior, prior = axes[1].lines[:2]
    x, y = prior.get_data()
    np.testing.assert_allclose(
        y / y.max(), np.exp(-0.5 * (x / 0.5) ** 2) / np.exp(-0.5 * (x / 0.5) ** 2).max(), rtol=1e-6
    )
    np.testing.assert_allclose(posterior.get_xdata()[np.argmax(posterior.get_ydata())], result.params["x"], atol=0.02)
    plt.close("all")


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda r: r.plot_random_effects("herd"), "group must be one of"),
        (lambda r: r.plot_random_effects(columns="x"), "columns must be among"),
        (lambda r: r.plot_random_effects(ax=plt.subplots()[1]), "2 Axes"),
        (lambda r: r.plot_profile(kind="pairs"), "kind must be"),
        (lambda r: r.plot_qq("herd"), "level must be"),
        (lambda r: r.plot_qq("Subject", column="x"), "column must be"),
        (lambda r: r.plot_fit("Nope"), "must be a variable"),
        (lambda r: r.plot_priors(), "no priors"),
    ],
)
def test_bad_options_are_named(draw, message):
    with pytest.raises(OptionError, match=message):
        draw(sleepstudy())
    plt.close("all")


def test_fitted_lines_take_factors_and_say_what_is_shown():
    data = unbalanced(3, 24)
    result = ms.lmer("y ~ f + x + (1 | g)", data).fit()
    axes = result.plot_fit("f", max_groups=6)
    assert len(axes) == 6
    assert [t.get_text() for t in axes[-1].get_xticklabels()] == ["a", "b", "c"]
    assert axes[0].figure._suptitle.get_text() == "6 of 24 levels of g"
    assert result.plot_fit("f", ax=plt.subplots()[1]).get_xlabel() == "f"
    with pytest.raises(OptionError, match="x must be a variable of the data"):
        result.plot_fit("nope")
    plt.close("all")


def test_bootstrap_distributions():
    resampled = sleepstudy().bootstrap(30, rng=1)
    assert len(resampled.plot()) == 6
    assert resampled.plot("Days").get_title() == "Days"
    with pytest.raises(OptionError, match="unknown parameter 'days'"):
        resampled.plot("days")
    plt.close("all")
