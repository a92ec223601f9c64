"""Covariance structures against dense computations, nlme, glmmTMB and SAS: optimum, standard errors, tests, effects."""

import re
import warnings

import numpy as np
import pytest
from structures_reference import cases, data, model_of

import mvmise_sm as ms
from mvmise_sm.exceptions import IdentificationWarning, SingularFitWarning

CASES = {case["id"]: case for name in ("residual", "random", "known", "glmm") for case in cases(name)}
# each structure, each kind of data once; the others take the same roads again
FAST = [
    "fev-us-reml",
    "fev-csh-reml",
    "fev-ar1-ml",
    "fev-toeph-ml",
    "fev-anteh-reml",
    "fevarm-toep-kr",
    "fev-exp2",
    "fev-gau2-ml",
    "fev-us-weighted",
    "fev-group-ar1h",
    "orthodont-slope-diag",
    "sleep-int-ar1",
    "trial-site-us",
    "trial-site-id-ar1-w",
    "irr-exp-nugget",
    "irr-gau",
    "g-homcs-diagres",
    "sleep-ar1",
    "g-cs",
    "g-hetar1",
    "g-toep",
    "g-homtoep",
    "g-ar1-crossed",
    "g-mat15-num",
    "g-homdiag",
    "g-singular-one",
    "g-negative",
    "kin-herd",
    "kin-slope",
    "kin-pedigree",
    "clones",
    "members-cls",
    "glmm-poisson-ar1",
    "glmm-binomial-ar1",
]


def plain(name):
    text = re.sub(r"\[T?\.?([^\]]*)\]", r"\1", str(name))
    return re.sub(r"C\(|[() ]", "", text)


def named(series):
    return {plain(k): float(v) for k, v in dict(series).items()}


def matrix(frame, names):
    frame = frame.rename(index=plain, columns=plain)
    wanted = [plain(n) for n in names]
    return frame.loc[wanted, wanted].to_numpy() if set(wanted) <= set(frame.index) else frame.to_numpy()


def fitted(case):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SingularFitWarning)
        warnings.simplefilter("ignore", IdentificationWarning)
        model = model_of(case)
        return model, model.fit() if "family" in case["options"] else model.fit(reml=case["options"].get("reml", True))


def parameters(ids):
    return [pytest.param(i, marks=() if i in FAST else pytest.mark.slow) for i in ids]


@pytest.mark.parametrize("case_id", parameters(CASES))
def test_case(case_id):
    case = CASES[case_id]
    want, tol = case["expected"], case["tol"]
    _, result = fitted(case)
    assert result.converged
    assert result.llf == pytest.approx(want["llf"], abs=tol["llf"])
    se = want["bse"] or {k: 1.0 + abs(v) for k, v in want["params"].items()}
    params, bse = named(result.params), named(result.bse)
    for name, value in want["params"].items():
        assert params[plain(name)] == pytest.approx(value, abs=tol["params"] * se[name])
        if want["bse"]:
            assert bse[plain(name)] == pytest.approx(se[name], rel=tol["bse"])
    for term in want.get("cov_re", []):
        group = re.sub(r",\s*weights=\([^)]*\)", "", term["group"])
        if "cov" in term:
            cov = np.array(term["cov"])
            size = max(np.trace(cov) / len(cov), 1e-3)
            np.testing.assert_allclose(matrix(result.cov_re[group], term["columns"]), cov, atol=tol["cov"] * size)
            continue
        rows = result.structures.query("grp == @group").set_index("param").estimate
        for name, value in term["params"].items():
            assert rows[name] == pytest.approx(value, rel=10 * tol["cov"])
    check_residuals(result, want, tol)
    check_tests(result, case, want, tol)
    check_effects(result, case, want, tol)


def check_residuals(result, want, tol):
    block = want.get("residual_cov", {"groups": [], "cov": []})
    for group, cov in zip(block["groups"], block["cov"], strict=True):
        found = result.residual_cov[group] if isinstance(result.residual_cov, dict) else result.residual_cov
        cov = np.array(cov)
        size = np.trace(cov) / len(cov)
        np.testing.assert_allclose(matrix(found, want["residual_cov"]["levels"]), cov, atol=tol["cov"] * size)
    for name, value in want.get("residual_params", {}).items():
        assert result.residual_params[name] == pytest.approx(value, rel=10 * tol["cov"])
    if "scale" in want:
        assert result.scale == pytest.approx(want["scale"], rel=tol["cov"])


def check_tests(result, case, want, tol):
    if "df_satterthwaite" not in want or not tol.get("df"):
        return
    # models without a residual structure take the expected information, as pbkrtest
    kr = want["kr"] if case["residual"] else want["kr_expected_information"]
    for ddf, df, errors in (("satterthwaite", want["df_satterthwaite"], {}), ("kenward-roger", kr["df"], kr["bse"])):
        table = result.tidy(ddf=ddf).set_index("term").rename(index=plain)
        for name, value in df.items():
            assert table.df[plain(name)] == pytest.approx(value, rel=tol["df"])
        for name, value in errors.items():
            assert table.std_error[plain(name)] == pytest.approx(value, rel=tol["bse"])
    for term, f in want.get("f_tests", {}).items():
        row = result.anova(ddf="kenward-roger", type=1).loc[term]
        assert row["F"] == pytest.approx(f["kr"]["F"], rel=1e-3)
        assert row["df_denom"] == pytest.approx(f["kr"]["df_denom"], rel=1e-3)


def check_effects(result, case, want, tol):
    for term in want.get("random_effects", []):
        if term["modes"] is not None:
            modes = np.array(term["modes"])
            b = result.random_effects[re.sub(r",\s*weights=\([^)]*\)", "", term["group"])].rename(index=str)
            found = b.loc[term["levels"]].to_numpy(float)
            np.testing.assert_allclose(found, modes, atol=max(10 * tol["params"] * np.abs(modes).max(), 1e-4))
    if "fitted_head" in want:
        head = np.array(want["fitted_head"])
        close = {"atol": 10 * tol["params"] * (head.std() + 0.1 * np.abs(head).mean())}
        np.testing.assert_allclose(np.asarray(result.fittedvalues)[:5], head, **close)
        response = case["formula"].split("~")[0].strip()
        frame = data(case["dataset"])
        frame = frame[frame[response].notna()].iloc[:5].drop(columns=response)
        np.testing.assert_allclose(result.predict(frame), head, **close)
        np.testing.assert_allclose(result.predict(frame, random="none"), want["population_head"], **close)


@pytest.mark.parametrize("case_id", ["fev-us-reml", "fev-csh-reml", "fev-group-cs", "irr-exp", "fev-us-weighted"])
@pytest.mark.parametrize("kind", ["CR0", "CR3"])
def test_sandwich_by_subject(case_id, kind):
    case = CASES[case_id]
    want = case["expected"]["cluster"][kind]
    bse = named(model_of(case).fit(cov_type="cluster", cov_kwds={"type": kind}).bse)
    for name, value in want.items():
        assert bse[plain(name)] == pytest.approx(value, rel=5 * case["tol"]["bse"])


def test_kenward_roger_of_sas():
    result = ms.lmer("FEV1 ~ ARMCD", data("fev"), residual="us(AVISIT | USUBJID)").fit()
    row = result.tidy(ddf="kenward-roger").iloc[1]
    # SAS stops up to 1e-5 above the optimal criterion
    assert row.estimate == pytest.approx(3.81972492, rel=1e-4)
    assert row.std_error == pytest.approx(0.66124382, rel=1e-4)
    assert row.df == pytest.approx(160.733, rel=1e-3)


@pytest.mark.parametrize(
    ("kind", "value"),
    [("us", 3386.449871), ("cs", 3522.042949), ("csh", 3398.001027), ("ar1", 3525.078763), ("ar1h", 3404.219246)],
)
def test_criterion_of_sas(kind, value):
    model = ms.lmer("FEV1 ~ RACE + SEX + ARMCD * AVISIT", data("fev"), residual=f"{kind}(AVISIT | USUBJID)")
    assert model.fit().criterion == pytest.approx(value, abs=2e-5)
