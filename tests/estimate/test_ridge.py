from dataclasses import replace

import numpy as np
import pytest

from merge3_plugin.domain import ResponseMatrix
from merge3_plugin.estimate.ridge import Ridge
from merge3_plugin.testing import simulate_responses
from tests.estimate.worlds import evidence_of, quick_calibration, with_anchors


def test_without_models_it_is_the_weighted_mean(calibration, newcomer):
    answers = np.array([newcomer[item] for item in calibration.item_ids])
    evidence = evidence_of(replace(calibration, responses=calibration.responses.models([])), answers)
    assert Ridge().accuracy(evidence) == pytest.approx(evidence.weights @ evidence.scores)


def test_it_learns_what_easy_anchors_are_worth():
    """Anchors that are too easy flatter every model alike; other models' answers tell by how much."""
    world = simulate_responses(60, 300, rng=np.random.default_rng(0))
    calibration = quick_calibration(world.models(world.model_ids[:30]), 30, dimensions=(1,))
    easy = np.argsort(calibration.responses.values.mean(axis=0))[-120::3]
    flattering = with_anchors(calibration, [world.item_ids[j] for j in sorted(easy)])
    truths = world.accuracy()[30:]
    evidence = [evidence_of(flattering, answers) for answers in world.values[30:]]
    plain = np.array([e.weights @ e.scores for e in evidence]) - truths
    found = np.array([Ridge().accuracy(e) for e in evidence]) - truths
    assert plain.mean() > 0.15 and abs(found.mean()) < 0.03
    assert np.abs(found).mean() < 0.5 * np.abs(plain).mean()


def test_answers_that_tell_nothing_leave_the_weighted_mean():
    """Where no calibration model's deviation can be foreseen, leave-one-out shrinks it all but away."""
    rng = np.random.default_rng(1)
    noise = ResponseMatrix(rng.random((40, 200)) < 0.5, range(40), range(200))
    calibration = quick_calibration(noise.models(noise.model_ids[:30]), 40, method="random", dimensions=(1,))
    moved = [
        Ridge().accuracy(e) - e.weights @ e.scores
        for e in (evidence_of(calibration, answers) for answers in noise.values[30:])
    ]
    # The deviation of such a mean from its model's accuracy is 0.07; half of it may be mistaken for a pattern.
    assert np.sqrt(np.mean(np.square(moved))) < 0.07


def test_models_that_were_asked_easy_items_alone_teach_nothing():
    world = simulate_responses(21, 300, rng=np.random.default_rng(4))
    torn = world.values[:20].copy()
    torn[:6, np.argsort(world.values.mean(axis=0))[:200]] = np.nan
    responses = ResponseMatrix(torn, world.model_ids[:20], world.item_ids)
    calibration = quick_calibration(responses, 40, dimensions=(1,))
    without = replace(calibration, responses=responses.models(responses.model_ids[6:]))
    found, wanted = (Ridge().accuracy(evidence_of(c, world.values[20])) for c in (calibration, without))
    assert found == pytest.approx(wanted, abs=1e-12)


def test_items_that_some_models_were_not_asked():
    world = simulate_responses(21, 200, rng=np.random.default_rng(2))
    torn = world.values.copy()
    torn[:20][np.random.default_rng(3).random((20, 200)) < 0.1] = np.nan
    whole = quick_calibration(world.models(world.model_ids[:20]), 40)
    holes = replace(whole, responses=ResponseMatrix(torn[:20], world.model_ids[:20], world.item_ids))
    answers = world.values[20]
    found = [Ridge().accuracy(evidence_of(c, answers)) for c in (whole, holes)]
    assert abs(found[0] - found[1]) < 0.05
