"""The phase of a run that scores parents, the uniform merge and the finalists on items that no choice has seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from merge3_plugin.errors import ModelError
from merge3_plugin.evolve.assessor import Assessor
from merge3_plugin.evolve.candidates import UNIFORM
from merge3_plugin.evolve.confirm import Confirmed, Verdict, balance_of, confirmed, judge
from merge3_plugin.evolve.evaluate import Candidate
from merge3_plugin.evolve.finalists import contenders
from merge3_plugin.evolve.search import Scored, SearchResult
from merge3_plugin.evolve.setting import Interrupted
from merge3_plugin.evolve.stage import Stage
from merge3_plugin.evolve.store import FAILED

MEAN, CONFIRMATION = "mean", "confirmation"


@dataclass(frozen=True, eq=False)
class Confirmation:
    """What the held-out items say: the winner, the mean of the search where that is a finalist, and all `models`."""

    winner: Candidate
    mean: Scored | None
    models: Sequence[Confirmed]
    verdict: Verdict


def confirm(stage: Stage, assessor: Assessor, result: SearchResult, best: Sequence[Scored]) -> Confirmation:
    """Score the finalists, ``best`` and the search's mean, and what they are compared with, on the held-out items.

    Raises ModelError where no finalist can be scored, Interrupted where a person stops it.
    """
    items = {objective.name: objective.population.held_out for objective in assessor.objectives.items}
    parents, uniform = stage.candidates.parents, stage.candidates.uniform
    finalists = {f"best {rank}": s.candidate for rank, s in enumerate(best, 1)}
    mean = _mean(stage, assessor, result, best)
    if mean is not None:
        finalists["mean"] = mean.candidate
    field = {**parents, **({UNIFORM: uniform} if uniform else {}), **finalists}
    stage.watcher.phase(CONFIRMATION, len(field))
    balance = balance_of(stage.tasks, items)
    seen: dict[str, Confirmed] = {}
    for label, candidate in field.items():
        if stage.evaluate(label, candidate, CONFIRMATION, items).state == FAILED:
            continue
        answers = {task: stage.setting.evaluator.answers(candidate, task, ids).right for task, ids in items.items()}
        seen[label] = confirmed(label, candidate.id, answers, stage.weights, balance)
    judged = [seen[label] for label in finalists if label in seen]
    if not judged:
        last = stage.setting.store.last_error(CONFIRMATION)
        raise ModelError(f"confirmation: expected a finalist that can be scored, got failures only, the last: {last}")
    of_parents = [seen[label] for label in parents]
    verdict = judge(judged, of_parents, seen.get(UNIFORM), stage.weights, balance, stage.same_items)
    return Confirmation(finalists[verdict.winner.label], mean, list(seen.values()), verdict)


def _mean(stage: Stage, assessor: Assessor, result: SearchResult, best: Sequence[Scored]) -> Scored | None:
    """The search's mean with its estimate, unless it is known anyway or is worse than the best of the merges."""
    if result.mean is None:
        return None
    candidate = stage.candidates.at(result.mean)
    if candidate.id in stage.candidates.known_ids | {s.candidate.id for s in best}:
        return None
    if stage.watcher.interrupted():
        raise Interrupted
    mean = assessor.assess(candidate, result.mean, MEAN)
    return mean if mean in contenders([best[0], mean], assessor.objectives) else None
