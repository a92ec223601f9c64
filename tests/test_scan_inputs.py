"""What a scan is given: long and ragged tables, weights, contrasts; and the sentences for what it cannot be given."""

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm

import mvmise_sm as ms
from mvmise_sm.exceptions import DataError, DataWarning, OptionError, UnknownOptionError


def wide(K=5, seed=0):
    rng = np.random.default_rng(seed)
    mixture = np.repeat([f"M{m}" for m in range(6)], 6)
    samples = pd.DataFrame({"Mixture": mixture, "Channel": np.tile([f"C{c}" for c in range(6)], 6)})
    samples["Condition"] = np.tile(list("ABC"), 12)
    b = rng.normal(0.0, 0.4, (6, K))[np.repeat(np.arange(6), 6)]
    values = 10.0 + np.arange(K) + (samples["Condition"] == "B").to_numpy()[:, None] * 0.6 + b
    return samples, pd.DataFrame(values + rng.normal(0.0, 0.4, (36, K)), columns=[f"p{k}" for k in range(K)])


def long(seed=0):
    """Two proteins of three and two peptides; a mixture of one is absent."""
    samples, values = wide(seed=seed)
    table = samples.join(values).melt(list(samples.columns), var_name="Peptide", value_name="Abundance")
    table["Protein"] = np.where(table["Peptide"].isin(["p0", "p1", "p2"]), "P1", "P2")
    return table[~((table["Protein"] == "P2") & (table["Mixture"] == "M3"))], samples


KEYS = {"by": "Protein", "outcome": "Abundance", "column": "Peptide", "sample": ["Mixture", "Channel"]}
FORMULA = "~ Condition + (1 | Mixture)"
LINEAR_ONLY = "is defined for model='lmer' and 'ols'; leave it out"
NO_EFFECT = r"contrasts: 'Condition\[T.D\]' is not a fixed effect; allowed are"


# the simulated batches differ by outcome, which model b says
@pytest.mark.filterwarnings("ignore:outcomes vary between batches on their own:mvmise_sm.exceptions.DataWarning")
@pytest.mark.parametrize("model", ["mvmise_b", "mvmise_e"])
def test_long_ragged_tables_are_wide_fits_on_the_complete_grid(model):
    table, samples = long()
    found = ms.scan(FORMULA, table.sample(frac=1.0, random_state=1), model=model, samples=samples, **KEYS)
    assert list(found.columns)[-1] == "n_outcomes"
    assert set(found["term"]) == {"Condition[T.B]", "Condition[T.C]"}
    frame = samples.join(wide()[1])
    frame.loc[frame["Mixture"] == "M3", ["p3", "p4"]] = np.nan
    for protein, names in {"P1": ["p0", "p1", "p2"], "P2": ["p3", "p4"]}.items():
        text = f"{' + '.join(names)} {FORMULA}"
        single = getattr(ms, model)(text, frame, outcome_effects=["Intercept"]).fit()
        rows = found[found["feature"] == protein].set_index("term")
        assert rows["estimate"].to_numpy() == pytest.approx(single.params[rows.index].to_numpy(), rel=1e-4, abs=1e-5)
        assert rows["se"].to_numpy() == pytest.approx(single.bse[rows.index].to_numpy(), rel=1e-3)
        assert (rows["n_outcomes"] == len(names)).all()
    by_list = ms.scan(FORMULA, frame, {"P1": ["p0", "p1", "p2"], "P2": ["p3", "p4"]}, model)
    np.testing.assert_allclose(by_list["estimate"], found.sort_values("feature", kind="stable")["estimate"], rtol=1e-5)


def test_own_intercepts_are_shown_where_they_are_named():
    table, samples = long()
    frame = samples.join(wide()[1])
    ragged = {"P1": ["p0", "p1"], "P2": "p3"}
    assert set(ms.scan(FORMULA, frame, ragged, "mvmise_b")["term"]) == {"Condition[T.B]", "Condition[T.C]"}
    assert "Intercept" in set(ms.scan(FORMULA, frame, ragged, "mvmise_b", outcome_effects=[])["term"])
    assert "Intercept" in set(ms.scan(FORMULA, frame, ["p3"], "mvmise_b")["term"])
    found = ms.scan(FORMULA, table, model="mvmise_b", samples=samples, terms=["Intercept"], **KEYS)
    assert list(found["term"]) == [f"Intercept[p{k}]" for k in range(5)]


def test_stacked_outcomes_of_a_linear_model():
    table, _ = long()
    found = ms.scan("~ Condition + Peptide + (1 | Mixture)", table, model="lmer", terms="Condition", ddf=None, **KEYS)
    own = table[table["Protein"] == "P2"]
    single = ms.lmer("Abundance ~ Condition + Peptide + (1 | Mixture)", own).fit()
    rows = found[found["feature"] == "P2"].set_index("term")
    assert rows["estimate"].to_numpy() == pytest.approx(single.params[rows.index].to_numpy(), rel=1e-6)
    assert rows["nobs"].iloc[0] == len(own)


def test_one_value_per_sample_needs_no_column():
    table, _ = long()
    keys = {k: v for k, v in KEYS.items() if k != "column"}
    one = table[table["Peptide"].isin(["p0", "p3"])]
    found = ms.scan(FORMULA, one, model="lmer", contrasts="pairwise:Condition", **keys)
    assert list(found["term"])[:3] == ["B - A", "C - A", "C - B"]
    single = ms.lmer(f"Abundance {FORMULA}", one[one["Protein"] == "P2"]).fit()
    test = single.t_test("Condition[T.C] - Condition[T.B]", ddf="kenward-roger")
    row = found[(found["feature"] == "P2") & (found["term"] == "C - B")].iloc[0]
    assert [row["estimate"], row["se"], row["df"], row["p"]] == pytest.approx(
        [test.effect.item(), test.sd.item(), test.df_denom.item(), float(test.pvalue)], rel=1e-5
    )


def test_a_weight_of_zero_is_a_missing_value():
    samples, values = wide()
    rng = np.random.default_rng(3)
    gone = rng.random(values.shape) < 0.15
    weights = pd.DataFrame(np.where(gone, 0.0, 1.0), columns=values.columns)
    call = {"model": "lmer", "moderate": None, "variance_shares": True}
    one = ms.scan(FORMULA, samples, values.mask(gone), **call)
    other = ms.scan(FORMULA, samples, values, weights=weights, **call)
    pd.testing.assert_frame_equal(one, other, rtol=1e-6)
    pd.testing.assert_frame_equal(one.variance_shares, other.variance_shares, rtol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 50.0, 1e-6])
def test_batches_are_single_fits_with_weights_and_offsets(scale):
    samples, values = wide()
    samples["w"] = np.random.default_rng(1).uniform(0.5, 2.0, len(samples))
    samples["o"] = np.arange(len(samples)) * 0.01 * scale
    values = (values * scale).mask(np.random.default_rng(2).random(values.shape) < 0.1)
    found = ms.scan(FORMULA, samples, values, "lmer", weights="w", offset="o", tests=True)
    single = ms.lmer("p2 " + FORMULA, samples.join(values), weights="w", offset="o").fit()
    rows = found[found["feature"] == "p2"].set_index("term")
    tidy = single.tidy(ddf="kenward-roger").set_index("term")
    assert rows["estimate"].to_numpy() == pytest.approx(tidy["estimate"].to_numpy(), rel=1e-6)
    assert rows["se"].to_numpy() == pytest.approx(tidy["std_error"].to_numpy(), rel=1e-6)
    assert rows["df"].to_numpy() == pytest.approx(tidy["df"].to_numpy(), rel=1e-5)
    anova = single.anova(ddf="kenward-roger")
    test = found.tests.set_index("feature").loc["p2"]
    assert [test["f"], test["df_denom"]] == pytest.approx(anova.loc["Condition", ["F", "df_denom"]].to_list(), rel=1e-5)


def test_a_condition_without_values_is_a_sentence_and_the_rest_is_estimated():
    samples, values = wide()
    for level, shown in (("B", "c2"), ("A", "c3")):
        gone = values.copy()
        gone.loc[samples["Condition"] == level] = np.nan
        contrasts = {"c1": "Condition[T.B]", "c2": "Condition[T.C]", "c3": "Condition[T.C] - Condition[T.B]"}
        for model, features in (("lmer", ["p0"]), ("ols", ["p0"]), ("mvmise_b", [["p0", "p1", "p2"]])):
            formula = "~ Condition" if model == "ols" else FORMULA
            found = ms.scan(formula, samples.join(gone), features, model, contrasts=contrasts).set_index("term")
            assert list(found.index[found["se"].notna()]) == [shown]
            missing = found[found["se"].isna()]
            for term, message in missing["message"].items():
                assert message.startswith(f"{term} cannot be estimated: no sample of level '{level}' has a value")
            assert "cannot be" not in found.loc[shown, "message"]


def test_fits_that_have_not_converged_have_no_numbers(capsys):
    samples, values = wide()
    found = ms.scan(FORMULA, samples, values, "blmer", fit_options={"maxiter": 1}, terms="Condition")
    lost = found[~found["converged"]]
    assert len(lost)
    assert lost[["estimate", "se", "z", "df", "p", "q"]].isna().all(axis=None)
    assert lost["message"].str.contains("has not converged").all()
    assert found.failures()["n"].sum() == lost["feature"].nunique()
    assert f"{lost['feature'].nunique()} of 5 features failed: the fit has not converged" in capsys.readouterr().err


def test_separated_counts_have_no_p_values():
    samples, values = wide()
    counts = (values * 0 + 3).astype(float)
    counts.loc[samples["Condition"] == "B", "p0"] = 0.0
    counts += np.random.default_rng(0).poisson(1.0, counts.shape) * (counts > 0)
    found = ms.scan(FORMULA, samples, counts, "glmer", family=sm.families.Poisson(), terms="Condition")
    first = found[found["feature"] == "p0"]
    assert not first["converged"].any()
    assert first["p"].isna().all()
    assert (first["message"] != "").all()
    assert found[found["feature"] != "p0"]["q"].notna().all()


def test_few_features_are_not_moderated():
    samples, values = wide()
    with pytest.warns(DataWarning, match="fewer than 10"):
        found = ms.scan(FORMULA, samples, values, "lmer", moderate=True)
    assert found["se"].to_numpy() == pytest.approx(found["se_own"].to_numpy())


def test_tables_and_plots_of_a_scan():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    samples, values = wide(30)
    found = ms.scan(FORMULA, samples, values, "lmer", moderate=True, variance_shares=True)
    spread = found.wide(("estimate", "q"))
    assert list(spread.columns[:2]) == ["estimate: Intercept", "q: Intercept"]
    assert len(spread) == 30
    top = found.top("Condition[T.B]", n=3)
    assert len(top) == 3
    assert top["p"].is_monotonic_increasing
    np.testing.assert_allclose(found.variance_shares.sum(axis=1), 1.0)
    assert len(found.plot_volcano("Condition[T.B]", label=4).texts) == 4
    assert len(found.plot_ma("Condition[T.B]", label=["p3"]).texts) == 1
    assert len(found.plot_p_values("Condition[T.C]", bins=10).patches) == 10
    assert found.plot_variance_shares().get_ylabel() == "share of variance"
    with pytest.raises(OptionError, match="is not a feature"):
        found.plot_volcano("Condition[T.B]", label=["nobody"])
    with pytest.raises(OptionError, match="variance_shares=True"):
        ms.scan(FORMULA, samples, values, "lmer").plot_variance_shares()
    plt.close("all")


def scan(change=None, **options):
    samples, values = wide()
    return ms.scan(FORMULA, samples, values if change is None else change(values), **{"model": "lmer", **options})


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        (
            {"contrasts": {"a": "Condition[T.D]"}},
            OptionError,
            NO_EFFECT,
        ),
        ({"contrasts": {"a": [1.0, 0.0]}}, OptionError, "has 2 numbers for 3 fixed effects"),
        ({"contrasts": {"a": "Condition[T.B] = 1"}}, OptionError, "without a constant"),
        ({"contrasts": "pairwise:Mixture"}, OptionError, "'Mixture' is not a variable of the fixed effects"),
        ({"contrasts": {"a": "Condition[T.B]"}, "terms": "Condition"}, OptionError, "exclude each other"),
        ({"tests": ["age"]}, OptionError, "tests: 'age' is not a term"),
        ({"moderate": "both"}, OptionError, "moderate must be"),
        ({"ddf": "kr2"}, OptionError, "ddf must be"),
        (
            {"model": "mvmise_b", "moderate": True},
            OptionError,
            f"moderate {LINEAR_ONLY}",
        ),
        ({"model": "blmer", "moderate": True}, OptionError, f"moderate {LINEAR_ONLY}"),
        (
            {"model": "mvmise_b", "ddf": "satterthwaite"},
            OptionError,
            f"ddf {LINEAR_ONLY}",
        ),
        ({"model": "mvmise_b", "weights": np.ones(36)}, OptionError, "selection models take no weights"),
        ({"weights": np.ones((35, 5))}, DataError, "weights has 35 rows and features has 36"),
        ({"weights": "w"}, OptionError, "'w' is not a column"),
        ({"model": "ols"}, OptionError, "without random effects"),
        ({"momentum": 1}, UnknownOptionError, "momentum"),
        ({"outcome": "y"}, OptionError, "belongs to a long table"),
        ({"by": "Protein"}, OptionError, "exclude each other"),
    ],
)
def test_bad_options_are_sentences(options, error, sentence):
    with pytest.raises(error, match=sentence):
        scan(**options)


def test_bad_weights_and_features_are_sentences():
    samples, values = wide()
    weights = values * 0.0 + 1.0
    weights.loc[4, "p3"] = -1.0
    with pytest.raises(DataError, match=r"weights must not be negative; feature 'p3' has -1.0"):
        scan(weights=weights)
    with pytest.raises(DataError, match="'p1' more than once"):
        scan(lambda v: v.set_axis(["p0", "p1", "p1", "p2", "p3"], axis=1))
    with pytest.raises(OptionError, match="1 and '1' are the same name as text"):
        ms.scan(FORMULA, samples.join(values), {1: "p0", "1": "p1"}, "lmer")
    with pytest.raises(OptionError, match="'p0' is there twice"):
        ms.scan(FORMULA, samples.join(values), ["p0", "p0"], "lmer")
    with pytest.warns(DataWarning, match="values look like raw intensities; take log2"):
        scan(lambda v: 2.0**v)


def test_bad_long_tables_are_sentences():
    table, samples = long()
    call = {"model": "lmer", **KEYS}
    double = pd.concat([table, table.iloc[:12]])
    with pytest.raises(DataError, match=r"12 duplicates of \(Mixture, Channel, Peptide\), first \('M0', 'C0', 'p0'\)"):
        ms.scan(FORMULA, double, **call)
    varied = table.copy()
    varied.iloc[0, varied.columns.get_loc("Condition")] = "B"
    with pytest.raises(DataError, match=r"Condition differs within sample \('M0', 'C0'\): 'B', 'A'"):
        ms.scan(FORMULA, varied, **call)
    with pytest.raises(DataError, match="belong to no sample of samples, first"):
        ms.scan(FORMULA, table, samples=samples.iloc[1:], **call)
    with pytest.raises(OptionError, match="'Run' is not a column"):
        ms.scan(FORMULA, table, **{**call, "sample": "Run"})
    with pytest.raises(DataError, match="column 'Protein' has missing values"):
        ms.scan(FORMULA, table.assign(Protein=table["Protein"].where(table.index > 3)), **call)
    with pytest.raises(DataError, match="infinite"):
        ms.scan(FORMULA, table.assign(Abundance=np.inf), **call)
    with pytest.raises(OptionError, match="a long table needs"):
        ms.scan(FORMULA, table, model="lmer", by="Protein")
