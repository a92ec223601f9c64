"""Simulated data in the layout of mvMISE's demonstration data."""

from __future__ import annotations

import numpy as np
import pandas as pd

from mvmise_sm.exceptions import OptionError
from mvmise_sm.option_values import not_negative, real, short
from mvmise_sm.options import strict

__all__ = ["simulate_mvmise"]


@strict
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
    loadings = _numbers("tau", tau, (1, n_outcomes))
    mean, effect = _numbers("beta", beta, (2,))
    intercept, slope = _numbers("phi", phi, (2,))
    smallest, largest = _numbers("sizes", sizes, (2,))
    if not 1 <= smallest <= largest or smallest % 1.0 or largest % 1.0:
        raise OptionError(f"sizes must be the smallest and the largest cluster, got {sizes!r}")
    count = generator.integers(int(smallest), int(largest) + 1, n_clusters)
    cluster = np.repeat(np.arange(n_clusters), count)
    N = cluster.size
    x2 = generator.integers(0, 2, N).astype(float)
    errors = generator.standard_normal((N, n_outcomes))
    if correlation is not None:
        cov = np.full((n_outcomes, n_outcomes), real("correlation", correlation))
        np.fill_diagonal(cov, 1.0)
        try:
            errors = errors @ np.linalg.cholesky(cov).T
        except np.linalg.LinAlgError:
            raise OptionError(f"correlation {correlation!r} is not that of {n_outcomes} outcomes") from None
    variance = np.full(N, not_negative("sigma2", sigma2))
    if sigma_diff is not None:
        variance[np.r_[True, np.diff(cluster) > 0]] = not_negative("sigma_diff", sigma_diff)
    shared = generator.standard_normal(n_clusters)[cluster]
    Y = mean + effect * x2[:, None] + shared[:, None] * loadings + np.sqrt(variance)[:, None] * errors
    for i in range(n_clusters):
        own = cluster == i
        probability = np.exp(np.minimum(intercept + slope * Y[own].mean(axis=0), 0.0))
        Y[np.ix_(own, generator.random(n_outcomes) < probability)] = np.nan
    outcomes = {f"y{k + 1}": Y[:, k] for k in range(n_outcomes)}
    return pd.DataFrame({"id": cluster + 1, "x1": 1.0, "x2": x2, **outcomes})


def _numbers(name, values, counts):
    """One of `counts` finite numbers as an array; a single one stands for the largest count.

    Raises
    ------
    OptionError
    """
    array = np.atleast_1d(np.asarray(values, dtype=float))
    if array.ndim != 1 or array.size not in counts or not np.isfinite(array).all():
        raise OptionError(f"{name} must be {' or '.join(map(str, counts))} finite numbers, got {short(values)}")
    return np.broadcast_to(array, (counts[-1],))
