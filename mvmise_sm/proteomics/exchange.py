"""Experiments as AnnData and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.sparse import issparse

from mvmise_sm.exceptions import DataError, OptionError
from mvmise_sm.options import strict
from mvmise_sm.proteomics.experiment import Experiment
from mvmise_sm.proteomics.experiment_tables import ExperimentTables
from mvmise_sm.proteomics.generic import cells_experiment

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["as_anndata", "from_anndata"]


def as_anndata(experiment: ExperimentTables, results: pd.DataFrame | None = None) -> AnnData:
    """Samples as ``obs``, features as ``var``, values as ``X``; see `Experiment.to_anndata`."""
    try:
        from anndata import AnnData
    except ImportError:
        raise OptionError("to_anndata needs anndata; install mvmise_sm[anndata]") from None
    values = experiment.matrix()
    obs = experiment.samples.set_index("sample")
    obs.index.name = None
    proteins = [p for p, columns in experiment.features.items() for _ in columns]
    columns = [c for columns in experiment.features.values() for c in columns]
    var = pd.DataFrame({"protein": proteins}, index=columns)
    out = AnnData(values[columns].to_numpy(), obs=obs, var=var)
    out.uns["mvmise_history"] = experiment.history
    if results is not None:
        table = pd.DataFrame(results).reset_index(drop=True)
        text = [c for c in table if table[c].dtype == object or pd.api.types.is_string_dtype(table[c])]
        # files of AnnData take texts, and no missing ones among them
        out.uns["mvmise"] = table.assign(**{c: table[c].where(table[c].notna(), "").astype(str) for c in text})
    return out


@strict
def from_anndata(
    adata: AnnData,
    *,
    protein: str = "protein",
    layer: str | None = None,
    mixture: str | None = "Mixture",
    scale: str = "log2",
) -> Experiment:
    """Make an experiment of an AnnData whose ``obs`` are samples and whose ``var`` are peptides or proteins.

    Parameters
    ----------
    adata : AnnData
    protein : str, optional
        Column of ``var`` with the protein of each feature; without it features are proteins.
    layer : str, optional
        Layer to take instead of ``X``.
    mixture : str or None, optional
        Column of ``obs`` that tells which samples were measured together.
    scale : {"log2", "raw"}, optional

    Returns
    -------
    Experiment
        Its rows are peptides: `Experiment.filter` and `Experiment.peptides` have been.

    Raises
    ------
    DataError
        If names of samples or features are not unique, or the layer is unknown.
    """
    for what, names in (("sample", adata.obs_names), ("feature", adata.var_names)):
        double = names[names.duplicated()]
        if len(double):
            raise DataError(f"the AnnData has {what} {double[0]!r} twice; names must be unique")
    if layer is not None and layer not in adata.layers:
        raise DataError(f"the AnnData lacks the layer {layer!r}; found {list(adata.layers)}")
    values = adata.X if layer is None else adata.layers[layer]
    values = np.asarray(values.toarray() if issparse(values) else values, dtype=float)
    samples = adata.obs.drop(columns=["sample"] if "sample" in adata.obs else []).reset_index(drop=True)
    samples.insert(0, "sample", np.asarray(adata.obs_names, dtype=object))
    at, column = np.nonzero(np.isfinite(values))
    names = np.asarray(adata.var_names, dtype=object)
    proteins = adata.var[protein].astype(str).to_numpy(dtype=object) if protein in adata.var else names
    protein_of, feature = (pd.Series(pd.Categorical(labels[column])) for labels in (proteins, names))
    spectra = cells_experiment(
        "AnnData", protein_of, feature, at, values[at, column], samples,
        label="the AnnData", mixture=mixture, scale=scale, spectra=None,
    )  # fmt: skip
    return spectra.peptides(min_mixtures=1)
