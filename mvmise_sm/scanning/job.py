"""One design, thousands of features: fit a model to each and collect what the fits say in one table."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mvmise_sm import __version__
from mvmise_sm.caller import warn
from mvmise_sm.design.build import as_frame, caller_environment
from mvmise_sm.exceptions import DataWarning, FormulaError, OptionError, ScanError
from mvmise_sm.options import strict
from mvmise_sm.scanning.batches import Job, make_job
from mvmise_sm.scanning.content import digest
from mvmise_sm.scanning.features import FeatureTable, feature_digest, looks_raw, read_long, read_wide
from mvmise_sm.scanning.result import COLUMNS, ScanResult, summary_of_failures
from mvmise_sm.scanning.rows import Rows, empty_rows
from mvmise_sm.scanning.store import PartFiles
from mvmise_sm.scanning.table import finished, qvalues
from mvmise_sm.scanning.templates import (
    GENERALIZED,
    LEAST_SQUARES,
    LINEAR,
    MISSING,
    SELECTION,
    Blueprint,
    kind_of,
    names_in_text,
)

__all__ = ["COLUMNS", "ScanResult", "qvalues", "scan"]

# features that a process gets at a time where they are fitted one by one
CHUNK = 64
_DDF = ("auto", "satterthwaite", "kenward-roger", None)
_MODERATE = {None: None, False: None, True: "contrast", "contrast": "contrast", "residual": "residual"}


@strict
def scan(
    formula: str,
    data: Any,
    features: Any = None,
    model: Any = "mvmise_b",
    *,
    terms: str | Sequence[str] | None = None,
    contrasts: Mapping[str, Any] | str | None = None,
    tests: bool | str | Sequence[str] | None = None,
    ddf: str | None = "auto",
    moderate: bool | str | None = None,
    weights: Any = None,
    variance_shares: bool = False,
    reml: bool = True,
    by: str | None = None,
    outcome: str | None = None,
    column: str | None = None,
    sample: str | Sequence[str] | None = None,
    samples: Any = None,
    n_jobs: int | None = None,
    progress: bool = False,
    output: str | Path | None = None,
    q_method: str = "bh",
    fit_options: dict | None = None,
    eval_env: Any = None,
    **model_options: Any,
) -> ScanResult:
    """Fit one model to many features.

    Parameters
    ----------
    formula : str
        Design of all fits. What stands left of the ``~`` is replaced by each feature and may be left out:
        ``"~ x + (1 | batch)"``.
    data : DataFrame
        One row per sample; or, with `by`, a long table with one row per sample, feature and outcome.
    features : sequence, mapping or DataFrame, optional
        Columns to use as outcomes, one fit each; an entry that is itself a list of columns is fitted jointly
        (selection models) or stacked (other models), and lists may differ in length. A mapping gives such groups
        names. A DataFrame holds the features itself, rows as in `data`.
    model : str or class, optional
        Entry point (``"lmer"``, ``"blmer"``, ``"glmer"``, ``"bglmer"``, ``"glmer_nb"``, ``"mvmise_b"``,
        ``"mvmise_e"``), ``"ols"`` for least squares without random effects, or a model class.
    terms : str or list of str, optional
        Fixed effects to report; all by default, except intercepts of single outcomes.
    contrasts : dict or str, optional
        Name -> combination of the fixed effects, text as in ``t_test`` or numbers in the order of the design; or
        ``"pairwise:f"``, all differences of marginal means of the factor f. They are reported instead of the fixed
        effects.
    tests : bool, str or list of str, optional
        Terms to test jointly, all where True; in ``tests`` of the result.
    ddf : {"auto", "satterthwaite", "kenward-roger", None}, optional
        Degrees of freedom of linear mixed models. ``"auto"`` is Kenward and Roger's for REML without priors, else
        Satterthwaite's; None the normal distribution.
    moderate : {None, "contrast", "residual"}, optional
        Squeeze the variances of all features towards a common value (`squeeze_variances`): the variance of each
        contrast (True means this), or the residual variance, which is not calibrated for effects between groups.
        For ``model="lmer"`` and ``"ols"``.
    weights : str, Series, DataFrame or array_like, optional
        Weights of the samples (a column of `data`, or one number per row), or of every cell (a frame or an array like
        `features`); a weight of 0 leaves a cell out.
    variance_shares : bool, optional
        Whether to report the shares of variance of linear models, in ``variance_shares`` of the result.
    reml : bool, optional
        REML or maximum likelihood, for linear mixed models.
    by, outcome, column : str, optional
        Columns of a long table: one fit per value of `by`; `outcome` holds the values, `column` tells the outcomes of
        one fit apart. Where a row is absent the value is missing.
    sample : str or list of str, optional
        Columns of a long table that make a sample.
    samples : DataFrame, optional
        The complete sample table; by default the distinct samples of the long table.
    n_jobs : int, optional
        Processes, for `joblib`; by default those of ``joblib.parallel_config``, which also sends the scan to a Dask or
        Ray cluster.
    progress : bool, optional
        Whether to show a progress bar.
    output : path, optional
        Parquet file. Results are written beside it as they arrive (``<output>.parts``) and merged at the end; a scan
        that was stopped goes on where it ended when it is called again.
    q_method : {"bh", "storey"}, optional
        q-values by term: Benjamini-Hochberg, or Storey's with the share of true nulls estimated from p-values above
        0.5.
    fit_options : dict, optional
        Arguments of ``fit``.
    eval_env : int, mapping or EvalEnvironment, optional
        Where formula expressions look for variables that are not columns; the caller by default.
    **model_options
        Arguments of the entry point.

    Returns
    -------
    ScanResult
        A row for every feature and term. Failed fits are rows with a message, never exceptions.

    Raises
    ------
    OptionError, FormulaError, DataError
        If the design itself or an argument is wrong.
    ScanError
        If a worker process or the disk fails, or another process writes to `output`.
    """
    moderation = _checked_options(q_method, ddf, moderate)
    kind = kind_of(model)
    _check_kind(model, kind, ddf, moderation, variance_shares, weights)
    environment = caller_environment(eval_env)
    rhs = _right_hand_side(formula)
    if by is None:
        _refuse_long_options(outcome=outcome, sample=sample, samples=samples)
        if features is None:
            raise OptionError("features is needed: the columns to use as outcomes; or by=, outcome= and sample=")
        table: FeatureTable = read_wide(as_frame(data), features, weights)
    else:
        if features is not None:
            raise OptionError("features and by exclude each other: a long table has its features in a column")
        frame = as_frame(data)
        mentioned = f"{rhs} {model_options.get('missing_cov', '')} {model_options.get('offset', '')}"
        used = [c for c in names_in_text(mentioned, frame.columns) if c not in (by, outcome, column)]
        grid = None if samples is None else as_frame(samples)
        table = read_long(frame, by, outcome, column, sample, grid, weights, used)
    if kind != GENERALIZED and looks_raw(table):
        warn("values look like raw intensities; take log2", DataWarning)
    options = dict(fit_options or {})
    blueprint = Blueprint(
        rhs,
        model,
        kind,
        environment,
        dict(model_options),
        options,
        {"terms": terms, "contrasts": contrasts, "tests": tests, "shares": variance_shares},
        ddf,
        _reml(options, reml, kind),
        table.shared_weights,
        os.getpid(),
    )
    job = make_job(blueprint, table, column)
    if output is None:
        run = _Run(job, table, n_jobs, progress, None)
        raw = run.rows(table.names, 0)
        result = run.finish(raw, moderation, q_method)
    else:
        settings = [blueprint.model_options, blueprint.fit_options, blueprint.reported, ddf, blueprint.reml, column]
        details = {"version": __version__, "options": digest(*settings), **job.identity}
        with PartFiles(Path(output), [rhs.strip(), _model_name(model), details]) as store:
            run = _Run(job, table, n_jobs, progress, store)
            done = store.read()
            store.check_features(done, {name: partial(feature_digest, table, name) for name in table.names})
            known = set(done["feature"])
            waiting = [name for name in table.names if name not in known]
            raw = pd.concat([done, run.rows(waiting, len(known))], ignore_index=True) if waiting else done
            result = run.finish(raw, moderation, q_method)
            if waiting or not store.path.exists():
                store.merge(result, raw)
    summary = summary_of_failures(result)
    if summary:
        print(summary, file=sys.stderr)
    return result


@dataclass(frozen=True, eq=False)
class _Run:
    """A scan under way.

    Attributes
    ----------
    job : Job
    table : FeatureTable
    n_jobs : int or None
    progress : bool
    store : PartFiles or None
    """

    job: Job
    table: FeatureTable
    n_jobs: int | None
    progress: bool
    store: PartFiles | None

    def rows(self, waiting: list[str], n_done: int) -> pd.DataFrame:
        """Rows of the features `waiting`; what arrives is stored at once.

        Raises
        ------
        KeyboardInterrupt
            With the sentence how to go on.
        ScanError
            If a worker process has died.
        """
        from tqdm import tqdm

        parts = [empty_rows()]
        n_total, arrived = n_done + len(waiting), n_done
        bar = tqdm(total=n_total, initial=n_done, disable=not self.progress, desc="features")
        chunks = self.job.chunks(self.table, waiting, CHUNK)
        try:
            for part in self._parallel(self.job.task, chunks):
                names = list(pd.unique(part["feature"]))
                if self.store is not None:
                    part = pd.concat([part, _digests(self.table, names)], ignore_index=True)
                    self.store.write(part)
                arrived += len(names)
                bar.update(len(names))
                parts.append(part)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"the scan was stopped after {arrived:,} of {n_total:,} features; {self._on()}"
            ) from None
        except BrokenExecutor as error:
            raise ScanError(
                f"a worker process has died after {arrived:,} of {n_total:,} features, perhaps for lack of memory; "
                f"use fewer n_jobs; {self._on()}"
            ) from error
        finally:
            bar.close()
        return pd.concat(parts, ignore_index=True)

    def _on(self) -> str:
        if self.store is None:
            return "with output= it could go on"
        return f"call scan again with output={str(self.store.path)!r} to go on"

    def _parallel(self, task: Callable, chunks: Iterable) -> Iterator[pd.DataFrame]:
        """Results of the chunks in order; in this process where there is one only."""
        from joblib import Parallel, delayed

        # a generator of tasks and of results: neither all data nor all results are held by the workers
        runner = Parallel(n_jobs=self.n_jobs, return_as="generator", pre_dispatch="2*n_jobs")
        yield from runner(delayed(task)(chunk) for chunk in chunks)

    def finish(self, raw: pd.DataFrame, moderate: str | None, q_method: str) -> ScanResult:
        """The table."""

        def units(theta: np.ndarray) -> pd.DataFrame:
            fitted = set(raw[raw["kind"] == "sigma2"]["feature"])
            names = [name for name in self.table.names if name in fitted]
            chunks = self.job.chunks(self.table, names, CHUNK)
            parts = list(self._parallel(partial(self.job.units, theta=theta), chunks))
            return pd.concat(parts, ignore_index=True)

        return finished(
            raw, self.table.names, ragged=self.table.ragged, moderate=moderate, q_method=q_method, units=units
        )


def _digests(table: FeatureTable, names: list[str]) -> pd.DataFrame:
    """Rows that tell whether a feature's data are the same when the scan goes on."""
    out = Rows()
    for name in names:
        out.add(name, "digest", [""], [np.nan], [np.nan], [np.nan], message=feature_digest(table, name))
    return out.frame()


def _checked_options(q_method: str, ddf: str | None, moderate: bool | str | None) -> str | None:
    """What `moderate` means."""
    if q_method not in ("bh", "storey"):
        raise OptionError(f"q_method must be 'bh' or 'storey', got {q_method!r}")
    if ddf not in _DDF:
        raise OptionError(f"ddf must be 'auto', 'satterthwaite', 'kenward-roger' or None, got {ddf!r}")
    if not isinstance(moderate, (str, bool, type(None))) or moderate not in _MODERATE:
        raise OptionError(f"moderate must be None, 'contrast' or 'residual', got {moderate!r}")
    return _MODERATE[moderate]


def _check_kind(
    model: Any, kind: str, ddf: str | None, moderate: str | None, variance_shares: bool, weights: Any
) -> None:
    """Refuse options that the kind of model does not have."""
    if moderate is not None and (kind not in (LINEAR, LEAST_SQUARES) or model == "blmer"):
        raise OptionError("moderate is defined for model='lmer' and 'ols'; leave it out")
    if kind in (GENERALIZED, SELECTION):
        if ddf != "auto" and not (ddf is None and kind == GENERALIZED):
            raise OptionError("ddf is defined for model='lmer' and 'ols'; leave it out")
        if variance_shares:
            raise OptionError("variance_shares is defined for model='lmer' and 'ols'; leave it out")
    if kind == MISSING and ddf not in ("auto", None, "satterthwaite"):
        raise OptionError("model='lmer_mnar' has Satterthwaite's degrees of freedom; leave ddf out")
    if kind in (SELECTION, MISSING) and weights is not None:
        raise OptionError("selection models take no weights")


def _refuse_long_options(**given: Any) -> None:
    extra = [name for name, value in given.items() if value is not None]
    if extra:
        raise OptionError(f"{extra[0]} belongs to a long table; say with by= what its features are")


def _right_hand_side(formula: str) -> str:
    """What stands right of the tilde."""
    if not isinstance(formula, str) or "~" not in formula:
        raise FormulaError(f"formula {formula!r} has no '~'; write for example '~ x + (1 | batch)'")
    return formula.partition("~")[2]


def _reml(options: dict, reml: bool, kind: str) -> bool:
    """REML or not, wherever it is said; it is taken out of the options of `fit`."""
    if kind not in (LINEAR, MISSING):
        if reml is not True:
            raise OptionError("reml is defined for model='lmer' and 'lmer_mnar'; leave it out")
        return True
    value = options.pop("reml", reml)
    if not isinstance(value, (bool, np.bool_)):
        raise OptionError(f"reml must be True or False, got {value!r}")
    return bool(value)


def _model_name(model: Any) -> str:
    return model if isinstance(model, str) else model.__name__
