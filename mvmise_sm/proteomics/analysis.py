"""The scan of an experiment: its default random terms, and a look at what a formula leaves out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from mvmise_sm.caller import warn
from mvmise_sm.exceptions import DataWarning, OptionError
from mvmise_sm.formula.parts import parse_formula
from mvmise_sm.proteomics.steps import group_codes

if TYPE_CHECKING:
    from mvmise_sm.proteomics.experiment import Experiment
    from mvmise_sm.proteomics.measurements import View
    from mvmise_sm.scanning import ScanResult

__all__ = ["OwnLevels", "own_levels", "scan_experiment"]

# columns of the long table that a scan takes
PROTEIN, PEPTIDE, SAMPLE, VALUE = "protein", "peptide", "sample", "y"
# what selection models call the outcomes of one fit
OUTCOME = "outcome"
# evidence beyond which a formula without the term is worth a warning
_SIGNIFICANT = 1e-3
_ALTERNATIONS = 50


@dataclass(frozen=True)
class OwnLevels:
    """Standard deviations of what peptides of one protein do not share, by moments.

    Attributes
    ----------
    block : float
        Of a peptide's own level in every run.
    sample : float
        Of a protein's own level in every sample, beside run and condition.
    residual : float
    p_block, p_sample : float
        F tests against zero.
    """

    block: float
    sample: float
    residual: float
    p_block: float
    p_sample: float


def scan_experiment(experiment: Experiment, formula: str | None, model: Any, options: Mapping[str, Any]) -> ScanResult:
    """Scan an experiment; see `Experiment.scan`."""
    from mvmise_sm.scanning import scan
    from mvmise_sm.scanning.templates import kind_of

    samples, features = experiment.samples, experiment.features
    model = model if model is not None else ("lmer" if experiment.level == "protein" else "mvmise_b")
    kind = kind_of(model)
    text = _complete(experiment, "~ Condition" if formula is None else formula, model, kind)
    if experiment.level == "peptide":
        _compare(experiment, text, model, kind)
    if all(len(columns) == 1 for columns in features.values()):
        values = experiment.matrix().reset_index(drop=True)
        values.columns = list(features)
        return scan(text, samples, values, model, **options)
    table = experiment.table
    # ids are keys of the scan, not categories of one protein
    long = table[[PROTEIN, PEPTIDE, SAMPLE, VALUE]].astype(dict.fromkeys((PROTEIN, PEPTIDE, SAMPLE), object))
    return scan(
        text, long, model=model, by=PROTEIN, outcome=VALUE, column=PEPTIDE, sample=SAMPLE, samples=samples, **options
    )


def _takes_own_terms(model: Any) -> bool:
    """Whether a selection model has effects of single outcomes and of samples beside those of batches."""
    from mvmise_sm.api import find

    factor = find("FactorSelectionModel")
    return issubclass(model, factor) if isinstance(model, type) else find(model).__self__ is factor


def _complete(experiment: Experiment, formula: str, model: Any, kind: str) -> str:
    """The formula with the experiment's random terms if it has none."""
    from mvmise_sm.scanning.templates import LEAST_SQUARES, SELECTION

    if not isinstance(formula, str):
        raise OptionError(f"formula must be a text such as '~ Condition', not {type(formula).__name__}")
    rhs = formula.partition("~")[2] if "~" in formula else formula
    if formula.partition("~")[0].strip() and "~" in formula:
        raise OptionError(f"formula: leave the left side empty, the features stand there; got {formula!r}")
    text = f"~ {rhs.strip()}"
    if parse_formula(f"y__ {text}").random or kind == LEAST_SQUARES:
        return text
    block = experiment.data.layout.block_name
    if block is None:
        raise OptionError(
            "label-free runs have no blocks; name the random terms, for example '~ Condition + (1 | Batch)'"
        )
    if len(experiment.data.layout.labels) == 1:
        raise OptionError(f"with one {block} there are no batches; use model='ols', or name the random terms")
    if experiment.level == "protein":
        added = f"(1 | {block})"
    elif kind == SELECTION:
        added = f"(1 | {block})" + f" + (1 | {block}:{OUTCOME}) + (1 | {SAMPLE})" * _takes_own_terms(model)
    else:
        raise OptionError(
            f"name the random terms of model {model!r}, for example '{text} + {PEPTIDE} + (1 | {block}) + "
            f"(1 | {block}:{PEPTIDE}) + (1 | {SAMPLE})', or summarise with proteins()"
        )
    warn(f"the formula has no random terms; the scan adds {added}", DataWarning)
    return f"{text} + {added}"


def _compare(experiment: Experiment, formula: str, model: Any, kind: str) -> None:
    """Warn of what peptides do not share and the formula does not say."""
    from mvmise_sm.scanning.templates import SELECTION

    layout = experiment.data.layout
    block = layout.block_name
    if block is None:
        return
    parts = parse_formula(f"y__ {formula}")
    groups = {frozenset(term.factors) for term in parts.random}
    found = own_levels(experiment.data.view(experiment.min_mixtures), block)
    if found is None:
        return
    names = {PEPTIDE, OUTCOME}
    takes_own = kind != SELECTION or _takes_own_terms(model)
    if not any(g & {"Mixture", "Run"} and g & names for g in groups) and found.p_block < _SIGNIFICANT:
        remedies = [f"add (1 | {block}:{OUTCOME if kind == SELECTION else PEPTIDE})"] * takes_own
        remedies += ["normalize('reference')"] * ("reference" not in experiment.normalized)
        warn(
            f"peptides have their own level in every {block} (sd {found.block:.2g} beside sigma {found.residual:.2g})"
            + (": " if remedies else "")
            + " or ".join(remedies),
            DataWarning,
        )
    # model e has the sample's effect in the covariance of its errors
    if takes_own and frozenset({SAMPLE}) not in groups and found.p_sample < _SIGNIFICANT:
        warn(
            f"peptides of one sample vary together (sd {found.sample:.2g} beside sigma {found.residual:.2g}): "
            f"add (1 | {SAMPLE}), or standard errors are too small",
            DataWarning,
        )


def own_levels(view: View, block_name: str) -> OwnLevels | None:
    """Variances between blocks and between samples that the peptides of a protein do not share, by moments.

    Deviations of the values from the mean of their peptide in the block split into what the peptides of a protein share
    in a sample (beside its condition) and the rest; the block means, less the protein's level in the block, into the
    peptide's level and the rest.

    Parameters
    ----------
    view : View
    block_name : str
        Column of the samples.

    Returns
    -------
    OwnLevels or None
        None if no protein has two peptides in two blocks.
    """
    row, column = np.nonzero(np.isfinite(view.matrix))
    y = view.matrix[row, column]
    block = np.unique(view.samples[block_name].astype(str), return_inverse=True)[1][row]
    conditions = view.samples["Condition"] if "Condition" in view.samples else view.samples["sample"].str[:0]
    condition = np.unique(conditions.astype(str), return_inverse=True)[1][row]
    protein = np.unique(view.proteins.astype(str), return_inverse=True)[1][column]
    cell, first = group_codes(column, block)
    size = np.bincount(cell)
    mean = np.bincount(cell, y) / size
    deviation = y - mean[cell]
    # samples of a protein in which two peptides or more are seen
    shared, where = group_codes(protein, row)
    count = np.bincount(shared)
    common = np.bincount(shared, deviation) / count
    inner = deviation - common[shared]
    pairs, _ = group_codes(protein, block)
    peptides = np.bincount(_distinct(pairs, cell)[0])
    taken = np.bincount(_distinct(pairs, shared)[0])
    n_pairs = np.bincount(pairs)
    several = (peptides > 1) & (n_pairs > peptides + taken - 1)
    df = float((n_pairs - peptides - taken + 1)[several].sum())
    if df < 1.0:
        return None
    variance = float((inner**2)[several[pairs]].sum()) / df
    if variance <= 0.0:
        return None
    return _tests(
        variance, df, _sample_part(common, count, protein[where], condition[where], block[where]),
        _block_part(mean, size, protein[first], column[first], block[first]),
    )  # fmt: skip


def _distinct(outer: np.ndarray, inner: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each inner group once, with its outer group."""
    _, first = np.unique(inner, return_index=True)
    return outer[first], first


def _sample_part(
    common: np.ndarray, count: np.ndarray, protein: np.ndarray, condition: np.ndarray, block: np.ndarray
) -> tuple[float, float, float]:
    """Mean square between samples, its df, and the mean number of peptides behind one."""
    kept = count > 1
    if not kept.any():
        return 0.0, 0.0, 1.0
    groups, _ = group_codes(protein[kept], condition[kept])
    mean = np.bincount(groups, common[kept]) / np.bincount(groups)
    square = float(((common[kept] - mean[groups]) ** 2).sum())
    _, blocks = group_codes(protein[kept], block[kept])
    _, proteins = group_codes(protein[kept])
    df = float(kept.sum() - len(mean) - len(blocks) + len(proteins))
    return (square / df if df > 0 else 0.0), max(df, 0.0), float(1.0 / np.mean(1.0 / count[kept]))


def _block_part(
    mean: np.ndarray, size: np.ndarray, protein: np.ndarray, column: np.ndarray, block: np.ndarray
) -> tuple[float, float, float]:
    """Mean square of block means beside the peptide's and the protein's levels, its df, and the values behind one."""
    level, _ = group_codes(protein, block)
    peptide, _ = group_codes(column)
    left = mean.copy()
    for _ in range(_ALTERNATIONS):
        for codes in (peptide, level):
            left -= (np.bincount(codes, left) / np.bincount(codes))[codes]
    n_proteins = len(np.unique(protein))
    df = float(len(mean) - peptide.max() - 1 - level.max() - 1 + n_proteins)
    return (float((left**2).sum()) / df if df > 0 else 0.0), max(df, 0.0), float(1.0 / np.mean(1.0 / size))


def _tests(
    variance: float, df: float, sample: tuple[float, float, float], block: tuple[float, float, float]
) -> OwnLevels | None:
    sd, p = [], []
    for square, df_own, behind in (block, sample):
        if df_own < 1.0:
            sd.append(0.0)
            p.append(1.0)
            continue
        expected = variance / behind
        sd.append(float(np.sqrt(max(square - expected, 0.0))))
        p.append(float(stats.f.sf(square / expected, df_own, df)))
    return OwnLevels(sd[0], sd[1], float(np.sqrt(variance)), p[0], p[1])
