"""Simple merges that a search has to beat: soups, task arithmetic on a grid, and random search at the same cost.

Each is made from what the search may read, search items and anchors, and is confirmed on the same held-out items. What
they cost is counted apart from the search.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from merge3_plugin.domain import FloatArray
from merge3_plugin.estimate.paired import PairedDifference
from merge3_plugin.evolve.assessor import Assessor
from merge3_plugin.evolve.confirm import Confirmed
from merge3_plugin.evolve.confirmation import Confirmation, HeldOut
from merge3_plugin.evolve.evaluate import Candidate
from merge3_plugin.evolve.finalists import contenders
from merge3_plugin.evolve.preparation import PARENTS
from merge3_plugin.evolve.search import Scored, SearchResult, ranked
from merge3_plugin.evolve.spaces.variables import draw
from merge3_plugin.evolve.stage import Stage
from merge3_plugin.evolve.store import FAILED

# Purposes of their own, so that the record counts what baselines cost apart from the run they are compared with.
BASELINES, CONFIRMED = "baselines", "baselines confirmed"
SCALES = (0.2, 0.4, 0.6, 0.8, 1.0)


@dataclass(frozen=True, eq=False)
class Baseline:
    """A merge to beat: ``what`` it is, or, where it has no ``candidates``, why it could not be made.

    Random search has several, as the search has several finalists.
    """

    name: str
    what: str
    candidates: tuple[Candidate, ...] = ()


@dataclass(frozen=True, eq=False)
class Compared:
    """A baseline on the held-out items: its ``models`` there, the ``best`` of them, the winner's paired difference.

    The interval is as wide as the verdict's. Without models there is nothing to compare with.
    """

    baseline: Baseline
    models: tuple[Confirmed, ...] = ()
    best: Confirmed | None = None
    candidate: Candidate | None = None
    against: PairedDifference | None = None


class Baselines:
    """Makes the baselines of a run whose search is over."""

    def __init__(self, stage: Stage, assessor: Assessor, result: SearchResult) -> None:
        self._stage, self._assessor, self._result = stage, assessor, result
        self._config, self._parents = stage.config, stage.candidates.parents
        self._label_of = {candidate.parent: label for label, candidate in self._parents.items()}

    def made(self) -> list[Baseline]:
        """Every baseline, in the order of its cost. Raises Interrupted where a person stops it."""
        budget = self._draws()
        steps = len(self._parents) + len(SCALES) * (self._config.genome.base_model is not None) + budget
        self._stage.watcher.phase(BASELINES, steps)
        return [
            self._uniform_soup(),
            self._merge_best(),
            self._greedy_soup(),
            self._task_arithmetic(),
            self._random_search(budget),
        ]

    def _uniform_soup(self) -> Baseline:
        labels = [self._label_of[name] for name in self._config.genome.models]
        return Baseline("uniform soup", _mean_of(labels), (self._average(labels),))

    def _merge_best(self) -> Baseline:
        """The mean of the parents that are best at a task each, on its search items."""
        table = self._parent_values()
        best = {max(of_task, key=of_task.__getitem__) for of_task in table.values()}
        labels = [label for label in self._parents if label in best]
        return Baseline("merge-best", f"{_mean_of(labels)}, the best at a task each", (self._average(labels),))

    def _greedy_soup(self) -> Baseline:
        """Parents, the best first, each taken in unless the estimate falls (Wortsman et al. 2022, recipe 1)."""
        table = self._parent_values()
        score = {label: sum(of_task[label] for of_task in table.values()) for label in self._parents}
        kept: list[str] = []
        best: Scored | None = None
        for label in sorted(self._parents, key=score.__getitem__, reverse=True):
            entry = self._scored(f"greedy soup with {label}", self._average([*kept, label]))
            if best is None or (entry.assessment and best.assessment and entry.assessment.rank >= best.assessment.rank):
                kept, best = [*kept, label], entry
        return Baseline("greedy soup", _mean_of(kept), (self._average(kept),))

    def _task_arithmetic(self) -> Baseline:
        """The base plus a multiple of what all models add to it; which multiple, the anchors say."""
        genome, name = self._config.genome, "task arithmetic"
        models = [model for model in genome.models if model != genome.base_model]
        if genome.base_model is None or not models:
            return Baseline(name, "not made: it needs genome.base_model and a model beside it")
        recipes = {
            scale: self._recipe("task_arithmetic", models, scale, base_model=genome.base_model, normalize=False)
            for scale in SCALES
        }
        entries = [
            self._scored(f"{name} at {scale}", self._stage.candidates.of(recipe)) for scale, recipe in recipes.items()
        ]
        found = next(iter(ranked(entries)), None)
        if found is None:
            return Baseline(name, "not made: no scale gave a model that can be scored")
        scale = SCALES[next(i for i, entry in enumerate(entries) if entry.candidate.id == found.candidate.id)]
        what = f"base + {scale} x the sum of all differences from it, the best of {SCALES[0]} to {SCALES[-1]}"
        return Baseline(name, what, (found.candidate,))

    def _random_search(self, draws: int) -> Baseline:
        """Draws of the same space on the same anchors, for as many items as the search; finalists by the same rule."""
        rng, variables = self._stage.rng(BASELINES), self._stage.setting.space.variables
        cost, left = self._per_candidate(), self._searched_items()
        entries: list[Scored] = []
        ahead: deque[FloatArray] = deque()
        while len(entries) < draws and cost <= left:
            most = min(self._stage.setting.evaluator.live_models, draws - len(entries), left // cost)
            while len(ahead) < most:
                ahead.append(draw(variables, rng))
                self._begin(self._stage.candidates.at(ahead[-1]))
            vector = ahead.popleft()
            entry = self._scored(f"random {len(entries) + 1}", self._stage.candidates.at(vector), vector)
            entries.append(entry)
            left -= cost if entry.assessment is not None else 0
        found = ranked(entries)
        if not found:
            return Baseline("random search", f"not made: none of {len(entries)} draws could be scored")
        known = self._stage.candidates.known_ids
        merges = [s for s in found if s.candidate.id not in known] or found[:1]
        best = contenders(merges, self._assessor.objectives)[: self._config.merge3.confirm]
        what = f"the best of {len(entries)} random points of the search's space, at its cost"
        return Baseline("random search", what, tuple(entry.candidate for entry in best))

    def _draws(self) -> int:
        """At most so many: as many candidates as the search had, more where these cost more than the anchors."""
        searched = len({entry.candidate.id for entry in self._result.scored})
        return max(searched, self._searched_items() // self._per_candidate())

    def _per_candidate(self) -> int:
        objectives = self._assessor.objectives
        return self._stage.setting.scorer.price(objectives.anchors(), objectives.whole).items

    def _searched_items(self) -> int:
        return self._assessor.spent.items

    def _parent_values(self) -> dict[str, dict[str, float]]:
        """What each parent adds to the fitness, by task and label: its accuracy, or metric, times the weight."""
        store, table = self._stage.setting.store, {}
        for objective in self._assessor.objectives.items:
            accuracies = dict(zip(objective.parents.model_ids, objective.parents.accuracy(), strict=True))
            table[objective.name] = {
                label: objective.weight * float(accuracies[parent.id]) for label, parent in self._parents.items()
            }
        for task, weight in self._assessor.objectives.whole.items():
            found = {label: store.find(parent.id, PARENTS) for label, parent in self._parents.items()}
            table[task] = {label: weight * each.whole[task] for label, each in found.items() if each is not None}
        return {task: values for task, values in table.items() if any(values.values())}

    def _average(self, labels: Sequence[str]) -> Candidate:
        """The mean of these parents; the same set is the same candidate, and one parent is itself."""
        if len(labels) == 1:
            return self._parents[labels[0]]
        models = [parent.parent for label, parent in self._parents.items() if label in labels and parent.parent]
        return self._stage.candidates.of(self._recipe("linear", models, 1.0, normalize=True))

    def _recipe(
        self, method: str, models: Sequence[str], weight: float, *, base_model: str | None = None, normalize: bool
    ) -> dict[str, Any]:
        extra = {"base_model": base_model, "tokenizer_source": self._config.genome.tokenizer_source}
        return {
            "merge_method": method,
            "models": [{"model": model, "parameters": {"weight": weight}} for model in models],
            "parameters": {"normalize": normalize},
            "dtype": self._stage.setting.merger.dtype_name,
            **{key: value for key, value in extra.items() if value},
        }

    def _begin(self, candidate: Candidate) -> None:
        """Let a live model of several begin with what `_scored` will be asked."""
        objectives = self._assessor.objectives
        self._stage.setting.evaluator.begin(candidate, BASELINES, objectives.anchors(), list(objectives.whole))

    def _scored(self, label: str, candidate: Candidate, vector: FloatArray | None = None) -> Scored:
        """The candidate on all anchors of every task."""
        objectives = self._assessor.objectives
        vector = np.empty(0) if vector is None else vector
        whole = list(objectives.whole)
        found = self._stage.evaluate(label, candidate, BASELINES, objectives.anchors(), whole, objectives.assess)
        if found.state == FAILED:
            return Scored(candidate, vector, None)
        return self._assessor.assess(candidate, vector, BASELINES)


def compare(
    stage: Stage, held_out: HeldOut, baselines: Sequence[Baseline], confirmation: Confirmation
) -> list[Compared]:
    """Each baseline on the held-out items beside the winner. Raises Interrupted where a person stops it."""
    verdict = confirmation.verdict
    seen = held_out.score(dict(_field(baselines)), CONFIRMED)
    compared = []
    for baseline in baselines:
        models = tuple(seen[label] for label, _ in _field([baseline]) if label in seen)
        if not models:
            last = stage.setting.store.last_error(CONFIRMED)
            what = f"not made: {last}" if baseline.candidates else baseline.what
            compared.append(Compared(Baseline(baseline.name, what)))
            continue
        best = max(models, key=lambda model: model.overall)
        against = held_out.scale.difference(verdict.winner, best, confidence=verdict.against_parent.confidence)
        candidate = dict(_field([baseline]))[best.label]
        compared.append(Compared(baseline, models, best, candidate, against))
    return compared


def _field(baselines: Sequence[Baseline]) -> Iterator[tuple[str, Candidate]]:
    """Each candidate with its label: the baseline's name, numbered where it may have several."""
    for baseline in baselines:
        several = len(baseline.candidates) > 1
        for number, candidate in enumerate(baseline.candidates, 1):
            yield f"{baseline.name} {number}" if several else baseline.name, candidate


def _mean_of(labels: Sequence[str]) -> str:
    return f"{labels[0]} alone" if len(labels) == 1 else f"the mean of {', '.join(labels[:-1])} and {labels[-1]}"
