"""What the fits of a selection model hand to its results."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from mvmise_sm.exceptions import ConvergenceWarning, DataError, OptionError, SingularFitWarning
from mvmise_sm.models.base import bound_priors, refuse_covariance
from mvmise_sm.models.selection_notes import own_terms_notes, shared_intercept_note
from mvmise_sm.priors import PriorSet, TermShape
from mvmise_sm.selection.information import Covariance, covariance, from_covariance
from mvmise_sm.selection.likelihood import SelectionParams
from mvmise_sm.selection.maximise import MAXITER, Maximum, maximise_smoothed
from mvmise_sm.selection.mvmise.algorithm import MvmiseFit, name_order
from mvmise_sm.selection.objective import PenalisedObjective
from mvmise_sm.selection.restricted import Chart, RestrictedObjective, beta_uncertainty
from mvmise_sm.selection.solve import solve
from mvmise_sm.selection.sparse import OrthantObjective, SparseFit, fit_sparse
from mvmise_sm.selection.status import Status
from mvmise_sm.selection.units import PHI_NAMES, phi_labels

# variances need only the right size before everything moves
START_ITERATIONS = 30
# with more seen values than this there are residuals for sure but in designs that nobody fits
MANY_VALUES = 200

__all__ = [
    "PenaltyChoice",
    "SelectionOutcome",
    "bind_priors",
    "check_fit_options",
    "check_seen",
    "checked_start",
    "fit_direct",
    "fit_reproduction",
    "fit_restricted",
    "fit_with_lasso",
    "loglike_at",
]


@dataclass(frozen=True, eq=False)
class SelectionOutcome:
    """One fit, by any algorithm.

    Attributes
    ----------
    params : SelectionParams
    llf : float
        Log-likelihood without priors and penalties; R's stopping value for its algorithm.
    penalty : float
        -2 log prior and lasso, on the deviance scale.
    cov : Covariance or None
        None for R's algorithm, which has covariances of the fixed effects only.
    cov_beta : ndarray, (p, p)
    k_params : int
    history : ndarray
        Objective by iteration.
    n_iter : int
    converged : bool
    message : str
    warning : (type, str) or None
    objective : PenalisedObjective or OrthantObjective
    maximum : Maximum or None
    error_penalty : float or None
    aic : float or None
        R's, for its algorithm.
    reproduction : MvmiseFit or None
    notes : tuple of str
        What else a user has to be told, each a warning.
    restricted : bool
        Whether `llf` is the restricted log-likelihood.
    """

    params: SelectionParams
    llf: float
    penalty: float
    cov: Covariance | None
    cov_beta: np.ndarray
    k_params: int
    history: np.ndarray
    n_iter: int
    converged: bool
    message: str
    warning: tuple[type, str] | None
    objective: PenalisedObjective | OrthantObjective
    maximum: Maximum | None
    error_penalty: float | None = None
    aic: float | None = None
    reproduction: MvmiseFit | None = None
    notes: tuple[str, ...] = ()
    restricted: bool = False


class PenaltyChoice(float):
    """A chosen lasso penalty, with the table it was chosen from.

    Attributes
    ----------
    path : DataFrame
        Columns ``error_penalty, n_edges, n_params, llf, aic, bic, ebic, converged``.
    criterion : str
    """

    path: pd.DataFrame
    criterion: str

    @classmethod
    def from_path(cls, fits: list[SparseFit], criterion: str) -> PenaltyChoice:
        """Choose the fit with the smallest criterion."""
        path = pd.DataFrame(
            {
                "error_penalty": [fit.penalty for fit in fits],
                "n_edges": [fit.n_edges for fit in fits],
                "n_params": [fit.n_params for fit in fits],
                "llf": [fit.llf for fit in fits],
                **{name: [fit.criterion(name) for fit in fits] for name in ("aic", "bic", "ebic")},
                "converged": [fit.maximum.converged for fit in fits],
            }
        )
        out = cls(path["error_penalty"][path[criterion].idxmin()])
        out.path, out.criterion = path, criterion
        return out


METHODS = ("ml", "em", "mvmise")


def check_fit_options(spec, method, maxiter, cov_type) -> None:
    """Refuse options of ``fit`` that do not exist or do not go with the model.

    Raises
    ------
    OptionError
    """
    if cov_type != "information":
        refuse_covariance(cov_type)
    if method not in METHODS:
        raise OptionError(f"method must be one of {METHODS}, got {method!r}")
    if method != "ml" and (spec.own_blocks or spec.samples or spec.error_structure):
        raise OptionError(f"method={method!r} knows no effects of outcomes and samples and no error_structure")
    if maxiter is not None and (isinstance(maxiter, bool) or maxiter != int(maxiter) or maxiter < 1):
        raise OptionError(f"maxiter must be a positive integer, got {maxiter!r}")
    if method != "ml" and not all(slot.mechanism.exponential and not slot.single for slot in spec.slots):
        raise OptionError(
            f"method={method!r} needs an exponential mechanism of blocks ('capped' or 'log'); use method='ml'"
        )


def check_seen(model) -> None:
    """Refuse outcomes that fixed effects and clusters can fit exactly: the residual variance has no estimate then.

    Raises
    ------
    DataError
    """
    data = model.design.data
    seen = data.observed
    n, p = int(seen.sum()), data.X.shape[2]
    if n < p + 1:
        were = "value is" if n == 1 else "values are"
        raise DataError(f"{', '.join(model.outcome_names)}: {n} {were} seen and {p} fixed effects asked for")
    # the rank is worth its time in small data only
    if data.n_outcomes > 1 or n > MANY_VALUES:
        return
    rows = data.X[:, 0][seen[:, 0]]
    cluster = data.cluster[seen[:, 0]]
    dummies = (cluster[:, None] == np.unique(cluster)).astype(float)
    scale = np.maximum(np.abs(rows).max(axis=0), 1e-300)
    if np.linalg.matrix_rank(np.hstack([dummies, rows / scale])) == n:
        raise DataError(
            f"{model.outcome_names[0]}: the {n} values seen are fitted exactly by the fixed effects and the clusters "
            f"of {model.group_name!r}; nothing is left to tell the residual variance"
        )


def checked_objective(model) -> PenalisedObjective:
    """The objective of a model, whose start has a finite likelihood.

    Raises
    ------
    OptionError
        If numbers of a mechanism are held at which a unit that was seen would be missing for certain.
    DataError
        If the likelihood has no finite start for another reason.
    """
    objective = model.objective()
    likelihood = objective.likelihood
    start = likelihood.start()
    if np.isfinite(objective(start)[0]):
        return objective
    part = likelihood.part
    if not np.isfinite(part.observed(part.expand(start[likelihood.slices["phi"]]))[0]):
        held = [f"{PHI_NAMES[k]}={value:g}" for slot in part.slots for k, value in slot.held.items() if k < 2]
        raise OptionError(
            f"mechanism: with {', '.join(held)} held, what was seen would be missing for certain (its probability is "
            "one); hold other numbers, or leave the mechanism free"
        )
    raise DataError(
        f"{', '.join(model.outcome_names)}: the likelihood is not finite at its start; the values seen may be "
        "constant, or very large"
    )


def checked_start(model, start_params) -> np.ndarray | None:
    """The start of the fixed effects (p,), None where there is none.

    Raises
    ------
    OptionError
        If it has another length or is not finite.
    """
    if start_params is None:
        return None
    p = model.design.data.X.shape[2]
    try:
        start = np.atleast_1d(np.asarray(start_params, dtype=float))
    except (TypeError, ValueError):
        raise OptionError(
            f"start_params must be {p} finite numbers, one for each of {list(model.exog_names)}; got {start_params!r}"
        ) from None
    if start.shape != (p,) or not np.isfinite(start).all():
        raise OptionError(
            f"start_params must be {p} finite numbers, one for each of {list(model.exog_names)}; found shape "
            f"{start.shape}"
        )
    return start


def bind_priors(model, term: TermShape) -> PriorSet | None:
    """The priors of a model at its dimensions, None for flat ones."""
    priors = bound_priors(
        (model.cov_prior, model.fixef_prior, model.resid_prior),
        (None, None, None),
        terms=[term],
        nobs=int(model.design.data.observed.sum()),
        fixef_names=list(model.exog_names),
    )
    if priors is not None and priors.resid is not None and priors.resid.fixed is not None:
        raise OptionError("resid_prior: selection models estimate the residual variance; point priors do not apply")
    return priors


def fit_restricted(model, maxiter, tol, cov_type) -> SelectionOutcome:
    """Restricted likelihood: the fixed effects integrated with a flat prior by Laplace's method, from the ML fit."""
    first = solve(checked_objective(model), maxiter=maxiter, tol=tol)
    # with the weak penalties that the likelihood needed
    objective = first.objective
    likelihood = objective.likelihood
    if not first.maximum.converged:
        raise OptionError(
            f"the restricted fit starts at the likelihood's maximum, and none is found: {first.maximum.message}; use "
            "reml=False"
        )
    theta, cut = first.maximum.theta, likelihood.slices["beta"]
    chart = Chart(likelihood.with_beta_information())
    nuisance = chart.nuisance
    restricted = RestrictedObjective(objective, chart, theta[cut])
    # standard deviations at zero stay there: the restricted likelihood is symmetric about it
    known = first.maximum.information
    metric = (likelihood.metric(theta) if known is None else known)[np.ix_(nuisance, nuisance)]
    metric = metric + np.diag(np.where(np.diag(metric) > 0, 0.0, 1.0))
    steps = MAXITER if maxiter is None else int(maxiter)
    found = maximise_smoothed(restricted, theta[nuisance], metric, maxiter=steps)
    inner = restricted.fitted(found.theta)
    k = likelihood.size
    covariance_ = np.full((k, k), np.nan)
    if found.converged:
        inverse = found.covariance()
        spread = beta_uncertainty(restricted, found.theta, inverse)
        covariance_ = np.zeros((k, k))
        covariance_[cut, cut] = spread.conditional if cov_type == "conditional" else spread.cov
        covariance_[np.ix_(nuisance, nuisance)] = inverse
        if cov_type != "conditional":
            # the fixed effects follow the variances and the mechanism
            covariance_[cut, nuisance] = spread.moves @ inverse
            covariance_[nuisance, cut] = covariance_[cut, nuisance].T
    warning = (SingularFitWarning, "; ".join(_WEAK[reason] for reason in first.reasons)) if first.reasons else None
    if not found.converged:
        warning = (ConvergenceWarning, f"the fit has not converged: {found.message}")
    maximum = replace(found, theta=inner.theta, score=inner.score, information=None, free=np.ones(k, bool))
    maximum = _signed(likelihood, maximum)
    sign = np.where(maximum.theta * inner.theta < 0, -1.0, 1.0)
    covariance_ = covariance_ * np.outer(sign, sign)
    cov = from_covariance(likelihood, maximum.theta, covariance_)
    llf = restricted.of(inner) + (objective.penalty(inner.theta)[0] if objective.penalties else 0.0)
    return SelectionOutcome(
        params=likelihood.params(maximum.theta),
        llf=float(llf),
        penalty=2.0 * (float(llf) - restricted.of(inner)),
        cov=cov,
        cov_beta=cov.beta,
        k_params=likelihood.size,
        history=found.history,
        n_iter=found.n_iter,
        converged=found.converged,
        message=found.message,
        warning=warning,
        objective=objective,
        maximum=maximum,
        restricted=True,
    )


def loglike_at(model, point: dict) -> float:
    """Log-likelihood at a point given by names; see `SelectionModel.loglike_at`."""
    likelihood = model.objective().likelihood
    part, names = likelihood.part, phi_labels(likelihood.part, model.design.covariate_name)
    phi = part.fixed.copy()
    for name, value in point.get("phi", {}).items():
        if name not in names:
            raise OptionError(f"phi has no element {name!r}; allowed are {names}")
        phi[names.index(name)] = float(value)

    def named(key: str, order) -> np.ndarray:
        if key not in point:
            raise OptionError(f"the point needs {key!r}, a number for each of {list(order)}; it has {sorted(point)}")
        return np.array([float(point[key][name]) for name in order])

    # the moment start says which parameters there are
    start = likelihood.params(likelihood.start())
    own: dict[str, np.ndarray] = {}
    if start.tau is not None:
        own["tau"] = named("tau", model.outcome_names)
    if start.spread is not None:
        own["spread"] = np.array([float(point.get(name, 0.0)) for name in ("omega", "delta")])
    if start.D is not None:
        own["D"] = named("cov_re", model.design.effect_names)
    if start.error_cov is not None:
        if "error_cov" not in point:
            raise OptionError(f"the point needs 'error_cov', the covariance of the errors; it has {sorted(point)}")
        own["error_cov"] = np.asarray(point["error_cov"], dtype=float)
    sigma2 = np.atleast_1d(np.asarray(point.get("sigma2", 1.0), dtype=float))
    params = replace(start, beta=named("params", model.exog_names), sigma2=sigma2, phi=phi, **own)
    return likelihood.value_and_score(likelihood.theta(params))[0]


def fit_direct(model, method: str, start, maxiter, tol, cov_type) -> SelectionOutcome:
    """Maximum likelihood (or the mode under priors) by the direct method or by EM."""
    objective = checked_objective(model)
    theta = None
    if start is not None:
        theta = objective.likelihood.start()
        theta[objective.likelihood.slices["beta"]] = start
        # the moment start's variances belong to other fixed effects: those of these come first
        free = np.ones(theta.size, bool)
        free[objective.likelihood.slices["beta"]] = False
        free[objective.likelihood.slices["phi"]] = False
        theta = solve(
            objective,
            start=theta,
            free=free,
            maxiter=min(START_ITERATIONS, maxiter or START_ITERATIONS),
            tol=1e-3,
            information=False,
        ).maximum.theta
    solution = solve(objective, method=method, start=theta, maxiter=maxiter, tol=tol)
    warning = None
    if solution.reasons:
        texts = [_WEAK[reason] for reason in solution.reasons]
        warning = (SingularFitWarning, "; ".join(texts))
    if not solution.maximum.converged:
        text = f"the fit has not converged: {solution.maximum.message}"
        if start is not None:
            text += "; start_params may be far from any maximum, leave it out"
        warning = (ConvergenceWarning, text)
    out = _from_maximum(solution.objective, solution.maximum, warning, cov_type)
    notes = []
    if solution.modes:
        others = ", ".join(f"{value:.3f}" for value in solution.modes)
        notes.append(
            f"the likelihood has several maxima of similar height: {solution.maximum.value:.3f}, which is reported, "
            f"and {others}"
        )
    if model.design.shared_intercept and solution.maximum.converged and method == "ml":
        notes += shared_intercept_note(model, solution.maximum.value)
    if solution.maximum.converged and method == "ml" and start is None:
        notes += own_terms_notes(model, solution)
    return replace(out, notes=tuple(notes))


def fit_with_lasso(model, penalty: float, maxiter, cov_type) -> SelectionOutcome:
    """Model e with the graphical lasso."""
    data, spec = model.design.data, model.spec
    fit = fit_sparse(
        lambda coordinates: spec.error_likelihood(data, coordinates),
        data.n_outcomes,
        float(penalty),
        penalties=spec.penalties,
        maxiter=200 if maxiter is None else maxiter,
    )
    warning = None
    if not fit.maximum.converged:
        warning = (ConvergenceWarning, f"the fit has not converged: {fit.maximum.message}")
    out = _from_maximum(fit.objective, fit.maximum, warning, cov_type)
    return replace(out, error_penalty=float(penalty))


def _from_maximum(
    objective: PenalisedObjective | OrthantObjective, maximum: Maximum, warning, cov_type: str
) -> SelectionOutcome:
    likelihood = objective.likelihood
    maximum = _signed(likelihood, maximum)
    llf = likelihood.value_and_score(maximum.theta)[0]
    information = maximum.information
    # the curvature at a point that is no maximum is nobody's standard error
    if information is None or not maximum.converged:
        information = np.full((maximum.theta.size,) * 2, np.nan)
    cov = covariance(likelihood, maximum.theta, information)
    return SelectionOutcome(
        params=likelihood.params(maximum.theta),
        llf=llf,
        penalty=2.0 * (llf - maximum.value),
        cov=cov,
        cov_beta=cov.beta if cov_type == "information" else cov.beta_small_sample,
        k_params=likelihood.size,
        history=maximum.history,
        n_iter=maximum.n_iter,
        converged=maximum.converged,
        message=maximum.message,
        warning=warning,
        objective=objective,
        maximum=maximum,
    )


def _signed(likelihood, maximum: Maximum) -> Maximum:
    """The sign of all loadings together is arbitrary; report the positive one."""
    cut = likelihood.slices.get("tau")
    if cut is None or maximum.theta[cut].sum() >= 0:
        return maximum
    sign = np.ones(maximum.theta.size)
    sign[cut] = -1.0
    information = maximum.information
    return replace(
        maximum,
        theta=maximum.theta * sign,
        score=maximum.score * sign,
        information=None if information is None else information * np.outer(sign, sign),
    )


def fit_reproduction(model, start, maxiter, tol, cov_type, error_penalty) -> SelectionOutcome:
    """R's algorithm."""
    if start is not None:
        raise OptionError("method='mvmise' has R's own start; start_params does not apply")
    if cov_type == "information":
        raise OptionError("method='mvmise' has R's own standard errors; cov_type='information' does not apply")
    data, spec = model.design.data, model.spec
    options: dict[str, Any] = {
        "first_sample_variance": spec.first_sample_variance,
        "maxiter": 100 if maxiter is None else maxiter,
        "tol": 1e-3 if tol is None else tol,
    }
    asked = None if model.missing_y == "auto" else bool(model.missing_y)
    penalty = {"auto": None, None: 0.0}.get(error_penalty, error_penalty)
    fit, sentences = spec.variant.reproduce(data, asked, penalty, **options)
    if not fit.converged:
        sentences.append(f"R's stopping rule was not met in {fit.n_iter} iterations")
    if data.cov_miss is not None and data.common_cov and data.n_outcomes > 1:
        order = name_order(data.labels)
        if not np.array_equal(order, np.arange(order.size)):
            sentences.append("R misaligns missing_cov: the cluster names do not sort as text in order of appearance")
    objective = spec.objective(data)
    p = fit.params
    return SelectionOutcome(
        params=p,
        llf=fit.loglikelihood,
        penalty=0.0,
        cov=None,
        cov_beta=fit.cov_beta,
        k_params=objective.likelihood.size,
        history=fit.history,
        n_iter=fit.n_iter,
        converged=fit.converged,
        message="R's stopping rule was met" if fit.converged else sentences[-1],
        warning=(ConvergenceWarning, "; ".join(sentences)) if sentences else None,
        objective=objective,
        maximum=None,
        error_penalty=fit.penalty or None,
        aic=fit.aic if np.isfinite(fit.aic) else None,
        reproduction=fit,
    )


_WEAK = {
    Status.SATURATED: "the mechanism was saturated, where the likelihood of model e is an approximation that does not "
    "hold, so mechanism_prior='weak' was used",
    Status.SINGULAR_ERRORS: "too few samples have all outcomes: the likelihood grows without bound towards a singular "
    "error covariance, so one pseudo-sample with uncorrelated errors was added; error_penalty or fewer outcomes avoid "
    "this",
    Status.UNDETERMINED: "the data do not determine how missingness depends on the outcome (the information is "
    "singular), so mechanism_prior='weak' was used",
    Status.THRESHOLD: "a block is missing exactly when its mean is beyond a threshold, as far as the data can tell: "
    "the likelihood grows as the mechanism's slope runs to infinity, so mechanism_prior='weak' was used",
}
