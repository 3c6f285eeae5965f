"""A search in milliseconds: all of it is real but the space, and the model, which is a formula."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from merge3_plugin.config import parse_config
from merge3_plugin.domain import ResponseMatrix
from merge3_plugin.evolve import searching
from merge3_plugin.evolve.evaluate import Candidate, Evaluator
from merge3_plugin.evolve.objectives import Objective, Objectives
from merge3_plugin.evolve.optimizers import Trial
from merge3_plugin.evolve.population import Population
from merge3_plugin.evolve.search import SearchResult
from merge3_plugin.evolve.setting import Watcher
from merge3_plugin.evolve.spaces.variables import Variable
from merge3_plugin.evolve.store import RunStore
from merge3_plugin.evolve.workers import Worker, Workers
from merge3_plugin.harness.scoring import Price, Scores
from merge3_plugin.irt import sigmoid
from tests.estimate.worlds import quick_calibration

N_ITEMS, N_ANCHORS, TOKENS = 120, 18, 7
ITEMS = tuple(f"q{n:03}" for n in range(N_ITEMS))
KNOWN = (np.array([0.1, 0.1]),)


class Model:
    """Right where ability exceeds an item's difficulty and luck; ``slope`` 0 makes all vectors equally able.

    Vectors whose first coordinate exceeds ``breaks`` cannot be merged.
    """

    def __init__(self, slope: float = 2.0, breaks: float = 2.0) -> None:
        self._slope, self._breaks = slope, breaks
        self._difficulty = np.random.default_rng(1).normal(size=N_ITEMS)
        self._point = np.zeros(2)

    def merge(self, recipe: dict[str, list[float]]) -> None:
        self._point = np.array(recipe["x"])
        if self._point[0] > self._breaks:
            raise ValueError("these weights overflow")

    def answers(self, point: np.ndarray) -> np.ndarray:
        ability = 1.0 - self._slope * ((point - 0.7) ** 2).sum()
        luck = np.random.default_rng([2, *np.round(1e6 * np.abs(point)).astype(int)]).logistic(size=N_ITEMS)
        return (ability - self._difficulty + luck > 0).astype(float)

    def accuracy(self, point: np.ndarray) -> float:
        """Expected, over luck."""
        return float(sigmoid(1.0 - self._slope * ((point - 0.7) ** 2).sum() - self._difficulty).mean())

    def evaluate(self, items, whole):
        right = dict(zip(ITEMS, self.answers(self._point).tolist(), strict=True))
        return {task: Scores({item: right[item] for item in ids}, {}) for task, ids in items.items()}, {}

    def price(self, items, whole) -> Price:
        asked = sum(map(len, items.values()))
        return Price(asked, TOKENS * asked)


class Generations:
    """A strategy of fixed draws in batches of four; it remembers all that it was told."""

    def __init__(self, rng: np.random.Generator, batches: bool) -> None:
        self._rng, self._batches, self._asked = rng, batches, 0
        self.told: list = []

    def ask(self, n: int) -> list[Trial]:
        vector, number = self._rng.random(2).round(3), self._asked
        self._asked += 1
        # What was told decides too, as in any strategy.
        shift = 0.001 * sum(1 for result in self.told if result.values and result.values[0] > 0.5)
        return [Trial(number, vector + shift, batch=number // 4 if self._batches else 0)]

    def tell(self, results) -> bool:
        self.told += results
        return len(self.told) % 5 == 0

    def mean(self):
        return None

    def stop(self) -> dict:
        return {}


class Shuffled:
    """Several in flight; which is done first follows from which are in flight."""

    def __init__(self, workers: int = 3) -> None:
        self.workers, self._flight = workers, {}
        self.most = 0

    def free(self) -> bool:
        return len(self._flight) < self.workers

    def submit(self, number, work) -> None:
        self._flight[number] = work
        self.most = max(self.most, len(self._flight))

    def result(self):
        numbers = sorted(self._flight)
        number = numbers[hashlib.sha256(repr(numbers).encode()).digest()[0] % len(numbers)]
        return number, self._flight.pop(number)()


@cache
def objectives() -> Objectives:
    """One task, calibrated on models of the same formula."""
    model, rng = Model(), np.random.default_rng(3)
    points = rng.random((14, 2))
    responses = ResponseMatrix([model.answers(p) for p in points], [f"m{k}" for k in range(14)], ITEMS)
    parents = responses.models(["m0", "m1"])
    calibration = quick_calibration(responses, N_ANCHORS, method="stratified", parents=parents, dimensions=(1,))
    objective = Objective("t", 1.0, Population(ITEMS, ()), calibration, parents, "difference")
    return Objectives([objective], {}, {"t": "t"})


class Toy:
    """One search in ``folder``; ``merge3`` are blocks of the config."""

    def __init__(
        self, folder: Path, model: Model | None = None, store: Callable[[Path], RunStore] = RunStore, **merge3
    ) -> None:
        self.model = model or Model()
        config = {"genome": {"models": ["a", "b"], "merge_method": "linear"}, "tasks": ["t"]}
        self.config = parse_config({**config, "merge3": {"anchors": N_ANCHORS, **merge3}})
        folder.mkdir(exist_ok=True)
        self.folder, self.store = folder, store(folder)
        self.workers = Workers([Worker(self.model, self.model)])
        self.improvements: list = []
        self.watcher = Watcher()

    def search(self, executor=None, strategy=None) -> SearchResult:
        """Run, or go on. ``strategy``: instead of the config's, as `make_strategy` makes it."""
        stage = self._stage()
        assessor = searching.make_assessor(stage, objectives())
        made = searching.make_strategy
        searching.make_strategy = strategy or made
        try:
            return searching.search(stage, assessor, self.improvements.append, executor)
        finally:
            searching.make_strategy = made
            self.spent = assessor.spent

    def record(self) -> str:
        return "\n".join(self.store.canonical())

    def _stage(self) -> SimpleNamespace:
        variables = [Variable("x", 0.0, 1.0, 0.5), Variable("y", 0.0, 1.0, 0.5)]
        known = {f"known {n}": (vector, self._candidate(vector)) for n, vector in enumerate(KNOWN)}
        return SimpleNamespace(
            config=self.config,
            setting=SimpleNamespace(
                store=self.store,
                evaluator=Evaluator(self.store, self.workers, self.model, lambda evaluation: None),
                space=SimpleNamespace(variables=variables),
                folder=self.folder,
                warm=(),
            ),
            watcher=self.watcher,
            candidates=SimpleNamespace(uniform=None, known=known, at=self._candidate, parents={}),
            rng=lambda purpose: np.random.default_rng([self.config.merge3.seed, *purpose.encode()]),
        )

    def _candidate(self, vector: np.ndarray) -> Candidate:
        point = [float(v) for v in vector]
        return Candidate(hashlib.sha256(repr(point).encode()).hexdigest()[:12], {"x": point})


def in_batches(config, variables, rng, *, budget, known) -> Generations:
    return Generations(rng, batches=True)


def in_one_batch(config, variables, rng, *, budget, known) -> Generations:
    return Generations(rng, batches=False)
