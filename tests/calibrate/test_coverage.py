"""Intervals hold what they promise, on models that the calibration has not seen."""

import numpy as np
import pytest

from merge3_plugin.calibrate.study import study
from merge3_plugin.estimate.auto import resolve
from merge3_plugin.estimate.base import Evidence, run_estimator
from merge3_plugin.estimate.design import wilson_interval
from merge3_plugin.testing import simulate_merges, simulate_responses

SEEDS, MODELS, NEWCOMERS, ITEMS, SIZES = 24, 200, 60, 250, (20, 50, 100)
WELL_SPECIFIED = [{}]
BADLY_SPECIFIED = [{"misfit": 1.5}, {"guessing": 0.25}, {"drift": 0.2}, {"outliers": 10}]


class Tally:
    """Whether intervals held, and their widths over those of the design-based interval, pooled."""

    def __init__(self):
        self.held, self.width = [], []

    def add(self, made, world, newcomers, n, *, anchors, estimator, parents=None):
        calibration = made.calibration(n, anchors)
        chosen = resolve(estimator, calibration, parents_known=parents is not None)
        places = np.sort(calibration.anchor_positions())
        for model in newcomers:
            answers = world.values[world.model_ids.index(model)]
            low, high = run_estimator(chosen, Evidence(calibration, places, answers[places], parents)).interval
            truth = answers.mean()
            by_design = wilson_interval(truth, n, len(answers))
            self.held.append(low <= truth <= high)
            self.width.append((high - low) / (by_design[1] - by_design[0]))

    @property
    def covered(self):
        return np.mean(self.held)


def split(seed, n_calibrators, **world):
    """A world of 200 models, those to calibrate on and some of the others, in a random order."""
    rng = np.random.default_rng([seed, n_calibrators])
    responses = simulate_responses(MODELS, ITEMS, rng=rng, **world)
    shuffled = rng.permutation(responses.model_ids).tolist()
    return responses, shuffled[:n_calibrators], shuffled[n_calibrators:][:NEWCOMERS]


@pytest.mark.parametrize("worlds", [WELL_SPECIFIED, BADLY_SPECIFIED], ids=["well", "badly"])
def test_of_unrelated_models(worlds):
    """Pooled over sizes and seeds; in badly specified worlds also over what is wrong."""
    tally = Tally()
    for seed in range(SEEDS):
        responses, calibrators, newcomers = split(seed, 10, **worlds[seed % len(worlds)])
        made = study(responses.models(calibrators), seed=seed)
        tally.add(made, responses, newcomers, SIZES[seed // len(worlds) % 3], anchors="kd", estimator="core")
    assert 0.93 <= tally.covered <= 0.97 and np.mean(tally.width) < 1.3


def test_of_what_auto_chooses():
    tally = Tally()
    for seed in range(SEEDS):
        responses, calibrators, newcomers = split(seed, 8, misfit=0.7)
        made = study(responses.models(calibrators), seed=seed)
        tally.add(made, responses, newcomers, SIZES[seed % 3], anchors="auto", estimator="auto")
    assert 0.93 <= tally.covered <= 0.97 and np.mean(tally.width) < 1.3


@pytest.mark.parametrize("n_models", [2, 3, 4])
def test_of_very_few_models(n_models):
    """The interval must be wide rather than wrong, and finite; `auto` falls back on what is known by design."""
    tally, by_model = Tally(), Tally()
    for seed in range(SEEDS):
        responses, calibrators, newcomers = split(seed, n_models, misfit=1.0)
        made = study(responses.models(calibrators), seed=seed)
        tally.add(made, responses, newcomers, 30, anchors="auto", estimator="auto")
        by_model.add(made, responses, newcomers, 30, anchors="stratified", estimator="gd")
    assert 0.93 <= tally.covered <= 0.99 and np.mean(tally.width) < 1.3
    assert by_model.covered >= 0.92 and np.mean(by_model.width) < 2.0


def test_of_merges():
    """Three parents and six random merges: what a run calibrates on before it searches."""
    tally = Tally()
    for seed in range(SEEDS // 2):
        world = simulate_merges(3, 6 + NEWCOMERS, ITEMS, rng=np.random.default_rng(seed))
        parents = world.models(world.model_ids[:3])
        made = study(world.models(world.model_ids[:9]), seed=seed, parents=parents)
        tally.add(made, world, world.model_ids[9:], 25, anchors="auto", estimator="auto", parents=parents)
    assert 0.93 <= tally.covered <= 0.99 and np.mean(tally.width) < 1.3
