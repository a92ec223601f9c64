"""Pooling against mice, and by Rubin's formulas."""

import numpy as np
import pandas as pd
import pytest
from inference_models import unbalanced
from posthoc_cases import cases, fit_of, frame_of, same
from scipy import stats
from test_robust import own_order

import mvmise_sm as ms
from mvmise_sm.exceptions import OptionError


@pytest.mark.parametrize("case", cases("pool"), ids=lambda c: c["id"])
def test_against_mice(case):
    options, expected = case["options"], case["expected"]
    parts = frame_of(case["dataset"]).groupby(options["split"], sort=True)
    fits = [fit_of(case, part.drop(columns=options["split"]).reset_index(drop=True)) for _, part in parts]
    pool = ms.pool(fits, df_complete=options.get("df_complete") or np.inf)
    if "wald" in options:
        order = own_order(fits[0], options["wald"])
        test = pool.wald_test(np.eye(len(pool.params))[order])
        for name, value in (("F", test.statistic), ("df_denom", test.df_denom), ("p_value", test.pvalue)):
            same(value, expected[name], 1e-4)
        return
    table, order = pool.tidy(conf_int=True), own_order(fits[0], expected["terms"])
    for name in ("estimate", "std_error", "within", "between", "df", "riv", "lambda", "fmi", "p_value"):
        same(table[name].to_numpy()[order], expected[name], 1e-4 if name in ("df", "p_value") else 2e-5, 1e-7)
    for name in ("conf_low", "conf_high"):
        same(table[name].to_numpy()[order], expected[name], 2e-5, 1e-7)


@pytest.fixture(scope="module")
def fits():
    out = []
    for seed in range(4):
        data = unbalanced(3, 14)
        data.loc[::7, "x"] += 0.4 * np.random.default_rng(seed).normal(size=len(data.loc[::7]))
        out.append(ms.lmer("y ~ x + f + (1 | g)", data).fit())
    return out


def test_everything_agrees_with_the_table(fits):
    pool = ms.pool(fits)
    assert pool.df_complete == fits[0].nobs - fits[0].k_params
    np.testing.assert_allclose(pool.params, np.mean([f.params for f in fits], axis=0))
    between = np.var([f.params["x"] for f in fits], ddof=1)
    within = np.mean([f.bse["x"] ** 2 for f in fits])
    np.testing.assert_allclose(pool.bse["x"] ** 2, within + 1.25 * between, rtol=1e-12)
    np.testing.assert_allclose(pool.cov_params().loc["x", "x"], pool.bse["x"] ** 2)
    one = pool.wald_test("x = 0")
    np.testing.assert_allclose((one.pvalue, one.df_denom), (pool.pvalues["x"], pool.df["x"]), rtol=1e-9)
    np.testing.assert_allclose(pool.t_test("x = 0").pvalue, pool.pvalues["x"])
    pairs = pool.marginal_means("f", pairs=True, adjust="none")
    np.testing.assert_allclose(pairs["p_value"][0], pool.pvalues["f[T.b]"], rtol=1e-8)
    assert "Barnard and Rubin" in pairs.heading
    assert "4 fits pooled" in str(pool.summary())
    table = pool.tidy(exponentiate=True, conf_int=True).set_index("term")
    np.testing.assert_allclose(table.loc["x", "std_error"], np.exp(pool.params["x"]) * pool.bse["x"])
    np.testing.assert_allclose(table.loc["x", "conf_low"], np.exp(pool.conf_int().loc["x", 0]))


def test_equal_fits_pool_to_themselves(fits):
    pool = ms.pool([fits[0]] * 3, df_complete=np.inf)
    np.testing.assert_allclose(pool.bse, fits[0].bse)
    np.testing.assert_allclose(pool.pvalues, 2 * stats.norm.sf(np.abs(fits[0].tvalues)), rtol=1e-5)
    joint = pool.wald_test(np.eye(4)[1:])
    np.testing.assert_allclose(joint.statistic, fits[0].wald_test(np.eye(4)[1:], use_f=True).statistic)


def test_what_is_refused(fits):
    other = ms.lmer("y ~ f + (1 | g)", unbalanced(3, 14)).fit()
    with pytest.raises(OptionError, match="pool needs at least two fits"):
        ms.pool(fits[:1])
    with pytest.raises(OptionError, match="different fixed effects: x is missing in fit 3"):
        ms.pool([*fits[:2], other])
    with pytest.raises(OptionError, match="leave ddf='satterthwaite' out"):
        ms.pool(fits).marginal_means("f", ddf="satterthwaite")
    assert isinstance(ms.pool(fits).conf_int(), pd.DataFrame)
