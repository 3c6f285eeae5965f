"""Left-out models at many numbers of anchors: what is counted, and on what it rests."""

import numpy as np
import pytest

from merge3_plugin.api import calibrate
from merge3_plugin.calibrate import leave_one_model_out, study
from merge3_plugin.calibrate.assessment import AtSize, assess
from merge3_plugin.calibrate.report import random_sample_error
from merge3_plugin.domain import Estimate
from merge3_plugin.testing import simulate_responses


@pytest.fixture(scope="module")
def world():
    return simulate_responses(10, 300, rng=np.random.default_rng(0))


@pytest.fixture(scope="module")
def assessment(world):
    return assess(study(world, seed=0), 30, "kd")


def estimate_of(accuracy, low, high):
    return Estimate(accuracy, (high - low) / 3.92, (low, high), "mean", 20, 100)


def test_figures_of_one_size():
    estimates = (
        (estimate_of(0.5, 0.4, 0.6), estimate_of(0.6, 0.5, 0.7)),
        (estimate_of(0.7, 0.6, 0.8), estimate_of(0.5, 0.45, 0.55)),
        (estimate_of(0.9, 0.85, 0.95), estimate_of(0.8, 0.75, 0.85)),
    )
    found = AtSize(20, 100, 100, ("a", "b", "c"), np.array([0.5, 0.6, 0.95]), estimates)
    assert found.errors == pytest.approx([0.05, 0.1, 0.1]) and found.error == pytest.approx(0.25 / 3)
    assert found.random_errors == pytest.approx([random_sample_error(a, 20, 100) for a in (0.5, 0.6, 0.95)])
    # b's second estimate and c's second leave the truth out; the other four hold it.
    assert found.coverage == pytest.approx(4 / 6)
    # In the first draw all pairs are in order, in the second two of three.
    assert found.tau == pytest.approx((1.0 + 1 / 3) / 2)
    low, high = found.error_interval
    assert low < found.error < high


def test_errors_on_a_part_of_the_items_are_those_of_all_in_proportion():
    estimates = ((estimate_of(0.5, 0.4, 0.6),), (estimate_of(0.8, 0.7, 0.9),))
    part = AtSize(20, 1000, 100, ("a", "b"), np.array([0.6, 0.7]), estimates)
    whole = AtSize(20, 100, 100, ("a", "b"), np.array([0.6, 0.7]), estimates)
    ratio = random_sample_error(0.6, 20, 1000) / random_sample_error(0.6, 20, 100)
    assert part.error == pytest.approx(ratio * whole.error)
    assert part.error / part.random_error == pytest.approx(whole.error / whole.random_error)


def test_sizes_are_those_below_the_number_of_items(world, assessment):
    assert [size.n_anchors for size in assessment.sizes] == [10, 20, 30, 50, 100, 200]
    assert assessment.at(30).model_ids == world.model_ids and assessment.at(40) is None
    np.testing.assert_allclose(assessment.at(30).accuracies, world.accuracy())
    errors = [size.error for size in assessment.sizes]
    assert errors[0] > errors[3] > errors[-1]
    assert all(size.error < 1.3 * size.random_error for size in assessment.sizes)


def test_intervals_hold_and_ranks_agree(assessment):
    assert np.mean([size.coverage for size in assessment.sizes]) > 0.8
    assert 0.5 < assessment.at(50).width < 1.5
    assert assessment.at(200).tau > 0.8


def test_probabilities_are_near_what_happens(world, assessment):
    """In a world that is as the model says, predicted and observed shares agree within chance."""
    bins = assessment.bins
    assert len(bins) == 10 and sum(b.n_answers for b in bins) == 10 * (300 - 30)
    assert all(abs(b.predicted - b.observed) < 0.15 for b in bins)
    assert bins[0].predicted < bins[-1].predicted and bins[0].observed < 0.3 < 0.6 < bins[-1].observed


def test_more_anchors_than_a_cross_validation_reads_otherwise():
    """Of large benchmarks a part is cross-validated on; more anchors than that need a larger part."""
    large = simulate_responses(5, 2600, rng=np.random.default_rng(0))
    found = leave_one_model_out(large, 1600, seed=0, anchors="random", estimator="mean")
    assert 0 < found.error < 0.02 and found.n_anchors == 1600
    assert calibrate(large, 1600, seed=0, anchors="random").errors["mean"] > 0


def test_two_models_cannot_be_left_out(world):
    found = assess(study(world.models(world.model_ids[:2]), seed=0), 30, "stratified")
    assert found.sizes == () and found.bins == ()
