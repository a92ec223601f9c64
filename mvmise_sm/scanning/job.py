"""One design, thousands of features: fit a model to each and collect the fixed effects in one table."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mvmise_sm.api import find
from mvmise_sm.caller import warn
from mvmise_sm.design.build import as_frame, caller_environment
from mvmise_sm.exceptions import DataError, DataWarning, OptionError
from mvmise_sm.options import strict

__all__ = ["ScanResult", "qvalues", "scan"]

COLUMNS = ["feature", "term", "estimate", "se", "z", "p", "q", "converged", "message"]
PLACEHOLDER = "feature__"
CHUNK = 64


class ScanResult(pd.DataFrame):
    """The table of a scan: a DataFrame with columns ``feature, term, estimate, se, z, p, q, converged, message``.

    A feature that could not be fitted is one row with its message, no term and no numbers.
    """

    @property
    def _constructor(self):
        return ScanResult

    def plot_volcano(self, term=None, *, alpha=0.05, ax=None):
        """Draw -log10 p over the estimate of one term; returns the Axes.

        Parameters
        ----------
        term : str, optional
            By default the only term besides the intercept.
        alpha : float, optional
            Features with a q-value below it are highlighted.
        ax : matplotlib Axes, optional
        """
        known = [t for t in pd.unique(self["term"].dropna()) if t not in ("Intercept", "const")]
        if term is None and len(known) == 1:
            term = known[0]
        if term not in set(self["term"].dropna()):
            raise OptionError(f"term must be one of {known}, got {term!r}")
        if ax is None:
            from matplotlib import pyplot as plt

            _, ax = plt.subplots()
        rows = self[(self["term"] == term) & self["p"].notna()]
        hit = (rows["q"] < alpha).to_numpy()
        height = -np.log10(np.maximum(rows["p"].to_numpy(), 1e-300))
        ax.scatter(rows["estimate"][~hit], height[~hit], s=8, color="grey", label=f"q >= {alpha:g}")
        ax.scatter(rows["estimate"][hit], height[hit], s=10, color="tab:red", label=f"q < {alpha:g}")
        ax.set_xlabel(f"estimate of {term}")
        ax.set_ylabel("-log10 p")
        ax.legend()
        return ax


@strict
def scan(
    formula,
    data,
    features,
    model="mvmise_b",
    *,
    terms=None,
    n_jobs=None,
    progress=False,
    output=None,
    q_method="bh",
    fit_options=None,
    eval_env=None,
    **model_options,
):
    """Fit one model to many features.

    Parameters
    ----------
    formula : str
        Design of all fits. What stands left of the ``~`` is replaced by each feature and may be left out:
        ``"~ x + (1 | batch)"``.
    data : DataFrame
        One row per sample.
    features : sequence, mapping or DataFrame
        Columns to use as outcomes, one fit each; an entry that is itself a list of columns is fitted jointly
        (selection models). A mapping gives such groups names. A DataFrame holds the features itself, rows as in `data`.
    model : str or class, optional
        Entry point (``"lmer"``, ``"blmer"``, ``"glmer"``, ``"bglmer"``, ``"glmer_nb"``, ``"mvmise_b"``,
        ``"mvmise_e"``) or a model class.
    terms : str or list of str, optional
        Fixed effects to report; all by default.
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
    """
    if q_method not in ("bh", "storey"):
        raise OptionError(f"q_method must be 'bh' or 'storey', got {q_method!r}")
    frame, groups = _features(as_frame(data), features)
    text = formula if formula.partition("~")[0].strip() else f"{PLACEHOLDER} {formula.strip()}"
    job = FeatureFits(
        text.partition("~")[2],
        model,
        tuple([terms] if isinstance(terms, str) else terms) if terms is not None else None,
        dict(fit_options or {}),
        dict(model_options),
        caller_environment(eval_env),
    )
    shared = frame[[c for c in frame.columns if c not in set().union(*groups.values())]]
    job = job.prepared(shared, next(iter(groups.values())))
    store = PartFiles(Path(output), job.signature()) if output is not None else None
    done = store.read() if store is not None else []
    finished = set().union(*(set(part["feature"]) for part in done)) if done else set()
    waiting = {name: columns for name, columns in groups.items() if name not in finished}
    parts = [*done, *_run(job, frame, waiting, n_jobs, progress, store, len(finished))]
    rows = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=COLUMNS)
    position = {name: i for i, name in enumerate(groups)}
    rows = rows[rows["feature"].isin(position)]
    order = np.argsort(rows["feature"].map(position).to_numpy(), kind="stable")
    rows = rows.iloc[order].reset_index(drop=True)
    rows["q"] = rows.groupby("term", group_keys=False)["p"].transform(lambda p: qvalues(p.to_numpy(), q_method))
    result = ScanResult(rows[COLUMNS])
    if store is not None:
        store.merge(result, complete=len(set(rows["feature"])) == len(groups))
    return result


def qvalues(p: np.ndarray, method: str = "bh") -> np.ndarray:
    """q-values of p-values; NaN stays NaN and does not count.

    Parameters
    ----------
    p : array_like, (m,)
    method : {"bh", "storey"}, optional
        Benjamini and Hochberg (1995), or Storey (2002) with ``pi0 = #{p > 0.5} / (0.5 m)``, at most one.

    Returns
    -------
    ndarray, (m,)
    """
    p = np.asarray(p, dtype=float)
    out = np.full(p.shape, np.nan)
    known = np.flatnonzero(~np.isnan(p))
    m = known.size
    if not m:
        return out
    order = known[np.argsort(p[known])]
    stepped = p[order] * m / np.arange(1, m + 1)
    out[order] = np.minimum(np.minimum.accumulate(stepped[::-1])[::-1], 1.0)
    if method == "storey":
        # one more than counted keeps the estimate of the nulls away from zero
        out *= min(1.0, (1.0 + (p[known] > 0.5).sum()) / (0.5 * m))
    return out


def _features(frame: pd.DataFrame, features) -> tuple[pd.DataFrame, dict[str, list[str]]]:
    """The frame with all features in it, and the columns of each."""
    if isinstance(features, pd.DataFrame):
        if len(features) != len(frame):
            raise DataError(f"features has {len(features)} rows and data has {len(frame)}")
        if not features.index.equals(frame.index):
            raise DataError("features is a frame whose index differs from that of the data")
        double = [c for c in features.columns if c in frame.columns]
        frame = pd.concat([frame.drop(columns=double), features], axis=1)
        features = list(features.columns)
    if isinstance(features, str):
        features = [features]
    if isinstance(features, Mapping):
        groups = {str(name): [c] if isinstance(c, str) else list(c) for name, c in features.items()}
    elif isinstance(features, (Sequence, pd.Index, np.ndarray)):
        listed = [[c] if isinstance(c, str) or not isinstance(c, (list, tuple)) else list(c) for c in features]
        groups = {"+".join(str(c) for c in columns): columns for columns in listed}
    else:
        raise OptionError(f"features must be a list, a mapping or a frame, got {type(features).__name__}")
    if not groups or not all(groups.values()):
        raise OptionError("features is empty")
    unknown = [c for columns in groups.values() for c in columns if c not in frame.columns]
    if unknown:
        raise OptionError(f"feature {unknown[0]!r} is not a column of the data")
    return frame, groups


@dataclass(frozen=True, eq=False)  # hashed by identity: Dask looks tasks up by their function
class FeatureFits:
    """Fits the same model to one feature after the other; pickles, so that it can run in any process.

    Attributes
    ----------
    rhs : str
        Right-hand side of the formula.
    model : str or class
    terms : tuple of str or None
    fit_options, model_options : dict
    namespace : EvalEnvironment or dict
    template : model or None
        Carries the design; features replace its outcomes.
    shared : DataFrame
        The columns that are no features.
    """

    rhs: str
    model: Any
    terms: tuple[str, ...] | None
    fit_options: dict
    model_options: dict
    namespace: Any = field(repr=False)
    template: Any = field(default=None, repr=False)
    shared: Any = field(default=None, repr=False)

    def signature(self) -> str:
        """Text that tells scans with different results apart."""
        model = self.model if isinstance(self.model, str) else self.model.__name__
        return json.dumps([self.rhs, str(model), self.terms, repr(self.fit_options), repr(self.model_options)])

    def _build(self, frame: pd.DataFrame, columns: list[str]):
        entry = find(self.model) if isinstance(self.model, str) else self.model.from_formula
        names = [f"{PLACEHOLDER}{k}" for k in range(len(columns))]
        frame = frame.rename(columns=dict(zip(columns, names, strict=True)))
        text = f"{' + '.join(names)} ~ {self.rhs}"
        return entry(text, frame, eval_env=self.namespace, **self.model_options)

    def prepared(self, shared: pd.DataFrame, columns: list[str]) -> FeatureFits:
        """Evaluate the design once, on outcomes that no fit will see."""
        known = {"lmer", "blmer", "glmer", "bglmer", "glmer_nb", "mvmise_b", "mvmise_e"}
        if isinstance(self.model, str) and self.model not in known:
            raise OptionError(f"model must be one of {sorted(known)} or a class, got {self.model!r}")
        # alternating values pass for counts and for binary responses too
        stand_in = pd.DataFrame(
            np.tile((np.arange(len(shared)) % 2)[:, None], (1, len(columns))).astype(float), shared.index, columns
        )
        template = self._build(pd.concat([shared, stand_in], axis=1), columns)
        from mvmise_sm.models.linear import LinearMixedModel
        from mvmise_sm.models.selection import SelectionModel

        exchangeable = isinstance(template, (SelectionModel, LinearMixedModel)) and template.nobs == len(shared)
        if self.terms is not None:
            absent = [t for t in self.terms if not any(_is_term(name, t) for name in template.exog_names)]
            if absent:
                raise OptionError(f"terms: {absent[0]!r} is not a fixed effect; allowed are {template.exog_names}")
        # of the caller's variables only those that the formula uses travel to the workers
        design = template.design.design if isinstance(template, SelectionModel) else template.data.design
        return replace(
            self, namespace=dict(design.namespace), template=template if exchangeable else None, shared=shared
        )

    def _model(self, values: pd.DataFrame):
        from mvmise_sm.models.selection import SelectionModel

        if isinstance(self.template, SelectionModel):
            return self.template.with_endog(values)
        complete = values.notna().to_numpy().all()
        if self.template is not None and values.shape[1] == 1 and complete:
            return self.template.with_endog(_numbers(values))
        return self._build(pd.concat([self.shared, values], axis=1), list(values.columns))

    def rows(self, name: str, values: pd.DataFrame) -> pd.DataFrame:
        """The rows of one feature (terms, 9)."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                result = self._model(values).fit(**self.fit_options)
                # without the wrapper, which would label every array
                result = getattr(result, "_results", result)
                names = list(result.model.exog_names)
                out = pd.DataFrame(
                    {
                        "feature": name,
                        "term": names,
                        "estimate": np.asarray(result.params),
                        "se": np.asarray(result.bse),
                        "z": np.asarray(result.tvalues),
                        "p": np.asarray(result.pvalues),
                        "q": np.nan,
                        "converged": bool(result.converged),
                        "message": "",
                    }
                )
            except Exception as error:
                return _failure(name, _named(f"{type(error).__name__}: {error}", values.columns))
        out["message"] = _named("; ".join(dict.fromkeys(str(w.message) for w in caught)), values.columns)
        if self.terms is not None:
            out = out[[any(_is_term(t, wanted) for wanted in self.terms) for t in names]]
        return out

    def __call__(self, chunk: list[tuple[str, pd.DataFrame]]) -> pd.DataFrame:
        """The rows of several features."""
        from threadpoolctl import threadpool_limits

        with threadpool_limits(limits=1):
            return pd.concat([self.rows(name, values) for name, values in chunk], ignore_index=True)


def _is_term(name: str, wanted: str) -> bool:
    return name == wanted or name.startswith(f"{wanted}[")


def _named(message: str, columns: Sequence) -> str:
    """The message with the features' own names."""
    for k, column in enumerate(columns):
        message = message.replace(f"{PLACEHOLDER}{k}", str(column))
    return message


def _numbers(values: pd.DataFrame) -> np.ndarray:
    try:
        out = values.to_numpy(dtype=float)[:, 0]
    except (TypeError, ValueError):
        raise DataError(f"feature {values.columns[0]!r} must be numeric") from None
    if np.isinf(out).any():
        raise DataError(f"feature {values.columns[0]!r} has infinite values")
    return out


def _failure(name: str, message: str) -> pd.DataFrame:
    row = dict.fromkeys(COLUMNS, np.nan) | {"feature": name, "term": None, "converged": False, "message": message}
    return pd.DataFrame([row], columns=COLUMNS)


def _run(job, frame, waiting, n_jobs, progress, store, n_done) -> Iterator[pd.DataFrame]:
    """Results of the chunks as they arrive; an interrupt ends them, and everything that arrived is kept."""
    from joblib import Parallel, delayed
    from tqdm import tqdm

    names = list(waiting)
    chunks = ([(name, frame[waiting[name]]) for name in names[i : i + CHUNK]] for i in range(0, len(names), CHUNK))
    bar = tqdm(total=n_done + len(names), initial=n_done, disable=not progress, desc="features")
    # a generator of tasks and of results: neither all data nor all results are held by the workers
    tasks = Parallel(n_jobs=n_jobs, return_as="generator", pre_dispatch="2*n_jobs")(delayed(job)(c) for c in chunks)
    try:
        for part in tasks:
            if store is not None:
                store.write(part)
            bar.update(part["feature"].nunique())
            yield part
    except KeyboardInterrupt:
        again = "" if store is None else f"; call scan again with output={str(store.path)!r} to go on"
        warn(f"the scan was stopped{again}", DataWarning)
    finally:
        bar.close()


class PartFiles:
    """Results on disk: numbered Parquet files while a scan runs, one file when it has ended.

    Parameters
    ----------
    path : Path
        The final file; the parts are in ``<path>.parts``.
    signature : str
        Which scan the results belong to.
    """

    def __init__(self, path: Path, signature: str) -> None:
        try:
            import_module("pyarrow")
        except ImportError:
            raise OptionError("output needs pyarrow; install it or leave output out") from None
        self.path = path
        self.folder = path.with_name(path.name + ".parts")
        self.signature = signature

    def read(self) -> list[pd.DataFrame]:
        """Results that are there already.

        Raises
        ------
        OptionError
            If they belong to another scan.
        """
        out = []
        if self.folder.exists():
            note = self.folder / "scan.json"
            if note.exists() and note.read_text(encoding="utf-8") != self.signature:
                raise OptionError(f"{self.folder} belongs to another scan; remove it or choose another output")
            out = [pd.read_parquet(part) for part in sorted(self.folder.glob("part-*.parquet"))]
        elif self.path.exists():
            import pyarrow.parquet as pq

            stored = (pq.read_schema(self.path).metadata or {}).get(b"mvmise_sm.scan", b"").decode()
            if stored != self.signature:
                raise OptionError(f"{self.path} belongs to another scan; remove it or choose another output")
            out = [pd.read_parquet(self.path)]
        return out

    def write(self, part: pd.DataFrame) -> None:
        """Add the rows of one chunk."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "scan.json").write_text(self.signature, encoding="utf-8")
        number = len(list(self.folder.glob("part-*.parquet")))
        temporary = self.folder / "writing"
        part.astype({"term": "str", "message": "str"}).where(part.notna(), None).to_parquet(temporary, index=False)
        # a part is either complete or absent
        temporary.rename(self.folder / f"part-{number:06d}.parquet")

    def merge(self, result: pd.DataFrame, *, complete: bool) -> None:
        """Write the final file when every feature is done, and remove the parts."""
        if not complete:
            return
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.Table.from_pandas(pd.DataFrame(result), preserve_index=False)
        note = {b"mvmise_sm.scan": self.signature.encode()}
        pq.write_table(table.replace_schema_metadata({**(table.schema.metadata or {}), **note}), self.path)
        for part in self.folder.glob("*"):
            part.unlink()
        if self.folder.exists():
            self.folder.rmdir()
