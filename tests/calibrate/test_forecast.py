"""What more models or anchors would buy: from other benchmarks alone, and from learning curves."""

import itertools
from functools import cache

import numpy as np
import pytest

from merge3_plugin.calibrate import study
from merge3_plugin.calibrate.assessment import left_out
from merge3_plugin.calibrate.forecast import _UNRELATED, Forecast, LearningPoint, Prediction, _posterior, forecast
from merge3_plugin.domain import ResponseMatrix
from merge3_plugin.testing import simulate_merges, simulate_responses


@pytest.fixture(scope="module")
def world():
    return simulate_responses(40, 250, rng=np.random.default_rng(0))


@pytest.fixture(scope="module")
def from_models(world):
    """The forecast for 50 anchors from the first so many of the world's models, each made once."""
    return cache(lambda n_models: forecast_of(world, n_models))


def forecast_of(world, n_models, n_anchors=50):
    made = study(world.models(world.model_ids[:n_models]), seed=0)
    return forecast(made, n_anchors, made.default_design)


@pytest.mark.parametrize("n_models", [2, 3, 4])
def test_few_models_are_not_enough_and_it_says_what_to_add(from_models, n_models):
    found = from_models(n_models)
    assert not found.measured and not found.enough
    assert found.verdict.startswith(f"Not enough data: {n_models} models cannot show the error of their estimates")
    assert "it takes 5 or more" in found.verdict and "other benchmarks" in found.verdict
    assert "With 5 models" in found.verdict and "With 100 anchors" in found.verdict
    here = found.at(n_models, 50)
    assert here.error <= found.random[50], "without a model of the answers, the mean by design is used"
    low, high = here.interval
    assert high - low > 0.3 * found.random[50], "wide on purpose"


@pytest.mark.parametrize("n_models", [2, 6, 12])
def test_more_models_and_more_anchors_never_seem_to_hurt(from_models, n_models):
    found = from_models(n_models)
    assert found.models[0] == n_models and found.anchors == (20, 50, 100, 200)
    for n in found.anchors:
        errors = [found.at(m, n).error for m in found.models]
        assert all(fewer >= more for fewer, more in itertools.pairwise(errors))
    for m in found.models:
        errors = [found.at(m, n).error for n in found.anchors]
        assert all(fewer > more for fewer, more in itertools.pairwise(errors))
    assert all(p.interval[0] <= p.error <= p.interval[1] for p in found.predictions)


def test_the_forecast_of_a_few_models_holds_for_many(world, from_models):
    """From 12 models, the error that 38 calibration models then have."""
    measured = left_out(study(world, seed=1), 50, "kd").error
    found = from_models(12)
    low, high = found.at(50, 50).interval
    assert found.measured and low <= measured <= high


def test_data_are_enough_once_they_show_a_gain():
    def found(high, *, measured=True):
        predictions = (Prediction(12, 50, 0.03, (0.02, high)), Prediction(25, 50, 0.028, (0.02, 0.04)))
        return Forecast(12, 50, measured, predictions, {50: 0.045})

    assert found(0.044).enough and not found(0.046).enough and not found(0.044, measured=False).enough
    text = "expect an error of about 3.0 points [2.0, 4.4] from 50 anchors (a random sample: 4.5)"
    assert found(0.044).verdict == f"Enough data: {text}. With 25 models: 2.8 points [2.0, 4.0]."
    assert found(0.046).verdict.startswith("Not enough data: 12 models do not show that estimates beat random samples")


def test_models_that_say_nothing_of_each_other_are_not_enough():
    """Items that are all alike: nothing can be learned of them, and the forecast does not promise that it will."""
    noise = np.random.default_rng(0).random((8, 300)) < np.linspace(0.2, 0.9, 8)[:, None]
    found = forecast_of(ResponseMatrix(noise, list("abcdefgh"), [f"q{j}" for j in range(300)]), 8)
    assert found.measured and not found.enough
    assert found.verdict.startswith("Not enough data: 8 models do not show that estimates beat random samples")


def test_merges_of_known_parents_need_fewer_models():
    family = simulate_merges(2, 6, 200, rng=np.random.default_rng(0))
    parents = family.models(["p0", "p1"])
    with_parents = study(family, seed=0, parents=parents)
    aware = forecast(with_parents, 20, with_parents.default_design)
    unaware = forecast_of(family, 8, 20)
    assert aware.at(8, 20).error < unaware.at(8, 20).error


def test_all_items_as_anchors():
    small = simulate_responses(6, 40, rng=np.random.default_rng(0))
    found = forecast_of(small, 6, 100)
    assert found.n_anchors == 40 and found.at(6, 40).error == 0.0
    assert found.verdict == "All items are anchors, so there is nothing left to estimate."


def test_the_order_of_models_and_items_does_not_matter(world):
    few = world.models(world.model_ids[:5])
    few = few.items(few.item_ids[:120])
    shuffled = few.models(few.model_ids[::-1]).items(few.item_ids[::-1])
    first, second = (forecast(study(w, seed=0), 20, "kd") for w in (few, shuffled))
    assert [p.error for p in first.predictions] == pytest.approx([p.error for p in second.predictions])


def test_without_points_the_prior_speaks_and_with_many_the_points_do():
    rng = np.random.default_rng(0)
    alone = _posterior([], _UNRELATED, rng)
    assert np.median(alone, axis=0) == pytest.approx([0.43, 1.8, 0.05], abs=0.15)
    points = [LearningPoint(m, n, 0.2 + 4.0 / m, 100_000) for m in (5, 10, 20) for n in (20, 50, 100)]
    learned = _posterior(points, _UNRELATED, rng)
    assert learned.mean(axis=0) == pytest.approx([0.2, 4.0, 0.0], abs=0.05)
    assert (learned[:, :2] >= 0).all()
