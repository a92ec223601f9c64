"""A binomial or Poisson mixed model from counted cells: rows of a source that are equal in all that the model reads.

Penalised iterations need the rows at every step. Equal rows have equal terms of the log likelihood, so that one row of
each kind, weighted by how often it occurs, has the same one; for several trials a row, but for a constant.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import gammaln

from mvmise_sm.core.covariance.random_effects import RandomEffects
from mvmise_sm.core.families.response import make_response
from mvmise_sm.exceptions import DataError, NoRowsError, OptionError
from mvmise_sm.models.families import resolve_family
from mvmise_sm.models.generalized import GeneralizedLinearMixedModel
from mvmise_sm.options import refuse_unknown_model_options
from mvmise_sm.results.variance import layout_of
from mvmise_sm.streaming.model import StreamedData
from mvmise_sm.streaming.sources import blocks, column_names, shown
from mvmise_sm.streaming.survey import Reader, stateful_factors

__all__ = ["MAX_CELLS", "CountedModel", "counted_cells", "counted_model"]

MAX_CELLS = 20_000_000
_COUNT = "number_of_equal_rows"
_FAMILIES = ("binomial", "poisson")
# blocks' cells are merged once they have grown to this many times what is merged already
_MERGE = 1.0
# rows that means of columns are taken from
_SHOWN = 100_000
_NO_ROWS = "the fit holds counted cells and no rows; predict(frame) gives fitted values of any rows"


def counted_cells(
    reader: Reader, frames: Iterable[pd.DataFrame], count: str, max_cells: int = MAX_CELLS
) -> tuple[pd.DataFrame, int]:
    """Distinct rows with how often they occur, and the number of blocks.

    Parameters
    ----------
    reader : Reader
    frames : iterable of DataFrame
        Blocks with the columns that the model reads.
    count : str
        Name of the new column.
    max_cells : int, optional
        Largest number of distinct rows.

    Raises
    ------
    DataError
        If there are more, or no rows.
    """
    merged: pd.DataFrame | None = None
    waiting: list[pd.DataFrame] = []
    size = n_blocks = 0
    for frame in frames:
        chosen = reader.rows(frame)
        n_blocks += 1
        if not len(chosen):
            continue
        waiting.append(_counted(chosen.assign(**{count: 1}), count))
        size += len(waiting[-1])
        if merged is None or size > _MERGE * len(merged):
            merged, waiting, size = _union(merged, waiting, count), [], 0
            _check_size(merged, max_cells)
    merged = _union(merged, waiting, count)
    if merged is None:
        raise DataError("the source has no rows")
    _check_size(merged, max_cells)
    return merged, n_blocks


def _union(merged: pd.DataFrame | None, waiting: list[pd.DataFrame], count: str) -> Any:
    parts = [*([] if merged is None else [merged]), *waiting]
    return _counted(pd.concat(parts, ignore_index=True), count) if parts else None


def _counted(frame: pd.DataFrame, count: str) -> pd.DataFrame:
    """One row for equal rows; those with missing values stay, for the model to drop or to refuse."""
    keys = [name for name in frame.columns if name != count]
    return frame.groupby(keys, dropna=False, observed=True, sort=False)[count].sum().reset_index()


def _check_size(cells: pd.DataFrame, max_cells: int) -> None:
    if len(cells) > max_cells:
        raise DataError(f"the rows have {len(cells):,} distinct cells, more than max_cells={max_cells:,}")


def counted_model(
    cls: type, formula: str, data: Any, given: dict[str, Any], options: dict[str, Any]
) -> GeneralizedLinearMixedModel:
    """The model of a source's cells; called by ``from_formula``.

    Parameters
    ----------
    cls : type
        The class that was asked for.
    formula : str
    data : source
    given : dict
        ``weights``, ``offset``, ``subset``, ``missing`` and ``eval_env``.
    options : dict
        ``family``, ``max_cells`` and further options of the model.

    Raises
    ------
    DataError
        If the model needs its rows, or there are too many cells.
    OptionError
        If an option has no meaning without rows.
    """
    max_cells = _checked_limit(options.pop("max_cells", MAX_CELLS))
    refuse_unknown_model_options(cls, options)
    family = resolve_family(options.get("family"))
    if family.name not in _FAMILIES or cls is not GeneralizedLinearMixedModel:
        raise DataError(f"a {family.name} GLMM needs its rows at every step and cannot be streamed")
    if options.get("cov") is not None:
        raise OptionError("cov= needs the rows themselves; a source read in chunks does not take it")
    options.pop("cov", None)
    for name in ("weights", "offset", "subset"):
        if given[name] is not None and not isinstance(given[name], str):
            raise OptionError(
                f"{name} must be a column name or an expression for a source read in chunks, not an array"
            )
    reader = Reader(formula, given["weights"], given["offset"], given["subset"], given["missing"], given["eval_env"])
    known = column_names(data)
    columns = reader.used(list(_first(data).columns) if known is None else known)
    first = next(iter(blocks(data, columns)), None)
    if first is None:
        raise DataError("the source has no rows")
    reader.checked(first)
    moving = stateful_factors(reader, first)
    if moving:
        raise DataError(f"{moving[0]} depends on all rows together, which counted cells do not show; give its numbers")
    if family.name == "poisson":
        _check_counts(reader, first)
    count = _COUNT
    while count in columns:
        count += "_"
    cells, n_blocks = counted_cells(reader, blocks(data, columns), count, max_cells)
    weights = count if given["weights"] is None else f"{count} * ({given['weights']})"
    inner = cls.from_formula(
        formula,
        cells,
        weights=weights,
        offset=given["offset"],
        missing=given["missing"],
        eval_env=given["eval_env"],
        **options,
    )
    counts = cells.loc[inner.data.row_labels, count].to_numpy(float)
    return CountedModel(inner, counts, f"{shown(data)}, {int(counts.sum()):,} rows in {n_blocks:,} blocks")


class CountedModel(GeneralizedLinearMixedModel):
    """A `GeneralizedLinearMixedModel` of counted cells, without rows.

    Parameters
    ----------
    cells : GeneralizedLinearMixedModel
        The model of the distinct rows, weighted by their numbers.
    counts : ndarray
        Their numbers.
    source_text : str
        Where they come from.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> CountedModel:
        """One linear predictor always."""
        return object.__new__(cls)

    def __init__(self, cells: GeneralizedLinearMixedModel, counts: np.ndarray, source_text: str) -> None:
        self.__dict__.update(cells.__dict__)
        self.cells, self.counts, self.source_text = cells, counts, source_text
        self.n_cells, self.nobs = len(counts), int(counts.sum())
        self.constant = _trials_constant(cells, counts)
        self.random_layout = layout_of(RandomEffects(cells.random_effects.terms, self.nobs))
        design = cells.data.design
        shown_rows = _repeated(design.frame.loc[cells.data.row_labels], counts)
        self.data = StreamedData(replace(design, random=self.random_layout, frame=shown_rows), cells.data.ynames)
        self.data.xnames, self.data.k_constant = cells.data.xnames, cells.k_constant
        self.data.const_idx = cells.data.const_idx
        self.endog, self.exog = None, np.zeros((0, cells.exog.shape[1]))
        # the rows, which other models hold
        gone: Any = None
        self.random_effects = self.weights = self.offset = gone

    def __reduce__(self) -> tuple[Any, ...]:
        return CountedModel, (self.cells, self.counts, self.source_text)

    @property
    def streamed(self) -> bool:
        """Whether the rows are somewhere else: always."""
        return True

    def rows_gone(self) -> Any:
        """The error of a question that needs rows."""
        return NoRowsError(_NO_ROWS)

    def term_design(self) -> tuple[Any, np.ndarray, np.ndarray | None]:
        """As in `MixedModelBase`, of the cells."""
        return self.cells.term_design()

    def column_sizes(self) -> np.ndarray:
        """As in `MixedModelBase`, of the cells."""
        return self.cells.column_sizes()

    def deviance_of(self, solution: Any) -> float:
        """Sum of the squared deviance residuals of all rows at a solution."""
        cells = self.cells
        linear = cells.exog @ solution.beta + cells.random_effects.linear(solution.b)
        linear = linear if cells.offset is None else linear + cells.offset
        response = make_response(cells.family, cells.endog, cells.weights)
        return float(np.sum(response.deviance_rows(cells.inverse_link(linear))))

    def criterion(self, nagq: int = 1, dispersion: str = "ml", curvature: str = "observed") -> Any:
        """Return what `fit` minimises, see `GeneralizedLinearMixedModel.criterion`."""
        cells = copy.copy(self.cells)
        cells.priors = self.priors
        return cells.criterion(nagq, dispersion, curvature)

    def _result(self, solution: Any, *args: Any, **kwargs: Any) -> Any:
        return super()._result(replace(solution, criterion=solution.criterion + self.constant), *args, **kwargs)

    def _trouble(self, solution: Any) -> str | None:
        return self.cells._trouble(solution)

    def _infinite(self, solution: Any) -> np.ndarray:
        return self.cells._infinite(solution)

    def _undetermined(self, optimum: Any) -> Any:
        return self.cells._undetermined(optimum)


def _repeated(frame: pd.DataFrame, counts: np.ndarray) -> pd.DataFrame:
    """Rows as often as they occur, thinned evenly to some number: what means and levels of columns are taken from."""
    total = int(counts.sum())
    places = np.arange(0, total, max(1, total // _SHOWN))
    return frame.iloc[np.searchsorted(np.cumsum(counts), places, side="right")].reset_index(drop=True)


def _trials_constant(cells: GeneralizedLinearMixedModel, counts: np.ndarray) -> float:
    """Criterion of the rows less that of the cells: binomial coefficients of several trials a row."""
    if cells.family.name != "binomial":
        return 0.0
    trials = np.asarray(cells.weights)
    successes = trials * np.asarray(cells.endog)

    def choose(n: np.ndarray, k: np.ndarray) -> np.ndarray:
        return gammaln(n + 1.0) - gammaln(k + 1.0) - gammaln(n - k + 1.0)

    apart = counts @ choose(trials / counts, successes / counts)
    return 2.0 * float(choose(trials, successes).sum() - apart)


def _check_counts(reader: Reader, frame: pd.DataFrame) -> None:
    """Refuse a Poisson response with values that are no counts: it has about as many cells as rows."""
    name = reader.parts.responses[0]
    values = frame[name].dropna() if name in frame.columns else pd.Series(dtype=float)
    if pd.api.types.is_numeric_dtype(values) and len(values) and ((values < 0) | (values % 1 != 0)).any():
        raise DataError(
            f"the response {name!r} of a poisson GLMM has values that are no counts, such as "
            f"{values[(values < 0) | (values % 1 != 0)].iloc[0]:g}; what cannot be counted in cells cannot be streamed"
        )


def _checked_limit(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise OptionError(f"max_cells must be a positive integer, got {value!r}")
    return int(value)


def _first(data: Any) -> pd.DataFrame:
    """The first block of a source whose columns only its blocks know."""
    from mvmise_sm.design.build import as_frame

    for block in data.factory():
        return block if isinstance(block, pd.DataFrame) else as_frame(block)
    raise DataError("the source has no blocks")
