"""Cluster-robust covariances against clubSandwich, their properties, and what they refuse."""

import pickle

import numpy as np
import pandas as pd
import pytest
from inference_models import unbalanced
from posthoc_cases import cases, fit_of, same

import mvmise_sm as ms
from mvmise_sm.exceptions import DataError, DataWarning, NotAvailableError, OptionError

R_NAMES = str.maketrans("", "", "()[]")


def own_order(result, terms):
    """Positions of R's terms among ours."""
    ours = [
        ":".join(sorted(p.replace("[T.", "[").translate(R_NAMES) for p in n.split(":"))) for n in result.params.index
    ]
    return [
        ours.index(":".join(sorted(t.translate(R_NAMES).replace("[", "").replace("]", "").split(":")))) for t in terms
    ]


@pytest.mark.parametrize("case", cases("robust"), ids=lambda c: c["id"])
def test_against_clubsandwich(case):
    result, options, expected = fit_of(case), case["options"], case["expected"]
    robust = result.get_robustcov_results(**options)
    order = own_order(result, expected["terms"])
    same(robust.cov_params().to_numpy()[np.ix_(order, order)], expected["cov"], 2e-5, 1e-9)
    table = robust.tidy()
    for name, rtol in (("std_error", 1e-5), ("df", 1e-5), ("p_value", 1e-4)):
        same(table[name].to_numpy()[order], expected[name], rtol)
    if "wald" in expected:
        weights = np.zeros((len(expected["wald"]["L"]), len(order)))
        weights[:, order] = expected["wald"]["L"]
        test = robust.wald_test(weights)
        same(test.statistic, expected["wald"]["F"], 1e-5)
        same(test.df_denom, expected["wald"]["df_denom"], 1e-5)
        same(test.pvalue, expected["wald"]["p_value"], 1e-4)


@pytest.fixture(scope="module")
def fit():
    return ms.lmer("y ~ x + f + (x | g)", unbalanced(3, 14)).fit()


def test_cr2_is_unbiased_where_the_model_holds(fit):
    """E[cov] = sum_i M E_i'(V_i - X_i M X_i')E_i M, with the truth V of the fit, is M for CR2."""
    law = fit.get_robustcov_results("CR2", "g").denominator().robust
    expected = np.einsum("ijk->jk", law.meat) - np.einsum("iba,bc,icd->ad", law.cross, law.bread, law.cross)
    np.testing.assert_allclose(law.bread @ expected @ law.bread, fit.cov_params(), rtol=1e-9)


def test_moments_agree_with_dense_matrices(fit):
    """tr(G)^2 / tr(G^2) from the m x m matrix of the quadratic form."""
    law = fit.get_robustcov_results("CR3", "g").denominator().robust
    c = np.array([0.3, -1.0, 0.5, 0.2])
    u = law.cross @ (law.bread @ c)
    g = np.diag(np.einsum("j,ijk,k->i", law.bread @ c, law.meat, law.bread @ c)) - u @ law.bread @ u.T
    np.testing.assert_allclose(law.df(c[None])[0], np.trace(g) ** 2 / np.sum(g * g), rtol=1e-10)
    one = law.hotelling(c[None], np.array([c @ np.asarray(fit.params)]))
    np.testing.assert_allclose(one[1], law.df(c[None])[0], rtol=1e-10)


def test_hotelling_does_not_depend_on_a_factor_or_on_the_rows(fit):
    rows = np.eye(4)[2:]
    mixed = np.array([[1.0, 2.0], [-0.5, 1.0]]) @ rows
    values = np.asarray(fit.params)[2:]
    plain, scaled = (fit.get_robustcov_results(kind, "g").denominator() for kind in ("CR0", "CR1S"))
    f, _, df = plain.f_test(rows, values)
    np.testing.assert_allclose(plain.f_test(mixed, np.array([[1.0, 2.0], [-0.5, 1.0]]) @ values), (f, 2, df), rtol=1e-9)
    np.testing.assert_allclose(scaled.f_test(rows, values)[2], df, rtol=1e-9)


def test_weights_are_row_variances():
    """A row of weight two is the mean of two rows: V_i has sigma2 / 2 there, and zero weights are no rows."""
    data = unbalanced(5, 12)
    data["w"] = np.where(np.arange(len(data)) % 3 == 0, 2.0, 1.0)
    result = ms.lmer("y ~ x + (1 | g)", data, weights="w").fit()
    rows = np.flatnonzero(data["g"].to_numpy() == 3)[None]
    expected = result.cov_re["g"].to_numpy()[0, 0] + np.diag(result.scale / data["w"].to_numpy()[rows[0]])
    np.testing.assert_allclose(result.response_cov(rows)[0], expected, rtol=1e-12)
    assert np.isfinite(result.get_robustcov_results("CR2", "g").bse).all()


def test_fit_and_every_table_use_the_robust_covariance(fit):
    robust = fit.model.fit(cov_type="CR2", cov_kwds={"groups": "g"})
    other = fit.get_robustcov_results("CR2", groups="g")
    np.testing.assert_allclose(robust.bse, other.bse, rtol=1e-12)
    np.testing.assert_array_equal(robust.params, fit.params)
    table = robust.tidy(conf_int=True)
    np.testing.assert_allclose(table["std_error"], robust.bse)
    np.testing.assert_allclose(table["p_value"], robust.pvalues)
    np.testing.assert_allclose(table[["conf_low", "conf_high"]], robust.conf_int())
    np.testing.assert_allclose(robust.t_test("x = 0").pvalue, robust.pvalues["x"])
    assert "Cluster-robust covariance CR2 by g (14 clusters)" in str(robust.summary())
    means = robust.marginal_means("f", pairs=True, adjust="none")
    index = table.set_index("term").loc["f[T.b]"]
    np.testing.assert_allclose(means["p_value"][0], index["p_value"], rtol=1e-8)
    anova = robust.anova()
    np.testing.assert_allclose(anova.loc["f", "F"], robust.wald_test("f[T.b] = 0, f[T.c] = 0").statistic, rtol=1e-9)
    assert robust.cov_type == "CR2"
    assert fit.cov_type == "nonrobust"
    back = pickle.loads(pickle.dumps(robust))
    np.testing.assert_array_equal(back.tidy()["p_value"], table["p_value"])


def test_groups_as_labels_coarser_clusters_and_statsmodels_names(fit):
    labels = unbalanced(3, 14)["g"]
    named = fit.get_robustcov_results("cluster", groups=labels)
    np.testing.assert_array_equal(named.bse, fit.get_robustcov_results("CR1S", groups="g").bse)
    without = fit.get_robustcov_results("cluster", groups="g", use_correction=False)
    np.testing.assert_array_equal(without.bse, fit.get_robustcov_results("cr0", groups="g").bse)
    coarse = fit.get_robustcov_results("CR2", groups=labels.to_numpy() // 2)
    assert not np.allclose(coarse.bse, named.bse)


def test_what_is_refused(fit):
    crossed = pd.Series(np.arange(fit.nobs) % 5, name="class")
    with pytest.raises(OptionError, match="groups='class': levels of 'g' occur in several clusters"):
        fit.get_robustcov_results("CR2", groups=crossed)
    with pytest.raises(OptionError, match="cov_type 'CR2' needs groups="):
        fit.get_robustcov_results("CR2")
    with pytest.raises(OptionError, match="groups='school' is not a column"):
        fit.get_robustcov_results("CR2", groups="school")
    with pytest.raises(NotAvailableError, match="'CR4'"):
        fit.get_robustcov_results("CR4", groups="g")
    with pytest.raises(DataError, match="one cluster"):
        fit.get_robustcov_results("CR2", groups=np.zeros(fit.nobs))
    with pytest.raises(OptionError, match="Kenward-Roger adjusts"):
        fit.get_robustcov_results("CR2", groups="g").tidy(ddf="kenward-roger")
    with pytest.raises(OptionError, match="without priors"):
        ms.blmer("y ~ x + (1 | g)", unbalanced(3, 14)).fit().get_robustcov_results("CR2", groups="g")
    with pytest.raises(OptionError, match="profiles are of the likelihood"):
        fit.get_robustcov_results("CR2", groups="g").conf_int(method="profile")


def test_too_few_clusters_for_a_joint_test():
    data = unbalanced(1, 3)
    result = ms.lmer("y ~ x + f + (1 | g)", data).fit()
    robust = result.get_robustcov_results("CR2", groups="g")
    with pytest.warns(DataWarning, match="3 clusters are too few for 3 contrasts"):
        test = robust.wald_test(np.eye(4)[1:])
    assert np.isnan(test.pvalue)


def test_generalized_models_have_none():
    data = unbalanced(3, 14).assign(n=lambda d: (d["y"] > 1).astype(int))
    result = ms.glmer("n ~ x + (1 | g)", data, family="binomial").fit()
    with pytest.raises(OptionError, match="linear mixed models without priors"):
        result.get_robustcov_results("CR2", groups="g")


def test_known_relationships_are_in_the_covariance_and_stay_in_clusters():
    rng = np.random.default_rng(0)
    ids = [f"i{i}" for i in range(16)]
    related = pd.DataFrame(np.kron(np.eye(8), [[1.0, 0.5], [0.5, 1.0]]), index=ids, columns=ids)
    code = np.repeat(np.arange(16), 4)
    data = pd.DataFrame({"id": np.array(ids)[code], "x": rng.normal(size=64), "family": code // 2})
    data["y"] = data["x"] + (np.linalg.cholesky(related) @ rng.normal(size=16))[code] + rng.normal(size=64)
    result = ms.lmer("y ~ x + (1 | id)", data, cov={"id": related}).fit()
    rows = np.flatnonzero(data["family"] == 3)
    block = related.to_numpy()[np.ix_(code[rows], code[rows])]
    expected = result.scale * (result.theta[0] ** 2 * block + np.eye(len(rows)))
    np.testing.assert_allclose(result.response_cov(rows[None])[0], expected, rtol=1e-10)
    assert np.isfinite(result.get_robustcov_results("CR2", groups="family").bse).all()
    with pytest.raises(OptionError, match="levels of 'id' occur in several clusters"):
        result.get_robustcov_results("CR2", groups="id")
