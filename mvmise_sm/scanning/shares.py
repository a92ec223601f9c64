"""Shares of variance by fixed term, grouping factor and residual."""

from __future__ import annotations

from typing import Any

import numpy as np

from mvmise_sm.core.covariance.random_effects import RandomEffects
from mvmise_sm.core.optimise.batched import BatchFit
from mvmise_sm.scanning.estimable import OwnColumns

__all__ = ["batch_shares", "shares_of"]


def shares_of(template: Any, result: Any, own: OwnColumns) -> dict[str, float]:
    """Shares of one fit: population variance of X_k beta_k, mean of z'Sigma z, residual variance.

    Parameters
    ----------
    template : model
        Carries the formula's terms.
    result : LinearMixedModelResults
    own : OwnColumns
        Columns of the template that the result has.
    """
    model = result.model
    exog, params = np.asarray(model.exog), np.asarray(result.params)
    place = {int(j): i for i, j in enumerate(own.kept)}
    out: dict[str, float] = {}
    for name, at in _fixed_terms(template).items():
        columns = [place[j] for j in range(at.start, at.stop) if j in place]
        out[name] = float(np.var(exog[:, columns] @ params[columns]))
    random = model.random_effects
    for term, lam in zip(random.terms, random.lambdas(result.theta), strict=True):
        z = np.column_stack([np.ones(random.nobs) if c is None else c for c in term.columns])
        parts = (z * (z @ (result.scale * lam @ lam.T))).mean(axis=0)
        for name, part in zip(_names(term), parts, strict=True):
            out[name] = out.get(name, 0.0) + float(part)
    weights = model.weights
    out["Residual"] = float(result.scale if weights is None else result.scale * np.mean(1.0 / weights))
    total = sum(out.values())
    return {name: value / total for name, value in out.items()}


def batch_shares(
    template: Any, random: RandomEffects | None, fit: BatchFit, W: np.ndarray | None
) -> dict[str, np.ndarray]:
    """The same of many fits (R,) each; W as in `BatchDesign.moments`."""
    design, beta, sigma2 = fit.design, fit.beta, fit.at.sigma2
    exog = np.asarray(template.exog)
    if W is None:
        seen = np.ones((len(exog), 1))
        inverse = 1.0 if design.weights is None else float(np.mean(1.0 / design.weights))
    else:
        seen = (W > 0.0).astype(float)
        inverse = np.where(W > 0.0, 1.0 / np.where(W > 0.0, W, 1.0), 0.0).sum(axis=0) / seen.sum(axis=0)
    share = seen / seen.sum(axis=0)
    out: dict[str, np.ndarray] = {}
    for name, at in _fixed_terms(template).items():
        # squares cancel less once a column is centred
        x = exog[:, at] - exog[:, at].mean(axis=0)
        mean = share.T @ x
        square = (share.T @ (x[:, :, None] * x[:, None]).reshape(len(x), -1)).reshape(-1, x.shape[1], x.shape[1])
        cov = square - mean[:, :, None] * mean[:, None]
        out[name] = np.einsum(
            "ra,rab,rb->r", beta[:, at], np.broadcast_to(cov, (len(beta), *cov.shape[1:])), beta[:, at]
        )
    if random is not None:
        theta = fit.user_theta
        for term, place in zip(random.terms, random.theta_slices, strict=True):
            lam = np.array([term.structure.factor(t) for t in theta[:, place]])
            sigma = sigma2[:, None, None] * (lam @ np.swapaxes(lam, 1, 2))
            z = np.column_stack([np.ones(len(exog)) if c is None else c for c in term.columns])
            square = (share.T @ (z[:, :, None] * z[:, None]).reshape(len(z), -1)).reshape(-1, term.q, term.q)
            parts = (sigma * square).sum(axis=2)
            for j, name in enumerate(_names(term)):
                out[name] = out.get(name, 0.0) + parts[:, j]
    out["Residual"] = sigma2 * inverse
    total = sum(out.values())
    return {name: value / total for name, value in out.items()}


def _fixed_terms(template: Any) -> dict[str, slice]:
    """Columns of every fixed term but the intercept."""
    spec = template.data.design.model_spec
    return {term.name(): spec.term_slices[term] for term in spec.terms if term.factors}


def _names(term: Any) -> list[str]:
    """What the columns of a random-effects term are called: the factor, slopes with their column."""
    group = term.factor.name
    return [group if name == "Intercept" else f"{group}: {name}" for name in term.names]
