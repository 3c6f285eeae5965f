"""Anchor sets: which few items stand for a benchmark, and with which weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from merge3_plugin import irt
from merge3_plugin.domain import AnchorSet, FloatArray, ItemParameters, ResponseMatrix
from merge3_plugin.errors import ConfigError, DataError, nearest

Positions = NDArray[np.intp]
# (responses, items fitted to them, n < n_items, rng) -> positions of the anchors and their weights
Selection = Callable[[ResponseMatrix, ItemParameters, int, np.random.Generator], tuple[Positions, FloatArray]]


def select_anchors(
    responses: ResponseMatrix, items: ItemParameters, n: int, *, method: str, rng: np.random.Generator
) -> AnchorSet:
    """``n`` of the responses' items in their order, with weights; all of them, equally weighted, where n is too large.

    ``items`` are the parameters fitted to ``responses``; ``method`` is a name in `METHODS`. Every method is a
    probability sample whose weighted mean is unbiased for the mean over all items. Raises ConfigError for an unknown
    method and for n below 1, DataError where items and responses differ in number.
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
        return AnchorSet(responses.item_ids, np.full(responses.n_items, 1.0 / responses.n_items), method)
    # Drawn by id: the order of the items in the matrix must not decide which ones are drawn.
    by_id = np.array(sorted(range(responses.n_items), key=responses.item_ids.__getitem__))
    ordered = responses.items(responses.item_ids[place] for place in by_id)
    drawn, weights = METHODS[method](ordered, items.take(by_id), n, rng)
    positions = by_id[drawn]
    order = np.argsort(positions)
    return AnchorSet(tuple(responses.item_ids[j] for j in positions[order]), weights[order], method)


def _random(
    responses: ResponseMatrix, items: ItemParameters, n: int, rng: np.random.Generator
) -> tuple[Positions, FloatArray]:
    """A simple random sample."""
    return rng.choice(responses.n_items, size=n, replace=False), np.full(n, 1.0 / n)


def _stratified(
    responses: ResponseMatrix, items: ItemParameters, n: int, rng: np.random.Generator
) -> tuple[Positions, FloatArray]:
    """n strata of equal size by the models' mean score."""
    shuffled = rng.permutation(responses.n_items)
    by_score = shuffled[np.argsort(_mean_scores(responses)[shuffled], kind="stable")]
    return _one_of_each(np.array_split(by_score, n), rng)


def _kd(
    responses: ResponseMatrix, items: ItemParameters, n: int, rng: np.random.Generator
) -> tuple[Positions, FloatArray]:
    """n groups of equal size by the models' fitted probabilities (n_items, n_models): items that behave alike."""
    probabilities = irt.probabilities(items, irt.fit_ability(items, responses.values).mean).T
    return _one_of_each(_bisect(probabilities, rng.permutation(responses.n_items), n), rng)


METHODS: Mapping[str, Selection] = MappingProxyType({"random": _random, "stratified": _stratified, "kd": _kd})


def _mean_scores(responses: ResponseMatrix) -> FloatArray:
    """Mean score of each item over the models that were asked it; the overall mean where none was."""
    known = ~np.isnan(responses.values)
    scores, asked = np.nan_to_num(responses.values).sum(axis=0), known.sum(axis=0)
    overall = scores.sum() / max(asked.sum(), 1)
    return np.divide(scores, asked, out=np.full(responses.n_items, overall), where=asked > 0)


def _bisect(vectors: FloatArray, members: Positions, n: int) -> list[Positions]:
    """Split ``members`` into n groups whose sizes differ by at most one, each time across the widest coordinate."""
    if n == 1:
        return [members]
    widest = np.argmax(vectors[members].var(axis=0))
    ordered = members[np.argsort(vectors[members, widest], kind="stable")]
    cut = round(len(members) * (n // 2) / n)
    return _bisect(vectors, ordered[:cut], n // 2) + _bisect(vectors, ordered[cut:], n - n // 2)


def _one_of_each(groups: Sequence[Positions], rng: np.random.Generator) -> tuple[Positions, FloatArray]:
    """One item drawn from each group, weighted by the group's share of all items."""
    sizes = np.array([len(group) for group in groups])
    return np.array([rng.choice(group) for group in groups], dtype=np.intp), sizes / sizes.sum()
