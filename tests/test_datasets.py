"""Bundled data."""

import numpy as np
import pandas as pd
import pytest

import mvmise_sm as ms
from mvmise_sm.datasets import make_psms
from mvmise_sm.datasets.make_tmt import simulate
from mvmise_sm.exceptions import OptionError

LOADERS = {
    "sleepstudy": ms.datasets.load_sleepstudy,
    "Penicillin": ms.datasets.load_penicillin,
    "Pastes": ms.datasets.load_pastes,
    "cbpp": ms.datasets.load_cbpp,
    "culcita": ms.datasets.load_culcita,
}


@pytest.mark.parametrize("name", LOADERS)
def test_bundled_data_are_those_of_the_reference(frames, name):
    ours, reference = LOADERS[name](), frames(name)
    pd.testing.assert_frame_equal(ours, reference[list(ours.columns)])


@pytest.mark.parametrize("name", [n for n in ms.datasets.__all__ if n.startswith("load")])
def test_docstrings_name_the_origin(name):
    assert "Notes" in getattr(ms.datasets, name).__doc__


def test_loaders_return_fresh_frames():
    frame = ms.datasets.load_pastes()
    frame["strength"] = 0.0
    assert ms.datasets.load_pastes()["strength"].min() > 50


def test_tmt_is_what_its_script_makes():
    long = ms.datasets.load_tmt()
    pd.testing.assert_frame_equal(long, simulate(), check_dtype=False, check_categorical=False)


def test_tmt_is_missing_by_block_and_more_often_where_low():
    long = ms.datasets.load_tmt()
    share = long.groupby(["peptide", "batch"], observed=True)["intensity"].apply(lambda v: v.isna().mean())
    assert set(share) == {0.0, 1.0}
    assert 0.1 < share.mean() < 0.5
    by_peptide = long.groupby("peptide", observed=True)["intensity"]
    assert np.corrcoef(by_peptide.mean(), by_peptide.apply(lambda v: v.isna().mean()))[0, 1] < -0.4


def test_tmt_wide_and_long_agree():
    long, wide = ms.datasets.load_tmt(), ms.datasets.load_tmt("wide")
    assert wide.shape == (80, 20)
    melted = wide.melt("sample", [c for c in wide if c.startswith("P")], "peptide", "intensity")
    merged = long.astype({"sample": str, "peptide": str}).merge(
        melted.astype({"sample": str}), on=["sample", "peptide"]
    )
    assert len(merged) == 1200
    np.testing.assert_array_equal(merged["intensity_x"], merged["intensity_y"])
    with pytest.raises(ValueError, match="'long' or 'wide'"):
        ms.datasets.load_tmt("square")


def test_psms_are_what_their_script_makes():
    psms, annotation = make_psms.simulate()
    pd.testing.assert_frame_equal(ms.datasets.load_psms(), psms, check_dtype=False)
    pd.testing.assert_frame_equal(ms.datasets.load_psms("annotation"), annotation, check_dtype=False)
    with pytest.raises(ValueError, match="'psms' or 'annotation'"):
        ms.datasets.load_psms("samples")


def test_psms_hold_what_an_export_holds():
    exp = ms.proteomics.read_proteome_discoverer(ms.datasets.load_psms(), ms.datasets.load_psms("annotation"))
    pep = exp.filter().peptides()
    assert (pep.history.set_index("rule")["n_dropped"][["contaminants", "shared", "impure", "not_best"]] > 0).all()
    absent = pep.matrix()[pep.features["P00003"]].isna().all(axis=1).groupby(pep.samples["Mixture"].to_numpy()).all()
    assert list(absent) == [True, True, False, False, False]
    assert set(exp.channels["Condition"]) == {"control", "low", "high", "Norm", "Empty"}


def test_simulated_outcomes_are_those_of_the_model():
    frame = ms.datasets.simulate_mvmise(n_clusters=400, n_outcomes=2, tau=(1.0, 0.5), sigma_diff=4.0, rng=1)
    seen = frame[["y1", "y2"]].dropna()
    first = ~frame["id"].duplicated()
    assert 0.1 < frame["y1"].isna().mean() < 0.6
    assert frame.groupby("id")["y1"].apply(lambda y: y.isna().nunique()).eq(1).all()
    assert frame.loc[first, "y1"].std() > frame.loc[~first, "y1"].std()
    assert len(seen) > 100
    again = ms.datasets.simulate_mvmise(n_clusters=400, n_outcomes=2, tau=(1.0, 0.5), sigma_diff=4.0, rng=1)
    assert frame.equals(again)
    correlated = ms.datasets.simulate_mvmise(n_clusters=300, tau=0.0, phi=(-30.0, 0.0), correlation=0.6, rng=2)
    assert correlated[["y1", "y2"]].sub(correlated["x2"], axis=0).corr().iloc[0, 1] == pytest.approx(0.6, abs=0.1)
    with pytest.raises(OptionError, match="sizes must be"):
        ms.datasets.simulate_mvmise(sizes=(3, 2))
    with pytest.raises(OptionError, match="correlation"):
        ms.datasets.simulate_mvmise(correlation=-0.9)
