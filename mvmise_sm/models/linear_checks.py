"""Responses and designs that leave a linear mixed model without a likelihood: each is refused with a sentence."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np

from mvmise_sm.exceptions import DataError

__all__ = ["check_design", "check_response", "check_solution", "computing"]

_LARGEST = 1e150  # squares must stay representable
_ROUNDING = 16 * np.finfo(float).eps
_CLOSE = 1e-7  # residual sum of squares over its bound from the range of y, below which a fit is checked


@contextmanager
def computing(model):
    """Turn arithmetic that breaks down inside into a `DataError` that says why."""
    try:
        yield
    except np.linalg.LinAlgError as error:
        raise DataError(_uncomputable(model)) from error
    except ZeroDivisionError as error:
        if model.priors is not None:  # a user's prior may divide
            raise
        raise DataError(_uncomputable(model)) from error


def _uncomputable(model):
    if model.priors is None:
        return (
            f"fixed and random effects reproduce the response {model.endog_names!r} exactly or nearly so: the "
            "likelihood cannot be computed"
        )
    return (
        f"the penalised likelihood of the response {model.endog_names!r} cannot be computed: a prior's density is zero "
        f"or not a number where the fit looks, or the model reproduces the response exactly"
    )


def check_response(y, offset, name):
    """Refuse a response (nobs,) that does not vary or whose squares are out of range; `name` is its column.

    Raises
    ------
    DataError
    """
    low, high = y.min(), y.max()
    if low == high and offset is None:
        raise DataError(f"the response {name!r} is constant ({low:g} in all {len(y)} rows); there is nothing to fit")
    size = max(-low, high)
    if size > _LARGEST or size < 1.0 / _LARGEST:
        raise DataError(
            f"the response {name!r} has {size:.3g} as its largest absolute value; rescale it to between "
            f"{1 / _LARGEST:g} and {_LARGEST:g}"
        )


def check_design(model):
    """Refuse as many fixed-effects columns as rows, which leave nothing for the residual variance.

    Raises
    ------
    DataError
        Unless the residual variance is known or a prior bounds it.
    """
    n, p = model.exog.shape
    priors = model.priors
    if p < n or (priors is not None and (priors.fixef or priors.resid is not None)):
        return
    raise DataError(
        f"the fixed effects have {p} independent columns for {n} rows; there must be fewer columns than rows"
        f"{_widest(model)}"
    )


def _widest(model):
    """Sentence part that names the term with most columns, where a formula knows it."""
    spec = getattr(model.data, "model_spec", None)
    if spec is None:
        return ""
    widths = {name: at.stop - at.start for name, at in spec.term_name_slices.items()}
    widest = max(widths, key=lambda name: widths[name])
    return f"; the term {widest!r} alone has {widths[widest]}" if widths[widest] > 1 else ""


def check_solution(model, solution):
    """Refuse a fit without residual variation, and one whose estimates rounding has destroyed.

    Where random effects are very much larger than the residual standard deviation, the normal equations cancel; then
    the residuals at the estimates are larger than the penalised residual sum of squares allows.

    Raises
    ------
    DataError
    """
    y, weights, name = model.endog, model.weights, model.endog_names
    if not np.isfinite(solution.criterion):
        raise DataError(_uncomputable(model))
    if model.priors is not None and model.priors.resid is not None:
        return
    largest = 1.0 if weights is None else weights.max()
    if solution.r2 > _CLOSE * largest * len(y) * (0.5 * np.ptp(y)) ** 2:
        return
    fixed = y - model.exog @ solution.beta if model.offset is None else y - model.exog @ solution.beta - model.offset
    rounding = _squares(np.full_like(y, _ROUNDING * np.abs(y).max()), weights)
    if _squares(fixed, weights) <= rounding:
        raise DataError(f"the fixed effects reproduce the response {name!r} exactly; there is no residual variance")
    residual = fixed - model.random_effects.linear(solution.b)
    if solution.r2 <= rounding or not _squares(residual, weights) <= 1.01 * solution.r2:
        raise DataError(
            f"fixed and random effects reproduce the response {name!r} exactly or nearly so: the residual variance is "
            f"too small beside the random effects to be computed"
        )


def _squares(values, weights):
    return float(values @ values) if weights is None else float((weights * values) @ values)
