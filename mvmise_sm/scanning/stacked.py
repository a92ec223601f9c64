"""Features with several outcomes as rows of a model with one response."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from mvmise_sm.scanning.fits import Feature, FeatureFits
from mvmise_sm.scanning.orphans import end_with_parent
from mvmise_sm.scanning.rows import Rows

__all__ = ["Stacked"]


@dataclass(frozen=True, eq=False)
class Stacked:
    """Features with several outcomes as rows of a model with one response; every feature has a design of its own.

    Attributes
    ----------
    build : callable
        (frame, whether the feature has one outcome) -> fits of one feature, see `FeatureFits`.
    samples : DataFrame
        (N, .).
    column : str
        Variable that names the outcome in the formula.
    """

    build: Any
    samples: pd.DataFrame = field(repr=False)
    column: str
    parent: int = 0

    def __call__(self, chunk: Sequence[Feature]) -> pd.DataFrame:
        """Rows of several features."""
        from threadpoolctl import threadpool_limits

        end_with_parent(self.parent)
        out = Rows()
        with threadpool_limits(limits=1):
            for feature in chunk:
                try:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        fits, stacked = self.of(feature)
                except Exception as error:
                    out.fail(feature.name, f"{type(error).__name__}: {error}", feature.outcomes.shape[1])
                    continue
                fits.add(out, stacked)
        frame = out.frame()
        counts = {f.name: f.outcomes.shape[1] for f in chunk}
        return frame.assign(n_outcomes=frame["feature"].map(counts))

    def of(self, feature: Feature) -> tuple[FeatureFits, Feature]:
        """The fits of one feature, and the feature with its outcomes one below the other."""
        K = feature.outcomes.shape[1]
        frame = pd.concat([self.samples] * K, ignore_index=True)
        frame[self.column] = np.repeat([str(c) for c in feature.outcomes.columns], len(self.samples))
        values = feature.outcomes.to_numpy(dtype=float, na_value=np.nan).T.reshape(-1, 1)
        weights = None if feature.weights is None else feature.weights.T.reshape(-1, 1)
        return self.build(frame, K == 1), Feature(feature.name, pd.DataFrame(values, columns=[feature.name]), weights)

    def units(self, chunk: Sequence[Feature], theta: np.ndarray) -> pd.DataFrame:
        """As in `LinearFits`."""
        end_with_parent(self.parent)
        parts = []
        for feature in chunk:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                fits, stacked = self.of(feature)
            parts.append(fits.units([stacked], theta))
        return pd.concat(parts, ignore_index=True)
