"""What is asked after fits with residual structures: influence, relationships beside them, splits, plots and tables."""

import warnings

import numpy as np
import pandas as pd
import pytest
from structures_reference import data

import mvmise_sm as ms
from mvmise_sm.core.covariance.patterns import subject_rows
from mvmise_sm.core.covariance.registry import make_residual
from mvmise_sm.exceptions import DataError, IdentificationWarning, OptionError


@pytest.fixture(scope="module")
def trial():
    return data("trial").iloc[:90].reset_index(drop=True)


@pytest.fixture(scope="module")
def mmrm(trial):
    return ms.lmer("y ~ arm * time", trial, residual="us(visit | id)").fit()


# --- influence


@pytest.mark.parametrize(
    ("formula", "options"),
    [
        ("y ~ arm * time", {"residual": "us(visit | id)"}),
        ("y ~ arm * time + (1 | site)", {"residual": "ar1h(visit | id)", "weights": "w"}),
        ("y ~ arm * time", {"residual": "csh(visit | arm/id)"}),
    ],
)
def test_influence_is_that_of_deleting_the_row(trial, formula, options):
    fit = ms.lmer(formula, trial, **options).fit()
    X, y, n = np.asarray(fit.model.exog), np.asarray(fit.model.endog), len(trial)
    V = fit.response_cov(np.arange(n)[None])[0]

    def solved(kept):
        half = np.linalg.solve(V[np.ix_(kept, kept)], X[kept])
        cov = np.linalg.inv(X[kept].T @ half)
        return cov @ half.T @ y[kept], cov

    beta, cov = solved(np.arange(n))
    found = fit.get_influence()
    for i in (0, 7, 41, n - 1):
        without, wider = solved(np.delete(np.arange(n), i))
        change = beta - without
        np.testing.assert_allclose(found.dfbetas.iloc[i], change / np.sqrt(np.diag(wider)), rtol=1e-6, atol=1e-9)
        assert found.cooks_distance.iloc[i] == pytest.approx(
            change @ np.linalg.solve(cov, change) / len(beta), rel=1e-6
        )
    # a response moves its own fitted value by its leverage
    if "|" not in formula:
        hat = X @ cov @ X.T @ np.linalg.inv(V)
        np.testing.assert_allclose(found.hat_matrix_diag, np.diag(hat), atol=1e-9)
    table = fit.augment()
    np.testing.assert_allclose(table[".cooksd"], found.cooks_distance)
    np.testing.assert_allclose(table[".hat"], found.hat_matrix_diag)


def test_leverages_of_random_effects_and_residuals(trial):
    fit = ms.lmer("y ~ arm + (1 | site)", trial, residual="cs(visit | id)").fit()
    criterion, step = fit.deviance_function(), 1e-3
    y, hat = np.asarray(fit.model.endog), fit.get_influence().hat_matrix_diag
    for i in (2, 50):
        ends = []
        for sign in (1.0, -1.0):
            moved = y.copy()
            moved[i] += sign * step
            solution = criterion.refitted(moved).solve(fit.theta)
            ends.append(fit.model.exog[i] @ solution.beta + fit.model.random_effects.linear(solution.b)[i])
        assert hat[i] == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-6)


# --- known relationships beside a residual structure


@pytest.fixture(scope="module")
def herd():
    rng = np.random.default_rng(3)
    kids = [f"a{i}" for i in range(30)]
    family = pd.DataFrame(
        {"id": kids, "sire": [f"s{i % 5}" for i in range(30)], "dam": [f"d{i % 8}" for i in range(30)]}
    )
    kinship = ms.pedigree(family).relationship()
    effects = pd.Series(np.linalg.cholesky(kinship.to_numpy()) @ rng.normal(size=len(kinship)), index=kinship.index)
    frame = pd.DataFrame({"id": np.repeat(kids, 4), "age": np.tile(np.arange(4), 30)})
    frame["x"] = rng.normal(size=120)
    chol = np.linalg.cholesky(0.6 ** np.abs(np.subtract.outer(np.arange(4), np.arange(4))))
    noise = (rng.normal(size=(30, 4)) @ chol.T).ravel()
    frame["y"] = frame.x + 1.5 * effects[frame.id].to_numpy() + noise
    return frame.iloc[rng.permutation(120)[:105]].reset_index(drop=True), kinship


@pytest.mark.parametrize(("term", "kind"), [("(1 | id)", "ar1"), ("(1 + age | id)", "csh")])
def test_repeated_measures_of_related_animals(herd, term, kind):
    frame, kinship = herd
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ms.exceptions.SingularFitWarning)
        fit = ms.lmer(f"y ~ x + {term}", frame, cov={"id": kinship}, residual=f"{kind}(age | id)").fit()
    model, criterion = fit.model, fit.model.criterion()
    # away from the optimum, where csh is nearly singular
    theta = np.append(fit.theta[: model.random_layout.k_theta] + 0.1, model.residual.structure.start() + 0.1)
    X, y, n = np.asarray(model.exog), np.asarray(model.endog), len(frame)
    V = np.zeros((n, n))
    for batch in model.residual.rows.batches:
        blocks = model.residual.structure.blocks(theta[model.random_layout.k_theta :], batch)
        for rows, which in zip(batch.rows, batch.member, strict=True):
            V[np.ix_(rows, rows)] = blocks[which]
    (random,) = model.random_effects.terms
    z = np.column_stack([np.ones(n) if c is None else c for c in random.columns])
    lam = random.structure.factor(theta[: random.structure.k_theta])
    V += (z @ lam @ lam.T @ z.T) * kinship.loc[frame.id, frame.id].to_numpy()
    inverse = np.linalg.inv(V)
    gram = X.T @ inverse @ X
    e = y - X @ np.linalg.solve(gram, X.T @ inverse @ y)
    nu = n - X.shape[1]
    value = np.linalg.slogdet(V)[1] + np.linalg.slogdet(gram)[1] + nu * (1 + np.log(2 * np.pi * (e @ inverse @ e) / nu))
    assert criterion(theta) == pytest.approx(value, rel=1e-11)
    step = 1e-5
    slopes = [(criterion(theta + h) - criterion(theta - h)) / (2 * step) for h in step * np.eye(len(theta))]
    np.testing.assert_allclose(criterion.gradient(theta), slopes, atol=2e-6)


def test_inference_for_repeated_measures_of_related_animals(herd):
    frame, kinship = herd
    fit = ms.lmer("y ~ x + (1 | id)", frame, cov={"id": kinship}, residual="ar1(age | id)").fit()
    assert fit.converged
    assert len(fit.random_effects["id"]) == len(kinship)
    V = fit.response_cov(np.arange(len(frame))[None])[0]
    e = np.asarray(fit.model.endog) - fit.model.exog @ np.asarray(fit.params)
    shared = float(fit.cov_re["id"].iloc[0, 0]) * kinship.loc[:, frame.id].to_numpy()
    modes = fit.random_effects["id"].rename(index=str).loc[kinship.index].iloc[:, 0]
    np.testing.assert_allclose(modes, shared @ np.linalg.solve(V, e), atol=1e-7)
    # unrelated animals are the model without cov
    alone = ms.lmer("y ~ x + (1 | id)", frame, residual="ar1(age | id)").fit()
    names = sorted(set(frame.id))
    same = ms.lmer(
        "y ~ x + (1 | id)", frame, residual="ar1(age | id)", cov={"id": pd.DataFrame(np.eye(30), names, names)}
    ).fit()
    assert same.llf == pytest.approx(alone.llf, abs=1e-7)
    for ddf in ("satterthwaite", "kenward-roger"):
        columns = ["estimate", "std_error", "df"]
        np.testing.assert_allclose(same.tidy(ddf=ddf)[columns], alone.tidy(ddf=ddf)[columns], rtol=1e-4)
    np.testing.assert_allclose(
        same.get_prediction(frame.iloc[:4]).summary_frame(),
        alone.get_prediction(frame.iloc[:4]).summary_frame(),
        rtol=1e-4,
    )
    assert fit.bootstrap(2, rng=1).samples.shape[0] == 2
    assert fit.refit(fit.simulate(1, rng=2)["sim_1"].to_numpy()).converged


def test_members_change_within_no_subject(trial):
    frame = trial.assign(s1="a", s2=np.where(np.arange(len(trial)) % 2, "b", "c"))
    with pytest.raises(DataError, match=r"must lie within one level of 'mm\(s1, s2\)'; 'p\d+' has 2"):
        ms.lmer("y ~ arm + (1 | mm(s1, s2))", frame, residual="ar1(visit | id)")


# --- covariances that only their sum is known of


@pytest.mark.parametrize(
    ("effects", "residual"), [("(1 | id)", "cs"), ("(1 | id)", "us"), ("(1 + time | id)", "us"), ("(1 | id)", "toep")]
)
def test_the_split_of_a_sum_does_not_depend_on_the_start(trial, effects, residual):
    model = ms.lmer(f"y ~ arm * time + {effects}", trial, residual=f"{residual}(visit | id)")
    with pytest.warns(IdentificationWarning, match="only their sum is estimated"):
        fit = model.fit()
    start = fit.theta * 0.8
    with pytest.warns(IdentificationWarning, match="only their sum is estimated"):
        again = model.fit(start_theta=start)
    alone = ms.lmer("y ~ arm * time", trial, residual=f"{residual}(visit | id)").fit()
    assert fit.llf == pytest.approx(alone.llf, abs=1e-6)
    np.testing.assert_allclose(fit.bse, alone.bse, rtol=1e-3)
    np.testing.assert_allclose(again.fittedvalues, fit.fittedvalues, atol=1e-3 * np.std(fit.model.endog))
    intervals = fit.tidy(effects="ran_pars", conf_int=True)
    assert intervals[["std_error", "conf_low", "conf_high"]].isna().all(axis=None)
    assert "cannot tell the covariance of" in str(fit.check())


def test_the_split_has_the_largest_entropy(trial):
    """With all visits seen (1 | id) and cs leave x and C - x J: log x + log|C - x J| is largest in the middle."""
    whole = trial.groupby("id").filter(lambda rows: len(rows) == 4).reset_index(drop=True)
    with pytest.warns(IdentificationWarning):
        fit = ms.lmer("y ~ time + (1 | id)", whole, residual="cs(visit | id)").fit()
    total = ms.lmer("y ~ time", whole, residual="cs(visit | id)").fit().residual_cov.to_numpy()
    highest = (total.sum() / 4) / 4  # where the residuals' eigenvalue of the mean is zero
    assert fit.cov_re["id"].iloc[0, 0] == pytest.approx(highest / 2, rel=1e-3)


def test_a_factor_that_is_not_involved_keeps_its_interval():
    frame = data("trial")
    with pytest.warns(IdentificationWarning, match=r"structure and \(1 \| id\) describe"):
        fit = ms.lmer("y ~ arm * time + (1 | site) + (1 | id)", frame, residual="cs(visit | id)").fit()
    table = fit.tidy(effects="ran_pars", conf_int=True).set_index("group")
    assert np.isfinite(table.loc["site", "conf_high"])
    assert np.isnan(table.loc["id", "conf_high"])


def test_a_fit_starts_where_another_one_ended(trial):
    model = ms.lmer("y ~ arm + (1 | site)", trial, residual="ar1h(visit | id)")
    fit = model.fit()
    again = model.fit(start_theta=fit.theta)
    assert again.llf == pytest.approx(fit.llf, abs=1e-8)
    assert again.mle_retvals["n_evaluations"] <= fit.mle_retvals["n_evaluations"]
    with pytest.raises(OptionError, match="start_theta must have 5 elements"):
        model.fit(start_theta=fit.theta[:1])


# --- models without random effects


def test_tables_and_plots_without_random_effects(mmrm):
    plt = pytest.importorskip("matplotlib.pyplot")
    assert list(mmrm.tidy(effects="ran_vals").columns) == ["effect", "group", "level", "term", "estimate", "std_error"]
    assert len(mmrm.plot_diagnostics()) == 3
    assert len(mmrm.plot_fit("time")) == 20
    with pytest.raises(OptionError, match="the model has no random effects to plot"):
        mmrm.plot_random_effects()
    mmrm.plot_influence()
    plt.close("all")


def test_clusters_hold_the_random_effects(trial):
    fit = ms.lmer("y ~ arm + (1 | site)", trial, residual="ar1(visit | id)").fit()
    by_site = fit.get_robustcov_results("CR2", groups="site")
    np.testing.assert_array_equal(fit.get_robustcov_results("CR2").bse, by_site.bse)
    with pytest.raises(OptionError, match="levels of 'site' occur in several clusters"):
        fit.get_robustcov_results("CR2", groups="id")


# --- edges of the data


@pytest.mark.parametrize("kind", ["us", "cs", "ar1", "toeph", "anteh"])
def test_one_level_is_one_variance(trial, kind):
    first = trial[trial.visit == "v1"]
    fit = ms.lmer("y ~ arm", first, residual=f"{kind}(visit | id)").fit()
    least = np.linalg.lstsq(fit.model.exog, fit.model.endog, rcond=None)[1][0] / (len(first) - 2)
    assert fit.scale == pytest.approx(least, rel=1e-10)
    table = fit.tidy(ddf="kenward-roger")
    np.testing.assert_allclose(table.df, len(first) - 2, rtol=1e-8)
    assert "one variance" in str(fit.summary()) or kind in ("us", "toeph", "anteh")


def test_correlations_without_pairs_are_said_to_be_open(trial):
    single = trial.drop_duplicates("id")
    with pytest.warns(IdentificationWarning, match=r"no subject \('id'\) has two rows"):
        ms.lmer("y ~ arm", single, residual="exp(time | id)")


def test_one_bar(trial):
    with pytest.raises(ms.exceptions.FormulaError, match=r"one bar stands between level and subject; .*ar1\(level \|"):
        ms.lmer("y ~ arm", trial, residual="ar1(visit | id | arm)")


def test_toeplitz_residuals_have_several_optima():
    """A search from no correlation ends 0.43 below the best of ten starts for this sample."""
    model = ms.lmer("y ~ arm * time", data("two_optima"), residual="toep(visit | id)")
    fit = model.fit()
    assert fit.converged
    assert fit.llf > model.fit(start_theta=np.zeros(3)).llf + 0.4


EDGES = [("csh", 0.5 * np.pi), ("csh", 0.0), ("ar1", -0.5 * np.pi), ("ante", 1.5 * np.pi)]


@pytest.mark.parametrize(("kind", "x"), EDGES)
def test_residual_correlations_keep_off_singular_matrices(kind, x):
    structure = make_residual(kind, list("abcd"))
    (batch,) = subject_rows(np.zeros(4, dtype=int), np.arange(4)).batches
    phi = np.append(np.zeros(structure.k_phi - structure.family.size), np.full(structure.family.size, x))
    for moved in (phi, phi + 1e-7):
        assert np.linalg.eigvalsh(structure.blocks(moved, batch)[0])[0] > 1e-8
    assert not structure.block_tangents(phi, batch)[-1].any()
