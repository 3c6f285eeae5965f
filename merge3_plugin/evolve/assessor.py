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
from merge3_plugin.evolve.fidelity.ladder import ANCHORS, Ladder, Place
from merge3_plugin.evolve.objectives import Objective, Objectives
from merge3_plugin.evolve.search import Scored, ranked
from merge3_plugin.evolve.store import COMPLETE, FAILED, Evaluation, RunStore
from merge3_plugin.harness.scoring import NOTHING, Price

SEARCH, RECALIBRATION, SURROGATE, MEAN = "search", "recalibration", "surrogate", "mean"


def spent_by_search(store: RunStore) -> Price:
    """What the record holds of the search, for whatever it was scored: all that counts against its budgets."""
    spent = store.spent()
    rows = [spent[purpose] for purpose in (SEARCH, RECALIBRATION, SURROGATE, MEAN) if purpose in spent]
    return Price(int(sum(row["items"] for row in rows)), int(sum(row["tokens"] for row in rows)))


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
        ladder: Ladder,
        *,
        complete: Iterable[str],
        every: int | None,
        folder: Path,
    ) -> None:
        self.objectives, self._first, self.ladder = objectives, objectives, ladder
        self._evaluator, self._store, self.candidate = evaluator, store, candidate
        self._every, self._folder = every, folder
        # Kept here and not asked of the record: a run that is resumed knows answers that came later.
        self._complete = set(complete)
        self._paid: set[tuple[object, ...]] = set()
        self._done = 0

    @property
    def spent(self) -> Price:
        """As `spent_by_search`."""
        return spent_by_search(self._store)

    def price(self, candidate: Candidate, place: Place, purpose: str = SEARCH) -> Price:
        """What it takes to assess the candidate at ``place``; nothing where the record holds that."""
        if self._store.find(candidate.id, purpose, place.newest, place.rung) is not None:
            return NOTHING
        return self._evaluator.price(candidate, self.ladder.items(place), list(self.objectives.whole))

    def begin(self, candidate: Candidate, place: Place) -> None:
        """Let a live model of several begin with what `score` will be asked."""
        items, whole = self.ladder.items(place), list(self.objectives.whole)
        self._evaluator.begin(candidate, SEARCH, items, whole, batch=place.newest, rung=place.rung)

    def score(self, candidate: Candidate, vector: FloatArray, place: Place) -> Scored:
        """The candidate at ``place``, scored there or taken from the record."""
        return self.assess(candidate, vector, SEARCH, place)

    def assess(self, candidate: Candidate, vector: FloatArray, purpose: str, place: Place = ANCHORS) -> Scored:
        """The candidate on the items of ``place``, scored there or taken from the record."""
        objectives = self._at(place)
        found = self._evaluator.evaluate(
            candidate,
            purpose,
            objectives.anchors(),
            list(objectives.whole),
            objectives.assess,
            batch=place.newest,
            rung=place.rung,
        )
        paid = self._pay(found)
        if found.state == FAILED:
            return Scored(candidate, vector, None, place, paid)
        answers = {task: self._evaluator.answers(candidate, task, ids) for task, ids in objectives.anchors().items()}
        return Scored(candidate, vector, objectives.assess(answers, found.whole), place, paid)

    def difference(self, first: Scored, second: Scored | None, confidence: float = 0.95) -> PairedDifference | None:
        """First less second on the calibrations of now; None where there is no second, or one of them failed."""
        if second is None or first.assessment is None or second.assessment is None:
            return None
        again = self.objectives.assess_again
        return self.objectives.difference(again(first.assessment), again(second.assessment), confidence=confidence)

    def disagreements(self, entry: Scored, *, apart: bool) -> tuple[float, ...]:
        """As `Objectives.disagreements`; nothing of one that failed."""
        return () if entry.assessment is None else self.objectives.disagreements(entry.assessment, apart=apart)

    def due(self, scored: Sequence[Scored]) -> Price | None:
        """What it takes to `refine` the calibrations by them now; None where it is not time for that."""
        if self._every is None or not self.objectives.items or len(scored) // self._every <= self._done:
            return None
        entry = self._least_known(scored)
        if entry is None or self._store.find(entry.candidate.id, RECALIBRATION) is not None:
            return NOTHING
        return self._evaluator.price(entry.candidate, self._search_items)

    def refine(self, scored: Sequence[Scored]) -> list[Scored]:
        """All of them on the refined calibrations."""
        self._done = len(scored) // (self._every or 1)
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

    def _at(self, place: Place) -> Objectives:
        """The objectives of now, estimated from the items of ``place``."""
        items = [objective.on(self.ladder.anchors(objective.name, place)) for objective in self.objectives.items]
        return replace(self.objectives, items=items)

    def _pay(self, found: Evaluation) -> Price:
        """What an evaluation cost, the first time that it is used."""
        key = (found.candidate, found.purpose, found.batch, found.rung)
        if key in self._paid:
            return NOTHING
        self._paid.add(key)
        return Price(found.n_items, found.tokens)

    @property
    def _search_items(self) -> dict[str, tuple[str, ...]]:
        return {objective.name: objective.population.search for objective in self._first.items}

    def _least_known(self, scored: Sequence[Scored]) -> Scored | None:
        """The best one that was not asked all search items yet."""
        return next((s for s in ranked(scored) if s.candidate.id not in self._complete), None)

    def _score_in_full(self, scored: Sequence[Scored]) -> str | None:
        """Ask the best candidate that was not asked all search items yet all of them; its id, None if there is none."""
        entry = self._least_known(scored)
        if entry is None:
            return None
        self._complete.add(entry.candidate.id)
        found = self._evaluator.evaluate(entry.candidate, RECALIBRATION, self._search_items)
        return entry.candidate.id if found.state == COMPLETE else None

    def _refined(self, objective: Objective, scored: Sequence[Scored]) -> Objective:
        """By the answers that the search has asked for so far; the record may know others, which came later."""
        items = objective.population.search
        answers = {}
        for entry in scored:
            if entry.assessment is not None:
                asked = entry.assessment.estimated[objective.name].evidence.scored_items
                of = items if entry.candidate.id in self._complete else asked
                answers[entry.candidate.id] = self._evaluator.answers(entry.candidate, objective.name, of)
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
