"""A whole run, phase by phase: parents, calibration, search, confirmation, result.

Every phase asks the evaluator for its evaluations in a fixed order; the record answers those that it knows. There is no
other state: running the same command again is how a run resumes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from merge3_plugin.domain import Calibration, FloatArray
from merge3_plugin.errors import ModelError, RunError
from merge3_plugin.evolve.assessor import SEARCH, Assessor
from merge3_plugin.evolve.calibration import answer_matrix, given_calibrations, keep, search_calibration, task_anchors
from merge3_plugin.evolve.candidates import UNIFORM, Candidates
from merge3_plugin.evolve.confirm import Confirmed, Verdict, balance_of, confirmed, judge
from merge3_plugin.evolve.evaluate import Candidate
from merge3_plugin.evolve.finalists import contenders
from merge3_plugin.evolve.objectives import Objective, Objectives
from merge3_plugin.evolve.optimizers import Settings, make_optimizer
from merge3_plugin.evolve.population import Population, split_items
from merge3_plugin.evolve.search import Improvement, Scored, Search, SearchResult
from merge3_plugin.evolve.setting import Interrupted, Setting, Watcher
from merge3_plugin.evolve.spaces.variables import draw, start
from merge3_plugin.evolve.store import FAILED, Evaluation, last_line
from merge3_plugin.evolve.tie_breaker import soft_scores
from merge3_plugin.harness.scoring import Scores

PARENTS, CALIBRATION, MEAN, CONFIRMATION = "parents", "calibration", "mean", "confirmation"

FINISHED = "finished"
UNCONFIRMED = "stopped before the confirmation"
NOTHING_HELD_OUT = "finished without a confirmation: no task has scores by item"


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a run found; ``confirmed`` is empty and ``verdict`` None unless ``state`` is FINISHED.

    ``objectives`` are those of the search's end, ``improvements`` its bests in turn, ``contenders`` those of its own
    ``merges`` that cannot be told from the best of them (see `contenders`), ``mean`` its final centre where that is a
    finalist.
    """

    state: str
    result: SearchResult
    objectives: Objectives
    improvements: Sequence[Improvement]
    contenders: Sequence[Scored]
    merges: int
    winner: Candidate
    mean: Scored | None = None
    confirmed: Sequence[Confirmed] = ()
    verdict: Verdict | None = None


class Run:
    """The phases of one run over its setting."""

    def __init__(self, setting: Setting, watcher: Watcher, improved: Callable[[Candidate], None]) -> None:
        self._setting, self._watcher, self._improved = setting, watcher, improved
        self._config, self._store, self._evaluator = setting.config, setting.store, setting.evaluator
        self._tasks = {n: b for n, b in setting.benchmarks.items() if b.per_item}
        self._weights = {name: task.weight for name, task in self._config.objectives().items()}
        self._same_items = {name: benchmark.task for name, benchmark in self._tasks.items()}
        self._whole = {n: self._weights[n] for n, b in setting.benchmarks.items() if not b.per_item}
        self._candidates = Candidates(setting.space, self._config.genome.parents(), setting.parents)
        self._parents = self._candidates.parents
        self._improvements: list[Improvement] = []

    def execute(self) -> Outcome:
        """All phases in order. Raises Interrupted where a person stops it before there is a candidate."""
        given = given_calibrations(self._config, self._tasks, self._setting.scorer)
        populations = {name: self._split(name, given) for name in self._tasks}
        self._score_parents()
        assessor = self._assessor(self._calibrate(given, populations))
        result = self._search(assessor)
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
        # Known points are scored anyway. Where the search found no merge of its own, the best of them stands for it.
        known = self._candidates.known_ids
        merges = [s for s in ranked if s.candidate.id not in known] or ranked[:1]
        so_far = Outcome(
            UNCONFIRMED,
            result,
            assessor.objectives,
            self._improvements,
            contenders(merges, assessor.objectives),
            len(merges),
            ranked[0].candidate,
        )
        if not self._tasks:
            return replace(so_far, state=NOTHING_HELD_OUT)
        try:
            return self._confirm(so_far, assessor, populations)
        except Interrupted:
            return so_far

    def _rng(self, purpose: str) -> np.random.Generator:
        """A generator of its own for each purpose, so that one more draw in one does not shift another."""
        return np.random.default_rng([self._config.merge3.seed, *purpose.encode()])

    def _split(self, name: str, given: Mapping[str, Calibration]) -> Population:
        population = split_items(
            self._tasks[name].item_ids,
            anchors=task_anchors(given, self._tasks, name),
            searchable=given[name].item_ids if name in given else None,
            groups=self._tasks[name].item_groups,
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
                self._embeddings(name, items) if name in own else None,
            )
            keep(calibration, self._setting.folder, name)
            self._store.event(f"anchors {name}", {"items": calibration.anchors.item_ids})
            soft = soft_scores(calibration.responses, len(calibration.anchors), self._rng(f"soft {name}"))
            self._store.event(f"soft scores {name}", {**asdict(soft), "break ties": soft.help})
            objectives.append(
                Objective(
                    name,
                    self._weights[name],
                    populations[name],
                    calibration,
                    parents,
                    self._config.merge3.estimator,
                    soft.help,
                )
            )
        return Objectives(objectives, self._whole, self._same_items)

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
        rng = self._rng(CALIBRATION)
        drawn = [
            self._candidates.at(draw(self._setting.space.variables, rng))
            for _ in range(self._config.merge3.auto_merges)
        ]
        self._watcher.phase(CALIBRATION, len(drawn))
        states = [self._evaluate(f"random merge {i}", c, CALIBRATION, items).state for i, c in enumerate(drawn, 1)]
        return [c for c, state in zip(drawn, states, strict=True) if state != FAILED]

    def _answers(self, candidates: Sequence[Candidate], task: str, items: Sequence[str]) -> dict[str, Scores]:
        return {c.id: self._evaluator.answers(c, task, items) for c in candidates}

    def _assessor(self, objectives: Objectives) -> Assessor:
        return Assessor(
            objectives,
            self._evaluator,
            self._store,
            self._candidates.at,
            complete=[parent.id for parent in self._parents.values()],
            every=self._config.merge3.recalibrate,
            folder=self._setting.folder,
        )

    def _search(self, assessor: Assessor) -> SearchResult:
        settings, space = self._config.merge3.search, self._setting.space
        rng = self._rng(SEARCH)
        first = draw(space.variables, rng) if self._config.random_init else start(space.variables)
        made = Settings(settings.max_fevals, settings.popsize, settings.sigma0, options=settings.options)
        optimizer = make_optimizer(settings.optimizer, space.variables, first, made, rng)
        self._watcher.phase(SEARCH, settings.max_fevals)
        uniform = self._candidates.uniform
        seen: dict[str, Scored] = {}

        def improved(number: int, entry: Scored, previous: Scored | None) -> None:
            of_uniform = seen.get(uniform.id) if uniform else None
            against = [assessor.difference(entry, other) for other in (previous, of_uniform)]
            improvement = Improvement(number, entry, *against)
            self._improvements.append(improvement)
            self._improved(entry.candidate)
            self._watcher.improved(improvement)

        def progress(entry: Scored) -> None:
            seen.setdefault(entry.candidate.id, entry)
            self._watcher.scored(entry)

        search = Search(
            self._store,
            optimizer,
            assessor.score,
            max_fevals=settings.max_fevals,
            max_failures=settings.max_failures,
            interrupted=lambda: "interrupted" if self._watcher.interrupted() else self._watcher.stop_reason(),
            refine=assessor.refine,
            improved=improved,
            progress=progress,
        )
        return search.run([vector for vector, _ in self._candidates.known.values()])

    def _mean(self, result: SearchResult, best: Sequence[Scored], assessor: Assessor) -> Scored | None:
        """The search's mean with its estimate, unless it is known anyway or is worse than the best of the merges."""
        if result.mean is None:
            return None
        candidate = self._candidates.at(result.mean)
        if candidate.id in self._candidates.known_ids | {s.candidate.id for s in best}:
            return None
        if self._watcher.interrupted():
            raise Interrupted
        mean = assessor.assess(candidate, result.mean, MEAN)
        return mean if mean in contenders([best[0], mean], assessor.objectives) else None

    def _confirm(self, so_far: Outcome, assessor: Assessor, populations: Mapping[str, Population]) -> Outcome:
        items = {name: population.held_out for name, population in populations.items()}
        best = so_far.contenders[: self._config.merge3.confirm]
        finalists = {f"best {rank}": s.candidate for rank, s in enumerate(best, 1)}
        mean = self._mean(so_far.result, best, assessor)
        if mean is not None:
            finalists["mean"] = mean.candidate
        uniform = self._candidates.uniform
        field = {**self._parents, **({UNIFORM: uniform} if uniform else {}), **finalists}
        self._watcher.phase(CONFIRMATION, len(field))
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
        verdict = judge(judged, parents, seen.get(UNIFORM), self._weights, balance, self._same_items)
        return replace(
            so_far,
            state=FINISHED,
            winner=finalists[verdict.winner.label],
            mean=mean,
            confirmed=list(seen.values()),
            verdict=verdict,
        )
