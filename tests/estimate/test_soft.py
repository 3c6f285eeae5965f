from dataclasses import replace

import numpy as np
import pytest

from merge3_plugin.domain import ResponseMatrix
from merge3_plugin.errors import DataError
from merge3_plugin.estimate.base import run_estimator
from merge3_plugin.estimate.builtin import P_IRT
from merge3_plugin.estimate.plog import parent_logistic
from merge3_plugin.estimate.soft import SoftFactors, soft_probabilities
from merge3_plugin.estimate.soft_pool import soft_pool
from tests.estimate.worlds import evidence_of, quick_calibration, soft_family


@pytest.fixture(scope="module")
def worlds():
    return [soft_family(400, rng=np.random.default_rng(seed), n_unrelated=8) for seed in range(4)]


def calibrated_on(world, n_models, n=30):
    return quick_calibration(world.models(world.model_ids[:n_models]), n, dimensions=(2,))


def errors(worlds, n_models, distort=None, **known):
    """Mean absolute error by soft scores, by p-IRT, by plog and of the mean, on the merges."""
    found = []
    for world in worlds:
        calibration = calibrated_on(world, n_models)
        parents = world.models(["p0", "p1", "p2"])
        for answers, soft in zip(world.values[11:], world.soft[11:], strict=True):
            seen = soft if distort is None else distort(soft)
            evidence = evidence_of(calibration, answers, parents=parents, soft=seen)
            estimates = (
                run_estimator(SoftFactors(), evidence).accuracy,
                evidence.completed(P_IRT.probabilities(evidence)),
                parent_logistic(evidence),
                evidence.weights @ evidence.scores,
            )
            found.append(np.abs(np.array(estimates) - answers.mean()))
    return np.mean(found, axis=0)


def test_soft_scores_tell_more_than_right_and_wrong(worlds):
    soft, p_irt, plog, mean = errors(worlds, 11)
    assert soft < 0.75 * min(p_irt, plog, mean)


def test_parents_alone_are_models_enough(worlds):
    soft, _, _, mean = errors(worlds, 3)
    assert soft < 0.75 * mean


def test_soft_scores_that_lie_do_bounded_harm(worlds):
    """Shuffled among the items, they place the candidate at random; right and wrong correct its level."""
    rng = np.random.default_rng(7)
    soft, _, _, mean = errors(worlds, 11, distort=rng.permutation)
    assert soft < 1.5 * mean


def test_badly_scaled_soft_scores_are_put_to_scale(worlds):
    """A candidate twice as sure of itself as the models that were calibrated on is still estimated."""
    sharp = lambda soft: soft**2 / (soft**2 + (1 - soft) ** 2)  # noqa: E731
    soft, _, _, mean = errors(worlds, 11, distort=sharp)
    assert soft < 0.8 * mean


def test_unknown_soft_scores_are_passed_over(worlds):
    world = worlds[0]
    calibration = calibrated_on(world, 11)
    whole = evidence_of(calibration, world.values[12], soft=world.soft[12])
    partial = whole.soft.copy()
    partial[:5] = np.nan
    found = soft_probabilities(replace(whole, soft=partial))
    assert found.shape == (400,) and np.abs(found - soft_probabilities(whole)).mean() < 0.1


def test_items_and_models_without_soft_scores_do_not_take_them_from_the_others(worlds):
    """A fifth of the items, some of them anchors, has none in any model, and one model has none at all."""
    world = worlds[0]
    calibration = calibrated_on(world, 11)
    soft = calibration.responses.soft.copy()
    bare = np.arange(400) % 5 == 0
    soft[:, bare] = np.nan
    soft[4] = np.nan
    of_models = calibration.responses
    torn = ResponseMatrix(of_models.values, of_models.model_ids, of_models.item_ids, soft=soft)
    assert soft_pool(torn, None).model_ids == tuple(m for m in torn.model_ids if m != torn.model_ids[4])
    gaps, plain = [], []
    for answers, graded in zip(world.values[11:], world.soft[11:], strict=True):
        evidence = evidence_of(replace(calibration, responses=torn), answers, soft=graded)
        assert evidence.has_soft(of_parents=False)
        found = soft_probabilities(evidence)
        assert np.isfinite(found).all()
        gaps.append(run_estimator(SoftFactors(), evidence).accuracy - answers.mean())
        plain.append(evidence.weights @ evidence.scores - answers.mean())
        hidden = replace(evidence, soft=np.where(bare[evidence.positions], np.nan, evidence.soft))
        assert np.array_equal(soft_probabilities(hidden), found)  # nothing is made of what nobody else shows
    assert np.abs(gaps).mean() < 0.85 * np.abs(plain).mean()


def test_all_right_and_all_wrong(worlds):
    calibration = calibrated_on(worlds[0], 11)
    for score in (0.0, 1.0):
        evidence = evidence_of(calibration, np.full(400, score), soft=np.full(400, score))
        assert abs(SoftFactors().estimate(evidence).accuracy - score) < 0.2


def test_who_belongs_to_the_pool(worlds):
    world = worlds[0]
    some = world.models(world.model_ids[:4])
    soft = some.soft.copy()
    soft[0, :100] = np.nan  # a quarter unknown: out
    soft[1, :10] = np.nan
    torn = ResponseMatrix(some.values, some.model_ids, some.item_ids, soft=soft)
    assert soft_pool(torn, None).model_ids == some.model_ids[1:]
    assert soft_pool(torn, world.models(["p1", "m0"])).model_ids == (*some.model_ids[1:], "m0")
    bare = ResponseMatrix(some.values, some.model_ids, some.item_ids)
    assert soft_pool(bare, None) is None and soft_pool(bare, world.models(["m0"])) is None


def test_without_soft_scores_it_is_refused_in_one_line(worlds, calibration, newcomer):
    answers = np.array([newcomer[item] for item in calibration.item_ids])
    for soft in (None, np.full(300, 0.5)):
        evidence = evidence_of(calibration, answers, soft=soft)
        assert not evidence.has_soft(of_parents=False)
        with pytest.raises(DataError, match="factor-soft.*soft scores.*auto"):
            run_estimator(SoftFactors(), evidence)


def test_soft_scores_on_items_where_no_other_model_has_any_are_none(worlds):
    world = worlds[0]
    calibration = calibrated_on(world, 11)
    at = calibration.anchor_positions()
    for n_unknown, known in ((10, True), (20, False)):
        soft = world.soft[:11].copy()
        soft[:, at[:n_unknown]] = np.nan
        answers = ResponseMatrix(world.values[:11], world.model_ids[:11], world.item_ids, soft=soft)
        evidence = evidence_of(replace(calibration, responses=answers), world.values[12], soft=world.soft[12])
        assert evidence.has_soft(of_parents=False) is known
