"""Cumulative link mixed models for ordered categories."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd

from mvmise_sm.core.criteria.parts import Block
from mvmise_sm.core.families.ordinal import Cumulative, threshold_map
from mvmise_sm.design.build import caller_environment
from mvmise_sm.design.coding import keep_columns
from mvmise_sm.exceptions import DataError, OptionError
from mvmise_sm.models.fixed import constant_column
from mvmise_sm.models.generalized import fit_arguments
from mvmise_sm.models.multipart import MultiPartMixedModel
from mvmise_sm.models.rows import complete_response
from mvmise_sm.options import strict_options
from mvmise_sm.results.ordinal import OrdinalResults, OrdinalResultsWrapper

__all__ = ["OrdinalMixedModel"]

_LINKS = Cumulative.links

# more numbers than this that are not whole are measurements, not ratings such as 3.5
_MOST_LEVELS = 30


@strict_options
class OrdinalMixedModel(MultiPartMixedModel):
    """Ordered categories given fixed and random effects: Pr(y <= k) = F(threshold_k - X beta - Z b).

    Parameters
    ----------
    endog : array_like
        Ordered categorical, or numbers whose order is that of the categories (nobs,).
    exog : array_like
        Fixed-effects design (nobs, k_fe); a constant is left out, the thresholds take its place.
    random_effects : array_like, dict or RandomEffects
        As in `GeneralizedLinearMixedModel`.
    link : {"logit", "probit", "cloglog", "loglog"}, optional
        F: logistic, normal, 1 - exp(-exp x), or exp(-exp(-x)).
    threshold : {"flexible", "symmetric", "equidistant"}, optional
        Free thresholds, thresholds symmetric about the middle, or with equal distances.

    Attributes
    ----------
    levels : tuple
        The categories in order.

    Raises
    ------
    DataError
        If there are only two categories, or one of them never occurs.

    References
    ----------
    McCullagh (1980). Regression models for ordinal data. Journal of the Royal Statistical Society B 42.
    """

    title = "Cumulative Link Mixed Model"
    _design_options = {"categorical_response": "levels"}  # noqa: RUF012

    def __init__(self, endog, exog, random_effects=None, *, link="logit", threshold="flexible", **kwargs):
        if link not in _LINKS:
            raise OptionError(f"link must be one of {', '.join(map(repr, _LINKS))}, got {link!r}")
        _refuse_options(kwargs)
        self.link_name, self.threshold = link, threshold
        design = kwargs.get("design")
        if design is not None and design.endog_levels is not None:
            codes, levels = np.asarray(design.endog), list(design.endog_levels)
            for level in _declared(design):
                if level not in levels:
                    raise DataError(f"level {level!r} never occurs; drop it")
        else:
            codes, levels = _coded(endog if design is None else design.endog)
        self.levels = tuple(levels)
        if len(levels) < 3:
            raise DataError(f"the response has {len(levels)} levels; use glmer(..., family='binomial')")
        counts = np.bincount(codes.astype(int), minlength=len(levels))
        if (counts == 0).any():
            raise DataError(f"level {levels[int(np.argmin(counts))]!r} never occurs; drop it")
        try:
            self.threshold_matrix, self._threshold_names = threshold_map(threshold, len(levels) - 1)
        except ValueError as error:
            raise OptionError(str(error)) from None
        labels = [f"{a}|{b}" for a, b in pairwise(levels)]
        self.threshold_labels = labels
        self._threshold_names = self._threshold_names or labels
        if design is not None:
            kwargs["design"] = design = _without_intercept(design, codes)
            endog, exog = design.endog, design.exog
        else:
            endog = codes
            exog = _without_constant(exog)
        super().__init__(endog, exog, random_effects, family=Cumulative(link, len(levels)), **kwargs)
        self._init_keys = [k for k in self._init_keys if k not in ("family", "zero_inflation", "dispersion")]
        self._init_keys.extend(["link", "threshold"])

    @classmethod
    def from_formula(
        cls,
        formula,
        data,
        subset=None,
        drop_cols=None,
        *,
        weights=None,
        offset=None,
        missing="drop",
        groups=None,
        re_formula=None,
        eval_env=None,
        **kwargs,
    ):
        """Create a model from a formula and a frame; parameters as in `MixedModelBase.from_formula`, with ``link`` and
        ``threshold``.

        Examples
        --------
        >>> import numpy as np
        >>> import pandas as pd
        >>> import mvmise_sm as ms
        >>> rng = np.random.default_rng(0)
        >>> judge = np.repeat(np.arange(12), 20)
        >>> x = rng.normal(size=240)
        >>> score = x + rng.normal(size=12)[judge] + rng.logistic(size=240)
        >>> frame = pd.DataFrame({"rating": np.digitize(score, [-1.0, 1.0]), "x": x, "judge": judge})
        >>> ms.clmm("rating ~ x + (1 | judge)", frame).fit().thresholds.index.tolist()
        ['0|1', '1|2']
        """
        _refuse_options(kwargs)
        environment = caller_environment(eval_env)
        options = {"weights": weights, "offset": offset, "missing": missing, "groups": groups, "re_formula": re_formula}
        return super(MultiPartMixedModel, cls).from_formula(
            formula, data, subset, drop_cols, eval_env=environment, **options, **kwargs
        )

    @property
    def link(self):
        """Name of F; the family has the link itself."""
        return self.link_name

    def _more_names(self):
        return list(self._threshold_names)

    def _check_family_response(self):
        pass

    def location_columns(self) -> np.ndarray:
        """The fixed effects' columns and the constant that the thresholds stand for (nobs, k_fe + 1)."""
        return np.column_stack([np.asarray(self.exog, dtype=float), np.ones(len(self.exog))])

    def moved_params(self, columns: np.ndarray) -> np.ndarray:
        """Which parameters (k,) move with some of `location_columns` (k_fe + 1,): the thresholds with the constant."""
        return np.append(columns[:-1], np.full(len(self._threshold_names), columns[-1]))

    def thresholds_of(self, values):
        """Thresholds (m,) for the threshold parameters."""
        return self.threshold_matrix @ np.asarray(values)

    def _blocks(self):
        y, m = self.endog.astype(int), len(self.levels) - 1
        upper = self.threshold_matrix[np.minimum(y, m - 1)]
        lower = self.threshold_matrix[np.maximum(y - 1, 0)]
        # a simulated response may leave a level out
        share = np.clip(np.cumsum(np.bincount(y, minlength=m + 1))[:-1] / len(y), 1e-3, 1.0 - 1e-3)
        share = np.maximum.accumulate(share + 1e-4 * np.arange(m))
        start = np.linalg.lstsq(self.threshold_matrix, self.family.link(share), rcond=None)[0]
        X = np.asarray(self.exog, dtype=float)
        blocks = [
            Block("cond", {0: X}, start=np.zeros(X.shape[1]), offset=self.offset),
            Block("threshold", {1: upper, 2: lower}, start=start),
        ]
        return blocks, 2

    def refit(self, endog, result):
        """Fit a result's model to other codes; the thresholds that a row touches change with its code."""
        codes = complete_response(endog, self.nobs)
        if not np.isin(codes, np.arange(len(self.levels))).all():
            raise DataError(f"the new response must hold codes from 0 to {len(self.levels) - 1}")
        arguments = {
            k: v for k, v in fit_arguments(result.mle_settings).items() if k not in ("curvature", "dispersion")
        }
        return self.with_endog(codes).fit(**arguments, cov_type=result.cov_type, use_t=result.use_t)

    def _result(self, *args, **kwargs):
        return OrdinalResultsWrapper(OrdinalResults(self, *args, **kwargs))

    def _trouble(self, solution):
        return None


def _refuse_options(given):
    """Refuse options of other generalised models, which ordered categories do not have."""
    for name in ("family", "zero_inflation", "dispersion"):
        if given.get(name) is not None:
            raise OptionError(f"models of ordered categories have no {name}; their distribution is that of link=")


def _declared(design):
    """Categories of the response's column; none where it is not a categorical column."""
    dtype = design.frame.dtypes.get(design.endog.name)
    return dtype.categories if isinstance(dtype, pd.CategoricalDtype) else ()


def _coded(endog):
    """Codes (nobs,) and levels of a categorical, or of values in their own order."""
    values = endog if isinstance(endog, pd.Series) else pd.Series(np.asarray(endog))
    if isinstance(values.dtype, pd.CategoricalDtype):
        return values.cat.codes.to_numpy(dtype=float), list(values.cat.categories)
    codes, levels = pd.factorize(values, sort=True)
    if values.dtype.kind == "f" and len(levels) > _MOST_LEVELS and (levels % 1.0 != 0.0).any():
        raise DataError(
            f"the response{'' if values.name is None else f' {values.name!r}'} has {len(levels)} different numbers, "
            "not all of them whole; ratings are ordered categories or numbers for them, pandas.cut makes them"
        )
    shown = [int(v) if isinstance(v, (float, np.floating)) and float(v).is_integer() else v for v in levels]
    return codes.astype(float), shown


def _without_intercept(design, codes):
    """The design without its intercept, which the thresholds absorb, and with codes as response."""
    at = constant_column(design.exog.to_numpy())
    endog = pd.Series(codes, index=design.exog.index, name=design.endog.name)
    if at is None:
        return replace(design, endog=endog, endog_levels=None)
    kept = [j for j in range(design.exog.shape[1]) if j != at]
    exog = design.exog.iloc[:, kept]
    return replace(design, endog=endog, endog_levels=None, exog=exog, model_spec=keep_columns(design.model_spec, kept))


def _without_constant(exog):
    values = np.asarray(exog, dtype=float)
    at = constant_column(values)
    if at is None:
        return exog
    kept = [j for j in range(values.shape[1]) if j != at]
    return exog.iloc[:, kept] if isinstance(exog, pd.DataFrame) else values[:, kept]
