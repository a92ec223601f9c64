"""Units that go missing at once: whole blocks of an outcome in a cluster, and single values. One code path for both.

A *slot* is one mechanism with three elements of phi (intercept, outcome, covariate). A model has a slot for blocks, one
for single values, or both: then a missing block is one block unit, missing values of seen blocks are value units, and
every seen value and every seen block (by the mean of its seen values) adds the probability of having been seen. A block
that single values alone have emptied is neglected.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from mvmise_sm.selection.data import SelectionData, spread_of
from mvmise_sm.selection.mechanism import BlockIntegral, Mechanism

PHI_NAMES = ("Intercept", "y", "covariate")
# slope in units of one over the spread of the seen units beyond which the mechanism is a step
MAX_SLOPE = 30.0
# distance of the largest seen eta from the bound of its domain, when a start is made feasible
MARGIN = 0.05


@dataclass(frozen=True)
class Slot:
    """A mechanism and what it applies to.

    Attributes
    ----------
    mechanism : Mechanism
    single : bool
        Whether its units are single values; whole blocks otherwise.
    missing_y : bool
        Whether missingness depends on the outcome.
    held : dict
        Elements of phi that are known, by their position.
    always : bool
        Keep the slot where nothing is missing: the values seen then still tell about phi.
    """

    mechanism: Mechanism
    single: bool = False
    missing_y: bool = True
    held: Mapping[int, float] = field(default_factory=dict)
    always: bool = False


@dataclass(frozen=True)
class Units:
    """Missing units, ordered by cluster.

    Attributes
    ----------
    slot, cluster, outcome : ndarray of int, (m,)
        Position of every unit.
    row : ndarray of int, (m,)
        Sorted row of a single value; -1 for a block.
    x : ndarray, (m, p)
        Mean of the fixed-effects rows.
    z : ndarray, (m,)
        Mean of the multipliers of the shared effect, one in model b.
    share : ndarray, (m, g)
        Variance of the unit's mean error over the error variances of the g groups: 1 for a value, 1/n for a block.
    covariate, offset, known : ndarray, (m,)
        Covariate of the mechanism, known part of eta, known part of the outcome.
    """

    slot: np.ndarray
    cluster: np.ndarray
    outcome: np.ndarray
    row: np.ndarray
    x: np.ndarray
    z: np.ndarray
    share: np.ndarray
    covariate: np.ndarray
    offset: np.ndarray
    known: np.ndarray

    def __len__(self) -> int:
        return self.cluster.size

    def take(self, index: np.ndarray) -> Units:
        """The units at some positions."""
        return Units(**{name: values[index] for name, values in vars(self).items()})


@dataclass(frozen=True)
class RowExtras:
    """What single rows bring beyond the data: all (N, K) or None.

    Attributes
    ----------
    z : multipliers of the shared effect (ones)
    offset : known part of eta (zeros)
    known : known part of the outcome, not in Y (zeros)
    """

    z: np.ndarray | None = None
    offset: np.ndarray | None = None
    known: np.ndarray | None = None


def missing_units(data: SelectionData, slots: tuple[Slot, ...], indicator: np.ndarray, extras: RowExtras) -> Units:
    """The missing units of a data set under the slots of a model.

    Parameters
    ----------
    data : SelectionData
    slots : tuple of Slot
    indicator : ndarray, (N, g)
        Indicator columns of the variance groups.
    extras : RowExtras
    """
    parts = [_blocks(data, k, indicator, extras) for k, slot in enumerate(slots) if not slot.single]
    taken = data.block_missing[data.cluster] if parts else np.zeros(data.Y.shape, bool)
    parts += [_values(data, k, ~data.observed & ~taken, indicator, extras) for k, s in enumerate(slots) if s.single]
    if not parts:
        return _values(data, 0, np.zeros(data.Y.shape, bool), indicator, extras)
    joined = Units(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in vars(parts[0])})
    if len(parts) == 1:
        return joined
    return joined.take(np.argsort(joined.cluster, kind="stable"))


def _blocks(data: SelectionData, slot: int, indicator: np.ndarray, extras: RowExtras) -> Units:
    blocks = data.missing_blocks
    pick = (blocks.cluster, blocks.outcome)
    m = len(blocks)
    per_row = np.stack([data.cluster_sum(column) for column in indicator.T], axis=1) / data.sizes[:, None] ** 2
    return Units(
        np.full(m, slot),
        blocks.cluster,
        blocks.outcome,
        np.full(m, -1),
        blocks.x_mean,
        np.ones(m) if extras.z is None else data.cluster_mean(extras.z)[pick],
        per_row[blocks.cluster],
        blocks.covariate,
        np.zeros(m) if extras.offset is None else data.cluster_mean(extras.offset)[pick],
        np.zeros(m) if extras.known is None else data.cluster_mean(extras.known)[pick],
    )


def _values(data: SelectionData, slot: int, mask: np.ndarray, indicator: np.ndarray, extras: RowExtras) -> Units:
    row, outcome = np.nonzero(mask)
    m, pick = row.size, (row, outcome)
    return Units(
        np.full(m, slot),
        data.cluster[row],
        outcome,
        row,
        data.X[pick],
        np.ones(m) if extras.z is None else extras.z[pick],
        indicator[row],
        np.zeros(m) if data.cov_miss is None else data.cov_miss[pick],
        np.zeros(m) if extras.offset is None else extras.offset[pick],
        np.zeros(m) if extras.known is None else extras.known[pick],
    )


def _seen_units(data: SelectionData, slot: Slot, extras: RowExtras) -> tuple[np.ndarray, np.ndarray]:
    """Rows (intercept, outcome, covariate) of the units that were seen, (m, 3), and their offsets (m,)."""
    if not slot.single:
        blocks = data.observed_blocks
        pick = (blocks.cluster, blocks.outcome)
        mean, covariate = blocks.mean, blocks.covariate
        if extras.known is not None:
            count = data.cluster_sum(data.observed.astype(float))
            mean = mean + (data.cluster_sum(extras.known * data.observed) / np.maximum(count, 1.0))[pick]
        offset = None if extras.offset is None else data.cluster_mean(extras.offset)[pick]
    else:
        mean = data.Y[data.observed]
        if extras.known is not None:
            mean = mean + extras.known[data.observed]
        covariate = np.zeros(mean.size) if data.cov_miss is None else data.cov_miss[data.observed]
        offset = None if extras.offset is None else extras.offset[data.observed]
    rows = np.column_stack([np.ones(mean.size), mean, covariate])
    return rows, np.zeros(mean.size) if offset is None else offset


@dataclass(frozen=True)
class MechanismPart:
    """The mechanisms' terms of one data set: which elements of phi are free, and the units that were seen.

    phi has three elements for every slot, one slot after the other.

    Attributes
    ----------
    slots : tuple of Slot
        Slots with something to say: some unit is missing, or `always`.
    free : ndarray of int
        Free elements of phi; empty when nothing is missing.
    fixed : ndarray, (3 n_slots,)
        Values of the elements that are held, zero elsewhere.
    seen : tuple of ndarray, (m, 3)
        Intercept, outcome and covariate of every seen unit, by slot.
    seen_offset : tuple of ndarray, (m,)
    rates : tuple of float
        Share of missing units by slot.
    spreads : tuple of float
        Standard deviation of what the seen units of every slot have in the outcome, of the values where that is none.
    """

    slots: tuple[Slot, ...]
    free: np.ndarray
    fixed: np.ndarray
    seen: tuple[np.ndarray, ...]
    seen_offset: tuple[np.ndarray, ...]
    rates: tuple[float, ...]
    spreads: tuple[float, ...]

    def expand(self, free_phi: np.ndarray) -> np.ndarray:
        """Fill the free elements into the whole of phi, (3 n_slots,), of at least three elements."""
        phi = self.fixed.copy()
        phi[self.free] = free_phi
        return phi

    @property
    def shown(self) -> np.ndarray:
        """Positions in phi of what is estimated or held, in order."""
        held = [3 * k + j for k, slot in enumerate(self.slots) for j in slot.held if j != 1 or slot.missing_y]
        return np.union1d(self.free, np.array(held, dtype=int))

    @property
    def slopes_at(self) -> np.ndarray:
        """Positions in phi of the free slopes on the outcome."""
        return self.free[self.free % 3 == 1]

    def is_threshold(self, free_phi: np.ndarray) -> bool:
        """Whether a mechanism has become a step function of the outcome."""
        phi = self.expand(free_phi)
        return any(abs(phi[k]) * self.spreads[k // 3] > MAX_SLOPE for k in self.slopes_at)

    def slopes(self) -> tuple[tuple[int, float], ...]:
        """Slopes of either sign to start from, with their position; one over the spread of the seen units."""
        return tuple(
            (int(k), sign / self.spreads[k // 3])
            for k in self.slopes_at
            for sign in (-1.0, 1.0)
            if self.spreads[k // 3] > 0
        )

    def feasible(self, free_phi: np.ndarray, value: float, index: int = 1) -> np.ndarray:
        """Move one element around the mean seen unit and keep the predictors of the seen units in their domain."""
        phi, slot = self.expand(free_phi), index // 3
        seen = self.seen[slot]
        if index % 3:
            phi[3 * slot] += (phi[index] - value) * seen[:, index % 3].mean()
        phi[index] = value
        out = phi[self.free]
        for k, part in enumerate(self.slots):
            at = np.flatnonzero(self.free == 3 * k)
            if at.size and np.isfinite(part.mechanism.upper) and index != 3 * k:
                top = float((self.seen[k] @ phi[3 * k : 3 * k + 3] + self.seen_offset[k]).max())
                out[at] -= max(top - part.mechanism.upper + MARGIN, 0.0)
        return out

    def observed(self, phi: np.ndarray) -> tuple[float, np.ndarray]:
        """Log-probability that the seen units were seen, and its gradient in phi."""
        value, gradient = 0.0, np.zeros_like(phi)
        for k, (slot, rows, offset) in enumerate(zip(self.slots, self.seen, self.seen_offset, strict=True)):
            term = slot.mechanism.seen(rows @ phi[3 * k : 3 * k + 3] + offset)
            value += float(np.sum(term[0]))
            gradient[3 * k : 3 * k + 3] = term[1] @ rows
        return value, gradient

    def integral(self, slot: np.ndarray, mean: np.ndarray, var: np.ndarray) -> BlockIntegral:
        """``G`` of units with their slots (m,) at means and variances that have the units as first axis."""
        if len(self.slots) == 1:
            return BlockIntegral(*self.slots[0].mechanism.missing(mean, var))
        out = BlockIntegral(*(np.empty(np.broadcast_shapes(mean.shape, var.shape)) for _ in range(3)))
        for k, part in enumerate(self.slots):
            own = slot == k
            if own.any():
                for target, values in zip(out, part.mechanism.missing(mean[own], var[own]), strict=True):
                    target[own] = values
        return out

    @property
    def width(self) -> float:
        """The sharpest bend of the mechanisms."""
        return min((slot.mechanism.width for slot in self.slots), default=0.0)

    @property
    def bounded(self) -> bool:
        """Whether no mechanism exceeds one."""
        return all(slot.mechanism.bounded for slot in self.slots)

    @property
    def exponential(self) -> bool:
        """Whether every mechanism is an exponential below its cap."""
        return all(slot.mechanism.exponential for slot in self.slots)

    def information(self, phi: np.ndarray, units: Units, expected: np.ndarray) -> np.ndarray:
        """Approximate information of the free elements, from expected outcomes of the missing units (m,)."""
        out = np.zeros((phi.size, phi.size))
        for k, slot in enumerate(self.slots):
            own = units.slot == k
            missing = np.column_stack([np.ones(own.sum()), expected[own], units.covariate[own]])
            rows = np.vstack([self.seen[k], missing])
            offset = np.concatenate([self.seen_offset[k], units.offset[own]])
            eta = np.clip(rows @ phi[3 * k : 3 * k + 3] + offset, -30.0, slot.mechanism.upper - 0.2)
            eta = np.minimum(eta, 30.0)
            prob, slope = slot.mechanism.prob(eta), np.asarray(slot.mechanism.seen(eta)[1])
            # F'^2 / (F (1 - F)) with F' = -(1 - F) d log(1 - F)
            weight = slope**2 * (1.0 - prob) / np.maximum(prob, 1e-300)
            out[3 * k : 3 * k + 3, 3 * k : 3 * k + 3] = (rows * weight[:, None]).T @ rows
        return out[np.ix_(self.free, self.free)]

    def start(self) -> np.ndarray:
        """The free elements' start: a constant rate, at the centre of the seen units where a slope is held."""
        phi = self.fixed.copy()
        for k, slot in enumerate(self.slots):
            if 3 * k in self.free:
                rate = min(max(self.rates[k], 1e-3), 1.0 - 1e-3)
                centre = self.seen[k].mean(axis=0) if len(self.seen[k]) else np.zeros(3)
                phi[3 * k] = slot.mechanism.start(rate) - centre[1:] @ phi[3 * k + 1 : 3 * k + 3]
                if np.isfinite(slot.mechanism.upper) and len(self.seen[k]):
                    top = float((self.seen[k] @ phi[3 * k : 3 * k + 3] + self.seen_offset[k]).max())
                    phi[3 * k] -= max(top - slot.mechanism.upper + MARGIN, 0.0)
            elif 3 * k + 1 in self.free and np.isfinite(slot.mechanism.upper) and len(self.seen[k]):
                phi[3 * k + 1] = self._slope_below(k, phi)
        return phi[self.free]

    def _slope_below(self, k: int, phi: np.ndarray) -> float:
        """The slope nearest to zero that keeps the seen units of slot k below the cap at a held intercept."""
        y = self.seen[k][:, 1]
        room = self.slots[k].mechanism.upper - MARGIN - phi[3 * k] - self.seen_offset[k]
        if room.min() >= 0.0:
            return 0.0
        # eta = phi0 + phi1 y stays below if y has one sign where there is no room
        ends = room[y != 0.0] / y[y != 0.0]
        up, down = ends[y[y != 0.0] > 0.0], ends[y[y != 0.0] < 0.0]
        highest, lowest = up.min(initial=np.inf), down.max(initial=-np.inf)
        return float(min(highest, 0.0) if abs(min(highest, 0.0)) > 0.0 else max(lowest, 0.0))


def mechanism_part(
    data: SelectionData, slots: tuple[Slot, ...], indicator: np.ndarray, extras: RowExtras | None = None
) -> tuple[MechanismPart, Units]:
    """Collect the mechanisms' side of a likelihood.

    A slot without a missing unit has no finite estimate and is left out, unless it is to stay `always`.
    """
    extras = RowExtras() if extras is None else extras
    everything = missing_units(data, slots, indicator, extras)
    count = np.bincount(everything.slot, minlength=len(slots))
    kept = [k for k, slot in enumerate(slots) if slot.always or count[k]]
    units = everything.take(np.isin(everything.slot, kept))
    units = replace(units, slot=np.searchsorted(kept, units.slot))
    chosen = tuple(slots[k] for k in kept)
    free, fixed, seen, offsets, rates = [], np.zeros(3 * max(len(kept), 1)), [], [], []
    spreads = []
    for k, slot in enumerate(chosen):
        wanted = (True, slot.missing_y, data.cov_miss is not None)
        free += [3 * k + j for j in range(3) if wanted[j] and j not in slot.held]
        for j, value in slot.held.items():
            fixed[3 * k + j] = value if wanted[j] else 0.0
        rows, offset = _seen_units(data, slot, extras)
        seen.append(rows)
        offsets.append(offset)
        missing = int((units.slot == k).sum())
        rates.append(missing / max(missing + len(rows), 1))
        spreads.append(spread_of(rows[:, 1], data))
    part = MechanismPart(
        chosen, np.array(free, dtype=int), fixed, tuple(seen), tuple(offsets), tuple(rates), tuple(spreads)
    )
    return part, units


def phi_labels(part: MechanismPart, covariate: str) -> list[str]:
    """Names of all elements of phi; those of values have a prefix where blocks have a mechanism too."""
    prefixes = ["value:" if slot.single and len(part.slots) > 1 else "" for slot in part.slots] or [""]
    return [prefix + name for prefix in prefixes for name in (*PHI_NAMES[:2], covariate)]
