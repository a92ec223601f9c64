"""Residual structures: criterion, gradient and inference against dense matrices, results, simulation, bad input."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from structures_reference import data

import mvmise_sm as ms
from mvmise_sm.core.covariance import registry
from mvmise_sm.core.covariance.patterns import median_distance, subject_rows
from mvmise_sm.core.covariance.random_effects import GroupingFactor, RandomEffects, RandomTerm
from mvmise_sm.core.covariance.residual import ResidualTerm
from mvmise_sm.core.covariance.residual_groups import GroupedResidual
from mvmise_sm.core.criteria.marginal import MarginalDeviance
from mvmise_sm.core.criteria.whitened import WhitenedDeviance
from mvmise_sm.core.optimise.newton import minimize
from mvmise_sm.core.uncertainty.second_order import second_order
from mvmise_sm.exceptions import (
    DataError,
    FormulaError,
    IdentificationWarning,
    OptionError,
    UnknownColumnError,
)

KINDS = ["us", "cs", "csh", "ar1", "ar1h", "toep", "toeph", "ante", "anteh", "diag", "exp", "gau"]
LEVELS = [f"v{i}" for i in range(4)]


@pytest.fixture(scope="module")
def rows():
    """Unbalanced visits of subjects within sites, with weights, groups and times."""
    rng = np.random.default_rng(7)
    subject, level = np.repeat(np.arange(24), 4), np.tile(np.arange(4), 24)
    seen = rng.random(subject.size) < 0.8
    subject, level = np.unique(subject[seen], return_inverse=True)[1], level[seen]
    n = subject.size
    X = np.column_stack([np.ones(n), rng.normal(size=n)])
    y = X @ [1.0, 2.0] + rng.normal(size=24)[subject] + rng.normal(size=n)
    return {
        "subject": subject,
        "level": level,
        "site": subject // 6,
        "group": subject % 2,
        "X": X,
        "y": y,
        "w": rng.uniform(0.5, 2.0, n),
        "time": (level + rng.uniform(-0.3, 0.3, n))[:, None],
    }


def term_of(rows, kind, grouped=False):
    positions = rows["time"] if kind in registry.DISTANCES else None
    found = subject_rows(rows["subject"], rows["level"], rows["group"] if grouped else None, positions)
    structure = registry.make_residual(kind, LEVELS, median_distance(found.batches), kind == "exp")
    return ResidualTerm(GroupedResidual(structure, ["A", "B"]) if grouped else structure, found, kind)


def effects_of(rows):
    us = registry.make_structure
    subject = GroupingFactor("id", rows["subject"], np.arange(rows["subject"].max() + 1))
    site = GroupingFactor("site", rows["site"], np.arange(rows["site"].max() + 1))
    return RandomEffects(
        [
            RandomTerm(subject, (None,), ("Intercept",), us("us", ["Intercept"])),
            RandomTerm(site, (None, rows["X"][:, 1]), ("Intercept", "x"), us("us", ["Intercept", "x"])),
        ]
    )


def dense(rows, random, term, theta, reml):
    """The criterion from the n x n covariance written out."""
    X, y, w = rows["X"], rows["y"], rows["w"]
    n = len(y)
    V = np.zeros((n, n))
    for batch in term.rows.batches:
        blocks = term.structure.blocks(theta[random.k_theta :], batch)
        for at, which in zip(batch.rows, batch.member, strict=True):
            V[np.ix_(at, at)] = blocks[which]
    V /= np.sqrt(np.outer(w, w))
    for t, at in zip(random.terms, random.theta_slices, strict=True):
        z = np.column_stack([np.ones(n) if c is None else c for c in t.columns]) @ t.structure.factor(theta[at])
        V += (z @ z.T) * (t.factor.codes[:, None] == t.factor.codes)
    inverse = np.linalg.inv(V)
    gram = X.T @ inverse @ X
    e = y - X @ np.linalg.solve(gram, X.T @ inverse @ y)
    nu = n - X.shape[1] if reml else n
    value = np.linalg.slogdet(V)[1] + nu * (1.0 + np.log(2.0 * np.pi) + np.log(e @ inverse @ e / nu))
    return value + (np.linalg.slogdet(gram)[1] if reml else 0.0)


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_criterion_and_gradient(rows, kind, grouped):
    term, none = term_of(rows, kind, grouped), RandomEffects([], len(rows["y"]))
    rng = np.random.default_rng(3)
    for make, random in ((MarginalDeviance, none), (WhitenedDeviance, none), (WhitenedDeviance, effects_of(rows))):
        for reml in (True, False):
            criterion = make(rows["y"], rows["X"], random, term, reml=reml, weights=rows["w"])
            theta = criterion.start() + rng.uniform(-0.1, 0.1, criterion.k_theta)
            theta[: random.k_theta] = [0.7, 0.5, 0.1, 0.4][: random.k_theta]
            user = criterion.user_theta(theta)
            want = dense(rows, random, term, user, reml)
            # relative to the size of the sums that make up the criterion
            assert criterion.value(theta) == pytest.approx(want, abs=1e-11 * len(rows["y"]) * 10)
            slopes = [
                (criterion.value(theta + h) - criterion.value(theta - h)) / 2e-5 for h in 1e-5 * np.eye(theta.size)
            ]
            np.testing.assert_allclose(criterion.evaluate(theta).gradient, slopes, atol=2e-6)


@pytest.mark.parametrize(("kind", "grouped"), [("us", False), ("ar1h", True), ("toep", False), ("exp", False)])
def test_both_roads_lead_to_one_place(rows, kind, grouped):
    term, none = term_of(rows, kind, grouped), RandomEffects([], len(rows["y"]))
    moments, whitened = (
        make(rows["y"], rows["X"], none, term, weights=rows["w"]) for make in (MarginalDeviance, WhitenedDeviance)
    )
    theta = minimize(moments).working
    np.testing.assert_allclose(whitened.evaluate(theta).information, moments.evaluate(theta).information, rtol=1e-7)
    exact, differenced = moments.second_order(theta), second_order(moments, theta, -moments.products(theta)[0])
    np.testing.assert_allclose(exact.cov, differenced.cov, atol=1e-6 * np.abs(exact.cov).max())
    one, two = moments.kenward_roger(theta), whitened.kenward_roger(theta)
    np.testing.assert_allclose(one.phi_adjusted, two.phi_adjusted, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_reported_gradients(rows, kind):
    structure = term_of(rows, kind, True).structure
    phi = structure.start() + 0.1
    for i, p in enumerate(structure.parameters(phi)):
        up, down = ([structure.parameters(phi + s * h)[i].value for h in 1e-6 * np.eye(phi.size)] for s in (1.0, -1.0))
        np.testing.assert_allclose(p.gradient, (np.array(up) - down) / 2e-6, atol=1e-7)


@pytest.fixture(scope="module")
def trial():
    return data("trial")


@pytest.fixture(scope="module")
def fit(trial):
    return ms.lmer("y ~ arm * visit + (1 | site)", trial, residual="ar1h(visit | id)", weights="w").fit()


def test_order_of_rows_does_not_matter(trial, fit):
    mixed = trial.sample(frac=1.0, random_state=2)
    again = ms.lmer("y ~ arm * visit + (1 | site)", mixed, residual="ar1h(visit | id)", weights="w").fit()
    assert again.llf == pytest.approx(fit.llf, abs=1e-7)
    np.testing.assert_allclose(again.residual_cov, fit.residual_cov, rtol=1e-4)


def test_names_of_results(fit):
    levels = list(fit.residual_cov.index)
    assert list(fit.residual_params.index) == [*(f"sd[{v}]" for v in levels), "rho"]
    assert fit.scale == pytest.approx(fit.residual_cov.iloc[0, 0])
    np.testing.assert_allclose(np.diag(fit.residual_corr), 1.0)
    assert fit.residual_corr.iloc[0, 1] == pytest.approx(fit.residual_params["rho"])
    residual = fit.varcorr[fit.varcorr.grp == "Residual"]
    assert list(residual.var1) == [*levels, "rho"]
    assert list(fit.structures.columns) == ["grp", "structure", "param", "level1", "level2", "estimate"]
    assert set(fit.structures.grp) == {"site", "Residual"}
    assert fit.k_params == fit.k_fe + 1 + len(levels) + 1
    assert "first-order autoregression, a variance per level" in str(fit.summary())


def test_models_without_random_effects(trial):
    fit = ms.lmer("y ~ arm * visit", trial, residual="us(visit | id)").fit()
    assert fit.random_effects == {}
    assert fit.cov_re == {}
    assert fit.n_groups == {}
    assert len(fit.varcorr) == 10
    np.testing.assert_allclose(fit.predict(trial), fit.fittedvalues)
    again = pickle.loads(pickle.dumps(fit))
    np.testing.assert_allclose(again.tidy(ddf="kenward-roger").df, fit.tidy(ddf="kenward-roger").df)
    with pytest.raises(OptionError, match="no random effects"):
        fit.icc()


def test_simulated_residuals_have_the_covariance(fit, trial):
    draws = fit.simulate(4000, rng=1, random="conditional").to_numpy() - np.asarray(fit.fittedvalues)[:, None]
    scaled = draws * np.sqrt(trial.w.to_numpy())[:, None]
    one = trial.index[trial.id == trial.id.value_counts().index[0]]
    order = [list(fit.residual_cov.index).index(v) for v in trial.visit[one]]
    want = fit.residual_cov.to_numpy()[np.ix_(order, order)]
    # the standard error of a covariance from 4000 draws is 2.2 % of the variances
    np.testing.assert_allclose(np.cov(scaled[one]), want, atol=0.12 * np.diag(want).max())


def test_intervals_of_observations_follow_the_level(fit, trial):
    head = trial.iloc[:4]
    frame = fit.get_prediction(head, kind="prediction")
    rest = np.square(frame.se_obs) - frame.var_pred_mean
    want = [fit.residual_cov.loc[v, v] for v in head.visit]
    np.testing.assert_allclose(rest, want, rtol=1e-8)


def test_profile_bootstrap_and_refit(fit):
    interval = fit.conf_int(method="profile")
    rows = [*(f"sd_{v}|Residual" for v in fit.residual_cov.index), "rho|Residual", "sd_Intercept|site"]
    assert set(rows) <= set(interval.index)
    assert interval.loc["rho|Residual", 0] < fit.residual_params["rho"] < interval.loc["rho|Residual", 1]
    samples = fit.bootstrap(4, rng=2).samples
    assert list(samples.columns) == list(interval.index)
    by_subject = fit.bootstrap(3, rng=2, by="id").samples
    assert by_subject["rho|Residual"].notna().all()
    assert fit.refit(np.asarray(fit.model.endog)).llf == pytest.approx(fit.llf, abs=1e-7)


def test_tests_of_terms_and_random_effects(fit):
    table = fit.anova_random()
    assert table.df.iloc[1] == 1.0
    assert fit.drop1().shape[0] == 2
    assert fit.anova(ddf="kenward-roger").loc["arm:visit", "df_num"] == 3.0


def test_a_variance_per_level_is_not_a_correlation():
    frame = data("orthodont")
    fit = ms.lmer("distance ~ age * Sex", frame, residual="diag(Sex)").fit()
    by_hand = ms.lmer("distance ~ age * Sex", frame.sample(frac=1, random_state=1), residual="diag(Sex)").fit()
    assert by_hand.llf == pytest.approx(fit.llf, abs=1e-8)
    assert fit.residual_params.index.tolist() == ["sd[Male]", "sd[Female]"]


def test_hom_is_the_default(trial):
    plain = ms.lmer("y ~ arm + (1 | id)", trial).fit()
    named = ms.lmer("y ~ arm + (1 | id)", trial, residual="hom").fit()
    assert named.llf == plain.llf
    assert plain.residual_cov is None
    assert plain.residual_params["sd"] == pytest.approx(np.sqrt(plain.scale))


MMRM = "y ~ arm * visit"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"residual": "us(visit)"}, FormulaError, r"residual='us\(visit\)' needs the subject: us\(visit \| subject\)."),
        ({"residual": "uss(visit | id)"}, FormulaError, "'uss' is no residual structure; write type"),
        ({"residual": "us(visit | nobody)"}, UnknownColumnError, "'nobody' is not a column"),
        ({"residual": "us(arm | id)"}, DataError, r"Subject 'p\d+' has \d rows at arm = '[AB]'; a residual structure"),
        ({"residual": "us(visit | id, hom=True)"}, FormulaError, "unknown option 'hom'; it takes none"),
        ({"residual": "exp(time | id, nugget=3)"}, FormulaError, "nugget must be True or False"),
        ({"residual": "exp(visit | id)"}, FormulaError, "'visit' must be a numeric coordinate"),
        ({"residual": "us(visit + arm | id)"}, FormulaError, "one factor stands left of the bar"),
        ({"residual": 3}, FormulaError, "must be a text"),
        ({"residual": "cs(visit | visit/id)"}, DataError, r"\('id'\) must lie within one level of 'visit'; 'p\d+' has"),
    ],
)
def test_bad_structures_get_a_sentence(trial, options, error, message):
    with pytest.raises(error, match=message):
        ms.lmer(MMRM, trial, **options)


def test_subjects_lie_within_levels_of_factors(trial):
    frame = trial.assign(rater=np.arange(len(trial)) % 5)
    message = r"Subjects of the residual structure \('id'\) must lie within one level of 'rater'; 'p\d+' has \d."
    with pytest.raises(DataError, match=message):
        ms.lmer("y ~ arm + (1 | rater)", frame, residual="ar1(visit | id)")


def test_generalised_models_have_no_residual_structure(trial):
    message = r"residual= needs a normal response; put the structure among the random effects: ar1\(0 \+ t \| g\)."
    with pytest.raises(FormulaError, match=message):
        ms.glmer("y ~ arm + (1 | id)", trial, family="poisson", residual="ar1(visit | id)")


def test_levels_that_never_meet(trial):
    early = ~((trial.visit == "v4") & trial.id.isin(trial.id[trial.visit == "v1"]))
    with pytest.warns(IdentificationWarning, match="v1 and v4 are never observed in one subject"):
        ms.lmer("y ~ arm", trial[early], residual="us(visit | id)")


@pytest.mark.parametrize("residual", ["cs(visit | id)", "us(visit | id)", "toep(visit | id)"])
def test_redundant_structures_are_named(trial, residual):
    model = ms.lmer("y ~ arm * time + (1 | id)", trial, residual=residual)
    message = r"The residual structure and \(1 \| id\) describe the same covariance; only their sum is estimated."
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ms.exceptions.SingularFitWarning)
        with pytest.warns(IdentificationWarning, match=message):
            model.fit()


def test_coincident_positions_need_a_nugget():
    frame = data("irregular")
    same = pd.concat([frame, frame.iloc[[3]].assign(y=0.0)], ignore_index=True)
    message = rf"Rows 3 and {len(frame)} of 'id' = 'i\d+' have the same position; add nugget=True."
    with pytest.raises(DataError, match=message):
        ms.lmer("y ~ t", same, residual="exp(t | id)")
    assert ms.lmer("y ~ t", same, residual="exp(t | id, nugget=True)").fit().converged


def test_priors_of_coefficients_apply(trial):
    free = ms.lmer("y ~ arm", trial, residual="cs(visit | id)").fit()
    small = ms.priors.Normal(sd=0.1)
    held = ms.blmer("y ~ arm", trial, residual="cs(visit | id)", fixef_prior={"arm[T.B]": small}).fit()
    assert abs(held.params["arm[T.B]"]) < abs(free.params["arm[T.B]"])
