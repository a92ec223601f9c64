"""Frames and arrays become the data of a selection model: wide or long, with common or outcome-specific effects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from mvmise_sm.blame import refuse_complex
from mvmise_sm.design.build import Design, as_frame, build_design
from mvmise_sm.exceptions import DataError, FormulaError, OptionError, RandomEffectsError
from mvmise_sm.formula.parts import FormulaParts
from mvmise_sm.models.fixed import check_names, constant_column, default_names, names_given
from mvmise_sm.selection.data import SelectionData, check_rank, selection_data

# the default of outcome_effects
OWN_INTERCEPTS = "Intercept"

__all__ = ["SelectionDesign", "array_design", "expand_outcome_effects", "formula_design"]


@dataclass(frozen=True, eq=False)
class SelectionDesign:
    """The arrays of a selection model with their labels.

    Attributes
    ----------
    data : SelectionData
    endog : DataFrame
        Outcomes (N, K) in the order the user gave.
    exog : DataFrame
        Fixed effects (N, p), or (N * K, p) stacked by outcome when they are outcome specific.
    group_name : str
    effect_names : tuple of str
        Random effects of model e.
    covariate_name : str
        Name of the mechanism's covariate.
    terms : dict
        Columns of `exog` of every formula term.
    outcome_effects : tuple of int
        Columns of the common design that were given one coefficient per outcome.
    levels : sequence
        Cluster labels in the order they are reported in.
    design : Design or None
        The evaluated formula.
    common_exog : DataFrame or None
        The design (N, p) before its columns were given to single outcomes; None where it was stacked from the start.
    common_terms : dict
        Columns of `common_exog` of every formula term.
    own_effects : tuple of int
        Columns that get one coefficient per outcome as soon as there are several.
    own_terms : tuple of str
        ``"outcome"`` where outcomes have batch effects of their own, ``"sample"`` where samples have effects.
    plain : bool
        Whether the input had no labels, so that results have none either.
    """

    data: SelectionData
    endog: pd.DataFrame
    exog: pd.DataFrame
    group_name: str
    effect_names: tuple[str, ...]
    covariate_name: str
    terms: dict[str, list[int]]
    outcome_effects: tuple[int, ...]
    levels: Sequence
    design: Design | None
    common_exog: pd.DataFrame | None = None
    common_terms: dict[str, list[int]] = field(default_factory=dict)
    own_effects: tuple[int, ...] = ()
    own_terms: tuple[str, ...] = ()
    plain: bool = False

    @property
    def shared_intercept(self) -> bool:
        """Whether several outcomes share one constant."""
        if self.common_exog is None or self.data.n_outcomes < 2:
            return False
        const = constant_column(self.common_exog.to_numpy(dtype=float))
        return const is not None and const not in self.outcome_effects

    def common(self) -> pd.DataFrame:
        """The design (N, p) before its columns were given to single outcomes.

        Raises
        ------
        DataError
            If it was stacked by outcome from the start.
        """
        if self.common_exog is None:
            raise DataError("the design was given stacked by outcome; there is no common one")
        return self.common_exog

    def outcome_maps(self) -> list[np.ndarray]:
        """Matrices that take all coefficients to those of one outcome on the common design.

        Returns
        -------
        list of ndarray
            One (p_common, p) per outcome; a single identity where no column has a coefficient per outcome.
        """
        p, K, chosen = self.exog.shape[1], self.endog.shape[1], set(self.outcome_effects)
        if not chosen:
            return [np.eye(p)]
        maps = [np.zeros((p - (K - 1) * len(chosen), p)) for _ in range(K)]
        at = 0
        for j in range(len(maps[0])):
            own = j in chosen
            for k, each in enumerate(maps):
                each[j, at + k if own else at] = 1.0
            at += K if own else 1
        return maps


def expand_outcome_effects(exog: pd.DataFrame, outcomes: Sequence[str], columns: Sequence[int]) -> pd.DataFrame:
    """Stack a common design over outcomes, giving the `columns` one coefficient per outcome.

    Parameters
    ----------
    exog : DataFrame
        (N, p)
    outcomes : sequence of str
        (K,)
    columns : sequence of int

    Returns
    -------
    DataFrame
        (N * K, p + (K - 1) m), outcome by outcome; the columns of ``x`` are called ``x[outcome]``.
    """
    K = len(outcomes)
    pieces, names = [], []
    values = exog.to_numpy(dtype=float)
    for j, name in enumerate(exog.columns):
        if j in set(columns):
            pieces.append(np.kron(np.eye(K), values[:, [j]]))
            names += [f"{name}[{outcome}]" for outcome in outcomes]
        else:
            pieces.append(np.tile(values[:, [j]], (K, 1)))
            names.append(str(name))
    index = pd.MultiIndex.from_product([list(outcomes), exog.index], names=["outcome", exog.index.name])
    return pd.DataFrame(np.hstack(pieces), index=index, columns=names)


def array_design(endog, exog, groups, *, exog_re=None, missing_cov=None, outcome_effects=None) -> SelectionDesign:
    """Label and check arrays; parameters as in `SelectionModel`."""
    plain = not isinstance(endog, (pd.DataFrame, pd.Series)) and not isinstance(exog, pd.DataFrame)
    endog = _labelled(endog, "y", first=1)
    names = list(endog.columns)
    index = endog.index
    stacked = np.asarray(exog)
    if isinstance(exog, pd.DataFrame):
        exog = exog.set_axis([str(c) for c in exog.columns], axis=1)
    else:
        stacked = stacked[:, None] if stacked.ndim == 1 else stacked
        try:
            const = constant_column(refuse_complex("exog", stacked).astype(float))
        except (TypeError, ValueError):
            raise DataError("exog must be numeric") from None
        exog = pd.DataFrame(stacked, columns=default_names(stacked.shape[1], const))
        exog.index = index if len(exog) == len(index) else exog.index
    group_name = str(getattr(groups, "name", None) or "group")
    if exog_re is None:
        Z, effects = np.ones((len(endog), 1)), ("Intercept",)
    else:
        frame = _labelled(exog_re, "z", first=1)
        Z, effects = frame.to_numpy(), tuple(frame.columns)
    terms = {name: [j] for j, name in enumerate(exog.columns)}
    columns = _effect_columns(outcome_effects, terms, exog, len(endog))
    if columns and len(exog) != len(endog):
        raise OptionError("outcome_effects needs a design with one row per sample; this one is stacked by outcome")
    cov, cov_name = _covariate(missing_cov, None, len(endog), names)
    labels = np.asarray(groups)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise DataError(f"groups must be one label per sample, found shape {labels.shape}")
    out = _assemble(endog, exog, labels, Z, effects, cov, cov_name, group_name, terms, columns, None, None)
    return replace(out, plain=plain)


def formula_design(
    parts: FormulaParts,
    data: Any,
    *,
    outcome: str | None = None,
    sample: str | None = None,
    missing_cov=None,
    outcome_effects=OWN_INTERCEPTS,
    subset=None,
    missing: str = "raise",
    namespace=None,
) -> SelectionDesign:
    """Evaluate a formula on a wide frame, or on a long one with `outcome`; parameters as in `SelectionModel`."""
    frame = as_frame(data)
    parts, own_terms = _own_terms(parts, outcome, sample)
    outcomes = None
    if outcome is not None or sample is not None:
        frame, outcomes, index = _completed(frame, outcome, sample, parts, subset)
        subset = None
    design = build_design(parts, frame, subset=subset, missing=missing, keep_missing_endog=True, namespace=namespace)
    if design.dropped_columns:
        raise DataError(
            f"fixed effect {design.dropped_columns[0]!r} is constant or a combination of earlier ones; leave it out"
        )
    if design.weights is not None or design.offset is not None:
        raise OptionError("selection models take neither weights nor offsets")
    endog, exog = design.endog, design.exog
    Z, effects, factor = _random_columns(design)
    labels = np.asarray(factor.levels)[factor.codes]
    if outcomes is not None:
        if not isinstance(endog, pd.Series):
            raise FormulaError("a long frame has one outcome column left of the '~'")
        if design.missing_mask is not None:
            raise DataError("rows of a long frame cannot be dropped; fill in or leave out the samples concerned")
        N, K = len(index), len(outcomes)
        endog = pd.DataFrame(endog.to_numpy().reshape(K, N).T, index=index, columns=outcomes)
        stacked = exog.to_numpy().reshape(K, N, -1)
        if (stacked == stacked[:1]).all():
            exog = exog.iloc[:N].set_axis(index)
        labels = labels[:N]
    elif isinstance(endog, pd.Series):
        endog = endog.to_frame()
    cov, cov_name = _covariate(missing_cov, design.frame, len(endog), list(endog.columns))
    slices = {term.name(): list(range(s.start, s.stop)) for term, s in design.model_spec.term_slices.items()}
    columns = _effect_columns(outcome_effects, slices, exog, len(endog))
    if columns and len(exog) != len(endog):
        raise OptionError("outcome_effects: the design already differs between outcomes; write the interaction instead")
    out = _assemble(
        endog, exog, labels, Z, effects, cov, cov_name, factor.name, slices, columns, list(factor.levels), design
    )
    wrong = [name for name in own_terms if name not in ("sample", f"{factor.name}:outcome")]
    if wrong:
        raise RandomEffectsError(
            f"(1 | {wrong[0]}): outcomes vary between the levels of {factor.name!r}; write (1 | {factor.name}:outcome)"
        )
    kinds = tuple(sorted({"sample" if name == "sample" else "outcome" for name in own_terms}))
    return replace(out, own_terms=kinds if out.data.n_outcomes > 1 else ())


def _own_terms(parts: FormulaParts, outcome: str | None, sample: str | None) -> tuple[FormulaParts, tuple[str, ...]]:
    """The formula without the terms ``(1 | batch:outcome)`` and ``(1 | sample)``, and these by reserved names."""
    check_names(outcome=outcome, sample=sample)
    names = {"outcome": "outcome", "sample": "sample"}
    names |= {} if outcome is None else {outcome: "outcome"}
    names |= {} if sample is None else {sample: "sample"}
    kept, found = [], []
    for term in parts.random:
        reserved = [names[factor] for factor in term.factors if factor in names]
        if not reserved:
            kept.append(term)
            continue
        if term.effects.replace(" ", "") != "1" or (reserved == ["sample"] and len(term.factors) > 1):
            raise RandomEffectsError(
                f"{term.text}: outcomes and samples have intercepts only, (1 | batch:outcome) and (1 | sample)"
            )
        rest = [factor for factor in term.factors if factor not in names]
        found.append(":".join([*rest, *reserved]))
    return replace(parts, random=tuple(kept)), tuple(found)


def _assemble(endog, exog, groups, Z, effects, cov, cov_name, group_name, terms, columns, levels, design):
    names = [str(c) for c in endog.columns]
    common, shared, common_terms = exog, exog if len(exog) == len(endog) else None, terms
    own = tuple(columns)
    if len(names) < 2:
        columns = []
    if columns:
        exog = expand_outcome_effects(common, names, columns)
        terms = _expanded_terms(terms, list(common.columns), columns, len(names))
    try:
        data = selection_data(
            _floats(endog),
            exog.to_numpy(),
            np.asarray(groups).tolist() if levels is not None else list(np.asarray(groups)),
            Z=Z,
            cov_miss=cov,
            outcome_names=names,
            exog_names=list(exog.columns),
        )
    except ValueError as error:
        raise DataError(str(error)) from None
    return SelectionDesign(
        data,
        endog.set_axis(names, axis=1),
        exog,
        group_name,
        tuple(effects),
        cov_name,
        terms,
        tuple(columns),
        list(data.labels) if levels is None else [level for level in levels if level in set(data.labels)],
        design,
        shared,
        common_terms,
        own,
    )


def _floats(frame: pd.DataFrame) -> np.ndarray:
    """Values with NaN for every kind of missing value; unchanged where they are no numbers."""
    try:
        return refuse_complex("endog", frame).to_numpy(dtype=float, na_value=np.nan)
    except (TypeError, ValueError):
        return frame.to_numpy(dtype=object)


def _expanded_terms(terms, common, columns, K):
    width = [K if j in set(columns) else 1 for j in range(len(common))]
    start = np.cumsum([0, *width])
    return {name: [c for j in own for c in range(start[j], start[j] + width[j])] for name, own in terms.items()}


def _labelled(values, prefix, first) -> pd.DataFrame:
    if isinstance(values, pd.Series):
        return values.to_frame(values.name if values.name is not None else f"{prefix}{first}")
    if isinstance(values, pd.DataFrame):
        return values.set_axis([str(c) for c in values.columns], axis=1)
    array = np.asarray(values)
    array = array[:, None] if array.ndim == 1 else array
    if array.ndim != 2:
        raise DataError(f"a samples x columns array is needed, found shape {array.shape}")
    return pd.DataFrame(array, columns=[f"{prefix}{j + first}" for j in range(array.shape[1])])


def _effect_columns(outcome_effects, slices, exog, n_rows) -> list[int]:
    """Columns that get one coefficient per outcome; the default gives every outcome its own intercept."""
    names = list(exog.columns)
    if isinstance(outcome_effects, str) and outcome_effects == OWN_INTERCEPTS:
        if len(exog) != n_rows:
            return []
        try:
            const = constant_column(exog.to_numpy(dtype=float))
        except (TypeError, ValueError):
            return []
        return [] if const is None else [const]
    columns: list[int] = []
    for name in names_given("outcome_effects", outcome_effects):
        if name in slices:
            columns += slices[name]
        elif name in names:
            columns.append(names.index(name))
        else:
            raise OptionError(f"outcome_effects: {name!r} is not a fixed effect; allowed are {list(slices)}")
    return sorted(set(columns))


def _random_columns(design: Design):
    """Random-effects columns (rows, q), their names and the one grouping factor of a formula."""
    if design.random is None:
        raise RandomEffectsError(f"formula {design.parts.text!r} has no random-effects term such as '(1 | batch)'")
    terms = design.random.terms
    factors = {term.factor.name: term.factor for term in terms}
    if len(factors) > 1:
        raise RandomEffectsError(f"selection models have one grouping factor, found {list(factors)}")
    columns, names = [], []
    for term in terms:
        if term.q > 1 and not term.structure.independent:
            raise RandomEffectsError(
                f"the random effects of a selection model are independent; write {term.text.replace('|', '||')}"
            )
        for name, column in zip(term.names, term.columns, strict=True):
            columns.append(np.ones(len(design.exog)) if column is None else np.asarray(column, dtype=float))
            names.append(name)
    return np.column_stack(columns), tuple(names), next(iter(factors.values()))


def _covariate(missing_cov, frame, n_rows, outcomes):
    """Values and name of the mechanism's covariate."""
    if missing_cov is None:
        return None, "covariate"
    if isinstance(missing_cov, str):
        missing_cov = [missing_cov]
    if isinstance(missing_cov, (list, tuple)) and all(isinstance(c, str) for c in missing_cov):
        names = list(missing_cov)
        if frame is None:
            raise OptionError("missing_cov is a column name, but there is no frame; give its values")
        for name in names:
            if name not in frame.columns:
                raise OptionError(f"missing_cov {name!r} is not a column of the data")
        if len(names) not in (1, len(outcomes)):
            raise OptionError(
                f"missing_cov has {len(names)} columns; allowed are 1 or {len(outcomes)}, one per outcome"
            )
        values = frame[names].to_numpy()
        if values.shape == (n_rows * len(outcomes), 1) and len(outcomes) > 1:
            stacked = values.reshape(len(outcomes), n_rows)
            values = stacked[0] if (stacked == stacked[0]).all() else stacked.T
        return values, names[0] if len(names) == 1 else "covariate"
    return np.asarray(missing_cov), str(getattr(missing_cov, "name", None) or "covariate")


def _completed(frame: pd.DataFrame, outcome, sample, parts: FormulaParts, subset):
    """Every sample with every outcome, outcome by outcome; values of a sample fill the rows that were absent."""
    if outcome is None or sample is None:
        raise OptionError("a long frame needs both outcome= (which feature) and sample= (which run) columns")
    for name in (outcome, sample):
        if name not in frame.columns:
            raise OptionError(f"{name!r} is not a column of the data")
        if frame[name].isna().any():
            raise DataError(f"column {name!r} has missing values; every row needs one")
    if subset is not None:
        frame = frame.query(subset) if isinstance(subset, str) else frame.loc[subset]
    double = frame.duplicated([outcome, sample])
    if double.any():
        row = frame.loc[double].iloc[0]
        raise DataError(f"sample {row[sample]!r} has outcome {row[outcome]!r} twice; a long frame has one row for each")
    outcomes = list(pd.unique(frame[outcome]))
    samples = pd.Index(pd.unique(frame[sample]), name=sample)
    keys = pd.MultiIndex.from_product([outcomes, samples], names=[outcome, sample])
    full = frame.set_index([outcome, sample]).reindex(keys)
    response = set(parts.responses)
    for column in full.columns:
        if column in response or not full[column].isna().any():
            continue
        by_sample = frame.groupby(sample, sort=False, observed=True)[column]
        if _constant_within(frame, sample, column):
            first = by_sample.first()
            values = first.reindex(full.index.get_level_values(1)).to_numpy()
            full[column] = full[column].where(full[column].notna(), pd.Series(values, index=full.index))
    complete = full.reset_index()
    if isinstance(frame[outcome].dtype, pd.CategoricalDtype):
        complete[outcome] = pd.Categorical(complete[outcome], categories=frame[outcome].cat.categories)
    return complete, [str(o) for o in outcomes], samples


def _constant_within(frame: pd.DataFrame, sample: str, column: str) -> bool:
    """Whether a column has one value in all rows of a sample, missing ones aside."""
    pairs = frame[[sample, column]].dropna().drop_duplicates()
    return not pairs[sample].duplicated().any()


def with_outcomes(design: SelectionDesign, endog: pd.DataFrame) -> SelectionDesign:
    """The same design for other outcomes (N, K); nothing else is evaluated again.

    Raises
    ------
    DataError
        If the outcomes are not numbers, infinite or missing everywhere.
    """
    names = [str(c) for c in endog.columns]
    old = design.data
    Y = _outcome_values(endog, names)
    K = len(names)
    if old.n_outcomes != K and (design.common_exog is None or not old.common_cov):
        raise DataError(f"the design has {old.n_outcomes} outcomes and cannot be used for {K}")
    X, Z, cov = old.X, old.Z, old.cov_miss
    if old.n_outcomes != K:
        X, Z = (np.repeat(a[:, :1], K, axis=1) for a in (X, Z))
        cov = None if cov is None else np.repeat(cov[:, :1], K, axis=1)
    data = replace(old, Y=Y[old.order], X=np.ascontiguousarray(X), Z=np.ascontiguousarray(Z), cov_miss=cov)
    endog = endog.set_axis(names, axis=1)
    if old.n_outcomes != K and design.common_exog is not None:
        out = with_effects(replace(design, data=data, endog=endog), design.own_effects)
    elif design.outcome_effects:
        own, common = set(design.outcome_effects), list(design.common().columns)
        labels = [
            f"{c}[{k}]" if j in own else str(c) for j, c in enumerate(common) for k in (names if j in own else [""])
        ]
        out = replace(design, data=data, endog=endog, exog=design.exog.set_axis(labels, axis=1))
    else:
        out = replace(design, data=data, endog=endog)
    try:
        check_rank(out.data.X, out.data.observed, list(out.exog.columns))
    except ValueError as error:
        raise DataError(str(error)) from None
    return out


def _outcome_values(endog: pd.DataFrame, names: Sequence[str]) -> np.ndarray:
    """Outcomes (N, K) as numbers, refused where a model could not use them."""
    try:
        Y = endog.to_numpy(dtype=float, na_value=np.nan)
    except (TypeError, ValueError):
        raise DataError(f"outcomes {list(names)} must be numeric") from None
    for name, column in zip(names, Y.T, strict=True):
        if np.isinf(column).any():
            raise DataError(f"outcome {name!r} has infinite values; only finite numbers and NaN (missing) are allowed")
        if np.isnan(column).all():
            raise DataError(f"outcome {name!r} is missing in every sample")
    return Y


def with_effects(design: SelectionDesign, columns: Sequence[int]) -> SelectionDesign:
    """The same design with one coefficient per outcome for other columns of the common design; none for one outcome."""
    names, data, common = list(design.endog.columns), design.data, design.common()
    K, columns = len(names), tuple(columns)
    used = columns if K > 1 else ()
    values = common.to_numpy(dtype=float)
    exog, terms = common, {name: list(own) for name, own in design.common_terms.items()}
    X = np.repeat(values[:, None, :], K, axis=1)
    if used:
        exog = expand_outcome_effects(common, names, used)
        terms = _expanded_terms(design.common_terms, list(common.columns), used, K)
        X = exog.to_numpy(dtype=float).reshape(K, len(common), -1).transpose(1, 0, 2)
    data = replace(data, X=np.ascontiguousarray(X[data.order]), common_design=not used)
    return replace(design, data=data, exog=exog, terms=terms, outcome_effects=used, own_effects=columns)
