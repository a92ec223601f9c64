"""What is singular, weakly identified or doubtful in a fit, in sentences."""

from __future__ import annotations

import numpy as np

from mvmise_sm.core.covariance.reported import parameter_label
from mvmise_sm.exceptions import OptionError
from mvmise_sm.inference.checks import vif
from mvmise_sm.inference.ddf import second_order_of
from mvmise_sm.inference.fits import unwrap, with_rows

__all__ = ["Findings", "check"]

_FEW_LEVELS = 5
_WEAK = 0.5
_COLLINEAR = 10.0
_OUTLYING = 4.5
_PERFECT = 1.0 - 1e-4
# shift of an estimate, in standard errors, that is worth a word; rows times parameters that are looked at unasked
_SHIFTED, _QUICK = 0.1, 2e4


class Findings(tuple):
    """Sentences about a fit; prints one per line."""

    __slots__ = ()

    def __repr__(self):
        return "\n".join(f"- {sentence}" for sentence in self)

    __str__ = __repr__


def check(result):
    """What is singular, weakly identified or doubtful, and what to try.

    Returns
    -------
    Findings
        A tuple of sentences.
    """
    if unwrap(result).model.streamed:
        return Findings(_of_sums(unwrap(result)))
    result = with_rows(result)
    found = [
        *_convergence(result),
        *_undetermined(result),
        *_singular(result),
        *_weak(result),
        *_approximation(result),
        *_columns(result),
        *_rows(result),
    ]
    if not found:
        found = ["Nothing found: the fit is a regular optimum, its variances are identified, and no row stands out."]
    return Findings(found)


def _of_sums(result):
    """What a fit without rows can tell."""
    found = [*_convergence(result), *_undetermined(result), *_singular(result), *_weak(result), *_columns(result)]
    if not found:
        found = ["Nothing found: the fit is a regular optimum."]
    return [*found, "The fit holds no rows: whether single rows stand out was not looked at."]


def _convergence(result):
    if not result.converged:
        yield (
            f"The optimiser did not converge ({result.message}): compare optimisers with all_fit(), centre or "
            "rescale numeric variables, or simplify the random effects."
        )


def _undetermined(result):
    if result.undetermined is not None:
        texts = [t.text or f"({', '.join(t.names)} | {t.factor.name})" for t in _random(result).terms]
        yield (
            f"Not identified: {result.undetermined.sentence(texts)}. Their estimates are arbitrary; leave a term out, "
            "or give a prior (cov_prior='wishart')."
        )


def _singular(result):
    random = _random(result)
    for term, at in zip(random.terms, random.theta_slices, strict=True):
        theta = result.theta[at]
        lam = term.structure.factor(theta)
        text = term.text or f"({', '.join(term.names)} | {term.factor.name})"
        cov = lam @ lam.T
        sd = np.sqrt(cov.diagonal())
        effect = sd * _sizes(term)
        floor = 1e-4 * max(1.0, float(effect.max()))
        for name, value in zip(term.names, effect, strict=True):
            if value < floor:
                yield (
                    f"The variance of {name} in {text} is estimated as zero: the data do not call for it; leave it "
                    "out, or keep it away from zero with a prior (cov_prior='wishart')."
                )
        kept = np.flatnonzero(effect >= floor)
        if len(kept) < 2 or term.structure.independent:
            continue
        shown = {term.names[k] for k in kept}
        extreme = [
            p
            for p in term.structure.parameters(theta, term.names)
            if p.kind == "cor" and shown.issuperset(p.levels) and abs(p.value) > _PERFECT
        ]
        for p in extreme:
            what = f"correlation of {p.levels[0]} and {p.levels[1]}" if p.levels else f"correlation {p.name}"
            yield (
                f"The {what} in {text} is estimated as {'1' if p.value > 0 else '-1'}: the term is richer than the "
                "data; try independent effects with '||', or a prior (cov_prior='wishart')."
            )
        corr = cov[np.ix_(kept, kept)] / np.outer(sd[kept], sd[kept])
        if not extreme and np.linalg.eigvalsh(corr)[0] < 1e-6:
            yield (
                f"The covariance matrix of {text} has not full rank: fewer dimensions vary than it has columns; leave "
                "a column out, or use a prior (cov_prior='wishart')."
            )


def _approximation(result):
    """What the Laplace approximation may have done to the estimates, where that is found in little time."""
    if result.linear or result.nagq != 1 or not result.converged or result.singular:
        return
    criterion = result.deviance_function()
    several = len(criterion.layout.factors) > 1
    if several and result.nobs * len(result.optimum) > _QUICK:
        return
    try:
        table = result.laplace_error()
    except OptionError:
        return
    share = table["shift_se"].abs()
    if not np.isfinite(share).any() or share.max() <= _SHIFTED:
        return
    name = share.idxmax()
    q = sum(t.q for t in result.model.random_effects.terms)
    hint = "fit(nagq=9) integrates more exactly" if not several and q <= 3 else "see laplace_error()"
    yield (
        f"The Laplace approximation moves {name} by about {share.max():.2f} standard errors from the exact integral: "
        f"{hint}."
    )


def _random(result):
    """The random effects with their rows, or without where a fit holds none."""
    model = result.model
    return model.random_layout if model.random_effects is None else model.random_effects


def _sizes(term):
    """Root mean square of the columns of a term (q,), one where the rows are gone."""
    return np.array([1.0 if c is None or not len(c) else np.sqrt(np.mean(np.square(c))) for c in term.columns])


def _weak(result):
    layout = result.model.random_layout
    for factor in layout.factors:
        if factor.n_levels < _FEW_LEVELS:
            yield (
                f"{factor.name} has only {factor.n_levels} levels, which say little about a variance: consider it as a "
                "fixed effect, or give its variance a prior."
            )
    if not result.linear:
        return
    for name, share in _relative_errors(result).items():
        if share > _WEAK:
            yield (
                f"{name} is weakly identified: its standard error is {100.0 * share:.0f}% of the estimate; look at "
                "profile() before interpreting it."
            )


def _relative_errors(result):
    """Standard error over estimate of every standard deviation that is not zero."""
    criterion = result.deviance_function()
    cov = second_order_of(result).cov
    x = np.append(criterion.working_theta(result.theta), np.log(result.scale))
    space, layout = criterion.space, _random(result)
    out = {}
    bases = criterion.layout.term_bases
    for term, structure, basis, at in zip(layout.terms, space.structures, bases, layout.theta_slices, strict=True):
        typical = dict(zip(term.names, _sizes(term), strict=True))
        for p in structure.parameters(x[at], term.names, basis.a):
            size = typical[p.levels[0]] if p.levels else max(typical.values())
            if p.kind == "sd" and p.value * size > 1e-4:
                gradient = np.zeros(len(x))
                gradient[at] = p.gradient / p.value
                gradient[-1] = 0.5
                out[parameter_label(p, term.factor.name)] = float(np.sqrt(max(gradient @ cov @ gradient, 0.0)))
    return out


def _columns(result):
    if result.dropped:
        yield f"The columns {', '.join(result.dropped)} are combinations of others and were dropped."
    if result.k_fe > 1:
        inflated = vif(result)
        for name, value in inflated["per_df"].items():
            if value**2 > _COLLINEAR and ":" not in str(name):
                yield (
                    f"{name} is nearly a combination of the other fixed effects (variance inflation {value**2:.1f}): "
                    "its coefficient is imprecise; centre variables that interact, or drop one."
                )


def _rows(result):
    if result.model.endog is None:
        return
    if result.linear:
        scaled = np.abs(np.asarray(result.resid_pearson)) / np.sqrt(result.scale)
        count = int((scaled > _OUTLYING).sum())
        if count:
            rows = "row has a residual" if count == 1 else "rows have residuals"
            yield f"{count} {rows} beyond {_OUTLYING} standard deviations: see plot_diagnostics() and get_influence()."
    elif not result.k_scale and not result.family.has_dispersion and not result.family.shape_names:
        found = result.overdispersion()
        if found["p_value"] < 0.01 and found["ratio"] > 1.2:
            yield (
                f"The residuals are larger than the family allows (dispersion {found['ratio']:.2f}): try a negative "
                "binomial model, or a random effect with one level per row."
            )
