from dataclasses import replace

import numpy as np
import pytest

from merge3_plugin.domain import ResponseMatrix
from merge3_plugin.estimate.base import CROSS_VALIDATION
from merge3_plugin.estimate.difference import ShrunkenDifference
from merge3_plugin.estimate.ensemble import Core
from merge3_plugin.estimate.ridge import Ridge
from merge3_plugin.irt import sigmoid
from merge3_plugin.testing import simulate_responses
from tests.estimate.worlds import evidence_of, quick_calibration

MISFITS = {"p-irt": 0.04, "p-irt-1d": 0.05, "p-irt-2d": 0.04, "p-irt-3d": 0.03}


def weighed(calibration, misfits):
    return replace(calibration, provenance={CROSS_VALIDATION: {"models": 12, "misfit": misfits}})


def test_it_is_the_mean_of_gd_in_every_dimension_there_is_and_ridge():
    world = simulate_responses(13, 200, rng=np.random.default_rng(0))
    for dimensions in ((2,), (2, 1), (2, 1, 3)):
        bare = quick_calibration(world.models(world.model_ids[:12]), 25, dimensions=dimensions)
        evidence = evidence_of(weighed(bare, MISFITS), world.values[12])
        parts = [ShrunkenDifference(n_dimensions=d).accuracy(evidence) for d in dimensions]
        found = Core().estimate(evidence).accuracy
        assert found == pytest.approx(np.mean([*parts, Ridge().accuracy(evidence)]))
        assert len(set(np.round(parts, 6))) == len(parts)


def third_dimension(rng, n_models, n_items):
    return simulate_responses(n_models, n_items, rng=rng, misfit=1.5).values


def guessing(rng, n_models, n_items):
    """A quarter of what is not known is guessed."""
    known = simulate_responses(n_models, n_items, rng=rng).values
    return np.maximum(known, rng.random(known.shape) < 0.25)


def drifted_items(rng, n_models, n_items):
    """A tenth of the items are harder for the new models than for those before."""
    loadings = rng.lognormal(0.0, 0.4, n_items)
    logits = rng.normal(size=(n_models, 1)) * loadings - rng.normal(0.0, 1.3, n_items)
    logits[12:, : n_items // 10] -= 1.5
    return rng.random(logits.shape) < sigmoid(logits)


def outliers(rng, n_models, n_items):
    """Among the models calibrated on are one at chance and one that knows all."""
    values = simulate_responses(n_models, n_items, rng=rng).values.copy()
    values[3], values[7] = rng.random(n_items) < 0.05, rng.random(n_items) < 0.98
    return values


@pytest.mark.parametrize("world", [third_dimension, guessing, drifted_items, outliers])
def test_in_misspecified_worlds_it_is_no_worse_than_stratified_sampling(world):
    """Twelve models, misfits as if cross-validated at 0.05: error at most that of the anchors' weighted mean."""
    found, plain = [], []
    for seed in range(4):
        values = world(np.random.default_rng(seed), 52, 300)
        responses = ResponseMatrix(values, range(52), [f"q{j}" for j in range(300)])
        bare = quick_calibration(responses.models(responses.model_ids[:12]), 40, method="stratified", seed=seed)
        calibration = weighed(bare, dict.fromkeys(MISFITS, 0.05))
        for answers in values[12:]:
            evidence = evidence_of(calibration, answers)
            found.append(abs(Core().estimate(evidence).accuracy - answers.mean()))
            plain.append(abs(evidence.weights @ evidence.scores - answers.mean()))
    assert np.mean(found) < 1.02 * np.mean(plain)
