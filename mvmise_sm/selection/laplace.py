"""A linear mixed model with any random effects whose missing values are part of the likelihood, by Laplace's method.

Given the random effects every term is concave in the mean of its row (logit and probit), so that the mode is found by
penalised weighted least squares: weight ``1/s2`` for a value that was seen, ``-phi1^2 d2G/dm2`` for a missing one. For
the restricted likelihood the fixed effects, with a flat prior, are integrated together with the random ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy import linalg

from mvmise_sm.core.covariance.random_effects import RandomEffects
from mvmise_sm.core.optimise.steps import backtrack
from mvmise_sm.selection.likelihood import MAX_LOG_VARIANCE
from mvmise_sm.selection.mechanism import LOG_2PI
from mvmise_sm.selection.units import MechanismPart, Units

# the mode must be exact to the rounding of the objective, since its value is differentiated numerically
MODE_DECREMENT, MODE_STEPS, MODE_HALVINGS = 1e-15, 100, 40
# differences of the objective: truncation 1e-8 and rounding 1e-9 of a gradient of size one
VALUE_STEP = 1e-4


@dataclass(frozen=True)
class Mode:
    """The mode of random (and, restricted, fixed) effects at given parameters.

    Attributes
    ----------
    value : float
        Laplace's approximation of the log-likelihood.
    latent : ndarray, (Q,) or (Q + p,)
        Standardised random effects u, then the fixed effects if restricted.
    hessian : ndarray
        Of the negative joint log-density there.
    mean : ndarray, (n,)
    """

    value: float
    latent: np.ndarray
    hessian: np.ndarray
    mean: np.ndarray


class LaplaceObjective:
    """``x -> (log-likelihood, gradient)`` over ``x = (beta unless restricted, theta, log s2, phi)``.

    Parameters
    ----------
    y : ndarray, (n,)
        Response, NaN where missing; an offset is subtracted.
    X : ndarray, (n, p)
    random : RandomEffects
    part, units : MechanismPart, Units
        The mechanism, and the missing values; `units.row` are positions in y.
    restricted : bool
    """

    def __init__(
        self, y: np.ndarray, X: np.ndarray, random: RandomEffects, part: MechanismPart, units: Units, restricted: bool
    ) -> None:
        self.y, self.X, self.random, self.part, self.units = y, X, random, part, units
        self.restricted = restricted
        self.seen = np.isfinite(y)
        self.p, self.k = X.shape[1], random.k_theta
        self.Z = random.z.toarray()
        first = 0 if restricted else self.p
        self.slices = {
            "beta": slice(0, first),
            "theta": slice(first, first + self.k),
            "log_sigma2": slice(first + self.k, first + self.k + 1),
            "phi": slice(first + self.k + 1, first + self.k + 1 + part.free.size),
        }
        self.size = first + self.k + 1 + part.free.size
        self._near: np.ndarray | None = None

    def relative(self, theta: np.ndarray) -> np.ndarray:
        """``Z Lambda`` at relative covariance parameters, (n, Q)."""
        pieces, column = [], 0
        for term, lam in zip(self.random.terms, self.random.lambdas(self.reflected(theta)), strict=True):
            width = term.factor.n_levels * term.q
            block = self.Z[:, column : column + width].reshape(len(self.y), -1, term.q)
            pieces.append((block @ lam).reshape(len(self.y), width))
            column += width
        return np.hstack(pieces)

    def reflected(self, theta: np.ndarray) -> np.ndarray:
        """theta with what is scale-like made positive, where a structure does not allow for a sign of its own."""
        out = theta.copy()
        for term, where in zip(self.random.terms, self.random.theta_slices, strict=True):
            if term.structure.invariance != "linear":
                out[where] = np.where(term.structure.lower == 0.0, np.abs(out[where]), out[where])
        return out

    def mode(self, x: np.ndarray) -> Mode | None:
        """The mode at a point, by damped Newton steps from the last one; None outside the domain."""
        cut = self.slices
        if not np.isfinite(x).all() or np.abs(x[cut["log_sigma2"]]).max() > MAX_LOG_VARIANCE:
            return None
        s2 = float(np.exp(x[cut["log_sigma2"]][0]))
        phi = self.part.expand(x[cut["phi"]])
        seen_value, _ = self.part.observed(phi) if self.part.slots else (0.0, None)
        M = np.sqrt(s2) * self.relative(x[cut["theta"]])
        A = np.hstack([M, self.X]) if self.restricted else M
        fixed = np.zeros(len(self.y)) if self.restricted else self.X @ x[cut["beta"]]
        Q = M.shape[1]
        ridge = np.concatenate([np.ones(Q), np.zeros(A.shape[1] - Q)])
        latent = np.zeros(A.shape[1]) if self._near is None else self._near
        if self._near is None and self.restricted:
            latent[Q:] = np.linalg.lstsq(self.X[self.seen], self.y[self.seen], rcond=None)[0]

        def at(point: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
            density, slope, weight = self.terms(fixed + A @ point, phi, s2)
            return density - 0.5 * float(ridge @ point**2), slope, weight

        joint, slope, weight = at(latent)
        for _ in range(MODE_STEPS):
            hessian = (A * weight[:, None]).T @ A + np.diag(ridge)
            score = A.T @ slope - ridge * latent
            if not np.isfinite(hessian).all() or not np.isfinite(score).all():
                return None
            try:
                step = linalg.cho_solve(linalg.cho_factor(hessian), score)
            except linalg.LinAlgError:
                return None
            gain = 0.5 * float(step @ score)
            if gain <= MODE_DECREMENT * max(1.0, abs(joint)):
                break
            found = backtrack(at, latent, step, partial(_no_lower, joint), tries=MODE_HALVINGS)
            if found is None:
                break
            latent, (joint, slope, weight) = found
        self._near = latent.copy()
        sign, logdet = np.linalg.slogdet(hessian)
        if sign <= 0 or not np.isfinite(joint):
            return None
        value = joint - 0.5 * float(logdet) + 0.5 * (A.shape[1] - Q) * LOG_2PI + seen_value
        return Mode(float(value), latent, hessian, fixed + A @ latent)

    def terms(self, mean: np.ndarray, phi: np.ndarray, s2: float) -> tuple[float, np.ndarray, np.ndarray]:
        """Log-density of the rows given their means, its slope in them and minus its curvature, (n,) each."""
        seen, units = self.seen, self.units
        resid = self.y[seen] - mean[seen]
        value = -0.5 * (resid.size * (LOG_2PI + np.log(s2)) + float(resid @ resid) / s2)
        slope, weight = np.zeros_like(mean), np.zeros_like(mean)
        slope[seen], weight[seen] = resid / s2, 1.0 / s2
        if len(units):
            own = phi.reshape(-1, 3)[units.slot]
            centre = own[:, 0] + own[:, 1] * (mean[units.row] + units.known) + own[:, 2] * units.covariate
            g = self.part.integral(units.slot, centre + units.offset, own[:, 1] ** 2 * s2)
            value += float(g.value.sum())
            slope[units.row] = own[:, 1] * g.d_mean
            weight[units.row] = -(own[:, 1] ** 2) * np.minimum(2.0 * g.d_var - g.d_mean**2, 0.0)
        return value, slope, weight

    def found(self, x: np.ndarray) -> Mode:
        """The mode at a point of the domain.

        Raises
        ------
        ValueError
            Outside of it.
        """
        mode = self.mode(x)
        if mode is None:
            raise ValueError("the parameters are outside their domain")
        return mode

    def value(self, x: np.ndarray) -> float:
        """Laplace's approximation at a point."""
        mode = self.mode(x)
        return -np.inf if mode is None else mode.value

    def __call__(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        value = self.value(x)
        gradient = np.zeros_like(x)
        if np.isfinite(value):
            for k in range(x.size):
                width = VALUE_STEP * max(1.0, 0.1 * abs(x[k]))
                sides = []
                for signed in (width, -width):
                    point = x.copy()
                    point[k] += signed
                    sides.append(self.value(point))
                gradient[k] = (sides[0] - sides[1]) / (2.0 * width)
        return value, gradient

    def start(self) -> np.ndarray:
        """Least squares, unit relative standard deviations, a constant missing rate."""
        X, y = self.X[self.seen], self.y[self.seen]
        beta = np.linalg.lstsq(X, y, rcond=None)[0]
        spread = max(float(((y - X @ beta) ** 2).mean()), 1e-300)
        x = np.empty(self.size)
        x[self.slices["beta"]] = beta[: self.slices["beta"].stop]
        x[self.slices["theta"]] = np.concatenate([t.structure.theta_from(np.eye(t.q)) for t in self.random.terms])
        x[self.slices["log_sigma2"]] = np.log(0.5 * spread)
        x[self.slices["phi"]] = self.part.start()
        return x

    def metric(self, x: np.ndarray) -> np.ndarray:
        """Rough information, the maximiser's first Hessian."""
        cut, n = self.slices, float(self.seen.sum())
        s2 = float(np.exp(x[cut["log_sigma2"]][0]))
        out = np.eye(self.size)
        X = self.X[self.seen]
        if not self.restricted:
            out[cut["beta"], cut["beta"]] = X.T @ X / (2.0 * s2)
        for term, where in zip(self.random.terms, self.random.theta_slices, strict=True):
            index = np.arange(where.start, where.stop) + cut["theta"].start
            out[index, index] = float(term.factor.n_levels)
        out[cut["log_sigma2"], cut["log_sigma2"]] = 0.5 * n
        if self.part.free.size:
            beta = np.linalg.lstsq(X, self.y[self.seen], rcond=None)[0]
            expected = self.units.x @ beta + self.units.known
            phi = self.part.expand(x[cut["phi"]])
            out[cut["phi"], cut["phi"]] = self.part.information(phi, self.units, expected)
        return out


def _no_lower(joint: float, length: float, trial: tuple[float, np.ndarray, np.ndarray]) -> bool:
    """Whether a step loses no more than rounding."""
    return bool(np.isfinite(trial[0]) and trial[0] >= joint - 1e-13 * abs(joint))
