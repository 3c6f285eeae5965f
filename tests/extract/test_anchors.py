"""Anchor selection: sizes, weights, seeds, and what each method promises."""

from __future__ import annotations

import numpy as np
import pytest

from merge3_plugin import irt
from merge3_plugin.domain import ItemParameters, ResponseMatrix
from merge3_plugin.errors import ConfigError, DataError
from merge3_plugin.extract.anchors import METHODS, select_anchors


@pytest.fixture(scope="module")
def world() -> tuple[ResponseMatrix, ItemParameters]:
    rng = np.random.default_rng(3)
    items = ItemParameters(
        np.column_stack([rng.normal(1.2, 0.4, 103), rng.normal(0, 0.6, 103)]), rng.normal(0, 1.5, 103)
    )
    chances = irt.probabilities(items, rng.normal(size=(9, 2)))
    answers = (rng.random(chances.shape) < chances).astype(float)
    return ResponseMatrix(answers, range(9), [f"q{j}" for j in range(103)]), items


def positions(anchors, responses) -> np.ndarray:
    return np.array([responses.item_ids.index(i) for i in anchors.item_ids])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n", [1, 2, 7, 50, 102])
def test_sizes_and_weights(world, method, n):
    anchors = select_anchors(*world, n, method=method, rng=np.random.default_rng(0))
    assert len(anchors) == n and anchors.method == method
    assert list(positions(anchors, world[0])) == sorted(positions(anchors, world[0]))
    shares = np.round(anchors.weights * 103, 6)
    if method == "random":
        assert np.allclose(anchors.weights, 1 / n)
    else:
        assert set(shares) <= {103 // n, 103 // n + 1}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n", [103, 5000])
def test_asking_for_all_gives_all_equally_weighted(world, method, n):
    anchors = select_anchors(*world, n, method=method, rng=np.random.default_rng(0))
    assert anchors.item_ids == world[0].item_ids
    assert np.allclose(anchors.weights, 1 / 103)


@pytest.mark.parametrize("method", METHODS)
def test_the_seed_decides(world, method):
    first, again, other = (
        select_anchors(*world, 20, method=method, rng=np.random.default_rng(seed)) for seed in (5, 5, 6)
    )
    assert first.item_ids == again.item_ids and (first.weights == again.weights).all()
    assert first.item_ids != other.item_ids


@pytest.mark.parametrize("method", METHODS)
def test_the_global_generator_is_left_alone(world, method):
    before = np.random.get_state()[1].copy()
    select_anchors(*world, 20, method=method, rng=np.random.default_rng(0))
    assert (np.random.get_state()[1] == before).all()


@pytest.mark.parametrize("method", METHODS)
def test_the_weighted_mean_is_unbiased(world, method):
    responses, items = world
    # The scores of a model that took no part: only the design can make its mean unbiased.
    scores = np.random.default_rng(11).random(103) ** 2
    rng = np.random.default_rng(1)
    means = []
    for _ in range(400):
        anchors = select_anchors(responses, items, 10, method=method, rng=rng)
        means.append(anchors.weights @ scores[positions(anchors, responses)])
    assert abs(np.mean(means) - scores.mean()) < 4 * np.std(means) / np.sqrt(len(means))


def test_strata_are_those_of_difficulty(world):
    responses, items = world
    anchors = select_anchors(responses, items, 10, method="stratified", rng=np.random.default_rng(2))
    means = responses.values.mean(axis=0)
    drawn, bounds = np.sort(means[positions(anchors, responses)]), np.array_split(np.sort(means), 10)
    assert all(stratum[0] <= score <= stratum[-1] for score, stratum in zip(drawn, bounds, strict=True))


def test_kd_takes_one_of_each_kind():
    # Four kinds of items, told apart by which of two models answers them; difficulty alone sees only three.
    kinds = np.repeat(np.array([[1, 1], [1, 0], [0, 1], [0, 0]]), 25, axis=0)
    responses = ResponseMatrix(kinds.T, ["a", "b"], range(100))
    discrimination = np.where(kinds == 1, 3.0, -3.0)
    items = ItemParameters(discrimination * [1, 1], np.zeros(100))
    for seed in range(5):
        anchors = select_anchors(responses, items, 4, method="kd", rng=np.random.default_rng(seed))
        assert sorted(int(i) // 25 for i in anchors.item_ids) == [0, 1, 2, 3]


@pytest.mark.parametrize("method", ["stratified", "kd"])
def test_groups_beat_a_random_sample_on_an_unseen_model(world, method):
    responses, items = world
    ability = np.array([0.3, 0.1])
    scores = (np.random.default_rng(8).random(103) < irt.probabilities(items, ability)).astype(float)

    def error(name: str) -> float:
        rng = np.random.default_rng(4)
        sets = (select_anchors(responses, items, 12, method=name, rng=rng) for _ in range(200))
        return float(np.mean([(s.weights @ scores[positions(s, responses)] - scores.mean()) ** 2 for s in sets]))

    assert error(method) < 0.85 * error("random")


@pytest.mark.parametrize("method", METHODS)
def test_items_nobody_was_asked_can_be_drawn(world, method):
    responses, items = world
    values = responses.values.copy()
    values[:, :60] = np.nan
    sparse = ResponseMatrix(values, responses.model_ids, responses.item_ids)
    anchors = select_anchors(sparse, items, 40, method=method, rng=np.random.default_rng(0))
    assert 0 < sum(positions(anchors, sparse) < 60) < 40


def test_misuse_is_one_line(world):
    responses, items = world
    rng = np.random.default_rng(0)
    with pytest.raises(ConfigError, match="did you mean 'stratified'"):
        select_anchors(responses, items, 5, method="stratifed", rng=rng)
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        select_anchors(responses, items, 0, method="kd", rng=rng)
    with pytest.raises(DataError, match="parameters for the 103 items"):
        select_anchors(responses, items.take([0, 1]), 5, method="kd", rng=rng)
