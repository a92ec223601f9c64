"""Readers of exported tables: the numbers of plain pandas, spellings of columns, bad files."""

import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import mvmise_sm as ms
from mvmise_sm.exceptions import DataError, DataWarning, OptionError
from mvmise_sm.proteomics.tables import plain_name

HERE = Path(__file__).parent / "reference" / "omics"
TMT = HERE / "tmt40"
EXPECTED = json.loads(gzip.decompress((HERE / "tmt40_steps.json.gz").read_bytes()))["sources"]
LABELLED = ["msstats", "fragpipe", "maxquant", "proteome_discoverer"]
p = ms.proteomics


def annotation():
    return pd.read_csv(TMT / "annotation.csv", dtype=str)


def psms(**changes):
    """The Proteome Discoverer table as a frame."""
    frame = pd.read_csv(TMT / "proteome_discoverer" / "psms.txt.gz", sep="\t", keep_default_na=False)
    numbers = [c for c in frame if c.startswith("Abundance")]
    frame[numbers] = frame[numbers].apply(pd.to_numeric)
    return frame.assign(**changes)


def same_values(got, want):
    """Equal but for the rounding of a power and a logarithm."""
    np.testing.assert_allclose(got.loc[want.index, want.columns].to_numpy(), want.to_numpy(), rtol=1e-13)


def read(source):
    maxquant = TMT / "maxquant"
    return {
        "msstats": lambda: p.read_msstats(TMT / "msstatstmt.csv.gz"),
        "fragpipe": lambda: p.read_fragpipe(TMT / "fragpipe", annotation=TMT / "annotation.csv"),
        "maxquant": lambda: p.read_maxquant(
            maxquant / "evidence.txt.gz", maxquant / "annotation.csv", groups=maxquant / "proteinGroups.txt"
        ),
        "proteome_discoverer": lambda: p.read_proteome_discoverer(
            TMT / "proteome_discoverer" / "psms.txt.gz", annotation()
        ),
        "diann": lambda: p.read_diann(TMT / "diann" / "report.tsv.gz", TMT / "diann" / "annotation.csv"),
    }[source]()


@pytest.mark.parametrize("source", [*LABELLED, "diann"])
def test_readers_give_the_numbers_of_plain_pandas(source):
    want = EXPECTED[source]
    pep = read(source).filter().peptides()
    pep = pep if source == "diann" else pep.normalize("median")
    values = pep.matrix()
    assert values.shape == (want["n_samples"], want["n_peptides"])
    assert list(pep.features) == sorted(want["proteins"])
    dropped = pep.history.set_index("rule")["n_dropped"]
    for rule in set(want["dropped"]) - {"psms", "rows"}:
        assert dropped.get(rule, 0) == want["dropped"][rule], rule
    for protein, columns in pep.features.items():
        x, e = values[columns].to_numpy(), want["proteins"][protein]
        assert (x.shape[1], np.isfinite(x).sum()) == (e["peptides"], e["values"])
        np.testing.assert_allclose([np.nansum(x), np.nansum(x**2)], [e["sum"], e["sumsq"]], rtol=1e-9)


def test_three_exports_of_one_experiment_are_the_same():
    tables = []
    for source in ("fragpipe", "maxquant", "proteome_discoverer"):
        pep = read(source).filter().peptides().normalize("median").normalize("reference")
        # MaxQuant numbers the channels that others name
        tables.append((pep.matrix().set_axis(pep.samples["BioReplicate"]), pep.features))
    first, features = tables[0]
    for other, theirs in tables[1:]:
        assert list(theirs) == list(features)
        assert list(other.index) == list(first.index)
        for protein in features:
            a = np.sort(first[features[protein]].fillna(-1.0).to_numpy(), axis=1)
            b = np.sort(other[theirs[protein]].fillna(-1.0).to_numpy(), axis=1)
            np.testing.assert_allclose(a, b, rtol=1e-12)


def test_the_order_of_the_rows_has_no_say():
    shuffled = psms().sample(frac=1.0, random_state=3)
    pep = p.read_proteome_discoverer(shuffled, annotation()).filter().peptides()
    pd.testing.assert_frame_equal(pep.matrix(), read("proteome_discoverer").filter().peptides().matrix())


def test_names_that_went_through_r():
    through_r = psms()
    through_r.columns = [
        {"# Proteins": "X..Proteins", "Isolation Interference [%]": "Isolation.Interference...."}.get(
            c, c.replace(": ", "..").replace(" ", ".").replace("#", "X.")
        )
        for c in through_r.columns
    ]
    assert "Abundance..127N" in through_r
    pep = p.read_proteome_discoverer(through_r, annotation()).filter().peptides()
    pd.testing.assert_frame_equal(pep.matrix(), read("proteome_discoverer").filter().peptides().matrix())
    bare = psms().rename(columns=lambda c: c.replace("Abundance: ", "X").replace("X126", "126"))
    pep = p.read_proteome_discoverer(bare, annotation()).filter().peptides()
    assert pep.matrix().shape == (45, 118)


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("# Proteins", "proteins"),
        ("X..Proteins", "proteins"),
        ("X127N", "127n"),
        ("XCorr", "xcorr"),
        ("PG.Q.Value", "pgqvalue"),
    ],
)
def test_plain_names(name, plain):
    assert plain_name(name) == plain


def test_separators_encodings_and_compression(tmp_path):
    frame = psms()
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_csv(tmp_path / "b.txt", index=False, sep=";", decimal=",")
    frame.to_csv(tmp_path / "c.txt", index=False, sep="\t", encoding="utf-8-sig")
    frame.to_csv(tmp_path / "d.txt", index=False, sep="\t", encoding="latin-1")
    frame.to_csv(tmp_path / "e.tsv.gz", index=False, sep="\t")
    want = read("proteome_discoverer").filter().peptides().matrix()
    for path in sorted(tmp_path.iterdir()):
        pd.testing.assert_frame_equal(p.read_proteome_discoverer(path, annotation()).filter().peptides().matrix(), want)


def test_several_tables_of_one_experiment():
    frame = psms()
    halves = [frame.iloc[:400], frame.iloc[400:]]
    pep = p.read_proteome_discoverer(halves, annotation()).filter().peptides()
    pd.testing.assert_frame_equal(pep.matrix(), read("proteome_discoverer").filter().peptides().matrix())


def test_parquet_report(tmp_path):
    pytest.importorskip("pyarrow")
    report = pd.read_csv(TMT / "diann" / "report.tsv.gz", sep="\t")
    report.to_parquet(tmp_path / "report.parquet")
    pep = p.read_diann(tmp_path / "report.parquet", TMT / "diann" / "annotation.csv").filter().peptides()
    pd.testing.assert_frame_equal(pep.matrix(), read("diann").filter().peptides().matrix())


@pytest.mark.parametrize("first", [0, 1])
def test_maxquant_numbers_reporters_from_zero_or_one_or_by_name(first):
    evidence = pd.read_csv(TMT / "maxquant" / "evidence.txt.gz", sep="\t", keep_default_na=False)
    evidence = evidence.rename(
        columns={
            f"Reporter intensity corrected {k + 1}": f"Reporter.intensity.corrected.{k + first}" for k in range(11)
        }
    )
    groups = TMT / "maxquant" / "proteinGroups.txt"
    want = read("maxquant").filter().peptides().matrix().to_numpy()
    by_name = annotation().assign(Run=lambda d: d["Run"].str.replace(".raw", ""))
    by_number = pd.read_csv(TMT / "maxquant" / "annotation.csv", dtype=str)
    for table in (by_name, by_number):
        pep = p.read_maxquant(evidence, table, groups=groups).filter().peptides()
        np.testing.assert_array_equal(pep.matrix().to_numpy(), want)


def test_fractions_are_one_sample_and_replicates_are_several():
    frame, told = psms(), annotation()
    odd = np.arange(len(frame)) % 2 == 1
    run = frame["Spectrum File"].where(~odd, frame["Spectrum File"].str.replace("_F1", "_F2"))
    second = told.assign(Run=told["Run"].str.replace("_F1", "_F2"), Fraction="2")
    fractions = p.read_proteome_discoverer(frame.assign(**{"Spectrum File": run}), pd.concat([told, second]))
    want = read("proteome_discoverer").filter().peptides()
    pd.testing.assert_frame_equal(fractions.filter().peptides().matrix(), want.matrix())
    assert fractions.samples["Run"].iloc[0] == "Mixture1_1"
    second = second.assign(TechRepMixture="2", Fraction="1")
    twice = p.read_proteome_discoverer(frame.assign(**{"Spectrum File": run}), pd.concat([told, second]))
    assert len(twice.samples) == 2 * len(want.samples)
    assert list(twice.samples.columns[:3]) == ["sample", "Mixture", "TechRepMixture"]
    assert twice.filter().peptides().data.layout.block_name == "Run"
    # every run has its best spectrum
    assert twice.filter().peptides().history.set_index("rule")["n_dropped"]["not_best"] < 233


def test_a_covariate_of_the_annotation_comes_along():
    told = pd.read_csv(TMT / "annotation.csv").assign(Age=lambda d: 40.0 + np.arange(len(d)))
    told["Condition"] = told["Condition"].map({"A": 1.0, "B": 0.5, "C": 2.0, "Norm": "Norm", "Empty": "Empty"})
    samples = p.read_proteome_discoverer(psms(), told).samples
    assert list(samples.columns) == ["sample", "Mixture", "Channel", "Run", "Condition", "BioReplicate", "Age"]
    assert samples["Age"].dtype == float
    assert set(samples["Condition"]) == {"1.0", "0.5", "2.0"}


def test_numbers_as_conditions_are_texts():
    told = pd.read_csv(TMT / "diann" / "annotation.csv")
    told["Condition"] = told["Condition"].map({"A": 1.0, "B": 0.5, "C": 2.0})
    samples = p.read_diann(TMT / "diann" / "report.tsv.gz", told).samples
    assert set(samples["Condition"]) == {"1", "0.5", "2"}


def test_long_tables():
    pep = read("fragpipe").filter().peptides().normalize("median")
    again = p.read_long(pep.table, scale="log2").peptides()
    values = pep.matrix()
    same_values(again.matrix(), values)
    assert again.features == pep.features
    assert list(again.samples.columns) == list(pep.samples.columns)
    two = pep.table.drop(columns="sample").assign(intensity=lambda d: np.exp2(d["y"]))
    again = p.read_long(two, sample=["Mixture", "Channel"]).peptides()
    same_values(again.matrix(), values)


def test_long_table_with_annotation_keeps_the_complete_grid():
    pep = read("fragpipe").filter().peptides().normalize("median")
    table = pep.table
    gone = table[(table["sample"].astype(str) != "Mixture1_127N")]
    again = p.read_long(gone[["protein", "peptide", "sample", "y"]], scale="log2", annotation=pep.samples).peptides()
    assert again.matrix().shape[0] == 45
    assert again.matrix().loc["Mixture1_127N"].isna().all()


def test_wide_tables(tmp_path):
    pep = read("diann").filter().peptides()
    wide = np.exp2(pep.matrix()).T
    wide.insert(0, "Genes", [protein for protein, columns in pep.features.items() for _ in columns])
    wide.rename_axis("Precursor").to_csv(tmp_path / "wide.csv")
    told = pep.samples.rename(columns={"sample": "File"})
    again = p.read_wide(tmp_path / "wide.csv", told, protein="Genes", peptide="Precursor", sample="File").peptides()
    np.testing.assert_allclose(again.matrix()[pep.matrix().columns].to_numpy(), pep.matrix().to_numpy(), rtol=1e-12)
    proteins = p.read_wide(wide.drop_duplicates("Genes"), told, protein="Genes", sample="File").peptides()
    assert set(proteins.features) == set(pep.features)


def test_anndata_and_back(tmp_path):
    anndata = pytest.importorskip("anndata")
    pep = read("fragpipe").filter().peptides().normalize("median")
    results = pd.DataFrame({"feature": ["a", "b"], "term": ["x", None], "estimate": [1.0, np.nan]})
    adata = pep.to_anndata(results)
    adata.write_h5ad(tmp_path / "a.h5ad")
    adata = anndata.read_h5ad(tmp_path / "a.h5ad")
    assert adata.shape == pep.matrix().shape
    assert adata.uns["mvmise"]["estimate"].iloc[0] == 1.0
    again = p.from_anndata(adata)
    np.testing.assert_allclose(again.matrix()[pep.matrix().columns].to_numpy(), pep.matrix().to_numpy(), rtol=1e-14)
    assert again.features == pep.features
    assert again.data.layout.block_name == "Mixture"


def test_without_anndata(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "anndata", None)
    with pytest.raises(OptionError, match=r"to_anndata needs anndata; install mvmise_sm\[anndata\]"):
        read("fragpipe").filter().peptides().to_anndata()


# --- bad input ---


def test_missing_columns_are_named(tmp_path):
    evidence = pd.read_csv(TMT / "maxquant" / "evidence.txt.gz", sep="\t")
    evidence.drop(columns="Raw file").to_csv(tmp_path / "evidence.txt", sep="\t", index=False)
    with pytest.raises(DataError, match=r"evidence\.txt lacks 'Raw file'; found \['Sequence', 'Modified sequence'"):
        p.read_maxquant(tmp_path / "evidence.txt", TMT / "maxquant" / "annotation.csv")
    with pytest.raises(DataError, match=r"the table lacks 'Abundance: 131C'"):
        p.read_proteome_discoverer(psms().drop(columns="Abundance: 131C"), annotation())
    with pytest.raises(DataError, match=r"the annotation lacks 'Mixture'; found \['Run'"):
        p.read_proteome_discoverer(psms(), annotation().drop(columns="Mixture"))
    with pytest.raises(DataError, match="lacks 'Reporter intensity corrected 1'"):
        p.read_maxquant(evidence[["Modified sequence", "Charge"]], TMT / "maxquant" / "annotation.csv")
    with pytest.raises(DataError, match=r"there is no psm\.tsv in"):
        p.read_fragpipe(tmp_path, annotation())
    with pytest.raises(DataError, match="there is no file"):
        p.read_msstats(tmp_path / "nothing.csv")


def test_runs_and_annotation_must_agree():
    with pytest.raises(DataError, match=r"run 'Mixture5_F1\.raw' is not in the annotation"):
        p.read_proteome_discoverer(psms(), annotation().query("Mixture != 'Mixture5'"))
    frame = psms()
    frame = frame[frame["Spectrum File"] != "Mixture5_F1.raw"]
    with pytest.warns(DataWarning, match="1 annotated runs have no data in the table and are left out: 'Mixture5_F1'"):
        exp = p.read_proteome_discoverer(frame, annotation())
    assert set(exp.samples["Mixture"]) == {f"Mixture{k}" for k in range(1, 5)}
    with pytest.warns(DataWarning, match="values in channels that the annotation does not have"):
        p.read_proteome_discoverer(psms(), annotation().query("Channel != '127N' or Mixture != 'Mixture1'"))


def test_a_sample_has_one_condition():
    told = annotation()
    told = pd.concat([told, told.query("Mixture == 'Mixture1' and Channel == '127N'").assign(Condition="B")])
    with pytest.raises(DataError, match=r"Condition differs within sample \('Mixture1', '127N'\): 'C', 'B'"):
        p.read_proteome_discoverer(psms(), told)
    long = pd.read_csv(TMT / "msstatstmt.csv.gz", dtype={"Channel": str})
    long.loc[0, "Condition"] = "B"
    with pytest.raises(DataError, match="Condition differs within sample"):
        p.read_msstats(long)


def test_duplicates_are_counted():
    long = pd.read_csv(TMT / "msstatstmt.csv.gz", dtype={"Channel": str})
    with pytest.raises(DataError, match=r"3 duplicates of \(PSM, Run, Channel\), first \('n\[230\]"):
        p.read_msstats(pd.concat([long, long.iloc[:3]]))
    table = read("fragpipe").filter().peptides().table
    with pytest.raises(DataError, match=r"2 duplicates of \(protein, peptide, sample\), first \('"):
        p.read_long(pd.concat([table, table.iloc[:2]]), scale="log2")


def test_values_that_are_none():
    bad = psms()
    bad["Abundance: 127N"] = bad["Abundance: 127N"].astype(object)
    bad.loc[2, "Abundance: 127N"] = "high"
    with pytest.raises(DataError, match="'Abundance: 127N' must be numeric, found 'high' in row 3"):
        p.read_proteome_discoverer(bad, annotation())
    bad = psms()
    bad.loc[2, "Abundance: 127N"] = np.inf
    with pytest.raises(DataError, match="has infinite intensities"):
        p.read_proteome_discoverer(bad, annotation())
    with pytest.raises(DataError, match="has no rows with a protein"):
        p.read_proteome_discoverer(psms(**{"Master Protein Accessions": ""}), annotation())
    with pytest.raises(OptionError, match="must be a path or a DataFrame, not int"):
        p.read_msstats(3)


def test_cells_that_must_not_be_empty():
    told = annotation()
    told.loc[3, "Condition"] = np.nan
    with pytest.raises(DataError, match="the annotation: Condition is missing in row 4"):
        p.read_proteome_discoverer(psms(), told)
    table = read("fragpipe").filter().peptides().table.astype({"sample": object})
    table.loc[7, "sample"] = None
    with pytest.raises(DataError, match="the table: 'sample' is missing in row 8"):
        p.read_long(table, scale="log2")
    frame = psms()
    with pytest.raises(DataError, match="the table has two columns 'Charge'"):
        p.read_proteome_discoverer(pd.concat([frame, frame[["Charge"]]], axis=1), annotation())


def test_a_table_without_conditions():
    long = pd.DataFrame({"protein": list("aab"), "peptide": list("pqr"), "sample": list("sst"), "intensity": 1e5})
    pep = p.read_long(long).peptides(min_mixtures=1)
    assert pep.plot_profile("a").get_legend().get_texts()[0].get_text() == "not told"
    assert pep.matrix().shape == (2, 3)


def test_scales_are_told_apart():
    table = read("fragpipe").filter().peptides().table
    with pytest.raises(OptionError, match="look like raw intensities"):
        p.read_long(table.assign(y=np.exp2(table["y"])), scale="log2")
    with pytest.warns(DataWarning, match="look like logarithms"):
        p.read_long(table, value="y")
    with pytest.raises(OptionError, match="scale must be 'raw' or 'log2'"):
        p.read_long(table, value="y", scale="ln")


def test_a_group_that_is_not_there():
    groups = pd.read_csv(TMT / "maxquant" / "proteinGroups.txt", sep="\t")
    evidence, told = TMT / "maxquant" / "evidence.txt.gz", TMT / "maxquant" / "annotation.csv"
    with pytest.warns(DataWarning, match="rows of evidence.txt.gz belong to protein groups that the table"):
        exp = p.read_maxquant(evidence, told, groups=groups.iloc[:10])
    assert set(exp.filter().peptides().features) <= set(groups["Majority protein IDs"][:10])
    with pytest.raises(DataError, match="has no protein group of the table; its first is '0'"):
        p.read_maxquant(evidence, told, groups=groups.assign(id=groups["id"] + 1000))


def test_na_of_r_is_nothing(tmp_path):
    frame = psms()
    frame["Quan Info"] = np.nan
    frame.loc[:4, "Master Protein Accessions"] = np.nan
    frame.to_csv(tmp_path / "psms.csv", index=False, na_rep="NA")
    exp = p.read_proteome_discoverer(tmp_path / "psms.csv", annotation())
    assert exp.history.set_index("rule")["n_dropped"]["no_protein"] == 5
    assert "NA" not in set(exp.table["protein"])
