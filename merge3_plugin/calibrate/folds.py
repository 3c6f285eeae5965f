"""Models left out in folds, and the items fitted without them: what costs time, and serves any number of anchors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.random import Generator, default_rng
from numpy.typing import NDArray

from merge3_plugin.domain import FloatArray, ItemParameters, ResponseMatrix
from merge3_plugin.estimate.base import KNOWN_SHARE
from merge3_plugin.extract.fit import fit_items
from merge3_plugin.extract.items import drawn_order

FOLDS = 8
# More models than this add little to what is known of the errors, and more items than this hardly anything: errors are
# kept as multiples of a random sample's.
MOST_LEFT_OUT = 96
MOST_ITEMS = 1500
# Two dimensions from so many models on, and three beside them: with fewer, they cannot be told apart.
MODELS_FOR_TWO = 5
MODELS_FOR_THREE = 8
# A merge lies between its parents: about half of their disagreement is left, and what it learned itself.
BETWEEN_PARENTS = 0.85
MOST = 0.9


class Fold(NamedTuple):
    """Models left out (their rows among all responses), the responses of the others, and the items fitted to those."""

    left_out: NDArray[np.intp]
    training: ResponseMatrix
    fits: tuple[ItemParameters, ...]

    @property
    def items(self) -> ItemParameters:
        """The main fit."""
        return self.fits[0]


@dataclass(frozen=True, eq=False)
class Folds:
    """Folds of ``responses``; ``parents`` (or None) and ``embeddings`` (or None) belong to the same items.

    ``of_merges`` says whether the models left out are seen to be merges of the parents.
    """

    responses: ResponseMatrix
    folds: tuple[Fold, ...]
    seed: int
    parents: ResponseMatrix | None = None
    embeddings: FloatArray | None = None
    of_merges: bool = False

    @property
    def rows(self) -> NDArray[np.intp]:
        """Rows of the models that are left out in some fold, ascending."""
        return np.sort(np.concatenate([fold.left_out for fold in self.folds]))

    def rng(self, *key: object) -> Generator:
        """A generator for this purpose, whatever else has been drawn."""
        return generator(self.seed, *key)


def generator(seed: int, *key: object) -> Generator:
    """A generator that depends on the seed and the key alone."""
    return default_rng([seed, *"/".join(map(str, key)).encode()])


def dimensions(n_models: int) -> tuple[int, ...]:
    """Numbers of dimensions that so many models allow: first that of the main fit, then those for ensembles."""
    if n_models < MODELS_FOR_TWO:
        return (1,)
    return (2, 1, 3) if n_models >= MODELS_FOR_THREE else (2, 1)


def fit_each(responses: ResponseMatrix, numbers: Sequence[int]) -> tuple[ItemParameters, ...]:
    """The items fitted in each of these numbers of dimensions."""
    return tuple(fit_items(responses, number)[0] for number in numbers)


def items_for(n_anchors: int) -> int:
    """On so many items so many anchors are cross-validated."""
    return max(MOST_ITEMS, 2 * n_anchors)


def eligible(responses: ResponseMatrix, parents: tuple[str, ...] = ()) -> NDArray[np.intp]:
    """Rows of the models that can be left out: their accuracy is known, and they are nobody's parent here."""
    known = (~np.isnan(responses.values)).mean(axis=1) >= KNOWN_SHARE
    candidate = np.array([model not in parents for model in responses.model_ids], dtype=bool)
    return np.flatnonzero(known & candidate)


def look_like_merges(responses: ResponseMatrix, rows: NDArray[np.intp], parents: ResponseMatrix) -> bool:
    """Whether most models at ``rows`` lie between the parents: disagree with them clearly less than they do.

    Unrelated models may be given beside parents; what the parents' answers tell of those says nothing of a merge.
    """
    apart = [_disagreement(parents.values[[i]], parents.values[j]) for i, j in combinations(range(parents.n_models), 2)]
    if not apart or not len(rows):
        return False
    from_parents = np.mean([_disagreement(responses.values[rows], answers) for answers in parents.values], axis=0)
    return bool(np.mean(from_parents < BETWEEN_PARENTS * np.mean(apart)) >= MOST)


def _disagreement(answers: FloatArray, of_one: FloatArray) -> FloatArray:
    """Mean absolute difference of each row of ``answers`` (M, N) from those of one model, shape (M,)."""
    return np.asarray(np.nanmean(np.abs(answers - of_one), axis=1), dtype=np.float64)


def fit_folds(
    responses: ResponseMatrix,
    *,
    seed: int,
    parents: ResponseMatrix | None = None,
    embeddings: FloatArray | None = None,
    max_folds: int = FOLDS,
    max_items: int = MOST_ITEMS,
    numbers: Sequence[int] | None = None,
) -> Folds:
    """The `eligible` models in at most ``max_folds`` folds; all others are in the training of every fold.

    ``parents`` are among the models of ``responses`` and have its items. From six models on at least two are left out
    together, so that their difference is cross-validated too. Of more than ``MOST_LEFT_OUT`` models or ``max_items``
    items a random part is taken. Which ones does not depend on the order of models and items. ``numbers`` of dimensions
    are by default those that the models allow.
    """
    if responses.n_items > max_items:
        drawn = set(drawn_order(responses.item_ids, seed, "cross-validation")[:max_items])
        kept = [place for place, item in enumerate(responses.item_ids) if item in drawn]
        item_ids = [responses.item_ids[place] for place in kept]
        responses = responses.items(item_ids)
        parents = None if parents is None else parents.items(item_ids)
        embeddings = None if embeddings is None else embeddings[kept]
    rows = eligible(responses, () if parents is None else parents.model_ids)
    of_merges = parents is not None and look_like_merges(responses, rows, parents)
    by_id = np.array(sorted(rows, key=lambda row: responses.model_ids[row]), dtype=np.intp)
    drawn_rows = generator(seed, "folds").permutation(by_id)[:MOST_LEFT_OUT]
    n_folds = len(drawn_rows) if len(drawn_rows) <= MODELS_FOR_TWO else min(max_folds, len(drawn_rows) // 2)
    numbers = numbers or dimensions(responses.n_models)
    folds = []
    for left_out in np.array_split(drawn_rows, n_folds) if n_folds else []:
        training = responses.models(m for row, m in enumerate(responses.model_ids) if row not in left_out)
        if np.nanmin(training.values) < np.nanmax(training.values):  # else there is nothing to fit
            folds.append(Fold(left_out, training, fit_each(training, numbers)))
    return Folds(responses, tuple(folds), seed, parents, embeddings, of_merges)
