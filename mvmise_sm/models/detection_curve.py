"""``detection_curve``: the mechanism of single values, estimated once over many features."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd

from mvmise_sm.blame import refuse_complex
from mvmise_sm.caller import warn
from mvmise_sm.design.build import as_frame, caller_environment
from mvmise_sm.exceptions import ConvergenceWarning, DataError, OptionError
from mvmise_sm.models.value_selection import ValueSelectionModel
from mvmise_sm.options import strict
from mvmise_sm.results.detection_curve import METHODS, DetectionCurve
from mvmise_sm.selection.batch import FeatureBatch
from mvmise_sm.selection.curve import (
    OFFSET_MOVE,
    OFFSET_ROUNDS,
    BatchObjective,
    CurveObjective,
    FeatureProfile,
    fit_curve,
    observed_normal,
)
from mvmise_sm.selection.mechanism_check import find_mechanism
from mvmise_sm.selection.units import Slot
from mvmise_sm.selection.value import ValueProblem

__all__ = ["detection_curve"]

STAND_IN = "feature__0"
# logistic and normal distribution functions are closest at this ratio of their scales
LOGIT_OVER_PROBIT = 1.702
# start of the common relative standard deviation
FIRST_RATIO = 0.7


@strict
def detection_curve(
    formula,
    data,
    features,
    *,
    mechanism="logit",
    offsets=None,
    method="adjusted",
    theta="common",
    n_features=500,
    rng=0,
    n_jobs=1,
    eval_env=None,
):
    """Estimate one detection curve over many features.

    One feature does not identify the mechanism of its missing values; hundreds together do. Use the result as
    ``lmer_mnar(..., mechanism=curve)`` or ``scan(..., model="lmer_mnar", mechanism=curve)``.

    Parameters
    ----------
    formula : str
        Design of every feature, ``"~ condition + (1 | subject)"``, with one scalar random term.
    data : DataFrame
        One row per run.
    features : sequence of str or DataFrame
        Columns of `data`, or the features themselves, rows as in `data`; NaN is missing.
    mechanism : {"logit", "probit"} or Mechanism, optional
        F of the probability of being missing.
    offsets : {None, "run"}, optional
        ``"run"`` adds one number per run to the predictor, with sum zero, from the profile likelihood.
    method : {"adjusted", "profile", "observed-normal"}, optional
        The sum of restricted likelihoods; of likelihoods, which is biased by the features' own parameters; or the
        closed form of Li and Smyth (2023) for the logit, which is more so and needs no iterations.
    theta : {"common", None}, optional
        Whether all features share lme4's relative standard deviation of the random term; with few runs that of a single
        feature is often estimated as zero, and its intervals are too short.
    n_features : int, optional
        Largest number of features to use; they are drawn at random.
    rng : int or numpy.random.Generator, optional
        For that draw.
    n_jobs : int, optional
        Processes; with a common theta all features are evaluated together in one.
    eval_env : int, mapping or EvalEnvironment, optional
        Where formula expressions look for variables that are not columns.

    Returns
    -------
    DetectionCurve

    Raises
    ------
    OptionError, DataError
        If an option is unknown, fewer than ten features can be used, or nothing is missing.
    """
    if method not in METHODS:
        raise OptionError(f"method must be one of {METHODS}, got {method!r}")
    if offsets not in (None, "run"):
        raise OptionError(f"offsets must be None or 'run', got {offsets!r}")
    if theta not in ("common", None):
        raise OptionError(f"theta must be 'common' or None, got {theta!r}")
    F = find_mechanism(mechanism)
    frame, columns = _read(data, features)
    model = _template(formula, frame, columns, caller_environment(eval_env))
    refuse_complex("features", frame[columns])
    Y = frame[columns].to_numpy(dtype=float, na_value=np.nan)
    table = _table(Y, columns, np.asarray(model.exog, dtype=float))
    if np.isinf(Y).any():
        raise DataError("features have infinite values; write missing values as NaN")
    if not np.isnan(Y).any():
        raise DataError("no value is missing; there is no curve to estimate")
    usable = np.flatnonzero(table["used"])
    if usable.size < 10:
        raise DataError(f"{usable.size} features have enough seen values for this design; a curve needs at least 10")
    if usable.size > n_features:
        usable = np.sort(np.random.default_rng(rng).choice(usable, int(n_features), replace=False))
    table["used"] = np.isin(np.arange(len(table)), usable)
    first = _start(Y[:, usable], np.asarray(model.exog, dtype=float), F)
    if method == "observed-normal":
        return _closed_form(first, F, table)
    with _workers(n_jobs) as mapped:
        return _estimated(model, Y, usable, table, F, first, offsets, method, theta, mapped)


def _estimated(model, Y, usable, table, F, first, offsets, method, theta, mapped):
    """The curve by maximisation, alternating with the offsets of the runs."""
    common = theta == "common"
    chosen, X = Y[:, usable], np.asarray(model.exog, dtype=float)
    start = np.concatenate([first, [np.log(FIRST_RATIO)]]) if common else first
    offset = np.zeros(model.nobs)
    if model.offset is not None and common:
        raise OptionError("a detection curve with a common theta takes no offset of the response; use theta=None")
    if offsets and not common:
        raise OptionError("offsets='run' goes with theta='common'")
    if common:
        term = model.random_effects.terms[0]
        batch = FeatureBatch(chosen, X, term.factor.codes, F, z=term.columns[0], offset=offset)
        objective: BatchObjective | CurveObjective = BatchObjective(batch, method == "adjusted")
        if offsets:
            start, offset = _with_offsets(objective, start, chosen)
    else:
        objective = CurveObjective(
            _profiles(model, chosen, Slot(F, single=True, always=True), method == "adjusted"), mapped
        )
    found = fit_curve(objective, start, chosen)
    values = objective.values(found.theta)
    table = table.copy()
    table.loc[table["used"], "llf"] = values
    cov = found.covariance()
    if not found.converged:
        warn(f"the curve has not converged: {found.message}", ConvergenceWarning)
    names = ["Intercept", "y"]
    labels = model.data.row_labels
    return DetectionCurve(
        F,
        pd.Series(found.theta[:2], names),
        pd.Series(np.sqrt(np.diag(cov)[:2]), names),
        pd.DataFrame(cov[:2, :2], names, names),
        float(np.exp(found.theta[2])) if common else None,
        pd.Series(offset, labels, name="offset") if offsets else None,
        table,
        method,
        float(found.value),
        bool(found.converged),
    )


def _read(data, features):
    """The frame with all features as columns, and their names."""
    frame = as_frame(data)
    if isinstance(features, pd.DataFrame):
        if len(features) != len(frame):
            raise DataError(f"features has {len(features)} rows and data has {len(frame)}")
        columns = list(features.columns)
        frame = pd.concat(
            [frame.drop(columns=[c for c in columns if c in frame.columns]), features.set_axis(frame.index)], axis=1
        )
    else:
        columns = [features] if isinstance(features, str) else list(features)
    unknown = [c for c in columns if c not in frame.columns]
    if unknown:
        raise OptionError(f"feature {unknown[0]!r} is not a column of the data")
    return frame, columns


def _template(formula, frame, columns, namespace):
    """The model of the design on a stand-in response."""
    rhs = formula.partition("~")[2] if "~" in formula else formula
    shared = frame.drop(columns=columns).copy().assign(**{STAND_IN: np.arange(len(frame)) % 2.0})
    model = ValueSelectionModel.from_formula(f"{STAND_IN} ~ {rhs}", shared, missing="raise", eval_env=namespace)
    terms = model.random_effects.terms
    if len(terms) != 1 or terms[0].q != 1:
        raise OptionError("a detection curve needs one scalar random term such as '(1 | subject)'")
    return model


def _table(Y, columns, X):
    """Features with their counts, and which have enough values for the design."""
    seen = np.isfinite(Y)
    p = X.shape[1]
    used = [n >= p + 2 and np.linalg.matrix_rank(X[own]) == p for own, n in zip(seen.T, seen.sum(axis=0), strict=True)]
    return pd.DataFrame(
        {"feature": columns, "n": len(Y), "n_missing": (~seen).sum(axis=0), "llf": np.nan, "used": np.array(used)}
    )


def _start(Y, X, F):
    """The closed form in the unit of the mechanism."""
    seen = np.isfinite(Y)
    variance = np.empty(Y.shape[1])
    for j, own in enumerate(seen.T):
        beta, *_ = np.linalg.lstsq(X[own], Y[own, j], rcond=None)
        variance[j] = ((Y[own, j] - X[own] @ beta) ** 2).sum() / max(own.sum() - X.shape[1], 1)
    phi = observed_normal(np.nanmean(Y, axis=0), variance, seen.sum(axis=0).astype(float), np.full(Y.shape[1], len(Y)))
    if F.name == "logit":
        return phi
    # the same level and the same slope where half of the values are missing
    return phi / LOGIT_OVER_PROBIT if F.upper == np.inf else np.array([F.start(0.3) - np.nanmean(Y) * phi[1], phi[1]])


def _closed_form(phi, F, table):
    if F.name != "logit":
        raise OptionError("method='observed-normal' is a closed form for the logit; use method='adjusted'")
    names = ["Intercept", "y"]
    nothing = pd.DataFrame(np.nan, names, names)
    return DetectionCurve(
        F, pd.Series(phi, names), pd.Series(np.nan, names), nothing, None, None, table, "observed-normal", np.nan, True
    )


def _with_offsets(objective, start, Y):
    """The curve and the runs' offsets take turns; returns where both rest."""
    offset = np.zeros(len(Y))
    for _ in range(OFFSET_ROUNDS):
        start = fit_curve(objective, start, Y, maxiter=4, information=False).theta
        moved, se = objective.offset_step(start)
        offset = offset + moved
        objective.batch.set_offset(offset)
        if np.abs(moved / se).max() < OFFSET_MOVE:
            break
    return start, offset


def _profiles(model, Y, slot, adjusted):
    """Every feature with a theta of its own."""
    X = np.asarray(model.exog, dtype=float)
    return [FeatureProfile(ValueProblem(y, X, model.random_effects, slot, offset=model.offset), adjusted) for y in Y.T]


class _workers:
    """``map``, or joblib's over processes."""

    def __init__(self, n_jobs):
        self.n_jobs = n_jobs
        self._pool = None

    def __enter__(self):
        if self.n_jobs in (None, 1):
            return map
        from joblib import Parallel

        self._pool = Parallel(n_jobs=self.n_jobs)
        self._pool.__enter__()
        return partial(_in_pool, self._pool)

    def __exit__(self, *error):
        if self._pool is not None:
            self._pool.__exit__(*error)


def _in_pool(pool, function, tasks):
    from joblib import delayed

    return pool(delayed(function)(task) for task in tasks)
