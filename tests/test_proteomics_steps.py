"""Steps of an experiment: rules, normalisation, summaries, history, immutability, plots, the formula of its scan."""

import json
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import mvmise_sm as ms
from mvmise_sm.exceptions import DataError, OptionError
from mvmise_sm.proteomics import analysis
from mvmise_sm.proteomics.steps import best_rows, stacked_median, summarised

HERE = Path(__file__).parent / "reference" / "omics"
TMT = HERE / "tmt40"
p = ms.proteomics


@pytest.fixture(scope="module")
def exp():
    return p.read_fragpipe(TMT / "fragpipe", annotation=TMT / "annotation.csv")


@pytest.fixture(scope="module")
def pep(exp):
    return exp.filter().peptides().normalize("median")


def simulated(own=1.0, sample=0.3, error=0.2, effect=0.0, seed=1, n_proteins=30, mixtures=6, channels=8):
    """A long table of log2 intensities with known standard deviations; two channels of a mixture are Norm."""
    rng = np.random.default_rng(seed)
    told = pd.DataFrame(
        [
            {"sample": f"M{m}_{c}", "Mixture": f"M{m}", "Condition": "Norm" if c < 2 else "AB"[c % 2]}
            for m in range(mixtures)
            for c in range(channels)
        ]
    )
    m = np.repeat(np.arange(mixtures), channels)
    rows = []
    for k in range(n_proteins):
        d = sample * rng.normal(size=len(told))
        d[told["Condition"] == "Norm"] = np.repeat(sample * rng.normal(size=mixtures), 2)
        for j in range(4):
            y = 16 + rng.normal() + own * rng.normal(size=mixtures)[m] + d + error * rng.normal(size=len(told))
            y = y + effect * (told["Condition"] == "B")
            rows.append(told.assign(protein=f"P{k}", peptide=f"P{k}_{j}", y=y))
    return pd.concat(rows, ignore_index=True)


def test_history_tells_what_every_rule_dropped(exp, pep):
    told = pep.history
    assert list(told.columns) == ["step", "rule", "n_dropped", "n_left"]
    assert told["rule"].is_unique
    rules = ["not_positive", "empty", "decoys", "contaminants", "shared", "impure", "few_channels", "not_best"]
    assert list(told["rule"]) == [*rules, "few_mixtures", "norm_and_empty"]
    filtered = told[told["step"] == "filter"]
    assert filtered["n_left"].iloc[0] + filtered["n_dropped"].iloc[0] == len(exp.data.rows)
    assert (filtered["n_left"].to_numpy()[:-1] - filtered["n_dropped"].to_numpy()[1:] == filtered["n_left"][1:]).all()
    assert told["n_left"].iloc[-2] == pep.matrix().shape[1]
    assert told["n_left"].iloc[-1] == len(pep.samples)


def test_steps_make_new_experiments(exp, pep):
    before = exp.table
    exp.filter(purity=0.9).peptides()
    pd.testing.assert_frame_equal(exp.table, before)
    with pytest.raises(AttributeError):
        pep.level = "protein"
    with pytest.raises(ValueError, match="read-only"):
        pep.data.values[0, 0] = 0.0
    values, samples = pep.matrix(), pep.samples
    values.iloc[:] = 0.0
    samples["Condition"] = "x"
    pep.features.clear()
    assert pep.matrix().notna().to_numpy().any()
    assert set(pep.samples["Condition"]) == {"A", "B", "C"}
    assert len(pep.features) == 36
    again = pickle.loads(pickle.dumps(pep))
    pd.testing.assert_frame_equal(again.matrix(), pep.matrix())


def test_samples_are_without_norm_and_empty(exp, pep):
    assert list(pep.samples.columns) == ["sample", "Mixture", "Channel", "Run", "Condition", "BioReplicate"]
    assert set(exp.channels["Condition"]) == {"A", "B", "C", "Norm", "Empty"}
    assert (pep.table["y"].to_numpy() > 5).all()
    assert set(pep.table["Condition"]) == {"A", "B", "C"}
    assert len(pep.table) == pep.matrix().notna().to_numpy().sum()
    assert set(exp.table.columns) >= {"protein", "peptide", "charge", "purity", "decoy", "sample", "intensity"}


def test_a_protein_that_two_mixtures_never_show_has_missing_blocks(pep):
    (name,) = [protein for protein in pep.features if "PROT5_" in protein]
    absent = pep.matrix()[pep.features[name]].isna().all(axis=1).groupby(pep.samples["Mixture"].to_numpy()).all()
    assert list(absent) == [True, True, False, False, False]


def test_limits_of_the_filter(exp):
    history = exp.filter(purity=None, min_channels=1, keep=["decoys", "shared"]).history
    assert set(history["rule"]) == {"not_positive", "empty", "contaminants", "few_channels"}
    assert exp.filter(probability=0.99).history.set_index("rule")["n_dropped"]["improbable"] > 0
    with pytest.raises(OptionError, match="purity must be between 0 and 1 or None, got 50"):
        exp.filter(purity=50)
    with pytest.raises(OptionError, match=r"keep may name \['contaminants', 'decoys', 'shared'\], got 'decoy'"):
        exp.filter(keep="decoy")
    for bad in (0, 2.5, "3", True):
        with pytest.raises(OptionError, match="min_channels must be a whole number of at least 1"):
            exp.filter(min_channels=bad)
    with pytest.raises(OptionError, match="purity must be between 0 and 1 or None, got 'high'"):
        exp.filter(purity="high")
    with pytest.raises(OptionError, match="keep must be a rule or a list of rules, got 5"):
        exp.filter(keep=5)
    with pytest.raises(DataError, match=r"filter leaves nothing of \d+ PSMs: decoys \d+, .*impure"):
        exp.filter(purity=1.0)


def test_the_order_of_steps_is_explained(exp, pep):
    with pytest.raises(OptionError, match=r"filter\(\) works on spectra, and these are peptides; call it before"):
        pep.filter()
    with pytest.raises(OptionError, match=r"proteins\(\) works on peptides, and these are spectra; call peptides\(\)"):
        exp.proteins()
    with pytest.raises(OptionError, match=r"normalize\(\) works on peptides or proteins; call peptides\(\) first"):
        exp.normalize()
    for ask in (exp.matrix, lambda: exp.features, exp.plot_missing, exp.scan, exp.to_anndata):
        with pytest.raises(OptionError, match=r"call peptides\(\) first|needs anndata"):
            ask()
    with pytest.raises(OptionError, match=r"psm must be one of \['best', 'purest', 'sum', 'median'\], got 'first'"):
        exp.peptides("first")
    with pytest.raises(OptionError, match="level must be 'peptide' or 'ion'"):
        exp.peptides(level="charge")
    with pytest.raises(OptionError, match="min_mixtures must be a whole number of at least 1"):
        exp.peptides(min_mixtures=0)
    with pytest.raises(DataError, match=r"none of \d+ peptides is seen in 9 mixtures"):
        exp.filter().peptides(min_mixtures=9)
    with pytest.raises(OptionError, match="method must be 'median' or 'reference', got 'quantile'"):
        pep.normalize("quantile")
    with pytest.raises(OptionError, match=r"how must be one of \['median', 'median_polish', 'sum'\], got 'mean'"):
        pep.proteins("mean")


def test_a_spectrum_of_each_peptide(exp):
    best = exp.filter().peptides(min_mixtures=1)
    total = exp.filter().peptides("sum", min_mixtures=1)
    assert list(total.matrix().columns) == list(best.matrix().columns)
    assert (total.matrix() - best.matrix()).min().min() >= 0.0
    table = exp.filter().table
    table = table[~table["Condition"].isin(["Norm", "Empty"])]
    grouped = table.groupby(["sample", "peptide"], observed=True)["intensity"]
    for psm in ("sum", "median"):
        got = np.exp2(exp.filter().peptides(psm, min_mixtures=1).matrix())
        want = grouped.agg(psm).unstack()
        np.testing.assert_allclose(got.to_numpy(), want.loc[got.index, got.columns].to_numpy(), rtol=1e-12)
    ion = exp.filter().peptides(level="ion", min_mixtures=1)
    assert ion.matrix().shape[1] > best.matrix().shape[1]
    assert all(name.rsplit("_", 1)[1] in "23" for name in ion.matrix())


def test_best_and_purest_spectra():
    table = pd.DataFrame(
        {
            "protein": "P", "peptide": "A", "Mixture": "M", "psm": list("aabbccdd"), "sample": list("xy") * 4,
            "y": [3.0, np.nan, 5.0, 5.0, 4.0, 6.0, 5.0, 5.0], "Condition": list("ab") * 4,
        }
    )  # fmt: skip
    exp = p.read_long(table, scale="log2", psm="psm")
    # c and b have no gap, and c has the larger sum: 2^4 + 2^6 against 2^5 + 2^5
    np.testing.assert_allclose(exp.peptides().matrix().to_numpy().ravel(), [4.0, 6.0])
    assert list(best_rows(np.array([0, 0, 1, 1]), [np.array([1.0, 1.0, 2.0, 1.0])])) == [0, 3]
    told = pd.read_csv(TMT / "annotation.csv", dtype=str)
    frame = pd.read_csv(TMT / "proteome_discoverer" / "psms.txt.gz", sep="\t", keep_default_na=False)
    exp = p.read_proteome_discoverer(frame, told).filter()
    pure = exp.data.rows.groupby(["protein", "peptide", "block"], observed=True)["purity"].max()
    kept = exp.peptides("purest")
    complete = exp.data.rows.assign(gone=np.isnan(exp.data.values).sum(axis=1))
    first = complete.sort_values(["gone", "purity"], ascending=[True, False])
    first = first.drop_duplicates(["protein", "peptide", "block"])
    assert len(first) == len(kept.data.rows)
    assert len(pure) == len(first)
    got = np.sort(np.nansum(np.exp2(kept.data.values), axis=1))
    np.testing.assert_allclose(got, np.sort(np.nansum(exp.data.values[first.index], axis=1)), rtol=1e-12)


def test_median_normalisation(exp):
    pep = exp.filter().peptides()
    normal = pep.normalize("median")
    for b in range(5):
        rows = pep.data.block == b
        before, after = (pd.DataFrame(e.data.values[rows]).median().to_numpy() for e in (pep, normal))
        known = np.isfinite(before)
        np.testing.assert_allclose(after[known], before[known].mean(), rtol=1e-12)
    assert normal.normalized == ("median",)


def test_reference_normalisation(pep):
    normal = pep.normalize("reference")
    norm = pep.data.layout.role("norm")[pep.data.block]
    level = pd.DataFrame(pep.data.values).where(norm).mean(axis=1)
    after = pd.DataFrame(normal.data.values).where(norm).mean(axis=1)
    key = [pep.data.rows["protein"].cat.codes, pep.data.rows["peptide"].cat.codes]
    want = level.groupby(key).transform("mean")
    np.testing.assert_allclose(after[after.notna()], want[after.notna()], rtol=1e-12)
    # within a run nothing but the level changes
    inner, outer = (pd.DataFrame(e.data.values[after.notna()]) for e in (normal, pep))
    inner, outer = (x.sub(x.mean(axis=1), axis=0) for x in (inner, outer))
    np.testing.assert_allclose(inner, outer, atol=1e-12)


def test_reference_needs_norm_channels(exp):
    told = pd.read_csv(TMT / "annotation.csv", dtype=str)
    without = (told["Mixture"] == "Mixture3") & (told["Condition"] == "Norm")
    told.loc[without, "Condition"] = "A"
    pep = p.read_fragpipe(TMT / "fragpipe", told).filter().peptides()
    with pytest.raises(OptionError, match="needs a Norm channel in every mixture; Mixture3 has none"):
        pep.normalize("reference")
    runs = p.read_diann(TMT / "diann" / "report.tsv.gz", TMT / "diann" / "annotation.csv").filter().peptides()
    with pytest.raises(OptionError, match="needs labelled mixtures with a Norm channel; these are runs"):
        runs.normalize("reference")
    medians = runs.normalize("median").matrix().median(axis=1)
    np.testing.assert_allclose(medians, medians.iloc[0], atol=0.5)


def test_median_polish_is_that_of_r():
    for table in json.loads((HERE / "median_polish.json").read_text()):
        x = np.array(table["x"], dtype=float)
        twice = np.concatenate([x, x + 1.0])
        groups = np.repeat([0, 1], len(x))
        got = summarised(twice, groups, "median_polish")
        np.testing.assert_allclose(got, [table["level"], np.add(table["level"], 1.0)], rtol=1e-12)


def test_medians_without_missing_values():
    x = np.array([[3.0, np.nan, 1.0, 2.0], [np.nan] * 4, [5.0, 4.0, np.nan, np.nan]])
    np.testing.assert_array_equal(stacked_median(x, axis=1), [2.0, np.nan, 4.5])


@pytest.mark.parametrize("how", ["sum", "median", "median_polish"])
def test_summaries_of_proteins(pep, how):
    proteins = pep.proteins(how)
    values = proteins.matrix()
    assert list(values.columns) == list(pep.features)
    assert proteins.features == {name: [name] for name in pep.features}
    assert proteins.history["rule"].is_unique
    for name, columns in pep.features.items():
        x = pep.matrix()[columns]
        np.testing.assert_array_equal(values[name].isna(), x.isna().all(axis=1))
        if how == "sum":
            np.testing.assert_allclose(values[name], np.log2(np.exp2(x).sum(axis=1, min_count=1)), rtol=1e-12)
        if how == "median":
            np.testing.assert_allclose(values[name], x.median(axis=1), rtol=1e-12)
        if len(columns) == 1:
            np.testing.assert_allclose(values[name], x[columns[0]], rtol=1e-12)
    # proteins keep their Norm channels
    assert proteins.normalize("reference").matrix().shape == values.shape


def test_tables_are_written(pep, tmp_path):
    pep.to_csv(tmp_path / "a.csv")
    back = p.read_long(tmp_path / "a.csv", scale="log2").peptides()
    np.testing.assert_allclose(np.nansum(back.matrix()), np.nansum(pep.matrix()), rtol=1e-12)
    pytest.importorskip("pyarrow")
    pep.to_parquet(tmp_path / "a.parquet")
    back = p.read_long(tmp_path / "a.parquet", scale="log2").peptides()
    assert back.features == pep.features


def test_one_mixture_has_no_rule_on_mixtures(exp):
    table = exp.filter().peptides().table
    one = p.read_long(table[table["Mixture"] == "Mixture1"], scale="log2")
    pep = one.peptides()
    assert pep.history.set_index("rule")["n_dropped"]["few_mixtures"] == 0
    assert pep.matrix().shape[1] > 50


def test_own_levels_are_found():
    exp = p.read_long(simulated(), scale="log2").peptides()
    found = analysis.own_levels(exp.data.view(2), "Mixture")
    assert abs(found.block - 1.0) < 0.15
    assert abs(found.sample - 0.3) < 0.03
    assert abs(found.residual - 0.2) < 0.01
    assert max(found.p_block, found.p_sample) < 1e-10
    calm = p.read_long(simulated(own=0.0, sample=0.0, effect=1.0), scale="log2").peptides()
    found = analysis.own_levels(calm.data.view(2), "Mixture")
    assert min(found.p_block, found.p_sample) > 1e-3
    single = simulated()
    single = single[single["peptide"].str.endswith("_0")]
    assert analysis.own_levels(p.read_long(single, scale="log2").peptides().data.view(2), "Mixture") is None


@pytest.mark.parametrize("which", ["tmt", "label-free"])
def test_plots(which, pep):
    plt = pytest.importorskip("matplotlib.pyplot")
    runs = p.read_diann(TMT / "diann" / "report.tsv.gz", TMT / "diann" / "annotation.csv").filter().peptides()
    drawn = pep if which == "tmt" else runs
    (name,) = [k for k in drawn.features if "PROT5_" in k or k == "P00005"]
    ax = drawn.plot_profile(name)
    shown = [line for line in ax.lines if line.get_marker() == "o" and len(line.get_xdata())]
    assert (
        sum(np.isfinite(line.get_ydata()).sum() for line in shown) == drawn.matrix()[drawn.features[name]].count().sum()
    )
    assert len(ax.patches) == (2 if which == "tmt" else 0)
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["A", "B", "C"]
    ax = drawn.plot_missing(ax=plt.subplots()[1])
    assert len(ax.lines[0].get_xdata()) == drawn.matrix().shape[1]
    with pytest.raises(OptionError, match="protein 'P0000' is not in the experiment; did you mean"):
        runs.plot_profile("P0000")
    plt.close("all")
