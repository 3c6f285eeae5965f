"""Intervals hold what they promise, on models that the calibration has not seen."""

import numpy as np
import pytest

from merge3_plugin.api import calibrate, estimate
from merge3_plugin.testing import simulate_merges, simulate_responses

SEEDS, NEWCOMERS, ITEMS, ANCHORS = 4, 60, 250, 25


def unrelated(n_models, misfit):
    return [
        simulate_responses(n_models + NEWCOMERS, ITEMS, rng=np.random.default_rng(seed), misfit=misfit)
        for seed in range(SEEDS)
    ]


def pooled(worlds, n_models, estimators, n_parents=0):
    """By estimator and world: the share of intervals that hold the truth, and their mean width against the mean's."""
    held = {name: np.zeros((SEEDS, NEWCOMERS)) for name in estimators}
    width = {name: np.zeros((SEEDS, NEWCOMERS)) for name in estimators}
    for seed, world in enumerate(worlds):
        parents = world.models(world.model_ids[:n_parents]) if n_parents else None
        calibration = calibrate(world.models(world.model_ids[:n_models]), ANCHORS, seed=seed, parents=parents)
        for k, answers in enumerate(world.values[n_models:]):
            scores = {item: answers[world.item_ids.index(item)] for item in calibration.anchors.item_ids}
            plain = estimate(calibration, scores, estimator="mean").interval
            for name in estimators:
                low, high = estimate(calibration, scores, estimator=name, parents=parents).interval
                held[name][seed, k] = low <= answers.mean() <= high
                width[name][seed, k] = (high - low) / (plain[1] - plain[0])
    return {name: (held[name].mean(axis=1), width[name].mean(axis=1)) for name in estimators}


def covers(held):
    """Whether the pooled share is within three standard errors of 0.95 or above; calibrations are drawn, models too."""
    variance = max(held.var(ddof=1), 0.95 * 0.05 / NEWCOMERS)
    return held.mean() >= max(0.9, 0.95 - 3 * np.sqrt(variance / SEEDS))


@pytest.mark.parametrize("misfit", [0.0, 1.5])
def test_of_unrelated_models(misfit):
    for held, width in pooled(unrelated(8, misfit), 8, ["mean", "p-irt", "gp-irt", "auto"]).values():
        assert covers(held) and width.mean() < 1.6


def test_of_merges():
    worlds = [simulate_merges(3, 6 + NEWCOMERS, ITEMS, rng=np.random.default_rng(seed)) for seed in range(SEEDS)]
    for held, width in pooled(worlds, 9, ["mp-irt", "gmp-irt", "auto"], n_parents=3).values():
        assert covers(held) and width.mean() < 1.6


@pytest.mark.parametrize("n_models", [2, 4])
def test_of_very_few_models(n_models):
    """Too few to cross-validate: the interval must be wide rather than wrong, and finite."""
    for held, width in pooled(unrelated(n_models, 1.0), n_models, ["p-irt", "gp-irt", "auto"]).values():
        assert covers(held) and 1.0 <= width.mean() < 2.0
