"""Pedigrees: the additive relationship matrix of animals and its sparse inverse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from mvmise_sm.design.build import as_frame
from mvmise_sm.exceptions import DataError, UnknownColumnError
from mvmise_sm.options import strict

__all__ = ["Pedigree", "pedigree"]


class Pedigree:
    """Parents of animals.

    Parameters
    ----------
    labels : sequence
        Labels of the animals (n,), parents before offspring.
    sires, dams : ndarray
        Position of each parent (n,), -1 if unknown.
    """

    def __init__(self, labels: Any, sires: np.ndarray, dams: np.ndarray):
        self.labels = pd.Index(labels, name="id")
        self.sires, self.dams = sires, dams

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"<Pedigree of {len(self)} animals, {int(((self.sires < 0) & (self.dams < 0)).sum())} founders>"

    def _values(self) -> np.ndarray:
        n = len(self)
        a = np.zeros((n + 1, n + 1))  # the last row stands for unknown parents
        for i in range(n):
            s, d = self.sires[i], self.dams[i]
            a[i, :i] = a[:i, i] = 0.5 * (a[s, :i] + a[d, :i])
            a[i, i] = 1.0 + 0.5 * a[s, d]
        return a[:n, :n]

    def relationship(self) -> pd.DataFrame:
        """Additive relationship matrix A (n, n): twice the coefficients of kinship, labels on both axes."""
        return pd.DataFrame(self._values(), index=self.labels, columns=self.labels)

    def inbreeding(self) -> pd.Series:
        """Coefficient of inbreeding of every animal."""
        return pd.Series(np.diag(self._values()) - 1.0, index=self.labels, name="inbreeding")

    def inverse(self) -> sparse.csc_matrix:
        """Inverse of A, sparse (n, n), by Henderson's rules without forming A^-1 from A.

        With F the parents' inbreeding, the Mendelian variance d of an animal is 1, 3/4 - F/4 or 1/2 - (F_s + F_d)/4
        for none, one or two known parents, and it adds v v' / d with v = e_i - (e_s + e_d) / 2.

        References
        ----------
        Henderson (1976), Biometrics 32; Quaas (1976), Biometrics 32.
        """
        n = len(self)
        f = np.append(self.inbreeding().to_numpy(), 0.0)
        known = (self.sires >= 0).astype(float) + (self.dams >= 0)
        d = 1.0 - 0.25 * known - 0.25 * (f[self.sires] * (self.sires >= 0) + f[self.dams] * (self.dams >= 0))
        index = np.arange(n)
        rows, cols, values = [index], [index], [np.ones(n)]
        for parents in (self.sires, self.dams):
            has = parents >= 0
            rows.append(index[has])
            cols.append(parents[has])
            values.append(np.full(int(has.sum()), -0.5))
        v = sparse.csr_matrix((np.concatenate(values), (np.concatenate(rows), np.concatenate(cols))), shape=(n, n))
        return (v.T @ sparse.diags(1.0 / d) @ v).tocsc()


@strict
def pedigree(frame: Any, id: str = "id", sire: str = "sire", dam: str = "dam") -> Pedigree:
    """Read a pedigree.

    Parameters
    ----------
    frame : DataFrame
        One row per animal in any order; an unknown parent is missing or empty, a parent without a row of its own is a
        founder.
    id, sire, dam : str, optional
        Columns.

    Returns
    -------
    Pedigree
        With ``relationship()`` and ``inverse()``; pass it as ``cov={"id": pedigree}``.

    Raises
    ------
    UnknownColumnError, DataError
        If a column is missing, an animal has two rows, or an animal is its own ancestor.

    Examples
    --------
    >>> import pandas as pd
    >>> import mvmise_sm as ms
    >>> ped = ms.pedigree(pd.DataFrame({"id": ["c", "a", "b"], "sire": ["a", None, None], "dam": ["b", None, None]}))
    >>> float(ped.relationship().loc["c", "a"])
    0.5
    """
    frame = as_frame(frame)
    for column in (id, sire, dam):
        if column not in frame.columns:
            raise UnknownColumnError(f"{column!r} is not a column of the pedigree; they are {list(frame.columns)}")
    own = _labels(frame[id])
    if any(label is None for label in own):
        raise DataError(f"the pedigree has rows without {id!r}")
    parents = [_labels(frame[sire]), _labels(frame[dam])]
    counts = pd.Series(own).value_counts()
    if len(counts) and counts.iloc[0] > 1:
        raise DataError(f"Animal {counts.index[0]!r} has {counts.iloc[0]} rows in the pedigree; one is allowed.")
    of = {label: (s, d) for label, s, d in zip(own, *parents, strict=True)}
    for label in [p for column in parents for p in column if p is not None]:
        of.setdefault(label, (None, None))
    order = _ordered(of)
    place = {label: i for i, label in enumerate(order)}
    at = np.array([[-1 if p is None else place[p] for p in of[label]] for label in order], dtype=np.intp).reshape(-1, 2)
    return Pedigree(order, at[:, 0], at[:, 1])


def _labels(column: pd.Series) -> list[Any]:
    return [None if pd.isna(value) or value == "" else value for value in column]


def _ordered(of: dict[Any, tuple[Any, Any]]) -> list[Any]:
    """Animals with parents before offspring.

    Raises
    ------
    DataError
        If an animal is its own ancestor.
    """
    state: dict[Any, int] = {}
    order: list[Any] = []
    for start in of:
        stack = [start]
        while stack:
            animal = stack[-1]
            if state.get(animal) == 2:
                stack.pop()
                continue
            if state.get(animal) == 1:
                state[animal] = 2
                order.append(stack.pop())
                continue
            state[animal] = 1
            for parent in of[animal]:
                if parent is None or state.get(parent) == 2:
                    continue
                if state.get(parent) == 1:
                    raise DataError(f"Animal {parent!r} is its own ancestor.")
                stack.append(parent)
    return order
