"""Which items a candidate is scored on: nested subsets of anchors below them, further draws above, others each batch.

All of it follows from the calibration's own draw of anchors. A draw is made as that one was, by the same design from
the same answers, so a calibration's errors hold for it. A rung below takes one anchor from each of as many stretches of
the anchors, in the order of their difficulty (`extract.anchor_designs.draw`): with equal probability, so that what was
drawn with known probabilities still is, and from the rung above, so that whoever goes up answers new items only. A rung
above adds a draw, up to all search items. A candidate of several batches stands on the draws of all of them together.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

from merge3_plugin.domain import AnchorSet
from merge3_plugin.evolve.objectives import Objective
from merge3_plugin.extract.anchor_designs import draw, mean_scores
from merge3_plugin.extract.anchors import METHODS, select_anchors
from merge3_plugin.extract.items import drawn_order


class Place(NamedTuple):
    """Where a candidate was scored: rung 0 is all anchors of the ``batches``, -1 a share of them, 1 a further draw."""

    batches: tuple[int, ...] = (0,)
    rung: int = 0

    @property
    def complete(self) -> bool:
        """Whether that is all anchors, at least."""
        return self.rung >= 0

    @property
    def newest(self) -> int:
        return self.batches[-1]

    def joined(self, other: Place) -> Place:
        """All items of both complete places."""
        new = tuple(batch for batch in other.batches if batch not in self.batches)
        return Place(self.batches + new, max(self.rung, other.rung))


ANCHORS = Place()  # the calibration's own, all of them


class Ladder:
    """The items of every place, for each of the ``objectives``.

    The lowest rung has ``fewest`` anchors of each task or a few more (unset: anchors / eta^2), each next one ``eta``
    times as many. ``fresh``: whether batches have anchors of their own. Anchors that were chosen rather than drawn, or
    are all search items, are the same in every batch.
    """

    def __init__(
        self, objectives: Sequence[Objective], *, seed: int, eta: int = 3, fewest: int | None = None, fresh: bool = True
    ) -> None:
        self._objectives = {objective.name: objective for objective in objectives}
        self._seed, self._eta = seed, eta
        self._drawn = {name: _is_drawn(objective) for name, objective in self._objectives.items()}
        self._fresh = fresh and any(self._drawn.values())
        self.lowest = -steps_below([len(objective.anchors) for objective in objectives], fewest, eta)
        self.anchors = cache(self._anchors)

    def batch(self, asked: int) -> int:
        """The batch whose anchors a trial of this batch is scored on."""
        return asked if self._fresh else 0

    def items(self, place: Place) -> dict[str, tuple[str, ...]]:
        """The items of a place by task."""
        return {task: self.anchors(task, place).item_ids for task in self._objectives}

    def share(self, place: Place) -> float:
        """How many of all anchors of these batches a place has, of all tasks together: 1 from rung 0 on."""
        return self._size(place) / self._size(place._replace(rung=0)) if place.rung < 0 else 1.0

    def _size(self, place: Place) -> int:
        return sum(map(len, self.items(place).values()))

    def _anchors(self, task: str, place: Place) -> AnchorSet:
        """The anchors of a task at a place, with the weights and probabilities that they have there."""
        calibration = self._objectives[task].calibration
        if place.rung < 0:
            return self._fewer(task, place)
        if place.rung and (place.rung + 1) * len(calibration.anchors) >= calibration.n_items:
            everything = calibration.responses.item_weights
            return AnchorSet(calibration.item_ids, everything, calibration.anchors.method, np.ones(len(everything)))
        if not self._drawn[task]:
            return self._more(task, place.rung)
        return together([self._draw(task, batch, n) for batch in place.batches for n in range(place.rung + 1)])

    def _draw(self, task: str, batch: int, number: int) -> AnchorSet:
        objective = self._objectives[task]
        calibration = objective.calibration
        if batch == number == 0:
            return calibration.anchors
        return select_anchors(
            calibration.responses,
            calibration.items,
            len(calibration.anchors),
            method=calibration.anchors.method,
            rng=self._rng(f"anchors {task} {batch} {number}"),
            parents=objective.parents,
        )

    def _more(self, task: str, rung: int) -> AnchorSet:
        """Anchors that were chosen, and as many further items a rung, each of which stands for itself alone."""
        calibration = self._objectives[task].calibration
        anchors = calibration.anchors
        if rung == 0:
            return anchors
        further = drawn_order(set(calibration.item_ids) - set(anchors.item_ids), self._seed, f"rungs {task}")
        further = further[: rung * len(anchors)]
        own = dict(zip(calibration.item_ids, calibration.responses.item_weights, strict=True))
        beside = np.array([own[item] for item in further])
        weights = np.concatenate([anchors.weights * (1.0 - beside.sum()), beside])
        return AnchorSet((*anchors.item_ids, *further), weights, anchors.method)

    def _fewer(self, task: str, place: Place) -> AnchorSet:
        above = self.anchors(task, place._replace(rung=place.rung + 1))
        size = share(len(self._objectives[task].anchors), self._eta, place.rung)
        known = self._objectives[task].calibration.responses.items(above.item_ids)
        rng = self._rng(f"rungs {task} {place.newest} {place.rung}")
        order = rng.permutation(len(above))
        order = order[np.argsort(mean_scores(known)[order], kind="stable")]
        kept = np.sort(draw(order, np.full(len(above), size / len(above)), rng))
        weights = above.weights[kept]
        return AnchorSet(
            tuple(above.item_ids[i] for i in kept),
            weights / weights.sum(),
            above.method,
            None if above.inclusion is None else above.inclusion[kept] * (size / len(above)),
        )

    def _rng(self, purpose: str) -> np.random.Generator:
        return np.random.default_rng([self._seed, *purpose.encode()])


def together(draws: Sequence[AnchorSet]) -> AnchorSet:
    """The items of several independent draws of one design.

    An item that is drawn with the probability p is in one of k draws with 1 - (1 - p)^k: so it is drawn still, and
    weighs what it weighed over that (Horvitz and Thompson 1952). A single draw is itself.
    """
    if len(draws) == 1:
        return draws[0]
    chances: dict[str, float] = {}
    weights: dict[str, float] = defaultdict(float)
    for one in draws:
        inclusion = np.ones(len(one)) if one.inclusion is None else one.inclusion
        for item, chance, weight in zip(one.item_ids, inclusion, one.weights, strict=True):
            chances[item] = 1.0 - (1.0 - chance) ** len(draws)
            weights[item] = weight * chance / chances[item]
    ids = sorted(weights)
    shares = np.array([weights[item] for item in ids])
    return AnchorSet(tuple(ids), shares / shares.sum(), draws[0].method, np.array([chances[item] for item in ids]))


def share(n: int, eta: int, rung: int) -> int:
    """How many of ``n`` anchors a rung has, at least 1: n eta^rung."""
    return min(n, max(1, round(n * eta**rung)))


def steps_below(anchors: Sequence[int], fewest: int | None, eta: int) -> int:
    """How many rungs lie below the anchors: floor(log_eta(anchors / fewest)), 2 where ``fewest`` is not said.

    The smallest task decides; a step at which no task has fewer items than at the one above is left out.
    """
    if not anchors:
        return 0
    most = 2 if fewest is None else math.floor(math.log(max(min(anchors) / fewest, 1.0), eta) + 1e-12)
    steps = 0
    while steps < most and any(share(n, eta, -steps - 1) < share(n, eta, -steps) for n in anchors):
        steps += 1
    return steps


def _is_drawn(objective: Objective) -> bool:
    anchors = objective.calibration.anchors
    known = anchors.inclusion is not None and anchors.method in METHODS
    return known and len(anchors) < objective.calibration.n_items
