"""Marginal means against emmeans, and what the design says where emmeans differs."""

import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from posthoc_cases import cases, fit_of, frame_of, number
from scipy import stats

import mvmise_sm as ms
from mvmise_sm.exceptions import OptionError
from mvmise_sm.inference.means.contrasts import contrast_set
from mvmise_sm.inference.means.scales import link_scale, response_scale
from mvmise_sm.inference.means.simultaneous import max_law, range_law
from mvmise_sm.inference.tables import Table

VALUES = ("estimate", "std_error", "df", "statistic", "p_value", "conf_low", "conf_high")
TOLERANCE = {"estimate": 1e-6, "std_error": 2e-6, "df": 1e-5, "statistic": 1e-5, "conf_low": 1e-5, "conf_high": 1e-5}


def oats():
    return fit_of(
        {"dataset": "oats", "formula": "yield ~ nitro*Variety + (1|Block/Variety)", "model": {"maker": "lmer"}}
    )


def d4(formula="log(pos) ~ a*b + (1|g)"):
    case = next(c for c in cases("emmeans") if c["formula"] == formula)
    return fit_of(case)


def empty_cells():
    return fit_of(next(c for c in cases("emmeans") if c["id"] == "em-050-empty-cells"))


def logit():
    return fit_of(next(c for c in cases("emmeans") if c["id"] == "em-069-g-logit"))


def result_of(case):
    options, then = dict(case["options"]["means"]), dict(case["options"]["then"])
    specs, by, slopes = options.pop("specs"), options.pop("by", None), options.pop("slopes", None)
    if case["model"]["maker"] == "lmer":
        options.setdefault("ddf", None)
    fit = fit_of(case)
    means = fit.marginal_slopes(slopes, specs, by=by, **options) if slopes else fit.marginal_means(specs, by, **options)
    how = then.pop("method")
    if how == "frame":
        return means
    if how == "test":
        return means.test(**then)
    name = then.pop("contrast", None)
    return means.contrast(name, **then)


def key_of(row, labels, turned=False):
    parts = []
    for label in labels:
        text = str(row[label]).removesuffix(".0").replace(" / ", " - ")
        sides = text.split(" - ")
        parts.append(" - ".join(reversed(sides)) if turned and len(sides) == 2 else text)
    return tuple(parts)


@pytest.mark.parametrize("case", cases("emmeans"), ids=lambda c: c["id"])
def test_against_emmeans(case):
    got, expected, given = result_of(case).reset_index(drop=True), case["expected"], case["tol"] or {}
    labels = [c for c in expected[0] if c not in VALUES and c in got.columns]
    rows = {key_of(row, labels): row for _, row in got.iterrows()}
    assert len(got) == len(expected)
    for want in expected:
        row, turned = rows.get(key_of(want, labels)), False
        if row is None:  # a difference may be stated the other way round
            row, turned = rows[key_of(want, labels, True)], True
        ratio = turned and any(" / " in str(want[c]) for c in labels)
        for name in VALUES:
            if name not in want:
                continue
            other = {"conf_low": "conf_high", "conf_high": "conf_low"}.get(name, name) if turned else name
            value = row[other]
            if turned and name not in ("std_error", "df", "p_value"):
                value = 1.0 / value if ratio and name != "statistic" else -value
            if ratio and name == "std_error":
                value = value / row["estimate"] ** 2
            widest = max(given.get("estimate", 0.0), given.get("std_error", 0.0))
            if name == "p_value":
                atol = max(1e-6, 10.0 * max(widest, 0.1 * given.get("df", 0.0)))
                np.testing.assert_allclose(value, number(want[name]), rtol=0, atol=atol, err_msg=name)
                continue
            rtol = max(TOLERANCE[name], given.get(name, 0.0), 0.0 if name == "df" else widest)
            if name.startswith("conf"):
                rtol = max(rtol, 0.3 * given.get("df", 0.0))
            atol = 0.0 if name in ("std_error", "df") else rtol * number(want["std_error"])
            np.testing.assert_allclose(value, number(want[name]), rtol=rtol, atol=atol, err_msg=name)


# simultaneous laws


@pytest.mark.parametrize("df", [2.0, 7.3, 40.0, np.inf])
def test_studentized_range_agrees_with_scipy(df):
    law, t = range_law(5), np.array([0.4, 1.9, 3.1, 5.0])
    np.testing.assert_allclose(
        law.tail(t, np.full(4, df)), stats.studentized_range.sf(np.sqrt(2) * t, 5, df), atol=2e-9
    )
    quantile = law.quantile(0.05, np.array([df]))
    np.testing.assert_allclose(law.tail(quantile, np.array([df])), 0.05, rtol=1e-10)


def test_independent_and_single_variables_are_exact():
    df = np.array([9.0, np.inf])
    one = max_law(np.eye(1))
    np.testing.assert_allclose(one.tail(np.array([2.0, 2.0]), df), 2.0 * stats.t.sf(2.0, df), rtol=1e-8)
    four = max_law(np.eye(4))
    exact = 1.0 - (1.0 - 2.0 * stats.norm.sf(2.0)) ** 4
    np.testing.assert_allclose(four.tail(np.array([2.0]), np.array([np.inf])), exact, rtol=1e-8)


def test_one_factor_and_separated_variables_agree():
    """The same law by Dunnett and Sobel's integral and by Genz's, with singular pairs as Tukey's range."""
    from mvmise_sm.inference.means.simultaneous import MaxLaw, _interpolated, _separated

    correlation = 0.5 * np.eye(4) + 0.5
    t, df = np.array([1.0, 2.2, 3.0]), np.array([12.0, 12.0, np.inf])
    general = MaxLaw(_interpolated(_separated(correlation, True), True), 4)
    np.testing.assert_allclose(general.tail(t, df), max_law(correlation).tail(t, df), atol=2e-6)
    weights = contrast_set("pairwise", list("abcd"))[1][1]
    singular = weights @ weights.T / 2.0
    np.testing.assert_allclose(max_law(singular).tail(t, df), range_law(4).tail(t, df), atol=2e-6)


def test_one_sided_law():
    correlation = 0.5 * np.eye(3) + 0.5
    t, df = np.array([2.0]), np.array([20.0])
    one, two = max_law(correlation, False).tail(t, df), max_law(correlation).tail(t, df)
    assert two / 2.0 - 1e-4 < one < two
    np.testing.assert_allclose(max_law(np.eye(1), False).tail(t, df), stats.t.sf(t, df), rtol=1e-8)


def test_dunnett_is_the_same_in_every_call_and_process():
    table = oats().marginal_means("nitro").contrast("trt.vs.ctrl")["p_value"].to_numpy()
    again = oats().marginal_means("nitro").contrast("dunnett")["p_value"].to_numpy()
    np.testing.assert_array_equal(table, again)
    code = (
        "import numpy as np; from mvmise_sm.inference.means.simultaneous import max_law;"
        "r = np.array([[1, -.5, 0], [-.5, 1, -.5], [0, -.5, 1]]);"
        "print(repr(float(max_law(r).tail(np.array([2.2]), np.array([15.0]))[0])))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    here = max_law(np.array([[1, -0.5, 0], [-0.5, 1, -0.5], [0, -0.5, 1]])).tail(np.array([2.2]), np.array([15.0]))
    assert float(out) == here[0]


# contrasts


def test_polynomials_are_the_tabled_integers():
    names, matrix = contrast_set("poly", list("abcde"))[1]
    assert names == ["linear", "quadratic", "cubic", "quartic"]
    expected = [[-2, -1, 0, 1, 2], [2, -1, -2, -1, 2], [-1, 2, 0, -2, 1], [1, -4, 6, -4, 1]]
    np.testing.assert_array_equal(matrix, expected)
    assert len(contrast_set("poly", list("abcdefghijkl"))[1][0]) == 6
    np.testing.assert_array_equal(contrast_set("poly", ["a", "b"])[1][1], [[-1, 1]])


def test_contrasts_by_name_matrix_and_function():
    means = oats().marginal_means("nitro")
    custom = means.contrast({"low-high": [-0.5, -0.5, 0.5, 0.5]})
    assert list(custom["contrast"]) == ["low-high"]
    by_matrix = means.contrast([[-0.5, -0.5, 0.5, 0.5]])
    by_function = means.contrast(lambda labels: {"x": [-0.5] * 2 + [0.5] * (len(labels) - 2)})
    for table in (by_matrix, by_function):
        np.testing.assert_array_equal(table["p_value"], custom["p_value"])
    assert "none" not in custom.heading
    np.testing.assert_allclose(means.contrast("revpairwise")["estimate"], -means.contrast("pairwise")["estimate"])


def test_a_contrast_of_contrasts_is_the_interaction():
    means = oats().marginal_means("Variety", by="nitro")
    twice = means.contrast("consec", adjust="none").contrast("consec", by="contrast", adjust="none")
    once = oats().marginal_means(["Variety", "nitro"]).contrast(interaction="consec")
    np.testing.assert_allclose(np.sort(twice["estimate"]), np.sort(once["estimate"]), rtol=1e-10)


def test_joint_test_of_pairs_is_the_main_effect():
    result = oats()
    joint = result.marginal_means("nitro", ddf="kenward-roger").contrast("pairwise").test(joint=True)
    anova = result.anova(ddf="kenward-roger").loc["nitro"]
    np.testing.assert_allclose(joint.loc[0, ["df_num", "df_denom", "F", "p_value"]].astype(float), anova, rtol=1e-8)


def test_joint_tests_within_levels():
    result = oats()
    pd.testing.assert_frame_equal(pd.DataFrame(result.joint_tests()), pd.DataFrame(result.anova()))
    table = result.joint_tests("Variety", ddf="kenward-roger")
    assert list(table.columns) == ["Variety", "df_num", "df_denom", "F", "p_value"]
    means = result.marginal_means("nitro", by="Variety", ddf="kenward-roger")
    np.testing.assert_allclose(table["F"], means.contrast("poly").test(joint=True)["F"], rtol=1e-8)


def test_one_sided_tests_and_null_values():
    means = oats().marginal_means("nitro")
    upper, lower = means.test(null=90.0, side=">"), means.test(null=90.0, side="<")
    np.testing.assert_allclose(upper["p_value"] + lower["p_value"], 1.0)
    np.testing.assert_allclose(upper["statistic"], (means["estimate"] - 90.0) / means["std_error"])
    assert "conf_low" not in upper


# scales


@pytest.mark.parametrize(
    ("response", "at"),
    [
        ("log(y)", 0.7),
        ("log2(y)", 0.7),
        ("np.log10(y)", 0.4),
        ("log1p(y)", 0.7),
        ("sqrt(y)", 1.3),
        ("log(y + 2.5)", 0.7),
        ("I(1/y)", 0.7),
        ("logit(y)", 0.7),
        ("y", 0.7),
        ("log(y - 1)", 0.2),
        ("`odd name`", 3.0),
    ],
)
def test_scales_undo_the_response(response, at):
    forward = {
        "log(y)": np.log,
        "log2(y)": np.log2,
        "np.log10(y)": np.log10,
        "log1p(y)": np.log1p,
        "sqrt(y)": np.sqrt,
        "log(y + 2.5)": lambda y: np.log(y + 2.5),
        "I(1/y)": lambda y: 1 / y,
        "logit(y)": lambda y: np.log(y / (1 - y)),
        "log(y - 1)": lambda y: np.log(y - 1),
    }.get(response, lambda y: y)
    scale, at = response_scale(response), np.array([at])
    np.testing.assert_allclose(forward(scale.inverse(at)), at, rtol=1e-12)
    numeric = (scale.inverse(at + 1e-6) - scale.inverse(at - 1e-6)) / 2e-6
    np.testing.assert_allclose(scale.slope(at), numeric, rtol=1e-8)


@pytest.mark.parametrize("response", ["np.arcsinh(y)", "I(y**2)", "y + 1"])
def test_unknown_transformations_are_named(response):
    with pytest.raises(OptionError, match=r"log\(y \+ c\)"):
        response_scale(response)


def test_bias_adjustment_to_second_order_and_exactly():
    from statsmodels.genmod.families import links

    scale, eta = link_scale(links.Logit()), np.array([-1.0, 0.3])
    z = np.random.default_rng(0).normal(size=400_000)
    exact = scale.bias_adjusted(1.0, True)
    draws = scale.inverse(eta[:, None] + z)
    error = 4.0 * draws.std(axis=1) / np.sqrt(z.size)
    assert (np.abs(exact.inverse(eta) - draws.mean(axis=1)) < error).all()
    near = [
        np.abs(scale.bias_adjusted(s, False).inverse(eta) - scale.bias_adjusted(s, True).inverse(eta)).max()
        for s in (0.1, 0.2)
    ]
    assert near[0] < near[1] / 12.0  # the error is of fourth order
    log = link_scale(links.Log()).bias_adjusted(0.5, True)
    np.testing.assert_allclose(log.inverse(eta), np.exp(eta + 0.125), rtol=1e-10)


def test_ratios_differences_and_their_notes():
    means = logit().marginal_means("a", which="mean")
    odds = means.contrast("pairwise")
    assert odds["contrast"].iloc[0] == "a1 / a2"
    assert any("odds ratios" in note for note in odds.notes)
    risk = means.regrid().contrast("pairwise")
    np.testing.assert_allclose(risk["estimate"][0], means["estimate"][0] - means["estimate"][1], rtol=1e-10)
    probit = fit_of(next(c for c in cases("emmeans") if c["id"] == "em-078-g-mean-probit"))
    assert any("regrid=True" in note for note in probit.marginal_means("a", which="mean").contrast("eff").notes)


# estimability and notes


def test_contrasts_of_cells_without_data():
    means = empty_cells().marginal_means(["a", "b"])
    lost = means["estimate"].isna()
    assert lost.any()
    assert "Not estimable from these data: " in means.heading
    holm = means.contrast("pairwise", adjust="bonferroni")
    known = holm["estimate"].notna()
    raw = 2.0 * stats.t.sf(np.abs(holm["statistic"]), holm["df"])[known]
    np.testing.assert_allclose(holm["p_value"][known], np.minimum(1.0, raw * known.sum()))


def test_a_contrast_may_be_estimable_where_its_means_are_not():
    data = frame_of("oats").assign(twice=lambda d: 2.0 * (d["nitro"] == "0.4"), other=lambda d: d["nitro"].astype(str))
    with pytest.warns(ms.exceptions.RankWarning):
        result = ms.lmer("yield ~ nitro + twice + Variety + (1|Block)", data).fit()
    means = result.marginal_means("nitro", at={"twice": 1.0})
    assert means["estimate"].isna().sum() >= 1
    assert result.marginal_means("Variety").contrast("pairwise")["estimate"].notna().all()


def test_notes_say_what_was_done():
    notes = oats().marginal_means("nitro").notes
    assert "Averaged over: Variety (equal weights)." in notes
    assert "Results may mislead: nitro is part of the interaction nitro:Variety." in notes
    assert "Degrees of freedom: Satterthwaite." in notes
    tukey = oats().marginal_means("nitro", pairs=True).notes
    assert "P-values and intervals adjusted after Tukey for families of 6." in tukey


def test_scheffe_and_the_multivariate_t_bound_each_other():
    pairs = oats().marginal_means("nitro").contrast("pairwise", adjust="mvt")["p_value"]
    np.testing.assert_allclose(pairs, oats().marginal_means("nitro", pairs=True)["p_value"], atol=3e-6)
    assert (oats().marginal_means("nitro").contrast("pairwise", adjust="scheffe")["p_value"] > pairs - 1e-12).all()


# the object


def test_the_object_is_a_frame_and_its_parts_are_tables():
    means = oats().marginal_means("nitro")
    assert isinstance(means, pd.DataFrame)
    assert type(means[["estimate"]]) is Table
    assert "<p>" in means._repr_html_()
    back = pickle.loads(pickle.dumps(means))
    np.testing.assert_array_equal(back.contrast("consec")["p_value"], means.contrast("consec")["p_value"])
    np.testing.assert_array_equal(back.round(2)["estimate"], means["estimate"].round(2))


@pytest.mark.parametrize("specs", ["~ nitro | Variety", "nitro | Variety"])
def test_specs_as_in_r(specs):
    pd.testing.assert_frame_equal(
        pd.DataFrame(oats().marginal_means(specs)), pd.DataFrame(oats().marginal_means("nitro", by="Variety"))
    )


def test_the_grand_mean():
    table = oats().marginal_means("1")
    assert list(table.columns) == ["estimate", "std_error", "df", "conf_low", "conf_high"]
    np.testing.assert_allclose(table["estimate"], oats().marginal_means("nitro")["estimate"].mean())


def test_slopes_are_exact_for_quadratics():
    data = frame_of("d3")
    result = ms.lmer("y ~ x + I(x**2) + (1|g)", data).fit()
    at = 1.7
    slope = result.marginal_slopes("x", at={"x": at})["estimate"][0]
    np.testing.assert_allclose(slope, result.params["x"] + 2 * at * result.params["I(x ** 2)"], rtol=1e-9)


def test_offsets():
    result = fit_of(next(c for c in cases("emmeans") if c["id"] == "em-085-g-log"))
    base, other = result.marginal_means("a"), result.marginal_means("a", offset=0.0)
    np.testing.assert_allclose(base["estimate"] - other["estimate"], result.mean_offset(), rtol=1e-12)
    np.testing.assert_allclose(result.mean_offset(), np.log(result.model.data.frame["e"]).mean())


def test_plots_of_means_and_contrasts():
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    means = oats().marginal_means("nitro", by="Variety")
    assert len(means.plot().containers) == 3
    assert means.contrast("pairwise").plot().get_xlabel() == "difference"
    assert logit().marginal_means("a", which="mean").contrast("pairwise").plot().get_xscale() == "log"
    plt.close("all")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r: r.marginal_means("nitrogen"), "specs: 'nitrogen' is not a variable"),
        (lambda r: r.marginal_means("nitro", weights="x"), "'cells' or 'flat', got 'x'"),
        (lambda r: r.marginal_means("nitro").contrast({"a": [1, -1]}), "has 2 weights, there are 4 means: 0, 0.2"),
        (lambda r: r.marginal_means("nitro", at={"Variety": "z"}), "'Variety' has no level 'z'; its levels are"),
        (lambda r: r.marginal_slopes("nitro"), "'nitro' is a factor; slopes need a numeric variable"),
        (lambda r: r.marginal_means("nitro").contrast("consec", adjust="tukey"), "use 'mvt'"),
        (lambda r: r.marginal_means("nitro").contrast("pairwize"), "did you mean 'pairwise'"),
        (lambda r: r.marginal_means("nitro").contrast("trt.vs.ctrl", ref="x"), "ref: 'x' is not one of the means"),
        (lambda r: r.marginal_means("nitro").contrast("pairwise", by="Block"), "not a variable of these estimates"),
        (lambda r: r.marginal_means("nitro").contrast(interaction=["eff", "eff"]), "2 methods for the variables nitro"),
        (lambda r: r.marginal_means("nitro").test(side="up"), "side must be"),
        (lambda r: r.marginal_means("pairwise ~ nitro"), "contrast\\('pairwise'\\)"),
        (lambda r: r.marginal_means("nitro", bias_adjust="yes"), "bias_adjust must be"),
        (lambda r: r.marginal_means("nitro", sigma=1.0), "sigma goes with bias_adjust"),
        (lambda r: r.marginal_means("nitro", alpha=2.0), "alpha must lie"),
    ],
)
def test_bad_options(call, message):
    with pytest.raises(OptionError, match=message):
        call(oats())


@pytest.mark.parametrize(
    ("formula", "family"),
    [
        ("z ~ a + b + (1 | g)", "binomial(probit)"),
        ("z ~ a + b + (1 | g)", "binomial(cloglog)"),
        ("nb ~ a*b + (1 | g)", "nb2"),
    ],
)
def test_means_of_the_default_fit_are_nearer_to_the_exact_integral_than_r(formula, family):
    """R's approximation, which the reference cases of these models are fitted by, is up to .1 standard errors away."""
    model = ms.glmer(formula, frame_of("d7"), family=family)
    exact = model.fit(nagq=25).marginal_means("a")
    away = {
        curvature: np.max(np.abs(model.fit(curvature=curvature).marginal_means("a")["estimate"] - exact["estimate"]))
        for curvature in ("observed", "expected")
    }
    smallest = exact["std_error"].min()
    assert away["observed"] < 0.001 * smallest
    assert away["expected"] > 0.01 * smallest


def test_a_note_counts_the_family_where_tests_are_normal():
    odds = logit().marginal_means("a", which="mean").contrast("consec")
    assert any("for families of 2" in note for note in odds.notes)
