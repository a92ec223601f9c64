"""Write data/tmt.csv: a small TMT-like experiment with peptides missing by batch. Run as a script to make it again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

EFFECTS = {"P1": 0.8, "P2": -0.6, "P3": 0.0, "P4": 0.0, "P5": 0.0}
PEPTIDES = "abc"
N_BATCHES, N_CHANNELS = 10, 8
SEED = 20240611
# A square root R of the peptides' correlation matrix R R' = 0.4 + 0.6 I. It is written out because that matrix has a
# repeated eigenvalue: a numerical decomposition would turn its eigenvectors, and the data, with the processor.
CORRELATION_ROOT = np.array([[-1.0, 2.0, 0.0], [-1.0, -1.0, -1.0], [-1.0, -1.0, 1.0]]) * np.sqrt([0.6, 0.1, 0.3])


def simulate(seed: int = SEED) -> pd.DataFrame:
    """Simulate the experiment.

    The log2 intensity of a peptide is its own level, plus the protein's condition effect, an age effect of 0.02 a year,
    a batch effect shared by the protein's peptides (sd 0.7), and errors that correlate by 0.4 between the peptides of a
    protein (sd 0.5). A peptide is missing in a whole batch with probability min(1, exp(2.2 - 0.45 m)), m being its mean
    intensity in the batch.

    Parameters
    ----------
    seed : int, optional
        Seed of the random numbers.

    Returns
    -------
    DataFrame
        One row per peptide and sample.
    """
    rng = np.random.default_rng(seed)
    n = N_BATCHES * N_CHANNELS
    batch = np.repeat(np.arange(N_BATCHES), N_CHANNELS)
    case = np.concatenate([rng.permutation(N_CHANNELS) % 2 for _ in range(N_BATCHES)])
    age = rng.normal(0.0, 8.0, n).round(1)
    samples = pd.DataFrame(
        {
            "batch": [f"B{b + 1:02d}" for b in batch],
            "channel": np.tile([f"c{c + 1}" for c in range(N_CHANNELS)], N_BATCHES),
            "condition": np.where(case == 1, "case", "control"),
            "age": age,
        }
    )
    samples.insert(2, "sample", samples["batch"] + samples["channel"])
    frames = []
    for protein, effect in EFFECTS.items():
        levels = rng.normal(8.0, 1.6, len(PEPTIDES))
        shared = rng.normal(0.0, 0.7, N_BATCHES)[batch] + effect * case + 0.02 * age
        errors = 0.5 * rng.standard_normal((n, len(PEPTIDES))) @ CORRELATION_ROOT.T
        values = levels + shared[:, None] + errors
        means = values.reshape(N_BATCHES, N_CHANNELS, -1).mean(axis=1)
        lost = rng.random(means.shape) < np.minimum(1.0, np.exp(2.2 - 0.45 * means))
        values[lost[batch]] = np.nan
        for k, letter in enumerate(PEPTIDES):
            frame = samples.copy()
            frame.insert(0, "peptide", f"{protein}_{letter}")
            frame.insert(0, "protein", protein)
            frame["intensity"] = values[:, k].round(3)
            frames.append(frame)
    return pd.concat(frames, ignore_index=True)


if __name__ == "__main__":
    simulate().to_csv(Path(__file__).parent / "data" / "tmt.csv", index=False)
