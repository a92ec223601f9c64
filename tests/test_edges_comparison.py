"""Only what can be compared is compared: nested models, one criterion, the same data, no priors."""

import numpy as np
import pandas as pd
import pytest

import mvmise_sm as ms
from mvmise_sm.exceptions import DataError, OptionError

pytestmark = pytest.mark.filterwarnings("ignore::mvmise_sm.exceptions.SingularFitWarning")


@pytest.fixture(scope="module")
def frame():
    rng = np.random.default_rng(8)
    g = np.repeat(np.arange(12), 8)
    n = g.size
    data = pd.DataFrame({"g": g, "h": rng.integers(0, 6, n), "x": rng.normal(size=n), "z": rng.normal(size=n)})
    data["f"] = np.array(list("abc"))[rng.integers(0, 3, n)]
    effects = rng.normal(size=12)[g] + 0.8 * data["x"] * rng.normal(size=12)[g] + rng.normal(size=6)[data["h"]]
    data["y"] = 0.6 * data["x"] + effects + rng.normal(size=n)
    data["count"] = rng.poisson(np.exp(0.5 + 0.3 * data["x"] + 0.5 * rng.normal(size=12)[g]))
    data["bin"] = rng.binomial(1, 0.5, n)
    data["w"] = rng.uniform(0.5, 2.0, n)
    return data


def lmer(frame, formula, reml=False, **options):
    return ms.lmer(formula, frame, **options).fit(reml=reml)


# pairs of which neither is a special case of the other
APART = [
    ("y ~ x + (1 | g)", "y ~ z + f + (1 | g)", "lacks 'x'"),
    ("y ~ x + (1 | g)", "y ~ z + (1 | g)", "lacks"),
    ("y ~ x + (1 | g)", "y ~ x + (1 | h)", "random effects"),
    ("y ~ x + (1 | g)", "y ~ x + z + (1 | h)", "random effects"),
    ("y ~ x + (x || g)", "y ~ x + (1 | g) + (1 | h) + (0 + z | g)", "random effects"),
    ("y ~ log(x + 9) + (1 | g)", "y ~ x + z + (1 | g)", "lacks 'log"),
    ("y ~ x + (0 + x | g)", "y ~ x + z + (1 | g)", "random effects"),
    ("y ~ x + (1 | g)", "y ~ I(2 * x) + (1 | g)", "parameters"),
]
WITHIN = [
    ("y ~ 1 + (1 | g)", "y ~ x + (1 | g)"),
    ("y ~ x + (1 | g)", "y ~ x + (x | g)"),
    ("y ~ x + (x || g)", "y ~ x + (x | g)"),
    ("y ~ x + (1 | g)", "y ~ I(3 - 2 * x) * f + (1 | g) + (1 | h)"),
    ("y ~ C(f, Sum) + (1 | g)", "y ~ f + x + (1 | g)"),
    ("y ~ x + (I(x - 2) | g)", "y ~ x + z + (x | g)"),
]


@pytest.mark.parametrize(("one", "two", "what"), APART)
def test_anova_refuses_models_that_are_not_nested(frame, one, two, what):
    fits = [lmer(frame, one), lmer(frame, two)]
    for pair in (fits, fits[::-1]):
        with pytest.raises(DataError, match=f"not nested.*{what}"):
            ms.anova(*pair)
    with pytest.raises(DataError, match="not nested"):
        ms.anova(*fits, test="bootstrap", n=2)
    assert np.isfinite(ms.compare(*fits)["aic"]).all()


@pytest.mark.parametrize(("one", "two"), WITHIN)
def test_anova_of_nested_models_has_a_test(frame, one, two):
    table = ms.anova(lmer(frame, two), lmer(frame, one))
    assert table["chisq"].iloc[1] >= -1e-7
    assert table["df"].iloc[1] >= 1
    assert 0.0 <= table["p_value"].iloc[1] <= 1.0


def test_anova_refuses_priors(frame):
    plain, prior = lmer(frame, "y ~ x + (x | g)"), ms.blmer("y ~ x + (1 | g)", frame).fit(reml=False)
    for pair in ((plain, prior), (prior, ms.blmer("y ~ x + z + (1 | g)", frame).fit())):
        with pytest.raises(OptionError, match="has priors"):
            ms.anova(*pair)
    with pytest.raises(OptionError, match="has priors"):
        prior.drop1()
    assert "priors" in str(ms.compare(plain, prior))


def test_anova_refuses_other_criteria_and_data(frame):
    def glmer(formula, family="poisson", fit=None, **options):
        return ms.glmer(formula, frame, family=family, **options).fit(**(fit or {}))

    small, large = "count ~ 1 + (1 | g)", "count ~ x + (1 | g)"
    for one, two, sentence in [
        (glmer(small), glmer(large, fit={"nagq": 9}), "nagq=1 and nagq=9"),
        (glmer(small, fit={"nagq": 0}), glmer(large), "nagq"),
        (glmer(small), lmer(frame, "count ~ x + (1 | g)"), "cannot compare"),
        (glmer(small), glmer("bin ~ x + (1 | g)", "binomial"), "different responses"),
        (lmer(frame, "y ~ x + (1 | g)"), lmer(frame.iloc[:90], "y ~ x + z + (1 | g)"), "rows"),
    ]:
        for call in (ms.anova, ms.compare):
            with pytest.raises(DataError, match=sentence):
                call(one, two)
    weighted = lmer(frame, "y ~ x + z + (1 | g)", weights="w")
    with pytest.raises(DataError, match="weights differ"):
        ms.anova(lmer(frame, "y ~ x + (1 | g)"), weighted)
    with pytest.raises(DataError, match="offsets differ"):
        ms.anova(lmer(frame, "y ~ z + (1 | g)"), lmer(frame, "y ~ z + offset(x) + f + (1 | g)"))
    with pytest.raises(DataError, match="families are"):
        ms.anova(glmer(small), glmer(large, "gaussian"))


def test_poisson_is_nested_in_the_negative_binomial(frame):
    rng = np.random.default_rng(3)
    frame = frame.assign(count=rng.poisson(np.exp(0.5 + 0.6 * rng.normal(size=12)[frame["g"]]) * rng.gamma(1, 1, 96)))
    poisson = ms.glmer("count ~ x + (1 | g)", frame, family="poisson").fit()
    table = ms.anova(poisson, ms.glmer_nb("count ~ x + (1 | g)", frame).fit())
    assert table["df"].iloc[1] == 1
    assert table["chisq"].iloc[1] > 0
