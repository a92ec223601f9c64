"""One function per package: fit a case and return what was minimised; the import stays outside the measured time."""

from __future__ import annotations

import re

import numpy as np

__all__ = ["PEERS", "NotApplicable"]


class NotApplicable(Exception):
    """The package cannot fit this model."""


def mvmise_sm(case, frame):
    import statsmodels.api as sm

    import mvmise_sm as ms

    if not case.get("family"):
        return lambda: ms.lmer(case["formula"], frame).fit(), lambda res: res.criterion
    family = {"binomial": sm.families.Binomial, "poisson": sm.families.Poisson}[case["family"]]()
    return (
        lambda: ms.glmer(case["formula"], frame, family=family, weights=case.get("weights")).fit(),
        lambda res: res.criterion,
    )


def mixedlm(case, frame):
    import mixedlm as peer

    formula = case["formula"].replace("^", "**")
    if not case.get("family"):
        return lambda: peer.lmer(formula, frame), lambda res: -2.0 * float(res.logLik().value)
    family = (
        {"binomial": peer.Binomial, "poisson": peer.Poisson}[case["family"]]() if hasattr(peer, "Binomial") else None
    )
    if family is None:
        from mixedlm import families

        family = {"binomial": families.Binomial, "poisson": families.Poisson}[case["family"]]()
    # this package wants numbers for a binary response
    response = formula.split("~")[0].strip()
    if str(frame[response].dtype) == "category":
        frame = frame.assign(**{response: frame[response].cat.codes.astype(float)})
    weights = frame[case["weights"]].to_numpy(float) if case.get("weights") else None
    return lambda: peer.glmer(
        formula, frame, family=family, weights=weights
    ), lambda res: -2.0 * float(res.logLik().value)


def gpboost(case, frame):
    """Maximum likelihood only, and only random intercepts or uncorrelated slopes."""
    import gpboost as peer
    import patsy

    bars = re.findall(r"\(([^|()]+)\|([^|()]+)\)", case["formula"])
    if any(left.strip() != "1" for left, _ in bars):
        raise NotApplicable("no correlated slopes")
    groups = []
    for _, right in bars:
        names = [n.strip() for n in right.split("/")]
        groups += [frame[names[: i + 1]].astype(str).agg(":".join, axis=1) for i in range(len(names))]
    response, right = case["formula"].split("~")
    fixed = re.sub(r"\+?\s*\([^()]*\|[^()]*\)", "", right).strip() or "1"
    y = frame[response.strip()]
    y = y.cat.codes.to_numpy(float) if str(y.dtype) == "category" else y.to_numpy(float)
    weights = None
    likelihood = {None: "gaussian", "binomial": "bernoulli_logit", "poisson": "poisson"}[case.get("family")]
    if case.get("weights"):
        raise NotApplicable("no binomial counts")
    labels = np.column_stack([g.astype(str) for g in groups])

    def fit():
        X = np.asarray(patsy.dmatrix(fixed.replace("I(age^2)", "I(age**2)"), frame))
        model = peer.GPModel(group_data=labels, likelihood=likelihood, weights=weights)
        model.fit(y=y, X=X)
        return model

    return fit, lambda model: 2.0 * float(model.get_current_neg_log_likelihood())


def statsmodels(case, frame):
    import statsmodels.formula.api as smf

    bars = re.findall(r"\(([^|()]+)\|([^|()]+)\)", case["formula"])
    if case.get("family") or len(bars) != 1 or "/" in bars[0][1]:
        raise NotApplicable("one grouping factor and a Gaussian response only")
    if frame.shape[0] > 200_000:
        raise NotApplicable("does not end within the time limit")
    left, group = bars[0]
    fixed = re.sub(r"\+?\s*\([^()]*\|[^()]*\)", "", case["formula"])
    slopes = None if left.strip() == "1" else f"~{left}"
    return (
        lambda: smf.mixedlm(fixed, frame, groups=group.strip(), re_formula=slopes).fit(),
        lambda res: -2.0 * float(res.llf),
    )


PEERS = {f.__name__: f for f in (mvmise_sm, mixedlm, gpboost, statsmodels)}
