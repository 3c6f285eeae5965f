"""Anchors drawn at random with known probabilities: whatever the answers, their weighted mean is unbiased.

Each design is an order of the items, in which neighbours behave alike, and the probability of each to be drawn. Every
stretch of the order that holds one expected anchor gives one (`draw`), and an anchor's weight is its item's own weight
over that probability (Horvitz and Thompson 1952).
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from merge3_plugin import irt
from merge3_plugin.domain import FloatArray, ItemParameters, ResponseMatrix
from merge3_plugin.errors import ConfigError

Positions = NDArray[np.intp]

# Share of the mixed design's anchors that are its most informative items: more of them, and few models mislead it.
INFORMATIVE_SHARE = 0.25
# With more models than this, an evenly spaced choice of their abilities stands for all in the mixed design.
ABILITIES = 64


class Pool(NamedTuple):
    """What is known when anchors are chosen; the items stand in one order, that of their ids, in all of it."""

    responses: ResponseMatrix
    items: ItemParameters
    parents: ResponseMatrix | None
    embeddings: FloatArray | None


class Chosen(NamedTuple):
    """Positions of the anchors, their weights, their probabilities of being drawn (or None), and what chose them."""

    positions: Positions
    weights: FloatArray
    inclusion: FloatArray | None
    method: str


def random(pool: Pool, n: int, rng: Generator) -> Chosen:
    """A simple random sample; items that count more are drawn more often."""
    weights = pool.responses.item_weights
    return _drawn(pool, rng.permutation(len(weights)), proportional(weights, n), rng, "random")


def stratified(pool: Pool, n: int, rng: Generator) -> Chosen:
    """n strata of equal weight by the models' mean score."""
    order = _by_score(pool, rng.permutation(pool.responses.n_items))
    return _drawn(pool, order, proportional(pool.responses.item_weights, n), rng, "stratified")


def kd(pool: Pool, n: int, rng: Generator) -> Chosen:
    """n groups of equal weight by the models' fitted probabilities: items that behave alike."""
    weights = pool.responses.item_weights
    order = _bisected(fitted_probabilities(pool.items, pool.responses), weights, rng.permutation(len(weights)), n)
    return _drawn(pool, order, proportional(weights, n), rng, "kd")


def neyman(pool: Pool, n: int, rng: Generator) -> Chosen:
    """Neyman allocation over the cells of the parents' answers (how many are right), by mean score inside each.

    For merges of these parents. A cell's share of the anchors is its weight times the expected spread of a merge's
    scores there (`_spread`), and at least one anchor, where n allows.
    """
    if pool.parents is None:
        raise ConfigError(
            "anchors: expected the parents' answers for 'neyman', got none; pass parents or choose 'stratified'"
        )
    weights = pool.responses.item_weights
    cells, shares = _cells(pool.responses, pool.parents)
    order = np.concatenate([_by_score(pool, rng.permutation(cell)) for cell in cells])
    if n < len(cells):
        return _drawn(pool, order, proportional(weights, n), rng, "neyman")
    inclusion = np.empty(len(weights))
    for cell, size in zip(cells, allocate(shares, np.array([len(cell) for cell in cells]), n), strict=True):
        inclusion[cell] = proportional(weights[cell], int(size))
    return _drawn(pool, order, inclusion, rng, "neyman")


def mixed(pool: Pool, n: int, rng: Generator) -> Chosen:
    """A quarter of the anchors are the most informative items, taken with certainty; the others are stratified.

    For estimators that fit an ability: the weighted mean gains nothing from items that stand for themselves alone.
    """
    certain = _most_informative(pool.items, pool.responses, int(n * INFORMATIVE_SHARE))
    others = np.setdiff1d(np.arange(pool.responses.n_items), certain)
    inclusion = np.ones(pool.responses.n_items)
    inclusion[others] = proportional(pool.responses.item_weights[others], n - len(certain))
    order = np.concatenate([certain, _by_score(pool, rng.permutation(others))])
    return _drawn(pool, order, inclusion, rng, "mixed")


def draw(order: Positions, inclusion: FloatArray, rng: Generator) -> Positions:
    """Items drawn with the probabilities ``inclusion``, whose sum is a whole number: that many.

    Deville's systematic sampling (Chauvet 2012, doi 10.1111/j.1467-9469.2012.00808.x): laid out along ``order`` by
    their probabilities, one item is drawn from each unit of length, and an item that lies in two units is drawn at most
    once. Where all probabilities are 1/m that is one of each m items; in a random order, a simple random sample.
    """
    ends = np.cumsum(inclusion[order])
    whole = np.rint(ends)
    ends = np.where(np.abs(ends - whole) < 1e-9, whole, ends)
    drawn = np.full(int(ends[-1]), -1)
    for unit, chance in enumerate(rng.random(len(drawn))):
        first = int(np.searchsorted(ends, unit, side="right"))
        before = unit - (ends[first - 1] if first else 0.0)  # how much of the first item lies in the unit before
        reach = ends[first] - unit if before > 0 else 0.0
        again = 0.0 if drawn[unit - 1] == first else reach / (1.0 - before)
        if chance < again:
            drawn[unit] = first
            continue
        point = unit + reach + (1.0 - reach) * (chance - again) / (1.0 - again)
        drawn[unit] = np.searchsorted(ends, min(point, np.nextafter(unit + 1, 0.0)), side="right")
    return order[drawn]


def proportional(weights: FloatArray, n: int) -> FloatArray:
    """Inclusion probabilities of sum n <= len(weights) in proportion to ``weights``; what is too heavy is certain."""
    certain = np.zeros(len(weights), dtype=bool)
    while n > certain.sum():
        inclusion = np.where(certain, 1.0, (n - certain.sum()) * weights / weights[~certain].sum())
        heavy = inclusion > 1.0 + 1e-12
        if not heavy.any():
            return np.minimum(inclusion, 1.0)
        certain |= heavy
    return np.ones(len(weights))


def allocate(shares: FloatArray, sizes: NDArray[np.intp], n: int) -> NDArray[np.intp]:
    """n >= len(shares) anchors over groups in proportion to ``shares``: whole numbers from 1 to the group's size.

    Each further one goes where it lowers sum_h shares_h^2 / n_h most, so that whole numbers are as good as can be
    (Wright 2012, doi 10.1080/00031305.2012.733679).
    """
    given = np.ones(len(shares), dtype=np.intp)
    for _ in range(n - len(shares)):
        given[np.argmax(np.where(given < sizes, shares**2 / (given * (given + 1.0)), -1.0))] += 1
    return given


@lru_cache(maxsize=16)  # The same for every draw from one pool.
def fitted_probabilities(items: ItemParameters, responses: ResponseMatrix) -> FloatArray:
    """Probability of a right answer of every calibration model, shape (n_items, n_models)."""
    abilities = irt.fit_ability(items, responses.values).mean
    chances = irt.probabilities(items, abilities).T
    chances.flags.writeable = False
    return chances


def mean_scores(responses: ResponseMatrix) -> FloatArray:
    """Mean score of each item over the models that were asked it; the overall mean where none was."""
    known = ~np.isnan(responses.values)
    scores, asked = np.nan_to_num(responses.values).sum(axis=0), known.sum(axis=0)
    overall = scores.sum() / max(asked.sum(), 1)
    return np.divide(scores, asked, out=np.full(responses.n_items, overall), where=asked > 0)


def _drawn(pool: Pool, order: Positions, inclusion: FloatArray, rng: Generator, method: str) -> Chosen:
    drawn = draw(order, inclusion, rng)
    return Chosen(drawn, pool.responses.item_weights[drawn] / inclusion[drawn], inclusion[drawn], method)


def _by_score(pool: Pool, members: Positions) -> Positions:
    """``members`` by the models' mean score; ties stay in their order."""
    return members[np.argsort(mean_scores(pool.responses)[members], kind="stable")]


def _bisected(vectors: FloatArray, weights: FloatArray, members: Positions, n: int) -> Positions:
    """``members`` in n consecutive groups of about equal weight, halved each time across the widest coordinate."""
    if n == 1:
        return members
    widest = np.argmax(vectors[members].var(axis=0))
    ordered = members[np.argsort(vectors[members, widest], kind="stable")]
    ends = np.cumsum(weights[ordered])
    cut = int(np.abs(ends - ends[-1] * (n // 2) / n).argmin()) + 1
    cut = min(max(cut, n // 2), len(members) - (n - n // 2))
    return np.concatenate(
        [_bisected(vectors, weights, ordered[:cut], n // 2), _bisected(vectors, weights, ordered[cut:], n - n // 2)]
    )


@lru_cache(maxsize=16)
def _cells(responses: ResponseMatrix, parents: ResponseMatrix) -> tuple[tuple[Positions, ...], FloatArray]:
    """The items by how many parents are right, and each cell's share of the anchors, up to a factor."""
    right = np.rint(mean_scores(parents) * parents.n_models)
    cells = tuple(np.flatnonzero(right == count) for count in np.unique(right))
    weights = responses.item_weights
    return cells, np.array([weights[cell].sum() * _spread(responses, parents, cell) for cell in cells])


def _spread(responses: ResponseMatrix, parents: ResponseMatrix, cell: Positions) -> float:
    """Standard deviation of a merge's scores within one cell.

    A merge is taken for half its parents, who are right with the share of them that is right in the cell, half
    a calibration model, right as often as those are there: alone, other models would spread the anchors as if parents
    said nothing of their merges, and parents alone would leave the cells in which they agree without any.
    """
    inherited = mean_scores(parents)[cell].mean()
    others = [model for model in responses.model_ids if model not in parents.model_ids]
    answers = responses.models(others).values[:, cell]
    learned = (np.nansum(answers, axis=1) + 0.5) / ((~np.isnan(answers)).sum(axis=1) + 1.0)
    chance = 0.5 * (inherited + (learned if len(learned) else 0.5))
    return float(np.sqrt(np.mean(chance * (1.0 - chance))))


@lru_cache(maxsize=16)
def _most_informative(items: ItemParameters, responses: ResponseMatrix, n: int) -> Positions:
    """n items that tell most of a model's accuracy, chosen one by one.

    Each lowers most, on average over the calibration models' abilities theta, the posterior variance g' C g of the
    expected accuracy: g its gradient by theta, C the covariance of theta given the items so far, the prior N(0, I).
    """
    discrimination = items.discrimination
    abilities = irt.fit_ability(items, responses.values).mean
    spaced = np.unique(np.linspace(0, len(abilities) - 1, ABILITIES).astype(int))
    chances = irt.probabilities(items, abilities[np.argsort(abilities[:, 0], kind="stable")[spaced]])
    variances = chances * (1.0 - chances)
    gradient = (variances * responses.item_weights) @ discrimination
    covariance = np.tile(np.eye(discrimination.shape[1]), (len(gradient), 1, 1))
    chosen: list[int] = []
    for _ in range(n):
        reach = covariance @ discrimination.T
        information = variances / (1.0 + variances * np.einsum("jp,mpj->mj", discrimination, reach))
        gain = (information * np.einsum("mp,mpj->mj", gradient, reach) ** 2).sum(axis=0)
        gain[chosen] = -1.0
        best = int(gain.argmax())
        chosen.append(best)
        step = reach[:, :, best]
        covariance = covariance - information[:, best, None, None] * step[:, :, None] * step[:, None, :]
    return np.array(chosen, dtype=np.intp)
