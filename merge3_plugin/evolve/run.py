"""A whole run, phase by phase: parents, calibration, search, confirmation, result.

Every phase asks the evaluator for its evaluations in a fixed order; the record answers those that it knows. There is no
other state: running the same command again is how a run resumes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from merge3_plugin.config import RunConfig
from merge3_plugin.domain import Calibration, FloatArray
from merge3_plugin.errors import ModelError, RunError
from merge3_plugin.evolve.calibration import answer_matrix, given_calibrations, keep, search_calibration, task_anchors
from merge3_plugin.evolve.confirm import Confirmed, Verdict, balance_of, confirmed, judge
from merge3_plugin.evolve.evaluate import Candidate, Evaluator
from merge3_plugin.evolve.objectives import Objective, Objectives
from merge3_plugin.evolve.optimizers import make_optimizer
from merge3_plugin.evolve.population import Population, split_items
from merge3_plugin.evolve.recipe import candidate_id
from merge3_plugin.evolve.search import Scored, Search, SearchResult
from merge3_plugin.evolve.space import SearchSpace
from merge3_plugin.evolve.store import FAILED, Evaluation, RunStore, last_line
from merge3_plugin.harness.benchmark import Benchmark
from merge3_plugin.harness.scoring import Scorer, Scores

if TYPE_CHECKING:
    from merge3_plugin.merging.merger import Merger

PARENTS, CALIBRATION, SEARCH, MEAN, CONFIRMATION = "parents", "calibration", "search", "mean", "confirmation"

FINISHED = "finished"
UNCONFIRMED = "stopped before the confirmation"
NOTHING_HELD_OUT = "finished without a confirmation: no task has scores by item"


class Interrupted(Exception):
    """A person asked the run to stop."""


@dataclass(frozen=True, eq=False)
class Setting:
    """What a run works with, built once by `evolve.setup`."""

    config: RunConfig
    folder: Path
    store: RunStore
    merger: Merger
    scorer: Scorer
    evaluator: Evaluator
    space: SearchSpace
    benchmarks: Mapping[str, Benchmark]
    parents: Mapping[str, str]  # label -> name in the config


class Watcher:
    """Hears how a run goes; this one says nothing, and never stops it."""

    def phase(self, name: str, total: int) -> None:
        """A phase of ``total`` evaluations begins."""

    def evaluated(self, label: str, evaluation: Evaluation) -> None:
        """An evaluation of the current phase is there, new or recorded."""

    def scored(self, entry: Scored, best: Scored | None) -> None:
        """A candidate of the search is there; ``best`` is the entry itself when it is the best so far."""

    def stop_reason(self) -> str | None:
        """Why the search should end before the next candidate."""
        return None

    def interrupted(self) -> bool:
        """Whether a person asked the run to stop."""
        return False


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a run found; ``confirmed`` is empty and ``verdict`` None unless ``state`` is FINISHED."""

    state: str
    result: SearchResult
    objectives: Objectives
    winner: Candidate
    confirmed: Sequence[Confirmed]
    verdict: Verdict | None


class Run:
    """The phases of one run over its setting."""

    def __init__(self, setting: Setting, watcher: Watcher, improved: Callable[[Candidate], None]) -> None:
        self._setting, self._watcher, self._improved = setting, watcher, improved
        self._config, self._store, self._evaluator = setting.config, setting.store, setting.evaluator
        self._tasks = {n: b for n, b in setting.benchmarks.items() if b.per_item}
        self._weights = {name: task.weight for name, task in self._config.objectives().items()}
        self._whole = {n: self._weights[n] for n, b in setting.benchmarks.items() if not b.per_item}
        self._parents = {label: Candidate(f"parent:{label}", parent=name) for label, name in setting.parents.items()}
        self._known = self._known_points()

    def execute(self) -> Outcome:
        """All phases in order. Raises Interrupted where a person stops it before there is a candidate."""
        given = given_calibrations(self._config, self._tasks, self._setting.scorer)
        populations = {name: self._split(name, given) for name in self._tasks}
        self._score_parents()
        objectives = self._calibrate(given, populations)
        result = self._search(objectives)
        if not result.scored:
            if self._watcher.interrupted():
                raise Interrupted
            raise RunError(
                f"search: expected time for a candidate, got none ({result.reason}); give it more, what is scored stays"
            )
        ranked = result.ranked()
        if not ranked:
            last = self._store.last_error(SEARCH)
            raise ModelError(f"search: expected a candidate that can be scored, got failures only, the last: {last}")
        if not self._tasks:
            return Outcome(NOTHING_HELD_OUT, result, objectives, ranked[0].candidate, (), None)
        try:
            everyone, verdict = self._confirm(result, objectives, populations)
        except Interrupted:
            return Outcome(UNCONFIRMED, result, objectives, ranked[0].candidate, (), None)
        chosen = next(c for c in self._finalists(result).values() if c.id == verdict.winner.candidate)
        return Outcome(FINISHED, result, objectives, chosen, everyone, verdict)

    # -- candidates --------------------------------------------------------------------------------------------------

    def _known_points(self) -> dict[str, tuple[FloatArray, Candidate]]:
        """The vectors of the parents that the space can express and of the uniform merge, by label."""
        by_name = {candidate.parent: candidate for candidate in self._parents.values()}
        points = {}
        for label, vector in self._setting.space.known_points().items():
            recipe = self._setting.space.decode(vector)
            parent = by_name.get(label.removeprefix("parent:")) if label.startswith("parent:") else None
            identity = parent.id if parent else self._identity(recipe)
            points[label] = (vector, Candidate(identity, recipe, parent.parent if parent else None))
        return points

    def _identity(self, recipe: Mapping[str, Any]) -> str:
        return candidate_id(recipe, self._config.genome.parents())

    def _candidate(self, vector: FloatArray) -> Candidate:
        recipe = self._setting.space.decode(vector)
        for _, known in self._known.values():
            if known.recipe == recipe:
                return known
        return Candidate(self._identity(recipe), recipe)

    def _rng(self, purpose: str) -> np.random.Generator:
        """A generator of its own for each purpose, so that one more draw in one does not shift another."""
        return np.random.default_rng([self._config.merge3.seed, *purpose.encode()])

    # -- phases ------------------------------------------------------------------------------------------------------

    def _split(self, name: str, given: Mapping[str, Calibration]) -> Population:
        population = split_items(
            self._tasks[name].item_ids,
            anchors=task_anchors(given, self._tasks, name),
            searchable=given[name].item_ids if name in given else None,
            fraction=self._config.merge3.held_out,
            seed=self._config.merge3.seed,
            limit=self._config.limit,
        )
        self._store.event(f"items {name}", {"search": population.search, "held_out": population.held_out})
        return population

    def _evaluate(self, label: str, *arguments: Any) -> Evaluation:
        if self._watcher.interrupted():
            raise Interrupted
        evaluation = self._evaluator.evaluate(*arguments)
        self._watcher.evaluated(label, evaluation)
        return evaluation

    def _score_parents(self) -> None:
        self._watcher.phase(PARENTS, len(self._parents))
        items = {name: benchmark.item_ids for name, benchmark in self._tasks.items()}
        for label, parent in self._parents.items():
            evaluation = self._evaluate(label, parent, PARENTS, items, list(self._whole))
            if evaluation.state == FAILED:
                # Unlike a candidate's, this failure may be mended: a full disk, a GPU in use.
                self._store.discard_failure(parent.id, PARENTS)
                raise ModelError(
                    f"{parent.parent}: expected a model that can be scored, got: {last_line(evaluation.error)}"
                )

    def _calibrate(self, given: Mapping[str, Calibration], populations: Mapping[str, Population]) -> Objectives:
        own = [name for name in self._tasks if name not in given]
        merges = self._random_merges({name: populations[name].search for name in own}) if own else []
        objectives = []
        for name, benchmark in self._tasks.items():
            items = populations[name].search
            known = self._answers(list(self._parents.values()), name, items)
            parents = answer_matrix(known, items, benchmark.balance_of(items))
            calibration = search_calibration(
                given.get(name),
                benchmark,
                self._setting.scorer.provenance(name),
                items,
                parents,
                self._answers(merges, name, items),
                self._config,
            )
            keep(calibration, self._setting.folder, name)
            self._store.event(f"anchors {name}", {"items": calibration.anchors.item_ids})
            objectives.append(
                Objective(
                    name, self._weights[name], populations[name], calibration, parents, self._config.merge3.estimator
                )
            )
        return Objectives(objectives, self._whole)

    def _random_merges(self, items: Mapping[str, Sequence[str]]) -> list[Candidate]:
        """Seeded random merges scored on all search items: with the parents, they calibrate the run."""
        rng = self._rng(CALIBRATION)
        drawn = [self._candidate(self._setting.space.random(rng)) for _ in range(self._config.merge3.auto_merges)]
        self._watcher.phase(CALIBRATION, len(drawn))
        states = [self._evaluate(f"random merge {i}", c, CALIBRATION, items).state for i, c in enumerate(drawn, 1)]
        return [c for c, state in zip(drawn, states, strict=True) if state != FAILED]

    def _answers(self, candidates: Sequence[Candidate], task: str, items: Sequence[str]) -> dict[str, Scores]:
        return {c.id: self._evaluator.answers(c, task, items) for c in candidates}

    def _search(self, objectives: Objectives) -> SearchResult:
        settings, space = self._config.merge3.search, self._setting.space
        rng = self._rng(SEARCH)
        x0 = space.random(rng) if self._config.random_init else space.x0
        optimizer = make_optimizer(settings, space, x0, rng)
        self._watcher.phase(SEARCH, settings.max_fevals)

        def evaluate(vector: FloatArray) -> Scored:
            candidate = self._candidate(vector)
            found = self._evaluator.evaluate(
                candidate, SEARCH, objectives.anchors(), list(objectives.whole), objectives.assess
            )
            error = None if found.fitness is None else objectives.standard_error(found.estimates)
            return Scored(candidate, vector, found.fitness, error, found.estimates)

        def progress(entry: Scored, best: Scored | None) -> None:
            if best is not None:
                self._improved(best.candidate)
            self._watcher.scored(entry, best)

        search = Search(
            self._store,
            optimizer,
            evaluate,
            max_fevals=settings.max_fevals,
            interrupted=lambda: "interrupted" if self._watcher.interrupted() else self._watcher.stop_reason(),
            progress=progress,
        )
        return search.run([vector for vector, _ in self._known.values()])

    def _finalists(self, result: SearchResult) -> dict[str, Candidate]:
        """The best merges by estimate and the search's mean, by label; known points are scored anyway."""
        known = {candidate.id for _, candidate in self._known.values()}
        best = [s.candidate for s in result.ranked() if s.candidate.id not in known][: self._config.merge3.confirm]
        finalists = {f"best {rank}": candidate for rank, candidate in enumerate(best, 1)}
        mean = None if result.mean is None else self._candidate(result.mean)
        if mean is not None and mean.id not in known | {c.id for c in best}:
            finalists["mean"] = mean
        # Where the search found no merge of its own, the best known point stands for it.
        return finalists or {"best 1": result.ranked()[0].candidate}

    def _confirm(
        self, result: SearchResult, objectives: Objectives, populations: Mapping[str, Population]
    ) -> tuple[list[Confirmed], Verdict]:
        items = {name: population.held_out for name, population in populations.items()}
        uniform = self._known.get("uniform")
        finalists = self._finalists(result)
        field = {**self._parents, **({"uniform": uniform[1]} if uniform else {}), **finalists}
        self._watcher.phase(CONFIRMATION, len(field) + ("mean" in finalists))
        if "mean" in finalists:
            # No candidate of the search: it gets an estimate, to stand beside its confirmed figure.
            whole = list(objectives.whole)
            self._evaluate("mean", finalists["mean"], MEAN, objectives.anchors(), whole, objectives.assess)
        balance = balance_of(self._tasks, items)
        seen: dict[str, Confirmed] = {}
        for label, candidate in field.items():
            if self._evaluate(label, candidate, CONFIRMATION, items).state == FAILED:
                continue
            answers = {task: self._evaluator.answers(candidate, task, ids).right for task, ids in items.items()}
            seen[label] = confirmed(label, candidate.id, answers, self._weights, balance)
        judged = [seen[label] for label in finalists if label in seen]
        if not judged:
            last = self._store.last_error(CONFIRMATION)
            raise ModelError(
                f"confirmation: expected a finalist that can be scored, got failures only, the last: {last}"
            )
        parents = [seen[label] for label in self._parents]
        verdict = judge(judged, parents, seen.get("uniform"), self._weights, balance)
        return list(seen.values()), verdict
