"""Fits as models of the package marginaleffects: predictions, comparisons, slopes and hypotheses."""

from __future__ import annotations

from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd

from mvmise_sm.design.new_data import new_exog, new_offset
from mvmise_sm.exceptions import OptionError
from mvmise_sm.inference.fits import unwrap
from mvmise_sm.inference.means.grid import term_variables

__all__ = ["adapter", "register_marginaleffects"]

_ADAPTERS: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()


def adapter(result: Any) -> Any:
    """The fit as marginaleffects' ``ModelAbstract``; random effects are zero in its predictions.

    Raises
    ------
    OptionError
        If marginaleffects is not installed, or the model was not made from a formula.
    """
    result = unwrap(result)
    if result not in _ADAPTERS:
        _ADAPTERS[result] = _adapter_class()(result)
    return _ADAPTERS[result]


def register_marginaleffects() -> None:
    """Let marginaleffects' functions take results of this package directly: ``marginaleffects.slopes(res)``.

    Without it they take ``res.to_marginaleffects()``.

    Raises
    ------
    OptionError
        If marginaleffects is not installed.
    """
    from mvmise_sm.results.generalized import GeneralizedLinearMixedModelResultsWrapper
    from mvmise_sm.results.linear import LinearMixedModelResultsWrapper

    base = _base()
    names = [name for name in dir(base) if name.startswith(("get_", "find_", "set_"))]
    for owner in (LinearMixedModelResultsWrapper, GeneralizedLinearMixedModelResultsWrapper):
        base.register(owner)
        for name in (*names, "vault"):
            if name not in vars(owner):
                setattr(owner, name, property(_forwarded(name)))


def _forwarded(name: str) -> Any:
    return lambda self: getattr(adapter(self), name)


def _base() -> Any:
    try:
        from marginaleffects.classes import ModelAbstract
    except ImportError:
        raise OptionError(
            'this needs the package marginaleffects: python -m pip install "mvmise_sm[marginaleffects]"'
        ) from None
    return ModelAbstract


def _column(values: pd.Series) -> Any:
    """A column for polars: factors and texts as enumerations of their levels."""
    import polars as pl

    if isinstance(values.dtype, pd.CategoricalDtype):
        levels = [str(level) for level in values.cat.categories]
        return pl.Series(values.name, values.astype(object).map(str), dtype=pl.Enum(levels))
    if values.dtype.kind in "iufb" and not isinstance(values.dtype, pd.api.extensions.ExtensionDtype):
        return pl.Series(values.name, values.to_numpy())
    if pd.api.types.is_numeric_dtype(values):
        return pl.Series(values.name, values.to_numpy(dtype=float, na_value=np.nan))
    texts = values.astype(object).map(str)
    return pl.Series(values.name, texts, dtype=pl.Enum(sorted(texts.unique())))


@lru_cache(maxsize=1)
def _adapter_class() -> type:
    import polars as pl
    from marginaleffects.classes import ModelVault

    class MixedModelAdapter(_base()):  # type: ignore[misc]
        """A linear or generalized linear mixed model as marginaleffects sees it."""

        def __init__(self, result: Any) -> None:
            design = result.fixed_design()
            frame, response = design.frame, str(result.model.endog_names)
            used = [name for name in frame.columns if any(name in names for names in term_variables(design))]
            if response not in frame.columns:
                frame = frame.assign(**{response: np.asarray(result.model.endog)})
            frame = frame.loc[:, ~frame.columns.duplicated()]
            vault = ModelVault()
            vault.coef = np.asarray(result.params)
            vault.coefnames = np.array(list(result.model.exog_names))
            vault.vcov = np.asarray(result.cov_params())
            vault.modeldata = pl.DataFrame([_column(frame[name]) for name in frame.columns])
            vault.variable_names = [response, *used]
            vault.package = "mvmise_sm"
            # a text would be parsed by another formula language
            vault.formula = lambda data: (None, data)
            self._design = design
            self.df_resid = float(result.df_resid) if result.use_t else np.inf
            super().__init__(result, vault)

        def get_exog(self, newdata: Any) -> pd.DataFrame:
            """New rows as a pandas frame."""
            return pd.DataFrame({name: _pandas(newdata[name]) for name in newdata.columns})

        def get_vcov(self, vcov: Any = True) -> np.ndarray | None:
            """Covariance of the fixed effects; a robust one belongs to ``get_robustcov_results``."""
            if vcov is False or vcov is None:
                return None
            if isinstance(vcov, str):
                raise ValueError(f"vcov={vcov!r}: pass result.get_robustcov_results({vcov!r}, groups=...) instead")
            return self.vault.vcov if vcov is True else np.asarray(vcov)

        def get_df(self) -> float:
            """Degrees of freedom of the tests."""
            return self.df_resid

        def get_predict(self, params: np.ndarray, newdata: Any) -> Any:
            """Means without random effects at other fixed effects."""
            eta = new_exog(self._design, newdata).to_numpy() @ np.asarray(params)
            offset = new_offset(self._design, newdata)
            mean = self.model.model.inverse_link(eta if offset is None else eta + offset)
            rows = pl.Series("rowid", np.arange(len(mean), dtype=np.int32))
            return pl.DataFrame([rows, pl.Series("estimate", np.asarray(mean, dtype=float))])

    return MixedModelAdapter


def _pandas(column: Any) -> Any:
    """A column of polars as pandas' or numpy's."""
    values = column.to_list() if str(column.dtype).startswith(("Enum", "Categorical", "String")) else column.to_numpy()
    return pd.Series(values)
