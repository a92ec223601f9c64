"""A linear mixed model whose rows are somewhere else: fitted from sums, with results that hold no rows."""

from __future__ import annotations

import warnings
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mvmise_sm.caller import warn
from mvmise_sm.core.covariance.random_effects import RandomEffects
from mvmise_sm.core.criteria.linear import ProfiledDeviance
from mvmise_sm.core.criteria.sums import independent_of_gram, linear_sums
from mvmise_sm.core.elimination.choose import LogDeterminant
from mvmise_sm.design import coding
from mvmise_sm.design.grouping import check_random_effects
from mvmise_sm.design.new_data import new_exog, new_offset
from mvmise_sm.exceptions import DataError, FormulaError, NoRowsError, OptionError, RankWarning
from mvmise_sm.formula.parts import parse_formula
from mvmise_sm.models.formula_data import FormulaData
from mvmise_sm.models.generalized import GeneralizedLinearMixedModel
from mvmise_sm.models.linear import LinearMixedModel
from mvmise_sm.models.prior_text import readable
from mvmise_sm.options import refuse_unknown_model_options
from mvmise_sm.results.variance import layout_of
from mvmise_sm.streaming.products import CrossProducts
from mvmise_sm.streaming.sources import blocks, is_source

__all__ = ["StreamedLinearModel", "is_streamed", "streamed_model", "write_fitted"]

_NO_ROWS = "the fit holds no rows; use write_fitted(path) for fitted values and residuals"
# of the total sum of squares; below it the residual variance is rounding
_EXACT = 64.0 * np.finfo(float).eps
# made-up rows per combination of levels, and their spread about the mean of a number
_DRAWS, _SPREAD = 12, 0.1


def is_streamed(data: Any) -> bool:
    """Whether data are a source read in blocks, or cross-products."""
    return isinstance(data, CrossProducts) or is_source(data)


def streamed_model(cls: type, formula: str, data: Any, given: dict[str, Any], options: dict[str, Any]) -> Any:
    """The model of a source or of cross-products; called by ``from_formula``.

    Parameters
    ----------
    cls : type
        The class that was asked for.
    formula : str
    data : source or CrossProducts
    given : dict
        ``weights``, ``offset``, ``subset``, ``missing`` and ``eval_env``.
    options : dict
        Further options of the model.

    Raises
    ------
    DataError
        If the class needs rows, the formula is not that of the sums, or a level has no rows.
    OptionError
        If an option has no meaning without rows.
    """
    if cls is GeneralizedLinearMixedModel:
        from mvmise_sm.streaming.cells import counted_model

        if not isinstance(data, CrossProducts):
            return counted_model(cls, formula, data, given, options)
    if cls is not LinearMixedModel:
        raise DataError(f"{cls.__name__} needs its rows at every step and cannot be streamed; give it a DataFrame")
    if options.get("contrasts") is not None:
        raise OptionError("contrasts= needs all levels at once; for a source read in chunks write C(f, Sum) instead")
    for name in ("residual", "dispersion", "cov"):
        asked = options.get(name)
        if asked is not None and not (isinstance(asked, str) and asked == "hom"):
            raise OptionError(f"{name}= needs the rows themselves; a source read in chunks does not take it")
        options.pop(name, None)
    if any(spec.members for spec in parse_formula(formula).random):
        raise OptionError("mm() needs the rows themselves; a source read in chunks does not take it")
    refuse_unknown_model_options(cls, options)
    if isinstance(data, CrossProducts):
        if not isinstance(given["missing"], str) or given["missing"] not in ("drop", data.missing):
            raise OptionError(f"the cross-products were planned with missing={data.missing!r}")
        for name in ("weights", "offset", "subset"):
            if given[name] is not None:
                raise OptionError(f"{name} belongs to the plan of the cross-products: CrossProducts.plan(..., {name}=)")
        if data.formula.replace(" ", "") != formula.replace(" ", ""):
            raise FormulaError(f"the cross-products are those of {data.formula!r}, not of {formula!r}")
        return StreamedLinearModel(data, None, **options)
    plan = CrossProducts.plan(formula, data, **given)
    return StreamedLinearModel(plan.collect(data), data, **options)


class StreamedData(FormulaData):
    """Labels of a model without rows."""

    def __init__(self, design: Any, name: str) -> None:
        self._cache: dict[str, Any] = {}
        self.design = design
        self.formula = design.formula
        self.frame = design.frame
        self.orig_endog = self.orig_exog = None
        self.endog = self.exog = None
        self.xnames, self.ynames = list(design.exog_names), name
        self.const_idx: int | None = None
        self.k_constant = 0

    @property
    def row_labels(self) -> None:
        """There are no rows."""
        return


class StreamedLinearModel(LinearMixedModel):
    """A `LinearMixedModel` from cross-products.

    Parameters
    ----------
    products : CrossProducts
        Sums.
    source : source or None
        Where the rows are, for `write_fitted`.
    cov_prior, fixef_prior, resid_prior, sd_prior, cor_prior, dispersion_prior : optional
        As in `LinearMixedModel`.

    Attributes
    ----------
    statistic : LinearSums
    exog : ndarray
        Without rows (0, k_fe).
    """

    def __init__(
        self,
        products: CrossProducts,
        source: Any = None,
        *,
        cov_prior: Any = None,
        fixef_prior: Any = None,
        resid_prior: Any = None,
        sd_prior: Any = None,
        cor_prior: Any = None,
        dispersion_prior: Any = None,
    ) -> None:
        plan, sums = products.statistic()
        p = len(sums.plan.origin)
        scale = sums.plan.basis.scale
        kept = independent_of_gram(sums.gram[:p, :p] * scale[:, None] * scale)
        names = plan.template.full_spec.column_names
        self.dropped = tuple(name for j, name in enumerate(names) if j not in set(kept.tolist()))
        design = plan.template
        if self.dropped:
            spec = coding.keep_columns(design.full_spec, kept)
            design = replace(design, model_spec=spec, dropped_columns=self.dropped)
        self.products, self.plan, self.source = products, plan, source
        self.source_text = f"{products.source}, {sums.nobs:,} rows in {products.blocks:,} blocks"
        random = layout_of(RandomEffects(plan.random.terms, sums.nobs))
        self.statistic = linear_sums(sums, random, plan.term_bases, kept if self.dropped else None)
        self.data = StreamedData(replace(design, random=random), plan.reader.parts.responses[0])
        self.formula = plan.reader.formula
        self.endog, self.exog, self.nobs = None, np.zeros((0, len(kept))), sums.nobs
        self.wexog = self.wendog = None
        self.random_effects = None  # type: ignore[assignment]  # they have rows, which are gone
        self.random_layout = random
        self.weights = self.offset = None
        self.residual = self.residual_structure = None
        self.residual_text = ""
        intercept = [j for j, name in enumerate(self.data.xnames) if name == "Intercept"]
        self.data.const_idx = intercept[0] if intercept else None
        self.k_constant = self.data.k_constant = len(intercept)
        given = (cov_prior, fixef_prior, resid_prior, dispersion_prior)
        self.cov_prior, self.fixef_prior, self.resid_prior, self.dispersion_prior = readable(given)
        self.sd_prior, self.cor_prior = sd_prior, cor_prior
        self.priors = self._bind_priors()
        self._check_data()
        self._data_attr: list[str] = []
        self._init_keys: list[str] = []
        if self.dropped:
            columns = ", ".join(repr(name) for name in self.dropped)
            warn(
                f"the fixed effects are rank deficient; dropped {columns}, which earlier columns determine", RankWarning
            )

    def _check_data(self) -> None:
        residual = "estimated" if self._residual_is_free() else "known"
        check_random_effects(self.random_layout, self.nobs, residual=residual)
        if self._residual_is_free() and self.exog.shape[1] >= self.nobs:
            raise DataError(
                f"the fixed effects have {self.exog.shape[1]} independent columns for {self.nobs} rows; there must be "
                "fewer columns than rows"
            )

    def _check_response(self) -> None:
        """Refuse a response that the fixed effects reproduce, a constant one among them."""
        total = float(self.statistic.products.gram[-1, -1])
        moments = self.plan.moments
        size = moments.mean[-1] ** 2 + moments.scatter[-1, -1] / moments.n
        if self._residual_is_free() and not total > _EXACT**2 * self.nobs * size:
            raise self._exact()

    def _check_solution(self, solution: Any) -> None:
        total = float(self.statistic.products.gram[-1, -1])
        if not np.isfinite(solution.criterion) or solution.r2 <= _EXACT * total:
            raise self._exact()

    def _exact(self) -> DataError:
        return DataError(
            f"fixed and random effects reproduce the response {self.endog_names!r} exactly or nearly so: there is "
            "no residual variance"
        )

    def criterion(self, reml: bool = True, logdet: LogDeterminant | None = None) -> ProfiledDeviance:
        """Return what `fit` minimises, see `LinearMixedModel.criterion`."""
        options = {"priors": self.priors, "reml": reml, "logdet": logdet or LogDeterminant()}
        return ProfiledDeviance.of_sums(self.statistic, **options)

    def term_design(self) -> tuple[Any, np.ndarray, np.ndarray]:
        """The design on made-up rows that show every combination of levels, and rows with the data's cross-products."""
        root = np.linalg.cholesky(self.statistic.products.gram[:-1, :-1]).T
        gram_rows = root @ np.linalg.inv(self.statistic.basis.a)
        design = replace(self.data.design, frame=self._combinations())
        return design, new_exog(design, design.frame).to_numpy(), gram_rows

    def _combinations(self) -> pd.DataFrame:
        """Every combination of the levels of the fixed effects, numbers at values about their means."""
        design = self.data.design
        if self.dropped:
            raise NoRowsError(
                "where columns were dropped, tests by term need to know which levels occur together; use wald_test"
            )
        values: dict[str, list[Any]] = {}
        for term in design.model_spec.terms:
            for factor in term.factors:
                info = design.model_spec.factor_infos[factor]
                table = self.plan.witnesses.get(factor.code)
                if info.type == "categorical" and table is not None and len(table.columns) == 2:
                    values[table.columns[1]] = list(table.iloc[:, 1])
        frame = pd.DataFrame(list(product(*values.values())), columns=list(values))
        frame = pd.concat([frame] * _DRAWS, ignore_index=True) if len(frame) else pd.DataFrame(index=range(_DRAWS))
        rng = np.random.default_rng(0)
        for name, value in self.plan.defaults.items():
            if name in values:
                column = pd.Series(list(frame[name]))
                known = self.data.frame[name].dtype
                frame[name] = column.astype(known) if isinstance(known, pd.CategoricalDtype) else column
            elif isinstance(value, float):
                frame[name] = (
                    value * (1.0 + _SPREAD * rng.uniform(-1.0, 1.0, len(frame)))
                    if value
                    else rng.normal(size=len(frame))
                )
            else:
                frame[name] = value
        return frame

    def rows_gone(self) -> ValueError:
        """The error of a question that needs rows."""
        return NoRowsError(_NO_ROWS)

    def __reduce__(self) -> tuple[Any, ...]:
        # sums travel as their documented bytes; the source stays where it is
        keywords = ("cov_prior", "fixef_prior", "resid_prior", "sd_prior", "cor_prior", "dispersion_prior")
        return _unpickled, (self.products.to_bytes(), {key: getattr(self, key) for key in keywords})

    @property
    def streamed(self) -> bool:
        """Whether the rows are somewhere else: always."""
        return True


def _unpickled(data: bytes, options: dict[str, Any]) -> StreamedLinearModel:
    with warnings.catch_warnings():
        # said when the model was made
        warnings.simplefilter("ignore", RankWarning)
        return StreamedLinearModel(CrossProducts.from_bytes(data), None, **options)


def write_fitted(
    result: Any, path: Any, columns: Any = ("fitted", "resid"), keep: Any = (), source: Any = None
) -> pd.Series:
    """Read the source again, write fitted values and residuals and return the residuals' summary.

    See `LinearMixedModelResults.write_fitted`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    model = result.model
    wanted = [columns] if isinstance(columns, str) else list(columns)
    unknown = [name for name in wanted if name not in ("fitted", "resid")]
    if unknown or not wanted:
        raise OptionError(f"columns must be among 'fitted' and 'resid', got {(unknown or ['nothing'])[0]!r}")
    source = model.source if source is None else source
    if source is None:
        raise NoRowsError("the fit was made from cross-products and knows no source; give write_fitted(path, source=)")
    if not is_source(source):
        raise DataError(f"source must be one that is read in chunks, found {type(source).__name__}")
    carried = [keep] if isinstance(keep, str) else list(keep)
    plan = model.plan
    first = [c for c in plan.defaults if c not in carried]
    squares, values, writer = 0.0, _Quantiles(), None
    try:
        for frame in blocks(source, [*first, *carried]):
            if not len(frame) and writer is not None:
                continue
            fitted, resid = _fitted(result, plan, frame)
            made = {"fitted": fitted, "resid": resid}
            table = pd.DataFrame({**{c: frame[c].to_numpy() for c in carried}, **{c: made[c] for c in wanted}})
            arrow = pa.Table.from_pandas(table, preserve_index=False)
            writer = pq.ParquetWriter(Path(path), arrow.schema) if writer is None else writer
            writer.write_table(arrow)
            known = resid[np.isfinite(resid)]
            squares += float(known @ known)
            values.add(known)
    finally:
        if writer is not None:
            writer.close()
    return values.summary(squares)


def _fitted(result: Any, plan: Any, frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Fitted values and residuals of the rows of a block; NaN for rows that the fit did not use."""
    out = np.full(len(frame), np.nan), np.full(len(frame), np.nan)
    chosen = plan.reader.rows(frame)
    if not len(chosen):
        return out
    place = np.arange(len(frame)) if len(chosen) == len(frame) else frame.index.get_indexer(chosen.index)
    block, kept = plan.block(chosen)
    used = chosen.iloc[kept]
    mean, offset = np.asarray(result.predict(used)), new_offset(plan.template, used)
    out[0][place[kept]] = mean
    # the block's response is without the offset, which the mean includes
    out[1][place[kept]] = block.y - mean if offset is None else block.y + offset - mean
    return out


class _Quantiles:
    """Quartiles of numbers that come in blocks, from at most some hundred thousand of them."""

    _MOST = 200_000

    def __init__(self) -> None:
        self.parts: list[np.ndarray] = []
        self.stride, self.low, self.high = 1, np.inf, -np.inf

    def add(self, values: np.ndarray) -> None:
        """Take in more numbers."""
        if not len(values):
            return
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))
        self.parts.append(values[:: self.stride])
        if sum(map(len, self.parts)) > self._MOST:
            self.parts = [np.concatenate(self.parts)[::2]]
            self.stride *= 2

    def summary(self, squares: float) -> pd.Series:
        """Minimum, quartiles, maximum and the sum of squares."""
        q = np.quantile(np.concatenate(self.parts), [0.25, 0.5, 0.75]) if self.parts else np.full(3, np.nan)
        return pd.Series([self.low, *q, self.high, squares], ["min", "q25", "median", "q75", "max", "ss"])
