"""Bundled data."""

import numpy as np
import pandas as pd
import pytest

import mvmise_sm as ms
from mvmise_sm.datasets import make_psms
from mvmise_sm.datasets.make_tmt import simulate

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


@pytest.mark.parametrize("name", ms.datasets.__all__)
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
