"""Write data/psms.csv and data/psms_annotation.csv: a small labelled experiment as Proteome Discoverer exports it.

Run as a script to make them again.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

CHANNELS = ("126", "127N", "127C", "128N", "128C", "129N", "129C", "130N", "130C", "131N", "131C")
N_PROTEINS, N_MIXTURES = 40, 5
EFFECTS = {f"P{k:05d}": (0.35, 0.7) if k % 2 else (-0.35, -0.7) for k in range(4, 12)}
SEED = 20260925
LETTERS = np.array(list("ADEFGHILNPQSTVWY"))


def annotate(rng: np.random.Generator) -> pd.DataFrame:
    """Make the annotation: nine samples of three conditions in every mixture, Norm channels, an Empty one in two."""
    rows = []
    for m in range(N_MIXTURES):
        doses = rng.permutation(np.repeat(["control", "low", "high"], 3))
        for channel, condition in zip(CHANNELS, ["Norm", *doses, "Empty" if m % 2 else "Norm"], strict=True):
            sample = condition if condition in ("Norm", "Empty") else f"S{m + 1}{channel}"
            rows.append((f"Mixture{m + 1}.raw", channel, f"Mixture{m + 1}", condition, sample))
    return pd.DataFrame(rows, columns=["Run", "Channel", "Mixture", "Condition", "BioReplicate"])


def simulate(seed: int = SEED) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Simulate the experiment.

    The log2 intensity of a peptide is its own level, the protein's effect of the dose (eight proteins of 40 change: by
    0.35 and 0.7, up or down), a shift of the protein in the mixture (sd 0.4), the peptide's own shift in the mixture
    (sd 0.7), the protein's own level in the sample (sd 0.12), the amount of sample in the channel (sd 0.3), and noise
    (sd 0.2). A peptide with mean m in a mixture is missing there with probability min(1, exp(7.5 - 0.6 m)). The protein
    P00003 is seen in three mixtures. Some spectra have interference, some peptides several spectra, others belong
    to two proteins or to a contaminant.

    Parameters
    ----------
    seed : int, optional
        Seed of the random numbers.

    Returns
    -------
    psms, annotation : DataFrame
    """
    rng = np.random.default_rng(seed)
    annotation = annotate(rng)
    n = len(CHANNELS)
    loading = rng.normal(0.0, 0.3, len(annotation))
    dose = annotation["Condition"].map({"low": 0, "high": 1}).fillna(-1).astype(int).to_numpy()
    rows, values = [], []
    for p in range(N_PROTEINS + 2):
        name = f"P{p:05d}" if p < N_PROTEINS else f"Cont_K{p}"
        effect = np.append(EFFECTS.get(name, (0.0, 0.0)), 0.0)[dose]
        base = rng.normal(15.5, 1.3)
        own = rng.normal(0.0, 0.12, len(annotation))
        shift = np.repeat(rng.normal(0.0, 0.4, N_MIXTURES), n)
        for _ in range(int(np.clip(rng.geometric(0.3), 1, 9))):
            sequence = "".join(rng.choice(LETTERS, rng.integers(6, 13))) + rng.choice(["K", "R"])
            other = rng.random() < 0.04
            y = base + rng.normal(0.0, 0.9) + effect + own + shift + np.repeat(rng.normal(0.0, 0.7, N_MIXTURES), n)
            y = y + rng.normal(0.0, 0.2, len(annotation))
            lost = rng.random(N_MIXTURES) < np.minimum(1.0, np.exp(7.5 - 0.6 * y.reshape(N_MIXTURES, n).mean(axis=1)))
            if name == "P00003":
                lost = np.arange(N_MIXTURES) < 2
            for m in np.flatnonzero(~lost):
                for copy in range(1 + int(rng.random() < 0.25)):
                    at = slice(m * n, (m + 1) * n)
                    x = 2.0 ** (y[at] + loading[at] + rng.normal(0.0, 0.05, n) - copy * rng.uniform(0.5, 2.0))
                    interference = 100.0 * (1.0 - np.clip(rng.beta(9, 2), 0.05, 1.0))
                    if rng.random() < 0.04:
                        interference = rng.uniform(55, 90)
                        x = x * 2.0 ** rng.normal(0.0, 1.0, n)
                    x[rng.random(n) < 0.01] = np.nan
                    x[(annotation["Condition"].iloc[at] == "Empty").to_numpy()] = rng.uniform(20, 200)
                    rows.append((f"[K].{sequence}.[A]", "N-Term(TMT6plex)", 1 + other, name, 2 + copy,
                                 round(interference, 1), f"Mixture{m + 1}.raw", p >= N_PROTEINS))  # fmt: skip
                    values.append(np.round(x, 0))
    columns = ["Annotated Sequence", "Modifications", "# Proteins", "Master Protein Accessions", "Charge"]
    columns += ["Isolation Interference [%]", "Spectrum File", "Contaminant"]
    psms = pd.DataFrame(rows, columns=columns)
    abundance = pd.DataFrame(np.array(values), columns=[f"Abundance: {c}" for c in CHANNELS]).astype("Int64")
    return pd.concat([psms, abundance], axis=1), annotation


if __name__ == "__main__":
    folder = Path(__file__).parent / "data"
    psms, annotation = simulate()
    psms.to_csv(folder / "psms.csv", index=False)
    annotation.to_csv(folder / "psms_annotation.csv", index=False)
