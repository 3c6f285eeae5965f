"""The phase of a run that scores parents, the uniform merge and the finalists on items that no choice has seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from merge3_plugin.domain import FloatArray
from merge3_plugin.errors import ModelError
from merge3_plugin.estimate.design import effective_size
from merge3_plugin.evolve.assessor import MEAN, SURROGATE, Assessor
from merge3_plugin.evolve.candidates import UNIFORM
from merge3_plugin.evolve.confirm import Confirmed, Scale, Verdict, balance_of, judge
from merge3_plugin.evolve.constraints import Kept, feasible, kept
from merge3_plugin.evolve.evaluate import Candidate
from merge3_plugin.evolve.finalists import contenders
from merge3_plugin.evolve.objectives import Objectives, several_objectives
from merge3_plugin.evolve.optimism import Optimism, optimism
from merge3_plugin.evolve.search import Scored, SearchResult
from merge3_plugin.evolve.setting import Interrupted
from merge3_plugin.evolve.stage import Stage
from merge3_plugin.evolve.stopping import Limits
from merge3_plugin.evolve.store import FAILED
from merge3_plugin.evolve.surrogate import Surrogate, surrogate

CONFIRMATION = "confirmation"


@dataclass(frozen=True, eq=False)
class Confirmation:
    """What the held-out items say: the winner, and every model that was scored there, by label.

    ``finalists`` are those that the winner was chosen from, ``front`` all members of the front where the search has
    several objectives, the first ``merge3.front`` of which were scored there; ``optimism`` is what the search thought
    of each of both too much. ``constraints`` are the winner's, with intervals that hold as its verdict's do.
    """

    winner: Candidate
    finalists: Mapping[str, Scored]
    front: Mapping[str, Scored]
    models: Mapping[str, Confirmed]
    candidates: Mapping[str, Candidate]
    verdict: Verdict
    optimism: Mapping[str, Optimism]
    constraints: Sequence[Kept]


class HeldOut:
    """The held-out items of a run's tasks, and how answers on them become figures."""

    def __init__(self, stage: Stage, objectives: Objectives) -> None:
        self._stage = stage
        self.items = {objective.name: objective.population.held_out for objective in objectives.items}
        self.scale = Scale(stage.weights, balance_of(stage.tasks, self.items), stage.same_items)

    def score(self, field: Mapping[str, Candidate], purpose: str) -> dict[str, Confirmed]:
        """Every model of ``field`` (by label) that can be scored, on all held-out items."""
        self._stage.watcher.phase(purpose, len(field))
        seen: dict[str, Confirmed] = {}
        for label, evaluation in self._stage.evaluate_each(field, purpose, self.items):
            if evaluation.state == FAILED:
                continue
            answers = {
                task: self._stage.setting.evaluator.answers(field[label], task, ids).right
                for task, ids in self.items.items()
            }
            seen[label] = self.scale.confirmed(label, field[label].id, answers)
        return seen


def confirm(
    stage: Stage,
    assessor: Assessor,
    held_out: HeldOut,
    result: SearchResult,
    best: Sequence[Scored],
    compromises: Sequence[Scored] = (),
) -> Confirmation:
    """Score the finalists beside parents and uniform merge on the held-out items.

    They are ``best``, the peak of the model of all results, where there is one, and the search's mean. The first
    members of a front, the ``compromises``, are scored too. Raises ModelError where no finalist can be scored,
    Interrupted where a person stops it.
    """
    model = _model(stage, result)
    finalists = {f"best {rank}": entry for rank, entry in enumerate(best, 1)}
    finalists |= _beside(stage, assessor, {SURROGATE: model.peak if model else None, MEAN: result.mean}, best)
    front = {f"front {place}": entry for place, entry in enumerate(compromises, 1)}
    parents, uniform = stage.candidates.parents, stage.candidates.uniform
    searched = {**finalists, **dict(islice(front.items(), stage.config.merge3.front))}
    field = {
        **parents,
        **({UNIFORM: uniform} if uniform else {}),
        **{label: entry.candidate for label, entry in searched.items()},
    }
    seen = held_out.score(field, CONFIRMATION)
    judged = {label: seen[label] for label in finalists if label in seen}
    if not judged:
        last = stage.setting.store.last_error(CONFIRMATION)
        raise ModelError(f"confirmation: expected a finalist that can be scored, got failures only, the last: {last}")
    of_parents, floors, scale = [seen[label] for label in parents], assessor.objectives.floors, held_out.scale
    prior = model.elsewhere(np.array([finalists[label].vector for label in judged])) if model else None
    verdict = judge(
        list(judged.values()),
        of_parents,
        seen.get(UNIFORM),
        scale,
        lambda entry: feasible(floors, entry, of_parents),
        prior,
    )
    sizes = {o.name: effective_size(o.parents.item_weights) for o in assessor.objectives.items}
    curse = {
        label: optimism(entry.assessment.estimates, seen[label], sizes, scale)
        for label, entry in searched.items()
        if label in seen and entry.assessment is not None
    }
    confidence = verdict.against_parent.confidence
    constraints = kept(floors, verdict.winner, of_parents, balance=scale.balance, confidence=confidence)
    winner = field[verdict.winner.label]
    return Confirmation(winner, finalists, front, seen, field, verdict, curse, constraints)


def _model(stage: Stage, result: SearchResult) -> Surrogate | None:
    """The model of the fitness, where that is made of nothing but estimated accuracies, and is what is searched for."""
    if stage.whole or several_objectives(stage.config):
        return None
    return surrogate(result.scored, stage.setting.space.variables)


def _beside(
    stage: Stage, assessor: Assessor, vectors: Mapping[str, FloatArray | None], best: Sequence[Scored]
) -> dict[str, Scored]:
    """The model's peak and the search's mean with their estimates, but for one that is known or worse than the best.

    Their answers count against the search's budgets. Where they do not fit, the peak goes without an estimate, on the
    word of the model, and the mean, of which nothing is known then, is left out.
    """
    found: dict[str, Scored] = {}
    known = stage.candidates.known_ids | {s.candidate.id for s in best}
    limits = Limits(stage.config.merge3.search, assessor.difference)
    place = best[0].place  # on the items of the best: so they can be told apart
    for purpose, vector in vectors.items():
        if vector is None or (candidate := stage.candidates.at(vector)).id in known:
            continue
        known.add(candidate.id)
        if stage.watcher.interrupted():
            raise Interrupted
        if not limits.refuses(assessor.price(candidate, place, purpose), assessor.spent):
            entry = assessor.assess(candidate, vector, purpose, place)
            if entry in contenders([best[0], entry], assessor.objectives):
                found[purpose] = entry
        elif purpose == SURROGATE:
            found[purpose] = Scored(candidate, vector, None, place)
    return found
