"""Profiles of the likelihood, and priors against them."""

from __future__ import annotations

import numpy as np
from scipy import stats
from scipy.interpolate import PchipInterpolator

from mvmise_sm.exceptions import OptionError
from mvmise_sm.option_values import short
from mvmise_sm.options import strict
from mvmise_sm.plots.panels import COLOR, FAINT, MARK, panels, trim

__all__ = ["priors", "profile"]

_LEVELS = (0.5, 0.8, 0.95)


@strict
def profile(result, params=None, ax=None, *, kind="zeta"):
    """Plot profiles of the likelihood, one panel per parameter.

    Parameters
    ----------
    result : MixedModelResults or Profile
    params : list of str, optional
        Names as in ``conf_int(method="profile")``; all by default.
    ax : Axes or sequence of Axes, optional
        One per parameter.
    kind : {"zeta", "density"}, optional
        The signed root of the likelihood ratio, straight where the likelihood is quadratic, with intervals of 50, 80
        and 95%; or the density that it implies.

    Returns
    -------
    Axes or ndarray of Axes
    """
    if kind not in ("zeta", "density"):
        raise OptionError(f"kind must be 'zeta' or 'density', got {kind!r}")
    traced = result if hasattr(result, "frame") else result.profile(params)
    names = list(traced.estimates.index) if params is None else [params] if isinstance(params, str) else list(params)
    axes = panels(len(names), ax, columns=3, size=(2.7, 2.3))
    for axis, name in zip(axes, names, strict=True):
        points = traced.frame[traced.frame["parameter"] == name] if isinstance(name, str) else traced.frame[:0]
        if points.empty:
            raise OptionError(f"unknown parameter {short(name)}; the profile has {', '.join(traced.estimates.index)}")
        value, zeta = _increasing(points["value"].to_numpy(), points["zeta"].to_numpy())
        (_zeta if kind == "zeta" else _density)(axis, value, zeta)
        axis.axvline(traced.estimates[name], color=FAINT, lw=0.8, ls=":")
        axis.set_title(name, fontsize=8)
        axis.tick_params(labelsize=7)
        axis.locator_params(axis="x", nbins=5)
        trim(axis)
    for axis in axes[:: min(3, len(axes))]:
        axis.set_ylabel("zeta" if kind == "zeta" else "density", fontsize=8)
    return axes if len(axes) > 1 else axes[0]


def _increasing(value: np.ndarray, zeta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    keep = np.concatenate([[True], np.diff(value) > 1e-12 * max(np.ptp(value), 1e-300)])
    return value[keep], np.maximum.accumulate(zeta[keep])


def _zeta(axis, value, zeta):
    grid = np.linspace(value[0], value[-1], 200)
    curve = PchipInterpolator(value, zeta)(grid)
    axis.plot(grid, curve, color=COLOR, lw=1.4)
    axis.axhline(0.0, color=FAINT, lw=0.6)
    for level in _LEVELS:
        z = stats.norm.ppf(0.5 + 0.5 * level)
        ends = [float(np.interp(side * z, curve, grid)) for side in (-1.0, 1.0) if curve[0] <= side * z <= curve[-1]]
        for end in ends:
            axis.vlines(end, 0.0, np.interp(end, grid, curve), color=MARK, lw=0.8)
        if len(ends) == 2:
            axis.hlines(0.0, *ends, color=MARK, lw=0.8)


def _density(axis, value, zeta):
    grid = np.linspace(value[0], value[-1], 300)
    spline = PchipInterpolator(value, zeta)
    density = stats.norm.pdf(spline(grid)) * spline.derivative()(grid)
    axis.plot(grid, density, color=COLOR, lw=1.4)
    axis.fill_between(grid, density, color=COLOR, alpha=0.15, lw=0)
    axis.set_ylim(bottom=0.0)


@strict
def priors(result, ax=None):
    """Plot each prior beside what the fit says of its parameter, both with a maximum of one.

    Parameters
    ----------
    result : MixedModelResults
        With priors.
    ax : Axes or sequence of Axes, optional
        One per parameter with a prior.

    Returns
    -------
    Axes or ndarray of Axes
        The solid line is the profile of the objective (the posterior along the parameter), the dashed line the prior
        density of the parameter; that of a standard deviation in a matrix holds the matrix's other standard
        deviations and its correlations.
    """
    result = getattr(result, "_results", result)
    curves = dict(_prior_curves(result))
    if not curves:
        raise OptionError("the model has no priors to plot")
    traced = result.profile(list(curves))
    axes = panels(len(curves), ax, columns=3, size=(2.8, 2.4))
    for axis, (name, log_density) in zip(axes, curves.items(), strict=True):
        points = traced.frame[traced.frame["parameter"] == name]
        value, zeta = _increasing(points["value"].to_numpy(), points["zeta"].to_numpy())
        grid = np.linspace(value[0], value[-1], 200)
        axis.plot(
            grid, np.exp(-0.5 * PchipInterpolator(value, zeta)(grid) ** 2), color=COLOR, lw=1.5, label="posterior"
        )
        wide = np.linspace(*_wider(name, value), 300)
        log_prior = np.array([log_density(v) for v in wide])
        axis.plot(
            wide, np.exp(log_prior - log_prior[np.isfinite(log_prior)].max()), "--", color=MARK, lw=1.3, label="prior"
        )
        axis.axvline(traced.estimates[name], color=FAINT, lw=0.8, ls=":")
        axis.set_title(name, fontsize=8)
        axis.set_ylim(0.0, 1.08)
        axis.set_yticks([])
        axis.tick_params(labelsize=7)
        axis.locator_params(axis="x", nbins=5)
        trim(axis)
    axes[0].legend(fontsize=7, frameon=False, loc="best")
    return axes if len(axes) > 1 else axes[0]


def _wider(name: str, value: np.ndarray) -> tuple[float, float]:
    margin = 0.25 * (value[-1] - value[0])
    low, high = value[0] - margin, value[-1] + margin
    positive = name.startswith("sd_") or name == "sigma"
    return (max(low, 1e-3 * high) if positive else low), high


def _prior_curves(result):
    """Names and log prior densities up to a constant, the other parameters at their estimates."""
    bound = result.priors
    if bound is None:
        return
    layout = result.model.random_layout
    for term, prior, lam in zip(layout.terms, bound.cov, layout.lambdas(result.theta), strict=True):
        if prior is None:
            continue
        sigma = lam @ lam.T if prior.common_scale else result.scale * (lam @ lam.T)
        unit = np.sqrt(result.scale) if prior.common_scale else 1.0
        for a, name in enumerate(term.names):
            if sigma[a, a] > 0.0:
                yield f"sd_{name}|{term.factor.name}", _sd_curve(prior, sigma, a, unit)
    for block in bound.fixef:
        scale = result.scale if block.common_scale else 1.0
        for j, name in enumerate(result.model.exog_names):
            if block.precision[j, j] > 0.0:
                yield name, _fixed_curve(block, j, scale)
    if bound.resid is not None and bound.resid.fixed is None:
        yield "sigma", lambda v: -0.5 * bound.resid.value(np.array([[v * v]])) + np.log(v)


def _sd_curve(prior, sigma, a, unit):
    def log_density(sd):
        factor = np.ones(len(sigma))
        factor[a] = sd / unit / np.sqrt(sigma[a, a])
        # the density of a variance times 2 sd is that of the standard deviation
        return -0.5 * prior.value(sigma * np.outer(factor, factor)) + np.log(sd)

    return log_density


def _fixed_curve(block, j, scale):
    mean = np.broadcast_to(block.mean, len(block.precision))[j]
    return lambda v: -0.5 * block.mixing.phi(block.precision[j, j] * (v - mean) ** 2 / scale)[0]
