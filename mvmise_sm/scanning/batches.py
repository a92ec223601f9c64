"""What runs: how features travel to the fits, many at once where the engine allows it, else one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from mvmise_sm.core.covariance.random_effects import RandomEffects
from mvmise_sm.core.criteria.batched import BatchDesign, supports
from mvmise_sm.core.optimise.batched import BatchFit, fit_batch
from mvmise_sm.core.threads import blas_threads
from mvmise_sm.core.uncertainty.batched import BatchKenwardRoger, BatchPlain, BatchSatterthwaite, BatchTests, units
from mvmise_sm.exceptions import OptionError
from mvmise_sm.scanning.content import digest
from mvmise_sm.scanning.features import FeatureTable
from mvmise_sm.scanning.fits import Feature, FeatureFits
from mvmise_sm.scanning.orphans import end_with_parent
from mvmise_sm.scanning.rows import Columns, object_frame
from mvmise_sm.scanning.shares import batch_shares
from mvmise_sm.scanning.single import single_outcome_rhs
from mvmise_sm.scanning.stacked import Stacked
from mvmise_sm.scanning.templates import LEAST_SQUARES, LINEAR, SELECTION, Blueprint

__all__ = ["BatchFits", "Block", "Job", "make_job"]

# features of a block for every feature that a process gets where they are fitted one by one
_PER_CHUNK = 16
# residual sum of squares over its bound from the range of y, below which a fit of its own looks for exact fits
_EXACT = 1e-7
_LARGEST = 1e150
_FEWEST_LEVELS = 2
# options of a linear mixed model that leave it one that the engine knows
_PLAIN_OPTIONS = frozenset(("subset", "missing", "offset"))


@dataclass(frozen=True, eq=False)
class Job:
    """What is run for every chunk of features.

    Attributes
    ----------
    task, units : callable
        See `FeatureFits`.
    chunks : callable
        (table, names, size) -> chunks of features as `task` takes them.
    identity : dict
        Hashes of what all fits share.
    """

    task: Callable
    units: Callable
    chunks: Callable[[FeatureTable, Sequence[str], int], Iterator]
    identity: dict[str, str]


def make_job(blueprint: Blueprint, table: FeatureTable, column: str | None) -> Job:
    """Evaluate the design and choose how to run.

    Parameters
    ----------
    blueprint : Blueprint
    table : FeatureTable
    column : str or None
        What tells the outcomes of one fit apart, as given by the caller.
    """
    K = max(table.n_outcomes(name) for name in table.names)
    if blueprint.kind != SELECTION and (column is not None or K > 1):
        return _stacked_job(blueprint, table, column or "outcome")
    fits = blueprint.fits(table.samples, K)
    identity = {"design": _design_digest(fits), "weights": digest(table.shared_weights)}
    if _in_batches(blueprint, fits):
        template: Any = fits.template
        random = template.random_effects if blueprint.kind == LINEAR else None
        design = BatchDesign(np.asarray(template.exog, dtype=float), random, blueprint.reml, template.weights)
        task = BatchFits(design, fits, random, blueprint.parent)
        return Job(task, task.units, _in_blocks(design.width()), identity)
    return Job(fits, fits.units, _one_by_one, identity)


def _in_batches(blueprint: Blueprint, fits: FeatureFits) -> bool:
    """Whether the engine for many responses fits this model."""
    if blueprint.kind == LEAST_SQUARES:
        return True
    plain = _PLAIN_OPTIONS.issuperset(blueprint.model_options) and not blueprint.fit_options
    return blueprint.kind == LINEAR and plain and supports(fits.template.criterion(blueprint.reml))


def _stacked_job(blueprint: Blueprint, table: FeatureTable, column: str) -> Job:
    """Features with designs of their own."""
    if column in table.samples.columns:
        raise OptionError(f"column={column!r} is a column of the samples too; rename one")
    stacked = Stacked(StackedBuilder(blueprint, column), table.samples, column, blueprint.parent)
    # wrong names and options show at one feature, before anything is fitted
    first = max(table.names, key=table.n_outcomes)
    stacked.of(Feature(first, table.outcomes(first), table.weights(first)))
    return Job(
        stacked, stacked.units, _one_by_one, {"design": digest(table.samples), "weights": digest(table.shared_weights)}
    )


@dataclass(frozen=True, eq=False)
class StackedBuilder:
    """Makes the fits of one feature from its stacked samples; pickles.

    Attributes
    ----------
    blueprint : Blueprint
    column : str
        Variable that names the outcome in the formula.
    """

    blueprint: Blueprint
    column: str

    def __call__(self, samples: pd.DataFrame, single: bool) -> FeatureFits:
        """See `Stacked.build`."""
        blueprint = self.blueprint
        if single:
            rhs = single_outcome_rhs(blueprint.rhs, self.column, samples, residual=blueprint.kind == LINEAR)
            blueprint = replace(blueprint, rhs=rhs)
        return blueprint.fits(samples)


def _one_by_one(table: FeatureTable, names: Sequence[str], size: int) -> Iterator[list[Feature]]:
    for i in range(0, len(names), size):
        yield [Feature(name, table.outcomes(name), table.weights(name)) for name in names[i : i + size]]


def _design_digest(fits: FeatureFits) -> str:
    """Hash of the evaluated design: fixed effects, random effects, offset."""
    template: Any = fits.template
    parts: list[Any] = [list(template.exog_names), np.asarray(template.exog), fits.positions]
    if hasattr(template, "random_effects"):
        for term in template.random_effects.terms:
            parts += [term.text, term.factor.codes, list(map(str, term.factor.levels)), list(term.columns)]
        parts.append(template.offset)
    return digest(*parts)


@dataclass(frozen=True, eq=False)
class Block:
    """Several features side by side.

    Attributes
    ----------
    names : list of str
    values : ndarray
        (N, F), NaN where missing.
    weights : ndarray or None
        (N, F).
    numeric : ndarray
        Whether the values of a feature are numbers (F,).
    """

    names: list[str]
    values: np.ndarray = field(repr=False)
    weights: np.ndarray | None = field(repr=False)
    numeric: np.ndarray = field(repr=False)

    def feature(self, j: int) -> Feature:
        """One of them."""
        if not self.numeric[j]:
            # what kind of values they were no longer matters: the fit says that they are no numbers
            return Feature(self.names[j], pd.DataFrame({self.names[j]: np.full(len(self.values), "")}))
        weights = None if self.weights is None else self.weights[:, [j]]
        return Feature(self.names[j], pd.DataFrame({self.names[j]: self.values[:, j]}), weights)

    def take(self, chosen: np.ndarray) -> Block:
        """The features `chosen`."""
        weights = None if self.weights is None else self.weights[:, chosen]
        names = [self.names[j] for j in chosen]
        return Block(names, self.values[:, chosen], weights, self.numeric[chosen])


@dataclass(frozen=True, eq=False)
class BatchFits:
    """Fits many features at once, and one by one what the engine leaves; pickles.

    Attributes
    ----------
    design : BatchDesign
    fits : LinearFits or LeastSquaresFits
        For features that need a fit of their own.
    random : RandomEffects or None
    parent : int
    """

    design: BatchDesign = field(repr=False)
    fits: Any = field(repr=False)
    random: RandomEffects | None = field(repr=False)
    parent: int = 0

    def __call__(self, block: Block) -> pd.DataFrame:
        """Rows of several features."""
        end_with_parent(self.parent)
        with blas_threads(0):
            Y, W = self._arrays(block)
            fit = fit_batch(self.design, Y, W)
            good = self._usable(block, Y, W, fit)
            chosen = np.flatnonzero(good)
            parts = []
            if chosen.size:
                own = fit if good.all() else fit.take(chosen)
                weights = W if W is None else W[:, chosen]
                with np.errstate(all="ignore"):
                    parts.append(self._rows([block.names[j] for j in chosen], own, weights))
            if not good.all():
                parts.append(self.fits([block.feature(int(j)) for j in np.flatnonzero(~good)]))
        return pd.concat(parts, ignore_index=True)

    def units(self, block: Block, theta: np.ndarray) -> pd.DataFrame:
        """As in `LinearFits`."""
        end_with_parent(self.parent)
        report = self.fits.report
        terms, rows = report.rows()
        with blas_threads(0):
            Y, W = self._arrays(block)
            found = units(self.design, Y, W, theta, rows, list(report.tests.values()))
            whole = self._tabled(block.names, found, terms, list(report.tests))
            lacking = np.flatnonzero(~found.full)
            if lacking.size:
                own = self.fits.units([block.feature(int(j)) for j in lacking], theta)
                names = {block.names[j] for j in lacking}
                whole = pd.concat([whole[~whole["feature"].isin(names)], own], ignore_index=True)
        return whole

    @staticmethod
    def _tabled(names: Sequence[str], found: Any, terms: list[str], tests: list[str]) -> pd.DataFrame:
        every = np.array(names, dtype=object)
        parts = [("term", np.repeat(every, len(terms)), np.tile(terms, len(every)), found.contrasts.ravel())]
        parts += [("test", every, np.repeat(name, len(every)), u) for name, u in zip(tests, found.tests, strict=True)]
        columns = {
            "feature": np.concatenate([f for _, f, _, _ in parts]),
            "kind": np.repeat([k for k, *_ in parts], [len(f) for _, f, _, _ in parts]).astype(object),
            "term": np.concatenate([t for _, _, t, _ in parts]).astype(object),
            "unit": np.concatenate([u for *_, u in parts]),
        }
        return object_frame(columns)

    def _arrays(self, block: Block) -> tuple[np.ndarray, np.ndarray | None]:
        """Responses (n, F) with zeros where missing, and their weights where any is missing or they differ."""
        fits = self.fits
        Y = block.values
        if len(Y) != len(fits.positions) or (np.diff(fits.positions) != 1).any():
            Y = Y[fits.positions]
        if fits.template.offset is not None:
            Y = Y - fits.template.offset[:, None]
        seen = np.isfinite(Y)
        shared = fits.shared_weights if fits.shared_weights is not None else self.design.weights
        if block.weights is not None:
            W = np.where(seen, block.weights[fits.positions], 0.0)
        elif seen.all() and fits.shared_weights is None:
            return Y, None
        else:
            W = seen.astype(float) if shared is None else np.where(seen, shared[:, None], 0.0)
        return np.where(W > 0.0, Y, 0.0), W

    def _usable(self, block: Block, Y: np.ndarray, W: np.ndarray | None, fit: BatchFit) -> np.ndarray:
        """Which features the engine has fitted (F,); the others get a fit of their own, or its sentence."""
        m = fit.moments
        with np.errstate(all="ignore"):
            low = Y.min(axis=0) if W is None else np.where(W > 0.0, Y, np.inf).min(axis=0)
            high = Y.max(axis=0) if W is None else np.where(W > 0.0, Y, -np.inf).max(axis=0)
            largest = np.maximum(np.abs(low), np.abs(high))
            spread = m.n * np.square(0.5 * (high - low))
            rest = fit.at.sigma2 * m.n
            good = fit.converged & block.numeric & (rest > _EXACT * spread * (1.0 if W is None else W.max(axis=0)))
            good &= (largest < _LARGEST) & (largest > 1.0 / _LARGEST) & (high > low)
        if W is not None:
            good &= ~np.isinf(block.values).any(axis=0)
        if self.random is not None:
            levels = np.full(len(good), float(self.design.n_levels))
            if W is not None:
                levels = (self.design.levels @ (W > 0.0) > 0.0).sum(axis=0).astype(float)
            widest = max(term.q for term in self.random.terms)
            good &= (levels >= _FEWEST_LEVELS) & (levels * widest < m.n)
        return good

    def _tests(self, fit: BatchFit) -> BatchTests:
        if self.random is None:
            return BatchPlain(fit, residual=self.fits.ddf is not None)
        if self.fits.ddf == "kenward-roger":
            return BatchKenwardRoger(fit)
        if self.fits.ddf == "satterthwaite":
            return BatchSatterthwaite(fit)
        return BatchPlain(fit, residual=False)

    def _rows(self, names: list[str], fit: BatchFit, W: np.ndarray | None) -> pd.DataFrame:
        """All that is reported of the features, as in `scanning.rows`."""
        report = self.fits.report
        terms, contrasts = report.rows()
        tests = self._tests(fit)
        every = np.array(names, dtype=object)
        out = Columns(every, fit.moments.n.astype(np.int64), fit.singular)
        out.add("term", terms, tests.estimates(contrasts), np.sqrt(tests.variances(contrasts)), tests.df(contrasts))
        for name, matrix in report.tests.items():
            f, df, size = tests.f_tests(matrix)
            out.add("test", [name], f[:, None], np.sqrt(size)[:, None], df[:, None], df_num=float(len(matrix)))
        if report.shares:
            shares = batch_shares(self.fits.template, self.random, fit, W)
            out.add("share", list(shares), np.column_stack(list(shares.values())))
        theta = fit.user_theta
        out.add("theta", [str(i) for i in range(theta.shape[1])], theta)
        levels = self.design.n_levels if W is None else (self.design.levels @ (W > 0.0) > 0.0).sum(axis=0)
        df = fit.moments.n - self.design.p - (0 if self.random is None else levels - 1)
        out.add("sigma2", ["sigma2"], fit.at.sigma2[:, None], df=np.broadcast_to(df, len(every))[:, None])
        return out.frame()


def _in_blocks(width: int) -> Callable[[FeatureTable, Sequence[str], int], Iterator[Block]]:
    """How features are handed to `BatchFits`, `width` at a time at most."""

    def blocks(table: FeatureTable, names: Sequence[str], size: int) -> Iterator[Block]:
        step = max(1, min(width, _PER_CHUNK * size))
        for i in range(0, len(names), step):
            own = list(names[i : i + step])
            yield Block(own, *table.matrix(own))

    return blocks
