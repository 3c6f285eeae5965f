"""A world in which merging and scoring cost nothing: what a merge answers follows from its weights and a seed.

Each model is a point in a small parameter space, a merge the point that its weights make of them, layer by layer. How
near that point is to the best point of a skill gives the ability in it, and items answer to abilities by a logistic
law. Half of an item's luck is the item's own; the other half changes with the weights, smoothly, so that merges that
are alike answer alike, as real ones do.
Everything of a run but the models and the scorer is real: space, calibration, estimates, search, confirmation, record.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, NamedTuple

import numpy as np
from scipy.special import logit, ndtr

from merge3_plugin.config import RunConfig, parse_config
from merge3_plugin.domain import FloatArray
from merge3_plugin.evolve.evaluate import Candidate, Evaluator
from merge3_plugin.evolve.labels import labels
from merge3_plugin.evolve.setting import Setting
from merge3_plugin.evolve.spaces import make_space
from merge3_plugin.evolve.store import RunStore
from merge3_plugin.evolve.workers import Worker, Workers
from merge3_plugin.harness.scoring import Price, Scores
from merge3_plugin.irt import sigmoid

# Abilities at a distance of 0 and of 1 from a skill's best point.
BEST, FAR = 2.0, -1.0
OWN_LUCK = 0.5  # share of an answer's luck that changes with the weights
REACH = 0.5  # root mean square distance of weights over which it does
FEATURES = 64  # random Fourier features (Rahimi and Recht 2007) that make it
TOKENS = 40  # of an item


class Answers(NamedTuple):
    """0 or 1 on every item, and the probability given to the right option where there are options; (tasks, items)."""

    right: FloatArray
    soft: FloatArray | None


@dataclass(eq=False)
class ResponseWorld:
    """Models and items: ``deltas`` (models, layers, m) from the base, ``targets`` and ``metric`` (skills, layers, m).

    Each skill is a task of ``n_items`` items; ``mixed`` makes one task of as many items that ask for one skill each, in
    turn. Every task has ``n_fresh`` items more that no run ever sees: with those a finished run is judged.
    """

    deltas: FloatArray
    targets: FloatArray
    metric: FloatArray
    seed: int
    n_items: int
    mixed: bool = False
    soft: bool = True
    n_fresh: int = 20_000
    models: tuple[str, ...] = field(init=False)

    merge3: ClassVar[Mapping[str, Any]] = {"held_out": 0.1}

    def __post_init__(self) -> None:
        self.models = tuple(f"m{k}" for k in range(len(self.deltas)))
        rng = np.random.default_rng([self.seed, 1])
        shape = len(self.tasks), self.n_items + self.n_fresh
        items = np.arange(shape[1]) % len(self.targets)
        self._skill = items[None] if self.mixed else np.broadcast_to(np.arange(shape[0])[:, None], shape)
        self._difficulty = rng.normal(size=shape)
        self._discrimination = np.exp(rng.normal(0.2, 0.3, size=shape))
        self._luck = rng.normal(size=shape)
        self._own = rng.normal(size=(*shape, 2 * FEATURES), scale=FEATURES**-0.5).astype(np.float32)
        self._frequencies = rng.normal(size=(FEATURES, self.deltas.shape[0] * self.n_layers))
        self._frequencies /= REACH * np.sqrt(self.deltas.shape[0] * self.n_layers)

    @property
    def tasks(self) -> tuple[str, ...]:
        return ("mixed",) if self.mixed else tuple(f"skill{d}" for d in range(len(self.targets)))

    @property
    def n_layers(self) -> int:
        return self.deltas.shape[1]

    def weights(self, recipe: Mapping[str, Any]) -> FloatArray:
        """The weight of each model in each layer, shape (models, layers), of a linear or task-arithmetic recipe."""
        found = np.zeros(self.deltas.shape[:2])
        slices = recipe.get("slices") or [
            {"sources": [{**model, "layer_range": [0, self.n_layers]} for model in recipe["models"]]}
        ]
        for part in slices:
            for source in part["sources"]:
                if source["model"] in self.models:
                    first, last = source["layer_range"]
                    values = np.atleast_1d(source.get("parameters", {}).get("weight", 0.0))
                    depth = np.linspace(0, len(values) - 1, last - first)  # a list is a gradient over the slice
                    found[self.models.index(source["model"]), first:last] = np.interp(depth, range(len(values)), values)
        if recipe["merge_method"] == "linear":
            found /= np.where(np.abs(found.sum(axis=0)) > 1e-8, found.sum(axis=0), 1.0)
        return found

    def chances(self, weights: FloatArray) -> FloatArray:
        """Probability of a right answer, shape (tasks, n_items + n_fresh)."""
        point = np.einsum("kl,klm->lm", weights, self.deltas)
        distance = (self.metric * (point - self.targets) ** 2).sum(axis=-1).mean(axis=-1)
        ability = BEST + (FAR - BEST) * np.minimum(distance, 2.0)
        return sigmoid(self._discrimination * (ability[self._skill] - self._difficulty))

    def answers(self, weights: FloatArray) -> Answers:
        """What a merge of these weights answers to every item."""
        phases = self._frequencies @ weights.ravel()
        own = self._own @ np.concatenate([np.cos(phases), np.sin(phases)])
        luck = np.sqrt(1 - OWN_LUCK) * self._luck + np.sqrt(OWN_LUCK) * own
        chances = self.chances(weights)
        # Right where the chance exceeds the luck; the soft score says by how much.
        soft = sigmoid(logit(chances) - logit(ndtr(luck)))
        return Answers((soft > 0.5).astype(float), soft if self.soft else None)

    def of_parent(self, name: str) -> Answers:
        """The answers of one model, or of the base."""
        weights = np.zeros(self.deltas.shape[:2])
        if name in self.models:
            weights[self.models.index(name)] = 1.0
        return self.answers(weights)

    def of_recipe(self, recipe: Mapping[str, Any]) -> Answers:
        return self.answers(self.weights(recipe))

    @contextmanager
    def opened(self, config: Mapping[str, Any], folder: Path) -> Iterator[Setting]:
        run_config: RunConfig = parse_config(config)
        store = RunStore(folder)
        store.pin("config", run_config.model_dump(mode="json"))
        store.pin("versions", {})
        tasks = {name: _benchmark(self, name) for name in run_config.objectives()}
        scorer: Any = WorldScorer(self, list(tasks))
        try:
            yield Setting(
                config=run_config,
                folder=folder,
                store=store,
                merger=scorer,
                scorer=scorer,
                evaluator=Evaluator(store, Workers([Worker(scorer, scorer)]), scorer, lambda evaluation: None),
                space=make_space(run_config, self.n_layers, dtype="float32"),
                benchmarks=tasks,
                parents={label: name for name, label in labels(run_config.genome.parents()).items()},
            )
        finally:
            store.close()

    def accuracy(self, setting: Setting, candidate: Candidate) -> FloatArray:
        """The accuracy of a candidate by task, on the items that no run sees."""
        answers = self.of_parent(candidate.parent) if candidate.parent else self.of_recipe(candidate.recipe or {})
        return answers.right[:, self.n_items :].mean(axis=1)


def specialists(
    seed: int, *, n_models: int = 3, n_layers: int = 4, n_items: int = 1111, mixed: bool = False, soft: bool = True
) -> ResponseWorld:
    """A base and one specialist a skill; the best merge is near all of them, at weights that differ by layer."""
    rng = np.random.default_rng([seed, 2])
    unit = np.broadcast_to(np.eye(n_models)[:, None, :], (n_models, n_layers, n_models))
    deltas = unit + rng.normal(0, 0.15, size=unit.shape)
    # Some layers want more of a specialist than it is itself, some next to nothing.
    targets = unit * rng.uniform(0.0, 1.5, size=(1, n_layers, n_models)) + rng.normal(0, 0.1, size=unit.shape)
    metric = np.where(unit > 0, 1.0, 0.45) * rng.uniform(0.5, 1.5, size=(n_models, n_layers, 1))
    return ResponseWorld(deltas, targets, metric, seed, n_items, mixed, soft)


def checkpoints(
    seed: int, *, n_models: int = 16, n_skills: int = 3, n_items: int = 1111, mixed: bool = False, soft: bool = True
) -> ResponseWorld:
    """Checkpoints of several training runs: each is on its way to one skill's best point, and off by its own noise."""
    rng = np.random.default_rng([seed, 3])
    size = 12
    targets = rng.normal(0, 1 / np.sqrt(size), size=(n_skills, 1, size))
    skill = np.arange(n_models) % n_skills
    way = rng.uniform(0.3, 1.1, size=(n_models, 1, 1))
    deltas = way * targets[skill] + rng.normal(0, 0.9 / np.sqrt(size), size=(n_models, 1, size))
    return ResponseWorld(deltas, targets, np.ones_like(targets), seed, n_items, mixed, soft)


class WorldScorer:
    """Stands in for the live model and its scorer; the only mock of these runs."""

    flags: tuple[str, ...] = ()
    dtype_name = "float32"

    def __init__(self, world: ResponseWorld, tasks: Sequence[str]) -> None:
        self._world, self._tasks = world, tasks
        self._answers: Answers | None = None

    def merge(self, recipe: Mapping[str, Any]) -> None:
        self._answers = self._world.of_recipe(recipe)

    def load_parent(self, name: str) -> None:
        self._answers = self._world.of_parent(name)

    def evaluate(
        self, items: Mapping[str, Sequence[str]], whole: Iterable[str]
    ) -> tuple[dict[str, Scores], dict[str, float]]:
        if self._answers is None:
            raise RuntimeError("nothing was merged yet")
        return {task: self._scores(self._answers, task, ids) for task, ids in items.items()}, {}

    def _scores(self, answers: Answers, task: str, ids: Sequence[str]) -> Scores:
        row, columns = self._world.tasks.index(task), [int(item[1:]) for item in ids]
        graded = [] if answers.soft is None else answers.soft[row, columns].tolist()
        return Scores(
            dict(zip(ids, answers.right[row, columns].tolist(), strict=True)), dict(zip(ids, graded, strict=False))
        )

    def provenance(self, task: str) -> dict[str, Any]:
        return {"task": task, "dataset": "simulated"}

    def price(self, items: Mapping[str, Iterable[str]], whole: Iterable[str] = ()) -> Price:
        n_items = sum(len(list(ids)) for ids in items.values())
        return Price(n_items, TOKENS * n_items)


def _benchmark(world: ResponseWorld, name: str) -> Any:
    ids = tuple(f"q{number}" for number in range(world.n_items))
    return SimpleNamespace(
        name=name,
        task=name,
        items=SimpleNamespace(metric="acc", filter="none", leaves=[name], language=None),
        provenance={"task": name},
        item_ids=ids,
        item_hashes=tuple(hashlib.sha256(i.encode()).hexdigest() for i in ids),
        item_groups=None,
        per_item=True,
        balance_of=lambda item_ids: None,
    )
