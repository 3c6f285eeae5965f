"""One run of a search and what is known of it: what it spent, what it found, and how good that truly is."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from merge3_plugin.domain import FloatArray
from merge3_plugin.evolve.assessor import SEARCH
from merge3_plugin.evolve.evaluate import Candidate
from merge3_plugin.evolve.front import front
from merge3_plugin.evolve.run import Run
from merge3_plugin.evolve.search import Improvement
from merge3_plugin.evolve.setting import Setting, Watcher
from merge3_plugin.evolve.store import RunStore

# Item evaluations at which a curve says how good the best so far is.
MARKS = tuple(int(step * 10**power) for power in range(2, 6) for step in (1, 1.5, 2, 3, 5, 7))


class World(Protocol):
    """Models and tasks to search on, and items that no search reads; ``merge3`` is what its configs have there."""

    @property
    def models(self) -> Sequence[str]: ...

    @property
    def tasks(self) -> Sequence[str]: ...

    @property
    def merge3(self) -> Mapping[str, Any]: ...

    def opened(self, config: Mapping[str, Any], folder: Path) -> AbstractContextManager[Setting]:
        """The setting of a run of this config."""
        ...

    def accuracy(self, setting: Setting, candidate: Candidate) -> FloatArray:
        """The candidate's accuracy by task on items that neither search nor confirmation reads."""
        ...


@dataclass(frozen=True)
class Plan:
    """A kind of run: its name in a table, the world of a seed, the ``merge3`` block, the genome, the tasks' weights.

    ``front``: whether the members of the front are judged too.
    """

    name: str
    world: Callable[[int], World]
    merge3: Mapping[str, Any]
    genome: Mapping[str, Any] = field(default_factory=dict)
    weights: Sequence[float] | None = None
    front: bool = False


@dataclass(frozen=True)
class Measured:
    """One run: ``accuracy`` is its winner's mean over the tasks; ``curve`` pairs item evaluations of the search with
    the accuracy of the best so far.

    ``best`` is the accuracy of what the search itself thought best, before any confirmation; ``rivals`` those of the
    baselines and of the parent that is truly the best, ``points`` those of the front's members by task.
    """

    seed: int
    accuracy: float
    best: float
    search: int
    all: int
    candidates: int
    curve: list[tuple[int, float]]
    rivals: dict[str, float] = field(default_factory=dict)
    points: list[list[float]] = field(default_factory=list)

    def at(self, mark: int) -> float:
        """The accuracy of the best so far when so many items were scored; NaN where there was none yet."""
        return next((accuracy for items, accuracy in reversed(self.curve) if items <= mark), np.nan)


class Bests(Watcher):
    """Keeps each new best of a search with what had been spent when it became that."""

    def __init__(self, store: RunStore) -> None:
        self._store = store
        self.found: list[tuple[int, Candidate]] = []

    def improved(self, improvement: Improvement) -> None:
        self.found.append((_items(self._store.spent()[SEARCH]), improvement.best.candidate))

    def at_marks(self, end: int) -> list[tuple[int, Candidate]]:
        """The best at each of `MARKS` before the search's ``end``, and at that."""
        found = []
        for mark in (*(mark for mark in MARKS if mark < end), end):
            before = [candidate for items, candidate in self.found if items <= mark]
            found += [(mark, candidate) for candidate in before[-1:]]
        return found


def measure(plan: Plan, seed: int) -> Measured:
    """One run in the world of this seed."""
    world = plan.world(seed)
    config = {
        "genome": {"models": list(world.models), **plan.genome},
        "tasks": [
            {"name": name, "weight": weight}
            for name, weight in zip(world.tasks, plan.weights or [1.0] * len(world.tasks), strict=True)
        ],
        "merge3": {"seed": seed, **world.merge3, **plan.merge3},
    }
    with tempfile.TemporaryDirectory() as folder, world.opened(config, Path(folder)) as setting:
        bests = Bests(setting.store)
        found = Run(setting, bests, lambda best: None).execute()
        spent = {purpose: _items(row) for purpose, row in setting.store.spent().items()}

        def accuracy(candidate: Candidate) -> float:
            return float(np.average(world.accuracy(setting, candidate), weights=plan.weights))

        parents = [Candidate(f"parent:{label}", parent=name) for label, name in setting.parents.items()]
        several = front(found.result.scored) if plan.front else []
        return Measured(
            seed,
            accuracy(found.winner),
            accuracy(bests.found[-1][1]),
            spent[SEARCH],
            sum(spent.values()),
            len({entry.candidate.id for entry in found.result.scored}),
            [(mark, accuracy(candidate)) for mark, candidate in bests.at_marks(spent[SEARCH])],
            {
                "best parent, truly": max(map(accuracy, parents)),
                **{each.baseline.name: accuracy(each.candidate) for each in found.baselines if each.candidate},
            },
            [world.accuracy(setting, entry.candidate).tolist() for entry in several],
        )


def _items(spent: Mapping[str, float]) -> int:
    """Item evaluations, those included that an earlier run has paid."""
    return int(spent["items"] + spent["reused"])
