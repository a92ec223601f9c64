"""Newton's method on many responses at once, with a certificate on the boundary; see `core.criteria.batched`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mvmise_sm.core.criteria.batched import BatchDesign, Evaluation, Moments

__all__ = ["BatchFit", "fit_batch"]

# squared error of the objective at which Newton's iteration has arrived; the last step squares the error of theta
_DECREMENT = 1e-10
_ITERATIONS = 60
# smallest share of a step that is tried
_SHORTEST = 1e-6
# share of the largest eigenvalue below which a Hessian counts as not positive definite
_FLAT = 1e-9
# variance ratio, in units of one over the rows of a level, at which a fit starts at the least
_START = 0.1
# relative standard deviation that counts as zero
_SINGULAR = 1e-4
# sizes of the moves off the boundary that are tried: Sigma + t v v' (columns have unit mean square), a turned factor
_LEAVES = (1e-3, 1e-2, 0.05, 0.25, 1.0)
_TURNS = (0.03, 0.1, 0.3, 1.0)
_ROUNDS = 3
# a direction of D counts as downhill beyond rounding
_DOWNHILL = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class BatchFit:
    """Fits of one design to R responses.

    Attributes
    ----------
    design : BatchDesign
    theta : ndarray
        Working theta (R, k).
    at : Evaluation
        At `theta`.
    moments : Moments
    converged, singular : ndarray
        (R,).
    """

    design: BatchDesign
    theta: np.ndarray
    at: Evaluation
    moments: Moments
    converged: np.ndarray
    singular: np.ndarray

    @property
    def beta(self) -> np.ndarray:
        """Fixed effects in the user's coordinates (R, p)."""
        return self.design.beta(self.moments, self.at)

    @property
    def user_theta(self) -> np.ndarray:
        """Theta in the user's coordinates (R, k)."""
        return self.design.user_theta(self.theta)

    def take(self, rows: np.ndarray) -> BatchFit:
        """The responses `rows`."""
        own = (self.at.take(rows), self.moments.take(rows), self.converged[rows], self.singular[rows])
        return BatchFit(self.design, self.theta[rows], *own)


def fit_batch(
    design: BatchDesign, Y: np.ndarray, W: np.ndarray | None = None, start: np.ndarray | None = None
) -> BatchFit:
    """Fit a design to every column of Y (n, R); at most ``design.width()`` columns at a time.

    Parameters
    ----------
    design : BatchDesign
    Y, W : ndarray
        As in `BatchDesign.moments`.
    start : ndarray, optional
        Working theta (k,); moment estimates by default.
    """
    m = design.moments(Y, W)
    r = len(m.gram)
    with np.errstate(all="ignore"):
        theta = _start(design, m) if start is None else np.tile(start, (r, 1))
        at, converged = _minimise(design, theta, m)
        for _ in range(_ROUNDS if design.k else 0):
            if not _leave_boundary(design, theta, at, converged, m):
                break
    finite: np.ndarray = np.isfinite(at.value) & np.isfinite(at.cov).all(axis=(1, 2)) & m.full
    bounded = design.lower == 0.0
    singular = (design.user_theta(theta)[:, bounded] < _SINGULAR).any(axis=1)
    return BatchFit(design, theta, at, m, converged & finite, np.asarray(singular))


def _start(design: BatchDesign, m: Moments) -> np.ndarray:
    """Moment estimates of working theta (R, k): mean squares between levels over those within."""
    r, p, q = len(m.gram), design.p, design.q
    yy = m.cross.reshape(r, m.c.shape[1], q, q, p + 1, p + 1)[..., p, p]
    theta = np.zeros((r, design.k))
    size = np.einsum("ruaa->rua", m.c)
    own = np.einsum("ruaa->rua", yy)
    with np.errstate(invalid="ignore", divide="ignore"):
        between = np.where(size > 0.0, own / size, 0.0).sum(axis=1)
        seen = (np.where(size > 0.0, 1.0, 0.0) * m.count[:, None]).sum(axis=1)
        mean = (size * m.count[:, None]).sum(axis=1) / seen
        rest = (m.gram[:, p, p] - between.sum(axis=1)) / np.maximum(m.n - p - seen.sum(axis=1), 1.0)
        rest = np.where(rest > 0.0, rest, m.gram[:, p, p] / m.n)
        ratio = (between / seen / rest[:, None] - 1.0) / mean
    ratio = np.fmax(np.where(np.isfinite(ratio), ratio, 0.0), _START / np.where(mean > 0.0, mean, 1.0))
    diagonal = design.rows == design.columns
    theta[:, diagonal] = np.sqrt(ratio[:, design.rows[diagonal]])
    return theta


def _minimise(design: BatchDesign, theta: np.ndarray, m: Moments) -> tuple[Evaluation, np.ndarray]:
    """Newton's method from `theta`, which is overwritten; the last evaluation, and who has arrived (R,)."""
    here = design.evaluate(theta, m)
    r = len(theta)
    done, scale = np.zeros(r, dtype=bool), np.ones(r)
    if not design.k:
        return here, np.ones(r, dtype=bool)
    step, decrement = _steps(design, theta, here)
    for _ in range(_ITERATIONS):
        done |= decrement < _DECREMENT
        active = np.flatnonzero(~done & (scale > _SHORTEST))
        if not active.size:
            break
        trial = np.maximum(theta[active] - scale[active, None] * step[active], design.lower)
        there = design.evaluate(trial, m.take(active))
        better = there.value <= here.value[active] + 1e-12 * np.abs(here.value[active])
        scale[active[~better]] *= 0.25
        moved = active[better]
        theta[moved], scale[moved] = trial[better], 1.0
        here.put(moved, there, better)
        step[moved], decrement[moved] = _steps(design, theta[moved], there.take(better))
    # the step already computed squares the error of theta
    moving = np.flatnonzero(done & (step != 0.0).any(axis=1))
    theta[moving] = np.maximum(theta[moving] - step[moving], design.lower)
    if moving.size:
        here.put(moving, design.evaluate(theta[moving], m.take(moving)), np.arange(moving.size))
    return here, done


def _steps(design: BatchDesign, theta: np.ndarray, at: Evaluation) -> tuple[np.ndarray, np.ndarray]:
    """Newton steps (R, k) on the parameters off their bound, and their decrements (R,)."""
    held = (theta <= design.lower) & (at.gradient >= 0.0)
    g = np.where(held, 0.0, at.gradient)
    either = held[:, :, None] | held[:, None]
    exact, average = np.where(either, 0.0, at.hessian), np.where(either, 0.0, at.average)
    place = np.arange(design.k)
    top = np.abs(average[:, place, place]).max(axis=1)
    top = np.where(top > 0.0, top, 1.0)
    exact[:, place, place] += np.where(held, top[:, None], 0.0)
    average[:, place, place] += np.where(held, top[:, None], 1e-12 * top[:, None])
    exact_or_zero = np.where(np.isfinite(exact), exact, 0.0)
    values = exact_or_zero[:, 0] if design.k == 1 else np.linalg.eigvalsh(exact_or_zero)
    trusted = values[:, 0] > _FLAT * values[:, -1]
    chosen = np.where(trusted[:, None, None], exact, average)
    unusable = ~np.isfinite(chosen).all(axis=(1, 2))
    chosen[unusable] = np.eye(design.k)
    step = g / chosen[:, 0] if design.k == 1 else np.linalg.solve(chosen, g[:, :, None])[:, :, 0]
    return step, (g * step).sum(axis=1)


def _leave_boundary(design: BatchDesign, theta: np.ndarray, at: Evaluation, converged: np.ndarray, m: Moments) -> bool:
    """Start again where the boundary is no minimum; whether any response has moved."""
    bounded = design.lower == 0.0
    values, vectors = np.linalg.eigh(np.where(np.isfinite(at.d), at.d, 0.0))
    edge = (theta[:, bounded] < _SINGULAR * design.scale[bounded]).any(axis=1) | ~converged
    size = np.abs(values).max(axis=1)
    rows = np.flatnonzero(edge & m.full & (values[:, 0] < -_DOWNHILL * np.maximum(size, 1.0)))
    if not rows.size:
        return False
    lam = design.lam(theta[rows])
    sigma = lam @ np.swapaxes(lam, 1, 2)
    v = vectors[rows][:, :, 0]
    own = m.take(rows)
    best, value = theta[rows].copy(), at.value[rows] - 1e-9 * np.abs(at.value[rows])
    candidates = [sigma + t * v[:, :, None] * v[:, None] for t in _LEAVES]
    if design.q > 1:
        # a factor with a zero column cannot turn within its template, but along the slope of a full one it can
        slope = at.d[rows] @ lam / size[rows, None, None]
        turned = [lam - t * slope for t in _TURNS]
        candidates += [f @ np.swapaxes(f, 1, 2) for f in turned]
    for candidate in candidates:
        trial = design.theta_of(candidate)
        there = design.evaluate(trial, own).value
        better = there < value
        best[better], value[better] = trial[better], there[better]
    moved = np.flatnonzero((best != theta[rows]).any(axis=1))
    if not moved.size:
        return False
    begun = best[moved]
    found, arrived = _minimise(design, begun, own.take(moved))
    better = (found.value < at.value[rows[moved]]) | (arrived & ~converged[rows[moved]])
    target = rows[moved[better]]
    theta[target] = begun[better]
    at.put(target, found, better)
    converged[target] = arrived[better]
    return bool(target.size)
