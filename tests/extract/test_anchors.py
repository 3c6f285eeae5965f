"""Anchor selection: sizes, weights, seeds, and what each method promises."""

from __future__ import annotations

import numpy as np
import pytest

from merge3_plugin import irt
from merge3_plugin.domain import AnchorSet, ItemParameters, ResponseMatrix
from merge3_plugin.errors import ConfigError, DataError
from merge3_plugin.extract.anchors import METHODS, select_anchors

CLUSTERS = {"irt-clusters", "correctness-clusters", "representation-clusters"}
DESIGNS = [method for method in METHODS if method not in CLUSTERS]


class World:
    """Nine models, of whom two are parents, on 103 items with embeddings; ``select`` chooses anchors from it."""

    def __init__(self, balance: np.ndarray | None = None) -> None:
        rng = np.random.default_rng(3)
        self.items = ItemParameters(
            np.column_stack([rng.normal(1.2, 0.4, 103), rng.normal(0, 0.6, 103)]), rng.normal(0, 1.5, 103)
        )
        chances = irt.probabilities(self.items, rng.normal(size=(9, 2)))
        answers = (rng.random(chances.shape) < chances).astype(float)
        self.responses = ResponseMatrix(answers, range(9), [f"q{j}" for j in range(103)], balance=balance)
        self.parents = self.responses.models(["2", "5"])
        self.embeddings = rng.normal(size=(103, 6))

    def select(self, n: int, method: str, rng: np.random.Generator | int = 0) -> AnchorSet:
        return select_anchors(
            self.responses,
            self.items,
            n,
            method=method,
            rng=np.random.default_rng(rng),
            parents=self.parents,
            embeddings=self.embeddings,
        )

    def positions(self, anchors: AnchorSet) -> np.ndarray:
        return np.array([self.responses.item_ids.index(i) for i in anchors.item_ids])


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.fixture(scope="module", params=[None, (1, 5, 0.3, 20)], ids=["alike", "balanced"])
def any_world(request) -> World:
    """Worlds whose items count alike, and whose four sub-tasks count so unequally that some items are certain."""
    return World(None if request.param is None else np.repeat(request.param, 26)[:103])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n", [1, 2, 7, 50, 102])
def test_sizes_weights_and_inclusion(any_world, method, n):
    anchors = any_world.select(n, method)
    places = any_world.positions(anchors)
    assert len(anchors) == n and list(places) == sorted(places)
    assert anchors.method in ({method, "kd"} if method in CLUSTERS else {method})
    assert anchors.weights.sum() == pytest.approx(1, abs=1e-9)
    if anchors.method in CLUSTERS:
        assert anchors.inclusion is None
    else:
        assert anchors.weights == pytest.approx(any_world.responses.item_weights[places] / anchors.inclusion)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n", [103, 5000])
def test_asking_for_all_gives_all_by_their_own_weights(any_world, method, n):
    anchors = any_world.select(n, method)
    assert anchors.item_ids == any_world.responses.item_ids
    assert (anchors.weights == any_world.responses.item_weights).all() and (anchors.inclusion == 1).all()


@pytest.mark.parametrize("method", METHODS)
def test_the_seed_decides(world, method):
    first, again, other = (world.select(20, method, seed) for seed in (5, 5, 6))
    assert first.item_ids == again.item_ids and (first.weights == again.weights).all()
    assert first.item_ids != other.item_ids


@pytest.mark.parametrize("method", METHODS)
def test_the_global_generator_is_left_alone(world, method):
    before = np.random.get_state()[1].copy()
    world.select(20, method)
    assert (np.random.get_state()[1] == before).all()


@pytest.mark.parametrize("method", DESIGNS)
@pytest.mark.parametrize("n", [2, 10])
def test_designs_are_unbiased_and_know_their_probabilities(any_world, method, n):
    # The scores of a model that took no part: only the design can make its mean unbiased.
    scores = np.random.default_rng(11).random(103) ** 2
    rng, draws = np.random.default_rng(1), 1000
    means, drawn, inclusion = [], np.zeros(103), np.zeros(103)
    for _ in range(draws):
        anchors = any_world.select(n, method, rng)
        places = any_world.positions(anchors)
        means.append(anchors.weights @ scores[places])
        drawn[places] += 1
        inclusion[places] = anchors.inclusion
    error = np.mean(means) - any_world.responses.item_weights @ scores
    assert abs(error) < 4 * np.std(means) / np.sqrt(draws)
    assert (
        np.abs(drawn / draws - inclusion) <= 4.5 * np.sqrt(np.maximum(inclusion * (1 - inclusion), 1e-3) / draws)
    ).all()


def test_strata_are_those_of_difficulty(world):
    means = world.responses.values.mean(axis=0)
    drawn, ranked = np.sort(means[world.positions(world.select(10, "stratified", 2))]), np.sort(means)
    for stratum, score in enumerate(drawn):
        first, last = int(stratum * 10.3), min(int((stratum + 1) * 10.3), 102)
        assert ranked[first] <= score <= ranked[last]


def test_kd_takes_one_of_each_kind():
    # Four kinds of items, told apart by which of two models answers them; difficulty alone sees only three.
    kinds = np.repeat(np.array([[1, 1], [1, 0], [0, 1], [0, 0]]), 25, axis=0)
    responses = ResponseMatrix(kinds.T, ["a", "b"], range(100))
    discrimination = np.where(kinds == 1, 3.0, -3.0)
    items = ItemParameters(discrimination * [1, 1], np.zeros(100))
    for seed in range(5):
        anchors = select_anchors(responses, items, 4, method="kd", rng=np.random.default_rng(seed))
        assert sorted(int(i) // 25 for i in anchors.item_ids) == [0, 1, 2, 3]


@pytest.mark.parametrize("n", [12, 70])
@pytest.mark.parametrize(("method", "ratio"), [("stratified", 0.95), ("kd", 0.9)])
def test_groups_beat_a_random_sample_on_unseen_models(world, method, n, ratio):
    rng = np.random.default_rng(8)
    chances = irt.probabilities(world.items, rng.normal(size=(200, 2)))
    scores = (rng.random(chances.shape) < chances).astype(float)

    def error(name: str) -> float:
        sets = [world.select(n, name, rng) for _ in range(50)]
        return float(np.mean([(scores[:, world.positions(s)] @ s.weights - scores.mean(axis=1)) ** 2 for s in sets]))

    assert error(method) < ratio**2 * error("random")


@pytest.mark.parametrize("method", METHODS)
def test_items_nobody_was_asked_can_be_chosen(world, method):
    values = world.responses.values.copy()
    values[:, :60] = np.nan
    sparse = World()
    sparse.responses = ResponseMatrix(values, world.responses.model_ids, world.responses.item_ids)
    assert 0 < sum(world.positions(sparse.select(40, method)) < 60) < 40


@pytest.mark.parametrize("method", METHODS)
def test_the_order_of_items_and_models_changes_nothing(world, method):
    rng = np.random.default_rng(0)
    items, models = rng.permutation(103), rng.permutation(9)
    moved = World()
    moved.responses = world.responses.models(world.responses.model_ids[m] for m in models).items(
        world.responses.item_ids[j] for j in items
    )
    moved.items, moved.embeddings = world.items.take(items), world.embeddings[items]
    first, second = (one.select(15, method) for one in (world, moved))
    assert dict(zip(first.item_ids, first.weights, strict=True)) == pytest.approx(
        dict(zip(second.item_ids, second.weights, strict=True))
    )


def test_misuse_is_one_line(world):
    responses, items, rng = world.responses, world.items, np.random.default_rng(0)
    with pytest.raises(ConfigError, match="did you mean 'stratified'"):
        select_anchors(responses, items, 5, method="stratifed", rng=rng)
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        select_anchors(responses, items, 0, method="kd", rng=rng)
    with pytest.raises(DataError, match="parameters for the 103 items"):
        select_anchors(responses, items.take([0, 1]), 5, method="kd", rng=rng)
    with pytest.raises(ConfigError, match="expected the parents' answers for 'neyman'"):
        select_anchors(responses, items, 5, method="neyman", rng=rng)
    with pytest.raises(ConfigError, match="expected embeddings of the items"):
        select_anchors(responses, items, 5, method="representation-clusters", rng=rng)
    for embeddings, line in (
        (np.ones((7, 2)), r"expected shape \(103, d\), got \(7, 2\)"),
        (np.ones((103, 0)), r"expected shape \(103, d\), got \(103, 0\)"),
        (np.ones(103), r"expected 2 dimension\(s\), got shape \(103,\)"),
        (np.full((103, 2), np.nan), "expected finite numbers, got NaN or infinity"),
    ):
        with pytest.raises(DataError, match=f"embeddings: {line}"):
            select_anchors(responses, items, 5, method="representation-clusters", rng=rng, embeddings=embeddings)
