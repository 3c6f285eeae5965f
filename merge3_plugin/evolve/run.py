"""A whole run, phase by phase: parents, calibration, search, confirmation, baselines, held-out tasks.

Every phase asks the evaluator for its evaluations in a fixed order; the record answers those that it knows. There is no
other state: running the same command again is how a run resumes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from merge3_plugin.errors import ModelError, RunError
from merge3_plugin.evolve.assessor import SEARCH, Assessor
from merge3_plugin.evolve.baselines import Baselines, Compared, compare
from merge3_plugin.evolve.candidates import UNIFORM
from merge3_plugin.evolve.confirmation import Confirmation, HeldOut, confirm
from merge3_plugin.evolve.evaluate import Candidate
from merge3_plugin.evolve.finalists import contenders
from merge3_plugin.evolve.front import front
from merge3_plugin.evolve.held_out_tasks import Transfer, score_held_out_tasks
from merge3_plugin.evolve.objectives import Objectives, several_objectives
from merge3_plugin.evolve.preparation import Preparation
from merge3_plugin.evolve.search import Improvement, Scored, SearchResult
from merge3_plugin.evolve.searching import make_assessor, search
from merge3_plugin.evolve.setting import Interrupted, Setting, Watcher
from merge3_plugin.evolve.stage import Stage

log = logging.getLogger(__name__)

FINISHED = "finished"
UNCONFIRMED = "stopped before the confirmation"
UNCOMPARED = "stopped after the confirmation, before the end of the comparisons"
STOPPED = (UNCONFIRMED, UNCOMPARED)
NOTHING_HELD_OUT = "finished without a confirmation: no task has scores by item"


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a run found; ``confirmation`` is None where ``state`` is UNCONFIRMED or NOTHING_HELD_OUT.

    ``objectives`` are those of the search's end, ``improvements`` its bests in turn, ``contenders`` those of its own
    ``merges`` that cannot be told from the best of them (see `contenders`). ``baselines`` and ``transfer`` are there
    where the config asks for them and nothing stopped the run before.
    """

    state: str
    result: SearchResult
    objectives: Objectives
    improvements: Sequence[Improvement]
    contenders: Sequence[Scored]
    merges: int
    winner: Candidate
    confirmation: Confirmation | None = None
    baselines: Sequence[Compared] = ()
    transfer: Transfer | None = None


class Run:
    """The phases of one run over its setting; ``chosen`` hears of each new best of the search, and of the winner."""

    def __init__(self, setting: Setting, watcher: Watcher, chosen: Callable[[Candidate], None]) -> None:
        self._stage, self._chosen = Stage(setting, watcher), chosen
        self._improvements: list[Improvement] = []

    def execute(self) -> Outcome:
        """All phases in order. Raises Interrupted where a person stops it before there is a candidate."""
        stage = self._stage
        assessor = make_assessor(stage, Preparation(stage).objectives())
        so_far = self._found(assessor, search(stage, assessor, self._hear))
        try:
            if stage.tasks:
                held_out = HeldOut(stage, assessor.objectives)
                so_far = self._confirmed(so_far, assessor, held_out)
                so_far = self._compared(so_far, assessor, held_out)
            if stage.setting.held_out_tasks:
                so_far = replace(so_far, transfer=self._transfer(so_far))
        except Interrupted:
            return so_far
        return replace(so_far, state=FINISHED if stage.tasks else NOTHING_HELD_OUT)

    def _confirmed(self, so_far: Outcome, assessor: Assessor, held_out: HeldOut) -> Outcome:
        settings, result = self._stage.config.merge3, so_far.result
        best = so_far.contenders[: settings.confirm]
        members = front(result.scored) if several_objectives(self._stage.config) else ()
        found = confirm(self._stage, assessor, held_out, result, best, members)
        self._chosen(found.winner)  # what is still to come may take long
        return replace(so_far, state=UNCOMPARED, winner=found.winner, confirmation=found)

    def _compared(self, so_far: Outcome, assessor: Assessor, held_out: HeldOut) -> Outcome:
        if so_far.confirmation is None or not self._stage.config.merge3.baselines:
            return so_far
        made = Baselines(self._stage, assessor, so_far.result).made()
        return replace(so_far, baselines=compare(self._stage, held_out, made, so_far.confirmation))

    def _transfer(self, so_far: Outcome) -> Transfer:
        found, candidates = so_far.confirmation, self._stage.candidates
        base = [
            label for label, name in self._stage.setting.parents.items() if name == self._stage.config.genome.base_model
        ]
        if found is None:
            uniform = {UNIFORM: candidates.uniform} if candidates.uniform else {}
            models = {**candidates.parents, **uniform, "best 1": so_far.winner}
            return score_held_out_tasks(self._stage, models, "best 1", base)
        models = {label: found.candidates[label] for label in found.models if label not in found.front}
        models |= {each.best.label: each.candidate for each in so_far.baselines if each.best and each.candidate}
        others = dict.fromkeys([*base, found.verdict.best_parent.label])
        return score_held_out_tasks(self._stage, models, found.verdict.winner.label, list(others))

    def _hear(self, improvement: Improvement) -> None:
        self._improvements.append(improvement)
        self._chosen(improvement.best.candidate)
        self._stage.watcher.improved(improvement)

    def _found(self, assessor: Assessor, result: SearchResult) -> Outcome:
        """The outcome so far. Raises where the search has no candidate that could be scored."""
        stage, known = self._stage, self._stage.candidates.known_ids
        if all(entry.candidate.id in known for entry in result.scored):
            lack = (
                f"search: expected time for a candidate, got none ({result.reason}); give it more, what is scored stays"
            )
            if not result.scored:
                raise Interrupted if stage.watcher.interrupted() else RunError(lack)
            if not stage.watcher.interrupted():
                log.warning(lack)
        ranked = result.ranked()
        if not ranked:
            last = stage.setting.store.last_error(SEARCH)
            raise ModelError(f"search: expected a candidate that can be scored, got failures only, the last: {last}")
        # Known points are scored anyway. Where the search found no merge of its own, the best of them stands for it.
        merges = [s for s in ranked if s.candidate.id not in known] or ranked[:1]
        objectives = assessor.objectives
        return Outcome(
            UNCONFIRMED,
            result,
            objectives,
            self._improvements,
            contenders(merges, objectives),
            len(merges),
            ranked[0].candidate,
        )
