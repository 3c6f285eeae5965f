import numpy as np
import pytest

from merge3_plugin.estimate.design import Z, effective_size, sample_mean, sampling_variance, wilson_interval


def test_wilson_interval_of_an_endless_population_is_the_textbook_one():
    # 15 of 20 right: 0.5313 to 0.8881 (Newcombe, Statistics in Medicine 17, 1998, method 3).
    assert wilson_interval(0.75, 20, 10**12) == pytest.approx((0.5313, 0.8881), abs=1e-4)


@pytest.mark.parametrize("right", [0.0, 1.0])
def test_all_alike_is_not_certainty(right):
    found = sample_mean(np.full(20, right), 500)
    low, high = found.interval
    assert found.accuracy == right and 0.1 < high - low < 0.2 and found.standard_error > 0.02
    assert (high if right else low) == pytest.approx(right)


def test_everything_scored_is_certainty_whatever_the_weights():
    scores = np.array([1.0, 0.0, 0.5, 1.0])
    assert sample_mean(scores, 4).interval == (0.625, 0.625)
    found = sample_mean(scores, 4, weights=np.array([0.7, 0.1, 0.1, 0.1]))
    assert found.accuracy == pytest.approx(0.85) and found.standard_error == 0
    assert found.interval == (found.accuracy, found.accuracy)


@pytest.mark.parametrize("n", [10, 40, 180])
def test_the_interval_covers_a_finite_population(n):
    rng = np.random.default_rng(5)
    hits = []
    for right in range(5, 200, 5):
        drawn = rng.hypergeometric(right, 200 - right, n, size=400)
        intervals = [wilson_interval(count / n, n, 200) for count in drawn]
        hits.append(np.mean([low <= right / 200 <= high for low, high in intervals]))
    # On so few possible counts coverage jumps with the accuracy; on average over accuracies it is near 0.95.
    assert 0.935 <= np.mean(hits) <= 0.98 and min(hits) > 0.8


def test_sampling_variance_is_that_of_the_draws():
    answers = (np.arange(60) < 21).astype(float)
    rng = np.random.default_rng(1)
    means = [rng.permutation(answers)[:15].mean() for _ in range(20_000)]
    # The standard error of a variance over 20,000 draws is about 1 %.
    assert np.var(means) == pytest.approx(sampling_variance(21 / 60, 15, 60), rel=0.04)


def test_unequal_weights_widen_the_interval():
    scores = np.tile([1.0, 0.0], 20)
    weights = np.tile([5.0, 5.0, 1.0, 1.0], 10)
    assert effective_size(weights) < 40
    even, uneven = sample_mean(scores, 1000), sample_mean(scores, 1000, weights=weights)
    assert uneven.accuracy == pytest.approx(even.accuracy) and uneven.standard_error > 1.1 * even.standard_error


def test_the_standard_error_is_the_half_width():
    found = sample_mean(np.tile([1.0, 0.0, 1.0], 10), 300)
    assert found.interval[1] - found.interval[0] == pytest.approx(2 * Z * found.standard_error)
