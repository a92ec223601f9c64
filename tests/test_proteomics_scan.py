"""From an experiment to a scan: the same numbers as the fits themselves, default terms, warnings, single peptides."""

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import mvmise_sm as ms
from mvmise_sm.exceptions import DataWarning, FormulaError, OptionError
from mvmise_sm.scanning.single import single_outcome_rhs

TMT = Path(__file__).parent / "reference" / "omics" / "tmt40"
STACKED = "~ Condition + peptide + (1 | Mixture) + (1 | Mixture:peptide) + (1 | sample)"


@pytest.fixture(scope="module")
def med():
    exp = ms.proteomics.read_proteome_discoverer(ms.datasets.load_psms(), ms.datasets.load_psms("annotation"))
    return exp.filter().peptides().normalize("median")


@pytest.fixture(scope="module")
def ref(med):
    return med.normalize("reference")


def few(exp, *names):
    """The experiment with some proteins only."""
    table = exp.table
    table = table[table["protein"].isin(names)].astype({"sample": str})
    return ms.proteomics.read_long(table, scale="log2", annotation=exp.samples).peptides()


def test_proteins_are_scanned_as_columns(ref):
    proteins = ref.proteins()
    table = proteins.scan("~ Condition + (1 | Mixture)", contrasts="pairwise:Condition", moderate="contrast")
    assert list(pd.unique(table["term"])) == ["high - control", "low - control", "low - high"]
    assert set(table["feature"]) == set(ref.features)
    one = proteins.samples.assign(y=proteins.matrix()["P00004"].to_numpy())
    fit = ms.lmer("y ~ Condition + (1 | Mixture)", one).fit()
    row = table[(table["feature"] == "P00004") & (table["term"] == "high - control")].iloc[0]
    np.testing.assert_allclose(row["estimate"], fit.params["Condition[T.high]"], rtol=1e-6)
    # most of the changed proteins are found, in their direction
    hits = table[(table["term"] == "high - control") & (table["q"] < 0.05)].set_index("feature")["estimate"]
    changed = pd.Series({f"P{k:05d}": 0.7 if k % 2 else -0.7 for k in range(4, 12)})
    found = hits[hits.index.isin(changed.index)]
    assert len(found) >= 6
    assert (found * changed[found.index] > 0).all()
    assert len(hits) - len(found) <= 2


def test_peptides_of_a_protein_are_fitted_together(ref):
    three = few(ref, "P00003", "P00004", "P00008")
    with pytest.warns(DataWarning) as caught:
        table = three.scan("~ Condition + (1 | Mixture)", terms=["Condition"])
    assert set(table["feature"]) == {"P00003", "P00004", "P00008"}
    assert any("peptides of one sample vary together" in str(w.message) for w in caught)
    columns = three.features["P00008"]
    wide = three.matrix()[columns].set_axis([f"y{k}" for k in range(len(columns))], axis=1).reset_index(drop=True)
    wide = pd.concat([three.samples, wide], axis=1)
    text = " + ".join(f"y{k}" for k in range(len(columns))) + " ~ Condition + (1 | Mixture)"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = ms.mvmise_b(text, wide, outcome_effects=["Intercept"]).fit()
    rows = table[table["feature"] == "P00008"].set_index("term")
    names = ["Condition[T.high]", "Condition[T.low]"]
    np.testing.assert_allclose(rows.loc[names, "estimate"], fit.params[names], atol=1e-5)
    np.testing.assert_allclose(rows.loc[names, "se"], fit.bse[names], rtol=1e-4)
    # a mixture without the protein stays in the grid
    assert three.matrix()[three.features["P00003"]].isna().to_numpy().sum() >= 18


def test_the_terms_of_one_peptide(med):
    exp = few(med, "P00004", "P00009")
    assert len(exp.features["P00004"]) == 1
    table = exp.scan(STACKED, model="lmer", terms=["Condition"])
    assert table["p"].notna().all()
    y = exp.matrix()[exp.features["P00004"][0]].to_numpy()
    fit = ms.lmer("y ~ Condition + (1 | Mixture)", exp.samples.assign(y=y)).fit()
    rows = table[table["feature"] == "P00004"].set_index("term")
    np.testing.assert_allclose(rows["estimate"], fit.params[rows.index], rtol=1e-6)
    stacked = exp.table[exp.table["protein"] == "P00009"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # singular
        fit = ms.lmer("y" + STACKED, stacked).fit()
    rows = table[table["feature"] == "P00009"].set_index("term")
    np.testing.assert_allclose(rows["estimate"], fit.params[rows.index], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("rhs", "residual", "want"),
    [
        ("x + p + (1 | g) + (1 | g:p) + (1 | s)", True, "1 + x + (1 | g)"),
        ("x + p + (1 | g) + (1 | g:p) + (1 | s)", False, "1 + x + (1 | g) + (1 | s)"),
        ("0 + x * p + (1 | g:p)", True, "0 + x + (1 | g)"),
        ("x + (1 + x | p) + cs(1 + x | g)", True, "1 + x + cs(1 + x | g)"),
        ("r.1 + offset(x) + (1 | g)", True, "1 + r.1 + offset(x) + (1 | g)"),
    ],
)
def test_formula_of_one_outcome(rhs, residual, want):
    samples = pd.DataFrame(
        {"s": list("abcd"), "g": list("xxyy"), "x": [1.0, 2.0, 1.0, 2.0], "r.1": [1.0, 1.0, 2.0, 2.0]}
    )
    assert single_outcome_rhs(rhs, "p", samples, residual=residual) == want


def test_default_terms_are_told(ref, med):
    proteins = ref.proteins()
    with pytest.warns(DataWarning, match=r"the formula has no random terms; the scan adds \(1 \| Mixture\)"):
        table = proteins.scan(terms=["Condition"])
    same = proteins.scan("~ Condition + (1 | Mixture)", terms=["Condition"])
    pd.testing.assert_frame_equal(pd.DataFrame(table), pd.DataFrame(same))
    # least squares need none, and a class is as good as its entry point
    assert proteins.scan(model="ols", terms=["Condition"])["p"].notna().all()
    for model in ("mvmise_b", ms.FactorSelectionModel):
        with pytest.warns(DataWarning, match=r"adds \(1 \| Mixture\) \+ \(1 \| Mixture:outcome\) \+ \(1 \| sample\)$"):
            few(ref, "P00004").scan("~ Condition", model=model)
    with pytest.warns(DataWarning) as caught:
        few(ref, "P00007").scan("~ Condition", model="mvmise_e")
    assert "the formula has no random terms; the scan adds (1 | Mixture)" in [str(w.message) for w in caught]
    with pytest.raises(OptionError, match="model must be one of"):
        proteins.scan(model="limma")
    with pytest.raises(OptionError, match=r"name the random terms of model 'lmer', for example '~ Cond"):
        med.scan("~ Condition", model="lmer")
    runs = ms.proteomics.read_diann(TMT / "diann" / "report.tsv.gz", TMT / "diann" / "annotation.csv")
    with pytest.raises(OptionError, match="label-free runs have no blocks; name the random terms"):
        runs.filter().peptides().scan("~ Condition")
    with pytest.raises(OptionError, match="leave the left side empty"):
        ref.scan("y ~ Condition")
    with pytest.raises((FormulaError, OptionError)):
        ref.scan(3)


def test_levels_of_their_own_are_warned_of(med, ref):
    one = few(med, "P00009", "P00011")
    with pytest.warns(DataWarning) as caught:
        one.scan("~ Condition + (1 | Mixture)", terms=["Condition"])
    told = [str(w.message) for w in caught]
    assert any("own level in every Mixture (sd" in t and "add (1 | Mixture:outcome) or normalize" in t for t in told)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one.scan(STACKED, model="lmer", terms=["Condition"])


def test_own_terms_of_the_selection_model(med):
    """With a level of its own in the mixture and in the sample, standard errors are those of the stacked peptides."""
    exp = few(med, "P00004", "P00007", "P00009")
    formula = "~ Condition + (1 | Mixture) + (1 | Mixture:outcome) + (1 | sample)"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        own = exp.scan(formula, terms=["Condition"])
        stacked = exp.scan(STACKED, model="lmer", terms=["Condition"])
    pd.testing.assert_series_equal(own["feature"], stacked["feature"])
    np.testing.assert_allclose(own["se"], stacked["se"], rtol=0.12)
    np.testing.assert_allclose(own["estimate"], stacked["estimate"], atol=0.02)


def test_label_free_with_a_batch():
    runs = ms.proteomics.read_diann(TMT / "diann" / "report.tsv.gz", TMT / "diann" / "annotation.csv")
    proteins = runs.filter().peptides().normalize("median").proteins()
    table = proteins.scan("~ Condition + (1 | Batch)", terms=["Condition[T.B]"])
    assert len(table) == len(proteins.features)


def test_formulas_see_the_variables_of_the_caller(ref):
    def is_high(condition):
        return (condition == "high").astype(float)

    table = ref.proteins().scan("~ is_high(Condition) + (1 | Mixture)")
    assert "is_high(Condition)" in set(table["term"])


def test_unknown_options_are_refused(ref):
    with pytest.raises(TypeError, match="colum"):
        ref.proteins().scan("~ Condition + (1 | Mixture)", colum="peptide")
    with pytest.raises(TypeError, match="purty"):
        ref.filter(purty=0.5)
