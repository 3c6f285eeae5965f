import numpy as np

from merge3_plugin.domain import ResponseMatrix
from merge3_plugin.evolve.tie_breaker import soft_scores


def world(rng, n_models=10, n_items=400, *, informative=True):
    """Models of unlike accuracy, whose soft scores are the chances of their answers, or say nothing."""
    logits = rng.normal(0.0, 1.0, (n_models, 1)) - rng.normal(0.0, 1.5, n_items)
    chances = 1 / (1 + np.exp(-logits))
    right = rng.random(chances.shape) < chances
    soft = chances if informative else rng.random(chances.shape)
    ids = [f"m{m}" for m in range(n_models)], [f"q{j}" for j in range(n_items)]
    return ResponseMatrix(right, *ids, soft=soft)


def test_soft_scores_that_tell_more_help():
    for seed in range(5):
        found = soft_scores(world(np.random.default_rng(seed)), 30, np.random.default_rng(0))
        assert found.help and found.models == 10 and 0 < found.with_soft < found.without < 0.2


def test_soft_scores_that_are_noise_do_not():
    for seed in range(5):
        noise = world(np.random.default_rng(seed), informative=False)
        assert not soft_scores(noise, 30, np.random.default_rng(0)).help


def test_what_cannot_be_cross_validated_does_not_help():
    few = world(np.random.default_rng(0), n_models=4)
    assert soft_scores(few, 30, np.random.default_rng(0)).models == 4
    assert not soft_scores(few, 30, np.random.default_rng(0)).help
    none = ResponseMatrix(few.values, few.model_ids, few.item_ids)
    assert soft_scores(none, 30, np.random.default_rng(0)).models == 0


def test_partial_answers_are_left_out():
    whole = world(np.random.default_rng(1))
    soft, right = whole.soft.copy(), whole.values.copy()
    soft[0, 100:] = np.nan  # one model of which little is known
    right[1, :20] = np.nan  # and one that was not asked a few items
    found = soft_scores(ResponseMatrix(right, whole.model_ids, whole.item_ids, soft=soft), 30, np.random.default_rng(0))
    assert found.models == 9 and found.help
