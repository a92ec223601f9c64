"""Recovery of a detection curve, and cover of the effects, where single values go missing by their size.

    python benchmarks/mnar_recovery.py SEED [--features 350] [--pairs 6] [--mechanism logit|probit]

One label-free experiment: features with their own level, effect (0, 0.8 or -0.8) and standard deviations within and
between pairs; values go missing by a curve of the value. Prints the curve by three methods, then bias over the root
mean squared standard error, cover of 95 % intervals with its simulation error, and width for complete cases (lmer),
the curve held with its common theta (restricted, Satterthwaite), the curve held with a theta for each feature, and two
wrong mechanisms: the curve of the other link, and one of whole pairs.
"""

import argparse
import warnings

import numpy as np
import pandas as pd
from scipy.special import expit, ndtr

import mvmise_sm as ms

TRUTH = {"logit": (21.0, -1.2), "probit": (12.6, -0.72)}
FORMULA = "~ condition + (1 | subject)"


def experiment(seed, features, pairs, mechanism):
    """A frame of runs by features, and the effect of every feature."""
    rng = np.random.default_rng([733, seed])
    phi, F = TRUTH[mechanism], expit if mechanism == "logit" else ndtr
    g, x = np.repeat(np.arange(pairs), 2), np.tile([0.0, 1.0], pairs)
    columns, effects = {}, []
    for f in range(features):
        effect = float(rng.choice([0.0, 0.0, 0.8, -0.8]))
        within, between = np.sqrt(0.16 * 6 / rng.chisquare(6)), rng.uniform(0.2, 0.8)
        y = rng.uniform(17.4, 19.4) - effect / 2 + effect * x
        y = y + between * rng.normal(size=pairs)[g] + within * rng.normal(size=2 * pairs)
        y[rng.random(2 * pairs) < F(phi[0] + phi[1] * y)] = np.nan
        columns[f"f{f:04d}"] = y
        effects.append(effect)
    return pd.DataFrame({"subject": [f"s{i}" for i in g], "condition": x, **columns}), np.array(effects)


def intervals(entry, frame, name, reml=True, **options):
    """Estimate, standard error and half width of one feature's effect; NaN where there is no fit."""
    ddf = {} if entry is ms.mvmise_b else {"ddf": "satterthwaite"}
    try:
        result = entry(f"{name} {FORMULA}", frame, **options).fit(reml=reml)
        row = result.tidy(conf_int=True, **ddf).set_index("term").loc["condition"]
    except Exception:
        return np.full(3, np.nan)
    if not result.converged:
        return np.full(3, np.nan)
    return np.array([row["estimate"], row["std_error"], 0.5 * (row["conf_high"] - row["conf_low"])])


def report(label, found, effects):
    """One line: bias over standard error, cover, width."""
    known = np.isfinite(found).all(axis=1)
    error = found[known, 0] - effects[known]
    se = np.sqrt(np.mean(found[known, 1] ** 2))
    cover = np.mean(np.abs(error) <= found[known, 2])
    parts = []
    for value in (0.8, -0.8):
        own = effects[known] == value
        parts.append(f"{np.mean(error[own]) / se:+.2f}")
    mc = np.sqrt(cover * (1 - cover) / known.sum())
    print(
        f"{label:24s} n {known.sum():4d}  bias/SE {np.mean(error) / se:+.3f} ({1 / np.sqrt(known.sum()):.3f})  "
        f"by effect {parts}  cover {cover:.3f} ({mc:.3f})  width {2 * np.median(found[known, 2]):.2f}",
        flush=True,
    )


def main():
    """Run one experiment."""
    parser = argparse.ArgumentParser()
    parser.add_argument("seed", type=int)
    parser.add_argument("--features", type=int, default=350)
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--mechanism", default="logit")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    frame, effects = experiment(options.seed, options.features, options.pairs, options.mechanism)
    names = [c for c in frame if c.startswith("f0")]
    missing = frame[names].isna().to_numpy().mean()
    print(f"{options.mechanism}, seed {options.seed}, {options.pairs} pairs, {100 * missing:.0f} % missing", flush=True)
    truth = TRUTH[options.mechanism]
    print(f"truth: slope {truth[1]}, position {-truth[0] / truth[1]:.3f}", flush=True)
    curve = None
    methods = ("observed-normal", "profile", "adjusted") if options.mechanism == "logit" else ("profile", "adjusted")
    for method in methods:
        curve = ms.detection_curve(FORMULA, frame, names, mechanism=options.mechanism, method=method)
        b0, b1 = curve.params
        print(
            f"{method:16s} slope {b1:.3f} ({curve.bse['y']:.3f}), position {-b0 / b1:.3f}, theta {curve.theta}",
            flush=True,
        )
    other = "logit" if options.mechanism == "probit" else "probit"
    wrong = ms.detection_curve(FORMULA, frame, names, mechanism=other)
    seen = frame[names].notna().groupby(frame["condition"]).sum().min()
    used = [name for name in names if seen[name] >= 2]
    chosen = np.array([effects[names.index(name)] for name in used])
    fits = {
        "complete cases, lmer": lambda name: intervals(ms.lmer, frame, name),
        "curve, common theta": lambda name: intervals(ms.lmer_mnar, frame, name, mechanism=curve),
        "curve, own theta": lambda name: intervals(ms.lmer_mnar, frame, name, mechanism=curve, theta=None),
        f"wrong: {other} curve": lambda name: intervals(ms.lmer_mnar, frame, name, mechanism=wrong),
        "wrong: whole pairs": lambda name: intervals(ms.mvmise_b, frame, name, mechanism_prior="weak"),
    }
    for label, fit in fits.items():
        report(label, np.array([fit(name) for name in used]), chosen)


if __name__ == "__main__":
    main()
