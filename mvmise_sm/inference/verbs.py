"""R's verbs on a fit: update, augment, coef, add1, step, and fits by group."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from mvmise_sm.design.rank import independent_columns
from mvmise_sm.exceptions import DataError, FormulaError, OptionError
from mvmise_sm.formula.parts import parse_formula
from mvmise_sm.formula.update import updated_formula
from mvmise_sm.inference.comparison import droppable
from mvmise_sm.inference.fits import (
    check_same_response,
    deviance_ratio,
    fit_options,
    ml_fit,
    quietly,
    ratio_error,
    ratio_p_value,
    unreached,
    unwrap,
    with_rows,
)
from mvmise_sm.inference.hypotheses import model_spec_of
from mvmise_sm.inference.tables import Table, table
from mvmise_sm.options import answering, parameter_names, strict

__all__ = [
    "add1",
    "augment",
    "changed",
    "chosen_intervals",
    "coef",
    "correlations",
    "drop1_f",
    "lm_list",
    "padded",
    "step",
    "update",
]


def update(result: Any, formula: str, data: Any = None, **changes: Any) -> Any:
    """Refit; see `VerbResults.update`."""
    result = unwrap(result)
    if getattr(result.model.data, "design", None) is None:
        raise OptionError("update needs a model from a formula")
    if data is None:
        with_rows(result)
    of_fit = set(parameter_names(type(result.model).fit))
    settings = {**fit_options(result), "use_t": result.use_t}
    settings |= {name: value for name, value in changes.items() if name in of_fit}
    if "method" in changes:
        # options of one optimiser are not those of another
        settings = {name: value for name, value in settings.items() if name in of_fit}
    rest = {name: value for name, value in changes.items() if name not in of_fit}
    model = result.model.with_formula(updated_formula(result.model.formula, formula), data, **rest)
    return model.fit(**settings)


def augment(result: Any, pad: bool = False) -> pd.DataFrame:
    """Data with fitted values, residuals and influence; see `VerbResults.augment`."""
    result = with_rows(result)
    frame = getattr(result.model.data, "frame", None)
    index = result.model.data.row_labels
    if frame is None:
        frame = pd.DataFrame({result.model.endog_names: result.model.endog}, index=index)
    influence = result.row_influence()
    fixed, fitted = np.asarray(result.predict(random="none")), np.asarray(result.fittedvalues)
    if fixed.ndim == 2:  # probabilities of the levels of an ordered response
        parts = ((".fitted", np.asarray(result.predict())), (".fixed", fixed))
        levels = list(enumerate(result.model.levels))
        columns = {f"{name}[{level}]": values[:, j] for name, values in parts for j, level in levels}
    else:
        columns = {".fitted": fitted, ".resid": np.asarray(result.resid), ".fixed": fixed}
    if influence is not None:
        columns |= {".hat": np.asarray(influence.hat_matrix_diag), ".cooksd": np.asarray(influence.cooks_distance)}
    out = frame.assign(**columns)
    return pd.DataFrame({name: padded(result, out[name].to_numpy()) for name in out}) if pad else out


def padded(result: Any, values: Any = "resid") -> pd.Series:
    """Values at the rows of the data; see `VerbResults.padded`."""
    result = with_rows(result)
    name = values if isinstance(values, str) else None
    if name is not None and not hasattr(type(result), name):
        raise OptionError(f"{name!r} is not an attribute with one value per row, such as 'resid' or 'fittedvalues'")
    rows = np.asarray(getattr(result, name) if name is not None else values)
    if rows.shape != (result.nobs,):
        raise DataError(f"padded needs one value for each of the {result.nobs} rows, found shape {rows.shape}")
    design = getattr(result.model.data, "design", None)
    if design is None or design.given_index is None:
        return pd.Series(rows, index=result.model.data.row_labels, name=name)
    kind = float if rows.dtype.kind in "fiub" else object
    out = np.full(len(design.given_index), np.nan, dtype=kind)
    out[~design.missing_mask] = rows
    return pd.Series(out, index=design.given_index, name=name)


def coef(result: Any) -> dict[str, pd.DataFrame]:
    """Fixed plus random effects by level; see `VerbResults.coef`."""
    result = unwrap(result)
    out = {}
    for group, modes in result.random_effects.items():
        fixed = result.fixed_part(group)
        names = list(dict.fromkeys([*fixed.index, *modes.columns]))
        whole = pd.DataFrame(0.0, index=modes.index, columns=names)
        for name in fixed.index:
            whole[name] += fixed[name]
        for j, name in enumerate(modes.columns):
            whole[name] += modes.iloc[:, j]
        out[group] = whole
    return out


def correlations(result: Any) -> pd.DataFrame:
    """Correlations of the estimates of the fixed effects."""
    result = unwrap(result)
    cov, names = np.asarray(result.cov_params()), list(result.coef_names)
    sd = np.sqrt(np.diag(cov))
    return pd.DataFrame(cov / np.outer(sd, sd), index=names, columns=names)


def chosen_intervals(result: Any, parm: Any, alpha: float, method: str, options: dict) -> pd.DataFrame:
    """Intervals of the parameters that `parm` names; see `InferentialResults.conf_int`."""
    known = list(result.parameter_values().index)
    k = len(result.params)
    groups = {"beta_": known[:k], "theta_": known[k:]}
    names = [n for given in ([parm] if isinstance(parm, str) else list(parm)) for n in groups.get(given, [given])]
    for name in names:
        if name not in known:
            raise OptionError(f"parm: {name!r} is not a parameter; they are {', '.join(known)}")
    if method == "profile":
        return result.conf_int(alpha, method, params=names, **options)
    if method == "bootstrap":
        return result.conf_int(alpha, method, **options).loc[names]
    whole = pd.DataFrame(np.asarray(result.conf_int(alpha, method, **options)), index=known[:k])
    if any(name in groups["theta_"] for name in names):
        whole = pd.concat([whole, result.variance_intervals(alpha)])
    lost = [name for name in names if name not in whole.index]
    if parm == "theta_":
        # a family's own parameters have intervals of other methods only
        names = [name for name in names if name not in lost]
    if lost and (parm != "theta_" or not names):
        raise OptionError(f"{lost[0]} has no Wald interval; take conf_int(method='profile') or method='bootstrap'")
    return whole.loc[names]


def drop1_f(result: Any, ddf: Any = "default") -> Table:
    """F tests of the terms that no other term contains: all their coefficients are zero.

    Returns
    -------
    Table
        ``df_num, df_denom, F, p_value`` by term.
    """
    from mvmise_sm.inference.anova import f_sf

    result = with_rows(result)
    spec, method = model_spec_of(result), result.denominator(ddf)
    params, rows = np.asarray(result.params), {}
    for term in droppable(spec):
        own = np.eye(len(params))[spec.term_slices[term]]
        f, df_num, df_denom = method.f_test(own, own @ params)
        rows[term.name()] = (df_num, df_denom, f, f_sf(f, df_num, df_denom))
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=["df_num", "df_denom", "F", "p_value"])
    return table(frame, f"Single term deletions, F tests. Degrees of freedom: {method.label}.")


def _scope_terms(result: Any, scope: Any) -> list[str]:
    """Terms of a scope that the model does not have."""
    if scope is None:
        raise OptionError("scope names the terms that may be added, such as ['z', 'a:b']")
    if isinstance(scope, str) and "~" in scope:
        from mvmise_sm.formula.parts import expand_terms

        terms = expand_terms(parse_formula(updated_formula(result.model.formula, scope)).rhs)
        given = [term.name() for term in terms if term.factors]
    else:
        given = [scope] if isinstance(scope, str) else [str(name) for name in scope]
    own = {frozenset(name.split(":")) for name in model_spec_of(result).term_names}
    return [name for name in given if frozenset(name.split(":")) not in own]


def add1(result: Any, scope: Any) -> Table:
    """Add one term at a time; see `VerbResults.add1`."""
    fit = ml_fit(result)
    rows = {"<none>": (np.nan, fit.aic, np.nan, np.nan)}
    fits = [("<none>", fit)]
    for name in _scope_terms(fit, scope):
        large = changed(fit, f"+ {name}")
        df, chisq = large.k_params - fit.k_params, deviance_ratio(fit, large)
        fits.append((name, large))
        rows[name] = (df, large.aic, chisq, ratio_p_value(chisq, df, ratio_error(fit, large)) if df else np.nan)
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=["df", "aic", "chisq", "p_value"])
    note = " The REML fit was refitted by maximum likelihood." if unwrap(result).restricted else ""
    return table(frame, "Single term additions, likelihood-ratio tests." + note + unreached(fits))


def changed(fit: Any, change: str) -> Any:
    """The fit with one term more or less, to the same rows."""
    out = unwrap(quietly(update, fit, f". ~ . {change}"))
    check_same_response([fit, out])
    return out


def step(result: Any, direction: str = "backward", scope: Any = None, criterion: str = "aic") -> Any:
    """Select terms; see `VerbResults.step`."""
    if direction not in ("backward", "forward", "both"):
        raise OptionError(f"direction must be 'backward', 'forward' or 'both', got {direction!r}")
    if criterion not in ("aic", "bic"):
        raise OptionError(f"criterion must be 'aic' or 'bic', got {criterion!r}")
    current = ml_fit(result)
    formula = current.model.formula
    terms = [] if direction == "backward" and scope is None else _scope_terms(current, scope)
    while True:
        moves = []
        if direction != "forward":
            moves += [f"- {term.name()}" for term in droppable(model_spec_of(current))]
        if direction != "backward":
            own = {frozenset(name.split(":")) for name in model_spec_of(current).term_names}
            moves += [f"+ {name}" for name in terms if frozenset(name.split(":")) not in own]
        fits = [changed(current, move) for move in moves]
        best = min(fits, key=lambda fit: getattr(fit, criterion), default=None)
        if best is None or getattr(best, criterion) >= getattr(current, criterion):
            break
        current = best
    if current.model.formula == formula:
        return update(result, formula)
    return update(result, current.model.formula)


@strict
def lm_list(formula: str, data: Any, *, subset: Any = None) -> Any:
    """Fit a separate least-squares regression in every group, as lme4's ``lmList``.

    Parameters
    ----------
    formula : str
        ``"y ~ x | g"``.
    data : DataFrame
    subset : array_like or str, optional
        Rows to use, as in ``lmer``.

    Returns
    -------
    LmList
        With ``params``, ``bse``, ``sigma`` and ``conf_int()``.

    Raises
    ------
    FormulaError
        If the formula has no group.
    """
    left, bar, group = formula.rpartition("|")
    if not bar or "~" not in left:
        raise FormulaError(f"formula {formula!r}: lm_list needs a group after a bar, as in 'y ~ x | g'")
    from mvmise_sm.design.build import build_design, caller_environment

    text = f"{left.strip()} + (1 | {group.strip()})"
    design = build_design(parse_formula(text), data, subset=subset, namespace=caller_environment())
    return LmList(formula, design)


@answering
class LmList:
    """Least-squares fits by group with a common residual variance.

    Attributes
    ----------
    params, bse : DataFrame
        Coefficients and standard errors with the pooled residual variance (groups by coefficients); NaN where a group
        does not determine them.
    sigma : float
        Pooled residual standard deviation.
    df_resid : int
        Its degrees of freedom.
    """

    def __init__(self, formula: str, design: Any) -> None:
        assert design.random is not None
        factor = design.random.factors[0]
        names = list(design.exog.columns)
        exog, endog = design.exog.to_numpy(), design.endog.to_numpy()
        params = np.full((factor.n_levels, len(names)), np.nan)
        unscaled, rss, df = params.copy(), 0.0, 0
        for j in range(factor.n_levels):
            rows = factor.codes == j
            x, y = exog[rows], endog[rows]
            used = independent_columns(x)
            inverse = np.linalg.inv(x[:, used].T @ x[:, used])
            beta = inverse @ (x[:, used].T @ y)
            params[j, used], unscaled[j, used] = beta, np.diag(inverse)
            rss, df = rss + float(np.square(y - x[:, used] @ beta).sum()), df + len(y) - len(used)
        index = pd.Index(factor.levels, name=factor.name)
        self.formula, self.df_resid = formula, df
        self.sigma = float(np.sqrt(rss / df)) if df else np.nan
        self.params = pd.DataFrame(params, index=index, columns=names)
        self.bse = pd.DataFrame(self.sigma * np.sqrt(unscaled), index=index, columns=names)

    def conf_int(self, alpha: float = 0.05) -> pd.DataFrame:
        """Intervals with the pooled variance: rows (group, coefficient), columns ``lower, upper``."""
        half = (stats.t.isf(0.5 * alpha, self.df_resid) * self.bse).to_numpy().ravel()
        center = self.params.to_numpy().ravel()
        index = pd.MultiIndex.from_product(
            [self.params.index, self.params.columns], names=[self.params.index.name, "term"]
        )
        return pd.DataFrame({"lower": center - half, "upper": center + half}, index=index)

    def __repr__(self) -> str:
        return f"<LmList: {self.formula}; {len(self.params)} groups; sigma {self.sigma:.4g} on {self.df_resid} df>"
