"""The candidates of a search as it sees them, and its calibrations, which their answers may refine."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from merge3_plugin.calibrate.recalibrate import RECALIBRATED, recalibrate
from merge3_plugin.domain import Calibration, FloatArray
from merge3_plugin.estimate.paired import PairedDifference
from merge3_plugin.evolve.calibration import answer_matrix, keep
from merge3_plugin.evolve.evaluate import Candidate, Evaluator
from merge3_plugin.evolve.objectives import Objective, Objectives
from merge3_plugin.evolve.search import Scored, ranked
from merge3_plugin.evolve.store import COMPLETE, FAILED, RunStore

SEARCH, RECALIBRATION = "search", "recalibration"


class Assessor:
    """Turns vectors into assessed candidates; ``objectives`` are those of now.

    After every ``every`` candidates (None: never) the best one that is not ``complete`` yet (ids of those scored on all
    search items) is scored so, and the calibrations are made anew from the first ones and all answers so far. When,
    from what and to what is an event of the record; the newest calibrations are kept in ``folder``.
    """

    def __init__(
        self,
        objectives: Objectives,
        evaluator: Evaluator,
        store: RunStore,
        candidate: Callable[[FloatArray], Candidate],
        *,
        complete: Iterable[str],
        every: int | None,
        folder: Path,
    ) -> None:
        self.objectives, self._first = objectives, objectives
        self._evaluator, self._store, self._candidate = evaluator, store, candidate
        self._every, self._folder = every, folder
        # Kept here and not asked of the record: a run that is resumed knows answers that came later.
        self._complete = set(complete)
        self._done = 0

    def score(self, vector: FloatArray) -> Scored:
        """The candidate at ``vector``, scored on the anchors of every task, or taken from the record."""
        return self.assess(self._candidate(vector), vector, SEARCH)

    def assess(self, candidate: Candidate, vector: FloatArray, purpose: str) -> Scored:
        objectives = self.objectives
        found = self._evaluator.evaluate(
            candidate, purpose, objectives.anchors(), list(objectives.whole), objectives.assess
        )
        if found.state == FAILED:
            return Scored(candidate, vector, None)
        answers = {task: self._evaluator.answers(candidate, task, ids) for task, ids in objectives.anchors().items()}
        return Scored(candidate, vector, objectives.assess(answers, found.whole))

    def difference(self, first: Scored, second: Scored | None) -> PairedDifference | None:
        """First less second on the calibrations of now; None where there is no second, or one of them failed."""
        if second is None or first.assessment is None or second.assessment is None:
            return None
        again = self.objectives.assess_again
        return self.objectives.difference(again(first.assessment), again(second.assessment))

    def refine(self, scored: Sequence[Scored]) -> list[Scored] | None:
        """All of them on the refined calibrations, where it is time for that, else None."""
        if self._every is None or not self.objectives.items or len(scored) // self._every <= self._done:
            return None
        self._done = len(scored) // self._every
        complete = self._score_in_full(scored)
        refined = [self._refined(objective, scored) for objective in self._first.items]
        self.objectives = replace(self.objectives, items=refined)
        self._store.event(
            f"recalibration {self._done}",
            {
                "candidates": len(scored),
                "in full": complete,
                "tasks": {objective.name: _identity(objective.calibration) for objective in refined},
            },
        )
        for objective in refined:
            keep(objective.calibration, self._folder, f"{objective.name}-recalibrated")
        return [
            s if s.assessment is None else replace(s, assessment=self.objectives.assess_again(s.assessment))
            for s in scored
        ]

    def _score_in_full(self, scored: Sequence[Scored]) -> str | None:
        """Ask the best candidate that was not asked all search items yet all of them; its id, None if there is none."""
        items = {objective.name: objective.population.search for objective in self._first.items}
        entry = next((s for s in ranked(scored) if s.candidate.id not in self._complete), None)
        if entry is None:
            return None
        self._complete.add(entry.candidate.id)
        state = self._evaluator.evaluate(entry.candidate, RECALIBRATION, items).state
        return entry.candidate.id if state == COMPLETE else None

    def _refined(self, objective: Objective, scored: Sequence[Scored]) -> Objective:
        items = objective.population.search
        answers = {
            s.candidate.id: self._evaluator.answers(
                s.candidate, objective.name, items if s.candidate.id in self._complete else objective.anchors
            )
            for s in ranked(scored)
        }
        refined = recalibrate(objective.calibration, answer_matrix(answers, items), objective.parents)
        return replace(objective, calibration=refined)


def _identity(calibration: Calibration) -> dict[str, object]:
    """What a recalibration was made from, and a hash of what came out."""
    record = calibration.provenance.get(RECALIBRATED, {"models": [], "answers": 0, "drifted": []})
    parameters = calibration.items.discrimination.tobytes() + calibration.items.difficulty.tobytes()
    return {
        "models": len(record["models"]),
        "answers": record["answers"],
        "drifted": record["drifted"],
        "items": hashlib.sha256(parameters).hexdigest()[:16],
    }
