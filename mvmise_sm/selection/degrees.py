"""Degrees of freedom of the fixed effects' t statistics."""

from __future__ import annotations

import numpy as np

from mvmise_sm.selection.data import SelectionData


def wald_df(data: SelectionData) -> np.ndarray:
    """Degrees of freedom of every fixed effect, after Pinheiro and Bates (2000, Mixed-Effects Models in S and S-PLUS).

    A column that is constant within the clusters is estimated between them, any other one between the samples of a
    cluster. Clusters and samples count where an outcome that the column belongs to was observed; the outcomes of a
    sample count once, since they are correlated.

    Returns
    -------
    ndarray, (p,)
        At least one.
    """
    first = np.unique(data.cluster, return_index=True)[1][data.cluster]
    outer = (data.X[first] == data.X).all(axis=(0, 1))
    used = (data.X != 0).any(axis=0)
    out = np.empty(outer.size)
    for j, outcomes in enumerate(used.T):
        rows = data.observed[:, outcomes].any(axis=1)
        clusters = np.unique(data.cluster[rows]).size
        beside = used[outcomes].any(axis=0)
        between = clusters - (beside & outer).sum()
        within = rows.sum() - clusters - (beside & ~outer).sum()
        out[j] = between if outer[j] else max(between, within)
    return np.maximum(out, 1.0)
