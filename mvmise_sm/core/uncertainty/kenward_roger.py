"""Kenward and Roger's adjusted covariance of the fixed effects, in the linear parametrisation of the covariance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mvmise_sm.core.uncertainty.second_order import score_columns

if TYPE_CHECKING:
    from mvmise_sm.core.criteria.linear import ProfiledDeviance

__all__ = ["KenwardRoger", "f_approximation", "kenward_roger"]


_VANISHING = 1e-10  # rounding of moments that are of order one


@dataclass(frozen=True, slots=True, eq=False)
class KenwardRoger:
    """What Kenward and Roger's tests need, user's coordinates.

    Attributes
    ----------
    phi : ndarray
        Covariance of beta with estimated variances plugged in (p, p).
    phi_adjusted : ndarray
        Covariance that allows for their estimation (p, p).
    slopes : ndarray
        Phi P_i Phi of every covariance parameter (r, p, p).
    weights : ndarray
        Asymptotic covariance W of the covariance parameters (r, r).
    """

    phi: np.ndarray
    phi_adjusted: np.ndarray
    slopes: np.ndarray
    weights: np.ndarray

    def f_test(self, contrasts: np.ndarray, values: np.ndarray) -> tuple[float, float, float]:
        """Scaled F statistic of L beta = values.

        Parameters
        ----------
        contrasts : ndarray
            L of full row rank (q, p).
        values : ndarray
            L beta_hat minus the hypothetical values (q,).

        Returns
        -------
        statistic, df_denom, scaling : float
            The statistic includes the scaling.
        """
        q = len(contrasts)
        plain = contrasts @ self.phi @ contrasts.T
        parts = np.linalg.solve(plain, contrasts @ self.slopes @ contrasts.T)
        traces = np.trace(parts, axis1=1, axis2=2)
        a1 = float(traces @ self.weights @ traces)
        a2 = float(np.einsum("ij,iab,jba->", self.weights, parts, parts))
        df, scaling = f_approximation(q, a1, a2)
        adjusted = contrasts @ self.phi_adjusted @ contrasts.T
        statistic = float(values @ np.linalg.solve(adjusted, values)) / q
        return float(scaling * statistic), float(df), float(scaling)


def f_approximation(
    q: int, a1: float | np.ndarray, a2: float | np.ndarray
) -> tuple[float | np.ndarray, float | np.ndarray]:
    """Denominator degrees of freedom and scaling of Kenward and Roger's F test.

    Parameters
    ----------
    q : int
        Rows of the hypothesis.
    a1, a2 : float or ndarray
        Their A1 and A2.

    Returns
    -------
    df, scaling : float or ndarray
        With one row 2 / A2 and 1, to which the general formula comes down.

    References
    ----------
    Kenward and Roger (1997), section 3.
    """
    a1, a2 = np.asarray(a1, dtype=float), np.asarray(a2, dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        if q == 1:
            df = np.where(a2 > 0.0, 2.0 / a2, np.inf)
            return df[()], np.ones_like(df)[()]
        b = (a1 + 6.0 * a2) / (2.0 * q)
        g = np.where(a2 > 0.0, ((q + 1.0) * a1 - (q + 4.0) * a2) / ((q + 2.0) * a2), 0.0)
        below = 3.0 * q + 2.0 * (1.0 - g)
        c1, c2, c3 = g / below, (q - g) / below, (q + 2.0 - g) / below
        mean_part = 1.0 - a2 / q
        v0, v1, v2 = (np.where(np.abs(v) < _VANISHING, 0.0, v) for v in (1.0 + c1 * b, 1.0 - c2 * b, 1.0 - c3 * b))
        # both vanish together where F has 2 degrees of freedom, and their ratio tends to one
        ratio = np.where((np.abs(mean_part) < _VANISHING) & (v1 == 0.0), 1.0, mean_part / v1)
        excess = ratio**2 * v0 - v2
        # the variance of F is infinite at 4 degrees of freedom, so it must not be divided by
        df = np.where(excess > 0.0, 4.0 + (q + 2.0) * v2 / excess, np.inf)
        # df = 2 is a removable pole of the scaling
        scaling = np.where(np.abs(df - 2.0) < 1e-2, 1.0, df * mean_part / (df - 2.0))
        return df[()], np.where(np.isinf(df), 1.0, scaling)[()]


def kenward_roger(criterion: ProfiledDeviance, theta: np.ndarray) -> KenwardRoger:
    """Adjusted covariance of the fixed effects at the REML estimate.

    Parameters
    ----------
    criterion : ProfiledDeviance
        REML, without priors.
    theta : ndarray
        Working theta at the optimum (k_theta,).

    Returns
    -------
    KenwardRoger

    Notes
    -----
    The covariance parameters are those in which V is linear: the elements of every term's covariance matrix, and a
    multiple of V itself in place of the residual variance, which spans the same space and spares V^-2. Everything
    follows from T = Z'V^-1Z and G = Z'V^-1X: block diagonal and linear in the number of levels with one grouping
    factor; with several, time grows with the square of the number of random effects and memory with their number.

    References
    ----------
    Kenward and Roger (1997). Small sample inference for fixed effects from restricted maximum likelihood. Biometrics
    53.
    """
    factorization, inner, _, _ = criterion.eliminated(theta)
    p = criterion.k_fe
    g = [block[:, :, :p] for block in score_columns(factorization, p + 1)]
    traces, pairs, mixed = factorization.pair_sums(g)
    directions = _directions(criterion, theta)
    c, r = inner.cov_beta, len(directions)
    information = np.empty((r + 1, r + 1))
    single = np.empty((r + 1, p, p))
    double = np.empty((r + 1, r + 1, p, p))
    for i, (k, e) in enumerate(directions):
        single[i] = np.einsum("ab,aum,bun->mn", e, g[k], g[k], optimize=True)
    gram = np.linalg.inv(c)
    single[r] = gram
    for i, (k, e) in enumerate(directions):
        information[i, r] = information[r, i] = float((e * traces[k]).sum())
        double[i, r] = double[r, i] = single[i]
        for j, (n, d) in enumerate(directions):
            information[i, j] = np.einsum("ab,cd,abcd->", e, d, pairs[k, n])
            double[i, j] = np.einsum("ab,cd,abcdmn->mn", e, d, mixed[k, n])
    information[r, r] = criterion.nobs
    double[r, r] = gram
    sandwich = single @ c
    information -= 2.0 * np.einsum("ijmn,nm->ij", double, c)
    information += np.einsum("imn,jnm->ij", sandwich, sandwich)
    weights = 2.0 * np.linalg.pinv(0.5 * (information + information.T), rcond=1e-12, hermitian=True)
    u = np.einsum("ij,ijmn->mn", weights, double) - np.einsum("ij,imk,jkn->mn", weights, sandwich, single)
    a, s2 = criterion.basis.a, inner.sigma2
    half = a @ c
    phi = s2 * half @ a.T
    adjusted = phi + 2.0 * s2 * half @ (0.5 * (u + u.T)) @ half.T
    return KenwardRoger(phi, adjusted, -s2 * (half @ single @ half.T), weights)


def _directions(criterion: ProfiledDeviance, theta: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Derivatives of Sigma in its parameters: (factor, (q, q)), working coordinates."""
    out = []
    space = criterion.space
    places = zip(space.structures, space.random.theta_slices, space.where, strict=True)
    for structure, at, (k, place, width) in places:
        for direction in structure.kr_directions(theta[at]):
            wide = np.zeros((width, width))
            wide[place, place] = direction
            out.append((k, wide))
    return out
