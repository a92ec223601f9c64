"""Covariance structures on simulated designs: is the default fit as good as the best of ten starts?

Every structure of residuals (alone, beside a coarser random intercept, beside one of the subject) and of random effects
is fitted to data of its own and of another structure's making, small and with missing visits. A design counts as missed
where one of ten random starts reaches a log-likelihood that is higher by more than 1e-5.

    python benchmarks/structure_optima.py [designs] > benchmarks/structure_optima.txt
"""

from __future__ import annotations

import sys
import warnings

import numpy as np
import pandas as pd

import mvmise_sm as ms

MISSED = 1e-5
STARTS = 10
RESIDUAL = ("us", "cs", "csh", "ar1", "ar1h", "toep", "toeph", "ante", "anteh", "diag", "exp", "gau")
RANDOM = ("us", "diag", "homdiag", "cs", "homcs", "ar1", "hetar1", "toep", "homtoep", "exp", "gau", "mat")


def correlation(kind: int, times: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A correlation matrix of visits: falling with distance, equal, alternating, or any."""
    d = np.abs(np.subtract.outer(times, times))
    m = len(times)
    if kind == 0:
        return np.exp(-d / rng.uniform(0.5, 6.0))
    if kind == 1:
        return np.eye(m) + rng.uniform(0.0, 0.8) * (1 - np.eye(m))
    if kind == 2:
        return (-rng.uniform(0.1, 0.7)) ** d
    half = rng.normal(size=(m, m + 1))
    cov = half @ half.T
    return cov / np.sqrt(np.outer(np.diag(cov), np.diag(cov)))


def simulate(seed: int, subjects: int = 24, visits: int = 4) -> pd.DataFrame:
    """Visits of subjects within sites, a fifth of them missed."""
    rng = np.random.default_rng(seed)
    times = np.arange(visits)
    sd = rng.uniform(0.5, 2.0, visits)
    root = np.linalg.cholesky(correlation(seed % 4, times, rng) + 1e-9 * np.eye(visits)) * sd[:, None]
    noise = rng.normal(size=(subjects, visits)) @ root.T
    subject = np.repeat(np.arange(subjects), visits)
    frame = pd.DataFrame({"id": subject, "site": subject // 4, "time": np.tile(times, subjects)})
    frame["visit"] = [f"v{t}" for t in frame.time]
    frame["arm"] = np.where(frame.id % 2, "A", "B")
    frame["hour"] = frame.time + rng.uniform(-0.3, 0.3, len(frame))
    frame["y"] = 1 + 0.3 * frame.time + noise.ravel()
    frame["y"] += rng.uniform(0, 1.5) * rng.normal(size=subjects // 4)[frame.site]
    frame["y"] += rng.uniform(0, 1.5) * rng.normal(size=subjects)[frame.id]
    frame = frame[rng.random(len(frame)) < 0.8]
    # two measurements at every visit, for random effects of visits
    frame = pd.concat([frame.assign(which=w) for w in (0, 1)], ignore_index=True)
    frame["z"] = frame.y + rng.uniform(0.3, 1.0) * rng.normal(size=len(frame))
    return frame


def designs() -> list[tuple[str, dict, int]]:
    """Formula, keywords and seed of every design."""
    out = []
    for i, kind in enumerate(RESIDUAL):
        text = f"{kind}({'hour' if kind in ('exp', 'gau') else 'visit'} | id{', nugget=True' if kind == 'gau' else ''})"
        text = "diag(visit)" if kind == "diag" else text
        out.append(("y ~ arm * time", {"residual": text}, 100 + i))
        out.append(("y ~ arm * time + (1 | site)", {"residual": text}, 200 + i))
        if kind in ("ar1", "ar1h", "exp", "gau", "diag", "ante", "anteh", "csh"):
            out.append(("y ~ arm * time + (1 | id)", {"residual": text}, 300 + i))
        if kind in ("cs", "ar1h", "us"):
            out.append(("y ~ arm * time", {"residual": text.replace("| id", "| arm/id")}, 400 + i))
    for i, kind in enumerate(RANDOM):
        left = "time | id" if kind in ("exp", "gau") else "time | id, nu=1.5" if kind == "mat" else "0 + visit | id"
        out.append((f"z ~ arm * time + {kind}({left})", {}, 500 + i))
        out.append((f"z ~ arm * time + {kind}({left}) + (1 | site)", {}, 600 + i))
    return out


def fitted(model, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.fit(**options)


def main(count: int) -> int:
    missed = 0
    print(f"{'design':64s} {'llf':>12s} {'best of ten':>12s} converged")
    for formula, options, seed in designs()[:count]:
        frame = simulate(seed)
        model = ms.lmer(formula, frame if formula.startswith("z") else frame[frame.which == 0], **options)
        fit = fitted(model)
        rng, best = np.random.default_rng(seed), -np.inf
        for _ in range(STARTS):
            start = np.array(fit.theta) * rng.uniform(0.2, 3.0, len(fit.theta)) + rng.normal(size=len(fit.theta))
            start[: len(model.random_layout.lower)] = np.maximum(
                start[: len(model.random_layout.lower)], np.where(model.random_layout.lower == 0.0, 0.01, -np.inf)
            )
            try:
                other = fitted(model, start_theta=start)
            except (ms.exceptions.DataError, ms.exceptions.OptionError):
                continue
            if other.converged:
                best = max(best, other.llf)
        short = best - fit.llf > MISSED
        missed += short or not fit.converged
        name = f"{formula} {options.get('residual', '')} #{seed}"
        print(f"{name:64s} {fit.llf:12.6f} {best:12.6f} {fit.converged}{'  MISSED' if short else ''}", flush=True)
    print(f"{missed} of {len(designs()[:count])} designs missed")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000))
