"""From exported tables of quantified spectra to what a scan takes: readers, filters, normalisation, summaries."""

from mvmise_sm.proteomics.exchange import from_anndata
from mvmise_sm.proteomics.experiment import Experiment
from mvmise_sm.proteomics.generic import read_diann, read_long, read_wide
from mvmise_sm.proteomics.labelled import read_fragpipe, read_maxquant, read_msstats, read_proteome_discoverer

__all__ = [
    "Experiment",
    "from_anndata",
    "read_diann",
    "read_fragpipe",
    "read_long",
    "read_maxquant",
    "read_msstats",
    "read_proteome_discoverer",
    "read_wide",
]
