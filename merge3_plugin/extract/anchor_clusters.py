"""Anchors that stand for clusters of alike items (k-means), as in tinyBenchmarks (arXiv 2402.14992, section 3).

Each anchor is the item closest to its cluster's centre and carries the cluster's weight. Nothing is drawn: which items
are anchors depends on the answers, so the weighted mean has no design-based claim (``inclusion`` is None).
"""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from merge3_plugin.domain import FloatArray
from merge3_plugin.errors import ConfigError
from merge3_plugin.extract.anchor_designs import Chosen, Pool, Positions, allocate, fitted_probabilities, kd
from merge3_plugin.extract.patterns import distinct_rows

# Below this share of n effective anchors, 1 / sum w^2, a mean has 1.3 times the error of equal weights at equal spread,
# and items of one cluster were never seen to spread a quarter less than those of one equal group.
EFFECTIVE_SHARE = 0.6


def correctness_clusters(pool: Pool, n: int, rng: Generator) -> Chosen:
    """Clusters of the models' scores; where a model was not asked, its fitted probability stands in."""
    scores = pool.responses.values.T
    if np.isnan(scores).any():
        scores = np.where(np.isnan(scores), fitted_probabilities(pool.items, pool.responses), scores)
    return _clusters(pool, scores, n, rng, "correctness-clusters")


def irt_clusters(pool: Pool, n: int, rng: Generator) -> Chosen:
    """Clusters of the items' parameters (a, b)."""
    parameters = np.column_stack([pool.items.discrimination, pool.items.difficulty])
    return _clusters(pool, parameters, n, rng, "irt-clusters")


def representation_clusters(pool: Pool, n: int, rng: Generator) -> Chosen:
    """Clusters of the items' embeddings under a model: MERGE3's third strategy (arXiv 2502.10436)."""
    if pool.embeddings is None:
        raise ConfigError(
            "anchors: expected embeddings of the items for 'representation-clusters', got none; "
            "name a model to embed them or choose 'kd'"
        )
    return _clusters(pool, pool.embeddings, n, rng, "representation-clusters")


def _clusters(pool: Pool, vectors: FloatArray, n: int, rng: Generator, method: str) -> Chosen:
    """n anchors of the clusters of ``vectors`` (n_items, d), or those of `kd` where cluster weights are too unequal.

    With few models clusters are few large and many tiny ones: below ``EFFECTIVE_SHARE`` * n effective anchors their
    weighted mean is no better than that of random anchors, and equal groups are.
    """
    positions, weights = _nearest_to_centres(vectors, pool.responses.item_weights, n, rng)
    if 1.0 / (weights**2).sum() < EFFECTIVE_SHARE * n:
        return kd(pool, n, rng)
    return Chosen(positions, weights, None, method)


def _nearest_to_centres(
    vectors: FloatArray, item_weights: FloatArray, n: int, rng: Generator
) -> tuple[Positions, FloatArray]:
    """The items closest to the centres, and their clusters' weights.

    Where fewer than n vectors differ, a cluster is one of them, and gives as many anchors as its weight asks for.
    """
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    shuffled = rng.permutation(len(vectors))  # Of items that are equally close, any one may be taken.
    distinct, kind, _ = distinct_rows(vectors[shuffled])
    mass = np.bincount(kind, weights=item_weights[shuffled])
    means = KMeans(min(n, len(distinct)), n_init=1, random_state=int(rng.integers(2**31)))
    with threadpool_limits(1):  # Several threads add up in any order, and the last bits can decide.
        labels = means.fit_predict(distinct, sample_weight=mass)[kind]
    distances = ((vectors[shuffled] - means.cluster_centers_[labels]) ** 2).sum(axis=1)
    clusters = np.unique(labels, return_inverse=True)[1]
    shares = np.asarray(np.bincount(clusters, weights=item_weights[shuffled]), dtype=np.float64)
    given = allocate(shares, np.bincount(clusters), n)
    closest = np.lexsort([distances, clusters])
    starts = np.searchsorted(clusters[closest], np.arange(len(shares)))
    positions = [closest[start : start + size] for start, size in zip(starts, given, strict=True)]
    return shuffled[np.concatenate(positions)], np.repeat(shares / given, given)
