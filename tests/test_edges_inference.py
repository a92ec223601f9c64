"""Small-sample tests at their limits: exact F tests, one answer for one hypothesis, deletion of single rows."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import mvmise_sm as ms
from mvmise_sm import exceptions as ex
from mvmise_sm.core.uncertainty.kenward_roger import f_approximation
from mvmise_sm.inference.ddf import PlainDf
from mvmise_sm.inference.hypotheses import term_contrasts

REFERENCE = Path(__file__).parent / "reference"

# --- Kenward-Roger and Satterthwaite in balanced designs are classical analysis of variance


def nested(arms, wards, rows, rng):
    """Wards within arms, with a between-ward spread that no draw can hide."""
    frame = pd.DataFrame(
        [(a, f"{a}{w}", r) for a in range(arms) for w in range(wards) for r in range(rows)], columns=["f", "w", "r"]
    )
    spread = np.concatenate([rng.permutation(np.linspace(-4.0, 4.0, wards)) for _ in range(arms)])
    level = dict(zip(frame["w"].unique(), spread, strict=True))
    y = 2.0 * frame["f"] + frame["w"].map(level) + rng.normal(size=len(frame))
    return frame.assign(y=y, f=frame["f"].map("f{}".format))


def crossed(arms, wards, rows, rng):
    """Every ward has every arm; wards differ in what an arm does."""
    frame = pd.DataFrame(
        [(a, w, r) for w in range(wards) for a in range(arms) for r in range(rows)], columns=["f", "w", "r"]
    )
    spread = 3.0 * rng.normal(size=(wards, arms)) + np.linspace(-20.0, 20.0, wards)[:, None]
    y = frame["f"] + spread[frame["w"], frame["f"]] + rng.normal(size=len(frame))
    return frame.assign(y=y, f=frame["f"].map("f{}".format))


def one_way(values, k, m):
    """F and p of k group means of equally many units, from their means and the spread of units within groups."""
    means = values.mean(axis=1)
    between = values.shape[1] * np.square(means - means.mean()).sum() / (k - 1)
    within = np.square(values - means[:, None]).sum() / m
    return between / within, stats.f.sf(between / within, k - 1, m)


# denominator degrees of freedom k (n - 1)
NESTED = [(2, 2), (2, 3), (2, 4), (2, 5), (2, 6), (3, 2), (3, 3), (3, 4), (4, 2), (4, 3), (5, 2), (5, 3)]
# denominator degrees of freedom (k - 1)(n - 1)
CROSSED = [(2, n) for n in (2, 3, 4, 5, 6, 8, 11)] + [(3, n) for n in range(2, 7)] + [(4, 2), (4, 4)]


@pytest.mark.parametrize("ddf", ["kenward-roger", "satterthwaite"])
@pytest.mark.parametrize(("arms", "wards"), NESTED)
def test_anova_of_balanced_nested_designs_is_classical(arms, wards, ddf):
    data = nested(arms, wards, 4, np.random.default_rng(10 * arms + wards))
    result = ms.lmer("y ~ f + (1 | w)", data).fit()
    means = data.groupby("w", sort=False)["y"].mean().to_numpy().reshape(arms, wards)
    m = arms * (wards - 1)
    f, p = one_way(means, arms, m)
    row = result.anova(ddf=ddf).loc["f"]
    rtol = 1e-6 if ddf == "kenward-roger" else 1e-4  # the Hessian of Satterthwaite's method is at the estimate's digits
    np.testing.assert_allclose([row["df_num"], row["df_denom"]], [arms - 1, m], rtol=rtol)
    np.testing.assert_allclose([row["F"], row["p_value"]], [f, p], rtol=1e-5 if ddf == "kenward-roger" else 1e-3)
    first = result.tidy(ddf=ddf).set_index("term").loc["f[T.f1]"]
    np.testing.assert_allclose(first["df"], m, rtol=rtol)


@pytest.mark.parametrize(("arms", "wards"), CROSSED)
def test_anova_of_balanced_blocks_is_classical(arms, wards):
    data = crossed(arms, wards, 3, np.random.default_rng(100 * arms + wards))
    result = ms.lmer("y ~ f + (1 | w/f)", data).fit()
    cells = data.groupby(["w", "f"], sort=False)["y"].mean().to_numpy().reshape(wards, arms)
    m = (arms - 1) * (wards - 1)
    rest = cells - cells.mean(axis=0) - cells.mean(axis=1, keepdims=True) + cells.mean()
    effects = cells.mean(axis=0) - cells.mean()
    f = wards * np.square(effects).sum() / (arms - 1) / (np.square(rest).sum() / m)
    row = result.anova(ddf="kenward-roger").loc["f"]
    np.testing.assert_allclose([row["df_denom"], row["F"]], [m, f], rtol=1e-5)
    np.testing.assert_allclose(row["p_value"], stats.f.sf(f, arms - 1, m), rtol=1e-4)


@pytest.mark.parametrize("q", range(1, 8))
@pytest.mark.parametrize("m", [1, 2, 3, 4, 5, 6, 10, 100])
def test_kenward_roger_moments_of_one_mean_square(q, m):
    df, scaling = f_approximation(q, 2.0 * q * q / m, 2.0 * q / m)
    np.testing.assert_allclose([df, scaling], [m, 1.0], rtol=1e-9)
    for nudge in (1e-13, -1e-13, 1e-7, -1e-7):  # no jump where the limit is taken
        near, factor = f_approximation(q, 2.0 * q * q / m * (1.0 + nudge), 2.0 * q / m * (1.0 + nudge))
        np.testing.assert_allclose([near, factor], [m, 1.0], rtol=1e-5)


def test_kenward_roger_without_uncertainty_has_infinite_df():
    assert f_approximation(3, 0.0, 0.0) == (np.inf, 1.0)


def test_one_term_at_four_df_leaves_the_table_whole():
    rng = np.random.default_rng(4)
    data = nested(2, 3, 4, rng).assign(x=rng.normal(size=24))
    table = ms.lmer("y ~ f + x + (1 | w)", data).fit().anova(ddf="kenward-roger")
    assert np.isfinite(table.to_numpy(dtype=float)).all()


def test_plain_f_test_divides_by_the_number_of_rows():
    cov = np.diag([1.0, 4.0, 9.0])
    f, q, df = PlainDf(cov, np.inf).f_test(np.eye(3), np.array([1.0, 2.0, 3.0]))
    assert (f, q, df) == (pytest.approx(1.0), 3, np.inf)
    f, q, _ = PlainDf(cov, 7.0).f_test(np.vstack([np.eye(3)[:2], [1.0, 1.0, 0.0]]), np.array([1.0, 4.0, 5.0]))
    assert (f, q) == (pytest.approx((1.0 + 4.0) / 2.0), 2)


# --- one hypothesis has one number of degrees of freedom


@pytest.fixture(scope="module")
def slopes():
    rng = np.random.default_rng(17)
    g = np.repeat(np.arange(9), [5, 6, 7, 8, 9, 5, 6, 7, 8])
    n = len(g)
    x = rng.uniform(0.0, 6.0, n)
    f = np.array(list("pqrs"))[rng.integers(0, 4, n)]
    h = np.array(list("uv"))[rng.integers(0, 2, n)]
    y = x + rng.normal(size=9)[g] * (x - 1) * 0.6 + rng.normal(size=9)[g] + 0.4 * (f == "q") + rng.normal(size=n)
    return pd.DataFrame({"y": y, "x": x, "f": f, "h": h, "g": g})


def test_satterthwaite_has_one_basis_for_one_hypothesis(slopes):
    result = ms.lmer("y ~ exp(x / 4) + f + (x - 1 | g) + (1 | g)", slopes).fit()
    tables = [result.anova(type=t) for t in (1, 2, 3)]
    names = [n for n in result.model.exog_names if n.startswith("f[")]
    rows = np.eye(len(result.params))[[result.model.exog_names.index(n) for n in names]]
    mixed = np.random.default_rng(0).normal(size=(3, 3)) @ rows
    tests = [
        result.wald_test(rows, ddf="satterthwaite"),
        result.wald_test(mixed, ddf="satterthwaite"),
        result.wald_test(np.vstack([rows, mixed]), ddf="satterthwaite"),
        result.wald_test(", ".join(f"{n} = 0" for n in names), ddf="satterthwaite"),
        result.wald_test(f"{names[2]} = {names[1]}, {names[0]} = {names[1]}, {names[1]} = 0", ddf="satterthwaite"),
    ]
    df = [t.loc["f", "df_denom"] for t in tables] + [t.df_denom for t in tests]
    f = [t.loc["f", "F"] for t in tables] + [float(np.squeeze(t.fvalue)) for t in tests]
    np.testing.assert_allclose(df, df[0], rtol=1e-8)
    np.testing.assert_allclose(f, f[0], rtol=1e-8)


def test_satterthwaite_df_do_not_depend_on_the_coding(slopes):
    codings = ["f * h", "C(f, Sum) * C(h, Sum)", "C(f, Helmert) * h", "C(f, Treatment('r')) * C(h, Sum)"]
    tables = [ms.lmer(f"y ~ x + {c} + (0 + x | g)", slopes).fit().anova(type=3) for c in codings]
    for table in tables[:3]:
        np.testing.assert_allclose(table.to_numpy(dtype=float), tables[0].to_numpy(dtype=float), rtol=1e-4)
    interaction = [t["F"].iloc[-1] for t in tables]
    np.testing.assert_allclose(interaction, interaction[0], rtol=1e-5)


def test_a_hypothesis_that_contradicts_itself_is_refused(slopes):
    result = ms.lmer("y ~ x + f + (1 | g)", slopes).fit()
    with pytest.raises(ex.OptionError, match="contradicts itself"):
        result.wald_test("x = 0, x = 1", ddf="satterthwaite")
    double = result.wald_test("x = 1, 2 * x = 2", ddf="satterthwaite")
    single = result.wald_test("x = 1", ddf="satterthwaite")
    np.testing.assert_allclose([double.fvalue, double.df_denom], [single.fvalue, single.df_denom])


# --- deletion of single rows


@pytest.mark.parametrize(
    ("formula", "weights"),
    [("y ~ x + (1 | g)", None), ("y ~ x + f + (0 + x | g)", "w"), ("y ~ h * x + (1 | g) + (1 | f)", "w")],
)
def test_cooks_distance_of_rows_is_that_of_deletion(slopes, formula, weights):
    data = slopes.assign(w=np.linspace(0.4, 2.0, len(slopes)))
    result = ms.lmer(formula, data, weights=weights).fit()
    influence = result.get_influence()
    inverse = np.linalg.inv(np.asarray(result.cov_params()))
    p = len(result.params)
    for row in (0, 11, 40, 60):
        left = ms.lmer(formula, data.drop(index=row), weights=weights).criterion(True).solve(result.theta)
        change = np.asarray(result.params) - left.beta
        np.testing.assert_allclose(influence.cooks_distance[row], change @ inverse @ change / p, rtol=1e-6)
        errors = np.sqrt(result.scale * np.diag(left.cov_beta))
        np.testing.assert_allclose(influence.dfbetas.loc[row], change / errors, rtol=1e-5, atol=1e-9)
    assert (influence.cooks_distance_lme4 > influence.cooks_distance).mean() > 0.5


def test_cooks_distance_without_random_variance_is_that_of_least_squares(slopes):
    import statsmodels.api as sm

    rng = np.random.default_rng(2)
    data = slopes.assign(y=rng.normal(size=len(slopes)) - 0.5 * slopes.groupby("g")["x"].transform("mean") * 0)
    data["y"] -= data.groupby("g")["y"].transform("mean")
    with pytest.warns(ex.SingularFitWarning):
        result = ms.lmer("y ~ x + (1 | g)", data).fit()
    ols = sm.OLS(data["y"], sm.add_constant(data["x"])).fit().get_influence()
    np.testing.assert_allclose(result.get_influence().cooks_distance, ols.cooks_distance[0], rtol=1e-6)


def test_an_interaction_with_an_empty_cell_has_lmertests_basis():
    data = pd.read_csv(REFERENCE / "posthoc" / "empty_cell.csv", dtype=dict.fromkeys("abcg", str))
    formula = "y ~ c*a + b + (1 | g) + (1 | g:a)"
    with pytest.warns(ex.RankWarning, match="dropped"), pytest.warns(ex.SingularFitWarning):
        result = ms.lmer(formula, data).fit()
    # lmerTest 3.1: anova(fit, type = 3, ddf = "Satterthwaite")
    expected = {"c": 21.886658471602, "a": 21.816981990447, "b": 21.273715911835, "c:a": 22.061489765021}
    table = result.anova(type=3, ddf="satterthwaite")
    assert table["df_denom"].to_dict() == pytest.approx(expected, abs=5e-4)
    own = np.eye(9)[-3:]
    np.testing.assert_allclose(term_contrasts(result._results, 3)["c:a"], own, atol=1e-12)
    np.testing.assert_allclose(term_contrasts(result._results, 2)["c:a"], own, atol=1e-12)
