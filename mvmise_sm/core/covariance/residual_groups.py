"""Residual structures with parameters of their own in every group of subjects."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from mvmise_sm.core.covariance.base import Parameter
from mvmise_sm.core.covariance.patterns import PatternBatch
from mvmise_sm.core.covariance.residual import ResidualStructure

__all__ = ["GroupedResidual"]

# standard deviations above exp(200) times the first group's overflow in products
_LARGEST_LOG = 200.0


class GroupedResidual(ResidualStructure):
    """One structure with parameters of its own in every group of subjects.

    Parameters
    ----------
    base : ResidualStructure
    groups : sequence of str
        Labels of the groups (g,); from the second on each has a log standard deviation relative to the first's.
    """

    def __init__(self, base: ResidualStructure, groups: Sequence[str]) -> None:
        self.base, self.groups = base, tuple(groups)
        self.needs_all_pairs, self.multimodal = base.needs_all_pairs, base.multimodal
        self.levels = base.levels
        self._width = base.k_phi + 1
        self.k_phi = self._width * len(self.groups) - 1
        self.described = f"{base.described}, by group"

    @cached_property
    def _places(self) -> list[slice]:
        stops = np.arange(len(self.groups)) * self._width - 1
        return [slice(int(stop) + 1, int(stop) + self._width) for stop in stops]

    def _scale(self, phi: np.ndarray, g: int) -> float:
        return float(np.exp(2.0 * min(phi[g * self._width - 1], _LARGEST_LOG))) if g else 1.0

    def start(self) -> np.ndarray:
        parts = [self.base.start()]
        for _ in self.groups[1:]:
            parts += [np.zeros(1), self.base.start()]
        return np.concatenate(parts)

    def blocks(self, phi: np.ndarray, batch: PatternBatch) -> np.ndarray:
        out = np.empty((batch.n_patterns, batch.size, batch.size))
        for g, place in enumerate(self._places):
            at = batch.groups == g
            if at.any():
                out[at] = self._scale(phi, g) * self.base.blocks(phi[place], batch.take(at))
        return out

    def block_tangents(self, phi: np.ndarray, batch: PatternBatch) -> np.ndarray:
        out = np.zeros((self.k_phi, batch.n_patterns, batch.size, batch.size))
        for g, place in enumerate(self._places):
            at = np.flatnonzero(batch.groups == g)
            if not at.size:
                continue
            part, scale = batch.take(at), self._scale(phi, g)
            if self.base.k_phi:
                out[place.start : place.stop, at] = scale * self.base.block_tangents(phi[place], part)
            if g:
                out[g * self._width - 1, at] = 2.0 * scale * self.base.blocks(phi[place], part)
        return out

    def variances(self, phi: np.ndarray, codes: np.ndarray, groups: np.ndarray) -> np.ndarray:
        out = np.empty(len(codes))
        for g, place in enumerate(self._places):
            at = groups == g
            out[at] = self._scale(phi, g) * self.base.variances(phi[place], codes[at], groups[at])
        return out

    def matrices(self, phi: np.ndarray) -> dict[str, np.ndarray] | None:
        found = [self.base.matrices(phi[place]) for place in self._places]
        if found[0] is None:
            return None
        return {
            name: self._scale(phi, g) * np.asarray(c)
            for g, (name, c) in enumerate(zip(self.groups, found, strict=True))
        }

    def parameters(self, phi: np.ndarray, names: Any = None, a: Any = None) -> list[Parameter]:
        out = []
        for g, (name, place) in enumerate(zip(self.groups, self._places, strict=True)):
            scale = np.sqrt(self._scale(phi, g))
            for p in self.base.parameters(phi[place]):
                size = scale if p.kind == "sd" else 1.0
                gradient = np.zeros(self.k_phi)
                gradient[place] = size * p.gradient
                if g and p.kind == "sd":
                    gradient[g * self._width - 1] = size * p.value
                out.append(Parameter(p.kind, p.name, (name, *p.levels), size * p.value, gradient, p.least))
        return out
