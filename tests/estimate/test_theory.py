"""What docs/estimators.md says of the estimators in general, by simulation with known item parameters."""

from dataclasses import replace

import numpy as np
import pytest

from merge3_plugin.domain import AnchorSet, Calibration, ItemParameters, ResponseMatrix
from merge3_plugin.estimate.base import Evidence
from merge3_plugin.estimate.builtin import GMP_IRT_HALF, MP_IRT
from merge3_plugin.estimate.difference import Difference
from merge3_plugin.irt import probabilities

N_ITEMS = 400


class SpanOfOne:
    """Two parents whose abilities lie on one line, and a merge whose ability has left it: item parameters are exact."""

    def __init__(self, aside):
        rng = np.random.default_rng(11)
        first = rng.lognormal(0.0, 0.3, N_ITEMS)
        # The second dimension rests on half of the items, which are the hard ones.
        second = np.where(np.arange(N_ITEMS) < N_ITEMS // 2, 1.5, 0.0)
        items = ItemParameters(np.column_stack([first, second]), np.where(second > 0, 1.5, -0.5))
        ids = [f"q{j}" for j in range(N_ITEMS)]
        chances = probabilities(items, np.array([[0.2, 0.0], [0.8, 0.0], [0.5, aside]]))
        answers = (rng.random(chances.shape) < chances).astype(float)
        self.parents = ResponseMatrix(answers[:2], ["a", "b"], ids)
        self.answers, self.truth = answers[2], answers[2].mean()
        self.calibration = Calibration(tuple(ids), items, self._anchors(np.arange(2)), self.parents)

    def _anchors(self, places):
        n = len(places)
        ids = tuple(f"q{j}" for j in places)
        return AnchorSet(ids, np.full(n, 1 / n), "random", np.full(n, n / N_ITEMS))

    def draws(self, n, count, seed=0):
        """The evidence of ``count`` simple random samples."""
        rng = np.random.default_rng(seed)
        for _ in range(count):
            places = np.sort(rng.choice(N_ITEMS, n, replace=False))
            calibration = replace(self.calibration, anchors=self._anchors(places))
            yield Evidence(calibration, places, self.answers[places], self.parents)

    def errors(self, estimator, n, count, seed=0):
        return np.array([estimator.estimate(e).accuracy - self.truth for e in self.draws(n, count, seed)])


@pytest.fixture(scope="module")
def misspecified():
    return SpanOfOne(aside=2.0)


def test_mp_irt_tends_to_the_truth_as_all_items_are_scored(misspecified):
    """Not more than the unseen share of the items can be wrong, whatever the model."""
    means = []
    for n in (40, 200, 360, 396):
        errors = np.abs(misspecified.errors(MP_IRT, n, 40))
        assert errors.max() <= 1 - n / N_ITEMS
        means.append(errors.mean())
    assert means == sorted(means, reverse=True) and means[-1] < 0.005


def test_mp_irt_is_biased_where_the_merge_leaves_its_parents_span(misspecified):
    """At a fixed share of the items no number of draws averages it away; half of it is left at c = 1/2."""
    bias = {}
    for name, estimator in (("mp", MP_IRT), ("gmp", GMP_IRT_HALF), ("difference", Difference())):
        errors = misspecified.errors(estimator, 80, 400)
        bias[name] = errors.mean(), errors.std() / np.sqrt(len(errors))
    assert abs(bias["mp"][0]) > 10 * bias["mp"][1] and abs(bias["mp"][0]) > 0.01
    assert bias["gmp"][0] == pytest.approx(bias["mp"][0] / 2, abs=4 * bias["gmp"][1])
    assert abs(bias["difference"][0]) < 3.5 * bias["difference"][1]


def test_inside_the_span_it_is_not():
    errors = SpanOfOne(aside=0.0).errors(MP_IRT, 80, 400)
    assert abs(errors.mean()) < 0.01


def test_the_variance_of_the_difference_is_that_of_what_the_predictions_miss(misspecified):
    """Var(y - f) (1 - n/N) / n over simple random samples (V1)."""
    n, missed = 50, misspecified.answers - misspecified.parents.values.mean(axis=0)
    expected = missed.var(ddof=1) * (1 - n / N_ITEMS) / n
    errors = misspecified.errors(Difference(), n, 4000)
    # The standard error of a variance over 4000 draws is about 2.2 %.
    assert errors.var() == pytest.approx(expected, rel=0.09)


def test_the_selected_candidate_loses_at_most_twice_the_largest_error():
    rng = np.random.default_rng(2)
    optimism = []
    for _ in range(500):
        truths = rng.normal(0.5, 0.02, 20)
        estimates = truths + rng.normal(0.0, 0.03, 20)
        largest, chosen = np.abs(estimates - truths).max(), estimates.argmax()
        assert truths.max() - truths[chosen] <= 2 * largest
        optimism.append(estimates[chosen] - truths[chosen])
    # And its own estimate is too high by more than half of an error's spread: the winner's curse.
    assert np.mean(optimism) > 0.015


def test_twice_is_tight():
    """Two candidates 2 eps apart, the better underestimated by eps and the worse overestimated as much."""
    truths, errors = np.array([0.52, 0.48]), np.array([-0.0201, 0.0201])
    chosen = (truths + errors).argmax()
    assert truths.max() - truths[chosen] == pytest.approx(2 * np.abs(errors).max(), rel=0.01)
