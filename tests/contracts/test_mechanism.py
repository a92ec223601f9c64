"""The contract of a mechanism, over everything registered and over toys that a user might add."""

import numpy as np
import pandas as pd
import pytest
from scipy.integrate import dblquad, quad
from scipy.special import log_ndtr, ndtr, ndtri
from scipy.stats import norm

import mvmise_sm as ms
from mvmise_sm.exceptions import OptionError
from mvmise_sm.mechanisms import BlockIntegral, SeenTerm
from mvmise_sm.selection.mechanism_check import MECHANISMS


class Normal:
    """The probit once more, as a stranger would write it."""

    name = "toy probit"
    upper = np.inf
    exponential = False
    bounded = True
    width = 1.0

    def prob(self, eta):
        return ndtr(eta)

    def seen(self, eta):
        hazard = np.exp(norm.logpdf(eta) - log_ndtr(-eta))
        return SeenTerm(log_ndtr(-eta), -hazard, -hazard * (hazard - eta))

    def missing(self, mean, var):
        scale = 1.0 / np.sqrt(1.0 + var)
        z = mean * scale
        mills = np.exp(norm.logpdf(z) - log_ndtr(z))
        return BlockIntegral(log_ndtr(z), scale * mills, -0.5 * scale**2 * z * mills)

    def start(self, rate):
        return float(ndtri(rate))


class LogLog:
    """Complementary log-log, ``F = 1 - exp(-exp(eta))``, integrated by Gauss-Hermite quadrature."""

    name = "cloglog"
    upper = np.inf
    exponential = False
    bounded = True
    width = 1.0
    nodes, weights = np.polynomial.hermite_e.hermegauss(120)

    def prob(self, eta):
        return -np.expm1(-np.exp(np.minimum(eta, 50.0)))

    def seen(self, eta):
        rate = np.exp(np.minimum(eta, 50.0))
        return SeenTerm(-rate, -rate, -rate)

    def missing(self, mean, var):
        mean, var = np.broadcast_arrays(np.asarray(mean, float), np.asarray(var, float))
        eta = mean[..., None] + np.sqrt(var)[..., None] * self.nodes
        rate = np.exp(np.minimum(eta, 50.0))
        weights = self.weights / np.sqrt(2 * np.pi)
        total = (-np.expm1(-rate)) @ weights
        slope = (rate * np.exp(-rate)) @ weights / total
        bend = (rate * np.exp(-rate) * (1.0 - rate)) @ weights / total
        return BlockIntegral(np.log(total), slope, 0.5 * bend)

    def start(self, rate):
        return float(np.log(-np.log1p(-rate)))


@pytest.fixture(scope="module", autouse=True)
def _registered():
    before = dict(MECHANISMS)
    ms.mechanisms.register(Normal)
    ms.mechanisms.register(LogLog)
    yield
    MECHANISMS.clear()
    MECHANISMS.update(before)


@pytest.mark.parametrize("name", sorted({*MECHANISMS, "toy probit", "cloglog"}))
def test_everything_registered_keeps_the_contract(name):
    ms.mechanisms.check_mechanism(MECHANISMS[name])


BREAKS = {
    "seen": {"seen": lambda self, eta: SeenTerm(-np.exp(eta), -np.exp(eta), -np.exp(eta))},
    "first derivative": {"seen": lambda self, eta: SeenTerm(log_ndtr(-eta), -0.9 * ndtr(eta), -eta)},
    "missing": {"missing": lambda self, m, v: BlockIntegral(m + v / 2, np.ones_like(m), np.full_like(m, 0.5))},
    "heat equation": {"missing": lambda self, m, v: Normal().missing(m, v)._replace(d_var=np.zeros_like(m))},
    "start": {"start": lambda self, rate: float(np.log(rate))},
    "three arrays": {"seen": lambda self, eta: log_ndtr(-eta)},
    "prob": {"prob": lambda self, eta: np.exp(eta)},
}


@pytest.mark.parametrize("member", BREAKS)
def test_a_wrong_member_is_refused_by_name(member):
    broken = type("Broken", (Normal,), {"name": "broken", **BREAKS[member]})
    with pytest.raises(OptionError, match=member):
        ms.mechanisms.register(broken)
    assert "broken" not in MECHANISMS


def test_an_absent_member_is_refused_by_name():
    class Half:
        name = "half"

        def missing(self, mean, var):
            return Normal().missing(mean, var)

    with pytest.raises(OptionError, match="has no member 'upper'"):
        ms.mechanisms.register(Half)


def blocks(seed=3, K=2, F=None):
    rng = np.random.default_rng(seed)
    batch = np.repeat(np.arange(24), 3)
    x = rng.normal(size=72)
    Y = 6.0 + 0.5 * x[:, None] + 0.8 * rng.normal(size=(24, 1))[batch] + 0.5 * rng.normal(size=(72, K))
    for b in range(24):
        for k in range(K):
            if rng.random() < F(5.0 - 1.0 * Y[batch == b, k].mean()):
                Y[batch == b, k] = np.nan
    return pd.DataFrame({"batch": batch, "x": x, **{f"y{k}": Y[:, k] for k in range(K)}})


def test_the_toy_is_the_built_in_one_everywhere():
    frame = blocks(F=ndtr)
    toy, own = (ms.mvmise_b("y0 + y1 ~ x + (1 | batch)", frame, mechanism=m).fit() for m in ("toy probit", "probit"))
    assert toy.llf == pytest.approx(own.llf, abs=1e-7)
    assert toy.params.to_numpy() == pytest.approx(own.params.to_numpy(), abs=1e-6)
    assert toy.bse.to_numpy() == pytest.approx(own.bse.to_numpy(), rel=1e-5)
    assert toy.phi.to_numpy() == pytest.approx(own.phi.to_numpy(), rel=1e-4)
    assert toy.predict_missing()["mean"].to_numpy() == pytest.approx(own.predict_missing()["mean"].to_numpy(), abs=1e-5)
    assert toy.mechanism_test.statistic == pytest.approx(own.mechanism_test.statistic, abs=1e-5)
    assert "toy probit" in str(toy.summary())


def test_single_values_under_a_toy():
    frame = blocks(F=lambda eta: 0.0, K=1)
    rng = np.random.default_rng(1)
    frame.loc[rng.random(72) < ndtr(5.0 - frame["y0"]), "y0"] = np.nan
    toy, own = (ms.lmer_mnar("y0 ~ x + (1 | batch)", frame, mechanism=m).fit() for m in ("toy probit", "probit"))
    assert toy.llf == pytest.approx(own.llf, abs=1e-7)
    assert toy.params.to_numpy() == pytest.approx(own.params.to_numpy(), abs=1e-5)


def test_a_mechanism_without_a_built_in_twin_gives_what_quadrature_gives():
    frame = blocks(F=LogLog().prob)
    frame = frame[frame["batch"] < 3]
    model = ms.mvmise_b("y0 + y1 ~ x + (1 | batch)", frame, mechanism="cloglog", outcome_effects=[])
    point = {"params": {"Intercept": 6.0, "x": 0.4}, "tau": {"y0": 0.7, "y1": 0.9}, "sigma2": 0.3}
    phi = {"Intercept": 4.0, "y": -0.9}
    found = model.loglike_at({**point, "phi": phi})
    assert found == pytest.approx(by_quadrature(frame, point, phi, LogLog().prob), abs=1e-7)


def by_quadrature(frame, point, phi, F):
    """Log-likelihood of model b by one or two nested integrals for each cluster."""
    tau, s2 = np.array(list(point["tau"].values())), point["sigma2"]
    total = 0.0
    for _, rows in frame.groupby("batch"):
        Y, n = rows[["y0", "y1"]].to_numpy(), len(rows)
        mean = point["params"]["Intercept"] + point["params"]["x"] * rows["x"].to_numpy()
        gone = np.isnan(Y).all(axis=0)

        def given(b, Y=Y, n=n, mean=mean, gone=gone):
            out = norm.pdf(b)
            for k in range(2):
                if gone[k]:
                    centre = phi["Intercept"] + phi["y"] * (mean.mean() + tau[k] * b)
                    sd = abs(phi["y"]) * np.sqrt(s2 / n)
                    out *= quad(lambda z, c=centre, s=sd: F(c + s * z) * norm.pdf(z), -9, 9, epsabs=1e-13)[0]
                else:
                    out *= np.prod(norm.pdf(Y[:, k], mean + tau[k] * b, np.sqrt(s2)))
                    out *= 1.0 - F(phi["Intercept"] + phi["y"] * Y[:, k].mean())
            return out

        total += np.log(quad(given, -8, 8, epsabs=0.0, epsrel=1e-10, limit=200)[0])
    return total


@pytest.mark.parametrize("mechanism", ["logit", "toy probit"])
def test_what_needs_an_exponential_says_so(mechanism):
    frame = blocks(F=ndtr)
    with pytest.raises(OptionError, match="model e needs an exponential mechanism"):
        ms.mvmise_e("y0 + y1 ~ x + (1 | batch)", frame, mechanism=mechanism)
    model = ms.mvmise_b("y0 + y1 ~ x + (1 | batch)", frame, mechanism=mechanism)
    for method in ("em", "mvmise"):
        with pytest.raises(OptionError, match="needs an exponential mechanism"):
            model.fit(method=method)


def test_numbers_given_are_held():
    frame = blocks(F=ndtr)
    held = ms.mechanisms.Probit(Intercept=5.0, y=-1.0)
    result = ms.mvmise_b("y0 + y1 ~ x + (1 | batch)", frame, mechanism=held).fit()
    assert list(result.phi) == [5.0, -1.0]
    assert list(result.bse_phi) == [0.0, 0.0]
    free = ms.mvmise_b("y0 + y1 ~ x + (1 | batch)", frame, mechanism="probit").fit()
    assert free.llf >= result.llf - 1e-9
    assert free.k_params == result.k_params + 2
    half = ms.mvmise_b("y0 + y1 ~ x + (1 | batch)", frame, mechanism=ms.mechanisms.Probit(y=-1.0)).fit()
    assert result.llf - 1e-9 <= half.llf <= free.llf + 1e-9
    with pytest.raises(TypeError):
        ms.mechanisms.Probit(slope=1.0)


def test_two_dimensional_check_of_the_quadrature_itself():
    # two missing blocks of one cluster and nothing seen: one double integral over their predictors
    F, tau, s2 = ndtr, np.array([0.8, 0.6]), 0.2
    phi = {"Intercept": 1.0, "y": -0.5}
    cov = phi["y"] ** 2 * (np.outer(tau, tau) + s2 / 2 * np.eye(2))
    factor = np.linalg.cholesky(cov)

    def density(b, a):
        eta = phi["Intercept"] + phi["y"] * 2.0 + factor @ np.array([a, b])
        return F(eta[0]) * F(eta[1]) * norm.pdf(a) * norm.pdf(b)

    expected = np.log(dblquad(density, -7, 7, -7, 7, epsabs=1e-9)[0])
    frame = pd.DataFrame({"batch": [0, 0, 1, 1], "y0": [np.nan, np.nan, 2.0, 2.1], "y1": [np.nan, np.nan, 2.2, 1.9]})
    model = ms.mvmise_b("y0 + y1 ~ 1 + (1 | batch)", frame, mechanism="probit", outcome_effects=[])
    point = {"params": {"Intercept": 2.0}, "tau": {"y0": 0.8, "y1": 0.6}, "sigma2": s2, "phi": phi}
    seen = by_quadrature(
        frame[frame["batch"] == 1].assign(x=0.0),
        {**point, "params": {"Intercept": 2.0, "x": 0.0}},
        phi,
        F,
    )
    assert model.loglike_at(point) - seen == pytest.approx(expected, abs=1e-7)
