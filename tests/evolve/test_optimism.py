"""The winner's curse, where the truth is known."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from merge3_plugin.domain import Estimate
from merge3_plugin.estimate.design import Z, sample_mean
from merge3_plugin.evolve.confirm import Scale
from merge3_plugin.evolve.optimism import mean_optimism, optimism

ONE = Scale({"t": 1.0})


def answered(rng, chance, n, scale=ONE):
    right = {f"i{k}": float(score) for k, score in enumerate(rng.random(n) < chance)}
    return scale.confirmed("m", "m", {"t": right})


def searched(rng, chance, n_anchors, n_items):
    """An estimate of the accuracy on ``n_items`` search items from some of them."""
    scores = (rng.random(n_items) < chance).astype(float)
    return sample_mean(scores[:n_anchors], n_items)


@pytest.mark.parametrize(("n_anchors", "n_items"), [(50, 1000), (200, 200)])
def test_an_estimate_of_no_choice_is_not_called_optimistic(n_anchors, n_items):
    """The second: all search items were scored, so that only they themselves, a sample of their kind, are uncertain."""
    rng, outside, total = np.random.default_rng(0), 0, 0.0
    for _ in range(4000):
        found = optimism({"t": searched(rng, 0.6, n_anchors, n_items)}, answered(rng, 0.6, 300), {"t": n_items}, ONE)
        low, high = found.overall.interval
        outside += not low <= 0 <= high
        total += found.overall.difference
    # 6 %, as Wilson's standard error of few items is a little small, and three standard errors of that.
    assert 0.03 < outside / 4000 < 0.06 + 3 * math.sqrt(0.06 * 0.94 / 4000)
    # The mean of 4,000 shifts of at most 0.08 each.
    assert abs(total / 4000) < 3 * 0.08 / math.sqrt(4000)


def test_the_best_of_many_equals_is_optimistic_by_what_chance_gives():
    rng = np.random.default_rng(1)
    shifts = []
    for _ in range(200):
        best = max((searched(rng, 0.6, 50, 1000) for _ in range(40)), key=lambda estimate: estimate.accuracy)
        shifts.append(optimism({"t": best}, answered(rng, 0.6, 300), {"t": 1000}, ONE).overall.difference)
    # The largest of 40 normal draws is 2.16 standard deviations above their mean, here of sqrt(0.24 / 50) = 0.069.
    assert np.mean(shifts) == pytest.approx(2.16 * math.sqrt(0.6 * 0.4 / 50 * 950 / 999), abs=0.015)


def test_tasks_add_up_by_their_weights_and_errors_of_the_same_items_in_full():
    rng = np.random.default_rng(2)
    right = {f"i{k}": float(score) for k, score in enumerate(rng.random(200) < 0.5)}
    estimates = {name: Estimate(0.7, 0.03, (0.64, 0.76), "mean", 50, 500) for name in ("a", "b")}
    sizes = dict.fromkeys(estimates, 500)
    apart, together = Scale({"a": 3.0, "b": 1.0}), Scale({"a": 3.0, "b": 1.0}, same_items={"a": "t", "b": "t"})
    found, same = (
        optimism(estimates, scale.confirmed("m", "m", {"a": right, "b": right}), sizes, scale)
        for scale in (apart, together)
    )
    error = found.tasks["a"].standard_error
    assert found.tasks["a"] == found.tasks["b"] and error > 0.03
    assert found.overall.difference == pytest.approx(found.tasks["a"].difference)
    assert found.overall.standard_error == pytest.approx(math.hypot(0.75, 0.25) * error)
    assert same.overall.standard_error == pytest.approx(error)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0.001, 0.2)), min_size=1, max_size=5), st.integers(0, 50))
def test_the_mean_is_of_the_shifts_and_never_surer_than_the_surest(estimates, right):
    model = ONE.confirmed("m", "m", {"t": {f"i{k}": float(k < right) for k in range(50)}})
    found = [
        optimism({"t": Estimate(accuracy, error, (0.0, 1.0), "mean", 10, 100)}, model, {"t": 100}, ONE)
        for accuracy, error in estimates
    ]
    mean = mean_optimism(found)
    assert mean.difference == pytest.approx(np.mean([each.overall.difference for each in found]))
    assert mean.standard_error >= min(each.overall.standard_error for each in found) - 1e-12
    low, high = mean.interval
    assert high - low == pytest.approx(2 * Z * mean.standard_error)
