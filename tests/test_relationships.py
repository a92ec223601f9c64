"""Known relationships between levels, pedigrees and multi-membership."""

import pickle

import numpy as np
import pandas as pd
import pytest
from structures_reference import data, pedigree, relationship

import mvmise_sm as ms
from mvmise_sm.exceptions import DataError, FormulaError, NewLevelError, OptionError, UnknownColumnError


@pytest.fixture(scope="module")
def animals():
    return data("animals")


@pytest.fixture(scope="module")
def kinship():
    return relationship("animals_K")


@pytest.fixture(scope="module")
def fit(animals, kinship):
    return ms.lmer("y ~ sex + x + (1 | id) + (1 | herd)", animals, cov={"id": kinship}).fit()


def test_pedigree_gives_the_matrix_and_its_inverse(kinship):
    found = pedigree()
    a = found.relationship()
    np.testing.assert_allclose(a.loc[kinship.index, kinship.columns], kinship, atol=1e-9)
    np.testing.assert_allclose(found.inverse() @ a.to_numpy(), np.eye(len(a)), atol=1e-9)
    # matings of half brothers and sisters
    small = pd.DataFrame({"id": list("dcab"), "sire": ["a", "a", None, None], "dam": ["c", "b", "", None]})
    assert ms.pedigree(small).inbreeding()["d"] == pytest.approx(0.25)


def test_parents_without_rows_are_founders():
    found = ms.pedigree(pd.DataFrame({"kid": ["x"], "pa": ["p"], "ma": ["m"]}), id="kid", sire="pa", dam="ma")
    assert sorted(found.labels) == ["m", "p", "x"]
    assert repr(found) == "<Pedigree of 3 animals, 2 founders>"


@pytest.mark.parametrize(
    ("frame", "error", "message"),
    [
        ({"id": ["a", "b"], "sire": ["b", "a"], "dam": [None, None]}, DataError, "Animal '[ab]' is its own ancestor."),
        ({"id": ["a", "a"], "sire": [None, None], "dam": [None, None]}, DataError, "Animal 'a' has 2 rows"),
        ({"id": ["a"], "sire": [None]}, UnknownColumnError, "'dam' is not a column of the pedigree"),
    ],
)
def test_bad_pedigrees(frame, error, message):
    with pytest.raises(error, match=message):
        ms.pedigree(pd.DataFrame(frame))


def test_order_of_labels_does_not_matter(animals, kinship, fit):
    mixed = kinship.sample(frac=1, random_state=1)
    again = ms.lmer("y ~ sex + x + (1 | id) + (1 | herd)", animals, cov={"id": mixed}).fit()
    assert again.llf == pytest.approx(fit.llf, abs=1e-8)


def test_all_labels_have_effects(fit, kinship, animals):
    effects = fit.random_effects["id"]
    assert set(effects.index) == set(kinship.index)
    unseen = sorted(set(kinship.index) - set(animals.id))
    # an animal without data has an effect if relatives have data
    related = [i for i in unseen if (kinship.loc[i, animals.id] != 0.0).any()]
    assert related
    assert (effects.loc[related, "Intercept"] != 0.0).all()
    variances = fit.random_effects_cov["id"][:, 0, 0]
    prior = fit.cov_re["id"].iloc[0, 0] * np.diag(kinship.loc[effects.index, effects.index])
    assert (variances < prior + 1e-9).all()


def test_predictions_of_animals_without_data(fit, kinship, animals):
    unseen = sorted(set(kinship.index) - set(animals.id))[0]
    row = animals.iloc[[0]].assign(id=unseen)
    fixed = fit.predict(row, random=["herd"]).iloc[0]
    assert fit.predict(row).iloc[0] - fixed == pytest.approx(fit.random_effects["id"].loc[unseen, "Intercept"])
    with pytest.raises(NewLevelError):
        fit.predict(row.assign(id="nobody"))
    known, new = (fit.get_prediction(row.assign(id=i), allow_new_levels=True).se_mean[0] for i in (unseen, "nobody"))
    assert known < new


def test_posterior_variances_are_those_of_the_dense_formula(animals, kinship):
    fit = ms.lmer("y ~ sex + x + (1 | id)", animals, cov={"id": kinship}).fit()
    order = list(fit.random_effects["id"].index)
    codes = [order.index(i) for i in animals.id]
    z = np.eye(len(order))[codes]
    G = fit.cov_re["id"].iloc[0, 0] * kinship.loc[order, order].to_numpy()
    V = z @ G @ z.T + fit.scale * np.eye(len(codes))
    want = G - G @ z.T @ np.linalg.solve(V, z @ G)
    np.testing.assert_allclose(fit.random_effects_cov["id"][:, 0, 0], np.diag(want), rtol=1e-7, atol=1e-9)


def test_simulation_pickle_and_resampling(fit, animals):
    again = pickle.loads(pickle.dumps(fit))
    np.testing.assert_allclose(again.predict(animals.iloc[:5]), fit.predict(animals.iloc[:5]))
    np.testing.assert_array_equal(again.simulate(2, rng=3), fit.simulate(2, rng=3))
    assert fit.bootstrap(3, rng=1).samples["sd_Intercept|id"].notna().all()
    assert fit.bootstrap(3, rng=1, by="herd").samples["sd_Intercept|id"].notna().all()


def test_clones_share_their_effect():
    fit = ms.lmer("y ~ x + (1 | id)", data("clones"), cov={"id": relationship("clones_K")}).fit()
    K = relationship("clones_K").to_numpy()
    twins = [(i, j) for i in range(len(K)) for j in range(i) if np.array_equal(K[i], K[j])]
    effects = fit.random_effects["id"].Intercept.to_numpy()
    assert twins
    for i, j in twins[:5]:
        assert effects[i] == pytest.approx(effects[j], abs=1e-8)


def broken(kinship, value):
    out = kinship.copy()
    out.iloc[0, 1] = value
    return out


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda k: k.iloc[3:, 3:], DataError, r"'id' has \d+ levels? without a row in cov\['id'\] \('a00"),
        (lambda k: broken(k, 0.2), DataError, r"cov\['id'\] is not symmetric \(largest difference 0.2\)."),
        (lambda k: k - 0.9 * np.eye(len(k)), DataError, r"cov\['id'\] has a negative eigenvalue \(-0"),
        (lambda k: k.to_numpy(), OptionError, "must be a DataFrame with the labels on both axes, or a pedigree"),
        (lambda k: broken(k, np.nan), DataError, "missing or infinite"),
    ],
)
def test_bad_matrices_get_a_sentence(animals, kinship, change, error, message):
    with pytest.raises(error, match=message):
        ms.lmer("y ~ sex + (1 | id)", animals, cov={"id": change(kinship)})


def test_names_are_grouping_factors(animals, kinship):
    with pytest.raises(OptionError, match=r"cov names 'ID', but the grouping factors are \['id'\]"):
        ms.lmer("y ~ sex + (1 | id)", animals, cov={"ID": kinship})


def test_generalised_models_take_relationships(animals, kinship):
    counts = animals.assign(k=np.random.default_rng(1).poisson(np.exp(0.2 * animals.y)))
    fit = ms.glmer("k ~ sex + x + (1 | id)", counts, family="poisson", cov={"id": kinship}).fit()
    assert fit.converged
    independent = pd.DataFrame(np.eye(len(kinship)), kinship.index, kinship.columns)
    same = ms.glmer("k ~ sex + x + (1 | id)", counts, family="poisson", cov={"id": independent}).fit()
    plain = ms.glmer("k ~ sex + x + (1 | id)", counts, family="poisson").fit()
    assert same.llf == pytest.approx(plain.llf, abs=1e-7)


@pytest.fixture(scope="module")
def members():
    return data("members")


def test_members_are_counted_over_all_columns(members):
    fit = ms.lmer("y ~ x + (1 | mm(s1, s2)) + (1 | cls)", members).fit()
    assert set(fit.random_effects["mm(s1, s2)"].index) == set(members.s1) | set(members.s2)
    head = members.iloc[:4]
    b = fit.random_effects["mm(s1, s2)"].Intercept
    part = fit.predict(head, random=["mm(s1, s2)"]) - fit.predict(head, random="none")
    np.testing.assert_allclose(part, 0.5 * (b[head.s1].to_numpy() + b[head.s2].to_numpy()), rtol=1e-8)
    given = ms.lmer("y ~ x + (1 | mm(s1, s2, weights=(h, h))) + (1 | cls)", members.assign(h=0.5)).fit()
    assert given.llf == pytest.approx(fit.llf, abs=1e-9)
    assert pickle.loads(pickle.dumps(fit)).predict(head).tolist() == pytest.approx(fit.predict(head).tolist())
    with pytest.raises(NewLevelError):
        fit.predict(head.assign(s1="nobody"))


def test_missing_memberships_leave_the_others(members):
    some = members.assign(s2=members.s2.where(np.arange(len(members)) % 3 > 0))
    fit = ms.lmer("y ~ x + (1 | mm(s1, s2))", some).fit()
    assert fit.nobs == len(members)
    loadings = fit.model.random_effects.factors[0].loadings
    np.testing.assert_allclose(np.asarray(loadings.sum(axis=1)).ravel(), 1.0)


def test_bad_memberships(members):
    with pytest.raises(FormulaError, match=r"mm\(s1, s2\) has 2 members and 3 weights."):
        ms.lmer("y ~ x + (1 | mm(s1, s2, weights=(w1, w2, w3)))", members)
    with pytest.raises(UnknownColumnError, match="'s9' is not a column"):
        ms.lmer("y ~ x + (1 | mm(s1, s9))", members)


def test_simulated_effects_of_generalised_models_are_related():
    frame, K = data("clones"), relationship("clones_K")
    counts = frame.assign(k=np.random.default_rng(1).poisson(np.exp(0.3 * (frame.y - frame.y.mean()))))
    fit = ms.glmer("k ~ x + (1 | id)", counts, family="poisson", cov={"id": K}).fit()
    (drawn,) = fit.effects_draw(np.random.RandomState(0))
    assert np.ptp(drawn) > 0.0
    for i, j in zip(*np.nonzero(np.tril((K.to_numpy()[:, None] == K.to_numpy()).all(axis=2), -1)), strict=True):
        assert drawn[i] == pytest.approx(drawn[j], abs=1e-8)
    assert fit.simulate(2, rng=1).shape == (len(frame), 2)
