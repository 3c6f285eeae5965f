from dataclasses import replace

import numpy as np
import pytest

from merge3_plugin.domain import ResponseMatrix
from merge3_plugin.estimate.base import CROSS_VALIDATION
from merge3_plugin.estimate.difference import Difference, ShrunkenDifference, corrected
from merge3_plugin.estimate.irt_estimators import P_IRT, p_irt_in
from merge3_plugin.extract.anchors import select_anchors
from merge3_plugin.testing import simulate_merges, simulate_responses
from tests.estimate.worlds import evidence_of, quick_calibration, with_anchors

DRAWN = ("random", "stratified", "kd", "neyman", "mixed")


@pytest.fixture(scope="module")
def odd_world():
    """60 items that count differently; a model whose answers no ability explains; parents who predict them badly."""
    rng = np.random.default_rng(3)
    world = simulate_merges(2, 5, 60, rng=rng)
    odd = (np.arange(60) % 3 > 0) ^ (rng.random(60) < 0.2)
    values = np.vstack([world.values, odd])
    balance = rng.choice([1.0, 2.0], 60)
    return ResponseMatrix(values, [*world.model_ids, "odd"], world.item_ids, balance=balance)


@pytest.mark.parametrize("method", DRAWN)
@pytest.mark.parametrize("family", [True, False])
def test_unbiased_over_the_draws_of_every_probability_design(odd_world, method, family):
    """V1: whatever the predictions, and V3: a useless one costs variance, not bias."""
    parents = odd_world.models(["p0", "p1"])
    calibration = quick_calibration(odd_world.models(odd_world.model_ids[:-1]), 12, parents=parents)
    answers, truth = odd_world.values[-1], odd_world.accuracy()[-1]
    rng = np.random.default_rng(5)
    found = []
    for _ in range(800):
        anchors = select_anchors(calibration.responses, calibration.items, 12, method=method, rng=rng, parents=parents)
        evidence = evidence_of(replace(calibration, anchors=anchors), answers, parents=parents if family else None)
        assert Difference().unbiased(evidence)
        found.append(Difference().estimate(evidence).accuracy)
    error = np.std(found) / np.sqrt(len(found))
    assert error < 0.006
    assert abs(np.mean(found) - truth) < 3.5 * error


def test_it_is_biased_with_an_ability_fitted_to_the_same_answers(odd_world):
    """Why the predictions come from elsewhere: the correction of p-IRT's own is not free of them (V2)."""
    calibration = quick_calibration(odd_world.models(odd_world.model_ids[:-1]), 4, method="random")
    answers = odd_world.values[-1]
    rng = np.random.default_rng(5)
    gaps = []
    for _ in range(3000):
        anchors = select_anchors(calibration.responses, calibration.items, 4, method="random", rng=rng)
        evidence = evidence_of(replace(calibration, anchors=anchors), answers)
        own = corrected(evidence, P_IRT.probabilities(evidence), evidence.design_weights)
        gaps.append(own - Difference().estimate(evidence).accuracy)
    # The other one is unbiased, so that the mean gap is the bias.
    assert abs(np.mean(gaps)) > 4 * np.std(gaps) / np.sqrt(len(gaps))


def test_it_says_so_only_of_anchors_that_were_drawn(odd_world):
    responses, answers = odd_world.models(odd_world.model_ids[:-1]), odd_world.values[-1]
    drawn = quick_calibration(responses, 12)
    whole = evidence_of(drawn, answers)
    assert Difference().unbiased(whole)
    clusters = quick_calibration(responses, 12, method="correctness-clusters")
    if clusters.anchors.method == "correctness-clusters":
        assert not Difference().unbiased(evidence_of(clusters, answers))
    assert not Difference().unbiased(evidence_of(with_anchors(drawn, drawn.item_ids[:12]), answers))
    some = replace(whole, positions=whole.positions[:-1], scores=whole.scores[:-1])
    assert not Difference().unbiased(some)
    others = np.setdiff1d(np.arange(60), whole.positions)[:1]
    places = np.sort(np.append(whole.positions, others))
    assert not Difference().unbiased(replace(whole, positions=places, scores=answers[places]))


def test_good_parents_cut_the_variance():
    """1 - rho^2 of it is left: parents who answer like the candidate leave little to the draw."""
    world = simulate_responses(12, 400, rng=np.random.default_rng(1))
    answers = world.values[-1]
    rng = np.random.default_rng(2)
    like = np.where(rng.random((2, 400)) < 0.1, 1 - answers, answers)
    parents = ResponseMatrix(like, ["a", "b"], world.item_ids)
    calibration = quick_calibration(world.models(world.model_ids[:-1]), 30, method="random")
    errors = {True: [], False: []}
    for _ in range(150):
        anchors = select_anchors(calibration.responses, calibration.items, 30, method="random", rng=rng)
        for known in errors:
            evidence = evidence_of(replace(calibration, anchors=anchors), answers, parents=parents if known else None)
            errors[known].append(Difference().estimate(evidence).accuracy - answers.mean())
    assert np.std(errors[True]) < 0.6 * np.std(errors[False])


class TestShrunkenDifference:
    def with_misfit(self, calibration, b):
        return replace(calibration, provenance={CROSS_VALIDATION: {"models": 10, "misfit": {"p-irt": b}}})

    def estimate(self, calibration, newcomer, b):
        answers = np.array([newcomer[item] for item in calibration.item_ids])
        evidence = evidence_of(self.with_misfit(calibration, b), answers)
        return evidence, ShrunkenDifference().accuracy(evidence)

    def test_without_misfit_it_is_p_irt(self, calibration, newcomer):
        evidence, found = self.estimate(calibration, newcomer, 0.0)
        assert found == evidence.completed(p_irt_in(3).probabilities(evidence))

    def test_with_nothing_but_misfit_it_is_the_difference(self, calibration, newcomer):
        evidence, found = self.estimate(calibration, newcomer, 1e6)
        assert found == pytest.approx(
            corrected(evidence, p_irt_in(3).probabilities(evidence), evidence.weights), abs=1e-9
        )

    def test_in_between_by_its_formula(self, calibration, newcomer):
        evidence, found = self.estimate(calibration, newcomer, 0.05)
        p = p_irt_in(3).probabilities(evidence)
        variance = np.mean(p * (1 - p)) * np.sum(evidence.weights**2)
        c = 0.05**2 / (0.05**2 + variance)
        by_difference = corrected(evidence, p, evidence.weights)
        assert found == pytest.approx((1 - c) * evidence.completed(p) + c * by_difference)
        assert 0.2 < c < 0.4

    def test_it_reads_the_fit_in_most_dimensions_or_the_one_it_is_told(self, calibration, newcomer):
        answers = np.array([newcomer[item] for item in calibration.item_ids])
        evidence = evidence_of(self.with_misfit(calibration, 0.0), answers)
        by_dimension = {d: ShrunkenDifference(n_dimensions=d).accuracy(evidence) for d in (1, 2, 3)}
        assert ShrunkenDifference().accuracy(evidence) == by_dimension[3] != by_dimension[1]
        assert by_dimension[2] == pytest.approx(evidence.completed(P_IRT.probabilities(evidence)))
