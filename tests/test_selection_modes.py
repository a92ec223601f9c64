"""The default fit of model b is the highest of the maxima that differ in the signs of weak loadings."""

import pytest
from selection_oracle import frame_of

import mvmise_sm as ms

FORMULA = "y1 + y2 + y3 ~ x2 + (1 | id)"


def test_loadings_of_another_sign_are_tried():
    # simulated by benchmarks/selection_maxima.py; from the moment start the search ends at -189.2206
    with pytest.warns(UserWarning, match=r"several maxima of similar height: -188\.320"):
        result = ms.mvmise_b(FORMULA, frame_of("two_signs")).fit()
    assert result.converged
    assert result.llf == pytest.approx(-188.31953, abs=1e-4)
    likelihood, theta = result._outcome.objective.likelihood, result._outcome.maximum.theta
    for start in likelihood.reflections(theta):
        turned = start[likelihood.slices["tau"]] != theta[likelihood.slices["tau"]]
        assert 1 <= turned.sum() < 3
        assert likelihood.value_and_score(start)[0] < result.llf


@pytest.mark.filterwarnings("ignore:outcomes:mvmise_sm.exceptions.DataWarning")
def test_loadings_that_are_known_are_not_turned():
    frame = ms.datasets.load_tmt("wide")
    result = ms.mvmise_b("P3_a + P3_b + P3_c ~ condition + (1 | batch)", frame).fit()
    assert result._outcome.objective.likelihood.reflections(result._outcome.maximum.theta) == []
