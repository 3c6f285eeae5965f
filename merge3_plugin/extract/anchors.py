"""Anchor sets: which few items stand for a benchmark, and with which weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MappingProxyType

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from merge3_plugin.checks import checked_embeddings
from merge3_plugin.domain import AnchorSet, FloatArray, ItemParameters, ResponseMatrix
from merge3_plugin.errors import ConfigError, DataError, nearest
from merge3_plugin.extract import anchor_clusters, anchor_designs
from merge3_plugin.extract.anchor_designs import Chosen, Pool

# (what is known, n < n_items, rng) -> the anchors
Selection = Callable[[Pool, int, Generator], Chosen]

METHODS: Mapping[str, Selection] = MappingProxyType(
    {
        "random": anchor_designs.random,
        "stratified": anchor_designs.stratified,
        "kd": anchor_designs.kd,
        "irt-clusters": anchor_clusters.irt_clusters,
        "correctness-clusters": anchor_clusters.correctness_clusters,
        "representation-clusters": anchor_clusters.representation_clusters,
        "neyman": anchor_designs.neyman,
        "mixed": anchor_designs.mixed,
    }
)


def select_anchors(
    responses: ResponseMatrix,
    items: ItemParameters,
    n: int,
    *,
    method: str,
    rng: Generator,
    parents: ResponseMatrix | None = None,
    embeddings: FloatArray | None = None,
) -> AnchorSet:
    """``n`` of the responses' items in their order, with weights; all of them, by their own, where n is too large.

    ``items`` are the parameters fitted to ``responses``; ``method`` is a name in `METHODS`, and the anchors' ``method``
    is what was done: the clusters fall back to "kd" where their weights are too unequal. ``parents``, who answered
    these items in any order, serve "neyman"; ``embeddings`` (n_items, d), in the items' order,
    "representation-clusters". Raises ConfigError for an unknown method, for n below 1, and where a method lacks what it
    needs; DataError where the parts differ in their items.
    """
    if method not in METHODS:
        raise ConfigError(f"anchors: expected a known method, got {method!r}{nearest(method, METHODS)}")
    if n < 1:
        raise ConfigError(f"anchors: expected at least 1, got {n}; ask for more")
    if len(items.difficulty) != responses.n_items:
        raise DataError(
            f"anchors: expected parameters for the {responses.n_items} items of the responses, "
            f"got {len(items.difficulty)}; fit the items on these responses"
        )
    if n >= responses.n_items:
        return AnchorSet(responses.item_ids, responses.item_weights, method, np.ones(responses.n_items))
    by_id, pool = _pool(responses, items, parents)
    if embeddings is not None:
        pool = pool._replace(embeddings=checked_embeddings(embeddings, responses.n_items)[by_id])
    chosen = METHODS[method](pool, n, rng)
    order = np.argsort(by_id[chosen.positions])
    return AnchorSet(
        tuple(pool.responses.item_ids[place] for place in chosen.positions[order]),
        chosen.weights[order],
        chosen.method,
        None if chosen.inclusion is None else chosen.inclusion[order],
    )


@lru_cache(maxsize=16)  # Anchors are drawn from one pool several times.
def _pool(
    responses: ResponseMatrix, items: ItemParameters, parents: ResponseMatrix | None
) -> tuple[NDArray[np.intp], Pool]:
    """The positions of the items by their ids, and the pool in that order, without embeddings."""
    # By id: the order of items and models in the matrix must not decide which ones are drawn.
    by_id = np.array(sorted(range(responses.n_items), key=responses.item_ids.__getitem__))
    item_ids = [responses.item_ids[place] for place in by_id]
    return by_id, Pool(
        responses.models(sorted(responses.model_ids)).items(item_ids),
        items.take(by_id),
        None if parents is None else parents.items(item_ids),
        None,
    )
