"""Anchors that stand for clusters: the clusters' weights, the closest items, and when equal groups take over."""

from __future__ import annotations

import numpy as np
import pytest

from merge3_plugin.domain import FloatArray, ItemParameters, ResponseMatrix
from merge3_plugin.extract.anchor_clusters import correctness_clusters, irt_clusters, representation_clusters
from merge3_plugin.extract.anchor_designs import Pool
from merge3_plugin.extract.fit import fit_items
from merge3_plugin.testing import simulate_responses


def pool_of(vectors: FloatArray, method: str, balance: FloatArray | None = None) -> Pool:
    """A pool in which the method clusters these vectors (n_items, d); for answers, those in [0, 1]."""
    n_items = len(vectors)
    answers = vectors.T if method == "correctness" else np.random.default_rng(0).random((3, n_items))
    responses = ResponseMatrix(answers, range(len(answers)), range(n_items), balance=balance)
    own = vectors if method == "irt" else np.ones((n_items, 2))
    return Pool(responses, ItemParameters(own[:, :-1], own[:, -1]), None, vectors if method == "embeddings" else None)


METHODS = {
    "correctness": correctness_clusters,
    "irt": irt_clusters,
    "embeddings": representation_clusters,
}


def blobs(sizes: tuple[int, ...]) -> tuple[FloatArray, FloatArray]:
    """Points around far corners of a cube, and the corner of each."""
    rng = np.random.default_rng(1)
    corner = np.repeat(np.arange(len(sizes)), sizes)
    corners = (np.arange(8)[:, None] >> np.arange(3)) & 1
    return np.clip(0.8 * corners[corner] + 0.1 + rng.normal(0, 0.02, (len(corner), 3)), 0, 1), corner


@pytest.mark.parametrize("method", METHODS)
def test_one_item_stands_for_each_cluster_with_its_weight(method):
    vectors, corner = blobs((30, 20, 25, 15, 10))
    found = METHODS[method](pool_of(vectors, method), 5, np.random.default_rng(0))
    assert found.inclusion is None and found.method.endswith("clusters")
    assert dict(zip(corner[found.positions], found.weights, strict=True)) == pytest.approx(
        {0: 0.3, 1: 0.2, 2: 0.25, 3: 0.15, 4: 0.1}
    )
    for position in found.positions:
        members = corner == corner[position]
        distances = np.linalg.norm(vectors - vectors[members].mean(axis=0), axis=1)
        assert distances[position] == distances[members].min()


@pytest.mark.parametrize("method", METHODS)
def test_items_that_count_more_weigh_more(method):
    vectors, corner = blobs((20, 20, 20, 20))
    balance = np.where(corner == 2, 2.0, 1.0)
    found = METHODS[method](pool_of(vectors, method, balance), 4, np.random.default_rng(0))
    assert dict(zip(corner[found.positions], found.weights, strict=True)) == pytest.approx(
        {0: 0.2, 1: 0.2, 2: 0.4, 3: 0.2}
    )


@pytest.mark.parametrize("method", METHODS)
def test_unequal_clusters_give_way_to_equal_groups(method):
    vectors, _ = blobs((85, 5, 5, 3, 2))
    found = METHODS[method](pool_of(vectors, method), 5, np.random.default_rng(0))
    assert found.method == "kd" and found.inclusion == pytest.approx(0.05) and found.weights == pytest.approx(0.2)


@pytest.mark.parametrize("n", [4, 9, 30])
def test_fewer_kinds_than_anchors_share_their_weight(n):
    """Two models have four kinds of items, and a kind gives as many anchors as its share of the items asks for."""
    kinds = np.repeat([[0, 0], [0, 1], [1, 0], [1, 1]], 12, axis=0).astype(float)
    found = correctness_clusters(pool_of(kinds, "correctness"), n, np.random.default_rng(0))
    assert len(set(found.positions)) == n and found.weights.sum() == pytest.approx(1)
    for kind in range(4):
        of_kind = found.weights[found.positions // 12 == kind]
        assert len(of_kind) in (n // 4, n // 4 + 1) and of_kind == pytest.approx(0.25 / len(of_kind))


def test_of_equal_items_any_may_stand_for_the_others():
    kinds = np.repeat([[0, 0], [0, 1], [1, 0], [1, 1]], 12, axis=0).astype(float)
    pool = pool_of(kinds, "correctness")
    drawn = {tuple(sorted(correctness_clusters(pool, 4, np.random.default_rng(seed)).positions)) for seed in range(5)}
    assert len(drawn) > 1


def test_unanswered_items_lie_where_they_are_expected():
    """Items that a model was not asked fall to the clusters that its fitted probabilities say."""
    responses = simulate_responses(12, 300, rng=np.random.default_rng(2))
    values = np.where(np.random.default_rng(3).random(responses.values.shape) < 0.15, np.nan, responses.values)
    sparse = ResponseMatrix(values, responses.model_ids, responses.item_ids)
    newcomers = simulate_responses(400, 300, rng=np.random.default_rng(2)).values[12:]

    def error(matrix: ResponseMatrix) -> float:
        pool = Pool(matrix, fit_items(matrix, 2)[0], None, None)
        chosen = [correctness_clusters(pool, 15, np.random.default_rng(seed)) for seed in range(12)]
        assert all(c.method == "correctness-clusters" for c in chosen)
        errors = [newcomers[:, c.positions] @ c.weights - newcomers.mean(axis=1) for c in chosen]
        return float(np.sqrt(np.mean(np.square(errors))))

    assert error(sparse) < 1.25 * error(responses)


def test_clusters_are_drawn_around_what_counts():
    """Of three places in a row, the two nearest make one cluster, unless they count far more than the third."""
    vectors = np.repeat([0.0, 1.0, 3.5], 10)[:, None]
    for seed in range(4):
        for balance, places in ((None, ({0, 2}, {1, 2})), (np.repeat([3000.0, 3000.0, 1.0], 10), ({0, 1},))):
            pool = pool_of(vectors, "embeddings", balance)
            found = representation_clusters(pool, 2, np.random.default_rng(seed))
            assert set(found.positions // 10) in places


def test_an_unanswered_cell_is_no_wrong_answer():
    """Of four weak models three were not asked half the easy items, and the one that was knew them."""
    kinds = np.repeat([[1] * 8, [0] * 4 + [1] * 4, [0] * 8], 40, axis=0).astype(float)
    kinds[:20, :3] = np.nan
    responses = ResponseMatrix(kinds.T, range(8), range(120))
    pool = Pool(responses, fit_items(responses, 2)[0], None, None)
    found = correctness_clusters(pool, 3, np.random.default_rng(0))
    assert found.method == "correctness-clusters" and found.weights == pytest.approx(1 / 3)
    assert set(found.positions // 40) == {0, 1, 2}
