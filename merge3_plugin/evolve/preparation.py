"""Before the search: items are split, parents scored on all of them, and each task calibrated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from merge3_plugin.domain import Calibration, FloatArray
from merge3_plugin.errors import ModelError
from merge3_plugin.evolve.calibration import (
    answer_matrix,
    given_calibrations,
    keep,
    search_calibration,
    task_population,
)
from merge3_plugin.evolve.constraints import Floor, floors
from merge3_plugin.evolve.evaluate import Candidate
from merge3_plugin.evolve.objectives import Objective, Objectives
from merge3_plugin.evolve.population import Population
from merge3_plugin.evolve.spaces.variables import draw
from merge3_plugin.evolve.stage import Stage
from merge3_plugin.evolve.store import FAILED, last_line
from merge3_plugin.evolve.tie_breaker import soft_scores

PARENTS, CALIBRATION = "parents", "calibration"


class Preparation:
    """Makes the objectives of a run."""

    def __init__(self, stage: Stage) -> None:
        self._stage, self._setting, self._config = stage, stage.setting, stage.config
        self._tasks, self._parents = stage.tasks, stage.candidates.parents

    def objectives(self) -> Objectives:
        """Each task with its population and its calibration.

        Raises ModelError for a parent that cannot be scored, DataError for a task that cannot be calibrated,
        Interrupted where a person stops it.
        """
        given = given_calibrations(self._config, self._tasks, self._setting.scorer)
        populations = {name: self._split(name, given) for name in self._tasks}
        self._score_parents()
        return self._calibrate(given, populations)

    def _split(self, name: str, given: Mapping[str, Calibration]) -> Population:
        population = task_population(self._config, self._tasks, name, given)
        self._setting.store.event(f"items {name}", {"search": population.search, "held_out": population.held_out})
        return population

    def _score_parents(self) -> None:
        self._stage.watcher.phase(PARENTS, len(self._parents))
        items = {name: benchmark.item_ids for name, benchmark in self._tasks.items()}
        for label, evaluation in self._stage.evaluate_each(self._parents, PARENTS, items, list(self._stage.whole)):
            parent = self._parents[label]
            if evaluation.state == FAILED:
                # Unlike a candidate's, this failure may be mended: a full disk, a GPU in use.
                self._setting.store.discard_failure(parent.id, PARENTS)
                raise ModelError(
                    f"{parent.parent}: expected a model that can be scored, got: {last_line(evaluation.error)}"
                )

    def _calibrate(self, given: Mapping[str, Calibration], populations: Mapping[str, Population]) -> Objectives:
        own = [name for name in self._tasks if name not in given]
        merges = self._random_merges({name: populations[name].search for name in own}) if own else []
        objectives = []
        for name, benchmark in self._tasks.items():
            items = populations[name].search
            known = self._stage.answers(self._parents.values(), name, items)
            parents = answer_matrix(known, items, benchmark.balance_of(items))
            calibration = search_calibration(
                given.get(name),
                benchmark,
                self._setting.scorer.provenance(name),
                items,
                parents,
                self._stage.answers(merges, name, items),
                self._config,
                self._embeddings(name, items) if name in own else None,
            )
            keep(calibration, self._setting.folder, name)
            self._setting.store.event(f"anchors {name}", {"items": calibration.anchors.item_ids})
            soft = soft_scores(calibration.responses, len(calibration.anchors), self._stage.rng(f"soft {name}"))
            self._setting.store.event(f"soft scores {name}", {**asdict(soft), "break ties": soft.help})
            objectives.append(
                Objective(
                    name,
                    self._stage.weights[name],
                    populations[name],
                    calibration,
                    parents,
                    self._config.merge3.estimator,
                    soft.help,
                )
            )
        return Objectives(objectives, self._stage.whole, self._stage.same_items, self._floors(objectives))

    def _floors(self, objectives: Sequence[Objective]) -> list[Floor]:
        by_task = {
            objective.name: dict(zip(objective.parents.model_ids, objective.parents.accuracy(), strict=True))
            for objective in objectives
        }
        return floors(
            self._config, self._setting.parents, lambda label, task: float(by_task[task][self._parents[label].id])
        )

    def _embeddings(self, name: str, items: Sequence[str]) -> FloatArray | None:
        """The items as the first parent represents them, where anchors are chosen by that."""
        if self._config.merge3.anchor_method != "representation-clusters":
            return None
        from merge3_plugin.harness.embeddings import embed_items

        self._setting.merger.load_parent(self._config.genome.parents()[0])
        place = {item: row for row, item in enumerate(self._tasks[name].item_ids)}
        return embed_items(self._setting.scorer, name)[[place[item] for item in items]]

    def _random_merges(self, items: Mapping[str, Sequence[str]]) -> list[Candidate]:
        """Seeded random merges scored on all search items: with the parents, they calibrate the run."""
        rng = self._stage.rng(CALIBRATION)
        drawn = [
            self._stage.candidates.at(draw(self._setting.space.variables, rng))
            for _ in range(self._config.merge3.auto_merges)
        ]
        self._stage.watcher.phase(CALIBRATION, len(drawn))
        merges = {f"random merge {i}": candidate for i, candidate in enumerate(drawn, 1)}
        found = self._stage.evaluate_each(merges, CALIBRATION, items)
        return [merges[label] for label, evaluation in found if evaluation.state != FAILED]
