"""Bootstrap distributions of the parameters and of other statistics."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from mvmise_sm.exceptions import OptionError
from mvmise_sm.inference.fits import require_maximum, unwrap, with_rows
from mvmise_sm.inference.resampling import (
    GroupRefit,
    ParametricRefit,
    as_vector,
    refits,
    resampled_fit,
)
from mvmise_sm.options import strict_options

__all__ = ["Bootstrap", "bootstrap", "bootstrap_intervals"]

_KINDS = ("percentile", "basic", "bca")
_JACKKNIFE_BLOCKS = 200


@strict_options
class Bootstrap:
    """A bootstrap distribution.

    Attributes
    ----------
    samples : DataFrame
        One row per resample (n, k).
    estimate : Series
        The statistic at the fit.
    n_failed : int
        Resamples that could not be fitted; their rows are missing.
    n_restarted : int
        Resamples whose refit from the estimates ended on the boundary or nowhere and was started a second time.
    """

    def __init__(self, result, samples, estimate, statistic, by, n_restarted=0):
        self.n_restarted = n_restarted
        self.samples = samples
        self.estimate = estimate
        self.n_failed = int(samples.isna().all(axis=1).sum())
        self._result, self._statistic, self._by = result, statistic, by

    def plot(self, params=None, ax=None, **options):
        """Plot the resamples; see `mvmise_sm.plots.bootstrap`."""
        from mvmise_sm import plots

        return plots.bootstrap(self, params, ax, **options)

    @property
    def std_error(self):
        """Standard deviation of the resamples, a Series."""
        return self.samples.std()

    @property
    def bias(self):
        """Mean of the resamples minus the estimate, a Series."""
        return self.samples.mean() - self.estimate

    def conf_int(self, alpha=0.05, kind="percentile"):
        """Bootstrap intervals.

        Parameters
        ----------
        alpha : float, optional
            One minus the coverage.
        kind : {"percentile", "basic", "bca"}, optional
            Quantiles; quantiles reflected at the estimate; or bias-corrected and accelerated, the acceleration from
            leaving groups out.

        Returns
        -------
        DataFrame
            Columns 0 and 1.

        References
        ----------
        Davison and Hinkley (1997). Bootstrap Methods and their Application, chapter 5.
        """
        if kind not in _KINDS:
            raise OptionError(f"kind must be 'percentile', 'basic' or 'bca', got {kind!r}")
        levels = np.array([0.5 * alpha, 1.0 - 0.5 * alpha])
        draws, estimate = self.samples.to_numpy(), self.estimate.to_numpy()
        if kind == "bca":
            acceleration = self._acceleration()
            rows = [_bca(d, e, a, levels) for d, e, a in zip(draws.T, estimate, acceleration, strict=True)]
        else:
            rows = [_quantiles(d, levels) for d in draws.T]
            if kind == "basic":
                rows = [2.0 * e - row[::-1] for e, row in zip(estimate, rows, strict=True)]
        return pd.DataFrame(rows, index=self.samples.columns, columns=[0, 1])

    def _acceleration(self):
        """Skewness of the jackknife over groups, divided by six (k,)."""
        names = list(self.samples.columns)
        values = np.array([_named(row, names) for row in _jackknife(self._result, self._by, self._statistic)])
        centred = np.nanmean(values, axis=0) - values
        cubes, squares = np.nansum(centred**3, axis=0), np.nansum(centred**2, axis=0)
        return np.divide(cubes, 6.0 * squares**1.5, out=np.zeros_like(cubes), where=squares > 0.0)

    def __repr__(self):
        return f"<Bootstrap of {len(self.samples)} resamples: {', '.join(map(str, self.samples.columns))}>"


def _named(row, names):
    return [row.get(name, np.nan) for name in names]


def _quantiles(draws, levels):
    draws = draws[np.isfinite(draws)]
    return np.quantile(draws, levels) if draws.size else np.full(2, np.nan)


def _bca(draws, estimate, acceleration, levels):
    draws = draws[np.isfinite(draws)]
    if not draws.size or not np.isfinite(estimate):
        return np.full(2, np.nan)
    n = draws.size
    below = (np.sum(draws < estimate) + 0.5 * np.sum(draws == estimate)) / n
    z0 = stats.norm.ppf(np.clip(below, 0.5 / n, 1.0 - 0.5 / n))
    shifted = z0 + stats.norm.ppf(levels)
    return np.quantile(draws, stats.norm.cdf(z0 + shifted / (1.0 - acceleration * shifted)))


def _jackknife(result, by, statistic):
    """The statistic with blocks of groups left out, dicts by name."""
    factor = result.grouping(by)
    rows = [np.flatnonzero(factor.codes == j) for j in range(factor.n_levels)]
    levels = np.arange(factor.n_levels)
    for block in np.array_split(levels, min(factor.n_levels, _JACKKNIFE_BLOCKS)):
        kept = np.setdiff1d(levels, block)
        if len(kept) < 2:
            continue
        fit = resampled_fit(result, factor, rows, kept)
        if statistic is None:
            yield unwrap(fit).parameter_values().to_dict()
        else:
            yield _labelled(statistic(fit)).to_dict()


def _labelled(value):
    """What a statistic returned, as a Series."""
    if isinstance(value, pd.Series):
        return value.astype(float)
    vector = as_vector(value)
    return pd.Series(
        vector, index=["statistic"] if vector.size == 1 else [f"statistic_{i}" for i in range(vector.size)]
    )


def bootstrap(result, n=1000, rng=None, n_jobs=1, *, statistic=None, by=None, progress=False):
    """Resample and refit; see `InferentialResults.bootstrap`."""
    result = with_rows(result)
    require_maximum(result, "resampled estimates")
    if statistic is None:
        estimate = result.parameter_values()
    else:
        estimate = _labelled(statistic(result))
    task = ParametricRefit(result, statistic) if by is None else GroupRefit(result, by, statistic)
    draws = refits(task, n, rng, n_jobs, progress)
    if draws.shape[1] != len(estimate):
        raise OptionError(f"the statistic has {len(estimate)} values at the fit, but {draws.shape[1]} in resamples")
    return Bootstrap(result, pd.DataFrame(draws, columns=estimate.index), estimate, statistic, by, task.n_restarted)


def bootstrap_intervals(result, alpha, n=1000, rng=None, n_jobs=1, kind="percentile", by=None, progress=False):
    """Bootstrap intervals of all parameters, a DataFrame with columns 0 and 1."""
    if kind not in _KINDS:
        raise OptionError(f"kind must be 'percentile', 'basic' or 'bca', got {kind!r}")
    return bootstrap(result, n, rng, n_jobs, by=by, progress=progress).conf_int(alpha, kind)
