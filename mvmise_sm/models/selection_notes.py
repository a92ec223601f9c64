"""What a fit of a selection model has to say beside its numbers: terms and intercepts that the data ask for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import stats

from mvmise_sm.models.fixed import constant_column
from mvmise_sm.selection.data import SelectionData
from mvmise_sm.selection.likelihood import SelectionParams
from mvmise_sm.selection.solve import solve
from mvmise_sm.selection.two_way import spread_tests

__all__ = ["own_terms_notes", "shared_intercept_note"]

# p-value below which data refuse a simpler model loudly enough for a warning
REFUSED = 1e-3
# mean squares of two-way tables that are this usual give no reason for a second fit
USUAL = 1e-2


def shared_intercept_note(model, value: float) -> list[str]:
    """What to say where one intercept for all outcomes is refused by the data; the score test fails there.

    The information of the larger model is indefinite at the fit of the smaller one, so both are fitted.
    """
    const = constant_column(model.design.common_exog.to_numpy(dtype=float))
    wider = model.with_outcome_effects(sorted({*model.design.outcome_effects, const}))
    own = solve(wider.objective(), information=False).maximum
    df = wider.design.data.X.shape[2] - model.design.data.X.shape[2]
    ratio = 2.0 * (own.value - value)
    if not own.converged or stats.chi2.sf(ratio, df) >= REFUSED:
        return []
    return [
        f"the outcomes do not share one intercept (likelihood ratio {ratio:.1f} on {df} df): leave outcome_effects "
        "out, or standard errors are wrong"
    ]


def _quick_fit(spec, data: SelectionData) -> tuple[float, SelectionParams | None]:
    """Maximum and parameters from the moment start, without information; minus infinity where there is none."""
    likelihood = spec.likelihood(data)
    start = likelihood.start()
    try:
        found = solve(spec.objective(data), start=start, tol=1e-6, information=False).maximum
    except np.linalg.LinAlgError:
        # a fit that only serves a remark never stops the user's own
        return -np.inf, None
    return (found.value, likelihood.params(found.theta)) if found.converged else (-np.inf, None)


def own_terms_notes(model, solution) -> list[str]:
    """What to say where outcomes vary between batches on their own, or together within samples, and no term says so.

    Both are compared by likelihood ratio with the missing values taken as missing at random, which needs no integrals,
    once the mean squares of two-way tables of residuals give reason to.
    """
    spec, data = model.spec, model.design.data
    if not spec.variant.takes_own_terms or data.n_outcomes < 2 or spec.penalties or solution.reasons:
        return []
    if spec.first_sample_variance or any(slot.single for slot in spec.slots):
        return []
    p_blocks, p_samples = spread_tests(data)
    group, out = model.group_name, []
    plain = replace(spec, mechanism=None)
    asked = [
        (not spec.own_blocks and p_blocks < USUAL, "own_blocks"),
        (not spec.samples and p_samples < USUAL, "samples"),
    ]
    if not any(wanted for wanted, _ in asked):
        return []
    value = _quick_fit(plain, data)[0]
    for wanted, name in asked:
        wider = replace(plain, **{name: True})
        found, params = _quick_fit(wider, data) if wanted else (-np.inf, None)
        if params is None or params.spread is None or not stats.chi2.sf(2.0 * (found - value), 1) < REFUSED:
            continue
        plain, value, sigma = wider, found, np.sqrt(params.sigma2[0])
        if name == "own_blocks":
            out.append(
                f"outcomes vary between batches on their own (sd {abs(params.spread[0]):.3g} beside sigma "
                f"{sigma:.3g}): add (1 | {group}:outcome) or normalise to a reference"
            )
        else:
            out.append(
                f"outcomes of one sample vary together (sd {abs(params.spread[1]):.3g} beside sigma {sigma:.3g}): add "
                "(1 | sample), or standard errors are too small"
            )
    return out
