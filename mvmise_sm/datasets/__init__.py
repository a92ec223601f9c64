"""Small data sets that come with the package; every loader returns a fresh frame and says where the data are from."""

from __future__ import annotations

from importlib.resources import as_file, files

import pandas as pd

from mvmise_sm.datasets.simulate import simulate_mvmise
from mvmise_sm.exceptions import OptionError
from mvmise_sm.options import strict

__all__ = [
    "load_cbpp",
    "load_culcita",
    "load_fev",
    "load_pastes",
    "load_penicillin",
    "load_psms",
    "load_salamanders",
    "load_sleepstudy",
    "load_tmt",
    "simulate_mvmise",
]


def _read(name: str, categories: dict[str, list[str] | None]) -> pd.DataFrame:
    """Read a bundled file; columns in `categories` become categorical, None taking the levels in file order."""
    with as_file(files(__name__) / "data" / f"{name}.csv") as path:
        frame = pd.read_csv(path, dtype=dict.fromkeys(categories, "str"))
    for column, levels in categories.items():
        frame[column] = pd.Categorical(frame[column], categories=frame[column].unique() if levels is None else levels)
    return frame


def load_sleepstudy() -> pd.DataFrame:
    """Reaction times under sleep deprivation, 18 subjects on 10 days.

    Returns
    -------
    DataFrame
        180 rows: ``Reaction`` (mean reaction time, ms), ``Days`` (0 to 9), ``Subject`` (categorical, 18).

    Notes
    -----
    Belenky, G. et al. (2003), Patterns of performance degradation and restoration during sleep restriction and
    subsequent recovery, Journal of Sleep Research 12, 1-12; the subset of subjects on three hours of sleep that the R
    package lme4 distributes as ``sleepstudy``.
    """
    return _read("sleepstudy", {"Subject": None})


def load_fev() -> pd.DataFrame:
    """Lung function in a trial of two arms with four visits, some of them missed.

    Returns
    -------
    DataFrame
        800 rows: ``USUBJID`` (categorical, 200 patients), ``AVISIT`` (categorical, 4 visits), ``ARMCD`` (``PBO`` or
        ``TRT``), ``RACE``, ``SEX`` (categorical), ``FEV1_BL`` (forced expired volume at baseline), ``FEV1`` (at the
        visit, missing in 263 rows), ``WEIGHT`` (a weight for each row).

    Notes
    -----
    Simulated; ``fev_data`` of the R package mmrm (openpharma, Apache License 2.0), where SAS's results for these data
    are kept too.
    """
    categories: dict[str, list[str] | None] = {
        "USUBJID": None,
        "AVISIT": ["VIS1", "VIS2", "VIS3", "VIS4"],
        "ARMCD": ["PBO", "TRT"],
        "RACE": ["Asian", "Black or African American", "White"],
        "SEX": ["Male", "Female"],
    }
    return _read("fev", categories)


def load_penicillin() -> pd.DataFrame:
    """Growth inhibition by six penicillin samples on 24 plates, fully crossed.

    Returns
    -------
    DataFrame
        144 rows: ``diameter`` (of the inhibited zone, mm), ``plate`` (categorical, 24), ``sample`` (categorical, 6).

    Notes
    -----
    Davies, O. L. and Goldsmith, P. L. (eds., 1972), Statistical Methods in Research and Production, 4th edition,
    section 6.6; as ``Penicillin`` in the R package lme4.
    """
    return _read("penicillin", {"plate": None, "sample": sorted("ABCDEF")})


def load_pastes() -> pd.DataFrame:
    """Strength of a chemical paste, two measurements on each of three casks from ten batches.

    Returns
    -------
    DataFrame
        60 rows: ``strength``, ``batch`` (categorical, 10), ``cask`` (categorical, 3, within batch), ``sample``
        (categorical, 30, the combination ``batch:cask``).

    Notes
    -----
    Davies, O. L. and Goldsmith, P. L. (eds., 1972), Statistical Methods in Research and Production, 4th edition,
    section 6.6; as ``Pastes`` in the R package lme4.
    """
    return _read("pastes", {"batch": None, "cask": ["a", "b", "c"], "sample": None})


def load_salamanders() -> pd.DataFrame:
    """Counts of salamanders in streams, some of them below mines.

    Returns
    -------
    DataFrame
        644 rows: ``site`` (categorical, 23), ``mined`` (``no`` or ``yes``), ``cover`` (objects that salamanders hide
        under), ``sample`` (1 to 4), ``DOP`` (days since precipitation), ``Wtemp`` (water temperature), ``DOY`` (day of
        the year), all three and ``cover`` standardised, ``spp`` (categorical, species and life stage, 7), ``count``.

    Notes
    -----
    Price, S. J., Muncy, B. L., Bonner, S. J., Drayer, A. N. and Barton, C. D. (2016), Effects of mountaintop removal
    mining and valley filling on the occupancy and abundance of stream salamanders, Journal of Applied Ecology 53,
    459-468 (Dryad, doi:10.5061/dryad.5m8f6); as ``Salamanders`` in the R package glmmTMB.
    """
    return _read("salamanders", {"site": None, "mined": ["no", "yes"], "spp": None})


def load_cbpp() -> pd.DataFrame:
    """Contagious bovine pleuropneumonia: new cases in 15 herds of zebu cattle over four periods.

    Returns
    -------
    DataFrame
        56 rows: ``herd`` (categorical, 15), ``incidence`` (new serological cases), ``size`` (of the herd at the
        beginning of the period), ``period`` (categorical, 4).

    Notes
    -----
    Lesnoff, M. et al. (2004), Within-herd spread of contagious bovine pleuropneumonia in Ethiopian highlands,
    Preventive Veterinary Medicine 64, 27-40; as ``cbpp`` in the R package lme4.
    """
    return _read("cbpp", {"herd": [str(i) for i in range(1, 16)], "period": ["1", "2", "3", "4"]})


def load_culcita() -> pd.DataFrame:
    """Attacks of the sea star *Culcita* on corals guarded by crabs, shrimp, both or none, in ten blocks.

    Returns
    -------
    DataFrame
        80 rows: ``block`` (categorical, 10), ``predation`` (0 or 1), ``ttt`` (categorical: none, crabs, shrimp, both),
        and ``tttcrabs``, ``tttshrimp``, ``tttboth``, the dummies of ``ttt`` centred at their means.

    Notes
    -----
    McKeon, C. S., Stier, A. C., McIlroy, S. E. and Bolker, B. M. (2012), Multiple defender effects: synergistic coral
    defense by mutualist crustaceans, Oecologia 169, 1095-1103; the copy in the test data of the R package lme4.
    """
    return _read("culcita", {"block": None, "ttt": ["none", "crabs", "shrimp", "both"]})


@strict
def load_tmt(shape: str = "long") -> pd.DataFrame:
    """Simulated peptide intensities of a TMT experiment in which whole batches of a peptide are missing.

    Eight channels of ten batches measure 15 peptides of five proteins. A peptide is either quantified in all channels
    of a batch or in none; the lower its mean in the batch, the likelier it is missing. Proteins ``P1`` and ``P2``
    differ between the conditions by 0.8 and -0.6, the others do not.

    Parameters
    ----------
    shape : {"long", "wide"}, optional
        One row per sample and peptide, or one row per sample and one column per peptide.

    Returns
    -------
    DataFrame
        Long: 1200 rows with ``protein``, ``peptide``, ``batch``, ``channel``, ``sample``, ``condition`` (categorical:
        control, case), ``age`` (years, centred) and ``intensity`` (log2, NaN where missing). Wide: 80 rows with
        ``sample``, ``batch``, ``channel``, ``condition``, ``age`` and the columns ``P1_a`` to ``P5_c``.

    Raises
    ------
    ValueError
        If `shape` is neither of the two.

    Notes
    -----
    Simulated for this package by ``make_tmt.py`` beside the data, with a fixed seed.
    """
    if shape not in ("long", "wide"):
        raise OptionError(f"shape must be 'long' or 'wide', not {shape!r}")
    names = dict.fromkeys(("protein", "peptide", "batch", "channel", "sample"))
    long = _read("tmt", {**names, "condition": ["control", "case"]})
    if shape == "long":
        return long
    keys = ["sample", "batch", "channel", "condition", "age"]
    samples = long[keys].drop_duplicates("sample").reset_index(drop=True)
    table = long.pivot(index="sample", columns="peptide", values="intensity").astype(float)
    columns = pd.DataFrame(table.to_numpy(), columns=[str(name) for name in table.columns])
    return pd.concat([samples, columns], axis=1)


@strict
def load_psms(table: str = "psms") -> pd.DataFrame:
    """Simulated spectra of a TMT experiment as Proteome Discoverer exports them, for ``ms.proteomics``.

    Five mixtures of eleven channels hold 45 samples (control, low and high dose), Norm channels of a reference and
    Empty ones. Of the 40 proteins ``P00004`` to ``P00011`` change with the dose, by 0.35 and 0.7, up (odd numbers) or
    down; low peptides are missing in whole mixtures more often, and ``P00003`` is never seen in two of them.

    Parameters
    ----------
    table : {"psms", "annotation"}, optional

    Returns
    -------
    DataFrame
        The spectra: ``Annotated Sequence``, ``Modifications``, ``# Proteins``, ``Master Protein Accessions``,
        ``Charge``, ``Isolation Interference [%]``, ``Spectrum File``, ``Contaminant``, ``Abundance: 126`` to
        ``Abundance: 131C``. The annotation: ``Run, Channel, Mixture, Condition, BioReplicate``.

    Raises
    ------
    ValueError
        If `table` is neither of the two.

    Notes
    -----
    Simulated for this package by ``make_psms.py`` beside the data, with a fixed seed.
    """
    if table not in ("psms", "annotation"):
        raise OptionError(f"table must be 'psms' or 'annotation', not {table!r}")
    text = dict.fromkeys(("Channel", "Condition"), str) if table == "annotation" else {}
    with as_file(files(__name__) / "data" / ("psms.csv" if table == "psms" else "psms_annotation.csv")) as path:
        return pd.read_csv(path, dtype=text)
