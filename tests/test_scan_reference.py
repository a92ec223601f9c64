"""Scans against lmerTest, pbkrtest and limma; the data and numbers are those of tests/reference/omics."""

import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import mvmise_sm as ms

HERE = Path(__file__).parent / "reference" / "omics"
with gzip.open(HERE / "expected.json.gz", "rt") as _file:
    EXPECTED = json.load(_file)


def read(name, what):
    return pd.read_csv(HERE / f"{name}_{what}.csv.gz")


def vectors(reference):
    return {f"c{k}": np.array(v, dtype=float) for k, v in enumerate(reference["options"]["contrasts"])}


def numbers(reference, key):
    return np.array([e[key] for e in reference["expected"].values()], dtype=float)


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("ri_missing", 1e-6),
        ("ri_between", 1e-6),
        ("ri_ml", 1e-6),
        ("ri_weights", 1e-6),
        ("crossed", 1e-6),
        ("slope_missing", 1e-5),
        ("slope_uncorrelated", 1e-5),
    ],
)
def test_mixed_models_are_lmer_test(name, tolerance):
    reference = EXPECTED[name]
    options = reference["options"]
    call = {"contrasts": vectors(reference), "reml": options["reml"], "variance_shares": True}
    if options["weights"]:
        call["weights"] = read(name, "weights")
    if options["f_term"]:
        call["tests"] = options["f_term"]
    samples, features = read(name, "samples"), read(name, "features")
    table = ms.scan(reference["formula"], samples, features, "lmer", ddf="satterthwaite", **call)
    assert table["converged"].all()
    # near the boundary R's own numbers are good to three digits
    stable = np.array([not e.get("unstable") for e in reference["expected"].values()])
    size = np.where(stable, tolerance, 1e-3)[:, None]
    shape = (len(stable), len(options["contrasts"]))
    found = {c: table[c].to_numpy().reshape(shape) for c in ("estimate", "se", "df", "p", "nobs", "singular")}
    se = numbers(reference, "std_error")
    assert (np.abs(found["estimate"] - numbers(reference, "estimate")) < size * se).all()
    assert (np.abs(found["se"] / se - 1.0) < size).all()
    # R's Hessian is a difference quotient, rougher for slopes and at the boundary
    rough = np.full(len(stable), 1e-3 if name.startswith("slope") else 1e-5)
    rough[numbers(reference, "singular") > 0] = 1e-3
    off = np.abs(found["df"] / numbers(reference, "df") - 1.0) < rough[:, None]
    assert off[stable].all()
    assert (found["singular"][stable, 0] == numbers(reference, "singular")[stable]).all()
    assert (found["nobs"][:, 0] == numbers(reference, "nobs")).all()
    if options["f_term"]:
        np.testing.assert_allclose(table.tests[["f", "df_num", "df_denom", "p"]], numbers(reference, "f"), rtol=1e-4)
    if "shares" in next(iter(reference["expected"].values())) and not options["weights"]:
        wanted = pd.DataFrame([e["shares"] for e in reference["expected"].values()])
        np.testing.assert_allclose(table.variance_shares[wanted.columns], wanted, atol=1e-5)
    if options["kenward_roger"]:
        table = ms.scan(reference["formula"], samples, features, "lmer", **call)
        np.testing.assert_allclose(table["se"].to_numpy().reshape(shape), numbers(reference, "kr_se"), rtol=1e-6)
        np.testing.assert_allclose(table["df"].to_numpy().reshape(shape), numbers(reference, "kr_df"), rtol=1e-5)


@pytest.mark.parametrize("ddf", ["satterthwaite", "kenward-roger"])
def test_moderated_contrasts_are_squeezed_variances(ddf):
    reference = EXPECTED["ri_between_moderated"]
    samples, features = read("ri_between", "samples"), read("ri_between", "features")
    call = {"contrasts": vectors(reference), "ddf": ddf, "moderate": "contrast"}
    table = ms.scan(reference["formula"], samples, features, "lmer", **call)
    for k, term in enumerate(call["contrasts"]):
        key = f"contrast{k + 1}_{ddf}"
        rows = table[table["term"] == term]
        wanted = numbers(reference, key)
        np.testing.assert_allclose(rows[["se", "df", "z", "p", "q"]], wanted, rtol=2e-4)
        prior = reference["prior"][key]
        assert table.prior.loc[term, "df_prior"] == pytest.approx(prior["df_prior"], rel=1e-4)
        assert table.prior.loc[term, "var_prior"] == pytest.approx(prior["var_prior"], rel=1e-4)
        assert table.prior.loc[term, "n_features"] == 60


def test_least_squares_with_moderation_is_limma():
    reference = EXPECTED["limma_missing"]
    samples, features = read("limma_missing", "samples"), read("limma_missing", "features")
    call = {"contrasts": vectors(reference), "tests": [reference["options"]["f_term"]], "moderate": True}
    table = ms.scan(reference["formula"], samples, features, "ols", **call)
    shape = (300, 2)
    pairs = {"se_own": "std_error", "se": "moderated_se", "p": "moderated_p_value", "q": "q"}
    for column, key in pairs.items():
        np.testing.assert_allclose(table[column].to_numpy().reshape(shape), numbers(reference, key), rtol=1e-6)
    np.testing.assert_allclose(table["df"].to_numpy()[::2], numbers(reference, "moderated_df"), rtol=1e-8)
    np.testing.assert_allclose(table.tests[["f", "df_num", "df_denom", "p"]], numbers(reference, "f"), rtol=1e-6)


@pytest.mark.parametrize("name", list(EXPECTED["squeeze"]["expected"]))
def test_squeezed_variances(name):
    e = EXPECTED["squeeze"]["expected"][name]
    found = ms.squeeze_variances(e["var"], e["df"])
    assert found.df_prior == pytest.approx(float(str(e["df_prior"]).replace("Infinity", "inf")), rel=1e-8)
    assert found.var_prior == pytest.approx(e["var_prior"], rel=1e-8)
    np.testing.assert_allclose(found.posterior, e["var_post"], rtol=1e-8)
