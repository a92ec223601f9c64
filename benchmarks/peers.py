"""The whole call of every Python package: model, fit and standard errors; imports stay outside the measured time.

Each function of `PEERS` takes a case and its frame and returns the call and what it found: a dictionary of

criterion
    -2 log L, or the REML criterion of a linear model unless ``"ml"`` says otherwise; absent where none is reported.
groups
    Names of the grouping factors and the covariance of the random effects of one level, in the response's units.
sigma2, beta
    Residual variance, and the fixed effects of a generalised model by the names that the package gives them.
"""

from __future__ import annotations

import re

import numpy as np

__all__ = ["PEERS", "NotApplicable", "bars_and_fixed"]

_LARGEST_STATSMODELS = 200_000


class NotApplicable(Exception):
    """The package cannot fit this model."""


def bars_and_fixed(formula):
    """Terms and grouping factors of the parentheses, and the fixed part of the right-hand side."""
    bars = [(left.strip(), right.strip()) for left, right in re.findall(r"\(([^|()]+)\|([^|()]+)\)", formula)]
    right = re.sub(r"\+?\s*\([^()]*\|[^()]*\)", "", formula.split("~")[1]).strip()
    return bars, right.replace("^", "**") or "1"


def _numbers(column):
    """A binary response as numbers."""
    return column.cat.codes.astype(float) if str(column.dtype) == "category" else column.astype(float)


def _found(criterion, groups, sigma2=1.0, beta=None, **more):
    found = {"groups": [[name, np.atleast_2d(cov).tolist()] for name, cov in groups], "sigma2": float(sigma2)}
    if criterion is not None:
        found["criterion"] = float(criterion)
    return {**found, "beta": {k: float(v) for k, v in (beta or {}).items()}, **more}


def _ours(case, frame, *, reml=True, cov_type="nonrobust"):
    import mvmise_sm as ms

    def call():
        if case.get("family"):
            model = ms.glmer(case["formula"], frame, family=case["family"], weights=case.get("weights"))
            fit = model.fit(cov_type=cov_type)
        else:
            fit = ms.lmer(case["formula"], frame).fit(reml=reml)
        assert fit.bse.notna().all()
        return fit

    return call, lambda fit: {"criterion": float(fit.criterion)}


def mvmise_sm(case, frame):
    return _ours(case, frame)


def mvmise_sm_ml(case, frame):
    """What stands beside gpboost."""
    if case.get("family"):
        raise NotApplicable("as mvmise_sm")
    return _ours(case, frame, reml=False)


def mvmise_sm_rx(case, frame):
    """Standard errors as if theta were known, which are all that mixedlm gives."""
    if not case.get("family"):
        raise NotApplicable("linear models")
    return _ours(case, frame, cov_type="rx")


def mixedlm(case, frame):
    import mixedlm as peer
    from mixedlm import families

    formula = case["formula"].replace("^", "**")
    if not case.get("family"):

        def fit():
            return peer.lmer(formula, frame)

    else:
        family = {"binomial": families.Binomial, "poisson": families.Poisson}[case["family"]]()
        response = formula.split("~")[0].strip()
        frame = frame.assign(**{response: _numbers(frame[response])})
        weights = frame[case["weights"]].to_numpy(float) if case.get("weights") else None

        def fit():
            return peer.glmer(formula, frame, family=family, weights=weights)

    def call():
        found = fit()
        np.sqrt(np.diag(found.vcov()))
        return found

    def report(found):
        groups = [(name, group.cov) for name, group in found.VarCorr().groups.items()]
        return _found(-2.0 * found.logLik().value, groups, found.sigma**2, found.fixef())

    return call, report


def gpboost(case, frame):
    """Maximum likelihood only, and of these models those without slopes."""
    import gpboost as peer
    import patsy

    bars, fixed = bars_and_fixed(case["formula"])
    if any(left != "1" for left, _ in bars):
        raise NotApplicable("no correlated slopes")
    if case.get("weights"):
        raise NotApplicable("no binomial counts")
    factors = []
    for _, right in bars:
        names = [n.strip() for n in right.split("/")]
        factors += [names[: i + 1] for i in range(len(names))]
    labels = np.column_stack([frame[names].astype(str).agg(":".join, axis=1) for names in factors])
    likelihood = {None: "gaussian", "binomial": "bernoulli_logit", "poisson": "poisson"}[case.get("family")]
    y = _numbers(frame[case["formula"].split("~")[0].strip()]).to_numpy()

    def call():
        X = np.asarray(patsy.dmatrix(fixed, frame))
        model = peer.GPModel(group_data=labels, likelihood=likelihood)
        model.fit(y=y, X=X)
        model.get_coef(std_err=True)
        return model

    def report(model):
        variances = [float(v) for v in np.ravel(model.get_cov_pars(format_pandas=False))]
        sigma2 = 1.0 if case.get("family") else variances.pop(0)
        groups = zip((":".join(names) for names in factors), variances, strict=True)
        names = patsy.dmatrix(fixed, frame.head()).design_info.column_names
        beta = dict(zip(names, np.ravel(model.get_coef(format_pandas=False)), strict=True))
        return _found(2.0 * model.get_current_neg_log_likelihood(), groups, sigma2, beta, ml=True)

    return call, report


def statsmodels(case, frame):
    import statsmodels.formula.api as smf

    bars, fixed = bars_and_fixed(case["formula"])
    if case.get("family") or len(bars) != 1 or "/" in bars[0][1]:
        raise NotApplicable("one grouping factor and a Gaussian response only")
    if frame.shape[0] > _LARGEST_STATSMODELS:
        raise NotApplicable("does not end within the time limit")
    left, group = bars[0]
    formula = f"{case['formula'].split('~')[0]} ~ {fixed}"
    slopes = None if left == "1" else f"~{left}"

    def call():
        fit = smf.mixedlm(formula, frame, groups=group, re_formula=slopes).fit()
        fit.bse  # noqa: B018
        return fit

    return call, lambda fit: _found(-2.0 * fit.llf, [(group, np.asarray(fit.cov_re))], fit.scale)


def flashmm(case, frame):
    """Arrays without formula and labels; Z is dense, so small models without slopes."""
    import patsy
    from flash_mm.lmmfit import lmmfit

    bars, fixed = bars_and_fixed(case["formula"])
    if case.get("family") or any(left != "1" for left, _ in bars) or frame.shape[0] > 1_000:
        raise NotApplicable("linear, intercepts, a dense Z")
    factors = []
    for _, right in bars:
        names = [n.strip() for n in right.split("/")]
        factors += [names[: i + 1] for i in range(len(names))]
    X = np.asarray(patsy.dmatrix(fixed, frame))
    blocks = []
    for names in factors:
        labels, codes = np.unique(frame[names].astype(str).agg(":".join, axis=1), return_inverse=True)
        blocks.append((codes[:, None] == np.arange(len(labels))).astype(float))
    Z, sizes = np.column_stack(blocks), [block.shape[1] for block in blocks]
    Y = frame[[case["formula"].split("~")[0].strip()]].to_numpy().T

    def call():
        return lmmfit(Y, X, Z, d=sizes)

    def report(fit):
        theta = np.ravel(fit["theta"])
        groups = zip((":".join(names) for names in factors), theta[:-1], strict=True)
        # its log-likelihood leaves constants out, so its parameters are compared
        return _found(None, groups, theta[-1])

    return call, report


def floor(case, frame):
    """statsmodels' least squares, or generalised linear model, of the fixed effects on the same rows."""
    import statsmodels.api as sm
    import statsmodels.formula.api as smf

    _, fixed = bars_and_fixed(case["formula"])
    response = case["formula"].split("~")[0].strip()
    formula = f"{response} ~ {fixed}"
    if not case.get("family"):

        def call():
            smf.ols(formula, frame).fit().bse  # noqa: B018

    else:
        family = {"binomial": sm.families.Binomial, "poisson": sm.families.Poisson}[case["family"]]()
        frame = frame.assign(**{response: _numbers(frame[response])})
        weights = {"var_weights": frame[case["weights"]]} if case.get("weights") else {}

        def call():
            smf.glm(formula, frame, family=family, **weights).fit().bse  # noqa: B018

    return call, lambda fit: {}


PEERS = {f.__name__: f for f in (mvmise_sm, mvmise_sm_ml, mvmise_sm_rx, mixedlm, gpboost, statsmodels, flashmm, floor)}
