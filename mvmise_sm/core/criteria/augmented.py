"""Random effects very much larger than the residuals: least squares without cross-products.

Cross-products hold the residual variance only as long as it is above rounding relative to the response, so they lose it
at a ratio of standard deviations of about 1e5. A QR decomposition of the augmented rows [Z Lambda, X; I, 0] keeps the
residuals themselves, and loses it at about 1e12 only. Each EM step then moves by the share of what the data do not say
of the random effects, which is nearly nothing here, so that a few steps reach the optimum.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import qr, solve_triangular

from mvmise_sm.core.covariance.random_effects import RandomEffects
from mvmise_sm.core.criteria.solution import PLSSolution

__all__ = ["fits_in_memory", "residual_based_fit"]

# multiplications of one decomposition, a few seconds
_MOST_WORK = 2e10
_STEPS = 400
# steps after which a change that is rounding is the last
_ENOUGH = 8
_CLOSE = 1e-11
_NOISE = 64.0 * float(np.finfo(float).eps)


def fits_in_memory(random: RandomEffects, n: int, p: int) -> bool:
    """Whether the dense decomposition is affordable and the structures are those that EM steps stay within."""
    k = sum(t.factor.n_levels * t.q for t in random.terms)
    plain = all(t.structure.placed and not t.factor.loaded for t in random.terms)
    return plain and (n + k) * (k + p) ** 2 <= _MOST_WORK


def residual_based_fit(
    random: RandomEffects, X: np.ndarray, y: np.ndarray, weights: np.ndarray | None, reml: bool
) -> tuple[PLSSolution, int, bool]:
    """Fit by EM steps on QR decompositions of the augmented rows.

    Parameters
    ----------
    random : RandomEffects
    X : ndarray
        (n, p), full rank.
    y : ndarray
        Response less its offset (n,).
    weights : ndarray or None
        (n,).
    reml : bool

    Returns
    -------
    solution : PLSSolution
    steps : int
    converged : bool

    References
    ----------
    Bates, Maechler, Bolker and Walker (2015), section 3, for the augmented least squares problem.
    """
    n, p = X.shape
    root = np.ones(n) if weights is None else np.sqrt(weights)
    z, x, target = root[:, None] * random.z.toarray(), root[:, None] * X, root * y
    k = z.shape[1]
    nu = float(n - p if reml else n)
    theta = _start(random, z, x, target)
    for step in range(1, _STEPS + 1):
        lambdas = random.lambdas(theta)
        scaled = np.hstack([_times(z, at, lam) for at, lam in zip(_places(random), lambdas, strict=True)])
        rows = np.zeros((n + k, k + p + 1))
        rows[:n, :k], rows[:n, k : k + p], rows[:n, -1] = scaled, x, target
        rows[n:, :k] = np.eye(k)
        r = qr(rows, mode="economic", check_finite=False)[1]
        inverse = solve_triangular(r[: k + p, : k + p], np.eye(k + p))
        coef = inverse @ r[: k + p, -1]
        u, r2 = coef[:k], float(r[k + p, k + p] ** 2)
        left = inverse[:k] if reml else inverse[:k, :k]
        sums = [
            _level_sums(u[lo:hi].reshape(-1, q), left[lo:hi].reshape(-1, q, left.shape[1]), r2 / nu)
            for lo, hi, q in _places(random)
        ]
        sigmas = [lam @ s @ lam.T for lam, s in zip(lambdas, sums, strict=True)]
        moved = np.concatenate([t.structure.theta_from(s) for t, s in zip(random.terms, sigmas, strict=True)])
        size = float(np.abs(theta).max())
        # rounding of the response limits how sharp a very large theta can be
        change = float(np.abs(moved - theta).max()) / size
        done = change <= _CLOSE or (step >= _ENOUGH and change <= _NOISE * size)
        if done:
            break
        theta = moved
    diagonal = np.log(np.abs(np.diag(r)[: k + p]))
    logdet_m, logdet_x = 2.0 * float(diagonal[:k].sum()), 2.0 * float(diagonal[k:].sum())
    criterion = logdet_m + nu * (1.0 + float(np.log(2.0 * np.pi * r2 / nu))) + reml * logdet_x
    if weights is not None:
        criterion -= float(np.log(weights).sum())
    b = [u[lo:hi].reshape(-1, q) @ lam.T for (lo, hi, q), lam in zip(_places(random), lambdas, strict=True)]
    cov_beta = inverse[k:, k:] @ inverse[k:, k:].T
    solution = PLSSolution(
        theta, coef[k:], tuple(b), r2 / nu, cov_beta, logdet_m, logdet_x, r2, nu, float(criterion), 0.0
    )
    return solution, step, done


def _places(random: RandomEffects) -> list[tuple[int, int, int]]:
    """First and last column of Z and number of columns by level, of each term."""
    stops = np.cumsum([0] + [t.factor.n_levels * t.q for t in random.terms])
    return [(int(a), int(b), t.q) for a, b, t in zip(stops, stops[1:], random.terms, strict=False)]


def _times(z: np.ndarray, place: tuple[int, int, int], lam: np.ndarray) -> np.ndarray:
    lo, hi, q = place
    return (z[:, lo:hi].reshape(len(z), -1, q) @ lam).reshape(len(z), hi - lo)


def _level_sums(u: np.ndarray, left: np.ndarray, s2: float) -> np.ndarray:
    """Mean over levels of u u' / sigma2 and of the conditional covariance (q, q)."""
    return (u.T @ u / s2 + np.einsum("jam,jbm->ab", left, left)) / len(u)


def _start(random: RandomEffects, z: np.ndarray, x: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Theta from least-squares effects, which the random effects nearly are."""
    both = np.hstack([z, x])
    coef, _, rank, _ = np.linalg.lstsq(both, target, rcond=None)
    rest = target - both @ coef
    s2 = max(float(rest @ rest) / max(len(target) - rank, 1), 1e-300)
    out = []
    for term, (lo, hi, q) in zip(random.terms, _places(random), strict=True):
        effects = coef[lo:hi].reshape(-1, q)
        out.append(term.structure.theta_from(effects.T @ effects / len(effects) / s2))
    return np.concatenate(out)
