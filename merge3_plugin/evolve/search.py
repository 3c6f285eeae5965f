"""The search itself: ask, evaluate, tell, until the budget is spent."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from merge3_plugin.domain import FloatArray
from merge3_plugin.estimate.paired import PairedDifference
from merge3_plugin.evolve.evaluate import Candidate
from merge3_plugin.evolve.objectives import Assessment
from merge3_plugin.evolve.optimizers import Optimizer, Result, Trial
from merge3_plugin.evolve.store import RunStore


@dataclass(frozen=True, eq=False)
class Scored:
    """A candidate with what the search thinks of it; ``assessment`` is None when its evaluation failed."""

    candidate: Candidate
    vector: FloatArray
    assessment: Assessment | None


@dataclass(frozen=True, eq=False)
class Improvement:
    """A new best after ``number`` candidates, and its paired differences; None where there is nothing to compare."""

    number: int
    best: Scored
    against_previous: PairedDifference | None
    against_uniform: PairedDifference | None


@dataclass(frozen=True, eq=False)
class SearchResult:
    """Every candidate of the search in the order of scoring, the centre of the final distribution, why it ended."""

    scored: tuple[Scored, ...]
    mean: FloatArray | None
    reason: str

    def ranked(self) -> list[Scored]:
        """The distinct candidates that did not fail, best first; of equals, the earlier first."""
        return ranked(self.scored)


def ranked(scored: Sequence[Scored]) -> list[Scored]:
    """The distinct candidates that did not fail, best first; of equals, the earlier first."""
    seen: dict[str, Scored] = {}
    for entry in scored:
        if entry.assessment is not None:
            seen.setdefault(entry.candidate.id, entry)
    return sorted(seen.values(), key=_rank, reverse=True)


def _rank(entry: Scored) -> tuple[float, ...]:
    return (-math.inf,) if entry.assessment is None else entry.assessment.rank


class Search:
    """One run of an optimizer over vectors of genes.

    ``several``: whether the optimizer is told the value of each objective, or the fitness alone. ``score`` turns a
    vector into its Scored; ``refine`` may give all that were scored a better assessment whenever the
    optimizer has learned; ``improved`` hears of each new best (after how many candidates, it, the previous one),
    ``progress`` of every candidate; ``interrupted`` returns why to stop before the next candidate, or None.
    """

    def __init__(
        self,
        store: RunStore,
        optimizer: Optimizer,
        score: Callable[[FloatArray], Scored],
        *,
        max_fevals: int,
        max_failures: int,
        several: bool = False,
        interrupted: Callable[[], str | None],
        refine: Callable[[Sequence[Scored]], list[Scored] | None],
        improved: Callable[[int, Scored, Scored | None], None],
        progress: Callable[[Scored], None],
    ) -> None:
        self._store, self._optimizer, self._score = store, optimizer, score
        self._max_fevals, self._max_failures = max_fevals, max_failures
        self._several = several
        self._interrupted, self._refine = interrupted, refine
        self._improved, self._progress = improved, progress
        self._scored: list[Scored] = []
        self._best: Scored | None = None
        self._failures = 0

    def run(self, known: Sequence[FloatArray]) -> SearchResult:
        """Score the ``known`` vectors, then trials, until the budget, convergence, or an interruption."""
        reason = self._known(known) or self._trials()
        return SearchResult(tuple(self._scored), self._optimizer.mean(), reason)

    def _known(self, vectors: Sequence[FloatArray]) -> str | None:
        for vector in vectors:
            if (reason := self._why_stop()) is not None:
                return reason
            self._tell(None, self._scored_at(vector))
        return None

    def _trials(self) -> str:
        while (reason := self._why_stop()) is None:
            for trial in self._optimizer.ask(1):
                self._store.event(f"ask {trial.number}", {"vector": trial.vector.tolist(), "level": trial.level})
                if self._tell(trial, self._scored_at(trial.vector)):
                    self._take(self._refine(self._scored))
        return reason

    def _why_stop(self) -> str | None:
        if len(self._scored) >= self._max_fevals:
            return f"budget of {self._max_fevals} candidates spent"
        if self._failures >= self._max_failures:
            return f"{self._failures} candidates in a row failed"
        if stop := self._optimizer.stop():
            return "converged: " + ", ".join(f"{k} {v}" for k, v in sorted(stop.items()))
        return self._interrupted()

    def _tell(self, trial: Trial | None, entry: Scored) -> bool:
        assessment = entry.assessment
        if assessment is None:
            result = Result(None if trial is None else trial.number, entry.vector, None)
        else:
            result = Result(
                None if trial is None else trial.number,
                entry.vector,
                assessment.values if self._several else (assessment.fitness,),
                assessment.variances if self._several else (assessment.standard_error**2,),
                assessment.violation,
                assessment.tie_breaker,
            )
        learned = self._optimizer.tell([result])
        if trial is not None:
            self._store.event(f"tell {trial.number}", {"values": result.values, "learned": learned})
        return learned

    def _take(self, refined: list[Scored] | None) -> None:
        """Go on with better assessments; the best may be another then."""
        if refined is None:
            return
        self._scored = refined
        best = next(iter(ranked(refined)), None)
        if best is None or self._best is None:
            return
        previous = next(s for s in refined if s.candidate.id == self._best.candidate.id)
        if best.candidate.id != previous.candidate.id:
            self._improved(len(refined), best, previous)
        self._best = best

    def _scored_at(self, vector: FloatArray) -> Scored:
        entry = self._score(vector)
        self._scored.append(entry)
        self._failures = 0 if entry.assessment is not None else self._failures + 1
        if entry.assessment is not None and (self._best is None or _rank(entry) > _rank(self._best)):
            self._improved(len(self._scored), entry, self._best)
            self._best = entry
        self._progress(entry)
        return entry
