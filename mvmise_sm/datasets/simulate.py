"""Simulated data in the layout of mvMISE's demonstration data."""

from __future__ import annotations

import numpy as np
import pandas as pd

from mvmise_sm.exceptions import OptionError

__all__ = ["simulate_mvmise"]


def simulate_mvmise(
    n_clusters: int = 36,
    n_outcomes: int = 5,
    sizes: tuple[int, int] = (2, 3),
    *,
    beta: tuple[float, float] = (10.0, 1.0),
    tau: float | tuple[float, ...] = 1.3,
    sigma2: float = 1.0,
    phi: tuple[float, float] = (0.9, -0.2),
    sigma_diff: float | None = None,
    correlation: float | None = None,
    rng=None,
) -> pd.DataFrame:
    """Simulate clustered outcomes whose blocks are missing with probability ``min(1, exp(phi0 + phi1 mean))``.

    Parameters
    ----------
    n_clusters, n_outcomes : int, optional
        Clusters, and outcomes K.
    sizes : tuple of int, optional
        Smallest and largest number of samples in a cluster.
    beta : tuple of float, optional
        Intercept and effect of the binary covariate ``x2``.
    tau : float or tuple of float, optional
        Loadings of the outcomes on the shared effect (model b); one for all, or K.
    sigma2 : float, optional
        Error variance.
    phi : tuple of float, optional
        Mechanism: intercept and slope on the block mean.
    sigma_diff : float, optional
        Error variance of the first sample of every cluster, where it differs (R's ``sigma_diff``).
    correlation : float, optional
        Correlation of the errors between outcomes (model e); none by default.
    rng : int or numpy.random.Generator, optional

    Returns
    -------
    DataFrame
        Columns ``id``, ``x1`` (ones), ``x2`` and ``y1`` to ``yK``, NaN where missing.

    Examples
    --------
    >>> import mvmise_sm as ms
    >>> frame = ms.datasets.simulate_mvmise(rng=1)
    >>> list(frame.columns)
    ['id', 'x1', 'x2', 'y1', 'y2', 'y3', 'y4', 'y5']
    """
    generator = np.random.default_rng(rng)
    loadings = np.broadcast_to(np.asarray(tau, dtype=float), (n_outcomes,))
    if not 1 <= sizes[0] <= sizes[1]:
        raise OptionError(f"sizes must be the smallest and the largest cluster, got {sizes!r}")
    count = generator.integers(sizes[0], sizes[1] + 1, n_clusters)
    cluster = np.repeat(np.arange(n_clusters), count)
    N = cluster.size
    x2 = generator.integers(0, 2, N).astype(float)
    errors = generator.standard_normal((N, n_outcomes))
    if correlation is not None:
        cov = np.full((n_outcomes, n_outcomes), float(correlation))
        np.fill_diagonal(cov, 1.0)
        try:
            errors = errors @ np.linalg.cholesky(cov).T
        except np.linalg.LinAlgError:
            raise OptionError(f"correlation {correlation!r} is not that of {n_outcomes} outcomes") from None
    variance = np.full(N, float(sigma2))
    if sigma_diff is not None:
        variance[np.r_[True, np.diff(cluster) > 0]] = float(sigma_diff)
    shared = generator.standard_normal(n_clusters)[cluster]
    Y = beta[0] + beta[1] * x2[:, None] + shared[:, None] * loadings + np.sqrt(variance)[:, None] * errors
    for i in range(n_clusters):
        own = cluster == i
        probability = np.exp(np.minimum(phi[0] + phi[1] * Y[own].mean(axis=0), 0.0))
        Y[np.ix_(own, generator.random(n_outcomes) < probability)] = np.nan
    outcomes = {f"y{k + 1}": Y[:, k] for k in range(n_outcomes)}
    return pd.DataFrame({"id": cluster + 1, "x1": 1.0, "x2": x2, **outcomes})
