"""Every linear mixed model that R has fitted: one matrix of cases, each with its own tolerances.

R's names are reached from patsy's: ``recipe[T.B]`` is ``recipeB``, ``C(f, Poly).Linear`` is ``f.L``.
"""

import itertools
import re
import warnings
from functools import cache

import numpy as np
import pandas as pd
import pytest
from conftest import reference_cases, reference_frame

import mvmise_sm as ms
from mvmise_sm.core.covariance.structures import semidefinite_cholesky
from mvmise_sm.exceptions import RankWarning, SingularFitWarning

# Fits whose criterion is lower than R's best by more than the case's tolerance; their other numbers are not R's.
BETTER_THAN_R: frozenset[str] = frozenset()

CASES = {case["id"]: case for case in reference_cases("lmm")}
INFERENCE = [c for c in reference_cases("inference") if c["kind"] in ("predict", "condvar", "residuals")]
INFERENCE = {c["id"]: c for c in INFERENCE if c["model"]["family"] is None}
ORDERED = {"cake": ["temperature"], "InstEval": ["studage", "lectage"]}


def python_formula(formula, dataset, contrasts):
    """The formula with the contrasts that R takes by default or by option."""
    for name in ORDERED.get(dataset, []):
        formula = re.sub(rf"\b{name}\b", f"C({name}, Poly)", formula)
    for name, kind in (contrasts or {}).items():
        formula = re.sub(rf"\b{name}\b", f"C({name}, {kind.capitalize()})", formula)
    return formula


def r_name(name, frame):
    """R's name of one of patsy's columns."""
    if name == "Intercept":
        return "(Intercept)"
    pieces = []
    for piece in re.split(r":(?![^(\[]*[)\]])", name):
        variable = re.sub(r"^C\((\w+),.*?\)", r"\1", piece)
        coded = re.fullmatch(r"(.+)\[(T\.|S\.)?(.+)\]", variable)
        if coded and coded[2] == "S.":
            variable = coded[1] + str(list(frame[coded[1]].cat.categories).index(coded[3]) + 1)
        elif coded:
            variable = coded[1] + coded[3]
        for ours, theirs in ((".Linear", ".L"), (".Quadratic", ".Q"), (".Cubic", ".C")):
            variable = variable.replace(ours, theirs)
        pieces.append(re.sub(r"\s+", "", variable).replace("**", "^"))
    return ":".join(pieces)


def r_groups(name):
    """R's spellings of a grouping factor: ``a/b`` makes ``b:a`` there."""
    return [":".join(order) for order in itertools.permutations(name.split(":"))]


@cache
def fitted(case_id):
    case = CASES[case_id]
    frame = reference_frame(case["dataset"])
    formula = python_formula(case["formula"], case["dataset"], case["contrasts"])
    model_warnings = (SingularFitWarning, RankWarning)
    with warnings.catch_warnings():
        for category in model_warnings:
            warnings.simplefilter("ignore", category)
        result = ms.lmer(formula, frame, weights=case["weights"], offset=case["offset"]).fit(reml=case["reml"])
    return case, frame, result


@pytest.fixture(params=CASES)
def fit(request):
    case, frame, result = fitted(request.param)
    return case["expected"], case["tol"], case, frame, result


def skip_unless_same_optimum(case):
    if "degenerate" in case["tags"]:
        pytest.skip("theta is not identified")
    if case["id"] in BETTER_THAN_R:
        pytest.skip("a better optimum than R's")


def _plain(name):
    """A name without blanks, the factors of an interaction in alphabetical order: R and patsy differ there."""
    return tuple(sorted(re.sub(r"\s+", "", name).split(":")))


def in_r_order(expected_names, names, frame):
    ours, theirs = [[_plain(r_name(n, frame)) for n in names], [_plain(n) for n in expected_names]]
    assert sorted(ours) == sorted(theirs)
    return [ours.index(n) for n in theirs]


def test_criterion(fit):
    expected, tol, case, _, result = fit
    gap = result.criterion - expected["criterion"]
    assert gap < tol["criterion"]
    assert (gap < -tol["criterion"]) == (case["id"] in BETTER_THAN_R)
    assert result.converged


def test_likelihood_and_counts(fit):
    expected, tol, _, _, result = fit
    assert result.k_params == expected["npar"]
    assert result.nobs == expected["nobs"]
    np.testing.assert_allclose(result.llf, expected["logLik"], rtol=0, atol=tol["criterion"])
    np.testing.assert_allclose(result.aic, expected["AIC"], rtol=0, atol=tol["criterion"])
    np.testing.assert_allclose(result.bic, expected["BIC"], rtol=0, atol=tol["criterion"])


def test_fixed_effects(fit):
    expected, tol, case, frame, result = fit
    order = in_r_order(expected["fixef"], result.model.exog_names, frame)
    se = np.array(list(expected["se"].values()))
    params, bse = result.params.to_numpy()[order], result.bse.to_numpy()[order]
    theirs = np.array(list(expected["fixef"].values()))
    np.testing.assert_allclose(params / se, theirs / se, rtol=0, atol=tol["fixef_in_se"])
    np.testing.assert_allclose(np.sqrt(result.scale), expected["sigma"], rtol=tol["sigma_rel"])
    if "degenerate" in case["tags"]:
        return
    np.testing.assert_allclose(bse, se, rtol=tol["se_rel"])
    order = in_r_order(expected["vcov_names"], result.model.exog_names, frame)
    cov, theirs = result.cov_params().to_numpy()[np.ix_(order, order)], np.array(expected["vcov"])
    scale = np.sqrt(np.outer(np.diag(theirs), np.diag(theirs)))
    np.testing.assert_allclose(cov / scale, theirs / scale, rtol=0, atol=2 * tol["se_rel"])


def test_theta(fit):
    expected, tol, case, frame, result = fit
    skip_unless_same_optimum(case)
    layout = result.model.random_layout
    ours = {}
    for term, lam in zip(layout.terms, layout.lambdas(result.theta), strict=True):
        names = [r_name(n, frame) for n in term.names]
        groups = r_groups(term.factor.name)
        theirs = next(e["names"] for e in expected["varcorr"] if e["group"] in groups and set(e["names"]) == set(names))
        if names != theirs:  # patsy puts categorical columns first
            order = [names.index(n) for n in theirs]
            names, lam = theirs, semidefinite_cholesky((lam @ lam.T)[np.ix_(order, order)])
        for group in groups:
            for i, j in zip(term.structure.rows, term.structure.cols, strict=True):
                ours[".".join([group, names[i]] + ([names[j]] if i != j else []))] = lam[i, j]
    for (name, value), atol in zip(expected["theta"].items(), tol["theta"], strict=True):
        assert abs(ours[name] - value) <= atol, name


def test_variance_components(fit):
    expected, tol, case, frame, result = fit
    skip_unless_same_optimum(case)
    atol = tol["sd_abs_in_sigma"] * expected["sigma"]
    table = result.varcorr
    assert list(table.columns) == ["grp", "var1", "var2", "vcov", "sdcor"]
    ours = {}
    for grp, var1, var2, vcov, sdcor in table.itertuples(index=False):
        names = frozenset(r_name(v, frame) for v in (var1, var2) if isinstance(v, str))
        for group in r_groups(re.sub(r"\.\d+$", "", grp) if grp not in result.n_groups else grp):
            ours[group, names] = vcov, sdcor
    for entry in expected["varcorr"]:
        for i, name in enumerate(entry["names"]):
            assert abs(ours[entry["group"], frozenset([name])][1] - entry["sd"][i]) <= atol
            for j in range(i):
                bound = atol * (entry["sd"][i] + entry["sd"][j] + atol)
                vcov = ours[entry["group"], frozenset([name, entry["names"][j]])][0]
                assert abs(vcov - entry["cov"][i][j]) <= bound
    assert table["grp"].iloc[-1] == "Residual"
    np.testing.assert_allclose(table["sdcor"].iloc[-1], expected["sigma"], rtol=tol["sigma_rel"])


def test_random_effects(fit):
    expected, tol, case, frame, result = fit
    skip_unless_same_optimum(case)
    modes = {name: result.random_effects[key] for key in result.random_effects for name in r_groups(key)}
    spread = {}
    for entry in expected["varcorr"]:
        for name, sd in zip(entry["names"], entry["sd"], strict=True):
            spread[entry["group"], name] = sd
    for entry in expected["ranef"]:
        ours = modes[entry["group"]]
        columns = [r_name(c, frame) for c in ours.columns]
        labels = ours.index.astype(str)
        if ":" in entry["group"] and not set(entry["levels"]) <= set(labels):
            labels = pd.Index([":".join(reversed(label.split(":"))) for label in labels])
        at = [columns.index(c) for c in entry["columns"]]
        values = ours.to_numpy()[labels.get_indexer(entry["levels"])][:, at]
        scale = np.array([max(spread[entry["group"], c], 1e-3 * expected["sigma"]) for c in entry["columns"]])
        np.testing.assert_allclose(values / scale, np.array(entry["values"]) / scale, rtol=0, atol=tol["ranef_in_sd"])
        assert len(ours) == entry["n_levels"]
        np.testing.assert_allclose(
            (ours.to_numpy()[:, at] ** 2).sum(axis=0) / (len(ours) * scale**2),
            np.array(entry["sumsq"]) / (len(ours) * scale**2),
            atol=4 * tol["ranef_in_sd"],
        )


def test_fitted_values_and_residuals(fit):
    expected, tol, case, _, result = fit
    skip_unless_same_optimum(case)
    atol = tol["fitted_rel"] * float(np.std(result.model.endog))
    ours = result.fittedvalues.to_numpy()
    head = expected["fitted_head"]
    np.testing.assert_allclose(ours[: len(head)], head, rtol=0, atol=atol)
    np.testing.assert_allclose(result.resid[: len(head)], expected["resid_head"], rtol=0, atol=atol)
    np.testing.assert_allclose(ours @ ours, expected["fitted_sumsq"], rtol=tol["fitted_rel"])


def inference_fit(case):
    model = case["model"]
    frame = reference_frame(model["dataset"])
    return ms.lmer(model["formula"], frame, weights=model["weights"]).fit(reml=model["reml"]), frame


@pytest.mark.parametrize("case", [c for c in INFERENCE.values() if c["kind"] == "predict"], ids=lambda c: c["id"])
def test_predict(case):
    result, frame = inference_fit(case)
    new = pd.DataFrame(case["newdata"])
    atol = 1e-5 * float(np.std(result.model.endog))
    np.testing.assert_allclose(result.predict(new, random="none"), case["expected"]["fixed_only"], rtol=0, atol=atol)
    np.testing.assert_allclose(result.predict(new, allow_new_levels=True), case["expected"]["all"], rtol=0, atol=atol)
    if case["partial_re_form"]:
        partial = ms.lmer(f"y {case['partial_re_form']}", frame.assign(y=np.arange(len(frame))))
        names = list(partial.random_effects.n_groups)
        ours = result.predict(new, random=names, allow_new_levels=True)
        np.testing.assert_allclose(ours, case["expected"]["partial"], rtol=0, atol=atol)


@pytest.mark.parametrize("case", [c for c in INFERENCE.values() if c["kind"] == "condvar"], ids=lambda c: c["id"])
def test_conditional_variances(case):
    result, _ = inference_fit(case)
    for entry in case["expected"]:
        levels = list(result.random_effects[entry["group"]].index)
        ours = result.random_effects_cov[entry["group"]][[levels.index(level) for level in entry["levels"]]]
        np.testing.assert_allclose(ours, entry["condvar"], rtol=1e-4)


@pytest.mark.parametrize("case", [c for c in INFERENCE.values() if c["kind"] == "residuals"], ids=lambda c: c["id"])
def test_residuals(case):
    result, _ = inference_fit(case)
    for name, ours in (("response", result.resid), ("pearson", result.resid_pearson)):
        np.testing.assert_allclose(ours[: len(case["expected"][name])], case["expected"][name], rtol=0, atol=1e-4)
